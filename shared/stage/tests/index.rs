//! What the index promises: the furthest state wins in whatever order records come, nothing counts twice, memory
//! stays bounded, a slow listener is told, and trouble with the broker ends by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use duet_case::{Case, CaseId, DeadLetterHeader, Topic};
use duet_stage::{CaseIndex, CaseState, IndexConfig, Show, Update};
use duet_telemetry::Health;
use duet_transport::{
    Broker, Exchange, Headers, MemoryBroker, Origin, Outgoing, Record, Sink, Source, Start,
    TopicDescription, TransportError,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).unwrap()
}

fn id(film: &str) -> CaseId {
    CaseId::of_input(film.as_bytes())
}

/// The Case of `film`, received `seconds` after the start, as it stands in `topic`.
fn case(film: &str, topic: Topic, seconds: i64) -> Case {
    let sha256 = "0".repeat(64);
    let mut case = json!({
        "schema_version": 1,
        "id": id(film),
        "study": format!("s-{}", "0".repeat(32)),
        "received_at": start() + TimeDelta::seconds(seconds),
        "source": {
            "format": "png", "sha256": sha256, "bytes": 1, "width": 1, "height": 1, "bits": 8, "frames": 1,
        },
    });
    let decision = match topic {
        Topic::Prepared => None,
        Topic::Cleared => Some("cleared"),
        Topic::OutOfScope => Some("out_of_scope"),
        _ => Some("flagged"),
    };
    if let Some(decision) = decision {
        case["triage"] = json!({
            "decision": decision, "priority": "routine", "reasons": ["because"], "kind": "k", "kind_meaning": "k",
            "fitness": "fit", "abnormal": 0.5, "audit": false, "scores": [],
            "model": { "name": "m", "version": "1", "sha256": sha256 },
        });
    }
    if topic == Topic::Reports {
        case["conclusion"] = json!({ "outcome": "no_finding", "summary": format!("at {seconds}") });
    }
    serde_json::from_value(case).unwrap()
}

fn record(film: &str, topic: Topic, offset: i64, seconds: i64) -> Record {
    let mut headers = Headers::default();
    if topic == Topic::DeadLetters {
        headers.push(DeadLetterHeader::CASE, id(film).to_string());
        headers.push(DeadLetterHeader::MESSAGE, format!("{film} is broken"));
    }
    Record {
        origin: Origin { topic, partition: 0, offset, epoch: 0 },
        timestamp: Some(start() + TimeDelta::seconds(seconds)),
        key: None,
        headers,
        value: case(film, topic, seconds).to_json().unwrap().into(),
    }
}

fn index() -> CaseIndex {
    CaseIndex::new(IndexConfig::default())
}

#[test]
fn the_furthest_state_wins_in_every_order_and_nothing_counts_twice() {
    use Topic::{Assessed, Cleared, DeadLetters, Flagged, OutOfScope, Prepared, Reports};
    for (topics, expected, reports) in [
        (&[Prepared][..], CaseState::Prepared, 0),
        (&[Prepared, Flagged, Assessed], CaseState::Assessed, 0),
        (&[Prepared, Cleared], CaseState::Cleared, 0),
        (&[Prepared, OutOfScope, Reports], CaseState::Reported, 1),
        (&[Prepared, Flagged, DeadLetters], CaseState::DeadLetter, 0),
        // Given up once, fed again, and finished.
        (&[DeadLetters, Prepared, Flagged, Assessed, Reports], CaseState::Reported, 1),
        (&[DeadLetters, Prepared], CaseState::DeadLetter, 0),
    ] {
        let records: Vec<_> =
            (0..).zip(topics).map(|(n, &topic)| record("film", topic, n, n)).collect();
        for turn in 0..records.len() {
            let index = index();
            let turned = records[turn..].iter().chain(&records[..turn]);
            // Twice over, as after a reconnection.
            for record in turned.clone().rev().chain(turned) {
                index.record(record).unwrap();
            }
            let summary = index.get(&id("film")).unwrap().summary;
            assert_eq!((summary.state, summary.reports), (expected, reports), "{topics:?} {turn}");
            assert_eq!(index.latest(9, |_| true).len(), 1);
        }
    }
}

#[test]
fn a_film_fed_twice_is_one_entry_with_its_later_report() {
    let records = [record("film", Topic::Reports, 0, 10), record("film", Topic::Reports, 1, 20)];
    for order in [[0, 1], [1, 0]] {
        let index = index();
        order.into_iter().for_each(|n| index.record(&records[n]).unwrap());
        let entry = index.get(&id("film")).unwrap();
        assert_eq!(entry.summary.reports, 2);
        assert_eq!(entry.summary.text.as_deref(), Some("at 20"));
        // Served byte for byte as in the topic.
        assert_eq!(entry.case.unwrap().1.json, records[1].value);
    }
}

#[test]
fn newest_first_and_chosen_by_what_is_wanted() {
    let index = index();
    for (n, (film, topic)) in [
        ("a", Topic::Cleared),
        ("b", Topic::Flagged),
        ("c", Topic::Reports),
        ("d", Topic::OutOfScope),
        ("e", Topic::DeadLetters),
    ]
    .into_iter()
    .enumerate()
    {
        index.record(&record(film, topic, n as i64, n as i64)).unwrap();
    }
    let films = |show: Show| -> Vec<CaseId> {
        let list = index.latest(9, |summary| show.includes(summary));
        list.iter().map(|summary| summary.id.clone()).collect()
    };
    assert_eq!(films(Show::All), ["e", "d", "c", "b", "a"].map(id));
    // A film that was flagged stays among the flagged once it is reported.
    assert_eq!(films(Show::Flagged), ["c", "b"].map(id));
    assert_eq!(films(Show::Cleared), [id("a")]);
    assert_eq!(films(Show::NotLookedFor), [id("d")]);
    assert_eq!(films(Show::DeadLetters), [id("e")]);
    assert_eq!(index.latest(2, |_| true).len(), 2);
    let counts = index.counts();
    assert_eq!((counts.show[&Show::All], counts.show[&Show::Flagged]), (5, 2));
    assert_eq!(counts.states[&CaseState::DeadLetter], 1);
}

#[test]
fn the_oldest_go_first_when_there_are_too_many_or_they_are_too_large() {
    let one = record("film 0", Topic::Reports, 0, 0).value.len();
    let few = IndexConfig { max_cases: 3, ..IndexConfig::default() };
    let small = IndexConfig { max_bytes: 3 * (2 * one + 2100), ..IndexConfig::default() };
    for config in [few, small] {
        let index = CaseIndex::new(config.clone());
        for n in [4, 1, 0, 3, 2, 5] {
            index.record(&record(&format!("film {n}"), Topic::Reports, n, n)).unwrap();
        }
        let list = index.latest(9, |_| true);
        let held: Vec<_> = list.iter().map(|summary| summary.id.clone()).collect();
        assert_eq!(held, ["film 5", "film 4", "film 3"].map(id), "{config:?}");
        assert!(index.get(&id("film 0")).is_none());
    }
}

#[tokio::test]
async fn an_accepted_image_is_there_at_once_and_takes_nothing_back() {
    let index = index();
    let mut updates = index.subscribe();
    index.received(&id("film"));
    assert!(matches!(updates.next().await, Some(Update::Case(_))));
    assert_eq!(index.get(&id("film")).unwrap().summary.state, CaseState::Received);
    index.record(&record("film", Topic::Reports, 0, 5)).unwrap();
    index.received(&id("film"));
    assert_eq!(index.get(&id("film")).unwrap().summary.state, CaseState::Reported);
}

#[test]
fn a_dead_letter_without_an_id_is_named_by_its_bytes_and_what_is_no_case_is_refused() {
    let index = index();
    let mut letter = record("film", Topic::DeadLetters, 0, 0);
    letter.headers = Headers::default();
    letter.value = Bytes::from_static(b"noise");
    index.record(&letter).unwrap();
    assert_eq!(index.get(&id("noise")).unwrap().summary.state, CaseState::DeadLetter);
    letter.origin.topic = Topic::Prepared;
    assert_eq!(index.record(&letter).unwrap_err().class, "not_a_case");
}

#[test]
fn a_dead_letter_that_was_sent_again_is_none_any_more() {
    let letter = |offset, seconds| {
        let mut letter = record("film", Topic::DeadLetters, offset, seconds);
        letter.headers.push(DeadLetterHeader::TIME, format!("time {offset}"));
        letter
    };
    let note = |offset: i64| {
        let value = json!({
            "partition": 0, "offset": offset, "given_up": format!("time {offset}"), "case": id("film"),
            "stage": "triage", "class": "inference", "topic": "prepared", "redriven_at": "later",
        });
        let mut note = record("film", Topic::Redriven, offset, 30);
        note.value = value.to_string().into();
        note
    };
    let shown = |records: &[Record]| {
        let index = index();
        // Twice over, as after a reconnection.
        records.iter().chain(records).for_each(|record| index.record(record).unwrap());
        let summary = index.get(&id("film")).unwrap().summary;
        (summary.state, summary.dead_letters, summary.redriven, summary.dead_letter.is_some())
    };
    let (first, second) = (letter(0, 10), letter(1, 20));
    let prepared = record("film", Topic::Prepared, 0, 0);
    // In either order.
    for records in [[first.clone(), note(0)], [note(0), first.clone()]] {
        assert_eq!(shown(&records), (CaseState::Received, 0, 1, false));
    }
    let again = [prepared.clone(), first.clone(), note(0)];
    assert_eq!(shown(&again), (CaseState::Prepared, 0, 1, false));
    // The one that was not sent again counts, be it the earlier one.
    let earlier = [first.clone(), second.clone(), note(1)];
    assert_eq!(shown(&earlier), (CaseState::DeadLetter, 1, 1, true));
    // It failed again.
    let failed = [prepared, first.clone(), note(0), second];
    assert_eq!(shown(&failed), (CaseState::DeadLetter, 1, 1, true));
    // A note on another letter of the same place, from before the topic was made anew.
    let mut older = note(0);
    older.value =
        String::from_utf8(older.value.to_vec()).unwrap().replace("time 0", "long ago").into();
    assert_eq!(shown(&[older, first]), (CaseState::DeadLetter, 1, 0, true));
}

#[tokio::test]
async fn a_listener_hears_changes_only_and_a_slow_one_is_told_to_read_anew() {
    let index = index();
    let mut updates = index.subscribe();
    let first = record("film", Topic::Prepared, 0, 0);
    index.record(&first).unwrap();
    index.record(&first).unwrap();
    index.record(&record("film", Topic::Flagged, 0, 1)).unwrap();
    for expected in [CaseState::Prepared, CaseState::Flagged] {
        let Some(Update::Case(summary)) = updates.next().await else { panic!("no change") };
        assert_eq!(summary.state, expected);
    }
    for n in 0..2000 {
        index.record(&record(&format!("film {n}"), Topic::Prepared, n, n)).unwrap();
    }
    assert!(matches!(updates.next().await, Some(Update::Reload)));
    assert!(matches!(updates.next().await, Some(Update::Case(_))), "and it goes on");
}

/// A broker whose first tails fail, each in its own way.
struct Shaky {
    memory: MemoryBroker,
    tails: AtomicU32,
}

struct Broken;

#[async_trait]
impl Source for Broken {
    async fn poll(
        &mut self,
        _: usize,
        _: std::time::Duration,
    ) -> Result<Vec<Record>, TransportError> {
        Err(TransportError::Client { reason: "it fell over".into() })
    }

    fn status(&self) -> duet_transport::SourceStatus {
        duet_transport::SourceStatus::default()
    }
}

#[async_trait]
impl Broker for Shaky {
    async fn exchange(&self, group: &str, topics: &[Topic]) -> Result<Exchange, TransportError> {
        self.memory.exchange(group, topics).await
    }

    async fn sink(&self) -> Result<Arc<dyn Sink>, TransportError> {
        self.memory.sink().await
    }

    async fn tail(
        &self,
        topics: &[Topic],
        start: Start,
    ) -> Result<Box<dyn Source>, TransportError> {
        match self.tails.fetch_add(1, Ordering::SeqCst) {
            0 | 1 => {
                Err(TransportError::Unreachable { address: "b:1".into(), reason: "away".into() })
            }
            2 | 3 => Ok(Box::new(Broken)),
            _ => self.memory.tail(topics, start).await,
        }
    }

    async fn create_topics(&self) -> Result<Vec<Topic>, TransportError> {
        self.memory.create_topics().await
    }

    async fn describe_topics(&self) -> Result<Vec<TopicDescription>, TransportError> {
        self.memory.describe_topics().await
    }
}

#[tokio::test(start_paused = true)]
async fn trouble_with_the_broker_shows_and_ends_by_itself() {
    let memory = MemoryBroker::default();
    let sink = memory.sink().await.unwrap();
    for topic in [Topic::Prepared, Topic::DeadLetters] {
        let Record { headers, value, .. } = record(topic.name(), topic, 0, 0);
        sink.send(Outgoing { topic, key: None, headers, value }).await.unwrap();
    }
    let broker = Arc::new(Shaky { memory, tails: AtomicU32::new(0) });
    let (index, health, shutdown) = (index(), Health::default(), CancellationToken::new());
    let item = health.item("cases", "starting");
    let mut updates = index.subscribe();
    let running = tokio::spawn(index.clone().run(broker, item, shutdown.clone()));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let problem = health.missing()["cases"].clone();
    assert!(problem.contains("b:1") && problem.contains("check that it runs"), "{problem}");
    for _ in 0..2 {
        assert!(matches!(updates.next().await, Some(Update::Case(_))));
    }
    let states = index.counts().states;
    assert_eq!((states[&CaseState::Prepared], states[&CaseState::DeadLetter]), (1, 1));
    while !health.missing().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    shutdown.cancel();
    running.await.unwrap();
}
