//! The postmaster against children that die: each at any atomic of whatever it does in shared memory,
//! with all that it holds there. What the postmaster reads and writes there meanwhile, and when
//! nobody else is left, is what its main loop does (`postmaster/src/server.rs`; the test `tidy`
//! knows all that it may touch).
//!
//! That a child has died, and how, it hears from the system alone; what follows is a pure function.

use crate::commits::{Ledger, commit};
use crate::ledger::namespace;
use crate::server::{Server, little_memory};
use crate::slots::set_anew;
use rd_base::{Lsn, Overrides, Param, Role, StartCount};
use rd_engine::{Engine, NamespaceId};
use rd_store::checkpoint::{EndOfLog, Flags, Request, StopOrder};
use rd_store::procs::SlotNo;
use rd_store::shared::{Phase, RedoProgress};
use rd_store::{Shared, Store};
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, Process, Progress, pause};
use rd_sys::simsched::Crew;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Operations on atomics of one look of the postmaster, and of all that it does when it is alone.
const LOOK_STEPS_MAX: u64 = 400;
const ALONE_STEPS_MAX: u64 = 1_000;
/// Deeds of a child that nobody kills.
const DEEDS: u64 = 8;
const REDO: RedoProgress = RedoProgress {
    from: 1_000,
    at: 1_000,
    until: 1_400,
};

/// Something that only grows: what its writer was about to say last, and what he has said.
#[derive(Default)]
struct Said {
    begun: Cell<u64>,
    done: Cell<u64>,
}

impl Said {
    fn say(&self, value: u64, say: impl FnOnce()) {
        self.begun.set(value);
        say();
        self.done.set(value);
    }

    /// Reads it, and holds it against what was said.
    fn hear(&self, what: &str, read: impl FnOnce() -> u64) {
        let least = self.done.get();
        let found = read();
        let most = self.begun.get();
        assert!(
            (least..=most).contains(&found),
            "{what} is {found}, not from {least} to {most}"
        );
    }
}

/// What really was.
#[derive(Default)]
struct Truth {
    /// All values of CONFIG SET that there ever were, in this order.
    versions: RefCell<Vec<Overrides>>,
    /// That which a client was told of last.
    acknowledged: Cell<usize>,
    /// SIGUSR1 is pending.
    usr1: Cell<bool>,
    phase: Said,
    redone: Said,
    cleaned: Said,
}

impl Truth {
    fn position(&self, overrides: &Overrides) -> usize {
        let versions = self.versions.borrow();
        let at = versions.iter().position(|one| one == overrides);
        at.unwrap_or_else(|| panic!("never set so: {overrides:?}"))
    }

    /// CONFIG SET, as a backend does it.
    fn set(&self, shared: &Shared, param: Param) {
        let at = self.position(&set_anew(shared, &self.versions, param));
        pause(Pause::Step);
        self.usr1.set(true);
        self.acknowledged.set(self.acknowledged.get().max(at));
    }
}

/// What the postmaster knows by itself.
#[derive(Default)]
struct Postmaster {
    overrides: Overrides,
    overrides_generation: u32,
    file_reads: u64,
    order: Option<StopOrder>,
}

impl Postmaster {
    fn take_up(&mut self, found: Overrides, truth: &Truth) {
        let (before, now) = (truth.position(&self.overrides), truth.position(&found));
        assert!(before <= now, "older than what was read before");
        self.overrides = found;
    }

    fn look_at_overrides(&mut self, shared: &Shared, truth: &Truth) {
        let generation = shared.overrides_generation();
        if generation != self.overrides_generation
            && let Some(found) = shared.peek_overrides()
        {
            self.overrides_generation = generation;
            self.take_up(found, truth);
        }
    }

    /// For SIGUSR1, the status line, and the refusal of a client.
    fn look_at_progress(&self, shared: &Shared, truth: &Truth) {
        truth.phase.hear("phase", || shared.phase() as u64);
        let mut redo = REDO;
        truth.redone.hear("redo", || {
            redo = shared.redo_progress();
            redo.at.saturating_sub(REDO.from)
        });
        assert!([0, REDO.from].contains(&redo.from) && [0, REDO.until].contains(&redo.until));
        let is_cleaned = || u64::from(shared.checkpoint.is_cleaned());
        truth.cleaned.hear("cleaned", is_cleaned);
    }

    fn reload(&mut self, shared: &Shared, truth: &Truth) {
        if let Some(found) = shared.peek_overrides() {
            self.take_up(found, truth);
        }
        shared.count_file_read();
        self.file_reads += 1;
    }

    fn order_stop(&mut self, shared: &Shared) {
        let next = match self.order {
            None => StopOrder::Clean,
            Some(StopOrder::Clean) => StopOrder::Leave,
            Some(StopOrder::Leave) => StopOrder::LastFlush,
            Some(_) => StopOrder::Checkpoint,
        };
        shared.checkpoint.order_stop(next);
        self.order = Some(next);
    }

    /// What poll has woken it for.
    fn look(&mut self, shared: &Shared, truth: &Truth, rng: &mut Rng) {
        if truth.usr1.take() {
            self.look_at_overrides(shared, truth);
            self.look_at_progress(shared, truth);
        }
        match rng.below(8) {
            0 => self.reload(shared, truth),
            1 => self.order_stop(shared),
            // Before a fork.
            2 => assert_eq!(shared.file_reads(), self.file_reads),
            3 => self.look_at_progress(shared, truth),
            _ => {}
        }
    }

    /// All of that once more, when nobody else is left; then the memory of the next server.
    fn restart(&mut self, shared: &Shared, truth: &Truth) -> Arc<Shared> {
        self.look_at_overrides(shared, truth);
        self.look_at_progress(shared, truth);
        self.order_stop(shared);
        self.reload(shared, truth);
        assert_eq!(shared.file_reads(), self.file_reads);
        self.look_at_overrides(shared, truth);
        let next = Shared::anonymous(shared.sizes).expect("memory for a test");
        if !self.overrides.is_empty() {
            let kept = self.overrides.clone();
            let Ok(_) = next.change_overrides(|_| Ok::<_, Infallible>(kept));
        }
        self.overrides_generation = next.overrides_generation();
        next
    }
}

/// What a backend does in shared memory but commits.
fn deed(store: &Store, truth: &Truth, turn: u64, rng: &mut Rng) {
    let (shared, slot) = (&store.shared, store.slot);
    let (procs, checkpoint) = (&shared.procs, &shared.checkpoint);
    match rng.below(4) {
        0 => {
            let params = [Param::MaxWalSize, Param::CheckpointTimeout];
            truth.set(shared, params[slot.index() % 2]);
        }
        1 => {
            let other = NamespaceId::database(3).expect("there is one");
            let _names = shared.namespaces.hold_names();
            let entry = shared.namespaces.entry(other);
            let _held = entry.hold();
            let change = entry.begin_change();
            change.rename(format!("name {turn}").as_bytes());
        }
        2 => {
            let flags = Flags::CAUSE_MANUAL | Flags::IMMEDIATE;
            let target = shared.wal.insert_lsn();
            let request = Request::of_process(flags, target, slot.role(), "");
            let ticket = checkpoint.request(procs, &request);
            checkpoint.wait_for_attempt(&ticket, Duration::from_secs(1));
        }
        _ => {
            procs.set_parked(slot, true);
            procs.set_willing(slot, true);
            procs.event(slot).wait(Some(Duration::from_millis(1)));
            procs.take_nomination(slot);
            procs.set_parked(slot, false);
        }
    }
}

fn backend(store: Store, truth: &Truth, rng: &mut Rng) {
    const KEYS: u64 = 12;
    let procs = &store.shared.procs;
    procs.set_pid(store.slot, 1 + store.slot.index() as u32);
    let mut engine = Engine::open(store.clone());
    // What it saw of the others is for other scenarios.
    let ledger = Ledger::default();
    for turn in 0..DEEDS {
        if rng.half() {
            deed(&store, truth, turn, rng);
            continue;
        }
        let mut keys: Vec<u64> = (0..1 + rng.below(3)).map(|_| rng.below(KEYS)).collect();
        keys.sort_unstable();
        keys.dedup();
        commit(&ledger, &mut engine, &keys, 8, rng);
        let _count = engine.count(namespace());
    }
    procs.leave_epoch(store.slot);
}

/// What startup tells the others, without a disk.
fn startup(shared: &Shared, truth: &Truth) {
    let say = |phase: Phase| truth.phase.say(phase as u64, || shared.set_phase(phase));
    let (checkpoint, procs) = (&shared.checkpoint, &shared.procs);
    say(Phase::Repairing);
    truth.usr1.set(true);
    checkpoint.hand_over(procs, Lsn::new(REDO.from));
    say(Phase::Redo);
    for at in (REDO.from..=REDO.until).step_by(100) {
        let done = at - REDO.from;
        let progress = RedoProgress { at, ..REDO };
        truth
            .redone
            .say(done, || shared.set_redo_progress(progress));
        truth.usr1.set(true);
        checkpoint.set_applied(Lsn::new(at));
        checkpoint.wait_for_redo_point(Lsn::new(at), Duration::from_millis(1));
    }
    checkpoint.set_end_of_log(&EndOfLog {
        lsn: Lsn::new(REDO.until),
        last_count: StartCount::new(1),
    });
    let flags = Flags::END_OF_RECOVERY;
    let request = Request::of_process(flags, Lsn::new(REDO.until), Role::Startup, "");
    checkpoint.request(procs, &request);
    say(Phase::Running);
}

/// What the checkpointer tells the others, without a disk.
fn checkpointer(shared: &Shared, truth: &Truth, rng: &mut Rng) {
    let (checkpoint, procs) = (&shared.checkpoint, &shared.procs);
    let slot = SlotNo::of(Role::Checkpointer).expect("it has one");
    let mut redo = REDO.from;
    loop {
        checkpoint.begin(Flags::CAUSE_TIME);
        if rng.half() {
            checkpoint.fail(procs, "no room", rng.half());
        } else {
            redo += rng.below(100);
            checkpoint.publish(Lsn::new(redo), 1);
            checkpoint.succeed(procs, Lsn::new(redo), 1);
        }
        if checkpoint.is_stop_ordered(StopOrder::Clean) {
            truth.cleaned.say(1, || checkpoint.set_cleaned());
            truth.usr1.set(true);
        }
        procs.event(slot).wait(Some(Duration::from_millis(1)));
    }
}

/// A number of which small ones are as likely as great ones, up to 2 to the power of this.
fn spread(power: u64, rng: &mut Rng) -> u64 {
    let most = 2 << rng.below(power);
    1 + rng.below(most)
}

/// A whole server, one of whose backends dies before the others; or a start, without a disk. In the end
/// all are dead, wherever they are, and the postmaster is alone.
pub fn deaths(seed: u64) -> Result<u64, String> {
    let mut rng = Rng::new(seed ^ 0xDEAD);
    let truth = Rc::new(Truth::default());
    truth.versions.borrow_mut().push(Overrides::new());
    let starts = rng.below(3) == 0;
    let (server, mut crew, shared) = if starts {
        (None, Crew::new(seed), little_memory())
    } else {
        let (server, crew) = Server::start(seed)?;
        let shared = Arc::clone(&server.shared);
        truth.phase.say(shared.phase() as u64, || {});
        (Some(server), crew, shared)
    };
    // Who dies first; the others go on until they are told, or wait for what it holds.
    let first = rng.below(3);
    let life = |number: u64, rng: &mut Rng| match number == first {
        // Pauses after which it is dead.
        true => spread(10, rng),
        false => u64::MAX,
    };
    match &server {
        None => {
            let (own, all) = (Arc::clone(&shared), Rc::clone(&truth));
            crew.add_mortal("startup", life(0, &mut rng), move || startup(&own, &all));
            let (own, all) = (Arc::clone(&shared), Rc::clone(&truth));
            let mut draw = Rng::new(rng.next_u64());
            crew.add_mortal("checkpointer", life(1, &mut rng), move || {
                checkpointer(&own, &all, &mut draw);
            });
        }
        Some(server) => {
            for number in 0..3 {
                let (store, all) = (server.store(Role::Backend(number)), Rc::clone(&truth));
                let mut draw = Rng::new(rng.next_u64());
                let pauses = life(u64::from(number), &mut rng);
                crew.add_mortal("backend", pauses, move || backend(store, &all, &mut draw));
            }
        }
    }
    let postmaster = Rc::new(RefCell::new(Postmaster::default()));
    let is_looking = Rc::new(Cell::new(false));
    let looks = spread(6, &mut rng);
    let (own, all) = (Arc::clone(&shared), Rc::clone(&truth));
    let (one, looking) = (Rc::clone(&postmaster), Rc::clone(&is_looking));
    crew.add("postmaster", move || {
        for _ in 0..looks {
            pause(Pause::Wait);
            looking.set(true);
            one.borrow_mut().look(&own, &all, &mut rng);
            looking.set(false);
        }
    });
    let mut steps = 0;
    crew.run(&mut |name, why| {
        if name != "postmaster" {
            return;
        }
        steps = if is_looking.get() { steps + 1 } else { 0 };
        assert!(
            !is_looking.get() || why == Pause::Atomic && steps <= LOOK_STEPS_MAX,
            "the postmaster waits for its children: {why:?}"
        );
    })?;

    let next = alone(&shared, &truth, &postmaster)?;
    let kept = &postmaster.borrow().overrides;
    assert!(
        truth.position(kept) >= truth.acknowledged.get(),
        "an acknowledged CONFIG SET is lost: {kept:?}"
    );
    // Nobody else is there, so each latch that is taken here is free.
    let checkpoint = &next.checkpoint;
    assert!(next.overrides() == *kept && next.file_reads() == 0);
    assert_eq!(next.phase(), Phase::Starting);
    assert!(!checkpoint.is_cleaned() && !checkpoint.is_stop_ordered(StopOrder::Clean));
    assert!(checkpoint.outstanding().is_empty() && checkpoint.handover().is_none());
    drop(next.namespaces.hold_names());
    let slots = (0..rd_base::limits::PROCESSES_MAX).map(SlotNo::new);
    assert!({ slots }.all(|slot| next.procs.pid(slot) == 0));
    Ok(crew.trace())
}

/// Everybody else is dead: a crash restart, step by step.
fn alone(
    shared: &Arc<Shared>,
    truth: &Rc<Truth>,
    postmaster: &Rc<RefCell<Postmaster>>,
) -> Result<Arc<Shared>, String> {
    let made = Rc::new(RefCell::new(None));
    let (own, all) = (Arc::clone(shared), Rc::clone(truth));
    let (one, new) = (Rc::clone(postmaster), Rc::clone(&made));
    let mut process = Process::new(move || {
        let next = one.borrow_mut().restart(&own, &all);
        new.replace(Some(next));
    });
    for _ in 0..ALONE_STEPS_MAX {
        match process.resume_for(0) {
            Progress::Paused(Pause::Atomic) => {}
            Progress::Ended => return Ok(made.take().expect("it has come to its end")),
            other => return Err(format!("the postmaster waits for the dead: {other:?}")),
        }
    }
    Err("the postmaster alone comes to no end".to_owned())
}
