//! How much memory a thread takes: an allocator that counts, for tests that hold it against a bound.
//!
//! Invariants:
//! - What a thread asks for and gives back counts for that thread alone, so that tests beside each
//!   other do not disturb each other's counts.
//! - Memory counts when it is asked for, touched or not: a length taken from a hostile byte is seen
//!   even if nothing is ever written there.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    // Without an initial value to compute and without a destructor: so the allocator may use them at
    // any moment of the thread's life.
    /// Bytes that the thread holds: fewer than none, if it gives back what others asked for.
    static TAKEN: Cell<isize> = const { Cell::new(0) };
    /// The most that it has held.
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let taken = TAKEN.get().wrapping_add(bytes);
    TAKEN.set(taken);
    MOST.set(MOST.get().max(taken));
}

/// The system's allocator, counting: to be named as `#[global_allocator]`.
#[derive(Debug)]
pub struct CountingAllocator;

// SAFETY: every call is handed on to the system's allocator as it came, which keeps the contract;
// counting neither allocates nor panics.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: our caller promises what the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count((layout.size() as isize).wrapping_neg());
        // SAFETY: as in `alloc`; all memory of ours is the system's.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count((bytes as isize).wrapping_sub(layout.size() as isize));
        // SAFETY: as in `dealloc`.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

/// Runs `body`; says how many bytes the thread held at most meanwhile, beyond those that it held
/// before. Always 0 in a program whose allocator is another.
pub fn most_taken_by<R>(body: impl FnOnce() -> R) -> (R, usize) {
    let before = TAKEN.get();
    MOST.set(before);
    let result = body();
    let most = MOST.get().wrapping_sub(before);
    (result, usize::try_from(most).unwrap_or(0))
}
