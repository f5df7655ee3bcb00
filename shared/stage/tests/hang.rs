//! What shows while a stage works for too long, and that nothing of it is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says so when it fails

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use duet_case::{Case, CaseId, Format, Source as Picture, StudyKey, Topic};
use duet_stage::{FromRecord, Outcome, Reason, RunnerConfig, Stage, image_record};
use duet_telemetry::{Health, metrics};
use duet_transport::{
    Broker, Exchange, MemoryBroker, Record, Source, SourceStatus, Start, TransportError,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Far less than a broker's, so that the test is short.
const PATIENCE: Duration = Duration::from_millis(200);

/// Works until it is told to stop, as a model that hangs.
struct Hanging {
    free: Arc<Notify>,
    /// Holds its thread rather than waiting.
    blocks: bool,
}

#[derive(Clone)]
struct Film(Bytes);

impl FromRecord for Film {
    fn from_record(record: &Record) -> Result<Self, Reason> {
        Ok(Self(record.value.clone()))
    }

    fn case_id(&self) -> CaseId {
        CaseId::of_input(&self.0)
    }
}

impl Stage for Hanging {
    const NAME: &'static str = "hanging";
    const INPUTS: &'static [Topic] = &[Topic::Images];
    type In = Film;
    type Out = Case;

    async fn process(&self, batch: Vec<Film>) -> Vec<Outcome<Case>> {
        if self.blocks {
            std::thread::sleep(8 * PATIENCE);
        } else {
            self.free.notified().await;
        }
        let one = |Film(bytes): Film| {
            let source = Picture {
                width: 1,
                height: 1,
                bits: 8,
                frames: 1,
                ..Picture::new(Format::Png, &bytes)
            };
            let study = StudyKey::from_mac(&[7; 32]);
            let case = Case::new(CaseId::of_input(&bytes), study, chrono::Utc::now(), source);
            Outcome::Emit(case, Topic::Prepared)
        };
        batch.into_iter().map(one).collect()
    }
}

/// The embedded broker's source, with another patience and a broker that goes away when it is told to.
struct Impatient {
    inner: Box<dyn Source>,
    problem: Arc<std::sync::Mutex<Option<String>>>,
}

#[async_trait]
impl Source for Impatient {
    async fn poll(&mut self, max: usize, fill: Duration) -> Result<Vec<Record>, TransportError> {
        self.inner.poll(max, fill).await
    }

    fn status(&self) -> SourceStatus {
        SourceStatus { problem: self.problem.lock().unwrap().clone(), ..self.inner.status() }
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not so: {what}");
}

async fn check(blocks: bool) {
    let broker = MemoryBroker::default();
    let Exchange { source, committer } = broker.exchange("g", Hanging::INPUTS).await.unwrap();
    let problem = Arc::default();
    let source = Box::new(Impatient { inner: source, problem: Arc::clone(&problem) });
    let exchange = Exchange { source, committer };
    let film = image_record(Bytes::from_static(b"film"), "test").1;
    broker.sink().await.unwrap().send(film).await.unwrap();
    let (health, shutdown, free) =
        (Health::default(), CancellationToken::new(), Arc::new(Notify::new()));
    let item = health.item("hanging", "starting");
    let (stage, stop) = (Hanging { free: Arc::clone(&free), blocks }, shutdown.clone());
    let config = RunnerConfig::default();
    let running =
        tokio::spawn(async move { duet_stage::run(stage, exchange, &config, item, stop).await });

    let age = || metrics().in_work_seconds.with_label_values(&["hanging"]).get();
    until("it shows", || health.missing().contains_key("hanging work")).await;
    assert!(age() > PATIENCE.as_secs_f64(), "{}", age());
    let words = &health.missing()["hanging work"];
    assert!(words.contains("max.poll.interval.ms") && words.contains("restart"), "{words}");
    if !blocks {
        // Whatever else is wrong shows as well, while the stage is away.
        *problem.lock().unwrap() = Some("no broker answers".to_owned());
        until("the broker's absence shows", || {
            health.missing().get("hanging").is_some_and(|why| why == "no broker answers")
        })
        .await;
        *problem.lock().unwrap() = None;
    }
    free.notify_one();
    until("it is over", || health.missing().is_empty() && age() == 0.0).await;
    let mut out = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    assert_eq!(out.poll(9, Duration::from_millis(300)).await.unwrap().len(), 1);
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_hangs_shows_in_readiness_and_in_a_metric_and_goes_on() {
    check(false).await;
    check(true).await;
}
