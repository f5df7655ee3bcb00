//! TLS by rustls, from files that may be renewed at any time.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum_server::tls_rustls::RustlsConfig;
use chrono::Utc;
use duet_telemetry::metrics;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{Config, certificate::not_after};

/// How often the files are looked at. They are a few kilobytes, and a cluster replaces them without telling.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Files from which TLS cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not there, or may not be read.
    #[error("http.{key}: {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Of the section.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file in which it is not.
    #[error("http.{key}: {} holds no {what} in PEM (-----BEGIN …): {source}", path.display())]
    NotPem {
        /// Of the section.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What it is instead.
        source: pem::Error,
    },
    /// A certificate and a key that rustls does not take.
    #[error("http.tls_cert_file and http.tls_key_file cannot be used together: {0}")]
    Unusable(#[from] rustls::Error),
    /// Authorities of clients that rustls does not take.
    #[error("http.tls_client_ca_file cannot be used: {0}")]
    Authority(#[from] VerifierBuilderError),
}

/// What TLS is made from.
struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// The files' contents at one moment.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Fingerprint([u8; 32]);

/// TLS of a listener.
pub(crate) struct Tls {
    files: Files,
    pub(crate) config: RustlsConfig,
    last: Fingerprint,
}

impl Tls {
    /// TLS as configured, if it is.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, TlsError> {
        let (Some(cert), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) else {
            return Ok(None);
        };
        let client_ca = config.tls_client_ca_file.clone();
        let files = Files { cert: cert.clone(), key: key.clone(), client_ca };
        let last = files.fingerprint();
        let config = RustlsConfig::from_config(files.load()?);
        Ok(Some(Self { files, config, last }))
    }

    /// Takes renewed files into use until `stop`. What cannot be used is told, and what is in use stays.
    pub(crate) async fn follow(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let now = self.files.fingerprint();
            if now == self.last {
                continue;
            }
            // Also where it fails: the same files are not tried again, those that come next are.
            self.last = now;
            match self.files.load() {
                Ok(config) => {
                    self.config.reload_from_config(config);
                    info!(file = %self.files.cert.display(), "the renewed certificate is in use");
                }
                Err(error) => warn!(%error, "the renewed certificate is not taken into use"),
            }
        }
    }
}

impl Files {
    /// Of small files on a local disk: quicker than a word to another thread.
    fn fingerprint(&self) -> Fingerprint {
        let paths = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let contents = paths.into_iter().flatten().map(|path| fs::read(path).unwrap_or_default());
        let digests = contents.map(Sha256::digest);
        Fingerprint(digests.fold(Sha256::new(), |all, one| all.chain_update(one)).finalize().into())
    }

    fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates("tls_cert_file", &self.cert)?;
        let key = read("tls_key_file", &self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::NotPem {
            key: "tls_key_file",
            path: self.key.clone(),
            what: "private key",
            source,
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let ends = earliest_end(&chain);
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates("tls_client_ca_file", path)? {
                    roots.add(authority)?;
                }
                // Probes have no certificate: whether there has to be one is the gate's question.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .allow_unauthenticated()
                    .build()?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        tell_end(&self.cert, ends);
        Ok(Arc::new(config))
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { key, path: path.to_owned(), source })
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(key, path)?;
    let refuse = |source| {
        let (path, what) = (path.to_owned(), "certificate");
        TlsError::NotPem { key, path, what, source }
    };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = all.map_err(refuse)?;
    if all.is_empty() { Err(refuse(pem::Error::NoItemsFound)) } else { Ok(all) }
}

/// Seconds of the epoch at which the first of the chain ends.
fn earliest_end(chain: &[CertificateDer<'_>]) -> Option<i64> {
    chain.iter().filter_map(|one| not_after(one)).map(|end| end.timestamp()).min()
}

fn tell_end(path: &Path, ends: Option<i64>) {
    let Some(ends) = ends else {
        warn!(file = %path.display(), "until when the certificate holds cannot be read: it is not measured");
        return;
    };
    metrics().tls_not_after.with_label_values(&["server"]).set(ends);
    if ends <= Utc::now().timestamp() {
        warn!(file = %path.display(), "the certificate has expired: clients will refuse it; renew it");
    }
}
