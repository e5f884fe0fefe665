//! Flushing: from the ring to the files, and from there to the disk.
//!
//! Whoever flushes holds the flush latch for one round:
//! - F1 marks the target as being chosen, not below the durable LSN;
//! - F2 looks what is complete and stores that as the target: it is announced;
//! - F3 writes all that is in the ring, in blocks from that on which holds the written position, each
//!   header among them stamped with the durable LSN, and gives the ring's room back;
//! - F4 syncs every segment between durable LSN and target, and publishes the target as durable.
//!   If nothing new is complete (a record larger than the ring is under way), it does not sync,
//!   but for a segment that it has written and closes;
//! - F5 lets go of the latch, wakes those who waited, fences, and looks for requests again: the
//!   next flush goes to a backend that sleeps and waits for it, or to the walwriter.
//!
//! No request is lost: whoever makes one stores it, fences and looks at the latch; if it is held,
//! its holder is still to come to F5, and else the walwriter is woken. A backend that was handed a
//! flush does it or passes it to the walwriter ([`Procs::take_nomination`]).
//!
//! [`Procs::take_nomination`]: crate::procs::Procs::take_nomination
//!
//! A request may lie beyond what is complete, because an earlier record is still being copied. The
//! flusher then sets `stalled`, fences and looks once more; an inserter who finishes looks at that
//! word (I4) and wakes the walwriter. So nobody spins.
//!
//! A failed write or sync ends the process, and with it, through recovery, the server: after a
//! failed sync nobody knows what is on disk.

use super::{USABLE, Wal, between_steps, segments};
use crate::ctx::Store;
use crate::procs::SlotNo;
use crate::stats::Stats;
use rd_base::counters::Counter;
use rd_base::limits::WAL_PAGE_BYTES;
use rd_base::words::WalSyncMethod;
use rd_base::{Lsn, Role};
use rd_format::wal_page::{self, WAL_HEADER_BYTES, WalPageHeader};
use rd_sys::Shortage;
use rd_sys::atomic::{Ordering, fence};
use rd_sys::clock::monotonic_ns;
use rd_sys::crash::panic_abort;
use rd_sys::fault::{self, Fault};
use rd_sys::storage::{DIRECT_BYTES, OpenMode, Storage, StorageFile};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Pages given to the file system by one write at most.
const WRITE_PAGES: usize = 32;

/// How often, and for how long each time, a flush waits for descriptors that the system lacks.
const SHORTAGE_PAUSES: u32 = 500;
const SHORTAGE_PAUSE: Duration = Duration::from_millis(20);

// A page is written block by block, past the system's cache where that can be.
const _: () = assert!(WAL_PAGE_BYTES.is_multiple_of(DIRECT_BYTES));

/// What came of an attempt to flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushOutcome {
    /// Somebody else flushes; he will look at all requests made before this answer.
    Busy,
    /// Nothing was asked for that is not durable.
    Nothing,
    /// All before this LSN is durable now.
    Flushed(Lsn),
    /// Room was made in the ring, and nothing more became durable.
    Wrote,
    /// What was asked for waits for a record that is still being copied. The walwriter is woken
    /// when that is done.
    Stalled,
}

/// The flush asked for can never be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "flush of the write-ahead log to {asked} asked for, but it ends at {insert}: \
     a page carries an LSN that this log never gave out"
)]
pub struct FlushBeyondEnd {
    /// What was asked for.
    pub asked: Lsn,
    /// Where the log ends.
    pub insert: Lsn,
}

/// One process's means to flush: its buffer and its open files. Made after the fork.
pub struct Flusher {
    wal: Wal,
    storage: Arc<dyn Storage>,
    stats: Stats,
    slot: SlotNo,
    method: WalSyncMethod,
    buffer: Vec<u8>,
    open: Vec<OpenSegment>,
}

struct OpenSegment {
    number: u64,
    mode: OpenMode,
    file: Arc<dyn StorageFile>,
    /// Written through this descriptor since it was last synced.
    is_unsynced: bool,
}

impl Flusher {
    /// A flusher for the process in `slot`.
    pub fn new(
        wal: Wal,
        storage: Arc<dyn Storage>,
        stats: Stats,
        slot: SlotNo,
        method: WalSyncMethod,
    ) -> Flusher {
        Flusher {
            wal,
            storage,
            stats,
            slot,
            method,
            buffer: Vec::new(),
            open: Vec::new(),
        }
    }

    /// The flusher of the process that `store` belongs to.
    pub fn for_store(store: &Store) -> Flusher {
        Flusher::new(
            store.shared.wal.clone(),
            Arc::clone(&store.storage),
            store.shared.stats.clone(),
            store.slot,
            store.config.wal_sync_method(),
        )
    }

    /// Changes the way of syncing from the next round on.
    pub fn set_method(&mut self, method: WalSyncMethod) {
        self.method = method;
    }

    /// Flushes what was asked for, unless somebody else does: at most `rounds_max` rounds, as
    /// more is asked for while one runs, and only until a backend takes over that waits for it. If
    /// something is left to do somebody is woken for it.
    ///
    /// Does not wait for latches or other processes, only for the disk.
    pub fn try_flush(&mut self, rounds_max: u32) -> FlushOutcome {
        let mut outcome = FlushOutcome::Nothing;
        for round in 0..rounds_max {
            if !self.wal.wants_flush() || round > 0 && self.wal.inner.procs.nominate() {
                return outcome;
            }
            outcome = self.flush_once_after(outcome);
            if matches!(outcome, FlushOutcome::Busy | FlushOutcome::Stalled) {
                return outcome;
            }
        }
        self.look_again();
        outcome
    }

    /// One round of flushing, unless somebody else is at it. The caller must do the second half of
    /// F5 afterwards: flush again if more was asked for meanwhile, or pass it on
    /// ([`Wal::pass_flush_on`]). Not after [`FlushOutcome::Stalled`], which nobody else can better.
    ///
    /// Does not wait for latches or other processes, only for the disk.
    pub fn flush_once(&mut self) -> FlushOutcome {
        self.flush_once_after(FlushOutcome::Nothing)
    }

    fn flush_once_after(&mut self, before: FlushOutcome) -> FlushOutcome {
        let wal = self.wal.clone();
        let Some(latch) = wal.control().flushing.latch.try_lock() else {
            return FlushOutcome::Busy;
        };
        let round = self.round();
        drop(latch);
        self.after_round(round, before)
    }

    /// Makes `lsn` durable, waiting for whatever that takes: for processes that may block.
    ///
    /// # Errors
    /// When the log ends before `lsn`.
    pub fn flush_until(&mut self, lsn: Lsn) -> Result<(), FlushBeyondEnd> {
        let wal = self.wal.clone();
        let flushing = &wal.control().flushing;
        let insert = wal.insert_lsn();
        if lsn > insert {
            return Err(FlushBeyondEnd { asked: lsn, insert });
        }
        wal.note_request(lsn);
        while wal.durable_lsn() < lsn {
            let ticket = flushing.stall_over.ticket();
            let latch = flushing.latch.lock();
            let done = wal.durable_lsn() >= lsn;
            let round = if done { Round::default() } else { self.round() };
            drop(latch);
            let stalled =
                !done && self.after_round(round, FlushOutcome::Nothing) == FlushOutcome::Stalled;
            // Looked at after `stalled` was set: whoever makes it durable from now on needs the
            // end of the insertion that is under way, which wakes us.
            if stalled && wal.durable_lsn() < lsn {
                flushing.stall_over.wait(ticket, None);
            }
        }
        self.look_again();
        Ok(())
    }

    /// Makes everything durable that has been inserted so far.
    pub fn flush_all(&mut self) {
        let insert = self.wal.insert_lsn();
        self.flush_until(insert)
            .expect("the end of the log is not beyond its end");
    }

    /// The end of F5, by whoever has let go of the latch and will not flush again: leaves what
    /// was asked for meanwhile to a backend that waits for it, or to the walwriter (who may be the
    /// caller, and then finds his event pending).
    fn look_again(&self) {
        between_steps();
        self.wal.pass_flush_on();
    }

    /// F5: tells those who waited; says what came of the round.
    fn after_round(&mut self, round: Round, before: FlushOutcome) -> FlushOutcome {
        between_steps();
        let wal = &self.wal;
        // The walwriter itself has just looked. If it had nothing to write, whoever inserts wakes it, and
        // it must not keep itself awake until then.
        if round.wrote || !Wal::is_walwriter(self.slot) {
            wal.wake_walwriter_for_room();
        }
        if let Some(durable) = round.durable {
            wal.inner.procs.wake_durable(durable, Some(self.slot));
            if !Wal::is_walwriter(self.slot) {
                // The page headers do not know of it yet: a heartbeat will be due.
                wal.wake_timer();
            }
            return FlushOutcome::Flushed(durable);
        }
        if round.wrote {
            return match before {
                FlushOutcome::Flushed(_) => before,
                _ => FlushOutcome::Wrote,
            };
        }
        wal.control().hints.stalled.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let prefix = wal.prefix();
        let written = wal.control().progress.written_pos.load(Ordering::SeqCst);
        let complete = wal_page::pos_to_end_lsn(prefix.complete_pos);
        if prefix.copied_pos <= written && complete <= wal.durable_lsn() {
            FlushOutcome::Stalled
        } else {
            before
        }
    }

    /// F1 to F4; under the latch.
    fn round(&mut self) -> Round {
        let wal = self.wal.clone();
        let control = wal.control();
        let durable = wal.durable_lsn();
        // F1, F2.
        let (target, copied_pos) = control.flushing.target.choose(durable, || {
            let prefix = wal.prefix();
            (
                wal_page::pos_to_end_lsn(prefix.complete_pos),
                prefix.copied_pos,
            )
        });
        between_steps();
        // F3.
        let written = control.progress.written_pos.load(Ordering::Relaxed);
        let wrote = copied_pos > written;
        if wrote {
            self.write(written, copied_pos, durable);
            control
                .progress
                .written_pos
                .store(copied_pos, Ordering::SeqCst);
            let ring_end = wal.inner.ring.end_for(copied_pos);
            control
                .progress
                .ring_end_pos
                .store(ring_end, Ordering::SeqCst);
            between_steps();
            if control.hints.ring_wanted.swap(0, Ordering::SeqCst) != 0 {
                control.flushing.ring_room.wake_all();
            }
            wal.give_room();
            self.tell_of_segments(written, copied_pos);
        }
        wal.wake_preparer_if_needed();
        between_steps();
        // F4.
        if target == durable {
            return Round {
                durable: None,
                wrote,
            };
        }
        self.sync(durable, target, written > wal_page::lsn_to_pos(durable));
        if let Err(error) = fault::point(Fault::WalPublish) {
            panic_abort(&format!("the log is durable up to {target}, but: {error}"));
        }
        control
            .progress
            .durable_lsn
            .store(target.get(), Ordering::SeqCst);
        self.count_flush();
        Round {
            durable: Some(target),
            wrote,
        }
    }

    /// Wakes the checkpointer when the log goes on in another segment: it counts them to know
    /// when a checkpoint is due.
    fn tell_of_segments(&self, from_pos: u64, to_pos: u64) {
        let bytes = self.wal.segment_bytes();
        let segment = |pos| wal_page::segment_of(wal_page::pos_to_end_lsn(pos), bytes);
        if segment(from_pos) != segment(to_pos) {
            self.wal.inner.procs.notify(Role::Checkpointer);
        }
    }

    /// Writes `from_pos` to `to_pos`, which are both in the ring: of the first page and of the last
    /// only the blocks in which something is new.
    fn write(&mut self, from_pos: u64, to_pos: u64, durable: Lsn) {
        let began_ns = monotonic_ns();
        self.buffer
            .resize(WRITE_PAGES * WAL_PAGE_BYTES + DIRECT_BYTES, 0);
        let mut buffer = std::mem::take(&mut self.buffer);
        let aligned = buffer.as_ptr().align_offset(DIRECT_BYTES);
        let segment_pages = self.wal.segment_bytes() / WAL_PAGE_BYTES as u64;
        let (mut page, end_page) = (from_pos / USABLE, to_pos.div_ceil(USABLE));
        let mut known = known_bytes(from_pos);
        let stamps_last = page + 1 < end_page || known == 0;
        while page < end_page {
            let left_in_segment = segment_pages - page % segment_pages;
            let count = (end_page - page)
                .min(left_in_segment)
                .min(WRITE_PAGES as u64);
            let bytes = &mut buffer[aligned..][..count as usize * WAL_PAGE_BYTES];
            for (number, out) in (page..).zip(bytes.chunks_exact_mut(WAL_PAGE_BYTES)) {
                self.make_page(number, to_pos, durable, out);
            }
            page += count;
            let behind = page * USABLE - to_pos.min(page * USABLE);
            let unused = behind as usize / DIRECT_BYTES * DIRECT_BYTES;
            let new = &bytes[known..bytes.len() - unused];
            self.write_blocks(page - count, known, new);
            known = 0;
        }
        self.buffer = buffer;
        if stamps_last {
            let flushing = &self.wal.control().flushing;
            flushing.stamped_lsn.store(durable.get(), Ordering::Relaxed);
        }
        self.add(Counter::WalWriteMicros, (monotonic_ns() - began_ns) / 1000);
    }

    /// Copies one page out of the ring, up to `to_pos`, and gives it its header.
    fn make_page(&self, page: u64, to_pos: u64, durable: Lsn, out: &mut [u8]) {
        let usable = (to_pos - page * USABLE).min(USABLE) as usize;
        let remaining = self.wal.inner.ring.read_page(page, usable, out);
        let header = self.header(page, remaining, durable);
        out[..WAL_HEADER_BYTES].copy_from_slice(&header);
        let flushing = &self.wal.control().flushing;
        flushing.last_remaining.store(remaining, Ordering::Relaxed);
    }

    fn header(&self, page: u64, remaining: u32, durable: Lsn) -> [u8; WAL_HEADER_BYTES] {
        WalPageHeader {
            timeline: self.wal.timeline(),
            address: Lsn::new(page * WAL_PAGE_BYTES as u64),
            remaining,
            durable_lsn: durable,
            system_identifier: self.wal.system_id(),
        }
        .encode()
    }

    /// Writes `bytes` from byte `first` of `page` on.
    fn write_blocks(&mut self, page: u64, first: usize, bytes: &[u8]) {
        let (number, offset) = self.place(page);
        let file = self.segment(number);
        let offset = offset + first as u64;
        let written = fault::point(Fault::WalWrite).and_then(|()| file.write_all_at(bytes, offset));
        if let Err(error) = written {
            self.give_up("write", number, &error);
        }
        self.note(&file, !self.syncs_by_write());
        self.add(Counter::WalWrites, 1);
        self.add(Counter::WalWriteBytes, bytes.len() as u64);
    }

    /// F4: `unsynced` says that bytes before this round's were written without a sync.
    fn sync(&mut self, durable: Lsn, target: Lsn, unsynced: bool) {
        if self.syncs_by_write() && !unsynced {
            if let Err(error) = fault::point(Fault::WalSync) {
                self.give_up("sync", self.segment_before(target), &error);
            }
            return self.add(Counter::WalSyncs, 1);
        }
        let began_ns = monotonic_ns();
        let bytes = self.wal.segment_bytes();
        let last = self.segment_before(target);
        for number in wal_page::segment_of(durable, bytes)..=last {
            let file = self.segment(number);
            self.sync_file(number, &file);
            self.note(&file, false);
        }
        self.add(Counter::WalSyncMicros, (monotonic_ns() - began_ns) / 1000);
    }

    fn sync_file(&self, number: u64, file: &Arc<dyn StorageFile>) {
        let synced = fault::point(Fault::WalSync).and_then(|()| match self.method {
            WalSyncMethod::Fsync => file.sync_all(),
            _ => file.sync_data(),
        });
        if let Err(error) = synced {
            self.give_up("sync", number, &error);
        }
        self.add(Counter::WalSyncs, 1);
    }

    /// Notes whether the open segment with this descriptor has something to sync.
    fn note(&mut self, file: &Arc<dyn StorageFile>, is_unsynced: bool) {
        let is_it = |open: &&mut OpenSegment| Arc::ptr_eq(&open.file, file);
        if let Some(open) = self.open.iter_mut().find(is_it) {
            open.is_unsynced = is_unsynced;
        }
    }

    /// An idle flusher writes the header of the last page again if it has an older durable LSN, so
    /// that recovery knows how far the log was acknowledged. Does nothing while somebody flushes.
    pub fn heartbeat(&mut self) {
        let wal = self.wal.clone();
        if let Some(latch) = wal.control().flushing.latch.try_lock() {
            self.stamp_last_page();
            drop(latch);
            self.look_again();
        }
    }

    /// The work of a heartbeat; under the latch.
    fn stamp_last_page(&mut self) {
        let wal = self.wal.clone();
        let flushing = &wal.control().flushing;
        let durable = wal.durable_lsn();
        let written = wal.control().progress.written_pos.load(Ordering::Relaxed);
        let stamped = Lsn::new(flushing.stamped_lsn.load(Ordering::Relaxed));
        // Nothing was written since the start, or the header has it already; or there is a record
        // under way that will bring it along.
        if stamped >= durable || written != wal_page::lsn_to_pos(durable) {
            return;
        }
        let page = (written - 1) / USABLE;
        let remaining = flushing.last_remaining.load(Ordering::Relaxed);
        let header = self.header(page, remaining, durable);
        self.write_blocks(page, 0, &header);
        // The sync covers the segment of the page; the one of `durable` may not be there yet.
        self.sync(Lsn::new(durable.get() - 1), durable, false);
        flushing.stamped_lsn.store(durable.get(), Ordering::Relaxed);
    }

    /// Whether [`Flusher::heartbeat`] would write something on a quiet log.
    pub fn heartbeat_due(&self) -> bool {
        let stamped = self
            .wal
            .control()
            .flushing
            .stamped_lsn
            .load(Ordering::Relaxed);
        stamped < self.wal.durable_lsn().get()
    }

    fn place(&self, page: u64) -> (u64, u64) {
        let (lsn, bytes) = (page * WAL_PAGE_BYTES as u64, self.wal.segment_bytes());
        (lsn / bytes, lsn % bytes)
    }

    /// The segment that holds what comes just before `lsn`.
    fn segment_before(&self, lsn: Lsn) -> u64 {
        wal_page::segment_of(Lsn::new(lsn.get() - 1), self.wal.segment_bytes())
    }

    fn mode(&self) -> OpenMode {
        match self.method {
            WalSyncMethod::Fdatasync | WalSyncMethod::Fsync => OpenMode::ReadWrite,
            WalSyncMethod::OpenDatasync => OpenMode::ReadWriteSyncData,
            WalSyncMethod::OpenSync => OpenMode::ReadWriteSync,
        }
    }

    fn syncs_by_write(&self) -> bool {
        matches!(
            self.mode(),
            OpenMode::ReadWriteSync | OpenMode::ReadWriteSyncData
        )
    }

    /// The segment's file, opened as the method asks. Two are kept open: around its end a segment
    /// and the next one alternate. One that was written and not synced is synced before it is
    /// closed: what the system could not write of it might else be told to nobody.
    fn segment(&mut self, number: u64) -> Arc<dyn StorageFile> {
        let mode = self.mode();
        let same = |open: &OpenSegment| open.number == number && open.mode == mode;
        if let Some(open) = self.open.iter().find(|open| same(open)) {
            return Arc::clone(&open.file);
        }
        let file = self.open_segment(number, mode);
        if self.open.len() == 2 {
            self.close_oldest();
        }
        self.open.push(OpenSegment {
            number,
            mode,
            file: Arc::clone(&file),
            is_unsynced: false,
        });
        file
    }

    /// Opens a segment's file. With no descriptor left the others are closed first; and where it is
    /// the whole system that has none, it waits for a while, since nothing of the flush is done yet.
    fn open_segment(&mut self, number: u64, mode: OpenMode) -> Arc<dyn StorageFile> {
        let path = segments::path(self.wal.timeline(), number, self.wal.segment_bytes());
        let mut pauses = 0;
        loop {
            let error = match self.storage.open(&path, mode) {
                Ok(file) => return file,
                Err(error) => error,
            };
            let shortage = Shortage::of(&error);
            if shortage.is_some() && !self.open.is_empty() {
                self.close_oldest();
            } else if shortage == Some(Shortage::SystemDescriptors) && pauses < SHORTAGE_PAUSES {
                if pauses == 0 {
                    log::warn!("{error}; the flush of the log waits for a descriptor");
                }
                pauses += 1;
                std::thread::sleep(SHORTAGE_PAUSE);
            } else {
                self.give_up("open", number, &error);
            }
        }
    }

    fn close_oldest(&mut self) {
        let oldest = self.open.remove(0);
        if oldest.is_unsynced {
            self.sync_file(oldest.number, &oldest.file);
        }
    }

    fn give_up(&self, what: &str, number: u64, error: &io::Error) -> ! {
        let path = segments::path(self.wal.timeline(), number, self.wal.segment_bytes());
        panic_abort(&format!(
            "could not {what} write-ahead log file \"{path}\": {error}; \
             what is not durable yet is given up, and recovery decides what is"
        ))
    }

    fn count_flush(&self) {
        let role = if Wal::is_walwriter(self.slot) {
            Counter::FlushesByWalwriter
        } else if SlotNo::of(Role::Checkpointer) == Some(self.slot) {
            Counter::FlushesByCheckpointer
        } else {
            Counter::FlushesByBackend
        };
        self.add(role, 1);
    }

    fn add(&self, counter: Counter, count: u64) {
        self.stats.add(self.slot, counter, count);
    }
}

/// Bytes at the start of the page that holds `pos` which are the same in the file already, if all
/// before `pos` was written: whole blocks. The header is one of the first block's, which is why it
/// does not learn of each durable LSN.
fn known_bytes(pos: u64) -> usize {
    match (pos % USABLE) as usize {
        0 => 0,
        used => (WAL_HEADER_BYTES + used) / DIRECT_BYTES * DIRECT_BYTES,
    }
}

/// What one round did.
#[derive(Clone, Copy, Default)]
struct Round {
    durable: Option<Lsn>,
    wrote: bool,
}
