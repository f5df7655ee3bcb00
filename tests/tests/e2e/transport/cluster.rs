//! What only a real cluster can be asked: replicas that come and go, size, and all that may be missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
};

use duet_transport::{Committed, TransportError};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_joins_takes_over_and_nothing_is_lost_or_doubled() {
    const RECORDS: usize = 300;
    let broker = kafka_exactly_once().await;
    let keyed = |i: usize| Outgoing {
        key: Some(Bytes::from(format!("study {}", i % 20))),
        ..record(Topic::Images, i.to_string())
    };
    send(&*broker, (0..RECORDS).map(keyed)).await;

    // The first has taken records of every partition and not committed them when the second joins.
    let mut first = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let held = take(&mut *first.source, RECORDS).await;
    let mut second = broker.exchange("g", &[Topic::Images]).await.unwrap();
    eventually("the second has partitions", async || {
        let status = second.source.status();
        status.assigned && !status.lag.is_empty()
    })
    .await;
    let committed = first.committer.commit(echo(&held, Topic::Prepared)).await.unwrap();
    assert_eq!(committed.done + committed.returned, RECORDS);
    assert!(committed.returned > 0, "a partition went to the second: {committed:?}");
    assert!(committed.done > 0, "a partition stayed with the first: {committed:?}");

    let mut rest = Committed::default();
    while rest.done < committed.returned {
        let records = take(&mut *second.source, 1).await;
        rest.done += second.committer.commit(echo(&records, Topic::Prepared)).await.unwrap().done;
    }
    let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts(&take(&mut *tail, RECORDS).await) {
        *counts.entry(text).or_default() += 1;
    }
    take_nothing(&mut *tail).await;
    assert_eq!(counts.len(), RECORDS, "every record once: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_without_partitions_is_ready_all_the_same() {
    let broker = kafka_exactly_once().await;
    let mut replicas = Vec::new();
    for _ in 0..4 {
        replicas.push(broker.exchange("g", &[Topic::Images]).await.unwrap());
    }
    // Three partitions, four replicas.
    eventually("all know what is theirs", async || {
        replicas.iter().all(|replica| replica.source.status().assigned)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_film_goes_through_inline() {
    let broker = kafka_exactly_once().await;
    let large = Bytes::from(vec![7; 31 << 20]);
    send(&*broker, [record(Topic::Images, large.clone())]).await;
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let records = take(&mut *exchange.source, 1).await;
    exchange.committer.commit(echo(&records, Topic::DeadLetters)).await.unwrap();
    let mut tail = broker.tail(&[Topic::DeadLetters], Start::Beginning).await.unwrap();
    assert!(take(&mut *tail, 1).await[0].value == large);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_refused_with_its_topic_and_size_and_leaves_nothing() {
    let config = KafkaConfig { max_message_bytes: 1 << 20, ..Kafka::config().unwrap() };
    let broker = cluster(&config).await;
    let large = || record(Topic::Prepared, vec![0; 3 << 20]);
    let sink = broker.sink().await.unwrap();
    // More than the topic takes and the client sends; more than the client sends.
    for bytes in [2 << 20, 9 << 20] {
        let error = sink.send(record(Topic::Images, vec![0; bytes])).await.unwrap_err();
        let name = config.name_of(Topic::Images);
        assert!(
            matches!(&error, TransportError::TooLarge { topic, bytes: told } if *topic == name && *told == bytes),
            "{error}"
        );
    }
    send(&broker, [record(Topic::Images, "a")]).await;
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    let records = take(&mut *exchange.source, 1).await;
    let mut done = echo(&records, Topic::Prepared);
    done[0].outputs.push(large());
    let error = exchange.committer.commit(done).await.unwrap_err();
    assert!(matches!(error, TransportError::TooLarge { .. }), "{error}");
    // What was sent with it was taken back.
    let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    take_nothing(&mut *tail).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_named_and_not_created() {
    let config = Kafka::config().unwrap();
    let broker = KafkaBroker::connect(&config).await.unwrap();
    let name = config.name_of(Topic::Images);
    let errors = [
        broker.exchange("g", &[Topic::Images]).await.err(),
        broker.tail(&[Topic::Images], Start::End).await.err(),
        broker.sink().await.unwrap().send(record(Topic::Images, "a")).await.err(),
    ];
    for error in errors {
        let error = error.unwrap();
        assert!(
            matches!(&error, TransportError::UnknownTopic { topic } if *topic == name),
            "{error}"
        );
    }
    assert!(broker.describe_topics().await.unwrap().iter().all(|found| found.partitions == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_not_there_is_told_by_its_address() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let bootstrap = format!("127.0.0.1:{port}");
    let config = KafkaConfig {
        bootstrap: bootstrap.clone(),
        request_timeout_ms: 1_000,
        ..KafkaConfig::default()
    };
    let error = KafkaBroker::connect(&config).await.unwrap_err();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&bootstrap), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_created_once_with_their_settings() {
    let config = Kafka::config().unwrap();
    let broker = cluster(&config).await;
    assert_eq!(broker.create_topics().await.unwrap(), []);
    send(&broker, ["a", "b"].map(|value| record(Topic::Images, value))).await;
    for found in broker.describe_topics().await.unwrap() {
        assert_eq!(found.name, config.name_of(found.topic));
        assert_eq!(found.partitions, 3);
        assert_eq!(found.records, if found.topic == Topic::Images { 2 } else { 0 });
        let settings: BTreeMap<_, _> = found.settings.into_iter().collect();
        let retention = settings.get("retention.ms").map(String::as_str);
        assert_eq!(retention, found.topic.is_guarded().then_some("259200000"), "{}", found.name);
        assert!(settings["max.message.bytes"].parse::<usize>().unwrap() >= 33 << 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_shows_and_work_goes_on_when_it_is_back() {
    let mut kafka = Kafka::start_apart("").unwrap();
    let broker = cluster(&kafka.own_config()).await;
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    send(&broker, [record(Topic::Images, "before")]).await;
    let held = take(&mut *exchange.source, 1).await;
    kafka.stop().unwrap();
    eventually("its absence shows", async || {
        exchange.source.status().problem.is_some_and(|words| words.contains(kafka.address()))
    })
    .await;
    // A commit that meets no broker waits for it, or gives the record back.
    let done = echo(&held, Topic::Prepared);
    let committing = tokio::spawn(async move {
        let committed = exchange.committer.commit(done).await;
        (exchange, committed)
    });
    kafka.resume().unwrap();
    let (mut exchange, committed) = committing.await.unwrap();
    if committed.unwrap().returned == 1 {
        let again = take(&mut *exchange.source, 1).await;
        let done = echo(&again, Topic::Prepared);
        assert_eq!(exchange.committer.commit(done).await.unwrap().done, 1);
    }
    send(&broker, [record(Topic::Images, "after")]).await;
    let records = take(&mut *exchange.source, 1).await;
    exchange.committer.commit(echo(&records, Topic::Prepared)).await.unwrap();
    assert_eq!(exchange.source.status().problem, None);
    let mut tail = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    assert_eq!(texts(&take(&mut *tail, 2).await), ["before", "after"]);
    take_nothing(&mut *tail).await;
}

/// While a broker is not let in by its controller it tells of topics and of no brokers, and the client forgets all of
/// them. Here that is so half of the time: it is silent for longer than its controller has patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_told_of_no_brokers_finds_them_again() {
    let kafka = Kafka::start_apart("broker.heartbeat.interval.ms=4000\n").unwrap();
    let mut config = kafka.own_config();
    config.properties.insert("topic.metadata.refresh.interval.ms".to_owned(), "300".to_owned());
    let broker = cluster(&config).await;
    let sink = broker.sink().await.unwrap();
    let mut tail = broker.tail(&[Topic::Images], Start::Beginning).await.unwrap();
    let mut exchange = broker.exchange("g", &[Topic::Images]).await.unwrap();
    // Four times in and out.
    for number in 0..16 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let image = record(Topic::Images, number.to_string());
        while let Err(error) = sink.send(image.clone()).await {
            assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
        }
    }
    let mut seen = BTreeSet::new();
    while seen.len() < 16 {
        seen.extend(texts(&take(&mut *tail, 1).await));
    }
    let mut read = BTreeSet::new();
    while read.len() < 16 {
        read.extend(texts(&take(&mut *exchange.source, 1).await));
    }
}

/// What KEDA counts: offsets up to the end, whatever stands there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_has_done_everything_has_no_lag_that_others_count() {
    let config = Kafka::config().unwrap();
    let broker = cluster(&config).await;
    let mut first = broker.exchange("first", &[Topic::Images]).await.unwrap();
    send(&broker, (0..5).map(|i| record(Topic::Images, i.to_string()))).await;
    let records = take(&mut *first.source, 5).await;
    first.committer.commit(echo(&records, Topic::Prepared)).await.unwrap();

    let mut second = broker.exchange("second", &[Topic::Prepared]).await.unwrap();
    let records = take(&mut *second.source, 5).await;
    let lag = || {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &config.bootstrap).set("group.id", "second");
        let client: BaseConsumer = client.create().unwrap();
        let limit = Duration::from_secs(20);
        let name = config.name_of(Topic::Prepared);
        let mut places = TopicPartitionList::new();
        (0..config.partitions).for_each(|partition| {
            places.add_partition(&name, partition);
        });
        let committed = client.committed_offsets(places, limit).unwrap();
        let of = |partition: i32, offset| match offset {
            Offset::Offset(offset) => {
                client.fetch_watermarks(&name, partition, limit).unwrap().1 - offset
            }
            _ => client.fetch_watermarks(&name, partition, limit).unwrap().1,
        };
        committed.elements().iter().map(|e| of(e.partition(), e.offset())).sum::<i64>()
    };
    // Nothing is committed while work is in hand, however long it takes.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(lag(), 6, "five records, and the end of their transaction");
    second.committer.commit(echo(&records, Topic::Flagged)).await.unwrap();
    eventually("there is no lag", async || lag() == 0).await;

    // And what comes next is read, by whoever comes next.
    drop(second);
    send(&broker, [record(Topic::Images, "more")]).await;
    let more = take(&mut *first.source, 1).await;
    first.committer.commit(echo(&more, Topic::Prepared)).await.unwrap();
    let mut third = broker.exchange("second", &[Topic::Prepared]).await.unwrap();
    assert_eq!(texts(&take(&mut *third.source, 1).await), ["more"]);
    third.committer.commit(echo(&[], Topic::Flagged)).await.unwrap();
    assert_eq!(lag(), 2, "it was handed out, and not committed");
}
