//! A queue of very large films before prepare, on a real Kafka broker and a real S3 server: what it takes of time and memory.
//!
//! ```text
//! make large ARGS="--inline 30 --referred 10"
//! ```
//!
//! All of them wait before prepare is started. Prints the peak memory of prepare and of each of its decoders, and fails where
//! prepare had more than its configuration allows, a film was lost, or a service ended by itself.
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Parser;
use duet_case::{Digest, Reference, Topic};
use duet_testkit::phantoms::{self, DicomOptions};
use duet_tests::{
    Fleet, Kafka, S3,
    mutations::{decoders, peak_kib},
};
use duet_transport::{Broker, Headers, KafkaBroker, Outgoing, Sink, Start};
use image::GrayImage;

/// A queue of very large films.
#[derive(Parser)]
struct Arguments {
    /// Films of 31 MiB, each in a record.
    #[arg(long, default_value_t = 30)]
    inline: usize,
    /// Films of 100 MB, by reference.
    #[arg(long, default_value_t = 10)]
    referred: usize,
    /// MiB that prepare may have at most, its decoders not counted.
    #[arg(long, default_value_t = 768)]
    most: u64,
    /// Seconds that all of it may take.
    #[arg(long, default_value_t = 900)]
    seconds: u64,
}

/// A film of 16-bit pixels, uncompressed; another for each `number`.
fn film(picture: &GrayImage, number: usize) -> Vec<u8> {
    let sop_instance_uid = format!("2.25.{}", 1_000_000 + number);
    phantoms::dicom(picture, &DicomOptions { sop_instance_uid, ..DicomOptions::default() })
}

fn picture(side: u32) -> GrayImage {
    let small = phantoms::chest(3, 700, 700);
    GrayImage::from_fn(side, side, |x, y| *small.get_pixel(x * 700 / side, y * 700 / side))
}

async fn send(sink: &dyn Sink, headers: Headers, value: Bytes) -> Result<()> {
    sink.send(Outgoing { topic: Topic::Images, key: None, headers, value }).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let config = Kafka::config()?;
    let broker = KafkaBroker::connect(&config).await?;
    broker.create_topics().await?;
    let folder = tempfile::tempdir()?;
    let s3 = S3::start(&folder.path().join("s3")).await?;
    let mut fleet = Fleet::new(&config, folder.path())?;
    fleet.set_variables(s3.variables());
    let sink = broker.sink().await?;
    let inbox = s3.objects().join(Reference::INBOX);
    fs::create_dir_all(&inbox)?;

    let total = arguments.inline + arguments.referred;
    let (small, large) = (picture(4_060), picture(7_080));
    let mut bytes = 0;
    // In turn, so that both kinds wait together on every partition.
    for number in 0..total {
        let is_large =
            number * arguments.referred / total != (number + 1) * arguments.referred / total;
        let film = film(if is_large { &large } else { &small }, number);
        bytes += film.len();
        if is_large {
            let reference = Reference::to(Digest::of(&film), film.len() as u64);
            fs::write(inbox.join(reference.sha256.to_string()), &film)?;
            let headers = Headers::default().with(Reference::HEADER, reference.header());
            send(&*sink, headers, Bytes::new()).await?;
        } else {
            send(&*sink, Headers::default(), film.into()).await?;
        }
    }
    drop((small, large));
    println!("{total} films wait, {:.0} MB", bytes as f64 / 1e6);

    let ends = [Topic::Prepared, Topic::OutOfScope, Topic::DeadLetters];
    let mut source = broker.tail(&ends, Start::Beginning).await?;
    let start = Instant::now();
    let prepare = fleet.start("prepare")?;
    let (mut ended, mut decoder_kib) = (BTreeMap::<&str, usize>::new(), 0);
    while ended.values().sum::<usize>() < total && start.elapsed().as_secs() < arguments.seconds {
        for record in source.poll(100, Duration::from_millis(50)).await? {
            *ended.entry(record.origin.topic.name()).or_default() += 1;
        }
        let own = decoders(&fleet).into_iter().filter_map(peak_kib).max();
        decoder_kib = decoder_kib.max(own.unwrap_or_default());
        ensure!(fleet.dead().is_empty(), "prepare ended by itself");
    }
    let seconds = start.elapsed().as_secs_f64();
    let process = fleet.process(prepare).map(|process| process.pid());
    let peak = process.and_then(peak_kib).unwrap_or_default() / 1024;
    println!("{seconds:.1} s from the start of prepare: {ended:?}");
    println!("{peak} MiB at most  prepare");
    println!("{} MiB at most  its decoders, each", decoder_kib / 1024);
    ensure!(ended.get("prepared") == Some(&total), "not every film was prepared: {ended:?}");
    ensure!(peak <= arguments.most, "prepare had {peak} MiB, more than {}", arguments.most);
    fleet.stop()?;
    Ok(())
}
