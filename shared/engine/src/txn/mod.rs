//! Transactions: what a read sees ([`visible`]), what a program may do ([`access`]), and how what
//! it did becomes one record ([`write`], [`commit`]).

pub(crate) mod access;
pub(crate) mod commit;
pub(crate) mod visible;
pub(crate) mod write;
