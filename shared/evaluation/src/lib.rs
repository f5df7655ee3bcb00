//! Measuring models on labelled images: tables of truth, images by name, statistics with intervals.
//!
//! Stands beside the pipeline: the binary puts the very code that the services run between [`Images`] and
//! [`stats`]. Deliberately absent: models, decoding, and any figure without the number of images behind it.

pub mod concepts;
mod images;
pub mod measure;
pub mod ratio;
pub mod report;
pub mod stats;
mod table;
pub mod triage;

pub use images::{Images, ImagesError};
pub use table::{Row, Table, TableError, Truth, fold};
