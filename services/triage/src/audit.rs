//! Which cleared images a specialist looks at all the same.

use duet_case::{CaseId, Digest};

/// Whether the case is drawn: a keyed hash of its id as a number from 0 to 1, below `rate`. The same seed and id draw
/// alike wherever and whenever they are asked.
pub(crate) fn drawn(seed: u64, id: &CaseId, rate: f64) -> bool {
    let digest = Digest::of_parts(&[b"duet/audit/v1", &seed.to_be_bytes(), id.as_str().as_bytes()]);
    let number =
        digest.as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    // The 53 bits that an f64 holds exactly: from 0 to just below 1.
    let uniform = (number >> 11) as f64 / (1_u64 << 53) as f64;
    uniform < rate
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(seed: u64, rate: f64) -> f64 {
        let drawn =
            (0..20_000_u32).filter(|n| drawn(seed, &CaseId::of_input(&n.to_be_bytes()), rate));
        drawn.count() as f64 / 20_000.0
    }

    #[test]
    fn draws_the_share_that_was_asked_for() {
        for rate in [0.0, 0.05, 0.5, 1.0] {
            assert!((share(7, rate) - rate).abs() < 0.01, "{rate}: {}", share(7, rate));
        }
    }

    #[test]
    fn the_seed_alone_decides_who_is_drawn() {
        let who = |seed| -> Vec<bool> {
            (0..64_u8).map(|n| drawn(seed, &CaseId::of_input(&[n]), 0.5)).collect()
        };
        assert_eq!(who(1), who(1));
        assert_ne!(who(1), who(2));
    }
}
