//! What `rd_controldata` prints: one list of rows, of which the text and the JSON are made.

use crate::{control, history, reading};
use anyhow::{Context, Result};
use rd_base::Lsn;
use rd_base::civil::Utc;
use rd_format::control::{
    CONTROL_FORMAT, Chosen, ControlFile, FileRow, PROTECTION_DOUBLE_WRITE, PendingDrop,
    checkpoint_flags,
};
use rd_format::wal_page;
use rd_store::history::{HISTORY_PATH, Remembered};
use rd_sys::storage::RealStorage;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// Where the values begin in the text, as in `pg_controldata`.
const LABEL_WIDTH: usize = 38;

/// One thing that the control file says.
struct Row {
    label: &'static str,
    key: &'static str,
    text: String,
    value: Value,
}

/// What is wanted of a data directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// For programs.
    pub json: bool,
    /// The last checkpoints and recoveries in place of the control file.
    pub history: bool,
}

/// All that the tool prints of a data directory; what is damaged and passed over goes to `warn`.
///
/// # Errors
/// When no slot of the control file is valid, or the history cannot be read.
pub fn shown(dir: &Path, wanted: Wanted, warn: &mut dyn FnMut(&str)) -> Result<String> {
    let reading = control::read(dir)?;
    let path = reading.path.clone();
    let chosen = reading.chosen()?;
    if let Err(error) = &chosen.other {
        warn(&format!(
            "slot {} of control file \"{}\" is not valid: {error}\n\
             HINT: The server uses the other slot, shown here, and writes this one anew.",
            1 - chosen.slot,
            path.display()
        ));
    }
    if let Err(error) = chosen.control.compatible() {
        warn(&format!("this program cannot serve the directory: {error}"));
    }
    let system_id = chosen.control.system_identifier;
    Ok(match (wanted.history, wanted.json) {
        (true, true) => format!("{:#}\n", history::json(&remembered(dir, system_id, warn)?)),
        (true, false) => history::text(&remembered(dir, system_id, warn)?),
        (false, true) => format!("{:#}\n", json(&chosen)),
        (false, false) => text(&chosen),
    })
}

/// Reads the history; names what of it is damaged.
fn remembered(dir: &Path, system_id: u64, warn: &mut dyn FnMut(&str)) -> Result<Remembered> {
    let path = dir.join(HISTORY_PATH);
    reading::check_regular(&path)
        .with_context(|| format!("could not open file \"{}\" for reading", path.display()))?;
    let storage = RealStorage::new(dir.to_owned());
    let remembered = rd_store::history::read(&storage, system_id)?;
    for record in &remembered.damaged {
        warn(&format!(
            "a record of \"{HISTORY_PATH}\" is passed over: {record}"
        ));
    }
    Ok(remembered)
}

/// The text for people.
fn text(chosen: &Chosen) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let label = format!("{label}:");
        writeln!(text, "{label:<LABEL_WIDTH$}{value}").expect("a string takes all");
    };
    for row in rows(&chosen.control) {
        line(row.label, &row.text);
    }
    line(
        "pg_control slot in use",
        &format!("{} of 0, 1", chosen.slot),
    );
    let other = match &chosen.other {
        Ok(control) => format!("valid, sequence {}", control.sequence),
        Err(error) => format!("INVALID: {error}"),
    };
    line(&format!("pg_control slot {}", 1 - chosen.slot), &other);
    for file in &chosen.control.files {
        line(&format!("Relation file {}", file.file), &file_text(file));
    }
    for drop in &chosen.control.pending_drops {
        let until = format!("no record touches it after {}", drop.last_lsn);
        line(&format!("Dropped relation file {}", drop.file), &until);
    }
    text
}

/// The same for programs. LSNs and the system identifier are strings, as not every reader's
/// numbers hold 64 bits.
fn json(chosen: &Chosen) -> Value {
    let control = &chosen.control;
    let mut object: Map<String, Value> = rows(control)
        .into_iter()
        .map(|row| (row.key.to_owned(), row.value))
        .collect();
    let other = match &chosen.other {
        Ok(control) => json!({ "valid": true, "sequence": control.sequence }),
        Err(error) => json!({ "valid": false, "error": error.to_string() }),
    };
    let slots = if chosen.slot == 0 {
        ["0", "1"]
    } else {
        ["1", "0"]
    };
    object.insert("slot_in_use".to_owned(), json!(chosen.slot));
    let in_use = json!({ "valid": true, "sequence": control.sequence });
    object.insert(
        "slots".to_owned(),
        json!({ slots[0]: in_use, slots[1]: other }),
    );
    let files: Vec<Value> = control.files.iter().map(file_json).collect();
    object.insert("files".to_owned(), Value::Array(files));
    let drops: Vec<Value> = control.pending_drops.iter().map(drop_json).collect();
    object.insert("pending_drops".to_owned(), Value::Array(drops));
    Value::Object(object)
}

fn rows(control: &ControlFile) -> Vec<Row> {
    let mut rows = Vec::new();
    identity_rows(control, &mut rows);
    checkpoint_rows(control, &mut rows);
    recovery_rows(control, &mut rows);
    size_rows(control, &mut rows);
    rows
}

fn identity_rows(control: &ControlFile, rows: &mut Vec<Row>) {
    let mut push = pusher(rows);
    push(
        "pg_control version number",
        "format",
        number(u64::from(CONTROL_FORMAT)),
    );
    push(
        "Database system identifier",
        "system_identifier",
        as_text(control.system_identifier),
    );
    push(
        "Database cluster state",
        "state",
        as_text(control.state.name()),
    );
    push(
        "pg_control last modified",
        "written_us",
        time(control.written_us),
    );
    push(
        "pg_control sequence number",
        "sequence",
        number(control.sequence),
    );
    push(
        "Starts for writing",
        "start_count",
        number(u64::from(control.start_count.get())),
    );
    let unfinished = number(u64::from(control.unfinished_starts));
    push(
        "Unfinished starts in a row",
        "unfinished_starts",
        unfinished,
    );
}

fn checkpoint_rows(control: &ControlFile, rows: &mut Vec<Row>) {
    let mut push = pusher(rows);
    push(
        "Latest checkpoint location",
        "checkpoint_lsn",
        lsn(control.checkpoint_lsn),
    );
    push(
        "Latest checkpoint's REDO location",
        "redo_lsn",
        lsn(control.redo_lsn),
    );
    push(
        "Latest checkpoint's REDO WAL file",
        "redo_wal_file",
        as_text(redo_wal_file(control)),
    );
    let timeline = u64::from(control.timeline.get());
    push(
        "Latest checkpoint's TimeLineID",
        "timeline",
        number(timeline),
    );
    let words = checkpoint_flags::words(control.checkpoint_flags);
    push(
        "Latest checkpoint's kind and cause",
        "checkpoint_cause",
        as_text(words),
    );
    push(
        "Time of latest checkpoint",
        "checkpoint_us",
        time(control.checkpoint_us),
    );
    push(
        "REDO location last advanced",
        "incremental_us",
        time(control.incremental_us),
    );
    push(
        "Number of REDO location's advances",
        "checkpoint_count",
        number(control.checkpoint_count),
    );
    let redo_count = u64::from(control.redo_predecessor_count.get());
    push(
        "Start count before REDO location",
        "redo_predecessor_count",
        number(redo_count),
    );
    let previous = control.previous_checkpoint_lsn;
    push(
        "Prior checkpoint location",
        "previous_checkpoint_lsn",
        lsn(previous),
    );
    push(
        "Prior checkpoint's REDO location",
        "previous_redo_lsn",
        lsn(control.previous_redo_lsn),
    );
    push("Location of key counts", "keys_lsn", lsn(control.keys_lsn));
    push(
        "Durable location of the log",
        "durable_lsn",
        lsn(control.durable_lsn),
    );
    let durable_count = u64::from(control.durable_predecessor_count.get());
    push(
        "Start count before durable location",
        "durable_predecessor_count",
        number(durable_count),
    );
}

fn recovery_rows(control: &ControlFile, rows: &mut Vec<Row>) {
    let mut push = pusher(rows);
    let ms = |ms: u64| (format!("{ms} ms"), json!(ms));
    let rate = |rate: u64, unit: &str| match rate {
        0 => ("not known".to_owned(), json!(null)),
        rate => (format!("{rate} {unit} per s"), json!(rate)),
    };
    push(
        "Estimated recovery time",
        "estimated_recovery_ms",
        ms(control.estimated_recovery_ms),
    );
    push(
        "Time of last recovery",
        "last_recovery_ms",
        ms(control.last_recovery_ms),
    );
    let estimate = ms(control.last_recovery_estimate_ms);
    push(
        "Estimate before last recovery",
        "last_recovery_estimate_ms",
        estimate,
    );
    push(
        "Redo rate in log",
        "redo_bytes_per_s",
        rate(control.redo_bytes_per_s, "bytes"),
    );
    push(
        "Redo rate in pages read",
        "redo_pages_per_s",
        rate(control.redo_pages_per_s, "pages"),
    );
    push(
        "Fixed part of recovery",
        "recovery_fixed_ms",
        ms(control.recovery_fixed_us / 1000),
    );
    push(
        "Log that the estimate is for",
        "estimated_redo_bytes",
        number(control.estimated_redo_bytes),
    );
    push(
        "Pages that the estimate is for",
        "estimated_redo_pages",
        number(control.estimated_redo_pages),
    );
    push(
        "Backup start location",
        "backup_start_lsn",
        lsn(control.backup_start_lsn),
    );
    push(
        "Backup end location",
        "backup_end_lsn",
        lsn(control.backup_end_lsn),
    );
}

fn size_rows(control: &ControlFile, rows: &mut Vec<Row>) {
    let mut push = pusher(rows);
    let small = |value: u32| number(u64::from(value));
    push(
        "max_connections setting",
        "max_connections",
        small(control.max_connections),
    );
    push("backends setting", "backends", small(control.backends));
    let double_write = control.protection & PROTECTION_DOUBLE_WRITE != 0;
    let protection = if double_write { "double_write" } else { "off" };
    push(
        "Torn page protection",
        "torn_page_protection",
        as_text(protection),
    );
    let batch = control.first_unsynced_batch.get();
    push(
        "First unsynced double-write batch",
        "first_unsynced_batch",
        number(batch),
    );
    push(
        "Database block size",
        "page_bytes",
        small(control.page_bytes),
    );
    push(
        "WAL block size",
        "wal_page_bytes",
        small(control.wal_page_bytes),
    );
    push(
        "Bytes per WAL segment",
        "wal_segment_bytes",
        small(control.wal_segment_bytes),
    );
    push(
        "Next relation file number",
        "next_file",
        small(control.next_file.get()),
    );
}

fn pusher(rows: &mut Vec<Row>) -> impl FnMut(&'static str, &'static str, (String, Value)) {
    |label, key, (text, value)| {
        rows.push(Row {
            label,
            key,
            text,
            value,
        })
    }
}

fn number(value: u64) -> (String, Value) {
    (value.to_string(), json!(value))
}

fn as_text(value: impl ToString) -> (String, Value) {
    let text = value.to_string();
    (text.clone(), json!(text))
}

fn lsn(value: Lsn) -> (String, Value) {
    as_text(value)
}

fn time(us: u64) -> (String, Value) {
    let text = match us {
        0 => "never".to_owned(),
        us => format!("{:#}", Utc::since_epoch(Duration::from_micros(us))),
    };
    (text, json!(us))
}

/// The segment that recovery reads first; a size that no segment has gives no name.
fn redo_wal_file(control: &ControlFile) -> String {
    if control.compatible().is_err() {
        return "unknown".to_owned();
    }
    let segment_bytes = u64::from(control.wal_segment_bytes);
    let segment = wal_page::segment_of(control.redo_lsn, segment_bytes);
    wal_page::segment_name(control.timeline, segment, segment_bytes)
}

fn file_text(file: &FileRow) -> String {
    let FileRow {
        checkpoint_count,
        scn,
        stop_scn,
        access,
        key_count,
        blocks,
        ..
    } = file;
    format!(
        "blocks {blocks}, keys {key_count}, checkpoint count {checkpoint_count}, SCN {scn}, \
         stop SCN {stop_scn}{}",
        if file.is_closed() {
            format!(", {access}")
        } else {
            String::new()
        }
    )
}

fn file_json(file: &FileRow) -> Value {
    json!({
        "file": file.file.get(),
        "blocks": file.blocks,
        "key_count": file.key_count,
        "checkpoint_count": file.checkpoint_count,
        "scn": file.scn.to_string(),
        "stop_scn": file.stop_scn.to_string(),
        "access": file.access.to_string(),
    })
}

fn drop_json(drop: &PendingDrop) -> Value {
    json!({ "file": drop.file.get(), "last_lsn": drop.last_lsn.to_string() })
}
