//! Waiting for room on a leaf instead of cutting it.
//!
//! A version that has been superseded is kept until the newer one is durable. Whoever overwrites
//! many keys faster than the disk follows fills leaves with such versions; a leaf that is cut for
//! them is half empty a moment later, and stays so. So a commit that would find room once the log
//! is durable parks until then ([`ParkReason::Durable`]), and has asked for it.
//!
//! - It parks only if that frees an eighth of the page at least: a leaf that is full of what will
//!   stay is better cut now than waited for again after a few commits.
//! - It parks once. Others may be faster to use what has become free, and a commit of many leaves
//!   would always find another one full; so when it is run again it may cut.

use crate::error::{EngineError, ParkReason};
use rd_base::Lsn;
use rd_format::NodeRef;
use rd_format::node::{NODE_BYTES, Slot};
use rd_store::{Points, Store};
use std::collections::VecDeque;

/// Parking is worth it from so many bytes on.
const WORTH_BYTES: usize = NODE_BYTES / 8;
/// Commits that are remembered to have parked; an older one may park once more.
const WAITS_MAX: usize = 256;
/// A commit that has not come again when the log is so much further will not: its client is gone, or
/// it failed by something else.
const FORGOTTEN_BYTES: u64 = 16 << 20;

/// Stands for a commit: the same when it is run again, and seldom the same as another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter(u64);

impl Waiter {
    /// The commit of so many versions, the first of which is of `key`.
    pub(crate) fn new(key: &[u8], versions: usize) -> Waiter {
        Waiter((versions as u64) << 32 | u64::from(crc32c::crc32c(key)))
    }
}

/// The commits of this process that have parked for room and are not done yet.
#[derive(Default)]
pub(crate) struct RoomWaits {
    waits: VecDeque<(Waiter, Lsn)>,
}

impl RoomWaits {
    /// Whether nobody has parked.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    fn place(&self, waiter: Waiter) -> Option<usize> {
        self.waits.iter().position(|(parked, _)| *parked == waiter)
    }

    /// The commit is done; it ends at `end`.
    pub(crate) fn done(&mut self, waiter: Waiter, end: Lsn) {
        if let Some(at) = self.place(waiter) {
            self.waits.remove(at);
        } else if let Some((_, until)) = self.waits.front()
            && end.get() - until.get() > FORGOTTEN_BYTES
        {
            self.waits.pop_front();
        }
    }

    /// The error with which `waiter`, which finds that `leaf` lacks room for versions of `needed`
    /// bytes, is to park; `None` if the leaf is to be cut. The leaf was pruned by `points`.
    pub(crate) fn park(
        &mut self,
        store: &Store,
        waiter: Waiter,
        leaf: &NodeRef<'_>,
        needed: usize,
        points: &Points,
    ) -> Option<EngineError> {
        let wal = &store.shared.wal;
        let until = match self.place(waiter) {
            Some(at) => Some(self.waits[at].1).filter(|until| *until > wal.durable_lsn())?,
            None => {
                let (bytes, until) = passing(leaf, points);
                if bytes < WORTH_BYTES || leaf.free_bytes_after_compact() + bytes < needed {
                    return None;
                }
                if self.waits.len() == WAITS_MAX {
                    self.waits.pop_front();
                }
                self.waits.push_back((waiter, until));
                until
            }
        };
        wal.request_flush(until);
        Some(EngineError::Park(ParkReason::Durable(until)))
    }
}

/// How many bytes pruning will free when the log is durable up to the LSN told, if no snapshot is
/// taken until then.
fn passing(leaf: &NodeRef<'_>, points: &Points) -> (usize, Lsn) {
    let (mut bytes, mut until) = (0, Lsn::ZERO);
    // The key of the version to the right that will stay.
    let mut stays = leaf.high_key().map(|high| high.key);
    for slot in (0..leaf.count()).rev() {
        let entry = leaf.leaf_entry(slot);
        let before = slot.checked_sub(1).map(|slot| leaf.key_and_stamp(slot));
        let newer = before.filter(|(key, _)| *key == entry.key);
        let goes = match newer {
            _ if entry.owns_overflow() => None,
            Some((_, newer)) => Some((entry.stamp, newer)),
            None if entry.is_tombstone() && stays != Some(entry.key) => {
                Some((Lsn::ZERO, entry.stamp))
            }
            None => None,
        };
        match goes.filter(|(stamp, newer)| !points.in_snapshot(*stamp, *newer)) {
            Some((_, newer)) => {
                bytes += leaf.cell_bytes(slot) + Slot::BYTES;
                until = until.max(newer);
            }
            None => stays = Some(entry.key),
        }
    }
    (bytes, until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_come_again_is_forgotten() {
        let mut waits = RoomWaits::default();
        let waiter = |key: &[u8]| Waiter::new(key, 1);
        for (key, until) in [(b"a", 100), (b"b", 200)] {
            waits.waits.push_back((waiter(key), Lsn::new(until)));
        }
        let near = Lsn::new(FORGOTTEN_BYTES);
        waits.done(waiter(b"other"), near);
        assert_eq!(waits.waits.len(), 2);
        waits.done(waiter(b"b"), near);
        assert!(waits.place(waiter(b"b")).is_none());
        waits.done(waiter(b"other"), Lsn::new(FORGOTTEN_BYTES + 101));
        assert!(waits.is_empty());
    }
}
