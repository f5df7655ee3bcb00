//! Plots as SVG: axes with ticks and names, lines, dots and bars.

use std::fmt::Write;

use super::escape;

const LEFT: f64 = 46.0;
const TOP: f64 = 10.0;
const SIDE: f64 = 220.0;
const WIDTH: f64 = LEFT + SIDE + 14.0;
const HEIGHT: f64 = TOP + SIDE + 42.0;

/// A plot that is being drawn.
pub(super) struct Plot {
    x: [f64; 2],
    y: [f64; 2],
    body: String,
}

impl Plot {
    /// An empty plot over these ranges, with its axes and their names.
    pub(super) fn new(title: &str, [x_name, y_name]: [&str; 2], x: [f64; 2], y: [f64; 2]) -> Self {
        let mut plot = Self { x, y, body: String::new() };
        let _ = write!(
            plot.body,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img><title>{}</title><rect class=ground x={LEFT} y={TOP} width={SIDE} height={SIDE} />",
            escape(title)
        );
        for value in ticks(x) {
            let at = plot.across(value);
            let _ = write!(
                plot.body,
                "<path class=grid d=\"M{at:.1} {TOP}v{SIDE}\" /><text x={at:.1} y={:.1} text-anchor=middle>{}</text>",
                TOP + SIDE + 14.0,
                number(value, x)
            );
        }
        for value in ticks(y) {
            let at = plot.down(value);
            let _ = write!(
                plot.body,
                "<path class=grid d=\"M{LEFT} {at:.1}h{SIDE}\" /><text x={:.1} y={:.1} text-anchor=end>{}</text>",
                LEFT - 5.0,
                at + 3.5,
                number(value, y)
            );
        }
        let (middle, foot) = (LEFT + SIDE / 2.0, HEIGHT - 8.0);
        let half = TOP + SIDE / 2.0;
        let _ = write!(
            plot.body,
            "<text x={middle:.1} y={foot:.1} text-anchor=middle class=name>{}</text><text x=12 y={half:.1} text-anchor=middle class=name transform=\"rotate(-90 12 {half:.1})\">{}</text>",
            escape(x_name),
            escape(y_name)
        );
        plot
    }

    fn across(&self, value: f64) -> f64 {
        LEFT + share(value, self.x) * SIDE
    }

    fn down(&self, value: f64) -> f64 {
        TOP + SIDE - share(value, self.y) * SIDE
    }

    /// A line through points.
    pub(super) fn line(&mut self, class: &str, points: impl IntoIterator<Item = [f64; 2]>) {
        let _ = write!(self.body, "<polyline class=\"{class}\" points=\"");
        for [x, y] in points {
            let _ = write!(self.body, "{:.1},{:.1} ", self.across(x), self.down(y));
        }
        self.body.push_str("\" />");
    }

    /// A dot, with what it says when it is pointed at.
    pub(super) fn dot(&mut self, class: &str, [x, y]: [f64; 2], radius: f64, says: &str) {
        let _ = write!(
            self.body,
            "<circle class=\"{class}\" cx={:.1} cy={:.1} r={radius:.1}><title>{}</title></circle>",
            self.across(x),
            self.down(y),
            escape(says)
        );
    }

    /// The whole picture, with a caption below.
    pub(super) fn finish(self, caption: &str) -> String {
        format!(
            "<figure class=plot>{}</svg><figcaption>{}</figcaption></figure>",
            self.body,
            escape(caption)
        )
    }
}

fn share(value: f64, [low, high]: [f64; 2]) -> f64 {
    ((value - low) / (high - low)).clamp(0.0, 1.0)
}

/// A distance between ticks that gives three to eight of them.
fn step([low, high]: [f64; 2]) -> f64 {
    let steps = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
    steps.into_iter().find(|step| (high - low) / step <= 7.0).unwrap_or((high - low) / 4.0)
}

fn ticks(range: [f64; 2]) -> impl Iterator<Item = f64> {
    let step = step(range);
    let first = (range[0] / step - 1e-9).ceil() as i64;
    let last = (range[1] / step + 1e-9).floor() as i64;
    (first..=last).map(move |n| n as f64 * step)
}

/// With as many digits as the ticks need; no minus before a zero.
fn number(value: f64, range: [f64; 2]) -> String {
    let digits = match step(range) {
        step if step < 0.01 => 3,
        step if step < 0.1 => 2,
        _ => 1,
    };
    let text = format!("{value:.digits$}");
    if text.trim_start_matches(['-', '0', '.']).is_empty() { text.replace('-', "") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_within_the_range() {
        for (range, expected) in [
            ([0.0, 1.0], vec!["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
            ([0.3, 0.7], vec!["0.3", "0.4", "0.5", "0.6", "0.7"]),
            ([-0.04, 0.05], vec!["-0.04", "-0.02", "0.00", "0.02", "0.04"]),
        ] {
            let told: Vec<_> = ticks(range).map(|value| number(value, range)).collect();
            assert_eq!(told, expected, "{range:?}");
        }
    }
}
