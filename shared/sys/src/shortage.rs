//! What a process or the system can be short of for a while, told from what is broken.
//!
//! Whoever cannot open a file because there is no descriptor for it knows nothing of that file. So
//! such an error is no sign of damage, and what failed by it may be tried again.

use crate::storage;
use nix::errno::Errno;
use std::io;

/// What there is too little of. The text says so, and what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The process has as many descriptors as it may have (EMFILE).
    #[error(
        "the process has no file descriptor left, which is no damage: raise the limit of open \
         files (ulimit -n), or lower max_connections"
    )]
    ProcessDescriptors,
    /// The system has as many open files as it may have (ENFILE).
    #[error(
        "the system has no file descriptor left, which is no damage: raise its limit of open \
         files (sysctl fs.file-max), or close some elsewhere"
    )]
    SystemDescriptors,
    /// The kernel has no memory to give (ENOMEM).
    #[error(
        "the system has no memory left, which is no damage: raise the limit of memory (ulimit -v, \
         or that of its control group), or lower shared_buffers"
    )]
    Memory,
}

impl Shortage {
    /// What `error` says is short; `None` if it says something else.
    pub fn of(error: &io::Error) -> Option<Shortage> {
        match storage::errno(error).map(Errno::from_raw)? {
            Errno::EMFILE => Some(Shortage::ProcessDescriptors),
            Errno::ENFILE => Some(Shortage::SystemDescriptors),
            Errno::ENOMEM => Some(Shortage::Memory),
            _ => None,
        }
    }
}
