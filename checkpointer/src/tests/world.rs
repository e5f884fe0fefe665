//! A small server around the checkpointer, in one thread: pages that each hold a version number,
//! records that each give a page its next version, and a recovery that knows no more than is on
//! disk. Everything that is logged is remembered, so that a recovery can be held against it.

use crate::{Checkpointer, Workers};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, Config, FileNo, Lsn, PageTag, Role, StartCount, Timeline};
use rd_format::Access;
use rd_format::bitmap::META_BLOCK;
use rd_format::control::{ControlFile, DbState, FileRow, PROTECTION_DOUBLE_WRITE};
use rd_format::held;
use rd_format::meta::{self, Meta};
use rd_format::overflow;
use rd_format::page::{self, PageBytes};
use rd_format::wal_record::{FileDelta, RecordBuilder, RecordData, RecordKind};
use rd_store::checkpoint::{EndOfLog, FileRequest, Flags, Request, Requester, Ticket, TicketState};
use rd_store::control_file::{self, ControlStore, GLOBAL_DIR};
use rd_store::doublewrite::{self, DoubleWrite};
use rd_store::files::{FileState, Growth};
use rd_store::relation::{self, BASE_DIR, RelationFiles};
use rd_store::shared::Phase;
use rd_store::wal::read::{LogEnd, ReadFrom, WalReader, secure_tail};
use rd_store::wal::segments::Step;
use rd_store::wal::{Flusher, Inserted, NoCredit, Preparer, WalStart, credit_for, segments};
use rd_store::{Shared, Sizes, SlotNo, Store};
use rd_sys::clock::Clock;
use rd_sys::simdisk::{Rng, SimStorage};
use rd_sys::storage::Storage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub const SEGMENT_BYTES: u64 = 64 << 10;
/// More than all pages of all files, so that redo needs no supply.
const FRAMES: usize = 256;
const SYSTEM_ID: u64 = 77;
pub const FIRST_FILE: FileNo = FileNo::new(1);
/// Data blocks of each file.
const BLOCKS: u32 = 30;
pub const TIMELINE: Timeline = Timeline::new(1);

/// What a test asks for.
pub fn asked(shared: &Shared, flags: Flags) -> Request {
    let target = shared.wal.insert_lsn();
    Request::of_process(flags, target, Role::Backend(0), "test")
}

/// What a record did.
#[derive(Clone, Copy, Debug)]
enum Change {
    Write {
        tag: PageTag,
        version: u32,
        keys: i32,
    },
    Create(FileNo),
    Drop(FileNo),
}

/// Everything that was ever logged, and how much of it was promised to last.
#[derive(Clone, Default)]
pub struct History {
    changes: Vec<(Lsn, Change)>,
    pub promised: Lsn,
}

/// What the records up to some LSN come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct State {
    versions: BTreeMap<PageTag, u32>,
    keys: BTreeMap<FileNo, i64>,
}

impl History {
    fn state_at(&self, end: Lsn) -> State {
        let mut state = State::default();
        state.keys.insert(FIRST_FILE, 0);
        for (_, change) in self.changes.iter().take_while(|(lsn, _)| *lsn <= end) {
            match *change {
                Change::Write { tag, version, keys } => {
                    state.versions.insert(tag, version);
                    *state.keys.get_mut(&tag.file).expect("a live file") += i64::from(keys);
                }
                Change::Create(file) => _ = state.keys.insert(file, 0),
                Change::Drop(file) => {
                    state.keys.remove(&file);
                    state.versions.retain(|tag, _| tag.file != file);
                }
            }
        }
        state
    }

    /// Forgets what a crash has taken back.
    fn cut(&mut self, end: Lsn) {
        self.changes.retain(|(lsn, _)| *lsn <= end);
    }
}

/// A disk as `rd_initdb` leaves it, with one relation file.
pub fn new_disk(seed: u64) -> SimStorage {
    let disk = SimStorage::new(seed);
    make_data(&(Arc::new(disk.clone()) as Arc<dyn Storage>));
    disk
}

/// Makes what `rd_initdb` does, with one relation file.
pub fn make_data(storage: &Arc<dyn Storage>) {
    for dir in [GLOBAL_DIR, BASE_DIR] {
        storage.create_dir(dir).expect("a good disk");
    }
    segments::create(&**storage, TIMELINE, SEGMENT_BYTES).expect("a good disk");
    doublewrite::create(&**storage, 0).expect("a good disk");
    let first = segments::first_lsn(SEGMENT_BYTES);
    let relations = RelationFiles::writer(Arc::clone(storage));
    relations.grow(FIRST_FILE, 0, 4).expect("a good disk");
    let (tag, mut page) = meta_page(FIRST_FILE, 1, first);
    page::seal(&mut page, tag);
    let file = relations.write_page(tag, &page).expect("a good disk");
    relations.sync(&*file, "base/1");
    let mut control = ControlFile::initial(SYSTEM_ID, SEGMENT_BYTES as u32, first);
    control.protection = PROTECTION_DOUBLE_WRITE;
    control.checkpoint_count = 1;
    control.next_file = FileNo::new(2);
    control.files.push(FileRow {
        file: FIRST_FILE,
        access: rd_format::Access::READ_WRITE,
        checkpoint_count: 1,
        scn: first,
        stop_scn: first,
        key_count: 0,
        blocks: 4,
    });
    control_file::create(&**storage, &control).expect("a good disk");
}

/// The first page of a file.
pub fn meta_page(file: FileNo, checkpoint_count: u64, scn: Lsn) -> (PageTag, PageBytes) {
    let mut page = [0; PAGE_BYTES];
    let meta = Meta {
        system_identifier: SYSTEM_ID,
        file,
        created_lsn: Lsn::ZERO,
        checkpoint_count,
        checkpoint_scn: scn,
        stop_scn: Lsn::ZERO,
        opened_from: Lsn::ZERO,
    };
    meta::init(&mut page, &meta);
    (PageTag::new(file, META_BLOCK), page)
}

/// A running server.
pub struct World {
    pub disk: SimStorage,
    pub checkpointer: Checkpointer,
    pub backend: Store,
    pub time_ns: Arc<AtomicU64>,
    flusher: Flusher,
    preparer: Preparer,
    /// What redo finds done may be in the cache only.
    is_unproved: bool,
}

/// What a start found and did.
#[derive(Debug, Default)]
pub struct Start {
    pub torn: usize,
    pub records: u64,
    pub was_clean: bool,
}

impl World {
    /// Starts from what is on disk, and holds it against the history.
    pub fn start(disk: &SimStorage, history: &mut History) -> (World, Start) {
        World::start_with(disk, history, &[])
    }

    /// As [`World::start`], with these parameters.
    pub fn start_with(
        disk: &SimStorage,
        history: &mut History,
        parameters: &[(&str, &str)],
    ) -> (World, Start) {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let slots = ControlStore::open(&*storage).expect("a valid slot");
        let was_clean = slots.newest().state == DbState::ShutDown;
        let (control, mut start) = before_redo(&storage, slots);
        start.was_clean = was_clean;
        let from = read_from(&control);
        let end = find_end(&storage, &control, from);
        assert!(
            end.lsn >= history.promised,
            "{} < {}: {end}",
            end.lsn,
            history.promised
        );
        secure_tail(&*storage, &from, end.lsn).expect("a good disk");
        history.cut(end.lsn);
        let mut world = World::at_handover(disk, &control, parameters);
        let log_end = EndOfLog {
            lsn: end.lsn,
            last_count: end.start_count,
        };
        world.backend.shared.checkpoint.set_end_of_log(&log_end);
        start.records = world.redo(from, &end);
        world.compare(&history.state_at(end.lsn));
        world.serve(&control, end.lsn, was_clean);
        (world, start)
    }

    /// The start with this number after a crash, those before it unfinished, where the log has been
    /// redone and its end is not known yet.
    pub fn in_redo(disk: &SimStorage, attempt: u32) -> World {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let (mut control, _) = before_redo(&storage, ControlStore::open(&*storage).expect("valid"));
        control.unfinished_starts = attempt;
        let mut slots = ControlStore::open(&*storage).expect("a valid slot");
        slots.write_both(control.clone(), 1).expect("a good disk");
        let from = read_from(&control);
        let end = find_end(&storage, &control, from);
        secure_tail(&*storage, &from, end.lsn).expect("a good disk");
        let mut world = World::at_handover(disk, &control, &[]);
        world.redo(from, &end);
        world
    }

    /// Shared memory with the files of `control`, and a checkpointer that owns `pg_control`.
    fn at_handover(disk: &SimStorage, control: &ControlFile, parameters: &[(&str, &str)]) -> World {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut pairs = vec![
            ("max_wal_size", "2MB"),
            ("min_wal_size", "2MB"),
            ("scrub_rate", "0"),
        ];
        pairs.extend_from_slice(parameters);
        let config = Arc::new(Config::from_pairs(&pairs).expect("valid parameters"));
        let sizes = Sizes {
            frames: FRAMES,
            wal_ring_bytes: 256 << 10,
            wal_segment_bytes: SEGMENT_BYTES,
        };
        let shared = Shared::anonymous(sizes).expect("memory for a test");
        let (clock, time_ns) = Clock::manual(1_000_000_000_000);
        let store = |role| {
            let slot = SlotNo::of(role).expect("a slot");
            let (shared, storage) = (Arc::clone(&shared), Arc::clone(&storage));
            Store::new(shared, storage, clock.clone(), slot, Arc::clone(&config))
        };
        let (own, backend) = (store(Role::Checkpointer), store(Role::Backend(0)));
        shared.files.raise_next_number(control.next_file);
        for row in &control.files {
            let blocks = backend
                .relations
                .blocks_on_disk(row.file)
                .expect("a good disk");
            shared
                .files
                .load(row, blocks.expect("the file is there"), control.keys_lsn)
                .expect("a free row");
        }
        for pending in &control.pending_drops {
            shared.files.load_pending_drop(pending).expect("a free row");
        }
        let relations = Arc::new(RelationFiles::writer(Arc::clone(&storage)));
        let workers = Workers::in_place(&own, &relations);
        let checkpointer = Checkpointer::new(own, relations, workers);
        shared.checkpoint.hand_over(&shared.procs, control.redo_lsn);
        let stats = shared.stats.clone();
        let wal = shared.wal.clone();
        let method = config.wal_sync_method();
        let flusher = Flusher::new(
            wal.clone(),
            Arc::clone(&storage),
            stats,
            backend.slot,
            method,
        );
        let preparer = Preparer::new(wal, storage, 0);
        World {
            disk: disk.clone(),
            checkpointer,
            backend,
            time_ns,
            flusher,
            preparer,
            is_unproved: !control.has_all_copies(),
        }
    }

    fn turn_until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        for _ in 0..10 {
            self.checkpointer.turn();
            if done(self) {
                return;
            }
        }
        panic!("the checkpointer does not come to: {what}");
    }

    /// Replays the log. A page must be as the records before left it, or newer.
    fn redo(&mut self, from: ReadFrom, end: &LogEnd) -> u64 {
        self.backend.shared.set_phase(Phase::Redo);
        self.checkpointer.turn();
        let mut reader = WalReader::new(Arc::clone(&self.backend.storage), from);
        let mut records = 0;
        loop {
            let Some(record) = reader.next().expect("a good disk") else {
                return records;
            };
            if record.end > end.lsn {
                return records;
            }
            records += 1;
            self.backend.shared.checkpoint.set_applied(record.start);
            let (kind, view) = (record.view.kind(), record.view);
            match view.data().expect("a good record") {
                RecordData::File(file) if kind == RecordKind::FileCreate => self.adopt(file),
                RecordData::File(file) => self.forget(file, record.end),
                RecordData::Commit(deltas) => {
                    let deltas = deltas.iter();
                    let deltas = deltas.map(|delta| (delta.file, i64::from(delta.key_delta)));
                    self.backend.shared.files.count_in_redo(record.end, deltas);
                }
                _ => {}
            }
            for block in view.blocks() {
                let block = block.expect("a good record");
                let mut image = [0; PAGE_BYTES];
                block
                    .image
                    .expect("every block has one")
                    .restore(&mut image);
                self.redo_page(block.tag, record.start, record.end, &image);
            }
        }
    }

    fn redo_page(&mut self, tag: PageTag, start: Lsn, end: Lsn, image: &PageBytes) {
        assert!(
            self.backend.shared.files.exists(tag.file),
            "{tag} at {start} is needed"
        );
        let closed = self.backend.shared.files.closed(tag.file);
        if closed.is_some_and(|(_, since)| end <= since) {
            return;
        }
        if self.backend.shared.files.state(tag.file) == FileState::Live {
            self.make_room(tag);
        }
        let (lsn, before) = match tag.block {
            // Records that carry it make it anew, whatever the file has there.
            META_BLOCK => self.resident(tag).unwrap_or((Lsn::ZERO, [0; PAGE_BYTES])),
            _ => self.page(tag),
        };
        if lsn >= end && !self.is_unproved {
            return;
        }
        let is_done = lsn >= end;
        if !is_done && tag.block != META_BLOCK {
            let expected = overflow::sequence(image) - 1;
            assert_eq!(version(&before), expected, "{tag} before {start}");
        }
        let pin = self.backend.shared.pool.fetch_new(&self.backend, tag);
        let mut page = pin.write();
        page.mark_dirty(start);
        *page = if is_done { before } else { *image };
        page::set_page_lsn(&mut page, lsn.max(end));
    }

    /// The page as it is in memory, or else on disk; zeros if it is in neither.
    fn page(&self, tag: PageTag) -> (Lsn, PageBytes) {
        self.resident(tag).unwrap_or_else(|| {
            let mut bytes = [0; PAGE_BYTES];
            let there = self.backend.relations.read_block(tag, &mut bytes);
            if !there.expect("a good disk") {
                bytes.fill(0);
            }
            if !page::is_zero(&bytes) {
                page::verify(&bytes, tag).expect("whole after the repair");
            }
            (page::page_lsn(&bytes), bytes)
        })
    }

    /// The page as it is in memory.
    fn resident(&self, tag: PageTag) -> Option<(Lsn, PageBytes)> {
        let pin = self.backend.shared.pool.get_resident(tag)?;
        let bytes = *pin.read();
        Some((page::page_lsn(&bytes), bytes))
    }

    /// Holds pages, key counts and the set of files against what they should be.
    fn compare(&self, expected: &State) {
        let files = &self.backend.shared.files;
        let live: Vec<FileNo> = files.live().into_iter().collect();
        let mut sorted = live.clone();
        sorted.sort_unstable();
        assert_eq!(
            sorted,
            expected.keys.keys().copied().collect::<Vec<_>>(),
            "live files"
        );
        for file in live {
            assert_eq!(
                files.keys(file) as i64,
                expected.keys[&file],
                "keys of file {file}"
            );
            for block in 1..=BLOCKS {
                let tag = PageTag::new(file, BlockNo::new(block));
                let expected = expected.versions.get(&tag).copied().unwrap_or(0);
                assert_eq!(version(&self.page(tag).1), expected, "{tag}");
            }
        }
    }

    /// Lets the log be written.
    fn open_log(&mut self, control: &ControlFile, end: Lsn) {
        let start = WalStart {
            end,
            timeline: TIMELINE,
            start_count: control.start_count,
            system_id: SYSTEM_ID,
        };
        let shared = Arc::clone(&self.backend.shared);
        shared
            .wal
            .start_at(&self.backend.storage, &start)
            .expect("a good disk");
        shared.set_phase(Phase::Running);
    }

    /// Redo has come to its end, and clients are served; startup has not asked for a checkpoint.
    pub fn end_redo(&mut self) {
        let slots = ControlStore::open(&self.disk).expect("a valid slot");
        let control = slots.newest().clone();
        let end = find_end(&self.backend.storage, &control, read_from(&control));
        let log_end = EndOfLog {
            lsn: end.lsn,
            last_count: end.start_count,
        };
        self.backend.shared.checkpoint.set_end_of_log(&log_end);
        self.open_log(&control, end.lsn);
    }

    /// Lets the log be written, and clients be served.
    fn serve(&mut self, control: &ControlFile, end: Lsn, was_clean: bool) {
        self.open_log(control, end);
        let shared = Arc::clone(&self.backend.shared);
        if !was_clean {
            let flags = Flags::END_OF_RECOVERY | Flags::IMMEDIATE;
            shared
                .checkpoint
                .request(&shared.procs, &asked(&shared, flags));
        }
        self.checkpointer.turn();
    }

    fn make_room(&mut self, tag: PageTag) {
        let blocks = tag.block.get() + 1;
        if self.backend.shared.files.blocks(tag.file) < blocks {
            let ticket = self.backend.request_growth(tag.file, blocks);
            self.turn_until("room", |world| {
                matches!(world.backend.shared.files.growth(&ticket), Growth::Ready)
            });
        }
    }

    fn create(&mut self, file: FileNo) {
        self.backend
            .shared
            .files
            .raise_next_number(FileNo::new(file.get() + 1));
        self.backend.request_create(file, 4).expect("a free row");
        self.turn_until("a file", |world| {
            world.backend.shared.files.state(file) == FileState::Live
        });
    }

    /// A file whose drop `pg_control` knows already is there until redo is past it.
    fn adopt(&mut self, file: FileNo) {
        if !self.backend.shared.files.exists(file) {
            self.create(file);
        }
    }

    fn forget(&mut self, file: FileNo, end: Lsn) {
        self.backend.shared.files.drop_file(file, end);
    }

    /// Has a segment of the log made; if that cannot be, the checkpointer is told, and may free one.
    fn make_segment(&mut self) {
        let shared = Arc::clone(&self.backend.shared);
        let event = shared.procs.event(self.checkpointer.store.slot);
        event.take();
        let was_blocked = shared.wal.segments_blocked().is_some();
        if matches!(self.preparer.step(), Step::Blocked(_)) {
            assert!(was_blocked || event.take(), "the checkpointer sleeps on");
            self.checkpointer.turn();
            let is_blocked = shared.wal.segments_blocked().is_some();
            assert!(!is_blocked, "no segment can be made, and none is given up");
        }
    }

    /// Logs `record`, which changes `pages`, and changes them.
    fn log(
        &mut self,
        mut record: RecordBuilder,
        pages: &[(PageTag, PageBytes)],
        keys: Option<(FileNo, i64)>,
    ) -> Inserted {
        let len = record.seal();
        let shared = Arc::clone(&self.backend.shared);
        let mut credit = loop {
            match shared.wal.take_credit(credit_for(len)) {
                Ok(credit) => break credit,
                Err(NoCredit::Ring) => self.flusher.flush_all(),
                Err(NoCredit::Segments) => {
                    assert!(!self.disk.has_crashed(), "nothing more can be logged");
                    self.make_segment();
                }
            }
        };
        let pins: Vec<_> = pages
            .iter()
            .map(|(tag, _)| shared.pool.fetch_new(&self.backend, *tag))
            .collect();
        let mut latched: Vec<_> = pins.iter().map(|pin| pin.write()).collect();
        let rec_lsn = shared.wal.insert_lsn();
        latched.iter().for_each(|page| page.mark_dirty(rec_lsn));
        let inserted = shared
            .wal
            .insert(self.backend.slot, &mut record, &mut credit, |at| {
                if let Some((file, delta)) = keys {
                    shared
                        .files
                        .add_keys(file, at.end, delta, || shared.wal.insert_lsn());
                }
            });
        for (page, (_, image)) in latched.iter_mut().zip(pages) {
            **page = *image;
            page::set_page_lsn(page, inserted.end);
        }
        inserted
    }

    /// Gives a page of a live file its next version.
    pub fn write_page(&mut self, history: &mut History, tag: PageTag, keys: i32, bytes: usize) {
        self.make_room(tag);
        let next = version(&self.page(tag).1) + 1;
        let mut image = [0; PAGE_BYTES];
        overflow::init(&mut image, next, None, &vec![next as u8; bytes]);
        let mut record = RecordBuilder::new();
        record.start(RecordKind::Commit, 1);
        record.block(tag);
        record.image(&image);
        record.file_delta(FileDelta {
            file: tag.file,
            key_delta: keys,
        });
        let inserted = self.log(record, &[(tag, image)], Some((tag.file, i64::from(keys))));
        history.changes.push((
            inserted.end,
            Change::Write {
                tag,
                version: next,
                keys,
            },
        ));
    }

    /// Creates a file, as a namespace does that gets its first key.
    pub fn create_file(&mut self, history: &mut History) {
        let file = self.backend.shared.files.allocate_number();
        self.create(file);
        let (tag, image) = meta_page(file, 0, Lsn::ZERO);
        let mut record = RecordBuilder::new();
        record.start(RecordKind::FileCreate, 1);
        record.block(tag);
        record.image(&image);
        record.file(file);
        let inserted = self.log(record, &[(tag, image)], None);
        history.changes.push((inserted.end, Change::Create(file)));
    }

    /// Drops a file.
    pub fn drop_file(&mut self, history: &mut History, file: FileNo) {
        let mut record = RecordBuilder::new();
        record.start(RecordKind::FileDrop, 1);
        record.file(file);
        let inserted = self.log(record, &[], None);
        self.forget(file, inserted.end);
        history.changes.push((inserted.end, Change::Drop(file)));
    }

    /// Makes everything durable that was logged.
    pub fn flush(&mut self, history: &mut History) {
        self.flusher.flush_all();
        history.promised = self.backend.shared.wal.durable_lsn();
    }

    /// Asks for a checkpoint and lets it be made.
    pub fn checkpoint(&mut self, flags: Flags) -> TicketState {
        let ticket = self.ask(flags);
        self.checkpointer.turn();
        self.backend.shared.checkpoint.state(&ticket)
    }

    /// Asks for a checkpoint of a single file, or that it is closed or opened, and has it done.
    pub fn checkpoint_file(&mut self, file: FileNo, access: Option<Access>) -> TicketState {
        let shared = Arc::clone(&self.backend.shared);
        let request = FileRequest {
            file,
            access,
            requester: Requester::process(self.backend.slot.role(), "test"),
        };
        let ticket = shared.checkpoint.request_file(&shared.procs, &request);
        self.checkpointer.turn();
        shared.checkpoint.file_state(&ticket.expect("room"))
    }

    /// Asks for a checkpoint.
    pub fn ask(&self, flags: Flags) -> Ticket {
        let shared = &self.backend.shared;
        shared
            .checkpoint
            .request(&shared.procs, &asked(shared, flags))
    }

    /// Writes some dirty pages, whichever, as the supply of clean frames does.
    pub fn clean_some(&mut self, rng: &mut Rng) {
        self.clean(|_| rng.below(3) == 0);
    }

    /// Writes the dirty pages that are `chosen`, as the supply of clean frames does.
    pub fn clean(&mut self, mut chosen: impl FnMut(PageTag) -> bool) {
        let mut dirty = Vec::new();
        self.backend.shared.pool.dirty_before(Lsn::MAX, &mut dirty);
        dirty.retain(|frame| chosen(frame.tag));
        dirty.sort_unstable();
        let cause = rd_base::counters::Counter::PagesWrittenSupply;
        while !dirty.is_empty() {
            match self.checkpointer.write_frames(&dirty, cause) {
                Ok(outcome) => _ = dirty.drain(..outcome.taken),
                // The disk has crashed.
                Err(_) => return,
            }
        }
    }

    /// Moves the clock.
    pub fn pass(&self, time: Duration) {
        self.time_ns
            .fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }

    /// Makes the file `number`, and pages in it that no checkpoint has written.
    pub fn make_dirty_file(&mut self, history: &mut History, number: u32) {
        self.create_file(history);
        for block in 1..=BLOCKS {
            let tag = PageTag::new(FileNo::new(number), BlockNo::new(block));
            self.write_page(history, tag, 1, 100);
        }
    }

    /// One step of a random workload.
    pub fn step(&mut self, history: &mut History, rng: &mut Rng) {
        let mut live = self.backend.shared.files.live();
        live.sort_unstable();
        let file = live[rng.below(live.len() as u64) as usize];
        let is_closed = self.backend.shared.files.closed(file).is_some();
        match rng.below(100) {
            0..20 if is_closed => {
                let state = self.checkpoint_file(file, Some(Access::READ_WRITE));
                let was_opened = self.backend.shared.files.closed(file).is_none();
                assert!(
                    state == TicketState::Done && was_opened || self.disk.has_crashed(),
                    "{state:?}"
                );
            }
            0..60 if is_closed => self.flush(history),
            0..60 => {
                let block = BlockNo::new(1 + rng.below(u64::from(BLOCKS)) as u32);
                let keys = rng.below(4) as i32;
                let bytes = 8 + rng.below(1500) as usize;
                self.write_page(history, PageTag::new(file, block), keys, bytes);
            }
            60..72 => self.flush(history),
            72..80 => self.clean_some(rng),
            80..86 => {
                let access = [
                    None,
                    Some(Access::READ_WRITE),
                    Some(Access::READ_ONLY),
                    Some(Access::OFFLINE),
                ];
                let state = match access.get(rng.below(8) as usize) {
                    Some(access) => self.checkpoint_file(file, *access),
                    None => self.checkpoint(Flags::IMMEDIATE | Flags::FORCE | Flags::CAUSE_MANUAL),
                };
                assert!(
                    state == TicketState::Done || self.disk.has_crashed(),
                    "{state:?}"
                );
            }
            86..93 => {
                self.pass(Duration::from_secs(3));
                self.checkpointer.turn();
            }
            93..97 if live.len() < 4 => self.create_file(history),
            _ if file != FIRST_FILE => self.drop_file(history, file),
            _ => self.checkpointer.turn(),
        }
        _ = self.preparer.step();
    }
}

fn version(page: &PageBytes) -> u32 {
    if page::is_zero(page) {
        0
    } else {
        overflow::sequence(page)
    }
}

/// What startup does with `pg_control` and the double-write area; then holds every block of every
/// file against its checksum, and the headers against `pg_control`.
fn before_redo(storage: &Arc<dyn Storage>, mut slots: ControlStore) -> (ControlFile, Start) {
    let mut control = slots.newest().clone();
    let was_clean = control.state == DbState::ShutDown;
    control.start_count = StartCount::new(control.start_count.get() + 1);
    control.state = if was_clean {
        DbState::InProduction
    } else {
        DbState::InCrashRecovery
    };
    slots.write_both(control, 1).expect("a good disk");
    let control = slots.newest().clone();
    let first = control.first_unsynced_batch;
    let relations = RelationFiles::writer(Arc::clone(storage));
    let mut start = Start::default();
    let found = ControlFile {
        state: if was_clean {
            DbState::ShutDown
        } else {
            control.state
        },
        ..control.clone()
    };
    for row in &control.files {
        // A header that is whole is right before anything is mended.
        if let Ok(header) = relations.read_meta(row.file) {
            let header = header.expect("a file that pg_control names has a header");
            let found_is = held::hold(&header, row, &found);
            assert!(found_is.is_good(), "{found_is:?}: {header:?} {row:?}");
        }
    }
    if control.is_double_written() {
        let area = DoubleWrite::open(&**storage, SYSTEM_ID, first).expect("a good disk");
        let repair = area.repair(&relations, first, |file| control.closed_for(file));
        let repair = repair.expect("a good disk");
        start.torn = repair.torn.len();
    }
    let is_dropped = |file| {
        let mut pending = control.pending_drops.iter();
        pending.any(|pending| pending.file == file)
    };
    check_blocks(&**storage, &relations, is_dropped);
    for row in &control.files {
        let header = relations.read_meta(row.file);
        if header.is_err() && is_dropped(row.file) {
            continue;
        }
        let header = header.expect("it was mended");
        let header = header.expect("a file that pg_control names has a header");
        let found_is = held::hold(&header, row, &found);
        assert!(found_is.is_good(), "{found_is:?}: {header:?} {row:?}");
        assert!(!was_clean || row.is_closed() || row.stop_scn == control.durable_lsn);
    }
    (control, start)
}

fn check_blocks(
    storage: &dyn Storage,
    relations: &RelationFiles,
    is_dropped: impl Fn(FileNo) -> bool,
) {
    for name in storage.list(BASE_DIR).expect("a good disk") {
        let (file, _) = relation::parse_name(&name).expect("a relation file");
        let blocks = relations
            .blocks_on_disk(file)
            .expect("a good disk")
            .unwrap_or(0);
        for block in 0..blocks {
            let tag = PageTag::new(file, BlockNo::new(block));
            let mut page = [0; PAGE_BYTES];
            relations.read_block(tag, &mut page).expect("a good disk");
            // Of a header that cannot be read a drop is the end.
            let is_needed = tag.block != META_BLOCK || !is_dropped(file);
            let good = page::is_zero(&page) || page::check(&page, tag).is_ok() || !is_needed;
            assert!(good, "{tag} is torn and was not mended");
        }
    }
}

fn read_from(control: &ControlFile) -> ReadFrom {
    ReadFrom {
        lsn: control.redo_lsn,
        timeline: TIMELINE,
        segment_bytes: SEGMENT_BYTES,
        system_id: SYSTEM_ID,
        start_count: control.redo_predecessor_count,
    }
}

fn find_end(storage: &Arc<dyn Storage>, control: &ControlFile, from: ReadFrom) -> LogEnd {
    let mut reader = WalReader::new(Arc::clone(storage), from);
    while reader.next().expect("a good disk").is_some() {}
    let end = reader.finish().expect("a good disk");
    end.check(control.durable_lsn, "pg_control")
        .expect("no damage");
    end
}
