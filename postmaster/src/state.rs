//! The postmaster's life as a pure function: [`next`] takes a state and an event and gives the
//! state that follows and what is to be done. No I/O, no clock: times come with the events.
//!
//! Truths of the states (a test walks every state against every event; the table is
//! `docs/postmaster-states.md`):
//!
//! | phase | holds |
//! | --- | --- |
//! | Init | no child was ever forked; left when the lock is held and the segment exists |
//! | Startup | checkpointer and startup run; startup has not begun redo |
//! | Recovery | the same, redo has begun |
//! | Run | checkpointer, walwriter and all backends run; under *smart*, new clients are refused; under *fast* all are served while the checkpointer writes what is dirty |
//! | StopBackends | backends and startup have SIGTERM; the walwriter serves their last commits |
//! | WaitBackends | no backend and no startup is left; the walwriter has SIGTERM |
//! | ShutdownCheckpoint | only the checkpointer is left, and has its one SIGUSR2 |
//! | Shutdown2 | the checkpoint is written, the checkpointer gone; whoever outlives it leaves |
//! | WaitDeadEnd | nothing more can be saved: all have SIGQUIT, SIGKILL after the kill timer |
//! | NoChildren | nobody is left: exit, or wait for a new segment and start again |
//!
//! Invariants:
//! - P1 A child is forked only in Startup and Run, and never once a shutdown was asked for.
//! - P2 A checkpointer gets SIGUSR2 at most once, and only when it is the only child.
//! - P3 The walwriter gets SIGTERM only when no backend is left.
//! - P4 The segment is made anew only when no child lives.
//! - P5 Exit is said once, when no child lives; after it every event is ignored.
//! - P6 A shutdown request only ever gets stronger.

use crate::restart::{CrashHistory, RestartPolicy, StayDown};
use rd_base::Role;
use rd_base::error::exit;
use rd_sys::process::{Exit, Signal};
use std::collections::BTreeSet;
use std::fmt;

/// Where the postmaster is in its life; see the table above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Nothing forked yet.
    Init,
    /// Reading `pg_control`, checking files.
    Startup,
    /// Redo.
    Recovery,
    /// Serving.
    Run,
    /// Waiting for backends (and startup) that were asked to end.
    StopBackends,
    /// Waiting for the walwriter that was asked to end.
    WaitBackends,
    /// Waiting for the shutdown checkpoint.
    ShutdownCheckpoint,
    /// Waiting for whoever outlives the shutdown checkpoint.
    Shutdown2,
    /// Waiting for children that were told to drop everything.
    WaitDeadEnd,
    /// No child is left.
    NoChildren,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How the server was asked to stop; a later variant is stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shutdown {
    /// SIGTERM: wait for clients to leave, then as fast.
    Smart,
    /// SIGINT: write most of what is dirty, end the clients, write the shutdown checkpoint. Once
    /// more: no longer write beforehand.
    Fast,
    /// SIGQUIT: no checkpoint; the next start recovers.
    Immediate,
}

impl fmt::Display for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shutdown::Smart => "smart",
            Shutdown::Fast => "fast",
            Shutdown::Immediate => "immediate",
        })
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The data directory is ours, the pid file is written, the sockets listen.
    LockAcquired,
    /// The segment that [`Action::ResetSharedMemory`] asked for exists.
    MemoryReady,
    /// It could not be made; the shell has logged why.
    MemoryFailed {
        /// By the monotonic clock.
        now_ms: u64,
    },
    /// A child was reaped.
    ChildExited {
        /// Which.
        role: Role,
        /// How it ended.
        exit: Exit,
        /// When, in milliseconds of a monotonic clock.
        now_ms: u64,
    },
    /// A child that [`Action::Fork`] asked for could not be forked.
    ForkFailed {
        /// Which.
        role: Role,
        /// When, in milliseconds of a monotonic clock.
        now_ms: u64,
    },
    /// The pause that [`Action::ArmRestartTimer`] asked for is over.
    RestartTimerExpired,
    /// Startup reports that redo has begun.
    RedoStarted,
    /// SIGTERM, SIGINT or SIGQUIT.
    Shutdown(Shutdown),
    /// The path of the data directory leads elsewhere now; the shell has logged it.
    DirectoryMoved,
    /// SIGHUP.
    Reload,
    /// The configuration was read again; bad values were left out and logged.
    ConfigurationRead(RestartPolicy),
    /// No client connection is left.
    NoClients,
    /// The checkpointer has written as much as is worth while before the clients are ended.
    Cleaned,
    /// The time that [`Action::ArmKillTimer`] set has passed.
    KillTimerExpired,
}

/// What becomes of a connection that is accepted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// Refused with `-LOADING` and the progress of recovery.
    Loading,
    /// Handed to a backend.
    Open,
    /// Refused: shutting down.
    ShuttingDown,
}

/// The word in the last line of `postmaster.pid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StatusWord {
    /// Before redo.
    Starting,
    /// Redo; the shell adds phase, percent and ETA.
    Recovering,
    /// Serving.
    Ready,
    /// A shutdown was asked for, or the server will not come back.
    Stopping,
}

/// How the postmaster's life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Smart or fast, with the shutdown checkpoint.
    Stopped,
    /// Immediate: the next start recovers.
    StoppedImmediately,
    /// Asked to stop before recovery was complete: the next start goes on with it.
    StoppedInRecovery,
    /// A child crashed while the server was stopping: the next start recovers.
    CrashedWhileStopping,
    /// Startup found something that no restart can mend, and logged what.
    StartupFailed,
    /// A child crashed and the policy says to stay down.
    StaysDown(StayDown),
    /// No shared memory.
    NoSharedMemory,
    /// The data directory was moved while the server ran. Nobody has asked for the end.
    DirectoryMoved,
}

impl Outcome {
    /// The exit status of the postmaster.
    pub fn status(self) -> i32 {
        match self {
            Outcome::Stopped | Outcome::StoppedImmediately | Outcome::StoppedInRecovery => 0,
            Outcome::CrashedWhileStopping
            | Outcome::StartupFailed
            | Outcome::StaysDown(_)
            | Outcome::NoSharedMemory
            | Outcome::DirectoryMoved => 1,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Stopped => f.write_str("server is shut down"),
            Outcome::StoppedImmediately => {
                f.write_str("server is stopped without a checkpoint: the next start recovers")
            }
            Outcome::StoppedInRecovery => {
                f.write_str("server is stopped during recovery: the next start goes on with it")
            }
            Outcome::CrashedWhileStopping => {
                f.write_str("abnormal shutdown: a child crashed, the next start recovers")
            }
            Outcome::StartupFailed => {
                f.write_str("server does not start: startup says above what is wrong")
            }
            Outcome::StaysDown(why) => write!(
                f,
                "server stays down after a crash: {why}; nothing acknowledged is lost, \
                 the next start recovers"
            ),
            Outcome::NoSharedMemory => f.write_str("server does not start: no shared memory"),
            Outcome::DirectoryMoved => f.write_str(
                "server has stopped without a checkpoint, because its data directory was moved: the \
                 next start of that directory recovers",
            ),
        }
    }
}

/// What the shell is to do; in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Throw the segment away, if there is one, and make a new one; answer with
    /// [`Event::MemoryReady`] or [`Event::MemoryFailed`].
    ResetSharedMemory,
    /// Fork this child; answer with [`Event::ForkFailed`] if that fails.
    Fork(Role),
    /// Send a signal to a living child.
    Signal(Role, Signal),
    /// From now on treat new connections so.
    Admit(Admission),
    /// Write the status word into the pid file.
    Status(StatusWord),
    /// Send [`Event::KillTimerExpired`] after `shutdown_kill_timeout`.
    ArmKillTimer,
    /// No longer.
    DisarmKillTimer,
    /// Send [`Event::RestartTimerExpired`] after a pause, in which what is short may come back.
    ArmRestartTimer,
    /// Read the configuration again; answer with [`Event::ConfigurationRead`].
    ReadConfiguration,
    /// A line for the log.
    Log(log::Level, String),
    /// Remove the pid file and leave.
    Exit(Outcome),
}

/// The pages that the checkpointer writes before the clients are ended, so that the shutdown
/// checkpoint finds little to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cleaning {
    Unasked,
    UnderWay,
    Done,
}

/// Why everybody was sent SIGQUIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Down {
    Immediate,
    Crash,
    /// A crash, because there was no process to be had, or a child lacked something.
    Shortage,
    StartupFailed,
    Unrecovered,
}

/// All that the postmaster remembers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    phase: Phase,
    /// How many backends to run; fixed for the postmaster's life.
    backends: u16,
    policy: RestartPolicy,
    crashes: CrashHistory,
    /// Forked and not yet reaped.
    children: BTreeSet<Role>,
    shutdown: Option<Shutdown>,
    /// It is [`Event::DirectoryMoved`] that has set `shutdown`.
    moved: bool,
    cleaning: Cleaning,
    /// Startup has exited 0, unasked, since the segment was made.
    recovered: bool,
    /// Set on the way into WaitDeadEnd, cleared by a restart.
    down: Option<Down>,
    /// [`Action::ResetSharedMemory`] waits for its answer.
    memory_asked: bool,
    /// [`Action::ArmRestartTimer`] waits for its answer.
    rests: bool,
    /// Set once; the life is over.
    outcome: Option<Outcome>,
}

impl State {
    /// The state before anything happened, for a server of so many backends.
    pub fn new(backends: u16, policy: RestartPolicy) -> State {
        State {
            phase: Phase::Init,
            backends,
            policy,
            crashes: CrashHistory::default(),
            children: BTreeSet::new(),
            shutdown: None,
            moved: false,
            cleaning: Cleaning::Unasked,
            recovered: false,
            down: None,
            memory_asked: false,
            rests: false,
            outcome: None,
        }
    }

    /// Whether the server, or what was to be it, has lost a child: a start is one of several then.
    pub fn has_crashed(&self) -> bool {
        !self.crashes.is_empty()
    }

    /// Where in life.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the shell should say [`Event::Cleaned`] when that is so.
    pub fn waits_for_cleaning(&self) -> bool {
        self.phase == Phase::Run && self.cleaning == Cleaning::UnderWay
    }

    /// Whether the shell should say [`Event::NoClients`] as soon as that is so.
    pub fn waits_for_clients(&self) -> bool {
        self.phase == Phase::Run && self.shutdown == Some(Shutdown::Smart)
    }
}

/// One step: what follows from `event` in `state`.
pub fn next(state: &State, event: &Event) -> (State, Vec<Action>) {
    let mut step = Step {
        state: state.clone(),
        actions: Vec::new(),
    };
    if state.outcome.is_none() {
        step.handle(event);
        step.settle();
    }
    (step.state, step.actions)
}

/// A step in the making.
struct Step {
    state: State,
    actions: Vec<Action>,
}

impl Step {
    fn handle(&mut self, event: &Event) {
        match *event {
            Event::LockAcquired => {
                if self.state.phase == Phase::Init && !self.state.memory_asked {
                    self.reset_shared_memory();
                }
            }
            Event::MemoryReady => {
                if std::mem::take(&mut self.state.memory_asked) {
                    self.start();
                }
            }
            Event::MemoryFailed { now_ms } => {
                if std::mem::take(&mut self.state.memory_asked) {
                    self.memory_failed(now_ms);
                }
            }
            Event::ChildExited { role, exit, now_ms } => {
                if self.state.children.remove(&role) {
                    self.child_exited(role, exit, now_ms);
                }
            }
            Event::ForkFailed { role, now_ms } => {
                let known = self.state.children.remove(&role);
                if known && self.state.phase != Phase::WaitDeadEnd {
                    self.crash_by(&format!("could not fork {role}"), Down::Shortage, now_ms);
                }
            }
            Event::RestartTimerExpired => {
                if std::mem::take(&mut self.state.rests) {
                    self.reset_shared_memory();
                }
            }
            Event::RedoStarted => {
                if self.state.phase == Phase::Startup {
                    self.state.phase = Phase::Recovery;
                    self.act(Action::Status(StatusWord::Recovering));
                }
            }
            Event::Shutdown(mode) => {
                if self.state.shutdown < Some(mode) {
                    self.shut_down(mode, format!("received {mode} shutdown request"));
                } else if mode == Shutdown::Fast && self.is_stopping_fast() {
                    self.log("received another fast shutdown request".to_owned());
                    self.stop_backends();
                }
            }
            Event::DirectoryMoved => {
                if self.state.shutdown < Some(Shutdown::Immediate) {
                    self.state.moved = true;
                    let why = "the data directory was moved: stopping without a checkpoint";
                    self.shut_down(Shutdown::Immediate, why.to_owned());
                }
            }
            Event::Reload => {
                if self.state.shutdown < Some(Shutdown::Fast) || self.is_stopping_fast() {
                    self.log("received SIGHUP, reading the configuration again".to_owned());
                    self.act(Action::ReadConfiguration);
                }
            }
            Event::ConfigurationRead(policy) => {
                self.state.policy = policy;
                let phase = self.state.phase;
                if matches!(phase, Phase::Startup | Phase::Recovery | Phase::Run) {
                    self.signal_all(Signal::Hup, |_| true);
                }
            }
            Event::Cleaned => {
                if self.state.waits_for_cleaning() {
                    self.state.cleaning = Cleaning::Done;
                    if self.is_stopping_fast() {
                        self.stop_backends();
                    }
                }
            }
            Event::NoClients => {
                if self.state.waits_for_clients() {
                    self.stop_backends();
                }
            }
            Event::KillTimerExpired => {
                if self.state.phase == Phase::WaitDeadEnd && !self.state.children.is_empty() {
                    let names: Vec<String> =
                        self.state.children.iter().map(Role::to_string).collect();
                    self.warn(format!(
                        "{} did not leave within shutdown_kill_timeout: sending SIGKILL",
                        names.join(", ")
                    ));
                    self.signal_all(Signal::Kill, |_| true);
                }
            }
        }
    }

    /// Passes through the states whose condition to leave already holds.
    fn settle(&mut self) {
        loop {
            let children = &self.state.children;
            match self.state.phase {
                Phase::StopBackends if !children.iter().any(|&r| ends_first(r)) => {
                    if self.state.recovered {
                        self.state.phase = Phase::WaitBackends;
                        self.signal_all(Signal::Term, |role| role == Role::Walwriter);
                    } else {
                        self.dead_end(Down::Unrecovered);
                    }
                }
                Phase::WaitBackends if !children.contains(&Role::Walwriter) => {
                    self.state.phase = Phase::ShutdownCheckpoint;
                    self.log(
                        "backends and walwriter are gone: sending SIGUSR2 to the \
                              checkpointer for the shutdown checkpoint"
                            .to_owned(),
                    );
                    self.signal_all(Signal::Usr2, |role| role == Role::Checkpointer);
                }
                Phase::Shutdown2 if children.is_empty() => self.end(Outcome::Stopped),
                Phase::WaitDeadEnd if children.is_empty() => self.all_dead(),
                _ => return,
            }
        }
    }

    fn child_exited(&mut self, role: Role, exit: Exit, now_ms: u64) {
        use Phase::{Recovery, ShutdownCheckpoint, Startup, StopBackends};
        use Phase::{WaitBackends, WaitDeadEnd};
        match (self.state.phase, role, exit) {
            (WaitDeadEnd, _, _) => {}
            (Startup | Recovery, Role::Startup, Exit::Code(0)) => self.serve(),
            // Whoever has just asked for a start is told at once; a server that has served tries again.
            (Startup | Recovery, Role::Startup, Exit::Code(exit::SHORTAGE))
                if self.state.has_crashed() =>
            {
                self.fell_short(role, exit, now_ms);
            }
            (Startup | Recovery, Role::Startup, Exit::Code(_)) => {
                self.error(format!("{role} {exit}: the server cannot start"));
                self.dead_end(Down::StartupFailed);
            }
            // It was asked to end. Whatever the code, redo does not count as complete: a
            // shutdown checkpoint over half a recovery would lose what is left to redo.
            (StopBackends, Role::Startup, Exit::Code(_)) => {}
            (StopBackends, Role::Startup, Exit::Signal(by)) if by == Signal::Term.number() => {}
            (StopBackends, Role::Backend(_), Exit::Code(0)) => {}
            (WaitBackends, Role::Walwriter, Exit::Code(0)) => {}
            (ShutdownCheckpoint, Role::Checkpointer, Exit::Code(0)) => {
                self.log(format!("{role} {exit}: the shutdown checkpoint is written"));
                self.state.phase = Phase::Shutdown2;
            }
            (_, _, Exit::Code(exit::SHORTAGE)) => self.fell_short(role, exit, now_ms),
            _ => self.crash(&format!("{role} {exit}"), now_ms),
        }
    }

    /// A child has ended because something was short, which may be there in a moment.
    fn fell_short(&mut self, role: Role, exit: Exit, now_ms: u64) {
        let what = format!("{role} {exit} for want of something");
        self.crash_by(&what, Down::Shortage, now_ms);
    }

    /// There was no room for a segment, or something else was short.
    fn memory_failed(&mut self, now_ms: u64) {
        // Whoever has just asked for a start is told at once; a server that has served tries again.
        if !self.state.has_crashed() {
            return self.end(Outcome::NoSharedMemory);
        }
        let policy = self.state.policy;
        self.state.crashes.record(now_ms, &policy);
        match self.state.crashes.decide(&policy) {
            Ok(()) => self.rest("there is no shared memory"),
            Err(why) => self.end(Outcome::StaysDown(why)),
        }
    }

    /// What is short may be there in a moment.
    fn rest(&mut self, why: &str) {
        self.log(format!("{why}: starting again in a moment"));
        self.state.rests = true;
        self.act(Action::ArmRestartTimer);
    }

    /// A child is gone that should not be: nobody may use the segment any more.
    fn crash(&mut self, what: &str, now_ms: u64) {
        self.crash_by(what, Down::Crash, now_ms);
    }

    fn crash_by(&mut self, what: &str, down: Down, now_ms: u64) {
        let policy = self.state.policy;
        self.state.crashes.record(now_ms, &policy);
        self.error(format!("{what}: terminating all other server processes"));
        self.dead_end(down);
    }

    fn shut_down(&mut self, mode: Shutdown, why: String) {
        let first = self.state.shutdown.is_none();
        let was_open = self.is_stopping_fast();
        self.state.shutdown = Some(mode);
        self.log(why);
        let goes_on_serving = self.state.phase == Phase::Run && mode == Shutdown::Fast;
        if was_open || first && !goes_on_serving {
            self.act(Action::Admit(Admission::ShuttingDown));
        }
        if first {
            self.act(Action::Status(StatusWord::Stopping));
        }
        match (self.state.phase, mode) {
            (Phase::Init, _) => self.end(Outcome::Stopped),
            (Phase::NoChildren, _) => self.end(Outcome::CrashedWhileStopping),
            (Phase::WaitDeadEnd, _) => {}
            (_, Shutdown::Immediate) => self.dead_end(Down::Immediate),
            // There are no clients yet to wait for.
            (Phase::Startup | Phase::Recovery, _) => self.stop_backends(),
            (Phase::Run, Shutdown::Fast) if self.state.cleaning == Cleaning::Done => {
                self.stop_backends();
            }
            (Phase::Run, Shutdown::Fast) => self.clean(),
            (Phase::Run, Shutdown::Smart) => {
                self.log("waiting for clients to leave".to_owned());
                self.clean();
            }
            // Already on the way; fast has nothing to add to what smart has begun.
            (
                Phase::StopBackends
                | Phase::WaitBackends
                | Phase::ShutdownCheckpoint
                | Phase::Shutdown2,
                _,
            ) => {}
        }
    }

    fn reset_shared_memory(&mut self) {
        assert!(
            self.state.children.is_empty(),
            "P4: a child still uses the segment"
        );
        self.state.memory_asked = true;
        self.act(Action::ResetSharedMemory);
    }

    /// A new segment, nobody on it: the checkpointer first, since it serves startup.
    fn start(&mut self) {
        self.state.phase = Phase::Startup;
        self.state.recovered = false;
        self.state.down = None;
        self.act(Action::Admit(Admission::Loading));
        self.act(Action::Status(StatusWord::Starting));
        self.fork(Role::Checkpointer);
        self.fork(Role::Startup);
    }

    fn serve(&mut self) {
        self.state.phase = Phase::Run;
        self.state.recovered = true;
        self.fork(Role::Walwriter);
        for number in 0..self.state.backends {
            self.fork(Role::Backend(number));
        }
        self.log("server is ready to accept connections".to_owned());
        self.act(Action::Admit(Admission::Open));
        self.act(Action::Status(StatusWord::Ready));
    }

    /// Whether a fast shutdown has begun and clients are still served.
    fn is_stopping_fast(&self) -> bool {
        self.state.phase == Phase::Run && self.state.shutdown == Some(Shutdown::Fast)
    }

    /// Has the checkpointer write what is dirty while clients are still served.
    fn clean(&mut self) {
        if self.state.cleaning == Cleaning::Unasked {
            self.state.cleaning = Cleaning::UnderWay;
            self.signal_all(Signal::Usr1, |role| role == Role::Checkpointer);
        }
    }

    fn stop_backends(&mut self) {
        if self.is_stopping_fast() {
            self.act(Action::Admit(Admission::ShuttingDown));
        }
        self.state.phase = Phase::StopBackends;
        self.signal_all(Signal::Term, ends_first);
    }

    fn dead_end(&mut self, down: Down) {
        assert!(
            self.state.phase != Phase::WaitDeadEnd,
            "SIGQUIT was sent before"
        );
        if self.is_stopping_fast() {
            self.act(Action::Admit(Admission::ShuttingDown));
        }
        self.state.phase = Phase::WaitDeadEnd;
        self.state.down = Some(down);
        if self.state.shutdown.is_none() {
            let (admission, status) = if matches!(down, Down::Crash | Down::Shortage) {
                (Admission::Loading, StatusWord::Starting)
            } else {
                (Admission::ShuttingDown, StatusWord::Stopping)
            };
            self.act(Action::Admit(admission));
            self.act(Action::Status(status));
        }
        if !self.state.children.is_empty() {
            self.signal_all(Signal::Quit, |_| true);
            self.act(Action::ArmKillTimer);
        }
    }

    /// After SIGQUIT the last child is gone.
    fn all_dead(&mut self) {
        self.act(Action::DisarmKillTimer);
        self.state.phase = Phase::NoChildren;
        match self
            .state
            .down
            .expect("WaitDeadEnd is entered by dead_end alone")
        {
            Down::Immediate => self.end(Outcome::StoppedImmediately),
            Down::Unrecovered => self.end(Outcome::StoppedInRecovery),
            Down::StartupFailed => self.end(Outcome::StartupFailed),
            Down::Crash | Down::Shortage if self.state.shutdown.is_some() => {
                self.end(Outcome::CrashedWhileStopping);
            }
            down @ (Down::Crash | Down::Shortage) => {
                match self.state.crashes.decide(&self.state.policy) {
                    Ok(()) if down == Down::Shortage => {
                        self.rest("all server processes are gone");
                    }
                    Ok(()) => {
                        self.log("all server processes are gone: starting again".to_owned());
                        self.reset_shared_memory();
                    }
                    Err(why) => self.end(Outcome::StaysDown(why)),
                }
            }
        }
    }

    fn end(&mut self, outcome: Outcome) {
        assert!(self.state.children.is_empty(), "P5: a child still lives");
        let outcome = match self.state.moved {
            true => Outcome::DirectoryMoved,
            false => outcome,
        };
        self.state.phase = Phase::NoChildren;
        self.state.outcome = Some(outcome);
        self.act(Action::Exit(outcome));
    }

    fn fork(&mut self, role: Role) {
        let fresh = self.state.children.insert(role);
        assert!(fresh && self.state.shutdown.is_none(), "P1: forking {role}");
        self.act(Action::Fork(role));
    }

    /// Sends to every living child that `wanted` names, in the order of roles.
    fn signal_all(&mut self, signal: Signal, wanted: fn(Role) -> bool) {
        let sends = self.state.children.iter().filter(|&&role| wanted(role));
        self.actions
            .extend(sends.map(|&role| Action::Signal(role, signal)));
    }

    fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn log(&mut self, line: String) {
        self.act(Action::Log(log::Level::Info, line));
    }

    fn warn(&mut self, line: String) {
        self.act(Action::Log(log::Level::Warn, line));
    }

    fn error(&mut self, line: String) {
        self.act(Action::Log(log::Level::Error, line));
    }
}

/// Who gets SIGTERM first in an ordered stop; the walwriter follows when they are gone.
fn ends_first(role: Role) -> bool {
    matches!(role, Role::Startup | Role::Backend(_))
}

#[cfg(test)]
mod tests;
