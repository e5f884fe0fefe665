//! The page table: which frame holds a page. Chains of frames hang on buckets; the buckets are
//! divided among partitions, each with a latch.
//!
//! Invariant (B12): a frame is in exactly one chain, that of its tag, while it is MAPPED, and in
//! none otherwise, as seen by whoever holds the partition's latch.

use super::desc::{Descriptor, MAPPED, PIN, State, USAGE, USAGE_MAX, link, linked};
use rd_base::{FrameNo, PageTag};
use rd_sys::atomic::{AtomicU32, Ordering};
use rd_sys::latch::{Latch, LatchGuard};
use rd_sys::prefetch::prefetch;
use rd_sys::shm::Area;
use zerocopy::{FromBytes, KnownLayout};

/// Partitions of the page table.
pub(super) const PARTITIONS: usize = 128;
/// Links followed without a latch before the walk is repeated under it: a chain that changes
/// meanwhile may lead anywhere.
const STEPS_MAX: usize = 32;

/// The latch of one partition, on a cache line of its own.
#[repr(C, align(64))]
#[derive(FromBytes, KnownLayout)]
pub(super) struct Partition {
    latch: Latch,
    reserved: [u32; 15],
}

/// How many buckets a pool of `frames` has: a power of two, so that chains stay near one frame.
pub(super) fn bucket_count(frames: usize) -> usize {
    (frames + frames / 2).next_power_of_two().max(PARTITIONS)
}

/// The page table of a pool.
#[derive(Clone)]
pub(super) struct Table {
    /// First frame of each chain, as a link. guard: written under the partition's latch.
    pub buckets: Area<AtomicU32>,
    pub partitions: Area<Partition>,
    pub descriptors: Area<Descriptor>,
}

impl Table {
    #[inline]
    fn bucket(&self, tag: u64) -> usize {
        // A multiplication spreads neighbouring blocks and files; the high bits are the best.
        let hash = (tag ^ tag >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (hash >> 32) as usize & (self.buckets.len() - 1)
    }

    #[inline]
    pub fn descriptor(&self, frame: FrameNo) -> &Descriptor {
        &self.descriptors[frame.get() as usize]
    }

    /// Asks for the bucket of `tag` to be brought into the processor's caches.
    #[inline]
    pub fn prefetch_bucket(&self, tag: PageTag) {
        prefetch(&self.buckets[self.bucket(tag.to_u64())]);
    }

    /// The frame that heads the chain of `tag`, whose descriptor is asked for: that of `tag`, if it
    /// is in memory, more often than not.
    #[inline]
    pub fn prefetch_descriptor(&self, tag: PageTag) -> Option<FrameNo> {
        let bucket = &self.buckets[self.bucket(tag.to_u64())];
        let frame = linked(bucket.load(Ordering::Relaxed))?;
        prefetch(self.descriptor(frame));
        Some(frame)
    }

    /// The frame that seems to hold `tag`, found without a latch: what changes meanwhile may be missed.
    #[inline]
    pub fn find_quickly(&self, tag: PageTag) -> Option<FrameNo> {
        let tag = tag.to_u64();
        let mut at = self.buckets[self.bucket(tag)].load(Ordering::Acquire);
        for _ in 0..STEPS_MAX {
            let frame = linked(at)?;
            let descriptor = self.descriptor(frame);
            if descriptor.tag.load(Ordering::Relaxed) == tag {
                return Some(frame);
            }
            at = descriptor.next.load(Ordering::Acquire);
        }
        None
    }

    /// Pins the frame of `tag`, if it is found without a latch, and raises its usage count by
    /// `usage` steps; gives its state before.
    #[inline]
    pub fn pin_quickly(&self, tag: PageTag, usage: u64) -> Option<(FrameNo, State)> {
        let frame = self.find_quickly(tag)?;
        let state = self.descriptor(frame).pin_if(tag.to_u64(), usage)?;
        Some((frame, state))
    }

    /// The chain of `tag`, which does not change while this lives.
    pub fn lock(&self, tag: PageTag) -> Chain<'_> {
        let bucket = self.bucket(tag.to_u64());
        Chain {
            _guard: self.partitions[bucket % PARTITIONS].latch.lock(),
            table: self,
            head: &self.buckets[bucket],
            tag: tag.to_u64(),
        }
    }
}

/// A chain whose partition is latched.
pub(super) struct Chain<'a> {
    _guard: LatchGuard<'a>,
    table: &'a Table,
    head: &'a AtomicU32,
    tag: u64,
}

impl Chain<'_> {
    /// Pins the frame of the tag, if there is one; gives its state before the pin.
    pub fn pin(&self) -> Option<(FrameNo, State)> {
        let mut at = linked(self.head.load(Ordering::Relaxed));
        while let Some(frame) = at {
            let descriptor = self.table.descriptor(frame);
            if descriptor.tag.load(Ordering::Relaxed) == self.tag {
                let state = descriptor.pin_if(self.tag, 1);
                // The latch is held, so the frame is mapped (B12), and stays so.
                return Some((frame, state.expect("B12: a frame in a chain is mapped")));
            }
            at = linked(descriptor.next.load(Ordering::Relaxed));
        }
        None
    }

    /// Maps the claimed `frame` to the tag, pinned once.
    pub fn insert(&self, frame: FrameNo) {
        let descriptor = self.table.descriptor(frame);
        descriptor.tag.store(self.tag, Ordering::Relaxed);
        descriptor
            .next
            .store(self.head.load(Ordering::Relaxed), Ordering::Relaxed);
        // Publishes the tag to whoever pins.
        descriptor
            .state
            .store(MAPPED | USAGE | PIN, Ordering::Release);
        self.head.store(link(frame), Ordering::Release);
    }

    /// Takes `frame` out of the chain; its state is the caller's business.
    pub fn unlink(&self, frame: FrameNo) {
        let next = self.table.descriptor(frame).next.load(Ordering::Relaxed);
        let mut place = self.head;
        loop {
            let at = place.load(Ordering::Relaxed);
            if at == link(frame) {
                place.store(next, Ordering::Release);
                return;
            }
            let frame = linked(at).expect("B12: a mapped frame is in its tag's chain");
            place = &self.table.descriptor(frame).next;
        }
    }
}

const _: () = assert!(USAGE_MAX >= 1);
