//! What the runner promises, on the embedded broker: one end for every record, whatever the stage does with it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says so when it fails

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use duet_case::{Case, CaseId, DeadLetterHeader, Format, Source, StudyKey, Topic};
use duet_stage::{
    FromRecord, IntoPayloads, Outcome, Payload, Reason, RunnerConfig, Stage, image_record,
};
use duet_telemetry::Health;
use duet_transport::{Broker, MemoryBroker, Record, Start};
use tokio_util::sync::CancellationToken;

/// Does with each record what its text says.
struct Obedient {
    tries: Arc<AtomicU32>,
}

#[derive(Clone)]
struct Text(Bytes);

impl FromRecord for Text {
    fn from_record(record: &Record) -> Result<Self, Reason> {
        match &record.value[..] {
            b"unreadable" => Err(Reason::new("unreadable", "it says so itself")),
            _ => Ok(Self(record.value.clone())),
        }
    }

    fn case_id(&self) -> CaseId {
        CaseId::of_input(&self.0)
    }
}

impl Stage for Obedient {
    const NAME: &'static str = "obedient";
    const INPUTS: &'static [Topic] = &[Topic::Images];
    type In = Text;
    type Out = Case;

    async fn process(&self, batch: Vec<Text>) -> Vec<Outcome<Case>> {
        assert!(!batch.iter().any(|text| &text.0[..] == b"crash"), "asked to crash");
        let one = |Text(bytes)| match &bytes[..] {
            b"reject" => Outcome::Reject(Reason::new("refused", "asked to")),
            b"never" => Outcome::Retry(Reason::new("away", "asked to")),
            b"third time" if self.tries.fetch_add(1, Ordering::SeqCst) < 2 => {
                Outcome::Retry(Reason::new("away", "asked to"))
            }
            _ => Outcome::Emit(case(&bytes), Topic::Prepared),
        };
        batch.into_iter().map(one).collect()
    }
}

fn case(bytes: &[u8]) -> Case {
    let source =
        Source { width: 1, height: 1, bits: 8, frames: 1, ..Source::new(Format::Png, bytes) };
    Case::new(CaseId::of_input(bytes), StudyKey::from_mac(&[7; 32]), chrono::Utc::now(), source)
}

/// Feeds `texts`, runs the stage until all are done, and returns what came out: cases and dead letters.
async fn run_through(texts: &[&'static str], config: RunnerConfig) -> (Vec<Record>, Vec<Record>) {
    let broker = MemoryBroker::default();
    let exchange = broker.exchange("g", Obedient::INPUTS).await.unwrap();
    let sink = broker.sink().await.unwrap();
    for text in texts {
        sink.send(image_record(Bytes::from_static(text.as_bytes()), "test").1).await.unwrap();
    }
    let shutdown = CancellationToken::new();
    let health = Health::default();
    let item = health.item("obedient", "starting");
    let (stop, stage) = (shutdown.clone(), Obedient { tries: Arc::default() });
    let running =
        tokio::spawn(async move { duet_stage::run(stage, exchange, &config, item, stop).await });

    let mut out = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    let mut dead = broker.tail(&[Topic::DeadLetters], Start::Beginning).await.unwrap();
    let (mut cases, mut letters) = (Vec::new(), Vec::new());
    let all = async {
        while cases.len() + letters.len() < texts.len() {
            cases.extend(out.poll(9, Duration::ZERO).await.unwrap());
            letters.extend(dead.poll(9, Duration::ZERO).await.unwrap());
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("every record has an end");
    assert!(health.missing().is_empty(), "ready while it runs");
    shutdown.cancel();
    running.await.unwrap().unwrap();
    assert!(!health.missing().is_empty(), "not ready once it stopped");
    (cases, letters)
}

fn quick() -> RunnerConfig {
    RunnerConfig { backoff_ms: 1, backoff_max_ms: 2, max_attempts: 4, ..RunnerConfig::default() }
}

#[tokio::test]
async fn every_record_has_one_end_and_a_bad_one_costs_itself_alone() {
    let texts = ["good", "reject", "crash", "unreadable", "never", "third time", "good too"];
    let (cases, letters) = run_through(&texts, quick()).await;

    let ids: Vec<_> = cases.iter().map(|r| Case::from_json(&r.value).unwrap().id).collect();
    for good in ["good", "third time", "good too"] {
        assert!(ids.contains(&CaseId::of_input(good.as_bytes())), "{good}");
    }
    let mut ends: Vec<_> = letters
        .iter()
        .map(|r| {
            let header = |name| r.headers.text(name).unwrap().to_owned();
            let bytes = String::from_utf8(r.value.to_vec()).unwrap();
            (bytes, header(DeadLetterHeader::CLASS), header(DeadLetterHeader::ATTEMPTS))
        })
        .collect();
    ends.sort();
    let expected = [
        ("crash", "crashed", "1"),
        ("never", "away", "4"),
        ("reject", "refused", "1"),
        ("unreadable", "unreadable", "1"),
    ];
    let expected = expected.map(|(b, c, a)| (b.to_owned(), c.to_owned(), a.to_owned()));
    assert_eq!(ends, expected);
}

#[tokio::test]
async fn the_envelope_is_a_cloud_event_of_one_trace_and_the_same_work_has_the_same_id() {
    let (cases, _) = run_through(&["film", "film"], quick()).await;
    let header = |r: &Record, name| r.headers.text(name).unwrap().to_owned();
    assert_eq!(header(&cases[0], "ce_id"), header(&cases[1], "ce_id"));
    assert_eq!(header(&cases[0], "ce_type"), "duet.prepared.v1");
    assert_eq!(header(&cases[0], "content-type"), "application/json");
    assert_eq!(cases[0].key.as_deref(), Some(StudyKey::from_mac(&[7; 32]).as_str().as_bytes()));

    let sent = image_record(Bytes::from_static(b"film"), "test").1;
    let trace = |text: &str| text.split('-').nth(1).map(str::to_owned);
    assert_eq!(
        trace(&header(&cases[0], "traceparent")),
        trace(sent.headers.text("traceparent").unwrap())
    );
    let case = Case::from_json(&cases[0].value).unwrap();
    assert_eq!(case.hops.len(), 1);
    assert_eq!(case.hops[0].stage, "obedient");
}

/// A stage that gives too few outcomes must not shift one record's result to another.
#[tokio::test]
async fn outcomes_that_do_not_match_their_inputs_are_refused() {
    struct Short;
    impl Stage for Short {
        const NAME: &'static str = "short";
        const INPUTS: &'static [Topic] = &[Topic::Images];
        type In = Text;
        type Out = Nothing;
        async fn process(&self, _: Vec<Text>) -> Vec<Outcome<Nothing>> {
            Vec::new()
        }
    }
    struct Nothing(Case);
    impl IntoPayloads for Nothing {
        fn case_mut(&mut self) -> &mut Case {
            &mut self.0
        }
        fn into_payloads(self, _: Topic) -> Result<Vec<Payload>, Reason> {
            Ok(Vec::new())
        }
    }
    let broker = MemoryBroker::default();
    let exchange = broker.exchange("g", Short::INPUTS).await.unwrap();
    let sink = broker.sink().await.unwrap();
    sink.send(image_record(Bytes::from_static(b"film"), "test").1).await.unwrap();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let item = Health::default().item("short", "starting");
    let running =
        tokio::spawn(async move { duet_stage::run(Short, exchange, &quick(), item, stop).await });
    let mut dead = broker.tail(&[Topic::DeadLetters], Start::Beginning).await.unwrap();
    let letters = loop {
        let letters = dead.poll(1, Duration::ZERO).await.unwrap();
        if !letters.is_empty() {
            break letters;
        }
    };
    assert_eq!(letters[0].headers.text(DeadLetterHeader::CLASS), Some("stage_defect"));
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_name() {
    let cases = [
        (RunnerConfig { max_batch: 0, ..RunnerConfig::default() }, "max_batch"),
        (RunnerConfig { max_attempts: 0, ..RunnerConfig::default() }, "max_attempts"),
        (RunnerConfig { backoff_ms: 99_999, ..RunnerConfig::default() }, "backoff_ms"),
        (RunnerConfig { dead_letter_limit: 0.0, ..RunnerConfig::default() }, "dead_letter_limit"),
        (RunnerConfig { dead_letter_min: 0, ..RunnerConfig::default() }, "dead_letter_min"),
        (
            RunnerConfig { dead_letter_window_ms: 9, ..RunnerConfig::default() },
            "dead_letter_window_ms",
        ),
        (
            RunnerConfig { dead_letter_pause_ms: 0, ..RunnerConfig::default() },
            "dead_letter_pause_ms",
        ),
        (RunnerConfig { watts_per_core: f64::NAN, ..RunnerConfig::default() }, "watts_per_core"),
    ];
    for (config, key) in cases {
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(key), "{message}");
    }
    assert_eq!(RunnerConfig::default().validate(), Ok(()));
}
