//! Triage against scope and findings.

use std::sync::Arc;

use anyhow::Result;
use chrono::Utc;
use duet_blob::BlobStore;
use duet_case::Decision;
use duet_evaluation::{
    report::{self, Mistake},
    stats::Figure,
    triage::{TriageScore, abnormal, triage, wrong},
};
use duet_inference::{Registry, Served};
use duet_prepare::{File, Prepare, PseudonymKey, RawImage};
use duet_stage::{Outcome, Stage as _};
use duet_triage::{Generalist, Triage};

use super::{
    Job, Metrics, finish,
    through::{Progress, note},
};
use crate::{config::Config, places};

/// Images worked on together.
const CHUNK: usize = 32;
/// Pictures of each kind of mistake.
const WORST: usize = 9;

pub(super) async fn run(mut job: Job<'_>, models: &Registry) -> Result<()> {
    let own = &job.config.settings.triage;
    let model = match Served::open(&own.backend, places::backend_key(job.config)?)? {
        Some(served) => {
            served.probe().await?;
            Generalist::Served(Arc::new(served))
        }
        None => Generalist::Embedded(models.vision_language(&own.model)?),
    };
    let table = job.table;
    let rows = &table.rows;
    let (mut scores, mut failed) = (Vec::with_capacity(rows.len()), Vec::new());
    let mut progress = Progress::new(rows.len());
    for chunk in rows.chunks(CHUNK) {
        let mut files = Vec::with_capacity(chunk.len());
        for row in chunk {
            files.push(job.images.read(&row.file)?);
        }
        for (row, triaged) in chunk.iter().zip(triaged(job.config, &model, files).await?) {
            scores.push(note(&mut failed, row, triaged));
            progress.step();
        }
    }
    progress.finish();

    let figures = triage(rows, &scores);
    let shown: Vec<(String, Option<Figure>)> = vec![
        ("other images refused".into(), figures.scope.other_refused),
        ("chest films refused".into(), figures.scope.chest_refused),
        ("AUROC of abnormal".into(), figures.abnormal.auroc),
        ("chest films cleared".into(), figures.abnormal.cleared),
        ("abnormal films cleared (miss rate)".into(), figures.abnormal.miss_rate),
        ("AUPRC of abnormal".into(), figures.abnormal.auprc),
        ("calibration error of abnormal".into(), figures.abnormal.ece),
    ];
    let mut sections = vec![report::figures("Triage", &shown)];
    sections.extend(report::groups("AUROC of abnormal", &figures.groups));
    let judged = abnormal(rows, &scores);
    if figures.abnormal.auroc.is_some() {
        sections.push(report::curves("Abnormal", &judged.scored, None));
    }
    for own in wrong(rows, &scores, WORST) {
        let mut mistakes: Vec<Mistake> = Vec::new();
        for row in own.rows {
            let score = scores.get(row).copied().flatten();
            let says = score.map(|own| format!("abnormal {:.3}", own.abnormal)).unwrap_or_default();
            mistakes.extend(job.mistake(row, "", says)?);
        }
        if !mistakes.is_empty() {
            sections.push(report::mistakes(&format!("Worst: {}", own.what), &mistakes));
        }
    }
    let images = rows.len();
    let metrics = Metrics { model: &model.model(), images, failed: &failed, figures: &figures };
    finish(job.args, &metrics, &sections, &shown)
}

/// Puts files through the stages `prepare` and `triage` as they are, on a store of their own.
async fn triaged(
    config: &Config,
    model: &Generalist,
    files: Vec<Vec<u8>>,
) -> Result<Vec<Result<TriageScore, String>>> {
    let blobs = BlobStore::memory();
    let key = PseudonymKey::random()?;
    let prepare = Prepare::new(config.settings.prepare.clone(), blobs.clone(), key);
    let triage = Triage::new(config.settings.triage.clone(), model.clone(), blobs)?;
    let received_at = Utc::now();
    let raw =
        files.into_iter().map(|bytes| RawImage { file: File::Inline(bytes.into()), received_at });
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
            // A served generalist that gave no answer says nothing of how well it sees.
            Outcome::Emit(case, _)
                if case.triage.as_ref().is_some_and(|own| own.scores.is_empty()) =>
            {
                let reasons = case.triage.map(|own| own.reasons.join("; ")).unwrap_or_default();
                set(&mut scores, i, Err(reasons));
                continue;
            }
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
