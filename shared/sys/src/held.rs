//! What this thread holds: frames (so that a fork can be refused) and, in debug builds, ranks.
//!
//! Guards never leave their thread, so thread-local counts are exact; where logical processes share
//! a thread (`simproc`), each has its own.

use std::cell::Cell;

thread_local! {
    static FRAMES: Cell<u32> = const { Cell::new(0) };
}

#[inline]
pub(crate) fn enter_frame() {
    FRAMES.set(
        FRAMES
            .get()
            .checked_add(1)
            .expect("no thread holds four billion frames"),
    );
}

#[inline]
pub(crate) fn leave_frame() {
    FRAMES.set(FRAMES.get() - 1);
}

/// Guards of frames that this thread holds (leaked ones included).
pub(crate) fn frames() -> u32 {
    FRAMES.get()
}

/// All that a thread holds.
#[cfg(feature = "sim")]
#[derive(Default)]
pub(crate) struct Held {
    frames: u32,
    ranks: RanksHeld,
}

/// What runs on this thread is another process from now on, which holds `held`; gives what the one
/// before it holds.
#[cfg(feature = "sim")]
pub(crate) fn replace(held: Held) -> Held {
    Held {
        frames: FRAMES.replace(held.frames),
        ranks: replace_ranks(held.ranks),
    }
}

#[cfg(debug_assertions)]
mod ranks {
    use std::cell::RefCell;

    /// How many latches of each rank are held; none before the first is.
    type Ranks = Option<Box<[u8; 256]>>;

    thread_local! {
        static RANKS: RefCell<Ranks> = const { RefCell::new(None) };
    }

    #[cfg(feature = "sim")]
    #[derive(Default)]
    pub(crate) struct RanksHeld(Ranks);

    #[cfg(feature = "sim")]
    pub(crate) fn replace_ranks(held: RanksHeld) -> RanksHeld {
        RanksHeld(RANKS.replace(held.0))
    }

    fn with_count<R>(rank: u8, with: impl FnOnce(&mut u8) -> R) -> R {
        RANKS.with_borrow_mut(|held| {
            let held = held.get_or_insert_with(|| Box::new([0; 256]));
            with(&mut held[usize::from(rank)])
        })
    }

    /// The highest rank held that is at or above `rank`.
    pub(crate) fn rank_above(rank: u8) -> Option<u8> {
        RANKS.with_borrow(|held| {
            let held = held.as_ref()?;
            (rank..=u8::MAX).rev().find(|at| held[usize::from(*at)] > 0)
        })
    }

    pub(crate) fn check_rank(rank: u8) {
        if rank == 0 {
            return;
        }
        if let Some(held) = rank_above(rank) {
            crate::crash::panic_abort(&format!(
                "a latch of rank {rank} was asked for while one of rank {held} is held"
            ));
        }
    }

    pub(crate) fn enter_rank(rank: u8) {
        if rank != 0 {
            with_count(rank, |count| *count += 1);
        }
    }

    pub(crate) fn leave_rank(rank: u8) {
        if rank != 0 {
            with_count(rank, |count| *count -= 1);
        }
    }
}

#[cfg(not(debug_assertions))]
mod ranks {
    #[cfg(feature = "sim")]
    pub(crate) type RanksHeld = ();
    #[cfg(feature = "sim")]
    pub(crate) fn replace_ranks(_held: RanksHeld) -> RanksHeld {}
    #[inline(always)]
    pub(crate) fn check_rank(_rank: u8) {}
    #[inline(always)]
    pub(crate) fn enter_rank(_rank: u8) {}
    #[inline(always)]
    pub(crate) fn leave_rank(_rank: u8) {}
}

pub(crate) use ranks::*;
