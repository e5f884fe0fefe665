//! Values that are too large for their leaf: chains of overflow pages.
//!
//! Invariants:
//! - A chain is written whole by the commit that makes its version, and never changes.
//! - Its version owns it. The blocks are free again by the same record that drops the version,
//!   which nobody can ask for any more then; so whoever may ask for the version can read the chain
//!   without a latch on the leaf.
//! - A chain that was read is the version's if the version is still there afterwards.

use crate::btree::Tree;
use crate::error::{EngineError, Result};
use rd_base::BlockNo;
use rd_base::room::make_room;
use rd_format::OverflowStub;
use rd_format::overflow::{self, OVERFLOW_DATA_BYTES, pages_for};
use rd_format::page::{self, PageKind};

/// Appends the value behind `stub` to `out`. The caller holds what keeps its version: a published
/// snapshot that sees it, or the latch of its leaf.
///
/// # Errors
/// When a page cannot be read, or the chain is not the value's.
pub(crate) fn read(tree: Tree<'_>, stub: &OverflowStub, out: &mut Vec<u8>) -> Result<()> {
    check(tree, stub)?;
    let start = out.len();
    let bytes = stub.value_bytes as usize;
    make_room(out, bytes).map_err(|_| EngineError::no_memory(bytes, "a value that is read"))?;
    walk(tree, stub, |_, data| out.extend_from_slice(data))?;
    if !is_whole(stub, &out[start..]) {
        out.truncate(start);
        return Err(tree.broken(
            stub.first,
            "the value that begins here is not what was written",
        ));
    }
    Ok(())
}

/// Refuses a stub of what no value is, before room is made for it.
fn check(tree: Tree<'_>, stub: &OverflowStub) -> Result<()> {
    if stub.is_plausible() {
        return Ok(());
    }
    let (bytes, pages) = (stub.value_bytes, stub.pages);
    let what = format!("a value of {bytes} bytes in {pages} pages would begin here");
    Err(tree.broken(stub.first, what))
}

/// The blocks of the chain behind `stub`; `None` if what is there is no such chain (any more).
///
/// # Errors
/// When a page cannot be read.
pub(crate) fn blocks_of(tree: Tree<'_>, stub: &OverflowStub) -> Result<Option<Vec<BlockNo>>> {
    check(tree, stub)?;
    let mut blocks = Vec::with_capacity(stub.pages as usize);
    match walk(tree, stub, |block, _| blocks.push(block)) {
        Ok(()) => Ok(Some(blocks)),
        Err(EngineError::Tree { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Visits the pieces of a chain, in order.
fn walk(tree: Tree<'_>, stub: &OverflowStub, mut visit: impl FnMut(BlockNo, &[u8])) -> Result<()> {
    let mut block = stub.first;
    for sequence in 0..stub.pages {
        let page = tree.fetch(block)?.into_read();
        if page::kind(&page) != Some(PageKind::Overflow) || overflow::sequence(&page) != sequence {
            let what = format!("piece {sequence} of a value is not where its predecessor says");
            return Err(tree.broken(block, what));
        }
        visit(block, overflow::data(&page));
        block = match (overflow::next(&page), sequence + 1 == stub.pages) {
            (Some(next), false) => next,
            (None, true) => return Ok(()),
            _ => return Err(tree.broken(block, "the chain of a value has the wrong length")),
        };
    }
    Err(tree.broken(stub.first, "a value without pieces"))
}

/// Whether `value` is what `stub` stands for.
pub(crate) fn is_whole(stub: &OverflowStub, value: &[u8]) -> bool {
    value.len() == stub.value_bytes as usize && crc32c::crc32c(value) == stub.crc
}

/// The stub of `value` that will lie in `blocks`.
pub(crate) fn stub_for(value: &[u8], blocks: &[BlockNo]) -> OverflowStub {
    debug_assert_eq!(blocks.len(), pages_for(value.len()));
    OverflowStub {
        first: blocks[0],
        pages: blocks.len() as u32,
        value_bytes: value.len() as u32,
        crc: crc32c::crc32c(value),
    }
}

/// The pieces of `value` in `blocks`: sequence, block, next block, data.
pub(crate) fn pieces<'a>(
    value: &'a [u8],
    blocks: &'a [BlockNo],
) -> impl Iterator<Item = (u32, BlockNo, Option<BlockNo>, &'a [u8])> {
    let data = value.chunks(OVERFLOW_DATA_BYTES);
    let pieces = blocks.iter().zip(data).enumerate();
    pieces
        .map(|(index, (block, data))| (index as u32, *block, blocks.get(index + 1).copied(), data))
}
