//! What the start finds out of a server, and what it tells to do.

use std::time::Duration;

use duet_telemetry::Health;
use duet_triage::stand_by;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Fixture, KEY,
    server::{GOOD, Reply, Request, Server, completion},
};

fn list(names: &[&str]) -> Reply {
    let data: Vec<_> = names.iter().map(|name| json!({"id": name, "object": "model"})).collect();
    Reply::json(200, &json!({"object": "list", "data": data}))
}

fn error(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({"error": {"message": message, "code": status}}))
}

fn body(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}

#[tokio::test]
async fn what_is_wrong_is_told_with_what_to_do() {
    /// What lists the models, what answers, and what is said.
    type Row = (Reply, Reply, &'static [&'static str]);
    let rows: Vec<Row> = vec![
        (list(&["a", "b"]), Reply::chat(GOOD), &["lists 2 models (a, b)", "triage.backend.model"]),
        (list(&[]), Reply::chat(GOOD), &["lists no model", "triage.backend.url"]),
        (error(404, "Not Found"), Reply::chat(GOOD), &["status 404 (Not Found)"]),
        (list(&["a"]), error(401, "no"), &["status 401", "refuses the key", "api_key_file"]),
        (
            list(&["a"]),
            error(400, &format!("failed to parse grammar {KEY}\n")),
            &["status 400 (failed to parse grammar (withheld))", "chat template"],
        ),
        (
            list(&["a"]),
            Reply::chat("A chest film."),
            &["does not keep to the response_format", "--skip-chat-parsing"],
        ),
        (list(&["a"]), error(503, "Loading model"), &["status 503 (Loading model)", "starting"]),
    ];
    for (models, chat, says) in rows {
        let server = Server::start(move |request, _| match request.path() {
            "/v1/models" => models.clone(),
            _ => chat.clone(),
        })
        .await;
        let fixture = Fixture::new(server.url(), |own| own.model = None);
        let fault = fixture.served.probe().await.unwrap_err().to_string();
        assert!(fault.starts_with(&server.url()), "{fault}");
        for words in says {
            assert!(fault.contains(words), "{words:?} is not in {fault}");
        }
        assert!(!fault.contains(KEY), "{fault}");
    }
}

#[tokio::test]
async fn a_server_is_asked_for_its_one_model_and_for_its_digest() {
    let digest = "ab".repeat(32);
    let tags = json!({"models": [{"name": "other", "digest": "00"}, {"name": "qwen:latest", "digest": digest}]});
    let server = Server::start(move |request, _| match request.path() {
        "/v1/models" => list(&["qwen"]),
        "/api/tags" => Reply::json(200, &tags),
        _ => {
            let mut answer = completion(GOOD);
            answer["model"] = body(request)["model"].clone();
            answer.as_object_mut().unwrap().remove("system_fingerprint");
            Reply::json(200, &answer)
        }
    })
    .await;
    let fixture = Fixture::new(server.url(), |own| own.model = None);
    fixture.served.probe().await.unwrap();
    let (_, section) = fixture.triaged(fixture.case().await).await;
    assert_eq!(
        (section.model.name.as_str(), section.model.version.as_str()),
        ("qwen", "not stated by the server")
    );
    assert_eq!(section.model.sha256.to_string(), "ab".repeat(32));
}

#[tokio::test]
async fn a_server_that_knows_no_logprobs_is_asked_without() {
    let server = Server::start(|request, _| match body(request).get("logprobs") {
        Some(_) => error(400, "unknown parameter: logprobs"),
        None => Reply::chat(GOOD),
    })
    .await;
    let fixture = Fixture::new(server.url(), |_| {});
    fixture.served.probe().await.unwrap();
    let case = fixture.case().await;
    fixture.triaged(case).await;
    let last = server.requests().into_iter().rfind(|own| own.path() == "/v1/chat/completions");
    assert!(body(&last.unwrap()).get("logprobs").is_none());
}

#[tokio::test]
async fn a_start_waits_for_a_server_that_is_loading_and_not_for_one_that_is_wrong() {
    let stop = CancellationToken::new();
    let loading = Server::of(vec![error(503, "Loading model"), Reply::chat(GOOD)]).await;
    let wrong = Server::of(vec![error(401, "no")]).await;
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rows = [
        (loading.url(), 60_000, None),
        (wrong.url(), 60_000, Some("refuses the key")),
        (format!("http://{away}/v1"), 0, Some("no connection to the server")),
    ];
    for (url, start_wait_ms, says) in rows {
        let fixture = Fixture::new(url.clone(), |own| own.start_wait_ms = start_wait_ms);
        let health = Health::default();
        let waiting = stand_by(&fixture.served, health.item("served", "starting"), &stop);
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect(&url);
        let missing = health.missing().remove("served");
        match says {
            None => assert_eq!(missing, None),
            Some(words) => {
                assert!(missing.as_ref().is_some_and(|own| own.contains(words)), "{missing:?}")
            }
        }
    }
    stop.cancel();
}
