//! `model.toml`: what a model is, checked value by value before anything is loaded.

mod check;
mod clearing;
mod encoder;
mod label;
mod pull;
mod question;
mod raw;

use std::path::{Path, PathBuf};

use duet_case::{Digest, ModelRef};

use check::Check;
use raw::{RawAccepts, RawCalibration, RawFit, RawKind, RawManifest, RawServed};

pub use clearing::{MissRate, Shortfall};
pub use encoder::TextEncoderSpec;
pub use label::{Label, Measured, OperatingPoint, Platt};
pub use pull::{Origin, Package, Pull};
pub use question::{Answer, DecisionRules, Question, QuestionSpec, TextSpec};

/// The shape of `model.toml` that this version reads.
pub const MANIFEST_SCHEMA: i64 = 1;

/// The manifest's name in a model's folder.
pub const MANIFEST_FILE: &str = "model.toml";

/// Larger than any manifest: what is larger is something else.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 1 << 20;

/// Years that a patient of unknown age counts as.
const UNKNOWN_AGE_YEARS: u8 = 40;

/// Why a manifest is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file cannot be read.
    #[error("{file} cannot be read: {source}", file = file.display())]
    Unreadable {
        /// The manifest.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a key that is unknown, missing or of another type.
    #[error("{file}: {source}", file = file.display())]
    Syntax {
        /// The manifest.
        file: PathBuf,
        /// The line, the key and what is expected.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("{file}: {key} {problem}", file = file.display())]
    Value {
        /// The manifest.
        file: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with its value and what would be right.
        problem: String,
    },
}

/// A model, as its manifest describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// Name, and the folder's name.
    pub name: String,
    /// Version.
    pub version: String,
    /// What it is, in words.
    pub title: String,
    /// The weights' file within the folder.
    pub file: String,
    /// The weights' digest.
    pub sha256: Digest,
    /// Terms of use.
    pub licence: String,
    /// Where it is from.
    pub source: String,
    /// The images that calibrated it; absent: nobody has, and its probabilities are scores.
    pub calibration: Option<Calibration>,
    /// What it does, and what that kind needs.
    pub kind: Kind,
    /// Which of its files do not come with the folder, and where they are to be had.
    pub pull: Vec<Pull>,
}

/// What a model takes in that looks at pictures: the picture at `width` x `height`, each value `(grey / 255 - mean) / std`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InputSpec {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// In grey of 0 to 1.
    pub mean: f32,
    /// In grey of 0 to 1.
    pub std: f32,
    /// How a picture of another shape comes to that size.
    pub fit: Fit,
}

/// How a picture of another shape comes to a model's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// The whole picture, its sides scaled each for itself.
    #[default]
    Squash,
    /// Its middle in the input's proportions; what lies beyond is not seen.
    Crop,
}

/// The set of images that a model's probabilities and thresholds were fitted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calibration {
    /// In words.
    pub set: String,
    /// Digest of the sorted list of file names.
    pub sha256: Digest,
    /// How many images.
    pub n: u32,
    /// When.
    pub date: chrono::NaiveDate,
}

/// What a model does.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Answers questions about a picture.
    VisionLanguage(VisionLanguageSpec),
    /// Gives each label a probability and a map.
    Classifier(ClassifierSpec),
    /// Gives each label an area.
    Segmentation(SegmentationSpec),
    /// Turns a text into a vector of a generalist's space.
    Text(TextEncoderSpec),
}

impl Kind {
    /// As it stands in the manifest.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::VisionLanguage(_) => "vision-language",
            Self::Classifier(_) => "classifier",
            Self::Segmentation(_) => "segmentation",
            Self::Text(_) => "text",
        }
    }

    /// The files beside the weights, with their digests.
    fn files(&self) -> Vec<(&str, Digest)> {
        match self {
            Self::VisionLanguage(spec) => vec![(&spec.text.embeddings, spec.text.sha256)],
            Self::Text(spec) => vec![(&spec.vocabulary, spec.sha256)],
            Self::Classifier(_) | Self::Segmentation(_) => Vec::new(),
        }
    }

    /// What it takes in, where it looks at pictures.
    pub const fn input(&self) -> Option<InputSpec> {
        match self {
            Self::VisionLanguage(spec) => Some(spec.input),
            Self::Classifier(spec) => Some(spec.input),
            Self::Segmentation(spec) => Some(spec.input),
            Self::Text(_) => None,
        }
    }
}

/// What a `vision-language` model's manifest adds.
#[derive(Debug, Clone, PartialEq)]
pub struct VisionLanguageSpec {
    /// What goes in.
    pub input: InputSpec,
    /// Name of the output `[1, D]`.
    pub embedding: String,
    /// Where the answers' embeddings are.
    pub text: TextSpec,
    /// When to refuse, flag and clear.
    pub decision: DecisionRules,
    /// What is asked.
    pub questions: Vec<QuestionSpec>,
}

/// What a `classifier`'s manifest adds.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassifierSpec {
    /// What goes in.
    pub input: InputSpec,
    /// Name of the output `[1, L]`.
    pub logits: String,
    /// Name of the output `[1, L, h, w]`; the mean of a label's map and a constant make its logit.
    pub cam: String,
    /// Which images it takes.
    pub accepts: Accepts,
    /// The labels, in the outputs' order.
    pub labels: Vec<Label>,
}

/// What a `segmentation` model's manifest adds.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentationSpec {
    /// What goes in.
    pub input: InputSpec,
    /// Name of the output `[1, L, H, W]`, logits by pixel.
    pub masks: String,
    /// Which images it takes.
    pub accepts: Accepts,
    /// The areas, in the output's order.
    pub labels: Vec<Label>,
}

/// Which flagged images a specialist takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepts {
    /// Answer ids of the generalist's `kind` question.
    pub kinds: Vec<String>,
    /// From this age on, in years.
    pub min_age_years: Option<u8>,
    /// Up to this age, in years.
    pub max_age_years: Option<u8>,
}

impl Accepts {
    /// Whether it takes an image of this kind and a patient of this age; an unknown age counts as an adult's.
    pub fn takes(&self, kind: &str, age_years: Option<u8>) -> bool {
        let age = age_years.unwrap_or(UNKNOWN_AGE_YEARS);
        self.kinds.iter().any(|own| own == kind)
            && self.min_age_years.is_none_or(|min| age >= min)
            && self.max_age_years.is_none_or(|max| age <= max)
    }
}

impl Manifest {
    /// Reads and checks `file`.
    ///
    /// # Errors
    ///
    /// Names the file, the key and what would be right.
    pub fn read(file: &Path) -> Result<Self, ManifestError> {
        let unreadable = |source| ManifestError::Unreadable { file: file.to_owned(), source };
        let bytes = std::fs::metadata(file).map_err(unreadable)?.len();
        if bytes > MAX_MANIFEST_BYTES {
            let found = format!("has {bytes} bytes, more than a manifest of {MAX_MANIFEST_BYTES}");
            return Err(unreadable(std::io::Error::other(found)));
        }
        Self::parse(file, &std::fs::read_to_string(file).map_err(unreadable)?)
    }

    /// Checks `text`, which stands in `file`.
    ///
    /// # Errors
    ///
    /// Names the file, the key and what would be right.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ManifestError> {
        let syntax =
            |source| ManifestError::Syntax { file: file.to_owned(), source: Box::new(source) };
        let check = Check { file };
        // The schema first: a manifest of another one has other keys.
        let table: toml::Table = text.parse().map_err(syntax)?;
        if let Some(schema) = table.get("schema").and_then(toml::Value::as_integer)
            && schema != MANIFEST_SCHEMA
        {
            let problem = format!("is {schema}, this version of Duet reads {MANIFEST_SCHEMA}");
            return Err(check.refuse("schema", problem));
        }
        let raw: RawManifest = toml::from_str(text).map_err(syntax)?;
        Self::checked(&check, raw)
    }

    fn checked(check: &Check<'_>, raw: RawManifest) -> Result<Self, ManifestError> {
        check.name("name", &raw.name)?;
        let calibration =
            raw.calibration.as_ref().map(|own| calibration(check, own)).transpose()?;
        let kind = match raw.kind {
            RawKind::VisionLanguage => {
                Kind::VisionLanguage(vision_language(check, &raw, calibration.as_ref())?)
            }
            RawKind::Classifier => Kind::Classifier(classifier(check, &raw)?),
            RawKind::Segmentation => Kind::Segmentation(segmentation(check, &raw)?),
            RawKind::Text => Kind::Text(encoder::text(check, &raw)?),
        };
        let file = check.file_name("file", &raw.file)?;
        let sha256 = check.digest("sha256", &raw.sha256)?;
        let pull =
            pull::pull(check, &raw.pull, &[vec![(file.as_str(), sha256)], kind.files()].concat())?;
        Ok(Self {
            version: check.text("version", &raw.version)?,
            title: check.text("title", &raw.title)?,
            licence: check.text("licence", &raw.licence)?,
            source: check.text("source", &raw.source)?,
            name: raw.name,
            file,
            sha256,
            calibration,
            kind,
            pull,
        })
    }

    /// What a user has to know of a model that nobody has calibrated; nothing where somebody has.
    pub fn caveat(&self) -> Option<String> {
        match &self.kind {
            Kind::Classifier(spec) if self.calibration.is_none() => {
                let set = spec.labels.iter().filter(|own| own.operating_point.is_some()).count();
                Some(match set {
                    0 => "not calibrated and without operating points: it finds nothing yet, and no image goes to it".to_owned(),
                    _ => format!(
                        "not calibrated: its probabilities are scores; {set} of {} labels have an operating point",
                        spec.labels.len()
                    ),
                })
            }
            Kind::VisionLanguage(spec) if self.calibration.is_none() => {
                let clears = spec.decision.clear_below.is_some();
                Some(format!(
                    "not calibrated: its probabilities are scores{}",
                    if clears { "" } else { "; it clears nothing" }
                ))
            }
            _ => None,
        }
    }

    /// How a Case names this model.
    pub fn model_ref(&self) -> ModelRef {
        ModelRef { name: self.name.clone(), version: self.version.clone(), sha256: self.sha256 }
    }
}

fn input(check: &Check<'_>, kind: &str, raw: &RawManifest) -> Result<InputSpec, ManifestError> {
    let raw = check.needed(kind, "input", raw.input.as_ref())?;
    Ok(InputSpec {
        width: check.side("input.width", raw.width)?,
        height: check.side("input.height", raw.height)?,
        mean: check.between("input.mean", raw.mean, 0.0, 1.0)? as f32,
        std: check.between("input.std", raw.std, 1e-4, 10.0)? as f32,
        fit: match raw.fit {
            RawFit::Squash => Fit::Squash,
            RawFit::Crop => Fit::Crop,
        },
    })
}

fn calibration(check: &Check<'_>, raw: &RawCalibration) -> Result<Calibration, ManifestError> {
    Ok(Calibration {
        set: check.text("calibration.set", &raw.set)?,
        sha256: check.digest("calibration.sha256", &raw.sha256)?,
        n: raw.n,
        date: check.date("calibration.date", &raw.date)?,
    })
}

/// Of a model on a server: its name there, and its rules. `text` stands in `file`.
pub(crate) fn served_rules(
    file: &Path,
    text: &str,
    in_scope: &[&str],
) -> Result<(String, DecisionRules), ManifestError> {
    let check = Check { file };
    let raw: RawServed = toml::from_str(text).map_err(|source| ManifestError::Syntax {
        file: file.to_owned(),
        source: Box::new(source),
    })?;
    let calibration = calibration(&check, &raw.calibration)?;
    let rules = question::decision(&check, &raw.decision, Some(&calibration), in_scope)?;
    Ok((check.text("model", &raw.model)?, rules))
}

fn vision_language(
    check: &Check<'_>,
    raw: &RawManifest,
    calibration: Option<&Calibration>,
) -> Result<VisionLanguageSpec, ManifestError> {
    const KIND: &str = "vision-language";
    picture(check, KIND, raw)?;
    check.absent(KIND, "accepts", raw.accepts.is_none())?;
    check.absent(KIND, "labels", raw.labels.is_empty())?;
    check.absent(KIND, "outputs.logits", raw.outputs.logits.is_none())?;
    check.absent(KIND, "outputs.cam", raw.outputs.cam.is_none())?;
    check.absent(KIND, "outputs.masks", raw.outputs.masks.is_none())?;
    let questions = question::questions(check, &raw.questions)?;
    let decision = check.needed(KIND, "decision", raw.decision.as_ref())?;
    Ok(VisionLanguageSpec {
        input: input(check, KIND, raw)?,
        embedding: check.output(KIND, "outputs.embedding", raw.outputs.embedding.as_ref())?,
        text: question::text(check, check.needed(KIND, "text", raw.text.as_ref())?)?,
        decision: question::decision(
            check,
            decision,
            calibration,
            &question::in_scope(&questions),
        )?,
        questions,
    })
}

fn classifier(check: &Check<'_>, raw: &RawManifest) -> Result<ClassifierSpec, ManifestError> {
    const KIND: &str = "classifier";
    specialist(check, KIND, raw)?;
    check.absent(KIND, "outputs.masks", raw.outputs.masks.is_none())?;
    let purpose =
        if raw.calibration.is_some() { label::Use::Classified } else { label::Use::Uncalibrated };
    Ok(ClassifierSpec {
        input: input(check, KIND, raw)?,
        logits: check.output(KIND, "outputs.logits", raw.outputs.logits.as_ref())?,
        cam: check.output(KIND, "outputs.cam", raw.outputs.cam.as_ref())?,
        accepts: accepts(check, check.needed(KIND, "accepts", raw.accepts.as_ref())?)?,
        labels: label::labels(check, &raw.labels, purpose)?,
    })
}

fn segmentation(check: &Check<'_>, raw: &RawManifest) -> Result<SegmentationSpec, ManifestError> {
    const KIND: &str = "segmentation";
    specialist(check, KIND, raw)?;
    check.absent(KIND, "outputs.logits", raw.outputs.logits.is_none())?;
    check.absent(KIND, "outputs.cam", raw.outputs.cam.is_none())?;
    let input = input(check, KIND, raw)?;
    if input.fit == Fit::Crop {
        let problem = "is \"crop\", and areas have to cover the whole picture: write \"squash\"";
        return Err(check.refuse("input.fit", problem));
    }
    Ok(SegmentationSpec {
        input,
        masks: check.output(KIND, "outputs.masks", raw.outputs.masks.as_ref())?,
        accepts: accepts(check, check.needed(KIND, "accepts", raw.accepts.as_ref())?)?,
        labels: label::labels(check, &raw.labels, label::Use::Segmented)?,
    })
}

/// What only a text encoder has.
fn picture(check: &Check<'_>, kind: &str, raw: &RawManifest) -> Result<(), ManifestError> {
    check.absent(kind, "encoder", raw.encoder.is_none())?;
    check.absent(kind, "outputs.tokens", raw.outputs.tokens.is_none())
}

/// What only a generalist has, and what only a text encoder has.
fn specialist(check: &Check<'_>, kind: &str, raw: &RawManifest) -> Result<(), ManifestError> {
    picture(check, kind, raw)?;
    check.absent(kind, "text", raw.text.is_none())?;
    check.absent(kind, "decision", raw.decision.is_none())?;
    check.absent(kind, "questions", raw.questions.is_empty())?;
    check.absent(kind, "outputs.embedding", raw.outputs.embedding.is_none())
}

fn accepts(check: &Check<'_>, raw: &RawAccepts) -> Result<Accepts, ManifestError> {
    if raw.kind.is_empty() {
        return Err(check.refuse("accepts.kind", "is empty: no image would ever reach this model"));
    }
    for kind in &raw.kind {
        check.name("accepts.kind", kind)?;
    }
    if let (Some(min), Some(max)) = (raw.min_age_years, raw.max_age_years)
        && min > max
    {
        let problem =
            format!("is {min}, above accepts.max_age_years = {max}: nobody is of that age");
        return Err(check.refuse("accepts.min_age_years", problem));
    }
    Ok(Accepts {
        kinds: raw.kind.clone(),
        min_age_years: raw.min_age_years,
        max_age_years: raw.max_age_years,
    })
}

#[cfg(test)]
mod tests;
