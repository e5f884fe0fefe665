//! What is told of a run: figures from what the threads have recorded and the server has said.

use crate::dialect::Sample;
use crate::record::{Record, corrected};
use hdrhistogram::Histogram;
use std::time::{Duration, SystemTime};

/// Seconds before and behind the start of a checkpoint over which log bytes are compared.
const AROUND_S: f64 = 3.0;

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Results {
    /// The server's name and version.
    pub version: String,
    /// When the measuring began.
    pub started: SystemTime,
    /// How long it was.
    pub length: Duration,
    /// Whether operations fell due by themselves.
    pub is_open_loop: bool,
    /// The load that is looked at.
    pub main: Record,
    /// Writers beside it.
    pub writers: Option<Record>,
    /// What the server said, in order.
    pub samples: Vec<TimedSample>,
}

/// What the server said, and when.
#[derive(Clone, Copy, Debug)]
pub struct TimedSample {
    /// Seconds since the measuring began; negative in the warm-up.
    pub at_s: f64,
    /// Operations complete by then, those of the warm-up included.
    pub operations: u64,
    /// What it said.
    pub sample: Sample,
}

/// A checkpoint, as far as it was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Checkpoint {
    /// When it was first seen under way, in seconds since the measuring began.
    pub start_s: f64,
    /// When it was first seen to be over; `None`: not in the run.
    pub end_s: Option<f64>,
}

/// Times of one sort, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The mean.
    pub mean: f64,
    /// The least.
    pub min: f64,
    /// Half took no longer.
    pub p50: f64,
    /// Of ten, nine took no longer.
    pub p90: f64,
    /// Of a hundred, all but one.
    pub p99: f64,
    /// Of a thousand, all but one.
    pub p999: f64,
    /// Of ten thousand, all but one.
    pub p9999: f64,
    /// The longest.
    pub max: f64,
}

impl Figures {
    /// The figures of a histogram of nanoseconds.
    pub fn of(times: &Histogram<u64>) -> Figures {
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
        Figures {
            mean: times.mean() / 1e3,
            min: if times.is_empty() {
                0.0
            } else {
                times.min() as f64 / 1e3
            },
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: times.max() as f64 / 1e3,
        }
    }

    /// All with their names.
    pub fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("mean", self.mean),
            ("min", self.min),
            ("p50", self.p50),
            ("p90", self.p90),
            ("p99", self.p99),
            ("p99.9", self.p999),
            ("p99.99", self.p9999),
            ("max", self.max),
        ]
    }
}

impl Results {
    /// Operations a second of a record.
    pub fn per_s(&self, record: &Record) -> f64 {
        record.operations() as f64 / self.length.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Response times corrected for coordinated omission: those of an open loop are by themselves.
    pub fn corrected(&self, record: &Record) -> Figures {
        let response = record.response();
        if self.is_open_loop {
            Figures::of(&response)
        } else {
            Figures::of(&corrected(&response))
        }
    }

    /// Operations of the worst whole second, and of the median one.
    pub fn worst_and_median_second(&self) -> (u64, u64) {
        // The last one may be shorter than a second.
        let whole = self.length.as_secs() as usize;
        let seconds = self.main.seconds.iter().take(whole);
        let mut counts: Vec<u64> = seconds.map(|second| second.times.len()).collect();
        counts.sort_unstable();
        let median = counts.get(counts.len() / 2).copied().unwrap_or_default();
        (counts.first().copied().unwrap_or_default(), median)
    }

    /// The checkpoints that the samples show.
    pub fn checkpoints(&self) -> Vec<Checkpoint> {
        checkpoints(&self.samples)
    }

    /// Bytes of log an operation in the seconds before a checkpoint's start, and behind it.
    pub fn wal_around(&self, checkpoint: &Checkpoint) -> Option<(f64, f64)> {
        let at = |at_s: f64| {
            let index = self.samples.partition_point(|sample| sample.at_s <= at_s);
            let sample = self.samples.get(index.checked_sub(1)?)?;
            // Nothing was asked so early or late.
            let is_near = (at_s - sample.at_s).abs() < 1.0;
            is_near.then_some((sample.sample.wal_bytes?, sample.operations))
        };
        let rate = |from: (u64, u64), to: (u64, u64)| {
            let operations = to.1.checked_sub(from.1).filter(|count| *count > 0)?;
            Some(to.0.checked_sub(from.0)? as f64 / operations as f64)
        };
        let start = at(checkpoint.start_s)?;
        let before = rate(at(checkpoint.start_s - AROUND_S)?, start)?;
        let behind = rate(start, at(checkpoint.start_s + AROUND_S)?)?;
        Some((before, behind))
    }

    /// The last sample within a second of the run.
    pub fn sample_of(&self, second: usize) -> Option<&TimedSample> {
        let (from, to) = (second as f64, second as f64 + 1.0);
        let mut within = self.samples.iter().rev();
        within.find(|sample| (from..to).contains(&sample.at_s))
    }

    /// The log's growth, in bytes a second, between samples that are about half a second apart.
    pub fn wal_rate(&self) -> Vec<(f64, f64)> {
        let mut rates = Vec::new();
        let known = |timed: &TimedSample| Some((timed.at_s, timed.sample.wal_bytes?));
        let mut points = self.samples.iter().filter_map(known);
        let Some(mut last) = points.next() else {
            return rates;
        };
        for point in points {
            let seconds = point.0 - last.0;
            if seconds >= 0.5 {
                let bytes = point.1.saturating_sub(last.1) as f64;
                rates.push((point.0, bytes / seconds));
                last = point;
            }
        }
        rates
    }
}

/// The checkpoints that samples show: what is under way, and what began and ended in between.
fn checkpoints(samples: &[TimedSample]) -> Vec<Checkpoint> {
    let mut found: Vec<Checkpoint> = Vec::new();
    let mut open = false;
    let mut started = None;
    for timed in samples {
        let TimedSample { at_s, sample, .. } = timed;
        let count = sample.checkpoints_started;
        let has_begun = started.is_some() && count > started;
        started = count.or(started);
        if open
            && (!sample.is_checkpoint_under_way || has_begun)
            && let Some(last) = found.last_mut()
        {
            last.end_s = Some(*at_s);
        }
        if has_begun || (sample.is_checkpoint_under_way && !open) {
            let is_over = !sample.is_checkpoint_under_way;
            // One that was open was counted when it was seen; what ended unseen was a short one.
            found.push(Checkpoint {
                start_s: *at_s,
                end_s: is_over.then_some(*at_s),
            });
        }
        open = sample.is_checkpoint_under_way;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(of: &[(u64, bool)]) -> Vec<TimedSample> {
        let each = |(index, (started, under_way)): (usize, &(u64, bool))| TimedSample {
            at_s: index as f64,
            operations: 10 * index as u64,
            sample: Sample {
                wal_bytes: Some(100 * (index as u64).pow(2)),
                checkpoints_started: Some(*started),
                is_checkpoint_under_way: *under_way,
                ..Sample::default()
            },
        };
        of.iter().enumerate().map(each).collect()
    }

    fn spans(of: &[(u64, bool)]) -> Vec<(f64, Option<f64>)> {
        let found = checkpoints(&samples(of));
        let span = |checkpoint: &Checkpoint| (checkpoint.start_s, checkpoint.end_s);
        found.iter().map(span).collect()
    }

    #[test]
    fn checkpoints_are_seen_from_start_to_end() {
        let whole = [(3, false), (4, true), (4, true), (4, false)];
        assert_eq!(spans(&whole), [(1.0, Some(3.0))]);
        let under_way_all_along = [(3, true), (3, true)];
        assert_eq!(spans(&under_way_all_along), [(0.0, None)]);
        let unseen = [(3, false), (4, false)];
        assert_eq!(spans(&unseen), [(1.0, Some(1.0))]);
        let one_upon_the_other = [(3, true), (4, true), (4, false)];
        assert_eq!(
            spans(&one_upon_the_other),
            [(0.0, Some(1.0)), (1.0, Some(2.0))]
        );
        assert_eq!(spans(&[(3, false), (3, false)]), []);
    }

    #[test]
    fn log_bytes_are_compared_around_a_start() {
        let results = Results {
            version: String::new(),
            started: SystemTime::UNIX_EPOCH,
            length: Duration::from_secs(8),
            is_open_loop: false,
            main: Record::new(std::time::Instant::now(), Duration::from_secs(8)),
            writers: None,
            samples: samples(&[(0, false); 8]),
        };
        let at = |start_s| Checkpoint {
            start_s,
            end_s: None,
        };
        // Log bytes are 100 n^2 and operations 10 n at second n.
        assert_eq!(results.wal_around(&at(4.0)), Some((50.0, 110.0)));
        assert_eq!(
            results.wal_around(&at(1.0)),
            None,
            "nothing was asked before"
        );
        assert_eq!(results.wal_around(&at(7.0)), None, "nor behind");
        assert_eq!(results.wal_rate()[0], (1.0, 100.0));
    }
}
