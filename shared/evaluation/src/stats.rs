//! Statistics of scores against truth, each with its interval.
//!
//! Intervals of curves come from the bootstrap over patients (over images where no patient is known), 95 %
//! percentile; intervals of shares are Wilson's (J. Am. Stat. Assoc. 22, 1927). Both are deterministic: the bootstrap
//! is seeded.

use std::collections::HashMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 500;
/// Equal-width bins of probability in a reliability diagram.
pub const BINS: usize = 10;
/// The normal distribution's 97.5 % point.
const Z: f64 = 1.959_963_984_540_054;

/// A figure with its 95 % interval and the number of images that it was measured on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Images.
    pub n: usize,
}

/// One image's score, its truth, and whom it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Higher is more likely positive; finite.
    pub score: f64,
    /// Whether it is positive.
    pub positive: bool,
    /// Images of one patient share a number.
    pub patient: usize,
}

/// Which statistic to take of weighted, sorted scores.
type Statistic = fn(&[Scored], &[f64]) -> Option<f64>;

/// Area under the receiver operating characteristic: the probability that a positive image scores higher than a
/// negative one, ties counted half. `None` without both kinds.
pub fn auroc(scored: &[Scored]) -> Option<Figure> {
    bootstrapped(scored, weighted_auroc)
}

/// Area under the precision-recall curve, as average precision. `None` without a positive.
pub fn auprc(scored: &[Scored]) -> Option<Figure> {
    bootstrapped(scored, weighted_average_precision)
}

/// Expected calibration error over [`BINS`] equal-width bins: the mean distance between the predicted probability and
/// the observed share, weighted by the images in each bin. `None` without images.
pub fn calibration_error(scored: &[Scored]) -> Option<Figure> {
    bootstrapped(scored, weighted_calibration_error)
}

/// The mean of the scores, whatever their truth. `None` without images.
pub fn mean(scored: &[Scored]) -> Option<Figure> {
    bootstrapped(scored, weighted_mean)
}

/// Wilson's interval for `hits` of `n`. `None` where `n` is 0.
pub fn share(hits: usize, n: usize) -> Option<Figure> {
    if n == 0 {
        return None;
    }
    let (total, value) = (n as f64, hits as f64 / n as f64);
    let spread = Z * Z / total;
    let center = (value + spread / 2.0) / (1.0 + spread);
    let half = Z * (value * (1.0 - value) / total + spread / (4.0 * total)).sqrt() / (1.0 + spread);
    let (low, high) = ((center - half).max(0.0), (center + half).min(1.0));
    // Rounding must not push an end past the value itself at 0 and 1.
    Some(Figure { value, low: low.min(value), high: high.max(value), n })
}

/// The mean of several labels' statistic, bootstrapped over the patients that they share, so that the interval
/// allows for one patient counting under many labels. `None` where no label has a value.
pub fn mean_auroc(labels: &[Vec<Scored>]) -> Option<Figure> {
    mean_over(labels, weighted_auroc)
}

/// The mean of several labels' calibration error; see [`mean_auroc`].
pub fn mean_calibration_error(labels: &[Vec<Scored>]) -> Option<Figure> {
    mean_over(labels, weighted_calibration_error)
}

fn bootstrapped(scored: &[Scored], statistic: Statistic) -> Option<Figure> {
    mean_over(std::slice::from_ref(&scored), statistic)
}

fn mean_over<S: AsRef<[Scored]>>(labels: &[S], statistic: Statistic) -> Option<Figure> {
    let sorted: Vec<Vec<Scored>> = labels.iter().map(|own| descending(own.as_ref())).collect();
    let patients = number_patients(&sorted);
    let average = |counts: &[f64]| {
        let values: Vec<f64> = sorted
            .iter()
            .zip(&patients.of_images)
            .filter_map(|(scored, numbers)| {
                let weights: Vec<f64> =
                    numbers.iter().map(|&i| counts.get(i).copied().unwrap_or(0.0)).collect();
                statistic(scored, &weights)
            })
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let value = average(&vec![1.0; patients.count])?;
    let mut rng = StdRng::seed_from_u64(patients.count as u64);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut counts = vec![0.0; patients.count];
            for _ in 0..patients.count {
                if let Some(count) = counts.get_mut(rng.random_range(0..patients.count)) {
                    *count += 1.0;
                }
            }
            average(&counts)
        })
        .collect();
    resampled.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = (q * (resampled.len().saturating_sub(1)) as f64).round() as usize;
        resampled.get(at).copied().unwrap_or(value)
    };
    let n = sorted.iter().map(Vec::len).max().unwrap_or(0);
    Some(Figure { value, low: quantile(0.025), high: quantile(0.975), n })
}

fn descending(scored: &[Scored]) -> Vec<Scored> {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| b.score.total_cmp(&a.score));
    sorted
}

/// Patients numbered from 0, for each label's images in their order.
struct Patients {
    count: usize,
    of_images: Vec<Vec<usize>>,
}

fn number_patients(labels: &[Vec<Scored>]) -> Patients {
    let mut numbers = HashMap::new();
    let of_images = labels
        .iter()
        .map(|scored| {
            let number = |one: &Scored| {
                let next = numbers.len();
                *numbers.entry(one.patient).or_insert(next)
            };
            scored.iter().map(number).collect()
        })
        .collect();
    Patients { count: numbers.len(), of_images }
}

fn weighted_auroc(sorted: &[Scored], weights: &[f64]) -> Option<f64> {
    let (mut above, mut area, mut negatives) = (0.0, 0.0, 0.0);
    for tie in ties(sorted, weights) {
        area += tie.negative * (above + tie.positive / 2.0);
        above += tie.positive;
        negatives += tie.negative;
    }
    (above > 0.0 && negatives > 0.0).then(|| area / (above * negatives))
}

fn weighted_mean(sorted: &[Scored], weights: &[f64]) -> Option<f64> {
    let total: f64 = weights.iter().sum();
    let sum: f64 = sorted.iter().zip(weights).map(|(one, weight)| one.score * weight).sum();
    (total > 0.0).then(|| sum / total)
}

fn weighted_average_precision(sorted: &[Scored], weights: &[f64]) -> Option<f64> {
    let (mut found, mut taken, mut area) = (0.0, 0.0, 0.0);
    for tie in ties(sorted, weights) {
        found += tie.positive;
        taken += tie.positive + tie.negative;
        if taken > 0.0 {
            area += tie.positive * found / taken;
        }
    }
    (found > 0.0).then(|| area / found)
}

fn weighted_calibration_error(sorted: &[Scored], weights: &[f64]) -> Option<f64> {
    let bins = weighted_bins(sorted, weights);
    let total: f64 = bins.iter().map(|bin| bin.weight).sum();
    let distance = bins.iter().map(|bin| (bin.predicted - bin.positive).abs()).sum::<f64>();
    (total > 0.0).then(|| distance / total)
}

/// Images of one score.
struct Tie {
    score: f64,
    positive: f64,
    negative: f64,
}

fn ties<'a>(sorted: &'a [Scored], weights: &'a [f64]) -> impl Iterator<Item = Tie> + 'a {
    let mut rest = sorted.iter().zip(weights).peekable();
    std::iter::from_fn(move || {
        let (first, _) = rest.peek()?;
        let mut tie = Tie { score: first.score, positive: 0.0, negative: 0.0 };
        while let Some((one, weight)) = rest.next_if(|(one, _)| one.score == tie.score) {
            *(if one.positive { &mut tie.positive } else { &mut tie.negative }) += weight;
        }
        Some(tie)
    })
}

/// One point of the receiver operating characteristic.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RocPoint {
    /// At and above this score an image counts as positive.
    pub threshold: f64,
    /// Share of positive images found.
    pub sensitivity: f64,
    /// Share of negative images left alone.
    pub specificity: f64,
}

/// The curve from the strictest threshold to the laxest. Empty without both kinds.
pub fn roc(scored: &[Scored]) -> Vec<RocPoint> {
    let sorted = descending(scored);
    let weights = vec![1.0; sorted.len()];
    let positives = sorted.iter().filter(|one| one.positive).count() as f64;
    let negatives = sorted.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return Vec::new();
    }
    let (mut found, mut alarms) = (0.0, 0.0);
    ties(&sorted, &weights)
        .map(|tie| {
            found += tie.positive;
            alarms += tie.negative;
            RocPoint {
                threshold: tie.score,
                sensitivity: found / positives,
                specificity: 1.0 - alarms / negatives,
            }
        })
        .collect()
}

/// One bin of a reliability diagram: sums over its images.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bin {
    /// Images.
    pub weight: f64,
    /// Sum of their probabilities.
    pub predicted: f64,
    /// How many are positive.
    pub positive: f64,
}

/// The reliability diagram's [`BINS`] bins, from probability 0 to 1.
pub fn reliability(scored: &[Scored]) -> Vec<Bin> {
    weighted_bins(scored, &vec![1.0; scored.len()])
}

fn weighted_bins(scored: &[Scored], weights: &[f64]) -> Vec<Bin> {
    let mut bins = vec![Bin::default(); BINS];
    for (one, weight) in scored.iter().zip(weights) {
        let at = ((one.score * BINS as f64) as usize).min(BINS - 1);
        if let Some(bin) = bins.get_mut(at) {
            bin.weight += weight;
            bin.predicted += weight * one.score;
            bin.positive += weight * f64::from(u8::from(one.positive));
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scored(pairs: &[(f64, bool)]) -> Vec<Scored> {
        let one = |(patient, &(score, positive))| Scored { score, positive, patient };
        pairs.iter().enumerate().map(one).collect()
    }

    #[test]
    fn auroc_of_known_cases() {
        let cases: [(&[(f64, bool)], f64); 4] = [
            (&[(0.9, true), (0.1, false)], 1.0),
            (&[(0.1, true), (0.9, false)], 0.0),
            (&[(0.5, true), (0.5, false)], 0.5),
            // By hand: positives .8 and .4, negatives .6 and .2: three of four pairs are in order.
            (&[(0.8, true), (0.6, false), (0.4, true), (0.2, false)], 0.75),
        ];
        for (pairs, expected) in cases {
            let figure = auroc(&scored(pairs)).unwrap();
            assert!((figure.value - expected).abs() < 1e-12, "{pairs:?}: {figure:?}");
        }
        assert_eq!(auroc(&scored(&[(0.3, true)])), None);
    }

    #[test]
    fn average_precision_of_a_known_case() {
        // Ranks of the positives are 1 and 3: (1/1 + 2/3) / 2.
        let figure = auprc(&scored(&[(0.9, true), (0.8, false), (0.7, true)])).unwrap();
        assert!((figure.value - 5.0 / 6.0).abs() < 1e-12);
    }

    #[test]
    fn calibration_error_of_known_cases() {
        let right = scored(&[(0.5, true), (0.5, false)]);
        assert!(calibration_error(&right).unwrap().value < 1e-12);
        let sure_and_wrong = scored(&[(1.0, false), (0.0, true)]);
        assert!((calibration_error(&sure_and_wrong).unwrap().value - 1.0).abs() < 1e-12);
    }

    /// Of a mean of 100 values the bootstrap's interval is about 1.96 standard errors to each side.
    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let pairs: Vec<_> = (0..100).map(|i| (f64::from(i), false)).collect();
        let figure = mean(&scored(&pairs)).unwrap();
        assert!((figure.value - 49.5).abs() < 1e-9 && figure.n == 100);
        let half = (figure.high - figure.low) / 2.0;
        assert!((half - 1.96 * 2.887).abs() < 0.8, "{figure:?}");
        assert_eq!(mean(&[]), None);
    }

    /// Wilson's own interval for 0 of 10 is 0 to 0.2775.
    #[test]
    fn share_has_wilsons_interval() {
        let none = share(0, 10).unwrap();
        assert_eq!((none.value, none.low), (0.0, 0.0));
        assert!((none.high - 0.2775).abs() < 1e-4, "{none:?}");
        assert_eq!(share(0, 0), None);
    }

    /// Twenty images of one patient say less than twenty patients.
    #[test]
    fn images_of_one_patient_do_not_narrow_the_interval() {
        let pairs: Vec<_> = (0..40).map(|i| (f64::from(i % 7) / 7.0, i % 3 == 0)).collect();
        let apart = scored(&pairs);
        let mut together = apart.clone();
        for one in &mut together {
            one.patient /= 10;
        }
        let width = |figure: Figure| figure.high - figure.low;
        assert!(width(auroc(&together).unwrap()) > 0.0);
        assert_ne!(auroc(&together).unwrap().low, auroc(&apart).unwrap().low);
    }

    proptest! {
        #[test]
        fn auroc_is_the_share_of_ordered_pairs(
            pairs in prop::collection::vec((0_u8..20, any::<bool>()), 2..40)
        ) {
            let pairs: Vec<_> = pairs.into_iter().map(|(s, p)| (f64::from(s), p)).collect();
            let (mut ordered, mut total) = (0.0, 0.0);
            for &(positive, _) in pairs.iter().filter(|pair| pair.1) {
                for &(negative, _) in pairs.iter().filter(|pair| !pair.1) {
                    total += 1.0;
                    ordered += if positive > negative { 1.0 } else if positive == negative { 0.5 } else { 0.0 };
                }
            }
            let figure = auroc(&scored(&pairs));
            prop_assert_eq!(figure.is_some(), total > 0.0);
            if let Some(figure) = figure {
                prop_assert!((figure.value - ordered / total).abs() < 1e-9);
                prop_assert!(figure.low <= figure.high);
            }
        }
    }
}
