//! A segmentation model against true cardiothoracic ratios.

use anyhow::{Context as _, Result, bail};
use duet_case::{Format, Measurement, Source};
use duet_evaluation::{
    ratio::{self, Measured, NoRatio, Pair},
    report::{self, Mistake},
    stats::Figure,
};
use duet_inference::Registry;
use duet_specialist::Thorax;

use super::{Job, Metrics, finish, picture, through::through};
use crate::Usage;

/// Pictures of the largest errors.
const WORST: usize = 18;
/// The same of what is implausible.
const IMPLAUSIBLE: usize = 12;

pub(super) async fn run(mut job: Job<'_>, models: &Registry) -> Result<()> {
    let model = models.segmenters().into_iter().next().context("the model is not loaded")?;
    let name = model.model().name.clone();
    let Some(thorax) = Thorax::of(model) else {
        bail!(Usage(format!("{name} outlines no heart with both lungs: it measures no ratio")));
    };
    if !job.table.has_ctr {
        return Err(NoRatio.into());
    }
    let (limits, measures) = (job.limits().clone(), thorax.clone());
    let (scores, failed) = through(&mut job, move |bytes| {
        measure(&measures, &bytes, &limits).map(|own| match own.value {
            Some(value) => Measured::Ratio(value),
            None => Measured::Implausible(own.reason.unwrap_or_default()),
        })
    })
    .await?;

    let figures = ratio::ratio(job.rows(), &scores);
    let pairs = ratio::pairs(job.rows(), &scores);
    let ctr = &figures.ctr;
    let shown: Vec<(String, Option<Figure>)> = vec![
        ("mean absolute error".into(), ctr.mae),
        ("mean error (measured less true)".into(), ctr.bias),
        ("share within 0.025".into(), ctr.within_0_025),
        (format!("AUROC of true ratios over 0.5 ({})", ctr.over_0_5), ctr.auroc_over_0_5),
        ("sensitivity, both over 0.5".into(), ctr.sensitivity_over_0_5),
        ("specificity, neither over 0.5".into(), ctr.specificity_over_0_5),
        ("AUROC of reported Cardiomegaly".into(), ctr.auroc_reported_cardiomegaly),
        ("share of images with a ratio".into(), ctr.measured),
    ];
    let shown: Vec<_> = shown
        .into_iter()
        .filter(|(name, figure)| figure.is_some() || !name.contains("reported"))
        .collect();
    let mut sections = vec![report::figures("Cardiothoracic ratio", &shown)];
    sections.push(report::ratio(&figures, &pairs));
    if ctr.mae.is_some() {
        sections.extend(report::groups("Mean absolute error", &figures.groups));
    }
    sections.extend(report::groups("Share with a ratio", &figures.measured_groups));
    sections.push(report::counts("No ratio", "reason", &figures.not_measured));
    let worst = worst(&mut job, &thorax, &pairs)?;
    sections.push(report::mistakes("Largest errors, with what was measured", &worst));
    let implausible = implausible(&mut job, &scores)?;
    if !implausible.is_empty() {
        sections.push(report::mistakes("Without a ratio", &implausible));
    }
    let images = job.rows().len();
    let metrics = Metrics { model: thorax.model(), images, failed: &failed, figures: &figures };
    finish(job.args, &metrics, &sections, &shown)
}

/// As the specialist stage measures; a table says nothing of projection and age that would change the ratio.
fn measure(
    thorax: &Thorax,
    bytes: &[u8],
    limits: &duet_imaging::Limits,
) -> Result<Measurement, String> {
    let source = Source::new(Format::Png, &[]);
    let picture = picture(bytes, limits)?;
    thorax.measure(&picture, [1.0, 1.0], &source).map_err(|error| error.to_string())
}

fn worst(job: &mut Job<'_>, thorax: &Thorax, pairs: &[Pair]) -> Result<Vec<Mistake>> {
    let mut order = pairs.to_vec();
    order.sort_by(|a, b| b.error().abs().total_cmp(&a.error().abs()));
    let mut mistakes = Vec::new();
    for pair in order.into_iter().take(WORST) {
        let says = format!("measured {:.3}, true {:.3}", pair.measured, pair.truth);
        let title = format!("{:+.3}", pair.error());
        let Some(mut mistake) = job.mistake(pair.row, &title, says)? else { continue };
        let bytes = job.images.read(&mistake.file)?;
        if let (Ok(picture), Ok(own)) =
            (picture(&bytes, job.limits()), measure(thorax, &bytes, job.limits()))
        {
            let size = [f64::from(picture.width()), f64::from(picture.height())];
            let share = |[x, y]: [f64; 2]| [x / size[0], y / size[1]];
            let rings = own.areas.iter().flat_map(|area| &area.rendition_contours);
            let rings = rings.map(|ring| {
                let closed = ring.iter().chain(ring.first());
                closed.map(|point| share(*point)).collect::<Vec<_>>()
            });
            let lines = own.lines.iter().map(|line| line.rendition.map(share).to_vec());
            mistake.drawn = rings.chain(lines).collect();
        }
        mistakes.push(mistake);
    }
    Ok(mistakes)
}

fn implausible(job: &mut Job<'_>, scores: &[Option<Measured>]) -> Result<Vec<Mistake>> {
    let reasons = scores.iter().enumerate().filter_map(|(row, score)| match score {
        Some(Measured::Implausible(reason)) => Some((row, reason.clone())),
        _ => None,
    });
    let mut mistakes = Vec::new();
    for (row, reason) in reasons.take(IMPLAUSIBLE) {
        mistakes.extend(job.mistake(row, "no ratio:", reason)?);
    }
    Ok(mistakes)
}
