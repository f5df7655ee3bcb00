//! What is refused, and what nobody is shown.

use super::*;

fn base() -> KafkaConfig {
    KafkaConfig { bootstrap: "broker:9093".to_owned(), ..KafkaConfig::default() }
}

fn sasl(text: &str) -> KafkaSasl {
    toml::from_str(text).unwrap()
}

#[test]
fn what_does_not_go_together_is_refused_by_name() {
    let tls = KafkaTls { enabled: true, ..KafkaTls::default() };
    for (text, tls, says) in [
        ("username = 'a'", &tls, "kafka.sasl.mechanism"),
        ("mechanism = 'PLAIN'\npassword = 'x'", &tls, "kafka.sasl.username"),
        ("mechanism = 'SCRAM-SHA-512'\nusername = 'a'", &tls, "DUET_KAFKA_SASL_PASSWORD"),
        (
            "mechanism = 'PLAIN'\nusername = 'a'\npassword = 'x'\npassword_file = 'y'",
            &tls,
            "both set",
        ),
        ("mechanism = 'PLAIN'\nusername = 'a'\npassword = '(withheld)'", &tls, "config show"),
        ("mechanism = 'OAUTHBEARER'", &tls, "kafka.sasl.token_file"),
        (
            "mechanism = 'PLAIN'\nusername = 'a'\npassword = 'hush'",
            &KafkaTls::default(),
            "in clear",
        ),
    ] {
        let config = KafkaConfig { sasl: sasl(text), tls: tls.clone(), ..base() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("hush"), "{text}: {error}");
    }
    let half = KafkaTls { cert_file: Some("c".into()), ..KafkaTls::default() };
    let error = KafkaConfig { tls: half, ..base() }.validate().unwrap_err().to_string();
    assert!(error.contains("kafka.tls.key_file"), "{error}");
    let mut twice = KafkaConfig { tls, ..base() };
    twice.properties.insert("security.protocol".to_owned(), "ssl".to_owned());
    assert!(twice.validate().unwrap_err().to_string().contains("security.protocol"));
}

#[test]
fn a_password_is_given_to_the_client_and_to_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "hush hush\n").unwrap();
    let text = format!("mechanism = 'SCRAM-SHA-512'\nusername = 'a'\npassword_file = {file:?}");
    let config = KafkaConfig { sasl: sasl(&text), ..base() };
    config.validate().unwrap();
    let client = config.client().unwrap();
    assert_eq!(client.get("sasl.password"), Some("hush hush"));
    assert_eq!(client.get("security.protocol"), Some("sasl_plaintext"));
    assert!(!format!("{client:?}").contains("hush"));

    let inline = sasl("mechanism = 'PLAIN'\nusername = 'a'\npassword = 'hush'");
    assert!(!format!("{inline:?}").contains("hush"));
    assert!(!toml::to_string(&inline).unwrap().contains("hush"));
    let error = toml::from_str::<KafkaSasl>("password = 12345").unwrap_err();
    // What the configuration passes on is the message alone.
    let message = error.message();
    assert!(message.contains("in quotes") && !message.contains("12345"), "{message}");
}

#[test]
fn a_file_that_is_not_there_is_named_with_its_key() {
    let tls = KafkaTls { ca_file: Some("/nowhere/ca.pem".into()), ..KafkaTls::default() };
    let error = KafkaConfig { tls, ..base() }.client().unwrap_err().to_string();
    assert!(error.contains("kafka.tls.ca_file") && error.contains("/nowhere/ca.pem"), "{error}");
    let text = "mechanism = 'PLAIN'\nusername = 'a'\npassword_file = '/nowhere/password'";
    let error = KafkaConfig { sasl: sasl(text), ..base() }.client().unwrap_err().to_string();
    assert!(error.contains("kafka.sasl.password_file"), "{error}");
}

fn jwt(payload: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.sig", part(r#"{"alg":"RS256"}"#), part(payload))
}

#[test]
fn a_token_is_read_anew_each_time_with_its_own_end() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let tokens = Tokens(Some(file.clone()));
    assert!(tokens.read().err().unwrap().to_string().contains("token_file"));
    let read = |token: &str| {
        fs::write(&file, format!("{token}\n")).unwrap();
        tokens.read()
    };
    let first = read(&jwt(r#"{"sub":"duet-prepare","exp":4102444800}"#)).unwrap();
    assert_eq!(first.principal_name, "duet-prepare");
    assert_eq!(first.lifetime_ms, 4_102_444_800_000);
    // Renewed, and one of which nothing can be told.
    let second = read(&jwt(r#"{"sub":"other","exp":4102444801.5}"#)).unwrap();
    assert_eq!((second.principal_name.as_str(), second.lifetime_ms), ("other", 4_102_444_801_500));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let opaque = read("opaque").unwrap();
    assert!((opaque.lifetime_ms - now - 300_000).abs() < 10_000);
    for (token, says) in [
        (jwt(r#"{"exp":1000}"#), "has expired"),
        ("two words".to_owned(), "one word"),
        (String::new(), "one word"),
    ] {
        let error = read(&token).err().unwrap().to_string();
        assert!(error.contains(says), "{error}");
        assert!(token.is_empty() || !error.contains(&token), "{error}");
    }
}
