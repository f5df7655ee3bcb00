//! Which dead letters are meant.

use chrono::{DateTime, TimeDelta, Utc};

use super::Entry;
use crate::{Usage, cli, times};

/// By how much the clock of the process that gave up and the broker's may differ.
const CLOCKS: TimeDelta = TimeDelta::minutes(1);

/// What `--where` can ask for.
const KEYS: [&str; 6] = ["stage", "class", "topic", "case", "id", "redriven"];

/// Every condition has to hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    wanted: Vec<(&'static str, String)>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
}

impl Filter {
    /// # Errors
    ///
    /// Names the condition that cannot be read.
    pub(crate) fn of(which: &cli::WhichLetters) -> Result<Self, Usage> {
        let wanted = which.wanted.iter().map(|text| condition(text)).collect::<Result<_, _>>()?;
        let time = |flag: &str, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| {
                times::parse(text).map_err(|how| Usage(format!("{flag} {text:?}: {how}")))
            })
            .transpose()
        };
        let filter = Self {
            wanted,
            since: time("--since", &which.since)?,
            until: time("--until", &which.until)?,
        };
        if let (Some(since), Some(until)) = (filter.since, filter.until)
            && since >= until
        {
            return Err(Usage(format!("--until is {until}, which is not after --since {since}")));
        }
        Ok(filter)
    }

    /// The one letter of that id, or all of that case.
    pub(crate) fn named(name: &str) -> Self {
        Self { wanted: vec![("name", name.to_owned())], ..Self::default() }
    }

    /// From when on the topic has to be read.
    pub(crate) fn from(&self) -> Option<DateTime<Utc>> {
        self.since.map(|since| since - CLOCKS)
    }

    pub(crate) fn lets_through(&self, entry: &Entry) -> bool {
        let given_up = entry.letter.given_up_at().or(entry.record.timestamp);
        self.since.is_none_or(|since| given_up.is_none_or(|time| time >= since))
            && self.until.is_none_or(|until| given_up.is_none_or(|time| time < until))
            && self.wanted.iter().all(|(key, value)| holds(key, value, entry))
    }
}

fn condition(text: &str) -> Result<(&'static str, String), Usage> {
    let known = KEYS.join(", ");
    let Some((key, value)) = text.split_once('=') else {
        return Err(Usage(format!(
            "--where {text:?}: write KEY=VALUE, for instance stage=prepare; the keys are {known}"
        )));
    };
    let Some(key) = KEYS.into_iter().find(|own| *own == key) else {
        return Err(Usage(format!("--where {text:?}: the keys are {known}")));
    };
    if key == "redriven" && !["yes", "no"].contains(&value) {
        return Err(Usage(format!("--where {text:?}: redriven is yes or no")));
    }
    Ok((key, value.to_owned()))
}

fn holds(key: &str, value: &str, entry: &Entry) -> bool {
    let letter = &entry.letter;
    match key {
        "stage" => letter.stage == value,
        "class" => letter.class == value,
        "topic" => letter.topic == value,
        "case" => entry.case.as_str().starts_with(value),
        "id" => is_place(value, entry),
        "redriven" => entry.is_redriven == (value == "yes"),
        // A name: an id, where the record came from, or a case.
        _ => {
            is_place(value, entry)
                || entry.came_from() == value
                || (value.starts_with("c-") && entry.case.as_str().starts_with(value))
        }
    }
}

/// `2-17`, or with the topic's name before it.
fn is_place(text: &str, entry: &Entry) -> bool {
    let id = entry.id();
    text == id || text.strip_suffix(&id).is_some_and(|before| before.ends_with("dead-letters-"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use duet_case::{CaseId, DeadLetterHeader as Header, Topic};
    use duet_stage::DeadLetter;
    use duet_transport::{Headers, Origin, Record};

    use super::*;

    fn entry() -> Entry {
        let headers = Headers::default()
            .with(Header::ORIGINAL, "0")
            .with(Header::STAGE, "prepare")
            .with(Header::CLASS, "corrupt")
            .with(Header::TOPIC, "images")
            .with(Header::PARTITION, "0")
            .with(Header::OFFSET, "5")
            .with(Header::TIME, "2026-11-01T12:00:00.000Z");
        let record = Record {
            origin: Origin { topic: Topic::DeadLetters, partition: 2, offset: 17, epoch: 0 },
            timestamp: None,
            key: None,
            headers,
            value: Bytes::from_static(b"film"),
        };
        let letter = DeadLetter::read(&record.headers);
        Entry { case: DeadLetter::case_of(&record), letter, is_redriven: false, record }
    }

    fn filter(wanted: &[&str], since: Option<&str>, until: Option<&str>) -> Result<Filter, Usage> {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Filter::of(&cli::WhichLetters {
            wanted: wanted.iter().map(|text| (*text).to_owned()).collect(),
            since: own(since),
            until: own(until),
        })
    }

    #[test]
    fn every_condition_has_to_hold() {
        let case = format!("case={}", CaseId::of_input(b"film"));
        let no = None;
        for (wanted, since, until, passes) in [
            (&[][..], no, no, true),
            (&["stage=prepare", "class=corrupt", "topic=images", &case], no, no, true),
            (&["stage=prepare", "class=truncated"], no, no, false),
            (&["id=2-17"], no, no, true),
            (&["id=duet.dead-letters-2-17"], no, no, true),
            (&["id=12-17"], no, no, false),
            (&["redriven=no"], no, no, true),
            (&["redriven=yes"], no, no, false),
            (&[], Some("2026-11-01T12:00"), Some("2026-11-01T12:01"), true),
            (&[], Some("2026-11-01T12:01"), no, false),
            (&[], no, Some("2026-11-01T12:00"), false),
        ] {
            let filter = filter(wanted, since, until).unwrap();
            assert_eq!(filter.lets_through(&entry()), passes, "{wanted:?} {since:?} {until:?}");
        }
        for (name, passes) in
            [("2-17", true), ("images-0-5", true), ("0-5", false), ("c-", true), ("", false)]
        {
            assert_eq!(Filter::named(name).lets_through(&entry()), passes, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused_with_what_can() {
        for (wanted, since, until, says) in [
            ("stage", None, None, "stage=prepare"),
            ("stag=prepare", None, None, "stage, class"),
            ("redriven=maybe", None, None, "yes or no"),
            ("stage=x", Some("soon"), None, "--since \"soon\""),
            ("stage=x", Some("2026-11-02"), Some("2026-11-01"), "not after"),
        ] {
            let message = filter(&[wanted], since, until).unwrap_err().to_string();
            assert!(message.contains(says), "{message}");
        }
    }
}
