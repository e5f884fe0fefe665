//! Checkpoints as all processes see them: how one is asked for, how those who asked hear of its
//! end, and what it has come to.
//!
//! # Asking and hearing
//!
//! Requests stand in a queue (`queue.rs`), in the order of their target LSNs: each says up to where
//! the log is to be in the files, why, and who asks. Several are outstanding at once. A request is
//! done when the redo point has passed its target, so they are done in the order of the queue.
//! Attempts are numbered by the counter `started`; each takes up all requests that there are.
//!
//! Who asks:
//! - R1 reads the insert position, which is his target, and under the latch puts his request behind
//!   the others, and notes `started`: the attempt with the next number takes him up;
//! - R2 wakes the checkpointer;
//! - R3 if he waits, he says that he is parked, and looks at [`CheckpointShared::state`] whenever
//!   he is woken; or, if he may block, calls [`CheckpointShared::wait_for_attempt`].
//!
//! The checkpointer:
//! - C1 under the latch takes up the queue and raises `started` ([`CheckpointShared::begin`]); only
//!   then it chooses the redo point;
//! - C2 when the attempt has failed stores its number in `failed_last`, with the error's text; in either
//!   case its number in `ended`; then, if it has succeeded, takes every request out of the queue whose
//!   target is not beyond the redo point, those that came meanwhile included;
//! - C3 wakes whoever is parked, and who blocks;
//! - C4 when the redo point advances between two attempts does as C2 for the requests at the
//!   queue's head that do not insist on an attempt of their own (`FORCE`).
//!
//! An attempt that failed is made again by the checkpointer itself with the same flags; what it had
//! taken up stays in the queue. Who waited hears of the failure if he looks before the next one has
//! succeeded, which is his too.
//!
//! Checkpoints of a single namespace have a queue of their own (`files.rs`).
//!
//! # The handover of `pg_control`
//!
//! Startup owns `pg_control` until it calls [`CheckpointShared::hand_over`], before redo; the
//! checkpointer reads the file when it sees the handover and is its only writer from then on.

mod files;
mod progress;
mod queue;
mod text;

pub use files::{FileRequest, FileTicket, TooManyFileRequests};
pub use progress::{CheckpointPhase, CheckpointProgress};

use crate::procs::Procs;
use crate::recovery_time::Speeds;
use files::FileQueue;
use queue::Queue;
use rd_base::{Lsn, Role, StartCount};
use rd_format::control::checkpoint_flags as bits;
pub use rd_format::history::Requester;
use rd_format::history::{RECORD_BYTES, RecordBytes, RecoveryRow, Row};
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering};
use rd_sys::futex::Condition;
use rd_sys::{Latch, One, Plan, Region, Segment};
use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::time::Duration;
use text::TextWords;
use zerocopy::{FromBytes, KnownLayout};

/// Longest text of an error that is kept, in bytes; a longer one is cut.
const ERROR_BYTES_MAX: usize = 512;

/// Kinds and causes of a checkpoint; the numbers are those of `pg_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);
    /// The last checkpoint before a stop.
    pub const SHUTDOWN: Flags = Flags(bits::SHUTDOWN);
    /// The first one after a recovery.
    pub const END_OF_RECOVERY: Flags = Flags(bits::END_OF_RECOVERY);
    /// As fast as it goes, not paced.
    pub const IMMEDIATE: Flags = Flags(bits::FAST);
    /// Even if nothing has changed.
    pub const FORCE: Flags = Flags(bits::FORCE);
    /// Somebody waits for it.
    pub const WAIT: Flags = Flags(bits::WAIT);
    /// Cause: `max_wal_size`.
    pub const CAUSE_WAL: Flags = Flags(bits::CAUSE_WAL);
    /// Cause: `checkpoint_timeout`.
    pub const CAUSE_TIME: Flags = Flags(bits::CAUSE_TIME);
    /// Cause: a command.
    pub const CAUSE_MANUAL: Flags = Flags(bits::CAUSE_MANUAL);
    /// Cause: a command, because a backup begins.
    pub const CAUSE_BACKUP: Flags = Flags(bits::CAUSE_BACKUP);
    /// Cause: namespaces as a whole: one is to be in its file, or files of dropped ones are to go.
    pub const CAUSE_NAMESPACE: Flags = Flags(bits::CAUSE_NAMESPACE);

    /// The flags with these numbers.
    pub const fn from_bits(bits: u32) -> Flags {
        Flags(bits)
    }

    /// The flags' numbers, as in `pg_control`.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether all of `other` are among these.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These without `other`.
    pub const fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }

    /// Whether the checkpoint is written as fast as it goes.
    pub const fn is_immediate(self) -> bool {
        self.0 & (bits::FAST | bits::SHUTDOWN | bits::END_OF_RECOVERY) != 0
    }

    /// Whether the checkpoint is written even if nothing has changed.
    pub const fn is_forced(self) -> bool {
        self.0 & (bits::FORCE | bits::SHUTDOWN | bits::END_OF_RECOVERY) != 0
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bits::words(self.0))
    }
}

/// What the postmaster orders in the course of a stop, in this order. A signal alone can come from
/// anybody: many a supervisor sends SIGTERM to all processes that it knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StopOrder {
    /// The checkpointer is to write what is dirty, while clients are served (SIGUSR1).
    Clean = 1,
    /// Backends and startup are to leave (SIGTERM).
    Leave = 2,
    /// The walwriter is to make all of the log durable, and to leave (SIGTERM).
    LastFlush = 3,
    /// The checkpointer is to write the shutdown checkpoint, alone, and to leave (SIGUSR2).
    Checkpoint = 4,
}

/// How long recovery would take, and why; as the checkpointer last saw it, for display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryNow {
    /// How long recovery would take, microseconds.
    pub estimate_us: u64,
    /// `recovery_time_target`, microseconds; 0 is none.
    pub target_us: u64,
    /// The part of the estimate that there always is, microseconds.
    pub fixed_us: u64,
    /// Bytes of log redone in a second.
    pub bytes_per_s: u64,
    /// Pages brought in by redo in a second.
    pub pages_per_s: u64,
    /// Whether a recovery here has shown the two.
    pub is_measured: bool,
    /// Bytes of log from the redo point to the insert position.
    pub redo_bytes: u64,
    /// How many the target allows; `u64::MAX` without one.
    pub redo_bytes_allowed: u64,
    /// Dirty pages.
    pub dirty_pages: u64,
    /// Pages written whose files are not synced yet.
    pub unsynced_pages: u64,
    /// Bytes of log that come in a second, smoothed.
    pub wal_bytes_per_s: u64,
}

impl RecoveryNow {
    /// The speeds that it was estimated from.
    pub fn speeds(&self) -> Speeds {
        // Before the checkpointer has looked for the first time all is 0.
        let known = |speed: u64| speed.max(1) as f64;
        Speeds {
            fixed_us: self.fixed_us as f64,
            bytes_per_s: known(self.bytes_per_s),
            pages_per_s: known(self.pages_per_s),
            is_measured: self.is_measured,
        }
    }

    /// The part of the estimate that most of the time goes into, in words.
    pub fn limit(&self) -> &'static str {
        let speeds = self.speeds();
        let parts = [
            (speeds.fixed_us, "the fixed part of a start"),
            (
                1e6 * self.redo_bytes as f64 / speeds.bytes_per_s,
                "log to be redone",
            ),
            (
                1e6 * (self.dirty_pages + self.unsynced_pages) as f64 / speeds.pages_per_s,
                "pages to be brought in",
            ),
        ];
        let greatest = parts
            .into_iter()
            .max_by(|one, other| one.0.total_cmp(&other.0));
        greatest.map_or("", |(_, words)| words)
    }
}

/// [`RecoveryNow`] in shared memory, word by word in its order. atomic: Relaxed, written by the
/// checkpointer.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct RecoveryWords {
    words: [AtomicU64; 11],
}

/// Where the log goes on after this start, as startup has found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfLog {
    /// The end of its last record.
    pub lsn: Lsn,
    /// The start count of that record.
    pub last_count: StartCount,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Kinds and causes.
    pub flags: Flags,
    /// The redo point is to pass this: the insert position, so that all is covered that was
    /// inserted before.
    pub target: Lsn,
    /// Who asks.
    pub requester: Requester,
}

impl Request {
    /// What a process asks for by itself; `what` says why, in a word or two.
    pub fn of_process(flags: Flags, target: Lsn, role: Role, what: &str) -> Request {
        Request {
            flags,
            target,
            requester: Requester::process(role, what),
        }
    }
}

/// A request, to be held against what has been done since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Its number in the queue.
    number: u64,
    /// The attempt that takes it up, if it is not done before.
    attempt: u64,
}

/// What an attempt was begun for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun {
    /// Its kinds and causes: the checkpointer's own and those of all requests.
    pub flags: Flags,
    /// Who asked first, if anybody did.
    pub requester: Option<Requester>,
    /// How many asked.
    pub requests: u32,
}

impl fmt::Display for Begun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.flags)?;
        match (&self.requester, self.requests) {
            (None, _) => Ok(()),
            (Some(first), 0..=1) => write!(f, " (asked for by {first})"),
            (Some(first), all) => write!(f, " (asked for by {first}; and {} more)", all - 1),
        }
    }
}

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketState {
    /// The checkpoint has not ended.
    Pending,
    /// A checkpoint that began after the request is complete.
    Done,
    /// It failed; why. It is tried again.
    Failed(String),
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Words {
    /// guard: itself; held for a few instructions.
    latch: Latch,
    /// Flags of the requests that no attempt has taken up.
    /// guard: latch to change; atomic: read by the checkpointer between two pages.
    wanted: AtomicU32,
    reserved: AtomicU32,
    /// Number of the checkpoint begun last. guard: latch to change; atomic: Acquire by all.
    started: AtomicU64,
    /// Number of the checkpoint ended last. atomic: Release by the checkpointer, Acquire by all.
    ended: AtomicU64,
    /// Number of the last one that succeeded. atomic: as `ended`, and stored before it.
    succeeded: AtomicU64,
    /// Number of the last one that failed. atomic: as `succeeded`.
    failed_last: AtomicU64,
    /// Requests that are done: all with a number below. atomic: Release by the checkpointer, under
    /// the latch; Acquire by all.
    answered: AtomicU64,
    /// How many succeeded. atomic: Relaxed, written by the checkpointer; for display.
    done_count: AtomicU64,
    /// How many failed. atomic: as `done_count`.
    failed_count: AtomicU64,
    /// Moves at the end of each attempt.
    end_of_one: Condition,
    /// Moves when the redo point does between two checkpoints.
    redo_moved: Condition,
    /// Not 0 while too many attempts in a row have failed: writes are refused.
    /// atomic: Relaxed, written by the checkpointer.
    refuse_writes: AtomicU32,
    /// Not 0 while the redo point cannot move in redo, as far as the last attempt tells.
    /// atomic: Release by the checkpointer, Acquire by startup.
    redo_is_stuck: AtomicU32,
    /// Not 0 when the pages are written that a stop writes while clients are still served.
    /// atomic: Release by the checkpointer, Acquire by the postmaster.
    cleaned: AtomicU32,
    /// [`StopOrder`]. atomic: Release by the postmaster, Acquire by the checkpointer.
    stop_order: AtomicU32,
    /// [`CheckpointPhase`]. atomic: Relaxed, written by the checkpointer; for display.
    phase: AtomicU32,
    /// Flags of the one begun last. atomic: as `phase`.
    flags: AtomicU32,
    /// Wall clock when it began, microseconds since 1970. atomic: as `phase`.
    began_us: AtomicU64,
    /// atomic: as `phase`.
    pages_done: AtomicU64,
    /// atomic: as `phase`.
    pages_total: AtomicU64,
    /// Microseconds; `u64::MAX` while unknown. atomic: as `phase`.
    sync_left_us: AtomicU64,
    /// atomic: Release by the checkpointer, after `sync_left_us`; Acquire by all.
    sync_seen_us: AtomicU64,
    /// Wall clock, in microseconds since 1970, when the last one was complete; 0 if there is none.
    /// atomic: as `phase`.
    last_done_us: AtomicU64,
    /// The redo point in `pg_control`. atomic: Release by the checkpointer, Acquire by all.
    redo_lsn: AtomicU64,
}

/// What startup tells the checkpointer.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct FromStartup {
    /// 1 after the handover. atomic: Release by startup, after the redo point; Acquire by the
    /// checkpointer.
    is_done: AtomicU32,
    /// 1 when the end of the log is found. atomic: Release by startup, after the words below;
    /// Acquire by the checkpointer.
    is_end_found: AtomicU32,
    /// const after the end is found.
    last_count: AtomicU32,
    /// const after the handover.
    redo_lsn: AtomicU64,
    /// const after the end is found.
    end_lsn: AtomicU64,
    /// See [`CheckpointShared::applied_lsn`]. atomic: Release by startup, Acquire by the
    /// checkpointer.
    applied_lsn: AtomicU64,
    /// 1 when startup has said what recovery took. atomic: Release by startup, after the words
    /// below; taken by the checkpointer.
    has_measured: AtomicU32,
    reserved: AtomicU32,
    /// What recovery was: a record as it goes to disk. atomic: Relaxed, ordered by `has_measured`.
    recovery: [AtomicU64; RECORD_BYTES / 8],
}

/// The text of the last failure.
type ErrorText = TextWords<{ ERROR_BYTES_MAX / 8 }>;

/// Where all that lies in the segment.
#[derive(Clone, Copy)]
pub struct CheckpointRegions {
    words: Region<Words>,
    from_startup: Region<FromStartup>,
    recovery: Region<RecoveryWords>,
    error: Region<ErrorText>,
    queue: Region<Queue>,
    files: Region<FileQueue>,
}

impl CheckpointRegions {
    /// Reserves room.
    pub fn plan(plan: &mut Plan) -> CheckpointRegions {
        CheckpointRegions {
            words: plan.reserve(1),
            from_startup: plan.reserve(1),
            recovery: plan.reserve(1),
            error: plan.reserve(1),
            queue: plan.reserve(1),
            files: plan.reserve(1),
        }
    }
}

/// Checkpoints asked for and done.
#[derive(Clone)]
pub struct CheckpointShared {
    words: One<Words>,
    from_startup: One<FromStartup>,
    recovery: One<RecoveryWords>,
    error: One<ErrorText>,
    /// guard: the latch in [`Words`].
    queue: One<Queue>,
    files: One<FileQueue>,
}

impl CheckpointShared {
    /// Opens this part of shared memory.
    pub fn open(segment: &Segment, regions: &CheckpointRegions) -> CheckpointShared {
        CheckpointShared {
            words: segment.one(regions.words),
            from_startup: segment.one(regions.from_startup),
            recovery: segment.one(regions.recovery),
            error: segment.one(regions.error),
            queue: segment.one(regions.queue),
            files: segment.one(regions.files),
        }
    }

    /// Asks for a checkpoint and wakes the checkpointer (R1, R2).
    pub fn request(&self, procs: &Procs, request: &Request) -> Ticket {
        let words = &self.words;
        let ticket = {
            let _latch = words.latch.lock();
            let number = self.queue.push(request);
            self.publish_queue();
            Ticket {
                number,
                attempt: words.started.load(Ordering::Relaxed) + 1,
            }
        };
        procs.notify(Role::Checkpointer);
        ticket
    }

    /// Requests that are not done, oldest first.
    pub fn outstanding(&self) -> Vec<Request> {
        let _latch = self.words.latch.lock();
        self.queue.all()
    }

    /// Lets everybody see what has become of the queue; under the latch.
    fn publish_queue(&self) {
        let (words, queue) = (&self.words, &self.queue);
        words.wanted.store(queue.wanted().0, Ordering::Release);
        words.answered.store(queue.first(), Ordering::Release);
    }

    /// What became of a request (R3).
    pub fn state(&self, ticket: &Ticket) -> TicketState {
        let words = &self.words;
        // In this order: what a failed attempt took up may be done by the next.
        let failed = words.failed_last.load(Ordering::Acquire);
        if words.answered.load(Ordering::Acquire) > ticket.number {
            TicketState::Done
        } else if failed >= ticket.attempt {
            TicketState::Failed(self.last_error())
        } else {
            TicketState::Pending
        }
    }

    /// Waits until an attempt ends, for at most `timeout`, unless a request is done (R3); gives what has
    /// become of it. For processes that may block.
    pub fn wait_for_attempt(&self, ticket: &Ticket, timeout: Duration) -> TicketState {
        let moved = self.words.end_of_one.ticket();
        let state = self.state(ticket);
        if state == TicketState::Done {
            return state;
        }
        self.words.end_of_one.wait(moved, Some(timeout));
        self.state(ticket)
    }

    /// Checkpoints begun since the segment was made.
    pub fn started(&self) -> u64 {
        self.words.started.load(Ordering::Acquire)
    }

    /// Checkpoints completed since the segment was made.
    pub fn done(&self) -> u64 {
        self.words.done_count.load(Ordering::Relaxed)
    }

    /// Attempts that failed since the segment was made.
    pub fn failed(&self) -> u64 {
        self.words.failed_count.load(Ordering::Relaxed)
    }

    /// Whether one is under way.
    pub fn is_under_way(&self) -> bool {
        // In this order, so that one that ends in between does not look like one under way.
        let started = self.words.started.load(Ordering::Acquire);
        self.words.ended.load(Ordering::Acquire) < started
    }

    /// Whether the attempt that ended last failed.
    pub fn last_failed(&self) -> bool {
        let failed = self.words.failed_last.load(Ordering::Acquire);
        failed > self.words.succeeded.load(Ordering::Acquire)
    }

    /// Why the last failed attempt failed; empty if none did.
    pub fn last_error(&self) -> String {
        let _latch = self.words.latch.lock();
        self.error.read()
    }

    /// Wall clock, in microseconds since 1970, when the last one was complete; known from
    /// `pg_control` after a start; 0 if there never was one.
    pub fn last_done_us(&self) -> u64 {
        self.words.last_done_us.load(Ordering::Relaxed)
    }

    /// The redo point in `pg_control`: where recovery would begin to read.
    pub fn redo_lsn(&self) -> Lsn {
        Lsn::new(self.words.redo_lsn.load(Ordering::Acquire))
    }

    /// How long recovery would take, as last seen.
    pub fn recovery_now(&self) -> RecoveryNow {
        let word = |index: usize| self.recovery.words[index].load(Ordering::Relaxed);
        RecoveryNow {
            estimate_us: word(0),
            target_us: word(1),
            fixed_us: word(2),
            bytes_per_s: word(3),
            pages_per_s: word(4),
            is_measured: word(5) != 0,
            redo_bytes: word(6),
            redo_bytes_allowed: word(7),
            dirty_pages: word(8),
            unsynced_pages: word(9),
            wal_bytes_per_s: word(10),
        }
    }

    /// Whether so many attempts in a row have failed that writes are refused, so that the log does
    /// not grow without end; [`CheckpointShared::last_error`] says why.
    #[inline]
    pub fn refuses_writes(&self) -> bool {
        self.words.refuse_writes.load(Ordering::Relaxed) != 0
    }

    /// How far the one under way has come.
    pub fn progress(&self) -> CheckpointProgress {
        let words = &self.words;
        let sync_seen_us = words.sync_seen_us.load(Ordering::Acquire);
        let sync_left_us = words.sync_left_us.load(Ordering::Relaxed);
        CheckpointProgress {
            phase: CheckpointPhase::of(words.phase.load(Ordering::Relaxed)),
            flags: Flags(words.flags.load(Ordering::Relaxed)),
            began_us: words.began_us.load(Ordering::Relaxed),
            pages_done: words.pages_done.load(Ordering::Relaxed),
            pages_total: words.pages_total.load(Ordering::Relaxed),
            sync_left_us: (sync_left_us < u64::MAX).then_some(sync_left_us),
            sync_seen_us,
        }
    }
}

/// For the startup process.
impl CheckpointShared {
    /// Hands `pg_control` over to the checkpointer, before redo from `redo_lsn`, or after a clean
    /// stop: startup has written it for the last time, has mended and synced the pages of all
    /// double-write batches, and has entered every relation file in [`crate::files::Files`].
    ///
    /// Until the log is taken up ([`crate::wal::Wal::start_at`]) every page in memory goes with
    /// log that startup knows to be durable, so the checkpointer may write it. Checkpoints are
    /// written from then on, so the first one is to be asked for after that.
    pub fn hand_over(&self, procs: &Procs, redo_lsn: Lsn) {
        let words = &self.from_startup;
        words.redo_lsn.store(redo_lsn.get(), Ordering::Relaxed);
        self.words.redo_lsn.store(redo_lsn.get(), Ordering::Release);
        let before = words.is_done.swap(1, Ordering::AcqRel);
        assert_eq!(before, 0, "pg_control is handed over once");
        procs.notify(Role::Checkpointer);
    }

    /// Says how far redo has come, see [`CheckpointShared::applied_lsn`].
    pub fn set_applied(&self, lsn: Lsn) {
        let words = &self.from_startup;
        words.applied_lsn.store(lsn.get(), Ordering::Release);
    }

    /// Sleeps while the redo point is at `lsn`, for at most `timeout`.
    pub fn wait_for_redo_point(&self, lsn: Lsn, timeout: Duration) {
        let moved = self.words.redo_moved.ticket();
        if self.redo_lsn() == lsn {
            self.words.redo_moved.wait(moved, Some(timeout));
        }
    }

    /// Tells where the log ends, all of which is durable; before the log is taken up.
    pub fn set_end_of_log(&self, end: &EndOfLog) {
        let words = &self.from_startup;
        words.end_lsn.store(end.lsn.get(), Ordering::Relaxed);
        words
            .last_count
            .store(end.last_count.get(), Ordering::Relaxed);
        let before = words.is_end_found.swap(1, Ordering::AcqRel);
        assert_eq!(before, 0, "the end of the log is found once");
    }
}

impl CheckpointShared {
    /// Says what recovery was; for startup, when all is done but serving. Its number is given by the
    /// checkpointer.
    pub fn report_recovery(&self, procs: &Procs, recovery: &RecoveryRow) {
        let bytes = recovery.encode(0);
        let words = self.from_startup.recovery.iter();
        for (word, bytes) in words.zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
        self.from_startup.has_measured.store(1, Ordering::Release);
        procs.notify(Role::Checkpointer);
    }
}

/// For the checkpointer.
impl CheckpointShared {
    /// What startup has said of recovery; once. Its number is 0.
    pub fn take_recovery(&self) -> Option<RecoveryRow> {
        let words = &self.from_startup;
        if words.has_measured.load(Ordering::Acquire) == 0 {
            return None;
        }
        words.has_measured.store(0, Ordering::Relaxed);
        let mut bytes: RecordBytes = [0; RECORD_BYTES];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&words.recovery) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
        Some(RecoveryRow::decode_checked(&bytes).expect("as startup has written it"))
    }

    /// The redo point with which startup has handed `pg_control` over; none before it did.
    pub fn handover(&self) -> Option<Lsn> {
        let words = &self.from_startup;
        let is_done = words.is_done.load(Ordering::Acquire) != 0;
        is_done.then(|| Lsn::new(words.redo_lsn.load(Ordering::Relaxed)))
    }

    /// The end of the log at this start; none before startup has found it.
    pub fn end_of_log(&self) -> Option<EndOfLog> {
        let words = &self.from_startup;
        let is_found = words.is_end_found.load(Ordering::Acquire) != 0;
        is_found.then(|| EndOfLog {
            lsn: Lsn::new(words.end_lsn.load(Ordering::Relaxed)),
            last_count: StartCount::new(words.last_count.load(Ordering::Relaxed)),
        })
    }

    /// Flags asked for that no checkpoint has taken up.
    #[inline]
    pub fn wanted(&self) -> Flags {
        Flags(self.words.wanted.load(Ordering::Acquire))
    }

    /// Begins a checkpoint for `own` reasons and all that were asked for, which it takes up (C1).
    pub fn begin(&self, own: Flags) -> Begun {
        let words = &self.words;
        let _latch = words.latch.lock();
        let begun = self.queue.take_up(own);
        self.publish_queue();
        words.flags.store(begun.flags.0, Ordering::Relaxed);
        words.pages_done.store(0, Ordering::Relaxed);
        words.pages_total.store(0, Ordering::Relaxed);
        words.sync_left_us.store(u64::MAX, Ordering::Relaxed);
        words.started.fetch_add(1, Ordering::AcqRel);
        begun
    }

    /// Ends the checkpoint begun last: everything before `redo`, its redo point, is in the files
    /// (C2, C3).
    pub fn succeed(&self, procs: &Procs, redo: Lsn, now_us: u64) {
        let words = &self.words;
        words.last_done_us.store(now_us, Ordering::Relaxed);
        words.done_count.fetch_add(1, Ordering::Relaxed);
        self.end_well(procs, |queue| queue.pass(redo, Flags::NONE));
    }

    /// Ends it as one that was not needed, because nothing has changed since the last: who asked
    /// has what he wants.
    pub fn skip(&self, procs: &Procs) {
        self.end_well(procs, Queue::pass_taken);
    }

    /// The redo point has advanced to `redo` without an attempt: requests that wait for no more
    /// than that are done (C4).
    pub fn passed(&self, procs: &Procs, redo: Lsn) {
        if self.answer(|queue| queue.pass(redo, Flags::FORCE)) {
            self.words.end_of_one.wake_all();
            procs.wake_parked();
        }
    }

    /// Takes requests out of the queue by `pass`, which says whether there were any.
    fn answer(&self, pass: impl FnOnce(&Queue) -> bool) -> bool {
        let _latch = self.words.latch.lock();
        let any = pass(&self.queue);
        if any {
            self.publish_queue();
        }
        any
    }

    fn end_well(&self, procs: &Procs, pass: impl FnOnce(&Queue) -> bool) {
        let words = &self.words;
        words
            .succeeded
            .store(words.started.load(Ordering::Relaxed), Ordering::Release);
        words.refuse_writes.store(0, Ordering::Relaxed);
        self.end(procs, pass);
    }

    /// Ends it as one that failed because of `error`. With `refuse_writes`, writes are refused
    /// until one succeeds.
    pub fn fail(&self, procs: &Procs, error: &str, refuse_writes: bool) {
        let words = &self.words;
        {
            let _latch = words.latch.lock();
            self.error.write(error);
        }
        words.failed_count.fetch_add(1, Ordering::Relaxed);
        words
            .failed_last
            .store(words.started.load(Ordering::Relaxed), Ordering::Release);
        words
            .refuse_writes
            .store(u32::from(refuse_writes), Ordering::Relaxed);
        self.end(procs, |_| false);
    }

    fn end(&self, procs: &Procs, pass: impl FnOnce(&Queue) -> bool) {
        let words = &self.words;
        self.set_phase(CheckpointPhase::Idle);
        words
            .ended
            .store(words.started.load(Ordering::Relaxed), Ordering::Release);
        self.answer(pass);
        words.end_of_one.wake_all();
        procs.wake_parked();
    }

    /// Shows when the one under way began, by the wall clock.
    pub fn set_began(&self, wall_us: u64) {
        self.words.began_us.store(wall_us, Ordering::Relaxed);
    }

    /// Says what the signal that follows is to mean; for the postmaster.
    pub fn order_stop(&self, order: StopOrder) {
        self.words.stop_order.store(order as u32, Ordering::Release);
    }

    /// Whether the postmaster has ordered this, or what comes behind it.
    pub fn is_stop_ordered(&self, order: StopOrder) -> bool {
        self.words.stop_order.load(Ordering::Acquire) >= order as u32
    }

    /// Says that a stop need no longer wait for pages to be written.
    pub fn set_cleaned(&self) {
        self.words.cleaned.store(1, Ordering::Release);
    }

    /// Whether [`CheckpointShared::set_cleaned`] was called; for the postmaster.
    pub fn is_cleaned(&self) -> bool {
        self.words.cleaned.load(Ordering::Acquire) != 0
    }

    /// Shows what is being done.
    pub fn set_phase(&self, phase: CheckpointPhase) {
        self.words.phase.store(phase as u32, Ordering::Relaxed);
    }

    /// Shows how far it has come.
    pub fn set_pages(&self, done: u64, total: u64) {
        self.words.pages_done.store(done, Ordering::Relaxed);
        self.words.pages_total.store(total, Ordering::Relaxed);
    }

    /// Shows how long syncing is expected to take from `now_us` on, wall clock; none while unknown.
    pub fn set_sync_left(&self, left_us: Option<u64>, now_us: u64) {
        let words = &self.words;
        words
            .sync_left_us
            .store(left_us.unwrap_or(u64::MAX), Ordering::Relaxed);
        words.sync_seen_us.store(now_us, Ordering::Release);
    }

    /// Publishes what `pg_control` says: the redo point, and when the last checkpoint was.
    pub fn publish(&self, redo_lsn: Lsn, checkpoint_us: u64) {
        self.publish_done(checkpoint_us);
        self.publish_redo(redo_lsn);
    }

    /// Publishes how long recovery would take.
    pub fn publish_recovery(&self, now: &RecoveryNow) {
        let words = [
            now.estimate_us,
            now.target_us,
            now.fixed_us,
            now.bytes_per_s,
            now.pages_per_s,
            u64::from(now.is_measured),
            now.redo_bytes,
            now.redo_bytes_allowed,
            now.dirty_pages,
            now.unsynced_pages,
            now.wal_bytes_per_s,
        ];
        for (at, word) in self.recovery.words.iter().zip(words) {
            at.store(word, Ordering::Relaxed);
        }
    }

    /// Publishes when the last full checkpoint was complete.
    pub fn publish_done(&self, checkpoint_us: u64) {
        self.words
            .last_done_us
            .store(checkpoint_us, Ordering::Relaxed);
    }

    /// Publishes the redo point that `pg_control` has.
    pub fn publish_redo(&self, redo_lsn: Lsn) {
        self.words.redo_lsn.store(redo_lsn.get(), Ordering::Release);
        self.words.redo_moved.wake_all();
    }

    /// Says whether the redo point, which was to move during redo, could not; gives what was said before.
    pub fn set_redo_stuck(&self, is_stuck: bool) -> bool {
        let stuck = &self.words.redo_is_stuck;
        let was_stuck = stuck.swap(u32::from(is_stuck), Ordering::AcqRel) != 0;
        if is_stuck {
            self.words.redo_moved.wake_all();
        }
        was_stuck
    }

    /// Whether waiting for the redo point would be in vain.
    pub fn is_redo_stuck(&self) -> bool {
        self.words.redo_is_stuck.load(Ordering::Acquire) != 0
    }

    /// Up to where redo has applied the log: every record below is in its pages, and one that is
    /// durable follows. Zero before redo has come anywhere.
    pub fn applied_lsn(&self) -> Lsn {
        Lsn::new(self.from_startup.applied_lsn.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests;
