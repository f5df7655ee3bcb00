//! `duet unseal`: what `prepare` sealed, for a person who holds the keys.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use duet_case::Case;
use duet_imaging::Identifiers;
use duet_seal::{Opener, Purpose};

use crate::{config::Config, output, places};

#[derive(Debug, Args)]
pub(crate) struct Unseal {
    /// Files with Cases as JSON, one or one a line; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The file of sealing keys [config: publish.sealing_key_file]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

/// One line of JSON for each Case; the first that does not open ends it.
pub(crate) fn run(args: &Unseal, config: &Config) -> Result<()> {
    let keys = match &args.keys {
        Some(path) => path.clone(),
        None => places::opening_keys(config)?.0,
    };
    let opener = Opener::load(&keys)?;
    for file in &args.files {
        let text = read(file)?;
        let documents =
            serde_json::Deserializer::from_slice(&text).into_iter::<serde_json::Value>();
        let mut count = 0;
        for document in documents {
            count += 1;
            let name = || format!("{}, document {count}", file.display());
            let document = document.map_err(|error| {
                anyhow::anyhow!(
                    "{} is not JSON (line {} column {})",
                    name(),
                    error.line(),
                    error.column()
                )
            })?;
            let case = Case::from_json(&serde_json::to_vec(&document)?)
                .map_err(|_| anyhow::anyhow!("{} is not a Case of this version of Duet: give it a report, as `duet watch --json` prints it", name()))?;
            let Some(sealed) = &case.source.sealed else {
                output::line(format_args!(
                    "{}",
                    serde_json::json!({ "id": case.id, "identifiers": null })
                ))?;
                continue;
            };
            let identifiers: Identifiers =
                opener.open(&case.id, Purpose::Filing, sealed).with_context(name)?;
            output::line(format_args!(
                "{}",
                serde_json::json!({ "id": case.id, "identifiers": identifiers })
            ))?;
        }
        if count == 0 {
            bail!("{} holds no Case", file.display());
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if file != Path::new("-") {
        return fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
    }
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).context("standard input cannot be read")?;
    Ok(text)
}
