//! A classifier against findings.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use duet_evaluation::{
    concepts,
    measure::{self, KnownLabel, LabelScores},
    report::{self, Mistake},
    stats::Figure,
};
use duet_inference::{Label, Registry};

use super::{Job, MISTAKES, Metrics, finish, picture, through::through};

/// Pictures of mistakes for each label.
const OF_A_LABEL: usize = 3;

pub(super) async fn run(mut job: Job<'_>, models: &Registry) -> Result<()> {
    let model = models.classifiers().into_iter().next().context("the classifier is not loaded")?;
    let known: Vec<KnownLabel> = model.labels().iter().map(known).collect();
    // Refused before the work rather than after it.
    measure::label_scores(&known, job.rows(), &vec![None; job.rows().len()])?;

    let (limits, looks) = (job.limits().clone(), Arc::clone(&model));
    let (scores, failed) = through(&mut job, move |bytes| {
        let seen = looks.classify(&picture(&bytes, &limits)?).map_err(|error| error.to_string())?;
        Ok(seen.labels.iter().map(|label| label.probability.value()).collect::<Vec<_>>())
    })
    .await?;

    let (labels, unknown) = measure::label_scores(&known, job.rows(), &scores)?;
    let figures = measure::classifier(&known, job.rows(), &labels, unknown);
    let mistakes = mistakes(&mut job, &known, &labels)?;
    let summary: Vec<(String, Option<Figure>)> = vec![
        (format!("mean AUROC over {} labels", figures.mean_over.len()), figures.mean_auroc),
        ("calibration error, mean over the same".into(), figures.ece),
    ];
    let mut sections = vec![report::figures("All labels", &summary)];
    sections.push(report::overview(&figures));
    sections.extend(report::groups("Mean AUROC", &figures.groups));
    sections.push(report::labels(&figures, &labels));
    sections.push(report::mistakes("Worst mistakes at the operating points", &mistakes));

    let mut shown = summary;
    shown.extend(figures.labels.iter().map(|(name, own)| (name.clone(), own.auroc)));
    let images = job.rows().len();
    let metrics = Metrics { model: model.model(), images, failed: &failed, figures: &figures };
    finish(job.args, &metrics, &sections, &shown)
}

/// A label with every name that sets have for its concept.
fn known(label: &Label) -> KnownLabel {
    let listed = label.synonyms.iter().cloned();
    let coded = concepts::names(&label.code.value).iter().map(|&name| name.to_owned());
    KnownLabel {
        name: label.name.clone(),
        synonyms: listed.chain([label.code.meaning.clone()]).chain(coded).collect(),
        threshold: label.operating_point.as_ref().map(|point| point.threshold.value()),
    }
}

/// The images on which each label was furthest from the truth, label by label.
fn mistakes(
    job: &mut Job<'_>,
    known: &[KnownLabel],
    labels: &[LabelScores],
) -> Result<Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let each = OF_A_LABEL.min(MISTAKES / labels.len().max(1)).max(1);
    for label in labels {
        // Where nobody has set an operating point, what is likelier than not counts.
        let own = known.iter().find(|own| own.name == label.name);
        let threshold = own.and_then(|own| own.threshold).unwrap_or(0.5);
        for at in report::furthest(&label.scored, threshold, each) {
            let (Some(scored), Some(&row)) = (label.scored.get(at), label.rows.get(at)) else {
                continue;
            };
            let says = match scored.positive {
                true => format!("missed: {:.3}, below {threshold:.3}", scored.score),
                false => format!("wrong alarm: {:.3}, from {threshold:.3} on", scored.score),
            };
            mistakes.extend(job.mistake(row, &label.name, says)?);
        }
    }
    Ok(mistakes)
}
