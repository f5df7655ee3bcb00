//! The stage with a generalist on a server: what every kind of answer comes to, and what leaves.

// A test's helpers may panic: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod failures;
mod probes;
mod server;

use std::{io::Cursor, path::PathBuf, sync::Arc};

use bytes::Bytes;
use duet_blob::BlobStore;
use duet_case::{
    Case, CaseId, Decision, Format, PatientContext, Priority, Rendition, Source, StudyKey, Topic,
    Triage as Section, WindowMethod,
};
use duet_inference::{ApiKey, BackendConfig, Served};
use duet_stage::{Outcome, Stage as _};
use duet_telemetry::metrics;
use duet_triage::{Config, Generalist, Triage};
use image::GrayImage;
use server::{GOOD, Reply, Server, completion};
use tempfile::TempDir;

/// By which the model `m` may clear: a failure that cleared would be seen.
const CALIBRATION: &str = r#"
model = "m"
[calibration]
set = "drawn"
sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
n = 400
date = "2026-05-01"
[decision]
scope_min = 0.1
fitness_min = 0.5
clear_below = 0.05
miss_rate = { bound = 0.02, confidence = 0.95, positives = 149, measured = 0.0 }
"#;

/// A stage on a server, calibrated.
pub(crate) struct Fixture {
    pub(crate) stage: Triage,
    pub(crate) served: Arc<Served>,
    blobs: BlobStore,
    _folder: TempDir,
}

impl Fixture {
    pub(crate) fn new(url: String, edit: impl FnOnce(&mut BackendConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let calibration_file: PathBuf = folder.path().join("vlm.toml");
        std::fs::write(&calibration_file, CALIBRATION).unwrap();
        let mut backend = BackendConfig {
            url: Some(url),
            model: Some("m".to_owned()),
            calibration_file: Some(calibration_file),
            deadline_ms: 20_000,
            ..BackendConfig::default()
        };
        edit(&mut backend);
        let key = ApiKey::new("the test", KEY).unwrap();
        let served = Arc::new(Served::open(&backend, Some(key)).unwrap().unwrap());
        let config = Config { backend, audit_rate: 0.0, ..Config::default() };
        let blobs = BlobStore::memory();
        let generalist = Generalist::Served(Arc::clone(&served));
        let stage = Triage::new(config, generalist, blobs.clone()).unwrap();
        Self { stage, served, blobs, _folder: folder }
    }

    pub(crate) async fn case(&self) -> Case {
        let picture = GrayImage::from_fn(300, 200, |x, y| image::Luma([(x ^ y) as u8]));
        let mut png = Cursor::new(Vec::new());
        picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
        let blob = self.blobs.put(Bytes::from(png.into_inner()), "image/png").await.unwrap();
        let source = Source {
            patient: PatientContext { age_years: Some(61), sex: None },
            ..Source::new(Format::Png, b"film")
        };
        let rendition = Rendition {
            blob,
            width: 300,
            height: 200,
            scale: [1.0, 1.0],
            window: WindowMethod::Identity,
            inverted: false,
        };
        Case {
            rendition: Some(rendition),
            ..Case::new(
                CaseId::of_input(b"film"),
                StudyKey::from_mac(&[7; 32]),
                chrono::Utc::now(),
                source,
            )
        }
    }

    /// What becomes of one image.
    pub(crate) async fn triaged(&self, case: Case) -> (Topic, Section) {
        let outcome = self.stage.process(vec![case]).await.pop().unwrap();
        let Outcome::Emit(case, topic) = outcome else { panic!("{outcome:?}") };
        assert_eq!(self.stage.models(&case), [case.triage.as_ref().unwrap().model.clone()]);
        (topic, case.triage.unwrap())
    }
}

pub(crate) const KEY: &str = "s3cret-key";

/// Held by every test that lets a server fail: what is counted is the process's.
pub(crate) static FAILING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Counted so far.
pub(crate) fn counted(reason: &str, then: &str) -> u64 {
    metrics().backend_failures.with_label_values(&[reason, then]).get()
}

#[tokio::test]
async fn a_good_answer_is_what_the_model_said_of_the_image() {
    let server = Server::of(vec![Reply::chat(GOOD)]).await;
    let fixture = Fixture::new(server.url(), |_| {});
    let (topic, section) = fixture.triaged(fixture.case().await).await;
    assert_eq!((topic, section.decision), (Topic::Cleared, Decision::Cleared));
    assert_eq!((section.model.name.as_str(), section.model.version.as_str()), ("m", "f-1"));
    assert!((section.abnormal.value() - 0.01).abs() < 1e-9, "measured on the outputs");
    for score in &section.scores {
        assert_eq!(score.stated, score.question != "abnormal", "{score:?}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn only_a_measured_probability_of_the_calibrated_model_clears() {
    let mut stated = completion(GOOD);
    stated["choices"][0]["logprobs"] = serde_json::Value::Null;
    let mut another = completion(GOOD);
    another["model"] = "another".into();
    let photograph = GOOD.replace("chest-radiograph-frontal", "photograph").replace("97", "99");
    let unsure = photograph.replace("99", "60");
    let rows = [
        ("stated", stated, Topic::Flagged, "as the model states it, which nothing measured"),
        ("another model", another, Topic::Flagged, "may clear nothing"),
        (
            "unfit",
            completion(&GOOD.replace("\"fit\"", "\"rotated-90\"")),
            Topic::Flagged,
            "most likely lies on its side",
        ),
        (
            "lateral",
            completion(&GOOD.replace("-frontal", "-lateral")),
            Topic::Flagged,
            "a chest radiograph, lateral is never cleared",
        ),
        (
            "a photograph",
            completion(&photograph),
            Topic::OutOfScope,
            "most likely photograph (99 %)",
        ),
        ("perhaps a photograph", completion(&unsure), Topic::Flagged, "uncertain what this is"),
    ];
    for (name, answer, wanted, says) in rows {
        let server = Server::of(vec![Reply::json(200, &answer)]).await;
        let fixture = Fixture::new(server.url(), |_| {});
        let (topic, section) = fixture.triaged(fixture.case().await).await;
        assert_eq!(topic, wanted, "{name}: {section:?}");
        assert!(section.reasons.iter().any(|own| own.contains(says)), "{name}: {section:?}");
    }

    let server = Server::of(vec![Reply::chat(GOOD)]).await;
    let fixture = Fixture::new(server.url(), |own| own.calibration_file = None);
    let (topic, section) = fixture.triaged(fixture.case().await).await;
    assert_eq!((topic, section.clear_below), (Topic::Flagged, None));
    assert!(section.reasons[0].contains("no calibration"), "{:?}", section.reasons);
}

#[tokio::test]
async fn nothing_leaves_but_the_rendition_and_the_key() {
    let server = Server::of(vec![Reply::chat(GOOD)]).await;
    let fixture = Fixture::new(server.url(), |own| own.long_side_px = 64);
    let case = fixture.case().await;
    let known = serde_json::to_value(&case).unwrap();
    fixture.triaged(case).await;

    let request = server.requests().pop().unwrap();
    assert_eq!(request.path(), "/v1/chat/completions");
    for line in request.head.lines().skip(1) {
        let (name, value) = line.split_once(": ").unwrap();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => assert_eq!(value, format!("Bearer {KEY}")),
            "content-type" => assert_eq!(value, "application/json"),
            "host" | "content-length" | "accept" | "user-agent" => {}
            other => panic!("the header {other} leaves too"),
        }
    }
    // Of what the Case holds, no identifier is anywhere in it.
    let body = String::from_utf8(request.body.clone()).unwrap();
    for path in ["/id", "/study", "/rendition/blob/sha256", "/received_at"] {
        let value = known.pointer(path).and_then(|own| own.as_str()).unwrap();
        assert!(!body.contains(value), "{path} leaves");
    }
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    let url = body.pointer("/messages/0/content/1/image_url/url").unwrap().as_str().unwrap();
    assert!(url.starts_with("data:image/jpeg;base64,"), "{url}");
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_configured() {
    let late = Reply::Late(std::time::Duration::from_millis(150), Box::new(Reply::chat(GOOD)));
    let server = Server::of(vec![late]).await;
    let fixture = Fixture::new(server.url(), |own| own.max_concurrent = 2);
    let case = fixture.case().await;
    let outcomes = fixture.stage.process(vec![case; 6]).await;
    assert!(outcomes.iter().all(|own| matches!(own, Outcome::Emit(_, Topic::Cleared))));
    assert_eq!((server.requests().len(), server.most()), (6, 2));
}

#[tokio::test]
async fn an_image_without_an_answer_is_read_as_what_a_specialist_takes() {
    let _alone = FAILING.lock().await;
    let server = Server::of(vec![Reply::chat("I cannot help with DOE^JANE.")]).await;
    let fixture = Fixture::new(server.url(), |_| {});
    for (age, kind) in [
        (Some(61), "chest-radiograph-frontal"),
        (None, "chest-radiograph-frontal"),
        (Some(4), "chest-radiograph-child"),
    ] {
        let mut case = fixture.case().await;
        case.source.patient.age_years = age;
        let (topic, section) = fixture.triaged(case).await;
        assert_eq!((topic, section.kind.as_str()), (Topic::Flagged, kind));
        assert_eq!((section.priority, section.clear_below), (Priority::Urgent, None));
        let written = serde_json::to_string(&section).unwrap();
        assert!(!written.contains("DOE"), "what a model wrote goes no further: {written}");
    }
}
