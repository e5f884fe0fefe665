//! Finding a frame to reuse: one clock hand for all processes, and the sleep of whoever finds none.
//! See "The supply of clean frames" in `README.md`.

use super::desc::{CLAIMED, DIRTY, MAPPED, PIN, State, USAGE, USAGE_MAX, WRITING};
use super::pool::{PageSource, Pool};
use rd_base::FrameNo;
use rd_base::counters::Counter;
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering};
use rd_sys::futex::Condition;
use std::time::Duration;
use zerocopy::{FromBytes, KnownLayout};

/// How long a process sleeps for want of a clean frame before it sweeps again by itself: pins
/// that are dropped wake nobody.
const STARVING_SLEEP: Duration = Duration::from_millis(10);

/// The words of the clock.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
pub(super) struct ClockWords {
    /// The hand; only grows. atomic: Relaxed, every step is one process's.
    pub hand: AtomicU64,
    /// The hand position up to which frames were cleaned. atomic: Relaxed, written by the
    /// checkpointer.
    pub supplied_to: AtomicU64,
    /// Processes that found no frame. atomic: SeqCst, against the checkpointer's look at it.
    pub starving: AtomicU32,
    /// Moves when frames have become clean.
    pub supply: Condition,
    reserved: [u32; 1],
}

impl Pool {
    /// A frame that belongs to no page, claimed for the caller (CLAIMED and one pin). Sleeps while
    /// there is none.
    pub(super) fn claim<S: PageSource + ?Sized>(&self, source: &S) -> FrameNo {
        if let Some(frame) = self.sweep(source) {
            let hand = self.clock.hand.load(Ordering::Relaxed);
            let ahead = self
                .clock
                .supplied_to
                .load(Ordering::Relaxed)
                .saturating_sub(hand);
            if ahead < self.supply_low() {
                source.ask_for_supply();
            }
            return frame;
        }
        loop {
            let ticket = self.clock.supply.ticket();
            self.clock.starving.fetch_add(1, Ordering::SeqCst);
            source.ask_for_supply();
            let found = self.sweep(source);
            if found.is_none() {
                source.note(Counter::CleanFrameWaits);
                self.clock.supply.wait(ticket, Some(STARVING_SLEEP));
            }
            self.clock.starving.fetch_sub(1, Ordering::SeqCst);
            if let Some(frame) = found {
                return frame;
            }
        }
    }

    /// Moves the hand until it finds a frame, for at most as many steps as lower every usage
    /// count to 0.
    fn sweep<S: PageSource + ?Sized>(&self, source: &S) -> Option<FrameNo> {
        let frames = self.frame_count() as u64;
        for _ in 0..frames * (USAGE_MAX + 1) {
            let hand = self.clock.hand.fetch_add(1, Ordering::Relaxed);
            let frame = FrameNo::new((hand % frames) as u32);
            let descriptor = self.table.descriptor(frame);
            let state = descriptor.load();
            if state.pins() > 0 {
                continue;
            }
            if !state.has(MAPPED) {
                if descriptor.swap(state, CLAIMED | PIN) {
                    return Some(frame);
                }
                continue;
            }
            if state.usage() > 0 {
                descriptor.swap(state, state.0 - USAGE);
                continue;
            }
            if state.has_any(DIRTY | WRITING) || !descriptor.swap(state, state.0 + PIN) {
                continue;
            }
            if self.evict(frame) {
                source.note(Counter::FramesEvicted);
                return Some(frame);
            }
        }
        None
    }

    /// Turns the caller's pin into a claim by taking the frame out of the table; else drops the
    /// pin: somebody else wants the page, or has changed it (B7).
    fn evict(&self, frame: FrameNo) -> bool {
        let descriptor = self.table.descriptor(frame);
        let chain = self.table.lock(descriptor.page_tag());
        let state = descriptor.load();
        let idle = state.pins() == 1 && state.usage() == 0 && !state.has_any(DIRTY | WRITING);
        if idle && descriptor.swap(state, CLAIMED | PIN) {
            chain.unlink(frame);
            return true;
        }
        drop(chain);
        descriptor.unpin();
        false
    }

    /// Gives a claimed frame back unused.
    pub(super) fn unclaim(&self, frame: FrameNo) {
        let descriptor = self.table.descriptor(frame);
        debug_assert_eq!(descriptor.load(), State(CLAIMED | PIN));
        descriptor.state.store(0, Ordering::Release);
    }

    /// Clean frames ahead of the hand below which the checkpointer is woken.
    pub(super) fn supply_low(&self) -> u64 {
        self.supply_high() / 2
    }

    /// Clean frames ahead of the hand that the checkpointer provides.
    pub(super) fn supply_high(&self) -> u64 {
        (self.frame_count() as u64 / 8).clamp(8, 16 << 10)
    }
}
