//! Two namespaces that always hold the same but for a mark, under several hands: each write goes to
//! both, by one commit; meanwhile they are swapped and emptied, and others are created, renamed and
//! dropped. So whatever moment a reader sees, a key has the same value in both, and the marks
//! differ. Then the log is redone.

mod support;

use rd_base::Lsn;
use rd_engine::{Engine, EngineError, NamespaceId, ParkReason, View};
use rd_format::catalog::{CATALOG_FILE, CatalogValue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::redo::Disk;
use support::{Helpers, Rig, Rng};

/// Runs `operation` until it is not parked any more, as a backend does.
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
                    rig.shared.wal.request_flush(lsn);
                }
                let event = rig.shared.procs.event(slot);
                event.wait(Some(Duration::from_millis(20)));
                event.take();
            }
            done => {
                rig.shared.procs.set_parked(slot, false);
                return done.expect("nothing fails here");
            }
        }
    }
    panic!("parked for ever");
}

fn twins() -> [NamespaceId; 2] {
    [1, 2].map(|number| NamespaceId::database(number).expect("there are 16"))
}

/// The key of the mark by which one twin is told from the other.
const MARK: &[u8] = b"mark";

/// Whether two values are the same but for their marks, which differ.
fn are_twins(one: &Option<Vec<u8>>, other: &Option<Vec<u8>>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one[1..] == other[1..] && one[0] != other[0],
        (None, None) => true,
        _ => false,
    }
}

fn key(rng: &mut Rng) -> Vec<u8> {
    format!("key{}", rng.below(30)).into_bytes()
}

fn write_both(rig: &Rig, owner: u64, rounds: u64) {
    let mut engine = rig.engine(owner as u16);
    let mut rng = Rng::new(owner);
    for round in 0..rounds {
        let key = key(&mut rng);
        let mut value = format!("{owner}.{round}").into_bytes();
        if rng.one_in(20) {
            value.resize(5000, b'.');
        }
        let delete = rng.one_in(5);
        let done = run(rig, &mut engine, |engine| {
            engine.write_across(&mut |engine| {
                for (namespace, mark) in twins().into_iter().zip([b"L", b"R"]) {
                    engine.write(namespace, &[&key, MARK], &mut |access| {
                        let mark = access.newest(1)?.unwrap_or(mark).to_vec();
                        let marked = [&mark[..], &value].concat();
                        access.put(1, &mark, None)?;
                        match delete {
                            true => access.delete(0).map(drop),
                            false => access.put(0, &marked, None),
                        }
                    })?;
                }
                Ok(((), Lsn::ZERO))
            })
        });
        rig.shared.wal.request_flush(done.lsn);
        engine.tidy(2);
        engine.rest();
    }
}

fn read_both(rig: &Rig, owner: u64, stop: &AtomicBool) -> u64 {
    let engine = rig.engine(owner as u16);
    let mut rng = Rng::new(owner);
    let mut pairs = 0;
    while !stop.load(Ordering::SeqCst) {
        let snapshot = match rng.one_in(2) {
            true => engine.snapshot(),
            false => engine.snapshot_newest(),
        };
        let snapshot = snapshot.expect("one is held");
        for _ in 0..3 {
            let key = key(&mut rng);
            let copy = |value: Option<rd_engine::Value<'_>>| value.map(|v| v.bytes.to_vec());
            let read = |namespace| engine.get(namespace, &key, View::At(&snapshot), copy);
            match twins().map(read) {
                [Ok(one), Ok(other)] => {
                    let [one, other] = [one.result, other.result];
                    assert!(are_twins(&one, &other), "the twins differ");
                    pairs += u64::from(one.is_some());
                }
                // So many changes since the snapshot was taken.
                [Err(EngineError::Replaced), _] | [_, Err(EngineError::Replaced)] => break,
                [one, other] => panic!("{one:?} {other:?}"),
            }
        }
        drop(snapshot);
        engine.rest();
    }
    pairs
}

fn change(rig: &Rig, owner: u64, rounds: u64) {
    let mut engine = rig.engine(owner as u16);
    let mut rng = Rng::new(owner);
    for round in 0..rounds {
        let [one, other] = twins();
        match rng.below(10) {
            0..8 => drop(run(rig, &mut engine, |e| e.swap_namespaces(one, other))),
            8 => drop(run(rig, &mut engine, Engine::flush_all)),
            _ => {
                let names = ["made", "kept"].map(|word| format!("{word}-{owner}-{round}"));
                let [made, kept] = names.each_ref().map(|name| name.as_bytes());
                let id = run(rig, &mut engine, |e| e.create_namespace(made)).result;
                let value = vec![7; rng.below(3000) as usize];
                run(rig, &mut engine, |engine| {
                    engine.write(id, &[b"k"], &mut |access| access.put(0, &value, None))
                });
                run(rig, &mut engine, |e| e.rename_namespace(made, kept));
                run(rig, &mut engine, |e| e.drop_namespace(kept));
            }
        }
        engine.rest();
    }
}

#[test]
fn what_is_written_together_is_seen_together_whatever_becomes_of_the_namespaces() {
    let rig = Arc::new(Rig::new(1500, 1 << 20));
    let helpers = Helpers::start(&rig);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (rig, stop) = (&*rig, &stop);
        let readers: Vec<_> = [1, 2]
            .map(|owner| scope.spawn(move || read_both(rig, owner, stop)))
            .into();
        let mut others = Vec::new();
        others.extend([3, 4].map(|owner| scope.spawn(move || write_both(rig, owner, 1500))));
        others.extend([5, 6].map(|owner| scope.spawn(move || change(rig, owner, 2500))));
        others
            .into_iter()
            .for_each(|hand| hand.join().expect("it ends"));
        stop.store(true, Ordering::SeqCst);
        let pairs: u64 = readers
            .into_iter()
            .map(|hand| hand.join().expect("it ends"))
            .sum();
        assert!(pairs > 100, "{pairs} pairs were seen");
    });
    rig.flush();
    rig.verify();
    let mut disk = Disk::new(&rig);
    disk.redo(&rig);
    let contents = disk
        .content(&rig, CATALOG_FILE)
        .into_iter()
        .map(|(name, value)| {
            let value = CatalogValue::decode(&value).expect("an entry of the catalog");
            let content = value.file.map(|file| disk.content(&rig, file));
            (name, content.unwrap_or_default())
        });
    let contents: BTreeMap<_, _> = contents.collect();
    let twins = [&b"1"[..], b"2"].map(|name| contents.get(name).cloned().unwrap_or_default());
    let [one, other] = twins.map(|content| content.into_iter().collect::<BTreeMap<_, _>>());
    assert!(one.keys().eq(other.keys()), "after redo");
    for (key, value) in one {
        let other = other.get(&key).cloned();
        assert!(are_twins(&Some(value), &other), "after redo");
    }
    drop(helpers);
}
