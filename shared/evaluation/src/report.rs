//! The report page: one HTML file that opens anywhere, with curves, diagrams and the worst mistakes as pictures.

mod plot;
mod text;

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    measure::{ClassifierFigures, Groups, LabelScores},
    ratio::{Pair, RatioFigures},
    stats::{self, Figure, Scored},
};
use plot::Plot;
pub use text::{SideBySide, side_by_side, table};

/// A picture on the page with what is said of it.
#[derive(Debug, Clone, Default)]
pub struct Mistake {
    /// What it is about: a label, or what triage did.
    pub title: String,
    /// What is true and what was said.
    pub says: String,
    /// The image's name.
    pub file: String,
    /// The picture as PNG; absent where none was kept.
    pub png: Option<Vec<u8>>,
    /// The picture's width over its height; where it is not known, 0.
    pub aspect: f64,
    /// Lines and outlines in shares of the picture's width and height: a ring where it is closed.
    pub drawn: Vec<Vec<[f64; 2]>>,
}

/// What stands at the head of a page.
pub struct Heading {
    /// For instance the model's name and version.
    pub title: String,
    /// Sentences below it: model digest, images, table, date.
    pub lines: Vec<String>,
}

/// A section of a page, as HTML that this module made.
pub struct Section(String);

/// The whole page.
pub fn page(heading: &Heading, sections: &[Section]) -> String {
    let mut html = String::from(HEAD);
    let title = escape(&heading.title);
    // Writing to a String cannot fail; `fmt::Write` says otherwise because others can.
    let _ = write!(html, "<title>{title}</title><body><h1>{title}</h1><ul class=facts>");
    for line in &heading.lines {
        let _ = write!(html, "<li>{}</li>", escape(line));
    }
    html.push_str("</ul>");
    for Section(section) in sections {
        html.push_str(section);
    }
    html.push_str("<footer>Research use only. Not for diagnosis.</footer></body></html>\n");
    html
}

/// A table of named figures.
pub fn figures(title: &str, figures: &[(String, Option<Figure>)]) -> Section {
    let mut html = format!("<h2>{}</h2><table>", escape(title));
    html.push_str("<tr><th>figure</th><th>value</th><th>95 % interval</th><th>images</th></tr>");
    for (name, figure) in figures {
        let _ = write!(html, "<tr><td>{}</td>{}</tr>", escape(name), cells(figure.as_ref()));
    }
    html.push_str("</table>");
    Section(html)
}

/// Figures by groups of patients, a table for each kind of group.
pub fn groups(of: &str, groups: &Groups) -> Vec<Section> {
    let section =
        |(kind, groups): (&String, &std::collections::BTreeMap<String, Option<Figure>>)| {
            let named: Vec<_> = groups.iter().map(|(name, own)| (name.clone(), *own)).collect();
            figures(&format!("{of} by {kind}"), &named)
        };
    groups.iter().map(section).collect()
}

/// Names with how often each came.
pub fn counts(
    title: &str,
    what: &str,
    counts: &std::collections::BTreeMap<String, usize>,
) -> Section {
    if counts.is_empty() {
        return Section(String::new());
    }
    let mut html = format!(
        "<h2>{}</h2><table><tr><th>{}</th><th>images</th></tr>",
        escape(title),
        escape(what)
    );
    for (name, count) in counts {
        let _ = write!(html, "<tr><td>{}</td><td>{count}</td></tr>", escape(name));
    }
    html.push_str("</table>");
    Section(html)
}

fn cells(figure: Option<&Figure>) -> String {
    figure.map_or_else(
        || "<td colspan=3>not measurable on these images</td>".to_owned(),
        |f| {
            format!(
                "<td><b>{}</b></td><td>{} to {}</td><td>{}</td>",
                digits(f.value),
                digits(f.low),
                digits(f.high),
                f.n
            )
        },
    )
}

/// Three digits, or four of what is smaller than a twentieth.
fn digits(value: f64) -> String {
    if value.abs() < 0.05 { format!("{value:.4}") } else { format!("{value:.3}") }
}

/// Every label's figures in one table.
pub fn overview(figures: &ClassifierFigures) -> Section {
    let mut html = String::from(
        "<h2>By label</h2><table><tr><th>label</th><th>with</th><th>without</th><th>AUROC</th><th>AUPRC</th><th>sensitivity</th><th>specificity</th><th>calibration error</th></tr>",
    );
    let cell = |figure: &Option<Figure>| {
        figure.map_or_else(
            || "<td>–</td>".to_owned(),
            |f| {
                format!(
                    "<td><b>{:.3}</b> <small>{:.3} to {:.3}</small></td>",
                    f.value, f.low, f.high
                )
            },
        )
    };
    for (name, own) in &figures.labels {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td>",
            escape(name),
            own.positives,
            own.negatives
        );
        for figure in [&own.auroc, &own.auprc, &own.sensitivity, &own.specificity, &own.ece] {
            html.push_str(&cell(figure));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
    let outside: Vec<_> =
        figures.labels.keys().filter(|name| !figures.mean_over.contains(name)).collect();
    if !outside.is_empty() {
        let names: Vec<_> = outside.into_iter().map(|name| escape(name)).collect();
        let _ = write!(
            html,
            "<p>Too few positives for the mean over labels (fewer than {}): {}.</p>",
            crate::measure::MIN_POSITIVES,
            names.join(", ")
        );
    }
    if !figures.unknown_names.is_empty() {
        let names: Vec<_> = figures.unknown_names.iter().map(|name| escape(name)).collect();
        let _ =
            write!(html, "<p>In the table, and no label of this model: {}.</p>", names.join(", "));
    }
    Section(html)
}

/// Every label's curve and reliability diagram.
pub fn labels(figures: &ClassifierFigures, scores: &[LabelScores]) -> Section {
    let mut html = String::from("<h2>Curves</h2><div class=labels>");
    for label in scores {
        let Some(own) = figures.labels.get(&label.name) else { continue };
        html.push_str(&curves_of(&label.name, &label.scored, own.threshold));
    }
    html.push_str("</div>");
    Section(html)
}

/// The curve and the reliability diagram of one score.
pub fn curves(title: &str, scored: &[Scored], threshold: Option<f64>) -> Section {
    let own = curves_of(title, scored, threshold);
    Section(format!("<h2>Curves</h2><div class=labels>{own}</div>"))
}

fn curves_of(title: &str, scored: &[Scored], threshold: Option<f64>) -> String {
    let positives = scored.iter().filter(|one| one.positive).count();
    format!(
        "<section><h3>{}</h3><p>{positives} with, {} without</p><div class=plots>{}{}</div></section>",
        escape(title),
        scored.len() - positives,
        roc_svg(scored, threshold),
        reliability_svg(scored)
    )
}

/// Measured against true ratios, and their differences over their means (Bland and Altman).
pub fn ratio(figures: &RatioFigures, pairs: &[Pair]) -> Section {
    if pairs.is_empty() {
        return Section(String::new());
    }
    let values = || pairs.iter().flat_map(|pair| [pair.truth, pair.measured]);
    let tenth = |value: f64, round: fn(f64) -> f64| round(value * 10.0) / 10.0;
    let range = [
        tenth(values().fold(0.4, f64::min) - 0.01, f64::floor),
        tenth(values().fold(0.6, f64::max) + 0.01, f64::ceil),
    ];
    let mut scatter =
        Plot::new("Measured over true ratio", ["true ratio", "measured ratio"], range, range);
    let [low, high] = range;
    scatter.line("even", [[low, low], [high, high]]);
    scatter.line("limit", [[0.5, low], [0.5, high]]);
    scatter.line("limit", [[low, 0.5], [high, 0.5]]);
    let limits = figures.ctr.limits_of_agreement;
    let most = pairs.iter().map(|pair| pair.error().abs()).fold(0.02, f64::max);
    let most = limits.into_iter().flatten().map(f64::abs).fold(most, f64::max) * 1.1;
    let mut differences = Plot::new(
        "Difference over mean",
        ["mean of true and measured ratio", "measured less true"],
        range,
        [-most, most],
    );
    differences.line("even", [[low, 0.0], [high, 0.0]]);
    if let (Some(bias), Some(limits)) = (figures.ctr.bias, limits) {
        differences.line("curve", [[low, bias.value], [high, bias.value]]);
        for limit in limits {
            differences.line("limit", [[low, limit], [high, limit]]);
        }
    }
    for pair in pairs {
        let says = format!("true {:.3}, measured {:.3}", pair.truth, pair.measured);
        scatter.dot("dot", [pair.truth, pair.measured], 2.6, &says);
        let mean = (pair.truth + pair.measured) / 2.0;
        differences.dot("dot", [mean, pair.error()], 2.6, &says);
    }
    Section(format!(
        "<h2>Measured against true</h2><div class=plots>{}{}</div>",
        scatter.finish(
            "Dashed: the ratio of 0.5 over which a heart counts as enlarged, on PA films of adults."
        ),
        differences.finish(
            "Blue: the mean error. Dashed: the limits within which 95 % of the errors lie."
        )
    ))
}

/// Images on which the model was furthest from the truth.
pub fn mistakes(title: &str, mistakes: &[Mistake]) -> Section {
    if mistakes.is_empty() {
        return Section(format!("<h2>{}</h2><p>None.</p>", escape(title)));
    }
    let mut html = format!("<h2>{}</h2><div class=mistakes>", escape(title));
    for mistake in mistakes {
        let picture = mistake.png.as_ref().map_or_else(
            || "<div class=none>no picture</div>".to_owned(),
            |png| {
                format!(
                    "<img alt=\"\" loading=lazy src=\"data:image/png;base64,{}\">",
                    STANDARD.encode(png)
                )
            },
        );
        let aspect = if mistake.aspect > 0.0 { mistake.aspect } else { 1.0 };
        let _ =
            write!(html, "<figure><div class=film style=\"aspect-ratio:{aspect:.4}\">{picture}");
        if !mistake.drawn.is_empty() {
            html.push_str("<svg viewBox=\"0 0 1 1\" preserveAspectRatio=none>");
            for line in &mistake.drawn {
                html.push_str("<polyline points=\"");
                for [x, y] in line {
                    let _ = write!(html, "{x:.4},{y:.4} ");
                }
                html.push_str("\" />");
            }
            html.push_str("</svg>");
        }
        let _ = write!(
            html,
            "</div><figcaption><b>{}</b> {}<br><small>{}</small></figcaption></figure>",
            escape(&mistake.title),
            escape(&mistake.says),
            escape(&mistake.file)
        );
    }
    html.push_str("</div>");
    Section(html)
}

/// The `count` images of a label with the greatest distance between score and truth: their places in `scored`.
///
/// Scores on either side of the operating point count alike, wherever that is: 0.1 is far from the truth for a film
/// with the finding at an operating point of 0.5 and a wrong alarm at one of 0.05. What is right at the operating
/// point is no mistake.
pub fn furthest(scored: &[Scored], threshold: f64, count: usize) -> Vec<usize> {
    let odds = |p: f64| {
        let p = p.clamp(1e-6, 1.0 - 1e-6);
        (p / (1.0 - p)).ln()
    };
    let needed = odds(threshold);
    let distance = |one: &Scored| {
        let beyond = odds(one.score) - needed;
        if one.positive { -beyond } else { beyond }
    };
    let wrong = |one: &Scored| one.positive != (one.score >= threshold);
    let mut order: Vec<(usize, f64)> = scored
        .iter()
        .enumerate()
        .filter(|(_, one)| wrong(one))
        .map(|(i, one)| (i, distance(one)))
        .collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.into_iter().take(count).map(|(i, _)| i).collect()
}

fn roc_svg(scored: &[Scored], threshold: Option<f64>) -> String {
    let curve = stats::roc(scored);
    let mut plot =
        Plot::new("ROC curve", ["1 − specificity", "sensitivity"], [0.0, 1.0], [0.0, 1.0]);
    plot.line("even", [[0.0, 0.0], [1.0, 1.0]]);
    let points = curve.iter().map(|point| [1.0 - point.specificity, point.sensitivity]);
    plot.line("curve", std::iter::once([0.0, 0.0]).chain(points));
    let at = |threshold: f64| curve.iter().rev().find(|point| point.threshold >= threshold);
    if let Some(point) = threshold.and_then(at) {
        let says =
            format!("sensitivity {:.3}, specificity {:.3}", point.sensitivity, point.specificity);
        plot.dot("mark", [1.0 - point.specificity, point.sensitivity], 4.0, &says);
    }
    let dot = if threshold.is_some() { " The dot is the operating point." } else { "" };
    plot.finish(&format!("ROC.{dot}"))
}

fn reliability_svg(scored: &[Scored]) -> String {
    let bins: Vec<_> =
        stats::reliability(scored).into_iter().filter(|bin| bin.weight > 0.0).collect();
    let mut plot = Plot::new(
        "Reliability diagram",
        ["predicted probability", "observed share"],
        [0.0, 1.0],
        [0.0, 1.0],
    );
    plot.line("even", [[0.0, 0.0], [1.0, 1.0]]);
    for bin in &bins {
        let (predicted, count) = (bin.predicted / bin.weight, bin.weight as usize);
        let Some(observed) = stats::share(bin.positive as usize, count) else { continue };
        plot.line("spread", [[predicted, observed.low], [predicted, observed.high]]);
        let says =
            format!("{count} images: predicted {predicted:.3}, observed {:.3}", observed.value);
        let radius = 2.0 + (bin.weight.ln() * 0.6).clamp(0.0, 4.0);
        plot.dot("dot", [predicted, observed.value], radius, &says);
    }
    plot.finish("Reliability. Bars are 95 % intervals, larger dots more images.")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = include_str!("report/head.html");

#[cfg(test)]
mod tests;
