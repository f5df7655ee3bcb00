//! The report page: one HTML file that opens anywhere, with curves, diagrams and the worst mistakes as pictures.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    measure::{ClassifierFigures, LabelScores},
    stats::{self, Figure, Scored},
};

/// A picture on the page with what is said of it.
pub struct Mistake {
    /// The label.
    pub label: String,
    /// The image's name.
    pub file: String,
    /// What the model said, from 0 to 1.
    pub score: f64,
    /// Whether the label is there.
    pub positive: bool,
    /// The picture as PNG; absent where none was kept.
    pub png: Option<Vec<u8>>,
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
    let _ = write!(html, "<title>{title}</title><body><h1>{title}</h1>");
    for line in &heading.lines {
        let _ = write!(html, "<p>{}</p>", escape(line));
    }
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

fn cells(figure: Option<&Figure>) -> String {
    figure.map_or_else(
        || "<td colspan=3>not measurable on these images</td>".to_owned(),
        |f| {
            format!(
                "<td><b>{:.3}</b></td><td>{:.3} to {:.3}</td><td>{}</td>",
                f.value, f.low, f.high, f.n
            )
        },
    )
}

/// Every label's figures, with its curve and its reliability diagram.
pub fn labels(figures: &ClassifierFigures, scores: &[LabelScores]) -> Section {
    let mut html = String::from("<h2>By label</h2><div class=labels>");
    for label in scores {
        let Some(own) = figures.labels.get(&label.name) else { continue };
        let _ = write!(
            html,
            "<section><h3>{}</h3><p>{} with, {} without</p><table>",
            escape(&label.name),
            own.positives,
            own.negatives
        );
        for (name, figure) in [
            ("AUROC", &own.auroc),
            ("AUPRC", &own.auprc),
            ("sensitivity", &own.sensitivity),
            ("specificity", &own.specificity),
            ("calibration error", &own.ece),
        ] {
            let _ = write!(html, "<tr><td>{name}</td>{}</tr>", cells(figure.as_ref()));
        }
        let _ = write!(
            html,
            "</table><div class=plots>{}{}</div></section>",
            roc_svg(&label.scored, own.threshold),
            reliability_svg(&label.scored)
        );
    }
    html.push_str("</div>");
    Section(html)
}

/// Images on which a label was furthest from the truth.
pub fn mistakes(mistakes: &[Mistake]) -> Section {
    let mut html = String::from("<h2>Worst mistakes</h2><div class=mistakes>");
    for mistake in mistakes {
        let picture = mistake.png.as_ref().map_or_else(
            || "<div class=none>no picture</div>".to_owned(),
            |png| format!("<img alt=\"\" src=\"data:image/png;base64,{}\">", STANDARD.encode(png)),
        );
        let truth = if mistake.positive { "is there" } else { "is not there" };
        let _ = write!(
            html,
            "<figure>{picture}<figcaption><b>{}</b> {truth}; the model says {:.2}<br>{}</figcaption></figure>",
            escape(&mistake.label),
            mistake.score,
            escape(&mistake.file)
        );
    }
    html.push_str("</div>");
    Section(html)
}

/// The `count` images of a label with the greatest distance between score and truth: their places in `scored`.
pub fn furthest(scored: &[Scored], count: usize) -> Vec<usize> {
    let distance = |one: &Scored| if one.positive { 1.0 - one.score } else { one.score };
    let mut order: Vec<(usize, f64)> = scored.iter().map(distance).enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    order.into_iter().filter(|(_, distance)| *distance > 0.5).take(count).map(|(i, _)| i).collect()
}

fn roc_svg(scored: &[Scored], threshold: Option<f64>) -> String {
    let curve = stats::roc(scored);
    let place = |specificity: f64, sensitivity: f64| {
        format!("{:.1},{:.1}", 10.0 + (1.0 - specificity) * 100.0, 110.0 - sensitivity * 100.0)
    };
    let mut points = place(1.0, 0.0);
    for point in &curve {
        let _ = write!(points, " {}", place(point.specificity, point.sensitivity));
    }
    let at = threshold.and_then(|at| curve.iter().rev().find(|point| point.threshold >= at));
    let operating = at.map(|point| {
        let at = place(point.specificity, point.sensitivity);
        let (x, y) = at.split_once(',').unwrap_or(("10", "110"));
        format!("<circle cx={x} cy={y} r=3 class=mark />")
    });
    let line =
        format!("<polyline points=\"{points}\" class=curve />{}", operating.unwrap_or_default());
    plot("ROC: sensitivity over 1 − specificity; the dot is the operating point", &line)
}

fn reliability_svg(scored: &[Scored]) -> String {
    let mut marks = String::new();
    for bin in stats::reliability(scored).iter().filter(|bin| bin.weight > 0.0) {
        let (predicted, observed) = (bin.predicted / bin.weight, bin.positive / bin.weight);
        let _ = write!(
            marks,
            "<circle cx={:.1} cy={:.1} r={:.1} class=curve />",
            10.0 + predicted * 100.0,
            110.0 - observed * 100.0,
            (bin.weight.ln() * 0.7).clamp(1.0, 6.0)
        );
    }
    plot(
        "Reliability: observed share over predicted probability; larger dots are more images",
        &marks,
    )
}

fn plot(title: &str, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 120 120\" role=img><title>{}</title><path class=axes d=\"M10 10V110H110M10 110L110 10\" />{content}</svg>",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const HEAD: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
<meta name=viewport content=\"width=device-width\"><style>\
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#1c2329}\
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left;border-bottom:1px solid #dde2e6}\
.labels{display:grid;grid-template-columns:repeat(auto-fill,minmax(30rem,1fr));gap:1.5rem}\
.plots{display:flex;gap:1rem}svg{width:14rem;height:14rem}.axes{fill:none;stroke:#b5bdc4;stroke-width:.6}\
.curve{fill:none;stroke:#0b6fa4;stroke-width:1.4}circle.curve{fill:#0b6fa4;stroke:none}.mark{fill:#c2410c}\
.mistakes{display:grid;grid-template-columns:repeat(auto-fill,minmax(14rem,1fr));gap:1rem}\
figure{margin:0}figure img{width:100%;background:#000}figcaption{font-size:13px;overflow-wrap:anywhere}\
footer{margin:2rem 0;color:#5b6770}</style>";

#[cfg(test)]
mod tests {
    use super::*;

    fn scored() -> Vec<Scored> {
        [(0.9, true), (0.95, false), (0.2, false), (0.1, true)]
            .into_iter()
            .enumerate()
            .map(|(patient, (score, positive))| Scored { score, positive, patient })
            .collect()
    }

    #[test]
    fn the_furthest_from_the_truth_come_first_and_right_answers_not_at_all() {
        assert_eq!(furthest(&scored(), 9), [1, 3]);
        assert_eq!(furthest(&scored(), 1), [1]);
    }

    #[test]
    fn names_from_a_table_are_text_and_never_markup() {
        let heading = Heading { title: "<script>".into(), lines: vec!["a & b".into()] };
        let mistake = Mistake {
            label: "<b>".into(),
            file: "\"x\".png".into(),
            score: 0.9,
            positive: false,
            png: Some(vec![1, 2, 3]),
        };
        let html = page(&heading, &[mistakes(&[mistake])]);
        assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
        assert!(html.contains("<b>&lt;b&gt;</b>") && html.contains("&quot;x&quot;.png"));
        assert!(html.contains("base64,AQID"));
    }

    #[test]
    fn the_curve_ends_in_its_corners() {
        let svg = roc_svg(&scored(), Some(0.5));
        assert!(svg.contains("points=\"10.0,110.0 "), "{svg}");
        assert!(svg.contains(" 110.0,10.0\""), "{svg}");
    }
}
