//! Drawings as PNG and JPEG files.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, ImageBuffer, ImageFormat, Luma};
use jpeg_encoder::{ColorType, Encoder};

/// An 8-bit grey PNG file.
pub fn png8(picture: &GrayImage) -> Vec<u8> {
    encoded(&DynamicImage::ImageLuma8(picture.clone()), ImageFormat::Png)
}

/// A 16-bit grey PNG file that uses a tenth of its range, as a 12-bit detector's export does.
pub fn png16(picture: &GrayImage) -> Vec<u8> {
    let deep = ImageBuffer::from_fn(picture.width(), picture.height(), |x, y| {
        Luma([500 + u16::from(picture.get_pixel(x, y).0[0]) * 16])
    });
    encoded(&DynamicImage::ImageLuma16(deep), ImageFormat::Png)
}

/// An 8-bit grey JPEG file.
pub fn jpeg(picture: &GrayImage) -> Vec<u8> {
    encoded(&DynamicImage::ImageLuma8(picture.clone()), ImageFormat::Jpeg)
}

/// A JPEG file in cyan, magenta, yellow and black, as a print shop's scanner writes it.
pub fn cmyk_jpeg(picture: &GrayImage) -> Vec<u8> {
    let ink: Vec<u8> = picture.pixels().flat_map(|pixel| [0, 0, 0, 255 - pixel.0[0]]).collect();
    let side = |side: u32| u16::try_from(side).unwrap_or(u16::MAX);
    let mut bytes = Vec::new();
    let written = Encoder::new(&mut bytes, 90).encode(
        &ink,
        side(picture.width()),
        side(picture.height()),
        ColorType::Cmyk,
    );
    debug_assert!(written.is_ok(), "{written:?}");
    bytes
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let written = picture.write_to(&mut bytes, format);
    debug_assert!(written.is_ok(), "{written:?}");
    bytes.into_inner()
}
