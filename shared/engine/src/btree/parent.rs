//! Telling parents of splits, and splitting the root.
//!
//! Whoever finishes a split (T3):
//! 1. latches the left page, which has the mark; its high key is the bound and its right link the
//!    child that the parent does not know;
//! 2. descends from the root to the level above (one shared latch at a time, so nobody who holds a
//!    parent and waits to its right or upwards can wait for us in turn) and latches the parent;
//! 3. if there is room: one record adds the child and clears the mark;
//! 4. else lets go of the left page, cuts the parent (its own parent is told in the same way,
//!    later) and begins anew.

use super::Tree;
use super::alloc::Blocks;
use crate::change::{CriticalChange, credit_of};
use crate::error::Result;
use crate::work::Work;
use rd_base::BlockNo;
use rd_base::counters::Counter;
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::node::{Incoming, SplitPlan, split, split_point};
use rd_format::page::{PageKind, flags, header};
use rd_format::wal_record::{PageOp, RecordKind};
use rd_format::{NodeMut, NodeRef};
use rd_store::buffer::PinnedWrite;

/// Finishes the split that has left its mark on `block`, if it is still there.
///
/// # Errors
/// When there is no credit or no free block: the mark stays, and the tree is as good as before.
pub(crate) fn finish_split(tree: Tree<'_>, work: &mut Work, block: BlockNo) -> Result<()> {
    while !finish_once(tree, work, block)? {}
    Ok(())
}

/// One round; true if the split is finished (or was already), false if its parent was cut.
fn finish_once(tree: Tree<'_>, work: &mut Work, block: BlockNo) -> Result<bool> {
    let mut left = tree.fetch(block)?.into_write();
    if !has_mark(&left) {
        return Ok(true);
    }
    let node = NodeRef::new(&left);
    let (Some(bound), Some(child)) = (node.high_key(), node.right_link()) else {
        return Err(tree.broken(block, "the mark of a split on the last page of a level"));
    };
    let bound = bound.to_owned();
    let level = node.level() + 1;
    let bound = bound.as_bound();
    let mut parent = tree.page_for_write(bound.key, bound.stamp, level, &mut work.marks)?;
    let node = NodeRef::new(&parent);
    if !node.fits(bound.cell_bytes()) {
        drop(left);
        let incoming = Incoming {
            key: bound.key,
            stamp: bound.stamp,
            cell_bytes: bound.cell_bytes(),
        };
        let plan = split_point(&node, Some(incoming)).ok_or_else(|| {
            tree.broken(
                parent.tag().block,
                "a full inner page has no place to be cut",
            )
        })?;
        tree.store.count(Counter::InnerSplits);
        if parent.tag().block == ROOT_BLOCK {
            let _children = split_root(tree, work, &mut parent, &plan)?;
        } else {
            let _right = tree.split_page(work, &mut parent, &plan)?;
        }
        return Ok(false);
    }
    let record = &mut work.record;
    record.start(RecordKind::ParentInsert, work.now_us);
    record.block(left.tag());
    record.op(&PageOp::ChangeFlags {
        set: 0,
        clear: flags::SPLIT_INCOMPLETE,
    });
    record.block(parent.tag());
    record.op(&PageOp::InsertChild { bound, child });
    let credit = credit_of(tree.store, record)?;
    let mut change = CriticalChange::begin(tree.store);
    change.mark(&left);
    change.mark(&parent);
    change.insert(record, credit, |_| {});
    NodeMut::new(&mut left).change_flags(0, flags::SPLIT_INCOMPLETE);
    NodeMut::new(&mut parent)
        .insert_inner(bound, child)
        .expect("it fits, by the same latch");
    change.stamp(&mut left);
    change.stamp(&mut parent);
    change.finish();
    Ok(true)
}

fn has_mark(page: &PinnedWrite<'_>) -> bool {
    let header = header(page);
    let in_tree = header.kind == PageKind::Leaf as u8 || header.kind == PageKind::Inner as u8;
    in_tree
        && header.flags.get() & (flags::SPLIT_INCOMPLETE | flags::GONE) == flags::SPLIT_INCOMPLETE
}

/// Gives the root's content to two new pages, cut as planned, and makes the root their parent (T4).
///
/// # Errors
/// When there is no credit or no free block; nothing has happened then.
pub(crate) fn split_root<'s>(
    tree: Tree<'s>,
    work: &mut Work,
    root: &mut PinnedWrite<'s>,
    plan: &SplitPlan,
) -> Result<(PinnedWrite<'s>, PinnedWrite<'s>)> {
    debug_assert_eq!(root.tag().block, ROOT_BLOCK);
    let blocks = Blocks::find(tree, work, 2)?;
    let (left_block, right_block) = (blocks.blocks()[0], blocks.blocks()[1]);
    let level = NodeRef::new(root).level() + 1;
    work.left_image.copy_from_slice(&root[..]);
    split(
        &mut work.left_image,
        &mut work.right_image,
        plan,
        right_block,
    );
    let mark = flags::ROOT | flags::SPLIT_INCOMPLETE;
    NodeMut::new(&mut work.left_image).change_flags(0, mark);
    NodeMut::new(&mut work.right_image).change_flags(0, mark);
    let mut new_root = NodeMut::init_inner(&mut work.root_image, level, left_block);
    new_root
        .insert_inner(plan.separator.as_bound(), right_block)
        .expect("the page is empty");
    new_root.change_flags(flags::ROOT, 0);

    let record = &mut work.record;
    record.start(RecordKind::RootSplit, work.now_us);
    record.block(tree.tag(left_block));
    record.image(&work.left_image);
    record.block(tree.tag(right_block));
    record.image(&work.right_image);
    record.block(root.tag());
    record.image(&work.root_image);
    blocks.log(record);
    let credit = credit_of(tree.store, record)?;
    let mut left = tree.fetch_new(left_block).into_write();
    let mut right = tree.fetch_new(right_block).into_write();

    let mut change = CriticalChange::begin(tree.store);
    change.mark(&left);
    change.mark(&right);
    change.mark(root);
    blocks.mark(&change);
    change.insert(record, credit, |_| {});
    left.copy_from_slice(&work.left_image[..]);
    right.copy_from_slice(&work.right_image[..]);
    root.copy_from_slice(&work.root_image[..]);
    change.stamp(&mut left);
    change.stamp(&mut right);
    change.stamp(root);
    blocks.apply(&change);
    change.finish();
    Ok((left, right))
}
