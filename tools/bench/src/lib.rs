//! `rd_bench`: the same load on Redoubt, Redis and PostgreSQL, and what it did to them.
//!
//! - [`plan`]: the command line.
//! - [`operation`], [`keys`]: what the load consists of, the same for every server.
//! - [`dialect`], [`address`]: how it is said to each.
//! - [`worker`]: the event loop that drives the connections.
//! - [`record`], [`results`]: what is measured, and the figures made of it.
//! - [`output`]: the figures for people, as CSV, as JSON, as a picture.
//! - [`run`]: all of it in order.
//!
//! Invariants:
//! - The client must not be what is measured: one thread drives all connections of a small
//!   machine, replies are walked over in place, and no program's runtime stands in between.
//! - A time begins when its operation was due ([`record`]).
//! - No byte from a server makes the program panic.

pub mod address;
pub mod dialect;
pub mod keys;
pub mod operation;
pub mod output;
pub mod plan;
pub mod record;
pub mod results;
pub mod run;
pub mod worker;
