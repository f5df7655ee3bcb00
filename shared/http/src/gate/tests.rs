use std::sync::atomic::{AtomicBool, Ordering};

use axum::{Router, http::StatusCode, middleware::from_fn_with_state, routing::any};
use bytes::Bytes;
use chrono::TimeDelta;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::{NewToken, TokenConfig};

const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// A token that is configured.
struct Known {
    token: NewToken,
    config: TokenConfig,
}

fn known(name: &str, permissions: &[Permission], expires: Option<DateTime<Utc>>) -> Known {
    let token = NewToken::generate().unwrap();
    let config = TokenConfig {
        name: name.into(),
        sha256: token.sha256(),
        expires: expires.map(|end| end.to_rfc3339()),
        permissions: permissions.to_vec(),
    };
    Known { token, config }
}

/// An application that answers everything with what it was asked, behind the gate.
fn behind(config: &Config) -> Router {
    config.validate().unwrap();
    let gate = Arc::new(Gate::new(config, HERE));
    let inner = Router::new().fallback(any(|request: Request| async move {
        format!("{} {:?}", request.uri().path(), request.headers())
    }));
    inner.merge(session::router(gate.is_secure())).layer(from_fn_with_state(gate, guard))
}

async fn ask(app: &Router, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

fn header(response: &Response, name: header::HeaderName) -> String {
    response.headers().get(name).map_or_else(String::new, |value| value.to_str().unwrap().into())
}

#[test]
fn what_is_not_named_needs_a_token_that_may_read() {
    let (get, post) = (Method::GET, Method::POST);
    for (method, path, need) in [
        (&get, "/metrics", Need::Nothing),
        (&get, "/healthz", Need::Nothing),
        (&get, "/readyz", Need::Nothing),
        (&post, "/metrics", Need::Token(Permission::Read)),
        (&get, "/", Need::NoToken),
        (&get, "/cases/c-01", Need::NoToken),
        (&get, "/review/assets/app.js", Need::NoToken),
        (&post, "/review/session", Need::Token(Permission::Read)),
        (&Method::DELETE, "/review/session", Need::NoToken),
        (&get, "/v1/openapi.json", Need::AnyToken),
        (&post, "/v1/images", Need::Token(Permission::Send)),
        (&get, "/v1/images", Need::Token(Permission::Send)),
        (&get, "/v1/cases", Need::Token(Permission::Read)),
        (&get, "/review/cases", Need::Token(Permission::Read)),
        (&get, "/review/events", Need::Token(Permission::Read)),
        (&get, "/review/thumbnails/c.png", Need::Token(Permission::Read)),
        (&get, "/metrics/", Need::Token(Permission::Read)),
        (&get, "//metrics", Need::Token(Permission::Read)),
        (&get, "/anything", Need::Token(Permission::Read)),
    ] {
        assert_eq!(need_of(method, path), need, "{method} {path}");
    }
}

#[tokio::test]
async fn the_right_token_lets_in_and_every_other_answer_says_why_not() {
    let now = Utc::now();
    let both = known("both", &[Permission::Send, Permission::Read], None);
    let sender = known("sender", &[Permission::Send], Some(now + TimeDelta::hours(1)));
    let old = known("old", &[Permission::Read], Some(now - TimeDelta::hours(1)));
    let tokens = [&both, &sender, &old].map(|one| one.config.clone()).to_vec();
    let app = behind(&Config { tokens, ..Config::default() });
    let stranger = NewToken::generate().unwrap();
    let cases: &[(Option<&NewToken>, &str, u16, &str, &str)] = &[
        (Some(&both.token), "/v1/cases", 200, "", ""),
        (Some(&sender.token), "/v1/images", 200, "", ""),
        (Some(&sender.token), "/v1/openapi.json", 200, "", ""),
        (
            Some(&sender.token),
            "/v1/cases",
            403,
            "insufficient_scope",
            "\\\"sender\\\" may not read",
        ),
        (Some(&old.token), "/v1/cases", 401, "invalid_token", "has expired"),
        (Some(&stranger), "/v1/cases", 401, "invalid_token", "none that is known"),
        (None, "/v1/cases", 401, "Bearer realm=\"duet\"", "Authorization: Bearer"),
        (None, "/nothing/here", 401, "Bearer", "duet tokens new"),
        (None, "/", 200, "", ""),
        (None, "/healthz", 200, "", ""),
    ];
    for (token, path, status, challenge, says) in cases {
        let shown = token.map(|token| format!("Bearer {}", token.secret()));
        let headers: Vec<_> = shown.iter().map(|shown| ("authorization", shown.as_str())).collect();
        let answer = ask(&app, Method::GET, path, &headers).await;
        assert_eq!(answer.status().as_u16(), *status, "{path}");
        let told = header(&answer, header::WWW_AUTHENTICATE);
        assert!(told.contains(challenge) && told.is_empty() == challenge.is_empty(), "{told}");
        if *status != 200 {
            let kind = header(&answer, header::CONTENT_TYPE);
            assert_eq!(kind, "application/problem+json");
            assert_eq!(header(&answer, header::CACHE_CONTROL), "no-store");
        }
        let body = text(answer).await;
        assert!(body.contains(says), "{body}");
        // Nothing behind the gate is handed the token, and no answer repeats it.
        let presented = token.map_or("Bearer ", |token| token.secret());
        assert!(*status != 200 || !body.contains(presented), "{body}");
    }
    // The scheme's name is written in any case; another scheme is no token.
    let bearer = format!("bearer {}", both.token.secret());
    assert_eq!(
        ask(&app, Method::GET, "/v1/cases", &[("authorization", &bearer)]).await.status(),
        200
    );
    let basic = format!("Basic {}", both.token.secret());
    assert_eq!(
        ask(&app, Method::GET, "/v1/cases", &[("authorization", &basic)]).await.status(),
        401
    );
}

#[tokio::test]
async fn nothing_of_a_body_is_read_of_whoever_may_not_come_in() {
    let read = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&read);
    let body = futures::stream::poll_fn(move |_| {
        seen.store(true, Ordering::Relaxed);
        std::task::Poll::Ready(Some(Ok::<_, std::io::Error>(Bytes::from_static(b"film"))))
    });
    let app = behind(&Config {
        tokens: vec![known("ris", &[Permission::Send], None).config],
        ..Config::default()
    });
    let request = Request::post("/v1/images").body(Body::from_stream(body)).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(!read.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_signed_in_page_reads_by_its_cookie_and_changes_nothing_by_it() {
    for behind_proxy in [false, true] {
        let reader = known("page", &[Permission::Send, Permission::Read], None);
        let tokens = vec![reader.config.clone()];
        let app = behind(&Config { tokens, behind_proxy, ..Config::default() });
        let bearer = format!("Bearer {}", reader.token.secret());
        let page = [("authorization", bearer.as_str()), ("sec-fetch-site", "same-origin")];
        let answer = ask(&app, Method::POST, session::PATH, &page).await;
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        let cookie = header(&answer, header::SET_COOKIE);
        for word in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
            assert!(cookie.contains(word), "{cookie}");
        }
        assert_eq!(cookie.contains("; Secure"), behind_proxy);
        assert_eq!(cookie.starts_with("__Host-duet="), behind_proxy);
        let pair = format!("theme=dark; {}", cookie.split(';').next().unwrap());
        let with = [("cookie", pair.as_str())];
        assert_eq!(ask(&app, Method::GET, "/review/cases", &with).await.status(), StatusCode::OK);
        let sent = ask(&app, Method::POST, "/v1/images", &with).await;
        assert_eq!(sent.status(), StatusCode::UNAUTHORIZED);
        let out = ask(&app, Method::DELETE, session::PATH, &with).await;
        assert_eq!(out.status(), StatusCode::NO_CONTENT);
        assert!(header(&out, header::SET_COOKIE).contains("Max-Age=0"));
        let wrong = ask(&app, Method::POST, session::PATH, &[("authorization", "Bearer x")]).await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(header(&wrong, header::SET_COOKIE), "");
    }
}

#[tokio::test]
async fn another_site_and_another_name_are_refused() {
    let app = behind(&Config::default());
    let foreign = [("host", "127.0.0.1:8080"), ("origin", "https://evil.example")];
    let answer = ask(&app, Method::POST, "/v1/images", &foreign).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(text(answer).await.contains("urn:duet:problem:foreign-site"));
    let cross = [("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")];
    assert_eq!(ask(&app, Method::POST, "/v1/images", &cross).await.status(), 403);
    assert_eq!(ask(&app, Method::GET, "/v1/cases", &cross).await.status(), 200);
    let rebound = [("host", "evil.example:8080")];
    let answer = ask(&app, Method::GET, "/v1/cases", &rebound).await;
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    assert!(text(answer).await.contains("http.hosts"));
    // A probe knows an address alone, and Prometheus any name.
    assert_eq!(ask(&app, Method::GET, "/metrics", &rebound).await.status(), 200);
    let named = behind(&Config { hosts: vec!["evil.example".into()], ..Config::default() });
    assert_eq!(ask(&named, Method::GET, "/v1/cases", &rebound).await.status(), 200);
}

#[tokio::test]
async fn who_comes_too_often_is_told_when_to_come_again() {
    let one = known("one", &[Permission::Read], None);
    let two = known("two", &[Permission::Read], None);
    let tokens = vec![one.config.clone(), two.config.clone()];
    let config = Config { tokens, requests_per_second: 1, burst: 3, ..Config::default() };
    let app = behind(&config);
    let bearer = |known: &Known| format!("Bearer {}", known.token.secret());
    for _ in 0..3 {
        let answer = ask(&app, Method::GET, "/v1/cases", &[("authorization", &bearer(&one))]).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let answer = ask(&app, Method::GET, "/v1/cases", &[("authorization", &bearer(&one))]).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(header(&answer, header::RETRY_AFTER), "1");
    // Another token has an allowance of its own, at the same address.
    let other = ask(&app, Method::GET, "/v1/cases", &[("authorization", &bearer(&two))]).await;
    assert_eq!(other.status(), StatusCode::OK);
    for _ in 0..9 {
        assert_eq!(ask(&app, Method::GET, "/healthz", &[]).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn wrong_tokens_are_answered_so_many_times_and_lock_nobody_out() {
    let right = known("right", &[Permission::Read], None);
    let app = behind(&Config { tokens: vec![right.config.clone()], ..Config::default() });
    let mut statuses = Vec::new();
    for _ in 0..30 {
        let wrong = format!("Bearer {}", NewToken::generate().unwrap().secret());
        let answer = ask(&app, Method::GET, "/v1/cases", &[("authorization", &wrong)]).await;
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses[..20], [401; 20]);
    assert_eq!(statuses[21..], [429; 9]);
    let bearer = format!("Bearer {}", right.token.secret());
    let answer = ask(&app, Method::GET, "/v1/cases", &[("authorization", &bearer)]).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn without_tokens_each_address_is_a_client_and_a_proxy_is_believed_where_there_is_one() {
    let ask_from = async |app: &Router, peer: [u8; 4], forwarded: &str| {
        let mut request = Request::get("/v1/cases").header("x-forwarded-for", forwarded);
        let peer = ConnectInfo(SocketAddr::from((peer, 1)));
        request.extensions_mut().unwrap().insert(peer);
        app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    };
    let (one, two) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let config = Config { requests_per_second: 1, burst: 1, ..Config::default() };
    let app = behind(&config);
    assert_eq!(ask_from(&app, one, "203.0.113.1").await, 200);
    assert_eq!(
        ask_from(&app, one, "203.0.113.2").await,
        429,
        "what a client says of itself is not believed"
    );
    assert_eq!(ask_from(&app, two, "203.0.113.1").await, 200);

    let app = behind(&Config { behind_proxy: true, ..config });
    assert_eq!(ask_from(&app, one, "6.6.6.6, 203.0.113.1").await, 200);
    assert_eq!(ask_from(&app, one, "7.7.7.7, 203.0.113.1").await, 429);
    assert_eq!(ask_from(&app, one, "203.0.113.2").await, 200);
    assert_eq!(ask_from(&app, one, "no address").await, 200);
    assert_eq!(ask_from(&app, one, "").await, 429);
}

#[tokio::test]
async fn a_stream_of_events_ends_with_its_token() {
    let stream = || {
        let body = futures::stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b":\n"))
        });
        let body = Body::from_stream(body);
        ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
    };
    let ended = end_stream_at(Utc::now() + TimeDelta::milliseconds(40), stream());
    let all = tokio::time::timeout(Duration::from_secs(10), text(ended)).await.unwrap();
    assert!(all.starts_with(":\n"));
    // What is no stream keeps its length.
    let film = end_stream_at(Utc::now(), "film".into_response());
    assert_eq!(text(film).await, "film");
}
