//! Sizes, durations and switches as text: what a configuration file may say, and how it is shown.
//!
//! Units are PostgreSQL's: `B kB MB GB TB` in steps of 1024 and `us ms s min h d`, in exactly this
//! case, so that nobody's `MB` is another's million. A number without a unit counts in the base
//! unit of its parameter. Fractions are allowed and round to the nearest base unit.
//!
//! Invariant: [`print()`] writes text that [`parse`] reads back to the same value, whatever the
//! base unit; it uses the largest unit that divides the value.

use std::fmt;

/// One kilobyte: 1024 bytes.
pub const KB: u64 = 1 << 10;
/// One megabyte: 1024 kB.
pub const MB: u64 = 1 << 20;
/// One gigabyte: 1024 MB.
pub const GB: u64 = 1 << 30;
/// One terabyte: 1024 GB.
pub const TB: u64 = 1 << 40;

/// One millisecond, in microseconds, the unit in which durations are held.
pub const MILLISECOND: u64 = 1_000;
/// One second, in microseconds.
pub const SECOND: u64 = 1_000_000;
/// One minute, in microseconds.
pub const MINUTE: u64 = 60 * SECOND;
/// One hour, in microseconds.
pub const HOUR: u64 = 60 * MINUTE;
/// One day, in microseconds.
pub const DAY: u64 = 24 * HOUR;

/// What a number measures, and with it the units it may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Held in bytes.
    Size,
    /// Held in microseconds.
    Duration,
}

impl Measure {
    /// Every unit and its worth, smallest first.
    pub const fn units(self) -> &'static [(&'static str, u64)] {
        match self {
            Measure::Size => &[("B", 1), ("kB", KB), ("MB", MB), ("GB", GB), ("TB", TB)],
            Measure::Duration => &[
                ("us", 1),
                ("ms", MILLISECOND),
                ("s", SECOND),
                ("min", MINUTE),
                ("h", HOUR),
                ("d", DAY),
            ],
        }
    }

    /// The names of all units, for messages.
    pub fn unit_names(self) -> String {
        let names: Vec<&str> = self.units().iter().map(|(name, _)| *name).collect();
        names.join(", ")
    }
}

/// Why a text is not a size, a duration, a number or a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// Not a number at all.
    NotANumber,
    /// Below zero, where nothing can be.
    Negative,
    /// A number, followed by something that is no unit of this measure.
    UnknownUnit(Measure),
    /// More than 64 bits hold.
    TooLarge,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnitError::NotANumber => f.write_str("not a number"),
            UnitError::Negative => f.write_str("must not be negative"),
            UnitError::UnknownUnit(measure) => {
                write!(f, "valid units are {}", measure.unit_names())
            }
            UnitError::TooLarge => f.write_str("too large"),
        }
    }
}

impl std::error::Error for UnitError {}

/// Reads a size in bytes or a duration in microseconds. `base` is the worth of a bare number; the
/// result is rounded to a multiple of it.
pub fn parse(text: &str, measure: Measure, base: u64) -> Result<u64, UnitError> {
    assert!(base > 0, "a base unit is worth something");
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('-') {
        let number = rest.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        return Err(if number {
            UnitError::Negative
        } else {
            UnitError::NotANumber
        });
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = Decimal::parse(number)?;
    let unit = unit.trim_start();
    let worth = if unit.is_empty() {
        base
    } else {
        let known = measure.units().iter().find(|(name, _)| *name == unit);
        known.ok_or(UnitError::UnknownUnit(measure))?.1
    };
    number.times_rounded(worth, base)
}

/// A decimal number without sign, exactly as written: `digits / 10^places`.
struct Decimal {
    digits: u128,
    places: u32,
}

impl Decimal {
    /// More decimal places than this cannot matter to a whole byte or microsecond.
    const PLACES_MAX: usize = 12;

    fn parse(text: &str) -> Result<Decimal, UnitError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(UnitError::NotANumber);
        }
        let fraction = &fraction[..fraction.len().min(Self::PLACES_MAX)];
        let whole = whole.trim_start_matches('0');
        if whole.len() > 20 {
            return Err(UnitError::TooLarge);
        }
        let digits = whole.bytes().chain(fraction.bytes()).fold(0, |sum, digit| {
            sum * 10 + u128::from(digit - b'0') // at most 32 digits, which 128 bits hold
        });
        Ok(Decimal {
            digits,
            places: u32::try_from(fraction.len()).expect("at most PLACES_MAX"),
        })
    }

    /// `self * worth`, rounded to the nearest multiple of `base`, halves upward.
    fn times_rounded(&self, worth: u64, base: u64) -> Result<u64, UnitError> {
        let divisor = 10_u128.pow(self.places) * u128::from(base);
        let product = self
            .digits
            .checked_mul(u128::from(worth))
            .ok_or(UnitError::TooLarge)?;
        let multiples = product / divisor + u128::from(product % divisor >= divisor.div_ceil(2));
        let value = multiples.checked_mul(u128::from(base));
        value
            .and_then(|value| u64::try_from(value).ok())
            .ok_or(UnitError::TooLarge)
    }
}

/// Writes a size or duration with the largest unit that divides it; 0 stands alone.
pub fn print(value: u64, measure: Measure) -> String {
    if value == 0 {
        return "0".to_owned();
    }
    let units = measure.units().iter().rev();
    let (name, worth) = units
        .copied()
        .find(|(_, worth)| value.is_multiple_of(*worth))
        .expect("the smallest unit is 1, which divides everything");
    format!("{}{name}", value / worth)
}

/// A size in bytes as text, as in `128MB`.
pub fn print_size(bytes: u64) -> String {
    print(bytes, Measure::Size)
}

/// A duration as text, as in `200ms`; fractions of a microsecond are dropped.
pub fn print_duration(duration: std::time::Duration) -> String {
    let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    print(us, Measure::Duration)
}

/// Reads a switch, in either case: `on off true false yes no 1 0`.
pub fn parse_bool(text: &str) -> Option<bool> {
    let word = text.trim().to_ascii_lowercase();
    match word.as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// `on` or `off`.
pub const fn print_bool(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_postgresql_reads_them() {
        let cases: &[(&str, u64, Result<u64, UnitError>)] = &[
            ("0", KB, Ok(0)),
            ("16", 8 * KB, Ok(128 * KB)),
            ("128MB", 8 * KB, Ok(128 * MB)),
            (" 128 MB ", 8 * KB, Ok(128 * MB)),
            ("1.5GB", KB, Ok(1536 * MB)),
            (".5kB", 1, Ok(512)),
            ("5.", 1, Ok(5)),
            ("+3kB", 1, Ok(3 * KB)),
            ("1B", KB, Ok(0)),
            ("512B", KB, Ok(KB)),
            ("511B", KB, Ok(0)),
            ("8193B", 8 * KB, Ok(8 * KB)),
            ("0.1kB", 1, Ok(102)),
            ("15TB", MB, Ok(15 * TB)),
            ("18446744073709551615", 1, Ok(u64::MAX)),
            ("18446744073709551616", 1, Err(UnitError::TooLarge)),
            ("99999999999999999999999999", 1, Err(UnitError::TooLarge)),
            ("16777216TB", 1, Err(UnitError::TooLarge)),
            ("1KB", 1, Err(UnitError::UnknownUnit(Measure::Size))),
            ("1mb", 1, Err(UnitError::UnknownUnit(Measure::Size))),
            ("1M", 1, Err(UnitError::UnknownUnit(Measure::Size))),
            ("1ms", 1, Err(UnitError::UnknownUnit(Measure::Size))),
            ("1e3", 1, Err(UnitError::UnknownUnit(Measure::Size))),
            ("1 2", 1, Err(UnitError::UnknownUnit(Measure::Size))),
            ("", 1, Err(UnitError::NotANumber)),
            ("MB", 1, Err(UnitError::NotANumber)),
            (".", 1, Err(UnitError::NotANumber)),
            ("1.2.3", 1, Err(UnitError::NotANumber)),
            ("-", 1, Err(UnitError::NotANumber)),
            ("--1", 1, Err(UnitError::NotANumber)),
            ("-1MB", 1, Err(UnitError::Negative)),
            ("\u{0661}", 1, Err(UnitError::NotANumber)),
        ];
        for (text, base, expected) in cases {
            let got = parse(text, Measure::Size, *base);
            assert_eq!(&got, expected, "{text:?} with base {base}");
        }
    }

    #[test]
    fn durations_read_with_their_units() {
        let cases: &[(&str, u64, Result<u64, UnitError>)] = &[
            ("300", SECOND, Ok(5 * MINUTE)),
            ("5min", SECOND, Ok(5 * MINUTE)),
            ("200ms", MILLISECOND, Ok(200 * MILLISECOND)),
            ("200us", MILLISECOND, Ok(0)),
            ("500us", MILLISECOND, Ok(MILLISECOND)),
            ("1.5h", SECOND, Ok(90 * MINUTE)),
            ("1d", SECOND, Ok(DAY)),
            ("1m", SECOND, Err(UnitError::UnknownUnit(Measure::Duration))),
            ("1S", SECOND, Err(UnitError::UnknownUnit(Measure::Duration))),
        ];
        for (text, base, expected) in cases {
            let got = parse(text, Measure::Duration, *base);
            assert_eq!(&got, expected, "{text:?}");
        }
    }

    #[test]
    fn printing_takes_the_largest_exact_unit_and_reads_back() {
        for (value, text) in [
            (0, "0"),
            (1, "1B"),
            (1025, "1025B"),
            (8 * KB, "8kB"),
            (1536 * MB, "1536MB"),
            (GB, "1GB"),
            (1024 * TB, "1024TB"),
        ] {
            assert_eq!(print_size(value), text);
            assert_eq!(parse(text, Measure::Size, 1), Ok(value));
        }
        for (value, text) in [
            (1, "1us"),
            (200 * MILLISECOND, "200ms"),
            (90 * SECOND, "90s"),
            (5 * MINUTE, "5min"),
            (36 * HOUR, "36h"),
            (DAY, "1d"),
        ] {
            assert_eq!(print(value, Measure::Duration), text);
            assert_eq!(parse(text, Measure::Duration, 1), Ok(value));
        }
    }

    #[test]
    fn switches() {
        for (text, value) in [
            ("on", Some(true)),
            ("OFF", Some(false)),
            ("True", Some(true)),
            ("false", Some(false)),
            ("yes", Some(true)),
            ("no", Some(false)),
            ("1", Some(true)),
            ("0", Some(false)),
            ("2", None),
            ("", None),
            ("o", None),
        ] {
            assert_eq!(parse_bool(text), value, "{text:?}");
        }
    }
}
