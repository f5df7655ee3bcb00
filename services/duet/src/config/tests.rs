use std::path::Path;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/fixtures").join(name)
}

fn load(file: Option<&str>, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Inputs {
        file: file.map(fixture),
        variables: variables.collect(),
        flags: Vec::new(),
    })
}

#[test]
fn wrong_configurations_are_refused_with_place_and_remedy() {
    /// File, variables, and what the message has to say.
    type Case<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)], &'a [&'a str]);
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        (Some("unknown_key.toml"), &[], &["unknown_key.toml:3: kafka.topic_prefx", "kafka.topic_prefix?", "unknown_key.toml:6: prepare.limits.max_frame ", "prepare.limits.max_frames?"]),
        (Some("unknown_section.toml"), &[], &["unknown_section.toml:3: trage", "did you mean triage?"]),
        (Some("section_as_key.toml"), &[], &["section_as_key.toml:1: kafka is a section", "[kafka]"]),
        (Some("wrong_type.toml"), &[], &["wrong_type.toml:2", "invalid type: string"]),
        (Some("bad_value.toml"), &[], &["bad_value.toml:2: triage.audit_rate is 1.5"]),
        (Some("bad_listen.toml"), &[], &["bad_listen.toml:2: http.listen", "127.0.0.1:8080"]),
        (Some("not_toml.toml"), &[], &["not_toml.toml:1"]),
        (Some("absent.toml"), &[], &["absent.toml: cannot be read"]),
        (None, &[("DUET_KAFKA_PARTITION", "3")], &["DUET_KAFKA_PARTITION is not known", "DUET_KAFKA_PARTITIONS?"]),
        (None, &[("DUET_KAKFA", "x:1")], &["did you mean DUET_KAFKA?"]),
        (None, &[("DUET_RUNNER_MAX_BATCH", "many")], &["DUET_RUNNER_MAX_BATCH", "whole number"]),
        (None, &[("DUET_RUNNER_MAX_BATCH", "-1")], &["DUET_RUNNER_MAX_BATCH", "-1"]),
        (None, &[("DUET_RUNNER_MAX_BATCH", "0")], &["DUET_RUNNER_MAX_BATCH: runner.max_batch is 0"]),
        (None, &[("DUET_TRIAGE_BACKEND_MAX_TOKENS", "1")], &["DUET_TRIAGE_BACKEND_MAX_TOKENS: triage.backend.max_tokens is 1: it must be from 32"]),
        (None, &[("DUET_TRIAGE_BACKEND_URL", "vllm:8000")], &["DUET_TRIAGE_BACKEND_URL: triage.backend.url", "http://127.0.0.1:8000/v1"]),
        (None, &[("DUET_KAFKA_DELIVERY", "twice")], &["DUET_KAFKA_DELIVERY", "exactly-once, at-least-once"]),
        (None, &[("DUET_KAFKA", "a:1"), ("DUET_KAFKA_BOOTSTRAP", "b:1")], &["DUET_KAFKA_BOOTSTRAP", "as DUET_KAFKA does"]),
        (None, &[("DUET_KAFKA_PROPERTIES", "security=ssl")], &["DUET_KAFKA_PROPERTIES", "TOML"]),
        (None, &[("DUET_KAFKA_PROPERTIES", "{ acks = \"0\" }")], &["kafka.properties sets \"acks\""]),
    ];
    for (file, variables, says) in cases {
        let message =
            load(*file, variables).expect_err(&format!("{file:?} {variables:?}")).to_string();
        for words in *says {
            assert!(
                message.contains(words),
                "{file:?} {variables:?}: {words:?} is not in\n{message}"
            );
        }
    }
}

#[test]
fn flags_go_before_variables_before_the_file_before_defaults() {
    let flag = Flag { flag: "--listen", key: "http.listen", value: "127.0.0.1:7002".to_owned() };
    let variables = [("DUET_HTTP_LISTEN", "127.0.0.1:7001"), ("DUET_KAFKA_PARTITIONS", "24")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let inputs = Inputs {
        file: Some(fixture("good.toml")),
        variables: variables.to_vec(),
        flags: vec![flag],
    };
    let config = Config::load(inputs).unwrap();
    assert_eq!(config.listen.unwrap().port(), 7002);
    assert_eq!(config.settings.kafka.partitions, 24);
    assert_eq!(config.settings.kafka.bootstrap, "broker:9092");
    assert_eq!(config.settings.prepare.limits.max_frames, 50);
    assert_eq!(config.settings.runner, duet_stage::RunnerConfig::default());
    assert!(config.names_kafka());
    assert!(!load(None, &[]).unwrap().names_kafka());

    let shown = config.show().unwrap();
    for line in [
        ("listen = \"127.0.0.1:7002\"", "--listen"),
        ("partitions = 24", "DUET_KAFKA_PARTITIONS"),
        ("bootstrap = \"broker:9092\"", "good.toml:2"),
        ("max_frames = 50", "good.toml:10"),
        ("max_batch = 16", "default"),
    ] {
        let found = shown.lines().find(|shown| shown.starts_with(line.0)).unwrap_or_default();
        assert!(found.ends_with(line.1), "{line:?}: {found:?}");
    }
    assert!(!shown.contains("hush"), "a secret is shown:\n{shown}");
}

#[test]
fn what_is_shown_reads_back_to_the_same() {
    let shown = load(
        None,
        &[("DUET_TRIAGE_AUDIT_RATE", "0.25"), ("DUET_SPECIALIST_MODELS", "[\"cxr-findings\"]")],
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("duet.toml");
    std::fs::write(&path, shown.show().unwrap()).unwrap();
    let again = Config::load(Inputs { file: Some(path), ..Inputs::default() }).unwrap();
    assert_eq!(again.settings, shown.settings);
    assert_eq!(again.settings.specialist.models, ["cxr-findings"]);
}

#[test]
fn variables_that_are_no_configuration_are_left_alone() {
    let others = [
        ("DUET_TEST_KAFKA", "x"),
        ("DUET_CACHE", "/c"),
        ("DUET_TRIAGE_BACKEND_API_KEY", "hush"),
        ("DUET_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("DUET_GATEWAY_PORT", "tcp://10.0.0.1:8080"),
        ("DUET_GATEWAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
    ];
    load(None, &others).unwrap();
}

/// Where a type does not take the probe's values, its keys would be missing.
#[test]
fn every_key_of_the_defaults_is_known_and_has_a_variable_of_its_own() {
    let shape = Shape::of_settings();
    let mut names: Vec<_> = shape.keys().map(|(key, _)| env::name_of(key)).collect();
    let total = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), total, "two keys share a variable");
    assert!(
        env::SHORT
            .iter()
            .all(|(short, key)| shape.kind(key).is_some() && !names.contains(&(*short).to_owned()))
    );
    fn check(shape: &Shape, outer: &str, table: &toml::Table) {
        for (name, value) in table {
            let key = if outer.is_empty() { name.clone() } else { format!("{outer}.{name}") };
            match value {
                toml::Value::Table(inner) if shape.kind(&key).is_none() => {
                    check(shape, &key, inner)
                }
                _ => assert!(shape.kind(&key).is_some(), "{key}"),
            }
        }
    }
    check(&shape, "", &toml::Table::try_from(Settings::default()).unwrap());
    for section in ["kafka", "publish", "prepare.limits"] {
        assert!(shape.is_section(section), "{section}");
    }
}

/// One row of README's table a key: `` | `kafka.bootstrap` | `"127.0.0.1:9092"` | what it is | ``.
#[test]
fn the_readme_lists_every_key_with_its_default() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let defaults = toml::Table::try_from(Settings::default()).unwrap();
    let rows: Vec<(&str, &str)> = readme
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().strip_suffix('`')?, cells.next()?.trim()))
        })
        .collect();
    let shape = Shape::of_settings();
    let mut wrong = Vec::new();
    for (key, _) in shape.keys() {
        let value = get(&defaults, key).map_or("not set".to_owned(), |value| format!("`{value}`"));
        if !rows.contains(&(key, value.as_str())) {
            wrong.push(format!("| `{key}` | {value} |"));
        }
    }
    for (key, _) in &rows {
        let section = key.split('.').next().unwrap_or_default();
        if key.contains('.') && shape.is_section(section) && shape.kind(key).is_none() {
            wrong.push(format!("no such key: {key}"));
        }
    }
    assert!(wrong.is_empty(), "README.md differs:\n{}", wrong.join("\n"));
}
