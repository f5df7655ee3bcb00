//! The closed set of things that can come of one input.

use duet_case::Topic;

/// What came of one input.
#[derive(Debug)]
pub enum Outcome<T> {
    /// Goes on to this topic.
    Emit(T, Topic),
    /// Can never be processed: a dead letter.
    Reject(Reason),
    /// Could not be processed now: tried again, and a dead letter after the last attempt.
    Retry(Reason),
}

/// Why an input was rejected or is to be tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// A short word from a closed list, for metrics: `truncated`, `over_limit`, `blob_store`, …
    pub class: &'static str,
    /// What was wrong, with which input, and what to do. Never holds anything that names a patient.
    pub message: String,
}

/// What a file itself is to blame for: no deployment would have read it.
const OF_THE_FILE: [&str; 6] =
    ["empty", "unrecognised", "truncated", "corrupt", "unsupported", "over_limit"];

impl Reason {
    /// Whether the file itself is to blame, rather than what became of it here.
    pub fn blames_the_file(&self) -> bool {
        OF_THE_FILE.contains(&self.class)
    }

    /// A reason of that class.
    pub fn new(class: &'static str, message: impl Into<String>) -> Self {
        Self { class, message: message.into() }
    }

    /// A reason of that class whose message is `error` and everything that caused it.
    pub fn of(class: &'static str, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = inner.source();
        }
        Self { class, message }
    }
}
