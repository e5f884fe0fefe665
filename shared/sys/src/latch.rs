//! Latches that processes share: exclusive, and reader-writer. How they work is in `rawlatch.rs`.
//!
//! Invariant: a guard stays on its thread, and its latch is let go when it is dropped. A process
//! that dies with a latch takes the server through crash recovery, so nobody repairs one.

use crate::atomic::AtomicU32;
use crate::atomic::Ordering::Relaxed;
use crate::held;
use crate::rawlatch::{FREE, RawLatch, RawRwLatch};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zerocopy::{FromBytes, KnownLayout};

/// An exclusive latch in shared memory; free when zero.
///
/// `RANK` orders latches: in debug builds a thread that holds a latch of rank r and asks for one of
/// a rank at or below r aborts. Rank 0 is not checked.
#[derive(FromBytes, KnownLayout, Debug, Default)]
#[repr(C)]
pub struct Latch<const RANK: u8 = 0> {
    raw: RawLatch<AtomicU32>,
}

impl<const RANK: u8> Latch<RANK> {
    /// A free latch outside of shared memory, for tests.
    pub const fn new() -> Self {
        Self {
            raw: RawLatch {
                word: AtomicU32::new(FREE),
            },
        }
    }

    /// Waits until it is ours.
    #[inline]
    pub fn lock(&self) -> LatchGuard<'_, RANK> {
        held::check_rank(RANK);
        self.raw.lock();
        self.guard()
    }

    /// Takes it if it is free.
    #[inline]
    pub fn try_lock(&self) -> Option<LatchGuard<'_, RANK>> {
        self.raw.try_lock().then(|| self.guard())
    }

    /// Whether somebody holds it at this moment: for statistics and decisions that a later look
    /// corrects.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.raw.word.load(Relaxed) != FREE
    }

    #[inline]
    fn guard(&self) -> LatchGuard<'_, RANK> {
        held::enter_rank(RANK);
        LatchGuard {
            latch: self,
            stays_on_thread: PhantomData,
        }
    }
}

/// The latch is held while this lives.
#[must_use = "the latch is let go at once"]
pub struct LatchGuard<'a, const RANK: u8 = 0> {
    latch: &'a Latch<RANK>,
    stays_on_thread: PhantomData<*const ()>,
}

impl<const RANK: u8> Drop for LatchGuard<'_, RANK> {
    #[inline]
    fn drop(&mut self) {
        held::leave_rank(RANK);
        self.latch.raw.unlock();
    }
}

/// A reader-writer latch in shared memory; free when zero.
#[derive(FromBytes, KnownLayout, Debug, Default)]
#[repr(C)]
pub struct RwLatch {
    raw: RawRwLatch<AtomicU32>,
}

impl RwLatch {
    /// A free latch outside of shared memory, for tests.
    pub const fn new() -> Self {
        Self {
            raw: RawRwLatch {
                word: AtomicU32::new(FREE),
            },
        }
    }

    /// Waits until no writer has it, and shares it.
    #[inline]
    pub fn read(&self) -> ReadGuard<'_> {
        self.raw.read();
        ReadGuard {
            latch: self,
            stays_on_thread: PhantomData,
        }
    }

    /// Waits until nobody has it, and has it alone.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_> {
        self.raw.write();
        WriteGuard {
            latch: self,
            stays_on_thread: PhantomData,
        }
    }

    /// Shares it unless a writer has it, or waits while others read.
    #[inline]
    pub fn try_read(&self) -> Option<ReadGuard<'_>> {
        self.raw.try_read().then(|| ReadGuard {
            latch: self,
            stays_on_thread: PhantomData,
        })
    }

    /// Has it alone if nobody has it.
    #[inline]
    pub fn try_write(&self) -> Option<WriteGuard<'_>> {
        self.raw.try_write().then(|| WriteGuard {
            latch: self,
            stays_on_thread: PhantomData,
        })
    }

    pub(crate) fn raw(&self) -> &RawRwLatch<AtomicU32> {
        &self.raw
    }
}

/// The latch is shared while this lives.
#[must_use = "the latch is let go at once"]
pub struct ReadGuard<'a> {
    latch: &'a RwLatch,
    stays_on_thread: PhantomData<*const ()>,
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.latch.raw.unlock_read();
    }
}

/// The latch is held alone while this lives.
#[must_use = "the latch is let go at once"]
pub struct WriteGuard<'a> {
    latch: &'a RwLatch,
    stays_on_thread: PhantomData<*const ()>,
}

impl<'a> WriteGuard<'a> {
    /// Lets readers in without letting go.
    pub fn downgrade(self) -> ReadGuard<'a> {
        let latch = self.latch;
        std::mem::forget(self);
        latch.raw.downgrade();
        ReadGuard {
            latch,
            stays_on_thread: PhantomData,
        }
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.latch.raw.unlock_write();
    }
}

/// Locks what the threads of one process share, and what is held over I/O. Whether a holder has
/// panicked does not matter: the process ends then.
pub fn lock_mutex<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The holder may be another logical process of this thread.
    #[cfg(feature = "sim")]
    loop {
        match mutex.try_lock() {
            Ok(guard) => return guard,
            Err(std::sync::TryLockError::Poisoned(held)) => return held.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => {
                if !crate::simproc::pause(crate::simproc::Pause::Wait) {
                    break;
                }
            }
        }
    }
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rawlatch::{HELD, WRITERS_WAIT};
    use std::sync::atomic::AtomicU64;
    use std::thread;

    /// Miri takes its time.
    const TURNS: u64 = if cfg!(miri) { 80 } else { 20_000 };

    #[test]
    fn a_latch_excludes() {
        let (latch, count) = (Latch::<0>::new(), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..TURNS {
                        let _held = latch.lock();
                        // Not one instruction: lost updates would show.
                        count.store(count.load(Relaxed) + 1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 4 * TURNS);
        assert_eq!(latch.raw.word.into_inner(), FREE);
    }

    #[test]
    fn readers_share_and_writers_exclude() {
        let latch = RwLatch::new();
        let (left, right, shared) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            for number in 0..4 {
                let (latch, left, right, shared) = (&latch, &left, &right, &shared);
                scope.spawn(move || {
                    for turn in 0..TURNS {
                        if (turn + number) % 4 == 0 {
                            let held = latch.write();
                            left.store(left.load(Relaxed) + 1, Relaxed);
                            right.store(right.load(Relaxed) + 1, Relaxed);
                            if turn % 8 == 0 {
                                let _still = held.downgrade();
                                assert_eq!(left.load(Relaxed), right.load(Relaxed));
                            }
                        } else {
                            let _held = latch.read();
                            assert_eq!(left.load(Relaxed), right.load(Relaxed));
                            shared.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!((left.into_inner(), shared.into_inner()), (TURNS, 3 * TURNS));
        assert_eq!(latch.raw.word.into_inner() & HELD, FREE);
    }

    #[test]
    fn attempts_fail_instead_of_waiting() {
        let latch = RwLatch::new();
        let reader = latch.read();
        assert!(latch.try_read().is_some() && latch.try_write().is_none());
        drop(reader);
        let writer = latch.try_write().expect("free");
        assert!(latch.try_read().is_none() && latch.try_write().is_none());
        let reader = writer.downgrade();
        assert!(latch.try_read().is_some() && latch.try_write().is_none());
        drop(reader);
        let latch = Latch::<0>::new();
        let held = latch.lock();
        assert!(latch.try_lock().is_none() && latch.is_locked());
        drop(held);
        assert!(latch.try_lock().is_some());
    }

    #[test]
    fn a_waiting_writer_keeps_new_readers_out() {
        let latch = RwLatch::new();
        thread::scope(|scope| {
            let reader = latch.read();
            let writer = scope.spawn(|| drop(latch.write()));
            while latch.raw.word.load(Relaxed) & WRITERS_WAIT == 0 {
                thread::yield_now();
            }
            assert!(latch.try_read().is_none());
            drop(reader);
            writer.join().expect("the writer gets its turn");
        });
        assert!(latch.try_read().is_some());
    }

    #[cfg(debug_assertions)]
    #[test]
    fn ranks_go_up() {
        let (low, high) = (Latch::<3>::new(), Latch::<9>::new());
        let first = low.lock();
        let second = high.lock();
        drop(first);
        drop(second);
        let _first = high.lock();
        assert_eq!(held::rank_above(3), Some(9));
        assert_eq!(held::rank_above(10), None);
    }
}
