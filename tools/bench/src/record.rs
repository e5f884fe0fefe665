//! What a run has measured.
//!
//! Two times are taken of each operation. Its **service time** goes from when it was sent to when
//! it was answered. Its **response time** goes from when it was due: at a given rate an operation
//! that waits because the server has stalled is as late as it would be for whoever asked, and not
//! left out of the figures (coordinated omission). A closed loop has no times at which operations
//! are due; its corrected figures take each connection's mean time as the interval at which it
//! would have gone on asking (as HdrHistogram does), and stand beside the measured ones.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Times are kept in nanoseconds up to this, and those above count as this.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// Significant digits of a time.
const DIGITS: u8 = 3;

/// Nanoseconds, within what a histogram takes.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.min(TIME_MAX).as_nanos()).unwrap_or(u64::MAX)
}

/// An empty histogram of times.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, nanoseconds(TIME_MAX), DIGITS)
        .expect("the bounds are in order and the digits within 0 to 5")
}

/// One second of a run.
#[derive(Clone, Debug)]
pub struct Second {
    /// Response times of the operations that were answered in it.
    pub times: Histogram<u64>,
    /// Attempts that a conflict ended.
    pub conflicts: u64,
    /// The longest time without any answer that ended in it.
    pub gap: Duration,
}

impl Default for Second {
    fn default() -> Second {
        Second {
            times: histogram(),
            conflicts: 0,
            gap: Duration::ZERO,
        }
    }
}

/// What a group of connections has measured; of several threads, after [`Record::merge`].
#[derive(Clone, Debug)]
pub struct Record {
    /// The seconds of the run, from the end of the warm-up on.
    pub seconds: Vec<Second>,
    /// Response times of what was due in the run and answered behind its end, or never sent.
    pub late: Histogram<u64>,
    /// Service times.
    pub service: Histogram<u64>,
    /// Operations that were due and not sent when the run ended.
    pub unsent: u64,
    /// Answers that a key is not there.
    pub missing: u64,
    /// Values that came.
    pub values: u64,
    /// Refusals, by their text, where the run goes on in spite of them.
    pub failures: BTreeMap<String, u64>,
    start: Instant,
    length: Duration,
    last_reply: Option<Instant>,
}

/// An operation that was answered.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// When it was due.
    pub due: Instant,
    /// When its first trip was sent.
    pub sent: Instant,
    /// When its last reply came.
    pub at: Instant,
}

impl Record {
    /// An empty record of the time from `start` on.
    pub fn new(start: Instant, length: Duration) -> Record {
        Record {
            seconds: Vec::new(),
            late: histogram(),
            service: histogram(),
            unsent: 0,
            missing: 0,
            values: 0,
            failures: BTreeMap::new(),
            start,
            length,
            last_reply: None,
        }
    }

    /// The second in which `at` lies; `None` outside of the run.
    fn second(&mut self, at: Instant) -> Option<&mut Second> {
        let since = at.checked_duration_since(self.start)?;
        if since >= self.length {
            return None;
        }
        let index = since.as_secs() as usize;
        if self.seconds.len() <= index {
            self.seconds.resize_with(index + 1, Second::default);
        }
        self.seconds.get_mut(index)
    }

    /// Takes note of an operation that is complete.
    pub fn answered(&mut self, operation: Answered) {
        let Answered { due, sent, at } = operation;
        if at < self.start {
            return;
        }
        let response = nanoseconds(at.saturating_duration_since(due));
        let service = nanoseconds(at.saturating_duration_since(sent));
        let last = self.last_reply.replace(at).unwrap_or(self.start);
        let gap = at.saturating_duration_since(last);
        self.service.saturating_record(service);
        match self.second(at) {
            Some(second) => {
                second.times.saturating_record(response);
                second.gap = second.gap.max(gap);
            }
            None => self.late.saturating_record(response),
        }
    }

    /// Takes note of an attempt that has to be made again.
    pub fn conflict(&mut self, at: Instant) {
        if let Some(second) = self.second(at) {
            second.conflicts += 1;
        }
    }

    /// Takes note of an operation that was due and never sent: it would have taken longer.
    pub fn unsent(&mut self, due: Instant, end: Instant) {
        self.unsent += 1;
        let waited = end.saturating_duration_since(due);
        self.late.saturating_record(nanoseconds(waited));
    }

    /// Adds what another thread has measured in the same time.
    pub fn merge(&mut self, other: &Record) {
        if self.seconds.len() < other.seconds.len() {
            self.seconds
                .resize_with(other.seconds.len(), Second::default);
        }
        for (mine, theirs) in self.seconds.iter_mut().zip(&other.seconds) {
            add(&mut mine.times, &theirs.times);
            mine.conflicts += theirs.conflicts;
            mine.gap = mine.gap.max(theirs.gap);
        }
        add(&mut self.late, &other.late);
        add(&mut self.service, &other.service);
        self.unsent += other.unsent;
        self.missing += other.missing;
        self.values += other.values;
        for (text, count) in &other.failures {
            *self.failures.entry(text.clone()).or_default() += count;
        }
    }

    /// Makes every second of the run one of the series, those without an answer too.
    pub fn close(&mut self) {
        let seconds = self.length.as_secs_f64().ceil() as usize;
        self.seconds.resize_with(seconds, Second::default);
    }

    /// Operations answered within the run.
    pub fn operations(&self) -> u64 {
        self.seconds.iter().map(|second| second.times.len()).sum()
    }

    /// Attempts that a conflict ended.
    pub fn conflicts(&self) -> u64 {
        self.seconds.iter().map(|second| second.conflicts).sum()
    }

    /// The longest time without any answer (with several threads: to one of them).
    pub fn gap(&self) -> Duration {
        let gaps = self.seconds.iter().map(|second| second.gap);
        gaps.max().unwrap_or_default()
    }

    /// Response times of the whole run, those answered behind its end included.
    pub fn response(&self) -> Histogram<u64> {
        let mut all = self.late.clone();
        for second in &self.seconds {
            add(&mut all, &second.times);
        }
        all
    }
}

fn add(to: &mut Histogram<u64>, from: &Histogram<u64>) {
    to.add(from).expect("all have the same bounds");
}

/// The times of a closed loop with those that each connection would have seen had it gone on
/// asking at its mean pace.
pub fn corrected(times: &Histogram<u64>) -> Histogram<u64> {
    let interval = times.mean() as u64;
    times.clone_correct(interval.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(start: Instant, sent: u32, done: u32) -> Answered {
        Answered {
            due: start + MS * sent,
            sent: start + MS * sent,
            at: start + MS * done,
        }
    }

    #[test]
    fn only_the_run_counts_and_by_seconds() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut record = Record::new(start, Duration::from_secs(3));
        record.answered(Answered {
            due: start - 2 * MS,
            sent: start - 2 * MS,
            at: start - MS,
        });
        record.answered(at(start, 10, 20));
        record.answered(at(start, 100, 2500));
        record.conflict(start + MS * 2900);
        record.answered(at(start, 2900, 3100));
        record.close();
        let counts: Vec<u64> = record
            .seconds
            .iter()
            .map(|second| second.times.len())
            .collect();
        assert_eq!(counts, [1, 0, 1]);
        assert_eq!((record.operations(), record.conflicts()), (2, 1));
        assert_eq!(
            record.response().len(),
            3,
            "the late one counts for the times"
        );
        assert_eq!(record.gap(), 2480 * MS);
    }

    #[test]
    fn response_times_begin_when_an_operation_was_due() {
        let start = Instant::now();
        let mut record = Record::new(start, Duration::from_secs(1));
        record.answered(Answered {
            due: start,
            sent: start + 90 * MS,
            at: start + 100 * MS,
        });
        record.unsent(start + 400 * MS, start + 1000 * MS);
        let close = |histogram: &Histogram<u64>, quantile, ms: u64| {
            let found = histogram.value_at_quantile(quantile);
            let expected = ms * 1_000_000;
            assert!(found.abs_diff(expected) < expected / 500, "{found}");
        };
        close(&record.response(), 0.5, 100);
        close(&record.response(), 1.0, 600);
        close(&record.service, 1.0, 10);
        assert_eq!(record.unsent, 1);
    }

    #[test]
    fn records_of_threads_add_up() {
        let start = Instant::now();
        let length = Duration::from_secs(2);
        let (mut one, mut two) = (Record::new(start, length), Record::new(start, length));
        one.answered(at(start, 0, 5));
        two.answered(at(start, 0, 1500));
        two.failures.insert("no".to_owned(), 2);
        one.merge(&two);
        one.merge(&two);
        assert_eq!(one.operations(), 3);
        assert_eq!(one.seconds.len(), 2);
        assert_eq!(one.failures.get("no"), Some(&4));
    }

    #[test]
    fn a_stall_of_a_closed_loop_is_spread_over_those_it_kept_from_asking() {
        let mut times = histogram();
        times.record_n(1_000_000, 999).expect("in bounds");
        times.record(1_000_000_000).expect("in bounds");
        let corrected = corrected(&times);
        assert!(corrected.len() > 1400, "{}", corrected.len());
        assert!(corrected.value_at_quantile(0.99) > 900_000_000);
        assert!(times.value_at_quantile(0.99) < 1_100_000);
    }
}
