//! The shell around the state machine: one loop that sleeps in poll, turns what woke it into
//! events, and does what [`crate::state::next`] says.
//!
//! * Job: births and deaths of the children, signals, admission.
//! * Woken by: signals, listening sockets, the backends' sockets, the kill deadline, a restart that
//!   is put off, the next look at whether the data directory is where it was.
//! * Signals: SIGTERM smart, SIGINT fast, SIGQUIT immediate shutdown; SIGHUP reload; SIGCHLD a
//!   child has ended; SIGUSR1 recovery has moved on, or CONFIG SET has set something.
//! * Writes: `postmaster.pid` and `postmaster.opts`, and nothing else in the data directory.
//! * Its death: the children see SIGQUIT and leave at once; the next start recovers.
//!
//! Invariants: one thread; it never waits for a latch and trusts nothing in shared memory; each
//! descriptor it takes in goes to a child or is closed.

use crate::admission::{Gate, Refusal, fill_of};
use crate::children::{Children, Inherited, SentBack};
use crate::datadir::Lock;
use crate::listen::{Accept, Accepted, Listeners, refuse};
use crate::options_file;
use crate::pidfile::{PidFile, Status};
use crate::place::{HERE, Place};
use crate::progress::{in_words, progress};
use crate::reap;
use crate::restart::RestartPolicy;
use crate::state::{Action, Admission, Event, Outcome, Phase, Shutdown, State, StatusWord, next};
use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit};
use rd_base::config::Reloaded;
use rd_base::error::with_causes;
use rd_base::handover::Handover;
use rd_base::{Config, Overrides, Role, logline};
use rd_store::checkpoint::StopOrder;
use rd_store::shared::{Phase as ServerPhase, Shared, Sizes};
use rd_sys::clock::monotonic_ns;
use rd_sys::fault;
use rd_sys::process::Signal;
use rd_sys::shm::Segment;
use rd_sys::signals::Signals;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// Connections accepted from one socket before signals are looked at again.
const ACCEPTS_PER_TURN: usize = 64;
/// From a crash for want of a process, or of what one needs, to the restart, so that not all tries that
/// the restart policy allows come at the same moment.
const SHORTAGE_PAUSE_NS: u64 = 1_000_000_000;
/// Between two looks at whether the data directory is where it was. Whatever is done to it meanwhile,
/// all files are reached from within.
const PLACE_LOOK_NS: u64 = 10_000_000_000;
/// Pause of the listening sockets when even refusing takes more than there is.
const EXHAUSTED_PAUSE_NS: u64 = 100_000_000;
/// For how long it polls what it may, while that is not all.
const POLL_SHORT_MS: u64 = 100;

/// What the boot has made ready.
pub struct Boot {
    /// The data directory, which is the working directory.
    pub place: Place,
    /// Segment size from `pg_control` included.
    pub config: Config,
    /// Of the data directory; the children hold it too.
    pub lock: Lock,
    /// Open and listening.
    pub listeners: Listeners,
    /// Written.
    pub pid_file: PidFile,
    /// Installed before anything was forked.
    pub signals: Signals,
    /// Of the shared memory segment; the same at every start of this data directory.
    pub shm_name: String,
    /// The pipe that the children watch.
    pub children: Children,
    /// For `postmaster.opts`, when nothing can fail any more by what it says.
    pub command_line: String,
}

/// The postmaster at work.
pub struct Server {
    place: Place,
    look_at_place_at_ns: u64,
    config: Arc<Config>,
    overrides: Overrides,
    /// Of those in this segment.
    overrides_generation: u32,
    _lock: Lock,
    listeners: Listeners,
    pid_file: PidFile,
    signals: Signals,
    shm_name: String,
    command_line: Option<String>,
    shared: Option<Arc<Shared>>,
    children: Children,
    state: State,
    gate: Gate,
    events: VecDeque<Event>,
    /// Accepted, and no backend can take it now; nothing else is accepted until one can.
    waiting: Option<Accepted>,
    /// Between two backends.
    moving: Vec<SentBack>,
    last_connection: u64,
    kill_at_ns: Option<u64>,
    restart_at_ns: Option<u64>,
    accept_again_at_ns: Option<u64>,
    /// The last attempt to accept found no descriptor.
    exhausted: bool,
    redo_since_ns: u64,
    welcomed: bool,
}

/// What poll watches.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Link(u16),
    Listener(usize),
}

/// The parameters of the restart policy.
fn policy(config: &Config) -> RestartPolicy {
    let window = config.crash_restart_window();
    RestartPolicy {
        restart_after_crash: config.restart_after_crash(),
        restarts_max: config.crash_restart_max(),
        window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
    }
}

fn now_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

impl Server {
    /// A server that has yet to start.
    pub fn new(boot: Boot) -> Server {
        let backends = u16::try_from(boot.config.backends()).expect("at most BACKENDS_MAX");
        let state = State::new(backends, policy(&boot.config));
        let gate = Gate::new(boot.config.max_connections(), fill_of(&boot.config));
        Server {
            place: boot.place,
            look_at_place_at_ns: monotonic_ns().saturating_add(PLACE_LOOK_NS),
            config: Arc::new(boot.config),
            overrides: Overrides::new(),
            overrides_generation: 0,
            _lock: boot.lock,
            listeners: boot.listeners,
            pid_file: boot.pid_file,
            signals: boot.signals,
            shm_name: boot.shm_name,
            command_line: Some(boot.command_line),
            shared: None,
            children: boot.children,
            state,
            gate,
            events: VecDeque::from([Event::LockAcquired]),
            waiting: None,
            moving: Vec::new(),
            last_connection: 0,
            kill_at_ns: None,
            restart_at_ns: None,
            accept_again_at_ns: None,
            exhausted: false,
            redo_since_ns: 0,
            welcomed: false,
        }
    }

    /// Serves until the end; gives the exit status.
    pub fn run(mut self) -> i32 {
        loop {
            while let Some(event) = self.events.pop_front() {
                let (state, actions) = next(&self.state, &event);
                if state.phase() != self.state.phase() {
                    log::debug!("state {} -> {}", self.state.phase(), state.phase());
                }
                self.state = state;
                for action in actions {
                    if let Action::Exit(outcome) = action {
                        return self.leave(outcome);
                    }
                    self.perform(action);
                }
            }
            if self.state.waits_for_clients() && self.gate.connections() == 0 {
                self.events.push_back(Event::NoClients);
            } else {
                self.wait();
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            // Who has put another directory there has no use for this server, and may start its own.
            Action::ResetSharedMemory if self.has_moved() => {
                self.events.push_back(Event::DirectoryMoved);
            }
            Action::ResetSharedMemory => {
                let event = match self.reset_shared_memory() {
                    Ok(()) => Event::MemoryReady,
                    Err(error) => {
                        let error = with_causes(&*error);
                        match self.state.has_crashed() {
                            true => log::error!("{error}"),
                            false => rd_base::fatal!("{error}"),
                        }
                        Event::MemoryFailed { now_ms: now_ms() }
                    }
                };
                self.events.push_back(event);
            }
            Action::Fork(role) => self.fork(role),
            Action::Signal(role, signal) => {
                log::debug!("sending {signal} to {role}");
                self.announce_order(role, signal);
                self.children.signal(role, signal);
            }
            Action::Admit(admission) => {
                self.gate.admission = admission;
                if admission == Admission::Loading {
                    // What their clients have set is of a server that has crashed.
                    self.gate.settled(self.moving.drain(..).count());
                }
            }
            Action::Status(word) => self.show_status(word),
            Action::ArmKillTimer => {
                let timeout = self.config.shutdown_kill_timeout().as_nanos();
                let timeout_ns = u64::try_from(timeout).unwrap_or(u64::MAX);
                self.kill_at_ns = Some(monotonic_ns().saturating_add(timeout_ns));
            }
            Action::DisarmKillTimer => self.kill_at_ns = None,
            Action::ArmRestartTimer => {
                self.restart_at_ns = Some(monotonic_ns().saturating_add(SHORTAGE_PAUSE_NS));
            }
            Action::ReadConfiguration => self.read_configuration(),
            Action::Log(level, line) => log::log!(level, "{line}"),
            Action::Exit(_) => unreachable!("the loop leaves instead"),
        }
    }

    /// Throws the segment away, if there is one, and makes a new one.
    fn reset_shared_memory(&mut self) -> Result<()> {
        // All children are dead, so what is there is whole; when it was looked at last, somebody may
        // have been replacing it, or he has died before he told of it.
        self.look_at_overrides();
        self.shared = None;
        if Segment::remove_name(&self.shm_name)? {
            log::debug!("removed the name {} of an earlier segment", self.shm_name);
        }
        let sizes = Sizes::from_config(&self.config);
        let shared = Shared::create(sizes, &self.shm_name, self.config.shm_keep_name())?;
        if !self.overrides.is_empty() {
            // Nobody else is there yet, so the latch inside is free.
            let kept = self.overrides.clone();
            let Ok(_) = shared.change_overrides(|_| Ok::<_, Infallible>(kept));
        }
        self.overrides_generation = shared.overrides_generation();
        self.shared = Some(shared);
        if let Some(line) = self.command_line.take() {
            options_file::write(Path::new(HERE), self.place.path(), &line);
        }
        Ok(())
    }

    fn fork(&mut self, role: Role) {
        let shared = self
            .shared
            .as_ref()
            .expect("a child is forked only onto a segment");
        let inherited = Inherited {
            config: &self.config,
            shared,
        };
        let forked = self.children.fork(role, &inherited, || {
            // In the child: what belongs to the postmaster alone is closed.
            self.listeners.close_in_child();
            self.waiting = None;
            self.moving.clear();
        });
        match forked {
            Ok(pid) => {
                log::debug!("forked {role} (PID {pid})");
                if let Role::Backend(number) = role {
                    self.gate.add_backend(number);
                }
            }
            Err(error) => {
                log::error!("could not fork {role}: {error}");
                let now_ms = now_ms();
                self.events.push_back(Event::ForkFailed { role, now_ms });
            }
        }
    }

    /// Lets children know that the signal they are about to get is an order to stop, and whose.
    fn announce_order(&self, role: Role, signal: Signal) {
        let order = match (role, signal) {
            (Role::Checkpointer, Signal::Usr1) => StopOrder::Clean,
            (Role::Backend(_) | Role::Startup, Signal::Term) => StopOrder::Leave,
            (Role::Walwriter, Signal::Term) => StopOrder::LastFlush,
            (Role::Checkpointer, Signal::Usr2) => StopOrder::Checkpoint,
            _ => return,
        };
        if let Some(shared) = &self.shared {
            shared.checkpoint.order_stop(order);
        }
    }

    fn show_status(&mut self, word: StatusWord) {
        let status = match word {
            StatusWord::Starting => Status::Starting,
            StatusWord::Recovering => {
                self.redo_since_ns = monotonic_ns();
                return self.show_recovery();
            }
            StatusWord::Ready => {
                self.welcome();
                Status::Ready
            }
            StatusWord::Stopping => Status::Stopping,
        };
        self.write_status(status);
    }

    fn write_status(&mut self, status: Status) {
        if let Err(error) = self.pid_file.set_status(status) {
            log::warn!("{}", with_causes(&*error));
        }
    }

    /// How far recovery is, in numbers from shared memory.
    fn recovery(&self) -> Option<crate::pidfile::Progress> {
        let shared = self.shared.as_ref()?;
        let elapsed_ms = monotonic_ns().saturating_sub(self.redo_since_ns) / 1_000_000;
        progress(shared.phase(), shared.redo_progress(), elapsed_ms)
    }

    fn show_recovery(&mut self) {
        if let Some(progress) = self.recovery() {
            self.write_status(Status::Recovering(progress));
        }
    }

    /// SIGUSR1: startup or the checkpointer has something new to show.
    fn look_at_progress(&mut self) {
        let Some(shared) = &self.shared else { return };
        if self.state.waits_for_cleaning() && shared.checkpoint.is_cleaned() {
            self.events.push_back(Event::Cleaned);
        }
        match (self.state.phase(), shared.phase()) {
            (Phase::Startup, ServerPhase::Repairing | ServerPhase::Redo) => {
                self.events.push_back(Event::RedoStarted);
            }
            (Phase::Recovery, _) => self.show_recovery(),
            _ => {}
        }
    }

    /// Tells a new user what to do next; once.
    fn welcome(&mut self) {
        if !std::mem::replace(&mut self.welcomed, true) {
            let text = crate::welcome::text(
                self.place.path(),
                self.listeners.tcp_addresses(),
                self.listeners.unix_path(),
                io::stdout().is_terminal(),
            );
            // If nobody reads it, nobody misses it.
            let _ = writeln!(io::stdout(), "{text}");
        }
    }

    /// Reads the files again, as SIGHUP asks.
    fn read_configuration(&mut self) {
        if let Some(shared) = &self.shared {
            if let Some(found) = shared.peek_overrides() {
                self.overrides = found;
            }
            shared.count_file_read();
        }
        let reloaded = self.config.reload(&self.overrides);
        self.configure(reloaded);
    }

    /// Takes up what CONFIG SET has set since the last look, be it what was there before: whoever has
    /// set what is there no more is to hear of it. What was replaced meanwhile is not to be had: whoever
    /// has replaced it signals, or dies, and then it is looked at once more when all are dead.
    fn look_at_overrides(&mut self) {
        let Some(shared) = &self.shared else { return };
        let generation = shared.overrides_generation();
        if generation == self.overrides_generation {
            return;
        }
        if let Some(found) = shared.peek_overrides() {
            self.overrides_generation = generation;
            let reloaded = self.config.with_overrides(&found);
            self.overrides = found;
            self.configure(reloaded);
        }
    }

    fn configure(&mut self, reloaded: Reloaded) {
        for problem in &reloaded.problems {
            log::warn!("{problem}");
        }
        // Only when the text is another: a point that was passed stays disarmed.
        if reloaded.config.fault_points() != self.config.fault_points()
            && let Err(error) = fault::arm(reloaded.config.fault_points())
        {
            log::warn!("parameter \"fault_points\": {error}");
        }
        // When that is done, so that whoever reads it may build on it.
        for changed in &reloaded.changed {
            log::info!("{changed}");
        }
        self.config = Arc::new(reloaded.config);
        logline::set_level(self.config.log_min_messages());
        self.gate.connections_max = self.config.max_connections();
        self.gate.fill = fill_of(&self.config);
        self.listeners.set_keepalive(self.config.tcp_keepalive());
        self.events
            .push_back(Event::ConfigurationRead(policy(&self.config)));
    }

    /// The last thing: everything that others could mistake for a living server goes.
    fn leave(mut self, outcome: Outcome) -> i32 {
        self.listeners.remove_unix_socket();
        drop(self.shared);
        if let Err(error) = Segment::remove_name(&self.shm_name) {
            log::warn!("{error}");
        }
        if let Err(error) = self.pid_file.remove() {
            log::warn!("{}", with_causes(&*error));
        }
        match outcome.status() {
            0 => log::info!("{outcome}"),
            _ => rd_base::fatal!("{outcome}"),
        }
        outcome.status()
    }

    /// Sleeps until something happens, and takes it in.
    fn wait(&mut self) {
        let ready = match self.poll() {
            Ok(ready) => ready,
            Err(Errno::EINTR) => Vec::new(),
            Err(error) => {
                // Nothing can be waited for any more: the children must not go on unwatched.
                rd_sys::crash::panic_abort(&format!("the postmaster could not poll: {error}"))
            }
        };
        // Signals first: a shutdown request is older than the ends of children that it caused.
        self.take_signals();
        if self.kill_at_ns.is_some_and(|at_ns| at_ns <= monotonic_ns()) {
            self.kill_at_ns = None;
            self.events.push_back(Event::KillTimerExpired);
        }
        if self
            .restart_at_ns
            .is_some_and(|at_ns| at_ns <= monotonic_ns())
        {
            self.restart_at_ns = None;
            self.events.push_back(Event::RestartTimerExpired);
        }
        self.look_at_place();
        for source in &ready {
            if let Source::Link(number) = source {
                self.take_reports(*number);
            }
        }
        self.pass_on();
        self.hand_over_waiting();
        for source in &ready {
            if let Source::Listener(index) = source {
                self.accept(*index);
            }
        }
    }

    /// From time to time: whether the data directory is where it was.
    fn look_at_place(&mut self) {
        let now_ns = monotonic_ns();
        if now_ns < self.look_at_place_at_ns {
            return;
        }
        if self.has_moved() {
            // Once is enough.
            self.look_at_place_at_ns = u64::MAX;
            self.events.push_back(Event::DirectoryMoved);
        } else {
            self.look_at_place_at_ns = now_ns.saturating_add(PLACE_LOOK_NS);
        }
    }

    /// Whether the data directory is no longer where it was; the log says so.
    fn has_moved(&self) -> bool {
        let moved = self.place.check();
        moved
            .inspect_err(|error| rd_base::fatal!("{}", with_causes(&**error)))
            .is_err()
    }

    fn poll(&mut self) -> Result<Vec<Source>, Errno> {
        let now_ns = monotonic_ns();
        if self.accept_again_at_ns.is_some_and(|at_ns| at_ns <= now_ns) {
            self.accept_again_at_ns = None;
        }
        let mut sources = vec![Source::Signals];
        let mut polled = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let mut link_flags = PollFlags::POLLIN;
        if self.waiting.is_some() || !self.moving.is_empty() {
            link_flags |= PollFlags::POLLOUT;
        }
        for (number, link) in self.children.links() {
            sources.push(Source::Link(number));
            polled.push(PollFd::new(link, link_flags));
        }
        if self.waiting.is_none() && self.accept_again_at_ns.is_none() {
            for (index, listener) in self.listeners.descriptors().enumerate() {
                sources.push(Source::Listener(index));
                polled.push(PollFd::new(listener, PollFlags::POLLIN));
            }
        }
        let deadlines = [self.kill_at_ns, self.restart_at_ns, self.accept_again_at_ns];
        let deadline_ns = deadlines
            .into_iter()
            .flatten()
            .fold(self.look_at_place_at_ns, u64::min);
        let left_ms = deadline_ns.saturating_sub(now_ns).div_ceil(1_000_000);
        let timeout = |ms: u64| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout(left_ms)) {
            // Somebody has lowered the limit below what is open: signals and backends come first, and it
            // may be higher in a moment.
            Err(Errno::EINVAL) => {
                let limit = getrlimit(Resource::RLIMIT_NOFILE)?.0;
                let count =
                    usize::try_from(limit).map_or(polled.len(), |limit| limit.min(polled.len()));
                poll(&mut polled[..count], timeout(left_ms.min(POLL_SHORT_MS)))?;
            }
            done => {
                done?;
            }
        }
        let ready = polled.iter().map(|polled| polled.any().unwrap_or(true));
        Ok(sources
            .into_iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|pair| pair.0)
            .collect())
    }

    fn take_signals(&mut self) {
        let taken = self.signals.take();
        for (signal, mode) in [
            (Signal::Quit, Shutdown::Immediate),
            (Signal::Int, Shutdown::Fast),
            (Signal::Term, Shutdown::Smart),
        ] {
            if taken.contains(signal) {
                self.events.push_back(Event::Shutdown(mode));
            }
        }
        if taken.contains(Signal::Hup) {
            self.events.push_back(Event::Reload);
        }
        if taken.contains(Signal::Usr1) {
            self.look_at_overrides();
            self.look_at_progress();
        }
        if taken.contains(Signal::Chld) {
            for (role, exit) in reap::ended(&mut self.children) {
                if let Role::Backend(number) = role {
                    self.gate.remove_backend(number);
                }
                let now_ms = now_ms();
                self.events
                    .push_back(Event::ChildExited { role, exit, now_ms });
            }
        }
    }

    /// A backend's socket has something to say: connections closed or sent back, or the backend's
    /// own end.
    fn take_reports(&mut self, number: u16) {
        let before = self.moving.len();
        let closed = self.children.take_reports(number, &mut self.moving);
        for _ in before..self.moving.len() {
            self.gate.sent_back(number);
        }
        match closed {
            Ok(connections) => self.gate.closed(number, connections),
            Err(error) => {
                // SIGCHLD says the rest. Without its socket it gets no further connections.
                log::debug!("the socket of backend {number} has ended: {error}");
                self.children.close_link(number);
                self.gate.remove_backend(number);
            }
        }
    }

    /// Takes in what waits at one listening socket, up to a limit.
    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            if self.waiting.is_some() {
                return;
            }
            match self.listeners.accept(index) {
                Accept::One(accepted) => {
                    self.exhausted = false;
                    self.admit(accepted);
                }
                Accept::Empty => return,
                Accept::Exhausted(error) => return self.shed(index, &error),
                Accept::Failing(error) => {
                    if !std::mem::replace(&mut self.exhausted, true) {
                        log::warn!(
                            "could not accept a connection: {error}; trying again and again"
                        );
                    }
                    return self.rest_from_accepting();
                }
            }
        }
    }

    /// A connection waits and there is no descriptor for it: it is refused with a spare one, or,
    /// if even that fails, the listening sockets rest for a while. The log says it once.
    fn shed(&mut self, index: usize, error: &io::Error) {
        if !std::mem::replace(&mut self.exhausted, true) {
            log::warn!(
                "could not accept a connection: {error}; refusing further ones: raise the limit of \
                 open files (ulimit -n), or lower max_connections"
            );
        }
        let line = Refusal::NoDescriptor.to_string();
        if !self
            .listeners
            .shed_one(index, |accepted| refuse(accepted, &line))
        {
            self.rest_from_accepting();
        }
    }

    fn rest_from_accepting(&mut self) {
        self.accept_again_at_ns = Some(monotonic_ns().saturating_add(EXHAUSTED_PAUSE_NS));
    }

    /// Hands a new connection to a backend, keeps it waiting if none can take it at the moment,
    /// or refuses it.
    fn admit(&mut self, accepted: Accepted) {
        let mut full = Vec::new();
        loop {
            match self.gate.choose(&full) {
                Ok(Some(number)) => match self.hand_over(&accepted, number) {
                    Ok(()) => return,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => full.push(number),
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        // SIGCHLD is on its way, and what follows from it.
                        self.gate.remove_backend(number);
                    }
                    Err(error) => {
                        log::warn!("could not hand a connection to backend {number}: {error}");
                        return self.refuse(accepted, Refusal::Full);
                    }
                },
                Ok(None) => {
                    self.waiting = Some(accepted);
                    return;
                }
                Err(refusal) => return self.refuse(accepted, refusal),
            }
        }
    }

    /// Gives the connections that backends have sent back to others, as far as those can take them
    /// at the moment.
    fn pass_on(&mut self) {
        let mut full = Vec::new();
        while let Some(sent_back) = self.moving.last() {
            let Some(number) = self.gate.choose_next(sent_back.from, &full) else {
                return;
            };
            match self
                .children
                .send(number, &sent_back.message, sent_back.socket.as_fd())
            {
                Ok(()) => {
                    self.gate.settled(1);
                    self.gate.handed_over(number);
                    self.moving.pop();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => full.push(number),
                // SIGCHLD is on its way, and what follows from it.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.gate.remove_backend(number);
                }
                Err(error) => {
                    log::warn!("could not hand a connection on to backend {number}: {error}");
                    self.gate.settled(1);
                    self.moving.pop();
                }
            }
        }
    }

    fn hand_over_waiting(&mut self) {
        if let Some(accepted) = self.waiting.take() {
            self.admit(accepted);
        }
    }

    fn hand_over(&mut self, accepted: &Accepted, number: u16) -> io::Result<()> {
        let connection = self.last_connection + 1;
        let handover = Handover {
            connection,
            peer: accepted.peer.clone(),
            settings: None,
        };
        let message = handover.encode().ok_or(io::ErrorKind::InvalidInput)?;
        self.children
            .send(number, &message, accepted.socket.as_fd())?;
        self.last_connection = connection;
        self.gate.handed_over(number);
        Ok(())
    }

    fn refuse(&self, accepted: Accepted, refusal: Refusal) {
        let refusal = match refusal {
            Refusal::Loading(_) => Refusal::Loading(self.recovery().map(in_words)),
            other => other,
        };
        if self.config.log_connections() {
            log::info!("refused {}: {refusal}", accepted.peer.address());
        }
        refuse(accepted, &refusal.to_string());
    }
}
