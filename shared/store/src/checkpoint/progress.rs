//! How far the checkpoint under way has come, and how long it will still take; for display.

use super::Flags;

/// What the checkpointer is doing; for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CheckpointPhase {
    /// No checkpoint is under way.
    Idle = 0,
    /// Pages are written.
    Writing = 1,
    /// Files are forced to disk.
    Syncing = 2,
    /// The checkpoint's record and `pg_control` are written, old log is given up.
    Finishing = 3,
}

impl CheckpointPhase {
    /// The phase with this number.
    pub(super) fn of(number: u32) -> CheckpointPhase {
        match number {
            1 => CheckpointPhase::Writing,
            2 => CheckpointPhase::Syncing,
            3 => CheckpointPhase::Finishing,
            _ => CheckpointPhase::Idle,
        }
    }

    /// The word for people.
    pub fn name(self) -> &'static str {
        match self {
            CheckpointPhase::Idle => "idle",
            CheckpointPhase::Writing => "writing",
            CheckpointPhase::Syncing => "syncing",
            CheckpointPhase::Finishing => "finishing",
        }
    }
}

/// How far the checkpoint under way has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointProgress {
    /// What it does.
    pub phase: CheckpointPhase,
    /// Its kinds and causes; of the last one while none is under way.
    pub flags: Flags,
    /// Wall clock when it began, microseconds since 1970.
    pub began_us: u64,
    /// Pages that it has dealt with.
    pub pages_done: u64,
    /// Pages that it found to be dirty.
    pub pages_total: u64,
    /// How long syncing what was written so far is expected to take, microseconds; none while no
    /// sync has shown how long one takes.
    pub sync_left_us: Option<u64>,
    /// When that was expected, wall clock, microseconds since 1970.
    pub sync_seen_us: u64,
}

impl CheckpointProgress {
    /// How long it will still take, microseconds, if writing goes on as it has gone so far and syncs
    /// take as long as they took; none while that cannot be told, and when a sync takes longer than
    /// all were expected to.
    pub fn eta_us(&self, now_us: u64) -> Option<u64> {
        match self.phase {
            CheckpointPhase::Writing if self.pages_done > 0 => {
                let elapsed_us = now_us.saturating_sub(self.began_us);
                let left = self.pages_total.saturating_sub(self.pages_done);
                let writing_us = elapsed_us as f64 * left as f64 / self.pages_done as f64;
                Some(writing_us as u64 + self.sync_left_us.unwrap_or(0))
            }
            CheckpointPhase::Syncing => {
                let since_us = now_us.saturating_sub(self.sync_seen_us);
                self.sync_left_us?
                    .checked_sub(since_us)
                    .filter(|left| *left > 0)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITING: CheckpointProgress = CheckpointProgress {
        phase: CheckpointPhase::Writing,
        flags: Flags::NONE,
        began_us: 1_000,
        pages_done: 0,
        pages_total: 400,
        sync_left_us: None,
        sync_seen_us: 0,
    };

    #[test]
    fn writing_goes_on_as_it_has_gone_and_syncing_follows() {
        assert_eq!(WRITING.eta_us(2_000), None, "nothing is done");
        let half = CheckpointProgress {
            pages_done: 100,
            ..WRITING
        };
        assert_eq!(half.eta_us(2_000), Some(3_000));
        let syncs = CheckpointProgress {
            sync_left_us: Some(500),
            ..half
        };
        assert_eq!(syncs.eta_us(2_000), Some(3_500));
    }

    #[test]
    fn syncing_ends_when_it_was_expected_to_or_nobody_knows_when() {
        let syncing = CheckpointProgress {
            phase: CheckpointPhase::Syncing,
            pages_done: 400,
            sync_left_us: Some(500),
            sync_seen_us: 9_000,
            ..WRITING
        };
        assert_eq!(syncing.eta_us(9_000), Some(500));
        assert_eq!(syncing.eta_us(9_499), Some(1));
        assert_eq!(syncing.eta_us(9_500), None);
        assert_eq!(syncing.eta_us(10_000), None);
        let unknown = CheckpointProgress {
            sync_left_us: None,
            ..syncing
        };
        assert_eq!(unknown.eta_us(9_000), None);
    }
}
