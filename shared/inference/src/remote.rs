//! The served generalist: any OpenAI-compatible vision server (vLLM, Ollama, llama.cpp's) that answers by a JSON schema.
//!
//! One image is one request: the rendition, scaled down, as a data URI beside the same words for every image, and nothing
//! else of the Case. An answer counts only where it is whole and exactly of the schema; everything else is a
//! [`ServedFailure`] of a closed list of reasons, from which `triage` flags the image. What a server writes goes into no
//! message and no log: it may have read a name off the film.
//!
//! Deliberately absent: streaming, redirects and proxies (a picture goes to the one server that is configured), and a
//! threshold below which an image is cleared (it comes from a calibration of that very model, or there is none).

mod answer;
mod calibration;
mod config;
mod exchange;
mod failure;
mod logprobs;
mod probe;
mod request;

use std::{
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_case::{Digest, ModelRef};
use image::GrayImage;
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{DecisionRules, Look};

pub use calibration::{CalibrationError, ServedCalibration};
pub use config::{ApiKey, ApiKeyError, BackendConfig, BackendConfigError};
pub use exchange::ClientError;
pub use failure::{FailureKind, ServedFailure};
pub use probe::ProbeFault;
pub use request::PictureError;

use exchange::Exchange;

/// Before the second attempt, where the server does not say how long to wait.
const PAUSE: Duration = Duration::from_millis(250);

/// A name in a Case, a metric and a log line is at most so long.
const MAX_NAME: usize = 200;

/// A generalist on a server.
pub struct Served {
    config: BackendConfig,
    exchange: Exchange,
    rules: DecisionRules,
    /// The model that the rules were calibrated for.
    calibrated_for: Option<String>,
    slots: Semaphore,
    known: RwLock<Known>,
}

/// What the server has said of itself.
#[derive(Debug, Clone)]
struct Known {
    /// What to ask for.
    model: Option<String>,
    /// Of the weights, where the server states one.
    digest: Option<Digest>,
    /// Whether it takes a request for logprobs.
    logprobs: bool,
}

/// An answer that counts.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedLook {
    /// The answers; of each question those that were chosen, and for `abnormal` both.
    pub look: Look,
    /// Whether the probability of abnormal was computed from the model's outputs; else the model wrote it, as it wrote all others.
    pub is_measured: bool,
    /// Whether the rules' calibration is this model's.
    pub is_calibrated: bool,
    /// Who answered.
    pub model: ModelRef,
    /// Why there was a second attempt, where there was one.
    pub retried: Option<FailureKind>,
}

/// Why the served generalist cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum ServedError {
    /// A value in `[triage.backend]` cannot be.
    #[error(transparent)]
    Config(#[from] BackendConfigError),
    /// The calibration cannot be used.
    #[error("triage.backend.calibration_file: {0}")]
    Calibration(#[from] CalibrationError),
    /// There is no HTTP client.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl Served {
    /// A client of the server that the configuration names; nothing is asked of it yet. `None` where none is named.
    ///
    /// # Errors
    ///
    /// Where the configuration or the calibration cannot be used.
    pub fn open(config: &BackendConfig, key: Option<ApiKey>) -> Result<Option<Self>, ServedError> {
        let Some(endpoint) = config.endpoint()? else { return Ok(None) };
        let calibration =
            config.calibration_file.as_deref().map(ServedCalibration::read).transpose()?;
        let (calibrated_for, rules) = match calibration {
            Some(ServedCalibration { model, rules }) => (Some(model), rules),
            None => (None, answer::rules()),
        };
        let known = Known { model: config.model.clone(), digest: None, logprobs: true };
        Ok(Some(Self {
            exchange: Exchange::new(endpoint, key, config.deadline())?,
            rules,
            calibrated_for,
            slots: Semaphore::new(config.max_concurrent as usize),
            known: RwLock::new(known),
            config: config.clone(),
        }))
    }

    /// When its answers mean refused, flagged or cleared.
    pub fn rules(&self) -> &DecisionRules {
        &self.rules
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.exchange.endpoint.base()
    }

    /// How long a start may wait for it.
    pub fn start_wait(&self) -> Duration {
        Duration::from_millis(self.config.start_wait_ms)
    }

    /// Who answers, as far as it is known before an answer.
    pub fn model(&self) -> ModelRef {
        self.model_ref(None, None)
    }

    /// The request for one picture. It takes milliseconds: for the compute pool.
    ///
    /// # Errors
    ///
    /// Where the picture is empty or cannot be written as a JPEG.
    pub fn question(&self, picture: &GrayImage) -> Result<Bytes, PictureError> {
        let known = self.known();
        request::body(picture, &self.config, known.model.as_deref(), known.logprobs)
    }

    /// Asks, waiting for a free slot first; the deadline counts from then on, a second attempt included.
    ///
    /// # Errors
    ///
    /// Whatever is not an answer by the schema.
    pub async fn ask(&self, question: Bytes) -> Result<ServedLook, ServedFailure> {
        // It is never closed, so there is always a slot to wait for.
        let _slot = self.slots.acquire().await;
        let mut retried = None;
        let answered = timeout(self.config.deadline(), self.attempt(question, &mut retried)).await;
        let answered = answered.unwrap_or_else(|_| {
            let seconds = self.config.deadline().as_secs_f64();
            Err(ServedFailure::new(
                FailureKind::Timeout,
                format!("no whole answer within {seconds} s (triage.backend.deadline_ms)"),
            ))
        });
        match answered {
            Ok(mut look) => {
                look.retried = retried;
                Ok(look)
            }
            Err(mut failure) => {
                failure.retried = retried;
                Err(failure)
            }
        }
    }

    async fn attempt(
        &self,
        question: Bytes,
        retried: &mut Option<FailureKind>,
    ) -> Result<ServedLook, ServedFailure> {
        let start = Instant::now();
        let first = match self.exchange.chat(question.clone()).await {
            Err(failure) if failure.kind.may_pass() => failure,
            done => return self.read(&done?),
        };
        let pause = first.retry_after.unwrap_or(PAUSE);
        if start.elapsed() + pause >= self.config.deadline() {
            return Err(first);
        }
        sleep(pause).await;
        *retried = Some(first.kind);
        self.read(&self.exchange.chat(question).await?)
    }

    fn read(&self, body: &[u8]) -> Result<ServedLook, ServedFailure> {
        let answer::Answer { look, is_measured, model, fingerprint } = answer::read(body)?;
        let model = self.model_ref(model.as_deref(), fingerprint.as_deref());
        let is_calibrated = self.calibrated_for.as_ref().is_some_and(|own| *own == model.name);
        Ok(ServedLook { look, is_measured, is_calibrated, model, retried: None })
    }

    fn model_ref(&self, answered: Option<&str>, fingerprint: Option<&str>) -> ModelRef {
        let known = self.known();
        let stated = answered.map(ToOwned::to_owned).or(known.model);
        let name = stated.unwrap_or_else(|| "unnamed".to_owned());
        let version = fingerprint.unwrap_or("not stated by the server").to_owned();
        let sha256 = known.digest.unwrap_or_else(|| Digest::of(name.as_bytes()));
        ModelRef { name, version, sha256 }
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn learn(&self, known: Known) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }
}

/// A name as a server writes it, fit for a line of text; `None` for a blank one.
fn plain(name: &str) -> Option<String> {
    let name: String =
        name.trim().chars().filter(|letter| !letter.is_control()).take(MAX_NAME).collect();
    (!name.is_empty()).then_some(name)
}
