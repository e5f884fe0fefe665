//! Forcing relation files to disk, beside the supply of clean frames: by a thread of the
//! checkpointer, or in place in a simulation.
//!
//! A failed sync says nothing of what is on disk, so it is never tried again: the process ends,
//! and recovery writes everything anew.

use crate::Checkpointer;
use crate::unsynced::{Piece, SyncJob};
use rd_base::BatchNo;
use rd_base::counters::Counter;
use rd_store::relation::{self, RelationFiles};
use rd_sys::clock::Clock;
use std::sync::Arc;

/// A sync that is done.
pub struct Synced {
    /// Which piece.
    pub piece: Piece,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// The work of the sync thread.
pub fn work(relations: Arc<RelationFiles>, clock: Clock) -> impl FnMut(SyncJob) -> Synced {
    move |job| {
        let began_ns = clock.monotonic_ns();
        let (file, piece) = job.piece;
        for descriptor in &job.descriptors {
            relations.sync(&**descriptor, &relation::path(file, piece));
        }
        Synced {
            piece: job.piece,
            micros: (clock.monotonic_ns() - began_ns) / 1000,
        }
    }
}

/// What syncing has cost since this was last reset.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncTally {
    /// Pieces synced.
    pub pieces: u64,
    /// The longest sync, in microseconds.
    pub longest_us: u64,
    /// All of them, in microseconds.
    pub total_us: u64,
}

impl Checkpointer {
    /// Has everything synced that was written so far.
    pub(crate) fn begin_syncs(&mut self) {
        for job in self.unsynced.begin_all() {
            self.syncs.give(job);
        }
    }

    /// Takes note of what the workers have done.
    pub(crate) fn absorb(&mut self) {
        while let Some(synced) = self.syncs.answer() {
            self.unsynced.finish(synced.piece);
            self.store.count(Counter::FileSyncs);
            self.store.add(Counter::FileSyncMicros, synced.micros);
            self.sync_tally.pieces += 1;
            self.sync_tally.total_us += synced.micros;
            self.sync_tally.longest_us = self.sync_tally.longest_us.max(synced.micros);
        }
        self.absorb_growth();
        let first = self.first_unsynced_batch();
        if let Some(area) = &mut self.area {
            area.release_before(first);
        }
    }

    /// The first double-write batch whose pages' files are not known to be synced.
    pub(crate) fn first_unsynced_batch(&self) -> BatchNo {
        let next = match (&self.area, &self.control) {
            (Some(area), _) => area.next(),
            (None, Some(control)) => control.newest().first_unsynced_batch,
            (None, None) => BatchNo::default(),
        };
        let held = [self.unsynced.first_batch(), self.batch.journaled()];
        held.into_iter().flatten().fold(next, BatchNo::min)
    }

    /// Syncs everything that was written so far, and waits for it; supplies clean frames
    /// meanwhile.
    pub(crate) fn sync_all(&mut self) {
        let cycle = self.unsynced.begin_cycle();
        loop {
            self.begin_syncs();
            self.absorb();
            if self.unsynced.is_synced_before(cycle) {
                return;
            }
            self.supply();
            if self.syncs.is_busy() {
                self.wait_for_workers();
            }
        }
    }
}
