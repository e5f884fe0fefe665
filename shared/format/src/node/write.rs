//! Changing a leaf or inner page.
//!
//! The page must have passed `verify` when it came into memory; on any other the changes may
//! panic. Nothing here sets the page LSN: whoever logs the change does.

use super::read::{decode_inner_cell, decode_leaf_cell, head_of};
use super::{
    Bound, InnerCell, LeafCell, LeafEntry, NoRoom, NodeRef, OverflowStubCell, Payload, SLOTS_START,
    STAMPED, Slot,
};
use crate::page::{self, PageBytes, PageHeader, PageKind};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, Lsn};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// A leaf or inner page, to be changed.
pub struct NodeMut<'a> {
    page: &'a mut PageBytes,
}

impl<'a> NodeMut<'a> {
    /// Looks at `page` as a leaf or inner page. The kind is the caller's to check.
    #[inline]
    pub fn new(page: &'a mut PageBytes) -> Self {
        Self { page }
    }

    /// Makes `page` an empty leaf without siblings. Its page LSN is zero.
    pub fn init_leaf(page: &'a mut PageBytes) -> Self {
        Self::init(page, PageKind::Leaf, 0)
    }

    /// Makes `page` an inner page at `level` (at least 1) whose one child, from minus infinity,
    /// is `first_child`. Its page LSN is zero.
    pub fn init_inner(page: &'a mut PageBytes, level: u8, first_child: BlockNo) -> Self {
        assert!(level > 0);
        let mut node = Self::init(page, PageKind::Inner, level);
        let bound = Bound::before_key(&[]);
        let offset = node.open_slot(0, bound.cell_bytes(), 0);
        node.write_inner_cell(offset, bound, first_child);
        node
    }

    pub(crate) fn init(page: &'a mut PageBytes, kind: PageKind, level: u8) -> Self {
        page::init(page, kind);
        let mut node = Self { page };
        let header = node.header();
        header.level = level;
        header.lower.set(SLOTS_START as u16);
        header.upper.set(PAGE_BYTES as u16);
        node
    }

    /// The page, to be read.
    #[inline]
    pub fn as_ref(&self) -> NodeRef<'_> {
        NodeRef::new(self.page)
    }

    /// The bytes of the page.
    #[inline]
    pub fn page(&mut self) -> &mut PageBytes {
        self.page
    }

    #[inline]
    fn header(&mut self) -> &mut PageHeader {
        page::header_mut(self.page)
    }

    /// Sets and clears flag bits, see [`page::flags`].
    pub fn change_flags(&mut self, set: u16, clear: u16) {
        let flags = &mut self.header().flags;
        flags.set(flags.get() & !clear | set);
    }

    /// Replaces the right link.
    pub fn set_right_link(&mut self, right: Option<BlockNo>) {
        self.header().right_link.set(right.map_or(0, BlockNo::get));
    }

    /// Adds a version to a leaf, in its place. Returns its slot.
    ///
    /// The version must be new: no entry with its key and stamp may be there.
    pub fn insert_leaf(&mut self, entry: &LeafEntry<'_>) -> Result<usize, NoRoom> {
        let slot = self.leaf_place(entry)?;
        debug_assert!(!self.is_entry(slot, entry.key, entry.stamp));
        self.insert_leaf_at(slot, entry);
        Ok(slot)
    }

    /// As [`NodeMut::insert_leaf`], of a version that may be there: then nothing is added, and `None`
    /// returned. For what was not looked up before, as the operations of a record.
    pub fn insert_leaf_if_new(&mut self, entry: &LeafEntry<'_>) -> Result<Option<usize>, NoRoom> {
        let slot = self.leaf_place(entry)?;
        if self.is_entry(slot, entry.key, entry.stamp) {
            return Ok(None);
        }
        self.insert_leaf_at(slot, entry);
        Ok(Some(slot))
    }

    /// Makes room for a version, and finds the slot where it belongs.
    fn leaf_place(&mut self, entry: &LeafEntry<'_>) -> Result<usize, NoRoom> {
        debug_assert!(self.as_ref().is_leaf());
        self.make_room(entry.cell_bytes() + Slot::BYTES)?;
        Ok(self.as_ref().lower_bound(entry.key, entry.stamp))
    }

    fn is_entry(&self, slot: usize, key: &[u8], stamp: Lsn) -> bool {
        let node = self.as_ref();
        slot < node.count() && node.key_and_stamp(slot) == (key, stamp)
    }

    fn insert_leaf_at(&mut self, slot: usize, entry: &LeafEntry<'_>) {
        let head = self.admit_key(slot, entry.key);
        let offset = self.open_slot(slot, entry.cell_bytes(), head);
        self.write_leaf_cell(offset, entry);
    }

    /// Puts `entry` in place of the version in `slot`, which has the same key; `entry` must sort
    /// where that one did. Reuses its bytes when they suffice.
    pub fn replace_leaf(&mut self, slot: usize, entry: &LeafEntry<'_>) -> Result<(), NoRoom> {
        debug_assert!(self.as_ref().leaf_entry(slot).key == entry.key);
        let old_bytes = self.as_ref().cell_bytes(slot);
        let new_bytes = entry.cell_bytes();
        if new_bytes <= old_bytes {
            let offset = self.as_ref().offset(slot);
            self.write_leaf_cell(offset, entry);
            self.add_garbage(old_bytes - new_bytes);
            return Ok(());
        }
        let free = self.as_ref().free_bytes_after_compact() + old_bytes;
        if new_bytes > free {
            return Err(NoRoom {
                needed: new_bytes,
                free,
            });
        }
        self.remove(slot);
        self.make_room(new_bytes + Slot::BYTES)
            .expect("counted just now");
        let head = self.admit_key(slot, entry.key);
        let offset = self.open_slot(slot, new_bytes, head);
        self.write_leaf_cell(offset, entry);
        Ok(())
    }

    /// Adds a child to an inner page, in its place. Returns its slot.
    ///
    /// The bound must be new: no child may have it.
    pub fn insert_inner(&mut self, bound: Bound<'_>, child: BlockNo) -> Result<usize, NoRoom> {
        debug_assert!(!self.as_ref().is_leaf());
        let bytes = bound.cell_bytes();
        self.make_room(bytes + Slot::BYTES)?;
        let slot = self.as_ref().lower_bound(bound.key, bound.stamp).max(1);
        let head = self.admit_key(slot, bound.key);
        let offset = self.open_slot(slot, bytes, head);
        self.write_inner_cell(offset, bound, child);
        Ok(slot)
    }

    /// Makes `slot` of an inner page lead to `child`.
    pub fn set_child(&mut self, slot: usize, child: BlockNo) {
        let at = self.as_ref().offset(slot) + std::mem::offset_of!(InnerCell, child);
        self.page[at..at + 4].copy_from_slice(&child.get().to_le_bytes());
    }

    /// Removes the entry in `slot`. Slot 0 of an inner page must stay.
    pub fn remove(&mut self, slot: usize) {
        let bytes = self.as_ref().cell_bytes(slot);
        let offset = self.as_ref().offset(slot);
        let count = self.as_ref().count();
        let at = SLOTS_START + slot * Slot::BYTES;
        let end = SLOTS_START + count * Slot::BYTES;
        self.page.copy_within(at + Slot::BYTES..end, at);
        let header = self.header();
        header.slot_count.set(count as u16 - 1);
        header.lower.set((end - Slot::BYTES) as u16);
        self.release_cell(offset, bytes);
    }

    /// Removes all entries from `slot` on. An inner page keeps slot 0.
    pub fn truncate(&mut self, slot: usize) {
        while self.as_ref().count() > slot {
            self.remove(self.as_ref().count() - 1);
        }
    }

    /// Removes all entries that are not below `bound`, and makes it the high key: what a split
    /// leaves on the left. When the bound does not fit, the entries are gone and the old high key
    /// still stands; the call can be repeated once there is room.
    pub fn truncate_at(&mut self, bound: Bound<'_>) -> Result<(), NoRoom> {
        let slot = self.as_ref().lower_bound(bound.key, bound.stamp);
        self.truncate(slot);
        self.set_high_key(Some(bound))
    }

    /// Replaces the page's upper end. On `NoRoom` the old one stands.
    pub fn set_high_key(&mut self, bound: Option<Bound<'_>>) -> Result<(), NoRoom> {
        let needed = bound.map_or(0, |bound| bound.cell_bytes());
        let old_bytes = self.as_ref().high_key_bytes();
        let free = self.as_ref().free_bytes_after_compact() + old_bytes;
        if needed > free {
            return Err(NoRoom { needed, free });
        }
        let old = usize::from(self.header().high_key.get());
        if old != 0 {
            self.header().high_key.set(0);
            self.release_cell(old, old_bytes);
        }
        if let Some(bound) = bound {
            self.make_room(needed).expect("counted just now");
            let offset = self.take_bytes(needed);
            self.write_inner_cell(offset, bound, BlockNo::new(0));
            self.header().high_key.set(offset as u16);
        }
        Ok(())
    }

    /// Moves the cells together, so that garbage becomes free, and widens the common prefix.
    pub fn compact(&mut self) {
        let old: PageBytes = *self.page;
        let from = NodeRef::new(&old);
        self.header().upper.set(PAGE_BYTES as u16);
        self.header().garbage.set(0);
        for slot in 0..from.count() {
            let (offset, bytes) = (from.offset(slot), from.cell_bytes(slot));
            let to = self.take_bytes(bytes);
            self.page[to..to + bytes].copy_from_slice(&old[offset..offset + bytes]);
            self.set_slot_offset(slot, to);
        }
        let bytes = from.high_key_bytes();
        if bytes != 0 {
            let offset = usize::from(page::header(&old).high_key.get());
            let to = self.take_bytes(bytes);
            self.page[to..to + bytes].copy_from_slice(&old[offset..offset + bytes]);
            self.header().high_key.set(to as u16);
        }
        self.widen_prefix();
    }

    /// Sets `head_skip` to the length of the prefix that all keys share, and the heads with it.
    fn widen_prefix(&mut self) {
        let skip = self.shared_prefix();
        if skip > self.as_ref().head_skip() {
            self.set_head_skip(skip);
        }
    }

    /// Length of the prefix that all keys share: that of the first and the last.
    fn shared_prefix(&self) -> usize {
        let node = self.as_ref();
        let (first, count) = (node.first_keyed(), node.count());
        if count <= first {
            return 0;
        }
        common_prefix(node.key_and_stamp(first).0, node.key_and_stamp(count - 1).0)
    }

    /// Computes common prefix and heads of a page that was filled by `append_from`.
    pub(crate) fn rebuild_heads(&mut self) {
        let skip = self.shared_prefix();
        self.set_head_skip(skip);
    }

    fn set_head_skip(&mut self, skip: usize) {
        self.header().head_skip.set(skip as u16);
        for slot in self.as_ref().first_keyed()..self.as_ref().count() {
            let head = head_of(self.as_ref().key_and_stamp(slot).0, skip);
            let at = SLOTS_START + slot * Slot::BYTES + std::mem::offset_of!(Slot, head);
            self.page[at..at + 4].copy_from_slice(&head.to_le_bytes());
        }
    }

    /// Prepares the page for a key that will stand at `slot`: shortens the common prefix if the
    /// key lacks it. Returns the key's head.
    #[inline]
    fn admit_key(&mut self, slot: usize, key: &[u8]) -> u32 {
        let node = self.as_ref();
        let skip = node.head_skip();
        let count = node.count();
        if count <= node.first_keyed() {
            self.header().head_skip.set(key.len() as u16);
            return 0;
        }
        // Any cell shows the prefix; the neighbour's is in the cache already.
        let (neighbour, _) = node.key_and_stamp(slot.min(count - 1));
        if key.get(..skip) == neighbour.get(..skip) && key.len() >= skip {
            return head_of(key, skip);
        }
        let shorter = common_prefix(key, neighbour).min(skip);
        self.set_head_skip(shorter);
        head_of(key, shorter)
    }

    /// Makes `bytes` free between slots and cells, compacting if that is what it takes.
    #[inline]
    fn make_room(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if self.as_ref().free_bytes() >= bytes {
            return Ok(());
        }
        let free = self.as_ref().free_bytes_after_compact();
        if free < bytes {
            return Err(NoRoom {
                needed: bytes,
                free,
            });
        }
        self.compact();
        Ok(())
    }

    /// Takes `bytes` from the free gap for a cell; they must be there.
    #[inline]
    fn take_bytes(&mut self, bytes: usize) -> usize {
        let header = self.header();
        let offset = usize::from(header.upper.get()) - bytes;
        header.upper.set(offset as u16);
        offset
    }

    /// Opens `slot` for a cell of `bytes`, for which there must be room. Returns its offset.
    #[inline]
    fn open_slot(&mut self, slot: usize, bytes: usize, head: u32) -> usize {
        let count = self.as_ref().count();
        let offset = self.take_bytes(bytes);
        let at = SLOTS_START + slot * Slot::BYTES;
        let end = SLOTS_START + count * Slot::BYTES;
        self.page.copy_within(at..end, at + Slot::BYTES);
        let cell = Slot {
            offset: U16::new(offset as u16),
            head: U32::new(head),
        };
        self.page[at..at + Slot::BYTES].copy_from_slice(cell.as_bytes());
        let header = self.header();
        header.slot_count.set(count as u16 + 1);
        header.lower.set((end + Slot::BYTES) as u16);
        offset
    }

    fn set_slot_offset(&mut self, slot: usize, offset: usize) {
        let at = SLOTS_START + slot * Slot::BYTES;
        self.page[at..at + 2].copy_from_slice(&(offset as u16).to_le_bytes());
    }

    /// Gives a cell's bytes back: to the gap when it borders on it, else to the garbage.
    fn release_cell(&mut self, offset: usize, bytes: usize) {
        let header = self.header();
        if offset == usize::from(header.upper.get()) {
            header.upper.set((offset + bytes) as u16);
        } else {
            self.add_garbage(bytes);
        }
    }

    fn add_garbage(&mut self, bytes: usize) {
        let garbage = &mut self.header().garbage;
        garbage.set(garbage.get() + bytes as u16);
    }

    #[inline]
    fn write_leaf_cell(&mut self, offset: usize, entry: &LeafEntry<'_>) {
        let cell = LeafCell {
            key_len: U16::new(entry.key.len() as u16),
            flags: entry.flags(),
            reserved: 0,
            value_len: U32::new(entry.payload.value_bytes()),
            stamp: U64::new(entry.stamp.get()),
        };
        let mut rest = self.put(offset, cell.as_bytes());
        if let Some(expiry_ms) = entry.expiry_ms {
            rest = self.put(rest, &expiry_ms.to_le_bytes());
        }
        rest = self.put(rest, entry.key);
        match entry.payload {
            Payload::Tombstone => {}
            Payload::Inline(value) => {
                self.put(rest, value);
            }
            Payload::Overflow(stub) => {
                let cell = OverflowStubCell {
                    first: U32::new(stub.first.get()),
                    pages: U32::new(stub.pages),
                    crc: U32::new(stub.crc),
                };
                self.put(rest, cell.as_bytes());
            }
        }
    }

    fn write_inner_cell(&mut self, offset: usize, bound: Bound<'_>, child: BlockNo) {
        let cell = InnerCell {
            key_len: U16::new(bound.key.len() as u16),
            flags: if bound.stamp == Lsn::MAX { 0 } else { STAMPED },
            reserved: 0,
            child: U32::new(child.get()),
        };
        let mut rest = self.put(offset, cell.as_bytes());
        if bound.stamp != Lsn::MAX {
            rest = self.put(rest, &bound.stamp.get().to_le_bytes());
        }
        self.put(rest, bound.key);
    }

    #[inline]
    fn put(&mut self, at: usize, bytes: &[u8]) -> usize {
        self.page[at..at + bytes.len()].copy_from_slice(bytes);
        at + bytes.len()
    }

    /// Appends the cell of `slot` of `from` at the end of this page, which has room. For splits.
    pub(crate) fn append_from(&mut self, from: NodeRef<'_>, slot: usize) {
        let (offset, bytes) = (from.offset(slot), from.cell_bytes(slot));
        let at = self.as_ref().count();
        let to = self.open_slot(at, bytes, 0);
        self.page[to..to + bytes].copy_from_slice(&from.page[offset..offset + bytes]);
        debug_assert!(
            decode_leaf_cell(self.page, to).is_some() || decode_inner_cell(self.page, to).is_some()
        );
    }

    /// Appends a first child from minus infinity. For splits of inner pages.
    pub(crate) fn append_first_child(&mut self, child: BlockNo) {
        let bound = Bound::before_key(&[]);
        let offset = self.open_slot(0, bound.cell_bytes(), 0);
        self.write_inner_cell(offset, bound, child);
    }
}

/// Length of the prefix that both have.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
