//! A walk through a range of keys, in either direction.

use super::scan::{self, At, Chunk, Visit, Walked};
use super::{Tree, backward};
use crate::error::Result;
use rd_base::Lsn;
use std::borrow::Cow;

/// Where a walk is, and where it leads.
#[derive(Clone, Debug)]
pub(crate) enum Course {
    /// To greater keys.
    Up(scan::Place),
    /// To smaller keys.
    Down(backward::Place),
}

impl Course {
    /// The beginning of a walk through the keys from `start` to before `end` (`None`: to the last).
    pub(crate) fn new(start: &[u8], end: Option<&[u8]>, descends: bool) -> Course {
        if descends {
            return Course::Down(backward::Place::new(start, end));
        }
        Course::Up(scan::Place {
            key: start.to_vec(),
            stamp: Lsn::MAX,
            end: end.map(<[u8]>::to_vec),
            done: end.is_some_and(|end| end <= start),
        })
    }

    /// Whether nothing is left.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Course::Up(place) => place.done,
            Course::Down(place) => place.done,
        }
    }

    /// There is nothing.
    pub(crate) fn end(&mut self) {
        match self {
            Course::Up(place) => place.done = true,
            Course::Down(place) => place.done = true,
        }
    }

    /// The keys that are all behind the walk already, if its range is that from `start` to before
    /// `end`: from one to before another (`None`: to the last).
    pub(crate) fn passed<'k>(
        &'k self,
        start: &'k [u8],
        end: Option<&'k [u8]>,
    ) -> (Cow<'k, [u8]>, Option<Cow<'k, [u8]>>) {
        let whole = (Cow::Borrowed(start), end.map(Cow::Borrowed));
        match self {
            _ if self.is_done() => whole,
            Course::Up(place) => {
                // The place is at or behind the last key that was looked at.
                let mut passed = place.key.clone();
                passed.push(0);
                (whole.0, Some(Cow::Owned(passed)))
            }
            Course::Down(place) => match &place.before {
                Some(before) => (Cow::Borrowed(&before.key), whole.1),
                // Before the first step.
                None => (Cow::Borrowed(start), Some(Cow::Borrowed(start))),
            },
        }
    }

    /// Visits the next entries; the walk stands behind them then.
    ///
    /// # Errors
    /// When a page cannot be read; it stands before the entry that could not be read.
    pub(crate) fn walk(
        &mut self,
        tree: Tree<'_>,
        at: At,
        chunk: Chunk,
        visit: &mut Visit<'_>,
    ) -> Result<Walked> {
        match self {
            Course::Up(place) => scan::walk(tree, place, at, chunk, visit),
            Course::Down(place) => backward::walk(tree, place, at, chunk, visit),
        }
    }
}
