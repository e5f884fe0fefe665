//! Overflow pages: the pieces of a value that is too large for its leaf, in a chain.
//!
//! Invariants:
//! - The pieces are numbered from 0; each names the block of the next, the last names 0.
//! - Every piece but the last is full. The leaf's stub holds the length and CRC of the whole.

use crate::layout::on_disk;
use crate::node::NodeError;
use crate::page::{self, PageBytes, PageHeader, PageKind};
use rd_base::BlockNo;
use rd_base::limits::PAGE_BYTES;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, IntoBytes};

on_disk! {
    /// What follows the page header on an overflow page; the data follow it.
    pub struct OverflowHeader: 16 {
        /// Which piece of the value this is, from 0.
        0 sequence: U32,
        /// Block of the next piece; 0 at the last.
        4 next: U32,
        /// Bytes of data on this page.
        8 used: U32,
        /// Zero.
        12 reserved: U32,
    }
}

/// Where the data begin on the page.
pub const OVERFLOW_START: usize = PageHeader::BYTES + OverflowHeader::BYTES;
/// Bytes of data that fit one overflow page.
pub const OVERFLOW_DATA_BYTES: usize = PAGE_BYTES - OVERFLOW_START;

/// How many overflow pages a value of `value_bytes` takes.
pub const fn pages_for(value_bytes: usize) -> usize {
    value_bytes.div_ceil(OVERFLOW_DATA_BYTES)
}

/// Makes `page` the piece number `sequence`, followed by `next`.
///
/// `data` is at most [`OVERFLOW_DATA_BYTES`] long; what is longer is a bug of the caller.
pub fn init(page: &mut PageBytes, sequence: u32, next: Option<BlockNo>, data: &[u8]) {
    assert!(data.len() <= OVERFLOW_DATA_BYTES);
    page::init(page, PageKind::Overflow);
    let header = header_for(sequence, next, data.len());
    page[PageHeader::BYTES..OVERFLOW_START].copy_from_slice(header.as_bytes());
    page[OVERFLOW_START..OVERFLOW_START + data.len()].copy_from_slice(data);
}

pub(crate) fn header_for(sequence: u32, next: Option<BlockNo>, used: usize) -> OverflowHeader {
    OverflowHeader {
        sequence: U32::new(sequence),
        next: U32::new(next.map_or(0, BlockNo::get)),
        used: U32::new(used as u32),
        reserved: U32::new(0),
    }
}

fn overflow_header(page: &PageBytes) -> OverflowHeader {
    OverflowHeader::read_from_bytes(&page[PageHeader::BYTES..OVERFLOW_START])
        .expect("the range has the struct's length")
}

/// Which piece of its value the page is.
pub fn sequence(page: &PageBytes) -> u32 {
    overflow_header(page).sequence.get()
}

/// The block of the next piece.
pub fn next(page: &PageBytes) -> Option<BlockNo> {
    match overflow_header(page).next.get() {
        0 => None,
        block => Some(BlockNo::new(block)),
    }
}

/// The data on the page; cut to the page if the length is damaged.
pub fn data(page: &PageBytes) -> &[u8] {
    let used = (overflow_header(page).used.get() as usize).min(OVERFLOW_DATA_BYTES);
    &page[OVERFLOW_START..OVERFLOW_START + used]
}

/// Checks that the length fits the page.
pub(crate) fn verify(page: &PageBytes) -> Result<(), NodeError> {
    let header = overflow_header(page);
    let used = header.used.get() as usize;
    if used > OVERFLOW_DATA_BYTES {
        return Err(NodeError::OverflowUsed { used });
    }
    if header.next.get() != 0 && used != OVERFLOW_DATA_BYTES {
        return Err(NodeError::OverflowUsed { used });
    }
    Ok(())
}
