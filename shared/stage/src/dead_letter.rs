//! Dead letters: the original record as it was, and behind its headers where it came from and why it was given up.
//!
//! A producer may use any header names, Duet's own among them. So a dead letter says how many of its headers, counted
//! from the first, are the record's; only those behind them are read as Duet's.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_case::{CaseId, DeadLetterHeader as Header, REDRIVE_HEADER, Topic};
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
        let (_, own) = split(headers);
        let text = |name| own.text(name).unwrap_or_default().to_owned();
        Self {
            // Where the stage named none it may be the producer's header, with whatever it holds.
            case: own.text(Header::CASE).and_then(CaseId::parse).map(|id| id.to_string()),
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

    /// The case that the dead letter `record` is about: a record that could not even be read carries no id, its bytes
    /// give it one.
    pub fn case_of(record: &Record) -> CaseId {
        let (_, own) = split(&record.headers);
        let named = own.text(Header::CASE).and_then(CaseId::parse);
        named.unwrap_or_else(|| CaseId::of_input(&record.value))
    }

    /// When it was given up.
    pub fn given_up_at(&self) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(&self.time).ok().map(|time| time.to_utc())
    }
}

/// The failed record's own headers, as they were, and those that the dead letter added.
pub fn split(headers: &Headers) -> (Headers, Headers) {
    let count = headers.text(Header::ORIGINAL).and_then(|text| text.parse().ok());
    // Without the count, as earlier versions wrote it, the names have to tell.
    let count = count.filter(|count| *count < headers.len()).unwrap_or_else(|| {
        let added: Vec<_> = headers.iter().map(|(name, _)| Header::ALL.contains(&name)).collect();
        added.iter().rposition(|added| !added).map_or(0, |last| last + 1)
    });
    headers.split_at(count)
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
    headers.push(Header::ORIGINAL, record.headers.len().to_string());
    if let Some(sent) = record.timestamp {
        headers.push(Header::SENT, timestamp(sent));
    }
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

/// Why a dead letter cannot be sent back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it says that it came from {0:?}, and no stage reads that")]
pub struct NoWayBack(String);

/// The record that the dead letter `record` was, to be sent again: its key, headers and bytes as they were, and one
/// header more that names the letter.
///
/// # Errors
///
/// Where it did not come from a topic that a stage reads.
pub fn original(record: &Record) -> Result<Outgoing, NoWayBack> {
    let (own, added) = split(&record.headers);
    let came_from = added.text(Header::TOPIC).unwrap_or_default();
    let topic = came_from.parse().ok().filter(|topic| is_read_by_a_stage(*topic));
    let topic = topic.ok_or_else(|| NoWayBack(came_from.to_owned()))?;
    // A letter of a letter names the latest one alone.
    let mut headers = Headers::default();
    for (name, value) in own.iter().filter(|(name, _)| *name != REDRIVE_HEADER) {
        headers.push(name, value.clone());
    }
    let place = format!("{}-{}", record.origin.partition, record.origin.offset);
    headers.push(REDRIVE_HEADER, place);
    Ok(Outgoing { topic, key: record.key.clone(), headers, value: record.value.clone() })
}

const fn is_read_by_a_stage(topic: Topic) -> bool {
    match topic {
        Topic::Images
        | Topic::Prepared
        | Topic::Flagged
        | Topic::Cleared
        | Topic::OutOfScope
        | Topic::Assessed => true,
        Topic::Reports | Topic::Annotated | Topic::DeadLetters | Topic::Redriven => false,
    }
}

#[cfg(test)]
mod tests {
    use duet_transport::Origin;

    use super::*;

    fn record(topic: Topic, headers: Headers) -> Record {
        Record {
            origin: Origin { topic, partition: 2, offset: 17, epoch: 0 },
            timestamp: DateTime::from_timestamp(1_790_000_000, 0),
            key: Some(Bytes::from_static(b"\xff key")),
            headers,
            value: Bytes::from_static(b"film"),
        }
    }

    /// As it stands in `dead-letters`.
    fn letter_of(failed: &Record) -> Record {
        let reason = Reason::new("corrupt", "send it again");
        let sent = dead_letter(failed, None, "prepare", 3, &reason);
        let mut letter = record(Topic::DeadLetters, sent.headers);
        letter.origin.offset = 4;
        Record { key: sent.key, value: sent.value, ..letter }
    }

    #[test]
    fn a_producers_headers_come_back_as_they_were_whatever_their_names() {
        let mut foreign = Headers::default().with("twice", "1").with("twice", vec![0, 159]);
        // Names of Duet's own, forged or by chance.
        for name in Header::ALL {
            foreign.push(name, "7");
        }
        for headers in [Headers::default(), foreign] {
            let failed = record(Topic::Images, headers.clone());
            let letter = letter_of(&failed);
            let read = DeadLetter::read(&letter.headers);
            assert_eq!((read.stage.as_str(), read.attempts.as_str()), ("prepare", "3"));
            assert_eq!((read.topic.as_str(), read.offset.as_str()), ("images", "17"));
            assert_eq!(read.case, None, "a forged case is believed");
            assert_eq!(DeadLetter::case_of(&letter), CaseId::of_input(b"film"));
            let back = original(&letter).unwrap();
            assert_eq!(
                (back.topic, &back.key, &back.value),
                (Topic::Images, &failed.key, &failed.value)
            );
            assert_eq!(back.headers, headers.with(REDRIVE_HEADER, "2-4"));
        }
    }

    #[test]
    fn a_letter_without_the_count_is_told_by_the_names() {
        let headers = Headers::default().with("content-type", "application/dicom");
        let letter = letter_of(&record(Topic::Images, headers.clone()));
        let mut older = Headers::default();
        for (name, value) in letter.headers.iter().filter(|(name, _)| *name != Header::ORIGINAL) {
            older.push(name, value.clone());
        }
        let (own, added) = split(&older);
        assert_eq!((own, added.text(Header::CLASS)), (headers, Some("corrupt")));
    }

    #[test]
    fn a_second_letter_names_the_latest_one_and_a_report_does_not_go_back() {
        let again = record(Topic::Images, Headers::default().with(REDRIVE_HEADER, "0-1"));
        let back = original(&letter_of(&again)).unwrap();
        assert_eq!(back.headers, Headers::default().with(REDRIVE_HEADER, "2-4"));
        let report = letter_of(&record(Topic::Reports, Headers::default()));
        assert!(original(&report).unwrap_err().to_string().contains("reports"));
    }
}
