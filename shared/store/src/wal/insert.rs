//! Insertion: reserving a place in the log and copying a record there, without a lock.
//!
//! Inserter, on the slot of its process:
//! - I1 stores in `start` an insert position that it has read: "I insert at or above this";
//! - I2 reserves by `fetch_add` (which releases I1 to whoever sees the new position);
//! - I3 gives the record its LSN and copies it into the ring; where the ring is full it waits, and
//!   says in `copied` how far it has come;
//! - I4 clears `start` (which releases I3), then looks whether a flusher stalled for it.
//!
//! Whoever wants to know what is complete:
//! - P1 reads the insert position X (acquiring I1 of all that reserved before X);
//! - P2 reads the slots. The least of X and the positions shown is complete (W2): a record that was
//!   reserved below X either shows its slot, or was seen after I4.
//!
//! The position found may be lower than one found before, because I1 may store what is long
//! outdated. What was complete stays complete, so the highest one ever found is kept and used.

use super::credit::Credit;
use super::{Wal, between_steps};
use crate::procs::SlotNo;
use rd_base::counters::Counter;
use rd_base::{Lsn, Role};
use rd_format::wal_page;
use rd_format::wal_record::RecordBuilder;
use rd_sys::atomic::{AtomicU64, Ordering};
use rd_sys::fault::{self, Fault};
use zerocopy::{FromBytes, KnownLayout};

/// What a process tells of the insertion that it is in.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
pub(super) struct InsertSlot {
    /// The record under way begins at or above this position; 0 if none is under way.
    /// atomic: Release by the owner, Acquire by all.
    pub(super) start: AtomicU64,
    /// All bytes that this process reserved below this position are copied. Only moved for records
    /// that had to wait for the ring. atomic: Release by the owner, Acquire by all.
    copied: AtomicU64,
}

/// Where a record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// Its LSN.
    pub start: Lsn,
    /// The LSN of its end: the stamp of the versions it makes, and what is to be flushed for it.
    pub end: Lsn,
}

/// How far the log can be read from the ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    /// A record boundary before which everything is complete.
    pub(super) complete_pos: u64,
    /// Everything before it is in the ring, which may end inside a record; not below
    /// `complete_pos`.
    pub(super) copied_pos: u64,
}

impl Wal {
    /// Inserts `record`, for which `credit` was taken, on behalf of the process in `slot`.
    ///
    /// `before_release` runs when the record's place is known and before anybody can take the
    /// record for complete.
    ///
    /// It cannot fail. It waits only if the record (or others together) outgrow the ring, for a
    /// flusher to make room; flushers wait for no latch (W7), so the caller may hold some.
    ///
    /// # Panics
    /// If the credit is too small, or the process is inserting already: both are errors of the
    /// caller that would break the log.
    #[inline]
    pub fn insert(
        &self,
        slot: SlotNo,
        record: &mut RecordBuilder,
        credit: &mut Credit,
        before_release: impl FnOnce(Inserted),
    ) -> Inserted {
        let control = self.control();
        let len = record.bytes().len() as u64;
        credit.spend(len);
        let mine = self.own_slot(slot);
        // I1, I2.
        let low = control.positions.insert_pos.load(Ordering::Relaxed);
        between_steps();
        mine.start.store(low, Ordering::Release);
        between_steps();
        let pos = control
            .positions
            .insert_pos
            .fetch_add(len, Ordering::AcqRel);
        let inserted = Inserted {
            start: wal_page::pos_to_start_lsn(pos),
            end: wal_page::pos_to_end_lsn(pos + len),
        };
        between_steps();
        if let Err(error) = fault::point(Fault::CommitReserved) {
            // From the reservation on nothing may fail.
            rd_sys::crash::panic_abort(&format!("with a place in the log: {error}"));
        }
        // I3.
        let bytes = record.finish(inserted.start, self.start_count());
        if pos + len <= control.progress.ring_end_pos.load(Ordering::Acquire) {
            self.inner.ring.copy(pos, bytes, pos, pos + len);
        } else {
            self.inner.stats.add(slot, Counter::WalBuffersFull, 1);
            self.copy_waiting(mine, pos, bytes, pos + len);
        }
        before_release(inserted);
        between_steps();
        // I4. Sequentially consistent against the flusher's marking of `stalled`.
        mine.start.swap(0, Ordering::SeqCst);
        between_steps();
        if control.hints.stalled.load(Ordering::SeqCst) != 0 {
            self.end_stall();
        }
        let bytes = inserted.end.bytes_since(wal_page::pos_to_end_lsn(pos));
        self.inner.stats.add(slot, Counter::WalRecords, 1);
        self.inner.stats.add(slot, Counter::WalBytes, bytes);
        inserted
    }

    #[inline]
    fn own_slot(&self, slot: SlotNo) -> &InsertSlot {
        let used = &self.control().hints.slots_used;
        if used.load(Ordering::Relaxed) as usize <= slot.index() {
            // Before I2, so that P1 acquires it too.
            used.fetch_max(slot.index() as u32 + 1, Ordering::SeqCst);
        }
        let mine = &self.inner.slots[slot.index()];
        let free = mine.start.load(Ordering::Relaxed) == 0;
        assert!(
            free,
            "process slot {} inserts two records at a time",
            slot.index()
        );
        mine
    }

    /// I3 for a record that does not fit the ring as it is now: piece by piece, as the flusher
    /// makes room.
    #[cold]
    fn copy_waiting(&self, mine: &InsertSlot, pos: u64, bytes: &[u8], end_pos: u64) {
        // The bound of I1 may lie below what others, which we may be going to wait for, reserved
        // since: the flusher must be able to write that.
        mine.start.store(pos, Ordering::Release);
        let mut at_pos = pos;
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = self.wait_for_ring(at_pos) - at_pos;
            let take = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (piece, after) = rest.split_at(take);
            self.inner.ring.copy(at_pos, piece, pos, end_pos);
            rest = after;
            at_pos += piece.len() as u64;
            mine.copied.store(at_pos.min(end_pos), Ordering::Release);
            between_steps();
        }
    }

    /// Sleeps until the ring has room at `pos`; returns the ring's end.
    fn wait_for_ring(&self, pos: u64) -> u64 {
        let control = self.control();
        loop {
            let ticket = control.flushing.ring_room.ticket();
            // Sequentially consistent against the flusher, who raises the end and then looks here.
            control.hints.ring_wanted.store(1, Ordering::SeqCst);
            let end = control.progress.ring_end_pos.load(Ordering::SeqCst);
            if end > pos {
                return end;
            }
            between_steps();
            self.wake_flusher();
            between_steps();
            control.flushing.ring_room.wait(ticket, None);
        }
    }

    #[cold]
    fn end_stall(&self) {
        let control = self.control();
        if control.hints.stalled.swap(0, Ordering::SeqCst) != 0 {
            control.flushing.stall_over.wake_all();
            self.inner.procs.notify(Role::Walwriter);
        }
    }

    /// P1 and P2; raises what is known to be complete.
    pub(super) fn prefix(&self) -> Prefix {
        let control = self.control();
        let insert_pos = control.positions.insert_pos.load(Ordering::SeqCst);
        let mut complete_pos = insert_pos;
        let mut copied_pos = insert_pos;
        let used = control.hints.slots_used.load(Ordering::SeqCst) as usize;
        for slot in &self.inner.slots[..used] {
            let start = slot.start.load(Ordering::Acquire);
            if start != 0 {
                complete_pos = complete_pos.min(start);
                // Also right if `copied` is of another record than `start`: of the older one, then
                // it is below `start`; or of the newer, then the older is complete.
                copied_pos = copied_pos.min(start.max(slot.copied.load(Ordering::Acquire)));
            }
        }
        let complete_pos = control.flushing.target.raise_complete(complete_pos);
        Prefix {
            complete_pos,
            copied_pos: copied_pos.max(complete_pos),
        }
    }
}
