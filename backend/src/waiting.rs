//! Commands that take more than one turn of the loop: the client's later commands wait behind
//! them, everybody else's go on.

use crate::commands::ranges::RangeStream;
use crate::commands::scan::KeysWalk;
use rd_base::Lsn;
use rd_store::checkpoint::Ticket;

/// A command under way.
pub enum Waiting {
    /// For a checkpoint to be done.
    Checkpoint {
        /// Which.
        ticket: Ticket,
        /// What is replied when it is.
        reply: &'static str,
    },
    /// For the log to be durable up to an LSN, for WAITAOF.
    Durable(Lsn),
    /// For room in the output, to go on with a range.
    Range(Box<RangeStream>),
    /// For its turn, or for room in the output, to go on with KEYS.
    Keys(Box<KeysWalk>),
}
