//! Transactions: what a read sees ([`visible`]), what a program may do ([`access`]), and how what
//! it did becomes one record ([`write`], [`commit`]).
//!
//! Those of several commands: what they hold while they are open ([`transaction`], [`reads`]), how
//! commands work within them ([`routed`], [`routed_range`], [`clear`]), and what their commit
//! latches and checks ([`validate`]).
//! [`watch`] tells whether a key has changed, [`across`] makes one commit out of a few operations.

pub(crate) mod access;
pub(crate) mod across;
mod clear;
pub(crate) mod commit;
mod reads;
pub(crate) mod routed;
pub(crate) mod routed_range;
pub(crate) mod transaction;
mod validate;
pub(crate) mod visible;
pub(crate) mod watch;
pub(crate) mod write;
