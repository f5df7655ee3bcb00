//! What the demo shows of each sample.

use comfy_table::Table;
use duet_case::{Case, Format};

use super::{follow::End, samples::Sample};
use crate::output;

/// Reasons of triage that fit into a cell.
const REASONS: usize = 2;
/// Findings that fit; the page has all of them.
const FINDINGS: usize = 5;

/// One row a sample.
pub(super) fn of(samples: &[Sample], ends: &[End]) -> Table {
    let mut table = output::table(&["file", "what it is", "triage", "findings", "ms by hop"]);
    for (sample, end) in samples.iter().zip(ends) {
        match end {
            End::Report(case) => {
                table.add_row([
                    sample.name.clone(),
                    what(case),
                    triage(case),
                    findings(case),
                    hops(case),
                ]);
            }
            End::DeadLetter(letter) => {
                let why = format!(
                    "DEAD LETTER of {}, {}: {}",
                    letter.stage, letter.class, letter.message
                );
                table.add_row([sample.name.clone(), why]);
            }
        }
    }
    table
}

/// The line below the table.
pub(super) fn totals(ends: &[End], seconds: f64) -> String {
    let reports = ends.iter().filter(|end| matches!(end, End::Report(_))).count();
    let rate = ends.len() as f64 / seconds.max(1e-3);
    format!(
        "{} images in {seconds:.1} s ({rate:.1} images/s): {reports} reports, {} dead letters; ms by hop are those of an image's whole batch",
        ends.len(),
        ends.len() - reports
    )
}

fn what(case: &Case) -> String {
    let source = &case.source;
    let format = match source.format {
        Format::Dicom => "DICOM",
        Format::Png => "PNG",
        Format::Jpeg => "JPEG",
    };
    let mut words = vec![format.to_owned()];
    words.extend(
        [&source.modality, &source.body_part, &source.view_position].into_iter().flatten().cloned(),
    );
    if source.width > 0 {
        words.push(format!("{}×{}", source.width, source.height));
    }
    let kind = case.triage.as_ref().map(|triage| format!("\n{}", triage.kind_meaning));
    format!("{}{}", words.join(" "), kind.unwrap_or_default())
}

fn triage(case: &Case) -> String {
    let Some(triage) = &case.triage else {
        let reason = case.assessment.as_ref().and_then(|own| own.reason.clone());
        return format!("not looked at\n{}", reason.unwrap_or_default());
    };
    let audit = if triage.audit { ", drawn for audit" } else { "" };
    let reasons: Vec<_> = triage.reasons.iter().take(REASONS).map(String::as_str).collect();
    format!(
        "{} ({}{audit})\n{}",
        triage.decision.name(),
        triage.priority.name(),
        reasons.join("; ")
    )
}

fn findings(case: &Case) -> String {
    if case.findings.is_empty() {
        return case
            .conclusion
            .as_ref()
            .map_or_else(String::new, |own| own.outcome.name().replace('_', " "));
    }
    let line = |finding: &duet_case::Finding| {
        format!("{} {:.2}", finding.label, finding.probability.value())
    };
    let mut lines: Vec<_> = case.findings.iter().take(FINDINGS).map(line).collect();
    if case.findings.len() > FINDINGS {
        lines.push(format!("and {} more", case.findings.len() - FINDINGS));
    }
    lines.join("\n")
}

fn hops(case: &Case) -> String {
    let lines: Vec<_> =
        case.hops.iter().map(|hop| format!("{} {:.0}", hop.stage, hop.duration_ms)).collect();
    lines.join("\n")
}
