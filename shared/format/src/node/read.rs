//! Reading a leaf or inner page: search and access by slot.
//!
//! On pages that passed `verify` the answers are right. On others they are some answer: nothing
//! here panics or reads outside the page.

use super::{
    Bound, InnerCell, LeafCell, LeafEntry, OverflowStub, OverflowStubCell, Payload, SLOTS_MAX,
    SLOTS_START, STAMPED, Slot, cell_flags, entry_order,
};
use crate::page::{self, PageBytes, PageKind};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, Lsn};
use std::cmp::Ordering;

/// How far apart two places are that a processor fetches one by one.
const CACHE_LINE_BYTES: usize = 64;

/// A leaf or inner page, to be read.
#[derive(Clone, Copy)]
pub struct NodeRef<'a> {
    pub(crate) page: &'a PageBytes,
}

/// The head of `key`: the four bytes after the first `skip`, zero-padded (N4).
#[inline]
pub(crate) fn head_of(key: &[u8], skip: usize) -> u32 {
    let tail = key.get(skip..).unwrap_or(&[]);
    if let Some(four) = tail.first_chunk::<4>() {
        return u32::from_be_bytes(*four);
    }
    // At most three bytes: no call to a copying function for them.
    let byte = |at: usize| u32::from(tail.get(at).copied().unwrap_or(0));
    byte(0) << 24 | byte(1) << 16 | byte(2) << 8
}

#[inline]
pub(crate) fn slot_head(slot: &[u8; Slot::BYTES]) -> u32 {
    u32::from_le_bytes([slot[2], slot[3], slot[4], slot[5]])
}

#[inline]
pub(crate) fn slot_offset(slot: &[u8; Slot::BYTES]) -> usize {
    usize::from(u16::from_le_bytes([slot[0], slot[1]]))
}

#[inline]
fn chunk<const N: usize>(page: &[u8], at: usize) -> Option<&[u8; N]> {
    page.get(at..)?.first_chunk::<N>()
}

#[inline]
fn u64_at(page: &[u8], at: usize) -> Option<u64> {
    chunk::<8>(page, at).map(|bytes| u64::from_le_bytes(*bytes))
}

/// The leaf cell at `offset`, and its length; `None` if its fields lead out of `page` or
/// contradict each other.
#[inline]
pub(crate) fn decode_leaf_cell(page: &[u8], offset: usize) -> Option<(LeafEntry<'_>, usize)> {
    let cell: &LeafCell = zerocopy::transmute_ref!(chunk::<{ LeafCell::BYTES }>(page, offset)?);
    let mut at = offset + LeafCell::BYTES;
    let expiry_ms = if cell.flags & cell_flags::EXPIRES == 0 {
        None
    } else {
        at += 8;
        Some(u64_at(page, at - 8)?)
    };
    let key_len = usize::from(cell.key_len.get());
    let key = page.get(at..at + key_len)?;
    at += key_len;
    let value_len = cell.value_len.get();
    let payload = match cell.flags & (cell_flags::TOMBSTONE | cell_flags::OVERFLOW) {
        0 => {
            let value = page.get(at..at.checked_add(value_len as usize)?)?;
            at += value.len();
            Payload::Inline(value)
        }
        cell_flags::OVERFLOW => {
            let bytes = chunk::<{ OverflowStubCell::BYTES }>(page, at)?;
            let stub: &OverflowStubCell = zerocopy::transmute_ref!(bytes);
            at += OverflowStubCell::BYTES;
            Payload::Overflow(OverflowStub {
                first: BlockNo::new(stub.first.get()),
                pages: stub.pages.get(),
                value_bytes: value_len,
                crc: stub.crc.get(),
            })
        }
        cell_flags::TOMBSTONE if value_len == 0 => Payload::Tombstone,
        _ => return None,
    };
    let entry = LeafEntry {
        key,
        stamp: Lsn::new(cell.stamp.get()),
        expiry_ms,
        payload,
    };
    Some((entry, at - offset))
}

/// Key and stamp of the leaf cell at `offset`, without looking at the rest.
#[inline]
fn leaf_key_and_stamp(page: &[u8], offset: usize) -> Option<(&[u8], Lsn)> {
    let cell: &LeafCell = zerocopy::transmute_ref!(chunk::<{ LeafCell::BYTES }>(page, offset)?);
    let expiry_bytes = if cell.flags & cell_flags::EXPIRES == 0 {
        0
    } else {
        8
    };
    let at = offset + LeafCell::BYTES + expiry_bytes;
    let key = page.get(at..at + usize::from(cell.key_len.get()))?;
    Some((key, Lsn::new(cell.stamp.get())))
}

/// The inner or high-key cell at `offset`: bound, child, length.
#[inline]
pub(crate) fn decode_inner_cell(page: &[u8], offset: usize) -> Option<(Bound<'_>, BlockNo, usize)> {
    let cell: &InnerCell = zerocopy::transmute_ref!(chunk::<{ InnerCell::BYTES }>(page, offset)?);
    let mut at = offset + InnerCell::BYTES;
    let stamp = if cell.flags & STAMPED == 0 {
        Lsn::MAX
    } else {
        at += 8;
        Lsn::new(u64_at(page, at - 8)?)
    };
    let key_len = usize::from(cell.key_len.get());
    let key = page.get(at..at + key_len)?;
    let bytes = at + key_len - offset;
    Some((Bound { key, stamp }, BlockNo::new(cell.child.get()), bytes))
}

impl<'a> NodeRef<'a> {
    /// Looks at `page` as a leaf or inner page. The kind is the caller's to check.
    #[inline]
    pub fn new(page: &'a PageBytes) -> Self {
        Self { page }
    }

    /// Whether the page is a leaf.
    #[inline]
    pub fn is_leaf(&self) -> bool {
        page::header(self.page).kind == PageKind::Leaf as u8
    }

    /// Height above the leaves.
    #[inline]
    pub fn level(&self) -> u8 {
        page::header(self.page).level
    }

    /// The page's flag bits, see [`page::flags`].
    #[inline]
    pub fn flags(&self) -> u16 {
        page::page_flags(self.page)
    }

    /// Number of slots.
    #[inline]
    pub fn count(&self) -> usize {
        usize::from(page::header(self.page).slot_count.get()).min(SLOTS_MAX)
    }

    /// The right sibling.
    #[inline]
    pub fn right_link(&self) -> Option<BlockNo> {
        page::right_link(self.page)
    }

    /// The page's upper end; `None` is plus infinity.
    #[inline]
    pub fn high_key(&self) -> Option<Bound<'a>> {
        match page::header(self.page).high_key.get() {
            0 => None,
            offset => decode_inner_cell(self.page, usize::from(offset)).map(|cell| cell.0),
        }
    }

    #[inline]
    pub(crate) fn slots(&self) -> &'a [[u8; Slot::BYTES]] {
        // `count` is limited to what fits, so the range is inside the page.
        self.page[SLOTS_START..SLOTS_START + self.count() * Slot::BYTES]
            .as_chunks()
            .0
    }

    /// Where the cell in `slot` begins, in bytes from the start of the page; the page's size if there
    /// is no such slot.
    #[inline]
    pub fn offset(&self, slot: usize) -> usize {
        self.slots().get(slot).map_or(PAGE_BYTES, slot_offset)
    }

    /// The first slot that takes part in heads and common prefix: an inner page's first is minus
    /// infinity.
    #[inline]
    pub(crate) fn first_keyed(&self) -> usize {
        usize::from(!self.is_leaf())
    }

    #[inline]
    pub(crate) fn head_skip(&self) -> usize {
        usize::from(page::header(self.page).head_skip.get())
    }

    /// The version in `slot` of a leaf.
    #[inline]
    pub fn leaf_entry(&self, slot: usize) -> LeafEntry<'a> {
        decode_leaf_cell(self.page, self.offset(slot)).map_or(LeafEntry::NOTHING, |cell| cell.0)
    }

    /// The bound and child in `slot` of an inner page; slot 0's bound is minus infinity.
    #[inline]
    pub fn inner_entry(&self, slot: usize) -> (Bound<'a>, BlockNo) {
        match decode_inner_cell(self.page, self.offset(slot)) {
            Some((bound, child, _)) => (bound, child),
            None => (Bound::before_key(&[]), BlockNo::new(0)),
        }
    }

    /// Key and stamp in `slot`, for either kind of page.
    #[inline]
    pub fn key_and_stamp(&self, slot: usize) -> (&'a [u8], Lsn) {
        let offset = self.offset(slot);
        let found = if self.is_leaf() {
            leaf_key_and_stamp(self.page, offset)
        } else {
            decode_inner_cell(self.page, offset).map(|(bound, _, _)| (bound.key, bound.stamp))
        };
        found.unwrap_or((&[], Lsn::ZERO))
    }

    /// Bytes of the cell in `slot`, without the slot.
    pub fn cell_bytes(&self, slot: usize) -> usize {
        let offset = self.offset(slot);
        if self.is_leaf() {
            decode_leaf_cell(self.page, offset).map_or(0, |cell| cell.1)
        } else {
            decode_inner_cell(self.page, offset).map_or(0, |cell| cell.2)
        }
    }

    pub(crate) fn high_key_bytes(&self) -> usize {
        self.high_key().map_or(0, |bound| bound.cell_bytes())
    }

    /// The first slot whose entry is not before (key, stamp); [`NodeRef::count`] if there is none.
    ///
    /// `lower_bound(key, Lsn::MAX)` is the newest version of the key, `lower_bound(key, s)` the
    /// newest stamped at or below s, if the entry found there has the key. When the answer is the
    /// count and the high key has the same key, the version may be on the right sibling. On an
    /// inner page slot 0 is before everything.
    #[inline]
    pub fn lower_bound(&self, key: &[u8], stamp: Lsn) -> usize {
        let slots = self.slots();
        let first = self.first_keyed();
        let Some(keyed) = slots.get(first..).filter(|keyed| !keyed.is_empty()) else {
            return slots.len();
        };
        let skip = self.head_skip();
        let probe = head_of(key, skip);
        let low = keyed.partition_point(|slot| slot_head(slot) < probe);
        // The heads speak only of keys that share the page's prefix; any cell shows it. The one
        // looked at is the one that is asked for, if it is there.
        let near = low.min(keyed.len() - 1);
        let (near_key, near_stamp) = self.key_and_stamp(near + first);
        let order = near_key.cmp(key);
        if order != Ordering::Equal && skip > 0 {
            let prefix = near_key.get(..skip).unwrap_or(near_key);
            match key.get(..skip).unwrap_or(key).cmp(prefix) {
                Ordering::Less => return first,
                Ordering::Greater => return slots.len(),
                Ordering::Equal => {}
            }
        }
        let same_head = near == low && slot_head(&keyed[low]) == probe;
        if !same_head || order.then(stamp.cmp(&near_stamp)) != Ordering::Less {
            return low + first;
        }
        self.lower_bound_among(low + first + 1, probe, key, stamp)
    }

    /// The rest of [`NodeRef::lower_bound`], among the slots from `low` on that have the head
    /// `probe`: compares whole keys.
    fn lower_bound_among(&self, low: usize, probe: u32, key: &[u8], stamp: Lsn) -> usize {
        let rest = self.slots().get(low..).unwrap_or(&[]);
        if rest.first().is_none_or(|slot| slot_head(slot) != probe) {
            return low;
        }
        let (mut low, mut high) = (low, low + rest.partition_point(|s| slot_head(s) <= probe));
        while low < high {
            let middle = low + (high - low) / 2;
            let (middle_key, middle_stamp) = self.key_and_stamp(middle);
            if entry_order(middle_key, middle_stamp, key, stamp) == Ordering::Less {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Offsets on the page that a search for `key` will look at behind the slots, or that a new
    /// version of it will be written to; only the slots are looked at to tell.
    #[inline]
    pub fn places_ahead(&self, key: &[u8]) -> [usize; 5] {
        let header = page::header(self.page);
        let probe = head_of(key, self.head_skip());
        let near = self.slots().partition_point(|slot| slot_head(slot) < probe);
        let cell = self.offset(near);
        let upper = usize::from(header.upper.get());
        [
            usize::from(header.high_key.get()),
            cell,
            cell + CACHE_LINE_BYTES,
            upper.saturating_sub(CACHE_LINE_BYTES),
            upper.saturating_sub(2 * CACHE_LINE_BYTES),
        ]
    }

    /// Whether (key, stamp) lies below the page's high key. (The lower end is not on the page.)
    #[inline]
    pub fn covers(&self, key: &[u8], stamp: Lsn) -> bool {
        self.high_key().is_none_or(|high| high.is_above(key, stamp))
    }

    /// The child of an inner page in whose range (key, stamp) lies, and its slot.
    #[inline]
    pub fn child_for(&self, key: &[u8], stamp: Lsn) -> (usize, BlockNo) {
        // An entry equal to a bound belongs to the child behind the bound.
        let slot = self.lower_bound(key, stamp);
        let exact = slot < self.count() && self.key_and_stamp(slot) == (key, stamp);
        let slot = if exact { slot } else { slot.saturating_sub(1) };
        (slot, self.inner_entry(slot).1)
    }

    /// Bytes between the slots and the cells.
    #[inline]
    pub fn free_bytes(&self) -> usize {
        let header = page::header(self.page);
        usize::from(header.upper.get()).saturating_sub(usize::from(header.lower.get()))
    }

    /// Bytes that would be free between slots and cells after compacting.
    #[inline]
    pub fn free_bytes_after_compact(&self) -> usize {
        self.free_bytes() + usize::from(page::header(self.page).garbage.get())
    }

    /// Whether a cell of `cell_bytes` and its slot fit, after compacting if need be.
    #[inline]
    pub fn fits(&self, cell_bytes: usize) -> bool {
        cell_bytes + Slot::BYTES <= self.free_bytes_after_compact()
    }

    /// The slots of all versions of `key` on this page, newest first.
    pub fn versions_of(&self, key: &[u8]) -> std::ops::Range<usize> {
        let first = self.lower_bound(key, Lsn::MAX);
        let mut end = first;
        while end < self.count() && self.key_and_stamp(end).0 == key {
            end += 1;
        }
        first..end
    }
}
