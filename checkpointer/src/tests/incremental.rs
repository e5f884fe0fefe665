//! The incremental checkpoint: the redo point follows by heartbeats, pages go out oldest first and
//! evenly, and a crash anywhere is mended from wherever the redo point stands.

use super::world::{FIRST_FILE, History, World, new_disk};
use super::{control, manual, run, tag};
use rd_base::counters::Counter;
use rd_base::{Lsn, PageTag};
use rd_store::checkpoint::TicketState;
use rd_sys::simdisk::{Injection, IoKind};
use std::time::Duration;

/// Everything dirty is to be written soon: no recovery is so fast.
const AT_ONCE: (&str, &str) = ("recovery_time_target", "1ms");
const NO_TARGET: (&str, &str) = ("recovery_time_target", "0");

/// Lets time pass in small steps, with a turn after each.
fn wait(world: &mut World, time: Duration) {
    let step = Duration::from_millis(50);
    for _ in 0..time.as_millis() / step.as_millis() {
        world.pass(step);
        world.checkpointer.turn();
    }
}

fn dirty(world: &World) -> Vec<PageTag> {
    let mut found = Vec::new();
    world.backend.shared.pool.dirty_before(Lsn::MAX, &mut found);
    found.iter().map(|frame| frame.tag).collect()
}

#[test]
fn the_redo_point_follows_the_oldest_dirty_page_without_a_checkpoint() {
    let disk = new_disk(1);
    let mut history = History::default();
    let (mut world, _) = World::start_with(&disk, &mut history, &[AT_ONCE]);
    let stats = world.backend.shared.stats.clone();
    let (first, started) = (control(&disk), world.backend.shared.checkpoint.started());
    for round in 0..4 {
        for block in 1..=20 {
            world.write_page(&mut history, tag(block), 1, 1000);
        }
        let end = world.backend.shared.wal.insert_lsn();
        wait(&mut world, Duration::from_secs(5));
        assert!(dirty(&world).is_empty(), "round {round}");
        let now = control(&disk);
        let left = end.bytes_since(now.redo_lsn);
        assert!(left < 8192, "{left} bytes are no small step");
        let published = world.backend.shared.checkpoint.redo_lsn();
        assert_eq!(published, now.redo_lsn);
        assert!(now.keys_lsn >= now.redo_lsn && now.durable_lsn >= now.keys_lsn);
        assert_eq!(now.files[0].key_count, 20 * (round + 1));
        assert_eq!(now.files[0].scn, now.redo_lsn, "the header was stamped");
    }
    let advances = stats.get(Counter::RedoAdvances);
    assert!((4..=8).contains(&advances), "{advances}");
    let written = stats.get(Counter::PagesWrittenIncremental);
    assert_eq!(written, 4 * 20 + advances, "with a header each time");
    let last = control(&disk);
    assert_eq!(last.checkpoint_lsn, first.checkpoint_lsn);
    assert!(last.incremental_us > 0 && last.checkpoint_count == first.checkpoint_count + advances);
    assert_eq!(world.backend.shared.checkpoint.started(), started);
    // What is below the redo point is not read again, and nothing is lost.
    world.flush(&mut history);
    drop(world);
    disk.crash(1);
    let (_, start) = World::start(&disk, &mut history);
    assert!(start.records < 10, "{start:?}");
}

#[test]
fn nothing_is_written_ahead_of_need() {
    for target in [NO_TARGET, ("recovery_time_target", "10s")] {
        let disk = new_disk(2);
        let mut history = History::default();
        let (mut world, _) = World::start_with(&disk, &mut history, &[target]);
        for block in 1..=20 {
            world.write_page(&mut history, tag(block), 1, 1000);
        }
        wait(&mut world, Duration::from_secs(20));
        assert_eq!(dirty(&world).len(), 20, "{target:?}");
        let now = world.backend.shared.checkpoint.recovery_now();
        assert_eq!(now.dirty_pages, 20);
        assert!(now.redo_bytes > 20_000 && now.redo_bytes < now.redo_bytes_allowed);
    }
}

#[test]
fn an_advance_beside_a_full_checkpoint_is_not_taken_back() {
    let disk = new_disk(3);
    let mut history = History::default();
    let (mut world, _) = World::start_with(&disk, &mut history, &[AT_ONCE]);
    for block in 1..=20 {
        world.write_page(&mut history, tag(block), 1, 1000);
    }
    // It fails when all its pages are written; those make the redo point advance all the same.
    disk.inject(Injection {
        kind: IoKind::Write,
        path_contains: "base/1".to_owned(),
        skip: 0,
        times: 1,
        errno: 5,
    });
    assert!(matches!(world.checkpoint(manual()), TicketState::Failed(_)));
    let behind = control(&disk).redo_lsn;
    wait(&mut world, Duration::from_millis(900));
    world.write_page(&mut history, tag(1), 1, 9000 / 8);
    for block in 2..=9 {
        world.write_page(&mut history, tag(block), 1, 1500);
    }
    wait(&mut world, Duration::from_secs(5));
    let advanced = control(&disk).redo_lsn;
    assert!(advanced > behind);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    assert!(control(&disk).redo_lsn >= advanced);
    world.flush(&mut history);
    drop(world);
    disk.crash(3);
    World::start(&disk, &mut history);
}

#[test]
fn a_disk_that_refuses_pages_delays_the_redo_point_and_nothing_else() {
    let disk = new_disk(4);
    let mut history = History::default();
    let (mut world, _) = World::start_with(&disk, &mut history, &[AT_ONCE]);
    let before = control(&disk).redo_lsn;
    for block in 1..=20 {
        world.write_page(&mut history, tag(block), 1, 1000);
    }
    disk.inject(Injection {
        kind: IoKind::Write,
        path_contains: "global/doublewrite".to_owned(),
        skip: 0,
        times: 4,
        errno: 28,
    });
    wait(&mut world, Duration::from_secs(3));
    assert_eq!(control(&disk).redo_lsn, before);
    wait(&mut world, Duration::from_secs(6));
    assert!(control(&disk).redo_lsn > before);
    assert!(dirty(&world).is_empty());
}

#[test]
fn a_crash_at_any_io_of_incremental_writing_loses_nothing() {
    const STEPS: usize = 100;
    for seed in 11..=12 {
        let whole = new_disk(seed);
        let made = whole.io_count();
        run(&whole, &mut History::default(), seed, STEPS);
        let ios = whole.io_count() - made;
        for at in (seed % 2..=ios).step_by(2) {
            let disk = new_disk(seed);
            let mut history = History::default();
            disk.crash_at(Some(made + at));
            run(&disk, &mut history, seed, STEPS);
            super::end(&disk, at, at % 3 > 0);
            let (mut world, _) = World::start_with(&disk, &mut history, &[AT_ONCE]);
            world.write_page(&mut history, PageTag::new(FIRST_FILE, tag(3).block), 1, 700);
            wait(&mut world, Duration::from_secs(4));
            world.flush(&mut history);
            drop(world);
            disk.crash(at);
            World::start(&disk, &mut history);
        }
    }
}
