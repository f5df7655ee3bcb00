//! The Case and its ledger.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Assessment, BlobRef, CaseId, Finding, Measurement, ModelRef, Rendition, Source, StudyKey,
    Triage,
};

/// The version of the Case's shape, in every Case as `schema_version`. A change that an old reader would
/// misunderstand raises it; readers ignore fields they do not know.
pub const SCHEMA_VERSION: u32 = 1;

/// One image's whole story. See the crate's documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Case {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Derives from the input's bytes: the same file fed twice has the same id.
    pub id: CaseId,
    /// Pseudonym of the study it belongs to.
    pub study: StudyKey,
    /// When the image entered `images`, UTC.
    pub received_at: DateTime<Utc>,
    /// What the file was.
    pub source: Source,
    /// The working picture; absent where the file has no pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendition: Option<Rendition>,
    /// What the generalist saw; absent where it never looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub triage: Option<Triage>,
    /// What the specialists did; absent where none was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assessment: Option<Assessment>,
    /// Findings above their operating points, the most probable first.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// What was measured, beside the findings and never one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measurements: Vec<Measurement>,
    /// How it ended; present in `reports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conclusion: Option<Conclusion>,
    /// What was published; present in `reports`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publication: Option<Publication>,
    /// Every stage that handled it, in order.
    #[serde(default)]
    pub hops: Vec<Hop>,
}

/// How a Case ended. "No finding", "cleared" and "not looked for" are three different things; what could not be
/// processed at all is a dead letter and never a Case in `reports`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conclusion {
    /// Which of the ends.
    pub outcome: Outcome,
    /// The same in a sentence that a person can act on.
    pub summary: String,
}

/// The ends that a reported image can come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A specialist looked and something reached its operating point.
    Findings,
    /// A specialist looked and nothing reached its operating point.
    NoFinding,
    /// Triage saw nothing abnormal; no specialist looked.
    Cleared,
    /// Nothing was looked for: out of scope, or no specialist reads such an image.
    NotLookedFor,
}

impl Outcome {
    /// As it stands in JSON and in metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Findings => "findings",
            Self::NoFinding => "no_finding",
            Self::Cleared => "cleared",
            Self::NotLookedFor => "not_looked_for",
        }
    }
}

/// What went out beside the report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Publication {
    /// When, UTC.
    pub published_at: DateTime<Utc>,
    /// The annotated picture; absent where there is no rendition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotated: Option<BlobRef>,
    /// The research-use notice that goes with every finding.
    pub notice: String,
}

/// One stage's entry in the ledger.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hop {
    /// The stage's name.
    pub stage: String,
    /// The models that it used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelRef>,
    /// When the stage took the record up, UTC.
    pub started_at: DateTime<Utc>,
    /// Milliseconds from the record's time stamp until the stage took it up.
    pub queue_ms: f64,
    /// Milliseconds that the stage took; a batch's records share its time.
    pub duration_ms: f64,
    /// Records that were worked on together.
    pub batch: u32,
    /// CPU seconds spent on this image.
    pub cpu_seconds: f64,
    /// Estimated energy: CPU seconds times the configured watts of one busy core. An estimate, not a reading.
    pub joules_estimated: f64,
}

impl Case {
    /// The Case of an image that no stage has said anything of yet.
    pub fn new(id: CaseId, study: StudyKey, received_at: DateTime<Utc>, source: Source) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            id,
            study,
            received_at,
            source,
            rendition: None,
            triage: None,
            assessment: None,
            findings: Vec::new(),
            measurements: Vec::new(),
            conclusion: None,
            publication: None,
            hops: Vec::new(),
        }
    }

    /// One line of JSON.
    ///
    /// # Errors
    ///
    /// Only where a number is not finite, which no constructor of a Case lets in.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads a Case that any version of Duet with the same [`SCHEMA_VERSION`] wrote; unknown fields are ignored.
    ///
    /// # Errors
    ///
    /// Where the text is not a Case, or one of another schema version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let case: Self = serde_json::from_slice(bytes)?;
        if case.schema_version == SCHEMA_VERSION {
            return Ok(case);
        }
        Err(serde::de::Error::custom(format_args!(
            "the Case has schema_version {}, this Duet reads {SCHEMA_VERSION}: run the same version of Duet in every service",
            case.schema_version
        )))
    }

    /// Milliseconds from the image's entry into `images` until now, the way a user counts them.
    pub fn age_ms(&self, now: DateTime<Utc>) -> f64 {
        (now - self.received_at).num_microseconds().map_or(f64::MAX, |us| us as f64 / 1e3)
    }
}

/// The headers that a record in `dead-letters` has behind those of the record that failed.
pub struct DeadLetterHeader;

impl DeadLetterHeader {
    /// How many of the headers are the failed record's own: the first so many, whatever their names.
    pub const ORIGINAL: &str = "duet-origin-headers";
    /// When the failed record was written, RFC 3339.
    pub const SENT: &str = "duet-origin-time";
    /// The case's id, where the bytes were there to name it.
    pub const CASE: &str = "duet-case-id";
    /// The stage that gave up.
    pub const STAGE: &str = "duet-stage";
    /// Topic that the record came from.
    pub const TOPIC: &str = "duet-origin-topic";
    /// Partition that the record came from.
    pub const PARTITION: &str = "duet-origin-partition";
    /// Offset that the record came from.
    pub const OFFSET: &str = "duet-origin-offset";
    /// How often it was tried.
    pub const ATTEMPTS: &str = "duet-attempts";
    /// The kind of error: a short word from a closed list.
    pub const CLASS: &str = "duet-error-class";
    /// The error in words, with what to do.
    pub const MESSAGE: &str = "duet-error-message";
    /// When it was given up, RFC 3339.
    pub const TIME: &str = "duet-time";

    /// All of them.
    pub const ALL: [&str; 11] = [
        Self::ORIGINAL,
        Self::SENT,
        Self::CASE,
        Self::STAGE,
        Self::TOPIC,
        Self::PARTITION,
        Self::OFFSET,
        Self::ATTEMPTS,
        Self::CLASS,
        Self::MESSAGE,
        Self::TIME,
    ];
}

/// The header of a record that was a dead letter and was sent again: the partition and the offset of that letter,
/// for instance `2-17`. It stands behind the record's own headers.
pub const REDRIVE_HEADER: &str = "duet-redrive";
