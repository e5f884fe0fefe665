//! What a transaction has read of one namespace: keys, and ranges of keys.

use super::transaction::ENTRY_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Keys and ranges. Ranges neither touch nor overlap.
#[derive(Default)]
pub(crate) struct Reads {
    keys: BTreeSet<Box<[u8]>>,
    /// From each start to before each end; `None`: to the last key.
    ranges: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    bytes: usize,
}

/// Whether a range that ends at `end` has all keys below `key`.
fn reaches(end: Option<&[u8]>, key: &[u8]) -> bool {
    end.is_none_or(|end| end >= key)
}

impl Reads {
    /// Heap bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    /// The keys, ascending.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().map(|key| &**key)
    }

    /// The ranges, ascending.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let ranges = self.ranges.iter();
        ranges.map(|(start, end)| (&**start, end.as_deref()))
    }

    /// The last range that begins at or before `key`.
    fn range_at(&self, key: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
        let bounds = (Bound::Unbounded, Bound::Included(key));
        let (start, end) = self.ranges.range::<[u8], _>(bounds).next_back()?;
        Some((start, end.as_deref()))
    }

    /// Whether the key was read, or a range that it lies in.
    pub(crate) fn have(&self, key: &[u8]) -> bool {
        let is_in_range = |(_, end): (_, Option<&[u8]>)| end.is_none_or(|end| key < end);
        self.keys.contains(key) || self.range_at(key).is_some_and(is_in_range)
    }

    /// Notes a key.
    pub(crate) fn add_key(&mut self, key: &[u8]) {
        if !self.have(key) {
            self.bytes += ENTRY_BYTES + key.len();
            self.keys.insert(key.into());
        }
    }

    /// Notes the keys from `start` to before `end`; `None`: to the last.
    pub(crate) fn add_range(&mut self, start: &[u8], end: Option<&[u8]>) {
        if end.is_some_and(|end| end <= start) {
            return;
        }
        let mut merged: (Box<[u8]>, Option<Box<[u8]>>) = (start.into(), end.map(Box::from));
        if let Some((before, before_end)) = self.range_at(start)
            && reaches(before_end, start)
        {
            if end.map_or(before_end.is_none(), |end| reaches(before_end, end)) {
                return;
            }
            merged.0 = before.into();
            self.remove_range(&merged.0.clone());
        }
        loop {
            let bounds = (Bound::Included(&*merged.0), Bound::Unbounded);
            let next = self.ranges.range::<[u8], _>(bounds).next();
            let Some((next, next_end)) =
                next.filter(|(next, _)| reaches(merged.1.as_deref(), next))
            else {
                break;
            };
            let (next, next_end) = (next.clone(), next_end.clone());
            if merged
                .1
                .as_ref()
                .is_some_and(|end| reaches(next_end.as_deref(), end))
            {
                merged.1 = next_end;
            }
            self.remove_range(&next);
        }
        self.bytes += ENTRY_BYTES + merged.0.len() + merged.1.as_ref().map_or(0, |end| end.len());
        self.ranges.insert(merged.0, merged.1);
    }

    fn remove_range(&mut self, start: &[u8]) {
        if let Some(end) = self.ranges.remove(start) {
            self.bytes -= ENTRY_BYTES + start.len() + end.map_or(0, |end| end.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys of one letter that are in the ranges.
    fn letters(reads: &Reads) -> String {
        let is_in = |letter: &u8| {
            let key = [*letter];
            reads
                .ranges()
                .any(|(start, end)| start <= &key[..] && end.is_none_or(|end| &key[..] < end))
        };
        (b'a'..=b'z').filter(is_in).map(char::from).collect()
    }

    #[test]
    fn ranges_are_merged_with_all_that_they_meet() {
        // Every order of these must come to the same.
        let ranges: [(&[u8], Option<&[u8]>); 5] = [
            (b"b", Some(b"d")),
            (b"d", Some(b"f")),
            (b"h", Some(b"i")),
            (b"c", Some(b"e")),
            (b"x", None),
        ];
        for first in 0..5 {
            for step in 1..5 {
                let mut reads = Reads::default();
                for index in 0..5 {
                    let (start, end) = ranges[(first + index * step) % 5];
                    reads.add_range(start, end);
                }
                assert_eq!(letters(&reads), "bcdehxyz");
                assert_eq!(reads.ranges().count(), 3);
            }
        }
    }

    #[test]
    fn a_wide_range_swallows_the_others_and_their_bytes() {
        let mut reads = Reads::default();
        reads.add_range(b"m", None);
        let bytes = reads.bytes();
        for (start, end) in [(b"c", b"d"), (b"m", b"p"), (b"n", b"o"), (b"e", b"k")] {
            reads.add_range(start, Some(end));
        }
        assert!(reads.bytes() > bytes);
        reads.add_range(b"a", Some(b"n"));
        assert_eq!(letters(&reads), "abcdefghijklmnopqrstuvwxyz");
        assert_eq!((reads.ranges().count(), reads.bytes()), (1, bytes));
        reads.add_key(b"q");
        reads.add_range(b"z", Some(b"b"));
        assert_eq!(
            reads.bytes(),
            bytes,
            "both are there already, or are nothing"
        );
        reads.add_key(b"A");
        reads.add_key(b"A");
        assert_eq!(reads.keys().collect::<Vec<_>>(), [b"A"]);
        assert!(!reads.is_empty());
    }
}
