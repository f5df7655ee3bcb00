//! What the specialists make of one picture: synchronous, on the compute pool.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use duet_case::{Assessment, Finding, LabelScore, Measurement, ModelRef, PixelBox, Source};
use duet_imaging::{decode_rendition, heat};
use duet_inference::{Classifier, Label, LabelResult, OperatingPoint};
use duet_stage::Reason;
use duet_telemetry::metrics;
use image::GrayImage;
use tracing::warn;

use crate::Thorax;

/// What was found; the findings have no region yet, since their heat maps are still to be stored.
pub(crate) struct Found {
    pub(crate) assessment: Assessment,
    /// The most probable first.
    pub(crate) findings: Vec<(Finding, Option<Drawn>)>,
    pub(crate) measurements: Vec<Measurement>,
}

/// A finding's region in rendition pixels, and its heat map as PNG.
pub(crate) struct Drawn {
    pub(crate) png: Vec<u8>,
    pub(crate) bounds: PixelBox,
    pub(crate) contours: Vec<Vec<[f64; 2]>>,
}

/// Runs every one of `classifiers` on the rendition, then measures with every one of `thoraxes`.
pub(crate) fn assess(
    classifiers: &[Arc<dyn Classifier>],
    thoraxes: &[Thorax],
    png: &[u8],
    scale: [f64; 2],
    source: &Source,
) -> Result<Found, Reason> {
    let picture =
        decode_rendition(png).map_err(|error| Reason::of("rendition_unreadable", &error))?;
    let mut scores = Vec::new();
    let mut findings = Vec::new();
    for classifier in classifiers {
        let start = Instant::now();
        let seen =
            classifier.classify(&picture).map_err(|error| Reason::of("inference", &error))?;
        timed(classifier.model(), start);
        for (label, result) in classifier.labels().iter().zip(seen.labels) {
            let Some(point) = &label.operating_point else { continue };
            scores.push(LabelScore {
                label: label.name.clone(),
                probability: result.probability,
                threshold: point.threshold,
                model: classifier.model().name.clone(),
            });
            if result.probability >= point.threshold {
                findings.push(finding(&**classifier, label, point, &result, &picture)?);
            }
        }
    }
    findings.sort_by(|(a, _), (b, _)| {
        let by_probability = b.probability.value().total_cmp(&a.probability.value());
        by_probability.then_with(|| a.label.cmp(&b.label))
    });
    let models = classifiers.iter().map(|own| own.model().clone()).collect();
    let measurements = thoraxes.iter().map(|own| measure(own, &picture, scale, source)).collect();
    let uncalibrated = classifiers.iter().filter(|own| !own.calibrated());
    let uncalibrated = uncalibrated.map(|own| own.model().name.clone()).collect();
    let assessment = Assessment { models, scores, reason: None, uncalibrated };
    Ok(Found { assessment, findings, measurements })
}

fn timed(model: &ModelRef, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    metrics().model_seconds.with_label_values(&[&model.name]).observe(seconds);
}

/// Measures, and where the model fails says so in the measurement: the findings do not depend on it.
fn measure(thorax: &Thorax, picture: &GrayImage, scale: [f64; 2], source: &Source) -> Measurement {
    let start = Instant::now();
    let seen = catch_unwind(AssertUnwindSafe(|| thorax.measure(picture, scale, source)));
    timed(thorax.model(), start);
    let name = &thorax.model().name;
    let (result, measurement) = match seen {
        Ok(Ok(own)) if own.value.is_some() => ("measured", own),
        Ok(Ok(own)) => ("implausible", own),
        Ok(Err(error)) => ("failed", thorax.nothing(error.to_string())),
        Err(_) => ("failed", thorax.nothing(format!("model {name} crashed on this image"))),
    };
    if result == "failed" {
        let reason = measurement.reason.as_deref().unwrap_or_default();
        warn!(model = name, reason, "nothing was measured; the findings stay");
    }
    let labels = [name.as_str(), measurement.name.as_str(), result];
    metrics().measurements.with_label_values(&labels).inc();
    if let Some(value) = measurement.value {
        metrics().cardiothoracic_ratio.with_label_values(&[name]).observe(value);
    }
    measurement
}

fn finding(
    classifier: &dyn Classifier,
    label: &Label,
    point: &OperatingPoint,
    result: &LabelResult,
    picture: &GrayImage,
) -> Result<(Finding, Option<Drawn>), Reason> {
    let grid = (result.map.width, result.map.height);
    let area = result.map.area;
    let heat = heat(&evidence(label, point, result), grid, (area.width, area.height));
    let drawn = match heat.map(|own| own.within((area.x, area.y), picture.dimensions())) {
        Some(heat) => Some(Drawn {
            png: heat.png().map_err(|error| Reason::of("heat_map", &error))?,
            bounds: heat.bounds,
            contours: heat.contours,
        }),
        None => None,
    };
    let finding = Finding {
        label: label.name.clone(),
        code: label.code.clone(),
        probability: result.probability,
        threshold: point.threshold,
        sensitivity: point.sensitivity,
        specificity: point.specificity,
        region: None,
        model: classifier.model().clone(),
    };
    Ok((finding, drawn))
}

/// By how much each cell's own logit exceeds the operating point's.
///
/// A label's logit is the mean of its map and a constant, so that zero in the map means nothing: a rare label's map is
/// below zero everywhere, finding or not. The operating point is what a cell must exceed to speak for the finding, and
/// the cells of a finding do so on average.
fn evidence(label: &Label, point: &OperatingPoint, result: &LabelResult) -> Vec<f32> {
    let values = &result.map.values;
    let mean =
        values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len().max(1) as f64;
    let threshold = point.threshold.value().clamp(1e-6, 1.0 - 1e-6);
    let needed = ((threshold / (1.0 - threshold)).ln() - label.platt.bias) / label.platt.scale;
    let shift = result.logit - mean - needed;
    values.iter().map(|value| (f64::from(*value) + shift) as f32).collect()
}
