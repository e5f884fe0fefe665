//! A whole server in one process, on a simulated disk that crashes: engine, log, checkpointer and
//! recovery, without sockets and processes. A crash is placed at one I/O after another of a random
//! workload; what the next start finds is held against everything that was ever committed.
//!
//! What must hold after every start, whatever was cut off:
//! - the log ends at or behind everything that was promised;
//! - the database is exactly what the commits up to that end make of it;
//! - both trees, their links, values and free blocks are whole, and the keys are counted right.

use rd_base::{Config, Lsn, Role};
use rd_checkpointer::{Checkpointer, Workers};
use rd_engine::init::{InitOptions, init_storage};
use rd_engine::recovery::{Recovered, RecoveryError, Watcher, recover};
use rd_engine::verify::{LivePages, verify};
use rd_engine::{Chunk, Engine, EngineError, NamespaceId, ParkReason, View};
use rd_format::catalog::CATALOG_FILE;
use rd_store::checkpoint::Flags;
use rd_store::relation::RelationFiles;
use rd_store::wal::{Flusher, Preparer};
use rd_store::{Shared, Sizes, SlotNo, Store};
use rd_sys::clock::Clock;
use rd_sys::crash::{catch_panics, panic_abort};
use rd_sys::simdisk::{Injection, IoKind, Rng, SimStorage};
use rd_sys::storage::Storage;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SEGMENT_BYTES: u64 = 1 << 20;
/// So few that the checkpointer has to supply clean frames.
const FRAMES: usize = 300;
const DB0: NamespaceId = NamespaceId::DB0;
/// Steps of one life of the server.
const STEPS: usize = 60;

/// What a record did to the database.
#[derive(Clone)]
enum Change {
    Put(Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Flush,
}

/// Everything that was ever committed, and up to where it was promised to last.
#[derive(Clone, Default)]
struct History {
    changes: Vec<(Lsn, Change)>,
    promised: Lsn,
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

impl History {
    /// What the records up to `end` make.
    fn at(&self, end: Lsn) -> Content {
        let mut content = Content::new();
        for (lsn, change) in &self.changes {
            if *lsn > end {
                break;
            }
            match change {
                Change::Flush => content.clear(),
                Change::Put(pairs) => {
                    for (key, value) in pairs {
                        match value {
                            Some(value) => content.insert(key.clone(), value.clone()),
                            None => content.remove(key),
                        };
                    }
                }
            }
        }
        content
    }
}

/// Nobody watches.
struct Unwatched;

impl Watcher for Unwatched {
    fn progress(&mut self) {}
    fn must_stop(&mut self) -> bool {
        false
    }
}

/// A running server.
struct World {
    shared: Arc<Shared>,
    engine: Engine,
    checkpointer: Checkpointer,
    flusher: Flusher,
    preparer: Preparer,
    time_ns: Arc<AtomicU64>,
}

fn config() -> Config {
    let pairs = [
        ("double_write_size", "8MB"),
        ("checkpoint_timeout", "1h"),
        ("max_wal_size", "1GB"),
    ];
    let config = Config::from_pairs(&pairs).expect("valid");
    config.with_wal_segment_size(SEGMENT_BYTES).expect("valid")
}

fn new_disk(seed: u64) -> SimStorage {
    let disk = SimStorage::new(seed);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let config = config();
    let options = InitOptions {
        config: &config,
        system_identifier: 99,
        now_us: 1,
    };
    init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
    disk
}

impl World {
    /// Starts the server on what is on disk. The log may recede under it, if a failed sync has left
    /// some of it in the cache only; then it is started again, as its message says.
    fn start(disk: &SimStorage) -> (World, Recovered) {
        for _ in 0..100 {
            if let Some(started) = World::try_start(disk) {
                return started;
            }
        }
        panic!("the log recedes for ever");
    }

    /// One start; none if the log receded.
    fn try_start(disk: &SimStorage) -> Option<(World, Recovered)> {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let config = Arc::new(config());
        let sizes = Sizes {
            frames: FRAMES,
            wal_ring_bytes: 512 << 10,
            wal_segment_bytes: SEGMENT_BYTES,
        };
        let shared = Shared::anonymous(sizes).expect("memory");
        let (clock, time_ns) = Clock::manual(1_000_000_000_000);
        let store = |role| {
            let slot = SlotNo::of(role).expect("a slot");
            let (shared, storage) = (Arc::clone(&shared), Arc::clone(&storage));
            Store::new(shared, storage, clock.clone(), slot, Arc::clone(&config))
        };
        let own = store(Role::Checkpointer);
        let relations = Arc::new(RelationFiles::writer(Arc::clone(&storage)));
        let workers = Workers::in_place(&own, &relations);
        let mut checkpointer = Checkpointer::new(own, relations, workers);
        let recovered = recover_beside(&store(Role::Startup), &mut checkpointer)?;
        shared.set_phase(rd_store::shared::Phase::Running);
        let world = World {
            engine: Engine::open(store(Role::Backend(0))),
            flusher: Flusher::for_store(&store(Role::Walwriter)),
            preparer: Preparer::new(shared.wal.clone(), storage, 0),
            checkpointer,
            shared,
            time_ns,
        };
        Some((world, recovered))
    }

    /// Holds everything against what it should be.
    fn compare(&self, expected: &Content) {
        let mut content = Content::new();
        let mut cursor = self
            .engine
            .range(DB0, b"", None, u64::MAX, View::Newest)
            .expect("a cursor");
        let chunk = Chunk {
            entries: u64::MAX,
            bytes: usize::MAX,
        };
        let visit = &mut |key: &[u8], value: &[u8]| {
            content.insert(key.to_vec(), value.to_vec());
        };
        while self
            .engine
            .range_next(&mut cursor, chunk, visit)
            .expect("a chunk")
        {}
        assert!(
            content == *expected,
            "{} keys of {}",
            content.len(),
            expected.len()
        );
        assert_eq!(
            self.engine.count(DB0).expect("a count"),
            expected.len() as u64
        );
        let store = self.engine.store();
        let db0 = self.shared.namespaces.entry(DB0).file().expect("db0");
        for file in [CATALOG_FILE, db0] {
            let report = verify(&LivePages { store, file });
            assert!(report.is_clean(), "file {file}: {:#?}", report.problems);
        }
    }

    fn flush(&mut self) {
        self.flusher.flush_all();
        while self.preparer.step() == rd_store::wal::segments::Step::Prepared {}
    }

    /// Runs an operation, doing what it waits for.
    fn run<R>(
        &mut self,
        mut operation: impl FnMut(&mut Engine) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        loop {
            match operation(&mut self.engine) {
                Err(EngineError::Park(reason)) => match reason {
                    ParkReason::FileGrowth(_) | ParkReason::FileCreation(_) => {
                        self.checkpointer.turn();
                    }
                    _ => self.flush(),
                },
                done => return done,
            }
        }
    }

    fn write(&mut self, history: &mut History, rng: &mut Rng) -> Result<(), EngineError> {
        let count = if rng.below(3) == 0 {
            1 + rng.below(30)
        } else {
            1
        };
        let mut pairs: Vec<(Vec<u8>, Option<Vec<u8>>)> = Vec::new();
        for _ in 0..count {
            let number = rng.below(200);
            // Some keys are long, with a long part in common, so that trees get deep; and the empty
            // key often has versions on more than one leaf.
            let mut key = match number {
                0..20 => Vec::new(),
                _ if number.is_multiple_of(4) => vec![b'k'; 900],
                _ => vec![b'k'; 2],
            };
            if number >= 20 {
                key.extend_from_slice(format!("{number:04}").as_bytes());
            }
            let bytes = match rng.below(40) {
                0 => 3000 + rng.below(30_000),
                _ if key.is_empty() => 1500 + rng.below(400),
                _ => rng.below(400),
            };
            let value = vec![rng.below(256) as u8; bytes as usize];
            if !pairs.iter().any(|(other, _)| *other == key) {
                pairs.push((key, (rng.below(4) > 0).then_some(value)));
            }
        }
        let keys: Vec<&[u8]> = pairs.iter().map(|(key, _)| &key[..]).collect();
        let done = self.run(|engine| {
            engine.write(DB0, &keys, &mut |access| {
                for (index, (_, value)) in pairs.iter().enumerate() {
                    match value {
                        Some(value) => access.put(index, value, None)?,
                        None => drop(access.delete(index)?),
                    }
                }
                Ok(())
            })
        })?;
        if done.lsn > Lsn::ZERO {
            history.changes.push((done.lsn, Change::Put(pairs)));
        }
        Ok(())
    }

    fn step(&mut self, history: &mut History, rng: &mut Rng) -> Result<(), EngineError> {
        match rng.below(100) {
            0..70 => self.write(history, rng)?,
            70..82 => {
                self.flush();
                history.promised = self.shared.wal.durable_lsn();
            }
            82..88 => self.checkpointer.turn(),
            88..91 => {
                let flags = Flags::CAUSE_MANUAL | Flags::IMMEDIATE | Flags::FORCE;
                self.shared.checkpoint.request(&self.shared.procs, flags);
                self.checkpointer.turn();
            }
            91..96 => drop(self.engine.tidy(20)),
            96..98 => drop(self.time_ns.fetch_add(4_000_000_000, Ordering::SeqCst)),
            _ => {
                let done = self.run(|engine| engine.flush_namespace(DB0))?;
                history.changes.push((done.lsn, Change::Flush));
            }
        }
        self.engine.rest();
        // What the checkpointer's event would have it do.
        if self.shared.pool.wants_supply() {
            self.checkpointer.turn();
        }
        Ok(())
    }
}

/// Recovery, with the checkpointer beside it; none if the log receded. If the checkpointer dies,
/// nobody will end what startup waits for: its thread is left behind.
fn recover_beside(store: &Store, checkpointer: &mut Checkpointer) -> Option<Recovered> {
    let startup = {
        let store = store.clone();
        std::thread::spawn(move || catch_panics(|| recover(&store, &mut Unwatched)))
    };
    while !startup.is_finished() {
        checkpointer.turn();
        std::thread::yield_now();
    }
    let recovered = startup
        .join()
        .expect("startup ends by an error, or by a PANIC");
    match recovered {
        Ok(Ok(recovered)) => Some(recovered),
        Ok(Err(RecoveryError::LogReceded { .. })) => None,
        // Startup ends, and the server with it.
        Ok(Err(error)) if error.to_string().contains("could not sync") => {
            panic_abort(&error.to_string())
        }
        Ok(Err(error)) => panic!("recovery: {error}"),
        Err(panic) => panic_abort(&panic),
    }
}

/// One life of the server, until its disk crashes, a sync fails, or its steps are done.
fn live(disk: &SimStorage, history: &mut History, seed: u64) {
    let work = || {
        let (mut world, _) = World::start(disk);
        let mut rng = Rng::new(seed);
        for _ in 0..STEPS {
            let done = world.step(history, &mut rng);
            if disk.has_crashed() {
                return;
            }
            done.expect("nothing fails on a good disk");
        }
    };
    let done = catch_unwind(AssertUnwindSafe(|| catch_panics(work)));
    match done {
        Ok(Ok(())) => {}
        // A PANIC says what could not be synced.
        Ok(Err(panic)) => assert!(disk.has_crashed() || panic.contains("sync"), "{panic}"),
        Err(panic) if !disk.has_crashed() => std::panic::resume_unwind(panic),
        Err(_) => {}
    }
}

/// The next start, held against the history, which is cut to what is left.
fn check(disk: &SimStorage, history: &mut History) -> Option<rd_engine::recovery::RedoSummary> {
    let (world, recovered) = World::start(disk);
    let end = recovered.end;
    assert!(
        end >= history.promised,
        "{end} is before {}, which was promised",
        history.promised
    );
    world.compare(&history.at(end));
    history.changes.retain(|(lsn, _)| *lsn <= end);
    history.promised = end;
    recovered.redo
}

/// The disk crashes at one of the I/Os that this life would have.
fn end_at_some_io(disk: &SimStorage, history: &mut History, life: u64, rng: &mut Rng) {
    let whole = disk.fork();
    let before = whole.io_count();
    live(&whole, &mut history.clone(), life);
    let ios = whole.io_count() - before;
    disk.crash_at(Some(before + 1 + rng.below(ios)));
    quietly(|| live(disk, history, life));
}

/// A sync fails, of which the kernel takes what it lost for clean: the server must not go on.
fn end_by_failed_sync(disk: &SimStorage, history: &mut History, life: u64, rng: &mut Rng) {
    let paths = ["wal/", "global/doublewrite", "global/pg_control", "base/"];
    disk.inject(Injection {
        kind: IoKind::Sync,
        path_contains: paths[rng.below(4) as usize].to_owned(),
        skip: rng.below(8),
        times: 1,
        errno: 5,
    });
    quietly(|| live(disk, history, life));
    disk.clear_injections();
    disk.kill(life);
}

/// A panic of a life whose disk has crashed is no news.
fn quietly(work: impl FnOnce()) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = catch_unwind(AssertUnwindSafe(work));
    std::panic::set_hook(before);
    if let Err(panic) = done {
        let text = panic
            .downcast_ref::<String>()
            .map_or("a panic", |text| text);
        panic!("{text}");
    }
}

#[test]
fn a_crash_at_any_io_leaves_what_was_promised_and_nothing_by_half() {
    // More with SIMULATION_CRASHES, from another seed with SIMULATION_SEED.
    let number = |name: &str, default| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let crashes: u64 = number("SIMULATION_CRASHES", 150);
    let seed: u64 = number("SIMULATION_SEED", 1);
    let mut records = 0;
    let mut rng = Rng::new(seed);
    let mut disk = new_disk(seed);
    let mut history = History::default();
    for crash in 0..crashes {
        if crash.is_multiple_of(20) {
            disk = new_disk(seed + crash);
            history = History::default();
        }
        let life = rng.next_u64();
        if rng.below(5) == 0 {
            end_by_failed_sync(&disk, &mut history, life, &mut rng);
        } else {
            end_at_some_io(&disk, &mut history, life, &mut rng);
        }
        if rng.below(4) == 0 {
            disk.kill(crash);
        } else {
            disk.crash(crash);
        }
        // Now and then recovery is cut off, too.
        if rng.below(3) == 0 {
            let recovery = disk.fork();
            let before = recovery.io_count();
            World::start(&recovery);
            disk.crash_at(Some(before + 1 + rng.below(recovery.io_count() - before)));
            quietly(|| {
                let _ = catch_unwind(AssertUnwindSafe(|| catch_panics(|| World::start(&disk))));
            });
            disk.crash(crash + 1);
        }
        records += check(&disk, &mut history).map_or(0, |redo| redo.records);
        disk.crash(crash + 2);
    }
    assert!(
        records > crashes * 10,
        "{records} records are no work for recovery"
    );
}
