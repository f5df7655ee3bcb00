//! The inbox: original files that are too large for a record, from the moment that they are sent until their time is up.
//!
//! They are what patients are known by, and guarded like `images`: under a prefix of their own (`inbox/`), which those who
//! feed `images` may write, prepare may read and clear, and nobody else needs. A file is called after its digest, so that
//! sending it twice is harmless. It goes by its age alone: records that name it may be waiting, may come twice, and may be
//! dead letters that somebody is to look at.

use std::{
    fs, io,
    path::{Path as Folder, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use duet_case::{Digest, Reference};
use duet_telemetry::metrics;
use futures::StreamExt as _;
use object_store::{ObjectStore, ObjectStoreExt as _, path::Path};
use tokio::task::{JoinError, spawn_blocking};

use crate::Upload;

/// Bytes beyond which a file may take longer than another.
const LARGE: u64 = 1 << 30;

/// Why a file could not be put into the inbox or taken from it.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// There is no file of that digest.
    #[error(
        "the file {digest} that the record refers to is not in the inbox: it has to be in the store that blob.url names before its record is sent, and goes after kafka.guarded_retention_hours"
    )]
    Missing {
        /// Its name.
        digest: Digest,
    },
    /// The file has another size than its reference says.
    #[error(
        "the file {digest} in the inbox has {found} bytes, its reference says {said}: it was not put there as a whole, or the reference is wrong; send it again"
    )]
    Size {
        /// Its name.
        digest: Digest,
        /// Its size by the reference.
        said: u64,
        /// Its size.
        found: u64,
    },
    /// The file's bytes are others than its reference says.
    #[error(
        "the file {digest} in the inbox has the digest {found}: it was damaged, or put there under a wrong name; send it again"
    )]
    Damaged {
        /// Its name.
        digest: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// Larger than the reader takes.
    #[error(
        "the file that the record refers to has {bytes} bytes, more than the {limit} that a file may have (prepare.limits.max_bytes)"
    )]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The reader's limit.
        limit: u64,
    },
    /// The store does not answer, or refuses.
    #[error("the blob store failed: {0}")]
    Store(#[source] object_store::Error),
    /// The store takes too long.
    #[error("the blob store did not answer within {} ms (blob.timeout_ms)", .0.as_millis())]
    Slow(Duration),
    /// The folder cannot be read or cleared.
    #[error("the folder of the inbox: {0}")]
    Folder(#[source] io::Error),
    /// A task of this process ended by itself.
    #[error("a task of the inbox crashed; please report it")]
    Crashed(#[from] JoinError),
}

impl InboxError {
    /// A short word for metrics and dead letters.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "reference_missing",
            Self::Size { .. } | Self::Damaged { .. } => "reference_mismatch",
            Self::TooLarge { .. } => "over_limit",
            Self::Store(_) | Self::Slow(_) | Self::Folder(_) | Self::Crashed(_) => "blob_store",
        }
    }

    /// Whether trying again may help.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Slow(_) | Self::Folder(_))
    }
}

/// What clearing the inbox has found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files that were removed.
    pub removed: u64,
    /// Files that stay.
    pub left: u64,
    /// Bytes that stay.
    pub left_bytes: u64,
}

/// The inbox of a blob store. Clones share it.
#[derive(Clone)]
pub struct Inbox {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// Where the store is a folder.
    folder: Option<PathBuf>,
    timeout: Duration,
}

impl Inbox {
    pub(crate) fn new(
        store: Arc<dyn ObjectStore>,
        folder: Option<PathBuf>,
        timeout: Duration,
    ) -> Self {
        Self { store, folder: folder.map(|folder| folder.join(Reference::INBOX)), timeout }
    }

    /// Begins to put a file in, whose size and digest need not be known.
    ///
    /// # Errors
    ///
    /// Where the store does not take it.
    pub async fn begin(&self) -> Result<Upload, InboxError> {
        if let Some(folder) = self.folder.clone() {
            // Nobody but its owner has anything to do in it.
            spawn_blocking(move || make_private(&folder)).await?.map_err(InboxError::Folder)?;
        }
        Upload::begin(self.clone()).await
    }

    /// Puts a file in that is in memory.
    ///
    /// # Errors
    ///
    /// Where the store does not take it.
    pub async fn put(&self, file: Bytes) -> Result<Reference, InboxError> {
        let mut upload = self.begin().await?;
        upload.write(file).await?;
        upload.finish().await
    }

    /// The file that `reference` names, at most `limit` bytes, checked against its size and digest.
    ///
    /// # Errors
    ///
    /// Where it is missing, not what the reference says, larger than `limit`, or the store does not answer.
    pub async fn fetch(&self, reference: &Reference, limit: u64) -> Result<Bytes, InboxError> {
        let (digest, said) = (reference.sha256, reference.bytes);
        if said > limit {
            return Err(InboxError::TooLarge { bytes: said, limit });
        }
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => InboxError::Missing { digest },
            other => InboxError::Store(other),
        };
        let place = location(&digest);
        let fetch = async {
            let found = self.store.get(&place).await.map_err(failed)?;
            // Before anything is allocated for it.
            if found.meta.size != said {
                return Err(InboxError::Size { digest, said, found: found.meta.size });
            }
            found.bytes().await.map_err(failed)
        };
        let bytes = self.in_time(said, fetch).await?;
        metrics().blob_bytes.with_label_values(&["inbox_get"]).inc_by(bytes.len() as u64);
        let hashed = bytes.clone();
        match spawn_blocking(move || Digest::of(&hashed)).await? {
            same if same == digest => Ok(bytes),
            found => Err(InboxError::Damaged { digest, found }),
        }
    }

    /// Removes every file that came `age` ago or earlier, and what uploads left behind that broke off then.
    ///
    /// # Errors
    ///
    /// Where the store does not answer, or may not be listed or cleared.
    pub async fn sweep(&self, age: Duration) -> Result<Swept, InboxError> {
        let until = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        if let Some(folder) = self.folder.clone() {
            let swept = spawn_blocking(move || sweep_folder(&folder, until)).await?;
            return swept.map_err(InboxError::Folder);
        }
        let mut swept = Swept::default();
        let inbox = Path::from(Reference::INBOX);
        let mut files = self.store.list(Some(&inbox));
        while let Some(file) = files.next().await {
            let file = file.map_err(InboxError::Store)?;
            if SystemTime::from(file.last_modified) > until {
                swept.left += 1;
                swept.left_bytes += file.size;
                continue;
            }
            match self.store.delete(&file.location).await {
                // Another replica was quicker.
                Ok(()) | Err(object_store::Error::NotFound { .. }) => swept.removed += 1,
                Err(error) => return Err(InboxError::Store(error)),
            }
        }
        Ok(swept)
    }

    /// Waits for work on `bytes` bytes.
    pub(crate) async fn in_time<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = Result<T, InboxError>>,
    ) -> Result<T, InboxError> {
        let times = u32::try_from(bytes / LARGE).unwrap_or(u32::MAX).saturating_add(1);
        let limit = self.timeout.saturating_mul(times);
        tokio::time::timeout(limit, work).await.unwrap_or(Err(InboxError::Slow(limit)))
    }
}

/// Where the file of that digest is.
pub(crate) fn location(digest: &Digest) -> Path {
    Path::from_iter([Reference::INBOX, &digest.to_string()])
}

fn make_private(folder: &Folder) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A folder holds besides its files those that an upload is writing, which its listing does not show.
fn sweep_folder(folder: &Folder, until: SystemTime) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let Ok(own) = fs::symlink_metadata(&path) else { continue }; // gone meanwhile
        if own.is_dir() {
            let inner = sweep_folder(&path, until)?;
            swept.removed += inner.removed;
            swept.left += inner.left;
            swept.left_bytes += inner.left_bytes;
        } else if own.modified()? > until {
            swept.left += 1;
            swept.left_bytes += own.len();
        } else {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => swept.removed += 1,
            }
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlobStore;

    fn stores() -> (tempfile::TempDir, [BlobStore; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        (folder, [BlobStore::memory(), BlobStore::open(&url).unwrap()])
    }

    /// Three parts and a bit, and no byte like the one a part further.
    fn large() -> Bytes {
        (0..25_000_000_u32).map(|n| (n / 251) as u8 ^ n as u8).collect::<Vec<u8>>().into()
    }

    #[tokio::test]
    async fn a_file_comes_back_as_it_went_however_it_was_cut_and_however_often() {
        let file = large();
        let expected = Reference::to(Digest::of(&file), file.len() as u64);
        for store in stores().1 {
            let inbox = store.inbox();
            assert_eq!(inbox.put(file.clone()).await.unwrap(), expected);
            let mut upload = inbox.begin().await.unwrap();
            for piece in file.chunks(300_001) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            assert_eq!(upload.finish().await.unwrap(), expected);
            assert!(inbox.fetch(&expected, 25_000_000).await.unwrap() == file);
            let swept = inbox.sweep(Duration::from_secs(3600)).await.unwrap();
            assert_eq!(swept, Swept { removed: 0, left: 1, left_bytes: 25_000_000 });
            // The store that others read does not have it.
            assert!(store.get(expected.sha256, u64::MAX).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_is_not_as_its_reference_says_is_told_apart() {
        for store in stores().1 {
            let inbox = store.inbox();
            let film = inbox.put(Bytes::from_static(b"film")).await.unwrap();
            let class = async |reference: Reference, limit| {
                let error = inbox.fetch(&reference, limit).await.unwrap_err();
                assert!(!error.is_transient() && error.to_string().len() > 60, "{error}");
                error.class()
            };
            assert_eq!(class(Reference::to(film.sha256, 5), 9).await, "reference_mismatch");
            assert_eq!(class(Reference::to(Digest::of(b"x"), 1), 9).await, "reference_missing");
            assert_eq!(class(film.clone(), 3).await, "over_limit");
            // Other bytes, and as many, under its name.
            let place = location(&film.sha256);
            store.store.put(&place, Bytes::from_static(b"mliF").into()).await.unwrap();
            assert_eq!(class(film, 9).await, "reference_mismatch");
        }
    }

    #[tokio::test]
    async fn an_upload_that_broke_off_leaves_nothing() {
        let (folder, stores) = stores();
        for store in stores {
            let inbox = store.inbox();
            let mut upload = inbox.begin().await.unwrap();
            upload.write(large()).await.unwrap();
            drop(upload);
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                if inbox.sweep(Duration::from_secs(3600)).await.unwrap() == Swept::default() {
                    break;
                }
            }
            let swept = inbox.sweep(Duration::from_secs(3600)).await.unwrap();
            assert_eq!(swept, Swept::default());
        }
        let mode = fs::metadata(folder.path().join(Reference::INBOX)).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o700);
    }

    #[tokio::test]
    async fn what_is_older_than_the_retention_goes_and_pictures_stay() {
        let (folder, stores) = stores();
        // What an upload left behind that was killed: the store's own listing does not show it.
        let staged = folder.path().join("inbox/incoming/0123#1");
        fs::create_dir_all(staged.parent().unwrap()).unwrap();
        fs::write(&staged, b"fi").unwrap();
        for store in stores {
            let inbox = store.inbox();
            let film = inbox.put(Bytes::from_static(b"film")).await.unwrap();
            let picture = store.put(Bytes::from_static(b"picture"), "image/png").await.unwrap();
            let young = inbox.sweep(Duration::from_secs(60)).await.unwrap();
            assert_eq!(young.removed, 0);
            tokio::time::sleep(Duration::from_millis(30)).await;
            let swept = inbox.sweep(Duration::from_millis(10)).await.unwrap();
            assert_eq!((swept.removed, swept.left), (young.left, 0));
            let gone = inbox.fetch(&film, 9).await.unwrap_err();
            assert!(matches!(gone, InboxError::Missing { .. }), "{gone}");
            assert!(store.get(picture.sha256, 99).await.is_ok());
        }
        assert!(!staged.exists());
    }
}
