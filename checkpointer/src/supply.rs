//! The supply of clean frames: before everything else that the checkpointer does, and between any
//! two steps of a checkpoint. See "The supply of clean frames" in the buffers' README.

use crate::Checkpointer;
use rd_base::counters::Counter;
use rd_format::doublewrite::DW_BATCH_PAGES_MAX;
use rd_store::buffer::DirtyFrame;
use std::time::Duration;

/// How long the supply rests after the disk has refused a page.
const RETRY: Duration = Duration::from_secs(1);
/// Batches in a row, so that other work gets its turn however great the demand is.
const BATCHES_MAX: u32 = 16;
/// Batches for each batch of a checkpoint that is not ahead of its schedule. What the checkpoint
/// writes becomes clean as well.
const BATCHES_BESIDE: u32 = 2;

impl Checkpointer {
    /// Cleans frames ahead of the clock's hand, as long as there are too few.
    ///
    /// A disk that refuses is reported, and tried again after a pause; whoever waits for a frame
    /// goes on waiting.
    pub(crate) fn supply(&mut self) {
        self.supply_batches(BATCHES_MAX);
    }

    /// As [`Checkpointer::supply`], between two batches of a checkpoint.
    pub(crate) fn supply_beside(&mut self) {
        self.supply_batches(BATCHES_BESIDE);
    }

    fn supply_batches(&mut self, batches_max: u32) {
        self.wants_more_supply = false;
        if self.control.is_none() || self.now_ns() < self.supply_retry_ns {
            return;
        }
        self.supply_retry_ns = 0;
        let mut found: Vec<DirtyFrame> = Vec::new();
        for _ in 0..batches_max {
            self.look_at_brake();
            if !self.store.shared.pool.wants_supply() {
                return;
            }
            found.clear();
            let pool = &self.store.shared.pool;
            let starving = pool.starving();
            let all_seen = pool.plan_supply(DW_BATCH_PAGES_MAX, &mut found);
            found.sort_unstable();
            match self.write_frames(&found, Counter::PagesWrittenSupply) {
                Ok(outcome) => {
                    // Frames that are clean already are supply too.
                    self.store.shared.pool.supplied();
                    // Of a starving server every frame was looked at, and nothing could be done:
                    // whoever holds the pins and latches is to go on first.
                    if all_seen && (!starving || outcome.written == 0) {
                        return;
                    }
                }
                Err(failure) => {
                    log::error!("could not write pages to keep clean frames in supply: {failure}");
                    self.supply_retry_ns = self.now_ns() + RETRY.as_nanos() as u64;
                    return;
                }
            }
        }
        self.wants_more_supply = true;
    }
}
