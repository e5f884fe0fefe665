//! Forcing relation files to disk, beside the supply of clean frames: by a thread of the
//! checkpointer, or in place in a simulation.
//!
//! A failed sync says nothing of what is on disk, so it is never tried again: the process ends,
//! and recovery writes everything anew.

use crate::Checkpointer;
use crate::unsynced::{Piece, SyncJob};
use rd_base::counters::Counter;
use rd_base::{BatchNo, FileNo};
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

impl SyncTally {
    /// Both together.
    pub fn with(&self, other: &SyncTally) -> SyncTally {
        SyncTally {
            pieces: self.pieces + other.pieces,
            longest_us: self.longest_us.max(other.longest_us),
            total_us: self.total_us + other.total_us,
        }
    }
}

impl Checkpointer {
    /// Has everything synced that was written so far.
    pub(crate) fn begin_syncs(&mut self) {
        self.begin_syncs_of(None);
    }

    fn begin_syncs_of(&mut self, file: Option<FileNo>) {
        for job in self.unsynced.begin(file) {
            self.syncs.give(job);
        }
    }

    /// Takes note of what the workers have done.
    pub(crate) fn absorb(&mut self) {
        while let Some(synced) = self.syncs.answer() {
            let pages = self.unsynced.finish(synced.piece);
            self.sync_time.learn(pages, synced.micros);
            self.store.count(Counter::FileSyncs);
            self.store.add(Counter::FileSyncMicros, synced.micros);
            self.sync_tally.pieces += 1;
            self.sync_tally.total_us += synced.micros;
            self.sync_tally.longest_us = self.sync_tally.longest_us.max(synced.micros);
            self.show_sync_left();
        }
        self.absorb_growth();
        let first = self.first_unsynced_batch();
        if let Some(area) = &mut self.area {
            area.release_before(first);
        }
    }

    /// Shows how long the full checkpoint under way will need for syncing what was written, and the
    /// headers that it will write.
    pub(crate) fn show_sync_left(&self) {
        if self.progress.is_some() {
            let headers = self.touched.iter().map(|_| 1);
            let left_us = self
                .sync_time
                .expected_us(self.unsynced.pages().chain(headers));
            let now_us = self.store.clock.wall_us();
            self.store.shared.checkpoint.set_sync_left(left_us, now_us);
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
        self.sync(None);
    }

    /// As [`Checkpointer::sync_all`], what was written to `file`.
    pub(crate) fn sync_file(&mut self, file: FileNo) {
        self.sync(Some(file));
    }

    /// As [`Checkpointer::sync_all`], of `file` alone if one is given, with nothing repaired
    /// meanwhile: what was written in its place after the sync began would be in the system's cache
    /// alone when it has ended.
    pub(crate) fn sync_undisturbed(&mut self, file: Option<FileNo>) {
        self.scrub.is_held = true;
        self.sync(file);
        self.scrub.is_held = false;
    }

    fn sync(&mut self, file: Option<FileNo>) {
        // Nobody needs suggestions any more, and their descriptors would keep the room of files that
        // are dropped next.
        self.writeback.clear();
        let cycle = self.unsynced.begin_cycle();
        loop {
            self.begin_syncs_of(file);
            self.absorb();
            if self.unsynced.is_synced_before(cycle, file) {
                return;
            }
            self.supply();
            if self.syncs.is_busy() {
                self.wait_for_workers();
            }
        }
    }
}
