//! `[triage]` in the configuration, and what it changes of a model's rules.

use duet_case::Probability;
use duet_inference::{BackendConfig, BackendConfigError, DecisionRules};
use serde::{Deserialize, Serialize};
use tracing::warn;

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
    /// above the manifest's gives up the promise that was measured for it, and a warning says so at start-up; a model
    /// without a calibration that is enough is given none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_below: Option<f64>,
    /// A generalist on a server of its own, in place of `model`.
    pub backend: BackendConfig,
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
            backend: BackendConfig::default(),
        }
    }
}

/// A value in `[triage]` that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a share.
    #[error("triage.{key} is {value}: it must be a number from 0 to 1")]
    Share {
        /// The key.
        key: &'static str,
        /// As configured.
        value: f64,
    },
    /// A threshold for a model that may clear nothing.
    #[error(
        "triage.clear_below is {value}, but {model} {why}: leave the key out, or give the model a calibration"
    )]
    Uncalibrated {
        /// As configured.
        value: f64,
        /// The model.
        model: String,
        /// What it lacks.
        why: String,
    },
    /// In `[triage.backend]`.
    #[error(transparent)]
    Backend(#[from] BackendConfigError),
}

impl Config {
    /// # Errors
    ///
    /// Names the first key whose value cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.overrides()?;
        share("audit_rate", self.audit_rate)?;
        Ok(self.backend.validate()?)
    }

    fn overrides(&self) -> Result<[Option<Probability>; 3], ConfigError> {
        let maybe = |key, value: Option<f64>| value.map(|value| share(key, value)).transpose();
        Ok([
            maybe("scope_min", self.scope_min)?,
            maybe("fitness_min", self.fitness_min)?,
            maybe("clear_below", self.clear_below)?,
        ])
    }

    /// The rules of `model` with what the configuration says instead.
    pub(crate) fn rules(
        &self,
        model: &str,
        own: &DecisionRules,
    ) -> Result<DecisionRules, ConfigError> {
        let [scope_min, fitness_min, clear_below] = self.overrides()?;
        let mut rules = own.clone();
        rules.scope_min = scope_min.unwrap_or(rules.scope_min);
        rules.fitness_min = fitness_min.unwrap_or(rules.fitness_min);
        let Some(below) = clear_below else { return Ok(rules) };
        match own.clear_below {
            None if below > Probability::ZERO => {
                let (model, why) = (model.to_owned(), own.clearing());
                return Err(ConfigError::Uncalibrated { value: below.value(), model, why });
            }
            Some(calibrated) if below > calibrated => {
                // What was promised of the manifest's threshold does not hold for a higher one.
                rules.miss_rate = None;
                warn!(
                    clear_below = below.value(),
                    calibrated = calibrated.value(),
                    "triage.clear_below is above the model's calibrated threshold: no miss rate was measured for it"
                );
            }
            _ => {}
        }
        rules.clear_below = Some(below);
        Ok(rules)
    }
}

fn share(key: &'static str, value: f64) -> Result<Probability, ConfigError> {
    Probability::new(value).map_err(|_| ConfigError::Share { key, value })
}
