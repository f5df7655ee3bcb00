//! Sending: many records at once within a commit, or one at a time.

use std::{
    collections::{HashMap, HashSet},
    error::Error,
    pin::pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use duet_case::Topic;
use rdkafka::{
    ClientContext,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Message},
    producer::{
        BaseRecord, FutureProducer, FutureRecord, Producer, ProducerContext, ThreadedProducer,
    },
};
use tokio::time::timeout;

use super::{
    KafkaConfig,
    access::Tokens,
    admin,
    bootstrap::Memory,
    config::STATISTICS_INTERVAL_MS,
    convert,
    probe::{Probe, blocking, unusable},
    trouble::{Listener, Trouble},
};
use crate::{Origin, Outgoing, Sink, TransportError};

/// A producer that knows when all of a batch has arrived.
pub(super) struct Outbox {
    pub(super) producer: ThreadedProducer<Post>,
}

/// The first record of a batch that could not be delivered.
pub(super) struct Undelivered {
    pub(super) error: KafkaError,
    /// Full name on the broker.
    pub(super) topic: String,
    pub(super) bytes: usize,
}

/// Receives what became of the records sent.
pub(super) struct Post {
    trouble: Trouble,
    tokens: Tokens,
    tally: Mutex<Tally>,
    settled: Condvar,
}

#[derive(Default)]
struct Tally {
    /// Tells the batches apart: what an earlier one still hears of does not count.
    batch: usize,
    pending: usize,
    failed: Option<Undelivered>,
}

impl Post {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Post {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.tokens.read()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.trouble.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.trouble.note(code, reason);
        }
    }
}

impl ProducerContext for Post {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: usize) {
        let mut tally = self.tally();
        if tally.batch != batch {
            return;
        }
        tally.pending -= 1;
        match result {
            Ok(_) => self.trouble.broker_is_up(),
            Err((error, message)) => {
                tally.failed.get_or_insert_with(|| Undelivered {
                    error: error.clone(),
                    topic: message.topic().to_owned(),
                    bytes: message.payload_len(),
                });
            }
        }
        if tally.pending == 0 || tally.failed.is_some() {
            self.settled.notify_all();
        }
    }
}

impl Outbox {
    /// # Errors
    ///
    /// Where the client refuses the configuration.
    pub(super) fn open(
        config: &KafkaConfig,
        transactional_id: Option<&str>,
    ) -> Result<Self, TransportError> {
        let client = match transactional_id {
            Some(id) => config.transactional(id),
            None => config.producer(),
        }?;
        let post = Post {
            trouble: Trouble::quiet(&config.bootstrap),
            tokens: config.tokens(),
            tally: Mutex::default(),
            settled: Condvar::new(),
        };
        let producer = client.create_with_context(post).map_err(|error| unusable(&error))?;
        Ok(Self { producer })
    }

    pub(super) fn trouble(&self) -> &Trouble {
        &self.producer.client().context().trouble
    }

    /// Sends all of `outputs` and waits until the broker has them, until `deadline` at most.
    ///
    /// # Errors
    ///
    /// The first record that did not arrive.
    pub(super) fn send_all<'a>(
        &self,
        config: &KafkaConfig,
        outputs: impl Iterator<Item = &'a Outgoing>,
        deadline: Instant,
    ) -> Result<(), Undelivered> {
        let post = self.producer.client().context();
        let batch = {
            let mut tally = post.tally();
            *tally = Tally { batch: tally.batch + 1, pending: 0, failed: None };
            tally.batch
        };
        let mut last = None;
        for output in outputs {
            post.tally().pending += 1;
            let sent = self.send_one(config, output, batch, deadline);
            if let Err(undelivered) = sent {
                post.tally().pending -= 1;
                return Err(undelivered);
            }
            last = Some(output);
        }
        let is_waiting = |tally: &mut Tally| tally.pending > 0 && tally.failed.is_none();
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut tally, _) = post
            .settled
            .wait_timeout_while(post.tally(), left, is_waiting)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = tally.failed.take() {
            return Err(failed);
        }
        match last {
            Some(output) if tally.pending > 0 => Err(Undelivered {
                error: KafkaError::Flush(Code::OperationTimedOut),
                topic: config.name_of(output.topic),
                bytes: output.value.len(),
            }),
            _ => {
                drop(tally);
                self.settle();
                Ok(())
            }
        }
    }

    /// The client forgets a record a moment after it told of its delivery; a commit before that would wait for a
    /// tenth of a second.
    fn settle(&self) {
        for _ in 0..100 {
            if self.producer.in_flight_count() == 0 {
                return;
            }
            sleep(Duration::from_micros(100));
        }
    }

    fn send_one(
        &self,
        config: &KafkaConfig,
        output: &Outgoing,
        batch: usize,
        deadline: Instant,
    ) -> Result<(), Undelivered> {
        let topic = config.name_of(output.topic);
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&topic, batch)
                .payload(&output.value[..])
                .headers(convert::headers(&output.headers));
        if let Some(key) = &output.key {
            record = record.key(&key[..]);
        }
        loop {
            let (error, unsent) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(refused) => refused,
            };
            let is_full = error.rdkafka_error_code() == Some(Code::QueueFull);
            if !is_full || Instant::now() >= deadline {
                let bytes = output.value.len();
                return Err(Undelivered { error, topic: topic.clone(), bytes });
            }
            record = unsent;
            sleep(Duration::from_millis(5));
        }
    }
}

/// Sends records one at a time.
pub(super) struct KafkaSink {
    config: KafkaConfig,
    producer: FutureProducer<Listener>,
    memory: Arc<Memory>,
    trouble: Arc<Trouble>,
    /// Topics that are known to exist.
    known: Mutex<HashSet<Topic>>,
    /// The largest records of topics, where their broker told or will not tell.
    largest: Mutex<HashMap<Topic, usize>>,
}

impl KafkaSink {
    /// # Errors
    ///
    /// Where the client refuses the configuration.
    pub(super) fn open(config: &KafkaConfig) -> Result<Self, TransportError> {
        let trouble = Arc::new(Trouble::new(&config.bootstrap));
        let listener = Listener::new(config, &trouble);
        let memory = Arc::clone(&listener.memory);
        let producer = config
            .producer()?
            .set("statistics.interval.ms", STATISTICS_INTERVAL_MS.to_string())
            .create_with_context(listener)
            .map_err(|error| unusable(&error))?;
        let (known, largest) = (Mutex::default(), Mutex::default());
        Ok(Self { config: config.clone(), producer, memory, trouble, known, largest })
    }

    fn largest(&self) -> MutexGuard<'_, HashMap<Topic, usize>> {
        self.largest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashSet<Topic>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `sending`, and sees to it that there is somebody to send to.
    async fn reaching_out<T>(&self, sending: impl Future<Output = T>) -> T {
        let mut sending = pin!(sending);
        let every = Duration::from_millis(STATISTICS_INTERVAL_MS);
        loop {
            if let Ok(sent) = timeout(every, &mut sending).await {
                return sent;
            }
            self.memory.refresh(self.producer.client(), &self.config.bootstrap);
        }
    }

    /// A producer would have a missing topic created by the broker, with settings that are not Duet's.
    async fn require(&self, topic: Topic) -> Result<(), TransportError> {
        if self.known().contains(&topic) {
            return Ok(());
        }
        let config = self.config.clone();
        blocking(move || Probe::open(&config)?.require(&[topic])).await?;
        self.known().insert(topic);
        Ok(())
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn send(&self, outgoing: Outgoing) -> Result<Origin, TransportError> {
        let topic = outgoing.topic;
        self.require(topic).await?;
        let name = self.config.name_of(topic);
        let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&name)
            .payload(&outgoing.value[..])
            .headers(convert::headers(&outgoing.headers));
        if let Some(key) = &outgoing.key {
            record = record.key(&key[..]);
        }
        let sending = self.producer.send(record, self.config.transaction_timeout());
        match self.reaching_out(sending).await {
            Ok(delivery) => {
                self.trouble.broker_is_up();
                let (partition, offset) = (delivery.partition, delivery.offset);
                Ok(Origin { topic, partition, offset, epoch: 0 })
            }
            Err((error, _)) => Err(match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                    TransportError::TooLarge { topic: name, bytes: outgoing.value.len() }
                }
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                    TransportError::UnknownTopic { topic: name }
                }
                _ => self.trouble.explain(&error),
            }),
        }
    }

    async fn inline_limit(&self, topic: Topic) -> usize {
        let held = self.largest().get(&topic).copied();
        if let Some(held) = held {
            return held;
        }
        let (limit, is_known) = match admin::max_message_bytes(&self.config, topic).await {
            Ok(told) => (self.config.inline_limit(told.unwrap_or(usize::MAX)), true),
            // A principal that may not see a topic's settings goes by its own.
            Err(TransportError::Refused { .. }) => (self.config.inline_limit(usize::MAX), true),
            Err(_) => (self.config.inline_limit(usize::MAX), false),
        };
        if is_known {
            self.largest().insert(topic, limit);
        }
        limit
    }
}
