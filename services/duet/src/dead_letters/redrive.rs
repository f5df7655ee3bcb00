//! `duet dead-letters redrive`.

use std::{collections::BTreeMap, ops::ControlFlow};

use anyhow::{Context as _, Result, bail};
use duet_stage::Redrive;
use duet_transport::{Archive, Delivery, TransportError};

use super::{Entry, Filter, bar, sent, walk};
use crate::{
    cli,
    config::Config,
    output,
    process::{Signals, group_of},
};

/// Letters that are sent in one step, in number and in bytes at most.
const AT_ONCE: (usize, usize) = (100, 32 << 20);
/// Letters that cannot be sent back which are told one by one.
const FAILURES_TOLD: usize = 20;

pub(super) async fn run(
    args: &cli::RedriveLetters,
    filter: &Filter,
    config: &Config,
    broker: &dyn Archive,
) -> Result<()> {
    let limit = args.limit.unwrap_or(usize::MAX);
    if args.dry_run {
        return dry_run(filter, limit, broker).await;
    }
    let kafka = &config.settings.kafka;
    if kafka.delivery == Delivery::AtLeastOnce {
        output::note(format_args!(
            "kafka.delivery is \"at-least-once\": where this is killed between two records, the last letters may be sent twice; each bears its letter's id in the header {}",
            duet_case::REDRIVE_HEADER
        ));
    }
    let name = group_of(&kafka.topic_prefix, "redrive");
    let mut redrive = Redrive::open(broker, &name).await.map_err(explain)?;
    let mut run = Run { limit, ..Run::default() };
    let bar = bar();
    let mut stop = Signals::new()?;
    // What was sent when this began does not change by what is sent now: a letter comes up once.
    let before = redrive.sent().clone();
    let walked = walk(
        broker,
        filter,
        |key| before.contains(key),
        &bar,
        async |entry| {
            if entry.is_redriven {
                run.already += 1;
                return Ok(ControlFlow::Continue(()));
            }
            run.add(&mut redrive, &entry).await?;
            bar.set_message(format!("{} sent again", run.sent));
            let is_stopped = futures::FutureExt::now_or_never(stop.next()).is_some();
            Ok(if is_stopped || run.taken >= run.limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        },
    );
    let walked = walked.await;
    let last = match walked {
        Ok(()) => run.send(&mut redrive).await,
        Err(error) => Err(error),
    };
    bar.finish_and_clear();
    run.tell()?;
    last?;
    match run.failed.len() {
        0 => Ok(()),
        count => bail!("{count} dead letters were not sent again"),
    }
}

/// What a run has come to.
#[derive(Default)]
struct Run {
    limit: usize,
    /// Letters that were added to a step.
    taken: usize,
    /// Letters of steps that are over.
    sent: usize,
    /// Letters that another run had sent.
    already: u64,
    /// By where they went, the stage that had given up, and the class.
    kinds: BTreeMap<[String; 3], u64>,
    failed: Vec<String>,
}

impl Run {
    async fn add(&mut self, redrive: &mut Redrive, entry: &Entry) -> Result<()> {
        let waiting = match redrive.add(&entry.record) {
            Ok(waiting) => waiting,
            Err(no_way) => {
                self.failed.push(format!("{}: {no_way}", entry.id()));
                return Ok(());
            }
        };
        self.taken += 1;
        let letter = &entry.letter;
        let kind = [letter.topic.clone(), letter.stage.clone(), letter.class.clone()];
        *self.kinds.entry(kind).or_default() += 1;
        if self.taken - self.sent >= AT_ONCE.0 || waiting >= AT_ONCE.1 {
            self.send(redrive).await?;
        }
        Ok(())
    }

    async fn send(&mut self, redrive: &mut Redrive) -> Result<()> {
        self.sent += redrive.send().await.map_err(explain)?;
        Ok(())
    }

    fn tell(&self) -> Result<()> {
        output::line(format_args!("{} dead letters sent again", self.sent))?;
        if self.sent == self.taken {
            for ([topic, stage, class], count) in &self.kinds {
                output::line(format_args!(
                    "  {count} into {topic}, given up by {stage} as {class}"
                ))?;
            }
        }
        if self.already > 0 {
            output::line(format_args!("{} had been sent again before", self.already))?;
        }
        for failed in self.failed.iter().take(FAILURES_TOLD) {
            output::note(format_args!("not sent again: {failed}"));
        }
        Ok(())
    }
}

fn explain(error: TransportError) -> anyhow::Error {
    let words = match &error {
        TransportError::Fenced { .. } => {
            "another `duet dead-letters redrive` took over; what was not sent here it sends, where its conditions say so"
        }
        _ => "run it again: what was sent is not sent twice",
    };
    anyhow::Error::new(error).context(words)
}

async fn dry_run(filter: &Filter, limit: usize, broker: &dyn Archive) -> Result<()> {
    let before = sent(broker).await?;
    let bar = bar();
    let mut kinds: BTreeMap<[String; 3], u64> = BTreeMap::new();
    let mut count = 0;
    walk(
        broker,
        filter,
        |key| before.contains(key),
        &bar,
        async |entry| {
            if !entry.is_redriven {
                let letter = entry.letter;
                *kinds.entry([letter.topic, letter.stage, letter.class]).or_default() += 1;
                count += 1;
            }
            Ok(if count >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        },
    )
    .await
    .context("nothing was sent")?;
    bar.finish_and_clear();
    output::line(format_args!("{count} dead letters would be sent again"))?;
    for ([topic, stage, class], count) in &kinds {
        output::line(format_args!("  {count} into {topic}, given up by {stage} as {class}"))?;
    }
    Ok(())
}
