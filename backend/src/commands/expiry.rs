//! When a key ends to be there: EXPIRE, TTL and their kin, and the words EX, PX, EXAT and PXAT of
//! others.
//!
//! An expiry is a time of the wall clock in milliseconds since 1970, kept in the version. One that a key has is
//! held against the clock at one moment of each command, of one that writes when its keys are latched; one that
//! a command gives, when that begins. So a clock that is set forward ends keys early, and one that is set back
//! lets them be seen again until they are removed. What removes them guards itself against jumps (see
//! `clock_guard.rs`).
//!
//! An open transaction sees the keys that were there when it began, whatever ends meanwhile; but a time
//! that a client gives counts from the command, and what a transaction has written itself ends when
//! its time has come. Else a key would end sooner than its client was told, by the transaction's age.
//! For EXEC time stands still, as in Redis. A key that has ended since it began cannot be given a value by
//! it: others may have seen that it is gone, and its commit conflicts as if the key had been removed.
//!
//! Invariant: a key that is given an expiry which has passed when the command begins is deleted; unless that
//! is a time of the wall clock, which may be wrong: then it is hidden, and stays until what removes keys
//! trusts the clock ([`Until`]). So does a key whose new expiry passes while the command waits for its pages:
//! that, too, may be a clock that was set. What keeps the expiry that a key has writes it whether or not it has
//! passed.

use super::Call;
use crate::dispatch::{Failure, Flow, Outcome};
use rd_engine::{Access, ProgramError};
use rd_wire::num::{is_word, parse_i64};
use rd_wire::texts;

/// The unit of a time as a client gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
}

/// From when a time is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// From now.
    Now,
    /// From 1970.
    Epoch,
}

/// Until when a key is to be there, as a command says it.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    /// In milliseconds since 1970; `None` if it never ends.
    expiry_ms: Option<u64>,
    /// Whether that has passed, and the key is deleted.
    is_over: bool,
}

impl Until {
    /// It never ends.
    pub const NEVER: Until = Until {
        expiry_ms: None,
        is_over: false,
    };

    /// Until `expiry_ms`, a time that counts from `base`, for a command that began at `now_ms`.
    pub fn new(call: &mut Call<'_>, base: Base, expiry_ms: u64, now_ms: u64) -> Until {
        // Zero stands for all that lies before 1970, which has passed by any clock.
        let mut is_sure = || base == Base::Now || expiry_ms == 0 || call.server.trusts_clock();
        Until {
            expiry_ms: Some(expiry_ms),
            is_over: expiry_ms <= now_ms && is_sure(),
        }
    }
}

/// A time as a client gives it.
#[derive(Clone, Copy, Debug)]
pub struct When<'a> {
    /// Its text.
    pub text: &'a [u8],
    /// Its unit.
    pub unit: Unit,
    /// From when it counts.
    pub base: Base,
}

impl<'a> When<'a> {
    /// What the option `word` with the argument `text` says, if it is one of EX, PX, EXAT, PXAT.
    pub fn option(word: &[u8], text: Option<&'a [u8]>) -> Option<When<'a>> {
        let (unit, base) = if is_word(word, "EX") {
            (Unit::Seconds, Base::Now)
        } else if is_word(word, "PX") {
            (Unit::Millis, Base::Now)
        } else if is_word(word, "EXAT") {
            (Unit::Seconds, Base::Epoch)
        } else if is_word(word, "PXAT") {
            (Unit::Millis, Base::Epoch)
        } else {
            return None;
        };
        let text = text?;
        Some(When { text, unit, base })
    }

    /// In milliseconds since 1970, which may lie before 1970.
    fn at(&self, now_ms: u64, command: &str) -> Result<i64, Failure> {
        let number = parse_i64(self.text).ok_or(texts::NOT_AN_INTEGER)?;
        let millis = match self.unit {
            Unit::Seconds => number.checked_mul(1000),
            Unit::Millis => Some(number),
        };
        let at = match self.base {
            Base::Now => millis.and_then(|millis| millis.checked_add_unsigned(now_ms)),
            Base::Epoch => millis,
        };
        at.ok_or_else(|| invalid(command))
    }

    /// What it says, for commands that want a time above zero.
    ///
    /// # Errors
    /// The reply that names `command`.
    pub fn until(&self, call: &mut Call<'_>, command: &str) -> Result<Until, Failure> {
        let number = parse_i64(self.text).ok_or(texts::NOT_AN_INTEGER)?;
        if number <= 0 {
            return Err(invalid(command));
        }
        let now_ms = call.now_ms();
        let expiry_ms = self.at(now_ms, command)?.unsigned_abs();
        Ok(Until::new(call, self.base, expiry_ms, now_ms))
    }
}

fn invalid(command: &str) -> Failure {
    Failure::Reply(format!("ERR invalid expire time in '{command}' command"))
}

/// Gives key `index` the value, until then.
///
/// # Errors
/// To be handed on.
pub fn put_until(
    access: &mut Access<'_>,
    index: usize,
    value: &[u8],
    until: Until,
) -> Result<(), ProgramError> {
    if until.is_over {
        return access.delete(index).map(|_| ());
    }
    access.put(index, value, until.expiry_ms)
}

/// When key `index` ends to be there; `None` if never, or if it is not there.
///
/// # Errors
/// To be handed on.
pub fn expiry_of(access: &mut Access<'_>, index: usize) -> Result<Option<u64>, ProgramError> {
    Ok(access.meta(index)?.and_then(|meta| meta.expiry_ms))
}

/// Lets key `index` be there until then, its value staying as it is; false if it is not there.
///
/// # Errors
/// To be handed on.
pub fn set_expiry(
    access: &mut Access<'_>,
    index: usize,
    until: Until,
) -> Result<bool, ProgramError> {
    if until.is_over {
        return access.delete(index);
    }
    let Some(value) = access.newest_copy(index)? else {
        return Ok(false);
    };
    access.put_again(index, &value, until.expiry_ms)?;
    Ok(true)
}

/// On which condition EXPIRE does its work.
#[derive(Clone, Copy, Default)]
struct Condition {
    only_without: bool,
    only_with: bool,
    only_later: bool,
    only_sooner: bool,
}

impl Condition {
    fn parse(call: &Call<'_>) -> Result<Condition, Failure> {
        let mut condition = Condition::default();
        for word in call.args.skip(3).iter() {
            if is_word(word, "NX") {
                condition.only_without = true;
            } else if is_word(word, "XX") {
                condition.only_with = true;
            } else if is_word(word, "GT") {
                condition.only_later = true;
            } else if is_word(word, "LT") {
                condition.only_sooner = true;
            } else {
                let word = String::from_utf8_lossy(word);
                return Err(format!("ERR Unsupported option {word}").into());
            }
        }
        let Condition {
            only_without,
            only_with,
            only_later,
            only_sooner,
        } = condition;
        if only_without && (only_with || only_later || only_sooner) {
            return Err(texts::EXPIRE_NX.into());
        }
        if only_later && only_sooner {
            return Err(texts::EXPIRE_GT_LT.into());
        }
        Ok(condition)
    }

    /// Whether a key that ends at `old` (never, if `None`) may be made to end at `new`.
    fn allows(&self, old: Option<u64>, new: i64) -> bool {
        let old = old.map(|old| i64::try_from(old).unwrap_or(i64::MAX));
        !(self.only_without && old.is_some()
            || self.only_with && old.is_none()
            || self.only_later && old.is_none_or(|old| new <= old)
            || self.only_sooner && old.is_some_and(|old| new >= old))
    }
}

/// EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT: key time [NX|XX|GT|LT].
pub fn expire(call: &mut Call<'_>, unit: Unit, base: Base, command: &str) -> Outcome {
    let condition = Condition::parse(call)?;
    let (key, text) = (call.arg(1), call.arg(2));
    let now_ms = call.now_ms();
    let at = When { text, unit, base }.at(now_ms, command)?;
    // What lies before 1970 has passed as well as 1970 has.
    let until = Until::new(call, base, u64::try_from(at).unwrap_or(0), now_ms);
    let is_set = call.write(&[key], &mut |access| {
        let Some(meta) = access.meta(0)? else {
            return Ok(false);
        };
        if !condition.allows(meta.expiry_ms, at) {
            return Ok(false);
        }
        set_expiry(access, 0, until)
    })?;
    call.reply().integer(i64::from(is_set));
    Ok(Flow::Done)
}

/// PERSIST key.
pub fn persist(call: &mut Call<'_>) -> Outcome {
    let key = call.arg(1);
    let is_set = call.write(&[key], &mut |access| match expiry_of(access, 0)? {
        Some(_) => set_expiry(access, 0, Until::NEVER),
        None => Ok(false),
    })?;
    call.reply().integer(i64::from(is_set));
    Ok(Flow::Done)
}

/// TTL, PTTL, EXPIRETIME, PEXPIRETIME key: -2 if there is no such key, -1 if it has no expiry.
pub fn ttl(call: &mut Call<'_>, unit: Unit, base: Base) -> Outcome {
    let now_ms = call.now_ms();
    let meta = call.meta(call.arg(1))?;
    let number = match meta.map(|meta| meta.expiry_ms) {
        None => -2,
        Some(None) => -1,
        Some(Some(expiry_ms)) => {
            let millis = match base {
                Base::Now => expiry_ms.saturating_sub(now_ms),
                Base::Epoch => expiry_ms,
            };
            let number = match unit {
                Unit::Millis => millis,
                Unit::Seconds => millis.saturating_add(500) / 1000,
            };
            i64::try_from(number).unwrap_or(i64::MAX)
        }
    };
    call.reply().integer(number);
    Ok(Flow::Done)
}
