//! How long syncs will take, from how long they took. Pure functions of numbers.
//!
//! A sync takes some time however little was written, and more for each page. Syncs of few pages
//! tell the one, those of many the other. What the system has written by itself meanwhile is not
//! known, so this is an estimate.

/// A sync of so many pages at most says what one takes however little was written.
const FEW_PAGES: u64 = 8;
/// The weight of the newest sync in the averages.
const NEWEST: f64 = 0.3;

/// What syncs took, by averages in which old ones fade.
#[derive(Debug, Default)]
pub struct SyncTime {
    /// A sync of few pages, microseconds.
    few_us: Option<f64>,
    /// One of many pages, microseconds, and the pages of one.
    many_us: Option<f64>,
    many_pages: Option<f64>,
}

fn take_in(average: &mut Option<f64>, newest: u64) {
    let newest = newest as f64;
    let before = average.unwrap_or(newest);
    *average = Some(before + NEWEST * (newest - before));
}

impl SyncTime {
    /// Takes note of a sync, through which so many pages went to disk in so many microseconds.
    pub fn learn(&mut self, pages: u64, micros: u64) {
        if pages <= FEW_PAGES {
            take_in(&mut self.few_us, micros);
        } else {
            take_in(&mut self.many_us, micros);
            take_in(&mut self.many_pages, pages);
        }
    }

    /// How long syncs of so many pages each will take one after the other, microseconds; none
    /// before there was any sync.
    pub fn expected_us(&self, syncs: impl Iterator<Item = u64>) -> Option<u64> {
        if self.few_us.is_none() && self.many_us.is_none() {
            return None;
        }
        let few_us = self.few_us.unwrap_or(0.0);
        let beyond_us = (self.many_us.unwrap_or(0.0) - few_us).max(0.0);
        let page_us = beyond_us / self.many_pages.unwrap_or(1.0);
        let each = syncs.map(|pages| few_us + page_us * pages as f64);
        Some(each.sum::<f64>() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sync_takes_something_and_each_page_more() {
        let mut time = SyncTime::default();
        let of = |time: &SyncTime, syncs: &[u64]| time.expected_us(syncs.iter().copied());
        assert_eq!(of(&time, &[1, 1000]), None);
        time.learn(1, 2_000);
        assert_eq!(of(&time, &[1, 1000]), Some(4_000), "as far as is known");
        time.learn(1000, 12_000);
        assert_eq!(of(&time, &[1000]), Some(12_000));
        assert_eq!(of(&time, &[500, 500, 0]), Some(16_000));
        assert_eq!(of(&time, &[]), Some(0));
        // In whichever order they are learned.
        let mut time = SyncTime::default();
        time.learn(1000, 12_000);
        assert_eq!(of(&time, &[500]), Some(6_000), "as far as is known");
        time.learn(1, 2_000);
        assert_eq!(of(&time, &[500]), Some(7_000));
    }

    #[test]
    fn what_is_newer_counts_for_more() {
        let mut time = SyncTime::default();
        time.learn(1, 1_000);
        (0..10).for_each(|_| time.learn(1, 3_000));
        let now = time.expected_us([0].into_iter());
        assert!(now.is_some_and(|us| us > 2_900), "{now:?}");
        // Faster than one of few pages: the system has written all of it by itself.
        time.learn(5_000, 100);
        assert_eq!(time.expected_us([5_000].into_iter()), now);
    }
}
