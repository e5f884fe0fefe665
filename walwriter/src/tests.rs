//! The walwriter, one turn at a time, by a clock that a test moves.

use super::*;
use rd_base::counters::Counter;
use rd_base::{Role, StartCount, Timeline};
use rd_format::wal_record::{RecordBuilder, RecordKind};
use rd_store::wal::{WalStart, credit_for, segments};
use rd_store::{Shared, Sizes, SlotNo};
use rd_sys::clock::Clock;
use rd_sys::simdisk::SimStorage;
use std::sync::atomic::AtomicU64;

const DELAY: Duration = Duration::from_millis(200);

struct Rig {
    store: Store,
    walwriter: Walwriter,
    time_ns: Arc<AtomicU64>,
}

impl Rig {
    fn new() -> Rig {
        let config = Arc::new(Config::from_pairs(&[]).expect("defaults are valid"));
        assert_eq!(config.wal_writer_delay(), DELAY);
        let disk = SimStorage::new(1);
        let sizes = Sizes::from_config(&config);
        let timeline = Timeline::new(1);
        segments::create(&disk, timeline, sizes.wal_segment_bytes).expect("an empty disk");
        let shared = Shared::anonymous(sizes).expect("memory for a test");
        let (clock, time_ns) = Clock::manual(1);
        let slot = SlotNo::of(Role::Walwriter).expect("it has a slot");
        let store = Store::new(shared, Arc::new(disk), clock, slot, config);
        let start = WalStart {
            end: segments::first_lsn(store.shared.wal.segment_bytes()),
            timeline,
            start_count: StartCount::new(1),
            system_id: 7,
        };
        store
            .shared
            .wal
            .start_at(&store.storage, &start)
            .expect("a new log");
        let walwriter = Walwriter::new(store.clone());
        Rig {
            store,
            walwriter,
            time_ns,
        }
    }

    fn wal(&self) -> &Wal {
        &self.store.shared.wal
    }

    fn insert(&self) -> Lsn {
        let mut record = RecordBuilder::new();
        record.start(RecordKind::Noop, 1);
        let bytes = record.seal();
        let mut credit = self.wal().take_credit(credit_for(bytes)).expect("room");
        let slot = SlotNo::of(Role::Backend(0)).expect("backends have slots");
        self.wal()
            .insert(slot, &mut record, &mut credit, |_| {})
            .end
    }

    fn pass(&self, time: Duration) {
        self.time_ns
            .fetch_add(time.as_nanos() as u64, Ordering::SeqCst);
    }

    fn writes(&self) -> u64 {
        self.store.shared.stats.get(Counter::WalWrites)
    }
}

#[test]
fn an_idle_walwriter_sleeps_for_ever() {
    let mut rig = Rig::new();
    assert_eq!(rig.walwriter.turn(), None);
    rig.pass(DELAY * 100);
    assert_eq!(rig.walwriter.turn(), None);
    assert_eq!(rig.writes(), 0);
}

#[test]
fn a_request_is_flushed_at_once_and_the_last_page_stamped_when_it_is_quiet() {
    let mut rig = Rig::new();
    let end = rig.insert();
    rig.wal().request_flush(end);
    assert_eq!(rig.walwriter.turn(), Some(DELAY), "until the heartbeat");
    assert_eq!((rig.wal().durable_lsn(), rig.writes()), (end, 1));
    // While the log goes on there is no heartbeat: each flush brings the mark along.
    rig.pass(DELAY / 2);
    let later = rig.insert();
    rig.wal().request_flush(later);
    assert_eq!(rig.walwriter.turn(), Some(DELAY / 2));
    rig.pass(DELAY / 2);
    assert_eq!(rig.walwriter.turn(), Some(DELAY));
    assert_eq!(rig.writes(), 2);
    rig.pass(DELAY);
    assert_eq!(
        rig.walwriter.turn(),
        None,
        "the heartbeat was the last there is to do"
    );
    assert_eq!(rig.writes(), 3);
}

#[test]
fn a_commit_that_does_not_wait_is_durable_within_the_delay() {
    let mut rig = Rig::new();
    let first = rig.insert();
    rig.wal().request_lazy_flush(first);
    assert_eq!(rig.walwriter.turn(), Some(DELAY));
    rig.pass(DELAY / 2);
    let second = rig.insert();
    rig.wal().request_lazy_flush(second);
    assert_eq!(
        rig.walwriter.turn(),
        Some(DELAY / 2),
        "the delay counts from the first"
    );
    assert!(rig.wal().durable_lsn() < first);
    rig.pass(DELAY / 2);
    rig.walwriter.turn();
    assert_eq!(rig.wal().durable_lsn(), second);
}

#[test]
fn the_end_makes_all_durable() {
    let mut rig = Rig::new();
    let end = rig.insert();
    rig.walwriter.finish();
    assert_eq!(rig.wal().durable_lsn(), end);
    assert_eq!(rig.walwriter.turn(), None);
}
