//! From a class-activation map to a heat map and an outlined region.

use std::collections::VecDeque;

use duet_case::PixelBox;
use image::GrayImage;

use crate::{PrepareError, render::grey_png, resample::resample};

/// Where the evidence for one label lies.
#[derive(Debug, Clone)]
pub struct Heat {
    /// The map at the rendition's size: 255 at the peak, 0 where nothing speaks for the label.
    pub map: GrayImage,
    /// The box around the region, in rendition pixels.
    pub bounds: PixelBox,
    /// The region's outlines in rendition pixels, each a closed ring of `[x, y]`; together fewer than 200 points.
    pub contours: Vec<Vec<[f64; 2]>>,
}

impl Heat {
    /// The same on a picture of `size` (width, height), of which this is the part whose upper left corner is `at`.
    #[must_use]
    pub fn within(self, at: (u32, u32), size: (u32, u32)) -> Self {
        if at == (0, 0) && self.map.dimensions() == size {
            return self;
        }
        let mut map = GrayImage::new(size.0, size.1);
        image::imageops::replace(&mut map, &self.map, at.0.into(), at.1.into());
        let (x, y) = (f64::from(at.0), f64::from(at.1));
        let moved = |ring: Vec<[f64; 2]>| ring.into_iter().map(|p| [p[0] + x, p[1] + y]).collect();
        Self {
            map,
            bounds: PixelBox { x: self.bounds.x + x, y: self.bounds.y + y, ..self.bounds },
            contours: self.contours.into_iter().map(moved).collect(),
        }
    }

    /// The map as an eight-bit grey PNG.
    ///
    /// # Errors
    ///
    /// Where the encoder fails.
    pub fn png(&self) -> Result<Vec<u8>, PrepareError> {
        grey_png(&self.map)
    }
}

/// Turns a class-activation map into a heat map and a region.
///
/// `cam` holds `grid` (width, height) contributions to a logit, row by row. It is interpolated bilinearly to `rendition`'s
/// size, what speaks against the label is cut off at 0 and the rest is divided by its peak. The region is what holds
/// together with the peak at half of it and above.
///
/// `None` where the map has no positive peak (or is no map: wrong length, not finite, no area).
pub fn heat(cam: &[f32], grid: (u32, u32), rendition: (u32, u32)) -> Option<Heat> {
    let cells = u64::from(grid.0) * u64::from(grid.1);
    let (width, height) = rendition;
    if cam.len() as u64 != cells
        || cells == 0
        || width == 0
        || height == 0
        || cam.iter().any(|value| !value.is_finite())
    {
        return None;
    }
    let smooth = resample(|index| cam.get(index).copied().unwrap_or_default(), grid, rendition);
    let (at, peak) = smooth.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
    if peak <= 0.0 {
        return None;
    }
    let shares: Vec<f32> = smooth.iter().map(|value| (value / peak).clamp(0.0, 1.0)).collect();
    let region = connected(&shares, width, height, at);
    let contours = simplified(outlines(&shares, &region, width, height));
    let map = GrayImage::from_raw(
        width,
        height,
        shares.iter().map(|share| (share * 255.0).round() as u8).collect(),
    )?;
    Some(Heat { map, bounds: bounds(&region, width)?, contours })
}

/// At and above this share of the peak a pixel belongs to the region.
const LEVEL: f32 = 0.5;

/// The pixels at or above [`LEVEL`] that hold together (by their sides) with the one `at`.
fn connected(shares: &[f32], width: u32, height: u32, at: usize) -> Vec<bool> {
    let (width, height) = (width as usize, height as usize);
    let mut region = vec![false; shares.len()];
    let mut queue = VecDeque::from([at]);
    while let Some(index) = queue.pop_front() {
        let inside = shares.get(index).is_some_and(|&share| share >= LEVEL);
        match region.get_mut(index) {
            Some(seen @ false) if inside => *seen = true,
            _ => continue,
        }
        let (x, y) = (index % width, index / width);
        let neighbours = [
            (x > 0).then(|| index - 1),
            (x + 1 < width).then_some(index + 1),
            (y > 0).then(|| index - width),
            (y + 1 < height).then_some(index + width),
        ];
        queue.extend(neighbours.into_iter().flatten());
    }
    region
}

fn bounds(region: &[bool], width: u32) -> Option<PixelBox> {
    let width = width as usize;
    let inside = || {
        region
            .iter()
            .enumerate()
            .filter(|(_, inside)| **inside)
            .map(|(index, _)| (index % width, index / width))
    };
    let (left, right) = (inside().map(|p| p.0).min()?, inside().map(|p| p.0).max()?);
    let (top, bottom) = (inside().map(|p| p.1).min()?, inside().map(|p| p.1).max()?);
    Some(PixelBox {
        x: left as f64,
        y: top as f64,
        width: (right + 1 - left) as f64,
        height: (bottom + 1 - top) as f64,
    })
}

/// The region's borders by marching squares: through the points between pixel centres where the map crosses [`LEVEL`].
/// Beyond the picture the map counts as 0, so that every border closes within it.
pub(crate) fn outlines(
    shares: &[f32],
    region: &[bool],
    width: u32,
    height: u32,
) -> Vec<Vec<[f64; 2]>> {
    let (columns, rows) = (i64::from(width), i64::from(height));
    let value = |x: i64, y: i64| -> f64 {
        if x < 0 || y < 0 || x >= columns || y >= rows {
            return 0.0;
        }
        let index = (y * columns + x) as usize;
        let share = f64::from(shares.get(index).copied().unwrap_or_default());
        // Another region that touches this one by a corner is outside of it.
        let own = region.get(index).copied().unwrap_or_default();
        if own { share } else { share.min(f64::from(LEVEL) * 0.999) }
    };
    let level = f64::from(LEVEL);
    let mut visited = std::collections::HashSet::new();
    let mut rings = Vec::new();
    for y in 0..rows {
        for x in 0..columns {
            // Every border has an edge with the region right of it and nothing left of it.
            if value(x, y) < level || value(x - 1, y) >= level || visited.contains(&(x, y, 0_u8)) {
                continue;
            }
            let mut ring = Vec::new();
            // A pixel of the region and the side of it that the border runs along: 0 left, 1 top, 2 right, 3 bottom;
            // the border goes round clockwise, with the region on its right.
            let mut state = (x, y, 0_u8);
            while visited.insert(state) {
                let (px, py, side) = state;
                let (dx, dy) = [(-1, 0), (0, -1), (1, 0), (0, 1)]
                    .get(usize::from(side))
                    .copied()
                    .unwrap_or((-1, 0));
                let (inside, outside) = (value(px, py), value(px + dx, py + dy));
                let share = ((inside - level) / (inside - outside).max(1e-9)).clamp(0.0, 1.0);
                let on = |p: i64, d: i64, end: i64| {
                    (p as f64 + 0.5 + d as f64 * share).clamp(0.0, end as f64)
                };
                ring.push([on(px, dx, columns), on(py, dy, rows)]);
                // Ahead along this side, clockwise.
                let (ax, ay) = (-dy, dx);
                let diagonal = value(px + ax + dx, py + ay + dy) >= level;
                let ahead = value(px + ax, py + ay) >= level;
                state = if ahead && diagonal {
                    (px + ax + dx, py + ay + dy, (side + 3) % 4)
                } else if ahead {
                    (px + ax, py + ay, side)
                } else {
                    (px, py, (side + 1) % 4)
                };
            }
            if ring.len() >= 4 {
                rings.push(ring);
            }
        }
    }
    rings
}

/// Fewer than 200 points in all rings: the tolerance grows until they are.
pub(crate) fn simplified(rings: Vec<Vec<[f64; 2]>>) -> Vec<Vec<[f64; 2]>> {
    let mut tolerance = 0.75;
    loop {
        let simple: Vec<_> = rings
            .iter()
            .map(|ring| simplify(ring, tolerance))
            .filter(|ring| ring.len() >= 3)
            .collect();
        if simple.iter().map(Vec::len).sum::<usize>() < 200 || tolerance > 1024.0 {
            return simple;
        }
        tolerance *= 1.5;
    }
}

/// Ramer, Douglas and Peucker on a closed ring, cut at its first point and the one farthest from it.
fn simplify(ring: &[[f64; 2]], tolerance: f64) -> Vec<[f64; 2]> {
    let Some(&start) = ring.first() else { return Vec::new() };
    let far = ring
        .iter()
        .enumerate()
        .max_by(|a, b| distance(*a.1, start).total_cmp(&distance(*b.1, start)));
    let Some((far, _)) = far.filter(|(index, _)| *index > 0) else { return ring.to_vec() };
    let mut keep = vec![false; ring.len() + 1];
    let point = |index: usize| ring.get(index % ring.len()).copied().unwrap_or(start);
    let mut spans = vec![(0, far), (far, ring.len())];
    for index in [0, far] {
        if let Some(kept) = keep.get_mut(index) {
            *kept = true;
        }
    }
    while let Some((from, to)) = spans.pop() {
        let off = |index: usize| from_segment(point(index), point(from), point(to));
        let worst = (from + 1..to).max_by(|&a, &b| off(a).total_cmp(&off(b)));
        if let Some(worst) = worst.filter(|&worst| off(worst) > tolerance) {
            if let Some(kept) = keep.get_mut(worst) {
                *kept = true;
            }
            spans.extend([(from, worst), (worst, to)]);
        }
    }
    ring.iter().zip(&keep).filter(|(_, kept)| **kept).map(|(point, _)| *point).collect()
}

fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

/// How far `point` is from the segment between `a` and `b`.
pub(crate) fn from_segment(point: [f64; 2], a: [f64; 2], b: [f64; 2]) -> f64 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let squared = dx * dx + dy * dy;
    let along = if squared > 0.0 {
        ((point[0] - a[0]) * dx + (point[1] - a[1]) * dy) / squared
    } else {
        0.0
    };
    let along = along.clamp(0.0, 1.0);
    distance(point, [a[0] + along * dx, a[1] + along * dy])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_region_is_where_the_peak_is() {
        let mut cam = vec![-1.0; 16];
        cam[5] = 4.0;
        cam[15] = 1.0;
        let heat = heat(&cam, (4, 4), (400, 200)).unwrap();
        // Cell (1, 1) of 4 x 4: its centre is at (150, 75).
        let PixelBox { x, y, width, height } = heat.bounds;
        assert!(
            (x + width / 2.0 - 150.0).abs() < 2.0 && (y + height / 2.0 - 75.0).abs() < 2.0,
            "{:?}",
            heat.bounds
        );
        assert!(width < 150.0 && height < 75.0, "{:?}", heat.bounds);
        assert_eq!(heat.contours.len(), 1);
        assert!((60..70).contains(&heat.map.get_pixel(390, 190).0[0]));
        assert_eq!(heat.map.pixels().map(|p| p.0[0]).max(), Some(255));
    }

    #[test]
    fn a_part_keeps_its_place_in_the_whole() {
        let part = heat(&[0.0, 0.0, 0.0, 4.0], (2, 2), (100, 100)).unwrap();
        let whole = part.clone().within((50, 10), (200, 120));
        assert_eq!(whole.map.dimensions(), (200, 120));
        assert_eq!(whole.bounds.x, part.bounds.x + 50.0);
        assert_eq!(whole.bounds.y, part.bounds.y + 10.0);
        assert_eq!(
            whole.contours[0][0],
            [part.contours[0][0][0] + 50.0, part.contours[0][0][1] + 10.0]
        );
        assert_eq!(whole.map.get_pixel(149, 109), part.map.get_pixel(99, 99));
        assert_eq!(whole.map.get_pixel(49, 109).0, [0], "nothing where the model did not look");
    }

    #[test]
    fn no_peak_no_region() {
        for cam in [vec![0.0; 4], vec![-1.0; 4], vec![f32::NAN; 4], vec![1.0; 3], vec![]] {
            assert!(heat(&cam, (2, 2), (64, 64)).is_none(), "{cam:?}");
        }
    }

    proptest! {
        #[test]
        fn regions_stay_within_the_picture(cam in prop::collection::vec(-3.0..3.0_f32, 48), w in 1..300_u32, h in 1..300_u32) {
            if let Some(heat) = heat(&cam, (8, 6), (w, h)) {
                let b = heat.bounds;
                prop_assert!(b.x >= 0.0 && b.y >= 0.0 && b.x + b.width <= f64::from(w) && b.y + b.height <= f64::from(h));
                let points: Vec<_> = heat.contours.concat();
                prop_assert!(points.len() < 200);
                prop_assert!(points.iter().all(|p| (b.x - 1.0..=b.x + b.width + 1.0).contains(&p[0]) && (b.y - 1.0..=b.y + b.height + 1.0).contains(&p[1])));
            }
        }
    }
}
