//! The shared table of relation files: which exist, how much room they have on disk, how many keys
//! they hold, and what of them is waiting for the checkpointer, who alone creates, grows and
//! unlinks them.
//!
//! # Life of a file
//!
//! | state | meaning | left by |
//! |---|---|---|
//! | free | the row belongs to no file | a request to create: wanted |
//! | wanted | the checkpointer is to create it | created: live; failed: failed |
//! | failed | it could not be created | asked for again: wanted |
//! | live | exists, in use or about to be | its drop was logged: dropped |
//! | dropped | nothing new touches it, old snapshots may read it | see [`Files::leave`]: leaving |
//! | leaving | neither redo nor a snapshot can need it | unlinked: free |
//!
//! How many keys each holds: `keys.rs`.

use crate::checkpoint::{Flags, Request};
use crate::ctx::Store;
use crate::relation::PIECE_BLOCKS;
use rd_base::limits::{FILES_MAX, PAGE_BYTES};
use rd_base::{FileNo, Lsn, Role};
use rd_format::Access;
use rd_format::control::{FileRow as ControlRow, PendingDrop};
use rd_sys::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, fence};
use rd_sys::futex::Condition;
use rd_sys::latch::Latch;
use rd_sys::shm::{Area, One, Plan, Region, Segment};
use rd_sys::storage;
use std::io;
use std::time::Duration;
use zerocopy::{FromBytes, KnownLayout};

mod keys;
#[cfg(test)]
mod tests;

pub use keys::KeyCut;

/// Least step by which a file grows, in blocks: 1 MiB.
const STEP_MIN_BLOCKS: u32 = (1 << 20) / PAGE_BYTES as u32;
/// Greatest step by which a file grows, in blocks: 64 MiB.
const STEP_MAX_BLOCKS: u32 = (64 << 20) / PAGE_BYTES as u32;

/// What a row of the table is used for; in memory only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FileState {
    /// By no file.
    Free = 0,
    /// The checkpointer is to create the file.
    Wanted = 1,
    /// The file could not be created.
    Failed = 2,
    /// The file exists.
    Live = 3,
    /// Its drop was logged.
    Dropped = 4,
    /// It may be unlinked.
    Leaving = 5,
}

impl FileState {
    fn from_number(number: u32) -> FileState {
        match number {
            0 => FileState::Free,
            1 => FileState::Wanted,
            2 => FileState::Failed,
            3 => FileState::Live,
            4 => FileState::Dropped,
            5 => FileState::Leaving,
            other => rd_sys::crash::panic_abort(&format!("file state {other} in shared memory")),
        }
    }

    fn has_blocks(self) -> bool {
        matches!(
            self,
            FileState::Live | FileState::Dropped | FileState::Leaving
        )
    }
}

/// One relation file.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Row {
    /// The file's number; 0 while the row is free. atomic: Release under the table's latch.
    file: AtomicU32,
    /// [`FileState`]. atomic: Release by whoever changes it, Acquire by all.
    state: AtomicU32,
    /// Blocks with room on disk, synced. atomic: Release by the checkpointer.
    allocated: AtomicU32,
    /// Blocks that are to have it. atomic: raised by all.
    wanted: AtomicU32,
    /// How often a growth or the creation failed. atomic: Release by the checkpointer, after
    /// `errno`.
    failures: AtomicU32,
    /// The system's number for the last failure. atomic: Relaxed.
    errno: AtomicU32,
    /// Where the search for a free block may begin. atomic: Relaxed; only a hint.
    hint: AtomicU32,
    reserved: AtomicU32,
    /// Changes to the number of keys; see the module. atomic: Relaxed, ordered by the insert slot.
    keys: [AtomicI64; 2],
    /// End LSN of the last record that touches a dropped file. const from Dropped on.
    dropped_lsn: AtomicU64,
    /// Epoch that all processes must have passed before the unlinking; 0 while nobody may ask for it yet.
    /// atomic: Relaxed; the checkpointer's own, once the row is taken.
    dropped_epoch: AtomicU64,
    /// `keys` holds what records up to here say already, when redo begins; else 0.
    /// const after the file was entered.
    counted_to: AtomicU64,
    /// Number and redo point of the last checkpoint that covered the file, as in its meta page.
    /// atomic: Relaxed; written by startup before service, then by the checkpointer.
    checkpoint_count: AtomicU64,
    checkpoint_scn: AtomicU64,
    /// Since when it is closed, as in its meta page; 0 while it is written. atomic: as
    /// `checkpoint_count`.
    stop_scn: AtomicU64,
    /// [`Access`] for which it is closed. atomic: as `stop_scn`.
    closed_for: AtomicU32,
    /// [`Access`] of its namespace. atomic: Release by who holds the namespace's entry alone; Acquire
    /// by all.
    access: AtomicU32,
}

impl Row {
    /// For which access the file is closed, and its stop SCN; none while it is written.
    fn closed(&self) -> Option<(Access, Lsn)> {
        let access = access_of(self.closed_for.load(Ordering::Relaxed));
        let stop_scn = Lsn::new(self.stop_scn.load(Ordering::Relaxed));
        (!access.is_writable()).then_some((access, stop_scn))
    }

    fn file(&self) -> FileNo {
        FileNo::new(self.file.load(Ordering::Acquire))
    }
    fn state(&self) -> FileState {
        FileState::from_number(self.state.load(Ordering::Acquire))
    }
    fn set_state(&self, state: FileState) {
        self.state.store(state as u32, Ordering::Release);
    }
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct TableWords {
    /// guard: itself; held while a row is taken or freed.
    latch: Latch,
    /// Something waits for the checkpointer. atomic: SeqCst.
    work: AtomicU32,
    /// Moves when room was made, or could not be.
    grown: Condition,
    /// Moves with each unlinked file. atomic: Release.
    unlinks: AtomicU64,
    /// Moves with each file that goes offline or comes back. atomic: Release by the checkpointer.
    replaced: AtomicU64,
    /// Files whose namespaces cannot be written. atomic: SeqCst; changed with [`Row::access`].
    restricted: AtomicU32,
    reserved2: AtomicU32,
    /// The next number to be given out. atomic: AcqRel; set by startup before service.
    next_file: AtomicU32,
    /// Rows from here on were never taken. atomic: AcqRel; raised before a row is.
    rows_used: AtomicU32,
    /// The current word and the boundary, see `keys.rs`. atomic: SeqCst.
    cut: AtomicU64,
    /// End LSN of the record that redo is counting, or counted last, and of the one that it has
    /// counted. atomic: SeqCst; written by redo's reader.
    counting: AtomicU64,
    counted: AtomicU64,
}

/// Where the table lies in the segment.
#[derive(Clone, Copy)]
pub struct FilesRegions {
    rows: Region<Row>,
    words: Region<TableWords>,
}

impl FilesRegions {
    /// Reserves room for the table.
    pub fn plan(plan: &mut Plan) -> FilesRegions {
        FilesRegions {
            rows: plan.reserve(FILES_MAX),
            words: plan.reserve(1),
        }
    }
}

/// The table of relation files.
#[derive(Clone)]
pub struct Files {
    rows: Area<Row>,
    words: One<TableWords>,
}

/// All [`FILES_MAX`] rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are {FILES_MAX} relation files already, dropped ones not yet removed included: those that \
     a transaction, a reply in several parts or watched keys may still look at stay until these end, \
     which max_snapshot_age sees to; for the others a checkpoint was asked for: try again"
)]
pub struct TooManyFiles;

/// A file could not be created or grown.
#[derive(Debug, thiserror::Error)]
#[error("could not extend relation file {file} to {blocks} blocks: {error}")]
pub struct GrowthError {
    /// Which file.
    pub file: FileNo,
    /// How long it was to be.
    pub blocks: u32,
    /// What the system said.
    pub error: io::Error,
}

/// A growth (or creation) that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct GrowthTicket {
    file: FileNo,
    blocks: u32,
    failures: u32,
}

/// How far a growth is.
#[derive(Debug)]
pub enum Growth {
    /// The room is there.
    Ready,
    /// Not yet. The process is notified as a parked one; see [`crate::procs`].
    Pending,
    /// It will not be there, unless it is asked for again.
    Failed(GrowthError),
}

/// What the checkpointer is to do for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileWork {
    /// The file.
    pub file: FileNo,
    /// It does not exist yet.
    pub create: bool,
    /// Blocks that have room.
    pub from: u32,
    /// Blocks that somebody waits for.
    pub needed: u32,
    /// Blocks that are to have room, a step's worth.
    pub to: u32,
}

impl Files {
    /// Opens the table.
    pub fn open(segment: &Segment, regions: &FilesRegions) -> Files {
        Files {
            rows: segment.area(regions.rows),
            words: segment.one(regions.words),
        }
    }

    /// All rows that are, or ever were, taken.
    fn rows_used(&self) -> &[Row] {
        &self.rows[..self.words.rows_used.load(Ordering::Acquire) as usize]
    }

    fn row(&self, file: FileNo) -> Option<&Row> {
        // Rows are taken at the number's own place, or the next free one.
        let start = file.get() as usize % FILES_MAX;
        let rows = self.rows_used();
        let (before, from) = rows.split_at(start.min(rows.len()));
        from.iter()
            .chain(before)
            .find(|row| row.file.load(Ordering::Acquire) == file.get())
    }

    fn known(&self, file: FileNo) -> &Row {
        self.row(file).unwrap_or_else(|| {
            rd_sys::crash::panic_abort(&format!("relation file {file} has no row in shared memory"))
        })
    }

    /// Takes a row for `file`, or finds the one it has.
    fn take_row(&self, file: FileNo) -> Result<&Row, TooManyFiles> {
        assert!(file.get() != 0, "0 is no file");
        let _guard = self.words.latch.lock();
        if let Some(row) = self.row(file) {
            return Ok(row);
        }
        let start = file.get() as usize % FILES_MAX;
        let (before, from) = self.rows.split_at(start);
        let free = from
            .iter()
            .chain(before)
            .position(|row| row.file.load(Ordering::Relaxed) == 0);
        let place = (start + free.ok_or(TooManyFiles)?) % FILES_MAX;
        let row = &self.rows[place];
        for word in [
            &row.allocated,
            &row.wanted,
            &row.failures,
            &row.errno,
            &row.hint,
            &row.closed_for,
            &row.access,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        for word in [
            &row.dropped_lsn,
            &row.counted_to,
            &row.checkpoint_count,
            &row.checkpoint_scn,
            &row.stop_scn,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        row.dropped_epoch.store(0, Ordering::Relaxed);
        row.keys
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
        row.set_state(FileState::Free);
        let rows_used = &self.words.rows_used;
        rows_used.fetch_max(place as u32 + 1, Ordering::AcqRel);
        row.file.store(file.get(), Ordering::Release);
        Ok(row)
    }

    /// What is known of `file`.
    pub fn state(&self, file: FileNo) -> FileState {
        self.row(file).map_or(FileState::Free, Row::state)
    }

    /// Whether `file` is on disk.
    pub fn exists(&self, file: FileNo) -> bool {
        self.state(file).has_blocks()
    }

    /// The files that exist and are not dropped.
    pub fn live(&self) -> Vec<FileNo> {
        self.with(|state| state == FileState::Live)
    }

    /// The files that exist, those included that wait to be unlinked.
    pub fn existing(&self) -> Vec<FileNo> {
        self.with(FileState::has_blocks)
    }

    fn with(&self, is_wanted: impl Fn(FileState) -> bool) -> Vec<FileNo> {
        let rows = self.rows_used().iter();
        let wanted = rows.filter(|row| is_wanted(row.state()));
        wanted.map(Row::file).collect()
    }

    /// Move with each file that is unlinked, and with each that goes offline or comes back.
    pub fn gone(&self) -> (u64, u64) {
        let words = [&self.words.unlinks, &self.words.replaced];
        let [unlinks, replaced] = words.map(|word| word.load(Ordering::Acquire));
        (unlinks, replaced)
    }

    /// A file number that was never used. It is given back by nobody, used or not.
    pub fn allocate_number(&self) -> FileNo {
        let number = self.words.next_file.fetch_add(1, Ordering::AcqRel);
        assert!(
            number != 0 && number < u32::MAX,
            "file numbers are used up, or were not set"
        );
        FileNo::new(number)
    }

    /// The number that [`Files::allocate_number`] will give next.
    pub fn next_number(&self) -> FileNo {
        FileNo::new(self.words.next_file.load(Ordering::Acquire))
    }

    /// Sees to it that numbers below `next` are not given out; for startup.
    pub fn raise_next_number(&self, next: FileNo) {
        self.words.next_file.fetch_max(next.get(), Ordering::AcqRel);
    }

    /// Enters a file that is on disk with `blocks` blocks, as `pg_control` knows it, whose key
    /// counts hold what records up to `counted_to` say; for startup.
    ///
    /// # Errors
    /// When there are too many files.
    pub fn load(
        &self,
        known: &ControlRow,
        blocks: u32,
        counted_to: Lsn,
    ) -> Result<(), TooManyFiles> {
        let row = self.take_row(known.file)?;
        row.allocated.store(blocks, Ordering::Relaxed);
        row.wanted.store(blocks, Ordering::Relaxed);
        row.keys[0].store(known.key_count as i64, Ordering::Relaxed);
        row.counted_to.store(counted_to.get(), Ordering::Relaxed);
        row.checkpoint_count
            .store(known.checkpoint_count, Ordering::Relaxed);
        row.checkpoint_scn.store(known.scn.get(), Ordering::Relaxed);
        row.stop_scn
            .store(known.header_stop_scn().get(), Ordering::Relaxed);
        row.closed_for.store(known.access.bits(), Ordering::Relaxed);
        self.raise_next_number(FileNo::new(known.file.get() + 1));
        row.set_state(FileState::Live);
        Ok(())
    }

    /// Enters a dropped file that `pg_control` says is still to be unlinked; for startup, after
    /// [`Files::load`] of all files. One without a row in `pg_control` has no blocks as far as
    /// is known here: it counts as existing, so that redo does not make it anew if its creation is
    /// still in the log; and it does not grow, as dropped files do not, so what redo does to it
    /// must find its room on disk, where it is until the file is unlinked.
    ///
    /// # Errors
    /// When there are too many files.
    pub fn load_pending_drop(&self, pending: &PendingDrop) -> Result<(), TooManyFiles> {
        let row = self.take_row(pending.file)?;
        row.dropped_lsn
            .store(pending.last_lsn.get(), Ordering::Relaxed);
        self.raise_next_number(FileNo::new(pending.file.get() + 1));
        row.set_state(FileState::Dropped);
        self.note_work();
        Ok(())
    }

    // ---- access -------------------------------------------------------------------------------

    /// What may be done with the namespace that lies in `file`.
    #[inline]
    pub fn access(&self, file: FileNo) -> Access {
        // Pairs with the store in `set_access`.
        if self.words.restricted.load(Ordering::SeqCst) == 0 {
            return Access::READ_WRITE;
        }
        let bits = |row: &Row| row.access.load(Ordering::Acquire);
        access_of(self.row(file).map_or(0, bits))
    }

    /// Says what may be done with the namespace that lies in `file`; for who holds its entry alone,
    /// and for startup.
    pub fn set_access(&self, file: FileNo, access: Access) {
        let before = self.access(file);
        if before == access {
            return;
        }
        if before.is_writable() && !access.is_writable() {
            self.words.restricted.fetch_add(1, Ordering::SeqCst);
        }
        let row = self.known(file);
        row.access.store(access.bits(), Ordering::Release);
        if !before.is_writable() && access.is_writable() {
            self.words.restricted.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// For which access `file` is closed, and its stop SCN; none while it is written.
    pub fn closed(&self, file: FileNo) -> Option<(Access, Lsn)> {
        self.row(file)?.closed()
    }

    /// The files that are closed, and since when.
    pub fn all_closed(&self) -> Vec<(FileNo, Lsn)> {
        let taken = self.rows_used().iter().filter(|row| row.file().get() != 0);
        let closed = |row: &Row| row.closed().map(|(_, stop_scn)| (row.file(), stop_scn));
        taken.filter_map(closed).collect()
    }

    /// What the meta page of `file` says: number, SCN and stop SCN of the last checkpoint that covered
    /// it; the last is zero while it is written.
    pub fn covered(&self, file: FileNo) -> Option<(u64, Lsn, Lsn)> {
        let row = self.row(file)?;
        let words = [&row.checkpoint_count, &row.checkpoint_scn, &row.stop_scn];
        let [count, scn, stop_scn] = words.map(|word| word.load(Ordering::Relaxed));
        Some((count, Lsn::new(scn), Lsn::new(stop_scn)))
    }

    /// Notes that `file` is closed since `stop_scn`, or is not any more; for the checkpointer, when its
    /// meta page says so.
    pub fn set_closed(&self, file: FileNo, access: Access, stop_scn: Lsn) {
        let row = self.known(file);
        row.stop_scn.store(stop_scn.get(), Ordering::Relaxed);
        row.closed_for.store(access.bits(), Ordering::Relaxed);
    }

    /// Notes that `file` may be another one than it was, under the same name: descriptors of it are
    /// not to be used any more.
    pub fn replaced(&self) {
        self.words.replaced.fetch_add(1, Ordering::AcqRel);
    }

    // ---- room ---------------------------------------------------------------------------------

    /// Blocks of `file` that have room on disk: a record may use any below.
    pub fn blocks(&self, file: FileNo) -> u32 {
        self.row(file)
            .map_or(0, |row| row.allocated.load(Ordering::Acquire))
    }

    /// Where the search for a free block of `file` may begin.
    pub fn hint(&self, file: FileNo) -> u32 {
        self.row(file)
            .map_or(0, |row| row.hint.load(Ordering::Relaxed))
    }

    /// A search that began with the hint `seen` has found no free block of `file` below `block`: the
    /// next one may begin there. Unless the hint has changed since: blocks below may be free again.
    pub fn raise_hint(&self, file: FileNo, seen: u32, block: u32) {
        if let Some(row) = self.row(file) {
            let order = (Ordering::Relaxed, Ordering::Relaxed);
            let _ = row.hint.compare_exchange(seen, block, order.0, order.1);
        }
    }

    /// `block` of `file` is free again: the next search begins no later than there.
    pub fn lower_hint(&self, file: FileNo, block: u32) {
        if let Some(row) = self.row(file) {
            row.hint.fetch_min(block, Ordering::Relaxed);
        }
    }

    /// Whether block `block`, just taken into use, leaves less than half a step of room, so that
    /// growth should be asked for ahead of need.
    pub fn is_short_after(&self, file: FileNo, block: u32) -> bool {
        let blocks = self.blocks(file);
        let left = blocks.saturating_sub(block.saturating_add(1));
        left < step(blocks) / 2 && self.known(file).wanted.load(Ordering::Relaxed) <= blocks
    }

    /// Asks for room for `blocks` blocks; the caller wakes the checkpointer
    /// ([`Store::request_growth`] does both).
    pub fn request_growth(&self, file: FileNo, blocks: u32) -> GrowthTicket {
        let row = self.known(file);
        let ticket = GrowthTicket {
            file,
            blocks,
            failures: row.failures.load(Ordering::Acquire),
        };
        if row.allocated.load(Ordering::Acquire) < blocks {
            row.wanted.fetch_max(blocks, Ordering::AcqRel);
            self.note_work();
        }
        ticket
    }

    /// Asks for the new file `file` with room for `blocks` blocks; the caller wakes the
    /// checkpointer ([`Store::request_create`] does both). Asking for a file that exists is no
    /// error: redo does.
    ///
    /// # Errors
    /// When there are too many files.
    pub fn request_create(&self, file: FileNo, blocks: u32) -> Result<GrowthTicket, TooManyFiles> {
        let row = self.take_row(file)?;
        let ticket = GrowthTicket {
            file,
            blocks,
            failures: row.failures.load(Ordering::Acquire),
        };
        row.wanted.fetch_max(blocks, Ordering::AcqRel);
        for unborn in [FileState::Free, FileState::Failed] {
            let _ = row.state.compare_exchange(
                unborn as u32,
                FileState::Wanted as u32,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
        }
        self.note_work();
        Ok(ticket)
    }

    /// How far what `ticket` asked for is. Of a file that was unlinked meanwhile it stays pending;
    /// so whoever comes back to a ticket looks first whether it is still the file that he wants, and
    /// else asks for room in the one that is.
    pub fn growth(&self, ticket: &GrowthTicket) -> Growth {
        let Some(row) = self.row(ticket.file) else {
            return Growth::Pending;
        };
        let failures = row.failures.load(Ordering::Acquire);
        let exists = row.state().has_blocks();
        if exists && row.allocated.load(Ordering::Acquire) >= ticket.blocks {
            return Growth::Ready;
        }
        if failures == ticket.failures {
            return Growth::Pending;
        }
        let errno = row.errno.load(Ordering::Relaxed);
        Growth::Failed(GrowthError {
            file: ticket.file,
            blocks: ticket.blocks,
            error: io::Error::from_raw_os_error(errno as i32),
        })
    }

    /// What has become of what `ticket` asked for, when that is known or the time is over; for processes that
    /// may block.
    pub fn wait_for_growth(&self, ticket: &GrowthTicket, time: Duration) -> Growth {
        let moved = self.words.grown.ticket();
        match self.growth(ticket) {
            Growth::Pending => {
                self.words.grown.wait(moved, Some(time));
                self.growth(ticket)
            }
            known => known,
        }
    }

    // ---- drops --------------------------------------------------------------------------------

    /// Says that the record that ends at `last_lsn` dropped `file`, and no later one touches it.
    pub fn drop_file(&self, file: FileNo, last_lsn: Lsn) {
        let row = self.known(file);
        row.dropped_lsn.store(last_lsn.get(), Ordering::Relaxed);
        row.set_state(FileState::Dropped);
        self.note_work();
    }

    /// Whether `row` was dropped by a record below `redo`: redo from there cannot need it.
    fn is_past(&self, row: &Row, redo: Lsn) -> bool {
        row.state() == FileState::Dropped && row.dropped_lsn.load(Ordering::Relaxed) <= redo.get()
    }

    /// How many files were dropped by records above `redo`: they wait for a redo point that is not
    /// below those.
    pub fn dropped_after(&self, redo: Lsn) -> usize {
        let waits = |row: &&Row| row.state() == FileState::Dropped && !self.is_past(row, redo);
        self.rows_used().iter().filter(waits).count()
    }

    /// The files that were dropped and are not unlinked yet, for `pg_control`.
    pub fn pending_drops(&self) -> Vec<PendingDrop> {
        let dropped = |row: &&Row| {
            row.file().get() != 0 && matches!(row.state(), FileState::Dropped | FileState::Leaving)
        };
        let mut pending: Vec<_> = self
            .rows_used()
            .iter()
            .filter(dropped)
            .map(|row| PendingDrop {
                file: row.file(),
                last_lsn: Lsn::new(row.dropped_lsn.load(Ordering::Relaxed)),
            })
            .collect();
        pending.sort_by_key(|pending| pending.file);
        pending
    }

    /// The dropped files that may be unlinked now: redo from `oldest_redo`, the redo point of the
    /// older slot of `pg_control`, does not meet them, no snapshot below `horizon` is read at, and
    /// `all_past` says that every descent has ended that began before `new_epoch`. They are leaving from
    /// now on.
    ///
    /// That epoch is not the drop's: who reads what is durable comes to the file for as long as its drop
    /// is not, which is past with the redo point.
    pub fn leave(
        &self,
        oldest_redo: Lsn,
        horizon: Lsn,
        new_epoch: impl Fn() -> u64,
        all_past: impl Fn(u64) -> bool,
    ) -> Vec<FileNo> {
        let mut drawn = None;
        for row in self
            .rows_used()
            .iter()
            .filter(|row| self.is_past(row, oldest_redo))
        {
            let last = row.dropped_lsn.load(Ordering::Relaxed);
            if horizon.get() < last {
                continue;
            }
            if row.dropped_epoch.load(Ordering::Relaxed) == 0 {
                let epoch = *drawn.get_or_insert_with(&new_epoch);
                row.dropped_epoch.store(epoch, Ordering::Relaxed);
            }
            if all_past(row.dropped_epoch.load(Ordering::Relaxed)) {
                row.set_state(FileState::Leaving);
            }
        }
        let leaving = self
            .rows_used()
            .iter()
            .filter(|row| row.state() == FileState::Leaving);
        leaving.map(Row::file).collect()
    }

    /// Says that a leaving file was unlinked: its row is free.
    pub fn unlinked(&self, file: FileNo) {
        let _guard = self.words.latch.lock();
        let row = self.known(file);
        assert_eq!(row.state(), FileState::Leaving, "file {file} was unlinked");
        self.set_access(file, Access::READ_WRITE);
        row.set_state(FileState::Free);
        row.file.store(0, Ordering::Release);
        self.words.unlinks.fetch_add(1, Ordering::AcqRel);
    }

    // ---- the checkpointer's side --------------------------------------------------------------

    fn note_work(&self) {
        self.words.work.store(1, Ordering::SeqCst);
    }

    /// Has the next [`Files::has_work`] say yes.
    pub fn look_again(&self) {
        self.note_work();
    }

    /// Whether anything was asked for since the last [`Files::take_work`].
    pub fn has_work(&self) -> bool {
        self.words.work.load(Ordering::SeqCst) != 0
    }

    /// Everything that is asked for and not there.
    pub fn take_work(&self) -> Vec<FileWork> {
        self.words.work.store(0, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.rows_used()
            .iter()
            .filter_map(|row| self.work_of(row))
            .collect()
    }

    fn work_of(&self, row: &Row) -> Option<FileWork> {
        let (file, state) = (row.file(), row.state());
        let allocated = row.allocated.load(Ordering::Acquire);
        let wanted = row.wanted.load(Ordering::Acquire);
        let create = state == FileState::Wanted;
        let short = state == FileState::Live && wanted > allocated;
        (file.get() != 0 && (create || short)).then(|| FileWork {
            file,
            create,
            from: allocated,
            needed: wanted.max(1),
            to: wanted.max(allocated.saturating_add(step(allocated))),
        })
    }

    /// Says that `file` exists and has room for `blocks` blocks, synced.
    pub fn grown(&self, file: FileNo, blocks: u32) {
        let row = self.known(file);
        row.allocated.fetch_max(blocks, Ordering::AcqRel);
        let _ = row.state.compare_exchange(
            FileState::Wanted as u32,
            FileState::Live as u32,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        self.words.grown.wake_all();
    }

    /// Says that `file` could not be created or grown; nobody's wish for it stands any more.
    pub fn growth_failed(&self, file: FileNo, error: &io::Error) {
        let row = self.known(file);
        let errno = storage::errno(error).unwrap_or(match error.kind() {
            io::ErrorKind::StorageFull => ENOSPC,
            _ => EIO,
        });
        let allocated = row.allocated.load(Ordering::Acquire);
        row.wanted.store(allocated, Ordering::Release);
        row.errno.store(errno as u32, Ordering::Relaxed);
        row.failures.fetch_add(1, Ordering::AcqRel);
        let _ = row.state.compare_exchange(
            FileState::Wanted as u32,
            FileState::Failed as u32,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        self.words.grown.wake_all();
    }

    /// Notes what the meta page of `file` says from now on.
    pub fn set_covered(&self, file: FileNo, checkpoint_count: u64, scn: Lsn) {
        if let Some(row) = self.row(file) {
            row.checkpoint_count
                .store(checkpoint_count, Ordering::Relaxed);
            row.checkpoint_scn.store(scn.get(), Ordering::Relaxed);
        }
    }
}

/// The access with this number in shared memory.
pub(crate) fn access_of(bits: u32) -> Access {
    let access = Access::from_bits(bits);
    access.unwrap_or_else(|| rd_sys::crash::panic_abort(&format!("access {bits} in shared memory")))
}

/// The system's numbers for a full and for a bad disk, where an error carries none.
const ENOSPC: i32 = 28;
pub(crate) const EIO: i32 = 5;

/// By how many blocks a file of `blocks` blocks grows: an eighth, from 1 MiB to 64 MiB.
fn step(blocks: u32) -> u32 {
    (blocks / 8).clamp(STEP_MIN_BLOCKS, STEP_MAX_BLOCKS)
}

const _: () = assert!(PIECE_BLOCKS.is_multiple_of(STEP_MIN_BLOCKS));

impl Store {
    /// Asks the checkpointer for room for `blocks` blocks of `file`. Parked processes are notified
    /// when it is there or failed; ask [`Files::growth`].
    pub fn request_growth(&self, file: FileNo, blocks: u32) -> GrowthTicket {
        let ticket = self.shared.files.request_growth(file, blocks);
        self.shared.procs.notify(Role::Checkpointer);
        ticket
    }

    /// Asks the checkpointer for the new file `file` with room for `blocks` blocks; and for a
    /// checkpoint, if so many dropped files wait for one that the table might be full before.
    ///
    /// # Errors
    /// When there are too many files.
    pub fn request_create(&self, file: FileNo, blocks: u32) -> Result<GrowthTicket, TooManyFiles> {
        let (files, procs) = (&self.shared.files, &self.shared.procs);
        let ticket = files.request_create(file, blocks);
        let waiting = files.dropped_after(self.shared.checkpoint.redo_lsn());
        if waiting >= FILES_MAX / 2 || ticket.is_err() && waiting > 0 {
            let flags = Flags::CAUSE_NAMESPACE | Flags::IMMEDIATE;
            let target = self.shared.wal.insert_lsn();
            let request = Request::of_process(flags, target, self.slot.role(), "dropped files");
            self.shared.checkpoint.request(procs, &request);
        }
        procs.notify(Role::Checkpointer);
        ticket
    }

    /// Says that `block` of `file` was taken into use, and asks for growth ahead of need.
    pub fn note_block_used(&self, file: FileNo, block: u32) {
        let files = &self.shared.files;
        if files.is_short_after(file, block) {
            let blocks = files.blocks(file);
            let _ = self.request_growth(file, blocks.saturating_add(1));
        }
    }
}
