//! Drawing: rectangles, antialiased lines and rings, tinted overlays.

use image::{GrayImage, Rgb, RgbImage};

use crate::heat::from_segment;

/// A rectangle in picture pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rect {
    pub(super) fn right(self) -> f64 {
        self.x + self.width
    }

    pub(super) fn bottom(self) -> f64 {
        self.y + self.height
    }

    /// The area that both have in common, with `margin` around `other`.
    pub(super) fn overlap(self, other: Self, margin: f64) -> f64 {
        let across = self.right().min(other.right() + margin) - self.x.max(other.x - margin);
        let down = self.bottom().min(other.bottom() + margin) - self.y.max(other.y - margin);
        across.max(0.0) * down.max(0.0)
    }
}

pub(super) struct Canvas {
    image: RgbImage,
}

impl Canvas {
    pub(super) fn new(width: u32, height: u32) -> Self {
        Self { image: RgbImage::new(width, height) }
    }

    pub(super) fn finish(self) -> RgbImage {
        self.image
    }

    pub(super) fn height(&self) -> u32 {
        self.image.height()
    }

    /// Puts a grey picture at the top left.
    pub(super) fn picture(&mut self, grey: &GrayImage) {
        for (x, y, pixel) in grey.enumerate_pixels() {
            if let Some(target) = self.image.get_pixel_mut_checked(x, y) {
                *target = Rgb([pixel.0[0]; 3]);
            }
        }
    }

    /// Tints the picture where `heat` is high: softly, so that the film stays readable beneath.
    pub(super) fn glow(&mut self, heat: &GrayImage, colour: Rgb<u8>) {
        for (x, y, pixel) in heat.enumerate_pixels() {
            let share = f64::from(pixel.0[0]) / 255.0;
            // Nothing below a quarter of the peak, where maps are noise.
            let alpha = 0.34 * ((share - 0.25) / 0.75).max(0.0);
            if alpha > 0.0 {
                self.blend(i64::from(x), i64::from(y), colour, alpha);
            }
        }
    }

    pub(super) fn blend(&mut self, x: i64, y: i64, colour: Rgb<u8>, alpha: f64) {
        let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else { return };
        if let Some(pixel) = self.image.get_pixel_mut_checked(x, y) {
            for (below, above) in pixel.0.iter_mut().zip(colour.0) {
                *below =
                    (f64::from(*below) * (1.0 - alpha) + f64::from(above) * alpha).round() as u8;
            }
        }
    }

    /// A filled rectangle.
    pub(super) fn plate(&mut self, rect: Rect, colour: Rgb<u8>, alpha: f64) {
        for y in rect.y.round() as i64..rect.bottom().round() as i64 {
            for x in rect.x.round() as i64..rect.right().round() as i64 {
                self.blend(x, y, colour, alpha);
            }
        }
    }

    /// A closed ring with a dark edge, within the picture's `size`.
    pub(super) fn ring(&mut self, ring: &[[f64; 2]], colour: Rgb<u8>, size: (u32, u32)) {
        let within = |p: &[f64; 2]| {
            let axis = |value: f64, side: u32| value.clamp(1.0, f64::from(side.max(3)) - 1.0);
            (p[0].is_finite() && p[1].is_finite()).then(|| [axis(p[0], size.0), axis(p[1], size.1)])
        };
        let points: Vec<[f64; 2]> = ring.iter().filter_map(within).collect();
        let edges = || points.iter().zip(points.iter().cycle().skip(1));
        for (from, to) in edges() {
            self.line(*from, *to, 5.5, Rgb([0, 0, 0]), 0.45);
        }
        for (from, to) in edges() {
            self.line(*from, *to, 3.0, colour, 1.0);
        }
    }

    /// An antialiased line with round ends.
    pub(super) fn line(
        &mut self,
        from: [f64; 2],
        to: [f64; 2],
        width: f64,
        colour: Rgb<u8>,
        alpha: f64,
    ) {
        let half = width / 2.0;
        let reach = half + 1.0;
        let span = |axis: usize, side: u32| {
            let (a, b) = if axis == 0 { (from[0], to[0]) } else { (from[1], to[1]) };
            let low = (a.min(b) - reach).floor().clamp(0.0, f64::from(side)) as i64;
            let high = (a.max(b) + reach).ceil().clamp(0.0, f64::from(side)) as i64;
            low..high
        };
        for y in span(1, self.image.height()) {
            for x in span(0, self.image.width()) {
                let off = from_segment([x as f64 + 0.5, y as f64 + 0.5], from, to);
                let cover = (half + 0.5 - off).clamp(0.0, 1.0);
                if cover > 0.0 {
                    self.blend(x, y, colour, cover * alpha);
                }
            }
        }
    }
}
