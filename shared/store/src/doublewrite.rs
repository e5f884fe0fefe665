//! The double-write area `global/doublewrite`: every page goes there first, so that a page of
//! which a power cut wrote only a part can be put back whole.
//!
//! Invariants:
//! - D1 A page is written in its place only after the batch that holds its copy is synced.
//! - D2 Batches are numbered without gaps, and batch n lies in slot n modulo the number of slots.
//!   A slot is overwritten only when the files of its old batch have been synced.
//! - D3 `pg_control` names the first batch whose files are not known to be synced; it is raised
//!   only after such a sync. Copies of earlier batches mend nothing: they may be older than what
//!   the file has lost since.
//!   What the disk does not give back is as good as torn: it mends nothing, and refuses no start.
//! - D4 The area's own name is durable before a batch is written: whoever makes one syncs it, and
//!   start-up does so once more, for an area whose maker died before he could.

use crate::control_file::GLOBAL_DIR;
use crate::relation::{RelationFiles, path_of};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BatchNo, FileNo, Lsn, PageTag};
use rd_format::Access;
use rd_format::doublewrite::{
    DW_BATCH_PAGES_MAX, DW_SLOT_BYTES, DwBatch, DwEntry, decode_header, encode_header, page_offset,
    slot_offset,
};
use rd_format::page::{self, PageBytes};
use rd_sys::fault::{self, Fault};
use rd_sys::storage::{OpenMode, Storage, StorageFile, is_bad_sector};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// The file, relative to the data directory.
pub const DOUBLEWRITE_PATH: &str = "global/doublewrite";
/// Where a new area is made before it takes the other's place.
const TEMPORARY_PATH: &str = "global/doublewrite.new";
/// Least slots with which batches can follow each other while files are synced.
const SLOTS_MIN: u64 = 4;

/// The least area that can be used, in bytes.
pub const DOUBLEWRITE_BYTES_MIN: u64 = SLOTS_MIN * DW_SLOT_BYTES;

/// Makes an area of about `bytes`, replacing one that is there and not needed any more.
///
/// # Errors
/// When there is no room, or it cannot be written and synced.
pub fn create(storage: &dyn Storage, bytes: u64) -> io::Result<()> {
    replace(storage, bytes)?;
    storage.sync_dir(GLOBAL_DIR)
}

/// As [`create`], but for the name, which is not durable yet: no batch may be written before
/// [`GLOBAL_DIR`] is synced. The bytes are written out once, so that no later sync has to record new
/// blocks of the file.
///
/// # Errors
/// When there is no room, or it cannot be written and synced. The old area is as it was then.
pub fn replace(storage: &dyn Storage, bytes: u64) -> io::Result<()> {
    remove_unfinished(storage)?;
    let made = make(storage, bytes);
    if made.is_err() {
        // It may hold all the room that there was. The error that it was not made says why.
        let _ = remove_unfinished(storage);
    }
    made?;
    storage.rename(TEMPORARY_PATH, DOUBLEWRITE_PATH)
}

/// Removes what is left of an area that was being made when the server died.
///
/// # Errors
/// When it cannot be removed.
pub fn remove_unfinished(storage: &dyn Storage) -> io::Result<()> {
    if storage.exists(TEMPORARY_PATH)? {
        storage.remove(TEMPORARY_PATH)?;
    }
    Ok(())
}

fn make(storage: &dyn Storage, bytes: u64) -> io::Result<()> {
    let file = storage.open(TEMPORARY_PATH, OpenMode::CreateNew)?;
    let slots = slots_for(bytes);
    file.allocate(0, slots * DW_SLOT_BYTES)?;
    let zeros = vec![0; DW_SLOT_BYTES as usize];
    for slot in 0..slots {
        file.write_all_at(&zeros, slot * DW_SLOT_BYTES)?;
    }
    file.sync_all()
}

fn slots_for(bytes: u64) -> u64 {
    (bytes / DW_SLOT_BYTES).max(SLOTS_MIN)
}

/// The open area, for the checkpointer.
pub struct DoubleWrite {
    file: Arc<dyn StorageFile>,
    slots: u64,
    system_identifier: u64,
    /// The number of the next batch.
    next: BatchNo,
    /// The first batch whose slot must not be overwritten.
    oldest_held: BatchNo,
    /// One slot, as it is written; made with the first.
    buffer: Vec<u8>,
    /// Reads that met a bad sector.
    bad_reads: Cell<u64>,
}

/// Whether an area that could not be opened is not there, or cut off, so that what it held is lost.
pub fn is_lost(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData
    )
}

impl DoubleWrite {
    /// Opens the area. `first_unsynced` is what `pg_control` says; batches go on after the highest
    /// one that is there.
    ///
    /// # Errors
    /// When it cannot be read, but for bad sectors, or is too short.
    pub fn open(
        storage: &dyn Storage,
        system_identifier: u64,
        first_unsynced: BatchNo,
    ) -> io::Result<DoubleWrite> {
        let file = storage.open(DOUBLEWRITE_PATH, OpenMode::ReadWrite)?;
        let slots = file.len()? / DW_SLOT_BYTES;
        if slots < SLOTS_MIN {
            let message = format!("\"{DOUBLEWRITE_PATH}\" has only {slots} slots of {SLOTS_MIN}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut area = DoubleWrite {
            file,
            slots,
            system_identifier,
            next: first_unsynced,
            oldest_held: first_unsynced,
            buffer: Vec::new(),
            bad_reads: Cell::new(0),
        };
        for slot in 0..slots {
            if let Some(batch) = area.header(slot)? {
                let after = BatchNo::new(batch.batch.get() + 1);
                area.next = area.next.max(after);
            }
        }
        Ok(area)
    }

    /// Whether the area has the size that `bytes` asks for.
    pub fn is_sized_for(&self, bytes: u64) -> bool {
        self.slots == slots_for(bytes)
    }

    /// The number that the next batch will have.
    pub fn next(&self) -> BatchNo {
        self.next
    }

    /// Whether a batch can be written without overwriting one that is held (D2).
    pub fn has_room(&self) -> bool {
        self.next.get() - self.oldest_held.get() < self.slots
    }

    /// Batches that are held, and how many can be.
    pub fn held(&self) -> (u64, u64) {
        (self.next.get() - self.oldest_held.get(), self.slots)
    }

    /// Says that the files of all batches below `batch` have been synced.
    pub fn release_before(&mut self, batch: BatchNo) {
        debug_assert!(batch <= self.next);
        self.oldest_held = self.oldest_held.max(batch);
    }

    /// Writes sealed pages as one batch and syncs it (D1). There must be room.
    ///
    /// # Errors
    /// When it cannot be written. A sync that fails ends the process.
    pub fn write_batch(&mut self, pages: &[(PageTag, &PageBytes)]) -> io::Result<BatchNo> {
        assert!(self.has_room(), "D2: no slot is free");
        assert!(pages.len() <= DW_BATCH_PAGES_MAX);
        let entries: Vec<DwEntry> = pages
            .iter()
            .map(|(tag, page)| DwEntry::for_page(*tag, page))
            .collect();
        self.buffer.resize(DW_SLOT_BYTES as usize, 0);
        let (slots, _) = self.buffer.as_chunks_mut::<PAGE_BYTES>();
        let (header, copies) = slots.split_first_mut().expect("a slot has a header page");
        encode_header(header, self.next, self.system_identifier, &entries);
        for (copy, (_, page)) in copies.iter_mut().zip(pages) {
            copy.copy_from_slice(&page[..]);
        }
        let batch = self.next;
        let used = (1 + pages.len()) * PAGE_BYTES;
        self.file
            .write_all_at(&self.buffer[..used], slot_offset(batch, self.slots))?;
        let synced = fault::point(Fault::DoublewriteSync).and_then(|()| self.file.sync_data());
        if let Err(error) = synced {
            rd_sys::crash::panic_abort(&format!(
                "could not sync file \"{DOUBLEWRITE_PATH}\": {error}"
            ));
        }
        self.next = BatchNo::new(batch.get() + 1);
        fault::point(Fault::DoublewriteSynced)?;
        Ok(batch)
    }

    /// As [`StorageFile::read_at`], but of what lies on a bad sector it reads nothing.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.file.read_at(bytes, offset) {
            Err(error) if is_bad_sector(&error) => {
                self.bad_reads.set(self.bad_reads.get() + 1);
                Ok(0)
            }
            read => read,
        }
    }

    /// The batch in a slot; `None` if there is none that is whole.
    fn header(&self, slot: u64) -> io::Result<Option<DwBatch>> {
        let mut header = [0; PAGE_BYTES];
        if self.read_at(&mut header, slot * DW_SLOT_BYTES)? < PAGE_BYTES {
            return Ok(None);
        }
        let batch = decode_header(&header).ok();
        Ok(batch.filter(|batch| {
            let at_home = batch.batch.get() % self.slots == slot;
            at_home && batch.system_identifier == self.system_identifier
        }))
    }

    /// Of every page that batches from `first` on hold whole, the newest copy: which batch, which
    /// page of it, and its page LSN.
    fn newest_copies(&self, first: BatchNo) -> io::Result<BTreeMap<PageTag, Copy>> {
        let mut newest: BTreeMap<PageTag, Copy> = BTreeMap::new();
        let mut page = [0; PAGE_BYTES];
        for slot in 0..self.slots {
            let Some(batch) = self.header(slot)?.filter(|batch| batch.batch >= first) else {
                continue;
            };
            for (index, entry) in batch.entries.iter().enumerate() {
                let copy = Copy {
                    lsn: entry.page_lsn,
                    batch: batch.batch,
                    index,
                };
                let offset = page_offset(slot_offset(batch.batch, self.slots), index);
                // The batch under way at a crash may have a header and lack pages; none of those
                // was written in its place (D1).
                let whole = self.read_at(&mut page, offset)? == PAGE_BYTES
                    && entry.matches(&page)
                    && page::check(&page, entry.tag).is_ok();
                let newer = |known: &Copy| (copy.lsn, copy.batch) > (known.lsn, known.batch);
                if whole && newest.get(&entry.tag).is_none_or(newer) {
                    newest.insert(entry.tag, copy);
                }
            }
        }
        Ok(newest)
    }

    /// The highest page LSN that any batch names, whatever became of its pages.
    ///
    /// # Errors
    /// When the area cannot be read.
    pub fn newest_lsn(&self) -> io::Result<Lsn> {
        let mut newest = Lsn::ZERO;
        for slot in 0..self.slots {
            let entries = self.header(slot)?.map_or(Vec::new(), |batch| batch.entries);
            newest = entries
                .iter()
                .fold(newest, |newest, entry| newest.max(entry.page_lsn));
        }
        Ok(newest)
    }

    /// The copy of the page `tag` that was written last of all, if that can be proved: the batch
    /// that holds it lies at or behind `since`, and every later batch can be read and does not hold
    /// the page. `since` is a batch from which on every page went by way of this area.
    ///
    /// # Errors
    /// When the area cannot be read.
    pub fn last_copy(&self, tag: PageTag, since: BatchNo) -> io::Result<Option<Box<PageBytes>>> {
        for number in (since.get()..self.next.get()).rev() {
            let header = self.header(number % self.slots)?;
            let Some(batch) = header.filter(|batch| batch.batch.get() == number) else {
                return Ok(None);
            };
            let place = batch.entries.iter().position(|entry| entry.tag == tag);
            let Some(index) = place else { continue };
            let mut page = Box::new([0; PAGE_BYTES]);
            let offset = page_offset(slot_offset(batch.batch, self.slots), index);
            let whole = self.read_at(&mut page[..], offset)? == PAGE_BYTES
                && batch.entries[index].matches(&page)
                && page::verify(&page, tag).is_ok();
            return Ok(whole.then_some(page));
        }
        Ok(None)
    }

    /// Makes the batches from `first` on durable, by writing them once more. What is read of them may
    /// be in the kernel's cache only: when the processes died before the sync, or it failed. Without
    /// this the repair would break D1: a power cut could tear the page that it writes, and take the
    /// copy, too.
    fn secure(&self, first: BatchNo) -> io::Result<()> {
        let mut slot_bytes = Vec::new();
        let mut any = false;
        for slot in 0..self.slots {
            let Some(batch) = self.header(slot)?.filter(|batch| batch.batch >= first) else {
                continue;
            };
            let offset = slot_offset(batch.batch, self.slots);
            let used = (batch.entries.len() + 1) * PAGE_BYTES;
            slot_bytes.resize(used.max(slot_bytes.len()), 0);
            let bytes = &mut slot_bytes[..used];
            if self.read_at(bytes, offset)? == used {
                self.file.write_all_at(bytes, offset)?;
            } else {
                self.secure_pages(bytes, offset)?;
            }
            any = true;
        }
        if any && let Err(error) = self.file.sync_data() {
            rd_sys::crash::panic_abort(&format!("could not sync \"{DOUBLEWRITE_PATH}\": {error}"));
        }
        Ok(())
    }

    /// Of pages that cannot be read at once, writes those once more that can be read.
    fn secure_pages(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        for (index, page) in bytes.chunks_exact_mut(PAGE_BYTES).enumerate() {
            let offset = offset + (index * PAGE_BYTES) as u64;
            if self.read_at(page, offset)? == PAGE_BYTES {
                self.file.write_all_at(page, offset)?;
            }
        }
        Ok(())
    }

    /// Puts copies from batch `first` on back in their places: wherever the page there is torn,
    /// missing, on a sector that cannot be read (a disk gives another one for it when it is written), or not
    /// newer than the copy (it may be in the kernel's cache only, after a sync that failed); one of the same
    /// page LSN is written as it is. Then syncs those files. To be called before anything else is written.
    ///
    /// `closed` says for which access a file is closed, if it is. Those of offline namespaces are left alone:
    /// they were synced before `pg_control` said so, and may be away.
    ///
    /// If the area cannot be read everywhere, a copy that was found may not be the last, and pages may lie in
    /// the kernel's cache only of which none was found. Then what is whole in its place stays. So does a torn
    /// page of a closed file: an old page is as good as its last copy only where all that is in the log is done
    /// again from the redo point on. The caller is to sync all files.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn repair(
        &self,
        relations: &RelationFiles,
        first: BatchNo,
        closed: impl Fn(FileNo) -> Option<Access>,
    ) -> io::Result<Repair> {
        let mut repair = Repair::default();
        let (mut in_place, mut page) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        let mut touched: BTreeMap<String, Arc<dyn StorageFile>> = BTreeMap::new();
        self.secure(first)?;
        let copies = self.newest_copies(first)?;
        let has_all = self.bad_reads.get() == 0;
        for (tag, copy) in copies {
            repair.copies += 1;
            let closed = closed(tag.file);
            if closed.is_some_and(Access::is_offline) {
                continue;
            }
            let file = match relations.piece_of(tag) {
                Ok(file) => file,
                // The file was unlinked since: nothing needs its pages.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let there = match relations.read_block(tag, &mut in_place) {
                Err(error) if is_bad_sector(&error) => false,
                there => there?,
            };
            let good = there && page::check(&in_place, tag).is_ok();
            repair.newest_lsn = repair.newest_lsn.max(copy.lsn);
            if good && has_all && page::page_lsn(&in_place) > copy.lsn {
                continue;
            }
            // A header is stamped without a new page LSN; the copy of the last stamp may have rotted, and
            // this be one of before.
            if good && (!has_all || page::page_lsn(&in_place) == copy.lsn) {
                // As it is; but it may be in the kernel's cache only, and its copies are given up.
                relations.write_page(tag, &in_place)?;
                touched.insert(path_of(tag), file);
                continue;
            }
            if !has_all && closed.is_some() {
                continue;
            }
            let offset = page_offset(slot_offset(copy.batch, self.slots), copy.index);
            if self.read_at(&mut page, offset)? < PAGE_BYTES {
                continue;
            }
            if !good {
                repair.torn.push(tag);
            }
            relations.write_page(tag, &page)?;
            repair.written += 1;
            touched.insert(path_of(tag), file);
        }
        for (path, file) in &touched {
            relations.sync(&**file, path);
        }
        repair.bad_reads = self.bad_reads.get();
        Ok(repair)
    }
}

/// Where a copy lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copy {
    lsn: Lsn,
    batch: BatchNo,
    index: usize,
}

/// What [`DoubleWrite::repair`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Pages of which there was a copy.
    pub copies: u64,
    /// Pages that were written back.
    pub written: u64,
    /// Of those, the ones that were torn or missing in their place.
    pub torn: Vec<PageTag>,
    /// The highest page LSN among the copies: the log was durable at least up to here.
    pub newest_lsn: Lsn,
    /// Reads of the area that met a bad sector: there may have been copies that were needed.
    pub bad_reads: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relation::BASE_DIR;
    use rd_base::{BlockNo, FileNo};
    use rd_format::page::PageKind;
    use rd_sys::simdisk::SimStorage;

    const BLOCKS: u32 = 12;

    fn tag(block: u32) -> PageTag {
        PageTag::new(FileNo::new(3), BlockNo::new(block))
    }

    fn sealed(tag: PageTag, lsn: u64) -> PageBytes {
        let mut page = [0; PAGE_BYTES];
        page::init(&mut page, PageKind::Free);
        page[100..].fill(lsn as u8);
        page::set_page_lsn(&mut page, Lsn::new(lsn));
        page::seal(&mut page, tag);
        page
    }

    /// A disk with an area of the least size and a relation file whose blocks are at LSN 1.
    fn disk(seed: u64) -> SimStorage {
        let storage = SimStorage::new(seed);
        for dir in [GLOBAL_DIR, BASE_DIR] {
            storage.create_dir(dir).expect("a new disk");
        }
        storage.sync_dir("").expect("a good disk");
        create(&storage, 0).expect("room");
        let relations = RelationFiles::writer(Arc::new(storage.clone()));
        relations.grow(FileNo::new(3), 0, BLOCKS).expect("room");
        for block in 0..BLOCKS {
            relations
                .write_page(tag(block), &sealed(tag(block), 1))
                .expect("room");
        }
        let file = relations.piece(FileNo::new(3), 0).expect("there");
        relations.sync(&*file, "base/3");
        storage
    }

    /// Rounds of batches, as the checkpointer writes them; raises `lsns` of each block as soon as
    /// its copy is known to be synced, and `first` as soon as the file is.
    fn write_rounds(storage: &SimStorage, lsns: &mut [u64], first: &mut u64) -> io::Result<()> {
        let relations = RelationFiles::writer(Arc::new(storage.clone()));
        let mut area = DoubleWrite::open(storage, 7, BatchNo::new(*first))?;
        for round in 2..9u64 {
            let blocks: Vec<u32> = (0..BLOCKS)
                .filter(|block| !(block + round as u32).is_multiple_of(3))
                .collect();
            let pages: Vec<_> = blocks
                .iter()
                .map(|block| (tag(*block), sealed(tag(*block), round)))
                .collect();
            if !area.has_room() {
                relations.piece(FileNo::new(3), 0)?.sync_data()?;
                area.release_before(area.next());
                *first = area.next().get();
            }
            let refs: Vec<_> = pages.iter().map(|(tag, page)| (*tag, page)).collect();
            let batch = area.write_batch(&refs)?;
            assert_eq!(batch.get() + 1, area.next().get());
            for (tag, page) in &pages {
                lsns[tag.block.get() as usize] = round;
                relations.write_page(*tag, page)?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_crash_at_any_io_leaves_every_page_mendable() {
        let whole = disk(0);
        let before = whole.io_count();
        write_rounds(&whole, &mut [1; BLOCKS as usize], &mut 0).expect("a good disk");
        let ios = whole.io_count() - before;
        let mut torn = 0;
        for at in 1..=ios {
            for seed in 0..3 {
                let storage = disk(seed);
                storage.crash_at(Some(before + at));
                let (mut lsns, mut first) = ([1; BLOCKS as usize], 0);
                let crashed = rd_sys::crash::catch_panics(|| {
                    write_rounds(&storage, &mut lsns, &mut first).is_err()
                });
                assert_ne!(crashed, Ok(false), "it crashes at I/O {at}");
                storage.crash(seed + at);
                let relations = RelationFiles::writer(Arc::new(storage.clone()));
                let first = BatchNo::new(first);
                let area = DoubleWrite::open(&storage, 7, first).expect("readable");
                let repair = area
                    .repair(&relations, first, |_| None)
                    .expect("a good disk");
                torn += repair.torn.len();
                let mut page = [0; PAGE_BYTES];
                for block in 0..BLOCKS {
                    relations
                        .read_page(tag(block), &mut page)
                        .expect("whole after the repair");
                    let found = page::page_lsn(&page).get();
                    // A synced copy is never lost; one under way may have come through.
                    let known = lsns[block as usize];
                    assert!(found >= known, "block {block}: {found} < {known}, I/O {at}");
                }
                let again = area
                    .repair(&relations, first, |_| None)
                    .expect("a good disk");
                assert_eq!(again.torn, []);
            }
        }
        assert!(torn > 0, "the simulated disk tears pages");
    }

    /// As a header's that is stamped again while nothing else is written to the file.
    #[test]
    fn an_older_copy_with_the_same_page_lsn_does_not_take_a_pages_place() {
        let storage = disk(2);
        let relations = RelationFiles::writer(Arc::new(storage.clone()));
        let mut area = DoubleWrite::open(&storage, 7, BatchNo::new(0)).expect("readable");
        let stamped = |stamp: u8| {
            let mut page = sealed(tag(0), 5);
            page[200] = stamp;
            page::seal(&mut page, tag(0));
            page
        };
        for stamp in [1, 2] {
            let page = stamped(stamp);
            area.write_batch(&[(tag(0), &page)]).expect("room");
            relations.write_page(tag(0), &page).expect("room");
        }
        let second = slot_offset(BatchNo::new(1), area.slots);
        storage
            .damage(DOUBLEWRITE_PATH, second + 9, &[0xFF])
            .expect("within the area");
        area.repair(&relations, BatchNo::new(0), |_| None)
            .expect("a good disk");
        let mut page = [0; PAGE_BYTES];
        relations.read_page(tag(0), &mut page).expect("whole");
        assert_eq!(page[200], 2);
    }

    /// The processes die between the write of a batch and its sync; the next start repairs from what
    /// it reads, and then the power fails.
    #[test]
    fn a_repair_from_copies_that_were_never_synced_can_be_cut_off() {
        let mut cut_off = 0;
        for at in 1..30 {
            for seed in 0..20 {
                let storage = disk(seed);
                let first = BatchNo::new(0);
                let mut area = DoubleWrite::open(&storage, 7, first).expect("readable");
                let new: Vec<_> = (0..BLOCKS)
                    .map(|block| (tag(block), sealed(tag(block), 9)))
                    .collect();
                let refs: Vec<_> = new.iter().map(|(tag, page)| (*tag, page)).collect();
                storage.crash_at(Some(storage.io_count() + 2));
                let written = rd_sys::crash::catch_panics(|| area.write_batch(&refs).is_ok());
                assert_ne!(written, Ok(true), "the sync does not come through");
                storage.kill(seed);

                let repair = || {
                    let area = DoubleWrite::open(&storage, 7, first).expect("readable");
                    let relations = RelationFiles::writer(Arc::new(storage.clone()));
                    area.repair(&relations, first, |_| None)
                };
                storage.crash_at(Some(storage.io_count() + at));
                let repaired = rd_sys::crash::catch_panics(|| repair().is_ok());
                cut_off += u32::from(repaired != Ok(true));
                storage.crash(seed + at);
                repair().expect("a good disk");
                let relations = RelationFiles::writer(Arc::new(storage.clone()));
                for block in 0..BLOCKS {
                    let read = relations.read_page(tag(block), &mut [0; PAGE_BYTES]);
                    read.expect("whole after the repair");
                }
            }
        }
        assert!(cut_off > 100, "{cut_off} repairs were cut off");
    }

    /// A start counts on what it has mended, and gives the copies up.
    #[test]
    fn what_a_repair_has_written_is_on_disk_when_it_ends() {
        for seed in 0..20 {
            let storage = disk(seed);
            let relations = RelationFiles::writer(Arc::new(storage.clone()));
            let mut area = DoubleWrite::open(&storage, 7, BatchNo::new(0)).expect("readable");
            let pages: Vec<_> = (0..BLOCKS)
                .map(|block| (tag(block), sealed(tag(block), 9)))
                .collect();
            let refs: Vec<_> = pages.iter().map(|(tag, page)| (*tag, page)).collect();
            area.write_batch(&refs).expect("room");
            // The server died before it had written them to their places.
            let repair = area.repair(&relations, BatchNo::new(0), |_| None);
            assert_eq!(repair.expect("a good disk").written, u64::from(BLOCKS));
            storage.crash(seed);
            let relations = RelationFiles::writer(Arc::new(storage.clone()));
            for block in 0..BLOCKS {
                let mut page = [0; PAGE_BYTES];
                let read = relations.read_page(tag(block), &mut page);
                read.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                assert_eq!(page::page_lsn(&page), Lsn::new(9), "seed {seed}");
            }
        }
    }

    /// A sector of the area that the disk does not give costs the copies on it, and nothing else.
    #[test]
    fn a_bad_sector_refuses_no_start() {
        let storage = disk(4);
        let first = BatchNo::new(0);
        let mut area = DoubleWrite::open(&storage, 7, first).expect("readable");
        for blocks in [0..2, 2..BLOCKS] {
            let pages: Vec<_> = blocks
                .map(|block| (tag(block), sealed(tag(block), 9)))
                .collect();
            let refs: Vec<_> = pages.iter().map(|(tag, page)| (*tag, page)).collect();
            area.write_batch(&refs).expect("room");
        }
        let mut lost = 0;
        // The first is its opening.
        for skip in 1.. {
            let disk = storage.fork();
            disk.inject(rd_sys::simdisk::Injection {
                kind: rd_sys::simdisk::IoKind::Read,
                path_contains: DOUBLEWRITE_PATH.to_owned(),
                skip,
                times: 1,
                errno: 5,
            });
            let relations = RelationFiles::writer(Arc::new(disk.clone()));
            let area = DoubleWrite::open(&disk, 7, first).expect("readable but for a sector");
            let repair = area.repair(&relations, first, |_| None).expect("repaired");
            if repair.bad_reads == 0 {
                assert_eq!(repair.written, u64::from(BLOCKS), "read {skip}");
                break;
            }
            assert_eq!(repair.bad_reads, 1, "read {skip}");
            lost += u64::from(BLOCKS) - repair.written;
        }
        assert!(lost > 0, "some reads are of copies");
    }

    /// A sector of a relation file that the disk does not give is written from the copy of its page.
    #[test]
    fn a_bad_sector_is_mended_where_there_is_a_copy() {
        let storage = disk(6);
        let first = BatchNo::new(0);
        let mut area = DoubleWrite::open(&storage, 7, first).expect("readable");
        let pages: Vec<_> = (0..BLOCKS)
            .map(|block| (tag(block), sealed(tag(block), 9)))
            .collect();
        let refs: Vec<_> = pages.iter().map(|(tag, page)| (*tag, page)).collect();
        area.write_batch(&refs).expect("room");
        let relations = RelationFiles::writer(Arc::new(storage.clone()));
        area.repair(&relations, first, |_| None).expect("repaired");
        for block in 0..BLOCKS {
            let disk = storage.fork();
            disk.inject(rd_sys::simdisk::Injection {
                kind: rd_sys::simdisk::IoKind::Read,
                path_contains: BASE_DIR.to_owned(),
                // The first is its opening.
                skip: 1 + u64::from(block),
                times: 1,
                errno: 5,
            });
            let relations = RelationFiles::writer(Arc::new(disk.clone()));
            let area = DoubleWrite::open(&disk, 7, first).expect("readable");
            let repair = area.repair(&relations, first, |_| None).expect("repaired");
            assert_eq!(repair.torn, [tag(block)]);
        }
    }

    /// An older copy is not put over a page because the last one cannot be read.
    #[test]
    fn a_copy_that_may_not_be_the_last_replaces_no_page_that_is_whole_or_will_not_be_redone() {
        let copies = [9, 10].map(|filler| {
            let mut page = sealed(tag(0), 9);
            page[PAGE_BYTES - 1] = filler;
            page::seal(&mut page, tag(0));
            page
        });
        for (is_torn, closed, expected) in [
            (false, None, Some(10)),
            (false, Some(Access::READ_ONLY), Some(10)),
            (true, None, Some(9)),
            (true, Some(Access::READ_ONLY), None),
        ] {
            let disk = disk(7);
            let first = BatchNo::new(0);
            let relations = RelationFiles::writer(Arc::new(disk.clone()));
            let mut area = DoubleWrite::open(&disk, 7, first).expect("readable");
            for copy in &copies {
                area.write_batch(&[(tag(0), copy)]).expect("room");
            }
            relations.write_page(tag(0), &copies[1]).expect("room");
            if is_torn {
                disk.damage(&path_of(tag(0)), 700, b"rotten")
                    .expect("it is there");
            }
            let last = page_offset(slot_offset(BatchNo::new(1), area.slots), 0);
            disk.damage(DOUBLEWRITE_PATH, last, &[0; PAGE_BYTES])
                .expect("it is there");
            area.bad_reads.set(1);
            area.repair(&relations, first, |_| closed)
                .expect("repaired");
            let mut page = [0; PAGE_BYTES];
            relations.read_block(tag(0), &mut page).expect("readable");
            let is_whole = page::check(&page, tag(0)).is_ok();
            assert_eq!(is_whole.then_some(page[PAGE_BYTES - 1]), expected);
        }
    }

    /// What could not be made, or was being made when the server died, takes no room.
    #[test]
    fn an_area_for_which_there_is_no_room_leaves_nothing() {
        let storage = disk(5);
        let used = storage.used_bytes();
        storage.set_capacity(Some(used + DOUBLEWRITE_BYTES_MIN));
        replace(&storage, 2 * DOUBLEWRITE_BYTES_MIN).expect_err("no room");
        assert_eq!(storage.used_bytes(), used);
        assert!(!storage.exists(TEMPORARY_PATH).expect("a good disk"));
        let cut_off = storage.open(TEMPORARY_PATH, OpenMode::CreateNew);
        cut_off
            .expect("a good disk")
            .allocate(0, 100)
            .expect("room");
        remove_unfinished(&storage).expect("a good disk");
        assert_eq!(storage.used_bytes(), used);
    }

    #[test]
    fn copies_of_synced_batches_mend_nothing() {
        let storage = disk(1);
        let relations = RelationFiles::writer(Arc::new(storage.clone()));
        let mut area = DoubleWrite::open(&storage, 7, BatchNo::new(0)).expect("readable");
        area.write_batch(&[(tag(1), &sealed(tag(1), 50))])
            .expect("room");
        area.release_before(area.next());
        let repair = area
            .repair(&relations, area.next(), |_| None)
            .expect("readable");
        assert_eq!(repair, Repair::default());
        let other = DoubleWrite::open(&storage, 8, BatchNo::new(0)).expect("readable");
        let repair = other
            .repair(&relations, BatchNo::new(0), |_| None)
            .expect("readable");
        assert_eq!(
            repair.copies, 0,
            "another directory's copies count for nothing"
        );
    }

    #[test]
    fn the_last_copy_is_given_only_if_nothing_can_be_newer() {
        let storage = disk(3);
        let mut area = DoubleWrite::open(&storage, 7, BatchNo::new(0)).expect("readable");
        let write = |area: &mut DoubleWrite, block, lsn| {
            area.release_before(area.next());
            let page = sealed(tag(block), lsn);
            area.write_batch(&[(tag(block), &page)]).expect("room")
        };
        let lsn_of = |area: &DoubleWrite, block, since| {
            let copy = area.last_copy(tag(block), since).expect("readable");
            copy.map(|page| page::page_lsn(&page).get())
        };
        let first = write(&mut area, 1, 5);
        let second = write(&mut area, 1, 6);
        let third = write(&mut area, 2, 7);
        assert_eq!(lsn_of(&area, 1, first), Some(6));
        assert_eq!(lsn_of(&area, 2, first), Some(7));
        assert_eq!(lsn_of(&area, 3, first), None);
        assert_eq!(lsn_of(&area, 1, third), None, "who knows what was before");
        // A batch of which nobody knows what it held, and a copy that is damaged.
        let put = |at: u64, bytes: &[u8]| {
            let file = storage
                .open(DOUBLEWRITE_PATH, OpenMode::ReadWrite)
                .expect("there");
            let mut before = vec![0; bytes.len()];
            file.read_at(&mut before, at).expect("readable");
            file.write_all_at(bytes, at).expect("room");
            before
        };
        let header = slot_offset(third, SLOTS_MIN) + 8;
        let before = put(header, b"damage");
        assert_eq!(lsn_of(&area, 2, first), None);
        assert_eq!(
            lsn_of(&area, 1, first),
            None,
            "it may have held a later one"
        );
        put(header, &before);
        assert_eq!(lsn_of(&area, 1, first), Some(6));
        put(
            page_offset(slot_offset(second, SLOTS_MIN), 0) + 500,
            b"damage",
        );
        assert_eq!(lsn_of(&area, 1, first), None, "not the one before it");
        for round in 8..12 {
            write(&mut area, 3, round);
        }
        assert_eq!(lsn_of(&area, 3, first), Some(11));
        assert_eq!(lsn_of(&area, 1, first), None, "its slot was used again");
    }

    #[test]
    fn slots_are_held_until_their_files_are_synced() {
        let storage = disk(2);
        let mut area = DoubleWrite::open(&storage, 7, BatchNo::new(0)).expect("readable");
        let page = sealed(tag(1), 5);
        for _ in 0..SLOTS_MIN {
            assert!(area.has_room());
            area.write_batch(&[(tag(1), &page)]).expect("room");
        }
        assert!(!area.has_room());
        area.release_before(BatchNo::new(1));
        assert!(area.has_room());
        let again = DoubleWrite::open(&storage, 7, BatchNo::new(1)).expect("readable");
        assert_eq!(
            (again.next(), again.held()),
            (BatchNo::new(4), (3, SLOTS_MIN))
        );
    }
}
