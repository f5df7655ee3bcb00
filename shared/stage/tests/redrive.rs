//! A broken stage stops before it has given everything up, goes on once it is mended, and what it gave up is sent
//! again once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test says so when it fails

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use duet_case::{Case, CaseId, Format, REDRIVE_HEADER, Source, StudyKey, Topic};
use duet_stage::{
    DeadLetter, FromRecord, Outcome, Reason, Redrive, RunnerConfig, Stage, image_record, redriven,
};
use duet_telemetry::{Health, metrics};
use duet_transport::{Archive, Broker, MemoryBroker, Record, Start, TransportError};
use tokio_util::sync::CancellationToken;

const FILMS: usize = 60;

/// Rejects everything while it is broken.
struct Model {
    is_broken: Arc<AtomicBool>,
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

impl Stage for Model {
    const NAME: &'static str = "model";
    const INPUTS: &'static [Topic] = &[Topic::Images];
    type In = Film;
    type Out = Case;

    async fn process(&self, batch: Vec<Film>) -> Vec<Outcome<Case>> {
        let is_broken = self.is_broken.load(Ordering::SeqCst);
        let one = |Film(bytes)| {
            if is_broken {
                return Outcome::Reject(Reason::new("inference", "asked to"));
            }
            let source = Source { width: 1, height: 1, ..Source::new(Format::Png, &bytes) };
            let study = StudyKey::from_mac(&[7; 32]);
            let case = Case::new(CaseId::of_input(&bytes), study, chrono::Utc::now(), source);
            Outcome::Emit(case, Topic::Prepared)
        };
        batch.into_iter().map(one).collect()
    }
}

async fn all_of(broker: &MemoryBroker, topic: Topic) -> Vec<Record> {
    let mut history = broker.history(topic, None).await.unwrap();
    let mut all = Vec::new();
    while let Some(records) = history.next(7).await.unwrap() {
        all.extend(records);
    }
    assert_eq!(history.progress().0, history.progress().1);
    all
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..3000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still not so: {what}");
}

#[tokio::test]
async fn a_broken_stage_pauses_loses_nothing_and_goes_on_once_mended() {
    let broker = MemoryBroker::default();
    let exchange = broker.exchange("g", Model::INPUTS).await.unwrap();
    let sink = broker.sink().await.unwrap();
    for film in 0..FILMS {
        sink.send(image_record(film.to_string().into(), "test").1).await.unwrap();
    }
    let config = RunnerConfig {
        max_batch: 4,
        dead_letter_limit: 0.5,
        dead_letter_min: 10,
        dead_letter_pause_ms: 400,
        ..RunnerConfig::default()
    };
    let (health, shutdown) = (Health::default(), CancellationToken::new());
    let is_broken = Arc::new(AtomicBool::new(true));
    let (item, stop) = (health.item("model", "starting"), shutdown.clone());
    let stage = Model { is_broken: Arc::clone(&is_broken) };
    let running =
        tokio::spawn(async move { duet_stage::run(stage, exchange, &config, item, stop).await });

    let paused = async || health.missing().get("model").is_some_and(|why| why.contains("paused"));
    until("it pauses", paused).await;
    let words = health.missing()["model"].clone();
    for says in ["12 of the last 12", "inference", "runner.dead_letter_limit = 0.5", "redrive"] {
        assert!(words.contains(says), "{words}");
    }
    assert_eq!(metrics().paused.with_label_values(&["model"]).get(), 1);
    // The limit, what its batch had more, and one for each pause of 400, 800, … ms.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let given_up = all_of(&broker, Topic::DeadLetters).await.len();
    assert!((12..=14).contains(&given_up), "{given_up} were given up");
    assert!(health.missing()["model"].contains("paused"));

    is_broken.store(false, Ordering::SeqCst);
    until("all are through", async || {
        let letters = all_of(&broker, Topic::DeadLetters).await.len();
        all_of(&broker, Topic::Prepared).await.len() + letters == FILMS
    })
    .await;
    until("it is ready", async || health.missing().is_empty()).await;
    assert_eq!(metrics().paused.with_label_values(&["model"]).get(), 0);

    // What it gave up while it was broken.
    let letters = all_of(&broker, Topic::DeadLetters).await;
    let mut redrive = Redrive::open(&broker, "redrive").await.unwrap();
    for letter in &letters {
        redrive.add(letter).unwrap();
        redrive.add(letter).unwrap();
    }
    assert_eq!(redrive.send().await.unwrap(), letters.len());
    until("every film is through", async || all_of(&broker, Topic::Prepared).await.len() == FILMS)
        .await;
    let cases = all_of(&broker, Topic::Prepared).await;
    let mut ids: Vec<_> = cases.iter().map(|r| Case::from_json(&r.value).unwrap().id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), FILMS, "each film once");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_letter_is_sent_once_by_runs_after_another_and_at_once() {
    let broker = MemoryBroker::default();
    let sink = broker.sink().await.unwrap();
    // So that nothing is dropped.
    let _reader = broker.tail(&[Topic::Images], Start::Beginning).await.unwrap();
    let exchange = broker.exchange("g", Model::INPUTS).await.unwrap();
    for film in 0..5 {
        sink.send(image_record(film.to_string().into(), "test").1).await.unwrap();
    }
    let shutdown = CancellationToken::new();
    let (item, stop) = (Health::default().item("model", "starting"), shutdown.clone());
    let stage = Model { is_broken: Arc::new(AtomicBool::new(true)) };
    let running = tokio::spawn(async move {
        duet_stage::run(stage, exchange, &RunnerConfig::default(), item, stop).await
    });
    until("all are given up", async || all_of(&broker, Topic::DeadLetters).await.len() == 5).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let letters = all_of(&broker, Topic::DeadLetters).await;

    let mut first = Redrive::open(&broker, "redrive").await.unwrap();
    first.add(&letters[0]).unwrap();
    first.add(&letters[1]).unwrap();
    assert_eq!(first.send().await.unwrap(), 2);
    // A second one takes over while the first has something in hand.
    first.add(&letters[2]).unwrap();
    let mut second = Redrive::open(&broker, "redrive").await.unwrap();
    letters.iter().for_each(|letter| assert!(second.add(letter).is_ok()));
    assert_eq!(second.send().await.unwrap(), 3);
    assert!(matches!(first.send().await, Err(TransportError::Fenced { .. })));
    let mut third = Redrive::open(&broker, "redrive").await.unwrap();
    letters.iter().for_each(|letter| assert!(third.add(letter).is_ok()));
    assert_eq!(third.send().await.unwrap(), 0);

    assert_eq!(redriven(&broker).await.unwrap().len(), 5);
    let images = all_of(&broker, Topic::Images).await;
    let again: Vec<_> =
        images.iter().filter(|image| image.headers.get(REDRIVE_HEADER).is_some()).collect();
    assert_eq!((images.len(), again.len()), (10, 5));
    for image in again {
        let letter = DeadLetter::case_of(image);
        let twin = images.iter().find(|own| DeadLetter::case_of(own) == letter).unwrap();
        let (own, more) = image.headers.split_at(twin.headers.len());
        assert_eq!((&image.key, own, more.len()), (&twin.key, twin.headers.clone(), 1));
    }
}
