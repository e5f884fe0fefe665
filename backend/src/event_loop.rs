//! The loop of a backend: many connections, one thread, no blocking but for a miss of a page and,
//! by the rule below, a flush.
//!
//! # Who flushes
//!
//! What follows is decided by `rd_store::wal::lead`, for what this loop tells it of itself.
//!
//! A commit's reply waits behind its LSN (`output.rs`). When a turn ends with replies that wait,
//! somebody must flush the log. A wake-up of the walwriter costs as much as the sync of a fast
//! disk, so the backend flushes itself if nobody would suffer from its being away for that long:
//!
//! 1. it is not busy for most of the time that its flushes leave, and has no connections that are
//!    served without waiting for the disk (*readers*), or so few that their waiting is less than
//!    the wake-ups would be (`flushing.rs`), and
//! 2. nothing else is ready to be served (what is there is served first, and its commits join the
//!    flush), and
//! 3. nobody else is flushing.
//!
//! Otherwise it raises the request and leaves the flush to the walwriter or to whoever holds the
//! flush latch; its event fires when the LSN it waits for is durable.
//!
//! Whoever has flushed goes on flushing while others ask for it: it sends its own replies, serves
//! what has come in meanwhile, and flushes again. It is the *leader*; the others only raise their
//! requests. When it stops (nothing is asked for, or rule 1 no longer holds) it hands over to a
//! backend that sleeps and waits, or else to the walwriter. It serves nobody while it flushes, so it
//! looks after each flush whether it has something to do, and ends its turn after a few, or when
//! something is due: otherwise one without events of its own would flush for others for ever.
//!
//! A follower for which rule 1 holds does not look at its sockets until the flush that it waits for is
//! done, as the leader cannot: what comes in meanwhile could become durable only with the next one,
//! and served all at once it costs fewer turns.
//!
//! # When replies are sent
//!
//! The connections that have something to say are served first, and their turns ended together
//! afterwards: the first reply wakes the client's thread, and the others find it awake, where each alone
//! would wake it anew. Redis does so, too. So that none waits for many others, turns are ended after
//! each connection once a tenth of a millisecond has passed ([`TURNS_END_NS`]); a reply may still
//! have to wait for one long turn behind it.
//!
//! # Sleeping
//!
//! Before it sleeps the backend publishes the least LSN it waits for and whether it has commands
//! that wait for a notice (parked ones, and those that wait for a checkpoint), looks at the LSN and
//! tries the commands once more, and only then waits in epoll (see `rd_store::procs`).
//!
//! Commands that wait for a notice are tried again when one has come, not in every turn. A stream
//! (`waiting.rs`) goes on by a piece per turn, and the backend does not sleep while one can.

mod accepting;
#[cfg(test)]
mod tests;
mod tick;

use crate::brake::Braked;
use crate::connection::{Connection, Hold, Received};
use crate::load::Load;
use crate::server::Server;
use crate::session::Session;
use crate::slab::Slab;
use crate::turn::{proceed, refuse_rest, run, run_buffered};
use accepting::Room;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rd_base::counters::Counter;
use rd_base::handover::CLOSED_MAX;
use rd_base::{Lsn, Role};
use rd_store::ChildContext;
use rd_store::procs::SlotNo;
use rd_store::wal::flush::{FlushOutcome, Flusher};
use rd_store::wal::lead::{Leader, Turn};
use rd_sys::fault::{self, Fault};
use rd_sys::fdpass::Channel;
use rd_sys::process::Signal;
use rd_sys::signals::Signals;
use rd_wire::ReplyWriter;
use std::io;
use std::time::Duration;

/// Epoll tokens that are no connection's.
const TOKEN_EVENT: u64 = u64::MAX;
const TOKEN_SIGNALS: u64 = u64::MAX - 1;
const TOKEN_CONNECTIONS: u64 = u64::MAX - 2;
const TOKEN_DEATH: u64 = u64::MAX - 3;

/// Bytes read at a time while a connection has nothing half received.
const SCRATCH_BYTES: usize = 64 << 10;
/// Reads of one connection in a turn.
const READS_PER_TURN: usize = 4;
/// Bytes of log, written and not asked for, that are worth a flush while more is being served: to
/// wake the walwriter costs little beside carrying out so much.
const FLUSH_MEANWHILE_BYTES: u64 = 32 << 10;
/// For how long connections are served before their turns are ended: many short requests take less.
const TURNS_END_NS: u64 = 100_000;
/// For how long replies may be sent to clients that do not read, once the backend must leave.
const FAREWELL_NS: u64 = 2_000_000_000;

/// A backend's loop and all it holds.
pub struct EventLoop {
    context: ChildContext,
    server: Server,
    flusher: Flusher,
    epoll: Epoll,
    /// What a follower listens to: everything but sockets.
    calm: Epoll,
    events: Vec<EpollEvent>,
    signals: Signals,
    postmaster: Channel,
    connections: Slab<Connection>,
    room: Room,
    /// Connections whose replies wait for an LSN.
    gated: Vec<u64>,
    /// Connections whose command is parked or under way.
    held: Vec<u64>,
    /// Connections that are held back because commits are slowed.
    braked: Braked,
    /// Connections with requests that could be carried out: since their output was sent, or when
    /// others have had their turn.
    again: Vec<u64>,
    /// Connections that were served and whose turns have not been ended.
    served: Vec<u64>,
    /// When turns were last ended, or the first of them began.
    turns_ended_ns: u64,
    /// Whether the others know that commands here wait for a notice.
    shows_parked: bool,
    /// Whether those commands are to be tried in the next turn, notice or not.
    must_retry: bool,
    scratch: Box<[u8]>,
    load: Load,
    leader: Leader,
    /// Whether somebody else sees to the flush that replies wait for, and nobody would suffer if
    /// the sockets were left alone until then.
    is_calm: bool,
    /// Monotonic clock when the last flush by this backend was done.
    flushed_at_ns: u64,
    /// Connections closed that the postmaster has not been told of.
    unreported: usize,
    next_tick_ns: u64,
    /// When a backend that must leave stops waiting for clients to read; 0: it need not leave.
    leave_by_ns: u64,
}

impl EventLoop {
    /// Sets up the loop of a freshly forked backend.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn new(
        context: ChildContext,
        server: Server,
        signals: Signals,
        postmaster: Channel,
    ) -> nix::Result<EventLoop> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let calm = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        for poll in [&epoll, &calm] {
            let event = context.shared.procs.event(context.slot());
            poll.add(event.fd(), readable(TOKEN_EVENT))?;
            poll.add(signals.fd(), readable(TOKEN_SIGNALS))?;
            poll.add(context.death_watch.fd(), readable(TOKEN_DEATH))?;
        }
        epoll.add(postmaster.fd(), readable(TOKEN_CONNECTIONS))?;
        let flusher = Flusher::for_store(&server.store);
        Ok(EventLoop {
            context,
            flusher,
            server,
            epoll,
            calm,
            events: vec![EpollEvent::empty(); 256],
            signals,
            postmaster,
            connections: Slab::new(),
            room: Room::of_process(),
            gated: Vec::new(),
            held: Vec::new(),
            braked: Braked::default(),
            again: Vec::new(),
            served: Vec::new(),
            turns_ended_ns: 0,
            shows_parked: false,
            must_retry: false,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            load: Load::default(),
            leader: Leader::default(),
            is_calm: false,
            flushed_at_ns: 0,
            unreported: 0,
            next_tick_ns: 0,
            leave_by_ns: 0,
        })
    }

    /// Serves until the postmaster ends it.
    pub fn run(mut self) -> ! {
        loop {
            let count = self.wait();
            let noticed = self.context.shared.procs.event(self.context.slot()).take();
            self.server.begin_turn();
            self.turns_ended_ns = self.server.now_ns;
            let again = std::mem::take(&mut self.again);
            for index in 0..count {
                let Some(event) = self.events.get(index).copied() else {
                    break;
                };
                self.handle(event);
                if index + 1 < count {
                    self.flush_meanwhile();
                }
            }
            self.end_turns();
            if self.context.shared.clients.take_kills(self.context.slot()) {
                self.kill_marked();
            }
            for token in again {
                if let Some(connection) = self.connections.get_mut(token) {
                    connection.is_again = false;
                    self.serve(token);
                }
            }
            for token in self
                .braked
                .release(&mut self.connections, self.server.now_ns)
            {
                self.serve(token);
            }
            self.end_turns();
            if noticed {
                // Files that are dropped or offline are not to be held open by a backend that sleeps.
                self.server.store.forget_gone();
            }
            self.retry_held(noticed);
            self.settle();
            self.server.tidy();
            self.server.remove_ended();
            if self.server.now_ns >= self.next_tick_ns {
                self.tick();
            }
            self.report_closed();
            self.relieve();
            if self.leave_by_ns != 0 && self.may_leave() {
                // Others may count on its flushing.
                let wal = self.server.store.shared.wal.clone();
                self.leader.follow(&wal, None);
                self.server.leave();
            }
        }
    }

    /// Sleeps until something is to be done, and says how many events there are.
    fn wait(&mut self) -> usize {
        debug_assert!(self.served.is_empty(), "turns that nobody ends");
        self.show_parked();
        let has_more = self.must_retry || self.has_more_to_serve();
        let procs = &self.context.shared.procs;
        let slot = self.context.slot();
        let event = procs.event(slot);
        let may_sleep = event.prepare_sleep();
        let awake = !may_sleep
            || has_more
            || self.leader.goes_on()
            || self.is_released()
            || self.server.has_chores;
        let timeout = if awake {
            EpollTimeout::ZERO
        } else {
            procs.set_willing(
                slot,
                !self.gated.is_empty() && !self.server.flushing.is_left(),
            );
            self.timeout()
        };
        self.server.end_turn();
        let is_calm = std::mem::take(&mut self.is_calm) && !awake;
        let epoll = if is_calm { &self.calm } else { &self.epoll };
        let count = epoll.wait(&mut self.events, timeout);
        if may_sleep {
            event.finish_sleep();
        }
        self.leader.nominate(procs.take_nomination(slot));
        // EINTR: a signal came; its descriptor says which.
        count.unwrap_or(0)
    }

    /// Tells the others whether commands here wait for a notice. What was noticed before they knew
    /// is lost, so those commands are then tried once more.
    fn show_parked(&mut self) {
        let waits = |token: &u64| match self.connections.get(*token).map(|c| &c.hold) {
            Some(Hold::Parked) => true,
            Some(Hold::Waiting(waiting)) => !waiting.is_stream(),
            _ => false,
        };
        let is_parked = self.held.iter().any(waits);
        if is_parked != self.shows_parked {
            let procs = &self.context.shared.procs;
            procs.set_parked(self.context.slot(), is_parked);
            self.shows_parked = is_parked;
            self.must_retry = is_parked;
        }
    }

    /// Whether something can be done for a connection without an event: a stream goes on, or
    /// requests are there whose turn has come since replies were sent.
    fn has_more_to_serve(&self) -> bool {
        let output_max = self.server.output_max();
        let is_ready = |token: &u64| match self.connections.get(*token) {
            Some(connection) => connection.has_ready_stream(output_max),
            None => false,
        };
        !self.again.is_empty()
            || self.server.has_awaited_stream_room()
            || self.held.iter().any(is_ready)
    }

    /// Whether a reply that waits has become free since the turn's end.
    fn is_released(&self) -> bool {
        let least = self.least_awaited();
        self.context
            .shared
            .procs
            .set_wait_lsn(self.context.slot(), least.unwrap_or(Lsn::ZERO));
        least.is_some_and(|lsn| lsn <= self.server.store.shared.wal.durable_lsn())
    }

    fn least_awaited(&self) -> Option<Lsn> {
        let waits = |token: &u64| self.connections.get(*token)?.output.waits_for();
        self.gated
            .iter()
            .filter_map(waits)
            .chain(self.server.parked_until)
            .min()
    }

    /// When there is something to do that no event tells, by the monotonic clock.
    fn wakes_at_ns(&self) -> Option<u64> {
        let has_ticks = !self.connections.is_empty() || self.leave_by_ns != 0;
        let server = self.server.wakes_at_ns(!self.held.is_empty());
        let tick = has_ticks.then_some(self.next_tick_ns);
        server
            .into_iter()
            .chain(self.braked.first_ns())
            .chain(tick)
            .min()
    }

    fn timeout(&self) -> EpollTimeout {
        let Some(at_ns) = self.wakes_at_ns() else {
            return EpollTimeout::NONE;
        };
        let left = at_ns.saturating_sub(self.server.now_ns);
        // Epoll counts in milliseconds: not one too early.
        let left = Duration::from_millis(left.div_ceil(1_000_000));
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
    }

    fn handle(&mut self, event: EpollEvent) {
        match event.data() {
            TOKEN_EVENT => {}
            TOKEN_SIGNALS => self.take_signals(),
            TOKEN_CONNECTIONS => self.accept(),
            TOKEN_DEATH => rd_sys::fork::exit_process(1),
            token => {
                let broken = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
                if event.events().intersects(broken) {
                    return self.hang_up(token);
                }
                if event.events().contains(EpollFlags::EPOLLOUT)
                    && let Some(connection) = self.connections.get_mut(token)
                {
                    connection.blocked = false;
                }
                if self.connections.get(token).is_some_and(|c| c.is_again) {
                    // Its turn comes, and it has one at a time.
                    return;
                }
                self.serve(token);
            }
        }
    }

    /// The client has gone. What it had sent is carried out, as by Redis, as far as that waits for
    /// nothing; nobody is there to read the replies.
    fn hang_up(&mut self, token: u64) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.is_gone = true;
            connection.braked_until_ns = 0;
        }
        self.serve(token);
        self.end_turns();
        let goes_on = self.connections.get(token).is_some_and(|connection| {
            let has_more = connection.yields || !connection.ended && !connection.drained;
            has_more && self.server.may_run(connection)
        });
        if !goes_on {
            self.close(token);
        }
    }

    fn take_signals(&mut self) {
        let signals = self.signals.take();
        if signals.contains(Signal::Hup) {
            let config = self.context.reload();
            self.flusher.set_method(config.wal_sync_method());
            self.server.reconfigure(config);
            let limits = self.server.request_limits();
            for token in self.connections.tokens() {
                if let Some(connection) = self.connections.get_mut(token) {
                    connection.parser.set_limits(limits);
                }
            }
        }
        let is_term = signals.contains(Signal::Term) && self.leave_by_ns == 0;
        if is_term && self.context.is_told_to_leave() {
            self.leave_by_ns = self.server.now_ns + FAREWELL_NS;
            self.next_tick_ns = 0;
            for token in self.connections.tokens() {
                self.dismiss(token);
            }
        }
    }

    /// Ends a connection for a shutdown: the command under way is ended with an error, replies
    /// that are owed are still sent.
    fn dismiss(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let what = match &connection.hold {
            Hold::Free | Hold::Closing => None,
            Hold::Parked => Some("the command was not carried out"),
            Hold::Waiting(waiting) if waiting.is_stream() => Some("the reply is not complete"),
            Hold::Waiting(_) => Some("this does not wait for the checkpoint's end"),
        };
        if let Some(what) = what {
            let proto = connection.session.proto;
            ReplyWriter::new(connection.output.bytes(), proto)
                .error(&format!("ERR Redoubt is shutting down; {what}"));
        }
        connection.hold = Hold::Closing;
        connection.stream = None;
        self.after_turn(token);
    }

    fn may_leave(&mut self) -> bool {
        self.connections.is_empty() || self.server.now_ns >= self.leave_by_ns
    }

    /// If it is crowded here, sends connections back to be served by another backend, half of what
    /// it has more than the emptiest.
    fn relieve(&mut self) {
        let now_ns = self.server.now_ns;
        if !self.load.is_crowded(now_ns) && fault::point(Fault::BackendCrowded).is_ok() {
            return;
        }
        let own_slot = self.context.slot();
        let others = (0..self.server.config.backends())
            .filter_map(|number| SlotNo::of(Role::Backend(u16::try_from(number).ok()?)))
            .filter(|slot| *slot != own_slot);
        let clients = &self.context.shared.clients;
        let fewest = others.map(|slot| clients.count_of(slot)).min();
        let own = self.connections.len();
        let mut surplus = fewest.map_or(0, |fewest| own.saturating_sub(fewest) / 2);
        if surplus == 0 {
            return self.load.rest(now_ns);
        }
        for token in self.connections.tokens() {
            if surplus == 0 {
                return;
            }
            match self.send_back(token) {
                Ok(true) => surplus -= 1,
                Ok(false) => {}
                // The postmaster has much to read; in the next window there is another turn.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    log::warn!("could not send a connection back to the postmaster: {error}");
                    return self.load.rest(now_ns);
                }
            }
        }
    }

    /// Sends a connection back for another backend; `Ok(false)` if it cannot leave now.
    fn send_back(&mut self, token: u64) -> io::Result<bool> {
        let Some(connection) = self.connections.get(token) else {
            return Ok(false);
        };
        let Some(message) = connection.to_hand_over() else {
            return Ok(false);
        };
        // The copy that is on its way would keep the socket watched here.
        self.epoll.delete(connection.fd())?;
        if let Err(error) = self.postmaster.send(&message, Some(connection.fd())) {
            let interest = EpollEvent::new(connection.interest, token);
            if self.epoll.add(connection.fd(), interest).is_err() {
                // Nobody would see what its client sends.
                self.close(token);
            }
            return Err(error);
        }
        if let Some(connection) = self.connections.remove(token) {
            self.server.part_with(&connection);
        }
        Ok(true)
    }

    /// Reads from a connection and carries out what it asks for. [`Self::end_turns`] ends its turn.
    fn serve(&mut self, token: u64) {
        self.pump(token);
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.connections.get_mut(token) else {
                return;
            };
            if connection.ended || connection.yields || !self.server.may_run(connection) {
                break;
            }
            let received = if connection.input.is_empty() {
                let received = connection.receive_into(&mut self.scratch);
                if let Received::Bytes(count) = received {
                    let fresh = self.scratch.get(..count).unwrap_or(&[]);
                    let done = run(&mut self.server, connection, fresh);
                    connection
                        .input
                        .extend_from_slice(fresh.get(done..).unwrap_or(&[]));
                }
                received
            } else {
                let received = connection.receive();
                match received {
                    Received::Bytes(_) => run_buffered(&mut self.server, connection),
                    Received::NoRoom => refuse_rest(&mut self.server, connection),
                    Received::Nothing | Received::Closed => {}
                }
                received
            };
            match received {
                Received::Bytes(count) => {
                    connection.received_at_ns = self.server.now_ns;
                    self.server.add(Counter::NetInputBytes, count as u64);
                }
                Received::Nothing | Received::NoRoom => {}
                Received::Closed => connection.ended = true,
            }
            if connection.drained {
                break;
            }
        }
        self.served.push(token);
        let now_ns = self.server.store.clock.monotonic_ns();
        if now_ns.saturating_sub(self.turns_ended_ns) >= TURNS_END_NS {
            self.end_turns();
            self.turns_ended_ns = self.server.store.clock.monotonic_ns();
        }
    }

    /// Ends the turns of those that were served: [`Self::after_turn`], which serves nobody.
    fn end_turns(&mut self) {
        let mut served = std::mem::take(&mut self.served);
        for token in served.drain(..) {
            self.after_turn(token);
        }
        self.served = served;
    }

    /// Goes on with what is buffered, once what held it back is over.
    fn pump(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        if !connection.input.is_empty() && self.server.may_run(connection) {
            run_buffered(&mut self.server, connection);
        }
    }

    /// Sends what may be sent, and files the connection under what it waits for.
    fn after_turn(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        connection
            .output
            .release(self.server.store.shared.wal.durable_lsn());
        // Before the reply: whoever has it may ask another backend for CLIENT LIST.
        self.server.note_turn(&connection.session);
        let mut sent_bytes = 0;
        let alive = connection.send(&mut sent_bytes);
        self.server.add(Counter::NetOutputBytes, sent_bytes);
        if sent_bytes > 0 {
            connection.progress_at_ns = self.server.now_ns;
        }
        let has_requests = !connection.input.is_empty() && !connection.is_partial;
        let over = connection.output.is_empty()
            && (matches!(connection.hold, Hold::Closing)
                || connection.ended && matches!(connection.hold, Hold::Free) && !has_requests);
        if !alive || over {
            return self.close(token);
        }
        if has_requests && !connection.is_again && self.server.may_run(connection) {
            // They were held up by the replies that have just been sent, or others have their turn.
            connection.is_again = true;
            self.again.push(token);
        }
        if connection.output.waits_for().is_some() && !connection.is_gated {
            connection.is_gated = true;
            self.gated.push(token);
        }
        let is_held = matches!(connection.hold, Hold::Parked | Hold::Waiting(_));
        if is_held && !connection.is_held {
            connection.is_held = true;
            self.held.push(token);
        }
        self.braked.note(token, connection, self.server.now_ns);
        self.watch(token);
        self.account(token);
    }

    /// Tells epoll what the connection can go on with.
    fn watch(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let mut interest = EpollFlags::empty();
        if !connection.ended && self.server.may_run(connection) {
            interest |= EpollFlags::EPOLLIN;
        }
        if connection.blocked {
            interest |= EpollFlags::EPOLLOUT;
        }
        if connection.interest != interest {
            connection.interest = interest;
            let mut event = EpollEvent::new(interest, token);
            if let Err(error) = self.epoll.modify(connection.fd(), &mut event) {
                log::warn!(
                    "could not watch connection {}: {error}",
                    connection.session.id
                );
                self.close(token);
            }
        }
    }

    /// Holds the memory of all connections under its limit: the greediest one pays.
    fn account(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let bytes = connection.heap_bytes();
        self.server.memory_bytes += bytes;
        self.server.memory_bytes -= connection.accounted_bytes;
        connection.accounted_bytes = bytes;
        while self.server.memory_bytes > self.server.memory_bytes_max() {
            let Some(greediest) = self.connections.max_by_key(|c| c.accounted_bytes) else {
                return;
            };
            if let Some(connection) = self.connections.get(greediest) {
                log::warn!(
                    "closing connection {} ({}), which holds {} bytes of input and replies: all \
                     connections of this backend together exceed backend_memory_max ({} bytes)",
                    connection.session.id,
                    connection.session.address,
                    connection.accounted_bytes,
                    self.server.memory_bytes_max(),
                );
            }
            self.close(greediest);
        }
    }

    /// Closes the connections that CLIENT KILL has marked.
    fn kill_marked(&mut self) {
        for token in self.connections.tokens() {
            let Some(connection) = self.connections.get(token) else {
                continue;
            };
            let Session { id, row, .. } = &connection.session;
            let clients = &self.context.shared.clients;
            if row.is_some_and(|row| clients.is_to_be_killed(row, *id)) {
                log::info!("connection {id}: closed by CLIENT KILL");
                self.close(token);
            }
        }
    }

    fn close(&mut self, token: u64) {
        let Some(connection) = self.connections.remove(token) else {
            return;
        };
        if let Some(lsn) = connection.output.waits_until() {
            // Nobody waits for what it wrote any more, but others are to see it.
            self.server.store.shared.wal.request_lazy_flush(lsn);
        }
        self.server.forget(&connection);
        self.unreported += 1;
    }

    /// Goes on with the streams that can; and, if there was a notice, looks after the commands that
    /// wait for one.
    fn retry_held(&mut self, noticed: bool) {
        let durable = self.server.store.shared.wal.durable_lsn();
        let tries_all = std::mem::take(&mut self.must_retry)
            || noticed
            || self.server.parked_until.is_some_and(|lsn| lsn <= durable)
            || self.server.has_held_due()
            || self.server.has_pause_ended()
            || self.server.has_awaited_stream_room()
            || self.server.now_ns >= self.next_tick_ns;
        if tries_all {
            self.server.forget_held();
        }
        let output_max = self.server.output_max();
        for token in std::mem::take(&mut self.held) {
            let Some(connection) = self.connections.get_mut(token) else {
                continue;
            };
            let is_held = matches!(connection.hold, Hold::Parked | Hold::Waiting(_));
            if is_held && !tries_all && !connection.has_ready_stream(output_max) {
                self.held.push(token);
                continue;
            }
            connection.is_held = false;
            match std::mem::replace(&mut connection.hold, Hold::Free) {
                Hold::Waiting(waiting) => {
                    connection.hold = proceed(&mut self.server, connection, waiting);
                }
                Hold::Parked | Hold::Free => {}
                Hold::Closing => connection.hold = Hold::Closing,
            }
            self.pump(token);
            // More may have come in while it was held and not watched.
            self.serve(token);
        }
        self.end_turns();
    }

    /// Sees to it that what waits for the disk gets there, and sends what has got there.
    fn settle(&mut self) {
        let wal = self.server.store.shared.wal.clone();
        let mut leader = self.leader;
        let follows = leader.settle(&wal, self);
        self.leader = leader;
        self.is_calm = follows && !self.server.flushing.is_left();
    }

    /// Has what was written in this turn flushed by the walwriter, if it is much, while the turn
    /// goes on: else the processor would wait for the disk afterwards.
    fn flush_meanwhile(&self) {
        let wal = &self.server.store.shared.wal;
        let insert = wal.insert_lsn();
        let asked = wal.requested_lsn().max(wal.durable_lsn());
        if insert.get().saturating_sub(asked.get()) >= FLUSH_MEANWHILE_BYTES && !wal.is_flushing() {
            wal.request_flush(insert);
        }
    }

    fn after_release(&mut self, token: u64) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        connection
            .output
            .release(self.server.store.shared.wal.durable_lsn());
        let stopped_reading = !connection.interest.contains(EpollFlags::EPOLLIN);
        if stopped_reading {
            self.serve(token);
        } else {
            self.after_turn(token);
        }
    }

    /// Tells the postmaster how many connections have ended: as many as the message has bytes.
    fn report_closed(&mut self) {
        while self.unreported > 0 {
            let message = [0; CLOSED_MAX];
            let count = self.unreported.min(CLOSED_MAX);
            let told = message
                .get(..count)
                .map(|message| self.postmaster.send(message, None));
            match told {
                Some(Ok(())) => self.unreported -= count,
                // Told with the next ones, when the postmaster has read what waits for it.
                _ => return,
            }
        }
    }
}

impl Turn for EventLoop {
    fn release(&mut self) {
        let durable = self.server.store.shared.wal.durable_lsn();
        let mut index = 0;
        while let Some(&token) = self.gated.get(index) {
            let Some(connection) = self.connections.get_mut(token) else {
                // Closed since.
                self.gated.swap_remove(index);
                continue;
            };
            match connection.output.waits_for() {
                Some(lsn) if lsn > durable => index += 1,
                _ => {
                    self.gated.swap_remove(index);
                    connection.is_gated = false;
                    // If it has later gates it is put back.
                    self.after_release(token);
                }
            }
        }
        self.end_turns();
    }

    fn awaited(&self) -> Option<Lsn> {
        let durable = self.server.store.shared.wal.durable_lsn();
        let until = |token: &u64| self.connections.get(*token)?.output.waits_until();
        let parked_until = self.server.parked_until.filter(|lsn| *lsn > durable);
        let gated = self.gated.iter().filter_map(until);
        gated.chain(parked_until).max()
    }

    fn leaves_flushing(&self) -> bool {
        self.server.flushing.is_left()
    }

    fn something_is_due(&self) -> bool {
        self.wakes_at_ns()
            .is_some_and(|at| at <= self.flushed_at_ns)
    }

    /// If every connection waits for the disk, nobody is likely to have sent more, and it is not worth a
    /// system call to look.
    fn something_is_ready(&mut self) -> bool {
        if self.has_more_to_serve() {
            return true;
        }
        if !self.connections.is_empty() && self.gated.len() == self.connections.len() {
            return false;
        }
        let mut peeked = [EpollEvent::empty(); 1];
        matches!(self.epoll.wait(&mut peeked, EpollTimeout::ZERO), Ok(count) if count > 0)
    }

    fn flush(&mut self) -> FlushOutcome {
        let began_ns = self.server.store.clock.monotonic_ns();
        let outcome = self.flusher.flush_once();
        let ended_ns = self.server.store.clock.monotonic_ns();
        self.server.flushing.note_flush(ended_ns - began_ns);
        self.flushed_at_ns = ended_ns;
        outcome
    }
}
