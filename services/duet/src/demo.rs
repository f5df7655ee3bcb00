//! `duet demo`: every service in this process, on the embedded broker and a folder of its own, fed with samples.

mod follow;
mod samples;
mod table;

use std::{path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail};
use duet_blob::BlobStore;
use duet_case::Topic;
use duet_imaging::Limits;
use duet_stage::{compute, image_record};
use duet_transport::{Broker as _, MemoryBroker, Sink, Source, Start};
use indicatif::{ProgressBar, ProgressStyle};

use crate::{
    cli,
    config::Config,
    output, places,
    process::{self, Process, Signals},
    services,
};
use follow::{End, Waiting};
use samples::Sample;

/// Folders of earlier demos that are kept beside the new one.
const KEPT: usize = 3;

pub(crate) async fn run(args: &cli::Demo, mut config: Config) -> Result<()> {
    let (chosen, port) = services::named(services::ALL);
    let listener = process::listen(&config, port, &chosen).await?;
    let limits = config.settings.prepare.limits.clone();
    let (samples, told) = samples::gather(&args.files, &limits).await?;
    output::note(format_args!("{told}"));

    let folder = folder()?;
    if config.settings.prepare.pseudonym_key_file.is_none() {
        config.settings.prepare.pseudonym_key_file = Some(folder.join("pseudonym.key"));
    }
    if config.settings.prepare.sealing_key_file.is_none() {
        config.settings.prepare.sealing_key_file = Some(folder.join("sealing.keys"));
    }
    let blobs = BlobStore::open(&format!("file://{}", folder.join("blobs").display()))?;
    let broker = MemoryBroker::default();
    broker.create_topics().await?;
    let broker = Arc::new(broker);
    // Before anything is fed, so that nothing is missed.
    let ends = broker.tail(&[Topic::Reports, Topic::DeadLetters], Start::Beginning).await?;
    let sink = broker.sink().await?;

    let mut process = Process::start(config, &chosen, listener, broker, blobs.clone()).await?;
    let starting = spinner("loading the models and starting every service");
    process.ready().await?;
    starting.finish_and_clear();

    let own_files = !args.files.is_empty();
    let start = Instant::now();
    let bar = bar(samples.len() as u64);
    let ends = process.during(feed_and_follow(&*sink, &samples, &limits, ends, &bar)).await?;
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();

    output::line(format_args!("{}", table::of(&samples, &ends)))?;
    output::line(format_args!("{}", table::totals(&ends, seconds)))?;
    let pictures = keep_pictures(&folder, &ends, &blobs).await?;
    output::line(format_args!("annotated pictures: {}", pictures.display()))?;

    if args.exit {
        process.stop().await?;
    } else {
        output::line(format_args!("The page is up at {} (Ctrl-C ends it)", process.address))?;
        process.wait(Signals::new()?).await?;
    }
    let dead = ends.iter().filter(|end| matches!(end, End::DeadLetter(_))).count();
    if dead > 0 && !own_files {
        bail!(
            "{dead} of {} samples ended as dead letters; every one of them should have ended in a report",
            ends.len()
        );
    }
    Ok(())
}

/// Feeds every sample and waits until each came to its end.
async fn feed_and_follow(
    sink: &dyn Sink,
    samples: &[Sample],
    limits: &Limits,
    source: Box<dyn Source>,
    bar: &ProgressBar,
) -> Result<Vec<End>> {
    let waiting = Waiting::default();
    let feeding = async {
        for (place, sample) in samples.iter().enumerate() {
            let bytes = sample.bytes(limits).await?;
            let (id, record) = compute::run(move || image_record(bytes, "demo")).await?;
            waiting.add(id, place);
            sink.send(record).await.with_context(|| format!("{} was not sent", sample.name))?;
            bar.set_message(format!("fed {}", sample.name));
        }
        anyhow::Ok(())
    };
    let following = follow::until_all_ended(samples, &waiting, source, || bar.inc(1));
    let ((), ends) = tokio::try_join!(feeding, following)?;
    Ok(ends)
}

/// A new folder for this demo; the oldest of earlier ones go.
fn folder() -> Result<PathBuf> {
    let demos = places::state()?.join("demo");
    let name = chrono::Local::now().format("%Y%m%d-%H%M%S").to_string();
    let folder = demos.join(format!("{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("the demo's folder {} cannot be made", folder.display()))?;
    let mut earlier: Vec<_> =
        std::fs::read_dir(&demos)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    earlier.sort();
    earlier.retain(|path| *path != folder);
    let old = earlier.len().saturating_sub(KEPT);
    for path in earlier.into_iter().take(old) {
        std::fs::remove_dir_all(&path)
            .with_context(|| format!("the old demo {} cannot be removed", path.display()))?;
    }
    Ok(folder)
}

/// Writes the annotated pictures under their cases' ids: a file's own name may say who the patient is.
async fn keep_pictures(
    folder: &std::path::Path,
    ends: &[End],
    blobs: &BlobStore,
) -> Result<PathBuf> {
    /// Larger than any picture of at most 1024 x 1024 pixels in colour.
    const MOST: u64 = 32 << 20;
    let pictures = folder.join("annotated");
    tokio::fs::create_dir_all(&pictures).await?;
    for end in ends {
        let End::Report(case) = end else { continue };
        let Some(blob) = case.publication.as_ref().and_then(|own| own.annotated.as_ref()) else {
            continue;
        };
        let png = blobs.get(blob.sha256, MOST).await?;
        tokio::fs::write(pictures.join(format!("{}.png", case.id)), png).await?;
    }
    Ok(pictures)
}

fn spinner(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    spinner
}

fn bar(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len} images {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    bar
}
