//! A small server on a simulated disk: startup, checkpointer with its workers, walwriter and
//! preparer of segments, as a crew; scenarios add their backends.

use crate::memory;
use rd_base::{Config, Role};
use rd_checkpointer::{Checkpointer, Workers};
use rd_engine::init::{InitOptions, init_storage};
use rd_engine::recovery::{Watcher, recover};
use rd_store::procs::SlotNo;
use rd_store::relation::RelationFiles;
use rd_store::wal::Preparer;
use rd_store::wal::segments::Step;
use rd_store::{Shared, Sizes, Store};
use rd_sys::clock::Clock;
use rd_sys::simdisk::SimStorage;
use rd_sys::simproc::{Pause, pause};
use rd_sys::simsched::Crew;
use rd_sys::storage::Storage;
use rd_walwriter::Walwriter;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SEGMENT_BYTES: u64 = 512 << 10;
const FRAMES: usize = 96;
/// More than any record of a scenario.
const RING_BYTES: u64 = 64 << 10;
/// How far time goes when all wait for it.
const REST_NS: u64 = 50_000_000;

thread_local! {
    /// A disk that a server was initialised on.
    static DISK: RefCell<Option<SimStorage>> = const { RefCell::new(None) };
}

/// What its processes share.
pub struct Server {
    pub shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    clock: Clock,
    config: Arc<Config>,
}

/// Nobody watches recovery.
struct Unwatched;

impl Watcher for Unwatched {
    fn progress(&mut self) {}
    fn must_stop(&mut self) -> bool {
        false
    }
}

fn config() -> Config {
    let pairs = [
        ("double_write_size", "8MB"),
        ("checkpoint_timeout", "30s"),
        ("min_wal_size", "4MB"),
        ("max_wal_size", "1GB"),
        ("scrub_rate", "0"),
    ];
    let config = Config::from_pairs(&pairs).expect("valid");
    config.with_wal_segment_size(SEGMENT_BYTES).expect("valid")
}

fn disk(config: &Config) -> SimStorage {
    DISK.with_borrow_mut(|disk| {
        let disk = disk.get_or_insert_with(|| {
            let disk = SimStorage::new(1);
            let storage: Arc<dyn Storage> = Arc::new(disk.clone());
            let options = InitOptions {
                config,
                system_identifier: 99,
                now_us: 1,
                conf_lines: "",
            };
            init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
            disk
        });
        disk.fork()
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        memory::give_back(&self.shared);
    }
}

impl Server {
    /// One that has started, and its crew, which from now on is interleaved as the seed says.
    pub fn start(seed: u64) -> Result<(Rc<Server>, Crew), String> {
        let config = Arc::new(config());
        let (clock, time_ns) = Clock::manual(1_000_000_000_000);
        let server = Rc::new(Server {
            shared: memory::take(Sizes {
                frames: FRAMES,
                wal_ring_bytes: RING_BYTES,
                wal_segment_bytes: SEGMENT_BYTES,
            }),
            storage: Arc::new(disk(&config)),
            clock,
            config,
        });
        let mut crew = Crew::plain(seed);
        crew.at_rest(move || {
            time_ns.fetch_add(REST_NS, Ordering::SeqCst);
        });
        server.add_checkpointer(&mut crew);
        let store = server.store(Role::Startup);
        crew.add("startup", move || {
            recover(&store, &mut Unwatched).expect("a server that was just made");
        });
        crew.run(&mut |_, _| {})?;
        add_log_writers(&mut crew, server.store(Role::Walwriter), SEGMENT_BYTES);
        crew.interleave();
        Ok((server, crew))
    }

    /// The store of the process with `role`.
    pub fn store(&self, role: Role) -> Store {
        let slot = SlotNo::of(role).expect("a role with a slot");
        let (shared, storage) = (Arc::clone(&self.shared), Arc::clone(&self.storage));
        Store::new(
            shared,
            storage,
            self.clock.clone(),
            slot,
            Arc::clone(&self.config),
        )
    }

    fn add_checkpointer(&self, crew: &mut Crew) {
        let store = self.store(Role::Checkpointer);
        let relations = Arc::new(RelationFiles::writer(Arc::clone(&self.storage)));
        let (workers, steps) = Workers::by_steps(&store, &relations);
        for (name, mut step) in ["sync", "growth"].into_iter().zip(steps) {
            crew.add_server(name, move || {
                loop {
                    if !step() {
                        pause(Pause::Wait);
                    }
                }
            });
        }
        crew.add_server("checkpointer", move || {
            let mut checkpointer = Checkpointer::new(store, relations, workers);
            loop {
                checkpointer.work_and_sleep();
            }
        });
    }
}

/// Adds the walwriter, whose store this is, and the preparer of segments, which prepares so many bytes
/// ahead.
pub fn add_log_writers(crew: &mut Crew, store: Store, ahead_bytes: u64) {
    let event = store.shared.procs.event(store.slot).clone();
    let (wal, storage) = (store.shared.wal.clone(), Arc::clone(&store.storage));
    crew.add_server("walwriter", move || {
        let mut walwriter = Walwriter::new(store);
        loop {
            event.take();
            let timeout = walwriter.turn();
            event.wait(timeout);
        }
    });
    let mut preparer = Preparer::new(wal, storage, ahead_bytes);
    crew.add_server("preparer", move || {
        loop {
            if preparer.step() != Step::Prepared {
                pause(Pause::Wait);
            }
        }
    });
}

/// Shared memory of which a scenario uses no page, and no log to speak of.
pub fn little_memory() -> Arc<Shared> {
    let sizes = Sizes {
        frames: 1,
        wal_ring_bytes: 16 << 10,
        wal_segment_bytes: 64 << 10,
    };
    Shared::anonymous(sizes).expect("memory for a test")
}
