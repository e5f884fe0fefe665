//! Logical processes of a simulated server: each has a stack of its own, all run on one thread, one
//! at a time, and each runs until it has done an I/O on the simulated disk or would have to wait.
//! There it pauses, and whoever resumes processes chooses who goes on. So the same choices give the
//! same run, to the last byte.
//!
//! What pauses is built into this crate: the simulated disk ([`Pause::Io`], [`Pause::Read`]), futex
//! waits, and waits for an event ([`Pause::Wait`]). Such a wait ends when the process is resumed,
//! whether what it waits for has come true or not; all who wait look again, and wait again. Outside
//! of a logical process nothing pauses.
//!
//! Invariants:
//! * A process is resumed from outside of all others, never by another one.
//! * What a thread holds ([`crate::held`]) is what the process that runs on it holds.
//! * A process that is given up is unwound, as by a panic: its guards let go. While it unwinds it does
//!   not pause.

use crate::crash::catch_panics;
use crate::held;
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell};
use std::ptr;

/// Enough for recovery in a build without optimisation.
const STACK_BYTES: usize = 1 << 20;
/// Stacks that are kept for processes to come.
const STACKS_MAX: usize = 64;

/// Where a process has paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Within an I/O that changes the disk or makes something durable. What it writes is there, and
    /// not durable; a sync is still to come. A crash here is a crash during that I/O.
    Io,
    /// Before a read of the disk.
    Read,
    /// It can do nothing until another process has done something, or time has gone on.
    Wait,
    /// Where the simulation itself wants others to come in.
    Step,
}

/// How far a process has come when it was resumed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on when it is resumed.
    Paused(Pause),
    /// It is over.
    Ended,
    /// It has ended itself, and with it the server: [`crate::crash::panic_abort`] with this message.
    Panicked(String),
}

type Outcome = Result<(), String>;
type Fiber = Coroutine<(), Pause, Outcome, DefaultStack>;

thread_local! {
    /// By what the process that runs can pause; null outside of processes.
    static CURRENT: Cell<*const Yielder<(), Pause>> = const { Cell::new(ptr::null()) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// Lets the allocator of this program keep all that it has got from the system: a simulation takes and
/// gives back the same large pieces for every server that it makes, and each would be mapped, faulted
/// in, and unmapped again. To be called before there is a second thread.
pub fn keep_memory() {
    #[cfg(target_env = "gnu")]
    for (option, bytes) in [
        (libc::M_MMAP_THRESHOLD, 1 << 30),
        (libc::M_TRIM_THRESHOLD, 1 << 30),
        (libc::M_TOP_PAD, 16 << 20),
    ] {
        // SAFETY: it takes two numbers and sets one of the allocator's.
        let done = unsafe { libc::mallopt(option, bytes) };
        debug_assert_eq!(done, 1);
    }
}

/// A logical process.
pub struct Process {
    /// None when it is over.
    fiber: Option<Fiber>,
}

impl Process {
    /// A process that will run `body` when it is resumed.
    ///
    /// # Panics
    /// When there is no memory for its stack.
    pub fn new(body: impl FnOnce() + 'static) -> Process {
        let stack = STACKS.with_borrow_mut(Vec::pop).unwrap_or_else(|| {
            DefaultStack::new(STACK_BYTES).expect("memory for the stack of a simulated process")
        });
        let fiber = Coroutine::with_stack(stack, move |yielder: &Yielder<(), Pause>, ()| {
            CURRENT.set(ptr::from_ref(yielder));
            let outcome = catch_panics(body);
            CURRENT.set(ptr::null());
            outcome
        });
        Process { fiber: Some(fiber) }
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.fiber.is_none()
    }

    /// Lets it run until it pauses or ends. A panic of its code goes on here.
    ///
    /// # Panics
    /// When it is over, or this is called from within a process.
    pub fn resume(&mut self) -> Progress {
        assert!(CURRENT.get().is_null(), "a process resumes another one");
        let outside = held::replace(held::Held::default());
        let fiber = self.fiber.as_mut().expect("a process that is not over");
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fiber.resume(())));
        CURRENT.set(ptr::null());
        held::replace(outside);
        match result {
            Ok(CoroutineResult::Yield(pause)) => Progress::Paused(pause),
            Ok(CoroutineResult::Return(outcome)) => {
                self.put_stack_back();
                outcome.map_or_else(Progress::Panicked, |()| Progress::Ended)
            }
            Err(panic) => {
                self.put_stack_back();
                std::panic::resume_unwind(panic)
            }
        }
    }

    /// Of a process that has returned or was unwound.
    fn put_stack_back(&mut self) {
        let Some(fiber) = self.fiber.take() else {
            return;
        };
        let stack = fiber.into_stack();
        STACKS.with_borrow_mut(|stacks| {
            if stacks.len() < STACKS_MAX {
                stacks.push(stack);
            }
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(fiber) = &mut self.fiber {
            let outside = held::replace(held::Held::default());
            fiber.force_unwind();
            CURRENT.set(ptr::null());
            held::replace(outside);
            self.put_stack_back();
        }
    }
}

/// Puts back what belongs to the process when it runs again, be it that it is unwound.
struct Return {
    process: *const Yielder<(), Pause>,
    held: Option<held::Held>,
}

impl Drop for Return {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            held::replace(held);
        }
        let unwinds = std::thread::panicking();
        CURRENT.set(if unwinds { ptr::null() } else { self.process });
    }
}

/// Pauses the process that runs; true if there is one.
#[inline]
pub fn pause(why: Pause) -> bool {
    let process = CURRENT.get();
    if process.is_null() {
        return false;
    }
    CURRENT.set(ptr::null());
    let back = Return {
        process,
        held: Some(held::replace(held::Held::default())),
    };
    // SAFETY: `CURRENT` is set only while the body of that process runs, which is what calls this,
    // and the yielder lives as long as the body.
    let yielder = unsafe { &*process };
    yielder.suspend(why);
    drop(back);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crash::panic_abort;
    use crate::latch::Latch;
    use std::rc::Rc;

    fn run_by_turns(processes: &mut [Process]) {
        while processes.iter().any(|process| !process.is_over()) {
            for process in processes.iter_mut().filter(|process| !process.is_over()) {
                process.resume();
            }
        }
    }

    #[test]
    fn processes_wait_for_each_others_latches_on_one_thread() {
        let latch = Rc::new(Latch::<0>::new());
        let seen = Rc::new(RefCell::new(Vec::new()));
        let mut processes: Vec<Process> = (0..3)
            .map(|number| {
                let (latch, seen) = (Rc::clone(&latch), Rc::clone(&seen));
                Process::new(move || {
                    for _ in 0..2 {
                        let _held = latch.lock();
                        seen.borrow_mut().push(number);
                        assert!(pause(Pause::Step));
                        seen.borrow_mut().push(number);
                    }
                })
            })
            .collect();
        run_by_turns(&mut processes);
        let seen = seen.borrow();
        assert_eq!(seen.len(), 12);
        assert!(
            seen.chunks(2).all(|pair| pair[0] == pair[1]),
            "two held the latch: {seen:?}"
        );
        assert!(!pause(Pause::Step), "nobody runs");
    }

    #[test]
    fn who_is_given_up_lets_go_and_who_panics_says_why() {
        let latch = Rc::new(Latch::<0>::new());
        let taken = Rc::clone(&latch);
        let mut holder = Process::new(move || {
            let _held = taken.lock();
            pause(Pause::Step);
            unreachable!("it is given up before");
        });
        assert_eq!(holder.resume(), Progress::Paused(Pause::Step));
        assert!(latch.try_lock().is_none());
        drop(holder);
        assert!(latch.try_lock().is_some());

        let mut dying = Process::new(|| panic_abort("could not sync"));
        assert_eq!(
            dying.resume(),
            Progress::Panicked("could not sync".to_owned())
        );
        let mut wrong = Process::new(|| panic!("a mistake"));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wrong.resume()));
        assert!(panic.is_err());
        assert!(wrong.is_over());
    }
}
