//! What `rd_controldata --history` prints: the last checkpoints and recoveries, as text or JSON.

use rd_base::civil::Utc;
use rd_format::control::checkpoint_flags;
use rd_format::history::{CheckpointRow, RecoveryRow, Value as Field};
use rd_store::history::Remembered;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::time::Duration;

/// The text for people, newest first.
pub fn text(remembered: &Remembered) -> String {
    let checkpoints = remembered.checkpoints.iter().rev().map(checkpoint_cells);
    let recoveries = remembered.recoveries.iter().rev().map(recovery_cells);
    let mut text = String::from("Checkpoints\n");
    table(&mut text, &CHECKPOINT_HEADS, checkpoints.collect());
    text.push_str("\nRecoveries\n");
    table(&mut text, &RECOVERY_HEADS, recoveries.collect());
    text
}

/// The same for programs, with all that is remembered.
pub fn json(remembered: &Remembered) -> Value {
    let checkpoints = remembered.checkpoints.iter().rev();
    let recoveries = remembered.recoveries.iter().rev();
    json!({
        "checkpoints": checkpoints.map(|row| object(row.fields())).collect::<Vec<_>>(),
        "recoveries": recoveries.map(|row| object(row.fields())).collect::<Vec<_>>(),
        "damaged": remembered.damaged,
    })
}

fn object(fields: Vec<(&'static str, Field)>) -> Value {
    let values = fields.into_iter().map(|(name, field)| {
        let value = match field {
            Field::Number(number) => json!(number),
            Field::Text(text) => json!(text),
        };
        (name.to_owned(), value)
    });
    Value::Object(values.collect::<Map<_, _>>())
}

const CHECKPOINT_HEADS: [&str; 10] = [
    "number",
    "ended",
    "total s",
    "sync s",
    "pages",
    "files",
    "WAL kB",
    "redo point",
    "recovery s",
    "cause, requester, result",
];

fn checkpoint_cells(row: &CheckpointRow) -> Vec<String> {
    let mut why = checkpoint_flags::words(row.flags);
    if row.requests > 0 {
        let _ = write!(why, "; {}", row.requester);
    }
    if let Some(error) = &row.error {
        let _ = write!(why, "; FAILED: {error}");
    }
    vec![
        row.number.to_string(),
        time(row.ended_us),
        seconds(row.ended_us.saturating_sub(row.began_us)),
        seconds(row.sync_us),
        row.pages_written.to_string(),
        row.files_synced.to_string(),
        (row.wal_bytes / 1024).to_string(),
        row.redo_lsn.to_string(),
        seconds(row.estimate_after_us),
        why,
    ]
}

const RECOVERY_HEADS: [&str; 9] = [
    "number",
    "ended",
    "took s",
    "expected s",
    "WAL kB",
    "records",
    "pages read",
    "redo from",
    "found",
];

fn recovery_cells(row: &RecoveryRow) -> Vec<String> {
    let mut found = row.reason().to_owned();
    if row.unfinished_starts > 0 {
        let _ = write!(
            found,
            "; {} unfinished starts before",
            row.unfinished_starts
        );
    }
    if row.torn_pages > 0 {
        let _ = write!(found, "; {} torn pages mended", row.torn_pages);
    }
    vec![
        row.number.to_string(),
        time(row.ended_us),
        seconds(row.actual_us),
        seconds(row.predicted_us),
        (row.redo_bytes / 1024).to_string(),
        row.records.to_string(),
        row.pages_read.to_string(),
        row.redo_lsn.to_string(),
        found,
    ]
}

fn time(us: u64) -> String {
    format!("{:#}", Utc::since_epoch(Duration::from_micros(us)))
}

fn seconds(us: u64) -> String {
    format!("{:.3}", us as f64 / 1e6)
}

/// Puts rows under their heads, each column as wide as it must be; the last is not filled up.
fn table(text: &mut String, heads: &[&str], rows: Vec<Vec<String>>) {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&heads).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    for row in &all {
        let last = row.len() - 1;
        for (cell, width) in row[..last].iter().zip(&widths) {
            let _ = write!(text, "{cell:>width$}  ");
        }
        let _ = writeln!(text, "{}", row[last]);
    }
}
