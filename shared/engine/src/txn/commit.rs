//! From staged writes to one record.
//!
//! Order (DESIGN 6), all of it under the exclusive latches of the leaves:
//! 1. what is staged becomes a list of versions, with by how many keys the file grows;
//! 2. room on the leaves, by pruning and splits ([`crate::btree::insert`]), for which the commit may
//!    have to wait once ([`crate::btree::room`]);
//! 3. blocks for large values, found and latched in their bitmap pages;
//! 4. the record, and credit for it: up to here everything may fail and nothing has happened (but
//!    splits, which stand for themselves);
//! 5. the change ([`crate::change`]): marks, the record, the versions stamped with its end;
//! 6. what is left over is noted, to be tidied up later.

use super::access::{Leaves, Staged, WriteSet, newest_on};
use super::write::PageClaim;
use crate::btree::Tree;
use crate::btree::alloc::Blocks;
use crate::btree::insert::Room;
use crate::btree::plan::{Arrival, bytes_of};
use crate::btree::room::Waiter;
use crate::change::{CriticalChange, credit_of, pass};
use crate::error::{EngineError, Result};
use crate::overflow;
use crate::work::Work;
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, Lsn};
use rd_format::node::{LeafEntry, stays_inline};
use rd_format::overflow::pages_for;
use rd_format::wal_record::{FileDelta, RECORD_BLOCKS_MAX, RECORD_BYTES_MAX, RecordKind, Upsert};
use rd_format::{NodeMut, NodeRef, OverflowStub, Payload};
use rd_store::Store;
use rd_store::buffer::PinnedWrite;
use rd_sys::fault::Fault;
use std::ops::Range;

/// A version that is about to be added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    /// Index of its key.
    key: u32,
    cell_bytes: u32,
    /// Pages that its value takes beside the leaf.
    pages: u32,
    /// The value's place in the arena; `None` deletes the key.
    value: Option<(usize, usize)>,
    expiry_ms: Option<u64>,
    /// Where the value will lie, if it is large.
    stub: Option<OverflowStub>,
    /// The version it supersedes owns overflow pages.
    frees: bool,
}

/// Versions that go to one leaf.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    leaf: usize,
    pending: Range<usize>,
}

impl Pending {
    /// Bytes that it takes in a record, at most.
    fn record_bytes(&self) -> u64 {
        u64::from(self.cell_bytes) + u64::from(self.pages) * (PAGE_BYTES as u64 + 64) + 64
    }

    fn upsert<'a>(&self, keys: &[&'a [u8]], arena: &'a [u8]) -> Upsert<'a> {
        let payload = match (self.stub, self.value) {
            (Some(stub), _) => Payload::Overflow(stub),
            (None, Some((at, bytes))) => Payload::Inline(&arena[at..at + bytes]),
            (None, None) => Payload::Tombstone,
        };
        Upsert {
            key: keys[self.key as usize],
            expiry_ms: self.expiry_ms,
            payload,
        }
    }

    fn arrival<'a>(&self, keys: &[&'a [u8]]) -> Arrival<'a> {
        Arrival {
            key: keys[self.key as usize],
            cell_bytes: self.cell_bytes as usize,
        }
    }
}

/// Commits what is staged in `set`. Returns the record's end, zero if nothing was staged.
///
/// # Errors
/// Nothing of it has happened then.
pub(crate) fn commit<'s>(
    tree: Tree<'s>,
    work: &mut Work,
    set: &mut WriteSet,
    keys: &[&[u8]],
    leaves: &mut Leaves<'s>,
    claim: &mut PageClaim<'s>,
) -> Result<Lsn> {
    let key_delta = list_pending(set, keys, leaves);
    if set.pending.is_empty() {
        return Ok(Lsn::ZERO);
    }
    refuse_if_read_only(tree.store)?;
    check_record_size(set)?;
    make_room(tree, work, set, keys, leaves, claim)?;
    let pages: usize = set
        .pending
        .iter()
        .map(|pending| pending.pages as usize)
        .sum();
    claim.reach((leaves.len() + pages) as u64)?;
    let blocks = if pages > 0 {
        Blocks::find(tree, work, pages)?
    } else {
        Blocks::none(tree)
    };
    place_large(set, blocks.blocks());
    build_record(tree, work, set, keys, leaves, &blocks, key_delta);
    let credit = credit_of(tree.store, &mut work.record)?;
    let mut large = frames_for(tree, &blocks);

    let mut change = CriticalChange::begin(tree.store);
    for part in &set.parts {
        change.mark(leaves.get(part.leaf));
    }
    large.iter().for_each(|page| change.mark(page));
    blocks.mark(&change);
    let shared = &tree.store.shared;
    let end = change.insert(&mut work.record, credit, |end| {
        shared
            .files
            .add_keys(tree.file, end, key_delta, || shared.wal.insert_lsn());
    });
    for part in &set.parts {
        let leaf = leaves.get_mut(part.leaf);
        let mut node = NodeMut::new(leaf);
        for pending in &set.pending[part.pending.clone()] {
            let entry = pending.upsert(keys, &set.arena).stamped(end);
            node.insert_leaf(&entry)
                .expect("room was made under this latch");
        }
        change.stamp(leaf);
        pass(Fault::CommitApplying);
    }
    fill_large(set, blocks.blocks(), &mut large, &change);
    blocks.apply(&change);
    change.finish();
    if let Some(soonest) = set.pending.iter().filter_map(|put| put.expiry_ms).min() {
        shared.expiry.note(&shared.procs, soonest);
    }

    if !work.room_waits.is_empty() {
        work.room_waits.done(waiter(&set.pending, keys));
    }
    tree.store.count(Counter::Commits);
    tree.store.add(Counter::OverflowPages, large.len() as u64);
    note_chores(tree, work, set, keys, leaves, end);
    Ok(end)
}

/// Makes the list of versions from what is staged, in key order. Returns by how many keys the file
/// grows.
fn list_pending(set: &mut WriteSet, keys: &[&[u8]], leaves: &Leaves<'_>) -> i64 {
    set.pending.clear();
    let mut key_delta = 0;
    for index in &set.order {
        let state = set.keys[*index as usize];
        if state.same_as != *index || state.staged == Staged::Nothing {
            continue;
        }
        let key = keys[*index as usize];
        let there = newest_on(leaves.get(state.leaf as usize), key);
        let live = there.is_some_and(|entry| !entry.is_tombstone());
        let frees = there.is_some_and(|entry| entry.owns_overflow());
        let pending = |payload_bytes, pages| Pending {
            key: *index,
            cell_bytes: payload_bytes,
            pages,
            value: None,
            expiry_ms: None,
            stub: None,
            frees,
        };
        match state.staged {
            Staged::Put {
                at,
                bytes,
                expiry_ms,
            } => {
                let inline = stays_inline(key.len(), bytes);
                let pages = if inline { 0 } else { pages_for(bytes) as u32 };
                let payload = if inline {
                    Payload::Inline(&set.arena[at..at + bytes])
                } else {
                    STUB
                };
                let entry = LeafEntry {
                    key,
                    stamp: Lsn::ZERO,
                    expiry_ms,
                    payload,
                };
                let cell_bytes = entry.cell_bytes() as u32;
                let value = Some((at, bytes));
                set.pending.push(Pending {
                    value,
                    expiry_ms,
                    ..pending(cell_bytes, pages)
                });
                key_delta += i64::from(!live);
            }
            Staged::Delete if live => {
                let payload = Payload::Tombstone;
                let entry = LeafEntry {
                    key,
                    stamp: Lsn::ZERO,
                    expiry_ms: None,
                    payload,
                };
                set.pending.push(pending(entry.cell_bytes() as u32, 0));
                key_delta -= 1;
            }
            Staged::Delete | Staged::Nothing => {}
        }
    }
    key_delta
}

/// Whether writes are refused because the redo point does not move any more.
pub(crate) fn refuse_if_read_only(store: &Store) -> Result<()> {
    if store.shared.checkpoint.refuses_writes() {
        return Err(EngineError::ReadOnly);
    }
    Ok(())
}

/// Whether one record can hold all of it, whatever the parameters allow.
fn check_record_size(set: &WriteSet) -> Result<()> {
    let bytes: u64 = set.pending.iter().map(Pending::record_bytes).sum();
    let pages: usize = set
        .pending
        .iter()
        .map(|pending| pending.pages as usize)
        .sum();
    let limit = RECORD_BYTES_MAX as u64;
    // There are at most as many leaves as versions, and as many bitmap pages as pages taken.
    if bytes > limit || 2 * pages + set.pending.len() > RECORD_BLOCKS_MAX {
        let parameter = "the greatest record of the log";
        return Err(EngineError::TransactionTooLarge {
            bytes,
            limit,
            parameter,
        });
    }
    Ok(())
}

/// Stands for a stub that is not known yet: it has the same length.
const STUB: Payload<'static> = Payload::Overflow(OverflowStub {
    first: BlockNo::new(0),
    pages: 0,
    value_bytes: 0,
    crc: 0,
});

/// Who waits for room, if the commit of `pending` does. There is one at least.
fn waiter(pending: &[Pending], keys: &[&[u8]]) -> Waiter {
    Waiter::new(keys[pending[0].key as usize], pending.len())
}

/// Makes room for every version on its leaf, and says which goes where.
fn make_room<'s>(
    tree: Tree<'s>,
    work: &mut Work,
    set: &mut WriteSet,
    keys: &[&[u8]],
    leaves: &mut Leaves<'s>,
    claim: &mut PageClaim<'s>,
) -> Result<()> {
    set.parts.clear();
    let pending = &set.pending;
    let (mut leaf, mut from) = (0, 0);
    while from < pending.len() {
        let key = keys[pending[from].key as usize];
        if !NodeRef::new(leaves.get(leaf)).covers(key, Lsn::MAX) {
            leaf += 1;
            continue;
        }
        let node = NodeRef::new(leaves.get(leaf));
        let rest = pending[from..].iter();
        let here = rest
            .take_while(|next| node.covers(keys[next.key as usize], Lsn::MAX))
            .count();
        let arrivals = pending[from..from + here]
            .iter()
            .map(|pending| pending.arrival(keys));
        if bytes_of(arrivals.clone()) > node.free_bytes_after_compact() {
            claim.reach(leaves.len() as u64 + 1)?;
            match tree.make_room(work, leaves.get_mut(leaf), arrivals, waiter(pending, keys))? {
                Room::Enough => {}
                Room::Split(right) => {
                    leaves.insert_behind(leaf, right);
                    continue;
                }
                Room::RootSplit(left, right) => {
                    *leaves.get_mut(leaf) = left;
                    leaves.insert_behind(leaf, right);
                    continue;
                }
            }
        }
        set.parts.push(Part {
            leaf,
            pending: from..from + here,
        });
        from += here;
    }
    Ok(())
}

/// Gives each large value its blocks.
fn place_large(set: &mut WriteSet, blocks: &[BlockNo]) {
    let mut rest = blocks;
    for pending in &mut set.pending {
        if pending.pages == 0 {
            continue;
        }
        let (mine, others) = rest.split_at(pending.pages as usize);
        let (at, bytes) = pending.value.expect("only values take pages");
        pending.stub = Some(overflow::stub_for(&set.arena[at..at + bytes], mine));
        rest = others;
    }
}

/// The large values, each with its blocks.
fn large_values<'a>(
    set: &'a WriteSet,
    blocks: &'a [BlockNo],
) -> impl Iterator<Item = (&'a [u8], &'a [BlockNo])> {
    let large = set.pending.iter().filter(|pending| pending.pages > 0);
    large.scan(blocks, |rest, pending| {
        let (mine, others) = rest.split_at(pending.pages as usize);
        *rest = others;
        let (at, bytes) = pending.value?;
        Some((&set.arena[at..at + bytes], mine))
    })
}

fn build_record(
    tree: Tree<'_>,
    work: &mut Work,
    set: &WriteSet,
    keys: &[&[u8]],
    leaves: &Leaves<'_>,
    blocks: &Blocks<'_>,
    key_delta: i64,
) {
    let record = &mut work.record;
    record.start(RecordKind::Commit, work.now_us);
    for part in &set.parts {
        record.block(leaves.get(part.leaf).tag());
        for pending in &set.pending[part.pending.clone()] {
            record.upsert(&pending.upsert(keys, &set.arena));
        }
    }
    for (value, mine) in large_values(set, blocks.blocks()) {
        for (sequence, block, next, data) in overflow::pieces(value, mine) {
            record.block(tree.tag(block));
            record.overflow_image(sequence, next, data);
        }
    }
    blocks.log(record);
    if key_delta != 0 {
        let key_delta = i32::try_from(key_delta).expect("a commit is limited to far fewer keys");
        record.file_delta(FileDelta {
            file: tree.file,
            key_delta,
        });
    }
}

/// Frames for the pages of large values, latched.
fn frames_for<'s>(tree: Tree<'s>, blocks: &Blocks<'s>) -> Vec<PinnedWrite<'s>> {
    let frame = |block: &BlockNo| tree.fetch_new(*block).into_write();
    blocks.blocks().iter().map(frame).collect()
}

fn fill_large(
    set: &WriteSet,
    blocks: &[BlockNo],
    pages: &mut [PinnedWrite<'_>],
    change: &CriticalChange<'_>,
) {
    let values = large_values(set, blocks);
    let pieces = values.flat_map(|(value, mine)| overflow::pieces(value, mine));
    for (page, (sequence, _, next, data)) in pages.iter_mut().zip(pieces) {
        rd_format::overflow::init(page, sequence, next, data);
        change.stamp(page);
    }
}

/// Notes what the commit leaves behind: versions whose overflow pages are to be freed, and leaves
/// on which nothing lives any more.
fn note_chores(
    tree: Tree<'_>,
    work: &mut Work,
    set: &WriteSet,
    keys: &[&[u8]],
    leaves: &Leaves<'_>,
    end: Lsn,
) {
    for part in &set.parts {
        let mut deleted = None;
        for pending in &set.pending[part.pending.clone()] {
            let key = keys[pending.key as usize];
            if pending.frees {
                work.note_chore(tree.file, key, end);
            }
            if pending.value.is_none() {
                deleted = Some(key);
            }
        }
        if let Some(key) = deleted
            && is_lifeless(&NodeRef::new(leaves.get(part.leaf)))
        {
            work.note_chore(tree.file, key, end);
        }
    }
}

/// Whether every key on the leaf is deleted. Looks at the ends first: keys are often deleted in
/// order.
fn is_lifeless(node: &NodeRef<'_>) -> bool {
    let newest_lives = |slot: usize| {
        let entry = node.leaf_entry(slot);
        let newest = slot == 0 || node.key_and_stamp(slot - 1).0 != entry.key;
        newest && !entry.is_tombstone()
    };
    match node.count() {
        0 => true,
        count => !newest_lives(count - 1) && !(0..count).any(newest_lives),
    }
}
