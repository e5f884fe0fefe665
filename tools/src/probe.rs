//! Whether a server accepts connections: by asking it, or by its pid file alone.

use crate::datadir;
use crate::pidfile::{self, PID_FILE, PidFile, Progress, Status};
use anyhow::{Context, Result};
use rd_engine::init::is_unfinished;
use rd_wire::client::{Client, Error, Reply};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// The server's port if nothing is said.
pub const PORT: u16 = 7432;
/// The server's address if nothing is said.
pub const HOST: &str = "127.0.0.1";
/// How often the pid file is read while recovery is watched.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Host and port.
    Tcp(String, u16),
    /// Path of a unix socket.
    Unix(PathBuf),
}

impl Target {
    /// The target of `-h` and `-p`; a host that begins with `/` is a directory of unix sockets.
    pub fn new(host: &str, port: u16) -> Target {
        if host.starts_with('/') {
            Target::Unix(pidfile::socket_path(Path::new(host), port))
        } else {
            Target::Tcp(host.to_owned(), port)
        }
    }

    /// The places where a server can be reached by its pid file, the most private first.
    pub fn of_server(server: &PidFile) -> Vec<Target> {
        let socket = server.socket().map(Target::Unix);
        let has_tcp = server.port != 0 && !server.listen_address.is_empty();
        let tcp = has_tcp.then(|| Target::Tcp(server.listen_address.clone(), server.port));
        socket.into_iter().chain(tcp).collect()
    }

    /// Connects, and lets no read or write take longer than `timeout`. To connect takes no longer
    /// over TCP; to a unix socket it may, see [`within`].
    ///
    /// # Errors
    /// When nobody answers there.
    pub fn connect(&self, timeout: Option<Duration>) -> Result<Client, Error> {
        let mut client = match (self, timeout) {
            (Target::Unix(path), _) => Client::connect_unix(path)?,
            (Target::Tcp(host, port), None) => Client::connect((host.as_str(), *port))?,
            (Target::Tcp(host, port), Some(timeout)) => {
                Client::connect_timeout((host.as_str(), *port), timeout)?
            }
        };
        client.set_timeout(timeout)?;
        Ok(client)
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It serves.
    Accepting,
    /// It is there, and does not serve now; with the reason.
    Rejecting(String),
    /// Nobody is there, or nobody who speaks our protocol.
    NoResponse,
}

/// Asks and waits for the answer, also from a server that said why it refuses and closed before
/// it was asked: what it said can be read although nothing can be written.
///
/// # Errors
/// When no answer comes.
pub fn call<T: AsRef<[u8]>>(client: &mut Client, words: &[T]) -> Result<Reply, Error> {
    client.send(words);
    let sent = client.flush();
    client
        .receive()
        .map_err(|error| sent.err().unwrap_or(error))
}

/// What `work` gives, unless that takes longer than `limit`: it is then left to itself. For what has
/// no time limit of its own, as connecting to a unix socket whose server accepts nothing.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (outcomes, outcome) = mpsc::channel();
    // Too late, nobody wants it.
    thread::spawn(move || drop(outcomes.send(work())));
    outcome.recv_timeout(limit).ok()
}

/// Asks whoever listens there, and waits no longer than `timeout` for the answer. An error that is
/// about this client only (too many clients, no password) comes from a server that serves.
pub fn ask(target: &Target, timeout: Option<Duration>) -> Answer {
    let Some(limit) = timeout else {
        return ask_patiently(target, None);
    };
    let target = target.clone();
    let answer = within(limit, move || ask_patiently(&target, timeout));
    answer.unwrap_or(Answer::NoResponse)
}

/// As [`ask`], with a time limit for each step of the way.
fn ask_patiently(target: &Target, timeout: Option<Duration>) -> Answer {
    let reply = target
        .connect(timeout)
        .and_then(|mut client| call(&mut client, &["PING"]));
    match reply {
        Ok(Reply::Error(text)) => match text.strip_prefix("LOADING ") {
            Some(why) => Answer::Rejecting(why.to_owned()),
            None if text.contains("is shutting down") => {
                Answer::Rejecting(text.trim_start_matches("ERR ").to_owned())
            }
            None => Answer::Accepting,
        },
        Ok(_) => Answer::Accepting,
        Err(_) => Answer::NoResponse,
    }
}

/// Looks at a data directory's pid file; asks the server itself only when that says it serves.
///
/// A server in recovery is watched until its status line changes, or for `timeout`: that tells
/// one that advances from one that is stuck.
///
/// # Errors
/// When it is no data directory or cannot be read: that says nothing of any server. One that is not
/// made to its end has none.
pub fn look(dir: &Path, timeout: Duration) -> Result<Answer> {
    if !is_unfinished(dir) {
        datadir::check_usable(dir)?;
    }
    let server = pidfile::running(dir)
        .with_context(|| format!("could not read \"{}\"", dir.join(PID_FILE).display()))?;
    Ok(match server {
        None => Answer::NoResponse,
        Some(server) => match &server.status {
            Status::Recovering(progress) => watch(dir, &server, progress, timeout),
            _ => told(&server, timeout),
        },
    })
}

/// What a server says of itself, once it is known not to stand still.
fn told(server: &PidFile, timeout: Duration) -> Answer {
    match &server.status {
        Status::Starting => Answer::Rejecting("starting".to_owned()),
        Status::Stopping => Answer::Rejecting("shutting down".to_owned()),
        Status::Recovering(progress) => {
            Answer::Rejecting(format!("recovering and advancing: {}", progress.in_words()))
        }
        Status::Ready => {
            let ask = |target| ask(&target, Some(timeout));
            let answers = Target::of_server(server).into_iter().map(ask);
            let mut answers = answers.filter(|answer| *answer != Answer::NoResponse);
            answers.next().unwrap_or(Answer::NoResponse)
        }
    }
}

fn watch(dir: &Path, server: &PidFile, before: &Progress, timeout: Duration) -> Answer {
    let began = Instant::now();
    loop {
        match pidfile::running(dir) {
            Ok(Some(now)) if now.pid != server.pid => return Answer::NoResponse,
            // Any other state is news; that it starts again, too, when a child of it crashed.
            Ok(Some(now)) if now.status != server.status => return told(&now, timeout),
            Ok(Some(_)) | Err(_) => {}
            Ok(None) => return Answer::NoResponse,
        }
        if began.elapsed() >= timeout {
            let seconds = timeout.as_secs_f64();
            let at = before.in_words();
            return Answer::Rejecting(format!("recovering, stuck for {seconds} s at: {at}"));
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pidfile::LOCK_FILE;
    use std::fs::{self, File};

    #[test]
    fn a_recovery_that_begins_again_is_no_shutdown() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let dir = fs::canonicalize(temporary.path()).expect("there");
        let _held = File::create(dir.join(LOCK_FILE)).expect("created");
        let at = |status: &str| {
            let me = std::process::id();
            let text = format!("{me}\n/srv\n1\n0\n\n\n/none\n{status}\n");
            fs::write(dir.join(PID_FILE), text).expect("written");
            pidfile::running(&dir).expect("readable").expect("it runs")
        };
        let server = at("recovering redo 43% eta 3s");
        let Status::Recovering(before) = &server.status else {
            panic!("{server:?}");
        };
        for (status, words) in [
            ("starting", "starting"),
            ("stopping", "shutting down"),
            ("recovering redo 44%", "recovering and advancing: redo 44 %"),
        ] {
            at(status);
            let seen = watch(&dir, &server, before, Duration::ZERO);
            assert_eq!(seen, Answer::Rejecting(words.to_owned()), "{status}");
        }
    }
}
