//! The first frame's samples, decoded where they are compressed.

use std::borrow::Cow;

use dicom_core::value::C;
use dicom_dictionary_std::tags;
use dicom_encoding::{
    Codec, TransferSyntaxIndex as _,
    adapters::{PixelDataObject, RawPixelData},
};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::attributes::{Attributes, slice};
use crate::{
    Limits, PrepareError,
    codestream::{self, Shape},
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
enum Layout {
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
    shift: u16,
    bytes_per_sample: usize,
    samples: usize,
    layout: Layout,
    big: bool,
    swapped: bool,
    data: Cow<'a, [u8]>,
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
                let bytes = [self.byte(at), self.byte(at + 1), self.byte(at + 2), self.byte(at + 3)];
                if self.big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
            }
        };
        value.checked_shr(self.shift.into()).unwrap_or_default() & u32::MAX.checked_shr(32 - u32::from(self.bits)).unwrap_or_default()
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
struct Declared {
    width: u16,
    height: u16,
    frames: u32,
    samples: u16,
    allocated: u16,
    bits: u16,
    high: u16,
    signed: bool,
    planar: bool,
    photometric: Photometric,
}

fn declared(attributes: &Attributes, limits: &Limits) -> Result<Declared, PrepareError> {
    let small = |tag, name: &str| {
        let value = attributes.required(tag, name)?;
        u16::try_from(value).map_err(|_| PrepareError::corrupt(format!("{name} {tag} is out of range")))
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
        return Err(PrepareError::unsupported(format!("{allocated} bits allocated per sample; 1, 8, 16 and 32 are read")));
    }
    let optional = |tag, name: &str, otherwise: u16| {
        let value = attributes.integer(tag)?.unwrap_or(otherwise.into());
        u16::try_from(value).map_err(|_| PrepareError::corrupt(format!("{name} {tag} is out of range")))
    };
    let bits = optional(tags::BITS_STORED, "Bits Stored", allocated)?;
    let high = optional(tags::HIGH_BIT, "High Bit", bits.saturating_sub(1))?;
    if bits == 0 || bits > allocated || high + 1 < bits || high >= allocated {
        return Err(PrepareError::corrupt(format!(
            "{bits} bits stored with high bit {high} do not fit {allocated} bits allocated"
        )));
    }
    let text = attributes
        .text(tags::PHOTOMETRIC_INTERPRETATION)
        .ok_or_else(|| PrepareError::corrupt("the object has pixel data and no Photometric Interpretation (0028,0004)"))?;
    let photometric = Photometric::parse(&text).ok_or_else(|| {
        PrepareError::unsupported(
            "the Photometric Interpretation (0028,0004) is not one of MONOCHROME1, MONOCHROME2, PALETTE COLOR, RGB, YBR_FULL, YBR_FULL_422, YBR_ICT and YBR_RCT",
        )
    })?;
    let samples = optional(tags::SAMPLES_PER_PIXEL, "Samples per Pixel", photometric.samples())?;
    if samples != photometric.samples() {
        return Err(PrepareError::corrupt(format!("{samples} samples per pixel contradict {}", photometric.name())));
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
            let fragments: Vec<&[u8]> = fragments.iter().map(|range| slice(body, range.clone())).collect();
            let data = first_frame(&fragments, slice(body, offsets.clone()), declared.frames, syntax)?;
            encapsulated(data, declared, syntax)
        }
        Some(PixelBytes::Other(what)) => {
            Err(PrepareError::unsupported(format!("the object holds {what}; integer Pixel Data (7FE0,0010) is read")))
        }
        None => Err(PrepareError::truncated("the object has no pixel data")),
    }
}

fn native(value: &[u8], declared: Declared, big: bool, words: bool) -> Result<Frame<'_>, PrepareError> {
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

/// Gathers the first frame's fragments (PS3.5 section A.4).
fn first_frame<'a>(fragments: &[&'a [u8]], offsets: &[u8], frames: u32, syntax: &str) -> Result<Cow<'a, [u8]>, PrepareError> {
    let Some(&first) = fragments.first() else {
        return Err(PrepareError::truncated("the compressed pixel data has no fragment: send the file again, whole"));
    };
    if fragments.len() == 1 || fragments.len() == frames as usize || syntax == RLE {
        return Ok(Cow::Borrowed(first));
    }
    let second = offsets.get(4..8).and_then(|four| four.try_into().ok()).map(u32::from_le_bytes).map(|offset| offset as usize);
    let mut at = 0;
    let mut whole = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let starts_anew = match second {
            Some(second) => at >= second,
            // Without an offset table: the stream's start marker says where the next frame begins.
            None => frames > 1 && fragment.get(..2) == first.get(..2),
        };
        if index > 0 && starts_anew {
            break;
        }
        whole.extend_from_slice(fragment);
        at += fragment.len() + 8;
    }
    Ok(Cow::Owned(whole))
}

const RLE: &str = "1.2.840.10008.1.2.5";
const DEFLATED_FRAME: &str = "1.2.840.10008.1.2.8.1";

/// Families of codecs, for the checks that go before decoding.
#[derive(PartialEq)]
enum Family {
    Jpeg,
    JpegLs,
    Jpeg2000,
    JpegXl,
    Rle,
    Plain,
}

fn family(syntax: &str) -> Option<Family> {
    let last = syntax.strip_prefix("1.2.840.10008.1.2.")?;
    Some(match last {
        "4.50" | "4.51" | "4.57" | "4.70" => Family::Jpeg,
        "4.80" | "4.81" => Family::JpegLs,
        "4.90" | "4.91" | "4.92" | "4.93" | "4.201" | "4.202" | "4.203" => Family::Jpeg2000,
        "4.110" | "4.111" | "4.112" => Family::JpegXl,
        "5" => Family::Rle,
        "1.98" => Family::Plain,
        _ => return None,
    })
}

fn encapsulated<'a>(data: Cow<'a, [u8]>, declared: Declared, syntax: &str) -> Result<Frame<'a>, PrepareError> {
    let registered = TransferSyntaxRegistry.get(syntax);
    let name = registered.map_or("unknown", |syntax| syntax.name());
    let unsupported = || PrepareError::unsupported(format!("pixel data compressed as {name} is not read: export the image as JPEG, JPEG-LS, JPEG 2000, RLE or uncompressed"));
    let family = family(syntax).filter(|_| syntax != DEFLATED_FRAME).ok_or_else(unsupported)?;
    if family == Family::Plain {
        let whole = native(&[], Declared { frames: 0, ..declared }, false, false)?;
        let need = whole.pixels() * whole.samples * whole.bytes_per_sample;
        if data.len() < need && whole.layout != Layout::Packed {
            return Err(PrepareError::truncated(format!("the first frame has {} bytes where {need} are needed", data.len())));
        }
        return Ok(Frame { data, frames: declared.frames.max(1), ..whole });
    }
    let shape = shape(&family, &data, &declared)?;
    if (shape.width, shape.height) != (declared.width.into(), declared.height.into()) {
        return Err(PrepareError::corrupt(format!(
            "the compressed frame is {} x {} pixels and the object declares {} x {}",
            shape.width, shape.height, declared.width, declared.height
        )));
    }
    if shape.precision > 16 {
        return Err(PrepareError::unsupported(format!("{} bits per compressed sample; up to 16 are read", shape.precision)));
    }
    if shape.components != declared.samples || shape.precision == 0 {
        return Err(PrepareError::corrupt(format!(
            "the compressed frame has {} components of {} bits and the object declares {} of {}",
            shape.components, shape.precision, declared.samples, declared.bits
        )));
    }
    if shape.cosine && shape.precision != 8 {
        return Err(PrepareError::unsupported(format!(
            "lossy JPEG of {} bits (JPEG Extended) is not read: export the image as JPEG Lossless, JPEG-LS, JPEG 2000 or uncompressed",
            shape.precision
        )));
    }
    let Some(Codec::EncapsulatedPixelData(Some(decoder), _)) = registered.map(|syntax| syntax.codec()) else {
        return Err(unsupported());
    };
    let allocated = if shape.precision <= 8 { 8 } else { 16 };
    let stream = Stream { syntax, data: &data, declared: &declared, allocated };
    let mut decoded = Vec::new();
    decoder.decode_frame(&stream, 0, &mut decoded).map_err(|error| {
        PrepareError::corrupt(format!("the first frame cannot be decoded as {name}: the file is damaged, or uses a part of that format which is not read"))
            .because(error)
    })?;
    let bytes_per_sample = usize::from(allocated / 8);
    let need = usize::from(declared.width) * usize::from(declared.height) * usize::from(declared.samples) * bytes_per_sample;
    if decoded.len() < need {
        return Err(PrepareError::corrupt(format!("the first frame decodes to {} bytes where {need} are needed", decoded.len())));
    }
    let is_rgb = match family {
        // These decoders give red, green and blue for every colour that has three components.
        Family::Jpeg | Family::JpegXl => true,
        Family::Jpeg2000 => !matches!(declared.photometric, Photometric::YbrFull | Photometric::YbrFull422),
        _ => declared.photometric == Photometric::Rgb,
    };
    // A stream that states its own precision is believed; the others hold samples as the object lays them out.
    let (bits, shift) = match family {
        Family::Rle | Family::JpegXl => (declared.bits, declared.high + 1 - declared.bits),
        _ => (shape.precision, 0),
    };
    Ok(Frame {
        width: shape.width,
        height: shape.height,
        frames: declared.frames,
        photometric: declared.photometric,
        bits,
        signed: declared.signed,
        is_rgb: is_rgb && declared.samples == 3,
        shift,
        bytes_per_sample,
        samples: declared.samples.into(),
        layout: if family == Family::JpegLs && shape.planar { Layout::Planar } else { Layout::Interleaved },
        big: false,
        swapped: false,
        data: Cow::Owned(decoded),
    })
}

fn shape(family: &Family, data: &[u8], declared: &Declared) -> Result<Shape, PrepareError> {
    let as_declared = Shape {
        width: declared.width.into(),
        height: declared.height.into(),
        components: declared.samples,
        precision: declared.allocated,
        planar: false,
        cosine: false,
    };
    match family {
        Family::Jpeg | Family::JpegLs => codestream::jpeg(data).map(|(shape, _)| shape),
        Family::Jpeg2000 => codestream::jpeg_2000(data),
        Family::JpegXl => {
            let (width, height) = codestream::jpeg_xl(data)?;
            Ok(Shape { width, height, ..as_declared })
        }
        Family::Rle | Family::Plain => Ok(as_declared),
    }
}

/// One compressed frame as dicom-rs's codecs want to see it.
struct Stream<'a> {
    syntax: &'a str,
    data: &'a [u8],
    declared: &'a Declared,
    allocated: u16,
}

impl PixelDataObject for Stream<'_> {
    fn transfer_syntax_uid(&self) -> &str {
        self.syntax
    }

    fn rows(&self) -> Option<u16> {
        Some(self.declared.height)
    }

    fn cols(&self) -> Option<u16> {
        Some(self.declared.width)
    }

    fn samples_per_pixel(&self) -> Option<u16> {
        Some(self.declared.samples)
    }

    fn bits_allocated(&self) -> Option<u16> {
        Some(self.allocated)
    }

    fn bits_stored(&self) -> Option<u16> {
        Some(self.declared.bits.min(self.allocated))
    }

    fn photometric_interpretation(&self) -> Option<&str> {
        Some(self.declared.photometric.name())
    }

    fn number_of_frames(&self) -> Option<u32> {
        Some(1)
    }

    fn number_of_fragments(&self) -> Option<u32> {
        Some(1)
    }

    fn fragment(&self, fragment: usize) -> Option<Cow<'_, [u8]>> {
        (fragment == 0).then_some(Cow::Borrowed(self.data))
    }

    fn offset_table(&self) -> Option<Cow<'_, [u32]>> {
        Some(Cow::Borrowed(&[]))
    }

    fn raw_pixel_data(&self) -> Option<RawPixelData> {
        Some(RawPixelData { fragments: C::from_iter([self.data.to_vec()]), offset_table: C::new() })
    }
}
