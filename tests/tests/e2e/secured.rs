//! A broker that knows whom it lets in: every kind of credential, right, wrong and missing, and every service under the
//! rights that `duet topics acls` gives it and no others.

use std::{
    fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use duet_tests::{Ends, Fleet, Grant, PLAIN_USER, Secured};
use duet_transport::{
    Broker, KafkaBroker, KafkaConfig, KafkaSasl, KafkaTls, Mechanism, Secret, TransportError,
};

use crate::pipeline::phantom;

const PATIENCE: Duration = Duration::from_secs(120);

/// The password of a user of that name.
fn password(name: &str) -> String {
    format!("only {name} knows")
}

/// Who logs in by SCRAM.
const USERS: [&str; 6] =
    ["duet-gateway", "duet-prepare", "duet-triage", "duet-send", "duet-watch", "nobody"];

fn start(folder: &Path) -> Secured {
    let passwords = USERS.map(password);
    let users: Vec<_> = USERS.iter().copied().zip(passwords.iter().map(String::as_str)).collect();
    Secured::start(folder, &users).unwrap()
}

/// A bearer token of `name` that is signed by nobody, which this broker believes.
fn token(name: &str, seconds: i64) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    let (start, end) = (now.min(now + seconds) - 1, now + seconds);
    let claims = format!(r#"{{"sub":"{name}","iat":{start},"exp":{end}}}"#);
    format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims))
}

fn scram(name: &str, password: &str) -> KafkaSasl {
    KafkaSasl {
        mechanism: Some(Mechanism::ScramSha512),
        username: Some(name.to_owned()),
        password: Some(Secret::new(password)),
        ..KafkaSasl::default()
    }
}

fn bearer(file: &Path) -> KafkaSasl {
    KafkaSasl {
        mechanism: Some(Mechanism::OauthBearer),
        token_file: Some(file.to_owned()),
        ..KafkaSasl::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_credential_right_wrong_and_missing() {
    let folder = tempfile::tempdir().unwrap();
    let secured = start(folder.path());
    let tls = |ca: &str| KafkaTls { ca_file: Some(secured.file(ca)), ..KafkaTls::default() };
    let known = tls("ca.pem");
    let certified = KafkaTls {
        cert_file: Some(secured.file("client.pem")),
        key_file: Some(secured.file("client.key")),
        ..known.clone()
    };
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let [plain_name, plain_password] = PLAIN_USER;
    let plain = |password: &str| KafkaSasl {
        mechanism: Some(Mechanism::Plain),
        ..scram(plain_name, password)
    };
    let from_file = KafkaSasl {
        password: None,
        password_file: Some(file("password", &format!("{}\n", password("nobody")))),
        ..scram("nobody", "")
    };
    let right = || scram("nobody", &password("nobody"));
    let good = file("good.token", &token("duet-review", 600));
    let (none, (sasl, mutual)) = (KafkaSasl::default, (secured.sasl(), secured.mutual()));
    // What is tried, where, and what the user is told; nothing where he is let in.
    let stale = file("stale.token", &token("duet-review", -5));
    let alien = file("alien.token", "thisisnotatokenthatthebrokerknows");
    #[rustfmt::skip]
    let cases: Vec<(&str, &str, KafkaTls, KafkaSasl, &[&str])> = vec![
        ("SCRAM", sasl, known.clone(), right(), &[]),
        ("SCRAM, password from a file", sasl, known.clone(), from_file, &[]),
        ("SCRAM, wrong password", sasl, known.clone(), scram("nobody", "sesame"), &["refused access", "Authentication failed", "kafka.sasl"]),
        ("SCRAM, unknown user", sasl, known.clone(), scram("somebody", "sesame"), &["refused access", "Authentication failed"]),
        ("SCRAM, another authority", sasl, tls("other-ca.pem"), right(), &["certificate verify failed", "kafka.tls"]),
        ("SCRAM, no TLS", sasl, KafkaTls::default(), right(), &["Disconnected", "kafka.tls and kafka.sasl"]),
        ("no credential", sasl, known.clone(), none(), &["Disconnected", "kafka.sasl"]),
        ("nothing at all", sasl, KafkaTls::default(), none(), &["Disconnected", "kafka.tls and kafka.sasl"]),
        ("PLAIN", sasl, known.clone(), plain(plain_password), &[]),
        ("PLAIN, wrong password", sasl, known.clone(), plain("sesame"), &["refused access", "Authentication failed", "kafka.sasl"]),
        ("a bearer token", sasl, known.clone(), bearer(&good), &[]),
        ("an expired token", sasl, known.clone(), bearer(&stale), &["stale.token", "has expired"]),
        ("a token that is none", sasl, known.clone(), bearer(&alien), &["refused access", "kafka.sasl"]),
        ("a certificate", mutual, certified, none(), &[]),
        ("no certificate", mutual, known.clone(), none(), &["certificate"]),
    ];
    for (what, address, tls, sasl, says) in cases {
        let like = KafkaConfig { request_timeout_ms: 4_000, ..secured.own_config() };
        let config = KafkaConfig {
            tls,
            sasl,
            request_timeout_ms: like.request_timeout_ms,
            ..secured.config_at(address, &like)
        };
        let started = Instant::now();
        let end = KafkaBroker::connect(&config).await;
        println!(
            "{what}: {:?}, {:.1} s",
            end.as_ref().err().map(ToString::to_string),
            started.elapsed().as_secs_f64()
        );
        match (end, says) {
            (Ok(_), []) => {}
            (Err(error), [_, ..]) => {
                let told = error.to_string();
                for words in says {
                    assert!(told.contains(words), "{what}: {words:?} is not in {told}");
                }
                assert!(!told.contains("sesame"), "{told}");
            }
            (end, says) => panic!("{what}: {end:?}, but {says:?} was expected"),
        }
    }

    // What whoever starts a service sees: one line, exit 1, and no secret in it or in the configuration shown.
    let config = KafkaConfig {
        tls: known,
        sasl: KafkaSasl { password: None, ..scram("duet-prepare", "") },
        ..secured.config_at(secured.sasl(), &secured.own_config())
    };
    let fleet = Fleet::new(&config, &folder.path().join("fleet")).unwrap();
    let run = |arguments: &[&str], password: Option<&str>| {
        let mut command = fleet.command(arguments);
        command.envs(password.map(|text| ("DUET_KAFKA_SASL_PASSWORD", text)));
        let said = command.output().unwrap();
        let text = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(!text.contains("sesame"), "{text}");
        (said.status.code(), text)
    };
    let (code, text) = run(&["run", "prepare"], Some("sesame"));
    assert!(code == Some(1) && text.contains("Authentication failed"), "{code:?}: {text}");
    let (code, text) = run(&["run", "prepare"], None);
    assert!(code == Some(2) && text.contains("DUET_KAFKA_SASL_PASSWORD"), "{code:?}: {text}");
    let (code, text) = run(&["config", "show"], Some("sesame"));
    assert!(code == Some(0) && text.contains("password = \"(withheld)\""), "{code:?}: {text}");
}

fn within(what: &str, mut is_done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(200));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_under_its_own_rights_and_one_that_may_not_write_yet() {
    let folder = tempfile::tempdir().unwrap();
    let secured = start(folder.path());
    let housekeeping = secured.own_config();
    let broker = KafkaBroker::connect(&housekeeping).await.unwrap();
    broker.create_topics().await.unwrap();

    // Each by its own name: two of them by bearer tokens, one by a certificate, the others by passwords.
    let known = KafkaTls { ca_file: Some(secured.file("ca.pem")), ..KafkaTls::default() };
    let config = KafkaConfig { tls: known, ..secured.config_at(secured.sasl(), &housekeeping) };
    let mut fleet = Fleet::new(&config, &folder.path().join("fleet")).unwrap();
    let acls = |more: &[&str]| {
        let mut command = fleet.command(&["topics", "acls"]);
        let said = command.args(more).output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).unwrap()
    };
    let mut grants: Vec<Grant> = serde_json::from_str(&acls(&["--json"])).unwrap();
    for grant in grants.iter_mut().filter(|grant| grant.service == "specialist") {
        grant.principal = "User:CN=duet-by-certificate".to_owned();
    }
    // publish's by Kafka's own tool, as its administrator would.
    grants.retain(|grant| grant.service != "publish");
    let script = acls(&["--service", "publish", "--kafka", &housekeeping.bootstrap]);
    let said = secured.run_acls(&script).unwrap();
    assert!(said.status.success(), "{script}\n{said:?}");
    let (later, now): (Vec<_>, Vec<_>) = grants.into_iter().partition(|grant| {
        grant.service == "prepare" && grant.resource == "topic" && grant.operation == "Write"
    });
    assert_eq!(later.len(), 3, "{later:?}");
    secured.allow(&now).unwrap();

    let tokens = folder.path().join("publish.token");
    let review = folder.path().join("review.token");
    fs::write(&tokens, token("duet-publish", 25)).unwrap();
    fs::write(&review, token("duet-review", 3600)).unwrap();
    let (tokens_at, review_at) = (tokens.display().to_string(), review.display().to_string());
    let by_password = |name: &str| {
        [
            ("DUET_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512".to_owned()),
            ("DUET_KAFKA_SASL_USERNAME", format!("duet-{name}")),
            ("DUET_KAFKA_SASL_PASSWORD", password(&format!("duet-{name}"))),
        ]
    };
    let mut start = |name: &str, variables: &[(&str, String)]| {
        let variables: Vec<_> =
            variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        fleet.start_with(name, &variables, &[]).unwrap()
    };
    let prepare = start("prepare", &by_password("prepare"));
    start("triage", &by_password("triage"));
    let certificate = secured.file("client.pem").display().to_string();
    let key = secured.file("client.key").display().to_string();
    start(
        "specialist",
        &[
            ("DUET_KAFKA_BOOTSTRAP", secured.mutual().to_owned()),
            ("DUET_KAFKA_TLS_CERT_FILE", certificate),
            ("DUET_KAFKA_TLS_KEY_FILE", key),
        ],
    );
    let oauth = |file: &str| {
        [
            ("DUET_KAFKA_SASL_MECHANISM", "OAUTHBEARER".to_owned()),
            ("DUET_KAFKA_SASL_TOKEN_FILE", file.to_owned()),
        ]
    };
    let publish = start("publish", &oauth(&tokens_at));
    start("review", &oauth(&review_at));
    let gateway = start("gateway", &by_password("gateway"));
    fleet.wait_until_ready().unwrap();
    let until = Instant::now() + Duration::from_secs(25);
    fs::write(&tokens, token("duet-publish", 3600)).unwrap();

    // In by the gateway and by the command.
    let mut ends = Ends::follow(&broker).await.unwrap();
    let film = |number: usize| {
        let path = folder.path().join(format!("film-{number}"));
        fs::write(&path, phantom(number)).unwrap();
        path
    };
    let address = fleet.address(gateway).unwrap();
    let posted = Command::new("curl")
        .args([
            "--silent",
            "--max-time",
            "30",
            "-H",
            "Content-Type: application/dicom",
            "--data-binary",
        ])
        .arg(format!("@{}", film(0).display()))
        .arg(format!("{address}/v1/images"))
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&posted.stdout).contains("/v1/cases/c-"), "{posted:?}");
    let send = |number: usize| {
        let mut command = fleet.command(&["send"]);
        command.arg(film(number)).envs(by_password("send"));
        let said = command.output().unwrap();
        assert!(said.status.success(), "{said:?}");
    };
    send(1);

    // prepare may read and not write: it says so and keeps nothing, and nothing is lost.
    within("prepare says that it may not write", || {
        let (status, body) = fleet.ask(prepare, "/readyz").unwrap();
        status == 503
            && body.contains("nothing can be written")
            && body.contains("duet topics acls")
    });
    // It goes on trying.
    sleep(Duration::from_secs(4));
    let metrics = fleet.get(prepare, "/metrics").unwrap();
    assert!(metrics.contains("\nduet_ready 0"), "{metrics}");
    assert!(metrics.contains("duet_kafka_trouble{kind=\"forbidden\"} 1"), "{metrics}");
    let returned = "\nduet_records_total{outcome=\"returned\",stage=\"prepare\"} ";
    assert!(metrics.contains(returned), "{metrics}");
    assert!(!metrics.contains(&format!("{returned}0\n")), "{metrics}");
    let log = fleet.process(prepare).unwrap().output();
    assert_eq!(log.matches("nothing can be written").count(), 1, "{log}");
    assert_eq!(fleet.dead(), [""; 0]);
    ends.settle().await.unwrap();
    assert_eq!(ends.count(), 0);

    secured.allow(&later).unwrap();
    ends.wait_for(2, PATIENCE).await.unwrap();
    within("prepare is ready again", || fleet.is_ready(prepare));
    for number in 0..2 {
        assert_eq!(ends.reports_on(&phantom(number)).len(), 1, "{number}");
    }

    // publish's first token has ended, and the broker ended its sessions with it.
    sleep(until.saturating_duration_since(Instant::now()) + Duration::from_secs(1));
    send(2);
    ends.wait_for(3, PATIENCE).await.unwrap();
    ends.settle().await.unwrap();
    assert_eq!((ends.reports_on(&phantom(2)).len(), ends.count()), (1, 3));
    within("publish is ready", || fleet.is_ready(publish));

    // Whoever reads reports may not read originals.
    let stranger = KafkaConfig { sasl: scram("nobody", &password("nobody")), ..config.clone() };
    let watcher = KafkaConfig { sasl: scram("duet-watch", &password("duet-watch")), ..config };
    for (config, topic, is_let) in [
        (&watcher, duet_case::Topic::Reports, true),
        (&watcher, duet_case::Topic::Images, false),
        (&stranger, duet_case::Topic::Reports, false),
        (&stranger, duet_case::Topic::DeadLetters, false),
    ] {
        let broker = KafkaBroker::connect(config).await.unwrap();
        match broker.tail(&[topic], duet_transport::Start::Beginning).await {
            Ok(_) => assert!(is_let, "{topic}"),
            Err(TransportError::Refused { reason }) => {
                assert!(!is_let && reason.contains(topic.name()), "{topic}: {reason}");
            }
            Err(error) => panic!("{topic}: {error}"),
        }
    }
    assert_eq!(fleet.dead(), [""; 0]);
}
