//! How the cluster is reached: `[kafka]` in the configuration.

use std::{collections::BTreeMap, time::Duration};

use duet_case::Topic;
use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::{Deserialize, Serialize};

use super::access::{KafkaSasl, KafkaTls};
use crate::TransportError;

/// Room for headers and for what a batch adds around its records.
const HEAD_ROOM: usize = 1 << 20;
/// Less than a topic's largest record: what is around a value that is sent.
const RECORD_ROOM: usize = 64 << 10;
/// Records in this crate's buffer.
pub(super) const BUFFER_RECORDS: usize = 1000;
/// A replica that is gone for this long without a word loses its partitions.
const SESSION_TIMEOUT_MS: u64 = 20_000;
/// A replica that does not poll for this long loses its partitions.
const MAX_POLL_INTERVAL_MS: u64 = 300_000;
/// How long the polling thread stands still for want of room before it pauses its partitions. Pausing throws away
/// what the client has fetched ahead, so it is the exception; standing still keeps a rebalance waiting.
const STILL_MS: u64 = 10_000;
/// How often the client tells its state: lag is as fresh as this.
pub(super) const STATISTICS_INTERVAL_MS: u64 = 2_000;

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
    ("queued.max.messages.kbytes", "set kafka.buffer_bytes"),
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
    /// Bytes of records that are fetched ahead, and as many again that wait before a stage; one record more of each
    /// where it is larger.
    pub buffer_bytes: usize,
    /// Hours that `images` and `dead-letters` are kept, where they are created here, and the files in the blob store's
    /// inbox. They may hold what identifies a patient.
    pub guarded_retention_hours: u64,
    /// Milliseconds that a single request may take, and that a start waits for the cluster.
    pub request_timeout_ms: u64,
    /// Milliseconds that sending a record or completing a transaction may take. What a replica that died has begun
    /// is held against the readers of its outputs for as long.
    pub transaction_timeout_ms: u64,
    /// How the cluster is known.
    pub tls: KafkaTls,
    /// Who Duet is to it.
    pub sasl: KafkaSasl,
    /// Further settings of librdkafka, passed on as they are.
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
            buffer_bytes: 64 << 20,
            guarded_retention_hours: 72,
            request_timeout_ms: 8_000,
            transaction_timeout_ms: 30_000,
            tls: KafkaTls::default(),
            sasl: KafkaSasl::default(),
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
        if !((1 << 20)..=(1 << 30)).contains(&self.buffer_bytes) {
            return refuse(format!(
                "kafka.buffer_bytes is {}, but it must be from 1 MiB to 1 GiB",
                self.buffer_bytes
            ));
        }
        if !(1..=87_600).contains(&self.guarded_retention_hours) {
            return refuse(format!(
                "kafka.guarded_retention_hours is {}, but it must be from 1 to 87600",
                self.guarded_retention_hours
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
        self.check_access().or_else(refuse)?;
        self.validate_poll_interval().map_err(|reason| TransportError::Configuration { reason })
    }

    /// Polling goes on while a stage works, but not while partitions are handed over: a commit that has begun is then
    /// waited for. All of it has to fit between two polls.
    fn validate_poll_interval(&self) -> Result<(), String> {
        for name in ["max.poll.interval.ms", "session.timeout.ms"] {
            if let Some(text) = self.properties.get(name)
                && text.parse::<u64>().is_err()
            {
                return Err(format!(
                    "kafka.properties sets {name:?} to {text:?}, but it must be a whole number of milliseconds"
                ));
            }
        }
        let interval = self.milliseconds("max.poll.interval.ms", MAX_POLL_INTERVAL_MS);
        let session = self.milliseconds("session.timeout.ms", SESSION_TIMEOUT_MS);
        if session > interval {
            return Err(format!(
                "kafka.properties: session.timeout.ms is {session}, but it must not be more than max.poll.interval.ms, which is {interval}"
            ));
        }
        let (transaction, request) = (self.transaction_timeout_ms, self.request_timeout_ms);
        let still = u64::try_from(self.stands_still().as_millis()).unwrap_or(u64::MAX);
        // A producer is opened, a transaction is tried, and a producer is opened again in the place of a broken one.
        // Topics are looked up, the transaction is taken back, offsets are asked for and gone back to.
        let worst = 3 * transaction + 4 * request + 1_000 + still;
        if worst > interval {
            return Err(format!(
                "kafka.properties: max.poll.interval.ms is {interval}, but polling may stand still for {worst} ms: 3 x kafka.transaction_timeout_ms ({transaction}) + 4 x kafka.request_timeout_ms ({request}) + 1000 for topics to appear + {still} of back-pressure; raise it, or lower those"
            ));
        }
        Ok(())
    }

    fn milliseconds(&self, property: &str, default: u64) -> u64 {
        self.properties.get(property).and_then(|text| text.parse().ok()).unwrap_or(default)
    }

    /// How long the polling thread waits for room.
    pub(super) fn stands_still(&self) -> Duration {
        Duration::from_millis(STILL_MS).min(self.max_poll_interval() / 3)
    }

    /// The name of `topic` on the broker.
    pub fn name_of(&self, topic: Topic) -> String {
        format!("{}{}", self.topic_prefix, topic.name())
    }

    /// The group of readers outside any group: the client wants a name, nobody joins it and nothing is kept under it.
    pub fn tail_group(&self) -> String {
        format!("{}tail", self.topic_prefix)
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

    /// How long a replica may go without polling (`max.poll.interval.ms`), and a batch be in work before the replica is
    /// taken for hanging.
    pub fn max_poll_interval(&self) -> Duration {
        Duration::from_millis(self.milliseconds("max.poll.interval.ms", MAX_POLL_INTERVAL_MS))
    }

    /// Bytes of the largest value that goes into a topic that takes records of `max_message_bytes`.
    pub(super) fn inline_limit(&self, max_message_bytes: usize) -> usize {
        self.max_message_bytes.min(max_message_bytes).saturating_sub(RECORD_ROOM)
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
    ///
    /// # Errors
    ///
    /// Names the file of `kafka.tls` or `kafka.sasl` that cannot be read.
    pub(super) fn client(&self) -> Result<ClientConfig, TransportError> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", "duet")
            .set("socket.timeout.ms", self.request_timeout_ms.to_string())
            .set("socket.nagle.disable", "true")
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "2000")
            .set("log.connection.close", "false")
            .set("receive.message.max.bytes", self.receive_bytes().to_string())
            .set("message.max.bytes", self.record_bytes().to_string())
            // What matters comes by the error callback; the rest is for those who look for a fault.
            .set_log_level(RDKafkaLogLevel::Notice);
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        self.set_access(&mut client)?;
        Ok(client)
    }

    pub(super) fn consumer(&self, group: &str) -> Result<ClientConfig, TransportError> {
        let mut client = self.client()?;
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
            ("queued.max.messages.kbytes", (self.buffer_bytes >> 10).to_string()),
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
        Ok(client)
    }

    pub(super) fn producer(&self) -> Result<ClientConfig, TransportError> {
        let mut client = self.client()?;
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "1")
            .set("partitioner", "murmur2_random")
            .set("message.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("queue.buffering.max.kbytes", (self.queue_bytes() >> 10).to_string());
        Ok(client)
    }

    pub(super) fn transactional(&self, id: &str) -> Result<ClientConfig, TransportError> {
        let mut client = self.producer()?;
        client
            .set("transactional.id", id)
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string());
        Ok(client)
    }

    /// The largest record with what the protocol puts around it.
    fn record_bytes(&self) -> usize {
        self.topic_max_bytes(Topic::DeadLetters) + HEAD_ROOM
    }

    fn fetch_bytes(&self) -> usize {
        self.record_bytes().max(self.buffer_bytes)
    }

    /// The largest answer. Clients that fetch nothing keep the client's own limit on fetching, 50 MiB, and want more.
    fn receive_bytes(&self) -> usize {
        self.fetch_bytes().max(32 << 20) + (32 << 20)
    }

    /// What a producer holds until the broker has it; who sends more waits.
    fn queue_bytes(&self) -> usize {
        (2 * self.record_bytes()).max(self.buffer_bytes)
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
            client.unwrap().create_native_config().unwrap();
        }
        config.buffer_bytes = 1 << 20;
        config.max_message_bytes = 1 << 20;
        config.validate().unwrap();
        for client in [config.client(), config.consumer("g")] {
            // Only a client that is made says which of its settings do not go together.
            let made: Result<rdkafka::consumer::BaseConsumer, _> = client.unwrap().create();
            made.unwrap();
        }
        config.buffer_bytes = 1 << 30;
        config.max_message_bytes = 900 << 20;
        config.validate().unwrap();
        config.consumer("g").unwrap().create_native_config().unwrap();
        config.producer().unwrap().create_native_config().unwrap();
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
            ("buffer_bytes", KafkaConfig { buffer_bytes: 10, ..ok.clone() }),
            ("guarded_retention_hours", KafkaConfig { guarded_retention_hours: 0, ..ok.clone() }),
            ("request_timeout_ms", KafkaConfig { request_timeout_ms: 1, ..ok.clone() }),
            ("transaction_timeout_ms", KafkaConfig { transaction_timeout_ms: 8_000, ..ok }),
        ] {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("kafka.{name}")), "{error}");
        }
    }

    #[test]
    fn what_does_not_fit_between_two_polls_is_refused_with_the_sum() {
        let check = |interval: &str, session: &str, says: Option<&str>| {
            let properties = [("max.poll.interval.ms", interval), ("session.timeout.ms", session)];
            let properties = properties.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let config = KafkaConfig { properties: properties.into(), ..KafkaConfig::default() };
            match (config.validate(), says) {
                (Ok(()), None) => {}
                (Err(error), Some(says)) => {
                    assert!(error.to_string().contains(says), "{error}");
                }
                (result, says) => panic!("{interval} {session}: {result:?}, {says:?}"),
            }
        };
        // 3 x 30000 + 4 x 8000 + 1000 + 10000
        check("133000", "20000", None);
        check(
            "132999",
            "20000",
            Some("may stand still for 133000 ms: 3 x kafka.transaction_timeout_ms (30000)"),
        );
        check("133000", "133001", Some("session.timeout.ms is 133001"));
        check("five minutes", "20000", Some("\"five minutes\""));
        assert_eq!(KafkaConfig::default().max_poll_interval(), Duration::from_secs(300));
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
