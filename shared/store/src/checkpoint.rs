//! Checkpoints: asking for one and hearing of its end; what the last one did; and the orders that
//! the startup process gives to the checkpointer, which alone writes `pg_control` and data files.
//!
//! # Asking
//!
//! Flags of all requests are merged by OR (see `rd_format::control::checkpoint_flags`); attempts
//! are numbered.
//!
//! 1. The asker, under the latch, adds its flags to the pending ones and notes the number of the
//!    next attempt as its ticket. It wakes the checkpointer.
//! 2. The checkpointer, under the latch, takes all pending flags and raises the number of attempts
//!    begun. So an attempt covers every ticket up to its own number.
//! 3. At the end it stores the number as finished, and as succeeded if it did, and wakes: parked
//!    processes by their events, blocking ones by the condition.
//! 4. The asker's request is done once a number at or above its ticket has succeeded, and has
//!    failed once its number is finished and none such has succeeded.
//!
//! A pending fast request turns a paced checkpoint that is under way fast
//! ([`CheckpointShared::pending_flags`]).

use crate::ctx::Store;
use rd_base::{Lsn, Role, StartCount};
use rd_format::control::checkpoint_flags as flags;
use rd_sys::futex::Condition;
use rd_sys::latch::Latch;
use rd_sys::shm::{One, Plan, Region, Segment};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, KnownLayout};

/// Words of an error text.
const TEXT_WORDS: usize = 48;
/// Bytes of an error text that are kept.
const TEXT_BYTES: usize = TEXT_WORDS * 8;

/// Why a checkpoint is made, one cause each; the flags can hold several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The server stops.
    Shutdown,
    /// Recovery is done.
    EndOfRecovery,
    /// `max_wal_size`.
    Wal,
    /// `checkpoint_timeout`.
    Time,
    /// A command, or anything else that asked.
    Requested,
}

impl Cause {
    /// Every cause, in the order in which they are shown.
    pub const ALL: [Cause; 5] = [
        Cause::Time,
        Cause::Wal,
        Cause::Requested,
        Cause::Shutdown,
        Cause::EndOfRecovery,
    ];

    /// The cause that a checkpoint with these flags is counted under: the most pressing one.
    pub fn of(flag_bits: u32) -> Cause {
        let by_bit = [
            (flags::SHUTDOWN, Cause::Shutdown),
            (flags::END_OF_RECOVERY, Cause::EndOfRecovery),
            (
                flags::CAUSE_MANUAL | flags::CAUSE_BACKUP | flags::CAUSE_NAMESPACE,
                Cause::Requested,
            ),
            (flags::CAUSE_WAL, Cause::Wal),
            (flags::CAUSE_TIME, Cause::Time),
        ];
        let set = by_bit.iter().find(|(bits, _)| flag_bits & bits != 0);
        set.map_or(Cause::Requested, |(_, cause)| *cause)
    }

    /// The word that statistics show.
    pub fn word(self) -> &'static str {
        match self {
            Cause::Shutdown => "shutdown",
            Cause::EndOfRecovery => "end-of-recovery",
            Cause::Wal => "wal",
            Cause::Time => "time",
            Cause::Requested => "requested",
        }
    }
}

/// What the checkpointer is doing. In memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CheckpointPhase {
    /// No checkpoint is under way.
    Idle = 0,
    /// Pages are written.
    Writing = 1,
    /// Files are synced.
    Syncing = 2,
    /// The record and `pg_control` are written, old segments given up.
    Finishing = 3,
}

impl CheckpointPhase {
    /// The word that statistics show.
    pub fn word(self) -> &'static str {
        match self {
            CheckpointPhase::Idle => "idle",
            CheckpointPhase::Writing => "writing",
            CheckpointPhase::Syncing => "syncing",
            CheckpointPhase::Finishing => "finishing",
        }
    }
}

/// A text of bounded length. guard: the latch of the words that it lies in.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
struct Text {
    bytes: AtomicU64,
    words: [AtomicU64; TEXT_WORDS],
}

impl Text {
    fn set(&self, text: &str) {
        let mut end = text.len().min(TEXT_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        for (word, chunk) in self.words.iter().zip(text.as_bytes()[..end].chunks(8)) {
            let mut padded = [0; 8];
            padded[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.bytes.store(end as u64, Ordering::Relaxed);
    }

    fn get(&self) -> String {
        let length = (self.bytes.load(Ordering::Relaxed) as usize).min(TEXT_BYTES);
        let words = self
            .words
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let bytes: Vec<u8> = words.take(length).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Requests {
    /// guard: itself. Never held over I/O.
    latch: Latch,
    /// Flags asked for and not yet taken. guard: latch; may be read without it.
    pending: AtomicU32,
    /// Number of attempts begun, ended, and the last one that succeeded.
    /// guard: latch; Release by the checkpointer, Acquire by askers.
    begun: AtomicU64,
    finished: AtomicU64,
    succeeded: AtomicU64,
    /// Attempts that failed since the last that succeeded. atomic: Release by the checkpointer.
    failed_in_a_row: AtomicU32,
    /// Moves at the end of each attempt.
    ended: Condition,
    /// The error of the last attempt that failed. guard: latch.
    error: Text,
}

/// What there is to tell; written by the checkpointer, read by anybody, each word by itself.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Report {
    /// atomic: Relaxed, all of them.
    phase: AtomicU32,
    running_flags: AtomicU32,
    last_flags: AtomicU32,
    reserved: AtomicU32,
    pages_total: AtomicU64,
    pages_done: AtomicU64,
    redo_lsn: AtomicU64,
    checkpoint_lsn: AtomicU64,
    last_end_us: AtomicU64,
    last_total_us: AtomicU64,
    last_pages: AtomicU64,
    distance_bytes: AtomicU64,
    estimate_bytes: AtomicU64,
    done_by_cause: [AtomicU64; Cause::ALL.len()],
    started: AtomicU64,
    /// A checkpoint is due when the log reaches this. atomic: Release by the checkpointer.
    wal_trigger: AtomicU64,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Orders {
    /// Kind of the order under way, and what it says. guard: written by startup before `given`.
    kind: AtomicU32,
    reserved: AtomicU32,
    arguments: [AtomicU64; 6],
    /// Number of orders given and carried out. atomic: Release by startup, by the checkpointer.
    given: AtomicU64,
    carried_out: AtomicU64,
    /// What came of the last one: 1 failed, and numbers. guard: written before `carried_out`.
    failed: AtomicU32,
    reserved2: AtomicU32,
    results: [AtomicU64; 4],
    /// Moves when an order was carried out.
    done: Condition,
    /// Why the last one failed. guard: as `results`.
    error: Text,
}

#[repr(C)]
#[derive(FromBytes, KnownLayout)]
struct Words {
    requests: Requests,
    report: Report,
    orders: Orders,
}

/// Where the words lie in the segment.
#[derive(Clone, Copy)]
pub struct CheckpointRegions {
    words: Region<Words>,
}

impl CheckpointRegions {
    /// Reserves room for the words.
    pub fn plan(plan: &mut Plan) -> CheckpointRegions {
        CheckpointRegions {
            words: plan.reserve(1),
        }
    }
}

/// Requests for checkpoints, and what they came to.
#[derive(Clone)]
pub struct CheckpointShared {
    words: One<Words>,
}

/// A request for a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointTicket(u64);

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// The attempt that covers it has not ended.
    Waiting,
    /// It is done.
    Done,
    /// The attempt that covered it failed, for this reason, and none since has succeeded.
    Failed(String),
}

/// What the startup process has the checkpointer do. Numbers are in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Put copies from the double-write area back, wherever a page may be torn or unsynced.
    Repair,
    /// Write into both slots of `pg_control` that a start is recovering.
    BeginRecovery,
    /// Write into both slots of `pg_control` that the server is in production, before the first
    /// record of this start is inserted.
    Open {
        /// The count of this start.
        start_count: StartCount,
        /// Where the log goes on; all before it is synced.
        end: Lsn,
        /// How long recovery took, in milliseconds; 0 if there was none.
        recovery_ms: u64,
        /// Bytes of log that redo read per second; 0 if too little was read to tell.
        redo_bytes_per_s: u64,
    },
}

/// What [`Order::Repair`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairDone {
    /// Pages of which there was a copy.
    pub copies: u64,
    /// Pages that were written back.
    pub written: u64,
    /// Of those, the ones that were torn or missing in their place.
    pub torn: u64,
    /// The highest page LSN among the copies: the log was durable at least up to here.
    pub newest_lsn: Lsn,
}

/// The checkpointer could not carry out an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OrderFailed(pub String);

/// What there is to tell of checkpoints, each number as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// What is going on.
    pub phase: CheckpointPhase,
    /// Flags of the checkpoint under way; 0 if there is none.
    pub running_flags: u32,
    /// Pages that it is to write, and has written.
    pub pages_total: u64,
    /// See `pages_total`.
    pub pages_done: u64,
    /// Attempts begun since the segment was made.
    pub started: u64,
    /// Checkpoints done, by cause.
    pub done_by_cause: [(Cause, u64); Cause::ALL.len()],
    /// The redo point.
    pub redo_lsn: Lsn,
    /// Start of the last checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// Flags of the last checkpoint that was done.
    pub last_flags: u32,
    /// When it was done, in microseconds since 1970; from `pg_control` after a start.
    pub last_end_us: u64,
    /// How long it took, in microseconds.
    pub last_total_us: u64,
    /// Pages that it wrote.
    pub last_pages: u64,
    /// Bytes of log between the last two redo points, and the estimate for the next.
    pub distance_bytes: u64,
    /// See `distance_bytes`.
    pub estimate_bytes: u64,
    /// Attempts that failed since the last that succeeded, and why the last one did.
    pub failed_in_a_row: u32,
    /// See `failed_in_a_row`; empty if none failed.
    pub last_error: String,
}

impl CheckpointReport {
    /// Checkpoints done since the segment was made.
    pub fn done(&self) -> u64 {
        self.done_by_cause.iter().map(|(_, count)| count).sum()
    }
}

impl CheckpointShared {
    /// Opens the words.
    pub fn open(segment: &Segment, regions: &CheckpointRegions) -> CheckpointShared {
        CheckpointShared {
            words: segment.one(regions.words),
        }
    }

    /// Asks for a checkpoint with these flags; the caller wakes the checkpointer
    /// ([`Store::request_checkpoint`] does both).
    pub fn request(&self, flag_bits: u32) -> CheckpointTicket {
        let requests = &self.words.requests;
        let _guard = requests.latch.lock();
        // FORCE keeps the word from being 0 when only the wish itself was said.
        let bits = if flag_bits == 0 {
            flags::FORCE
        } else {
            flag_bits
        };
        requests.pending.fetch_or(bits, Ordering::AcqRel);
        CheckpointTicket(requests.begun.load(Ordering::Acquire) + 1)
    }

    /// What came of a request.
    pub fn outcome(&self, ticket: CheckpointTicket) -> CheckpointOutcome {
        let requests = &self.words.requests;
        if requests.succeeded.load(Ordering::Acquire) >= ticket.0 {
            return CheckpointOutcome::Done;
        }
        if requests.finished.load(Ordering::Acquire) < ticket.0 {
            return CheckpointOutcome::Waiting;
        }
        let _guard = requests.latch.lock();
        if requests.succeeded.load(Ordering::Acquire) >= ticket.0 {
            return CheckpointOutcome::Done;
        }
        CheckpointOutcome::Failed(requests.error.get())
    }

    /// Waits for the end of a request; for processes that may block.
    ///
    /// # Errors
    /// Why it failed.
    pub fn wait(&self, ticket: CheckpointTicket) -> Result<(), String> {
        loop {
            let moved = self.words.requests.ended.ticket();
            match self.outcome(ticket) {
                CheckpointOutcome::Done => return Ok(()),
                CheckpointOutcome::Failed(error) => return Err(error),
                CheckpointOutcome::Waiting => self.words.requests.ended.wait(moved, None),
            }
        }
    }

    /// Attempts that failed since the last that succeeded: at `checkpoint_failures_max` writes are
    /// to be refused.
    pub fn failed_in_a_row(&self) -> u32 {
        self.words.requests.failed_in_a_row.load(Ordering::Acquire)
    }

    /// The redo point of the last checkpoint.
    pub fn redo_lsn(&self) -> Lsn {
        Lsn::new(self.words.report.redo_lsn.load(Ordering::Relaxed))
    }

    /// Whether the log has grown so far that a checkpoint is due. One load: for whoever flushes,
    /// who then asks by [`Store::request_wal_checkpoint`].
    #[inline]
    pub fn is_due_at(&self, lsn: Lsn) -> bool {
        let trigger = self.words.report.wal_trigger.load(Ordering::Acquire);
        trigger != 0 && lsn.get() >= trigger
    }

    /// What there is to tell.
    pub fn report(&self) -> CheckpointReport {
        let report = &self.words.report;
        let get = |word: &AtomicU64| word.load(Ordering::Relaxed);
        let by_cause = std::array::from_fn(|at| (Cause::ALL[at], get(&report.done_by_cause[at])));
        let requests = &self.words.requests;
        let last_error = {
            let _guard = requests.latch.lock();
            requests.error.get()
        };
        CheckpointReport {
            phase: match report.phase.load(Ordering::Relaxed) {
                1 => CheckpointPhase::Writing,
                2 => CheckpointPhase::Syncing,
                3 => CheckpointPhase::Finishing,
                _ => CheckpointPhase::Idle,
            },
            running_flags: report.running_flags.load(Ordering::Relaxed),
            pages_total: get(&report.pages_total),
            pages_done: get(&report.pages_done),
            started: get(&report.started),
            done_by_cause: by_cause,
            redo_lsn: Lsn::new(get(&report.redo_lsn)),
            checkpoint_lsn: Lsn::new(get(&report.checkpoint_lsn)),
            last_flags: report.last_flags.load(Ordering::Relaxed),
            last_end_us: get(&report.last_end_us),
            last_total_us: get(&report.last_total_us),
            last_pages: get(&report.last_pages),
            distance_bytes: get(&report.distance_bytes),
            estimate_bytes: get(&report.estimate_bytes),
            failed_in_a_row: self.failed_in_a_row(),
            last_error,
        }
    }

    // ---- the checkpointer's side --------------------------------------------------------------

    /// Flags asked for and not yet taken.
    pub fn pending_flags(&self) -> u32 {
        self.words.requests.pending.load(Ordering::Acquire)
    }

    /// Begins an attempt: takes all pending flags, with `own` added.
    pub fn begin(&self, own: u32) -> u32 {
        let (requests, report) = (&self.words.requests, &self.words.report);
        let _guard = requests.latch.lock();
        let taken = requests.pending.swap(0, Ordering::AcqRel) | own;
        requests.begun.fetch_add(1, Ordering::AcqRel);
        report.running_flags.store(taken, Ordering::Relaxed);
        report.started.fetch_add(1, Ordering::Relaxed);
        taken
    }

    /// Says that the attempt under way was not needed, as nothing has changed: it counts as done,
    /// and in no statistics.
    pub fn skip(&self) {
        self.words.report.started.fetch_sub(1, Ordering::Relaxed);
        self.end(None);
    }

    /// Says that the attempt under way succeeded.
    pub fn succeed(&self, done: &CheckpointDone) {
        let report = &self.words.report;
        let put = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
        report.last_flags.store(done.flags, Ordering::Relaxed);
        put(&report.last_end_us, done.end_us);
        put(&report.last_total_us, done.total_us);
        put(&report.last_pages, done.pages);
        put(&report.distance_bytes, done.distance_bytes);
        put(&report.estimate_bytes, done.estimate_bytes);
        let cause = Cause::of(done.flags);
        let at = Cause::ALL
            .iter()
            .position(|known| *known == cause)
            .expect("ALL holds all");
        report.done_by_cause[at].fetch_add(1, Ordering::Relaxed);
        self.end(None);
    }

    /// Says that the attempt under way failed.
    pub fn fail(&self, error: &str) {
        self.end(Some(error));
    }

    fn end(&self, error: Option<&str>) {
        let (requests, report) = (&self.words.requests, &self.words.report);
        let guard = requests.latch.lock();
        let number = requests.begun.load(Ordering::Acquire);
        match error {
            Some(error) => {
                requests.error.set(error);
                requests.failed_in_a_row.fetch_add(1, Ordering::AcqRel);
            }
            None => {
                requests.succeeded.store(number, Ordering::Release);
                requests.failed_in_a_row.store(0, Ordering::Release);
            }
        }
        requests.finished.store(number, Ordering::Release);
        report
            .phase
            .store(CheckpointPhase::Idle as u32, Ordering::Relaxed);
        report.running_flags.store(0, Ordering::Relaxed);
        drop(guard);
        requests.ended.wake_all();
    }

    /// Shows how far the attempt under way is.
    pub fn show(&self, phase: CheckpointPhase, pages_done: u64, pages_total: u64) {
        let report = &self.words.report;
        report.phase.store(phase as u32, Ordering::Relaxed);
        report.pages_done.store(pages_done, Ordering::Relaxed);
        report.pages_total.store(pages_total, Ordering::Relaxed);
    }

    /// Shows where redo would begin, and the last checkpoint record.
    pub fn show_redo(&self, redo: Lsn, checkpoint: Lsn) {
        self.words
            .report
            .redo_lsn
            .store(redo.get(), Ordering::Relaxed);
        self.words
            .report
            .checkpoint_lsn
            .store(checkpoint.get(), Ordering::Relaxed);
    }

    /// Shows when the last checkpoint before this start was done, from `pg_control`.
    pub fn show_last(&self, end_us: u64, flag_bits: u32) {
        self.words
            .report
            .last_end_us
            .store(end_us, Ordering::Relaxed);
        self.words
            .report
            .last_flags
            .store(flag_bits, Ordering::Relaxed);
    }

    /// Says at which end of the log a checkpoint is due; [`Lsn::ZERO`] is never.
    pub fn set_wal_trigger(&self, lsn: Lsn) {
        self.words
            .report
            .wal_trigger
            .store(lsn.get(), Ordering::Release);
    }

    /// The order of the startup process that is to be carried out.
    pub fn take_order(&self) -> Option<Order> {
        let orders = &self.words.orders;
        if orders.given.load(Ordering::Acquire) == orders.carried_out.load(Ordering::Acquire) {
            return None;
        }
        let argument = |at: usize| orders.arguments[at].load(Ordering::Relaxed);
        Some(match orders.kind.load(Ordering::Relaxed) {
            ORDER_REPAIR => Order::Repair,
            ORDER_BEGIN_RECOVERY => Order::BeginRecovery,
            ORDER_OPEN => Order::Open {
                start_count: StartCount::new(argument(0) as u32),
                end: Lsn::new(argument(1)),
                recovery_ms: argument(2),
                redo_bytes_per_s: argument(3),
            },
            other => rd_sys::crash::panic_abort(&format!("order {other} in shared memory")),
        })
    }

    /// Answers the order that [`CheckpointShared::take_order`] gave.
    pub fn answer_order(&self, answer: Result<RepairDone, String>) {
        let orders = &self.words.orders;
        match &answer {
            Ok(done) => {
                let results = [done.copies, done.written, done.torn, done.newest_lsn.get()];
                for (word, result) in orders.results.iter().zip(results) {
                    word.store(result, Ordering::Relaxed);
                }
            }
            Err(error) => orders.error.set(error),
        }
        orders
            .failed
            .store(u32::from(answer.is_err()), Ordering::Relaxed);
        orders.carried_out.fetch_add(1, Ordering::Release);
        orders.done.wake_all();
    }

    /// Gives an order; one at a time, by the startup process.
    fn give_order(&self, order: Order) {
        let orders = &self.words.orders;
        let put = |at: usize, value: u64| orders.arguments[at].store(value, Ordering::Relaxed);
        let kind = match order {
            Order::Repair => ORDER_REPAIR,
            Order::BeginRecovery => ORDER_BEGIN_RECOVERY,
            Order::Open {
                start_count,
                end,
                recovery_ms,
                redo_bytes_per_s,
            } => {
                put(0, u64::from(start_count.get()));
                put(1, end.get());
                put(2, recovery_ms);
                put(3, redo_bytes_per_s);
                ORDER_OPEN
            }
        };
        orders.kind.store(kind, Ordering::Relaxed);
        orders.given.fetch_add(1, Ordering::Release);
    }

    /// The answer to the order given last, if it has been carried out.
    fn order_answer(&self) -> Option<Result<RepairDone, OrderFailed>> {
        let orders = &self.words.orders;
        if orders.carried_out.load(Ordering::Acquire) != orders.given.load(Ordering::Acquire) {
            return None;
        }
        if orders.failed.load(Ordering::Relaxed) != 0 {
            return Some(Err(OrderFailed(orders.error.get())));
        }
        let result = |at: usize| orders.results[at].load(Ordering::Relaxed);
        Some(Ok(RepairDone {
            copies: result(0),
            written: result(1),
            torn: result(2),
            newest_lsn: Lsn::new(result(3)),
        }))
    }
}

const ORDER_REPAIR: u32 = 1;
const ORDER_BEGIN_RECOVERY: u32 = 2;
const ORDER_OPEN: u32 = 3;

/// What the checkpointer tells of a checkpoint that was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckpointDone {
    /// Its flags.
    pub flags: u32,
    /// When it was done, microseconds since 1970.
    pub end_us: u64,
    /// How long it took, in microseconds.
    pub total_us: u64,
    /// Pages that it wrote.
    pub pages: u64,
    /// Bytes of log since the redo point before.
    pub distance_bytes: u64,
    /// How many are expected until the next.
    pub estimate_bytes: u64,
}

impl Store {
    /// Asks the checkpointer for a checkpoint. An asynchronous asker parks and is notified; ask
    /// [`CheckpointShared::outcome`].
    pub fn request_checkpoint(&self, flag_bits: u32) -> CheckpointTicket {
        let ticket = self.shared.checkpoint.request(flag_bits);
        self.shared.procs.notify(Role::Checkpointer);
        ticket
    }

    /// Asks for a checkpoint if the log, which now ends at `lsn`, has grown far enough since the
    /// last redo point. To be called after each flush; one load if there is nothing to do.
    #[inline]
    pub fn request_wal_checkpoint(&self, lsn: Lsn) {
        let checkpoint = &self.shared.checkpoint;
        let asked = || checkpoint.pending_flags() & flags::CAUSE_WAL != 0;
        if checkpoint.is_due_at(lsn) && !asked() {
            self.request_checkpoint(flags::CAUSE_WAL);
        }
    }

    /// Has the checkpointer carry out an order, and waits for it; for the startup process.
    ///
    /// # Errors
    /// What the checkpointer says.
    pub fn order(&self, order: Order) -> Result<RepairDone, OrderFailed> {
        let checkpoint = &self.shared.checkpoint;
        checkpoint.give_order(order);
        self.shared.procs.notify(Role::Checkpointer);
        loop {
            let moved = checkpoint.words.orders.done.ticket();
            match checkpoint.order_answer() {
                Some(answer) => return answer,
                None => checkpoint.words.orders.done.wait(moved, None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn checkpoints() -> CheckpointShared {
        let mut plan = Plan::new();
        let regions = CheckpointRegions::plan(&mut plan);
        CheckpointShared::open(&Segment::anonymous(&plan).expect("memory"), &regions)
    }

    #[test]
    fn requests_made_before_an_attempt_are_merged_into_it() {
        let shared = checkpoints();
        let first = shared.request(flags::CAUSE_WAL);
        let second = shared.request(flags::FAST | flags::CAUSE_MANUAL);
        assert_eq!(first, second);
        assert_eq!(shared.outcome(first), CheckpointOutcome::Waiting);
        let taken = shared.begin(0);
        assert_eq!(taken, flags::CAUSE_WAL | flags::FAST | flags::CAUSE_MANUAL);
        let late = shared.request(flags::CAUSE_TIME);
        assert_eq!(shared.pending_flags(), flags::CAUSE_TIME);
        shared.succeed(&CheckpointDone {
            flags: taken,
            ..CheckpointDone::default()
        });
        assert_eq!(shared.outcome(first), CheckpointOutcome::Done);
        assert_eq!(
            shared.outcome(late),
            CheckpointOutcome::Waiting,
            "it came too late for it"
        );
        assert_eq!(
            shared.begin(flags::SHUTDOWN),
            flags::CAUSE_TIME | flags::SHUTDOWN
        );
        shared.fail("no room");
        assert_eq!(
            shared.outcome(late),
            CheckpointOutcome::Failed("no room".into())
        );
        assert_eq!(shared.outcome(first), CheckpointOutcome::Done);
        assert_eq!(shared.failed_in_a_row(), 1);
        let report = shared.report();
        assert_eq!((report.started, report.done()), (2, 1));
        assert_eq!(report.done_by_cause[2], (Cause::Requested, 1));
        shared.begin(0);
        shared.skip();
        assert_eq!(
            shared.outcome(late),
            CheckpointOutcome::Done,
            "a later one covers it"
        );
        assert_eq!((shared.report().started, shared.failed_in_a_row()), (2, 0));
    }

    #[test]
    fn who_waits_is_woken_by_the_attempt_that_covers_the_request() {
        let shared = checkpoints();
        thread::scope(|scope| {
            let askers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            let ticket = shared.request(flags::CAUSE_MANUAL | flags::WAIT);
                            shared.wait(ticket).expect("none fails");
                            assert_eq!(shared.outcome(ticket), CheckpointOutcome::Done);
                        }
                    })
                })
                .collect();
            while !askers.iter().all(|asker| asker.is_finished()) {
                if shared.pending_flags() != 0 {
                    let taken = shared.begin(0);
                    shared.succeed(&CheckpointDone {
                        flags: taken,
                        ..CheckpointDone::default()
                    });
                }
                thread::yield_now();
            }
        });
        let report = shared.report();
        assert!(
            report.done() >= 200 && report.done() <= 800,
            "{}",
            report.done()
        );
    }

    #[test]
    fn orders_are_carried_out_and_answered() {
        let shared = checkpoints();
        assert_eq!(shared.take_order(), None);
        let open = Order::Open {
            start_count: StartCount::new(4),
            end: Lsn::new(77),
            recovery_ms: 5,
            redo_bytes_per_s: 6,
        };
        for (order, answer) in [
            (
                Order::Repair,
                Ok(RepairDone {
                    torn: 3,
                    ..RepairDone::default()
                }),
            ),
            (Order::BeginRecovery, Err("disk on fire ".repeat(100))),
            (open, Ok(RepairDone::default())),
        ] {
            shared.give_order(order);
            assert_eq!(shared.order_answer(), None);
            assert_eq!(shared.take_order(), Some(order));
            shared.answer_order(answer.clone());
            assert_eq!(shared.take_order(), None);
            match (answer, shared.order_answer().expect("carried out")) {
                (Ok(done), Ok(told)) => assert_eq!(done, told),
                (Err(error), Err(told)) => {
                    assert!(error.starts_with(&told.0) && !told.0.is_empty())
                }
                (answer, told) => panic!("{answer:?} became {told:?}"),
            }
        }
    }
}
