//! `duet models`.

use anyhow::{Result, bail};
use duet_inference::{Kind, ModelInfo, verify};

use crate::{cli::Models, config::Config, output, places};

pub(crate) fn run(command: &Models, config: &Config) -> Result<()> {
    let dir = places::models(config)?;
    let verified = verify(&dir)?;
    let mut table = match command {
        Models::List(_) => {
            output::table(&["model", "version", "kind", "for", "size", "ms", "licence"])
        }
        Models::Verify(_) => output::table(&["model", "", "ms for a test picture"]),
    };
    let mut broken = Vec::new();
    for verification in verified {
        let folder = verification.folder;
        match (verification.result, command) {
            (Ok(info), Models::List(_)) => {
                table.add_row(row(&info));
            }
            (Ok(info), Models::Verify(_)) => {
                let caveat = info.manifest.caveat();
                let words = caveat.map_or_else(
                    || "as its manifest says".to_owned(),
                    |caveat| format!("as its manifest says; {caveat}"),
                );
                table.add_row([folder, words, ms(&info)]);
            }
            (Err(error), _) => {
                let mut words = error.to_string();
                let mut cause = std::error::Error::source(&error);
                while let Some(inner) = cause {
                    if !words.contains(&inner.to_string()) {
                        words = format!("{words}: {inner}");
                    }
                    cause = inner.source();
                }
                table.add_row([folder.clone(), "NOT USABLE".to_owned(), words]);
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
        Kind::VisionLanguage(_) | Kind::Segmentation(_) => manifest.title.clone(),
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
