//! Measures a whole deployment on this machine: a real Kafka broker, each service its own process, real images.
//!
//! ```text
//! cargo build -p duet && cargo run -p duet-tests --example throughput -- --count 200 folder-of-images/
//! ```
//!
//! Images go in as they are, as PNG and wrapped as DICOM, by turns. Prints images a second, what was lost or doubled,
//! and the CPU seconds of each stage.
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Parser;
use duet_case::{CaseId, Topic};
use duet_testkit::phantoms::{self, DicomOptions};
use duet_tests::{Ends, Fleet, Kafka, STAGES};
use duet_transport::{Broker, Headers, KafkaBroker, Outgoing};

/// Measures a whole deployment on this machine.
#[derive(Parser)]
struct Arguments {
    /// How many of the images, in the order of their names.
    #[arg(long, default_value_t = 200)]
    count: usize,
    /// Further replicas of a service, for instance `--replica triage`.
    #[arg(long)]
    replica: Vec<String>,
    /// A folder of images that the `image` crate reads.
    folder: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let images = images(&arguments)?;
    let config = Kafka::config()?;
    let broker = KafkaBroker::connect(&config).await?;
    broker.create_topics().await?;
    let folder = tempfile::tempdir()?;
    let mut fleet = Fleet::new(&config, folder.path())?;
    for service in STAGES.into_iter().chain(arguments.replica.iter().map(String::as_str)) {
        fleet.start(service)?;
    }
    let starting = Instant::now();
    fleet.wait_until_ready()?;
    println!("services ready after {:.1} s", starting.elapsed().as_secs_f64());

    let mut ends = Ends::follow(&broker).await?;
    let sink = broker.sink().await?;
    let start = Instant::now();
    for image in &images {
        let value = image.clone();
        sink.send(Outgoing { topic: Topic::Images, key: None, headers: Headers::default(), value })
            .await?;
    }
    let fed = start.elapsed();
    ends.wait_for(images.len(), Duration::from_secs(3600)).await?;
    let taken = start.elapsed();
    ends.settle().await?;
    ensure!(fleet.dead().is_empty(), "ended by themselves: {:?}", fleet.dead());
    report(&images, &ends, fed, taken);
    fleet.stop()?;
    Ok(())
}

/// JPEG, PNG and DICOM by turns.
fn images(arguments: &Arguments) -> Result<Vec<Bytes>> {
    let folder = &arguments.folder;
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("{} cannot be read", folder.display()))?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.is_file());
    files.sort();
    files.truncate(arguments.count);
    if files.is_empty() {
        bail!("{} holds no file", folder.display());
    }
    let mut images = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let bytes = std::fs::read(file)?;
        let picture = image::load_from_memory(&bytes)
            .with_context(|| format!("{} is no image", file.display()))?
            .to_luma8();
        images.push(Bytes::from(match number % 3 {
            0 => bytes,
            1 => phantoms::png8(&picture),
            _ => {
                let study_instance_uid = format!("1.2.3.{number}");
                let options = DicomOptions { study_instance_uid, ..DicomOptions::default() };
                phantoms::dicom(&picture, &options)
            }
        }));
    }
    Ok(images)
}

fn report(images: &[Bytes], ends: &Ends, fed: Duration, taken: Duration) {
    let mut expected: BTreeMap<CaseId, usize> = BTreeMap::new();
    for image in images {
        *expected.entry(CaseId::of_input(image)).or_default() += 1;
    }
    let (mut lost, mut doubled) = (0, 0);
    for (id, times) in &expected {
        let reports = ends.reports.get(id).map_or(0, Vec::len);
        let letters = ends
            .dead_letters
            .iter()
            .filter(|letter| CaseId::of_input(&letter.value) == *id)
            .count();
        lost += times.saturating_sub(reports + letters);
        doubled += (reports + letters).saturating_sub(*times);
    }
    let reports: usize = ends.reports.values().map(Vec::len).sum();
    println!("fed                {} images in {:.1} s", images.len(), fed.as_secs_f64());
    println!("reports            {reports}");
    println!("dead letters       {}", ends.dead_letters.len());
    println!("annotated          {}", ends.annotated.values().map(Vec::len).sum::<usize>());
    println!("lost, doubled      {lost}, {doubled}");
    let rate = images.len() as f64 / taken.as_secs_f64();
    println!("from first to last {:.1} s: {rate:.2} images a second", taken.as_secs_f64());
    let cases = || ends.reports.values().flatten();
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for conclusion in cases().filter_map(|case| case.conclusion.as_ref()) {
        *outcomes.entry(conclusion.outcome.name()).or_default() += 1;
    }
    println!("outcomes           {outcomes:?}");
    println!("stage        images   CPU s an image   ms a batch   images a batch");
    let stages: BTreeSet<&str> =
        cases().flat_map(|case| case.hops.iter().map(|hop| hop.stage.as_str())).collect();
    for stage in STAGES.into_iter().filter(|stage| stages.contains(stage)) {
        let hops: Vec<_> =
            cases().flat_map(|case| &case.hops).filter(|hop| hop.stage == stage).collect();
        let count = hops.len() as f64;
        let mean =
            |of: fn(&duet_case::Hop) -> f64| hops.iter().map(|hop| of(hop)).sum::<f64>() / count;
        println!(
            "{stage:12} {count:6} {:16.3} {:12.0} {:16.1}",
            mean(|hop| hop.cpu_seconds),
            mean(|hop| hop.duration_ms),
            mean(|hop| f64::from(hop.batch)),
        );
    }
}
