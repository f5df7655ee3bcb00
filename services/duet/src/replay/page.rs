//! What a replay leaves behind: `changes.csv`, `replay.json` and `report.html` with the largest changes as pictures.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use duet_case::Case;
use duet_evaluation::report::{self, Heading, SideBySide};
use serde::Serialize;

use super::{
    summary::Summary,
    view::{Change, Difference, Figure},
};

/// `changes.csv`: a line for each figure that moved or turned, written as the replay goes.
pub(super) struct Lines(BufWriter<File>);

const COLUMNS: &str = "case,received_at,decision_before,decision_after,outcome_before,outcome_after,what,probability_before,probability_after,change,threshold_before,threshold_after,reached_before,reached_after";

impl Lines {
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let path = folder.join("changes.csv");
        let file =
            File::create(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        let mut lines = BufWriter::new(file);
        writeln!(lines, "{COLUMNS}")?;
        Ok(Self(lines))
    }

    pub(super) fn add(&mut self, case: &Case, difference: &Difference) -> Result<()> {
        let [decided, decides] = difference.decision;
        let [ended, ends] = difference.outcome;
        let head = format!(
            "{},{},{decided},{decides},{ended},{ends}",
            case.id,
            case.received_at.to_rfc3339()
        );
        for change in &difference.changes {
            writeln!(self.0, "{head},{}", cells(change))?;
        }
        if difference.changes.is_empty() {
            writeln!(self.0, "{head},,,,,,,,")?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.0.flush().context("changes.csv cannot be written")
    }
}

fn cells(change: &Change) -> String {
    let number = |own: Option<f64>| own.map_or(String::new(), |own| format!("{own:.6}"));
    let of = |own: Option<Figure>| {
        let probability = number(own.map(|own| own.probability));
        let threshold = number(own.and_then(|own| own.threshold));
        let reached = own.map_or("", |own| if own.reached { "yes" } else { "no" });
        (probability, threshold, reached)
    };
    let ((p, t, r), (q, u, s)) = (of(change.before), of(change.after));
    // Names of models and labels are checked in manifests; what stands in a record may hold anything.
    let what = change.what.replace(['"', '\n', '\r'], " ");
    format!("\"{what}\",{p},{q},{},{t},{u},{r},{s}", number(change.moved()))
}

/// The whole of a replay, for `replay.json`.
#[derive(Serialize)]
pub(super) struct Record<'a> {
    pub(super) from: String,
    pub(super) until: String,
    /// `reports` or `images`.
    pub(super) origin: &'a str,
    /// What was another than in production.
    pub(super) with: &'a [String],
    /// Where the replayed Cases were written.
    pub(super) shadow: Option<String>,
    #[serde(flatten)]
    pub(super) summary: &'a Summary,
    /// The largest changes.
    pub(super) largest: &'a [Largest],
}

/// One of the largest changes, with its pictures.
#[derive(Serialize)]
pub(super) struct Largest {
    pub(super) case: String,
    #[serde(flatten)]
    pub(super) difference: Difference,
    #[serde(skip)]
    pub(super) pictures: [Result<Vec<u8>, String>; 2],
}

pub(super) fn write(folder: &Path, record: &Record<'_>) -> Result<()> {
    let json = serde_json::to_string_pretty(record)? + "\n";
    save(&folder.join("replay.json"), json.as_bytes())?;
    let pictures = folder.join("pictures");
    fs::create_dir_all(&pictures)
        .with_context(|| format!("{} cannot be made", pictures.display()))?;
    for largest in record.largest {
        for (when, png) in ["before", "after"].iter().zip(&largest.pictures) {
            if let Ok(png) = png {
                save(&pictures.join(format!("{}-{when}.png", largest.case)), png)?;
            }
        }
    }
    save(&folder.join("report.html"), page(record).as_bytes())
}

fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("{} cannot be written", path.display()))
}

fn page(record: &Record<'_>) -> String {
    let summary = record.summary;
    let with = if record.with.is_empty() {
        "nothing else than production".to_owned()
    } else {
        record.with.join("; ")
    };
    let heading = Heading {
        title: "Replay".to_owned(),
        lines: vec![
            format!(
                "images received from {} until {}, from {}",
                record.from, record.until, record.origin
            ),
            format!("with {with}"),
            format!(
                "{} compared: {} unchanged, {} changed, in {} of them a decision, an outcome or a finding turned",
                summary.compared, summary.unchanged, summary.changed, summary.turned
            ),
        ],
    };
    let rows = |counts: &std::collections::BTreeMap<String, u64>| -> Vec<Vec<String>> {
        counts.iter().map(|(name, count)| vec![name.clone(), count.to_string()]).collect()
    };
    let labels = summary.labels.iter().map(|(name, own)| {
        vec![
            name.clone(),
            own.changed.to_string(),
            own.appeared.to_string(),
            own.gone.to_string(),
            own.looked_for_once.to_string(),
            format!("{:+.4}", own.mean_change),
            format!("{:+.4}", own.largest_change),
        ]
    });
    let left_out = summary
        .left_out
        .iter()
        .map(|(why, own)| vec![why.clone(), own.count.to_string(), own.cases.join(" ")]);
    let pairs: Vec<_> = record.largest.iter().map(pair).collect();
    let labels: Vec<_> = labels.collect();
    let sections = [
        report::table(
            "Decisions that changed",
            &["from → to", "images"],
            &rows(&summary.decisions),
        ),
        report::table("Outcomes that changed", &["from → to", "images"], &rows(&summary.outcomes)),
        report::table(
            "By label",
            &[
                "label",
                "changed",
                "came",
                "went",
                "looked for once",
                "mean change",
                "largest change",
            ],
            &labels,
        ),
        report::side_by_side("Largest changes: before, and after", &pairs),
        report::table(
            "Not replayed",
            &["why", "images", "among them"],
            &left_out.collect::<Vec<_>>(),
        ),
    ];
    report::page(&heading, &sections)
}

fn pair(largest: &Largest) -> SideBySide<'_> {
    let difference = &largest.difference;
    let mut lines = Vec::new();
    for (what, [before, after]) in
        [("decision", difference.decision), ("outcome", difference.outcome)]
    {
        if before != after {
            lines.push(format!("{what}: {before} → {after}"));
        }
    }
    for change in &difference.changes {
        let words = |own: Option<Figure>| {
            own.map_or_else(
                || "not looked for".to_owned(),
                |own| {
                    let against =
                        own.threshold.map_or(String::new(), |own| format!(" against {own:.3}"));
                    format!("{:.3}{against}", own.probability)
                },
            )
        };
        let turned = if change.has_turned() { " TURNED" } else { "" };
        lines.push(format!(
            "{}: {} → {}{turned}",
            change.what,
            words(change.before),
            words(change.after)
        ));
    }
    SideBySide {
        title: &largest.case,
        lines,
        pictures: largest.pictures.each_ref().map(|own| own.as_deref().map_err(String::as_str)),
    }
}
