//! The page's server as a browser sees it: its files, its policy, thumbnails, and the stream of changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Cursor;

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use duet_blob::BlobStore;
use duet_case::{CaseId, Topic};
use duet_review::{Config, Review, router};
use duet_stage::{CaseIndex, IndexConfig};
use duet_transport::{Headers, Origin, Record};
use http_body_util::BodyExt;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

struct Page {
    app: Router,
    index: CaseIndex,
    blobs: BlobStore,
    shutdown: CancellationToken,
}

fn page(config: &Config) -> Page {
    let (blobs, shutdown) = (BlobStore::memory(), CancellationToken::new());
    let index = CaseIndex::new(IndexConfig::default());
    let review = Review::new(config, index.clone(), blobs.clone(), shutdown.clone()).unwrap();
    Page { app: router(review), index, blobs, shutdown }
}

async fn get(app: &Router, path: &str) -> Response {
    let request = Request::get(path).body(Body::empty()).unwrap();
    app.clone().oneshot(request).await.unwrap()
}

async fn text(answer: Response) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn header(answer: &Response, name: header::HeaderName) -> &str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// A prepared case whose rendition is `bytes`.
async fn prepare(page: &Page, film: &[u8], bytes: Vec<u8>) -> CaseId {
    let blob = page.blobs.put(Bytes::from(bytes), "image/png").await.unwrap();
    let id = CaseId::of_input(film);
    let case = json!({
        "schema_version": 1, "id": id, "study": format!("s-{}", "0".repeat(32)),
        "received_at": "2026-01-02T03:04:05Z",
        "source": { "format": "png", "sha256": "0".repeat(64), "bytes": 1, "width": 1, "height": 1, "bits": 8, "frames": 1 },
        "rendition": { "blob": blob, "width": 1, "height": 1, "scale": [1.0, 1.0], "window": { "method": "identity" }, "inverted": false },
    });
    let origin = Origin { topic: Topic::Prepared, partition: 0, offset: 0, epoch: 0 };
    let value = serde_json::to_vec(&case).unwrap().into();
    let record = Record { origin, timestamp: None, key: None, headers: Headers::default(), value };
    page.index.record(&record).unwrap();
    id
}

#[tokio::test]
async fn the_page_and_all_that_it_names_are_served_from_here_under_a_strict_policy() {
    let page = page(&Config::default());
    let mut named = vec![];
    for path in ["/", "/cases/c-0123", "/cases/anything"] {
        let answer = get(&page.app, path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = header(&answer, header::CONTENT_SECURITY_POLICY).to_owned();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"));
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header(&answer, header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        let html = text(answer).await;
        assert!(html.contains("Research use only. Not for diagnosis."));
        named
            .extend(html.split('"').filter(|part| part.starts_with("/review/")).map(str::to_owned));
    }
    named.sort();
    named.dedup();
    while let Some(path) = named.pop() {
        let answer = get(&page.app, &path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let body = text(answer).await;
        // XML's own name is an address that nobody fetches.
        let elsewhere = body.replace("http://www.w3.org/2000/svg", "");
        assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"), "{path}");
        assert!(!body.contains("innerHTML"), "{path} reads text as markup");
        let modules = body.split('"').filter_map(|part| part.strip_prefix("./"));
        named.extend(
            modules
                .filter(|name| name.ends_with(".js"))
                .map(|name| format!("/review/assets/{name}")),
        );
    }
    assert_eq!(get(&page.app, "/review/assets/absent.js").await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_thumbnail_is_small_and_of_the_films_shape() {
    let page = page(&Config { thumbnail_px: 64, ..Config::default() });
    let mut png = Vec::new();
    let film = image::GrayImage::from_fn(640, 320, |x, _| image::Luma([(x / 3) as u8]));
    film.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    let id = prepare(&page, b"film", png).await;
    // The second comes from what was kept.
    for _ in 0..2 {
        let answer = get(&page.app, &format!("/review/thumbnails/{id}.png")).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let small = answer.into_body().collect().await.unwrap().to_bytes();
        let small = image::load_from_memory(&small).unwrap();
        assert_eq!((small.width(), small.height()), (64, 32));
    }
    let broken = prepare(&page, b"another", b"no picture".to_vec()).await;
    let answer = get(&page.app, &format!("/review/thumbnails/{broken}.png")).await;
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    for name in [format!("{}.png", CaseId::of_input(b"x")), "x".into(), id.to_string()] {
        let answer = get(&page.app, &format!("/review/thumbnails/{name}")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{name}");
    }
}

#[tokio::test]
async fn changes_are_streamed_until_shutdown_and_only_so_many_may_listen() {
    let page = page(&Config { max_streams: 1, ..Config::default() });
    let answer = get(&page.app, "/review/events").await;
    assert_eq!(header(&answer, header::CONTENT_TYPE), "text/event-stream");
    let refused = get(&page.app, "/review/events").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);

    let mut stream = answer.into_body();
    let mut heard = String::new();
    let mut next = async |heard: &mut String| {
        let frame = stream.frame().await?.unwrap();
        heard.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        Some(())
    };
    next(&mut heard).await.unwrap();
    assert!(heard.contains("event: reload"), "{heard}");
    let id = prepare(&page, b"film", vec![]).await;
    next(&mut heard).await.unwrap();
    assert!(heard.contains("event: cases") && heard.contains(id.as_str()), "{heard}");
    page.shutdown.cancel();
    assert!(next(&mut heard).await.is_none(), "the stream outlives the service");
}

#[tokio::test]
async fn a_case_under_way_is_served_as_far_as_it_is() {
    let page = page(&Config::default());
    let id = prepare(&page, b"film", b"picture".to_vec()).await;
    let body = text(get(&page.app, &format!("/review/cases/{id}")).await).await;
    let case: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&case["state"], &case["case"]["id"]), (&json!("prepared"), &json!(id)));
    let picture = get(&page.app, &format!("/review/cases/{id}/rendition.png")).await;
    assert_eq!(text(picture).await, "picture");
}
