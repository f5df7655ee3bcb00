//! What every broker promises, embedded or real, and what only a real one can be asked.

mod cluster;

use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_case::Topic;
use duet_tests::Kafka;
use duet_transport::{
    Archive, Broker, Completed, Delivery, Exchange, Headers, KafkaBroker, KafkaConfig,
    MemoryBroker, Outgoing, Record, Source, Start, TransportError,
};

/// Long enough for a busy machine, and only ever waited for by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

async fn memory() -> Arc<dyn Archive> {
    Arc::new(MemoryBroker::default())
}

async fn kafka_exactly_once() -> Arc<dyn Archive> {
    Arc::new(cluster(&Kafka::config().unwrap()).await)
}

async fn kafka_at_least_once() -> Arc<dyn Archive> {
    let config = Kafka::config().unwrap();
    Arc::new(cluster(&KafkaConfig { delivery: Delivery::AtLeastOnce, ..config }).await)
}

async fn cluster(config: &KafkaConfig) -> KafkaBroker {
    let broker = KafkaBroker::connect(config).await.unwrap();
    assert_eq!(broker.create_topics().await.unwrap(), Topic::ALL);
    broker
}

/// Puts every promise to every broker.
macro_rules! promises {
    ($($promise:ident),* $(,)?) => {
        promises! { @on memory: $($promise),* }
        promises! { @on kafka_exactly_once: $($promise),* }
        promises! { @on kafka_at_least_once: $($promise),* }
    };
    (@on $broker:ident: $($promise:ident),*) => {
        mod $broker {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(&*super::$broker().await).await;
            })*
        }
    };
}

promises! {
    records_of_one_key_come_in_order,
    outputs_are_seen_once_committed_and_not_before,
    a_group_goes_on_where_it_committed,
    a_tail_begins_where_it_is_told,
    a_record_keeps_key_headers_and_bytes,
    lag_counts_what_was_not_handed_out,
    a_history_ends_where_it_was_found,
    a_writer_writes_whole_groups_until_another_takes_over,
}

fn record(topic: Topic, value: impl Into<Bytes>) -> Outgoing {
    let key = Some(Bytes::from_static(b"one study"));
    Outgoing { topic, key, headers: Headers::default(), value: value.into() }
}

async fn send(broker: &dyn Archive, records: impl IntoIterator<Item = Outgoing>) {
    let sink = broker.sink().await.unwrap();
    for record in records {
        sink.send(record).await.unwrap();
    }
}

/// Polls until `count` records have come.
async fn take(source: &mut dyn Source, count: usize) -> Vec<Record> {
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(source.poll(count - records.len(), Duration::ZERO).await.unwrap());
        assert!(
            Instant::now() < deadline,
            "{} of {count} records: {:?}",
            records.len(),
            source.status()
        );
    }
    records
}

/// What comes within about a second.
async fn take_nothing(source: &mut dyn Source) {
    for _ in 0..2 {
        assert_eq!(texts(&source.poll(9, Duration::ZERO).await.unwrap()), [""; 0]);
    }
}

async fn eventually<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "still not so: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

/// Every record, done, with one output that repeats it.
fn echo(records: &[Record], topic: Topic) -> Vec<Completed> {
    let done = |r: &Record| Completed {
        origin: r.origin,
        outputs: vec![Outgoing {
            topic,
            key: r.key.clone(),
            headers: r.headers.clone(),
            value: r.value.clone(),
        }],
    };
    records.iter().map(done).collect()
}

async fn records_of_one_key_come_in_order(broker: &dyn Archive) {
    let values: Vec<String> = (0..40).map(|i| i.to_string()).collect();
    send(broker, values.iter().map(|value| record(Topic::Images, value.clone()))).await;
    let Exchange { mut source, mut committer } =
        broker.exchange("g", &[Topic::Images]).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < values.len() {
        let records = take(&mut *source, 7.min(values.len() - seen.len())).await;
        let count = records.len();
        seen.extend(texts(&records));
        let committed = committer.commit(echo(&records, Topic::Prepared)).await.unwrap();
        assert_eq!((committed.done, committed.returned), (count, 0));
    }
    assert_eq!(seen, values);
    let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    assert_eq!(texts(&take(&mut *tail, values.len()).await), values);
    take_nothing(&mut *tail).await;
}

async fn outputs_are_seen_once_committed_and_not_before(broker: &dyn Archive) {
    send(broker, ["a", "b"].map(|value| record(Topic::Images, value))).await;
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    let records = take(&mut *exchange.source, 2).await;
    take_nothing(&mut *tail).await;
    exchange.committer.commit(echo(&records, Topic::Prepared)).await.unwrap();
    assert_eq!(texts(&take(&mut *tail, 2).await), ["a", "b"]);
}

async fn a_group_goes_on_where_it_committed(broker: &dyn Archive) {
    send(broker, ["a", "b", "c"].map(|value| record(Topic::Images, value))).await;
    let mut first = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let records = take(&mut *first.source, 2).await;
    first.committer.commit(echo(&records[..1], Topic::Prepared)).await.unwrap();
    drop(first);
    let mut second = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let records = take(&mut *second.source, 2).await;
    assert_eq!(texts(&records), ["b", "c"]);
    // An input may come to nothing and is done all the same.
    let done = records.iter().map(|r| Completed { origin: r.origin, outputs: vec![] }).collect();
    assert_eq!(second.committer.commit(done).await.unwrap().done, 2);
    drop(second);
    let mut third = broker.exchange("g", &[Topic::Images]).await.unwrap();
    send(broker, [record(Topic::Images, "d")]).await;
    assert_eq!(texts(&take(&mut *third.source, 1).await), ["d"]);
}

async fn a_tail_begins_where_it_is_told(broker: &dyn Archive) {
    // Somebody reads along, so that the embedded broker keeps the records.
    let _reader = broker.exchange("g", &[Topic::Reports]).await.unwrap();
    send(broker, [record(Topic::Reports, "old")]).await;
    let mut all = broker.tail(&[Topic::Reports], Start::Beginning).await.unwrap();
    let mut new = broker.tail(&[Topic::Reports], Start::End).await.unwrap();
    assert!(new.status().assigned);
    send(broker, [record(Topic::Reports, "new")]).await;
    assert_eq!(texts(&take(&mut *all, 2).await), ["old", "new"]);
    assert_eq!(texts(&take(&mut *new, 1).await), ["new"]);
}

async fn a_record_keeps_key_headers_and_bytes(broker: &dyn Archive) {
    let headers = Headers::default()
        .with("content-type", "image/png")
        .with("twice", "1")
        .with("twice", "2")
        .with("empty", "")
        .with("bytes", vec![0, 159, 146, 150]);
    let sent = [
        Outgoing {
            topic: Topic::Images,
            key: Some(Bytes::from_static(&[0, 255])),
            headers,
            value: Bytes::from_static(&[0, 1, 2, 255]),
        },
        Outgoing {
            topic: Topic::Images,
            key: None,
            headers: Headers::default(),
            value: Bytes::new(),
        },
    ];
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    send(broker, sent.clone()).await;
    let records = take(&mut *exchange.source, 2).await;
    exchange.committer.commit(echo(&records, Topic::Annotated)).await.unwrap();
    let mut tail = broker.tail(&[Topic::Annotated], Start::Beginning).await.unwrap();
    let records = take(&mut *tail, 2).await;
    for sent in sent {
        let seen = records.iter().find(|record| record.value == sent.value).unwrap();
        assert_eq!((&seen.key, &seen.headers), (&sent.key, &sent.headers));
        assert!(seen.timestamp.is_some() || seen.origin.topic != Topic::Annotated);
    }
}

async fn lag_counts_what_was_not_handed_out(broker: &dyn Archive) {
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    send(broker, (0..30).map(|i| record(Topic::Images, i.to_string()))).await;
    let lag = |source: &dyn Source| {
        let status = source.status();
        assert_eq!(status.problem, None);
        (status.assigned && !status.lag.is_empty())
            .then(|| status.lag.iter().map(|lag| lag.records).sum::<i64>())
    };
    eventually("30 wait", async || lag(&*exchange.source) == Some(30)).await;
    let records = take(&mut *exchange.source, 20).await;
    eventually("10 wait", async || lag(&*exchange.source) == Some(10)).await;
    exchange.committer.commit(echo(&records, Topic::Prepared)).await.unwrap();
    let records = take(&mut *exchange.source, 10).await;
    exchange.committer.commit(echo(&records, Topic::Prepared)).await.unwrap();
    eventually("none waits", async || lag(&*exchange.source) == Some(0)).await;

    // Where a topic was written by transactions, their markers are not taken for records.
    let mut next = broker.exchange("h", &[Topic::Prepared]).await.unwrap();
    let mut seen = BTreeSet::new();
    for record in take(&mut *next.source, 30).await {
        seen.insert(record.value);
    }
    assert_eq!(seen.len(), 30);
    eventually("none waits", async || lag(&*next.source) == Some(0)).await;
}

async fn all_of(broker: &dyn Archive, topic: Topic, since: Option<DateTime<Utc>>) -> Vec<String> {
    let mut history = broker.history(topic, since).await.unwrap();
    let mut all = Vec::new();
    while let Some(records) = history.next(7).await.unwrap() {
        assert!((1..=7).contains(&records.len()));
        all.extend(texts(&records));
    }
    assert_eq!(history.progress().0, history.progress().1);
    all.sort();
    all
}

async fn a_history_ends_where_it_was_found(broker: &dyn Archive) {
    // Somebody reads along, so that the embedded broker keeps the records.
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let _reader = broker.exchange("h", &[Topic::Prepared]).await.unwrap();
    assert_eq!(all_of(broker, Topic::Prepared, None).await, [""; 0]);
    let values: Vec<String> = (10..40).map(|i| i.to_string()).collect();
    let keyed = |value: &String| Outgoing { key: None, ..record(Topic::Images, value.clone()) };
    send(broker, values.iter().map(keyed)).await;
    let records = take(&mut *exchange.source, values.len()).await;
    // Where it is written by transactions, the last offset is a marker's.
    exchange.committer.commit(echo(&records, Topic::Prepared)).await.unwrap();
    assert_eq!(all_of(broker, Topic::Prepared, None).await, values);
    let mut history = broker.history(Topic::Prepared, None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let later = Utc::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    send(broker, [record(Topic::Prepared, "later")]).await;
    let mut count = 0;
    while let Some(records) = history.next(100).await.unwrap() {
        count += records.len();
    }
    assert_eq!(count, values.len());
    assert_eq!(all_of(broker, Topic::Prepared, Some(later)).await, ["later"]);
    assert_eq!(all_of(broker, Topic::Prepared, Some(Utc::now())).await, [""; 0]);
}

async fn a_writer_writes_whole_groups_until_another_takes_over(broker: &dyn Archive) {
    let _reader = broker.exchange("g", &[Topic::Images, Topic::Redriven]).await.unwrap();
    let group =
        |value: &'static str| vec![record(Topic::Images, value), record(Topic::Redriven, value)];
    let mut first = broker.writer("w").await.unwrap();
    let mut other = broker.writer("another").await.unwrap();
    first.write(group("a")).await.unwrap();
    other.write(group("b")).await.unwrap();
    let mut second = broker.writer("w").await.unwrap();
    second.write(group("c")).await.unwrap();
    for topic in [Topic::Images, Topic::Redriven] {
        assert_eq!(all_of(broker, topic, None).await, ["a", "b", "c"]);
    }
}

/// Where there are transactions, who was taken over from can write no more.
async fn one_writer_at_a_time(broker: &dyn Archive) {
    let _reader = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let mut first = broker.writer("w").await.unwrap();
    first.write(vec![record(Topic::Images, "a")]).await.unwrap();
    let mut second = broker.writer("w").await.unwrap();
    let refused = first.write(vec![record(Topic::Images, "b")]).await;
    assert!(matches!(refused, Err(TransportError::Fenced { .. })), "{refused:?}");
    second.write(vec![record(Topic::Images, "c")]).await.unwrap();
    assert_eq!(all_of(broker, Topic::Images, None).await, ["a", "c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_one_writers_at_a_time() {
    one_writer_at_a_time(&*memory().await).await;
    one_writer_at_a_time(&*kafka_exactly_once().await).await;
}
