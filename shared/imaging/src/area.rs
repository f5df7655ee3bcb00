//! From a mask's logits to an outlined area with its extent.

use crate::{
    heat::{outlines, simplified},
    resample::resample,
};

/// Masks are enlarged to this many pixels a side before they are cut, so that an edge is not as coarse as the model's
/// own grid; a model whose grid is finer keeps its own.
const SIDE: u32 = 512;

/// The largest connected piece of a mask. Lengths are shares of the picture's width and height, from its top left.
#[derive(Debug, Clone, PartialEq)]
pub struct Area {
    /// Left edge.
    pub left: f64,
    /// Right edge.
    pub right: f64,
    /// Top edge.
    pub top: f64,
    /// Bottom edge.
    pub bottom: f64,
    /// How far down the outermost left point is.
    pub left_at: f64,
    /// How far down the outermost right point is.
    pub right_at: f64,
    /// Centre of gravity.
    pub centre: [f64; 2],
    /// Share of the picture.
    pub share: f64,
    /// Share of all that the mask marks.
    pub whole: f64,
    /// Mean probability of its pixels, from 0.5 on: low where the model does not know what it sees.
    pub certainty: f64,
    /// Outlines, each a closed ring of `[x, y]`; together fewer than 200 points.
    pub contours: Vec<Vec<[f64; 2]>>,
}

/// Turns a mask's `logits` (`grid` is width and height, row by row, above zero is inside) into an area: enlarged
/// bilinearly, cut at zero, the largest piece that holds together by its pixels' sides.
///
/// `None` where nothing is inside (or the logits are no mask: wrong length, not finite, no area).
pub fn area(logits: &[f32], grid: (u32, u32)) -> Option<Area> {
    let cells = u64::from(grid.0) * u64::from(grid.1);
    if logits.len() as u64 != cells || cells == 0 || logits.iter().any(|value| !value.is_finite()) {
        return None;
    }
    let (width, height) = (grid.0.max(SIDE), grid.1.max(SIDE));
    let plane =
        resample(|index| logits.get(index).copied().unwrap_or_default(), grid, (width, height));
    let pieces = pieces(&plane, width as usize);
    let marked: usize = pieces.iter().map(Vec::len).sum();
    // The first of several that are equally large, as everywhere else.
    let largest = pieces.into_iter().rev().max_by_key(Vec::len)?;

    let mut region = vec![false; plane.len()];
    for &index in &largest {
        if let Some(inside) = region.get_mut(index) {
            *inside = true;
        }
    }
    let shares: Vec<f32> = plane.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect();
    let (across, down) = (f64::from(width), f64::from(height));
    let rings = simplified(outlines(&shares, &region, width, height));
    let scaled = |ring: Vec<[f64; 2]>| ring.iter().map(|[x, y]| [x / across, y / down]).collect();
    let place = |index: usize| (index % width as usize, index / width as usize);
    let extent = extent(largest.iter().map(|&index| place(index)))?;
    let n = largest.len() as f64;
    let mean = |sum: f64| sum / n + 0.5;
    Some(Area {
        left: extent.left.0 as f64 / across,
        right: (extent.right.0 + 1) as f64 / across,
        top: extent.top as f64 / down,
        bottom: (extent.bottom + 1) as f64 / down,
        left_at: extent.left.1 / down,
        right_at: extent.right.1 / down,
        centre: [
            mean(largest.iter().map(|&index| place(index).0 as f64).sum()) / across,
            mean(largest.iter().map(|&index| place(index).1 as f64).sum()) / down,
        ],
        share: n / (across * down),
        whole: n / marked.max(1) as f64,
        certainty: largest
            .iter()
            .filter_map(|&index| shares.get(index))
            .map(|p| f64::from(*p))
            .sum::<f64>()
            / n,
        contours: rings.into_iter().map(scaled).collect(),
    })
}

/// The pixels above zero, by the pieces in which they hold together.
fn pieces(plane: &[f32], width: usize) -> Vec<Vec<usize>> {
    let mut open: Vec<bool> = plane.iter().map(|value| *value > 0.0).collect();
    let mut pieces = Vec::new();
    let mut stack = Vec::new();
    for start in 0..open.len() {
        stack.push(start);
        let mut piece = Vec::new();
        while let Some(index) = stack.pop() {
            match open.get_mut(index) {
                Some(seen @ true) => *seen = false,
                _ => continue,
            }
            piece.push(index);
            if index % width > 0 {
                stack.push(index - 1);
            }
            if index % width + 1 < width {
                stack.push(index + 1);
            }
            stack.extend(index.checked_sub(width));
            stack.push(index + width);
        }
        if !piece.is_empty() {
            pieces.push(piece);
        }
    }
    pieces
}

/// The outermost pixels: a column and how far down its pixels of the area lie on average, and rows.
struct Extent {
    left: (usize, f64),
    right: (usize, f64),
    top: usize,
    bottom: usize,
}

fn extent(pixels: impl Iterator<Item = (usize, usize)> + Clone) -> Option<Extent> {
    let columns = || pixels.clone().map(|(x, _)| x);
    let rows = || pixels.clone().map(|(_, y)| y);
    let (left, right) = (columns().min()?, columns().max()?);
    let middle = |column: usize| {
        let own = pixels.clone().filter(|(x, _)| *x == column);
        let (sum, count) =
            own.fold((0.0, 0.0), |(sum, count), (_, y)| (sum + y as f64 + 0.5, count + 1.0));
        sum / f64::max(count, 1.0)
    };
    Some(Extent {
        left: (left, middle(left)),
        right: (right, middle(right)),
        top: rows().min()?,
        bottom: rows().max()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A grid of 128 with boxes `(left, top, right, bottom)` inside.
    fn logits(boxes: &[(usize, usize, usize, usize)]) -> Vec<f32> {
        let inside =
            |x, y| boxes.iter().any(|&(l, t, r, b)| (l..r).contains(&x) && (t..b).contains(&y));
        (0..128 * 128).map(|i| if inside(i % 128, i / 128) { 4.0 } else { -4.0 }).collect()
    }

    #[test]
    fn the_extent_is_the_boxs() {
        let seen = area(&logits(&[(32, 64, 96, 96)]), (128, 128)).unwrap();
        for (is, expected) in [
            (seen.left, 0.25),
            (seen.right, 0.75),
            (seen.top, 0.5),
            (seen.bottom, 0.75),
            (seen.left_at, 0.625),
            (seen.right_at, 0.625),
            (seen.centre[0], 0.5),
            (seen.centre[1], 0.625),
            (seen.share, 0.125),
            (seen.whole, 1.0),
            (seen.certainty, 1.0 / (1.0 + f64::exp(-4.0)) - 0.004),
        ] {
            // Half a cell of the model's grid.
            assert!((is - expected).abs() < 0.004, "{is} against {expected}: {seen:?}");
        }
        let xs = || seen.contours.iter().flatten().map(|point| point[0]);
        assert!((xs().fold(1.0, f64::min) - 0.25).abs() < 0.004);
        assert!((xs().fold(0.0, f64::max) - 0.75).abs() < 0.004);
    }

    #[test]
    fn the_largest_piece_counts_and_the_others_are_told() {
        let two = area(&logits(&[(10, 10, 50, 50), (80, 90, 100, 110)]), (128, 128)).unwrap();
        assert!((two.right - 50.0 / 128.0).abs() < 0.004, "{two:?}");
        assert!((two.whole - 0.8).abs() < 0.01, "1600 of 2000 cells: {two:?}");
    }

    #[test]
    fn nothing_inside_is_no_area() {
        for (logits, grid) in [
            (vec![-1.0; 16], (4, 4)),
            (vec![0.0; 16], (4, 4)),
            (vec![f32::NAN; 16], (4, 4)),
            (vec![1.0; 3], (2, 2)),
            (vec![], (0, 0)),
        ] {
            assert_eq!(area(&logits, grid), None, "{logits:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn areas_stay_within_the_picture(logits in prop::collection::vec(-3.0..3.0_f32, 48)) {
            if let Some(area) = area(&logits, (8, 6)) {
                prop_assert!(0.0 <= area.left && area.left < area.right && area.right <= 1.0);
                prop_assert!(0.0 <= area.top && area.top < area.bottom && area.bottom <= 1.0);
                for own in [area.left_at, area.right_at, area.centre[1]] {
                    prop_assert!((area.top..=area.bottom).contains(&own));
                }
                prop_assert!(area.share > 0.0 && area.share <= area.whole && area.whole <= 1.0);
                let points = area.contours.concat();
                prop_assert!(points.len() < 200);
                prop_assert!(points.iter().flatten().all(|at| (0.0..=1.0).contains(at)));
            }
        }
    }
}
