//! How the cluster is reached: `[kafka]` in the configuration.

use std::{collections::BTreeMap, time::Duration};

use duet_case::Topic;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::{Deserialize, Serialize};

use crate::TransportError;

/// Room for headers and for what a batch adds around its records.
const HEAD_ROOM: usize = 1 << 20;
/// Bytes that the client fetches ahead, and as many again in this crate's buffer.
pub(super) const BUFFER_BYTES: usize = 64 << 20;
/// Records in this crate's buffer.
pub(super) const BUFFER_RECORDS: usize = 1000;
/// A replica that is gone for this long without a word loses its partitions.
const SESSION_TIMEOUT_MS: u64 = 20_000;
/// A replica that does not poll for this long loses its partitions.
const MAX_POLL_INTERVAL_MS: u64 = 300_000;
/// How often the client tells its state: lag is as fresh as this.
const STATISTICS_INTERVAL_MS: u64 = 2_000;

/// Settings of librdkafka that Duet makes itself, because its delivery rests on them, and where they are made.
const FORBIDDEN: &[(&str, &str)] = &[
    ("acks", "every record is acknowledged by all in-sync replicas"),
    ("allow.auto.create.topics", "topics are created by `duet topics create`, with their settings"),
    ("auto.commit.enable", "offsets are committed together with outputs"),
    ("auto.offset.reset", "a new group begins with the oldest record"),
    ("bootstrap.servers", "set kafka.bootstrap"),
    ("enable.auto.commit", "offsets are committed together with outputs"),
    ("enable.auto.offset.store", "offsets are committed together with outputs"),
    ("enable.idempotence", "producers are always idempotent"),
    ("enable.partition.eof", "Duet does not read it"),
    ("fetch.max.bytes", "set kafka.max_message_bytes"),
    ("fetch.message.max.bytes", "set kafka.max_message_bytes"),
    ("group.id", "groups are named after kafka.topic_prefix and the stage"),
    ("group.instance.id", "replicas come and go"),
    ("group.protocol", "Duet hands partitions over by the classic protocol"),
    ("isolation.level", "only committed records are read"),
    ("max.partition.fetch.bytes", "set kafka.max_message_bytes"),
    ("message.max.bytes", "set kafka.max_message_bytes"),
    ("message.timeout.ms", "set kafka.transaction_timeout_ms"),
    ("metadata.broker.list", "set kafka.bootstrap"),
    ("partition.assignment.strategy", "partitions are handed over cooperatively"),
    ("partitioner", "keys are placed as Kafka's Java client places them"),
    ("plugin.library.paths", "Duet loads no foreign code"),
    ("receive.message.max.bytes", "set kafka.max_message_bytes"),
    ("request.required.acks", "every record is acknowledged by all in-sync replicas"),
    ("socket.timeout.ms", "set kafka.request_timeout_ms"),
    ("statistics.interval.ms", "lag comes from it"),
    ("transaction.timeout.ms", "set kafka.transaction_timeout_ms"),
    ("transactional.id", "each replica has its own"),
];

/// What a stage's outputs and the move past its inputs are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Outputs and input offsets are one transaction.
    ExactlyOnce,
    /// Outputs first, then offsets: for brokers without transactions. A replica that dies between the two leaves
    /// outputs that come again, with the same `ce_id`.
    AtLeastOnce,
}

/// How the cluster is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// Servers to begin with, `host:port` with commas between.
    pub bootstrap: String,
    /// What the topics' names begin with.
    pub topic_prefix: String,
    /// Exactly once, or at least once.
    pub delivery: Delivery,
    /// Partitions of a topic that is created: as many replicas of a stage can work at a time.
    pub partitions: i32,
    /// Copies of a topic that is created; -1 is the broker's default.
    pub replication_factor: i32,
    /// Bytes of the largest record, headers included. Topics are created with it.
    pub max_message_bytes: usize,
    /// Hours that `images` and `dead-letters` are kept, where they are created here. They may hold what identifies
    /// a patient.
    pub guarded_retention_hours: u64,
    /// Milliseconds that a single request may take, and that a start waits for the cluster.
    pub request_timeout_ms: u64,
    /// Milliseconds that sending a record or completing a transaction may take. What a replica that died has begun
    /// is held against the readers of its outputs for as long.
    pub transaction_timeout_ms: u64,
    /// Further settings of librdkafka, passed on as they are: TLS and SASL, for instance.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".to_owned(),
            topic_prefix: "duet.".to_owned(),
            delivery: Delivery::ExactlyOnce,
            partitions: 3,
            replication_factor: -1,
            max_message_bytes: (32 << 20) + HEAD_ROOM,
            guarded_retention_hours: 72,
            request_timeout_ms: 8_000,
            transaction_timeout_ms: 30_000,
            properties: BTreeMap::new(),
        }
    }
}

impl KafkaConfig {
    /// # Errors
    ///
    /// [`TransportError::Configuration`] names the first key whose value cannot work.
    pub fn validate(&self) -> Result<(), TransportError> {
        let refuse = |reason: String| Err(TransportError::Configuration { reason });
        if self.bootstrap.trim().is_empty() {
            return refuse("kafka.bootstrap is empty, but it must be host:port".to_owned());
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !self.topic_prefix.chars().all(allowed) || self.topic_prefix.len() > 100 {
            return refuse(format!(
                "kafka.topic_prefix is {:?}, but it may have letters, digits, '.', '_' and '-', 100 at most",
                self.topic_prefix
            ));
        }
        if !(1..=10_000).contains(&self.partitions) {
            return refuse(format!(
                "kafka.partitions is {}, but it must be from 1 to 10000",
                self.partitions
            ));
        }
        if self.replication_factor != -1 && !(1..=100).contains(&self.replication_factor) {
            return refuse(format!(
                "kafka.replication_factor is {}, but it must be from 1 to 100, or -1 for the broker's default",
                self.replication_factor
            ));
        }
        if !(HEAD_ROOM..=(900 << 20)).contains(&self.max_message_bytes) {
            return refuse(format!(
                "kafka.max_message_bytes is {}, but it must be from 1 MiB to 900 MiB",
                self.max_message_bytes
            ));
        }
        if !(1_000..=300_000).contains(&self.request_timeout_ms) {
            return refuse(format!(
                "kafka.request_timeout_ms is {}, but it must be from 1000 to 300000",
                self.request_timeout_ms
            ));
        }
        if self.transaction_timeout_ms < self.request_timeout_ms + 100
            || self.transaction_timeout_ms > 900_000
        {
            return refuse(format!(
                "kafka.transaction_timeout_ms is {}, but it must be at least request_timeout_ms ({}) + 100 and at most 900000, the brokers' limit",
                self.transaction_timeout_ms, self.request_timeout_ms
            ));
        }
        for (name, why) in FORBIDDEN {
            if self.properties.contains_key(*name) {
                return refuse(format!(
                    "kafka.properties sets {name:?}, which Duet sets itself: {why}"
                ));
            }
        }
        Ok(())
    }

    /// The name of `topic` on the broker.
    pub fn name_of(&self, topic: Topic) -> String {
        format!("{}{}", self.topic_prefix, topic.name())
    }

    /// The topic that is called `name` on the broker.
    pub(super) fn topic_of(&self, name: &str) -> Option<Topic> {
        name.strip_prefix(&self.topic_prefix)?.parse().ok()
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(super) fn transaction_timeout(&self) -> Duration {
        Duration::from_millis(self.transaction_timeout_ms)
    }

    /// How long a replica may go without polling.
    pub(super) fn max_poll_interval(&self) -> Duration {
        let own = self.properties.get("max.poll.interval.ms").and_then(|text| text.parse().ok());
        Duration::from_millis(own.unwrap_or(MAX_POLL_INTERVAL_MS))
    }

    /// The largest record that `topic` takes, where it is created here. A dead letter is the original record with
    /// headers added, so it must be able to be larger.
    pub(super) fn topic_max_bytes(&self, topic: Topic) -> usize {
        match topic {
            Topic::DeadLetters => self.max_message_bytes + HEAD_ROOM,
            _ => self.max_message_bytes,
        }
    }

    /// What every client of the cluster is set to.
    pub(super) fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "duet")
            .set("socket.timeout.ms", self.request_timeout_ms.to_string())
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false")
            .set("receive.message.max.bytes", (self.fetch_bytes() + (32 << 20)).to_string())
            .set("message.max.bytes", self.record_bytes().to_string())
            // What matters comes by the error callback; the rest is for those who look for a fault.
            .set_log_level(RDKafkaLogLevel::Notice);
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    pub(super) fn consumer(&self, group: &str) -> ClientConfig {
        let mut client = self.client();
        for (name, value) in [
            ("group.id", group.to_owned()),
            ("enable.auto.commit", "false".to_owned()),
            ("enable.auto.offset.store", "false".to_owned()),
            ("auto.offset.reset", "earliest".to_owned()),
            ("isolation.level", "read_committed".to_owned()),
            ("partition.assignment.strategy", "cooperative-sticky".to_owned()),
            ("allow.auto.create.topics", "false".to_owned()),
            ("statistics.interval.ms", STATISTICS_INTERVAL_MS.to_string()),
            ("fetch.message.max.bytes", self.record_bytes().to_string()),
            ("fetch.max.bytes", self.fetch_bytes().to_string()),
            ("fetch.queue.backoff.ms", "100".to_owned()),
            ("queued.max.messages.kbytes", (BUFFER_BYTES >> 10).to_string()),
        ] {
            client.set(name, value);
        }
        // These two may be set by hand.
        for (name, value) in [
            ("session.timeout.ms", SESSION_TIMEOUT_MS),
            ("max.poll.interval.ms", MAX_POLL_INTERVAL_MS),
        ] {
            if !self.properties.contains_key(name) {
                client.set(name, value.to_string());
            }
        }
        client
    }

    pub(super) fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("queue.buffering.max.kbytes", (self.fetch_bytes() >> 9).to_string());
        client
    }

    pub(super) fn transactional(&self, id: &str) -> ClientConfig {
        let mut client = self.producer();
        client
            .set("transactional.id", id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string());
        client
    }

    /// The largest record with what the protocol puts around it.
    fn record_bytes(&self) -> usize {
        self.topic_max_bytes(Topic::DeadLetters) + HEAD_ROOM
    }

    fn fetch_bytes(&self) -> usize {
        self.record_bytes().max(BUFFER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_duet_rests_on_cannot_be_set_by_hand() {
        for (name, _) in FORBIDDEN {
            let properties = BTreeMap::from([((*name).to_owned(), "x".to_owned())]);
            let config = KafkaConfig { properties, ..KafkaConfig::default() };
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn every_client_accepts_the_settings() {
        let mut config = KafkaConfig::default();
        config.properties.insert("security.protocol".to_owned(), "ssl".to_owned());
        config.validate().unwrap();
        for client in
            [config.client(), config.consumer("g"), config.producer(), config.transactional("t")]
        {
            client.create_native_config().unwrap();
        }
        config.max_message_bytes = 900 << 20;
        config.validate().unwrap();
        config.consumer("g").create_native_config().unwrap();
        config.producer().create_native_config().unwrap();
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let ok = KafkaConfig::default();
        for (name, config) in [
            ("bootstrap", KafkaConfig { bootstrap: " ".to_owned(), ..ok.clone() }),
            ("topic_prefix", KafkaConfig { topic_prefix: "a b".to_owned(), ..ok.clone() }),
            ("partitions", KafkaConfig { partitions: 0, ..ok.clone() }),
            ("replication_factor", KafkaConfig { replication_factor: 0, ..ok.clone() }),
            ("max_message_bytes", KafkaConfig { max_message_bytes: 10, ..ok.clone() }),
            ("request_timeout_ms", KafkaConfig { request_timeout_ms: 1, ..ok.clone() }),
            ("transaction_timeout_ms", KafkaConfig { transaction_timeout_ms: 8_000, ..ok }),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("kafka.{name}")), "{error}");
        }
    }

    #[test]
    fn names_go_there_and_back() {
        let config = KafkaConfig::default();
        for topic in Topic::ALL {
            assert_eq!(config.topic_of(&config.name_of(topic)), Some(topic));
        }
        assert_eq!(config.topic_of("images"), None);
    }
}
