//! The way in. A thread of its own polls the client without pause, so that a slow model never costs this replica its
//! partitions; records wait in a bounded buffer.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use rdkafka::{
    ClientContext, Offset, Statistics, TopicPartitionList,
    client::OAuthToken,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::Message,
};
use tracing::{debug, info, warn};

use super::{
    KafkaConfig,
    bootstrap::Memory,
    convert,
    ends::Ends,
    held::{Held, Seen},
    shared::{Place, Shared},
    trouble::Trouble,
};
use crate::{Lag, Record, Source, SourceStatus, TransportError};

/// How long [`Source::poll`] waits for a first record.
const FIRST: Duration = Duration::from_millis(500);
/// How long the client is polled at a time.
const POLL: Duration = Duration::from_millis(100);
/// A partition that waits for a transaction for this much longer than two may take is in trouble.
const HELD_BEYOND: Duration = Duration::from_secs(15);
/// How long dropping a source waits for it to leave its group.
const LEAVE: Duration = Duration::from_secs(5);

pub(super) type Client = BaseConsumer<Watch>;

/// Receives what the client tells.
pub(super) struct Watch {
    pub(super) config: KafkaConfig,
    pub(super) shared: Arc<Shared>,
    pub(super) trouble: Arc<Trouble>,
    /// How often in a row the client told of no connection.
    silent: AtomicU32,
    held: Mutex<Held>,
    memory: Memory,
    ends: Mutex<Ends>,
    /// What is paused, all of it ours.
    paused: Mutex<Option<TopicPartitionList>>,
}

impl Watch {
    pub(super) fn new(config: &KafkaConfig, shared: Shared) -> Self {
        Self {
            config: config.clone(),
            shared: Arc::new(shared),
            trouble: Arc::new(Trouble::new(&config.bootstrap)),
            silent: AtomicU32::new(0),
            held: Mutex::default(),
            memory: Memory::default(),
            ends: Mutex::default(),
            paused: Mutex::default(),
        }
    }

    /// The client's own word for it does not come where a broker closed its connections in good order.
    fn observe_connections(&self, statistics: &Statistics) {
        let mut brokers = statistics.brokers.values().filter(|broker| broker.source != "internal");
        if brokers.any(|broker| broker.state == "UP") {
            self.silent.store(0, Ordering::Relaxed);
            self.trouble.broker_is_up();
        } else if self.silent.fetch_add(1, Ordering::Relaxed) > 0 {
            self.trouble.note(Code::AllBrokersDown, "there is no connection");
        }
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paused(&self) -> MutexGuard<'_, Option<TopicPartitionList>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resumes what is about to go: the client keeps a partition paused that is taken away, also when it comes again.
    /// Resuming one that is not paused would drop what was fetched of it, so each is resumed once.
    fn release(&self, consumer: &BaseConsumer<Self>, going: &TopicPartitionList) {
        let mut paused = self.paused();
        let Some(list) = paused.as_mut() else { return };
        let (mut gone, mut kept) = (TopicPartitionList::new(), TopicPartitionList::new());
        for element in list.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let side = match going.find_partition(topic, partition) {
                Some(_) => &mut gone,
                None => &mut kept,
            };
            side.add_partition(topic, partition);
        }
        *list = kept;
        if gone.count() > 0
            && let Err(error) = consumer.resume(&gone)
        {
            debug!("resuming what is revoked: {error}");
        }
    }

    /// A transaction is ended by its broker where its writer does not: after `transaction.timeout.ms`, and some. Foreign
    /// writers may have a longer one; their records wait for it all the same.
    fn observe_transactions(&self, seen: Vec<(Place, Seen)>) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = held.note(Instant::now(), seen);
        let limit = 2 * self.config.transaction_timeout() + HELD_BEYOND;
        match longest.filter(|(_, time)| *time >= limit) {
            Some(((topic, partition), time)) => {
                self.trouble.is_held_up(&self.config.name_of(topic), partition, time);
            }
            None => self.trouble.flows(),
        }
    }

    fn places(&self, list: &TopicPartitionList) -> Vec<Place> {
        let elements = list.elements();
        let place = |e: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            Some((self.config.topic_of(e.topic())?, e.partition()))
        };
        elements.iter().filter_map(place).collect()
    }
}

impl ClientContext for Watch {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        self.config.tokens().read()
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.trouble.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.trouble.note(code, reason);
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.memory.observe(&statistics);
        self.observe_connections(&statistics);
        let (mut seen, mut ends) = (Vec::new(), BTreeMap::new());
        let lag = self.shared.positions().into_iter().filter_map(|(place, handed, waiting)| {
            let (topic, partition) = place;
            let stats = statistics
                .topics
                .get(&self.config.name_of(topic))
                .and_then(|topic| topic.partitions.get(&partition))?;
            if stats.next_offset == stats.hi_offset
                && stats.ls_offset == stats.hi_offset
                && stats.fetchq_cnt == 0
                && self.shared.is_done_before(place, stats.hi_offset, statistics.ts)
            {
                ends.insert(place, stats.hi_offset);
            }
            seen.push((
                place,
                Seen {
                    is_read: stats.fetch_state == "active",
                    next: stats.next_offset,
                    stable: stats.ls_offset,
                    end: stats.hi_offset,
                    waiting: waiting + stats.fetchq_cnt,
                },
            ));
            let records = lag(&Position {
                fetched: stats.next_offset,
                fetched_waiting: stats.fetchq_cnt,
                end: stats.ls_offset,
                first: stats.committed_offset.max(stats.lo_offset),
                handed,
                waiting,
            })?;
            Some(Lag { topic, partition, records })
        });
        let lag = lag.collect();
        self.shared.state().lag = lag;
        self.observe_transactions(seen);
        self.ends().note(ends, statistics.ts);
    }
}

/// What is known of a reader's place in a partition. Negative offsets are unknown ones.
struct Position {
    /// The next offset that the client asks the broker for.
    fetched: i64,
    /// Records that the client has fetched and not given.
    fetched_waiting: i64,
    /// The offset after the last committed record.
    end: i64,
    /// Where this replica began.
    first: i64,
    /// The offset after the last record handed out.
    handed: Option<i64>,
    /// Records in our buffer.
    waiting: i64,
}

/// Records not yet handed out. A transaction's markers take up offsets too; once the client has read to the end the
/// number is exact all the same.
fn lag(position: &Position) -> Option<i64> {
    if position.end < 0 {
        return None;
    }
    if position.fetched >= position.end && position.fetched_waiting == 0 {
        return Some(position.waiting);
    }
    Some((position.end - position.handed.unwrap_or(position.first.max(0))).max(position.waiting))
}

impl ConsumerContext for Watch {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let lost = consumer.assignment_lost();
            let places = self.places(list);
            info!(partitions = places.len(), lost, "partitions revoked");
            if lost {
                // Where it did not poll in time, the client has said so already, and the first words stay.
                let reason = "the group went on without it, since the broker had not heard of it for session.timeout.ms";
                self.trouble.note(Code::PollExceeded, reason);
            }
            self.release(consumer, list);
            self.shared.revoke(&places, lost);
            self.ends().forget(&places);
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            let places = self.places(list);
            info!(partitions = places.len(), "partitions assigned");
            self.shared.assign(places);
            self.trouble.is_assigned();
        }
    }
}

/// Polls until the source is dropped, then leaves the group.
pub(super) struct Poller {
    consumer: Arc<Client>,
    config: KafkaConfig,
    shared: Arc<Shared>,
    trouble: Arc<Trouble>,
    /// Whether it reads for a group, which keeps what is committed.
    is_grouped: bool,
}

impl Poller {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// Where no thread can be started.
    pub(super) fn start(
        consumer: Arc<Client>,
        is_grouped: bool,
    ) -> Result<KafkaSource, TransportError> {
        let watch = consumer.client().context();
        let (shared, trouble) = (Arc::clone(&watch.shared), Arc::clone(&watch.trouble));
        let config = watch.config.clone();
        let source = KafkaSource {
            shared: Arc::clone(&shared),
            trouble: Arc::clone(&trouble),
            within: usize::MAX,
            patience: config.max_poll_interval(),
        };
        let poller = Self { consumer, config, shared, trouble, is_grouped };
        thread::Builder::new().name("kafka-poll".to_owned()).spawn(move || poller.run()).map_err(
            |error| TransportError::Client { reason: format!("no thread to poll with: {error}") },
        )?;
        Ok(source)
    }

    fn run(self) {
        let still = self.config.stands_still();
        while !self.shared.state().stopping {
            let client = self.consumer.client();
            client.context().memory.refresh(client, &self.config.bootstrap);
            self.rewind();
            self.commit_ends();
            self.keep_to_the_bounds(still);
            match self.consumer.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    if let Some(topic) = self.config.topic_of(message.topic()) {
                        self.shared.push(convert::record(topic, &message));
                        self.trouble.broker_is_up();
                    }
                }
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    self.shared.state().fatal = Some(code.to_string());
                    self.shared.arrived.notify_one();
                    break;
                }
                // The context has heard of it with the client's own words.
                Some(Err(error)) => debug!("polling: {error}"),
            }
        }
        let shared = Arc::clone(&self.shared);
        drop(self); // leaves the group
        shared.leave();
    }

    /// Waits for room; where none comes, pauses the partitions and goes on polling.
    fn keep_to_the_bounds(&self, still: Duration) {
        let watch = self.consumer.client().context();
        if watch.paused().is_none() {
            if self.shared.wait_for_room(still) {
                return;
            }
        } else if self.shared.wait_for_room(Duration::ZERO) {
            if let Some(list) = watch.paused().take() {
                debug!("there is room again: partitions resumed");
                if let Err(error) = self.consumer.resume(&list) {
                    debug!("resuming: {error}");
                }
            }
            return;
        }
        // Also what was assigned since the last pause.
        let paused = self.consumer.assignment().and_then(|list| {
            self.consumer.pause(&list)?;
            Ok(list)
        });
        match paused {
            Ok(list) => *watch.paused() = Some(list),
            Err(error) => debug!("pausing: {error}"),
        }
    }

    /// Commits past the ends of transactions, where all before them is done. Only while no other commit runs, and to its
    /// end, so that none is overtaken.
    fn commit_ends(&self) {
        let watch = self.consumer.client().context();
        let (mut due, seen_at) = watch.ends().take_due();
        if due.is_empty() || !self.is_grouped || self.trouble.kind().is_some() {
            return;
        }
        let Some(_only) = self.shared.hold_transactions_now() else { return };
        due.retain(|place, end| self.shared.is_done_before(*place, *end, seen_at));
        if due.is_empty() {
            return;
        }
        let mut offsets = TopicPartitionList::new();
        for ((topic, partition), end) in &due {
            let name = self.config.name_of(*topic);
            if offsets.add_partition_offset(&name, *partition, Offset::Offset(*end)).is_err() {
                return;
            }
        }
        match self.consumer.commit(&offsets, CommitMode::Sync) {
            Ok(()) => watch.ends().is_committed(due),
            Err(error) => debug!("committing the ends of transactions: {error}; tried again"),
        }
    }

    /// Moves the consumer back to what is not committed, after a commit that failed.
    fn rewind(&self) {
        let places = self.shared.to_rewind();
        if places.is_empty() {
            return;
        }
        match self.seek_back(&places) {
            Ok(offsets) => {
                info!(partitions = offsets.len(), "reading again what was not committed");
                self.shared.rewound(offsets);
            }
            Err(error) => debug!("moving back: {error}; tried again"),
        }
    }

    fn seek_back(&self, places: &[(Place, Option<i64>)]) -> KafkaResult<Vec<(Place, Option<i64>)>> {
        let limit = self.config.request_timeout();
        let mut list = TopicPartitionList::new();
        for ((topic, partition), _) in places {
            list.add_partition(&self.config.name_of(*topic), *partition);
        }
        // Waits for the outcome of a transaction that is still open, so the answer is the truth.
        let committed = self.consumer.committed_offsets(list, limit)?;
        let mut targets = TopicPartitionList::new();
        let mut offsets = Vec::with_capacity(places.len());
        for &((topic, partition), known) in places {
            let name = self.config.name_of(topic);
            let found = committed.find_partition(&name, partition);
            let offset = match found.map(|e| (e.error(), e.offset())) {
                Some((Err(error), _)) => return Err(error),
                Some((Ok(()), Offset::Offset(offset))) => Some(offset),
                _ => known,
            };
            let target = offset.map_or(Offset::Beginning, Offset::Offset);
            targets.add_partition_offset(&name, partition, target)?;
            offsets.push(((topic, partition), offset));
        }
        let sought = self.consumer.seek_partitions(targets, limit)?;
        for element in sought.elements() {
            element.error()?;
        }
        Ok(offsets)
    }
}

/// What the polling thread has read.
pub(super) struct KafkaSource {
    shared: Arc<Shared>,
    trouble: Arc<Trouble>,
    /// Bytes handed out at a time.
    within: usize,
    patience: Duration,
}

#[async_trait]
impl Source for KafkaSource {
    async fn poll(&mut self, max: usize, fill: Duration) -> Result<Vec<Record>, TransportError> {
        let mut deadline = Instant::now() + FIRST;
        let mut has_first = false;
        loop {
            let arrived = self.shared.arrived.notified();
            let (fatal, left) = {
                let state = self.shared.state();
                (state.fatal.clone(), state.left)
            };
            if let Some(reason) = fatal {
                return Err(TransportError::Fenced { reason });
            }
            if left {
                return Err(TransportError::Closed);
            }
            let (waiting, bytes) = self.shared.waiting();
            if waiting > 0 && !has_first {
                has_first = true;
                deadline = Instant::now() + fill;
            }
            // Nothing is taken before the last await, so that a poll that is given up loses no record.
            let is_full = waiting >= max || bytes >= self.within;
            if is_full || tokio::time::timeout_at(deadline.into(), arrived).await.is_err() {
                return Ok(self.shared.take(max, self.within));
            }
        }
    }

    fn status(&self) -> SourceStatus {
        let state = self.shared.state();
        SourceStatus {
            assigned: state.assigned,
            lag: state.lag.clone(),
            problem: self.trouble.words(),
        }
    }

    fn keep_within(&mut self, bytes: usize) {
        self.within = bytes;
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

impl Drop for KafkaSource {
    /// Leaves the group, so that the others need not wait for this replica's session to end.
    fn drop(&mut self) {
        self.shared.stop();
        if !self.shared.wait_until_left(LEAVE) {
            warn!("the Kafka client takes its time to leave the group; going on without");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_of_transactions_are_not_lag() {
        let at_the_end = Position {
            fetched: 12,
            fetched_waiting: 0,
            end: 12,
            first: 0,
            handed: Some(11), // the record at 10, and its transaction's marker at 11
            waiting: 0,
        };
        assert_eq!(lag(&at_the_end), Some(0));
        assert_eq!(lag(&Position { waiting: 2, ..at_the_end }), Some(2));
    }

    #[test]
    fn what_was_not_fetched_is_lag() {
        let behind = Position {
            fetched: 5,
            fetched_waiting: 0,
            end: 100,
            first: 3,
            handed: None,
            waiting: 2,
        };
        assert_eq!(lag(&behind), Some(97));
        assert_eq!(lag(&Position { handed: Some(4), ..behind }), Some(96));
        let unknown = Position {
            fetched: -1001,
            fetched_waiting: 0,
            end: -1,
            first: -1,
            handed: None,
            waiting: 0,
        };
        assert_eq!(lag(&unknown), None);
    }
}
