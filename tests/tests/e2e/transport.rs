//! What every broker promises, embedded or real, and what only a real one can be asked.

mod cluster;

use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_case::Topic;
use duet_tests::Kafka;
use duet_transport::{
    Broker, Completed, Delivery, Exchange, Headers, KafkaBroker, KafkaConfig, MemoryBroker,
    Outgoing, Record, Source, Start,
};

/// Long enough for a busy machine, and only ever waited for by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

async fn memory() -> Arc<dyn Broker> {
    Arc::new(MemoryBroker::default())
}

async fn kafka_exactly_once() -> Arc<dyn Broker> {
    Arc::new(cluster(&Kafka::config().unwrap()).await)
}

async fn kafka_at_least_once() -> Arc<dyn Broker> {
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
}

fn record(topic: Topic, value: impl Into<Bytes>) -> Outgoing {
    let key = Some(Bytes::from_static(b"one study"));
    Outgoing { topic, key, headers: Headers::default(), value: value.into() }
}

async fn send(broker: &dyn Broker, records: impl IntoIterator<Item = Outgoing>) {
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

async fn records_of_one_key_come_in_order(broker: &dyn Broker) {
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

async fn outputs_are_seen_once_committed_and_not_before(broker: &dyn Broker) {
    send(broker, ["a", "b"].map(|value| record(Topic::Images, value))).await;
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    let records = take(&mut *exchange.source, 2).await;
    take_nothing(&mut *tail).await;
    exchange.committer.commit(echo(&records, Topic::Prepared)).await.unwrap();
    assert_eq!(texts(&take(&mut *tail, 2).await), ["a", "b"]);
}

async fn a_group_goes_on_where_it_committed(broker: &dyn Broker) {
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

async fn a_tail_begins_where_it_is_told(broker: &dyn Broker) {
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

async fn a_record_keeps_key_headers_and_bytes(broker: &dyn Broker) {
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

async fn lag_counts_what_was_not_handed_out(broker: &dyn Broker) {
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
