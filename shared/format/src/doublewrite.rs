//! The double-write area `global/doublewrite`: copies of pages, synced before the pages
//! themselves are written, from which torn ones are mended.
//!
//! The file is a ring of slots of [`DW_SLOT_BYTES`]. Batch n goes to slot n modulo the number of
//! slots: a header page, then up to [`DW_BATCH_PAGES_MAX`] pages, each sealed as it will stand in
//! its file.
//!
//! Invariants:
//! - Batches are numbered without gaps, and synced in that order.
//! - A slot is overwritten only when the files of its batch's pages have been synced.

use crate::layout::on_disk;
use crate::page::PageBytes;
use rd_base::limits::{GROWING_U64_MAX, PAGE_BYTES};
use rd_base::{BatchNo, BlockNo, FileNo, Lsn, PageTag};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Most pages in a batch.
pub const DW_BATCH_PAGES_MAX: usize = 64;
/// Bytes of one slot of the ring: header page and pages.
pub const DW_SLOT_BYTES: u64 = ((1 + DW_BATCH_PAGES_MAX) * PAGE_BYTES) as u64;
/// First eight bytes of a batch header: "RDDWRT" and the format's number.
pub const DW_MAGIC: u64 = u64::from_le_bytes(*b"RDDWRT\x01\x00");

on_disk! {
    /// Start of the header page of a double-write batch; `count` entries follow.
    pub struct DwHeader: 40 {
        /// "RDDWRT", 1, 0.
        0 magic: U64,
        /// Number of the batch.
        8 batch: U64,
        /// The data directory that the batch belongs to.
        16 system_identifier: U64,
        /// Number of pages.
        24 count: U32,
        /// CRC-32C over header and entries, with this field zero.
        28 crc: U32,
        /// Zero.
        32 reserved: U64,
    }
}

on_disk! {
    /// One page of a double-write batch.
    pub struct DwEntryBytes: 24 {
        /// The page's relation file.
        0 file: U32,
        /// Its block there.
        4 block: U32,
        /// Its page LSN.
        8 page_lsn: U64,
        /// CRC-32C over its 8192 bytes as they follow in the batch.
        16 crc: U32,
        /// Zero.
        20 reserved: U32,
    }
}

const _: () = assert!(DwHeader::BYTES + DW_BATCH_PAGES_MAX * DwEntryBytes::BYTES <= PAGE_BYTES);

/// One page of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DwEntry {
    /// Where the page belongs.
    pub tag: PageTag,
    /// Its page LSN.
    pub page_lsn: Lsn,
    /// CRC-32C over its bytes.
    pub crc: u32,
}

impl DwEntry {
    /// The entry for a page that was sealed for `tag`.
    pub fn for_page(tag: PageTag, page: &PageBytes) -> Self {
        Self {
            tag,
            page_lsn: crate::page::page_lsn(page),
            crc: crc32c::crc32c(page),
        }
    }
    /// Whether `page` is the copy that this entry speaks of.
    pub fn matches(&self, page: &PageBytes) -> bool {
        crc32c::crc32c(page) == self.crc
    }
}

/// The header of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DwBatch {
    /// Number of the batch.
    pub batch: BatchNo,
    /// The data directory that it belongs to.
    pub system_identifier: u64,
    /// Its pages, in the order in which they follow.
    pub entries: Vec<DwEntry>,
}

/// Why a header page holds no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DwError {
    /// Never used.
    #[error("the slot was never used")]
    Empty,
    /// Not a batch header.
    #[error("magic number {0:016X} in place of {DW_MAGIC:016X}")]
    Magic(u64),
    /// More pages than fit.
    #[error("{0} pages in a batch of at most {DW_BATCH_PAGES_MAX}")]
    Count(u32),
    /// A number that no batch comes to.
    #[error("batch number {0} is beyond every server's")]
    Number(u64),
    /// The header's checksum fails: it was torn, or damaged.
    #[error("batch header checksum: stored {stored:08X}, computed {computed:08X}")]
    Checksum {
        /// In the header.
        stored: u32,
        /// Of what was read.
        computed: u32,
    },
}

/// Where the slot of a batch begins in an area of `slots` slots (at least 1).
pub const fn slot_offset(batch: BatchNo, slots: u64) -> u64 {
    batch.get() % slots * DW_SLOT_BYTES
}

/// Where page `index` of the batch whose slot begins at `slot_offset` lies.
pub const fn page_offset(slot_offset: u64, index: usize) -> u64 {
    slot_offset + ((1 + index) * PAGE_BYTES) as u64
}

/// Fills the header page of a batch. At most [`DW_BATCH_PAGES_MAX`] entries.
pub fn encode_header(
    page: &mut PageBytes,
    batch: BatchNo,
    system_identifier: u64,
    entries: &[DwEntry],
) {
    assert!(entries.len() <= DW_BATCH_PAGES_MAX);
    page.fill(0);
    let mut header = DwHeader {
        magic: U64::new(DW_MAGIC),
        batch: U64::new(batch.get()),
        system_identifier: U64::new(system_identifier),
        count: U32::new(entries.len() as u32),
        crc: U32::new(0),
        reserved: U64::new(0),
    };
    let mut at = DwHeader::BYTES;
    for entry in entries {
        let bytes = DwEntryBytes {
            file: U32::new(entry.tag.file.get()),
            block: U32::new(entry.tag.block.get()),
            page_lsn: U64::new(entry.page_lsn.get()),
            crc: U32::new(entry.crc),
            reserved: U32::new(0),
        };
        page[at..at + DwEntryBytes::BYTES].copy_from_slice(bytes.as_bytes());
        at += DwEntryBytes::BYTES;
    }
    let crc = crc32c::crc32c(header.as_bytes());
    header
        .crc
        .set(crc32c::crc32c_append(crc, &page[DwHeader::BYTES..at]));
    page[..DwHeader::BYTES].copy_from_slice(header.as_bytes());
}

/// Reads and checks the header page of a batch.
pub fn decode_header(page: &PageBytes) -> Result<DwBatch, DwError> {
    let mut header = DwHeader::read_from_bytes(&page[..DwHeader::BYTES])
        .expect("the range has the struct's length");
    if header.magic.get() == 0 && crate::page::is_zero(page) {
        return Err(DwError::Empty);
    }
    if header.magic.get() != DW_MAGIC {
        return Err(DwError::Magic(header.magic.get()));
    }
    let count = header.count.get();
    if count as usize > DW_BATCH_PAGES_MAX {
        return Err(DwError::Count(count));
    }
    let end = DwHeader::BYTES + count as usize * DwEntryBytes::BYTES;
    let stored = header.crc.get();
    header.crc.set(0);
    let crc = crc32c::crc32c(header.as_bytes());
    let computed = crc32c::crc32c_append(crc, &page[DwHeader::BYTES..end]);
    if stored != computed {
        return Err(DwError::Checksum { stored, computed });
    }
    if header.batch.get() > GROWING_U64_MAX {
        return Err(DwError::Number(header.batch.get()));
    }
    let (rows, _) = page[DwHeader::BYTES..end].as_chunks::<{ DwEntryBytes::BYTES }>();
    let entries = rows
        .iter()
        .map(|row| {
            let row: &DwEntryBytes = zerocopy::transmute_ref!(row);
            DwEntry {
                tag: PageTag::new(FileNo::new(row.file.get()), BlockNo::new(row.block.get())),
                page_lsn: Lsn::new(row.page_lsn.get()),
                crc: row.crc.get(),
            }
        })
        .collect();
    Ok(DwBatch {
        batch: BatchNo::new(header.batch.get()),
        system_identifier: header.system_identifier.get(),
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u32) -> DwEntry {
        DwEntry {
            tag: PageTag::new(FileNo::new(number % 3), BlockNo::new(number)),
            page_lsn: Lsn::new(u64::from(number) * 1000),
            crc: number.wrapping_mul(0x9E37_79B9),
        }
    }

    #[test]
    fn batches_round_trip_and_damage_is_named() {
        let mut page = [0; PAGE_BYTES];
        assert_eq!(decode_header(&page), Err(DwError::Empty));
        for count in [0, 1, 2, DW_BATCH_PAGES_MAX] {
            let entries: Vec<_> = (0..count as u32).map(entry).collect();
            encode_header(&mut page, BatchNo::new(7), 42, &entries);
            let batch = decode_header(&page).expect("just encoded");
            assert_eq!(
                batch,
                DwBatch {
                    batch: BatchNo::new(7),
                    system_identifier: 42,
                    entries
                }
            );
            let used = DwHeader::BYTES + count * DwEntryBytes::BYTES;
            for bit in 0..used * 8 {
                let mut damaged = page;
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    decode_header(&damaged).is_err(),
                    "bit {bit} of {count} entries"
                );
            }
        }
    }

    #[test]
    fn a_number_to_which_none_can_be_added_is_refused() {
        let mut page = [0; PAGE_BYTES];
        encode_header(&mut page, BatchNo::new(u64::MAX), 42, &[entry(1)]);
        assert_eq!(decode_header(&page), Err(DwError::Number(u64::MAX)));
    }

    #[test]
    fn batches_take_the_slots_in_turn() {
        let offsets: Vec<_> = (5..9).map(|n| slot_offset(BatchNo::new(n), 3)).collect();
        let slot = DW_SLOT_BYTES;
        assert_eq!(offsets, [2 * slot, 0, slot, 2 * slot]);
        assert_eq!(
            page_offset(slot, DW_BATCH_PAGES_MAX - 1) + PAGE_BYTES as u64,
            2 * slot
        );
    }
}
