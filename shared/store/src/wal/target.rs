//! The target of a flush: the next durable LSN, as those must know of it who decide what nobody
//! reads any more.

use super::between_steps;
use rd_base::Lsn;
use rd_sys::atomic::{AtomicU64, Number, Ordering};
use zerocopy::{FromBytes, KnownLayout};

/// Set in the word of the target while it is being chosen; the other bits are then the least it may
/// become.
const CHOOSING: u64 = 1 << 63;

/// What a flush is about to make durable; see [`Wal::flush_target`](super::Wal::flush_target).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushTarget {
    /// The target announced last: already durable, or about to be. None while one is chosen.
    pub announced: Option<Lsn>,
    /// Every target chosen from now on (or being chosen now) is at or above this.
    pub later_from: Lsn,
}

/// The words of target and completeness.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
pub(crate) struct Target<A = AtomicU64> {
    /// The announced target, or [`CHOOSING`] and a lower bound. guard: flush latch; atomic: SeqCst.
    pub(crate) lsn: A,
    /// The highest position known to be complete (W2). atomic: raised by all who look (SeqCst).
    pub(crate) complete_pos: A,
}

impl<A: Number> Target<A> {
    /// The words of a log that goes on at `end`, all before which is durable.
    pub(crate) fn start_at(&self, end: Lsn, pos: u64) {
        self.lsn.store(end.get(), Ordering::SeqCst);
        self.complete_pos.store(pos, Ordering::SeqCst);
    }

    /// Tells of a position that is complete; returns the highest that is known to be.
    pub(crate) fn raise_complete(&self, pos: u64) -> u64 {
        pos.max(self.complete_pos.fetch_max(pos, Ordering::SeqCst))
    }

    /// F1 and F2, by the holder of the flush latch. `look` finds what is complete, telling of it
    /// ([`Target::raise_complete`]), and whatever else the caller wants of that moment.
    pub(crate) fn choose<T>(&self, durable: Lsn, look: impl FnOnce() -> (Lsn, T)) -> (Lsn, T) {
        self.lsn.store(CHOOSING | durable.get(), Ordering::SeqCst);
        between_steps();
        let (complete, rest) = look();
        between_steps();
        let target = complete.max(durable);
        self.lsn.store(target.get(), Ordering::SeqCst);
        (target, rest)
    }

    /// What a pruner must know, who has found `complete` just now and told of it: both he and a
    /// chooser change the one word of what is complete, he before he looks at the target, the chooser
    /// after he has marked it. So the later of the two sees what the other did.
    pub(crate) fn seen_from(&self, complete: Lsn) -> FlushTarget {
        let word = self.lsn.load(Ordering::SeqCst);
        if word & CHOOSING != 0 {
            return FlushTarget {
                announced: None,
                later_from: Lsn::new(word & !CHOOSING),
            };
        }
        FlushTarget {
            announced: Some(Lsn::new(word)),
            later_from: complete,
        }
    }
}
