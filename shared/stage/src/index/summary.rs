//! The summary of a case that lists show, and what is counted of all of them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use duet_case::{BlobRef, Case, CaseId, Decision, Format, Outcome, Priority, Probability};
use serde::{Deserialize, Serialize};

use super::entry::CaseState;

/// Findings named in a summary; the Case has all of them.
const FINDINGS_SHOWN: usize = 6;

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
    /// Dead letters of it, without those that were sent again.
    pub dead_letters: usize,
    /// Dead letters of it that were sent again.
    #[serde(skip_serializing_if = "is_none")]
    pub redriven: usize,
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
    /// The operating point it reached.
    pub threshold: Probability,
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

// As serde hands it over.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_none(count: &usize) -> bool {
    *count == 0
}

impl Summary {
    pub(super) fn new(id: CaseId, time: DateTime<Utc>) -> Self {
        Self {
            id,
            state: CaseState::Received,
            received_at: time,
            updated_at: time,
            reports: 0,
            dead_letters: 0,
            redriven: 0,
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

    pub(super) fn add_case(&mut self, case: &Case) {
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
            .map(|f| FindingNote {
                label: f.label.clone(),
                probability: f.probability,
                threshold: f.threshold,
            })
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
