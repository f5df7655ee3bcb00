//! Where things are kept when nothing else is configured.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use duet_blob::BlobStore;
use duet_inference::ApiKey;

use crate::{Usage, config::Config};

/// The key of the served generalist: a variable and no key of the configuration, so that it is never shown.
pub(crate) const BACKEND_KEY: &str = "DUET_TRIAGE_BACKEND_API_KEY";

/// Duet's own state of this user: `$XDG_STATE_HOME/duet`, else `~/.local/state/duet`.
pub(crate) fn state() -> Result<PathBuf, Usage> {
    in_home("XDG_STATE_HOME", ".local/state")
        .ok_or_else(|| Usage("neither HOME nor XDG_STATE_HOME is set: set blob.url (DUET_BLOB_URL), prepare.pseudonym_key_file and prepare.sealing_key_file".to_owned()))
}

/// What can be fetched again: `$DUET_CACHE`, else `~/.cache/duet`.
pub(crate) fn cache() -> Option<PathBuf> {
    let own = env::var_os("DUET_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from);
    own.or_else(|| in_home("XDG_CACHE_HOME", ".cache"))
}

fn in_home(variable: &str, below: &str) -> Option<PathBuf> {
    let absolute =
        |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable)
        .or_else(|| absolute("HOME").map(|home| home.join(below)))
        .map(|path| path.join("duet"))
}

/// The blob store's address.
pub(crate) fn blob_url(config: &Config) -> Result<String, Usage> {
    match &config.settings.blob.url {
        Some(url) => Ok(url.clone()),
        None => Ok(format!("file://{}", state()?.join("blobs").display())),
    }
}

/// The blob store.
pub(crate) fn blobs(config: &Config) -> anyhow::Result<BlobStore> {
    let timeout = Duration::from_millis(config.settings.blob.timeout_ms);
    Ok(BlobStore::open(&blob_url(config)?)?.with_timeout(timeout))
}

/// The key of the pseudonyms.
pub(crate) fn pseudonym_key(config: &Config) -> Result<PathBuf, Usage> {
    match &config.settings.prepare.pseudonym_key_file {
        Some(path) => Ok(path.clone()),
        None => Ok(state()?.join("pseudonym.key")),
    }
}

/// The key of the served generalist, where it has one.
pub(crate) fn backend_key(config: &Config) -> Result<Option<ApiKey>, Usage> {
    let file = config.settings.triage.backend.api_key_file.as_deref();
    let variable = env::var_os(BACKEND_KEY).filter(|value| !value.is_empty());
    let key = match (file, variable) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(Usage(format!(
                "the served generalist's key is given twice: unset {BACKEND_KEY} or triage.backend.api_key_file"
            )));
        }
        (Some(file), None) => ApiKey::read(file),
        (None, Some(value)) => ApiKey::new(BACKEND_KEY, &value.to_string_lossy()),
    };
    key.map(Some).map_err(|error| Usage(error.to_string()))
}

/// The file of sealing keys that `prepare` seals with.
pub(crate) fn sealing_keys(config: &Config) -> Result<PathBuf, Usage> {
    match &config.settings.prepare.sealing_key_file {
        Some(path) => Ok(path.clone()),
        None => Ok(state()?.join("sealing.keys")),
    }
}

/// The file of sealing keys that `publish` opens with, and whether it was named: else it is `prepare`'s, where it is there.
pub(crate) fn opening_keys(config: &Config) -> Result<(PathBuf, bool), Usage> {
    match &config.settings.publish.sealing_key_file {
        Some(path) => Ok((path.clone(), true)),
        None => Ok((sealing_keys(config)?, false)),
    }
}

/// The folder of models.
pub(crate) fn models(config: &Config) -> Result<PathBuf, Usage> {
    if let Some(dir) = &config.settings.models.dir {
        return Ok(dir.clone());
    }
    let beside = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("models")));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    let mut places = vec![PathBuf::from("models")];
    places.extend(beside);
    places.extend(built.canonicalize());
    places.iter().find(|place| place.is_dir()).cloned().ok_or_else(|| {
        let looked = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
        Usage(format!("there is no folder of models ({looked}): name it by --models, models.dir or DUET_MODELS"))
    })
}
