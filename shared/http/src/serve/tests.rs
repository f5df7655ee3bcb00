use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Instant,
};

use axum::routing::get;
use tokio::task::{JoinHandle, spawn_blocking};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<io::Result<()>>,
}

impl Running {
    async fn start(config: &Config, change: impl FnOnce(&mut Front)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut front = Front::open(config, address, Exposure::Cases).unwrap();
        change(&mut front);
        let stop = CancellationToken::new();
        let app = Router::new().route("/v1/cases", get(|| async { "cases" }));
        let served = tokio::spawn(front.serve(listener, app, stop.clone()));
        Self { address, stop, served }
    }

    /// What the server says to `words` until it closes, and how long that takes.
    async fn say(&self, words: &'static str) -> (String, Duration) {
        let address = self.address;
        let said = spawn_blocking(move || {
            let started = Instant::now();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(words.as_bytes()).unwrap();
            let mut answer = Vec::new();
            // A reset is a close too.
            let _closed = stream.read_to_end(&mut answer);
            (String::from_utf8_lossy(&answer).into_owned(), started.elapsed())
        });
        said.await.unwrap()
    }

    async fn end(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.unwrap().unwrap().unwrap();
    }
}

const ASK: &str = "GET /v1/cases HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn the_head_of_a_request_is_waited_for_only_so_long_and_may_be_only_so_large() {
    let running =
        Running::start(&Config::default(), |front| front.head = Duration::from_millis(100)).await;
    for slow in ["", "GET /v1/cases HTTP/1.1\r\nHost: local"] {
        let (_, took) = running.say(slow).await;
        assert!(took < PATIENCE / 2, "{took:?}");
    }
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "x".repeat(2 * HEAD_BYTES));
    for headers in [many, long] {
        let words = format!("GET /v1/cases HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").leak();
        let (answer, _) = running.say(words).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    assert!(running.say(ASK).await.0.ends_with("cases"));
    running.end().await;
}

#[tokio::test]
async fn one_client_more_than_there_are_places_is_closed_and_comes_in_later() {
    let config = Config { max_connections: 8, ..Config::default() };
    let running = Running::start(&config, |_| {}).await;
    // A quarter of the places for one address.
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(running.address).unwrap();
        let keep = "GET /v1/cases HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let stream = spawn_blocking(move || {
            stream.write_all(keep.as_bytes()).unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream
        });
        held.push(stream.await.unwrap());
    }
    assert_eq!(running.say(ASK).await.0, "");
    drop(held);
    let started = Instant::now();
    while !running.say(ASK).await.0.ends_with("cases") {
        assert!(started.elapsed() < PATIENCE, "the places do not come back");
    }
    running.end().await;
}

#[tokio::test]
async fn requests_under_way_are_answered_before_the_end() {
    let running = Running::start(&Config::default(), |_| {}).await;
    let idle = TcpStream::connect(running.address).unwrap();
    assert!(running.say(ASK).await.0.ends_with("cases"));
    // An idle connection does not hold the end up.
    running.end().await;
    drop(idle);
}

#[test]
fn other_machines_reach_nothing_that_is_not_protected() {
    let token = || {
        let sha256 = crate::NewToken::generate().unwrap().sha256();
        let permissions = vec![crate::Permission::Read];
        crate::TokenConfig { name: "t".into(), sha256, expires: None, permissions }
    };
    let bare = Config::default();
    let tokens = Config { tokens: vec![token()], ..Config::default() };
    let tls = Config {
        tls_cert_file: Some("c".into()),
        tls_key_file: Some("k".into()),
        ..Config::default()
    };
    let proxied = Config { behind_proxy: true, ..Config::default() };
    let open = |config: &Config, address: &str, exposure| {
        Front::open(config, address.parse().unwrap(), exposure)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    for address in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:80"] {
        for (config, lacks) in [
            (&bare, "http.tokens is empty and http.tls_cert_file is not set"),
            (&tokens, "http.tls_cert_file is not set"),
            (&tls, "http.tokens is empty"),
        ] {
            let message = open(config, address, Exposure::Cases).unwrap_err();
            for words in [address, lacks, "duet tokens new", "127.0.0.1", "http.behind_proxy"] {
                assert!(message.contains(words), "{words} is not in {message}");
            }
        }
        open(&bare, address, Exposure::Probes).unwrap();
        open(&proxied, address, Exposure::Cases).unwrap();
    }
    for address in ["127.0.0.1:8080", "[::1]:8080", "127.9.9.9:1", "[::ffff:127.0.0.1]:80"] {
        open(&bare, address, Exposure::Cases).unwrap();
        open(&tokens, address, Exposure::Cases).unwrap();
    }
    let both = Config { tokens: vec![token()], ..tls };
    let message = open(&both, "0.0.0.0:8080", Exposure::Cases).unwrap_err();
    assert!(message.contains("http.tls_cert_file: c cannot be read"), "{message}");
}
