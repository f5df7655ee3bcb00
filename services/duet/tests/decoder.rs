//! The processes that decode, as the binary runs them: what a file can do to them, and what it cannot do to anybody else.

// Clippy takes the helpers of an integration test for product code; here too a panic is a failed test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_imaging::{Limits, Prepared};
use duet_prepare::{Decoder, DecoderConfig, DecoderPool, InProcess, Launch};
use duet_stage::{Reason, Setback};
use duet_telemetry::{Health, metrics};
use duet_testkit::{
    bad::bad_inputs,
    phantoms::{self, DicomOptions, Syntax},
};
use tokio_util::sync::CancellationToken;

fn launch() -> Launch {
    let program = env!("CARGO_BIN_EXE_duet").into();
    Launch { program, arguments: vec!["decode-worker".to_owned()] }
}

struct Pool {
    pool: Arc<DecoderPool>,
    health: Health,
    shutdown: CancellationToken,
}

fn pool(launch: Launch, config: DecoderConfig) -> Pool {
    let (health, shutdown) = (Health::default(), CancellationToken::new());
    let item = health.item("decoder", "not started");
    let pool = DecoderPool::start(launch, config, Limits::default(), item, shutdown.clone());
    Pool { pool, health, shutdown }
}

/// One process, so that what a file does to it is seen by the next.
fn one(memory_mib: u64, time_limit_ms: u64) -> Pool {
    pool(launch(), DecoderConfig { workers: 1, memory_mib, time_limit_ms })
}

impl Pool {
    async fn decode(&self, file: Vec<u8>) -> Result<Prepared, Setback> {
        self.pool.decode(Bytes::from(file)).await
    }

    async fn refused(&self, file: Vec<u8>) -> Reason {
        match self.decode(file).await {
            Err(Setback::Reject(reason)) => reason,
            other => panic!("{}", told(&other)),
        }
    }

    /// Decodes a film; the one process is sent those signals while it has it.
    async fn signalled_at_work(&self, signals: &[&str]) -> Result<Prepared, Setback> {
        let child = only_child();
        // It stands still before it is given the film, and has it once the pool was asked.
        signal(child, "-STOP");
        let mut decoding = self.pool.decode(film().into());
        assert!(futures::poll!(&mut decoding).is_pending());
        for own in signals {
            signal(child, own);
        }
        decoding.await
    }

    async fn assert_lives(&self) {
        let read = self.decode(film()).await;
        assert!(matches!(read, Ok(Prepared::Picture { .. })), "{}", told(&read));
        assert!(self.health.missing().is_empty(), "{:?}", self.health.missing());
    }
}

/// Without the picture.
fn told(end: &Result<Prepared, Setback>) -> String {
    end.as_ref().map_or_else(|setback| format!("{setback:?}"), |_| "read".to_owned())
}

fn film() -> Vec<u8> {
    phantoms::dicom(&phantoms::chest(1, 300, 280), &DicomOptions::default())
}

/// Nine million pixels: 18 MB that a deflated file holds in some kilobytes.
fn vast(syntax: Syntax) -> Vec<u8> {
    let options = DicomOptions { syntax, bits: 16, ..DicomOptions::default() };
    phantoms::dicom(&image::GrayImage::new(3000, 3000), &options)
}

fn children() -> Vec<u32> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let (state, parent) = (fields.next()?, fields.next()?);
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (state != "Z" && parent == own && line.contains("decode-worker")).then_some(pid)
    });
    processes.collect()
}

fn only_child() -> u32 {
    let children = children();
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// Waits for what has to come true soon.
async fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn restarts(reason: &str) -> u64 {
    metrics().decoder_restarts.with_label_values(&[reason]).get()
}

/// One test, since they count this process's children and its metrics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_file_does_to_its_decoder_it_does_to_nobody_else() {
    by_hand_it_says_what_it_is();
    an_orphan_ends_even_with_a_file_in_hand();
    says_what_the_decoder_in_process_says().await;
    memory().await;
    time().await;
    crashes().await;
    killed().await;
    has_nothing_of_ours().await;
    cannot_be_started().await;
}

async fn says_what_the_decoder_in_process_says() {
    let pool = pool(launch(), DecoderConfig { workers: 2, ..DecoderConfig::default() });
    let inside = InProcess::new(Limits::default());
    let films = [phantoms::png16(&phantoms::chest(3, 200, 210)), film()];
    let bad = bad_inputs();
    for file in films.into_iter().chain(bad.iter().map(|input| input.bytes.clone())) {
        let (own, other) = (inside.decode(file.clone().into()).await, pool.decode(file).await);
        match (own, other) {
            (
                Ok(Prepared::Picture { source, rendition_png, window, scale, .. }),
                Ok(Prepared::Picture { source: s, rendition_png: r, window: w, scale: c, .. }),
            ) => {
                assert_eq!((source, rendition_png, window), (s, r, w));
                // Numbers went through JSON.
                assert!(scale.iter().zip(c).all(|(own, other)| (own - other).abs() < 1e-12));
            }
            (
                Ok(Prepared::NoPixels { source, reason, .. }),
                Ok(Prepared::NoPixels { source: s, reason: r, .. }),
            ) => assert_eq!((source, reason), (s, r)),
            (Err(own), Err(other)) => assert_eq!(own, other),
            (own, other) => panic!("{} in process, {} outside", told(&own), told(&other)),
        }
    }
    assert_eq!(children().len(), 2);
    assert_eq!(metrics().decoder_workers.get(), 2.0);
    drop(pool);
    soon("children that outlive their pool", || children().is_empty()).await;
}

async fn memory() {
    // The inflater is refused memory and says so; who reads a file of that size ends.
    for (memory_mib, syntax, ended) in [(40, Syntax::Deflated, 0), (20, Syntax::Explicit, 1)] {
        let pool = one(memory_mib, 60_000);
        let reason = pool.refused(vast(syntax)).await;
        assert_eq!(reason.class, "decoder_memory", "{}", reason.message);
        let words = format!("{memory_mib} MiB of memory (prepare.decoder.memory_mib)");
        assert!(reason.message.contains(&words), "{}", reason.message);
        assert_eq!(restarts("memory"), ended);
        pool.assert_lives().await;
    }
}

async fn time() {
    let pool = one(1024, 20);
    let start = Instant::now();
    let reason = pool.refused(vast(Syntax::Deflated)).await;
    assert_eq!(reason.class, "decoder_timeout", "{}", reason.message);
    assert!(reason.message.contains("20 ms (prepare.decoder.time_limit_ms)"));
    assert!(start.elapsed() < Duration::from_secs(30));
    assert_eq!(restarts("timeout"), 1);
    drop(pool);
    one(1024, 60_000).assert_lives().await;
}

async fn crashes() {
    let pool = one(1024, 60_000);
    pool.assert_lives().await;
    let ended = pool.signalled_at_work(&["-ABRT", "-CONT"]).await;
    let Err(Setback::Reject(reason)) = ended else { panic!("{}", told(&ended)) };
    assert_eq!(reason.class, "decoder_crashed");
    assert!(reason.message.contains("signal 6"), "{}", reason.message);
    pool.assert_lives().await;
}

async fn killed() {
    let pool = one(1024, 60_000);
    pool.assert_lives().await;
    let ended = pool.signalled_at_work(&["-KILL"]).await;
    let Err(Setback::Retry(reason)) = ended else { panic!("{}", told(&ended)) };
    assert_eq!(reason.class, "decoder_killed");
    // One that ends while it has no file costs none.
    pool.assert_lives().await;
    let child = only_child();
    signal(child, "-KILL");
    soon("a killed process", || !children().contains(&child)).await;
    let before = restarts("idle");
    pool.assert_lives().await;
    assert_eq!(restarts("idle"), before + 1);
}

async fn has_nothing_of_ours() {
    // Descriptor 7 is inherited, as librdkafka's pipes are.
    let script = r#"exec 7</dev/null; exec "$0" decode-worker"#;
    let launch = Launch {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into(), env!("CARGO_BIN_EXE_duet").into()],
    };
    let config = DecoderConfig { workers: 1, memory_mib: 700, time_limit_ms: 60_000 };
    let pool = pool(launch, config);
    pool.assert_lives().await;
    let child = only_child();
    let of = |name: &str| fs::read(format!("/proc/{child}/{name}")).unwrap();
    // The shell's own.
    assert_eq!(of("environ"), b"PWD=/\0");
    let descriptors: Vec<String> = fs::read_dir(format!("/proc/{child}/fd"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(descriptors.len(), 4, "{descriptors:?}");
    let limits = String::from_utf8(of("limits")).unwrap();
    let of = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(of("Max data size"), (700_u64 << 20).to_string());
    assert_eq!((of("Max core file size"), of("Max file size")), ("0".into(), "0".into()));
    assert_eq!(of("Max open files"), "4");
    assert!(of("Max address space").parse::<u64>().unwrap() < 4 << 30);
    assert!(of("Max cpu time").parse::<u64>().unwrap() < 120);
}

async fn cannot_be_started() {
    let absent = Launch { program: "/absent/duet".into(), arguments: Vec::new() };
    let pool = pool(absent, DecoderConfig { workers: 2, ..DecoderConfig::default() });
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool.pool);
        async move { pool.decode(film().into()).await }
    });
    let missing = || pool.health.missing().remove("decoder").unwrap_or_default();
    soon("an unready pool", || missing().contains("/absent/duet")).await;
    assert!(missing().contains("ulimit -u"), "{}", missing());
    // Files wait, and are given back when the process stops.
    assert!(!waiting.is_finished());
    pool.shutdown.cancel();
    let Err(Setback::Retry(reason)) = waiting.await.unwrap() else { panic!("an end") };
    assert_eq!(reason.class, "decoder_unavailable");
}

fn an_orphan_ends_even_with_a_file_in_hand() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_duet"))
        .arg("decode-worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let order = serde_json::json!({
        "limits": Limits::default(), "memory_bytes": 1_u64 << 30, "cpu_seconds": 600
    });
    let mut pipe = child.stdin.take().unwrap();
    for frame in [order.to_string().into_bytes(), vast(Syntax::Deflated)] {
        pipe.write_all(&(frame.len() as u64).to_le_bytes()).unwrap();
        pipe.write_all(&frame).unwrap();
    }
    drop(pipe);
    // Its answer is larger than nobody reads; it ends all the same.
    assert!(child.wait().unwrap().success());
}

fn by_hand_it_says_what_it_is() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_duet")).arg("decode-worker").stdin(Stdio::null()).output();
    let output = output.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("duet run prepare"), "{stderr}");
}
