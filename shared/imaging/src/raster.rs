//! PNG and JPEG files: from bytes to eight-bit grey.

use std::io::Cursor;

use duet_case::{Source, WindowMethod};
use image::{
    DynamicImage, GrayImage, ImageDecoder, ImageError,
    codecs::{jpeg::JpegDecoder, png::PngDecoder},
    metadata::Orientation,
};

use crate::{
    Limits, PrepareError, codestream,
    render::{Grey, luma, percentiles, picture, stretch},
};

/// Reads a PNG file.
pub(crate) fn png(
    bytes: &[u8],
    source: &mut Source,
    limits: &Limits,
) -> Result<Grey, PrepareError> {
    let shape = codestream::png(bytes)?;
    limits.check_pixels(shape.width, shape.height)?;
    let decoder = PngDecoder::with_limits(Cursor::new(bytes), decoder_limits(limits))
        .map_err(|error| broken("PNG", error))?;
    source.bits = shape.precision;
    source.photometric = Some(
        match (shape.components, bytes.get(25)) {
            (_, Some(3)) => "PNG palette",
            (1, _) => "PNG grey",
            (2, _) => "PNG grey with alpha",
            (3, _) => "PNG RGB",
            _ => "PNG RGB with alpha",
        }
        .to_owned(),
    );
    decode(decoder, "PNG", source)
}

/// Reads a JPEG file.
pub(crate) fn jpeg(
    bytes: &[u8],
    source: &mut Source,
    limits: &Limits,
) -> Result<Grey, PrepareError> {
    let (shape, scan) = codestream::jpeg(bytes)?;
    limits.check_pixels(shape.width, shape.height)?;
    // The decoder fills what is missing with grey, which would pass for a film.
    if !bytes.get(scan..).unwrap_or_default().windows(2).any(|pair| pair == [0xFF, 0xD9]) {
        return Err(PrepareError::truncated(
            "the JPEG file has no end marker: it was cut short, send it again, whole",
        ));
    }
    let mut decoder =
        JpegDecoder::new(Cursor::new(bytes)).map_err(|error| broken("JPEG", error))?;
    decoder.set_limits(decoder_limits(limits)).map_err(|error| broken("JPEG", error))?;
    source.bits = shape.precision;
    source.photometric = Some(
        match shape.components {
            1 => "JPEG grey",
            3 => "JPEG colour",
            4 => "JPEG CMYK",
            _ => {
                return Err(PrepareError::unsupported(format!(
                    "a JPEG file of {} components",
                    shape.components
                )));
            }
        }
        .to_owned(),
    );
    decode(decoder, "JPEG", source)
}

/// Eight bytes a pixel are the most that either format decodes to.
fn decoder_limits(limits: &Limits) -> image::Limits {
    let mut own = image::Limits::default();
    own.max_alloc = Some(limits.max_pixels.saturating_mul(8).saturating_add(1 << 20));
    own
}

fn broken(format: &str, error: ImageError) -> PrepareError {
    let failed = match &error {
        ImageError::Limits(_) => PrepareError::over_limit(format!(
            "the {format} file needs more memory than limits.max_pixels allows"
        )),
        ImageError::Unsupported(_) => PrepareError::unsupported(format!(
            "this kind of {format} file is not read: save it as 8-bit grey or colour"
        )),
        ImageError::IoError(io) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            PrepareError::truncated(format!(
                "the {format} file ends before its picture: send it again, whole"
            ))
        }
        _ => PrepareError::corrupt(format!("the {format} file cannot be decoded: it is damaged")),
    };
    failed.because(error)
}

fn decode(
    mut decoder: impl ImageDecoder,
    format: &str,
    source: &mut Source,
) -> Result<Grey, PrepareError> {
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let decoded = DynamicImage::from_decoder(decoder).map_err(|error| broken(format, error))?;
    let mut grey = to_grey(decoded, source)?;
    if orientation != Orientation::NoTransforms {
        let mut turned = DynamicImage::ImageLuma8(grey.image);
        turned.apply_orientation(orientation);
        grey.image = turned.into_luma8();
        source.notes.push("turned as its EXIF orientation says".to_owned());
    }
    (source.width, source.height) = grey.image.dimensions();
    source.frames = 1;
    Ok(grey)
}

/// Luminance, alpha over black; sixteen bits through a window of percentiles.
fn to_grey(decoded: DynamicImage, source: &mut Source) -> Result<Grey, PrepareError> {
    let (width, height) = (decoded.width(), decoded.height());
    if decoded.color().has_color() {
        source.notes.push("colour shown as its luminance".to_owned());
    }
    let over_black = |value: u8, alpha: u8| (u32::from(value) * u32::from(alpha) / 255) as u8;
    let eight = |pixels: Vec<u8>| -> Result<Grey, PrepareError> {
        Ok(Grey {
            image: picture(width, height, pixels)?,
            window: WindowMethod::Identity,
            inverted: false,
        })
    };
    match decoded {
        DynamicImage::ImageLuma8(grey) => {
            Ok(Grey { image: grey, window: WindowMethod::Identity, inverted: false })
        }
        DynamicImage::ImageLumaA8(grey) => {
            eight(grey.pixels().map(|p| over_black(p.0[0], p.0[1])).collect())
        }
        DynamicImage::ImageRgb8(rgb) => eight(rgb.pixels().map(|p| luma(p.0)).collect()),
        DynamicImage::ImageRgba8(rgba) => eight(
            rgba.pixels().map(|p| over_black(luma([p.0[0], p.0[1], p.0[2]]), p.0[3])).collect(),
        ),
        deep => {
            let rgba = deep.color().has_alpha() || deep.color().has_color();
            let values: Vec<u16> = if rgba {
                deep.into_rgba16().pixels().map(|p| deep_luma(p.0)).collect()
            } else {
                deep.into_luma16().into_raw()
            };
            windowed(width, height, &values)
        }
    }
}

fn deep_luma([red, green, blue, alpha]: [u16; 4]) -> u16 {
    let value =
        (299 * u64::from(red) + 587 * u64::from(green) + 114 * u64::from(blue) + 500) / 1000;
    (value * u64::from(alpha) / 65_535) as u16
}

fn windowed(width: u32, height: u32, values: &[u16]) -> Result<Grey, PrepareError> {
    let mut histogram = vec![0_u64; 1 << 16];
    for &value in values {
        if let Some(count) = histogram.get_mut(usize::from(value)) {
            *count += 1;
        }
    }
    let mut counts: Vec<(f64, u64)> = histogram
        .into_iter()
        .enumerate()
        .filter(|&(_, count)| count > 0)
        .map(|(value, count)| (value as f64, count))
        .collect();
    let (low, high) = percentiles(&mut counts);
    let image: GrayImage = picture(
        width,
        height,
        values.iter().map(|&value| stretch(value.into(), low, high)).collect(),
    )?;
    Ok(Grey { image, window: WindowMethod::Percentiles { low, high }, inverted: false })
}
