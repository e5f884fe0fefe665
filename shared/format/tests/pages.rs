//! The envelope of every page, and the pages that are not of a tree.

mod support;

use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::bitmap::{self, BITMAP_BITS};
use rd_format::meta::{self, Meta};
use rd_format::node::{Bound, LeafEntry, NodeMut, NodeRef, OverflowStub, Payload};
use rd_format::overflow::{self, OVERFLOW_DATA_BYTES};
use rd_format::page::{self, PageBytes, PageError, PageKind};
use support::Random;

fn tag(file: u32, block: u32) -> PageTag {
    PageTag::new(FileNo::new(file), BlockNo::new(block))
}

fn sealed_leaf(at: PageTag) -> PageBytes {
    let mut page = [0; PAGE_BYTES];
    NodeMut::init_leaf(&mut page);
    page::set_page_lsn(&mut page, Lsn::new(0x1_0000_0007));
    page::seal(&mut page, at);
    page
}

#[test]
fn a_page_is_good_only_as_it_was_written_and_where() {
    let at = tag(3, 9);
    let page = sealed_leaf(at);
    assert_eq!(page::verify(&page, at), Ok(()));
    for elsewhere in [tag(3, 8), tag(4, 9), tag(9, 3)] {
        assert!(matches!(
            page::check(&page, elsewhere),
            Err(PageError::Checksum { .. })
        ));
    }
    for bit in (0..PAGE_BYTES * 8).step_by(13).chain(0..40 * 8) {
        let mut damaged = page;
        damaged[bit / 8] ^= 1 << (bit % 8);
        let error = page::check(&damaged, at).expect_err("damage is seen");
        assert!(error.to_string().contains("file 3 block 9"), "{error}");
    }
    let zero = [0; PAGE_BYTES];
    assert_eq!(page::check(&zero, at), Err(PageError::ZeroPage { tag: at }));
    assert!(page::is_zero(&zero) && !page::is_zero(&page));
}

#[test]
fn right_checksums_over_wrong_content_are_named() {
    let at = tag(3, 9);
    let reseal = |change: fn(&mut PageBytes)| {
        let mut page = sealed_leaf(at);
        change(&mut page);
        page::seal(&mut page, at);
        page::verify(&page, at)
    };
    let format = reseal(|page| page::header_mut(page).format.set(2));
    assert!(matches!(format, Err(PageError::Format { format: 2, .. })));
    for kind in [0, 7, 255] {
        let mut page = sealed_leaf(at);
        page::header_mut(&mut page).kind = kind;
        page::seal(&mut page, at);
        let error = page::verify(&page, at);
        assert!(matches!(error, Err(PageError::Kind { found, .. }) if found == kind));
    }
    let slots = reseal(|page| page::header_mut(page).slot_count.set(3));
    assert!(matches!(slots, Err(PageError::Structure { .. })));
    let level = reseal(|page| page::header_mut(page).level = 1);
    assert!(matches!(level, Err(PageError::Structure { .. })));
    let message = level.expect_err("named").to_string();
    assert!(
        message.contains("file 3 block 9") && message.contains("1/7"),
        "{message}"
    );
}

/// What the code behind `verify` relies on, and no checksum says.
#[test]
fn cells_that_announce_what_cannot_be_are_named() {
    let at = tag(3, 9);
    let verify = |page: &mut PageBytes| {
        page::seal(page, at);
        page::verify(page, at)
    };
    // A large value of more bytes than there can be, or of other pieces than it takes.
    for (value_bytes, pages, good) in [
        (9000, 2, true),
        (9000, 1, false),
        (0, u32::MAX, false),
        (16 << 20, 2063, true),
        ((16 << 20) + 1, 2063, false),
        (u32::MAX, 527_898, false),
    ] {
        let mut page = [0; PAGE_BYTES];
        let stub = OverflowStub {
            first: BlockNo::new(7),
            pages,
            value_bytes,
            crc: 0,
        };
        let entry = LeafEntry {
            key: b"k",
            stamp: Lsn::new(5),
            expiry_ms: None,
            payload: Payload::Overflow(stub),
        };
        NodeMut::init_leaf(&mut page)
            .insert_leaf(&entry)
            .expect("room");
        assert_eq!(verify(&mut page).is_ok(), good, "{stub:?}");
    }
    // A bound whose stamp says that there is none: written again it would be shorter.
    let mut page = [0; PAGE_BYTES];
    let mut node = NodeMut::init_inner(&mut page, 1, BlockNo::new(4));
    let bound = |key| Bound {
        key,
        stamp: Lsn::new(u64::MAX - 1),
    };
    node.insert_inner(bound(b"m"), BlockNo::new(5))
        .expect("room");
    node.set_high_key(Some(bound(b"x"))).expect("room");
    assert!(verify(&mut page).is_ok());
    let stamp = (u64::MAX - 1).to_le_bytes();
    let places = (0..PAGE_BYTES - 8).filter(|place| page[*place..*place + 8] == stamp);
    let places: Vec<usize> = places.collect();
    assert_eq!(places.len(), 2);
    for place in places {
        let mut changed = page;
        changed[place] = 0xFF;
        assert!(verify(&mut changed).is_err());
    }
    // A level to which no tree grows: the root's, plus one, would be none.
    page::header_mut(&mut page).level = u8::MAX;
    assert!(verify(&mut page).is_err());
}

/// Noise under a right checksum: whatever passes can be read and changed.
#[test]
fn pages_of_hostile_bytes_do_no_harm() {
    let at = tag(3, 9);
    let mut random = Random::new(6);
    let mut passed = 0;
    for _ in 0..20_000 {
        let mut page = sealed_leaf(at);
        for _ in 0..1 + random.below(4) {
            let byte = [
                random.below(40),
                random.below(64),
                PAGE_BYTES - 1 - random.below(64),
            ];
            page[byte[random.below(3)]] = [0, 1, 0xFF, random.word() as u8][random.below(4)];
        }
        page::seal(&mut page, at);
        if page::verify(&page, at).is_ok() && page::kind(&page) == Some(PageKind::Leaf) {
            passed += 1;
            let mut node = NodeMut::new(&mut page);
            let entry = LeafEntry {
                key: b"new",
                stamp: Lsn::new(u64::MAX - 1),
                expiry_ms: Some(1),
                payload: Payload::Inline(&[7; 1000]),
            };
            let _ = node.insert_leaf(&entry);
            node.compact();
            node.redo_make_room();
            let _ = node.set_high_key(None);
            assert!(NodeRef::new(&page).verify().is_ok());
        }
    }
    assert!(passed > 1000, "{passed}");
}

#[test]
fn bitmaps_agree_with_a_vector_of_bools() {
    let mut random = Random::new(5);
    let mut page = [0; PAGE_BYTES];
    page::init(&mut page, PageKind::Bitmap);
    let mut model = vec![false; BITMAP_BITS as usize];
    for round in 0..20_000 {
        // Dense stretches, so that searches have something to skip.
        let bit = (random.below(200) * 331 + random.below(64)) % BITMAP_BITS as usize;
        let to = !random.one_in(3);
        let changed = if to {
            bitmap::set(&mut page, bit as u32)
        } else {
            bitmap::clear(&mut page, bit as u32)
        };
        assert_eq!(changed, model[bit] != to, "round {round}");
        model[bit] = to;
        assert_eq!(bitmap::is_set(&page, bit as u32), to);
        let from = random.below(BITMAP_BITS as usize);
        let end = from + random.below(300);
        let expected = (from..end.min(model.len())).find(|bit| !model[*bit]);
        assert_eq!(
            bitmap::find_clear(&page, from as u32, end as u32),
            expected.map(|bit| bit as u32)
        );
    }
    assert_eq!(
        bitmap::count(&page) as usize,
        model.iter().filter(|bit| **bit).count()
    );
    for bit in 0..BITMAP_BITS {
        bitmap::set(&mut page, bit);
    }
    assert_eq!(bitmap::find_clear(&page, 0, u32::MAX), None);
    bitmap::clear(&mut page, BITMAP_BITS - 1);
    assert_eq!(
        bitmap::find_clear(&page, 7, u32::MAX),
        Some(BITMAP_BITS - 1)
    );
    assert!(
        bitmap::is_set(&page, BITMAP_BITS),
        "what is not there is not free"
    );
    assert!(!bitmap::set(&mut page, u32::MAX) && !bitmap::clear(&mut page, BITMAP_BITS));
}

#[test]
fn each_region_holds_its_own_bitmap() {
    for (block, bitmap_block, bit) in [
        (0, 1, 0),
        (1, 1, 1),
        (2, 1, 2),
        (65_023, 1, 65_023),
        (65_024, 65_024, 0),
        (65_025, 65_024, 1),
        (130_047, 65_024, 65_023),
        (130_048, 130_048, 0),
        (u32::MAX, u32::MAX / 65_024 * 65_024, u32::MAX % 65_024),
    ] {
        let block = BlockNo::new(block);
        assert_eq!(bitmap::covering(block), (BlockNo::new(bitmap_block), bit));
        assert_eq!(
            bitmap::block_of(BlockNo::new(bitmap_block), bit),
            Some(block)
        );
        assert_eq!(bitmap::is_bitmap_block(block), block.get() == bitmap_block);
    }
    assert_eq!(
        bitmap::block_of(BlockNo::new(u32::MAX), BITMAP_BITS - 1),
        None
    );
    for (block, used) in [(1, vec![0, 1, 2]), (65_024, vec![0])] {
        let mut page = [0; PAGE_BYTES];
        bitmap::init(&mut page, BlockNo::new(block));
        let set: Vec<u32> = (0..BITMAP_BITS)
            .filter(|bit| bitmap::is_set(&page, *bit))
            .collect();
        assert_eq!(set, used);
        page::seal(&mut page, tag(1, block));
        assert_eq!(page::verify(&page, tag(1, block)), Ok(()));
        page::seal(&mut page, tag(1, 77));
        assert!(matches!(
            page::verify(&page, tag(1, 77)),
            Err(PageError::Structure { .. })
        ));
    }
}

#[test]
fn a_meta_page_speaks_of_its_own_file_only() {
    let meta = Meta {
        system_identifier: 0xABCD,
        file: FileNo::new(7),
        created_lsn: Lsn::new(1),
        checkpoint_count: 2,
        checkpoint_scn: Lsn::new(3),
        stop_scn: Lsn::new(3),
        opened_from: Lsn::new(4),
    };
    let mut page = [0; PAGE_BYTES];
    meta::init(&mut page, &meta);
    page::set_page_lsn(&mut page, Lsn::new(55));
    let later = Meta {
        checkpoint_count: 9,
        checkpoint_scn: Lsn::new(99),
        ..meta
    };
    meta::write(&mut page, &later);
    assert_eq!(meta::read(&page), later);
    assert_eq!(
        page::page_lsn(&page),
        Lsn::new(55),
        "the header is left alone"
    );
    page::seal(&mut page, tag(7, 0));
    assert_eq!(page::verify(&page, tag(7, 0)), Ok(()));
    for wrong in [tag(8, 0), tag(7, 1)] {
        page::seal(&mut page, wrong);
        assert!(matches!(
            page::verify(&page, wrong),
            Err(PageError::Structure { .. })
        ));
    }
}

#[test]
fn a_large_value_in_pieces() {
    let value: Vec<u8> = (0..3 * OVERFLOW_DATA_BYTES + 5).map(|n| n as u8).collect();
    assert_eq!(overflow::pages_for(value.len()), 4);
    assert_eq!(overflow::pages_for(OVERFLOW_DATA_BYTES), 1);
    let mut read = vec![];
    for (sequence, data) in value.chunks(OVERFLOW_DATA_BYTES).enumerate() {
        let next = (sequence < 3).then(|| BlockNo::new(sequence as u32 + 101));
        let mut page = [0xEE; PAGE_BYTES];
        overflow::init(&mut page, sequence as u32, next, data);
        let at = tag(4, sequence as u32 + 100);
        page::seal(&mut page, at);
        assert_eq!(page::verify(&page, at), Ok(()));
        assert_eq!(
            (overflow::sequence(&page), overflow::next(&page)),
            (sequence as u32, next)
        );
        read.extend_from_slice(overflow::data(&page));
    }
    assert_eq!(read, value);
    // A length that no page has is cut when read, and named when verified.
    let mut page = [0; PAGE_BYTES];
    overflow::init(&mut page, 0, None, b"x");
    page[48..52].fill(0xFF);
    assert_eq!(overflow::data(&page).len(), OVERFLOW_DATA_BYTES);
    page::seal(&mut page, tag(4, 5));
    assert!(matches!(
        page::verify(&page, tag(4, 5)),
        Err(PageError::Structure { .. })
    ));
}
