//! The specialist stage: disease models look at the images that triage flagged.
//!
//! Reads `flagged`, emits to `assessed`. For each image every classifier runs whose `accepts` in its manifest matches
//! what triage saw and the patient's age; a label at or above its operating point is a finding, with a heat map, a box
//! and contours from its class-activation map. Where no model takes the image, the Case says so in words: nothing was
//! looked for, which is not the same as nothing found. Every segmentation model that takes the image and outlines the
//! heart and both lungs measures the cardiothoracic ratio ([`Thorax`]); where it fails, the findings stay.
//!
//! Deliberately absent: names of models, labels and thresholds (they stand in manifests), and any model that reads
//! what its manifest does not accept.

mod assess;
mod thorax;

use std::sync::Arc;

use duet_blob::BlobStore;
use duet_case::{Assessment, Case, Finding, ModelRef, Region, Rendition, Topic, Triage};
use duet_inference::{Accepts, Classifier, Registry};
use duet_stage::{Outcome, Reason, Setback, Stage, compute, fetch_rendition};
use duet_telemetry::metrics;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tracing::warn;

use assess::{Drawn, Found, assess};
pub use thorax::{CARDIOTHORACIC_RATIO, Thorax, USUAL_UP_TO};

/// `[specialist]` in the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Names of the specialists to use; empty is every one in the folder of models.
    pub models: Vec<String>,
}

/// Why the stage cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SpecialistError {
    /// A specialist that is named is not there.
    #[error(
        "specialist.models names {name:?}, but the specialists in models.dir are {known:?}: correct it, or leave it empty for all of them"
    )]
    Unknown {
        /// As configured.
        name: String,
        /// What is there.
        known: Vec<String>,
    },
    /// A specialist that is named can find nothing.
    #[error(
        "specialist.models names {name:?}, whose model.toml has no operating point: it would find nothing; say from which probability on each label is a finding (models/export/calibrate.py does it on labelled images)"
    )]
    NoOperatingPoint {
        /// As configured.
        name: String,
    },
    /// There is no classifier.
    #[error(
        "the specialists to use have no classifier with operating points: the specialist stage would look for nothing; add a folder of kind = \"classifier\", or name one in specialist.models"
    )]
    None,
}

/// The stage.
pub struct Specialist {
    classifiers: Vec<Arc<dyn Classifier>>,
    /// Those that can find nothing, since no label has an operating point.
    unset: Vec<Arc<dyn Classifier>>,
    thoraxes: Vec<Thorax>,
    blobs: BlobStore,
}

impl Specialist {
    /// The stage with the specialists of `models` that the configuration names.
    ///
    /// # Errors
    ///
    /// Where one that is named is not there, or there is no classifier at all.
    pub fn open(
        config: &Config,
        models: &Registry,
        blobs: BlobStore,
    ) -> Result<Self, SpecialistError> {
        let mut thoraxes = Vec::new();
        for model in models.segmenters() {
            let name = model.model().name.clone();
            match Thorax::of(model) {
                Some(thorax) => thoraxes.push(thorax),
                None => warn!(
                    model = name,
                    "outlines no heart with both lungs (SNOMED CT 80891009, 3341006, 44029006): nothing is measured with it"
                ),
            }
        }
        Self::new(config, models.classifiers(), thoraxes, blobs)
    }

    /// The stage with those specialists that the configuration names.
    ///
    /// # Errors
    ///
    /// Where one that is named is not there, or there is no classifier at all.
    pub fn new(
        config: &Config,
        mut classifiers: Vec<Arc<dyn Classifier>>,
        mut thoraxes: Vec<Thorax>,
        blobs: BlobStore,
    ) -> Result<Self, SpecialistError> {
        let names = classifiers.iter().map(|own| own.model());
        let names = names.chain(thoraxes.iter().map(Thorax::model));
        let known: Vec<String> = names.map(|own| own.name.clone()).collect();
        if let Some(name) = config.models.iter().find(|name| !known.contains(name)) {
            return Err(SpecialistError::Unknown { name: name.clone(), known });
        }
        if !config.models.is_empty() {
            classifiers.retain(|own| config.models.contains(&own.model().name));
            thoraxes.retain(|own| config.models.contains(&own.model().name));
        }
        let can_find = |own: &Arc<dyn Classifier>| {
            own.labels().iter().any(|label| label.operating_point.is_some())
        };
        let (classifiers, unset): (Vec<_>, Vec<_>) = classifiers.into_iter().partition(can_find);
        if let Some(named) = unset.iter().find(|own| config.models.contains(&own.model().name)) {
            return Err(SpecialistError::NoOperatingPoint { name: named.model().name.clone() });
        }
        for own in &unset {
            warn!(
                model = own.model().name,
                "this specialist has no operating point and looks at no image"
            );
        }
        if classifiers.is_empty() {
            return Err(SpecialistError::None);
        }
        // From nought, so that the first is an increase.
        for result in ["finding", "no_finding"] {
            metrics().audits.with_label_values(&[result]).inc_by(0);
        }
        Ok(Self { classifiers, unset, thoraxes, blobs })
    }

    async fn look(&self, mut case: Case) -> Result<Case, Setback> {
        let Some(triage) = case.triage.clone() else {
            let message = "the Case was not triaged: only triage writes into `flagged`";
            return Err(Setback::Reject(Reason::new("not_triaged", message)));
        };
        let age = case.source.patient.age_years;
        let takes = |accepts: &Accepts| accepts.takes(&triage.kind, age);
        let takers: Vec<_> =
            self.classifiers.iter().filter(|own| takes(own.accepts())).map(Arc::clone).collect();
        let measuring: Vec<_> =
            self.thoraxes.iter().filter(|own| takes(own.accepts())).cloned().collect();
        if takers.is_empty() {
            let unset = self.unset.iter().find(|own| own.accepts().takes(&triage.kind, age));
            let reason = Some(nobody(&triage, age, unset.map(|own| own.model().name.as_str())));
            case.assessment = Some(Assessment { reason, ..Assessment::default() });
            return Ok(case);
        }

        let (rendition, png) = fetch_rendition(&self.blobs, &case).await?;
        let (scale, source) = (rendition.scale, case.source.clone());
        let found = compute::run(move || assess(&takers, &measuring, &png, scale, &source));
        let found = found.await?.map_err(Setback::Reject)?;
        let Found { assessment, findings, measurements } = found;
        case.findings = Vec::with_capacity(findings.len());
        for (mut finding, drawn) in findings {
            if let Some(drawn) = drawn {
                finding.region = Some(self.keep(drawn, &rendition).await?);
            }
            case.findings.push(finding);
        }
        case.assessment = Some(assessment);
        case.measurements = measurements;
        count(&case.findings, &triage);
        Ok(case)
    }

    /// Puts the heat map into the store and gives the region in both pictures' pixels.
    async fn keep(&self, drawn: Drawn, rendition: &Rendition) -> Result<Region, Setback> {
        let heat_map = self.blobs.put(drawn.png.into(), "image/png").await?;
        let [sx, sy] = rendition.scale;
        let original = |ring: &Vec<[f64; 2]>| ring.iter().map(|[x, y]| [x * sx, y * sy]).collect();
        Ok(Region {
            rendition_box: drawn.bounds,
            original_box: drawn.bounds.scaled(rendition.scale),
            original_contours: drawn.contours.iter().map(original).collect(),
            rendition_contours: drawn.contours,
            heat_map,
        })
    }
}

impl Stage for Specialist {
    const NAME: &'static str = "specialist";
    const INPUTS: &'static [Topic] = &[Topic::Flagged];
    type In = Case;
    type Out = Case;

    fn models(&self, case: &Case) -> Vec<ModelRef> {
        let looked = case.assessment.iter().flat_map(|own| &own.models);
        looked.chain(case.measurements.iter().map(|own| &own.model)).cloned().collect()
    }

    async fn process(&self, batch: Vec<Case>) -> Vec<Outcome<Case>> {
        let looked = batch.into_iter().map(|case| async {
            match self.look(case).await {
                Ok(case) => Outcome::Emit(case, Topic::Assessed),
                Err(setback) => setback.into(),
            }
        });
        join_all(looked).await
    }
}

/// Why no specialist looked.
fn nobody(triage: &Triage, age: Option<u8>, unset: Option<&str>) -> String {
    let age = age.map_or("of unknown age".to_owned(), |years| format!("of {years} years"));
    let but =
        unset.map_or(String::new(), |name| format!(" but {name}, which has no operating point"));
    format!("no specialist in models.dir reads a {} of a patient {age}{but}", triage.kind_meaning)
}

fn count(findings: &[Finding], triage: &Triage) {
    for finding in findings {
        metrics().findings.with_label_values(&[&finding.model.name, &finding.label]).inc();
    }
    if triage.audit {
        let result = if findings.is_empty() { "no_finding" } else { "finding" };
        metrics().audits.with_label_values(&[result]).inc();
    }
}

#[cfg(test)]
mod tests;
