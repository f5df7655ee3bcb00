//! Dead letters: the original bytes, and in the headers where they came from and why they were given up.

use bytes::Bytes;
use chrono::Utc;
use duet_case::{CaseId, DeadLetterHeader as Header, Topic};
use duet_transport::{Headers, Outgoing, Record};

use crate::{Reason, envelope::timestamp};

/// A dead letter as its headers describe it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetter {
    /// The case, where the record's bytes could name it.
    pub case: Option<String>,
    /// The stage that gave up.
    pub stage: String,
    /// The kind of error.
    pub class: String,
    /// The error in words, with what to do.
    pub message: String,
    /// Topic that the record came from.
    pub topic: String,
    /// Partition that the record came from.
    pub partition: String,
    /// Offset that the record came from.
    pub offset: String,
    /// How often it was tried.
    pub attempts: String,
    /// When it was given up, RFC 3339.
    pub time: String,
}

impl DeadLetter {
    /// Reads the headers of a record in `dead-letters`; what is not there is empty.
    pub fn read(headers: &Headers) -> Self {
        let text = |name| headers.text(name).unwrap_or_default().to_owned();
        Self {
            case: headers.text(Header::CASE).map(str::to_owned),
            stage: text(Header::STAGE),
            class: text(Header::CLASS),
            message: text(Header::MESSAGE),
            topic: text(Header::TOPIC),
            partition: text(Header::PARTITION),
            offset: text(Header::OFFSET),
            attempts: text(Header::ATTEMPTS),
            time: text(Header::TIME),
        }
    }
}

/// The dead letter of `record`: its own key, headers and bytes, and the reason beside them. `dead-letters` is
/// guarded like `images`, so the producer's key and headers may stay.
pub(crate) fn dead_letter(
    record: &Record,
    id: Option<&CaseId>,
    stage: &str,
    attempts: u32,
    reason: &Reason,
) -> Outgoing {
    let mut headers = record.headers.clone();
    if let Some(id) = id {
        headers.push(Header::CASE, id.as_str().to_owned());
    }
    for (name, value) in [
        (Header::STAGE, stage.to_owned()),
        (Header::CLASS, reason.class.to_owned()),
        (Header::MESSAGE, reason.message.clone()),
        (Header::TOPIC, record.origin.topic.name().to_owned()),
        (Header::PARTITION, record.origin.partition.to_string()),
        (Header::OFFSET, record.origin.offset.to_string()),
        (Header::ATTEMPTS, attempts.to_string()),
        (Header::TIME, timestamp(Utc::now())),
    ] {
        headers.push(name, Bytes::from(value));
    }
    Outgoing {
        topic: Topic::DeadLetters,
        key: record.key.clone(),
        headers,
        value: record.value.clone(),
    }
}
