//! Committing past what is no record.
//!
//! The end of a transaction takes up an offset. A reader that has done every record stands before it, and whoever
//! counts offsets (KEDA, `kafka-consumer-groups.sh`) sees a lag of one in each partition for ever: what scales by it
//! never scales to zero. Where a reader has been at the very end for two looks, all records done, the end itself is
//! committed.

use std::collections::BTreeMap;

use super::shared::Place;

/// Where partitions stood at the last look, and what is committed of that.
#[derive(Default)]
pub(super) struct Ends {
    seen: BTreeMap<Place, i64>,
    due: BTreeMap<Place, i64>,
    committed: BTreeMap<Place, i64>,
    /// When the last look was, by the client's clock.
    seen_at: i64,
}

impl Ends {
    /// Takes note of the partitions that were read to their ends, with the offsets of these. An end that was not seen
    /// twice may belong to records that are on their way through the client.
    pub(super) fn note(&mut self, now: BTreeMap<Place, i64>, seen_at: i64) {
        let is_due = |place: &Place, end: i64| {
            self.seen.get(place) == Some(&end) && self.committed.get(place) != Some(&end)
        };
        self.due =
            now.iter().filter(|(place, end)| is_due(place, **end)).map(|(p, e)| (*p, *e)).collect();
        self.seen = now;
        self.seen_at = seen_at;
    }

    /// What is to be committed, once, and when it was seen.
    pub(super) fn take_due(&mut self) -> (BTreeMap<Place, i64>, i64) {
        (std::mem::take(&mut self.due), self.seen_at)
    }

    pub(super) fn is_committed(&mut self, places: BTreeMap<Place, i64>) {
        self.committed.extend(places);
    }

    /// A partition that comes again comes with what its group has committed meanwhile.
    pub(super) fn forget(&mut self, places: &[Place]) {
        for place in places {
            self.seen.remove(place);
            self.due.remove(place);
            self.committed.remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use duet_case::Topic;

    use super::*;

    const PLACE: Place = (Topic::Flagged, 2);

    fn at(end: i64) -> BTreeMap<Place, i64> {
        BTreeMap::from([(PLACE, end)])
    }

    #[test]
    fn an_end_that_was_seen_twice_is_due_once() {
        let mut ends = Ends::default();
        ends.note(at(7), 1);
        assert!(ends.take_due().0.is_empty());
        ends.note(at(9), 1);
        assert!(ends.take_due().0.is_empty(), "it moved");
        ends.note(at(9), 1);
        assert_eq!(ends.take_due().0, at(9));
        ends.is_committed(at(9));
        ends.note(at(9), 1);
        assert!(ends.take_due().0.is_empty());
        ends.forget(&[PLACE]);
        ends.note(at(9), 1);
        ends.note(at(9), 1);
        assert_eq!(ends.take_due().0, at(9), "another replica may have gone back");
    }
}
