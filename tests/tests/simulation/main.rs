//! A whole server in one process, on a simulated disk that crashes: engine, log, checkpointer and
//! recovery, without sockets and processes. A crash is placed at one I/O after another of a random
//! workload; what the next start finds is held against everything that was ever committed. Some
//! lives end by a failed sync, some in order; some empty and swap databases all the time, so that
//! many files are made and dropped. It runs with the double-write area on a disk that tears pages, and
//! without it, and with now one and now the other, on a disk that does not.
//!
//! What must hold after every start, whatever was cut off:
//! - the log ends at or behind everything that was promised;
//! - the databases are exactly what the commits up to that end make of them;
//! - all trees, their links, values and free blocks are whole, and the keys are counted right;
//! - no relation file lies there that the server does not know.

mod files;
mod starts;

use rd_base::limits::PAGE_BYTES;
use rd_base::{Config, Lsn, Role};
use rd_checkpointer::{Checkpointer, Workers};
use rd_engine::init::{InitOptions, init_storage};
use rd_engine::recovery::{Recovered, RecoveryError, RedoSummary, Watcher, recover};
use rd_engine::verify::{LivePages, verify};
use rd_engine::{Chunk, Engine, EngineError, NamespaceId, ParkReason, View};
use rd_format::catalog::CATALOG_FILE;
use rd_store::checkpoint::{Flags, Request};
use rd_store::doublewrite::DOUBLEWRITE_PATH;
use rd_store::relation::RelationFiles;
use rd_store::wal::{Flusher, Preparer};
use rd_store::{Shared, Sizes, SlotNo, Store};
use rd_sys::clock::Clock;
use rd_sys::crash::{catch_panics, panic_abort};
use rd_sys::simdisk::{Injection, IoKind, Rng, SimStorage};
use rd_sys::storage::{OpenMode, Storage};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

const SEGMENT_BYTES: u64 = 1 << 20;
/// So few that the checkpointer has to supply clean frames.
const FRAMES: usize = 300;
const DATABASES: usize = 3;
/// Steps of one life of the server.
const STEPS: usize = 60;
/// A recovery that takes so long has no end.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

/// What a record did.
#[derive(Clone)]
enum Change {
    /// To one database.
    Put(usize, Vec<(Vec<u8>, Option<Vec<u8>>)>),
    Empty(usize),
    EmptyAll,
    Swap(usize, usize),
}

/// Everything that was ever committed, and up to where it was promised to last.
#[derive(Clone, Default)]
struct History {
    changes: Vec<(Lsn, Change)>,
    promised: Lsn,
}

/// Of each database.
type Content = [BTreeMap<Vec<u8>, Vec<u8>>; DATABASES];

impl History {
    /// Notes what a record that ends at `end` has done; zero is none.
    fn note(&mut self, end: Lsn, change: Change) {
        if end > Lsn::ZERO {
            self.changes.push((end, change));
        }
    }

    /// What the records up to `end` make.
    fn at(&self, end: Lsn) -> Content {
        let mut content = Content::default();
        for (_, change) in self.changes.iter().take_while(|(lsn, _)| *lsn <= end) {
            match change {
                Change::Empty(database) => content[*database].clear(),
                Change::EmptyAll => content = Content::default(),
                Change::Swap(one, other) => content.swap(*one, *other),
                Change::Put(database, pairs) => {
                    for (key, value) in pairs {
                        let content = &mut content[*database];
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

/// The database that SELECT calls so.
fn database(number: usize) -> NamespaceId {
    NamespaceId::database(number).expect("there are so many")
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

/// The configuration with this `torn_page_protection`.
fn config(protection: &str) -> Arc<Config> {
    sized_config(protection, "8MB")
}

/// As [`config`], with this `double_write_size`.
fn sized_config(protection: &str, size: &str) -> Arc<Config> {
    let pairs = [
        ("double_write_size", size),
        ("checkpoint_timeout", "1h"),
        ("max_wal_size", "1GB"),
        ("torn_page_protection", protection),
        // So that a sync of the log can fail by itself, after its write.
        ("wal_sync_method", "fdatasync"),
        // Crashes are put at every I/O, and these are of no interest here.
        ("scrub_rate", "0"),
    ];
    let config = Config::from_pairs(&pairs).expect("valid");
    Arc::new(config.with_wal_segment_size(SEGMENT_BYTES).expect("valid"))
}

/// A disk on which `rd_initdb` has run.
fn new_disk(seed: u64, config: &Config) -> SimStorage {
    let disk = SimStorage::new(seed);
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let options = InitOptions {
        config,
        system_identifier: 99,
        now_us: 1,
        conf_lines: "",
    };
    init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
    disk
}

impl World {
    /// Starts the server on what is on disk. The log may recede under it, if a failed sync has left
    /// some of it in the cache only; then it is started again, as its message says.
    fn start(disk: &SimStorage, config: &Arc<Config>) -> (World, Recovered) {
        for _ in 0..100 {
            if let Some(started) = World::try_start(disk, config) {
                return started;
            }
        }
        panic!("the log recedes for ever");
    }

    /// One start; none if the log receded.
    fn try_start(disk: &SimStorage, config: &Arc<Config>) -> Option<(World, Recovered)> {
        let storage: Arc<dyn Storage> = Arc::new(disk.mount());
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
            Store::new(shared, storage, clock.clone(), slot, Arc::clone(config))
        };
        let own = store(Role::Checkpointer);
        let relations = Arc::new(RelationFiles::writer(Arc::clone(&storage)));
        let workers = Workers::in_place(&own, &relations);
        let mut checkpointer = Checkpointer::new(own, relations, workers);
        let recovered = recover_beside(&store(Role::Startup), &mut checkpointer, &time_ns)?;
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
        let store = self.engine.store();
        let mut files = vec![CATALOG_FILE];
        for (number, expected) in expected.iter().enumerate() {
            let id = database(number);
            self.compare_one(id, expected);
            files.extend(self.shared.namespaces.entry(id).file());
        }
        for file in files {
            let report = verify(&LivePages { store, file });
            assert!(report.is_clean(), "file {file}: {:#?}", report.problems);
        }
    }

    fn compare_one(&self, id: NamespaceId, expected: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let mut content = BTreeMap::new();
        let mut cursor = self
            .engine
            .range(id, b"", None, u64::MAX, View::Newest)
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
            "{id:?}: {} keys of {}",
            content.len(),
            expected.len()
        );
        assert_eq!(
            self.engine.count(id).expect("a count").result,
            expected.len() as u64
        );
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

    /// Writes some pairs to one database.
    fn write(
        &mut self,
        history: &mut History,
        rng: &mut Rng,
        number: usize,
    ) -> Result<(), EngineError> {
        let id = database(number);
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
            engine.write(id, &keys, &mut |access| {
                for (index, (_, value)) in pairs.iter().enumerate() {
                    match value {
                        Some(value) => access.put(index, value, None)?,
                        None => drop(access.delete(index)?),
                    }
                }
                Ok(())
            })
        })?;
        history.note(done.lsn, Change::Put(number, pairs));
        Ok(())
    }

    /// FLUSHDB of the first database, and a first key in it, for which it gets a new file.
    fn begin_anew(&mut self, history: &mut History, rng: &mut Rng) -> Result<(), EngineError> {
        let done = self.run(|engine| engine.flush_namespace(database(0)))?;
        history.note(done.lsn, Change::Empty(0));
        // What only deletes needs no file.
        while self.shared.namespaces.entry(database(0)).file().is_none() {
            self.write(history, rng, 0)?;
        }
        Ok(())
    }

    /// FLUSHDB, FLUSHALL or SWAPDB.
    fn change_databases(
        &mut self,
        history: &mut History,
        rng: &mut Rng,
    ) -> Result<(), EngineError> {
        let some = |rng: &mut Rng| rng.below(DATABASES as u64) as usize;
        let (one, other) = (some(rng), some(rng));
        let (done, change) = match rng.below(8) {
            0 => (self.run(Engine::flush_all)?, Change::EmptyAll),
            1..3 => (
                self.run(|engine| engine.swap_namespaces(database(one), database(other)))?,
                Change::Swap(one, other),
            ),
            _ => (
                self.run(|engine| engine.flush_namespace(database(one)))?,
                Change::Empty(one),
            ),
        };
        history.note(done.lsn, change);
        Ok(())
    }

    /// Makes everything durable.
    fn promise(&mut self, history: &mut History) {
        self.flush();
        history.promised = self.shared.wal.durable_lsn();
    }

    fn checkpoint(&mut self) {
        // As a backend that sleeps: in none of the files that are to be unlinked.
        self.engine.rest();
        let flags = Flags::CAUSE_MANUAL | Flags::IMMEDIATE | Flags::FORCE;
        let target = self.shared.wal.insert_lsn();
        let request = Request::of_process(flags, target, Role::Backend(0), "test");
        self.shared.checkpoint.request(&self.shared.procs, &request);
        self.checkpointer.turn();
    }

    /// One step; in `changes` of 100 databases are changed as a whole.
    fn step(
        &mut self,
        history: &mut History,
        rng: &mut Rng,
        changes: u64,
    ) -> Result<(), EngineError> {
        if rng.below(100) < changes {
            self.change_databases(history, rng)?;
        }
        match rng.below(98) {
            0..70 => {
                let number = rng.below(2 * DATABASES as u64) as usize;
                self.write(history, rng, number % DATABASES)?;
            }
            70..82 => self.promise(history),
            82..88 => self.checkpointer.turn(),
            88..91 => self.checkpoint(),
            91..96 => drop(self.engine.tidy(20)),
            _ => drop(self.time_ns.fetch_add(4_000_000_000, Ordering::SeqCst)),
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
/// nobody will end what startup waits for: its thread is left behind, until the disk takes nothing
/// more from it.
fn recover_beside(
    store: &Store,
    checkpointer: &mut Checkpointer,
    time_ns: &AtomicU64,
) -> Option<Recovered> {
    let startup = {
        let store = store.clone();
        std::thread::spawn(move || catch_panics(|| recover(&store, &mut Unwatched)))
    };
    let began = Instant::now();
    while !startup.is_finished() {
        assert!(began.elapsed() < RECOVERY_MAX, "recovery has no end");
        // So fast that the redo point advances in the middle of redo.
        time_ns.fetch_add(200_000_000, Ordering::SeqCst);
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

/// One life of the server, until its disk crashes, a sync fails, or its steps are done and it may be
/// stopped in order. Says whether a PANIC has ended it.
fn live(disk: &SimStorage, config: &Arc<Config>, history: &mut History, seed: u64) -> bool {
    let work = || {
        let (mut world, _) = World::start(disk, config);
        let mut rng = Rng::new(seed);
        let changes = if rng.below(4) == 0 { 30 } else { 2 };
        for _ in 0..STEPS {
            let done = world.step(history, &mut rng, changes);
            if disk.has_crashed() {
                return;
            }
            done.expect("nothing fails on a good disk");
        }
        if rng.below(3) == 0 {
            let done = world.checkpointer.shutdown_checkpoint();
            if disk.has_crashed() {
                return;
            }
            done.expect("nothing fails on a good disk");
            history.promised = world.shared.wal.durable_lsn();
        }
    };
    let done = catch_unwind(AssertUnwindSafe(|| catch_panics(work)));
    match done {
        // A PANIC says what could not be synced.
        Ok(Err(panic)) => {
            assert!(disk.has_crashed() || panic.contains("sync"), "{panic}");
            return true;
        }
        Err(panic) if !disk.has_crashed() => std::panic::resume_unwind(panic),
        Ok(Ok(())) | Err(_) => {}
    }
    false
}

/// The next start, held against the history, which is cut to what is left. Its first checkpoint is
/// made if `goes_on`.
fn check(
    disk: &SimStorage,
    config: &Arc<Config>,
    history: &mut History,
    goes_on: bool,
) -> Option<RedoSummary> {
    let (mut world, recovered) = World::start(disk, config);
    let end = recovered.end;
    assert!(
        end >= history.promised,
        "{end} is before {}, which was promised",
        history.promised
    );
    world.compare(&history.at(end));
    for file in files::on_disk(disk) {
        assert!(world.shared.files.exists(file), "file {file} is in the way");
    }
    history.changes.retain(|(lsn, _)| *lsn <= end);
    history.promised = end;
    if goes_on {
        world.checkpointer.turn();
    }
    recovered.redo
}

/// The disk crashes at one of the I/Os that this life would have.
fn end_at_some_io(
    disk: &SimStorage,
    config: &Arc<Config>,
    history: &mut History,
    life: u64,
    rng: &mut Rng,
) {
    let whole = disk.fork();
    let before = whole.io_count();
    live(&whole, config, &mut history.clone(), life);
    let ios = whole.io_count() - before;
    disk.crash_at(Some(before + 1 + rng.below(ios)));
    quietly(|| {
        live(disk, config, history, life);
    });
}

/// Files that nothing relies on before they were synced: if that fails they are thrown away, or, what is
/// remembered of checkpoints, not written any more.
const THROWN_AWAY: [&str; 3] = [
    "wal/new_segment.tmp",
    "global/doublewrite.new",
    "global/history",
];

/// A sync fails, of which the kernel takes what it lost for clean, or one of a directory: the server
/// must not go on.
fn end_by_failed_sync(
    disk: &SimStorage,
    config: &Arc<Config>,
    history: &mut History,
    life: u64,
    rng: &mut Rng,
) {
    let files = ["wal/", "global/doublewrite", "global/pg_control", "base/"];
    let directories = ["wal", "global", "base", ""];
    let (kind, paths) = match rng.below(4) {
        0 => (IoKind::SyncDir, directories),
        _ => (IoKind::Sync, files),
    };
    disk.inject(Injection {
        kind,
        path_contains: paths[rng.below(4) as usize].to_owned(),
        skip: rng.below(8),
        times: 1,
        errno: 5,
    });
    let mut has_panicked = false;
    quietly(|| has_panicked = live(disk, config, history, life));
    let mut failed = disk.take_failed_syncs();
    failed.retain(|path| !THROWN_AWAY.contains(&&**path));
    assert!(
        failed.is_empty() || has_panicked,
        "the server has gone on, and could not sync {failed:?}"
    );
    disk.clear_injections();
    disk.kill(life);
}

thread_local! {
    /// What the last panic of this thread said, and where, while it is to be quiet.
    static UNSAID: RefCell<Option<String>> = const { RefCell::new(None) };
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// A panic of a life whose disk has crashed is no news. Other threads, which run other tests, are
/// heard all the while.
fn quietly(work: impl FnOnce()) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if IS_QUIET.get() {
                UNSAID.set(Some(info.to_string()));
            } else {
                before(info);
            }
        }));
    });
    IS_QUIET.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_QUIET.set(false);
    if done.is_err() {
        panic!("{}", UNSAID.take().unwrap_or_default());
    }
}

/// Tells the seed of what fails.
struct Seeded(u64);

impl Drop for Seeded {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.0);
        }
    }
}

/// Lives and crashes, each life with one of these values of `torn_page_protection`. More of them
/// with SIMULATION_CRASHES, from another seed with SIMULATION_SEED.
fn simulate(crashes: u64, protections: &[&str]) {
    let number = |name: &str, default| {
        let text = std::env::var(name).ok();
        text.map_or(default, |text| text.parse().expect("a number"))
    };
    let crashes: u64 = number("SIMULATION_CRASHES", crashes);
    let seed: u64 = number("SIMULATION_SEED", 1);
    let sizes = ["8MB", "8MB", "12MB"];
    let configs: Vec<_> = protections
        .iter()
        .flat_map(|word| sizes.map(|size| sized_config(word, size)))
        .collect();
    let mut records = 0;
    let mut rng = Rng::new(seed);
    let some = |rng: &mut Rng| &configs[rng.below(configs.len() as u64) as usize];
    let new = |seed| {
        let disk = new_disk(seed, &configs[0]);
        if protections.contains(&"off") {
            disk.set_block_bytes(PAGE_BYTES);
        }
        disk
    };
    let mut disk = new(seed);
    let mut history = History::default();
    for crash in 0..crashes {
        if crash.is_multiple_of(20) {
            disk = new(seed + crash);
            history = History::default();
        }
        let life = rng.next_u64();
        let config = some(&mut rng);
        if rng.below(3) == 0 {
            end_by_failed_sync(&disk, config, &mut history, life, &mut rng);
        } else {
            end_at_some_io(&disk, config, &mut history, life, &mut rng);
        }
        if rng.below(4) == 0 {
            disk.kill(crash);
        } else {
            disk.crash(crash);
        }
        // Now and then recovery is cut off, too, by a power cut or a kill.
        if rng.below(3) == 0 {
            let config = some(&mut rng);
            let recovery = disk.fork();
            let before = recovery.io_count();
            World::start(&recovery, config);
            let ios = recovery.io_count() - before;
            disk.crash_at(Some(before + 1 + rng.below(ios)));
            quietly(|| {
                let start = || drop(World::start(&disk, config));
                let _ = catch_unwind(AssertUnwindSafe(|| catch_panics(start)));
            });
            if rng.half() {
                disk.crash(crash + 1);
            } else {
                disk.kill(crash + 1);
            }
        }
        // What is there must still be there when the log before it is given up, and the power fails.
        for end in [crash + 2, crash + 3] {
            let redo = check(&disk, some(&mut rng), &mut history, rng.half());
            records += redo.map_or(0, |redo| redo.records);
            if rng.half() {
                disk.crash(end);
            } else {
                disk.kill(end);
            }
        }
    }
    assert!(
        records > crashes * 10,
        "{records} records are no work for recovery"
    );
}

#[test]
fn a_crash_at_any_io_leaves_what_was_promised_and_nothing_by_half() {
    simulate(150, &["double_write"]);
}

#[test]
fn so_it_does_without_double_writes_on_a_disk_that_tears_no_page() {
    simulate(80, &["off"]);
}

#[test]
fn so_it_does_when_double_writes_come_and_go() {
    simulate(80, &["off", "double_write"]);
}

/// Pages whose sync failed are found in the cache, hold every record's change, and are on no disk.
#[test]
fn without_double_writes_what_redo_finds_done_is_written_again() {
    let config = config("off");
    let mut skipped = 0;
    for seed in 0..40 {
        let _seed = Seeded(seed);
        let disk = new_disk(seed, &config);
        disk.set_block_bytes(PAGE_BYTES);
        let (mut history, mut rng) = (History::default(), Rng::new(seed));
        let (mut world, _) = World::start(&disk, &config);
        for _ in 0..10 {
            world.write(&mut history, &mut rng, 0).expect("a good disk");
        }
        world.promise(&mut history);
        disk.inject(Injection {
            kind: IoKind::Sync,
            path_contains: "base/".to_owned(),
            skip: rng.below(2),
            times: 1,
            errno: 5,
        });
        catch_panics(|| world.checkpoint()).expect_err("a PANIC");
        drop(world);
        disk.kill(seed);
        let redo = check(&disk, &config, &mut history, true);
        skipped += redo.expect("a crash").pages_skipped;
        disk.crash(seed);
        check(&disk, &config, &mut history, true);
    }
    assert!(skipped > 100, "{skipped} pages were found done");
}

/// A sync of the log fails; the kernel lets go of its pages while the next start reads them.
#[test]
fn new_log_is_never_put_behind_log_that_has_gone() {
    let config = config("double_write");
    let mut receded = 0;
    for seed in 0..100 {
        let _seed = Seeded(seed);
        let disk = new_disk(seed, &config);
        let (mut history, mut rng) = (History::default(), Rng::new(seed));
        let (mut world, _) = World::start(&disk, &config);
        world.write(&mut history, &mut rng, 0).expect("a good disk");
        world.promise(&mut history);
        for _ in 0..40 {
            world.write(&mut history, &mut rng, 0).expect("a good disk");
        }
        disk.inject(Injection {
            kind: IoKind::Sync,
            path_contains: "wal/".to_owned(),
            skip: 0,
            times: 1,
            errno: 5,
        });
        catch_panics(|| world.flush()).expect_err("a PANIC");
        drop(world);
        disk.kill(seed);
        if World::try_start(&disk, &config).is_none() {
            receded += 1;
            check(&disk, &config, &mut history, false);
        } else {
            check(&disk, &config, &mut history, true);
        }
        let (mut world, _) = World::start(&disk, &config);
        world.write(&mut history, &mut rng, 0).expect("a good disk");
        world.promise(&mut history);
        drop(world);
        disk.crash(seed);
        check(&disk, &config, &mut history, true);
    }
    assert!(receded > 3, "{receded} logs receded");
}

/// A start that gives the double-write area another size dies before its name is durable.
#[test]
fn the_next_start_makes_the_name_of_a_new_area_durable() {
    let mut old_ones = 0;
    for seed in 0..60 {
        let _seed = Seeded(seed);
        let disk = new_disk(seed, &config("double_write"));
        let config = sized_config("double_write", "16MB");
        let (mut history, mut rng) = (History::default(), Rng::new(seed));
        disk.inject(Injection {
            kind: IoKind::SyncDir,
            path_contains: "global".to_owned(),
            // The first is start-up's own.
            skip: 1,
            times: 1,
            errno: 5,
        });
        let died = catch_panics(|| World::start(&disk, &config).0.checkpointer.turn());
        assert!(died.expect_err("a PANIC").contains("\"global\""));
        // Without the name, power cuts bring the old area back.
        let cut = disk.fork();
        cut.crash(seed);
        let area = cut
            .open(DOUBLEWRITE_PATH, OpenMode::Read)
            .expect("one is there");
        old_ones += u32::from(area.len().expect("a good disk") < 16 << 20);

        disk.kill(seed);
        let (mut world, _) = World::start(&disk, &config);
        for _ in 0..10 {
            world.write(&mut history, &mut rng, 0).expect("a good disk");
        }
        world.promise(&mut history);
        disk.crash_at(Some(disk.io_count() + 2 + rng.below(6)));
        quietly(|| drop(catch_panics(|| world.checkpoint())));
        drop(world);
        disk.crash(seed);
        check(&disk, &config, &mut history, true);
    }
    assert!(old_ones > 10, "{old_ones} names were lost");
}
