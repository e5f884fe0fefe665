//! Who leads and who follows when several processes wait for the log: what a process does at the end of
//! each of its turns, be it a backend's event loop or a simulated one.
//!
//! Whoever has flushed goes on flushing while others ask for it: it is the *leader*; the others only
//! raise their requests. Invariant: a leader's turn ends with one of
//! * the flush done or passed on ([`Leader::follow`]);
//! * the flush stalled: whoever ends the insertion that is in the way wakes the walwriter;
//! * [`Leader::goes_on`]: it must not sleep before its next turn, which sees to the flush.
//!
//! So whatever is asked for is seen to by somebody who is awake.

use super::Wal;
use super::flush::FlushOutcome;
use rd_base::Lsn;

/// Turns that may join a flush before it is done.
const GATHERINGS_MAX: u32 = 4;
/// Flushes that a leader does in a turn; what else belongs to a turn waits for them.
pub const FLUSHES_PER_TURN: usize = 4;

/// What a process does beside flushing, as far as its flushing depends on it.
pub trait Turn {
    /// Sends what has become durable.
    fn release(&mut self);
    /// Up to where what waits for the log waits for it; none if nothing does.
    fn awaited(&self) -> Option<Lsn>;
    /// Whether somebody would suffer if this process was away for a flush.
    fn leaves_flushing(&self) -> bool;
    /// Whether the time had come, when the last flush was done, for something that no event tells.
    fn something_is_due(&self) -> bool;
    /// Whether there is more to serve.
    fn something_is_ready(&mut self) -> bool;
    /// One flush.
    fn flush(&mut self) -> FlushOutcome;
}

/// What a process knows of its part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leader {
    /// Turns that have ended since a flush was due.
    gatherings: u32,
    /// Whether this process did the last flush, or was handed the next: it must do it or pass it on.
    is_leader: bool,
}

impl Leader {
    /// Takes note of whether the next flush was handed to this process
    /// ([`crate::procs::Procs::take_nomination`]).
    pub fn nominate(&mut self, is_nominated: bool) {
        self.is_leader |= is_nominated;
    }

    /// Whether its flush is still to come, so that its owner must not sleep.
    pub fn goes_on(&self) -> bool {
        self.gatherings > 0
    }

    /// The end of a turn: sees to it that what waits for the disk gets there, and sends what has got
    /// there. True if others see to what this process waits for.
    pub fn settle(&mut self, wal: &Wal, turn: &mut impl Turn) -> bool {
        let mut flushes = 0;
        loop {
            turn.release();
            let own = turn.awaited();
            if let Some(lsn) = own {
                wal.note_request(lsn);
            }
            let is_wanted = own.is_some() || self.is_leader && wal.wants_flush();
            if !is_wanted || turn.leaves_flushing() {
                self.gatherings = 0;
                return self.follow(wal, own);
            }
            let is_over = flushes > 0 && (flushes >= FLUSHES_PER_TURN || turn.something_is_due());
            if is_over || self.gatherings < GATHERINGS_MAX && turn.something_is_ready() {
                // Not asleep until the flush is done or passed on.
                self.gatherings += 1;
                return false;
            }
            self.gatherings = 0;
            self.is_leader = true;
            flushes += 1;
            match turn.flush() {
                FlushOutcome::Flushed(_) => {}
                // Whoever ends the insertion that is in the way wakes the walwriter. To hand the
                // flush over would send it round among those who can do no more.
                FlushOutcome::Stalled => {
                    self.is_leader = false;
                    return false;
                }
                // Whoever is at it looks at the request; or somebody is woken for it.
                _ => return self.follow(wal, own),
            }
        }
    }

    /// Leaves flushing to others, who see to `own`, what this process waits for and has asked for.
    /// True if that is something.
    pub fn follow(&mut self, wal: &Wal, own: Option<Lsn>) -> bool {
        if std::mem::take(&mut self.is_leader) {
            // For itself and for the others alike: one of them is woken, not the walwriter too.
            wal.pass_flush_on();
        } else if let Some(lsn) = own {
            wal.request_flush(lsn);
        }
        own.is_some()
    }
}
