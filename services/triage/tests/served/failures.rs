//! Each way in which a served generalist fails, one row: the image is flagged, and the reason counted.

use std::time::Duration;

use duet_case::{Decision, Topic};
use duet_inference::FailureKind;
use serde_json::{Value, json};

use super::{
    FAILING, Fixture, KEY, counted,
    server::{GOOD, Reply, Server, completion},
};

/// What comes of a row.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Flagged for this reason.
    Flagged(FailureKind),
    /// Answered, perhaps at the second attempt; and as these films are, cleared.
    Answered,
}

struct Row {
    name: &'static str,
    replies: Vec<Reply>,
    end: End,
    /// Of the first attempt, where there was a second.
    retried: Option<FailureKind>,
    /// Requests that the server got.
    requests: usize,
    deadline_ms: u64,
}

fn row(name: &'static str, replies: Vec<Reply>, end: End) -> Row {
    Row { name, replies, end, retried: None, requests: 1, deadline_ms: 20_000 }
}

impl Row {
    fn again(self, why: FailureKind, requests: usize) -> Self {
        Self { retried: Some(why), requests, ..self }
    }

    fn within(self, deadline_ms: u64) -> Self {
        Self { deadline_ms, ..self }
    }
}

/// A good completion with something else in it.
fn with(pointer: &str, value: Value) -> Vec<Reply> {
    let mut answer = completion(GOOD);
    *answer.pointer_mut(pointer).unwrap() = value;
    vec![Reply::json(200, &answer)]
}

fn status(code: u16) -> Vec<Reply> {
    vec![Reply::json(code, &json!({"error": {"message": "as told, DOE^JANE"}}))]
}

fn http(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn rows() -> Vec<Row> {
    use End::{Answered, Flagged};
    use FailureKind::*;

    let chat = |text: &str| vec![Reply::chat(text)];
    let whole = serde_json::to_string(&completion(GOOD)).unwrap();
    let limited = |seconds: &str| {
        Reply::Whole(429, vec![("retry-after", seconds.to_owned())], b"{}".to_vec())
    };
    let mut twice = completion(GOOD);
    let choice = twice["choices"][0].clone();
    twice["choices"].as_array_mut().unwrap().push(choice);
    let large = "x".repeat(2 << 20);
    let pause = Duration::from_millis(20);
    vec![
        row("a good answer", chat(GOOD), Answered),
        row("thoughts before it", chat(&format!("<think>A film?\nYes.</think>\n{GOOD}")), Answered),
        row("a code fence", chat(&format!("```json\n{GOOD}\n```")), Answered),
        row("prose before it", chat(&format!("Of course! {GOOD}")), Flagged(NotSchema)),
        row("prose behind it", chat(&format!("{GOOD} DOE^JANE")), Flagged(NotSchema)),
        row("prose alone", chat("It is a chest film of DOE^JANE."), Flagged(NotSchema)),
        row("thoughts without an end", chat(&format!("<think>{GOOD}")), Flagged(NotSchema)),
        row("a refusal in prose", chat("I'm sorry, I can't assist with that."), Flagged(NotSchema)),
        row(
            "a refusal",
            with("/choices/0/message", json!({"refusal": "No.", "content": null})),
            Flagged(Refusal),
        ),
        row(
            "a filter",
            with("/choices/0/finish_reason", json!("content_filter")),
            Flagged(Refusal),
        ),
        row(
            "finish_reason length",
            with("/choices/0/finish_reason", json!("length")),
            Flagged(CutOff),
        ),
        row("no finish_reason", with("/choices/0/finish_reason", json!(null)), Flagged(CutOff)),
        row("not the schema", chat(r#"{"finding":"none"}"#), Flagged(NotSchema)),
        row(
            "a wrong value",
            chat(&GOOD.replace("\"routine\"", "\"whenever\"")),
            Flagged(NotSchema),
        ),
        row("a percentage of 101", chat(&GOOD.replace("97", "101")), Flagged(NotSchema)),
        row("an answer that breaks off", chat(&GOOD[..60]), Flagged(NotSchema)),
        row("no choices", with("/choices", json!([])), Flagged(Empty)),
        row("two choices", vec![Reply::json(200, &twice)], Flagged(Malformed)),
        row("no content", with("/choices/0/message/content", json!(null)), Flagged(Empty)),
        row("blank content", with("/choices/0/message/content", json!(" \n")), Flagged(Empty)),
        row(
            "truncated JSON",
            vec![Reply::Raw(http(&whole[..whole.len() / 2]))],
            Flagged(Malformed),
        ),
        row(
            "no completion",
            vec![Reply::json(200, &json!({"detail": "hello"}))],
            Flagged(Malformed),
        ),
        row("HTML", vec![Reply::Raw(http("<html>Welcome to nginx</html>"))], Flagged(Malformed)),
        row("not UTF-8", vec![Reply::Whole(200, Vec::new(), vec![0xff; 100])], Flagged(Malformed)),
        row("a large body", vec![Reply::Raw(http(&large))], Flagged(Oversized)),
        row("a body without end", vec![Reply::Endless], Flagged(Oversized)),
        row("no answer", vec![Reply::Silence], Flagged(Timeout)).within(500),
        row("a trickled body", vec![Reply::Trickled(http(&whole), pause)], Flagged(Timeout))
            .within(700),
        row(
            "a trickled body of a known length",
            vec![Reply::Trickled(b"HTTP/1.1 ".to_vec(), pause * 20)],
            Flagged(Timeout),
        )
        .within(700),
        row("401", status(401), Flagged(Unauthorised)),
        row("403", status(403), Flagged(Unauthorised)),
        row("400", status(400), Flagged(Status)),
        row("404", status(404), Flagged(Status)),
        row("201 with a good answer", vec![Reply::json(201, &completion(GOOD))], Flagged(Status)),
        row("500 for good", status(500), Flagged(ServerError)).again(ServerError, 2),
        row("503, then an answer", [status(503), chat(GOOD)].concat(), Answered)
            .again(ServerError, 2),
        row("503, then prose", [status(503), chat("Hello.")].concat(), Flagged(NotSchema))
            .again(ServerError, 2),
        row("429 for a moment", vec![limited("0"), Reply::chat(GOOD)], Answered)
            .again(RateLimited, 2),
        row("429 for good", vec![limited("0")], Flagged(RateLimited)).again(RateLimited, 2),
        row("429 for longer than there is", vec![limited("3600")], Flagged(RateLimited)),
        row(
            "429 until a date",
            vec![limited("Wed, 21 Oct 2026 07:28:00 GMT"), Reply::chat(GOOD)],
            Answered,
        )
        .again(RateLimited, 2),
        row("a reset connection", vec![Reply::Reset], Flagged(Broken)).again(Broken, 2),
        row("a reset connection, then an answer", vec![Reply::Reset, Reply::chat(GOOD)], Answered)
            .again(Broken, 2),
        row(
            "a body that breaks off",
            vec![Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".to_vec())],
            Flagged(Broken),
        )
        .again(Broken, 2),
        row("no HTTP", vec![Reply::Raw(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())], Flagged(Broken))
            .again(Broken, 2),
    ]
}

#[tokio::test]
async fn whatever_is_no_answer_is_flagged_and_counted_by_its_reason() {
    let _alone = FAILING.lock().await;
    for row in rows() {
        let server = Server::of(row.replies.clone()).await;
        check(&row, server.url(), Some(&server)).await;
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = row("a refused connection", Vec::new(), End::Flagged(FailureKind::Unreachable))
        .again(FailureKind::Unreachable, 0);
    check(&refused, format!("http://{free}/v1"), None).await;
}

async fn check(row: &Row, url: String, server: Option<&Server>) {
    let name = row.name;
    let fixture = Fixture::new(url, |own| own.deadline_ms = row.deadline_ms);
    let count = || {
        FailureKind::ALL
            .map(|kind| [counted(kind.name(), "flagged"), counted(kind.name(), "retried")])
    };
    let before = count();
    let case = fixture.case().await;
    let (topic, section) = fixture.triaged(case).await;

    for ((kind, before), after) in FailureKind::ALL.into_iter().zip(before).zip(count()) {
        let flagged = matches!(row.end, End::Flagged(own) if own == kind);
        let wanted = [u64::from(flagged), u64::from(row.retried == Some(kind))];
        let more = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(more, wanted, "{name}: counted as {kind:?} (flagged, retried); {section:?}");
    }
    match row.end {
        End::Answered => assert_eq!(
            (topic, section.decision),
            (Topic::Cleared, Decision::Cleared),
            "{name}: {section:?}"
        ),
        End::Flagged(kind) => {
            assert_eq!((topic, section.decision), (Topic::Flagged, Decision::Flagged), "{name}");
            assert!(
                section.reasons[0].ends_with(&format!("({})", kind.name())),
                "{name}: {section:?}"
            );
        }
    }
    let written = serde_json::to_string(&section).unwrap();
    assert!(!written.contains("DOE") && !written.contains(KEY), "{name}: {written}");
    if let Some(server) = server {
        assert_eq!(server.requests().len(), row.requests, "{name}: requests");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_so_that_no_picture_goes_elsewhere() {
    let _alone = FAILING.lock().await;
    let elsewhere = Server::of(vec![Reply::chat(GOOD)]).await;
    let to = format!("{}/chat/completions", elsewhere.url());
    let redirect = Reply::Whole(307, vec![("location", to)], Vec::new());
    let server = Server::of(vec![redirect]).await;
    let fixture = Fixture::new(server.url(), |_| {});
    let (topic, _) = fixture.triaged(fixture.case().await).await;
    assert_eq!((topic, elsewhere.requests().len()), (Topic::Flagged, 0));
}
