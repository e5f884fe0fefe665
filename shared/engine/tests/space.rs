//! Blocks: regions with bitmap pages of their own, large values that come and go, a full disk.

mod support;

use rd_base::counters::Counter;
use rd_base::{Lsn, Role};
use rd_engine::{Engine, EngineError, Isolation, NamespaceId, ParkReason, View};
use rd_format::bitmap::BITMAP_BITS;
use rd_store::SlotNo;
use rd_store::checkpoint::Flags;
use rd_store::wal::Flusher;
use rd_sys::Shortage;
use rd_sys::simdisk::{Injection, IoKind, SimStorage};
use rd_sys::simproc::{Pause, Process, Progress};
use std::sync::Arc;
use support::redo::Disk;
use support::{DB0, Rig, Rng};

fn try_set(engine: &mut Engine, key: &[u8], value: &[u8]) -> Result<Lsn, EngineError> {
    let done = engine.write(DB0, &[key], &mut |access| access.put(0, value, None))?;
    Ok(done.lsn)
}

fn set(rig: &Rig, engine: &mut Engine, key: &[u8], value: &[u8]) -> Lsn {
    rig.run(|| try_set(engine, key, value))
}

fn blocks(rig: &Rig) -> u32 {
    rig.shared.files.blocks(rig.db0_file())
}

#[test]
fn a_file_goes_on_behind_its_first_region() {
    let rig = Rig::new(2048, 4 << 20);
    let mut engine = rig.engine(0);
    let file = rig.db0_file();
    let _ = rig.shared.files.request_growth(file, BITMAP_BITS + 2000);
    rig.grow_files();
    let files = &rig.shared.files;
    files.raise_hint(file, files.hint(file), BITMAP_BITS - 200);
    let value = vec![7; 100_000];
    for number in 0..60 {
        set(&rig, &mut engine, format!("key{number}").as_bytes(), &value);
        rig.flush();
    }
    let hint = rig.shared.files.hint(file);
    assert!(
        hint > BITMAP_BITS,
        "the values go on in the second region: {hint}"
    );
    let report = rig.verify();
    assert_eq!(report.overflow_pages, 60 * 13);
    for number in 0..60 {
        let key = format!("key{number}");
        let same = engine.get(DB0, key.as_bytes(), View::Newest, |read| {
            read.is_some_and(|read| read.bytes == value)
        });
        assert!(same.expect("a read").result, "{key}");
    }
}

#[test]
fn values_that_are_replaced_give_their_pages_back() {
    let rig = Rig::new(2048, 4 << 20);
    let mut engine = rig.engine(0);
    let mut rng = Rng::new(5);
    for _ in 0..3000 {
        let key = format!("key{}", rng.below(10));
        let value = vec![1; 3000 + rng.below(40_000) as usize];
        set(&rig, &mut engine, key.as_bytes(), &value);
        if rng.one_in(3) {
            rig.flush();
        }
    }
    // Ten keys of at most six pages, and as many again that wait for a flush or their turn.
    assert!(blocks(&rig) < 1000, "{} blocks", blocks(&rig));
    rig.flush();
    while engine.tidy(100) {}
    assert!(rig.verify().overflow_pages <= 60);
}

/// Keys so long that a chore for each of so many would be more than are remembered.
fn long_keys(count: u32, bytes: usize) -> Vec<Vec<u8>> {
    let long = |number| {
        let mut key = format!("{number:06}").into_bytes();
        key.resize(bytes, b'x');
        key
    };
    (0..count).map(long).collect()
}

#[test]
fn a_large_delete_gives_all_its_pages_back() {
    let rig = Rig::new(32_768, 16 << 20);
    let mut engine = rig.engine(0);
    let names = long_keys(16_000, 400);
    for key in &names {
        set(&rig, &mut engine, key, &[1; 3000]);
    }
    rig.flush();
    let keys: Vec<&[u8]> = names.iter().map(|name| &name[..]).collect();
    rig.run(|| {
        engine.write(DB0, &keys, &mut |access| {
            (0..keys.len()).try_for_each(|index| access.delete(index).map(drop))
        })
    });
    for _ in 0..100 {
        rig.flush();
        engine.tidy(100);
    }
    let report = rig.verify();
    assert_eq!((report.keys, report.overflow_pages), (0, 0));
    assert!(report.leaves < 40, "{report:?}");
}

/// A snapshot that is held for long keeps what it sees, and no more than that, however many keys are written
/// meanwhile.
#[test]
fn what_no_snapshot_sees_is_given_back_beside_much_that_one_does() {
    let rig = Rig::new(16_384, 16 << 20);
    let (mut engine, other) = (rig.engine(0), rig.engine(1));
    let keys = long_keys(2500, 2000);
    let write_all = |engine: &mut Engine| {
        for (number, key) in keys.iter().enumerate() {
            set(&rig, engine, key, &[1; 3000]);
            if number % 20 == 0 {
                rig.flush();
            }
        }
        rig.flush();
        for _ in 0..1000 {
            engine.tidy(100);
        }
        rig.verify().overflow_pages
    };
    assert_eq!(write_all(&mut engine), 2500);
    let snapshot = other.snapshot().expect("few are held");
    for _ in 0..3 {
        let pages = write_all(&mut engine);
        assert!(pages <= 2 * 2500 + 100, "{pages} pages");
    }
    drop(snapshot);
}

#[test]
fn empty_leaves_are_used_again() {
    let rig = Rig::new(4096, 4 << 20);
    let mut engine = rig.engine(0);
    // A queue: keys come at the right and go at the left.
    for number in 0..30_000u64 {
        let key = number.to_be_bytes();
        set(&rig, &mut engine, &key, &[3; 100]);
        if let Some(old) = number.checked_sub(200) {
            let old = old.to_be_bytes();
            rig.run(|| engine.write(DB0, &[&old], &mut |access| access.delete(0)));
        }
        if number % 50 == 0 {
            rig.flush();
            engine.rest();
        }
    }
    rig.flush();
    while engine.tidy(100) {}
    let report = rig.verify();
    assert_eq!(report.keys, 200);
    assert!(report.leaves < 50, "{report:?}");
    assert!(blocks(&rig) < 400, "{} blocks", blocks(&rig));
}

#[test]
fn a_full_disk_fails_the_commit_that_needs_room_and_nothing_else() {
    let disk = Arc::new(SimStorage::new(3));
    let rig = Rig::on(disk.clone(), 4096, 4 << 20);
    let mut engine = rig.engine(0);
    set(&rig, &mut engine, b"small", b"value");
    for _ in 0..40 {
        rig.flush();
    }
    disk.set_capacity(Some(disk.used_bytes() + (64 << 10)));
    let value = vec![9; 200_000];
    let mut refused = None;
    for number in 0..200 {
        let key = format!("large{number}");
        loop {
            match try_set(&mut engine, key.as_bytes(), &value) {
                Ok(_) => break,
                Err(EngineError::Park(ParkReason::FileGrowth(_))) => rig.grow_files(),
                Err(EngineError::Park(ParkReason::WalRing)) => rig.flush(),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.expect("there is room for a few only");
    assert!(
        matches!(
            refused,
            EngineError::DiskFull { .. } | EngineError::Park(ParkReason::WalSegments)
        ),
        "{refused:?}"
    );
    let read = engine.get(DB0, b"small", View::Newest, |read| read.is_some());
    assert!(read.expect("a read").result);
    disk.set_capacity(None);
    set(&rig, &mut engine, b"after", &value);
    rig.flush();
    rig.verify();
}

#[test]
fn a_commit_that_waits_for_pages_is_woken_by_whoever_gives_them_back() {
    let rig = Rig::new(512, 4 << 20);
    let mut engine = rig.engine(0);
    let keys: Vec<Vec<u8>> = (0..300)
        .map(|number| format!("{number:01500}").into_bytes())
        .collect();
    for key in &keys {
        set(&rig, &mut engine, key, b"value");
    }
    rig.flush();
    // More leaves than come with one claim.
    let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).step_by(5).collect();
    let (namespaces, procs) = (&rig.shared.namespaces, &rig.shared.procs);
    let others = namespaces.try_take_pages(procs, 80, 128);
    let slot = SlotNo::of(Role::Backend(0)).expect("a slot");
    procs.set_parked(slot, true);
    for _ in 0..2 {
        procs.event(slot).take();
        let mut put = |access: &mut rd_engine::Access<'_>| access.put(0, b"new", None);
        let parked = engine.write(DB0, &keys, &mut put);
        assert!(
            matches!(parked, Err(EngineError::Park(ParkReason::Pages))),
            "{parked:?}"
        );
        assert!(!procs.event(slot).take(), "nobody has given any back");
    }
    drop(others.expect("nobody else holds any"));
    assert!(procs.event(slot).take(), "now there are enough");
    let mut put = |access: &mut rd_engine::Access<'_>| access.put(0, b"new", None);
    engine.write(DB0, &keys, &mut put).expect("enough pages");
}

/// A record names pages, not versions: more versions than it can name pages fit one commit.
#[test]
fn a_commit_has_as_many_versions_as_its_pages_hold() {
    let rig = Rig::new(4096, 8 << 20);
    let mut engine = rig.engine(0);
    let names: Vec<String> = (0..70_000).map(|number| format!("{number:05}")).collect();
    let keys: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    rig.run(|| {
        engine.write(DB0, &keys, &mut |access| {
            (0..keys.len()).try_for_each(|index| access.put(index, b"", None))
        })
    });
    assert_eq!(rig.verify().keys, keys.len() as u64);
    rig.flush();
    rig.run(|| {
        engine.write(DB0, &keys, &mut |access| {
            (0..keys.len()).try_for_each(|index| access.delete(index).map(drop))
        })
    });
    assert_eq!(rig.verify().keys, 0);
    rig.flush();
    let mut disk = Disk::new(&rig);
    disk.redo(&rig);
    assert!(disk.content(&rig, rig.db0_file()).is_empty());
}

#[test]
fn limits_are_errors() {
    let rig = Rig::new(512, 4 << 20);
    let mut engine = rig.engine(0);
    let long = vec![b'k'; rd_base::limits::KEY_BYTES_MAX + 1];
    let error = try_set(&mut engine, &long, b"").expect_err("the key is too long");
    assert!(matches!(error, EngineError::KeyTooLong { .. }), "{error}");
    let error = try_set(&mut engine, b"k", &vec![0; (16 << 20) + 1]).expect_err("too large");
    assert!(
        matches!(error, EngineError::ValueTooLarge { .. }),
        "{error}"
    );
    // More pages than a quarter of the pool.
    let error = try_set(&mut engine, b"k", &vec![0; 2 << 20]).expect_err("too many pages");
    assert!(
        matches!(error, EngineError::TransactionTooLarge { .. }),
        "{error}"
    );
    // But to find that it is not there, or to delete it, changes nothing.
    for is_within in [false, true] {
        if is_within {
            let begun = engine.begin(Isolation::Serializable, false, View::Newest);
            engine.attach(Box::new(begun.expect("a transaction")));
        }
        let keys = [&b"there"[..], &long];
        let without_a_look = engine.write(DB0, &keys[1..], &mut |access| access.delete(0));
        assert!(!without_a_look.expect("nothing is done").result);
        if is_within {
            let transaction = engine.detach().expect("it was attached");
            assert!(!transaction.has_written());
            engine.attach(transaction);
        }
        let done = engine.write(DB0, &keys, &mut |access| {
            assert_eq!(access.newest(1)?, None);
            assert!(!access.delete(1)?);
            access.put(0, b"", None)
        });
        done.unwrap_or_else(|error| panic!("{error}"));
        let put = try_set(&mut engine, &long, b"").expect_err("the key is too long");
        assert!(matches!(put, EngineError::KeyTooLong { .. }), "{put}");
    }
    let transaction = engine.detach().expect("it was attached");
    rig.run(|| engine.commit(&transaction, &[]));
    rig.run(|| engine.write(DB0, &[b"there"], &mut |access| access.delete(0)));
    let longest = vec![b'k'; rd_base::limits::KEY_BYTES_MAX];
    set(&rig, &mut engine, &longest, b"value");
    set(&rig, &mut engine, b"", b"the empty key is a key");
    assert_eq!(rig.verify().keys, 2);
}

#[test]
fn writes_are_refused_while_checkpoints_fail_and_reads_are_not() {
    let rig = Rig::new(512, 4 << 20);
    let mut engine = rig.engine(0);
    set(&rig, &mut engine, b"key", b"before");
    let (checkpoint, procs) = (&rig.shared.checkpoint, &rig.shared.procs);
    checkpoint.begin(Flags::NONE);
    checkpoint.fail(procs, "no room", true);
    let error = try_set(&mut engine, b"key", b"after").expect_err("read-only");
    assert!(matches!(error, EngineError::ReadOnly), "{error}");
    let error = engine.flush_namespace(DB0).expect_err("read-only");
    assert!(matches!(error, EngineError::ReadOnly), "{error}");
    // A program that writes nothing is a read.
    let read = engine.write(DB0, &[b"key"], &mut |access| {
        Ok(access.newest(0)?.map(<[u8]>::to_vec))
    });
    assert_eq!(
        read.expect("a read").result.as_deref(),
        Some(&b"before"[..])
    );
    checkpoint.begin(Flags::NONE);
    checkpoint.succeed(procs, Lsn::MAX, 1);
    set(&rig, &mut engine, b"key", b"after");
}

/// The empty key is a key: bounds between its versions are not the first child's.
#[test]
fn leaves_with_old_versions_of_the_empty_key_are_taken_out_in_redo_too() {
    let rig = Rig::new(512, 4 << 20);
    let mut engine = rig.engine(0);
    let mut snapshots = Vec::new();
    for _ in 0..12 {
        set(&rig, &mut engine, b"", &[5; 1900]);
        rig.flush();
        snapshots.push(engine.snapshot().expect("few are held"));
    }
    assert!(rig.verify().leaves > 3);
    drop(snapshots);
    for _ in 0..4 {
        set(&rig, &mut engine, b"", b"x");
        rig.run(|| engine.write(DB0, &[b""], &mut |access| access.delete(0)));
        rig.flush();
        while engine.tidy(100) {
            rig.flush();
        }
        engine.rest();
    }
    let removed = rig.shared.stats.get(Counter::LeavesRemoved);
    assert!(removed > 1, "{removed} leaves taken out");
    rig.flush();
    let mut disk = Disk::new(&rig);
    disk.redo(&rig);
    assert_eq!(disk.content(&rig, rig.db0_file()), []);
}

/// What a snapshot still sees is not looked at again and again: the process could never sleep.
#[test]
fn chores_that_a_snapshot_is_in_the_way_of_wait_for_its_end() {
    let rig = Rig::new(512, 4 << 20);
    let (mut engine, other) = (rig.engine(0), rig.engine(1));
    let rest_after = |engine: &mut Engine| (0..20).find(|_| !engine.tidy(100));
    let large = [6; 5000];
    for key in [b"a", b"b"] {
        set(&rig, &mut engine, key, &large);
    }
    rig.flush();
    let first = other.snapshot().expect("few are held");
    set(&rig, &mut engine, b"a", b"small");
    rig.flush();
    assert!(rest_after(&mut engine).is_some(), "a snapshot sees it");
    let second = other.snapshot().expect("few are held");
    set(&rig, &mut engine, b"b", b"small");
    rig.flush();
    rig.run(|| engine.write(DB0, &[b"a"], &mut |access| access.delete(0)));
    rig.flush();
    for _ in 0..50 {
        assert!(rest_after(&mut engine).is_some(), "snapshots see both");
    }
    let written = rig.shared.wal.insert_lsn();
    assert!(!engine.tidy(100));
    assert_eq!(rig.shared.wal.insert_lsn(), written, "nothing to be done");
    assert_eq!(rig.verify().overflow_pages, 2);
    drop(first);
    assert!(rest_after(&mut engine).is_some());
    assert_eq!(rig.verify().overflow_pages, 1, "only the second sees b's");
    drop(second);
    assert!(rest_after(&mut engine).is_some());
    let report = rig.verify();
    assert_eq!((report.overflow_pages, report.versions), (0, 1));
}

#[test]
fn old_versions_on_further_leaves_go_when_nobody_sees_them() {
    let rig = Rig::new(512, 4 << 20);
    let mut engine = rig.engine(0);
    set(&rig, &mut engine, b"other", b"value");
    let mut snapshots = Vec::new();
    for number in 0..60 {
        // Few of them to a leaf, then many.
        let value = vec![number; if number < 30 { 1900 } else { 300 }];
        set(&rig, &mut engine, b"key", &value);
        rig.flush();
        snapshots.push(engine.snapshot().expect("few are held"));
    }
    assert!(rig.verify().leaves > 8);
    let settle = |engine: &mut Engine| {
        rig.flush();
        while engine.tidy(100) {
            rig.flush();
        }
        engine.rest();
        rig.verify()
    };
    assert_eq!(settle(&mut engine).versions, 61, "all are seen");
    snapshots.drain(..30).for_each(drop);
    assert!(settle(&mut engine).versions < 40, "half of them are seen");
    drop(snapshots);
    let report = settle(&mut engine);
    assert_eq!(report.versions, 2);
    assert!(report.leaves <= 2, "{report:?}");
    rig.run(|| engine.write(DB0, &[b"key"], &mut |access| access.delete(0)));
    settle(&mut engine);
    let mut disk = Disk::new(&rig);
    rig.flush();
    disk.redo(&rig);
    let content = disk.content(&rig, rig.db0_file());
    assert_eq!(content, [(b"other".to_vec(), b"value".to_vec())]);
}

#[test]
fn operations_on_two_files_that_cannot_grow_each_get_their_answer() {
    let disk = Arc::new(SimStorage::new(4));
    let rig = Rig::on(disk.clone(), 4096, 4 << 20);
    let mut engine = rig.engine(0);
    for _ in 0..40 {
        rig.flush();
    }
    disk.set_capacity(Some(disk.used_bytes()));
    let value = vec![9; 2_000_000];
    let other = NamespaceId::new(1).expect("there are 16 databases");
    let (mut write, mut create) = (None, None);
    for _ in 0..10 {
        if write.is_none() {
            match try_set(&mut engine, b"large", &value) {
                Err(EngineError::Park(ParkReason::FileGrowth(_))) => {}
                done => write = Some(done),
            }
        }
        if create.is_none() {
            match engine.write(other, &[b"a"], &mut |access| access.put(0, b"1", None)) {
                Err(EngineError::Park(ParkReason::FileCreation(_))) => {}
                done => create = Some(done),
            }
        }
        rig.grow_files();
    }
    assert!(matches!(write, Some(Err(EngineError::DiskFull { .. }))));
    assert!(matches!(create, Some(Err(EngineError::DiskFull { .. }))));
    disk.set_capacity(None);
    set(&rig, &mut engine, b"large", &value);
    rig.run(|| engine.flush_namespace(DB0));
    rig.verify();
}

/// What keeps a file from being made is told as what it is, and is tried again.
#[test]
fn a_file_that_cannot_be_made_says_why_and_is_asked_for_again() {
    let disk = Arc::new(SimStorage::new(4));
    let rig = Rig::on(disk.clone(), 4096, 4 << 20);
    let mut engine = rig.engine(0);
    let other = NamespaceId::new(1).expect("there are 16 databases");
    let mut refusal = |errno| {
        disk.inject(Injection {
            kind: IoKind::Create,
            path_contains: "base/".to_owned(),
            skip: 0,
            times: 1,
            errno,
        });
        loop {
            match engine.write(other, &[b"a"], &mut |access| access.put(0, b"1", None)) {
                Err(EngineError::Park(reason)) => rig.unpark(reason),
                Err(refused) => return refused,
                Ok(_) => panic!("errno {errno}: it was made"),
            }
        }
    };
    let short = refusal(24);
    assert!(
        matches!(
            &short,
            EngineError::Shortage {
                shortage: Shortage::ProcessDescriptors,
                ..
            }
        ),
        "{short}"
    );
    let text = short.to_string();
    assert!(
        text.contains("relation file") && text.contains("ulimit -n"),
        "{text}"
    );
    assert!(matches!(refusal(28), EngineError::DiskFull { .. }));
    let broken = refusal(5);
    assert!(matches!(broken, EngineError::CannotGrow { .. }), "{broken}");
    rig.run(|| engine.write(other, &[b"a"], &mut |access| access.put(0, b"1", None)));
    rig.verify();
}

/// Writes until the log cannot grow any more.
fn fill_log(rig: &Rig, engine: &mut Engine) {
    for bytes in [1800, 1] {
        let refused = (0..20_000).find_map(|number| {
            let key = format!("key{}", number % 1000);
            loop {
                match try_set(engine, key.as_bytes(), &vec![1; bytes]) {
                    Ok(_) => return None,
                    Err(EngineError::Park(_)) => rig.flush(),
                    Err(error) => return Some(error),
                }
            }
        });
        let refused = refused.expect("the log cannot take so much");
        assert!(matches!(refused, EngineError::DiskFull { .. }), "{refused}");
    }
}

/// The log cannot grow: what gives room back still can, or waits, and is not forgotten.
#[test]
fn a_full_log_stops_writes_but_neither_a_drop_nor_chores_for_good() {
    let disk = Arc::new(SimStorage::new(5));
    let rig = Rig::on(disk.clone(), 4096, 4 << 20);
    let mut engine = rig.engine(0);
    let file = rig.db0_file();
    let _ = rig.shared.files.request_growth(file, 4000);
    rig.grow_files();
    let large = vec![9; 5000];
    for number in 0..20 {
        let key = format!("large{number}");
        set(&rig, &mut engine, key.as_bytes(), &large);
    }
    rig.flush();
    let snapshot = engine.snapshot().expect("few are held");
    for number in 0..20 {
        let key = format!("large{number}");
        set(&rig, &mut engine, key.as_bytes(), b"small");
    }
    rig.flush();
    while engine.tidy(100) {}
    disk.set_capacity(Some(disk.used_bytes()));
    fill_log(&rig, &mut engine);

    drop(snapshot);
    assert!(!engine.tidy(100), "it would need log");
    assert_eq!(rig.verify().overflow_pages, 20);
    disk.set_capacity(None);
    rig.flush();
    while engine.tidy(100) {
        rig.flush();
    }
    assert_eq!(rig.verify().overflow_pages, 0, "the chores were kept");

    disk.set_capacity(Some(disk.used_bytes()));
    fill_log(&rig, &mut engine);
    engine
        .flush_namespace(DB0)
        .expect("the reserve is there for it");
    assert_eq!(engine.count(DB0).expect("a count").result, 0);
    rig.flush();
    rig.verify();
}

/// Overwrites all keys in their order, as a client does that pipelines: nothing is flushed but
/// once in a while, and when a commit waits for it. Returns how often one did.
fn overwrite_all(rig: &Rig, engine: &mut Engine, keys: u32) -> u32 {
    let mut waits = 0;
    for number in 0..keys {
        loop {
            match try_set(engine, &number.to_be_bytes(), &[2; 100]) {
                Ok(_) => break,
                Err(EngineError::Park(reason)) => {
                    waits += u32::from(matches!(reason, ParkReason::Durable(_)));
                    rig.unpark(reason);
                }
                Err(error) => panic!("{error}"),
            }
        }
        if number % 2000 == 0 {
            rig.flush();
            engine.rest();
        }
    }
    rig.flush();
    while engine.tidy(1000) {
        rig.flush();
    }
    engine.rest();
    waits
}

#[test]
fn overwriting_faster_than_the_disk_does_not_cut_leaves_that_have_room() {
    const KEYS: u32 = 20_000;
    for in_order in [true, false] {
        let rig = Rig::new(8192, 16 << 20);
        let mut engine = rig.engine(0);
        for number in 0..KEYS {
            // A step that comes by all of them.
            let number = if in_order {
                number
            } else {
                number * 7919 % KEYS
            };
            set(&rig, &mut engine, &number.to_be_bytes(), &[1; 100]);
            if number % 100 == 0 {
                rig.flush();
            }
        }
        rig.flush();
        let before = rig.verify().leaves;
        for _ in 0..3 {
            let waits = overwrite_all(&rig, &mut engine, KEYS);
            let leaves = rig.verify().leaves;
            // Leaves filled in order are packed: they are cut, once for all, rather than waited for
            // every few commits.
            let bound = if in_order { 2 * before } else { before };
            assert!(leaves <= bound + bound / 50, "{leaves} of {before} leaves");
            assert!(waits < KEYS / 25, "{waits} waits");
        }
    }
}

#[test]
fn who_has_waited_for_room_once_does_not_wait_again() {
    let rig = Rig::new(512, 4 << 20);
    let (mut engine, mut other) = (rig.engine(0), rig.engine(1));
    // Writes its own keys until it has to wait.
    let fill = |engine: &mut Engine, prefix: &str| {
        (0..14).find_map(|number| {
            let key = format!("{prefix}{number}");
            match try_set(engine, key.as_bytes(), &[1; 200]) {
                Err(EngineError::Park(ParkReason::Durable(lsn))) => Some((key, lsn)),
                done => {
                    done.expect("a commit");
                    None
                }
            }
        })
    };
    for prefix in ["mine", "others"] {
        assert!(fill(&mut engine, prefix).is_none(), "they are new");
    }
    rig.flush();
    let (key, lsn) = fill(&mut engine, "mine").expect("the leaf is full");
    assert!(lsn > rig.durable());
    let again = try_set(&mut engine, key.as_bytes(), &[2; 200]);
    assert!(
        matches!(again, Err(EngineError::Park(ParkReason::Durable(same))) if same == lsn),
        "not yet: {again:?}"
    );
    assert_eq!(rig.verify().leaves, 1);
    rig.flush();
    fill(&mut other, "others").expect("the leaf is full again");
    try_set(&mut engine, key.as_bytes(), &[2; 200]).expect("it has waited");
    assert_eq!(rig.verify().leaves, 2);
}

/// A flush has announced how far it goes, and has not come there: who reads what is durable reads at the
/// old number still, while pruning keeps what the new one shows.
#[test]
fn what_is_durable_stays_while_a_flush_is_under_way() {
    let rig = Rig::new(512, 4 << 20);
    let mut engine = rig.engine(0);
    let key = b"overwritten";
    set(&rig, &mut engine, key, &[1; 900]);
    rig.flush();
    let durable = rig.durable();
    let announced = set(&rig, &mut engine, key, &[2; 900]);
    let store = rig.store(Role::Walwriter);
    let mut flush = Process::new(move || Flusher::for_store(&store).flush_all());
    // Until it writes.
    while flush.resume() != Progress::Paused(Pause::Io) {}
    // Many times what the leaf can hold.
    for number in 3..100 {
        try_set(&mut engine, key, &[number; 900]).expect("room is made");
    }
    assert_eq!(rig.durable(), durable);
    let shown = |engine: &Engine| {
        let read = engine.get(DB0, key, View::Durable, |value| {
            value.and_then(|value| value.bytes.first().copied())
        });
        read.expect("a read").result
    };
    assert_eq!(shown(&engine), Some(1), "at {durable}");
    while flush.resume() != Progress::Ended {}
    assert!(rig.durable() >= announced);
    assert_eq!(shown(&engine), Some(2), "at {}", rig.durable());
}

/// A split that the parent was not told of would never be finished.
#[test]
fn every_page_is_known_to_its_parent_or_marked_as_not_known() {
    let rig = Rig::new(512, 4 << 20);
    let mut engine = rig.engine(0);
    for number in 0..60_u32 {
        set(&rig, &mut engine, &number.to_be_bytes(), &[1; 900]);
        let report = rig.verify();
        assert!(report.is_clean(), "key {number}: {:#?}", report.problems);
    }
    assert!(rig.verify().leaves > 5);
}
