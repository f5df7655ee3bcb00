//! Compressed frames: gathered from their fragments, checked by their own headers, decoded by dicom-rs's codecs.

use std::borrow::Cow;

use dicom_core::value::C;
use dicom_encoding::{
    Codec, TransferSyntaxIndex as _,
    adapters::{PixelDataObject, RawPixelData},
};
use dicom_transfer_syntax_registry::TransferSyntaxRegistry;

use super::frame::{Declared, Frame, Layout, Photometric, native};
use crate::{
    PrepareError,
    codestream::{self, Shape},
};

/// Gathers the first frame's fragments (PS3.5 section A.4).
pub(super) fn first_frame<'a>(
    fragments: &[&'a [u8]],
    offsets: &[u8],
    frames: u32,
    syntax: &str,
) -> Result<Cow<'a, [u8]>, PrepareError> {
    let Some(&first) = fragments.first() else {
        return Err(PrepareError::truncated(
            "the compressed pixel data has no fragment: send the file again, whole",
        ));
    };
    if fragments.len() == 1 || fragments.len() == frames as usize || syntax == RLE {
        return Ok(Cow::Borrowed(first));
    }
    let second = offsets
        .get(4..8)
        .and_then(|four| four.try_into().ok())
        .map(u32::from_le_bytes)
        .map(|offset| offset as usize);
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

/// Decodes one compressed frame, once its own header agrees with the object.
pub(super) fn decode<'a>(
    data: Cow<'a, [u8]>,
    declared: Declared,
    syntax: &str,
) -> Result<Frame<'a>, PrepareError> {
    let registered = TransferSyntaxRegistry.get(syntax);
    let name = registered.map_or("unknown", |syntax| syntax.name());
    let unsupported = || {
        PrepareError::unsupported(format!(
            "pixel data compressed as {name} is not read: export the image as JPEG, JPEG-LS, JPEG 2000, RLE or uncompressed"
        ))
    };
    let family = family(syntax).ok_or_else(unsupported)?;
    if family == Family::Plain {
        let whole = native(&[], Declared { frames: 0, ..declared }, false, false)?;
        let need = whole.pixels() * whole.samples * whole.bytes_per_sample;
        if data.len() < need && whole.layout != Layout::Packed {
            return Err(PrepareError::truncated(format!(
                "the first frame has {} bytes where {need} are needed",
                data.len()
            )));
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
        return Err(PrepareError::unsupported(format!(
            "{} bits per compressed sample; up to 16 are read",
            shape.precision
        )));
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
    let Some(Codec::EncapsulatedPixelData(Some(decoder), _)) =
        registered.map(|syntax| syntax.codec())
    else {
        return Err(unsupported());
    };
    let allocated = if shape.precision <= 8 { 8 } else { 16 };
    let data = if family == Family::Jpeg
        && declared.photometric == Photometric::Rgb
        && !shape.tells_colour
    {
        as_rgb(&data)
    } else {
        data
    };
    let stream = Stream { syntax, data: &data, declared: &declared, allocated };
    let mut decoded = Vec::new();
    decoder.decode_frame(&stream, 0, &mut decoded).map_err(|error| {
        PrepareError::corrupt(format!("the first frame cannot be decoded as {name}: the file is damaged, or uses a part of that format which is not read"))
            .because(error)
    })?;
    let bytes_per_sample = usize::from(allocated / 8);
    let need = usize::from(declared.width)
        * usize::from(declared.height)
        * usize::from(declared.samples)
        * bytes_per_sample;
    if decoded.len() < need {
        return Err(PrepareError::corrupt(format!(
            "the first frame decodes to {} bytes where {need} are needed",
            decoded.len()
        )));
    }
    let is_rgb = match family {
        // These decoders give red, green and blue for every colour that has three components.
        Family::Jpeg | Family::JpegXl => true,
        Family::Jpeg2000 => {
            !matches!(declared.photometric, Photometric::YbrFull | Photometric::YbrFull422)
        }
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
        layout: if family == Family::JpegLs && shape.planar {
            Layout::Planar
        } else {
            Layout::Interleaved
        },
        big: false,
        swapped: false,
        data: Cow::Owned(decoded),
    })
}

/// The same JPEG stream with an Adobe segment that says "not transformed": without one, decoders take three components for YCbCr.
fn as_rgb<'a>(data: &[u8]) -> Cow<'a, [u8]> {
    const ADOBE_UNTRANSFORMED: [u8; 16] = *b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0\0";
    let (start, rest) = data.split_at_checked(2).unwrap_or((data, &[]));
    Cow::Owned([start, &ADOBE_UNTRANSFORMED, rest].concat())
}

fn shape(family: &Family, data: &[u8], declared: &Declared) -> Result<Shape, PrepareError> {
    let as_declared = Shape {
        width: declared.width.into(),
        height: declared.height.into(),
        components: declared.samples,
        precision: declared.allocated,
        planar: false,
        cosine: false,
        tells_colour: false,
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
