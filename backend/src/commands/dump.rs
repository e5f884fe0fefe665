//! DUMP and RESTORE: strings in the form in which Redis servers exchange them.

use super::Call;
use super::expiry::{Base, Until, put_until};
use crate::dispatch::{Failure, Flow, Outcome};
use rd_wire::num::{is_word, parse_i64};
use rd_wire::rdb::{self, RestoreError};
use rd_wire::texts;

/// DUMP key.
pub fn dump(call: &mut Call<'_>) -> Outcome {
    let payload = call.read(call.arg(1), |value| {
        value.map(|value| rdb::dump(value.bytes))
    })?;
    match payload {
        None => call.reply().null(),
        Some(Some(payload)) => call.reply().bulk(&payload),
        Some(None) => return Err(no_room(call)),
    }
    Ok(Flow::Done)
}

fn no_room(call: &Call<'_>) -> Failure {
    let what = "could not make room for a value that is dumped or restored";
    call.server.no_memory(what.to_owned()).into()
}

/// RESTORE's words: whether it replaces, and whether its time counts from 1970.
fn restore_options(call: &Call<'_>) -> Result<(bool, bool), &'static str> {
    let (mut replace, mut absolute) = (false, false);
    let (mut idle_time, mut frequency) = (false, false);
    let mut at = 4;
    while let Some(word) = call.args.get(at) {
        at += 1;
        let value = call.args.get(at);
        if is_word(word, "REPLACE") {
            replace = true;
        } else if is_word(word, "ABSTTL") {
            absolute = true;
        } else if let Some(value) = value
            && is_word(word, "IDLETIME")
            && !frequency
        {
            let seconds = parse_i64(value).ok_or(texts::NOT_AN_INTEGER)?;
            if seconds < 0 {
                return Err(texts::INVALID_IDLETIME);
            }
            (idle_time, at) = (true, at + 1);
        } else if let Some(value) = value
            && is_word(word, "FREQ")
            && !idle_time
        {
            let count = parse_i64(value).ok_or(texts::NOT_AN_INTEGER)?;
            if !(0..=255).contains(&count) {
                return Err(texts::INVALID_FREQ);
            }
            (frequency, at) = (true, at + 1);
        } else {
            return Err(texts::SYNTAX);
        }
    }
    Ok((replace, absolute))
}

/// Value and end of the key that is to be restored.
fn restored(call: &mut Call<'_>, absolute: bool) -> Result<(Vec<u8>, Until), Failure> {
    let ttl = parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    let ttl = u64::try_from(ttl).map_err(|_| texts::INVALID_TTL)?;
    let now_ms = call.now_ms();
    let until = match (ttl, absolute) {
        (0, _) => Until::NEVER,
        (ttl, true) => Until::new(call, Base::Epoch, ttl, now_ms),
        (ttl, false) => Until::new(call, Base::Now, now_ms.saturating_add(ttl), now_ms),
    };
    let bytes_max = call.server.config.proto_max_bulk_len_bytes() as usize;
    let value = rdb::restore(call.arg(3), bytes_max).map_err(|error| match error {
        RestoreError::Footer => Failure::from(texts::DUMP_FOOTER),
        RestoreError::Format => Failure::from(texts::DUMP_FORMAT),
        RestoreError::TooLong => Failure::from(texts::STRING_TOO_LONG),
        RestoreError::NoRoom => no_room(call),
        RestoreError::Type(name) => {
            Failure::Reply(format!("ERR payload of a {name}; {}", texts::STRINGS_ONLY))
        }
    })?;
    Ok((value, until))
}

/// RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s] [FREQ n]; the last two say nothing here.
pub fn restore(call: &mut Call<'_>) -> Outcome {
    let (replace, absolute) = restore_options(call)?;
    let key = call.arg(1);
    // That the key is there comes before what else may be wrong.
    let restored = restored(call, absolute);
    let is_busy = call.write(&[key], &mut |access| {
        if !replace && access.meta(0)?.is_some() {
            return Ok(true);
        }
        if let Ok((value, until)) = &restored {
            put_until(access, 0, value, *until)?;
        }
        Ok(false)
    })?;
    if is_busy {
        return Err(texts::BUSY_KEY.into());
    }
    restored?;
    call.reply().ok();
    Ok(Flow::Done)
}
