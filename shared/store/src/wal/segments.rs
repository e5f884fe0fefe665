//! Segment files: made ahead of need, filled with zeros once, recycled, removed.
//!
//! A commit's sync must not have to journal metadata, so a segment has its length and its blocks
//! before it is written for the first time; and a commit must not fail, so it has its name before
//! credit is given for it. Both are durable first (W6):
//!
//! - S1 a file under a temporary name is allocated, filled with zeros, and synced; or an old
//!   segment, whose records all lie below the redo points, is taken;
//! - S2 under the segment latch it gets the name of the next segment, and the directory is synced;
//! - S3 then `prepared_pos` is raised, and those who lacked credit are woken.
//!
//! What an old segment holds never passes for log: its pages and records say where they belong.
//!
//! A disk without room, or a process without descriptors, is no failure of the server: the preparer
//! says so in `blocked`, writes get an error, and it tries again, once in [`RETRY`] and when asked
//! (but not more often than [`RETRY_MIN`] allows, as every refused write asks), until there is room. The
//! checkpointer is told, who gives up old segments if there are any.

use super::{USABLE, WAL_DIR, Wal, WalError};
use crate::procs::SlotNo;
use rd_base::counters::Counter;
use rd_base::limits::WAL_PAGE_BYTES;
use rd_base::{Lsn, Role, Timeline};
use rd_format::wal_page;
use rd_sys::Shortage;
use rd_sys::crash::panic_abort;
use rd_sys::fault::{self, Fault};
use rd_sys::storage::{OpenMode, Storage, StorageFile};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the preparer waits before it tries a full disk again on its own.
pub const RETRY: Duration = Duration::from_secs(1);
/// How long it waits at least.
pub const RETRY_MIN: Duration = Duration::from_millis(100);
/// The name of a segment that is being filled; cleared away at start.
const TEMPORARY: &str = "wal/new_segment.tmp";
/// Segments kept prepared ahead of the insert position unless the preparer asks for more.
const AHEAD_SEGMENTS: u64 = 2;
/// Zeros given to the file system by one write.
const ZEROS_BYTES: usize = 256 << 10;
/// How long the preparer rests behind each such write while there is time: the disk is the commits'
/// first. So a segment of 16 MB takes about an eighth of a second, and its last sync finds little left.
/// It just sleeps: while a segment is lacking every flush wakes whoever waits for work.
const ZEROS_REST: Duration = Duration::from_millis(2);

/// Why no further segment can be made at this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentsBlocked {
    /// The file system is full.
    #[error("the write-ahead log cannot grow")]
    DiskFull,
    /// The quota is spent.
    #[error("the write-ahead log cannot grow, because the disk quota is spent")]
    Quota,
    /// Something else, which the walwriter has logged.
    #[error("the write-ahead log cannot grow; the server log says why")]
    Other,
    /// The process that makes segments is short of something but room.
    #[error("the write-ahead log cannot grow")]
    Short(Shortage),
}

impl SegmentsBlocked {
    /// All of them; in shared memory one is its place here, counted from 1.
    const ALL: [SegmentsBlocked; 6] = [
        SegmentsBlocked::DiskFull,
        SegmentsBlocked::Quota,
        SegmentsBlocked::Other,
        SegmentsBlocked::Short(Shortage::ProcessDescriptors),
        SegmentsBlocked::Short(Shortage::SystemDescriptors),
        SegmentsBlocked::Short(Shortage::Memory),
    ];

    fn code(self) -> u32 {
        let place = SegmentsBlocked::ALL
            .iter()
            .position(|blocked| *blocked == self);
        place.map_or(0, |place| place as u32 + 1)
    }

    fn from_code(code: u32) -> Option<SegmentsBlocked> {
        let place = code.checked_sub(1)? as usize;
        let known = SegmentsBlocked::ALL.get(place).copied();
        Some(known.unwrap_or(SegmentsBlocked::Other))
    }

    fn of(error: &io::Error) -> SegmentsBlocked {
        if let Some(shortage) = Shortage::of(error) {
            return SegmentsBlocked::Short(shortage);
        }
        match error.kind() {
            ErrorKind::StorageFull => SegmentsBlocked::DiskFull,
            ErrorKind::QuotaExceeded => SegmentsBlocked::Quota,
            _ => SegmentsBlocked::Other,
        }
    }
}

/// The path of a segment's file below the data directory.
pub fn path(timeline: Timeline, number: u64, segment_bytes: u64) -> String {
    format!(
        "{WAL_DIR}/{}",
        wal_page::segment_name(timeline, number, segment_bytes)
    )
}

/// The path of the file that holds the byte at `lsn`.
pub fn path_of(timeline: Timeline, lsn: Lsn, segment_bytes: u64) -> String {
    path(
        timeline,
        wal_page::segment_of(lsn, segment_bytes),
        segment_bytes,
    )
}

/// Where the very first record of a new log starts: segment 0 is never used, so that LSN 0 can
/// mean "none".
pub fn first_lsn(segment_bytes: u64) -> Lsn {
    wal_page::segment_start(1, segment_bytes)
}

/// The numbers of the segments of `timeline` that are there, ascending.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(storage: &dyn Storage, timeline: Timeline, segment_bytes: u64) -> io::Result<Vec<u64>> {
    let names = storage.list(WAL_DIR)?;
    let parse = |name: &String| wal_page::parse_segment_name(name, segment_bytes);
    let mut numbers: Vec<u64> = names
        .iter()
        .filter_map(parse)
        .filter_map(|(of, number)| (of == timeline).then_some(number))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes the directory and the first segment of a new log, all durable: for `rd_initdb`. The log
/// then starts at [`first_lsn`].
///
/// # Errors
/// When the directory is there already, or the disk refuses.
pub fn create(storage: &dyn Storage, timeline: Timeline, segment_bytes: u64) -> io::Result<()> {
    storage.create_dir(WAL_DIR)?;
    make(storage, timeline, 1, segment_bytes)?;
    storage.sync_dir("")
}

/// Makes segment `number`, full of zeros and durable, while there is no server. What cannot be made
/// whole is removed: nobody would do so later.
///
/// # Errors
/// When the disk refuses.
pub fn make(
    storage: &dyn Storage,
    timeline: Timeline,
    number: u64,
    segment_bytes: u64,
) -> io::Result<()> {
    fill(storage, segment_bytes, &no_rest)
        .and_then(|_| storage.rename(TEMPORARY, &path(timeline, number, segment_bytes)))
        .inspect_err(|_| drop(storage.remove(TEMPORARY)))?;
    storage.sync_dir(WAL_DIR)
}

/// What is done behind a write of zeros to a file at an offset; false if no more are to be written.
type Rest<'r> = dyn Fn(&dyn StorageFile, u64) -> bool + 'r;

fn no_rest(_: &dyn StorageFile, _: u64) -> bool {
    true
}

/// S1: a file of zeros under the temporary name, synced. If the sync fails the file is thrown away
/// and never relied on, so that is an error like others here. Calls `rest` behind each write; false if
/// that has ended it.
fn fill(storage: &dyn Storage, segment_bytes: u64, rest: &Rest<'_>) -> io::Result<bool> {
    if storage.exists(TEMPORARY)? {
        storage.remove(TEMPORARY)?;
    }
    let file = storage.open(TEMPORARY, OpenMode::CreateNew)?;
    // First the room, so that a full disk is found before much was written.
    file.allocate(0, segment_bytes)?;
    write_zeros(&*file, 0, segment_bytes, rest)
}

/// Writes zeros from byte `from` to the end of a segment, and syncs it; `rest` as in [`fill`].
fn write_zeros(
    file: &dyn StorageFile,
    from: u64,
    segment_bytes: u64,
    rest: &Rest<'_>,
) -> io::Result<bool> {
    let zeros = vec![0; ZEROS_BYTES.min(segment_bytes as usize)];
    for offset in (from..segment_bytes).step_by(zeros.len()) {
        let left = (segment_bytes - offset).min(zeros.len() as u64) as usize;
        file.write_all_at(zeros.get(..left).unwrap_or(&zeros), offset)?;
        if !rest(file, offset) {
            return Ok(false);
        }
    }
    file.sync_all().map(|()| true)
}

/// What a preparer did in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One more segment is prepared.
    Prepared,
    /// Enough are.
    Enough,
    /// No further one can be made now.
    Blocked(SegmentsBlocked),
}

/// What became of old segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Given the name of a segment to come.
    pub recycled: u64,
    /// Removed.
    pub removed: u64,
}

/// Makes segments ahead of need: a thread of the walwriter, made after its fork.
pub struct Preparer {
    wal: Wal,
    storage: Arc<dyn Storage>,
    blocked: Option<SegmentsBlocked>,
}

impl Preparer {
    /// A preparer that keeps at least `ahead_bytes` of log, and two segments, prepared beyond the
    /// insert position.
    pub fn new(wal: Wal, storage: Arc<dyn Storage>, ahead_bytes: u64) -> Preparer {
        let ahead = ahead_bytes.max(AHEAD_SEGMENTS * wal.segment_bytes());
        wal.control()
            .segments
            .ahead_bytes
            .store(ahead, Ordering::Relaxed);
        let blocked = wal.segments_blocked();
        Preparer {
            wal,
            storage,
            blocked,
        }
    }

    /// Works until `stop` is set and [`Wal::wake_preparer`] called; a segment that is not needed soon is
    /// not finished then.
    pub fn run(&mut self, stop: &AtomicBool) {
        let wal = self.wal.clone();
        let work = &wal.control().segments.work;
        while !stop.load(Ordering::SeqCst) {
            let ticket = work.ticket();
            let rest = |file: &dyn StorageFile, offset| {
                if wal.has_time_to_prepare() {
                    if stop.load(Ordering::SeqCst) {
                        return false;
                    }
                    // A suggestion: what is wrong with the file its sync tells.
                    let _ = file.start_writeback(offset, ZEROS_BYTES as u64);
                    thread::sleep(ZEROS_REST);
                }
                true
            };
            match self.step_resting(&rest) {
                Step::Prepared => {}
                Step::Enough if stop.load(Ordering::SeqCst) => {}
                Step::Enough => work.wait(ticket, None),
                Step::Blocked(_) => {
                    self.rest(stop);
                    work.wait(ticket, Some(RETRY - RETRY_MIN));
                }
            }
        }
    }

    /// Waits for [`RETRY_MIN`], whoever asks meanwhile.
    fn rest(&self, stop: &AtomicBool) {
        let work = &self.wal.control().segments.work;
        let end = Instant::now() + RETRY_MIN;
        while !stop.load(Ordering::SeqCst) {
            let ticket = work.ticket();
            match end.checked_duration_since(Instant::now()) {
                Some(left) if !stop.load(Ordering::SeqCst) => work.wait(ticket, Some(left)),
                _ => return,
            }
        }
    }

    /// Makes one segment if there are too few.
    pub fn step(&mut self) -> Step {
        self.step_resting(&no_rest)
    }

    fn step_resting(&mut self, rest: &Rest<'_>) -> Step {
        if !self.wal.needs_segment() {
            return Step::Enough;
        }
        let prepared = self
            .wal
            .prepare_segment(&*self.storage, Role::Walwriter, rest);
        match prepared {
            Ok(false) => Step::Enough,
            Ok(true) => {
                if self.blocked.take().is_some() {
                    log::info!("write-ahead log segments can be made again; writes are accepted");
                }
                Step::Prepared
            }
            Err(error) => {
                let blocked = SegmentsBlocked::of(&error);
                if self.blocked.replace(blocked) != Some(blocked) {
                    log::warn!(
                        "could not make a further segment of the write-ahead log: {error}; \
                         writes are refused when those that are ready are full; trying again"
                    );
                }
                Step::Blocked(blocked)
            }
        }
    }
}

impl Wal {
    /// Why no further segment can be made; none if as far as anybody knows it can.
    pub fn segments_blocked(&self) -> Option<SegmentsBlocked> {
        SegmentsBlocked::from_code(self.control().segments.blocked.load(Ordering::SeqCst))
    }

    /// Wakes the preparer, to look at its `stop` or at the disk again.
    pub fn wake_preparer(&self) {
        self.control().segments.work.wake_all();
    }

    /// Called by flushers: the preparer sleeps while there is enough ahead.
    #[inline]
    pub(super) fn wake_preparer_if_needed(&self) {
        if self.needs_segment() && self.segments_blocked().is_none() {
            self.wake_preparer();
        }
    }

    fn needs_segment(&self) -> bool {
        self.lacks(1)
    }

    /// Whether half of what is kept prepared is there, so that what is made now is not needed soon.
    fn has_time_to_prepare(&self) -> bool {
        !self.lacks(2)
    }

    /// Whether less is prepared than somebody wants, or than this part of what is kept ahead.
    fn lacks(&self, part: u64) -> bool {
        let control = self.control();
        let ahead_bytes = control.segments.ahead_bytes.load(Ordering::Relaxed);
        let ahead = ahead_bytes.div_ceil(WAL_PAGE_BYTES as u64) * USABLE / part;
        let insert = control.positions.insert_pos.load(Ordering::SeqCst);
        let wanted = control.segments.wanted_pos.load(Ordering::SeqCst);
        let prepared = control.progress.prepared_pos.load(Ordering::SeqCst);
        prepared < wanted.max(insert + ahead)
    }

    /// The number of the segment that is prepared next. guard: segment latch.
    fn next_segment(&self) -> u64 {
        let prepared = self.control().progress.prepared_pos.load(Ordering::Relaxed);
        wal_page::segment_of(wal_page::pos_to_end_lsn(prepared), self.segment_bytes())
    }

    /// S1 to S3 for a new file, counted for the process with `role`; `rest` and what is returned as in [`fill`].
    fn prepare_segment(
        &self,
        storage: &dyn Storage,
        role: Role,
        rest: &Rest<'_>,
    ) -> io::Result<bool> {
        let filled = fault::point(Fault::WalSegment)
            .and_then(|()| fill(storage, self.segment_bytes(), rest));
        if !matches!(filled, Ok(true)) {
            if let Err(error) = &filled {
                self.block(SegmentsBlocked::of(error));
            }
            // It holds room that is short; if it cannot be removed, the next attempt begins so.
            let _ = storage.remove(TEMPORARY);
            return filled;
        }
        let _latch = self.control().segments.latch.lock();
        storage
            .rename(TEMPORARY, &self.next_path())
            .inspect_err(|error| {
                self.block(SegmentsBlocked::of(error));
            })?;
        self.finish_names(storage, 1);
        if let Some(slot) = SlotNo::of(role) {
            self.inner.stats.add(slot, Counter::WalSegmentsCreated, 1);
        }
        Ok(true)
    }

    fn next_path(&self) -> String {
        path(self.timeline(), self.next_segment(), self.segment_bytes())
    }

    fn block(&self, why: SegmentsBlocked) {
        let blocked = &self.control().segments.blocked;
        if blocked.swap(why.code(), Ordering::SeqCst) == 0 {
            // Whoever waits for segments gets an error instead; whoever comes later sees why.
            self.give_room();
            // A checkpoint may free some.
            self.inner.procs.notify(Role::Checkpointer);
        }
    }

    /// The end of S2, and S3, for `count` segments that have got their names; under the latch.
    fn finish_names(&self, storage: &dyn Storage, count: u64) {
        if let Err(error) = storage.sync_dir(WAL_DIR) {
            panic_abort(&format!(
                "could not sync the directory \"{WAL_DIR}\": {error}"
            ));
        }
        let control = self.control();
        let bytes = count * self.segment_bytes() / WAL_PAGE_BYTES as u64 * USABLE;
        control
            .progress
            .prepared_pos
            .fetch_add(bytes, Ordering::SeqCst);
        control.segments.blocked.store(0, Ordering::SeqCst);
        self.give_room();
    }

    /// Takes stock at start: clears away what was being made, counts the segments from the one
    /// that `pos` lies in, and makes two if there are fewer.
    pub(super) fn adopt_segments(&self, storage: &dyn Storage, pos: u64) -> Result<(), WalError> {
        if storage.exists(TEMPORARY)? {
            storage.remove(TEMPORARY)?;
        }
        // A name may be there and yet not be durable, if the server died before its sync.
        storage.sync_dir(WAL_DIR)?;
        let (timeline, bytes) = (self.timeline(), self.segment_bytes());
        let current = pos / USABLE * WAL_PAGE_BYTES as u64 / bytes;
        let numbers = list(storage, timeline, bytes)?;
        let mut next = current;
        for number in numbers.into_iter().filter(|number| *number >= current) {
            let path = path(timeline, number, bytes);
            let mut have = storage.open(&path, OpenMode::Read)?.len()?;
            if number == current && have < bytes {
                log::warn!(
                    "\"{path}\" has {have} bytes in place of {bytes}: filling it up with zeros behind the \
                     end of the log"
                );
                let file = storage.open(&path, OpenMode::ReadWrite)?;
                write_zeros(&*file, have, bytes, &no_rest)?;
                have = bytes;
            }
            if number == current && have > bytes {
                log::warn!(
                    "\"{path}\" has {have} bytes in place of {bytes}: cutting off what is behind them"
                );
                let file = storage.open(&path, OpenMode::ReadWrite)?;
                file.truncate(bytes)?;
                file.sync_all()?;
                have = bytes;
            }
            if number != next || have != bytes {
                break;
            }
            next += 1;
        }
        let control = self.control();
        let prepared = next * (bytes / WAL_PAGE_BYTES as u64) * USABLE;
        control
            .progress
            .prepared_pos
            .store(prepared, Ordering::SeqCst);
        control
            .segments
            .ahead_bytes
            .store(AHEAD_SEGMENTS * bytes, Ordering::Relaxed);
        while next < current + AHEAD_SEGMENTS {
            match self.prepare_segment(storage, Role::Startup, &no_rest) {
                Ok(_) => next += 1,
                Err(error) if SegmentsBlocked::of(&error) == SegmentsBlocked::Other => {
                    return Err(error.into());
                }
                Err(error) => {
                    log::warn!("could not make a segment of the write-ahead log: {error}");
                    break;
                }
            }
        }
        Ok(())
    }

    /// Gives up the segments that lie wholly below `before`: the least LSN that anybody may still
    /// need. While the prepared segments end below `recycle_upto` they are renamed to come next;
    /// the others are removed. For the checkpointer.
    ///
    /// # Errors
    /// When a file cannot be renamed or removed: that of the first such file. The others are given up
    /// all the same.
    pub fn retire_segments(
        &self,
        storage: &dyn Storage,
        before: Lsn,
        recycle_upto: Lsn,
    ) -> io::Result<Retired> {
        let (timeline, bytes) = (self.timeline(), self.segment_bytes());
        // The segment of the last durable byte stays: a heartbeat writes its header again.
        let last_byte = Lsn::new(self.durable_lsn().get() - 1);
        let keep_from = wal_page::segment_of(before.min(last_byte), bytes);
        let numbers = list(storage, timeline, bytes)?;
        let _latch = self.control().segments.latch.lock();
        let mut retired = Retired::default();
        let first_new = self.next_segment();
        let mut failed = None;
        for old in numbers.into_iter().filter(|number| *number < keep_from) {
            let from = path(timeline, old, bytes);
            let new = first_new + retired.recycled;
            let has_length = || {
                let file = storage.open(&from, OpenMode::Read);
                file.and_then(|file| file.len())
                    .is_ok_and(|len| len == bytes)
            };
            // Only a file of the right length can be written without growing.
            let done = if (new + 1) * bytes <= recycle_upto.get() && has_length() {
                fault::point(Fault::WalSegment)
                    .and_then(|()| storage.rename(&from, &path(timeline, new, bytes)))
                    .map(|()| retired.recycled += 1)
            } else {
                storage.remove(&from).map(|()| retired.removed += 1)
            };
            // The next time would come no further than to this one again, and keep all behind it.
            if let Err(error) = done {
                failed.get_or_insert(error);
            }
        }
        if retired != Retired::default() {
            self.finish_names(storage, retired.recycled);
        }
        failed.map_or(Ok(retired), Err)
    }
}

/// How far segments are recycled ahead, as PostgreSQL does it: enough for the log of the next
/// checkpoint, by the estimate of the distance between two, within `min_wal_size` and
/// `max_wal_size`. `redo` is the redo point just reached.
pub fn recycle_limit(
    redo: Lsn,
    distance_bytes: u64,
    completion_target: f64,
    min_wal_bytes: u64,
    max_wal_bytes: u64,
) -> Lsn {
    // A tenth more than the estimate says, because a checkpoint may come late.
    let estimate = (1.0 + completion_target) * distance_bytes as f64 * 1.1;
    let ahead = (estimate as u64).clamp(min_wal_bytes, max_wal_bytes.max(min_wal_bytes));
    Lsn::new(redo.get().saturating_add(ahead))
}
