//! The blob store: pictures by the SHA-256 of their bytes, and beside them the inbox.
//!
//! Pixels never travel inside JSON; a Case refers to them by [`BlobRef`]. Blobs are content-addressed, so writing
//! one twice is harmless, and they are written before the record that names them is committed. What identifies nobody is
//! kept under `sha256/`; original files that are too large for a record under `inbox/`, which is guarded (see [`Inbox`]).
//!
//! Deliberately absent: deletion of pictures (their retention is the store's own affair) and any name that is not a digest.

mod inbox;
mod upload;

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use duet_case::{BlobRef, Digest};
use duet_telemetry::metrics;
use object_store::{
    Attribute, AttributeValue, Attributes, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
    RetryConfig, memory::InMemory, path::Path, prefix::PrefixStore,
};

pub use inbox::{Inbox, InboxError, Swept};
pub use upload::Upload;

/// How long one picture may take to be written or read, where nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one.
    #[error(
        "blob.url (DUET_BLOB_URL) {url:?} is not usable: {reason}; write memory:, file:///folder or s3://bucket/prefix"
    )]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder cannot be made.
    #[error("the blob store's folder {path} cannot be created: {source}")]
    Folder {
        /// The folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The store refuses the configuration.
    #[error("the blob store {url:?} cannot be opened: {source}")]
    Store {
        /// As configured.
        url: String,
        /// Why.
        source: object_store::Error,
    },
}

/// Why a blob could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no blob of that digest.
    #[error("blob {digest} is not in the store")]
    Missing {
        /// Its name.
        digest: Digest,
    },
    /// The bytes are not the ones that were written.
    #[error("blob {digest} is damaged: its bytes have digest {found}")]
    Damaged {
        /// Its name.
        digest: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// Larger than the reader takes.
    #[error("blob {digest} has {bytes} bytes, more than the {limit} that may be read here")]
    TooLarge {
        /// Its name.
        digest: Digest,
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
}

impl BlobError {
    /// Whether trying again may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Slow(_))
    }
}

/// Pictures by digest. Clones share the store.
#[derive(Clone)]
pub struct BlobStore {
    store: Arc<dyn ObjectStore>,
    /// Whether the store keeps a media type beside the bytes.
    keeps_attributes: bool,
    /// Where the store is a folder.
    folder: Option<PathBuf>,
    timeout: Duration,
    /// Where blobs are looked for that are not here.
    beneath: Option<Arc<Self>>,
}

impl BlobStore {
    fn new(store: Arc<dyn ObjectStore>, keeps_attributes: bool, folder: Option<PathBuf>) -> Self {
        Self { store, keeps_attributes, folder, timeout: TIMEOUT, beneath: None }
    }

    /// With another limit on how long a picture, or a part of a file, may take to be written or read.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The inbox of this store, or of the one beneath it. Only those who feed `images`, and prepare, have a use for it.
    pub fn inbox(&self) -> Inbox {
        if let Some(beneath) = &self.beneath {
            return beneath.inbox();
        }
        Inbox::new(Arc::clone(&self.store), self.folder.clone(), self.timeout)
    }

    /// A store in this process's memory.
    pub fn memory() -> Self {
        Self::new(Arc::new(InMemory::new()), true, None)
    }

    /// Opens `memory:`, `file:///folder` or `s3://bucket/prefix` (credentials, region and endpoint from the usual
    /// `AWS_*` variables).
    ///
    /// # Errors
    ///
    /// Where the URL names no store, or the store cannot be opened.
    pub fn open(url: &str) -> Result<Self, OpenError> {
        let refused = |reason: &str| OpenError::Url { url: url.into(), reason: reason.into() };
        if url == "memory:" {
            return Ok(Self::memory());
        }
        if let Some(path) = url.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(refused("a folder needs three slashes and a path from the root"));
            }
            return Self::folder(path, url);
        }
        if let Some(rest) = url.strip_prefix("s3://") {
            return Self::s3(rest, url);
        }
        Err(refused("its scheme is none of memory, file and s3"))
    }

    fn folder(path: &str, url: &str) -> Result<Self, OpenError> {
        std::fs::create_dir_all(path)
            .map_err(|source| OpenError::Folder { path: path.into(), source })?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(path)
            .map_err(|source| OpenError::Store { url: url.into(), source })?;
        Ok(Self::new(Arc::new(store), false, Some(path.into())))
    }

    fn s3(rest: &str, url: &str) -> Result<Self, OpenError> {
        // Every TLS client of the process shares this provider; a second installation is the same one.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let store = object_store::aws::AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_retry(retry())
            .build()
            .map_err(|source| OpenError::Store { url: url.into(), source })?;
        let store: Arc<dyn ObjectStore> = match prefix.trim_matches('/') {
            "" => Arc::new(store),
            prefix => Arc::new(PrefixStore::new(store, prefix)),
        };
        Ok(Self::new(store, true, None))
    }

    /// Writes `bytes` under their digest. A blob that is there already is left as it is.
    ///
    /// # Errors
    ///
    /// [`BlobError::Store`] where the store does not take it.
    pub async fn put(&self, bytes: Bytes, media_type: &str) -> Result<BlobRef, BlobError> {
        let blob = BlobRef {
            sha256: Digest::of(&bytes),
            bytes: bytes.len() as u64,
            media_type: media_type.to_owned(),
        };
        // A folder keeps no attributes and refuses them.
        let mut options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        if self.keeps_attributes {
            let value: AttributeValue = media_type.to_owned().into();
            options.attributes = Attributes::from_iter([(Attribute::ContentType, value)]);
        }
        let place = location(&blob.sha256);
        let put = self.store.put_opts(&place, bytes.into(), options);
        match self.in_time(put).await? {
            Ok(_) => {
                metrics().blob_bytes.with_label_values(&["put"]).inc_by(blob.bytes);
                Ok(blob)
            }
            Err(object_store::Error::AlreadyExists { .. }) => Ok(blob),
            Err(source) => Err(BlobError::Store(source)),
        }
    }

    /// The same store over `beneath`: what is not here is read from there, and nothing is ever written there.
    #[must_use]
    pub fn over(self, beneath: Self) -> Self {
        Self { beneath: Some(Arc::new(beneath)), ..self }
    }

    /// The bytes of `digest`, at most `limit` of them, checked against the digest.
    ///
    /// # Errors
    ///
    /// Where the blob is missing, damaged, larger than `limit`, or the store does not answer.
    pub async fn get(&self, digest: Digest, limit: u64) -> Result<Bytes, BlobError> {
        match (self.get_here(digest, limit).await, &self.beneath) {
            (Err(BlobError::Missing { .. }), Some(beneath)) => {
                Box::pin(beneath.get(digest, limit)).await
            }
            (got, _) => got,
        }
    }

    async fn get_here(&self, digest: Digest, limit: u64) -> Result<Bytes, BlobError> {
        let missing = |error| match error {
            object_store::Error::NotFound { .. } => BlobError::Missing { digest },
            other => BlobError::Store(other),
        };
        let place = location(&digest);
        let get = async {
            let found = self.store.get(&place).await.map_err(missing)?;
            if found.meta.size > limit {
                return Err(BlobError::TooLarge { digest, bytes: found.meta.size, limit });
            }
            found.bytes().await.map_err(missing)
        };
        let bytes = self.in_time(get).await??;
        metrics().blob_bytes.with_label_values(&["get"]).inc_by(bytes.len() as u64);
        match Digest::of(&bytes) {
            same if same == digest => Ok(bytes),
            found => Err(BlobError::Damaged { digest, found }),
        }
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, BlobError> {
        tokio::time::timeout(self.timeout, work).await.map_err(|_| BlobError::Slow(self.timeout))
    }
}

/// The client's own retries bridge a moment; what lasts is tried again by whoever asks, who is told of it.
fn retry() -> RetryConfig {
    RetryConfig { max_retries: 4, retry_timeout: TIMEOUT, ..RetryConfig::default() }
}

/// `sha256/ab/abcdef…`: a folder for each first byte, so that none holds too many files.
fn location(digest: &Digest) -> Path {
    let name = digest.to_string();
    Path::from_iter(["sha256", name.get(..2).unwrap_or_default(), &name])
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check_round_trip(store: &BlobStore) {
        let blob = store.put(Bytes::from_static(b"picture"), "image/png").await.unwrap();
        let again = store.put(Bytes::from_static(b"picture"), "image/png").await.unwrap();
        assert_eq!(blob, again);
        assert_eq!(store.get(blob.sha256, 100).await.unwrap(), "picture");
        assert!(matches!(store.get(blob.sha256, 3).await, Err(BlobError::TooLarge { .. })));
        let absent = Digest::of(b"never written");
        assert!(matches!(store.get(absent, 100).await, Err(BlobError::Missing { .. })));
    }

    #[tokio::test]
    async fn memory_and_folder_keep_what_they_get() {
        check_round_trip(&BlobStore::open("memory:").unwrap()).await;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        check_round_trip(&BlobStore::open(&url).unwrap()).await;
    }

    #[tokio::test]
    async fn a_store_over_another_reads_both_and_writes_into_itself() {
        let (above, beneath) = (BlobStore::memory(), BlobStore::memory());
        let old = beneath.put(Bytes::from_static(b"old"), "image/png").await.unwrap();
        let both = above.clone().over(beneath.clone());
        let new = both.put(Bytes::from_static(b"new"), "image/png").await.unwrap();
        assert_eq!(both.get(old.sha256, 9).await.unwrap(), "old");
        assert_eq!(above.get(new.sha256, 9).await.unwrap(), "new");
        for (store, blob) in [(&above, &old), (&beneath, &new)] {
            assert!(matches!(store.get(blob.sha256, 9).await, Err(BlobError::Missing { .. })));
        }
    }

    #[tokio::test]
    async fn a_damaged_blob_is_never_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = BlobStore::open(&format!("file://{}", folder.path().display())).unwrap();
        let blob = store.put(Bytes::from_static(b"picture"), "image/png").await.unwrap();
        std::fs::write(folder.path().join(location(&blob.sha256).as_ref()), b"pictura").unwrap();
        assert!(matches!(store.get(blob.sha256, 100).await, Err(BlobError::Damaged { .. })));
    }

    #[test]
    fn an_address_that_is_none_is_refused_by_name() {
        for url in ["", "blobs", "ftp://host/x", "file://relative"] {
            let message = BlobStore::open(url).err().unwrap().to_string();
            assert!(message.contains(url) && message.contains("file:///"), "{message}");
        }
    }
}
