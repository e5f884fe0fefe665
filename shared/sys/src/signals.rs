//! Signals as something to poll for.
//!
//! Invariants:
//!
//! * A handler stores an atomic, writes an eventfd and keeps `errno`; nothing else.
//! * The handler's state belongs to one process: [`crate::fork::spawn`] takes it from the child,
//!   which keeps its signals blocked until it has made its own, so none is lost in between and
//!   none of the child's wakes the parent.
//! * SIGQUIT ends a child at once, in whatever wait it is: its handler is `_exit(2)`.

use crate::process::Signal;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{self as posix, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};

/// Bit n: signal n came since the last look. atomic: the handler adds, `take` clears.
static PENDING: AtomicU64 = AtomicU64::new(0);
/// The eventfd that the handler writes; -1 while there is none.
static WAKE_FD: AtomicI32 = AtomicI32::new(-1);
/// Whether the eventfd may hold something; set after it was written. atomic: as `PENDING`.
static WRITTEN: AtomicBool = AtomicBool::new(false);
/// Whether a [`Signals`] of this process exists.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// The exit code of a process that SIGQUIT ended.
pub const QUIT_EXIT_CODE: i32 = 2;

extern "C" fn note(number: i32) {
    PENDING.fetch_or(1 << number, Release);
    let fd = WAKE_FD.load(Acquire);
    if fd >= 0 {
        let errno = Errno::last_raw();
        let one = 1u64;
        // SAFETY: write is async-signal-safe and reads eight bytes of a live local; the descriptor
        // is open, because its owner takes it from WAKE_FD before closing it. A full counter
        // needs no write.
        unsafe { libc::write(fd, ptr::from_ref(&one).cast(), 8) };
        WRITTEN.store(true, Release);
        Errno::set_raw(errno);
    }
}

extern "C" fn quit(_number: i32) {
    // SAFETY: _exit is async-signal-safe and runs no destructor.
    unsafe { libc::_exit(QUIT_EXIT_CODE) }
}

/// The signals that came since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// Whether this one came, once or more.
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & 1 << signal.number() != 0
    }

    /// Whether none came.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// This process's signals; one at a time.
pub struct Signals {
    fd: EventFd,
}

impl Signals {
    /// Handles `wanted` from now on. Of the others the server uses, SIGCHLD keeps its default,
    /// SIGQUIT in a child ends it, and the rest are ignored. So are SIGPIPE and SIGXFSZ, for what
    /// they would kill for is an error of the write too.
    ///
    /// # Panics
    /// If this process has installed signals before, or wants one that cannot be handled.
    pub fn install(wanted: &[Signal]) -> io::Result<Signals> {
        let fd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        assert!(
            !INSTALLED.swap(true, AcqRel),
            "signals are installed once in a process"
        );
        let unknown = wanted
            .iter()
            .find(|signal| !Signal::HANDLED.contains(signal));
        assert!(unknown.is_none(), "{unknown:?} cannot be handled");
        WAKE_FD.store(fd.as_fd().as_raw_fd(), Release);
        let in_child = crate::fork::is_child();
        for signal in Signal::HANDLED {
            let handler = match signal {
                _ if wanted.contains(&signal) => SigHandler::Handler(note),
                Signal::Quit if in_child => SigHandler::Handler(quit),
                Signal::Quit | Signal::Chld => SigHandler::SigDfl,
                _ => SigHandler::SigIgn,
            };
            set_handler(signal.to_nix(), handler)?;
        }
        for signal in [posix::Signal::SIGPIPE, posix::Signal::SIGXFSZ] {
            set_handler(signal, SigHandler::SigIgn)?;
        }
        posix::sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&handled()), None)?;
        Ok(Signals { fd })
    }

    /// As [`Signals::install`], but what whoever made this process had it ignore, as nohup(1) does with
    /// SIGHUP, stays ignored.
    ///
    /// # Panics
    /// As [`Signals::install`].
    pub fn install_unless_ignored(wanted: &[Signal]) -> io::Result<Signals> {
        let mut heeded = Vec::new();
        for signal in wanted {
            if !is_ignored(*signal)? {
                heeded.push(*signal);
            }
        }
        Signals::install(&heeded)
    }

    /// What came since the last look. Without signals this is no system call.
    pub fn take(&self) -> SignalSet {
        // The handler notes the signal, writes, and says so, in this order; here it is undone in
        // the opposite one. A signal in between leaves something for the next look, never a
        // readable descriptor that nobody empties.
        if WRITTEN.load(Acquire) && WRITTEN.swap(false, AcqRel) {
            let _ = self.fd.read();
        }
        if PENDING.load(Relaxed) == 0 {
            return SignalSet(0);
        }
        SignalSet(PENDING.swap(0, AcqRel))
    }

    /// Readable when something may be pending: for poll and epoll, level-triggered.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // In a child this may be its parent's, kept by a closure: only the owner's counts.
        let own = self.fd.as_fd().as_raw_fd();
        let _ = WAKE_FD.compare_exchange(own, -1, AcqRel, Relaxed);
    }
}

/// Whether this process ignores a signal.
pub fn is_ignored(signal: Signal) -> io::Result<bool> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is changed, for there is no new action; the old one goes to a live local.
    let done = unsafe { libc::sigaction(signal.number(), ptr::null(), action.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled it in, and all zeros are an action, too.
    let action = unsafe { action.assume_init() };
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

fn set_handler(signal: posix::Signal, handler: SigHandler) -> io::Result<()> {
    // SA_RESTART: reads and writes go on by themselves; poll, epoll and futex waits end anyway.
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: both handlers do only what is async-signal-safe.
    unsafe { posix::sigaction(signal, &action) }?;
    Ok(())
}

fn handled() -> SigSet {
    Signal::HANDLED
        .iter()
        .map(|signal| signal.to_nix())
        .collect()
}

/// Blocks all signals while a fork is made; `restore_mask` undoes it in the parent.
pub(crate) fn block_all() -> io::Result<SigSet> {
    let mut before = SigSet::empty();
    posix::sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        Some(&mut before),
    )?;
    Ok(before)
}

pub(crate) fn restore_mask(mask: &SigSet) -> io::Result<()> {
    posix::sigprocmask(SigmaskHow::SIG_SETMASK, Some(mask), None)?;
    Ok(())
}

/// In a child, with all signals blocked: forgets the parent's handlers and what came to it, lets
/// SIGQUIT end the child, and keeps the others that the server uses blocked until `install`.
pub(crate) fn become_child() -> io::Result<()> {
    WAKE_FD.store(-1, Release);
    PENDING.store(0, Release);
    WRITTEN.store(false, Release);
    INSTALLED.store(false, Release);
    set_handler(posix::Signal::SIGQUIT, SigHandler::Handler(quit))?;
    let mut mask = handled();
    mask.remove(posix::Signal::SIGQUIT);
    restore_mask(&mask)
}
