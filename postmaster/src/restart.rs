//! Whether a crash is followed by a restart.
//!
//! A server that cannot recover must stay down and say why, rather than spin: at most
//! `crash_restart_max` restarts within `crash_restart_window`. Pure: the time is handed in.

use std::fmt;

/// The parameters of the restart policy; all three can change at a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RestartPolicy {
    /// Whether a crash is followed by recovery and service (`restart_after_crash`).
    pub restart_after_crash: bool,
    /// Most restarts within the window (`crash_restart_max`).
    pub restarts_max: u32,
    /// Length of the window in milliseconds (`crash_restart_window`).
    pub window_ms: u64,
}

/// When the server crashed, as far back as the policy looks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct CrashHistory {
    /// Milliseconds of a monotonic clock, oldest first; never more than `restarts_max + 1`.
    crashes_ms: Vec<u64>,
}

/// Why the server stays down after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StayDown {
    /// `restart_after_crash = off`.
    Disabled,
    /// More crashes within the window than restarts allowed.
    TooMany {
        /// Crashes within the window, the last included.
        crashes: usize,
        /// The window in milliseconds.
        window_ms: u64,
    },
}

impl fmt::Display for StayDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StayDown::Disabled => f.write_str("restart_after_crash is off"),
            StayDown::TooMany { crashes, window_ms } => write!(
                f,
                "{crashes} crashes within {} s are more than crash_restart_max allows",
                window_ms / 1000
            ),
        }
    }
}

impl CrashHistory {
    /// Notes a crash at `now_ms` and forgets what the policy no longer looks at.
    pub fn record(&mut self, now_ms: u64, policy: &RestartPolicy) {
        self.crashes_ms
            .retain(|&at_ms| now_ms.saturating_sub(at_ms) < policy.window_ms);
        self.crashes_ms.push(now_ms);
        let kept_max = policy.restarts_max as usize + 1;
        let excess = self.crashes_ms.len().saturating_sub(kept_max);
        self.crashes_ms.drain(..excess);
    }

    /// Whether none was recorded.
    pub fn is_empty(&self) -> bool {
        self.crashes_ms.is_empty()
    }

    /// Whether the crash recorded last may be followed by a restart.
    ///
    /// # Errors
    /// Why it may not.
    pub fn decide(&self, policy: &RestartPolicy) -> Result<(), StayDown> {
        if !policy.restart_after_crash {
            return Err(StayDown::Disabled);
        }
        let crashes = self.crashes_ms.len();
        if crashes > policy.restarts_max as usize {
            return Err(StayDown::TooMany {
                crashes,
                window_ms: policy.window_ms,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        restart_after_crash: true,
        restarts_max: 2,
        window_ms: 1000,
    };

    #[test]
    fn the_window_counts_and_forgets() {
        let mut history = CrashHistory::default();
        for now_ms in [0, 100] {
            history.record(now_ms, &POLICY);
            assert_eq!(history.decide(&POLICY), Ok(()));
        }
        history.record(999, &POLICY);
        let too_many = StayDown::TooMany {
            crashes: 3,
            window_ms: 1000,
        };
        assert_eq!(history.decide(&POLICY), Err(too_many));
        history.record(1100, &POLICY);
        assert_eq!(history.decide(&POLICY), Ok(()), "0 and 100 are outside");
    }

    #[test]
    fn memory_is_bounded() {
        let mut history = CrashHistory::default();
        for now_ms in 0..500 {
            history.record(now_ms, &POLICY);
        }
        assert_eq!(history.crashes_ms.len(), 3);
    }

    #[test]
    fn off_means_off_and_zero_means_none() {
        let mut history = CrashHistory::default();
        history.record(5, &POLICY);
        let off = RestartPolicy {
            restart_after_crash: false,
            ..POLICY
        };
        assert_eq!(history.decide(&off), Err(StayDown::Disabled));
        let none = RestartPolicy {
            restarts_max: 0,
            ..POLICY
        };
        assert!(matches!(
            history.decide(&none),
            Err(StayDown::TooMany { crashes: 1, .. })
        ));
    }
}
