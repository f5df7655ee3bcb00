//! `duet eval`: a model's figures on labelled images, by the very code that the services run.

mod anatomy;
mod classifier;
mod through;
mod triage;

use std::{cell::RefCell, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use duet_case::ModelRef;
use duet_evaluation::{
    Images, Row, Table,
    report::{self, Heading, Mistake},
    stats::Figure,
};
use duet_imaging::{Limits, Prepared, decode_rendition, reduced_png};
use duet_inference::{Kind, Registry};
use image::GrayImage;
use serde::Serialize;

use crate::{Usage, cli, config::Config, output, places};

/// Pictures of mistakes on a page, in all.
const MISTAKES: usize = 36;
/// Long side of a picture on the page.
const SHOWN_PX: u32 = 384;
/// Images that could not be read which are told one by one.
const FAILURES_TOLD: usize = 10;

/// What is evaluated, and on what.
struct Job<'a> {
    args: &'a cli::Eval,
    config: &'a Config,
    table: &'a Table,
    images: Images,
}

impl Job<'_> {
    fn rows(&self) -> &[Row] {
        &self.table.rows
    }

    fn limits(&self) -> &Limits {
        &self.config.settings.prepare.limits
    }

    /// A row's picture as the page shows it; without one where it cannot be read.
    fn mistake(&mut self, row: usize, title: &str, says: String) -> Result<Option<Mistake>> {
        let Some(row) = self.table.rows.get(row) else { return Ok(None) };
        let bytes = self.images.read(&row.file)?;
        let picture = picture(&bytes, self.limits()).ok();
        Ok(Some(Mistake {
            title: title.to_owned(),
            says,
            file: row.file.clone(),
            aspect: picture
                .as_ref()
                .map_or(0.0, |own| f64::from(own.width()) / f64::from(own.height().max(1))),
            png: picture.map(|own| reduced_png(&own, SHOWN_PX)).transpose()?,
            drawn: Vec::new(),
        }))
    }
}

pub(crate) async fn run(args: &cli::Eval, config: &Config) -> Result<()> {
    let labels = fs::File::open(&args.labels).with_context(|| {
        format!("the table of labels {} cannot be opened", args.labels.display())
    })?;
    let table = Table::read(labels).with_context(|| args.labels.display().to_string())?;
    let images = Images::open(&args.images, config.settings.prepare.limits.max_bytes)?;
    // Before hours of work rather than within them.
    table.rows.iter().try_for_each(|row| images.look(&row.file))?;
    let wanted = args.model.as_ref().unwrap_or(&config.settings.triage.model);
    let (models, kind) = load(&places::models(config)?, wanted, args.triage)?;
    fs::create_dir_all(&args.out)
        .with_context(|| format!("the folder {} cannot be made", args.out.display()))?;
    let job = Job { args, config, table: &table, images };
    match kind {
        Evaluated::Triage => triage::run(job, &models).await,
        Evaluated::Classifier => classifier::run(job, &models).await,
        Evaluated::Anatomy => anatomy::run(job, &models).await,
    }
}

/// How a model is measured.
enum Evaluated {
    Triage,
    Classifier,
    Anatomy,
}

/// Loads the model of that name and no other.
fn load(dir: &Path, name: &str, triage: bool) -> Result<(Registry, Evaluated)> {
    let known = RefCell::new(Vec::new());
    let models = Registry::load_where(dir, |manifest| {
        known.borrow_mut().push(format!("{} ({})", manifest.name, manifest.kind.name()));
        manifest.name == name
    })?;
    let kind = models.list().next().map(|info| &info.manifest.kind);
    let kind = match (kind, triage) {
        (Some(Kind::VisionLanguage(_)), true) => Evaluated::Triage,
        (Some(Kind::Classifier(_)), false) => Evaluated::Classifier,
        (Some(Kind::Segmentation(_)), false) => Evaluated::Anatomy,
        (Some(Kind::VisionLanguage(_)), false) => bail!(Usage(format!(
            "{name} is a generalist: measure it with --triage instead of --model"
        ))),
        (Some(Kind::Text(_)), false) => bail!(Usage(format!(
            "{name} is a model of texts, and what is measured here looks at pictures"
        ))),
        (Some(_), true) => bail!(Usage(format!(
            "triage.model is {name}, which is no generalist; there is {}",
            known.take().join(", ")
        ))),
        (None, _) => bail!(Usage(format!(
            "there is no model called {name:?} in {}; there is {}",
            dir.display(),
            known.take().join(", ")
        ))),
    };
    Ok((models, kind))
}

/// An image as the models see it.
fn picture(bytes: &[u8], limits: &Limits) -> Result<GrayImage, String> {
    match duet_imaging::prepare(bytes, limits).map_err(|error| error.to_string())? {
        Prepared::Picture { rendition_png, .. } => {
            decode_rendition(&rendition_png).map_err(|error| error.to_string())
        }
        Prepared::NoPixels { reason, .. } => Err(reason),
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
            format!("Model SHA-256 {}", metrics.model.sha256),
            format!(
                "{} images of {}, labels {}",
                metrics.images,
                args.images.display(),
                args.labels.display()
            ),
            match metrics.failed.len() {
                0 => "Every image could be read.".to_owned(),
                failed => format!("{failed} images could not be read and count in no figure."),
            },
            format!("{} UTC", Utc::now().format("%Y-%m-%d %H:%M")),
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
    if metrics.failed.len() > FAILURES_TOLD {
        let more = metrics.failed.len() - FAILURES_TOLD;
        output::note(format_args!("not read: {more} more, see metrics.json"));
    }
    output::line(format_args!(
        "{} images, {} not read; figures in {}, curves and pictures in {}",
        metrics.images,
        metrics.failed.len(),
        args.out.join("metrics.json").display(),
        args.out.join("report.html").display()
    ))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
