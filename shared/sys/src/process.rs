//! Processes by number: who we are, who is there, signals to others, and how children ended.

use nix::errno::Errno;
use nix::sys::signal as posix;
use std::fmt;
use std::io;

/// The number of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(i32);

impl Pid {
    /// A process number as read from a file; none below 1 (those mean groups to the kernel).
    pub fn new(number: i32) -> Option<Pid> {
        (number > 0).then_some(Pid(number))
    }

    /// This process.
    pub fn own() -> Pid {
        Pid(nix::unistd::getpid().as_raw())
    }

    /// The process that made this one, or took it over.
    pub fn parent() -> Option<Pid> {
        Pid::new(nix::unistd::getppid().as_raw())
    }

    /// The number.
    pub fn get(self) -> i32 {
        self.0
    }

    pub(crate) fn from_nix(pid: nix::unistd::Pid) -> Pid {
        Pid(pid.as_raw())
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The signals the server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Read the configuration again.
    Hup,
    /// Stop fast.
    Int,
    /// Stop at once.
    Quit,
    /// Stop smart; a child: finish.
    Term,
    /// Kept for later use.
    Usr1,
    /// To the checkpointer: write the shutdown checkpoint and exit.
    Usr2,
    /// A child has ended.
    Chld,
    /// End without a word; cannot be handled.
    Kill,
    /// End with a core file; not handled here.
    Abrt,
}

impl Signal {
    pub(crate) const HANDLED: [Signal; 7] = [
        Signal::Hup,
        Signal::Int,
        Signal::Quit,
        Signal::Term,
        Signal::Usr1,
        Signal::Usr2,
        Signal::Chld,
    ];

    /// The kernel's number.
    pub fn number(self) -> i32 {
        self.to_nix() as i32
    }

    pub(crate) fn to_nix(self) -> posix::Signal {
        match self {
            Signal::Hup => posix::Signal::SIGHUP,
            Signal::Int => posix::Signal::SIGINT,
            Signal::Quit => posix::Signal::SIGQUIT,
            Signal::Term => posix::Signal::SIGTERM,
            Signal::Usr1 => posix::Signal::SIGUSR1,
            Signal::Usr2 => posix::Signal::SIGUSR2,
            Signal::Chld => posix::Signal::SIGCHLD,
            Signal::Kill => posix::Signal::SIGKILL,
            Signal::Abrt => posix::Signal::SIGABRT,
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_nix().as_str())
    }
}

/// Sends a signal; false if there is no such process.
pub fn kill(pid: Pid, signal: Signal) -> io::Result<bool> {
    send(pid, Some(signal.to_nix()))
}

/// Whether there is such a process that this one may send signals to, which somebody else's is not;
/// a zombie counts.
pub fn can_be_signaled(pid: Pid) -> bool {
    send(pid, None).unwrap_or(false)
}

fn send(pid: Pid, signal: Option<posix::Signal>) -> io::Result<bool> {
    match posix::kill(nix::unistd::Pid::from_raw(pid.0), signal) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Left with code 0.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with exit code {code}"),
            Exit::Signal(number) => match posix::Signal::try_from(*number) {
                Ok(signal) => write!(f, "was terminated by signal {number}: {signal}"),
                Err(_) => write!(f, "was terminated by signal {number}"),
            },
        }
    }
}

/// The next child that has ended, without waiting; `None` if there is none at this moment.
pub fn reap() -> Option<(Pid, Exit)> {
    loop {
        let mut status = 0;
        // The call of nix takes the child away and then fails, if a signal ended it that has no name
        // there: one for real time.
        // SAFETY: waitpid writes one number, to a live local.
        let result = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match Errno::result(result) {
            Ok(0) | Err(Errno::ECHILD) => return None,
            Ok(pid) if libc::WIFEXITED(status) => {
                return Some((Pid(pid), Exit::Code(libc::WEXITSTATUS(status))));
            }
            Ok(pid) if libc::WIFSIGNALED(status) => {
                return Some((Pid(pid), Exit::Signal(libc::WTERMSIG(status))));
            }
            // Stops and continuations are not asked for; a signal came: look again.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                crate::crash::panic_abort(&format!("could not wait for children: {error}"))
            }
        }
    }
}
