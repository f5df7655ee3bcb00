//! The limit on the dead-letter rate: a stage that gives nearly everything up stops taking up more, since then it is
//! the deployment that is broken and not the images.
//!
//! Counted is what a stage finished within a sliding window. What a file itself is to blame for does not count: a
//! sender of rubbish stops nobody. Over the limit the stage pauses (its consumer stays in the group), then tries a
//! single record; where that goes through, everything goes on, else the pause doubles. So a cause that ends by itself
//! needs nobody, and one that does not costs one record a pause, which can be sent again like every other.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::{Reason, RunnerConfig};

/// Between two tries at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Counts are kept by so many parts of the window.
const PARTS: u32 = 60;

/// What came of a batch, as far as it counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) emitted: u64,
    pub(crate) given_up: u64,
    /// The kind of error of the last one that was given up.
    pub(crate) class: Option<&'static str>,
}

impl Tally {
    pub(crate) fn give_up(&mut self, reason: &Reason) {
        if !reason.blames_the_file() {
            self.given_up += 1;
            self.class = Some(reason.class);
        }
    }
}

pub(crate) struct Limit<'a> {
    config: &'a RunnerConfig,
    parts: VecDeque<(Instant, Tally)>,
    /// Pauses since something went through; while there is one, records are taken up one by one.
    pauses: u32,
    /// Why, in words.
    words: String,
}

/// What follows from a batch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    GoOn,
    /// Nothing is taken up for so long.
    Pause(Duration),
    /// It was paused, and something went through.
    Resume,
}

impl<'a> Limit<'a> {
    pub(crate) fn new(config: &'a RunnerConfig) -> Self {
        Self { config, parts: VecDeque::new(), pauses: 0, words: String::new() }
    }

    /// Records to take up together.
    pub(crate) fn batch(&self) -> usize {
        if self.pauses > 0 { 1 } else { self.config.max_batch }
    }

    /// Why the stage is paused, while it is.
    pub(crate) fn words(&self) -> Option<&str> {
        (self.pauses > 0).then_some(self.words.as_str())
    }

    /// Whether this pause is the first since something went through.
    pub(crate) fn is_first(&self) -> bool {
        self.pauses == 1
    }

    /// Takes note of what came of a batch.
    pub(crate) fn note(&mut self, now: Instant, tally: Tally) -> Step {
        if self.pauses > 0 {
            return match tally {
                Tally { emitted: 1.., .. } => {
                    *self = Self::new(self.config);
                    Step::Resume
                }
                Tally { given_up: 1.., .. } => self.pause(),
                Tally { .. } => Step::GoOn,
            };
        }
        let window = Duration::from_millis(self.config.dead_letter_window_ms);
        match self.parts.back_mut() {
            Some((since, part)) if now - *since < window / PARTS => {
                part.emitted += tally.emitted;
                part.given_up += tally.given_up;
            }
            _ => self.parts.push_back((now, tally)),
        }
        while self.parts.front().is_some_and(|(since, _)| now - *since > window) {
            self.parts.pop_front();
        }
        let given_up: u64 = self.parts.iter().map(|(_, part)| part.given_up).sum();
        let emitted: u64 = self.parts.iter().map(|(_, part)| part.emitted).sum();
        let limit = self.config.dead_letter_limit;
        let share = given_up as f64 / (given_up + emitted).max(1) as f64;
        if given_up < self.config.dead_letter_min || share <= limit {
            return Step::GoOn;
        }
        self.words = format!(
            "paused: {given_up} of the last {} records became dead letters (the last one of class {}), more than runner.dead_letter_limit = {limit} allows; `duet dead-letters list` says why: mend the cause, restart where that needs it, and send them again by `duet dead-letters redrive`. Until then one record at a time is tried",
            given_up + emitted,
            tally.class.unwrap_or("none"),
        );
        self.pause()
    }

    fn pause(&mut self) -> Step {
        let first = Duration::from_millis(self.config.dead_letter_pause_ms);
        let doubled = first.saturating_mul(1_u32.checked_shl(self.pauses).unwrap_or(u32::MAX));
        self.pauses += 1;
        self.parts.clear();
        Step::Pause(doubled.min(LONGEST_PAUSE.max(first)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RunnerConfig {
        RunnerConfig {
            dead_letter_limit: 0.5,
            dead_letter_min: 10,
            dead_letter_window_ms: 60_000,
            dead_letter_pause_ms: 1_000,
            ..RunnerConfig::default()
        }
    }

    fn of(emitted: u64, given_up: u64) -> Tally {
        Tally { emitted, given_up, class: (given_up > 0).then_some("inference") }
    }

    #[test]
    fn a_share_above_the_limit_pauses_and_one_below_does_not() {
        let (config, now) = (config(), Instant::now());
        // What came before within the window, what comes now, and whether that is too much.
        for (before, tally, pauses) in [
            (of(0, 0), of(0, 9), false), // too few to tell
            (of(0, 0), of(0, 10), true),
            (of(10, 0), of(0, 10), false), // not more than half
            (of(9, 0), of(0, 10), true),
            (of(0, 9), of(0, 1), true),
            (of(0, 10_000), of(0, 0), true),
        ] {
            let mut limit = Limit::new(&config);
            limit.note(now, before);
            let step = limit.note(now + Duration::from_secs(30), tally);
            let paused = limit.words().is_some();
            assert_eq!(paused, pauses, "{before:?} {tally:?}: {step:?}");
        }
    }

    #[test]
    fn what_is_longer_ago_than_the_window_is_forgotten() {
        let (config, now) = (config(), Instant::now());
        let mut limit = Limit::new(&config);
        for minute in 0..20 {
            let step = limit.note(now + Duration::from_secs(61 * minute), of(0, 9));
            assert_eq!(step, Step::GoOn);
        }
        assert!(limit.parts.len() <= PARTS as usize + 1);
    }

    #[test]
    fn pauses_double_until_something_goes_through() {
        let (config, now) = (config(), Instant::now());
        let mut limit = Limit::new(&config);
        assert_eq!(limit.batch(), config.max_batch);
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let step = limit.note(now, of(0, if seconds == 1 { 99 } else { 1 }));
            assert_eq!(step, Step::Pause(Duration::from_secs(seconds)));
            assert_eq!(limit.batch(), 1);
        }
        let words = limit.words().unwrap().to_owned();
        assert!(words.contains("99 of the last 99") && words.contains("inference"), "{words}");
        // A file that is itself to blame says nothing.
        assert_eq!(limit.note(now, of(0, 0)), Step::GoOn);
        assert!(limit.words().is_some());
        assert_eq!(limit.note(now, of(1, 0)), Step::Resume);
        assert_eq!((limit.words(), limit.batch()), (None, config.max_batch));
        assert_eq!(limit.note(now, of(0, 9)), Step::GoOn, "and the count begins anew");
    }

    #[test]
    fn a_limit_of_one_never_pauses_and_rubbish_does_not_count() {
        let config = RunnerConfig { dead_letter_limit: 1.0, ..config() };
        assert_eq!(Limit::new(&config).note(Instant::now(), of(0, 10_000)), Step::GoOn);
        let mut tally = Tally::default();
        tally.give_up(&Reason::new("truncated", "it breaks off"));
        assert_eq!(tally, Tally::default());
        tally.give_up(&Reason::new("inference", "no numbers"));
        assert_eq!((tally.given_up, tally.class), (1, Some("inference")));
    }
}
