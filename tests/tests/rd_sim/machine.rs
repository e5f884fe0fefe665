//! A whole server on a simulated disk: its processes are logical ones ([`rd_sys::simproc`]), and at
//! each of their pauses the seed chooses who goes on, and how far the clock goes. If the machine is
//! told to interleave ([`Machine::interleave`]), they pause before atomics of shared memory, too.
//!
//! Invariant: the machine itself changes nothing on the disk, so the disk is what the processes have
//! made of it.

use crate::memory;
use rd_base::counters::Counter;
use rd_base::{Config, Role};
use rd_checkpointer::{Checkpointer, Workers};
use rd_engine::recovery::{Recovered, RecoveryError, Watcher, recover};
use rd_store::relation::RelationFiles;
use rd_store::wal::{Preparer, segments};
use rd_store::{Shared, Sizes, SlotNo, Store};
use rd_sys::clock::Clock;
use rd_sys::simdisk::{Rng, SimStorage};
use rd_sys::simproc::{Pause, Process, Progress, pause};
use rd_sys::simsched::{Policy, Scheduler};
use rd_sys::storage::Storage;
use rd_walwriter::Walwriter;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// So short that each life goes through some, and old ones are recycled.
pub const SEGMENT_BYTES: u64 = 64 << 10;
/// So few that clean ones have to be supplied now and then.
const FRAMES: usize = 112;
/// More than any record that the work has.
const RING_BYTES: u64 = 256 << 10;
/// Times in a row that nobody could do anything, whatever the clock said, after which the server is
/// taken to hang.
const IDLE_MAX: u32 = 3_000;

/// Something that must not be, in words.
#[derive(Clone, Debug)]
pub struct Failure(pub String);

/// How a machine ended by itself.
#[derive(Clone, Debug)]
pub enum End {
    /// A process has ended itself by a PANIC, and with it the server.
    Panic(String),
    /// Startup refused to start.
    Refused(RefusedBecause),
}

/// Why startup refused.
#[derive(Clone, Debug)]
pub enum RefusedBecause {
    /// The log receded while it was read: the next start is to try again.
    LogReceded,
    /// Something else.
    Other(String),
}

/// What is asked of the processes of a machine.
#[derive(Default)]
pub struct Orders {
    /// The walwriter is to make everything durable and end.
    walwriter_ends: Cell<bool>,
    /// The checkpointer is to write the shutdown checkpoint and end.
    checkpointer_ends: Cell<bool>,
    /// What came of that.
    shut_down: RefCell<Option<Result<(), String>>>,
    /// What startup came to.
    recovered: RefCell<Option<Result<Recovered, RefusedBecause>>>,
    /// A process has seen something that must not be.
    failure: RefCell<Option<Failure>>,
}

impl Orders {
    /// Says that something must not be.
    pub fn fail(&self, text: String) {
        self.failure.borrow_mut().get_or_insert(Failure(text));
    }
}

struct Member {
    name: &'static str,
    process: Process,
    /// It goes on for as long as the server does, so that nobody waits for its end.
    is_server: bool,
}

/// How a machine is run; the seed decides it.
#[derive(Clone, Debug)]
pub struct Manner {
    /// The configuration.
    pub config: Arc<Config>,
    /// How far the clock goes at most between two pauses, in nanoseconds.
    pub tick_ns: u64,
    /// One out of so many pauses hands over to another process.
    pub switch_odds: u64,
}

/// Nobody watches recovery.
struct Unwatched;

impl Watcher for Unwatched {
    fn progress(&mut self) {}
    fn must_stop(&mut self) -> bool {
        false
    }
}

/// A machine that runs.
pub struct Machine {
    pub disk: SimStorage,
    pub shared: Arc<Shared>,
    pub orders: Rc<Orders>,
    storage: Arc<dyn Storage>,
    manner: Manner,
    clock: Clock,
    time_ns: Arc<AtomicU64>,
    members: Vec<Member>,
    /// The one that ran last.
    last: usize,
    rng: Rng,
    /// Chooses who goes on, if they are interleaved at their atomics.
    scheduler: Option<Scheduler>,
    idle: u32,
    waits: usize,
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.members.clear();
        memory::give_back(&self.shared);
    }
}

impl Machine {
    /// Begins a start of the server on what is on `disk`.
    pub fn boot(disk: &SimStorage, manner: &Manner, seed: u64) -> Machine {
        let (clock, time_ns) = Clock::manual(1_000_000_000_000);
        let mut machine = Machine {
            disk: disk.clone(),
            shared: memory::take(Sizes {
                frames: FRAMES,
                wal_ring_bytes: RING_BYTES,
                wal_segment_bytes: SEGMENT_BYTES,
            }),
            orders: Rc::default(),
            storage: Arc::new(disk.clone()),
            manner: manner.clone(),
            clock,
            time_ns,
            members: Vec::new(),
            last: 0,
            rng: Rng::new(seed),
            scheduler: None,
            idle: 0,
            waits: 0,
        };
        machine.add_checkpointer();
        let (store, orders) = (machine.store(Role::Startup), Rc::clone(&machine.orders));
        machine.add("startup", false, move || {
            let recovered = recover(&store, &mut Unwatched).map_err(|error| match error {
                RecoveryError::LogReceded { .. } => RefusedBecause::LogReceded,
                other => RefusedBecause::Other(other.to_string()),
            });
            *orders.recovered.borrow_mut() = Some(recovered);
        });
        machine
    }

    /// The store of the process with `role`.
    pub fn store(&self, role: Role) -> Store {
        let slot = SlotNo::of(role).expect("a role with a slot");
        let (shared, storage) = (Arc::clone(&self.shared), Arc::clone(&self.storage));
        let config = Arc::clone(&self.manner.config);
        Store::new(shared, storage, self.clock.clone(), slot, config)
    }

    /// Adds a process; `is_server` if it goes on for ever.
    pub fn add(&mut self, name: &'static str, is_server: bool, body: impl FnOnce() + 'static) {
        self.members.push(Member {
            name,
            process: Process::new(body),
            is_server,
        });
    }

    fn add_checkpointer(&mut self) {
        let store = self.store(Role::Checkpointer);
        let relations = Arc::new(RelationFiles::writer(Arc::clone(&self.storage)));
        let (workers, steps) = Workers::by_steps(&store, &relations);
        for (name, mut step) in ["sync", "growth"].into_iter().zip(steps) {
            self.add(name, true, move || {
                loop {
                    if !step() {
                        pause(Pause::Wait);
                    }
                }
            });
        }
        let orders = Rc::clone(&self.orders);
        self.add("checkpointer", true, move || {
            let mut checkpointer = Checkpointer::new(store, relations, workers);
            while !orders.checkpointer_ends.get() {
                checkpointer.work_and_sleep();
            }
            let done = checkpointer.shutdown_checkpoint();
            *orders.shut_down.borrow_mut() = Some(done.map_err(|failure| failure.to_string()));
        });
    }

    /// What serves beside the checkpointer, once startup is done.
    pub fn add_walwriter(&mut self) {
        let store = self.store(Role::Walwriter);
        let event = self.shared.procs.event(store.slot).clone();
        let wal = self.shared.wal.clone();
        let mut preparer = Preparer::new(wal, Arc::clone(&self.storage), SEGMENT_BYTES);
        self.add("preparer", true, move || {
            loop {
                if preparer.step() != segments::Step::Prepared {
                    pause(Pause::Wait);
                }
            }
        });
        let orders = Rc::clone(&self.orders);
        self.add("walwriter", true, move || {
            let mut walwriter = Walwriter::new(store);
            while !orders.walwriter_ends.get() {
                event.take();
                walwriter.turn();
                event.wait(None);
            }
            walwriter.finish();
        });
    }

    /// From now on processes are interleaved at their atomics.
    pub fn interleave(&mut self, policy: Policy) {
        let seed = self.rng.next_u64();
        self.scheduler = Some(Scheduler::new(policy, seed, false));
    }

    /// Whether everybody is done who does not go on for ever.
    pub fn is_quiet(&self) -> bool {
        let is_done = |member: &Member| member.is_server || member.process.is_over();
        self.members.iter().all(is_done)
    }

    fn is_over(&self, name: &str) -> bool {
        let mut named = self.members.iter().filter(|member| member.name == name);
        named.all(|member| member.process.is_over())
    }

    /// What startup came to, when it is done.
    pub fn recovered(&self) -> Option<Result<Recovered, RefusedBecause>> {
        self.orders.recovered.borrow().clone()
    }

    /// Lets one process go on until it pauses.
    ///
    /// # Errors
    /// When something is so that must not be.
    pub fn step(&mut self) -> Result<Result<(&'static str, Pause), End>, Failure> {
        let steps = self.choose();
        let member = &mut self.members[self.last];
        let name = member.name;
        let process = &mut member.process;
        let Ok(progress) = catch_unwind(AssertUnwindSafe(|| process.resume_for(steps))) else {
            return Err(Failure(format!("{name}: {}", LAST_PANIC.take())));
        };
        if let Some(scheduler) = &mut self.scheduler {
            scheduler.paused(self.last, &progress, process.steps_left());
        }
        if let Some(failure) = self.orders.failure.borrow_mut().take() {
            return Err(failure);
        }
        let checkpointer = SlotNo::of(Role::Checkpointer).expect("a slot");
        if self.shared.stats.of(checkpointer, Counter::ScrubBad) > 0 {
            return Err(Failure("the scrub takes a good page for damaged".into()));
        }
        // Who looks whether he must still wait pauses before atomics, too: that tells nothing.
        if progress != Progress::Paused(Pause::Atomic) {
            self.tick(progress == Progress::Paused(Pause::Wait))?;
        }
        let refused = match self.recovered() {
            Some(Err(why)) if name == "startup" => Some(End::Refused(why)),
            _ => None,
        };
        Ok(match (progress, refused) {
            (Progress::Panicked(text), _) => Err(End::Panic(text)),
            (Progress::Paused(why), _) => Ok((name, why)),
            (Progress::Ended, Some(end)) => Err(end),
            (Progress::Ended, None) => Ok((name, Pause::Step)),
        })
    }

    fn cannot_go_on(&self) -> bool {
        self.waits > 0 || self.members[self.last].process.is_over()
    }

    /// Chooses who goes on, and for how many steps.
    fn choose(&mut self) -> u64 {
        if let Some(scheduler) = &mut self.scheduler {
            let state = |one: &Member| (!one.process.is_over()).then(|| one.process.sleep());
            let states: Vec<_> = self.members.iter().map(state).collect();
            let (chosen, steps) = scheduler.choose(&states).expect("one is not over");
            self.last = chosen;
            return steps;
        }
        if self.cannot_go_on() || self.rng.below(self.manner.switch_odds) == 0 {
            self.choose_any();
        }
        u64::MAX
    }

    fn choose_any(&mut self) {
        let count = self.members.len() as u64;
        loop {
            self.last = self.rng.below(count) as usize;
            if !self.members[self.last].process.is_over() {
                return;
            }
        }
    }

    /// Lets time go on; far, if all wait.
    fn tick(&mut self, waits: bool) -> Result<(), Failure> {
        if !waits {
            (self.waits, self.idle) = (0, 0);
            if self.manner.tick_ns > 0 {
                let ns = self.rng.below(self.manner.tick_ns);
                self.time_ns.fetch_add(ns, Ordering::SeqCst);
            }
            return Ok(());
        }
        self.waits += 1;
        if self.waits < 3 * self.members.len() {
            return Ok(());
        }
        self.waits = 1;
        self.idle += 1;
        self.time_ns.fetch_add(300_000_000, Ordering::SeqCst);
        if self.idle < IDLE_MAX {
            return Ok(());
        }
        let waiting = self.members.iter().filter(|one| !one.process.is_over());
        let names: Vec<_> = waiting.map(|one| one.name).collect();
        Err(Failure(format!("all wait for each other: {names:?}")))
    }

    /// Stops the server in order, after its backends are done: `at_io` sees every pause in an I/O.
    ///
    /// # Errors
    /// When something is so that must not be.
    pub fn shut_down(
        &mut self,
        at_io: &mut dyn FnMut(&mut Machine) -> Result<(), Failure>,
    ) -> Result<Result<(), End>, Failure> {
        self.orders.walwriter_ends.set(true);
        loop {
            if self.is_over("walwriter") {
                self.orders.checkpointer_ends.set(true);
                let all = self.members.iter_mut();
                all.filter(|member| member.name == "preparer")
                    .for_each(|member| member.process.give_up());
            }
            if let Some(done) = self.orders.shut_down.borrow_mut().take() {
                return match done {
                    Ok(()) => Ok(Ok(())),
                    Err(text) => Err(Failure(format!("the shutdown checkpoint failed: {text}"))),
                };
            }
            match self.step()? {
                Ok((_, Pause::Io)) => at_io(self)?,
                Ok(_) => {}
                Err(end) => return Ok(Err(end)),
            }
        }
    }
}

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what a panic says, for who finds that there was one.
pub fn note_panic(text: String) {
    LAST_PANIC.set(text);
}
