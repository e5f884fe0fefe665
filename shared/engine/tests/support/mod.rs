//! A server's memory and disk in one process, without its processes: what a test drives by hand, or
//! by a few threads.

// Each test binary uses a part of this.
#![allow(dead_code)]

pub mod redo;

use rd_base::{Config, FileNo, Lsn, PageTag, Role, StartCount};
use rd_engine::init::{InitOptions, init_storage};
use rd_engine::verify::{LivePages, Report, verify};
use rd_engine::{Engine, EngineError, NamespaceId, ParkReason};
use rd_format::page;
use rd_store::buffer::CopyOutcome;
use rd_store::relation::RelationFiles;
use rd_store::wal::segments::Step;
use rd_store::wal::{Flusher, Preparer, WalStart};
use rd_store::{Shared, Sizes, SlotNo, Store, control_file};
use rd_sys::clock::Clock;
use rd_sys::simdisk::SimStorage;
use rd_sys::storage::Storage;
use rd_sys::watchdog::Watchdog;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub const DB0: NamespaceId = NamespaceId::DB0;
pub const SEGMENT_BYTES: u64 = 1 << 20;

/// Numbers that look random, the same for the same seed.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 8
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

pub struct Rig {
    pub shared: Arc<Shared>,
    pub storage: Arc<dyn Storage>,
    pub config: Arc<Config>,
    /// [`Helpers`] are at work: segments are prepared by one of them alone.
    helped: AtomicBool,
}

impl Rig {
    /// A new data directory on a simulated disk, opened with `frames` frames.
    pub fn new(frames: usize, ring_bytes: u64) -> Rig {
        Self::on(Arc::new(SimStorage::new(1)), frames, ring_bytes)
    }

    /// A new data directory on `storage`, opened.
    pub fn on(storage: Arc<dyn Storage>, frames: usize, ring_bytes: u64) -> Rig {
        let config = Config::from_pairs(&[("double_write_size", "8MB")]).expect("valid");
        let config = config.with_wal_segment_size(SEGMENT_BYTES).expect("valid");
        let options = InitOptions {
            config: &config,
            system_identifier: 42,
            now_us: 1,
            conf_lines: "",
        };
        init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
        let sizes = Sizes {
            frames,
            wal_ring_bytes: ring_bytes,
            wal_segment_bytes: SEGMENT_BYTES,
        };
        let shared = Shared::anonymous(sizes).expect("memory");
        let rig = Rig {
            shared,
            storage,
            config: Arc::new(config),
            helped: AtomicBool::new(false),
        };
        rig.start();
        rig
    }

    /// What startup does after a clean stop.
    fn start(&self) {
        let control = control_file::read(&*self.storage)
            .expect("pg_control")
            .control;
        for row in &control.files {
            self.shared
                .files
                .load(row, row.blocks, control.keys_lsn)
                .expect("few files");
        }
        self.shared.files.raise_next_number(control.next_file);
        let start = WalStart {
            end: control.redo_lsn,
            timeline: control.timeline,
            start_count: StartCount::new(control.start_count.get() + 1),
            system_id: control.system_identifier,
        };
        self.shared
            .wal
            .start_at(&self.storage, &start)
            .expect("the log goes on");
        rd_engine::namespace::load_namespaces(&self.store(Role::Startup)).expect("a catalog");
    }

    pub fn store(&self, role: Role) -> Store {
        let slot = SlotNo::of(role).expect("a role with a slot");
        let shared = Arc::clone(&self.shared);
        let (storage, config) = (Arc::clone(&self.storage), Arc::clone(&self.config));
        Store::new(shared, storage, Clock::Real, slot, config)
    }

    pub fn engine(&self, number: u16) -> Engine {
        Engine::open(self.store(Role::Backend(number)))
    }

    pub fn durable(&self) -> Lsn {
        self.shared.wal.durable_lsn()
    }

    /// Makes everything durable that was inserted, and segments ahead.
    pub fn flush(&self) {
        Flusher::for_store(&self.store(Role::Walwriter)).flush_all();
        if !self.helped.load(Ordering::SeqCst) {
            self.prepare_segments();
        }
    }

    fn prepare_segments(&self) {
        let wal = self.shared.wal.clone();
        let mut preparer = Preparer::new(wal, Arc::clone(&self.storage), 4 * SEGMENT_BYTES);
        while preparer.step() == Step::Prepared {}
    }

    /// Creates and grows files that were asked for.
    pub fn grow_files(&self) {
        let relations = RelationFiles::writer(Arc::clone(&self.storage));
        for work in self.shared.files.take_work() {
            match relations.grow(work.file, work.from, work.to) {
                Ok(()) => self.shared.files.grown(work.file, work.to),
                Err(error) => self.shared.files.growth_failed(work.file, &error),
            }
        }
        self.shared.procs.wake_parked();
    }

    /// Does by hand what an operation waits for.
    pub fn unpark(&self, reason: ParkReason) {
        match reason {
            ParkReason::WalRing | ParkReason::WalSegments | ParkReason::Durable(_) => self.flush(),
            ParkReason::FileGrowth(_) | ParkReason::FileCreation(_) => self.grow_files(),
            ParkReason::Pages | ParkReason::Namespace => panic!("nobody else holds any"),
        }
    }

    /// Runs `operation` until it is not parked any more.
    pub fn run<R>(&self, mut operation: impl FnMut() -> Result<R, EngineError>) -> R {
        for _ in 0..1000 {
            match operation() {
                Err(EngineError::Park(reason)) => self.unpark(reason),
                done => return done.expect("nothing fails here"),
            }
        }
        panic!("parked for ever");
    }

    pub fn db0_file(&self) -> FileNo {
        self.shared
            .namespaces
            .entry(DB0)
            .file()
            .expect("db0 is there")
    }

    /// Checks the catalog's file and those of all namespaces; the numbers of keys must be right.
    /// Gives the report on db0.
    pub fn verify(&self) -> Report {
        let store = self.store(Role::Startup);
        let mut report = Report::default();
        let namespaces = self.shared.namespaces.all().map(|(_, file)| file);
        for file in namespaces.chain([rd_format::catalog::CATALOG_FILE]) {
            let found = verify(&LivePages {
                store: &store,
                file,
            });
            assert!(found.is_clean(), "file {file}: {:#?}", found.problems);
            let counted = self.shared.files.keys(file);
            assert_eq!(found.keys, counted, "keys counted in file {file}");
            if self.shared.namespaces.entry(DB0).file() == Some(file) {
                report = found;
            }
        }
        report
    }
}

/// Where the log of a new data directory begins.
pub fn rig_start() -> Lsn {
    rd_store::wal::segments::first_lsn(SEGMENT_BYTES)
}

/// Threads in place of the walwriter and the checkpointer.
pub struct Helpers {
    rig: Arc<Rig>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    _watchdog: Watchdog,
}

impl Helpers {
    pub fn start(rig: &Arc<Rig>) -> Helpers {
        let stop = Arc::new(AtomicBool::new(false));
        rig.helped.store(true, Ordering::SeqCst);
        let mut threads = Vec::new();
        let mut spawn = |work: fn(&Rig, &AtomicBool)| {
            let (rig, stop) = (Arc::clone(rig), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || work(&rig, &stop)));
        };
        spawn(walwriter);
        spawn(preparer);
        spawn(checkpointer);
        Helpers {
            rig: Arc::clone(rig),
            stop,
            threads,
            _watchdog: Watchdog::start(Duration::from_secs(600)),
        }
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.rig.shared.wal.wake_preparer();
        for role in [Role::Walwriter, Role::Checkpointer] {
            self.rig.shared.procs.notify(role);
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("a helper thread does not fail");
        }
        self.rig.helped.store(false, Ordering::SeqCst);
    }
}

/// The wait ends at a notice; the limit is there for a stop that comes just before it.
fn wait_for_notice(rig: &Rig, role: Role) {
    let slot = SlotNo::of(role).expect("a slot");
    rig.shared
        .procs
        .event(slot)
        .wait(Some(Duration::from_millis(100)));
    rig.shared.procs.event(slot).take();
}

fn walwriter(rig: &Rig, stop: &AtomicBool) {
    let mut flusher = Flusher::for_store(&rig.store(Role::Walwriter));
    while !stop.load(Ordering::SeqCst) {
        wait_for_notice(rig, Role::Walwriter);
        flusher.try_flush(u32::MAX);
    }
}

fn preparer(rig: &Rig, stop: &AtomicBool) {
    let wal = rig.shared.wal.clone();
    Preparer::new(wal, Arc::clone(&rig.storage), 8 * SEGMENT_BYTES).run(stop);
}

fn checkpointer(rig: &Rig, stop: &AtomicBool) {
    let store = rig.store(Role::Checkpointer);
    let mut flusher = Flusher::for_store(&store);
    let relations = RelationFiles::writer(Arc::clone(&rig.storage));
    let mut copy = [0; rd_base::limits::PAGE_BYTES];
    let mut found = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        wait_for_notice(rig, Role::Checkpointer);
        rig.grow_files();
        let pool = &rig.shared.pool;
        while pool.wants_supply() {
            found.clear();
            let looked_at_all = pool.plan_supply(32, &mut found);
            for dirty in &found {
                let CopyOutcome::Copied(copied) =
                    pool.copy_dirty(dirty.frame, dirty.tag, &mut copy)
                else {
                    continue;
                };
                let tag: PageTag = copied.tag;
                flusher
                    .flush_until(page::page_lsn(&copy))
                    .expect("pages carry LSNs of this log");
                page::seal(&mut copy, tag);
                relations.write_page(tag, &copy).expect("the disk works");
                pool.written(copied.frame);
            }
            pool.supplied();
            if looked_at_all {
                break;
            }
        }
    }
}
