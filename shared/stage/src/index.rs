//! What is known of every recent case, read from the topics: the memory behind the gateway and the review page.
//!
//! Records of one case come over several topics and in any order. What an entry says depends only on which records
//! were seen and not on their order, and seeing one again changes nothing: the furthest state wins, and of two
//! records of the same state the later one. Bounded in cases and in bytes; the oldest go first.
//!
//! Deliberately absent: storage (the topics are that), pixels, and any search.

mod entry;
mod follow;
mod summary;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use duet_case::{Case, CaseId, Topic};
use duet_transport::Record;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::{DeadLetter, FromRecord, LetterKey, Reason, Redriven};

pub use entry::{CaseEntry, CaseState, HeldCase};
pub use summary::{Counts, DeadLetterNote, FindingNote, Show, Summary};

/// Updates that a subscriber may fall behind before it is told to read everything anew.
const UPDATES_HELD: usize = 512;
/// What an entry weighs beside its JSON.
const ENTRY_WEIGHT: usize = 2048;

/// Bounds of the index: `[index]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Cases held at most; the oldest are forgotten first.
    pub max_cases: usize,
    /// Bytes that the held cases may take, about.
    pub max_bytes: usize,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self { max_cases: 2000, max_bytes: 128 << 20 }
    }
}

/// Recent cases by id. Clones share it.
#[derive(Clone)]
pub struct CaseIndex {
    shared: Arc<Shared>,
}

struct Shared {
    config: IndexConfig,
    held: Mutex<Held>,
    updates: broadcast::Sender<Arc<Summary>>,
}

#[derive(Default)]
struct Held {
    entries: HashMap<CaseId, CaseEntry>,
    /// The same cases, oldest first.
    order: BTreeSet<(DateTime<Utc>, CaseId)>,
    bytes: usize,
}

/// What a subscriber is told.
#[derive(Debug, Clone)]
pub enum Update {
    /// One case changed.
    Case(Arc<Summary>),
    /// More changed than could be kept for this subscriber: it should read the list anew.
    Reload,
}

/// Changes as they happen.
pub struct Updates(broadcast::Receiver<Arc<Summary>>);

impl Updates {
    /// The next change; `None` when the index is gone.
    pub async fn next(&mut self) -> Option<Update> {
        match self.0.recv().await {
            Ok(summary) => Some(Update::Case(summary)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Update::Reload),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl CaseIndex {
    /// Topics whose records are Cases, and what they say of one.
    pub const CASE_TOPICS: &'static [Topic] = &[
        Topic::Prepared,
        Topic::Flagged,
        Topic::Cleared,
        Topic::OutOfScope,
        Topic::Assessed,
        Topic::Reports,
    ];

    /// An empty index. [`CaseIndex::run`] fills it.
    pub fn new(config: IndexConfig) -> Self {
        let (updates, _) = broadcast::channel(UPDATES_HELD);
        Self { shared: Arc::new(Shared { config, held: Mutex::default(), updates }) }
    }

    /// What is known of a case; `None` where it was never seen or has been forgotten.
    pub fn get(&self, id: &CaseId) -> Option<CaseEntry> {
        self.held().entries.get(id).cloned()
    }

    /// The newest cases that `keep` wants, newest first, at most `limit`.
    pub fn latest(&self, limit: usize, keep: impl Fn(&Summary) -> bool) -> Vec<Arc<Summary>> {
        let held = self.held();
        held.order
            .iter()
            .rev()
            .filter_map(|(_, id)| held.entries.get(id))
            .map(|entry| &entry.summary)
            .filter(|summary| keep(summary))
            .take(limit)
            .cloned()
            .collect()
    }

    /// How many cases are held, by state and by what the page shows together.
    pub fn counts(&self) -> Counts {
        Counts::of(self.held().entries.values().map(|entry| &*entry.summary))
    }

    /// Changes from now on.
    pub fn subscribe(&self) -> Updates {
        Updates(self.shared.updates.subscribe())
    }

    /// Notes that an image was just accepted, before any stage has seen it.
    pub fn received(&self, id: &CaseId) {
        let now = Utc::now();
        self.change(id, now, |entry| {
            entry.received_at = entry.received_at.max(Some(now));
        });
    }

    /// Takes in one record of any topic; those of `images` and `annotated` say nothing new.
    ///
    /// # Errors
    ///
    /// Where the record should be a Case and is none.
    pub fn record(&self, record: &Record) -> Result<(), Reason> {
        let place = (record.origin.partition, record.origin.offset);
        let time = record.timestamp.unwrap_or_else(Utc::now);
        if record.origin.topic == Topic::DeadLetters {
            let letter = DeadLetter::read(&record.headers);
            let (id, key) = (DeadLetter::case_of(record), LetterKey::of(record, &letter));
            self.change(&id, time, |entry| entry.add_dead_letter(key, letter, time));
            return Ok(());
        }
        if record.origin.topic == Topic::Redriven {
            let Some(redriven) = Redriven::read(record) else {
                let message = "a record in `redriven` is none of this version of Duet: only `duet dead-letters redrive` writes there";
                return Err(Reason::new("not_a_note", message));
            };
            self.change(&redriven.case, time, |entry| entry.add_redriven(&redriven));
            return Ok(());
        }
        let Some(state) = CaseState::of_topic(record.origin.topic) else {
            return Ok(());
        };
        let case = Case::from_record(record)?;
        let id = case.id.clone();
        // A copy, so that the record's own buffer, which may be a whole batch, is let go.
        let json = bytes::Bytes::copy_from_slice(&record.value);
        self.change(&id, time, |entry| entry.add_case(state, HeldCase { case, json }, place));
        Ok(())
    }

    /// Changes one entry, keeps the bounds, and tells the subscribers where something is different.
    fn change(&self, id: &CaseId, time: DateTime<Utc>, change: impl FnOnce(&mut CaseEntry)) {
        let mut held = self.held();
        let known = held.entries.remove(id);
        let before = known.as_ref().map(|entry| Arc::clone(&entry.summary));
        let mut entry = match known {
            Some(entry) => {
                held.order.remove(&(entry.since(), id.clone()));
                held.bytes = held.bytes.saturating_sub(entry.weight() + ENTRY_WEIGHT);
                entry
            }
            None => CaseEntry::new(id.clone(), time),
        };
        change(&mut entry);
        entry.updated_at = entry.updated_at.max(time);
        entry.summarize();
        let after = Arc::clone(&entry.summary);
        held.bytes += entry.weight() + ENTRY_WEIGHT;
        held.order.insert((entry.since(), id.clone()));
        held.entries.insert(id.clone(), entry);
        held.keep_within(&self.shared.config);
        if before.as_ref() != Some(&after) && held.entries.contains_key(id) {
            // Within the lock, so that subscribers hear of changes in their order. Nobody may be listening.
            let _listeners = self.shared.updates.send(after);
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every change is whole before the lock is let go, so a poisoned lock holds a sound state.
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn keep_within(&mut self, config: &IndexConfig) {
        while self.entries.len() > config.max_cases || self.bytes > config.max_bytes {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes = self.bytes.saturating_sub(entry.weight() + ENTRY_WEIGHT);
            }
        }
    }
}
