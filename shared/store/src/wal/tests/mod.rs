//! Tests of the log as a whole, on a simulated disk and in one process: threads stand for
//! processes.

mod boundaries;
mod crash;
mod model;
mod protocol;
mod segments;
mod speed;
mod tails;

use super::segments::{self as files, first_lsn};
use super::*;
use crate::procs::ProcsRegions;
use crate::stats::StatsRegions;
use rd_base::words::WalSyncMethod;
use rd_base::{BlockNo, FileNo, PageTag};
use rd_format::Payload;
use rd_format::wal_record::{RECORD_HEADER_BYTES, RecordBuilder, RecordKind, Upsert};
use rd_sys::simdisk::{Rng, SimStorage};
use std::cell::Cell;

/// Lets other threads run, one time out of 16: the steps of a protocol are so short that they would
/// hardly ever meet.
pub(super) fn between_steps() {
    thread_local! {
        static TURN: Cell<u64> = const { Cell::new(0x9E37_79B9_7F4A_7C15) };
    }
    let mut turn = TURN.get();
    turn ^= turn << 13;
    turn ^= turn >> 7;
    turn ^= turn << 17;
    TURN.set(turn);
    if turn.is_multiple_of(16) {
        std::thread::yield_now();
    }
}

const PAGE: u64 = WAL_PAGE_BYTES as u64;
const SYSTEM_ID: u64 = 0x5EED_0F7E_5700;
const TIMELINE: Timeline = Timeline::new(1);

/// The log of one life of a server, on a disk that may have seen others.
struct Rig {
    disk: SimStorage,
    wal: Wal,
    procs: Procs,
    stats: Stats,
}

fn storage(disk: &SimStorage) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

impl Rig {
    /// A new log.
    fn new(ring_pages: u64, segment_pages: u64) -> Rig {
        let disk = SimStorage::new(1);
        files::create(&disk, TIMELINE, segment_pages * PAGE).expect("an empty disk");
        let end = first_lsn(segment_pages * PAGE);
        Rig::start(disk, ring_pages, segment_pages, end, 1)
    }

    /// Goes on with a log at `end`.
    fn start(disk: SimStorage, ring_pages: u64, segment_pages: u64, end: Lsn, count: u32) -> Rig {
        let sizes = Sizes {
            frames: 0,
            wal_ring_bytes: ring_pages * PAGE,
            wal_segment_bytes: segment_pages * PAGE,
        };
        let mut plan = Plan::new();
        let regions = (
            ProcsRegions::plan(&mut plan),
            StatsRegions::plan(&mut plan),
            WalRegions::plan(&mut plan, &sizes),
        );
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let procs = Procs::open(&segment, &regions.0).expect("descriptors for a test");
        let stats = Stats::open(&segment, &regions.1);
        let wal = Wal::open(&segment, &regions.2, &sizes, procs.clone(), stats.clone());
        let start = WalStart {
            end,
            timeline: TIMELINE,
            start_count: StartCount::new(count),
            system_id: SYSTEM_ID,
        };
        wal.start_at(&storage(&disk), &start)
            .expect("a log that can go on");
        Rig {
            disk,
            wal,
            procs,
            stats,
        }
    }

    fn flusher(&self, slot: SlotNo, method: WalSyncMethod) -> Flusher {
        Flusher::new(
            self.wal.clone(),
            storage(&self.disk),
            self.stats.clone(),
            slot,
            method,
        )
    }

    fn preparer(&self) -> Preparer {
        Preparer::new(self.wal.clone(), storage(&self.disk), 0)
    }

    /// Inserts a record that needs no waiting.
    fn insert(&self, slot: SlotNo, record: &mut RecordBuilder) -> Inserted {
        let bytes = record.bytes().len();
        while self.preparer().step() == files::Step::Prepared {}
        let mut credit = self
            .wal
            .take_credit(credit_for(bytes))
            .expect("room for a test");
        self.wal.insert(slot, record, &mut credit, |_| {})
    }

    fn read_from(&self, lsn: Lsn) -> ReadFrom {
        ReadFrom {
            lsn,
            timeline: TIMELINE,
            segment_bytes: self.wal.segment_bytes(),
            system_id: SYSTEM_ID,
            start_count: StartCount::new(0),
        }
    }

    fn first(&self) -> Lsn {
        first_lsn(self.wal.segment_bytes())
    }
}

fn backend(number: usize) -> SlotNo {
    SlotNo::of(Role::Backend(number as u16)).expect("backends have slots")
}

fn walwriter() -> SlotNo {
    SlotNo::of(Role::Walwriter).expect("it has a slot")
}

/// Bytes of the smallest record that says something.
const TALKING_BYTES: usize = RECORD_HEADER_BYTES + 16 + 8 + 8;

/// Makes the record number `id`, of about `bytes` bytes, whose content follows from both.
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
    let key = id.to_le_bytes();
    builder.upsert(&Upsert {
        key: &key,
        expiry_ms: None,
        payload: Payload::Inline(&value),
    });
    builder.seal();
}

/// A record as it was read: its place, its number (which it has for a time) and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    start: Lsn,
    end: Lsn,
    id: u64,
    bytes: usize,
}

/// Reads to the end of the log, and holds the content of each record against what was made.
fn read_all(disk: &SimStorage, from: ReadFrom) -> (Vec<Seen>, LogEnd) {
    let mut reader = WalReader::new(storage(disk), from);
    let mut builder = RecordBuilder::new();
    let mut all = Vec::new();
    let mut end = from.lsn;
    while let Some(record) = reader.next().expect("a disk without faults") {
        assert_eq!(
            record.start,
            rd_format::wal_page::start_after(end),
            "a gap in the log"
        );
        end = record.end;
        let (id, bytes) = (record.view.header().time_us, record.view.bytes());
        make_record(&mut builder, id, bytes.len());
        assert_eq!(
            &bytes[RECORD_HEADER_BYTES..],
            &builder.bytes()[RECORD_HEADER_BYTES..bytes.len()],
            "record {id} at {} is another",
            record.start
        );
        all.push(Seen {
            start: record.start,
            end,
            id,
            bytes: bytes.len(),
        });
    }
    let log_end = reader.finish().expect("a disk without faults");
    assert_eq!(log_end.lsn, end);
    (all, log_end)
}
