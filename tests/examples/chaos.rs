//! Breaks a deployment for as long as it takes to feed it some thousand images, and reads the books afterwards.
//!
//! ```text
//! make chaos
//! make chaos ARGS="--seed 7 --images 2000 --faults 60 --films folder-or-archive.tar"
//! ```
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use duet_tests::chaos::{self, Corpus, Plan, Timeouts};
use duet_transport::Delivery;
use indicatif::{ProgressBar, ProgressStyle};

/// Breaks a deployment under load: services are killed, paused, drained and scaled, the broker is stopped and killed.
///
/// Then every topic is read anew: nothing may be lost, nothing doubled, and every report must be what it was while
/// nothing failed. A real Kafka broker and every service run as processes of their own on this machine.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  make chaos ARGS=\"--seed 7 --delivery exactly-once --films films.tar\""
)]
struct Arguments {
    /// Decides which faults strike, where and when; another one for every run where none is given.
    #[arg(long)]
    seed: Option<u64>,
    /// Images fed while faults strike.
    #[arg(long, default_value_t = 2000)]
    images: usize,
    /// Faults.
    #[arg(long, default_value_t = 60)]
    faults: usize,
    /// How the services deliver: one, or both after each other.
    #[arg(long, value_enum, default_value = "both")]
    delivery: Deliveries,
    /// A folder or tar archive of PNG and JPEG pictures to make the images from; else they are drawn.
    #[arg(long)]
    films: Option<PathBuf>,
    /// How many different films; the images are files of these.
    #[arg(long, default_value_t = 60)]
    different: usize,
    /// Give up after so many minutes, for each way of delivery.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Deliveries {
    ExactlyOnce,
    AtLeastOnce,
    Both,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let mut is_good = true;
    for (chosen, delivery) in [
        (Deliveries::ExactlyOnce, Delivery::ExactlyOnce),
        (Deliveries::AtLeastOnce, Delivery::AtLeastOnce),
    ] {
        if arguments.delivery != Deliveries::Both && arguments.delivery != chosen {
            continue;
        }
        println!("seed {seed}: the same again by --seed {seed}");
        let outcome = chaos::run(plan(&arguments, seed, delivery)?, &bar()).await?;
        println!("\n{outcome}\n");
        is_good &= outcome.is_good();
    }
    if !is_good {
        bail!("not everything is as it has to be; see above");
    }
    Ok(())
}

fn plan(arguments: &Arguments, seed: u64, delivery: Delivery) -> Result<Plan> {
    let corpus = match &arguments.films {
        Some(path) => Corpus::read(path, arguments.different)?,
        None => Corpus::drawn(arguments.different),
    };
    Ok(Plan {
        seed,
        images: arguments.images,
        faults: arguments.faults,
        corpus,
        delivery,
        timeouts: Timeouts {
            session: Duration::from_secs(6),
            transaction: Duration::from_secs(10),
        },
        further: vec!["prepare", "triage", "specialist"],
        limit: Duration::from_secs(60 * arguments.minutes),
    })
}

/// Shows how far the run is.
fn bar() -> impl Fn(&str, usize, usize) + Sync {
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} images, {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    move |words, ended, images| {
        bar.set_length(images as u64);
        bar.set_position(ended as u64);
        bar.set_message(words.to_owned());
    }
}
