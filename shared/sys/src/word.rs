//! The swap point between real shared words and the model checker's.
//!
//! Latches and events are written against [`Word`]: an atomic `u32` on which a thread can sleep.
//! In the server that is an `AtomicU32` with the kernel's futex; under the feature `loom` the same
//! code runs on a word whose every interleaving is explored (`model.rs`).

use crate::atomic::{AtomicU32, Ordering, fence};
use crate::futex;

/// A waiting channel of a word: a wake-up reaches only those who sleep on the same channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Channel(pub(crate) u32);

/// Whoever waits to share.
pub(crate) const SHARED: Channel = Channel(1);
/// Whoever waits to have it alone.
pub(crate) const EXCLUSIVE: Channel = Channel(2);

/// An atomic word that can be slept on.
pub trait Word {
    /// Looks at a held word this many times before sleeping. Small: with few cores the holder
    /// may well wait for ours.
    const SPINS: u32;

    /// As of an `AtomicU32`, like the next six.
    fn load(&self, order: Ordering) -> u32;
    fn compare_exchange(&self, now: u32, new: u32, success: Ordering) -> Result<u32, u32>;
    fn fetch_add(&self, value: u32, order: Ordering) -> u32;
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32;
    fn fetch_and(&self, value: u32, order: Ordering) -> u32;
    fn fetch_or(&self, value: u32, order: Ordering) -> u32;
    fn swap(&self, value: u32, order: Ordering) -> u32;
    /// Sleeps while the word is `expected`; true if a wake-up ended the sleep, false if the word
    /// was another or a signal came.
    fn wait(&self, expected: u32, channel: Channel) -> bool;
    /// Wakes up to `count` sleepers of the channel, and returns how many.
    fn wake(&self, count: u32, channel: Channel) -> u32;
    /// One turn of a spin loop.
    fn pause();
    /// Orders all before it against all after it, stores against loads too.
    fn full_fence();
}

impl Word for AtomicU32 {
    const SPINS: u32 = 64;

    #[inline(always)]
    fn load(&self, order: Ordering) -> u32 {
        AtomicU32::load(self, order)
    }
    #[inline(always)]
    fn compare_exchange(&self, now: u32, new: u32, success: Ordering) -> Result<u32, u32> {
        AtomicU32::compare_exchange(self, now, new, success, Ordering::Relaxed)
    }
    #[inline(always)]
    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_add(self, value, order)
    }
    #[inline(always)]
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_sub(self, value, order)
    }
    #[inline(always)]
    fn fetch_and(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_and(self, value, order)
    }
    #[inline(always)]
    fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::fetch_or(self, value, order)
    }
    #[inline(always)]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        AtomicU32::swap(self, value, order)
    }
    fn wait(&self, expected: u32, channel: Channel) -> bool {
        futex::wait_on(self, expected, channel.0)
    }
    fn wake(&self, count: u32, channel: Channel) -> u32 {
        futex::wake_on(self, count, channel.0)
    }
    #[inline(always)]
    fn pause() {
        std::hint::spin_loop();
    }
    #[inline(always)]
    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}
