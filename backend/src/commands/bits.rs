//! The bits of strings: SETBIT, GETBIT, BITCOUNT, BITPOS, BITOP. Bit 0 is the highest of the first
//! byte.

use super::Call;
use super::expiry::expiry_of;
use super::substrings::clamp;
use crate::dispatch::{Failure, Flow, Outcome};
use rd_base::room::make_room;
use rd_engine::{Access, EngineError, ProgramError, View};
use rd_wire::num::{is_word, parse_i64};
use rd_wire::texts;
use std::collections::BTreeMap;
use std::ops::Range;

/// A bit's place as a client gives it; `#n` counts in fields of `field_bits`, where there are any.
///
/// # Errors
/// When it is none, or beyond the longest string.
pub fn bit_offset(
    call: &Call<'_>,
    text: &[u8],
    field_bits: Option<usize>,
) -> Result<usize, &'static str> {
    let (digits, factor) = match (text, field_bits) {
        ([b'#', digits @ ..], Some(bits)) => (digits, bits),
        _ => (text, 1),
    };
    let number = parse_i64(digits).and_then(|number| usize::try_from(number).ok());
    let offset = number.and_then(|number| number.checked_mul(factor));
    let bytes_max = call.server.config.proto_max_bulk_len_bytes() as usize;
    offset
        .filter(|offset| offset / 8 < bytes_max)
        .ok_or(texts::BIT_OFFSET)
}

/// The bit at `offset`; what lies behind the end is zero.
fn bit_at(bytes: &[u8], offset: usize) -> bool {
    let byte = bytes.get(offset / 8).copied().unwrap_or(0);
    byte >> (7 - offset % 8) & 1 == 1
}

/// SETBIT key offset value.
pub fn setbit(call: &mut Call<'_>) -> Outcome {
    let offset = bit_offset(call, call.arg(2), None)?;
    let bit = match parse_i64(call.arg(3)) {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(texts::NOT_A_BIT.into()),
    };
    let key = call.arg(1);
    let old = call.write(&[key], &mut |access| {
        let mut bytes = access.lengthened(0, offset / 8 + 1)?;
        let old = bit_at(&bytes, offset);
        if let Some(byte) = bytes.get_mut(offset / 8) {
            let mask = 0x80 >> (offset % 8);
            *byte = if bit { *byte | mask } else { *byte & !mask };
        }
        let expiry_ms = expiry_of(access, 0)?;
        access.put(0, &bytes, expiry_ms)?;
        Ok(old)
    })?;
    call.reply().integer(i64::from(old));
    Ok(Flow::Done)
}

/// GETBIT key offset.
pub fn getbit(call: &mut Call<'_>) -> Outcome {
    let offset = bit_offset(call, call.arg(2), None)?;
    let bit = call.read(call.arg(1), |value| {
        value.is_some_and(|value| bit_at(value.bytes, offset))
    })?;
    call.reply().integer(i64::from(bit));
    Ok(Flow::Done)
}

/// In what BITCOUNT and BITPOS count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Byte,
    Bit,
}

impl Unit {
    fn parse(word: Option<&[u8]>) -> Result<Unit, &'static str> {
        match word {
            None => Ok(Unit::Byte),
            Some(word) if is_word(word, "BYTE") => Ok(Unit::Byte),
            Some(word) if is_word(word, "BIT") => Ok(Unit::Bit),
            Some(_) => Err(texts::SYNTAX),
        }
    }

    /// How many there are in so many bytes.
    fn count(self, bytes: usize) -> usize {
        match self {
            Unit::Byte => bytes,
            Unit::Bit => bytes * 8,
        }
    }

    /// A range of them, in bits.
    fn bits(self, range: Range<usize>) -> Range<usize> {
        match self {
            Unit::Byte => range.start * 8..range.end * 8,
            Unit::Bit => range,
        }
    }
}

fn integer(text: &[u8]) -> Result<i64, Failure> {
    parse_i64(text).ok_or_else(|| texts::NOT_AN_INTEGER.into())
}

/// The byte at `index`, with the bits outside of `range` set to zero.
fn masked(bytes: &[u8], index: usize, range: &Range<usize>) -> u8 {
    let byte = bytes.get(index).copied().unwrap_or(0);
    let first = index * 8;
    let before = range.start.saturating_sub(first).min(8);
    let behind = (first + 8).saturating_sub(range.end).min(8);
    let kept = (0xFFu32 >> before) & (0xFFu32 << behind);
    byte & kept as u8
}

/// How many of the bits in `range` are set.
fn count_ones(bytes: &[u8], range: &Range<usize>) -> u64 {
    let (first, end) = (range.start / 8, range.end.div_ceil(8));
    let ends = [first, end.saturating_sub(1).max(first + 1)];
    let at_ends = |index: &usize| u64::from(masked(bytes, *index, range).count_ones());
    let within = bytes.get(first + 1..end.saturating_sub(1)).unwrap_or(&[]);
    // Eight bytes at once take as long as one.
    let words = within.chunks_exact(8);
    let behind = words.remainder().iter().map(|byte| byte.count_ones());
    let of_words = words
        .filter_map(|word| Some(u64::from_ne_bytes(word.try_into().ok()?)))
        .map(u64::count_ones);
    let within: u64 = of_words.chain(behind).map(u64::from).sum();
    within + ends.iter().map(at_ends).sum::<u64>()
}

/// What is replied to wrong arguments: as in Redis up to 7.2 they matter only if the key is there.
fn wrong(call: &mut Call<'_>, if_absent: i64, error: Failure) -> Outcome {
    if call.meta(call.arg(1))?.is_some() {
        return Err(error);
    }
    call.reply().integer(if_absent);
    Ok(Flow::Done)
}

/// BITCOUNT's range.
fn count_range(call: &Call<'_>) -> Result<(i64, i64, Unit), Failure> {
    match call.args.len() {
        2 => Ok((0, -1, Unit::Byte)),
        4 | 5 => {
            let (start, end) = (integer(call.arg(2))?, integer(call.arg(3))?);
            Ok((start, end, Unit::parse(call.args.get(4))?))
        }
        _ => Err(texts::SYNTAX.into()),
    }
}

/// BITCOUNT key [start end [BYTE|BIT]].
pub fn bitcount(call: &mut Call<'_>) -> Outcome {
    let (start, end, unit) = match count_range(call) {
        Ok(range) => range,
        Err(error) => return wrong(call, 0, error),
    };
    let count = call.read(call.arg(1), |value| {
        let bytes = value.map_or(&[][..], |value| value.bytes);
        let range = unit.bits(clamp(start, end, unit.count(bytes.len())));
        count_ones(bytes, &range) as i64
    })?;
    call.reply().integer(count);
    Ok(Flow::Done)
}

/// The first bit in `range` that is `wanted`.
fn find_bit(bytes: &[u8], range: Range<usize>, wanted: bool) -> Option<usize> {
    let skipped = if wanted { 0x00 } else { 0xFF };
    let mut at = range.start;
    while at < range.end {
        let is_at_byte = at.is_multiple_of(8);
        if is_at_byte && bytes.get(at / 8..at / 8 + 8) == Some(&[skipped; 8][..]) {
            at += 64;
        } else if is_at_byte && bytes.get(at / 8) == Some(&skipped) {
            at += 8;
        } else if bit_at(bytes, at) == wanted {
            return Some(at);
        } else {
            at += 1;
        }
    }
    None
}

/// BITPOS's range; without an end it goes on behind the string.
fn search_range(call: &Call<'_>) -> Result<(i64, Option<i64>, Unit), Failure> {
    if call.args.len() > 6 {
        return Err(texts::SYNTAX.into());
    }
    let start = call.args.get(3).map_or(Ok(0), integer)?;
    let unit = Unit::parse(call.args.get(5))?;
    let end = call.args.get(4).map(integer).transpose()?;
    Ok((start, end, unit))
}

/// BITPOS key bit [start [end [BYTE|BIT]]].
pub fn bitpos(call: &mut Call<'_>) -> Outcome {
    let wanted = match integer(call.arg(2))? {
        0 => false,
        1 => true,
        _ => return Err(texts::BIT_ARGUMENT.into()),
    };
    let (start, end, unit) = match search_range(call) {
        Ok(range) => range,
        Err(error) => return wrong(call, if wanted { -1 } else { 0 }, error),
    };
    let place = call.read(call.arg(1), |value| {
        let Some(value) = value else {
            return if wanted { -1 } else { 0 };
        };
        let bytes = value.bytes;
        let size = unit.count(bytes.len()) as i64;
        let from_front = |at: i64| if at < 0 { (size + at).max(0) } else { at };
        let first = from_front(start);
        let last = from_front(end.unwrap_or(-1)).min(size - 1);
        if first > last {
            return -1;
        }
        let range = unit.bits(first as usize..last as usize + 1);
        match find_bit(bytes, range, wanted) {
            Some(place) => place as i64,
            // Without an end the string goes on with zeros.
            None if !wanted && end.is_none() => bytes.len() as i64 * 8,
            None => -1,
        }
    })?;
    call.reply().integer(place);
    Ok(Flow::Done)
}

/// What BITOP does to two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
}

impl Operation {
    fn parse(word: &[u8]) -> Option<Operation> {
        [
            ("AND", Operation::And),
            ("OR", Operation::Or),
            ("XOR", Operation::Xor),
            ("NOT", Operation::Not),
        ]
        .into_iter()
        .find(|(name, _)| is_word(word, name))
        .map(|(_, operation)| operation)
    }

    /// Puts `source`, which is named so many `times`, to what came of those before it; nothing, if it
    /// `is_first`.
    ///
    /// # Errors
    /// When there is no memory for it.
    fn apply(
        self,
        result: &mut Vec<u8>,
        source: &[u8],
        times: usize,
        is_first: bool,
    ) -> Result<(), EngineError> {
        let length = result.len().max(source.len());
        make_room(result, length - result.len())
            .map_err(|_| EngineError::no_memory(length, "the result of BITOP"))?;
        let is_all = self == Operation::And && is_first;
        result.resize(length, if is_all { 0xFF } else { 0 });
        match self {
            Operation::And => {
                combine(result, source, |byte, other| byte & other);
                result
                    .iter_mut()
                    .skip(source.len())
                    .for_each(|byte| *byte = 0);
            }
            Operation::Or => combine(result, source, |byte, other| byte | other),
            Operation::Xor if times.is_multiple_of(2) => {}
            Operation::Xor => combine(result, source, |byte, other| byte ^ other),
            Operation::Not => combine(result, source, |_, other| !other),
        }
        Ok(())
    }
}

fn combine(result: &mut [u8], source: &[u8], operation: impl Fn(u8, u8) -> u8) {
    for (byte, other) in result.iter_mut().zip(source) {
        *byte = operation(*byte, *other);
    }
}

/// So many large values the engine reads before it latches the leaves of their keys.
const READ_BY_ENGINE_MAX: usize = 3;
/// So often the sources are read beforehand. If others keep changing them, they are read under the
/// latches of their leaves, where nobody can.
const READS_BEFOREHAND: usize = 3;

/// The sources of a BITOP, by their keys: where they are named first, and how often.
type Sources<'k> = BTreeMap<&'k [u8], (usize, usize)>;

/// BITOP AND|OR|XOR|NOT destkey key [key …]: shorter strings go on with zeros. One source is looked
/// at at a time, and one that is named again is not looked at again: however many there are, it takes
/// memory for the result and a few of them at most.
pub fn bitop(call: &mut Call<'_>) -> Outcome {
    let operation = Operation::parse(call.arg(1)).ok_or(texts::SYNTAX)?;
    if operation == Operation::Not && call.args.len() != 4 {
        return Err(texts::BITOP_NOT.into());
    }
    let keys: Vec<&[u8]> = call.args.skip(2).iter().collect();
    let mut sources = Sources::new();
    for (index, key) in keys.iter().enumerate().skip(1) {
        sources.entry(*key).or_insert((index, 0)).1 += 1;
    }
    let mut length = None;
    // In a transaction nothing is latched before its commit.
    if sources.len() > READ_BY_ENGINE_MAX && !call.server.engine.is_in_transaction() {
        for _ in 0..READS_BEFOREHAND {
            length = combine_beforehand(call, operation, &keys, &sources)?;
            if length.is_some() {
                break;
            }
        }
    }
    let length = match length {
        Some(length) => length,
        None => call.write(&keys, &mut |access| {
            let mut result = Vec::new();
            for (seen, &(index, times)) in sources.values().enumerate() {
                let source = access.newest(index)?.unwrap_or(&[]);
                operation.apply(&mut result, source, times, seen == 0)?;
            }
            put_or_delete(access, &result)
        })?,
    };
    call.reply().integer(length as i64);
    Ok(Flow::Done)
}

/// Carries out BITOP with sources that are read before anything is latched: large ones may have to come
/// from disk. `None` if one of them was changed before the result could be written.
fn combine_beforehand(
    call: &mut Call<'_>,
    operation: Operation,
    keys: &[&[u8]],
    sources: &Sources<'_>,
) -> Result<Option<usize>, EngineError> {
    let namespace = call.namespace();
    let mut result = Vec::new();
    let mut stamps = Vec::with_capacity(sources.len());
    for (key, (_, times)) in sources {
        let is_first = stamps.is_empty();
        let engine = &call.server.engine;
        let mut applied = Ok(());
        let read = engine.get(namespace, key, View::Newest, |value| {
            let source = value.map_or(&[][..], |value| value.bytes);
            applied = operation.apply(&mut result, source, *times, is_first);
            value.map(|value| value.stamp)
        })?;
        applied?;
        stamps.push(read.result);
    }
    call.write(keys, &mut |access| {
        for ((index, _), stamp) in sources.values().zip(&stamps) {
            if access.meta(*index)?.map(|meta| meta.stamp) != *stamp {
                return Ok(None);
            }
        }
        put_or_delete(access, &result).map(Some)
    })
}

/// Makes `result` the value of key 0: one without bytes is none. Says how many it has.
fn put_or_delete(access: &mut Access<'_>, result: &[u8]) -> Result<usize, ProgramError> {
    if result.is_empty() {
        access.delete(0)?;
    } else {
        access.put(0, result, None)?;
    }
    Ok(result.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_found_and_counted_as_one_by_one() {
        let few = [0x00, 0xFF, 0x5A, 0xFF, 0xFF, 0x00, 0x81];
        let bytes = [&few[..], &[0x00; 10], &few, &[0xFF; 9]].concat();
        let all = bytes.len() * 8;
        for start in 0..all {
            for end in start..=all {
                let range = start..end;
                for wanted in [false, true] {
                    let slowly = range.clone().find(|at| bit_at(&bytes, *at) == wanted);
                    assert_eq!(find_bit(&bytes, range.clone(), wanted), slowly);
                }
                let quickly = count_ones(&bytes, &range);
                let slowly = range.filter(|at| bit_at(&bytes, *at)).count();
                assert_eq!(quickly as usize, slowly, "{start} {end}");
            }
        }
    }
}
