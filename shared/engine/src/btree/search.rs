//! Finding the page of a key: the descents of readers and writers (T1).

use super::Tree;
use crate::error::Result;
use rd_base::{BlockNo, Lsn};
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::page::{self, PageBytes, PageKind, flags};
use rd_format::{Bound, NodeRef, OwnedBound};
use rd_store::buffer::{PinnedRead, PinnedWrite};

/// A descent that begins anew more often than this meets a tree that contradicts itself.
const RESTARTS_MAX: usize = 100_000;
/// So does one that visits more pages: links lead in a circle.
const VISITS_MAX: u32 = 1_000_000;

/// Pages with the mark SPLIT_INCOMPLETE that a descent has met.
pub(crate) trait MarksMet {
    /// The page at `block` has the mark.
    fn met(&mut self, block: BlockNo);
}

/// For those who do not care.
pub(crate) struct Ignored;

impl MarksMet for Ignored {
    #[inline]
    fn met(&mut self, _: BlockNo) {}
}

/// What a descent does after looking at a page.
enum Step {
    /// The page is the one.
    Here,
    /// Go on there, on the same level.
    Right(BlockNo),
    /// Go on there, one level down.
    Down(BlockNo),
    /// Begin anew.
    Restart,
}

/// Whether what comes just before `bound` lies behind `high`, the end of a page.
fn is_behind(bound: Option<Bound<'_>>, high: &Bound<'_>) -> bool {
    bound.is_none_or(|bound| bound.is_above(high.key, high.stamp))
}

/// How many slots of `node` are before `bound`.
pub(crate) fn slots_before(node: &NodeRef<'_>, bound: Option<Bound<'_>>) -> usize {
    match bound {
        Some(bound) => node.lower_bound(bound.key, bound.stamp),
        None => node.count(),
    }
}

impl<'s> Tree<'s> {
    /// Latches the leaf that covers (key, stamp), shared.
    #[inline]
    pub(crate) fn leaf_for_read(&self, key: &[u8], stamp: Lsn) -> Result<PinnedRead<'s>> {
        self.leaf_for_read_from(ROOT_BLOCK, key, stamp)
    }

    /// [`Tree::leaf_for_read`], beginning at the root or at a leaf on which the key was seen in
    /// this epoch.
    #[inline]
    pub(crate) fn leaf_for_read_from(
        &self,
        from: BlockNo,
        key: &[u8],
        stamp: Lsn,
    ) -> Result<PinnedRead<'s>> {
        let (mut restarts, mut visits) = (0, 0);
        let mut block = from;
        loop {
            self.visit(block, &mut visits)?;
            let page = self.fetch(block)?.into_read();
            match self.step(&page, block, key, stamp, 0, &mut Ignored)? {
                Step::Here => return Ok(page),
                Step::Right(next) | Step::Down(next) => block = next,
                Step::Restart => block = self.restart(block, &mut restarts)?,
            }
        }
    }

    /// Latches, shared, the leaf on which lies what comes just before `bound`; before nothing: the
    /// last leaf. `low` becomes where that leaf begins, `None` for the first one.
    ///
    /// Where a page begins never changes while it is in the tree: splits cut off its end, and of two
    /// pages that become one the left one stays. So what the descent was told on the way is right,
    /// although pages do not say it themselves.
    pub(crate) fn leaf_before(
        &self,
        bound: Option<Bound<'_>>,
        low: &mut Option<OwnedBound>,
    ) -> Result<PinnedRead<'s>> {
        let (mut restarts, mut visits) = (0, 0);
        let mut block = ROOT_BLOCK;
        let mut level = None;
        *low = None;
        loop {
            self.visit(block, &mut visits)?;
            let page = self.fetch(block)?.into_read();
            if !self.is_in_tree(&page, block)? {
                block = self.restart(block, &mut restarts)?;
                (level, *low) = (None, None);
                continue;
            }
            let node = NodeRef::new(&page);
            if level.is_some_and(|level| node.level() != level) {
                let what = format!("level {} where level {level:?} was to be", node.level());
                return Err(self.broken(block, what));
            }
            if let Some(high) = node.high_key().filter(|high| is_behind(bound, high)) {
                let right = node.right_link();
                let right = right
                    .ok_or_else(|| self.broken(block, "a high key without a right sibling"))?;
                *low = Some(high.to_owned());
                (block, level) = (right, Some(node.level()));
                continue;
            }
            if node.is_leaf() {
                return Ok(page);
            }
            let slot = slots_before(&node, bound).saturating_sub(1);
            let (begin, child) = node.inner_entry(slot);
            if slot > 0 {
                *low = Some(begin.to_owned());
            }
            // A leaf has level 0, an inner page a greater one.
            (block, level) = (child, Some(node.level().saturating_sub(1)));
        }
    }

    /// Latches the inner page at `level` that covers (key, stamp), shared; `None` if the tree is
    /// not that high.
    pub(crate) fn inner_for_read(
        &self,
        key: &[u8],
        stamp: Lsn,
        level: u8,
    ) -> Result<Option<PinnedRead<'s>>> {
        let (mut restarts, mut visits) = (0, 0);
        let mut block = ROOT_BLOCK;
        loop {
            self.visit(block, &mut visits)?;
            let page = self.fetch(block)?.into_read();
            if block == ROOT_BLOCK && NodeRef::new(&page).level() < level {
                return Ok(None);
            }
            match self.step(&page, block, key, stamp, level, &mut Ignored)? {
                Step::Here => return Ok(Some(page)),
                Step::Right(next) | Step::Down(next) => block = next,
                Step::Restart => block = self.restart(block, &mut restarts)?,
            }
        }
    }

    /// Latches the page at `level` that covers (key, stamp), exclusively.
    #[inline]
    pub(crate) fn page_for_write(
        &self,
        key: &[u8],
        stamp: Lsn,
        level: u8,
        marks: &mut impl MarksMet,
    ) -> Result<PinnedWrite<'s>> {
        self.page_for_write_from(ROOT_BLOCK, None, key, stamp, level, marks)
    }

    /// Latches the leaf that covers `key`, exclusively, beginning at a leaf on which it was seen in
    /// this epoch.
    #[inline]
    pub(crate) fn leaf_for_write_from(
        &self,
        from: BlockNo,
        key: &[u8],
        marks: &mut impl MarksMet,
    ) -> Result<PinnedWrite<'s>> {
        self.page_for_write_from(from, Some(0), key, Lsn::MAX, 0, marks)
    }

    /// `known` is the level of the page at `block`, once a page has told it. The root may grow at
    /// any time.
    #[inline]
    fn page_for_write_from(
        &self,
        mut block: BlockNo,
        mut known: Option<u8>,
        key: &[u8],
        stamp: Lsn,
        level: u8,
        marks: &mut impl MarksMet,
    ) -> Result<PinnedWrite<'s>> {
        let (mut restarts, mut visits) = (0, 0);
        loop {
            self.visit(block, &mut visits)?;
            let pin = self.fetch(block)?;
            let (step, seen) = if known == Some(level) {
                let page = pin.into_write();
                match self.step(&page, block, key, stamp, level, marks)? {
                    Step::Here => return Ok(page),
                    step => (step, NodeRef::new(&page).level()),
                }
            } else {
                let page = pin.into_read();
                let step = self.step(&page, block, key, stamp, level, marks)?;
                (step, NodeRef::new(&page).level())
            };
            match step {
                // The root itself: to be latched again, for writing.
                Step::Here => known = Some(seen),
                Step::Right(next) => (block, known) = (next, Some(seen)),
                Step::Down(next) => (block, known) = (next, Some(seen - 1)),
                Step::Restart => (block, known) = (self.restart(block, &mut restarts)?, None),
            }
        }
    }

    /// Counts a page that a descent comes to.
    #[inline]
    fn visit(&self, block: BlockNo, visits: &mut u32) -> Result<()> {
        *visits += 1;
        if *visits > VISITS_MAX {
            return Err(self.broken(block, "links between its pages lead in a circle"));
        }
        Ok(())
    }

    fn restart(&self, block: BlockNo, restarts: &mut usize) -> Result<BlockNo> {
        *restarts += 1;
        if *restarts > RESTARTS_MAX {
            return Err(self.broken(block, "descents from the root lead here again and again"));
        }
        Ok(ROOT_BLOCK)
    }

    /// Whether a page that a descent has come to is part of the tree still.
    ///
    /// # Errors
    /// When it never was.
    #[inline]
    pub(super) fn is_in_tree(&self, page: &PageBytes, block: BlockNo) -> Result<bool> {
        let header = page::header(page);
        if header.flags.get() & flags::GONE != 0 {
            return Ok(false);
        }
        let in_tree = header.kind == PageKind::Leaf as u8 || header.kind == PageKind::Inner as u8;
        if !in_tree {
            let kind = page::kind(page).map_or("damaged", PageKind::name);
            return Err(self.broken(block, format!("a {kind} page where the tree goes on")));
        }
        Ok(true)
    }

    /// Whether a page to which the right link of a leaf that ends at `end` has led is still a leaf of
    /// the tree.
    ///
    /// # Errors
    /// When it never was, or does not end behind that one.
    #[inline]
    pub(super) fn goes_on_at(
        &self,
        end: Bound<'_>,
        page: &PageBytes,
        block: BlockNo,
    ) -> Result<bool> {
        if !self.is_in_tree(page, block)? {
            return Ok(false);
        }
        let node = NodeRef::new(page);
        if node.level() != 0 {
            let what = format!("level {} to the right of a leaf", node.level());
            return Err(self.broken(block, what));
        }
        let high = node.high_key();
        if high.is_some_and(|high| !high.is_above(end.key, end.stamp)) {
            return Err(self.broken(block, "a right link leads back here"));
        }
        Ok(true)
    }

    /// What to do after `page`, on the way to the page at `level` that covers (key, stamp).
    #[inline]
    fn step(
        &self,
        page: &PageBytes,
        block: BlockNo,
        key: &[u8],
        stamp: Lsn,
        level: u8,
        marks: &mut impl MarksMet,
    ) -> Result<Step> {
        let node = NodeRef::new(page);
        let header = page::header(page);
        if !self.is_in_tree(page, block)? {
            return Ok(Step::Restart);
        }
        if node.flags() & flags::SPLIT_INCOMPLETE != 0 {
            marks.met(block);
        }
        if !node.covers(key, stamp) {
            let right = node.right_link();
            let right =
                right.ok_or_else(|| self.broken(block, "a high key without a right sibling"))?;
            return Ok(Step::Right(right));
        }
        if header.level == level {
            return Ok(Step::Here);
        }
        if header.level < level {
            // Only the root changes its level, and only upwards.
            return Err(self.broken(block, format!("level {} above level {level}", header.level)));
        }
        Ok(Step::Down(node.child_for(key, stamp).1))
    }
}
