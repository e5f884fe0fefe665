//! Replies, appended to the connection's output buffer, in RESP2 or RESP3.
//!
//! A command says what it means (a map, a null, a double); the writer knows what that looks like
//! in the protocol that the client chose with `HELLO`. Whatever the text, an error or a simple
//! string stays one line.

use crate::num::Decimal;
use crate::texts;

/// Room for what follows a large part of a reply.
const SMALL_PARTS_BYTES: usize = 64 << 10;
/// Most bytes of a bulk string beside its content.
const BULK_FRAME_BYTES: usize = 32;

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proto {
    /// RESP2: every connection starts with it.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

/// Appends replies to a buffer.
#[derive(Debug)]
pub struct ReplyWriter<'a> {
    out: &'a mut Vec<u8>,
    proto: Proto,
}

impl<'a> ReplyWriter<'a> {
    /// A writer behind what `out` holds.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, proto: Proto) -> Self {
        Self { out, proto }
    }

    /// The protocol that is written.
    #[inline]
    pub fn proto(&self) -> Proto {
        self.proto
    }

    /// Changes the protocol from here on: `HELLO` answers in the one it has just chosen.
    pub fn set_proto(&mut self, proto: Proto) {
        self.proto = proto;
    }

    /// Bytes that the buffer holds, those of earlier replies included.
    #[inline]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether the buffer holds nothing.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string. Line ends in it become spaces.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error: a code word, a space, a sentence (`ERR no such thing`). Line ends in it become
    /// spaces, so that what a client sent can be quoted in it.
    pub fn error(&mut self, text: &str) {
        self.line(b'-', text.as_bytes());
    }

    /// [`Self::error`] for a text that quotes bytes which need not be UTF-8.
    pub fn error_bytes(&mut self, text: &[u8]) {
        self.line(b'-', text);
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        // The two that nearly every command answers.
        match value {
            0 => self.out.extend_from_slice(b":0\r\n"),
            1 => self.out.extend_from_slice(b":1\r\n"),
            _ => self.number(b':', Decimal::of(value)),
        }
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        let room = bytes.len().saturating_add(BULK_FRAME_BYTES);
        // First the usual room, to be moved seldom; then what is needed, and what the small parts of the
        // reply behind it are likely to need: they do not ask.
        let exact = room.saturating_add(SMALL_PARTS_BYTES);
        if self.out.try_reserve(room).is_err() && self.out.try_reserve_exact(exact).is_err() {
            return self.no_room();
        }
        self.header(b'$', bytes.len());
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// What stands in the place of a string for which there is no memory: an error may be any element of
    /// a reply, too.
    #[cold]
    fn no_room(&mut self) {
        // Not twice the buffer, which is large. If there is no room for this either, the process ends.
        let _ = self.out.try_reserve_exact(SMALL_PARTS_BYTES);
        self.error(texts::NO_ROOM_FOR_REPLY);
    }

    /// The head of a bulk string whose `len` bytes follow through [`Self::raw`], piece by piece,
    /// and then [`Self::bulk_end`].
    pub fn bulk_start(&mut self, len: usize) {
        self.header(b'$', len);
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// The end of a bulk string that was begun with [`Self::bulk_start`].
    pub fn bulk_end(&mut self) {
        self.out.extend_from_slice(b"\r\n");
    }

    /// A bulk string that is a number's text.
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(Decimal::of(value).as_bytes());
    }

    /// A bulk string, or null if there is none.
    #[inline]
    pub fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// Null where a string could be.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"$-1\r\n".as_slice(),
            Proto::Resp3 => b"_\r\n".as_slice(),
        });
    }

    /// Null where an array could be.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.proto {
            Proto::Resp2 => b"*-1\r\n".as_slice(),
            Proto::Resp3 => b"_\r\n".as_slice(),
        });
    }

    /// The head of an array; `len` replies follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// The head of a map; `len` times two replies follow, key and value.
    pub fn map(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.header(b'*', len.saturating_mul(2)),
            Proto::Resp3 => self.header(b'%', len),
        }
    }

    /// The head of a set; `len` replies follow.
    pub fn set(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.header(b'*', len),
            Proto::Resp3 => self.header(b'~', len),
        }
    }

    /// The head of a message that is no reply; `len` replies follow, the first its kind.
    pub fn push(&mut self, len: usize) {
        match self.proto {
            Proto::Resp2 => self.header(b'*', len),
            Proto::Resp3 => self.header(b'>', len),
        }
    }

    /// A floating point number: a bulk string in RESP2.
    pub fn double(&mut self, value: f64) {
        let text = double_text(value);
        match self.proto {
            Proto::Resp2 => self.bulk(text.as_bytes()),
            Proto::Resp3 => self.line(b',', text.as_bytes()),
        }
    }

    /// True or false: 1 or 0 in RESP2.
    pub fn boolean(&mut self, value: bool) {
        match self.proto {
            Proto::Resp2 => self.integer(i64::from(value)),
            Proto::Resp3 => {
                self.out
                    .extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" });
            }
        }
    }

    /// Text for people, of a format named by three letters (`txt`, `mkd`): what `INFO` answers.
    pub fn verbatim(&mut self, format: [u8; 3], text: &[u8]) {
        match self.proto {
            Proto::Resp2 => self.bulk(text),
            Proto::Resp3 => {
                self.header(b'=', text.len().saturating_add(4));
                self.out.extend_from_slice(&format);
                self.out.push(b':');
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// An integer of any length, as its digits: a bulk string in RESP2.
    pub fn big_number(&mut self, digits: &str) {
        match self.proto {
            Proto::Resp2 => self.bulk(digits.as_bytes()),
            Proto::Resp3 => self.line(b'(', digits.as_bytes()),
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend(text.iter().map(|&byte| match byte {
            b'\r' | b'\n' => b' ',
            other => other,
        }));
        self.out.extend_from_slice(b"\r\n");
    }

    #[inline]
    fn header(&mut self, kind: u8, len: usize) {
        let Some((bytes, used)) = short_header(kind, len) else {
            return self.number(kind, Decimal::of_u64(len as u64));
        };
        // Of a known length it is one store; what is too much is taken back.
        let end = self.out.len().saturating_add(used);
        self.out.extend_from_slice(&bytes);
        self.out.truncate(end);
    }

    #[inline]
    fn number(&mut self, kind: u8, decimal: Decimal) {
        self.out.push(kind);
        self.out.extend_from_slice(decimal.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }
}

/// `kind`, `len` and a line end, for the lengths that most strings have; and how many of the bytes
/// these are.
#[inline]
fn short_header(kind: u8, len: usize) -> Option<([u8; 8], usize)> {
    // Zero is no unit.
    let digit = |unit: usize| {
        let digit = len.checked_div(unit).unwrap_or(0).wrapping_rem(10);
        b'0'.wrapping_add(digit as u8)
    };
    match len {
        0..10 => Some(([kind, digit(1), b'\r', b'\n', 0, 0, 0, 0], 4)),
        10..100 => Some(([kind, digit(10), digit(1), b'\r', b'\n', 0, 0, 0], 5)),
        100..1000 => {
            let digits = [100, 10, 1].map(digit);
            let [first, second, third] = digits;
            Some(([kind, first, second, third, b'\r', b'\n', 0, 0], 6))
        }
        _ => None,
    }
}

/// The shortest text that reads back as the same number, with an exponent where the plain text
/// would be long.
fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-5..1e17).contains(&magnitude) {
        return format!("{value:e}");
    }
    format!("{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(write: impl Fn(&mut ReplyWriter<'_>)) -> (String, String) {
        let run = |proto| {
            let mut out = Vec::new();
            write(&mut ReplyWriter::new(&mut out, proto));
            String::from_utf8(out).expect("what the test wrote")
        };
        (run(Proto::Resp2), run(Proto::Resp3))
    }

    #[test]
    fn every_kind_in_both_protocols() {
        type Write = dyn Fn(&mut ReplyWriter<'_>);
        let cases: [(&Write, &str, &str); 22] = [
            (&|w| w.ok(), "+OK\r\n", "+OK\r\n"),
            (&|w| w.simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
            (&|w| w.error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (&|w| w.integer(0), ":0\r\n", ":0\r\n"),
            (&|w| w.integer(-12), ":-12\r\n", ":-12\r\n"),
            (
                &|w| w.bulk(b"a\r\nb"),
                "$4\r\na\r\nb\r\n",
                "$4\r\na\r\nb\r\n",
            ),
            (
                &|w| w.bulk_integer(i64::MIN),
                "$20\r\n-9223372036854775808\r\n",
                "$20\r\n-9223372036854775808\r\n",
            ),
            (&|w| w.bulk_or_null(None), "$-1\r\n", "_\r\n"),
            (&|w| w.null_array(), "*-1\r\n", "_\r\n"),
            (&|w| w.array(3), "*3\r\n", "*3\r\n"),
            (&|w| w.map(3), "*6\r\n", "%3\r\n"),
            (&|w| w.set(3), "*3\r\n", "~3\r\n"),
            (&|w| w.push(3), "*3\r\n", ">3\r\n"),
            (&|w| w.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (&|w| w.double(-0.0), "$2\r\n-0\r\n", ",-0\r\n"),
            (&|w| w.double(1e300), "$5\r\n1e300\r\n", ",1e300\r\n"),
            (
                &|w| w.double(f64::NEG_INFINITY),
                "$4\r\n-inf\r\n",
                ",-inf\r\n",
            ),
            (&|w| w.double(f64::NAN), "$3\r\nnan\r\n", ",nan\r\n"),
            (&|w| w.boolean(true), ":1\r\n", "#t\r\n"),
            (&|w| w.boolean(false), ":0\r\n", "#f\r\n"),
            (
                &|w| w.verbatim(*b"txt", b"hi"),
                "$2\r\nhi\r\n",
                "=6\r\ntxt:hi\r\n",
            ),
            (&|w| w.big_number("123"), "$3\r\n123\r\n", "(123\r\n"),
        ];
        for (write, resp2, resp3) in cases {
            assert_eq!(both(write), (resp2.to_owned(), resp3.to_owned()));
        }
    }

    #[test]
    fn a_bulk_string_in_pieces_is_the_same() {
        let whole = both(|w| w.bulk(b"abcdef"));
        let pieces = both(|w| {
            w.bulk_start(6);
            w.raw(b"abc");
            w.raw(b"def");
            w.bulk_end();
        });
        assert_eq!(whole, pieces);
    }
}
