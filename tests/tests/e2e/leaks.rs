//! Images that name a patient in every place, through every service on a real broker; and a search of everything that came
//! out for any of it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use duet_case::Topic;
use duet_testkit::{
    bad::bad_inputs,
    marked::{mark, marked_files},
    phantoms,
};
use duet_tests::{Ends, Fleet, Kafka, STAGES, leaks::Search};
use duet_transport::{Broker, Headers, KafkaBroker, Outgoing, Record, Start};

const PATIENCE: Duration = Duration::from_secs(240);

/// Marks that are in no file: in the key, the headers and the upload.
const KEY: &str = "ZZQKEYLNDSR";
const HEADER: &str = "ZZQHEADERYUC";
const UPLOAD: &str = "ZZQUPLOADHTG";

fn marks() -> impl Iterator<Item = &'static str> {
    // The last are in the bad inputs.
    mark::ALL.into_iter().chain([KEY, HEADER, UPLOAD, "ZZMARKNAME", "ZZMARKID", "ZZMARKTEXT"])
}

/// Headers such as a producer may send, with marks where Duet's own would have something else.
fn headers() -> Headers {
    let of = |name: &str| format!("{HEADER}-{name}");
    let mut headers = Headers::default();
    for name in [
        "ce_id",
        "ce_source",
        "ce_subject",
        "ce_type",
        "ce_time",
        "content-type",
        "tracestate",
        "baggage",
        "traceparent",
        "duet-case-id",
        "duet-stage",
        "duet-error-class",
        "duet-error-message",
        "duet-origin-topic",
        "duet-origin-partition",
        "duet-origin-offset",
        "duet-attempts",
        "duet-time",
        "duet-redrive",
        "duet-origin-headers",
        "file-name",
    ] {
        headers = headers.with(name, of(name));
    }
    headers.with(HEADER, HEADER)
}

fn log_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|own| own == "log")).collect()
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// Every record of a topic.
async fn all_of(broker: &dyn Broker, topic: Topic) -> Vec<Record> {
    let mut source = broker.tail(&[topic], Start::Beginning).await.unwrap();
    let (mut records, mut quiet) = (Vec::new(), 0);
    while quiet < 3 {
        let more = source.poll(100, Duration::from_millis(20)).await.unwrap();
        quiet = if more.is_empty() { quiet + 1 } else { 0 };
        records.extend(more);
    }
    records
}

fn look_through(search: &mut Search, topic: Topic, records: &[Record]) {
    for record in records {
        search.look(&format!("{topic}: a value"), &record.value);
        if let Some(key) = &record.key {
            search.look(&format!("{topic}: a key"), key);
        }
        for (name, value) in record.headers.iter() {
            search.look(&format!("{topic}: header {name}"), name.as_bytes());
            search.look(&format!("{topic}: header {name}"), value);
        }
    }
}

fn curl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let said = Command::new("curl")
        .current_dir(folder)
        .args(["--silent", "--show-error", "--include", "--max-time", "30"])
        .args(arguments)
        .output()
        .expect("curl is not there: apt-get install -y curl");
    said.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_names_a_patient_comes_out_anywhere() {
    let config = Kafka::config().unwrap();
    let broker = KafkaBroker::connect(&config).await.unwrap();
    broker.create_topics().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut fleet = Fleet::new(&config, folder).unwrap();
    // Everything that Duet and its libraries have to say; tract tells of every node of a graph, and has seen no file.
    let verbose = ["--log", "json", "--log-filter", "trace,tract=off"];
    for service in STAGES {
        fleet.start_with(service, &[], &verbose).unwrap();
    }
    let gateway = fleet.start_with("gateway", &[], &verbose).unwrap();
    let review = fleet.start_with("review", &[], &verbose).unwrap();
    fleet.wait_until_ready().unwrap();
    let mut ends = Ends::follow(&broker).await.unwrap();

    // By Kafka, with a key and headers.
    let mut fed = 0;
    let sink = broker.sink().await.unwrap();
    let inputs = marked_files().into_iter().map(|file| file.bytes);
    let inputs = inputs.chain(bad_inputs().into_iter().map(|input| input.bytes));
    for (number, bytes) in inputs.enumerate() {
        let key = Some(Bytes::from(format!("{KEY}/{number}")));
        let value = Bytes::from(bytes);
        sink.send(Outgoing { topic: Topic::Images, key, headers: headers(), value }).await.unwrap();
        fed += 1;
    }
    // A reference that names somebody and leads nowhere.
    let reference = format!(r#"{{"name":"inbox/{HEADER}","sha256":"{HEADER}","bytes":5}}"#);
    for (number, text) in [reference.as_str(), HEADER].into_iter().enumerate() {
        let headers = headers().with("duet-reference", text.to_owned());
        let value = Bytes::from(format!("{HEADER} {number}"));
        sink.send(Outgoing { topic: Topic::Images, key: None, headers, value }).await.unwrap();
        fed += 1;
    }
    // By HTTP, with names of files and headers; some of it is refused.
    let file = |name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).unwrap();
        name.to_owned()
    };
    let film = phantoms::dicom(&phantoms::chest(9001, 200, 180), &phantoms::DicomOptions::marked());
    let first = file(&format!("{UPLOAD}-1.dcm"), &film);
    let second =
        file(&format!("{UPLOAD}-2.png"), &phantoms::png8(&phantoms::chest(9002, 200, 180)));
    let broken = file(&format!("{UPLOAD}-3.dcm"), &film[..900]);
    let of = |service| fleet.address(service).unwrap();
    let (images, marked) = (format!("{}/v1/images", of(gateway)), format!("X-Patient: {UPLOAD}"));
    let agent = format!("{UPLOAD}/1.0");
    let form = |name: &str| format!("{UPLOAD}=@{name};filename={UPLOAD}.dcm");
    let uploaded = curl(
        folder,
        &[
            "-A",
            &agent,
            "-H",
            &marked,
            "-F",
            &form(&first),
            "-F",
            &form(&second),
            "-F",
            &form(&broken),
            &format!("{images}?patient={UPLOAD}"),
        ],
    );
    assert!(
        String::from_utf8_lossy(&uploaded).contains(" 202 "),
        "{}",
        String::from_utf8_lossy(&uploaded)
    );
    fed += 3;
    let data = format!("@{first}");
    for refused in [
        vec!["-H", "Content-Type: text/ZZQUPLOADHTG", "--data-binary", &data, &images],
        vec![
            "-H",
            "Content-Type: multipart/form-data; boundary=ZZQUPLOADHTG",
            "--data-binary",
            &data,
            &images,
        ],
        vec!["-H", "Content-Encoding: ZZQUPLOADHTG", "--data-binary", &data, &images],
        vec!["-H", &marked, "-X", "ZZQUPLOADHTG", &images],
    ] {
        curl(folder, &refused);
    }
    for address in [of(gateway), of(review)] {
        for path in [
            "v1/cases/",
            "review/cases/",
            "review/thumbnails/",
            "review/assets/",
            "",
            "v1/cases?show=",
        ] {
            curl(
                folder,
                &[
                    "-A",
                    &agent,
                    "-e",
                    &agent,
                    "-b",
                    &format!("duet={UPLOAD}"),
                    &format!("{address}/{path}{UPLOAD}"),
                ],
            );
            curl(
                folder,
                &[
                    "-H",
                    &format!("Authorization: Bearer {UPLOAD}"),
                    &format!("{address}/{path}{UPLOAD}"),
                ],
            );
        }
    }

    ends.wait_for(fed, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    assert_eq!((ends.count(), fleet.dead().len()), (fed, 0));
    assert!(
        ends.reports.len() > 15 && ends.dead_letters.len() > 15,
        "{} {}",
        ends.reports.len(),
        ends.dead_letters.len()
    );

    let mut search = Search::new(marks());
    for topic in Topic::ALL.into_iter().filter(|topic| !topic.is_guarded()) {
        look_through(&mut search, topic, &all_of(&broker, topic).await);
    }
    // What the page and the API answer, whoever asks.
    let cases: BTreeSet<String> = ends
        .reports
        .keys()
        .map(ToString::to_string)
        .chain(
            ends.dead_letters
                .iter()
                .map(|record| duet_case::CaseId::of_input(&record.value).to_string()),
        )
        .collect();
    let mut paths: Vec<String> =
        ["/", "/v1/openapi.json", "/v1/cases?limit=2000", "/review/cases?limit=2000"]
            .map(str::to_owned)
            .into();
    for case in &cases {
        for prefix in ["/v1/cases", "/review/cases"] {
            paths.push(format!("{prefix}/{case}"));
        }
        paths.push(format!("/v1/cases/{case}/annotated.png"));
        paths.push(format!("/v1/cases/{case}/rendition.png"));
        paths.push(format!("/review/thumbnails/{case}.png"));
        paths.push(format!("/v1/cases/{case}/heat/0"));
    }
    for service in [gateway, review] {
        let urls: Vec<String> = paths.iter().map(|path| format!("{}{path}", of(service))).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        let answers = curl(folder, &urls);
        assert!(answers.len() > 10_000);
        search.look("an answer over HTTP", &answers);
    }
    // The stream of the page, for a while.
    search.look(
        "an answer over HTTP",
        &curl(folder, &["--max-time", "2", &format!("{}/review/events", of(review))]),
    );
    for path in ["/metrics", "/readyz", "/healthz"] {
        for (service, text) in fleet.get_all(path).unwrap() {
            search.look(&format!("{service} {path}"), text.as_bytes());
        }
    }
    for (service, code) in fleet.stop().unwrap() {
        assert_eq!(code, Some(0), "{service} did not stop in good order");
    }
    let mut lines = 0;
    for path in log_files(folder) {
        let text = fs::read(&path).unwrap();
        lines += text.iter().filter(|byte| **byte == b'\n').count();
        search.look(&path.file_name().unwrap().to_string_lossy(), &text);
    }
    let mut blobs = Vec::new();
    files_below(&folder.join("blobs"), &mut blobs);
    // The inbox holds originals, and is guarded as `images` is.
    blobs.retain(|path| !path.components().any(|part| part.as_os_str() == "inbox"));
    for path in &blobs {
        search.look("a blob", &fs::read(path).unwrap());
        search
            .look("a blob's name", path.strip_prefix(folder).unwrap().to_string_lossy().as_bytes());
    }
    let total: usize = search.looked().values().sum();
    println!(
        "{fed} images, {} marks, {total} bytes in {} places ({} blobs, {lines} lines of logs)",
        marks().count(),
        search.looked().len(),
        blobs.len()
    );
    // It was there to be found: every image's end is in a log.
    assert!(blobs.len() > 40 && lines > 10 * fed, "{} blobs, {lines} lines", blobs.len());
    assert_eq!(search.found(), [""; 0], "looked through {:#?}", search.looked());

    // The same search finds every mark where it may be: in what was fed. Uploads' names went nowhere at all.
    let mut control = Search::new(marks());
    for topic in [Topic::Images, Topic::DeadLetters] {
        look_through(&mut control, topic, &all_of(&broker, topic).await);
    }
    let missed: Vec<_> = marks().filter(|mark| !control.marks_found().contains(mark)).collect();
    assert_eq!(missed, [UPLOAD], "a mark was not fed, or is not found where it is");
}
