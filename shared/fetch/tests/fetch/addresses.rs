//! Files at an address, from servers that are good, cut answers short, lie and send people elsewhere.

use std::{fs, time::Duration};

use crate::support::{Asked, Reply, Server, file, noise, partial, reply};
use duet_case::Digest;
use duet_fetch::{FetchError, Fetcher, PackageIndex, Pulled};
use duet_inference::{Origin, Pull};
use tempfile::TempDir;

/// Larger than what a connection takes up at once.
const LEN: usize = 300_000;

fn bytes() -> Vec<u8> {
    noise(LEN, 7)
}

/// A model's folder and a folder of parts.
struct Here(TempDir);

impl Here {
    fn new() -> Self {
        let here = Self(tempfile::tempdir().unwrap());
        fs::create_dir(here.0.path().join("model")).unwrap();
        here
    }

    /// A pull of `bytes()` from `path` on `server`.
    async fn pull(&self, server: &Server, path: &str) -> Result<Pulled, FetchError> {
        let url = format!("{}{path}", server.url);
        let bytes = bytes();
        let pull = Pull {
            file: "model.onnx".to_owned(),
            sha256: Digest::of(&bytes),
            bytes: bytes.len() as u64,
            origin: Origin::Url(url),
        };
        let index = PackageIndex::at(&[]).unwrap();
        let fetcher = Fetcher::new(self.0.path().join("parts"), index).unwrap();
        let fetcher = fetcher.with_pause(Duration::from_millis(1));
        fetcher.pull(&self.0.path().join("model"), &pull, &|_| {}).await
    }

    /// The names in the model's folder.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path().join("model")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn assert_in_place(&self) {
        assert_eq!(fs::read(self.0.path().join("model/model.onnx")).unwrap(), bytes());
        assert_eq!(self.names(), ["model.onnx"], "something was left behind");
        assert_eq!(fs::read_dir(self.0.path().join("parts")).unwrap().count(), 0);
    }

    /// How many bytes are kept for the next attempt.
    fn kept(&self) -> u64 {
        let entries = fs::read_dir(self.0.path().join("parts")).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }
}

#[tokio::test]
async fn a_file_takes_its_place_and_is_asked_for_once() {
    let (here, server) = (Here::new(), Server::start(|asked, _| file(asked, &bytes())));
    assert_eq!(here.pull(&server, "/m").await.unwrap(), Pulled::Fetched);
    here.assert_in_place();
    assert_eq!(here.pull(&server, "/m").await.unwrap(), Pulled::AlreadyThere);
    assert_eq!(server.asked().len(), 1);
    // Another file in its place is replaced.
    fs::write(here.0.path().join("model/model.onnx"), b"other").unwrap();
    assert_eq!(here.pull(&server, "/m").await.unwrap(), Pulled::Fetched);
    here.assert_in_place();
}

#[tokio::test]
async fn a_cut_download_goes_on_where_it_ended() {
    let (here, bytes) = (Here::new(), bytes());
    let server = Server::start(move |asked, before| match (asked.range, before) {
        (None, _) => reply(format!("200 OK\r\nContent-Length: {LEN}"), &bytes[..100_000]),
        (Some(from), 1) => partial(&bytes, from, from + 50_000),
        (Some(from), _) => partial(&bytes, from, LEN),
    });
    assert_eq!(here.pull(&server, "/m").await.unwrap(), Pulled::Fetched);
    here.assert_in_place();
    let ranges: Vec<_> = server.asked().iter().map(|asked| asked.range).collect();
    assert_eq!(ranges, [None, Some(100_000), Some(150_000)]);
}

#[tokio::test]
async fn what_came_is_kept_for_another_run() {
    let here = Here::new();
    let cut = Server::start(|_, before| match before {
        0 => reply(format!("200 OK\r\nContent-Length: {LEN}"), &bytes()[..70_000]),
        _ => reply("503 Service Unavailable\r\nContent-Length: 0", ""),
    });
    let error = here.pull(&cut, "/m").await.unwrap_err().to_string();
    assert!(error.contains("503") && error.contains("try again later"), "{error}");
    assert_eq!((here.names().len(), here.kept()), (0, 70_000));
    // Another address gives the same file.
    let good = Server::start(|asked, _| file(asked, &bytes()));
    assert_eq!(here.pull(&good, "/elsewhere").await.unwrap(), Pulled::Fetched);
    here.assert_in_place();
    assert_eq!(good.asked()[0].range, Some(70_000));
}

#[tokio::test]
async fn servers_that_do_not_know_parts_or_have_another_file_by_now_are_got_over() {
    type Answer = fn(&Asked, usize) -> Reply;
    let no_parts: Answer = |_, _| file(&Asked::default(), &bytes());
    let wrong_part: Answer = |asked, _| match asked.range {
        Some(_) => partial(&bytes(), 5, LEN),
        None => file(asked, &bytes()),
    };
    let no_such_part: Answer = |asked, _| match asked.range {
        Some(_) => reply("416 Range Not Satisfiable\r\nContent-Length: 0", ""),
        None => file(asked, &bytes()),
    };
    let parts: Answer = |asked, _| file(asked, &bytes());
    for (name, answer) in [
        ("no parts", no_parts),
        ("wrong part", wrong_part),
        ("no such part", no_such_part),
        ("what is kept is of another file", parts),
    ] {
        let here = Here::new();
        let parts = here.0.path().join("parts");
        fs::create_dir(&parts).unwrap();
        fs::write(parts.join(format!("{}.part", Digest::of(&bytes()))), noise(1000, 9)).unwrap();
        let server = Server::start(answer);
        assert_eq!(here.pull(&server, "/m").await.unwrap(), Pulled::Fetched, "{name}");
        here.assert_in_place();
        assert_eq!(server.asked()[0].range, Some(1000), "{name}");
    }
}

#[tokio::test]
async fn what_is_not_the_file_never_takes_its_place() {
    type Answer = fn(&Asked, usize) -> Reply;
    let other = Digest::of(&noise(LEN, 8)).to_string();
    let table: [(&str, Answer, usize, &[&str]); 8] = [
        (
            "another file of the same size",
            |asked, _| file(asked, &noise(LEN, 8)),
            1,
            &["refused", &other, "Nothing was put in place"],
        ),
        (
            "a larger one",
            |_, _| reply("200 OK\r\nContent-Length: 300001", noise(LEN + 1, 7)),
            1,
            &["refused", "300001 bytes", "model.toml says 300000"],
        ),
        (
            "a larger one that does not say so",
            |_, _| reply("200 OK", noise(LEN + 90_000, 7)),
            1,
            &["refused", "more than 300000"],
        ),
        (
            "a smaller one",
            |_, _| reply("200 OK\r\nContent-Length: 5", "short"),
            1,
            &["refused", "has 5 bytes"],
        ),
        (
            "one that ends early, again and again",
            |_, _| reply("200 OK", &bytes()[..9000]),
            4,
            &["broke off after 9000 of 300000"],
        ),
        (
            "nothing",
            |_, _| reply("404 Not Found\r\nContent-Length: 4", "gone"),
            1,
            &["404", "correct the address in model.toml"],
        ),
        (
            "a question for a password",
            |_, _| reply("401 Unauthorized\r\nContent-Length: 0", ""),
            1,
            &["401", "asks for rights"],
        ),
        ("no HTTP", |_, _| reply("twohundred", "x"), 4, &["look whether this machine reaches it"]),
    ];
    for (name, answer, requests, says) in table {
        let (here, server) = (Here::new(), Server::start(answer));
        let error = here.pull(&server, "/m").await.unwrap_err().to_string();
        for words in says.iter().chain([&format!("{}/m", server.url).as_str()]) {
            assert!(error.contains(words), "{name}: {words:?} is not in {error}");
        }
        assert_eq!(here.names(), [""; 0], "{name}");
        assert_eq!(server.asked().len(), requests, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again() {
    let server = Server::start(|asked, before| match before {
        0 => reply("503 Service Unavailable\r\nContent-Length: 0", ""),
        1 => reply("429 Too Many Requests\r\nContent-Length: 0", ""),
        _ => file(asked, &bytes()),
    });
    let here = Here::new();
    assert_eq!(here.pull(&server, "/m").await.unwrap(), Pulled::Fetched);
    here.assert_in_place();
}

#[tokio::test]
async fn redirects_are_followed_and_circles_are_told() {
    let server = Server::start(|asked, _| match asked.path.as_str() {
        "/m" => reply("302 Found\r\nLocation: /real?token=secret\r\nContent-Length: 0", ""),
        "/circle" => reply("302 Found\r\nLocation: /circle\r\nContent-Length: 0", ""),
        _ => file(asked, &bytes()),
    });
    let here = Here::new();
    assert_eq!(here.pull(&server, "/m").await.unwrap(), Pulled::Fetched);
    here.assert_in_place();
    let here = Here::new();
    let error = here.pull(&server, "/circle").await.unwrap_err().to_string();
    assert!(error.contains("redirected again and again"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_being_fetched_is_not_fetched_twice_at_a_time() {
    let server = Server::start(|asked, _| {
        std::thread::sleep(Duration::from_millis(400));
        file(asked, &bytes())
    });
    let here = Here::new();
    let (first, second) = tokio::join!(here.pull(&server, "/m"), here.pull(&server, "/m"));
    let mut ends = [first, second].map(|end| end.map_err(|error| error.to_string()));
    ends.sort_by_key(Result::is_err);
    assert_eq!(ends[0], Ok(Pulled::Fetched));
    assert!(ends[1].as_ref().unwrap_err().contains("another process is fetching"), "{ends:?}");
    here.assert_in_place();
}
