//! Writing beside redo: when it begins, by the clock; and what it must not do.

use super::world::{FIRST_FILE, History, World, new_disk};
use super::{control, end, manual, tag};
use crate::requests;
use crate::worker::Worker;
use rd_base::counters::Counter;
use rd_base::{BlockNo, FileNo, PageTag};
use rd_format::Access;
use rd_format::held::{self, Held};
use rd_store::checkpoint::TicketState;
use rd_store::files::Growth;
use rd_store::relation::RelationFiles;
use rd_sys::crash::catch_panics;
use rd_sys::simdisk::SimStorage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The start with this number after a crash, in redo of twenty pages; those before it unfinished.
fn in_redo_of_pages(disk: &SimStorage, attempt: u32) -> World {
    let mut history = History::default();
    let (mut world, _) = World::start(disk, &mut history);
    for block in 1..=20 {
        world.write_page(&mut history, tag(block), 1, 1000);
    }
    world.flush(&mut history);
    drop(world);
    disk.kill(u64::from(attempt));
    World::in_redo(disk, attempt)
}

#[test]
fn a_first_attempt_is_left_alone_for_ten_seconds_and_later_ones_are_not() {
    for (attempt, left_alone_ms) in [(1, 10_000), (2, 200), (3, 200)] {
        let disk = new_disk(u64::from(attempt));
        let mut world = in_redo_of_pages(&disk, attempt);
        let before = control(&disk).redo_lsn;
        let stats = world.backend.shared.stats.clone();
        let mut written_after = |ms| {
            world.pass(Duration::from_millis(ms));
            world.checkpointer.turn();
            stats.get(Counter::PagesWrittenRecovery)
        };
        assert_eq!(written_after(left_alone_ms - 1), 0, "attempt {attempt}");
        assert_eq!(control(&disk).redo_lsn, before);
        // All but the page of the record that follows the new redo point.
        assert!(written_after(1) >= 19, "attempt {attempt}");
        assert!(control(&disk).redo_lsn > before, "attempt {attempt}");
    }
}

/// A checkpoint that a crash cuts off may have written the header of a file that is still named though it
/// was dropped. Then redo brings `pg_control` on, and is cut off, too.
#[test]
fn headers_of_dropped_files_are_brought_together_with_pg_control_again() {
    let prepare = || {
        let disk = new_disk(5);
        let mut history = History::default();
        let (mut world, _) = World::start(&disk, &mut history);
        world.make_dirty_file(&mut history, 2);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
        let dropped = FileNo::new(2);
        let changed = PageTag::new(dropped, BlockNo::new(1));
        world.write_page(&mut history, changed, 1, 100);
        for block in 1..=20 {
            world.write_page(&mut history, tag(block), 1, 1000);
        }
        world.drop_file(&mut history, dropped);
        world.flush(&mut history);
        world.pass(Duration::from_secs(3));
        world.checkpointer.turn();
        assert_eq!(control(&disk).pending_drops.len(), 1);
        (disk, history, world)
    };
    let (disk, _, mut world) = prepare();
    let before = disk.io_count();
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    let ios = disk.io_count() - before;
    for at in 1..=ios {
        let (disk, mut history, mut world) = prepare();
        disk.crash_at(Some(before + at));
        let checkpoint = || {
            world.checkpoint(manual());
        };
        let _ = catch_unwind(AssertUnwindSafe(|| catch_panics(checkpoint)));
        assert!(disk.has_crashed(), "I/O {at} of {ios}");
        drop(world);
        end(&disk, at, true);
        let mut world = World::in_redo(&disk, 2);
        world.pass(Duration::from_millis(200));
        world.checkpointer.turn();
        drop(world);
        disk.crash(at);
        World::start(&disk, &mut history);
    }
}

/// An opening that a crash cuts off may have written the header, to the disk or to a cache that a loss of
/// power takes. Redo is cut off, too. What became of that opening is not forgotten when `pg_control` has gone
/// on past its number.
#[test]
fn a_closed_file_whose_opening_was_cut_off_survives_a_crash_in_redo() {
    let closed = FileNo::new(2);
    let prepare = || {
        let disk = new_disk(8);
        let mut history = History::default();
        let (mut world, _) = World::start(&disk, &mut history);
        world.make_dirty_file(&mut history, 2);
        for block in 1..=20 {
            world.write_page(&mut history, tag(block), 1, 1000);
        }
        world.flush(&mut history);
        let done = world.checkpoint_file(closed, Some(Access::READ_ONLY));
        assert_eq!(done, TicketState::Done);
        (disk, history, world)
    };
    let redo = |disk: &SimStorage| {
        let mut world = World::in_redo(disk, 2);
        world.pass(Duration::from_millis(200));
        world.checkpointer.turn();
    };
    let in_vain = |work: &mut dyn FnMut()| {
        let _ = catch_unwind(AssertUnwindSafe(|| catch_panics(work)));
    };
    let (disk, _, mut world) = prepare();
    let before = disk.io_count();
    let done = world.checkpoint_file(closed, Some(Access::READ_WRITE));
    assert_eq!(done, TicketState::Done);
    let ios = disk.io_count() - before;
    let (mut half_opened, mut remembered) = (0, 0);
    for at in 1..=ios {
        let (disk, history, mut world) = prepare();
        disk.crash_at(Some(before + at));
        in_vain(&mut || _ = world.checkpoint_file(closed, Some(Access::READ_WRITE)));
        assert!(disk.has_crashed(), "I/O {at} of {ios}");
        drop(world);
        disk.kill(at);
        half_opened += u32::from(is_half_opened(&disk, closed));
        let whole = disk.fork();
        let first = whole.io_count();
        redo(&whole);
        for io in first + 1..=whole.io_count() {
            let disk = disk.fork();
            disk.crash_at(Some(io));
            in_vain(&mut || redo(&disk));
            end(&disk, io, io % 3 > 0);
            let mut history = history.clone();
            let (mut world, _) = World::start(&disk, &mut history);
            assert_eq!(world.checkpoint(manual()), TicketState::Done);
            drop(world);
            disk.kill(io);
            remembered += u32::from(is_half_opened(&disk, closed));
            let (mut world, _) = World::start(&disk, &mut history);
            let done = world.checkpoint_file(closed, Some(Access::READ_WRITE));
            assert_eq!(done, TicketState::Done);
        }
    }
    assert!(half_opened > 0, "no crash left such a header");
    assert!(remembered > 0, "none was left when pg_control had gone on");
}

/// Whether the file's header says that it was to be opened, and `pg_control` does not.
fn is_half_opened(disk: &SimStorage, file: FileNo) -> bool {
    let control = control(disk);
    let row = control.files.iter().find(|row| row.file == file);
    let row = row.expect("it is named");
    let header = RelationFiles::writer(Arc::new(disk.clone())).read_meta(file);
    let header = header.expect("whole").expect("it is there");
    held::hold(&header, row, &control) == Held::HalfOpened
}

/// The checkpointer looks whether redo goes on, and then it takes a while to sync.
#[test]
fn no_commit_is_among_what_redo_has_counted() {
    let disk = new_disk(6);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.write_page(&mut history, tag(1), 3, 100);
    world.flush(&mut history);
    drop(world);
    disk.kill(6);
    let mut world = World::in_redo(&disk, 1);
    let redo = control(&disk).redo_lsn;
    let (rows, _) = world.checkpointer.cut_keys_in_redo(redo).expect("in redo");
    assert_eq!(rows[0].key_count, 3);
    world.end_redo();
    world.write_page(&mut history, tag(2), 4, 100);
    assert_eq!(world.checkpointer.cut_keys_in_redo(redo), None);
    let (rows, _) = world.checkpointer.cut_keys(redo);
    assert_eq!(rows[0].key_count, 7);
}

/// A page on which redo has failed stays latched; its reader comes to know of that when the file has grown
/// that it waits for.
#[test]
fn a_page_that_stays_latched_keeps_no_file_from_growing() {
    let mut world = in_redo_of_pages(&new_disk(7), 2);
    let shared = Arc::clone(&world.backend.shared);
    let event = shared.procs.event(world.checkpointer.store.slot).clone();
    let relations = Arc::new(RelationFiles::writer(Arc::clone(&world.backend.storage)));
    let growth = Worker::on_thread("growth", event, requests::work(relations));
    world.checkpointer.growth = growth.expect("a thread");
    let comes_to = |done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        done()
    };
    let (latched, is_latched) = mpsc::channel();
    thread::scope(|scope| {
        let has_grown = scope.spawn(move || {
            let pin = shared.pool.get_resident(tag(5)).expect("it was redone");
            let _latch = pin.write();
            latched.send(()).expect("the other end waits");
            // They fill no batch, so that nothing is left but this one.
            let written = || shared.stats.get(Counter::PagesWrittenRecovery) > 0;
            assert!(comes_to(&written), "the others were not written");
            let blocks = shared.files.blocks(FIRST_FILE) + 100;
            let ticket = shared.files.request_growth(FIRST_FILE, blocks);
            comes_to(&|| matches!(shared.files.growth(&ticket), Growth::Ready))
        });
        is_latched.recv().expect("it is sent");
        world.pass(Duration::from_millis(200));
        world.checkpointer.turn();
        assert!(has_grown.join().expect("no panic"));
    });
}
