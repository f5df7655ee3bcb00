//! What came of a file so far. It is named by the digest that it will have, so an interrupted attempt is found again
//! whatever the address is then.

use std::{
    fs::{File, TryLockError},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use duet_case::Digest;
use tokio::task::spawn_blocking;

use crate::{FetchError, place::digest_of};

/// An incomplete file, which this process alone writes.
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    sha256: Digest,
    len: u64,
    /// What it will have.
    bytes: u64,
}

impl Part {
    /// Opens what is there of the file with that digest in `parts`, or begins it.
    pub(crate) async fn open(parts: &Path, sha256: Digest, bytes: u64) -> Result<Self, FetchError> {
        let parts = parts.to_owned();
        let opened = spawn_blocking(move || {
            std::fs::create_dir_all(&parts).map_err(FetchError::file(&parts, "made"))?;
            let path = parts.join(format!("{sha256}.part"));
            let open = File::options().read(true).create(true).append(true).open(&path);
            let file = open.map_err(FetchError::file(&path, "opened"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(FetchError::Busy { part: path }),
                Err(TryLockError::Error(source)) => {
                    return Err(FetchError::File { path, doing: "locked", source });
                }
            }
            let len = file.metadata().map_err(FetchError::file(&path, "read"))?.len();
            let mut part = Self { file, path, sha256, len, bytes };
            if part.len > bytes {
                part.empty()?;
            }
            Ok(part)
        });
        opened.await.map_err(|_| FetchError::Crashed)?
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Adds what came. The caller sees to it that it is not too much.
    pub(crate) fn add(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(chunk).map_err(FetchError::file(&self.path, "written"))?;
        self.len += chunk.len() as u64;
        Ok(())
    }

    /// Forgets what came.
    pub(crate) fn empty(&mut self) -> Result<(), FetchError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(FetchError::file(&self.path, "emptied"))?;
        self.len = 0;
        Ok(())
    }

    /// Whether everything came and is right; what is complete and wrong is forgotten.
    pub(crate) async fn is_complete(&mut self) -> Result<bool, FetchError> {
        if self.len < self.bytes {
            return Ok(false);
        }
        let right = self.digest().await? == self.sha256;
        if !right {
            self.empty()?;
        }
        Ok(right)
    }

    pub(crate) async fn digest(&self) -> Result<Digest, FetchError> {
        let path = self.path.clone();
        spawn_blocking(move || digest_of(&path)).await.map_err(|_| FetchError::Crashed)?
    }

    /// The file is in its place: this one is done with.
    pub(crate) fn remove(self) {
        // What stays behind is right, and found again by its name.
        let _stays = std::fs::remove_file(&self.path);
    }
}
