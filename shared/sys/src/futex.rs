//! Sleeping on a word of shared memory, across processes, and a condition built on it.
//!
//! Invariant: the private flag is never used, because a private futex is looked up by address
//! space and would not find a sleeper in another process.

use crate::atomic::AtomicU32;
use crate::rawcondition::RawCondition;
use std::ptr;
use std::time::Duration;
use zerocopy::{FromBytes, KnownLayout};

const ANY_CHANNEL: u32 = u32::MAX;

/// How a [`futex_wait`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// A wake-up came (or the kernel ended the wait without one: look at the condition again).
    Woken,
    /// The word did not hold the expected value, so there was no sleep.
    Changed,
    /// A signal was handled meanwhile.
    Interrupted,
    /// The time was over.
    TimedOut,
}

/// Sleeps while `word` holds `expected`, at most for `timeout`. A signal ends the sleep, so that
/// a caller in a loop sees what its handler did.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Waited {
    match timeout {
        None => wait_until(word, expected, None, ANY_CHANNEL),
        Some(timeout) => {
            let end = crate::clock::monotonic_ns()
                .saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
            wait_until(word, expected, Some(end), ANY_CHANNEL)
        }
    }
}

/// Wakes up to `count` sleepers on `word`, in whatever process, and returns how many.
pub fn futex_wake(word: &AtomicU32, count: u32) -> u32 {
    wake_on(word, count, ANY_CHANNEL)
}

/// Sleeps without a time limit; true if a wake-up ended it.
pub(crate) fn wait_on(word: &AtomicU32, expected: u32, channel: u32) -> bool {
    wait_until(word, expected, None, channel) == Waited::Woken
}

fn wait_until(word: &AtomicU32, expected: u32, end_ns: Option<u64>, channel: u32) -> Waited {
    #[cfg(feature = "sim")]
    if word.load(crate::atomic::Ordering::SeqCst) != expected {
        return Waited::Changed;
    } else if let Some(is_woken) =
        crate::simproc::sleep_on(word.as_ptr().addr(), channel, end_ns.is_some())
    {
        return if is_woken {
            Waited::Woken
        } else {
            Waited::Interrupted
        };
    }
    let end = end_ns.map(|ns| libc::timespec {
        tv_sec: libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(libc::time_t::MAX),
        // Below 10^9, which fits every c_long.
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    });
    let end_pointer = end.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: FUTEX_WAIT_BITSET reads the word, which is a live atomic, and the timespec, which
    // is null or lives until the call returns; it writes to neither.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            end_pointer,
            ptr::null::<u32>(),
            channel,
        )
    };
    if result == 0 {
        return Waited::Woken;
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Waited::Changed,
        Some(libc::EINTR) => Waited::Interrupted,
        Some(libc::ETIMEDOUT) => Waited::TimedOut,
        other => crate::crash::panic_abort(&format!("futex wait failed with errno {other:?}")),
    }
}

/// Wakes up to `count` sleepers of a channel, and returns how many.
pub(crate) fn wake_on(word: &AtomicU32, count: u32, channel: u32) -> u32 {
    let count = count.min(i32::MAX as u32);
    #[cfg(feature = "sim")]
    let logical = crate::simproc::wake(word.as_ptr().addr(), channel, count);
    #[cfg(not(feature = "sim"))]
    let logical = 0;
    let count = count - logical;
    if count == 0 {
        return logical;
    }
    // SAFETY: FUTEX_WAKE_BITSET takes the address of the word, a live atomic, as a name only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE_BITSET,
            count,
            ptr::null::<libc::timespec>(),
            ptr::null::<u32>(),
            channel,
        )
    };
    let woken = u32::try_from(result).unwrap_or_else(|_| {
        let error = std::io::Error::last_os_error();
        crate::crash::panic_abort(&format!("futex wake failed: {error}"))
    });
    logical + woken
}

/// Something in shared memory that processes wait for: a sequence that moves at each change.
///
/// Waiter: take a ticket, look at the condition, wait with the ticket if it does not hold, and
/// again. Changer: make the condition true, wake all. No wake-up is lost then (`rawcondition.rs`).
#[derive(FromBytes, KnownLayout, Debug, Default)]
#[repr(C)]
pub struct Condition {
    raw: RawCondition<AtomicU32>,
}

/// The state of a [`Condition`] that a waiter has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u32);

impl Condition {
    /// A condition outside of shared memory, for tests.
    pub const fn new() -> Self {
        let (sequence, waiters) = (AtomicU32::new(0), AtomicU32::new(0));
        Self {
            raw: RawCondition { sequence, waiters },
        }
    }

    /// To be taken before looking at the condition.
    pub fn ticket(&self) -> Ticket {
        Ticket(self.raw.ticket())
    }

    /// Sleeps unless there was a [`Condition::wake_all`] since the ticket was taken. Returns at a
    /// wake-up, a signal, or when the time is over: the caller looks at its condition again.
    pub fn wait(&self, ticket: Ticket, timeout: Option<Duration>) {
        self.raw.wait(ticket.0, |word, expected| {
            futex_wait(word, expected, timeout);
        });
    }

    /// Wakes all who wait. Without waiters this is no system call.
    pub fn wake_all(&self) {
        self.raw.wake_all();
    }
}
