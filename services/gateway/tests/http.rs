//! The gateway as its clients see it: what it takes, what it answers, and what it tells when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use bytes::Bytes;
use duet_blob::BlobStore;
use duet_case::{CaseId, DeadLetterHeader, Reference, Topic};
use duet_gateway::{Config, Gateway, router};
use duet_stage::{CaseIndex, IndexConfig};
use duet_transport::{
    Broker, Headers, MemoryBroker, MemoryLimits, Origin, Outgoing, Record, Sink, Start,
    TransportError,
};
use futures::stream;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

struct Gate {
    app: Router,
    broker: MemoryBroker,
    index: CaseIndex,
    blobs: BlobStore,
}

fn gate_with(config: Config, sink: Option<Arc<dyn Sink>>) -> Gate {
    let (broker, blobs) = (MemoryBroker::default(), BlobStore::memory());
    let index = CaseIndex::new(IndexConfig::default());
    let sink = sink.unwrap_or_else(|| Arc::new(broker.clone()));
    let gateway = Gateway::new(config, sink, index.clone(), blobs.clone()).unwrap();
    Gate { app: router(gateway), broker, index, blobs }
}

fn gate() -> Gate {
    gate_with(Config { max_body_bytes: 1000, max_files: 3, ..Config::default() }, None)
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(&name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(app: &Router, request: Request<Body>) -> Answer {
    let answer = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(app: &Router, path: &str) -> Answer {
    ask(app, Request::get(path).body(Body::empty()).unwrap()).await
}

async fn post(app: &Router, media_type: &str, body: impl Into<Body>) -> Answer {
    let request = Request::post("/v1/images").header(header::CONTENT_TYPE, media_type);
    ask(app, request.body(body.into()).unwrap()).await
}

fn form(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, bytes) in files {
        let head = format!("--XX\r\nContent-Disposition: form-data; name=\"f\"{name}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--XX--\r\n");
    body
}

const FORM: &str = "multipart/form-data; boundary=XX";
const NAMED: &str = "; filename=\"DOE^JANE.dcm\"";

/// Everything that reached `images`.
async fn sent(broker: &MemoryBroker) -> Vec<Record> {
    let mut tail = broker.tail(&[Topic::Images], Start::Beginning).await.unwrap();
    tail.poll(100, Duration::ZERO).await.unwrap()
}

#[tokio::test]
async fn a_raw_body_of_every_type_is_sent_on_as_it_is() {
    for media_type in
        ["application/octet-stream", "application/dicom", "image/png", "Image/JPEG; q=1"]
    {
        let gate = gate();
        let answer = post(&gate.app, media_type, "film").await;
        let id = CaseId::of_input(b"film");
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{media_type}");
        assert_eq!(answer.json(), json!({ "id": id, "case": format!("/v1/cases/{id}") }));
        assert_eq!(answer.header(header::LOCATION), format!("/v1/cases/{id}"));
        let records = sent(&gate.broker).await;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].value, "film");
        assert_eq!(records[0].headers.text("ce_source"), Some("/duet/gateway"));
        let case = get(&gate.app, answer.header(header::LOCATION)).await;
        assert_eq!((case.status, &case.json()["state"]), (StatusCode::OK, &json!("received")));
    }
}

#[tokio::test]
async fn a_form_sends_each_of_its_files_and_none_of_their_names() {
    let gate = gate();
    let one = post(&gate.app, FORM, form(&[(NAMED, b"film 0")])).await;
    assert_eq!(one.json()["id"], json!(CaseId::of_input(b"film 0")));
    let several = post(&gate.app, FORM, form(&[(NAMED, b"film 1"), (NAMED, b"film 2")])).await;
    assert_eq!(several.status, StatusCode::ACCEPTED);
    assert_eq!(several.json()[1]["id"], json!(CaseId::of_input(b"film 2")));
    let records = sent(&gate.broker).await;
    assert_eq!(records.len(), 3);
    assert!(!format!("{records:?}").contains("DOE"), "{records:?}");
}

#[tokio::test]
async fn what_is_too_large_for_a_record_goes_by_reference_as_the_same_case() {
    let broker = MemoryBroker::new(MemoryLimits { bytes: 2000, records: 9 });
    let mut gate = gate_with(Config::default(), Some(Arc::new(broker.clone())));
    gate.broker = broker;
    let (small, large) = (vec![7; 1000], vec![8; 20_000_000]);
    let announced = Request::post("/v1/images").header(header::CONTENT_LENGTH, large.len());
    let announced = ask(&gate.app, announced.body(Body::from(large.clone())).unwrap()).await;
    // Without a length nobody knows beforehand that it will not fit.
    let pieces = large.chunks(30_000).map(|piece| Ok(Bytes::copy_from_slice(piece)));
    let pieces: Vec<Result<Bytes, std::io::Error>> = pieces.collect();
    let streamed = post(&gate.app, "image/png", Body::from_stream(stream::iter(pieces))).await;
    let several = post(&gate.app, FORM, form(&[(NAMED, &small), (NAMED, &large)])).await;
    let id = json!(CaseId::of_input(&large));
    assert_eq!((&announced.json()["id"], &streamed.json()["id"]), (&id, &id));
    assert_eq!(several.json()[1]["id"], id);

    let records = sent(&gate.broker).await;
    assert_eq!(records.len(), 4);
    for (n, record) in records.iter().enumerate() {
        let header = record.headers.get(Reference::HEADER);
        if n == 2 {
            assert_eq!((record.value.len(), header), (1000, None));
            continue;
        }
        let reference = Reference::from_header(header.unwrap()).unwrap();
        assert!(record.value.is_empty());
        assert_eq!(
            record.headers.text("ce_subject").map(|subject| json!(subject)),
            Some(id.clone())
        );
        assert!(gate.blobs.inbox().fetch(&reference, 1 << 30).await.unwrap() == large);
    }
    // Three times the same file is one object.
    let swept = gate.blobs.inbox().sweep(Duration::from_secs(60)).await.unwrap();
    assert_eq!((swept.left, swept.left_bytes), (1, 20_000_000));
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_what_to_do() {
    let large = vec![0; 1001];
    let far_too_many = form(&[(NAMED, b"1"), (NAMED, b"2"), (NAMED, b"3"), (NAMED, b"4")]);
    let broken = b"--XX\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\nhalf";
    for (media_type, body, status, says) in [
        ("image/png", vec![], 400, "body is empty"),
        ("image/png", large.clone(), 413, "1000 bytes"),
        ("application/pdf", b"x".to_vec(), 415, "application/dicom"),
        ("application/x-www-form-urlencoded", b"x".to_vec(), 415, "-H 'Content-Type"),
        ("multipart/form-data", b"x".to_vec(), 400, "boundary"),
        (FORM, b"--XX--\r\n".to_vec(), 400, "holds no file"),
        (FORM, form(&[("", b"a field")]), 400, "file name"),
        (FORM, form(&[(NAMED, b"")]), 400, "File 1"),
        (FORM, form(&[(NAMED, &large)]), 413, "1000 bytes"),
        (FORM, far_too_many, 413, "More than 3"),
        (FORM, broken.to_vec(), 400, "broke off"),
    ] {
        let gate = gate();
        let answer = post(&gate.app, media_type, body).await;
        let problem = answer.json();
        assert_eq!(answer.status.as_u16(), status, "{media_type} {problem}");
        assert_eq!(answer.header(header::CONTENT_TYPE), "application/problem+json");
        assert_eq!(problem["status"], status);
        assert!(problem["type"].as_str().unwrap().starts_with("urn:duet:problem:"));
        let text = problem.to_string();
        assert!(text.contains(says), "{text}");
        assert!(!text.contains("DOE"), "{text}");
    }
}

#[tokio::test]
async fn files_of_a_form_that_were_accepted_before_the_trouble_are_named() {
    let gate = gate();
    let answer = post(&gate.app, FORM, form(&[(NAMED, b"film"), (NAMED, b"")])).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.json()["accepted"], json!([CaseId::of_input(b"film")]));
    assert_eq!(sent(&gate.broker).await.len(), 1);
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_off_at_the_cap() {
    // A stream without end: only a reader that stops at the cap comes back.
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[0; 100])));
    let answer = post(&gate().app, "image/png", Body::from_stream(endless)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_given_up() {
    let never = stream::pending::<Result<Bytes, std::io::Error>>();
    let gate = gate_with(Config { body_timeout_ms: 1, ..Config::default() }, None);
    let answer = post(&gate.app, "image/png", Body::from_stream(never)).await;
    assert_eq!(answer.status, StatusCode::REQUEST_TIMEOUT);
}

struct Away;

#[async_trait]
impl Sink for Away {
    async fn send(&self, _: Outgoing) -> Result<Origin, TransportError> {
        Err(TransportError::Unreachable { address: "secret:9092".into(), reason: "down".into() })
    }
}

struct Hung;

#[async_trait]
impl Sink for Hung {
    async fn send(&self, _: Outgoing) -> Result<Origin, TransportError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_broker_that_is_away_is_a_503_and_nothing_is_held_as_received() {
    for sink in [Arc::new(Away) as Arc<dyn Sink>, Arc::new(Hung)] {
        let gate = gate_with(Config { send_timeout_ms: 1, ..Config::default() }, Some(sink));
        let answer = post(&gate.app, "image/png", "film").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.header(header::RETRY_AFTER), "5");
        assert!(!answer.json().to_string().contains("secret"), "{}", answer.json());
        assert!(gate.index.get(&CaseId::of_input(b"film")).is_none());
    }
}

fn record(topic: Topic, headers: Headers, value: Vec<u8>) -> Record {
    let origin = Origin { topic, partition: 0, offset: 0, epoch: 0 };
    Record { origin, timestamp: None, key: None, headers, value: value.into() }
}

async fn reported(gate: &Gate) -> (CaseId, Vec<u8>) {
    let picture = |bytes: &'static [u8]| gate.blobs.put(Bytes::from_static(bytes), "image/png");
    let (rendition, annotated) =
        (picture(b"rendition").await.unwrap(), picture(b"annotated").await.unwrap());
    let heat = picture(b"heat").await.unwrap();
    let id = CaseId::of_input(b"film");
    let frame = json!({ "x": 0.1, "y": 0.2, "width": 1.0, "height": 1.0 });
    let model = json!({ "name": "m", "version": "1", "sha256": "0".repeat(64) });
    let case = json!({
        "schema_version": 1, "id": id, "study": format!("s-{}", "0".repeat(32)),
        "received_at": "2026-01-02T03:04:05Z",
        "source": { "format": "png", "sha256": "0".repeat(64), "bytes": 1, "width": 1, "height": 1, "bits": 8, "frames": 1 },
        "rendition": { "blob": rendition, "width": 1, "height": 1, "scale": [1.0, 1.0], "window": { "method": "identity" }, "inverted": false },
        "findings": [{
            "label": "Mass", "code": { "scheme": "SCT", "value": "1", "meaning": "Mass" }, "probability": 0.1, "threshold": 0.1,
            "model": model,
            "region": { "rendition_box": frame, "original_box": frame, "rendition_contours": [], "original_contours": [], "heat_map": heat },
        }],
        "conclusion": { "outcome": "findings", "summary": "s" },
        "publication": { "published_at": "2026-01-02T03:04:06Z", "annotated": annotated, "notice": "n" },
    });
    let json = serde_json::to_vec(&case).unwrap();
    gate.index.record(&record(Topic::Reports, Headers::default(), json.clone())).unwrap();
    (id, json)
}

#[tokio::test]
async fn a_finished_case_is_served_byte_for_byte_with_its_pictures() {
    let gate = gate();
    let (id, json) = reported(&gate).await;
    assert_eq!(get(&gate.app, &format!("/v1/cases/{id}")).await.body, json);
    for (name, bytes) in
        [("annotated.png", "annotated"), ("rendition.png", "rendition"), ("heat/0.png", "heat")]
    {
        let path = format!("/v1/cases/{id}/{name}");
        let answer = get(&gate.app, &path).await;
        assert_eq!((answer.status, &answer.body[..]), (StatusCode::OK, bytes.as_bytes()));
        assert_eq!(answer.header(header::CONTENT_TYPE), "image/png");
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        let tag = answer.header(header::ETAG);
        let again = Request::get(&path).header(header::IF_NONE_MATCH, tag);
        let again = ask(&gate.app, again.body(Body::empty()).unwrap()).await;
        assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
        let named = get(&gate.app, &format!("{path}?v=1")).await;
        assert!(named.header(header::CACHE_CONTROL).contains("immutable"));
    }
    let list = get(&gate.app, "/v1/cases?limit=5&state=reported&show=findings").await.json();
    assert_eq!(list["cases"][0]["findings"][0]["label"], "Mass");
    assert_eq!(list["counts"]["states"]["reported"], 1);
    let none = get(&gate.app, "/v1/cases?show=dead_letters").await.json();
    assert_eq!(none["cases"], json!([]));
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let gate = gate();
    let (id, _) = reported(&gate).await;
    let unknown = CaseId::of_input(b"another");
    for (path, status, kind) in [
        (format!("/v1/cases/{unknown}"), 404, "unknown-case"),
        ("/v1/cases/..%2f..%2fetc".to_owned(), 404, "unknown-case"),
        ("/v1/cases/%ff".to_owned(), 404, "unknown-case"),
        (format!("/v1/cases/{unknown}/annotated.png"), 404, "unknown-case"),
        (format!("/v1/cases/{id}/heat/1.png"), 404, "no-such-picture"),
        (format!("/v1/cases/{id}/heat/-1.png"), 404, "no-such-picture"),
        ("/v1/cases?limit=-1".to_owned(), 400, "bad-request"),
        ("/v1/cases?limit=99999".to_owned(), 400, "bad-request"),
        ("/v1/cases?colour=blue".to_owned(), 400, "bad-request"),
        ("/v1/images".to_owned(), 405, "method-not-allowed"),
    ] {
        let answer = get(&gate.app, &path).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.json()["type"], format!("urn:duet:problem:{kind}"), "{path}");
    }
}

#[tokio::test]
async fn a_dead_letter_is_told_with_its_reason() {
    let gate = gate();
    let id = CaseId::of_input(b"film");
    let headers = Headers::default()
        .with(DeadLetterHeader::CASE, id.to_string())
        .with(DeadLetterHeader::MESSAGE, "the file ends too early; export it again");
    gate.index.record(&record(Topic::DeadLetters, headers, b"film".to_vec())).unwrap();
    let case = get(&gate.app, &format!("/v1/cases/{id}")).await;
    assert_eq!(case.status, StatusCode::OK);
    let case = case.json();
    assert_eq!((&case["id"], &case["state"]), (&json!(id), &json!("dead_letter")));
    assert_eq!(case["dead_letter"]["message"], "the file ends too early; export it again");
}

#[tokio::test]
async fn the_openapi_document_describes_what_is_served_and_nothing_else() {
    let gate = gate();
    let document = get(&gate.app, "/v1/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    for (path, described) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", CaseId::of_input(b"x").as_str()).replace("{n}", "0.png");
        for method in &methods {
            let request = Request::builder().method(method).uri(&path).body(Body::empty()).unwrap();
            let answer = ask(&gate.app, request).await;
            let is_described = described.get(method.as_str().to_lowercase()).is_some();
            let is_served = answer.status != StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(is_described, is_served, "{method} {path}");
            if is_described {
                // Whatever it answers is one of the answers that are described; and a path that nothing serves has no problem.
                let answers = &described[method.as_str().to_lowercase()]["responses"];
                assert!(
                    answers.get(answer.status.as_str()).is_some(),
                    "{method} {path} {}",
                    answer.status
                );
                assert!(answer.status != 404 || answer.json()["type"] != "", "{path}");
            }
        }
    }
    check_references(&document, &document);
}

/// Every reference in `part` leads somewhere in `document`.
fn check_references(document: &Value, part: &Value) {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(target)) = members.get("$ref") {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target}");
            }
            members.values().for_each(|member| check_references(document, member));
        }
        Value::Array(items) => items.iter().for_each(|item| check_references(document, item)),
        _ => {}
    }
}
