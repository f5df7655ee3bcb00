//! Whether a model's calibration is enough for what it promises of the images that it clears.
//!
//! The promise is conformal risk control of a yes-or-no loss: with confidence `1 - α` at most the share `bound` of
//! abnormal images is cleared. Of `n` abnormal images, `k` of which were cleared, it holds where so few would be seen
//! with probability `α` at most if the true share were `bound` (Clopper and Pearson, 1934). At 95 % and 2 % that takes
//! 149 abnormal images with none of them cleared.

use std::fmt;

use duet_case::Probability;

/// The promise behind `clear_below`: with this confidence at most `bound` of abnormal images are cleared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MissRate {
    /// Promised.
    pub bound: Probability,
    /// With this confidence.
    pub confidence: Probability,
    /// Abnormal images that it was measured on.
    pub positives: u32,
    /// Measured on those.
    pub measured: Probability,
}

impl MissRate {
    /// How many of the abnormal images were cleared.
    pub fn misses(&self) -> u32 {
        (self.measured.value() * f64::from(self.positives)).round() as u32
    }

    /// What the measurement lacks for the promise; `None` where it is enough.
    pub fn shortfall(&self) -> Option<Shortfall> {
        let misses = self.misses();
        (!self.holds(misses, self.positives))
            .then(|| Shortfall { rate: *self, needed: self.needed(misses) })
    }

    fn holds(&self, misses: u32, positives: u32) -> bool {
        at_most(misses, positives, self.bound.value()) <= 1.0 - self.confidence.value() + 1e-12
    }

    /// The least number of abnormal images with so many misses that would be enough.
    fn needed(&self, misses: u32) -> u32 {
        let mut enough = misses.max(1);
        while !self.holds(misses, enough) {
            let Some(more) = enough.checked_mul(2) else { return u32::MAX };
            enough = more;
        }
        let mut short = enough / 2;
        while enough - short > 1 {
            let middle = short + (enough - short) / 2;
            if self.holds(misses, middle) {
                enough = middle;
            } else {
                short = middle;
            }
        }
        enough
    }
}

/// Why a model may clear nothing although its manifest has a threshold: too few abnormal images stand behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shortfall {
    rate: MissRate,
    needed: u32,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rate, needed } = self;
        write!(
            f,
            "its calibration has {} abnormal images of which {} were cleared; \"with {} % confidence at most {} % of abnormal images are cleared\" takes at least {needed}",
            rate.positives,
            rate.misses(),
            per_cent(rate.confidence),
            per_cent(rate.bound)
        )
    }
}

/// 95 and not 95.0; 0.79 and not 0.79000001.
pub(super) fn per_cent(share: Probability) -> f64 {
    (share.value() * 1e4).round() / 1e2
}

/// The probability of at most `k` of `n` where each has the probability `p`, strictly between 0 and 1.
fn at_most(k: u32, n: u32, p: f64) -> f64 {
    if k >= n {
        return 1.0;
    }
    let odds = (p / (1.0 - p)).ln();
    let mut term = f64::from(n) * (-p).ln_1p();
    let mut sum = term.exp();
    for i in 0..k {
        term += (f64::from(n - i) / f64::from(i + 1)).ln() + odds;
        sum += term.exp();
    }
    sum.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(positives: u32, misses: u32) -> MissRate {
        let p = |value| Probability::new(value).unwrap();
        let measured = p(f64::from(misses) / f64::from(positives.max(1)));
        MissRate { bound: p(0.02), confidence: p(0.95), positives, measured }
    }

    #[test]
    fn the_binomial_is_summed_as_tables_have_it() {
        for (k, n, p, expected) in [
            (0, 149, 0.02, 0.049_282),
            (2, 10, 0.5, 0.054_687_5),
            (4, 509, 0.02, 0.024_982),
            (10, 10, 0.3, 1.0),
        ] {
            let found = at_most(k, n, p);
            assert!((found - expected).abs() < 1e-5, "{k} of {n} at {p}: {found}");
        }
    }

    #[test]
    fn two_per_cent_at_ninety_five_takes_149_abnormal_images_without_a_miss() {
        // abnormal images, of them cleared, and how many are needed where those are too few
        for (positives, misses, needed) in [
            (149, 0, None),
            (148, 0, Some(149)),
            (0, 0, Some(149)),
            (236, 1, None),
            (235, 1, Some(236)),
            (509, 4, None),
            (509, 25, Some(1741)),
        ] {
            let short = rate(positives, misses).shortfall();
            let context = format!("{misses} of {positives}: {short:?}");
            match needed {
                None => assert_eq!(short, None, "{context}"),
                Some(needed) => {
                    let words = short.expect(&context).to_string();
                    assert!(words.contains(&format!("takes at least {needed}")), "{words}");
                    assert!(words.contains("95 % confidence at most 2 %"), "{words}");
                    assert_eq!(rate(needed, misses).shortfall(), None);
                }
            }
        }
    }
}
