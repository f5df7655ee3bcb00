//! Sending dead letters again, each once.
//!
//! For each letter two records go out in one step: the original, back into the topic that it came from, and a note in
//! `redriven` that says so. Both or neither are there, whenever the process dies. Who sends again first takes over
//! from whoever did so before (whose unfinished step is undone), and then reads which letters were sent already; so no
//! letter is sent twice, by one run after another or by two at once.
//!
//! The notes are keyed by the letter's place and kept for good (the topic is compacted); the time that a note has of its
//! letter tells it from one of the same place after the topic was made anew.

use std::collections::HashSet;

use chrono::Utc;
use duet_case::{CaseId, Digest, Topic};
use duet_transport::{Archive, Headers, Outgoing, Record, TransportError, Writer};
use serde::{Deserialize, Serialize};

use crate::{DeadLetter, NoWayBack, dead_letter::original, envelope::timestamp};

/// Records asked for at once.
const AT_ONCE: usize = 256;

/// A record of `redriven`: which dead letter was sent again, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// Partition of the letter in `dead-letters`.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// When it was given up, as its header says.
    pub given_up: String,
    /// The case.
    pub case: CaseId,
    /// The stage that had given up.
    pub stage: String,
    /// The kind of error.
    pub class: String,
    /// Where it was sent.
    pub topic: String,
    /// When it was sent, RFC 3339.
    pub redriven_at: String,
}

/// What tells one dead letter from every other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterKey {
    partition: i32,
    offset: i64,
    given_up: String,
}

impl LetterKey {
    /// The key of a record in `dead-letters`, which `letter` was read from.
    pub fn of(record: &Record, letter: &DeadLetter) -> Self {
        let (partition, offset) = (record.origin.partition, record.origin.offset);
        Self { partition, offset, given_up: letter.time.clone() }
    }
}

impl Redriven {
    /// Reads a record of `redriven`; `None` where it is none.
    pub fn read(record: &Record) -> Option<Self> {
        serde_json::from_slice(&record.value).ok()
    }

    /// The letter that was sent again.
    pub fn letter(&self) -> LetterKey {
        let Self { partition, offset, given_up, .. } = self;
        LetterKey { partition: *partition, offset: *offset, given_up: given_up.clone() }
    }

    fn of(record: &Record, letter: DeadLetter, to: Topic) -> Self {
        Self {
            partition: record.origin.partition,
            offset: record.origin.offset,
            case: DeadLetter::case_of(record),
            given_up: letter.time,
            stage: letter.stage,
            class: letter.class,
            topic: to.name().to_owned(),
            redriven_at: timestamp(Utc::now()),
        }
    }

    fn note(&self) -> Outgoing {
        let place = format!("{}-{}", self.partition, self.offset);
        let event =
            Digest::of_parts(&[b"duet/redriven/v1", place.as_bytes(), self.given_up.as_bytes()]);
        let event = event.to_string();
        let headers = Headers::default()
            .with("ce_specversion", "1.0")
            .with("ce_id", event.get(..32).unwrap_or(&event).to_owned())
            .with("ce_type", "duet.redriven.v1")
            .with("ce_source", "/duet/redrive")
            .with("ce_subject", self.case.as_str().to_owned())
            .with("ce_time", self.redriven_at.clone())
            .with("content-type", "application/json");
        let value = serde_json::json!(self).to_string().into();
        Outgoing { topic: Topic::Redriven, key: Some(place.into()), headers, value }
    }
}

/// Every dead letter that was sent again.
///
/// # Errors
///
/// Where the topic cannot be read.
pub async fn redriven(broker: &dyn Archive) -> Result<HashSet<LetterKey>, TransportError> {
    let mut history = broker.history(Topic::Redriven, None).await?;
    let mut letters = HashSet::new();
    while let Some(records) = history.next(AT_ONCE).await? {
        letters.extend(records.iter().filter_map(Redriven::read).map(|note| note.letter()));
    }
    Ok(letters)
}

/// The one that sends dead letters again.
pub struct Redrive {
    writer: Box<dyn Writer>,
    sent: HashSet<LetterKey>,
    waiting: Vec<Outgoing>,
    letters: Vec<LetterKey>,
}

impl Redrive {
    /// Takes over from any other redrive called `name`, then reads what was sent again already.
    ///
    /// # Errors
    ///
    /// Where the broker does not let us.
    pub async fn open(broker: &dyn Archive, name: &str) -> Result<Self, TransportError> {
        // In this order: what the one before has finished is then there to be read, and it can finish no more.
        let writer = broker.writer(name).await?;
        let sent = redriven(broker).await?;
        Ok(Self { writer, sent, waiting: Vec::new(), letters: Vec::new() })
    }

    /// The letters that were sent again, by whomever.
    pub fn sent(&self) -> &HashSet<LetterKey> {
        &self.sent
    }

    /// Puts the dead letter `record` among those of the next step. Returns the bytes that wait.
    ///
    /// # Errors
    ///
    /// Where it did not come from a topic that a stage reads.
    pub fn add(&mut self, record: &Record) -> Result<usize, NoWayBack> {
        let letter = DeadLetter::read(&record.headers);
        let key = LetterKey::of(record, &letter);
        if !self.sent.contains(&key) && !self.letters.contains(&key) {
            let original = original(record)?;
            let note = Redriven::of(record, letter, original.topic).note();
            self.waiting.extend([original, note]);
            self.letters.push(key);
        }
        Ok(self.waiting.iter().map(|outgoing| outgoing.value.len()).sum())
    }

    /// Sends what was added, all of it or nothing, and returns how many letters that are.
    ///
    /// # Errors
    ///
    /// Where the broker did not take it, or another redrive took over: then nothing of it was sent. Where the answer
    /// did not come, the next [`Redrive::open`] finds out.
    pub async fn send(&mut self) -> Result<usize, TransportError> {
        let count = self.letters.len();
        if count > 0 {
            self.writer.write(std::mem::take(&mut self.waiting)).await?;
            self.sent.extend(self.letters.drain(..));
        }
        Ok(count)
    }
}
