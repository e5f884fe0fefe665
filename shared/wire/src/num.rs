//! Numbers as text, both ways, and comparison without case.

/// Most bytes that the text of an `i64` or `u64` takes: `-9223372036854775808`.
pub const DECIMAL_BYTES_MAX: usize = 20;

/// Reads an integer exactly as Redis does: an optional minus, then digits, nothing else; no
/// leading zero, no plus, no space, no `-0`. So every number has one text.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    if let [b'-', digits @ ..] = text {
        let magnitude = parse_u64(digits)?;
        if magnitude == 0 {
            return None;
        }
        return 0i64.checked_sub_unsigned(magnitude);
    }
    i64::try_from(parse_u64(text)?).ok()
}

/// Reads an unsigned integer under the rules of [`parse_i64`], without a sign.
pub fn parse_u64(digits: &[u8]) -> Option<u64> {
    match digits {
        [] => return None,
        [b'0'] => return Some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    if digits.len() > DECIMAL_BYTES_MAX {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The two digits of each number below 100, in order.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut i = 0u8;
    #[allow(clippy::indexing_slicing, reason = "evaluated when compiled")]
    while i < 100 {
        pairs[i as usize] = [b'0' + i / 10, b'0' + i % 10];
        i += 1;
    }
    pairs
};

/// The decimal text of a number, held in place.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    bytes: [u8; DECIMAL_BYTES_MAX],
    start: u8,
}

impl Decimal {
    /// The text of `value`.
    pub fn of(value: i64) -> Self {
        let mut decimal = Self::of_u64(value.unsigned_abs());
        if value < 0 {
            decimal.prepend(b'-');
        }
        decimal
    }

    /// The text of `value`.
    pub fn of_u64(mut value: u64) -> Self {
        let mut decimal = Self {
            bytes: [0; DECIMAL_BYTES_MAX],
            start: DECIMAL_BYTES_MAX as u8,
        };
        while value >= 100 {
            let [tens, ones] = pair(value % 100);
            decimal.prepend(ones);
            decimal.prepend(tens);
            value /= 100;
        }
        let [tens, ones] = pair(value);
        decimal.prepend(ones);
        if value >= 10 {
            decimal.prepend(tens);
        }
        decimal
    }

    fn prepend(&mut self, byte: u8) {
        self.start = self.start.saturating_sub(1);
        if let Some(place) = self.bytes.get_mut(usize::from(self.start)) {
            *place = byte;
        }
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(usize::from(self.start)..).unwrap_or(&[])
    }
}

fn pair(below_100: u64) -> [u8; 2] {
    PAIRS.get(below_100 as usize).copied().unwrap_or([b'0'; 2])
}

/// Whether `text` is `word`, letter case aside: how options are told.
pub fn is_word(text: &[u8], word: &str) -> bool {
    text.eq_ignore_ascii_case(word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_number_has_one_text() {
        for (text, value) in [
            ("0", Some(0)),
            ("1", Some(1)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("18446744073709551616", None),
            ("99999999999999999999", None),
            ("000000000000000000001", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("+1", None),
            ("01", None),
            ("-01", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
            ("1e3", None),
            ("--1", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), value, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(value: i64, unsigned: u64) {
            let printed = Decimal::of(value);
            prop_assert_eq!(printed.as_bytes(), value.to_string().into_bytes());
            prop_assert_eq!(parse_i64(printed.as_bytes()), Some(value));
            let printed = Decimal::of_u64(unsigned);
            prop_assert_eq!(printed.as_bytes(), unsigned.to_string().into_bytes());
        }

        #[test]
        fn small_numbers_too(value in -2000i64..2000) {
            let printed = Decimal::of(value);
            prop_assert_eq!(printed.as_bytes(), value.to_string().into_bytes());
        }

        #[test]
        fn what_is_read_prints_the_same(text in "[-+ 0-9]{0,22}") {
            if let Some(value) = parse_i64(text.as_bytes()) {
                prop_assert_eq!(value.to_string(), text);
            }
        }
    }
}
