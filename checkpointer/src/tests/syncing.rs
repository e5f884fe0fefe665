//! How long syncing is said to take, by a clock that each sync moves.

use super::manual;
use super::world::{FIRST_FILE, History, World, new_disk};
use crate::sync::{self, Synced};
use crate::sync_time::SyncTime;
use crate::worker::Worker;
use rd_base::{BlockNo, FileNo, PageTag};
use rd_store::checkpoint::{CheckpointPhase, TicketState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

/// What each sync takes, microseconds.
const SYNC_US: u64 = 2_000_000;

/// Syncs that begin, and leave to end.
struct Syncs {
    begun: Receiver<bool>,
    begin: Sender<bool>,
    leave: Sender<()>,
}

impl Syncs {
    /// Has the world's syncs wait for leave, and take their time. Those before took none, which is
    /// forgotten.
    fn of(world: &mut World) -> Syncs {
        let (begin, begun) = mpsc::channel();
        let (leave, left) = mpsc::channel();
        let store = &world.checkpointer.store;
        let relations = Arc::clone(&world.checkpointer.relations);
        let mut work = sync::work(relations, store.clock.clone());
        let wake = store.shared.procs.event(store.slot).clone();
        let (time_ns, begins) = (Arc::clone(&world.time_ns), begin.clone());
        let worker = Worker::on_thread("sync", wake, move |job| {
            begins.send(true).expect("somebody listens");
            left.recv().expect("somebody gives leave");
            time_ns.fetch_add(1000 * SYNC_US, Ordering::SeqCst);
            let micros = SYNC_US;
            Synced {
                micros,
                ..work(job)
            }
        });
        world.checkpointer.syncs = worker.expect("a thread");
        world.checkpointer.sync_time = SyncTime::default();
        Syncs {
            begun,
            begin,
            leave,
        }
    }

    /// Makes a checkpoint; gives how long it was said to take, microseconds, at the begin of each sync.
    fn told(&mut self, world: &mut World) -> Vec<Option<u64>> {
        let Syncs {
            begun,
            begin,
            leave,
        } = self;
        let shared = Arc::clone(&world.backend.shared);
        let clock = world.backend.clock.clone();
        let told = move || {
            // What was told before the last sync's end was taken in is not told now.
            let progress = loop {
                let progress = shared.checkpoint.progress();
                if progress.sync_seen_us == clock.wall_us() {
                    break progress;
                }
                thread::yield_now();
            };
            assert_eq!(progress.phase, CheckpointPhase::Syncing);
            progress.eta_us(clock.wall_us())
        };
        thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let mut all = Vec::new();
                while begun.recv().expect("a sync or the end") {
                    all.push(told());
                    leave.send(()).expect("it waits");
                }
                all
            });
            assert_eq!(world.checkpoint(manual()), TicketState::Done);
            begin.send(false).expect("it listens");
            watch.join().expect("no panic")
        })
    }
}

#[test]
fn how_long_syncing_takes_is_told_from_what_syncs_took_before() {
    let disk = new_disk(13);
    let mut history = History::default();
    let parameters = [
        ("recovery_time_target", "0"),
        ("checkpoint_heartbeat", "1min"),
    ];
    let (mut world, _) = World::start_with(&disk, &mut history, &parameters);
    for number in 2..=4 {
        world.make_dirty_file(&mut history, number);
    }
    let mut syncs = Syncs::of(&mut world);
    let first = syncs.told(&mut world);
    // Of each file its pages, and then its header.
    assert_eq!(first.len(), 6, "{first:?}");
    assert_eq!(first[0], None, "nobody knows");
    assert!(first[1..].iter().all(Option::is_some), "{first:?}");
    for file in [2, 3, 4] {
        for block in 1..=20 {
            let tag = PageTag::new(FileNo::new(file), BlockNo::new(block));
            world.write_page(&mut history, tag, 0, 100);
        }
    }
    let second = syncs.told(&mut world);
    let expected = [6, 5, 4, 3, 2, 1].map(|left| Some(left * SYNC_US));
    assert_eq!(second, expected);
    // What is written of few files is synced sooner.
    let tag = PageTag::new(FIRST_FILE, BlockNo::new(1));
    world.write_page(&mut history, tag, 0, 100);
    assert_eq!(syncs.told(&mut world), expected[4..]);
}
