//! `duet triage try`: images against prompts of one's own, by the code that the services run.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Result, bail};
use bytes::Bytes;
use chrono::Utc;
use duet_blob::BlobStore;
use duet_case::{Case, ModelRef};
use duet_inference::{DualEncoder, PromptScore, Prompts, Registry, TextEncoder, text_encoder};
use duet_prepare::{DecoderPool, File, Launch, Prepare, PseudonymKey, RawImage};
use duet_stage::{Outcome, Reason, Setback, Stage as _, compute, fetch_rendition};
use duet_telemetry::Health;
use duet_triage::{Generalist, Triage};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{cli, config::Config, output, places, send};

/// Files worked on together.
const CHUNK: usize = 16;

pub(crate) async fn run(args: &cli::Try, config: &Config) -> Result<()> {
    let trial = Trial::open(args, config).await?;
    let (mut rows, mut files) = (Vec::new(), Vec::new());
    for named in &args.files {
        match send::find(std::slice::from_ref(named)) {
            Ok(found) => files.extend(found.into_iter().map(|file| Ok(file.path))),
            Err(error) => files.push(Err((named.clone(), format!("{error:#}")))),
        }
    }
    let (total, mut failed) = (files.len(), 0);
    let bar = bar(total);
    for chunk in files.chunks(CHUNK) {
        for (file, seen) in trial.chunk(config, chunk).await? {
            failed += usize::from(seen.is_err());
            bar.inc(1);
            if args.json {
                let line = trial.json(args, &file, &seen);
                bar.suspend(|| output::line(format_args!("{line}")))?;
            } else {
                rows.push(row(args, file, &seen));
            }
        }
    }
    bar.finish_and_clear();
    trial.shutdown.cancel();
    if !args.json {
        let mut header = vec!["file"];
        header.extend(args.prompts.iter().map(String::as_str));
        header.extend(["what it is", "fitness", "abnormal", "triage"]);
        let mut table = output::table(&header);
        for row in rows {
            table.add_row(row);
        }
        output::line(format_args!("{table}"))?;
        output::line(format_args!(
            "scores: cosine with the prompt less the cosine with {:?}; above 0 the image goes better with the prompt. They order images and are no probabilities.",
            args.against
        ))?;
    }
    match failed {
        0 => Ok(()),
        failed => bail!("{failed} of {total} files could not be read; their rows say why"),
    }
}

/// What is seen of one image.
struct Seen {
    scores: Vec<PromptScore>,
    triage: duet_case::Triage,
}

/// Models, prompts and the processes that decode.
struct Trial {
    model: Arc<DualEncoder>,
    text: ModelRef,
    prompts: Arc<Prompts>,
    decoder: Arc<DecoderPool>,
    shutdown: CancellationToken,
}

impl Trial {
    async fn open(args: &cli::Try, config: &Config) -> Result<Self> {
        let dir = places::models(config)?;
        let name = config.settings.triage.model.clone();
        let load = compute::run(move || -> Result<(Arc<DualEncoder>, TextEncoder)> {
            let models = Registry::load_where(&dir, |manifest| manifest.name == name)?;
            let model = models.dual_encoder(&name)?;
            let Some(text) = &model.text().model else {
                bail!(
                    "{name} names no text model (text.model in its model.toml): only the prompts of its manifest can be asked"
                );
            };
            let encoder = text_encoder(&dir, text)?;
            if encoder.dim() != model.text().dim {
                bail!(
                    "{text} gives vectors of {} numbers, but {name} has {}: they do not share a space; correct text.model in its model.toml",
                    encoder.dim(),
                    model.text().dim
                );
            }
            Ok((model, encoder))
        });
        let (model, encoder) = load.await??;
        let (prompts, against) = (args.prompts.clone(), args.against.clone());
        let (text, prompts) = compute::run(move || {
            let prompts = Prompts::embed(&encoder, &prompts, &against);
            prompts.map(|prompts| (encoder.model().clone(), Arc::new(prompts)))
        })
        .await??;
        let (prepare, shutdown) = (&config.settings.prepare, CancellationToken::new());
        let decoder = DecoderPool::start(
            Launch::this_program(&[cli::DECODE_WORKER]),
            prepare.decoder.clone(),
            prepare.limits.clone(),
            Health::default().item("decoder", "starting"),
            shutdown.clone(),
        );
        Ok(Self { model, text, prompts, decoder, shutdown })
    }

    /// Each file with what is seen of it, in their order.
    async fn chunk(
        &self,
        config: &Config,
        files: &[Result<PathBuf, (PathBuf, String)>],
    ) -> Result<Vec<(PathBuf, Result<Seen, Reason>)>> {
        // A store of its own, so that a folder of any size needs the memory of one chunk.
        let blobs = BlobStore::memory();
        let settings = &config.settings;
        let prepare =
            Prepare::new(settings.prepare.clone(), blobs.clone(), PseudonymKey::random()?)
                .with_decoder(Arc::clone(&self.decoder) as _);
        let generalist = Generalist::Embedded(Arc::clone(&self.model) as _);
        let triage = Triage::new(settings.triage.clone(), generalist, blobs.clone())?;
        let mut seen = Vec::with_capacity(files.len());
        let (mut places, mut images) = (Vec::new(), Vec::new());
        for file in files {
            let (path, why) = match file {
                Ok(path) => match self.read(path, config).await {
                    Ok(bytes) => {
                        places.push(seen.len());
                        images
                            .push(RawImage { file: File::Inline(bytes), received_at: Utc::now() });
                        (path, String::new())
                    }
                    Err(error) => (path, format!("{error:#}")),
                },
                Err((path, why)) => (path, why.clone()),
            };
            seen.push((path.clone(), Err(Reason::new("unreadable", why))));
        }
        let (mut waiting, mut cases) = (Vec::new(), Vec::new());
        for (place, outcome) in places.into_iter().zip(prepare.process(images).await) {
            match with_rendition(outcome) {
                Ok(case) => {
                    waiting.push(place);
                    cases.push(case);
                }
                Err(reason) => set(&mut seen, place, Err(reason)),
            }
        }
        for (place, outcome) in waiting.into_iter().zip(triage.process(cases).await) {
            let own = match outcome {
                Outcome::Emit(case, _) => self.score(&blobs, case).await,
                Outcome::Reject(reason) | Outcome::Retry(reason) => Err(reason),
            };
            set(&mut seen, place, own);
        }
        Ok(seen)
    }

    async fn read(&self, path: &std::path::Path, config: &Config) -> Result<Bytes> {
        // Somewhat too large is prepare's to refuse.
        send::read(path, config.settings.prepare.limits.max_bytes.saturating_mul(2)).await
    }

    /// The scores of an image that triage has looked at.
    async fn score(&self, blobs: &BlobStore, case: Case) -> Result<Seen, Reason> {
        let reason = |setback| match setback {
            Setback::Reject(reason) | Setback::Retry(reason) => reason,
        };
        let (_, png) = fetch_rendition(blobs, &case).await.map_err(reason)?;
        let (model, prompts) = (Arc::clone(&self.model), Arc::clone(&self.prompts));
        let scored = compute::run(move || {
            let picture = duet_imaging::decode_rendition(&png)
                .map_err(|error| Reason::of("rendition_unreadable", &error))?;
            let vector = model.embed(&picture).map_err(|error| Reason::of("inference", &error))?;
            Ok(prompts.score(&vector))
        });
        let scores = scored.await.map_err(|error| reason(error.into()))??;
        let silent = || Reason::new("inference", "triage said nothing");
        Ok(Seen { scores, triage: case.triage.ok_or_else(silent)? })
    }

    fn json(&self, args: &cli::Try, file: &std::path::Path, seen: &Result<Seen, Reason>) -> Value {
        let file = file.display().to_string();
        let seen = match seen {
            Ok(seen) => seen,
            Err(Reason { class, message }) => {
                return json!({ "file": file, "error": { "class": class, "message": message } });
            }
        };
        let scores = args.prompts.iter().zip(&seen.scores).map(
            |(prompt, own)| json!({ "prompt": prompt, "score": own.score, "cosine": own.cosine }),
        );
        let triage = &seen.triage;
        json!({
            "file": file,
            "scores": scores.collect::<Vec<_>>(),
            "against": args.against,
            "triage": {
                "decision": triage.decision,
                "kind": triage.kind,
                "fitness": triage.fitness,
                "abnormal": triage.abnormal,
                "reasons": triage.reasons,
            },
            "models": { "image": triage.model, "text": self.text },
        })
    }
}

/// The Case with its picture; an object without one is nothing to look at.
fn with_rendition(outcome: Outcome<Case>) -> Result<Case, Reason> {
    match outcome {
        Outcome::Emit(case, _) if case.rendition.is_some() => Ok(case),
        Outcome::Emit(case, _) => {
            let why = case.assessment.and_then(|own| own.reason);
            Err(Reason::new("no_pixels", why.unwrap_or_else(|| "it has no pixels".to_owned())))
        }
        Outcome::Reject(reason) | Outcome::Retry(reason) => Err(reason),
    }
}

fn set<T>(seen: &mut [(PathBuf, T)], place: usize, value: T) {
    if let Some((_, slot)) = seen.get_mut(place) {
        *slot = value;
    }
}

fn row(args: &cli::Try, file: PathBuf, seen: &Result<Seen, Reason>) -> Vec<String> {
    let mut row = vec![file.display().to_string()];
    match seen {
        Ok(Seen { scores, triage }) => {
            row.extend(scores.iter().map(|own| format!("{:+.3}", own.score)));
            row.extend([
                triage.kind_meaning.clone(),
                triage.fitness.clone(),
                format!("{:.2}", triage.abnormal.value()),
                triage.decision.name().replace('_', " "),
            ]);
        }
        Err(Reason { class, message }) => {
            row.extend(std::iter::repeat_n(String::new(), args.prompts.len() + 3));
            row.push(format!("NOT READ ({class}): {message}"));
        }
    }
    row
}

fn bar(total: usize) -> ProgressBar {
    let bar = ProgressBar::new(total as u64);
    let template = "{bar:32} {pos}/{len} images {per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
