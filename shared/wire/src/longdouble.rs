//! Numbers as INCRBYFLOAT counts with them: Redis uses C's `long double`, on x86-64 a binary number
//! with 64 digits and a large exponent. A double would show another text for most sums (10.5 plus
//! 0.1 is 10.6 to 17 decimals with 64 digits, and not with 53), so such a number is kept here as
//! what it is: a whole number times a power of two, computed exactly and then rounded.
//!
//! Invariant: a number is zero, or its fraction has its top bit set and its exponent is one of the
//! format's; so each number has one form. Denormal numbers keep all their digits, of which no text
//! with 17 decimals shows any.

use std::cmp::Ordering;

/// Longest text that Redis reads as such a number.
const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;
/// Exponent of the greatest number's last digit: 2^16383 is the greatest power.
const EXPONENT_MAX: i64 = 16_383 - 63;
/// Exponent of the last digit of the least number, which is denormal: 2^-16445, with 64 digits.
const EXPONENT_MIN: i64 = -16_445 - 63;
/// Decimals that are printed.
const DECIMALS: u32 = 17;
/// A decimal exponent beyond this is beyond the format whatever the digits, which are no more than
/// the text has bytes.
const DECIMAL_EXPONENT_MAX: u64 = 4_960 + TEXT_BYTES_MAX as u64;

/// A number with 64 binary digits: `fraction` times two to the `exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongDouble {
    negative: bool,
    fraction: u64,
    exponent: i64,
}

/// What the text of a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A number.
    Number(LongDouble),
    /// Infinity, of either sign: a float, but no sum comes of it.
    Infinite,
}

impl LongDouble {
    /// Zero.
    pub const ZERO: LongDouble = LongDouble {
        negative: false,
        fraction: 0,
        exponent: 0,
    };

    /// Reads a number as C's `strtold` does, with nothing before or behind it; none if it is none,
    /// or too large or too small for the format.
    pub fn parse(text: &[u8]) -> Option<Parsed> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        if rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"infinity") {
            return Some(Parsed::Infinite);
        }
        let magnitude = match rest {
            [b'0', b'x' | b'X', digits @ ..] => parse_digits(digits, 16)?,
            _ => parse_digits(rest, 10)?,
        };
        let number = LongDouble {
            negative,
            ..magnitude
        };
        Some(Parsed::Number(number))
    }

    /// The sum; none if it is too large for the format.
    pub fn plus(self, other: LongDouble) -> Option<LongDouble> {
        if self.fraction == 0 {
            return Some(other);
        }
        if other.fraction == 0 {
            return Some(self);
        }
        let (high, low) = if self.exponent >= other.exponent {
            (self, other)
        } else {
            (other, self)
        };
        let distance = high.exponent.checked_sub(low.exponent)?;
        // What lies more than two words below the last digit only says which way to round.
        let distance = u32::try_from(distance.min(192)).ok()?;
        let exponent = high.exponent.checked_sub(i64::from(distance))?;
        let mut high_digits = Natural::of(high.fraction);
        high_digits.shift_up(distance);
        let low_digits = Natural::of(low.fraction);
        let (digits, negative) = if high.negative == low.negative {
            (high_digits.plus(&low_digits), high.negative)
        } else {
            match high_digits.compare(&low_digits) {
                Ordering::Equal => return Some(LongDouble::ZERO),
                Ordering::Greater => (high_digits.minus(&low_digits), high.negative),
                Ordering::Less => (low_digits.minus(&high_digits), low.negative),
            }
        };
        let sum = round(&digits, exponent, false)?;
        Some(LongDouble { negative, ..sum })
    }

    /// The text with at most 17 decimals, without an exponent and without zeros at the end.
    pub fn text(&self) -> String {
        // Times 10^17, rounded half to even, as a whole number.
        let mut digits = Natural::of(self.fraction);
        digits.multiply_by_power_of_ten(u64::from(DECIMALS));
        match u32::try_from(self.exponent) {
            Ok(up) => digits.shift_up(up),
            Err(_) => digits.shift_down_rounded(self.exponent.unsigned_abs()),
        }
        let text = digits.decimal();
        let point = DECIMALS as usize;
        let padded = format!("{text:0>width$}", width = point.saturating_add(1));
        let (whole, decimals) = padded.split_at(padded.len().saturating_sub(point));
        let decimals = decimals.trim_end_matches('0');
        let sign = if self.negative && !digits.is_zero() {
            "-"
        } else {
            ""
        };
        if decimals.is_empty() {
            format!("{sign}{whole}")
        } else {
            format!("{sign}{whole}.{decimals}")
        }
    }
}

/// Reads digits with a point and an exponent, of base 10 or 16.
fn parse_digits(text: &[u8], base: u32) -> Option<LongDouble> {
    let (mut digits, mut scale, mut seen, mut point) = (Natural::default(), 0i64, false, false);
    let mut rest = text;
    while let [byte, behind @ ..] = rest {
        if *byte == b'.' && !point {
            point = true;
        } else if let Some(digit) = char::from(*byte).to_digit(base) {
            digits.multiply(base, digit);
            scale = scale.saturating_sub(i64::from(point));
            seen = true;
        } else {
            break;
        }
        rest = behind;
    }
    let letter = if base == 10 { b'e' } else { b'p' };
    let exponent = match rest {
        [] => 0,
        [first, behind @ ..] if first.eq_ignore_ascii_case(&letter) => parse_exponent(behind)?,
        _ => return None,
    };
    if !seen {
        return None;
    }
    if digits.is_zero() {
        return Some(LongDouble::ZERO);
    }
    if base == 16 {
        let exponent = scale.saturating_mul(4).saturating_add(exponent);
        return round(&digits, exponent, false);
    }
    let exponent = scale.saturating_add(exponent);
    // The least number of all has no positive one: a text can come to it.
    if exponent.unsigned_abs() > DECIMAL_EXPONENT_MAX {
        return None;
    }
    if exponent >= 0 {
        digits.multiply_by_power_of_ten(exponent.unsigned_abs());
        return round(&digits, 0, false);
    }
    // So many digits more that the quotient has at least 66.
    let mut divisor = Natural::of(1);
    divisor.multiply_by_power_of_ten(exponent.unsigned_abs());
    let wanted = divisor.bits().saturating_add(66);
    let up = u32::try_from(wanted.saturating_sub(digits.bits())).ok()?;
    digits.shift_up(up);
    let (quotient, is_inexact) = digits.divide(&divisor);
    round(&quotient, i64::from(up).checked_neg()?, is_inexact)
}

fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let fold = |value: i64, byte: &u8| {
        let digit = i64::from(byte.wrapping_sub(b'0'));
        value.saturating_mul(10).saturating_add(digit)
    };
    let value = digits.iter().fold(0i64, fold);
    Some(if negative {
        value.saturating_neg()
    } else {
        value
    })
}

/// Rounds `digits` times two to the `exponent`, half to even; `is_inexact`: there is a little more.
fn round(digits: &Natural, exponent: i64, is_inexact: bool) -> Option<LongDouble> {
    let bits = digits.bits();
    let cut = bits.saturating_sub(64);
    let mut fraction = digits.window(cut);
    let mut exponent = exponent.checked_add(i64::try_from(cut).ok()?)?;
    if bits < 64 {
        let up = 64u64.saturating_sub(bits);
        fraction = fraction.checked_shl(u32::try_from(up).ok()?)?;
        exponent = exponent.checked_sub(i64::try_from(up).ok()?)?;
    } else if cut > 0 {
        let half = digits.bit(cut.saturating_sub(1));
        let below = is_inexact || digits.any_below(cut.saturating_sub(1));
        if half && (below || fraction & 1 == 1) {
            match fraction.checked_add(1) {
                Some(more) => fraction = more,
                None => {
                    fraction = 1 << 63;
                    exponent = exponent.checked_add(1)?;
                }
            }
        }
    }
    (EXPONENT_MIN..=EXPONENT_MAX)
        .contains(&exponent)
        .then_some(LongDouble {
            negative: false,
            fraction,
            exponent,
        })
}

/// A whole number of any length, in words of 32 bits, the lowest first; the highest is not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Natural {
    words: Vec<u32>,
}

impl Natural {
    fn of(value: u64) -> Natural {
        let mut natural = Natural {
            words: vec![value as u32, (value >> 32) as u32],
        };
        natural.trim();
        natural
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    fn is_zero(&self) -> bool {
        self.words.is_empty()
    }

    fn word(&self, index: usize) -> u32 {
        self.words.get(index).copied().unwrap_or(0)
    }

    /// How many binary digits it has.
    fn bits(&self) -> u64 {
        let top = self
            .words
            .last()
            .map_or(0, |word| 32u32.saturating_sub(word.leading_zeros()));
        let below = (self.words.len() as u64).saturating_sub(1);
        below.saturating_mul(32).saturating_add(u64::from(top))
    }

    fn bit(&self, index: u64) -> bool {
        self.word((index / 32) as usize) >> (index % 32) & 1 == 1
    }

    /// Whether any digit below `index` is one.
    fn any_below(&self, index: u64) -> bool {
        let whole = (index / 32) as usize;
        let part = self.word(whole) & (1u32 << (index % 32)).wrapping_sub(1);
        part != 0 || self.words.iter().take(whole).any(|word| *word != 0)
    }

    /// The 64 digits from `from` upwards.
    fn window(&self, from: u64) -> u64 {
        let at = (from / 32) as usize;
        let word = |step: usize| u128::from(self.word(at.saturating_add(step)));
        let wide = word(0) | word(1) << 32 | word(2) << 64;
        (wide >> (from % 32)) as u64
    }

    /// Times `factor`, and `more`.
    fn multiply(&mut self, factor: u32, more: u32) {
        let mut carry = u64::from(more);
        for word in &mut self.words {
            let product = u64::from(*word)
                .wrapping_mul(u64::from(factor))
                .wrapping_add(carry);
            *word = product as u32;
            carry = product >> 32;
        }
        if carry > 0 {
            self.words.push(carry as u32);
        }
    }

    /// Times ten to the `power`.
    fn multiply_by_power_of_ten(&mut self, power: u64) {
        (0..power / 9).for_each(|_| self.multiply(1_000_000_000, 0));
        (0..power % 9).for_each(|_| self.multiply(10, 0));
    }

    /// Divides by `divisor`, and returns what is left.
    fn divide_small(&mut self, divisor: u32) -> u32 {
        let mut left = 0u64;
        for word in self.words.iter_mut().rev() {
            let value = left << 32 | u64::from(*word);
            *word = value.checked_div(u64::from(divisor)).unwrap_or(0) as u32;
            left = value.checked_rem(u64::from(divisor)).unwrap_or(0);
        }
        self.trim();
        left as u32
    }

    fn shift_up(&mut self, count: u32) {
        if self.is_zero() {
            return;
        }
        let (whole, part) = ((count / 32) as usize, count % 32);
        let mut words = vec![0; whole];
        let mut carry = 0u64;
        for word in &self.words {
            let shifted = u64::from(*word) << part | carry;
            words.push(shifted as u32);
            carry = shifted >> 32;
        }
        words.push(carry as u32);
        self.words = words;
        self.trim();
    }

    /// Divided by two to the `count`, rounded down.
    fn shifted_down(&self, count: u64) -> Natural {
        let (whole, part) = ((count / 32) as usize, count % 32);
        let word = |index: usize| u64::from(self.word(index));
        let len = self.words.len().saturating_sub(whole);
        let words = (0..len).map(|index| {
            let at = whole.saturating_add(index);
            ((word(at) | word(at.saturating_add(1)) << 32) >> part) as u32
        });
        let mut shifted = Natural {
            words: words.collect(),
        };
        shifted.trim();
        shifted
    }

    /// Divides by two to the `count`, rounded half to even.
    fn shift_down_rounded(&mut self, count: u64) {
        let Some(below) = count.checked_sub(1) else {
            return;
        };
        let mut shifted = self.shifted_down(count);
        if self.bit(below) && (self.any_below(below) || shifted.bit(0)) {
            shifted = shifted.plus(&Natural::of(1));
        }
        *self = shifted;
    }

    fn compare(&self, other: &Natural) -> Ordering {
        let lengths = self.words.len().cmp(&other.words.len());
        lengths.then_with(|| self.words.iter().rev().cmp(other.words.iter().rev()))
    }

    fn plus(&self, other: &Natural) -> Natural {
        let len = self.words.len().max(other.words.len());
        let mut words = Vec::with_capacity(len.saturating_add(1));
        let mut carry = 0u64;
        for index in 0..len {
            let sum = u64::from(self.word(index))
                .wrapping_add(u64::from(other.word(index)))
                .wrapping_add(carry);
            words.push(sum as u32);
            carry = sum >> 32;
        }
        words.push(carry as u32);
        let mut natural = Natural { words };
        natural.trim();
        natural
    }

    /// The difference to a number that is not greater.
    fn minus(&self, other: &Natural) -> Natural {
        let mut borrow = false;
        let words = (0..self.words.len()).map(|index| {
            let (first, a) = self.word(index).overflowing_sub(other.word(index));
            let (second, b) = first.overflowing_sub(u32::from(borrow));
            borrow = a || b;
            second
        });
        let mut natural = Natural {
            words: words.collect(),
        };
        natural.trim();
        natural
    }

    /// The quotient, digit by digit, and whether something is left.
    fn divide(&self, divisor: &Natural) -> (Natural, bool) {
        let mut quotient = Natural::default();
        // What is shorter than the divisor is taken at once.
        let below = self.bits().saturating_sub(divisor.bits().saturating_sub(1));
        let mut left = self.shifted_down(below);
        for index in (0..below).rev() {
            left.push_bit(self.bit(index));
            let fits = left.compare(divisor) != Ordering::Less;
            if fits {
                left = left.minus(divisor);
            }
            quotient.push_bit(fits);
        }
        (quotient, !left.is_zero())
    }

    /// Twice as much, and one if `bit`.
    fn push_bit(&mut self, bit: bool) {
        self.multiply(2, u32::from(bit));
    }

    /// Its decimal text.
    fn decimal(&self) -> String {
        let mut rest = self.clone();
        let mut groups = Vec::new();
        while !rest.is_zero() {
            groups.push(rest.divide_small(1_000_000_000));
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:09}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> LongDouble {
        match LongDouble::parse(text.as_bytes()) {
            Some(Parsed::Number(number)) => number,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn sum(a: &str, b: &str) -> String {
        number(a)
            .plus(number(b))
            .map_or("none".into(), |sum| sum.text())
    }

    #[test]
    fn sums_show_as_in_redis() {
        for (a, b, text) in [
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0.1", "0.2", "0.3"),
            ("3", "-1.5", "1.5"),
            ("1", "-1", "0"),
            ("-0.0", "0", "0"),
            ("0", "-0.0", "0"),
            ("-0", "-0", "0"),
            ("-0e99999999999999999999", "-0.0", "0"),
            ("-0x0p0", "1", "1"),
            ("0", "1e-17", "0.00000000000000001"),
            ("0", "1e-18", "0"),
            ("0", "-1e-30", "0"),
            ("1e19", "1", "10000000000000000001"),
        ] {
            assert_eq!(sum(a, b), text, "{a} + {b}");
        }
        // Printed exactly: the number of 64 binary digits next to it.
        let huge = sum("1e300", "0");
        assert!(huge.len() == 301 && huge.starts_with("1000000000000000000"));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", " 1", "1 ", "abc", "1e", "1e+", "--1", "+-1", ".", "-", "0x", "1.2.3", "1_0",
            "nan", "1e5000", "-1e4933", "1e-5000", "e5", "infi",
        ] {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text:?}");
        }
        // Exponents beyond what any word holds, with digits that move them further.
        for digits in ["1", "0.1", ".00001", "100000", "0x1.8", "0x.0001"] {
            for exponent in [
                "9223372036854775807",
                "9223372036854775808",
                "99999999999999999999999",
            ] {
                for sign in ["", "-", "+"] {
                    let letter = if digits.starts_with("0x") { 'p' } else { 'e' };
                    let text = format!("-{digits}{letter}{sign}{exponent}");
                    assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text}");
                }
            }
        }
        for text in ["inf", "-INF", "+Infinity"] {
            assert_eq!(LongDouble::parse(text.as_bytes()), Some(Parsed::Infinite));
        }
        assert_eq!(LongDouble::parse(&[b'1'; TEXT_BYTES_MAX + 1]), None);
    }

    #[test]
    fn every_way_to_write_a_number_is_read() {
        for (text, same) in [
            ("1.", "1"),
            (".5", "0.5"),
            ("+1", "1"),
            ("1E2", "100"),
            ("1e+2", "100"),
            ("00012", "12"),
            ("0x10", "16"),
            ("0x1p3", "8"),
            ("0x.8P+1", "1"),
            ("1e4000", "1e4000"),
            ("18446744073709551617", "18446744073709551616"),
        ] {
            assert_eq!(number(text), number(same), "{text}");
        }
        assert_eq!(
            number("1e4900").plus(number("1e4900")).map(|n| n.negative),
            Some(false)
        );
        let huge = number("1.18e4932");
        assert_eq!(huge.plus(huge), None);
    }

    #[test]
    fn whole_numbers_of_64_bits_are_exact() {
        let mut word = 1u64;
        for _ in 0..2000 {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (a, b) = (word >> 1, word.rotate_left(20) >> 1);
            assert_eq!(sum(&a.to_string(), &b.to_string()), (a + b).to_string());
            let difference = i128::from(a) - i128::from(b);
            assert_eq!(
                sum(&a.to_string(), &format!("-{b}")),
                difference.to_string()
            );
        }
    }
}
