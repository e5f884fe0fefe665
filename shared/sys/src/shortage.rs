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
    /// There are as many threads as there may be (EAGAIN, from making one).
    #[error(
        "no further thread can be made, which is no damage: raise the limit of processes (ulimit \
         -u, or pids.max of its control group)"
    )]
    Threads,
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

    /// What is short when `error` says that a thread could not be made: there alone EAGAIN means that
    /// there are too many.
    pub fn among_threads(error: &io::Error) -> Option<Shortage> {
        match storage::errno(error).map(Errno::from_raw) {
            Some(Errno::EAGAIN) => Some(Shortage::Threads),
            _ => Shortage::of(error),
        }
    }

    /// The same in words.
    pub fn of_thread(error: &io::Error) -> String {
        Shortage::among_threads(error)
            .map_or_else(|| error.to_string(), |short| format!("{error}: {short}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_be_made_is_no_damage() {
        for (errno, words) in [
            (Errno::EAGAIN, "ulimit -u"),
            (Errno::ENOMEM, "no memory left"),
        ] {
            let error = io::Error::from_raw_os_error(errno as i32);
            let text = Shortage::of_thread(&error);
            assert!(text.contains(words) && text.contains("no damage"), "{text}");
        }
        let other = Shortage::of_thread(&io::Error::from_raw_os_error(libc::EPERM));
        assert!(!other.contains("no damage"), "{other}");
        // Of anything else EAGAIN says that it is to be tried again.
        let later = io::Error::from_raw_os_error(libc::EAGAIN);
        assert_eq!(Shortage::of(&later), None);
    }
}
