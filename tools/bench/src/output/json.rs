//! Everything, for programs.

use crate::plan::Arguments;
use crate::record::Record;
use crate::results::{Figures, Results};
use crate::run::describe;
use anyhow::Result;
use serde_json::{Map, Value, json};
use std::time::UNIX_EPOCH;

/// The run as one JSON object. Times are in microseconds.
pub fn render(arguments: &Arguments, results: &Results) -> Result<String> {
    let started = results.started.duration_since(UNIX_EPOCH);
    let (worst, median) = results.worst_and_median_second();
    let checkpoints: Vec<Value> = results
        .checkpoints()
        .iter()
        .map(|checkpoint| {
            let around = results.wal_around(checkpoint);
            json!({
                "start_s": checkpoint.start_s,
                "end_s": checkpoint.end_s,
                "wal_bytes_per_operation_before": around.map(|(before, _)| before),
                "wal_bytes_per_operation_behind": around.map(|(_, behind)| behind),
            })
        })
        .collect();
    let samples = results.samples.iter().map(|timed| {
        json!({
            "at_s": timed.at_s,
            "operations": timed.operations,
            "wal_bytes": timed.sample.wal_bytes,
            "redo_bytes": timed.sample.redo_bytes,
            "dirty_pages": timed.sample.dirty_pages,
            "recovery_estimate_ms": timed.sample.recovery_estimate_ms,
            "is_checkpoint_under_way": timed.sample.is_checkpoint_under_way,
        })
    });
    let document = json!({
        "program": format!("rd_bench {}", env!("CARGO_PKG_VERSION")),
        "server": results.version,
        "address": arguments.address().to_string(),
        "description": describe(arguments),
        "plan": plan(arguments),
        "started_unix_ms": started.map(|since| since.as_millis() as u64).unwrap_or_default(),
        "seconds": results.length.as_secs_f64(),
        "main": group(results, &results.main),
        "writers": results.writers.as_ref().map(|record| group(results, record)),
        "worst_second_operations": worst,
        "median_second_operations": median,
        "checkpoints": checkpoints,
        "samples": samples.collect::<Vec<Value>>(),
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

fn plan(arguments: &Arguments) -> Value {
    json!({
        "work": arguments.work.name(),
        "reads_percent": arguments.reads,
        "limit": arguments.limit,
        "keys": arguments.keys,
        "value_bytes": arguments.value_bytes,
        "distribution": format!("{:?}", arguments.distribution).to_lowercase(),
        "theta": arguments.theta,
        "connections": arguments.connections,
        "pipeline": arguments.pipeline,
        "jobs": arguments.jobs,
        "rate": arguments.rate,
        "writers": arguments.writers,
        "warm_up_s": arguments.warm_up,
        "asynchronous": arguments.asynchronous,
        "serializable": arguments.serializable,
        "batch": arguments.batch,
        "seed": arguments.seed,
    })
}

fn group(results: &Results, record: &Record) -> Value {
    let seconds = record.seconds.iter().map(|second| {
        json!({
            "operations": second.times.len(),
            "conflicts": second.conflicts,
            "longest_gap_us": second.gap.as_secs_f64() * 1e6,
            "response_us": figures(&Figures::of(&second.times)),
        })
    });
    json!({
        "operations": record.operations(),
        "per_s": results.per_s(record),
        "conflicts": record.conflicts(),
        "missing": record.missing,
        "values": record.values,
        "unsent": record.unsent,
        "failures": record.failures,
        "longest_gap_us": record.gap().as_secs_f64() * 1e6,
        "response_us": figures(&Figures::of(&record.response())),
        "corrected_us": figures(&results.corrected(record)),
        "service_us": figures(&Figures::of(&record.service)),
        "series": seconds.collect::<Vec<Value>>(),
    })
}

fn figures(figures: &Figures) -> Value {
    let named = figures.named().into_iter();
    Value::Object(
        named
            .map(|(name, us)| (name.to_owned(), json!(us)))
            .collect::<Map<_, _>>(),
    )
}
