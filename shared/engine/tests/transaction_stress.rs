//! Transactions of several commands by several threads, on a pool too small for the data: what is
//! true of every moment stays true, nobody waits for somebody who waits for him, and the tree is
//! whole afterwards.

mod support;

use rd_base::Lsn;
use rd_engine::{Chunk, Engine, EngineError, Isolation, View};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use support::{DB0, Helpers, Rig, Rng};

const ACCOUNTS: u64 = 300;
const TOTAL: u64 = ACCOUNTS * 1000;
const PAIRS: u64 = 20;

fn account(number: u64) -> Vec<u8> {
    format!("account{number:05}").into_bytes()
}

fn side(pair: u64, side: &str) -> Vec<u8> {
    format!("pair{pair:05}{side}").into_bytes()
}

/// A number, made long by dots, so that leaves split and large values come and go.
fn padded(number: u64, bytes: u64) -> Vec<u8> {
    let mut text = number.to_string().into_bytes();
    text.resize(text.len() + bytes as usize, b'.');
    text
}

fn number(bytes: &[u8]) -> u64 {
    let text = std::str::from_utf8(bytes).expect("digits");
    text.trim_end_matches('.').parse().expect("a number")
}

fn get(engine: &Engine, key: &[u8]) -> u64 {
    let read = engine.get(DB0, key, View::Newest, |value| {
        value.map_or(0, |value| number(value.bytes))
    });
    read.expect("a read").result
}

fn put(engine: &mut Engine, key: &[u8], value: &[u8]) {
    let put = engine.write(DB0, &[key], &mut |access| access.put(0, value, None));
    put.expect("it goes into the transaction");
}

/// Waits as a backend does, until what parked an operation may have changed.
fn unpark(rig: &Rig, engine: &Engine) {
    engine.rest();
    let slot = engine.store().slot;
    rig.shared
        .procs
        .event(slot)
        .wait(Some(Duration::from_millis(20)));
    rig.shared.procs.event(slot).take();
}

/// Runs `work` as a transaction. True if it was committed, false if others were first.
fn transaction(
    rig: &Rig,
    engine: &mut Engine,
    isolation: Isolation,
    work: &mut dyn FnMut(&mut Engine),
) -> bool {
    let begun = engine
        .begin(isolation, false, View::Newest)
        .expect("few are open");
    engine.attach(Box::new(begun));
    work(engine);
    let transaction = engine.detach().expect("it is attached");
    let slot = engine.store().slot;
    rig.shared.procs.set_parked(slot, true);
    let done = loop {
        match engine.commit(&transaction, &[]) {
            Ok(_) => break true,
            Err(EngineError::Conflict { .. }) => break false,
            Err(EngineError::Park(_)) => unpark(rig, engine),
            Err(error) => panic!("{error}"),
        }
    };
    rig.shared.procs.set_parked(slot, false);
    engine.rest();
    done
}

/// Moves amounts between accounts whose values have all lengths.
fn transfer(rig: &Rig, seed: u64, rounds: u64) {
    let mut engine = rig.engine(seed as u16);
    let mut rng = Rng::new(seed);
    for _ in 0..rounds {
        let (from, to) = (account(rng.below(ACCOUNTS)), account(rng.below(ACCOUNTS)));
        let bytes = if rng.one_in(30) { 5000 } else { rng.below(600) };
        let amount = rng.below(20);
        transaction(rig, &mut engine, Isolation::Snapshot, &mut |engine| {
            let there = get(engine, &from);
            if there >= amount && from != to {
                put(engine, &from, &padded(there - amount, bytes));
                let there = get(engine, &to);
                put(engine, &to, &padded(there + amount, bytes));
            }
        });
    }
}

/// Adds all accounts up, and writes down that it has: so the whole range is latched and checked.
fn audit(rig: &Rig, seed: u64, rounds: u64, committed: &AtomicU64) {
    let mut engine = rig.engine(seed as u16);
    for round in 0..rounds {
        let done = transaction(rig, &mut engine, Isolation::Serializable, &mut |engine| {
            let cursor = engine.range(DB0, b"account", Some(b"accounu"), u64::MAX, View::Newest);
            let mut cursor = cursor.expect("a cursor");
            let (mut sum, mut count) = (0, 0);
            let chunk = Chunk {
                entries: 50,
                bytes: 1 << 20,
            };
            while engine
                .range_next(&mut cursor, chunk, &mut |_, value| {
                    sum += number(value);
                    count += 1;
                })
                .expect("a chunk")
            {}
            assert_eq!((sum, count), (TOTAL, ACCOUNTS));
            put(engine, format!("audit{seed}").as_bytes(), &padded(round, 0));
        });
        committed.fetch_add(u64::from(done), Ordering::Relaxed);
    }
}

/// Takes from one of two numbers as long as their sum allows it: together they never fall below
/// zero, unless two who take from different ones do not see each other.
fn take(rig: &Rig, seed: u64, rounds: u64) {
    let mut engine = rig.engine(seed as u16);
    let mut rng = Rng::new(seed);
    for _ in 0..rounds {
        let pair = rng.below(PAIRS);
        let keys = [side(pair, "left"), side(pair, "right")];
        let which = rng.below(2) as usize;
        let isolation = match rng.one_in(2) {
            true => Isolation::Serializable,
            false => Isolation::Exec,
        };
        transaction(rig, &mut engine, isolation, &mut |engine| {
            // What was taken from each; 10 may be taken in all.
            let taken = [get(engine, &keys[0]), get(engine, &keys[1])];
            assert!(
                taken[0] + taken[1] <= 10,
                "pair {pair} was overdrawn: {taken:?}"
            );
            match taken[0] + taken[1] {
                10 => keys.iter().for_each(|key| put(engine, key, b"0")),
                _ => put(engine, &keys[which], &padded(taken[which] + 1, 0)),
            }
        });
    }
}

#[test]
fn what_is_true_of_every_moment_stays_true() {
    let rig = Arc::new(Rig::new(400, 1 << 20));
    let helpers = Helpers::start(&rig);
    let mut engine = rig.engine(60);
    for first in (0..ACCOUNTS).step_by(10) {
        let open = transaction(&rig, &mut engine, Isolation::Exec, &mut |engine| {
            for number in first..first + 10 {
                put(engine, &account(number), b"1000");
            }
        });
        assert!(open, "nobody else is there");
    }
    let audits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let (rig, audits) = (&*rig, &audits);
        scope.spawn(move || transfer(rig, 1, 6000));
        scope.spawn(move || transfer(rig, 2, 6000));
        scope.spawn(move || audit(rig, 3, 300, audits));
        scope.spawn(move || take(rig, 4, 12_000));
        scope.spawn(move || take(rig, 5, 12_000));
    });
    // Alone it cannot be too late.
    audit(&rig, 6, 1, &audits);
    assert!(audits.load(Ordering::Relaxed) > 0);
    rig.flush();
    let report = rig.verify();
    assert!(report.keys >= ACCOUNTS, "{report:?}");
    assert!(rig.durable() > Lsn::ZERO);
    drop(helpers);
}
