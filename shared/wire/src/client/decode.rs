//! Replies, decoded as their bytes come.
//!
//! The decoder keeps a stack of the arrays that are not yet full, so nothing is read twice and
//! no reply, however nested, takes stack of the process. A peer that announces more than the
//! limits is refused on the announcement, and room is taken as elements come.

use super::Reply;
use crate::num;

/// Elements for which room is taken before they have come.
const RESERVED_MAX: usize = 256;
/// Longest line of a header, status or error.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Decoded bytes that may stay at the front of the buffer before the rest is moved over them.
const WASTE_BYTES_MAX: usize = 64 * 1024;

/// What a server may answer at most.
#[derive(Clone, Copy, Debug)]
pub struct DecodeLimits {
    /// Longest string, in bytes.
    pub bulk_bytes_max: usize,
    /// Most elements of one array, or pairs of a map.
    pub elements_max: usize,
    /// Arrays within arrays.
    pub depth_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            bulk_bytes_max: 512 << 20,
            elements_max: 64 << 20,
            depth_max: 32,
        }
    }
}

/// Why bytes are no reply. The connection cannot be used further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A reply begins with a byte that announces nothing.
    #[error("a reply begins with {0:?}, which is no type of RESP")]
    Type(char),
    /// A number, truth value or length that is none.
    #[error("a reply of type {kind:?} has the malformed value {line:?}")]
    Value {
        /// The byte that announced it.
        kind: char,
        /// The line, cut to what is readable.
        line: String,
    },
    /// A string that is not followed by CR LF.
    #[error("a string of {0} bytes does not end where it should")]
    BulkEnd(usize),
    /// More than [`DecodeLimits`] allow.
    #[error("a reply of {what} {count} is above the limit of {limit}")]
    Limit {
        /// Of what it is too much.
        what: &'static str,
        /// How much it is.
        count: usize,
        /// How much may be.
        limit: usize,
    },
}

/// An array that is not yet full.
#[derive(Debug)]
struct Open {
    kind: u8,
    /// Replies still to come, keys and values counted each.
    left: usize,
    items: Vec<Reply>,
}

/// Turns bytes into replies.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    limits: DecodeLimits,
    buffer: Vec<u8>,
    /// Bytes of `buffer` before this are decoded.
    at: usize,
    /// Bytes from `at` to here hold no end of line.
    scanned: usize,
    /// Header taken of a string whose bytes have not all come: its type and length.
    bulk: Option<(u8, usize)>,
    open: Vec<Open>,
}

/// What a line turned out to be.
enum Element {
    Whole(Reply),
    /// An array was opened, or a string's header was taken.
    More,
    Incomplete,
}

impl ReplyDecoder {
    /// A decoder at the start of a connection.
    pub fn new(limits: DecodeLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Takes bytes that came from the server.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at == self.buffer.len() || self.at > WASTE_BYTES_MAX {
            self.buffer.drain(..self.at);
            self.scanned = self.scanned.saturating_sub(self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether bytes of a reply have come that is not whole.
    pub fn is_within_reply(&self) -> bool {
        self.at < self.buffer.len() || !self.open.is_empty() || self.bulk.is_some()
    }

    /// The next reply if it has come whole.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, DecodeError> {
        loop {
            let mut reply = match self.element()? {
                Element::Incomplete => return Ok(None),
                Element::More => continue,
                Element::Whole(reply) => Some(reply),
            };
            // What is whole goes into the array around it, which may thereby be whole itself.
            while let Some(item) = reply.take() {
                let Some(mut open) = self.open.pop() else {
                    return Ok(Some(item));
                };
                open.items.push(item);
                open.left = open.left.saturating_sub(1);
                if open.left == 0 {
                    reply = close(open);
                } else {
                    self.open.push(open);
                }
            }
        }
    }

    fn element(&mut self) -> Result<Element, DecodeError> {
        if let Some((kind, len)) = self.bulk {
            return self.bulk_body(kind, len);
        }
        let search_from = self.scanned.max(self.at);
        let unseen = self.buffer.get(search_from..).unwrap_or(&[]);
        let Some(offset) = unseen.iter().position(|&byte| byte == b'\n') else {
            self.scanned = self.buffer.len();
            return limit(
                "line bytes",
                self.buffer.len().saturating_sub(self.at),
                LINE_BYTES_MAX,
            )
            .map(|()| Element::Incomplete);
        };
        let lf = search_from.saturating_add(offset);
        let line = self.buffer.get(self.at..lf).unwrap_or(&[]);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some((&kind, text)) = line.split_first() else {
            return Err(DecodeError::Type('\n'));
        };
        let malformed = || DecodeError::Value {
            kind: char::from(kind),
            line: String::from_utf8_lossy(text).chars().take(64).collect(),
        };
        let string = || String::from_utf8_lossy(text).into_owned();
        let whole = match kind {
            b'+' => Some(Reply::Simple(string())),
            b'-' => Some(Reply::Error(string())),
            b':' => Some(Reply::Int(num::parse_i64(text).ok_or_else(malformed)?)),
            b'(' => Some(Reply::BigNumber(string())),
            b'_' => Some(Reply::Null),
            b'#' => Some(Reply::Bool(match text {
                b"t" => true,
                b"f" => false,
                _ => return Err(malformed()),
            })),
            b',' => Some(Reply::Double(string().parse().map_err(|_| malformed())?)),
            b'$' | b'=' | b'!' | b'*' | b'%' | b'~' | b'>' | b'|' if text == b"-1" => {
                Some(Reply::Null)
            }
            b'$' | b'=' | b'!' | b'*' | b'%' | b'~' | b'>' | b'|' => {
                let count = num::parse_u64(text).and_then(|count| usize::try_from(count).ok());
                let count = count.ok_or_else(malformed)?;
                self.at = lf.saturating_add(1);
                return self.announced(kind, count);
            }
            other => return Err(DecodeError::Type(char::from(other))),
        };
        self.at = lf.saturating_add(1);
        Ok(whole.map_or(Element::More, Element::Whole))
    }

    /// Behind the header of something that has a length.
    fn announced(&mut self, kind: u8, count: usize) -> Result<Element, DecodeError> {
        if matches!(kind, b'$' | b'=' | b'!') {
            limit("string bytes", count, self.limits.bulk_bytes_max)?;
            self.bulk = Some((kind, count));
            return Ok(Element::More);
        }
        limit("elements", count, self.limits.elements_max)?;
        limit(
            "depth",
            self.open.len().saturating_add(1),
            self.limits.depth_max,
        )?;
        let left = match kind {
            b'%' => count.saturating_mul(2),
            // An attribute is its pairs and then the reply that it describes.
            b'|' => count.saturating_mul(2).saturating_add(1),
            _ => count,
        };
        let open = Open {
            kind,
            left,
            items: Vec::with_capacity(left.min(RESERVED_MAX)),
        };
        if left == 0 {
            return Ok(close(open).map_or(Element::More, Element::Whole));
        }
        self.open.push(open);
        Ok(Element::More)
    }

    fn bulk_body(&mut self, kind: u8, len: usize) -> Result<Element, DecodeError> {
        let data_end = self.at.saturating_add(len);
        let end = data_end.saturating_add(2);
        match self.buffer.get(data_end..end) {
            None => return Ok(Element::Incomplete),
            Some(b"\r\n") => {}
            Some(_) => return Err(DecodeError::BulkEnd(len)),
        }
        let bytes = self.buffer.get(self.at..data_end).unwrap_or(&[]);
        let reply = match (kind, bytes) {
            (b'=', [a, b, c, b':', text @ ..]) => Reply::Verbatim {
                format: String::from_utf8_lossy(&[*a, *b, *c]).into_owned(),
                text: text.to_vec(),
            },
            (b'!', _) => Reply::Error(String::from_utf8_lossy(bytes).into_owned()),
            _ => Reply::Bulk(bytes.to_vec()),
        };
        self.at = end;
        self.bulk = None;
        Ok(Element::Whole(reply))
    }
}

fn limit(what: &'static str, count: usize, limit: usize) -> Result<(), DecodeError> {
    if count > limit {
        return Err(DecodeError::Limit { what, count, limit });
    }
    Ok(())
}

/// A full array as a reply; of an attribute, only what it describes.
fn close(open: Open) -> Option<Reply> {
    let mut items = open.items;
    Some(match open.kind {
        b'%' => {
            let mut pairs = Vec::with_capacity(items.len() / 2);
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                pairs.push((key, value));
            }
            Reply::Map(pairs)
        }
        b'~' => Reply::Set(items),
        b'>' => Reply::Push(items),
        b'|' => return items.pop(),
        _ => Reply::Array(items),
    })
}
