//! Triage's figures: scope, abnormality, and what it clears and misses.

use serde::Serialize;

use crate::{
    Row, Truth,
    measure::{Groups, LabelScores, groups, patients},
    stats::{self, Figure, Scored},
};

/// What triage said of one image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TriageScore {
    /// Refused as out of scope.
    pub refused: bool,
    /// Cleared.
    pub cleared: bool,
    /// Probability of abnormal.
    pub abnormal: f64,
}

/// Triage's figures. Those that the table does not judge are absent.
#[derive(Debug, Clone, Serialize)]
pub struct TriageFigures {
    /// Whether chest films are told from everything else.
    pub scope: ScopeFigures,
    /// Whether normal is told from abnormal.
    pub abnormal: AbnormalFigures,
    /// AUROC of abnormal within groups of patients: `sex`, `age`, `view`, then the group.
    pub groups: Groups,
}

/// Whether chest films are told from everything else.
#[derive(Debug, Clone, Serialize)]
pub struct ScopeFigures {
    /// Share of images that are no chest film and were refused.
    pub other_refused: Option<Figure>,
    /// Share of chest films that were refused.
    pub chest_refused: Option<Figure>,
}

/// Whether normal is told from abnormal.
#[derive(Debug, Clone, Serialize)]
pub struct AbnormalFigures {
    /// Of the probability of abnormal.
    pub auroc: Option<Figure>,
    /// Average precision of the same.
    pub auprc: Option<Figure>,
    /// Expected calibration error of the same.
    pub ece: Option<Figure>,
    /// Share of all chest films that were cleared.
    pub cleared: Option<Figure>,
    /// Share of abnormal films that were cleared.
    pub miss_rate: Option<Figure>,
}

/// Triage's figures. `scores` has `None` where the image could not be read.
pub fn triage(rows: &[Row], scores: &[Option<TriageScore>]) -> TriageFigures {
    let scored = abnormal(rows, scores);
    let (mut chest, mut other) = (Count::default(), Count::default());
    let (mut cleared, mut missed) = (Count::default(), Count::default());
    for (row, score) in rows.iter().zip(scores) {
        let Some(score) = score else { continue };
        match &row.truth {
            Truth::Scope { chest: true } => {
                chest.add(score.refused);
                cleared.add(score.cleared);
            }
            Truth::Scope { chest: false } => other.add(score.refused),
            Truth::Findings { present, .. } => {
                chest.add(score.refused);
                cleared.add(score.cleared);
                if !present.is_empty() {
                    missed.add(score.cleared);
                }
            }
            Truth::Unjudged => {}
        }
    }
    TriageFigures {
        scope: ScopeFigures { other_refused: other.share(), chest_refused: chest.share() },
        abnormal: AbnormalFigures {
            auroc: stats::auroc(&scored.scored),
            auprc: stats::auprc(&scored.scored),
            ece: stats::calibration_error(&scored.scored),
            cleared: cleared.share(),
            miss_rate: missed.share(),
        },
        groups: groups(rows, &[&scored]),
    }
}

/// The probabilities of abnormal with their truth. A name that no model knows is abnormal too; a film of which nobody
/// is certain counts neither way.
pub fn abnormal(rows: &[Row], scores: &[Option<TriageScore>]) -> LabelScores {
    let patients = patients(rows);
    let mut label = LabelScores { name: "abnormal".into(), rows: Vec::new(), scored: Vec::new() };
    for (row, ((truth, score), &patient)) in rows.iter().zip(scores).zip(&patients).enumerate() {
        let (Truth::Findings { present, uncertain }, Some(score)) = (&truth.truth, score) else {
            continue;
        };
        let positive = !present.is_empty();
        if positive || uncertain.is_empty() {
            label.rows.push(row);
            label.scored.push(Scored { score: score.abnormal, positive, patient });
        }
    }
    label
}

/// A kind of mistake that triage makes, and the rows with the worst of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Wrong {
    /// In words.
    pub what: &'static str,
    /// The worst first.
    pub rows: Vec<usize>,
}

/// Abnormal films that were cleared, chest films that were refused, other images that were not, and normal films that
/// look most abnormal; at most `most` of each.
pub fn wrong(rows: &[Row], scores: &[Option<TriageScore>], most: usize) -> Vec<Wrong> {
    type Is = fn(&Truth, &TriageScore) -> bool;
    let kinds: [(&'static str, Is, f64); 4] = [
        ("abnormal, cleared", |truth, score| score.cleared && is_abnormal(truth), 1.0),
        ("chest film, refused", |truth, score| score.refused && is_chest(truth), -1.0),
        (
            "no chest film, not refused",
            |truth, score| !score.refused && *truth == Truth::Scope { chest: false },
            1.0,
        ),
        (
            "normal, looks abnormal",
            |truth, score| {
                score.abnormal > 0.5
                    && matches!(truth, Truth::Findings { present, uncertain }
                        if present.is_empty() && uncertain.is_empty())
            },
            -1.0,
        ),
    ];
    let worst = |(what, is, order): (&'static str, Is, f64)| {
        let mut found: Vec<(usize, f64)> = rows
            .iter()
            .zip(scores)
            .enumerate()
            .filter_map(|(at, (row, score))| {
                let score = score.as_ref()?;
                is(&row.truth, score).then_some((at, order * score.abnormal))
            })
            .collect();
        found.sort_by(|a, b| a.1.total_cmp(&b.1));
        Wrong { what, rows: found.into_iter().take(most).map(|(at, _)| at).collect() }
    };
    kinds.into_iter().map(worst).collect()
}

fn is_abnormal(truth: &Truth) -> bool {
    matches!(truth, Truth::Findings { present, .. } if !present.is_empty())
}

fn is_chest(truth: &Truth) -> bool {
    matches!(truth, Truth::Findings { .. } | Truth::Scope { chest: true })
}

#[derive(Default)]
struct Count {
    hits: usize,
    n: usize,
}

impl Count {
    fn add(&mut self, hit: bool) {
        self.n += 1;
        self.hits += usize::from(hit);
    }

    fn share(&self) -> Option<Figure> {
        stats::share(self.hits, self.n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    fn rows(csv: &str) -> Vec<Row> {
        Table::read(csv.as_bytes()).unwrap().rows
    }

    #[test]
    fn triage_is_measured_by_scope_and_by_findings() {
        let score = |refused, cleared, abnormal| Some(TriageScore { refused, cleared, abnormal });
        let scope = rows("file,scope\na,chest\nb,other\nc,other\n");
        let scores = [score(false, true, 0.1), score(true, false, 0.9), score(false, false, 0.9)];
        let figures = triage(&scope, &scores);
        assert_eq!(figures.scope.other_refused.unwrap().value, 0.5);
        assert_eq!(figures.scope.chest_refused.unwrap().value, 0.0);
        assert!(figures.abnormal.auroc.is_none());

        // A name that no model knows is abnormal all the same.
        let findings = rows("file,findings\na,No Finding\nb,Unheard of\nc,Mass\n");
        let scores = [score(false, true, 0.1), score(false, true, 0.2), score(false, false, 0.9)];
        let figures = triage(&findings, &scores);
        assert_eq!(figures.abnormal.auroc.unwrap().value, 1.0);
        assert_eq!(figures.abnormal.miss_rate.unwrap().value, 0.5);
        assert!((figures.abnormal.cleared.unwrap().value - 2.0 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_worst_of_each_mistake_comes_first() {
        let score = |refused, cleared, abnormal| Some(TriageScore { refused, cleared, abnormal });
        let rows = rows(
            "file,findings\na,Mass\nb,Mass\nc,normal\nd,normal\ne,u:Mass\nf,Edema\ng,normal\n",
        );
        let scores = [
            score(false, true, 0.04),
            score(false, true, 0.01),
            score(false, false, 0.7),
            score(false, false, 0.9),
            score(false, false, 0.99),
            score(true, false, 0.5),
            None,
        ];
        let found: Vec<_> = wrong(&rows, &scores, 9).into_iter().map(|own| own.rows).collect();
        assert_eq!(found, [vec![1, 0], vec![5], vec![], vec![3, 2]]);
        assert_eq!(wrong(&rows, &scores, 1)[0].rows, [1]);
    }
}
