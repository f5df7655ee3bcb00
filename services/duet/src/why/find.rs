//! Where a case stands: in `reports`, else in `dead-letters`, else in what the stages have of it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};
use duet_case::{Case, CaseId, Topic};
use duet_stage::{DeadLetter, LetterKey};
use duet_transport::{Archive, Record};

use crate::{
    Usage,
    dead_letters::{bar, sent},
    output, times,
};

/// Records asked for at once.
const AT_ONCE: usize = 500;
/// Cases that are named where a prefix fits several.
const NAMED: usize = 10;

/// The furthest first.
pub(crate) const TOPICS: [Topic; 7] = [
    Topic::Reports,
    Topic::DeadLetters,
    Topic::Assessed,
    Topic::Flagged,
    Topic::Cleared,
    Topic::OutOfScope,
    Topic::Prepared,
];

/// What there is of a case.
pub(super) struct Found {
    /// In words.
    pub(super) place: String,
    pub(super) case: Option<Case>,
    pub(super) letter: Option<Letter>,
}

/// Its latest dead letter.
pub(super) struct Letter {
    pub(super) id: String,
    pub(super) letter: DeadLetter,
    pub(super) case: CaseId,
    pub(super) is_redriven: bool,
}

/// A case by its id, or the first digits of it, and from when on it is looked for.
pub(super) struct Wanted<'a> {
    name: &'a str,
    since: Option<DateTime<Utc>>,
}

impl<'a> Wanted<'a> {
    /// # Errors
    ///
    /// Where the name is none of a case, or the time is none.
    pub(super) fn new(name: &'a str, since: Option<&str>) -> Result<Self, Usage> {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let digits = name.strip_prefix("c-");
        if !digits.is_some_and(|digits| digits.len() <= 32 && digits.bytes().all(is_hex)) {
            return Err(Usage(format!(
                "{name:?} is no case: write c- and its hexadecimal digits, or the first of them, as reports, the page and `duet send --ids` have them"
            )));
        }
        let since = since.map(|text| {
            times::parse(text).map_err(|how| Usage(format!("--since {text:?}: {how}")))
        });
        Ok(Self { name, since: since.transpose()? })
    }
}

/// The case of that id, or the only one whose id begins so.
pub(super) async fn find(broker: &dyn Archive, wanted: &Wanted<'_>) -> Result<Found> {
    let Wanted { name, since } = *wanted;
    let bar = bar();
    for topic in TOPICS {
        let mut history = broker.history(topic, since).await?;
        bar.set_length(history.progress().1);
        bar.set_message(topic.name());
        // The newest record of each case that the name fits.
        let mut fitting: BTreeMap<CaseId, Record> = BTreeMap::new();
        while let Some(records) = history.next(AT_ONCE).await? {
            for record in records {
                if let Some(id) = id_of(&record).filter(|id| id.as_str().starts_with(name)) {
                    let known = fitting.get(&id);
                    if known.is_none_or(|known| known.timestamp <= record.timestamp) {
                        fitting.insert(id, record);
                    }
                }
                if fitting.len() > NAMED {
                    break;
                }
            }
            bar.set_position(history.progress().0);
        }
        if fitting.len() > 1 {
            bar.finish_and_clear();
            let names: Vec<_> = fitting.keys().take(NAMED).map(CaseId::as_str).collect();
            bail!("{name} fits several cases: {}; write more of it", names.join(", "));
        }
        if let Some((id, record)) = fitting.pop_first() {
            bar.finish_and_clear();
            return read(broker, id, record).await;
        }
    }
    bar.finish_and_clear();
    bail!(
        "no case {name} in any topic: it was never sent here, or its records are older than the topics keep them; `duet why --case FILE` reads a Case that you kept"
    )
}

fn id_of(record: &Record) -> Option<CaseId> {
    match record.origin.topic {
        Topic::DeadLetters => Some(DeadLetter::case_of(record)),
        _ => record
            .headers
            .text("ce_subject")
            .and_then(CaseId::parse)
            .or_else(|| Case::from_json(&record.value).ok().map(|case| case.id)),
    }
}

async fn read(broker: &dyn Archive, id: CaseId, record: Record) -> Result<Found> {
    let origin = record.origin;
    let place =
        format!("{}, partition {}, offset {}", origin.topic, origin.partition, origin.offset);
    let case = match Case::from_json(&record.value) {
        Ok(case) => Some(case),
        // The file that failed, or a Case of another version.
        Err(_) if origin.topic == Topic::DeadLetters => None,
        Err(error) => {
            let at = format!("line {} column {}", error.line(), error.column());
            bail!(
                "{place}: not a Case of this version of Duet ({at}); run the version that wrote it"
            );
        }
    };
    let letter = if origin.topic == Topic::DeadLetters {
        let letter = DeadLetter::read(&record.headers);
        let is_redriven = sent(broker).await?.contains(&LetterKey::of(&record, &letter));
        let place = format!("{}-{}", origin.partition, origin.offset);
        Some(Letter { id: place, letter, case: id, is_redriven })
    } else {
        None
    };
    if case.is_none() && letter.is_some() {
        output::note(format_args!(
            "the dead letter holds the file itself: no stage made a Case of it"
        ));
    }
    Ok(Found { place, case, letter })
}
