//! How latches work: the algorithms, for any [`Word`], so that the model checker runs them too.
//!
//! A latch is one word, zero when free. Without contention, taking and releasing is one atomic
//! read-modify-write each. With it, a waiter looks a few more times and then sleeps.
//!
//! Rules, which the model tests (`model.rs`, feature `loom`) hold against every interleaving:
//!
//! * L1 Nobody goes to sleep on a latch that nobody holds: the kernel compares the word, which
//!   says that it is held and that there are sleepers, before it lets the caller sleep.
//! * L2 Whoever lets go looks at the sleepers' marks in the same instruction, and wakes; whoever
//!   is woken either takes the latch or finds a holder, who will look in turn.
//! * L3 A writer that waits keeps new readers out while there are readers; a writer that lets go
//!   prefers readers, and they pass waiting writers. So neither side is kept out for long.
//! * L4 A dead holder is not repaired: the postmaster ends all and makes the segment anew.

use crate::word::{EXCLUSIVE, SHARED, Word};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use zerocopy::{FromBytes, KnownLayout};

// ---- exclusive ---------------------------------------------------------------------------------

/// The word of a free latch of either kind.
pub(crate) const FREE: u32 = 0;
const TAKEN: u32 = 1;
const TAKEN_WITH_SLEEPERS: u32 = 2;

/// An exclusive latch.
#[derive(FromBytes, KnownLayout, Debug, Default)]
#[repr(transparent)]
pub struct RawLatch<W> {
    pub(crate) word: W,
}

impl<W: Word> RawLatch<W> {
    #[inline]
    pub(crate) fn try_lock(&self) -> bool {
        self.word.compare_exchange(FREE, TAKEN, Acquire).is_ok()
    }

    #[inline]
    pub(crate) fn lock(&self) {
        if !self.try_lock() {
            self.lock_contended();
        }
    }

    #[cold]
    fn lock_contended(&self) {
        for _ in 0..W::SPINS {
            W::pause();
            if self.word.load(Relaxed) == FREE && self.try_lock() {
                return;
            }
        }
        // Whoever has been here may leave other sleepers behind, so takes it with the mark.
        while self.word.swap(TAKEN_WITH_SLEEPERS, Acquire) != FREE {
            self.word.wait(TAKEN_WITH_SLEEPERS, EXCLUSIVE);
        }
    }

    #[inline]
    pub(crate) fn unlock(&self) {
        if self.word.swap(FREE, Release) == TAKEN_WITH_SLEEPERS {
            self.word.wake(1, EXCLUSIVE);
        }
    }
}

// ---- reader-writer -----------------------------------------------------------------------------

/// Bits 0 to 27 of the word count the readers.
const READERS: u32 = (1 << 28) - 1;
/// Writers sleep, or are about to.
pub(crate) const WRITERS_WAIT: u32 = 1 << 29;
/// Readers sleep, or are about to.
const READERS_WAIT: u32 = 1 << 30;
/// A writer holds it.
const WRITER: u32 = 1 << 31;
/// Somebody holds it.
pub(crate) const HELD: u32 = WRITER | READERS;

/// Which sleepers are woken first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Readers,
    Writers,
}

/// A reader-writer latch.
#[derive(FromBytes, KnownLayout, Debug, Default)]
#[repr(transparent)]
pub struct RawRwLatch<W> {
    pub(crate) word: W,
}

/// Whether a reader has to wait. One that was woken passes waiting writers (L3); and when nobody
/// holds the latch nobody may wait (L1).
#[inline]
fn reader_waits(state: u32, woken: bool) -> bool {
    if state & WRITER != 0 {
        return true;
    }
    !woken && state & WRITERS_WAIT != 0 && state & READERS != 0
}

#[inline]
fn one_more_reader(state: u32) -> u32 {
    if state & READERS == READERS {
        crate::crash::panic_abort("a reader-writer latch has more readers than it can count");
    }
    state + 1
}

impl<W: Word> RawRwLatch<W> {
    #[inline]
    pub(crate) fn try_read(&self) -> bool {
        let mut state = FREE;
        loop {
            match self
                .word
                .compare_exchange(state, one_more_reader(state), Acquire)
            {
                Ok(_) => return true,
                Err(now) if reader_waits(now, false) => return false,
                Err(now) => state = now,
            }
        }
    }

    #[inline]
    pub(crate) fn read(&self) {
        if !self.try_read() {
            self.read_contended();
        }
    }

    #[cold]
    fn read_contended(&self) {
        let mut spins = W::SPINS;
        let mut woken = false;
        let mut state = self.word.load(Relaxed);
        loop {
            if !reader_waits(state, woken) {
                match self
                    .word
                    .compare_exchange(state, one_more_reader(state), Acquire)
                {
                    Ok(_) => return,
                    Err(now) => state = now,
                }
            } else if spins > 0 {
                spins -= 1;
                W::pause();
                state = self.word.load(Relaxed);
            } else if state & READERS_WAIT == 0 {
                let marked = self
                    .word
                    .compare_exchange(state, state | READERS_WAIT, Relaxed);
                state = marked.map_or_else(|now| now, |before| before | READERS_WAIT);
            } else {
                woken |= self.word.wait(state, SHARED);
                state = self.word.load(Relaxed);
            }
        }
    }

    #[inline]
    pub(crate) fn unlock_read(&self) {
        let before = self.word.fetch_sub(1, Release);
        if before & READERS == 1 && before & (READERS_WAIT | WRITERS_WAIT) != 0 {
            self.hand_over(First::Writers);
        }
    }

    #[inline]
    pub(crate) fn try_write(&self) -> bool {
        if self.word.compare_exchange(FREE, WRITER, Acquire).is_ok() {
            return true;
        }
        let state = self.word.load(Relaxed);
        state & HELD == 0
            && self
                .word
                .compare_exchange(state, state | WRITER, Acquire)
                .is_ok()
    }

    #[inline]
    pub(crate) fn write(&self) {
        if self.word.compare_exchange(FREE, WRITER, Acquire).is_err() {
            self.write_contended();
        }
    }

    #[cold]
    fn write_contended(&self) {
        let mut spins = W::SPINS;
        // The mark goes away when a sleeper is woken, but others may sleep still: whoever has
        // slept puts it back, at the latest when it takes the latch.
        let mut mark = 0;
        let mut state = self.word.load(Relaxed);
        loop {
            if state & HELD == 0 {
                match self
                    .word
                    .compare_exchange(state, state | WRITER | mark, Acquire)
                {
                    Ok(_) => return,
                    Err(now) => state = now,
                }
            } else if state & mark != mark {
                let marked = self.word.compare_exchange(state, state | mark, Relaxed);
                state = marked.map_or_else(|now| now, |before| before | mark);
            } else if spins > 0 {
                spins -= 1;
                W::pause();
                state = self.word.load(Relaxed);
            } else if state & WRITERS_WAIT == 0 {
                mark = WRITERS_WAIT;
            } else {
                mark = WRITERS_WAIT;
                if self.word.wait(state, EXCLUSIVE) {
                    spins = W::SPINS;
                }
                state = self.word.load(Relaxed);
            }
        }
    }

    #[inline]
    pub(crate) fn unlock_write(&self) {
        if self.word.fetch_and(!WRITER, Release) != WRITER {
            self.hand_over(First::Readers);
        }
    }

    /// From writer to reader, with nobody in between.
    #[inline]
    pub(crate) fn downgrade(&self) {
        let before = self.word.fetch_sub(WRITER - 1, Release);
        if before & READERS_WAIT != 0 {
            self.word.fetch_and(!READERS_WAIT, Relaxed);
            self.word.wake(u32::MAX, SHARED);
        }
    }

    /// Wakes sleepers of a latch that was let go, unless somebody has taken it since: then that is
    /// the holder's duty (L2).
    #[cold]
    fn hand_over(&self, first: First) {
        loop {
            let state = self.word.load(Relaxed);
            if state & HELD != 0 {
                return;
            }
            let readers_turn = match first {
                First::Readers => state & READERS_WAIT != 0,
                First::Writers => state & WRITERS_WAIT == 0,
            };
            let (mark, count, channel) = if readers_turn {
                (READERS_WAIT, u32::MAX, SHARED)
            } else {
                (WRITERS_WAIT, 1, EXCLUSIVE)
            };
            if state & mark == 0 {
                return;
            }
            if self
                .word
                .compare_exchange(state, state & !mark, Relaxed)
                .is_err()
            {
                continue;
            }
            // If nobody slept under this mark, whoever set it is awake and needs nothing; but then
            // the other mark's sleepers have nobody to wake them but us.
            if self.word.wake(count, channel) > 0 {
                return;
            }
        }
    }
}
