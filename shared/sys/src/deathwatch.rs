//! The death watch: a pipe whose write end only the postmaster keeps, so that its read end is
//! readable (at its end) from the moment the postmaster is gone, however it went.
//!
//! Invariant: the write end is never inherited beyond the first steps of a child.

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe2;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

/// The write end, while this process is the one that is watched.
static LIFELINE: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// The children's side.
#[derive(Clone)]
pub struct DeathWatch {
    read: Arc<OwnedFd>,
}

impl DeathWatch {
    /// Called once by the postmaster, before its first child: from now on its life is watched. A
    /// later call makes a new watch and ends the one before, as if the postmaster had gone.
    pub fn create() -> io::Result<DeathWatch> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        *LIFELINE.lock().unwrap_or_else(PoisonError::into_inner) = Some(write);
        Ok(DeathWatch {
            read: Arc::new(read),
        })
    }

    /// Readable when the postmaster is gone: for poll and epoll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// Whether the postmaster is gone.
    pub fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
    }
}

impl AsFd for DeathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// In a child: closes the inherited write end.
pub(crate) fn let_go() {
    LIFELINE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
}
