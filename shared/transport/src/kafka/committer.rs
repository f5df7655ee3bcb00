//! The way out: outputs and the move past their inputs, both or neither.
//!
//! Exactly once (KIP-447): one transaction with the outputs and the offsets, fenced by the consumer group's metadata.
//! It is begun when all work is done, never before. At least once: outputs, then offsets.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError, Weak},
    thread::sleep,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use duet_case::Topic;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::Producer,
};
use tracing::warn;

use super::{
    Delivery, KafkaConfig,
    outbox::{Outbox, Undelivered},
    probe::{Probe, blocking},
    shared::{Place, Shared},
    source::Client,
    trouble::is_silence,
};
use crate::{Committed, Committer, Completed, TransportError};

/// How long a principal that may not write waits before it tries again, at first; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The same, at most: a right that was given is used after this long.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// How often a replica may be fenced without a commit between before it gives up. Once happens where the broker was
/// away for longer than a transaction may take.
const FENCED_IN_A_ROW: u32 = 3;

pub(super) struct KafkaCommitter(Arc<Mutex<Inner>>);

struct Inner {
    config: KafkaConfig,
    shared: Arc<Shared>,
    consumer: Weak<Client>,
    /// This replica's alone. `None` where delivery is at least once.
    transactional_id: Option<String>,
    /// `None` after a failure that the producer does not get over.
    outbox: Option<Outbox>,
    /// Topics that are known to exist.
    known: HashSet<Topic>,
    fenced: u32,
    /// How often in a row the principal was told that it may not write.
    forbidden: u32,
}

/// Why a commit did not come about.
enum Failure {
    /// The records are handed out again.
    Returned(String),
    /// As before, and the producer is of no more use.
    Broken(String),
    /// The principal may not write, which whoever gives out rights can change at any time. The records are handed out
    /// again after a while; `true` where the producer is of no more use.
    Forbidden(String, bool),
    /// Trying again would not help.
    Final(TransportError),
}

impl KafkaCommitter {
    /// A way to commit what `consumer` reads. Blocks.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer, or the principal may not use transactions.
    pub(super) fn open(
        config: &KafkaConfig,
        group: &str,
        consumer: &Arc<Client>,
    ) -> Result<Self, TransportError> {
        let is_exactly_once = config.delivery == Delivery::ExactlyOnce;
        let transactional_id =
            is_exactly_once.then(|| format!("{group}-{}", hex::encode(rand::random::<[u8; 8]>())));
        // A coordinator that is slow to answer ends no process: the first commit opens a producer then.
        let outbox = match open_outbox(config, transactional_id.as_deref()) {
            Ok(outbox) => Some(outbox),
            Err(error @ TransportError::Unreachable { .. }) => {
                warn!("no producer yet, the first commit tries again: {error}");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self(Arc::new(Mutex::new(Inner {
            config: config.clone(),
            shared: Arc::clone(&consumer.client().context().shared),
            consumer: Arc::downgrade(consumer),
            transactional_id,
            outbox,
            known: HashSet::new(),
            fenced: 0,
            forbidden: 0,
        }))))
    }
}

pub(super) fn open_outbox(
    config: &KafkaConfig,
    id: Option<&str>,
) -> Result<Outbox, TransportError> {
    let outbox = Outbox::open(config, id)?;
    if id.is_some() {
        // Waits for an earlier transaction of this id to end, or ends it.
        let limit = config.transaction_timeout();
        outbox
            .producer
            .init_transactions(limit)
            .map_err(|error| outbox.trouble().explain(&error))?;
    }
    Ok(outbox)
}

#[async_trait]
impl Committer for KafkaCommitter {
    async fn commit(&mut self, done: Vec<Completed>) -> Result<Committed, TransportError> {
        let inner = Arc::clone(&self.0);
        let (committed, pause) = blocking(move || {
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            let committed = inner.commit(done)?;
            Ok((committed, inner.pause()))
        })
        .await?;
        // Outside of every lock: partitions may be taken away meanwhile.
        tokio::time::sleep(pause).await;
        Ok(committed)
    }
}

impl Inner {
    fn commit(&mut self, done: Vec<Completed>) -> Result<Committed, TransportError> {
        let shared = Arc::clone(&self.shared);
        // A revocation that comes now waits until this is over.
        let _running = shared.hold_transactions();
        let (admitted, returned) = shared.admit(done);
        let count = admitted.len();
        if count == 0 {
            return Ok(Committed { done: 0, returned });
        }
        let next = next_offsets(&admitted);
        let failure = match self.publish(&admitted, &next) {
            Ok(()) => {
                self.fenced = 0;
                self.forbidden = 0;
                if let Some(consumer) = self.consumer.upgrade() {
                    consumer.client().context().trouble.is_committed();
                }
                shared.committed(&next);
                return Ok(Committed { done: count, returned });
            }
            Err(failure) => failure,
        };
        let given_up = match failure {
            Failure::Final(error) => Err(error),
            Failure::Returned(reason) => {
                warn!("not committed, the records are read again: {reason}");
                Ok(())
            }
            Failure::Broken(reason) => {
                warn!(
                    "not committed, a new producer takes over and the records are read again: {reason}"
                );
                self.renew(reason)
            }
            Failure::Forbidden(reason, is_broken) => {
                self.forbidden += 1;
                if is_broken {
                    self.outbox = None;
                }
                // Told once, and in readiness for as long as it lasts.
                if let Some(consumer) = self.consumer.upgrade() {
                    consumer.client().context().trouble.may_not_write(&reason);
                }
                Ok(())
            }
        };
        shared.rewind(next.into_keys());
        given_up.map(|()| Committed { done: 0, returned: returned + count })
    }

    /// How long to wait after the last commit.
    fn pause(&self) -> Duration {
        match self.forbidden {
            0 => Duration::ZERO,
            times => LONGEST_PAUSE.min(FIRST_PAUSE * 2_u32.saturating_pow(times.min(16) - 1)),
        }
    }

    /// Puts a new producer in the place of a broken one, which ends the transaction that the old one left open.
    fn renew(&mut self, reason: String) -> Result<(), TransportError> {
        self.outbox = None;
        self.fenced += 1;
        if self.fenced >= FENCED_IN_A_ROW {
            return Err(TransportError::Fenced { reason });
        }
        match open_outbox(&self.config, self.transactional_id.as_deref()) {
            Ok(outbox) => {
                self.outbox = Some(outbox);
                Ok(())
            }
            // The next commit tries again.
            Err(TransportError::Unreachable { .. } | TransportError::Refused { .. }) => {
                self.fenced = 0;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn publish(&mut self, done: &[Completed], next: &BTreeMap<Place, i64>) -> Result<(), Failure> {
        let Some(consumer) = self.consumer.upgrade() else {
            return Err(Failure::Returned("the source is closed".to_owned()));
        };
        self.require_topics(done)?;
        if self.outbox.is_none() {
            let opened = open_outbox(&self.config, self.transactional_id.as_deref());
            self.outbox = Some(opened.map_err(|error| match error {
                TransportError::Unreachable { .. } => Failure::Returned(error.to_string()),
                TransportError::Refused { reason } => Failure::Forbidden(reason, true),
                error => Failure::Final(error),
            })?);
        }
        let Some(outbox) = &self.outbox else {
            return Err(Failure::Returned("there is no producer".to_owned()));
        };
        let attempt = Attempt {
            config: &self.config,
            outbox,
            consumer: &consumer,
            deadline: Instant::now() + self.config.transaction_timeout(),
        };
        match self.config.delivery {
            Delivery::ExactlyOnce => attempt.transact(done, next),
            Delivery::AtLeastOnce => attempt.send_then_move(done, next),
        }
    }

    /// A producer would have a missing topic created by the broker, with settings that are not Duet's.
    fn require_topics(&mut self, done: &[Completed]) -> Result<(), Failure> {
        let outputs = done.iter().flat_map(|completed| &completed.outputs);
        let unknown: HashSet<Topic> = outputs
            .map(|output| output.topic)
            .filter(|topic| !self.known.contains(topic))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<_> = unknown.into_iter().collect();
        let found = Probe::open(&self.config).and_then(|probe| probe.require(&unknown));
        match found {
            Ok(_) => {
                self.known.extend(unknown);
                Ok(())
            }
            Err(error @ TransportError::Unreachable { .. }) => {
                Err(Failure::Returned(error.to_string()))
            }
            Err(TransportError::Refused { reason }) => Err(Failure::Forbidden(reason, false)),
            Err(error) => Err(Failure::Final(error)),
        }
    }
}

/// The offset after the last one done, for each partition.
fn next_offsets(done: &[Completed]) -> BTreeMap<Place, i64> {
    let mut next = BTreeMap::new();
    for completed in done {
        let origin = completed.origin;
        let after = next.entry((origin.topic, origin.partition)).or_insert(0);
        *after = (*after).max(origin.offset + 1);
    }
    next
}

/// One try to publish a batch.
struct Attempt<'a> {
    config: &'a KafkaConfig,
    outbox: &'a Outbox,
    consumer: &'a Client,
    deadline: Instant,
}

impl Attempt<'_> {
    fn transact(&self, done: &[Completed], next: &BTreeMap<Place, i64>) -> Result<(), Failure> {
        let producer = &self.outbox.producer;
        let result = producer
            .begin_transaction()
            .map_err(|error| failure_of(&error))
            .and_then(|()| self.fill(done, next));
        if let Err(failure) = result {
            return Err(self.abort(failure));
        }
        // From here on an abort may be too late: where no answer comes, only a new producer learns the outcome.
        self.insist(|limit| producer.commit_transaction(limit)).map_err(|error| {
            match failure_of(&error) {
                failure @ (Failure::Returned(_) | Failure::Forbidden(_, false))
                    if requires_abort(&error) =>
                {
                    self.abort(failure)
                }
                Failure::Returned(reason) => Failure::Broken(reason),
                failure => failure,
            }
        })
    }

    /// Everything of the transaction but its end.
    fn fill(&self, done: &[Completed], next: &BTreeMap<Place, i64>) -> Result<(), Failure> {
        self.send(done)?;
        let metadata = self.consumer.group_metadata().ok_or_else(|| {
            Failure::Returned("the client does not know its place in the group".to_owned())
        })?;
        // In this order: metadata read after the assignment was lost belongs to no member, and would not be fenced.
        if self.consumer.assignment_lost() {
            return Err(Failure::Returned("the partitions were lost".to_owned()));
        }
        let offsets = self.offsets(next)?;
        self.insist(|limit| {
            self.outbox.producer.send_offsets_to_transaction(&offsets, &metadata, limit)
        })
        .map_err(|error| failure_of(&error))
    }

    fn send_then_move(
        &self,
        done: &[Completed],
        next: &BTreeMap<Place, i64>,
    ) -> Result<(), Failure> {
        self.send(done)?;
        let offsets = self.offsets(next)?;
        loop {
            if self.consumer.assignment_lost() {
                return Err(Failure::Returned("the partitions were lost".to_owned()));
            }
            let Err(error) = self.consumer.commit(&offsets, CommitMode::Sync) else {
                return Ok(());
            };
            let heals = error
                .rdkafka_error_code()
                .is_some_and(|code| is_silence(code) || code == Code::RebalanceInProgress);
            if !heals || Instant::now() >= self.deadline {
                return Err(failure_of(&error));
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn send(&self, done: &[Completed]) -> Result<(), Failure> {
        let outputs = done.iter().flat_map(|completed| &completed.outputs);
        self.outbox.send_all(self.config, outputs, self.deadline).map_err(|undelivered| {
            let Undelivered { error, topic, bytes } = undelivered;
            match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                    Failure::Final(TransportError::TooLarge { topic, bytes })
                }
                Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                    Failure::Final(TransportError::UnknownTopic { topic })
                }
                _ => match failure_of(&error) {
                    Failure::Forbidden(reason, is_broken) => {
                        let reason =
                            format!("this principal may not write topic {topic} ({reason})");
                        Failure::Forbidden(reason, is_broken)
                    }
                    failure => failure,
                },
            }
        })
    }

    fn offsets(&self, next: &BTreeMap<Place, i64>) -> Result<TopicPartitionList, Failure> {
        let mut list = TopicPartitionList::new();
        for (&(topic, partition), &offset) in next {
            list.add_partition_offset(
                &self.config.name_of(topic),
                partition,
                Offset::Offset(offset),
            )
            .map_err(|error| failure_of(&error))?;
        }
        Ok(list)
    }

    /// Ends the transaction without its outputs. Where that fails too, the producer is broken.
    fn abort(&self, failure: Failure) -> Failure {
        let (reason, is_forbidden) = match failure {
            Failure::Broken(_) | Failure::Forbidden(_, true) => return failure,
            Failure::Returned(reason) => (reason, false),
            Failure::Forbidden(reason, false) => (reason, true),
            Failure::Final(error) => {
                // What comes after is a new process, whose producer has another id.
                let _unheard =
                    self.outbox.producer.abort_transaction(self.config.request_timeout());
                return Failure::Final(error);
            }
        };
        let limit = Instant::now() + self.config.request_timeout();
        match insist_until(limit, |limit| self.outbox.producer.abort_transaction(limit)) {
            Ok(()) if is_forbidden => Failure::Forbidden(reason, false),
            Ok(()) => Failure::Returned(reason),
            Err(_) if is_forbidden => Failure::Forbidden(reason, true),
            Err(error) => Failure::Broken(format!("{reason}; {error}")),
        }
    }

    fn insist(&self, call: impl Fn(Duration) -> Result<(), KafkaError>) -> Result<(), KafkaError> {
        insist_until(self.deadline, call)
    }
}

/// Repeats a transactional call while it says that it may be repeated, until `deadline`.
pub(super) fn insist_until(
    deadline: Instant,
    call: impl Fn(Duration) -> Result<(), KafkaError>,
) -> Result<(), KafkaError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match call(left.max(Duration::from_millis(100))) {
            Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {
                sleep(Duration::from_millis(20));
            }
            // Flushing, inside the client's commit, took all the time.
            result => return result,
        }
    }
}

fn requires_abort(error: &KafkaError) -> bool {
    match error {
        KafkaError::Transaction(error) => error.txn_requires_abort(),
        // Nothing but the flush before the commit: the commit itself was not begun.
        KafkaError::Flush(_) => true,
        _ => false,
    }
}

fn failure_of(error: &KafkaError) -> Failure {
    let reason = error.to_string();
    let is_fatal = matches!(error, KafkaError::Transaction(error) if error.is_fatal());
    match error.rdkafka_error_code() {
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => Failure::Forbidden(reason, is_fatal),
        Some(
            Code::Fatal
            | Code::Fenced
            | Code::ProducerFenced
            | Code::InvalidProducerEpoch
            | Code::InvalidProducerIdMapping
            | Code::UnknownProducerId
            // The producer is in no state to go on with.
            | Code::State
            | Code::PreviousInProgress,
        ) => Failure::Broken(reason),
        _ if is_fatal => Failure::Broken(reason),
        _ => Failure::Returned(reason),
    }
}
