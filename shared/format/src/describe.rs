//! One line of text for any record, as `rd_waldump` prints it.

use crate::node::{Bound, Payload};
use crate::wal_record::{BlockView, PageOp, RecordData, RecordError, RecordView, Upsert};
use rd_base::Lsn;
use rd_base::civil::Utc;
use std::fmt::Write;
use std::time::Duration;

/// Longest part of a key or value that is printed, in bytes.
pub const SHOWN_BYTES_MAX: usize = 64;

/// The record in one line: kind, lengths, place, start count, time, then what it does. A body that
/// is damaged is described as far as it goes, and the damage named at the end.
pub fn describe(record: &RecordView<'_>) -> String {
    let header = record.header();
    let time = Utc::since_epoch(Duration::from_micros(header.time_us));
    let mut line = format!(
        "{:<15} len {:>6}/{:>6}, lsn {}, end {}, start {}, {}",
        record.kind().name(),
        header.padded_len(),
        header.total_len,
        header.lsn,
        header.end_lsn(),
        header.start_count,
        time,
    );
    if let Err(error) = describe_body(record, &mut line) {
        let _ = write!(line, "; DAMAGED: {error}");
    }
    line
}

fn describe_body(record: &RecordView<'_>, line: &mut String) -> Result<(), RecordError> {
    describe_data(&record.data(), line);
    for block in record.blocks() {
        describe_block(&block?, line)?;
    }
    record.data().map(|_| ())
}

/// Writing to a `String` cannot fail; the results are dropped for that reason.
fn describe_data(data: &Result<RecordData<'_>, RecordError>, line: &mut String) {
    match data {
        Ok(RecordData::Commit(files)) => {
            for file in files.iter() {
                let _ = write!(line, ", file {} {:+} keys", file.file, file.key_delta);
            }
        }
        Ok(RecordData::Checkpoint(data)) => {
            let causes = crate::control::checkpoint_flags::words(data.causes);
            let _ = write!(
                line,
                ", redo {}, checkpoint {}, timeline {}, {causes}",
                data.redo_lsn, data.checkpoint_count, data.timeline
            );
        }
        Ok(RecordData::File(file)) => {
            let _ = write!(line, ", file {file}");
        }
        Ok(RecordData::EndOfRecovery(data)) => {
            let _ = write!(
                line,
                ", timeline {}, was {}, redo {}",
                data.timeline, data.previous_timeline, data.redo_lsn
            );
        }
        Ok(RecordData::Nothing) | Err(_) => {}
    }
}

fn describe_block(block: &BlockView<'_>, line: &mut String) -> Result<(), RecordError> {
    let _ = write!(line, "; {}/{}:", block.tag.file, block.tag.block);
    if let Some(image) = &block.image {
        let _ = write!(line, " page of {} bytes", image.bytes());
    }
    let mut first = block.image.is_none();
    for op in block.ops() {
        line.push_str(if first { " " } else { ", " });
        first = false;
        describe_op(&op?, line);
    }
    Ok(())
}

/// One operation on a page, in words.
pub fn describe_op(op: &PageOp<'_>, line: &mut String) {
    let _ = match op {
        PageOp::Upsert(upsert) => {
            describe_upsert(upsert, line);
            Ok(())
        }
        PageOp::RemoveVersion { key, stamp } => {
            write!(line, "remove {} stamped {stamp}", quoted(key))
        }
        PageOp::SplitLeft { bound, right } => {
            write!(
                line,
                "split before {}, right sibling {right}",
                bound_text(bound)
            )
        }
        PageOp::InsertChild { bound, child } => {
            write!(line, "child {child} from {}", bound_text(bound))
        }
        PageOp::RemoveChild { bound } => {
            write!(line, "remove child from {}", bound_text(bound))
        }
        PageOp::SetChild { bound, child } => {
            write!(line, "child from {} is now {child}", bound_text(bound))
        }
        PageOp::SetRightLink { right: Some(right) } => write!(line, "right sibling {right}"),
        PageOp::SetRightLink { right: None } => write!(line, "no right sibling"),
        PageOp::ChangeFlags { set, clear } => {
            write!(line, "set flags {set:04x}, clear {clear:04x}")
        }
        PageOp::SetBit(bit) => write!(line, "use {bit}"),
        PageOp::ClearBit(bit) => write!(line, "free {bit}"),
    };
}

fn describe_upsert(upsert: &Upsert<'_>, line: &mut String) {
    let key = quoted(upsert.key);
    let _ = match upsert.payload {
        Payload::Tombstone => write!(line, "delete {key}"),
        Payload::Inline(value) => write!(line, "set {key} = {}", quoted(value)),
        Payload::Overflow(stub) => write!(
            line,
            "set {key} = {} bytes in {} pages from {}",
            stub.value_bytes, stub.pages, stub.first
        ),
    };
    if let Some(expiry_ms) = upsert.expiry_ms {
        let _ = write!(
            line,
            " until {}",
            Utc::since_epoch(Duration::from_millis(expiry_ms))
        );
    }
}

fn bound_text(bound: &Bound<'_>) -> String {
    if bound.stamp == Lsn::MAX {
        quoted(bound.key)
    } else {
        format!("{} stamped {}", quoted(bound.key), bound.stamp)
    }
}

/// Bytes in double quotes, with what is not printable ASCII escaped as Redis does it. Of long ones
/// only the beginning, and their length.
pub fn quoted(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let text = escape(shown);
    if shown.len() < bytes.len() {
        format!("\"{text}\"... ({} bytes)", bytes.len())
    } else {
        format!("\"{text}\"")
    }
}

/// Bytes as printable ASCII: `\n`, `\r`, `\t`, `\a`, `\b`, `\"`, `\\`, `\xHH`.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2);
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            7 => text.push_str("\\a"),
            8 => text.push_str("\\b"),
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}
