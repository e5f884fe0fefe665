//! Keys that have ended: a sweep finds them all and no others, whatever lies beside them, and those
//! that are removed are gone for good.

mod support;

use rd_base::Role;
use rd_engine::{Access, Chunk, Engine, ProgramError, Swept, View};
use rd_store::expiry::NEVER_MS;
use rd_store::{SlotNo, Store};
use rd_sys::clock::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use support::{DB0, Rig, Rng};

/// An end that is far away; others are counted from here.
const LATER_MS: u64 = 33_177_117_420_000;

fn set(rig: &Rig, engine: &mut Engine, key: &[u8], value: &[u8], expiry_ms: Option<u64>) {
    rig.run(|| engine.write(DB0, &[key], &mut |access| access.put(0, value, expiry_ms)));
}

/// A key of one in a thousand, short or long.
fn key(rng: &mut Rng) -> Vec<u8> {
    let number = rng.below(1000);
    let length = [0, 5, 300][(number % 3) as usize];
    let mut key = format!("{number:04}").into_bytes();
    key.resize(4 + length, b'x');
    key
}

/// Goes through all keys, now in small steps and now in large ones.
fn sweep(engine: &Engine, rng: &mut Rng, now_ms: u64) -> Swept {
    let mut whole = Swept::default();
    let mut from = Vec::new();
    loop {
        let mut leaves = rng.below(4);
        let swept = engine.sweep(DB0, &from, now_ms, &mut |_| {
            leaves = leaves.wrapping_sub(1);
            leaves < 4
        });
        let swept = swept.expect("a sweep");
        whole.ended.extend(swept.ended);
        let soonest = whole.soonest_ms.into_iter().chain(swept.soonest_ms).min();
        whole.soonest_ms = soonest;
        match swept.next {
            Some(next) => from = next,
            None => return whole,
        }
    }
}

#[test]
fn a_sweep_finds_what_has_ended_and_nothing_else() {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let rig = Rig::new(2048, 4 << 20);
        let mut engine = rig.engine(0);
        let mut model: BTreeMap<Vec<u8>, Option<u64>> = BTreeMap::new();
        let mut snapshots = Vec::new();
        for round in 0..4000 {
            let key = key(&mut rng);
            if rng.one_in(5) {
                rig.run(|| engine.write(DB0, &[&key], &mut |access| access.delete(0)));
                model.remove(&key);
            } else {
                // In 1970, or far away, or never.
                let expiry_ms = match rng.below(3) {
                    0 => Some(1 + rng.below(1000)),
                    1 => Some(LATER_MS + rng.below(1000)),
                    _ => None,
                };
                let bytes = if rng.one_in(50) { 5000 } else { rng.below(200) };
                set(&rig, &mut engine, &key, &vec![7; bytes as usize], expiry_ms);
                model.insert(key, expiry_ms);
            }
            // Older versions stay, so that those of one key lie on several leaves.
            if round % 200 == 0 {
                snapshots.push(engine.snapshot_newest().expect("few snapshots"));
                snapshots.truncate(20);
            }
            if round % 500 == 0 {
                rig.flush();
            }
        }
        for now_ms in [0, 500, 2000, LATER_MS + 500] {
            let swept = sweep(&engine, &mut rng, now_ms);
            let ended = |expiry: &Option<u64>| expiry.is_some_and(|at| at <= now_ms);
            let expected: Vec<Vec<u8>> = model
                .iter()
                .filter(|(_, expiry)| ended(expiry))
                .map(|(key, _)| key.clone())
                .collect();
            assert_eq!(swept.ended, expected, "seed {seed}, at {now_ms}");
            let later = model.values().flatten().filter(|at| **at > now_ms);
            assert_eq!(swept.soonest_ms, later.min().copied());
        }
        remove(&rig, &mut engine, &mut rng, &mut model);
    }
}

/// Removes what has ended, but for what was written again since it was found.
fn remove(
    rig: &Rig,
    engine: &mut Engine,
    rng: &mut Rng,
    model: &mut BTreeMap<Vec<u8>, Option<u64>>,
) {
    let swept = sweep(engine, rng, 2000);
    for key in &swept.ended {
        if rng.one_in(10) {
            set(rig, engine, key, b"again", None);
            model.insert(key.clone(), None);
        }
    }
    for batch in swept.ended.chunks(64) {
        let keys: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        rig.run(|| engine.remove_ended(DB0, &keys));
    }
    model.retain(|_, expiry| expiry.is_none_or(|at| at > 2000));
    rig.flush();
    let count = engine.count(DB0).expect("there is one").result;
    assert_eq!(count, model.len() as u64);
    assert_eq!(sweep(engine, rng, 2000).ended, Vec::<Vec<u8>>::new());
    for (key, expiry) in model {
        let there = engine.meta(DB0, key, View::Newest).expect("a read").result;
        assert_eq!(there.map(|meta| meta.expiry_ms), Some(*expiry));
    }
    rig.verify();
}

#[test]
fn commits_say_when_the_next_key_ends() {
    let rig = Rig::new(256, 1 << 20);
    let mut engine = rig.engine(0);
    let expiry = &rig.shared.expiry;
    assert_eq!(expiry.next_ms(), 0, "nothing is known");
    expiry.begin();
    assert_eq!(expiry.next_ms(), NEVER_MS);
    set(&rig, &mut engine, b"a", b"stays", None);
    assert_eq!(expiry.next_ms(), NEVER_MS);
    set(&rig, &mut engine, b"b", b"ends", Some(LATER_MS));
    set(&rig, &mut engine, b"c", b"ends later", Some(LATER_MS + 1));
    assert_eq!(expiry.next_ms(), LATER_MS);
    set(&rig, &mut engine, b"d", b"ends sooner", Some(LATER_MS - 1));
    assert_eq!(expiry.next_ms(), LATER_MS - 1);
}

#[test]
fn random_places_are_all_over_the_tree() {
    let rig = Rig::new(1024, 4 << 20);
    let mut engine = rig.engine(0);
    assert_eq!(
        engine.random_place(DB0, 7).expect("a place"),
        Vec::<u8>::new()
    );
    for number in 0..5000 {
        let key = format!("{number:05}");
        set(&rig, &mut engine, key.as_bytes(), &[7; 50], None);
    }
    let mut rng = Rng::new(3);
    let mut tenths = [0; 10];
    for _ in 0..2000 {
        let random = rng.next() ^ rng.next() << 40;
        let place = engine.random_place(DB0, random).expect("a place");
        let number: usize = String::from_utf8(place)
            .expect("text")
            .parse()
            .expect("a number");
        tenths[number / 500] += 1;
    }
    assert!(tenths.iter().all(|count| *count > 80), "{tenths:?}");
}

const SECOND_NS: u64 = 1_000_000_000;

/// Two engines that go by one clock.
fn engines_by_a_clock(rig: &Rig) -> ([Engine; 2], Arc<AtomicU64>) {
    let (clock, time_ns) = Clock::manual(1_000 * SECOND_NS);
    let engines = [0, 1].map(|number| {
        let slot = SlotNo::of(Role::Backend(number)).expect("a slot");
        let (shared, storage) = (Arc::clone(&rig.shared), Arc::clone(&rig.storage));
        let config = Arc::clone(&rig.config);
        Engine::open(Store::new(shared, storage, clock.clone(), slot, config))
    });
    (engines, time_ns)
}

/// A second from now.
fn soon_ms(time_ns: &AtomicU64) -> u64 {
    (time_ns.load(Ordering::SeqCst) + SECOND_NS) / 1_000_000
}

/// What PERSIST does to a key; whether it was there.
fn put_without_end(access: &mut Access<'_>) -> Result<bool, ProgramError> {
    let Some(value) = access.newest(0)?.map(<[u8]>::to_vec) else {
        return Ok(false);
    };
    access.put(0, &value, None)?;
    Ok(true)
}

fn is_seen(engine: &Engine) -> bool {
    let read = engine.get(DB0, b"key", View::Newest, |value| value.is_some());
    read.expect("a read").result
}

/// A large value is read from disk without a latch. Meanwhile others see the key end.
#[test]
fn a_key_that_ends_while_its_value_is_read_is_not_brought_back() {
    let rig = Rig::new(512, 4 << 20);
    let ([mut engine, other], time_ns) = engines_by_a_clock(&rig);
    let expiry = soon_ms(&time_ns);
    set(&rig, &mut engine, b"key", &[7; 100_000], Some(expiry));
    rig.flush();
    let mut runs = 0;
    let done = rig.run(|| {
        engine.write(DB0, &[b"key"], &mut |access| {
            runs += 1;
            if runs == 1 {
                assert!(access.meta(0)?.is_some(), "it is there");
                time_ns.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
            }
            put_without_end(access)
        })
    });
    assert_eq!((runs, done.result), (2, false));
    assert!(!is_seen(&other));
}

/// Who runs alone is kept from no change, but time goes on for those who read beside him.
#[test]
fn a_key_that_ends_while_operations_run_alone_is_not_brought_back() {
    let rig = Rig::new(512, 4 << 20);
    let ([mut engine, mut other], time_ns) = engines_by_a_clock(&rig);
    let expiry = soon_ms(&time_ns);
    set(&rig, &mut engine, b"key", b"value", Some(expiry));
    rig.flush();
    let mut runs = 0;
    let committed = engine.write_across(&mut |engine| {
        runs += 1;
        let done = engine.write(DB0, &[b"key"], &mut put_without_end)?;
        match runs {
            // In between, three times; afterwards nobody can.
            1..=3 => set(&rig, &mut other, b"key", b"newer", Some(expiry)),
            4 => {
                time_ns.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
                assert!(!is_seen(&other));
            }
            _ => {}
        }
        Ok((done.result, done.depends_on))
    });
    let committed = committed.expect("nobody is in the way in the end");
    assert_eq!((runs, committed.result), (5, false));
    assert!(!is_seen(&other));
}

#[test]
fn a_walk_at_a_time_shows_what_is_there_at_that_time() {
    let rig = Rig::new(256, 1 << 20);
    let mut engine = rig.engine(0);
    for (key, end_ms) in [(b"a", Some(1_000)), (b"b", Some(LATER_MS)), (b"c", None)] {
        set(&rig, &mut engine, key, b"value", end_ms);
    }
    let snapshot = engine.snapshot_newest().expect("few snapshots");
    for (now_ms, there) in [(999, "abc"), (1_000, "bc"), (LATER_MS, "c")] {
        let view = View::AtTime(&snapshot, now_ms);
        let mut cursor = engine
            .range(DB0, b"", None, u64::MAX, view)
            .expect("a walk");
        let chunk = Chunk {
            entries: u64::MAX,
            bytes: usize::MAX,
        };
        let mut seen = Vec::new();
        let visit = &mut |key: &[u8], _: &[u8]| seen.extend_from_slice(key);
        while engine
            .range_next(&mut cursor, chunk, visit)
            .expect("a read")
        {}
        assert_eq!(seen, there.as_bytes(), "at {now_ms}");
    }
}
