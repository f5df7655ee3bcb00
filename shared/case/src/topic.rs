//! The topics. A topic's name says what is true of every record in it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// One topic of the pipeline. The name on a broker is a configured prefix (`duet.` by default) and [`Topic::name`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Topic {
    /// Files as users have them: the bytes of a DICOM, PNG or JPEG file.
    Images,
    /// Cases whose image was decoded, de-identified and rendered.
    Prepared,
    /// Cases that a specialist is to look at: flagged by triage, or drawn for audit.
    Flagged,
    /// Cases that triage cleared.
    Cleared,
    /// Cases in which nothing is looked for: not an image, or not one that Duet reads.
    OutOfScope,
    /// Cases that the specialists looked at.
    Assessed,
    /// Finished Cases, one for every image that was not a dead letter.
    Reports,
    /// The annotated picture of every report that has one: `image/png` bytes.
    Annotated,
    /// What could not be processed: the original bytes, with the reason in the headers.
    DeadLetters,
    /// Which dead letters were sent again, back to where they came from.
    Redriven,
}

/// A name that no topic has.
#[derive(Debug, thiserror::Error)]
#[error(
    "no topic is called {0:?}; the topics are images, prepared, flagged, cleared, out-of-scope, assessed, reports, annotated, dead-letters and redriven"
)]
pub struct UnknownTopic(String);

impl Topic {
    /// Every topic, in the order of flow.
    pub const ALL: [Self; 10] = [
        Self::Images,
        Self::Prepared,
        Self::Flagged,
        Self::Cleared,
        Self::OutOfScope,
        Self::Assessed,
        Self::Reports,
        Self::Annotated,
        Self::DeadLetters,
        Self::Redriven,
    ];

    /// The name without its prefix, for instance `dead-letters`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Prepared => "prepared",
            Self::Flagged => "flagged",
            Self::Cleared => "cleared",
            Self::OutOfScope => "out-of-scope",
            Self::Assessed => "assessed",
            Self::Reports => "reports",
            Self::Annotated => "annotated",
            Self::DeadLetters => "dead-letters",
            Self::Redriven => "redriven",
        }
    }

    /// Whether of each key the newest record is kept for good, instead of every record for a while.
    pub const fn is_compacted(self) -> bool {
        matches!(self, Self::Redriven)
    }

    /// Whether the topic may hold what identifies a patient, and so has its own access list and short retention.
    pub const fn is_guarded(self) -> bool {
        matches!(self, Self::Images | Self::DeadLetters)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Topic {
    type Err = UnknownTopic;

    fn from_str(text: &str) -> Result<Self, UnknownTopic> {
        Self::ALL
            .into_iter()
            .find(|topic| topic.name() == text)
            .ok_or_else(|| UnknownTopic(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_found_by_its_name() {
        for topic in Topic::ALL {
            assert_eq!(topic.name().parse::<Topic>().unwrap(), topic);
        }
        assert!("duet.images".parse::<Topic>().is_err());
    }
}
