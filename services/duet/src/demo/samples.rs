//! What the demo feeds: the user's files, else real radiographs from the cache, else drawn phantoms.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use duet_imaging::{Limits, Prepared, decode_rendition, prepare};
use duet_stage::compute;
use duet_testkit::phantoms::{self, DicomOptions, Syntax};

use crate::{places, send};

/// Where `make demo` puts the radiographs, below the cache.
const RADIOGRAPHS: &str = "samples/pydicom-data-1.0.0";
/// Of them, the one that PNG and JPEG are made from: a chest.
const CHEST: &str = "RG1_UNCR.dcm";

/// One file to feed.
#[derive(Debug)]
pub(super) struct Sample {
    /// As it is shown.
    pub(super) name: String,
    content: Content,
}

/// A file is read when its turn comes: a folder may hold more than memory does.
#[derive(Debug)]
enum Content {
    File(PathBuf),
    Made(Bytes),
}

impl Sample {
    fn made(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), content: Content::Made(bytes.into()) }
    }

    /// The bytes; what is far beyond the limit is not even read.
    pub(super) async fn bytes(&self, limits: &Limits) -> Result<Bytes> {
        match &self.content {
            // Somewhat too large is prepare's to refuse, so that the refusal is seen.
            Content::File(path) => send::read(path, limits.max_bytes.saturating_mul(2)).await,
            Content::Made(bytes) => Ok(bytes.clone()),
        }
    }
}

/// The samples, and in words what they are.
pub(super) async fn gather(files: &[PathBuf], limits: &Limits) -> Result<(Vec<Sample>, String)> {
    if !files.is_empty() {
        let samples = find(files)?;
        let told = format!("{} of your own files", samples.len());
        return Ok((samples, told));
    }
    let own = std::env::var_os("DUET_SAMPLES").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = own.or_else(|| places::cache().map(|cache| cache.join(RADIOGRAPHS)));
    match folder.filter(|folder| folder.is_dir()) {
        Some(folder) => {
            let mut samples = find(std::slice::from_ref(&folder))?;
            samples.extend(converted(&folder.join(CHEST), limits).await?);
            let told = format!(
                "{} samples: radiographs in {}, and a PNG and a JPEG made of one",
                samples.len(),
                folder.display()
            );
            Ok((samples, told))
        }
        None => {
            let samples = compute::run(drawn).await?;
            let told = format!(
                "{} drawn phantoms, which triage may refuse, since a drawing is no radiograph: there are no sample radiographs here (`make demo` fetches them where the network allows it)",
                samples.len()
            );
            Ok((samples, told))
        }
    }
}

fn find(files: &[PathBuf]) -> Result<Vec<Sample>> {
    let found = send::find(files)?.into_iter();
    let sample = |path: PathBuf| Sample { name: short(&path), content: Content::File(path) };
    Ok(found.map(|found| sample(found.path)).collect())
}

/// The file's name.
fn short(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A PNG and a JPEG of a radiograph, so that every format is fed.
async fn converted(chest: &Path, limits: &Limits) -> Result<Vec<Sample>> {
    if !chest.is_file() {
        return Ok(Vec::new());
    }
    let bytes = send::read(chest, limits.max_bytes).await?;
    let limits = limits.clone();
    let made = compute::run(move || -> Result<_> {
        let Prepared::Picture { rendition_png, .. } = prepare(&bytes, &limits)? else {
            bail!("it has no pixels");
        };
        let jpeg = phantoms::jpeg(&decode_rendition(&rendition_png)?);
        Ok((rendition_png, jpeg))
    });
    let (png, jpeg) = made
        .await?
        .with_context(|| format!("{} cannot be turned into PNG and JPEG", chest.display()))?;
    let stem = chest.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(vec![Sample::made(format!("{stem}.png"), png), Sample::made(format!("{stem}.jpg"), jpeg)])
}

/// Phantoms in every format.
fn drawn() -> Vec<Sample> {
    let dicom = |syntax| DicomOptions { syntax, ..DicomOptions::default() };
    let sample = Sample::made;
    vec![
        sample(
            "phantom-chest-1.dcm",
            phantoms::dicom(&phantoms::chest(1, 900, 900), &dicom(Syntax::Explicit)),
        ),
        sample(
            "phantom-chest-2.dcm",
            phantoms::dicom(&phantoms::chest(2, 900, 900), &dicom(Syntax::Rle)),
        ),
        sample(
            "phantom-chest-3.dcm",
            phantoms::dicom(&phantoms::chest(3, 900, 900), &dicom(Syntax::Deflated)),
        ),
        sample("phantom-chest-4.png", phantoms::png8(&phantoms::chest(4, 900, 900))),
        sample("phantom-chest-5.png", phantoms::png16(&phantoms::chest(5, 900, 900))),
        sample("phantom-chest-6.jpg", phantoms::jpeg(&phantoms::chest(6, 900, 900))),
        sample(
            "phantom-hand.dcm",
            phantoms::dicom(&phantoms::hand(7, 700, 900), &dicom(Syntax::Implicit)),
        ),
    ]
}
