//! Why a child process ended while it had a file, and what that means for the file.

use std::os::unix::process::ExitStatusExt as _;

use duet_stage::{Reason, Setback};

use super::{config::DecoderConfig, process::End};

/// Numbers of Linux, which `std` does not name.
const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGXCPU: i32 = 24;

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was given no more memory.
    Memory,
    /// It took too long.
    Time,
    /// The decoder crashed, with a signal where there was one, or talked nonsense.
    Crash(Option<i32>),
    /// Somebody else ended it: the system for want of memory, or a person.
    Killed(i32),
}

impl Cause {
    /// Of a process that gave no answer. `known`: why we ended it, where we did.
    pub(super) fn of(end: &End, known: Option<Self>) -> Self {
        if let Some(known) = known {
            return known;
        }
        let signal = end.status.as_ref().ok().and_then(|status| status.signal());
        match signal {
            _ if end.out_of_memory => Self::Memory,
            Some(SIGXCPU) => Self::Time,
            Some(signal @ (SIGHUP | SIGINT | SIGKILL | SIGTERM)) => Self::Killed(signal),
            other => Self::Crash(other),
        }
    }

    /// The metric's label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Time => "timeout",
            Self::Crash(_) => "crashed",
            Self::Killed(_) => "killed",
        }
    }

    /// What it means for the file.
    pub(super) fn setback(self, config: &DecoderConfig) -> Setback {
        let DecoderConfig { memory_mib, time_limit_ms, .. } = config;
        match self {
            Self::Memory => Setback::Reject(Reason::new(
                "decoder_memory",
                format!(
                    "decoding this file takes more than {memory_mib} MiB of memory (prepare.decoder.memory_mib): the file is damaged or hostile; where it is a true image of that size, raise the limit"
                ),
            )),
            Self::Time => Setback::Reject(Reason::new(
                "decoder_timeout",
                format!(
                    "decoding this file does not end within {time_limit_ms} ms (prepare.decoder.time_limit_ms): the file is damaged or hostile; where it is a true image, raise the limit"
                ),
            )),
            Self::Crash(signal) => {
                let how =
                    signal.map_or_else(String::new, |signal| format!(" with signal {signal}"));
                Setback::Reject(Reason::new(
                    "decoder_crashed",
                    format!(
                        "the decoder crashed on this file{how} and nothing else was harmed: the file is damaged or hostile; where other software shows it, please report it"
                    ),
                ))
            }
            Self::Killed(signal) => Setback::Retry(Reason::new(
                "decoder_killed",
                format!(
                    "the decoder was ended from outside with signal {signal} while it had this file, as the system does where memory is short: the machine or container needs prepare.decoder.workers times prepare.decoder.memory_mib"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{process::ExitStatus, time::Duration};

    use super::*;

    #[test]
    fn every_end_has_its_cause_and_names_the_key_to_turn() {
        let config = DecoderConfig::default();
        #[rustfmt::skip]
        let table = [
            (6, true, None, Cause::Memory, "reject decoder_memory", "1024 MiB of memory (prepare.decoder.memory_mib)"),
            (9, false, Some(Cause::Time), Cause::Time, "reject decoder_timeout", "30000 ms (prepare.decoder.time_limit_ms)"),
            (24, false, None, Cause::Time, "reject decoder_timeout", "prepare.decoder.time_limit_ms"),
            (11, false, None, Cause::Crash(Some(11)), "reject decoder_crashed", "signal 11"),
            (6, false, None, Cause::Crash(Some(6)), "reject decoder_crashed", "signal 6"),
            // Exit code 1 and no signal.
            (0x100, false, None, Cause::Crash(None), "reject decoder_crashed", "crashed on this file and"),
            (9, false, Some(Cause::Crash(None)), Cause::Crash(None), "reject decoder_crashed", "crashed on this file and"),
            (9, false, None, Cause::Killed(9), "retry decoder_killed", "prepare.decoder.workers"),
        ];
        for (status, out_of_memory, known, cause, end, says) in table {
            let status = Ok(ExitStatus::from_raw(status));
            let own = End { status, out_of_memory, cpu: Duration::ZERO };
            let own = Cause::of(&own, known);
            assert_eq!(own, cause);
            let (kind, reason) = match own.setback(&config) {
                Setback::Reject(reason) => ("reject", reason),
                Setback::Retry(reason) => ("retry", reason),
            };
            assert_eq!(format!("{kind} {}", reason.class), end);
            assert!(reason.message.contains(says), "{}", reason.message);
        }
    }
}
