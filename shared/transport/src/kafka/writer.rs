//! Groups of records that are written whole or not at all: one transaction each, under a name that one holds at a time.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use duet_case::Topic;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::Producer,
};

use super::{
    Delivery, KafkaConfig,
    committer::{insist_until, open_outbox},
    outbox::{Outbox, Undelivered},
    probe::{Probe, blocking},
};
use crate::{Outgoing, TransportError, Writer};

pub(super) struct KafkaWriter(Arc<Mutex<Inner>>);

struct Inner {
    config: KafkaConfig,
    outbox: Outbox,
    is_transactional: bool,
    /// Topics that are known to exist.
    known: HashSet<Topic>,
}

impl KafkaWriter {
    /// Takes the name over from whoever holds it. Blocks.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer, or the principal may not use transactions.
    pub(super) fn open(config: &KafkaConfig, name: &str) -> Result<Self, TransportError> {
        let is_transactional = config.delivery == Delivery::ExactlyOnce;
        let outbox = open_outbox(config, is_transactional.then_some(name))?;
        let config = config.clone();
        Ok(Self(Arc::new(Mutex::new(Inner {
            config,
            outbox,
            is_transactional,
            known: HashSet::new(),
        }))))
    }
}

#[async_trait]
impl Writer for KafkaWriter {
    async fn write(&mut self, records: Vec<Outgoing>) -> Result<(), TransportError> {
        let inner = Arc::clone(&self.0);
        blocking(move || inner.lock().unwrap_or_else(PoisonError::into_inner).write(&records)).await
    }
}

impl Inner {
    fn write(&mut self, records: &[Outgoing]) -> Result<(), TransportError> {
        self.require_topics(records)?;
        let deadline = Instant::now() + self.config.transaction_timeout();
        if !self.is_transactional {
            return self.send(records, deadline);
        }
        let producer = &self.outbox.producer;
        producer.begin_transaction().map_err(|error| self.explain(&error))?;
        let written = self.send(records, deadline).and_then(|()| {
            insist_until(deadline, |limit| producer.commit_transaction(limit))
                .map_err(|error| self.explain(&error))
        });
        if written.is_err() {
            // Where this fails as well, the next writer of the name ends the transaction.
            let _open = producer.abort_transaction(self.config.request_timeout());
        }
        written
    }

    fn send(&self, records: &[Outgoing], deadline: Instant) -> Result<(), TransportError> {
        self.outbox.send_all(&self.config, records.iter(), deadline).map_err(|undelivered| {
            let Undelivered { error, topic, bytes } = undelivered;
            match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                    TransportError::TooLarge { topic, bytes }
                }
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                    TransportError::UnknownTopic { topic }
                }
                _ => self.explain(&error),
            }
        })
    }

    fn explain(&self, error: &KafkaError) -> TransportError {
        // Once the client has fallen out with the broker for good, its calls say no more than that they failed.
        let fatal = self.outbox.producer.client().fatal_error();
        let code = fatal.as_ref().map(|(code, _)| *code).or_else(|| error.rdkafka_error_code());
        match code {
            Some(
                Code::Fenced
                | Code::ProducerFenced
                | Code::InvalidProducerEpoch
                | Code::InvalidProducerIdMapping,
            ) => TransportError::Fenced {
                reason: fatal.map_or_else(|| error.to_string(), |(_, reason)| reason),
            },
            _ => self.outbox.trouble().explain(error),
        }
    }

    /// A producer would have a missing topic created by the broker, with settings that are not Duet's.
    fn require_topics(&mut self, records: &[Outgoing]) -> Result<(), TransportError> {
        let unknown: HashSet<Topic> = records
            .iter()
            .map(|record| record.topic)
            .filter(|topic| !self.known.contains(topic))
            .collect();
        if !unknown.is_empty() {
            let unknown: Vec<_> = unknown.into_iter().collect();
            Probe::open(&self.config)?.require(&unknown)?;
            self.known.extend(unknown);
        }
        Ok(())
    }
}
