//! `duet models pull` as its users meet it: from a server on this machine, through a proxy, and what services say before.

// Clippy takes the helpers of an integration test for product code; here too a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
    thread,
};

use duet_case::Digest;
use tempfile::TempDir;

/// Answers every request with `body`, and remembers the requests' first lines.
fn serve(body: Vec<u8>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            seen.lock().unwrap().push(lines.next().unwrap().unwrap());
            let _head =
                lines.take_while(|line| line.as_ref().is_ok_and(|own| !own.is_empty())).count();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // A proxy's client goes away when it hears no TLS.
            let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    (address, asked)
}

/// A folder of models with `cxr-anatomy` of this repository, whose weights are still to be pulled from `url`.
struct Models(TempDir);

impl Models {
    fn new(url: &str) -> Self {
        let here = Self(tempfile::tempdir().unwrap());
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cxr-anatomy");
        let (manifest, folder) =
            (fs::read_to_string(own.join("model.toml")).unwrap(), here.folder());
        fs::create_dir_all(&folder).unwrap();
        let bytes = weights().len();
        let pull = format!("\n[[pull]]\nfile = \"model.onnx\"\nbytes = {bytes}\nurl = \"{url}\"\n");
        fs::write(folder.join("model.toml"), manifest + &pull).unwrap();
        here
    }

    fn folder(&self) -> std::path::PathBuf {
        self.0.path().join("models/cxr-anatomy")
    }

    /// Runs duet on this folder alone.
    fn duet(
        &self,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duet"));
        command.args(arguments).current_dir(self.0.path());
        for (name, _) in std::env::vars() {
            let lower = name.to_ascii_lowercase();
            if name.starts_with("DUET_") || lower.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.env("DUET_CACHE", self.0.path().join("cache"));
        command.envs(variables.iter().copied());
        let Output { status, stdout, stderr } = command.output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }
}

fn weights() -> Vec<u8> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/cxr-anatomy/model.onnx");
    fs::read(own).unwrap()
}

#[test]
fn a_model_is_listed_refused_by_services_pulled_tried_out_and_listed_again() {
    let (address, asked) = serve(weights());
    let models = Models::new(&format!("http://{address}/a/model.onnx"));
    for command in ["list", "verify"] {
        let (exit, stdout, stderr) = models.duet(&["models", command], &[]);
        assert!(stdout.contains("duet models pull cxr-anatomy"), "{stdout}");
        // No service starts with it as it is, and verify says so.
        assert_eq!(exit, Some(i32::from(command == "verify")), "{stderr}");
    }
    let (exit, stdout, _) = models.duet(&["models", "pull", "--list"], &[]);
    assert_eq!(exit, Some(0));
    assert!(stdout.contains("not pulled") && stdout.contains(&address), "{stdout}");

    let (exit, _, stderr) = models.duet(&["run", "all", "--listen", "127.0.0.1:0"], &[]);
    assert_eq!(exit, Some(1));
    assert!(stderr.contains("cxr-anatomy is not pulled yet"), "{stderr}");
    assert!(stderr.contains("duet models pull cxr-anatomy"), "{stderr}");

    let (exit, stdout, stderr) = models.duet(&["models", "pull", "cxr-anatomy"], &[]);
    assert_eq!(exit, Some(0), "{stdout}{stderr}");
    assert!(stdout.contains("is in its place (") && stdout.contains("tried out"), "{stdout}");
    assert_eq!(fs::read(models.folder().join("model.onnx")).unwrap(), weights());

    let (exit, stdout, _) = models.duet(&["models", "pull", "cxr-anatomy"], &[]);
    assert_eq!((exit, asked.lock().unwrap().len()), (Some(0), 1));
    assert!(stdout.contains("in its place already"), "{stdout}");
    let (exit, stdout, stderr) = models.duet(&["models", "verify"], &[]);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(stdout.contains("as its manifest says"), "{stdout}");
}

#[test]
fn wrong_names_and_wrong_files_are_told_and_nothing_takes_its_place() {
    let mut other = weights();
    other[1000] ^= 1;
    let found = Digest::of(&other).to_string();
    let (address, _) = serve(other);
    let models = Models::new(&format!("http://{address}/m"));
    let plain = models.0.path().join("models/words");
    fs::create_dir(&plain).unwrap();
    fs::write(plain.join("model.toml"), "schema = 1\n").unwrap();
    #[rustfmt::skip]
    let table: &[(&[&str], i32, &[&str])] = &[
        (&["cxr-anatomy"], 1, &["cxr-anatomy is not pulled", "refused", &found, "model.toml says", "Nothing was put in place"]),
        (&["cxr-anatomi"], 2, &["no model called \"cxr-anatomi\"", "cxr-anatomy"]),
        (&["words"], 1, &["words/model.toml", "missing field"]),
        (&[], 2, &["NAME"]),
    ];
    for (names, code, says) in table {
        let (exit, _, stderr) = models.duet(&[&["models", "pull"], *names].concat(), &[]);
        assert_eq!(exit, Some(*code), "{names:?}: {stderr}");
        for words in *says {
            assert!(stderr.contains(words), "{names:?}: {words:?} is not in {stderr}");
        }
    }
    assert!(!models.folder().join("model.onnx").exists());

    // A model whose files come with it.
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let own = own.to_str().unwrap();
    let (exit, _, stderr) = models.duet(&["models", "pull", "cxr-findings", "--models", own], &[]);
    assert_eq!(exit, Some(2), "{stderr}");
    assert!(stderr.contains("cxr-findings has no [[pull]]"), "{stderr}");
}

#[test]
fn proxies_are_used() {
    let (proxy, asked) = serve(weights());
    let proxy = format!("http://{proxy}");
    let models = Models::new("http://models.invalid/m");
    let (exit, _, stderr) =
        models.duet(&["models", "pull", "cxr-anatomy"], &[("HTTP_PROXY", &proxy)]);
    assert_eq!(exit, Some(0), "{stderr}");
    assert!(asked.lock().unwrap()[0].starts_with("GET http://models.invalid/m "), "{asked:?}");

    let models = Models::new("https://models.invalid/m");
    let (exit, _, stderr) =
        models.duet(&["models", "pull", "cxr-anatomy"], &[("HTTPS_PROXY", &proxy)]);
    assert_eq!(exit, Some(1), "what answers speaks no TLS");
    assert!(stderr.contains("https://models.invalid/m"), "{stderr}");
    let asked = asked.lock().unwrap();
    assert!(asked.last().unwrap().starts_with("CONNECT models.invalid:443 "), "{asked:?}");
}
