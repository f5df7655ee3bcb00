//! What triage decided and what the specialists found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BlobRef, ModelRef, Probability};

/// What triage decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// A specialist is to look.
    Flagged,
    /// Nothing abnormal seen, and certain enough of it.
    Cleared,
    /// Not an image that Duet reads.
    OutOfScope,
}

impl Decision {
    /// As it stands in JSON and in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flagged => "flagged",
            Self::Cleared => "cleared",
            Self::OutOfScope => "out_of_scope",
        }
    }
}

/// How soon a person should look, least urgent first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// In turn.
    Routine,
    /// Before the routine ones.
    Urgent,
    /// Now.
    Emergency,
}

impl Priority {
    /// As it stands in JSON and in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routine => "routine",
            Self::Urgent => "urgent",
            Self::Emergency => "emergency",
        }
    }
}

/// One answer to one question, with its probability among that question's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Score {
    /// The question: `kind`, `fitness`, `abnormal` or `urgency`.
    pub question: String,
    /// The answer's id.
    pub answer: String,
    /// Its probability among the question's answers.
    pub probability: Probability,
    /// A served model wrote it; else it was computed from a model's outputs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stated: bool,
}

/// The thresholds that triage decided by, beside `clear_below`, and how it drew for audit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TriageRules {
    /// Where the kinds in scope have together less than this, the image is out of scope.
    pub scope_min: Probability,
    /// Where `fit` has less than this, the image is not fit to read.
    pub fitness_min: Probability,
    /// Share of cleared images that a specialist sees all the same.
    pub audit_rate: Probability,
    /// The promise behind `clear_below`: at most this share of abnormal images is cleared; absent where none holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss_bound: Option<Probability>,
    /// With this confidence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss_confidence: Option<Probability>,
}

/// What the generalist saw and what was decided of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Triage {
    /// Flagged, cleared or out of scope.
    pub decision: Decision,
    /// How soon a person should look.
    pub priority: Priority,
    /// Why, in words, the weightiest first; never empty.
    pub reasons: Vec<String>,
    /// What the image is: the likeliest answer's id, for instance `chest-radiograph-frontal`.
    pub kind: String,
    /// The same in words.
    pub kind_meaning: String,
    /// Whether it is fit to read: `fit`, or the likeliest defect.
    pub fitness: String,
    /// Probability that it looks abnormal.
    pub abnormal: Probability,
    /// Below this probability of abnormal an image may be cleared; absent where the model may clear nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clear_below: Option<Probability>,
    /// The other thresholds; absent in Cases of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<TriageRules>,
    /// Cleared, and drawn at random for a specialist to look at all the same.
    pub audit: bool,
    /// Every answer's probability.
    pub scores: Vec<Score>,
    /// Who said so.
    pub model: ModelRef,
}

/// A coded concept, as DICOM's Code Sequence Macro has it (PS3.3 section 8.8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Code {
    /// Coding scheme designator, for instance `SCT`.
    pub scheme: String,
    /// Code value.
    pub value: String,
    /// Code meaning.
    pub meaning: String,
}

/// A box in pixels: left, top, width, height.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PixelBox {
    /// Left edge.
    pub x: f64,
    /// Top edge.
    pub y: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl PixelBox {
    /// The same box in another picture's pixels.
    #[must_use]
    pub fn scaled(self, scale: [f64; 2]) -> Self {
        Self {
            x: self.x * scale[0],
            y: self.y * scale[1],
            width: self.width * scale[0],
            height: self.height * scale[1],
        }
    }
}

/// Where in the picture a finding's evidence lies, from its class-activation map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Region {
    /// The box around it, in rendition pixels.
    pub rendition_box: PixelBox,
    /// The same box in the original's pixels.
    pub original_box: PixelBox,
    /// Its outlines in rendition pixels, each a closed ring of `[x, y]`.
    pub rendition_contours: Vec<Vec<[f64; 2]>>,
    /// The same outlines in the original's pixels.
    pub original_contours: Vec<Vec<[f64; 2]>>,
    /// The heat map as an 8-bit grey PNG of the rendition's size.
    pub heat_map: BlobRef,
}

/// One label's probability, above its operating point or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// Calibrated probability.
    pub probability: Probability,
    /// At and above this probability it is a finding.
    pub threshold: Probability,
    /// Who said so: the model's name.
    pub model: String,
}

/// One finding above its operating point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The label, for instance `Cardiomegaly`.
    pub label: String,
    /// The coded concept.
    pub code: Code,
    /// Calibrated probability.
    pub probability: Probability,
    /// The operating point it reached.
    pub threshold: Probability,
    /// Sensitivity at that operating point, as measured for the model's card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<Probability>,
    /// Specificity at that operating point, as measured for the model's card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specificity: Option<Probability>,
    /// Where the evidence lies; absent where the model has no map or the map is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Who said so.
    pub model: ModelRef,
}

/// What the specialists did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Assessment {
    /// The models that looked; empty where none accepts such an image.
    pub models: Vec<ModelRef>,
    /// Every label that was looked for.
    pub scores: Vec<LabelScore>,
    /// Why nothing was looked for, where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Names of those of the models that nobody has calibrated: what they give as probabilities are scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uncalibrated: Vec<String>,
}
