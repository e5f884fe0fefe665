//! Inline requests: words between blanks, with quotes as in Redis.
//!
//! Within `"…"`, `\xHH` is a byte, `\n \r \t \b \a` are what they are in C, and `\` before any
//! other character is that character. Within `'…'`, only `\'` is special. A quote may begin
//! within a word, but a word ends with the quote that closes it.

use super::args::Span;

/// Splits `line` and appends the bare words to `words` and their places to `spans`. False if
/// quotes are unbalanced.
pub(super) fn split(line: &[u8], words: &mut Vec<u8>, spans: &mut Vec<Span>) -> bool {
    let mut rest = line.trim_ascii_start_c();
    while !rest.is_empty() {
        let start = words.len();
        match word(rest, words) {
            Some(behind) => rest = behind.trim_ascii_start_c(),
            None => return false,
        }
        spans.push(Span::new(start, words.len().saturating_sub(start)));
    }
    true
}

/// Takes one word off the front of `rest`.
fn word<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        match rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Some(rest),
            [b'"', inner @ ..] => return closed(double_quoted(inner, words)?),
            [b'\'', inner @ ..] => return closed(single_quoted(inner, words)?),
            [byte, behind @ ..] => {
                words.push(*byte);
                rest = behind;
            }
        }
    }
}

/// What is behind a closing quote: nothing, or a blank first.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    rest.first()
        .is_none_or(|&byte| is_space(byte))
        .then_some(rest)
}

fn double_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, behind) = match rest {
            [] => return None,
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', b'x', high, low, behind @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(*high) << 4 | hex(*low), behind)
            }
            [b'\\', escaped, behind @ ..] => (unescape(*escaped), behind),
            [byte, behind @ ..] => (*byte, behind),
        };
        words.push(byte);
        rest = behind;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], words: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let (byte, behind) = match rest {
            [] => return None,
            [b'\'', behind @ ..] => return Some(behind),
            [b'\\', b'\'', behind @ ..] => (b'\'', behind),
            [byte, behind @ ..] => (*byte, behind),
        };
        words.push(byte);
        rest = behind;
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit.wrapping_sub(b'0'),
        _ => digit
            .to_ascii_lowercase()
            .wrapping_sub(b'a')
            .wrapping_add(10),
    }
}

/// `isspace` of C: Rust's `is_ascii_whitespace` leaves out the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

trait TrimStart {
    fn trim_ascii_start_c(&self) -> &[u8];
}

impl TrimStart for [u8] {
    fn trim_ascii_start_c(&self) -> &[u8] {
        let mut rest = self;
        while let [byte, behind @ ..] = rest {
            if !is_space(*byte) {
                break;
            }
            rest = behind;
        }
        rest
    }
}
