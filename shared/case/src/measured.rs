//! What a model measured in the picture: evidence that a person can check against the lines.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Code, ModelRef};

/// One measurement. It is never a finding by itself: no operating point was measured for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Measurement {
    /// What was measured, for instance `Cardiothoracic ratio`.
    pub name: String,
    /// The coded concept; a scheme that begins with `99` is a private one (DICOM PS3.16 section 8).
    pub code: Code,
    /// The value; absent where the outlines are not plausible, and then `reason` says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The value's unit, as a UCUM code.
    pub unit: Code,
    /// Up to this value it counts as usual, under the conditions that `cautions` do not take back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usual_up_to: Option<f64>,
    /// The lines that the value follows from; none where there is no value.
    #[serde(default)]
    pub lines: Vec<MeasuredLine>,
    /// The areas that the lines follow from.
    #[serde(default)]
    pub areas: Vec<MeasuredArea>,
    /// Why there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What of this image makes the value mean less.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cautions: Vec<String>,
    /// Who outlined the areas.
    pub model: ModelRef,
}

impl Measurement {
    /// Whether there is a value and it is above what is usual.
    pub fn is_over(&self) -> bool {
        matches!((self.value, self.usual_up_to), (Some(value), Some(most)) if value > most)
    }
}

/// A line that was measured, from end to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredLine {
    /// What it spans, for instance `Heart`.
    pub name: String,
    /// Its ends `[x, y]` in rendition pixels.
    pub rendition: [[f64; 2]; 2],
    /// Its ends in the original's pixels.
    pub original: [[f64; 2]; 2],
}

/// An area that a model outlined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredArea {
    /// What it is, for instance `Left lung`; left and right are the patient's.
    pub label: String,
    /// The coded concept.
    pub code: Code,
    /// Its share of the picture, from 0 to 1.
    pub share: f64,
    /// Its outlines in rendition pixels, each a closed ring of `[x, y]`.
    pub rendition_contours: Vec<Vec<[f64; 2]>>,
    /// The same outlines in the original's pixels.
    pub original_contours: Vec<Vec<[f64; 2]>>,
}
