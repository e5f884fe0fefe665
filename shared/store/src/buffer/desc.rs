//! The descriptor of a frame: one cache line, its state in one word.
//!
//! Invariant: a descriptor of zeros is a free frame.

use rd_base::{FrameNo, PageTag};
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering};
use zerocopy::{FromBytes, KnownLayout};

/// One pin.
pub(super) const PIN: u64 = 1;
const PINS: u64 = (1 << 20) - 1;
/// One step of the usage count.
pub(super) const USAGE: u64 = 1 << 20;
const USAGE_BITS: u64 = 0b11 << 20;
/// The highest usage count: how many passes of the hand a page survives without being used.
pub(super) const USAGE_MAX: u64 = 3;
/// The frame belongs to a page and is in the page table.
pub(super) const MAPPED: u64 = 1 << 32;
/// The bytes are the page's (B10).
pub(super) const VALID: u64 = 1 << 33;
/// The bytes are newer than the page's last copy.
pub(super) const DIRTY: u64 = 1 << 34;
/// A copy is on its way to its place.
pub(super) const WRITING: u64 = 1 << 35;
/// Taken out of the table by one process, which is about to map it anew.
pub(super) const CLAIMED: u64 = 1 << 36;

/// A state word, read once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(pub u64);

impl State {
    pub fn pins(self) -> u64 {
        self.0 & PINS
    }
    pub fn usage(self) -> u64 {
        (self.0 & USAGE_BITS) / USAGE
    }
    pub fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }
    pub fn has_any(self, flags: u64) -> bool {
        self.0 & flags != 0
    }
}

/// What is known of a frame, beside its bytes and its latch.
#[repr(C, align(64))]
#[derive(FromBytes, KnownLayout)]
pub(super) struct Descriptor {
    /// Pins, usage count and flags. atomic: every change is a compare-and-swap or a fetch-and-op;
    /// a change that publishes something is a Release, one that relies on something an Acquire.
    pub state: AtomicU64,
    /// The page, as [`PageTag::to_u64`]. guard: written only by the owner of a claim; may be read
    /// by anybody, and is trusted only under a pin (B1).
    pub tag: AtomicU64,
    /// First LSN that is not yet in the page's file. guard: written under the exclusive latch of
    /// the frame, before DIRTY is set (Release); means something only while DIRTY.
    pub rec_lsn: AtomicU64,
    /// Next frame of the chain, plus 1; 0 ends it. guard: written under the partition's latch.
    pub next: AtomicU32,
    reserved: [u32; 9],
}

const _: () = assert!(size_of::<Descriptor>() == 64);

impl Descriptor {
    #[inline]
    pub fn load(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    #[inline]
    pub fn page_tag(&self) -> PageTag {
        PageTag::from_u64(self.tag.load(Ordering::Relaxed))
    }

    /// Takes a pin if the frame is mapped to `tag`, and raises the usage count by `usage` steps.
    /// Gives the state as it was before.
    #[inline]
    pub fn pin_if(&self, tag: u64, usage: u64) -> Option<State> {
        let mut state = self.load();
        loop {
            if !state.has(MAPPED) {
                return None;
            }
            debug_assert!(state.pins() < PINS, "B1: too many pins");
            let raised = usage * USAGE * u64::from(state.usage() < USAGE_MAX);
            match self.state.compare_exchange_weak(
                state.0,
                state.0 + PIN + raised,
                Ordering::Acquire,
                Ordering::Acquire,
            ) {
                Ok(_) => break,
                Err(now) => state = State(now),
            }
        }
        // B1: between the look at the tag and the pin the frame may have got another page.
        if self.tag.load(Ordering::Relaxed) == tag {
            return Some(state);
        }
        self.unpin();
        None
    }

    #[inline]
    pub fn unpin(&self) {
        let before = self.state.fetch_sub(PIN, Ordering::Release);
        debug_assert!(State(before).pins() > 0, "B1: a pin was dropped twice");
    }

    /// Replaces `from` by `to`; false if the state has changed.
    #[inline]
    pub fn swap(&self, from: State, to: u64) -> bool {
        self.state
            .compare_exchange(from.0, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}

/// A link: the frame plus 1, so that 0 is none.
#[inline]
pub(super) fn link(frame: FrameNo) -> u32 {
    frame.get() + 1
}

/// The frame that a link names.
#[inline]
pub(super) fn linked(link: u32) -> Option<FrameNo> {
    link.checked_sub(1).map(FrameNo::new)
}
