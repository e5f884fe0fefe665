//! The summary.

use crate::plan::Arguments;
use crate::record::Record;
use crate::results::{Figures, Results};
use crate::run::describe;
use std::fmt::Write;

/// The summary of a run.
pub fn render(arguments: &Arguments, results: &Results) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = head(arguments, results, &mut out);
    let _ = group(arguments.work.name(), results, &results.main, &mut out);
    if let Some(writers) = &results.writers {
        let _ = group("writers: set", results, writers, &mut out);
    }
    let _ = server(results, &mut out);
    out
}

fn head(arguments: &Arguments, results: &Results, out: &mut String) -> std::fmt::Result {
    let address = arguments.address();
    writeln!(
        out,
        "{} at {address}: {}",
        results.version,
        describe(arguments)
    )?;
    let (time, warm_up) = (arguments.time, arguments.warm_up);
    writeln!(out, "{time} s, behind {warm_up} s of warm-up")
}

fn group(name: &str, results: &Results, record: &Record, out: &mut String) -> std::fmt::Result {
    writeln!(out)?;
    write!(out, "{name}: {} operations", record.operations())?;
    write!(out, ", {:.1}/s", results.per_s(record))?;
    for (count, what) in [
        (record.conflicts(), "conflicts tried again"),
        (record.missing, "keys not there"),
        (record.unsent, "due and never sent"),
    ] {
        if count > 0 {
            write!(out, ", {count} {what}")?;
        }
    }
    writeln!(out)?;
    for (text, count) in &record.failures {
        writeln!(out, "  {count} x {text}")?;
    }
    let response = Figures::of(&record.response());
    write!(out, "  {:<22}", "milliseconds")?;
    for (name, _) in response.named() {
        write!(out, "{name:>10}")?;
    }
    writeln!(out)?;
    let mut line = |name: &str, figures: Figures| {
        write!(out, "  {name:<22}")?;
        for (_, us) in figures.named() {
            write!(out, "{:>10.3}", us / 1e3)?;
        }
        writeln!(out)
    };
    if results.is_open_loop {
        line("since due", response)?;
        line("since sent", Figures::of(&record.service))?;
    } else {
        line("measured", response)?;
        line("corrected", results.corrected(record))?;
    }
    writeln!(
        out,
        "  longest time without a reply {:.3} ms",
        record.gap().as_secs_f64() * 1e3
    )
}

fn server(results: &Results, out: &mut String) -> std::fmt::Result {
    let (worst, median) = results.worst_and_median_second();
    if median > 0 {
        let share = 100.0 * worst as f64 / median as f64;
        writeln!(
            out,
            "\nworst second {worst}, median second {median}: {share:.1} %"
        )?;
    }
    for checkpoint in results.checkpoints() {
        write!(out, "checkpoint from {:.1} s", checkpoint.start_s)?;
        if let Some(end_s) = checkpoint.end_s {
            write!(out, " to {end_s:.1} s")?;
        }
        if let Some((before, behind)) = results.wal_around(&checkpoint) {
            write!(
                out,
                ", log bytes an operation {before:.0} before, {behind:.0} behind"
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}
