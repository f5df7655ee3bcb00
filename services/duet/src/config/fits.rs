//! Limits of time that have to fit each other, though they stand in several sections.

use super::Settings;

/// Whether one record, at its worst, is done with before its replica is taken for hanging.
///
/// # Errors
///
/// The sum, and what to change.
pub(super) fn check(settings: &Settings) -> Result<(), String> {
    let blob = settings.blob.timeout_ms;
    if !(100..=600_000).contains(&blob) {
        return Err(format!("blob.timeout_ms is {blob}, but it must be from 100 to 600000"));
    }
    let runner = &settings.runner;
    let interval = settings.kafka.max_poll_interval().as_millis();
    let decoder = settings.prepare.decoder.time_limit_ms;
    let (attempts, waits) = (u128::from(runner.max_attempts), runner.waits_ms());
    // A file that takes the decoder's whole time is given up; a store that does not answer is asked again.
    let worst = attempts * 2 * u128::from(blob) + u128::from(waits) + u128::from(decoder);
    if worst <= interval {
        return Ok(());
    }
    Err(format!(
        "runner.max_attempts is {attempts}, but one record may then take {worst} ms, more than max.poll.interval.ms ({interval}), after which its replica is taken for hanging: {attempts} x 2 x blob.timeout_ms ({blob}) to fetch and to write + {waits} ms of waits between attempts (runner.backoff_ms {}, doubled up to runner.backoff_max_ms {}) + prepare.decoder.time_limit_ms ({decoder}); lower these, or raise max.poll.interval.ms in kafka.properties",
        runner.backoff_ms, runner.backoff_max_ms
    ))
}

#[cfg(test)]
mod tests {
    fn check(text: &str, says: Option<&str>) {
        let said = super::check(&toml::from_str(text).unwrap()).err();
        match says {
            None => assert_eq!(said, None, "{text}"),
            Some(says) => assert!(said.as_ref().is_some_and(|s| s.contains(says)), "{said:?}"),
        }
    }

    #[test]
    fn attempts_deadlines_and_waits_have_to_fit_the_poll_interval() {
        check("", None);
        check("[blob]\ntimeout_ms = 99", Some("blob.timeout_ms is 99"));
        // 5 x 2 x 20000 + 3000 + 30000
        check("[kafka.properties]\n\"max.poll.interval.ms\" = \"233000\"", None);
        check(
            "[kafka.properties]\n\"max.poll.interval.ms\" = \"232999\"",
            Some("one record may then take 233000 ms, more than max.poll.interval.ms (232999)"),
        );
        check("[runner]\nmax_attempts = 20", Some("20 x 2 x blob.timeout_ms (20000)"));
        check("[prepare.decoder]\ntime_limit_ms = 100000", Some("time_limit_ms (100000)"));
        check("[runner]\nbackoff_ms = 100000\nbackoff_max_ms = 100000", Some("400000 ms of waits"));
    }
}
