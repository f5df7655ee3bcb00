//! The working rendition: eight-bit grey PNG, long side at most 1024 pixels.

use duet_case::WindowMethod;
use image::{
    ExtendedColorType, GrayImage, ImageEncoder as _,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};

use crate::{PrepareError, resample::resample};

/// The long side of a rendition is at most this many pixels. Smaller pictures are not enlarged.
pub const LONG_SIDE: u32 = 1024;

/// A frame in eight-bit grey at its original size, and how it became so.
pub(crate) struct Grey {
    pub(crate) image: GrayImage,
    pub(crate) window: WindowMethod,
    pub(crate) inverted: bool,
}

/// Rec. 601 luminance.
pub(crate) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    ((299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) + 500) / 1000) as u8
}

/// A picture of these pixels.
pub(crate) fn picture(width: u32, height: u32, pixels: Vec<u8>) -> Result<GrayImage, PrepareError> {
    GrayImage::from_raw(width, height, pixels).ok_or_else(|| {
        PrepareError::corrupt("the decoded frame has fewer pixels than its header says")
    })
}

/// The 0.5th and 99.5th percentile of values with their counts, which get sorted.
pub(crate) fn percentiles(counts: &mut [(f64, u64)]) -> (f64, f64) {
    counts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total: u64 = counts.iter().map(|(_, count)| count).sum();
    let at = |share: f64| {
        let rank = (total.saturating_sub(1) as f64 * share).round() as u64;
        let mut below = 0;
        let found = counts.iter().find(|(_, count)| {
            below += count;
            below > rank
        });
        found.or(counts.last()).map_or(0.0, |&(value, _)| value)
    };
    (at(0.005), at(0.995))
}

/// Linear from `low` (black) to `high` (white); where they are one value, everything above it is white.
pub(crate) fn stretch(value: f64, low: f64, high: f64) -> u8 {
    if high > low {
        ((value - low) / (high - low) * 255.0).round().clamp(0.0, 255.0) as u8
    } else if value > low {
        255
    } else {
        0
    }
}

/// The size that a picture of `width` x `height` has as a rendition.
pub(crate) fn rendition_size(width: u32, height: u32) -> (u32, u32) {
    let long = width.max(height);
    if long <= LONG_SIDE {
        return (width, height);
    }
    let shrink = |side: u32| {
        let side = u64::from(side) * u64::from(LONG_SIDE) * 2 + u64::from(long);
        u32::try_from(side / (2 * u64::from(long))).unwrap_or(LONG_SIDE).clamp(1, LONG_SIDE)
    };
    (shrink(width), shrink(height))
}

/// Shrinks a picture to rendition size; one that fits stays as it is.
pub(crate) fn rendition(grey: GrayImage) -> Result<GrayImage, PrepareError> {
    let size = grey.dimensions();
    let target = rendition_size(size.0, size.1);
    if target == size {
        return Ok(grey);
    }
    let pixels = grey.as_raw();
    let shrunk =
        resample(|index| pixels.get(index).copied().unwrap_or_default().into(), size, target);
    picture(target.0, target.1, shrunk.into_iter().map(|value| value.round() as u8).collect())
}

/// Encodes a grey picture as PNG.
pub(crate) fn grey_png(grey: &GrayImage) -> Result<Vec<u8>, PrepareError> {
    encode(grey.as_raw(), grey.dimensions(), ExtendedColorType::L8)
}

pub(crate) fn encode(
    pixels: &[u8],
    (width, height): (u32, u32),
    colour: ExtendedColorType,
) -> Result<Vec<u8>, PrepareError> {
    let mut png = Vec::new();
    PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive)
        .write_image(pixels, width, height, colour)
        .map_err(|error| {
            PrepareError::corrupt("the rendition cannot be written as PNG").because(error)
        })?;
    Ok(png)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn renditions_shrink_and_keep_their_shape(width in 1..20_000_u32, height in 1..20_000_u32) {
            let (w, h) = rendition_size(width, height);
            prop_assert!(w >= 1 && h >= 1 && w <= width && h <= height && w.max(h) <= LONG_SIDE);
            prop_assert!(width.max(height) <= LONG_SIDE || w.max(h) == LONG_SIDE);
            // Either side is within half a pixel of the exact scale.
            let scale = f64::from(w.max(h)) / f64::from(width.max(height));
            prop_assert!((f64::from(width) * scale - f64::from(w)).abs() <= 0.5 || w == 1);
            prop_assert!((f64::from(height) * scale - f64::from(h)).abs() <= 0.5 || h == 1);
        }
    }

    #[test]
    fn percentiles_leave_the_tails_out() {
        let mut counts = vec![(5000.0, 1), (-9000.0, 1), (10.0, 500), (20.0, 498)];
        assert_eq!(percentiles(&mut counts), (10.0, 20.0));
        assert_eq!(percentiles(&mut []), (0.0, 0.0));
    }
}
