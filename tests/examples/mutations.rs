//! Damaged files, as many as wanted, through services on a real Kafka broker, each its own process.
//!
//! ```text
//! make mutations ARGS="--count 20000 folder-of-films/"
//! ```
//!
//! Damages drawn phantoms and the files that are named, and prints what became of each, the peak memory of every process and
//! which decoders were replaced. Fails where a file was lost, came to two ends, or a service ended by itself.
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use duet_case::Topic;
use duet_tests::{
    Fleet, Kafka, STAGES,
    mutations::{Plan, run, sources},
};
use duet_transport::{Broker, KafkaBroker};
use indicatif::{ProgressBar, ProgressStyle};

/// Damaged files through the services.
#[derive(Parser)]
struct Arguments {
    /// How many damaged files.
    #[arg(long, default_value_t = 20_000)]
    count: usize,
    /// Another seed damages them otherwise.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run prepare alone, which is the one that decodes, without the models behind it.
    #[arg(long)]
    prepare_only: bool,
    /// Take files of at most so many bytes.
    #[arg(long, default_value_t = 1 << 20)]
    most: u64,
    /// Files and folders to damage, besides drawn phantoms.
    files: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let files = sources(&arguments.files, arguments.most)?;
    let config = Kafka::config()?;
    let broker = KafkaBroker::connect(&config).await?;
    broker.create_topics().await?;
    let folder = tempfile::tempdir()?;
    let mut fleet = Fleet::new(&config, folder.path())?;
    let stages = if arguments.prepare_only { &STAGES[..1] } else { &STAGES[..] };
    for service in stages {
        fleet.start(service)?;
    }
    fleet.wait_until_ready()?;
    let ends = if arguments.prepare_only {
        vec![Topic::Prepared, Topic::OutOfScope, Topic::DeadLetters]
    } else {
        vec![Topic::Reports, Topic::DeadLetters]
    };
    println!("{} files to damage, {} times, seed {}", files.len(), arguments.count, arguments.seed);
    let plan = Plan { files, seed: arguments.seed, count: arguments.count, ends };
    let bar = ProgressBar::new(arguments.count as u64);
    bar.set_style(ProgressStyle::with_template("{bar:32} {pos}/{len} ended {per_sec} {eta}")?);
    let start = Instant::now();
    let tally = run(&plan, &broker, &fleet, |ended| bar.set_position(ended as u64)).await?;
    bar.finish_and_clear();

    let (seconds, mb) = (start.elapsed().as_secs_f64(), tally.bytes as f64 / 1e6);
    println!("{:.0} s, {mb:.0} MB, {:.1} files a second\n", seconds, plan.count as f64 / seconds);
    for (end, count) in &tally.ends {
        println!("{count:7}  {end}");
    }
    println!("{:7}  lost\n{:7}  doubled", tally.lost, tally.doubled);
    println!("{:7}  services that ended by themselves\n", tally.dead.len());
    for (name, kib) in &tally.peak_kib {
        println!("{:7.1} MiB at most  {name}", *kib as f64 / 1024.0);
    }
    println!("decoders replaced: {:?}", tally.restarts);
    ensure!(tally.dead.is_empty(), "ended by themselves: {:?}", tally.dead);
    ensure!(tally.lost == 0 && tally.doubled == 0, "files were lost or doubled");
    fleet.stop()?;
    Ok(())
}
