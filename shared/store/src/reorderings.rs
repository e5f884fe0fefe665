//! Model checks: the horizon and the epochs, run in every interleaving and every order of memory that
//! the memory model allows for a few threads with a few preemptions each (feature `loom`; [`run`]
//! takes their number).
//!
//! The checker takes a SeqCst load or store for an acquiring or releasing one, so what holds here
//! holds by the fences and by changes of one word.
//!
//! The checker's threads are all of one real thread, so what orders nothing (`Rc`, `Cell`) may be shared.
//! What is given back is a cell that the checker watches: it reports whoever still reads it.

use crate::epochs::{Epoch, Shown, all_past};
use crate::snapshot::{Entries, LogNumbers, Points};
use crate::wal::FlushTarget;
use crate::wal::target::Target;
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::atomic::{self, AtomicU64};
use loom::thread;
use rd_base::Lsn;
use rd_sys::atomic::{Number, Ordering};
use std::cell::Cell;
use std::rc::Rc;

/// Of each record.
const BYTES: u64 = 8;

struct ModelNumber(AtomicU64);

impl ModelNumber {
    fn new(value: u64) -> Self {
        ModelNumber(AtomicU64::new(value))
    }
}

impl Number for ModelNumber {
    fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }
    fn store(&self, value: u64, order: Ordering) {
        self.0.store(value, order);
    }
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_add(value, order)
    }
    fn fetch_max(&self, value: u64, order: Ordering) -> u64 {
        self.0.fetch_max(value, order)
    }
    fn full_fence() {
        atomic::fence(Ordering::SeqCst);
    }
}

fn run(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// A log of which every record is complete when its place is reserved. Positions are LSNs.
struct Log {
    insert: ModelNumber,
    durable: ModelNumber,
    target: Target<ModelNumber>,
}

impl Log {
    fn new() -> Log {
        Log {
            insert: ModelNumber::new(BYTES),
            durable: ModelNumber::new(BYTES),
            target: Target {
                lsn: ModelNumber::new(BYTES),
                complete_pos: ModelNumber::new(BYTES),
            },
        }
    }

    /// The end of the new record.
    fn insert(&self) -> Lsn {
        Lsn::new(self.insert.fetch_add(BYTES, Ordering::AcqRel) + BYTES)
    }

    fn complete(&self) -> Lsn {
        let insert = self.insert.load(Ordering::SeqCst);
        Lsn::new(self.target.raise_complete(insert))
    }

    /// By one thread: there is no flush latch.
    fn flush(&self) {
        let durable = self.durable_lsn();
        let (target, ()) = self.target.choose(durable, || (self.complete(), ()));
        self.durable.store(target.get(), Ordering::SeqCst);
    }
}

impl LogNumbers for Log {
    fn flush_target(&self) -> FlushTarget {
        self.target.seen_from(self.complete())
    }
    fn durable_lsn(&self) -> Lsn {
        Lsn::new(self.durable.load(Ordering::SeqCst))
    }
    fn insert_lsn(&self) -> Lsn {
        Lsn::new(self.insert.load(Ordering::SeqCst))
    }
}

/// The stamps of a key's versions, oldest first.
struct Versions {
    all: Vec<Lsn>,
    left: Vec<Lsn>,
}

impl Versions {
    /// What a reader sees at `lsn` must be what there was.
    fn read(&self, lsn: Lsn) {
        let newest = |stamps: &[Lsn]| stamps.iter().copied().filter(|stamp| *stamp <= lsn).max();
        let (was, is) = (newest(&self.all), newest(&self.left));
        assert_eq!(is, was, "what is seen at {lsn} was pruned");
    }
}

/// Where the number of a snapshot comes from.
#[derive(Clone, Copy)]
enum From {
    Durable,
    Insert,
}

/// One key of one leaf, and something that one of its changes gives up (a file, of a dropped
/// namespace).
struct Server {
    log: Log,
    entries: [Entries<ModelNumber, 1>; 2],
    leaf: Mutex<Versions>,
    file: UnsafeCell<()>,
    /// The highest horizon that anybody has found. Not the checker's, since it must order nothing.
    horizon: Cell<Lsn>,
}

impl Server {
    fn new() -> Rc<Server> {
        let first = vec![Lsn::new(BYTES)];
        Rc::new(Server {
            log: Log::new(),
            entries: std::array::from_fn(|_| Entries {
                used: ModelNumber::new(0),
                lsns: [ModelNumber::new(0)],
            }),
            leaf: Mutex::new(Versions {
                all: first.clone(),
                left: first,
            }),
            file: UnsafeCell::new(()),
            horizon: Cell::new(Lsn::ZERO),
        })
    }

    /// Runs `body` beside whatever else there is.
    fn spawn(self: &Rc<Self>, body: impl FnOnce(&Server) + 'static) -> thread::JoinHandle<()> {
        let own = Rc::clone(self);
        thread::spawn(move || body(&own))
    }

    fn leaf<T>(&self, body: impl FnOnce(&mut Versions) -> T) -> T {
        body(&mut self.leaf.lock().expect("not poisoned"))
    }

    fn update(&self) {
        self.leaf(|versions| {
            let stamp = self.log.insert();
            versions.all.push(stamp);
            versions.left.push(stamp);
        });
    }

    fn points(&self) -> Points {
        let mut points = Points::default();
        points.collect(&self.log, self.entries.iter());
        self.horizon.set(points.horizon().max(self.horizon.get()));
        points
    }

    fn prune(&self) {
        self.prune_by(&self.points());
    }

    /// The points may be older than what is in the leaf.
    fn prune_by(&self, points: &Points) {
        self.leaf(|versions| {
            let newer: Vec<Lsn> = versions.left.iter().skip(1).copied().collect();
            let mut newer = newer.into_iter();
            let is_needed =
                |stamp: &Lsn| newer.next().is_none_or(|newer| points.needs(*stamp, newer));
            versions.left.retain(is_needed);
        });
    }

    fn publish(&self, reader: usize, from: From) -> Lsn {
        let mine = &self.entries[reader];
        let index = mine.take().expect("one is taken at a time");
        match from {
            From::Durable => mine.publish_durable(index, &self.log),
            From::Insert => mine.publish_insert(index, &self.log),
        }
    }

    fn withdraw(&self, reader: usize, snapshot: Lsn) {
        let horizon = self.horizon.get();
        assert!(
            horizon <= snapshot,
            "a horizon at {horizon} went past {snapshot}"
        );
        self.entries[reader].withdraw(0);
    }

    fn read(&self, reader: usize, from: From) {
        let snapshot = self.publish(reader, from);
        self.leaf(|versions| versions.read(snapshot));
        self.withdraw(reader, snapshot);
    }

    /// When all is over, and durable, the newest version is needed, and no other.
    fn assert_nothing_else_is_left(&self) {
        self.log.flush();
        assert_eq!(self.points().horizon(), self.log.insert_lsn());
        self.prune();
        self.leaf(|versions| assert_eq!(versions.left[..], versions.all[versions.all.len() - 1..]));
    }
}

fn join(threads: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    let threads = threads.into_iter();
    threads.for_each(|thread| thread.join().expect("no panic"));
}

fn beside_updates_and_pruning(reader: impl FnOnce(&Server) + 'static) {
    let server = Server::new();
    let reader = server.spawn(reader);
    let pruner = server.spawn(Server::prune);
    server.update();
    server.log.flush();
    join([reader, pruner]);
    server.assert_nothing_else_is_left();
}

#[test]
fn what_a_snapshot_of_the_durable_lsn_sees_is_not_pruned() {
    run(3, || {
        beside_updates_and_pruning(|server| server.read(0, From::Durable));
    });
}

#[test]
fn what_a_snapshot_of_the_insert_position_sees_is_not_pruned() {
    run(3, || {
        beside_updates_and_pruning(|server| server.read(0, From::Insert));
    });
}

#[test]
fn two_flushes_hide_no_snapshot_from_a_pruner() {
    run(2, || {
        let server = Server::new();
        let reader = server.spawn(|server| server.read(0, From::Durable));
        let flusher = server.spawn(|server| {
            for _ in 0..2 {
                server.update();
                server.log.flush();
            }
        });
        server.prune();
        join([reader, flusher]);
        server.assert_nothing_else_is_left();
    });
}

#[test]
fn what_a_flush_under_way_makes_durable_is_not_pruned() {
    run(3, || {
        let server = Server::new();
        let flusher = server.spawn(|server| {
            server.update();
            server.log.flush();
            server.read(0, From::Durable);
        });
        let points = server.points();
        server.update();
        server.prune_by(&points);
        server.prune();
        join([flusher]);
        server.assert_nothing_else_is_left();
    });
}

#[test]
fn a_place_that_is_taken_again_hides_no_snapshot() {
    run(2, || {
        beside_updates_and_pruning(|server| {
            server.read(0, From::Insert);
            server.read(0, From::Durable);
        });
    });
}

#[test]
fn what_is_durable_can_be_read_without_a_snapshot() {
    run(3, || {
        beside_updates_and_pruning(|server| {
            server.leaf(|versions| versions.read(server.log.durable_lsn()));
        });
    });
}

#[test]
fn a_file_goes_after_the_last_snapshot_that_sees_it() {
    run(3, || {
        let server = Server::new();
        let readers = [From::Durable, From::Insert].map(|from| {
            server.spawn(move |server| {
                let reader = from as usize;
                let snapshot = server.publish(reader, from);
                let dropped = server.leaf(|versions| versions.all.get(1).copied());
                if dropped.is_none_or(|dropped| snapshot < dropped) {
                    server.file.with(|_| ());
                }
                server.withdraw(reader, snapshot);
            })
        });
        server.update();
        server.log.flush();
        let dropped = server.leaf(|versions| versions.all[1]);
        if server.points().horizon() >= dropped {
            server.file.with_mut(|_| ());
        }
        join(readers);
        assert!(server.points().horizon() >= dropped, "it goes in the end");
        server.file.with_mut(|_| ());
    });
}

/// Something that has a place, and moves to another one.
struct Moving {
    epoch: Epoch<ModelNumber>,
    shown: [Shown<ModelNumber>; 2],
    /// Where it is; its own ordering is none, so that the epochs have to give it.
    place: ModelNumber,
    places: [UnsafeCell<()>; 3],
}

impl Moving {
    fn new() -> Rc<Moving> {
        Rc::new(Moving {
            epoch: Epoch {
                less_one: ModelNumber::new(0),
            },
            shown: std::array::from_fn(|_| Shown {
                epoch: ModelNumber::new(0),
            }),
            place: ModelNumber::new(0),
            places: std::array::from_fn(|_| UnsafeCell::new(())),
        })
    }

    fn descend(&self) {
        let place = self.place.load(Ordering::Relaxed);
        self.places[place as usize].with(|_| ());
    }

    fn reader(self: &Rc<Self>, number: usize, rests: bool) -> thread::JoinHandle<()> {
        let own = Rc::clone(self);
        thread::spawn(move || {
            let shown = &own.shown[number];
            for _ in 0..2 {
                shown.enter(&own.epoch);
                own.descend();
                if rests {
                    shown.leave();
                }
            }
            shown.leave();
        })
    }

    fn is_past(&self, epoch: u64) -> bool {
        all_past(self.shown.iter(), epoch)
    }

    /// Moves it to the next place; the epoch at which the one before can be given back.
    fn move_on(&self) -> u64 {
        let next = self.place.load(Ordering::Relaxed) + 1;
        self.place.store(next, Ordering::Relaxed);
        self.epoch.bump()
    }
}

#[test]
fn nothing_is_given_back_under_a_descent() {
    run(3, || {
        let moving = Moving::new();
        let readers = [moving.reader(0, true), moving.reader(1, false)];
        let epoch = moving.move_on();
        if moving.is_past(epoch) {
            moving.places[0].with_mut(|_| ());
        }
        join(readers);
        assert!(moving.is_past(epoch), "all descents have ended");
        moving.places[0].with_mut(|_| ());
    });
}

#[test]
fn an_epoch_that_has_passed_tells_nothing_of_the_next() {
    run(3, || {
        let moving = Moving::new();
        let reader = moving.reader(0, false);
        let epochs = [moving.move_on(), moving.move_on()];
        for (place, epoch) in epochs.into_iter().enumerate() {
            if moving.is_past(epoch) {
                moving.places[place].with_mut(|_| ());
            }
        }
        join([reader]);
        assert!(moving.is_past(epochs[1]), "all descents have ended");
    });
}
