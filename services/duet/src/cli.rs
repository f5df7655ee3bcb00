//! The command line.

mod look_back;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::Flag;

pub(crate) use look_back::{
    DeadLetters, ListLetters, RedriveLetters, Replay, ShowLetter, WhichLetters, Why,
};

/// Medical images in, annotated findings out: a pipeline on Kafka. Research use only; not for diagnosis.
#[derive(Debug, Parser)]
#[command(name = "duet", version, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Examples:\n  duet demo\n  duet run all --kafka broker:9092\n  duet send --kafka broker:9092 scans/"
)]
pub(crate) struct Cli {
    /// Configuration file [default: duet.toml where there is one]
    #[arg(long, global = true, value_name = "FILE", env = "DUET_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// How log lines look
    #[arg(long, global = true, value_name = "FORMAT")]
    log: Option<Format>,
    /// Which log lines there are, for instance error,duet=debug
    #[arg(long, global = true, value_name = "FILTER")]
    log_filter: Option<String>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every service in this process on sample images and show what comes out
    #[command(after_help = "Examples:\n  duet demo\n  duet demo --exit my-scans/ film.dcm")]
    Demo(Demo),
    /// Run one service, or all of them in one process
    #[command(
        after_help = "Examples:\n  duet run all\n  duet run triage --kafka broker:9092 --listen 127.0.0.1:9102"
    )]
    Run(Run),
    /// Feed files into the pipeline, as they are
    #[command(
        after_help = "Examples:\n  duet send --kafka broker:9092 film.dcm scans/\n  duet send --ids film.png"
    )]
    Send(Send),
    /// Show reports and dead letters as they come
    #[command(
        after_help = "Examples:\n  duet watch\n  duet watch --from beginning --count 10 --json | jq .conclusion"
    )]
    Watch(Watch),
    /// What could not be processed: list it, show why, send it again
    #[command(
        subcommand,
        after_help = "Examples:\n  duet dead-letters list --kafka broker:9092 --where stage=prepare\n  duet dead-letters redrive --where class=blob_store --since 12h"
    )]
    DeadLetters(DeadLetters),
    /// Run what was reported through other models or thresholds, and say what changes
    #[command(
        after_help = "Examples:\n  duet replay --from 2026-11-01T00:00 --until 2026-11-08 --set triage.clear_below=0.05 --out figures/\n  duet replay --from 7d --model cxr-findings=./candidate --threshold Effusion=0.4 --shadow --out figures/"
    )]
    Replay(Replay),
    /// Why an image was flagged, cleared, refused or given up
    #[command(
        after_help = "Examples:\n  duet why c-0f3a5b --kafka broker:9092\n  duet why --case report.json --json | jq .questions"
    )]
    Why(Why),
    /// Create the topics, or say what is in them
    #[command(
        subcommand,
        after_help = "Examples:\n  duet topics create --kafka broker:9092\n  duet topics describe --json"
    )]
    Topics(Topics),
    /// List the models, fetch what does not come with them, or verify that each is what its manifest says
    #[command(
        subcommand,
        after_help = "Examples:\n  duet models list\n  duet models pull all-minilm-l6-v2\n  duet models verify --models ./models"
    )]
    Models(Models),
    /// Ask the generalist about images, without a pipeline
    #[command(
        subcommand,
        after_help = "Example:\n  duet triage try --prompt \"a chest X-ray with a large pleural effusion\" scans/"
    )]
    Triage(Triage),
    /// Measure a model on labelled images: metrics.json and a report page
    #[command(
        after_help = "Examples:\n  duet eval --model cxr-findings --images films.tar --labels films.csv --out figures/\n  duet eval --model cxr-anatomy --images films.tar --labels ctr.csv --out figures/\n  duet eval --triage --images mixed/ --labels scope.csv --out figures/"
    )]
    Eval(Eval),
    /// Make a token for clients of the gateway and the page
    #[command(subcommand, after_help = "Example:\n  duet tokens new --name ris-1 --may send")]
    Tokens(Tokens),
    /// Make, rotate or list the keys that identifiers are sealed with
    #[command(
        subcommand,
        after_help = "Examples:\n  duet keys new sealing.keys\n  duet keys rotate sealing.keys"
    )]
    Keys(crate::keys::Keys),
    /// Open the identifiers that are sealed in Cases, for whoever holds the keys
    #[command(
        after_help = "Examples:\n  duet unseal --keys sealing.keys report.json\n  duet watch --json --count 1 | duet unseal --keys sealing.keys -"
    )]
    Unseal(crate::unseal::Unseal),
    /// Check the configuration, or print it with where each value comes from
    #[command(
        subcommand,
        after_help = "Examples:\n  duet config check duet.toml\n  DUET_KAFKA=broker:9092 duet config show"
    )]
    Config(ConfigCommand),
    /// What `duet run prepare` starts to decode files in, under limits: not for use by hand
    #[command(
        name = DECODE_WORKER,
        hide = true,
        after_help = "Example:\n  duet run prepare    (starts as many as prepare.decoder.workers says)"
    )]
    DecodeWorker,
    /// Print the JSON Schema of a Case, the record in `reports`
    #[command(after_help = "Example:\n  duet schema > case.schema.json")]
    Schema,
}

/// The hidden command that `prepare`'s child processes run.
pub(crate) const DECODE_WORKER: &str = "decode-worker";

/// Which cluster.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Kafka {
    /// Kafka servers, with commas between [config: kafka.bootstrap]
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
}

/// Which models.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ModelsDir {
    /// Folder of models [config: models.dir]
    #[arg(long, value_name = "DIR")]
    models: Option<String>,
}

/// Where to listen.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Listen {
    /// Address and port for the page, the API and /metrics [config: http.listen]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End once every image came to its end, instead of leaving the page up
    #[arg(long)]
    pub(crate) exit: bool,
    /// Your own files and folders, instead of the samples
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    models: ModelsDir,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The service, or `all` of them in one process
    #[arg(value_parser = crate::services::parser())]
    pub(crate) service: String,
    #[command(flatten)]
    kafka: Kafka,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    models: ModelsDir,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// Files, and folders with all that is in them
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Print each file's case id and path
    #[arg(long)]
    pub(crate) ids: bool,
    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// One JSON document a line: a Case, or {"dead_letter": …}
    #[arg(long)]
    pub(crate) json: bool,
    /// Where to start
    #[arg(long, value_enum, default_value = "now")]
    pub(crate) from: From,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum From {
    /// The oldest record that is still there
    Beginning,
    /// The next one to come
    Now,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topics {
    /// Create the topics that are missing
    #[command(after_help = "Example:\n  duet topics create --kafka broker:9092")]
    Create(TopicsArgs),
    /// Say what is there under each topic's name
    #[command(after_help = "Example:\n  duet topics describe --json")]
    Describe(TopicsArgs),
    /// Print what each service has to be allowed on the cluster, and nothing more, as kafka-acls takes it
    #[command(
        after_help = "Examples:\n  duet topics acls --principal-prefix User:duet- > acls.sh\n  duet topics acls --service prepare --json"
    )]
    Acls(crate::acls::Acls),
}

#[derive(Debug, Args)]
pub(crate) struct TopicsArgs {
    /// JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    kafka: Kafka,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// What there is, and what each is for
    #[command(after_help = "Example:\n  duet models list")]
    List(ModelsDir),
    /// Load each by itself and try it out; fails where one is not what its manifest says
    #[command(after_help = "Example:\n  duet models verify --models ./models")]
    Verify(ModelsDir),
    /// Fetch a model's files that do not come with its folder, as `pull` in its model.toml says
    ///
    /// An interrupted download goes on where it ended. A file takes its place once its size and SHA-256 are those of
    /// model.toml, and not before. HTTPS_PROXY names a proxy; packages come from the index that pip uses here
    /// (PIP_INDEX_URL, PIP_CERT, or pip's configuration files).
    #[command(
        after_help = "Examples:\n  duet models pull --list\n  duet models pull all-minilm-l6-v2\n  PIP_INDEX_URL=https://mirror.example.org/simple duet models pull all-minilm-l6-v2"
    )]
    Pull(Pull),
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// The models, by the names of their folders
    #[arg(value_name = "NAME", required_unless_present = "list")]
    pub(crate) names: Vec<String>,
    /// Say what can be fetched and what of it is there, and fetch nothing
    #[arg(long, conflicts_with = "names")]
    pub(crate) list: bool,
    #[command(flatten)]
    models: ModelsDir,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Triage {
    /// Score images by prompts of your own: no training, no thresholds
    ///
    /// A score is the cosine of the image with the prompt less its cosine with the neutral prompt (--against). It lies
    /// between -2 and 2 and mostly within 0.2 of 0; above 0 the image goes better with the prompt than with the neutral
    /// one. It orders images and is no probability: compare it across images, not across prompts. A prompt works best
    /// that says what is there ("a chest X-ray with ..."); of negations it knows little.
    ///
    /// Beside the scores stands what triage decides. The text model has to be pulled once: duet models pull
    /// all-minilm-l6-v2. Files that cannot be read are told in their row, and the exit code is then 1.
    #[command(
        after_help = "Examples:\n  duet triage try --prompt \"a chest X-ray with a large pleural effusion\" film.dcm scans/\n  duet triage try --prompt \"a chest X-ray with an enlarged heart\" --against \"a chest X-ray with a heart of normal size\" --json scans/ | jq .scores"
    )]
    Try(Try),
}

#[derive(Debug, Args)]
pub(crate) struct Try {
    /// What to look for, in English; as often as you like
    #[arg(long = "prompt", value_name = "TEXT", required = true)]
    pub(crate) prompts: Vec<String>,
    /// The neutral prompt, which is taken off
    #[arg(long, value_name = "TEXT", default_value = "a normal chest X-ray")]
    pub(crate) against: String,
    /// One JSON object a line and file
    #[arg(long)]
    pub(crate) json: bool,
    /// DICOM, PNG and JPEG files, and folders with all that is in them
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    models: ModelsDir,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["model", "triage"]))]
pub(crate) struct Eval {
    /// The specialist to measure: a classifier, or a model of heart and lungs
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Measure triage: scope, abnormality, what is cleared and what is missed
    #[arg(long)]
    pub(crate) triage: bool,
    /// The images: a folder, or a .tar archive
    #[arg(long, value_name = "DIR_OR_TAR")]
    pub(crate) images: PathBuf,
    /// The truth: `file` and one of `findings` (names joined by |), `label`, `scope` (chest or other) and `ctr` (the
    /// cardiothoracic ratio); `u:` before a name is uncertain; optional `patient`, `age`, `sex`, `view`
    #[arg(long, value_name = "CSV")]
    pub(crate) labels: PathBuf,
    /// Where metrics.json and report.html go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    models: ModelsDir,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Print a new token, this once, and its entry for the configuration, which knows its SHA-256 alone
    #[command(
        after_help = "Examples:\n  duet tokens new --name ris-1 --may send\n  duet tokens new --name ward-3 --may read --expires 2027-01-31 --token-file ward-3.token >> duet.toml"
    )]
    New(NewToken),
}

#[derive(Debug, Args)]
pub(crate) struct NewToken {
    /// Its name in logs and metrics: a-z, 0-9, dot, hyphen and underscore
    #[arg(long)]
    pub(crate) name: String,
    /// What it may do; everything, where nothing is said
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) may: Vec<May>,
    /// The last day (in UTC), or an RFC 3339 time
    #[arg(long, value_name = "DAY")]
    pub(crate) expires: Option<String>,
    /// Write the token into this new file, readable by you alone, and print the entry alone
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum May {
    /// Send images
    Send,
    /// See cases and pictures, on the page too
    Read,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the configuration can be used
    #[command(after_help = "Example:\n  duet config check duet.toml")]
    Check {
        /// The file, instead of --config
        file: Option<PathBuf>,
    },
    /// Print every value as TOML, with where it comes from
    #[command(after_help = "Example:\n  duet config show > duet.toml")]
    Show {
        /// The file, instead of --config
        file: Option<PathBuf>,
    },
}

impl Cli {
    /// Flags that stand for keys of the configuration.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        let no = (None, None, None);
        let (kafka, listen, models) = match &self.command {
            Command::Demo(demo) => (None, Some(&demo.listen), Some(&demo.models)),
            Command::Run(run) => (Some(&run.kafka), Some(&run.listen), Some(&run.models)),
            Command::Send(send) => (Some(&send.kafka), None, None),
            Command::Watch(watch) => (Some(&watch.kafka), None, None),
            Command::Topics(Topics::Create(args) | Topics::Describe(args)) => {
                (Some(&args.kafka), None, None)
            }
            Command::Replay(replay) => (Some(&replay.kafka), None, Some(&replay.models)),
            Command::Why(why) => (Some(&why.kafka), None, Some(&why.models)),
            Command::DeadLetters(letters) => {
                let kafka = match letters {
                    DeadLetters::List(args) => &args.kafka,
                    DeadLetters::Show(args) => &args.kafka,
                    DeadLetters::Redrive(args) => &args.kafka,
                };
                (Some(kafka), None, None)
            }
            Command::Topics(Topics::Acls(args)) => (Some(&args.kafka), None, None),
            Command::Models(Models::List(dir) | Models::Verify(dir)) => (None, None, Some(dir)),
            Command::Models(Models::Pull(pull)) => (None, None, Some(&pull.models)),
            Command::Triage(Triage::Try(own)) => (None, None, Some(&own.models)),
            Command::Eval(eval) => (None, None, Some(&eval.models)),
            Command::Tokens(_) | Command::Config(_) | Command::DecodeWorker | Command::Schema => no,
            Command::Keys(_) | Command::Unseal(_) => no,
        };
        let log = self.log.map(|format| match format {
            Format::Text => "text".to_owned(),
            Format::Json => "json".to_owned(),
        });
        [
            ("--kafka", "kafka.bootstrap", kafka.and_then(|own| own.kafka.clone())),
            ("--listen", "http.listen", listen.and_then(|own| own.listen.clone())),
            ("--models", "models.dir", models.and_then(|own| own.models.clone())),
            ("--log", "log.format", log),
            ("--log-filter", "log.filter", self.log_filter.clone()),
        ]
        .into_iter()
        .filter_map(|(flag, key, value)| Some(Flag { flag, key, value: value? }))
        .collect()
    }

    /// The configuration file, where the command names one.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        let own = match &self.command {
            Command::Config(ConfigCommand::Check { file } | ConfigCommand::Show { file }) => {
                file.clone()
            }
            _ => None,
        };
        own.or_else(|| self.config.clone())
    }

    /// Log lines where nothing else is configured: a service tells what it does, other commands only trouble. Decoders
    /// say nothing at all: what they quote may be out of a patient's file.
    pub(crate) fn default_filter(&self) -> &'static str {
        match &self.command {
            Command::Run(_) => "error,duet=info,dicom=off,jpeg2k=off,jxl=off",
            _ => "error,duet=warn,dicom=off,jpeg2k=off,jxl=off",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn check(command: &clap::Command, path: &str) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example") && help.contains("duet "), "{path} has no example");
        for inner in command.get_subcommands() {
            check(inner, &format!("{path} {}", inner.get_name()));
        }
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        Cli::command().debug_assert();
        check(&Cli::command(), "duet");
    }
}
