//! What others do while a commit is on its way from leaf to leaf, or from namespace to namespace; pages
//! and entries are held by the test so that they come in at one moment.

mod support;

use rd_base::{BlockNo, PageTag};
use rd_engine::{Engine, EngineError, Isolation, NamespaceId, ParkReason, View};
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::page::flags;
use rd_format::{Access, NodeMut, NodeRef};
use rd_store::Store;
use rd_store::buffer::{Pin, PinnedWrite};
use rd_sys::watchdog::Watchdog;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
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

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
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

/// A reader looks at the namespace's entry again when it has its leaf. While the entry changes it lets
/// go of the leaf before it waits: whoever changes entries may wait for one whose holder waits for that
/// leaf.
#[test]
fn a_reader_waits_for_no_namespace_while_it_holds_a_leaf() {
    let rig = Rig::new(200, 1 << 20);
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let store = rig.store(rd_base::Role::Startup);
    let mut engine = rig.engine(0);
    rig.run(|| engine.write(DB0, &[FIRST], &mut |access| access.put(0, b"v", None)));
    engine.rest();
    let tag = PageTag::new(rig.db0_file(), ROOT_BLOCK);
    let leaf = rig.shared.pool.fetch(&store, tag).expect("it can be read");
    let pins = || rig.shared.pool.pins(leaf.frame());
    let entry = rig.shared.namespaces.entry(DB0);
    let alone = entry.hold();
    let held = leaf.write();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| is_there(&rig.engine(1), FIRST));
        // It has found the namespace, and come to its leaf.
        while pins() < 2 {
            std::thread::yield_now();
        }
        let change = entry.begin_change();
        drop(held);
        let deadline = after(20);
        while pins() > 1 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let is_free = leaf.try_write().is_some();
        drop(change);
        drop(alone);
        assert!(reader.join().expect("a reader"));
        assert!(is_free, "it waits for the entry and holds the leaf");
    });
}

/// Who holds some namespaces alone may look where another one lies. It waits for a change of that
/// one, and not for who comes next to change it: that one may wait for what is held alone.
#[test]
fn who_looks_where_a_namespace_lies_waits_for_its_change_alone() {
    let rig = Rig::new(200, 1 << 20);
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let entry = rig.shared.namespaces.entry(DB0);
    let (is_on, looks) = (AtomicBool::new(true), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while is_on.load(Ordering::SeqCst) {
                assert!(entry.place().is_some());
                looks.fetch_add(1, Ordering::SeqCst);
            }
        });
        let alone = entry.hold();
        let mut goes_on = true;
        for _ in 0..1000 {
            let change = entry.begin_change();
            // Time to come by it.
            std::thread::yield_now();
            drop(change);
            let (before, deadline) = (looks.load(Ordering::SeqCst), after(20));
            while goes_on && looks.load(Ordering::SeqCst) < before + 2 {
                std::thread::yield_now();
                goes_on = Instant::now() < deadline;
            }
        }
        is_on.store(false, Ordering::SeqCst);
        drop(alone);
        assert!(goes_on, "it waits although nothing changes any more");
    });
}

/// An EXEC that others were faster than too often has its namespaces alone for as long as its commands
/// take. Whoever comes meanwhile parks, so that his process serves others; and is woken.
#[test]
fn nobody_waits_for_operations_that_have_a_namespace_alone() {
    let rig = Rig::new(200, 1 << 20);
    let _watchdog = Watchdog::start(Duration::from_secs(60));
    let mut engine = rig.engine(1);
    let put = |engine: &mut Engine, bytes: usize| {
        let value = vec![b'v'; bytes];
        engine.write(DB0, &[FIRST], &mut |access| access.put(0, &value, None))
    };
    // A large value that is replaced leaves pages to be given back.
    for bytes in [20_000, 1] {
        rig.run(|| put(&mut engine, bytes));
        rig.flush();
    }
    let begun = engine.begin(Isolation::Snapshot, false, View::Newest);
    engine.attach(Box::new(begun.expect("a transaction")));
    put(&mut engine, 2).expect("a write");
    let transaction = engine.detach().expect("it was attached");
    let (procs, namespaces) = (&rig.shared.procs, &rig.shared.namespaces);
    let event = procs.event(engine.store().slot);
    let held = namespaces.hold_for_operations(procs, &[DB0, DB0]);
    let held = held.expect("nobody has it");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let parks = |done: Result<(), EngineError>| {
                let is_parked = matches!(done, Err(EngineError::Park(ParkReason::Namespace)));
                assert!(is_parked, "{done:?}");
            };
            procs.set_parked(engine.store().slot, true);
            event.take();
            parks(put(&mut engine, 3).map(drop));
            parks(engine.commit(&transaction, &[]).map(drop));
            parks(engine.flush_namespace(DB0).map(drop));
            parks(engine.flush_all().map(drop));
            let other = NamespaceId::database(1).expect("one of 16");
            parks(engine.swap_namespaces(DB0, other).map(drop));
            parks(engine.set_access(DB0, Access::READ_ONLY).map(drop));
            assert!(!engine.tidy(20), "it is for later");
            for ids in [&[DB0][..], &[other, DB0]] {
                let second = namespaces.hold_for_operations(procs, ids);
                assert!(second.is_none());
            }
            assert!(!event.take(), "it has not woken itself");
            assert!(is_there(&engine, FIRST), "readers wait for nothing");
        });
    });
    drop(held);
    assert!(event.take(), "it is woken");
    rig.run(|| engine.commit(&transaction, &[]));
    rig.run(|| put(&mut engine, 3));
    rig.flush();
    while engine.tidy(20) {
        rig.flush();
    }
    rig.verify();
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

/// A transaction may have used two namespaces of which one came into the other's place. Their entry is
/// shared once: the second time would wait for who waits for the first to end.
#[test]
fn two_namespaces_in_one_place_after_each_other_are_shared_once() {
    const TIMES: u64 = 2_000_000;
    let rig = Rig::new(200, 1 << 20);
    let _watchdog = Watchdog::start(Duration::from_secs(120));
    let mut engine = rig.engine(1);
    let create = |engine: &mut Engine| rig.run(|| engine.create_namespace(b"one")).result;
    let before = create(&mut engine);
    rig.run(|| engine.drop_namespace(b"one"));
    rig.flush();
    let begun = engine.begin(Isolation::Snapshot, false, View::Newest);
    engine.attach(Box::new(begun.expect("a transaction")));
    let put = engine.write(before, &[b"k"], &mut |access| access.put(0, b"v", None));
    put.expect("it is found out at the commit");
    let mut other = rig.engine(2);
    let after = create(&mut other);
    rig.run(|| other.write(after, &[b"a"], &mut |access| access.put(0, b"v", None)));
    assert_eq!(before.index(), after.index());
    let put = engine.write(after, &[b"k"], &mut |access| access.put(0, b"v", None));
    put.expect("a write");
    let transaction = engine.detach().expect("it was attached");
    let held = AtomicU64::new(0);
    std::thread::scope(|scope| {
        // What comes between if it comes at the right moment.
        scope.spawn(|| {
            while held.fetch_add(1, Ordering::SeqCst) < TIMES {
                drop(rig.shared.namespaces.hold_all(&[after]));
            }
        });
        while held.load(Ordering::SeqCst) < TIMES {
            let done = engine.commit(&transaction, &[]);
            assert!(matches!(done, Err(EngineError::NoNamespace)), "{done:?}");
        }
    });
}
