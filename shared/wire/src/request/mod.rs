//! Requests, as a client sends them: arrays of bulk strings (`*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`)
//! and, for hands at a terminal, inline lines (`GET k\r\n`).
//!
//! The parser works in place over the connection's input buffer and gives ranges into it. It
//! remembers where it stopped, so that a request which arrives in many pieces is looked at
//! once: time is linear in bytes, however they are cut.
//!
//! Invariants:
//! - Q1. Every limit is checked on the announcement, before the announced bytes are awaited.
//! - Q2. A count announces, it does not reserve: the list of arguments grows as they arrive.
//! - Q3. The result does not depend on how the bytes were cut into reads.
//! - Q4. After an error the parser gives that error for ever; the connection is to be closed.
//!
//! Two choices differ from Redis on purpose. A bulk string that does not end in CR LF, or a
//! header whose CR is not followed by LF, is an error here (Redis skips two bytes unseen, so
//! that a wrong length turns data into commands). And a NUL in an inline line is a byte like
//! any other (Redis drops the rest of the line).

mod ahead;
mod args;
mod inline;

pub use ahead::Ahead;
pub use args::{Args, RequestBuf};

use crate::num;
use args::Span;

/// Arguments whose room is kept from one request to the next.
const KEPT_ARGS_MAX: usize = 1024;
/// Bytes of unquoted inline arguments whose room is kept from one request to the next.
const KEPT_SCRATCH_BYTES_MAX: usize = 4096;
/// The shortest argument on the wire, `$0\r\n\r\n`.
const ARG_WIRE_BYTES_MIN: usize = 6;
/// Digits that a length can have so that it fits a `u64` unchecked.
const FAST_DIGITS_MAX: usize = 18;

/// What a request may ask for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest argument, in bytes.
    pub bulk_bytes_max: usize,
    /// Most arguments of a request.
    pub args_max: usize,
    /// Longest inline request, and longest header line of any other, in bytes.
    pub inline_bytes_max: usize,
    /// Longest request from first to last byte on the wire; at most 4 GiB - 1. Beside these
    /// bytes, the list of arguments takes 8 for each argument (an argument has at least 6 on
    /// the wire), and up to twice that for growth.
    pub request_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bulk_bytes_max: rd_base::limits::VALUE_BYTES_CEILING,
            args_max: 1024 * 1024,
            inline_bytes_max: 64 * 1024,
            request_bytes_max: 64 << 20,
        }
    }
}

impl Limits {
    /// These, as far as places within a request are kept: in 32 bits each.
    fn in_spans(self) -> Limits {
        let request_bytes_max = self.request_bytes_max.min(u32::MAX as usize);
        Limits {
            request_bytes_max,
            ..self
        }
    }
}

/// What the parser found at the front of the input.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// A request with at least one argument; the next one starts `consumed` bytes further.
    Request {
        /// The command's name and its arguments.
        args: Args<'a>,
        /// Bytes of the input that it took.
        consumed: usize,
    },
    /// An empty line or an empty array: nothing to do, no reply, go on behind it.
    Empty {
        /// Bytes of the input that it took.
        consumed: usize,
    },
    /// The input ends within a request. Call again with the same bytes and more behind them.
    Incomplete {
        /// At least so many bytes are still to come. A hint of what to read, not of what to
        /// allocate: the client has only announced them.
        need: usize,
    },
    /// The request is not one. Send [`ProtocolError::reply`], then close.
    Error(ProtocolError),
    /// The first word is `POST` or `Host:`: a browser was made to talk to us. Log, and close
    /// without a reply.
    HttpAttack,
}

/// Why the bytes are no request. The texts are Redis's where Redis has the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The count of a multibulk is no number, or above [`Limits::args_max`].
    #[error("Protocol error: invalid multibulk length")]
    MultibulkLength,
    /// The length of a bulk string is no number, or above [`Limits::bulk_bytes_max`].
    #[error("Protocol error: invalid bulk length")]
    BulkLength,
    /// An argument that is not announced by `$`, but by this byte.
    #[error("Protocol error: expected '$', got '{}'", shown(*.0))]
    ExpectedBulk(u8),
    /// The line of the count does not end.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkLine,
    /// The line of a length does not end.
    #[error("Protocol error: too big bulk count string")]
    BulkLine,
    /// The inline request does not end.
    #[error("Protocol error: too big inline request")]
    InlineLine,
    /// The inline request has a quote that is not closed, or is closed within a word.
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
    /// The bytes of an argument are not followed by CR LF.
    #[error("Protocol error: expected CRLF after bulk string")]
    BulkEnd,
    /// The request as a whole is longer than [`Limits::request_bytes_max`].
    #[error("Protocol error: too big request")]
    RequestBytes,
    /// It is one, but there is no memory for the list of its arguments.
    #[error("there is no memory left for a request with so many arguments")]
    NoMemory,
}

impl ProtocolError {
    /// The error reply, ready for [`crate::ReplyWriter::error`].
    pub fn reply(&self) -> String {
        format!("ERR {self}")
    }
}

/// A byte in an error text. What is not plain ASCII shows as a space: CR and LF would break the
/// line, and the rest, which Redis passes on as it is, would break terminals and logs.
fn shown(byte: u8) -> char {
    if byte.is_ascii_graphic() {
        char::from(byte)
    } else {
        ' '
    }
}

/// Where in a request the parser stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// At its first byte.
    Start,
    /// In an inline line.
    Inline,
    /// In a multibulk, `left` arguments before its end, at the `$` of one (or before it came).
    Header { left: usize },
    /// In a multibulk, `left` arguments before its end, in one whose `len` bytes begin here.
    Body { left: usize, len: usize },
    /// Nothing more is read.
    Failed(Failure),
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Protocol(ProtocolError),
    Http,
}

/// What one step found, without the borrow of the arguments.
enum Step {
    Multibulk(usize),
    Inline(usize),
    Empty(usize),
    Incomplete(usize),
}

/// A header line: its number and where the next byte after it is.
enum Line {
    Number(i64, usize),
    Invalid,
    TooLong,
    Incomplete,
}

/// The parser of one connection's requests. It owns no input: the connection does.
#[derive(Debug)]
pub struct RequestParser {
    limits: Limits,
    state: State,
    /// Input before this offset is parsed.
    at: usize,
    /// Input from `at` to this offset holds no end of line.
    scanned: usize,
    spans: Vec<Span>,
    /// Inline arguments without their quotes.
    scratch: Vec<u8>,
}

impl RequestParser {
    /// A parser at the start of a connection. It allocates nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: limits.in_spans(),
            state: State::Start,
            at: 0,
            scanned: 0,
            spans: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Changes the limits: of what is not announced yet.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits.in_spans();
    }

    /// Heap bytes that the parser holds, for the account of the backend's memory.
    pub fn heap_bytes(&self) -> usize {
        let spans = self.spans.capacity().saturating_mul(size_of::<Span>());
        spans.saturating_add(self.scratch.capacity())
    }

    /// Gives back all memory, when a connection falls idle between requests.
    pub fn shrink(&mut self) {
        if matches!(self.state, State::Start) {
            self.spans = Vec::new();
            self.scratch = Vec::new();
        }
    }

    /// Parses the request at the front of `input`.
    ///
    /// `input` must begin where the request begins: after `Request` and `Empty`, at the byte
    /// behind the `consumed` ones; after `Incomplete`, at the same byte as before, with the
    /// same bytes and new ones behind them (in another place of memory if need be).
    pub fn parse<'a>(&'a mut self, input: &'a [u8]) -> Parsed<'a> {
        let (consumed, inline) = match self.step(input) {
            Ok(Step::Multibulk(consumed)) => (consumed, false),
            Ok(Step::Inline(consumed)) => (consumed, true),
            Ok(Step::Empty(consumed)) => {
                self.start_over();
                return Parsed::Empty { consumed };
            }
            Ok(Step::Incomplete(need)) => return Parsed::Incomplete { need },
            Err(Failure::Http) => return Parsed::HttpAttack,
            Err(Failure::Protocol(error)) => {
                self.state = State::Failed(Failure::Protocol(error));
                return Parsed::Error(error);
            }
        };
        self.start_over();
        let data = if inline {
            self.scratch.as_slice()
        } else {
            input
        };
        let args = Args::new(data, &self.spans);
        if is_http(args.name()) {
            self.state = State::Failed(Failure::Http);
            return Parsed::HttpAttack;
        }
        Parsed::Request { args, consumed }
    }

    fn start_over(&mut self) {
        self.state = State::Start;
        self.at = 0;
        self.scanned = 0;
    }

    fn step(&mut self, input: &[u8]) -> Result<Step, Failure> {
        match self.state {
            State::Header { .. } | State::Body { .. } => self.bulks(input),
            State::Inline => self.inline(input),
            State::Failed(failure) => Err(failure),
            State::Start => {
                self.spans.clear();
                if self.spans.capacity() > KEPT_ARGS_MAX {
                    self.spans.shrink_to(KEPT_ARGS_MAX);
                }
                match input.first() {
                    None => Ok(Step::Incomplete(1)),
                    Some(b'*') => self.multibulk(input),
                    Some(_) => {
                        self.state = State::Inline;
                        self.inline(input)
                    }
                }
            }
        }
    }

    /// At the `*` of a request.
    fn multibulk(&mut self, input: &[u8]) -> Result<Step, Failure> {
        let (count, next) = match self.line(input, 1) {
            Line::Number(count, next) => (count, next),
            Line::Invalid => return fail(ProtocolError::MultibulkLength),
            Line::TooLong => return fail(ProtocolError::MultibulkLine),
            Line::Incomplete => return Ok(Step::Incomplete(1)),
        };
        if count <= 0 {
            return Ok(Step::Empty(next));
        }
        let Ok(count) = usize::try_from(count) else {
            return fail(ProtocolError::MultibulkLength);
        };
        if count > self.limits.args_max {
            return fail(ProtocolError::MultibulkLength);
        }
        if count.saturating_mul(ARG_WIRE_BYTES_MIN) > self.limits.request_bytes_max {
            return fail(ProtocolError::RequestBytes);
        }
        self.at = next;
        self.state = State::Header { left: count };
        self.bulks(input)
    }

    /// Within a multibulk: takes as many arguments as the input holds.
    fn bulks(&mut self, input: &[u8]) -> Result<Step, Failure> {
        let (mut left, mut body) = match self.state {
            State::Header { left } => (left, None),
            State::Body { left, len } => (left, Some(len)),
            // Only called in these two.
            _ => return Ok(Step::Incomplete(1)),
        };
        loop {
            let len = match body.take() {
                Some(len) => len,
                None => match self.bulk_header(input)? {
                    Some(len) => len,
                    None => {
                        self.state = State::Header { left };
                        return Ok(Step::Incomplete(missing(left, 0)));
                    }
                },
            };
            // No overflow: `bulk_header` held the sum against the limit of a request.
            let data_end = self.at.saturating_add(len);
            let end = data_end.saturating_add(2);
            match input.get(data_end..end) {
                Some(b"\r\n") => {}
                Some(_) => return fail(ProtocolError::BulkEnd),
                None => {
                    self.state = State::Body { left, len };
                    let rest = end.saturating_sub(input.len());
                    return Ok(Step::Incomplete(missing(left.saturating_sub(1), rest)));
                }
            }
            let is_full = self.spans.len() == self.spans.capacity();
            if is_full && self.spans.try_reserve(1).is_err() {
                return fail(ProtocolError::NoMemory);
            }
            self.spans.push(Span::new(self.at, len));
            self.at = end;
            left = left.saturating_sub(1);
            if left == 0 {
                return Ok(Step::Multibulk(end));
            }
        }
    }

    /// At the `$` of an argument: its length, with `at` moved to its first byte.
    fn bulk_header(&mut self, input: &[u8]) -> Result<Option<usize>, Failure> {
        match input.get(self.at) {
            Some(b'$') => {}
            Some(&other) => return fail(ProtocolError::ExpectedBulk(other)),
            None => return Ok(None),
        }
        let (len, next) = match self.line(input, self.at.saturating_add(1)) {
            Line::Number(len, next) => (len, next),
            Line::Invalid => return fail(ProtocolError::BulkLength),
            Line::TooLong => return fail(ProtocolError::BulkLine),
            Line::Incomplete => return Ok(None),
        };
        let Ok(len) = usize::try_from(len) else {
            return fail(ProtocolError::BulkLength);
        };
        if len > self.limits.bulk_bytes_max {
            return fail(ProtocolError::BulkLength);
        }
        let end = next.saturating_add(len).saturating_add(2);
        if end > self.limits.request_bytes_max {
            return fail(ProtocolError::RequestBytes);
        }
        self.at = next;
        Ok(Some(len))
    }

    /// The number from `from` to the end of its line.
    #[inline]
    fn line(&mut self, input: &[u8], from: usize) -> Line {
        let rest = input.get(from..).unwrap_or(&[]);
        let mut value = 0i64;
        let mut digits = 0usize;
        for &byte in rest.iter().take(FAST_DIGITS_MAX) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
            digits = digits.wrapping_add(1);
        }
        // One digit may be 0, the first of more may not.
        let well_formed = digits == 1 || digits > 1 && rest.first() != Some(&b'0');
        match rest.get(digits..) {
            Some([b'\r', b'\n', ..]) if well_formed => {
                Line::Number(value, from.saturating_add(digits).saturating_add(2))
            }
            _ => self.odd_line(input, from),
        }
    }

    /// [`Self::line`] where the line is not plainly a number that has arrived whole.
    #[cold]
    fn odd_line(&mut self, input: &[u8], from: usize) -> Line {
        let search_from = self.scanned.max(from);
        let unseen = input.get(search_from..).unwrap_or(&[]);
        let Some(offset) = unseen.iter().position(|&byte| byte == b'\r') else {
            self.scanned = input.len();
            if input.len().saturating_sub(from) > self.limits.inline_bytes_max {
                return Line::TooLong;
            }
            return Line::Incomplete;
        };
        let cr = search_from.saturating_add(offset);
        self.scanned = cr;
        if cr.saturating_sub(from) > self.limits.inline_bytes_max {
            return Line::TooLong;
        }
        let lf = cr.saturating_add(1);
        match input.get(lf) {
            None => Line::Incomplete,
            Some(b'\n') => match input.get(from..cr).and_then(num::parse_i64) {
                Some(value) => Line::Number(value, lf.saturating_add(1)),
                None => Line::Invalid,
            },
            Some(_) => Line::Invalid,
        }
    }

    /// In an inline line.
    fn inline(&mut self, input: &[u8]) -> Result<Step, Failure> {
        let longest = self.limits.inline_bytes_max;
        let unseen = input.get(self.scanned..).unwrap_or(&[]);
        let Some(offset) = unseen.iter().position(|&byte| byte == b'\n') else {
            self.scanned = input.len();
            if input.len() > longest {
                return fail(ProtocolError::InlineLine);
            }
            return Ok(Step::Incomplete(1));
        };
        let lf = self.scanned.saturating_add(offset);
        if lf > longest {
            return fail(ProtocolError::InlineLine);
        }
        let line = input.get(..lf).unwrap_or(&[]);
        self.scratch.clear();
        if self.scratch.capacity() > KEPT_SCRATCH_BYTES_MAX {
            self.scratch.shrink_to(KEPT_SCRATCH_BYTES_MAX);
        }
        if !inline::split(line, &mut self.scratch, &mut self.spans) {
            return fail(ProtocolError::Quotes);
        }
        let consumed = lf.saturating_add(1);
        if self.spans.is_empty() {
            return Ok(Step::Empty(consumed));
        }
        Ok(Step::Inline(consumed))
    }
}

/// The bytes that must still come when `rest` of an argument and `more` further ones are out.
fn missing(more: usize, rest: usize) -> usize {
    more.saturating_mul(ARG_WIRE_BYTES_MIN)
        .saturating_add(rest)
        .max(1)
}

#[cold]
fn fail<T>(error: ProtocolError) -> Result<T, Failure> {
    Err(Failure::Protocol(error))
}

fn is_http(name: &[u8]) -> bool {
    match name.len() {
        4 => num::is_word(name, "post"),
        5 => num::is_word(name, "host:"),
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
