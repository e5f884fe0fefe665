//! Latching all that a transaction has written and read, in one pass from left to right, and
//! checking that it may commit (DESIGN 6).
//!
//! A leaf on which the transaction writes is latched exclusively, one of which it has only read
//! shared. All of them are held until the commit's LSN is reserved, so at that LSN what was read is
//! what is newest.
//!
//! The pass goes through *intervals*: keys and ranges, ascending, that do not overlap. A leaf is
//! looked at once, when it is latched: nobody can change it after that.
//!
//! Invariants:
//! - The rightmost leaf that is held is the only one that later intervals can meet.
//! - Whether a leaf is written to is found out under a shared latch, which is let go of if it is:
//!   latches are not upgraded.
//! - A key that has ended since counts as changed, but not in a range: a leaf on which nothing was written
//!   is passed by without a look at its keys.

use super::access::{Leaves, WriteSet, newest_on};
use super::reads::Reads;
use super::transaction::{Write, Writes};
use super::write::{PageClaim, unknown_sibling};
use crate::btree::Tree;
use crate::btree::search::MarksMet;
use crate::error::{EngineError, Result};
use crate::work::Work;
use rd_base::{BlockNo, Lsn};
use rd_format::NodeRef;
use rd_format::node::LeafEntry;
use rd_format::page::{self, PageBytes};
use rd_store::buffer::{Pin, PinnedRead, PinnedWrite};

/// What a commit is to check, in one namespace.
pub(crate) struct Checks<'k> {
    /// The keys that it writes, ascending.
    pub(crate) keys: &'k [&'k [u8]],
    /// What it writes to them.
    pub(crate) writes: &'k Writes,
    /// Whether these must not have changed.
    pub(crate) checks_writes: bool,
    /// What it has read, and must not have changed.
    pub(crate) reads: Option<&'k Reads>,
    /// Since when.
    pub(crate) at: Lsn,
    /// The same by the clock, in milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// What it has read while nobody could change anything. But keys may have ended, and others have seen that:
    /// what it writes to such a key, after it has read it, must not bring it back.
    pub(crate) read_alone: Option<&'k Reads>,
}

/// Where an interval ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'k> {
    /// It is one key.
    Itself,
    /// Before this key.
    Before(&'k [u8]),
    /// At the last key.
    Last,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Interval<'k> {
    start: &'k [u8],
    end: End<'k>,
}

impl Interval<'_> {
    /// Whether `key`, which is not below its start, is in it.
    fn has(&self, key: &[u8]) -> bool {
        match self.end {
            End::Itself => key == self.start,
            End::Before(end) => key < end,
            End::Last => true,
        }
    }

    /// Whether no page to the right of `node`, on which some of it lies, has more of it.
    fn ends_on(&self, node: &NodeRef<'_>) -> bool {
        match (node.high_key(), self.end) {
            (None, _) | (_, End::Itself) => true,
            (Some(high), End::Before(end)) => high.key >= end,
            (Some(_), End::Last) => false,
        }
    }
}

impl<'k> Checks<'k> {
    /// What is to be latched.
    fn intervals(&self) -> Vec<Interval<'k>> {
        let key = |start| Interval {
            start,
            end: End::Itself,
        };
        let mut all: Vec<Interval<'k>> = self.keys.iter().copied().map(key).collect();
        if let Some(reads) = self.reads {
            all.extend(reads.keys().map(key));
            all.extend(reads.ranges().map(|(start, end)| Interval {
                start,
                end: end.map_or(End::Last, End::Before),
            }));
            // Of those that start at the same key a range comes first: it has the others in it.
            all.sort_unstable_by_key(|interval| (interval.start, interval.end == End::Itself));
            all.dedup_by(|next, before| before.has(next.start));
        }
        all
    }
}

/// The leaves of a transaction, latched.
pub(crate) struct Latched<'s> {
    /// Those on which it writes.
    pub(crate) leaves: Leaves<'s>,
    /// Those of which it has only read; they are held for their latches.
    read: Vec<PinnedRead<'s>>,
    rightmost_is_read: bool,
}

/// A leaf that was just latched.
enum Leaf<'s> {
    Read(PinnedRead<'s>),
    Write(PinnedWrite<'s>),
}

impl Leaf<'_> {
    fn page(&self) -> &PageBytes {
        match self {
            Leaf::Read(leaf) => leaf,
            Leaf::Write(leaf) => leaf,
        }
    }
}

impl<'s> Latched<'s> {
    fn rightmost(&self) -> Option<&PageBytes> {
        match self.rightmost_is_read {
            true => self.read.last().map(|leaf| -> &PageBytes { leaf }),
            false => self.leaves.last().map(|leaf| -> &PageBytes { leaf }),
        }
    }

    fn push(&mut self, leaf: Leaf<'s>) {
        self.rightmost_is_read = matches!(leaf, Leaf::Read(_));
        match leaf {
            Leaf::Read(leaf) => self.read.push(leaf),
            Leaf::Write(leaf) => self.leaves.push(leaf),
        }
    }

    /// How many leaves are held.
    pub(crate) fn len(&self) -> usize {
        self.leaves.len() + self.read.len()
    }
}

/// Brings the leaves of all intervals into memory and pins them beside the `pins` there are, so
/// that nothing is read from disk under a latch (T7).
///
/// # Errors
/// When a page cannot be read, or there are more than a commit may pin.
pub(crate) fn bring_in<'s>(
    tree: Tree<'s>,
    checks: &Checks<'_>,
    claim: &mut PageClaim<'s>,
    pins: &mut Vec<Pin<'s>>,
) -> Result<()> {
    for interval in checks.intervals() {
        let (mut key, mut stamp) = (interval.start.to_vec(), Lsn::MAX);
        loop {
            let leaf = tree.leaf_for_read(&key, stamp)?;
            let node = NodeRef::new(&leaf);
            let next = node.high_key().filter(|_| !interval.ends_on(&node));
            let next = next.map(|high| (high.key.to_vec(), high.stamp));
            let is_new = |pin: &Pin<'s>| pin.frame() != leaf.pin().frame();
            if pins.last().is_none_or(is_new) {
                claim.reach(pins.len() as u64 + 1)?;
                pins.push(leaf.unlatch());
            }
            match next {
                Some(next) => (key, stamp) = next,
                None => break,
            }
        }
    }
    Ok(())
}

/// The pass from left to right.
struct Pass<'p, 's, 'k> {
    tree: Tree<'s>,
    work: &'p mut Work,
    set: &'p mut WriteSet,
    checks: &'p Checks<'k>,
    latched: Latched<'s>,
    /// Keys that are written and whose leaf is not latched yet: those from this index on.
    next_write: usize,
    /// Keys and ranges that were read and are not checked to their end.
    read_keys: Vec<&'k [u8]>,
    next_key: usize,
    read_ranges: Vec<(&'k [u8], Option<&'k [u8]>)>,
    next_range: usize,
}

/// Latches all leaves and checks them. `set` must have taken up `checks.keys`; it is told on which
/// leaf each lies.
///
/// # Errors
/// [`EngineError::Conflict`] if something was changed that must not have been.
pub(crate) fn latch<'s>(
    tree: Tree<'s>,
    work: &mut Work,
    set: &mut WriteSet,
    checks: &Checks<'_>,
) -> Result<Latched<'s>> {
    let read_keys = checks.reads.iter().flat_map(|reads| reads.keys());
    let read_ranges = checks.reads.iter().flat_map(|reads| reads.ranges());
    let mut pass = Pass {
        tree,
        work,
        set,
        checks,
        latched: Latched {
            leaves: Leaves::default(),
            read: Vec::new(),
            rightmost_is_read: false,
        },
        next_write: 0,
        read_keys: read_keys.collect(),
        next_key: 0,
        read_ranges: read_ranges.collect(),
        next_range: 0,
    };
    for interval in checks.intervals() {
        pass.go_through(&interval)?;
    }
    assert!(
        pass.next_write == checks.keys.len()
            && pass.next_key == pass.read_keys.len()
            && pass.next_range == pass.read_ranges.len(),
        "every key and range of a transaction lies on some leaf"
    );
    Ok(pass.latched)
}

fn covers(page: &PageBytes, key: &[u8]) -> bool {
    NodeRef::new(page).covers(key, Lsn::MAX)
}

impl<'s> Pass<'_, 's, '_> {
    fn go_through(&mut self, interval: &Interval<'_>) -> Result<()> {
        let rightmost = self.latched.rightmost();
        if !rightmost.is_some_and(|page| covers(page, interval.start)) {
            let leaf = self.leaf_of(interval.start)?;
            self.take(leaf)?;
        }
        loop {
            let page = self.latched.rightmost();
            let page = page.expect("the leaf of the interval's start is held");
            if interval.ends_on(&NodeRef::new(page)) {
                return Ok(());
            }
            let block = page::right_link(page).ok_or_else(|| {
                let what = "a high key without a right sibling";
                self.tree.broken(BlockNo::new(0), what)
            })?;
            // It cannot be taken out of the tree while its left sibling is latched.
            let leaf = self.latch_block(block)?;
            self.take(leaf)?;
        }
    }

    /// Whether the transaction writes on this page.
    fn writes_on(&self, page: &PageBytes) -> bool {
        let key = self.checks.keys.get(self.next_write);
        key.is_some_and(|key| covers(page, key))
    }

    /// Latches the page at `block`, whose left sibling is held and so keeps it in the tree.
    fn latch_block(&self, block: BlockNo) -> Result<Leaf<'s>> {
        let leaf = self.tree.fetch(block)?.into_read();
        if !self.writes_on(&leaf) {
            return Ok(Leaf::Read(leaf));
        }
        drop(leaf);
        Ok(Leaf::Write(self.tree.fetch(block)?.into_write()))
    }

    /// Latches the leaf of `key`, which lies to the right of all that are held. Past pages that
    /// their parent does not know the way is along the right links (see `write::next_leaf`).
    fn leaf_of(&mut self, key: &[u8]) -> Result<Leaf<'s>> {
        let mut next = self.latched.rightmost().and_then(unknown_sibling);
        let mut passed = None;
        while let Some(block) = next {
            let leaf = self.latch_block(block)?;
            if covers(leaf.page(), key) {
                return Ok(leaf);
            }
            next = unknown_sibling(leaf.page());
            if next.is_some() {
                self.work.marks.met(block);
            }
            passed = Some(leaf);
        }
        drop(passed);
        let is_written = self.checks.keys.get(self.next_write) == Some(&key);
        if !is_written {
            let leaf = self.tree.leaf_for_read(key, Lsn::MAX)?;
            if !self.writes_on(&leaf) {
                return Ok(Leaf::Read(leaf));
            }
        }
        let marks = &mut self.work.marks;
        let leaf = self.tree.page_for_write(key, Lsn::MAX, 0, marks)?;
        Ok(Leaf::Write(leaf))
    }

    /// Checks a leaf that was latched, and holds it.
    fn take(&mut self, leaf: Leaf<'s>) -> Result<()> {
        let index = self.latched.leaves.len() as u32;
        while self.writes_on(leaf.page()) {
            let key = self.checks.keys[self.next_write];
            let has_read = |reads: &Reads| reads.have(key);
            if self.checks.checks_writes || self.checks.read_alone.is_some_and(has_read) {
                // To delete what has ended brings nothing back.
                let puts = || matches!(self.checks.writes.get(key), Some(Write::Put { .. }));
                self.check_key(leaf.page(), key, puts)?;
            }
            self.set.keys[self.next_write].leaf = index;
            self.next_write += 1;
        }
        while let Some(key) = self.read_keys.get(self.next_key).copied()
            && covers(leaf.page(), key)
        {
            self.check_key(leaf.page(), key, || true)?;
            self.next_key += 1;
        }
        while let Some((start, end)) = self.read_ranges.get(self.next_range).copied()
            && covers(leaf.page(), start)
        {
            let range = Interval {
                start,
                end: end.map_or(End::Last, End::Before),
            };
            self.check_range(leaf.page(), &range)?;
            if !range.ends_on(&NodeRef::new(leaf.page())) {
                // To be gone on with on the right sibling, from its first key.
                break;
            }
            self.next_range += 1;
        }
        self.latched.push(leaf);
        Ok(())
    }

    /// A key must be what the transaction saw; to be there still only if that `matters`.
    fn check_key(&self, page: &PageBytes, key: &[u8], matters: impl Fn() -> bool) -> Result<()> {
        match newest_on(page, key) {
            Some(entry)
                if entry.stamp > self.checks.at || self.has_ended_since(&entry) && matters() =>
            {
                Err(EngineError::conflict(key, entry.stamp))
            }
            _ => Ok(()),
        }
    }

    /// Whether a version that the transaction saw has ended since, or is there again since the clock was
    /// set back: others have seen that, whether or not the key was removed yet. The clock is asked under
    /// the latch, so that it is no earlier than theirs was.
    fn has_ended_since(&self, entry: &LeafEntry<'_>) -> bool {
        entry.expiry_ms.is_some_and(|expiry| {
            let now_ms = self.tree.store.clock.wall_us() / 1000;
            (expiry <= self.checks.at_ms) != (expiry <= now_ms)
        })
    }

    fn check_range(&self, page: &PageBytes, range: &Interval<'_>) -> Result<()> {
        if page::page_lsn(page) <= self.checks.at {
            return Ok(());
        }
        let node = NodeRef::new(page);
        for slot in node.lower_bound(range.start, Lsn::MAX)..node.count() {
            let (key, stamp) = node.key_and_stamp(slot);
            if !range.has(key) {
                break;
            }
            if stamp > self.checks.at {
                return Err(EngineError::conflict(key, stamp));
            }
        }
        Ok(())
    }
}
