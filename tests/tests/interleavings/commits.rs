//! Commits of several leaves, with splits, beside one another; and snapshots beside updates and
//! pruning.

use crate::server::{Server, unpark};
use rd_base::{Lsn, Role};
use rd_engine::verify::{LivePages, verify};
use rd_engine::{Chunk, Engine, NamespaceId, View};
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What a value says: how often its key was set in a row, and how long it is.
type Value = (u64, usize);
/// Of a value, so that it stays in its leaf.
const BYTES_MAX: u64 = 1_400;
type Content = BTreeMap<u64, Value>;

/// What one commit saw of a key, and made of it.
#[derive(Clone, Debug)]
struct Step {
    key: u64,
    before: Option<Value>,
    after: Option<Value>,
}

/// All that was committed and all that snapshots showed; held against one another at the end, when
/// all is known.
#[derive(Default)]
struct Ledger {
    commits: RefCell<Vec<(Lsn, Vec<Step>)>>,
    seen: RefCell<Vec<(Lsn, Content)>>,
}

fn namespace() -> NamespaceId {
    NamespaceId::database(0).expect("there is one")
}

/// Keys so long that few fit a page.
fn key_bytes(key: u64) -> Vec<u8> {
    let mut bytes = vec![b'k'; 600];
    bytes.extend_from_slice(&key.to_be_bytes());
    bytes
}

fn key_of(bytes: &[u8]) -> u64 {
    let last = bytes.last_chunk().expect("as it was made");
    u64::from_be_bytes(*last)
}

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

fn read_all(engine: &Engine, view: View<'_>) -> Content {
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

impl Ledger {
    /// Changes each of these keys by what it was; values have at least so many bytes.
    fn commit(&self, engine: &mut Engine, keys: &[u64], bytes_min: u64, rng: &mut Rng) -> Lsn {
        let names: Vec<Vec<u8>> = keys.iter().map(|key| key_bytes(*key)).collect();
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
                    let key = keys[index];
                    steps.push(Step { key, before, after });
                }
                Ok(())
            })
        });
        engine.rest();
        let lsn = done.expect("nothing is wrong").lsn;
        if lsn > Lsn::ZERO {
            self.commits.borrow_mut().push((lsn, steps));
        }
        lsn
    }

    fn see(&self, lsn: Lsn, content: Content) {
        self.seen.borrow_mut().push((lsn, content));
    }

    /// Holds everything against the order of the log.
    fn check(&self) -> Result<(), String> {
        let mut commits = self.commits.take();
        commits.sort_by_key(|(lsn, _)| *lsn);
        let mut seen = self.seen.take();
        seen.sort_by_key(|(lsn, _)| *lsn);
        let mut seen = seen.into_iter().peekable();
        let mut content = Content::new();
        let mut commits = commits.into_iter().peekable();
        loop {
            let next = commits.peek().map(|(lsn, _)| *lsn);
            while let Some((lsn, shown)) = seen.next_if(|(lsn, _)| next.is_none_or(|at| *lsn < at))
            {
                if shown != content {
                    return Err(format!(
                        "a snapshot at {lsn} shows {shown:?} in place of {content:?}"
                    ));
                }
            }
            let Some((lsn, steps)) = commits.next() else {
                return Ok(());
            };
            for step in steps {
                let now = content.get(&step.key).copied();
                if now != step.before {
                    return Err(format!(
                        "the commit at {lsn} saw {:?} of key {}, which was {now:?}",
                        step.before, step.key
                    ));
                }
                match step.after {
                    Some(value) => content.insert(step.key, value),
                    None => content.remove(&step.key),
                };
            }
        }
    }
}

/// At the end, when nobody else runs: the tree is whole, and what it holds is counted right.
fn look_at_all(server: &Server, ledger: &Ledger) {
    let engine = Engine::open(server.store(Role::Backend(7)));
    let content = read_all(&engine, View::Newest);
    let count = engine.count(namespace()).expect("there is one").result;
    assert_eq!(count, content.len() as u64, "keys are counted wrong");
    let store = engine.store();
    ledger.see(store.shared.wal.insert_lsn(), content);
    if let Some(file) = store.shared.namespaces.entry(namespace()).file() {
        let report = verify(&LivePages { store, file });
        assert!(report.is_clean(), "{:#?}", report.problems);
    }
    engine.rest();
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
                ledger.commit(&mut engine, &keys, 8, &mut rng);
                pause(Pause::Step);
            }
        });
    }
    crew.run(&mut |_, _| {})?;
    let trace = finish(&server, crew, &ledger)?;
    Ok(trace)
}

fn finish(
    server: &Rc<Server>,
    mut crew: rd_sys::simsched::Crew,
    ledger: &Rc<Ledger>,
) -> Result<u64, String> {
    let (own, seen) = (Rc::clone(server), Rc::clone(ledger));
    crew.add("checker", move || look_at_all(&own, &seen));
    crew.run(&mut |_, _| {})?;
    ledger.check()?;
    Ok(crew.trace())
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
                let lsn = ledger.commit(&mut engine, &[key], 700, &mut rng);
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
                    ledger.see(snapshot.lsn(), read_all(&engine, View::At(&snapshot)));
                    engine.rest();
                    pause(Pause::Step);
                }
            }
        });
    }
    crew.run(&mut |_, _| {})?;
    finish(&server, crew, &ledger)
}
