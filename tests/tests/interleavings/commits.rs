//! Commits of several leaves, with splits, beside one another; and snapshots beside updates and
//! pruning.

use crate::ledger::{self, Change, Step, finish, key_bytes, key_of, namespace};
use crate::parking::unpark;
use crate::server::Server;
use rd_base::{Lsn, Role};
use rd_engine::{Chunk, Engine, View};
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use std::rc::Rc;

/// What a value says: how often its key was set in a row, and how long it is.
pub type Value = (u64, usize);
/// Of a value, so that it stays in its leaf.
const BYTES_MAX: u64 = 1_400;
/// Bytes of a key that say nothing.
const KEY_FILLING: usize = 600;

pub type Ledger = ledger::Ledger<Value>;
type Content = ledger::Content<Value>;

fn value_bytes((count, bytes): Value) -> Vec<u8> {
    let mut all = vec![count as u8; bytes];
    all[..8].copy_from_slice(&count.to_le_bytes());
    all
}

fn value_of(bytes: &[u8]) -> Value {
    let count = u64::from_le_bytes(*bytes.first_chunk().expect("as it was made"));
    let value = (count, bytes.len());
    assert_eq!(bytes, value_bytes(value), "a value that nobody has written");
    value
}

fn read_all(engine: &Engine) -> Content {
    read_at(engine, View::Newest)
}

fn read_at(engine: &Engine, view: View<'_>) -> Content {
    let chunk = Chunk {
        entries: u64::MAX,
        bytes: usize::MAX,
    };
    let mut content = Content::new();
    let mut cursor = engine
        .range(namespace(), b"", None, u64::MAX, view)
        .expect("there is one");
    let visit = &mut |key: &[u8], value: &[u8]| {
        let before = content.insert(key_of(key), value_of(value));
        assert!(before.is_none(), "a key is shown twice");
    };
    while engine
        .range_next(&mut cursor, chunk, visit)
        .expect("its pages can be read")
    {}
    content
}

/// Changes each of these keys by what it was; values have at least so many bytes.
pub fn commit(
    ledger: &Ledger,
    engine: &mut Engine,
    keys: &[u64],
    bytes_min: u64,
    rng: &mut Rng,
) -> Lsn {
    let names: Vec<Vec<u8>> = keys
        .iter()
        .map(|key| key_bytes(KEY_FILLING, *key))
        .collect();
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let wishes: Vec<Option<usize>> = keys
        .iter()
        .map(|_| {
            (rng.below(5) > 0).then(|| (bytes_min + rng.below(BYTES_MAX - bytes_min)) as usize)
        })
        .collect();
    let mut steps = Vec::new();
    let done = unpark(engine, |engine| {
        engine.write(namespace(), &names, &mut |access| {
            steps.clear();
            for (index, wish) in wishes.iter().enumerate() {
                let before = access.newest(index)?.map(value_of);
                let after = wish.map(|bytes| (before.map_or(0, |value| value.0) + 1, bytes));
                match after {
                    Some(value) => access.put(index, &value_bytes(value), None)?,
                    None => drop(access.delete(index)?),
                }
                steps.push(Step {
                    key: keys[index],
                    before: Some(before),
                    after: Some(after),
                });
            }
            Ok(())
        })
    });
    engine.rest();
    let lsn = done.expect("nothing is wrong").lsn;
    ledger.note(lsn, Change::Keys(steps));
    lsn
}

/// Backends that change several keys in one commit, all in the same few leaves.
pub fn commits(seed: u64) -> Result<u64, String> {
    const KEYS: u64 = 24;
    let (server, mut crew) = Server::start(seed)?;
    let ledger = Rc::new(Ledger::default());
    for number in 0..2 + seed % 2 {
        let (store, ledger) = (
            server.store(Role::Backend(number as u16)),
            Rc::clone(&ledger),
        );
        let mut rng = Rng::new(seed ^ (number << 40));
        crew.add("backend", move || {
            let mut engine = Engine::open(store);
            for _ in 0..6 {
                let mut keys: Vec<u64> = (0..1 + rng.below(4)).map(|_| rng.below(KEYS)).collect();
                keys.sort_unstable();
                keys.dedup();
                commit(&ledger, &mut engine, &keys, 8, &mut rng);
                pause(Pause::Step);
            }
        });
    }
    crew.run(&mut |_, _| {})?;
    finish(&server, crew, &ledger, read_all)
}

/// Snapshots of what is durable and of the newest, held and read again and again, while a few keys
/// are updated so often that their leaf must be pruned.
pub fn snapshots(seed: u64) -> Result<u64, String> {
    const KEYS: u64 = 2;
    let (server, mut crew) = Server::start(seed)?;
    let ledger = Rc::new(Ledger::default());
    for number in 0..2 {
        let (store, ledger) = (server.store(Role::Backend(number)), Rc::clone(&ledger));
        let mut rng = Rng::new(seed ^ (u64::from(number) << 40));
        crew.add("updater", move || {
            let mut engine = Engine::open(store);
            for _ in 0..16 {
                let key = rng.below(KEYS);
                let lsn = commit(&ledger, &mut engine, &[key], 700, &mut rng);
                match rng.below(4) {
                    0..2 => engine.store().shared.wal.request_flush(lsn),
                    2 => drop(engine.tidy(4)),
                    _ => {}
                }
                engine.rest();
            }
        });
    }
    for number in 2..4 {
        let (store, ledger) = (server.store(Role::Backend(number)), Rc::clone(&ledger));
        let mut rng = Rng::new(seed ^ (u64::from(number) << 40));
        crew.add("reader", move || {
            let engine = Engine::open(store);
            for _ in 0..8 {
                let snapshot = match rng.below(3) {
                    0 => engine.snapshot_newest(),
                    _ => engine.snapshot(),
                };
                let snapshot = snapshot.expect("few are held");
                for _ in 0..1 + rng.below(3) {
                    ledger.see(snapshot.lsn(), read_at(&engine, View::At(&snapshot)));
                    engine.rest();
                    pause(Pause::Step);
                }
            }
        });
    }
    crew.run(&mut |_, _| {})?;
    finish(&server, crew, &ledger, read_all)
}
