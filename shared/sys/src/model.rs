//! Model checks: the code of latches and events, run in every interleaving that the memory model
//! allows for a few threads with a few preemptions each (feature `loom`; [`run`] takes their number).
//!
//! A lost wake-up shows as a deadlock, which the checker reports; broken exclusion shows because
//! what the latch guards is a cell that the checker watches.

use crate::event::RawEvent;
use crate::rawcondition::RawCondition;
use crate::rawlatch::{HELD, RawLatch, RawRwLatch};
use crate::word::{Channel, EXCLUSIVE, SHARED, Word};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use std::sync::atomic::Ordering::{self, Relaxed};

/// A word with a model of the kernel's futex: comparing and going to sleep are one step for all
/// who wake.
#[derive(Debug)]
struct ModelWord {
    word: AtomicU32,
    sleepers: Mutex<Sleepers>,
    wake_ups: [Condvar; 2],
}

/// Per channel: who sleeps, and who of them was woken and does not know yet.
#[derive(Debug, Default)]
struct Sleepers {
    asleep: [u32; 2],
    woken: [u32; 2],
}

impl ModelWord {
    fn new() -> Self {
        Self {
            word: AtomicU32::new(0),
            sleepers: Mutex::new(Sleepers::default()),
            wake_ups: [Condvar::new(), Condvar::new()],
        }
    }
}

fn index(channel: Channel) -> usize {
    usize::from(channel == EXCLUSIVE)
}

impl Word for ModelWord {
    /// The checker tries all schedules; looking twice adds none.
    const SPINS: u32 = 0;

    fn load(&self, order: Ordering) -> u32 {
        self.word.load(order)
    }
    fn compare_exchange(&self, now: u32, new: u32, success: Ordering) -> Result<u32, u32> {
        self.word.compare_exchange(now, new, success, Relaxed)
    }
    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_add(value, order)
    }
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_sub(value, order)
    }
    fn fetch_and(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_and(value, order)
    }
    fn fetch_or(&self, value: u32, order: Ordering) -> u32 {
        self.word.fetch_or(value, order)
    }
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.word.swap(value, order)
    }

    fn wait(&self, expected: u32, channel: Channel) -> bool {
        let at = index(channel);
        let mut sleepers = self.sleepers.lock().expect("not poisoned");
        if self.word.load(Relaxed) != expected {
            return false;
        }
        sleepers.asleep[at] += 1;
        while sleepers.woken[at] == 0 {
            sleepers = self.wake_ups[at].wait(sleepers).expect("not poisoned");
        }
        sleepers.woken[at] -= 1;
        true
    }

    fn wake(&self, count: u32, channel: Channel) -> u32 {
        let at = index(channel);
        let mut sleepers = self.sleepers.lock().expect("not poisoned");
        let woken = sleepers.asleep[at].min(count);
        sleepers.asleep[at] -= woken;
        sleepers.woken[at] += woken;
        self.wake_ups[at].notify_all();
        woken
    }

    fn pause() {
        thread::yield_now();
    }

    fn full_fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// Something that only exclusion makes safe.
struct Guarded<L> {
    latch: L,
    value: UnsafeCell<u32>,
}

// SAFETY: the tests touch `value` only under `latch`; whether that suffices is what they find out,
// and the checker's cell reports it instead of racing.
unsafe impl<L: Sync> Sync for Guarded<L> {}
// SAFETY: as for `Sync`.
unsafe impl<L: Send> Send for Guarded<L> {}

impl<L> Guarded<L> {
    fn new(latch: L) -> Arc<Self> {
        Arc::new(Self {
            latch,
            value: UnsafeCell::new(0),
        })
    }

    fn get(&self) -> u32 {
        self.value.with(|value| {
            // SAFETY: the checker has made sure that nobody writes.
            unsafe { *value }
        })
    }

    fn add_one(&self) {
        self.value.with_mut(|value| {
            // SAFETY: the checker has made sure that nobody else reads or writes.
            unsafe { *value += 1 }
        });
    }
}

fn run(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn rw_latch() -> Arc<Guarded<RawRwLatch<ModelWord>>> {
    Guarded::new(RawRwLatch {
        word: ModelWord::new(),
    })
}

fn write_once(shared: &Guarded<RawRwLatch<ModelWord>>) {
    shared.latch.write();
    shared.add_one();
    shared.latch.unlock_write();
}

fn read_once(shared: &Guarded<RawRwLatch<ModelWord>>) -> u32 {
    shared.latch.read();
    let value = shared.get();
    shared.latch.unlock_read();
    value
}

#[test]
fn three_threads_share_an_exclusive_latch() {
    run(3, || {
        let shared = Guarded::new(RawLatch {
            word: ModelWord::new(),
        });
        let others: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.latch.lock();
                    shared.add_one();
                    shared.latch.unlock();
                })
            })
            .collect();
        shared.latch.lock();
        shared.add_one();
        shared.latch.unlock();
        others
            .into_iter()
            .for_each(|other| other.join().expect("no panic"));
        assert_eq!(shared.get(), 3);
        assert!(shared.latch.try_lock(), "it is free in the end");
    });
}

#[test]
fn three_writers_exclude_one_another() {
    run(3, || {
        let shared = rw_latch();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || write_once(&shared))
            })
            .collect();
        write_once(&shared);
        others
            .into_iter()
            .for_each(|other| other.join().expect("no panic"));
        assert_eq!(shared.get(), 3);
        assert_eq!(shared.latch.word.load(Relaxed) & HELD, 0);
    });
}

#[test]
fn two_writers_and_a_reader_all_get_their_turn() {
    run(3, || {
        let shared = rw_latch();
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || write_once(&shared))
            })
            .collect();
        assert!(read_once(&shared) <= 2);
        writers
            .into_iter()
            .for_each(|writer| writer.join().expect("no panic"));
        assert_eq!(shared.get(), 2);
        assert_eq!(shared.latch.word.load(Relaxed) & HELD, 0);
    });
}

#[test]
fn two_readers_and_a_writer_who_comes_twice_all_get_their_turn() {
    run(3, || {
        let shared = rw_latch();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || read_once(&shared))
            })
            .collect();
        write_once(&shared);
        write_once(&shared);
        readers
            .into_iter()
            .for_each(|reader| assert!(reader.join().expect("no panic") <= 2));
        assert_eq!(shared.get(), 2);
        assert_eq!(shared.latch.word.load(Relaxed) & HELD, 0);
    });
}

#[test]
fn a_downgrade_lets_readers_in_and_keeps_writers_out() {
    run(3, || {
        let shared = rw_latch();
        let reader = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || read_once(&shared))
        };
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || write_once(&shared))
        };
        shared.latch.write();
        shared.add_one();
        let before = shared.get();
        shared.latch.downgrade();
        assert_eq!(shared.get(), before, "no writer came in between");
        shared.latch.unlock_read();
        reader.join().expect("no panic");
        writer.join().expect("no panic");
        assert_eq!(shared.get(), 2);
    });
}

#[test]
fn attempts_never_break_exclusion_or_leave_a_sleeper() {
    run(3, || {
        let shared = rw_latch();
        let writer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || write_once(&shared))
        };
        let attempt = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if shared.latch.try_read() {
                    shared.get();
                    shared.latch.unlock_read();
                }
            })
        };
        let mut expected = 1;
        if shared.latch.try_write() {
            shared.add_one();
            shared.latch.unlock_write();
            expected += 1;
        }
        writer.join().expect("no panic");
        attempt.join().expect("no panic");
        assert_eq!(read_once(&shared), expected);
    });
}

/// The eventfd: a count, and a sleep until it is not zero.
struct ModelFd {
    count: Mutex<u32>,
    changed: Condvar,
}

impl ModelFd {
    fn write(&self) {
        *self.count.lock().expect("not poisoned") += 1;
        self.changed.notify_all();
    }

    fn poll(&self) {
        let mut count = self.count.lock().expect("not poisoned");
        while *count == 0 {
            count = self.changed.wait(count).expect("not poisoned");
        }
    }

    fn drain(&self) -> bool {
        std::mem::take(&mut *self.count.lock().expect("not poisoned")) > 0
    }
}

struct ModelEvent {
    event: RawEvent<ModelWord>,
    fd: ModelFd,
    /// What is notified about; its own ordering is none, so that the event has to give it.
    done: [AtomicU32; 2],
}

impl ModelEvent {
    fn new() -> Arc<Self> {
        Arc::new(ModelEvent {
            event: RawEvent {
                state: ModelWord::new(),
                owed: ModelWord::new(),
            },
            fd: ModelFd {
                count: Mutex::new(0),
                changed: Condvar::new(),
            },
            done: [AtomicU32::new(0), AtomicU32::new(0)],
        })
    }

    /// N1, N2.
    fn notify(shared: &Arc<Self>, number: usize) -> thread::JoinHandle<()> {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            shared.done[number].store(1, Relaxed);
            shared.event.notify(|| shared.fd.write());
        })
    }

    /// O3 to O5; a timeout ends the sleep before anybody has written.
    fn sleep(&self, times_out: bool) {
        if self.event.prepare_sleep() {
            if !times_out {
                self.fd.poll();
            }
            self.event.finish_sleep(|| self.fd.drain());
        }
    }

    /// When all is over: whatever was written late is found by the next two sleeps.
    fn assert_nothing_is_left(&self) {
        for _ in 0..2 {
            self.event.take();
            assert!(self.event.prepare_sleep());
            self.event.finish_sleep(|| self.fd.drain());
        }
        assert!(
            !self.fd.drain(),
            "a descriptor that nobody empties would make the owner spin"
        );
    }
}

#[test]
fn no_notification_is_lost() {
    run(3, || {
        let shared = ModelEvent::new();
        let notifiers = [0, 1].map(|number| ModelEvent::notify(&shared, number));
        loop {
            // O1, O2.
            shared.event.take();
            if shared.done.iter().all(|done| done.load(Relaxed) == 1) {
                break;
            }
            shared.sleep(false);
        }
        notifiers
            .into_iter()
            .for_each(|notifier| notifier.join().expect("no panic"));
        shared.assert_nothing_is_left();
    });
}

#[test]
fn a_late_write_is_not_left_in_the_descriptor() {
    run(3, || {
        let shared = ModelEvent::new();
        let notifier = ModelEvent::notify(&shared, 0);
        shared.sleep(true);
        shared.event.take();
        shared.sleep(true);
        notifier.join().expect("no panic");
        shared.assert_nothing_is_left();
    });
}

struct ModelCondition {
    condition: RawCondition<ModelWord>,
    done: AtomicU32,
}

#[test]
fn no_waiter_of_a_condition_sleeps_on() {
    run(2, || {
        let shared = Arc::new(ModelCondition {
            condition: RawCondition {
                sequence: ModelWord::new(),
                waiters: ModelWord::new(),
            },
            done: AtomicU32::new(0),
        });
        let waiters = [1, 2].map(|wanted| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                loop {
                    // W1 to W3.
                    let ticket = shared.condition.ticket();
                    if shared.done.load(Relaxed) >= wanted {
                        return;
                    }
                    shared.condition.wait(ticket, |word, expected| {
                        word.wait(expected, SHARED);
                    });
                }
            })
        });
        for done in [1, 2] {
            // C1, C2.
            shared.done.store(done, Relaxed);
            shared.condition.wake_all();
        }
        waiters
            .into_iter()
            .for_each(|waiter| waiter.join().expect("no panic"));
    });
}

#[test]
fn channels_are_apart() {
    run(1, || {
        let word = ModelWord::new();
        assert_eq!((word.wake(1, SHARED), word.wake(1, EXCLUSIVE)), (0, 0));
        assert!(!word.wait(1, SHARED), "the word is another");
    });
}
