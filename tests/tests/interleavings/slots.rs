//! Processes that tell others of themselves, and that die: epochs, by which what was unlinked is given
//! back only when nobody can look at it any more, be it that a process dies in the midst of a descent;
//! and the postmaster, which reads what its children may have left half written.
//!
//! What the postmaster does when a child dies is a pure function, all of whose states are walked
//! elsewhere (`postmaster/src/state/tests.rs`).

use crate::server::little_memory;
use rd_base::overrides::OverridesFull;
use rd_base::{Overrides, Param, Role};
use rd_store::Shared;
use rd_store::procs::{Procs, SlotNo};
use rd_sys::atomic::{AtomicU64, Ordering};
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use rd_sys::simsched::Crew;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

const READERS: u64 = 3;
const DESCENTS: u64 = 8;
const UNLINKED: usize = 6;

/// Something that has a place, and moves to another one.
struct World {
    shared: Arc<Shared>,
    /// The place where it is.
    place: AtomicU64,
    /// Places that were given back.
    is_free: RefCell<[bool; UNLINKED + 1]>,
    /// The place at which a process has died, in a descent that it had begun.
    died_at: Cell<Option<usize>>,
}

impl World {
    fn procs(&self) -> &Procs {
        &self.shared.procs
    }

    /// Descends, in the epoch that it knows if there is no newer one, as the engine does.
    fn reader(&self, number: u64, dies_at: Option<u64>, rng: &mut Rng) {
        let slot = SlotNo::of(Role::Backend(number as u16)).expect("backends have slots");
        let procs = self.procs();
        let mut epoch = 0;
        for descent in 0..DESCENTS {
            let now = procs.epoch();
            if epoch != now {
                procs.enter_epoch(slot);
                epoch = now;
            }
            let place = self.place.load(Ordering::Acquire) as usize;
            for _ in 0..rng.below(3) {
                pause(Pause::Step);
                assert!(
                    !self.is_free.borrow()[place],
                    "place {place} was given back under a descent"
                );
            }
            if dies_at == Some(descent) {
                self.died_at.set(Some(place));
                return;
            }
            if rng.half() {
                procs.leave_epoch(slot);
                epoch = 0;
            }
        }
        procs.leave_epoch(slot);
    }

    /// Gives back all places of which the epoch has passed, and keeps the others in `waiting`.
    fn give_back(&self, waiting: &mut Vec<(usize, u64)>) {
        waiting.retain(|(place, epoch)| {
            let is_past = self.procs().all_past(*epoch);
            if is_past {
                self.is_free.borrow_mut()[*place] = true;
            }
            !is_past
        });
    }

    fn mover(&self) {
        let mut waiting = Vec::new();
        for next in 1..=UNLINKED {
            self.place.store(next as u64, Ordering::Release);
            waiting.push((next - 1, self.procs().bump_epoch()));
            self.give_back(&mut waiting);
            pause(Pause::Step);
        }
        // Nobody descends for ever but who has died; the server is then made anew.
        while !waiting.is_empty() && self.died_at.get().is_none() {
            pause(Pause::Wait);
            self.give_back(&mut waiting);
        }
    }
}

/// Descents beside something that is unlinked again and again.
pub fn epochs(seed: u64) -> Result<u64, String> {
    let world = Rc::new(World {
        shared: little_memory(),
        place: AtomicU64::new(0),
        is_free: RefCell::default(),
        died_at: Cell::default(),
    });
    let mut crew = Crew::new(seed);
    for number in 0..READERS {
        let own = Rc::clone(&world);
        let mut rng = Rng::new(seed ^ (number << 40));
        let dies_at = (number == 0 && seed.is_multiple_of(4)).then(|| rng.below(DESCENTS));
        crew.add("reader", move || own.reader(number, dies_at, &mut rng));
    }
    let own = Rc::clone(&world);
    crew.add("mover", move || own.mover());
    crew.run(&mut |_, _| {})?;
    let is_free = world.is_free.borrow();
    match world.died_at.get() {
        Some(place) => assert!(
            !is_free[place],
            "place {place} was given back under the dead"
        ),
        None => assert!(is_free[..UNLINKED].iter().all(|is_free| *is_free)),
    }
    Ok(crew.trace())
}

/// CONFIG SET of something that was never set before, as a backend does it; gives what is in force then.
pub fn set_anew(shared: &Shared, versions: &RefCell<Vec<Overrides>>, param: Param) -> Overrides {
    let set = shared.change_overrides(|before| {
        let mut next = before.clone();
        let mut versions = versions.borrow_mut();
        // None is like one before it.
        next.insert(param, "1".repeat(7 * versions.len()))?;
        versions.push(next.clone());
        Ok::<_, OverridesFull>(next)
    });
    set.expect("few are set")
}

/// Sessions that set parameters, one of which may be killed while it does; a neighbour, which waits for
/// what is being set; and the postmaster, which reads them whatever has become of the others, for the
/// next shared memory.
pub fn dying_children(seed: u64) -> Result<u64, String> {
    const SETTINGS: u64 = 5;
    const READS: u64 = 12;
    let shared = little_memory();
    // All that there ever was, in this order.
    let versions = Rc::new(RefCell::new(vec![Overrides::new()]));
    let mut rng = Rng::new(seed);
    let mut crew = Crew::new(seed);
    let params = [Param::MaxWalSize, Param::CheckpointTimeout];
    for (number, param) in params.into_iter().enumerate() {
        let (shared, versions) = (Arc::clone(&shared), Rc::clone(&versions));
        let pauses = if number == 0 {
            1 + rng.below(60)
        } else {
            u64::MAX
        };
        crew.add_mortal("session", pauses, move || {
            for _ in 0..SETTINGS {
                set_anew(&shared, &versions, param);
            }
        });
    }
    let (own, all) = (Arc::clone(&shared), Rc::clone(&versions));
    crew.add_mortal("neighbour", u64::MAX, move || {
        for _ in 0..READS {
            let least = all.borrow().len() - 1;
            let found = own.overrides();
            let at = all.borrow().iter().position(|one| *one == found);
            assert!(
                at >= Some(least),
                "neither the newest nor its successor: {found:?}"
            );
            pause(Pause::Step);
        }
    });
    let (own, all) = (Arc::clone(&shared), Rc::clone(&versions));
    crew.add("postmaster", move || {
        let mut last = 0;
        for _ in 0..READS {
            if let Some(found) = own.peek_overrides() {
                let all = all.borrow();
                let at = all.iter().position(|one| *one == found);
                let at = at.unwrap_or_else(|| panic!("never set so: {found:?}"));
                assert!(at >= last, "older than what was read before");
                last = at;
            }
            pause(Pause::Step);
        }
    });
    crew.run(&mut |_, _| {})?;
    Ok(crew.trace())
}
