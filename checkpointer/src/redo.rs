//! The incremental checkpoint while the log is redone, so that a start that is cut off repeats
//! seconds only: again and again, every page that is dirty since before what redo has applied by
//! then is written, and the redo point advances.
//!
//! * Until the end of the log is found, the applied LSN that startup publishes stands for the insert
//!   position: every record below it is in its pages, which are marked dirty (B3, B4); it lies
//!   before a record that is durable.
//! * Startup redoes nothing that is not durable, so no page has to wait for the log (B6).
//! * The start count of the record before the new redo point is not known here. The one before the
//!   old redo point is kept in its place: it is not higher, and a record does follow, so it lets in
//!   nothing that the true one would not.
//! * Pages that redo has not met yet may be in the kernel's cache only if the last server wrote them
//!   without the double-write area; so what `pg_control` says of the area stays.
//!
//! Writing takes from redo what it needs of the machine. A first attempt is left alone for a while:
//! most are over by then. From the second on, writing begins at once, and startup waits where it
//! would get too far ahead of the redo point.

use crate::turn::nanos;
use crate::{Checkpointer, Failure};
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_store::buffer::DirtyFrame;
use std::time::Duration;

/// From the beginning of one advance to that of the next, if it does not take longer.
const EVERY: Duration = Duration::from_millis(500);
/// The same after a start that did not finish: startup waits for it then.
const EVERY_REPEATED: Duration = Duration::from_millis(200);
/// How long the first attempt at a recovery is left alone.
const FIRST_AFTER: Duration = Duration::from_secs(10);
/// How long to wait before pages whose latches were taken are tried again.
const BUSY_NAP: Duration = Duration::from_millis(1);

impl Checkpointer {
    /// Whether the log is being redone, or about to be.
    pub(crate) fn is_redoing(&self) -> bool {
        self.control.is_some() && self.store.shared.checkpoint.end_of_log().is_none()
    }

    /// Advances the redo point during redo, when it is time.
    pub(crate) fn beside_redo(&mut self) {
        if !self.is_redoing() {
            return;
        }
        let now_ns = self.now_ns();
        let control = self.control.as_ref().expect("redo follows the handover");
        let (first, every) = match control.newest().unfinished_starts {
            0 | 1 => (FIRST_AFTER, EVERY),
            _ => (EVERY_REPEATED, EVERY_REPEATED),
        };
        if self.redo_due_ns == 0 {
            self.redo_due_ns = now_ns + nanos(first);
        }
        if now_ns < self.redo_due_ns {
            return;
        }
        self.redo_due_ns = now_ns + nanos(every);
        let applied = self.store.shared.checkpoint.applied_lsn();
        let advanced = self
            .write_dirty_before(applied)
            .and_then(|()| self.advance_redo());
        let checkpoint = &self.store.shared.checkpoint;
        let was_stuck = checkpoint.set_redo_stuck(advanced.is_err());
        match advanced {
            Ok(has_moved) => log::debug!(
                "during recovery, pages dirty since before {applied} were written in {} ms; the redo \
                 point {} {}",
                (self.now_ns() - now_ns) / 1_000_000,
                if has_moved { "is now" } else { "stays at" },
                self.redo,
            ),
            // It comes again soon.
            Err(failure) if was_stuck => {
                log::debug!("still could not advance the redo point during recovery: {failure}");
            }
            Err(failure) => log::error!(
                "could not advance the redo point during recovery: {failure}; recovery goes on \
                 without, and another start would begin at {} again",
                self.redo,
            ),
        }
    }

    /// Writes all pages that are dirty since before `limit`, unless redo comes to its end meanwhile.
    fn write_dirty_before(&mut self, limit: Lsn) -> Result<(), Failure> {
        let cause = Counter::PagesWrittenRecovery;
        let mut dirty: Vec<DirtyFrame> = Vec::new();
        self.finish_batch(cause)?;
        loop {
            dirty.clear();
            self.store.shared.pool.dirty_before(limit, &mut dirty);
            dirty.sort_unstable();
            let mut rest = &dirty[..];
            let mut written = 0;
            while !rest.is_empty() {
                self.supply_beside();
                self.serve_files();
                // While all that is left is latched, no batch does so.
                self.absorb();
                if !self.is_redoing() || self.must_stop() {
                    return Ok(());
                }
                let outcome = self.write_frames(rest, cause)?;
                written += outcome.written;
                rest = &rest[outcome.taken..];
            }
            if dirty.is_empty() {
                return Ok(());
            }
            if written == 0 {
                self.sleep(Some(BUSY_NAP));
            }
        }
    }
}
