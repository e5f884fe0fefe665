//! Events: waking a process that sleeps in epoll or poll, without a system call while it is awake.
//!
//! One word in shared memory says whether the event is *pending* and whether its owner is
//! *sleeping* (or about to); an eventfd, made before the fork and so shared, does the waking.
//!
//! Protocol. Owner: O1 `take`, O2 look at the conditions and work, O3 `prepare_sleep`; if that says
//! no, again from O1; O4 sleep in epoll on [`Event::fd`], O5 `finish_sleep`, again from O1.
//! Notifier: N1 make a condition true, N2 `notify`.
//!
//! No wake-up is lost. Every step on the word is a read-modify-write, and these have one order. If
//! N2 comes before O1's, O2 sees N1, because O1 acquires what N2 released. If it comes between O1
//! and O3, O3 sees pending. If it comes after O3, N2 sees sleeping and writes the eventfd. Where N2
//! finds the event pending already it need do nothing more: the owner's O1 is still to come.

use crate::atomic::AtomicU32;
use crate::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::shm::One;
use crate::word::Word;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, KnownLayout};

/// Notified since the last `take`.
const PENDING: u32 = 1;
/// The owner sleeps, or is about to.
const SLEEPING: u32 = 2;

#[derive(FromBytes, KnownLayout, Debug, Default)]
#[repr(C)]
pub(crate) struct RawEvent<W> {
    /// atomic: AcqRel by all.
    pub(crate) state: W,
    /// owner only: 1 while a write to the eventfd may be still to come.
    pub(crate) owed: W,
}

impl<W: Word> RawEvent<W> {
    #[inline]
    pub(crate) fn notify(&self, wake: impl FnOnce()) {
        // One write per sleep: only who turns a sleeping, not pending state makes it.
        if self.state.fetch_or(PENDING, AcqRel) == SLEEPING {
            wake();
        }
    }

    #[inline]
    pub(crate) fn prepare_sleep(&self) -> bool {
        if self.state.fetch_or(SLEEPING, AcqRel) & PENDING == 0 {
            return true;
        }
        self.state.fetch_and(!SLEEPING, AcqRel);
        false
    }

    /// `drain` empties the eventfd and says whether there was something in it.
    #[inline]
    pub(crate) fn finish_sleep(&self, drain: impl FnOnce() -> bool) {
        let before = self.state.fetch_and(!SLEEPING, AcqRel);
        if before & PENDING != 0 {
            // Somebody has written the eventfd, or is just about to.
            self.owed.swap(1, Relaxed);
        }
        if self.owed.load(Relaxed) != 0 && drain() {
            self.owed.swap(0, Relaxed);
        }
    }

    #[cfg(feature = "sim")]
    fn is_pending(&self) -> bool {
        self.state.load(Relaxed) & PENDING != 0
    }

    #[inline]
    pub(crate) fn take(&self) -> bool {
        if self.state.load(Acquire) & PENDING == 0 {
            return false;
        }
        self.state.fetch_and(!PENDING, AcqRel) & PENDING != 0
    }
}

/// The part of an [`Event`] that lies in shared memory; nothing pending when zero.
#[derive(FromBytes, KnownLayout, Debug)]
#[repr(C, align(64))]
pub struct EventCell {
    raw: RawEvent<AtomicU32>,
    _reserved: [u8; 56],
}

/// An event that one process owns (sleeps on) and any may notify. Clones are handles to the same
/// event; it is made before the fork of all who use it.
#[derive(Clone)]
pub struct Event {
    cell: One<EventCell>,
    fd: Arc<WakeFd>,
}

/// What wakes the owner where it sleeps.
struct WakeFd {
    fd: EventFd,
    /// This process has written it since it was made, or was emptied to be used again.
    #[cfg(feature = "sim")]
    is_written: std::sync::atomic::AtomicBool,
}

impl Event {
    /// Makes the eventfd that goes with a cell. One event per cell, before the fork.
    pub fn create(cell: One<EventCell>) -> io::Result<Event> {
        Ok(Event {
            cell,
            fd: WakeFd::new()?,
        })
    }

    /// Tells the owner that something it waits for may be true now. A system call only if it
    /// sleeps, and only for the first of several notifiers.
    #[inline]
    pub fn notify(&self) {
        self.cell.raw.notify(|| {
            #[cfg(feature = "sim")]
            crate::simproc::wake(self.word(), u32::MAX, 1);
            self.fd.write_one();
        });
    }

    /// Owner: announces that it is about to sleep. False if something is pending: then there is to
    /// be no sleep, and no `finish_sleep`. After true, `finish_sleep` must follow before anything
    /// else of the owner's.
    #[inline]
    pub fn prepare_sleep(&self) -> bool {
        self.cell.raw.prepare_sleep()
    }

    /// Owner: the sleep is over, however it ended.
    #[inline]
    pub fn finish_sleep(&self) {
        self.cell.raw.finish_sleep(|| self.fd.drain());
    }

    /// Owner: clears pending, and says whether it was set. To be called before looking at what was
    /// notified about, never after.
    #[inline]
    pub fn take(&self) -> bool {
        self.cell.raw.take()
    }

    /// Whether the owner sleeps at this moment; only a hint, for deciding who does some work.
    #[inline]
    pub fn is_sleeping(&self) -> bool {
        self.cell.raw.state.load(Relaxed) & SLEEPING != 0
    }

    /// Readable after a notification during sleep: for the owner's epoll, level-triggered.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.fd.as_fd()
    }

    /// Owner, when it waits for nothing else: sleeps until notified, and takes the event. False
    /// if the time was over or a signal came first.
    pub fn wait(&self, timeout: Option<Duration>) -> bool {
        self.wait_for(&mut [PollFd::new(self.fd(), PollFlags::POLLIN)], timeout)
    }

    /// As [`Event::wait`], but ends too when `other` (of signals, say) is readable.
    pub fn wait_with(&self, other: BorrowedFd<'_>, timeout: Option<Duration>) -> bool {
        let own = PollFd::new(self.fd(), PollFlags::POLLIN);
        self.wait_for(&mut [own, PollFd::new(other, PollFlags::POLLIN)], timeout)
    }

    /// What a simulation calls it.
    #[cfg(feature = "sim")]
    fn word(&self) -> usize {
        self.cell.raw.state.as_ptr().addr()
    }

    fn wait_for(&self, fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> bool {
        if self.prepare_sleep() {
            #[cfg(feature = "sim")]
            if crate::simproc::runs() {
                // Who notifies from now on finds it asleep; who did already has written, or will,
                // which ends a sleep.
                let is_limited = timeout.is_some() || fds.len() > 1;
                if !self.cell.raw.is_pending() {
                    crate::simproc::sleep_on(self.word(), u32::MAX, is_limited);
                }
                self.finish_sleep();
                return self.take();
            }
            match ppoll(fds, timeout.map(TimeSpec::from), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    crate::crash::panic_abort(&format!("could not wait for an event: {error}"))
                }
            }
            self.finish_sleep();
        }
        self.take()
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl WakeFd {
    fn new() -> io::Result<Arc<WakeFd>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let make = || {
            Ok(Arc::new(WakeFd {
                fd: EventFd::from_flags(flags)?,
                #[cfg(feature = "sim")]
                is_written: false.into(),
            }))
        };
        #[cfg(feature = "sim")]
        let make = || reuse::wake_fd(make);
        make()
    }

    fn write_one(&self) {
        #[cfg(feature = "sim")]
        self.is_written.store(true, Relaxed);
        loop {
            match self.fd.write(1) {
                // EAGAIN: the counter is full, so the owner will wake.
                Ok(_) | Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    crate::crash::panic_abort(&format!("could not notify a process: {error}"))
                }
            }
        }
    }

    /// Empties the counter; true if there was something in it.
    fn drain(&self) -> bool {
        loop {
            match self.fd.read() {
                Ok(_) => return true,
                Err(Errno::EAGAIN) => return false,
                Err(Errno::EINTR) => {}
                Err(error) => {
                    crate::crash::panic_abort(&format!("could not read an event: {error}"))
                }
            }
        }
    }
}

/// A simulation makes servers by the thousand, each with an event for every process that there could
/// be: it uses those of earlier ones again.
#[cfg(feature = "sim")]
mod reuse {
    use super::{Arc, Relaxed, WakeFd, io};
    use crate::fork::has_forked;
    use std::cell::RefCell;
    use std::collections::VecDeque;

    /// Descriptors that are kept.
    const KEPT_MAX: usize = 512;

    thread_local! {
        static MADE: RefCell<VecDeque<Arc<WakeFd>>> = const { RefCell::new(VecDeque::new()) };
    }

    /// One that nobody has any more, or a new one.
    pub(super) fn wake_fd(
        make: impl FnOnce() -> io::Result<Arc<WakeFd>>,
    ) -> io::Result<Arc<WakeFd>> {
        MADE.with_borrow_mut(|made| {
            // In the order in which they were given away, which is about that of their end; those
            // of a server that lives long come round now and then.
            for _ in 0..made.len() {
                let Some(mut fd) = made.pop_front() else {
                    break;
                };
                let is_free = Arc::get_mut(&mut fd).is_some();
                made.push_back(Arc::clone(&fd));
                if is_free {
                    // Most were never written: a system call for each would be felt. But what other
                    // processes write is not noted here.
                    if fd.is_written.swap(false, Relaxed) || has_forked() {
                        fd.drain();
                    }
                    return Ok(fd);
                }
            }
            let fd = make()?;
            if made.len() < KEPT_MAX {
                made.push_back(Arc::clone(&fd));
            }
            Ok(fd)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::{Plan, Segment};
    use nix::poll::PollTimeout;
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::SeqCst;
    use std::thread;

    fn event() -> Event {
        let mut plan = Plan::new();
        let region = plan.reserve::<EventCell>(1);
        let segment = Segment::anonymous(&plan).expect("memory");
        Event::create(segment.one(region)).expect("a descriptor")
    }

    fn readable(event: &Event) -> bool {
        let mut fds = [PollFd::new(event.fd(), PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, PollTimeout::ZERO).expect("poll") == 1
    }

    #[test]
    fn an_owner_that_is_awake_costs_no_system_call() {
        let event = event();
        event.notify();
        event.notify();
        assert!(!readable(&event));
        assert!(!event.prepare_sleep(), "something is pending");
        assert!(event.take() && !event.take());
        assert!(event.prepare_sleep());
        assert!(event.is_sleeping());
        event.notify();
        event.notify();
        assert!(readable(&event));
        event.finish_sleep();
        assert!(!readable(&event) && !event.is_sleeping());
        assert!(event.take());
    }

    #[test]
    fn a_timeout_and_another_descriptor_end_the_sleep() {
        let (event, other) = (event(), event());
        assert!(!event.wait(Some(Duration::from_millis(1))));
        assert!(other.prepare_sleep());
        other.notify();
        assert!(!event.wait_with(other.fd(), None));
        event.notify();
        assert!(event.wait_with(other.fd(), None));
    }

    #[test]
    fn no_notification_is_lost() {
        const TURNS: u64 = 20_000;
        let event = event();
        let (asked, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while answered.load(SeqCst) < TURNS {
                    // Without a limit: a lost wake-up would hang here.
                    event.wait(None);
                    answered.store(asked.load(SeqCst), SeqCst);
                }
            });
            for turn in 1..=TURNS {
                asked.store(turn, SeqCst);
                event.notify();
                while turn % 2 == 0 && answered.load(SeqCst) < turn {
                    thread::yield_now();
                }
            }
        });
    }
}
