//! From the rendition to a model's input.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageDecoder as _, codecs::png::PngDecoder};

use crate::{
    PrepareError, codestream,
    render::{LONG_SIDE, grey_png},
    resample::resample,
};

/// Squashes a whole picture to `width` x `height` and normalises it: row-major, one channel, `(grey / 255 - mean) / std`.
///
/// The filter is an antialiased triangle, what Pillow calls `BILINEAR` and what the models were trained on; like Pillow, the
/// resampled grey is rounded to whole numbers before it is normalised.
pub fn squash(grey: &GrayImage, width: u32, height: u32, mean: f32, std: f32) -> Vec<f32> {
    let pixels = grey.as_raw();
    let plane = resample(
        |index| pixels.get(index).copied().unwrap_or_default().into(),
        grey.dimensions(),
        (width, height),
    );
    plane.into_iter().map(|value| (value.round() / 255.0 - mean) / std).collect()
}

/// Reads back a rendition that [`prepare`](crate::prepare) wrote.
///
/// # Errors
///
/// Where the bytes are not an eight-bit grey PNG of a rendition's size.
pub fn decode_rendition(png: &[u8]) -> Result<GrayImage, PrepareError> {
    let wrong = || {
        PrepareError::corrupt(
            "the rendition in the blob store is not an 8-bit grey PNG of at most 1024 pixels a side",
        )
    };
    let shape = codestream::png(png)?;
    if shape.width > LONG_SIDE
        || shape.height > LONG_SIDE
        || shape.components != 1
        || shape.precision != 8
    {
        return Err(wrong());
    }
    let mut own = image::Limits::default();
    own.max_alloc = Some(8 << 20);
    let decoder =
        PngDecoder::with_limits(Cursor::new(png), own).map_err(|error| wrong().because(error))?;
    if decoder.color_type() != image::ColorType::L8 {
        return Err(wrong());
    }
    match DynamicImage::from_decoder(decoder).map_err(|error| wrong().because(error))? {
        DynamicImage::ImageLuma8(grey) => Ok(grey),
        _ => Err(wrong()),
    }
}

/// A picture as eight-bit grey PNG, with a long side of at most `side` pixels.
///
/// # Errors
///
/// Where the encoder fails.
pub fn reduced_png(grey: &GrayImage, side: u32) -> Result<Vec<u8>, PrepareError> {
    let (width, height) = grey.dimensions();
    let long = width.max(height);
    if long <= side {
        return grey_png(grey);
    }
    let of =
        |own: u32| (f64::from(own) * f64::from(side) / f64::from(long)).round().max(1.0) as u32;
    let target = (of(width), of(height));
    let pixels = grey.as_raw();
    let value = |index| f32::from(pixels.get(index).copied().unwrap_or_default());
    let values = resample(value, (width, height), target);
    let bytes = values.into_iter().map(|value| value.round() as u8).collect();
    grey_png(&GrayImage::from_raw(target.0, target.1, bytes).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reduced_picture_keeps_its_shape_and_a_small_one_its_pixels() {
        let grey = GrayImage::from_fn(200, 100, |x, y| image::Luma([(x + y) as u8 / 2]));
        let small = decode_rendition(&reduced_png(&grey, 50).unwrap()).unwrap();
        assert_eq!(small.dimensions(), (50, 25));
        assert!(small.get_pixel(10, 10).0[0].abs_diff(grey.get_pixel(41, 41).0[0]) < 4);
        assert_eq!(decode_rendition(&reduced_png(&grey, 200).unwrap()).unwrap(), grey);
    }

    /// Computed with Pillow 13: `Image.fromarray(((y * 37 + x * 91 + x * y * 13) % 256).astype("uint8")).resize(size, BILINEAR)`
    /// of a picture 9 wide and 7 high.
    const GOLDEN: &[(u32, u32, &[u8])] = &[
        (4, 3, &[105, 124, 115, 157, 139, 148, 150, 154, 142, 139, 136, 141]),
        (
            12,
            10,
            &[
                0, 57, 125, 161, 38, 74, 142, 178, 55, 91, 159, 216, 20, 82, 155, 197, 79, 120,
                141, 112, 100, 159, 179, 153, 46, 113, 170, 186, 123, 139, 124, 76, 108, 181, 189,
                136, 72, 145, 141, 75, 152, 86, 77, 126, 31, 88, 170, 235, 98, 176, 175, 109, 203,
                137, 135, 197, 99, 161, 193, 167, 124, 152, 157, 143, 177, 162, 167, 191, 167, 191,
                163, 87, 150, 79, 92, 167, 83, 150, 163, 117, 215, 168, 90, 19, 176, 112, 130, 213,
                135, 98, 117, 167, 138, 188, 183, 118, 202, 143, 125, 157, 173, 117, 99, 131, 146,
                178, 160, 101, 222, 168, 102, 69, 196, 163, 97, 64, 191, 158, 92, 38,
            ],
        ),
        (
            9,
            2,
            &[
                59, 152, 157, 119, 124, 140, 91, 185, 159, 163, 115, 151, 156, 114, 144, 155, 185,
                95,
            ],
        ),
    ];

    #[test]
    fn squash_is_pillows_bilinear() {
        let picture = GrayImage::from_fn(9, 7, |x, y| {
            image::Luma([((y * 37 + x * 91 + x * y * 13) % 256) as u8])
        });
        for &(width, height, expect) in GOLDEN {
            let ours = squash(&picture, width, height, 0.0, 1.0 / 255.0);
            assert_eq!(ours.len(), expect.len());
            for (ours, expect) in ours.iter().zip(expect) {
                // Pillow rounds between its two passes, which this does not.
                assert!(
                    (ours - f32::from(*expect)).abs() <= 1.01,
                    "{width} x {height}: {ours} against {expect}"
                );
            }
        }
    }

    #[test]
    fn normalises() {
        let white = GrayImage::from_pixel(3, 3, image::Luma([255]));
        assert_eq!(squash(&white, 1, 1, 0.5, 0.25), [2.0]);
    }

    #[test]
    fn renditions_come_back_and_nothing_else_does() {
        let grey = GrayImage::from_fn(20, 10, |x, y| image::Luma([(x * y) as u8]));
        let png = crate::render::grey_png(&grey).unwrap();
        assert_eq!(decode_rendition(&png).unwrap(), grey);
        let huge = crate::render::grey_png(&GrayImage::new(1025, 1)).unwrap();
        for bytes in [&png[..40], &huge[..], b"", b"no picture"] {
            assert!(decode_rendition(bytes).is_err());
        }
    }
}
