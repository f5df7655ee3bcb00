//! The triage stage: a generalist looks at every image and decides whether a specialist has to.
//!
//! Reads `prepared`; emits to `flagged`, `cleared` or `out-of-scope`. Triage may only raise attention: what it is
//! uncertain of is flagged, and a model without calibration clears nothing. A share of what it clears is drawn at
//! random and goes to the specialist all the same, so that the live miss rate can be measured.
//!
//! Deliberately absent: thresholds (they stand in the model's manifest) and pixels in anything that is emitted.

mod audit;
mod decide;

use std::{sync::Arc, time::Instant};

use duet_blob::BlobStore;
use duet_case::{Case, Decision, ModelRef, Probability, Score, Topic, Triage as Section};
use duet_inference::{DecisionRules, Look, MissingModel, Registry, VisionLanguage};
use duet_stage::{Outcome, Reason, Setback, Stage, compute, fetch_rendition};
use duet_telemetry::metrics;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tracing::warn;

use decide::{Verdict, decide};

/// `[triage]` in the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the generalist among the models.
    pub model: String,
    /// Share of cleared images that a specialist looks at all the same, 0 to 1.
    pub audit_rate: f64,
    /// Another seed draws others for audit; the same one draws the same, so that a replay decides alike.
    pub audit_seed: u64,
    /// Instead of the manifest's: where the kinds in scope have together less, an image is out of scope.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope_min: Option<f64>,
    /// Instead of the manifest's: where `fit` has less, an image is not fit to read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fitness_min: Option<f64>,
    /// Instead of the manifest's: where `abnormal` has less, an image may be cleared. 0 clears nothing. A threshold
    /// above the manifest's gives up the promise that was measured for it, and a warning says so at start-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_below: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model: "generalist".to_owned(),
            audit_rate: 0.05,
            audit_seed: 0,
            scope_min: None,
            fitness_min: None,
            clear_below: None,
        }
    }
}

/// A value in `[triage]` that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("triage.{key} is {value}: it must be a number from 0 to 1")]
pub struct ConfigError {
    key: &'static str,
    value: f64,
}

/// Why the stage cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TriageError {
    /// A value in `[triage]` cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The generalist is not there.
    #[error("triage.model: {0}")]
    Model(#[from] MissingModel),
}

impl Config {
    /// # Errors
    ///
    /// Names the first key whose value cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.overrides()?;
        share("audit_rate", self.audit_rate)?;
        Ok(())
    }

    fn overrides(&self) -> Result<[Option<Probability>; 3], ConfigError> {
        let maybe = |key, value: Option<f64>| value.map(|value| share(key, value)).transpose();
        Ok([
            maybe("scope_min", self.scope_min)?,
            maybe("fitness_min", self.fitness_min)?,
            maybe("clear_below", self.clear_below)?,
        ])
    }

    /// The model's rules with what the configuration says instead.
    fn rules(&self, model: &DecisionRules) -> Result<DecisionRules, ConfigError> {
        let [scope_min, fitness_min, clear_below] = self.overrides()?;
        let mut rules = model.clone();
        rules.scope_min = scope_min.unwrap_or(rules.scope_min);
        rules.fitness_min = fitness_min.unwrap_or(rules.fitness_min);
        if let Some(own) = clear_below {
            let calibrated = model.clear_below.map_or(0.0, Probability::value);
            if own.value() > calibrated {
                // What was promised of the manifest's threshold does not hold for a higher one.
                rules.miss_rate = None;
                warn!(
                    clear_below = own.value(),
                    calibrated,
                    "triage.clear_below is above the model's calibrated threshold: no miss rate was measured for it"
                );
            }
            rules.clear_below = Some(own);
        }
        Ok(rules)
    }
}

fn share(key: &'static str, value: f64) -> Result<Probability, ConfigError> {
    Probability::new(value).map_err(|_| ConfigError { key, value })
}

/// The stage.
pub struct Triage {
    config: Config,
    rules: DecisionRules,
    model: Arc<dyn VisionLanguage>,
    blobs: BlobStore,
}

impl Triage {
    /// The stage with the generalist that the configuration names.
    ///
    /// # Errors
    ///
    /// Where the configuration cannot be, or the generalist is not in `models`: there is no other in its place.
    pub fn open(config: Config, models: &Registry, blobs: BlobStore) -> Result<Self, TriageError> {
        let model = models.vision_language(&config.model)?;
        Ok(Self::new(config, model, blobs)?)
    }

    /// The stage with `model`, whatever the configuration calls it.
    ///
    /// # Errors
    ///
    /// Where the configuration cannot be.
    pub fn new(
        config: Config,
        model: Arc<dyn VisionLanguage>,
        blobs: BlobStore,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let rules = config.rules(model.rules())?;
        Ok(Self { config, rules, model, blobs })
    }

    async fn triage(&self, mut case: Case) -> Result<(Case, Topic), Setback> {
        let (_, png) = fetch_rendition(&self.blobs, &case).await?;
        let model = Arc::clone(&self.model);
        let look = compute::run(move || look(&*model, &png)).await?.map_err(Setback::Reject)?;
        let section = self.section(&case, &look);
        let topic = match section.decision {
            Decision::OutOfScope => Topic::OutOfScope,
            Decision::Cleared if !section.audit => Topic::Cleared,
            Decision::Cleared | Decision::Flagged => Topic::Flagged,
        };
        metrics()
            .triage
            .with_label_values(&[section.decision.name(), section.priority.name()])
            .inc();
        case.triage = Some(section);
        Ok((case, topic))
    }

    fn section(&self, case: &Case, look: &Look) -> Section {
        let Verdict { decision, priority, mut reasons, kind, kind_meaning, fitness, abnormal } =
            decide(look, &self.rules);
        let audit = decision == Decision::Cleared
            && audit::drawn(self.config.audit_seed, &case.id, self.config.audit_rate);
        if audit {
            let rate = decide::percent(self.config.audit_rate);
            reasons.push(format!(
                "drawn for audit, as {rate} of cleared images are: a specialist looks all the same"
            ));
        }
        let scores = look.questions.iter().flat_map(|asked| {
            asked.answers.iter().map(|answer| Score {
                question: asked.question.name().to_owned(),
                answer: answer.id.clone(),
                probability: answer.probability,
            })
        });
        Section {
            decision,
            priority,
            reasons,
            kind,
            kind_meaning,
            fitness,
            abnormal,
            clear_below: self.rules.clear_below,
            audit,
            scores: scores.collect(),
            model: self.model.model().clone(),
        }
    }
}

impl Stage for Triage {
    const NAME: &'static str = "triage";
    const INPUTS: &'static [Topic] = &[Topic::Prepared];
    type In = Case;
    type Out = Case;

    fn models(&self, _case: &Case) -> Vec<ModelRef> {
        vec![self.model.model().clone()]
    }

    async fn process(&self, batch: Vec<Case>) -> Vec<Outcome<Case>> {
        let triaged = batch.into_iter().map(|case| async {
            match self.triage(case).await {
                Ok((case, topic)) => Outcome::Emit(case, topic),
                Err(setback) => setback.into(),
            }
        });
        join_all(triaged).await
    }
}

/// Decodes the rendition and looks at it; on the compute pool.
fn look(model: &dyn VisionLanguage, png: &[u8]) -> Result<Look, Reason> {
    let picture = duet_imaging::decode_rendition(png)
        .map_err(|error| Reason::of("rendition_unreadable", &error))?;
    let start = Instant::now();
    let look = model.look(&picture).map_err(|error| Reason::of("inference", &error))?;
    metrics()
        .model_seconds
        .with_label_values(&[&model.model().name])
        .observe(start.elapsed().as_secs_f64());
    Ok(look)
}

#[cfg(test)]
mod tests;
