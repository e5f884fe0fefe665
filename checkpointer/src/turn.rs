//! The loop: what there is to do is looked at by turns, then it sleeps until something may be
//! different.
//!
//! Invariant: it sleeps only after a turn in which nothing else has slept, because whatever woke a
//! sleep in the middle of a turn may concern what that turn had looked at before.

use crate::control::{Control, Now};
use crate::{Checkpointer, Failure, Workers, brake, pacing};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_base::error::exit;
use rd_format::wal_page;
use rd_store::checkpoint::{Flags, StopOrder};
use rd_store::relation::RelationFiles;
use rd_store::shared::Phase;
use rd_store::{ChildContext, STRAY_STOP};
use rd_sys::Shortage;
use rd_sys::crash::panic_abort;
use rd_sys::fork::exit_process;
use rd_sys::process::Signal;
use rd_sys::signals::Signals;
use std::sync::Arc;
use std::time::Duration;

/// What reaches the process from outside of shared memory.
pub struct Outside {
    context: ChildContext,
    signals: Signals,
    must_stop: bool,
}

/// The life of the process.
pub fn run(context: ChildContext) -> ! {
    let signals = match Signals::install(&[Signal::Hup, Signal::Usr1, Signal::Usr2]) {
        Ok(signals) => signals,
        // Nothing has been touched yet, neither here nor below.
        Err(error) => {
            rd_base::fatal!("checkpointer could not install its signal handlers: {error}");
            exit_process(exit::for_want(Shortage::of(&error).is_some()))
        }
    };
    let store = context.store();
    let relations = Arc::new(RelationFiles::writer(Arc::clone(&store.storage)));
    let workers = match Workers::on_threads(&store, &relations) {
        Ok(workers) => workers,
        Err(error) => {
            let why = Shortage::of_thread(&error);
            rd_base::fatal!("checkpointer could not make its threads: {why}");
            exit_process(exit::for_want(Shortage::among_threads(&error).is_some()))
        }
    };
    let mut checkpointer = Checkpointer::new(store, relations, workers);
    checkpointer.outside = Some(Outside {
        context,
        signals,
        must_stop: false,
    });
    loop {
        checkpointer.work_and_sleep();
    }
}

impl Checkpointer {
    /// Does all there is to do, and then sleeps until there is more. Does not return if the server
    /// stops.
    pub fn work_and_sleep(&mut self) {
        let sleeps = self.sleeps;
        self.turn();
        if self.must_stop() {
            self.stop();
        }
        if self.sleeps == sleeps {
            let timeout = self.until_next();
            self.sleep(timeout);
        }
    }

    /// Does all there is to do.
    pub fn turn(&mut self) {
        self.serve_files();
        self.absorb();
        if let Err(failure) = self.take_handover() {
            // Nothing can be written without them, and startup has just read the one and repaired
            // from the other.
            panic_abort(&format!("could not take over from startup: {failure}"));
        }
        self.supply();
        self.learn_of_recovery();
        self.beside_redo();
        self.incremental();
        self.serve_namespaces();
        self.look_at_brake();
        if let Some(own) = self.due() {
            self.attempt(own);
        }
        self.heartbeat();
        self.scrub();
    }

    /// Whether a checkpoint is due now, for requests or for these reasons of our own.
    fn due(&self) -> Option<Flags> {
        let shared = &self.store.shared;
        if !self.log_is_written() || self.must_stop() {
            return None;
        }
        let wanted = shared.checkpoint.wanted();
        if shared.phase() != Phase::Running {
            return wanted.has(Flags::END_OF_RECOVERY).then_some(Flags::NONE);
        }
        let now_ns = self.now_ns();
        match self.retry {
            // What has failed is no checkpoint to keep a pause after.
            Some((flags, at_ns)) if now_ns >= at_ns => return Some(flags),
            // Only who asks anew gets another attempt before that.
            Some(_) => return (!wanted.is_empty()).then_some(Flags::NONE),
            None => {}
        }
        let mut own = Flags::NONE;
        let insert = shared.wal.insert_lsn();
        if self.pace.is_wal_due(self.redo, insert) || self.can_free_log(insert) {
            own |= Flags::CAUSE_WAL;
        }
        if now_ns >= self.began_ns + nanos(self.pace.timeout) {
            own |= Flags::CAUSE_TIME;
        }
        let all = own | wanted;
        let is_urgent = all.is_immediate() || all.has(Flags::CAUSE_WAL);
        let rests = now_ns < self.ended_ns + nanos(self.store.config.checkpoint_min_pause());
        (!all.is_empty() && (is_urgent || !rests)).then_some(own)
    }

    /// Whether no further segment of the log can be made, and a checkpoint would give some up. Not if the redo
    /// point is in the segment that is being written: then there would be another checkpoint at once,
    /// and it would be no better.
    fn can_free_log(&self, insert: Lsn) -> bool {
        let segment = |lsn| wal_page::segment_of(lsn, self.pace.segment_bytes);
        let is_blocked = self.store.shared.wal.segments_blocked().is_some();
        is_blocked && segment(self.redo_in_control()) < segment(insert)
    }

    /// Makes one attempt at a full checkpoint, and sees to what comes of it.
    fn attempt(&mut self, own: Flags) {
        let shared = Arc::clone(&self.store.shared);
        if shared.checkpoint.wanted().is_empty() && self.is_needless(own) {
            self.began_ns = self.now_ns();
            return;
        }
        let retried = self.retry.as_ref().map_or(Flags::NONE, |(flags, _)| *flags);
        let begun = shared.checkpoint.begin(own | retried);
        // What has been asked for or logged since is taken up, too.
        if self.is_needless(begun.flags) {
            self.began_ns = self.now_ns();
            shared.checkpoint.skip(&shared.procs);
            return;
        }
        self.retry = None;
        self.warn_if_too_frequent(begun.flags);
        match self.full_checkpoint(&begun) {
            Ok(()) => self.failures = 0,
            Err(failure) => self.failed(begun.flags, &failure),
        }
        self.ended_ns = self.now_ns();
        self.unlink_dropped();
    }

    fn failed(&mut self, flags: Flags, failure: &Failure) {
        self.failures += 1;
        self.store.count(Counter::CheckpointsFailed);
        let pause = pacing::back_off(self.failures);
        self.retry = Some((flags.without(Flags::WAIT), self.now_ns() + nanos(pause)));
        let refuses =
            u64::from(self.failures) >= self.store.config.checkpoint_failures_max() as u64;
        log::error!(
            "checkpoint ({flags}) failed: {failure}; trying again in {} s{}",
            pause.as_secs(),
            if refuses {
                "; writes are refused until one succeeds"
            } else {
                ""
            },
        );
        let shared = &self.store.shared;
        shared
            .checkpoint
            .fail(&shared.procs, &failure.to_string(), refuses);
    }

    /// Whether nothing was logged since the last checkpoint's own record, and nobody insists.
    pub(crate) fn is_needless(&self, flags: Flags) -> bool {
        !flags.is_forced() && self.store.shared.wal.insert_lsn() == self.idle_lsn
    }

    /// What every write of `pg_control` takes up.
    pub(crate) fn now(&self) -> Now {
        let shared = &self.store.shared;
        let durable_lsn = self.log_is_written().then(|| shared.wal.durable_lsn());
        let log_end = shared.checkpoint.end_of_log();
        // A drop whose record a crash could take back has not happened. Before the log is taken up
        // all that are known are from `pg_control`.
        let found = log_end.map(|end| end.lsn);
        let lasting = durable_lsn.max(found).unwrap_or(Lsn::MAX);
        let mut pending_drops = shared.files.pending_drops();
        pending_drops.retain(|drop| drop.last_lsn <= lasting);
        Now {
            now_us: self.store.clock.wall_us(),
            durable_lsn,
            start_count: shared.wal.start_count(),
            log_end,
            is_running: shared.phase() == Phase::Running,
            first_unsynced_batch: self.first_unsynced_batch(),
            next_file: shared.files.next_number(),
            pending_drops,
            estimate: self.estimate,
        }
    }

    /// Advances the redo point, or at least takes the durable LSN up into `pg_control`, and removes
    /// dropped files, if it is time.
    pub(crate) fn heartbeat(&mut self) {
        let now_ns = self.now_ns();
        if !self.log_is_written() || now_ns < self.heartbeat_ns {
            return;
        }
        self.heartbeat_ns = now_ns + nanos(self.heartbeat_interval());
        self.unlink_dropped();
        if self.store.shared.phase() == Phase::Running {
            match self.advance_redo() {
                Ok(true) => return,
                Ok(false) => {}
                Err(failure) => {
                    log::error!("could not advance the redo point: {failure}");
                }
            }
        }
        let now = self.now();
        let control = self
            .control
            .as_ref()
            .expect("the log is written after the handover");
        if control.needs_heartbeat(&now) {
            self.write_control(Control::beat);
            self.store.count(Counter::Heartbeats);
        }
    }

    /// Has `pg_control` written, and counts what that takes.
    pub(crate) fn write_control(&mut self, write: impl FnOnce(&mut Control, &Now)) {
        let now = self.now();
        let began_ns = self.now_ns();
        let control = self.control.as_mut().expect("after the handover");
        let before = control.newest().sequence;
        write(control, &now);
        let writes = control.newest().sequence - before;
        let bytes = writes * control.newest().encoded_bytes() as u64;
        let took_ns = self.now_ns() - began_ns;
        self.store.add(Counter::ControlWrites, writes);
        self.store.add(Counter::ControlBytes, bytes);
        self.store.add(Counter::ControlMicros, took_ns / 1000);
    }

    /// How long there is nothing to do if nobody asks for anything.
    fn until_next(&self) -> Option<Duration> {
        if self.wants_more_supply {
            return Some(Duration::ZERO);
        }
        // A supply that rests has nobody to wake it.
        let mut next_ns = if self.supply_retry_ns > 0 {
            self.supply_retry_ns
        } else {
            u64::MAX
        };
        let now_ns = self.now_ns();
        if !self.log_is_written() || self.store.shared.phase() != Phase::Running {
            // Nobody tells when recovery has ended and found nothing to ask for.
            let look_ns = now_ns + nanos(self.store.config.checkpoint_heartbeat());
            next_ns = next_ns.min(if self.is_redoing() {
                self.redo_due_ns
            } else if self.control.is_some() {
                look_ns
            } else {
                u64::MAX
            });
        } else {
            let paused_ns = self.ended_ns + nanos(self.store.config.checkpoint_min_pause());
            let timed_ns = self.began_ns + nanos(self.pace.timeout);
            // After a failure the retry comes before the clock's own checkpoint.
            next_ns = next_ns.min(match self.retry {
                Some((_, at_ns)) => at_ns,
                None => timed_ns.max(paused_ns),
            });
            if !self.store.shared.checkpoint.wanted().is_empty() {
                next_ns = next_ns.min(paused_ns);
            }
            next_ns = next_ns.min(self.heartbeat_ns);
            let nexts = [
                self.incremental.next_ns(),
                self.brake.next_ns(),
                self.scrub_next_ns(),
            ];
            next_ns = nexts.into_iter().flatten().fold(next_ns, u64::min);
        }
        (next_ns < u64::MAX).then(|| Duration::from_nanos(next_ns.saturating_sub(now_ns)))
    }

    /// Whether the shutdown checkpoint was ordered.
    pub(crate) fn must_stop(&self) -> bool {
        self.outside
            .as_ref()
            .is_some_and(|outside| outside.must_stop)
    }

    /// Writes the shutdown checkpoint and ends the process. If the server never got to serve the order
    /// is not the postmaster's, and there is nothing that a checkpoint could cover.
    fn stop(&mut self) -> ! {
        if self.store.shared.phase() != Phase::Running {
            log::info!("stopping without a checkpoint: recovery was not finished");
            exit_process(0);
        }
        match self.shutdown_checkpoint() {
            Ok(()) => exit_process(0),
            Err(failure) => {
                log::error!("shutdown checkpoint failed: {failure}; the next start recovers");
                exit_process(1);
            }
        }
    }

    /// The last checkpoint, with which `pg_control` says that the server is shut down.
    ///
    /// # Errors
    /// When it cannot be written; then the next start recovers.
    pub fn shutdown_checkpoint(&mut self) -> Result<(), Failure> {
        // All of the server's life may have been within one turn of ours.
        self.take_handover()?;
        self.learn_of_recovery();
        self.absorb();
        let own = Flags::SHUTDOWN | Flags::IMMEDIATE;
        let shared = Arc::clone(&self.store.shared);
        let begun = shared.checkpoint.begin(own);
        self.write_control(Control::begin_shutdown);
        self.full_checkpoint(&begun).inspect_err(|failure| {
            shared
                .checkpoint
                .fail(&shared.procs, &failure.to_string(), false);
        })
    }

    /// Sleeps until a worker has done something, or it is time to look at the brake; serves files
    /// meanwhile.
    pub(crate) fn wait_for_workers(&mut self) {
        self.serve_files();
        self.sleep(Some(brake::TICK));
        self.absorb();
        self.look_at_brake();
    }

    /// Sleeps until the event, a signal, or the end of `timeout`, and takes note of signals.
    pub(crate) fn sleep(&mut self, timeout: Option<Duration>) {
        self.sleeps += 1;
        let event = self.store.shared.procs.event(self.store.slot).clone();
        let Some(outside) = &mut self.outside else {
            event.wait(timeout);
            return;
        };
        if event.prepare_sleep() {
            let mut fds = [
                PollFd::new(event.fd(), PollFlags::POLLIN),
                PollFd::new(outside.signals.fd(), PollFlags::POLLIN),
                PollFd::new(outside.context.death_watch.fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => panic_abort(&format!("could not wait: {error}")),
            }
            event.finish_sleep();
        }
        event.take();
        let signals = outside.signals.take();
        if outside.context.death_watch.is_over() {
            // As by SIGQUIT: without a postmaster nobody may go on.
            exit_process(rd_sys::signals::QUIT_EXIT_CODE);
        }
        let shared = &self.store.shared;
        let is_ordered = |order| shared.checkpoint.is_stop_ordered(order);
        // A shutdown checkpoint beside others who write would hide what they log from the next start.
        let is_harmless = shared.phase() != Phase::Running;
        let has_usr2 = signals.contains(Signal::Usr2);
        outside.must_stop |= has_usr2 && (is_harmless || is_ordered(StopOrder::Checkpoint));
        let must_clean = signals.contains(Signal::Usr1) && is_ordered(StopOrder::Clean);
        if has_usr2 && !outside.must_stop || signals.contains(Signal::Usr1) && !must_clean {
            log::warn!("{STRAY_STOP}");
        }
        if signals.contains(Signal::Hup) {
            self.store.config = outside.context.reload();
            self.take_parameters();
        }
        if must_clean {
            self.begin_cleaning();
        }
    }
}

/// A duration in nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2)
}
