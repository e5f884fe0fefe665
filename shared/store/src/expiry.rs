//! What backends tell the one among them that removes keys whose time has come.
//!
//! 1. The first backend that asks becomes the *remover*, until shared memory is made anew.
//! 2. Whoever commits a version that ends at some time lowers the word `next_ms` to it, if that is
//!    sooner, and wakes the remover if it has lowered it.
//! 3. The remover, when that time has come, sets the word to "never", looks through all keys,
//!    removes those that have ended, and lowers the word to the soonest end among the others; if a
//!    page could not be read, to ten minutes from then at the latest.
//!
//! So a key that ends is noted either by 2, after the word was set to "never", or its version is
//! found by 3, or lies where 3 looks again. After a start the word is zero: nothing is known, and all
//! is looked through.

use crate::procs::{Procs, SlotNo};
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering};
use rd_sys::{One, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

/// No key ends.
pub const NEVER_MS: u64 = u64::MAX;

#[repr(C, align(64))]
#[derive(FromBytes, KnownLayout)]
struct Words {
    /// Slot of the remover, and one; 0: none. atomic: taken by compare-exchange.
    remover: AtomicU32,
    _unused: u32,
    /// The soonest end that is not yet dealt with, in milliseconds since 1970. atomic: SeqCst.
    next_ms: AtomicU64,
}

/// Where the words lie in the segment.
#[derive(Clone, Copy)]
pub struct ExpiryRegions {
    words: Region<Words>,
}

impl ExpiryRegions {
    /// Reserves room.
    pub fn plan(plan: &mut Plan) -> ExpiryRegions {
        ExpiryRegions {
            words: plan.reserve(1),
        }
    }
}

/// The words.
#[derive(Clone)]
pub struct Expiry {
    words: One<Words>,
}

impl Expiry {
    /// Opens them.
    pub fn open(segment: &Segment, regions: &ExpiryRegions) -> Expiry {
        Expiry {
            words: segment.one(regions.words),
        }
    }

    /// Whether the process in `slot` is the remover; it becomes it if there is none.
    pub fn is_remover(&self, slot: SlotNo) -> bool {
        let own = slot.index() as u32 + 1;
        let word = &self.words.remover;
        match word.load(Ordering::Relaxed) {
            0 => word
                .compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok(),
            there => there == own,
        }
    }

    /// Notes that a key ends at `expiry_ms`; the commit that says so is applied.
    #[inline]
    pub fn note(&self, procs: &Procs, expiry_ms: u64) {
        if expiry_ms < self.words.next_ms.load(Ordering::SeqCst) {
            self.lower(procs, expiry_ms);
        }
    }

    #[cold]
    fn lower(&self, procs: &Procs, expiry_ms: u64) {
        let before = self.words.next_ms.fetch_min(expiry_ms, Ordering::SeqCst);
        let remover = self.words.remover.load(Ordering::Acquire);
        if expiry_ms < before && remover != 0 {
            procs.event(SlotNo::new(remover as usize - 1)).notify();
        }
    }

    /// The soonest end that is not yet dealt with; 0 if nothing is known.
    pub fn next_ms(&self) -> u64 {
        self.words.next_ms.load(Ordering::SeqCst)
    }

    /// The remover begins to look through all keys.
    pub fn begin(&self) {
        self.words.next_ms.store(NEVER_MS, Ordering::SeqCst);
    }

    /// The remover has found that a key ends at `expiry_ms`.
    pub fn found(&self, expiry_ms: u64) {
        self.words.next_ms.fetch_min(expiry_ms, Ordering::SeqCst);
    }
}
