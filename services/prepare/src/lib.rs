//! The prepare stage: from the bytes in `images` to a Case in `prepared`.
//!
//! It tells what a file is, decodes and renders it, puts the de-identified rendition into the blob store and makes the
//! Case that every later stage adds to. Objects without pixels go to `out-of-scope` with the reason; what cannot be read is
//! rejected and becomes a dead letter. It is the only stage that sees original bytes: those of a record, and of files that
//! were too large for one, which it takes from the inbox of the blob store and removes when their time is up.
//!
//! Decoding runs in child processes; see [`Decoder`]. Deliberately absent: Kafka, retries and metrics (the runner's), decoding
//! itself (`duet-imaging`'s), and any record
//! of who the patient is that others than `publish` can read: a study is known by its keyed hash from here on, and what a
//! result is filed by is sealed (`duet-seal`).

mod decoder;
mod inbox;
mod pseudonym;
mod stage;

use std::path::PathBuf;

use duet_imaging::Limits;
use serde::{Deserialize, Serialize};

pub use decoder::{Decoder, DecoderConfig, DecoderPool, InProcess, Launch, WorkerError, work};
pub use inbox::keep_inbox;
pub use pseudonym::{KeyError, PseudonymKey};
pub use stage::{File, Prepare, RawImage};

/// `[prepare]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What one file may ask for.
    pub limits: Limits,
    /// Bytes of files that came by reference and are in memory at the same time.
    pub max_fetched_bytes: u64,
    /// The processes that decode.
    pub decoder: DecoderConfig,
    /// Keep age (whole years, 90 and above as 90) and sex in the Case, as DICOM PS3.15's Retain Patient Characteristics option does.
    /// Models that read children's or adults' films need the age.
    pub retain_patient_characteristics: bool,
    /// File with the key of the pseudonyms, 64 hexadecimal digits. Every replica needs the same one.
    pub pseudonym_key_file: Option<PathBuf>,
    /// File with the keys of sealed identifiers. The first of them seals. `publish` needs the same ones.
    pub sealing_key_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_fetched_bytes: 256 << 20,
            decoder: DecoderConfig::default(),
            retain_patient_characteristics: true,
            pseudonym_key_file: None,
            sealing_key_file: None,
        }
    }
}

/// A configuration of prepare that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("prepare.{key} is {value}, but {rule}")]
pub struct ConfigError {
    key: &'static str,
    value: u64,
    rule: String,
}

impl Config {
    /// # Errors
    ///
    /// Names the first key whose value cannot work, alone or with the others.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let DecoderConfig { workers, memory_mib, time_limit_ms } = self.decoder;
        let Limits { max_bytes, max_pixels, .. } = self.limits;
        let need = decoder::need_mib(&self.limits);
        #[rustfmt::skip]
        let rules = [
            ("limits.max_bytes", max_bytes, (1, 2 << 30), String::new()),
            ("limits.max_pixels", max_pixels, (1, 1 << 32), String::new()),
            ("max_fetched_bytes", self.max_fetched_bytes, (max_bytes, 1 << 40), format!(
                ", since one file may have prepare.limits.max_bytes = {max_bytes}"
            )),
            ("decoder.workers", workers as u64, (0, 1024), "; 0 is one for each core".to_owned()),
            ("decoder.time_limit_ms", time_limit_ms, (100, 600_000), String::new()),
            ("decoder.memory_mib", memory_mib, (need, 1 << 20), format!(
                ", since a file at prepare.limits.max_bytes = {max_bytes} and prepare.limits.max_pixels = {max_pixels} needs {need}: raise it, or lower these"
            )),
        ];
        for (key, value, (low, high), why) in rules {
            if !(low..=high).contains(&value) {
                let rule = format!("it must be from {low} to {high}{why}");
                return Err(ConfigError { key, value, rule });
            }
        }
        Ok(())
    }
}
