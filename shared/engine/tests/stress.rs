//! Several threads as backends, others as walwriter and checkpointer, on a pool too small for the
//! data: invariants hold for every reader at every moment, and the tree is whole afterwards.

mod support;

use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_engine::{Chunk, Engine, EngineError, ParkReason, View};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::{DB0, Helpers, Rig, Rng};

/// Waits as a backend does, until what parked the operation may have changed.
fn run<R>(
    rig: &Rig,
    engine: &mut Engine,
    mut operation: impl FnMut(&mut Engine) -> Result<R, EngineError>,
) -> R {
    let slot = engine.store().slot;
    for _ in 0..100_000 {
        rig.shared.procs.set_parked(slot, true);
        match operation(engine) {
            Err(EngineError::Park(reason)) => {
                engine.rest();
                if let ParkReason::Durable(lsn) = reason {
                    rig.shared.procs.set_wait_lsn(slot, lsn);
                    if rig.durable() >= lsn {
                        continue;
                    }
                }
                rig.shared
                    .procs
                    .event(slot)
                    .wait(Some(Duration::from_millis(50)));
                rig.shared.procs.event(slot).take();
                rig.shared.procs.set_wait_lsn(slot, Lsn::ZERO);
            }
            done => {
                rig.shared.procs.set_parked(slot, false);
                return done.expect("nothing fails here");
            }
        }
    }
    panic!("parked for ever");
}

fn number(bytes: Option<&[u8]>) -> u64 {
    let text = bytes.map_or("0", |bytes| std::str::from_utf8(bytes).expect("digits"));
    text.trim_end_matches('.').parse().expect("a number")
}

/// A number, made long by dots, so that leaves split and large values come and go.
fn padded(number: u64, bytes: usize) -> Vec<u8> {
    let mut text = number.to_string().into_bytes();
    text.resize(text.len() + bytes, b'.');
    text
}

const ACCOUNTS: u64 = 400;
const TOTAL: u64 = ACCOUNTS * 1000;

fn account(number: u64) -> Vec<u8> {
    format!("account{number:05}").into_bytes()
}

/// Moves amounts between accounts, as transactions of two to four keys.
fn transfer(rig: &Rig, seed: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut engine = rig.engine(seed as u16);
    let mut rng = Rng::new(seed);
    while !stop.load(Ordering::Relaxed) {
        let count = 2 + rng.below(3) as usize;
        let keys: Vec<Vec<u8>> = (0..count).map(|_| account(rng.below(ACCOUNTS))).collect();
        let borrowed: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let amount = rng.below(50);
        let bytes = if rng.one_in(40) {
            9000
        } else {
            rng.below(300) as usize
        };
        let committed = run(rig, &mut engine, |engine| {
            engine.write(DB0, &borrowed, &mut |access| {
                let from = number(access.newest(0)?);
                let moved = amount.min(from);
                access.put(0, &padded(from - moved, bytes), None)?;
                let to = number(access.newest(count - 1)?);
                access.put(count - 1, &padded(to + moved, bytes), None)?;
                Ok(())
            })
        });
        rig.shared.wal.request_flush(committed.lsn);
        done.fetch_add(1, Ordering::Relaxed);
        if rng.one_in(10) {
            engine.rest();
        }
    }
    engine.rest();
}

/// Makes and deletes keys of its own in bulk, so that leaves fill, split, empty and go.
fn churn(rig: &Rig, seed: u64, stop: &AtomicBool, done: &AtomicU64) {
    let mut engine = rig.engine(seed as u16);
    let mut rng = Rng::new(seed);
    let mut round = 0u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let count = 1 + rng.below(300);
        let key = |index: u64| format!("churn{seed}-{:03}-{index:05}", round % 7).into_bytes();
        let keys: Vec<Vec<u8>> = (0..count).map(key).collect();
        let borrowed: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let value = vec![b'v'; 20 + rng.below(400) as usize];
        run(rig, &mut engine, |engine| {
            engine.write(DB0, &borrowed, &mut |access| {
                for index in 0..access.len() {
                    assert_eq!(
                        access.newest(index)?,
                        None,
                        "left over from an earlier round"
                    );
                    access.put(index, &value, None)?;
                }
                Ok(())
            })
        });
        for chunk in borrowed.chunks(1 + rng.below(50) as usize) {
            let deleted = run(rig, &mut engine, |engine| {
                engine.write(DB0, chunk, &mut |access| {
                    let mut deleted = 0;
                    for index in 0..access.len() {
                        deleted += u64::from(access.delete(index)?);
                    }
                    Ok(deleted)
                })
            });
            assert_eq!(deleted.result, chunk.len() as u64);
            rig.shared.wal.request_flush(deleted.lsn);
        }
        engine.tidy(10);
        engine.rest();
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sums all accounts at snapshots: no transfer may be seen by half.
fn audit(rig: &Rig, seed: u64, stop: &AtomicBool, done: &AtomicU64) {
    let engine = rig.engine(seed as u16);
    let mut rng = Rng::new(seed);
    let mut last = Lsn::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let view = if rng.one_in(2) {
            View::Durable
        } else {
            View::Newest
        };
        let descends = rng.one_in(2);
        let begin = match descends {
            true => Engine::range_descending,
            false => Engine::range,
        };
        // Also through all that is split and taken out beside them.
        let (start, end): (&[u8], _) = match rng.one_in(2) {
            true => (b"account", Some(&b"accounu"[..])),
            false => (b"", None),
        };
        let mut cursor = begin(&engine, DB0, start, end, u64::MAX, view).expect("a cursor");
        let (mut sum, mut accounts, mut last_key) = (0, 0, None::<Vec<u8>>);
        let chunk = Chunk {
            entries: 1 + rng.below(64),
            bytes: 1 << 20,
        };
        while engine
            .range_next(&mut cursor, chunk, &mut |key, value| {
                let is_next = |last: &Vec<u8>| last[..] != *key && (last[..] > *key) == descends;
                assert!(last_key.as_ref().is_none_or(is_next), "out of order");
                last_key = Some(key.to_vec());
                if key.starts_with(b"account") {
                    sum += number(Some(value));
                    accounts += 1;
                }
            })
            .expect("a chunk")
        {}
        assert_eq!(
            (accounts, sum),
            (ACCOUNTS, TOTAL),
            "a transfer was seen by half"
        );
        let key = account(rng.below(ACCOUNTS));
        let read = engine.get(DB0, &key, View::Durable, |value| {
            value.expect("accounts are never deleted").stamp
        });
        let read = read.expect("a read");
        assert!(read.result <= rig.durable() && read.depends_on == Lsn::ZERO);
        last = last.max(read.result);
        engine.rest();
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn transfers_churn_and_audits() {
    let rig = Arc::new(Rig::new(400, 1 << 20));
    let helpers = Helpers::start(&rig);
    let mut engine = rig.engine(60);
    for number in 0..ACCOUNTS {
        let key = account(number);
        run(&rig, &mut engine, |engine| {
            engine.write(DB0, &[&key], &mut |access| access.put(0, b"1000", None))
        });
    }
    engine.rest();
    rig.flush();
    let stop = AtomicBool::new(false);
    let done = [(); 6].map(|()| AtomicU64::new(0));
    std::thread::scope(|scope| {
        let (rig, stop, done) = (&*rig, &stop, &done);
        scope.spawn(move || transfer(rig, 1, stop, &done[0]));
        scope.spawn(move || transfer(rig, 2, stop, &done[1]));
        scope.spawn(move || churn(rig, 3, stop, &done[2]));
        scope.spawn(move || churn(rig, 4, stop, &done[3]));
        scope.spawn(move || audit(rig, 5, stop, &done[4]));
        scope.spawn(move || audit(rig, 6, stop, &done[5]));
        let enough = |done: &AtomicU64, least| done.load(Ordering::Relaxed) >= least;
        // Until each has done its share; the deadline is there against hanging only.
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        let shares = [8000, 8000, 300, 300, 400, 400];
        while !done
            .iter()
            .zip(shares)
            .all(|(done, least)| enough(done, least))
        {
            if std::time::Instant::now() > deadline {
                stop.store(true, Ordering::Relaxed);
                panic!("not done in time: {done:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::Relaxed);
    });
    rig.flush();
    let report = rig.verify();
    assert_eq!(report.keys, ACCOUNTS);
    drop(helpers);
}

/// A key so long that few fit a page, and with so long a part in common with others that separators
/// are as long: inner pages split, too.
fn long_key(owner: u64, number: u64) -> Vec<u8> {
    let mut key = vec![b'k'; 1200 + (number % 3) as usize * 200];
    key.extend_from_slice(format!("{:06}-{owner}", (number * 7919) % 100_003).as_bytes());
    key
}

/// Fills and empties the tree with keys of its own, one and several at a time, and checks that what
/// it wrote is what it finds.
fn grow_and_shrink(rig: &Rig, owner: u64, rounds: u64) {
    let mut engine = rig.engine(owner as u16);
    let mut rng = Rng::new(owner);
    for round in 0..rounds {
        let count = 100 + rng.below(200);
        let value = format!("{owner}-{round}").into_bytes();
        for number in 0..count {
            let key = long_key(owner, number);
            run(rig, &mut engine, |engine| {
                engine.write(DB0, &[&key], &mut |access| access.put(0, &value, None))
            });
        }
        for number in 0..count {
            let key = long_key(owner, number);
            let read = engine.get(DB0, &key, View::Newest, |read| {
                read.is_some_and(|read| read.bytes == value)
            });
            assert!(
                read.expect("a read").result,
                "key {number} of {owner} in round {round}"
            );
        }
        let keys: Vec<Vec<u8>> = (0..count).map(|number| long_key(owner, number)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        for chunk in keys.chunks(1 + rng.below(20) as usize) {
            let deleted = run(rig, &mut engine, |engine| {
                engine.write(DB0, chunk, &mut |access| {
                    let mut deleted = 0;
                    for index in 0..access.len() {
                        deleted += u64::from(access.delete(index)?);
                    }
                    Ok(deleted)
                })
            });
            assert_eq!(deleted.result, chunk.len() as u64);
            rig.shared.wal.request_flush(deleted.lsn);
        }
        engine.tidy(50);
        engine.rest();
    }
}

#[test]
fn deep_trees_grow_and_shrink_under_several_hands() {
    let rig = Arc::new(Rig::new(240, 1 << 20));
    let helpers = Helpers::start(&rig);
    std::thread::scope(|scope| {
        for owner in 1..5 {
            let rig = &*rig;
            scope.spawn(move || grow_and_shrink(rig, owner, 6));
        }
    });
    rig.flush();
    assert_eq!(rig.verify().keys, 0);
    // It was what it is meant to be: deep, shrinking, and larger than the pool.
    let done = |counter| rig.shared.stats.get(counter);
    assert!(
        done(Counter::InnerSplits) > 50,
        "{}",
        done(Counter::InnerSplits)
    );
    assert!(
        done(Counter::LeavesRemoved) > 100,
        "{}",
        done(Counter::LeavesRemoved)
    );
    assert!(
        done(Counter::FramesEvicted) > 100,
        "{}",
        done(Counter::FramesEvicted)
    );
    drop(helpers);
}

/// Writes pairs of keys together, and now and then empties the database.
fn pairs_and_flushes(rig: &Rig, owner: u64, rounds: u64) {
    let mut engine = rig.engine(owner as u16);
    let mut rng = Rng::new(owner);
    for round in 0..rounds {
        let pair = rng.below(300);
        let keys = [
            format!("left{pair}").into_bytes(),
            format!("right{pair}").into_bytes(),
        ];
        let value = padded(round * 10 + owner, rng.below(3000) as usize);
        let committed = run(rig, &mut engine, |engine| {
            engine.write(DB0, &[&keys[0], &keys[1]], &mut |access| {
                access.put(0, &value, None)?;
                access.put(1, &value, None)
            })
        });
        rig.shared.wal.request_flush(committed.lsn);
        if rng.one_in(60) {
            run(rig, &mut engine, |engine| {
                match engine.flush_namespace(DB0) {
                    // Another one's flush is not durable yet, and nothing else asks for it.
                    Err(EngineError::Park(reason @ rd_engine::ParkReason::Durable(_))) => {
                        rig.flush();
                        Err(EngineError::Park(reason))
                    }
                    done => done,
                }
            });
        }
        let mut seen = Vec::new();
        let view = if rng.one_in(2) {
            View::Durable
        } else {
            View::Newest
        };
        let read = engine.multi_get(DB0, &[&keys[0], &keys[1]], view, &mut |_, value| {
            seen.push(value.map(|value| value.bytes.to_vec()));
        });
        read.expect("a read");
        assert!(seen[0] == seen[1], "a pair was seen by half");
        if rng.one_in(5) {
            engine.rest();
        }
    }
    engine.rest();
}

#[test]
fn pairs_stay_pairs_while_the_database_is_emptied() {
    let rig = Arc::new(Rig::new(800, 1 << 20));
    let helpers = Helpers::start(&rig);
    std::thread::scope(|scope| {
        for owner in 1..5 {
            let rig = &*rig;
            scope.spawn(move || pairs_and_flushes(rig, owner, 1500));
        }
    });
    rig.flush();
    rig.verify();
    drop(helpers);
}
