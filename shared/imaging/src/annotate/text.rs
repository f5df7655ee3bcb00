//! Text in DejaVu Sans.

use ab_glyph::{Font as _, FontRef, PxScale, ScaleFont as _};
use image::Rgb;

use super::canvas::Canvas;

/// Regular or bold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    Regular,
    Bold,
}

/// Writes text. The fonts are part of the program; a test holds that they can be read.
pub(super) struct Pen {
    regular: Option<FontRef<'static>>,
    bold: Option<FontRef<'static>>,
}

impl Pen {
    pub(super) fn new() -> Self {
        let font = |bytes| FontRef::try_from_slice(bytes).ok();
        Self { regular: font(dejavu::sans::regular()), bold: font(dejavu::sans::bold()) }
    }

    fn font(&self, face: Face) -> Option<&FontRef<'static>> {
        match face {
            Face::Regular => self.regular.as_ref(),
            Face::Bold => self.bold.as_ref(),
        }
    }

    /// The width of `text` in pixels.
    pub(super) fn width(&self, text: &str, face: Face, size: f64) -> f64 {
        let Some(font) = self.font(face) else { return 0.0 };
        let font = font.as_scaled(PxScale::from(pixels_per_em(size)));
        text.chars().map(|c| f64::from(font.h_advance(font.glyph_id(c)))).sum()
    }

    /// Writes `text` from `(x, baseline)` on.
    pub(super) fn write(
        &self,
        canvas: &mut Canvas,
        text: &str,
        face: Face,
        size: f64,
        (x, baseline): (f64, f64),
        colour: Rgb<u8>,
    ) {
        let Some(font) = self.font(face) else { return };
        let scale = PxScale::from(pixels_per_em(size));
        let scaled = font.as_scaled(scale);
        let mut at = x as f32;
        for letter in text.chars() {
            let id = scaled.glyph_id(letter);
            let glyph = id.with_scale_and_position(scale, ab_glyph::point(at, baseline as f32));
            at += scaled.h_advance(id);
            if let Some(outline) = font.outline_glyph(glyph) {
                let corner = outline.px_bounds().min;
                outline.draw(|dx, dy, cover| {
                    let (x, y) = (corner.x as i64 + i64::from(dx), corner.y as i64 + i64::from(dy));
                    canvas.blend(x, y, colour, f64::from(cover.clamp(0.0, 1.0)));
                });
            }
        }
    }

    /// `text` without control characters, cut with an ellipsis to at most `width` pixels.
    pub(super) fn fitted(&self, text: &str, face: Face, size: f64, width: f64) -> String {
        let clean: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        if self.width(&clean, face, size) <= width {
            return clean;
        }
        let mut cut = String::new();
        for letter in clean.chars() {
            cut.push(letter);
            if self.width(&cut, face, size) + self.width("…", face, size) > width {
                cut.pop();
                break;
            }
        }
        cut.truncate(cut.trim_end().len());
        cut + "…"
    }

    /// `text` in lines of at most `width` pixels, at most `most` of them; the last one shows by an ellipsis that there is more.
    pub(super) fn wrapped(
        &self,
        text: &str,
        face: Face,
        size: f64,
        width: f64,
        most: usize,
    ) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split_whitespace().take(400) {
            let joined = lines
                .last()
                .map(|line| format!("{line} {word}"))
                .filter(|line| self.width(line, face, size) <= width);
            let full = lines.len() == most;
            match (joined, lines.last_mut()) {
                (Some(joined), Some(last)) => *last = joined,
                (None, Some(last)) if full => {
                    *last = self.fitted(&format!("{last} {word}"), face, size, width);
                    break;
                }
                _ => lines.push(self.fitted(word, face, size, width)),
            }
        }
        lines
    }
}

/// `size` is the em in pixels, as elsewhere; ab_glyph's scale is the height from ascent to descent.
fn pixels_per_em(size: f64) -> f32 {
    // DejaVu Sans: (1901 + 483) of 2048 units.
    (size * 2384.0 / 2048.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fonts_are_there_and_text_fits() {
        let pen = Pen::new();
        assert!(
            pen.width("Cardiomegaly", Face::Bold, 20.0)
                > pen.width("Cardiomegaly", Face::Regular, 20.0)
        );
        let long = "pleural effusion with a long explanation of why ".repeat(9);
        for width in [30.0, 90.0, 333.0] {
            let fitted = pen.fitted(&long, Face::Regular, 18.0, width);
            assert!(pen.width(&fitted, Face::Regular, 18.0) <= width && fitted.ends_with('…'));
            let lines = pen.wrapped(&long, Face::Regular, 18.0, width, 3);
            assert_eq!(lines.len(), 3);
            assert!(
                lines.iter().all(|line| pen.width(line, Face::Regular, 18.0) <= width),
                "{lines:?}"
            );
            assert!(lines[2].ends_with('…'));
        }
        assert_eq!(pen.wrapped("no finding", Face::Regular, 18.0, 333.0, 3), ["no finding"]);
    }
}
