//! A real cluster behind [`Broker`], by librdkafka.
//!
//! ```text
//! cluster ─► polling thread ─► bounded buffer ─► Source ─► (a stage works) ─► Committer ─► cluster
//!               source.rs         shared.rs                                  committer.rs, outbox.rs
//! ```
//!
//! What it promises, and where: only committed records are read, in order within a partition (`config.rs`,
//! `source.rs`); polling goes on whatever a stage does (`source.rs`); outputs and input offsets are one transaction,
//! which is over before a partition passes to another replica (`committer.rs`, `shared.rs`); nothing stalls without
//! words in [`crate::SourceStatus`] (`trouble.rs`).

mod access;
mod admin;
mod bootstrap;
mod committer;
mod config;
mod convert;
mod ends;
mod held;
mod history;
mod outbox;
mod probe;
mod shared;
mod source;
mod trouble;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duet_case::Topic;
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};

pub use self::{
    access::{KafkaSasl, KafkaTls, Mechanism, Secret},
    config::{Delivery, KafkaConfig},
};
use self::{
    committer::KafkaCommitter,
    config::BUFFER_RECORDS,
    history::KafkaHistory,
    outbox::KafkaSink,
    probe::{Probe, blocking, unusable},
    shared::{Limits, Shared},
    source::{Client, Poller, Watch},
    writer::KafkaWriter,
};
use crate::{
    Archive, Broker, Exchange, History, Sink, Source, Start, TopicDescription, TransportError,
    Writer,
};

/// A Kafka cluster. Clones share nothing but the configuration: every exchange, sink and tail has clients of its own.
#[derive(Debug, Clone)]
pub struct KafkaBroker {
    config: KafkaConfig,
}

impl KafkaBroker {
    /// Checks that the configuration can work and that the cluster answers.
    ///
    /// # Errors
    ///
    /// [`TransportError::Configuration`], or within `request_timeout_ms` [`TransportError::Unreachable`] or
    /// [`TransportError::Refused`].
    pub async fn connect(config: &KafkaConfig) -> Result<Self, TransportError> {
        config.validate()?;
        let asked = config.clone();
        blocking(move || Probe::open(&asked)?.knock()).await?;
        Ok(Self { config: config.clone() })
    }

    /// Creates those of `topics` that are missing and returns them.
    ///
    /// # Errors
    ///
    /// As [`Broker::create_topics`].
    pub async fn create(&self, topics: &[Topic]) -> Result<Vec<Topic>, TransportError> {
        admin::create(&self.config, topics).await
    }

    /// A consumer that is named `group` and does nothing yet.
    fn consumer(config: &KafkaConfig, group: &str) -> Result<Arc<Client>, TransportError> {
        let limits = Limits { records: BUFFER_RECORDS, bytes: config.buffer_bytes };
        let watch = Watch::new(config, Shared::new(limits));
        let consumer = config.consumer(group)?.create_with_context(watch);
        Ok(Arc::new(consumer.map_err(|error| unusable(&error))?))
    }
}

fn open_exchange(
    config: &KafkaConfig,
    group: &str,
    topics: &[Topic],
) -> Result<Exchange, TransportError> {
    let found = Probe::open(config)?.require(topics)?;
    let names: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
    let consumer = KafkaBroker::consumer(config, group)?;
    // First the way out: a replica that cannot commit should not take partitions.
    let committer = KafkaCommitter::open(config, group, &consumer)?;
    consumer
        .subscribe(&names)
        .map_err(|error| TransportError::Client { reason: error.to_string() })?;
    let source = Poller::start(consumer, true)?;
    Ok(Exchange { source: Box::new(source), committer: Box::new(committer) })
}

fn open_tail(
    config: &KafkaConfig,
    topics: &[Topic],
    start: Start,
) -> Result<Box<dyn Source>, TransportError> {
    let probe = Probe::open(config)?;
    let mut list = TopicPartitionList::new();
    let mut places = Vec::new();
    for found in probe.require(topics)? {
        for partition in found.partitions {
            // Asked for now, so that nothing sent after this call is missed.
            let offset = match start {
                Start::Beginning => Offset::Beginning,
                Start::End => Offset::Offset(probe.watermarks(&found.name, partition)?.1),
            };
            list.add_partition_offset(&found.name, partition, offset)
                .map_err(|error| TransportError::Client { reason: error.to_string() })?;
            places.push((found.topic, partition));
        }
    }
    let consumer = KafkaBroker::consumer(config, &config.tail_group())?;
    consumer.client().context().shared.assign(places);
    consumer.assign(&list).map_err(|error| TransportError::Client { reason: error.to_string() })?;
    Ok(Box::new(Poller::start(consumer, false)?))
}

#[async_trait]
impl Broker for KafkaBroker {
    async fn exchange(&self, group: &str, topics: &[Topic]) -> Result<Exchange, TransportError> {
        let (config, group, topics) = (self.config.clone(), group.to_owned(), topics.to_vec());
        blocking(move || open_exchange(&config, &group, &topics)).await
    }

    async fn sink(&self) -> Result<Arc<dyn Sink>, TransportError> {
        let config = self.config.clone();
        let sink = blocking(move || {
            Probe::open(&config)?.knock()?;
            KafkaSink::open(&config)
        });
        Ok(Arc::new(sink.await?))
    }

    async fn tail(
        &self,
        topics: &[Topic],
        start: Start,
    ) -> Result<Box<dyn Source>, TransportError> {
        let (config, topics) = (self.config.clone(), topics.to_vec());
        blocking(move || open_tail(&config, &topics, start)).await
    }

    async fn create_topics(&self) -> Result<Vec<Topic>, TransportError> {
        admin::create(&self.config, &Topic::ALL).await
    }

    async fn describe_topics(&self) -> Result<Vec<TopicDescription>, TransportError> {
        admin::describe(&self.config).await
    }
}

#[async_trait]
impl Archive for KafkaBroker {
    async fn history(
        &self,
        topic: Topic,
        since: Option<DateTime<Utc>>,
    ) -> Result<Box<dyn History>, TransportError> {
        let config = self.config.clone();
        Ok(Box::new(blocking(move || KafkaHistory::open(&config, topic, since)).await?))
    }

    async fn writer(&self, name: &str) -> Result<Box<dyn Writer>, TransportError> {
        let (config, name) = (self.config.clone(), name.to_owned());
        Ok(Box::new(blocking(move || KafkaWriter::open(&config, &name)).await?))
    }
}
