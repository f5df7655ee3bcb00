//! The panel beside the picture: headline, reasons, legend, models, notice.

use image::Rgb;

use super::{AnnotationSpec, Canvas, Face, Pen, Rect, per_cent};

/// The panel's width in pixels.
pub(super) const WIDTH: u32 = 480;
const MARGIN: f64 = 26.0;
const INNER: f64 = WIDTH as f64 - 2.0 * MARGIN;

/// The notice's size: what Duet says fits one line.
const NOTICE: f64 = 18.0;

const PAPER: Rgb<u8> = Rgb([0x15, 0x19, 0x1E]);
const INK: Rgb<u8> = Rgb([0xF2, 0xF4, 0xF6]);
const QUIET: Rgb<u8> = Rgb([0xA9, 0xB2, 0xBC]);
const RULE: Rgb<u8> = Rgb([0x38, 0x40, 0x4A]);
const WARNING: Rgb<u8> = Rgb([0xFF, 0xD3, 0x66]);

/// What stands in the panel, laid out from the top.
enum Block {
    Text { text: String, face: Face, size: f64, colour: Rgb<u8> },
    Row { label: String, value: String, probability: f64, threshold: f64, colour: Option<Rgb<u8>> },
    Rule,
    Space(f64),
}

impl Block {
    fn height(&self) -> f64 {
        match self {
            Self::Text { size, .. } => (size * 1.36).round(),
            Self::Row { colour: Some(_), .. } => 52.0,
            Self::Row { .. } => 29.0,
            Self::Rule => 27.0,
            Self::Space(height) => *height,
        }
    }
}

pub(super) struct Panel {
    blocks: Vec<Block>,
    notice: Vec<String>,
}

impl Panel {
    pub(super) fn new(pen: &Pen, notes: &AnnotationSpec, colours: &[Option<Rgb<u8>>]) -> Self {
        let mut blocks = Vec::new();
        let paragraph = |blocks: &mut Vec<Block>, text: &str, face, size, colour, most| {
            let lines = pen.wrapped(text, face, size, INNER, most);
            blocks.extend(lines.into_iter().map(|text| Block::Text { text, face, size, colour }));
        };
        paragraph(&mut blocks, &notes.headline, Face::Bold, 31.0, INK, 3);
        blocks.push(Block::Space(6.0));
        for line in notes.lines.iter().take(8) {
            paragraph(&mut blocks, line, Face::Regular, 20.0, QUIET, 3);
            blocks.push(Block::Space(5.0));
        }
        let (found, below): (Vec<_>, Vec<_>) =
            notes.findings.iter().zip(colours).partition(|(_, colour)| colour.is_some());
        for (title, rows) in [("Findings", found), ("Below operating point", below)] {
            if rows.is_empty() {
                continue;
            }
            blocks.push(Block::Rule);
            paragraph(&mut blocks, title, Face::Bold, 19.0, QUIET, 1);
            blocks.push(Block::Space(7.0));
            for (finding, colour) in rows.into_iter().take(24) {
                let value =
                    format!("{} / {}", per_cent(finding.probability), per_cent(finding.threshold));
                let (face, size) =
                    if colour.is_some() { (Face::Bold, 21.0) } else { (Face::Regular, 18.0) };
                let room = INNER - 22.0 - pen.width(&value, Face::Regular, size) - 12.0;
                let label = pen.fitted(&finding.label, face, size, room);
                blocks.push(Block::Row {
                    label,
                    value,
                    probability: finding.probability,
                    threshold: finding.threshold,
                    colour: *colour,
                });
            }
        }
        if !notes.findings.is_empty() {
            blocks.push(Block::Space(4.0));
            paragraph(&mut blocks, "probability / operating point", Face::Regular, 16.0, QUIET, 1);
        }
        for own in notes.measurements.iter().take(4) {
            blocks.push(Block::Rule);
            paragraph(&mut blocks, "Measured", Face::Bold, 19.0, QUIET, 1);
            blocks.push(Block::Space(5.0));
            let value = own.value.as_deref().unwrap_or("no value");
            let title = format!("{} {value}", own.name);
            paragraph(&mut blocks, &title, Face::Bold, 21.0, INK, 2);
            for note in own.notes.iter().take(4) {
                blocks.push(Block::Space(3.0));
                paragraph(&mut blocks, note, Face::Regular, 17.0, QUIET, 4);
            }
        }
        blocks.push(Block::Rule);
        for model in notes.models.iter().take(6) {
            paragraph(&mut blocks, model, Face::Regular, 17.0, QUIET, 2);
        }
        Self { blocks, notice: pen.wrapped(&notes.notice, Face::Bold, NOTICE, INNER - 28.0, 3) }
    }

    /// The height that the panel needs.
    pub(super) fn height(&self) -> u32 {
        let blocks: f64 = self.blocks.iter().map(Block::height).sum();
        (2.0 * MARGIN + blocks + 20.0 + self.notice_height()).ceil() as u32
    }

    fn notice_height(&self) -> f64 {
        self.notice.len() as f64 * 27.0 + 24.0
    }

    /// Draws the panel from `left` to the canvas's right edge, the notice at its foot.
    pub(super) fn draw(&self, canvas: &mut Canvas, pen: &Pen, left: u32) {
        let (left, bottom) = (f64::from(left), f64::from(canvas.height()));
        canvas.plate(Rect { x: left, y: 0.0, width: WIDTH.into(), height: bottom }, PAPER, 1.0);
        let x = left + MARGIN;
        let mut y = MARGIN;
        for block in &self.blocks {
            match block {
                Block::Text { text, face, size, colour } => {
                    pen.write(canvas, text, *face, *size, (x, y + size), *colour)
                }
                Block::Rule => {
                    canvas.plate(Rect { x, y: y + 13.0, width: INNER, height: 1.0 }, RULE, 1.0)
                }
                Block::Row { label, value, probability, threshold, colour } => {
                    row(canvas, pen, (x, y), (label, value), (*probability, *threshold), *colour);
                }
                Block::Space(_) => {}
            }
            y += block.height();
        }
        let height = self.notice_height();
        let plate = Rect { x, y: bottom - MARGIN - height, width: INNER, height };
        canvas.plate(plate, WARNING, 0.13);
        canvas.plate(Rect { width: 4.0, ..plate }, WARNING, 1.0);
        for (index, line) in self.notice.iter().enumerate() {
            pen.write(
                canvas,
                line,
                Face::Bold,
                NOTICE,
                (x + 18.0, plate.y + 33.0 + 27.0 * index as f64 - 1.0),
                WARNING,
            );
        }
    }
}

/// One label: its colour, name, figures, and a bar with a tick at the operating point.
fn row(
    canvas: &mut Canvas,
    pen: &Pen,
    (x, y): (f64, f64),
    (label, value): (&str, &str),
    (probability, threshold): (f64, f64),
    colour: Option<Rgb<u8>>,
) {
    let text_x = x + 22.0;
    let Some(colour) = colour else {
        pen.write(canvas, label, Face::Regular, 18.0, (text_x, y + 18.0), QUIET);
        let width = pen.width(value, Face::Regular, 18.0);
        pen.write(canvas, value, Face::Regular, 18.0, (x + INNER - width, y + 18.0), QUIET);
        return;
    };
    canvas.plate(Rect { x, y: y + 5.0, width: 12.0, height: 38.0 }, colour, 1.0);
    pen.write(canvas, label, Face::Bold, 21.0, (text_x, y + 21.0), INK);
    let width = pen.width(value, Face::Regular, 21.0);
    pen.write(canvas, value, Face::Regular, 21.0, (x + INNER - width, y + 21.0), INK);
    let bar = Rect { x: text_x, y: y + 33.0, width: INNER - 22.0, height: 7.0 };
    canvas.plate(bar, RULE, 1.0);
    canvas.plate(Rect { width: bar.width * probability.clamp(0.0, 1.0), ..bar }, colour, 1.0);
    let tick = bar.x + bar.width * threshold.clamp(0.0, 1.0);
    canvas.plate(
        Rect { x: tick - 1.0, y: bar.y - 4.0, width: 3.0, height: bar.height + 8.0 },
        INK,
        1.0,
    );
}
