//! Why a file gave no picture.

use std::error::Error as StdError;

/// The kinds of failure: a closed list, fit for a metric label and a dead letter's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// There are no bytes.
    Empty,
    /// Neither DICOM nor PNG nor JPEG.
    Unrecognised,
    /// The file ends before what it declares.
    Truncated,
    /// The file contradicts its format or itself.
    Corrupt,
    /// A valid file of a kind that is not read.
    Unsupported,
    /// More than the configured limits allow.
    OverLimit,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Unrecognised,
        Self::Truncated,
        Self::Corrupt,
        Self::Unsupported,
        Self::OverLimit,
    ];

    /// As it stands in headers and metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Unrecognised => "unrecognised",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::Unsupported => "unsupported",
            Self::OverLimit => "over_limit",
        }
    }
}

/// Why a file gave no picture, in words that a person can act on.
///
/// Messages name formats, tags, lengths and limits, and never the value of an element: a dead letter's header is read by
/// more people than the film is.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct PrepareError {
    class: Class,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl PrepareError {
    /// The kind of failure.
    pub fn kind(&self) -> Class {
        self.class
    }

    /// The kind of failure as a word from a closed list: `empty`, `unrecognised`, `truncated`, `corrupt`,
    /// `unsupported` or `over_limit`.
    pub fn class(&self) -> &'static str {
        self.class.name()
    }

    pub(crate) fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), source: None }
    }

    pub(crate) fn truncated(message: impl Into<String>) -> Self {
        Self::new(Class::Truncated, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(Class::Corrupt, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(Class::Unsupported, message)
    }

    pub(crate) fn over_limit(message: impl Into<String>) -> Self {
        Self::new(Class::OverLimit, message)
    }

    /// Keeps a decoder's own error as the source. Only for decoders that see pixels and nothing of the patient: what
    /// dicom-rs says of an element may quote its value.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}
