//! Questions to the cluster that are answered in seconds or not at all.

use std::{
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use duet_case::Topic;
use rdkafka::{
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::Metadata,
};

use super::{
    KafkaConfig,
    trouble::{Kind, Listener, Trouble},
};
use crate::TransportError;

/// How long a single question waits before the client's own words are read.
const SLICE: Duration = Duration::from_secs(1);
/// How long a topic may be missing before it is: one that was created a moment ago is not known to every broker yet.
const GRACE: Duration = Duration::from_secs(1);

/// A client that belongs to no group and reads nothing. Its calls block.
pub(super) struct Probe {
    config: KafkaConfig,
    consumer: BaseConsumer<Listener>,
    trouble: Arc<Trouble>,
}

/// A topic as the cluster has it.
pub(super) struct Found {
    pub(super) topic: Topic,
    pub(super) name: String,
    /// Empty where the topic is missing.
    pub(super) partitions: Vec<i32>,
}

impl Probe {
    /// # Errors
    ///
    /// Where the client refuses the configuration.
    pub(super) fn open(config: &KafkaConfig) -> Result<Self, TransportError> {
        let trouble = Arc::new(Trouble::quiet(&config.bootstrap));
        let mut client = config.client()?;
        client
            .set("allow.auto.create.topics", "false")
            // Why a broker hung up is told in a line of this level alone.
            .set("log.connection.close", "true")
            .set_log_level(RDKafkaLogLevel::Info);
        let consumer = client
            .create_with_context(Listener::new(config, &trouble))
            .map_err(|error| unusable(&error))?;
        Ok(Self { config: config.clone(), consumer, trouble })
    }

    /// Asks until there is an answer, the credentials are refused or the time is up.
    fn ask<T>(
        &self,
        question: impl Fn(&BaseConsumer<Listener>, Duration) -> Result<T, KafkaError>,
    ) -> Result<T, TransportError> {
        let deadline = Instant::now() + self.config.request_timeout();
        self.serve();
        loop {
            let error = match question(&self.consumer, SLICE) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.serve();
            let is_refused = matches!(self.trouble.kind(), Some(Kind::Credentials));
            if is_refused || Instant::now() >= deadline {
                return Err(self.trouble.explain(&error));
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// Serves what the client has to tell, so that its words are known, and what it asks for: a bearer token.
    fn serve(&self) {
        // Nothing comes of a poll that served an event as well as of one that found none.
        for _ in 0..100 {
            let _no_record = self.consumer.poll(Duration::ZERO);
        }
    }

    fn metadata(&self, topic: Option<&str>) -> Result<Metadata, TransportError> {
        self.ask(|consumer, limit| consumer.fetch_metadata(topic, limit))
    }

    /// Whether anybody is there.
    ///
    /// # Errors
    ///
    /// [`TransportError::Unreachable`] or [`TransportError::Refused`].
    pub(super) fn knock(&self) -> Result<(), TransportError> {
        // A topic's metadata costs less than the whole cluster's.
        self.metadata(Some(&self.config.name_of(Topic::Images))).map(|_| ())
    }

    /// What the cluster has under the names of `topics`.
    ///
    /// # Errors
    ///
    /// Where there is no answer, or a topic may not be seen.
    pub(super) fn find(&self, topics: &[Topic]) -> Result<Vec<Found>, TransportError> {
        topics.iter().map(|&topic| self.find_one(topic)).collect()
    }

    fn find_one(&self, topic: Topic) -> Result<Found, TransportError> {
        let name = self.config.name_of(topic);
        let metadata = self.metadata(Some(&name))?;
        let described = metadata.topics().iter().find(|found| found.name() == name);
        let mut partitions: Vec<i32> = described
            .into_iter()
            .flat_map(|found| found.partitions())
            .map(rdkafka::metadata::MetadataPartition::id)
            .collect();
        partitions.sort_unstable();
        match described.and_then(|found| found.error()).map(Code::from) {
            Some(Code::TopicAuthorizationFailed) => Err(TransportError::Refused {
                reason: format!("this principal may not describe topic {name}"),
            }),
            // One that was created a moment ago has no leader yet.
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::LeaderNotAvailable)
            | None => Ok(Found { topic, name, partitions }),
            Some(code) => Err(self.trouble.explain(&KafkaError::MetadataFetch(code))),
        }
    }

    /// As [`Probe::find`], but a missing topic is an error.
    ///
    /// # Errors
    ///
    /// As [`Probe::find`], and [`TransportError::UnknownTopic`].
    pub(super) fn require(&self, topics: &[Topic]) -> Result<Vec<Found>, TransportError> {
        self.require_within(GRACE, topics)
    }

    /// As [`Probe::require`], with `limit` for topics to appear.
    ///
    /// # Errors
    ///
    /// As [`Probe::require`].
    pub(super) fn require_within(
        &self,
        limit: Duration,
        topics: &[Topic],
    ) -> Result<Vec<Found>, TransportError> {
        let deadline = Instant::now() + limit;
        loop {
            let found = self.find(topics)?;
            match found.iter().find(|found| found.partitions.is_empty()) {
                None => return Ok(found),
                Some(missing) if Instant::now() >= deadline => {
                    return Err(TransportError::UnknownTopic { topic: missing.name.clone() });
                }
                Some(_) => sleep(Duration::from_millis(50)),
            }
        }
    }

    /// The offsets of the oldest record and after the newest one.
    ///
    /// # Errors
    ///
    /// Where there is no answer.
    pub(super) fn watermarks(
        &self,
        name: &str,
        partition: i32,
    ) -> Result<(i64, i64), TransportError> {
        self.ask(|consumer, limit| consumer.fetch_watermarks(name, partition, limit))
    }
}

/// `error` of creating a client.
pub(super) fn unusable(error: &KafkaError) -> TransportError {
    let reason = match error {
        // Without the value, which may be a secret.
        KafkaError::ClientConfig(_, what, name, _) => {
            format!("kafka.properties sets {name}, which the client refuses: {what}")
        }
        error => format!("{error}; see kafka.tls, kafka.sasl and kafka.properties"),
    };
    TransportError::Configuration { reason }
}

/// Runs `work`, which blocks, beside the async runtime.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
) -> Result<T, TransportError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|crashed| {
        Err(TransportError::Client { reason: format!("a call of the client crashed: {crashed}") })
    })
}
