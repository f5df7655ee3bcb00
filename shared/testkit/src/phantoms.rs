//! Drawn radiographs: enough like one that every stage has something to work on, and nobody's.

mod dicom;
mod draw;
mod files;

pub use dicom::{DicomOptions, MARKS, Syntax, dicom, structured_report};
pub(crate) use dicom::{Writer, file};
pub use draw::{chest, hand};
pub use files::{cmyk_jpeg, jpeg, png8, png16};
