//! What other settings would cost under the present load, as Oracle's MTTR advice tells it: page
//! writes per second for each `recovery_time_target` and `max_wal_size`. Pure functions of numbers.
//!
//! The load is described by its working sets (P. J. Denning, "The working set model for program
//! behavior", 1968): how many different pages the last x bytes of log have changed. A page that may
//! stay dirty for x bytes of log is written once for all changes of so much log, so that set is
//! what must be written while x bytes of log come. It is read off the page LSNs of the frames, clean
//! and dirty: a page is in the set of the last x bytes if its LSN lies there.
//!
//! * Incremental writing keeps no page dirty for more than some length of log, which follows from
//!   the target: it writes once what each such length has changed.
//! * A full checkpoint, each time its distance of log has come, writes all that is dirty then: what
//!   the part of such a length that has begun has changed.
//!
//! What is not in it: pages written to keep clean frames in supply, where memory is short; and pages
//! that were changed and have left memory.

use crate::recovery_time::{AIM, RedoWork, Speeds, keep_bytes};
use rd_base::Lsn;
use std::time::Duration;

/// Segments of log from one redo point to the next checkpoint by log size. The log of one such
/// distance and of the checkpoint that follows it (the completion target's part of a second one)
/// stay within `max_wal_size` together.
pub fn wal_segments(max_wal_bytes: u64, segment_bytes: u64, completion_target: f64) -> u64 {
    let segments = (max_wal_bytes / segment_bytes) as f64;
    ((segments / (1.0 + completion_target)) as u64).max(1)
}

/// The present load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Bytes of log that come in a second.
    pub wal_bytes_per_s: f64,
    /// How far back in the log each sampled page was changed last, bytes, ascending.
    ages: Vec<u64>,
    /// For how many pages each sample stands.
    scale: f64,
}

/// Settings that bear on how much is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// `recovery_time_target`; zero is none.
    pub recovery_time_target: Duration,
    /// `max_wal_size`, bytes.
    pub max_wal_bytes: u64,
    /// `checkpoint_timeout`.
    pub checkpoint_timeout: Duration,
    /// `checkpoint_completion_target`.
    pub completion_target: f64,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
    /// How long the redo point stays behind the oldest dirty page.
    pub lag: Duration,
}

/// What settings come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Bytes of log that may lie behind the redo point; `u64::MAX` without a target.
    pub redo_bytes_allowed: u64,
    /// Bytes of log from one full checkpoint to the next.
    pub distance_bytes: f64,
    /// Seconds from one full checkpoint to the next.
    pub distance_s: f64,
    /// Page writes in a second, for both kinds of checkpoints.
    pub pages_per_s: f64,
}

impl Load {
    /// The load that shows in the page LSNs of sampled frames, each of which stands for `scale`
    /// frames, when the log ends at `insert`.
    pub fn of(insert: Lsn, wal_bytes_per_s: f64, page_lsns: &[Lsn], scale: f64) -> Load {
        let ages = page_lsns.iter().filter(|lsn| **lsn > Lsn::ZERO);
        let mut ages: Vec<u64> = ages
            .map(|lsn| insert.get().saturating_sub(lsn.get()))
            .collect();
        ages.sort_unstable();
        Load {
            wal_bytes_per_s,
            ages,
            scale,
        }
    }

    /// How many different pages the last `bytes` of log have changed.
    pub fn pages_within(&self, bytes: f64) -> f64 {
        let count = self.ages.partition_point(|age| (*age as f64) < bytes);
        count as f64 * self.scale
    }

    /// How much log may lie behind the redo point so that recovery stays within `target_us`.
    fn allowed_bytes(&self, speeds: &Speeds, target_us: f64) -> u64 {
        let fits = |bytes: u64| {
            let pages = self.pages_within(bytes as f64) as u64;
            speeds.estimate_us(RedoWork { bytes, pages }) as f64 <= AIM * target_us
        };
        // More log never takes less time.
        let (mut fit, mut too_much) = (0, 1_u64 << 50);
        while too_much - fit > 1 {
            let middle = fit + (too_much - fit) / 2;
            if fits(middle) {
                fit = middle;
            } else {
                too_much = middle;
            }
        }
        fit
    }

    /// What `settings` would cost.
    pub fn cost(&self, speeds: &Speeds, settings: &Settings) -> Cost {
        let per_s = self.wal_bytes_per_s;
        let segments = wal_segments(
            settings.max_wal_bytes,
            settings.segment_bytes,
            settings.completion_target,
        );
        let by_size = (segments * settings.segment_bytes) as f64;
        let timeout_s = settings.checkpoint_timeout.as_secs_f64();
        let distance_bytes = by_size.min(per_s * timeout_s).max(1.0);
        let target_us = settings.recovery_time_target.as_micros() as f64;
        let allowed = if target_us > 0.0 {
            self.allowed_bytes(speeds, target_us)
        } else {
            u64::MAX
        };
        let keep = (keep_bytes(allowed, per_s, settings.lag) as f64).max(1.0);
        // Full checkpoints clean everything, so the lengths begin anew with each.
        let lengths = (distance_bytes / keep).floor();
        let rest = distance_bytes - lengths * keep;
        let pages = lengths * self.pages_within(keep) + self.pages_within(rest);
        Cost {
            redo_bytes_allowed: allowed,
            distance_bytes,
            distance_s: (by_size / per_s.max(f64::MIN_POSITIVE)).min(timeout_s),
            pages_per_s: per_s * pages / distance_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn settings() -> Settings {
        Settings {
            recovery_time_target: Duration::from_secs(10),
            max_wal_bytes: 1024 * MB,
            checkpoint_timeout: Duration::from_secs(300),
            completion_target: 0.9,
            segment_bytes: 16 * MB,
            lag: Duration::from_secs(4),
        }
    }

    fn speeds() -> Speeds {
        Speeds {
            fixed_us: 200_000.0,
            bytes_per_s: 100e6,
            pages_per_s: 25e3,
            is_measured: true,
        }
    }

    /// Ten pages are changed by every MB of log; a thousand others were, each once, over the last
    /// 1000 MB. 10 MB of log come in a second.
    fn load() -> Load {
        let insert = 5000 * MB;
        let hot = (0..10).map(|page| insert - page);
        let cold = (0..1000).map(|page| insert - page * MB - 100);
        let lsns: Vec<Lsn> = hot.chain(cold).map(Lsn::new).collect();
        Load::of(Lsn::new(insert), 10.0 * MB as f64, &lsns, 1.0)
    }

    #[test]
    fn the_working_set_is_read_off_the_page_lsns() {
        let load = load();
        assert_eq!(load.pages_within(MB as f64), 11.0);
        assert_eq!(load.pages_within(100.0 * MB as f64), 110.0);
        let none = Load::of(Lsn::new(5), 0.0, &[], 1.0);
        assert_eq!(none.pages_within(1e12), 0.0);
        let cost = none.cost(&speeds(), &settings());
        assert_eq!((cost.pages_per_s, cost.distance_s), (0.0, 300.0));
    }

    #[test]
    fn a_longer_target_and_a_greater_log_never_cost_more() {
        let load = load();
        let with_target = |seconds| {
            let settings = Settings {
                recovery_time_target: Duration::from_secs(seconds),
                ..settings()
            };
            load.cost(&speeds(), &settings)
        };
        let costs: Vec<Cost> = [1, 2, 5, 10, 60].map(with_target).to_vec();
        for pair in costs.windows(2) {
            assert!(pair[0].pages_per_s >= pair[1].pages_per_s, "{costs:?}");
            assert!(pair[0].redo_bytes_allowed < pair[1].redo_bytes_allowed);
        }
        assert!(
            costs[0].pages_per_s > 1.1 * costs[4].pages_per_s,
            "{costs:?}"
        );
        // 60 s are more than a checkpoint's distance: only full checkpoints write.
        let off = with_target(0);
        assert_eq!(off.redo_bytes_allowed, u64::MAX);
        assert_eq!(off.pages_per_s, costs[4].pages_per_s);
        let distance = 33.0 * 16.0;
        let expected = (10.0 + distance) / distance * 10.0;
        assert!((off.pages_per_s - expected).abs() < 0.1, "{off:?}");
        let with_size = |megabytes| {
            let settings = Settings {
                max_wal_bytes: megabytes * MB,
                recovery_time_target: Duration::ZERO,
                ..settings()
            };
            load.cost(&speeds(), &settings)
        };
        assert!(with_size(64).pages_per_s > with_size(1024).pages_per_s);
        // From here on the clock makes the checkpoints.
        let by_time = with_size(1 << 20);
        assert!((by_time.distance_s - 300.0).abs() < 0.01, "{by_time:?}");
    }

    #[test]
    fn the_log_that_is_allowed_takes_the_time_that_is_aimed_at() {
        let load = load();
        let bytes = load.allowed_bytes(&speeds(), 5e6);
        let pages = load.pages_within(bytes as f64) as u64;
        let us = speeds().estimate_us(RedoWork { bytes, pages });
        let aim = (AIM * 5e6) as u64;
        assert!((aim - 10_000..=aim).contains(&us), "{us}");
        assert_eq!(
            load.allowed_bytes(&speeds(), 100_000.0),
            0,
            "a start takes longer"
        );
    }
}
