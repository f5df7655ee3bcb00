//! Drawn radiographs: enough like one that every stage has something to work on, and nobody's.

mod dicom;
mod draw;
mod files;

pub(crate) use dicom::{Writer, file};
pub use dicom::{DicomOptions, MARKS, Syntax, dicom, structured_report};
pub use draw::{chest, hand};
pub use files::{cmyk_jpeg, jpeg, png16, png8};
