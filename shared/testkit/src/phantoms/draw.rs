//! The drawings. Everything derives from the seed.

use image::{GrayImage, Luma};

/// A small generator of repeatable randomness (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly from `low` to `high`.
    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (self.next() >> 11) as f64 / (1_u64 << 53) as f64 * (high - low)
    }
}

/// 1 inside an ellipse, 0 outside, with a soft edge.
fn ellipse(x: f64, y: f64, (cx, cy): (f64, f64), (rx, ry): (f64, f64), soft: f64) -> f64 {
    let r = ((x - cx) / rx).hypot((y - cy) / ry);
    ((1.0 - r) / soft + 0.5).clamp(0.0, 1.0)
}

/// 1 on a capsule from `a` to `b`, 0 away from it, with a soft edge.
fn bone(x: f64, y: f64, a: (f64, f64), b: (f64, f64), radius: f64) -> f64 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let along = (((x - a.0) * dx + (y - a.1) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    let off = (x - a.0 - along * dx).hypot(y - a.1 - along * dy);
    ((radius - off) / 0.012 + 0.5).clamp(0.0, 1.0)
}

/// A frontal chest: lungs, heart, spine, ribs, clavicles and diaphragm. Seeds differ in build, heart size, ribs and noise; every third
/// seed has an opacity in one lung.
pub fn chest(seed: u64, width: u32, height: u32) -> GrayImage {
    let mut dice = Dice(seed);
    let heart = (dice.between(0.13, 0.2), dice.between(0.13, 0.17));
    let lung = (dice.between(0.145, 0.165), dice.between(0.29, 0.33));
    let (ribs, tilt, bright) =
        (dice.between(8.0, 10.0), dice.between(0.2, 0.35), dice.between(0.92, 1.06));
    let side = if dice.next().is_multiple_of(2) { 0.3 } else { 0.7 };
    let opacity = (seed.is_multiple_of(3))
        .then(|| ((side, dice.between(0.4, 0.68)), dice.between(0.05, 0.08)));
    draw(width, height, &mut dice, |x, y| {
        let body = ellipse(x, y, (0.5, 0.62), (0.47, 0.62), 0.06).max(ellipse(
            x,
            y,
            (0.5, 0.06),
            (0.13, 0.2),
            0.1,
        ));
        let mut grey = 0.03 + 0.52 * body;
        let lungs = [0.3, 0.7].into_iter().map(|cx| {
            let dome = 0.1 * (1.0 - ((x - cx) / 0.17).powi(2)).max(0.0);
            let above = ((0.83 - dome - y) / 0.02).clamp(0.0, 1.0);
            ellipse(x, y, (cx, 0.5), (lung.0, lung.1 + 0.06), 0.09) * above
        });
        let lungs: f64 = lungs.sum::<f64>().min(1.0);
        grey -= 0.36 * lungs;
        let ribbed =
            ((y * ribs + tilt * ((x - 0.5).abs() * 14.0).sqrt()) * std::f64::consts::TAU).sin();
        grey += 0.07 * body * ribbed.max(0.0).powi(2) * if lungs > 0.2 { 1.0 } else { 0.4 };
        grey += 0.3 * ellipse(x, y, (0.55, 0.66), heart, 0.15) * lungs.mul_add(0.7, 0.3);
        grey += 0.16 * bone(x, y, (0.5, 0.0), (0.5, 1.0), 0.045) * (0.8 + 0.2 * (y * 95.0).sin());
        for sign in [-1.0, 1.0] {
            grey += 0.14 * bone(x, y, (0.5 + sign * 0.04, 0.2), (0.5 + sign * 0.36, 0.13), 0.016);
        }
        if let Some((at, radius)) = opacity {
            grey += 0.26 * ellipse(x, y, at, (radius, radius * 1.2), 0.6);
        }
        grey * bright
    })
}

/// A hand: not a chest, so that triage has something out of scope.
pub fn hand(seed: u64, width: u32, height: u32) -> GrayImage {
    let mut dice = Dice(seed ^ 0x4A4D);
    let spread = dice.between(0.9, 1.1);
    let fingers: Vec<((f64, f64), (f64, f64))> = [
        (0.2, 0.48, 0.02, 0.34),
        (0.37, 0.42, 0.3, 0.1),
        (0.5, 0.4, 0.5, 0.05),
        (0.62, 0.43, 0.7, 0.1),
        (0.73, 0.49, 0.9, 0.22),
    ]
    .into_iter()
    .map(|(x0, y0, x1, y1)| ((x0, y0 + 0.1), (0.5 + (x1 - 0.5) * spread, y1)))
    .collect();
    draw(width, height, &mut dice, |x, y| {
        let palm = ellipse(x, y, (0.48, 0.65), (0.28, 0.24), 0.08).max(bone(
            x,
            y,
            (0.48, 0.75),
            (0.48, 1.1),
            0.17,
        ));
        let flesh = fingers.iter().map(|&(a, b)| bone(x, y, a, b, 0.055)).fold(palm, f64::max);
        let mut grey = 0.03 + 0.3 * flesh;
        for &(knuckle, tip) in &fingers {
            let at = |share: f64| {
                (knuckle.0 + (tip.0 - knuckle.0) * share, knuckle.1 + (tip.1 - knuckle.1) * share)
            };
            for (from, to) in [(0.02, 0.4), (0.46, 0.7), (0.76, 0.94)] {
                grey += 0.36 * bone(x, y, at(from), at(to), 0.022);
            }
            grey += 0.34
                * bone(
                    x,
                    y,
                    (0.48 + (knuckle.0 - 0.48) * 0.45, 0.8),
                    (knuckle.0, knuckle.1 - 0.01),
                    0.024,
                );
        }
        for offset in [-0.09, 0.09] {
            grey += 0.36 * bone(x, y, (0.48 + offset, 0.9), (0.48 + offset, 1.2), 0.05);
        }
        grey
    })
}

/// Draws `shade` (0 to 1 in both directions, value 0 to 1) with film grain.
fn draw(width: u32, height: u32, dice: &mut Dice, shade: impl Fn(f64, f64) -> f64) -> GrayImage {
    GrayImage::from_fn(width, height, |x, y| {
        let (u, v) =
            ((f64::from(x) + 0.5) / f64::from(width), (f64::from(y) + 0.5) / f64::from(height));
        let grain = dice.between(-0.015, 0.015);
        Luma([((shade(u, v) + grain) * 255.0).clamp(0.0, 255.0) as u8])
    })
}
