//! What tests, and the demo without a network, feed to Duet: drawn radiographs as PNG, JPEG and DICOM files, and bad inputs with the end
//! that each has to come to.
//!
//! Deliberately absent: real films, and anybody's identity. What looks like an identifier is a mark to be searched for.

pub mod bad;
pub mod marked;
pub mod mutate;
pub mod phantoms;
pub mod variants;
