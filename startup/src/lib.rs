//! The startup process: brings what lies on disk to where it can be served, once per start or
//! crash, and ends.
//!
//! * **Job**: reads `pg_control`, the log and relation files, repairs, redoes; see
//!   `rd_engine::recovery`.
//! * **Who wakes it**: the checkpointer, when a frame is clean or a file has grown.
//! * **Signals**: SIGTERM from the postmaster: leave with 1 between two records; the next start goes
//!   on. SIGHUP: read the configuration again. SIGQUIT: leave at once.
//! * **What it may write**: pages in shared buffers; before redo also `pg_control`, torn pages and
//!   the unproved end of the log, for it is the only one to touch them then.
//! * **What its death means**: exit 0: the server may serve. Exit 1: it cannot start, and says why;
//!   another try would find the same. Exit 3: the same for want of descriptors or memory; a server
//!   that has served before tries again within the restart policy. By a signal: a crash, tried again
//!   likewise; so it dies when a sync fails, or the log was found to be shorter than it was a moment ago.

use rd_base::error::exit;
use rd_engine::recovery::{RecoveryError, RedoHands, Watcher, recover};
use rd_store::ChildContext;
use rd_sys::process::Signal;
use rd_sys::signals::Signals;

/// Runs the startup process in a freshly forked process.
pub fn main(context: ChildContext) -> ! {
    let signals = match Signals::install(&[Signal::Term, Signal::Hup]) {
        Ok(signals) => signals,
        Err(error) => {
            rd_base::fatal!("startup could not install its signal handlers: {error}");
            // That takes a descriptor, and nothing else that could be wanting.
            rd_sys::fork::exit_process(exit::SHORTAGE);
        }
    };
    let store = context.store();
    let mut teller = Teller { context, signals };
    match recover(&store, &mut teller) {
        Ok(_) => {
            teller.progress();
            rd_sys::fork::exit_process(exit::OK)
        }
        // Another start reads the log anew.
        Err(error @ RecoveryError::LogReceded { .. }) => {
            rd_sys::crash::panic_abort(&error.to_string())
        }
        Err(error) => {
            rd_base::fatal!("{error}");
            rd_sys::fork::exit_process(exit::for_want(error.shortage().is_some()))
        }
    }
}

/// Tells the postmaster of progress, and listens to it.
struct Teller {
    context: ChildContext,
    signals: Signals,
}

impl Watcher for Teller {
    fn progress(&mut self) {
        // If the postmaster is gone, the death watch or SIGQUIT ends this process.
        let _ = rd_sys::fork::tell_parent(Signal::Usr1);
    }

    fn redo_hands(&mut self) -> RedoHands {
        /// Above this the one that reads the log cannot keep them busy.
        const BY_DEFAULT_MAX: usize = 8;
        RedoHands::Threads(match self.context.config.recovery_workers() {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(BY_DEFAULT_MAX),
            number => number as usize,
        })
    }

    fn must_stop(&mut self) -> bool {
        let signals = self.signals.take();
        if signals.contains(Signal::Hup) {
            self.context.reload();
        }
        let is_told = signals.contains(Signal::Term) && self.context.is_told_to_leave();
        if is_told || self.context.death_watch.is_over() {
            // Here and now: who goes on waits for redo's threads, and these for frames, for as long as no
            // page can be written.
            log::info!("{}", RecoveryError::Stopped);
            rd_sys::fork::exit_process(exit::FATAL)
        }
        false
    }
}
