//! Checkpoints as all processes see them: how one is asked for, how those who asked hear of its
//! end, and what it has come to.
//!
//! # Asking and hearing
//!
//! Checkpoints are numbered by the counter `started`. A request is a set of flags, made so that
//! their union is the right answer to several requests at once.
//!
//! Who asks:
//! - R1 under the latch adds his flags to `wanted` and notes `started`: the checkpoint with the
//!   next number is his, because it will begin after he asked;
//! - R2 wakes the checkpointer;
//! - R3 if he waits, he says that he is parked, and looks at [`CheckpointShared::state`] whenever
//!   he is woken; or, if he may block, calls [`CheckpointShared::wait`].
//!
//! The checkpointer:
//! - C1 under the latch takes `wanted`, leaves it empty, and raises `started`
//!   ([`CheckpointShared::begin`]); only then it chooses the redo point;
//! - C2 when the attempt has ended stores what came of it: its number in `succeeded` or, with the
//!   error's text, in `failed_last`; then in `ended`;
//! - C3 wakes whoever is parked, and who blocks.
//!
//! An attempt that failed is made again by the checkpointer itself with the same flags. Who waited
//! hears of the failure if he looks before the next one has succeeded, which covers him too.
//!
//! # The handover of `pg_control`
//!
//! Startup owns `pg_control` until it calls [`CheckpointShared::hand_over`], before redo; the
//! checkpointer reads the file when it sees the handover and is its only writer from then on.

use crate::procs::Procs;
use crate::recovery_time::{Measured, RedoWork};
use rd_base::{Lsn, Role, StartCount};
use rd_format::control::checkpoint_flags as bits;
use rd_sys::futex::Condition;
use rd_sys::{Latch, One, Plan, Region, Segment};
use std::fmt;
use std::ops::{BitOr, BitOrAssign};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
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
    /// Cause: a backup begins.
    pub const CAUSE_BACKUP: Flags = Flags(bits::CAUSE_BACKUP);
    /// Cause: a namespace was made, dropped or renamed.
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

/// What the checkpointer is doing; for display.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CheckpointPhase {
    /// No checkpoint is under way.
    Idle = 0,
    /// Pages are written.
    Writing = 1,
    /// Files are forced to disk.
    Syncing = 2,
    /// The checkpoint's record and `pg_control` are written, old log is given up.
    Finishing = 3,
}

/// How far the checkpoint under way has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointProgress {
    /// What it does.
    pub phase: CheckpointPhase,
    /// Its kinds and causes; of the last one while none is under way.
    pub flags: Flags,
    /// Pages that it has dealt with.
    pub pages_done: u64,
    /// Pages that it found to be dirty.
    pub pages_total: u64,
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

/// A request, to be held against what has been done since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The number of the checkpoint that covers the request.
    number: u64,
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
    /// Flags of the requests that no checkpoint has taken up.
    /// guard: latch to change; atomic: read by the checkpointer between two pages.
    wanted: AtomicU32,
    /// Number of the checkpoint begun last. guard: latch to change; atomic: Acquire by all.
    started: AtomicU64,
    /// Number of the checkpoint ended last. atomic: Release by the checkpointer, Acquire by all.
    ended: AtomicU64,
    /// Number of the last one that succeeded. atomic: as `ended`, and stored before it.
    succeeded: AtomicU64,
    /// Number of the last one that failed. atomic: as `succeeded`.
    failed_last: AtomicU64,
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
    /// [`CheckpointPhase`]. atomic: Relaxed, written by the checkpointer; for display.
    phase: AtomicU32,
    /// Flags of the one begun last. atomic: as `phase`.
    flags: AtomicU32,
    /// atomic: as `phase`.
    pages_done: AtomicU64,
    /// atomic: as `phase`.
    pages_total: AtomicU64,
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
    /// What recovery took, and was expected to take: a [`Measured`], microseconds.
    /// atomic: Relaxed, ordered by `has_measured`.
    measured: [AtomicU64; 5],
}

/// The text of the last failure. guard: the latch in [`Words`].
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct ErrorText {
    bytes: AtomicU64,
    words: [AtomicU64; ERROR_BYTES_MAX / 8],
}

/// Where all that lies in the segment.
#[derive(Clone, Copy)]
pub struct CheckpointRegions {
    words: Region<Words>,
    from_startup: Region<FromStartup>,
    recovery: Region<RecoveryWords>,
    error: Region<ErrorText>,
}

impl CheckpointRegions {
    /// Reserves room.
    pub fn plan(plan: &mut Plan) -> CheckpointRegions {
        CheckpointRegions {
            words: plan.reserve(1),
            from_startup: plan.reserve(1),
            recovery: plan.reserve(1),
            error: plan.reserve(1),
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
}

impl CheckpointShared {
    /// Opens this part of shared memory.
    pub fn open(segment: &Segment, regions: &CheckpointRegions) -> CheckpointShared {
        CheckpointShared {
            words: segment.one(regions.words),
            from_startup: segment.one(regions.from_startup),
            recovery: segment.one(regions.recovery),
            error: segment.one(regions.error),
        }
    }

    /// Asks for a checkpoint and wakes the checkpointer (R1, R2). It begins after this call, so
    /// its redo point covers everything that was inserted before.
    pub fn request(&self, procs: &Procs, flags: Flags) -> Ticket {
        let words = &self.words;
        let ticket = {
            let _latch = words.latch.lock();
            let wanted = words.wanted.load(Ordering::Relaxed) | flags.0;
            words.wanted.store(wanted, Ordering::Release);
            Ticket {
                number: words.started.load(Ordering::Relaxed) + 1,
            }
        };
        procs.notify(Role::Checkpointer);
        ticket
    }

    /// What became of a request (R3).
    pub fn state(&self, ticket: &Ticket) -> TicketState {
        let words = &self.words;
        if words.ended.load(Ordering::Acquire) < ticket.number {
            return TicketState::Pending;
        }
        if words.succeeded.load(Ordering::Acquire) >= ticket.number {
            return TicketState::Done;
        }
        TicketState::Failed(self.last_error())
    }

    /// Waits until a request is done (R3); for processes that may block.
    ///
    /// # Errors
    /// Why the checkpoint failed.
    pub fn wait(&self, ticket: &Ticket) -> Result<(), String> {
        loop {
            let moved = self.words.end_of_one.ticket();
            match self.state(ticket) {
                TicketState::Pending => self.words.end_of_one.wait(moved, None),
                TicketState::Done => return Ok(()),
                TicketState::Failed(reason) => return Err(reason),
            }
        }
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
        let length = (self.error.bytes.load(Ordering::Relaxed) as usize).min(ERROR_BYTES_MAX);
        let words = self.error.words.iter().take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect();
        bytes.truncate(length);
        String::from_utf8_lossy(&bytes).into_owned()
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
        CheckpointProgress {
            phase: match words.phase.load(Ordering::Relaxed) {
                1 => CheckpointPhase::Writing,
                2 => CheckpointPhase::Syncing,
                3 => CheckpointPhase::Finishing,
                _ => CheckpointPhase::Idle,
            },
            flags: Flags(words.flags.load(Ordering::Relaxed)),
            pages_done: words.pages_done.load(Ordering::Relaxed),
            pages_total: words.pages_total.load(Ordering::Relaxed),
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
    /// Says what recovery took, and was expected to take; for startup, when all is done but serving.
    pub fn report_recovery(&self, procs: &Procs, measured: &Measured, expected_us: u64) {
        let values = [
            measured.work.bytes,
            measured.work.pages,
            measured.total_us,
            measured.redo_us,
            expected_us,
        ];
        for (word, value) in self.from_startup.measured.iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
        self.from_startup.has_measured.store(1, Ordering::Release);
        procs.notify(Role::Checkpointer);
    }
}

/// For the checkpointer.
impl CheckpointShared {
    /// What startup has said of recovery, and what it had expected, microseconds; once.
    pub fn take_recovery(&self) -> Option<(Measured, u64)> {
        let words = &self.from_startup;
        if words.has_measured.load(Ordering::Acquire) == 0 {
            return None;
        }
        words.has_measured.store(0, Ordering::Relaxed);
        let value = |index: usize| words.measured[index].load(Ordering::Relaxed);
        let measured = Measured {
            work: RedoWork {
                bytes: value(0),
                pages: value(1),
            },
            total_us: value(2),
            redo_us: value(3),
        };
        Some((measured, value(4)))
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
    pub fn begin(&self, own: Flags) -> Flags {
        let words = &self.words;
        let _latch = words.latch.lock();
        let flags = own | Flags(words.wanted.load(Ordering::Relaxed));
        words.wanted.store(0, Ordering::Release);
        words.flags.store(flags.0, Ordering::Relaxed);
        words.pages_done.store(0, Ordering::Relaxed);
        words.pages_total.store(0, Ordering::Relaxed);
        words.started.fetch_add(1, Ordering::AcqRel);
        flags
    }

    /// Ends the checkpoint begun last: everything before its redo point is in the files (C2, C3).
    pub fn succeed(&self, procs: &Procs, now_us: u64) {
        let words = &self.words;
        words.last_done_us.store(now_us, Ordering::Relaxed);
        words.done_count.fetch_add(1, Ordering::Relaxed);
        self.skip(procs);
    }

    /// Ends it as one that was not needed, because nothing has changed since the last: who asked
    /// has what he wants.
    pub fn skip(&self, procs: &Procs) {
        let words = &self.words;
        words
            .succeeded
            .store(words.started.load(Ordering::Relaxed), Ordering::Release);
        words.refuse_writes.store(0, Ordering::Relaxed);
        self.end(procs);
    }

    /// Ends it as one that failed because of `error`. With `refuse_writes`, writes are refused
    /// until one succeeds.
    pub fn fail(&self, procs: &Procs, error: &str, refuse_writes: bool) {
        let words = &self.words;
        {
            let _latch = words.latch.lock();
            let text = &error.as_bytes()[..error.floor_char_boundary(ERROR_BYTES_MAX)];
            for (word, bytes) in self.error.words.iter().zip(text.chunks(8)) {
                let mut padded = [0; 8];
                padded[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
            }
            self.error.bytes.store(text.len() as u64, Ordering::Relaxed);
        }
        words.failed_count.fetch_add(1, Ordering::Relaxed);
        words
            .failed_last
            .store(words.started.load(Ordering::Relaxed), Ordering::Release);
        words
            .refuse_writes
            .store(u32::from(refuse_writes), Ordering::Relaxed);
        self.end(procs);
    }

    fn end(&self, procs: &Procs) {
        let words = &self.words;
        self.set_phase(CheckpointPhase::Idle);
        words
            .ended
            .store(words.started.load(Ordering::Relaxed), Ordering::Release);
        words.end_of_one.wake_all();
        procs.wake_parked();
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

    /// Up to where redo has applied the log: every record below is in its pages, and one that is
    /// durable follows. Zero before redo has come anywhere.
    pub fn applied_lsn(&self) -> Lsn {
        Lsn::new(self.from_startup.applied_lsn.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procs::{ProcsRegions, SlotNo};
    use std::sync::atomic::AtomicBool;
    use std::thread;

    fn checkpoints() -> (CheckpointShared, Procs) {
        let mut plan = Plan::new();
        let regions = (
            CheckpointRegions::plan(&mut plan),
            ProcsRegions::plan(&mut plan),
        );
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let procs = Procs::open(&segment, &regions.1).expect("descriptors for a test");
        (CheckpointShared::open(&segment, &regions.0), procs)
    }

    #[test]
    fn requests_are_merged_and_covered_by_one_that_begins_later() {
        let (checkpoints, procs) = checkpoints();
        let early = checkpoints.request(&procs, Flags::CAUSE_MANUAL | Flags::FORCE);
        assert!(
            procs
                .event(SlotNo::of(Role::Checkpointer).expect("a slot"))
                .take()
        );
        let other = checkpoints.request(&procs, Flags::IMMEDIATE | Flags::CAUSE_MANUAL);
        let flags = checkpoints.begin(Flags::CAUSE_TIME);
        assert_eq!(flags.to_string(), "fast force time manual");
        assert!(checkpoints.is_under_way() && checkpoints.wanted().is_empty());
        let late = checkpoints.request(&procs, Flags::CAUSE_BACKUP);
        checkpoints.succeed(&procs, 5);
        assert!(!checkpoints.is_under_way());
        assert_eq!(checkpoints.state(&early), TicketState::Done);
        assert_eq!(checkpoints.state(&other), TicketState::Done);
        assert_eq!(
            checkpoints.state(&late),
            TicketState::Pending,
            "its redo point is too old"
        );
        assert_eq!(checkpoints.begin(Flags::NONE), Flags::CAUSE_BACKUP);
        checkpoints.skip(&procs);
        assert_eq!(checkpoints.state(&late), TicketState::Done);
        assert_eq!((checkpoints.started(), checkpoints.done()), (2, 1));
        assert_eq!(checkpoints.last_done_us(), 5);
    }

    #[test]
    fn a_failure_is_told_with_its_reason_until_a_later_one_succeeds() {
        let (checkpoints, procs) = checkpoints();
        let ticket = checkpoints.request(&procs, Flags::CAUSE_MANUAL);
        checkpoints.begin(Flags::NONE);
        // One byte too long, and cut inside a character of two.
        let long = "x".repeat(ERROR_BYTES_MAX - 1) + "é";
        checkpoints.fail(&procs, &long, true);
        let kept = "x".repeat(ERROR_BYTES_MAX - 1);
        assert_eq!(checkpoints.state(&ticket), TicketState::Failed(kept));
        assert!(checkpoints.last_failed() && checkpoints.refuses_writes());
        checkpoints.begin(Flags::NONE);
        checkpoints.fail(&procs, "no room", false);
        assert_eq!(checkpoints.wait(&ticket), Err("no room".to_owned()));
        checkpoints.begin(Flags::NONE);
        checkpoints.succeed(&procs, 1);
        assert_eq!(checkpoints.wait(&ticket), Ok(()), "a later one covers it");
        assert!(!checkpoints.last_failed() && !checkpoints.refuses_writes());
        assert_eq!((checkpoints.done(), checkpoints.failed()), (1, 2));
    }

    const ASKERS: usize = 4;
    const TURNS: u64 = 300;

    /// What the askers and the checkpointer of the next test share: a position that only grows,
    /// and the highest one that a checkpoint has covered.
    struct Covering {
        checkpoints: CheckpointShared,
        procs: Procs,
        position: AtomicU64,
        covered: AtomicU64,
        over: AtomicBool,
    }

    impl Covering {
        fn ask(&self, number: usize) {
            let slot = SlotNo::of(Role::Backend(number as u16)).expect("a slot");
            for turn in 0..TURNS {
                let mine = self.position.fetch_add(1, Ordering::SeqCst) + 1;
                let ticket = self.checkpoints.request(&self.procs, Flags::CAUSE_MANUAL);
                if turn % 2 == 0 {
                    self.checkpoints.wait(&ticket).expect("none fails");
                } else {
                    self.wait_parked(slot, &ticket);
                }
                let covered = self.covered.load(Ordering::SeqCst);
                assert!(
                    covered >= mine,
                    "{covered} < {mine}: it began before the request"
                );
            }
        }

        fn wait_parked(&self, slot: SlotNo, ticket: &Ticket) {
            self.procs.set_parked(slot, true);
            while self.checkpoints.state(ticket) == TicketState::Pending {
                // Without a limit: a wake-up that is lost would hang here.
                self.procs.event(slot).wait(None);
            }
            self.procs.set_parked(slot, false);
        }

        fn checkpointer(&self) {
            let own = SlotNo::of(Role::Checkpointer).expect("a slot");
            while !self.over.load(Ordering::SeqCst) {
                self.procs.event(own).wait(None);
                if !self.checkpoints.wanted().is_empty() {
                    self.checkpoints.begin(Flags::NONE);
                    let redo = self.position.load(Ordering::SeqCst);
                    self.covered.store(redo, Ordering::SeqCst);
                    self.checkpoints.succeed(&self.procs, redo);
                }
            }
        }
    }

    #[test]
    fn who_asks_hears_of_one_that_began_afterwards() {
        let (checkpoints, procs) = checkpoints();
        let covering = Covering {
            checkpoints,
            procs,
            position: AtomicU64::new(0),
            covered: AtomicU64::new(0),
            over: AtomicBool::new(false),
        };
        let covering = &covering;
        thread::scope(|scope| {
            let ask = |number| scope.spawn(move || covering.ask(number));
            let askers: Vec<_> = (0..ASKERS).map(ask).collect();
            scope.spawn(|| covering.checkpointer());
            let failed = askers
                .into_iter()
                .filter_map(|asker| asker.join().err())
                .count();
            covering.over.store(true, Ordering::SeqCst);
            covering.procs.notify(Role::Checkpointer);
            assert_eq!(failed, 0);
        });
        assert_eq!(covering.checkpoints.done(), covering.checkpoints.started());
    }

    #[test]
    fn pg_control_is_handed_over_with_what_is_known_of_the_log() {
        let (checkpoints, procs) = checkpoints();
        assert_eq!(
            (checkpoints.handover(), checkpoints.end_of_log()),
            (None, None)
        );
        checkpoints.hand_over(&procs, Lsn::new(800));
        assert_eq!(checkpoints.handover(), Some(Lsn::new(800)));
        assert_eq!(
            checkpoints.end_of_log(),
            None,
            "it is not known before redo"
        );
        let end = EndOfLog {
            lsn: Lsn::new(900),
            last_count: StartCount::new(7),
        };
        checkpoints.set_end_of_log(&end);
        assert_eq!(checkpoints.end_of_log(), Some(end));
        assert_eq!(checkpoints.redo_lsn(), Lsn::new(800));
    }
}
