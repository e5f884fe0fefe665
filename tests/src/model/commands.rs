//! What each data command does to a [`View`], and answers. Arguments are right: what wrong ones are
//! answered is held against Redis elsewhere.

use super::Expected;
use super::view::{Entry, Key, View};
use Expected::{Is, Matches};
use rd_wire::Reply;

const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";

const LCS_TOO_LARGE: &str =
    "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len";
/// What LCS may take: the usual `proto_max_bulk_len`.
const LCS_BYTES_MAX: usize = 16 << 20;

/// An integer.
fn int(number: impl TryInto<i64>) -> Expected {
    Is(Reply::Int(number.try_into().unwrap_or(i64::MAX)))
}

fn bulk(value: Option<Vec<u8>>) -> Reply {
    value.map_or(Reply::Null, Reply::Bulk)
}

fn ok() -> Expected {
    Is(Reply::Simple("OK".to_owned()))
}

fn error(text: &str) -> Expected {
    Is(Reply::Error(text.to_owned()))
}

fn number(word: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(word).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// An argument that is known to be a number.
fn arg(words: &[Key], at: usize) -> i64 {
    number(&words[at]).expect("numbers are generated")
}

fn has(words: &[Key], word: &str) -> bool {
    words.iter().skip(2).any(|each| each == word.as_bytes())
}

/// The number behind a word.
fn after(words: &[Key], word: &str) -> Option<i64> {
    let at = words
        .iter()
        .skip(1)
        .position(|each| each == word.as_bytes())?;
    number(words.get(at + 2)?)
}

/// Carries a command out.
pub fn run(view: &mut View<'_>, words: &[Key]) -> Expected {
    let name = std::str::from_utf8(&words[0]).expect("names are text");
    match name {
        "GET" | "SET" | "GETEX" | "GETSET" | "GETDEL" | "SETNX" | "MSET" | "MSETNX" | "MGET"
        | "STRLEN" | "APPEND" | "INCR" | "DECR" | "INCRBY" | "DECRBY" => strings(view, name, words),
        "GETRANGE" | "SUBSTR" | "SETRANGE" | "LCS" => parts(view, name, words),
        "SETBIT" | "GETBIT" | "BITCOUNT" | "BITPOS" | "BITOP" | "BITFIELD" => {
            bits(view, name, words)
        }
        "RANGE" | "REVRANGE" | "COUNTRANGE" | "DELRANGE" => ranges(view, name, words),
        "EXPIREAT" | "PEXPIREAT" | "PERSIST" | "TTL" | "EXPIRETIME" | "PEXPIRETIME" => {
            ends(view, name, words)
        }
        _ => keys(view, name, words),
    }
}

fn strings(view: &mut View<'_>, name: &str, words: &[Key]) -> Expected {
    let key = &words[1];
    match name {
        "GET" => Is(bulk(view.value(key))),
        "SET" => set(view, words),
        "GETEX" => {
            let Some(mut entry) = view.get(key) else {
                return Is(Reply::Null);
            };
            let value = entry.value.clone();
            if let Some(at) = after(words, "PXAT") {
                end(view, key, Some(at));
            } else if has(words, "PERSIST") && entry.expiry_ms.take().is_some() {
                view.put_in(view.space, key, Some(entry));
            }
            Is(Reply::Bulk(value))
        }
        "GETSET" => {
            let old = view.value(key);
            view.set(key, words[2].clone());
            Is(bulk(old))
        }
        "GETDEL" => {
            let old = view.value(key);
            view.remove(key);
            Is(bulk(old))
        }
        "SETNX" => {
            let is_free = view.get(key).is_none();
            if is_free {
                view.set(key, words[2].clone());
            }
            int(i64::from(is_free))
        }
        "MSET" => {
            for pair in words[1..].chunks_exact(2) {
                view.set(&pair[0], pair[1].clone());
            }
            ok()
        }
        "MSETNX" => {
            let pairs: Vec<&[Key]> = words[1..].chunks_exact(2).collect();
            let is_free = pairs.iter().all(|pair| view.get(&pair[0]).is_none());
            if is_free {
                for pair in pairs {
                    view.set(&pair[0], pair[1].clone());
                }
            }
            int(i64::from(is_free))
        }
        "MGET" => {
            let values = words[1..].iter().map(|key| bulk(view.value(key)));
            Is(Reply::Array(values.collect()))
        }
        "STRLEN" => int(view.value(key).unwrap_or_default().len()),
        "APPEND" => {
            let longer = [view.value(key).unwrap_or_default(), words[2].clone()].concat();
            let len = longer.len();
            view.change(key, longer);
            int(len)
        }
        _ => {
            let by = words.get(2).map_or(1, |_| arg(words, 2));
            let by = if name.starts_with("DECR") { -by } else { by };
            let old = view.value(key).unwrap_or_else(|| b"0".to_vec());
            let Some(old) = number(&old) else {
                return error(NOT_A_NUMBER);
            };
            let Some(new) = old.checked_add(by) else {
                return error("ERR increment or decrement would overflow");
            };
            view.change(key, new.to_string().into_bytes());
            int(new)
        }
    }
}

fn set(view: &mut View<'_>, words: &[Key]) -> Expected {
    let old = view.get(&words[1]);
    let refused = has(words, "NX") && old.is_some() || has(words, "XX") && old.is_none();
    if !refused {
        let kept = old.as_ref().and_then(|entry| entry.expiry_ms);
        let at = after(words, "PXAT").map(|at| at as u64);
        let expiry_ms = if has(words, "KEEPTTL") { kept } else { at };
        let entry = Entry {
            value: words[2].clone(),
            expiry_ms,
        };
        let is_live = entry.is_live(view.clock_ms);
        match is_live {
            true => view.put_in(view.space, &words[1], Some(entry)),
            false => drop(view.remove(&words[1])),
        }
    }
    match (has(words, "GET"), refused) {
        (true, _) => Is(bulk(old.map(|entry| entry.value))),
        (false, true) => Is(Reply::Null),
        (false, false) => ok(),
    }
}

/// Lets a key end at `at`; at once, if that has passed.
fn end(view: &mut View<'_>, key: &[u8], at: Option<i64>) {
    let Some(mut entry) = view.get(key) else {
        return;
    };
    entry.expiry_ms = at.map(|at| u64::try_from(at).unwrap_or(0));
    match entry.is_live(view.clock_ms) {
        true => view.put_in(view.space, key, Some(entry)),
        false => drop(view.remove(key)),
    }
}

fn ends(view: &mut View<'_>, name: &str, words: &[Key]) -> Expected {
    let key = &words[1];
    let old = view.get(key);
    let ends_at = old.as_ref().map(|entry| entry.expiry_ms);
    match name {
        "EXPIREAT" | "PEXPIREAT" => {
            let Some(old) = ends_at else {
                return int(0);
            };
            let at = arg(words, 2) * if name == "EXPIREAT" { 1000 } else { 1 };
            let known = old.map(|old| old as i64);
            let refused = has(words, "NX") && known.is_some()
                || has(words, "XX") && known.is_none()
                || has(words, "GT") && known.is_none_or(|old| at <= old)
                || has(words, "LT") && known.is_some_and(|old| at >= old);
            if !refused {
                end(view, key, Some(at));
            }
            int(i64::from(!refused))
        }
        "PERSIST" => {
            let has_end = ends_at.flatten().is_some();
            if has_end {
                end(view, key, None);
            }
            int(i64::from(has_end))
        }
        _ => match ends_at {
            None => int(-2),
            Some(None) => int(-1),
            Some(Some(_)) if name == "TTL" => Matches(
                "a time",
                Box::new(|reply| reply.as_int().is_some_and(|at| at >= 0)),
            ),
            Some(Some(at)) if name == "EXPIRETIME" => int((at + 500) / 1000),
            Some(Some(at)) => int(at),
        },
    }
}

/// First and last index, as GETRANGE takes them: negative ones from the end.
fn span(len: usize, start: i64, end: i64) -> std::ops::Range<usize> {
    let len = len as i64;
    let from = |at: i64| if at < 0 { (len + at).max(0) } else { at };
    let (start, end) = (from(start), from(end).min(len - 1) + 1);
    if start >= end {
        0..0
    } else {
        start as usize..end as usize
    }
}

fn parts(view: &mut View<'_>, name: &str, words: &[Key]) -> Expected {
    let value = view.value(&words[1]).unwrap_or_default();
    match name {
        "GETRANGE" | "SUBSTR" => {
            // Both before the beginning: nothing, whatever they are.
            let (start, end) = (arg(words, 2), arg(words, 3));
            let is_none = start < 0 && end < 0 && start > end;
            let span = if is_none {
                0..0
            } else {
                span(value.len(), start, end)
            };
            Is(Reply::Bulk(value[span].to_vec()))
        }
        "SETRANGE" => {
            let (at, new) = (arg(words, 2) as usize, &words[3]);
            if new.is_empty() {
                view.touched.insert((view.space, words[1].clone()));
                return int(value.len());
            }
            let mut value = value;
            value.resize(value.len().max(at + new.len()), 0);
            value[at..at + new.len()].copy_from_slice(new);
            let len = value.len();
            view.change(&words[1], value);
            int(len)
        }
        _ => {
            let other = view.value(&words[2]).unwrap_or_default();
            if (value.len() + 1) * (other.len() + 1) * 4 > LCS_BYTES_MAX {
                return error(LCS_TOO_LARGE);
            }
            let mut lengths = vec![vec![0; other.len() + 1]; value.len() + 1];
            for (i, a) in value.iter().enumerate() {
                for (j, b) in other.iter().enumerate() {
                    lengths[i + 1][j + 1] = match a == b {
                        true => lengths[i][j] + 1,
                        false => lengths[i][j + 1].max(lengths[i + 1][j]),
                    };
                }
            }
            int(lengths[value.len()][other.len()])
        }
    }
}

fn bit_of(value: &[u8], at: usize) -> u8 {
    value.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1)
}

fn set_bit(value: &mut Vec<u8>, at: usize, bit: u8) {
    value.resize(value.len().max(at / 8 + 1), 0);
    let mask = 1 << (7 - at % 8);
    value[at / 8] = if bit == 0 {
        value[at / 8] & !mask
    } else {
        value[at / 8] | mask
    };
}

fn bits(view: &mut View<'_>, name: &str, words: &[Key]) -> Expected {
    let key = &words[1];
    match name {
        "SETBIT" => {
            let mut value = view.value(key).unwrap_or_default();
            let (at, bit) = (arg(words, 2) as usize, arg(words, 3) as u8);
            let old = bit_of(&value, at);
            set_bit(&mut value, at, bit);
            view.change(key, value);
            int(old)
        }
        "GETBIT" => int(bit_of(
            &view.value(key).unwrap_or_default(),
            arg(words, 2) as usize,
        )),
        "BITCOUNT" => {
            let value = view.value(key).unwrap_or_default();
            int(value.iter().map(|byte| byte.count_ones()).sum::<u32>())
        }
        "BITPOS" => {
            let Some(value) = view.value(key) else {
                return int(if arg(words, 2) == 0 { 0 } else { -1 });
            };
            let wanted = arg(words, 2) as u8;
            let found = (0..value.len() * 8).find(|at| bit_of(&value, *at) == wanted);
            match found {
                Some(at) => int(at),
                // Behind the end there are zeros; but an empty value has none of its own.
                None if wanted == 0 && !value.is_empty() => int(value.len() * 8),
                None => int(-1),
            }
        }
        "BITOP" => {
            let sources: Vec<Vec<u8>> = words[3..]
                .iter()
                .map(|key| view.value(key).unwrap_or_default())
                .collect();
            let len = sources.iter().map(Vec::len).max().unwrap_or(0);
            let byte = |at: usize| {
                let mut bytes = sources.iter().map(|one| one.get(at).copied().unwrap_or(0));
                let first = bytes.next().unwrap_or(0);
                match &words[1][..] {
                    b"AND" => bytes.fold(first, |a, b| a & b),
                    b"OR" => bytes.fold(first, |a, b| a | b),
                    b"XOR" => bytes.fold(first, |a, b| a ^ b),
                    _ => !first,
                }
            };
            match len {
                0 => drop(view.remove(&words[2])),
                _ => view.set(&words[2], (0..len).map(byte).collect()),
            }
            int(len)
        }
        _ => {
            // BITFIELD key INCRBY u8 offset n, with wrap.
            let mut value = view.value(key).unwrap_or_default();
            let (at, by) = (arg(words, 4) as usize, arg(words, 5));
            let bit = |value: &[u8], each: usize| i64::from(bit_of(value, at + each));
            let old = (0..8).fold(0, |sum, each| sum << 1 | bit(&value, each));
            let new = (old + by).rem_euclid(256);
            for each in 0..8 {
                set_bit(&mut value, at + each, (new >> (7 - each) & 1) as u8);
            }
            view.change(key, value);
            Is(Reply::Array(vec![Reply::Int(new)]))
        }
    }
}

fn ranges(view: &mut View<'_>, name: &str, words: &[Key]) -> Expected {
    let (first, second) = (words[1].clone(), words[2].clone());
    let is_prefix = first == b"PREFIX";
    let mut found = view.keys(|key| match is_prefix {
        true => key.starts_with(&second),
        false => *key >= first[..] && (second.is_empty() || *key < second[..]),
    });
    match name {
        "COUNTRANGE" => return int(found.len()),
        "DELRANGE" => {
            for key in &found {
                view.remove(key);
            }
            return int(found.len());
        }
        "REVRANGE" => found.reverse(),
        _ => {}
    }
    let limit = after(words, "LIMIT").map_or(usize::MAX, |limit| limit as usize);
    let mut reply = Vec::new();
    for key in found.into_iter().take(limit) {
        let value = view.value(&key);
        if !has(words, "VALUES") {
            reply.push(Reply::Bulk(key));
        }
        if !has(words, "KEYS") {
            reply.push(bulk(value));
        }
    }
    Is(Reply::Array(reply))
}

fn keys(view: &mut View<'_>, name: &str, words: &[Key]) -> Expected {
    match name {
        "DEL" | "UNLINK" => {
            let keys = words[1..].iter();
            int(keys.filter(|key| view.remove(key)).count())
        }
        "EXISTS" | "TOUCH" => {
            let keys = words[1..].iter();
            int(keys.filter(|key| view.get(key).is_some()).count())
        }
        "TYPE" => {
            let word = view.get(&words[1]).map_or("none", |_| "string");
            Is(Reply::Simple(word.to_owned()))
        }
        "RENAME" | "RENAMENX" => {
            let Some(entry) = view.get(&words[1]) else {
                return error("ERR no such key");
            };
            let is_unconditional = name == "RENAME";
            if !is_unconditional && view.get(&words[2]).is_some() {
                return int(0);
            }
            if words[1] != words[2] {
                view.put_in(view.space, &words[2], Some(entry));
                view.remove(&words[1]);
            } else {
                view.touched.insert((view.space, words[1].clone()));
            }
            if is_unconditional { ok() } else { int(1) }
        }
        "COPY" | "MOVE" => transfer(view, words),
        "KEYS" => {
            let found = view.keys(|_| true);
            Is(Reply::Array(found.into_iter().map(Reply::Bulk).collect()))
        }
        "SCAN" => {
            // All of them in one step.
            let found = view.keys(|_| true);
            let found = Reply::Array(found.into_iter().map(Reply::Bulk).collect());
            Is(Reply::Array(vec![Reply::Bulk(b"0".to_vec()), found]))
        }
        "RANDOMKEY" => {
            let found = view.keys(|_| true);
            Matches(
                "one of the keys",
                Box::new(move |reply| match reply {
                    Reply::Bulk(key) => found.contains(key),
                    other => other.is_null() && found.is_empty(),
                }),
            )
        }
        other => unreachable!("{other} is not generated"),
    }
}

/// COPY source destination [DB n] [REPLACE], MOVE key n.
fn transfer(view: &mut View<'_>, words: &[Key]) -> Expected {
    let (from, is_move) = (view.space, words[0] == b"MOVE");
    let (to, key) = match is_move {
        true => (arg(words, 2) as usize, &words[1]),
        false => (
            after(words, "DB").map_or(from, |number| number as usize),
            &words[2],
        ),
    };
    if (from, &words[1]) == (to, key) {
        return error("ERR source and destination objects are the same");
    }
    let Some(entry) = view.get(&words[1]) else {
        return int(0);
    };
    if !has(words, "REPLACE") && view.get_in(to, key).is_some() {
        return int(0);
    }
    view.put_in(to, key, Some(entry));
    if is_move {
        view.remove(&words[1]);
    }
    int(1)
}
