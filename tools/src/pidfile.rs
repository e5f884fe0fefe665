//! `postmaster.pid` as its readers see it: who serves a data directory, where, and how far it is.
//!
//! The postmaster writes eight lines (see its own `pidfile`): process id, data directory, start
//! time, port, directory of the unix socket, listen address, shared memory name, status.
//!
//! Invariant: a file proves nothing. A killed server leaves its file behind, and its number may
//! be a zombie's or somebody else's by now; [`PidFile::is_alive`] looks at the process.

use crate::reading;
use rd_sys::lockfile;
use rd_sys::process::{self, Pid};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file in the data directory.
pub const PID_FILE: &str = "postmaster.pid";
/// The file is no longer: a few lines, of which two hold paths.
const PID_FILE_BYTES_MAX: u64 = 64 << 10;
/// Name of the lock file that all processes of a server hold open.
pub const LOCK_FILE: &str = "postmaster.lock";

/// What a pid file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidFile {
    /// Line 1: the postmaster.
    pub pid: Pid,
    /// Line 2: the data directory, as the server sees it.
    pub data_dir: PathBuf,
    /// Line 3: when it was started, seconds since 1970; 0 if the line is not there yet.
    pub started_s: u64,
    /// Line 4; 0 if there is no TCP, or the line is not there yet.
    pub port: u16,
    /// Line 5; empty if there is no unix socket.
    pub socket_dir: String,
    /// Line 6; empty if there is no TCP.
    pub listen_address: String,
    /// Line 8.
    pub status: Status,
}

/// Line 8: how far the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Before recovery; also while the line is not there yet.
    Starting,
    /// In recovery.
    Recovering(Progress),
    /// Serving.
    Ready,
    /// Will not serve again.
    Stopping,
}

/// How far recovery is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// One word, such as `redo`.
    pub phase: String,
    /// 0 to 100, once known.
    pub percent: Option<u8>,
    /// Seconds left, once known.
    pub eta_s: Option<u64>,
}

impl Progress {
    /// For people: `redo 43 %, about 3 s left`.
    pub fn in_words(&self) -> String {
        let mut text = self.phase.clone();
        if let Some(percent) = self.percent {
            text.push_str(&format!(" {percent} %"));
        }
        if let Some(eta_s) = self.eta_s {
            text.push_str(&format!(", about {eta_s} s left"));
        }
        text
    }
}

impl Status {
    /// Reads the line; one that no server of ours writes counts as starting.
    fn parse(line: &str) -> Status {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("ready") => Status::Ready,
            Some("stopping") => Status::Stopping,
            Some("recovering") => {
                let phase = words.next().unwrap_or("recovery").to_owned();
                let rest: Vec<&str> = words.collect();
                let percent = rest
                    .iter()
                    .find_map(|word| word.strip_suffix('%')?.parse().ok());
                let eta_s = rest
                    .iter()
                    .skip_while(|word| **word != "eta")
                    .nth(1)
                    .and_then(|word| word.strip_suffix('s')?.parse().ok());
                Status::Recovering(Progress {
                    phase,
                    percent,
                    eta_s,
                })
            }
            _ => Status::Starting,
        }
    }
}

impl PidFile {
    /// Reads the pid file of a data directory; none if there is no file, or not yet a whole first
    /// line in it.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(dir: &Path) -> io::Result<Option<PidFile>> {
        match reading::beginning(&dir.join(PID_FILE), PID_FILE_BYTES_MAX) {
            Ok(bytes) => Ok(PidFile::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Option<PidFile> {
        let mut lines = text.lines().map(str::trim);
        let pid = Pid::new(lines.next()?.parse().ok()?)?;
        let mut line = || lines.next().unwrap_or_default();
        let data_dir = PathBuf::from(line());
        let started_s = line().parse().unwrap_or(0);
        let port = line().parse().unwrap_or(0);
        let (socket_dir, listen_address) = (line().to_owned(), line().to_owned());
        let (_shm_name, status) = (line(), Status::parse(line()));
        Some(PidFile {
            pid,
            data_dir,
            started_s,
            port,
            socket_dir,
            listen_address,
            status,
        })
    }

    /// Whether the process that the file names is a server of this data directory.
    ///
    /// It must be this user's and, as far as one may look, hold the lock file open. Where one may not
    /// look, somebody must hold the lock: that of a server lasts as long as any process of it.
    pub fn is_alive(&self, dir: &Path) -> bool {
        if !process::can_be_signaled(self.pid) {
            return false;
        }
        let lock = fs::canonicalize(dir)
            .unwrap_or_else(|_| dir.to_owned())
            .join(LOCK_FILE);
        match lockfile::is_open_in(self.pid, &lock) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                !self.is_zombie() && lockfile::is_held(&lock).is_ok_and(|held| held)
            }
            open => open.is_ok_and(|open| open),
        }
    }

    fn is_zombie(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The command's name, in brackets, may hold anything; the state is the letter behind it.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
    }

    /// Path of the unix socket, if there is one.
    pub fn socket(&self) -> Option<PathBuf> {
        (!self.socket_dir.is_empty()).then(|| socket_path(Path::new(&self.socket_dir), self.port))
    }
}

/// The server that is running on a data directory, if any.
///
/// # Errors
/// When the pid file is there and cannot be read.
pub fn running(dir: &Path) -> io::Result<Option<PidFile>> {
    Ok(PidFile::read(dir)?.filter(|file| file.is_alive(dir)))
}

/// The unix socket of the server with this port in a directory of sockets.
pub fn socket_path(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.REDOUBT.{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    const FULL: &str =
        "4711\n/srv/data\n1700000000\n7432\n/run/rd\n127.0.0.1\n/redoubt.1.2\nready      \n";

    #[test]
    fn all_lines_are_read() {
        let file = PidFile::parse(FULL).expect("it is whole");
        assert_eq!(file.pid.get(), 4711);
        assert_eq!(file.data_dir, Path::new("/srv/data"));
        assert_eq!(file.started_s, 1_700_000_000);
        assert_eq!(file.port, 7432);
        assert_eq!(
            file.socket(),
            Some(PathBuf::from("/run/rd/.s.REDOUBT.7432"))
        );
        assert_eq!(file.listen_address, "127.0.0.1");
        assert_eq!(file.status, Status::Ready);
    }

    #[test]
    fn progress_is_read_as_far_as_it_is_known() {
        for (line, words) in [
            ("recovering repair", "repair"),
            ("recovering redo 7%", "redo 7 %"),
            ("recovering redo 42% eta 3s   ", "redo 42 %, about 3 s left"),
            ("recovering", "recovery"),
            ("recovering redo 999% eta -s", "redo"),
        ] {
            let Status::Recovering(progress) = Status::parse(line) else {
                panic!("{line} is recovery");
            };
            assert_eq!(progress.in_words(), words);
        }
        assert_eq!(Status::parse("stopping"), Status::Stopping);
        assert_eq!(Status::parse(""), Status::Starting);
        assert_eq!(Status::parse("gone fishing"), Status::Starting);
    }

    #[test]
    fn a_file_cut_anywhere_or_of_nonsense_is_survived() {
        for end in 0..FULL.len() {
            if let Some(file) = PidFile::parse(&FULL[..end]) {
                assert!([4, 47, 471, 4711].contains(&file.pid.get()), "{end}");
            }
        }
        for bad in ["", "\n", "0\n", "-1\n", "9999999999999\n", "x\n1\n"] {
            assert_eq!(PidFile::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_process_without_the_lock_file_is_no_server() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let me = format!("{}\n", std::process::id());
        fs::write(dir.path().join(PID_FILE), &me).expect("written");
        assert_eq!(running(dir.path()).expect("readable"), None);
        let lock = fs::canonicalize(dir.path()).expect("there").join(LOCK_FILE);
        let held = File::create(&lock).expect("created");
        assert!(running(dir.path()).expect("readable").is_some());
        drop(held);
        assert_eq!(running(dir.path()).expect("readable"), None);
    }

    /// The lock file is the same by another path, as through another mount.
    #[test]
    fn a_server_is_found_through_another_path_and_without_its_lock_file() {
        let own = tempfile::tempdir().expect("a temporary directory");
        let other = tempfile::tempdir().expect("a temporary directory");
        let lock = own.path().join(LOCK_FILE);
        let _held = File::create(&lock).expect("created");
        fs::hard_link(&lock, other.path().join(LOCK_FILE)).expect("linked");
        let me = format!("{}\n", std::process::id());
        for dir in [own.path(), other.path()] {
            fs::write(dir.join(PID_FILE), &me).expect("written");
            assert!(running(dir).expect("readable").is_some(), "{dir:?}");
        }
        fs::remove_file(&lock).expect("removed");
        assert!(running(own.path()).expect("readable").is_some());
        File::create(&lock).expect("another");
        assert!(running(own.path()).expect("readable").is_some());
    }
}
