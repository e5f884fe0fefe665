//! A checker of histories of concurrent transactions on append-only lists (the idea is that of
//! Elle, by Kingsbury and Alvaro): every append has an id of its own, so a read of a list tells
//! which appends came before it, and in which order.
//!
//! * [`check`] finds what no isolation allows, and what snapshot isolation or serializability does
//!   not, in a recorded history;
//! * [`record`] makes one, over sockets.
//!
//! Dependencies between committed transactions:
//! * *ww*: one appended right behind what the other had appended;
//! * *wr*: one read a list whose last element the other had appended;
//! * *rw*: one read a list to which the other appended the next element;
//! * *session*: one came before the other on one connection.

pub mod check;
pub mod record;

/// Something that a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// It appended `id` to the list.
    Append {
        /// Which list.
        list: u64,
        /// The element, which nobody else appends anywhere.
        id: u64,
    },
    /// It saw the list, its own appends included.
    Read {
        /// Which list.
        list: u64,
        /// Its elements.
        seen: Vec<u64>,
    },
}

/// What its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// That it is committed.
    Committed,
    /// That nothing of it happened.
    Aborted,
    /// Nothing: the server went away.
    Unknown,
}

/// A transaction, as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Connections have numbers; those of one number follow each other.
    pub session: usize,
    /// In the order in which they were done.
    pub ops: Vec<Op>,
    /// What became of it.
    pub outcome: Outcome,
}
