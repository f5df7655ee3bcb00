//! The binary as its users meet it: exit codes, messages and pipes.

// Clippy takes the helpers of an integration test for product code; here too a panic is a failed test.
#![allow(clippy::unwrap_used)]

use std::{
    io::Read as _,
    process::{Command, Output, Stdio},
};

fn duet(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duet"));
    command.args(arguments).current_dir(std::env::temp_dir());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DUET_")) {
        command.env_remove(name);
    }
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn wrong_use_and_failures_have_codes_and_words_of_their_own() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let listen = format!("--listen={taken}");
    #[rustfmt::skip]
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["run", "triage"], 2, &["a single service needs a broker", "--kafka HOST:PORT"]),
        (&["run", "triag"], 2, &["triag", "triage"]),
        (&["run", "all", "--listen", "nowhere"], 2, &["--listen", "127.0.0.1:8080"]),
        (&["--log-filter", "a=b=c", "config", "check"], 2, &["log.filter"]),
        (&["config", "check", "/absent.toml"], 2, &["/absent.toml"]),
        (&["run", "all", &listen], 1, &[&taken, "--listen"]),
        (&["run", "all", "--listen", "0.0.0.0:0"], 2, &["http.listen is 0.0.0.0:0", "http.tokens is empty", "duet tokens new", "http.behind_proxy"]),
        (&["demo", "--exit", "--listen", "[::]:0"], 2, &["http.listen is [::]:0", "http.tls_cert_file is not set"]),
        (&["tokens", "new", "--name", "RIS 1"], 2, &["--name \"RIS 1\"", "a-z"]),
        (&["tokens", "new", "--name", "ris", "--expires", "soon"], 2, &["--expires \"soon\"", "2027-01-31"]),
        (&["tokens", "new", "--name", "ris", "--expires", "2020-01-01"], 2, &["2020-01-01 is over"]),
        (&["tokens", "new", "--name", "ris", "--token-file", "/absent/x"], 1, &["--token-file /absent/x"]),
        (&["send", "/absent.dcm"], 1, &["/absent.dcm"]),
        (&["dead-letters", "list", "--where", "stag=x"], 2, &["stag=x", "stage, class"]),
        (&["dead-letters", "show", "2-17", "--kafka", "127.0.0.1:1"], 1, &["no Kafka broker answers at 127.0.0.1:1"]),
        (&["dead-letters", "redrive"], 1, &["the embedded broker", "keeps nothing between runs", "--kafka"]),
        (&["replay", "--from", "soon", "--out", "x"], 2, &["--from \"soon\"", "2026-11-01"]),
        (&["replay", "--from", "2d", "--until", "3d", "--out", "x"], 2, &["--until", "not after"]),
        (&["replay", "--from", "2d", "--set", "triage.clear_belw=1", "--out", "x"], 2, &["clear_belw"]),
        (&["replay", "--from", "2d", "--threshold", "Nothing=0.5", "--out", "x"], 2, &["Nothing", "cxr-findings:Effusion"]),
        (&["replay", "--from", "2d", "--model", "generalist=/absent", "--out", "x"], 1, &["/absent"]),
        (&["why"], 2, &["--case"]),
        (&["why", "phantom-1"], 2, &["phantom-1", "is no case"]),
        (&["why", "--case", "/absent.json"], 1, &["/absent.json"]),
        (&["models", "verify", "--models", "/absent"], 1, &["/absent"]),
        (&["topics", "describe", "--kafka", "127.0.0.1:1"], 1, &["no Kafka broker answers at 127.0.0.1:1"]),
    ];
    for (arguments, code, says) in cases {
        let (exit, _, stderr) = run(duet(arguments).env("DUET_KAFKA_REQUEST_TIMEOUT_MS", "1000"));
        assert_eq!(exit, Some(*code), "{arguments:?}: {stderr}");
        for words in *says {
            assert!(stderr.contains(words), "{arguments:?}: {words:?} is not in {stderr}");
        }
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest() {
    let (exit, _, stderr) = run(duet(&["config", "check"]).env("DUET_KAFKA_BOOTSTRP", "x:1"));
    assert_eq!(exit, Some(2));
    assert!(stderr.contains("DUET_KAFKA_BOOTSTRAP?"), "{stderr}");
}

#[test]
fn a_new_token_is_told_once_and_its_entry_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("duet.toml");
    std::fs::write(&file, "[http]\nburst = 5\n\n[log]\nformat = \"json\"\n").unwrap();
    let secret = folder.path().join("ward.token");
    let keep = ["--token-file", secret.to_str().unwrap()];
    for (name, more) in [("ris-1", &[][..]), ("ward-3", &keep)] {
        let (exit, entry, stderr) = run(duet(&["tokens", "new", "--name", name]).args(more));
        assert_eq!(exit, Some(0), "{stderr}");
        let token = entry.lines().find(|line| line.starts_with("duet_"));
        assert_eq!(token.is_some(), more.is_empty(), "{entry}");
        let entry = &entry[entry.find("[[http.tokens]]").unwrap()..];
        let before = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, format!("{before}\n{entry}")).unwrap();
    }
    let kept = std::fs::metadata(&secret).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&kept.permissions()) & 0o777, 0o600);
    let (exit, shown, stderr) = run(duet(&["config", "show"]).arg(&file));
    assert_eq!(exit, Some(0), "{stderr}");
    let token = std::fs::read_to_string(&secret).unwrap();
    assert!(shown.contains("ris-1") && shown.contains("ward-3") && !shown.contains(token.trim()));
    let (exit, again, stderr) = run(duet(&["tokens", "new", "--name", "ward-3"]).args(keep));
    assert_eq!((exit, again.as_str()), (Some(1), ""), "a token is written over: {stderr}");
}

#[test]
fn the_schema_is_printed() {
    let (exit, stdout, _) = run(&mut duet(&["schema"]));
    assert_eq!(exit, Some(0));
    assert!(
        serde_json::from_str::<serde_json::Value>(&stdout).unwrap()["properties"]["hops"]
            .is_object()
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        duet(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn the_models_of_the_repository_are_what_they_say() {
    let (exit, stdout, stderr) = run(&mut duet(&["models", "verify"]));
    assert_eq!(exit, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("generalist") && stdout.contains("cxr-findings"), "{stdout}");
}

#[test]
fn a_damaged_model_is_named_and_fails() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("cxr-findings");
    std::fs::create_dir(&model).unwrap();
    let own = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cxr-findings");
    std::fs::copy(own.join("model.toml"), model.join("model.toml")).unwrap();
    std::fs::write(model.join("model.onnx"), b"not the graph").unwrap();
    let (exit, stdout, stderr) = run(duet(&["models", "verify", "--models"]).arg(folder.path()));
    assert_eq!(exit, Some(1));
    assert!(stderr.contains("cxr-findings"), "{stderr}");
    assert!(stdout.contains("SHA-256") || stdout.contains("digest"), "{stdout}");
}

#[test]
fn the_demo_ends_well_on_phantoms_and_shows_every_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = duet(&["demo", "--exit", "--listen", "127.0.0.1:0"]);
    let (exit, stdout, stderr) =
        run(demo.env("DUET_CACHE", folder.path()).env("XDG_STATE_HOME", folder.path()));
    assert_eq!(exit, Some(0), "{stdout}{stderr}");
    assert!(stderr.contains("phantoms"), "it does not say that these are no radiographs: {stderr}");
    for name in [
        "phantom-chest-1.dcm",
        "phantom-chest-4.png",
        "phantom-chest-6.jpg",
        "7 reports, 0 dead letters",
    ] {
        assert!(stdout.contains(name), "{name} is not in\n{stdout}");
    }
    let pictures =
        stdout.lines().find_map(|line| line.strip_prefix("annotated pictures: ")).unwrap();
    assert!(std::fs::read_dir(pictures).unwrap().count() >= 6, "{pictures}");
}

#[test]
fn the_demo_takes_the_users_own_files_and_tells_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let scans = folder.path().join("scans");
    std::fs::create_dir(&scans).unwrap();
    std::fs::write(scans.join("letter.txt"), b"Dear colleague, thank you.\n").unwrap();
    let mut demo = duet(&["demo", "--exit", "--listen", "127.0.0.1:0"]);
    let (exit, stdout, stderr) = run(demo.arg(&scans).env("XDG_STATE_HOME", folder.path()));
    assert_eq!(exit, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("letter.txt") && stdout.contains("DEAD LETTER"), "{stdout}");
    assert!(stdout.contains("0 reports, 1 dead letters"), "{stdout}");
}
