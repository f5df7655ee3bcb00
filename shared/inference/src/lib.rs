//! Models as folders: manifests that are checked, graphs that are run, answers with their probabilities.
//!
//! Stands between the rendition and the stages that judge it: `triage` asks a [`VisionLanguage`] model, `specialist`
//! asks [`Classifier`]s and [`Segmentation`] models. [`Registry::load`] reads every folder of `models/`, and a manifest
//! whose digest, labels or shapes do not match its file fails start-up by name. A [`TextEncoder`] embeds new prompts for
//! a generalist; the services need none, since the answers' embeddings stand in the generalist's folder.
//!
//! A generalist may also run on a server of its own: [`Served`] asks it, and is the one thing here that waits for a network.
//!
//! Everything else is synchronous and takes milliseconds to hundreds of them, so callers run it on the compute pool.
//! One image is worked on by one thread; a batch by as many as the pool has.
//!
//! Deliberately absent: a fallback to another model, thresholds of its own (they stand in manifests), batches, any
//! name of tract outside the module `tract`, and of HTTP outside `remote`.

mod classifier;
mod folder;
mod generalist;
mod manifest;
mod network;
mod probe;
mod prompt;
mod registry;
mod remote;
mod segmenter;
mod text;
mod tract;
mod trial;
mod wordpiece;

use duet_case::{ModelRef, Probability};
use image::GrayImage;

pub use folder::{FolderError, PromptsError};
pub use generalist::DualEncoder;
pub use manifest::{
    Accepts, Answer, Calibration, ClassifierSpec, DecisionRules, Fit, InputSpec, Kind, Label,
    MANIFEST_FILE, MANIFEST_SCHEMA, Manifest, ManifestError, Measured, MissRate, OperatingPoint,
    Origin, Package, Platt, Pull, Question, QuestionSpec, SegmentationSpec, Shortfall,
    TextEncoderSpec, TextSpec, VisionLanguageSpec,
};
pub use network::InferenceError;
pub use probe::{Probe, ProbeOutput};
pub use prompt::{PromptScore, Prompts};
pub use registry::{
    Described, LoadError, MissingModel, ModelInfo, Registry, Verification, manifests, text_encoder,
    verify,
};
pub use remote::{
    ApiKey, ApiKeyError, BackendConfig, BackendConfigError, CalibrationError, ClientError,
    FailureKind, PictureError, ProbeFault, Served, ServedCalibration, ServedError, ServedFailure,
    ServedLook,
};
pub use segmenter::Mask;
pub use text::{TextEncoder, TextError};
pub use tract::{GraphError, GraphRunError};
pub use wordpiece::VocabularyError;

/// A generalist: answers questions about a picture.
pub trait VisionLanguage: Send + Sync {
    /// Who answers.
    fn model(&self) -> &ModelRef;

    /// When its answers mean refused, flagged or cleared.
    fn rules(&self) -> &DecisionRules;

    /// Looks at a picture and answers every question.
    ///
    /// # Errors
    ///
    /// Where the picture is empty or the model gives no finite numbers.
    fn look(&self, picture: &GrayImage) -> Result<Look, InferenceError>;
}

/// A specialist: gives each of its labels a probability and a map.
pub trait Classifier: Send + Sync {
    /// Who looks.
    fn model(&self) -> &ModelRef;

    /// Which images it takes.
    fn accepts(&self) -> &Accepts;

    /// What it looks for.
    fn labels(&self) -> &[Label];

    /// Whether its probabilities were fitted on images; else they are scores.
    fn calibrated(&self) -> bool;

    /// Looks for every label; the results are in the order of [`Classifier::labels`].
    ///
    /// # Errors
    ///
    /// Where the picture is empty or the model gives no finite numbers.
    fn classify(&self, picture: &GrayImage) -> Result<Classification, InferenceError>;
}

/// A specialist that outlines: gives each of its labels an area.
pub trait Segmentation: Send + Sync {
    /// Who draws.
    fn model(&self) -> &ModelRef;

    /// Which images it takes.
    fn accepts(&self) -> &Accepts;

    /// What it draws.
    fn labels(&self) -> &[Label];

    /// For each label, in the order of [`Segmentation::labels`], the log-odds of each pixel of the model's grid.
    ///
    /// # Errors
    ///
    /// Where the picture is empty or the model gives no finite numbers.
    fn segment(&self, picture: &GrayImage) -> Result<Vec<Mask>, InferenceError>;
}

/// A generalist's answers to every question that its manifest asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// In the manifest's order.
    pub questions: Vec<Answered>,
}

/// One question's answers with their probabilities, which sum to 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    /// Which question.
    pub question: Question,
    /// In the manifest's order; never empty.
    pub answers: Vec<AnswerScore>,
}

/// One answer's probability.
#[derive(Debug, Clone, PartialEq)]
pub struct AnswerScore {
    /// For instance `chest-radiograph-frontal`.
    pub id: String,
    /// The same in words.
    pub meaning: String,
    /// Whether Duet reads such an image; only ever true in [`Question::Kind`].
    pub in_scope: bool,
    /// Among the question's answers.
    pub probability: Probability,
}

impl Look {
    /// The answers to `question`; empty where the model is not asked it.
    pub fn answers(&self, question: Question) -> &[AnswerScore] {
        self.questions
            .iter()
            .find(|own| own.question == question)
            .map_or(&[], |own| own.answers.as_slice())
    }

    /// The likeliest answer to `question`.
    pub fn likeliest(&self, question: Question) -> Option<&AnswerScore> {
        self.answers(question)
            .iter()
            .max_by(|a, b| a.probability.value().total_cmp(&b.probability.value()))
    }

    /// The probability of one answer; 0 for an answer that the model does not offer.
    pub fn probability(&self, question: Question, answer: &str) -> Probability {
        self.answers(question)
            .iter()
            .find(|own| own.id == answer)
            .map_or(Probability::ZERO, |own| own.probability)
    }
}

/// A specialist's results, one for each of its labels and in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// In the order of [`Classifier::labels`].
    pub labels: Vec<LabelResult>,
}

/// What a specialist says of one label.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelResult {
    /// As the graph gives it.
    pub logit: f64,
    /// Calibrated, where the model is.
    pub probability: Probability,
    /// What of the logit comes from where.
    pub map: ActivationMap,
}

/// A part of a picture, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureArea {
    /// Pixels left of it.
    pub x: u32,
    /// Pixels above it.
    pub y: u32,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// A class-activation map: how much each cell of the picture adds to a label's logit. The cells divide what the model
/// saw of the picture evenly; row by row from the top left.
#[derive(Debug, Clone, PartialEq)]
pub struct ActivationMap {
    /// Cells across.
    pub width: u32,
    /// Cells down.
    pub height: u32,
    /// `width * height` numbers, all finite.
    pub values: Vec<f32>,
    /// What the model saw.
    pub area: PictureArea,
}
