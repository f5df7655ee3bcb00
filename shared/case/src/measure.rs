//! Numbers that refuse what they are not.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A probability: finite, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

/// Why a number is not a probability.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a probability: it must be a number from 0 to 1")]
pub struct ProbabilityError(f64);

impl Probability {
    /// Zero.
    pub const ZERO: Self = Self(0.0);
    /// One.
    pub const ONE: Self = Self(1.0);

    /// Refuses anything that is not finite or not within 0 to 1.
    pub fn new(value: f64) -> Result<Self, ProbabilityError> {
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(ProbabilityError(value)) }
    }

    /// The logistic function of `logit`: a probability for every finite logit, `None` for one that is not a number.
    pub fn from_logit(logit: f64) -> Option<Self> {
        Self::new(1.0 / (1.0 + (-logit).exp())).ok()
    }

    /// The number, from 0 to 1.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Probability {
    type Error = ProbabilityError;

    fn try_from(value: f64) -> Result<Self, ProbabilityError> {
        Self::new(value)
    }
}

impl From<Probability> for f64 {
    fn from(value: Probability) -> f64 {
        value.0
    }
}

impl JsonSchema for Probability {
    fn schema_name() -> Cow<'static, str> {
        "Probability".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_one() {
        for value in [-0.01, 1.01, f64::NAN, f64::INFINITY] {
            assert!(Probability::new(value).is_err(), "{value}");
        }
        assert!(serde_json::from_str::<Probability>("1.5").is_err());
        assert!(Probability::from_logit(f64::NAN).is_none());
    }

    #[test]
    fn extreme_logits_stay_probabilities() {
        assert_eq!(Probability::from_logit(-1e9), Some(Probability::ZERO));
        assert_eq!(Probability::from_logit(1e9), Some(Probability::ONE));
    }
}
