//! The file table: growth, creation, drops, and key counts whose cut is exact.

use super::*;
use rd_base::Config;
use rd_sys::clock::Clock;
use rd_sys::simdisk::SimStorage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

fn files() -> Files {
    let mut plan = Plan::new();
    let regions = FilesRegions::plan(&mut plan);
    Files::open(
        &Segment::anonymous(&plan).expect("memory for a test"),
        &regions,
    )
}

fn live(files: &Files, number: u32) -> FileNo {
    let file = FileNo::new(number);
    files.request_create(file, 1).expect("a free row");
    files.grown(file, 128);
    file
}

#[test]
fn rows_are_found_whatever_their_place() {
    let files = files();
    let far = FILES_MAX as u32;
    // All of these have the same place.
    let all = [3, 3 + far, 3 + 2 * far, 4];
    for number in all {
        live(&files, number);
        let delta = (FileNo::new(number), i64::from(number));
        files.count_in_redo(Lsn::new(64), [delta].into_iter());
    }
    for number in all {
        assert_eq!(files.keys(FileNo::new(number)), u64::from(number));
    }
    assert_eq!(files.state(FileNo::new(5)), FileState::Free);
    assert!(files.request_create(FileNo::new(5), 1).is_ok());
    for number in 100..100 + far - 5 {
        files
            .request_create(FileNo::new(number + 10 * far), 1)
            .expect("a free row");
    }
    assert!(matches!(
        files.request_create(FileNo::new(9), 1),
        Err(TooManyFiles)
    ));
}

#[test]
fn growth_is_asked_for_done_and_refused() {
    let files = files();
    let file = FileNo::new(7);
    let create = files.request_create(file, 3).expect("a free row");
    assert!(matches!(files.growth(&create), Growth::Pending));
    let work = files.take_work();
    let expected = FileWork {
        file,
        create: true,
        from: 0,
        needed: 3,
        to: STEP_MIN_BLOCKS,
    };
    assert_eq!(work, [expected]);
    assert!(!files.has_work());
    files.grown(file, work[0].to);
    assert!(matches!(files.growth(&create), Growth::Ready));
    assert!(files.exists(file) && files.take_work().is_empty());
    assert!(!files.is_short_after(file, STEP_MIN_BLOCKS / 2 - 1));
    assert!(files.is_short_after(file, STEP_MIN_BLOCKS / 2));
    let more = files.request_growth(file, 1000);
    assert!(
        !files.is_short_after(file, STEP_MIN_BLOCKS - 1),
        "growth is asked for already"
    );
    assert_eq!(files.take_work()[0].needed, 1000);
    files.growth_failed(file, &io::Error::from_raw_os_error(28));
    match files.growth(&more) {
        Growth::Failed(error) => {
            assert_eq!(error.error.kind(), io::ErrorKind::StorageFull);
            assert!(
                error.to_string().contains("relation file 7 to 1000 blocks"),
                "{error}"
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        files.take_work().is_empty(),
        "a wish that failed is forgotten"
    );
    let again = files.request_growth(file, 1000);
    assert!(matches!(files.growth(&again), Growth::Pending));
    files.grown(file, 1024);
    assert!(matches!(files.growth(&again), Growth::Ready));
}

/// A taker and a freer in different regions hold no latch in common.
#[test]
fn a_search_that_was_overtaken_by_a_freed_block_leaves_the_hint_alone() {
    let files = files();
    let file = live(&files, 7);
    files.raise_hint(file, 0, 70_000);
    let seen = files.hint(file);
    files.lower_hint(file, 5);
    files.raise_hint(file, seen, 70_001);
    assert_eq!(files.hint(file), 5, "the free block is found again");
    files.lower_hint(file, 60_000);
    assert_eq!(files.hint(file), 5);
    files.raise_hint(file, 5, 6);
    assert_eq!(files.hint(file), 6);
}

#[test]
fn a_creation_that_failed_can_be_asked_for_again() {
    let files = files();
    let file = FileNo::new(2);
    let first = files.request_create(file, 1).expect("a free row");
    files.growth_failed(file, &io::Error::from(io::ErrorKind::StorageFull));
    assert!(matches!(files.growth(&first), Growth::Failed(_)));
    assert_eq!(
        (files.state(file), files.take_work().len()),
        (FileState::Failed, 0)
    );
    let second = files.request_create(file, 1).expect("its own row");
    assert_eq!(files.take_work().len(), 1);
    files.grown(file, 128);
    assert!(matches!(files.growth(&second), Growth::Ready));
}

#[test]
fn a_dropped_file_leaves_when_nobody_can_need_it() {
    let files = files();
    let (stays, goes) = (live(&files, 4), live(&files, 5));
    files.drop_file(goes, Lsn::new(1000));
    let boundary = |lsn: u64| move || Lsn::new(lsn);
    let cut = files.begin_cut(boundary(999));
    let named: Vec<_> = files
        .end_cut(cut, Lsn::new(999), Lsn::ZERO)
        .iter()
        .map(|row| row.file)
        .collect();
    assert_eq!(named, [stays, goes], "redo from 999 meets the drop");
    let cut = files.begin_cut(boundary(1000));
    let named: Vec<_> = files
        .end_cut(cut, Lsn::new(1000), Lsn::ZERO)
        .iter()
        .map(|row| row.file)
        .collect();
    assert_eq!(named, [stays]);
    assert_eq!(
        files.pending_drops(),
        [PendingDrop {
            file: goes,
            last_lsn: Lsn::new(1000)
        }]
    );
    let at = Lsn::new;
    // Who came while the drop was not durable may be on his way through the file, whatever he has passed.
    let too_early = || panic!("nobody may ask who has come to it yet");
    assert!(
        files
            .leave(at(999), at(2000), too_early, |_| true)
            .is_empty()
    );
    assert!(
        files
            .leave(at(1000), at(999), too_early, |_| true)
            .is_empty()
    );
    // One that was drawn anew with each look might never be past.
    let epoch = AtomicU64::new(9);
    let next = || epoch.fetch_add(1, Ordering::SeqCst);
    let leave = |all_past: &dyn Fn(u64) -> bool| files.leave(at(1000), at(1000), next, all_past);
    assert!(leave(&|epoch| epoch != 9).is_empty());
    assert_eq!(leave(&|epoch| epoch == 9), [goes]);
    assert_eq!(
        files.pending_drops().len(),
        1,
        "it is named until it is unlinked"
    );
    let unlinks = files.gone();
    files.unlinked(goes);
    assert!(files.pending_drops().is_empty() && !files.exists(goes));
    assert_ne!(files.gone(), unlinks);
}

/// Inserters reserve places in a log and count; cuts are taken meanwhile, and held against what
/// each record said.
#[test]
fn cuts_hold_exactly_the_records_below_their_boundary() {
    let files = &files();
    let file = live(files, 6);
    // The insert position, and per inserter where its record under way begins at the least.
    let insert = &AtomicU64::new(64);
    let slots = &[const { AtomicU64::new(0) }; 3];
    let log: &Mutex<BTreeMap<u64, i64>> = &Mutex::new(BTreeMap::new());
    // Inserters go on until enough cuts were taken beside them.
    let enough = &AtomicBool::new(false);
    let insert_lsn = || Lsn::new(insert.load(Ordering::SeqCst));
    let cuts = thread::scope(|scope| {
        let inserters: Vec<_> = (0..3)
            .map(|index| {
                scope.spawn(move || {
                    for turn in 0.. {
                        if enough.load(Ordering::Relaxed) {
                            break;
                        }
                        slots[index].store(insert.load(Ordering::SeqCst), Ordering::SeqCst);
                        let start = insert.fetch_add(8, Ordering::SeqCst);
                        let delta = if turn % 3 == 0 { -1i64 } else { 1 };
                        files.add_keys(file, Lsn::new(start + 8), delta, insert_lsn);
                        log.lock().expect("no panic").insert(start + 8, delta);
                        slots[index].store(0, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        let cutter = scope.spawn(move || {
            let mut cuts: Vec<(u64, u64)> = Vec::new();
            let counts = |cuts: &[(u64, u64)]| -> BTreeSet<u64> {
                cuts.iter().map(|(_, keys)| *keys).collect()
            };
            // However seldom the inserters get their turn.
            while cuts.len() < 50 || counts(&cuts).len() < 10 {
                let cut = files.begin_cut(insert_lsn);
                let boundary = cut.boundary;
                let past = |slot: &AtomicU64| {
                    let start = slot.load(Ordering::SeqCst);
                    start == 0 || start >= boundary.get()
                };
                while !slots.iter().all(past) {
                    thread::yield_now();
                }
                let rows = files.end_cut(cut, boundary, Lsn::ZERO);
                cuts.push((boundary.get(), rows[0].key_count));
            }
            cuts
        });
        let cuts = cutter.join().expect("no panic");
        enough.store(true, Ordering::Relaxed);
        for inserter in inserters {
            inserter.join().expect("no panic");
        }
        cuts
    });
    let log = log.lock().expect("no panic");
    for (boundary, counted) in cuts {
        let expected: i64 = log.range(..=boundary).map(|(_, delta)| delta).sum();
        assert_eq!(counted as i64, expected.max(0), "cut at {boundary}");
    }
    assert_eq!(files.keys(file) as i64, log.values().sum::<i64>());
}

/// An inserter that finds a boundary being chosen is interrupted before it proposes one, until that cut
/// has ended and the next has begun, to which its record belongs.
#[test]
fn a_record_counts_in_a_cut_that_has_begun_while_it_looked_at_the_one_before() {
    let files = &files();
    let file = live(files, 6);
    let (chosen, looking, go_on) = (&Barrier::new(2), &Barrier::new(2), &Barrier::new(2));
    thread::scope(|scope| {
        let inserter = scope.spawn(|| {
            chosen.wait();
            files.add_keys(file, Lsn::new(72), 1, || {
                looking.wait();
                go_on.wait();
                Lsn::new(72)
            });
        });
        let first = files.begin_cut(|| {
            chosen.wait();
            looking.wait();
            Lsn::new(64)
        });
        let keys = |cut, redo| files.end_cut(cut, redo, Lsn::ZERO)[0].key_count;
        assert_eq!(keys(first, Lsn::new(64)), 0, "its record lies behind");
        let second = files.begin_cut(|| Lsn::new(72));
        go_on.wait();
        inserter.join().expect("no panic");
        assert_eq!(keys(second, Lsn::new(72)), 1);
    });
}

/// A redo that is cut off before it has come as far as the counts in `pg_control` do must leave them
/// there with their own place: the next one would count those records twice.
#[test]
fn counts_that_are_ahead_of_redo_stay_ahead() {
    let files = files();
    let file = FileNo::new(2);
    let ahead = Lsn::new(500);
    let known = ControlRow {
        file,
        checkpoint_count: 1,
        scn: Lsn::new(100),
        access: Access::READ_WRITE,
        stop_scn: Lsn::ZERO,
        key_count: 10,
        blocks: 1,
    };
    files.load(&known, 1, ahead).expect("a free row");
    let cut = |files: &Files| {
        let cut = files.begin_cut(|| files.counting_in_redo());
        let lsn = files.counted_in_redo(cut.boundary);
        let rows = files.end_cut(cut, Lsn::new(150), Lsn::ZERO);
        let keys = rows.iter().find(|row| row.file == file);
        (lsn, keys.map(|row| row.key_count))
    };
    // One of those that are counted already.
    files.count_in_redo(Lsn::new(200), [(file, -3)].into_iter());
    assert_eq!(cut(&files), (Some(ahead), Some(10)));
    // A file that redo has made counts from its first record on.
    let made = live(&files, 3);
    files.count_in_redo(Lsn::new(300), [(made, 1)].into_iter());
    assert_eq!(cut(&files).0, None);
    files.count_in_redo(Lsn::new(600), [(file, 1), (made, 1)].into_iter());
    assert_eq!(cut(&files), (Some(Lsn::new(600)), Some(11)));
    assert_eq!(files.keys(made), 2);
}

#[test]
fn a_crowd_of_dropped_files_asks_for_a_checkpoint() {
    let sizes = crate::Sizes {
        frames: 16,
        wal_ring_bytes: 64 << 10,
        wal_segment_bytes: 1 << 20,
    };
    let shared = crate::Shared::anonymous(sizes).expect("memory for a test");
    let slot = crate::SlotNo::of(Role::Backend(0)).expect("a slot");
    let storage = Arc::new(SimStorage::new(1));
    let config = Arc::new(Config::default());
    let store = Store::new(shared, storage, Clock::manual(1).0, slot, config);
    let (files, checkpoint) = (&store.shared.files, &store.shared.checkpoint);
    let mut numbers = 1..;
    let mut make = |is_dropped: bool| {
        let file = FileNo::new(numbers.next().expect("endless"));
        let made = store.request_create(file, 1);
        if made.is_ok() {
            files.grown(file, 128);
        }
        if made.is_ok() && is_dropped {
            files.drop_file(file, Lsn::new(100));
        }
        made.is_ok()
    };
    for _ in 0..FILES_MAX / 2 {
        assert!(make(true) && checkpoint.wanted().is_empty());
    }
    assert!(make(false));
    assert!(checkpoint.wanted().has(Flags::CAUSE_NAMESPACE));
    checkpoint.begin(Flags::NONE);
    // With a redo point above the drops, another one would not help.
    checkpoint.publish(Lsn::new(100), 1);
    assert!(make(false) && checkpoint.wanted().is_empty());
    // A table that is full asks for any that helps.
    while make(false) {}
    assert!(checkpoint.wanted().is_empty());
    files.drop_file(FileNo::new(FILES_MAX as u32), Lsn::new(101));
    assert!(!make(false) && !checkpoint.wanted().is_empty());
}
