//! The walwriter process.
//!
//! | question | answer |
//! | --- | --- |
//! | Its job | writes the log from its ring to the segment files and makes it durable; prepares segments ahead of need |
//! | Who wakes it | whoever wants an LSN durable or room in the ring, by its event; an inserter that a flush waited for; its own timer, for commits that do not wait and for the heartbeat |
//! | Its signals | SIGTERM (from the postmaster, when no backend is left): make everything durable and exit 0; SIGHUP: read the configuration; SIGQUIT: exit at once |
//! | What it may write | `wal/` |
//! | What its death means | a crash: a record may be half written, and those who wait would wait for ever |
//!
//! It is not alone in flushing: a backend that has nothing else to do, and the checkpointer, do it
//! too, one at a time under the flush latch. What they leave undone they leave to this process.
//!
//! Segments are made by a thread of its own, started after the fork, so that a flush never waits
//! for one to be filled.

#[cfg(test)]
mod tests;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rd_base::error::exit;
use rd_base::{Config, Lsn};
use rd_store::wal::{Flusher, Preparer, Wal};
use rd_store::{ChildContext, Store};
use rd_sys::Shortage;
use rd_sys::fork::exit_process;
use rd_sys::process::Signal;
use rd_sys::signals::Signals;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Rounds of flushing after which signals are looked at, under a load that never ends.
const ROUNDS_MAX: u32 = 32;

/// What the process does between two sleeps; apart from signals and sleep, so that a test can step
/// it.
pub struct Walwriter {
    store: Store,
    wal: Wal,
    flusher: Flusher,
    delay: Duration,
    timer: Option<Timer>,
}

/// A timer that runs, and what was so when it began.
#[derive(Clone, Copy)]
struct Timer {
    due_ns: u64,
    /// If the durable LSN is still this when the timer ends, the log is quiet.
    durable: Lsn,
}

impl Walwriter {
    /// The walwriter of `store`.
    pub fn new(store: Store) -> Walwriter {
        let (wal, delay) = (store.shared.wal.clone(), store.config.wal_writer_delay());
        let flusher = Flusher::for_store(&store);
        Walwriter {
            store,
            wal,
            flusher,
            delay,
            timer: None,
        }
    }

    /// Takes over changed parameters.
    pub fn configure(&mut self, config: &Config) {
        self.delay = config.wal_writer_delay();
        self.flusher.set_method(config.wal_sync_method());
    }

    /// Does what is to be done now. Returns for how long it may sleep at most, unless its event is
    /// notified; none if for as long as it likes.
    pub fn turn(&mut self) -> Option<Duration> {
        self.flusher.try_flush(ROUNDS_MAX);
        if let Some(timer) = self.timer
            && self.now_ns() >= timer.due_ns
        {
            self.timer = None;
            self.end_of_timer(timer);
        }
        if self.timer.is_none() && !self.start_timer() {
            // Said before the last look: from now on whoever makes work for a timer wakes us.
            self.wal.set_timer(false);
            self.start_timer();
        }
        let timer = self.timer?;
        Some(Duration::from_nanos(
            timer.due_ns.saturating_sub(self.now_ns()),
        ))
    }

    /// Makes all of the log durable.
    pub fn finish(&mut self) {
        self.flusher.flush_all();
        self.flusher.heartbeat();
    }

    fn end_of_timer(&mut self, timer: Timer) {
        let lazy = self.wal.lazy_lsn();
        if lazy > self.wal.durable_lsn() {
            self.wal.note_request(lazy);
            self.flusher.try_flush(ROUNDS_MAX);
        } else if self.wal.durable_lsn() == timer.durable {
            self.flusher.heartbeat();
        }
    }

    /// Starts a timer if there is something for it; says whether there is.
    fn start_timer(&mut self) -> bool {
        let durable = self.wal.durable_lsn();
        let needed = self.wal.lazy_lsn() > durable || self.flusher.heartbeat_due();
        if needed {
            let delay_ns = u64::try_from(self.delay.as_nanos()).unwrap_or(u64::MAX);
            let due_ns = self.now_ns().saturating_add(delay_ns);
            self.timer = Some(Timer { due_ns, durable });
            self.wal.set_timer(true);
        }
        needed
    }

    fn now_ns(&self) -> u64 {
        self.store.clock.monotonic_ns()
    }
}

/// The thread that prepares segments.
struct Preparing {
    wal: Wal,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Preparing {
    fn start(store: &Store) -> std::io::Result<Preparing> {
        let wal = store.shared.wal.clone();
        let ahead_bytes = ahead_bytes(&store.config);
        let mut preparer = Preparer::new(wal.clone(), Arc::clone(&store.storage), ahead_bytes);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("wal segments".to_owned())
            .spawn(move || preparer.run(&stopped))?;
        Ok(Preparing { wal, stop, thread })
    }

    fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.wal.wake_preparer();
        // It cannot have panicked: that would have ended the process.
        let _ = self.thread.join();
    }
}

/// How much log is prepared ahead: a sixteenth of `max_wal_size`, at most 64 MiB. At least it is
/// two segments, which the preparer sees to.
fn ahead_bytes(config: &Config) -> u64 {
    (config.max_wal_size_bytes() / 16).min(64 << 20)
}

/// Runs the process until it is told to stop.
pub fn main(mut context: ChildContext) -> ! {
    let signals = match Signals::install(&[Signal::Term, Signal::Hup]) {
        Ok(signals) => signals,
        Err(error) => give_up("install its signal handlers", &error, Shortage::of(&error)),
    };
    let store = context.store();
    let preparing = match Preparing::start(&store) {
        Ok(preparing) => preparing,
        Err(error) => give_up(
            "start the thread that prepares segments",
            &Shortage::of_thread(&error),
            Shortage::among_threads(&error),
        ),
    };
    let mut walwriter = Walwriter::new(store);
    let event = context.shared.procs.event(context.slot()).clone();
    loop {
        event.take();
        let came = signals.take();
        if came.contains(Signal::Hup) {
            let config = context.reload();
            walwriter.configure(&config);
        }
        if came.contains(Signal::Term) && context.is_told_to_leave() {
            walwriter.finish();
            preparing.stop();
            exit_process(exit::OK);
        }
        let timeout = walwriter.turn();
        if event.prepare_sleep() {
            let gone = sleep(&context, &signals, timeout);
            event.finish_sleep();
            if gone {
                exit_process(exit::QUIT);
            }
        }
    }
}

/// Sleeps until the event, a signal, the time, or the end of the postmaster; says whether it was
/// the last.
fn sleep(context: &ChildContext, signals: &Signals, timeout: Option<Duration>) -> bool {
    let event = context.shared.procs.event(context.slot());
    let mut fds = [
        PollFd::new(event.fd(), PollFlags::POLLIN),
        PollFd::new(signals.fd(), PollFlags::POLLIN),
        PollFd::new(context.death_watch.fd(), PollFlags::POLLIN),
    ];
    // Upwards to a millisecond, so that a timer is over when the sleep is.
    let millis = timeout.map(|timeout| timeout.as_nanos().div_ceil(1_000_000));
    let timeout = match millis {
        None => PollTimeout::NONE,
        Some(millis) => PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX),
    };
    match poll(&mut fds, timeout) {
        Ok(_) => fds[2].any().unwrap_or(true),
        Err(nix::errno::Errno::EINTR) => false,
        Err(error) => {
            let error = error.into();
            give_up("wait for its event", &error, Shortage::of(&error))
        }
    }
}

fn give_up(what: &str, why: &dyn std::fmt::Display, short: Option<Shortage>) -> ! {
    rd_base::fatal!("walwriter could not {what}: {why}");
    exit_process(exit::for_want(short.is_some()))
}
