//! The other side of the wire: for tools, tests and programs that torture the server.
//!
//! [`Client`] blocks, pipelines if asked, and knows time limits. [`ReplyDecoder`] is its codec,
//! usable without a socket. [`encode`] writes a request.

mod connection;
mod decode;

pub use connection::{Client, Error, Receiver, Sender};
pub use decode::{DecodeError, DecodeLimits, ReplyDecoder};

use crate::num::Decimal;

/// Appends a request to `out`, as an array of bulk strings.
pub fn encode<T: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[T]) {
    header(out, b'*', args.len());
    for arg in args {
        let arg = arg.as_ref();
        header(out, b'$', arg.len());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.push(kind);
    out.extend_from_slice(Decimal::of_u64(len as u64).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A status, such as `OK`.
    Simple(String),
    /// An error: its code word and text.
    Error(String),
    /// An integer.
    Int(i64),
    /// A string of any bytes.
    Bulk(Vec<u8>),
    /// Nothing, of either protocol.
    Null,
    /// Replies in order.
    Array(Vec<Reply>),
    /// Pairs of key and value. In RESP2 a map comes as an [`Reply::Array`].
    Map(Vec<(Reply, Reply)>),
    /// Replies without order. In RESP2 a set comes as an [`Reply::Array`].
    Set(Vec<Reply>),
    /// A floating point number.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// Text for people.
    Verbatim {
        /// Three letters, such as `txt`.
        format: String,
        /// The text.
        text: Vec<u8>,
    },
    /// A message that answers no request.
    Push(Vec<Reply>),
    /// The digits of an integer of any length.
    BigNumber(String),
}

impl Reply {
    /// Whether it is the status `OK`.
    pub fn is_ok(&self) -> bool {
        matches!(self, Reply::Simple(text) if text == "OK")
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Reply::Null)
    }

    /// The text of an error reply.
    pub fn error(&self) -> Option<&str> {
        match self {
            Reply::Error(text) => Some(text),
            _ => None,
        }
    }

    /// The value of an integer, or of a string that is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Reply::Int(value) => Some(*value),
            other => crate::num::parse_i64(other.as_bytes()?),
        }
    }

    /// The bytes of a string of any kind, a status included.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Reply::Bulk(bytes) => Some(bytes),
            Reply::Verbatim { text, .. } => Some(text),
            Reply::Simple(text) | Reply::BigNumber(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// [`Self::as_bytes`] if they are UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes()?).ok()
    }

    /// The elements of an array, set or push.
    pub fn as_slice(&self) -> Option<&[Reply]> {
        match self {
            Reply::Array(items) | Reply::Set(items) | Reply::Push(items) => Some(items),
            _ => None,
        }
    }

    /// The bytes of a string of any kind, taken; `None` for null. Anything else is an error.
    pub fn into_bytes(self) -> Result<Option<Vec<u8>>, Error> {
        match self {
            Reply::Bulk(bytes) | Reply::Verbatim { text: bytes, .. } => Ok(Some(bytes)),
            Reply::Simple(text) | Reply::BigNumber(text) => Ok(Some(text.into_bytes())),
            Reply::Null => Ok(None),
            Reply::Error(text) => Err(Error::Server(text)),
            other => Err(Error::Unexpected(Box::new(other))),
        }
    }

    /// The same, or the error reply as an [`Error::Server`].
    pub fn into_result(self) -> Result<Reply, Error> {
        match self {
            Reply::Error(text) => Err(Error::Server(text)),
            other => Ok(other),
        }
    }
}
