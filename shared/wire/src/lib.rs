//! The wire: RESP2 and RESP3, and the table of commands. Bytes in, bytes out; no socket on the
//! server's side, no clock, no shared memory.
//!
//! - [`request`]: what a client sends, parsed in place in the connection's input buffer.
//! - [`reply`]: what the server answers, appended to the connection's output buffer.
//! - [`command`]: every command, declared once; lookup, arity, and the replies of `COMMAND`.
//! - [`client`]: the other side, for tools and tests: encoder, reply decoder, blocking client.
//! - [`rdb`]: the form in which servers exchange strings.
//! - [`num`], [`longdouble`], [`texts`]: numbers and error texts, to Redis's letter.
//!
//! Invariant: no byte that a peer can send makes this crate panic, take memory that the peer
//! has not paid for with bytes of its own, or do work that is not linear in them.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod client;
pub mod command;
pub mod longdouble;
pub mod num;
pub mod rdb;
pub mod reply;
pub mod request;
pub mod texts;

pub use client::{Client, Reply, ReplyDecoder};
pub use command::{Command, CommandId, Flags, ResolveError, Resolved, resolve};
pub use reply::{Proto, ReplyWriter};
pub use request::{Ahead, Args, Limits, Parsed, ProtocolError, RequestBuf, RequestParser};
