//! Logical processes of a simulated server: each has a stack of its own, all run on one thread, one
//! at a time, and each runs until it has done an I/O on the simulated disk or would have to wait.
//! There it pauses, and whoever resumes processes chooses who goes on. So the same choices give the
//! same run, to the last byte.
//!
//! What pauses is built into this crate: the simulated disk ([`Pause::Io`], [`Pause::Read`]), futex
//! waits, and waits for an event ([`Pause::Wait`]). Such a wait ends when the process is resumed,
//! whether what it waits for has come true or not; all who wait look again, and wait again. But
//! [`Process::sleep`] says whether somebody has woken it: who resumes only those finds wake-ups that
//! are lost. Outside of a logical process nothing pauses.
//!
//! With [`Process::resume_for`] a process pauses before its nth operation on an atomic of shared
//! memory, too ([`crate::atomic`], [`Pause::Atomic`]), wherever that is.
//!
//! Invariants:
//! * A process is resumed from outside of all others, never by another one.
//! * What a thread holds ([`crate::held`]) is what the process that runs on it holds.
//! * A process that is given up is unwound, as by a panic: its guards let go. While it unwinds it does
//!   not pause.

use crate::crash::{catch_panics, set_simulated};
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
    /// Before an operation on an atomic in shared memory; it has used up its steps.
    Atomic,
}

/// Whether a process sleeps: on a futex, or for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// It does not, or it was woken.
    Awake,
    /// Until somebody wakes it, or its time is over; or it waits without sleeping, and looks again
    /// whenever it is resumed.
    Limited,
    /// Until somebody wakes it.
    Unlimited,
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
    /// Operations on atomics that the process that runs may still do before it pauses.
    static STEPS: Cell<u64> = const { Cell::new(ALL_STEPS) };
    /// Those that sleep, in the order in which they lay down.
    static SLEEPERS: RefCell<Vec<Sleeper>> = const { RefCell::new(Vec::new()) };
    static LAST_SLEEPER: Cell<u64> = const { Cell::new(0) };
}

/// It does not pause before an atomic.
const ALL_STEPS: u64 = u64::MAX;

/// A process that sleeps.
struct Sleeper {
    id: u64,
    /// The address of the word that it sleeps on.
    word: usize,
    channels: u32,
    is_limited: bool,
    is_woken: bool,
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
    /// It waits.
    waits: bool,
    /// What [`SLEEPERS`] calls it, if it waits asleep.
    sleeper: Option<u64>,
    steps_left: u64,
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
        Process {
            fiber: Some(fiber),
            waits: false,
            sleeper: None,
            steps_left: 0,
        }
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
        self.resume_for(ALL_STEPS)
    }

    /// As [`Process::resume`], but it pauses before an operation on an atomic of shared memory when
    /// it has done so many, not counting that before which it had paused: so it always gets on.
    ///
    /// # Panics
    /// As [`Process::resume`].
    pub fn resume_for(&mut self, steps: u64) -> Progress {
        assert!(CURRENT.get().is_null(), "a process resumes another one");
        let before = LAST_SLEEPER.get();
        let fiber = self.fiber.as_mut().expect("a process that is not over");
        STEPS.set(steps);
        let resume = std::panic::AssertUnwindSafe(|| fiber.resume(()));
        let result = as_a_process(|| std::panic::catch_unwind(resume));
        self.steps_left = STEPS.replace(ALL_STEPS);
        self.waits = matches!(result, Ok(CoroutineResult::Yield(Pause::Wait)));
        // It has lain down once at most, as its last deed.
        let last = LAST_SLEEPER.get();
        self.sleeper = (self.waits && last > before).then_some(last);
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

    /// How many of its steps it had left when it paused.
    pub fn steps_left(&self) -> u64 {
        self.steps_left
    }

    /// Whether it sleeps.
    pub fn sleep(&self) -> Sleep {
        let Some(id) = self.sleeper else {
            return if self.waits {
                Sleep::Limited
            } else {
                Sleep::Awake
            };
        };
        SLEEPERS.with_borrow(|sleepers| {
            let its = sleepers.iter().find(|sleeper| sleeper.id == id);
            match its {
                Some(sleeper) if sleeper.is_woken => Sleep::Awake,
                Some(sleeper) if sleeper.is_limited => Sleep::Limited,
                Some(_) => Sleep::Unlimited,
                None => Sleep::Awake,
            }
        })
    }

    /// Ends it where it is, as a kill would; it is over then.
    pub fn give_up(&mut self) {
        if let Some(fiber) = &mut self.fiber {
            as_a_process(|| fiber.force_unwind());
            self.put_stack_back();
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
        self.give_up();
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

/// Does something within a process, and leaves what surrounds it as it was.
fn as_a_process<R>(enter: impl FnOnce() -> R) -> R {
    let outside = held::replace(held::Held::default());
    // Else the end of one process would be that of the simulation for those that began later.
    let was_simulated = set_simulated(true);
    let left = enter();
    CURRENT.set(ptr::null());
    set_simulated(was_simulated);
    held::replace(outside);
    left
}

/// Whether a process runs.
pub(crate) fn runs() -> bool {
    !CURRENT.get().is_null()
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

/// Before an operation on an atomic in shared memory.
#[inline(always)]
pub(crate) fn step() {
    match STEPS.get() {
        0 => pause_before_atomic(),
        left => STEPS.set(left - 1),
    }
}

#[cold]
fn pause_before_atomic() {
    // Until it is resumed for so many.
    STEPS.set(ALL_STEPS);
    if !std::thread::panicking() {
        pause(Pause::Atomic);
    }
}

/// Takes the process that sleeps out of the list, be it that it is given up.
struct Asleep(u64);

impl Asleep {
    fn position(&self, sleepers: &[Sleeper]) -> usize {
        let at = sleepers.iter().position(|sleeper| sleeper.id == self.0);
        at.expect("it stays in the list for as long as it sleeps")
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        SLEEPERS.with_borrow_mut(|sleepers| {
            let at = self.position(sleepers);
            sleepers.remove(at);
        });
    }
}

/// Lets the process that runs sleep on the word at this address, on some of its channels; gives
/// whether it was woken, and none if no process runs.
pub(crate) fn sleep_on(word: usize, channels: u32, is_limited: bool) -> Option<bool> {
    if !runs() {
        return None;
    }
    let id = LAST_SLEEPER.get() + 1;
    LAST_SLEEPER.set(id);
    SLEEPERS.with_borrow_mut(|sleepers| {
        sleepers.push(Sleeper {
            id,
            word,
            channels,
            is_limited,
            is_woken: false,
        });
    });
    let asleep = Asleep(id);
    pause(Pause::Wait);
    SLEEPERS.with_borrow(|sleepers| Some(sleepers[asleep.position(sleepers)].is_woken))
}

/// Wakes up to `count` processes that sleep on the word, on one of these channels; gives how many.
pub(crate) fn wake(word: usize, channels: u32, count: u32) -> u32 {
    SLEEPERS.with_borrow_mut(|sleepers| {
        let on_it = sleepers.iter_mut().filter(|sleeper| {
            sleeper.word == word && sleeper.channels & channels != 0 && !sleeper.is_woken
        });
        let mut woken = 0;
        for sleeper in on_it.take(count as usize) {
            sleeper.is_woken = true;
            woken += 1;
        }
        woken
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::{AtomicU32, Ordering};
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

    #[test]
    fn a_process_pauses_before_its_nth_atomic_and_nobody_else_does() {
        let word = Rc::new(AtomicU32::new(0));
        let own = Rc::clone(&word);
        let mut process = Process::new(move || {
            for _ in 0..10 {
                own.fetch_add(1, Ordering::Relaxed);
            }
        });
        assert_eq!(process.resume_for(3), Progress::Paused(Pause::Atomic));
        assert_eq!(word.load(Ordering::Relaxed), 3);
        assert_eq!(process.resume_for(0), Progress::Paused(Pause::Atomic));
        assert_eq!(word.load(Ordering::Relaxed), 4);
        assert_eq!(process.resume_for(20), Progress::Ended);
        assert_eq!(process.steps_left(), 15);
    }

    #[test]
    fn who_sleeps_is_awake_when_somebody_has_woken_it() {
        let latch = Rc::new(Latch::<0>::new());
        let mut holder = {
            let latch = Rc::clone(&latch);
            Process::new(move || {
                let held = latch.lock();
                pause(Pause::Step);
                drop(held);
                pause(Pause::Step);
            })
        };
        holder.resume();
        let mut waiter = {
            let latch = Rc::clone(&latch);
            Process::new(move || drop(latch.lock()))
        };
        assert_eq!(waiter.sleep(), Sleep::Awake);
        assert_eq!(waiter.resume(), Progress::Paused(Pause::Wait));
        assert_eq!(waiter.sleep(), Sleep::Unlimited);
        holder.resume();
        assert_eq!(waiter.sleep(), Sleep::Awake);
        assert_eq!(waiter.resume(), Progress::Ended);
        // One that is given up asleep leaves nothing behind.
        let held = latch.lock();
        let mut given_up = {
            let latch = Rc::clone(&latch);
            Process::new(move || drop(latch.lock()))
        };
        given_up.resume();
        given_up.give_up();
        assert!(given_up.is_over());
        drop(held);
        assert!(latch.try_lock().is_some());
    }
}
