//! Leaf and inner pages of a B-link tree: slots in order, cells behind them.
//!
//! ```text
//! | page header | slot 0 | slot 1 | … →      free      ← … | cell | cell | cell |
//! 0            40                lower              upper                    8192
//! ```
//!
//! Invariants:
//! - **N1** A leaf holds one cell per (key, version). Order is key ascending, then stamp
//!   *descending*: the newest version of a key comes first. No two cells have both in common.
//! - **N2** A page ends where its high key says, a [`Bound`]: an entry (k, s) lies below the bound
//!   (bk, bs) when k < bk, or k = bk and s > bs. So the versions of a key may lie on several
//!   leaves, and the bound (k, `Lsn::MAX`) is before every version of k. Without a high key the
//!   page has no upper end.
//! - **N3** The first cell of an inner page stands for minus infinity: its key is empty. A child
//!   holds the entries from its own bound to the next.
//! - **N4** All keys on a page (N3's cell apart) share their first `head_skip` bytes. Each slot
//!   holds, beside its cell's offset, the four bytes that follow (big-endian, zero-padded), its
//!   *head*. Heads ascend with the slots, so that a search looks at the array of slots and at one
//!   cell, instead of at one cell per step: a third less time over pages that are in no CPU cache
//!   (`cargo bench -p rd-format`), for four bytes a slot.
//! - **N5** `upper` to the end of the page is cells of slots, the high-key cell, and `garbage`
//!   bytes that belong to nobody.
//! - **N6** No change allocates. What does not fit changes nothing and says [`NoRoom`].

mod prune;
mod read;
mod split;
mod verify;
mod write;

pub use read::NodeRef;
pub use split::{Incoming, SplitPlan, split, split_point};
pub use write::NodeMut;

use crate::layout::on_disk;
use crate::page::PageHeader;
use rd_base::limits::{INLINE_BYTES_MAX, KEY_BYTES_MAX, PAGE_BYTES, VALUE_BYTES_CEILING};
use rd_base::{BlockNo, FileNo, Lsn};
use std::cmp::Ordering;
use zerocopy::little_endian::{U16, U32, U64};

on_disk! {
    /// A slot: one of the sorted array after the page header.
    pub struct Slot: 6 {
        /// Offset of the cell from the start of the page.
        0 offset: U16,
        /// Four bytes of the key after the page's `head_skip`, the first the most significant.
        2 head: U32,
    }
}

on_disk! {
    /// Start of a leaf cell. Then: `expiry_ms` (u64) if flag 4; the key; the value, or an
    /// `OverflowStubCell` if flag 2.
    pub struct LeafCell: 16 {
        /// Length of the key.
        0 key_len: U16,
        /// Bits: 1 tombstone, 2 the value is in overflow pages, 4 has an expiry.
        2 flags: u8,
        /// Zero.
        3 reserved: u8,
        /// Length of the whole value, wherever it lies.
        4 value_len: U32,
        /// End LSN of the record that wrote the version: its commit time.
        8 stamp: U64,
    }
}

on_disk! {
    /// What stands in a leaf cell in place of a value that lies in overflow pages.
    pub struct OverflowStubCell: 12 {
        /// Block of the first piece.
        0 first: U32,
        /// Number of pieces.
        4 pages: U32,
        /// CRC-32C over the whole value.
        8 crc: U32,
    }
}

on_disk! {
    /// Start of an inner cell, and of a high-key cell. Then: `stamp` (u64) if flag 1; the key.
    pub struct InnerCell: 8 {
        /// Length of the key.
        0 key_len: U16,
        /// Bits: 1 has a stamp; without one the bound lies before every version of the key.
        2 flags: u8,
        /// Zero.
        3 reserved: u8,
        /// The child's block; 0 in a high-key cell.
        4 child: U32,
    }
}

/// Flag bits of leaf cells.
pub mod cell_flags {
    /// The key was deleted at the stamp.
    pub const TOMBSTONE: u8 = 1;
    /// The value is in overflow pages.
    pub const OVERFLOW: u8 = 2;
    /// An expiry time follows the cell header.
    pub const EXPIRES: u8 = 4;
    /// Every flag that means something.
    pub const ALL: u8 = TOMBSTONE | OVERFLOW | EXPIRES;
}

/// Flag of inner and high-key cells: the bound's stamp follows the cell header.
pub(crate) const STAMPED: u8 = 1;

/// Where the slots begin.
pub(crate) const SLOTS_START: usize = PageHeader::BYTES;
/// Bytes for slots and cells on an empty page.
pub const NODE_BYTES: usize = PAGE_BYTES - SLOTS_START;
/// Most slots that can be on a page.
pub(crate) const SLOTS_MAX: usize = NODE_BYTES / Slot::BYTES;
/// The largest leaf cell, without its slot.
pub const LEAF_CELL_BYTES_MAX: usize =
    LeafCell::BYTES + 8 + max_of(INLINE_BYTES_MAX, KEY_BYTES_MAX + OverflowStubCell::BYTES);
/// The largest inner or high-key cell, without its slot.
pub const INNER_CELL_BYTES_MAX: usize = InnerCell::BYTES + 8 + KEY_BYTES_MAX;

const fn max_of(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

// A full page and one more cell always split in two that fit: fill the left page until the next
// cell would not fit beside the separator; what is left over is at most two cells and a separator
// more than one page minus the left one's. See `split_point`.
const _: () = assert!(2 * (LEAF_CELL_BYTES_MAX + 6) + INNER_CELL_BYTES_MAX <= NODE_BYTES);
const _: () = assert!(2 * (INNER_CELL_BYTES_MAX + 6) + INNER_CELL_BYTES_MAX <= NODE_BYTES);
// Three maximal cells and a high key do not fit (a key alone may be a quarter page); two do.
const _: () = assert!(PAGE_BYTES <= u16::MAX as usize && KEY_BYTES_MAX < PAGE_BYTES);

/// A place between entries: the upper end of a page, or the lower bound of a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound<'a> {
    /// The key.
    pub key: &'a [u8],
    /// `Lsn::MAX` is before every version of the key; s is before the version stamped s.
    pub stamp: Lsn,
}

impl<'a> Bound<'a> {
    /// The bound before every version of `key`.
    pub fn before_key(key: &'a [u8]) -> Self {
        Self {
            key,
            stamp: Lsn::MAX,
        }
    }
    /// Whether the entry (key, stamp) lies below this bound.
    #[inline]
    pub fn is_above(&self, key: &[u8], stamp: Lsn) -> bool {
        entry_order(key, stamp, self.key, self.stamp) == Ordering::Less
    }
    /// A copy that owns its key.
    pub fn to_owned(&self) -> OwnedBound {
        OwnedBound {
            key: self.key.to_vec(),
            stamp: self.stamp,
        }
    }
    /// Bytes of the cell that holds this bound.
    pub fn cell_bytes(&self) -> usize {
        InnerCell::BYTES + self.stamp_bytes() + self.key.len()
    }
    pub(crate) fn stamp_bytes(&self) -> usize {
        if self.stamp == Lsn::MAX { 0 } else { 8 }
    }
}

/// A [`Bound`] that owns its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedBound {
    /// The key.
    pub key: Vec<u8>,
    /// As in [`Bound`].
    pub stamp: Lsn,
}

impl OwnedBound {
    /// The bound, borrowed.
    pub fn as_bound(&self) -> Bound<'_> {
        Bound {
            key: &self.key,
            stamp: self.stamp,
        }
    }
}

/// Order of entries: key ascending, then stamp descending (N1).
#[inline]
pub fn entry_order(key_a: &[u8], stamp_a: Lsn, key_b: &[u8], stamp_b: Lsn) -> Ordering {
    key_a.cmp(key_b).then(stamp_b.cmp(&stamp_a))
}

/// Where a value that is too large for its leaf lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverflowStub {
    /// Block of the first piece.
    pub first: BlockNo,
    /// Number of pieces.
    pub pages: u32,
    /// Length of the whole value.
    pub value_bytes: u32,
    /// CRC-32C over the whole value.
    pub crc: u32,
}

impl OverflowStub {
    /// Whether a value can lie so: its length is one that values have, and the pieces go with it. To
    /// be asked before room is made for what a stub announces.
    pub fn is_plausible(&self) -> bool {
        let bytes = self.value_bytes as usize;
        bytes <= VALUE_BYTES_CEILING && self.pages as usize == crate::overflow::pages_for(bytes)
    }
}

/// What a version says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// The key is deleted.
    Tombstone,
    /// The value, here.
    Inline(&'a [u8]),
    /// The value, in overflow pages.
    Overflow(OverflowStub),
}

impl Payload<'_> {
    /// Bytes that it takes in a cell.
    #[inline]
    pub fn cell_bytes(&self) -> usize {
        match self {
            Payload::Tombstone => 0,
            Payload::Inline(value) => value.len(),
            Payload::Overflow(_) => OverflowStubCell::BYTES,
        }
    }
    /// Length of the value, wherever it lies; 0 for a tombstone.
    #[inline]
    pub fn value_bytes(&self) -> u32 {
        match self {
            Payload::Tombstone => 0,
            Payload::Inline(value) => value.len() as u32,
            Payload::Overflow(stub) => stub.value_bytes,
        }
    }
    #[inline]
    pub(crate) fn flags(&self) -> u8 {
        match self {
            Payload::Tombstone => cell_flags::TOMBSTONE,
            Payload::Inline(_) => 0,
            Payload::Overflow(_) => cell_flags::OVERFLOW,
        }
    }
}

/// One version of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafEntry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// End LSN of the record that wrote the version.
    pub stamp: Lsn,
    /// When the value ends to be there, in milliseconds since 1970.
    pub expiry_ms: Option<u64>,
    /// The value, or that there is none.
    pub payload: Payload<'a>,
}

impl LeafEntry<'_> {
    /// What a damaged cell reads as on the hot path; `verify` names it beforehand.
    pub(crate) const NOTHING: LeafEntry<'static> = LeafEntry {
        key: &[],
        stamp: Lsn::ZERO,
        expiry_ms: None,
        payload: Payload::Tombstone,
    };

    /// Bytes of its cell, without the slot.
    #[inline]
    pub fn cell_bytes(&self) -> usize {
        let expiry = if self.expiry_ms.is_some() { 8 } else { 0 };
        LeafCell::BYTES + expiry + self.key.len() + self.payload.cell_bytes()
    }
    /// Whether the version deletes its key.
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        matches!(self.payload, Payload::Tombstone)
    }
    /// Whether the version owns overflow pages.
    #[inline]
    pub fn owns_overflow(&self) -> bool {
        matches!(self.payload, Payload::Overflow(_))
    }
    pub(crate) fn flags(&self) -> u8 {
        let expires = if self.expiry_ms.is_some() {
            cell_flags::EXPIRES
        } else {
            0
        };
        self.payload.flags() | expires
    }
}

/// Whether a value of `value_bytes` under a key of `key_bytes` stays in the leaf.
#[inline]
pub const fn stays_inline(key_bytes: usize, value_bytes: usize) -> bool {
    key_bytes.saturating_add(value_bytes) <= INLINE_BYTES_MAX
}

/// The cell does not fit, even if the page were compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} bytes do not fit the {free} free bytes of the page")]
pub struct NoRoom {
    /// Bytes that the change needs, slot included.
    pub needed: usize,
    /// Bytes that the page has, garbage included.
    pub free: usize,
}

/// How the inside of a page contradicts itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Pages of this kind do not lie at this block.
    #[error("a {0} page does not belong at this block")]
    Misplaced(&'static str),
    /// The meta page is another file's.
    #[error("its meta page says that it is file {says}")]
    OtherFile {
        /// The number it gives.
        says: FileNo,
    },
    /// The meta page speaks of another page size.
    #[error("its meta page says that pages have {says} bytes, not {PAGE_BYTES}")]
    PageSize {
        /// The size it gives.
        says: u32,
    },
    /// An overflow page says it holds more than fits, or less than a full piece before the last.
    #[error("an overflow page says that it holds {used} bytes of data")]
    OverflowUsed {
        /// The length it gives.
        used: usize,
    },
    /// The level does not go with the kind.
    #[error("level {level} does not go with a {kind} page")]
    Level {
        /// "leaf" or "inner".
        kind: &'static str,
        /// The level found.
        level: u8,
    },
    /// Slot count, lower and upper contradict each other.
    #[error("{count} slots, lower {lower} and upper {upper} contradict each other")]
    SlotArea {
        /// Number of slots.
        count: usize,
        /// End of the slots.
        lower: usize,
        /// Start of the cells.
        upper: usize,
    },
    /// A cell does not fit where its slot says that it is, or its fields contradict each other.
    #[error("the cell of slot {slot} at offset {offset} is no cell")]
    Cell {
        /// The slot.
        slot: usize,
        /// Where it points.
        offset: usize,
    },
    /// The high-key cell is none.
    #[error("the high key at offset {offset} is no cell")]
    HighKey {
        /// Where the header points.
        offset: usize,
    },
    /// Two cells, or a cell and the high key, share bytes.
    #[error("the cell at offset {offset} overlaps another")]
    Overlap {
        /// Where the second of them begins.
        offset: usize,
    },
    /// An entry is not after the one before it.
    #[error("slot {slot} is out of order")]
    Order {
        /// The later of the two slots.
        slot: usize,
    },
    /// A slot's head is not its key's, or the key lacks the page's common prefix.
    #[error("slot {slot} holds a head that is not its key's")]
    Head {
        /// The slot.
        slot: usize,
    },
    /// An entry is not below the page's high key.
    #[error("slot {slot} is not below the high key")]
    AboveHighKey {
        /// The slot.
        slot: usize,
    },
    /// Cells and garbage do not add up to what lies between upper and the end of the page.
    #[error("{cells} bytes of cells and {garbage} of garbage do not fill {area} bytes")]
    Space {
        /// Bytes of live cells, the high key's included.
        cells: usize,
        /// Bytes said to be dead.
        garbage: usize,
        /// Bytes from upper to the end of the page.
        area: usize,
    },
    /// An inner page without its first cell, or whose first cell is not minus infinity.
    #[error("an inner page does not begin with a child from minus infinity")]
    FirstChild,
}
