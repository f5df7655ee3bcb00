//! From stored values to eight-bit grey: the one place that says in which order.

use std::ops::RangeInclusive;

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use duet_case::WindowMethod;

use super::{
    attributes::{Attributes, first_item, floats, text},
    frame::{Frame, Photometric},
    lut::Lut,
};
use crate::{
    PrepareError,
    render::{Grey, luma, percentiles, picture},
};

/// Renders one frame:
///
/// 1. **stored value**: bits stored below the high bit, signed or not;
/// 2. **modality**: Modality LUT Sequence, else Rescale Slope and Intercept (PS3.3 section C.11.1);
/// 3. **VOI**: VOI LUT Sequence, else Window Center and Width by their VOI LUT Function (section C.11.2), else from the 0.5th
///    to the 99.5th percentile of the frame's own values; eight bits without rescale are shown as they are;
/// 4. **polarity**: turned for MONOCHROME1 and for Presentation LUT Shape INVERSE;
/// 5. **eight bits**, with pixel padding black.
///
/// Colour goes to luminance (Rec. 601) and has no window. Overlays are ignored.
pub(crate) fn render(
    frame: &Frame<'_>,
    attributes: &Attributes,
    notes: &mut Vec<String>,
) -> Result<Grey, PrepareError> {
    match frame.photometric {
        Photometric::Monochrome1 | Photometric::Monochrome2 => monochrome(frame, attributes, notes),
        Photometric::Palette => palette(frame, attributes, notes),
        _ => colour(frame, notes),
    }
}

fn colour(frame: &Frame<'_>, notes: &mut Vec<String>) -> Result<Grey, PrepareError> {
    let to_eight = |raw: u32| {
        (u64::from(raw) * 255 / (u64::from(u32::MAX) >> (32 - u32::from(frame.bits)))) as u8
    };
    let pixels = (0..frame.pixels()).map(|pixel| {
        let sample = |index| to_eight(frame.raw(pixel, index));
        // The first component of every YBR interpretation is the luminance already.
        if frame.is_rgb { luma([sample(0), sample(1), sample(2)]) } else { sample(0) }
    });
    notes.push("colour shown as its luminance".to_owned());
    Ok(Grey {
        image: picture(frame.width, frame.height, pixels.collect())?,
        window: WindowMethod::Identity,
        inverted: false,
    })
}

fn palette(
    frame: &Frame<'_>,
    attributes: &Attributes,
    notes: &mut Vec<String>,
) -> Result<Grey, PrepareError> {
    const TABLES: [(Tag, Tag); 3] = [
        (
            tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
            tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
        ),
        (
            tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
            tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
        ),
        (
            tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
            tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA,
        ),
    ];
    if !attributes.has(tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA) {
        return Err(PrepareError::unsupported(
            "a PALETTE COLOR image with segmented lookup tables, or with none",
        ));
    }
    let mut tables = Vec::with_capacity(TABLES.len());
    for (descriptor, data) in TABLES {
        tables.push(Lut::read(attributes.object(), descriptor, data, frame.signed)?);
    }
    let pixels = (0..frame.pixels()).map(|pixel| {
        let stored = frame.stored(frame.raw(pixel, 0));
        let mut rgb = tables
            .iter()
            .map(|table| (u32::from(table.get(stored)) * 255 / u32::from(table.top.max(1))) as u8);
        luma(std::array::from_fn(|_| rgb.next().unwrap_or_default()))
    });
    notes.push("colour shown as its luminance".to_owned());
    Ok(Grey {
        image: picture(frame.width, frame.height, pixels.collect())?,
        window: WindowMethod::Identity,
        inverted: false,
    })
}

fn monochrome(
    frame: &Frame<'_>,
    attributes: &Attributes,
    notes: &mut Vec<String>,
) -> Result<Grey, PrepareError> {
    let modality = Modality::read(attributes, frame.signed)?;
    let padding = padding(frame, attributes)?;
    let is_padding = |stored: i64| padding.as_ref().is_some_and(|range| range.contains(&stored));
    let inverted = frame.photometric == Photometric::Monochrome1
        || attributes.text(tags::PRESENTATION_LUT_SHAPE).is_some_and(|shape| shape == "INVERSE");

    // How often each value occurs: all of them up to 16 bits, an even share of the pixels beyond.
    let table = frame.bits <= 16;
    let mut counts: Vec<(f64, u64)> = if table {
        let mut histogram = vec![0_u64; 1 << frame.bits];
        for pixel in 0..frame.pixels() {
            if let Some(count) = histogram.get_mut(frame.raw(pixel, 0) as usize) {
                *count += 1;
            }
        }
        let seen = histogram.into_iter().enumerate().filter(|&(_, count)| count > 0);
        seen.map(|(raw, count)| (frame.stored(raw as u32), count))
            .filter(|&(stored, _)| !is_padding(stored))
            .map(|(stored, count)| (modality.apply(stored), count))
            .collect()
    } else {
        let stride = frame.pixels().div_ceil(1 << 20).max(1);
        let stored =
            (0..frame.pixels()).step_by(stride).map(|pixel| frame.stored(frame.raw(pixel, 0)));
        stored
            .filter(|&stored| !is_padding(stored))
            .map(|stored| (modality.apply(stored), 1))
            .collect()
    };
    if counts.iter().any(|(value, _)| !value.is_finite()) {
        return Err(PrepareError::corrupt(
            "the modality transform gives values that are no numbers",
        ));
    }

    let mut voi = Voi::read(attributes, frame, &modality, &mut counts, notes)?;
    if matches!(voi, Voi::Window { .. } | Voi::Lut(_)) && shows_nothing(&voi, &counts) {
        notes.push(
            "the file's own window shows a blank picture: percentiles used instead".to_owned(),
        );
        voi = Voi::percentiles(&mut counts);
    }
    let shade = |raw: u32| {
        let stored = frame.stored(raw);
        if is_padding(stored) {
            return 0;
        }
        let grey = voi.apply(modality.apply(stored));
        if inverted { 255 - grey } else { grey }
    };
    let pixels = if table {
        let shades: Vec<u8> = (0..1_u32 << frame.bits).map(shade).collect();
        (0..frame.pixels())
            .map(|pixel| shades.get(frame.raw(pixel, 0) as usize).copied().unwrap_or_default())
            .collect()
    } else {
        (0..frame.pixels()).map(|pixel| shade(frame.raw(pixel, 0))).collect()
    };
    Ok(Grey { image: picture(frame.width, frame.height, pixels)?, window: voi.method(), inverted })
}

/// Whether different values all come out as one grey.
fn shows_nothing(voi: &Voi, counts: &[(f64, u64)]) -> bool {
    let mut greys = counts.iter().map(|&(value, _)| voi.apply(value));
    let first = greys.next();
    counts.len() > 1 && greys.all(|grey| Some(grey) == first)
}

/// Stored values that stand for no tissue (PS3.3 section C.7.5.1.1.2).
fn padding(
    frame: &Frame<'_>,
    attributes: &Attributes,
) -> Result<Option<RangeInclusive<i64>>, PrepareError> {
    // The element is signed or not as the pixels are, whatever VR it was written with.
    let as_stored = |value: i64| {
        let mask = (1_i64 << frame.bits) - 1;
        if frame.signed {
            if value < 0 { value } else { frame.stored((value & mask) as u32) }
        } else {
            value & 0xFFFF_FFFF & mask.max(0xFFFF)
        }
    };
    let Some(value) = attributes.integer(tags::PIXEL_PADDING_VALUE)?.map(as_stored) else {
        return Ok(None);
    };
    let limit = attributes.integer(tags::PIXEL_PADDING_RANGE_LIMIT)?.map_or(value, as_stored);
    Ok(Some(value.min(limit)..=value.max(limit)))
}

enum Modality {
    Lut(Lut),
    Rescale { slope: f64, intercept: f64 },
}

impl Modality {
    fn read(attributes: &Attributes, signed: bool) -> Result<Self, PrepareError> {
        if let Some(item) = first_item(attributes.object(), tags::MODALITY_LUT_SEQUENCE) {
            return Lut::in_item(item, signed).map(Self::Lut);
        }
        let from = attributes.group(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE);
        let first = |tag| {
            Ok::<_, PrepareError>(floats(from, tag)?.and_then(|values| values.first().copied()))
        };
        let slope = first(tags::RESCALE_SLOPE)?.unwrap_or(1.0);
        if slope == 0.0 {
            return Err(PrepareError::corrupt(
                "Rescale Slope (0028,1053) is 0, which makes every pixel the same",
            ));
        }
        Ok(Self::Rescale { slope, intercept: first(tags::RESCALE_INTERCEPT)?.unwrap_or(0.0) })
    }

    fn is_identity(&self) -> bool {
        matches!(self, Self::Rescale { slope: 1.0, intercept: 0.0 })
    }

    fn apply(&self, stored: i64) -> f64 {
        match self {
            Self::Lut(lut) => lut.get(stored).into(),
            Self::Rescale { slope, intercept } => stored as f64 * slope + intercept,
        }
    }
}

/// The VOI LUT Functions of PS3.3 section C.11.2.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Linear,
    LinearExact,
    Sigmoid,
}

impl Function {
    /// The grey from 0 to 1 that `value` is shown as.
    pub(crate) fn apply(self, value: f64, center: f64, width: f64) -> f64 {
        let grey = match self {
            // C.11.2.1.2.1; a width of 1 is a threshold.
            Self::Linear => {
                let (center, width) = (center - 0.5, width - 1.0);
                if value <= center - width / 2.0 {
                    0.0
                } else if value > center + width / 2.0 {
                    1.0
                } else {
                    (value - center) / width + 0.5
                }
            }
            // C.11.2.1.3.2
            Self::LinearExact => (value - center) / width + 0.5,
            // C.11.2.1.3.1
            Self::Sigmoid => 1.0 / (1.0 + (-4.0 * (value - center) / width).exp()),
        };
        grey.clamp(0.0, 1.0)
    }
}

enum Voi {
    Lut(Lut),
    Window { center: f64, width: f64, function: Function },
    Percentiles { low: f64, high: f64 },
    Identity,
}

impl Voi {
    fn read(
        attributes: &Attributes,
        frame: &Frame<'_>,
        modality: &Modality,
        counts: &mut [(f64, u64)],
        notes: &mut Vec<String>,
    ) -> Result<Self, PrepareError> {
        let from = attributes.group(tags::FRAME_VOILUT_SEQUENCE);
        if let Some(item) = first_item(from, tags::VOILUT_SEQUENCE) {
            // The table's inputs are signed where the modality transform gives negative values.
            let signed = counts.iter().any(|&(value, _)| value < 0.0);
            return Lut::in_item(item, signed).map(Self::Lut);
        }
        let function = match text(from, tags::VOILUT_FUNCTION).as_deref() {
            Some("SIGMOID") => Function::Sigmoid,
            Some("LINEAR_EXACT") => Function::LinearExact,
            _ => Function::Linear,
        };
        let first =
            |tag| floats(from, tag).map(|values| values.and_then(|values| values.first().copied()));
        match (first(tags::WINDOW_CENTER), first(tags::WINDOW_WIDTH)) {
            (Ok(None), _) | (_, Ok(None)) => {}
            (Ok(Some(center)), Ok(Some(width)))
                if width >= 1.0 || (width > 0.0 && function != Function::Linear) =>
            {
                return Ok(Self::Window { center, width, function });
            }
            // Below 1 the linear formula has no meaning; writers of fractional units mean the exact one.
            (Ok(Some(center)), Ok(Some(width))) if width > 0.0 => {
                return Ok(Self::Window { center, width, function: Function::LinearExact });
            }
            _ => notes.push("the file's own window is not valid: not used".to_owned()),
        }
        if frame.bits == 8 && !frame.signed && modality.is_identity() {
            return Ok(Self::Identity);
        }
        Ok(Self::percentiles(counts))
    }

    fn percentiles(counts: &mut [(f64, u64)]) -> Self {
        let (low, high) = percentiles(counts);
        Self::Percentiles { low, high }
    }

    fn apply(&self, value: f64) -> u8 {
        let grey = match self {
            Self::Lut(lut) => f64::from(lut.get(value.round() as i64)) / f64::from(lut.top.max(1)),
            Self::Window { center, width, function } => function.apply(value, *center, *width),
            Self::Percentiles { low, high } => return crate::render::stretch(value, *low, *high),
            Self::Identity => value / 255.0,
        };
        (grey * 255.0).round().clamp(0.0, 255.0) as u8
    }

    fn method(&self) -> WindowMethod {
        match *self {
            Self::Lut(_) => WindowMethod::VoiLut,
            Self::Window { center, width, .. } => WindowMethod::Window { center, width },
            Self::Percentiles { low, high } => WindowMethod::Percentiles { low, high },
            Self::Identity => WindowMethod::Identity,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The worked example of PS3.3 section C.11.2.1.2.1, for output 0 to 255.
    #[test]
    fn linear_window_is_the_standards() {
        let grey = |value, center, width| Function::Linear.apply(value, center, width) * 255.0;
        assert_eq!(grey(0.0, 2048.0, 4096.0), 0.0);
        assert_eq!(grey(4095.0, 2048.0, 4096.0), 255.0);
        assert_eq!(grey(2047.5, 2048.0, 4096.0), 127.5);
        assert_eq!(
            (grey(-1.0, 0.0, 100.0), grey(0.0, 0.0, 1.0), grey(-1.0, 0.0, 1.0)),
            ((-0.5 / 99.0 + 0.5) * 255.0, 255.0, 0.0)
        );
    }

    proptest! {
        #[test]
        fn brighter_stays_brighter(center in -5e3..5e3_f64, width in 1.0..9e3_f64, a in -9e3..9e3_f64, b in -9e3..9e3_f64) {
            for function in [Function::Linear, Function::LinearExact, Function::Sigmoid] {
                let (low, high) = (function.apply(a.min(b), center, width), function.apply(a.max(b), center, width));
                prop_assert!((0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high) && low <= high);
            }
        }
    }
}
