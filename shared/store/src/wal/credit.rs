//! Credit: room in the log that is taken before a change begins, so that the reservation in its
//! middle cannot fail.
//!
//! One word, `credit_pos`, is the insert position and all credit that is out; inserting moves the
//! position and spends the credit, so it leaves the word as it is. Credit is given while the word
//! stays within the prepared segments and within the ring. Because the word bounds the insert
//! position from above, a record with credit always finds its segment, and finds room in the ring
//! unless one larger than the ring came before it; then it waits for the flusher, not for others.
//!
//! Of very large credit only a part must be free in the ring, so that it can be had at all: half of
//! what is free when everything is written (the page of the written position stays, W4).
//!
//! [`SEGMENT_RESERVE_BYTES`] of the prepared segments are kept for checkpoints and drops, which
//! must go on when the disk is full; half of it for checkpoints alone.
//!
//! No refused taker sleeps for ever: he sets `room_wanted` and tries once more; whoever gives room
//! (a flusher, the preparer, one who returns credit) gives it first and looks at the word then.

use super::{USABLE, Wal, between_steps};
use rd_format::wal_record;
use rd_sys::atomic::Ordering;

/// Bytes of prepared segments that only [`Wal::take_reserved_credit`] gives, and half of them
/// [`Wal::take_credit_for_drop`].
pub const SEGMENT_RESERVE_BYTES: u64 = 256 << 10;

/// Why there is no credit now. The taker was noted: parked processes are woken when there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCredit {
    /// The ring is full; the walwriter was asked to write.
    #[error("the ring of the write-ahead log is full")]
    Ring,
    /// The prepared segments are full; more were asked for. See [`Wal::segments_blocked`].
    #[error("no segment of the write-ahead log is ready to be written")]
    Segments,
}

/// Credit that a record of `record_bytes` needs.
pub const fn credit_for(record_bytes: usize) -> u64 {
    wal_record::padded(record_bytes) as u64
}

/// Room in the log that nobody else can take. What is not spent goes back when it is dropped.
#[must_use = "credit goes back when it is dropped"]
pub struct Credit {
    wal: Wal,
    left: u64,
}

impl Credit {
    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.left
    }

    #[inline]
    pub(super) fn spend(&mut self, bytes: u64) {
        assert!(
            bytes <= self.left,
            "a record of {bytes} bytes with credit for {}",
            self.left
        );
        self.left -= bytes;
    }
}

impl Drop for Credit {
    #[inline]
    fn drop(&mut self) {
        if self.left > 0 {
            let control = self.wal.control();
            control
                .credits
                .credit_pos
                .fetch_sub(self.left, Ordering::SeqCst);
            self.wal.give_room();
        }
    }
}

impl Wal {
    /// Takes credit for records of `bytes` together, each as [`credit_for`] counts it.
    ///
    /// # Errors
    /// When there is too little room now. Then the caller lets go of everything it holds and waits
    /// for its event (as a parked process, see [`crate::procs`]), or fails.
    #[inline]
    pub fn take_credit(&self, bytes: u64) -> Result<Credit, NoCredit> {
        match self.try_take(bytes, SEGMENT_RESERVE_BYTES, true) {
            Ok(()) => Ok(Credit {
                wal: self.clone(),
                left: bytes,
            }),
            Err(_) => self.take_after_notice(bytes),
        }
    }

    /// Takes credit for the drop of a file, which gives room back: from half of the reserve if need
    /// be.
    ///
    /// # Errors
    /// As for [`Wal::take_credit`].
    pub fn take_credit_for_drop(&self, bytes: u64) -> Result<Credit, NoCredit> {
        let refused = match self.take_credit(bytes) {
            Err(NoCredit::Segments) => NoCredit::Segments,
            done => return done,
        };
        let taken = self.try_take(bytes, SEGMENT_RESERVE_BYTES / 2, true);
        taken.map_err(|_| refused)?;
        Ok(Credit {
            wal: self.clone(),
            left: bytes,
        })
    }

    /// Takes credit for what must be logged even when the disk is full: checkpoints. It asks for no
    /// room in the ring, so [`Wal::insert`] may wait for the flusher.
    ///
    /// # Errors
    /// When even the reserve is spent.
    pub fn take_reserved_credit(&self, bytes: u64) -> Result<Credit, NoCredit> {
        self.try_take(bytes, 0, false)
            .inspect_err(|_| self.want_segments(bytes))?;
        Ok(Credit {
            wal: self.clone(),
            left: bytes,
        })
    }

    #[inline]
    fn try_take(&self, bytes: u64, reserve: u64, in_ring: bool) -> Result<(), NoCredit> {
        let control = self.control();
        let word = &control.credits.credit_pos;
        let first = bytes.min((self.inner.ring.usable_bytes() - USABLE) / 2);
        let mut seen = word.load(Ordering::SeqCst);
        loop {
            let prepared = control.progress.prepared_pos.load(Ordering::SeqCst);
            if seen + bytes > prepared.saturating_sub(reserve) {
                return Err(NoCredit::Segments);
            }
            let ring_end = control.progress.ring_end_pos.load(Ordering::SeqCst);
            if in_ring && seen + first > ring_end {
                return Err(NoCredit::Ring);
            }
            let order = (Ordering::SeqCst, Ordering::SeqCst);
            match word.compare_exchange_weak(seen, seen + bytes, order.0, order.1) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    #[cold]
    fn take_after_notice(&self, bytes: u64) -> Result<Credit, NoCredit> {
        let hints = &self.control().hints;
        between_steps();
        hints.room_wanted.store(1, Ordering::SeqCst);
        between_steps();
        match self.try_take(bytes, SEGMENT_RESERVE_BYTES, true) {
            Ok(()) => Ok(Credit {
                wal: self.clone(),
                left: bytes,
            }),
            Err(NoCredit::Segments) => {
                self.want_segments(bytes);
                Err(NoCredit::Segments)
            }
            Err(NoCredit::Ring) => {
                hints.ring_wanted.store(1, Ordering::SeqCst);
                self.wake_flusher();
                Err(NoCredit::Ring)
            }
        }
    }

    fn want_segments(&self, bytes: u64) {
        let control = self.control();
        let end = control.credits.credit_pos.load(Ordering::SeqCst) + bytes;
        let wanted = end + SEGMENT_RESERVE_BYTES;
        control
            .segments
            .wanted_pos
            .fetch_max(wanted, Ordering::SeqCst);
        control.segments.work.wake_all();
    }

    /// To be called after room was given (SeqCst): wakes whoever was refused.
    #[inline]
    pub(super) fn give_room(&self) {
        let hints = &self.control().hints;
        if hints.room_wanted.load(Ordering::SeqCst) != 0 {
            hints.room_wanted.store(0, Ordering::SeqCst);
            self.inner.procs.wake_parked();
        }
    }
}
