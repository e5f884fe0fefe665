//! The transaction that a connection is in, and the keys that it watches.

use rd_base::Config;
use rd_engine::{NamespaceId, Snapshot, Transaction, Watched};
use rd_wire::{CommandId, RequestBuf};
use std::collections::BTreeMap;

/// A command that waits for EXEC.
pub struct Queued {
    /// Which.
    pub id: CommandId,
    /// Its name and arguments.
    pub request: RequestBuf,
}

/// Commands between MULTI and EXEC.
#[derive(Default)]
pub struct Queue {
    /// In the order in which they came.
    pub commands: Vec<Queued>,
    /// Heap bytes of `commands`.
    pub bytes: usize,
    /// A command could not be queued: EXEC will refuse.
    pub is_spoiled: bool,
}

/// An open transaction, from BEGIN on.
pub struct Open {
    /// What it has done.
    pub transaction: Box<Transaction>,
    /// Monotonic clock of BEGIN, in nanoseconds.
    pub began_ns: u64,
}

/// In which transaction a connection is.
#[derive(Default)]
pub enum State {
    /// In none.
    #[default]
    None,
    /// After MULTI.
    Queueing(Queue),
    /// After BEGIN.
    Open(Open),
    /// After BEGIN, but it was refused, or ended; by this error. COMMIT or ROLLBACK acknowledges it.
    Ended(String),
}

/// The keys that a connection watches.
#[derive(Default)]
pub struct Watches {
    /// Keys by namespace, with what they were.
    pub keys: BTreeMap<(NamespaceId, Box<[u8]>), Watched>,
    /// Heap bytes of `keys`.
    pub bytes: usize,
    /// Keeps tombstones of later changes; none while nothing is watched.
    pub snapshot: Option<Snapshot>,
    /// Monotonic clock of the first WATCH, in nanoseconds.
    pub began_ns: u64,
    /// It was refused, or not kept up: EXEC will not do anything.
    pub is_lost: bool,
}

impl Watches {
    /// Whether keys have changed will not be known.
    pub fn lose(&mut self) {
        *self = Watches {
            is_lost: true,
            ..Watches::default()
        };
    }
}

/// A connection's transaction and watched keys.
#[derive(Default)]
pub struct Transactions {
    /// The transaction.
    pub state: State,
    /// Watched keys.
    pub watches: Watches,
}

impl Transactions {
    /// Whether commands are carried out as always.
    #[inline]
    pub fn is_none(&self) -> bool {
        matches!(self.state, State::None)
    }

    /// How many commands are queued since MULTI; none outside of it.
    pub fn queued(&self) -> Option<usize> {
        match &self.state {
            State::Queueing(queue) => Some(queue.commands.len()),
            State::None | State::Open(_) | State::Ended(_) => None,
        }
    }

    /// When the open transaction began, by the monotonic clock.
    pub fn began_ns(&self) -> Option<u64> {
        match &self.state {
            State::Open(open) => Some(open.began_ns),
            State::None | State::Queueing(_) | State::Ended(_) => None,
        }
    }

    /// Ends everything; nothing was changed.
    pub fn clear(&mut self) {
        *self = Transactions::default();
    }

    /// A command could not be queued.
    pub fn spoil(&mut self) {
        if let State::Queueing(queue) = &mut self.state {
            queue.is_spoiled = true;
        }
    }

    /// Heap bytes held.
    pub fn heap_bytes(&self) -> usize {
        let state = match &self.state {
            State::None | State::Ended(_) => 0,
            State::Queueing(queue) => queue.bytes,
            State::Open(open) => open.transaction.heap_bytes(),
        };
        state + self.watches.bytes
    }

    /// Ends what its client has forgotten. `idle_ns`: since its last command. Limits of 0 are none.
    /// Returns whether a transaction was ended.
    pub fn end_forgotten(&mut self, now_ns: u64, idle_ns: u64, limits: &AgeLimits) -> bool {
        if let State::Open(open) = &self.state {
            let age_ns = now_ns.saturating_sub(open.began_ns);
            let why = if limits.idle_ns != 0 && idle_ns > limits.idle_ns {
                "its client was idle for longer than idle_in_transaction_timeout"
            } else if limits.is_too_old(age_ns) {
                "it was open for longer than max_snapshot_age"
            } else {
                return false;
            };
            self.state = State::Ended(format!(
                "TIMEOUT the transaction was rolled back: {why}; nothing was changed"
            ));
            return true;
        }
        self.lose_old_watch(now_ns, limits);
        false
    }

    /// Gives up watched keys whose snapshot is too old.
    pub fn lose_old_watch(&mut self, now_ns: u64, limits: &AgeLimits) {
        let age_ns = now_ns.saturating_sub(self.watches.began_ns);
        if self.watches.snapshot.is_some() && limits.is_too_old(age_ns) {
            self.watches.lose();
        }
    }
}

/// For how long a transaction may be open.
pub struct AgeLimits {
    /// Without a command.
    pub idle_ns: u64,
    /// In all.
    pub snapshot_ns: u64,
}

impl AgeLimits {
    /// Whether a snapshot that has been held for so long is to be given up.
    pub fn is_too_old(&self, age_ns: u64) -> bool {
        self.snapshot_ns != 0 && age_ns > self.snapshot_ns
    }

    /// Those in force.
    pub fn of(config: &Config) -> AgeLimits {
        AgeLimits {
            idle_ns: config.idle_in_transaction_timeout().as_nanos() as u64,
            snapshot_ns: config.max_snapshot_age().as_nanos() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_is_too_old_is_lost_only_if_there_is_one() {
        let mut transactions = Transactions::default();
        let limits = AgeLimits {
            idle_ns: 1,
            snapshot_ns: 1,
        };
        assert!(!transactions.end_forgotten(100, 100, &limits));
        assert!(!transactions.watches.is_lost);
        assert!(transactions.is_none());
    }
}
