//! Making a child, and leaving a process.
//!
//! Invariants:
//!
//! * A fork is made only by a process of one thread that holds no frame: so the child may run any
//!   code, and no page gets two writers.
//! * A child never comes back into its parent's frames: its entry cannot return, a panic aborts,
//!   and it leaves by `_exit`, without the destructors and `atexit` functions of its parent.
//! * From its first instruction a child has SIGQUIT lead to `_exit(2)`, gets it when its parent
//!   dies, and has let go of the parent's end of the death watch.

use crate::process::{self, Pid, Signal};
use crate::{crash, deathwatch, held, signals, title};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{ForkResult, fork, getppid, setsid};
use rd_base::{Role, logline};
use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
#[cfg(feature = "sim")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicI32, Ordering};

/// The process that made this one by [`spawn`]; 0 if that was not how it was made.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// Whether this process was made by [`spawn`].
pub fn is_child() -> bool {
    PARENT.load(Ordering::Relaxed) != 0
}

/// This process has forked, or comes from a fork.
#[cfg(feature = "sim")]
static HAS_FORKED: AtomicBool = AtomicBool::new(false);

/// Whether what this process has made may be in use by another, too.
#[cfg(feature = "sim")]
pub(crate) fn has_forked() -> bool {
    HAS_FORKED.load(Ordering::Relaxed)
}

/// Sends a signal to the process that made this one by [`spawn`]; false if there is none, or it
/// has died (never to whatever process took this one over).
pub fn tell_parent(signal: Signal) -> io::Result<bool> {
    match Pid::new(PARENT.load(Ordering::Relaxed)) {
        Some(parent) if Pid::parent() == Some(parent) => process::kill(parent, signal),
        _ => Ok(false),
    }
}

/// Forks; the child gets the role's title, a session of its own (so that the terminal's Ctrl-C
/// reaches the postmaster alone) and runs `child`, with the signals of [`signals`] blocked until
/// it installs its own.
///
/// # Panics
/// If this process has more than one thread, or holds a frame.
pub fn spawn(role: Role, child: impl FnOnce() -> Infallible) -> io::Result<Pid> {
    assert_eq!(
        threads()?,
        1,
        "a process with several threads must not fork"
    );
    assert_eq!(
        held::frames(),
        0,
        "a process that holds a frame must not fork"
    );
    flush();
    #[cfg(feature = "sim")]
    HAS_FORKED.store(true, Ordering::Relaxed);
    let parent = nix::unistd::getpid();
    let mask = signals::block_all()?;
    // SAFETY: there is no other thread, so nothing of the process (locks, the allocator) is in
    // the middle of a change.
    match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => {
            signals::restore_mask(&mask)?;
            Ok(Pid::from_nix(child))
        }
        Ok(ForkResult::Child) => {
            let _never_back = AbortOnUnwind;
            if let Err(error) = settle(role, parent) {
                crash::panic_abort(&format!("could not start the {role} process: {error}"));
            }
            run(child)
        }
        Err(error) => {
            signals::restore_mask(&mask)?;
            Err(error.into())
        }
    }
}

/// `Infallible` stands for `!`, which no bound can name yet.
fn run(child: impl FnOnce() -> Infallible) -> ! {
    match child() {}
}

/// What every child does first.
fn settle(role: Role, parent: nix::unistd::Pid) -> io::Result<()> {
    PARENT.store(parent.as_raw(), Ordering::Relaxed);
    logline::set_role(role);
    deathwatch::let_go();
    // Blocked still; delivered as soon as the handler is there.
    prctl::set_pdeathsig(nix::sys::signal::Signal::SIGQUIT)?;
    if getppid() != parent {
        // It died before we asked to be told.
        exit_process(signals::QUIT_EXIT_CODE);
    }
    match setsid() {
        Ok(_) | Err(Errno::EPERM) => {}
        Err(error) => return Err(error.into()),
    }
    title::set_role(role, "");
    signals::become_child()
}

/// Leaves the process at once with `code`, after what the log and standard output still hold is
/// written. Nothing is dropped, no function registered to run at exit runs.
pub fn exit_process(code: i32) -> ! {
    flush();
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// Half a line in a buffer would be written by both, were it not written before the fork.
fn flush() {
    log::logger().flush();
    // Whoever closed our output does not want it.
    let _ = io::stdout().flush();
    let _ = io::stderr().flush();
}

/// Threads of this process.
pub(crate) fn threads() -> io::Result<usize> {
    let status = fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"))
        .and_then(|count| count.trim().parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/status names no number of threads"))
}

/// Where panics unwind (in tests), a child's must not reach its parent's frames.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}
