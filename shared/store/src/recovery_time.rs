//! How long recovery would take: an estimate from speeds that were measured here, and corrected by
//! every recovery that there really was.
//!
//! A start that recovers takes a fixed part (starting processes, repairing, opening), a part for
//! each byte of log from the redo point on, and a part for each page that redo has to bring in.
//! The speeds are kept in `pg_control`; before the first recovery they are guesses on the safe
//! side. Pure functions of numbers.

use rd_format::control::ControlFile;
use rd_format::history::RecoveryRow;
use std::time::Duration;

/// Guess for a start's fixed part, microseconds.
const FIXED_US: f64 = 300_000.0;
/// Guess for bytes of log redone in a second: a third of what one worker does on a processor of
/// 2023. One that is too low costs a new server page writes without need.
const BYTES_PER_S: f64 = 100e6;
/// Guess for pages brought in by redo in a second.
const PAGES_PER_S: f64 = 25e3;
/// A recovery of less log than this says nothing of the speeds.
const TELLING_BYTES: u64 = 1 << 20;
/// A recovery of this much log counts for half of [`WEIGHT_MAX`] when there were others before it.
const HALF_WEIGHT_BYTES: f64 = (16 << 20) as f64;
/// What a long recovery counts for beside all before it. Recoveries of one log on one machine
/// differ by a fifth, so the last one alone foretells the next worse than a few do.
const WEIGHT_MAX: f64 = 0.6;
/// Least bytes of log that name another page.
const PAGE_LOG_BYTES_MIN: u64 = 64;
/// No single recovery changes a speed by more than this factor, once one is known.
const CORRECTION_MAX: f64 = 4.0;

/// The part of `recovery_time_target` that is aimed at. The rest is for what the estimate does not
/// know: one recovery in some ten takes a quarter longer than was foretold.
pub const AIM: f64 = 0.75;

/// How much log may lie behind the oldest dirty page, where `allowed_bytes` may lie behind the redo
/// point, which follows it `lag` later, while `wal_bytes_per_s` come.
pub fn keep_bytes(allowed_bytes: u64, wal_bytes_per_s: f64, lag: Duration) -> u64 {
    let comes_bytes = (wal_bytes_per_s * lag.as_secs_f64()) as u64;
    // With too little room for the lag everything goes out soon; a quarter is left, so that a page
    // that is changed all the time is not written all the time.
    allowed_bytes
        .saturating_sub(comes_bytes)
        .max(allowed_bytes / 4)
}

/// The work that a recovery would find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedoWork {
    /// Bytes of log from the redo point to the end.
    pub bytes: u64,
    /// Pages to be brought in: those that the log names, and those that the double-write area
    /// writes back.
    pub pages: u64,
}

impl RedoWork {
    /// What a recovery that finds `bytes` of log should find to do, after what the server that wrote
    /// `control` saw last.
    pub fn expected(control: &ControlFile, bytes: u64) -> RedoWork {
        // More log than it had seen brings as many more pages.
        let seen = control.estimated_redo_bytes.max(1);
        let pages = u128::from(control.estimated_redo_pages) * u128::from(bytes.max(seen))
            / u128::from(seen);
        // No more than there can be in so much log.
        let most = control
            .estimated_redo_pages
            .saturating_add(bytes / PAGE_LOG_BYTES_MIN);
        let pages = u64::try_from(pages).unwrap_or(u64::MAX).min(most);
        RedoWork { bytes, pages }
    }
}

/// How long a start took from its begin to its end, each told by the wall clock, microseconds, and by the
/// monotonic one, nanoseconds. The wall clock may have been set meanwhile, as machines do when they
/// have just started; what that adds must not pass for a part that every start has.
pub fn start_us(begin: (u64, u64), end: (u64, u64)) -> u64 {
    let by_wall_us = end.0.saturating_sub(begin.0);
    by_wall_us.min(end.1.saturating_sub(begin.1) / 1000)
}

/// How fast recovery is here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// The part that there always is, microseconds.
    pub fixed_us: f64,
    /// Bytes of log redone in a second, but for bringing pages in.
    pub bytes_per_s: f64,
    /// Pages brought in in a second.
    pub pages_per_s: f64,
    /// Whether a recovery has shown the two.
    pub is_measured: bool,
}

/// What a recovery really took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// What it found to do.
    pub work: RedoWork,
    /// From the making of shared memory until clients were served, microseconds.
    pub total_us: u64,
    /// The part of it that reading and applying the log took.
    pub redo_us: u64,
}

impl Measured {
    /// As it is remembered.
    pub fn of(row: &RecoveryRow) -> Measured {
        Measured {
            work: RedoWork {
                bytes: row.redo_bytes,
                pages: row.pages_read,
            },
            total_us: row.actual_us,
            redo_us: row.redo_us,
        }
    }
}

impl Speeds {
    /// What is known so far.
    pub fn of(control: &ControlFile) -> Speeds {
        let known = |value: u64, guess: f64| if value == 0 { guess } else { value as f64 };
        Speeds {
            fixed_us: known(control.recovery_fixed_us, FIXED_US),
            bytes_per_s: known(control.redo_bytes_per_s, BYTES_PER_S),
            pages_per_s: known(control.redo_pages_per_s, PAGES_PER_S),
            is_measured: control.redo_bytes_per_s != 0,
        }
    }

    /// Puts what is known into `control`.
    pub fn store(&self, control: &mut ControlFile) {
        let whole = |value: f64| (value as u64).max(1);
        control.recovery_fixed_us = whole(self.fixed_us);
        if self.is_measured {
            control.redo_bytes_per_s = whole(self.bytes_per_s);
            control.redo_pages_per_s = whole(self.pages_per_s);
        }
    }

    /// How long recovery would take, microseconds.
    pub fn estimate_us(&self, work: RedoWork) -> u64 {
        (self.fixed_us + self.redo_us(work)) as u64
    }

    fn redo_us(&self, work: RedoWork) -> f64 {
        1e6 * (work.bytes as f64 / self.bytes_per_s + work.pages as f64 / self.pages_per_s)
    }

    /// How many bytes of log may lie behind the redo point for recovery to stay within
    /// `target_us`, if each byte brings `pages_per_byte` pages along. 0 if the fixed part alone
    /// takes longer.
    pub fn bytes_within(&self, target_us: f64, pages_per_byte: f64) -> u64 {
        let per_byte_us = 1e6 * (1.0 / self.bytes_per_s + pages_per_byte / self.pages_per_s);
        ((target_us - self.fixed_us).max(0.0) / per_byte_us) as u64
    }

    /// The speeds after a recovery that took what `measured` says. Both speeds are changed by one
    /// factor, since one duration cannot tell them apart; a short recovery changes little.
    #[must_use]
    pub fn corrected(&self, measured: &Measured) -> Speeds {
        let mut next = *self;
        let fixed_us = measured.total_us.saturating_sub(measured.redo_us) as f64;
        let is_first = !self.is_measured;
        next.fixed_us = if is_first {
            fixed_us
        } else {
            (self.fixed_us + fixed_us) / 2.0
        };
        if measured.work.bytes < TELLING_BYTES || measured.redo_us == 0 {
            return next;
        }
        let slower = measured.redo_us as f64 / self.redo_us(measured.work).max(1.0);
        let factor = if is_first {
            slower
        } else {
            let bytes = measured.work.bytes as f64;
            let weight = WEIGHT_MAX * bytes / (bytes + HALF_WEIGHT_BYTES);
            slower
                .powf(weight)
                .clamp(1.0 / CORRECTION_MAX, CORRECTION_MAX)
        };
        next.bytes_per_s = (self.bytes_per_s / factor).max(1.0);
        next.pages_per_s = (self.pages_per_s / factor).max(1.0);
        next.is_measured = true;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::Lsn;

    fn guessed() -> Speeds {
        Speeds::of(&ControlFile::initial(1, 16 << 20, Lsn::new(1 << 24)))
    }

    /// A server that really has these speeds.
    fn recovery(real: &Speeds, work: RedoWork) -> Measured {
        let total_us = real.estimate_us(work);
        Measured {
            work,
            total_us,
            redo_us: total_us - real.fixed_us as u64,
        }
    }

    #[test]
    fn a_few_recoveries_teach_the_speeds() {
        let real = Speeds {
            fixed_us: 120_000.0,
            bytes_per_s: 110e6,
            pages_per_s: 80e3,
            is_measured: true,
        };
        let mut known = guessed();
        for round in 1..=6u64 {
            let work = RedoWork {
                bytes: round * (20 << 20),
                pages: round * 900,
            };
            known = known.corrected(&recovery(&real, work));
        }
        for bytes in [10 << 20, 100 << 20, 500 << 20] {
            let work = RedoWork {
                bytes,
                pages: bytes / 20_000,
            };
            let ratio = known.estimate_us(work) as f64 / real.estimate_us(work) as f64;
            assert!((0.8..1.25).contains(&ratio), "{ratio} at {bytes}");
        }
    }

    /// On machines that are far from the guesses, with recoveries that differ in length, in how many
    /// pages their log names, and by a fifth in speed.
    #[test]
    fn from_the_second_recovery_on_predictions_are_near() {
        for (bytes_per_s, pages_per_s) in
            [(200e6, 60e3), (80e6, 60e3), (250e6, 12e3), (60e6, 100e3)]
        {
            let real = Speeds {
                fixed_us: 200_000.0,
                bytes_per_s,
                pages_per_s,
                is_measured: true,
            };
            let mut known = guessed();
            let mut off = Vec::new();
            for round in 0..21 {
                let bytes = (20 + round * 37 % 100) << 20;
                let pages = (60e3 * (1.0 - (-(bytes as f64) / 110e6).exp())) as u64;
                let work = RedoWork { bytes, pages };
                let mut measured = recovery(&real, work);
                let slower = [1.2, 0.9, 1.0, 0.85, 1.1][round as usize % 5];
                measured.redo_us = (measured.redo_us as f64 * slower) as u64;
                measured.total_us = measured.redo_us + real.fixed_us as u64;
                let ratio = known.estimate_us(work) as f64 / measured.total_us as f64;
                off.push(ratio.max(1.0 / ratio) - 1.0);
                known = known.corrected(&measured);
            }
            let mut rest = off.split_off(1);
            rest.sort_by(f64::total_cmp);
            let (middle, last) = (rest[rest.len() / 2], rest[rest.len() - 1]);
            assert!(middle < 0.2 && last < 0.6, "{off:?}, then {rest:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_meanwhile_does_not_prolong_a_start() {
        let hour_us = 3_600_000_000;
        let begin = (7 * hour_us, 5_000);
        assert_eq!(start_us(begin, (7 * hour_us + 250, 255_000)), 250);
        assert_eq!(start_us(begin, (8 * hour_us + 250, 255_000)), 250);
        assert_eq!(start_us(begin, (6 * hour_us + 250, 255_000)), 0);
    }

    #[test]
    fn one_odd_recovery_does_not_undo_what_many_have_shown() {
        let mut known = guessed();
        let work = RedoWork {
            bytes: 100 << 20,
            pages: 0,
        };
        known.is_measured = true;
        let mut odd = recovery(&known, work);
        odd.redo_us *= 1000;
        odd.total_us += odd.redo_us;
        let after = known.corrected(&odd);
        assert_eq!(after.bytes_per_s, known.bytes_per_s / CORRECTION_MAX);
        let short = Measured {
            work: RedoWork::default(),
            total_us: 50_000,
            redo_us: 40_000,
        };
        assert_eq!(known.corrected(&short).bytes_per_s, known.bytes_per_s);
    }

    #[test]
    fn the_log_that_is_allowed_takes_the_time_that_was_asked_for() {
        let speeds = guessed();
        let pages_per_byte = 1.0 / 5000.0;
        let bytes = speeds.bytes_within(5e6, pages_per_byte);
        let pages = (bytes as f64 * pages_per_byte) as u64;
        let took = speeds.estimate_us(RedoWork { bytes, pages });
        assert!((4_999_000..=5_000_000).contains(&took), "{took}");
        assert_eq!(speeds.bytes_within(200_000.0, pages_per_byte), 0);
    }

    #[test]
    fn what_is_known_survives_in_pg_control() {
        let mut control = ControlFile::initial(1, 16 << 20, Lsn::new(1 << 24));
        let measured = recovery(
            &guessed(),
            RedoWork {
                bytes: 64 << 20,
                pages: 10,
            },
        );
        let known = guessed().corrected(&measured);
        known.store(&mut control);
        let again = Speeds::of(&control);
        assert!(again.is_measured);
        assert!((again.bytes_per_s / known.bytes_per_s - 1.0).abs() < 1e-6);
    }
}
