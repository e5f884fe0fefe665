//! `postmaster.pid`: who serves this data directory, where it listens, and how far it is.
//!
//! Eight lines, as PostgreSQL writes them, for people, scripts and the tools (`rd_ctl`,
//! `rd_isready`), which need no connection to read them:
//!
//! | line | content |
//! | --- | --- |
//! | 1 | process id of the postmaster |
//! | 2 | data directory, absolute |
//! | 3 | start time, seconds since 1970 |
//! | 4 | TCP port, 0 if none |
//! | 5 | directory of the unix socket, empty if none |
//! | 6 | first listen address, empty if none |
//! | 7 | name of the shared memory segment |
//! | 8 | status: `starting`, `recovering`, `ready`, `stopping`, padded with blanks |
//!
//! While recovering, line 8 goes on: `recovering redo 42% eta 3s`.
//!
//! Between two servers the file is called `postmaster.pid.last`: it keeps its block, so that a start
//! works on a disk that has filled up since.
//!
//! Invariants: the file is written only by the holder of the data directory's lock, so a file
//! that exists before is stale; it is changed in place by one write, and never changes its length
//! while its server lives; only the process that wrote its first line takes it away.

use crate::in_place;
use anyhow::{Context, Result};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Name of the file in the data directory.
pub const PID_FILE: &str = "postmaster.pid";
/// Its name while there is no server.
const KEPT_FILE: &str = "postmaster.pid.last";
/// Characters of the status line, blanks included.
const STATUS_CHARS: usize = 64;

/// Lines 1 to 7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The postmaster.
    pub pid: u32,
    /// Absolute.
    pub data_dir: PathBuf,
    /// Seconds since 1970.
    pub started_s: u64,
    /// 0 if there is no TCP.
    pub port: u16,
    /// Empty if there is no unix socket.
    pub socket_dir: String,
    /// Empty if there is no TCP.
    pub listen_address: String,
    /// The same at every start of this data directory.
    pub shm_name: String,
}

/// Line 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Before redo.
    Starting,
    /// In recovery.
    Recovering(Progress),
    /// Serving.
    Ready,
    /// Will not serve again.
    Stopping,
}

/// How far recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// One word.
    pub phase: &'static str,
    /// 0 to 100, once known.
    pub percent: Option<u8>,
    /// Seconds left, once known.
    pub eta_s: Option<u64>,
}

impl Status {
    /// The line without its padding.
    pub fn text(self) -> String {
        match self {
            Status::Starting => "starting".to_owned(),
            Status::Ready => "ready".to_owned(),
            Status::Stopping => "stopping".to_owned(),
            Status::Recovering(progress) => {
                let mut text = format!("recovering {}", progress.phase);
                if let Some(percent) = progress.percent {
                    write!(text, " {percent}%").expect("a string takes all");
                }
                if let Some(eta_s) = progress.eta_s {
                    write!(text, " eta {eta_s}s").expect("a string takes all");
                }
                text
            }
        }
    }
}

/// The file, owned by the process that made it.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    identity: Identity,
    status: Status,
}

impl PidFile {
    /// Writes the file anew, in the room that the last server's has. The caller holds the data
    /// directory's lock.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub fn create(dir: &Path, identity: Identity) -> Result<PidFile> {
        let pid_file = PidFile {
            path: dir.join(PID_FILE),
            identity,
            status: Status::Starting,
        };
        // A server that was killed has left it under its own name. The old content goes first:
        // nobody is to take the last server's for this one's.
        let kept = dir.join(KEPT_FILE);
        match fs::rename(&pid_file.path, &kept) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let shown = pid_file.shown(PID_FILE);
                return Err(error).context(format!("could not move stale {shown}"));
            }
            _ => {}
        }
        let text = render(&pid_file.identity, pid_file.status);
        in_place::write(&kept, &text)
            .with_context(|| format!("could not write {}", pid_file.shown(KEPT_FILE)))?;
        fs::rename(&kept, &pid_file.path)
            .with_context(|| format!("could not make {}", pid_file.shown(PID_FILE)))?;
        Ok(pid_file)
    }

    /// Rewrites the status line, if it changes.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_status(&mut self, status: Status) -> Result<()> {
        if status == self.status {
            return Ok(());
        }
        self.status = status;
        self.write()
    }

    /// Takes the file away, if it is still this process's own, and keeps its room.
    ///
    /// # Errors
    /// When it is there and cannot be moved.
    pub fn remove(self) -> Result<()> {
        let ours = self.identity.pid == std::process::id()
            && read_pid(&self.path) == Some(self.identity.pid);
        if !ours {
            return Ok(());
        }
        fs::rename(&self.path, self.path.with_file_name(KEPT_FILE))
            .with_context(|| format!("could not move {}", self.shown(PID_FILE)))
    }

    /// What messages call a file of the data directory, from within which this one is reached.
    fn shown(&self, name: &str) -> String {
        self.identity.data_dir.join(name).display().to_string()
    }

    /// Opened anew each time, so that no child inherits a way to write it.
    fn write(&self) -> Result<()> {
        let text = render(&self.identity, self.status);
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.write_all_at(text.as_bytes(), 0))
            .with_context(|| format!("could not write {}", self.shown(PID_FILE)))
    }
}

fn render(identity: &Identity, status: Status) -> String {
    format!(
        "{}\n{}\n{}\n{}\n{}\n{}\n{}\n{:STATUS_CHARS$.STATUS_CHARS$}\n",
        identity.pid,
        identity.data_dir.display(),
        identity.started_s,
        identity.port,
        identity.socket_dir,
        identity.listen_address,
        identity.shm_name,
        status.text(),
    )
}

/// The process id in the first line of a pid file; none if there is no such file or line.
pub fn read_pid(path: &Path) -> Option<u32> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn identity(dir: &Path) -> Identity {
        Identity {
            pid: std::process::id(),
            data_dir: dir.to_path_buf(),
            started_s: 1_700_000_000,
            port: 7432,
            socket_dir: "/run/redoubt".to_owned(),
            listen_address: "127.0.0.1".to_owned(),
            shm_name: "/redoubt.0123".to_owned(),
        }
    }

    fn lines(dir: &Path) -> Vec<String> {
        let text = fs::read_to_string(dir.join(PID_FILE)).expect("the file is there");
        assert!(text.ends_with('\n'));
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn has_eight_lines_and_a_status_of_one_width() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(PID_FILE), "99999\nstale\n").expect("written");
        let mut file = PidFile::create(dir.path(), identity(dir.path())).expect("created");
        let pid = std::process::id().to_string();
        let head = [
            pid.as_str(),
            &dir.path().display().to_string(),
            "1700000000",
            "7432",
            "/run/redoubt",
            "127.0.0.1",
            "/redoubt.0123",
        ];
        let far = Progress {
            phase: "redo",
            percent: Some(100),
            eta_s: Some(u64::MAX),
        };
        let mut previous = lines(dir.path());
        assert_eq!(previous[7].trim_end(), "starting");
        for (status, text) in [
            (
                Status::Recovering(far),
                "recovering redo 100% eta 18446744073709551615s",
            ),
            (Status::Ready, "ready"),
            (Status::Stopping, "stopping"),
        ] {
            file.set_status(status).expect("written");
            let now = lines(dir.path());
            assert_eq!(now[..7], head);
            assert_eq!(now.len(), 8);
            assert_eq!(now[7].trim_end(), text);
            assert_eq!(now[7].len(), previous[7].len());
            previous = now;
        }
        file.remove().expect("removed");
        assert!(!dir.path().join(PID_FILE).exists());
    }

    /// A file that has its block takes no further one; so it is the same one from start to start,
    /// also after a crash, and no longer than what it says.
    #[test]
    fn keeps_its_room_from_start_to_start() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(PID_FILE);
        let inode = || fs::metadata(&path).expect("the file is there").ino();
        let long = Identity {
            listen_address: "0000:0000:0000:0000:0000:0000:0000:0001".to_owned(),
            ..identity(dir.path())
        };
        let file = PidFile::create(dir.path(), long.clone()).expect("created");
        let first = inode();
        file.remove().expect("removed");
        let _killed = PidFile::create(dir.path(), long).expect("created");
        assert_eq!(inode(), first);
        let _file = PidFile::create(dir.path(), identity(dir.path())).expect("created");
        assert_eq!(inode(), first);
        assert_eq!(lines(dir.path()).len(), 8);
        assert_eq!(fs::read_dir(dir.path()).expect("ours").count(), 1);
    }

    #[test]
    fn removes_only_its_own() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = PidFile::create(dir.path(), identity(dir.path())).expect("created");
        let other = "1\nother\n";
        fs::write(dir.path().join(PID_FILE), other).expect("written");
        file.remove().expect("nothing to do");
        assert_eq!(read_pid(&dir.path().join(PID_FILE)), Some(1));
    }
}
