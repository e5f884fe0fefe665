//! Running a program under the latches of all leaves of its keys (DESIGN 6).
//!
//! 1. The pages of the keys are brought in and pinned, so that nothing is read under a latch (T7).
//!    A single key's leaf needs no pin: its descent ends with the latch.
//! 2. The leaves are latched exclusively, left to right.
//! 3. The program runs. If it needs a large value that is not in memory yet, the latches go, the
//!    value is read, and it all begins anew.
//! 4. What it staged is committed ([`super::commit`]).

use super::access::{
    Access, Base, Broken, KeyState, Leaves, Limits, Loaded, ProgramError, Staged, WriteSet,
};
use super::commit::{self, Around, TreePart};
use crate::btree::Tree;
use crate::btree::search::MarksMet;
use crate::error::{EngineError, ParkReason, Result};
use crate::overflow;
use crate::txn::visible::{Seen, visible};
use crate::work::Work;
use rd_base::Lsn;
use rd_base::limits::PAGE_BYTES;
use rd_format::NodeRef;
use rd_format::page::{self, flags};
use rd_store::Store;
use rd_store::buffer::Pin;
use rd_store::namespaces::PageBudget;

/// So few pages need no budget: for all processes together they are few beside any pool.
const PAGES_WITHOUT_BUDGET: u64 = 8;
/// Pages are taken from the budget so many at a time.
const CLAIM_STEP: u64 = 32;
/// An arena larger than this is given back after use.
const ARENA_BYTES_KEPT: usize = 1 << 20;
/// Vectors with room for more than so many entries are given back after use.
const ENTRIES_KEPT: usize = 4096;
/// After so many attempts a large value is read under the latches: it may change again and again. Who needs
/// more than so many of them reads them before (`BITOP`).
const LOADS_MAX: usize = 3;

/// What became of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<R> {
    /// What the program returned.
    pub result: R,
    /// End LSN of the commit record; zero if the program wrote nothing.
    pub lsn: Lsn,
    /// If the program wrote nothing: the greatest stamp of what it was told, or of the change that
    /// gave the namespace its file, that is not durable yet; its reply must wait for it. Zero if
    /// there is none.
    pub depends_on: Lsn,
}

/// A program, run under the latches of its keys' leaves. It may run more than once.
pub type Program<'p, R> = dyn FnMut(&mut Access<'_>) -> std::result::Result<R, ProgramError> + 'p;

/// Runs `program` on `keys` and commits what it writes.
///
/// # Errors
/// Nothing of it has happened then.
pub(crate) fn run<R>(
    tree: Tree<'_>,
    work: &mut Work,
    set: &mut WriteSet,
    keys: &[&[u8]],
    program: &mut Program<'_, R>,
    around: Option<&mut dyn Around>,
) -> Result<Committed<R>> {
    let mut claim = PageClaim::new(tree);
    let done = claim
        .take_refused(set, keys.len())
        .and_then(|()| run_until_done(tree, work, set, keys, &mut claim, program, around));
    claim.remember_refused(set, keys.len());
    work.shrink();
    set.shrink();
    done
}

/// Runs `program` on keys of a namespace that has no file: none of them is there. Returns its
/// result if it puts nothing; else the namespace must get a file, and the program be run there.
///
/// # Errors
/// Nothing has happened then.
pub(crate) fn run_on_nothing<R>(
    store: &Store,
    work: &Work,
    set: &mut WriteSet,
    keys: &[&[u8]],
    program: &mut Program<'_, R>,
) -> Result<Option<R>> {
    set.sort(keys);
    set.clear_staged();
    let mut access = Access {
        base: Base::Nothing,
        keys,
        set: &mut *set,
        limits: Limits::of(&store.config),
        now_ms: work.now_us / 1000,
        told: Lsn::ZERO,
        large: Vec::new(),
    };
    let done = program(&mut access).map_err(ProgramError::without_latches);
    let puts = |state: &KeyState| matches!(state.staged, Staged::Put { .. });
    let has_put = set.keys.iter().any(puts);
    set.shrink();
    Ok((!has_put).then_some(done?))
}

fn run_until_done<'s, R>(
    tree: Tree<'s>,
    work: &mut Work,
    set: &mut WriteSet,
    keys: &[&[u8]],
    claim: &mut PageClaim<'s>,
    program: &mut Program<'_, R>,
    mut around: Option<&mut dyn Around>,
) -> Result<Committed<R>> {
    set.sort(keys);
    let mut loads = 0;
    loop {
        let _pins = if keys.len() > 1 {
            bring_in(tree, set, keys, claim)?
        } else {
            Vec::new()
        };
        let mut leaves = latch(tree, work, set, keys)?;
        // No earlier than by the clock of whoever has seen one of the keys end: pages may have been waited
        // for, and a large value have been read, since the command began.
        work.ask_clock(tree.store);
        match attempt(tree, work, set, keys, &leaves, loads >= LOADS_MAX, program) {
            Ok((result, told)) => {
                let namespace = work.namespace;
                let part = TreePart::new(tree, namespace, set, keys, &mut leaves);
                let around = around.take();
                let lsn = commit::commit(tree.store, work, &mut [part], claim, around)?;
                let not_durable = lsn == Lsn::ZERO && told > tree.store.shared.wal.durable_lsn();
                let depends_on = if not_durable { told } else { Lsn::ZERO };
                return Ok(Committed {
                    result,
                    lsn,
                    depends_on,
                });
            }
            Err(Broken::Failed(error)) => return Err(error),
            Err(Broken::NeedsValue(index)) => {
                drop(leaves);
                loads += 1;
                load(tree, set, keys, index)?;
            }
        }
    }
}

impl WriteSet {
    /// Takes up the keys of a new commit.
    pub(crate) fn sort(&mut self, keys: &[&[u8]]) {
        self.loaded.clear();
        self.keys.clear();
        self.order.clear();
        let state = |index| KeyState {
            same_as: index,
            leaf: 0,
            staged: Staged::Nothing,
        };
        self.keys.extend((0..keys.len() as u32).map(state));
        self.order.extend(0..keys.len() as u32);
        if keys.len() == 1 {
            return;
        }
        self.order
            .sort_unstable_by_key(|index| (keys[*index as usize], *index));
        for pair in 1..self.order.len() {
            let (before, here) = (self.order[pair - 1] as usize, self.order[pair] as usize);
            if keys[before] == keys[here] {
                self.keys[here].same_as = self.keys[before].same_as;
            }
        }
    }

    /// Gives memory back that only large values, or very many keys, needed.
    pub(crate) fn shrink(&mut self) {
        fn give_back<T>(entries: &mut Vec<T>) {
            if entries.capacity() > ENTRIES_KEPT {
                *entries = Vec::new();
            }
        }
        self.loaded.clear();
        give_back(&mut self.loaded);
        give_back(&mut self.keys);
        give_back(&mut self.order);
        give_back(&mut self.pending);
        give_back(&mut self.parts);
        if self.arena.capacity() > ARENA_BYTES_KEPT {
            self.arena = Vec::new();
        }
    }

    /// Forgets what the program has staged.
    pub(crate) fn clear_staged(&mut self) {
        self.arena.clear();
        for key in &mut self.keys {
            key.staged = Staged::Nothing;
        }
    }
}

/// The pages that a commit pins, taken from the budget that all commits share.
pub(crate) struct PageClaim<'s> {
    tree: Tree<'s>,
    taken: Vec<PageBudget>,
    /// Pages that may be pinned: those taken, and a few that need not be.
    pages: u64,
    /// So many in all were refused, after some had been taken. The commit parks; when it is run
    /// again it asks for them at once: if it took some and gave them back it would wake itself.
    refused: u64,
}

impl<'s> PageClaim<'s> {
    pub(crate) fn new(tree: Tree<'s>) -> PageClaim<'s> {
        PageClaim {
            tree,
            taken: Vec::new(),
            pages: PAGES_WITHOUT_BUDGET,
            refused: 0,
        }
    }

    /// Sees to it that `pages` may be pinned in all.
    ///
    /// # Errors
    /// When others have so many that not enough are left, or there never are so many.
    #[inline]
    pub(crate) fn reach(&mut self, pages: u64) -> Result<()> {
        if pages <= self.pages {
            Ok(())
        } else {
            self.take(pages)
        }
    }

    /// Takes at once what a commit of so many keys was refused, if this is that commit.
    ///
    /// # Errors
    /// As for [`PageClaim::reach`].
    pub(crate) fn take_refused(&mut self, set: &mut WriteSet, keys: usize) -> Result<()> {
        let (of_keys, pages) = set.pages_refused;
        if of_keys != keys {
            return Ok(());
        }
        set.pages_refused = (0, 0);
        self.reach(pages).inspect_err(|_| self.refused = pages)
    }

    /// Notes in `set` what this commit of so many keys was refused.
    pub(crate) fn remember_refused(&self, set: &mut WriteSet, keys: usize) {
        if self.refused > 0 {
            set.pages_refused = (keys, self.refused);
        }
    }

    #[cold]
    fn take(&mut self, pages: u64) -> Result<()> {
        let shared = &self.tree.store.shared;
        let limit = shared.sizes.frames as u64 / 4;
        if pages > limit {
            let bytes = |pages: u64| pages * PAGE_BYTES as u64;
            return Err(EngineError::TransactionTooLarge {
                bytes: bytes(pages),
                limit: bytes(limit),
                parameter: "a quarter of shared_buffers",
            });
        }
        let more = (pages - self.pages)
            .max(CLAIM_STEP)
            .min(limit - self.pages.min(limit));
        let namespaces = &shared.namespaces;
        if let Some(taken) = namespaces.try_take_pages(&shared.procs, more, limit) {
            self.taken.push(taken);
            self.pages += more;
            return Ok(());
        }
        // Whoever waits for pages holds none: what he gave back later would count as what he, and
        // others, were to be woken by.
        let all = self.pages - PAGES_WITHOUT_BUDGET + more;
        self.taken.clear();
        self.pages = PAGES_WITHOUT_BUDGET;
        let Some(taken) = namespaces.take_pages(&shared.procs, all, limit) else {
            if all > more {
                self.refused = PAGES_WITHOUT_BUDGET + all;
            }
            return Err(EngineError::Park(ParkReason::Pages));
        };
        self.taken.push(taken);
        self.pages += all;
        Ok(())
    }
}

/// Pins the leaves of all keys, in their order.
fn bring_in<'s>(
    tree: Tree<'s>,
    set: &WriteSet,
    keys: &[&[u8]],
    claim: &mut PageClaim<'s>,
) -> Result<Vec<Pin<'s>>> {
    let mut pins: Vec<Pin<'s>> = Vec::with_capacity(keys.len());
    let mut last: Option<&[u8]> = None;
    for index in &set.order {
        let key = keys[*index as usize];
        if last == Some(key) {
            continue;
        }
        last = Some(key);
        let leaf = tree.leaf_for_read(key, Lsn::MAX)?;
        if pins
            .last()
            .is_none_or(|pin| pin.frame() != leaf.pin().frame())
        {
            claim.reach(pins.len() as u64 + 1)?;
            pins.push(leaf.unlatch());
        }
    }
    Ok(pins)
}

/// Latches the leaves of all keys exclusively, left to right (T2).
fn latch<'s>(
    tree: Tree<'s>,
    work: &mut Work,
    set: &mut WriteSet,
    keys: &[&[u8]],
) -> Result<Leaves<'s>> {
    let mut leaves = Leaves::default();
    for index in &set.order {
        let key = keys[*index as usize];
        let covered = leaves
            .last()
            .is_some_and(|leaf| NodeRef::new(leaf).covers(key, Lsn::MAX));
        if !covered {
            let leaf = next_leaf(tree, work, leaves.last(), key)?;
            leaves.push(leaf);
        }
        set.keys[*index as usize].leaf = (leaves.len() - 1) as u32;
    }
    Ok(leaves)
}

/// Latches the leaf of `key`, which lies to the right of `last`.
///
/// A parent that does not know the right sibling of a page we hold would lead us to that page, and
/// we would wait for ourselves. So past pages with the mark the way is along the right links. Each
/// page on it is held until the next is latched, which so cannot be taken out of the tree: as soon as
/// it is let go others may make it, and those behind it, known to the parent.
fn next_leaf<'s>(
    tree: Tree<'s>,
    work: &mut Work,
    last: Option<&rd_store::buffer::PinnedWrite<'s>>,
    key: &[u8],
) -> Result<rd_store::buffer::PinnedWrite<'s>> {
    let mut next = last.and_then(|leaf| unknown_sibling(leaf));
    let mut passed = None;
    while let Some(block) = next {
        let leaf = tree.fetch(block)?.into_write();
        if NodeRef::new(&leaf).covers(key, Lsn::MAX) {
            return Ok(leaf);
        }
        next = unknown_sibling(&leaf);
        if next.is_some() {
            work.marks.met(block);
        }
        passed = Some(leaf);
    }
    drop(passed);
    // Not if a leaf is held: it could be the one on which the key was seen.
    match last {
        None => match work.ahead.leaf_of(tree.file, key) {
            Some(leaf) => tree.leaf_for_write_from(leaf, key, &mut work.marks),
            None => tree.page_for_write(key, Lsn::MAX, 0, &mut work.marks),
        },
        Some(_) => tree.page_for_write(key, Lsn::MAX, 0, &mut work.marks),
    }
}

/// The right sibling of a leaf whose parent does not know it.
pub(crate) fn unknown_sibling(leaf: &page::PageBytes) -> Option<rd_base::BlockNo> {
    let mark = page::page_flags(leaf) & flags::SPLIT_INCOMPLETE != 0;
    if mark { page::right_link(leaf) } else { None }
}

/// Runs the program once. Returns its result and the greatest stamp that it was told.
fn attempt<'s, R>(
    tree: Tree<'s>,
    work: &Work,
    set: &mut WriteSet,
    keys: &[&[u8]],
    leaves: &Leaves<'s>,
    read_now: bool,
    program: &mut Program<'_, R>,
) -> std::result::Result<(R, Lsn), Broken> {
    set.clear_staged();
    let mut access = Access {
        base: Base::Leaves {
            tree,
            leaves,
            read_now,
        },
        keys,
        set,
        limits: Limits::of(&tree.store.config),
        now_ms: work.now_us / 1000,
        told: Lsn::ZERO,
        large: Vec::new(),
    };
    let result = program(&mut access).map_err(|error| error.0)?;
    Ok((result, access.told))
}

/// Brings the large value of a key into memory: the newest version, which a snapshot at the insert
/// position keeps while it is read.
fn load(tree: Tree<'_>, set: &mut WriteSet, keys: &[&[u8]], index: usize) -> Result<()> {
    let shared = &tree.store.shared;
    let snapshot = shared
        .snapshots
        .publish_insert(&shared.wal, tree.store.slot)?;
    let key = keys[index];
    let leaf = tree.leaf_for_read(key, snapshot.lsn())?;
    // The time does not matter: whether the value is there still is for the program to see.
    let seen = visible(&NodeRef::new(&leaf), key, snapshot.lsn(), || 0);
    let Seen::Large(stub, meta) = seen else {
        return Ok(());
    };
    drop(leaf);
    let same_as = set.keys[index].same_as;
    set.loaded.retain(|loaded| loaded.key != same_as);
    let mut bytes = Vec::new();
    overflow::read(tree, &stub, &mut bytes)?;
    set.loaded.push(Loaded {
        key: same_as,
        stamp: meta.stamp,
        bytes,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_large_commit_needed_is_given_back() {
        let names: Vec<[u8; 4]> = (0..10 * ENTRIES_KEPT as u32)
            .map(u32::to_be_bytes)
            .collect();
        let keys: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
        let mut set = WriteSet::default();
        let kept = |set: &WriteSet| {
            let WriteSet {
                keys,
                order,
                arena,
                loaded,
                pending,
                parts,
                ..
            } = set;
            let vectors = [
                keys.capacity(),
                order.capacity(),
                loaded.capacity(),
                pending.capacity(),
                parts.capacity(),
            ];
            (vectors, arena.capacity())
        };
        for count in [keys.len(), 100] {
            set.sort(&keys[..count]);
            set.arena.reserve(count * 1000);
            set.pending.reserve(count);
            set.parts.reserve(count);
            set.loaded.reserve(count);
            set.shrink();
            let (vectors, arena) = kept(&set);
            assert!(
                vectors.iter().all(|kept| *kept <= ENTRIES_KEPT),
                "{vectors:?}"
            );
            assert!(arena <= ARENA_BYTES_KEPT);
        }
        // The next one of its size needs no memory.
        assert_eq!(kept(&set).0.map(|kept| kept >= 100), [true; 5]);
    }
}
