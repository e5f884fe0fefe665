//! Writing pages: in batches, first to the double-write area, then to their places.
//!
//! Invariants:
//! - A copy goes to disk only when its page LSN is durable (rule B6 of the buffers), and to its
//!   place only when the batch with its copy is synced (D1).
//! - A batch is one of three: empty, filled, or journaled. One that could not be written stays as
//!   it is, and is finished before anything else is written: its frames are *writing* all the
//!   time, so they keep their pages, and the redo point stays at or below their rec LSNs. Only a
//!   batch of repairs whose write is refused (want of room, and the like) is given up, and the scrub
//!   tries that again: what is damaged may stay so, and holds nothing up. It is a write into the
//!   system's cache as any other: a sector that cannot be written is told by the sync, after which
//!   nothing goes on.
//! - What is written in its place is noted as unsynced before.

use crate::{Checkpointer, Failure};
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BatchNo, Lsn, PageTag};
use rd_format::bitmap::META_BLOCK;
use rd_format::doublewrite::DW_BATCH_PAGES_MAX;
use rd_format::meta::{self, Meta};
use rd_format::page::{self, PageBytes, PageKind};
use rd_store::buffer::{Copied, CopyOutcome, DirtyFrame};
use rd_store::files::Files;
use rd_store::relation::{self, PIECE_BLOCKS};
use rd_sys::crash::panic_abort;
use rd_sys::fault::{self, Fault};
use rd_sys::storage::StorageFile;
use std::io;
use std::sync::Arc;

/// Bytes written and not synced above which syncs are begun without being asked for, where no
/// double-write area sets a narrower bound.
const UNSYNCED_BYTES: u64 = 8 << 20;
/// As `UNSYNCED_BYTES`, above which nothing is written until there are less.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;

/// Puts into the copy of a meta page what checkpoints write there past shared buffers, which have
/// it as it was when the page was read, or made: redo makes that of a young file anew, and a header
/// that said less than `pg_control` would be taken for an old copy's at the next start.
pub(crate) fn complete_header(files: &Files, tag: PageTag, copy: &mut PageBytes) {
    if tag.block != META_BLOCK || page::kind(copy) != Some(PageKind::Meta) {
        return;
    }
    if let Some((checkpoint_count, checkpoint_scn, stop_scn)) = files.covered(tag.file) {
        let meta = Meta {
            checkpoint_count,
            checkpoint_scn,
            stop_scn,
            opened_from: Lsn::ZERO,
            ..meta::read(copy)
        };
        meta::write(copy, &meta);
    }
}

/// How far a batch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none, or it is being filled.
    Filling,
    /// All its pages are sealed.
    Sealed,
    /// Their copies are in the double-write area, or need not be.
    Journaled(BatchNo),
}

/// Pages on their way to disk.
pub struct Batch {
    tags: Vec<PageTag>,
    /// Of pages that come from frames: which.
    copied: Vec<Copied>,
    copies: Vec<PageBytes>,
    /// Of pages that come from no frame: the files that they are meant for. Another one may have come to
    /// lie in the place of one that is offline before they are written.
    places: Vec<Arc<dyn StorageFile>>,
    step: Step,
}

impl Default for Batch {
    fn default() -> Self {
        Batch {
            tags: Vec::new(),
            copied: Vec::new(),
            copies: Vec::new(),
            places: Vec::new(),
            step: Step::Filling,
        }
    }
}

impl Batch {
    /// Room for all the pages that it can have; made once, when the first are written.
    fn make_room(&mut self) {
        self.copies.resize(DW_BATCH_PAGES_MAX, [0; PAGE_BYTES]);
    }

    /// The first double-write batch that this one still needs.
    pub fn journaled(&self) -> Option<BatchNo> {
        match self.step {
            Step::Journaled(batch) => Some(batch),
            _ => None,
        }
    }

    /// The least rec LSN of the pages on their way: the redo point stays at or below it (B5).
    pub fn least_rec_lsn(&self) -> Option<Lsn> {
        self.copied.iter().map(|copied| copied.rec_lsn).min()
    }

    /// Whether there is nothing on its way.
    pub fn is_empty(&self) -> bool {
        self.tags.is_empty()
    }

    /// Makes it one that is to be filled. Of pages from frames, which are none any more, the caller
    /// has said so.
    fn clear(&mut self) {
        debug_assert!(self.copied.is_empty());
        self.tags.clear();
        self.places.clear();
        self.step = Step::Filling;
    }
}

/// What became of the frames given to [`Checkpointer::write_frames`].
#[derive(Debug, Default)]
pub struct WriteOutcome {
    /// How many of the frames it has dealt with, from the first on.
    pub taken: usize,
    /// Pages that were written.
    pub written: usize,
    /// Frames whose latch was taken: to be tried again.
    pub busy: Vec<DirtyFrame>,
}

impl Checkpointer {
    /// Writes the pages of `frames`, which are sorted by page, from the first on, as far as they
    /// are still dirty and fill one batch, and counts them under `cause`.
    ///
    /// # Errors
    /// When the disk refuses. What was taken up is written by the next call.
    pub(crate) fn write_frames(
        &mut self,
        frames: &[DirtyFrame],
        cause: Counter,
    ) -> Result<WriteOutcome, Failure> {
        self.finish_batch(cause)?;
        self.look_at_reported();
        let outcome = self.fill(frames);
        self.finish_batch(cause)?;
        Ok(outcome)
    }

    /// Writes pages that do not come from frames; at most a batch.
    ///
    /// # Errors
    /// As [`Checkpointer::write_frames`].
    pub(crate) fn write_pages(
        &mut self,
        pages: &[(PageTag, PageBytes)],
        cause: Counter,
    ) -> Result<(), Failure> {
        self.finish_batch(cause)?;
        let places = pages.iter().map(|(tag, _)| self.relations.piece_of(*tag));
        self.batch.places = places.collect::<io::Result<_>>()?;
        self.batch.make_room();
        for (copy, (tag, page)) in self.batch.copies.iter_mut().zip(pages) {
            *copy = *page;
            page::seal(copy, *tag);
            self.batch.tags.push(*tag);
        }
        self.batch.step = Step::Sealed;
        self.finish_batch(cause)
    }

    /// Writes pages anew that are damaged in their places, sorted and at most a batch, when none is on
    /// its way; it is for the scrub to try that again. A place that was written by half is as damaged as
    /// before, and noted as unsynced, which keeps the copy that is in the double-write area now, but only
    /// until the piece is synced the next time, by whomever.
    ///
    /// # Errors
    /// When the disk refuses. Nothing waits for it then.
    pub(crate) fn write_repairs(&mut self, pages: &[(PageTag, PageBytes)]) -> Result<(), Failure> {
        assert!(self.batch.is_empty(), "what is on its way is not given up");
        self.write_pages(pages, Counter::PagesWrittenScrub)
            .inspect_err(|_| self.batch.clear())
    }

    /// Copies what is dirty of `frames` into the batch, which is empty, until it is full; seals
    /// the copies.
    fn fill(&mut self, frames: &[DirtyFrame]) -> WriteOutcome {
        let pool = &self.store.shared.pool;
        let batch = &mut self.batch;
        debug_assert!(batch.tags.is_empty() && batch.step == Step::Filling);
        batch.make_room();
        let mut outcome = WriteOutcome::default();
        for dirty in frames {
            let Some(copy) = batch.copies.get_mut(batch.tags.len()) else {
                break;
            };
            outcome.taken += 1;
            match pool.copy_dirty(dirty.frame, dirty.tag, copy) {
                CopyOutcome::Copied(copied) => {
                    complete_header(&self.store.shared.files, copied.tag, copy);
                    page::seal(copy, copied.tag);
                    self.touched.insert(copied.tag.file);
                    batch.tags.push(copied.tag);
                    batch.copied.push(copied);
                }
                CopyOutcome::Busy => outcome.busy.push(*dirty),
                CopyOutcome::Clean => {}
            }
        }
        outcome.written = batch.tags.len();
        batch.step = Step::Sealed;
        outcome
    }

    /// Brings the batch to its places, from whatever step it is at.
    ///
    /// # Errors
    /// When the disk refuses; the batch stays.
    pub(crate) fn finish_batch(&mut self, cause: Counter) -> Result<(), Failure> {
        if self.batch.step == Step::Sealed && self.batch.tags.is_empty() {
            self.batch.step = Step::Filling;
        }
        if self.batch.step == Step::Sealed {
            self.flush_log();
            self.wait_for_room();
            self.batch.step = Step::Journaled(self.journal()?);
        }
        if let Step::Journaled(number) = self.batch.step {
            let began_ns = self.now_ns();
            self.place(number)?;
            let took_ns = self.now_ns() - began_ns;
            let pages = self.batch.tags.len() as u64;
            self.store.add(cause, pages);
            self.store.add(micros_of(cause), took_ns / 1000);
            self.store
                .add(Counter::PageBytesWritten, pages * PAGE_BYTES as u64);
            for copied in self.batch.copied.drain(..) {
                self.store.shared.pool.written(copied.frame);
            }
            self.store.shared.pool.supplied();
            // Whatever was the matter with them; what is damaged again is to be told of anew.
            self.scrub.forget_bad(&self.store.shared.scrub, |tag| {
                self.batch.tags.contains(tag)
            });
            self.batch.clear();
        }
        Ok(())
    }

    /// B6: makes the log durable up to the highest page LSN in the batch. Before redo is done
    /// there is nothing to do: startup redoes only what it knows to be durable.
    fn flush_log(&mut self) {
        if !self.log_is_written() {
            return;
        }
        let pages = self.batch.copies.iter().take(self.batch.tags.len());
        let highest = pages.map(page::page_lsn).max().unwrap_or(Lsn::ZERO);
        let shared = &self.store.shared;
        let log_end = shared.checkpoint.end_of_log();
        let found = log_end.map_or(Lsn::ZERO, |end| end.lsn);
        let durable = shared.wal.durable_lsn().max(found);
        if highest <= durable {
            return;
        }
        if let Err(error) = self.flusher.flush_until(highest) {
            let tags = self.batch.tags.iter().zip(&self.batch.copies);
            let beyond = tags
                .filter(|(_, page)| page::page_lsn(page) == highest)
                .map(|(tag, _)| tag);
            let names: Vec<String> = beyond.map(ToString::to_string).collect();
            panic_abort(&format!("{}: {error}", names.join(", ")));
        }
    }

    /// Waits until the double-write area has a free slot, and until few enough bytes are unsynced.
    fn wait_for_room(&mut self) {
        loop {
            self.absorb();
            let (held, slots) = self.area.as_ref().map_or((0, 1), |area| area.held());
            if 2 * held >= slots || self.unsynced.waiting_bytes() >= UNSYNCED_BYTES {
                self.begin_syncs();
                self.absorb();
            }
            let has_room = self.area.as_ref().is_none_or(|area| area.has_room());
            if has_room && self.unsynced.bytes() < UNSYNCED_BYTES_MAX {
                return;
            }
            self.wait_for_workers();
        }
    }

    /// D1: writes the copies to the double-write area; gives the batch's number.
    fn journal(&mut self) -> Result<BatchNo, Failure> {
        let Some(area) = &mut self.area else {
            return Ok(self.first_unsynced_batch());
        };
        let pages: Vec<(PageTag, &PageBytes)> = self
            .batch
            .tags
            .iter()
            .copied()
            .zip(&self.batch.copies)
            .collect();
        let began_ns = self.store.clock.monotonic_ns();
        let number = area.write_batch(&pages)?;
        let took_ns = self.store.clock.monotonic_ns() - began_ns;
        let bytes = (1 + pages.len()) * PAGE_BYTES;
        self.store.count(Counter::DoubleWriteBatches);
        self.store.count(Counter::DoubleWriteSyncs);
        self.store.add(Counter::DoubleWriteBytes, bytes as u64);
        self.store.add(Counter::DoubleWriteMicros, took_ns / 1000);
        Ok(number)
    }

    /// Writes the pages to their places, neighbours in one go.
    fn place(&mut self, number: BatchNo) -> io::Result<()> {
        let mut from = 0;
        while from < self.batch.tags.len() {
            let first = self.batch.tags[from];
            let piece = (first.file, first.block.get() / PIECE_BLOCKS);
            let follows = |(index, tag): &(usize, &PageTag)| {
                let block = first.block.get().wrapping_add(*index as u32);
                (tag.file, tag.block.get()) == (first.file, block)
                    && block / PIECE_BLOCKS == piece.1
            };
            let rest = self.batch.tags[from..].iter().enumerate();
            let count = rest.take_while(follows).count();
            let descriptor = match self.batch.places.get(from) {
                Some(place) => Arc::clone(place),
                None => self.relations.piece_of(first)?,
            };
            // Pages that come from no frame hold nothing that the log does not.
            let copied = self.batch.copied.iter().skip(from).take(count);
            let rec_lsn = copied.map(|copied| copied.rec_lsn).min();
            self.unsynced.note(
                piece,
                &descriptor,
                number,
                count as u64,
                rec_lsn.unwrap_or(Lsn::MAX),
            );
            fault::point(Fault::PageWrite)?;
            let bytes = self.batch.copies[from..from + count].as_flattened();
            let offset = relation::offset_of(first.block);
            descriptor.write_all_at(bytes, offset)?;
            let suggested = self.writeback.add(descriptor, offset, bytes.len() as u64)?;
            self.store.add(Counter::FileWritebacks, suggested);
            from += count;
        }
        Ok(())
    }
}

/// Under what the time is counted that pages of this cause take.
fn micros_of(cause: Counter) -> Counter {
    match cause {
        Counter::PagesWrittenWal => Counter::PageWriteMicrosWal,
        Counter::PagesWrittenRequested => Counter::PageWriteMicrosRequested,
        Counter::PagesWrittenShutdown => Counter::PageWriteMicrosShutdown,
        Counter::PagesWrittenRecovery => Counter::PageWriteMicrosRecovery,
        Counter::PagesWrittenIncremental => Counter::PageWriteMicrosIncremental,
        Counter::PagesWrittenSupply => Counter::PageWriteMicrosSupply,
        Counter::PagesWrittenScrub => Counter::PageWriteMicrosScrub,
        _ => Counter::PageWriteMicrosTimed,
    }
}

/// Ranges that were written, to be suggested to the system for writing to disk, so that the sync
/// finds less to do.
#[derive(Default)]
pub struct Writeback {
    ranges: Vec<(Arc<dyn StorageFile>, u64, u64)>,
    bytes: u64,
    /// `checkpoint_flush_after`; 0 suggests nothing.
    pub after_bytes: u64,
}

impl Writeback {
    /// Forgets what was noted, and the descriptors with it.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.bytes = 0;
    }

    /// Notes a range; suggests all noted ones when they are long enough together. Gives how many it has
    /// suggested.
    fn add(&mut self, file: Arc<dyn StorageFile>, offset: u64, len: u64) -> io::Result<u64> {
        if self.after_bytes == 0 {
            return Ok(0);
        }
        self.bytes += len;
        match self.ranges.last_mut() {
            Some((last, from, so_far)) if Arc::ptr_eq(last, &file) && *from + *so_far == offset => {
                *so_far += len;
            }
            _ => self.ranges.push((file, offset, len)),
        }
        if self.bytes < self.after_bytes {
            return Ok(0);
        }
        self.bytes = 0;
        let suggested = self.ranges.len() as u64;
        self.ranges
            .drain(..)
            .try_for_each(|(file, from, len)| file.start_writeback(from, len))?;
        Ok(suggested)
    }
}
