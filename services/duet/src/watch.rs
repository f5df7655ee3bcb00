//! `duet watch`: reports and dead letters, live.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, Local, Utc};
use duet_case::{Case, Topic};
use duet_stage::DeadLetter;
use duet_transport::{Broker as _, KafkaBroker, Record, Source, Start};

use crate::{
    cli::{From, Watch},
    config::Config,
    output,
    process::Signals,
};

/// Records asked for at once.
const AT_ONCE: usize = 64;

pub(crate) async fn run(args: &Watch, config: &Config) -> Result<()> {
    let broker = KafkaBroker::connect(&config.settings.kafka).await?;
    let start = match args.from {
        From::Beginning => Start::Beginning,
        From::Now => Start::End,
    };
    let mut source = broker.tail(&[Topic::Reports, Topic::DeadLetters], start).await?;
    let mut stop = Signals::new()?;
    tokio::select! {
        done = follow(&mut *source, args) => done,
        () = stop.next() => Ok(()),
    }
}

async fn follow(source: &mut dyn Source, args: &Watch) -> Result<()> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut told = None;
    while left > 0 {
        let at_once = usize::try_from(left).unwrap_or(AT_ONCE).min(AT_ONCE);
        for record in source.poll(at_once, Duration::ZERO).await? {
            if left == 0 {
                break;
            }
            left -= 1;
            let line = if args.json { json(&record) } else { readable(&record) };
            output::line(format_args!("{line}"))?;
        }
        let problem = source.status().problem;
        if problem != told
            && let Some(problem) = &problem
        {
            output::note(format_args!("duet: {problem}"));
        }
        told = problem;
    }
    Ok(())
}

/// The Case as it is, or the dead letter as its headers describe it.
fn json(record: &Record) -> String {
    match record.origin.topic {
        Topic::DeadLetters => {
            serde_json::json!({ "dead_letter": DeadLetter::read(&record.headers) }).to_string()
        }
        _ => String::from_utf8_lossy(&record.value).into_owned(),
    }
}

fn readable(record: &Record) -> String {
    let time = clock(record.timestamp);
    if record.origin.topic == Topic::DeadLetters {
        let letter = DeadLetter::read(&record.headers);
        let id = letter.case.as_deref().unwrap_or("unknown case");
        return format!(
            "{time}  {id}  dead letter  {} ({}): {}",
            letter.class, letter.stage, letter.message
        );
    }
    match Case::from_json(&record.value) {
        Ok(case) => format!("{time}  {}  {}", case.id, in_words(&case)),
        Err(error) => {
            let place = format!("line {} column {}", error.line(), error.column());
            format!(
                "{time}  a record that is no Case of this version of Duet ({place}), offset {}",
                record.origin.offset
            )
        }
    }
}

fn clock(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(
        || "--:--:--".to_owned(),
        |time| time.with_timezone(&Local).format("%H:%M:%S").to_string(),
    )
}

/// Outcome, priority and what it rests on, in one line.
fn in_words(case: &Case) -> String {
    let outcome = case.conclusion.as_ref().map_or("unfinished", |own| own.outcome.name());
    let priority = case.triage.as_ref().map_or("-", |own| own.priority.name());
    let summary = case.conclusion.as_ref().map_or("", |own| own.summary.as_str());
    format!("{outcome:14}  {priority:9}  {summary}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use duet_case::DeadLetterHeader;
    use duet_transport::{Headers, Origin};

    use super::*;

    fn record(topic: Topic, headers: Headers, value: &'static [u8]) -> Record {
        let origin = Origin { topic, partition: 0, offset: 7, epoch: 0 };
        Record { origin, timestamp: None, key: None, headers, value: Bytes::from_static(value) }
    }

    #[test]
    fn a_dead_letter_says_why_and_shows_no_bytes() {
        let headers = Headers::default()
            .with(DeadLetterHeader::CLASS, "truncated")
            .with(DeadLetterHeader::STAGE, "prepare")
            .with(DeadLetterHeader::MESSAGE, "send it again");
        let letter = record(Topic::DeadLetters, headers, b"NAME^OF^PATIENT");
        for line in [readable(&letter), json(&letter)] {
            assert!(line.contains("truncated") && line.contains("send it again"), "{line}");
            assert!(!line.contains("PATIENT"), "{line}");
        }
    }

    #[test]
    fn what_is_no_case_is_told_and_not_quoted() {
        let line = readable(&record(Topic::Reports, Headers::default(), b"\"NAME\""));
        assert!(line.contains("offset 7") && !line.contains("NAME"), "{line}");
    }
}
