//! Starts on a disk on which something is broken that they can do without.

use super::{Change, History, Seeded, World, check, config, database, new_disk};
use rd_base::{Lsn, PageTag};
use rd_store::control_file::ControlStore;
use rd_store::relation::{BASE_DIR, offset_of, path_of};
use rd_sys::simdisk::{Injection, IoKind, Rng, SimStorage};
use std::sync::atomic::Ordering;

/// The disk reads everything and writes no page. After a start that did not finish, redo keeps near the redo
/// point as long as that can follow, and does without when it cannot.
#[test]
fn a_repeated_start_does_not_wait_for_a_redo_point_that_cannot_move() {
    const LOG_BYTES: u64 = 3 << 20;
    let config = config("double_write");
    let disk = new_disk(1, &config);
    let (mut history, mut rng) = (History::default(), Rng::new(1));
    let (mut world, recovered) = World::start(&disk, &config);
    while world.shared.wal.insert_lsn().bytes_since(recovered.end) < LOG_BYTES {
        world.write(&mut history, &mut rng, 0).expect("a good disk");
    }
    world.promise(&mut history);
    drop(world);
    for is_bad in [true, false] {
        disk.kill(1);
        let mut slots = ControlStore::open(&disk).expect("valid");
        let mut control = slots.newest().clone();
        let behind = history.promised.bytes_since(control.redo_lsn);
        assert!(behind > 2 << 20, "{behind} bytes of log to be redone");
        control.unfinished_starts = 2;
        slots.write_both(control, 1).expect("a good disk");
        drop(slots);
        disk.clear_injections();
        if is_bad {
            disk.inject(Injection {
                kind: IoKind::Write,
                path_contains: format!("{BASE_DIR}/"),
                skip: 0,
                times: u64::MAX,
                errno: 5,
            });
        }
        check(&disk, &config, &mut history, true);
    }
}

/// A page of a file is damaged, so the file is given up; the server falls before the redo point has passed
/// that.
#[test]
fn a_damaged_page_of_a_dropped_file_stops_no_start() {
    let config = config("double_write");
    for seed in 0..8 {
        let _seed = Seeded(seed);
        let disk = new_disk(seed, &config);
        let (mut history, mut rng) = (History::default(), Rng::new(seed));
        let (mut world, _) = World::start(&disk, &config);
        for database in [0, 0, 1, 0] {
            world
                .write(&mut history, &mut rng, database)
                .expect("a good disk");
        }
        world.promise(&mut history);
        world.checkpoint();
        let file = world.shared.namespaces.entry(database(0)).file();
        let file = file.expect("it has keys");
        // Not the whole page, as after its first change.
        for _ in 0..10 {
            for database in [0, 1] {
                world
                    .write(&mut history, &mut rng, database)
                    .expect("a good disk");
            }
        }
        let mut written = Vec::new();
        world.shared.pool.dirty_before(Lsn::MAX, &mut written);
        let done = world.run(|engine| engine.flush_namespace(database(0)));
        history.note(done.expect("a good disk").lsn, Change::Empty(0));
        world.promise(&mut history);
        // A heartbeat tells `pg_control` of the drop.
        world.time_ns.fetch_add(4_000_000_000, Ordering::SeqCst);
        world.checkpointer.turn();
        drop(world);
        disk.kill(seed);
        let control = ControlStore::open(&disk).expect("valid").newest().clone();
        assert!(control.files.iter().any(|row| row.file == file));
        assert!(control.pending_drops.iter().any(|drop| drop.file == file));
        for tag in written.iter().map(|frame| frame.tag) {
            if tag.file == file {
                damage(&disk, tag);
            }
        }
        check(&disk, &config, &mut history, true);
        disk.kill(seed);
        check(&disk, &config, &mut history, true);
    }
}

fn damage(disk: &SimStorage, tag: PageTag) {
    let at = offset_of(tag.block) + 700;
    disk.damage(&path_of(tag), at, b"rotten")
        .expect("it is there");
}
