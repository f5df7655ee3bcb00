//! The gateway's configuration.

use serde::{Deserialize, Serialize};

/// `[gateway]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes of one file, at most. What is larger than the topic takes goes through the inbox of the blob store.
    pub max_body_bytes: u64,
    /// Files in one multipart request, at most.
    pub max_files: usize,
    /// Requests whose bodies are read at the same time; others wait. Times the topic's `max.message.bytes` this bounds the
    /// memory.
    pub max_uploads: usize,
    /// Milliseconds that one request's files may take to arrive.
    pub body_timeout_ms: u64,
    /// Milliseconds to wait for the broker to take a file.
    pub send_timeout_ms: u64,
    /// What Retry-After says while the broker is away, in seconds.
    pub retry_after_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_body_bytes: 128 << 20,
            max_files: 256,
            max_uploads: 8,
            body_timeout_ms: 300_000,
            send_timeout_ms: 15_000,
            retry_after_seconds: 5,
        }
    }
}

/// A configuration of the gateway that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("gateway.{key} is {value}, but it must be from {low} to {high}")]
pub struct ConfigError {
    key: &'static str,
    value: u64,
    low: u64,
    high: u64,
}

impl Config {
    /// # Errors
    ///
    /// Names the first key whose value cannot work.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("max_body_bytes", self.max_body_bytes, 1, 1 << 40),
            ("max_files", self.max_files as u64, 1, 100_000),
            ("max_uploads", self.max_uploads as u64, 1, 10_000),
            ("body_timeout_ms", self.body_timeout_ms, 1, 86_400_000),
            ("send_timeout_ms", self.send_timeout_ms, 1, 3_600_000),
            ("retry_after_seconds", self.retry_after_seconds, 1, 86_400),
        ];
        match ranges.into_iter().find(|(_, value, low, high)| !(low..=high).contains(&value)) {
            Some((key, value, low, high)) => Err(ConfigError { key, value, low, high }),
            None => Ok(()),
        }
    }
}
