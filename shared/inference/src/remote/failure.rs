//! Why an image got no answer that counts: a closed list, for metrics and for the Case.

use std::{fmt, time::Duration};

/// The reason, as it stands in the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// No connection: refused, no such host, no TLS.
    Unreachable,
    /// The connection broke off.
    Broken,
    /// No whole answer within the deadline.
    Timeout,
    /// 401 or 403.
    Unauthorised,
    /// 429.
    RateLimited,
    /// 5xx.
    ServerError,
    /// Any other status than 200.
    Status,
    /// A body larger than any answer.
    Oversized,
    /// A body that is no chat completion.
    Malformed,
    /// A completion without text.
    Empty,
    /// The model declined, or a filter did.
    Refusal,
    /// It did not come to its end.
    CutOff,
    /// Text that is not of the schema.
    NotSchema,
}

impl FailureKind {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Unreachable,
        Self::Broken,
        Self::Timeout,
        Self::Unauthorised,
        Self::RateLimited,
        Self::ServerError,
        Self::Status,
        Self::Oversized,
        Self::Malformed,
        Self::Empty,
        Self::Refusal,
        Self::CutOff,
        Self::NotSchema,
    ];

    /// As it stands in metric labels and reasons.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Broken => "connection_broken",
            Self::Timeout => "timeout",
            Self::Unauthorised => "unauthorised",
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::Status => "status",
            Self::Oversized => "oversized",
            Self::Malformed => "malformed",
            Self::Empty => "empty",
            Self::Refusal => "refusal",
            Self::CutOff => "cut_off",
            Self::NotSchema => "not_schema",
        }
    }

    /// Whether the same request may succeed a moment later. With temperature 0 and a seed, a wrong answer stays wrong.
    pub(super) const fn may_pass(self) -> bool {
        matches!(self, Self::Unreachable | Self::Broken | Self::RateLimited | Self::ServerError)
    }
}

/// Why an image got no answer that counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ServedFailure {
    /// The reason.
    pub kind: FailureKind,
    /// In words, none of which the server wrote.
    pub message: String,
    /// Why there was a second attempt, where there was one.
    pub retried: Option<FailureKind>,
    /// When to try again, as the server says.
    pub(super) retry_after: Option<Duration>,
}

impl ServedFailure {
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retried: None, retry_after: None }
    }
}

impl fmt::Display for ServedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.kind.name())
    }
}
