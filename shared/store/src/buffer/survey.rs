//! Which pages are dirty since when, seen in one pass over the descriptors: what the incremental
//! checkpoint is planned from.
//!
//! A list of dirty frames in the order of their rec LSNs would have to be kept by every commit
//! that dirties a page, under a latch of its own. A pass over all descriptors costs the
//! checkpointer alone, some nanoseconds for each frame, and is made a few times a second at most;
//! so the order is found by counting into steps of log instead.

use super::clean::DirtyFrame;
use super::pool::Pool;
use rd_base::{FrameNo, Lsn};
use rd_format::page;

/// Steps of log that are told apart.
const STEPS: usize = 512;

/// The dirty frames, counted by the place of their rec LSN.
#[derive(Clone, Debug)]
pub struct Survey {
    from: Lsn,
    step_bytes: u64,
    counts: Vec<u32>,
    dirty: u64,
    least: Option<Lsn>,
}

impl Survey {
    /// Counts dirty frames with these rec LSNs, which lie between `from` and `until`.
    pub fn of(from: Lsn, until: Lsn, rec_lsns: impl Iterator<Item = Lsn>) -> Survey {
        let bytes = until.get().saturating_sub(from.get());
        let mut survey = Survey {
            from,
            step_bytes: (bytes / STEPS as u64).max(1),
            counts: vec![0; STEPS],
            dirty: 0,
            least: None,
        };
        for rec_lsn in rec_lsns {
            let step = rec_lsn.get().saturating_sub(from.get()) / survey.step_bytes;
            survey.counts[(step as usize).min(STEPS - 1)] += 1;
            survey.dirty += 1;
            survey.least = Some(survey.least.map_or(rec_lsn, |least| least.min(rec_lsn)));
        }
        survey
    }

    /// How many frames are dirty.
    pub fn dirty(&self) -> u64 {
        self.dirty
    }

    /// The least rec LSN of them.
    pub fn least(&self) -> Option<Lsn> {
        self.least
    }

    /// About how many have a rec LSN below `limit`; exact to a step, and never too few.
    pub fn below(&self, limit: Lsn) -> u64 {
        let bytes = limit.get().saturating_sub(self.from.get());
        let steps = bytes.div_ceil(self.step_bytes).min(STEPS as u64) as usize;
        self.counts[..steps]
            .iter()
            .map(|count| u64::from(*count))
            .sum()
    }

    /// The first step's end below which there are at least `pages` of them; all, if there are
    /// fewer.
    pub fn limit_for(&self, pages: u64) -> Lsn {
        let mut sum = 0;
        for (index, count) in self.counts.iter().enumerate() {
            sum += u64::from(*count);
            if sum >= pages {
                return Lsn::new(self.from.get() + (index as u64 + 1) * self.step_bytes);
            }
        }
        Lsn::MAX
    }
}

impl Pool {
    /// The page LSNs of about `samples` frames, spread over all; and for how many frames each stands.
    /// Frames without a page, and those whose page is being changed, are left out.
    pub fn sample_page_lsns(&self, samples: usize) -> (Vec<Lsn>, f64) {
        let frames = self.frame_count();
        let step = (frames / samples.max(1)).max(1);
        let tags = (0..frames)
            .step_by(step)
            .filter_map(|frame| self.tag_of(FrameNo::new(frame as u32)));
        let lsns = tags.filter_map(|tag| self.glance(tag, page::page_lsn));
        (lsns.collect(), step as f64)
    }

    /// Counts the dirty frames by their rec LSNs, from the redo point `from` to `until`, an insert
    /// position that was read before (B4).
    pub fn survey(&self, from: Lsn, until: Lsn, buffer: &mut Vec<DirtyFrame>) -> Survey {
        buffer.clear();
        self.dirty_before(Lsn::MAX, buffer);
        Survey::of(from, until, buffer.iter().map(|dirty| dirty.rec_lsn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(until: u64, at: &[u64]) -> Survey {
        Survey::of(
            Lsn::new(1000),
            Lsn::new(until),
            at.iter().map(|lsn| Lsn::new(*lsn)),
        )
    }

    #[test]
    fn pages_are_counted_up_to_a_place_and_places_found_for_a_count() {
        let at: Vec<u64> = (0..512).map(|index| 1000 + 10 * index).collect();
        let all = survey(1000 + 5120, &at);
        assert_eq!((all.dirty(), all.least()), (512, Some(Lsn::new(1000))));
        assert_eq!(all.below(Lsn::new(1000)), 0);
        assert_eq!(all.below(Lsn::new(1010)), 1);
        assert_eq!(all.below(Lsn::new(1011)), 2, "never too few");
        assert_eq!(all.below(Lsn::MAX), 512);
        assert_eq!(all.limit_for(1), Lsn::new(1010));
        assert_eq!(all.limit_for(100), Lsn::new(2000));
        assert_eq!(all.limit_for(513), Lsn::MAX);
    }

    #[test]
    fn an_empty_pool_and_an_empty_log_are_surveyed_too() {
        let none = survey(1000, &[]);
        assert_eq!((none.dirty(), none.least()), (0, None));
        assert_eq!(none.below(Lsn::MAX), 0);
        // Dirtied at, or marked a moment before, the end of the log.
        let few = survey(1000, &[1000, 1000]);
        assert_eq!(few.below(Lsn::new(1001)), 2);
    }
}
