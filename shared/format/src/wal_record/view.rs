//! Reading a record. The bytes are hostile until checked: every length is held against what is
//! there, and nothing is allocated.

use super::data::RecordData;
use super::op::PageOp;
use super::{
    BlockRef, ImageHeader, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, RecordError, RecordHeaderBytes,
    RecordKind, WHOLE_PAGE, padded,
};
use crate::page::PageBytes;
use crate::wal_page::{lsn_to_pos, pos_to_end_lsn};
use rd_base::limits::{GROWING_U32_MAX, PAGE_BYTES};
use rd_base::{BlockNo, FileNo, Lsn, PageTag, StartCount};
use zerocopy::{FromBytes, IntoBytes};

/// What a record's header says, before the checksum is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Length of the record, padding not counted; between the header's and the greatest.
    pub total_len: usize,
    /// The LSN where it says it starts.
    pub lsn: Lsn,
    /// How many times the server had been started for writing.
    pub start_count: StartCount,
    /// Number of its kind.
    pub kind: u8,
    /// Number of block references.
    pub block_count: u16,
    /// Wall clock when it was made, microseconds since 1970.
    pub time_us: u64,
    /// The stored checksum.
    pub crc: u32,
}

impl RecordHeader {
    /// Reads the header at the start of `bytes`: enough to know how long the record is.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (header, _) =
            RecordHeaderBytes::read_from_prefix(bytes).map_err(|_| RecordError::Short {
                have: bytes.len(),
                need: RECORD_HEADER_BYTES,
            })?;
        let total_len = header.total_len.get();
        if total_len == 0 {
            return Err(RecordError::Zero);
        }
        if !(RECORD_HEADER_BYTES..=RECORD_BYTES_MAX).contains(&(total_len as usize)) {
            return Err(RecordError::Length(total_len));
        }
        Ok(Self {
            total_len: total_len as usize,
            lsn: Lsn::new(header.lsn.get()),
            start_count: StartCount::new(header.start_count.get()),
            kind: header.kind,
            block_count: header.block_count.get(),
            time_us: header.time_us.get(),
            crc: header.crc.get(),
        })
    }

    /// Length with padding: the usable bytes that the record takes.
    pub fn padded_len(&self) -> usize {
        padded(self.total_len)
    }

    /// The LSN where the record ends, padding included: the stamp of what it writes, and the page
    /// LSN of what it changes. `Lsn::MAX` if the start is nonsense.
    pub fn end_lsn(&self) -> Lsn {
        if self.lsn.get() > u64::MAX / 2 {
            return Lsn::MAX;
        }
        pos_to_end_lsn(lsn_to_pos(self.lsn) + self.padded_len() as u64)
    }
}

/// A record whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    header: RecordHeader,
    kind: RecordKind,
    /// The whole record, without padding.
    bytes: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// Checks length, checksum and kind of the record at the start of `bytes`, which may go on
    /// behind it. The body is checked as it is read, or by [`RecordView::verify`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let header = RecordHeader::decode(bytes)?;
        let bytes = bytes.get(..header.total_len).ok_or(RecordError::Short {
            have: bytes.len(),
            need: header.total_len,
        })?;
        let (raw, body) =
            RecordHeaderBytes::read_from_prefix(bytes).map_err(|_| RecordError::Zero)?;
        let plain = RecordHeaderBytes {
            crc: 0.into(),
            ..raw
        };
        let computed = crc32c::crc32c_append(crc32c::crc32c(body), plain.as_bytes());
        if computed != header.crc {
            return Err(RecordError::Checksum {
                stored: header.crc,
                computed,
            });
        }
        let kind = RecordKind::from_number(header.kind).ok_or(RecordError::Kind(header.kind))?;
        Ok(Self {
            header,
            kind,
            bytes,
        })
    }

    /// [`RecordView::parse`], and checks that the record says it starts at `lsn`. That is looked
    /// at first: stale bytes are told apart without summing them.
    pub fn parse_at(bytes: &'a [u8], lsn: Lsn) -> Result<Self, RecordError> {
        let header = RecordHeader::decode(bytes)?;
        if header.lsn != lsn {
            return Err(RecordError::Elsewhere { found: header.lsn });
        }
        Self::parse(bytes)
    }

    /// The header.
    pub fn header(&self) -> &RecordHeader {
        &self.header
    }
    /// The kind.
    pub fn kind(&self) -> RecordKind {
        self.kind
    }
    /// Where the record starts.
    pub fn lsn(&self) -> Lsn {
        self.header.lsn
    }
    /// Where the record ends, see [`RecordHeader::end_lsn`].
    pub fn end_lsn(&self) -> Lsn {
        self.header.end_lsn()
    }
    /// The record's bytes, without padding.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// What the record does to pages, one after another. Ends after the first error.
    pub fn blocks(&self) -> Blocks<'a> {
        Blocks {
            bytes: self.bytes,
            at: RECORD_HEADER_BYTES,
            left: usize::from(self.header.block_count),
        }
    }

    /// What the record says beside its blocks.
    pub fn data(&self) -> Result<RecordData<'a>, RecordError> {
        let mut blocks = self.blocks();
        for block in &mut blocks {
            block?;
        }
        self.data_behind(&blocks)
    }

    /// As [`RecordView::data`], for who has been through all `blocks` of this record already.
    pub fn data_behind(&self, blocks: &Blocks<'a>) -> Result<RecordData<'a>, RecordError> {
        debug_assert_eq!(blocks.left, 0);
        let rest = self.bytes.get(blocks.at..).unwrap_or(&[]);
        RecordData::decode(self.kind, rest, blocks.at)
    }

    /// Checks the whole body.
    pub fn verify(&self) -> Result<(), RecordError> {
        for block in self.blocks() {
            for op in block?.ops() {
                op?;
            }
        }
        self.data().map(|_| ())
    }
}

/// Whether a relation file can have this number.
pub(super) fn is_file(number: u32) -> bool {
    (1..=GROWING_U32_MAX).contains(&number)
}

/// Iterator over the blocks of a record.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    bytes: &'a [u8],
    at: usize,
    left: usize,
}

impl Blocks<'_> {
    /// Where in the record the next block begins, for [`BlockView::decode`].
    pub fn at(&self) -> usize {
        self.at
    }
}

impl<'a> Iterator for Blocks<'a> {
    type Item = Result<BlockView<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        match BlockView::decode(self.bytes, self.at) {
            Ok((block, end)) => {
                self.left -= 1;
                self.at = end;
                Some(Ok(block))
            }
            Err(error) => {
                self.left = 0;
                Some(Err(error))
            }
        }
    }
}

/// What a record does to one page.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    /// The page.
    pub tag: PageTag,
    /// The page whole: what is there is not looked at.
    pub image: Option<PageImage<'a>>,
    ops: &'a [u8],
    ops_at: usize,
}

impl<'a> BlockView<'a> {
    /// The block whose reference begins at byte `at` of the record, and where it ends.
    ///
    /// # Errors
    /// When the bytes there are no block.
    pub fn decode(record: &'a [u8], at: usize) -> Result<(Self, usize), RecordError> {
        let wrong = |what, at| RecordError::Body { what, at };
        let rest = record.get(at..).unwrap_or(&[]);
        let (reference, rest) = BlockRef::read_from_prefix(rest)
            .map_err(|_| wrong("a block reference is cut short", at))?;
        let data_at = at + BlockRef::BYTES;
        let data_len = reference.data_len.get() as usize;
        let data = rest
            .get(..data_len)
            .ok_or(wrong("a block's data lead out of the record", data_at))?;
        if reference.flags & !WHOLE_PAGE != 0 {
            return Err(wrong("a block reference has unknown flags", at));
        }
        let (image, ops) = if reference.flags & WHOLE_PAGE == 0 {
            (None, data)
        } else {
            let (image, ops) = PageImage::decode(data, data_at)?;
            (Some(image), ops)
        };
        if !is_file(reference.file.get()) || reference.block.get() == u32::MAX {
            return Err(wrong("a block reference is to no page", at));
        }
        let tag = PageTag::new(
            FileNo::new(reference.file.get()),
            BlockNo::new(reference.block.get()),
        );
        let ops_at = data_at + data_len - ops.len();
        Ok((
            Self {
                tag,
                image,
                ops,
                ops_at,
            },
            data_at + data_len,
        ))
    }

    /// The operations, in order. Ends after the first error.
    pub fn ops(&self) -> Ops<'a> {
        Ops {
            bytes: self.ops,
            at: self.ops_at,
        }
    }

    /// Whether there is any operation.
    pub fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }
}

/// Iterator over the operations of a block.
#[derive(Clone, Debug)]
pub struct Ops<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<PageOp<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        match PageOp::decode(self.bytes, self.at) {
            Ok((op, bytes)) => {
                self.bytes = self.bytes.get(bytes..).unwrap_or(&[]);
                self.at += bytes;
                Some(Ok(op))
            }
            Err(error) => {
                self.bytes = &[];
                Some(Err(error))
            }
        }
    }
}

/// A page as it was when the record was made, without its hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageImage<'a> {
    before: &'a [u8],
    after: &'a [u8],
}

impl<'a> PageImage<'a> {
    fn decode(data: &'a [u8], at: usize) -> Result<(Self, &'a [u8]), RecordError> {
        let wrong = |what| RecordError::Body { what, at };
        let (header, rest) =
            ImageHeader::read_from_prefix(data).map_err(|_| wrong("a page image is cut short"))?;
        let hole_start = usize::from(header.hole_start.get());
        let hole_end = usize::from(header.hole_end.get());
        if hole_start > hole_end || hole_end > PAGE_BYTES {
            return Err(wrong("a page image has a hole that no page has"));
        }
        let cut_short = wrong("a page image is cut short");
        let (before, rest) = rest.split_at_checked(hole_start).ok_or(cut_short)?;
        let (after, rest) = rest
            .split_at_checked(PAGE_BYTES - hole_end)
            .ok_or(cut_short)?;
        Ok((Self { before, after }, rest))
    }

    /// Writes the page out. Its page LSN is whatever it was when the record was made: redo sets
    /// it to the record's end.
    pub fn restore(&self, page: &mut PageBytes) {
        let hole_end = PAGE_BYTES - self.after.len();
        page[..self.before.len()].copy_from_slice(self.before);
        page[self.before.len()..hole_end].fill(0);
        page[hole_end..].copy_from_slice(self.after);
    }

    /// Bytes of page that the record carries.
    pub fn bytes(&self) -> usize {
        self.before.len() + self.after.len()
    }
}
