//! Which faults strike, where and when: all of it follows from a seed.

use std::{fmt, time::Duration};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::STAGES;

/// Times that the broker and its clients hold a silent one for gone after.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// A replica that is silent for this long loses its partitions.
    pub session: Duration,
    /// A transaction that is open for this long is aborted by the broker.
    pub transaction: Duration,
}

/// What is done to the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A replica is killed (SIGKILL) and started again.
    Kill,
    /// A replica stands still (SIGSTOP) for longer than its session lasts.
    Pause,
    /// A replica stands still for longer than its session and its transaction last: it goes on as a zombie.
    LongPause,
    /// A replica is told to stop (SIGTERM), has to drain, and is started again.
    Drain,
    /// A stage gets a further replica, which takes partitions from the others.
    ScaleUp,
    /// A stage loses a replica in good order, whose partitions go to the others.
    ScaleDown,
    /// The broker is stopped in good order and started again.
    BrokerStop,
    /// The broker is killed and started again.
    BrokerKill,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Pause,
        Self::LongPause,
        Self::Drain,
        Self::ScaleUp,
        Self::ScaleDown,
        Self::BrokerStop,
        Self::BrokerKill,
    ];

    /// How often it is drawn, against the others.
    const fn weight(self) -> u32 {
        match self {
            Self::Kill => 5,
            Self::Pause | Self::LongPause | Self::ScaleUp | Self::ScaleDown => 2,
            Self::Drain | Self::BrokerStop | Self::BrokerKill => 1,
        }
    }

    /// Whether it strikes the broker, which keeps the conductor busy for a while.
    pub(super) const fn is_brokers(self) -> bool {
        matches!(self, Self::BrokerStop | Self::BrokerKill)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "service killed (-9)",
            Self::Pause => "service paused, session over",
            Self::LongPause => "service paused, transaction over",
            Self::Drain => "service drained and restarted",
            Self::ScaleUp => "replica added",
            Self::ScaleDown => "replica removed",
            Self::BrokerStop => "broker stopped, restarted",
            Self::BrokerKill => "broker killed (-9), restarted",
        })
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// It strikes when this share of the images has come to its end.
    pub at: f64,
    /// What is done.
    pub kind: Kind,
    /// To which stage.
    pub stage: &'static str,
    /// Which of the stage's replicas: the one at this number modulo their count.
    pub replica: usize,
    /// How long until it is over: until the SIGCONT, or the restart.
    pub lasts: Duration,
}

/// `faults` of them in the order in which they strike, every kind among them where there are as many as kinds. Two
/// out of three strike together with another, so that a service dies while the broker is away.
pub fn schedule(seed: u64, faults: usize, timeouts: Timeouts) -> Vec<Fault> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut kinds: Vec<Kind> =
        Kind::ALL.into_iter().cycle().take(faults.min(Kind::ALL.len())).collect();
    let total: u32 = Kind::ALL.iter().map(|kind| kind.weight()).sum();
    while kinds.len() < faults {
        let mut drawn = dice.random_range(0..total);
        let kind = Kind::ALL.into_iter().find(|kind| {
            let hit = drawn < kind.weight();
            drawn = drawn.saturating_sub(kind.weight());
            hit
        });
        kinds.extend(kind);
    }
    kinds.shuffle(&mut dice);
    // One moment for three faults or so; the first image has come through by then, the last has not.
    let moments: Vec<f64> = (0..faults.div_ceil(3)).map(|_| dice.random_range(0.02..0.9)).collect();
    let mut schedule: Vec<Fault> = kinds
        .into_iter()
        .enumerate()
        .map(|(number, kind)| Fault {
            at: moments.get(number / 3).copied().unwrap_or(0.5),
            kind,
            stage: STAGES[dice.random_range(0..STAGES.len())],
            replica: dice.random_range(0..6),
            lasts: match kind {
                Kind::Pause => {
                    timeouts.session + Duration::from_millis(dice.random_range(300..1500))
                }
                Kind::LongPause => {
                    let both = timeouts.session.max(timeouts.transaction);
                    both + Duration::from_millis(dice.random_range(1500..3500))
                }
                _ => Duration::from_millis(dice.random_range(100..2500)),
            },
        })
        .collect();
    // Within a moment the broker's come last: whatever else strikes then strikes before the broker is back.
    schedule
        .sort_by(|a, b| a.at.total_cmp(&b.at).then(a.kind.is_brokers().cmp(&b.kind.is_brokers())));
    schedule
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const TIMEOUTS: Timeouts =
        Timeouts { session: Duration::from_secs(6), transaction: Duration::from_secs(10) };

    #[test]
    fn the_seed_alone_decides() {
        assert_eq!(schedule(5, 40, TIMEOUTS), schedule(5, 40, TIMEOUTS));
        assert_ne!(schedule(5, 40, TIMEOUTS), schedule(6, 40, TIMEOUTS));
    }

    #[test]
    fn every_kind_strikes_and_pauses_outlast_what_they_are_meant_to() {
        for seed in 0..50 {
            let faults = schedule(seed, 9, TIMEOUTS);
            assert_eq!(faults.len(), 9);
            let kinds: BTreeSet<Kind> = faults.iter().map(|fault| fault.kind).collect();
            assert_eq!(kinds.len(), Kind::ALL.len());
            for fault in faults {
                assert!(fault.at > 0.0 && fault.at < 0.9, "{fault:?}");
                assert!(fault.kind != Kind::Pause || fault.lasts > TIMEOUTS.session);
                assert!(fault.kind != Kind::LongPause || fault.lasts > TIMEOUTS.transaction);
            }
        }
    }
}
