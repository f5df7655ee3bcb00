//! `duet models`.

mod pull;

use anyhow::{Result, bail};
use duet_inference::{Kind, LoadError, ModelInfo, verify};

use crate::{cli::Models, config::Config, output, places};

pub(crate) async fn run(command: &Models, config: &Config) -> Result<()> {
    match command {
        Models::Pull(args) => pull::run(args, config).await,
        Models::List(_) | Models::Verify(_) => look(command, config),
    }
}

fn look(command: &Models, config: &Config) -> Result<()> {
    let dir = places::models(config)?;
    let listing = matches!(command, Models::List(_));
    let header: &[_] = if listing {
        &["model", "version", "kind", "for", "size", "ms", "licence"]
    } else {
        &["model", "", "ms for a test picture or text"]
    };
    let mut table = output::table(header);
    let mut broken = Vec::new();
    for verification in verify(&dir, |_| true)? {
        let folder = verification.folder;
        match verification.result {
            Ok(info) if listing => {
                table.add_row(row(&info));
            }
            Ok(info) => {
                let caveat = info.manifest.caveat();
                let words = caveat.map_or_else(
                    || "as its manifest says".to_owned(),
                    |caveat| format!("as its manifest says; {caveat}"),
                );
                table.add_row([folder, words, ms(&info)]);
            }
            Err(LoadError::NotPulled { needed, .. }) => {
                table.add_row(unpulled(&folder, listing));
                // A text model is needed by no service.
                if needed && !listing {
                    broken.push(folder);
                }
            }
            Err(error) => {
                table.add_row([folder.clone(), "NOT USABLE".to_owned(), in_words(&error)]);
                broken.push(folder);
            }
        }
    }
    output::line(format_args!("{table}"))?;
    output::line(format_args!("in {}", dir.display()))?;
    match broken.as_slice() {
        [] => Ok(()),
        names => {
            bail!("not usable: {}; the services do not start with such a model", names.join(", "))
        }
    }
}

/// The row of a model whose files are still to be fetched.
fn unpulled(folder: &str, listing: bool) -> Vec<String> {
    let todo = format!("not pulled: duet models pull {folder}");
    let empty = if listing { 2 } else { 0 };
    std::iter::once(folder.to_owned())
        .chain(std::iter::repeat_n(String::new(), empty))
        .chain([todo])
        .collect()
}

/// An error with its causes, and nothing said twice.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if !words.contains(&inner.to_string()) {
            words = format!("{words}: {inner}");
        }
        cause = inner.source();
    }
    words
}

fn ms(info: &ModelInfo) -> String {
    format!("{:.1}", info.inference.as_secs_f64() * 1e3)
}

fn row(info: &ModelInfo) -> [String; 7] {
    let manifest = &info.manifest;
    let purpose = match &manifest.kind {
        Kind::Classifier(spec) => {
            let labels: Vec<_> = spec.labels.iter().map(|label| label.name.as_str()).collect();
            format!("{}: {}", manifest.title, labels.join(", "))
        }
        Kind::VisionLanguage(spec) => format!("{}; {}", manifest.title, spec.decision.clearing()),
        Kind::Segmentation(_) | Kind::Text(_) => manifest.title.clone(),
    };
    let purpose = match manifest.caveat() {
        Some(caveat) => format!("{purpose} ({caveat})"),
        None => purpose,
    };
    [
        manifest.name.clone(),
        manifest.version.clone(),
        manifest.kind.name().to_owned(),
        purpose,
        output::bytes(info.bytes),
        ms(info),
        manifest.licence.clone(),
    ]
}
