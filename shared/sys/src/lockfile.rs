//! The lock of a data directory, which outlives the postmaster while one of its children lives.
//!
//! The lock is a `flock`: it belongs to the open file, which all children inherit, and it is gone
//! when the last of them has closed it by ending. A process number proves less: it may be used
//! again, or be a zombie's.
//!
//! Invariants: nobody unlocks by hand, because that would take the lock from all at once; a lock
//! counts only on the file that is at the path when it is taken.

use crate::process::Pid;
use nix::errno::Errno;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
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
    #[error("could not lock file \"{}\": {error}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// How often a file that is taken away while it is locked is made anew.
const TRIES_MAX: usize = 1000;

/// The lock is held while this, or a copy inherited by a child, is open.
#[derive(Debug)]
pub struct LockFile {
    file: File,
    path: PathBuf,
}

impl LockFile {
    /// Takes the lock without waiting. The file is made if there is none, and stays; it belongs to
    /// whoever owns the directory, who could not open it otherwise if a tool of root's has made it.
    pub fn acquire(path: &Path) -> Result<LockFile, LockError> {
        let failed = |error| LockError::Io {
            path: path.to_owned(),
            error,
        };
        for _ in 0..TRIES_MAX {
            let Some(file) = open(path).map_err(failed)? else {
                continue;
            };
            if !lock(&file, libc::LOCK_EX).map_err(failed)? {
                return Err(LockError::Held(path.to_owned()));
            }
            // Its last holder may have taken it away in between; then another has the next one.
            if is_at(&file, path).map_err(failed)? {
                let path = path.to_owned();
                return Ok(LockFile { file, path });
            }
        }
        Err(failed(io::Error::other(
            "it is a symbolic link to a file that is not there, or comes and goes: remove it",
        )))
    }

    /// Whether the file is still at its path: if not, another may hold a lock there.
    pub fn is_in_place(&self) -> bool {
        is_at(&self.file, &self.path).unwrap_or(false)
    }

    /// Takes the file away, and then lets go of the lock: where others share the directory, they
    /// could not lock a file of this user's.
    pub fn remove(self) -> io::Result<()> {
        if is_at(&self.file, &self.path)? {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

/// A lock on a directory that is always there, beside that of a file: who removes the file, thinking it
/// stale, does not remove this.
#[derive(Debug)]
pub enum DirectoryLock {
    /// Held as a [`LockFile`] is.
    Taken(File),
    /// Somebody else has it.
    Held,
    /// The file system cannot do it, as some over a network cannot.
    Impossible,
}

impl DirectoryLock {
    /// Takes the lock without waiting.
    pub fn acquire(path: &Path) -> DirectoryLock {
        let Ok(directory) = File::open(path) else {
            return DirectoryLock::Impossible;
        };
        match lock(&directory, libc::LOCK_EX) {
            Ok(true) => DirectoryLock::Taken(directory),
            Ok(false) => DirectoryLock::Held,
            Err(_) => DirectoryLock::Impossible,
        }
    }
}

/// Whether somebody holds the lock. It is taken for a moment, so this is not for a file that others
/// lock without trying twice.
pub fn is_held(path: &Path) -> io::Result<bool> {
    match File::open(path) {
        Ok(file) => lock(&file, libc::LOCK_SH).map(|locked| !locked),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a process has the file open, by whatever path; or had it open by this one when it was
/// removed. It says nothing of the lock, which only this process's own children can share.
///
/// # Errors
/// When one may not look into the process, or it is gone.
pub fn is_open_in(pid: Pid, path: &Path) -> io::Result<bool> {
    let wanted = fs::metadata(path).ok();
    let name = path.as_os_str().as_bytes();
    let is_wanted = |entry: &fs::DirEntry| {
        let Ok(link) = fs::read_link(entry.path()) else {
            return false;
        };
        let link = link.as_os_str().as_bytes();
        if link.strip_suffix(b" (deleted)") == Some(name) {
            return true;
        }
        // What has another name is not looked at: it may lie where one look takes for ever.
        let has_name = Path::new(OsStr::from_bytes(link)).file_name() == path.file_name();
        let wanted = wanted.as_ref().filter(|_| has_name);
        wanted.is_some_and(|wanted| {
            fs::metadata(entry.path()).is_ok_and(|found| is_same(&found, wanted))
        })
    };
    let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(descriptors.any(|entry| is_wanted(&entry)))
}

/// Locks an open file without waiting; false if somebody has a lock that this one does not go with.
fn lock(file: &File, operation: libc::c_int) -> io::Result<bool> {
    loop {
        // SAFETY: the descriptor is open while `file` lives; nothing else is passed but flags.
        let result = unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) };
        match Errno::result(result) {
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(Errno::EWOULDBLOCK) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether the open file is the one at the path.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(found) => Ok(is_same(&found, &file.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Opens the lock file, or makes it; none if it came in between, or only seemed to be missing.
fn open(path: &Path) -> io::Result<Option<File>> {
    // For writing, because a lock on a network file system needs that.
    match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // A snapshot, to be looked at by a tool.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            return File::open(path).map(Some);
        }
        opened => return opened.map(Some),
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
        Ok(file) => {
            give_to_owner_of_directory(&file, path)?;
            Ok(Some(file))
        }
    }
}

fn give_to_owner_of_directory(file: &File, path: &Path) -> io::Result<()> {
    let Some(directory) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    else {
        return Ok(());
    };
    let (directory, own) = (fs::metadata(directory)?, file.metadata()?);
    // Only root can; where a directory is shared, such as /tmp, each keeps his own.
    if directory.uid() != own.uid() && nix::unistd::geteuid().is_root() {
        fchown(file, Some(directory.uid()), Some(directory.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;
    use std::thread;

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

    #[test]
    fn a_directory_is_locked_once_whatever_becomes_of_files_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = LockFile::acquire(&dir.path().join("redoubt.lock")).expect("nobody has it");
        assert!(file.is_in_place());
        let taken = DirectoryLock::acquire(dir.path());
        assert!(matches!(taken, DirectoryLock::Taken(_)));
        fs::remove_file(dir.path().join("redoubt.lock")).expect("removed");
        assert!(!file.is_in_place());
        let _other = LockFile::acquire(&dir.path().join("redoubt.lock")).expect("a new one");
        assert!(!file.is_in_place());
        let second = DirectoryLock::acquire(dir.path());
        assert!(matches!(second, DirectoryLock::Held));
        drop(taken);
        let third = DirectoryLock::acquire(dir.path());
        assert!(matches!(third, DirectoryLock::Taken(_)));
    }

    #[test]
    fn a_lock_file_made_by_root_belongs_to_the_owner_of_the_directory() {
        const SOMEBODY: u32 = 65_534;
        let dir = tempfile::tempdir().expect("a directory");
        if std::os::unix::fs::chown(dir.path(), Some(SOMEBODY), Some(SOMEBODY)).is_err() {
            eprintln!("skipped: only root gives directories away");
            return;
        }
        let path = dir.path().join("redoubt.lock");
        let _lock = LockFile::acquire(&path).expect("nobody has it");
        let made = fs::metadata(&path).expect("it was made");
        assert_eq!((made.uid(), made.gid()), (SOMEBODY, SOMEBODY));
        assert_eq!(made.mode() & 0o777, 0o600);
    }

    /// Each in its turn holds a file that is at the path, though each takes it away.
    #[test]
    fn a_lock_file_that_was_taken_away_is_nobodys_lock() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("redoubt.lock");
        let holders = AtomicU32::new(0);
        let turns = || {
            for _ in 0..1000 {
                let Ok(lock) = LockFile::acquire(&path) else {
                    continue;
                };
                assert_eq!(holders.fetch_add(1, Relaxed), 0, "it is the only one");
                thread::yield_now();
                holders.fetch_sub(1, Relaxed);
                lock.remove().expect("removed");
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(turns);
            }
        });
        assert!(!path.exists());
    }

    #[test]
    fn whether_a_lock_is_held_is_asked_without_taking_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("redoubt.lock");
        assert!(!is_held(&path).expect("no file"));
        let lock = LockFile::acquire(&path).expect("nobody has it");
        assert!(is_held(&path).expect("readable"));
        assert!(is_open_in(Pid::own(), &path).expect("readable"));
        drop(lock);
        assert!(!is_held(&path).expect("readable"));
        assert!(!is_open_in(Pid::own(), &path).expect("readable"));
        LockFile::acquire(&path).expect("asking has left nothing");
    }

    #[test]
    fn a_link_to_nothing_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("redoubt.lock");
        std::os::unix::fs::symlink("nowhere", &path).expect("made");
        // It leads nowhere for whoever opens it, and is there for whoever makes it.
        let error = LockFile::acquire(&path).expect_err("no file").to_string();
        for part in [&*path.to_string_lossy(), "symbolic link"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
