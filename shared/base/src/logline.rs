//! Log lines as PostgreSQL writes them, to standard error:
//!
//! ```text
//! 2026-11-21 11:28:37.123 UTC [4711] checkpointer LOG:  checkpoint starting: time
//! ```
//!
//! The levels of the `log` crate show as ERROR, WARNING, LOG, DEBUG1 and DEBUG2;
//! [`fatal!`](crate::fatal) and [`panic_line!`](crate::panic_line) write FATAL and PANIC.
//! A line of a message that begins with `DETAIL: ` or `HINT: ` gets a prefix of its own; any other
//! further line is indented, and control characters are escaped, so that no text from outside
//! passes for a message of its own.
//!
//! Invariants: a message, however many lines it has, is one `write` to descriptor 2. Role and pid
//! are looked up for each line, since the process forks after `init`.

use crate::civil::Utc;
use crate::role::Role;
use crate::words::LogMinMessages;
use log::{Level, LevelFilter, Record};
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// The target that makes a line FATAL: this process ends.
pub const FATAL: &str = "FATAL";
/// The target that makes a line PANIC: this process aborts, and the server recovers.
pub const PANIC: &str = "PANIC";

/// Logs why this process ends; the caller then exits with status 1.
#[macro_export]
macro_rules! fatal {
    ($($message:tt)+) => {
        $crate::log::error!(target: $crate::logline::FATAL, $($message)+)
    };
}

/// Logs why this process aborts; the caller then aborts.
#[macro_export]
macro_rules! panic_line {
    ($($message:tt)+) => {
        $crate::log::error!(target: $crate::logline::PANIC, $($message)+)
    };
}

/// Which role this process plays, as one word; [`NO_ROLE`] before it has one.
static ROLE: AtomicU32 = AtomicU32::new(NO_ROLE);
const NO_ROLE: u32 = 0;
const POSTMASTER: u32 = 1;
const STARTUP: u32 = 2;
const CHECKPOINTER: u32 = 3;
const WALWRITER: u32 = 4;
const FIRST_BACKEND: u32 = 5;

/// Says which role this process plays; every child does so first of all.
pub fn set_role(role: Role) {
    let word = match role {
        Role::Postmaster => POSTMASTER,
        Role::Startup => STARTUP,
        Role::Checkpointer => CHECKPOINTER,
        Role::Walwriter => WALWRITER,
        Role::Backend(number) => FIRST_BACKEND + u32::from(number),
    };
    ROLE.store(word, Ordering::Relaxed);
}

/// The role that [`set_role`] named last.
pub fn role() -> Option<Role> {
    match ROLE.load(Ordering::Relaxed) {
        NO_ROLE => None,
        POSTMASTER => Some(Role::Postmaster),
        STARTUP => Some(Role::Startup),
        CHECKPOINTER => Some(Role::Checkpointer),
        WALWRITER => Some(Role::Walwriter),
        word => u16::try_from(word - FIRST_BACKEND).ok().map(Role::Backend),
    }
}

/// Makes the `log` macros write log lines. Does nothing if a logger is there already, as in tests.
pub fn init(level: LogMinMessages) {
    let logger = env_logger::Builder::new()
        .filter_level(LevelFilter::Trace) // `set_level` alone decides
        .target(env_logger::Target::Stderr)
        .format(|line, record| line.write_all(text_of(record).as_bytes()))
        .try_init();
    if logger.is_ok() {
        set_level(level);
    }
}

/// Takes up a new `log_min_messages`.
pub fn set_level(level: LogMinMessages) {
    log::set_max_level(level.filter());
}

/// Writes one line of the severity PANIC without the logger, for a process that may hold its lock.
pub fn write_panic_unlocked(message: &str) {
    let prefix = Prefix::now();
    let line = prefix.line(PANIC, message);
    // Nobody is left to tell of a failure.
    let _ = io::stderr().write_all(line.as_bytes());
}

fn text_of(record: &Record<'_>) -> String {
    let label = match record.target() {
        FATAL => FATAL,
        PANIC => PANIC,
        _ => label(record.level()),
    };
    Prefix::now().line(label, &record.args().to_string())
}

/// PostgreSQL's word for a level.
const fn label(level: Level) -> &'static str {
    match level {
        Level::Error => "ERROR",
        Level::Warn => "WARNING",
        Level::Info => "LOG",
        Level::Debug => "DEBUG1",
        Level::Trace => "DEBUG2",
    }
}

/// What stands before the label.
struct Prefix {
    time: Utc,
    pid: u32,
    role: Option<Role>,
}

impl Prefix {
    fn now() -> Prefix {
        Prefix {
            time: Utc::from_system(SystemTime::now()),
            pid: std::process::id(),
            role: role(),
        }
    }

    /// The whole text of a message, ending with a line break.
    fn line(&self, label: &str, message: &str) -> String {
        let mut text = String::with_capacity(message.len() + 80);
        for (index, line) in message.trim_end().split('\n').enumerate() {
            let own = ["DETAIL", "HINT"].into_iter().find_map(|own| {
                let rest = line.strip_prefix(own)?.strip_prefix(": ")?;
                Some((own, rest.trim_start()))
            });
            match own {
                _ if index == 0 => self.start(&mut text, label, line),
                Some((own, rest)) => self.start(&mut text, own, rest),
                None => {
                    text.push('\t');
                    push_visible(&mut text, line);
                }
            }
            text.push('\n');
        }
        text
    }

    fn start(&self, text: &mut String, label: &str, line: &str) {
        let Prefix { time, pid, role } = self;
        let written = match role {
            Some(role) => write!(text, "{time} [{pid}] {role} {label}:  "),
            None => write!(text, "{time} [{pid}] {label}:  "),
        };
        written.expect("a String takes all that is written");
        push_visible(text, line);
    }
}

/// Adds a line with its control characters escaped, so that no client moves a terminal's cursor.
fn push_visible(text: &mut String, line: &str) {
    for character in line.chars() {
        if character.is_control() && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    fn prefix(role: Option<Role>) -> Prefix {
        Prefix {
            time: Utc::since_epoch(Duration::from_millis(1_795_260_517_123)),
            pid: 42,
            role,
        }
    }

    #[test]
    fn lines_look_like_postgresql() {
        let prefix = prefix(Some(Role::Backend(3)));
        assert_eq!(
            prefix.line("LOG", "hello"),
            "2026-11-21 11:28:37.123 UTC [42] backend 3 LOG:  hello\n"
        );
        assert_eq!(
            self::prefix(None).line("FATAL", "no\u{1b}[2J"),
            "2026-11-21 11:28:37.123 UTC [42] FATAL:  no\\u{1b}[2J\n"
        );
        assert_eq!(
            prefix.line("ERROR", "one\ntwo\r\nDETAIL: three\nHINT:  four\n"),
            "2026-11-21 11:28:37.123 UTC [42] backend 3 ERROR:  one\n\
             \ttwo\\r\n\
             2026-11-21 11:28:37.123 UTC [42] backend 3 DETAIL:  three\n\
             2026-11-21 11:28:37.123 UTC [42] backend 3 HINT:  four\n"
        );
        assert!(prefix.line("LOG", "DETAIL: x").contains("LOG:  DETAIL: x"));
    }

    #[test]
    fn roles_survive_the_word() {
        let backends = (0..64).map(Role::Backend);
        let others = [
            Role::Postmaster,
            Role::Startup,
            Role::Checkpointer,
            Role::Walwriter,
        ];
        for expected in others.into_iter().chain(backends) {
            set_role(expected);
            assert_eq!(role(), Some(expected));
        }
    }

    /// The child of the test below: not a test of its own.
    #[test]
    fn child_writes_three_messages() {
        if std::env::var_os("RD_LOGLINE_CHILD").is_none() {
            return;
        }
        init(LogMinMessages::Log);
        set_role(Role::Checkpointer);
        log::debug!("not shown");
        log::info!("first {}", 1);
        log::warn!("second\nHINT: of two lines");
        crate::fatal!("third {}", "x".repeat(20_000));
        set_level(LogMinMessages::Error);
        log::warn!("not shown");
        write_panic_unlocked("fourth");
    }

    /// A datagram socket in place of standard error shows each `write` by itself.
    #[test]
    fn each_message_is_one_write() {
        let (read, write) = UnixDatagram::pair().expect("socket pair");
        let timeout = Some(Duration::from_secs(60));
        read.set_read_timeout(timeout).expect("timeout");
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args([
                "--exact",
                "logline::tests::child_writes_three_messages",
                "--nocapture",
            ])
            .env("RD_LOGLINE_CHILD", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(write)))
            .spawn()
            .expect("spawn");
        let pid = child.id();
        let expected = [
            format!("UTC [{pid}] checkpointer LOG:  first 1\n"),
            format!("UTC [{pid}] checkpointer HINT:  of two lines\n"),
            format!(
                "UTC [{pid}] checkpointer FATAL:  third {}\n",
                "x".repeat(20_000)
            ),
            format!("UTC [{pid}] checkpointer PANIC:  fourth\n"),
        ];
        let mut buffer = vec![0; 64 << 10];
        for end in expected {
            let length = read.recv(&mut buffer).expect("a line");
            let line = String::from_utf8_lossy(&buffer[..length]);
            assert!(line.ends_with(&end), "{line:?} must end with {end:?}");
        }
        assert!(child.wait().expect("wait").success());
    }
}
