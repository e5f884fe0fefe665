//! Bitmap pages: which blocks of a relation file are in use (bit set = in use).
//!
//! Invariants:
//! - A relation file is cut into regions of [`BITMAP_BITS`] blocks. The bitmap of a region lies
//!   inside it: at block 1 of the first (block 0 is the meta page), at the first block of the
//!   others. Bit `b` of the bitmap of region `r` speaks of block `r * BITMAP_BITS + b`.
//! - Bits of meta pages, bitmap pages and the root are set from the start.

use crate::node::NodeError;
use crate::page::{self, PageBytes, PageKind};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, PageTag};

/// Where the bits begin; what lies between the header and this is reserved.
pub const BITMAP_START: usize = 64;
/// Blocks that one bitmap page speaks of.
pub const BITMAP_BITS: u32 = ((PAGE_BYTES - BITMAP_START) * 8) as u32;
/// The meta page of each relation file.
pub const META_BLOCK: BlockNo = BlockNo::new(0);
/// The bitmap of the first region.
pub const FIRST_BITMAP_BLOCK: BlockNo = BlockNo::new(1);
/// The root of each tree; it never moves.
pub const ROOT_BLOCK: BlockNo = BlockNo::new(2);

const _: () = assert!(BITMAP_START >= page::PageHeader::BYTES && BITMAP_BITS.is_multiple_of(64));

/// The bitmap page that speaks of `block`, and the bit in it.
pub fn covering(block: BlockNo) -> (BlockNo, u32) {
    let region = block.get() / BITMAP_BITS;
    (bitmap_of_region(region), block.get() % BITMAP_BITS)
}

/// Where the bitmap of a region lies. `region` is at most `u32::MAX / BITMAP_BITS`.
pub fn bitmap_of_region(region: u32) -> BlockNo {
    match region {
        0 => FIRST_BITMAP_BLOCK,
        _ => BlockNo::new(region.saturating_mul(BITMAP_BITS)),
    }
}

/// Whether `block` is a bitmap page by its place.
pub fn is_bitmap_block(block: BlockNo) -> bool {
    covering(block).0 == block
}

/// The block that `bit` of the bitmap at `bitmap` speaks of; `None` past the last block number.
pub fn block_of(bitmap: BlockNo, bit: u32) -> Option<BlockNo> {
    let region = bitmap.get() / BITMAP_BITS;
    region
        .checked_mul(BITMAP_BITS)?
        .checked_add(bit)
        .map(BlockNo::new)
}

/// Makes `page` the bitmap that lies at `block`, with the bits set that are in use from birth:
/// its own, and for the first region those of the meta page and the root.
pub fn init(page: &mut PageBytes, block: BlockNo) {
    page::init(page, PageKind::Bitmap);
    let (_, own) = covering(block);
    set(page, own);
    if block == FIRST_BITMAP_BLOCK {
        set(page, META_BLOCK.get());
        set(page, ROOT_BLOCK.get());
    }
}

/// Whether the block behind `bit` is in use. A bit out of range counts as in use.
pub fn is_set(page: &PageBytes, bit: u32) -> bool {
    page.get(byte_of(bit))
        .is_none_or(|byte| byte & mask_of(bit) != 0)
}

/// Whether the block behind `bit`, or one after it in the same region, is in use.
pub fn is_any_set_from(page: &PageBytes, bit: u32) -> bool {
    let of_first = page
        .get(byte_of(bit))
        .is_some_and(|byte| byte & (u8::MAX << (bit % 8)) != 0);
    let after = page.get(byte_of(bit) + 1..).unwrap_or(&[]);
    of_first || after.iter().any(|byte| *byte != 0)
}

/// Marks the block behind `bit` as in use; true if it was free. Out of range: no change.
pub fn set(page: &mut PageBytes, bit: u32) -> bool {
    change(page, bit, true)
}

/// Marks the block behind `bit` as free; true if it was in use. Out of range: no change.
pub fn clear(page: &mut PageBytes, bit: u32) -> bool {
    change(page, bit, false)
}

fn change(page: &mut PageBytes, bit: u32, to: bool) -> bool {
    let Some(byte) = page.get_mut(byte_of(bit)) else {
        return false;
    };
    let was = *byte & mask_of(bit) != 0;
    if to {
        *byte |= mask_of(bit);
    } else {
        *byte &= !mask_of(bit);
    }
    was != to
}

/// The first bit at or after `from`, and below `end`, that is clear.
pub fn find_clear(page: &PageBytes, from: u32, end: u32) -> Option<u32> {
    let end = end.min(BITMAP_BITS);
    let (words, _) = page[BITMAP_START..].as_chunks::<8>();
    let first = (from / 64) as usize;
    for (index, word) in words.iter().enumerate().skip(first) {
        let mut free = !u64::from_le_bytes(*word);
        if index == first {
            free &= u64::MAX << (from % 64);
        }
        if free != 0 {
            let bit = index as u32 * 64 + free.trailing_zeros();
            return (bit < end).then_some(bit);
        }
        if (index as u32 + 1) * 64 >= end {
            return None;
        }
    }
    None
}

/// How many bits are set: blocks in use.
pub fn count(page: &PageBytes) -> u32 {
    let (words, _) = page[BITMAP_START..].as_chunks::<8>();
    words
        .iter()
        .map(|word| u64::from_le_bytes(*word).count_ones())
        .sum()
}

/// Checks that a bitmap page may lie at `tag`.
pub(crate) fn verify(tag: PageTag) -> Result<(), NodeError> {
    if is_bitmap_block(tag.block) {
        Ok(())
    } else {
        Err(NodeError::Misplaced("bitmap"))
    }
}

fn byte_of(bit: u32) -> usize {
    BITMAP_START + (bit / 8) as usize
}

fn mask_of(bit: u32) -> u8 {
    1 << (bit % 8)
}
