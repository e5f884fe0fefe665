//! The write-ahead log: a ring in shared memory that all processes insert into, and the segment
//! files in `wal/` that whoever holds the flush latch writes it to.
//!
//! Inside this module places in the log are *positions*: they count usable bytes only, so that
//! records are contiguous and arithmetic needs no page headers. Outside they are LSNs.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `ring` | the ring's words: records in, pages out |
//! | [`insert`] | reservation, copying, and what is known to be complete |
//! | [`credit`] | room taken ahead, so that no reservation can fail |
//! | `target` | what the next flush makes durable, for those who prune |
//! | [`flush`] | writing, syncing, the durable LSN and who is told of it |
//! | [`lead`] | who flushes, of several processes that wait |
//! | [`segments`] | segment files: made ahead, recycled, removed |
//! | [`read`] | records from files, and why the log ends where it ends |
//!
//! Rules, cited in the code by their numbers:
//! - **W1** Records begin and end at multiples of 8 in the log and lie in the order of their LSNs.
//! - **W2** Everything before a position is *complete* when it was reserved and no insert slot shows
//!   a lower one. That stays true for ever, so the highest position known to be complete is kept.
//! - **W3** The durable LSN only ever takes announced targets, and a target is a complete position.
//! - **W4** The ring keeps every byte from the start of the page that holds the written position:
//!   of that page the block that holds it is written again.
//! - **W5** Files are written only under the flush latch, and in order. A sync that is to make a
//!   position durable covers every segment from the last durable one to that position's. What is
//!   written beyond it, of a record under way, is for a later sync, or for one before its
//!   descriptor is closed.
//! - **W6** A segment counts as prepared only when its bytes and its name are durable.
//! - **W7** Holders of the flush latch wait for the disk and for nothing else: not for latches, not
//!   for inserters. So an inserter that holds latches may wait for the flusher.

pub mod credit;
pub mod flush;
pub mod insert;
pub mod lead;
pub mod read;
mod ring;
pub mod segments;
pub(crate) mod target;

#[cfg(test)]
mod tests;

pub use credit::{Credit, NoCredit, credit_for};
pub use flush::{FlushOutcome, Flusher};
pub use insert::Inserted;
pub use lead::Leader;
pub use read::{LogEnd, ReadFrom, Record, WalReader};
pub use segments::{Preparer, SegmentsBlocked};
pub use target::FlushTarget;

use crate::procs::{Procs, SlotNo};
use crate::shared::Sizes;
use crate::stats::Stats;
use insert::InsertSlot;
use rd_base::limits::{PROCESSES_MAX, WAL_PAGE_BYTES};
use rd_base::{Lsn, Role, StartCount, Timeline};
use rd_format::wal_page::{self, WAL_PAGE_USABLE};
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use rd_sys::futex::Condition;
use rd_sys::latch::Latch;
use rd_sys::shm::{Area, One, Plan, Region, Segment};
use rd_sys::storage::Storage;
use ring::{Ring, RingWord};
use std::io;
use std::sync::Arc;
use target::Target;
use zerocopy::{FromBytes, KnownLayout};

/// Usable bytes of a page, as a position counts them.
pub(crate) const USABLE: u64 = WAL_PAGE_USABLE as u64;
/// The directory of the segment files, below the data directory.
pub const WAL_DIR: &str = "wal";

/// Between two steps of a protocol: tests let others come in there now and then.
#[cfg(not(test))]
#[inline(always)]
fn between_steps() {}

#[cfg(test)]
use tests::between_steps;

/// Where a log goes on, and whose log it is; see [`Wal::start_at`].
#[derive(Clone, Copy, Debug)]
pub struct WalStart {
    /// End of the last record.
    pub end: Lsn,
    /// The timeline written into names and page headers.
    pub timeline: Timeline,
    /// The count of this start, part of every record.
    pub start_count: StartCount,
    /// The system identifier, part of every page header.
    pub system_id: u64,
}

/// Something about the files of the log that the server cannot go on with.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The storage said so; its message names file and operation.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The log is to go on inside a page that cannot be read back.
    #[error(
        "write-ahead log page at {page} in \"{file}\" cannot be continued at {end}: {problem}; \
         look at it with rd_waldump"
    )]
    Tail {
        /// Start of the page.
        page: Lsn,
        /// Where the log was to go on.
        end: Lsn,
        /// The segment file.
        file: String,
        /// What is wrong.
        problem: String,
    },
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Positions {
    /// End of the last reservation.
    /// atomic: AcqRel by inserters; its order is the order of the log.
    insert_pos: AtomicU64,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Credits {
    /// `insert_pos` and all credit that is out.
    /// atomic: raised and lowered by whoever takes and returns credit.
    credit_pos: AtomicU64,
}

/// What flushers have done; read by everybody, for every record and every read.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Progress {
    /// All before it survives a crash. guard: flush latch; atomic: SeqCst by the holder.
    durable_lsn: AtomicU64,
    /// All before it was given to the files. guard: flush latch; atomic: Release by the holder.
    written_pos: AtomicU64,
    /// The ring may be filled up to here (W4). guard: flush latch; atomic: SeqCst by the holder.
    ring_end_pos: AtomicU64,
    /// Segments are there up to here (W6). guard: segment latch; atomic: SeqCst by the holder.
    prepared_pos: AtomicU64,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Requests {
    /// Somebody waits for this LSN. atomic: raised by all, read by whoever lets go of the latch.
    requested_lsn: AtomicU64,
    /// Somebody wants this LSN durable within `wal_writer_delay`. atomic: raised by all.
    lazy_lsn: AtomicU64,
    /// Not 0 while the walwriter has a timer running, at whose end it looks at `lazy_lsn` and at
    /// the durable LSN by itself. atomic: SeqCst.
    timer: AtomicU32,
    reserved: AtomicU32,
}

/// Words that are nearly always 0 (or constant) and looked at by every inserter.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Hints {
    /// An inserter or a taker of credit waits for room in the ring. atomic: SeqCst.
    ring_wanted: AtomicU32,
    /// Somebody was refused credit since it last became more. atomic: SeqCst.
    room_wanted: AtomicU32,
    /// A flusher found a request beyond what is complete. atomic: SeqCst.
    stalled: AtomicU32,
    /// Insert slots at or beyond this index were never used. atomic: raised SeqCst by the owner.
    slots_used: AtomicU32,
    /// const after `start_at`.
    timeline: AtomicU32,
    /// const after `start_at`.
    start_count: AtomicU32,
    /// const after `start_at`.
    system_id: AtomicU64,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Flushing {
    /// guard: itself. Tried by all; waited for only by processes that may block.
    latch: Latch,
    /// Bytes of an earlier record at the start of the last page written since the start.
    /// guard: latch.
    last_remaining: AtomicU32,
    target: Target,
    /// The durable LSN in the header of the last page written. guard: latch.
    stamped_lsn: AtomicU64,
    /// Moved whenever `ring_end_pos` is raised and `ring_wanted` was set.
    ring_room: Condition,
    /// Moved when an inserter finishes and `stalled` was set.
    stall_over: Condition,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct SegmentWords {
    /// guard: itself; held over renames and directory syncs. Never taken by backends.
    latch: Latch,
    /// Why no further segment can be made: 0, or a code of [`SegmentsBlocked`].
    /// atomic: SeqCst by the preparer.
    blocked: AtomicU32,
    /// Somebody needs segments up to here. atomic: raised by all.
    wanted_pos: AtomicU64,
    /// Bytes of log that are to be prepared ahead of the insert position.
    /// atomic: Relaxed, by the preparer.
    ahead_bytes: AtomicU64,
    /// Wakes the preparer.
    work: Condition,
}

/// All words of the log but ring and insert slots.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
struct Control {
    positions: Positions,
    credits: Credits,
    progress: Progress,
    requests: Requests,
    hints: Hints,
    flushing: Flushing,
    segments: SegmentWords,
}

/// Where the log lies in the segment of shared memory.
#[derive(Clone, Copy)]
pub struct WalRegions {
    control: Region<Control>,
    slots: Region<InsertSlot>,
    ring: Region<RingWord>,
}

impl WalRegions {
    /// Reserves room. The ring is a power of two of pages, at most what `sizes` says.
    pub fn plan(plan: &mut Plan, sizes: &Sizes) -> WalRegions {
        WalRegions {
            control: plan.reserve(1),
            slots: plan.reserve(PROCESSES_MAX),
            ring: plan.reserve(ring_pages(sizes) * (WAL_PAGE_BYTES / 8)),
        }
    }
}

/// Pages of the ring: a power of two, so that a page's place in it is a mask.
fn ring_pages(sizes: &Sizes) -> usize {
    let pages = (sizes.wal_ring_bytes / WAL_PAGE_BYTES as u64).max(2);
    1 << pages.ilog2()
}

struct Inner {
    control: One<Control>,
    slots: Area<InsertSlot>,
    ring: Ring,
    segment_bytes: u64,
    procs: Procs,
    stats: Stats,
}

/// The log, as all processes share it. Clones are handles to the same log.
#[derive(Clone)]
pub struct Wal {
    inner: Arc<Inner>,
}

impl Wal {
    /// Opens the log's part of shared memory. `procs` is whom it wakes, `stats` where it counts.
    pub fn open(
        segment: &Segment,
        regions: &WalRegions,
        sizes: &Sizes,
        procs: Procs,
        stats: Stats,
    ) -> Wal {
        let inner = Inner {
            control: segment.one(regions.control),
            slots: segment.area(regions.slots),
            ring: Ring::new(segment.area(regions.ring)),
            segment_bytes: sizes.wal_segment_bytes,
            procs,
            stats,
        };
        Wal {
            inner: Arc::new(inner),
        }
    }

    fn control(&self) -> &Control {
        &self.inner.control
    }

    /// Bytes of a segment file.
    pub fn segment_bytes(&self) -> u64 {
        self.inner.segment_bytes
    }

    /// The timeline that is written.
    pub fn timeline(&self) -> Timeline {
        Timeline::new(self.control().hints.timeline.load(Ordering::Relaxed))
    }

    /// The start count that is part of every record inserted now.
    pub fn start_count(&self) -> StartCount {
        StartCount::new(self.control().hints.start_count.load(Ordering::Relaxed))
    }

    /// The system identifier in page headers.
    pub fn system_id(&self) -> u64 {
        self.control().hints.system_id.load(Ordering::Relaxed)
    }

    /// End LSN of the last reserved record: at or above the stamp of every version that anybody
    /// can see.
    #[inline]
    pub fn insert_lsn(&self) -> Lsn {
        let pos = self.control().positions.insert_pos.load(Ordering::SeqCst);
        wal_page::pos_to_end_lsn(pos)
    }

    /// All before it survives a crash. Acquires everything that happened before.
    #[inline]
    pub fn durable_lsn(&self) -> Lsn {
        Lsn::new(self.control().progress.durable_lsn.load(Ordering::SeqCst))
    }

    /// All before it was given to the files, and is durable after the next sync.
    pub fn written_lsn(&self) -> Lsn {
        let pos = self.control().progress.written_pos.load(Ordering::Acquire);
        wal_page::pos_to_end_lsn(pos)
    }

    /// The end of the prepared segments: the log can grow to here without a new file.
    pub fn prepared_lsn(&self) -> Lsn {
        let pos = self.control().progress.prepared_pos.load(Ordering::Acquire);
        wal_page::pos_to_end_lsn(pos)
    }

    /// The highest LSN that anybody has asked to be made durable.
    pub fn requested_lsn(&self) -> Lsn {
        Lsn::new(self.control().requests.requested_lsn.load(Ordering::SeqCst))
    }

    /// The highest LSN that was asked for by [`Wal::request_lazy_flush`].
    pub fn lazy_lsn(&self) -> Lsn {
        Lsn::new(self.control().requests.lazy_lsn.load(Ordering::SeqCst))
    }

    /// Whether a flusher has something to do: a request ahead of the durable LSN, or somebody who
    /// waits for room in the ring.
    pub fn wants_flush(&self) -> bool {
        self.requested_lsn() > self.durable_lsn()
            || self.control().hints.ring_wanted.load(Ordering::SeqCst) != 0
    }

    /// Whether somebody flushes at this moment. He looks for new requests when he is done.
    pub fn is_flushing(&self) -> bool {
        self.control().flushing.latch.is_locked()
    }

    /// Asks that `lsn` be made durable soon, and wakes the walwriter unless a flush is under way,
    /// whose holder will look again.
    pub fn request_flush(&self, lsn: Lsn) {
        self.note_request(lsn);
        if lsn > self.durable_lsn() {
            self.wake_flusher();
        }
    }

    /// Asks that `lsn` be made durable, without waking anybody: for whoever calls
    /// [`Flusher::try_flush`] himself next.
    pub fn note_request(&self, lsn: Lsn) {
        debug_assert!(lsn <= self.insert_lsn(), "{lsn} was never inserted");
        self.control()
            .requests
            .requested_lsn
            .fetch_max(lsn.get(), Ordering::SeqCst);
    }

    /// Asks that `lsn` be made durable within `wal_writer_delay`.
    pub fn request_lazy_flush(&self, lsn: Lsn) {
        self.control()
            .requests
            .lazy_lsn
            .fetch_max(lsn.get(), Ordering::SeqCst);
        self.wake_timer();
    }

    /// Wakes the walwriter unless it has a timer running. To be called after what it is to look
    /// at was stored (SeqCst).
    fn wake_timer(&self) {
        if self.control().requests.timer.load(Ordering::SeqCst) == 0 {
            self.inner.procs.notify(Role::Walwriter);
        }
    }

    /// The walwriter says whether it has a timer running. After saying that it has none it must
    /// look at [`Wal::lazy_lsn`] and [`Flusher::heartbeat_due`] once more before it sleeps.
    pub fn set_timer(&self, running: bool) {
        self.control()
            .requests
            .timer
            .store(u32::from(running), Ordering::SeqCst);
    }

    /// Wakes the walwriter unless somebody holds the flush latch: he fences after letting go of it
    /// and looks at the requests again. To be called after the request was made (SeqCst).
    fn wake_flusher(&self) {
        fence(Ordering::SeqCst);
        if !self.is_flushing() {
            self.inner.procs.notify(Role::Walwriter);
        }
    }

    /// Wakes the walwriter if somebody waits for room in the ring. He may hold latches, for which
    /// whoever flushes next may have to wait first if it is a backend that serves its clients in
    /// between; the walwriter takes none.
    fn wake_walwriter_for_room(&self) {
        fence(Ordering::SeqCst);
        if self.control().hints.ring_wanted.load(Ordering::SeqCst) != 0 {
            self.inner.procs.notify(Role::Walwriter);
        }
    }

    /// If there is a request that nobody works on, hands it to a backend that sleeps until it is
    /// done, or else to the walwriter. For whoever has flushed and will not flush again, and for a
    /// nominated process that will not.
    pub fn pass_flush_on(&self) {
        fence(Ordering::SeqCst);
        let is_left = self.requested_lsn() > self.durable_lsn() && !self.is_flushing();
        if is_left && !self.inner.procs.nominate() {
            self.inner.procs.notify(Role::Walwriter);
        }
        self.wake_walwriter_for_room();
    }

    /// What pruning must know of flushes: with the durable LSN and the published snapshots these
    /// are the numbers at which anybody may read. To be read before the durable LSN.
    ///
    /// Targets are complete positions, so a target chosen later can be *below* the stamp of a
    /// version that the caller sees, if an earlier record is still being copied. `later_from` says
    /// how low: the highest position known to be complete now, which no later target is below,
    /// because it is raised first (W2) and only then the target is looked at; a chooser marks its
    /// word first and reads the complete position then, so one of the two sees the other.
    pub fn flush_target(&self) -> FlushTarget {
        let complete = wal_page::pos_to_end_lsn(self.prefix().complete_pos);
        self.control().flushing.target.seen_from(complete)
    }

    /// Begins to write at `start.end`, after recovery (or the first start): takes up the page
    /// that the log ends in, counts the segments that are there, and makes two if there are fewer.
    /// That the disk is full is no error; it is then known as [`Wal::segments_blocked`].
    ///
    /// To be called once, before anything is inserted, by the only process that touches the log.
    ///
    /// # Errors
    /// When files cannot be read or made, or the last page is not what it should be.
    pub fn start_at(&self, storage: &Arc<dyn Storage>, start: &WalStart) -> Result<(), WalError> {
        let pos = wal_page::lsn_to_pos(start.end);
        assert!(
            pos > 0 && pos.is_multiple_of(8),
            "the log cannot go on at {}",
            start.end
        );
        let control = self.control();
        let hints = &control.hints;
        hints
            .timeline
            .store(start.timeline.get(), Ordering::Relaxed);
        hints
            .start_count
            .store(start.start_count.get(), Ordering::Relaxed);
        hints.system_id.store(start.system_id, Ordering::Relaxed);
        self.take_up_tail(&**storage, start.end)?;
        let flushing = &control.flushing;
        flushing.target.start_at(start.end, pos);
        flushing
            .stamped_lsn
            .store(start.end.get(), Ordering::Relaxed);
        let progress = &control.progress;
        progress.written_pos.store(pos, Ordering::Release);
        progress
            .ring_end_pos
            .store(self.inner.ring.end_for(pos), Ordering::SeqCst);
        progress
            .durable_lsn
            .store(start.end.get(), Ordering::SeqCst);
        control.credits.credit_pos.store(pos, Ordering::SeqCst);
        control.positions.insert_pos.store(pos, Ordering::SeqCst);
        self.adopt_segments(&**storage, pos)
    }

    /// Reads the page that the log ends in into the ring, up to `end`.
    fn take_up_tail(&self, storage: &dyn Storage, end: Lsn) -> Result<(), WalError> {
        let in_page = (end.get() % WAL_PAGE_BYTES as u64) as usize;
        if in_page == 0 {
            return Ok(());
        }
        let page_lsn = Lsn::new(end.get() - in_page as u64);
        let timeline = self.timeline();
        let file = segments::path_of(timeline, page_lsn, self.segment_bytes());
        let problem = |problem: String| WalError::Tail {
            page: page_lsn,
            end,
            file: file.clone(),
            problem,
        };
        let mut page = [0; WAL_PAGE_BYTES];
        read::read_page(storage, timeline, self.segment_bytes(), page_lsn, &mut page)?;
        let header = read::check_page(&page, page_lsn, timeline, self.system_id())
            .map_err(|wrong| problem(wrong.to_string()))?;
        self.inner.ring.take_up_page(
            page_lsn.get() / WAL_PAGE_BYTES as u64,
            &page[..in_page],
            header.remaining,
        );
        Ok(())
    }

    /// Whether the process in `slot` is the one that flushes as its only work.
    fn is_walwriter(slot: SlotNo) -> bool {
        SlotNo::of(Role::Walwriter) == Some(slot)
    }
}
