//! Before a stop: while clients are still served, what is dirty is written, the oldest pages first
//! and as fast as it goes, so that the shutdown checkpoint finds little to do, or, where the stop has
//! a deadline that comes first, the next start.
//!
//! It ends when so little is left that the rest takes no time worth speaking of, or when writing does
//! not get ahead of what becomes dirty again. From then on it goes on as best it can until the order
//! for the shutdown checkpoint comes, and the postmaster knows that it need not wait for more.

use crate::Checkpointer;
use crate::turn::nanos;
use rd_sys::fork;
use rd_sys::process::Signal;
use std::time::Duration;

/// Pages of a round: few enough for the redo point to follow, enough for neighbours to go together.
pub const ROUND_PAGES: usize = 4096;
/// So many dirty pages are few.
const FEW_PAGES: u64 = 128;
/// As many as are written in this time are few as well.
const FEW: Duration = Duration::from_millis(100);
/// After this time commits are slowed for it.
const LONG: Duration = Duration::from_secs(3);
/// So many times what was dirty at first is written at most.
const TIMES_MAX: u64 = 3;

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cleaning {
    /// Nobody has asked for it.
    #[default]
    Unasked,
    /// It is being done.
    UnderWay {
        /// Since when, monotonic nanoseconds.
        since_ns: u64,
        /// Pages that were dirty when it began, once known, and pages written since.
        first: Option<u64>,
        written: u64,
    },
    /// The postmaster knows that it is done.
    Done,
}

impl Cleaning {
    /// Whether the postmaster waits for it.
    pub fn is_under_way(&self) -> bool {
        matches!(self, Cleaning::UnderWay { .. })
    }

    /// Whether the postmaster waits for it and it takes long, as of `now_ns`.
    pub fn is_long(&self, now_ns: u64) -> bool {
        match self {
            Cleaning::UnderWay { since_ns, .. } => now_ns > since_ns + nanos(LONG),
            Cleaning::Unasked | Cleaning::Done => false,
        }
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        *self != Cleaning::Unasked
    }

    /// Takes note of a round that finds `dirty` pages and will write `planned` of them, at
    /// `pages_per_s` if that is known; whether it is the last.
    fn is_enough(&mut self, dirty: u64, planned: u64, pages_per_s: u64) -> bool {
        let Cleaning::UnderWay { first, written, .. } = self else {
            return false;
        };
        let few = FEW_PAGES.max((pages_per_s as f64 * FEW.as_secs_f64()) as u64);
        let first = *first.get_or_insert(dirty);
        if dirty <= few || *written > TIMES_MAX * (first + ROUND_PAGES as u64) {
            return true;
        }
        *written += planned;
        false
    }
}

impl Checkpointer {
    /// Begins to write what is dirty, as before a stop.
    pub fn begin_cleaning(&mut self) {
        if self.cleaning.is_asked() {
            return;
        }
        self.cleaning = Cleaning::UnderWay {
            since_ns: self.now_ns(),
            first: None,
            written: 0,
        };
        self.plan_now();
    }

    /// A round is planned for `planned` of `dirty` pages: ends the cleaning if that is enough.
    pub(crate) fn note_cleaning(&mut self, dirty: u64, planned: usize) {
        let pages_per_s = self.store.shared.brake.pages_per_s();
        let before = self.cleaning;
        let is_enough = self.cleaning.is_enough(dirty, planned as u64, pages_per_s);
        if let (
            true,
            Cleaning::UnderWay {
                since_ns, written, ..
            },
        ) = (is_enough, before)
        {
            self.end_cleaning(since_ns, written, dirty);
        }
    }

    fn end_cleaning(&mut self, since_ns: u64, written: u64, dirty: u64) {
        if let Err(failure) = self.advance_redo() {
            log::error!("could not advance the redo point before the stop: {failure}");
        }
        let took_ns = self.now_ns() - since_ns;
        log::info!(
            "wrote {written} pages in {:.1} s while clients were served; {dirty} are left for the \
             shutdown checkpoint",
            took_ns as f64 / 1e9
        );
        self.tell_cleaned();
    }

    /// The disk refuses: the stop need not wait.
    pub(crate) fn give_up_cleaning(&mut self) {
        if self.cleaning.is_under_way() {
            self.tell_cleaned();
        }
    }

    fn tell_cleaned(&mut self) {
        self.cleaning = Cleaning::Done;
        self.store.shared.checkpoint.set_cleaned();
        if self.outside.is_some() {
            // If the postmaster is gone, so will we be.
            let _ = fork::tell_parent(Signal::Usr1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> Cleaning {
        Cleaning::UnderWay {
            since_ns: 0,
            first: None,
            written: 0,
        }
    }

    #[test]
    fn it_ends_when_little_is_left() {
        let mut cleaning = begun();
        let mut dirty = 50_000;
        while !cleaning.is_enough(dirty, ROUND_PAGES as u64, 10_000) {
            dirty -= ROUND_PAGES as u64;
        }
        assert!((0..1_000).contains(&dirty), "{dirty}");
        assert!(begun().is_enough(100, 100, 0), "of an idle server at once");
    }

    #[test]
    fn it_ends_when_it_does_not_get_ahead() {
        let mut cleaning = begun();
        let mut rounds = 0;
        while !cleaning.is_enough(50_000, ROUND_PAGES as u64, 10_000) {
            rounds += 1;
        }
        assert!((30..50).contains(&rounds), "{rounds} rounds");
    }
}
