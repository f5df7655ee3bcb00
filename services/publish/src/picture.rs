//! What is written and drawn on the annotated picture.

use std::collections::HashMap;

use bytes::Bytes;
use duet_case::{Case, Conclusion, Finding, LabelScore, Measurement, ModelRef, Outcome};
use duet_imaging::{
    AnnotatedFinding, AnnotatedMeasurement, AnnotationSpec, annotate, annotated_png,
    decode_rendition,
};
use duet_stage::Reason;

use crate::NOTICE;

/// Findings whose heat is laid over the picture, the most probable ones: more of them hide the film. Every finding
/// has its outline.
pub(crate) const HEATS: usize = 2;

/// The bytes that the picture is made of.
pub(crate) struct Layers {
    /// The rendition as PNG.
    pub(crate) rendition: Bytes,
    /// Heat maps as PNG, by the finding's place in the Case.
    pub(crate) heats: HashMap<usize, Bytes>,
}

/// The rendition with what was found drawn on it, as PNG; on the compute pool.
pub(crate) fn draw(case: &Case, end: &Conclusion, layers: &Layers) -> Result<Vec<u8>, Reason> {
    let unreadable = |error| Reason::of("rendition_unreadable", &error);
    let rendition = decode_rendition(&layers.rendition).map_err(unreadable)?;
    let mut findings = Vec::new();
    for (i, finding) in case.findings.iter().enumerate() {
        let heat = layers.heats.get(&i).map(|png| decode_rendition(png)).transpose();
        findings.push(AnnotatedFinding {
            label: readable(&finding.label),
            probability: finding.probability.value(),
            threshold: finding.threshold.value(),
            contours: finding
                .region
                .as_ref()
                .map(|region| region.rendition_contours.clone())
                .unwrap_or_default(),
            heat: heat.map_err(unreadable)?,
        });
    }
    findings.extend(below(case).map(|score| AnnotatedFinding {
        label: readable(&score.label),
        probability: score.probability.value(),
        threshold: score.threshold.value(),
        contours: Vec::new(),
        heat: None,
    }));
    let spec = AnnotationSpec {
        headline: headline(case, end.outcome),
        lines: lines(case, end),
        findings,
        measurements: case.measurements.iter().map(measured).collect(),
        models: models(case),
        notice: NOTICE.to_owned(),
    };
    annotated_png(&annotate(&rendition, &spec)).map_err(|error| Reason::of("picture", &error))
}

fn measured(own: &Measurement) -> AnnotatedMeasurement {
    let limit = own.usual_up_to.map(|most| {
        let side = if own.is_over() { "over" } else { "within" };
        format!("{side} the {most:.2} that is usual on adults' PA films")
    });
    let told = if own.value.is_some() { limit } else { own.reason.clone() };
    AnnotatedMeasurement {
        name: own.name.clone(),
        value: own.value.map(|value| format!("{value:.2}")),
        notes: told
            .into_iter()
            .chain(own.cautions.iter().cloned())
            .map(|own| sentence(&own))
            .collect(),
        lines: own.lines.iter().map(|line| (line.name.clone(), line.rendition)).collect(),
        // Without a value the outlines are what could not be believed.
        outlines: match own.value {
            Some(_) => own.areas.iter().flat_map(|area| area.rendition_contours.clone()).collect(),
            None => Vec::new(),
        },
    }
}

/// The labels that did not reach their operating points, the most probable first.
fn below(case: &Case) -> impl Iterator<Item = &LabelScore> {
    let found = |score: &LabelScore| {
        let same = |own: &Finding| own.label == score.label && own.model.name == score.model;
        case.findings.iter().any(same)
    };
    let scores = case.assessment.iter().flat_map(|own| &own.scores);
    let mut below: Vec<_> = scores.filter(|score| !found(score)).collect();
    below.sort_by(|a, b| b.probability.value().total_cmp(&a.probability.value()));
    below.into_iter()
}

fn headline(case: &Case, outcome: Outcome) -> String {
    match (outcome, case.findings.len()) {
        (Outcome::Findings, 1) => "1 finding".to_owned(),
        (Outcome::Findings, count) => format!("{count} findings"),
        (Outcome::NoFinding, _) => "No finding".to_owned(),
        (Outcome::Cleared, _) => "Cleared".to_owned(),
        (Outcome::NotLookedFor, _) => "Not looked for".to_owned(),
    }
}

fn lines(case: &Case, end: &Conclusion) -> Vec<String> {
    let Some(triage) = &case.triage else { return vec![end.summary.clone()] };
    let mut lines = vec![sentence(&triage.kind_meaning)];
    // Findings are listed with their figures anyway; the other ends have only their sentence.
    if end.outcome != Outcome::Findings {
        lines.push(end.summary.clone());
    }
    let told = |reason: &&String| !end.summary.contains(reason.as_str());
    lines.extend(triage.reasons.iter().filter(told).map(|reason| sentence(reason)));
    lines
}

fn models(case: &Case) -> Vec<String> {
    let named = |model: &ModelRef| format!("{} {}", model.name, model.version);
    let specialists = case.assessment.iter().flat_map(|own| &own.models);
    let measuring = case.measurements.iter().map(|own| &own.model);
    let generalist = case.triage.iter().map(|own| &own.model);
    generalist.chain(specialists).chain(measuring).map(named).collect()
}

/// Data sets write some labels with underscores.
pub(crate) fn readable(label: &str) -> String {
    label.replace('_', " ")
}

/// With a capital and a full stop.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    let mut letters = text.chars();
    let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
    let stop = if text.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{stop}", letters.as_str())
}
