//! Leaves that come and go under everything else: commits that cut one again and again, deletes that
//! empty it, tidying up, large values, transactions that check what they have read, FLUSHDB, and walks
//! in both directions at snapshots held meanwhile.

use crate::ledger::{self, Change, Ledger, Step, finish, key_bytes, key_of, namespace};
use crate::parking::unpark;
use crate::server::Server;
use rd_base::{Lsn, Role};
use rd_engine::{Chunk, Engine, EngineError, Isolation, ParkReason, View};
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use std::cell::Cell;
use std::rc::Rc;

/// Bytes of a key that say nothing.
const KEY_FILLING: usize = 500;
/// So many keys there are at most; with few of them there are more versions of each.
const KEYS_MAX: u64 = 40;
/// Most keys of a commit.
const RUN_MAX: u64 = 14;

/// A number that no other value has.
type Value = u64;
type Content = ledger::Content<Value>;

/// What is done to them.
struct Leaves {
    keys: u64,
    last: Cell<Value>,
    ledger: Rc<Ledger<Value>>,
}

/// Some values are so long that they do not stay in their leaf.
fn value_bytes(value: Value) -> Vec<u8> {
    let length = match value % 7 {
        0 => 9_000,
        1 => 2_500,
        other => 8 + 200 * other as usize,
    };
    let mut bytes = vec![value as u8; length];
    bytes[..8].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn value_of(bytes: &[u8]) -> Value {
    let value = u64::from_le_bytes(*bytes.first_chunk().expect("as it was made"));
    assert_eq!(bytes, value_bytes(value), "a value that nobody has written");
    value
}

/// What a walk shows from one key to before another.
fn walk(
    engine: &Engine,
    (from, to): (u64, u64),
    view: View<'_>,
    descends: bool,
    entries: u64,
) -> Result<Content, EngineError> {
    let begin = match descends {
        true => Engine::range_descending,
        false => Engine::range,
    };
    let (start, end) = (key_bytes(KEY_FILLING, from), key_bytes(KEY_FILLING, to));
    let mut cursor = begin(engine, namespace(), &start, Some(&end), u64::MAX, view)?;
    let chunk = Chunk {
        entries,
        bytes: usize::MAX,
    };
    let mut content = Content::new();
    let mut last = None;
    let visit = &mut |key: &[u8], value: &[u8]| {
        let key = key_of(key);
        let is_next = |last: u64| if descends { key < last } else { key > last };
        assert!(last.is_none_or(is_next), "keys are shown out of order");
        last = Some(key);
        content.insert(key, value_of(value));
    };
    while engine.range_next(&mut cursor, chunk, visit)? {}
    Ok(content)
}

impl Leaves {
    fn new_value(&self) -> Value {
        self.last.set(self.last.get() + 1);
        self.last.get()
    }

    /// Puts or deletes keys, most of which lie side by side.
    fn commit(&self, engine: &mut Engine, rng: &mut Rng) -> Lsn {
        let mut keys: Vec<u64> = match rng.below(3) {
            0 => (0..2 + rng.below(3))
                .map(|_| rng.below(self.keys))
                .collect(),
            _ => {
                let first = rng.below(self.keys);
                (first..self.keys.min(first + 1 + rng.below(RUN_MAX))).collect()
            }
        };
        keys.sort_unstable();
        keys.dedup();
        let puts_of_4 = [0, 0, 2, 4][rng.below(4) as usize];
        let wishes: Vec<Option<Value>> = keys
            .iter()
            .map(|_| (rng.below(4) < puts_of_4).then(|| self.new_value()))
            .collect();
        let looks = rng.below(2) == 0;
        let names: Vec<Vec<u8>> = keys
            .iter()
            .map(|key| key_bytes(KEY_FILLING, *key))
            .collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let mut steps = Vec::new();
        let done = unpark(engine, |engine| {
            engine.write(namespace(), &names, &mut |access| {
                steps.clear();
                for (index, after) in wishes.iter().enumerate() {
                    let before = match looks {
                        true => Some(access.newest(index)?.map(value_of)),
                        false => None,
                    };
                    match after {
                        Some(value) => access.put(index, &value_bytes(*value), None)?,
                        None => drop(access.delete(index)?),
                    }
                    steps.push(Step {
                        key: keys[index],
                        before,
                        after: Some(*after),
                    });
                }
                Ok(())
            })
        });
        let lsn = done.expect("nothing is wrong").lsn;
        self.ledger.note(lsn, Change::Keys(steps));
        lsn
    }

    /// Reads some keys, and writes others, if none of those has changed.
    fn transaction(&self, engine: &mut Engine, rng: &mut Rng) -> Lsn {
        let isolation = match rng.below(2) {
            0 => Isolation::Serializable,
            _ => Isolation::Exec,
        };
        let begun = engine.begin(isolation, false, View::Newest);
        engine.attach(Box::new(begun.expect("few are held")));
        let done = self.read_and_write(engine, rng);
        let transaction = engine.detach().expect("it was attached");
        let done = done.and_then(|steps| {
            pause(Pause::Step);
            let done = unpark(engine, |engine| engine.commit(&transaction, &[]))?;
            Ok((done.lsn, steps))
        });
        match done {
            Ok((lsn, steps)) => {
                self.ledger.note(lsn, Change::Keys(steps));
                lsn
            }
            Err(EngineError::Conflict { .. }) => Lsn::ZERO,
            Err(error) => panic!("{error}"),
        }
    }

    fn read_and_write(
        &self,
        engine: &mut Engine,
        rng: &mut Rng,
    ) -> Result<Vec<Step<Value>>, EngineError> {
        let mut steps = Vec::new();
        let from = rng.below(self.keys);
        let to = self.keys.min(from + rng.below(RUN_MAX));
        let shown = walk(engine, (from, to), View::Newest, rng.below(2) == 0, 5)?;
        steps.extend((from..to).map(|key| Step {
            key,
            before: Some(shown.get(&key).copied()),
            after: None,
        }));
        for _ in 0..1 + rng.below(4) {
            let key = rng.below(self.keys);
            let name = key_bytes(KEY_FILLING, key);
            let after = (rng.below(3) > 0).then(|| self.new_value());
            engine.write(namespace(), &[&name], &mut |access| match after {
                Some(value) => access.put(0, &value_bytes(value), None),
                None => access.delete(0).map(drop),
            })?;
            steps.push(Step {
                key,
                before: None,
                after: Some(after),
            });
        }
        Ok(steps)
    }

    fn flush(&self, engine: &mut Engine) -> Lsn {
        let done = unpark(engine, |engine| engine.flush_namespace(namespace()));
        let lsn = done.expect("nothing is wrong").lsn;
        self.ledger.note(lsn, Change::Flush);
        lsn
    }
}

fn read_all(engine: &Engine) -> Content {
    walk(engine, (0, KEYS_MAX), View::Newest, false, u64::MAX).expect("it is there")
}

/// Gives back what can be given back of what was committed.
fn tidy_when_durable(engine: &mut Engine, lsn: Lsn) {
    let tidied = unpark(engine, |engine| {
        if engine.store().shared.wal.durable_lsn() < lsn {
            return Err(EngineError::Park(ParkReason::Durable(lsn)));
        }
        engine.tidy(16);
        Ok(())
    });
    tidied.expect("nothing is wrong");
}

fn read_at_snapshots(engine: &Engine, ledger: &Ledger<Value>, rng: &mut Rng) {
    let snapshot = match rng.below(2) {
        0 => engine.snapshot_newest(),
        _ => engine.snapshot(),
    };
    let snapshot = snapshot.expect("few are held");
    for _ in 0..1 + rng.below(3) {
        let (descends, entries) = (rng.below(2) == 0, 1 + rng.below(20));
        let view = View::At(&snapshot);
        match walk(engine, (0, KEYS_MAX), view, descends, entries) {
            Ok(content) => ledger.see(snapshot.lsn(), content),
            // Emptied so often meanwhile.
            Err(EngineError::Replaced) => {}
            Err(error) => panic!("{error}"),
        }
        engine.rest();
        pause(Pause::Step);
    }
}

/// Backends that do all of it.
pub fn leaves(seed: u64) -> Result<u64, String> {
    let (server, mut crew) = Server::start(seed)?;
    let ledger = Rc::new(Ledger::default());
    let leaves = Rc::new(Leaves {
        keys: [3, 12, KEYS_MAX][(seed % 3) as usize],
        last: Cell::new(0),
        ledger: Rc::clone(&ledger),
    });
    for number in 0..3 {
        let (store, leaves) = (server.store(Role::Backend(number)), Rc::clone(&leaves));
        let mut rng = Rng::new(seed ^ (u64::from(number) << 40));
        crew.add("backend", move || {
            let mut engine = Engine::open(store);
            for _ in 0..12 {
                let lsn = match rng.below(24) {
                    0 => leaves.flush(&mut engine),
                    1..6 => leaves.transaction(&mut engine, &mut rng),
                    _ => leaves.commit(&mut engine, &mut rng),
                };
                match rng.below(3) {
                    0 => {}
                    1 => engine.store().shared.wal.request_flush(lsn),
                    _ => tidy_when_durable(&mut engine, lsn),
                }
                engine.rest();
                pause(Pause::Step);
            }
        });
    }
    let (store, seen) = (server.store(Role::Backend(3)), Rc::clone(&ledger));
    let mut rng = Rng::new(seed ^ (3 << 40));
    crew.add("reader", move || {
        let engine = Engine::open(store);
        for _ in 0..4 {
            read_at_snapshots(&engine, &seen, &mut rng);
        }
    });
    crew.run(&mut |_, _| {})?;
    finish(&server, crew, &ledger, read_all)
}
