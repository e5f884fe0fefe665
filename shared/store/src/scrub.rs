//! The scrub of relation files as all processes see it: how far it has come, and which pages it has
//! found damaged and could not repair, written by the checkpointer, which scrubs, for display; and the
//! other way round, which pages others could not read.
//!
//! Invariants:
//! - Whoever reports a page waits for nothing: where all places are taken the report is dropped, and the
//!   next read of the page that fails makes it again.
//! - A page takes one place at most, but for reports of it at the same instant; one that is named as bad
//!   takes none, so that reads that fail again and again cost the checkpointer nothing.

use rd_base::PageTag;
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering};
use rd_sys::{One, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

/// Pages that could not be read and that the checkpointer has not taken notice of.
const REPORTS_MAX: usize = 16;

/// Damaged pages that are named; of more only the number is kept.
pub const BAD_NAMED_MAX: usize = 32;

/// The scrub as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubSeen {
    /// A round is under way.
    pub is_under_way: bool,
    /// Wall clock when the last round began, microseconds since 1970; 0 before the first.
    pub began_us: u64,
    /// Wall clock when the last one that came to its end did; 0 before that.
    pub ended_us: u64,
    /// Pages that the round has dealt with.
    pub pages_done: u64,
    /// Pages that there were when it began.
    pub pages_total: u64,
    /// Damaged pages that could not be repaired.
    pub bad_count: u64,
    /// Their names, the first [`BAD_NAMED_MAX`] of them.
    pub bad: Vec<PageTag>,
}

/// atomic: all but the reports Relaxed, written by the checkpointer; whoever reads them in the middle of a
/// change sees some old and some new.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Words {
    is_under_way: AtomicU32,
    reserved: AtomicU32,
    began_us: AtomicU64,
    ended_us: AtomicU64,
    pages_done: AtomicU64,
    pages_total: AtomicU64,
    bad_count: AtomicU64,
    /// [`PageTag::to_u64`].
    bad: [AtomicU64; BAD_NAMED_MAX],
    /// [`PageTag::to_u64`] of pages that could not be read; 0, which is no page, where there is room.
    /// atomic: AcqRel; filled by all, emptied by the checkpointer.
    reports: [AtomicU64; REPORTS_MAX],
}

/// Where that lies in the segment.
#[derive(Clone, Copy)]
pub struct ScrubRegions {
    words: Region<Words>,
}

impl ScrubRegions {
    /// Reserves room.
    pub fn plan(plan: &mut Plan) -> ScrubRegions {
        ScrubRegions {
            words: plan.reserve(1),
        }
    }
}

/// The scrub's part of shared memory.
#[derive(Clone)]
pub struct ScrubShared {
    words: One<Words>,
}

impl ScrubShared {
    /// Opens this part of shared memory.
    pub fn open(segment: &Segment, regions: &ScrubRegions) -> ScrubShared {
        ScrubShared {
            words: segment.one(regions.words),
        }
    }

    /// Says that a round of `pages_total` pages begins; for the checkpointer.
    pub fn begin(&self, now_us: u64, pages_total: u64) {
        let words = &self.words;
        words.began_us.store(now_us, Ordering::Relaxed);
        words.pages_done.store(0, Ordering::Relaxed);
        words.pages_total.store(pages_total, Ordering::Relaxed);
        words.is_under_way.store(1, Ordering::Relaxed);
    }

    /// Says that so many more pages are dealt with; for the checkpointer.
    pub fn advance(&self, pages: u64) {
        self.words.pages_done.fetch_add(pages, Ordering::Relaxed);
    }

    /// Says that the round has come to its end; for the checkpointer.
    pub fn end(&self, now_us: u64) {
        self.words.ended_us.store(now_us, Ordering::Relaxed);
        self.words.is_under_way.store(0, Ordering::Relaxed);
    }

    /// Says which pages are damaged; for the checkpointer.
    pub fn name_bad(&self, count: usize, bad: impl Iterator<Item = PageTag>) {
        for (word, tag) in self.words.bad.iter().zip(bad) {
            word.store(tag.to_u64(), Ordering::Relaxed);
        }
        self.words.bad_count.store(count as u64, Ordering::Relaxed);
    }

    /// Says that a read of `tag` has failed. True if that was news; the caller then wakes the
    /// checkpointer.
    pub fn report(&self, tag: PageTag) -> bool {
        let words = &self.words;
        let number = tag.to_u64();
        let is_there = |word: &AtomicU64| word.load(Ordering::Relaxed) == number;
        let bad_count = words.bad_count.load(Ordering::Relaxed) as usize;
        let is_known = words.bad.iter().take(bad_count).any(is_there);
        if is_known || words.reports.iter().any(is_there) {
            return false;
        }
        words.reports.iter().any(|word| {
            word.compare_exchange(0, number, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        })
    }

    /// Whether there are reports to be taken; for the checkpointer, which asks before each batch of
    /// pages.
    pub fn has_reports(&self) -> bool {
        let mut reports = self.words.reports.iter();
        reports.any(|word| word.load(Ordering::Relaxed) != 0)
    }

    /// Takes the pages that were reported since the last time; for the checkpointer.
    pub fn take_reports(&self) -> impl Iterator<Item = PageTag> + '_ {
        let reported = |word: &&AtomicU64| word.load(Ordering::Relaxed) != 0;
        let reports = self.words.reports.iter().filter(reported);
        reports.map(|word| PageTag::from_u64(word.swap(0, Ordering::AcqRel)))
    }

    /// All of it.
    pub fn seen(&self) -> ScrubSeen {
        let words = &self.words;
        let bad_count = words.bad_count.load(Ordering::Relaxed);
        let named = words.bad.iter().take(bad_count as usize);
        ScrubSeen {
            is_under_way: words.is_under_way.load(Ordering::Relaxed) != 0,
            began_us: words.began_us.load(Ordering::Relaxed),
            ended_us: words.ended_us.load(Ordering::Relaxed),
            pages_done: words.pages_done.load(Ordering::Relaxed),
            pages_total: words.pages_total.load(Ordering::Relaxed),
            bad_count,
            bad: named
                .map(|word| PageTag::from_u64(word.load(Ordering::Relaxed)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::{BlockNo, FileNo};

    #[test]
    fn what_is_bad_is_named_up_to_a_limit_and_forgotten_when_it_is_good_again() {
        let mut plan = Plan::new();
        let regions = ScrubRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let scrub = ScrubShared::open(&segment, &regions);
        assert_eq!(scrub.seen(), ScrubSeen::default());
        let tag = |block| PageTag::new(FileNo::new(7), BlockNo::new(block));
        scrub.begin(5, 100);
        scrub.advance(30);
        scrub.name_bad(40, (0..40).map(tag));
        let seen = scrub.seen();
        assert!(seen.is_under_way);
        assert_eq!((seen.pages_done, seen.bad_count), (30, 40));
        assert_eq!(seen.bad, (0..32).map(tag).collect::<Vec<_>>());
        scrub.name_bad(1, std::iter::once(tag(9)));
        scrub.end(8);
        let seen = scrub.seen();
        assert_eq!((seen.is_under_way, seen.ended_us), (false, 8));
        assert_eq!(seen.bad, [tag(9)]);
    }

    #[test]
    fn a_page_is_reported_once_and_nobody_waits_for_room() {
        let mut plan = Plan::new();
        let regions = ScrubRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let scrub = ScrubShared::open(&segment, &regions);
        let tag = |block| PageTag::new(FileNo::new(7), BlockNo::new(block));
        assert_eq!(scrub.take_reports().count(), 0);
        assert!(!scrub.has_reports());
        assert!(scrub.report(tag(3)));
        assert!(!scrub.report(tag(3)), "it is known");
        assert!(scrub.report(tag(0)) && scrub.has_reports());
        assert_eq!(scrub.take_reports().collect::<Vec<_>>(), [tag(3), tag(0)]);
        assert!(!scrub.has_reports());
        // Somebody who looks again and again at what cannot be repaired is no news.
        scrub.name_bad(1, std::iter::once(tag(3)));
        assert!(!scrub.report(tag(3)));
        let news = (0..100).filter(|block| scrub.report(tag(10 + block)));
        assert_eq!(news.count(), REPORTS_MAX);
        assert_eq!(scrub.take_reports().count(), REPORTS_MAX);
        assert!(scrub.report(tag(99)), "there is room again");
    }
}
