//! When a checkpoint is due, and how fast it goes. Pure functions of numbers, after PostgreSQL's
//! rules.

use rd_base::Lsn;
use rd_format::wal_page::segment_of;
use rd_store::advice;
use rd_store::buffer::Survey;
pub use rd_store::recovery_time::keep_bytes;
use std::time::Duration;

/// What the parameters say of the pace.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// `checkpoint_timeout`.
    pub timeout: Duration,
    /// `checkpoint_completion_target`.
    pub completion_target: f64,
    /// `max_wal_size`, bytes.
    pub max_wal_bytes: u64,
    /// Bytes of a WAL segment.
    pub segment_bytes: u64,
}

/// How a spread checkpoint keeps to its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Commits do not suffer: it gets ahead, so that there is time to spare.
    Brisk,
    /// Commits suffer: it rests as long as there is time.
    Gentle,
}

impl Mood {
    /// The schedule's length, as a part of what the completion target asks for.
    fn length(self) -> f64 {
        match self {
            Mood::Brisk => 0.85,
            Mood::Gentle => 1.1,
        }
    }
}

impl Pace {
    /// Segments of log from one redo point to the next checkpoint by log size. The log of one
    /// such distance and of the checkpoint that follows it (the completion target's part of a
    /// second one) stay within `max_wal_size` together.
    pub fn wal_segments(&self) -> u64 {
        advice::wal_segments(
            self.max_wal_bytes,
            self.segment_bytes,
            self.completion_target,
        )
    }

    /// Whether the log, which ends at `insert`, has grown so far past the redo point that a
    /// checkpoint is due.
    pub fn is_wal_due(&self, redo: Lsn, insert: Lsn) -> bool {
        let at = |lsn| segment_of(lsn, self.segment_bytes);
        at(insert) >= at(redo) + self.wal_segments()
    }

    /// Whether the checkpoint that has dealt with `done` of `total` pages, `elapsed` after it
    /// began and after `wal_bytes` of log, may rest: by that pace it has written everything when
    /// the completion target's part of the time, and of the log, until the next one has passed, or
    /// `room_bytes` of log, if those are less; a little earlier or later, as the mood is.
    pub fn is_ahead(
        &self,
        done: u64,
        total: u64,
        elapsed: Duration,
        wal_bytes: u64,
        room_bytes: u64,
        mood: Mood,
    ) -> bool {
        if done == 0 {
            return false;
        }
        let progress = done as f64 / total as f64;
        let distance = (self.wal_segments() * self.segment_bytes) as f64;
        let target = (self.completion_target * mood.length()).min(1.0);
        let allowed_bytes = (distance * target).min(room_bytes as f64);
        let allowed_s = self.timeout.as_secs_f64() * target;
        progress * allowed_bytes >= wal_bytes as f64
            && progress * allowed_s >= elapsed.as_secs_f64()
    }

    /// The value of `max_wal_size`, bytes, with which checkpoints by log size that came `apart`
    /// would have come `wanted` apart under the same load.
    pub fn max_wal_bytes_for(&self, apart: Duration, wanted: Duration) -> u64 {
        let factor = wanted.as_secs_f64() / apart.as_secs_f64().max(0.001);
        let bytes = self.max_wal_bytes as f64 * factor.max(1.0);
        // To the next power of two: a load is never so even.
        (bytes as u64)
            .checked_next_power_of_two()
            .unwrap_or(u64::MAX)
    }
}

/// Bytes of log from one redo point to the next, as expected from those before: it follows a
/// rise at once and a fall slowly, because too little recycled log costs more than too much.
pub fn next_estimate(estimate_bytes: u64, distance_bytes: u64) -> u64 {
    if distance_bytes >= estimate_bytes {
        distance_bytes
    } else {
        (0.9 * estimate_bytes as f64 + 0.1 * distance_bytes as f64) as u64
    }
}

/// Over how long the speed of the log is smoothed.
pub const SMOOTH_S: f64 = 2.0;
/// Moments ahead, in seconds, at which incremental writing must not have fallen behind.
const AHEAD_S: [f64; 4] = [1.0, 2.0, 4.0, 8.0];

/// A value that was `before`, `elapsed_s` ago, and `now` since, smoothed over `over_s` seconds.
pub fn smoothed(before: f64, now: f64, elapsed_s: f64, over_s: f64) -> f64 {
    now + (before - now) * (-elapsed_s / over_s).exp()
}

/// How many pages incremental writing must write in a second, oldest first, so that at no moment of
/// those ahead a page is dirty for more than `keep_bytes` of log, if the log, which ends at
/// `insert`, goes on at `wal_bytes_per_s`: the least even speed, so that pages which were dirtied
/// together do not come due together.
pub fn pages_per_s(survey: &Survey, insert: Lsn, wal_bytes_per_s: f64, keep_bytes: u64) -> f64 {
    let due = |seconds: f64| {
        let end = insert
            .get()
            .saturating_add((wal_bytes_per_s * seconds) as u64);
        survey.below(Lsn::new(end.saturating_sub(keep_bytes)).min(insert)) as f64 / seconds
    };
    AHEAD_S.into_iter().map(due).fold(0.0, f64::max)
}

/// How long to wait after the `failures`-th failure in a row: 1 s, doubled each time, up to 30 s.
pub fn back_off(failures: u32) -> Duration {
    let doubled = 1 << failures.saturating_sub(1).min(5);
    Duration::from_secs(doubled).min(Duration::from_secs(30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;
    const ROOM: u64 = u64::MAX;

    fn pace() -> Pace {
        Pace {
            timeout: Duration::from_secs(300),
            completion_target: 0.9,
            max_wal_bytes: 1024 * MB,
            segment_bytes: 16 * MB,
        }
    }

    #[test]
    fn the_distance_is_postgresqls() {
        assert_eq!(pace().wal_segments(), 33);
        assert_eq!(
            Pace {
                completion_target: 0.5,
                ..pace()
            }
            .wal_segments(),
            42
        );
        assert_eq!(
            Pace {
                completion_target: 0.0,
                ..pace()
            }
            .wal_segments(),
            64
        );
        assert_eq!(
            Pace {
                max_wal_bytes: 16 * MB,
                ..pace()
            }
            .wal_segments(),
            1,
            "at least one"
        );
        let redo = Lsn::new(5 * 16 * MB + 77);
        let due = |segment: u64| pace().is_wal_due(redo, Lsn::new(segment * 16 * MB));
        assert!(!due(37) && due(38));
    }

    #[test]
    fn the_log_of_a_checkpoint_at_full_pace_stays_within_its_size() {
        // The trigger's distance, and what comes while the checkpoint is written on schedule.
        for (max_mb, segment_mb, target) in
            [(1024, 16, 0.9), (64, 16, 0.9), (64, 1, 0.5), (48, 16, 1.0)]
        {
            let pace = Pace {
                completion_target: target,
                max_wal_bytes: max_mb * MB,
                segment_bytes: segment_mb * MB,
                ..pace()
            };
            let distance = (pace.wal_segments() * pace.segment_bytes) as f64;
            let most = distance * (1.0 + target);
            assert!(most <= pace.max_wal_bytes as f64, "{most} with {pace:?}");
        }
    }

    #[test]
    fn writing_keeps_up_with_time_and_log_whichever_is_nearer() {
        let pace = pace();
        let wal = |part: f64| (part * (33 * 16 * MB) as f64) as u64;
        let time = |part: f64| Duration::from_secs_f64(part * 300.0);
        assert!(pace.is_ahead(50, 100, time(0.38), wal(0.38), ROOM, Mood::Brisk));
        assert!(
            !pace.is_ahead(50, 100, time(0.39), wal(0.1), ROOM, Mood::Brisk),
            "time is nearer"
        );
        assert!(
            !pace.is_ahead(50, 100, time(0.1), wal(0.39), ROOM, Mood::Brisk),
            "the log is nearer"
        );
        assert!(
            !pace.is_ahead(0, 100, time(0.01), wal(0.0), ROOM, Mood::Brisk),
            "it begins at once"
        );
        assert!(
            !pace.is_ahead(0, 0, time(0.0), 0, ROOM, Mood::Brisk),
            "nothing to write is no reason to rest"
        );
        assert!(
            !pace.is_ahead(100, 100, time(0.91), wal(0.0), ROOM, Mood::Brisk),
            "late"
        );
        assert!(
            pace.is_ahead(50, 100, time(0.49), wal(0.49), ROOM, Mood::Gentle),
            "commits suffer, and there is time"
        );
        assert!(!pace.is_ahead(50, 100, time(0.51), wal(0.51), ROOM, Mood::Gentle));
        assert!(
            !pace.is_ahead(50, 100, time(0.1), wal(0.3), wal(0.5), Mood::Gentle),
            "there is less room"
        );
        assert!(
            !pace.is_ahead(50, 100, time(0.1), 1, 0, Mood::Gentle),
            "there is no room"
        );
    }

    #[test]
    fn a_schedule_is_kept_to_the_end() {
        // Each step writes one page if the schedule asks for it; a tenth of a second passes.
        let pace = Pace {
            timeout: Duration::from_secs(30),
            ..pace()
        };
        let (mut done, total) = (0, 100);
        let mut finished = None;
        for tick in 0..300u64 {
            let elapsed = Duration::from_millis(100 * tick);
            while done < total && !pace.is_ahead(done, total, elapsed, 0, ROOM, Mood::Brisk) {
                done += 1;
            }
            if done == total && finished.is_none() {
                finished = Some(elapsed);
            }
        }
        let finished = finished.expect("it ends in time").as_secs_f64();
        assert!((21.5..=23.1).contains(&finished), "{finished}");
    }

    /// Pages dirtied at these places of the log, `MB` apart from each other.
    fn survey(at: impl Iterator<Item = u64>, until: u64) -> Survey {
        Survey::of(
            Lsn::new(0),
            Lsn::new(until * MB),
            at.map(|place| Lsn::new(place * MB)),
        )
    }

    #[test]
    fn pages_that_were_dirtied_together_go_out_over_the_time_that_is_left() {
        // 4000 pages at 100 MB; the log is at 400 MB, grows by 10 MB/s, and 340 MB may be kept.
        let burst = survey((0..4000).map(|_| 100), 400);
        let insert = Lsn::new(400 * MB);
        let speed = pages_per_s(&burst, insert, 10.0 * MB as f64, 340 * MB);
        assert_eq!(speed, 500.0, "due in 4 to 8 s");
        assert_eq!(
            pages_per_s(&burst, insert, 10.0 * MB as f64, 390 * MB),
            0.0,
            "not due yet"
        );
        let speed = pages_per_s(&burst, insert, 10.0 * MB as f64, 200 * MB);
        assert_eq!(speed, 4000.0, "late");
        assert_eq!(pages_per_s(&burst, insert, 1e9, u64::MAX), 0.0, "no target");
    }

    #[test]
    fn an_even_load_is_written_at_the_speed_at_which_it_comes() {
        // 100 pages in each MB of log, 10 MB of it in a second, all that is older written.
        let even = survey((0..10_000).map(|index| 100 + index / 100), 200);
        let insert = Lsn::new(200 * MB);
        let speed = pages_per_s(&even, insert, 10.0 * MB as f64, 100 * MB);
        assert!((1000.0..=1100.0).contains(&speed), "{speed}");
    }

    #[test]
    fn what_comes_before_the_redo_point_follows_is_allowed_for() {
        let second = Duration::from_secs(1);
        assert_eq!(keep_bytes(100, 30.0, second), 70);
        assert_eq!(keep_bytes(100, 1000.0, second), 25);
        assert_eq!(keep_bytes(u64::MAX, 1e9, second), u64::MAX - 1_000_000_000);
        let steady = (0..100).fold(0.0, |before, _| smoothed(before, 50.0, 0.5, SMOOTH_S));
        assert!((49.9..=50.0).contains(&steady), "{steady}");
    }

    #[test]
    fn estimates_rise_at_once_and_fall_slowly() {
        assert_eq!(next_estimate(100, 500), 500);
        assert_eq!(next_estimate(500, 500), 500);
        assert_eq!(next_estimate(1000, 0), 900);
    }

    #[test]
    fn the_warning_names_a_size_that_helps() {
        let (apart, wanted) = (Duration::from_secs(10), Duration::from_secs(30));
        assert_eq!(pace().max_wal_bytes_for(apart, wanted), 4096 * MB);
        assert!(pace().max_wal_bytes_for(Duration::ZERO, wanted) > 4096 * MB);
    }

    #[test]
    fn failures_are_tried_again_less_and_less_often() {
        let seconds: Vec<u64> = (1..8).map(|n| back_off(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }
}
