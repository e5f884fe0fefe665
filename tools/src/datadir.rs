//! Which data directory is meant, and whether it is one that a server may use.

use crate::cli::with_hint;
use crate::pidfile::{LOCK_FILE, PidFile};
use anyhow::{Context, Result, bail};
use rd_engine::init::{is_unfinished, unfinished};
use rd_store::control_file::GLOBAL_DIR;
use rd_sys::lockfile::{DirectoryLock, LockError, LockFile, is_open_in};
use rd_sys::process::Pid;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The environment variable that stands for `-D`.
pub const VARIABLE: &str = "RDDATA";
/// The file that makes a directory a data directory.
pub const CONTROL_FILE: &str = "global/pg_control";

/// How a tool is told which data directory to look at.
#[derive(clap::Args)]
pub struct DataDir {
    /// Data directory [default: the environment variable RDDATA]
    #[arg(
        short = 'D',
        long = "rddata",
        alias = "pgdata",
        value_name = "DIRECTORY"
    )]
    data_dir: Option<PathBuf>,
    /// Data directory, in place of -D
    #[arg(value_name = "DIRECTORY", conflicts_with = "data_dir")]
    positional: Option<PathBuf>,
}

impl DataDir {
    /// See [`resolve`].
    ///
    /// # Errors
    /// As [`resolve`].
    pub fn resolve(self, tool: &str) -> Result<PathBuf> {
        resolve(tool, self.data_dir.or(self.positional))
    }
}

/// The data directory of the command line, or of the environment.
///
/// # Errors
/// When neither names one.
pub fn resolve(tool: &str, given: Option<PathBuf>) -> Result<PathBuf> {
    match given.or_else(from_environment) {
        Some(dir) => Ok(dir),
        None => Err(with_hint(
            format!("no data directory specified and environment variable {VARIABLE} unset"),
            format!("Name it with -D, or try \"{tool} --help\" for more information."),
        )),
    }
}

/// The data directory that the environment names.
pub fn from_environment() -> Option<PathBuf> {
    std::env::var_os(VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

/// Why a directory cannot be used as a data directory; the words are PostgreSQL's.
///
/// # Errors
/// When it does not exist, has no `global/pg_control`, or was never made to its end.
pub fn check_usable(dir: &Path) -> Result<()> {
    match fs::metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(with_hint(
                format!("directory \"{}\" does not exist", dir.display()),
                "rd_initdb makes a data directory.",
            ));
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("could not access directory \"{}\"", dir.display()));
        }
        Ok(metadata) if !metadata.is_dir() => bail!("\"{}\" is not a directory", dir.display()),
        Ok(_) => {}
    }
    if is_unfinished(dir) {
        bail!(unfinished(&dir.display().to_string()));
    }
    let control = dir.join(CONTROL_FILE);
    match fs::metadata(&control) {
        Err(error) if error.kind() == ErrorKind::NotFound => Err(with_hint(
            format!(
                "directory \"{}\" is not a Redoubt data directory",
                dir.display()
            ),
            format!("There is no {CONTROL_FILE} in it; rd_initdb makes a data directory."),
        )),
        Err(error) => Err(error).with_context(|| format!("could not access {}", control.display())),
        Ok(_) => Ok(()),
    }
}

/// Refuses a directory that is somebody else's, or that others can read.
///
/// # Errors
/// Says what to change.
pub fn check_private(dir: &Path) -> Result<()> {
    let metadata = fs::metadata(dir)
        .with_context(|| format!("could not access directory \"{}\"", dir.display()))?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(with_hint(
            format!("data directory \"{}\" has wrong ownership", dir.display()),
            "The server must be started by the user that owns the data directory.",
        ));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(with_hint(
            format!(
                "data directory \"{}\" has invalid permissions\n\
                 DETAIL: Permissions should be u=rwx (0700), and are {mode:04o}.",
                dir.display()
            ),
            format!("Others can read it. Run: chmod 0700 \"{}\"", dir.display()),
        ));
    }
    Ok(())
}

/// The lock of a data directory, as a server has it.
#[derive(Debug)]
pub struct Lock {
    _global: DirectoryLock,
    _file: LockFile,
}

/// Keeps servers out while the files are looked at or changed.
///
/// # Errors
/// When a server, or a child that it left behind, uses the directory.
pub fn lock(dir: &Path) -> Result<Lock> {
    let path = dir.join(LOCK_FILE);
    // As the server locks it, in this order.
    let global = DirectoryLock::acquire(&dir.join(GLOBAL_DIR));
    match LockFile::acquire(&path) {
        Ok(file) => {
            // It is of a file that was made anew, if somebody has removed that of a server.
            let named = PidFile::read(dir)?.map(|file| file.pid);
            let is_server = |pid: &Pid| is_open_in(*pid, &path).is_ok_and(|open| open);
            if let Some(pid) = named.filter(|pid| *pid != Pid::own()).filter(is_server) {
                return Err(with_hint(
                    format!(
                        "data directory \"{}\" is in use by a server (PID: {pid}) whose lock file \
                         has been removed",
                        dir.display()
                    ),
                    format!("Stop it first: rd_ctl stop -D {}", dir.display()),
                ));
            }
            if matches!(global, DirectoryLock::Held) {
                return Err(with_hint(
                    format!(
                        "data directory \"{}\" is in use by a server or another program, and the \
                         lock file has been removed",
                        dir.display()
                    ),
                    "Stop it first: look for processes that are called redoubt or rd-...",
                ));
            }
            Ok(Lock {
                _global: global,
                _file: file,
            })
        }
        Err(error @ LockError::Held(_)) => Err(with_hint(
            error,
            format!("Stop it first: rd_ctl stop -D {}", dir.display()),
        )),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_private_data_directory_will_do() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let missing = check_usable(&dir.path().join("none"))
            .expect_err("not there")
            .to_string();
        assert!(missing.contains("\" does not exist\nHINT: "), "{missing}");
        let empty = check_usable(dir.path()).expect_err("empty").to_string();
        assert!(empty.contains("is not a Redoubt data directory"), "{empty}");
        fs::create_dir(dir.path().join("global")).expect("made");
        fs::write(dir.path().join(CONTROL_FILE), "").expect("written");
        check_usable(dir.path()).expect("a data directory");
        let file = check_usable(&dir.path().join(CONTROL_FILE))
            .expect_err("a file")
            .to_string();
        assert!(file.ends_with("is not a directory"), "{file}");

        let chmod = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode));
        chmod(0o700).expect("ours");
        check_private(dir.path()).expect("0700 is right");
        for mode in [0o750, 0o701, 0o777] {
            chmod(mode).expect("ours");
            let error = check_private(dir.path())
                .expect_err("others can read it")
                .to_string();
            assert!(error.contains(&format!("and are {mode:04o}")), "{error}");
        }
        chmod(0o700).expect("ours");
    }
}
