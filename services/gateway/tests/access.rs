//! The gateway behind the gate, as a client without the right token meets it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
    response::Response,
};
use duet_blob::BlobStore;
use duet_case::{CaseId, Topic};
use duet_gateway::{Gateway, router};
use duet_http::{Config, Exposure, Front, NewToken, Permission, TokenConfig};
use duet_stage::{CaseIndex, IndexConfig};
use duet_transport::{Broker, MemoryBroker, Start};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

struct Guarded {
    app: Router,
    broker: MemoryBroker,
    sender: NewToken,
    reader: NewToken,
}

fn token(name: &str, permission: Permission) -> (NewToken, TokenConfig) {
    let token = NewToken::generate().unwrap();
    let (sha256, permissions) = (token.sha256(), vec![permission]);
    let config = TokenConfig { name: name.to_owned(), sha256, expires: None, permissions };
    (token, config)
}

fn guarded() -> Guarded {
    let broker = MemoryBroker::default();
    let index = CaseIndex::new(IndexConfig::default());
    let sink = Arc::new(broker.clone());
    let gateway = Gateway::new(Default::default(), sink, index, BlobStore::memory()).unwrap();
    let (sender, one) = token("ris-1", Permission::Send);
    let (reader, two) = token("ward-3", Permission::Read);
    let config = Config { tokens: vec![one, two], ..Config::default() };
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let front = Front::open(&config, here, Exposure::Cases).unwrap();
    Guarded { app: front.guard(router(gateway)), broker, sender, reader }
}

async fn ask(app: &Router, method: &Method, path: &str, token: Option<&NewToken>) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(header::CONTENT_TYPE, "image/png");
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.secret()));
    }
    let body = if *method == Method::POST { Body::from("film") } else { Body::empty() };
    app.clone().oneshot(request.body(body).unwrap()).await.unwrap()
}

async fn json(answer: Response) -> Value {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

async fn sent(broker: &MemoryBroker) -> usize {
    let mut tail = broker.tail(&[Topic::Images], Start::Beginning).await.unwrap();
    tail.poll(100, Duration::ZERO).await.unwrap().len()
}

#[tokio::test]
async fn each_token_does_what_it_may_and_nothing_else() {
    let guarded = guarded();
    let (post, get) = (Method::POST, Method::GET);
    let case = format!("/v1/cases/{}", CaseId::of_input(b"film"));
    let stranger = NewToken::generate().unwrap();
    let (sender, reader) = (&guarded.sender, &guarded.reader);
    for (token, status) in [(None, 401), (Some(&stranger), 401), (Some(reader), 403)] {
        let answer = ask(&guarded.app, &post, "/v1/images", token).await;
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(sent(&guarded.broker).await, 0);
    }
    let answer = ask(&guarded.app, &post, "/v1/images", Some(sender)).await;
    assert_eq!(answer.status(), StatusCode::ACCEPTED);
    assert_eq!(sent(&guarded.broker).await, 1);
    for (token, status) in [(None, 401), (Some(sender), 403), (Some(reader), 200)] {
        assert_eq!(ask(&guarded.app, &get, &case, token).await.status().as_u16(), status);
        assert_eq!(ask(&guarded.app, &get, "/v1/cases", token).await.status().as_u16(), status);
    }
}

#[tokio::test]
async fn every_path_of_the_document_is_guarded_and_says_so() {
    let guarded = guarded();
    let answer = ask(&guarded.app, &Method::GET, "/v1/openapi.json", Some(&guarded.sender)).await;
    let document = json(answer).await;
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    assert!(document["security"][0]["bearer"].is_array());
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", CaseId::of_input(b"x").as_str()).replace("{n}", "0.png");
        for (method, described) in methods.as_object().unwrap() {
            let method = method.to_uppercase().parse().unwrap();
            let answer = ask(&guarded.app, &method, &path, None).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{method} {path}");
            assert!(answer.headers().contains_key(header::WWW_AUTHENTICATE));
            for status in ["401", "403", "421", "429"] {
                assert!(described["responses"][status]["content"].is_object(), "{path} {status}");
            }
        }
    }
}
