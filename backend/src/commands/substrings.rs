//! Parts of strings: GETRANGE, SETRANGE; and what two strings have in common: LCS.

use super::Call;
use super::expiry::expiry_of;
use crate::dispatch::{Flow, Outcome};
use rd_base::room::make_room;
use rd_wire::num::{is_word, parse_i64};
use rd_wire::{ReplyWriter, texts};
use std::ops::Range;

/// The bytes from `start` to `end`, both included, of `len`: negative ones count from the end, and
/// what lies outside is cut off.
pub fn clamp(start: i64, end: i64, len: usize) -> Range<usize> {
    let size = i64::try_from(len).unwrap_or(i64::MAX);
    let from_front = |at: i64| if at < 0 { (size + at).max(0) } else { at };
    let (first, last) = (from_front(start), from_front(end).min(size - 1));
    // From behind its own end to the end is nothing, also when both lie before the front.
    let is_empty = start < 0 && end < 0 && start > end;
    if is_empty || first > last {
        return 0..0;
    }
    first as usize..last as usize + 1
}

/// GETRANGE, SUBSTR key start end.
pub fn getrange(call: &mut Call<'_>) -> Outcome {
    let start = parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    let end = parse_i64(call.arg(3)).ok_or(texts::NOT_AN_INTEGER)?;
    let view = call.server.view(call.session);
    let (namespace, key) = (call.namespace(), call.arg(1));
    let mut reply = ReplyWriter::new(call.output.bytes(), call.session.proto);
    let read = call.server.engine.get(namespace, key, view, |value| {
        let bytes = value.map_or(&[][..], |value| value.bytes);
        let part = bytes.get(clamp(start, end, bytes.len()));
        reply.bulk(part.unwrap_or(&[]));
        value.is_some()
    })?;
    call.count_lookup(read.result);
    call.depends_on(read.depends_on);
    Ok(Flow::Done)
}

/// SETRANGE key offset value: what lies between the end and the offset becomes zeros.
pub fn setrange(call: &mut Call<'_>) -> Outcome {
    let (key, value) = (call.arg(1), call.arg(3));
    let offset = parse_i64(call.arg(2)).ok_or(texts::NOT_AN_INTEGER)?;
    let offset = usize::try_from(offset).map_err(|_| texts::OFFSET_OUT_OF_RANGE)?;
    if value.is_empty() {
        return super::strings::strlen(call);
    }
    let end = offset.saturating_add(value.len());
    if end > call.server.config.proto_max_bulk_len_bytes() as usize {
        return Err(texts::STRING_TOO_LONG.into());
    }
    let length = call.write(&[key], &mut |access| {
        let mut bytes = access.lengthened(0, end)?;
        if let Some(part) = bytes.get_mut(offset..end) {
            part.copy_from_slice(value);
        }
        let expiry_ms = expiry_of(access, 0)?;
        access.put(0, &bytes, expiry_ms)?;
        Ok(bytes.len())
    })?;
    call.reply().integer(length as i64);
    Ok(Flow::Done)
}

/// What LCS is to answer.
#[derive(Clone, Copy, Default)]
struct LcsOptions {
    only_length: bool,
    index: bool,
    with_lengths: bool,
    least: u32,
}

fn lcs_options(call: &Call<'_>) -> Result<LcsOptions, &'static str> {
    let mut options = LcsOptions::default();
    let mut at = 3;
    while let Some(word) = call.args.get(at) {
        at += 1;
        if is_word(word, "IDX") {
            options.index = true;
        } else if is_word(word, "LEN") {
            options.only_length = true;
        } else if is_word(word, "WITHMATCHLEN") {
            options.with_lengths = true;
        } else if is_word(word, "MINMATCHLEN")
            && let Some(least) = call.args.get(at)
        {
            let least = parse_i64(least).ok_or(texts::NOT_AN_INTEGER)?;
            options.least = u32::try_from(least.max(0)).unwrap_or(u32::MAX);
            at += 1;
        } else {
            return Err(texts::SYNTAX);
        }
    }
    if options.index && options.only_length {
        return Err(texts::LCS_LEN_AND_IDX);
    }
    Ok(options)
}

/// LCS key1 key2 [LEN] [IDX] [MINMATCHLEN n] [WITHMATCHLEN]: the longest common subsequence.
pub fn lcs(call: &mut Call<'_>) -> Outcome {
    let view = call.server.view(call.session);
    let keys = [call.arg(1), call.arg(2)];
    let mut values = [Vec::new(), Vec::new()];
    let mut has_room = true;
    let namespace = call.namespace();
    let depends_on =
        call.server
            .engine
            .multi_get(namespace, &keys, view, &mut |index, value| {
                if let (Some(place), Some(value)) = (values.get_mut(index), value) {
                    has_room &= make_room(place, value.bytes.len()).is_ok();
                    if has_room {
                        place.extend_from_slice(value.bytes);
                    }
                }
            })?;
    call.depends_on(depends_on);
    let options = lcs_options(call)?;
    let [a, b] = values;
    let cells = (a.len() + 1).saturating_mul(b.len() + 1);
    if cells.saturating_mul(4) > call.server.config.proto_max_bulk_len_bytes() as usize {
        return Err(texts::LCS_TOO_LARGE.into());
    }
    let mut table = Vec::new();
    if !has_room || table.try_reserve_exact(cells).is_err() {
        let what = "could not make room for the values of LCS and the lengths of what they share";
        return Err(call.server.no_memory(what.to_owned()).into());
    }
    let table = Lengths::of(&a, &b, table);
    let mut reply = call.reply();
    if options.only_length {
        reply.integer(i64::from(table.at(a.len(), b.len())));
        return Ok(Flow::Done);
    }
    let (common, matches) = table.trace(&a, &b);
    if options.index {
        write_matches(&mut reply, &matches, options, common.len());
    } else {
        reply.bulk(&common);
    }
    Ok(Flow::Done)
}

/// The lengths of the longest common subsequences of all pairs of beginnings.
struct Lengths {
    width: usize,
    cells: Vec<u32>,
}

/// A run of bytes that both strings have: where it begins in each, and how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    a: usize,
    b: usize,
    bytes: u32,
}

impl Lengths {
    /// `cells` is empty, and may have room.
    fn of(a: &[u8], b: &[u8], mut cells: Vec<u32>) -> Lengths {
        let width = b.len() + 1;
        cells.resize(width * (a.len() + 1), 0);
        for (row, byte) in a.iter().enumerate() {
            let (above, here) = cells.split_at_mut((row + 1) * width);
            let above = above.get(row * width..).unwrap_or(&[]);
            let mut left = 0;
            for (column, other) in b.iter().enumerate() {
                let at = |index: usize| above.get(index).copied().unwrap_or(0);
                left = if byte == other {
                    at(column) + 1
                } else {
                    at(column + 1).max(left)
                };
                if let Some(cell) = here.get_mut(column + 1) {
                    *cell = left;
                }
            }
        }
        Lengths { width, cells }
    }

    /// Of the first `a` bytes of one string and the first `b` of the other.
    fn at(&self, a: usize, b: usize) -> u32 {
        self.cells.get(a * self.width + b).copied().unwrap_or(0)
    }

    /// The subsequence, and the runs that it is made of, the last first. Where several ways are as
    /// long it goes the one that Redis goes.
    fn trace(&self, a: &[u8], b: &[u8]) -> (Vec<u8>, Vec<Match>) {
        let (mut row, mut column) = (a.len(), b.len());
        let mut common = Vec::new();
        let mut matches: Vec<Match> = Vec::new();
        while let (Some(byte), Some(other)) = (
            row.checked_sub(1).and_then(|at| a.get(at)),
            column.checked_sub(1).and_then(|at| b.get(at)),
        ) {
            if byte == other {
                (row, column) = (row - 1, column - 1);
                common.push(*byte);
                match matches.last_mut() {
                    Some(run) if run.a == row + 1 && run.b == column + 1 => {
                        *run = Match {
                            a: row,
                            b: column,
                            bytes: run.bytes + 1,
                        };
                    }
                    _ => matches.push(Match {
                        a: row,
                        b: column,
                        bytes: 1,
                    }),
                }
            } else if self.at(row - 1, column) > self.at(row, column - 1) {
                row -= 1;
            } else {
                column -= 1;
            }
        }
        common.reverse();
        (common, matches)
    }
}

fn write_matches(
    reply: &mut ReplyWriter<'_>,
    matches: &[Match],
    options: LcsOptions,
    length: usize,
) {
    let shown: Vec<&Match> = matches
        .iter()
        .filter(|run| run.bytes >= options.least)
        .collect();
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(shown.len());
    for run in shown {
        reply.array(if options.with_lengths { 3 } else { 2 });
        for first in [run.a, run.b] {
            reply.array(2);
            reply.integer(first as i64);
            reply.integer(first as i64 + i64::from(run.bytes) - 1);
        }
        if options.with_lengths {
            reply.integer(i64::from(run.bytes));
        }
    }
    reply.bulk(b"len");
    reply.integer(length as i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_is_found_whatever_the_way() {
        let longest = |a: &[u8], b: &[u8]| {
            // Tries every subsequence of the shorter one.
            let is_in = |part: &[u8], whole: &[u8]| {
                let mut rest = whole.iter();
                part.iter().all(|byte| rest.any(|other| other == byte))
            };
            (0u32..1 << a.len())
                .map(|mask| {
                    let kept = a.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
                    kept.map(|(_, byte)| *byte).collect::<Vec<u8>>()
                })
                .filter(|part| is_in(part, b))
                .map(|part| part.len())
                .max()
                .expect("the empty one is in every other")
        };
        for seed in 0..300u32 {
            let bytes = |salt: u32| -> Vec<u8> {
                let word = seed.wrapping_mul(2_654_435_761).wrapping_add(salt * 77_777);
                let len = (word >> 28) % 9;
                (0..len)
                    .map(|at| b'a' + (word >> (2 * at)) as u8 % 3)
                    .collect()
            };
            let (a, b) = (bytes(1), bytes(2));
            let table = Lengths::of(&a, &b, Vec::new());
            let (common, matches) = table.trace(&a, &b);
            assert_eq!(common.len(), longest(&a, &b), "{a:?} {b:?}");
            assert_eq!(table.at(a.len(), b.len()) as usize, common.len());
            let sum: u32 = matches.iter().map(|run| run.bytes).sum();
            assert_eq!(sum as usize, common.len());
        }
    }

    #[test]
    fn ends_are_cut_as_in_redis() {
        for (start, end, part) in [
            (0, -1, 0..5),
            (-3, -2, 2..4),
            (-2, -3, 0..0),
            (-100, 1, 0..2),
            (3, 100, 3..5),
            (5, 5, 0..0),
            (-100, -200, 0..0),
            (-200, -100, 0..1),
            (i64::MIN, i64::MAX, 0..5),
        ] {
            assert_eq!(clamp(start, end, 5), part, "{start} {end}");
        }
        assert_eq!(clamp(0, -1, 0), 0..0);
    }
}
