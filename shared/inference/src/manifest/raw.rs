//! `model.toml` as it is written: serde alone, unknown keys refused by name. What the values mean is checked by
//! [`super::Manifest`].

use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawManifest {
    #[serde(rename = "schema")]
    pub(super) _schema: i64,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) kind: RawKind,
    pub(super) title: String,
    pub(super) file: String,
    pub(super) sha256: String,
    pub(super) licence: String,
    pub(super) source: String,
    pub(super) input: Option<RawInput>,
    pub(super) outputs: RawOutputs,
    pub(super) accepts: Option<RawAccepts>,
    pub(super) calibration: Option<RawCalibration>,
    #[serde(default)]
    pub(super) labels: Vec<RawLabel>,
    pub(super) text: Option<RawText>,
    pub(super) decision: Option<RawDecision>,
    #[serde(default)]
    pub(super) questions: Vec<RawQuestion>,
    pub(super) encoder: Option<RawEncoder>,
    #[serde(default)]
    pub(super) pull: Vec<RawPull>,
}

/// What of a manifest there is of a model that runs on a server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServed {
    pub(super) model: String,
    pub(super) calibration: RawCalibration,
    pub(super) decision: RawDecision,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawKind {
    VisionLanguage,
    Classifier,
    Segmentation,
    Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInput {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) mean: f64,
    pub(super) std: f64,
    #[serde(default)]
    pub(super) fit: RawFit,
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawFit {
    #[default]
    Squash,
    Crop,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutputs {
    pub(super) logits: Option<String>,
    pub(super) cam: Option<String>,
    pub(super) embedding: Option<String>,
    pub(super) masks: Option<String>,
    pub(super) tokens: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAccepts {
    pub(super) kind: Vec<String>,
    pub(super) min_age_years: Option<u8>,
    pub(super) max_age_years: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCalibration {
    pub(super) set: String,
    pub(super) sha256: String,
    pub(super) n: u32,
    pub(super) date: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLabel {
    pub(super) name: String,
    #[serde(default)]
    pub(super) synonyms: Vec<String>,
    pub(super) code: RawCode,
    pub(super) platt: Option<RawPlatt>,
    pub(super) operating_point: Option<RawOperatingPoint>,
    pub(super) auroc: Option<RawMeasured>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCode {
    pub(super) scheme: String,
    pub(super) value: String,
    pub(super) meaning: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlatt {
    pub(super) scale: f64,
    pub(super) bias: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOperatingPoint {
    pub(super) threshold: f64,
    pub(super) source: Option<String>,
    pub(super) sensitivity: Option<f64>,
    pub(super) specificity: Option<f64>,
    pub(super) positives: Option<u32>,
    pub(super) negatives: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMeasured {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) n: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawText {
    pub(super) dim: usize,
    pub(super) tower: String,
    pub(super) model: Option<String>,
    pub(super) embeddings: String,
    pub(super) sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDecision {
    pub(super) scope_min: f64,
    pub(super) fitness_min: f64,
    pub(super) clear_below: Option<f64>,
    pub(super) clear_kinds: Option<Vec<String>>,
    pub(super) miss_rate: Option<RawMissRate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMissRate {
    pub(super) bound: f64,
    pub(super) confidence: f64,
    pub(super) positives: u32,
    pub(super) measured: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawQuestion {
    pub(super) id: String,
    pub(super) scale: f64,
    #[serde(default)]
    pub(super) answers: Vec<RawAnswer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAnswer {
    pub(super) id: String,
    pub(super) meaning: String,
    pub(super) in_scope: Option<bool>,
    #[serde(default)]
    pub(super) bias: f64,
    pub(super) prompts: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEncoder {
    pub(super) dim: usize,
    pub(super) max_tokens: usize,
    pub(super) lower_case: bool,
    pub(super) vocabulary: String,
    pub(super) sha256: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPull {
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) url: Option<String>,
    pub(super) package: Option<RawPackage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPackage {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) wheel: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
    pub(super) path: String,
}
