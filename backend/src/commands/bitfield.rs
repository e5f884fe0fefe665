//! BITFIELD: strings as arrays of numbers of any width.

use super::Call;
use super::bits::bit_offset;
use super::expiry::expiry_of;
use crate::dispatch::{Failure, Flow, Outcome};
use rd_wire::num::{is_word, parse_i64, parse_u64};
use rd_wire::texts;

/// The type of a field: `i5`, `u63`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    signed: bool,
    bits: usize,
}

impl Field {
    fn parse(text: &[u8]) -> Option<Field> {
        let (signed, digits) = match text {
            [b'i', digits @ ..] => (true, digits),
            [b'u', digits @ ..] => (false, digits),
            _ => return None,
        };
        let bits = parse_u64(digits)? as usize;
        let most = if signed { 64 } else { 63 };
        (1..=most).contains(&bits).then_some(Field { signed, bits })
    }

    fn least(&self) -> i128 {
        if self.signed {
            -(1 << (self.bits - 1))
        } else {
            0
        }
    }

    fn greatest(&self) -> i128 {
        (1 << (self.bits - usize::from(self.signed))) - 1
    }

    /// The number made of the lowest bits of `value`.
    fn wrap(&self, value: i128) -> i128 {
        let kept = value & ((1 << self.bits) - 1);
        if kept > self.greatest() {
            kept - (1 << self.bits)
        } else {
            kept
        }
    }

    /// The number at `offset`; what lies behind the end is zero.
    fn get(&self, bytes: &[u8], offset: usize) -> i128 {
        let bits = (offset..offset + self.bits).map(|at| {
            let byte = bytes.get(at / 8).copied().unwrap_or(0);
            i128::from(byte >> (7 - at % 8) & 1)
        });
        self.wrap(bits.fold(0, |value, bit| value << 1 | bit))
    }

    fn set(&self, bytes: &mut [u8], offset: usize, value: i128) {
        for step in 0..self.bits {
            let at = offset + step;
            let bit = value >> (self.bits - 1 - step) & 1 == 1;
            if let Some(byte) = bytes.get_mut(at / 8) {
                let mask = 0x80 >> (at % 8);
                *byte = if bit { *byte | mask } else { *byte & !mask };
            }
        }
    }
}

/// What is done about a number that does not fit its field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

impl Overflow {
    fn parse(word: &[u8]) -> Option<Overflow> {
        [
            ("WRAP", Overflow::Wrap),
            ("SAT", Overflow::Saturate),
            ("FAIL", Overflow::Fail),
        ]
        .into_iter()
        .find(|(name, _)| is_word(word, name))
        .map(|(_, overflow)| overflow)
    }

    /// What becomes of `value`; none if nothing.
    fn fit(self, value: i128, field: Field) -> Option<i128> {
        if (field.least()..=field.greatest()).contains(&value) {
            return Some(value);
        }
        match self {
            Overflow::Wrap => Some(field.wrap(value)),
            Overflow::Saturate => Some(value.clamp(field.least(), field.greatest())),
            Overflow::Fail => None,
        }
    }
}

/// What is to be done to a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Get,
    Set(i64),
    Add(i64),
}

#[derive(Clone, Copy, Debug)]
struct Operation {
    field: Field,
    offset: usize,
    action: Action,
    overflow: Overflow,
}

impl Operation {
    /// Carries it out, and returns what is replied.
    fn run(&self, bytes: &mut [u8]) -> Option<i128> {
        let field = self.field;
        let old = field.get(bytes, self.offset);
        match self.action {
            Action::Get => Some(old),
            Action::Set(value) => {
                // As Redis does: for an unsigned field a negative number is a great one.
                let value = if field.signed {
                    i128::from(value)
                } else {
                    i128::from(value as u64)
                };
                field.set(bytes, self.offset, self.overflow.fit(value, field)?);
                Some(old)
            }
            Action::Add(increment) => {
                let sum = self.overflow.fit(old + i128::from(increment), field)?;
                field.set(bytes, self.offset, sum);
                Some(sum)
            }
        }
    }
}

fn parse(call: &Call<'_>) -> Result<Vec<Operation>, Failure> {
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut at = 2;
    while let Some(word) = call.args.get(at) {
        let left = call.args.len() - at - 1;
        if is_word(word, "OVERFLOW") && left >= 1 {
            overflow = Overflow::parse(call.arg(at + 1)).ok_or(texts::BITFIELD_OVERFLOW)?;
            at += 2;
            continue;
        }
        let is_get = is_word(word, "GET") && left >= 2;
        let is_set = is_word(word, "SET") && left >= 3;
        let is_add = is_word(word, "INCRBY") && left >= 3;
        if !is_get && !is_set && !is_add {
            return Err(texts::SYNTAX.into());
        }
        let field = Field::parse(call.arg(at + 1)).ok_or(texts::BITFIELD_TYPE)?;
        let offset = bit_offset(call, call.arg(at + 2), Some(field.bits))?;
        let action = if is_get {
            Action::Get
        } else {
            let value = parse_i64(call.arg(at + 3)).ok_or(texts::NOT_AN_INTEGER)?;
            if is_set {
                Action::Set(value)
            } else {
                Action::Add(value)
            }
        };
        operations.push(Operation {
            field,
            offset,
            action,
            overflow,
        });
        at += if is_get { 3 } else { 4 };
    }
    Ok(operations)
}

/// BITFIELD key [GET type offset] [[OVERFLOW WRAP|SAT|FAIL] SET|INCRBY type offset value] …:
/// `read_only` takes GET alone.
pub fn bitfield(call: &mut Call<'_>, read_only: bool) -> Outcome {
    let operations = parse(call)?;
    let writes = operations
        .iter()
        .filter(|operation| operation.action != Action::Get);
    // Bytes up to the last bit that is written.
    let reach = writes
        .map(|write| (write.offset + write.field.bits).div_ceil(8))
        .max();
    if read_only && reach.is_some() {
        return Err(texts::BITFIELD_RO.into());
    }
    let key = call.arg(1);
    let replies: Vec<Option<i128>> = match reach {
        None => call.read(key, |value| {
            let bytes = value.map_or(&[][..], |value| value.bytes);
            let run = |operation: &Operation| Some(operation.field.get(bytes, operation.offset));
            operations.iter().map(run).collect()
        })?,
        Some(reach) => {
            if reach > call.server.config.proto_max_bulk_len_bytes() as usize {
                return Err(texts::STRING_TOO_LONG.into());
            }
            call.write(&[key], &mut |access| {
                let mut bytes = access.lengthened(0, reach)?;
                let run = |operation: &Operation| operation.run(&mut bytes);
                let replies = operations.iter().map(run).collect();
                let expiry_ms = expiry_of(access, 0)?;
                access.put(0, &bytes, expiry_ms)?;
                Ok(replies)
            })?
        }
    };
    let mut reply = call.reply();
    reply.array(replies.len());
    for value in replies {
        match value.and_then(|value| i64::try_from(value).ok()) {
            Some(value) => reply.integer(value),
            None => reply.null(),
        }
    }
    Ok(Flow::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_every_width_hold_what_fits() {
        for bits in 1..=64 {
            for signed in [false, true] {
                let field = Field { signed, bits };
                if !signed && bits == 64 {
                    continue;
                }
                for offset in 0..17 {
                    for value in [field.least(), field.greatest(), 0, field.greatest() / 3] {
                        let mut bytes = [0xA5; 12];
                        field.set(&mut bytes, offset, value);
                        assert_eq!(field.get(&bytes, offset), value, "{field:?} {offset}");
                        // Nothing beside it has changed.
                        field.set(&mut bytes, offset, field.get(&[0xA5; 12], offset));
                        assert_eq!(bytes, [0xA5; 12]);
                    }
                }
                let greatest = field.greatest();
                let fit = |overflow: Overflow| overflow.fit(greatest + 1, field);
                assert_eq!(fit(Overflow::Wrap), Some(field.least()));
                assert_eq!(fit(Overflow::Saturate), Some(greatest));
                assert_eq!(fit(Overflow::Fail), None);
            }
        }
    }

    #[test]
    fn types_are_read_as_in_redis() {
        for text in ["i1", "i64", "u1", "u63"] {
            assert!(Field::parse(text.as_bytes()).is_some(), "{text}");
        }
        for text in ["i0", "i65", "u64", "u0", "x8", "i", "", "u-1", "I8", "i08"] {
            assert!(Field::parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
