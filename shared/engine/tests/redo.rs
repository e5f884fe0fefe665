//! What redo makes of a leaf on which it has dropped what the running server had to keep.

mod support;

use rd_base::{BlockNo, Lsn, PageTag};
use rd_engine::Engine;
use rd_format::NodeRef;
use rd_format::page::{self, PageKind, flags};
use support::redo::Disk;
use support::{DB0, Rig};

fn set(rig: &Rig, engine: &mut Engine, key: &[u8], bytes: usize) {
    let value = vec![b'v'; bytes];
    rig.run(|| engine.write(DB0, &[key], &mut |access| access.put(0, &value, None)));
    rig.flush();
}

fn delete(rig: &Rig, engine: &mut Engine, key: &[u8]) {
    rig.run(|| engine.write(DB0, &[key], &mut |access| access.delete(0)));
    rig.flush();
}

/// Looks at the leaves in memory.
fn leaves<R>(rig: &Rig, mut look: impl FnMut(&NodeRef<'_>) -> R) -> Vec<R> {
    let file = rig.db0_file();
    let blocks = (0..rig.shared.files.blocks(file)).map(BlockNo::new);
    let mut seen = Vec::new();
    for block in blocks {
        let pin = rig.shared.pool.get_resident(PageTag::new(file, block));
        let Some(pin) = pin else { continue };
        let page = pin.read();
        if page::kind(&page) == Some(PageKind::Leaf) && page::page_flags(&page) & flags::GONE == 0 {
            seen.push(look(&NodeRef::new(&page)));
        }
    }
    seen
}

fn stamps_on(node: &NodeRef<'_>, key: &[u8]) -> Vec<Lsn> {
    let stamp = |slot| node.key_and_stamp(slot).1;
    node.versions_of(key).map(stamp).collect()
}

/// The stamps of the versions of `key`.
fn stamps_of(rig: &Rig, key: &[u8]) -> Vec<Lsn> {
    leaves(rig, |node| stamps_on(node, key)).concat()
}

/// Those on the leaf whose high key lies between two of them.
fn left_of_a_cut(rig: &Rig, key: &[u8]) -> Option<Vec<Lsn>> {
    let left = leaves(rig, |node| {
        let high = node.high_key()?;
        let between = high.key == key && high.stamp != Lsn::MAX;
        between.then(|| stamps_on(node, key))
    });
    left.into_iter().flatten().next()
}

/// The keys that redo of the whole log makes.
fn keys_after_redo(rig: &Rig) -> Vec<String> {
    let mut disk = Disk::new(rig);
    disk.redo(rig);
    let content = disk.content(rig, rig.db0_file());
    let keys = content.into_iter().map(|(key, _)| String::from_utf8(key));
    keys.map(|key| key.expect("letters")).collect()
}

/// Snapshots keep values of a deleted key, and redo, for which there are none, drops all of it
/// when the leaf is full. Then the leaf is cut between two of the key's versions: the older ones
/// come to the right page whole, and something must be there to hide them.
#[test]
fn a_deleted_key_stays_deleted_when_its_leaf_is_cut_between_its_versions() {
    let rig = Rig::new(1024, 4 << 20);
    let mut engine = rig.engine(0);
    // The leaf is not the root: that one would be logged whole.
    for key in [&b"j"[..], b"z", b"a", b"b", b"c", b"d", b"e", b"f"] {
        set(&rig, &mut engine, key, if key < b"j" { 1600 } else { 20 });
    }
    for key in [b"a", b"b", b"c", b"d", b"e", b"f"] {
        delete(&rig, &mut engine, key);
    }
    let mut snapshots = Vec::new();
    for _ in 0..4 {
        set(&rig, &mut engine, b"k", 1680);
        snapshots.push(engine.snapshot().expect("few are held"));
        delete(&rig, &mut engine, b"k");
        snapshots.push(engine.snapshot().expect("few are held"));
    }
    for _ in 0..10 {
        set(&rig, &mut engine, b"j", 300);
    }
    assert_eq!(left_of_a_cut(&rig, b"k"), None);
    set(&rig, &mut engine, b"m", 900);
    let left = left_of_a_cut(&rig, b"k").expect("the cut lies between versions");
    assert!(left.contains(&snapshots[7].lsn()), "the newest: {left:?}");

    assert_eq!(keys_after_redo(&rig), ["j", "m", "z"]);

    // When nobody asks for it any more, all of the key goes, although others live on the right.
    snapshots.clear();
    while engine.tidy(100) {
        rig.flush();
    }
    rig.verify();
    assert!(stamps_of(&rig, b"k").is_empty());
    rig.flush();
    assert_eq!(keys_after_redo(&rig), ["j", "m", "z"]);
}
