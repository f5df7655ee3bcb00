//! Duet's one binary: every service, and the commands around them.
//!
//! Everything that is wired is wired here: configuration, broker, blob store, models, health, HTTP and signals.
//! What a service does is in its own crate.

mod acls;
mod cli;
mod config;
mod dead_letters;
mod demo;
mod eval;
mod keys;
mod models;
mod output;
mod places;
mod process;
mod replay;
mod send;
mod services;
mod times;
mod tokens;
mod topics;
mod triage;
mod unseal;
mod watch;
mod why;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use cli::{Cli, Command, ConfigCommand};
use config::{Config, ConfigError, Inputs};

/// Wrong use, as distinct from a failure: exit code 2 rather than 1.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn main() -> ExitCode {
    let cli = Cli::parse();
    match start(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if output::is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            let wrong_use =
                error.chain().any(|cause| cause.is::<Usage>() || cause.is::<ConfigError>());
            ExitCode::from(if wrong_use { 2 } else { 1 })
        }
    }
}

fn start(cli: &Cli) -> Result<()> {
    // Before the configuration, whose secrets are not a decoder's.
    if let Command::DecodeWorker = cli.command {
        return Ok(duet_prepare::work()?);
    }
    let config = Config::load(Inputs::of_process(cli.file(), cli.flags())?)?;
    let log = &config.settings.log;
    let filter = log.filter.as_deref().unwrap_or(cli.default_filter());
    duet_telemetry::init(log.format, filter)
        .map_err(|error| Usage(format!("log.filter: {error}")))?;
    duet_stage::compute::configure(config.settings.runner.compute_threads);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the async runtime cannot be started")?;
    let done = runtime.block_on(run(cli, config));
    // What still runs is a blocking call that nobody waits for.
    runtime.shutdown_background();
    done
}

async fn run(cli: &Cli, config: Config) -> Result<()> {
    match &cli.command {
        Command::Demo(args) => demo::run(args, config).await,
        Command::Run(args) => process::run(&args.service, config).await,
        Command::Send(args) => send::run(args, &config).await,
        Command::Watch(args) => watch::run(args, &config).await,
        Command::Replay(args) => replay::run(args, &config).await,
        Command::Why(args) => why::run(args, &config).await,
        Command::DeadLetters(command) => dead_letters::run(command, &config).await,
        Command::Topics(command) => topics::run(command, &config).await,
        Command::Models(command) => models::run(command, &config).await,
        Command::Triage(cli::Triage::Try(args)) => triage::run(args, &config).await,
        Command::Eval(args) => eval::run(args, &config).await,
        Command::Tokens(cli::Tokens::New(args)) => tokens::new(args),
        Command::Keys(command) => keys::run(command),
        Command::Unseal(args) => unseal::run(args, &config),
        Command::Config(ConfigCommand::Check { .. }) => {
            let file = config
                .file
                .as_ref()
                .map_or("the defaults".to_owned(), |file| file.display().to_string());
            output::line(format_args!("{file}: in order"))
        }
        Command::Config(ConfigCommand::Show { .. }) => output::text(&config.show()?),
        Command::DecodeWorker => Ok(()), // see `start`
        Command::Schema => output::text(&format!("{:#}\n", duet_case::case_schema())),
    }
}
