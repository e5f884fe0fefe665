//! Random transactions of several commands by several logical processes, held against a map of
//! versions: what each sees, whether its commit conflicts, and what it leaves.

mod support;

use rd_base::Lsn;
use rd_engine::{Chunk, Engine, EngineError, Isolation, Transaction, View};
use std::collections::{BTreeMap, BTreeSet};
use support::redo::Disk;
use support::{DB0, Rig, Rng};

/// Versions of a key, in the order of their stamps.
type Versions = Vec<(Lsn, Option<Vec<u8>>)>;

/// By key, its versions.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, Versions>);

impl Model {
    fn at(&self, lsn: Lsn) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let newest = |(key, versions): (&Vec<u8>, &Versions)| {
            let seen = versions.iter().rev().find(|(stamp, _)| *stamp <= lsn)?;
            Some((key.clone(), seen.1.clone()?))
        };
        self.0.iter().filter_map(newest).collect()
    }

    fn changed_since(&self, key: &[u8], lsn: Lsn) -> bool {
        let versions = self.0.get(key);
        versions.is_some_and(|versions| versions.last().is_some_and(|(stamp, _)| *stamp > lsn))
    }

    fn commit(&mut self, writes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>, lsn: Lsn) {
        let newest = self.at(Lsn::MAX);
        for (key, value) in writes {
            // Deleting what is not there leaves no version.
            if value.is_some() || newest.contains_key(key) {
                let versions = self.0.entry(key.clone()).or_default();
                versions.push((lsn, value.clone()));
            }
        }
    }
}

type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An open transaction, and what the model knows of it.
struct Open {
    transaction: Box<Transaction>,
    seen: BTreeMap<Vec<u8>, Vec<u8>>,
    writes: Overlay,
    savepoints: Vec<(Vec<u8>, Overlay)>,
    read_keys: BTreeSet<Vec<u8>>,
    read_ranges: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Open {
    /// Whether its commit must conflict.
    fn must_conflict(&self, model: &Model) -> bool {
        let at = self.transaction.lsn();
        let isolation = self.transaction.isolation();
        let written = self.writes.keys().any(|key| model.changed_since(key, at));
        let read = self
            .read_keys
            .iter()
            .any(|key| model.changed_since(key, at));
        let in_ranges = || {
            let is_in = |key: &Vec<u8>| {
                self.read_ranges
                    .iter()
                    .any(|(start, end)| key >= start && end.as_ref().is_none_or(|end| key < end))
            };
            let mut keys = model.0.keys();
            keys.any(|key| is_in(key) && model.changed_since(key, at))
        };
        match isolation {
            Isolation::Snapshot => written,
            Isolation::Serializable => written || read || in_ranges(),
            Isolation::Exec => read || in_ranges(),
        }
    }
}

struct World {
    rig: Rig,
    engines: Vec<Engine>,
    /// One at most of each engine's, as a backend attaches one at a time; more lie beside.
    open: Vec<Vec<Open>>,
    model: Model,
    rng: Rng,
    keys: u64,
    key_bytes: usize,
    value_bytes_max: u64,
    conflicts: u64,
    commits: u64,
}

impl World {
    fn key(&mut self) -> Vec<u8> {
        let mut key = vec![b'k'; self.key_bytes];
        key.extend_from_slice(format!("{:03}", self.rng.below(self.keys)).as_bytes());
        // The empty key is one like others.
        if self.rng.one_in(50) { Vec::new() } else { key }
    }

    fn value(&mut self) -> Vec<u8> {
        let bytes = match self.rng.one_in(30) {
            true => 2000 + self.rng.below(20_000),
            false => self.rng.below(self.value_bytes_max),
        };
        vec![self.rng.below(256) as u8; bytes as usize]
    }

    fn begin(&mut self, at: usize) {
        let isolation = match self.rng.below(3) {
            0 => Isolation::Snapshot,
            1 => Isolation::Serializable,
            _ => Isolation::Exec,
        };
        let newest = self.rng.one_in(2);
        let view = if newest { View::Newest } else { View::Durable };
        let begun = self.engines[at].begin(isolation, false, view);
        let transaction = begun.expect("few are open");
        self.open[at].push(Open {
            seen: self.model.at(transaction.lsn()),
            transaction: Box::new(transaction),
            writes: BTreeMap::new(),
            savepoints: Vec::new(),
            read_keys: BTreeSet::new(),
            read_ranges: Vec::new(),
        });
    }

    /// A command within the transaction.
    fn command(&mut self, at: usize, mut open: Open) -> Open {
        self.engines[at].attach(open.transaction);
        match self.rng.below(8) {
            0..3 => self.write(at, &mut open.seen, &mut open.writes, &mut open.read_keys),
            3 => {
                let key = self.key();
                let expected = value_in(&open.seen, &open.writes, &key);
                let copy = |value: Option<rd_engine::Value<'_>>| value.map(|v| v.bytes.to_vec());
                let read = self.engines[at].get(DB0, &key, View::Durable, copy);
                assert_eq!(read.expect("a read").result, expected);
                if !open.writes.contains_key(&key) {
                    open.read_keys.insert(key);
                }
            }
            4 => {
                let keys: Vec<Vec<u8>> = (0..4).map(|_| self.key()).collect();
                let borrowed: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
                let mut seen = Vec::new();
                let visit = &mut |_, value: Option<rd_engine::Value<'_>>| {
                    seen.push(value.map(|value| value.bytes.to_vec()));
                };
                let read = self.engines[at].multi_get(DB0, &borrowed, View::Durable, visit);
                read.expect("a read");
                for (key, seen) in keys.into_iter().zip(seen) {
                    assert_eq!(seen, value_in(&open.seen, &open.writes, &key));
                    if !open.writes.contains_key(&key) {
                        open.read_keys.insert(key);
                    }
                }
            }
            5 => self.range(at, &open.seen, &open.writes, &mut open.read_ranges),
            6 if self.rng.one_in(8) => {
                let mut content = open.seen.clone();
                overlay(&mut content, &open.writes);
                let engine = &self.engines[at];
                let cursor = engine.range(DB0, &[], None, u64::MAX, View::Durable);
                let mut cursor = cursor.expect("a cursor");
                let all = Chunk {
                    entries: u64::MAX,
                    bytes: usize::MAX,
                };
                let mut count = 0;
                let visit: &mut dyn FnMut(&[u8], &_) = &mut |_, _| count += 1;
                while engine
                    .range_next_keys(&mut cursor, all, visit)
                    .expect("a chunk")
                {}
                assert_eq!(count, content.len());
                open.read_ranges.push((Vec::new(), None));
            }
            _ => {
                open.transaction = self.engines[at].detach().expect("it is attached");
                self.savepoint(&mut open);
                return open;
            }
        }
        open.transaction = self.engines[at].detach().expect("it is attached");
        open
    }

    fn write(
        &mut self,
        at: usize,
        seen: &mut BTreeMap<Vec<u8>, Vec<u8>>,
        writes: &mut Overlay,
        read_keys: &mut BTreeSet<Vec<u8>>,
    ) {
        let count = 1 + self.rng.below(3);
        let keys: Vec<Vec<u8>> = (0..count).map(|_| self.key()).collect();
        let values: Vec<Option<Vec<u8>>> = keys
            .iter()
            .map(|_| (!self.rng.one_in(3)).then(|| self.value()))
            .collect();
        let (reads, fails) = (self.rng.one_in(2), self.rng.one_in(10));
        let borrowed: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let expected: Vec<_> = keys.iter().map(|key| value_in(seen, writes, key)).collect();
        let done = self.engines[at].write(DB0, &borrowed, &mut |access| {
            for (index, expected) in expected.iter().enumerate() {
                if reads {
                    assert_eq!(access.newest(index)?, expected.as_deref());
                }
            }
            for (index, value) in values.iter().enumerate() {
                match value {
                    Some(value) => access.put(index, value, None)?,
                    None => drop(access.delete(index)?),
                }
            }
            match fails {
                true => Err(EngineError::ReadOnly.into()),
                false => Ok(()),
            }
        });
        assert_eq!(done.is_err(), fails);
        let mut staged = BTreeSet::new();
        for (key, value) in keys.iter().zip(&values) {
            let is_own = writes.contains_key(key) || !reads && staged.contains(key);
            if (reads || value.is_none()) && !is_own {
                read_keys.insert(key.clone());
            }
            staged.insert(key.clone());
        }
        if !fails {
            writes.extend(keys.into_iter().zip(values));
        }
    }

    fn range(
        &mut self,
        at: usize,
        seen: &BTreeMap<Vec<u8>, Vec<u8>>,
        writes: &Overlay,
        read_ranges: &mut Vec<(Vec<u8>, Option<Vec<u8>>)>,
    ) {
        let (start, end) = (self.key(), self.key());
        let end = (!self.rng.one_in(4)).then_some(end);
        let mut content = seen.clone();
        overlay(&mut content, writes);
        let is_in = |key: &[u8]| key >= &start[..] && end.as_deref().is_none_or(|end| key < end);
        let mut expected: Vec<_> = content.into_iter().filter(|(key, _)| is_in(key)).collect();
        let descends = self.rng.one_in(2);
        if descends {
            expected.reverse();
        }
        let limit = match self.rng.one_in(2) {
            true => u64::MAX,
            false => self.rng.below(20),
        };
        let engine = &self.engines[at];
        let begin = match descends {
            true => Engine::range_descending,
            false => Engine::range,
        };
        let cursor = begin(engine, DB0, &start, end.as_deref(), limit, View::Durable);
        let mut cursor = cursor.expect("a cursor");
        let mut shown: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        loop {
            let chunk = Chunk {
                entries: 1 + self.rng.below(30),
                bytes: 1 + self.rng.below(30_000) as usize,
            };
            let more = engine.range_next(&mut cursor, chunk, &mut |key, value| {
                shown.push((key.to_vec(), value.to_vec()));
            });
            if !more.expect("a chunk") {
                break;
            }
        }
        let wanted = expected.len().min(limit as usize);
        assert!(
            shown[..] == expected[..wanted],
            "the range {start:?} to {end:?}, descending: {descends}"
        );
        if limit == u64::MAX {
            read_ranges.push((start, end));
        } else if let Some((last, _)) = shown.last() {
            // More may have been looked at, up to the next that the snapshot has; this at least.
            if descends {
                read_ranges.push((last.clone(), end));
            } else {
                let mut end = last.clone();
                end.push(0);
                read_ranges.push((start, Some(end)));
            }
        }
    }

    fn savepoint(&mut self, open: &mut Open) {
        let name = vec![b'a' + self.rng.below(3) as u8];
        let known = open
            .savepoints
            .iter()
            .rposition(|(other, _)| *other == name);
        match self.rng.below(3) {
            0 => {
                let set = open.transaction.savepoint(&name, 1 << 20);
                set.expect("it is small");
                open.savepoints.push((name, open.writes.clone()));
            }
            1 => {
                assert_eq!(open.transaction.rollback_to(&name), known.is_some());
                if let Some(index) = known {
                    open.writes = open.savepoints[index].1.clone();
                    open.savepoints.truncate(index + 1);
                }
            }
            _ => {
                assert_eq!(open.transaction.release(&name), known.is_some());
                open.savepoints
                    .truncate(known.unwrap_or(open.savepoints.len()));
            }
        }
    }

    fn commit(&mut self, at: usize, open: Open) {
        let must_conflict = open.must_conflict(&self.model);
        // A limited range may have looked at more than it has shown.
        let is_exact =
            open.transaction.isolation() == Isolation::Snapshot || open.read_ranges.is_empty();
        let engine = &mut self.engines[at];
        let mut done = engine.commit(&open.transaction, &[]);
        while let Err(EngineError::Park(reason)) = done {
            self.rig.unpark(reason);
            done = engine.commit(&open.transaction, &[]);
        }
        match done {
            Ok(done) => {
                assert!(!must_conflict || open.writes.is_empty(), "it must conflict");
                self.model.commit(&open.writes, done.lsn);
                self.commits += 1;
            }
            Err(EngineError::Conflict { .. }) => {
                assert!(must_conflict || !is_exact, "it need not conflict");
                self.conflicts += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn step(&mut self) {
        let at = self.rng.below(self.engines.len() as u64) as usize;
        match self.rng.below(100) {
            0..12 if self.open[at].len() < 4 => self.begin(at),
            12..80 if !self.open[at].is_empty() => {
                let index = self.rng.below(self.open[at].len() as u64) as usize;
                let open = self.open[at].swap_remove(index);
                let open = self.command(at, open);
                self.open[at].push(open);
            }
            80..92 if !self.open[at].is_empty() => {
                let index = self.rng.below(self.open[at].len() as u64) as usize;
                let open = self.open[at].swap_remove(index);
                self.commit(at, open);
            }
            92..94 => drop(self.open[at].pop()),
            94..97 => self.rig.flush(),
            97 => drop(self.engines[at].tidy(20)),
            98 => self.engines[at].rest(),
            _ => {
                let (key, value) = (self.key(), self.value());
                let Self { rig, engines, .. } = self;
                let done = rig.run(|| {
                    engines[at].write(DB0, &[&key], &mut |access| access.put(0, &value, None))
                });
                self.model.commit(&[(key, Some(value))].into(), done.lsn);
            }
        }
    }
}

fn overlay(content: &mut BTreeMap<Vec<u8>, Vec<u8>>, writes: &Overlay) {
    for (key, value) in writes {
        match value {
            Some(value) => content.insert(key.clone(), value.clone()),
            None => content.remove(key),
        };
    }
}

fn value_in(seen: &BTreeMap<Vec<u8>, Vec<u8>>, writes: &Overlay, key: &[u8]) -> Option<Vec<u8>> {
    match writes.get(key) {
        Some(own) => own.clone(),
        None => seen.get(key).cloned(),
    }
}

fn run(seed: u64, keys: u64, key_bytes: usize, value_bytes_max: u64, steps: u64) {
    let rig = Rig::new(8192, 4 << 20);
    let engines: Vec<Engine> = (0..3).map(|number| rig.engine(number)).collect();
    let mut world = World {
        open: engines.iter().map(|_| Vec::new()).collect(),
        engines,
        rig,
        model: Model::default(),
        rng: Rng::new(seed),
        keys,
        key_bytes,
        value_bytes_max,
        conflicts: 0,
        commits: 0,
    };
    for step in 0..steps {
        world.step();
        if step % (steps / 4) == 0 {
            world.rig.verify();
        }
    }
    world.open.clear();
    assert!(
        world.conflicts > steps / 200,
        "{} conflicts",
        world.conflicts
    );
    assert!(world.commits > steps / 100, "{} commits", world.commits);
    world.rig.verify();
    world.rig.flush();
    let mut disk = Disk::new(&world.rig);
    disk.redo(&world.rig);
    let expected: Vec<_> = world.model.at(Lsn::MAX).into_iter().collect();
    assert!(
        disk.content(&world.rig, world.rig.db0_file()) == expected,
        "after redo"
    );
}

#[test]
fn transactions_see_and_conflict_as_the_model_says() {
    for seed in 1..4 {
        run(seed, 200, 2, 100, 12_000);
    }
}

#[test]
fn transactions_over_many_leaves() {
    for seed in 11..13 {
        run(seed, 400, 1200, 300, 8_000);
    }
}
