//! Checkpoints asked for and answered (`rd_store::checkpoint`, R1 to R3 and C1 to C4): none is lost,
//! and none is answered before the redo point has passed its target.

use crate::server::little_memory;
use rd_base::{Lsn, Role};
use rd_store::Shared;
use rd_store::checkpoint::{Flags, Request, TicketState};
use rd_store::procs::SlotNo;
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use rd_sys::simsched::Crew;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const REQUESTERS: u64 = 3;
const REQUESTS: u64 = 4;

/// What a checkpointer has really done.
struct World {
    shared: Arc<Shared>,
    /// The insert position, which requesters move.
    insert: Cell<u64>,
    /// Everything before it is in the files.
    redo: Cell<u64>,
    /// Attempts that have succeeded, and that have failed.
    succeeded: Cell<u64>,
    failed: Cell<u64>,
}

impl World {
    fn requester(&self, number: u64, rng: &mut Rng) {
        let slot = SlotNo::of(Role::Backend(number as u16)).expect("backends have slots");
        let checkpoint = &self.shared.checkpoint;
        for _ in 0..REQUESTS {
            self.insert.set(self.insert.get() + 1 + rng.below(3));
            let is_forced = rng.half();
            let forced = if is_forced { Flags::FORCE } else { Flags::NONE };
            let flags = Flags::CAUSE_MANUAL | Flags::IMMEDIATE | forced;
            let target = Lsn::new(self.insert.get());
            let (succeeded, failed) = (self.succeeded.get(), self.failed.get());
            let request = Request::of_process(flags, target, slot.role(), "");
            let ticket = checkpoint.request(&self.shared.procs, &request);
            if rng.half() {
                let a_while = Duration::from_secs(1);
                loop {
                    match checkpoint.wait_for_attempt(&ticket, a_while) {
                        TicketState::Done => break,
                        TicketState::Pending => {}
                        TicketState::Failed(_) => assert!(
                            self.failed.get() > failed,
                            "told of a failure that was none"
                        ),
                    }
                }
            } else {
                self.wait_parked(slot, || checkpoint.state(&ticket) == TicketState::Done);
            }
            assert!(
                self.redo.get() >= target.get(),
                "told to be done to {target}, and it is to {}",
                self.redo.get()
            );
            assert!(
                !is_forced || self.succeeded.get() > succeeded,
                "one with FORCE was answered without the end of an attempt"
            );
        }
    }

    /// As a backend waits, which has other things to do.
    fn wait_parked(&self, slot: SlotNo, is_done: impl Fn() -> bool) {
        let procs = &self.shared.procs;
        procs.set_parked(slot, true);
        loop {
            procs.event(slot).take();
            if is_done() {
                break;
            }
            procs.event(slot).wait(None);
        }
        procs.set_parked(slot, false);
    }

    fn checkpointer(&self, rng: &mut Rng) {
        let slot = SlotNo::of(Role::Checkpointer).expect("it has a slot");
        let (checkpoint, procs) = (&self.shared.checkpoint, &self.shared.procs);
        let mut again = Flags::NONE;
        loop {
            procs.event(slot).take();
            while !(checkpoint.wanted() | again).is_empty() {
                again = self.attempt(again, rng);
            }
            if rng.half() {
                // The incremental one takes the redo point further.
                let redo = self.insert.get();
                pause(Pause::Step);
                self.redo.set(self.redo.get().max(redo));
                checkpoint.passed(procs, Lsn::new(self.redo.get()));
            }
            if checkpoint.wanted().is_empty() {
                procs.event(slot).wait(None);
            }
        }
    }

    /// Gives what is to be tried again.
    fn attempt(&self, again: Flags, rng: &mut Rng) -> Flags {
        let (checkpoint, procs) = (&self.shared.checkpoint, &self.shared.procs);
        // C1: all who asked before are taken up, and only then the redo point is chosen.
        let begun = checkpoint.begin(again);
        pause(Pause::Step);
        let redo = self.insert.get();
        pause(Pause::Io);
        if rng.below(4) == 0 {
            self.failed.set(self.failed.get() + 1);
            checkpoint.fail(procs, "the disk is on fire", false);
            return begun.flags;
        }
        self.redo.set(self.redo.get().max(redo));
        self.succeeded.set(self.succeeded.get() + 1);
        checkpoint.succeed(procs, Lsn::new(redo), 1);
        Flags::NONE
    }
}

/// Requests of several processes, of which each waits for its own.
pub fn checkpoint_requests(seed: u64) -> Result<u64, String> {
    let world = Rc::new(World {
        shared: little_memory(),
        insert: Cell::new(100),
        redo: Cell::new(0),
        succeeded: Cell::new(0),
        failed: Cell::new(0),
    });
    let mut crew = Crew::new(seed);
    for number in 0..REQUESTERS {
        let own = Rc::clone(&world);
        let mut rng = Rng::new(seed ^ (number << 40));
        crew.add("requester", move || own.requester(number, &mut rng));
    }
    let own = Rc::clone(&world);
    let mut rng = Rng::new(seed ^ (99 << 40));
    crew.add_server("checkpointer", move || own.checkpointer(&mut rng));
    crew.run(&mut |_, _| {})?;
    // The checkpointer may hold the latch.
    crew.add("last look", move || {
        let left = world.shared.checkpoint.outstanding();
        assert!(left.is_empty(), "left in the queue: {left:?}");
    });
    crew.run(&mut |_, _| {})?;
    Ok(crew.trace())
}
