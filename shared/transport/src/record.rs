//! Records as Duet sees them, whichever broker carries them.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_case::Topic;

/// A record's headers, in order. Names may repeat, as on Kafka; the last one counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Bytes)>);

impl Headers {
    /// The last header of that name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// The last header of that name, where it is UTF-8 text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Adds one at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// Adds one at the end.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.push(name, value);
        self
    }

    /// The first `count` headers, and the rest.
    pub fn split_at(&self, count: usize) -> (Self, Self) {
        let (first, rest) = self.0.split_at(count.min(self.0.len()));
        (Self(first.to_vec()), Self(rest.to_vec()))
    }

    /// Every header in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Where a record stands on its broker, and under which assignment it was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Topic.
    pub topic: Topic,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Counts the assignments of this partition to this replica: a record of an earlier one may not be committed.
    pub epoch: u64,
}

/// One record, read.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it stands.
    pub origin: Origin,
    /// When the broker got it (or the producer made it).
    pub timestamp: Option<DateTime<Utc>>,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
    /// The value; empty for a tombstone.
    pub value: Bytes,
}

/// One record to send.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Topic.
    pub topic: Topic,
    /// The key, if any: records of one key stay in order.
    pub key: Option<Bytes>,
    /// Headers.
    pub headers: Headers,
    /// The value.
    pub value: Bytes,
}

/// One input that is done, and what it became.
#[derive(Debug, Clone)]
pub struct Completed {
    /// The input.
    pub origin: Origin,
    /// What goes out for it.
    pub outputs: Vec<Outgoing>,
}
