//! `[triage.backend]`: where the server is and what is asked of it.

use std::{fmt, io::Read, path::PathBuf, time::Duration};

use reqwest::{Url, header::HeaderValue};
use serde::{Deserialize, Serialize};

/// Larger than any key.
const MAX_KEY_BYTES: u64 = 16 << 10;

/// `[triage.backend]` in the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendConfig {
    /// Base address of an OpenAI-compatible server, for instance `http://127.0.0.1:8000/v1`. Where it is set, that server
    /// is the generalist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The model to ask for; else the only one that the server lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// File with the server's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<PathBuf>,
    /// `[calibration]` and `[decision]` of that model, as in a manifest; without it nothing is cleared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration_file: Option<PathBuf>,
    /// For one image, a second attempt included.
    pub deadline_ms: u64,
    /// How long a start waits for a server that is still loading.
    pub start_wait_ms: u64,
    /// Requests under way at the same time.
    pub max_concurrent: u32,
    /// To which the rendition is scaled down before it is sent.
    pub long_side_px: u32,
    /// Tokens of an answer; more for a model that thinks aloud first.
    pub max_tokens: u32,
    /// Of the server's random numbers.
    pub seed: u32,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            url: None,
            model: None,
            api_key_file: None,
            calibration_file: None,
            deadline_ms: 30_000,
            start_wait_ms: 60_000,
            max_concurrent: 4,
            long_side_px: 512,
            max_tokens: 256,
            seed: 0,
        }
    }
}

/// A value in `[triage.backend]` that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("triage.backend.{key} {problem}")]
pub struct BackendConfigError {
    key: &'static str,
    problem: String,
}

impl BackendConfig {
    /// # Errors
    ///
    /// Names the first key whose value cannot be.
    pub fn validate(&self) -> Result<(), BackendConfigError> {
        self.endpoint()?;
        let numbers: [(&'static str, u64, u64, u64); 5] = [
            ("deadline_ms", self.deadline_ms, 100, 600_000),
            ("start_wait_ms", self.start_wait_ms, 0, 3_600_000),
            ("max_concurrent", self.max_concurrent.into(), 1, 256),
            ("long_side_px", self.long_side_px.into(), 32, 1024),
            ("max_tokens", self.max_tokens.into(), 32, 32_768),
        ];
        for (key, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                let problem = format!("is {value}: it must be from {least} to {most}");
                return Err(BackendConfigError { key, problem });
            }
        }
        match &self.model {
            Some(name) if super::plain(name).as_deref() != Some(name) => {
                let problem = format!(
                    "is {name:?}: write the name as the server lists it, on one line and without blanks around it"
                );
                Err(BackendConfigError { key: "model", problem })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    pub(super) fn endpoint(&self) -> Result<Option<Endpoint>, BackendConfigError> {
        let Some(text) = &self.url else { return Ok(None) };
        // Not quoted: it may hold a password.
        let wrong = |problem: &str| BackendConfigError { key: "url", problem: problem.to_owned() };
        const EXAMPLE: &str = "it must be an address like http://127.0.0.1:8000/v1";
        let url = Url::parse(text).map_err(|_| wrong(&format!("is no URL: {EXAMPLE}")))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(wrong(&format!("is neither http nor https: {EXAMPLE}")));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong(
                "has a user or a password in it: give the key by triage.backend.api_key_file or DUET_TRIAGE_BACKEND_API_KEY",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(&format!("has a query or a fragment: {EXAMPLE}")));
        }
        Ok(Some(Endpoint(url)))
    }
}

/// The base address.
#[derive(Debug, Clone)]
pub(super) struct Endpoint(Url);

impl Endpoint {
    pub(super) fn base(&self) -> String {
        self.0.as_str().trim_end_matches('/').to_owned()
    }

    /// An address below the base.
    pub(super) fn below(&self, path: &str) -> String {
        format!("{}/{path}", self.base())
    }

    /// An address of the server's own, beside the OpenAI-compatible part; `None` where the base is not that of a whole
    /// server.
    pub(super) fn at_root(&self, path: &str) -> Option<String> {
        let base = self.base();
        let root =
            base.strip_suffix("/v1").filter(|_| self.0.path().trim_end_matches('/') == "/v1")?;
        Some(format!("{root}{path}"))
    }
}

/// What opens the server. It is shown nowhere.
#[derive(Clone)]
pub struct ApiKey(String);

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The file cannot be read.
    #[error("triage.backend.api_key_file {path} cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no key.
    #[error(
        "{place} holds no key: it must be one line of letters, digits and signs without blanks within"
    )]
    NoKey {
        /// File or variable.
        place: String,
    },
}

impl ApiKey {
    /// The key that `place`, a file or a variable, holds; blanks around it are dropped.
    ///
    /// # Errors
    ///
    /// Where it is empty or could not stand in a header. The message does not quote it.
    pub fn new(place: &str, text: &str) -> Result<Self, ApiKeyError> {
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ApiKeyError::NoKey { place: place.to_owned() });
        }
        Ok(Self(key.to_owned()))
    }

    /// The key in a file.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read or holds no key.
    pub fn read(path: &std::path::Path) -> Result<Self, ApiKeyError> {
        let unreadable = |source| ApiKeyError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(MAX_KEY_BYTES).read_to_string(&mut text).map_err(unreadable)?;
        Self::new(&path.display().to_string(), &text)
    }

    /// The header's value, which no debug output shows.
    pub(super) fn bearer(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// `text` without the key, should a server have repeated it.
    pub(super) fn withheld_from(&self, text: &str) -> String {
        text.replace(&self.0, "(withheld)")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(withheld)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named_with_what_would_be_right() {
        let with = |edit: fn(&mut BackendConfig)| {
            let mut config = BackendConfig::default();
            edit(&mut config);
            config.validate().map_err(|error| error.to_string())
        };
        type Row = (fn(&mut BackendConfig), &'static str);
        let table: &[Row] = &[
            (|own| own.url = Some("localhost:8000".into()), "triage.backend.url is neither http"),
            (|own| own.url = Some("vllm".into()), "triage.backend.url is no URL: it must be"),
            (|own| own.url = Some("http://me:pw@host/v1".into()), "api_key_file"),
            (|own| own.url = Some("http://host/v1?key=1".into()), "has a query"),
            (|own| own.deadline_ms = 0, "triage.backend.deadline_ms is 0: it must be from 100"),
            (|own| own.max_concurrent = 0, "triage.backend.max_concurrent is 0"),
            (|own| own.long_side_px = 4096, "triage.backend.long_side_px is 4096"),
            (|own| own.max_tokens = 1, "triage.backend.max_tokens is 1"),
            (|own| own.model = Some(" ".into()), "triage.backend.model is \" \""),
        ];
        for (edit, says) in table {
            let message = with(*edit).expect_err(says);
            assert!(message.contains(says), "{says}: {message}");
            assert!(!message.contains("pw"), "a password is shown: {message}");
        }
        with(|own| own.url = Some("https://vlm.example.org/v1/".into())).unwrap();
    }

    #[test]
    fn addresses_follow_from_the_base_with_or_without_a_slash() {
        for url in ["http://h:1/v1", "http://h:1/v1/"] {
            let config = BackendConfig { url: Some(url.to_owned()), ..BackendConfig::default() };
            let endpoint = config.endpoint().unwrap().unwrap();
            assert_eq!(endpoint.below("chat/completions"), "http://h:1/v1/chat/completions");
            assert_eq!(endpoint.at_root("/api/tags").unwrap(), "http://h:1/api/tags");
        }
        let url = Some("http://h/tenant/v1".to_owned());
        let behind = BackendConfig { url, ..BackendConfig::default() }.endpoint().unwrap().unwrap();
        assert_eq!(behind.at_root("/api/tags"), None);
    }

    #[test]
    fn a_key_is_shown_nowhere() {
        let key = ApiKey::new("the file", " s3cret\n").unwrap();
        assert!(!format!("{key:?} {:?}", key.bearer()).contains("s3cret"));
        assert_eq!(key.withheld_from("no such key: s3cret"), "no such key: (withheld)");
        for wrong in ["", " \n", "two words", "umläut"] {
            let message = ApiKey::new("the file", wrong).unwrap_err().to_string();
            assert!(message.starts_with("the file holds no key"), "{message}");
            assert!(wrong.trim().is_empty() || !message.contains(wrong), "{message}");
        }
    }
}
