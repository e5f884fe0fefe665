//! Process slots: what each process tells the others about itself.
//!
//! One slot for each process that may touch the segment ([`Role::slot`]). A slot's words are
//! written by its owner alone (but for `granted`, see below) and read by all.
//!
//! Among them is the epoch in which its owner descends; see `epochs.rs` for what that is good for.

use crate::epochs::{self, Epoch, Shown};
use rd_base::limits::PROCESSES_MAX;
use rd_base::{Lsn, Role};
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use rd_sys::{Area, Event, EventCell, One, Plan, Region, Segment};
use std::io;
use zerocopy::{FromBytes, KnownLayout};

/// Number of a process slot, below [`PROCESSES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNo(u16);

impl SlotNo {
    /// The slot `number`, which must be below [`PROCESSES_MAX`].
    pub fn new(number: usize) -> SlotNo {
        assert!(
            number < PROCESSES_MAX,
            "process slot {number} of {PROCESSES_MAX}"
        );
        SlotNo(number as u16)
    }

    /// The slot of a process with `role`; none for the postmaster, which touches none.
    pub fn of(role: Role) -> Option<SlotNo> {
        role.slot().map(SlotNo::new)
    }

    /// What the process in the slot is for.
    pub fn role(self) -> Role {
        Role::of_slot(self.index())
    }

    /// The slot as an index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One process, on cache lines of its own.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Words {
    /// Least LSN for which a reply of this process waits; 0 if none.
    /// atomic: stored SeqCst by the owner, loaded SeqCst by whoever published a durable LSN.
    wait_lsn: AtomicU64,
    epoch: Shown,
    /// Process id, for diagnostics; 0 while the slot is free.
    /// atomic: Relaxed.
    pid: AtomicU32,
    /// Not 0 while the owner has commands that wait for credit, growth, or a checkpoint.
    /// atomic: stored SeqCst by the owner, loaded SeqCst by whoever made such a thing true.
    parked: AtomicU32,
    /// Whether the owner may be made the next flusher ([`NOT_WILLING`], [`WILLING`],
    /// [`NOMINATED`]). atomic: SeqCst; the owner stores the first two, and takes the third back.
    flusher: AtomicU32,
}

/// The owner is awake, or should not be kept from its clients by a flush.
const NOT_WILLING: u32 = 0;
/// The owner sleeps, its replies wait for the disk, and it would flush if it were asked to.
const WILLING: u32 = 1;
/// The owner has been asked to flush and has not taken notice so far.
const NOMINATED: u32 = 2;

#[repr(C)]
#[derive(FromBytes, KnownLayout)]
struct Shared {
    epoch: Epoch,
}

/// Where the slots lie in the segment.
#[derive(Clone, Copy)]
pub struct ProcsRegions {
    words: Region<Words>,
    shared: Region<Shared>,
    events: [Region<EventCell>; PROCESSES_MAX],
}

impl ProcsRegions {
    /// Reserves room for all slots.
    pub fn plan(plan: &mut Plan) -> ProcsRegions {
        ProcsRegions {
            words: plan.reserve(PROCESSES_MAX),
            shared: plan.reserve(1),
            events: std::array::from_fn(|_| plan.reserve(1)),
        }
    }
}

/// The process table.
#[derive(Clone)]
pub struct Procs {
    words: Area<Words>,
    shared: One<Shared>,
    events: std::sync::Arc<Vec<Event>>,
}

impl Procs {
    /// Opens the table and makes one event per slot; to be done before the first fork, as the
    /// events' descriptors are inherited.
    ///
    /// # Errors
    /// When no descriptor is left for an event.
    pub fn open(segment: &Segment, regions: &ProcsRegions) -> io::Result<Procs> {
        let cells = regions.events.iter().map(|region| segment.one(*region));
        let events = cells.map(Event::create).collect::<io::Result<Vec<_>>>()?;
        Ok(Procs {
            words: segment.area(regions.words),
            shared: segment.one(regions.shared),
            events: std::sync::Arc::new(events),
        })
    }

    fn words(&self, slot: SlotNo) -> &Words {
        &self.words[slot.index()]
    }

    /// The event that wakes the owner of `slot`.
    pub fn event(&self, slot: SlotNo) -> &Event {
        &self.events[slot.index()]
    }

    /// Wakes the process with `role`.
    pub fn notify(&self, role: Role) {
        if let Some(slot) = SlotNo::of(role) {
            self.event(slot).notify();
        }
    }

    /// Says which process owns `slot` now.
    pub fn set_pid(&self, slot: SlotNo, pid: u32) {
        self.words(slot).pid.store(pid, Ordering::Relaxed);
    }

    /// The process that owns `slot`; 0 if none has so far.
    pub fn pid(&self, slot: SlotNo) -> u32 {
        self.words(slot).pid.load(Ordering::Relaxed)
    }

    /// For which LSN replies of `slot` wait; zero if they wait for none.
    pub fn wait_lsn(&self, slot: SlotNo) -> Lsn {
        Lsn::new(self.words(slot).wait_lsn.load(Ordering::Relaxed))
    }

    /// Whether `slot` has commands that wait for something other than an LSN.
    pub fn is_parked(&self, slot: SlotNo) -> bool {
        self.words(slot).parked.load(Ordering::Relaxed) != 0
    }

    /// Publishes that replies of `slot` wait for `lsn`, the least of them ([`Lsn::ZERO`]: none
    /// do). The caller must look at the durable LSN once more afterwards, before it sleeps.
    pub fn set_wait_lsn(&self, slot: SlotNo, lsn: Lsn) {
        self.words(slot).wait_lsn.store(lsn.get(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Wakes every process whose replies wait for `durable` or less. To be called after the
    /// durable LSN has been published.
    pub fn wake_durable(&self, durable: Lsn, except: Option<SlotNo>) {
        fence(Ordering::SeqCst);
        for (index, words) in self.words.iter().enumerate() {
            let wait_lsn = words.wait_lsn.load(Ordering::SeqCst);
            if wait_lsn != 0 && wait_lsn <= durable.get() && except != Some(SlotNo::new(index)) {
                self.events[index].notify();
            }
        }
    }

    /// Before its owner sleeps: says whether `slot` may be nominated for the next flush.
    pub fn set_willing(&self, slot: SlotNo, willing: bool) {
        let word = if willing { WILLING } else { NOT_WILLING };
        self.words(slot).flusher.store(word, Ordering::SeqCst);
    }

    /// After its owner's sleep: whether `slot` was nominated. Then its owner must flush, or pass
    /// the request on to the walwriter.
    pub fn take_nomination(&self, slot: SlotNo) -> bool {
        let flusher = &self.words(slot).flusher;
        flusher.load(Ordering::SeqCst) != NOT_WILLING
            && flusher.swap(NOT_WILLING, Ordering::SeqCst) == NOMINATED
    }

    /// Hands the next flush to a process that sleeps and waits for one (as the leader of a group
    /// commit hands over to a follower), which saves the way by the walwriter. False if there is
    /// none.
    pub fn nominate(&self) -> bool {
        for (index, words) in self.words.iter().enumerate() {
            let chosen = words.flusher.load(Ordering::SeqCst) == WILLING
                && words
                    .flusher
                    .compare_exchange(WILLING, NOMINATED, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok();
            if chosen {
                self.events[index].notify();
                return true;
            }
        }
        false
    }

    /// Publishes whether `slot` has commands that wait for something other than an LSN. The
    /// caller must try them once more afterwards, before it sleeps.
    pub fn set_parked(&self, slot: SlotNo, parked: bool) {
        self.words(slot)
            .parked
            .store(u32::from(parked), Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Wakes every process that has parked commands. To be called after what they may wait for
    /// has been made true: credit, room in a file, a finished checkpoint.
    pub fn wake_parked(&self) {
        fence(Ordering::SeqCst);
        for (index, words) in self.words.iter().enumerate() {
            if words.parked.load(Ordering::SeqCst) != 0 {
                self.events[index].notify();
            }
        }
    }

    /// Wakes every process that ever ran.
    pub fn wake_all(&self) {
        for (index, words) in self.words.iter().enumerate() {
            if words.pid.load(Ordering::Relaxed) != 0 {
                self.events[index].notify();
            }
        }
    }

    /// Begins a stretch of descents of `slot`.
    pub fn enter_epoch(&self, slot: SlotNo) {
        self.words(slot).epoch.enter(&self.shared.epoch);
    }

    /// Ends the stretch begun by [`Procs::enter_epoch`].
    pub fn leave_epoch(&self, slot: SlotNo) {
        self.words(slot).epoch.leave();
    }

    /// The epoch that [`Procs::enter_epoch`] would publish now.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.shared.epoch.now()
    }

    /// Starts a new epoch and returns its number, to be asked for by [`Procs::all_past`].
    pub fn bump_epoch(&self) -> u64 {
        self.shared.epoch.bump()
    }

    /// Whether every descent begun before the epoch became `epoch` has ended.
    pub fn all_past(&self, epoch: u64) -> bool {
        epochs::all_past(self.words.iter().map(|words| &words.epoch), epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn procs() -> Procs {
        let mut plan = Plan::new();
        let regions = ProcsRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        Procs::open(&segment, &regions).expect("descriptors for a test")
    }

    #[test]
    fn what_was_unlinked_is_given_back_after_the_last_earlier_descent_only() {
        let procs = procs();
        let (early, late) = (SlotNo::new(3), SlotNo::new(4));
        procs.enter_epoch(early);
        let epoch = procs.bump_epoch();
        procs.enter_epoch(late);
        assert!(
            !procs.all_past(epoch),
            "a descent begun before is under way"
        );
        procs.leave_epoch(early);
        assert!(procs.all_past(epoch), "one begun afterwards does not count");
        procs.enter_epoch(early);
        assert!(procs.all_past(epoch));
        assert!(!procs.all_past(procs.bump_epoch()));
    }

    #[test]
    fn a_flush_is_handed_to_one_that_is_willing_and_only_once() {
        let procs = procs();
        let (willing, other) = (SlotNo::new(2), SlotNo::new(5));
        assert!(!procs.nominate(), "nobody is willing");
        procs.set_willing(willing, true);
        procs.set_willing(other, false);
        assert!(procs.nominate());
        assert!(procs.event(willing).take(), "it is woken");
        assert!(!procs.nominate(), "it has been asked already");
        assert!(procs.take_nomination(willing));
        assert!(!procs.take_nomination(willing), "taken once");
        procs.set_willing(willing, true);
        assert!(!procs.take_nomination(willing), "it woke by itself");
        assert!(!procs.nominate(), "it is awake");
    }

    #[test]
    fn only_those_that_wait_are_woken() {
        let procs = procs();
        let (waits, later, quiet) = (SlotNo::new(1), SlotNo::new(2), SlotNo::new(3));
        procs.set_wait_lsn(waits, Lsn::new(100));
        procs.set_wait_lsn(later, Lsn::new(101));
        procs.wake_durable(Lsn::new(100), None);
        let woken = |slot| procs.event(slot).take();
        assert!(woken(waits) && !woken(later) && !woken(quiet));
        procs.set_parked(quiet, true);
        procs.wake_parked();
        assert!(woken(quiet) && !woken(waits));
    }
}
