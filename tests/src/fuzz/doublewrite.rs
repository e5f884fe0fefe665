//! The double-write area and a relation file on the simulated disk, through what recovery does with
//! them.

use super::disk::{SYSTEM, tag};
use super::{patch, sealed};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BatchNo, Lsn, PageTag};
use rd_format::Access;
use rd_format::doublewrite::{DW_SLOT_BYTES, DwEntry, decode_header, encode_header};
use rd_format::page::{self, PageBytes, PageKind};
use rd_store::control_file::GLOBAL_DIR;
use rd_store::doublewrite::{DOUBLEWRITE_BYTES_MIN, DOUBLEWRITE_PATH, DoubleWrite, Repair, create};
use rd_store::relation::{BASE_DIR, RelationFiles, path_of};
use rd_sys::simdisk::SimStorage;
use rd_sys::storage::{OpenMode, Storage};
use std::sync::{Arc, LazyLock};

/// Slots of the area: the least.
const SLOTS: usize = (DOUBLEWRITE_BYTES_MIN / DW_SLOT_BYTES) as usize;
/// Pages of a slot that patches reach: the header and the first copies.
const SLOT_PAGES: usize = 4;
/// Blocks of the relation file.
const BLOCKS: usize = 6;
/// Pages that patches reach, those of the area first.
const PAGES: usize = SLOTS * SLOT_PAGES + BLOCKS;
/// The first of the batches that the sound area holds; it begins in slot 0.
const FIRST: u64 = 8;
/// Where entries begin in a header, and how long they are.
const ENTRIES: usize = 40;
const ENTRY_BYTES: usize = 24;
/// Where a page says of what kind it is.
const KIND: u32 = 12;

/// The area and the file, sound: what patches reach of them.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(sound);
/// A disk with an area and a file of zeros.
static DISK: LazyLock<SimStorage> = LazyLock::new(disk);

fn disk() -> SimStorage {
    let storage = SimStorage::new(1);
    for dir in [GLOBAL_DIR, BASE_DIR] {
        storage.create_dir(dir).expect("a new disk");
    }
    create(&storage, 0).expect("room");
    let relations = RelationFiles::writer(Arc::new(storage.clone()));
    relations
        .grow(tag(2, 0).file, 0, BLOCKS as u32)
        .expect("room");
    storage
}

fn sealed_page(tag: PageTag, lsn: u64) -> PageBytes {
    let mut page = [0; PAGE_BYTES];
    page::init(&mut page, PageKind::Free);
    page::set_page_lsn(&mut page, Lsn::new(lsn));
    page::seal(&mut page, tag);
    page
}

/// Batches 8 to 11, each with a page of its own and one that others hold, too; in the file all pages
/// are older, but for one.
fn sound() -> Vec<u8> {
    let mut pages = Vec::new();
    for slot in 0..SLOTS as u32 {
        let lsn = 100 + u64::from(slot);
        let copies = [tag(2, slot), tag(2, 5)].map(|tag| (tag, sealed_page(tag, lsn)));
        let entries = copies.map(|(tag, page)| DwEntry::for_page(tag, &page));
        let mut header = [0; PAGE_BYTES];
        let batch = BatchNo::new(FIRST + u64::from(slot));
        encode_header(&mut header, batch, SYSTEM, &entries);
        pages.extend([header, copies[0].1, copies[1].1, [0; PAGE_BYTES]]);
    }
    let lsn = |block| if block == 3 { 999 } else { 50 };
    pages.extend((0..BLOCKS as u32).map(|block| sealed_page(tag(2, block), lsn(block))));
    pages.concat()
}

/// Makes checksums right: those of the copies for the places that the header names, those of the
/// header for its copies, and its own.
fn seal_slot(pages: &mut [[u8; PAGE_BYTES]]) {
    let Some((header, copies)) = pages.split_first_mut() else {
        return;
    };
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes(*bytes[at..].first_chunk().expect("four bytes"))
    };
    for (index, copy) in copies.iter_mut().enumerate() {
        let entry = &mut header[ENTRIES + index * ENTRY_BYTES..][..ENTRY_BYTES];
        if entry.iter().all(|byte| *byte == 0) {
            break;
        }
        let (file, block) = (word(entry, 0), word(entry, 4));
        page::seal(copy, tag(file, block));
        entry[16..20].copy_from_slice(&crc32c::crc32c(copy).to_le_bytes());
    }
    let count = word(header, 24) as usize;
    let end = ENTRIES.saturating_add(count.saturating_mul(ENTRY_BYTES));
    header[28..32].fill(0);
    let crc = crc32c::crc32c(&header[..end.min(PAGE_BYTES)]);
    header[28..32].copy_from_slice(&crc.to_le_bytes());
}

fn check_header(bytes: &PageBytes) {
    if let Ok(batch) = decode_header(bytes) {
        let mut again = [0; PAGE_BYTES];
        encode_header(
            &mut again,
            batch.batch,
            batch.system_identifier,
            &batch.entries,
        );
        assert_eq!(decode_header(&again), Ok(batch));
    }
}

/// A double-write area and a relation file, repaired as recovery does it. The second byte is the first
/// batch that counts, the third cuts the area or the file, the rest are patches of both.
pub fn doublewrite(input: &[u8]) {
    repaired(input);
}

fn repaired(input: &[u8]) -> Option<Repair> {
    let (seal, rest) = sealed(input);
    let (&[first, cut], patches) = rest.split_first_chunk::<2>()?;
    let mut bytes = SOUND.clone();
    patch::apply(&mut bytes, patches);
    let (pages, _) = bytes.as_chunks_mut::<PAGE_BYTES>();
    assert_eq!(pages.len(), PAGES);
    let (area, file) = pages.split_at_mut(SLOTS * SLOT_PAGES);
    let storage = DISK.fork();
    for (number, slot) in area.chunks_mut(SLOT_PAGES).enumerate() {
        if seal {
            seal_slot(slot);
        }
        check_header(&slot[0]);
        let at = number as u64 * DW_SLOT_BYTES;
        storage
            .damage(DOUBLEWRITE_PATH, at, slot.as_flattened())
            .expect("the area is there");
    }
    let path = path_of(tag(2, 0));
    storage
        .damage(&path, 0, file.as_flattened())
        .expect("the file is there");
    let cut_to = |path: &str, bytes: u64| {
        let file = storage
            .open(path, OpenMode::ReadWrite)
            .expect("it is there");
        file.truncate(bytes).expect("a good disk");
    };
    match cut >> 6 {
        1 => cut_to(DOUBLEWRITE_PATH, u64::from(cut & 0x3F) << 16),
        2 => cut_to(&path, u64::from(cut & 0x3F) << 10),
        3 => storage.remove(&path).expect("it was there"),
        _ => {}
    }
    repair(&storage, BatchNo::new(u64::from(first)), cut & 1 == 1)
}

fn repair(storage: &SimStorage, first: BatchNo, is_offline: bool) -> Option<Repair> {
    let area = match DoubleWrite::open(storage, SYSTEM, first) {
        Ok(area) => area,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return None;
        }
    };
    let relations = RelationFiles::writer(Arc::new(storage.clone()));
    let is_away = |file| is_offline && file == tag(2, 0).file;
    let offline = |file| is_away(file).then_some(Access::OFFLINE);
    area.newest_lsn().expect("a good disk");
    for block in 0..=BLOCKS as u32 {
        let copy = area.last_copy(tag(2, block), first).expect("a good disk");
        if let Some(copy) = copy {
            page::verify(&copy, tag(2, block)).expect("only sound copies are given");
        }
    }
    // A relation file can be cut, or a place be one that no file has: that is an error, not more.
    let repair = area.repair(&relations, first, offline).ok()?;
    assert!(repair.torn.len() as u64 <= repair.written && repair.written <= repair.copies);
    for tag in &repair.torn {
        let mut page = [0; PAGE_BYTES];
        let there = relations.read_block(*tag, &mut page).expect("a good disk");
        assert!(there && page::check(&page, *tag).is_ok(), "{tag} is mended");
    }
    let again = area.repair(&relations, first, offline);
    assert_eq!(again.expect("it went well before").torn, []);
    Some(repair)
}

pub(super) fn doublewrite_seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = [
        [8, 0],
        [0, 0],
        [10, 0],
        [255, 0],
        [8, 0x44],
        [8, 0x83],
        [8, 0xC0],
        [8, 1],
    ]
    .iter()
    .map(|[first, cut]| vec![0, *first, *cut])
    .collect();
    // A torn page of the file; a count, a number, a place and an LSN of a batch; a torn copy.
    let file = SLOTS * SLOT_PAGES * PAGE_BYTES;
    for at in [file + 50, 24, 8, 40, 44, 48, PAGE_BYTES + 50] {
        let at = (at as u32).to_le_bytes();
        seeds.push(vec![0, 8, 0, at[0], at[1], at[2], 2, 0x05, 0x01]);
    }
    // A copy of each kind of page, with nothing in it that such a page has.
    for kind in 0..8 {
        let at = (PAGE_BYTES as u32 + KIND).to_le_bytes();
        seeds.push(vec![0, 8, 0, at[0], at[1], at[2], 1, kind]);
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_inputs_are_repaired() {
        let repair = repaired(&[0, FIRST as u8, 0]).expect("sound");
        // One of five is newer in its place.
        assert_eq!((repair.copies, repair.written), (5, 4));
        let at = ((SLOTS * SLOT_PAGES * PAGE_BYTES) as u32 + 50).to_le_bytes();
        let torn = repaired(&[0, FIRST as u8, 0, at[0], at[1], at[2], 1, 9]);
        assert_eq!(torn.expect("sound").torn, [tag(2, 0)]);
    }
}
