//! What is known of a key beside its value: OBJECT, MEMORY USAGE.

use super::Call;
use crate::dispatch::{Flow, Outcome};
use rd_base::limits::PAGE_BYTES;
use rd_wire::num::{DECIMAL_BYTES_MAX, is_word, parse_i64};
use rd_wire::texts;

/// Longest string that Redis keeps in one piece with its head.
const EMBEDDED_BYTES_MAX: usize = 44;
/// Bytes that an entry takes beside key and value, about: slot, lengths, stamp, expiry.
const ENTRY_BYTES: usize = 24;

/// OBJECT ENCODING key: as Redis would keep a value that was SET; how a value came to be is not
/// remembered.
pub fn encoding(call: &mut Call<'_>) -> Outcome {
    let Some(meta) = call.meta(call.arg(2))? else {
        call.reply().null();
        return Ok(Flow::Done);
    };
    let mut encoding = "raw";
    if meta.bytes <= EMBEDDED_BYTES_MAX {
        encoding = "embstr";
    }
    if meta.bytes <= DECIMAL_BYTES_MAX {
        let is_integer = call.read(call.arg(2), |value| {
            value.is_some_and(|value| parse_i64(value.bytes).is_some())
        })?;
        if is_integer {
            encoding = "int";
        }
    }
    call.reply().bulk(encoding.as_bytes());
    Ok(Flow::Done)
}

/// OBJECT REFCOUNT key: nothing is shared.
pub fn refcount(call: &mut Call<'_>) -> Outcome {
    match call.meta(call.arg(2))? {
        Some(_) => call.reply().integer(1),
        None => call.reply().null(),
    }
    Ok(Flow::Done)
}

/// OBJECT FREQ key, OBJECT IDLETIME key: neither is recorded.
pub fn not_tracked(call: &mut Call<'_>, error: &'static str) -> Outcome {
    if call.meta(call.arg(2))?.is_some() {
        return Err(error.into());
    }
    call.reply().null();
    Ok(Flow::Done)
}

/// MEMORY USAGE key [SAMPLES n]: the bytes of pages that the entry takes; samples are for types
/// that there are none of.
pub fn memory_usage(call: &mut Call<'_>) -> Outcome {
    let mut at = 3;
    while let Some(word) = call.args.get(at) {
        let samples = call.args.get(at + 1).filter(|_| is_word(word, "SAMPLES"));
        let samples = parse_i64(samples.ok_or(texts::SYNTAX)?).ok_or(texts::NOT_AN_INTEGER)?;
        if samples < 0 {
            return Err(texts::SYNTAX.into());
        }
        at += 2;
    }
    let key = call.arg(2);
    let Some(meta) = call.meta(key)? else {
        call.reply().null();
        return Ok(Flow::Done);
    };
    let is_inline = key.len() + meta.bytes <= PAGE_BYTES / 4;
    let value_bytes = if is_inline {
        meta.bytes
    } else {
        meta.bytes.next_multiple_of(PAGE_BYTES)
    };
    let bytes = ENTRY_BYTES + key.len() + value_bytes;
    call.reply().integer(bytes as i64);
    Ok(Flow::Done)
}
