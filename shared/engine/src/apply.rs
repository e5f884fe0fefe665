//! What a record's operations do to a page: one meaning for the server that runs and for redo.
//!
//! Invariants:
//! - **A1** A page changes by a record exactly once: redo applies a block where the page LSN is
//!   below the record's end, and every change ends by setting the page LSN to it.
//! - **A2** The running page never holds less than redo's at the same LSN needs: what the running
//!   server drops without a record (pruning) redo can drop too, and does when it needs room. So an
//!   operation that fitted the running page fits here.
//! - **A3** A tombstone that redo has dropped while the running page still had it, with the older
//!   versions that it hides (a snapshot needed them), has nothing left to hide, then or later:
//!   - on its own page they went before it (`NodeMut::redo_make_room`), and it stays where the high
//!     key says that there may be some to the right. That high key is the running page's: where a
//!     new one has to wait for room, it lies before another key, and so does all behind it;
//!   - operations bring no older version back. An upsert is its key's newest; a version that goes
//!     by a record takes with it what the running page may have dropped, and is never the newest,
//!     or a tombstone of which nothing is left to the right but what another tombstone hides;
//!   - images do, but then redo's page is of no account. Leaves that are joined, and both children
//!     of a root, are logged whole. So are both halves of a leaf that is cut between two versions
//!     of a key; where it is cut between two keys, all versions of each are on one side, and those
//!     on the right are what the running page had.

use rd_base::{Lsn, PageTag};
use rd_format::node::{NoRoom, NodeMut, NodeRef};
use rd_format::page::{self, PageBytes, PageError, PageKind};
use rd_format::wal_record::{BlockView, PageOp, RecordError};
use rd_format::{Bound, bitmap};

/// A record that does not go with the page it names.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The page is of a kind that the operation does not work on.
    #[error("{tag} is a {found} page, on which {op} makes no sense")]
    Kind {
        /// The page.
        tag: PageTag,
        /// What it is.
        found: &'static str,
        /// The operation.
        op: &'static str,
    },
    /// The page has no room although the running server had.
    #[error("{tag} has no room for {op}: {room}")]
    NoRoom {
        /// The page.
        tag: PageTag,
        /// The operation.
        op: &'static str,
        /// By how much.
        room: NoRoom,
    },
    /// An inner page has no entry with the bound that the operation names.
    #[error("{tag} has no child with the bound that {op} names")]
    NoChild {
        /// The page.
        tag: PageTag,
        /// The operation.
        op: &'static str,
    },
    /// What the operation is to add is there: two entries alike would be a damaged page.
    #[error("{tag} has already what {op} is to bring")]
    Exists {
        /// The page.
        tag: PageTag,
        /// The operation.
        op: &'static str,
    },
    /// A bit was what the operation was to make it.
    #[error("bit {bit} of the bitmap at {tag} was changed already")]
    Bit {
        /// The bitmap page.
        tag: PageTag,
        /// The bit.
        bit: u32,
    },
    /// The record's bytes make no sense.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// The page that the record carries is none.
    #[error("the record carries a page that is none: {0}")]
    Image(#[from] PageError),
}

/// Redoes `block` of the record that ends at `end` on its page. The caller has seen that the page
/// LSN is below `end`, or that the block carries the whole page.
///
/// # Errors
/// When record and page contradict each other; the page is then of no use.
pub fn redo_block(page: &mut PageBytes, block: &BlockView<'_>, end: Lsn) -> Result<(), ApplyError> {
    if let Some(image) = &block.image {
        image.restore(page);
        // Operations, and whoever reads the page later, rely on what is checked here.
        page::verify_image(page, block.tag)?;
    }
    for op in block.ops() {
        let op = op?;
        match apply_op(page, block.tag, &op, end) {
            Err(ApplyError::NoRoom { .. }) if is_leaf(page) => {
                NodeMut::new(page).redo_make_room();
                apply_op(page, block.tag, &op, end)?;
            }
            done => done?,
        }
    }
    page::set_page_lsn(page, end);
    Ok(())
}

/// Does one operation of a record that ends at `end` to `page`, which lies at `tag`. The page LSN
/// is left to the caller.
///
/// # Errors
/// When operation and page contradict each other. [`ApplyError::NoRoom`] can be tried again once
/// there is room.
pub fn apply_op(
    page: &mut PageBytes,
    tag: PageTag,
    op: &PageOp<'_>,
    end: Lsn,
) -> Result<(), ApplyError> {
    let name = op_name(op);
    check_kind(page, tag, op, name)?;
    let no_room = |room| ApplyError::NoRoom {
        tag,
        op: name,
        room,
    };
    match *op {
        PageOp::Upsert(upsert) => {
            NodeMut::new(page)
                .insert_leaf_if_new(&upsert.stamped(end))
                .map_err(no_room)?
                .ok_or(ApplyError::Exists { tag, op: name })?;
        }
        PageOp::RemoveVersion { key, stamp } => {
            remove_version(page, key, stamp);
        }
        PageOp::SplitLeft { bound, right } => {
            NodeMut::new(page)
                .split_left(bound, right)
                .map_err(no_room)?;
        }
        PageOp::InsertChild { bound, child } => {
            if child_slot(page, bound).is_some() {
                return Err(ApplyError::Exists { tag, op: name });
            }
            NodeMut::new(page)
                .insert_inner(bound, child)
                .map_err(no_room)?;
        }
        PageOp::RemoveChild { bound } => {
            let slot = child_slot(page, bound).filter(|slot| *slot > 0);
            NodeMut::new(page).remove(slot.ok_or(ApplyError::NoChild { tag, op: name })?);
        }
        PageOp::SetChild { bound, child } => {
            let slot = child_slot(page, bound).ok_or(ApplyError::NoChild { tag, op: name })?;
            NodeMut::new(page).set_child(slot, child);
        }
        PageOp::SetRightLink { right } => {
            page::header_mut(page)
                .right_link
                .set(right.map_or(0, |block| block.get()));
        }
        PageOp::ChangeFlags { set, clear } => NodeMut::new(page).change_flags(set, clear),
        PageOp::SetBit(bit) if bitmap::set(page, bit) => {}
        PageOp::ClearBit(bit) if bitmap::clear(page, bit) => {}
        PageOp::SetBit(bit) | PageOp::ClearBit(bit) => return Err(ApplyError::Bit { tag, bit }),
    }
    Ok(())
}

/// Drops a version; redo may have done so before, if it owned no overflow pages.
///
/// Older ones on the page go with it (A2): the running server may have pruned them already, and
/// once nothing newer is left here redo could not tell that it may, too.
fn remove_version(page: &mut PageBytes, key: &[u8], stamp: Lsn) {
    let versions = NodeRef::new(page).versions_of(key);
    let slot = NodeRef::new(page).lower_bound(key, stamp);
    if versions.contains(&slot) && NodeRef::new(page).key_and_stamp(slot).1 == stamp {
        let mut node = NodeMut::new(page);
        node.prune_slots(slot + 1..versions.end, |newer, _, _| newer.is_some());
        node.remove(slot);
    }
}

/// The slot of the child with exactly this lower bound.
///
/// The first child's is the bound before all keys. The empty key with a stamp is another one: it
/// stands between two versions of the empty key, which is a key like any other.
fn child_slot(page: &PageBytes, bound: Bound<'_>) -> Option<usize> {
    if bound == Bound::before_key(&[]) {
        return Some(0);
    }
    let node = NodeRef::new(page);
    let slot = node.lower_bound(bound.key, bound.stamp);
    let exact = slot < node.count() && node.key_and_stamp(slot) == (bound.key, bound.stamp);
    exact.then_some(slot)
}

fn is_leaf(page: &PageBytes) -> bool {
    page::kind(page) == Some(PageKind::Leaf)
}

fn check_kind(
    page: &PageBytes,
    tag: PageTag,
    op: &PageOp<'_>,
    name: &'static str,
) -> Result<(), ApplyError> {
    let kind = page::kind(page);
    let fits = match op {
        PageOp::Upsert(_) | PageOp::RemoveVersion { .. } => kind == Some(PageKind::Leaf),
        PageOp::InsertChild { .. } | PageOp::RemoveChild { .. } | PageOp::SetChild { .. } => {
            kind == Some(PageKind::Inner)
        }
        PageOp::SplitLeft { .. } | PageOp::ChangeFlags { .. } => {
            matches!(kind, Some(PageKind::Leaf | PageKind::Inner))
        }
        PageOp::SetRightLink { .. } => {
            matches!(
                kind,
                Some(PageKind::Leaf | PageKind::Inner | PageKind::Bitmap)
            )
        }
        PageOp::SetBit(_) | PageOp::ClearBit(_) => kind == Some(PageKind::Bitmap),
    };
    if fits {
        return Ok(());
    }
    Err(ApplyError::Kind {
        tag,
        found: kind.map_or("damaged", PageKind::name),
        op: name,
    })
}

fn op_name(op: &PageOp<'_>) -> &'static str {
    match op {
        PageOp::Upsert(_) => "adding a version",
        PageOp::RemoveVersion { .. } => "dropping a version",
        PageOp::SplitLeft { .. } => "cutting the page in two",
        PageOp::InsertChild { .. } => "adding a child",
        PageOp::RemoveChild { .. } => "dropping a child",
        PageOp::SetChild { .. } => "replacing a child",
        PageOp::SetRightLink { .. } => "setting the right link",
        PageOp::ChangeFlags { .. } => "changing flags",
        PageOp::SetBit(_) => "taking a block",
        PageOp::ClearBit(_) => "freeing a block",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::limits::PAGE_BYTES;
    use rd_base::{BlockNo, FileNo};
    use rd_format::node::LeafEntry;
    use rd_format::wal_record::Upsert;
    use rd_format::{OverflowStub, Payload};

    /// The running page has pruned "k" 10 before; then 30, whose newer one is on the left, goes by
    /// a record.
    #[test]
    fn a_version_takes_those_with_it_that_only_it_supersedes() {
        let tag = PageTag::new(FileNo::new(2), BlockNo::new(2));
        let mut page = [0; PAGE_BYTES];
        let mut node = NodeMut::init_leaf(&mut page);
        let stub = OverflowStub {
            first: BlockNo::new(9),
            pages: 1,
            value_bytes: 3000,
            crc: 0,
        };
        let large = Payload::Overflow(stub);
        for (key, stamp, payload) in [
            (&b"j"[..], 15, Payload::Inline(b"newest")),
            (b"k", 30, Payload::Inline(b"first here")),
            (b"k", 20, large),
            (b"k", 10, Payload::Tombstone),
            (b"k", 5, Payload::Inline(b"old")),
            (b"l", 7, Payload::Inline(b"newest")),
        ] {
            let entry = LeafEntry {
                key,
                stamp: Lsn::new(stamp),
                expiry_ms: None,
                payload,
            };
            node.insert_leaf(&entry).expect("there is room");
        }
        let stamps = |page: &PageBytes| {
            let node = NodeRef::new(page);
            let stamp = |slot| node.key_and_stamp(slot).1.get();
            (0..node.count()).map(stamp).collect::<Vec<_>>()
        };
        let remove = |stamp| PageOp::RemoveVersion {
            key: b"k",
            stamp: Lsn::new(stamp),
        };
        for (stamp, left) in [
            (25, &[15, 30, 20, 10, 5, 7][..]),
            (30, &[15, 20, 7]),
            (10, &[15, 20, 7]),
            (20, &[15, 7]),
        ] {
            apply_op(&mut page, tag, &remove(stamp), Lsn::new(100)).expect("it can be done");
            assert_eq!(stamps(&page), left, "without {stamp}");
        }
    }

    #[test]
    fn a_bound_between_two_versions_of_the_empty_key_is_not_the_first_child() {
        let tag = PageTag::new(FileNo::new(2), BlockNo::new(2));
        let mut page = [0; PAGE_BYTES];
        let (key, end) = (&b""[..], Lsn::new(100));
        let mut node = NodeMut::init_inner(&mut page, 1, BlockNo::new(5));
        let stamps = [9, 5].map(Lsn::new);
        for (stamp, child) in stamps.iter().zip([6, 7].map(BlockNo::new)) {
            let bound = Bound { key, stamp: *stamp };
            node.insert_inner(bound, child).expect("there is room");
        }
        let children = |page: &PageBytes| {
            let node = NodeRef::new(page);
            let child = |slot| node.inner_entry(slot).1.get();
            (0..node.count()).map(child).collect::<Vec<_>>()
        };
        let set = |stamp, child| PageOp::SetChild {
            bound: Bound { key, stamp },
            child: BlockNo::new(child),
        };
        apply_op(&mut page, tag, &set(stamps[1], 70), end).expect("it is there");
        assert_eq!(children(&page), [5, 6, 70]);
        apply_op(&mut page, tag, &set(Lsn::MAX, 50), end).expect("the first child");
        assert_eq!(children(&page), [50, 6, 70]);
        let remove = |stamp| PageOp::RemoveChild {
            bound: Bound { key, stamp },
        };
        apply_op(&mut page, tag, &remove(stamps[0]), end).expect("it is there");
        assert_eq!(children(&page), [50, 70]);
        for absent in [stamps[0], Lsn::MAX] {
            let refused = apply_op(&mut page, tag, &remove(absent), end);
            assert!(matches!(refused, Err(ApplyError::NoChild { .. })));
        }
    }

    #[test]
    fn what_is_there_is_not_added_again() {
        let tag = PageTag::new(FileNo::new(2), BlockNo::new(2));
        let end = Lsn::new(100);
        let mut page = [0; PAGE_BYTES];
        NodeMut::init_leaf(&mut page);
        let upsert = PageOp::Upsert(Upsert {
            key: b"k",
            expiry_ms: None,
            payload: Payload::Inline(b"value"),
        });
        apply_op(&mut page, tag, &upsert, end).expect("it is new");
        let before = page;
        let refused = apply_op(&mut page, tag, &upsert, end);
        assert!(matches!(refused, Err(ApplyError::Exists { .. })));
        assert!(page == before);
        apply_op(&mut page, tag, &upsert, Lsn::new(101)).expect("a newer version");

        NodeMut::init_inner(&mut page, 1, BlockNo::new(5));
        for bound in [Bound::before_key(b"m"), Bound::before_key(b"")] {
            let child = PageOp::InsertChild {
                bound,
                child: BlockNo::new(6),
            };
            if !bound.key.is_empty() {
                apply_op(&mut page, tag, &child, end).expect("it is new");
            }
            let refused = apply_op(&mut page, tag, &child, end);
            assert!(matches!(refused, Err(ApplyError::Exists { .. })));
        }
    }
}
