//! Looking back: one topic, to its end as it was found. Only committed records, in no group.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use duet_case::Topic;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Message,
};
use tokio::sync::Mutex;

use super::{
    KafkaConfig, convert,
    probe::{Probe, blocking, unusable},
    trouble::{Listener, Trouble},
};
use crate::{History, Record, TransportError};

/// How long the client is polled at a time.
const POLL: Duration = Duration::from_millis(200);
/// Bytes of records that are handed out together.
const BYTES_AT_ONCE: usize = 32 << 20;

pub(super) struct KafkaHistory {
    inner: Arc<Mutex<Inner>>,
    done: u64,
    total: u64,
}

struct Inner {
    config: KafkaConfig,
    topic: Topic,
    consumer: BaseConsumer<Listener>,
    trouble: Arc<Trouble>,
    /// Partitions that are not read to their ends.
    open: BTreeMap<i32, Span>,
    /// Offsets in the partitions that are.
    finished: u64,
}

/// What is read of a partition.
struct Span {
    start: i64,
    next: i64,
    /// The offset after the last record, as it was found.
    end: i64,
}

impl KafkaHistory {
    /// Blocks.
    ///
    /// # Errors
    ///
    /// Where the broker does not answer, the topic is missing or access is refused.
    pub(super) fn open(
        config: &KafkaConfig,
        topic: Topic,
        since: Option<DateTime<Utc>>,
    ) -> Result<Self, TransportError> {
        let probe = Probe::open(config)?;
        let name = config.name_of(topic);
        let mut open = BTreeMap::new();
        for found in probe.require(&[topic])? {
            for partition in found.partitions {
                let (low, high) = probe.watermarks(&name, partition)?;
                open.insert(partition, Span { start: low, next: low, end: high });
            }
        }
        drop(probe);
        let trouble = Arc::new(Trouble::quiet(&config.bootstrap));
        let mut client = config.consumer(&config.tail_group())?;
        client.set("enable.partition.eof", "true");
        let consumer: BaseConsumer<Listener> = client
            .create_with_context(Listener::new(config, &trouble))
            .map_err(|error| unusable(&error))?;
        let mut inner =
            Inner { config: config.clone(), topic, consumer, trouble, open, finished: 0 };
        if let Some(since) = since {
            inner.skip_to(&name, since)?;
        }
        inner.open.retain(|_, span| span.start < span.end);
        let mut list = TopicPartitionList::new();
        for (&partition, span) in &inner.open {
            list.add_partition_offset(&name, partition, Offset::Offset(span.start))
                .map_err(|error| inner.trouble.explain(&error))?;
        }
        inner.consumer.assign(&list).map_err(|error| inner.trouble.explain(&error))?;
        let total = inner.open.values().map(Span::len).sum();
        Ok(Self { inner: Arc::new(Mutex::new(inner)), done: 0, total })
    }
}

impl Span {
    fn len(&self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or(0)
    }

    fn done(&self) -> u64 {
        u64::try_from(self.next.min(self.end) - self.start).unwrap_or(0)
    }
}

impl Inner {
    /// Moves every span's start to its first record of `since` or later.
    fn skip_to(&mut self, name: &str, since: DateTime<Utc>) -> Result<(), TransportError> {
        let mut asked = TopicPartitionList::new();
        for &partition in self.open.keys() {
            asked
                .add_partition_offset(
                    name,
                    partition,
                    Offset::Offset(since.timestamp_millis().max(0)),
                )
                .map_err(|error| self.trouble.explain(&error))?;
        }
        let found = self
            .consumer
            .offsets_for_times(asked, self.config.request_timeout())
            .map_err(|error| self.trouble.explain(&error))?;
        for (&partition, span) in &mut self.open {
            let offset = found.find_partition(name, partition).map(|element| element.offset());
            span.start = match offset {
                Some(Offset::Offset(offset)) => offset.clamp(span.start, span.end),
                // Nothing is that late.
                _ => span.end,
            };
            span.next = span.start;
        }
        Ok(())
    }

    /// Blocks.
    fn next(&mut self, max: usize) -> Result<Option<Vec<Record>>, TransportError> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        let mut silent_since = Instant::now();
        while !self.open.is_empty() && records.len() < max.max(1) && bytes < BYTES_AT_ONCE {
            match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    silent_since = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(span) = self.open.get_mut(&partition) else { continue };
                    span.next = offset + 1;
                    if offset < span.end {
                        let record = convert::record(self.topic, &message);
                        bytes += record.value.len();
                        records.push(record);
                    }
                    if span.next >= span.end {
                        self.finish(partition);
                    }
                }
                // The end of what is committed: what stands behind it is a marker or was never finished.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    silent_since = Instant::now();
                    self.finish(partition);
                }
                Some(Err(error)) if silent_since.elapsed() > self.config.request_timeout() => {
                    return Err(self.trouble.explain(&error));
                }
                Some(Err(_)) => {}
                None if !records.is_empty() => break,
                None if silent_since.elapsed() > self.config.transaction_timeout() => {
                    let error = KafkaError::MessageConsumption(
                        rdkafka::error::RDKafkaErrorCode::OperationTimedOut,
                    );
                    return Err(self.trouble.explain(&error));
                }
                None => {}
            }
        }
        Ok((!records.is_empty()).then_some(records))
    }

    fn finish(&mut self, partition: i32) {
        if let Some(span) = self.open.remove(&partition) {
            self.finished += span.len();
        }
    }
}

#[async_trait]
impl History for KafkaHistory {
    async fn next(&mut self, max: usize) -> Result<Option<Vec<Record>>, TransportError> {
        let inner = Arc::clone(&self.inner);
        let (records, done) = blocking(move || {
            let mut inner = inner.blocking_lock();
            let records = inner.next(max)?;
            Ok((records, inner.finished + inner.open.values().map(Span::done).sum::<u64>()))
        })
        .await?;
        self.done = done;
        Ok(records)
    }

    fn progress(&self) -> (u64, u64) {
        (self.done, self.total)
    }
}
