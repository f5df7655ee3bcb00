//! Where labels go: beside their region, inside the picture, on none of the others.

use super::canvas::Rect;

/// The box around rings; `None` where they have no finite point.
pub(super) fn around(rings: &[Vec<[f64; 2]>]) -> Option<Rect> {
    let mut points = rings.iter().flatten().filter(|p| p[0].is_finite() && p[1].is_finite());
    let first = points.next()?;
    let (mut low, mut high) = (*first, *first);
    for point in points {
        low = [low[0].min(point[0]), low[1].min(point[1])];
        high = [high[0].max(point[0]), high[1].max(point[1])];
    }
    Some(Rect { x: low[0], y: low[1], width: high[0] - low[0], height: high[1] - low[1] })
}

/// A place for a label of `size` near `region`, within `frame`, that overlaps none of `taken`; the least bad one where there is none.
pub(super) fn free(region: Rect, (width, height): (f64, f64), frame: Rect, taken: &[Rect]) -> Rect {
    const GAP: f64 = 6.0;
    let inside = |x: f64, y: f64| Rect {
        x: x.clamp(frame.x + 2.0, (frame.right() - width - 2.0).max(frame.x + 2.0)),
        y: y.clamp(frame.y + 2.0, (frame.bottom() - height - 2.0).max(frame.y + 2.0)),
        width,
        height,
    };
    let (left, centre, right) =
        (region.x, region.x + (region.width - width) / 2.0, region.right() - width);
    let (above, below) = (region.y - height - GAP, region.bottom() + GAP);
    let middle = region.y + (region.height - height) / 2.0;
    let mut places = vec![
        inside(left, above),
        inside(right, above),
        inside(left, below),
        inside(right, below),
        inside(centre, above),
        inside(centre, below),
        inside(region.right() + GAP, middle),
        inside(region.x - width - GAP, middle),
    ];
    // Then ever farther up and down, at either side.
    for step in 1..40 {
        let away = f64::from(step) * (height + GAP);
        for x in [left, right, frame.x, frame.right()] {
            places.push(inside(x, above - away));
            places.push(inside(x, below + away));
        }
    }
    let cost = |place: &Rect| taken.iter().map(|other| place.overlap(*other, 3.0)).sum::<f64>();
    let best = places.iter().position(|place| cost(place) == 0.0);
    let best = best
        .and_then(|index| places.get(index))
        .or_else(|| places.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))));
    best.copied().unwrap_or(inside(left, above))
}

/// A line from a label to its region, where they are apart.
pub(super) fn leader(label: Rect, region: Rect) -> Option<([f64; 2], [f64; 2])> {
    let nearest = |rect: Rect, p: [f64; 2]| {
        [p[0].clamp(rect.x, rect.right()), p[1].clamp(rect.y, rect.bottom())]
    };
    let centre = [region.x + region.width / 2.0, region.y + region.height / 2.0];
    let from = nearest(label, centre);
    let to = nearest(region, from);
    let apart = (from[0] - to[0]).hypot(from[1] - to[1]);
    (apart > 12.0 && apart.is_finite()).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As many labels as a chest model has stay apart and inside, wherever their regions are.
        #[test]
        fn labels_stay_apart_and_inside(regions in prop::collection::vec((0.0..900.0_f64, 0.0..900.0_f64, 5.0..500.0_f64), 1..12)) {
            let frame = Rect { x: 0.0, y: 0.0, width: 1024.0, height: 1024.0 };
            let mut taken: Vec<Rect> = Vec::new();
            for (x, y, side) in regions {
                let place = free(Rect { x, y, width: side, height: side }, (260.0, 34.0), frame, &taken);
                prop_assert!(place.x >= 0.0 && place.y >= 0.0 && place.right() <= 1024.0 && place.bottom() <= 1024.0);
                prop_assert!(taken.iter().all(|other| place.overlap(*other, 0.0) == 0.0));
                taken.push(place);
            }
        }
    }
}
