//! Making a record, in a buffer that is used again for the next one.
//!
//! Order of calls: `start`; for each page `block`, then its `image` or operations; the record
//! data; `seal`; `finish`. Whatever is done out of order is a bug, and asserted. Nothing here
//! allocates once the buffer has grown to the size that its records have.

use super::data::{CheckpointData, EndOfRecoveryData, FileDelta, encode_file};
use super::op::{PageOp, Upsert, encode_upsert};
use super::{
    BlockRef, ImageHeader, RECORD_BLOCKS_MAX, RECORD_BYTES_MAX, RECORD_HEADER_BYTES,
    RecordHeaderBytes, RecordKind, WHOLE_PAGE, padded,
};
use crate::overflow;
use crate::page::{self, PageBytes, PageHeader, PageKind};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag, StartCount};
use std::collections::TryReserveError;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, IntoBytes};

/// Makes records, one after another.
pub struct RecordBuilder {
    /// Header, body, and after `seal` the padding.
    bytes: Vec<u8>,
    kind: RecordKind,
    time_us: u64,
    block_count: usize,
    /// Where the reference of the block lies whose data are being added.
    open_block: Option<usize>,
    /// Record data have begun: no block may follow.
    in_data: bool,
    /// Length without padding, and checksum of the body, once sealed.
    sealed: Option<(usize, u32)>,
}

impl Default for RecordBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl RecordBuilder {
    /// A builder with an empty buffer.
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            kind: RecordKind::Noop,
            time_us: 0,
            block_count: 0,
            open_block: None,
            in_data: false,
            sealed: None,
        }
    }

    /// Begins a record. What was in the buffer is gone.
    pub fn start(&mut self, kind: RecordKind, time_us: u64) {
        self.bytes.clear();
        self.bytes.resize(RECORD_HEADER_BYTES, 0);
        self.kind = kind;
        self.time_us = time_us;
        self.block_count = 0;
        self.open_block = None;
        self.in_data = false;
        self.sealed = None;
    }

    /// Gives memory back if the buffer is larger than `keep_bytes`: after a very large record.
    pub fn shrink(&mut self, keep_bytes: usize) {
        if self.bytes.capacity() > keep_bytes {
            self.bytes = Vec::new();
            self.sealed = None;
        }
    }

    /// Sees to room for a record of so many bytes, whatever is in the buffer now.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn try_reserve(&mut self, bytes: usize) -> Result<(), TryReserveError> {
        let more = bytes.saturating_sub(self.bytes.len());
        self.bytes.try_reserve_exact(more)
    }

    /// Begins what the record does to the page at `tag`.
    pub fn block(&mut self, tag: PageTag) {
        assert!(
            self.sealed.is_none() && !self.in_data,
            "blocks come before record data"
        );
        assert!(self.block_count < RECORD_BLOCKS_MAX);
        self.close_block();
        self.open_block = Some(self.bytes.len());
        self.block_count += 1;
        let reference = BlockRef {
            file: U32::new(tag.file.get()),
            block: U32::new(tag.block.get()),
            data_len: U32::new(0),
            flags: 0,
            reserved: [0; 3],
        };
        self.bytes.extend_from_slice(reference.as_bytes());
    }

    /// Gives the page of the current block whole, before any operation. The hole between the
    /// slots and the cells of a tree page, and behind the data of an overflow page, is left out.
    pub fn image(&mut self, page: &PageBytes) {
        let (hole_start, hole_end) = hole_of(page);
        self.begin_image(hole_start, hole_end);
        self.bytes.extend_from_slice(&page[..hole_start]);
        self.bytes.extend_from_slice(&page[hole_end..]);
    }

    /// Gives the page of the current block whole, as the overflow page with this content: the
    /// same as `image` of a page made by [`overflow::init`], without making one.
    pub fn overflow_image(&mut self, sequence: u32, next: Option<BlockNo>, data: &[u8]) {
        assert!(data.len() <= overflow::OVERFLOW_DATA_BYTES);
        self.begin_image(overflow::OVERFLOW_START + data.len(), PAGE_BYTES);
        let mut header = PageHeader::new_zeroed();
        header.kind = PageKind::Overflow as u8;
        header.format.set(page::PAGE_FORMAT);
        self.bytes.extend_from_slice(header.as_bytes());
        let header = overflow::header_for(sequence, next, data.len());
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(data);
    }

    fn begin_image(&mut self, hole_start: usize, hole_end: usize) {
        let at = self.open_block.expect("an image belongs to a block");
        assert!(
            self.bytes.len() == at + BlockRef::BYTES,
            "an image comes before operations"
        );
        self.bytes[at + std::mem::offset_of!(BlockRef, flags)] |= WHOLE_PAGE;
        let header = ImageHeader {
            hole_start: U16::new(hole_start as u16),
            hole_end: U16::new(hole_end as u16),
        };
        self.bytes.extend_from_slice(header.as_bytes());
    }

    /// Adds an operation to the current block.
    pub fn op(&mut self, op: &PageOp<'_>) {
        assert!(self.open_block.is_some(), "an operation belongs to a block");
        op.encode(&mut self.bytes);
    }

    /// Adds a version to the current block; the same as `op` with `PageOp::Upsert`.
    #[inline]
    pub fn upsert(&mut self, upsert: &Upsert<'_>) {
        assert!(self.open_block.is_some(), "an operation belongs to a block");
        encode_upsert(upsert, &mut self.bytes);
    }

    /// Record data of a commit: `file` grew by so many keys. Once for each file.
    pub fn file_delta(&mut self, delta: FileDelta) {
        self.begin_data(&[RecordKind::Commit]);
        delta.encode(&mut self.bytes);
    }

    /// Record data of a file_create or file_drop.
    pub fn file(&mut self, file: FileNo) {
        self.begin_data(&[RecordKind::FileCreate, RecordKind::FileDrop]);
        encode_file(file, &mut self.bytes);
    }

    /// Record data of a checkpoint.
    pub fn checkpoint(&mut self, data: &CheckpointData) {
        self.begin_data(&[RecordKind::Checkpoint]);
        data.encode(&mut self.bytes);
    }

    /// Record data of an end_of_recovery.
    pub fn end_of_recovery(&mut self, data: &EndOfRecoveryData) {
        self.begin_data(&[RecordKind::EndOfRecovery]);
        data.encode(&mut self.bytes);
    }

    fn begin_data(&mut self, kinds: &[RecordKind]) {
        assert!(kinds.contains(&self.kind) && self.sealed.is_none());
        self.close_block();
        self.in_data = true;
    }

    fn close_block(&mut self) {
        if let Some(at) = self.open_block.take() {
            let data_len = (self.bytes.len() - at - BlockRef::BYTES) as u32;
            let field = at + std::mem::offset_of!(BlockRef, data_len);
            self.bytes[field..field + 4].copy_from_slice(&data_len.to_le_bytes());
        }
    }

    /// Length so far, without padding.
    pub fn total_len(&self) -> usize {
        self.sealed
            .map_or(self.bytes.len(), |(total_len, _)| total_len)
    }

    /// Ends the body and computes its checksum. Returns the length with padding: the bytes of
    /// usable log that the record takes.
    pub fn seal(&mut self) -> usize {
        assert!(self.sealed.is_none());
        self.close_block();
        let total_len = self.bytes.len();
        assert!(
            total_len <= RECORD_BYTES_MAX,
            "transactions are limited far below this"
        );
        let crc = crc32c::crc32c(&self.bytes[RECORD_HEADER_BYTES..]);
        self.bytes.resize(padded(total_len), 0);
        self.sealed = Some((total_len, crc));
        self.bytes.len()
    }

    /// Writes the header, once the record's place is reserved. Returns the record's bytes,
    /// padding included.
    pub fn finish(&mut self, lsn: Lsn, start_count: StartCount) -> &[u8] {
        let (total_len, body_crc) = self.sealed.expect("seal comes before finish");
        let mut header = RecordHeaderBytes {
            total_len: U32::new(total_len as u32),
            crc: U32::new(0),
            lsn: U64::new(lsn.get()),
            start_count: U32::new(start_count.get()),
            kind: self.kind as u8,
            flags: 0,
            block_count: U16::new(self.block_count as u16),
            time_us: U64::new(self.time_us),
        };
        header
            .crc
            .set(crc32c::crc32c_append(body_crc, header.as_bytes()));
        self.bytes[..RECORD_HEADER_BYTES].copy_from_slice(header.as_bytes());
        &self.bytes
    }

    /// The bytes of the finished record, padding included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The part of a page that means nothing.
fn hole_of(page: &PageBytes) -> (usize, usize) {
    let header = page::header(page);
    match page::kind(page) {
        Some(PageKind::Leaf | PageKind::Inner) => {
            let (lower, upper) = (
                usize::from(header.lower.get()),
                usize::from(header.upper.get()),
            );
            assert!(PageHeader::BYTES <= lower && lower <= upper && upper <= PAGE_BYTES);
            (lower, upper)
        }
        Some(PageKind::Overflow) => (
            overflow::OVERFLOW_START + overflow::data(page).len(),
            PAGE_BYTES,
        ),
        _ => (PAGE_BYTES, PAGE_BYTES),
    }
}
