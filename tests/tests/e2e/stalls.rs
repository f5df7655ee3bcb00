//! Nothing stalls silently: slow work, a paused process, a missing topic and an endless transaction on a real broker. What shows while a stage hangs is in
//! `shared/stage/tests/hang.rs`; a broker that goes away in `transport/cluster.rs`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use duet_case::Topic;
use duet_tests::{Fleet, Kafka, STAGES};
use duet_transport::{
    Broker, Completed, Headers, KafkaBroker, KafkaConfig, Outgoing, Record, Source, Start,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

const PATIENCE: Duration = Duration::from_secs(120);

fn with(mut config: KafkaConfig, properties: &[(&str, &str)]) -> KafkaConfig {
    for (name, value) in properties {
        config.properties.insert((*name).to_owned(), (*value).to_owned());
    }
    config
}

fn image(bytes: usize) -> Outgoing {
    let value = Bytes::from(vec![7; bytes]);
    Outgoing { topic: Topic::Images, key: None, headers: Headers::default(), value }
}

async fn take(source: &mut dyn Source, count: usize) -> Vec<Record> {
    let (deadline, mut records) = (Instant::now() + PATIENCE, Vec::new());
    while records.len() < count {
        records.extend(source.poll(count - records.len(), Duration::ZERO).await.unwrap());
        assert!(Instant::now() < deadline, "{} of {count}: {:?}", records.len(), source.status());
    }
    records
}

/// Work takes twice `max.poll.interval.ms`, while far more waits than the buffers hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_work_never_costs_a_replica_its_partitions() {
    const RECORDS: usize = 60;
    let config = with(
        KafkaConfig {
            buffer_bytes: 1 << 20,
            max_message_bytes: 2 << 20,
            request_timeout_ms: 2_000,
            transaction_timeout_ms: 3_500,
            ..Kafka::config().unwrap()
        },
        &[("max.poll.interval.ms", "30000"), ("session.timeout.ms", "6000")],
    );
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let sink = broker.sink().await.unwrap();
    for _ in 0..RECORDS {
        let deadline = Instant::now() + PATIENCE;
        // On a busy machine a topic that was made a moment ago may not be known yet.
        while let Err(error) = sink.send(image(512 << 10)).await {
            assert!(Instant::now() < deadline, "{error}");
        }
    }
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let held = take(&mut *exchange.source, 1).await;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(61) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = exchange.source.status();
        assert!(status.assigned && status.problem.is_none(), "{status:?}");
    }
    // Another replica of its group would have got them.
    let done = |records: &[Record]| {
        let outputs = vec![Outgoing { topic: Topic::Prepared, ..image(1) }];
        records.iter().map(|r| Completed { origin: r.origin, outputs: outputs.clone() }).collect()
    };
    let committed = exchange.committer.commit(done(&held)).await.unwrap();
    assert_eq!((committed.done, committed.returned), (1, 0), "the partition was taken away");
    // And everything that waited for room comes, once.
    let rest = take(&mut *exchange.source, RECORDS - 1).await;
    assert_eq!(exchange.committer.commit(done(&rest)).await.unwrap().done, RECORDS - 1);
    let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    assert_eq!(take(&mut *tail, RECORDS).await.len(), RECORDS);
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_was_paused_and_a_topic_that_is_gone_show_and_say_what_to_do() {
    let config = with(
        Kafka::config().unwrap(),
        &[("session.timeout.ms", "6000"), ("topic.metadata.refresh.interval.ms", "1000")],
    );
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::new(&config, folder.path()).unwrap();
    let prepare = fleet.start(STAGES[0]).unwrap();
    fleet.wait_until_ready().unwrap();
    let metric = |name: &str, value: &str| {
        let metrics = fleet.get(prepare, "/metrics").unwrap_or_default();
        metrics.lines().any(|line| line == format!("{name} {value}"))
    };
    let process = fleet.process(prepare).unwrap();
    let lines = |words: &str| {
        process
            .output()
            .lines()
            .filter(|line| line.contains("WARN") && line.contains(words))
            .count()
    };

    process.signal("-STOP").unwrap();
    std::thread::sleep(Duration::from_secs(9));
    process.signal("-CONT").unwrap();
    eventually("it was put out of its group", || {
        metric("duet_kafka_troubles_total{kind=\"evicted\"}", "1")
    });
    eventually("it is back", || {
        metric("duet_kafka_trouble{kind=\"evicted\"}", "0") && fleet.is_ready(prepare)
    });
    assert_eq!(lines("max.poll.interval.ms in kafka.properties"), 1, "{}", process.output());

    let name = config.name_of(Topic::Images);
    Kafka::delete_topic(&config.bootstrap, &name).unwrap();
    eventually("the topic's absence shows", || !fleet.is_ready(prepare));
    eventually("and is counted", || metric("duet_kafka_trouble{kind=\"unknown_topic\"}", "1"));
    assert_eq!(lines("create it with `duet topics create`"), 1, "{}", process.output());
    broker.create_topics().await.unwrap();
    eventually("it is back", || fleet.is_ready(prepare));
    assert!(process.is_running());
}

/// A foreign client leaves a transaction open: with a record in one topic, and with our group's offsets for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_does_not_end_shows_and_work_goes_on_when_it_has() {
    let config = KafkaConfig {
        partitions: 1,
        request_timeout_ms: 1_500,
        transaction_timeout_ms: 3_000,
        ..Kafka::config().unwrap()
    };
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let foreign = |name, value: &str| {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.bootstrap).set(name, value);
        client
    };
    let writer: ThreadedProducer<DefaultProducerContext> = foreign("transactional.id", "a writer")
        .set("transaction.timeout.ms", "600000")
        .create()
        .unwrap();
    let group: BaseConsumer = foreign("group.id", "of-prepared").create().unwrap();
    let [images, prepared] = [Topic::Images, Topic::Prepared].map(|topic| config.name_of(topic));
    let limit = Duration::from_secs(30);
    writer.init_transactions(limit).unwrap();
    writer.begin_transaction().unwrap();
    writer.send(BaseRecord::<[u8], [u8]>::to(&images).payload(b"an image")).unwrap();
    writer.flush(limit).unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&prepared, 0, Offset::Offset(0)).unwrap();
    writer.send_offsets_to_transaction(&offsets, &group.group_metadata().unwrap(), limit).unwrap();

    let mut of_images = broker.exchange("of-images", &[Topic::Images]).await.unwrap().source;
    let of_prepared = broker.exchange("of-prepared", &[Topic::Prepared]).await.unwrap().source;
    for (topic, source) in [(&images, &of_images), (&prepared, &of_prepared)] {
        let told = format!("partition 0 of {topic} has given nothing for 2");
        eventually("it shows", || {
            source.status().problem.is_some_and(|words| words.starts_with(&told))
        });
        let words = source.status().problem.unwrap();
        assert!(words.contains("kafka-transactions.sh"), "{words}");
    }
    writer.commit_transaction(limit).unwrap();
    assert_eq!(&take(&mut *of_images, 1).await[0].value[..], b"an image");
    for source in [of_images, of_prepared] {
        eventually("all is well again", || source.status().problem.is_none());
    }
}

/// Back-pressure pauses partitions; some of them go to another replica meanwhile, and come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_was_taken_away_while_paused_is_read_when_it_comes_back() {
    const RECORDS: usize = 60;
    let config = with(
        KafkaConfig {
            buffer_bytes: 1 << 20,
            max_message_bytes: 2 << 20,
            request_timeout_ms: 1_000,
            transaction_timeout_ms: 1_100,
            ..Kafka::config().unwrap()
        },
        // Pauses after a third of it.
        &[("max.poll.interval.ms", "13000"), ("session.timeout.ms", "6000")],
    );
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let sink = broker.sink().await.unwrap();
    for number in 0..RECORDS {
        let key = Some(Bytes::from(number.to_string()));
        let image = Outgoing { key, ..image(200 << 10) };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = sink.send(image.clone()).await {
            assert!(Instant::now() < deadline, "{error}");
        }
    }
    let mut first = broker.exchange("g", &[Topic::Images]).await.unwrap().source;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let second = broker.exchange("g", &[Topic::Images]).await.unwrap().source;
    eventually("the second has partitions", || !second.status().lag.is_empty());
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(second);
    let mut keys = std::collections::BTreeSet::new();
    while keys.len() < RECORDS {
        keys.extend(take(&mut *first, 1).await.into_iter().map(|record| record.key));
    }
}
