//! A calibration of one served model: the `[calibration]` and `[decision]` of a manifest, and whose they are.

use std::path::{Path, PathBuf};

use super::answer;
use crate::{
    DecisionRules, ManifestError,
    manifest::{MAX_MANIFEST_BYTES, served_rules},
};

/// The rules of one served model.
#[derive(Debug, Clone, PartialEq)]
pub struct ServedCalibration {
    /// The model, as its server calls it; no other is cleared by these rules.
    pub model: String,
    /// When its answers mean refused, flagged or cleared.
    pub rules: DecisionRules,
}

/// Why a calibration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It says what cannot be.
    #[error(transparent)]
    Value(#[from] ManifestError),
}

impl ServedCalibration {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Names the file, the key and what would be right.
    pub fn read(path: &Path) -> Result<Self, CalibrationError> {
        let unreadable = |source| CalibrationError::Unreadable { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > MAX_MANIFEST_BYTES {
            let found = format!("it has {bytes} bytes, more than a calibration");
            return Err(unreadable(std::io::Error::other(found)));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        let (model, rules) = served_rules(path, &text, &answer::in_scope())?;
        Ok(Self { model, rules })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
model = "qwen"
[calibration]
set = "our own films of 2026"
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
n = 600
date = "2026-05-01"
[decision]
scope_min = 0.2
fitness_min = 0.5
clear_below = 0.04
miss_rate = { bound = 0.02, confidence = 0.95, positives = 300, measured = 0.0 }
"#;

    fn read(text: &str) -> Result<ServedCalibration, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vlm.toml");
        std::fs::write(&path, text).unwrap();
        ServedCalibration::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn a_calibration_is_held_to_what_a_manifests_is() {
        let good = read(GOOD).unwrap();
        assert_eq!(good.model, "qwen");
        assert_eq!(good.rules.clear_below.map(duet_case::Probability::value), Some(0.04));
        assert_eq!(good.rules.clear_kinds, ["chest-radiograph-frontal"]);

        let few = read(&GOOD.replace("positives = 300", "positives = 100")).unwrap().rules;
        assert!(few.clear_below.is_none() && few.clearing().contains("at least 149"));

        for (from, to, says) in [
            ("model = \"qwen\"", "", "missing field `model`"),
            ("clear_below", "clear_blow", "unknown field `clear_blow`"),
            ("measured = 0.0", "measured = 2.0", "decision.miss_rate.measured"),
            ("n = 600", "n = 60", "positives is 300, but calibration.n is 60"),
            ("2026-05-01", "May", "calibration.date"),
            (
                "clear_below",
                "clear_kinds = [\"ct\"]\nclear_below",
                "decision.clear_kinds names \"ct\"",
            ),
        ] {
            let message = read(&GOOD.replace(from, to)).unwrap_err();
            assert!(message.contains(says) && message.contains("vlm.toml"), "{says}: {message}");
        }
    }
}
