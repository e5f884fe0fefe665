//! Random operations by several logical processes, held against a map of versions: what each
//! snapshot sees, what is durable, what a session sees of its own, counts, and the whole tree.

mod support;

use rd_base::{BlockNo, Lsn, PageTag};
use rd_engine::{Chunk, Engine, Snapshot, View};
use rd_format::page;
use std::collections::{BTreeMap, BTreeSet};
use support::redo::Disk;
use support::{DB0, Rig, Rng};

/// A value, or that the key is deleted, since an LSN.
type Version = (Lsn, Option<Vec<u8>>);

/// By key, the versions in the order of their stamps.
#[derive(Default)]
struct Model {
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
}

impl Model {
    fn put(&mut self, key: &[u8], lsn: Lsn, value: Option<Vec<u8>>) {
        self.versions
            .entry(key.to_vec())
            .or_default()
            .push((lsn, value));
    }

    fn at(&self, key: &[u8], lsn: Lsn) -> Option<&Vec<u8>> {
        let versions = self.versions.get(key)?;
        versions
            .iter()
            .rev()
            .find(|(stamp, _)| *stamp <= lsn)?
            .1
            .as_ref()
    }

    fn all_at(&self, lsn: Lsn) -> Vec<(Vec<u8>, Vec<u8>)> {
        let keys = self.versions.keys();
        keys.filter_map(|key| Some((key.clone(), self.at(key, lsn)?.clone())))
            .collect()
    }

    fn keys(&self) -> u64 {
        self.all_at(Lsn::MAX).len() as u64
    }
}

struct Held {
    snapshot: Snapshot,
    engine: usize,
}

/// What kind of keys and values a run has.
#[derive(Clone, Copy)]
struct Kind {
    keys: u64,
    /// One key in so many is the empty one.
    empty_one_in: u64,
    /// Keys are this much longer than their number.
    key_bytes: usize,
    value_bytes_min: u64,
    value_bytes_max: u64,
    /// One value in so many is large.
    large_one_in: u64,
    /// One write in so many deletes.
    delete_one_in: u64,
    /// One write in so many is of many keys.
    batch_one_in: u64,
    /// So many keys behind all others are put at first and left alone, so that the tree has some
    /// leaves.
    fillers: u64,
    /// So many snapshots are held at most.
    held_max: usize,
    /// By turns of so many steps the empty key is written to, with a snapshot after each write, and
    /// the others; 0 for all at any time.
    turns: u64,
    steps: u64,
    /// After so many steps redo goes on with what is new in the log.
    redo_every: u64,
}

impl Default for Kind {
    fn default() -> Kind {
        Kind {
            keys: 400,
            empty_one_in: 12,
            key_bytes: 0,
            value_bytes_min: 0,
            value_bytes_max: 200,
            large_one_in: 1000,
            delete_one_in: 3,
            batch_one_in: 4,
            fillers: 0,
            held_max: 6,
            turns: 0,
            steps: 12_000,
            redo_every: u64::MAX,
        }
    }
}

/// The kind of `step`, and whether the step is the empty key's.
fn turn(kind: &Kind, step: u64) -> (Kind, bool) {
    let turn = step.checked_div(kind.turns).map(|turn| turn % 2);
    let empty_one_in = match turn {
        Some(0) => 1,
        Some(_) => u64::MAX,
        None => kind.empty_one_in,
    };
    (
        Kind {
            empty_one_in,
            ..*kind
        },
        turn == Some(0),
    )
}

fn key_of(kind: &Kind, rng: &mut Rng) -> Vec<u8> {
    // A key like any other, but the first child's bound looks much like it.
    if rng.one_in(kind.empty_one_in) {
        return Vec::new();
    }
    let number = rng.below(kind.keys);
    // Long keys with long parts in common make small fan-out, and so deep trees.
    let mut key = vec![b'k'; kind.key_bytes];
    key.extend_from_slice(format!("{number:04}").as_bytes());
    key
}

fn value_of(kind: &Kind, key: &[u8], rng: &mut Rng) -> Vec<u8> {
    let bytes = match rng.below(kind.large_one_in) {
        // Its versions lie on several leaves.
        2.. if key.is_empty() => 1500 + rng.below(400),
        0 => 1900 + rng.below(40_000),
        // Around the limit of what stays in the leaf.
        1 => 2030 + rng.below(30),
        _ => kind.value_bytes_min + rng.below(kind.value_bytes_max - kind.value_bytes_min),
    };
    let first = rng.below(256) as u8;
    (0..bytes)
        .map(|index| first.wrapping_add(index as u8))
        .collect()
}

fn check_snapshot(engine: &Engine, view: View<'_>, at: Lsn, model: &Model, rng: &mut Rng) {
    let expected = model.all_at(at);
    let (from, until) = (
        rng.below(expected.len() as u64 + 1) as usize,
        expected.len(),
    );
    let start = expected.get(from).map_or(&b"~"[..], |(key, _)| key);
    let mut cursor = engine
        .range(DB0, start, None, u64::MAX, view)
        .expect("a cursor");
    let mut seen = Vec::new();
    let chunk = Chunk {
        entries: 1 + rng.below(100),
        bytes: 1 + rng.below(100_000) as usize,
    };
    while engine
        .range_next(&mut cursor, chunk, &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
        })
        .expect("a chunk")
    {}
    assert!(seen[..] == expected[from..until], "the range at {at}");
    check_descending(engine, view, &expected, rng);
}

/// A walk to smaller keys shows what one to greater keys would, the other way round.
fn check_descending(
    engine: &Engine,
    view: View<'_>,
    expected: &[(Vec<u8>, Vec<u8>)],
    rng: &mut Rng,
) {
    let mut place = || rng.below(expected.len() as u64 + 1) as usize;
    let (from, until) = (place(), place());
    let start = expected.get(from).map_or(&b"~"[..], |(key, _)| key);
    let end = expected.get(until).map(|(key, _)| &key[..]);
    let limit = if rng.one_in(3) {
        rng.below(20)
    } else {
        u64::MAX
    };
    let mut cursor = engine
        .range_descending(DB0, start, end, limit, view)
        .expect("a cursor");
    let mut keys = cursor.clone();
    let chunk = Chunk {
        entries: 1 + rng.below(100),
        bytes: 1 + rng.below(100_000) as usize,
    };
    let mut seen = Vec::new();
    while engine
        .range_next(&mut cursor, chunk, &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
        })
        .expect("a chunk")
    {}
    let is_in = |key: &[u8]| key >= start && end.is_none_or(|end| key < end);
    let wanted = expected.iter().rev().filter(|(key, _)| is_in(key));
    assert!(
        seen.iter().eq(wanted.take(limit as usize)),
        "from {end:?} down to {start:?}"
    );
    let mut sizes = Vec::new();
    while engine
        .range_next_keys(&mut keys, chunk, &mut |key, meta| {
            sizes.push((key.to_vec(), meta.bytes));
        })
        .expect("a chunk")
    {}
    let wanted = seen.iter().map(|(key, value)| (&key[..], value.len()));
    assert!(
        sizes
            .iter()
            .map(|(key, bytes)| (&key[..], *bytes))
            .eq(wanted)
    );
}

fn run(kind: Kind, seed: u64) {
    let rig = Rig::new(8192, 4 << 20);
    let mut rng = Rng::new(seed);
    let mut engines: Vec<Engine> = (0..4).map(|number| rig.engine(number)).collect();
    let mut model = Model::default();
    let mut held: Vec<Held> = Vec::new();
    let mut disk = Disk::new(&rig);
    let mut redone = disk.clone();
    for number in (0..kind.fillers).rev() {
        let (key, value) = (format!("x{number:02}").into_bytes(), vec![7; 1500]);
        let done =
            rig.run(|| engines[0].write(DB0, &[&key], &mut |access| access.put(0, &value, None)));
        model.put(&key, done.lsn, Some(value));
    }
    for step in 0..kind.steps {
        let at = rng.below(engines.len() as u64) as usize;
        let (kind, is_empty_keys) = turn(&kind, step);
        if rng.one_in(20) {
            look_ahead(&rig, &mut engines, at, &kind, &mut model, &mut rng);
        }
        let engine = &mut engines[at];
        match rng.below(100) {
            0..50 => {
                write(&rig, engine, &kind, &mut model, &mut rng);
                if is_empty_keys {
                    if held.len() == kind.held_max {
                        held.swap_remove(rng.below(held.len() as u64) as usize);
                    }
                    held.push(Held {
                        snapshot: engine.snapshot_newest().expect("few are held"),
                        engine: at,
                    });
                }
            }
            50..75 => read(&rig, engine, &kind, &model, &mut rng),
            75..80 => rig.flush(),
            80..84 if held.len() < kind.held_max => {
                let newest = rng.one_in(2);
                let snapshot = if newest {
                    engine.snapshot_newest()
                } else {
                    engine.snapshot()
                };
                held.push(Held {
                    snapshot: snapshot.expect("few are held"),
                    engine: at,
                });
            }
            84..90 if !held.is_empty() => {
                let index = rng.below(held.len() as u64) as usize;
                let one = held.swap_remove(index);
                let (engine, at) = (&engines[one.engine], one.snapshot.lsn());
                check_snapshot(engine, View::At(&one.snapshot), at, &model, &mut rng);
            }
            90..95 => {
                engine.tidy(rng.below(50) as usize);
            }
            95..98 => write_pages(&rig, &mut disk, &mut rng),
            _ => engine.rest(),
        }
        if step % (kind.steps / 8).max(1) == 0 {
            rig.verify();
            assert_eq!(engines[0].count(DB0).expect("a count").result, model.keys());
        }
        if step % kind.redo_every == kind.redo_every - 1 {
            check_redo_further(&rig, &mut redone, &model);
        }
    }
    held.clear();
    check_snapshot(&engines[0], View::Newest, Lsn::MAX, &model, &mut rng);
    rig.verify();
    check_redo(&rig, &disk, &model);
    clear(&rig, &mut engines, &mut model);
    write_pages(&rig, &mut disk, &mut rng);
    check_redo(&rig, &disk, &model);
}

/// One process looks ahead at keys, then asks for some of them in that order, while others write
/// to them, split their leaves and empty them: what it has seen makes no difference.
fn look_ahead(
    rig: &Rig,
    engines: &mut [Engine],
    at: usize,
    kind: &Kind,
    model: &mut Model,
    rng: &mut Rng,
) {
    let keys: Vec<Vec<u8>> = (0..1 + rng.below(20)).map(|_| key_of(kind, rng)).collect();
    engines[at].look_ahead(DB0, keys.iter().map(|key| &key[..]));
    for key in &keys {
        for _ in 0..rng.below(4) {
            let other = rng.below(engines.len() as u64) as usize;
            if rng.one_in(4) {
                rig.flush();
                engines[other].tidy(10);
            } else if other == at || rng.one_in(8) {
                engines[other].rest();
            } else {
                write(rig, &mut engines[other], kind, model, rng);
            }
        }
        match rng.below(3) {
            0 => write_keys(rig, &mut engines[at], kind, vec![key.clone()], model, rng),
            1 => {
                let copy = |value: Option<rd_engine::Value<'_>>| value.map(|v| v.bytes.to_vec());
                let read = engines[at].get(DB0, key, View::Newest, copy);
                let seen = read.expect("a read").result;
                assert_eq!(seen.as_ref(), model.at(key, Lsn::MAX), "ahead {key:?}");
            }
            _ => {}
        }
    }
}

/// As a checkpointer does, at any time: some pages as they are.
fn write_pages(rig: &Rig, disk: &mut Disk, rng: &mut Rng) {
    let file = rig.db0_file();
    for _ in 0..20 {
        let block = rng.below(u64::from(rig.shared.files.blocks(file))) as u32;
        disk.write(rig, PageTag::new(file, BlockNo::new(block)));
    }
}

/// Redo from the start of the log makes the same of a new directory, and of any pages written
/// meanwhile.
fn check_redo(rig: &Rig, written: &Disk, model: &Model) {
    rig.flush();
    for mut disk in [written.clone(), Disk::new(rig)] {
        disk.redo(rig);
        let content = disk.content(rig, rig.db0_file());
        assert!(
            content == model.all_at(Lsn::MAX),
            "redo makes something else"
        );
    }
}

/// What has come to the log since the last time makes the newest content of pages that were changed
/// by redo alone.
fn check_redo_further(rig: &Rig, redone: &mut Disk, model: &Model) {
    rig.flush();
    redone.redo(rig);
    let content = redone.content(rig, rig.db0_file());
    assert!(content == model.all_at(Lsn::MAX), "redo goes on otherwise");
}

fn write(rig: &Rig, engine: &mut Engine, kind: &Kind, model: &mut Model, rng: &mut Rng) {
    let many = rng.one_in(kind.batch_one_in);
    let count = if many { 1 + rng.below(40) } else { 1 };
    let keys = (0..count).map(|_| key_of(kind, rng)).collect();
    write_keys(rig, engine, kind, keys, model, rng);
}

fn write_keys(
    rig: &Rig,
    engine: &mut Engine,
    kind: &Kind,
    keys: Vec<Vec<u8>>,
    model: &mut Model,
    rng: &mut Rng,
) {
    let values: Vec<Option<Vec<u8>>> = keys
        .iter()
        .map(|key| (!rng.one_in(kind.delete_one_in)).then(|| value_of(kind, key, rng)))
        .collect();
    let borrowed: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let check = rng.one_in(2);
    let expected: Vec<Option<Vec<u8>>> = keys
        .iter()
        .map(|key| model.at(key, Lsn::MAX).cloned())
        .collect();
    let done = rig.run(|| {
        engine.write(DB0, &borrowed, &mut |access| {
            if check {
                for (index, value) in expected.iter().enumerate() {
                    assert_eq!(access.newest(index)?, value.as_deref(), "{:?}", keys[index]);
                }
            }
            for (index, value) in values.iter().enumerate() {
                match value {
                    Some(value) => access.put(index, value, None)?,
                    None => drop(access.delete(index)?),
                }
            }
            for (index, key) in keys.iter().enumerate() {
                let last = keys.iter().rposition(|other| other == key).expect("itself");
                assert_eq!(
                    access.newest(index)?,
                    values[last].as_deref(),
                    "own writes are seen"
                );
            }
            Ok(())
        })
    });
    if done.lsn == Lsn::ZERO {
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        let last = keys.iter().rposition(|other| other == key).expect("itself");
        if last == index && (values[index].is_some() || expected[index].is_some()) {
            model.put(key, done.lsn, values[index].clone());
        }
    }
}

fn read(rig: &Rig, engine: &Engine, kind: &Kind, model: &Model, rng: &mut Rng) {
    let key = key_of(kind, rng);
    let durable = rig.durable();
    let copy = |value: Option<rd_engine::Value<'_>>| value.map(|value| value.bytes.to_vec());
    let read = engine.get(DB0, &key, View::Durable, copy).expect("a read");
    assert_eq!(
        read.result.as_ref(),
        model.at(&key, durable),
        "durable {key:?}"
    );
    assert_eq!(read.depends_on, Lsn::ZERO);
    let read = engine.get(DB0, &key, View::Newest, copy).expect("a read");
    assert_eq!(
        read.result.as_ref(),
        model.at(&key, Lsn::MAX),
        "newest {key:?}"
    );
    let stamp = model
        .versions
        .get(&key)
        .and_then(|versions| versions.last());
    if let Some((stamp, _)) = stamp.filter(|(stamp, _)| *stamp > durable) {
        assert_eq!(read.depends_on, *stamp);
    }
    let meta = engine.meta(DB0, &key, View::Newest).expect("a read").result;
    assert_eq!(
        meta.map(|meta| meta.bytes),
        model.at(&key, Lsn::MAX).map(Vec::len)
    );
    let keys: Vec<Vec<u8>> = (0..5).map(|_| key_of(kind, rng)).collect();
    let borrowed: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
    let mut seen = Vec::new();
    engine
        .multi_get(DB0, &borrowed, View::Durable, &mut |_, value| {
            seen.push(copy(value))
        })
        .expect("a read");
    let expected: Vec<_> = keys
        .iter()
        .map(|key| model.at(key, durable).cloned())
        .collect();
    assert_eq!(seen, expected);
}

/// Deletes everything; then, with nobody looking, nothing may be left but empty pages.
fn clear(rig: &Rig, engines: &mut [Engine], model: &mut Model) {
    for (key, _) in model.all_at(Lsn::MAX) {
        let engine = &mut engines[0];
        let done = rig.run(|| engine.write(DB0, &[&key], &mut |access| access.delete(0)));
        model.put(&key, done.lsn, None);
    }
    for _ in 0..4 {
        rig.flush();
        for engine in engines.iter_mut() {
            while engine.tidy(usize::MAX) {
                rig.flush();
            }
            engine.rest();
        }
    }
    let report = rig.verify();
    assert_eq!((report.keys, report.overflow_pages), (0, 0), "{report:?}");
    assert!(report.leaves <= 1 + report.inner_pages * 2, "{report:?}");
}

#[test]
fn short_keys_and_values() {
    let kind = Kind {
        keys: 400,
        steps: 12_000,
        ..Kind::default()
    };
    for seed in 1..4 {
        run(kind, seed);
    }
}

#[test]
fn long_keys_make_deep_trees() {
    let kind = Kind {
        keys: 600,
        key_bytes: 1500,
        value_bytes_max: 300,
        large_one_in: 100,
        steps: 6_000,
        ..Kind::default()
    };
    for seed in 11..13 {
        run(kind, seed);
    }
}

#[test]
fn values_around_the_limit_of_the_leaf() {
    let kind = Kind {
        keys: 60,
        key_bytes: 3,
        value_bytes_max: 2500,
        large_one_in: 4,
        steps: 6_000,
        ..Kind::default()
    };
    for seed in 21..23 {
        run(kind, seed);
    }
}

#[test]
fn a_few_hot_keys_with_many_versions() {
    let kind = Kind {
        keys: 5,
        key_bytes: 100,
        value_bytes_max: 1500,
        large_one_in: 40,
        steps: 8_000,
        ..Kind::default()
    };
    for seed in 31..34 {
        run(kind, seed);
    }
}

/// Snapshots keep more on a leaf than redo does, which must not lose a deletion while an older value
/// can come back. By turns the empty key comes and goes under snapshots, which fills its leaf with
/// large values, and a small neighbour is overwritten without. Short runs, because a leaf is soon
/// cut where it matters, and seldom again.
#[test]
fn a_key_that_is_deleted_under_many_snapshots() {
    let kind = Kind {
        keys: 1,
        value_bytes_max: 500,
        delete_one_in: 2,
        batch_one_in: 1000,
        fillers: 12,
        held_max: 16,
        turns: 14,
        steps: 100,
        redo_every: 1,
        ..Kind::default()
    };
    for seed in 41..121 {
        run(kind, seed);
    }
}

/// Redo from the least rec LSN meets every record that a page was changed by: none that has made one
/// dirty lies below what its page says.
#[test]
fn every_page_is_dirty_from_before_its_record() {
    let rig = Rig::new(2048, 4 << 20);
    let mut engine = rig.engine(0);
    let mut known = BTreeSet::new();
    for number in 0..400 {
        let key = format!("key{number}");
        let value = vec![7; if number % 50 == 0 { 20_000 } else { 100 }];
        let before = rig.shared.wal.insert_lsn();
        rig.run(|| {
            engine.write(DB0, &[key.as_bytes()], &mut |access| {
                access.put(0, &value, None)
            })
        });
        let mut dirty = Vec::new();
        rig.shared.pool.dirty_before(Lsn::MAX, &mut dirty);
        for frame in dirty {
            if !known.insert(frame.tag) {
                continue;
            }
            let pin = rig
                .shared
                .pool
                .get_resident(frame.tag)
                .expect("it is dirty");
            let (since, end) = (frame.rec_lsn, page::page_lsn(&pin.read()));
            assert!(
                before <= since && since < end,
                "{}: {before} {since} {end}",
                frame.tag
            );
        }
        rig.flush();
    }
    assert!(known.len() > 20, "{} pages", known.len());
}
