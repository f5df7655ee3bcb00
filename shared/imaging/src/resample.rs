//! One resampling for renditions, model inputs and heat maps: a separable triangle filter, widened by the scale when it
//! shrinks (so that it does not alias) and plain bilinear interpolation between pixel centres when it enlarges.

/// Weights of one output pixel: the first input pixel and one weight for it and each that follows.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let support = scale.max(1.0);
    (0..to)
        .map(|index| {
            let center = (index as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let last = ((center + support + 0.5) as usize).clamp(first + 1, from.max(first + 1));
            let weight =
                |input: usize| (1.0 - ((input as f64 + 0.5 - center) / support).abs()).max(0.0);
            let sum: f64 = (first..last).map(weight).sum();
            let weights = (first..last)
                .map(|input| (weight(input) / sum.max(f64::MIN_POSITIVE)) as f32)
                .collect();
            Tap { first, weights }
        })
        .collect()
}

/// Resamples a row-major plane of `size` (width, height) to `target`. `value` reads an input by its index.
pub(crate) fn resample(
    value: impl Fn(usize) -> f32,
    size: (u32, u32),
    target: (u32, u32),
) -> Vec<f32> {
    let (width, height) = (size.0 as usize, size.1 as usize);
    let (to_width, to_height) = (target.0 as usize, target.1 as usize);
    if width == 0 || height == 0 {
        return vec![0.0; to_width * to_height];
    }
    let (across, down) = (taps(width, to_width), taps(height, to_height));
    let mut out = Vec::with_capacity(to_width * to_height);
    let mut column = vec![0.0_f32; width];
    for tap in &down {
        // Rows first into one row of sums, so that nothing of the input's size is ever allocated.
        column.fill(0.0);
        for (offset, &weight) in tap.weights.iter().enumerate() {
            if weight == 0.0 {
                continue;
            }
            let start = (tap.first + offset) * width;
            for (x, sum) in column.iter_mut().enumerate() {
                *sum += weight * value(start + x);
            }
        }
        out.extend(across.iter().map(|tap| {
            let inputs = column.get(tap.first..).unwrap_or_default();
            tap.weights.iter().zip(inputs).map(|(weight, input)| weight * input).sum::<f32>()
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_flat_picture_stays_flat(w in 1..90_u32, h in 1..90_u32, to_w in 1..90_u32, to_h in 1..90_u32) {
            let out = resample(|_| 7.0, (w, h), (to_w, to_h));
            prop_assert_eq!(out.len(), (to_w * to_h) as usize);
            prop_assert!(out.iter().all(|value| (value - 7.0).abs() < 1e-4));
        }

        /// A ramp keeps its place: no shift by half a pixel, whatever the sizes.
        #[test]
        fn the_middle_stays_in_the_middle(w in 2..200_u32, to_w in 2..200_u32) {
            let out = resample(|i| i as f32, (w, 1), (to_w, 1));
            let mean = out.iter().sum::<f32>() / to_w as f32;
            prop_assert!((mean - (w - 1) as f32 / 2.0).abs() < 1e-2 * w as f32, "{}", mean);
        }
    }
}
