//! `duet dead-letters list`.

use std::{collections::BTreeMap, ops::ControlFlow};

use anyhow::Result;
use chrono::{DateTime, Utc};
use duet_stage::DeadLetter;
use duet_transport::Archive;
use serde::Serialize;

use super::{Entry, Filter, bar, sent, walk};
use crate::{cli, output};

/// Letters that are listed where nothing else is said.
const LISTED: usize = 200;

/// A line of the list.
#[derive(Serialize)]
struct Row {
    id: String,
    case: String,
    #[serde(flatten)]
    letter: DeadLetter,
    bytes: usize,
    redriven: bool,
}

impl Row {
    fn of(entry: &Entry) -> Self {
        Self {
            id: entry.id(),
            case: entry.case.to_string(),
            // The case stands beside it, also where the letter does not name it.
            letter: DeadLetter { case: None, ..entry.letter.clone() },
            bytes: entry.record.value.len(),
            redriven: entry.is_redriven,
        }
    }
}

pub(super) async fn run(
    args: &cli::ListLetters,
    filter: &Filter,
    broker: &dyn Archive,
) -> Result<()> {
    let limit = args.limit.unwrap_or(LISTED);
    let sent = sent(broker).await?;
    let bar = bar();
    // The newest ones; ordered by when they were given up.
    let mut rows: BTreeMap<(Option<DateTime<Utc>>, i32, i64), Row> = BTreeMap::new();
    let mut counts: BTreeMap<(String, String), [u64; 2]> = BTreeMap::new();
    walk(
        broker,
        filter,
        |key| sent.contains(key),
        &bar,
        async |entry| {
            let time = entry.letter.given_up_at().or(entry.record.timestamp);
            let kind = (entry.letter.stage.clone(), entry.letter.class.clone());
            let [all, again] = counts.entry(kind).or_default();
            *all += 1;
            *again += u64::from(entry.is_redriven);
            let origin = entry.record.origin;
            rows.insert((time, origin.partition, origin.offset), Row::of(&entry));
            if rows.len() > limit {
                rows.pop_first();
            }
            Ok(ControlFlow::Continue(()))
        },
    )
    .await?;
    bar.finish_and_clear();
    if args.json {
        for row in rows.values() {
            output::line(format_args!("{}", serde_json::to_string(row)?))?;
        }
        return Ok(());
    }
    show(&rows.into_values().collect::<Vec<_>>(), &counts)
}

fn show(rows: &[Row], counts: &BTreeMap<(String, String), [u64; 2]>) -> Result<()> {
    let mut table = output::table(&[
        "id",
        "given up",
        "case",
        "stage",
        "class",
        "tries",
        "size",
        "sent again",
        "why",
    ]);
    for row in rows {
        table.add_row([
            row.id.clone(),
            row.letter.time.clone(),
            row.case.clone(),
            row.letter.stage.clone(),
            row.letter.class.clone(),
            row.letter.attempts.clone(),
            output::bytes(row.bytes as u64),
            if row.redriven { "yes".to_owned() } else { String::new() },
            row.letter.message.clone(),
        ]);
    }
    if !rows.is_empty() {
        output::line(format_args!("{table}"))?;
    }
    let all: u64 = counts.values().map(|[all, _]| all).sum();
    let again: u64 = counts.values().map(|[_, again]| again).sum();
    let older = match all - rows.len() as u64 {
        0 => String::new(),
        older => format!("; {older} older ones are not shown (--limit)"),
    };
    output::line(format_args!("{all} dead letters, {again} of them sent again{older}"))?;
    for ((stage, class), [all, again]) in counts {
        output::line(format_args!("  {stage}, {class}: {all}, {again} sent again"))?;
    }
    Ok(())
}
