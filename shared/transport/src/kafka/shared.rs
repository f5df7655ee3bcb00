//! What the polling thread, the source and the committer of one replica share: which partitions are its own, under
//! which epoch, and the records that wait to be taken up.
//!
//! A record is handed out under the epoch of its partition's assignment. Whatever takes the partition away, or moves
//! it back, ends the epoch, and with it the right to commit what was handed out under it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError},
    time::Duration,
};

use duet_case::Topic;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::Notify;

use crate::{Completed, Lag, Record};

/// A topic and a partition of it.
pub(super) type Place = (Topic, i32);

/// Bounds of the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

pub(super) struct Shared {
    /// Held for the whole of a commit, and by whoever takes partitions away: a revocation waits for a commit that
    /// has begun. Taken before `state`, never after.
    pub(super) transaction: Mutex<()>,
    state: Mutex<State>,
    /// A record has come, or the end.
    pub(super) arrived: Notify,
    /// A record was taken up, or the end.
    room: Condvar,
    limits: Limits,
}

#[derive(Default)]
pub(super) struct State {
    owned: BTreeMap<Place, Owned>,
    buffer: VecDeque<Record>,
    bytes: usize,
    epoch: u64,
    /// Whether the group has told what is ours, be it nothing.
    pub(super) assigned: bool,
    pub(super) lag: Vec<Lag>,
    /// Why the client can go on no more.
    pub(super) fatal: Option<String>,
    /// The source was dropped.
    pub(super) stopping: bool,
    /// The polling thread has left the group.
    pub(super) left: bool,
}

struct Owned {
    epoch: u64,
    /// The lowest offset that is not committed, once it is known.
    resume_at: Option<i64>,
    /// The offset after the last one handed out.
    handed: Option<i64>,
    /// The consumer is still to be moved back; what it gives until then is not wanted.
    rewinding: bool,
    /// When the client was last told where to read, by [`clock`].
    since: i64,
}

/// Microseconds of the clock that the client's statistics tell (`CLOCK_MONOTONIC`).
fn clock() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    // Where there is no such clock, nothing that it would have to vouch for is ever so.
    now.map_or(i64::MAX, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000)
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            transaction: Mutex::new(()),
            state: Mutex::default(),
            arrived: Notify::new(),
            room: Condvar::new(),
            limits,
        }
    }

    /// Every change of the state is whole before the lock is let go, so a poisoned lock holds a sound state.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hold_transactions(&self) -> MutexGuard<'_, ()> {
        self.transaction.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// New partitions are this replica's.
    pub(super) fn assign(&self, places: impl IntoIterator<Item = Place>) {
        let mut state = self.state();
        state.assigned = true;
        for place in places {
            state.epoch += 1;
            let epoch = state.epoch;
            let since = clock();
            let owned = Owned { epoch, resume_at: None, handed: None, rewinding: false, since };
            state.owned.insert(place, owned);
        }
    }

    /// Partitions are this replica's no more. Waits for a commit that has begun.
    pub(super) fn revoke(&self, places: &[Place], lost: bool) {
        let _running = self.hold_transactions();
        let mut state = self.state();
        for place in places {
            state.owned.remove(place);
        }
        if lost {
            state.assigned = false;
        }
        let State { owned, lag, .. } = &mut *state;
        lag.retain(|lag| owned.contains_key(&(lag.topic, lag.partition)));
        state.drop_buffered(|place| places.contains(&place));
        self.room.notify_all();
    }

    /// Takes `record` into the buffer, whatever its size: the caller has waited for room.
    pub(super) fn push(&self, mut record: Record) {
        let mut state = self.state();
        let origin = &mut record.origin;
        let Some(owned) = state.owned.get_mut(&(origin.topic, origin.partition)) else { return };
        if owned.rewinding {
            return;
        }
        origin.epoch = owned.epoch;
        owned.resume_at.get_or_insert(origin.offset);
        state.bytes += record.value.len();
        state.buffer.push_back(record);
        drop(state);
        self.arrived.notify_one();
    }

    /// Whether the buffer has room, for which it waits for `limit` at most.
    pub(super) fn wait_for_room(&self, limit: Duration) -> bool {
        let state = self.state();
        let is_full = |state: &mut State| !state.stopping && state.is_full(self.limits);
        let (mut state, _) = self
            .room
            .wait_timeout_while(state, limit, is_full)
            .unwrap_or_else(PoisonError::into_inner);
        !is_full(&mut state)
    }

    /// How many records wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.state();
        (state.buffer.len(), state.bytes)
    }

    /// Up to `max` records, in order, with `within` bytes together, or one that is larger.
    pub(super) fn take(&self, max: usize, within: usize) -> Vec<Record> {
        let mut state = self.state();
        let mut bytes = 0_usize;
        let fits = |record: &&Record| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(record.value.len().max(1));
            is_first || bytes <= within
        };
        let count = state.buffer.iter().take(max).take_while(fits).count();
        let records: Vec<Record> = state.buffer.drain(..count).collect();
        for record in &records {
            state.bytes -= record.value.len();
            let origin = record.origin;
            if let Some(owned) = state.owned.get_mut(&(origin.topic, origin.partition)) {
                owned.handed = Some(origin.offset + 1);
            }
        }
        self.room.notify_all();
        records
    }

    /// The ones of `done` that may still be committed, and how many may not.
    pub(super) fn admit(&self, done: Vec<Completed>) -> (Vec<Completed>, usize) {
        let state = self.state();
        let count = done.len();
        let admitted: Vec<_> = done
            .into_iter()
            .filter(|completed| {
                let origin = completed.origin;
                state
                    .owned
                    .get(&(origin.topic, origin.partition))
                    .is_some_and(|owned| owned.epoch == origin.epoch && !owned.rewinding)
            })
            .collect();
        let returned = count - admitted.len();
        (admitted, returned)
    }

    /// The offsets in `next` are committed.
    pub(super) fn committed(&self, next: &BTreeMap<Place, i64>) {
        let mut state = self.state();
        for (place, offset) in next {
            if let Some(owned) = state.owned.get_mut(place) {
                owned.resume_at = Some(*offset);
            }
        }
    }

    /// A commit failed: what was handed out of `places` is to be handed out again.
    pub(super) fn rewind(&self, places: impl IntoIterator<Item = Place>) {
        let mut state = self.state();
        let mut rewound = Vec::new();
        for place in places {
            state.epoch += 1;
            let epoch = state.epoch;
            if let Some(owned) = state.owned.get_mut(&place) {
                owned.epoch = epoch;
                owned.rewinding = true;
                rewound.push(place);
            }
        }
        state.drop_buffered(|place| rewound.contains(&place));
        self.room.notify_all();
    }

    /// Partitions that the consumer is to move back, with the lowest offset known to be uncommitted.
    pub(super) fn to_rewind(&self) -> Vec<(Place, Option<i64>)> {
        let state = self.state();
        let rewinding = state.owned.iter().filter(|(_, owned)| owned.rewinding);
        rewinding.map(|(place, owned)| (*place, owned.resume_at)).collect()
    }

    /// The consumer stands at these offsets again.
    pub(super) fn rewound(&self, offsets: impl IntoIterator<Item = (Place, Option<i64>)>) {
        let mut state = self.state();
        for (place, offset) in offsets {
            if let Some(owned) = state.owned.get_mut(&place) {
                owned.rewinding = false;
                owned.since = clock();
                owned.resume_at = offset;
                owned.handed = offset;
            }
        }
    }

    /// For each partition of ours: the offset after the last one handed out, and how many records of it wait.
    pub(super) fn positions(&self) -> Vec<(Place, Option<i64>, i64)> {
        let state = self.state();
        let mut waiting: BTreeMap<Place, i64> = BTreeMap::new();
        for record in &state.buffer {
            *waiting.entry((record.origin.topic, record.origin.partition)).or_default() += 1;
        }
        let owned = state.owned.iter();
        owned
            .map(|(place, owned)| {
                (*place, owned.handed, waiting.get(place).copied().unwrap_or_default())
            })
            .collect()
    }

    /// Whether every record of `place` before `offset` is done, where the client was seen to have given all of them at
    /// `seen_at`, by [`clock`].
    pub(super) fn is_done_before(&self, place: Place, offset: i64, seen_at: i64) -> bool {
        let state = self.state();
        let waits = |record: &Record| (record.origin.topic, record.origin.partition) == place;
        state.owned.get(&place).is_some_and(|owned| {
            !owned.rewinding
                && owned.since < seen_at
                && owned.handed == owned.resume_at
                && owned.handed.is_none_or(|handed| handed < offset)
        }) && !state.buffer.iter().any(waits)
    }

    /// As [`Shared::hold_transactions`], where no commit runs.
    pub(super) fn hold_transactions_now(&self) -> Option<MutexGuard<'_, ()>> {
        match self.transaction.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The source is gone: wakes the polling thread.
    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.room.notify_all();
    }

    /// The polling thread is done.
    pub(super) fn leave(&self) {
        self.state().left = true;
        self.room.notify_all();
        self.arrived.notify_one();
    }

    /// Waits for the polling thread to be done, for `limit` at most.
    pub(super) fn wait_until_left(&self, limit: Duration) -> bool {
        let state = self.state();
        let (state, _) = self
            .room
            .wait_timeout_while(state, limit, |state| !state.left)
            .unwrap_or_else(PoisonError::into_inner);
        state.left
    }
}

impl State {
    fn is_full(&self, limits: Limits) -> bool {
        self.buffer.len() >= limits.records || self.bytes >= limits.bytes
    }

    fn drop_buffered(&mut self, of: impl Fn(Place) -> bool) {
        let Self { buffer, bytes, .. } = self;
        buffer.retain(|record| {
            let dropped = of((record.origin.topic, record.origin.partition));
            if dropped {
                *bytes -= record.value.len();
            }
            !dropped
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Headers, Origin};

    const IMAGES_0: Place = (Topic::Images, 0);
    const IMAGES_1: Place = (Topic::Images, 1);

    fn shared() -> Shared {
        let shared = Shared::new(Limits { records: 3, bytes: 100 });
        shared.assign([IMAGES_0, IMAGES_1]);
        shared
    }

    fn push(shared: &Shared, place: Place, offset: i64) {
        let origin = Origin { topic: place.0, partition: place.1, offset, epoch: 0 };
        let value = Bytes::from_static(b"0123456789");
        let headers = Headers::default();
        shared.push(Record { origin, timestamp: None, key: None, headers, value });
    }

    fn take(shared: &Shared) -> Vec<Completed> {
        let records = shared.take(9, usize::MAX);
        records.into_iter().map(|r| Completed { origin: r.origin, outputs: vec![] }).collect()
    }

    #[test]
    fn what_was_revoked_can_neither_be_taken_nor_committed() {
        let shared = shared();
        push(&shared, IMAGES_0, 5);
        push(&shared, IMAGES_1, 7);
        let done = take(&shared);
        push(&shared, IMAGES_0, 6);
        shared.revoke(&[IMAGES_0], false);
        assert_eq!(shared.waiting(), (0, 0));
        let (admitted, returned) = shared.admit(done.clone());
        assert_eq!((admitted.len(), returned), (1, 1));
        assert_eq!(admitted[0].origin.partition, 1);
        // It comes back: what was handed out before stays void.
        shared.assign([IMAGES_0]);
        assert_eq!(shared.admit(done).1, 1);
        push(&shared, IMAGES_0, 5);
        assert_eq!(shared.admit(take(&shared)).1, 0);
    }

    #[test]
    fn a_failed_commit_takes_back_its_partitions_alone() {
        let shared = shared();
        push(&shared, IMAGES_0, 5);
        push(&shared, IMAGES_1, 7);
        let done = take(&shared);
        shared.rewind([IMAGES_0]);
        assert_eq!(shared.admit(done).0.len(), 1);
        // What the consumer still gives from ahead is not wanted until it was moved back.
        push(&shared, IMAGES_0, 6);
        assert_eq!(shared.waiting(), (0, 0));
        assert_eq!(shared.to_rewind(), [(IMAGES_0, Some(5))]);
        shared.rewound([(IMAGES_0, Some(5))]);
        push(&shared, IMAGES_0, 5);
        let again = take(&shared);
        assert_eq!(shared.admit(again).1, 0);
        shared.committed(&BTreeMap::from([(IMAGES_0, 6)]));
        shared.rewind([IMAGES_0]);
        assert_eq!(shared.to_rewind(), [(IMAGES_0, Some(6))]);
    }

    #[test]
    fn the_buffer_is_bounded_by_records_and_by_bytes() {
        let shared = shared();
        for offset in 0..3 {
            assert!(shared.wait_for_room(Duration::ZERO));
            push(&shared, IMAGES_0, offset);
        }
        assert!(!shared.wait_for_room(Duration::ZERO));
        assert_eq!(shared.take(1, usize::MAX).len(), 1);
        assert!(shared.wait_for_room(Duration::ZERO));
    }

    #[test]
    fn a_batch_is_bounded_by_bytes_but_never_empty() {
        let shared = shared();
        for offset in 0..3 {
            push(&shared, IMAGES_0, offset); // ten bytes each
        }
        assert_eq!(shared.take(9, 25).len(), 2);
        assert_eq!(shared.take(9, 5).len(), 1);
        assert_eq!(shared.waiting(), (0, 0));
    }
}
