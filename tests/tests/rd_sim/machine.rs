//! A whole server on a simulated disk: its processes are logical ones ([`rd_sys::simproc`]), and at
//! each of their pauses the seed chooses who goes on, and how far the clock goes. If the machine is
//! told to interleave ([`Machine::interleave`]), they pause before atomics of shared memory, too. Who sleeps
//! without a limit goes on only when somebody has woken it, so a wake-up that is lost shows itself: the one
//! who waits for it sleeps on while nobody has anything to do.
//!
//! Invariant: the machine itself changes nothing on the disk, so the disk is what the processes have
//! made of it.

use crate::memory;
use rd_base::counters::Counter;
use rd_base::{Config, Role};
use rd_checkpointer::{Checkpointer, Workers};
use rd_engine::recovery::{Recovered, RecoveryError, RedoHands, RedoSteps, Watcher, recover};
use rd_store::relation::RelationFiles;
use rd_store::wal::{Preparer, segments};
use rd_store::{Shared, Sizes, SlotNo, Store};
use rd_sys::clock::Clock;
use rd_sys::simdisk::{Rng, SimStorage};
use rd_sys::simproc::{Pause, Process, Progress, Sleep, pause};
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
/// Workers that redo pages, at most, if it is not the reader of the log.
const REDO_WORKERS_MAX: u64 = 4;
/// Bytes of records that they are given at once, at most: so few that several batches are under way.
const REDO_BATCH_BYTES_MAX: u64 = 4 << 10;
/// Times in a row that nobody could do anything, whatever the clock said, after which the server is
/// taken to hang.
const IDLE_MAX: u32 = 3_000;

/// Leaps of the clock, while everybody sleeps, that a process may sleep through without a limit
/// before its wake-up is taken to be lost: something else could wake it later, a checkpoint, say.
const LEAPS_MAX: u32 = 10;
/// How far the clock leaps, in nanoseconds.
const LEAP_NS: u64 = 300_000_000;

/// What the clock shows when a server starts, in seconds since 1970: between two starts it may go back, or
/// far ahead.
const CLOCKS_S: [u64; 3] = [1_000, 1_002, 5_000];

/// Files that nothing relies on before they were synced: if that fails they are thrown away, or, what is
/// remembered of checkpoints, not written any more.
const THROWN_AWAY: [&str; 3] = [
    "wal/new_segment.tmp",
    "global/doublewrite.new",
    "global/history",
];

/// Something that must not be, in words.
#[derive(Clone, Debug)]
pub struct Failure(pub String);

/// How a machine ended by itself.
#[derive(Clone, Debug)]
pub enum End {
    /// A process has ended itself by a PANIC, and with it the server.
    Panic(String),
    /// It was stopped, and the checkpoint of its shutdown failed: the next start has to recover.
    NotShutDown(String),
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
    /// Leaps of the clock, while everybody slept, since it ran.
    leaps: u32,
    /// What it could not sync, so that it must end itself, and with it the server.
    unsynced: Option<Arc<str>>,
}

impl Member {
    /// Whether nothing but a wake-up lets it go on, and none has come.
    fn sleeps_until_woken(&self) -> bool {
        self.process.sleep() == Sleep::Unlimited
    }
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

/// Nobody watches recovery; who redoes pages is for a seed to say.
struct Unwatched {
    seed: u64,
}

impl Watcher for Unwatched {
    fn progress(&mut self) {}
    fn must_stop(&mut self) -> bool {
        false
    }
    fn redo_hands(&mut self) -> RedoHands {
        let mut rng = Rng::new(self.seed);
        if rng.half() {
            return RedoHands::Threads(0);
        }
        RedoHands::Steps(RedoSteps {
            workers: 1 + rng.below(REDO_WORKERS_MAX) as usize,
            batch_bytes: 1 + rng.below(REDO_BATCH_BYTES_MAX) as usize,
            choose: Box::new(move |choices| {
                // What was done may be written, and the redo point move, before the next part is.
                if rng.half() {
                    pause(Pause::Step);
                }
                rng.below(choices as u64) as usize
            }),
        })
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
    /// I/Os fail, and are tried again after some time.
    is_harmed: bool,
    /// Pages may be damaged, or cannot be read, and the scrub may find that.
    is_damaged: bool,
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
        let mut rng = Rng::new(seed);
        let began_s = CLOCKS_S[rng.below(CLOCKS_S.len() as u64) as usize];
        let (clock, time_ns) = Clock::manual(began_s * 1_000_000_000);
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
            rng,
            scheduler: None,
            idle: 0,
            waits: 0,
            is_harmed: false,
            is_damaged: false,
        };
        machine.add_checkpointer();
        let (store, orders) = (machine.store(Role::Startup), Rc::clone(&machine.orders));
        let mut watcher = Unwatched {
            seed: machine.rng.next_u64(),
        };
        machine.add("startup", false, move || {
            let recovered = recover(&store, &mut watcher).map_err(|error| match error {
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
            leaps: 0,
            unsynced: None,
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
                let timeout = walwriter.turn();
                // It takes the event, be it that of the order to end, before that is looked at.
                event.wait(timeout);
            }
            walwriter.finish();
        });
    }

    /// From now on processes are interleaved at their atomics.
    pub fn interleave(&mut self, policy: Policy) {
        let seed = self.rng.next_u64();
        self.scheduler = Some(Scheduler::new(policy, seed));
    }

    /// From now on I/Os may fail, and who waits for what is tried again may sleep for long. `hides_pages`:
    /// reads of pages do, which the scrub cannot tell from damage.
    pub fn harm(&mut self, hides_pages: bool) {
        self.is_harmed = true;
        self.is_damaged |= hides_pages;
    }

    /// The disk may have lied: what the scrub finds is no mistake of its.
    pub fn expect_damage(&mut self) {
        self.is_damaged = true;
    }

    /// Whether everybody is done who does not go on for ever.
    pub fn is_quiet(&self) -> bool {
        let is_done = |member: &Member| member.is_server || member.process.is_over();
        self.members.iter().all(is_done)
    }

    /// As a signal does.
    fn wake(&self, role: Role) {
        let slot = SlotNo::of(role).expect("a role with a slot");
        self.shared.procs.event(slot).notify();
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
        member.leaps = 0;
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
        self.look_for_failed_syncs(&progress)?;
        let checkpointer = SlotNo::of(Role::Checkpointer).expect("a slot");
        if self.shared.stats.of(checkpointer, Counter::ScrubBad) > 0 && !self.is_damaged {
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

    /// A sync that fails is never tried again: whoever has seen it ends itself before it does anything
    /// else, but for files that are thrown away then.
    fn look_for_failed_syncs(&mut self, progress: &Progress) -> Result<(), Failure> {
        let member = &mut self.members[self.last];
        let failed = self.disk.take_failed_syncs();
        let is_relied_on = |path: &Arc<str>| !THROWN_AWAY.contains(&&**path);
        member.unsynced = member
            .unsynced
            .take()
            .or(failed.into_iter().find(is_relied_on));
        // A start ends itself by saying why.
        let is_refused = matches!(*self.orders.recovered.borrow(), Some(Err(_)));
        match (&member.unsynced, progress) {
            (None, _) | (_, Progress::Panicked(_) | Progress::Paused(Pause::Atomic)) => Ok(()),
            (_, Progress::Ended) if is_refused && member.name == "startup" => Ok(()),
            (Some(path), _) => Err(Failure(format!(
                "the {} goes on, and could not sync \"{path}\"",
                member.name
            ))),
        }
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
        let all = self.members.iter().enumerate();
        let can_go_on = all.filter(|(_, one)| !one.process.is_over() && !one.sleeps_until_woken());
        let candidates: Vec<usize> = can_go_on.map(|(at, _)| at).collect();
        let chosen = self.rng.below(candidates.len() as u64) as usize;
        self.last = candidates[chosen];
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
        self.time_ns.fetch_add(LEAP_NS, Ordering::SeqCst);
        self.look_for_lost_wake_ups()?;
        if self.idle < IDLE_MAX {
            return Ok(());
        }
        let waiting = self.members.iter().filter(|one| !one.process.is_over());
        let (asleep, others): (Vec<_>, Vec<_>) = waiting.partition(|one| one.sleeps_until_woken());
        let names = |of: Vec<&Member>| of.into_iter().map(|one| one.name).collect::<Vec<_>>();
        let (asleep, others) = (names(asleep), names(others));
        Err(Failure(format!(
            "all wait for each other: {others:?}; nobody wakes {asleep:?}"
        )))
    }

    /// The clock has leapt.
    fn look_for_lost_wake_ups(&mut self) -> Result<(), Failure> {
        let there = || self.members.iter().filter(|one| !one.process.is_over());
        // Where processes are interleaved some may be on their way to wake others.
        if self.is_harmed || there().any(|one| one.process.sleep() == Sleep::Awake) {
            return Ok(());
        }
        let is_lost =
            |one: &&Member| one.leaps >= LEAPS_MAX && !one.is_server && one.sleeps_until_woken();
        if let Some(lost) = there().find(is_lost) {
            let state = |one: &Member| (one.name, one.process.sleep());
            let all: Vec<_> = there().map(state).collect();
            return Err(Failure(format!(
                "nobody wakes the {} of {all:?}",
                lost.name
            )));
        }
        self.members.iter_mut().for_each(|one| one.leaps += 1);
        Ok(())
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
        self.wake(Role::Walwriter);
        loop {
            if self.is_over("walwriter") && !self.orders.checkpointer_ends.replace(true) {
                self.wake(Role::Checkpointer);
                let all = self.members.iter_mut();
                all.filter(|member| member.name == "preparer")
                    .for_each(|member| member.process.give_up());
            }
            if let Some(done) = self.orders.shut_down.borrow_mut().take() {
                return Ok(done.map_err(End::NotShutDown));
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
