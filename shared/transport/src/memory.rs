//! The embedded broker: topics in this process's memory, bounded, gone when the process ends.
//!
//! A record is dropped once every reader has moved past it. A topic that nobody reads keeps its newest records up
//! to the limit. A sender waits while a topic that is read is full: back-pressure, not growth.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duet_case::Topic;
use tokio::{sync::Notify, time::Instant};

use crate::{
    Archive, Broker, Committed, Committer, Completed, Exchange, History, Lag, Origin, Outgoing,
    Record, Sink, Source, SourceStatus, Start, TopicDescription, TransportError, Writer,
};

/// How long [`Source::poll`] waits for a first record.
const FIRST: Duration = Duration::from_millis(500);

/// Bounds of one topic.
#[derive(Debug, Clone, Copy)]
pub struct MemoryLimits {
    /// Bytes of values that a topic holds before senders wait.
    pub bytes: usize,
    /// Records that a topic holds before senders wait.
    pub records: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { bytes: 256 << 20, records: 20_000 }
    }
}

/// The embedded broker. Clones share it. Topics have one partition.
#[derive(Clone, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    limits: MemoryLimits,
    state: Mutex<State>,
    /// Something was appended.
    arrived: Notify,
    /// Something was dropped.
    freed: Notify,
}

#[derive(Default)]
struct State {
    logs: BTreeMap<Topic, Log>,
    next_reader: u64,
    /// The term of each writer: who took over last.
    writers: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Log {
    records: VecDeque<Record>,
    /// Offset of the first record that is still held.
    start: i64,
    bytes: usize,
    /// What each reader has done: the offset of the next record that it needs.
    readers: BTreeMap<String, i64>,
}

impl Log {
    fn end(&self) -> i64 {
        self.start + self.records.len() as i64
    }

    fn is_full(&self, limits: MemoryLimits) -> bool {
        self.bytes >= limits.bytes || self.records.len() >= limits.records
    }

    fn append(&mut self, outgoing: Outgoing, limits: MemoryLimits) -> Origin {
        let origin = Origin { topic: outgoing.topic, partition: 0, offset: self.end(), epoch: 0 };
        self.bytes += outgoing.value.len();
        self.records.push_back(Record {
            origin,
            timestamp: Some(Utc::now()),
            key: outgoing.key,
            headers: outgoing.headers,
            value: outgoing.value,
        });
        if self.readers.is_empty() {
            while self.records.len() > 1 && self.is_full(limits) {
                self.drop_first();
            }
        }
        origin
    }

    fn trim(&mut self) {
        if let Some(&needed) = self.readers.values().min() {
            while self.start < needed && !self.records.is_empty() {
                self.drop_first();
            }
        }
    }

    fn drop_first(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.value.len();
            self.start += 1;
        }
    }

    fn read(&self, from: i64, max: usize) -> impl Iterator<Item = &Record> {
        let skip = usize::try_from(from - self.start).unwrap_or(0);
        self.records.iter().skip(skip).take(max)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole before the lock is let go, so a poisoned lock holds a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends all of `outgoing` once no topic among them is full of records that somebody still has to read.
    async fn append(&self, outgoing: Vec<Outgoing>) -> Vec<Origin> {
        let mut waiting = outgoing;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.try_append(waiting) {
                Ok(origins) => return origins,
                Err(still_waiting) => waiting = still_waiting,
            }
            freed.await;
        }
    }

    fn try_append(&self, outgoing: Vec<Outgoing>) -> Result<Vec<Origin>, Vec<Outgoing>> {
        let mut state = self.state();
        let is_blocked = |record: &Outgoing| {
            state
                .logs
                .get(&record.topic)
                .is_some_and(|log| !log.readers.is_empty() && log.is_full(self.limits))
        };
        if outgoing.iter().any(is_blocked) {
            return Err(outgoing);
        }
        let origins = outgoing
            .into_iter()
            .map(|record| state.logs.entry(record.topic).or_default().append(record, self.limits))
            .collect();
        self.arrived.notify_waiters();
        Ok(origins)
    }

    fn advance(&self, reader: &str, topic: Topic, next: i64) {
        let mut state = self.state();
        let log = state.logs.entry(topic).or_default();
        let done = log.readers.entry(reader.to_owned()).or_insert(next);
        *done = next.max(*done);
        log.trim();
        self.freed.notify_waiters();
    }
}

impl MemoryBroker {
    /// An empty broker whose topics hold no more than `limits`.
    pub fn new(limits: MemoryLimits) -> Self {
        Self { shared: Arc::new(Shared { limits, ..Shared::default() }) }
    }

    /// A reader named `name` that begins at `start`, or where a reader of that name stood.
    fn reader(&self, name: String, topics: &[Topic], start: Start, own: bool) -> MemorySource {
        let mut state = self.shared.state();
        let positions = topics
            .iter()
            .map(|&topic| {
                let log = state.logs.entry(topic).or_default();
                let from = match start {
                    Start::Beginning => log.start,
                    Start::End => log.end(),
                };
                (topic, *log.readers.entry(name.clone()).or_insert(from))
            })
            .collect();
        drop(state);
        MemorySource { shared: Arc::clone(&self.shared), name, positions, within: usize::MAX, own }
    }
}

struct MemorySource {
    shared: Arc<Shared>,
    name: String,
    positions: BTreeMap<Topic, i64>,
    /// Bytes handed out at a time.
    within: usize,
    /// A tail: what it has handed out is done, and it leaves no trace.
    own: bool,
}

impl MemorySource {
    fn take(&mut self, max: usize, into: &mut Vec<Record>) {
        let state = self.shared.state();
        for (topic, position) in &mut self.positions {
            if let Some(log) = state.logs.get(topic) {
                let mut bytes: usize = into.iter().map(|record| record.value.len()).sum();
                for record in log.read(*position, max - into.len()) {
                    bytes = bytes.saturating_add(record.value.len());
                    if bytes > self.within && !into.is_empty() {
                        break;
                    }
                    into.push(record.clone());
                }
            }
            if let Some(last) = into.iter().rev().find(|record| record.origin.topic == *topic) {
                *position = (*position).max(last.origin.offset + 1);
            }
        }
        drop(state);
        if self.own {
            for (&topic, &position) in &self.positions {
                self.shared.advance(&self.name, topic, position);
            }
        }
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn poll(&mut self, max: usize, fill: Duration) -> Result<Vec<Record>, TransportError> {
        let shared = Arc::clone(&self.shared);
        let mut records = Vec::new();
        let mut deadline = Instant::now() + FIRST;
        loop {
            let arrived = shared.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let before = records.len();
            self.take(max, &mut records);
            if before == 0 && !records.is_empty() {
                deadline = Instant::now() + fill;
            }
            let bytes: usize = records.iter().map(|record| record.value.len()).sum();
            let is_full = records.len() >= max || bytes >= self.within;
            if is_full || tokio::time::timeout_at(deadline, arrived).await.is_err() {
                return Ok(records);
            }
        }
    }

    fn status(&self) -> SourceStatus {
        let state = self.shared.state();
        let lag = self
            .positions
            .iter()
            .filter_map(|(&topic, &position)| {
                let records = state.logs.get(&topic)?.end() - position;
                Some(Lag { topic, partition: 0, records })
            })
            .collect();
        SourceStatus { assigned: true, lag, problem: None }
    }

    fn keep_within(&mut self, bytes: usize) {
        self.within = bytes;
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        if !self.own {
            return;
        }
        let mut state = self.shared.state();
        for topic in self.positions.keys() {
            if let Some(log) = state.logs.get_mut(topic) {
                log.readers.remove(&self.name);
            }
        }
        drop(state);
        self.shared.freed.notify_waiters();
    }
}

struct MemoryCommitter {
    shared: Arc<Shared>,
    group: String,
}

#[async_trait]
impl Committer for MemoryCommitter {
    async fn commit(&mut self, done: Vec<Completed>) -> Result<Committed, TransportError> {
        let count = done.len();
        let mut next = BTreeMap::new();
        let mut outputs = Vec::new();
        for completed in done {
            let position = next.entry(completed.origin.topic).or_insert(0);
            *position = (*position).max(completed.origin.offset + 1);
            outputs.extend(completed.outputs);
        }
        self.shared.append(outputs).await;
        for (topic, position) in next {
            self.shared.advance(&self.group, topic, position);
        }
        Ok(Committed { done: count, returned: 0 })
    }
}

#[async_trait]
impl Sink for MemoryBroker {
    async fn send(&self, record: Outgoing) -> Result<Origin, TransportError> {
        self.shared.append(vec![record]).await.pop().ok_or(TransportError::Closed)
    }

    /// Half of what a topic holds: what is in this process's memory is nowhere else, and goes with it.
    async fn inline_limit(&self, _: Topic) -> usize {
        self.shared.limits.bytes / 2
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    async fn exchange(&self, group: &str, topics: &[Topic]) -> Result<Exchange, TransportError> {
        let source = self.reader(group.to_owned(), topics, Start::Beginning, false);
        let committer =
            MemoryCommitter { shared: Arc::clone(&self.shared), group: group.to_owned() };
        Ok(Exchange { source: Box::new(source), committer: Box::new(committer) })
    }

    async fn sink(&self) -> Result<Arc<dyn Sink>, TransportError> {
        Ok(Arc::new(self.clone()))
    }

    async fn tail(
        &self,
        topics: &[Topic],
        start: Start,
    ) -> Result<Box<dyn Source>, TransportError> {
        let name = {
            let mut state = self.shared.state();
            state.next_reader += 1;
            format!("tail-{}", state.next_reader)
        };
        Ok(Box::new(self.reader(name, topics, start, true)))
    }

    async fn create_topics(&self) -> Result<Vec<Topic>, TransportError> {
        let mut state = self.shared.state();
        let missing: Vec<_> =
            Topic::ALL.into_iter().filter(|topic| !state.logs.contains_key(topic)).collect();
        for &topic in &missing {
            state.logs.insert(topic, Log::default());
        }
        Ok(missing)
    }

    async fn describe_topics(&self) -> Result<Vec<TopicDescription>, TransportError> {
        let state = self.shared.state();
        Ok(Topic::ALL
            .into_iter()
            .map(|topic| {
                let log = state.logs.get(&topic);
                TopicDescription {
                    topic,
                    name: topic.name().to_owned(),
                    partitions: usize::from(log.is_some()),
                    records: log.map_or(0, |log| log.records.len() as i64),
                    settings: Vec::new(),
                }
            })
            .collect())
    }
}

/// What the log held when it was asked.
struct MemoryHistory {
    records: std::vec::IntoIter<Record>,
    total: u64,
}

#[async_trait]
impl History for MemoryHistory {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Record>>, TransportError> {
        let records: Vec<_> = self.records.by_ref().take(max.max(1)).collect();
        Ok((!records.is_empty()).then_some(records))
    }

    fn progress(&self) -> (u64, u64) {
        (self.total - self.records.len() as u64, self.total)
    }
}

struct MemoryWriter {
    shared: Arc<Shared>,
    name: String,
    term: u64,
}

#[async_trait]
impl Writer for MemoryWriter {
    async fn write(&mut self, records: Vec<Outgoing>) -> Result<(), TransportError> {
        let is_current = self.shared.state().writers.get(&self.name) == Some(&self.term);
        if !is_current {
            let reason = format!("another {} took over", self.name);
            return Err(TransportError::Fenced { reason });
        }
        self.shared.append(records).await;
        Ok(())
    }
}

#[async_trait]
impl Archive for MemoryBroker {
    async fn history(
        &self,
        topic: Topic,
        since: Option<DateTime<Utc>>,
    ) -> Result<Box<dyn History>, TransportError> {
        let state = self.shared.state();
        let all = state.logs.get(&topic).into_iter().flat_map(|log| &log.records);
        let records: Vec<_> = all
            .filter(|record| since.is_none_or(|since| record.timestamp >= Some(since)))
            .cloned()
            .collect();
        let total = records.len() as u64;
        Ok(Box::new(MemoryHistory { records: records.into_iter(), total }))
    }

    async fn writer(&self, name: &str) -> Result<Box<dyn Writer>, TransportError> {
        let mut state = self.shared.state();
        let term = state.writers.entry(name.to_owned()).or_default();
        *term += 1;
        let (shared, term) = (Arc::clone(&self.shared), *term);
        Ok(Box::new(MemoryWriter { shared, name: name.to_owned(), term }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Headers;

    fn record(topic: Topic, value: &str) -> Outgoing {
        Outgoing {
            topic,
            key: None,
            headers: Headers::default(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        }
    }

    async fn values(source: &mut dyn Source, max: usize) -> Vec<String> {
        let records = source.poll(max, Duration::from_millis(5)).await.unwrap();
        records.iter().map(|r| String::from_utf8_lossy(&r.value).into_owned()).collect()
    }

    #[tokio::test]
    async fn a_group_gets_each_record_once_in_order_and_its_outputs_go_on() {
        let broker = MemoryBroker::default();
        let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
        for value in ["a", "b", "c"] {
            broker.send(record(Topic::Images, value)).await.unwrap();
        }
        let records = exchange.source.poll(2, Duration::ZERO).await.unwrap();
        assert_eq!(records.len(), 2);
        let done = records
            .into_iter()
            .map(|r| Completed { origin: r.origin, outputs: vec![record(Topic::Prepared, "out")] })
            .collect();
        exchange.committer.commit(done).await.unwrap();
        assert_eq!(values(&mut *exchange.source, 9).await, ["c"]);
        let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
        assert_eq!(values(&mut *tail, 9).await, ["out", "out"]);
    }

    #[tokio::test]
    async fn a_full_topic_makes_its_sender_wait_until_it_was_read() {
        let broker = MemoryBroker::new(MemoryLimits { bytes: 10, records: 2 });
        let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
        for value in ["a", "b"] {
            broker.send(record(Topic::Images, value)).await.unwrap();
        }
        let third = broker.send(record(Topic::Images, "c"));
        tokio::pin!(third);
        tokio::select! {
            biased;
            _ = &mut third => panic!("the third record was taken by a full topic"),
            () = tokio::task::yield_now() => {}
        }
        let records = exchange.source.poll(2, Duration::ZERO).await.unwrap();
        let done =
            records.iter().map(|r| Completed { origin: r.origin, outputs: vec![] }).collect();
        exchange.committer.commit(done).await.unwrap();
        assert_eq!(third.await.unwrap().offset, 2);
    }

    #[tokio::test]
    async fn no_more_bytes_are_handed_out_than_were_asked_for_or_one_record() {
        let broker = MemoryBroker::default();
        let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
        exchange.source.keep_within(5);
        for value in ["aa", "bbb", "c", "too large", "d"] {
            broker.send(record(Topic::Images, value)).await.unwrap();
        }
        assert_eq!(values(&mut *exchange.source, 9).await, ["aa", "bbb"]);
        assert_eq!(values(&mut *exchange.source, 9).await, ["c"]);
        assert_eq!(values(&mut *exchange.source, 9).await, ["too large"]);
        assert_eq!(values(&mut *exchange.source, 9).await, ["d"]);
    }

    #[tokio::test]
    async fn a_topic_that_nobody_reads_keeps_its_newest() {
        let broker = MemoryBroker::new(MemoryLimits { bytes: 1000, records: 3 });
        for value in ["a", "b", "c", "d", "e"] {
            broker.send(record(Topic::Annotated, value)).await.unwrap();
        }
        let mut tail = broker.tail(&[Topic::Annotated], Start::Beginning).await.unwrap();
        assert_eq!(values(&mut *tail, 9).await, ["d", "e"]);
    }

    #[tokio::test]
    async fn a_tail_that_is_dropped_holds_nothing_back() {
        let broker = MemoryBroker::new(MemoryLimits { bytes: 1000, records: 2 });
        let tail = broker.tail(&[Topic::Reports], Start::End).await.unwrap();
        drop(tail);
        for value in ["a", "b", "c"] {
            broker.send(record(Topic::Reports, value)).await.unwrap();
        }
    }
}
