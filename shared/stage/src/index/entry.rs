//! What is held of one case.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_case::{Case, CaseId, Topic};
use serde::{Deserialize, Serialize};

use super::summary::{DeadLetterNote, Summary};
use crate::{DeadLetter, LetterKey, Redriven};

/// How far a case has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaseState {
    /// Accepted; no stage has finished with it.
    Received,
    /// Decoded, de-identified and rendered.
    Prepared,
    /// Triage cleared it.
    Cleared,
    /// Nothing is looked for in it.
    OutOfScope,
    /// Waits for a specialist.
    Flagged,
    /// A specialist looked.
    Assessed,
    /// Could not be processed.
    DeadLetter,
    /// Finished.
    Reported,
}

impl CaseState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Received,
        Self::Prepared,
        Self::Cleared,
        Self::OutOfScope,
        Self::Flagged,
        Self::Assessed,
        Self::DeadLetter,
        Self::Reported,
    ];

    /// As it stands in JSON and in queries.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Prepared => "prepared",
            Self::Cleared => "cleared",
            Self::OutOfScope => "out_of_scope",
            Self::Flagged => "flagged",
            Self::Assessed => "assessed",
            Self::DeadLetter => "dead_letter",
            Self::Reported => "reported",
        }
    }

    /// What a Case in that topic has come to.
    pub(crate) const fn of_topic(topic: Topic) -> Option<Self> {
        match topic {
            Topic::Prepared => Some(Self::Prepared),
            Topic::Cleared => Some(Self::Cleared),
            Topic::OutOfScope => Some(Self::OutOfScope),
            Topic::Flagged => Some(Self::Flagged),
            Topic::Assessed => Some(Self::Assessed),
            Topic::Reports => Some(Self::Reported),
            Topic::Images | Topic::Annotated | Topic::DeadLetters | Topic::Redriven => None,
        }
    }
}

/// A Case as its topic had it.
#[derive(Debug)]
pub struct HeldCase {
    /// The Case.
    pub case: Case,
    /// Its JSON, byte for byte.
    pub json: Bytes,
}

impl HeldCase {
    /// Of two records of one state the later one counts.
    fn lateness(&self) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
        (self.case.received_at, self.case.hops.last().map(|hop| hop.started_at))
    }
}

/// Where a record stands: partition and offset.
type Place = (i32, i64);

/// What is known of one case.
#[derive(Debug, Clone)]
pub struct CaseEntry {
    /// The furthest Case that was seen, with its state.
    pub case: Option<(CaseState, Arc<HeldCase>)>,
    /// Why it could not be processed, where it could not; the latest one that was not sent again.
    pub dead_letter: Option<Arc<DeadLetter>>,
    /// The same in short, for lists.
    pub summary: Arc<Summary>,
    pub(super) received_at: Option<DateTime<Utc>>,
    pub(super) updated_at: DateTime<Utc>,
    first_seen: DateTime<Utc>,
    // By their places, so that a record that is read again after a reconnection is not counted again.
    reports: BTreeSet<Place>,
    dead_letters: BTreeMap<LetterKey, (DateTime<Utc>, Arc<DeadLetter>)>,
    redriven: BTreeSet<LetterKey>,
}

impl CaseEntry {
    pub(super) fn new(id: CaseId, time: DateTime<Utc>) -> Self {
        let summary = Summary::new(id, time);
        Self {
            case: None,
            dead_letter: None,
            summary: Arc::new(summary),
            received_at: None,
            updated_at: time,
            first_seen: time,
            reports: BTreeSet::new(),
            dead_letters: BTreeMap::new(),
            redriven: BTreeSet::new(),
        }
    }

    pub(super) fn add_case(&mut self, state: CaseState, held: HeldCase, place: Place) {
        if state == CaseState::Reported {
            self.reports.insert(place);
        }
        self.received_at = self.received_at.max(Some(held.case.received_at));
        let is_further = self
            .case
            .as_ref()
            .is_none_or(|(known, other)| (state, held.lateness()) >= (*known, other.lateness()));
        if is_further {
            self.case = Some((state, Arc::new(held)));
        }
    }

    pub(super) fn add_dead_letter(
        &mut self,
        key: LetterKey,
        letter: DeadLetter,
        time: DateTime<Utc>,
    ) {
        self.dead_letters.insert(key, (time, Arc::new(letter)));
        self.choose_dead_letter();
    }

    pub(super) fn add_redriven(&mut self, redriven: &Redriven) {
        self.redriven.insert(redriven.letter());
        self.choose_dead_letter();
    }

    fn choose_dead_letter(&mut self) {
        let latest = self.open_letters().max_by_key(|(key, (time, _))| (*time, *key));
        self.dead_letter = latest.map(|(_, (_, letter))| Arc::clone(letter));
    }

    /// The dead letters that were not sent again.
    fn open_letters(
        &self,
    ) -> impl Iterator<Item = (&LetterKey, &(DateTime<Utc>, Arc<DeadLetter>))> {
        self.dead_letters.iter().filter(|(key, _)| !self.redriven.contains(*key))
    }

    /// What lists are ordered by: when the image came in, as far as it is known.
    pub(super) fn since(&self) -> DateTime<Utc> {
        self.received_at.unwrap_or(self.first_seen)
    }

    /// Bytes that this entry holds, about: the JSON, and as much again for what was read from it.
    pub(super) fn weight(&self) -> usize {
        let json = self.case.as_ref().map_or(0, |(_, held)| held.json.len());
        let letters: usize =
            self.dead_letters.values().map(|(_, letter)| 512 + letter.message.len()).sum();
        2 * json + letters + 32 * self.reports.len() + 64 * self.redriven.len()
    }

    fn state(&self) -> CaseState {
        let case = self.case.as_ref().map_or(CaseState::Received, |(state, _)| *state);
        let dead = self.dead_letter.as_ref().map_or(CaseState::Received, |_| CaseState::DeadLetter);
        case.max(dead)
    }

    pub(super) fn summarize(&mut self) {
        let mut summary = Summary::new(self.summary.id.clone(), self.since());
        summary.updated_at = self.updated_at;
        summary.state = self.state();
        summary.reports = self.reports.len();
        summary.dead_letters = self.open_letters().count();
        summary.redriven = self.dead_letters.len() - summary.dead_letters;
        if let Some((_, held)) = &self.case {
            summary.add_case(&held.case);
        }
        if let (CaseState::DeadLetter, Some(letter)) = (summary.state, &self.dead_letter) {
            summary.dead_letter = Some(DeadLetterNote {
                stage: letter.stage.clone(),
                class: letter.class.clone(),
                message: letter.message.clone(),
            });
        }
        self.summary = Arc::new(summary);
    }
}
