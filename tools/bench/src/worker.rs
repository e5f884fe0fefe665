//! The event loop: one thread drives many connections.
//!
//! A connection has some operations under way, oldest first; replies come in the order in which
//! trips were sent. In a closed loop a connection sends its next operation as soon as one is
//! answered. At a given rate operations fall due one after another, whatever the server does, and
//! go to the connection that has waited longest for one; while none is free they wait, and their
//! time counts.
//!
//! Invariants:
//! - W1. One `read` and one `write` serve all that is ready on a connection; nothing blocks but
//!   `epoll_wait`.
//! - W2. No byte from a server makes the loop panic.

use crate::address::Stream;
use crate::dialect::{Dialect, Values};
use crate::keys::Keys;
use crate::operation::{Kind, Next, Operation, Outcome, Step, Transfer};
use crate::plan::Work;
use crate::record::{Answered, Record};
use anyhow::{Context, Result, anyhow};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes read at a time.
const READ_BYTES: usize = 64 * 1024;
/// Events taken at a time.
const EVENTS_MAX: usize = 64;
/// The timer's mark among the events.
const TIMER: u64 = u64::MAX;
/// The loop wakes at least so often, to see whether it should end.
const WAKE_EVERY: Duration = Duration::from_millis(100);
/// Operations that fall due within so short a time are sent together: waking for each by itself
/// would take more of a processor than the operations do.
const SLACK: Duration = Duration::from_micros(50);

/// What a group of connections does. There are at most two: the load that is looked at, and
/// writers beside it.
#[derive(Clone, Debug)]
pub struct Group {
    /// What each operation is.
    pub work: Work,
    /// Operations that a connection has under way at once.
    pub pipeline: usize,
    /// Time between two operations of this thread; `None`: a closed loop.
    pub interval: Option<Duration>,
}

/// When a run begins and ends.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The first operation.
    pub begin: Instant,
    /// The first that counts.
    pub start: Instant,
    /// No operation is begun from here on.
    pub end: Instant,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// What threads and their master tell each other while they run.
#[derive(Debug, Default)]
pub struct Shared {
    /// Operations of the first group that are complete.
    pub operations: AtomicU64,
    /// Somebody has failed, or was told to end.
    pub is_over: AtomicBool,
}

/// What one thread is given.
pub struct Task {
    /// Its connections, each with its group.
    pub connections: Vec<(Stream, usize)>,
    /// What the groups do.
    pub groups: Vec<Group>,
    /// Puts operations into bytes.
    pub dialect: Box<dyn Dialect>,
    /// Which keys.
    pub keys: Keys,
    /// What is written.
    pub values: Values,
    /// Transactions take as few trips as they can.
    pub is_batched: bool,
    /// A refusal is counted, and does not end the run.
    pub keeps_going: bool,
    /// From when to when.
    pub times: Times,
    /// For progress, and the end.
    pub shared: Arc<Shared>,
}

/// An operation under way.
struct Flight {
    operation: Operation,
    due: Instant,
    sent: Instant,
    /// Replies that are still to come of this trip.
    replies: u32,
    outcome: Outcome,
}

/// A connection and what is under way on it.
struct Connection {
    stream: Stream,
    group: usize,
    input: Vec<u8>,
    /// The bytes of `input` that have come and are not yet taken.
    filled: std::ops::Range<usize>,
    output: Vec<u8>,
    /// Bytes of `output` that are sent.
    written: usize,
    waits_to_write: bool,
    flights: VecDeque<Flight>,
}

/// A group while it runs.
struct Running {
    group: Group,
    record: Record,
    /// Connections that could take another operation, the one that has waited longest first.
    free: VecDeque<usize>,
    /// When the next operation falls due.
    due: Instant,
}

/// A thread's loop.
struct Worker {
    task: Task,
    connections: Vec<Connection>,
    groups: Vec<Running>,
    epoll: Epoll,
    timer: TimerFd,
    /// Connections with something to send.
    unsent: Vec<usize>,
    /// The last time something came.
    heard: Instant,
}

/// Runs the load of one thread to its end; the records of its groups.
///
/// # Errors
/// When a connection breaks, does not answer in time, or answers with an error.
pub fn run(mut task: Task) -> Result<Vec<Record>> {
    let shared = Arc::clone(&task.shared);
    let streams = std::mem::take(&mut task.connections);
    let result = Worker::new(task, streams).and_then(Worker::run);
    if result.is_err() {
        shared.is_over.store(true, Ordering::Relaxed);
    }
    result
}

impl Worker {
    fn new(task: Task, streams: Vec<(Stream, usize)>) -> Result<Worker> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let times = task.times;
        let length = times.end.saturating_duration_since(times.start);
        let running = |group: &Group| Running {
            group: group.clone(),
            record: Record::new(times.start, length),
            free: VecDeque::new(),
            due: times.begin,
        };
        let mut groups: Vec<Running> = task.groups.iter().map(running).collect();
        let mut connections = Vec::with_capacity(streams.len());
        for (index, (stream, group)) in streams.into_iter().enumerate() {
            stream.set_nonblocking()?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            let running = groups
                .get_mut(group)
                .ok_or_else(|| anyhow!("a connection belongs to no group"))?;
            let pipeline = running.group.pipeline;
            running.free.extend(std::iter::repeat_n(index, pipeline));
            connections.push(Connection {
                stream,
                group,
                input: vec![0; READ_BYTES],
                filled: 0..0,
                output: Vec::new(),
                written: 0,
                waits_to_write: false,
                flights: VecDeque::with_capacity(pipeline),
            });
        }
        Ok(Worker {
            task,
            connections,
            groups,
            epoll,
            timer,
            unsent: Vec::new(),
            heard: times.begin,
        })
    }

    fn run(mut self) -> Result<Vec<Record>> {
        let times = self.task.times;
        let now = Instant::now();
        if let Some(left) = times.begin.checked_duration_since(now) {
            std::thread::sleep(left);
        }
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        loop {
            let now = Instant::now();
            if self.task.shared.is_over.load(Ordering::Relaxed) {
                break;
            }
            let is_idle = self.connections.iter().all(|each| each.flights.is_empty());
            if now >= times.end && is_idle {
                break;
            }
            if !is_idle && now.saturating_duration_since(self.heard) > times.timeout {
                return Err(self.stuck());
            }
            self.begin_due(now)?;
            let timeout = self.arm(Instant::now())?;
            let count = match self.epoll.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => return Err(error).context("epoll_wait failed"),
            };
            for event in events.iter().take(count) {
                match event.data() {
                    TIMER => {
                        // It is non-blocking, and rings again only when set again.
                        let _ = self.timer.wait();
                    }
                    index => self.ready(index as usize, event.events())?,
                }
            }
            self.write_all()?;
        }
        Ok(self.finish())
    }

    /// Counts what was due and never sent, and gives the records away.
    fn finish(self) -> Vec<Record> {
        let end = self.task.times.end;
        let close = |mut running: Running| {
            while let Some(interval) = running.group.interval
                && running.due < end
            {
                running.record.unsent(running.due, end);
                running.due += interval;
            }
            running.record
        };
        self.groups.into_iter().map(close).collect()
    }

    fn stuck(&self) -> anyhow::Error {
        let waiting = |each: &&Connection| !each.flights.is_empty();
        let count = self.connections.iter().filter(waiting).count();
        anyhow!(
            "no answer for {} s; {count} of {} connections wait for one",
            self.task.times.timeout.as_secs(),
            self.connections.len()
        )
    }

    /// Begins what is due on connections that are free.
    fn begin_due(&mut self, now: Instant) -> Result<()> {
        let end = self.task.times.end;
        if self.groups.iter().all(|running| running.free.is_empty()) {
            return Ok(());
        }
        for index in 0..self.groups.len() {
            let running = &mut self.groups[index];
            let mut begun = Vec::new();
            while let Some(connection) = running.free.front().copied() {
                let due = match running.group.interval {
                    None => now,
                    Some(_) => running.due,
                };
                if due > now || due >= end {
                    break;
                }
                if let Some(interval) = running.group.interval {
                    running.due += interval;
                }
                running.free.pop_front();
                begun.push((connection, due));
            }
            for (connection, due) in begun {
                self.begin(connection, due, now);
                self.unsent.push(connection);
            }
        }
        self.write_all()
    }

    /// Sets the timer for what falls due next; the longest that may be waited.
    fn arm(&self, now: Instant) -> Result<EpollTimeout> {
        let has_free =
            |running: &&Running| running.group.interval.is_some() && !running.free.is_empty();
        let due = self
            .groups
            .iter()
            .filter(has_free)
            .map(|running| running.due);
        if let Some(due) = due.min()
            && due < self.task.times.end
        {
            let left = due.saturating_duration_since(now).max(SLACK);
            let once = Expiration::OneShot(TimeSpec::from_duration(left));
            self.timer.set(once, TimerSetTimeFlags::empty())?;
        }
        let left = self.task.times.end.saturating_duration_since(now);
        // Behind the end only answers are waited for.
        let wait = if left.is_zero() {
            WAKE_EVERY
        } else {
            left.min(WAKE_EVERY)
        };
        Ok(EpollTimeout::from(wait.as_millis() as u8 + 1))
    }

    /// Puts an operation on a connection, without sending it yet.
    fn begin(&mut self, index: usize, due: Instant, now: Instant) {
        let connection = &mut self.connections[index];
        let work = &self.groups[connection.group].group.work;
        let kind = draw(work, &mut self.task.keys);
        let mut flight = Flight {
            operation: Operation::new(kind, self.task.is_batched),
            due,
            sent: now,
            replies: 0,
            outcome: Outcome::default(),
        };
        self.trip(index, &mut flight);
        self.connections[index].flights.push_back(flight);
    }

    /// Queues the bytes of the trip that is next.
    fn trip(&mut self, index: usize, flight: &mut Flight) {
        let number = match flight.operation.kind {
            Kind::Set(_) => self.task.keys.number(u64::MAX),
            _ => 0,
        };
        let value = self.task.values.get(number);
        let output = &mut self.connections[index].output;
        flight.replies = self.task.dialect.encode(&flight.operation, value, output);
        flight.outcome = Outcome::default();
    }

    fn ready(&mut self, index: usize, events: EpollFlags) -> Result<()> {
        if events.contains(EpollFlags::EPOLLOUT) {
            self.write(index)?;
        }
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            self.read(index)?;
        }
        Ok(())
    }

    /// Sends what is queued, as far as the socket takes it.
    fn write(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        while connection.written < connection.output.len() {
            match connection
                .stream
                .write(&connection.output[connection.written..])
            {
                Ok(count) => connection.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(broken(index, &error)),
            }
        }
        let is_all = connection.written == connection.output.len();
        if is_all {
            connection.output.clear();
            connection.written = 0;
        }
        if connection.waits_to_write == is_all {
            connection.waits_to_write = !is_all;
            let flags = match is_all {
                true => EpollFlags::EPOLLIN,
                false => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            };
            let mut event = EpollEvent::new(flags, index as u64);
            self.epoll.modify(&connection.stream, &mut event)?;
        }
        Ok(())
    }

    /// Takes what has come, and queues what follows from it.
    fn read(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.make_room();
        match connection
            .stream
            .read(&mut connection.input[connection.filled.end..])
        {
            Ok(0) => return Err(anyhow!("the server closed connection {index}")),
            Ok(count) => connection.filled.end += count,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::Interrupted => return Ok(()),
                _ => return Err(broken(index, &error)),
            },
        }
        let now = Instant::now();
        self.heard = now;
        while self.take(index, now)? {}
        if !self.connections[index].output.is_empty() {
            self.unsent.push(index);
        }
        Ok(())
    }

    /// Sends what the replies of this round have led to. All are read first: a server that is
    /// woken once for several requests is what many clients make of it, and one that is woken for
    /// each by itself measures the waking.
    fn write_all(&mut self) -> Result<()> {
        let mut unsent = std::mem::take(&mut self.unsent);
        for index in unsent.drain(..) {
            self.write(index)?;
        }
        self.unsent = unsent;
        Ok(())
    }

    /// Takes one piece of what has come; whether there was one.
    fn take(&mut self, index: usize, now: Instant) -> Result<bool> {
        let connection = &mut self.connections[index];
        let input = &connection.input[connection.filled.clone()];
        if input.is_empty() {
            return Ok(false);
        }
        let Some(flight) = connection.flights.front_mut() else {
            return Err(anyhow!(
                "the server answered what was not asked on connection {index}"
            ));
        };
        let (operation, outcome) = (&flight.operation, &mut flight.outcome);
        let piece = self.task.dialect.decode(input, operation, outcome);
        let piece = piece.with_context(|| format!("connection {index}"))?;
        let Some(piece) = piece else {
            return Ok(false);
        };
        connection.filled.start += piece.bytes;
        flight.replies -= u32::from(piece.is_end);
        if flight.replies == 0
            && let Some(flight) = connection.flights.pop_front()
        {
            self.step(index, flight, now)?;
        }
        Ok(true)
    }

    /// Goes on with an operation whose trip is complete.
    fn step(&mut self, index: usize, mut flight: Flight, now: Instant) -> Result<()> {
        let running = &mut self.groups[self.connections[index].group];
        let next = flight.operation.next(&flight.outcome, self.task.is_batched);
        let is_over = now >= self.task.times.end;
        let is_done = next == Next::Done;
        match next {
            Next::Retry => running.record.conflict(now),
            Next::Failed(text) if self.task.keeps_going => {
                *running.record.failures.entry(text).or_default() += 1;
                if !flight.outcome.is_failed_open || flight.operation.step == Step::Rollback {
                    running.free.push_back(index);
                    return Ok(());
                }
                flight.operation.step = Step::Rollback;
            }
            Next::Failed(text) => {
                return Err(anyhow!("{:?}: {text}", flight.operation.kind));
            }
            Next::Trip | Next::Done => {}
        }
        if !is_done {
            self.trip(index, &mut flight);
            self.connections[index].flights.push_back(flight);
            return Ok(());
        }
        let (due, sent) = (flight.due, flight.sent);
        running.record.answered(Answered { due, sent, at: now });
        running.record.missing += u64::from(flight.outcome.missing);
        running.record.values += u64::from(flight.outcome.values);
        if self.connections[index].group == 0 {
            self.task.shared.operations.fetch_add(1, Ordering::Relaxed);
        }
        match running.group.interval {
            None if !is_over => self.begin(index, now, now),
            _ => running.free.push_back(index),
        }
        Ok(())
    }
}

impl Connection {
    /// Leaves room behind what has come.
    fn make_room(&mut self) {
        if self.filled.is_empty() {
            self.filled = 0..0;
        }
        if self.filled.end == self.input.len() {
            self.input.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        // A reply that is longer than the buffer.
        if self.filled.end == self.input.len() {
            self.input.resize(self.input.len() * 2, 0);
        }
    }
}

fn broken(index: usize, error: &std::io::Error) -> anyhow::Error {
    anyhow!("connection {index} to the server broke: {error}")
}

/// The next operation of a work.
fn draw(work: &Work, keys: &mut Keys) -> Kind {
    match work {
        Work::Get => Kind::Get(keys.draw()),
        Work::Set => Kind::Set(keys.draw()),
        Work::Mixed { reads_percent } => {
            if keys.number(100) < u64::from(*reads_percent) {
                Kind::Get(keys.draw())
            } else {
                Kind::Set(keys.draw())
            }
        }
        Work::Range { limit } => Kind::Range(keys.draw(), *limit),
        Work::Transfer => Kind::Transfer(transfer(keys)),
        Work::Exec => Kind::Exec(transfer(keys)),
    }
}

fn transfer(keys: &mut Keys) -> Transfer {
    let (from, to, amount) = keys.draw_pair(crate::operation::AMOUNT_MAX);
    Transfer {
        from,
        to,
        amount: amount.cast_signed(),
        balances: [0; 2],
    }
}
