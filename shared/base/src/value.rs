//! The value of a parameter: its kinds, how each is read, checked, and written.

use crate::limits::PARAMETER_TEXT_BYTES_MAX;
use crate::units::{self, Measure, UnitError};
use std::fmt;

/// What a parameter's value is, with its bounds.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A switch.
    Bool,
    /// A whole number.
    Int {
        /// Least.
        min: u64,
        /// Greatest.
        max: u64,
    },
    /// Permission bits, written in octal.
    Octal {
        /// Greatest.
        max: u64,
    },
    /// A number with a fraction.
    Float {
        /// Least.
        min: f64,
        /// Greatest.
        max: f64,
    },
    /// A size or a duration.
    Measured {
        /// Which of the two.
        measure: Measure,
        /// Worth of a number without unit, in bytes or microseconds; values are multiples of it.
        unit: u64,
        /// Least, in bytes or microseconds.
        min: u64,
        /// Greatest, in bytes or microseconds.
        max: u64,
    },
    /// One of a few words.
    Word {
        /// The words.
        words: &'static [&'static str],
    },
    /// Any text of bounded length without control characters.
    Text,
}

/// A value that has been read and checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A switch.
    Bool(bool),
    /// A whole number, permission bits, bytes or microseconds.
    Number(u64),
    /// A number with a fraction.
    Real(f64),
    /// Index into the words of the kind.
    Word(usize),
    /// A text.
    Text(String),
}

/// Why a text is no value of its kind; says what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueError {
    /// Neither on nor off.
    NotBool(String),
    /// Not a number, or with a wrong unit.
    Number(String, UnitError),
    /// A number with a unit, for a parameter that has none.
    NoUnit(String),
    /// Not octal digits.
    NotOctal(String),
    /// A number out of bounds.
    Range {
        /// The value as the server would write it.
        given: String,
        /// The least one allowed.
        min: String,
        /// The greatest one allowed.
        max: String,
    },
    /// None of the words.
    NotAWord(String, &'static [&'static str]),
    /// A text that is too long.
    TooLong(usize),
    /// A text with a line break or another control character.
    ControlCharacter,
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueError::NotBool(given) => {
                write!(f, "invalid value \"{given}\": must be on or off")
            }
            ValueError::Number(given, error) => write!(f, "invalid value \"{given}\": {error}"),
            ValueError::NoUnit(given) => {
                write!(
                    f,
                    "invalid value \"{given}\": must be a number without unit"
                )
            }
            ValueError::NotOctal(given) => {
                write!(f, "invalid value \"{given}\": must be octal, as in 0700")
            }
            ValueError::Range { given, min, max } => {
                write!(f, "{given} is outside the valid range ({min} .. {max})")
            }
            ValueError::NotAWord(given, words) => {
                let words = words.join(", ");
                write!(f, "invalid value \"{given}\": must be one of {words}")
            }
            ValueError::TooLong(bytes) => {
                write!(
                    f,
                    "text of {bytes} bytes is longer than {PARAMETER_TEXT_BYTES_MAX}"
                )
            }
            ValueError::ControlCharacter => f.write_str("text holds a control character"),
        }
    }
}

impl std::error::Error for ValueError {}

impl Kind {
    /// Reads and checks a value.
    pub fn parse(self, text: &str) -> Result<Value, ValueError> {
        let given = || shortened(text);
        let value = match self {
            Kind::Bool => {
                Value::Bool(units::parse_bool(text).ok_or_else(|| ValueError::NotBool(given()))?)
            }
            Kind::Int { .. } => Value::Number(parse_int(text)?),
            Kind::Octal { .. } => {
                Value::Number(octal(text).ok_or_else(|| ValueError::NotOctal(given()))?)
            }
            Kind::Float { .. } => Value::Real(parse_float(text)?),
            Kind::Measured { measure, unit, .. } => Value::Number(
                units::parse(text, measure, unit)
                    .map_err(|error| ValueError::Number(given(), error))?,
            ),
            Kind::Word { words } => {
                let same = |word: &&str| word.eq_ignore_ascii_case(text.trim());
                let index = words.iter().position(same);
                Value::Word(index.ok_or_else(|| ValueError::NotAWord(given(), words))?)
            }
            Kind::Text => {
                if text.len() > PARAMETER_TEXT_BYTES_MAX {
                    return Err(ValueError::TooLong(text.len()));
                }
                if text.chars().any(char::is_control) {
                    return Err(ValueError::ControlCharacter);
                }
                Value::Text(text.to_owned())
            }
        };
        self.check_range(&value)?;
        Ok(value)
    }

    fn check_range(self, value: &Value) -> Result<(), ValueError> {
        let inside = match (self, value) {
            (Kind::Int { min, max } | Kind::Measured { min, max, .. }, Value::Number(number)) => {
                (min..=max).contains(number)
            }
            (Kind::Octal { max }, Value::Number(number)) => *number <= max,
            (Kind::Float { min, max }, Value::Real(number)) => (min..=max).contains(number),
            _ => true,
        };
        match self.range() {
            Some((min, max)) if !inside => Err(ValueError::Range {
                given: self.print(value),
                min,
                max,
            }),
            _ => Ok(()),
        }
    }

    /// The value as text that [`Kind::parse`] reads back to the same.
    pub fn print(self, value: &Value) -> String {
        match (self, value) {
            (Kind::Measured { measure, .. }, Value::Number(number)) => {
                units::print(*number, measure)
            }
            (Kind::Octal { .. }, Value::Number(bits)) => format!("{bits:04o}"),
            (Kind::Word { words }, Value::Word(index)) => words[*index].to_owned(),
            (_, Value::Bool(on)) => units::print_bool(*on).to_owned(),
            (_, Value::Number(number)) => number.to_string(),
            (_, Value::Real(number)) => number.to_string(),
            (_, Value::Text(text)) => text.clone(),
            (_, Value::Word(_)) => unreachable!("only the kind Word makes such values"),
        }
    }

    /// The value as Redis would write it: bytes and seconds as bare numbers, `yes` and `no`.
    pub fn print_for_redis(self, value: &Value) -> String {
        match (self, value) {
            (
                Kind::Measured {
                    measure: Measure::Duration,
                    ..
                },
                Value::Number(us),
            ) => (us / units::SECOND).to_string(),
            (
                Kind::Measured {
                    measure: Measure::Size,
                    ..
                },
                Value::Number(bytes),
            ) => bytes.to_string(),
            (Kind::Octal { .. }, Value::Number(bits)) => format!("{bits:o}"),
            (_, Value::Bool(on)) => if *on { "yes" } else { "no" }.to_owned(),
            _ => self.print(value),
        }
    }

    /// The bounds as text; none for switches, words and texts.
    pub fn range(self) -> Option<(String, String)> {
        let both = |min: Value, max: Value| Some((self.print(&min), self.print(&max)));
        match self {
            Kind::Int { min, max } | Kind::Measured { min, max, .. } => {
                both(Value::Number(min), Value::Number(max))
            }
            Kind::Octal { max } => both(Value::Number(0), Value::Number(max)),
            Kind::Float { min, max } => both(Value::Real(min), Value::Real(max)),
            Kind::Bool | Kind::Word { .. } | Kind::Text => None,
        }
    }

    /// One word for the documentation.
    pub const fn type_name(self) -> &'static str {
        match self {
            Kind::Bool => "bool",
            Kind::Int { .. } => "integer",
            Kind::Octal { .. } => "octal",
            Kind::Float { .. } => "number",
            Kind::Measured {
                measure: Measure::Size,
                ..
            } => "size",
            Kind::Measured {
                measure: Measure::Duration,
                ..
            } => "duration",
            Kind::Word { .. } => "word",
            Kind::Text => "text",
        }
    }
}

/// Messages quote no more than this of what they were given.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut quoted: String = text
        .chars()
        .take(CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        quoted.push_str("...");
    }
    quoted
}

fn parse_int(text: &str) -> Result<u64, ValueError> {
    let text = text.trim();
    let fail = |error| ValueError::Number(shortened(text), error);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    if end == 0 {
        return Err(fail(UnitError::NotANumber));
    }
    if end < digits.len() {
        return Err(ValueError::NoUnit(shortened(text)));
    }
    if text.starts_with('-') {
        return Err(fail(UnitError::Negative));
    }
    digits.parse().map_err(|_| fail(UnitError::TooLarge))
}

fn octal(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let plain = digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    plain.then(|| u64::from_str_radix(digits, 8).ok())?
}

fn parse_float(text: &str) -> Result<f64, ValueError> {
    let number: Option<f64> = text.trim().parse().ok();
    match number {
        Some(number) if number.is_finite() => Ok(number + 0.0), // and -0 becomes 0
        _ => Err(ValueError::Number(shortened(text), UnitError::NotANumber)),
    }
}

impl Value {
    /// The switch. The getters call this on kinds that the table's test has checked.
    pub(crate) fn as_bool(&self) -> bool {
        match self {
            Value::Bool(on) => *on,
            other => unreachable!("{other:?} is no switch"),
        }
    }
    /// The number.
    pub(crate) fn as_u64(&self) -> u64 {
        match self {
            Value::Number(number) => *number,
            other => unreachable!("{other:?} is no number"),
        }
    }
    /// The number of a row whose greatest value fits 32 bits.
    pub(crate) fn as_u32(&self) -> u32 {
        u32::try_from(self.as_u64()).expect("the rows of plain numbers are bounded to 32 bits")
    }
    /// The number with a fraction.
    pub(crate) fn as_f64(&self) -> f64 {
        match self {
            Value::Real(number) => *number,
            other => unreachable!("{other:?} has no fraction"),
        }
    }
    /// The word's index.
    pub(crate) fn as_word(&self) -> usize {
        match self {
            Value::Word(index) => *index,
            other => unreachable!("{other:?} is no word"),
        }
    }
    /// The text.
    pub(crate) fn as_text(&self) -> &str {
        match self {
            Value::Text(text) => text,
            other => unreachable!("{other:?} is no text"),
        }
    }
}
