//! Snapshots and pruning, without pages: the versions of one key, which are given up when the points
//! at which somebody may read do not need them (`rd_store::snapshot`).

use crate::log::{Backend, Log};
use rd_base::{Lsn, Role};
use rd_store::{Points, SlotNo, Snapshot};
use rd_sys::Latch;
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const UPDATES: u64 = 8;

/// A leaf with one key.
struct Leaf {
    log: Rc<Log>,
    latch: Latch<0>,
    /// Stamps of all versions there ever were, oldest first; and of those that are left.
    all: RefCell<Vec<Lsn>>,
    left: RefCell<Vec<Lsn>>,
    updaters: Cell<u64>,
}

impl Leaf {
    fn updater(&self, backend: &mut Backend) {
        for turn in 0..UPDATES {
            let end = backend.insert_under(
                turn,
                200,
                || self.latch.lock(),
                |end| {
                    self.all.borrow_mut().push(end);
                    self.left.borrow_mut().push(end);
                },
            );
            let wal = backend.log.shared.wal.clone();
            match backend.rng.below(4) {
                0 => backend.wait_durable(end),
                1 => {
                    wal.note_request(end);
                    backend.flusher.try_flush(1);
                }
                2 => wal.request_flush(end),
                _ => {}
            }
        }
        self.updaters.set(self.updaters.get() - 1);
    }

    /// What a reader sees at `lsn`; under the latch. It must be what there was.
    fn read(&self, lsn: Lsn) -> Option<Lsn> {
        let newest = |stamps: &[Lsn]| stamps.iter().copied().filter(|stamp| *stamp <= lsn).max();
        let (all, left) = (self.all.borrow(), self.left.borrow());
        let (was, is) = (newest(&all), newest(&left));
        assert_eq!(is, was, "what is seen at {lsn} was pruned");
        is
    }

    fn reader(&self, slot: SlotNo, rng: &mut Rng) {
        let (snapshots, wal) = (&self.log.shared.snapshots, &self.log.shared.wal);
        while self.updaters.get() > 0 {
            let taken = match rng.below(3) {
                0 => {
                    // What a reply may show at once.
                    {
                        let _latch = self.latch.lock();
                        self.read(wal.durable_lsn());
                    }
                    pause(Pause::Step);
                    continue;
                }
                1 => snapshots.publish_insert(wal, slot),
                _ => snapshots.publish_durable(wal, slot),
            };
            let snapshot = taken.unwrap_or_else(|_| unreachable!("one is held at a time"));
            self.read_again_and_again(&snapshot, rng);
        }
    }

    fn read_again_and_again(&self, snapshot: &Snapshot, rng: &mut Rng) {
        let mut first = None;
        for _ in 0..1 + rng.below(4) {
            let seen = {
                let _latch = self.latch.lock();
                self.read(snapshot.lsn())
            };
            assert_eq!(*first.get_or_insert(seen), seen, "a snapshot has changed");
            pause(Pause::Step);
        }
    }

    fn pruner(&self, rng: &mut Rng) {
        let (snapshots, wal) = (&self.log.shared.snapshots, &self.log.shared.wal);
        let mut points = Points::default();
        while self.updaters.get() > 0 {
            {
                // The latch may be taken before or afterwards.
                let before = rng.half().then(|| self.latch.lock());
                snapshots.collect(wal, &mut points);
                let _latch = before.unwrap_or_else(|| self.latch.lock());
                self.prune(&points);
            }
            pause(Pause::Step);
        }
    }

    /// Under the latch.
    fn prune(&self, points: &Points) {
        let mut left = self.left.borrow_mut();
        let newer: Vec<Lsn> = left.iter().skip(1).copied().collect();
        let mut newer = newer.into_iter();
        left.retain(|stamp| newer.next().is_none_or(|newer| points.needs(*stamp, newer)));
    }
}

impl Leaf {
    /// When nobody reads any more, and all is durable, the newest version is needed, and no other.
    fn look_pruned(&self) {
        let mut points = Points::default();
        let shared = &self.log.shared;
        shared.snapshots.collect(&shared.wal, &mut points);
        self.prune(&points);
        assert_eq!(
            self.left.borrow()[..],
            self.all.borrow()[2 * UPDATES as usize - 1..],
            "versions that nobody needs are kept"
        );
    }
}

/// Updates of one key, beside records of others, readers and a pruner.
pub fn horizon(seed: u64) -> Result<u64, String> {
    let (log, mut crew) = Log::new(seed);
    let leaf = Rc::new(Leaf {
        log: Rc::clone(&log),
        latch: Latch::new(),
        all: RefCell::default(),
        left: RefCell::default(),
        updaters: Cell::new(2),
    });
    for number in 0..2 {
        let (own, mut backend) = (Rc::clone(&leaf), Backend::new(&log, number, seed));
        crew.add("updater", move || own.updater(&mut backend));
    }
    let mut other = Backend::new(&log, 2, seed);
    crew.add("other", move || {
        for turn in 0..UPDATES {
            other.insert(turn, 400);
        }
    });
    for number in 3..5 {
        let own = Rc::clone(&leaf);
        let slot = SlotNo::of(Role::Backend(number)).expect("backends have slots");
        let mut rng = Rng::new(seed ^ (u64::from(number) << 40));
        crew.add("reader", move || own.reader(slot, &mut rng));
    }
    let (own, mut rng) = (Rc::clone(&leaf), Rng::new(seed ^ (9 << 40)));
    crew.add("pruner", move || own.pruner(&mut rng));
    let trace = log.run(&mut crew, seed)?;
    leaf.look_pruned();
    Ok(trace)
}
