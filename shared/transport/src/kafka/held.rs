//! Partitions that give nothing because a transaction has not ended: its records, or the offsets that were sent with
//! it, are neither there nor not there.
//!
//! That is so for a moment all the time. Where it lasts, the broker has lost the transaction's end, and nobody would
//! ever be told: the client waits in silence.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::shared::Place;

/// What the client tells of a partition at one moment. Negative offsets are unknown ones.
pub(super) struct Seen {
    /// Whether the client reads it at all: it knows where to begin.
    pub(super) is_read: bool,
    /// The next offset that it asks for.
    pub(super) next: i64,
    /// The first offset of a transaction that has not ended, or the end.
    pub(super) stable: i64,
    pub(super) end: i64,
    /// Fetched, and not worked on yet.
    pub(super) waiting: i64,
}

impl Seen {
    fn is_held(&self) -> bool {
        let is_at_the_transaction = self.stable >= 0 && self.next >= self.stable;
        self.waiting == 0 && (!self.is_read || (is_at_the_transaction && self.stable < self.end))
    }
}

/// Since when partitions have been held up, and where.
#[derive(Default)]
pub(super) struct Held(BTreeMap<Place, (Instant, i64)>);

impl Held {
    /// The partition that has been held up longest, at one and the same transaction.
    pub(super) fn note(
        &mut self,
        now: Instant,
        seen: impl IntoIterator<Item = (Place, Seen)>,
    ) -> Option<(Place, Duration)> {
        let mut held = BTreeMap::new();
        for (place, seen) in seen.into_iter().filter(|(_, seen)| seen.is_held()) {
            let at = if seen.is_read { seen.stable } else { -1 };
            let before = self.0.get(&place).filter(|(_, known)| *known == at);
            held.insert(place, before.copied().unwrap_or((now, at)));
        }
        self.0 = held;
        let longest = self.0.iter().min_by_key(|(_, (since, _))| *since);
        longest.map(|(place, (since, _))| (*place, now.saturating_duration_since(*since)))
    }
}

#[cfg(test)]
mod tests {
    use duet_case::Topic;

    use super::*;

    const PLACE: Place = (Topic::Images, 3);

    fn at(next: i64, stable: i64, end: i64) -> Seen {
        Seen { is_read: true, next, stable, end, waiting: 0 }
    }

    #[test]
    fn what_stands_at_one_transaction_is_held_for_as_long() {
        let mut held = Held::default();
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(held.note(begun, [(PLACE, at(5, 5, 9))]), Some((PLACE, Duration::ZERO)));
        let longer = held.note(after(7), [(PLACE, at(5, 5, 12))]);
        assert_eq!(longer, Some((PLACE, Duration::from_secs(7))));
        // The next one is another.
        assert_eq!(held.note(after(8), [(PLACE, at(9, 9, 12))]), Some((PLACE, Duration::ZERO)));
        assert_eq!(held.note(after(9), [(PLACE, at(12, 12, 12))]), None);
        assert_eq!(held.note(after(10), [(PLACE, at(12, 12, 13))]), Some((PLACE, Duration::ZERO)));
    }

    #[test]
    fn the_longest_is_told_and_work_that_waits_is_no_hold() {
        let mut held = Held::default();
        let begun = Instant::now();
        let unread = || Seen { is_read: false, ..at(-1, -1, -1) };
        held.note(begun, [(PLACE, unread())]);
        let other = (Topic::Images, 1);
        let later = begun + Duration::from_secs(60);
        let told = held.note(later, [(other, at(5, 5, 9)), (PLACE, unread())]);
        assert_eq!(told, Some((PLACE, Duration::from_secs(60))));
        let busy = Seen { waiting: 2, ..at(5, 5, 9) };
        assert_eq!(held.note(later, [(PLACE, busy)]), None);
        // Not yet read to the transaction.
        assert_eq!(held.note(later, [(PLACE, at(3, 5, 9))]), None);
    }
}
