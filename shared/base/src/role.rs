//! The processes of a server: one list for titles, log lines, `ps` and slots in shared memory.

use crate::limits::BACKENDS_MAX;
use std::fmt;

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Births, deaths, signals, admission.
    Postmaster,
    /// Replays the log, once per start or crash.
    Startup,
    /// Writes pages and `pg_control`.
    Checkpointer,
    /// Writes and syncs the log.
    Walwriter,
    /// Serves connections; numbered from 0.
    Backend(u16),
}

impl Role {
    /// The role's slot in shared memory; the postmaster, which trusts nothing there, has none.
    pub fn slot(self) -> Option<usize> {
        match self {
            Role::Postmaster => None,
            Role::Startup => Some(0),
            Role::Checkpointer => Some(1),
            Role::Walwriter => Some(2),
            Role::Backend(number) => {
                assert!(usize::from(number) < BACKENDS_MAX);
                Some(3 + usize::from(number))
            }
        }
    }

    /// The role that has the slot `slot`.
    pub fn of_slot(slot: usize) -> Role {
        match slot {
            0 => Role::Startup,
            1 => Role::Checkpointer,
            2 => Role::Walwriter,
            _ => Role::Backend((slot - 3) as u16),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Postmaster => f.write_str("postmaster"),
            Role::Startup => f.write_str("startup"),
            Role::Checkpointer => f.write_str("checkpointer"),
            Role::Walwriter => f.write_str("walwriter"),
            Role::Backend(number) => write!(f, "backend {number}"),
        }
    }
}
