//! Strings, changed on a condition or for what was there before: GETEX, GETDEL, GETSET, SETNX,
//! SETEX, MSETNX, RENAME, COPY. Each is one commit.

use super::Call;
use super::expiry::{Base, Unit, Until, When, expiry_of, put_until, set_expiry};
use super::namespaces::{self, Place};
use crate::dispatch::{Flow, Outcome};
use rd_engine::{Access, ProgramError};
use rd_wire::num::is_word;
use rd_wire::texts;

/// GETEX's words: a time, or PERSIST, or neither.
fn getex_options<'a>(call: &Call<'a>) -> Result<(Option<When<'a>>, bool), &'static str> {
    let (mut when, mut persist) = (None::<When<'a>>, false);
    let mut at = 2;
    while let Some(word) = call.args.get(at) {
        at += 1;
        if is_word(word, "PERSIST") && when.is_none() {
            persist = true;
        } else if let Some(new) = When::option(word, call.args.get(at))
            && !persist
            && when.is_none_or(|old| (old.unit, old.base) == (new.unit, new.base))
        {
            when = Some(new);
            at += 1;
        } else {
            return Err(texts::SYNTAX);
        }
    }
    Ok((when, persist))
}

/// GETEX key [EX s|PX ms|EXAT s|PXAT ms|PERSIST].
pub fn getex(call: &mut Call<'_>) -> Outcome {
    let (when, persist) = getex_options(call)?;
    if when.is_none() && !persist {
        return super::strings::get(call);
    }
    let key = call.arg(1);
    // A time that is none is an error only if the key is there.
    let until = match when {
        Some(when) => when.until(call, "getex"),
        None => Ok(Until::NEVER),
    };
    let found = call.write(&[key], &mut |access| {
        let Some(value) = access.newest_copy(0)? else {
            return Ok(None);
        };
        if let Ok(until) = until
            && (!persist || expiry_of(access, 0)?.is_some())
        {
            set_expiry(access, 0, until)?;
        }
        Ok(Some(value))
    })?;
    call.count_lookup(found.is_some());
    if found.is_some() {
        until?;
    }
    call.reply().bulk_or_null(found.as_deref());
    Ok(Flow::Done)
}

/// GETDEL key.
pub fn getdel(call: &mut Call<'_>) -> Outcome {
    let key = call.arg(1);
    let old = call.write(&[key], &mut |access| {
        let old = access.newest_copy(0)?;
        if old.is_some() {
            access.delete(0)?;
        }
        Ok(old)
    })?;
    call.count_lookup(old.is_some());
    call.reply().bulk_or_null(old.as_deref());
    Ok(Flow::Done)
}

/// GETSET key value.
pub fn getset(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (call.arg(1), call.arg(2));
    let old = call.write(&[key], &mut |access| {
        let old = access.newest_copy(0)?;
        access.put(0, value, None)?;
        Ok(old)
    })?;
    call.count_lookup(old.is_some());
    call.reply().bulk_or_null(old.as_deref());
    Ok(Flow::Done)
}

/// SETNX key value.
pub fn setnx(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (call.arg(1), call.arg(2));
    let is_set = call.write(&[key], &mut |access| {
        let is_absent = access.meta(0)?.is_none();
        if is_absent {
            access.put(0, value, None)?;
        }
        Ok(is_absent)
    })?;
    call.reply().integer(i64::from(is_set));
    Ok(Flow::Done)
}

/// SETEX key seconds value, PSETEX key milliseconds value.
pub fn setex(call: &mut Call<'_>, unit: Unit, command: &str) -> Outcome {
    let (key, text, value) = (call.arg(1), call.arg(2), call.arg(3));
    let base = Base::Now;
    let until = When { text, unit, base }.until(call, command)?;
    call.write(&[key], &mut |access| put_until(access, 0, value, until))?;
    call.reply().ok();
    Ok(Flow::Done)
}

/// MSETNX key value [key value …]: all of them, if none of them is there.
pub fn msetnx(call: &mut Call<'_>) -> Outcome {
    if call.args.len().is_multiple_of(2) {
        return Err(texts::MSETNX_ARITY.into());
    }
    let (keys, values): (Vec<_>, Vec<_>) = call.args.skip(1).pairs().unzip();
    let is_set = call.write(&keys, &mut |access| {
        for index in 0..keys.len() {
            if access.meta(index)?.is_some() {
                return Ok(false);
            }
        }
        for (index, value) in values.iter().enumerate() {
            access.put(index, value, None)?;
        }
        Ok(true)
    })?;
    call.reply().integer(i64::from(is_set));
    Ok(Flow::Done)
}

/// What RENAME and its kin do about a target that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Replace,
    Keep,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    Done,
    NoSource,
    TargetThere,
}

/// Gives key 1 value and expiry of key 0, which goes if it is `moved`.
fn transfer(
    access: &mut Access<'_>,
    target: Target,
    moved: bool,
) -> Result<Transfer, ProgramError> {
    let Some(value) = access.newest_copy(0)? else {
        return Ok(Transfer::NoSource);
    };
    let is_same = access.key(0) == access.key(1);
    if target == Target::Keep && (is_same || access.meta(1)?.is_some()) {
        return Ok(Transfer::TargetThere);
    }
    if !is_same {
        let expiry_ms = expiry_of(access, 0)?;
        if moved {
            access.delete(0)?;
        }
        access.put_again(1, &value, expiry_ms)?;
    }
    Ok(Transfer::Done)
}

/// RENAME key newkey.
pub fn rename(call: &mut Call<'_>) -> Outcome {
    let keys = [call.arg(1), call.arg(2)];
    let done = call.write(&keys, &mut |access| transfer(access, Target::Replace, true))?;
    if done == Transfer::NoSource {
        return Err(texts::NO_SUCH_KEY.into());
    }
    call.reply().ok();
    Ok(Flow::Done)
}

/// RENAMENX key newkey.
pub fn renamenx(call: &mut Call<'_>) -> Outcome {
    let keys = [call.arg(1), call.arg(2)];
    let done = call.write(&keys, &mut |access| transfer(access, Target::Keep, true))?;
    if done == Transfer::NoSource {
        return Err(texts::NO_SUCH_KEY.into());
    }
    call.reply().integer(i64::from(done == Transfer::Done));
    Ok(Flow::Done)
}

/// COPY source destination [DB index] [REPLACE].
pub fn copy(call: &mut Call<'_>) -> Outcome {
    let mut target = Target::Keep;
    let source = call.namespace();
    let mut namespace = source;
    let mut at = 3;
    while let Some(word) = call.args.get(at) {
        at += 1;
        if is_word(word, "REPLACE") {
            target = Target::Replace;
        } else if is_word(word, "DB")
            && let Some(index) = call.args.get(at)
        {
            namespace = namespaces::database_of(call, index)?;
            at += 1;
        } else {
            return Err(texts::SYNTAX.into());
        }
    }
    let keys = [call.arg(1), call.arg(2)];
    if namespace != source {
        let place = |namespace, key| Place { namespace, key };
        let (from, to) = (place(source, keys[0]), place(namespace, keys[1]));
        let replaced = target == Target::Replace;
        let done = namespaces::transfer(call, from, to, replaced, false)?;
        call.reply().integer(i64::from(done));
        return Ok(Flow::Done);
    }
    if keys[0] == keys[1] {
        return Err(texts::SAME_OBJECT.into());
    }
    let done = call.write(&keys, &mut |access| transfer(access, target, false))?;
    call.reply().integer(i64::from(done == Transfer::Done));
    Ok(Flow::Done)
}
