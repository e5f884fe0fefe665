//! How a [`Condition`](crate::futex::Condition) works, for any [`Word`], so that the model checker
//! runs it too.
//!
//! Protocol. Waiter: W1 `ticket`, W2 look at the condition, W3 `wait` with the ticket if it does
//! not hold, and again from W1. Changer: C1 make the condition true, C2 `wake_all`. If C2 comes
//! before W1, W2 sees C1. Else the waiter counts itself and then has the sequence compared, and C2
//! moves the sequence and then looks at the count, with a full fence between on both sides: so
//! either W3 does not sleep, or C2 wakes it.

use crate::word::{SHARED, Word};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use zerocopy::{FromBytes, KnownLayout};

/// Nobody waits when zero.
#[derive(FromBytes, KnownLayout, Debug, Default)]
#[repr(C)]
pub struct RawCondition<W> {
    /// Moves at each change. atomic: Release by the changer, Acquire by the waiter.
    pub(crate) sequence: W,
    /// atomic: ordered against `sequence` by fences on both sides.
    pub(crate) waiters: W,
}

impl<W: Word> RawCondition<W> {
    pub(crate) fn ticket(&self) -> u32 {
        self.sequence.load(Acquire)
    }

    /// `sleep` sleeps on the word while it is the ticket, however long it wants to.
    pub(crate) fn wait(&self, ticket: u32, sleep: impl FnOnce(&W, u32)) {
        self.waiters.fetch_add(1, Relaxed);
        W::full_fence();
        sleep(&self.sequence, ticket);
        self.waiters.fetch_sub(1, Relaxed);
    }

    pub(crate) fn wake_all(&self) {
        self.sequence.fetch_add(1, Release);
        W::full_fence();
        if self.waiters.load(Relaxed) != 0 {
            self.sequence.wake(u32::MAX, SHARED);
        }
    }
}
