//! What `rd_ctl` does to a server: start it in the background, stop it, signal it, say how it is.
//!
//! A server is told only by signals and seen only by its pid file, its process and its log: so
//! all of this works on one that accepts no connection.

use crate::cli::{self, with_hint};
use crate::datadir;
use crate::pidfile::{self, PID_FILE, PidFile, Status};
use crate::reading;
use crate::wait::{self, Look};
use crate::words;
use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{AccessFlags, access};
use rd_base::units::SECOND;
use rd_sys::clock;
use rd_sys::process::{self, Pid, Signal};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where the server's log goes if `-l` says nothing: a file in the data directory.
pub const LOG_FILE: &str = "server.log";
/// The file in which the server leaves the command line it was started with.
pub const OPTIONS_FILE: &str = "postmaster.opts";
/// It is no longer, in bytes.
const OPTIONS_BYTES_MAX: u64 = 256 << 10;
/// How much older than the start a new server's pid file may say that it is, seconds: the clock is
/// read twice, and may be set between. As in `pg_ctl`.
const CLOCK_SLACK_S: u64 = 2;
/// Lines of the log that are shown when a start fails.
const LOG_LINES_MAX: usize = 20;
/// Bytes of the log that are searched for them.
const LOG_BYTES_MAX: u64 = 64 << 10;

/// How an operation waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// Whether it does at all.
    pub wait: bool,
    /// For how long.
    pub timeout: Duration,
    /// Whether it prints nothing but errors.
    pub silent: bool,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Quit after all clients have disconnected
    #[value(alias = "s")]
    Smart,
    /// Quit directly, with proper shutdown
    #[value(alias = "f")]
    Fast,
    /// Quit without complete shutdown; will lead to recovery on restart
    #[value(alias = "i")]
    Immediate,
}

impl Mode {
    fn signal(self) -> Signal {
        match self {
            Mode::Smart => Signal::Term,
            Mode::Fast => Signal::Int,
            Mode::Immediate => Signal::Quit,
        }
    }
}

/// What `start` is to start.
#[derive(Clone, Debug)]
pub struct Start {
    /// The data directory.
    pub data_dir: PathBuf,
    /// The server's program; none: the one beside this tool.
    pub server: Option<PathBuf>,
    /// The file for its log; none: [`LOG_FILE`].
    pub log: Option<PathBuf>,
    /// Its options.
    pub options: Vec<String>,
}

/// The program of this name beside the running one, where all of ours are installed.
///
/// # Errors
/// When it is not there.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("could not find this program's own path")?;
    let path = own.with_file_name(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(with_hint(
        format!(
            "the program \"{name}\" is needed but was not found as {}",
            path.display()
        ),
        "Install or build it beside this one, or name the server with -p.",
    ))
}

/// What a start needs, found and opened: what can be known to fail has been tried.
#[derive(Debug)]
pub struct Prepared {
    /// As it was named.
    dir: PathBuf,
    /// Absolute.
    data_dir: PathBuf,
    server: PathBuf,
    options: Vec<String>,
    log: File,
    log_path: PathBuf,
}

impl Prepared {
    /// Looks for all that `start` needs. That no server runs is not asked.
    ///
    /// # Errors
    /// When the start would fail.
    pub fn new(start: Start) -> Result<Prepared> {
        let dir = start.data_dir;
        datadir::check_usable(&dir)?;
        datadir::check_private(&dir)?;
        let data_dir = std::fs::canonicalize(&dir).context("could not find data directory")?;
        let server = match start.server {
            Some(path) => path,
            None => sibling("redoubt")?,
        };
        check_runs(&server)?;
        let log_path = start.log.unwrap_or_else(|| dir.join(LOG_FILE));
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log_path)
            .with_context(|| format!("could not open log file \"{}\"", log_path.display()))?;
        Ok(Prepared {
            dir,
            data_dir,
            server,
            options: start.options,
            log,
            log_path,
        })
    }
}

/// Refuses a program that cannot be run. One that is named without a directory is looked for where
/// programs are.
fn check_runs(server: &Path) -> Result<()> {
    let is_runnable = |path: &Path| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    let found = if server.components().nth(1).is_some() || server.is_absolute() {
        is_runnable(server)
    } else {
        let places = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&places).any(|place| is_runnable(&place.join(server)))
    };
    if !found {
        bail!(
            "could not run \"{}\": there is no such program, or it may not be run",
            server.display()
        );
    }
    Ok(())
}

/// Starts a server in the background; returns when it serves, if it is to wait.
///
/// # Errors
/// When it cannot start, or does not in time; what its log says of that is in the error.
pub fn start(prepared: Prepared, waiting: Waiting) -> Result<()> {
    let dir = prepared.dir.clone();
    let dir = dir.as_path();
    if let Some(server) = pidfile::running(dir)? {
        return Err(with_hint(
            format!("a server is already running (PID: {})", server.pid),
            format!("Its data directory is \"{}\".", dir.display()),
        ));
    }
    let log_path = prepared.log_path.clone();
    let log = prepared.log.metadata();
    let log_start = log.map(|metadata| metadata.len()).unwrap_or(0);
    let mut child = Launched::new(prepared)?;
    if !waiting.wait {
        say(waiting, "server starting");
        return Ok(());
    }
    let what = "waiting for server to start";
    let outcome = wait::until(what, waiting.silent, waiting.timeout, || child.look(dir))?;
    match outcome {
        Some(true) => {
            say(waiting, " done\nserver started");
            Ok(())
        }
        Some(false) => {
            say(waiting, " stopped waiting");
            let said = last_words(&log_path, log_start);
            Err(with_hint(
                format!("could not start server{said}"),
                format!("Examine the log output in \"{}\".", log_path.display()),
            ))
        }
        None => {
            say(waiting, " stopped waiting");
            let status = child.pid_file(dir).ok().flatten().map(|file| file.status);
            let now = match status {
                Some(Status::Recovering(progress)) => {
                    format!(
                        "It is recovering ({}) and goes on with it",
                        progress.in_words()
                    )
                }
                _ => "It is still starting".to_owned(),
            };
            Err(with_hint(
                "server did not start in time",
                format!("{now}; see rd_isready -D, and \"{}\".", log_path.display()),
            ))
        }
    }
}

/// A server that was just started.
struct Launched {
    child: Child,
    /// When, seconds since 1970.
    since_s: u64,
}

impl Launched {
    /// Runs the server in a process group of its own, so that no terminal's Ctrl-C reaches it.
    fn new(prepared: Prepared) -> Result<Launched> {
        let Prepared {
            data_dir,
            server,
            options,
            log,
            ..
        } = prepared;
        let errors = log
            .try_clone()
            .context("could not duplicate the log file")?;
        let since_s = clock::wall_us() / SECOND;
        let child = Command::new(&server)
            .arg("-D")
            .arg(data_dir)
            .args(options)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not run \"{}\"", server.display()))?;
        Ok(Launched { child, since_s })
    }

    /// Its pid file, once it has written one. A file with its number may still be another's: that of
    /// a killed server, which had the same number. In a container numbers begin anew with each start.
    fn pid_file(&self, dir: &Path) -> Result<Option<PidFile>> {
        let file = PidFile::read(dir).context("could not read the server's pid file")?;
        Ok(file.filter(|file| {
            file.pid.get().unsigned_abs() == self.child.id()
                && file.started_s.saturating_add(CLOCK_SLACK_S) >= self.since_s
        }))
    }

    /// Whether the server has started (true), or never will (false).
    fn look(&mut self, dir: &Path) -> Result<Look<bool>> {
        let ended = self.child.try_wait();
        if ended
            .context("could not look at the server's process")?
            .is_some()
        {
            return Ok(Look::Settled(false));
        }
        Ok(match self.pid_file(dir)?.map(|file| file.status) {
            Some(Status::Ready) => Look::Settled(true),
            Some(Status::Recovering(progress)) => Look::NotYet(Some(progress)),
            _ => Look::NotYet(None),
        })
    }
}

/// The lines from the first FATAL or PANIC on that the server has logged since `from`, as details.
/// The last one only says how it ended: the postmaster's, after that of a child.
fn last_words(path: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(from.max(len.saturating_sub(LOG_BYTES_MAX))))?;
        file.take(LOG_BYTES_MAX).read_to_end(&mut bytes)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let fatal = |line: &&str| line.contains("FATAL:") || line.contains("PANIC:");
    let Some(first) = lines.iter().position(fatal) else {
        return String::new();
    };
    let said = lines.iter().skip(first).take(LOG_LINES_MAX);
    said.map(|line| format!("\nDETAIL: {line}")).collect()
}

/// The server that is running on the data directory.
///
/// # Errors
/// When there is none, in PostgreSQL's words.
pub fn server(dir: &Path) -> Result<PidFile> {
    datadir::check_usable(dir)?;
    let path = dir.join(PID_FILE);
    let file = PidFile::read(dir).with_context(|| format!("could not read {}", path.display()))?;
    match file {
        None => Err(with_hint(
            format!("PID file \"{}\" does not exist", path.display()),
            "Is server running?",
        )),
        Some(file) if !file.is_alive(dir) => Err(with_hint(
            format!(
                "no server running: PID file \"{}\" is left over from process {}, which is gone",
                path.display(),
                file.pid
            ),
            "The next start clears it away and recovers.",
        )),
        Some(file) => Ok(file),
    }
}

/// Stops the server; returns when it is gone, if it is to wait.
///
/// # Errors
/// When it cannot be signaled, or does not leave in time.
pub fn stop(dir: &Path, server: &PidFile, mode: Mode, waiting: Waiting) -> Result<()> {
    send(server.pid, mode.signal())?;
    if !waiting.wait {
        say(waiting, "server shutting down");
        return Ok(());
    }
    let what = "waiting for server to shut down";
    let gone = wait::until(what, waiting.silent, waiting.timeout, || {
        Ok(if server.is_alive(dir) {
            Look::NotYet(None)
        } else {
            Look::Settled(())
        })
    })?;
    if gone.is_some() {
        say(waiting, " done\nserver stopped");
        return Ok(());
    }
    say(waiting, " failed");
    match mode {
        Mode::Smart => Err(with_hint(
            "server does not shut down",
            "It waits for its clients to leave; with \"-m fast\" it ends their connections.",
        )),
        Mode::Fast | Mode::Immediate => Err(with_hint(
            "server does not shut down",
            "It may still be writing its shutdown checkpoint; see its log, or wait longer with -t.",
        )),
    }
}

/// Tells the server to read its configuration again.
///
/// # Errors
/// When it cannot be signaled.
pub fn reload(server: &PidFile, waiting: Waiting) -> Result<()> {
    send(server.pid, Signal::Hup)?;
    say(waiting, "server signaled");
    Ok(())
}

/// Sends a signal by its name in `kill`: `TERM`, `USR1`.
///
/// # Errors
/// When the name or number is none, or the process cannot be signaled.
pub fn kill(name: &str, pid: &str) -> Result<()> {
    let signal = match name {
        "ABRT" => Signal::Abrt,
        "HUP" => Signal::Hup,
        "INT" => Signal::Int,
        "KILL" => Signal::Kill,
        "QUIT" => Signal::Quit,
        "TERM" => Signal::Term,
        "USR1" => Signal::Usr1,
        "USR2" => Signal::Usr2,
        other => {
            return Err(with_hint(
                format!("unrecognized signal name \"{other}\""),
                "Allowed signal names: ABRT HUP INT KILL QUIT TERM USR1 USR2",
            ));
        }
    };
    let pid = pid.parse().ok().and_then(Pid::new);
    send(pid.ok_or_else(|| anyhow!("bad process number"))?, signal)
}

/// Sends a signal.
///
/// # Errors
/// When there is no such process, or it cannot be signaled.
pub fn send(pid: Pid, signal: Signal) -> Result<()> {
    let failed = || format!("could not send {signal} signal (PID: {pid})");
    if !process::kill(pid, signal).with_context(failed)? {
        bail!("{}: No such process", failed());
    }
    Ok(())
}

/// The command line that the server was started with last; none if it has not left it.
///
/// # Errors
/// When the file is there and cannot be read, or is not whole.
pub fn options_line(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(OPTIONS_FILE);
    let line = match reading::beginning(&path, OPTIONS_BYTES_MAX) {
        Ok(line) => line,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("could not read \"{}\"", path.display()));
        }
    };
    // It is written anew at each start, on a full disk perhaps not to its end.
    let line = String::from_utf8(line).ok();
    match line.filter(|line| line.ends_with('\n')) {
        Some(line) => Ok(Some(line)),
        None => bail!("\"{}\" is not whole", path.display()),
    }
}

/// Sends a signal to a process that may have ended.
///
/// # Errors
/// When it cannot be signaled.
pub fn send_if_there(pid: Pid, signal: Signal) -> Result<()> {
    process::kill(pid, signal)
        .with_context(|| format!("could not send {signal} signal (PID: {pid})"))?;
    Ok(())
}

/// The options that the server was started with last, without program and data directory; none if
/// it has not left them.
///
/// # Errors
/// As [`options_line`].
pub fn last_options(dir: &Path) -> Result<Option<Vec<String>>> {
    let Some(line) = options_line(dir)? else {
        return Ok(None);
    };
    // The program's path stands there as it is, blanks and all; the first quote begins the options.
    let options = line.find(" \"").map_or("", |at| &line[at..]);
    let words = words::split(options).with_context(|| {
        let path = dir.join(OPTIONS_FILE);
        format!("a quote is not closed in \"{}\"", path.display())
    })?;
    let mut words = words.into_iter();
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        if word == "-D" {
            words.next();
        } else if !word.starts_with("-D") {
            options.push(word);
        }
    }
    Ok(Some(options))
}

/// Prints a line, unless only errors are wanted. That nobody reads it is no failure.
pub fn say(waiting: Waiting, text: &str) {
    if !waiting.silent {
        cli::print(&format!("{text}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fatal_line_is_told_with_what_follows() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        let old = "x FATAL:  of another start\n";
        let new = "x LOG:  hello\nx FATAL:  port in use\nx HINT:  Is another running?\n\
                   x FATAL:  server does not start\n";
        std::fs::write(&path, format!("{old}{new}")).expect("written");
        let said = last_words(&path, old.len() as u64);
        assert_eq!(
            said,
            "\nDETAIL: x FATAL:  port in use\nDETAIL: x HINT:  Is another running?\n\
             DETAIL: x FATAL:  server does not start"
        );
        assert_eq!(last_words(&path, (old.len() + new.len()) as u64), "");
        assert_eq!(last_words(&dir.path().join("none"), 0), "");
    }

    #[test]
    fn options_come_back_without_program_and_directory() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let none = last_options(dir.path()).expect("no file is no error");
        assert_eq!(none, None);
        let options = |line: &str| {
            std::fs::write(dir.path().join(OPTIONS_FILE), line).expect("written");
            last_options(dir.path()).map(|options| options.expect("there"))
        };
        for (line, words) in [
            (
                "/usr/bin/redoubt \"-D\" \"/srv/my data\" \"-c\" \"port=7433\"\n",
                &["-c", "port=7433"][..],
            ),
            (
                "/opt/my server/redoubt \"-D/x\" \"-p\" \"7\"\n",
                &["-p", "7"],
            ),
            ("/opt/my server/redoubt\n", &[]),
        ] {
            assert_eq!(options(line).expect("whole"), words, "{line}");
        }
        for line in ["", "redoubt \"-p\" \"7\"", "redoubt \"-D/x\" \"-p\" \"7\n"] {
            let error = options(line).expect_err("cut").to_string();
            assert!(error.contains(OPTIONS_FILE), "{line}: {error}");
        }
    }
}
