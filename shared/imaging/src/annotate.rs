//! The annotated picture: the rendition with heat, outlines and labels burnt in, and a panel beside it that says what was found, by whom,
//! and what the picture is not for.

mod canvas;
mod measured;
mod panel;
mod place;
mod text;

use image::{GrayImage, Rgb, RgbImage};

use crate::{
    PrepareError,
    render::{LONG_SIDE, encode},
    resample::resample,
};
use canvas::{Canvas, Rect};
use text::{Face, Pen};

/// What to draw.
#[derive(Debug, Clone)]
pub struct AnnotationSpec {
    /// What came of the image, in a few words: the panel's heading.
    pub headline: String,
    /// Why, in words; a paragraph each.
    pub lines: Vec<String>,
    /// Every label that was looked for, in the order to be listed. Those at or above their operating point are drawn into the picture.
    pub findings: Vec<AnnotatedFinding>,
    /// What was measured; its lines are drawn into the picture.
    pub measurements: Vec<AnnotatedMeasurement>,
    /// Which models spoke, with their versions; a line each.
    pub models: Vec<String>,
    /// The notice that goes with every finding.
    pub notice: String,
}

/// One label.
#[derive(Debug, Clone)]
pub struct AnnotatedFinding {
    /// Its name.
    pub label: String,
    /// Calibrated probability, 0 to 1.
    pub probability: f64,
    /// Its operating point: at and above this probability it is a finding.
    pub threshold: f64,
    /// Outlines in rendition pixels, each a closed ring of `[x, y]`.
    pub contours: Vec<Vec<[f64; 2]>>,
    /// Heat map of the rendition's size.
    pub heat: Option<GrayImage>,
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct AnnotatedMeasurement {
    /// What was measured.
    pub name: String,
    /// The value as text; absent where there is none.
    pub value: Option<String>,
    /// What a reader must know of the value, or why there is none; a paragraph each.
    pub notes: Vec<String>,
    /// The lines that it follows from: their names, and their ends `[x, y]` in rendition pixels.
    pub lines: Vec<(String, [[f64; 2]; 2])>,
    /// Outlines in rendition pixels, each a closed ring of `[x, y]`.
    pub outlines: Vec<Vec<[f64; 2]>>,
}

impl AnnotatedFinding {
    fn is_finding(&self) -> bool {
        self.probability >= self.threshold
    }
}

/// Colours that keep apart for the colour-blind and on black (Okabe and Ito's, without the two darkest).
const COLOURS: [Rgb<u8>; 6] = [
    Rgb([0xE6, 0x9F, 0x00]),
    Rgb([0x56, 0xB4, 0xE9]),
    Rgb([0xF0, 0xE4, 0x42]),
    Rgb([0xE0, 0x8A, 0xBB]),
    Rgb([0x1F, 0xC2, 0x95]),
    Rgb([0xF2, 0x6B, 0x2A]),
];

/// The picture's long side in the annotated picture; smaller renditions are enlarged to it, so that the text stays in proportion.
const SIDE: u32 = LONG_SIDE;

/// Draws the annotated picture: the rendition at the left with a long side of 1024 pixels, the panel at its right.
pub fn annotate(rendition: &GrayImage, notes: &AnnotationSpec) -> RgbImage {
    let shown = enlarged(rendition);
    let (width, height) = shown.dimensions();
    let scale = [
        f64::from(width) / f64::from(rendition.width().max(1)),
        f64::from(height) / f64::from(rendition.height().max(1)),
    ];
    let pen = Pen::new();
    // Colours go to findings alone, so that the first six never share one.
    let mut coloured = 0;
    let colours: Vec<Option<Rgb<u8>>> = notes
        .findings
        .iter()
        .map(|finding| {
            finding.is_finding().then(|| {
                coloured += 1;
                COLOURS.get((coloured - 1) % COLOURS.len()).copied().unwrap_or(Rgb([255; 3]))
            })
        })
        .collect();
    let panel = panel::Panel::new(&pen, notes, &colours);
    let mut canvas = Canvas::new(width + panel::WIDTH, height.max(panel.height()));
    canvas.picture(&shown);
    let drawn: Vec<(&AnnotatedFinding, Rgb<u8>)> = notes
        .findings
        .iter()
        .zip(&colours)
        .filter_map(|(finding, colour)| Some((finding, (*colour)?)))
        .collect();
    for (finding, colour) in &drawn {
        if let Some(heat) =
            finding.heat.as_ref().filter(|heat| heat.dimensions() == rendition.dimensions())
        {
            canvas.glow(&enlarged(heat), *colour);
        }
    }
    let frame = Rect { x: 0.0, y: 0.0, width: f64::from(width), height: f64::from(height) };
    measured::outlines(&mut canvas, &notes.measurements, scale, frame);
    measured::lines(&mut canvas, &notes.measurements, scale, frame);
    let rings = |finding: &AnnotatedFinding| -> Vec<Vec<[f64; 2]>> {
        let scaled = |ring: &Vec<[f64; 2]>| {
            ring.iter().map(|p| [p[0] * scale[0], p[1] * scale[1]]).collect()
        };
        finding.contours.iter().map(scaled).collect()
    };
    for (finding, colour) in &drawn {
        for ring in rings(finding) {
            canvas.ring(&ring, *colour, (width, height));
        }
    }
    let strip = notice_strip(&mut canvas, &pen, &notes.notice, frame);
    let mut taken = vec![strip];
    for (finding, colour) in &drawn {
        if let Some(region) = place::around(&rings(finding)) {
            tag(&mut canvas, &pen, finding, *colour, region, frame, &mut taken);
        }
    }
    measured::labels(&mut canvas, &pen, &notes.measurements, scale, frame, &mut taken);
    panel.draw(&mut canvas, &pen, width);
    canvas.finish()
}

/// Encodes an annotated picture as PNG.
///
/// # Errors
///
/// Where the encoder fails.
pub fn annotated_png(picture: &RgbImage) -> Result<Vec<u8>, PrepareError> {
    encode(picture.as_raw(), picture.dimensions(), image::ExtendedColorType::Rgb8)
}

/// A probability as text: whole per cent, and never 0 or 100 of what is neither.
fn per_cent(probability: f64) -> String {
    match probability * 100.0 {
        p if p > 99.0 && p < 100.0 => ">99 %".to_owned(),
        p if p > 0.0 && p < 1.0 => "<1 %".to_owned(),
        p => format!("{p:.0} %"),
    }
}

fn enlarged(grey: &GrayImage) -> GrayImage {
    let (width, height) = grey.dimensions();
    let long = width.max(height).max(1);
    if long == SIDE {
        return grey.clone();
    }
    let side = |side: u32| {
        ((f64::from(side) * f64::from(SIDE) / f64::from(long)).round() as u32).clamp(1, SIDE)
    };
    let target = (side(width), side(height));
    let pixels = grey.as_raw();
    let values = resample(
        |index| pixels.get(index).copied().unwrap_or_default().into(),
        (width, height),
        target,
    );
    GrayImage::from_raw(
        target.0,
        target.1,
        values.into_iter().map(|value| value.round() as u8).collect(),
    )
    .unwrap_or_else(|| GrayImage::new(target.0, target.1))
}

/// The notice within the picture itself, which a crop of the panel would not take away.
fn notice_strip(canvas: &mut Canvas, pen: &Pen, notice: &str, frame: Rect) -> Rect {
    let size = 17.0;
    let text = pen.fitted(notice, Face::Regular, size, frame.width - 24.0);
    let strip = Rect {
        x: 6.0,
        y: frame.height - 32.0,
        width: pen.width(&text, Face::Regular, size) + 16.0,
        height: 26.0,
    };
    canvas.plate(strip, Rgb([0, 0, 0]), 0.6);
    pen.write(
        canvas,
        &text,
        Face::Regular,
        size,
        (strip.x + 8.0, strip.y + 19.0),
        Rgb([0xE8, 0xD9, 0xA8]),
    );
    strip
}

/// The label beside a region.
fn tag(
    canvas: &mut Canvas,
    pen: &Pen,
    finding: &AnnotatedFinding,
    colour: Rgb<u8>,
    region: Rect,
    frame: Rect,
    taken: &mut Vec<Rect>,
) {
    let size = 22.0;
    let share = per_cent(finding.probability);
    let share_width = pen.width(&share, Face::Regular, size);
    let label =
        pen.fitted(&finding.label, Face::Bold, size, (frame.width - share_width - 60.0).max(40.0));
    let label_width = pen.width(&label, Face::Bold, size);
    let plate = (label_width + share_width + 38.0, 34.0);
    let at = place::free(region, plate, frame, taken);
    if let Some((from, to)) = place::leader(at, region) {
        canvas.line(from, to, 2.0, colour, 0.9);
    }
    canvas.plate(at, Rgb([8, 10, 12]), 0.8);
    canvas.plate(Rect { width: 5.0, ..at }, colour, 1.0);
    let base = at.y + 25.0;
    pen.write(canvas, &label, Face::Bold, size, (at.x + 14.0, base), Rgb([255, 255, 255]));
    pen.write(canvas, &share, Face::Regular, size, (at.x + 24.0 + label_width, base), colour);
    taken.push(at);
}

#[cfg(test)]
mod tests;
