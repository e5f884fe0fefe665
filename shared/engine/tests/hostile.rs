//! Pages and records under right checksums that no server wrote: they are named, and nobody waits,
//! falls, or takes room for what they announce.

mod support;

use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag, Role, StartCount};
use rd_engine::apply::{ApplyError, redo_block};
use rd_engine::namespace::load_namespaces;
use rd_engine::{Chunk, Engine, View};
use rd_format::bitmap::{self, BITMAP_BITS, ROOT_BLOCK};
use rd_format::catalog::{CATALOG_FILE, CatalogValue};
use rd_format::node::{Bound, LeafEntry, NodeMut, OverflowStub, Payload};
use rd_format::page::{self, PageBytes, PageKind, flags};
use rd_format::wal_record::{RecordBuilder, RecordKind, RecordView};
use rd_store::namespaces::DATABASES_MAX;
use support::{DB0, Rig, Rng};

/// Changes a page of `file` in memory, as if it had been read so.
fn change_page(rig: &Rig, file: FileNo, block: BlockNo, change: impl FnOnce(&mut PageBytes)) {
    let store = rig.store(Role::Startup);
    let tag = PageTag::new(file, block);
    let pin = rig.shared.pool.fetch(&store, tag).expect("a page");
    change(pin.into_write().unlogged());
}

fn change_root(rig: &Rig, file: FileNo, change: impl FnOnce(&mut PageBytes)) {
    change_page(rig, file, ROOT_BLOCK, change);
}

/// A server whose first database has one key, and a hostile root.
fn with_root(change: impl FnOnce(&mut PageBytes)) -> (Rig, Engine) {
    let rig = Rig::new(64, 1 << 20);
    let mut engine = rig.engine(0);
    rig.run(|| engine.write(DB0, &[b"k"], &mut |access| access.put(0, b"v", None)));
    rig.flush();
    change_root(&rig, rig.db0_file(), change);
    (rig, engine)
}

/// What reading and writing `key` say.
fn errors_of(engine: &mut Engine, key: &[u8]) -> [String; 2] {
    let read = engine.get(DB0, key, View::Newest, |value| {
        value.map(|value| value.bytes.len())
    });
    let read = read.map(|read| read.result).expect_err("it is damaged");
    let write = engine.write(DB0, &[key], &mut |access| access.put(0, b"v", None));
    [
        read.to_string(),
        write.expect_err("it is damaged").to_string(),
    ]
}

#[test]
fn links_that_lead_in_a_circle_are_named() {
    // An inner page that is its own child.
    let (_rig, mut engine) = with_root(|page| {
        NodeMut::init_inner(page, 3, ROOT_BLOCK).change_flags(flags::ROOT, 0);
    });
    for error in errors_of(&mut engine, b"k") {
        assert!(error.contains("in a circle"), "{error}");
    }
    // A leaf that is its own right sibling.
    let (_rig, mut engine) = with_root(|page| {
        let mut root = NodeMut::init_leaf(page);
        root.change_flags(flags::ROOT, 0);
        root.set_high_key(Some(Bound::before_key(b"b")))
            .expect("room");
        root.set_right_link(Some(ROOT_BLOCK));
    });
    for error in errors_of(&mut engine, b"k") {
        assert!(error.contains("in a circle"), "{error}");
    }
}

/// The root as the only leaf but one, to which `right` leads.
fn first_leaf(page: &mut PageBytes, right: BlockNo) {
    let mut root = NodeMut::init_leaf(page);
    root.change_flags(flags::ROOT, 0);
    root.set_high_key(Some(Bound::before_key(b"b")))
        .expect("room");
    root.set_right_link(Some(right));
}

#[test]
fn a_walk_is_told_where_right_links_do_not_lead_to_the_next_leaf() {
    let level = |page: &mut PageBytes| {
        NodeMut::init_inner(page, 1, BlockNo::new(5));
    };
    let leaf_before = |page: &mut PageBytes| first_leaf(page, BlockNo::new(5));
    type Make<'c> = Option<&'c dyn Fn(&mut PageBytes)>;
    let cases: [(u32, Make<'_>, &str); 4] = [
        (2, None, "leads back"),
        (1, None, "a bitmap page where the tree goes on"),
        (4, Some(&level), "level 1 to the right of a leaf"),
        (4, Some(&leaf_before), "leads back"),
    ];
    for (right, make, what) in cases {
        let right = BlockNo::new(right);
        let (rig, engine) = with_root(|page| first_leaf(page, right));
        if let Some(make) = make {
            let tag = PageTag::new(rig.db0_file(), right);
            let pin = rig.shared.pool.fetch_new(&rig.store(Role::Startup), tag);
            make(pin.into_write().unlogged());
        }
        let mut cursor = engine
            .range(DB0, b"", None, u64::MAX, View::Newest)
            .expect("a cursor");
        let chunk = Chunk {
            entries: 10,
            bytes: 1000,
        };
        let error = engine
            .range_next(&mut cursor, chunk, &mut |_, _| {})
            .expect_err(what)
            .to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn a_descent_at_random_goes_down() {
    for (child, what) in [(2, "level 3 below level 3"), (1, "a bitmap page where")] {
        let (_rig, engine) = with_root(|page| {
            NodeMut::init_inner(page, 3, BlockNo::new(child)).change_flags(flags::ROOT, 0);
        });
        let error = engine.random_place(DB0, 7).expect_err(what).to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn bitmap_pages_lead_to_the_next_region() {
    let (rig, mut engine) = with_root(|_| {});
    let last = rig.shared.files.blocks(rig.db0_file()) - 1;
    let first = BlockNo::new(1);
    change_page(&rig, rig.db0_file(), first, |page| {
        for bit in 0..BITMAP_BITS {
            bitmap::set(page, bit);
        }
        bitmap::clear(page, last);
        page::header_mut(page).right_link.set(first.get());
    });
    // The page is held for the one block that it has.
    let error = engine
        .write(DB0, &[b"k"], &mut |access| {
            access.put(0, &[1; 12_000], None)
        })
        .expect_err("it leads back")
        .to_string();
    assert!(
        error.contains("its right link leads to block 1,"),
        "{error}"
    );
}

#[test]
fn a_value_that_is_only_announced_takes_no_room() {
    let (_rig, engine) = with_root(|page| {
        let mut root = NodeMut::init_leaf(page);
        root.change_flags(flags::ROOT, 0);
        let stub = OverflowStub {
            first: BlockNo::new(3),
            pages: u32::MAX,
            value_bytes: u32::MAX,
            crc: 0,
        };
        let entry = LeafEntry {
            key: b"k",
            stamp: Lsn::new(1),
            expiry_ms: None,
            payload: Payload::Overflow(stub),
        };
        root.insert_leaf(&entry).expect("room");
    });
    let read = engine.get(DB0, b"k", View::Newest, |value| {
        value.map(|value| value.bytes.len())
    });
    let error = read
        .map(|read| read.result)
        .expect_err("no value is so long")
        .to_string();
    assert!(error.contains("4294967295 bytes"), "{error}");
}

/// A server whose catalog was written to.
fn with_catalog() -> Rig {
    let rig = Rig::new(64, 1 << 20);
    let mut engine = rig.engine(0);
    rig.run(|| engine.write(DB0, &[b"k"], &mut |access| access.put(0, b"v", None)));
    rig.run(|| engine.flush_namespace(DB0));
    rig
}

#[test]
fn a_catalog_that_contradicts_itself_is_refused() {
    let file = |number| Some(FileNo::new(number));
    let value = |index: usize, file| CatalogValue {
        file,
        previous: None,
        index: index as u16,
        access: rd_format::Access::READ_WRITE,
    };
    let first = DATABASES_MAX;
    type Entries = [(&'static [u8], CatalogValue); 2];
    let cases: [(&str, Entries); 5] = [
        (
            "one file",
            [
                (b"a", value(first, file(7))),
                (b"b", value(first + 1, file(7))),
            ],
        ),
        (
            "one index",
            [(b"a", value(first, None)), (b"b", value(first, file(7)))],
        ),
        (
            "an index beyond the table",
            [(b"a", value(first, None)), (b"b", value(65_535, None))],
        ),
        (
            "another's number",
            [(b"a", value(first, None)), (b"3", value(4, None))],
        ),
        (
            "no name",
            [(b"", value(first, None)), (b"b", value(first + 1, None))],
        ),
    ];
    for (what, entries) in cases {
        let rig = with_catalog();
        change_root(&rig, CATALOG_FILE, |page| {
            let mut root = NodeMut::init_leaf(page);
            root.change_flags(flags::ROOT, 0);
            for (key, value) in entries {
                let entry = LeafEntry {
                    key,
                    stamp: Lsn::new(1),
                    expiry_ms: None,
                    payload: Payload::Inline(&value.encode()),
                };
                root.insert_leaf(&entry).expect("room");
            }
        });
        let error = load_namespaces(&rig.store(Role::Startup))
            .expect_err(what)
            .to_string();
        assert!(error.contains("makes no sense"), "{what}: {error}");
    }
    let rig = with_catalog();
    change_root(&rig, CATALOG_FILE, |page| {
        let mut root = NodeMut::init_leaf(page);
        root.change_flags(flags::ROOT, 0);
        root.set_right_link(Some(ROOT_BLOCK));
    });
    let error = load_namespaces(&rig.store(Role::Startup))
        .expect_err("a circle")
        .to_string();
    assert!(error.contains("in a circle"), "{error}");
}

/// Images and operations of hostile bytes, redone: an error, or a page that can be used.
#[test]
fn records_of_hostile_pages_are_refused_or_leave_a_page_that_is_one() {
    let mut rng = Rng::new(3);
    let tag = PageTag::new(FileNo::new(2), ROOT_BLOCK);
    let mut builder = RecordBuilder::new();
    let (mut refused, mut done) = (0, 0);
    for round in 0..20_000 {
        let mut image = [0; PAGE_BYTES];
        let mut leaf = NodeMut::init_leaf(&mut image);
        for number in 0..20_u64 {
            let key = format!("key{number:02}");
            let entry = LeafEntry {
                key: key.as_bytes(),
                stamp: Lsn::new(number + 1),
                expiry_ms: None,
                payload: Payload::Inline(b"a value"),
            };
            leaf.insert_leaf(&entry).expect("room");
        }
        builder.start(RecordKind::Split, 0);
        builder.block(tag);
        builder.image(&image);
        let op = rd_format::wal_record::PageOp::SplitLeft {
            bound: Bound::before_key(b"key1"),
            right: BlockNo::new(7),
        };
        let upsert = rd_format::wal_record::Upsert {
            key: b"new",
            expiry_ms: Some(round),
            payload: Payload::Inline(&[1; 1500]),
        };
        builder.upsert(&upsert);
        builder.op(&op);
        builder.seal();
        let mut bytes = builder
            .finish(Lsn::new(1 << 20), StartCount::new(1))
            .to_vec();
        // Behind the headers of record, block and image: the page's header, its slots, its cells.
        let first = 32 + 16 + 4;
        for _ in 0..rng.below(3) {
            let places = [rng.below(40), 40 + rng.below(120), 160 + rng.below(300)];
            let byte = [0, 1, 0xFF, rng.next() as u8][rng.below(4) as usize];
            bytes[first + places[rng.below(3) as usize] as usize] = byte;
        }
        bytes.truncate(u32::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize);
        bytes[4..8].fill(0);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[32..]), &bytes[..32]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        let record = RecordView::parse(&bytes).expect("sealed");
        let block = record.blocks().next().expect("one").expect("whole");
        let mut page = [0; PAGE_BYTES];
        match redo_block(&mut page, &block, record.end_lsn()) {
            Ok(()) => {
                done += 1;
                assert_eq!(page::kind(&page), Some(PageKind::Leaf));
                page::verify_image(&page, tag).expect("whoever reads it relies on it");
            }
            Err(
                ApplyError::Image(_)
                | ApplyError::Kind { .. }
                | ApplyError::NoRoom { .. }
                | ApplyError::Exists { .. },
            ) => {
                refused += 1;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(
        refused > 2000 && done > 2000,
        "{refused} refused, {done} done"
    );
}
