#![allow(clippy::print_stdout, clippy::print_stderr)]
//! What one model's folder makes of files, one line of JSON a file: for trying out a model, and for comparing it with
//! the framework that it was exported from.
//!
//! ```text
//! cargo run -p duet-inference --example run_model -- models/cxr-findings film.dcm
//! cargo run -p duet-inference --example run_model -- --raw models/cxr-findings film.png tensor.f32
//! cargo run -p duet-inference --example run_model -- --input models/cxr-findings film.png
//! ```
//!
//! `--raw` prints the graph's outputs, `--input` what goes into it. A file that ends in `.f32` is an input already:
//! `width * height` little-endian floats. `-` reads names of files from standard input, one a line.

use std::{
    error::Error,
    fs,
    io::BufRead as _,
    path::{Path, PathBuf},
};

use duet_imaging::{Limits, Prepared, decode_rendition, prepare};
use duet_inference::{Kind, Probe, Question, Registry};
use image::GrayImage;
use serde_json::{Map, Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: run_model [--raw | --input] MODEL_FOLDER FILE...
for instance: run_model models/cxr-findings film.dcm";

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("run_model: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| args.iter().position(|own| own == name).map(|at| args.remove(at));
    let (raw, input) = (flag("--raw").is_some(), flag("--input").is_some());
    let [folder, files @ ..] = args.as_slice() else { return Err(USAGE.into()) };
    if files.is_empty() || folder.starts_with('-') {
        return Err(USAGE.into());
    }
    // The folder's own name has to be the model's, so it is needed in full.
    let folder = fs::canonicalize(folder).map_err(|error| format!("{folder}: {error}"))?;
    let models = if raw || input { None } else { Some(Registry::open(&folder)?) };
    let probe = Probe::open(&folder)?;
    for file in files {
        if file == "-" {
            for line in std::io::stdin().lock().lines() {
                one(&probe, models.as_ref(), raw, &PathBuf::from(line?))?;
            }
        } else {
            one(&probe, models.as_ref(), raw, Path::new(file))?;
        }
    }
    Ok(())
}

fn one(probe: &Probe, models: Option<&Registry>, raw: bool, file: &Path) -> Result<()> {
    let said = match models {
        Some(models) => answers(probe, models, file),
        None => numbers(probe, raw, file),
    };
    let mut line = said.map_err(|error| format!("{}: {error}", file.display()))?;
    line.insert("file".to_owned(), json!(file));
    println!("{}", Value::Object(line));
    Ok(())
}

/// What the services would be told.
fn answers(probe: &Probe, models: &Registry, file: &Path) -> Result<Map<String, Value>> {
    let picture = picture(file)?;
    let name = &probe.manifest().name;
    let mut line = Map::new();
    line.insert("model".to_owned(), json!(name));
    match &probe.manifest().kind {
        Kind::Classifier(_) => {
            let model = models.classifiers().pop().ok_or("no classifier")?;
            let seen = model.classify(&picture)?;
            let labels = model.labels().iter().zip(&seen.labels).map(|(label, own)| {
                let probability = own.probability.value();
                json!({ "label": label.name, "logit": own.logit, "probability": probability })
            });
            line.insert("labels".to_owned(), labels.collect());
        }
        Kind::VisionLanguage(_) => {
            let look = models.vision_language(name)?.look(&picture)?;
            for question in Question::ALL {
                let answers = look.answers(question).iter();
                let answers: Map<_, _> =
                    answers.map(|own| (own.id.clone(), json!(own.probability.value()))).collect();
                line.insert(question.name().to_owned(), Value::Object(answers));
            }
        }
        Kind::Segmentation(_) => {
            let model = models.segmenters().pop().ok_or("no areas")?;
            let areas = model.segment(&picture)?;
            let shares = model.labels().iter().zip(&areas).map(|(label, mask)| {
                let inside = mask.pixels().filter(|p| p.0.iter().all(|p| *p > 0.0)).count();
                json!({ "label": label.name, "share": inside as f64 / mask.len().max(1) as f64 })
            });
            line.insert("areas".to_owned(), shares.collect());
        }
        // A probe opens none of these.
        Kind::Text(_) => {}
    }
    Ok(line)
}

/// The graph's own outputs, or its input.
fn numbers(probe: &Probe, raw: bool, file: &Path) -> Result<Map<String, Value>> {
    let input = if file.extension().is_some_and(|own| own == "f32") {
        let bytes = fs::read(file)?;
        let (floats, rest) = bytes.as_chunks::<4>();
        if !rest.is_empty() {
            return Err("is no list of 4-byte floats".into());
        }
        floats.iter().map(|own| f32::from_le_bytes(*own)).collect()
    } else {
        probe.input(&picture(file)?)
    };
    let mut line = Map::new();
    if raw {
        for output in probe.run(&input)? {
            line.insert(output.name, json!({ "shape": output.shape, "values": output.values }));
        }
    } else {
        line.insert("input".to_owned(), json!(input));
    }
    Ok(line)
}

/// A DICOM, PNG or JPEG file as the services see it.
fn picture(file: &Path) -> Result<GrayImage> {
    match prepare(&fs::read(file)?, &Limits::default())? {
        Prepared::Picture { rendition_png, .. } => Ok(decode_rendition(&rendition_png)?),
        Prepared::NoPixels { reason, .. } => Err(reason.into()),
    }
}
