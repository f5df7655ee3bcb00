//! Files that are too large for a record, on a real broker and a real S3 server, each service its own process. How much memory a
//! queue of them takes is measured by the example `large`.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_case::{CaseId, DeadLetterHeader, Digest, Reference, Topic};
use duet_testkit::phantoms::{self, DicomOptions};
use duet_tests::{Ends, Fleet, Kafka, S3, STAGES, mutations::peak_kib};
use duet_transport::{Broker, Headers, KafkaBroker, KafkaConfig, Outgoing, Sink};
use image::GrayImage;

use crate::pipeline::{assert_is_whole, feed};

const PATIENCE: Duration = Duration::from_secs(240);

/// A DICOM file of 16-bit pixels, uncompressed, `side` in both directions.
fn large_film(seed: u64, side: u32) -> Vec<u8> {
    let small = phantoms::chest(seed, side / 10, side / 10);
    let picture = GrayImage::from_fn(side, side, |x, y| {
        *small.get_pixel(x * (side / 10) / side, y * (side / 10) / side)
    });
    phantoms::dicom(&picture, &DicomOptions::default())
}

fn refer(reference: &Reference) -> Outgoing {
    refer_by(reference.header())
}

/// What a foreign client sends: no key, nothing of Duet's, and where the file is.
fn refer_by(header: impl Into<String>) -> Outgoing {
    let headers =
        Headers::default().with("ward", "3").with(Reference::HEADER, Bytes::from(header.into()));
    Outgoing { topic: Topic::Images, key: None, headers, value: Bytes::new() }
}

/// Puts a file into the inbox as a foreign client does: under its digest, and nothing else.
fn put(objects: &Path, name: &Digest, bytes: &[u8]) {
    let inbox = objects.join(Reference::INBOX);
    fs::create_dir_all(&inbox).unwrap();
    fs::write(inbox.join(name.to_string()), bytes).unwrap();
}

/// Records whose reference leads nowhere, and the class that each ends with.
fn wrong_references(objects: &Path) -> Vec<(String, &'static str)> {
    let film = phantoms::png8(&phantoms::chest(77, 300, 300));
    let (name, size) = (Digest::of(&film), film.len() as u64);
    // An upload that was cut short, and one whose bytes are others.
    let (cut, other) =
        (Digest::of(b"a film that broke off"), Digest::of(b"a film that is another"));
    put(objects, &cut, &film[..film.len() / 2]);
    put(objects, &other, &film);
    let absent = Digest::of(b"absent");
    let at = |name: String| format!(r#"{{"name":"{name}","sha256":"{absent}","bytes":{size}}}"#);
    vec![
        (Reference::to(cut, size).header(), "reference_mismatch"),
        (Reference::to(other, size).header(), "reference_mismatch"),
        (Reference::to(absent, size).header(), "reference_missing"),
        (Reference::to(name, 1 << 40).header(), "over_limit"),
        (at(format!("s3://another/inbox/{absent}")), "reference_foreign"),
        (at("http://169.254.169.254/latest/meta-data".to_owned()), "reference_foreign"),
        (at(format!("inbox/../../another/{absent}")), "reference_foreign"),
        (at("inbox/DOE^JANE.dcm".to_owned()), "reference_foreign"),
        (at("/etc/passwd".to_owned()), "reference_foreign"),
        ("DOE^JANE.dcm".to_owned(), "reference_invalid"),
    ]
}

/// Every wrong reference is a dead letter of its class, which keeps the record as it was.
fn assert_dead(ends: &Ends, wrong: &[(String, &str)]) {
    for (header, class) in wrong {
        let own = |record: &&duet_transport::Record| {
            record.headers.text(Reference::HEADER) == Some(header.as_str())
        };
        let letters: Vec<_> = ends.dead_letters.iter().filter(own).collect();
        assert_eq!(letters.len(), 1, "{header}");
        let letter = letters[0];
        let text = |name| letter.headers.text(name).unwrap_or_default();
        assert_eq!(text(DeadLetterHeader::CLASS), *class, "{header}");
        assert_eq!((text("ward"), letter.value.len(), &letter.key), ("3", 0, &None));
        let message = text(DeadLetterHeader::MESSAGE);
        assert!(message.len() > 60 && !message.contains("DOE"), "{message}");
    }
}

async fn deployment(config: &KafkaConfig, folder: &Path) -> (KafkaBroker, Fleet) {
    let broker = KafkaBroker::connect(config).await.unwrap();
    broker.create_topics().await.unwrap();
    (broker, Fleet::new(config, folder).unwrap())
}

fn run(mut command: Command) -> String {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {told}");
    told
}

/// A foreign client sends the header and no value.
fn kcat(config: &KafkaConfig, reference: &Reference) {
    let mut kcat = Command::new("kcat")
        .args([
            "-P",
            "-Z",
            "-K",
            ":",
            "-b",
            &config.bootstrap,
            "-t",
            &config.name_of(Topic::Images),
            "-H",
        ])
        .arg(format!("{}={}", Reference::HEADER, reference.header()))
        .stdin(Stdio::piped())
        .spawn()
        .expect("kcat is not there: install it, for instance with `apt-get install -y kcat`");
    kcat.stdin.take().unwrap().write_all(b":\n").unwrap();
    assert!(kcat.wait().unwrap().success());
}

fn objects_in_inbox(objects: &Path) -> usize {
    fs::read_dir(objects.join(Reference::INBOX))
        .map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_file()).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_film_of_100_mb_goes_by_reference_on_s3_and_one_of_31_mib_inline() {
    let config = Kafka::config().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (broker, mut fleet) = deployment(&config, folder.path()).await;
    let mut s3 = S3::start(&folder.path().join("s3")).await.unwrap();
    let mut variables = s3.variables();
    // So often that the store may be away for a while, and so seldom that its absence is seen.
    for (name, value) in [
        ("DUET_BLOB_TIMEOUT_MS", "4000"),
        ("DUET_RUNNER_MAX_ATTEMPTS", "20"),
        ("DUET_RUNNER_BACKOFF_MAX_MS", "1000"),
    ] {
        variables.push((name, value.to_owned()));
    }
    fleet.set_variables(variables);
    let prepare = fleet.start(STAGES[0]).unwrap();
    for service in &STAGES[1..] {
        fleet.start(service).unwrap();
    }
    let gateway = fleet.start("gateway").unwrap();
    fleet.wait_until_ready().unwrap();
    let mut ends = Ends::follow(&broker).await.unwrap();
    let sink = broker.sink().await.unwrap();

    // 7,080 x 7,080 pixels of 16 bits: 100.3 MB.
    let (large, small) = (large_film(3, 7_080), large_film(6, 4_060));
    assert!(large.len() > 100_000_000 && small.len() > 31 << 20 && small.len() < 32 << 20);
    let file = folder.path().join("large.dcm");
    fs::write(&file, &large).unwrap();
    let start = Instant::now();
    let told = run(fleet.command(&["send", "--kafka", &config.bootstrap, file.to_str().unwrap()]));
    assert!(told.contains("1 of them by reference"), "{told}");
    let sent = start.elapsed();
    ends.wait_for(1, PATIENCE).await.unwrap();
    let whole = start.elapsed();
    feed(&*sink, small.clone()).await;
    ends.wait_for(2, PATIENCE).await.unwrap();
    for film in [&large, &small] {
        let reports = ends.reports_on(film);
        assert_eq!(reports.len(), 1, "{:?}", ends.dead_letters);
        assert_is_whole(&reports[0], &ends);
    }
    // Only the large one is in the inbox, under its digest.
    let reference = Reference::to(Digest::of(&large), large.len() as u64);
    assert_eq!(objects_in_inbox(&s3.objects()), 1);
    assert!(s3.objects().join(reference.name()).is_file());
    let peak = |number| peak_kib(fleet.process(number).unwrap().pid()).unwrap() / 1024;
    let case = &ends.reports_on(&large)[0];
    let hop = &case.hops[0];
    println!(
        "100 MB by reference: sent in {:.1} s, reported after {:.1} s; prepare took {:.0} ms and {:.1} s of CPU, {} MiB at most",
        sent.as_secs_f64(),
        whole.as_secs_f64(),
        hop.duration_ms,
        hop.cpu_seconds,
        peak(prepare)
    );

    // The same file once more, by the gateway and by a client that knows nothing of Duet: the same case, the same object.
    let (status, answer) = fleet.post(gateway, "/v1/images", &large).unwrap();
    assert_eq!(status, 202, "{answer}");
    assert!(answer.contains(CaseId::of_input(&large).as_str()), "{answer}");
    println!("the gateway had {} MiB at most", peak(gateway));
    assert!(peak(gateway) < 200, "the gateway held the file: {} MiB", peak(gateway));
    kcat(&config, &reference);
    ends.wait_for(4, PATIENCE).await.unwrap();
    assert_eq!(ends.reports_on(&large).len(), 3, "{:?}", ends.dead_letters);
    assert_eq!(objects_in_inbox(&s3.objects()), 1);

    let wrong = wrong_references(&s3.objects());
    for (header, _) in &wrong {
        sink.send(refer_by(header.clone())).await.unwrap();
    }
    ends.wait_for(4 + wrong.len(), PATIENCE).await.unwrap();
    assert_dead(&ends, &wrong);

    a_store_that_is_away_costs_no_record(&mut fleet, prepare, &mut s3, &*sink, &mut ends).await;
    assert_eq!(fleet.dead(), [""; 0]);
    for (service, code) in fleet.stop().unwrap() {
        assert_eq!(code, Some(0), "{service} did not stop in good order");
    }
}

/// The store goes away; prepare tries again and again, is told to stop meanwhile, and stops at once; another one goes on.
async fn a_store_that_is_away_costs_no_record(
    fleet: &mut Fleet,
    prepare: usize,
    s3: &mut S3,
    sink: &dyn Sink,
    ends: &mut Ends,
) {
    let before = ends.count();
    let film = phantoms::png8(&phantoms::chest(78, 300, 300));
    let reference = Reference::to(Digest::of(&film), film.len() as u64);
    put(&s3.objects(), &reference.sha256, &film);
    s3.stop();
    sink.send(refer(&reference)).await.unwrap();
    let retried = |fleet: &Fleet, number| {
        let metrics = fleet.get(number, "/metrics").unwrap_or_default();
        metrics.contains("duet_failures_total{class=\"blob_store\",stage=\"prepare\"}")
    };
    let deadline = Instant::now() + PATIENCE;
    while !retried(fleet, prepare) {
        assert!(Instant::now() < deadline, "prepare does not say that the store is away");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let start = Instant::now();
    assert_eq!(fleet.take_out(prepare).unwrap(), Some(0), "prepare did not stop in good order");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let next = fleet.start(STAGES[0]).unwrap();
    while !retried(fleet, next) {
        assert!(Instant::now() < deadline, "the record was not handed out again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    s3.resume().await.unwrap();
    ends.wait_for(before + 1, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    assert_eq!(ends.reports_on(&film).len(), 1, "{:?}", ends.dead_letters);
    assert_eq!(ends.count(), before + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_a_store_as_well() {
    // A topic that takes less than its configuration says: `send` asks the broker.
    let config = KafkaConfig { max_message_bytes: 2 << 20, ..Kafka::config().unwrap() };
    let folder = tempfile::tempdir().unwrap();
    let (broker, mut fleet) = deployment(&config, folder.path()).await;
    for service in STAGES {
        fleet.start(service).unwrap();
    }
    fleet.wait_until_ready().unwrap();
    let mut ends = Ends::follow(&broker).await.unwrap();
    let sink = broker.sink().await.unwrap();
    let film = large_film(9, 1_300);
    let file = folder.path().join("film.dcm");
    fs::write(&file, &film).unwrap();
    run(fleet.command(&["send", file.to_str().unwrap()]));
    let objects = folder.path().join("blobs");
    assert!(objects.join(Reference::INBOX).join(Digest::of(&film).to_string()).is_file());
    let wrong = wrong_references(&objects);
    for (header, _) in &wrong {
        sink.send(refer_by(header.clone())).await.unwrap();
    }
    ends.wait_for(1 + wrong.len(), PATIENCE).await.unwrap();
    assert_dead(&ends, &wrong);
    assert_eq!(ends.reports_on(&film).len(), 1);
    for (service, code) in fleet.stop().unwrap() {
        assert_eq!(code, Some(0), "{service} did not stop in good order");
    }
}
