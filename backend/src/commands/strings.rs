//! Strings: SET, GET and their kin.

use super::Call;
use super::expiry::{Until, When, expiry_of, put_until};
use crate::dispatch::{Flow, Outcome};
use rd_wire::longdouble::{LongDouble, Parsed};
use rd_wire::num::{Decimal, is_word, parse_i64};
use rd_wire::{ReplyWriter, texts};

/// GET key.
pub fn get(call: &mut Call<'_>) -> Outcome {
    let view = call.server.view(call.session);
    let (namespace, key) = (call.namespace(), call.arg(1));
    let mut reply = ReplyWriter::new(call.output.bytes(), call.session.proto);
    let read = call.server.engine.get(namespace, key, view, |value| {
        reply.bulk_or_null(value.map(|value| value.bytes));
        value.is_some()
    })?;
    call.count_lookup(read.result);
    call.depends_on(read.depends_on);
    Ok(Flow::Done)
}

/// STRLEN key.
pub fn strlen(call: &mut Call<'_>) -> Outcome {
    let view = call.server.view(call.session);
    let (namespace, key) = (call.namespace(), call.arg(1));
    let read = call.server.engine.meta(namespace, key, view)?;
    call.count_lookup(read.result.is_some());
    call.depends_on(read.depends_on);
    call.reply()
        .integer(read.result.map_or(0, |meta| meta.bytes as i64));
    Ok(Flow::Done)
}

/// What SET's words ask for.
#[derive(Clone, Copy, Default)]
struct SetOptions<'a> {
    only_if_absent: bool,
    only_if_present: bool,
    get: bool,
    keep_ttl: bool,
    when: Option<When<'a>>,
}

fn set_options<'a>(call: &Call<'a>) -> Result<SetOptions<'a>, &'static str> {
    let mut options = SetOptions::default();
    let mut at = 3;
    while let Some(word) = call.args.get(at) {
        at += 1;
        if is_word(word, "NX") && !options.only_if_present {
            options.only_if_absent = true;
        } else if is_word(word, "XX") && !options.only_if_absent {
            options.only_if_present = true;
        } else if is_word(word, "GET") {
            options.get = true;
        } else if is_word(word, "KEEPTTL") && options.when.is_none() {
            options.keep_ttl = true;
        } else if let Some(when) = When::option(word, call.args.get(at))
            && !options.keep_ttl
            // The same word again stands for the earlier one, as in Redis.
            && options.when.is_none_or(|old| (old.unit, old.base) == (when.unit, when.base))
        {
            options.when = Some(when);
            at += 1;
        } else {
            return Err(texts::SYNTAX);
        }
    }
    Ok(options)
}

/// SET key value [NX|XX] [GET] [KEEPTTL|EX s|PX ms|EXAT s|PXAT ms].
pub fn set(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (call.arg(1), call.arg(2));
    if call.args.len() == 3 {
        call.write(&[key], &mut |access| access.put(0, value, None))?;
        call.reply().ok();
        return Ok(Flow::Done);
    }
    let options = set_options(call)?;
    let until = match options.when {
        Some(when) => when.until(call, "set")?,
        None => Until::NEVER,
    };
    let sets_if = |is_there: bool| match is_there {
        true => !options.only_if_absent,
        false => !options.only_if_present,
    };
    let (old, is_set) = call.write(&[key], &mut |access| {
        let old = if options.get {
            access.newest_copy(0)?
        } else {
            None
        };
        let there = access.meta(0)?;
        let is_set = sets_if(there.is_some());
        if is_set {
            match options.keep_ttl {
                true => access.put(0, value, there.and_then(|meta| meta.expiry_ms))?,
                false => put_until(access, 0, value, until)?,
            }
        }
        Ok((old, is_set))
    })?;
    match old {
        Some(old) => call.reply().bulk(&old),
        None if options.get || !is_set => call.reply().null(),
        None => call.reply().ok(),
    }
    Ok(Flow::Done)
}

/// MSET key value [key value …]: all of them as one record.
pub fn mset(call: &mut Call<'_>) -> Outcome {
    if call.args.len().is_multiple_of(2) {
        return Err(texts::MSET_ARITY.into());
    }
    let namespace = call.namespace();
    let (keys, values): (Vec<_>, Vec<_>) = call.args.skip(1).pairs().unzip();
    let committed = call.server.engine.write(namespace, &keys, &mut |access| {
        for (index, value) in values.iter().enumerate() {
            access.put(index, value, None)?;
        }
        Ok(())
    })?;
    call.after(committed);
    call.reply().ok();
    Ok(Flow::Done)
}

/// APPEND key value.
pub fn append(call: &mut Call<'_>) -> Outcome {
    let (namespace, key, tail) = (call.namespace(), call.arg(1), call.arg(2));
    let bytes_max = call.server.config.proto_max_bulk_len_bytes() as usize;
    let committed = call.server.engine.write(namespace, &[key], &mut |access| {
        let old = access.meta(0)?;
        let old_bytes = old.map_or(0, |old| old.bytes);
        let length = old_bytes + tail.len();
        if length <= bytes_max {
            let mut joined = access.lengthened(0, length)?;
            if let Some(end) = joined.get_mut(old_bytes..) {
                end.copy_from_slice(tail);
            }
            access.put(0, &joined, old.and_then(|old| old.expiry_ms))?;
        }
        Ok(length)
    })?;
    let length = call.after(committed);
    if length > bytes_max {
        return Err(texts::STRING_TOO_LONG.into());
    }
    call.reply().integer(length as i64);
    Ok(Flow::Done)
}

/// INCR key, DECR key.
pub fn add_constant(call: &mut Call<'_>, increment: i64) -> Outcome {
    add(call, increment)
}

/// INCRBY key increment.
pub fn incrby(call: &mut Call<'_>) -> Outcome {
    let increment = parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    add(call, increment)
}

/// DECRBY key decrement.
pub fn decrby(call: &mut Call<'_>) -> Outcome {
    let decrement = parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    add(
        call,
        decrement.checked_neg().ok_or(texts::DECREMENT_OVERFLOW)?,
    )
}

fn add(call: &mut Call<'_>, increment: i64) -> Outcome {
    let (namespace, key) = (call.namespace(), call.arg(1));
    let committed = call.server.engine.write(namespace, &[key], &mut |access| {
        let old = match access.newest(0)? {
            Some(text) => match parse_i64(text) {
                Some(number) => number,
                None => return Ok(Err(texts::NOT_AN_INTEGER)),
            },
            None => 0,
        };
        let Some(sum) = old.checked_add(increment) else {
            return Ok(Err(texts::OVERFLOW));
        };
        let expiry_ms = expiry_of(access, 0)?;
        access.put(0, Decimal::of(sum).as_bytes(), expiry_ms)?;
        Ok(Ok(sum))
    })?;
    let sum = call.after(committed)?;
    call.reply().integer(sum);
    Ok(Flow::Done)
}

/// INCRBYFLOAT key increment.
pub fn incrbyfloat(call: &mut Call<'_>) -> Outcome {
    let (key, by) = (call.arg(1), call.arg(2));
    let sum = call.write(&[key], &mut |access| {
        let old = match access.newest(0)? {
            Some(text) => LongDouble::parse(text),
            None => Some(Parsed::Number(LongDouble::ZERO)),
        };
        let sum = match (old, LongDouble::parse(by)) {
            (None, _) | (_, None) => return Ok(Err(texts::NOT_A_FLOAT)),
            (Some(Parsed::Number(old)), Some(Parsed::Number(by))) => old.plus(by),
            _ => None,
        };
        let Some(sum) = sum else {
            return Ok(Err(texts::NAN_OR_INFINITY));
        };
        let text = sum.text();
        let expiry_ms = expiry_of(access, 0)?;
        access.put(0, text.as_bytes(), expiry_ms)?;
        Ok(Ok(text))
    })??;
    call.reply().bulk(sum.as_bytes());
    Ok(Flow::Done)
}
