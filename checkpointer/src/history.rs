//! What is remembered of each checkpoint and recovery, see `rd_store::history`.
//!
//! A record is written when all is done, by the loop itself: one small sync beside the many of a
//! checkpoint.

use crate::full::Full;
use crate::report::Outcome;
use crate::{Checkpointer, Failure};
use rd_base::limits::PAGE_BYTES;
use rd_base::{Lsn, Role};
use rd_store::checkpoint::{Begun, Requester};
use rd_store::history::{CheckpointRow, HISTORY_PATH, HistoryFile, RecoveryRow, Row, Word};

/// What is known of a checkpoint when it begins.
pub struct Beginning {
    begun: Begun,
    /// Wall clock, microseconds since 1970.
    pub(crate) at_us: u64,
    estimate_us: u64,
    /// For how long commits had been slowed by then.
    slowed_us: u64,
}

impl Checkpointer {
    /// Opens the history and shows what is in it to all.
    pub(crate) fn open_history(&mut self, system_identifier: u64) {
        let (file, remembered) = match HistoryFile::open(&*self.store.storage, system_identifier) {
            Ok(opened) => opened,
            Err(error) => {
                log::warn!("{error}; what happens now will not be remembered");
                return;
            }
        };
        let history = &self.store.shared.history;
        history.load(&remembered.checkpoints);
        history.load(&remembered.recoveries);
        if let Some(first) = remembered.damaged.first() {
            log::warn!(
                "\"{HISTORY_PATH}\": {} records cannot be read and are passed over ({first})",
                remembered.damaged.len()
            );
        }
        self.history = Some(file);
    }

    /// Takes note of what is known when a checkpoint begins.
    pub(crate) fn beginning(&self, begun: Begun) -> Beginning {
        Beginning {
            begun,
            at_us: self.store.clock.wall_us(),
            estimate_us: self.estimate.us,
            slowed_us: self.slowed_us(),
        }
    }

    /// Remembers a checkpoint that is complete.
    pub(crate) fn remember_done(&mut self, beginning: &Beginning, full: &Full, outcome: &Outcome) {
        let row = CheckpointRow {
            redo_lsn: outcome.redo,
            checkpoint_lsn: outcome.checkpoint,
            wal_bytes: outcome.distance_bytes,
            write_us: outcome.write_us,
            sync_us: outcome.sync_us,
            segments_retired: outcome.retired.recycled + outcome.retired.removed,
            ..self.row_of(beginning, full)
        };
        self.remember(&row);
    }

    /// Remembers one that has failed.
    pub(crate) fn remember_failed(
        &mut self,
        beginning: &Beginning,
        full: &Full,
        failure: &Failure,
    ) {
        let row = CheckpointRow {
            error: Some(Word::new(&failure.to_string())),
            ..self.row_of(beginning, full)
        };
        self.remember(&row);
    }

    /// Remembers a recovery.
    pub(crate) fn remember_recovery(&mut self, recovery: RecoveryRow) {
        let number = self.store.shared.history.newest::<RecoveryRow>() + 1;
        self.remember(&RecoveryRow { number, ..recovery });
    }

    /// What there is to say of every full checkpoint that has ended.
    fn row_of(&self, beginning: &Beginning, full: &Full) -> CheckpointRow {
        CheckpointRow {
            pages_found: full.total,
            pages_written: full.written,
            bytes_written: full.written * PAGE_BYTES as u64,
            files_synced: self.sync_tally.pieces,
            longest_sync_us: self.sync_tally.longest_us,
            ..self.row(beginning)
        }
    }

    /// What there is to say of every checkpoint that has ended.
    pub(crate) fn row(&self, beginning: &Beginning) -> CheckpointRow {
        let own = Requester::process(Role::Checkpointer, "");
        CheckpointRow {
            number: self.store.shared.history.newest::<CheckpointRow>() + 1,
            flags: beginning.begun.flags.bits(),
            error: None,
            namespace: None,
            requester: beginning.begun.requester.unwrap_or(own),
            requests: beginning.begun.requests,
            began_us: beginning.at_us,
            ended_us: self.store.clock.wall_us(),
            redo_lsn: self.redo_in_control(),
            checkpoint_lsn: Lsn::ZERO,
            wal_bytes: 0,
            pages_found: 0,
            pages_written: 0,
            bytes_written: 0,
            files_synced: 0,
            write_us: 0,
            sync_us: 0,
            longest_sync_us: 0,
            estimate_before_us: beginning.estimate_us,
            estimate_after_us: self.estimate.us,
            segments_retired: 0,
            commits_slowed_us: self.slowed_us().saturating_sub(beginning.slowed_us),
        }
    }

    pub(crate) fn remember<R: Row>(&mut self, row: &R) {
        self.store.shared.history.put(row);
        let Some(file) = &self.history else { return };
        if let Err(error) = file.write(row) {
            log::warn!("{error}; what happens until the next start will not be remembered");
            self.history = None;
        }
    }
}
