//! What the log says of checkpoints: PostgreSQL's numbers, and the cause.

use crate::Checkpointer;
use crate::sync::SyncTally;
use rd_base::Lsn;
use rd_store::checkpoint::{Begun, Flags};
use rd_store::wal::segments::Retired;
use std::fmt;
use std::time::Duration;

/// What a checkpoint has done and cost.
pub struct Outcome {
    pub begun: Begun,
    pub redo: Lsn,
    /// Start of its record.
    pub checkpoint: Lsn,
    /// Pages written.
    pub written: u64,
    /// Time of writing, pauses included.
    pub write_us: u64,
    pub sync_us: u64,
    pub total_us: u64,
    pub syncs: SyncTally,
    pub segments_added: u64,
    pub retired: Retired,
    /// Log since the redo point before.
    pub distance_bytes: u64,
    pub estimate_bytes: u64,
}

/// Microseconds, shown as seconds.
pub struct Seconds(pub u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

impl Outcome {
    /// The line of log, given the number of frames.
    fn line(&self, frames: usize) -> String {
        let share = 100.0 * self.written as f64 / frames as f64;
        let average_us = self.syncs.total_us / self.syncs.pieces.max(1);
        format!(
            "checkpoint complete: {}: wrote {} buffers ({share:.1}%); \
             {} WAL file(s) added, {} removed, {} recycled; \
             write={}, sync={}, total={}; sync files={}, longest={}, average={}; \
             distance={} kB, estimate={} kB; lsn={}, redo lsn={}",
            self.begun,
            self.written,
            self.segments_added,
            self.retired.removed,
            self.retired.recycled,
            Seconds(self.write_us),
            Seconds(self.sync_us),
            Seconds(self.total_us),
            self.syncs.pieces,
            Seconds(self.syncs.longest_us),
            Seconds(average_us),
            self.distance_bytes / 1024,
            self.estimate_bytes / 1024,
            self.checkpoint,
            self.redo,
        )
    }
}

impl Checkpointer {
    /// Says that a checkpoint begins.
    pub(crate) fn report_start(&self, begun: &Begun) {
        if self.store.config.log_checkpoints() {
            log::info!("checkpoint starting: {begun}");
        }
    }

    /// Says what a checkpoint has come to.
    pub(crate) fn report_done(&self, outcome: &Outcome) {
        if self.store.config.log_checkpoints() {
            log::info!("{}", outcome.line(self.store.shared.pool.frame_count()));
        }
    }

    /// Warns if log size makes checkpoints follow each other closer than
    /// `checkpoint_warning`, with the value of `max_wal_size` that would help.
    pub(crate) fn warn_if_too_frequent(&self, flags: Flags) {
        let wanted = self.store.config.checkpoint_warning();
        let apart = Duration::from_nanos(self.now_ns() - self.began_ns);
        // One that failed is tried again for that, and not because more log has come.
        let follows_one = self.failures == 0 && self.store.shared.checkpoint.done() > 0;
        // On a full disk they come for want of room, of which max_wal_size would only take more.
        let follows_one = follows_one && self.store.shared.wal.segments_blocked().is_none();
        if flags.has(Flags::CAUSE_WAL) && follows_one && apart < wanted {
            let helps = self.pace.max_wal_bytes_for(apart, wanted) >> 20;
            log::warn!(
                "checkpoints by log size are only {} s apart (checkpoint_warning = {} s); \
                 max_wal_size = {helps}MB would be enough for this load",
                apart.as_secs(),
                wanted.as_secs(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_postgresqls_numbers_and_the_cause() {
        let outcome = Outcome {
            begun: Begun {
                flags: Flags::CAUSE_TIME,
                requester: None,
                requests: 0,
            },
            redo: Lsn::new(0x1_0000_0028),
            checkpoint: Lsn::new(0x1_0000_0100),
            written: 41,
            write_us: 4_021_999,
            sync_us: 3_000,
            total_us: 4_030_000,
            syncs: SyncTally {
                pieces: 2,
                longest_us: 2_000,
                total_us: 3_000,
            },
            segments_added: 1,
            retired: Retired {
                recycled: 3,
                removed: 2,
            },
            distance_bytes: 2 << 20,
            estimate_bytes: 3 << 20,
        };
        assert_eq!(
            outcome.line(16_384),
            "checkpoint complete: time: wrote 41 buffers (0.3%); 1 WAL file(s) added, 2 removed, \
             3 recycled; write=4.021 s, sync=0.003 s, total=4.030 s; sync files=2, \
             longest=0.002 s, average=0.001 s; distance=2048 kB, estimate=3072 kB; \
             lsn=1/100, redo lsn=1/28"
        );
    }
}
