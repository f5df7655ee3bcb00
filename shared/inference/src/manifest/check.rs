//! The checks that a manifest's values share; each refusal names the file, the key and what would be right.

use std::path::Path;

use duet_case::{Digest, Probability};

use super::ManifestError;

/// Sides of a model's input, in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 16..=2048;

pub(super) struct Check<'a> {
    pub(super) file: &'a Path,
}

impl Check<'_> {
    pub(super) fn refuse(&self, key: &str, problem: impl Into<String>) -> ManifestError {
        let (file, problem) = (self.file.to_owned(), problem.into());
        ManifestError::Value { file, key: key.to_owned(), problem }
    }

    /// Words, not blank.
    pub(super) fn text(&self, key: &str, value: &str) -> Result<String, ManifestError> {
        if value.trim().is_empty() {
            return Err(self.refuse(key, "is blank: say it in words"));
        }
        Ok(value.to_owned())
    }

    /// A name that may stand in a metric, a path and a page.
    pub(super) fn name(&self, key: &str, value: &str) -> Result<(), ManifestError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if (1..=64).contains(&value.len()) && value.bytes().all(plain) {
            return Ok(());
        }
        let rule = "write 1 to 64 lower-case letters, digits and hyphens";
        Err(self.refuse(key, format!("is {value:?}: {rule}")))
    }

    /// A file beside the manifest, and nowhere else.
    pub(super) fn file_name(&self, key: &str, value: &str) -> Result<String, ManifestError> {
        let own = Path::new(value).file_name().is_some_and(|name| name == value);
        if own && !value.contains(['/', '\\']) {
            return Ok(value.to_owned());
        }
        Err(self.refuse(key, format!("is {value:?}: name a file in the manifest's own folder")))
    }

    pub(super) fn digest(&self, key: &str, value: &str) -> Result<Digest, ManifestError> {
        value.parse().map_err(|error| self.refuse(key, format!("is wrong: {error}")))
    }

    pub(super) fn date(&self, key: &str, value: &str) -> Result<chrono::NaiveDate, ManifestError> {
        value.parse().map_err(|_| {
            self.refuse(key, format!("is {value:?}: write a date, for instance 2026-01-31"))
        })
    }

    pub(super) fn side(&self, key: &str, value: u32) -> Result<u32, ManifestError> {
        if SIDES.contains(&value) {
            return Ok(value);
        }
        let (low, high) = (SIDES.start(), SIDES.end());
        Err(self.refuse(key, format!("is {value} pixels: it must be from {low} to {high}")))
    }

    pub(super) fn between(
        &self,
        key: &str,
        value: f64,
        low: f64,
        high: f64,
    ) -> Result<f64, ManifestError> {
        if (low..=high).contains(&value) {
            return Ok(value);
        }
        Err(self.refuse(key, format!("is {value}: it must be from {low} to {high}")))
    }

    pub(super) fn probability(&self, key: &str, value: f64) -> Result<Probability, ManifestError> {
        Probability::new(value).map_err(|error| self.refuse(key, format!("is wrong: {error}")))
    }

    pub(super) fn maybe_probability(
        &self,
        key: &str,
        value: Option<f64>,
    ) -> Result<Option<Probability>, ManifestError> {
        value.map(|value| self.probability(key, value)).transpose()
    }

    /// A section that this kind of model cannot do without.
    pub(super) fn needed<'v, T>(
        &self,
        kind: &str,
        key: &str,
        value: Option<&'v T>,
    ) -> Result<&'v T, ManifestError> {
        value.ok_or_else(|| self.refuse(key, format!("is missing: a {kind} model needs it")))
    }

    /// A section that means nothing for this kind of model.
    pub(super) fn absent(&self, kind: &str, key: &str, absent: bool) -> Result<(), ManifestError> {
        if absent {
            return Ok(());
        }
        Err(self.refuse(key, format!("is not for a {kind} model: remove it, or correct kind")))
    }

    pub(super) fn output(
        &self,
        kind: &str,
        key: &str,
        value: Option<&String>,
    ) -> Result<String, ManifestError> {
        self.text(key, self.needed(kind, key, value)?)
    }
}
