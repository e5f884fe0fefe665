//! A line for each second.

use crate::plan::Arguments;
use crate::results::{Figures, Results};
use anyhow::Result;
use std::fmt::Write;

/// The columns. Times are in microseconds; what the server does not tell is empty.
pub const COLUMNS: &str = "second,operations,conflicts,mean_us,p50_us,p90_us,p99_us,p999_us,\
                           max_us,longest_gap_us,writes,wal_bytes,redo_bytes,dirty_pages,\
                           recovery_estimate_ms,checkpoint";

/// The series of a run.
pub fn render(_: &Arguments, results: &Results) -> Result<String> {
    let mut out = format!("{COLUMNS}\n");
    let checkpoints = results.checkpoints();
    for (index, second) in results.main.seconds.iter().enumerate() {
        let times = Figures::of(&second.times);
        write!(
            out,
            "{index},{},{},{:.1},{:.1},{:.1},{:.1},{:.1},{:.1},{:.1}",
            second.times.len(),
            second.conflicts,
            times.mean,
            times.p50,
            times.p90,
            times.p99,
            times.p999,
            times.max,
            second.gap.as_secs_f64() * 1e6,
        )?;
        let writers = results.writers.as_ref();
        let writes = writers.and_then(|record| record.seconds.get(index));
        let sample = results.sample_of(index).map(|timed| timed.sample);
        let from_server = [
            writes.map(|second| second.times.len()),
            sample.and_then(|sample| sample.wal_bytes),
            sample.and_then(|sample| sample.redo_bytes),
            sample.and_then(|sample| sample.dirty_pages),
            sample.and_then(|sample| sample.recovery_estimate_ms),
        ];
        for value in from_server {
            let text = value.map(|value| value.to_string());
            write!(out, ",{}", text.unwrap_or_default())?;
        }
        let (from, to) = (index as f64, index as f64 + 1.0);
        let is_on = checkpoints.iter().any(|checkpoint| {
            checkpoint.start_s < to && checkpoint.end_s.is_none_or(|end_s| end_s >= from)
        });
        writeln!(out, ",{}", u8::from(is_on))?;
    }
    Ok(out)
}
