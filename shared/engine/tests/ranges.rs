//! Walks through ranges: what they cost, and that they yield where there is little to show.

mod support;

use rd_base::Role;
use rd_base::counters::Counter;
use rd_engine::{Chunk, Engine, Isolation, View};
use rd_store::{SlotNo, Store};
use rd_sys::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use support::{DB0, Rig};

const ALL: Chunk = Chunk {
    entries: u64::MAX,
    bytes: usize::MAX,
};

fn set(rig: &Rig, engine: &mut Engine, key: &[u8], value: &[u8], expiry_ms: Option<u64>) {
    rig.run(|| engine.write(DB0, &[key], &mut |access| access.put(0, value, expiry_ms)));
}

fn key_of(number: u32) -> Vec<u8> {
    format!("key{number:06}").into_bytes()
}

#[test]
fn counting_reads_no_value() {
    let rig = Rig::new(4096, 4 << 20);
    let mut engine = rig.engine(0);
    let value = vec![3; 300_000];
    for number in 0..50 {
        set(&rig, &mut engine, &key_of(number), &value, None);
    }
    set(&rig, &mut engine, &key_of(50), b"small", None);
    rig.flush();
    let mut cursor = engine
        .range(DB0, b"", None, u64::MAX, View::Durable)
        .expect("a cursor");
    let mut again = cursor.clone();
    let fetched = |rig: &Rig| {
        rig.shared.stats.get(Counter::BufferHits) + rig.shared.stats.get(Counter::PagesRead)
    };
    let before = fetched(&rig);
    let mut seen = Vec::new();
    while engine
        .range_next_keys(&mut cursor, ALL, &mut |key, meta| {
            seen.push((key.to_vec(), meta.bytes));
        })
        .expect("a chunk")
    {}
    let pages = fetched(&rig) - before;
    assert!(pages < 10, "{pages} pages looked at");
    assert_eq!(seen.len(), 51);
    assert_eq!(seen[7], (key_of(7), value.len()));
    assert_eq!(seen[50], (key_of(50), 5));
    // The copy has not moved, and sees the same.
    let mut values = 0;
    while engine
        .range_next(&mut again, ALL, &mut |key, value| {
            assert_eq!((key, value.len()), (&seen[values].0[..], seen[values].1));
            values += 1;
        })
        .expect("a chunk")
    {}
    assert_eq!(values, seen.len());
}

#[test]
fn a_walk_over_deleted_keys_yields() {
    let rig = Rig::new(4096, 16 << 20);
    let mut engine = rig.engine(0);
    // Who holds this sees what was deleted: the tombstones stay.
    let mut snapshot = None;
    for round in 0..2 {
        for batch in 0..1000 {
            let keys: Vec<Vec<u8>> = (0..100).map(|key| key_of(batch * 100 + key)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            rig.run(|| {
                engine.write(DB0, &keys, &mut |access| {
                    for index in 0..access.len() {
                        match round {
                            0 => access.put(index, b"", None)?,
                            _ => drop(access.delete(index)?),
                        }
                    }
                    Ok(())
                })
            });
        }
        rig.flush();
        if round == 0 {
            snapshot = Some(engine.snapshot().expect("few are held"));
        }
    }
    set(&rig, &mut engine, b"last", b"value", None);
    rig.flush();
    let chunk = Chunk {
        entries: 512,
        bytes: usize::MAX,
    };
    let mut cursor = engine
        .range(DB0, b"", None, u64::MAX, View::Durable)
        .expect("a cursor");
    let (mut turns, mut seen) = (1, Vec::new());
    while engine
        .range_next(&mut cursor, chunk, &mut |key, _| seen.push(key.to_vec()))
        .expect("a chunk")
    {
        turns += 1;
    }
    assert!(turns >= 10, "{turns} turns");
    assert_eq!(seen, [b"last"]);
    drop(snapshot);
}

/// Begins a transaction of which all that follows is part.
fn begin(engine: &mut Engine) {
    let transaction = engine
        .begin(Isolation::Snapshot, false, View::Durable)
        .expect("a snapshot");
    engine.attach(Box::new(transaction));
}

/// An engine that goes by this clock.
fn engine_by(rig: &Rig, clock: &Clock) -> Engine {
    let slot = SlotNo::of(Role::Backend(0)).expect("a slot");
    let (shared, storage) = (Arc::clone(&rig.shared), Arc::clone(&rig.storage));
    let config = Arc::clone(&rig.config);
    Engine::open(Store::new(shared, storage, clock.clone(), slot, config))
}

#[test]
fn a_walk_sees_one_time_of_day() {
    let rig = Rig::new(512, 4 << 20);
    let (clock, time_ns) = Clock::manual(1_000_000_000);
    let mut engine = engine_by(&rig, &clock);
    let expiry = clock.wall_us() / 1000 + 200;
    for number in 0..10 {
        set(&rig, &mut engine, &key_of(number), b"value", Some(expiry));
    }
    rig.flush();
    let mut cursor = engine
        .range(DB0, b"", None, u64::MAX, View::Durable)
        .expect("a cursor");
    time_ns.fetch_add(1_000_000_000, Ordering::SeqCst);
    let mut count = 0;
    while engine
        .range_next(&mut cursor, ALL, &mut |_, _| count += 1)
        .expect("a chunk")
    {}
    assert_eq!(count, 10, "those that were there when it began");
    let read = engine.get(DB0, &key_of(3), View::Durable, |value| value.is_some());
    assert!(!read.expect("a read").result, "its time has come");
}

/// A long reply is counted first and then sent: both must see as many.
#[test]
fn walks_in_a_transaction_see_one_time_of_day() {
    let rig = Rig::new(512, 4 << 20);
    let (clock, time_ns) = Clock::manual(1_000_000_000);
    let mut engine = engine_by(&rig, &clock);
    begin(&mut engine);
    let expiry = clock.wall_us() / 1000 + 200;
    for number in 0..10 {
        set(&rig, &mut engine, &key_of(number), b"value", Some(expiry));
    }
    let mut counter = engine
        .range(DB0, b"", None, u64::MAX, View::Durable)
        .expect("a cursor");
    let mut walk = counter.clone();
    let (mut counted, mut seen) = (0, 0);
    while engine
        .range_next_keys(&mut counter, ALL, &mut |_, _| counted += 1)
        .expect("a chunk")
    {}
    time_ns.fetch_add(1_000_000_000, Ordering::SeqCst);
    while engine
        .range_next(&mut walk, ALL, &mut |_, _| seen += 1)
        .expect("a chunk")
    {}
    assert_eq!((counted, seen), (10, 10));
    let read = engine.get(DB0, &key_of(3), View::Durable, |value| value.is_some());
    assert!(!read.expect("a read").result, "its time has come");
}

/// RENAME looks at the value, and then at when it ends.
#[test]
fn a_key_does_not_end_while_a_program_looks_at_it() {
    let rig = Rig::new(512, 4 << 20);
    let (clock, time_ns) = Clock::manual(1_000_000_000);
    let mut engine = engine_by(&rig, &clock);
    begin(&mut engine);
    let expiry = clock.wall_us() / 1000 + 200;
    set(&rig, &mut engine, b"key", b"value", Some(expiry));
    let seen = rig.run(|| {
        engine.write(DB0, &[b"key"], &mut |access| {
            let is_there = access.newest(0)?.is_some();
            time_ns.fetch_add(1_000_000_000, Ordering::SeqCst);
            let expiry_ms = access.meta(0)?.and_then(|meta| meta.expiry_ms);
            Ok((is_there, expiry_ms))
        })
    });
    assert_eq!(seen.result, (true, Some(expiry)));
}

/// What a walk in chunks shows, each chunk by a walk of its own that goes on where the one before
/// says; and how many there are.
fn walked_anew(engine: &Engine, chunk: Chunk) -> (Vec<Vec<u8>>, usize) {
    let (mut seen, mut chunks, mut from) = (Vec::new(), 0, Vec::new());
    loop {
        let mut cursor = engine
            .range(DB0, &from, None, u64::MAX, View::Durable)
            .expect("a cursor");
        let before = seen.len();
        let goes_on = engine
            .range_next_keys(&mut cursor, chunk, &mut |key, _| seen.push(key.to_vec()))
            .expect("a chunk");
        chunks += 1;
        if !goes_on {
            return (seen, chunks);
        }
        let behind_last = || {
            let last = seen[before..].last();
            [last.expect("nothing says where it goes on"), &b"\0"[..]].concat()
        };
        let next = cursor.resume_key().map_or_else(behind_last, <[u8]>::to_vec);
        assert!(next > from, "it does not get on");
        from = next;
    }
}

/// Whether the keys were deleted before the transaction, or by it.
#[test]
fn a_walk_in_a_transaction_says_where_it_goes_on() {
    const BATCHES: u32 = 200;
    let rig = Rig::new(4096, 16 << 20);
    let mut engine = rig.engine(0);
    let change = |engine: &mut Engine, is_put: bool| {
        for batch in 0..BATCHES {
            let keys: Vec<Vec<u8>> = (0..100).map(|key| key_of(batch * 100 + key)).collect();
            let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
            rig.run(|| {
                engine.write(DB0, &keys, &mut |access| {
                    for index in 0..access.len() {
                        match is_put {
                            true => access.put(index, &[b'v'; 20], None)?,
                            false => drop(access.delete(index)?),
                        }
                    }
                    Ok(())
                })
            });
        }
        rig.flush();
    };
    change(&mut engine, true);
    // Tombstones stay.
    let _snapshot = engine.snapshot().expect("few are held");
    let own = [&b"a"[..], b"key010000x", b"key010000y", b"z"];
    let chunk = Chunk {
        entries: 3,
        bytes: usize::MAX,
    };
    for deletes_itself in [true, false] {
        if !deletes_itself {
            change(&mut engine, false);
        }
        begin(&mut engine);
        for key in own {
            set(&rig, &mut engine, key, b"own", None);
        }
        if deletes_itself {
            change(&mut engine, false);
        }
        let (seen, chunks) = walked_anew(&engine, chunk);
        assert_eq!(seen, own);
        // About as many as without a transaction.
        assert!(chunks > 3, "{chunks} chunks for {BATCHES} batches");
        engine.detach();
    }
}
