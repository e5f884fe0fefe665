//! Epochs: when nobody can be looking any more at what was unlinked.
//!
//! What a descent may still be looking at (a leaf taken out of its tree, the file of a dropped
//! namespace) is given back only when every descent begun before has ended. Ends are told by
//! quiescent states, not by each descent:
//!
//! 1. A process enters: it publishes the server's epoch in its slot, before its first descent.
//! 2. It leaves (publishes 0) before it sleeps, and enters again afterwards; a backend does so once
//!    per turn of its loop.
//! 3. Whoever has unlinked something moves the epoch on ([`Epoch::bump`]) and keeps the number
//!    beside it; for a file the checkpointer does, when its drop is durable, since readers come to it
//!    until then.
//! 4. It may be given back once [`all_past`] says that every slot shows 0 or that number.
//!
//! Invariant: a process that shows epoch `e` sees everything that was unlinked before the epoch
//! became `e` as unlinked.
//!
//! Why that is so under any order of memory: who reads the epoch that 3 made acquires the unlinking.
//! Who read the one before has stored it and fenced (1) before he looks; and at 4 there is a fence
//! between the unlinking and the look at his slot. So either 4 sees what he shows, or he sees that it
//! is unlinked. And who shows 0, or a later epoch, has released by that store whatever he did before.
//! `reorderings.rs` runs this.

use rd_sys::atomic::{AtomicU64, Number, Ordering};
use zerocopy::{FromBytes, KnownLayout};

/// The server's epoch.
#[repr(transparent)]
#[derive(FromBytes, KnownLayout)]
pub(crate) struct Epoch<A = AtomicU64> {
    /// Less one, so that zeroed memory is valid. atomic: SeqCst.
    pub(crate) less_one: A,
}

impl<A: Number> Epoch<A> {
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        self.less_one.load(Ordering::SeqCst) + 1
    }

    /// Step 3.
    pub(crate) fn bump(&self) -> u64 {
        self.less_one.fetch_add(1, Ordering::SeqCst) + 2
    }
}

/// What one process shows of its descents.
#[repr(transparent)]
#[derive(FromBytes, KnownLayout)]
pub(crate) struct Shown<A = AtomicU64> {
    /// The epoch in which the owner began its descents; 0 between them.
    /// atomic: stored SeqCst by the owner, loaded SeqCst by whoever reclaims.
    pub(crate) epoch: A,
}

impl<A: Number> Shown<A> {
    /// Step 1.
    pub(crate) fn enter(&self, server: &Epoch<A>) {
        self.epoch.store(server.now(), Ordering::SeqCst);
        // Orders the store before the loads of the descent that follows.
        A::full_fence();
    }

    /// Step 2.
    pub(crate) fn leave(&self) {
        self.epoch.store(0, Ordering::SeqCst);
    }
}

/// Step 4.
pub(crate) fn all_past<'s, A: Number + 's>(
    shown: impl IntoIterator<Item = &'s Shown<A>>,
    epoch: u64,
) -> bool {
    A::full_fence();
    shown.into_iter().all(|shown| {
        let shown = shown.epoch.load(Ordering::SeqCst);
        shown == 0 || shown >= epoch
    })
}
