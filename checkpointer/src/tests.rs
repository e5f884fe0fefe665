//! The checkpointer on a disk that crashes, fills up and refuses, held against a model.

mod failing;
mod incremental;
mod load;
mod redo;
mod scrub;
mod syncing;
mod world;

use crate::full::Full;
use crate::{Checkpointer, Workers};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::control::{ControlFile, DbState, SLOT_BYTES};
use rd_format::page;
use rd_store::checkpoint::{Flags, TicketState};
use rd_store::control_file::{self, CONTROL_PATH, ControlStore};
use rd_store::files::Growth;
use rd_store::history::CheckpointRow;
use rd_store::relation::RelationFiles;
use rd_store::wal::segments;
use rd_sys::crash::catch_panics;
use rd_sys::event::Event;
use rd_sys::simdisk::{Injection, IoKind, Rng, SimStorage};
use rd_sys::storage::Storage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;
use world::{FIRST_FILE, History, SEGMENT_BYTES, Start, World, asked, new_disk};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn manual() -> Flags {
    Flags::IMMEDIATE | Flags::FORCE | Flags::CAUSE_MANUAL
}

fn tag(block: u32) -> PageTag {
    PageTag::new(FIRST_FILE, BlockNo::new(block))
}

/// The disk refuses so many of the next writes to these files.
fn refuse(disk: &SimStorage, path: &str, times: u64, errno: i32) {
    disk.inject(Injection {
        kind: IoKind::Write,
        path_contains: path.to_owned(),
        skip: 0,
        times,
        errno,
    });
}

fn control(disk: &SimStorage) -> ControlFile {
    control_file::read(disk).expect("a valid slot").control
}

/// Runs a random workload until its end or the crash of the disk.
fn run(disk: &SimStorage, history: &mut History, seed: u64, steps: usize) {
    let work = || {
        // Every third one writes as much as it can by itself.
        let target = if seed % 3 == 2 { "1ms" } else { "10s" };
        let parameters = [("recovery_time_target", target)];
        let (mut world, _) = World::start_with(disk, history, &parameters);
        let mut rng = Rng::new(seed);
        for _ in 0..steps {
            world.step(history, &mut rng);
            if disk.has_crashed() {
                return;
            }
        }
    };
    let result = catch_unwind(AssertUnwindSafe(|| catch_panics(work)));
    // Any end is right for a server whose disk is gone; what counts is what the next one finds.
    assert!(
        matches!(result, Ok(Ok(()))) || disk.has_crashed(),
        "it failed on a good disk"
    );
}

/// Ends the life of the processes, and of the machine too if `power` fails.
fn end(disk: &SimStorage, seed: u64, power: bool) {
    if power {
        disk.crash(seed)
    } else {
        disk.kill(seed)
    }
}

#[test]
fn a_crash_at_any_io_loses_nothing_that_was_promised() {
    const STEPS: usize = 120;
    let (mut torn, mut replayed, mut crashes) = (0, 0, 0);
    for seed in 1..=3 {
        let whole = new_disk(seed);
        let made = whole.io_count();
        run(&whole, &mut History::default(), seed, STEPS);
        let ios = whole.io_count() - made;
        assert!(ios > 200, "{ios} I/Os are no workload");
        // Every one of them in turn, over the seeds.
        for at in (seed..=ios).step_by(3) {
            let disk = new_disk(seed);
            let mut history = History::default();
            disk.crash_at(Some(made + at));
            run(&disk, &mut history, seed, STEPS);
            assert!(disk.has_crashed(), "I/O {at} of {ios}");
            end(&disk, at, at % 4 > 0);
            let (mut world, start) = World::start(&disk, &mut history);
            (torn, replayed, crashes) = (torn + start.torn, replayed + start.records, crashes + 1);
            // It goes on, and stops in order.
            let mut rng = Rng::new(at);
            (0..3).for_each(|_| world.step(&mut history, &mut rng));
            world
                .checkpointer
                .shutdown_checkpoint()
                .expect("a good disk");
            drop(world);
            disk.crash(at);
            let (_, start) = World::start(&disk, &mut history);
            assert!(start.was_clean && start.records == 1, "{start:?}");
        }
    }
    assert!(
        torn > 0 && replayed > 0,
        "{torn} torn pages, {replayed} records in {crashes} crashes"
    );
}

#[test]
fn recovery_itself_can_be_crashed_anywhere() {
    for seed in 1..=4 {
        let before = new_disk(seed);
        let mut history = History::default();
        run(&before, &mut history, seed, 60);
        end(&before, seed, true);
        // How many I/Os a recovery with its checkpoint takes.
        let whole = before.fork();
        let made = whole.io_count();
        run(&whole, &mut history.clone(), seed, 0);
        let ios = whole.io_count() - made;
        for at in 1..=ios {
            let (disk, mut history) = (before.fork(), history.clone());
            disk.crash_at(Some(made + at));
            run(&disk, &mut history, seed, 0);
            assert!(disk.has_crashed());
            end(&disk, at, at % 3 > 0);
            World::start(&disk, &mut history);
        }
    }
}

#[test]
fn either_slot_of_pg_control_will_do() {
    let mut tried = 0;
    for seed in 1..=40 {
        let disk = new_disk(seed);
        let mut history = History::default();
        run(&disk, &mut history, seed, 20 + 3 * seed as usize);
        end(&disk, seed, seed % 2 == 0);
        let slots = ControlStore::open(&disk).expect("a valid slot");
        if slots.other().is_none() {
            continue;
        }
        let newest = control_file::read(&disk).expect("valid").slot;
        disk.damage(CONTROL_PATH, (newest * SLOT_BYTES + 100) as u64, b"?")
            .expect("there");
        // What the other slot has not heard of was promised all the same.
        let (_, start) = World::start(&disk, &mut history);
        assert!(!start.was_clean);
        tried += 1;
    }
    assert!(tried > 30, "{tried}");
}

#[test]
fn a_checkpoint_writes_each_page_once_and_moves_the_redo_point_in_both_slots() {
    let disk = new_disk(1);
    let mut history = History::default();
    let (mut world, start) = World::start(&disk, &mut history);
    let Start { torn, records, .. } = start;
    assert_eq!((torn, records), (0, 0));
    for block in 1..=20 {
        world.write_page(&mut history, tag(block), 1, 100);
    }
    let stats = world.backend.shared.stats.clone();
    let redo = world.backend.shared.wal.insert_lsn();
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    assert_eq!(
        stats.get(Counter::PagesWrittenRequested),
        20 + 1,
        "and the meta page"
    );
    assert_eq!(stats.get(Counter::CheckpointsRequested), 1);
    let slots = ControlStore::open(&disk).expect("valid");
    assert!(slots.slots_agree());
    let control = slots.newest();
    assert_eq!(
        (control.redo_lsn, control.state),
        (redo, DbState::InProduction)
    );
    assert!(control.checkpoint_lsn >= redo && control.durable_lsn > control.checkpoint_lsn);
    let row = control.files[0];
    assert_eq!(
        (row.key_count, row.scn, row.stop_scn),
        (20, redo, Lsn::ZERO)
    );
    assert_eq!(row.checkpoint_count, control.checkpoint_count);
    assert_eq!(world.backend.shared.checkpoint.redo_lsn(), redo);
    // Nothing is dirty any more, so the next one writes nothing but its record.
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    assert_eq!(stats.get(Counter::PagesWrittenRequested), 21);
}

/// Rule B6, for each page that is written, while nobody else flushes the log.
#[test]
fn no_page_gets_to_the_disk_before_its_log() {
    let disk = new_disk(3);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    let wal = world.backend.shared.wal.clone();
    let mut page = [0; PAGE_BYTES];
    for block in 1..=20 {
        world.write_page(&mut history, tag(block), 1, 100);
        assert!(
            wal.durable_lsn() < wal.insert_lsn(),
            "nobody has flushed it"
        );
        world.clean(|dirty| dirty == tag(block));
        let read = world.backend.relations.read_page(tag(block), &mut page);
        read.expect("it was written");
        let (written, durable) = (page::page_lsn(&page), wal.durable_lsn());
        assert!(
            written > Lsn::ZERO && written <= durable,
            "{written} > {durable}"
        );
    }
}

#[test]
fn a_checkpoint_of_one_file_leaves_the_redo_point_and_the_other_files() {
    let disk = new_disk(1);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.create_file(&mut history);
    let files = world.backend.shared.files.clone();
    let other = files.live().into_iter().find(|file| *file != FIRST_FILE);
    let other = other.expect("it was created");
    for block in 1..=20 {
        world.write_page(&mut history, tag(block), 1, 100);
        let tag = PageTag::new(other, BlockNo::new(block));
        world.write_page(&mut history, tag, 1, 100);
    }
    let before = control(&disk);
    let stats = world.backend.shared.stats.clone();
    let scn = world.backend.shared.wal.insert_lsn();
    let written = stats.get(Counter::PagesWrittenRequested);
    // The other one is not named by `pg_control` yet, its creation lies above the redo point.
    assert_eq!(world.checkpoint_file(other, None), TicketState::Done);
    let after = control(&disk);
    assert_eq!(after.redo_lsn, before.redo_lsn);
    assert_eq!(after.checkpoint_count, before.checkpoint_count + 1);
    assert!(ControlStore::open(&disk).expect("valid").slots_agree());
    let row = |control: &ControlFile, of| control.files.iter().find(|row| row.file == of).copied();
    let covered = row(&after, other).expect("it is named now");
    assert_eq!((covered.scn, covered.key_count), (scn, 20));
    assert_eq!(covered.checkpoint_count, after.checkpoint_count);
    let untouched =
        |control: &ControlFile| row(control, FIRST_FILE).map(|row| (row.scn, row.checkpoint_count));
    assert_eq!(untouched(&after), untouched(&before));
    let pages = stats.get(Counter::PagesWrittenRequested) - written;
    assert!(
        (20..=22).contains(&pages),
        "{pages} pages: those of the one file"
    );
    // A redo point below its SCN does not take that back.
    assert_eq!(stats.get(Counter::CheckpointsNamespace), 1);
    drop(world);
    disk.crash(7);
    let (mut world, start) = World::start(&disk, &mut history);
    assert!(!start.was_clean);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    let later = control(&disk);
    assert!(row(&later, other).is_some_and(|row| row.scn >= scn));
}

/// Its namespace may be dropped between the request and its turn.
#[test]
fn a_checkpoint_of_a_file_in_which_no_namespace_lies_is_not_remembered_as_a_full_one() {
    let disk = new_disk(4);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.write_page(&mut history, tag(1), 1, 100);
    world.flush(&mut history);
    assert_eq!(world.checkpoint_file(FIRST_FILE, None), TicketState::Done);
    let rows: Vec<CheckpointRow> = world.backend.shared.history.last(1);
    let names: Vec<_> = rows
        .iter()
        .map(|row| row.namespace.map(|name| name.to_string()))
        .collect();
    assert_eq!(names, [Some(format!("file {FIRST_FILE}"))]);
}

#[test]
fn a_header_says_nothing_that_a_crash_takes_from_the_log() {
    let disk = new_disk(9);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.create_file(&mut history);
    let files = world.backend.shared.files.clone();
    let other = files.live().into_iter().find(|file| *file != FIRST_FILE);
    let other = PageTag::new(other.expect("it was created"), BlockNo::new(1));
    world.write_page(&mut history, tag(1), 1, 100);
    world.flush(&mut history);
    // Of another file, so that no page that is to be written asks for the log.
    world.write_page(&mut history, other, 1, 100);
    let durable = world.backend.shared.wal.durable_lsn();
    disk.inject(Injection {
        kind: IoKind::Write,
        path_contains: "wal/".to_owned(),
        skip: 0,
        times: 100,
        errno: EIO,
    });
    let done = catch_panics(|| world.checkpoint_file(FIRST_FILE, None));
    assert!(done.is_err(), "the log cannot be written");
    let meta = world.backend.relations.read_meta(FIRST_FILE);
    let scn = meta.expect("readable").expect("a header").checkpoint_scn;
    assert!(scn <= durable, "{scn} is said of a log up to {durable}");
}

/// All of a server's life may be within one turn of its checkpointer.
#[test]
fn a_stop_that_comes_before_it_has_taken_over_is_one_in_order() {
    let disk = new_disk(6);
    let (mut world, _) = World::start(&disk, &mut History::default());
    let store = world.checkpointer.store.clone();
    let relations = Arc::new(RelationFiles::writer(Arc::clone(&store.storage)));
    let workers = Workers::in_place(&store, &relations);
    world.checkpointer = Checkpointer::new(store, relations, workers);
    let stopped = world.checkpointer.shutdown_checkpoint();
    stopped.expect("a good disk");
    let control = control_file::read(&disk).expect("valid").control;
    assert_eq!(control.state, DbState::ShutDown);
}

#[test]
fn a_clean_stop_is_told_and_leaves_nothing_to_read() {
    let disk = new_disk(2);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    for block in 1..=5 {
        world.write_page(&mut history, tag(block), 1, 100);
    }
    world
        .checkpointer
        .shutdown_checkpoint()
        .expect("a good disk");
    history.promised = world.backend.shared.wal.durable_lsn();
    drop(world);
    disk.crash(2);
    let last = control(&disk);
    assert_eq!(last.state, DbState::ShutDown);
    assert!(
        last.files
            .iter()
            .all(|row| row.stop_scn == last.durable_lsn)
    );
    let (_, start) = World::start(&disk, &mut history);
    assert!(
        start.was_clean && start.records == 1,
        "only the checkpoint's own: {start:?}"
    );
}

#[test]
fn a_disk_that_refuses_fails_the_checkpoint_and_nothing_else() {
    for (kind, path) in [
        (IoKind::Write, "global/doublewrite"),
        (IoKind::Write, "base/1"),
    ] {
        for errno in [EIO, ENOSPC] {
            let disk = new_disk(3);
            let mut history = History::default();
            let (mut world, _) = World::start(&disk, &mut history);
            for block in 1..=20 {
                world.write_page(&mut history, tag(block), 1, 100);
            }
            let path_contains = path.to_owned();
            disk.inject(Injection {
                kind,
                path_contains,
                skip: 0,
                times: 2,
                errno,
            });
            let ticket = world.ask(manual());
            world.checkpointer.turn();
            let shared = world.backend.shared.clone();
            let TicketState::Failed(reason) = shared.checkpoint.state(&ticket) else {
                panic!("the disk refused")
            };
            assert!(reason.contains(path), "{reason}");
            let redo = shared.checkpoint.redo_lsn();
            assert_eq!(control(&disk).redo_lsn, redo, "the redo point stays");
            world.checkpointer.turn();
            assert_eq!(shared.checkpoint.failed(), 1, "not before its time");
            // Pages change again meanwhile, those on their way included.
            for block in 1..=20 {
                world.write_page(&mut history, tag(block), 1, 100);
            }
            world.pass(Duration::from_secs(1));
            world.checkpointer.turn();
            assert_eq!(shared.checkpoint.failed(), 2);
            world.pass(Duration::from_secs(2));
            world.checkpointer.turn();
            assert_eq!(shared.checkpoint.state(&ticket), TicketState::Done);
            assert!(shared.checkpoint.redo_lsn() > redo);
            world.flush(&mut history);
            drop(world);
            disk.crash(7);
            World::start(&disk, &mut history);
        }
    }
}

#[test]
fn too_many_failures_refuse_writes_until_one_succeeds() {
    let disk = new_disk(4);
    let mut history = History::default();
    let (mut world, _) =
        World::start_with(&disk, &mut history, &[("checkpoint_failures_max", "2")]);
    world.write_page(&mut history, tag(1), 1, 100);
    let path_contains = "global/doublewrite".to_owned();
    disk.inject(Injection {
        kind: IoKind::Write,
        path_contains,
        skip: 0,
        times: 2,
        errno: EIO,
    });
    let shared = world.backend.shared.clone();
    world.checkpoint(manual());
    assert!(!shared.checkpoint.refuses_writes());
    world.checkpoint(manual());
    assert!(shared.checkpoint.refuses_writes() && shared.checkpoint.last_failed());
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    assert!(!shared.checkpoint.refuses_writes());
}

#[test]
fn a_failed_sync_is_a_panic_that_names_the_file() {
    for (path, name) in [
        ("base/1", "base/1"),
        ("global/doublewrite", "global/doublewrite"),
        ("global/pg_control", "global/pg_control"),
        ("wal/", "wal/"),
    ] {
        let disk = new_disk(5);
        let mut history = History::default();
        let (mut world, _) = World::start(&disk, &mut history);
        for block in 1..=3 {
            world.write_page(&mut history, tag(block), 1, 100);
        }
        world.flush(&mut history);
        world.write_page(&mut history, tag(1), 1, 100);
        let path_contains = path.to_owned();
        disk.inject(Injection {
            kind: IoKind::Sync,
            path_contains,
            skip: 0,
            times: 1,
            errno: EIO,
        });
        let message = catch_panics(|| world.checkpoint(manual())).expect_err("a PANIC");
        assert!(message.contains(name), "{message}");
        // What the failed sync has dropped is written again by the next start.
        disk.kill(5);
        drop(world);
        World::start(&disk, &mut history);
    }
}

#[test]
fn a_full_disk_fails_a_growth_and_room_ahead_of_need_is_given_up_first() {
    let disk = new_disk(6);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    let files = world.backend.shared.files.clone();
    let has = files.blocks(FIRST_FILE);
    disk.set_capacity(Some(disk.used_bytes() + (64 << 10)));
    let ticket = world.backend.request_growth(FIRST_FILE, has + 4);
    world.checkpointer.turn();
    assert!(matches!(files.growth(&ticket), Growth::Ready));
    assert!(files.blocks(FIRST_FILE) < has + 16);
    disk.set_capacity(Some(disk.used_bytes()));
    let ticket = world.backend.request_growth(FIRST_FILE, has + 5);
    world.checkpointer.turn();
    let Growth::Failed(failed) = files.growth(&ticket) else {
        panic!("there is no room");
    };
    assert_eq!(failed.error.raw_os_error(), Some(ENOSPC));
    disk.set_capacity(None);
    let ticket = world.backend.request_growth(FIRST_FILE, has + 5);
    world.checkpointer.turn();
    assert!(matches!(files.growth(&ticket), Growth::Ready));
}

/// Whether the checkpointer sleeps, and has not been woken: who was woken has the event to read until it
/// really runs.
fn is_at_rest(event: &Event) -> bool {
    let mut fds = [PollFd::new(event.fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).expect("it can be asked") == 0 && event.is_sleeping()
}

/// Runs `turn` while the clock goes on by itself, by a `tick` each time the checkpointer has gone to sleep: time
/// stands while the machine lets it wait.
fn with_a_clock_that_runs<R>(
    world: &mut World,
    tick: Duration,
    turn: impl FnOnce(&mut World) -> R,
) -> R {
    let (time_ns, procs) = (world.time_ns.clone(), world.backend.shared.procs.clone());
    let event = procs.event(world.checkpointer.store.slot).clone();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                if is_at_rest(&event) {
                    time_ns.fetch_add(tick.as_nanos() as u64, Ordering::SeqCst);
                    event.notify();
                }
                // Between two looks.
                thread::sleep(Duration::from_micros(200));
            }
        });
        let result = turn(world);
        over.store(true, Ordering::SeqCst);
        result
    })
}

fn seconds(world: &World) -> u64 {
    world.time_ns.load(Ordering::SeqCst) / 1_000_000_000
}

#[test]
fn time_makes_a_checkpoint_if_there_is_something_to_write_and_spreads_it() {
    let disk = new_disk(7);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.checkpointer.turn();
    let shared = world.backend.shared.clone();
    let done = shared.checkpoint.done();
    world.pass(Duration::from_secs(301));
    world.checkpointer.turn();
    assert_eq!(
        (shared.checkpoint.done(), shared.checkpoint.started()),
        (done, done),
        "idle"
    );
    for file in 2..=4 {
        world.make_dirty_file(&mut history, file);
    }
    let pages = shared.pool.dirty_frames();
    assert!(pages > 80, "{pages} pages are more than one batch");
    world.pass(Duration::from_secs(299));
    world.checkpointer.turn();
    assert_eq!(shared.checkpoint.done(), done, "not before its time");
    world.pass(Duration::from_secs(2));
    let before = seconds(&world);
    let tick = Duration::from_millis(100);
    with_a_clock_that_runs(&mut world, tick, |world| world.checkpointer.turn());
    assert_eq!(shared.checkpoint.done(), done + 1);
    assert_eq!(shared.stats.get(Counter::CheckpointsTimed), 1);
    // 64 of the pages are the first batch; the rest waits for its time, of 270 s, but for the part
    // by which it gets ahead.
    let took = seconds(&world) - before;
    let least = 229 * 64 / (pages as u64 + 1);
    assert!((least..=280).contains(&took), "{took} s for {pages} pages");
}

#[test]
fn somebody_in_a_hurry_hurries_the_one_under_way() {
    let disk = new_disk(8);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    for file in 2..=4 {
        world.make_dirty_file(&mut history, file);
    }
    let shared = world.backend.shared.clone();
    let spread = world.ask(Flags::CAUSE_MANUAL | Flags::FORCE);
    let fast = thread::scope(|scope| {
        let asks = scope.spawn(|| {
            while !shared.checkpoint.is_under_way() {
                thread::yield_now();
            }
            // The clock stands, so nothing else ends its rest.
            let request = asked(&shared, manual());
            shared.checkpoint.request(&shared.procs, &request)
        });
        world.checkpointer.turn();
        asks.join().expect("it asked")
    });
    assert_eq!(shared.checkpoint.state(&spread), TicketState::Done);
    world.checkpointer.turn();
    assert_eq!(shared.checkpoint.state(&fast), TicketState::Done);
}

#[test]
fn log_size_makes_checkpoints_and_the_log_stays_within_it() {
    let disk = new_disk(9);
    let mut history = History::default();
    // The clock runs for as long as the checkpointer works, however slow that is: a day is enough.
    let parameters = [
        ("checkpoint_timeout", "24h"),
        ("checkpoint_completion_target", "0.005"),
    ];
    let (mut world, _) = World::start_with(&disk, &mut history, &parameters);
    let shared = world.backend.shared.clone();
    let max_wal_bytes = 2u64 << 20;
    let (mut rng, mut most) = (Rng::new(9), 0);
    while shared.stats.get(Counter::CheckpointsWal) < 5 {
        let block = 1 + rng.below(30) as u32;
        world.write_page(&mut history, tag(block), 1, 4000);
        if rng.below(8) == 0 {
            world.flush(&mut history);
        }
        with_a_clock_that_runs(&mut world, Duration::from_secs(1), |world| {
            world.checkpointer.turn()
        });
        let files = disk.list("wal").expect("a good disk").len() as u64;
        most = most.max(files * SEGMENT_BYTES);
    }
    assert!(most <= max_wal_bytes * 16 / 10, "{most} bytes of log");
    assert_eq!(shared.stats.get(Counter::CheckpointsTimed), 0);
    assert!(shared.stats.get(Counter::WalSegmentsRecycled) > 0);
    world.flush(&mut history);
    drop(world);
    disk.crash(9);
    World::start(&disk, &mut history);
}

#[test]
fn heartbeats_take_up_the_durable_lsn_and_fall_silent() {
    let disk = new_disk(10);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.write_page(&mut history, tag(1), 1, 100);
    world.flush(&mut history);
    let beat = |world: &mut World| {
        world.pass(Duration::from_secs(3));
        world.checkpointer.turn();
        world.backend.shared.stats.get(Counter::Heartbeats)
    };
    let first = beat(&mut world);
    assert_eq!(control(&disk).durable_lsn, history.promised);
    // The other slot hears of it too; then there is nothing to say.
    assert_eq!(beat(&mut world), first + 1);
    assert!(ControlStore::open(&disk).expect("valid").slots_agree());
    assert_eq!(beat(&mut world), first + 1);
    assert_eq!(control(&disk).unfinished_starts, 0);
}

#[test]
fn a_drop_that_a_crash_takes_back_has_not_happened() {
    let disk = new_disk(12);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.make_dirty_file(&mut history, 2);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    world.flush(&mut history);
    world.drop_file(&mut history, FileNo::new(2));
    let beat = |world: &mut World| {
        world.pass(Duration::from_secs(3));
        world.checkpointer.turn();
        control(&disk).pending_drops.len()
    };
    assert_eq!(beat(&mut world), 0, "its record is in memory only");
    let before = disk.fork();
    world.flush(&mut history);
    assert_eq!(beat(&mut world), 1);
    assert!(
        disk.exists("base/2").expect("a good disk"),
        "redo would begin below the drop"
    );
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    assert!(!disk.exists("base/2").expect("a good disk"));
    assert_eq!(beat(&mut world), 0);
    drop(world);
    // The other way: the power fails before the record is durable.
    before.crash(12);
    history.promised = Lsn::ZERO;
    World::start(&before, &mut history);
}

#[test]
fn the_first_segment_is_given_up_once_both_slots_are_past_it() {
    let disk = new_disk(11);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    let first = segments::path_of(
        world.backend.shared.wal.timeline(),
        segments::first_lsn(SEGMENT_BYTES),
        SEGMENT_BYTES,
    );
    while world.backend.shared.wal.insert_lsn() < Lsn::new(3 * SEGMENT_BYTES) {
        world.write_page(&mut history, tag(1), 0, 4000);
    }
    assert!(disk.exists(&first).expect("a good disk"));
    world.checkpoint(manual());
    assert!(!disk.exists(&first).expect("a good disk"));
}

const OFF: [(&str, &str); 1] = [("torn_page_protection", "off")];

#[test]
fn the_double_write_area_mends_from_its_first_batch_on() {
    let mut torn = 0;
    for seed in 0..60 {
        let (disk, mut rng) = (new_disk(seed), Rng::new(seed));
        let mut history = History::default();
        let (mut world, _) = World::start_with(&disk, &mut history, &OFF);
        (1..=20).for_each(|block| world.write_page(&mut history, tag(block), 1, 4000));
        world
            .checkpointer
            .shutdown_checkpoint()
            .expect("a good disk");
        history.promised = world.backend.shared.wal.durable_lsn();
        drop(world);
        assert_eq!(control(&disk).protection, 0);

        let (mut world, start) = World::start(&disk, &mut history);
        assert!(start.was_clean);
        // Every block must be whole before redo, though here that would write it whole anyhow.
        (1..=20).for_each(|block| world.write_page(&mut history, tag(block), 1, 4000));
        world.flush(&mut history);
        world.clean_some(&mut rng);
        drop(world);
        disk.crash(seed);
        torn += World::start(&disk, &mut history).1.torn;
    }
    assert!(torn > 20, "{torn} torn pages");
}

/// Each page is a batch, and there are twice as many batches as the area has slots: a slot that were
/// used again before the file of its batch is synced would leave a torn page without its copy.
#[test]
fn copies_stay_in_the_double_write_area_until_their_files_are_synced() {
    let (mut torn, mut reused) = (0, 0);
    for seed in 0..8 {
        let disk = new_disk(seed);
        let mut history = History::default();
        let parameters = [("double_write_size", "8MB")];
        let (mut world, _) = World::start_with(&disk, &mut history, &parameters);
        (1..=30).for_each(|block| world.write_page(&mut history, tag(block), 1, 1500));
        world.flush(&mut history);
        let stats = world.backend.shared.stats.clone();
        let (batches, syncs) = (Counter::DoubleWriteBatches, Counter::FileSyncs);
        let before = (stats.get(batches), stats.get(syncs));
        (1..=30).for_each(|block| world.clean(|dirty| dirty == tag(block)));
        assert_eq!(stats.get(batches) - before.0, 30);
        reused += stats.get(syncs) - before.1;
        drop(world);
        disk.crash(seed);
        // Which holds every block against its checksum before redo.
        torn += World::start(&disk, &mut history).1.torn;
    }
    assert!(torn > 8 && reused > 8, "{torn} torn pages, {reused} syncs");
}

/// Without the area, a sync fails; the server is started with it, and killed before it has made a
/// checkpoint. What is in the cache only is still in the cache only, and not in the area.
#[test]
fn what_was_written_without_the_area_is_written_again_until_a_checkpoint_is_done() {
    let mut killed = 0;
    for seed in 0..200 {
        let disk = new_disk(seed);
        disk.set_block_bytes(rd_base::limits::PAGE_BYTES);
        let mut history = History::default();
        // This makes the area in its size, so that there is less to do later.
        World::start(&disk, &mut history);
        let (mut world, _) = World::start_with(&disk, &mut history, &OFF);
        (1..=20).for_each(|block| world.write_page(&mut history, tag(block), 1, 100));
        world.flush(&mut history);
        disk.inject(Injection {
            kind: IoKind::Sync,
            path_contains: "base/1".to_owned(),
            skip: 0,
            times: 1,
            errno: EIO,
        });
        catch_panics(|| world.checkpoint(manual())).expect_err("a PANIC");
        drop(world);
        disk.kill(seed);

        disk.crash_at(Some(disk.io_count() + 1 + seed % 20));
        run(&disk, &mut history, seed, 0);
        killed += u32::from(disk.has_crashed());
        disk.kill(seed);
        let (world, _) = World::start(&disk, &mut history);
        assert_eq!(world.backend.shared.checkpoint.done(), 1);
        drop(world);
        assert!(control(&disk).has_all_copies());
        disk.crash(seed);
        World::start(&disk, &mut history);
    }
    assert!(killed > 100, "{killed} starts were killed");
}

/// What comes while a checkpoint runs, and is the last for long, is left to the next one: pages that hold
/// the redo point, files that wait to be removed.
#[test]
fn what_is_logged_during_a_checkpoint_makes_the_next_one_needed() {
    let disk = new_disk(1);
    let mut history = History::default();
    let (mut world, _) = World::start(&disk, &mut history);
    world.write_page(&mut history, tag(5), 1, 100);
    world.flush(&mut history);
    let redo = world.backend.shared.wal.insert_lsn();
    let mut full = Full::new(manual(), redo, 0);
    world.write_page(&mut history, tag(6), 1, 100);
    world.flush(&mut history);
    let checkpointer = &mut world.checkpointer;
    checkpointer.redo = redo;
    let logged = checkpointer.write_and_log(&mut full);
    let (cut, inserted, ..) = logged.expect("a good disk");
    checkpointer.finish(&full, cut, inserted);
    assert!(!checkpointer.is_needless(Flags::CAUSE_TIME));
    let timeout = checkpointer.pace.timeout;
    world.pass(timeout);
    world.checkpointer.turn();
    let now = control(&disk).redo_lsn;
    assert!(now > redo, "{now}");
    assert!(world.checkpointer.is_needless(Flags::CAUSE_TIME));
}
