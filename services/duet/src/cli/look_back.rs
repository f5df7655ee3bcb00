//! Commands that look back: dead letters, replays, and why.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Kafka, ModelsDir};

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// One line each, the newest last
    #[command(
        after_help = "Examples:\n  duet dead-letters list --where class=corrupt --since 2026-11-01\n  duet dead-letters list --json | jq .message"
    )]
    List(ListLetters),
    /// Why one was given up, with the key and the headers that it came with
    #[command(
        after_help = "Examples:\n  duet dead-letters show 2-17\n  duet dead-letters show c-0f3a --save film.dcm"
    )]
    Show(ShowLetter),
    /// Send the originals back to where they came from, each once, however often this is run
    #[command(
        after_help = "Examples:\n  duet dead-letters redrive --where stage=specialist --dry-run\n  duet dead-letters redrive --where id=2-17"
    )]
    Redrive(RedriveLetters),
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WhichLetters {
    /// Only these: stage, class, topic, case, id or redriven=yes|no; every condition has to hold
    #[arg(long = "where", value_name = "KEY=VALUE")]
    pub(crate) wanted: Vec<String>,
    /// Given up from then on: 2026-11-01, 2026-11-01T08:00 (UTC), or how long ago: 90m, 12h, 3d
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// Given up before then
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ListLetters {
    #[command(flatten)]
    pub(crate) which: WhichLetters,
    /// The newest so many [default: 200]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// One JSON document a line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(super) kafka: Kafka,
}

#[derive(Debug, Args)]
pub(crate) struct ShowLetter {
    /// Its id as the list has it (2-17), where the record came from (images-0-5), or a case
    #[arg(value_name = "LETTER")]
    pub(crate) letter: String,
    /// Write the original bytes into this new file; they may name a patient
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(super) kafka: Kafka,
}

#[derive(Debug, Args)]
pub(crate) struct RedriveLetters {
    #[command(flatten)]
    pub(crate) which: WhichLetters,
    /// So many at most
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Say what would be sent, and send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(super) kafka: Kafka,
}

#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// Images received from then on: 2026-11-01, 2026-11-01T08:00 (UTC), or how long ago: 90m, 12h, 3d
    #[arg(long, value_name = "TIME")]
    pub(crate) from: String,
    /// Images received before then [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<String>,
    /// In the place of the model NAME, the one in folder PATH
    #[arg(long, value_name = "NAME=PATH")]
    pub(crate) model: Vec<String>,
    /// Another operating point of a specialist's label; MODEL:LABEL where several have it
    #[arg(long, value_name = "LABEL=VALUE")]
    pub(crate) threshold: Vec<String>,
    /// Another value of a key of `triage` or `specialist`, for instance triage.clear_below=0.05
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Begin with the original files in `images`, as far as they are kept, instead of the renditions
    #[arg(long)]
    pub(crate) images: bool,
    /// Write the replayed Cases into topics of their own, duet.shadow.…; without it nothing is written but --out
    #[arg(long)]
    pub(crate) shadow: bool,
    /// Folder for replay.json, changes.csv, report.html and the pictures
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// So many images at most
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// The largest changes whose pictures are shown side by side
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) pictures: usize,
    #[command(flatten)]
    pub(super) kafka: Kafka,
    #[command(flatten)]
    pub(super) models: ModelsDir,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["case", "file"]))]
pub(crate) struct Why {
    /// The case's id, or as much of it as no other has
    #[arg(value_name = "CASE")]
    pub(crate) case: Option<String>,
    /// A Case in a file, instead of one in the topics
    #[arg(long = "case", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Look only at records from then on: 2026-11-01, or how long ago: 12h, 3d
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<String>,
    /// One JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(super) kafka: Kafka,
    #[command(flatten)]
    pub(super) models: ModelsDir,
}
