//! Dead letters on a real broker: a deployment that breaks stops, what it gave up is sent again once, also where the
//! sending is killed in the middle.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_case::{CaseId, DeadLetterHeader, REDRIVE_HEADER, Topic};
use duet_stage::{FromRecord, Outcome, Reason, RunnerConfig, Stage};
use duet_telemetry::Health;
use duet_tests::{Ends, Fleet, Kafka};
use duet_transport::{Archive, Broker, Headers, KafkaBroker, KafkaConfig, Outgoing, Record, Start};
use futures::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use crate::pipeline::{feed, phantom};

const PATIENCE: Duration = Duration::from_secs(120);
const LIMIT: &str = "[runner]\nmax_batch = 4\ndead_letter_min = 5\ndead_letter_pause_ms = 3000\n";

fn run(mut command: Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(status.success(), "{out}{err}");
    (out, err)
}

async fn all_of(broker: &dyn Archive, topic: Topic) -> Vec<Record> {
    let mut history = broker.history(topic, None).await.unwrap();
    let mut all = Vec::new();
    while let Some(records) = history.next(1000).await.unwrap() {
        all.extend(records);
    }
    all
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_deployment_stops_and_once_mended_everything_gets_its_report() {
    const FILMS: usize = 24;
    let config = Kafka::config().unwrap();
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = Fleet::with(&config, folder.path(), LIMIT).unwrap();
    let mut ends = Ends::follow(&broker).await.unwrap();
    fleet.start("prepare").unwrap();
    let sink = broker.sink().await.unwrap();
    for number in 0..FILMS {
        feed(&*sink, phantom(number)).await;
    }
    let mut prepared = broker.tail(&[Topic::Prepared], Start::Beginning).await.unwrap();
    let mut count = 0;
    while count < FILMS {
        count += prepared.poll(99, Duration::ZERO).await.unwrap().len();
    }

    // What prepare wrote is not where triage looks for it.
    let (blobs, away) = (folder.path().join("blobs"), folder.path().join("away"));
    fs::rename(&blobs, &away).unwrap();
    fs::create_dir(&blobs).unwrap();
    let triage = fleet.start("triage").unwrap();
    for service in ["specialist", "publish"] {
        fleet.start(service).unwrap();
    }
    let paused = || {
        fleet
            .get(triage, "/metrics")
            .is_ok_and(|text| text.contains("duet_stage_paused{stage=\"triage\"} 1"))
    };
    until("triage pauses", paused);
    assert!(!fleet.is_ready(triage));
    let refused = fleet.get(triage, "/readyz").unwrap_err().to_string();
    assert!(refused.contains("503") && refused.contains("dead-letters redrive"), "{refused}");
    let log = fleet.process(triage).unwrap().output();
    assert_eq!(log.matches("paused: ").count(), 1, "one line: {log}");

    // Mended: it goes on by itself, and nothing waits for ever.
    fs::remove_dir_all(&blobs).unwrap();
    fs::rename(&away, &blobs).unwrap();
    until("triage goes on", || fleet.is_ready(triage));
    ends.wait_for(FILMS, PATIENCE).await.unwrap();
    let given_up = ends.dead_letters.len();
    assert!((5..FILMS / 2).contains(&given_up), "{given_up} of {FILMS} were given up");
    assert_eq!(ends.reports.len() + given_up, FILMS);

    // The command, as an operator has it.
    let (listed, _) =
        run(fleet.command(&["dead-letters", "list", "--json", "--where", "stage=triage"]));
    assert_eq!(listed.lines().count(), given_up, "{listed}");
    let first: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!((&first["class"], &first["topic"]), (&"blob_unusable".into(), &"prepared".into()));
    let (shown, _) = run(fleet.command(&["dead-letters", "show", first["id"].as_str().unwrap()]));
    assert!(shown.contains("prepared") && shown.contains("ce_subject"), "{shown}");
    let (dry, _) = run(fleet.command(&["dead-letters", "redrive", "--dry-run"]));
    assert!(dry.contains(&format!("{given_up} dead letters would be sent again")), "{dry}");
    let none = fleet.command(&["dead-letters", "redrive", "--where", "stage=prepare"]);
    assert!(run(none).0.contains("0 dead letters sent again"));
    let one = ["dead-letters", "redrive", "--where", "stage=triage", "--limit", "1"];
    assert!(run(fleet.command(&one)).0.contains("1 dead letters sent again"));
    let (rest, _) = run(fleet.command(&["dead-letters", "redrive", "--where", "stage=triage"]));
    assert!(rest.contains(&format!("{} dead letters sent again", given_up - 1)), "{rest}");
    assert!(rest.contains("1 had been sent again before"), "{rest}");
    let (again, _) = run(fleet.command(&["dead-letters", "redrive"]));
    assert!(again.contains("0 dead letters sent again"), "{again}");

    ends.wait_for(FILMS + given_up, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    assert_eq!((ends.count(), ends.reports.len()), (FILMS + given_up, FILMS));
    for number in 0..FILMS {
        assert_eq!(ends.reports_on(&phantom(number)).len(), 1, "phantom {number}");
    }

    // The page's list is right, read from the topics anew.
    let gateway = fleet.start("gateway").unwrap();
    fleet.wait_until_ready().unwrap();
    let cases = || -> serde_json::Value {
        serde_json::from_str(&fleet.get(gateway, "/v1/cases?limit=100").unwrap()).unwrap()
    };
    let sum = |cases: &serde_json::Value, key: &str| -> u64 {
        let cases = cases["cases"].as_array().unwrap().iter();
        cases.map(|case| case[key].as_u64().unwrap_or(0)).sum()
    };
    until("the list is whole", || sum(&cases(), "redriven") == given_up as u64);
    until("all are reported", || cases()["counts"]["states"]["reported"] == FILMS);
    assert_eq!(sum(&cases(), "dead_letters"), 0);
    for (service, code) in fleet.stop().unwrap() {
        assert_eq!(code, Some(0), "{service} did not stop in good order");
    }
}

/// Rejects everything.
struct Refuses;

#[derive(Clone)]
struct Anything(Bytes);

impl FromRecord for Anything {
    fn from_record(record: &Record) -> Result<Self, Reason> {
        Ok(Self(record.value.clone()))
    }

    fn case_id(&self) -> CaseId {
        CaseId::of_input(&self.0)
    }
}

impl Stage for Refuses {
    const NAME: &'static str = "refuses";
    const INPUTS: &'static [Topic] = &[Topic::Images];
    type In = Anything;
    type Out = duet_case::Case;

    async fn process(&self, batch: Vec<Anything>) -> Vec<Outcome<duet_case::Case>> {
        batch.iter().map(|_| Outcome::Reject(Reason::new("corrupt", "asked to"))).collect()
    }
}

/// Feeds `count` records with keys and headers of all kinds, and waits until each is a dead letter.
async fn give_up(broker: &KafkaBroker, config: &KafkaConfig, count: usize) {
    let sink = broker.sink().await.unwrap();
    let sending = stream::iter(0..count).map(|number| {
        let headers = Headers::default()
            .with("filename", format!("{number}.dcm"))
            .with(DeadLetterHeader::STAGE, "forged")
            .with("bytes", vec![0, 159, number as u8]);
        let key = (number % 3 > 0).then(|| Bytes::from(format!("key {}", number % 7)));
        let value = Bytes::from(format!("film {number}"));
        sink.send(Outgoing { topic: Topic::Images, key, headers, value })
    });
    let sent: Vec<_> = sending.buffer_unordered(200).collect().await;
    assert!(sent.iter().all(Result::is_ok));
    let group = format!("{}refuses", config.topic_prefix);
    let exchange = broker.exchange(&group, Refuses::INPUTS).await.unwrap();
    let (item, shutdown) =
        (Health::default().item("refuses", "starting"), CancellationToken::new());
    let stop = shutdown.clone();
    let running = tokio::spawn(async move {
        let config = RunnerConfig { max_batch: 500, ..RunnerConfig::default() };
        duet_stage::run(Refuses, exchange, &config, item, stop).await
    });
    let deadline = Instant::now() + PATIENCE;
    while all_of(broker, Topic::DeadLetters).await.len() < count {
        assert!(Instant::now() < deadline, "not all were given up");
    }
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_the_middle_every_letter_is_sent_again_once() {
    const LETTERS: usize = 3000;
    let config = Kafka::config().unwrap();
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fleet = Fleet::new(&config, folder.path()).unwrap();
    give_up(&broker, &config, LETTERS).await;

    let arguments = ["dead-letters", "redrive", "--where", "stage=refuses"];
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut new = broker.tail(&[Topic::Images], Start::End).await.unwrap();
        let mut redrive =
            fleet.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // As soon as the first are there.
        let deadline = Instant::now() + PATIENCE;
        while new.poll(1, Duration::ZERO).await.unwrap().is_empty() {
            assert!(Instant::now() < deadline, "nothing is sent again");
        }
        redrive.kill().unwrap();
        redrive.wait().unwrap();
        seen.push(all_of(&broker, Topic::Redriven).await.len());
    }
    assert!(seen[0] > 0 && seen[0] < LETTERS, "killed in the middle: {seen:?}");
    let left = LETTERS - seen[2];
    let (told, _) = run(fleet.command(&arguments));
    println!("sent again when it was killed: {seen:?}; then: {told}");
    assert!(told.contains("dead letters sent again"), "{told}");
    assert!(run(fleet.command(&arguments)).0.contains("0 dead letters sent again"));
    assert!(left <= LETTERS);

    let letters: BTreeMap<String, Record> = all_of(&broker, Topic::DeadLetters)
        .await
        .into_iter()
        .map(|r| (format!("{}-{}", r.origin.partition, r.origin.offset), r))
        .collect();
    assert_eq!(letters.len(), LETTERS);
    let mut sent = BTreeMap::new();
    for image in all_of(&broker, Topic::Images).await {
        if let Some(letter) = image.headers.text(REDRIVE_HEADER) {
            let twin = &letters[letter];
            assert_eq!((&image.key, &image.value), (&twin.key, &twin.value));
            // The producer's own headers, and the one that names the letter.
            let own = image.headers.split_at(image.headers.len() - 1).0;
            assert_eq!(own, twin.headers.split_at(3).0);
            assert_eq!(own.text(DeadLetterHeader::STAGE), Some("forged"));
            *sent.entry(letter.to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(sent.len(), LETTERS, "all were sent again");
    assert!(sent.values().all(|times| *times == 1), "none twice");
    assert_eq!(all_of(&broker, Topic::Redriven).await.len(), LETTERS);
}
