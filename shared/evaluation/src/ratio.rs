//! Figures of a measured cardiothoracic ratio against the true one.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    Row, Truth, concepts, fold,
    measure::{Groups, by_group, patients},
    stats::{self, Figure, Scored},
};

/// A heart wider than this share of the chest counts as enlarged, on PA films of adults.
pub const ENLARGED_OVER: f64 = 0.5;
/// An error that radiologists would call none.
const CLOSE: f64 = 0.025;
/// The concept of an enlarged heart.
const CARDIOMEGALY: &str = "8186001";

/// What was measured in one image.
#[derive(Debug, Clone, PartialEq)]
pub enum Measured {
    /// The ratio.
    Ratio(f64),
    /// Outlines that no chest has, in words.
    Implausible(String),
}

/// Why nothing can be measured.
#[derive(Debug, thiserror::Error)]
#[error(
    "the table of labels has no column `ctr`, which says each film's true cardiothoracic ratio: a model of heart and lungs is measured by it"
)]
pub struct NoRatio;

/// Figures of the ratio.
#[derive(Debug, Clone, Serialize)]
pub struct RatioFigures {
    /// The figures.
    pub ctr: CtrFigures,
    /// Mean absolute error within groups of patients: `sex`, `age`, `view`, then the group.
    pub groups: Groups,
    /// Share of the images that have a ratio, within the same groups.
    pub measured_groups: Groups,
    /// Why images have no ratio, and how many each.
    pub not_measured: BTreeMap<String, usize>,
}

/// Figures of the ratio; those that the table does not judge are absent.
#[derive(Debug, Clone, Serialize)]
pub struct CtrFigures {
    /// Mean absolute error.
    pub mae: Option<Figure>,
    /// Mean error: above zero the measured ratio is too large.
    pub bias: Option<Figure>,
    /// Between these two lie 95 % of the errors, if they are normal (Bland and Altman).
    pub limits_of_agreement: Option<[f64; 2]>,
    /// Share of the ratios within 0.025 of the true one.
    pub within_0_025: Option<Figure>,
    /// Whether the measured ratio tells the true ones over 0.5 from the others.
    pub auroc_over_0_5: Option<Figure>,
    /// Images whose true ratio is over 0.5, of those measured.
    pub over_0_5: usize,
    /// Of those over 0.5 the share that is measured over 0.5.
    pub sensitivity_over_0_5: Option<Figure>,
    /// Of the others the share that is not.
    pub specificity_over_0_5: Option<Figure>,
    /// Whether the measured ratio tells the films with `Cardiomegaly` in the table from those without.
    pub auroc_reported_cardiomegaly: Option<Figure>,
    /// Share of the images that have a ratio.
    pub measured: Option<Figure>,
}

/// One image's true and measured ratio, and its row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// In the table.
    pub row: usize,
    /// The true ratio.
    pub truth: f64,
    /// The measured one.
    pub measured: f64,
}

impl Pair {
    /// Measured less true.
    pub fn error(&self) -> f64 {
        self.measured - self.truth
    }
}

/// The images that have both ratios. `scores` has `None` where the image could not be read.
pub fn pairs(rows: &[Row], scores: &[Option<Measured>]) -> Vec<Pair> {
    rows.iter()
        .zip(scores)
        .enumerate()
        .filter_map(|(row, (truth, score))| match (truth.ctr, score) {
            (Some(truth), Some(Measured::Ratio(measured))) => {
                Some(Pair { row, truth, measured: *measured })
            }
            _ => None,
        })
        .collect()
}

/// The ratio's figures. `scores` has `None` where the image could not be read.
pub fn ratio(rows: &[Row], scores: &[Option<Measured>]) -> RatioFigures {
    let patients = patients(rows);
    let patient = |row: usize| patients.get(row).copied().unwrap_or(row);
    let pairs = pairs(rows, scores);
    let of = |value: &dyn Fn(&Pair) -> (f64, bool), inside: &dyn Fn(usize) -> bool| {
        let scored = pairs.iter().filter(|pair| inside(pair.row)).map(|pair| {
            let (score, positive) = value(pair);
            Scored { score, positive, patient: patient(pair.row) }
        });
        scored.collect::<Vec<_>>()
    };
    let all = |_: usize| true;
    let absolute = |pair: &Pair| (pair.error().abs(), false);
    let bias = stats::mean(&of(&|pair| (pair.error(), false), &all));
    let spread = |mean: f64| {
        let squares: f64 = pairs.iter().map(|pair| (pair.error() - mean).powi(2)).sum();
        (squares / pairs.len().saturating_sub(1) as f64).sqrt()
    };
    let over = |pair: &&Pair| pair.truth > ENLARGED_OVER;
    let told = |pair: &&Pair| pair.measured > ENLARGED_OVER;
    let enlarged = pairs.iter().filter(over).count();
    let reasons = scores.iter().flatten().filter_map(|score| match score {
        Measured::Implausible(reason) => Some(reason.clone()),
        Measured::Ratio(_) => None,
    });
    let mut not_measured = BTreeMap::new();
    for reason in reasons {
        *not_measured.entry(reason).or_insert(0) += 1;
    }
    let read = scores.iter().flatten().count();
    let refused: usize = not_measured.values().sum();
    RatioFigures {
        ctr: CtrFigures {
            mae: stats::mean(&of(&absolute, &all)),
            bias,
            limits_of_agreement: bias.filter(|_| pairs.len() > 2).map(|bias| {
                let half = 1.96 * spread(bias.value);
                [bias.value - half, bias.value + half]
            }),
            within_0_025: stats::share(
                pairs.iter().filter(|pair| pair.error().abs() <= CLOSE).count(),
                pairs.len(),
            ),
            auroc_over_0_5: stats::auroc(&of(&|pair| (pair.measured, over(&pair)), &all)),
            over_0_5: enlarged,
            sensitivity_over_0_5: stats::share(
                pairs.iter().filter(over).filter(told).count(),
                enlarged,
            ),
            specificity_over_0_5: stats::share(
                pairs.iter().filter(|pair| !over(pair) && !told(pair)).count(),
                pairs.len() - enlarged,
            ),
            auroc_reported_cardiomegaly: stats::auroc(&reported(rows, scores, &patients)),
            measured: stats::share(read - refused, read),
        },
        groups: by_group(rows, |inside| stats::mean(&of(&absolute, inside))),
        measured_groups: by_group(rows, |inside| {
            let own = scores.iter().enumerate().filter(|(row, _)| inside(*row));
            let read: Vec<_> = own.filter_map(|(_, score)| score.as_ref()).collect();
            let there = read.iter().filter(|own| matches!(own, Measured::Ratio(_))).count();
            stats::share(there, read.len())
        }),
        not_measured,
    }
}

/// The measured ratios of films whose findings are known, by whether an enlarged heart is among them.
fn reported(rows: &[Row], scores: &[Option<Measured>], patients: &[usize]) -> Vec<Scored> {
    let known: Vec<String> = concepts::names(CARDIOMEGALY).iter().map(|name| fold(name)).collect();
    let names_it = |names: &std::collections::BTreeSet<String>| {
        names.iter().any(|name| known.contains(&fold(name)))
    };
    let of_row = |(row, (score, patient)): (&Row, (&Option<Measured>, &usize))| {
        let Truth::Findings { present, uncertain } = &row.truth else { return None };
        let Some(Measured::Ratio(ratio)) = score else { return None };
        let positive = names_it(present);
        (positive || !names_it(uncertain)).then_some(Scored {
            score: *ratio,
            positive,
            patient: *patient,
        })
    };
    rows.iter().zip(scores.iter().zip(patients)).filter_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    fn rows(csv: &str) -> Vec<Row> {
        Table::read(csv.as_bytes()).unwrap().rows
    }

    #[test]
    fn errors_are_measured_less_true_and_what_is_implausible_is_counted() {
        let rows = rows("file,ctr,sex\na,0.40,F\nb,0.60,F\nc,0.52,M\nd,0.45,M\ne,,M\nf,0.5,M\n");
        let scores = [
            Some(Measured::Ratio(0.42)),
            Some(Measured::Ratio(0.56)),
            Some(Measured::Ratio(0.49)),
            Some(Measured::Implausible("no heart was outlined".into())),
            Some(Measured::Ratio(0.70)),
            None,
        ];
        let figures = ratio(&rows, &scores);
        let ctr = &figures.ctr;
        let near = |figure: Option<Figure>, value: f64, n: usize| {
            let figure = figure.unwrap();
            assert!((figure.value - value).abs() < 1e-9 && figure.n == n, "{figure:?}");
        };
        near(ctr.mae, 0.03, 3);
        near(ctr.bias, -0.05 / 3.0, 3);
        near(ctr.within_0_025, 1.0 / 3.0, 3);
        // Both that are over 0.5 are measured above the one that is not; one of them is measured over 0.5.
        near(ctr.auroc_over_0_5, 1.0, 3);
        near(ctr.sensitivity_over_0_5, 0.5, 2);
        near(ctr.specificity_over_0_5, 1.0, 1);
        // Four of the five that could be read; the one without a true ratio is one of them.
        near(ctr.measured, 0.8, 5);
        assert_eq!(ctr.over_0_5, 2);
        assert_eq!(figures.not_measured["no heart was outlined"], 1);
        near(figures.groups["sex"]["F"], 0.03, 2);
        near(figures.measured_groups["sex"]["M"], 2.0 / 3.0, 3);
        let [low, high] = ctr.limits_of_agreement.unwrap();
        // Errors .02, -.04, -.03: a standard deviation of 0.0321.
        assert!((high - low - 2.0 * 1.96 * 0.032146).abs() < 1e-4, "{low} to {high}");
        assert!(ctr.auroc_reported_cardiomegaly.is_none());
    }

    #[test]
    fn findings_in_the_table_judge_the_ratio_too() {
        let rows = rows(
            "file,ctr,findings\na,,No Finding\nb,,Enlarged heart|Edema\nc,,u:Cardiomegaly\nd,,Mass\n",
        );
        let scores = [0.4, 0.5, 0.9, 0.45].map(|value| Some(Measured::Ratio(value)));
        let figures = ratio(&rows, &scores).ctr;
        let area = figures.auroc_reported_cardiomegaly.unwrap();
        assert_eq!((area.value, area.n), (1.0, 3));
        assert!(figures.mae.is_none() && figures.limits_of_agreement.is_none());
    }
}
