//! How stages are run: batches, retries, threads and the energy estimate.

use serde::{Deserialize, Serialize};

/// How every stage of a process is run: `[runner]` in the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunnerConfig {
    /// Records worked on together, at most.
    pub max_batch: usize,
    /// Bytes of the records worked on together, at most; a larger one is worked on alone.
    pub max_batch_bytes: usize,
    /// Milliseconds to wait for a batch to fill once its first record is there.
    pub max_wait_ms: u64,
    /// How often a record is tried before it is a dead letter.
    pub max_attempts: u32,
    /// Milliseconds before the second attempt; doubled for each further one.
    pub backoff_ms: u64,
    /// Milliseconds between two attempts, at most.
    pub backoff_max_ms: u64,
    /// Where more than this share of what a stage finished became dead letters, it pauses; 1 never pauses. What a file
    /// itself is to blame for does not count.
    pub dead_letter_limit: f64,
    /// Dead letters within the window before the share says anything.
    pub dead_letter_min: u64,
    /// Milliseconds over which the share is taken.
    pub dead_letter_window_ms: u64,
    /// Milliseconds until a paused stage tries one record; doubled each time that one becomes a dead letter too, up to
    /// five minutes.
    pub dead_letter_pause_ms: u64,
    /// Threads of the compute pool; 0 is one for each core.
    pub compute_threads: usize,
    /// Watts that one busy core draws, for the energy estimate. An assumption: set your own machine's.
    pub watts_per_core: f64,
}

impl Default for RunnerConfig {
    fn default() -> Self {
        Self {
            max_batch: 16,
            max_batch_bytes: 64 << 20,
            max_wait_ms: 10,
            max_attempts: 5,
            backoff_ms: 200,
            backoff_max_ms: 10_000,
            dead_letter_limit: 0.8,
            dead_letter_min: 50,
            dead_letter_window_ms: 300_000,
            dead_letter_pause_ms: 10_000,
            compute_threads: 0,
            watts_per_core: 10.0,
        }
    }
}

/// A configuration of the runner that cannot work.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("runner.{key} is {value}, but {rule}")]
pub struct RunnerConfigError {
    key: &'static str,
    value: String,
    rule: &'static str,
}

impl RunnerConfig {
    /// # Errors
    ///
    /// Names the first key whose value cannot work.
    pub fn validate(&self) -> Result<(), RunnerConfigError> {
        let refuse = |key, value: String, rule| Err(RunnerConfigError { key, value, rule });
        if !(1..=1024).contains(&self.max_batch) {
            return refuse("max_batch", self.max_batch.to_string(), "it must be from 1 to 1024");
        }
        if !(1..=(1 << 40)).contains(&self.max_batch_bytes) {
            let rule = "it must be from 1 to 1099511627776";
            return refuse("max_batch_bytes", self.max_batch_bytes.to_string(), rule);
        }
        if self.max_wait_ms > 10_000 {
            return refuse("max_wait_ms", self.max_wait_ms.to_string(), "it must be at most 10000");
        }
        if !(1..=100).contains(&self.max_attempts) {
            return refuse(
                "max_attempts",
                self.max_attempts.to_string(),
                "it must be from 1 to 100",
            );
        }
        if self.backoff_ms > self.backoff_max_ms {
            let rule = "it must not be more than backoff_max_ms";
            return refuse("backoff_ms", self.backoff_ms.to_string(), rule);
        }
        if !(self.dead_letter_limit > 0.0 && self.dead_letter_limit <= 1.0) {
            let rule = "it must be a share above 0, and at most 1, which never pauses";
            return refuse("dead_letter_limit", self.dead_letter_limit.to_string(), rule);
        }
        if self.dead_letter_min == 0 {
            return refuse("dead_letter_min", "0".to_owned(), "it must be at least 1");
        }
        for (key, value, rule) in [
            (
                "dead_letter_window_ms",
                self.dead_letter_window_ms,
                "it must be from 1000 to 86400000, a day",
            ),
            (
                "dead_letter_pause_ms",
                self.dead_letter_pause_ms,
                "it must be from 100 to 86400000, a day",
            ),
        ] {
            let least = if key == "dead_letter_pause_ms" { 100 } else { 1000 };
            if !(least..=86_400_000).contains(&value) {
                return refuse(key, value.to_string(), rule);
            }
        }
        if !(self.watts_per_core >= 0.0 && self.watts_per_core.is_finite()) {
            let rule = "it must be a number of watts, 0 or more";
            return refuse("watts_per_core", self.watts_per_core.to_string(), rule);
        }
        Ok(())
    }

    /// Milliseconds that a record waits between its attempts, all together and at most.
    pub fn waits_ms(&self) -> u64 {
        let doubled = (0..self.max_attempts.saturating_sub(1)).scan(self.backoff_ms, |next, _| {
            let this = (*next).min(self.backoff_max_ms);
            *next = next.saturating_mul(2);
            Some(this)
        });
        doubled.fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_their_limit() {
        let waits = |max_attempts, backoff_ms, backoff_max_ms| {
            RunnerConfig { max_attempts, backoff_ms, backoff_max_ms, ..RunnerConfig::default() }
                .waits_ms()
        };
        assert_eq!(RunnerConfig::default().waits_ms(), 200 + 400 + 800 + 1600);
        assert_eq!(waits(1, 200, 10_000), 0);
        assert_eq!(waits(4, 200, 500), 200 + 400 + 500);
        assert_eq!(waits(100, 10_000, 10_000), 990_000);
    }
}
