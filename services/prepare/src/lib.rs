//! The prepare stage: from the bytes in `images` to a Case in `prepared`.
//!
//! It tells what a file is, decodes and renders it, puts the de-identified rendition into the blob store and makes the
//! Case that every later stage adds to. Objects without pixels go to `out-of-scope` with the reason; what cannot be read is
//! rejected and becomes a dead letter. It is the only stage that sees original bytes.
//!
//! Deliberately absent: Kafka, retries and metrics (the runner's), decoding itself (`duet-imaging`'s), and any record
//! of who the patient is: a study is known by its keyed hash from here on.

mod pseudonym;
mod stage;

use std::path::PathBuf;

use duet_imaging::Limits;
use serde::{Deserialize, Serialize};

pub use pseudonym::{KeyError, PseudonymKey};
pub use stage::{Prepare, RawImage};

/// `[prepare]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What one file may ask for.
    pub limits: Limits,
    /// Keep age (whole years, 90 and above as 90) and sex in the Case, as DICOM PS3.15's Retain Patient Characteristics option does.
    /// Models that read children's or adults' films need the age.
    pub retain_patient_characteristics: bool,
    /// File with the key of the pseudonyms, 64 hexadecimal digits. Every replica needs the same one.
    pub pseudonym_key_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            retain_patient_characteristics: true,
            pseudonym_key_file: None,
        }
    }
}
