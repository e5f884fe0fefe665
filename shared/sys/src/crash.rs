//! The end of a process that must not go on: a line of log, then abort.
//!
//! Invariant: nothing is unwound. Guards of latches and frames keep what they hold, so that no
//! other process sees memory that a dying one was changing; the postmaster sees SIGABRT, ends all
//! children and has the log replayed.

use rd_base::logline;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};

/// Makes every Rust panic a `PANIC` line in the log and an abort. To be called once, early in
/// `main`; children inherit it.
pub fn install() {
    panic::set_hook(Box::new(|info| {
        logline::write_panic_unlocked(&describe(info));
        std::process::abort()
    }));
}

/// Ends the process because going on could lose or spoil data (a failed sync, damaged shared
/// memory): logs `PANIC: message` and aborts.
pub fn panic_abort(message: &str) -> ! {
    #[cfg(feature = "sim")]
    simulated::panic_if_simulated(message);
    logline::write_panic_unlocked(message);
    std::process::abort()
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message");
    let mut text = match info.location() {
        Some(place) => format!("{message} (at {}:{})", place.file(), place.line()),
        None => message.to_owned(),
    };
    let trace = Backtrace::capture();
    if trace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("\n{trace}"));
    }
    text
}

#[cfg(feature = "sim")]
pub use simulated::catch_panics;
#[cfg(feature = "sim")]
pub(crate) use simulated::set_simulated;

/// A whole server in one process of a test: there a PANIC ends the simulated server, not the test.
#[cfg(feature = "sim")]
mod simulated {
    use std::cell::Cell;
    use std::panic::{self, AssertUnwindSafe};

    thread_local! {
        static SIMULATED: Cell<bool> = const { Cell::new(false) };
    }

    struct Panicked(String);

    pub(super) fn panic_if_simulated(message: &str) {
        if SIMULATED.get() {
            panic::resume_unwind(Box::new(Panicked(message.to_owned())));
        }
    }

    /// Whether what runs on this thread from now on is a simulated server; gives what was so before.
    pub(crate) fn set_simulated(simulated: bool) -> bool {
        SIMULATED.replace(simulated)
    }

    /// Runs `server`; a [`super::panic_abort`] of this thread within it comes back as `Err` with
    /// its message. What `server` worked on must be thrown away then, as after a crash. Other
    /// panics go on.
    pub fn catch_panics<R>(server: impl FnOnce() -> R) -> Result<R, String> {
        let before = SIMULATED.replace(true);
        let result = panic::catch_unwind(AssertUnwindSafe(server));
        SIMULATED.set(before);
        result.map_err(|payload| match payload.downcast::<Panicked>() {
            Ok(panicked) => panicked.0,
            Err(other) => panic::resume_unwind(other),
        })
    }
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_server_panics_alone() {
        assert_eq!(catch_panics(|| 7), Ok(7));
        let ended: Result<(), String> = catch_panics(|| panic_abort("could not sync wal/1"));
        assert_eq!(ended, Err("could not sync wal/1".to_owned()));
    }
}
