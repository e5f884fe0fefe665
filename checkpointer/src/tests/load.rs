//! The checkpointer on threads and a real disk, with writers that need more pages than there are
//! frames: whoever waits for a clean frame, for room in a file or for the log must come on.

use super::world::{SEGMENT_BYTES, TIMELINE, asked, make_data, meta_page};
use crate::{Checkpointer, Workers};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, Config, FileNo, Lsn, PageTag, Role, StartCount};
use rd_format::control::DbState;
use rd_format::overflow;
use rd_format::page;
use rd_format::wal_record::{FileDelta, RecordBuilder, RecordKind};
use rd_store::checkpoint::{EndOfLog, Flags, TicketState};
use rd_store::control_file;
use rd_store::files::{Growth, GrowthTicket};
use rd_store::relation::RelationFiles;
use rd_store::shared::Phase;
use rd_store::wal::{Flusher, NoCredit, Preparer, WalStart, credit_for, segments};
use rd_store::{Shared, Sizes, SlotNo, Store};
use rd_sys::clock::Clock;
use rd_sys::storage::{RealStorage, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const WRITERS: u16 = 4;
/// Far fewer than the pages that are written.
const FRAMES: usize = 64;
const BLOCKS: u32 = 100;
const TURNS: u32 = 1500;
/// A wake-up that is lost would be noticed.
const HOUR: Duration = Duration::from_secs(3600);

struct Server {
    shared: Arc<Shared>,
    storage: Arc<dyn Storage>,
    config: Arc<Config>,
    over: AtomicBool,
}

impl Server {
    fn store(&self, role: Role) -> Store {
        let slot = SlotNo::of(role).expect("a slot");
        let (shared, storage) = (Arc::clone(&self.shared), Arc::clone(&self.storage));
        Store::new(shared, storage, Clock::Real, slot, Arc::clone(&self.config))
    }

    fn flusher(&self, store: &Store) -> Flusher {
        let (wal, stats) = (self.shared.wal.clone(), self.shared.stats.clone());
        let method = self.config.wal_sync_method();
        Flusher::new(wal, Arc::clone(&self.storage), stats, store.slot, method)
    }

    /// The life of the checkpointer, as the process has it.
    fn checkpoint(&self) {
        let store = self.store(Role::Checkpointer);
        let relations = Arc::new(RelationFiles::writer(Arc::clone(&self.storage)));
        let workers = Workers::on_threads(&store, &relations).expect("threads");
        let mut checkpointer = Checkpointer::new(store, relations, workers);
        while !self.over.load(Ordering::SeqCst) {
            checkpointer.work_and_sleep();
        }
        checkpointer.shutdown_checkpoint().expect("a good disk");
    }

    fn wait_for_room(&self, ticket: &GrowthTicket) {
        loop {
            match self.shared.files.wait_for_growth(ticket, HOUR) {
                Growth::Ready => return,
                Growth::Pending => {}
                Growth::Failed(error) => panic!("no room: {error}"),
            }
        }
    }

    /// Writes pages of a file of its own, far more of them than frames; returns their versions.
    fn write(&self, number: u16) -> BTreeMap<PageTag, u32> {
        let store = self.store(Role::Backend(number));
        let mut flusher = self.flusher(&store);
        let file = FileNo::new(2 + u32::from(number));
        let created = store.request_create(file, 4).expect("a free row");
        self.wait_for_room(&created);
        let (tag, image) = meta_page(file, 0, Lsn::ZERO);
        let mut record = RecordBuilder::new();
        record.start(RecordKind::FileCreate, 1);
        record.block(tag);
        record.image(&image);
        record.file(file);
        self.log(&store, &mut flusher, record, tag, &image, 0);
        let mut versions = BTreeMap::new();
        for turn in 0..TURNS {
            let block = 1 + (turn.wrapping_mul(2_654_435_761) >> 7) % BLOCKS;
            let tag = PageTag::new(file, BlockNo::new(block));
            if self.shared.files.blocks(file) <= block {
                let growth = store.request_growth(file, block + 1);
                self.wait_for_room(&growth);
            }
            let version = versions.entry(tag).or_insert(0u32);
            if *version > 0 {
                // From the file, if the page was evicted meanwhile.
                let pin = self.shared.pool.fetch(&store, tag).expect("a good page");
                assert_eq!(overflow::sequence(&pin.read()), *version, "{tag}");
            }
            *version += 1;
            let mut image = [0; PAGE_BYTES];
            overflow::init(&mut image, *version, None, &[number as u8; 300]);
            let mut record = RecordBuilder::new();
            record.start(RecordKind::Commit, 1);
            record.block(tag);
            record.image(&image);
            record.file_delta(FileDelta { file, key_delta: 1 });
            self.log(&store, &mut flusher, record, tag, &image, 1);
        }
        versions
    }

    fn log(
        &self,
        store: &Store,
        flusher: &mut Flusher,
        mut record: RecordBuilder,
        tag: PageTag,
        image: &[u8; PAGE_BYTES],
        keys: i64,
    ) {
        let len = record.seal();
        let (wal, procs) = (&self.shared.wal, &self.shared.procs);
        let pin = self.shared.pool.fetch_new(store, tag);
        let mut credit = loop {
            procs.set_parked(store.slot, true);
            match wal.take_credit(credit_for(len)) {
                Ok(credit) => break credit,
                Err(NoCredit::Ring) => flusher.flush_all(),
                Err(NoCredit::Segments) => _ = procs.event(store.slot).wait(None),
            }
        };
        procs.set_parked(store.slot, false);
        let mut page = pin.write();
        page.mark_dirty(wal.insert_lsn());
        let inserted = wal.insert(store.slot, &mut record, &mut credit, |at| {
            self.shared
                .files
                .add_keys(tag.file, at.end, keys, || wal.insert_lsn());
        });
        *page = *image;
        page::set_page_lsn(&mut page, inserted.end);
    }
}

fn server(dir: &std::path::Path) -> Server {
    let storage: Arc<dyn Storage> = Arc::new(RealStorage::new(dir.to_owned()));
    make_data(&storage);
    let pairs = [
        ("max_wal_size", "2MB"),
        ("min_wal_size", "2MB"),
        ("double_write_size", "8MB"),
    ];
    let config = Arc::new(Config::from_pairs(&pairs).expect("valid parameters"));
    let sizes = Sizes {
        frames: FRAMES,
        wal_ring_bytes: 256 << 10,
        wal_segment_bytes: SEGMENT_BYTES,
    };
    let shared = Shared::anonymous(sizes).expect("memory for a test");
    let control = control_file::read(&*storage).expect("valid").control;
    shared
        .files
        .load(&control.files[0], 4, control.keys_lsn)
        .expect("a free row");
    shared
        .files
        .raise_next_number(FileNo::new(2 + u32::from(WRITERS)));
    let end = segments::first_lsn(SEGMENT_BYTES);
    let last_count = StartCount::new(0);
    let log_end = EndOfLog {
        lsn: end,
        last_count,
    };
    shared.checkpoint.set_end_of_log(&log_end);
    shared.checkpoint.hand_over(&shared.procs, control.redo_lsn);
    let start = WalStart {
        end,
        timeline: TIMELINE,
        start_count: StartCount::new(1),
        system_id: control.system_identifier,
    };
    shared.wal.start_at(&storage, &start).expect("a good disk");
    shared.set_phase(Phase::Running);
    Server {
        shared,
        storage,
        config,
        over: AtomicBool::new(false),
    }
}

#[test]
fn writers_with_few_frames_come_on_and_everything_is_in_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = server(dir.path());
    let stop_preparer = AtomicBool::new(false);
    let versions: Vec<BTreeMap<PageTag, u32>> = thread::scope(|scope| {
        let preparer = scope.spawn(|| {
            let (wal, storage) = (server.shared.wal.clone(), Arc::clone(&server.storage));
            Preparer::new(wal, storage, 0).run(&stop_preparer);
        });
        let checkpointer = scope.spawn(|| server.checkpoint());
        let writers: Vec<_> = (0..WRITERS)
            .map(|number| {
                scope.spawn({
                    let server = &server;
                    move || server.write(number)
                })
            })
            .collect();
        // Somebody asks for checkpoints all the time.
        while !writers.iter().all(|writer| writer.is_finished()) {
            let shared = &server.shared;
            let flags = Flags::IMMEDIATE | Flags::FORCE | Flags::CAUSE_MANUAL;
            let request = asked(shared, flags);
            let ticket = shared.checkpoint.request(&shared.procs, &request);
            let state = shared.checkpoint.wait_for_attempt(&ticket, HOUR);
            assert!(!matches!(state, TicketState::Failed(_)), "{state:?}");
        }
        let versions = writers
            .into_iter()
            .map(|writer| writer.join().expect("no panic"))
            .collect();
        stop_preparer.store(true, Ordering::SeqCst);
        server.shared.wal.wake_preparer();
        preparer.join().expect("no panic");
        server.over.store(true, Ordering::SeqCst);
        server.shared.procs.notify(Role::Checkpointer);
        checkpointer.join().expect("no panic");
        versions
    });
    let control = control_file::read(&*server.storage).expect("valid").control;
    assert_eq!(control.state, DbState::ShutDown);
    assert_eq!(control.files.len(), 1 + usize::from(WRITERS));
    for row in &control.files[1..] {
        assert_eq!(row.key_count, u64::from(TURNS), "file {}", row.file);
    }
    let relations = RelationFiles::reader(Arc::clone(&server.storage));
    for (tag, version) in versions.into_iter().flatten() {
        let mut page = [0; PAGE_BYTES];
        relations.read_page(tag, &mut page).expect("a good page");
        assert_eq!(overflow::sequence(&page), version, "{tag}");
    }
}
