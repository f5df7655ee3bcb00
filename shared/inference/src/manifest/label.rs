//! A specialist's labels: coded concepts, calibration and operating points.

use std::collections::HashSet;

use duet_case::{Code, Probability};

use super::{ManifestError, check::Check, raw::RawLabel};

/// More labels than any model of one picture has.
const MAX_LABELS: usize = 512;

/// One thing that a specialist looks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// For instance `Cardiomegaly`.
    pub name: String,
    /// Other names of the same.
    pub synonyms: Vec<String>,
    /// The coded concept.
    pub code: Code,
    /// From logit to calibrated probability; of a model without calibration the plain sigmoid.
    pub platt: Platt,
    /// From which probability on it is a finding; absent for an area, and where nobody has set one: such a label is
    /// never found, and counts as not looked for.
    pub operating_point: Option<OperatingPoint>,
    /// Area under the ROC curve on unseen patients.
    pub auroc: Option<Measured>,
}

/// Platt's scaling: `probability = sigmoid(scale * logit + bias)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Platt {
    /// Above 0, or a higher logit would mean less.
    pub scale: f64,
    /// Finite.
    pub bias: f64,
}

impl Platt {
    /// Leaves logits as they are.
    pub const IDENTITY: Self = Self { scale: 1.0, bias: 0.0 };

    /// The calibrated log-odds: above zero is likelier than not.
    pub fn log_odds(self, logit: f64) -> f64 {
        self.scale.mul_add(logit, self.bias)
    }

    /// The calibrated probability; `None` for a logit that is not a number.
    pub fn probability(self, logit: f64) -> Option<Probability> {
        Probability::from_logit(self.log_odds(logit))
    }
}

/// A threshold and how it was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatingPoint {
    /// At and above it a label is a finding.
    pub threshold: Probability,
    /// Whose threshold it is, where it is not from the calibration set.
    pub source: Option<String>,
    /// Share of those that have it and are found.
    pub sensitivity: Option<Probability>,
    /// Share of those that do not have it and are not found.
    pub specificity: Option<Probability>,
    /// Images that have it, in the measurement.
    pub positives: Option<u32>,
    /// Images that do not, in the measurement.
    pub negatives: Option<u32>,
}

/// A measured figure with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// The figure.
    pub value: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
    /// Images measured.
    pub n: u32,
}

/// What the labels are for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Classified,
    /// By a model that nobody has calibrated.
    Uncalibrated,
    Segmented,
}

pub(super) fn labels(
    check: &Check<'_>,
    raw: &[RawLabel],
    purpose: Use,
) -> Result<Vec<Label>, ManifestError> {
    if !(1..=MAX_LABELS).contains(&raw.len()) {
        let problem = format!(
            "has {} entries: give one [[labels]] for each output, 1 to {MAX_LABELS}",
            raw.len()
        );
        return Err(check.refuse("labels", problem));
    }
    let mut names = HashSet::new();
    raw.iter()
        .enumerate()
        .map(|(i, raw)| {
            let key = format!("labels[{i}] ({})", raw.name);
            if !names.insert(raw.name.to_lowercase()) {
                return Err(check.refuse(&key, "stands twice: each label needs a name of its own"));
            }
            label(check, &key, raw, purpose)
        })
        .collect()
}

fn label(
    check: &Check<'_>,
    key: &str,
    raw: &RawLabel,
    purpose: Use,
) -> Result<Label, ManifestError> {
    let at = |part: &str| format!("{key}.{part}");
    // Too few images to calibrate a label on: it has neither, and counts as not looked for.
    let left_out = raw.platt.is_none() && raw.operating_point.is_none();
    if purpose == Use::Uncalibrated && raw.platt.is_some() {
        let problem = "stands there without [calibration]: say what it was fitted on, or remove it";
        return Err(check.refuse(&at("platt"), problem));
    }
    let platt = match &raw.platt {
        Some(platt) => Platt {
            scale: check.between(&at("platt.scale"), platt.scale, 1e-6, 1e6)?,
            bias: check.between(&at("platt.bias"), platt.bias, -1e6, 1e6)?,
        },
        None if purpose == Use::Classified && !left_out => {
            let problem = "is missing: without it a logit is no probability; fit it, or write { scale = 1.0, bias = 0.0 } to say that the logits are calibrated";
            return Err(check.refuse(&at("platt"), problem));
        }
        None => Platt::IDENTITY,
    };
    let operating_point = match &raw.operating_point {
        Some(point) => Some(OperatingPoint {
            threshold: check.probability(&at("operating_point.threshold"), point.threshold)?,
            source: source(check, &at("operating_point.source"), point.source.as_ref(), purpose)?,
            sensitivity: check
                .maybe_probability(&at("operating_point.sensitivity"), point.sensitivity)?,
            specificity: check
                .maybe_probability(&at("operating_point.specificity"), point.specificity)?,
            positives: point.positives,
            negatives: point.negatives,
        }),
        None if purpose == Use::Classified && !left_out => {
            let problem = "is missing: say from which probability on it is a finding";
            return Err(check.refuse(&at("operating_point"), problem));
        }
        None => None,
    };
    let auroc = match &raw.auroc {
        Some(own) => Some(Measured {
            value: check.between(&at("auroc.value"), own.value, 0.0, 1.0)?,
            low: check.between(&at("auroc.low"), own.low, 0.0, 1.0)?,
            high: check.between(&at("auroc.high"), own.high, 0.0, 1.0)?,
            n: own.n,
        }),
        None => None,
    };
    Ok(Label {
        name: check.text(&at("name"), &raw.name)?,
        synonyms: raw.synonyms.clone(),
        code: Code {
            scheme: check.text(&at("code.scheme"), &raw.code.scheme)?,
            value: check.text(&at("code.value"), &raw.code.value)?,
            meaning: check.text(&at("code.meaning"), &raw.code.meaning)?,
        },
        platt,
        operating_point,
        auroc,
    })
}

/// A threshold comes from the calibration set, or says where else it is from.
fn source(
    check: &Check<'_>,
    key: &str,
    source: Option<&String>,
    purpose: Use,
) -> Result<Option<String>, ManifestError> {
    match source {
        Some(own) => Ok(Some(check.text(key, own)?)),
        None if purpose == Use::Uncalibrated => {
            let problem = "is missing: without [calibration] say whose threshold it is, or remove operating_point, so that the label is never found";
            Err(check.refuse(key, problem))
        }
        None => Ok(None),
    }
}
