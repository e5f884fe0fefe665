//! The lock of a data directory, which outlives the postmaster while one of its children lives.
//!
//! The lock is a `flock`: it belongs to the open file, which all children inherit, and it is gone
//! when the last of them has closed it by ending. A process number proves less: it may be used
//! again, or be a zombie's.
//!
//! Invariant: nobody unlocks by hand, because that would take the lock from all at once.

use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// A server, or a child of one that died, has it.
    #[error(
        "lock file \"{}\" is held: another server, or a child of one, is still running",
        .0.display()
    )]
    Held(PathBuf),
    /// The file could not be made or locked.
    #[error("could not lock file \"{}\": {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The lock is held while this, or a copy inherited by a child, is open.
#[derive(Debug)]
pub struct LockFile {
    _file: File,
}

impl LockFile {
    /// Takes the lock without waiting. The file is made if there is none, and stays.
    pub fn acquire(path: &Path) -> Result<LockFile, LockError> {
        let failed = |source| LockError::Io {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = options.open(path).map_err(failed)?;
        loop {
            // SAFETY: the descriptor is open while `file` lives; nothing else is passed but flags.
            let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
            match Errno::result(result) {
                Ok(_) => return Ok(LockFile { _file: file }),
                Err(Errno::EINTR) => {}
                Err(Errno::EWOULDBLOCK) => return Err(LockError::Held(path.to_owned())),
                Err(error) => return Err(failed(error.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_let_go_by_closing() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("redoubt.lock");
        let lock = LockFile::acquire(&path).expect("nobody has it");
        let error = LockFile::acquire(&path).expect_err("it is held");
        assert!(
            matches!(&error, LockError::Held(held) if *held == path),
            "{error}"
        );
        drop(lock);
        LockFile::acquire(&path).expect("nobody has it any more");
        let nowhere = LockFile::acquire(&dir.path().join("no/such")).expect_err("no directory");
        assert!(matches!(nowhere, LockError::Io { .. }));
    }
}
