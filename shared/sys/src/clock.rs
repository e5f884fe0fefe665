//! Time: the one clock that everything asks, so that a simulation can hold it.

use crate::fault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds of `CLOCK_MONOTONIC`: the same line of time in all processes of this machine since
/// its boot, so it may be kept in shared memory.
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds of a clock that every Linux has.
pub(crate) fn read(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec to a live, exclusively borrowed one.
    let result = unsafe { libc::clock_gettime(clock, &mut now) };
    assert_eq!(result, 0, "clock {clock} is always there on Linux");
    (now.tv_sec as u64)
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec as u64)
}

/// Microseconds since 1970 by the wall clock; it may jump, and tests let it ([`crate::fault`]). 0 if the
/// clock stands before 1970.
pub fn wall_us() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            let real_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
            real_us.saturating_add_signed(fault::clock_skew_us())
        })
}

/// A clock that is real, or that moves only when a test moves it.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clocks.
    #[default]
    Real,
    /// Nanoseconds that stand for both clocks.
    Manual(Arc<AtomicU64>),
    /// The same, and each look at it moves it on by a millisecond: time that passes between any two
    /// steps.
    Hasty(Arc<AtomicU64>),
}

/// For so long it is one moment.
const ONE_MOMENT_NS: u64 = 50_000_000;

/// What a look at a hasty clock takes.
const LOOK_NS: u64 = 1_000_000;

impl Clock {
    /// A clock that stands at `start_ns`, and the handle that moves it.
    pub fn manual(start_ns: u64) -> (Clock, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(start_ns));
        (Clock::Manual(Arc::clone(&time)), time)
    }

    /// Nanoseconds that never go back.
    pub fn monotonic_ns(&self) -> u64 {
        match self {
            Clock::Real => monotonic_ns(),
            Clock::Manual(time) => time.load(Ordering::SeqCst),
            Clock::Hasty(time) => time.fetch_add(LOOK_NS, Ordering::SeqCst),
        }
    }

    /// Microseconds since 1970.
    pub fn wall_us(&self) -> u64 {
        match self {
            Clock::Real => wall_us(),
            Clock::Manual(_) | Clock::Hasty(_) => self.monotonic_ns() / 1000,
        }
    }

    /// Wall clock and monotonic clock at one moment, in microseconds: who is held up between his looks looks
    /// again, or would take it for a jump of one of them.
    pub fn both_us(&self) -> (u64, u64) {
        loop {
            let before_ns = self.monotonic_ns();
            let wall_us = self.wall_us();
            if self.monotonic_ns().saturating_sub(before_ns) < ONE_MOMENT_NS {
                return (wall_us, before_ns / 1000);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_by_hand() {
        let (clock, hand) = Clock::manual(5_000);
        assert_eq!((clock.monotonic_ns(), clock.wall_us()), (5_000, 5));
        hand.store(9_000, Ordering::SeqCst);
        assert_eq!((clock.clone().monotonic_ns(), clock.wall_us()), (9_000, 9));
    }

    #[test]
    fn the_real_clock_goes_forward() {
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
        // 2020-01-01: a machine with an older clock cannot run this.
        assert!(wall_us() > 1_577_836_800_000_000);
    }
}
