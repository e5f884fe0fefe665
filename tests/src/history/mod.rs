//! A checker of histories of concurrent transactions on append-only lists (the idea is that of
//! Elle, by Kingsbury and Alvaro): every append has an id of its own, so a read of a list tells
//! which appends came before it, and in which order.
//!
//! * [`check`] finds what no isolation allows, and what snapshot isolation or serializability does
//!   not, in a recorded history;
//! * [`record`] makes one, over sockets.
//!
//! Dependencies between transactions that have happened, or have read at one moment at least:
//! * *ww*: one appended right behind what the other had appended;
//! * *wr*: one read a list whose last element the other had appended;
//! * *rw*: one read a list to which the other appended the next element;
//! * *time*: one was over, as its client was told, before the other began, on whichever connections.

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
    /// The number of its connection.
    pub session: usize,
    /// A moment before its first request was sent. Moments are numbers that grow.
    pub began: u64,
    /// A moment after its last reply had come; [`NEVER`] if none came.
    pub ended: u64,
    /// In the order in which they were done.
    pub ops: Vec<Op>,
    /// All that it read is of one moment, whatever became of it: that is what BEGIN promises. What WATCH
    /// guards is so only if EXEC went through.
    pub is_of_one_moment: bool,
    /// What became of it.
    pub outcome: Outcome,
}

/// When a transaction ends of which nobody was told.
pub const NEVER: u64 = u64::MAX;
