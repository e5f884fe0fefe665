//! Records: what is built is read back; what is damaged is named, whatever the damage.

mod support;

use rd_base::limits::{INLINE_BYTES_MAX, PAGE_BYTES};
use rd_base::{BlockNo, FileNo, Lsn, PageTag, StartCount, Timeline};
use rd_format::describe::{describe, escape};
use rd_format::node::{Bound, LeafEntry, NodeMut, NodeRef, OverflowStub, Payload};
use rd_format::page::{self, PageBytes};
use rd_format::wal_record::{
    CheckpointData, EndOfRecoveryData, FileDelta, PageOp, RECORD_BLOCKS_MAX, RecordBuilder,
    RecordData, RecordError, RecordHeader, RecordKind, RecordView, Upsert,
};
use rd_format::{bitmap, control, meta, overflow};
use support::Random;

const STUB: OverflowStub = OverflowStub {
    first: BlockNo::new(70),
    pages: 3,
    value_bytes: 20_000,
    crc: 0xDEAD_BEEF,
};

fn tag(file: u32, block: u32) -> PageTag {
    PageTag::new(FileNo::new(file), BlockNo::new(block))
}

fn all_ops() -> Vec<PageOp<'static>> {
    let upsert = |key, payload, expiry_ms| {
        PageOp::Upsert(Upsert {
            key,
            expiry_ms,
            payload,
        })
    };
    let bound = Bound {
        key: b"k\xff",
        stamp: Lsn::new(99),
    };
    vec![
        upsert(b"a", Payload::Inline(b"value"), None),
        upsert(b"", Payload::Inline(b""), Some(1_700_000_000_000)),
        upsert(b"gone", Payload::Tombstone, None),
        upsert(b"large", Payload::Overflow(STUB), Some(0)),
        PageOp::RemoveVersion {
            key: b"k",
            stamp: Lsn::new(5),
        },
        PageOp::SplitLeft {
            bound: Bound::before_key(b"m"),
            right: BlockNo::new(8),
        },
        PageOp::SplitLeft {
            bound,
            right: BlockNo::new(8),
        },
        PageOp::InsertChild {
            bound,
            child: BlockNo::new(u32::MAX),
        },
        PageOp::RemoveChild {
            bound: Bound::before_key(b""),
        },
        PageOp::SetChild {
            bound: Bound::before_key(b""),
            child: BlockNo::new(3),
        },
        PageOp::SetRightLink {
            right: Some(BlockNo::new(4)),
        },
        PageOp::SetRightLink { right: None },
        PageOp::ChangeFlags {
            set: 1,
            clear: 0xFFFE,
        },
        PageOp::SetBit(65_023),
        PageOp::ClearBit(0),
    ]
}

fn leaf() -> PageBytes {
    let mut page = [0; PAGE_BYTES];
    let mut node = NodeMut::init_leaf(&mut page);
    for number in 0..20u64 {
        let key = format!("key{number}");
        let entry = LeafEntry {
            key: key.as_bytes(),
            stamp: Lsn::new(number + 1),
            expiry_ms: None,
            payload: Payload::Inline(b"something"),
        };
        node.insert_leaf(&entry).expect("room");
    }
    page
}

/// A commit with every operation, images, and several files.
fn build_commit(builder: &mut RecordBuilder) {
    builder.start(RecordKind::Commit, 1_700_000_000_000_000);
    builder.block(tag(5, 3));
    for op in all_ops() {
        builder.op(&op);
    }
    builder.block(tag(5, 70));
    builder.overflow_image(2, Some(BlockNo::new(71)), b"the last bytes");
    builder.block(tag(6, 2));
    builder.image(&leaf());
    builder.op(&PageOp::ChangeFlags { set: 4, clear: 0 });
    builder.block(tag(6, 1));
    for (file, key_delta) in [(5, 2), (6, -1)] {
        builder.file_delta(FileDelta {
            file: FileNo::new(file),
            key_delta,
        });
    }
}

fn finished(builder: &mut RecordBuilder, lsn: u64) -> Vec<u8> {
    let len = builder.seal();
    let bytes = builder.finish(Lsn::new(lsn), StartCount::new(3)).to_vec();
    assert_eq!(bytes.len(), len);
    bytes
}

/// Makes the checksum right again after damage, so that what lies behind it is tried.
fn reseal(bytes: &mut [u8]) {
    let Ok(header) = RecordHeader::decode(bytes) else {
        return;
    };
    let Some(record) = bytes.get_mut(..header.total_len) else {
        return;
    };
    record[4..8].fill(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[32..]), &record[..32]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn a_record_is_read_back_as_it_was_built() {
    let mut builder = RecordBuilder::new();
    build_commit(&mut builder);
    let bytes = finished(&mut builder, 40);
    let view = RecordView::parse_at(&bytes, Lsn::new(40)).expect("sound");
    view.verify().expect("sound inside");
    assert_eq!(view.kind(), RecordKind::Commit);
    assert_eq!(view.header().start_count, StartCount::new(3));
    assert_eq!(view.header().time_us, 1_700_000_000_000_000);
    assert_eq!(view.end_lsn(), Lsn::new(40 + bytes.len() as u64));
    let blocks: Vec<_> = view.blocks().map(|block| block.expect("sound")).collect();
    assert_eq!(
        blocks.iter().map(|block| block.tag).collect::<Vec<_>>(),
        [tag(5, 3), tag(5, 70), tag(6, 2), tag(6, 1)]
    );
    let ops: Vec<_> = blocks[0].ops().map(|op| op.expect("sound")).collect();
    assert_eq!(ops, all_ops());
    let op_bytes: usize = ops.iter().map(PageOp::bytes).sum();
    let mut lone = RecordBuilder::new();
    lone.start(RecordKind::Noop, 0);
    lone.block(tag(1, 1));
    let before = lone.total_len();
    ops.iter().for_each(|op| lone.op(op));
    assert_eq!(
        lone.total_len() - before,
        op_bytes,
        "bytes() is what encoding takes"
    );
    assert!(blocks[0].image.is_none() && !blocks[3].has_ops());

    // The image made without a page is the one of the page.
    let mut expected = [0; PAGE_BYTES];
    overflow::init(&mut expected, 2, Some(BlockNo::new(71)), b"the last bytes");
    let mut restored = [0xAA; PAGE_BYTES];
    blocks[1].image.expect("an image").restore(&mut restored);
    assert_eq!(restored, expected);
    let mut again = RecordBuilder::new();
    again.start(RecordKind::Commit, 0);
    again.block(tag(5, 70));
    again.image(&expected);
    let again = finished(&mut again, 40);
    let again = RecordView::parse(&again).expect("sound");
    let again = again.blocks().next().expect("one").expect("sound");
    assert_eq!(again.image, blocks[1].image);

    let mut restored = [0xAA; PAGE_BYTES];
    let image = blocks[2].image.expect("an image");
    image.restore(&mut restored);
    assert!(image.bytes() < PAGE_BYTES / 4, "the hole is left out");
    NodeRef::new(&restored).verify().expect("sound");
    assert_eq!(restored, leaf());

    let Ok(RecordData::Commit(files)) = view.data() else {
        panic!("a commit has files")
    };
    let files: Vec<_> = files
        .iter()
        .map(|delta| (delta.file.get(), delta.key_delta))
        .collect();
    assert_eq!(files, [(5, 2), (6, -1)]);
}

#[test]
fn the_other_kinds_carry_their_data() {
    let mut builder = RecordBuilder::new();
    let checkpoint = CheckpointData {
        redo_lsn: Lsn::new(1 << 33),
        checkpoint_count: 12,
        causes: control::checkpoint_flags::FORCE | control::checkpoint_flags::CAUSE_TIME,
        timeline: Timeline::new(2),
    };
    builder.start(RecordKind::Checkpoint, 0);
    builder.checkpoint(&checkpoint);
    let bytes = finished(&mut builder, 40);
    let view = RecordView::parse(&bytes).expect("sound");
    assert_eq!(view.data(), Ok(RecordData::Checkpoint(checkpoint)));
    assert!(describe(&view).ends_with("redo 2/0, checkpoint 12, timeline 2, force time"));

    let end = EndOfRecoveryData {
        timeline: Timeline::new(2),
        previous_timeline: Timeline::new(1),
        redo_lsn: Lsn::new(77),
    };
    builder.start(RecordKind::EndOfRecovery, 0);
    builder.end_of_recovery(&end);
    let bytes = finished(&mut builder, 40);
    let view = RecordView::parse(&bytes).expect("sound");
    assert_eq!(view.data(), Ok(RecordData::EndOfRecovery(end)));

    builder.start(RecordKind::FileCreate, 0);
    for (block, kind) in [(0, "meta"), (1, "bitmap")] {
        let mut page = [0; PAGE_BYTES];
        match kind {
            "meta" => meta::init(&mut page, &sample_meta()),
            _ => bitmap::init(&mut page, BlockNo::new(1)),
        }
        builder.block(tag(9, block));
        builder.image(&page);
    }
    builder.file(FileNo::new(9));
    let bytes = finished(&mut builder, 40);
    let view = RecordView::parse(&bytes).expect("sound");
    view.verify().expect("sound inside");
    assert_eq!(view.data(), Ok(RecordData::File(FileNo::new(9))));
    let first = view.blocks().next().expect("two").expect("sound");
    let mut page = [0; PAGE_BYTES];
    first.image.expect("an image").restore(&mut page);
    assert_eq!(meta::read(&page), sample_meta());
    assert_eq!(page::kind(&page), Some(page::PageKind::Meta));
}

fn sample_meta() -> meta::Meta {
    meta::Meta {
        system_identifier: 1,
        file: FileNo::new(9),
        created_lsn: Lsn::new(2),
        checkpoint_count: 3,
        checkpoint_scn: Lsn::new(4),
        stop_scn: Lsn::new(4),
        opened_from: Lsn::new(5),
    }
}

#[test]
fn kinds_keep_their_numbers() {
    let numbers: Vec<_> = RecordKind::ALL
        .iter()
        .map(|kind| (*kind as u8, kind.name()))
        .collect();
    assert_eq!(
        numbers,
        [
            (1, "commit"),
            (2, "split"),
            (3, "parent_insert"),
            (4, "root_split"),
            (5, "free_versions"),
            (7, "checkpoint"),
            (8, "file_create"),
            (9, "new_bitmap"),
            (10, "leaf_gone"),
            (11, "end_of_recovery"),
            (12, "noop"),
            (13, "file_drop"),
        ]
    );
    for (number, name) in numbers {
        assert_eq!(
            RecordKind::from_number(number).map(RecordKind::name),
            Some(name)
        );
    }
    assert_eq!(RecordKind::from_number(0), None);
    assert_eq!(RecordKind::from_number(6), None);
}

#[test]
fn the_same_builder_makes_the_same_bytes_again() {
    let mut builder = RecordBuilder::new();
    build_commit(&mut builder);
    let first = finished(&mut builder, 4096);
    builder.start(RecordKind::Split, 7);
    builder.block(tag(1, 1));
    let _ = finished(&mut builder, 40);
    build_commit(&mut builder);
    assert_eq!(finished(&mut builder, 4096), first);
    builder.shrink(100);
    build_commit(&mut builder);
    assert_eq!(finished(&mut builder, 4096), first);
}

#[test]
fn every_flipped_bit_is_named() {
    let mut builder = RecordBuilder::new();
    builder.start(RecordKind::Commit, 5);
    builder.block(tag(5, 3));
    builder.upsert(&Upsert {
        key: b"key",
        expiry_ms: None,
        payload: Payload::Inline(b"value"),
    });
    builder.file_delta(FileDelta {
        file: FileNo::new(5),
        key_delta: 1,
    });
    let bytes = finished(&mut builder, 40);
    let total_len = RecordHeader::decode(&bytes).expect("a header").total_len;
    for bit in 0..total_len * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(
            RecordView::parse_at(&damaged, Lsn::new(40)).is_err(),
            "bit {bit}"
        );
    }
    for len in 0..total_len {
        assert!(matches!(
            RecordView::parse(&bytes[..len]),
            Err(RecordError::Short { .. })
        ));
    }
    let elsewhere = RecordView::parse_at(&bytes, Lsn::new(48));
    assert!(matches!(elsewhere, Err(RecordError::Elsewhere { found }) if found == Lsn::new(40)));
    assert!(matches!(
        RecordView::parse(&[0; 64]),
        Err(RecordError::Zero)
    ));
}

/// Damage that the checksum does not see: as if a program had written it.
#[test]
fn bodies_that_contradict_themselves_are_named_not_believed() {
    let mut random = Random::new(3);
    let mut builder = RecordBuilder::new();
    build_commit(&mut builder);
    let sound = finished(&mut builder, 40);
    let mut named = 0;
    let rounds = 20_000;
    for _ in 0..rounds {
        let mut bytes = sound.clone();
        for _ in 0..1 + random.below(3) {
            let at = 20 + random.below(bytes.len().min(600) - 20);
            bytes[at] = match random.below(3) {
                0 => 0,
                1 => 0xFF,
                _ => random.word() as u8,
            };
        }
        if random.one_in(10) {
            let cut = 32 + random.below(bytes.len() - 32);
            bytes.truncate(cut);
            bytes[..4].copy_from_slice(&(cut as u32).to_le_bytes());
        }
        reseal(&mut bytes);
        let Ok(view) = RecordView::parse(&bytes) else {
            named += 1;
            continue;
        };
        let text = describe(&view);
        assert!(text.len() < 10 * bytes.len() && !text.contains('\n'));
        let mut page = [0; PAGE_BYTES];
        for block in view.blocks().flatten() {
            if let Some(image) = block.image {
                image.restore(&mut page);
            }
            block.ops().for_each(drop);
        }
        assert_eq!(view.verify().is_err(), text.contains("DAMAGED"));
        named += usize::from(view.verify().is_err());
    }
    assert!(named > rounds / 4, "only {named} of {rounds} were named");
    // Noise.
    for _ in 0..5_000 {
        let len = random.below(300);
        let mut bytes = random.bytes(len);
        if bytes.len() > 32 {
            bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
            bytes[20] = 1 + random.below(13) as u8;
            bytes[23] = 0;
            reseal(&mut bytes);
        }
        if let Ok(view) = RecordView::parse(&bytes) {
            let _ = (view.verify(), describe(&view));
        }
    }
}

/// What the checksum does not see, and redo would rely on.
#[test]
fn records_of_what_cannot_be_are_refused() {
    let body = |tag: PageTag, op: PageOp<'_>| {
        let mut builder = RecordBuilder::new();
        builder.start(RecordKind::Commit, 0);
        builder.block(tag);
        builder.op(&op);
        let bytes = finished(&mut builder, 40);
        RecordView::parse(&bytes)
            .expect("the envelope is right")
            .verify()
    };
    let upsert = |payload| {
        PageOp::Upsert(Upsert {
            key: &[7; 1000],
            expiry_ms: None,
            payload,
        })
    };
    let good = tag(1, 2);
    assert_eq!(body(good, upsert(Payload::Overflow(STUB))), Ok(()));
    let value = [0; INLINE_BYTES_MAX];
    assert_eq!(body(good, upsert(Payload::Inline(&value[1000..]))), Ok(()));
    for (tag, payload) in [
        (tag(0, 2), Payload::Tombstone),
        (tag(u32::MAX, 2), Payload::Tombstone),
        (tag(1, u32::MAX), Payload::Tombstone),
        (good, Payload::Inline(&value[999..])),
        (good, Payload::Overflow(OverflowStub { pages: 2, ..STUB })),
        (
            good,
            Payload::Overflow(OverflowStub {
                value_bytes: u32::MAX,
                ..STUB
            }),
        ),
    ] {
        let refused = body(tag, upsert(payload));
        assert!(
            matches!(refused, Err(RecordError::Body { .. })),
            "{tag} {payload:?}"
        );
    }
    for file in [0, u32::MAX] {
        let mut builder = RecordBuilder::new();
        builder.start(RecordKind::FileCreate, 0);
        builder.file(FileNo::new(file));
        let bytes = finished(&mut builder, 40);
        let view = RecordView::parse(&bytes).expect("the envelope is right");
        assert!(view.verify().is_err(), "{file}");
    }
}

/// A count of blocks that the body does not have takes no memory and no time.
#[test]
fn a_record_cannot_promise_more_than_it_holds() {
    let mut builder = RecordBuilder::new();
    builder.start(RecordKind::Noop, 0);
    let mut bytes = finished(&mut builder, 40);
    bytes[22..24].copy_from_slice(&(RECORD_BLOCKS_MAX as u16).to_le_bytes());
    reseal(&mut bytes);
    let view = RecordView::parse(&bytes).expect("the envelope is right");
    assert_eq!(view.blocks().count(), 1, "one error, then the end");
    assert!(matches!(
        view.verify(),
        Err(RecordError::Body { at: 32, .. })
    ));
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(
        RecordHeader::decode(&bytes),
        Err(RecordError::Length(u32::MAX))
    );
}

#[test]
fn a_record_in_one_line() {
    let mut builder = RecordBuilder::new();
    builder.start(RecordKind::Commit, 1_700_000_000_123_456);
    builder.block(tag(5, 3));
    for op in all_ops() {
        builder.op(&op);
    }
    builder.block(tag(5, 70));
    builder.overflow_image(0, None, &[1; 100]);
    builder.file_delta(FileDelta {
        file: FileNo::new(5),
        key_delta: 2,
    });
    let bytes = finished(&mut builder, 40);
    let line = describe(&RecordView::parse(&bytes).expect("sound"));
    let expected = "\
commit          len    432/   425, lsn 0/28, end 0/1D8, start 3, 2023-11-14 22:13:20.123 UTC, \
file 5 +2 keys; 5/3: set \"a\" = \"value\", set \"\" = \"\" until 2023-11-14 22:13:20.000 UTC, \
delete \"gone\", set \"large\" = 20000 bytes in 3 pages from 70 until 1970-01-01 00:00:00.000 UTC, \
remove \"k\" stamped 0/5, split before \"m\", right sibling 8, \
split before \"k\\xff\" stamped 0/63, right sibling 8, \
child 4294967295 from \"k\\xff\" stamped 0/63, remove child from \"\", \
child from \"\" is now 3, right sibling 4, no right sibling, set flags 0001, clear fffe, \
use 65023, free 0; 5/70: page of 156 bytes";
    assert_eq!(line, expected);
}

#[test]
fn keys_are_escaped_as_redis_does() {
    assert_eq!(
        escape(b"a\x07\x08\t\n\r\"\\ ~\x7f\x00\xc3"),
        r#"a\a\b\t\n\r\"\\ ~\x7f\x00\xc3"#
    );
    assert_eq!(
        rd_format::describe::quoted(&[b'x'; 65]),
        format!("\"{}\"... (65 bytes)", "x".repeat(64))
    );
}
