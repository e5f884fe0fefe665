//! Leaf and inner pages against a model: a small B-link tree is built of them, with random
//! operations and hostile keys, and must answer as a sorted map of (key, stamp descending) does.

mod support;

use rd_base::limits::{INLINE_BYTES_MAX, KEY_BYTES_MAX, PAGE_BYTES, VALUE_BYTES_CEILING};
use rd_base::{BlockNo, Lsn};
use rd_format::node::{
    Bound, Incoming, LeafEntry, NoRoom, NodeMut, NodeRef, OverflowStub, Payload, SplitPlan, split,
    split_point, stays_inline,
};
use rd_format::overflow::pages_for;
use rd_format::page::{self, PageBytes, flags};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use support::Random;

#[derive(Clone, Debug, PartialEq)]
struct Owned {
    expiry_ms: Option<u64>,
    /// `None` is a tombstone.
    value: Option<Result<Vec<u8>, OverflowStub>>,
}

impl Owned {
    fn entry<'a>(&'a self, key: &'a [u8], stamp: u64) -> LeafEntry<'a> {
        let payload = match &self.value {
            None => Payload::Tombstone,
            Some(Ok(value)) => Payload::Inline(value),
            Some(Err(stub)) => Payload::Overflow(*stub),
        };
        LeafEntry {
            key,
            stamp: Lsn::new(stamp),
            expiry_ms: self.expiry_ms,
            payload,
        }
    }
    fn of(entry: &LeafEntry<'_>) -> Self {
        let value = match entry.payload {
            Payload::Tombstone => None,
            Payload::Inline(value) => Some(Ok(value.to_vec())),
            Payload::Overflow(stub) => Some(Err(stub)),
        };
        Self {
            expiry_ms: entry.expiry_ms,
            value,
        }
    }
}

type Model = BTreeMap<(Vec<u8>, Reverse<u64>), Owned>;

/// A tree whose root is block 1 (block 0 is no link).
struct Tree {
    pages: Vec<PageBytes>,
    splits: usize,
}

impl Tree {
    fn new() -> Self {
        let mut pages = vec![[0; PAGE_BYTES]; 2];
        NodeMut::init_leaf(&mut pages[1]);
        Self { pages, splits: 0 }
    }

    fn node(&self, block: BlockNo) -> NodeRef<'_> {
        NodeRef::new(&self.pages[block.get() as usize])
    }

    fn node_mut(&mut self, block: BlockNo) -> NodeMut<'_> {
        NodeMut::new(&mut self.pages[block.get() as usize])
    }

    fn new_page(&mut self) -> BlockNo {
        self.pages.push([0; PAGE_BYTES]);
        BlockNo::new(self.pages.len() as u32 - 1)
    }

    /// The blocks from the root to the leaf for (key, stamp).
    fn descend(&self, key: &[u8], stamp: u64) -> Vec<BlockNo> {
        let stamp = Lsn::new(stamp);
        let mut path = vec![];
        let mut block = BlockNo::new(1);
        loop {
            while !self.node(block).covers(key, stamp) {
                block = self
                    .node(block)
                    .right_link()
                    .expect("a high key has a right sibling");
            }
            path.push(block);
            if self.node(block).is_leaf() {
                return path;
            }
            block = self.node(block).child_for(key, stamp).1;
        }
    }

    /// The first entry not before (key, stamp), in the whole tree.
    fn seek(&self, key: &[u8], stamp: u64) -> Option<(Vec<u8>, u64, Owned)> {
        let mut block = *self.descend(key, stamp).last().expect("a path has a leaf");
        let mut slot = self.node(block).lower_bound(key, Lsn::new(stamp));
        while slot == self.node(block).count() {
            block = self.node(block).right_link()?;
            slot = 0;
        }
        let entry = self.node(block).leaf_entry(slot);
        Some((entry.key.to_vec(), entry.stamp.get(), Owned::of(&entry)))
    }

    fn insert(&mut self, key: &[u8], stamp: u64, value: &Owned) {
        let entry = value.entry(key, stamp);
        loop {
            let path = self.descend(key, stamp);
            let leaf = *path.last().expect("a path has a leaf");
            match self.node_mut(leaf).insert_leaf(&entry) {
                Ok(slot) => {
                    assert_eq!(self.node(leaf).leaf_entry(slot), entry);
                    self.verify(leaf);
                    return;
                }
                Err(NoRoom { needed, free }) => {
                    assert!(needed > free);
                    // As a commit does: the stamp is not known when room is made.
                    let incoming = Incoming {
                        key,
                        stamp: Lsn::new(stamp),
                        cell_bytes: entry.cell_bytes(),
                    };
                    self.split(&path, Some(incoming));
                }
            }
        }
    }

    /// Splits the last page of `path` and tells its parents, splitting them first if need be.
    fn split(&mut self, path: &[BlockNo], incoming: Option<Incoming<'_>>) {
        let (block, parents) = path.split_last().expect("a path has a page");
        let Some(plan) = split_point(&self.node(*block), incoming) else {
            panic!("a page without room cannot be split");
        };
        self.splits += 1;
        if parents.is_empty() {
            self.split_root(&plan);
            return;
        }
        let right = self.new_page();
        self.split_page(*block, right, &plan);
        let bound = plan.separator.as_bound();
        loop {
            // The parent may have been split since: find it again.
            let parent = *self
                .descend_to_level(bound, self.node(*block).level() + 1)
                .last()
                .expect("the root is above");
            match self.node_mut(parent).insert_inner(bound, right) {
                Ok(slot) => {
                    assert_eq!(self.node(parent).inner_entry(slot), (bound, right));
                    self.verify(parent);
                    self.node_mut(*block)
                        .change_flags(0, flags::SPLIT_INCOMPLETE);
                    return;
                }
                Err(_) => {
                    let level = self.node(*block).level() + 1;
                    let path = self.descend_to_level(bound, level);
                    let incoming = Incoming {
                        key: bound.key,
                        stamp: bound.stamp,
                        cell_bytes: bound.cell_bytes(),
                    };
                    self.split(&path, Some(incoming));
                }
            }
        }
    }

    fn descend_to_level(&self, bound: Bound<'_>, level: u8) -> Vec<BlockNo> {
        let mut path = vec![];
        let mut block = BlockNo::new(1);
        loop {
            while !self.node(block).covers(bound.key, bound.stamp) {
                block = self
                    .node(block)
                    .right_link()
                    .expect("a high key has a right sibling");
            }
            path.push(block);
            if self.node(block).level() == level {
                return path;
            }
            block = self.node(block).child_for(bound.key, bound.stamp).1;
        }
    }

    fn split_page(&mut self, block: BlockNo, right: BlockNo, plan: &SplitPlan) {
        let mut left_page = self.pages[block.get() as usize];
        let before = entries(NodeRef::new(&left_page));
        let high_before = NodeRef::new(&left_page)
            .high_key()
            .map(|bound| bound.to_owned());
        // Redo does the left page by bound instead of by slot: the same must come out.
        let mut redone = left_page;
        split(
            &mut left_page,
            &mut self.pages[right.get() as usize],
            plan,
            right,
        );
        let bound = plan.separator.as_bound();
        NodeMut::new(&mut redone)
            .split_left(bound, right)
            .expect("what was planned fits");
        NodeRef::new(&redone)
            .verify()
            .expect("redo leaves a sound page");
        assert_eq!(
            entries(NodeRef::new(&redone)),
            entries(NodeRef::new(&left_page))
        );
        assert_eq!(
            NodeRef::new(&redone).high_key(),
            NodeRef::new(&left_page).high_key()
        );
        self.pages[block.get() as usize] = left_page;
        let (left, right) = (self.node(block), self.node(right));
        left.verify().expect("left half is sound");
        right.verify().expect("right half is sound");
        assert_eq!(left.high_key(), Some(bound));
        assert_eq!(right.high_key().map(|bound| bound.to_owned()), high_before);
        assert_eq!(
            left.flags() & flags::SPLIT_INCOMPLETE,
            flags::SPLIT_INCOMPLETE
        );
        if left.is_leaf() {
            let both: Vec<_> = entries(left).into_iter().chain(entries(right)).collect();
            assert_eq!(both, before, "a split loses and adds nothing");
        } else {
            assert_eq!(left.count() + right.count(), before.len());
        }
    }

    /// The root never moves: its content goes to two new children.
    fn split_root(&mut self, plan: &SplitPlan) {
        let (left, right) = (self.new_page(), self.new_page());
        self.pages[left.get() as usize] = self.pages[1];
        self.split_page(left, right, plan);
        self.node_mut(left).change_flags(0, flags::SPLIT_INCOMPLETE);
        let level = self.node(left).level() + 1;
        let mut root = NodeMut::init_inner(&mut self.pages[1], level, left);
        root.insert_inner(plan.separator.as_bound(), right)
            .expect("one child fits");
        self.verify(BlockNo::new(1));
    }

    fn verify(&self, block: BlockNo) {
        if let Err(error) = self.node(block).verify() {
            panic!("block {block}: {error}");
        }
    }

    /// All entries, by walking the right links of the leaves.
    fn all(&self) -> Model {
        let mut block = *self
            .descend(&[], u64::MAX)
            .last()
            .expect("a path has a leaf");
        let mut all = Model::new();
        let mut count = 0;
        loop {
            self.verify(block);
            for (key, stamp, value) in entries(self.node(block)) {
                let value = value.expect("a leaf");
                all.insert((key, Reverse(stamp)), value);
                count += 1;
            }
            match self.node(block).right_link() {
                Some(right) => block = right,
                None => break,
            }
        }
        assert_eq!(all.len(), count, "no entry is there twice");
        all
    }
}

fn entries(node: NodeRef<'_>) -> Vec<(Vec<u8>, u64, Option<Owned>)> {
    (0..node.count())
        .map(|slot| {
            let (key, stamp) = node.key_and_stamp(slot);
            let value = node.is_leaf().then(|| Owned::of(&node.leaf_entry(slot)));
            (key.to_vec(), stamp.get(), value)
        })
        .collect()
}

/// Ways to choose keys.
#[derive(Clone, Copy, Debug)]
enum Keys {
    Short,
    AnyLength,
    Maximal,
    LongPrefix,
    NestedPrefixes,
    Few,
    Ascending,
    Decimal,
}

fn random_key(random: &mut Random, keys: Keys, step: u64) -> Vec<u8> {
    match keys {
        Keys::Short => {
            let len = random.below(4);
            random.bytes(len)
        }
        Keys::AnyLength => {
            let len = random.below(KEY_BYTES_MAX + 1);
            random.bytes(len)
        }
        Keys::Maximal => {
            let mut key = vec![b'm'; KEY_BYTES_MAX];
            let at = [0, 1, 1000, KEY_BYTES_MAX - 1][random.below(4)];
            key[at] = random.word() as u8;
            key
        }
        Keys::LongPrefix => {
            let mut key = vec![b'p'; 200 + 600 * random.below(3)];
            key.extend(random.bytes(2));
            key
        }
        Keys::NestedPrefixes => vec![0; random.below(600)],
        Keys::Few => vec![b'k', random.below(3) as u8],
        Keys::Ascending => format!("key:{step:012}").into_bytes(),
        Keys::Decimal => format!("key:{:012}", random.below(100_000)).into_bytes(),
    }
}

fn random_value(random: &mut Random, key: &[u8]) -> Owned {
    let expiry_ms = random.one_in(5).then(|| random.word());
    let value = match random.below(10) {
        0 | 1 => None,
        2 => {
            let value_bytes = 1 + random.below(VALUE_BYTES_CEILING);
            Some(Err(OverflowStub {
                first: BlockNo::new(random.word() as u32),
                pages: pages_for(value_bytes) as u32,
                value_bytes: value_bytes as u32,
                crc: random.word() as u32,
            }))
        }
        3 => {
            let most = INLINE_BYTES_MAX - key.len();
            let len = random.below(most + 1);
            assert!(stays_inline(key.len(), len) && !stays_inline(key.len(), most + 1));
            Some(Ok(random.bytes(len)))
        }
        _ => {
            let len = random.below(120.min(INLINE_BYTES_MAX - key.len()) + 1);
            Some(Ok(random.bytes(len)))
        }
    };
    Owned { expiry_ms, value }
}

/// Replaces a version by a newer one in place, as a commit does when the old one may go.
fn replace(tree: &mut Tree, model: &mut Model, random: &mut Random, stamp: u64) {
    let Some(at) = nth(model, random) else { return };
    let (key, Reverse(old)) = at.clone();
    let newest = model
        .range((key.clone(), Reverse(u64::MAX))..)
        .next()
        .map(|(at, _)| at.1.0);
    if newest != Some(old) {
        return;
    }
    let leaf = *tree.descend(&key, old).last().expect("a path has a leaf");
    if !tree.node(leaf).covers(&key, Lsn::new(stamp)) || tree.node(leaf).count() == 0 {
        return;
    }
    let slot = tree.node(leaf).lower_bound(&key, Lsn::new(old));
    // The new version must belong to the same page: not if the page begins inside the key.
    if *tree.descend(&key, stamp).last().expect("a path has a leaf") != leaf {
        return;
    }
    let value = random_value(random, &key);
    let before = tree.pages[leaf.get() as usize];
    match tree
        .node_mut(leaf)
        .replace_leaf(slot, &value.entry(&key, stamp))
    {
        Ok(()) => {
            model.remove(&at);
            model.insert((key, Reverse(stamp)), value);
        }
        Err(_) => assert_eq!(
            tree.pages[leaf.get() as usize],
            before,
            "no room changes nothing"
        ),
    }
    tree.verify(leaf);
}

fn remove(tree: &mut Tree, model: &mut Model, random: &mut Random) {
    let Some((key, Reverse(stamp))) = nth(model, random) else {
        return;
    };
    let leaf = *tree.descend(&key, stamp).last().expect("a path has a leaf");
    let slot = tree.node(leaf).lower_bound(&key, Lsn::new(stamp));
    assert_eq!(
        tree.node(leaf).key_and_stamp(slot),
        (&key[..], Lsn::new(stamp))
    );
    tree.node_mut(leaf).remove(slot);
    tree.verify(leaf);
    model.remove(&(key, Reverse(stamp)));
}

/// Prunes a leaf to what a snapshot at `horizon` or later can see.
fn prune(tree: &mut Tree, model: &mut Model, random: &mut Random, horizon: u64) {
    let Some((key, Reverse(stamp))) = nth(model, random) else {
        return;
    };
    let leaf = *tree.descend(&key, stamp).last().expect("a path has a leaf");
    let mut gone = vec![];
    let dropped = tree.node_mut(leaf).prune(|newer, entry, oldest_left| {
        let superseded = newer.is_some_and(|newer| newer.get() <= horizon);
        let dead = entry.is_tombstone() && oldest_left && entry.stamp.get() <= horizon;
        if superseded || dead {
            gone.push((entry.key.to_vec(), Reverse(entry.stamp.get())));
        }
        superseded || dead
    });
    tree.verify(leaf);
    assert_eq!(dropped, gone.len());
    for at in gone {
        let value = model.remove(&at).expect("what is dropped was there");
        assert!(!matches!(value.value, Some(Err(_))), "overflow owners stay");
    }
}

fn nth(model: &Model, random: &mut Random) -> Option<(Vec<u8>, Reverse<u64>)> {
    let key = random.bytes(2);
    let from = (key, Reverse(random.word()));
    model
        .range(from..)
        .next()
        .or_else(|| model.iter().next())
        .map(|(at, _)| at.clone())
}

fn check_seeks(tree: &Tree, model: &Model, random: &mut Random, keys: Keys, step: u64) {
    for round in 0..4 {
        let key = if round < 2 {
            random_key(random, keys, step)
        } else {
            nth(model, random).map_or(vec![], |at| at.0)
        };
        let stamp = match random.below(3) {
            0 => u64::MAX,
            1 => random.word() % (step * 8 + 1),
            _ => 0,
        };
        let expected = model.range((key.clone(), Reverse(stamp))..).next();
        let expected = expected.map(|((key, stamp), value)| (key.clone(), stamp.0, value.clone()));
        assert_eq!(tree.seek(&key, stamp), expected, "seek {key:?} at {stamp}");
    }
}

fn run(seed: u64, keys: Keys, steps: u64) -> Tree {
    let mut random = Random::new(seed);
    let (mut tree, mut model) = (Tree::new(), Model::new());
    for step in 1..=steps {
        let stamp = step * 8;
        match random.below(20) {
            0 => remove(&mut tree, &mut model, &mut random),
            1 => prune(&mut tree, &mut model, &mut random, stamp / 2),
            2 | 3 => replace(&mut tree, &mut model, &mut random, stamp),
            _ => {
                let key = random_key(&mut random, keys, step);
                let value = random_value(&mut random, &key);
                tree.insert(&key, stamp, &value);
                model.insert((key, Reverse(stamp)), value);
            }
        }
        check_seeks(&tree, &model, &mut random, keys, step);
    }
    assert_eq!(tree.all(), model, "seed {seed}, {keys:?}");
    tree
}

#[test]
fn a_tree_of_pages_answers_as_a_sorted_map_does() {
    for (seed, keys, steps) in [
        (1, Keys::Short, 3000),
        (2, Keys::AnyLength, 1500),
        (3, Keys::Maximal, 1500),
        (4, Keys::LongPrefix, 2000),
        (5, Keys::NestedPrefixes, 2000),
        (6, Keys::Few, 3000),
        (7, Keys::Ascending, 4000),
        (8, Keys::Decimal, 4000),
    ] {
        let tree = run(seed, keys, steps);
        assert!(tree.splits > 20, "{keys:?} has only {} splits", tree.splits);
    }
}

/// What redo drops when it must: no key's newest version, unless it is a tombstone with nothing
/// below it; nothing that owns overflow pages.
#[test]
fn redo_makes_room_without_losing_what_counts() {
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut page = [0; PAGE_BYTES];
        let mut node = NodeMut::init_leaf(&mut page);
        let mut model = Model::new();
        for stamp in 1.. {
            let key = random_key(&mut random, Keys::Few, stamp);
            let value = random_value(&mut random, &key);
            if node.insert_leaf(&value.entry(&key, stamp)).is_err() {
                break;
            }
            model.insert((key, Reverse(stamp)), value);
        }
        // Versions of key 1 may go on to the right.
        let bounded = random.one_in(2);
        if bounded {
            let last = node.as_ref().key_and_stamp(node.as_ref().count() - 1);
            let bound = (last.0.to_vec(), last.1);
            node.truncate_at(Bound {
                key: &bound.0,
                stamp: bound.1,
            })
            .expect("a slot's room");
            model.remove(&(bound.0, Reverse(bound.1.get())));
        }
        let high = node.as_ref().high_key().map(|bound| bound.key.to_vec());
        node.redo_make_room();
        node.as_ref().verify().expect("sound");
        let mut expected = Model::new();
        let mut last_kept: Option<(Vec<u8>, bool)> = None;
        for ((key, stamp), value) in model.iter().rev() {
            let newest = model
                .range((key.clone(), Reverse(u64::MAX))..)
                .next()
                .expect("the key is there")
                .0
                .1;
            let overflow = matches!(value.value, Some(Err(_)));
            let older = last_kept.as_ref().is_some_and(|(kept, _)| kept == key)
                || high.as_ref() == Some(key);
            let dead = value.value.is_none() && !older;
            if overflow || (newest == *stamp && !dead) {
                expected.insert((key.clone(), *stamp), value.clone());
                last_kept = Some((key.clone(), true));
            }
        }
        let found: Model = entries(node.as_ref())
            .into_iter()
            .map(|(key, stamp, value)| ((key, Reverse(stamp)), value.expect("a leaf")))
            .collect();
        assert_eq!(found, expected, "seed {seed}, bounded {bounded}");
    }
}

/// Ascending inserts leave pages nearly full, random ones about two thirds.
#[test]
fn ascending_inserts_fill_their_pages() {
    let mut tree = Tree::new();
    for step in 0..20_000u64 {
        let value = Owned {
            expiry_ms: None,
            value: Some(Ok(vec![7; 100])),
        };
        tree.insert(format!("key:{step:012}").as_bytes(), step + 1, &value);
    }
    let leaves: Vec<_> = (1..tree.pages.len() as u32)
        .map(BlockNo::new)
        .filter(|block| tree.node(*block).is_leaf() && tree.node(*block).right_link().is_some())
        .collect();
    let free: usize = leaves
        .iter()
        .map(|leaf| tree.node(*leaf).free_bytes_after_compact())
        .sum();
    let free_percent = 100 * free / (leaves.len() * PAGE_BYTES);
    assert!(free_percent < 15, "{free_percent}% free");
}

/// Whatever is on a page that passed nothing: reading it may give nonsense, but no panic; and
/// `verify` names the damage or the page is as good as any.
#[test]
fn damaged_pages_are_named_or_read_without_harm() {
    let mut random = Random::new(11);
    let mut named = 0;
    for round in 0..3000 {
        let tree_page = sample_page(&mut random);
        let mut page = tree_page;
        for _ in 0..1 + random.below(4) {
            let at = match random.below(3) {
                0 => 12 + random.below(28),
                1 => 40 + random.below(400),
                _ => 12 + random.below(PAGE_BYTES - 12),
            };
            page[at] = random.word() as u8;
        }
        let node = NodeRef::new(&page);
        let sound = node.verify();
        named += usize::from(sound.is_err());
        let key_len = random.below(40);
        let key = random.bytes(key_len);
        let stamp = Lsn::new(random.word());
        let slot = node.lower_bound(&key, stamp);
        assert!(slot <= node.count(), "round {round}");
        let _ = (
            node.covers(&key, stamp),
            node.child_for(&key, stamp),
            node.versions_of(&key),
        );
        let _ = (node.high_key(), node.fits(100), node.right_link());
        for slot in 0..node.count() + 2 {
            let _ = (
                node.leaf_entry(slot),
                node.inner_entry(slot),
                node.cell_bytes(slot),
            );
        }
        if sound.is_ok() && node.is_leaf() {
            // A page that passed can be worked on.
            let mut node = NodeMut::new(&mut page);
            node.compact();
            let entry = LeafEntry {
                key: &key,
                stamp: Lsn::new(1),
                expiry_ms: None,
                payload: Payload::Inline(&[1; 300]),
            };
            if node.as_ref().covers(entry.key, entry.stamp) {
                let _ = node.insert_leaf(&entry);
            }
            node.as_ref()
                .verify()
                .expect("work on a sound page leaves it sound");
        }
    }
    assert!(named > 1500, "only {named} of 3000 were named");
    // Noise all over.
    for _ in 0..300 {
        let mut page: PageBytes = random.bytes(PAGE_BYTES).try_into().expect("a page");
        page[12] = 3 + random.below(2) as u8;
        page[13] = page[12] - 3;
        let node = NodeRef::new(&page);
        assert!(node.verify().is_err());
        let _ = node.lower_bound(b"abc", Lsn::MAX);
        let _ = node.child_for(b"abc", Lsn::MAX);
    }
}

fn sample_page(random: &mut Random) -> PageBytes {
    let mut page = [0; PAGE_BYTES];
    if random.one_in(2) {
        let mut node = NodeMut::init_leaf(&mut page);
        node.set_high_key(Some(Bound::before_key(b"key;")))
            .expect("room");
        for stamp in 1..30 {
            let key = random_key(random, Keys::Decimal, stamp);
            let value = random_value(random, &key);
            let _ = node.insert_leaf(&value.entry(&key, stamp));
        }
    } else {
        let mut node = NodeMut::init_inner(&mut page, 1, BlockNo::new(9));
        for number in 1..100 {
            let key = format!("key:{number:05}");
            let stamp = if number % 7 == 0 {
                Lsn::new(number)
            } else {
                Lsn::MAX
            };
            let bound = Bound {
                key: key.as_bytes(),
                stamp,
            };
            node.insert_inner(bound, BlockNo::new(number as u32 + 10))
                .expect("room");
        }
    }
    page::set_page_lsn(&mut page, Lsn::new(77));
    NodeRef::new(&page).verify().expect("sound");
    page
}

/// The worst that can come together still splits in two that fit: maximal cells of every sort.
#[test]
fn the_largest_cells_always_split() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut tree = Tree::new();
        let mut model = Model::new();
        for step in 1..200u64 {
            let key = match random.below(3) {
                0 => random_key(&mut random, Keys::Maximal, step),
                1 => vec![b'a' + random.below(26) as u8],
                _ => vec![b'a' + random.below(26) as u8; KEY_BYTES_MAX],
            };
            let stub = OverflowStub {
                first: BlockNo::new(1),
                pages: 2,
                value_bytes: 9000,
                crc: 0,
            };
            let value = if random.one_in(2) {
                Owned {
                    expiry_ms: Some(1),
                    value: Some(Err(stub)),
                }
            } else {
                let bytes = vec![1; INLINE_BYTES_MAX - key.len()];
                Owned {
                    expiry_ms: Some(1),
                    value: Some(Ok(bytes)),
                }
            };
            tree.insert(&key, step, &value);
            model.insert((key, Reverse(step)), value);
        }
        assert_eq!(tree.all(), model);
    }
}

/// A B-link descent that goes too far left is mended by the right links, so the choice of the
/// child is held against a plain scan of the bounds besides.
#[test]
fn the_child_is_the_one_whose_range_holds_the_entry() {
    let mut random = Random::new(21);
    for round in 0..200 {
        let mut page = [0; PAGE_BYTES];
        let mut node = NodeMut::init_inner(&mut page, 1, BlockNo::new(1));
        let mut bounds: Vec<(Vec<u8>, u64)> = vec![];
        for child in 2..40 {
            let stamp = if random.one_in(2) {
                u64::MAX
            } else {
                random.word() % 5
            };
            let bound = (random_key(&mut random, Keys::Short, 0), stamp);
            // The empty key before all its versions is the first child's place.
            if bounds.contains(&bound) || bound == (vec![], u64::MAX) {
                continue;
            }
            let stamp = Lsn::new(bound.1);
            node.insert_inner(
                Bound {
                    key: &bound.0,
                    stamp,
                },
                BlockNo::new(child),
            )
            .expect("room");
            bounds.push(bound);
        }
        let node = node.as_ref();
        node.verify().expect("sound");
        for _ in 0..200 {
            let (key, stamp) = if random.one_in(2) {
                (random_key(&mut random, Keys::Short, 0), random.word() % 5)
            } else {
                bounds[random.below(bounds.len())].clone()
            };
            let stamp = Lsn::new(stamp);
            let expected = (0..node.count())
                .rev()
                .find(|slot| *slot == 0 || !node.inner_entry(*slot).0.is_above(&key, stamp))
                .expect("slot 0 is before everything");
            let (slot, child) = node.child_for(&key, stamp);
            assert_eq!(
                (slot, child),
                (expected, node.inner_entry(expected).1),
                "round {round}"
            );
        }
    }
}
