//! The triage stage: a generalist looks at every image and decides whether a specialist has to.
//!
//! Reads `prepared`; emits to `flagged`, `cleared` or `out-of-scope`. Triage may only raise attention: what it is
//! uncertain of is flagged, and a model without calibration clears nothing. A share of what it clears is drawn at
//! random and goes to the specialist all the same, so that the live miss rate can be measured.
//!
//! Deliberately absent: thresholds (they stand in the model's manifest) and pixels in anything that is emitted.

mod audit;
mod config;
mod decide;
mod served;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use duet_blob::BlobStore;
use duet_case::{
    Case, Decision, ModelRef, Priority, Probability, Score, Topic, Triage as Section, TriageRules,
};
use duet_inference::{
    DecisionRules, Look, MissingModel, Question, Registry, Served, ServedError, ServedLook,
    VisionLanguage,
};
use duet_stage::{Outcome, Reason, Setback, Stage, compute, fetch_rendition};
use duet_telemetry::metrics;
use futures::future::join_all;
use image::GrayImage;
use tracing::{info, warn};

use decide::{Verdict, decide};

pub use config::{Config, ConfigError};
pub use served::stand_by;

/// Why the stage cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TriageError {
    /// A value in `[triage]` cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The generalist is not there.
    #[error("triage.model: {0}")]
    Model(#[from] MissingModel),
    /// The served generalist cannot be asked.
    #[error(transparent)]
    Served(#[from] ServedError),
}

/// The stage.
pub struct Triage {
    config: Config,
    rules: DecisionRules,
    generalist: Generalist,
    blobs: BlobStore,
}

/// Who looks at every image. Clones share it.
#[derive(Clone)]
pub enum Generalist {
    /// In this process, on its compute pool.
    Embedded(Arc<dyn VisionLanguage>),
    /// On a server.
    Served(Arc<Served>),
}

impl Generalist {
    /// Who that is, as far as it is known before an answer.
    pub fn model(&self) -> ModelRef {
        match self {
            Self::Embedded(model) => model.model().clone(),
            Self::Served(served) => served.model(),
        }
    }

    fn rules(&self) -> &DecisionRules {
        match self {
            Self::Embedded(model) => model.rules(),
            Self::Served(served) => served.rules(),
        }
    }
}

impl Triage {
    /// The stage with the embedded generalist that the configuration names.
    ///
    /// # Errors
    ///
    /// Where the configuration cannot be, or the generalist is not in `models`: there is no other in its place.
    pub fn open(config: Config, models: &Registry, blobs: BlobStore) -> Result<Self, TriageError> {
        let model = models.vision_language(&config.model)?;
        let stage = Self::new(config, Generalist::Embedded(model), blobs)?;
        stage.tell();
        Ok(stage)
    }

    /// The stage with `generalist`, whatever the configuration calls it.
    ///
    /// # Errors
    ///
    /// Where the configuration cannot be, or gives a threshold to a model that may clear nothing.
    pub fn new(
        config: Config,
        generalist: Generalist,
        blobs: BlobStore,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let rules = config.rules(&generalist.model().name, generalist.rules())?;
        // From nought, so that the first is an increase.
        for (decision, priority) in [
            (Decision::Flagged, Priority::Routine),
            (Decision::Flagged, Priority::Urgent),
            (Decision::Flagged, Priority::Emergency),
            (Decision::Cleared, Priority::Routine),
            (Decision::OutOfScope, Priority::Routine),
        ] {
            metrics().triage.with_label_values(&[decision.name(), priority.name()]).inc_by(0);
        }
        Ok(Self { config, rules, generalist, blobs })
    }

    /// Says in the log what may be cleared, so that nobody waits for it of a model that may clear nothing.
    pub fn tell(&self) {
        let (model, clearing) = (self.generalist.model().name, self.rules.clearing());
        match (self.rules.clear_below, self.rules.shortfall) {
            (None, Some(_)) => warn!(model, "the generalist {clearing}"),
            _ => info!(model, "the generalist {clearing}"),
        }
    }

    async fn triage(&self, mut case: Case) -> Result<(Case, Topic), Setback> {
        let (_, png) = fetch_rendition(&self.blobs, &case).await?;
        let section = match &self.generalist {
            Generalist::Embedded(model) => {
                let own = Arc::clone(model);
                let look =
                    compute::run(move || look(&*own, &png)).await?.map_err(Setback::Reject)?;
                self.section(&case, &look, &self.rules, None, model.model().clone())
            }
            Generalist::Served(served) => self.ask(&case, served, png).await?,
        };
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

    async fn ask(&self, case: &Case, served: &Arc<Served>, png: Bytes) -> Result<Section, Setback> {
        let own = Arc::clone(served);
        let question = compute::run(move || {
            let picture = picture(&png)?;
            own.question(&picture).map_err(|error| Reason::of("inference", &error))
        });
        let question = question.await?.map_err(Setback::Reject)?;
        let start = Instant::now();
        let answered = served.ask(question).await;
        let retried = match &answered {
            Ok(answer) => answer.retried,
            Err(failure) => failure.retried,
        };
        if let Some(kind) = retried {
            metrics().backend_failures.with_label_values(&[kind.name(), "retried"]).inc();
        }
        Ok(match answered {
            Ok(answer) => {
                took(&answer.model.name, start);
                let rules = served::rules_for(&answer, &self.rules);
                let ServedLook { look, is_measured, model, .. } = answer;
                self.section(case, &look, &rules, Some(is_measured), model)
            }
            Err(failure) => served::unanswered(case, served, &failure),
        })
    }

    /// `measured` is for a served model alone: whether the probability of abnormal was computed; all else it wrote.
    fn section(
        &self,
        case: &Case,
        look: &Look,
        rules: &DecisionRules,
        measured: Option<bool>,
        model: ModelRef,
    ) -> Section {
        let Verdict { decision, priority, mut reasons, kind, kind_meaning, fitness, abnormal } =
            decide(look, rules, measured == Some(false));
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
                stated: measured
                    .is_some_and(|measured| !measured || asked.question != Question::Abnormal),
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
            clear_below: rules.clear_below,
            rules: told(rules, self.config.audit_rate),
            audit,
            scores: scores.collect(),
            model,
        }
    }
}

/// What the Case says of the thresholds.
fn told(rules: &DecisionRules, audit_rate: f64) -> Option<TriageRules> {
    let promise = rules.miss_rate.filter(|_| rules.clear_below.is_some());
    Some(TriageRules {
        scope_min: rules.scope_min,
        fitness_min: rules.fitness_min,
        // Checked when the stage was made.
        audit_rate: Probability::new(audit_rate).ok()?,
        miss_bound: promise.map(|own| own.bound),
        miss_confidence: promise.map(|own| own.confidence),
    })
}

impl Stage for Triage {
    const NAME: &'static str = "triage";
    const INPUTS: &'static [Topic] = &[Topic::Prepared];
    type In = Case;
    type Out = Case;

    fn models(&self, case: &Case) -> Vec<ModelRef> {
        case.triage.iter().map(|own| own.model.clone()).collect()
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
    let picture = picture(png)?;
    let start = Instant::now();
    let look = model.look(&picture).map_err(|error| Reason::of("inference", &error))?;
    took(&model.model().name, start);
    Ok(look)
}

fn picture(png: &[u8]) -> Result<GrayImage, Reason> {
    duet_imaging::decode_rendition(png).map_err(|error| Reason::of("rendition_unreadable", &error))
}

fn took(model: &str, start: Instant) {
    metrics().model_seconds.with_label_values(&[model]).observe(start.elapsed().as_secs_f64());
}

#[cfg(test)]
mod tests;
