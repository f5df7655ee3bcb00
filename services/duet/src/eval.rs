//! `duet eval`: a model's figures on labelled images, by the very code that the services run.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use chrono::Utc;
use duet_blob::BlobStore;
use duet_case::{Decision, ModelRef};
use duet_evaluation::{
    Images, Row, Table,
    measure::{self, KnownLabel},
    report::{self, Heading, Mistake},
    stats::Figure,
    triage::{TriageScore, triage},
};
use duet_imaging::{Prepared, decode_rendition};
use duet_inference::{Classifier, Registry, VisionLanguage};
use duet_prepare::{Prepare, PseudonymKey, RawImage};
use duet_stage::{Outcome, Stage as _, compute};
use duet_triage::Triage;
use indicatif::ProgressBar;
use serde::Serialize;

use crate::{Usage, cli, config::Config, output, places};

/// Images worked on together.
const CHUNK: usize = 32;
/// Pictures of mistakes on a page: for each label, and in all.
const MISTAKES: (usize, usize) = (3, 36);
/// Images that could not be read which are told one by one.
const FAILURES_TOLD: usize = 10;

pub(crate) async fn run(args: &cli::Eval, config: &Config) -> Result<()> {
    let labels = fs::File::open(&args.labels).with_context(|| {
        format!("the table of labels {} cannot be opened", args.labels.display())
    })?;
    let table = Table::read(labels).with_context(|| args.labels.display().to_string())?;
    let mut images = Images::open(&args.images, config.settings.prepare.limits.max_bytes)?;
    let models = Registry::load(&places::models(config)?)?;
    fs::create_dir_all(&args.out)
        .with_context(|| format!("the folder {} cannot be made", args.out.display()))?;
    match &args.model {
        Some(name) => classifier(args, config, &models, name, &table.rows, &mut images).await,
        None => generalist(args, config, &models, &table.rows, &mut images).await,
    }
}

/// What could not be read: the file and why.
#[derive(Debug, Serialize)]
struct Failure {
    file: String,
    reason: String,
}

/// What every `metrics.json` says of itself.
#[derive(Serialize)]
struct Metrics<'a, F> {
    model: &'a ModelRef,
    images: usize,
    /// Images that could not be read; they count in no figure.
    failed: &'a [Failure],
    #[serde(flatten)]
    figures: F,
}

async fn classifier(
    args: &cli::Eval,
    config: &Config,
    models: &Registry,
    name: &str,
    rows: &[Row],
    images: &mut Images,
) -> Result<()> {
    let classifiers = models.classifiers();
    let Some(model) = classifiers.iter().find(|own| own.model().name == name).cloned() else {
        let known: Vec<_> = classifiers.iter().map(|own| own.model().name.clone()).collect();
        bail!(Usage(format!(
            "there is no classifier called {name:?}; there is {}",
            known.join(", ")
        )));
    };
    let known: Vec<KnownLabel> = model
        .labels()
        .iter()
        .map(|label| KnownLabel {
            name: label.name.clone(),
            synonyms: label.synonyms.clone(),
            threshold: label.operating_point.as_ref().map(|point| point.threshold.value()),
        })
        .collect();
    // Refused before the work rather than after it.
    measure::label_scores(&known, rows, &vec![None; rows.len()])?;

    let (mut scores, mut failed) = (Vec::with_capacity(rows.len()), Vec::new());
    let bar = bar(rows.len());
    for chunk in rows.chunks(CHUNK) {
        let mut files = Vec::with_capacity(chunk.len());
        for row in chunk {
            files.push(images.read(&row.file)?);
        }
        let (limits, model) = (config.settings.prepare.limits.clone(), Arc::clone(&model));
        let judged = compute::map(files, move |bytes| judge(&bytes, &limits, &*model)).await;
        for (row, judged) in chunk.iter().zip(judged) {
            scores.push(match judged {
                Ok(Ok(probabilities)) => Some(probabilities),
                Ok(Err(reason)) => note(&mut failed, row, reason),
                Err(crashed) => note(&mut failed, row, crashed.to_string()),
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let (labels, unknown) = measure::label_scores(&known, rows, &scores)?;
    let figures = measure::classifier(&known, rows, &labels, unknown);
    let mistakes = mistakes(config, rows, &labels, images)?;
    let summary: Vec<(String, Option<Figure>)> =
        vec![("mean AUROC".into(), figures.mean_auroc), ("calibration error".into(), figures.ece)];
    let mut sections = vec![
        report::figures("All labels", &summary),
        report::labels(&figures, &labels),
        report::mistakes(&mistakes),
    ];
    for (kind, groups) in &figures.groups {
        let groups: Vec<_> = groups.iter().map(|(name, own)| (name.clone(), *own)).collect();
        sections.insert(1, report::figures(&format!("Mean AUROC by {kind}"), &groups));
    }
    let mut rows_of_table: Vec<_> =
        figures.labels.iter().map(|(name, own)| (name.clone(), own.auroc)).collect();
    rows_of_table.splice(0..0, summary);
    let metrics =
        Metrics { model: model.model(), images: rows.len(), failed: &failed, figures: &figures };
    finish(args, &metrics, &sections, &rows_of_table)
}

/// One image's probabilities, in the order of the model's labels.
fn judge(
    bytes: &[u8],
    limits: &duet_imaging::Limits,
    model: &dyn Classifier,
) -> Result<Vec<f64>, String> {
    let picture = match duet_imaging::prepare(bytes, limits).map_err(|error| error.to_string())? {
        Prepared::Picture { rendition_png, .. } => {
            decode_rendition(&rendition_png).map_err(|error| error.to_string())?
        }
        Prepared::NoPixels { reason, .. } => return Err(reason),
    };
    let seen = model.classify(&picture).map_err(|error| error.to_string())?;
    Ok(seen.labels.iter().map(|label| label.probability.value()).collect())
}

fn note<T>(failed: &mut Vec<Failure>, row: &Row, reason: String) -> Option<T> {
    failed.push(Failure { file: row.file.clone(), reason });
    None
}

/// The images on which the labels were furthest from the truth, with their pictures.
fn mistakes(
    config: &Config,
    rows: &[Row],
    labels: &[measure::LabelScores],
    images: &mut Images,
) -> Result<Vec<Mistake>> {
    let mut mistakes = Vec::new();
    for label in labels {
        for at in report::furthest(&label.scored, MISTAKES.0) {
            let (Some(scored), Some(row)) =
                (label.scored.get(at), label.rows.get(at).and_then(|&row| rows.get(row)))
            else {
                continue;
            };
            let bytes = images.read(&row.file)?;
            let png = match duet_imaging::prepare(&bytes, &config.settings.prepare.limits) {
                Ok(Prepared::Picture { rendition_png, .. }) => Some(rendition_png),
                _ => None,
            };
            mistakes.push(Mistake {
                label: label.name.clone(),
                file: row.file.clone(),
                score: scored.score,
                positive: scored.positive,
                png,
            });
        }
    }
    let distance = |own: &Mistake| if own.positive { 1.0 - own.score } else { own.score };
    mistakes.sort_by(|a, b| distance(b).total_cmp(&distance(a)));
    mistakes.truncate(MISTAKES.1);
    Ok(mistakes)
}

async fn generalist(
    args: &cli::Eval,
    config: &Config,
    models: &Registry,
    rows: &[Row],
    images: &mut Images,
) -> Result<()> {
    let model = models.vision_language(&config.settings.triage.model)?;
    let (mut scores, mut failed) = (Vec::with_capacity(rows.len()), Vec::new());
    let bar = bar(rows.len());
    for chunk in rows.chunks(CHUNK) {
        let mut files = Vec::with_capacity(chunk.len());
        for row in chunk {
            files.push(images.read(&row.file)?);
        }
        let triaged = triage_chunk(config, &model, files).await?;
        for (row, triaged) in chunk.iter().zip(triaged) {
            scores.push(match triaged {
                Ok(score) => Some(score),
                Err(reason) => note(&mut failed, row, reason),
            });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();

    let figures = triage(rows, &scores);
    let shown: Vec<(String, Option<Figure>)> = vec![
        ("other images refused".into(), figures.scope.other_refused),
        ("chest films refused".into(), figures.scope.chest_refused),
        ("AUROC of abnormal".into(), figures.abnormal.auroc),
        ("chest films cleared".into(), figures.abnormal.cleared),
        ("abnormal films cleared (miss rate)".into(), figures.abnormal.miss_rate),
    ];
    let metrics =
        Metrics { model: model.model(), images: rows.len(), failed: &failed, figures: &figures };
    finish(args, &metrics, &[report::figures("Triage", &shown)], &shown)
}

/// Puts files through the stages `prepare` and `triage` as they are, on a store of their own.
async fn triage_chunk(
    config: &Config,
    model: &Arc<dyn VisionLanguage>,
    files: Vec<Vec<u8>>,
) -> Result<Vec<Result<TriageScore, String>>> {
    let blobs = BlobStore::memory();
    let key = PseudonymKey::random()?;
    let prepare = Prepare::new(config.settings.prepare.clone(), blobs.clone(), key);
    let triage = Triage::new(config.settings.triage.clone(), Arc::clone(model), blobs)?;
    let received_at = Utc::now();
    let raw = files.into_iter().map(|bytes| RawImage { bytes: Bytes::from(bytes), received_at });
    let mut scores = Vec::new();
    let mut waiting = Vec::new();
    for (i, outcome) in prepare.process(raw.collect()).await.into_iter().enumerate() {
        scores.push(Err(String::new()));
        match outcome {
            Outcome::Emit(case, _) if case.rendition.is_some() => waiting.push((i, case)),
            // Not an image: refused before triage could look.
            Outcome::Emit(..) => set(
                &mut scores,
                i,
                Ok(TriageScore { refused: true, cleared: false, abnormal: 0.0 }),
            ),
            Outcome::Reject(reason) | Outcome::Retry(reason) => {
                set(&mut scores, i, Err(reason.message));
            }
        }
    }
    let (places, cases): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
    for (i, outcome) in places.into_iter().zip(triage.process(cases).await) {
        let score = match outcome {
            Outcome::Emit(case, _) => case.triage.map(|own| TriageScore {
                refused: own.decision == Decision::OutOfScope,
                cleared: own.decision == Decision::Cleared,
                abnormal: own.abnormal.value(),
            }),
            Outcome::Reject(reason) | Outcome::Retry(reason) => {
                set(&mut scores, i, Err(reason.message));
                continue;
            }
        };
        set(&mut scores, i, score.ok_or_else(|| "triage said nothing".to_owned()));
    }
    Ok(scores)
}

fn set<T>(scores: &mut [T], at: usize, value: T) {
    if let Some(slot) = scores.get_mut(at) {
        *slot = value;
    }
}

/// Writes `metrics.json` and `report.html`, and shows the figures.
fn finish<F: Serialize>(
    args: &cli::Eval,
    metrics: &Metrics<'_, F>,
    sections: &[report::Section],
    shown: &[(String, Option<Figure>)],
) -> Result<()> {
    let heading = Heading {
        title: format!("{} {}", metrics.model.name, metrics.model.version),
        lines: vec![
            format!("model {}", metrics.model.sha256),
            format!(
                "{} images of {}, labels {}",
                metrics.images,
                args.images.display(),
                args.labels.display()
            ),
            format!("{} images could not be read and count in no figure", metrics.failed.len()),
            Utc::now().to_rfc3339(),
        ],
    };
    write(
        &args.out.join("metrics.json"),
        &format!("{}\n", serde_json::to_string_pretty(metrics)?),
    )?;
    write(&args.out.join("report.html"), &report::page(&heading, sections))?;

    let mut table = output::table(&["figure", "value", "95 % interval", "images"]);
    for (name, figure) in shown {
        match figure {
            Some(own) => table.add_row([
                name.clone(),
                format!("{:.3}", own.value),
                format!("{:.3} to {:.3}", own.low, own.high),
                own.n.to_string(),
            ]),
            None => table.add_row([name.as_str(), "not measurable on these images"]),
        };
    }
    output::line(format_args!("{table}"))?;
    for failure in metrics.failed.iter().take(FAILURES_TOLD) {
        output::note(format_args!("not read: {}: {}", failure.file, failure.reason));
    }
    output::line(format_args!(
        "{} images, {} not read; figures and curves in {}",
        metrics.images,
        metrics.failed.len(),
        args.out.display()
    ))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}

fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    if let Ok(style) =
        indicatif::ProgressStyle::with_template("{bar:32} {pos}/{len} images {per_sec} {eta}")
    {
        bar.set_style(style);
    }
    bar
}
