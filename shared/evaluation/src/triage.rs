//! Triage's figures: scope, abnormality, and what it clears and misses.

use serde::Serialize;

use crate::{
    Row, Truth,
    measure::patients,
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
    /// Share of all chest films that were cleared.
    pub cleared: Option<Figure>,
    /// Share of abnormal films that were cleared.
    pub miss_rate: Option<Figure>,
}

/// Triage's figures. `scores` has `None` where the image could not be read.
pub fn triage(rows: &[Row], scores: &[Option<TriageScore>]) -> TriageFigures {
    let patients = patients(rows);
    let (mut chest, mut other) = (Count::default(), Count::default());
    let (mut cleared, mut missed) = (Count::default(), Count::default());
    let mut scored = Vec::new();
    for ((row, score), &patient) in rows.iter().zip(scores).zip(&patients) {
        let Some(score) = score else { continue };
        match &row.truth {
            Truth::Scope { chest: true } => {
                chest.add(score.refused);
                cleared.add(score.cleared);
            }
            Truth::Scope { chest: false } => other.add(score.refused),
            Truth::Findings { present, uncertain } => {
                chest.add(score.refused);
                cleared.add(score.cleared);
                let abnormal = !present.is_empty();
                if abnormal {
                    missed.add(score.cleared);
                }
                if abnormal || uncertain.is_empty() {
                    scored.push(Scored { score: score.abnormal, positive: abnormal, patient });
                }
            }
        }
    }
    TriageFigures {
        scope: ScopeFigures { other_refused: other.share(), chest_refused: chest.share() },
        abnormal: AbnormalFigures {
            auroc: stats::auroc(&scored),
            cleared: cleared.share(),
            miss_rate: missed.share(),
        },
    }
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
}
