//! Runs a whole deployment at full load for a while, and tells whether its processes' memory stays flat.
//!
//! ```text
//! make soak
//! make soak ARGS="--minutes 15 --films folder-or-archive.tar"
//! ```
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use duet_tests::{chaos::Corpus, soak};
use indicatif::{ProgressBar, ProgressStyle};

/// Runs every service at full load on a real Kafka broker, and samples memory, open files and threads of each process.
///
/// Ends with a failure where memory grows beyond the bound that is printed.
#[derive(Parser)]
#[command(after_help = "Example:\n  make soak ARGS=\"--minutes 15 --films films.tar\"")]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 15)]
    minutes: u64,
    /// A folder or tar archive of PNG and JPEG pictures to make the images from; else they are drawn.
    #[arg(long)]
    films: Option<PathBuf>,
    /// How many different films; the images are files of these.
    #[arg(long, default_value_t = 60)]
    different: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let corpus = match &arguments.films {
        Some(path) => Corpus::read(path, arguments.different)?,
        None => Corpus::drawn(arguments.different),
    };
    let time = Duration::from_secs(60 * arguments.minutes);
    let bar = ProgressBar::new(time.as_secs());
    if let Ok(style) = ProgressStyle::with_template("{elapsed_precise} {bar:30} {msg}") {
        bar.set_style(style);
    }
    let tell = |passed: Duration, ended: usize| {
        bar.set_position(passed.as_secs());
        bar.set_message(format!("{ended} images have come to their ends"));
    };
    let soaked = soak::soak(corpus, &["triage"], time, tell).await?;
    bar.finish_and_clear();
    println!("{soaked}");
    if !soaked.wrong().is_empty() {
        bail!("not everything stays as it is; see above");
    }
    Ok(())
}
