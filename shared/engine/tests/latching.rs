//! What others do while a commit is on its way from leaf to leaf, or from namespace to namespace; pages
//! and entries are held by the test so that they come in at one moment.

mod support;

use rd_base::{BlockNo, PageTag};
use rd_engine::{Engine, EngineError, Isolation, NamespaceId, View};
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::page::flags;
use rd_format::{NodeMut, NodeRef};
use rd_store::Store;
use rd_store::buffer::{Pin, PinnedWrite};
use rd_sys::watchdog::Watchdog;
use std::time::Duration;
use support::{DB0, Rig};

/// The commit's keys: one on the first leaf, one behind all that are there.
const FIRST: &[u8] = b"k00";
const LAST: &[u8] = b"z";

struct Chain<'r> {
    rig: &'r Rig,
    store: &'r Store,
    /// Leaves in a row, the last of which is empty.
    leaves: Vec<BlockNo>,
}

impl<'r> Chain<'r> {
    /// Leaves of which the parent does not know any but the first, as a commit leaves them that cut
    /// one again and again.
    fn new(rig: &'r Rig, store: &'r Store) -> Chain<'r> {
        let mut engine = rig.engine(0);
        for key in 0..20 {
            let key = format!("k{key:02}");
            rig.run(|| {
                engine.write(DB0, &[key.as_bytes()], &mut |access| {
                    access.put(0, &[b'v'; 1500], None)
                })
            });
        }
        engine.rest();
        let mut chain = Chain {
            rig,
            store,
            leaves: Vec::new(),
        };
        let mut root = chain.pin(ROOT_BLOCK).into_write();
        let node = NodeRef::new(&root);
        assert_eq!(node.level(), 1);
        chain.leaves = (0..node.count())
            .map(|slot| node.inner_entry(slot).1)
            .collect();
        assert!(chain.leaves.len() >= 4, "{:?}", chain.leaves);
        NodeMut::new(root.unlogged()).truncate(1);
        drop(root);
        let (last, others) = chain.leaves.split_last().expect("some");
        for block in others {
            let mut leaf = chain.pin(*block).into_write();
            NodeMut::new(leaf.unlogged()).change_flags(flags::SPLIT_INCOMPLETE, 0);
        }
        let mut last = chain.pin(*last).into_write();
        NodeMut::new(last.unlogged()).truncate(0);
        drop(last);
        chain
    }

    fn pin(&self, block: BlockNo) -> Pin<'r> {
        let tag = PageTag::new(self.rig.db0_file(), block);
        let pin = self.rig.shared.pool.fetch(self.store, tag);
        pin.expect("it can be read")
    }

    /// Does `commit` on a thread of its own. When it is about to latch the last leaf, those between
    /// the first, which it holds, and that are made known to the parent, and the last one is taken out
    /// of the tree, unless the one before it is held.
    fn come_between(&self, commit: impl FnOnce() + Send) {
        let _watchdog = Watchdog::start(Duration::from_secs(120));
        let (first, last) = (self.leaves[0], self.leaves[self.leaves.len() - 1]);
        let held = self.pin(first).into_read();
        let last = self.pin(last);
        let pins = || self.rig.shared.pool.pins(last.frame());
        std::thread::scope(|scope| {
            scope.spawn(commit);
            // It has brought in its leaves.
            while pins() < 2 {
                std::thread::yield_now();
            }
            let mut right = last.write();
            drop(held);
            // It has come to the last one.
            while pins() < 3 {
                std::thread::yield_now();
            }
            let before_last = self.pin(self.leaves[self.leaves.len() - 2]);
            if let Ok(left) = before_last.try_into_write() {
                self.finish_splits(left);
                NodeMut::new(right.unlogged()).change_flags(flags::GONE, 0);
            }
        });
    }

    /// What finishing all splits but the first leaf's comes to, and then joining the last two leaves.
    fn finish_splits(&self, mut before_last: PinnedWrite<'_>) {
        let mut root = self.pin(ROOT_BLOCK).into_write();
        for pair in self.leaves[1..self.leaves.len() - 1].windows(2) {
            let left = self.pin(pair[0]).into_read();
            let bound = NodeRef::new(&left).high_key().expect("it is not the last");
            let added = NodeMut::new(root.unlogged()).insert_inner(bound, pair[1]);
            added.expect("there is room");
        }
        let mut node = NodeMut::new(before_last.unlogged());
        node.set_high_key(None).expect("it takes no room");
        node.set_right_link(None);
        for block in &self.leaves[1..self.leaves.len() - 1] {
            let known = flags::SPLIT_INCOMPLETE;
            if *block == before_last.tag().block {
                NodeMut::new(before_last.unlogged()).change_flags(0, known);
            } else {
                let mut leaf = self.pin(*block).into_write();
                NodeMut::new(leaf.unlogged()).change_flags(0, known);
            }
        }
    }
}

fn is_there(engine: &Engine, key: &[u8]) -> bool {
    let read = engine.get(DB0, key, View::Newest, |value| value.is_some());
    read.expect("a read").result
}

/// The leaf to which a commit is on its way along right links may have been taken out of the tree, if
/// nothing on the way is held: the parent knows the leaves in between by then.
#[test]
fn a_leaf_that_a_commit_comes_to_past_unfinished_splits_is_in_the_tree() {
    let rig = Rig::new(200, 1 << 20);
    let store = rig.store(rd_base::Role::Startup);
    Chain::new(&rig, &store).come_between(|| {
        let mut engine = rig.engine(1);
        let done = engine.write(DB0, &[FIRST, LAST], &mut |access| {
            access.put(0, b"new", None)?;
            access.put(1, b"new", None)
        });
        done.expect("a commit");
        engine.rest();
    });
    assert!(is_there(&rig.engine(2), LAST), "the commit has lost a key");
}

/// The same for the commit of a transaction of several commands.
#[test]
fn a_leaf_that_a_transaction_comes_to_past_unfinished_splits_is_in_the_tree() {
    let rig = Rig::new(200, 1 << 20);
    let store = rig.store(rd_base::Role::Startup);
    Chain::new(&rig, &store).come_between(|| {
        let mut engine = rig.engine(1);
        let begun = engine.begin(Isolation::Snapshot, false, View::Newest);
        engine.attach(Box::new(begun.expect("a transaction")));
        let done = engine.write(DB0, &[FIRST, LAST], &mut |access| {
            access.put(0, b"new", None)?;
            access.put(1, b"new", None)
        });
        done.expect("a write");
        let transaction = engine.detach().expect("it was attached");
        engine.commit(&transaction, &[]).expect("a commit");
        engine.rest();
    });
    assert!(is_there(&rig.engine(2), LAST), "the commit has lost a key");
}

/// Entries are held in the order of their indices. Who has some alone, because others were faster too
/// often, and then uses one that comes before, must not wait for that: its holder may wait for him.
#[test]
fn who_holds_some_namespaces_alone_waits_for_none_that_comes_before() {
    let rig = Rig::new(200, 1 << 20);
    let _watchdog = Watchdog::start(Duration::from_secs(60));
    let [lower, higher] = [2, 5].map(|number| NamespaceId::database(number).expect("one of 16"));
    let namespaces = &rig.shared.namespaces;
    let held = namespaces.hold_all(&[lower]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _alone = namespaces.hold_all(&[higher]);
            let mut engine = rig.engine(1);
            let begun = engine.begin(Isolation::Exec, false, View::Newest);
            engine.attach(Box::new(begun.expect("a transaction")));
            for namespace in [lower, higher] {
                let put = engine.write(namespace, &[b"k"], &mut |access| access.put(0, b"v", None));
                put.expect("a write");
            }
            let transaction = engine.detach().expect("it was attached");
            let done = engine.commit(&transaction, &[higher]);
            let is_to_run_again = matches!(done, Err(EngineError::Conflict { .. }));
            assert!(is_to_run_again, "{done:?}");
        });
    });
    drop(held);
}

/// What is held alone is a place in the table. Another namespace may be there by the time that the
/// operations run again.
#[test]
fn a_namespace_in_the_place_of_one_that_is_held_alone_is_not_waited_for() {
    let rig = Rig::new(200, 1 << 20);
    let _watchdog = Watchdog::start(Duration::from_secs(60));
    let mut engine = rig.engine(1);
    let create = |engine: &mut Engine| rig.run(|| engine.create_namespace(b"one")).result;
    let before = create(&mut engine);
    rig.run(|| engine.drop_namespace(b"one"));
    rig.flush();
    let after = create(&mut engine);
    rig.flush();
    assert_eq!(before.index(), after.index());
    let namespaces = &rig.shared.namespaces;
    let held = namespaces.hold_all(&[before]);
    let begun = engine.begin(Isolation::Exec, false, View::Newest);
    engine.attach(Box::new(begun.expect("a transaction")));
    let put = engine.write(after, &[b"k"], &mut |access| access.put(0, b"v", None));
    put.expect("a write");
    let transaction = engine.detach().expect("it was attached");
    rig.run(|| engine.commit(&transaction, &[before]));
    drop(held);
}
