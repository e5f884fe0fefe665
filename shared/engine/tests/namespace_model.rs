//! Several namespaces against a model: created, dropped, renamed, swapped, emptied, written to one
//! by one and together, by several logical processes, while snapshots are held. What each snapshot
//! sees in each of them, what is durable, and what redo of the log makes of it after each change.

mod support;

use rd_base::Lsn;
use rd_engine::namespace::shown_name;
use rd_engine::{Chunk, Engine, EngineError, Isolation, NamespaceId, Snapshot, View};
use rd_format::catalog::{CATALOG_FILE, CatalogValue};
use std::collections::BTreeMap;
use support::redo::Disk;
use support::{Rig, Rng};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A namespace: its name, and what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Space {
    name: String,
    content: Content,
    /// Changes of it as a whole.
    changes: u32,
}

type Spaces = BTreeMap<NamespaceId, Space>;

/// Databases of SELECT that the test uses; there are more.
const DATABASES: usize = 3;
/// As many changes as a whole may be followed by a file each before a snapshot is told that its
/// place is not known.
const CHANGES_KNOWN: u32 = 4;

/// All that ever was.
struct Model {
    /// From each LSN on.
    states: Vec<(Lsn, Spaces)>,
}

impl Model {
    fn new() -> Model {
        let database = |number| {
            let id = NamespaceId::database(number).expect("there are more");
            let name = format!("db{number}");
            (
                id,
                Space {
                    name,
                    ..Space::default()
                },
            )
        };
        let spaces = (0..16).map(database).collect();
        Model {
            states: vec![(Lsn::ZERO, spaces)],
        }
    }

    fn now(&self) -> &Spaces {
        &self.states.last().expect("there always is one").1
    }

    fn at(&self, lsn: Lsn) -> &Spaces {
        let count = self.states.partition_point(|(since, _)| *since <= lsn);
        &self.states[count - 1].1
    }

    fn change(&mut self, lsn: Lsn, change: impl FnOnce(&mut Spaces)) {
        if lsn == Lsn::ZERO {
            return;
        }
        let mut spaces = self.now().clone();
        change(&mut spaces);
        self.states.push((lsn, spaces));
    }

    /// One that the test uses.
    fn pick(&self, rng: &mut Rng) -> NamespaceId {
        let used = |id: &&NamespaceId| id.database_number().is_none_or(|number| number < DATABASES);
        let ids: Vec<_> = self.now().keys().filter(used).collect();
        *ids[rng.below(ids.len() as u64) as usize]
    }

    fn pick_named(&self, rng: &mut Rng) -> Option<(NamespaceId, String)> {
        let spaces = self.now().iter();
        let named: Vec<_> = spaces
            .filter(|(id, _)| id.database_number().is_none())
            .collect();
        let (id, space) = named.get(rng.below(named.len().max(1) as u64) as usize)?;
        Some((**id, space.name.clone()))
    }
}

fn read_all(engine: &Engine, id: NamespaceId, view: View<'_>) -> Result<Content, EngineError> {
    let mut content = Content::new();
    let mut cursor = engine.range(id, b"", None, u64::MAX, view)?;
    let chunk = Chunk {
        entries: 50,
        bytes: usize::MAX,
    };
    let visit = &mut |key: &[u8], value: &[u8]| {
        content.insert(key.to_vec(), value.to_vec());
    };
    while engine.range_next(&mut cursor, chunk, visit)? {}
    Ok(content)
}

struct World {
    rig: Rig,
    engines: Vec<Engine>,
    model: Model,
    disk: Disk,
    held: Vec<(usize, Snapshot)>,
    rng: Rng,
    next_name: u32,
}

impl World {
    fn key(&mut self) -> Vec<u8> {
        format!("key{}", self.rng.below(40)).into_bytes()
    }

    fn value(&mut self) -> Vec<u8> {
        let bytes = match self.rng.below(12) {
            0 => 3000 + self.rng.below(9000),
            _ => self.rng.below(200),
        };
        vec![self.rng.below(256) as u8; bytes as usize]
    }

    fn engine(&mut self) -> usize {
        self.rng.below(self.engines.len() as u64) as usize
    }

    fn write(&mut self) {
        let (at, id) = (self.engine(), self.model.pick(&mut self.rng));
        let key = self.key();
        let value = (!self.rng.one_in(4)).then(|| self.value());
        let engine = &mut self.engines[at];
        let done = self.rig.run(|| {
            engine.write(id, &[&key], &mut |access| match &value {
                Some(value) => access.put(0, value, None),
                None => access.delete(0).map(drop),
            })
        });
        self.model.change(done.lsn, |spaces| {
            let content = &mut spaces.get_mut(&id).expect("picked").content;
            match value {
                Some(value) => content.insert(key, value),
                None => content.remove(&key),
            };
        });
    }

    /// A transaction over two or three namespaces; it reads what it has written in between, and the
    /// snapshot besides.
    fn transact(&mut self) {
        let at = self.engine();
        let isolation = match self.rng.below(3) {
            0 => Isolation::Snapshot,
            1 => Isolation::Serializable,
            _ => Isolation::Exec,
        };
        let begun = self.engines[at].begin(isolation, false, View::Newest);
        let mut transaction = Box::new(begun.expect("few are open"));
        let mut expected = self.model.now().clone();
        for _ in 0..2 + self.rng.below(4) {
            let id = self.model.pick(&mut self.rng);
            let (key, value) = (self.key(), self.value());
            let delete = self.rng.one_in(3);
            let engine = &mut self.engines[at];
            engine.attach(transaction);
            let done = engine.write(id, &[&key], &mut |access| match delete {
                true => access.delete(0).map(drop),
                false => access.put(0, &value, None),
            });
            done.expect("it goes into the transaction");
            let content = &mut expected.get_mut(&id).expect("picked").content;
            match delete {
                true => content.remove(&key),
                false => content.insert(key, value),
            };
            let seen = read_all(engine, id, View::Newest).expect("a walk");
            assert!(seen == *content, "the transaction sees its own writes");
            transaction = engine.detach().expect("attached");
        }
        let engine = &mut self.engines[at];
        let done = self.rig.run(|| engine.commit(&transaction, &[]));
        self.model.change(done.lsn, |spaces| *spaces = expected);
    }

    fn create(&mut self) {
        let at = self.engine();
        self.next_name += 1;
        let name = format!("name{}", self.next_name);
        let engine = &mut self.engines[at];
        let done = self.rig.run(|| engine.create_namespace(name.as_bytes()));
        let id = done.result;
        assert!(self.model.now().keys().all(|other| *other != id));
        self.model.change(done.lsn, |spaces| {
            spaces.insert(
                id,
                Space {
                    name,
                    ..Space::default()
                },
            );
        });
    }

    fn drop_one(&mut self) {
        let Some((id, name)) = self.model.pick_named(&mut self.rng) else {
            return;
        };
        let at = self.engine();
        let engine = &mut self.engines[at];
        let done = self.rig.run(|| engine.drop_namespace(name.as_bytes()));
        self.model
            .change(done.lsn, |spaces| drop(spaces.remove(&id)));
        let gone = read_all(&self.engines[at], id, View::Newest);
        assert!(matches!(gone, Err(EngineError::NoNamespace)), "{gone:?}");
    }

    fn rename(&mut self) {
        let Some((id, name)) = self.model.pick_named(&mut self.rng) else {
            return;
        };
        let at = self.engine();
        self.next_name += 1;
        let new = format!("renamed{}", self.next_name);
        let engine = &mut self.engines[at];
        let (old, as_bytes) = (name.as_bytes(), new.as_bytes());
        let done = self.rig.run(|| engine.rename_namespace(old, as_bytes));
        let found = self.engines[at].find_namespace(as_bytes);
        assert_eq!(found.expect("a good name").result, Some(id));
        self.model.change(done.lsn, |spaces| {
            spaces.get_mut(&id).expect("picked").name = new;
        });
    }

    fn swap(&mut self) {
        let (at, one) = (self.engine(), self.model.pick(&mut self.rng));
        let other = self.model.pick(&mut self.rng);
        let engine = &mut self.engines[at];
        let done = self.rig.run(|| engine.swap_namespaces(one, other));
        self.model.change(done.lsn, |spaces| {
            let contents = [one, other].map(|id| spaces[&id].content.clone());
            for (id, content) in [other, one].into_iter().zip(contents) {
                let space = spaces.get_mut(&id).expect("picked");
                space.content = content;
                space.changes += 1;
            }
        });
    }

    fn empty(&mut self, all: bool) {
        let (at, id) = (self.engine(), self.model.pick(&mut self.rng));
        let engine = &mut self.engines[at];
        let done = self.rig.run(|| match all {
            true => engine.flush_all(),
            false => engine.flush_namespace(id),
        });
        self.model.change(done.lsn, |spaces| {
            for (other, space) in spaces.iter_mut() {
                if all || *other == id {
                    space.content.clear();
                    space.changes += 1;
                }
            }
        });
    }

    /// What `view`, which is of `lsn`, shows of every namespace that was there.
    fn check(&self, engine: &Engine, view: View<'_>, lsn: Lsn) {
        for (id, space) in self.model.at(lsn) {
            let now = self.model.now().get(id);
            let changes = now.map_or(u32::MAX, |now| now.changes - space.changes);
            match read_all(engine, *id, view) {
                Ok(content) => assert!(content == space.content, "{} at {lsn}", space.name),
                Err(EngineError::Replaced) if changes >= CHANGES_KNOWN => {}
                Err(error) => panic!("{} at {lsn}: {error}", space.name),
            }
        }
    }

    fn check_all(&mut self) {
        let at = self.engine();
        let engine = &self.engines[at];
        self.check(engine, View::Newest, Lsn::MAX);
        self.check(engine, View::Durable, self.rig.durable());
        for (id, space) in self.model.now() {
            let count = engine.count(*id).expect("it is there").result;
            assert_eq!(count, space.content.len() as u64, "{}", space.name);
        }
        let listed = engine.namespaces().result;
        let names = listed.into_iter().map(|info| (info.id, info.name));
        let expected = self.model.now().iter();
        let expected = expected.map(|(id, space)| (*id, space.name.clone().into_bytes()));
        assert!(names.eq(expected), "the list of names");
        for (at, snapshot) in &self.held {
            self.check(&self.engines[*at], View::At(snapshot), snapshot.lsn());
        }
    }

    /// A crash now: the log, applied to whatever pages were written, makes what is durable.
    fn crash(&mut self) {
        self.rig.flush();
        for file in self.rig.shared.files.live() {
            for block in 0..self.rig.shared.files.blocks(file).min(40) {
                let tag = rd_base::PageTag::new(file, rd_base::BlockNo::new(block));
                if self.rng.one_in(6) {
                    self.disk.write(&self.rig, tag);
                }
            }
        }
        let mut disk = self.disk.clone();
        disk.redo(&self.rig);
        let mut found: BTreeMap<Vec<u8>, Content> = BTreeMap::new();
        for (name, value) in disk.content(&self.rig, CATALOG_FILE) {
            let value = CatalogValue::decode(&value).expect("an entry of the catalog");
            let content = value.file.map(|file| disk.content(&self.rig, file));
            let content = content.into_iter().flatten().collect();
            found.insert(shown_name(&name), content);
        }
        let expected = self.model.now().values();
        for space in expected {
            let content = found.remove(space.name.as_bytes()).unwrap_or_default();
            assert!(content == space.content, "{} after redo", space.name);
        }
        assert!(found.is_empty(), "after redo there are more: {found:?}");
    }

    fn step(&mut self) {
        let mut changed = true;
        match self.rng.below(100) {
            0..50 => return self.write(),
            50..62 => return self.transact(),
            62..66 => return self.rig.flush(),
            66..72 if self.held.len() < 8 => {
                let at = self.engine();
                let snapshot = match self.rng.one_in(2) {
                    true => self.engines[at].snapshot(),
                    false => self.engines[at].snapshot_newest(),
                };
                return self.held.push((at, snapshot.expect("few are held")));
            }
            66..77 => {
                if !self.held.is_empty() {
                    let index = self.rng.below(self.held.len() as u64) as usize;
                    self.held.swap_remove(index);
                }
                changed = false;
            }
            77..82 => self.create(),
            82..86 => self.drop_one(),
            86..89 => self.rename(),
            89..94 => self.swap(),
            94..99 => self.empty(false),
            _ => self.empty(true),
        }
        self.check_all();
        if changed {
            self.crash();
            self.check_all();
        }
        for engine in &mut self.engines {
            engine.tidy(20);
            engine.rest();
        }
    }
}

fn run(seed: u64, steps: u32) {
    let rig = Rig::new(4096, 4 << 20);
    let disk = Disk::new(&rig);
    let mut world = World {
        engines: (0..3).map(|number| rig.engine(number)).collect(),
        rig,
        model: Model::new(),
        disk,
        held: Vec::new(),
        rng: Rng::new(seed),
        next_name: 0,
    };
    for _ in 0..steps {
        world.step();
    }
    world.held.clear();
    world.check_all();
    world.crash();
    world.rig.verify();
}

#[test]
fn namespaces_are_as_the_model_says() {
    for seed in [1, 2, 3] {
        run(seed, 400);
    }
}

/// The limit has an error that names it, and what was dropped makes room when nobody reads it.
#[test]
fn there_are_at_most_max_namespaces() {
    let rig = Rig::new(512, 1 << 20);
    let mut engine = rig.engine(0);
    let limit = u64::from(rig.config.max_namespaces());
    for number in 0..limit {
        let name = format!("n{number}");
        rig.run(|| engine.create_namespace(name.as_bytes()));
    }
    let error = engine.create_namespace(b"one-more").expect_err("a limit");
    let text = error.to_string();
    assert!(
        text.contains("max_namespaces") && text.contains(&limit.to_string()),
        "{text}"
    );
    let twice = engine.create_namespace(b"n0").expect_err("a name");
    assert!(matches!(twice, EngineError::NamespaceExists(_)), "{twice}");
    rig.run(|| engine.drop_namespace(b"n0"));
    rig.run(|| engine.create_namespace(b"one-more"));
    rig.flush();
    rig.verify();
}

/// A snapshot from before keeps an index from being used again.
#[test]
fn an_index_is_not_used_again_while_a_snapshot_reads_what_was_there() {
    let rig = Rig::new(512, 1 << 20);
    let mut engine = rig.engine(0);
    let first = rig.run(|| engine.create_namespace(b"first")).result;
    rig.run(|| engine.write(first, &[b"key"], &mut |access| access.put(0, b"1", None)));
    rig.flush();
    let snapshot = engine.snapshot().expect("few are held");
    rig.run(|| engine.drop_namespace(b"first"));
    rig.flush();
    let second = rig.run(|| engine.create_namespace(b"second")).result;
    assert_ne!(second.index(), first.index());
    let seen = read_all(&engine, first, View::At(&snapshot)).expect("it was there");
    assert_eq!(seen.len(), 1);
    drop(snapshot);
    rig.flush();
    let third = rig.run(|| engine.create_namespace(b"third")).result;
    assert_eq!(third.index(), first.index());
    assert_ne!(third, first);
    let gone = read_all(&engine, first, View::Durable);
    assert!(matches!(gone, Err(EngineError::NoNamespace)), "{gone:?}");
}
