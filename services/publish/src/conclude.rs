//! How a Case ended, in one word and one sentence.

use duet_case::{Case, Conclusion, Decision, Finding, Measurement, Outcome};

use crate::picture::{readable, sentence};

/// The Case's end; `None` for one that has none yet, which no stage writes into what `publish` reads.
pub fn conclude(case: &Case) -> Option<Conclusion> {
    let Some(triage) = &case.triage else {
        // prepare says why a file without pixels was not looked at; triage never saw it.
        let reason = case.assessment.as_ref().and_then(|own| own.reason.as_deref());
        return case.rendition.is_none().then(|| not_looked_for(reason.unwrap_or_default()));
    };
    let why = triage.reasons.first().map(String::as_str).unwrap_or_default();
    match (&case.assessment, triage.decision) {
        (None, Decision::OutOfScope) => Some(not_looked_for(why)),
        (None, Decision::Cleared) => Some(Conclusion {
            outcome: Outcome::Cleared,
            summary: sentence(&format!("Cleared by triage, no specialist looked: {why}")),
        }),
        (None, Decision::Flagged) => None,
        (Some(assessment), _) if assessment.models.is_empty() => {
            Some(not_looked_for(assessment.reason.as_deref().unwrap_or(why)))
        }
        (Some(assessment), _) if case.findings.is_empty() => {
            let models: Vec<_> = assessment.models.iter().map(|own| own.name.as_str()).collect();
            let mut summary = format!(
                "No finding: none of the {} labels of {} reached its operating point",
                assessment.scores.len(),
                models.join(" and ")
            );
            measured(&mut summary, case);
            scores(&mut summary, &assessment.uncalibrated);
            caution(&mut summary, &triage.fitness);
            Some(Conclusion { outcome: Outcome::NoFinding, summary: sentence(&summary) })
        }
        (Some(assessment), _) => {
            let found: Vec<_> = case.findings.iter().map(words).collect();
            let mut summary = format!("Above their operating points: {}", found.join(", "));
            measured(&mut summary, case);
            scores(&mut summary, &assessment.uncalibrated);
            caution(&mut summary, &triage.fitness);
            Some(Conclusion { outcome: Outcome::Findings, summary: sentence(&summary) })
        }
    }
}

fn not_looked_for(why: &str) -> Conclusion {
    let why = if why.is_empty() { "the file holds no picture" } else { why };
    let summary = sentence(&format!("Nothing was looked for: {why}"));
    Conclusion { outcome: Outcome::NotLookedFor, summary }
}

fn words(finding: &Finding) -> String {
    format!("{} ({:.0} %)", readable(&finding.label), finding.probability.value() * 100.0)
}

/// A model that nobody has calibrated gives scores, and the sentence says so.
fn scores(summary: &mut String, uncalibrated: &[String]) {
    if !uncalibrated.is_empty() {
        let models = uncalibrated.join(" and ");
        summary.push_str(&format!(
            "; the percentages of {models} are scores, nobody has calibrated them"
        ));
    }
}

/// What was measured: evidence, which changes no outcome.
fn measured(summary: &mut String, case: &Case) {
    for own in &case.measurements {
        if let Some(words) = in_words(own) {
            // The projection is the one caution that a reader of one line must not miss.
            let ap = case.source.view_position.as_deref() == Some("AP");
            let ap = if ap { " (AP film: too large)" } else { "" };
            summary.push_str(&format!("; measured: {words}{ap}"));
        }
    }
}

/// Name and value, and what is usual where it is more; `None` without a value.
pub(crate) fn in_words(measured: &Measurement) -> Option<String> {
    let mut words = format!("{} {:.2}", lower(&measured.name), measured.value?);
    if let Some(most) = measured.usual_up_to.filter(|_| measured.is_over()) {
        words.push_str(&format!(", over the {most:.2} that is usual on adults' PA films"));
    }
    Some(words)
}

fn lower(name: &str) -> String {
    let mut letters = name.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_lowercase).collect();
    first + letters.as_str()
}

/// A result on a film that cannot be read well is worth less, and the sentence says so.
fn caution(summary: &mut String, fitness: &str) {
    if fitness != "fit" {
        summary.push_str(&format!("; the picture may not be fit to read ({fitness})"));
    }
}
