//! FLUSHDB: old snapshots read the old file, new ones the new; parked steps; counts.

mod support;

use rd_base::Lsn;
use rd_engine::{Chunk, Engine, EngineError, Isolation, NamespaceId, ParkReason, View};
use rd_format::Access;
use rd_store::files::FileState;
use rd_store::namespaces::PAST;
use support::{DB0, Rig};

fn set(rig: &Rig, engine: &mut Engine, key: &[u8], value: &[u8]) -> Lsn {
    rig.run(|| engine.write(DB0, &[key], &mut |access| access.put(0, value, None)))
        .lsn
}

fn get(engine: &Engine, key: &[u8], view: View<'_>) -> Option<Vec<u8>> {
    let copy = |value: Option<rd_engine::Value<'_>>| value.map(|value| value.bytes.to_vec());
    engine.get(DB0, key, view, copy).expect("a read").result
}

fn count_range(engine: &Engine, view: View<'_>) -> usize {
    let mut cursor = engine
        .range(DB0, b"", None, u64::MAX, view)
        .expect("a cursor");
    let mut count = 0;
    let chunk = Chunk {
        entries: 7,
        bytes: usize::MAX,
    };
    while engine
        .range_next(&mut cursor, chunk, &mut |_, _| count += 1)
        .expect("a chunk")
    {}
    count
}

#[test]
fn a_flushed_database_is_empty_for_who_comes_later_and_whole_for_who_came_before() {
    let rig = Rig::new(512, 1 << 20);
    let (mut engine, mut other) = (rig.engine(0), rig.engine(1));
    for number in 0..500 {
        set(
            &rig,
            &mut engine,
            format!("key{number}").as_bytes(),
            b"value",
        );
    }
    rig.flush();
    let old_file = rig.db0_file();
    let before = other.snapshot().expect("a snapshot");
    let mut cursor = other
        .range(DB0, b"", None, u64::MAX, View::Durable)
        .expect("a cursor");
    let flushed = engine.flush_namespace(DB0).expect("at once");
    assert!(flushed.lsn > rig.durable());
    let count = engine.count(DB0).expect("a count");
    assert_eq!((count.result, count.depends_on), (0, flushed.lsn));

    // Not durable yet: a crash would bring the keys back, so readers still see them.
    assert_eq!(get(&other, b"key7", View::Durable), Some(b"value".to_vec()));
    assert_eq!(get(&other, b"key7", View::Newest), None);
    let read = other
        .get(DB0, b"key7", View::Newest, |_| ())
        .expect("a read");
    assert_eq!(
        read.depends_on, flushed.lsn,
        "that it is gone depends on the flush"
    );
    let absent = other
        .write(DB0, &[b"key7"], &mut |access| access.delete(0))
        .expect("nothing to do");
    assert_eq!((absent.result, absent.lsn), (false, Lsn::ZERO));
    assert_eq!(
        absent.depends_on, flushed.lsn,
        "nor does a program find what is gone"
    );
    assert_eq!(count_range(&other, View::Durable), 500);
    assert_eq!(count_range(&other, View::Newest), 0);

    let parked = engine.write(DB0, &[b"key7"], &mut |access| access.put(0, b"", None));
    assert!(
        matches!(parked, Err(EngineError::Park(ParkReason::FileCreation(_)))),
        "the checkpointer makes the file: {parked:?}"
    );
    set(&rig, &mut engine, b"key7", b"new");
    rig.flush();
    assert_eq!(get(&other, b"key7", View::Durable), Some(b"new".to_vec()));
    assert_eq!(get(&other, b"key8", View::Durable), None);
    assert_eq!(
        get(&other, b"key8", View::At(&before)),
        Some(b"value".to_vec())
    );
    assert_eq!(count_range(&other, View::At(&before)), 500);
    let mut count = 0;
    let chunk = Chunk {
        entries: 100,
        bytes: usize::MAX,
    };
    while other
        .range_next(&mut cursor, chunk, &mut |_, _| count += 1)
        .expect("a chunk")
    {}
    assert_eq!(
        count, 500,
        "a walk that began before goes on in the old file"
    );
    assert_eq!(rig.shared.files.state(old_file), FileState::Dropped);
    assert_eq!(rig.verify().keys, 1);
    let count = engine.count(DB0).expect("a count");
    assert_eq!((count.result, count.depends_on), (1, Lsn::ZERO));
}

#[test]
fn changes_wait_for_the_log_before_one_that_is_durable_would_be_forgotten() {
    let rig = Rig::new(512, 1 << 20);
    let (mut engine, other) = (rig.engine(0), rig.engine(1));
    set(&rig, &mut engine, b"a", b"1");
    rig.flush();
    let mut parked = None;
    let mut changes = 0;
    while parked.is_none() {
        changes += 1;
        let done = if changes % 2 == 1 {
            engine.flush_namespace(DB0).map(|done| done.lsn)
        } else {
            engine
                .write(DB0, &[b"a"], &mut |access| access.put(0, b"2", None))
                .map(|done| done.lsn)
        };
        match done {
            Ok(_) => {}
            Err(EngineError::Park(ParkReason::Durable(_))) => parked = Some(changes),
            Err(EngineError::Park(reason)) => {
                rig.unpark(reason);
                changes -= 1;
            }
            Err(error) => panic!("{error}"),
        }
        assert_eq!(get(&other, b"a", View::Durable), Some(b"1".to_vec()));
    }
    assert!(parked > Some(4), "{parked:?}");
    for round in 0..50 {
        set(&rig, &mut engine, b"a", b"2");
        rig.run(|| engine.flush_namespace(DB0));
        assert_eq!(get(&engine, b"a", View::Newest), None, "round {round}");
    }
    rig.flush();
    rig.verify();
}

#[test]
fn who_reads_what_was_replaced_too_often_since_runs_again() {
    let rig = Rig::new(512, 1 << 20);
    let (mut engine, mut other) = (rig.engine(0), rig.engine(1));
    let twins = [1, 2].map(|number| NamespaceId::database(number).expect("there are 16"));
    for (namespace, value) in twins.into_iter().zip([b"1", b"2"]) {
        rig.run(|| engine.write(namespace, &[b"a"], &mut |access| access.put(0, value, None)));
    }
    let mut runs = 0;
    let committed = engine.write_across(&mut |engine| {
        runs += 1;
        // Afterwards they are held alone.
        if runs <= 3 {
            for _ in 0..=PAST {
                rig.run(|| other.swap_namespaces(twins[0], twins[1]));
            }
        }
        let copied = engine.write(twins[0], &[b"a"], &mut |access| {
            Ok(access.newest(0)?.map(<[u8]>::to_vec))
        })?;
        let value = copied.result.expect("it is there");
        engine.write(twins[1], &[b"b"], &mut |access| access.put(0, &value, None))?;
        Ok((value, copied.depends_on))
    });
    let committed = committed.expect("nobody is in the way in the end");
    assert_eq!((runs, &committed.result[..]), (4, &b"2"[..]));
    assert!(committed.lsn > Lsn::ZERO);
    rig.flush();
    rig.verify();
}

#[test]
fn who_watches_at_a_snapshot_that_is_too_old_is_told_so() {
    let rig = Rig::new(512, 1 << 20);
    let (mut engine, mut other) = (rig.engine(0), rig.engine(1));
    let twin = NamespaceId::database(1).expect("there are 16");
    set(&rig, &mut engine, b"a", b"1");
    let first = engine.snapshot_newest().expect("a snapshot");
    for _ in 0..=PAST {
        rig.run(|| other.swap_namespaces(DB0, twin));
    }
    let seen = engine.watch(DB0, b"a", &first);
    assert!(matches!(seen, Err(EngineError::Replaced)), "{seen:?}");
    let newest = engine.snapshot_newest().expect("a snapshot");
    engine.watch(DB0, b"a", &newest).expect("it is known");
}

/// What `others` do between a WATCH of a key that is not there and its EXEC: whether EXEC sees it.
fn is_seen_by_exec(others: &mut dyn FnMut(&Rig, &mut Engine)) -> bool {
    let rig = Rig::new(512, 1 << 20);
    let (mut engine, mut other) = (rig.engine(0), rig.engine(1));
    set(&rig, &mut other, b"first", b"1");
    let first = engine.snapshot_newest().expect("a snapshot");
    let seen = engine.watch(DB0, b"k", &first).expect("it is looked at");
    others(&rig, &mut other);
    let begun = engine.begin(Isolation::Exec, false, View::Newest);
    engine.attach(Box::new(begun.expect("a snapshot")));
    let change = engine.changed_since(DB0, b"k", &seen).expect("a look");
    engine.detach();
    change.is_some()
}

#[test]
fn a_key_that_came_before_its_database_was_swapped_is_seen_by_who_watches_it() {
    let db1 = NamespaceId::database(1).expect("there are 16");
    let put_in = |rig: &Rig, engine: &mut Engine, namespace, key: &[u8]| {
        rig.run(|| engine.write(namespace, &[key], &mut |access| access.put(0, b"2", None)));
        rig.flush();
    };
    assert!(is_seen_by_exec(&mut |rig, engine| {
        put_in(rig, engine, DB0, b"k");
        rig.run(|| engine.swap_namespaces(DB0, db1));
        // The old version goes when its leaf needs the room.
        for _ in 0..1000 {
            put_in(rig, engine, db1, b"k");
        }
    }));
    assert!(is_seen_by_exec(&mut |rig, engine| {
        put_in(rig, engine, DB0, b"k");
        rig.run(|| engine.swap_namespaces(DB0, db1));
        for _ in 0..1000 {
            put_in(rig, engine, db1, b"k");
        }
        rig.run(|| engine.flush_namespace(db1));
    }));
    assert!(is_seen_by_exec(&mut |rig, engine| {
        put_in(rig, engine, db1, b"k");
        rig.run(|| engine.swap_namespaces(DB0, db1));
    }));
    assert!(!is_seen_by_exec(&mut |rig, engine| {
        put_in(rig, engine, DB0, b"another");
        rig.run(|| engine.swap_namespaces(DB0, db1));
        put_in(rig, engine, db1, b"another");
    }));
}

/// The next one in its place may be offline, or read only: that is another's.
#[test]
fn who_asks_for_a_namespace_that_was_dropped_is_not_told_of_another() {
    let rig = Rig::new(512, 1 << 20);
    let mut engine = rig.engine(0);
    let create = |engine: &mut Engine, name: &[u8]| {
        let id = rig.run(|| engine.create_namespace(name)).result;
        rig.flush();
        id
    };
    let old = create(&mut engine, b"old");
    rig.run(|| engine.drop_namespace(b"old"));
    rig.flush();
    let new = create(&mut engine, b"new");
    assert_eq!(old.index(), new.index());
    for access in [Access::OFFLINE, Access::READ_ONLY] {
        rig.run(|| engine.set_access(new, access));
        rig.flush();
        let snapshot = engine.snapshot().expect("few are held");
        let is_gone = |error: EngineError| {
            assert!(
                matches!(error, EngineError::NoNamespace),
                "{access:?}: {error}"
            );
        };
        for view in [View::Durable, View::Newest, View::At(&snapshot)] {
            let get = engine.get(old, b"key", view, |_| ());
            is_gone(get.expect_err("a read"));
            let range = engine.range(old, b"", None, 1, view);
            is_gone(range.err().expect("a walk"));
        }
        is_gone(engine.count(old).expect_err("a count"));
        is_gone(engine.random_place(old, 1).expect_err("a place"));
        let put = engine.write(old, &[b"key"], &mut |access| access.put(0, b"", None));
        is_gone(put.expect_err("a write"));
        is_gone(engine.flush_namespace(old).expect_err("a flush"));
        let swap = engine.swap_namespaces(old, NamespaceId::DB0);
        is_gone(swap.expect_err("a swap"));
    }
}
