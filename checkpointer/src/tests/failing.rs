//! Attempts that fail: what they leave behind, and what becomes of those after them.

use super::world::{FIRST_FILE, History, SEGMENT_BYTES, World, new_disk};
use super::{EIO, control, manual, refuse, tag};
use rd_base::counters::Counter;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::Access;
use rd_format::control::DbState;
use rd_format::meta::{self, Meta};
use rd_format::page::PageBytes;
use rd_store::checkpoint::TicketState;
use rd_sys::simdisk::{Injection, IoKind, SimStorage};
use rd_sys::storage::{OpenMode, Storage};
use std::time::Duration;

/// The file that is closed and opened.
const FILE: FileNo = FileNo::new(2);
const PLACE: &str = "base/2";
const AWAY: &str = "global/away";
const NO_TARGET: &[(&str, &str)] = &[("recovery_time_target", "0")];

#[test]
fn one_that_failed_is_tried_again_whatever_pause_is_to_be_kept() {
    let disk = new_disk(1);
    let mut history = History::default();
    let parameters = [("checkpoint_min_pause", "1h"), NO_TARGET[0]];
    let (mut world, _) = World::start_with(&disk, &mut history, &parameters);
    world.write_page(&mut history, tag(1), 1, 100);
    let shared = world.backend.shared.clone();
    refuse(&disk, "global/doublewrite", 1, EIO);
    world.pass(Duration::from_secs(3601));
    world.checkpointer.turn();
    assert_eq!(shared.checkpoint.failed(), 1);
    world.pass(Duration::from_secs(1));
    world.checkpointer.turn();
    assert_eq!(shared.checkpoint.failed(), 1);
    assert_eq!(shared.stats.get(Counter::CheckpointsTimed), 1);
}

#[test]
fn a_stop_that_fails_is_remembered_as_one() {
    let disk = new_disk(2);
    let mut history = History::default();
    let (mut world, _) = World::start_with(&disk, &mut history, NO_TARGET);
    world.write_page(&mut history, tag(1), 1, 100);
    world.flush(&mut history);
    // A heartbeat comes in its midst.
    world.pass(Duration::from_secs(10));
    refuse(&disk, "base/1", 1, EIO);
    let stats = world.backend.shared.stats.clone();
    let heartbeats = stats.get(Counter::Heartbeats);
    let stopped = world.checkpointer.shutdown_checkpoint();
    stopped.expect_err("the disk refuses");
    assert_eq!(stats.get(Counter::Heartbeats), heartbeats + 1);
    assert_eq!(control(&disk).state, DbState::ShuttingDown);
}

/// A server with a file that is offline.
fn with_closed_file(seed: u64) -> (SimStorage, History, World) {
    let disk = new_disk(seed);
    let mut history = History::default();
    let (mut world, _) = World::start_with(&disk, &mut history, NO_TARGET);
    world.make_dirty_file(&mut history, FILE.get());
    close(&mut world);
    (disk, history, world)
}

fn close(world: &mut World) {
    let closed = world.checkpoint_file(FILE, Some(Access::OFFLINE));
    assert_eq!(closed, TicketState::Done);
}

fn open(world: &mut World) -> TicketState {
    world.checkpoint_file(FILE, Some(Access::READ_WRITE))
}

fn bytes(disk: &SimStorage, path: &str) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).expect("it is there");
    let mut bytes = vec![0; file.len().expect("a length") as usize];
    file.read_at(&mut bytes, 0).expect("a good disk");
    bytes
}

fn header(disk: &SimStorage) -> Meta {
    let bytes = bytes(disk, PLACE);
    let page: &PageBytes = bytes.first_chunk().expect("a page");
    meta::read(page)
}

/// The checkpoint has something to write.
fn checkpoint(world: &mut World, history: &mut History) {
    world.write_page(history, tag(1), 1, 100);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
}

#[test]
fn a_file_that_could_not_be_opened_can_be_opened_later_and_is_no_longer_what_was_closed() {
    let (disk, mut history, mut world) = with_closed_file(3);
    let closed = header(&disk);
    refuse(&disk, PLACE, 1, EIO);
    assert!(matches!(open(&mut world), TicketState::Failed(_)));
    assert_eq!(header(&disk).opened_from, closed.stop_scn);
    checkpoint(&mut world, &mut history);
    assert_eq!(open(&mut world), TicketState::Done);
    let opened = header(&disk);
    assert_eq!(
        (opened.stop_scn, opened.opened_from),
        (Lsn::ZERO, Lsn::ZERO)
    );
}

#[test]
fn a_file_that_could_not_be_opened_may_be_taken_away_and_put_back() {
    for is_forgotten in [false, true] {
        let (disk, mut history, mut world) = with_closed_file(4);
        // The header is on its way when the file is taken.
        refuse(&disk, PLACE, 2, EIO);
        assert!(matches!(open(&mut world), TicketState::Failed(_)));
        disk.rename(PLACE, AWAY).expect("nobody needs it");
        if is_forgotten {
            // As by a request to close it again, which follows.
            world.checkpointer.relations.forget(FILE);
        }
        checkpoint(&mut world, &mut history);
        let TicketState::Failed(reason) = open(&mut world) else {
            panic!("it is away")
        };
        assert!(reason.contains("is not there"), "{reason}");
        checkpoint(&mut world, &mut history);
        disk.rename(AWAY, PLACE).expect("put back");
        checkpoint(&mut world, &mut history);
        assert_eq!(open(&mut world), TicketState::Done);
        checkpoint(&mut world, &mut history);
    }
}

#[test]
fn an_old_copy_in_the_place_of_a_file_that_could_not_be_opened_does_not_pass_for_it() {
    let (disk, mut history, mut world) = with_closed_file(5);
    let old = bytes(&disk, PLACE);
    assert_eq!(open(&mut world), TicketState::Done);
    let tag = PageTag::new(FILE, BlockNo::new(1));
    world.write_page(&mut history, tag, 1, 100);
    close(&mut world);
    refuse(&disk, PLACE, 2, EIO);
    assert!(matches!(open(&mut world), TicketState::Failed(_)));
    disk.rename(PLACE, AWAY).expect("nobody needs it");
    world.checkpointer.relations.forget(FILE);
    let copy = disk.open(PLACE, OpenMode::CreateNew).expect("room");
    copy.write_all_at(&old, 0).expect("room");
    checkpoint(&mut world, &mut history);
    let TicketState::Failed(reason) = open(&mut world) else {
        panic!("it is another one")
    };
    assert!(reason.contains("too old"), "{reason}");
    assert!(bytes(&disk, PLACE) == old, "nobody has written it");
}

/// The next checkpoint is an hour away, and log that nobody needs any more lies between the redo point and
/// the end.
#[test]
fn on_a_full_disk_the_log_goes_on_in_segments_that_a_checkpoint_frees() {
    let disk = new_disk(9);
    let mut history = History::default();
    let parameters = [("checkpoint_timeout", "1h"), NO_TARGET[0]];
    let (mut world, _) = World::start_with(&disk, &mut history, &parameters);
    let shared = world.backend.shared.clone();
    let write_segments = |world: &mut World, history: &mut History, segments: u64| {
        let end = shared.wal.insert_lsn().get() + segments * SEGMENT_BYTES;
        for block in (1..=20).cycle() {
            world.write_page(history, tag(block), 1, 7000);
            if shared.wal.insert_lsn().get() > end {
                return;
            }
        }
    };
    write_segments(&mut world, &mut history, 5);
    assert_eq!(shared.stats.get(Counter::CheckpointsWal), 0);
    disk.set_capacity(Some(disk.used_bytes()));
    write_segments(&mut world, &mut history, 30);
    let made = shared.stats.get(Counter::CheckpointsWal);
    assert!((3..=20).contains(&made), "{made} checkpoints");
    assert_eq!(shared.checkpoint.failed(), 0);
    // Once all is given up that can be, it waits for more.
    world.flush(&mut history);
    for _ in 0..10 {
        world.checkpointer.turn();
    }
    let more = shared.stats.get(Counter::CheckpointsWal) - made;
    assert!(more <= 2, "{more} checkpoints for nothing");
    drop((world, shared));
    disk.crash(9);
    World::start(&disk, &mut history);
}

/// A server with a second file whose first block is damaged, and of which the double-write area has
/// no copy any more.
fn with_damaged_header(seed: u64) -> (SimStorage, History, World) {
    let disk = new_disk(seed);
    let mut history = History::default();
    let (mut world, _) = World::start_with(&disk, &mut history, NO_TARGET);
    world.make_dirty_file(&mut history, FILE.get());
    for _ in 0..20 {
        checkpoint(&mut world, &mut history);
    }
    disk.damage(PLACE, 700, b"rotten").expect("it is there");
    (disk, history, world)
}

/// Changes a page of each file.
fn change_both(world: &mut World, history: &mut History) {
    for file in [FIRST_FILE, FILE] {
        let tag = PageTag::new(file, BlockNo::new(3));
        world.write_page(history, tag, 1, 100);
    }
}

/// What was written to the file is as safe as ever; only the header does not say so.
#[test]
fn a_header_that_cannot_be_read_stops_no_checkpoint() {
    for is_unreadable in [false, true] {
        let (disk, mut history, mut world) = with_damaged_header(6);
        if is_unreadable {
            disk.inject(Injection {
                kind: IoKind::Read,
                path_contains: PLACE.to_owned(),
                skip: 0,
                times: u64::MAX,
                errno: EIO,
            });
        }
        let row = |disk| {
            let rows = control(disk).files;
            let row = rows.into_iter().find(|row| row.file == FILE);
            row.expect("it is named").checkpoint_count
        };
        let (count, mut redo) = (row(&disk), control(&disk).redo_lsn);
        let mut has_advanced = || {
            let before = std::mem::replace(&mut redo, control(&disk).redo_lsn);
            redo > before
        };
        change_both(&mut world, &mut history);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
        assert!(has_advanced());
        // By the heartbeat alone.
        for _ in 0..20 {
            change_both(&mut world, &mut history);
        }
        world.clean(|_| true);
        world.flush(&mut history);
        world.pass(Duration::from_secs(10));
        world.checkpointer.turn();
        assert!(has_advanced());
        // Of another file alone, and of the damaged one.
        change_both(&mut world, &mut history);
        let other = world.checkpoint_file(FIRST_FILE, None);
        assert_eq!(other, TicketState::Done);
        let own = world.checkpoint_file(FILE, None);
        if is_unreadable {
            assert!(matches!(own, TicketState::Failed(_)), "{own:?}");
            assert_eq!(row(&disk), count, "it is as its header says");
        } else {
            // The scrub was told, and had a copy.
            assert_eq!(own, TicketState::Done);
            assert!(row(&disk) > count);
        }
        world
            .checkpointer
            .shutdown_checkpoint()
            .expect("all is written that is");
    }
}

#[test]
fn a_header_that_is_mended_is_written_again() {
    let (disk, mut history, mut world) = with_damaged_header(7);
    change_both(&mut world, &mut history);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    let behind = control(&disk).checkpoint_count;
    disk.damage(PLACE, 700, &[0; 6]).expect("it is there");
    world.pass(Duration::from_secs(100));
    checkpoint(&mut world, &mut history);
    assert!(header(&disk).checkpoint_count > behind);
    world.flush(&mut history);
    drop(world);
    disk.crash(7);
    World::start(&disk, &mut history);
}

#[test]
fn a_file_with_a_damaged_header_can_be_dropped_and_stops_no_start_then() {
    let (disk, mut history, mut world) = with_damaged_header(8);
    change_both(&mut world, &mut history);
    world.drop_file(&mut history, FILE);
    world.flush(&mut history);
    world.pass(Duration::from_secs(3));
    world.checkpointer.turn();
    let last = control(&disk);
    assert!(last.files.iter().any(|row| row.file == FILE) && last.pending_drops.len() == 1);
    drop(world);
    disk.crash(8);
    let (mut world, _) = World::start_with(&disk, &mut history, NO_TARGET);
    checkpoint(&mut world, &mut history);
    assert_eq!(world.backend.shared.checkpoint.failed(), 0);
    for _ in 0..3 {
        world.pass(Duration::from_secs(10));
        checkpoint(&mut world, &mut history);
    }
    assert!(!disk.exists(PLACE).expect("a good disk"), "it is removed");
}
