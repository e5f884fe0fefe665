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
use crate::change::{CriticalChange, credit_of, credit_of_drop, pass};
use crate::error::{EngineError, GREATEST_RECORD, Result};
use crate::namespace::access::check_writable;
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
use rd_store::namespaces::NamespaceId;
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

/// What a commit writes in one tree.
pub(crate) struct TreePart<'p, 's> {
    tree: Tree<'s>,
    /// Whose tree it is, for what is left to be tidied up.
    namespace: NamespaceId,
    set: &'p mut WriteSet,
    keys: &'p [&'p [u8]],
    leaves: &'p mut Leaves<'s>,
    /// By how many keys the file grows.
    key_delta: i64,
    blocks: Blocks<'s>,
    /// Frames of large values.
    large: Vec<PinnedWrite<'s>>,
}

impl<'p, 's> TreePart<'p, 's> {
    /// What is staged in `set` for `keys`, which lie on `leaves`.
    pub(crate) fn new(
        tree: Tree<'s>,
        namespace: NamespaceId,
        set: &'p mut WriteSet,
        keys: &'p [&'p [u8]],
        leaves: &'p mut Leaves<'s>,
    ) -> TreePart<'p, 's> {
        TreePart {
            tree,
            namespace,
            set,
            keys,
            leaves,
            key_delta: 0,
            blocks: Blocks::none(tree),
            large: Vec::new(),
        }
    }

    fn pages(&self) -> usize {
        let pages = self
            .set
            .pending
            .iter()
            .map(|pending| pending.pages as usize);
        pages.sum()
    }

    fn mark(&self, change: &CriticalChange<'_>) {
        for part in &self.set.parts {
            change.mark(self.leaves.get(part.leaf));
        }
        self.large.iter().for_each(|page| change.mark(page));
        self.blocks.mark(change);
    }

    fn apply(&mut self, change: &CriticalChange<'_>, end: Lsn) {
        for part in &self.set.parts {
            let leaf = self.leaves.get_mut(part.leaf);
            let mut node = NodeMut::new(leaf);
            for pending in &self.set.pending[part.pending.clone()] {
                let entry = pending.upsert(self.keys, &self.set.arena).stamped(end);
                node.insert_leaf(&entry)
                    .expect("room was made under this latch");
            }
            change.stamp(leaf);
            pass(Fault::CommitApplying);
        }
        fill_large(self.set, self.blocks.blocks(), &mut self.large, change);
        std::mem::replace(&mut self.blocks, Blocks::none(self.tree)).apply(change);
    }
}

/// What belongs to a commit beside its versions.
pub(crate) trait Around {
    /// Nothing can fail any more; the LSN is about to be reserved.
    fn before(&mut self);
    /// The record ends at `end`, and the pages are as it says; all leaves are latched still.
    fn after(&mut self, end: Lsn);
    /// Whether it gives space back, and so may draw on the log's reserve.
    fn is_drop(&self) -> bool;
}

/// Commits what is staged in `parts`, in the order in which their leaves were latched, as one
/// record. Returns the record's end, zero if nothing was staged.
///
/// # Errors
/// Nothing of it has happened then.
pub(crate) fn commit<'s>(
    store: &'s Store,
    work: &mut Work,
    parts: &mut [TreePart<'_, 's>],
    claim: &mut PageClaim<'s>,
    mut around: Option<&mut dyn Around>,
) -> Result<Lsn> {
    for part in parts.iter_mut() {
        part.key_delta = list_pending(part.set, part.keys, part.leaves);
    }
    if parts.iter().all(|part| part.set.pending.is_empty()) {
        return Ok(Lsn::ZERO);
    }
    refuse_if_read_only(store)?;
    // The entries are held: what is so now stays so.
    for part in parts.iter() {
        if !part.set.pending.is_empty() && !store.shared.files.access(part.tree.file).is_writable()
        {
            check_writable(&store.shared.namespaces.entry(part.namespace))?;
        }
    }
    reserve_record(work, parts)?;
    prepare(work, parts, claim)?;
    check_record_blocks(parts)?;
    build_record(work, parts);
    let credit = match &around {
        Some(around) if around.is_drop() => credit_of_drop(store, &mut work.record)?,
        _ => credit_of(store, &mut work.record)?,
    };
    for part in parts.iter_mut() {
        part.large = frames_for(part.tree, &part.blocks);
    }
    if let Some(around) = &mut around {
        around.before();
    }

    let mut change = CriticalChange::begin(store);
    parts.iter().for_each(|part| part.mark(&change));
    let shared = &store.shared;
    let end = change.insert(&mut work.record, credit, |end| {
        for part in parts.iter() {
            let (file, delta) = (part.tree.file, part.key_delta);
            shared
                .files
                .add_keys(file, end, delta, || shared.wal.insert_lsn());
        }
    });
    for part in parts.iter_mut() {
        part.apply(&change, end);
    }
    if let Some(around) = around {
        around.after(end);
    }
    change.finish();

    store.count(Counter::Commits);
    for part in parts.iter() {
        if !work.room_waits.is_empty() && !part.set.pending.is_empty() {
            work.room_waits
                .done(waiter(&part.set.pending, part.keys), end);
        }
        let put = part.set.pending.iter();
        if let Some(soonest) = put.filter_map(|put| put.expiry_ms).min() {
            shared.expiry.note(&shared.procs, soonest);
        }
        store.add(Counter::OverflowPages, part.large.len() as u64);
        work.namespace = part.namespace;
        note_chores(part, work, end);
    }
    Ok(end)
}

/// Sees to room on the leaves, and to blocks for large values.
fn prepare<'s>(
    work: &mut Work,
    parts: &mut [TreePart<'_, 's>],
    claim: &mut PageClaim<'s>,
) -> Result<()> {
    let mut pinned: usize = parts.iter().map(|part| part.leaves.len()).sum();
    for part in parts.iter_mut() {
        work.marks.turn_to(part.tree.file);
        let others = pinned - part.leaves.len();
        make_room(part, work, others, claim)?;
        pinned = others + part.leaves.len();
    }
    pinned += parts.iter().map(TreePart::pages).sum::<usize>();
    claim.reach(pinned as u64)?;
    for part in parts.iter_mut() {
        let pages = part.pages();
        if pages > 0 {
            part.blocks = Blocks::find(part.tree, work, pages)?;
            place_large(part.set, part.blocks.blocks());
        }
    }
    Ok(())
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

/// Whether one record can hold the bytes of it, whatever the parameters allow, and there is memory for them:
/// later a want of it could refuse nothing any more.
fn reserve_record(work: &mut Work, parts: &[TreePart<'_, '_>]) -> Result<()> {
    let versions = parts.iter().flat_map(|part| &part.set.pending);
    let bytes: u64 = versions.map(Pending::record_bytes).sum();
    let limit = RECORD_BYTES_MAX as u64;
    if bytes > limit {
        return Err(EngineError::TransactionTooLarge {
            bytes,
            limit,
            parameter: GREATEST_RECORD,
        });
    }
    let bytes = bytes as usize;
    let reserved = work.record.try_reserve(bytes);
    reserved.map_err(|_| EngineError::no_memory(bytes, "the record of a commit"))
}

/// Whether one record can name the pages that change; which those are is known when there is room
/// for everything.
fn check_record_blocks(parts: &[TreePart<'_, '_>]) -> Result<()> {
    let pages = |part: &TreePart<'_, '_>| {
        part.set.parts.len() + part.blocks.blocks().len() + part.blocks.bitmap_pages()
    };
    let pages = parts.iter().map(pages).sum();
    if pages > RECORD_BLOCKS_MAX {
        return Err(EngineError::TooManyPages {
            pages,
            limit: RECORD_BLOCKS_MAX,
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

/// Makes room for every version on its leaf, and says which goes where. `others` pages are pinned
/// besides.
fn make_room<'s>(
    part: &mut TreePart<'_, 's>,
    work: &mut Work,
    others: usize,
    claim: &mut PageClaim<'s>,
) -> Result<()> {
    let (tree, keys) = (part.tree, part.keys);
    let (set, leaves) = (&mut *part.set, &mut *part.leaves);
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
            claim.reach((others + leaves.len()) as u64 + 1)?;
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

fn build_record(work: &mut Work, parts: &[TreePart<'_, '_>]) {
    let record = &mut work.record;
    record.start(RecordKind::Commit, work.now_us);
    for tree_part in parts {
        let (set, keys) = (&*tree_part.set, tree_part.keys);
        for part in &set.parts {
            record.block(tree_part.leaves.get(part.leaf).tag());
            for pending in &set.pending[part.pending.clone()] {
                record.upsert(&pending.upsert(keys, &set.arena));
            }
        }
        for (value, mine) in large_values(set, tree_part.blocks.blocks()) {
            for (sequence, block, next, data) in overflow::pieces(value, mine) {
                record.block(tree_part.tree.tag(block));
                record.overflow_image(sequence, next, data);
            }
        }
        tree_part.blocks.log(record);
    }
    for part in parts.iter().filter(|part| part.key_delta != 0) {
        let key_delta = i32::try_from(part.key_delta);
        record.file_delta(FileDelta {
            file: part.tree.file,
            key_delta: key_delta.expect("a commit is limited to far fewer keys"),
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
/// on which nothing lives any more. Who tidies up around a key does so for all of its leaf, so two keys of a
/// leaf are enough: the first and the last, should it be cut in two before.
fn note_chores(part: &TreePart<'_, '_>, work: &mut Work, end: Lsn) {
    let (file, set, keys) = (part.tree.file, &*part.set, part.keys);
    for on_leaf in &set.parts {
        let (mut first_freed, mut last_freed, mut deleted) = (None, None, None);
        for pending in &set.pending[on_leaf.pending.clone()] {
            let key = keys[pending.key as usize];
            if pending.frees {
                first_freed.get_or_insert(key);
                last_freed = Some(key);
            }
            if pending.value.is_none() {
                deleted = Some(key);
            }
        }
        for key in first_freed.into_iter().chain(last_freed) {
            work.note_chore(file, key, end);
        }
        if let Some(key) = deleted
            && is_lifeless(&NodeRef::new(part.leaves.get(on_leaf.leaf)))
        {
            work.note_chore(file, key, end);
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
