//! `[http]` in the configuration.

use std::{collections::BTreeSet, path::PathBuf};

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use serde::{Deserialize, Serialize};

/// Tokens at most: each one's name is a label of a metric.
const TOKENS_AT_MOST: usize = 256;
const NAME_AT_MOST: usize = 64;

/// `[http]` in the configuration: what this process serves, and to whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `host:port`; else each service's own port on 127.0.0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// PEM: the server's certificate and those between it and its authority. Read again whenever it changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert_file: Option<PathBuf>,
    /// PEM: the certificate's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key_file: Option<PathBuf>,
    /// PEM: authorities one of which must have signed the client's certificate, beside what `tokens` asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// Who may use the gateway and the page; `duet tokens new` prints an entry.
    pub tokens: Vec<TokenConfig>,
    /// What stands in front of this process does TLS, and lets nobody in who may not where there are no tokens.
    pub behind_proxy: bool,
    /// Names under which clients reach this process; any other Host is refused where this is not empty.
    pub hosts: Vec<String>,
    /// Requests of one client a second, in the long run.
    pub requests_per_second: u32,
    /// Requests of one client at once.
    pub burst: u32,
    /// Connections at the same time, those in their handshake included; one address may hold a quarter.
    pub max_connections: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            tls_cert_file: None,
            tls_key_file: None,
            tls_client_ca_file: None,
            tokens: Vec::new(),
            behind_proxy: false,
            hosts: Vec::new(),
            requests_per_second: 200,
            burst: 1000,
            max_connections: 512,
        }
    }
}

/// One token, of which only the SHA-256 is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// In logs and metrics: lower-case letters, digits, dots, hyphens and underscores.
    pub name: String,
    /// Of the token, 64 hexadecimal digits.
    pub sha256: String,
    /// A day (to its end in UTC) or an RFC 3339 time; else it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// What it may do; everything, where nothing is said.
    #[serde(default = "Permission::all")]
    pub permissions: Vec<Permission>,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Send images.
    Send,
    /// See cases and their pictures, on the page too.
    Read,
}

impl Permission {
    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
        }
    }

    fn all() -> Vec<Self> {
        vec![Self::Send, Self::Read]
    }
}

/// A configuration of the HTTP side that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// A number outside its range.
    #[error("http.{key} is {value}, but it must be from {low} to {high}")]
    Range {
        /// Of the section.
        key: &'static str,
        /// What it is.
        value: usize,
        /// What it may be at least.
        low: usize,
        /// What it may be at most.
        high: usize,
    },
    /// A key that needs another.
    #[error("http.{has} is set, but http.{lacks} is not: set both, or neither")]
    Incomplete {
        /// The key that is there.
        has: &'static str,
        /// The one that is not.
        lacks: &'static str,
    },
    /// A token that cannot be used.
    #[error("http.tokens: the token {name:?} {fault}")]
    Token {
        /// The token's name.
        name: String,
        /// What is wrong with it, and what to do.
        fault: &'static str,
    },
    /// More tokens than can be told apart in metrics.
    #[error(
        "http.tokens has {0} tokens, but may have {TOKENS_AT_MOST}: remove those that have expired"
    )]
    TooManyTokens(usize),
    /// No name of a machine.
    #[error(
        "http.hosts has {0:?}, but takes names without scheme, port and path, for instance duet.example.org"
    )]
    Host(String),
}

impl Config {
    /// # Errors
    ///
    /// Names the first key whose value cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("requests_per_second", self.requests_per_second as usize, 1, 1_000_000),
            ("burst", self.burst as usize, 1, 1_000_000),
            ("max_connections", self.max_connections, 4, 100_000),
        ];
        for (key, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(ConfigError::Range { key, value, low, high });
            }
        }
        let (cert, key) = ("tls_cert_file", "tls_key_file");
        match (&self.tls_cert_file, &self.tls_key_file, &self.tls_client_ca_file) {
            (Some(_), None, _) => return Err(ConfigError::Incomplete { has: cert, lacks: key }),
            (None, Some(_), _) => return Err(ConfigError::Incomplete { has: key, lacks: cert }),
            (None, None, Some(_)) => {
                return Err(ConfigError::Incomplete { has: "tls_client_ca_file", lacks: cert });
            }
            _ => {}
        }
        let is_name = |host: &String| {
            let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            !host.is_empty() && host.chars().all(of_name)
        };
        if let Some(host) = self.hosts.iter().find(|host| !is_name(host)) {
            return Err(ConfigError::Host(host.clone()));
        }
        self.validate_tokens()
    }

    fn validate_tokens(&self) -> Result<(), ConfigError> {
        if self.tokens.len() > TOKENS_AT_MOST {
            return Err(ConfigError::TooManyTokens(self.tokens.len()));
        }
        let (mut names, mut digests) = (BTreeSet::new(), BTreeSet::new());
        for token in &self.tokens {
            let refuse = |fault| Err(ConfigError::Token { name: token.name.clone(), fault });
            if !TokenConfig::is_name(&token.name) {
                return refuse("must be named by 1 to 64 of a-z, 0-9, dot, hyphen and underscore");
            }
            if token.digest().is_none() {
                return refuse(
                    "needs sha256 with 64 hexadecimal digits, as duet tokens new prints it",
                );
            }
            if token.expires.as_deref().is_some_and(|text| TokenConfig::end_of(text).is_none()) {
                return refuse(
                    "has an expires that is no time: write \"2027-01-31\" or \"2027-01-31T12:00:00Z\"",
                );
            }
            if token.permissions.is_empty() {
                return refuse(
                    "may do nothing: give it permissions, for instance [\"send\"], or remove it",
                );
            }
            if !names.insert(&token.name) {
                return refuse("is there twice: give each its own name");
            }
            if !digests.insert(token.digest()) {
                return refuse("has the sha256 of another: each needs a token of its own");
            }
        }
        Ok(())
    }
}

impl TokenConfig {
    /// Whether `name` can be a token's.
    pub fn is_name(name: &str) -> bool {
        let of_name =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        (1..=NAME_AT_MOST).contains(&name.len()) && name.chars().all(of_name)
    }

    /// The instant from which on `expires` no longer holds, where it is a day or a time.
    pub fn end_of(expires: &str) -> Option<DateTime<Utc>> {
        if let Ok(day) = expires.parse::<NaiveDate>() {
            return Some(day.checked_add_days(Days::new(1))?.and_time(NaiveTime::MIN).and_utc());
        }
        Some(DateTime::parse_from_rfc3339(expires).ok()?.with_timezone(&Utc))
    }

    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        let mut digest = [0; 32];
        hex::decode_to_slice(&self.sha256, &mut digest).ok()?;
        Some(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, digit: char) -> TokenConfig {
        let sha256 = digit.to_string().repeat(64);
        TokenConfig { name: name.into(), sha256, expires: None, permissions: Permission::all() }
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        type Change = fn(&mut Config);
        let cases: &[(Change, &str)] = &[
            (|c| c.burst = 0, "http.burst is 0"),
            (|c| c.max_connections = 3, "http.max_connections is 3"),
            (|c| c.tls_cert_file = Some("c".into()), "http.tls_key_file is not"),
            (|c| c.tls_key_file = Some("k".into()), "http.tls_cert_file is not"),
            (|c| c.tls_client_ca_file = Some("a".into()), "http.tls_cert_file is not"),
            (|c| c.hosts = vec!["https://a".into()], "http.hosts has \"https://a\""),
            (|c| c.tokens = vec![token("RIS 1", 'a')], "\"RIS 1\" must be named"),
            (|c| c.tokens = vec![token("ris", 'g')], "\"ris\" needs sha256"),
            (|c| c.tokens = vec![token("ris", 'a'), token("ris", 'b')], "is there twice"),
            (|c| c.tokens = vec![token("a", 'a'), token("b", 'a')], "sha256 of another"),
            (
                |c| c.tokens = vec![TokenConfig { permissions: vec![], ..token("ris", 'a') }],
                "may do nothing",
            ),
            (
                |c| {
                    let expires = Some("tomorrow".into());
                    c.tokens = vec![TokenConfig { expires, ..token("ris", 'a') }];
                },
                "2027-01-31",
            ),
            (|c| c.tokens = (0..257).map(|n| token(&format!("t{n}"), 'a')).collect(), "257 tokens"),
        ];
        assert_eq!(Config::default().validate(), Ok(()));
        for (change, says) in cases {
            let mut config = Config::default();
            change(&mut config);
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with("http.") && message.contains(says), "{message}");
        }
    }

    #[test]
    fn a_day_lasts_to_its_end() {
        let end = |text| TokenConfig::end_of(text).map(|end| end.to_rfc3339());
        assert_eq!(end("2027-01-31").unwrap(), "2027-02-01T00:00:00+00:00");
        assert_eq!(end("2027-01-31T12:00:00+02:00").unwrap(), "2027-01-31T10:00:00+00:00");
        assert_eq!(end("31.1.2027"), None);
    }
}
