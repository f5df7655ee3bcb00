//! What a file may ask for.

use serde::{Deserialize, Serialize};

use crate::PrepareError;

/// Caps on what one file may ask for, all checked against the file's headers before anything is allocated for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of the file, and of a deflated data set once inflated.
    pub max_bytes: u64,
    /// Pixels of one frame.
    pub max_pixels: u64,
    /// Frames that a file may declare; only the first is decoded.
    pub max_frames: u32,
    /// Sequences within sequences.
    pub max_nesting: u32,
    /// Data elements, items and fragments that are walked over.
    pub max_elements: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 128 << 20,
            max_pixels: 64_000_000,
            max_frames: 10_000,
            max_nesting: 16,
            max_elements: 1_000_000,
        }
    }
}

impl Limits {
    pub(crate) fn check_pixels(&self, width: u32, height: u32) -> Result<(), PrepareError> {
        if width == 0 || height == 0 {
            return Err(PrepareError::corrupt(format!(
                "the header declares a picture of {width} x {height} pixels"
            )));
        }
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_pixels {
            return Err(PrepareError::over_limit(format!(
                "the header declares {width} x {height} = {pixels} pixels; the limit is {} (limits.max_pixels)",
                self.max_pixels
            )));
        }
        Ok(())
    }
}
