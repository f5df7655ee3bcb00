//! Measurements in the picture: thin outlines, and lines with ends and labels, in no finding's colour.

use image::Rgb;

use super::{
    AnnotatedMeasurement,
    canvas::{Canvas, Rect},
    place,
    text::{Face, Pen},
};

const INK: Rgb<u8> = Rgb([0xFF, 0xFF, 0xFF]);
const SHADE: Rgb<u8> = Rgb([0, 0, 0]);
/// Half the length of the strokes at a line's ends, in pixels.
const END: f64 = 11.0;
const SIZE: f64 = 18.0;

/// The outlines, beneath everything else that is drawn.
pub(super) fn outlines(
    canvas: &mut Canvas,
    measured: &[AnnotatedMeasurement],
    scale: [f64; 2],
    frame: Rect,
) {
    for ring in measured.iter().flat_map(|own| &own.outlines) {
        let points: Vec<_> = ring.iter().filter_map(|point| within(*point, scale, frame)).collect();
        // Dark beneath: films are white and black.
        for (width, colour, alpha) in [(3.5, SHADE, 0.3), (1.5, INK, 0.7)] {
            for (from, to) in points.iter().zip(points.iter().cycle().skip(1)) {
                canvas.line(*from, *to, width, colour, alpha);
            }
        }
    }
}

/// The lines.
pub(super) fn lines(
    canvas: &mut Canvas,
    measured: &[AnnotatedMeasurement],
    scale: [f64; 2],
    frame: Rect,
) {
    for [from, to] in drawn(measured, scale, frame).map(|(_, ends)| ends) {
        let strokes = [
            (from, to),
            ([from[0], from[1] - END], [from[0], from[1] + END]),
            ([to[0], to[1] - END], [to[0], to[1] + END]),
        ];
        for (width, colour, alpha) in [(6.0, SHADE, 0.85), (2.5, INK, 1.0)] {
            for (from, to) in strokes {
                canvas.line(from, to, width, colour, alpha);
            }
        }
    }
}

/// The lines' labels, on none of `taken`.
pub(super) fn labels(
    canvas: &mut Canvas,
    pen: &Pen,
    measured: &[AnnotatedMeasurement],
    scale: [f64; 2],
    frame: Rect,
    taken: &mut Vec<Rect>,
) {
    for (name, [from, to]) in drawn(measured, scale, frame) {
        let text = pen.fitted(name, Face::Regular, SIZE, frame.width / 3.0);
        let plate = (pen.width(&text, Face::Regular, SIZE) + 16.0, 26.0);
        // Above the line's middle third, where nothing of the film's edge hides it.
        let width = (to[0] - from[0]).abs();
        let line = Rect {
            x: from[0].min(to[0]) + width / 2.0 - plate.0 / 2.0,
            y: from[1].min(to[1]) - 3.0,
            width: plate.0,
            height: 6.0,
        };
        let at = place::free(line, plate, frame, taken);
        canvas.plate(at, Rgb([8, 10, 12]), 0.75);
        pen.write(canvas, &text, Face::Regular, SIZE, (at.x + 8.0, at.y + 19.0), INK);
        taken.push(at);
    }
}

fn drawn(
    measured: &[AnnotatedMeasurement],
    scale: [f64; 2],
    frame: Rect,
) -> impl Iterator<Item = (&str, [[f64; 2]; 2])> {
    measured.iter().flat_map(|own| &own.lines).filter_map(move |(name, [from, to])| {
        Some((name.as_str(), [within(*from, scale, frame)?, within(*to, scale, frame)?]))
    })
}

fn within(point: [f64; 2], scale: [f64; 2], frame: Rect) -> Option<[f64; 2]> {
    let [x, y] = [point[0] * scale[0], point[1] * scale[1]];
    let axis = |value: f64, side: f64| value.clamp(1.0, side.max(3.0) - 1.0);
    (x.is_finite() && y.is_finite()).then(|| [axis(x, frame.width), axis(y, frame.height)])
}
