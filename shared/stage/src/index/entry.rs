//! What is held of one case, and the summary of it that lists show.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use duet_case::{BlobRef, Case, CaseId, Decision, Format, Outcome, Priority, Probability, Topic};
use serde::{Deserialize, Serialize};

use crate::DeadLetter;

/// Findings named in a summary; the Case has all of them.
const FINDINGS_SHOWN: usize = 6;

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
            Topic::Images | Topic::Annotated | Topic::DeadLetters => None,
        }
    }
}

/// What a person wants to see together. Unlike a state it outlasts the case's progress: a film that triage flagged
/// is still among the flagged once it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Show {
    /// Everything.
    All,
    /// A specialist found something.
    Findings,
    /// Triage flagged it.
    Flagged,
    /// Triage cleared it.
    Cleared,
    /// Out of scope, or no specialist reads such an image.
    NotLookedFor,
    /// Could not be processed.
    DeadLetters,
}

impl Show {
    /// Every choice.
    pub const ALL: [Self; 6] = [
        Self::All,
        Self::Findings,
        Self::Flagged,
        Self::Cleared,
        Self::NotLookedFor,
        Self::DeadLetters,
    ];

    /// Whether `summary` is among what is to be shown.
    pub fn includes(self, summary: &Summary) -> bool {
        match self {
            Self::All => true,
            Self::Findings => summary.findings_total > 0,
            Self::Flagged => summary.decision == Some(Decision::Flagged),
            Self::Cleared => summary.decision == Some(Decision::Cleared),
            Self::NotLookedFor => {
                summary.outcome == Some(Outcome::NotLookedFor)
                    || (summary.outcome.is_none() && summary.state == CaseState::OutOfScope)
            }
            Self::DeadLetters => summary.state == CaseState::DeadLetter,
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
    /// Why it could not be processed, where it could not; the latest one.
    pub dead_letter: Option<Arc<DeadLetter>>,
    /// The same in short, for lists.
    pub summary: Arc<Summary>,
    pub(super) received_at: Option<DateTime<Utc>>,
    pub(super) updated_at: DateTime<Utc>,
    first_seen: DateTime<Utc>,
    dead_at: Option<DateTime<Utc>>,
    // By their places, so that a record that is read again after a reconnection is not counted again.
    reports: BTreeSet<Place>,
    dead_letters: BTreeSet<Place>,
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
            dead_at: None,
            reports: BTreeSet::new(),
            dead_letters: BTreeSet::new(),
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
        letter: DeadLetter,
        place: Place,
        time: DateTime<Utc>,
    ) {
        self.dead_letters.insert(place);
        if self.dead_at.is_none_or(|known| time >= known) {
            self.dead_at = Some(time);
            self.dead_letter = Some(Arc::new(letter));
        }
    }

    /// What lists are ordered by: when the image came in, as far as it is known.
    pub(super) fn since(&self) -> DateTime<Utc> {
        self.received_at.unwrap_or(self.first_seen)
    }

    /// Bytes that this entry holds, about: the JSON, and as much again for what was read from it.
    pub(super) fn weight(&self) -> usize {
        let json = self.case.as_ref().map_or(0, |(_, held)| held.json.len());
        let letter = self.dead_letter.as_ref().map_or(0, |letter| letter.message.len());
        2 * json + 2 * letter + 32 * (self.reports.len() + self.dead_letters.len())
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
        summary.dead_letters = self.dead_letters.len();
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

/// One line of a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The case.
    pub id: CaseId,
    /// How far it has come.
    pub state: CaseState,
    /// When the image came in, or was first heard of.
    pub received_at: DateTime<Utc>,
    /// When something was last heard of it.
    pub updated_at: DateTime<Utc>,
    /// Reports of it: more than one where the same file was fed again.
    pub reports: usize,
    /// Dead letters of it.
    pub dead_letters: usize,
    /// Container format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// DICOM modality.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modality: Option<String>,
    /// What triage says the image is, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What triage decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// How soon a person should look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Cleared, and looked at by a specialist all the same.
    pub audit: bool,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The conclusion, or else triage's first reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The most probable findings.
    pub findings: Vec<FindingNote>,
    /// How many findings there are.
    pub findings_total: usize,
    /// The working picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rendition: Option<BlobRef>,
    /// The annotated picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotated: Option<BlobRef>,
    /// Milliseconds from the image's entry to its report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<f64>,
    /// Why it could not be processed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetterNote>,
}

/// A finding in a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FindingNote {
    /// The label.
    pub label: String,
    /// Calibrated probability.
    pub probability: Probability,
}

/// A dead letter in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeadLetterNote {
    /// The stage that gave up.
    pub stage: String,
    /// The kind of error.
    pub class: String,
    /// The error in words, with what to do.
    pub message: String,
}

impl Summary {
    fn new(id: CaseId, time: DateTime<Utc>) -> Self {
        Self {
            id,
            state: CaseState::Received,
            received_at: time,
            updated_at: time,
            reports: 0,
            dead_letters: 0,
            format: None,
            modality: None,
            kind: None,
            decision: None,
            priority: None,
            audit: false,
            outcome: None,
            text: None,
            findings: Vec::new(),
            findings_total: 0,
            rendition: None,
            annotated: None,
            elapsed_ms: None,
            dead_letter: None,
        }
    }

    fn add_case(&mut self, case: &Case) {
        self.format = Some(case.source.format);
        self.modality.clone_from(&case.source.modality);
        self.rendition = case.rendition.as_ref().map(|rendition| rendition.blob.clone());
        if let Some(triage) = &case.triage {
            self.kind = Some(triage.kind_meaning.clone());
            self.decision = Some(triage.decision);
            self.priority = Some(triage.priority);
            self.audit = triage.audit;
            self.text = triage.reasons.first().cloned();
        }
        if let Some(conclusion) = &case.conclusion {
            self.outcome = Some(conclusion.outcome);
            self.text = Some(conclusion.summary.clone());
        }
        self.findings_total = case.findings.len();
        self.findings = case
            .findings
            .iter()
            .take(FINDINGS_SHOWN)
            .map(|f| FindingNote { label: f.label.clone(), probability: f.probability })
            .collect();
        if let Some(publication) = &case.publication {
            self.annotated.clone_from(&publication.annotated);
            self.elapsed_ms = Some(case.age_ms(publication.published_at));
        }
    }
}

/// How many cases are held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By state.
    pub states: BTreeMap<CaseState, usize>,
    /// By what is shown together.
    pub show: BTreeMap<Show, usize>,
}

impl Counts {
    pub(super) fn of<'a>(summaries: impl Iterator<Item = &'a Summary>) -> Self {
        let mut counts = Self {
            states: CaseState::ALL.map(|state| (state, 0)).into(),
            show: Show::ALL.map(|show| (show, 0)).into(),
        };
        for summary in summaries {
            *counts.states.entry(summary.state).or_default() += 1;
            for show in Show::ALL.into_iter().filter(|show| show.includes(summary)) {
                *counts.show.entry(show).or_default() += 1;
            }
        }
        counts
    }
}
