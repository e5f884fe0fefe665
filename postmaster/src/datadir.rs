//! The data directory before anything in it is touched: whose it is, who may read it, and who
//! holds its lock.
//!
//! The lock is one `flock` on `postmaster.lock`, whose descriptor all children inherit. So it is
//! held as long as any process of an earlier server lives, and a process id found in an old pid
//! file needs no guessing. Beside it the directory `global` is locked, which nobody takes for a
//! stale lock file and removes.

use crate::pidfile::{PID_FILE, read_pid};
use anyhow::{Context, Result, anyhow, bail};
use rd_engine::init::{VERSION_FILE, is_unfinished, unfinished};
use rd_store::control_file::GLOBAL_DIR;
use rd_sys::clock::monotonic_ns;
use rd_sys::lockfile::{DirectoryLock, LockError, LockFile, is_open_in};
use rd_sys::process::Pid;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Name of the lock file in the data directory.
pub const LOCK_FILE: &str = "postmaster.lock";
/// How long the children of a postmaster that is gone have to follow it.
const ORPHANS_LEAVE_NS: u64 = 5_000_000_000;
/// How often the lock is tried meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The lock of a data directory, as long as it is open somewhere.
#[derive(Debug)]
pub struct Lock {
    // Closed first by the end of a process, having been opened first: who gets the file gets both.
    _global: DirectoryLock,
    _file: LockFile,
}

/// What is found where the data directory should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, in a directory that is there: it can be initialised.
    Nothing,
    /// A data directory.
    Initialised,
}

/// Looks at the directory without changing anything.
///
/// An empty directory, one in an empty directory, and one above which another is missing, may stand
/// where a volume has not been mounted. A server that made a data directory there would acknowledge
/// writes that are out of sight when the volume is there again; so that is left to `rd_initdb`, which
/// somebody has to ask.
///
/// # Errors
/// When it is something else, or may be.
pub fn inspect(dir: &Path) -> Result<Found> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            check_parent(dir)?;
            return Ok(Found::Nothing);
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("could not read data directory \"{}\"", dir.display()));
        }
    };
    if is_unfinished(dir) {
        bail!(unfinished(&dir.display().to_string()));
    }
    if dir.join("global/pg_control").exists() {
        return Ok(Found::Initialised);
    }
    if entries.count() == 0 {
        bail!(
            "directory \"{0}\" is empty: it is no data directory\n\
             HINT: If a volume belongs there, it is not mounted: mount it. If a new data directory \
             is wanted there, make it first: rd_initdb -D \"{0}\"",
            dir.display()
        );
    }
    if dir.join(VERSION_FILE).exists() {
        bail!(
            "data directory \"{}\" has lost its global/pg_control\n\
             HINT: Nothing can be read without it: restore the data directory from a backup.",
            dir.display()
        );
    }
    bail!(
        "\"{}\" is not a data directory: it is not empty, and there is no global/pg_control in it\n\
         HINT: Choose another directory with -D, or one that does not exist yet.",
        dir.display()
    )
}

/// Refuses a place whose directory is missing too, or empty. Whoever is in a directory means that one.
fn check_parent(dir: &Path) -> Result<()> {
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") && parent != Path::new(".") => parent,
        _ => return Ok(()),
    };
    let what = match fs::read_dir(parent).map(Iterator::count) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!(
                "nor is there the directory \"{}\" to make it in",
                parent.display()
            )
        }
        Ok(0) => format!(
            "and the directory \"{}\" to make it in is empty",
            parent.display()
        ),
        _ => return Ok(()),
    };
    bail!(
        "there is no data directory \"{0}\", {what}\n\
         HINT: If a volume belongs there, it is not mounted: mount it. If a new data directory is \
         wanted there, make it first: rd_initdb -D \"{0}\"",
        dir.display()
    )
}

/// Refuses a directory that is not this user's own, or that others can read.
///
/// # Errors
/// With PostgreSQL's words.
pub fn check_private(dir: &Path) -> Result<()> {
    let metadata = fs::metadata(dir)
        .with_context(|| format!("could not look at data directory \"{}\"", dir.display()))?;
    let user = nix::unistd::geteuid();
    if metadata.uid() != user.as_raw() {
        bail!(
            "data directory \"{}\" has wrong ownership\n\
             HINT: The server must be started by the user that owns the data directory.",
            dir.display()
        );
    }
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "data directory \"{}\" has invalid permissions\n\
             DETAIL: Permissions should be u=rwx (0700).",
            dir.display()
        );
    }
    Ok(())
}

/// Takes the lock, which this process and all its children then hold until the last has gone.
///
/// Children of a postmaster that was killed are about to leave; for these it waits a little.
///
/// # Errors
/// When another server, or what is left of one, holds it; the message names the processes.
pub fn lock(dir: &Path) -> Result<Lock> {
    let path = dir.join(LOCK_FILE);
    let deadline_ns = monotonic_ns().saturating_add(ORPHANS_LEAVE_NS);
    let mut has_told = false;
    loop {
        let global = DirectoryLock::acquire(&dir.join(GLOBAL_DIR));
        match LockFile::acquire(&path) {
            Ok(file) => {
                // It is of a file that was made anew, if somebody has removed that of a server.
                if let Some(pid) = postmaster(dir).filter(|&pid| pid != Pid::own()) {
                    bail!(
                        "data directory \"{}\" is in use by another postmaster (PID {pid}), whose \
                         lock file has been removed\n\
                         HINT: Stop it before another is started.",
                        dir.display()
                    );
                }
                if !matches!(global, DirectoryLock::Held) {
                    return Ok(Lock {
                        _global: global,
                        _file: file,
                    });
                }
                if monotonic_ns() >= deadline_ns {
                    return Err(held_without_file(dir));
                }
            }
            Err(error @ LockError::Io { .. }) => return Err(error.into()),
            Err(LockError::Held(_)) => {
                let orphaned = postmaster(dir).is_none();
                if !orphaned || monotonic_ns() >= deadline_ns {
                    return Err(held(dir, &path));
                }
                if !has_told {
                    log::info!(
                        "lock file \"{}\" is held: waiting for what is left of an earlier server",
                        path.display()
                    );
                    has_told = true;
                }
            }
        }
        std::thread::sleep(LOCK_RETRY);
    }
}

/// Says who has locked the directory, where neither lock file nor pid file tell.
fn held_without_file(dir: &Path) -> anyhow::Error {
    let pids = holders(&dir.join(GLOBAL_DIR)).into_iter();
    let named: Vec<String> = pids
        .map(|pid| format!("PID {pid} ({})", short_name(pid)))
        .collect();
    let who = match named.as_slice() {
        [] => "processes that cannot be seen from here".to_owned(),
        named => named.join(", "),
    };
    anyhow!(
        "data directory \"{}\" is in use by {who}, and the lock file has been removed\n\
         HINT: Stop that server before another is started.",
        dir.display()
    )
}

/// The process that the pid file names, if it lives and holds the lock file open.
fn postmaster(dir: &Path) -> Option<Pid> {
    let pid = Pid::new(i32::try_from(read_pid(&dir.join(PID_FILE))?).ok()?)?;
    is_open_in(pid, &dir.join(LOCK_FILE))
        .is_ok_and(|open| open)
        .then_some(pid)
}

/// Says who holds the lock.
fn held(dir: &Path, lock_path: &Path) -> anyhow::Error {
    let lock_path = lock_path.display();
    let pid_file = dir.join(PID_FILE);
    if let Some(pid) = postmaster(dir) {
        return anyhow!(
            "lock file \"{lock_path}\" is held\n\
             HINT: Is another postmaster (PID {pid}, by {}) running in data directory \"{}\"?",
            pid_file.display(),
            dir.display()
        );
    }
    let pids = holders(&dir.join(LOCK_FILE));
    if pids.is_empty() {
        return anyhow!(
            "lock file \"{lock_path}\" is held by a process that cannot be seen from here\n\
             HINT: Look for a server of data directory \"{}\" of another user, or in another \
             container.",
            dir.display()
        );
    }
    let (ours, others): (Vec<_>, Vec<_>) = pids
        .iter()
        .map(|&pid| (pid, short_name(pid)))
        .partition(|(_, name)| is_server(name));
    let listed = |pids: &[(Pid, String)]| {
        let named = pids.iter().map(|(pid, name)| format!("PID {pid} ({name})"));
        named.collect::<Vec<_>>().join(", ")
    };
    if !others.is_empty() {
        return anyhow!(
            "lock file \"{lock_path}\" is held by another program: {}\n\
             DETAIL: While it works on data directory \"{}\", no server may.\n\
             HINT: Wait until it has ended. What rd_resetwal has begun, for one, it must finish.",
            listed(&others),
            dir.display()
        );
    }
    let pids: Vec<String> = ours.iter().map(|(pid, _)| pid.to_string()).collect();
    anyhow!(
        "lock file \"{lock_path}\" is held by processes of an earlier server: {}\n\
         DETAIL: Its postmaster is gone; while they live, no other server may use the data \
         directory.\n\
         HINT: Wait until they have left, or end them with: kill -QUIT {}",
        listed(&ours),
        pids.join(" ")
    )
}

/// The name of a process in the kernel's list, at most 15 bytes; empty if it has gone.
fn short_name(pid: Pid) -> String {
    let name = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end().to_owned()
}

/// Whether this is the name of a process of a server (`rd_sys::title`), or of one that has gone.
fn is_server(name: &str) -> bool {
    name.is_empty() || name == "redoubt" || name.starts_with("rd-")
}

/// The processes, as far as this user may see, that have the file open.
fn holders(path: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let numbers = processes.flatten().filter_map(|entry| {
        let pid = Pid::new(entry.file_name().to_str()?.parse().ok()?)?;
        is_open_in(pid, path).is_ok_and(|open| open).then_some(pid)
    });
    let mut numbers: Vec<Pid> = numbers.filter(|&pid| pid != Pid::own()).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    fn private_dir() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("ours");
        dir
    }

    #[test]
    fn a_readable_directory_is_refused_in_postgresqls_words() {
        let dir = private_dir();
        check_private(dir.path()).expect("0700 is right");
        for mode in [0o750, 0o701, 0o777] {
            fs::set_permissions(dir.path(), Permissions::from_mode(mode)).expect("ours");
            let error = check_private(dir.path())
                .expect_err("others can read it")
                .to_string();
            assert!(error.contains("has invalid permissions\nDETAIL: Permissions should be"));
        }
    }

    #[test]
    fn only_a_new_place_or_a_data_directory_will_do() {
        let dir = private_dir();
        let inside = dir.path().join("data");
        for here in ["no-such-directory", "./no-such-directory"] {
            let found = inspect(Path::new(here)).expect("nothing there");
            assert_eq!(found, Found::Nothing);
        }
        for (place, what) in [
            (dir.path(), "is empty: it is no data directory"),
            (&inside, "to make it in is empty"),
            (&inside.join("deeper"), "nor is there the directory"),
        ] {
            let error = inspect(place).expect_err("a volume's, perhaps").to_string();
            let hint = format!("rd_initdb -D \"{}\"", place.display());
            for part in [what, "not mounted", &hint] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        fs::write(dir.path().join("letter.txt"), "dear").expect("written");
        assert_eq!(inspect(&inside).expect("nothing there"), Found::Nothing);
        let error = inspect(dir.path())
            .expect_err("somebody's letters")
            .to_string();
        assert!(error.contains("is not a data directory"), "{error}");
        fs::write(dir.path().join(VERSION_FILE), "1\n").expect("written");
        let error = inspect(dir.path()).expect_err("not whole").to_string();
        assert!(error.contains("has lost its global/pg_control"), "{error}");
        fs::create_dir(dir.path().join("global")).expect("made");
        fs::write(dir.path().join("global/pg_control"), "").expect("written");
        assert_eq!(
            inspect(dir.path()).expect("a data directory"),
            Found::Initialised
        );
    }

    /// A process that the test started holds the lock file open, as a surviving child would.
    #[test]
    fn holders_are_found_and_named() {
        let dir = private_dir();
        let path = dir.path().join(LOCK_FILE);
        let file = fs::File::create(&path).expect("created");
        assert_eq!(holders(&path), []);
        // As a backend calls itself, then as a tool is called. The lock file tells how far it is.
        let script = r#"
            printf 'rd-backend 0' > /proc/$$/comm; echo; read next
            printf 'rd_resetwal' > /proc/$$/comm; echo; read next"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::from(file))
            .spawn()
            .expect("a shell");
        let wait_for_line = |count| {
            while fs::metadata(&path).expect("there").len() < count {
                std::thread::yield_now();
            }
        };
        wait_for_line(1);
        let pid = Pid::new(child.id().try_into().expect("a number")).expect("a child");
        assert_eq!(holders(&path), [pid]);
        let orphan = held(dir.path(), &path).to_string();
        assert!(
            orphan.contains(&format!("kill -QUIT {}", child.id())),
            "{orphan}"
        );
        let input = child.stdin.as_mut().expect("a pipe");
        io::Write::write_all(input, b"\n").expect("it reads");
        wait_for_line(2);
        let tool = held(dir.path(), &path).to_string();
        let named = format!("another program: PID {} (rd_resetwal)", child.id());
        assert!(tool.contains(&named), "{tool}");
        assert!(!tool.contains("kill"), "{tool}");
        fs::write(dir.path().join(PID_FILE), format!("{}\n", child.id())).expect("written");
        let living = held(dir.path(), &path).to_string();
        assert!(
            living.contains(&format!("another postmaster (PID {}", child.id())),
            "{living}"
        );
        drop(child.stdin.take());
        child.wait().expect("it ends with its input");
        assert_eq!(holders(&path), []);
    }
}
