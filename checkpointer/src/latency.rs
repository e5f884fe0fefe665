//! Whether commits suffer: how long a flush of the log takes now, against what it took of late while
//! no pages were written. A commit waits for the flush that follows it, so what the writing of pages
//! takes from the disk shows here. Pure functions of numbers.

use crate::pacing::smoothed;
use rd_store::stats::Flushes;

/// Over how long a flush's time is smoothed, seconds.
const NOW_S: f64 = 0.5;
/// Over how long it is smoothed where it stands for what is usual.
const USUAL_S: f64 = 30.0;
/// Commits suffer when a flush takes so many times what is usual, and so many microseconds more.
const FACTOR: f64 = 1.5;
const EXCESS_US: f64 = 200.0;

/// Follows how long flushes take.
#[derive(Debug, Default)]
pub struct Latency {
    /// Flushes when last looked.
    flushes: Flushes,
    /// Smoothed; 0 before there was a flush.
    now_us: f64,
    usual_us: f64,
}

fn towards(before: f64, now: f64, elapsed_s: f64, smooth_s: f64) -> f64 {
    if before == 0.0 {
        return now;
    }
    smoothed(before, now, elapsed_s, smooth_s)
}

impl Latency {
    /// Takes in the flushes so far, `elapsed_s` after the last look; `is_writing`: pages are written.
    pub fn look(&mut self, flushes: Flushes, elapsed_s: f64, is_writing: bool) {
        let new = flushes.since(&self.flushes);
        self.flushes = flushes;
        if new.count == 0 {
            return;
        }
        let each_us = new.micros as f64 / new.count as f64;
        self.now_us = towards(self.now_us, each_us, elapsed_s, NOW_S);
        if !is_writing {
            self.usual_us = towards(self.usual_us, each_us, elapsed_s, USUAL_S);
        }
    }

    /// Whether commits suffer. Not before it is known what is usual.
    pub fn suffers(&self) -> bool {
        self.usual_us > 0.0
            && self.now_us > FACTOR * self.usual_us
            && self.now_us > self.usual_us + EXCESS_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many looks, ten a second, at flushes of so many microseconds each.
    fn looks(latency: &mut Latency, count: u64, each_us: u64, is_writing: bool) {
        for _ in 0..count {
            let before = latency.flushes;
            let flushes = Flushes {
                count: before.count + 100,
                micros: before.micros + 100 * each_us,
            };
            latency.look(flushes, 0.1, is_writing);
        }
    }

    #[test]
    fn commits_suffer_when_flushes_take_longer_while_pages_are_written() {
        let mut latency = Latency::default();
        looks(&mut latency, 100, 400, false);
        assert!(!latency.suffers());
        looks(&mut latency, 20, 500, true);
        assert!(!latency.suffers(), "a little longer");
        looks(&mut latency, 20, 1200, true);
        assert!(latency.suffers());
        looks(&mut latency, 600, 1200, true);
        assert!(latency.suffers(), "it does not become usual by that");
        looks(&mut latency, 20, 400, true);
        assert!(!latency.suffers());
        looks(&mut latency, 900, 1200, false);
        assert!(!latency.suffers(), "a disk that is always so slow");
    }

    #[test]
    fn nothing_is_said_before_something_is_known() {
        let mut latency = Latency::default();
        looks(&mut latency, 20, 1200, true);
        assert!(!latency.suffers());
        latency.look(Flushes::default(), 0.1, false);
        assert!(!latency.suffers(), "counters set to 0");
    }
}
