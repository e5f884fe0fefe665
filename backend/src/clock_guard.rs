//! Whether the wall clock can be trusted, by what deletes keys because their time has come.
//!
//! Whether a key has ended is told by the wall clock, which may be set. What a wrong clock hides
//! comes back when it is set right, unless it was removed. So nothing is removed until the wall
//! clock has gone as evenly as the monotonic one for `expire_clock_settle`: after a start, and
//! after each jump of either direction by more than [`JUMP_US`].

/// The clocks may differ by so much from one look to the next, and by a thousandth of the time in
/// between.
const JUMP_US: u64 = 500_000;

/// A backend's looks at the clocks.
#[derive(Debug, Default)]
pub struct ClockGuard {
    /// Wall clock and monotonic clock at the last look, in microseconds.
    last: Option<(u64, u64)>,
    /// Since when the wall clock has been even, by the monotonic one.
    even_since_us: u64,
}

impl ClockGuard {
    /// Looks at the clocks; true if the wall clock has jumped since the last look.
    pub fn look(&mut self, wall_us: u64, monotonic_us: u64) -> bool {
        let last = self.last.replace((wall_us, monotonic_us));
        let has_jumped = last.is_some_and(|(wall, monotonic)| {
            let passed = monotonic_us.saturating_sub(monotonic);
            wall_us.abs_diff(wall + passed) > JUMP_US + passed / 1000
        });
        if last.is_none() || has_jumped {
            self.even_since_us = monotonic_us;
        }
        has_jumped
    }

    /// Whether the wall clock has been even for `settle_us` at the last look.
    pub fn has_settled(&self, settle_us: u64) -> bool {
        self.last
            .is_some_and(|(_, monotonic)| monotonic - self.even_since_us >= settle_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_clock_is_trusted_once_it_has_been_even_for_long_enough() {
        let mut guard = ClockGuard::default();
        let settle = 10 * SECOND;
        let mut look = |wall: u64, monotonic: u64| {
            guard.look(wall, monotonic);
            guard.has_settled(settle)
        };
        let start = 1_700_000_000 * SECOND;
        assert!(!look(start, 0), "nothing is known at first");
        assert!(!look(start + 9 * SECOND, 9 * SECOND));
        assert!(look(start + 10 * SECOND, 10 * SECOND));
        // Set forward by a year.
        let year = 31_536_000 * SECOND;
        assert!(!look(start + year + 11 * SECOND, 11 * SECOND));
        assert!(!look(start + year + 20 * SECOND, 20 * SECOND));
        // And back again, before it has settled.
        assert!(!look(start + 20 * SECOND, 20 * SECOND));
        assert!(!look(start + 29 * SECOND, 29 * SECOND));
        assert!(look(start + 30 * SECOND, 30 * SECOND));
        // Slowly brought in line is no jump.
        assert!(look(start + 1030 * SECOND + SECOND, 1030 * SECOND));
        // Asleep for an hour, which the monotonic clock has not counted.
        assert!(!look(start + 4700 * SECOND, 1031 * SECOND));
    }
}
