//! `[prepare.decoder]` in the configuration.

use duet_imaging::Limits;
use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// What a process of the decoder needs beside pictures: its stacks, tables and the binary's own data.
const OWN_MIB: u64 = 64;

/// The processes that decode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// How many; 0 is one for each core.
    pub workers: usize,
    /// MiB that each of them may use.
    pub memory_mib: u64,
    /// Milliseconds that one file may take.
    pub time_limit_ms: u64,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self { workers: 0, memory_mib: 1024, time_limit_ms: 30_000 }
    }
}

impl DecoderConfig {
    /// How many processes there are to be.
    pub(crate) fn count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}

/// What a file at the limits needs at least: the file, the same inflated, and eight bytes a pixel, which a 16-bit RGBA picture or
/// two components of JPEG 2000 have.
pub(crate) fn need_mib(limits: &Limits) -> u64 {
    let file = limits.max_bytes.saturating_mul(2);
    let picture = limits.max_pixels.saturating_mul(8);
    file.saturating_add(picture).div_ceil(MIB).saturating_add(OWN_MIB)
}

#[cfg(test)]
mod tests {
    use crate::Config;

    fn check(text: &str, says: Option<&str>) {
        let config: Config = toml::from_str(text).unwrap();
        let said = config.validate().err().map(|error| error.to_string());
        match says {
            None => assert_eq!(said, None, "{text}"),
            Some(says) => assert!(said.as_ref().is_some_and(|s| s.contains(says)), "{said:?}"),
        }
    }

    #[test]
    fn the_limits_have_to_fit_each_other() {
        check("", None);
        check("decoder.workers = 3\ndecoder.time_limit_ms = 100", None);
        check("decoder.workers = 1025", Some("prepare.decoder.workers is 1025"));
        check("decoder.time_limit_ms = 99", Some("it must be from 100 to 600000"));
        let needs = "needs 809: raise it, or lower these";
        check("decoder.memory_mib = 808", Some(needs));
        check("decoder.memory_mib = 809", None);
        check(
            "decoder.memory_mib = 200\nlimits.max_pixels = 8000000\nlimits.max_bytes = 33554432",
            None,
        );
        check("limits.max_pixels = 120000000", Some("prepare.limits.max_pixels = 120000000 needs"));
        check("limits.max_bytes = 0", Some("prepare.limits.max_bytes is 0"));
    }
}
