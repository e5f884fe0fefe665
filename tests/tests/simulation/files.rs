//! Relation files that a crash has cut off in their making, or leaves behind.

use super::*;
use rd_base::FileNo;
use rd_base::limits::FILES_MAX;
use rd_format::control::PendingDrop;
use rd_store::control_file::ControlStore;
use rd_store::relation::{BASE_DIR, parse_name};
use std::collections::BTreeSet;

/// The files of which there are pieces on disk.
pub fn on_disk(disk: &SimStorage) -> BTreeSet<FileNo> {
    let names = disk.list(BASE_DIR).expect("a good disk");
    let files = names.iter().filter_map(|name| parse_name(name));
    files.map(|(file, _)| file).collect()
}

/// Whoever made the file died before he could make its name durable, and nothing says of it.
#[test]
fn a_file_whose_name_was_never_durable_does_not_come_back() {
    let config = config("double_write");
    for seed in 0..20 {
        let _seed = Seeded(seed);
        let disk = new_disk(seed, &config);
        let mut history = History::default();
        let (mut world, _) = World::start(&disk, &config);
        disk.inject(Injection {
            kind: IoKind::SyncDir,
            path_contains: "base".to_owned(),
            skip: 0,
            times: 1,
            errno: 5,
        });
        let died = catch_panics(|| {
            let _ = world.begin_anew(&mut History::default(), &mut Rng::new(seed));
        });
        assert!(died.expect_err("a PANIC").contains("\"base\""));
        drop(world);
        disk.kill(seed);
        // The next file gets a number of its own.
        let (mut world, _) = World::start(&disk, &config);
        world
            .begin_anew(&mut history, &mut Rng::new(seed))
            .expect("a good disk");
        world.promise(&mut history);
        world.checkpoint();
        drop(world);
        disk.crash(seed);
        assert_eq!(on_disk(&disk), BTreeSet::from([1, 4].map(FileNo::new)));
        check(&disk, &config, &mut history, true);
    }
}

/// Asks for the first file of a database, which is made unless the server dies; its commit never comes.
fn make_for_nothing(world: &mut World) {
    let done = world.engine.write(database(1), &[b"k"], &mut |access| {
        access.put(0, b"v", None)?;
        Ok(())
    });
    let Err(EngineError::Park(ParkReason::FileCreation(_))) = done else {
        panic!("there was no file, so the command waits for one");
    };
    world.checkpointer.turn();
}

/// A start with all that comes of it: its checkpoint, and the removal of what is not needed.
fn start_and_tidy(disk: &SimStorage, config: &Arc<Config>) -> World {
    let (mut world, _) = World::start(disk, config);
    world.checkpoint();
    world
}

/// The server dies at any I/O of the making of a file, or behind it, and at any I/O of the start that
/// removes the file. Those of namespaces stay, and the next one made is as good as any.
#[test]
fn a_file_that_was_made_for_nothing_is_removed_whatever_is_cut_off() {
    let config = config("double_write");
    let (known, unborn) = (BTreeSet::from([1, 3].map(FileNo::new)), FileNo::new(4));
    let (mut left_behind, mut half_removed) = (0, 0);
    for seed in 0..150 {
        let _seed = Seeded(seed);
        let mut rng = Rng::new(seed);
        let disk = new_disk(seed, &config);
        let mut history = History::default();
        let (mut world, _) = World::start(&disk, &config);
        world
            .begin_anew(&mut history, &mut rng)
            .expect("a good disk");
        world.promise(&mut history);
        if rng.half() {
            disk.crash_at(Some(disk.io_count() + 1 + rng.below(6)));
        }
        // `pg_control` comes to know its number, and now and then more.
        let more = rng.below(3);
        let life = || {
            make_for_nothing(&mut world);
            if more > 0 {
                world.time_ns.fetch_add(4_000_000_000, Ordering::SeqCst);
                world.checkpointer.turn();
            }
            if more > 1 {
                world.checkpoint();
            }
        };
        quietly(|| drop(catch_panics(life)));
        drop(world);
        if rng.half() {
            disk.crash(seed);
        } else {
            disk.kill(seed);
        }
        let before = on_disk(&disk);
        assert!(before.is_superset(&known), "{before:?}");
        left_behind += u32::from(before.contains(&unborn));

        let whole = disk.fork();
        let ios = whole.io_count();
        drop(start_and_tidy(&whole, &config));
        assert_eq!(on_disk(&whole), known, "it is gone after one start");
        let ios = whole.io_count() - ios;
        // The removal comes last.
        let span = if rng.half() { ios } else { 8 };
        let from_end = rng.below(span);
        disk.crash_at(Some(disk.io_count() + ios - from_end));
        quietly(|| {
            let start = || drop(start_and_tidy(&disk, &config));
            let _ = catch_unwind(AssertUnwindSafe(|| catch_panics(start)));
        });
        if rng.half() {
            disk.crash(seed + 1);
        } else {
            disk.kill(seed + 1);
        }
        half_removed += u32::from(on_disk(&disk).contains(&unborn));

        let mut world = start_and_tidy(&disk, &config);
        assert_eq!(on_disk(&disk), known);
        world.compare(&history.at(Lsn::MAX));
        while world.shared.namespaces.entry(database(1)).file().is_none() {
            world.write(&mut history, &mut rng, 1).expect("a good disk");
        }
        world.promise(&mut history);
        drop(world);
        disk.crash(seed + 2);
        check(&disk, &config, &mut history, true);
    }
    assert!(left_behind > 50, "{left_behind} files were left behind");
    assert!(
        half_removed > 20,
        "{half_removed} starts were cut off in time"
    );
}

/// A server had its table full of dropped files, removed them, and made new ones before it could
/// write `pg_control` again.
#[test]
fn drops_that_pg_control_has_not_forgotten_take_no_room() {
    let config = config("double_write");
    let disk = new_disk(1, &config);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &config);
    for seed in 0..4 {
        let _seed = Seeded(seed);
        world
            .begin_anew(&mut history, &mut Rng::new(seed))
            .expect("a good disk");
    }
    world.promise(&mut history);
    drop(world);
    disk.kill(1);
    let mut slots = ControlStore::open(&disk).expect("valid");
    let mut control = slots.newest().clone();
    let (first, last_lsn) = (control.next_file.get() + 100, control.redo_lsn);
    let drops = (first..).take(FILES_MAX - control.files.len());
    control.pending_drops = drops
        .map(|number| PendingDrop {
            file: FileNo::new(number),
            last_lsn,
        })
        .collect();
    slots.write_both(control, 1).expect("a good disk");
    drop(slots);
    check(&disk, &config, &mut history, true);
}
