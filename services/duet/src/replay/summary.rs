//! What a replay comes to in numbers: bounded, however many images it sees.

use std::collections::BTreeMap;

use serde::Serialize;

use super::view::Difference;

/// Cases that are named where something could not be replayed.
const NAMED: usize = 100;

/// Everything that is counted.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Reports, or images, that were looked at.
    pub(super) seen: u64,
    /// Of those, compared.
    pub(super) compared: u64,
    pub(super) unchanged: u64,
    /// Something moved.
    pub(super) changed: u64,
    /// A decision, an outcome or a finding turned.
    pub(super) turned: u64,
    /// Decisions, from and to: `cleared -> flagged`.
    pub(super) decisions: BTreeMap<String, u64>,
    /// The same of outcomes.
    pub(super) outcomes: BTreeMap<String, u64>,
    /// By what moved: `abnormal`, or `model:label`.
    pub(super) labels: BTreeMap<String, Label>,
    /// What could not be replayed, by why.
    pub(super) left_out: BTreeMap<String, LeftOut>,
}

/// What became of one label.
#[derive(Debug, Default, Serialize)]
pub(super) struct Label {
    /// Images on which it moved or turned.
    pub(super) changed: u64,
    /// Findings that came.
    pub(super) appeared: u64,
    /// Findings that went.
    pub(super) gone: u64,
    /// Images on which it was looked for before or after alone.
    pub(super) looked_for_once: u64,
    /// Of the probability, on the images that have it twice.
    pub(super) mean_change: f64,
    pub(super) largest_change: f64,
    #[serde(skip)]
    twice: u64,
}

/// Images that could not be replayed for one reason.
#[derive(Debug, Default, Serialize)]
pub(super) struct LeftOut {
    pub(super) count: u64,
    /// The first of them.
    pub(super) cases: Vec<String>,
}

impl Summary {
    pub(super) fn leave_out(&mut self, case: &str, why: &str) {
        let left_out = self.left_out.entry(why.to_owned()).or_default();
        left_out.count += 1;
        if left_out.cases.len() < NAMED {
            left_out.cases.push(case.to_owned());
        }
    }

    pub(super) fn same(&mut self) {
        self.compared += 1;
        self.unchanged += 1;
    }

    pub(super) fn add(&mut self, difference: &Difference) {
        self.compared += 1;
        self.changed += 1;
        self.turned += u64::from(difference.has_turned());
        for (pair, counts) in
            [(difference.decision, &mut self.decisions), (difference.outcome, &mut self.outcomes)]
        {
            if pair[0] != pair[1] {
                *counts.entry(format!("{} -> {}", pair[0], pair[1])).or_default() += 1;
            }
        }
        for change in &difference.changes {
            let label = self.labels.entry(change.what.clone()).or_default();
            label.changed += 1;
            let reached = change.after.is_some_and(|own| own.reached);
            label.appeared += u64::from(change.has_turned() && reached);
            label.gone += u64::from(change.has_turned() && !reached);
            match change.moved() {
                Some(moved) => {
                    label.twice += 1;
                    label.mean_change += (moved - label.mean_change) / label.twice as f64;
                    if moved.abs() > label.largest_change.abs() {
                        label.largest_change = moved;
                    }
                }
                None => label.looked_for_once += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use duet_case::{Case, Outcome};
    use serde_json::json;

    use super::super::view::View;
    use super::*;

    /// A Case with that decision and abnormality, and those scores of `m` against 0.5.
    fn case(decision: &str, abnormal: f64, scores: &[(&str, f64)]) -> Case {
        let sha256 = "0".repeat(64);
        let model = json!({ "name": "m", "version": "1", "sha256": sha256 });
        let scores: Vec<_> = scores
            .iter()
            .map(|(label, p)| json!({ "label": label, "probability": p, "threshold": 0.5, "model": "m" }))
            .collect();
        let mut case = json!({
            "schema_version": 1, "id": format!("c-{}", "0".repeat(32)), "study": "s-1",
            "received_at": "2026-11-01T00:00:00Z",
            "source": {
                "format": "png", "sha256": sha256, "bytes": 1, "width": 1, "height": 1, "bits": 8, "frames": 1,
            },
            "triage": {
                "decision": decision, "priority": "routine", "reasons": ["because"], "kind": "k", "kind_meaning": "k",
                "fitness": "fit", "abnormal": abnormal, "clear_below": 0.1, "audit": false, "scores": [],
                "model": model,
            },
        });
        if !scores.is_empty() {
            case["assessment"] = json!({ "models": [model], "scores": scores });
        }
        serde_json::from_value(case).unwrap()
    }

    fn difference(before: (&Case, Outcome), after: (&Case, Outcome)) -> Option<Difference> {
        let roles = BTreeMap::from([("candidate".to_owned(), "m".to_owned())]);
        let view = |(case, outcome): (&Case, Outcome)| View::of(case, Some(outcome), &roles);
        view(after).against(&view(before))
    }

    #[test]
    fn what_is_the_same_is_no_change_and_what_turned_is_told_from_what_moved() {
        use Outcome::{Cleared, Findings, NoFinding};
        let cleared = case("cleared", 0.05, &[]);
        let found = case("flagged", 0.5, &[("Effusion", 0.7), ("Mass", 0.2)]);
        assert_eq!(difference((&found, Findings), (&found, Findings)), None);
        let close = case("flagged", 0.5, &[("Effusion", 0.7), ("Mass", 0.2 + 1e-9)]);
        assert_eq!(difference((&found, Findings), (&close, Findings)), None);

        let moved = case("flagged", 0.5, &[("Effusion", 0.9), ("Mass", 0.2)]);
        let own = difference((&found, Findings), (&moved, Findings)).unwrap();
        assert!(!own.has_turned() && (own.largest() - 0.2).abs() < 1e-9, "{own:?}");
        assert_eq!(own.changes.len(), 1);

        let gone = case("flagged", 0.5, &[("Effusion", 0.4), ("Mass", 0.2)]);
        let turned = difference((&found, Findings), (&gone, NoFinding)).unwrap();
        assert!(turned.has_turned() && turned.size() > own.size());

        let mut summary = Summary::default();
        let opened = difference((&cleared, Cleared), (&found, Findings)).unwrap();
        for difference in [&own, &turned, &opened] {
            summary.add(difference);
        }
        summary.same();
        summary.leave_out("c-1", "no picture");
        assert_eq!((summary.compared, summary.changed, summary.turned), (4, 3, 2));
        assert_eq!(summary.decisions, BTreeMap::from([("cleared -> flagged".to_owned(), 1)]));
        let effusion = &summary.labels["m:Effusion"];
        assert_eq!((effusion.appeared, effusion.gone, effusion.looked_for_once), (1, 1, 1));
        assert!((effusion.mean_change + 0.05).abs() < 1e-9, "{effusion:?}");
        assert!((effusion.largest_change + 0.3).abs() < 1e-9);
        assert_eq!(summary.labels["abnormal"].appeared, 1);
    }

    #[test]
    fn a_model_that_stands_in_is_compared_under_the_name_of_the_other() {
        let before = case("flagged", 0.5, &[("Mass", 0.2)]);
        let mut after = before.clone();
        for score in after.assessment.iter_mut().flat_map(|own| &mut own.scores) {
            score.model = "candidate".to_owned();
        }
        let outcome = Outcome::NoFinding;
        assert_eq!(difference((&before, outcome), (&after, outcome)), None);
    }
}
