//! What was written to relation files and is not known to be synced, and which double-write
//! batches are still needed for it.
//!
//! Invariants:
//! - U1 A sync covers what was written before it was begun. What is written to the same piece
//!   meanwhile is noted anew.
//! - U2 A piece is synced through every descriptor that it was written through, so that none
//!   keeps an error to itself.
//! - U3 One sync of a piece runs at a time.
//! - U4 Who waits for everything written so far waits for the cycles before his own, so that what
//!   is written meanwhile does not prolong it.

use rd_base::limits::PAGE_BYTES;
use rd_base::{BatchNo, FileNo, Lsn};
use rd_sys::storage::StorageFile;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A piece of a relation file.
pub type Piece = (FileNo, u32);

/// What was written to one piece.
struct Written {
    descriptors: Vec<Arc<dyn StorageFile>>,
    first_batch: BatchNo,
    /// The least rec LSN that its pages had.
    rec_lsn: Lsn,
    pages: u64,
    /// The cycle in which the first of it was written.
    cycle: u64,
}

/// A sync to be done.
pub struct SyncJob {
    /// Which piece.
    pub piece: Piece,
    /// The descriptors that it was written through.
    pub descriptors: Vec<Arc<dyn StorageFile>>,
}

/// All pieces that were written and not synced.
#[derive(Default)]
pub struct Unsynced {
    written: BTreeMap<Piece, Written>,
    /// Pieces whose sync is under way, with what it covers.
    syncing: BTreeMap<Piece, Written>,
    cycle: u64,
}

impl Unsynced {
    /// Notes that `pages` are written to `piece` through `descriptor`, with copies in `batch`, and
    /// that the least of their rec LSNs was `rec_lsn`. To be called before they are.
    pub fn note(
        &mut self,
        piece: Piece,
        descriptor: &Arc<dyn StorageFile>,
        batch: BatchNo,
        pages: u64,
        rec_lsn: Lsn,
    ) {
        let written = self.written.entry(piece).or_insert_with(|| Written {
            descriptors: Vec::new(),
            first_batch: batch,
            rec_lsn,
            pages: 0,
            cycle: self.cycle,
        });
        written.first_batch = written.first_batch.min(batch);
        written.rec_lsn = written.rec_lsn.min(rec_lsn);
        written.pages += pages;
        if !written
            .descriptors
            .iter()
            .any(|known| Arc::ptr_eq(known, descriptor))
        {
            written.descriptors.push(Arc::clone(descriptor));
        }
    }

    /// Takes up the sync of every piece, of `file` if one is given, that was written (U1); pieces
    /// whose sync is under way wait for its end (U3).
    pub fn begin(&mut self, file: Option<FileNo>) -> Vec<SyncJob> {
        let free: Vec<Piece> = self
            .written
            .keys()
            .filter(|piece| !self.syncing.contains_key(piece))
            .filter(|(of, _)| file.is_none_or(|file| *of == file))
            .copied()
            .collect();
        let mut jobs = Vec::new();
        for piece in free {
            let written = self.written.remove(&piece).expect("it was just there");
            jobs.push(SyncJob {
                piece,
                descriptors: written.descriptors.clone(),
            });
            self.syncing.insert(piece, written);
        }
        jobs
    }

    /// Says that the sync of `piece` is done; gives how many pages it was of.
    pub fn finish(&mut self, piece: Piece) -> u64 {
        let synced = self.syncing.remove(&piece);
        synced.map_or(0, |synced| synced.pages)
    }

    /// Pages of each sync that is under way or to be done.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.all().map(|written| written.pages)
    }

    /// Forgets a file that is unlinked: nobody needs its pages.
    pub fn forget(&mut self, file: FileNo) {
        self.written.retain(|(of, _), _| *of != file);
    }

    fn all(&self) -> impl Iterator<Item = &Written> {
        self.written.values().chain(self.syncing.values())
    }

    /// Begins a new cycle; what is written from now on belongs to it (U4).
    pub fn begin_cycle(&mut self) -> u64 {
        self.cycle += 1;
        self.cycle
    }

    /// Whether everything that was written, to `file` if one is given, before `cycle` began is
    /// synced.
    pub fn is_synced_before(&self, cycle: u64, file: Option<FileNo>) -> bool {
        let pieces = self.written.iter().chain(&self.syncing);
        let mut asked = pieces.filter(|((of, _), _)| file.is_none_or(|file| *of == file));
        asked.all(|(_, written)| written.cycle >= cycle)
    }

    /// The first double-write batch that is still needed.
    pub fn first_batch(&self) -> Option<BatchNo> {
        self.all().map(|written| written.first_batch).min()
    }

    /// The least rec LSN of the pages that are not known to be synced: the redo point stays at or
    /// below it (B5).
    pub fn least_rec_lsn(&self) -> Option<Lsn> {
        self.all().map(|written| written.rec_lsn).min()
    }

    /// Bytes written and not synced.
    pub fn bytes(&self) -> u64 {
        self.pages().sum::<u64>() * PAGE_BYTES as u64
    }

    /// Bytes written whose sync has not begun.
    pub fn waiting_bytes(&self) -> u64 {
        self.written
            .values()
            .map(|written| written.pages)
            .sum::<u64>()
            * PAGE_BYTES as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_sys::simdisk::SimStorage;
    use rd_sys::storage::{OpenMode, Storage};

    fn note(unsynced: &mut Unsynced, file: u32, batch: u64) {
        let storage = SimStorage::new(1);
        let descriptor = storage.open("piece", OpenMode::CreateNew).expect("room");
        let piece = (FileNo::new(file), 0);
        let rec_lsn = Lsn::new(100 * batch);
        unsynced.note(piece, &descriptor, BatchNo::new(batch), 1, rec_lsn);
    }

    #[test]
    fn what_is_written_during_a_sync_waits_for_the_next() {
        let mut unsynced = Unsynced::default();
        note(&mut unsynced, 1, 5);
        note(&mut unsynced, 2, 5);
        assert_eq!(unsynced.begin(None).len(), 2);
        note(&mut unsynced, 1, 6);
        assert!(unsynced.begin(None).is_empty(), "U3");
        assert_eq!(unsynced.first_batch(), Some(BatchNo::new(5)));
        assert_eq!(unsynced.least_rec_lsn(), Some(Lsn::new(500)));
        assert_eq!(unsynced.bytes(), 3 * PAGE_BYTES as u64);
        assert_eq!(unsynced.finish((FileNo::new(1), 0)), 1);
        assert_eq!(unsynced.finish((FileNo::new(2), 0)), 1);
        assert_eq!(unsynced.first_batch(), Some(BatchNo::new(6)), "U1");
        assert_eq!(unsynced.least_rec_lsn(), Some(Lsn::new(600)));
        note(&mut unsynced, 1, 7);
        let jobs = unsynced.begin(None);
        assert_eq!(jobs.len(), 1);
        assert_eq!(
            jobs[0].descriptors.len(),
            2,
            "U2: two descriptors were used"
        );
        unsynced.finish(jobs[0].piece);
        assert_eq!(unsynced.bytes(), 0);
    }

    #[test]
    fn what_is_written_later_does_not_prolong_the_wait() {
        let mut unsynced = Unsynced::default();
        note(&mut unsynced, 1, 5);
        unsynced.begin(None);
        note(&mut unsynced, 1, 6);
        note(&mut unsynced, 2, 6);
        let cycle = unsynced.begin_cycle();
        note(&mut unsynced, 3, 7);
        assert!(!unsynced.is_synced_before(cycle, None));
        let done = |unsynced: &mut Unsynced, file| _ = unsynced.finish((FileNo::new(file), 0));
        unsynced.begin(None);
        done(&mut unsynced, 1);
        done(&mut unsynced, 2);
        assert!(
            !unsynced.is_synced_before(cycle, None),
            "the second writing of file 1 is left"
        );
        unsynced.begin(None);
        note(&mut unsynced, 1, 8);
        assert!(
            unsynced.is_synced_before(cycle, Some(FileNo::new(2))),
            "file 2 does not wait for file 1"
        );
        done(&mut unsynced, 1);
        assert!(unsynced.is_synced_before(cycle, None), "U4");
        assert_eq!(unsynced.first_batch(), Some(BatchNo::new(7)));
    }

    #[test]
    fn an_unlinked_file_holds_nothing_back() {
        let mut unsynced = Unsynced::default();
        note(&mut unsynced, 1, 5);
        note(&mut unsynced, 2, 6);
        unsynced.forget(FileNo::new(1));
        assert_eq!(unsynced.first_batch(), Some(BatchNo::new(6)));
        assert_eq!(unsynced.waiting_bytes(), PAGE_BYTES as u64);
    }
}
