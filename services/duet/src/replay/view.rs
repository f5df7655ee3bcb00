//! What of a Case is compared, and the difference between two of them. Pure.

use std::collections::BTreeMap;

use duet_case::{Case, Decision, Outcome, StudyKey};
use serde::Serialize;

/// Probabilities that differ by less are the same: another processor adds up in another order.
const SAME: f64 = 1e-6;

/// What triage and the specialists said of an image.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) study: StudyKey,
    pub(super) decision: Option<Decision>,
    pub(super) outcome: Option<Outcome>,
    pub(super) kind: String,
    /// `abnormal`, every label that was looked for, and what was measured, by name.
    figures: BTreeMap<String, Figure>,
}

/// A probability, or what was measured, beside its threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Figure {
    pub(super) probability: f64,
    /// Absent where the model may clear nothing.
    pub(super) threshold: Option<f64>,
    /// Whether it reached the threshold.
    pub(super) reached: bool,
}

/// A figure before and after; absent where it was not looked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Change {
    /// `abnormal`, or `model:label`.
    pub(super) what: String,
    pub(super) before: Option<Figure>,
    pub(super) after: Option<Figure>,
}

/// What differs between two views of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Difference {
    pub(super) decision: [&'static str; 2],
    pub(super) outcome: [&'static str; 2],
    pub(super) kind: [String; 2],
    /// Figures that moved or turned; none of those that did not.
    pub(super) changes: Vec<Change>,
}

impl View {
    /// Of a Case whose models play `roles`: a model that stands in for another goes under that one's name.
    pub(super) fn of(
        case: &Case,
        outcome: Option<Outcome>,
        roles: &BTreeMap<String, String>,
    ) -> Self {
        let mut figures = BTreeMap::new();
        if let Some(triage) = &case.triage {
            let (probability, threshold) = (triage.abnormal, triage.clear_below);
            figures.insert(
                "abnormal".to_owned(),
                Figure {
                    probability: probability.value(),
                    threshold: threshold.map(|own| own.value()),
                    // Of an image that is out of scope nothing is held against it.
                    reached: triage.decision != Decision::OutOfScope
                        && threshold.is_none_or(|below| probability >= below),
                },
            );
        }
        for score in case.assessment.iter().flat_map(|own| &own.scores) {
            let model = roles.get(&score.model).unwrap_or(&score.model);
            figures.insert(
                format!("{model}:{}", score.label),
                Figure {
                    probability: score.probability.value(),
                    threshold: Some(score.threshold.value()),
                    reached: score.probability >= score.threshold,
                },
            );
        }
        // Measurements move and turn nothing: none is a finding by itself.
        for measured in &case.measurements {
            let Some(value) = measured.value else { continue };
            let model = roles.get(&measured.model.name).unwrap_or(&measured.model.name);
            let figure =
                Figure { probability: value, threshold: measured.usual_up_to, reached: false };
            figures.insert(format!("{model}:{}", measured.name), figure);
        }
        Self {
            study: case.study.clone(),
            decision: case.triage.as_ref().map(|own| own.decision),
            outcome,
            kind: case.triage.as_ref().map(|own| own.kind.clone()).unwrap_or_default(),
            figures,
        }
    }

    /// What differs from `before` to `self`; `None` where nothing does.
    pub(super) fn against(&self, before: &Self) -> Option<Difference> {
        let mut names: Vec<&String> = before.figures.keys().chain(self.figures.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let changes: Vec<_> = names
            .into_iter()
            .map(|name| Change {
                what: name.clone(),
                before: before.figures.get(name).copied(),
                after: self.figures.get(name).copied(),
            })
            .filter(Change::is_one)
            .collect();
        let decision =
            [before.decision, self.decision].map(|own| own.map_or("none", Decision::name));
        let outcome = [before.outcome, self.outcome].map(|own| own.map_or("none", Outcome::name));
        let kind = [before.kind.clone(), self.kind.clone()];
        let is_same = |pair: &[&str; 2]| pair[0] == pair[1];
        if changes.is_empty() && is_same(&decision) && is_same(&outcome) && kind[0] == kind[1] {
            return None;
        }
        Some(Difference { decision, outcome, kind, changes })
    }
}

impl Change {
    /// A threshold that moved past nothing is none.
    fn is_one(&self) -> bool {
        let moved = match (self.before, self.after) {
            (Some(before), Some(after)) => (before.probability - after.probability).abs() > SAME,
            (before, after) => before.is_some() != after.is_some(),
        };
        moved || self.has_turned()
    }

    /// By how much the probability moved, where it was looked for both times.
    pub(super) fn moved(&self) -> Option<f64> {
        Some(self.after?.probability - self.before?.probability)
    }

    /// Whether a finding came or went.
    pub(super) fn has_turned(&self) -> bool {
        let reached = |own: Option<Figure>| own.is_some_and(|own| own.reached);
        reached(self.before) != reached(self.after)
    }

    /// Whether it is a specialist's; what follows from `abnormal` is the decision.
    pub(super) fn is_finding(&self) -> bool {
        self.what != "abnormal"
    }
}

impl Difference {
    /// Whether the decision or the outcome changed, or a finding came or went.
    pub(super) fn has_turned(&self) -> bool {
        self.decision[0] != self.decision[1]
            || self.outcome[0] != self.outcome[1]
            || self.changes.iter().any(|change| change.is_finding() && change.has_turned())
    }

    /// By how much the probability moved that moved most.
    pub(super) fn largest(&self) -> f64 {
        self.changes.iter().filter_map(Change::moved).map(f64::abs).fold(0.0, f64::max)
    }

    /// What larger changes are larger in: what turned comes before what only moved.
    pub(super) fn size(&self) -> f64 {
        let turned =
            self.changes.iter().filter(|change| change.is_finding() && change.has_turned());
        let decided = u32::from(self.decision[0] != self.decision[1])
            + u32::from(self.outcome[0] != self.outcome[1]);
        let turned = u32::try_from(turned.count()).unwrap_or(u32::MAX);
        f64::from(10 * decided) + f64::from(turned) + self.largest()
    }
}
