//! What a worker does: the blocks of a batch that are on its pages, page by page.
//!
//! Pages in memory are asked for some pages ahead, step by step ([`rd_store::buffer::Pool`]), since
//! a page that is in no cache costs more to find than to change. Pages that are not in memory are asked
//! for further ahead, if reads are slow (`ahead.rs`).

use super::ahead::{READS_AHEAD, ReadAhead};
use super::batch::{Batch, Task};
use super::{RecoveryError, RedoSummary};
use crate::apply;
use rd_base::{Lsn, PageTag};
use rd_format::page;
use rd_store::Store;

/// How many pages ahead the steps of finding a page are taken.
const PLACES_AHEAD: usize = 20;
const PAGES_AHEAD: usize = 10;
/// Bytes at the start of a page that a search of it looks at: header and slots.
const SLOTS_BYTES: usize = 448;
/// How many tasks ahead their bytes are asked for.
const TASKS_AHEAD: usize = 12;

/// What is known of pages that need no redo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::recovery) enum Pages {
    /// All that may not be on disk were written back and synced.
    Repaired,
    /// They may be in the kernel's cache only: killed with their writes not synced, or after a sync
    /// that failed. So every page that a record names is written again before the redo point moves.
    Unproved,
}

/// What a worker has done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Page changes; the records are counted by the reader.
    pub summary: RedoSummary,
    /// The highest page LSN that was found, and where.
    pub newest: Option<(Lsn, PageTag)>,
}

impl Tally {
    /// Takes up what another one says.
    pub fn add(&mut self, other: &Tally) {
        self.summary.pages_changed += other.summary.pages_changed;
        self.summary.pages_skipped += other.summary.pages_skipped;
        self.newest = self.newest.max(other.newest);
    }
}

/// Redo could not go on.
#[derive(Debug)]
pub(super) struct Failed {
    /// The record.
    pub at: Lsn,
    /// Why.
    pub error: RecoveryError,
}

/// Redoes pages; it alone those of its parts.
pub(super) struct Worker {
    store: Store,
    pages: Pages,
    /// Of the part at hand: where the tasks of each page begin.
    starts: Vec<u32>,
    ahead: ReadAhead,
    /// It has met a page that it could not redo.
    pub(super) has_failed: bool,
}

impl Worker {
    pub fn new(store: &Store, pages: Pages) -> Worker {
        Worker {
            store: store.clone(),
            pages,
            starts: Vec::new(),
            ahead: ReadAhead::new(store.config.recovery_prefetch()),
            has_failed: false,
        }
    }

    /// Does `part` of `batch`, whose needs are met.
    ///
    /// # Errors
    /// At the first page that cannot be read, or does not go with its record.
    pub fn redo(&mut self, batch: &Batch, part: &mut [Task]) -> Result<Tally, Failed> {
        part.sort_unstable();
        let mut starts = std::mem::take(&mut self.starts);
        starts.clear();
        let pages = part.chunk_by(|one, next| one.tag() == next.tag());
        starts.extend(pages.scan(0, |at, tasks| {
            let start = *at;
            *at += tasks.len() as u32;
            Some(start)
        }));
        let mut tally = Tally::default();
        let tag_of = |page: usize| Some(part[*starts.get(page)? as usize].tag());
        let mut asked = 0;
        for page in 0..starts.len() {
            while asked < starts.len().min(page + READS_AHEAD) {
                if self.ahead.is_wanted() {
                    self.read_ahead(batch, part[starts[asked] as usize]);
                }
                asked += 1;
            }
            if let Some(task) = part.get(starts[page] as usize + TASKS_AHEAD) {
                batch.ask_for(*task);
            }
            let pool = &self.store.shared.pool;
            if let Some(tag) = tag_of(page + PLACES_AHEAD) {
                pool.prefetch_place(tag);
            }
            if let Some(tag) = tag_of(page + PAGES_AHEAD) {
                pool.prefetch_page(tag, SLOTS_BYTES);
            }
            let from = starts[page] as usize;
            let until = starts
                .get(page + 1)
                .map_or(part.len(), |next| *next as usize);
            self.redo_page(batch, &part[from..until], &mut tally)?;
        }
        self.starts = starts;
        Ok(tally)
    }

    /// Has the reading of the page begun of which `task` is the first, if it needs to be read.
    fn read_ahead(&self, batch: &Batch, task: Task) {
        let comes_whole = || {
            let block = batch.place(task).block(task);
            block.is_ok_and(|block| block.image.is_some())
        };
        let pool = &self.store.shared.pool;
        if !pool.is_likely_resident(task.tag()) && !comes_whole() {
            self.store.will_need(task.tag());
        }
    }

    /// Does the tasks of one page.
    fn redo_page(
        &mut self,
        batch: &Batch,
        tasks: &[Task],
        tally: &mut Tally,
    ) -> Result<(), Failed> {
        let (tag, first) = (tasks[0].tag(), batch.place(tasks[0]));
        let failed = |at, error| Failed { at, error };
        let wrong = |lsn, error| failed(lsn, RecoveryError::Record { lsn, error });
        let block = first
            .block(tasks[0])
            .map_err(|error| wrong(first.start, error))?;
        let pool = &self.store.shared.pool;
        let pin = if let Some(pin) = pool.get_resident(tag) {
            self.ahead.found();
            pin
        } else {
            let comes_whole = block.image.is_some();
            let began_ns = self.store.clock.monotonic_ns();
            let pin = pool
                .fetch_for_redo(&self.store, tag, comes_whole)
                .map_err(|error| failed(first.start, error.into()))?;
            if !comes_whole {
                let now_ns = self.store.clock.monotonic_ns();
                self.ahead.has_read(now_ns - began_ns);
            }
            pin
        };
        let mut bytes = pin.write();
        let mut page_lsn = page::page_lsn(&bytes);
        tally.newest = tally.newest.max(Some((page_lsn, tag)));
        for task in tasks {
            let place = batch.place(*task);
            if page_lsn >= place.end && page_lsn > Lsn::ZERO {
                if self.pages == Pages::Unproved {
                    bytes.mark_dirty(place.start);
                }
                tally.summary.pages_skipped += 1;
                continue;
            }
            let lsn = place.start;
            let block = place.block(*task).map_err(|error| wrong(lsn, error))?;
            bytes.mark_dirty(lsn);
            if let Err(error) = apply::redo_block(&mut bytes, &block, place.end) {
                // A part of the record may be on the page. The checkpointer, which goes on until
                // the start has ended, writes no page that is latched; nobody else ever reads this one.
                std::mem::forget(bytes);
                return Err(failed(lsn, RecoveryError::Apply { lsn, error }));
            }
            page_lsn = place.end;
            tally.summary.pages_changed += 1;
        }
        Ok(())
    }
}
