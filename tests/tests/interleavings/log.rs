//! The write-ahead log by itself: several processes insert, whoever has to flushes.

use crate::server::add_log_writers;
use rd_base::limits::WAL_PAGE_BYTES;
use rd_base::words::WalSyncMethod;
use rd_base::{BlockNo, Config, FileNo, Lsn, PageTag, Role, StartCount, Timeline};
use rd_format::Payload;
use rd_format::wal_record::{RECORD_HEADER_BYTES, RecordBuilder, RecordKind, Upsert};
use rd_store::procs::SlotNo;
use rd_store::wal::lead::{Leader, Turn};
use rd_store::wal::segments;
use rd_store::wal::{Credit, FlushOutcome, Flusher, ReadFrom, WalReader, WalStart, credit_for};
use rd_store::{Shared, Sizes, Store};
use rd_sys::clock::Clock;
use rd_sys::simdisk::{Rng, SimStorage};
use rd_sys::simproc::Pause;
use rd_sys::simsched::Crew;
use rd_sys::storage::Storage;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const PAGE: u64 = WAL_PAGE_BYTES as u64;
/// So many that the reserve of the log fits twice.
const SEGMENT_BYTES: u64 = 64 * PAGE;
const RING_PAGES: u64 = 2;
const TIMELINE: Timeline = Timeline::new(1);
const SYSTEM_ID: u64 = 0x5EED;
/// Bytes of the smallest record that says something.
const TALKING_BYTES: usize = RECORD_HEADER_BYTES + 16 + 8 + 8;
/// One I/O out of so many is followed by a crash of a copy of the disk.
const CRASH_ODDS: u64 = 16;

/// A record: its place, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Made {
    start: Lsn,
    end: Lsn,
    id: u64,
}

/// A log, and who works with it.
pub struct Log {
    disk: SimStorage,
    pub shared: Arc<Shared>,
    clock: Clock,
    config: Arc<Config>,
    made: RefCell<Vec<Made>>,
    /// The end of what somebody was told to be durable.
    told: Cell<Lsn>,
}

impl Log {
    /// A new one, and its crew, which has a walwriter and a preparer of segments.
    pub fn new(seed: u64) -> (Rc<Log>, Crew) {
        let disk = SimStorage::new(seed);
        segments::create(&disk, TIMELINE, SEGMENT_BYTES).expect("an empty disk");
        let sizes = Sizes {
            frames: 1,
            wal_ring_bytes: RING_PAGES * PAGE,
            wal_segment_bytes: SEGMENT_BYTES,
        };
        let shared = Shared::anonymous(sizes).expect("memory for a test");
        let (clock, time_ns) = Clock::manual(1_000_000_000_000);
        let config = Config::from_pairs(&[("wal_writer_delay", "10ms")]).expect("valid");
        let log = Rc::new(Log {
            disk,
            shared,
            clock,
            config: Arc::new(config),
            made: RefCell::default(),
            told: Cell::new(Lsn::ZERO),
        });
        let start = WalStart {
            end: segments::first_lsn(SEGMENT_BYTES),
            timeline: TIMELINE,
            start_count: StartCount::new(1),
            system_id: SYSTEM_ID,
        };
        let wal = &log.shared.wal;
        wal.start_at(&log.storage(), &start).expect("a new log");
        let mut crew = Crew::new(seed);
        crew.at_rest(move || {
            time_ns.fetch_add(3_000_000, Ordering::SeqCst);
        });
        add_log_writers(&mut crew, log.store(Role::Walwriter), 0);
        (log, crew)
    }

    fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.disk.clone())
    }

    fn store(&self, role: Role) -> Store {
        let slot = SlotNo::of(role).expect("a role with a slot");
        let shared = Arc::clone(&self.shared);
        Store::new(
            shared,
            self.storage(),
            self.clock.clone(),
            slot,
            Arc::clone(&self.config),
        )
    }

    fn read_from(&self) -> ReadFrom {
        ReadFrom {
            lsn: segments::first_lsn(SEGMENT_BYTES),
            timeline: TIMELINE,
            segment_bytes: SEGMENT_BYTES,
            system_id: SYSTEM_ID,
            start_count: StartCount::new(0),
        }
    }

    /// Reads a disk to the end of its log; each record must be as it was made.
    fn read(&self, disk: &SimStorage) -> (Vec<Made>, Lsn) {
        let mut reader = WalReader::new(Arc::new(disk.clone()), self.read_from());
        let mut builder = RecordBuilder::new();
        let mut all = Vec::new();
        while let Some(record) = reader.next().expect("a disk without faults") {
            let (id, bytes) = (record.view.header().time_us, record.view.bytes());
            make_record(&mut builder, id, bytes.len());
            assert_eq!(
                &bytes[RECORD_HEADER_BYTES..],
                &builder.bytes()[RECORD_HEADER_BYTES..bytes.len()],
                "record {id:#x} at {} is another",
                record.start
            );
            let (start, end) = (record.start, record.end);
            all.push(Made { start, end, id });
        }
        let end = reader.finish().expect("a disk without faults").lsn;
        (all, end)
    }

    /// What is on disk after a crash: all that was promised, or told to be durable.
    fn crash(&self, seed: u64) -> (Vec<Made>, Lsn) {
        let promised = self.shared.wal.durable_lsn().max(self.told.get());
        let disk = self.disk.fork();
        disk.crash(seed);
        let (all, end) = self.read(&disk);
        assert!(end >= promised, "durable up to {promised}, but {end}");
        (all, end)
    }

    /// Runs the crew, and crashes copies of the disk now and then; then everything must be there.
    pub fn run(&self, crew: &mut Crew, seed: u64) -> Result<u64, String> {
        let mut rng = Rng::new(seed ^ 0xC4A5);
        self.run_crew(crew, &mut rng)?;
        let mut flusher = Flusher::for_store(&self.store(Role::Backend(0)));
        crew.add("last flush", move || flusher.flush_all());
        self.run_crew(crew, &mut rng)?;
        let wal = &self.shared.wal;
        assert_eq!(wal.durable_lsn(), wal.insert_lsn());
        let (seen, end) = self.crash(rng.next_u64());
        assert_eq!(end, wal.insert_lsn());
        let mut made = self.made.take();
        made.sort();
        assert!(
            seen == made,
            "{} records made, {} read",
            made.len(),
            seen.len()
        );
        Ok(crew.trace())
    }

    fn run_crew(&self, crew: &mut Crew, rng: &mut Rng) -> Result<(), String> {
        crew.run(&mut |_, why| {
            if why == Pause::Io && rng.below(CRASH_ODDS) == 0 {
                self.crash(rng.next_u64());
            }
        })
    }
}

/// Makes record `id`, of about `bytes` bytes, whose content follows from both.
fn make_record(builder: &mut RecordBuilder, id: u64, bytes: usize) {
    if bytes < TALKING_BYTES {
        builder.start(RecordKind::Noop, id);
        builder.seal();
        return;
    }
    let mut rng = Rng::new(id);
    let mut value = vec![0; bytes - TALKING_BYTES];
    for chunk in value.chunks_mut(8) {
        chunk.copy_from_slice(&rng.next_u64().to_le_bytes()[..chunk.len()]);
    }
    builder.start(RecordKind::Commit, id);
    builder.block(PageTag::new(FileNo::new(1), BlockNo::new(1)));
    builder.upsert(&Upsert {
        key: &id.to_le_bytes(),
        expiry_ms: None,
        payload: Payload::Inline(&value),
    });
    builder.seal();
}

/// A process that inserts and waits as a backend does.
pub struct Backend {
    pub log: Rc<Log>,
    pub slot: SlotNo,
    pub flusher: Flusher,
    builder: RecordBuilder,
    pub rng: Rng,
    number: u64,
}

impl Backend {
    pub fn new(log: &Rc<Log>, number: u64, seed: u64) -> Backend {
        let store = log.store(Role::Backend(number as u16));
        let mut rng = Rng::new(seed ^ (number << 40));
        let mut flusher = Flusher::for_store(&store);
        flusher.set_method(WalSyncMethod::ALL[rng.below(WalSyncMethod::ALL.len() as u64) as usize]);
        Backend {
            log: Rc::clone(log),
            slot: store.slot,
            flusher,
            builder: RecordBuilder::new(),
            rng,
            number,
        }
    }

    /// Takes credit, and sleeps while there is none until somebody gives room.
    fn credit(&self, bytes: u64) -> Credit {
        let (wal, procs) = (&self.log.shared.wal, &self.log.shared.procs);
        let event = procs.event(self.slot);
        loop {
            event.take();
            if let Ok(credit) = wal.take_credit(bytes) {
                return credit;
            }
            procs.set_parked(self.slot, true);
            let taken = wal.take_credit(bytes);
            if taken.is_err() {
                event.wait(None);
            }
            procs.set_parked(self.slot, false);
            if let Ok(credit) = taken {
                return credit;
            }
        }
    }

    /// Inserts record number `turn`.
    pub fn insert(&mut self, turn: u64, bytes_max: u64) -> Lsn {
        self.insert_under(turn, bytes_max, || (), |_| {})
    }

    /// Likewise, while what `latch` takes is held; `before_release` is told of the record's end before
    /// it counts as complete.
    pub fn insert_under<L>(
        &mut self,
        turn: u64,
        bytes_max: u64,
        latch: impl FnOnce() -> L,
        before_release: impl FnOnce(Lsn),
    ) -> Lsn {
        let id = self.number << 32 | turn;
        let bytes = RECORD_HEADER_BYTES + self.rng.below(bytes_max) as usize;
        make_record(&mut self.builder, id, bytes);
        let more = self.rng.below(2_000);
        let mut credit = self.credit(credit_for(self.builder.bytes().len()) + more);
        let wal = &self.log.shared.wal;
        let mut early = None;
        let held = latch();
        let inserted = wal.insert(self.slot, &mut self.builder, &mut credit, |at| {
            // Nobody takes it for complete.
            assert!(wal.durable_lsn() <= at.start, "durable before it is there");
            early = Some(at);
            before_release(at.end);
        });
        drop(held);
        assert_eq!(early, Some(inserted));
        let (start, end) = (inserted.start, inserted.end);
        self.log.made.borrow_mut().push(Made { start, end, id });
        end
    }

    fn is_durable(&self, lsn: Lsn) -> bool {
        self.log.shared.wal.durable_lsn() >= lsn
    }

    /// A reply that shows `lsn` is sent.
    fn tell(&self, lsn: Lsn) {
        assert!(self.is_durable(lsn));
        self.log.told.set(self.log.told.get().max(lsn));
    }

    /// As a reply does that waits for others to flush.
    pub fn wait_durable(&self, lsn: Lsn) {
        let procs = &self.log.shared.procs;
        self.log.shared.wal.request_flush(lsn);
        loop {
            procs.event(self.slot).take();
            procs.set_wait_lsn(self.slot, lsn);
            if self.is_durable(lsn) {
                break;
            }
            procs.event(self.slot).wait(None);
        }
        procs.set_wait_lsn(self.slot, Lsn::ZERO);
        self.tell(lsn);
    }
}

/// Records of all sizes into a ring of two pages, flushed in all ways.
pub fn wal_insertion(seed: u64) -> Result<u64, String> {
    let (log, mut crew) = Log::new(seed);
    for number in 0..2 + seed % 2 {
        let mut backend = Backend::new(&log, number, seed);
        crew.add("inserter", move || {
            for turn in 0..5 {
                let bytes_max = match backend.rng.below(4) {
                    0 => 3 * RING_PAGES * PAGE,
                    _ => 300,
                };
                let end = backend.insert(turn, bytes_max);
                let wal = backend.log.shared.wal.clone();
                match backend.rng.below(5) {
                    0 => backend.wait_durable(end),
                    1 => {
                        wal.note_request(end);
                        backend.flusher.try_flush(1);
                    }
                    2 => {
                        backend.flusher.flush_until(end).expect("it was inserted");
                        backend.tell(end);
                    }
                    3 => wal.request_lazy_flush(end),
                    _ => {}
                }
            }
        });
    }
    log.run(&mut crew, seed)
}

/// Backends that commit, and that lead and follow when it comes to flushing, as their loop does it.
pub fn group_commit(seed: u64) -> Result<u64, String> {
    let (log, mut crew) = Log::new(seed);
    for number in 0..2 + seed % 3 {
        let mut backend = Backend::new(&log, number, seed);
        // One that is busy leaves flushing to others.
        let is_busy = backend.rng.below(4) == 0;
        crew.add("backend", move || {
            let mut leader = Leader::default();
            for turn in 0..4 {
                let end = backend.insert(turn, 300);
                backend.commit(end, is_busy, &mut leader);
            }
            // As one that leaves: others may count on its flushing.
            leader.follow(&backend.log.shared.wal, None);
        });
    }
    log.run(&mut crew, seed)
}

impl Backend {
    /// From the end of a turn in which a commit was made to the turn in which its reply is sent; and
    /// further turns, if a flush is still to come for others, so that nobody sleeps who has to see to it.
    fn commit(&mut self, lsn: Lsn, is_busy: bool, leader: &mut Leader) {
        let shared = Arc::clone(&self.log.shared);
        let (procs, slot) = (&shared.procs, self.slot);
        let event = procs.event(slot);
        loop {
            event.take();
            let backend = &mut *self;
            let mut turn = CommitTurn {
                backend,
                lsn,
                is_busy,
            };
            leader.settle(&shared.wal, &mut turn);
            let is_durable = self.is_durable(lsn);
            if is_durable && !leader.goes_on() {
                break;
            }
            procs.set_wait_lsn(slot, if is_durable { Lsn::ZERO } else { lsn });
            if !leader.goes_on() && !self.is_durable(lsn) {
                procs.set_willing(slot, !is_busy);
                event.wait(None);
            }
            leader.nominate(procs.take_nomination(slot));
        }
        procs.set_wait_lsn(slot, Lsn::ZERO);
        self.tell(lsn);
    }
}

/// A turn of a backend with one connection, whose reply waits for `lsn`.
struct CommitTurn<'b> {
    backend: &'b mut Backend,
    lsn: Lsn,
    is_busy: bool,
}

impl Turn for CommitTurn<'_> {
    fn release(&mut self) {
        if self.backend.is_durable(self.lsn) {
            self.backend.tell(self.lsn);
        }
    }

    fn awaited(&self) -> Option<Lsn> {
        Some(self.lsn).filter(|lsn| !self.backend.is_durable(*lsn))
    }

    fn leaves_flushing(&self) -> bool {
        self.is_busy
    }

    fn something_is_due(&self) -> bool {
        // Of what else it may have to do, some has its time.
        self.lsn.get().is_multiple_of(3)
    }

    fn something_is_ready(&mut self) -> bool {
        self.backend.rng.below(4) == 0
    }

    fn flush(&mut self) -> FlushOutcome {
        self.backend.flusher.flush_once()
    }
}
