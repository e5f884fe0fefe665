//! `pg_control` in the checkpointer's hands, from the handover on.
//!
//! Invariants:
//! - Its redo point never lies above a change that is not in its file.
//! - A write that fails ends the process: nobody knows what is in that slot.
//! - Whatever moves the redo point writes both slots, so that no file's header is ahead of either
//!   by more than the advance under way. A heartbeat that only takes up the durable LSN, the
//!   state, or the first unsynced batch writes one.

use rd_base::{BatchNo, FileNo, Lsn, StartCount};
use rd_format::control::{
    ControlFile, DbState, FileRow, PROTECTION_BYPASSED, PROTECTION_DOUBLE_WRITE, PendingDrop,
};
use rd_store::checkpoint::{EndOfLog, Flags};
use rd_store::control_file::{CONTROL_PATH, ControlFileError, ControlStore};
use rd_store::recovery_time::{Measured, RedoWork, Speeds};
use rd_sys::crash::panic_abort;
use rd_sys::storage::Storage;

/// What every write of `pg_control` takes up.
pub struct Now {
    /// The wall clock, microseconds since 1970.
    pub now_us: u64,
    /// The log is synced to here; none while it is not written.
    pub durable_lsn: Option<Lsn>,
    /// The count of this start.
    pub start_count: StartCount,
    /// Where the log ended at this start; none before that is known.
    pub log_end: Option<EndOfLog>,
    /// Whether clients are served.
    pub is_running: bool,
    /// The first double-write batch not known to be synced.
    pub first_unsynced_batch: BatchNo,
    /// The next relation file's number.
    pub next_file: FileNo,
    /// Files whose drop is durable, and that are not unlinked.
    pub pending_drops: Vec<PendingDrop>,
    /// How long recovery would take, and what was counted for it.
    pub estimate: Estimate,
}

/// An estimate of the time that recovery would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// What it would find to do.
    pub work: RedoWork,
    /// Microseconds.
    pub us: u64,
}

/// What an advance of the redo point puts into `pg_control`.
pub struct Advance {
    /// The redo point.
    pub redo_lsn: Lsn,
    /// If a full checkpoint brings it: the start of its record, its kinds and causes.
    pub full: Option<(Lsn, Flags)>,
    /// A row for each file that redo can meet, with its keys as of `keys_lsn`.
    pub files: Vec<FileRow>,
    /// See [`ControlFile::keys_lsn`].
    pub keys_lsn: Lsn,
    /// Whether pages are written by way of the double-write area.
    pub is_double_written: bool,
    /// Whether the log is still being redone.
    pub is_in_redo: bool,
}

/// The open control file.
pub struct Control {
    slots: ControlStore,
    speeds: Speeds,
    /// The last recovery of this start: how long it took and was expected to take, milliseconds.
    recovered: Option<(u64, u64)>,
}

impl Control {
    /// Opens the file as startup has left it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn take_over(storage: &dyn Storage) -> Result<Control, ControlFileError> {
        let slots = ControlStore::open(storage)?;
        Ok(Control {
            speeds: Speeds::of(slots.newest()),
            slots,
            recovered: None,
        })
    }

    /// How fast recovery is here.
    pub fn speeds(&self) -> &Speeds {
        &self.speeds
    }

    /// Learns from the recovery of this start.
    pub fn learn(&mut self, measured: &Measured, predicted_us: u64) {
        self.speeds = self.speeds.corrected(measured);
        self.recovered = Some((measured.total_us / 1000, predicted_us / 1000));
    }

    /// The newest content.
    pub fn newest(&self) -> &ControlFile {
        self.slots.newest()
    }

    /// The least redo point of both slots: log from here on must be kept.
    pub fn oldest_redo(&self) -> Lsn {
        self.slots.oldest_redo()
    }

    /// Whether the newest slot has a row for `file`.
    pub fn has_row(&self, file: FileNo) -> bool {
        has_row(self.newest(), file)
    }

    /// Whether any slot has a row for `file`.
    pub fn names(&self, file: FileNo) -> bool {
        self.has_row(file) || self.slots.other().is_some_and(|other| has_row(other, file))
    }

    /// The number of the next advance of the redo point, or checkpoint of a single file. It stays
    /// the same until one has succeeded, so that no file's header gets ahead by more than one.
    pub fn next_count(&self) -> u64 {
        self.newest().checkpoint_count + 1
    }

    /// The start count of the last record before `lsn`, or one that is not higher if `lsn` lies
    /// before the end of the log as it was at this start.
    fn predecessor_count(&self, lsn: Lsn, now: &Now) -> StartCount {
        match now.log_end {
            Some(end) if lsn > end.lsn => now.start_count,
            Some(end) if lsn == end.lsn => end.last_count,
            _ => self.newest().redo_predecessor_count,
        }
    }

    /// The newest content with what is known now, for either kind of write.
    fn renewed(&self, now: &Now) -> ControlFile {
        let mut next = self.newest().clone();
        if let Some(durable) = now.durable_lsn.filter(|lsn| *lsn > next.durable_lsn) {
            next.durable_predecessor_count = self.predecessor_count(durable, now);
            next.durable_lsn = durable;
        }
        let says_so = matches!(next.state, DbState::InProduction | DbState::ShuttingDown);
        if now.is_running && !says_so {
            next.state = DbState::InProduction;
            next.unfinished_starts = 0;
        }
        let written = next.files.iter_mut().filter(|row| !row.is_closed());
        written.for_each(|row| row.stop_scn = Lsn::ZERO);
        next.first_unsynced_batch = now.first_unsynced_batch;
        next.next_file = next.next_file.max(now.next_file);
        next.pending_drops = now.pending_drops.clone();
        // During redo there is no new estimate.
        if now.durable_lsn.is_some() {
            next.estimated_recovery_ms = now.estimate.us / 1000;
            next.estimated_redo_bytes = now.estimate.work.bytes;
            next.estimated_redo_pages = now.estimate.work.pages;
        }
        if let Some((took_ms, predicted_ms)) = self.recovered {
            self.speeds.store(&mut next);
            next.last_recovery_ms = took_ms;
            next.last_recovery_estimate_ms = predicted_ms;
        }
        next
    }

    /// Whether a heartbeat has something to say, or one of the slots has not heard it yet.
    pub fn needs_heartbeat(&self, now: &Now) -> bool {
        !self.slots.slots_agree() || self.renewed(now) != *self.newest()
    }

    /// Takes up the durable LSN between two checkpoints, in one slot.
    pub fn beat(&mut self, now: &Now) {
        let next = self.renewed(now);
        self.write(next, now);
    }

    /// Says that the server is stopping.
    pub fn begin_shutdown(&mut self, now: &Now) {
        let next = ControlFile {
            state: DbState::ShuttingDown,
            ..self.renewed(now)
        };
        self.write(next, now);
    }

    /// Says that from now on pages are written by way of the double-write area, whose next batch
    /// `now` names, before the first one is. After a crash (`was_clean` is false) pages that were
    /// written without may still be in the kernel's cache only, and the area has no copies of them.
    pub fn take_up_double_write(&mut self, now: &Now, was_clean: bool) {
        let bypassed = if was_clean { 0 } else { PROTECTION_BYPASSED };
        let next = ControlFile {
            protection: PROTECTION_DOUBLE_WRITE | bypassed,
            ..self.renewed(now)
        };
        self.write_both(next, now);
    }

    /// Says that from now on pages are written without the double-write area, before the first
    /// one is.
    pub fn give_up_double_write(&mut self, now: &Now) {
        let next = ControlFile {
            protection: 0,
            ..self.renewed(now)
        };
        self.write_both(next, now);
    }

    /// Moves the redo point, in both slots, one after the other.
    pub fn advance(&mut self, now: &Now, advance: Advance) {
        let mut next = self.renewed(now);
        let redo = advance.redo_lsn;
        assert!(
            redo >= next.redo_lsn,
            "the redo point goes from {} to {redo}",
            next.redo_lsn
        );
        next.redo_predecessor_count = self.predecessor_count(redo, now);
        next.previous_redo_lsn = next.redo_lsn;
        next.redo_lsn = redo;
        next.checkpoint_count = self.next_count();
        if next.durable_lsn < redo {
            next.durable_lsn = redo;
            next.durable_predecessor_count = next.redo_predecessor_count;
        }
        // All that was written without the area is synced, or the redo point is below it; but not
        // what redo has not met yet.
        if !advance.is_in_redo {
            next.protection = if advance.is_double_written {
                PROTECTION_DOUBLE_WRITE
            } else {
                0
            };
        }
        next.files = advance.files;
        next.keys_lsn = advance.keys_lsn;
        match advance.full {
            None => next.incremental_us = now.now_us,
            Some((checkpoint_lsn, flags)) => {
                next.previous_checkpoint_lsn = next.checkpoint_lsn;
                next.checkpoint_lsn = checkpoint_lsn;
                next.checkpoint_us = now.now_us;
                next.checkpoint_flags = flags.bits();
                if flags.has(Flags::SHUTDOWN) {
                    next.state = DbState::ShutDown;
                }
            }
        }
        self.write_both(next, now);
    }

    /// Takes up that a single file was covered by the checkpoint with the next number; the redo point
    /// stays.
    pub fn cover(&mut self, now: &Now, files: Vec<FileRow>, keys_lsn: Lsn) {
        let next = ControlFile {
            checkpoint_count: self.next_count(),
            files,
            keys_lsn,
            ..self.renewed(now)
        };
        self.write_both(next, now);
    }

    fn write(&mut self, next: ControlFile, now: &Now) {
        if let Err(error) = self.slots.write(next, now.now_us) {
            give_up(&error);
        }
    }

    fn write_both(&mut self, next: ControlFile, now: &Now) {
        if let Err(error) = self.slots.write_both(next, now.now_us) {
            give_up(&error);
        }
    }
}

fn has_row(control: &ControlFile, file: FileNo) -> bool {
    control
        .files
        .binary_search_by_key(&file, |row| row.file)
        .is_ok()
}

fn give_up(error: &std::io::Error) -> ! {
    panic_abort(&format!("could not write \"{CONTROL_PATH}\": {error}"))
}
