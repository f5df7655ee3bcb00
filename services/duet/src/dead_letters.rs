//! `duet dead-letters`: what could not be processed, why, and sending it again.

mod filter;
mod list;
mod redrive;
mod show;

use std::{collections::HashSet, ops::ControlFlow};

use anyhow::{Context as _, Result};
use duet_case::{CaseId, Topic};
use duet_stage::{DeadLetter, LetterKey, redriven};
use duet_transport::{Archive, KafkaBroker, Record, TransportError};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{cli::DeadLetters, config::Config};
use filter::Filter;

/// Records asked for at once; each carries the whole original.
const AT_ONCE: usize = 64;

pub(crate) async fn run(command: &DeadLetters, config: &Config) -> Result<()> {
    // Refused before a cluster is asked for.
    match command {
        DeadLetters::List(args) => {
            let filter = Filter::of(&args.which)?;
            list::run(args, &filter, &connect(config).await?).await
        }
        DeadLetters::Show(args) => show::run(args, config, &connect(config).await?).await,
        DeadLetters::Redrive(args) => {
            let filter = Filter::of(&args.which)?;
            redrive::run(args, &filter, config, &connect(config).await?).await
        }
    }
}

/// The cluster whose topics are looked through by hand.
pub(crate) async fn connect(config: &Config) -> Result<KafkaBroker> {
    let connected = KafkaBroker::connect(&config.settings.kafka).await;
    if config.names_kafka() {
        return Ok(connected?);
    }
    connected.context("no cluster is named by --kafka (kafka.bootstrap, DUET_KAFKA), and the embedded broker of `duet demo` and `duet run all` keeps nothing between runs: its topics are seen on its own page alone")
}

/// A dead letter as it is looked at.
pub(crate) struct Entry {
    pub(crate) letter: DeadLetter,
    pub(crate) case: CaseId,
    pub(crate) is_redriven: bool,
    pub(crate) record: Record,
}

impl Entry {
    /// Partition and offset within `dead-letters`: the letter's name here.
    pub(crate) fn id(&self) -> String {
        format!("{}-{}", self.record.origin.partition, self.record.origin.offset)
    }

    /// Where the record that failed stands.
    pub(crate) fn came_from(&self) -> String {
        let DeadLetter { topic, partition, offset, .. } = &self.letter;
        format!("{topic}-{partition}-{offset}")
    }
}

/// What was sent again; nothing where the topic is not there yet.
pub(crate) async fn sent(broker: &dyn Archive) -> Result<HashSet<LetterKey>> {
    match redriven(broker).await {
        Ok(letters) => Ok(letters),
        Err(TransportError::UnknownTopic { .. }) => Ok(HashSet::new()),
        Err(error) => Err(error.into()),
    }
}

/// Calls `each` for every dead letter that `filter` lets through, in order within a partition, until it breaks off.
pub(crate) async fn walk(
    broker: &dyn Archive,
    filter: &Filter,
    is_redriven: impl Fn(&LetterKey) -> bool,
    bar: &ProgressBar,
    mut each: impl AsyncFnMut(Entry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut history = broker.history(Topic::DeadLetters, filter.from()).await?;
    bar.set_length(history.progress().1);
    while let Some(records) = history.next(AT_ONCE).await? {
        for record in records {
            let letter = DeadLetter::read(&record.headers);
            let is_redriven = is_redriven(&LetterKey::of(&record, &letter));
            let case = DeadLetter::case_of(&record);
            let entry = Entry { letter, case, is_redriven, record };
            if filter.lets_through(&entry) && each(entry).await?.is_break() {
                return Ok(());
            }
        }
        bar.set_position(history.progress().0);
    }
    Ok(())
}

/// A bar over what is read of a topic, where standard error is a terminal.
pub(crate) fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = "{bar:32} {pos}/{len} records read {msg} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
