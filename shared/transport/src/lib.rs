//! Sources and sinks of records, so that a stage knows nothing of Kafka.
//!
//! [`Broker`] is the seam: `kafka.rs` puts a real cluster behind it (the one place that names rdkafka), `memory.rs`
//! is the embedded default. A stage replica holds an [`Exchange`]: a [`Source`] that hands out records and a
//! [`Committer`] that publishes outputs and marks inputs as done in one step.
//!
//! Deliberately absent: what a record means (see `duet-case`), batching policy, retries and dead letters (see
//! `duet-stage`).

mod kafka;
mod memory;
mod record;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duet_case::Topic;

pub use kafka::{Delivery, KafkaBroker, KafkaConfig, KafkaSasl, KafkaTls, Mechanism, Secret};
pub use memory::{MemoryBroker, MemoryLimits};
pub use record::{Completed, Headers, Origin, Outgoing, Record};

/// Why a broker could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The broker does not answer.
    #[error(
        "no Kafka broker answers at {address}: {reason}; check that it runs and that `kafka.bootstrap` (DUET_KAFKA) names it"
    )]
    Unreachable {
        /// Configured bootstrap servers.
        address: String,
        /// The client's own words.
        reason: String,
    },
    /// A topic is not there.
    #[error("topic {topic} does not exist; create it with `duet topics create`")]
    UnknownTopic {
        /// Full name on the broker.
        topic: String,
    },
    /// The broker refused the credentials, or the principal may not do this.
    #[error("the broker refused access: {reason}; check the credentials and the principal's ACLs")]
    Refused {
        /// The client's own words.
        reason: String,
    },
    /// A record is larger than the topic takes.
    #[error(
        "a record of {bytes} bytes is larger than topic {topic} takes; raise the topic's max.message.bytes or send a reference"
    )]
    TooLarge {
        /// Full name on the broker.
        topic: String,
        /// Size of the value.
        bytes: usize,
    },
    /// This replica may not commit any more: another one has taken its place. The process should start anew.
    #[error("this replica was fenced by the broker ({reason}); restart it")]
    Fenced {
        /// The client's own words.
        reason: String,
    },
    /// The configuration contradicts itself or the client refuses it.
    #[error("the Kafka configuration is not usable: {reason}")]
    Configuration {
        /// What is wrong with it.
        reason: String,
    },
    /// Any other failure of the client.
    #[error("Kafka client: {reason}")]
    Client {
        /// The client's own words.
        reason: String,
    },
    /// The broker has been closed.
    #[error("the transport is closed")]
    Closed,
}

/// Where a reader without a group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest record that is still there.
    Beginning,
    /// With the next one to come.
    End,
}

/// What a source knows of itself, for readiness and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// Whether partitions were assigned to this replica (or it has learnt that there are none for it).
    pub assigned: bool,
    /// Records between this replica's position and the end, for each partition assigned to it.
    pub lag: Vec<Lag>,
    /// What is wrong at the moment, in words with what to do.
    pub problem: Option<String>,
}

/// Records that wait on one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// Topic.
    pub topic: Topic,
    /// Partition.
    pub partition: i32,
    /// Records not yet handed on.
    pub records: i64,
}

/// Hands out records, in order within a partition, and only committed ones.
#[async_trait]
pub trait Source: Send + Sync {
    /// Up to `max` records. Waits for the first one for about half a second at most, and for more to fill the
    /// batch for `fill` at most. Empty when nothing came.
    ///
    /// # Errors
    ///
    /// Only what does not heal by itself; a broker that is away for a while shows in [`Source::status`].
    async fn poll(&mut self, max: usize, fill: Duration) -> Result<Vec<Record>, TransportError>;

    /// Assignment, lag and trouble at this moment.
    fn status(&self) -> SourceStatus;

    /// From now on [`Source::poll`] hands out at most `bytes` of values at a time, or one record that is larger. A
    /// source of small records need not heed it.
    fn keep_within(&mut self, _bytes: usize) {}

    /// How long a batch may be worked on before its reader is taken for hanging: Kafka's `max.poll.interval.ms`.
    fn patience(&self) -> Duration {
        Duration::from_secs(300)
    }
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Records whose outputs are published and which are done.
    pub done: usize,
    /// Records that were not committed, because their partition was taken away or the transaction was aborted.
    /// They are handed out again, here or elsewhere.
    pub returned: usize,
}

/// Publishes outputs and marks their inputs as done, both or neither.
#[async_trait]
pub trait Committer: Send {
    /// Publishes every output of `done` and moves past its inputs, in one step.
    ///
    /// # Errors
    ///
    /// [`TransportError::Fenced`] and the like, after which this exchange is of no more use.
    async fn commit(&mut self, done: Vec<Completed>) -> Result<Committed, TransportError>;
}

/// One stage replica's way in and out. The two halves may be used at the same time, so that the next batch is
/// worked on while the last one commits.
pub struct Exchange {
    /// The way in.
    pub source: Box<dyn Source>,
    /// The way out.
    pub committer: Box<dyn Committer>,
}

/// Sends records that answer to no input: the gateway's, `duet send`'s.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Sends one record and returns when the broker has it for good.
    ///
    /// # Errors
    ///
    /// Where the broker did not take it within the configured time.
    async fn send(&self, record: Outgoing) -> Result<Origin, TransportError>;

    /// Bytes of the largest value that should be sent to `topic`. What is larger goes by reference.
    async fn inline_limit(&self, _topic: Topic) -> usize {
        usize::MAX
    }
}

/// What is on the broker under one topic's name.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct TopicDescription {
    /// The topic.
    pub topic: Topic,
    /// Its full name on the broker.
    pub name: String,
    /// Number of partitions; 0 where the topic is missing.
    pub partitions: usize,
    /// Records in it, committed or not, from the oldest kept to the newest.
    pub records: i64,
    /// Its settings that differ from the broker's defaults, where the broker tells them.
    pub settings: Vec<(String, String)>,
}

/// A cluster, real or embedded.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Joins consumer group `group` on `topics`, with a way to commit.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer, a topic is missing or access is refused.
    async fn exchange(&self, group: &str, topics: &[Topic]) -> Result<Exchange, TransportError>;

    /// A way to send.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer or access is refused.
    async fn sink(&self) -> Result<Arc<dyn Sink>, TransportError>;

    /// Reads `topics` from `start` on, outside any group.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer, a topic is missing or access is refused.
    async fn tail(&self, topics: &[Topic], start: Start)
    -> Result<Box<dyn Source>, TransportError>;

    /// Creates the topics that are missing and returns those.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer or the principal may not create topics.
    async fn create_topics(&self) -> Result<Vec<Topic>, TransportError>;

    /// What is there under every topic's name.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer.
    async fn describe_topics(&self) -> Result<Vec<TopicDescription>, TransportError>;
}

/// A topic from a point in time to its end as it was found: what is written meanwhile is not part of it.
#[async_trait]
pub trait History: Send {
    /// Up to `max` records, in order within a partition; `None` at the end. A few records where they are large.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer for longer than a request may take.
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Record>>, TransportError>;

    /// Offsets that were read, and offsets in all.
    fn progress(&self) -> (u64, u64);
}

/// Writes groups of records.
#[async_trait]
pub trait Writer: Send {
    /// Writes all of `records`, or none of them, and returns when the broker has them for good. (Where delivery is at
    /// least once, the first of them may be there without the rest.)
    ///
    /// # Errors
    ///
    /// [`TransportError::Fenced`] where another writer of this name took over; else where the broker did not take them.
    async fn write(&mut self, records: Vec<Outgoing>) -> Result<(), TransportError>;
}

/// A cluster as one who looks back sees it: what is there, and what of it is written anew.
#[async_trait]
pub trait Archive: Broker {
    /// Reads `topic`, from its oldest record or from the first one of `since` on, outside any group.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer, the topic is missing or access is refused.
    async fn history(
        &self,
        topic: Topic,
        since: Option<DateTime<Utc>>,
    ) -> Result<Box<dyn History>, TransportError>;

    /// The writer of that name. Whoever was it before can write no more, and what it had begun is whole or gone.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer or access is refused.
    async fn writer(&self, name: &str) -> Result<Box<dyn Writer>, TransportError>;
}
