//! The first frame: what the object declares of it, and its samples one by one.

use std::borrow::Cow;

use dicom_dictionary_std::tags;

use super::{
    attributes::{Attributes, slice},
    stream,
};
use crate::{
    Limits, PrepareError,
    guard::{Encoding, Outline, PixelBytes},
};

/// Photometric interpretations that are read (PS3.3 section C.7.6.3.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Photometric {
    Monochrome1,
    Monochrome2,
    Palette,
    Rgb,
    YbrFull,
    YbrFull422,
    YbrIct,
    YbrRct,
    Xyb,
}

impl Photometric {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "MONOCHROME1" => Self::Monochrome1,
            "MONOCHROME2" => Self::Monochrome2,
            "PALETTE COLOR" => Self::Palette,
            "RGB" => Self::Rgb,
            "YBR_FULL" => Self::YbrFull,
            "YBR_FULL_422" => Self::YbrFull422,
            "YBR_ICT" => Self::YbrIct,
            "YBR_RCT" => Self::YbrRct,
            "XYB" => Self::Xyb,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Monochrome1 => "MONOCHROME1",
            Self::Monochrome2 => "MONOCHROME2",
            Self::Palette => "PALETTE COLOR",
            Self::Rgb => "RGB",
            Self::YbrFull => "YBR_FULL",
            Self::YbrFull422 => "YBR_FULL_422",
            Self::YbrIct => "YBR_ICT",
            Self::YbrRct => "YBR_RCT",
            Self::Xyb => "XYB",
        }
    }

    fn samples(self) -> u16 {
        if matches!(self, Self::Monochrome1 | Self::Monochrome2 | Self::Palette) { 1 } else { 3 }
    }
}

/// How the samples of one pixel lie in the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Interleaved,
    Planar,
    /// Two pixels share their chrominance: Y Y Cb Cr.
    Halved,
    /// One bit a pixel, from the least significant bit of each byte on.
    Packed,
}

/// The first frame of a DICOM object.
pub(crate) struct Frame<'a> {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) frames: u32,
    pub(crate) photometric: Photometric,
    /// Bits stored per sample.
    pub(crate) bits: u16,
    pub(crate) signed: bool,
    /// The samples are red, green and blue, whatever the photometric interpretation was before decoding.
    pub(crate) is_rgb: bool,
    /// Bits that the samples are shifted up by: High Bit + 1 - Bits Stored.
    pub(super) shift: u16,
    pub(super) bytes_per_sample: usize,
    pub(super) samples: usize,
    pub(super) layout: Layout,
    pub(super) big: bool,
    pub(super) swapped: bool,
    pub(super) data: Cow<'a, [u8]>,
}

impl Frame<'_> {
    pub(crate) fn pixels(&self) -> usize {
        self.width as usize * self.height as usize
    }

    /// The sample's bits, unsigned, without overlays or other foreign bits.
    pub(crate) fn raw(&self, pixel: usize, sample: usize) -> u32 {
        let index = match self.layout {
            Layout::Interleaved => pixel * self.samples + sample,
            Layout::Planar => sample * self.pixels() + pixel,
            Layout::Halved => pixel / 2 * 4 + if sample == 0 { pixel % 2 } else { 1 + sample },
            Layout::Packed => return u32::from(self.byte(pixel / 8) >> (pixel % 8) & 1),
        };
        let at = index * self.bytes_per_sample;
        let value = match self.bytes_per_sample {
            1 => u32::from(self.byte(if self.swapped { at ^ 1 } else { at })),
            2 => u32::from(self.word([self.byte(at), self.byte(at + 1)])),
            _ => {
                let bytes =
                    [self.byte(at), self.byte(at + 1), self.byte(at + 2), self.byte(at + 3)];
                if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
            }
        };
        value.checked_shr(self.shift.into()).unwrap_or_default()
            & u32::MAX.checked_shr(32 - u32::from(self.bits)).unwrap_or_default()
    }

    /// The stored value that the bits `raw` mean.
    pub(crate) fn stored(&self, raw: u32) -> i64 {
        let sign = 1_i64 << (self.bits - 1);
        let raw = i64::from(raw);
        if self.signed && raw & sign != 0 { raw - (sign << 1) } else { raw }
    }

    fn byte(&self, at: usize) -> u8 {
        self.data.get(at).copied().unwrap_or_default()
    }

    fn word(&self, pair: [u8; 2]) -> u16 {
        if self.big { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
    }
}

/// What the image pixel module (PS3.3 section C.7.6.3) declares.
pub(super) struct Declared {
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) frames: u32,
    pub(super) samples: u16,
    pub(super) allocated: u16,
    pub(super) bits: u16,
    pub(super) high: u16,
    pub(super) signed: bool,
    pub(super) planar: bool,
    pub(super) photometric: Photometric,
}

fn declared(attributes: &Attributes, limits: &Limits) -> Result<Declared, PrepareError> {
    let small = |tag, name: &str| {
        let value = attributes.required(tag, name)?;
        u16::try_from(value)
            .map_err(|_| PrepareError::corrupt(format!("{name} {tag} is out of range")))
    };
    let (height, width) = (small(tags::ROWS, "Rows")?, small(tags::COLUMNS, "Columns")?);
    limits.check_pixels(width.into(), height.into())?;
    let frames = attributes.integer(tags::NUMBER_OF_FRAMES)?.unwrap_or(1).max(1);
    let frames = u32::try_from(frames).unwrap_or(u32::MAX);
    if frames > limits.max_frames {
        return Err(PrepareError::over_limit(format!(
            "the object declares {frames} frames; the limit is {} (limits.max_frames)",
            limits.max_frames
        )));
    }
    let allocated = small(tags::BITS_ALLOCATED, "Bits Allocated")?;
    if !matches!(allocated, 1 | 8 | 16 | 32) {
        return Err(PrepareError::unsupported(format!(
            "{allocated} bits allocated per sample; 1, 8, 16 and 32 are read"
        )));
    }
    let optional = |tag, name: &str, otherwise: u16| {
        let value = attributes.integer(tag)?.unwrap_or(otherwise.into());
        u16::try_from(value)
            .map_err(|_| PrepareError::corrupt(format!("{name} {tag} is out of range")))
    };
    let bits = optional(tags::BITS_STORED, "Bits Stored", allocated)?;
    let high = optional(tags::HIGH_BIT, "High Bit", bits.saturating_sub(1))?;
    if bits == 0 || bits > allocated || high + 1 < bits || high >= allocated {
        return Err(PrepareError::corrupt(format!(
            "{bits} bits stored with high bit {high} do not fit {allocated} bits allocated"
        )));
    }
    let text = attributes.text(tags::PHOTOMETRIC_INTERPRETATION).ok_or_else(|| {
        PrepareError::corrupt(
            "the object has pixel data and no Photometric Interpretation (0028,0004)",
        )
    })?;
    let photometric = Photometric::parse(&text).ok_or_else(|| {
        PrepareError::unsupported(
            "the Photometric Interpretation (0028,0004) is not one of MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB, YBR_FULL, YBR_FULL_422, YBR_ICT and YBR_RCT",
        )
    })?;
    let samples = optional(tags::SAMPLES_PER_PIXEL, "Samples per Pixel", photometric.samples())?;
    if samples != photometric.samples() {
        return Err(PrepareError::corrupt(format!(
            "{samples} samples per pixel contradict {}",
            photometric.name()
        )));
    }
    Ok(Declared {
        width,
        height,
        frames,
        samples,
        allocated,
        bits,
        high,
        signed: attributes.integer(tags::PIXEL_REPRESENTATION)?.unwrap_or(0) == 1,
        planar: attributes.integer(tags::PLANAR_CONFIGURATION)?.unwrap_or(0) == 1,
        photometric,
    })
}

/// Reads the first frame.
pub(crate) fn first<'a>(
    body: &'a [u8],
    outline: &Outline,
    encoding: Encoding,
    attributes: &Attributes,
    syntax: &str,
    limits: &Limits,
) -> Result<Frame<'a>, PrepareError> {
    match &outline.pixels {
        Some(PixelBytes::Native { value, words }) => {
            let declared = declared(attributes, limits)?;
            native(slice(body, value.clone()), declared, encoding.big, *words)
        }
        Some(PixelBytes::Encapsulated { offsets, fragments }) => {
            let declared = declared(attributes, limits)?;
            let fragments: Vec<&[u8]> =
                fragments.iter().map(|range| slice(body, range.clone())).collect();
            let data = stream::first_frame(
                &fragments,
                slice(body, offsets.clone()),
                declared.frames,
                syntax,
            )?;
            stream::decode(data, declared, syntax)
        }
        Some(PixelBytes::Other(what)) => Err(PrepareError::unsupported(format!(
            "the object holds {what}; integer Pixel Data (7FE0,0010) is read"
        ))),
        None => Err(PrepareError::truncated("the object has no pixel data")),
    }
}

pub(super) fn native(
    value: &[u8],
    declared: Declared,
    big: bool,
    words: bool,
) -> Result<Frame<'_>, PrepareError> {
    let pixels = u64::from(declared.width) * u64::from(declared.height);
    let layout = match declared.photometric {
        _ if declared.allocated == 1 => Layout::Packed,
        Photometric::YbrFull422 => Layout::Halved,
        _ if declared.planar && declared.samples > 1 => Layout::Planar,
        _ => Layout::Interleaved,
    };
    if layout == Layout::Packed && declared.samples > 1 {
        return Err(PrepareError::unsupported("one bit per sample in colour"));
    }
    let bytes_per_sample = u64::from(declared.allocated / 8);
    let frames = u64::from(declared.frames);
    let total = match layout {
        Layout::Packed => (pixels * frames).div_ceil(8),
        Layout::Halved => pixels.div_ceil(2) * 4 * bytes_per_sample * frames,
        _ => pixels * u64::from(declared.samples) * bytes_per_sample * frames,
    };
    if (value.len() as u64) < total {
        return Err(PrepareError::truncated(format!(
            "the pixel data has {} bytes where {} frame(s) of {} x {} pixels need {total}: send the file again, whole",
            value.len(),
            declared.frames,
            declared.width,
            declared.height
        )));
    }
    Ok(Frame {
        width: declared.width.into(),
        height: declared.height.into(),
        frames: declared.frames,
        photometric: declared.photometric,
        bits: declared.bits,
        signed: declared.signed,
        is_rgb: declared.photometric == Photometric::Rgb,
        shift: declared.high + 1 - declared.bits,
        bytes_per_sample: bytes_per_sample.max(1) as usize,
        samples: declared.samples.into(),
        layout,
        big,
        swapped: big && words && declared.allocated == 8,
        data: Cow::Borrowed(value),
    })
}
