//! The built binary behind tokens and TLS, with curl as its client.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use duet_tests::{Guarded, binary};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

const NAME: &str = "duet.example";
const PATIENCE: Duration = Duration::from_secs(60);
/// Of one token: so many at once, and half as many a second.
const BURST: usize = 20;

/// A process that other machines could reach, with its files.
struct Server {
    process: Guarded,
    folder: PathBuf,
    port: u16,
}

/// What curl was answered.
#[derive(Debug, Default)]
struct Answer {
    status: String,
    head: String,
    body: String,
    /// curl's own exit code, and what it complained of.
    exit: Option<i32>,
    complaint: String,
}

/// A new authority, and a certificate of it, its key and the authority itself in PEM.
fn certificate(year: i32) -> [String; 3] {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a certificate whose issuer has its own name for its own issuer.
    parameters.distinguished_name.push(DnType::CommonName, format!("Authority of {year}"));
    let key = KeyPair::generate().unwrap();
    let authority = parameters.self_signed(&key).unwrap();
    let issuer = Issuer::new(parameters, key);
    let mut parameters = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(year, 1, 2);
    let key = KeyPair::generate().unwrap();
    let own = parameters.signed_by(&key, &issuer).unwrap();
    [own.pem(), key.serialize_pem(), authority.pem()]
}

fn duet(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary().unwrap());
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("DUET_") {
            command.env_remove(name);
        }
    }
    command
}

/// `duet tokens new`: the entry for the configuration, and the token.
fn token(folder: &Path, name: &str, more: &[&str]) -> (String, String) {
    let file = folder.join(format!("{name}.token"));
    let arguments = ["tokens", "new", "--name", name, "--token-file", file.to_str().unwrap()];
    let made = duet(&[&arguments, more].concat()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let token = fs::read_to_string(file).unwrap().trim().to_owned();
    let entry = String::from_utf8(made.stdout).unwrap();
    assert!(!entry.contains(&token) && !String::from_utf8_lossy(&made.stderr).contains(&token));
    (entry, token)
}

impl Server {
    fn start(folder: &Path, entries: &[String]) -> Self {
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
        let of = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "[blob]\nurl = \"memory:\"\n[models]\ndir = {models:?}\n[prepare]\npseudonym_key_file = {:?}\nsealing_key_file = {:?}\n\
             [http]\nlisten = \"0.0.0.0:{port}\"\ntls_cert_file = {:?}\ntls_key_file = {:?}\n\
             requests_per_second = {}\nburst = {BURST}\n{}",
            of("pseudonym.key"),
            of("sealing.keys"),
            of("tls.crt"),
            of("tls.key"),
            BURST / 2,
            entries.concat()
        );
        let path = folder.join("duet.toml");
        fs::write(&path, config).unwrap();
        // Everything that Duet and what it serves with has to say.
        let filter = "info,duet=trace,hyper=trace,axum=trace,tower=trace,rustls=trace,tract=off";
        let command =
            duet(&["--config", path.to_str().unwrap(), "--log-filter", filter, "run", "all"]);
        let process = Guarded::start("duet", &command, &folder.join("log"), None).unwrap();
        let server = Self { process, folder: folder.to_owned(), port };
        let is_up = |_: &Guarded| server.ask("/healthz", None, &[]).status == "200";
        server.process.wait_until(PATIENCE, is_up).unwrap_or_else(|error| {
            panic!("{error}\n{:?}", server.ask("/healthz", None, &["--verbose"]));
        });
        server
    }

    /// curl, which trusts the authority in `ca.crt`.
    fn ask(&self, path: &str, token: Option<&str>, more: &[&str]) -> Answer {
        self.curl("https", path, token, &[&["--cacert", "ca.crt"], more].concat())
    }

    fn curl(&self, scheme: &str, path: &str, token: Option<&str>, more: &[&str]) -> Answer {
        let mut curl = Command::new("curl");
        curl.current_dir(&self.folder).args([
            "--silent",
            "--show-error",
            "--include",
            "--max-time",
            "30",
        ]);
        curl.args(["--noproxy", "*", "--resolve", &format!("{NAME}:{}:127.0.0.1", self.port)]);
        if let Some(token) = token {
            curl.args(["--oauth2-bearer", token]);
        }
        curl.args(more).arg(format!("{scheme}://{NAME}:{}{path}", self.port));
        let said = curl.output().expect("curl is not there: apt-get install -y curl");
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
        Answer {
            status: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
            exit: said.status.code(),
            complaint: String::from_utf8_lossy(&said.stderr).into_owned(),
        }
    }
}

fn within(what: &str, mut is_done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(50));
    }
}

const FILM: [&str; 4] = ["-H", "Content-Type: image/png", "--data-binary", "a film"];

#[test]
fn the_gateway_and_the_page_by_tokens_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    let [cert, key, ca] = certificate(2050);
    write("tls.crt", &cert);
    write("tls.key", &key);
    write("ca.crt", &ca);
    let (ris, sender) = token(folder, "ris-1", &["--may", "send"]);
    let (ward, reader) = token(folder, "ward-3", &["--may", "read", "--expires", "2049-12-31"]);
    let (busy, hasty) = token(folder, "busy", &[]);
    let (old, expired) = token(folder, "old", &["--expires", "2049-12-31"]);
    let old = old.replace("2049", "2019");
    let server = Server::start(folder, &[ris, ward, busy, old]);
    let stranger = format!("duet_{}", "5".repeat(64));

    // Who may do what.
    for (token, status, says) in [
        (None, "401", "duet tokens new"),
        (Some(&stranger), "401", "none that is known"),
        (Some(&expired), "401", "has expired"),
        (Some(&reader), "403", "may not send"),
        (Some(&sender), "202", "/v1/cases/c-"),
    ] {
        let answer = server.ask("/v1/images", token.map(String::as_str), &FILM);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.body.contains(says), "{answer:?}");
        assert_eq!(answer.head.contains("www-authenticate: bearer"), status.starts_with("40"));
    }
    for (token, path, status) in [
        (&reader, "/v1/cases", "200"),
        (&reader, "/review/cases", "200"),
        (&sender, "/v1/cases", "403"),
        (&sender, "/review/cases", "403"),
    ] {
        assert_eq!(server.ask(path, Some(token), &[]).status, status, "{path}");
    }
    for (path, status) in [
        ("/", "200"),
        ("/review/assets/app.js", "200"),
        ("/metrics", "200"),
        ("/v1/cases", "401"),
        ("/review/cases", "401"),
        ("/review/events", "401"),
        ("/v1/openapi.json", "401"),
        ("/nothing", "401"),
    ] {
        assert_eq!(server.ask(path, None, &[]).status, status, "{path}");
    }

    // The page signs in once and reads by its cookie.
    let jar = ["--cookie-jar", "jar", "--request", "POST"];
    assert_eq!(server.ask("/review/session", Some(&reader), &jar).status, "204");
    let with = ["--cookie", "jar"];
    assert_eq!(server.ask("/review/cases", None, &with).status, "200");
    assert_eq!(server.ask("/v1/images", None, &[&with[..], &FILM].concat()).status, "401");

    // Other sites, other schemes, other authorities.
    let foreign = [&["-H", "Origin: https://evil.example"], &FILM[..]].concat();
    assert_eq!(server.ask("/v1/images", Some(&sender), &foreign).status, "403");
    let plain = server.curl("http", "/v1/cases", Some(&reader), &[]);
    assert!(plain.status == "400" && plain.body.contains("https"), "{plain:?}");
    let untrusted = server.curl("https", "/v1/cases", Some(&reader), &[]);
    assert!(
        untrusted.exit == Some(60) && untrusted.complaint.contains("certificate"),
        "{untrusted:?}"
    );

    // Too often, and again in time. One curl, so that they come quickly enough.
    let url = format!("https://{NAME}:{}/v1/cases", server.port);
    let many = vec![url.as_str(); 3 * BURST];
    let all = server.ask("/v1/cases", Some(&hasty), &many);
    assert!(
        all.body.contains("HTTP/1.1 429") && all.body.to_lowercase().contains("retry-after: 1")
    );
    within("the allowance comes back", || {
        server.ask("/v1/cases", Some(&hasty), &[]).status == "200"
    });

    // Wrong tokens, until they are not even answered as such; the right one is let in all the same.
    let mut wrong = Vec::new();
    within("wrong tokens are limited", || {
        wrong.push(server.ask("/v1/cases", Some(&stranger), &[]).status);
        wrong.last().is_some_and(|status| status == "429")
    });
    assert!(wrong.iter().filter(|status| *status == "401").count() >= 10, "{wrong:?}");
    assert_eq!(server.ask("/v1/cases", Some(&reader), &[]).status, "200");

    // A renewal that is half way, and then whole.
    let [cert, key, ca] = certificate(2060);
    write("tls.crt", &cert);
    within("the broken renewal is told", || {
        server.process.output().contains("is not taken into use")
    });
    assert_eq!(server.ask("/healthz", None, &[]).status, "200");
    write("tls.key", &key);
    write("ca.crt", &ca);
    within("the renewal is in use", || server.ask("/healthz", None, &[]).status == "200");

    let metrics = server.ask("/metrics", None, &[]).body;
    for line in [
        "duet_tls_not_after_timestamp_seconds{certificate=\"server\"} 2840227200",
        "duet_http_token_requests_total{token=\"ris-1\"} 1",
        "duet_http_refused_total{reason=\"expired_token\"} 1",
        "duet_http_refused_total{reason=\"wrong_token\"}",
        "duet_http_refused_total{reason=\"failures\"}",
        "duet_http_refused_total{reason=\"plain_http\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let log = folder.join("log");
    assert_eq!(server.process.stop().unwrap(), Some(0));
    let log = fs::read_to_string(log).unwrap();
    for told in ["ris-1", "accepted", "none of http.tokens", "old"] {
        assert!(log.contains(told), "{told} is not in\n{log}");
    }
    for token in [&sender, &reader, &hasty, &expired, &stranger] {
        let secret = token.trim_start_matches("duet_");
        for (place, text) in [("log", &log), ("metrics", &metrics)] {
            assert!(!text.contains(secret), "a token is in the {place}");
        }
    }
}
