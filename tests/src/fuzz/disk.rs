//! What lies on disk, piece by piece: pages, records, pages of the log.

use super::{patch, sealed};
use rd_base::limits::{PAGE_BYTES, WAL_PAGE_BYTES};
use rd_base::{BlockNo, FileNo, Lsn, PageTag, StartCount, Timeline};
use rd_engine::apply::redo_block;
use rd_format::bitmap::{self, FIRST_BITMAP_BLOCK};
use rd_format::describe::describe;
use rd_format::meta::{self, Meta};
use rd_format::node::{Bound, LeafEntry, NodeMut, NodeRef, Payload};
use rd_format::page::{self, PageBytes, PageKind};
use rd_format::wal_page::{self, WAL_HEADER_BYTES, WAL_PAGE_USABLE, WalPageHeader};
use rd_format::wal_record::{
    CheckpointData, FileDelta, PageOp, RECORD_HEADER_BYTES, RecordBuilder, RecordHeader,
    RecordKind, RecordView, Upsert,
};
use rd_format::{catalog, overflow};
use rd_store::wal::WalReader;
use rd_tools::waldump::source::{Log, Wanted};
use rd_tools::waldump::stats::Stats;
use std::fs;
use std::sync::{Arc, LazyLock};

/// Whose log and pages.
pub(super) const SYSTEM: u64 = 0xFEED;
/// Bytes of a segment of the log.
const SEGMENT_BYTES: u64 = 32 << 10;

/// Sound pages of every kind, and one of zeros.
static PAGES: LazyLock<Vec<PageBytes>> = LazyLock::new(sound_pages);

pub(super) fn tag(file: u32, block: u32) -> PageTag {
    PageTag::new(FileNo::new(file), BlockNo::new(block))
}

/// A page: the second byte chooses a sound one, the rest are patches of it. If it passes its checks,
/// everything can be done with it.
pub fn page(input: &[u8]) {
    let (seal, rest) = sealed(input);
    let Some((kind, patches)) = rest.split_first() else {
        return;
    };
    let mut bytes = PAGES[usize::from(*kind) % PAGES.len()];
    patch::apply(&mut bytes, patches);
    for at in [tag(2, 9), tag(2, 0), tag(2, 1)] {
        if seal {
            page::seal(&mut bytes, at);
        }
        if page::verify(&bytes, at).is_ok() {
            use_page(&mut bytes.clone(), at);
        }
    }
    let _ = catalog::CatalogValue::decode(&patches[..patches.len().min(16)]);
}

fn use_page(bytes: &mut PageBytes, at: PageTag) {
    match page::kind(bytes) {
        Some(PageKind::Leaf) => {
            let entry = LeafEntry {
                key: b"key:5",
                stamp: Lsn::new(u64::MAX - 1),
                expiry_ms: Some(9),
                payload: Payload::Inline(&[1; 900]),
            };
            let mut node = NodeMut::new(bytes);
            let versions = node.as_ref().versions_of(b"key:5");
            let is_there = versions
                .clone()
                .any(|slot| node.as_ref().key_and_stamp(slot).1 == entry.stamp);
            if !is_there {
                let _ = node.insert_leaf(&entry);
            }
            node.compact();
            let _ = node.split_left(Bound::before_key(b"key:6"), BlockNo::new(7));
            node.redo_make_room();
            NodeRef::new(bytes)
                .verify()
                .expect("a sound page stays one");
        }
        Some(PageKind::Inner) => {
            let mut node = NodeMut::new(bytes);
            let _ = node.as_ref().child_for(b"key:5", Lsn::MAX);
            node.compact();
            let _ = node.set_high_key(None);
            NodeRef::new(bytes)
                .verify()
                .expect("a sound page stays one");
        }
        Some(PageKind::Bitmap) => {
            let _ = bitmap::find_clear(bytes, 3, u32::MAX);
            let _ = (
                bitmap::set(bytes, u32::MAX),
                bitmap::clear(bytes, 5),
                bitmap::count(bytes),
            );
        }
        Some(PageKind::Meta) => assert_eq!(meta::read(bytes).file, at.file),
        Some(PageKind::Overflow) => {
            let _ = (
                overflow::next(bytes),
                overflow::data(bytes),
                overflow::sequence(bytes),
            );
        }
        Some(PageKind::Free | PageKind::Zero) | None => {}
    }
}

/// Makes length and checksum of the record at the start of `bytes` right.
pub(super) fn seal_record(bytes: &mut [u8], lsn: Option<Lsn>) {
    if bytes.len() < RECORD_HEADER_BYTES {
        return;
    }
    if let Some(lsn) = lsn {
        bytes[8..16].copy_from_slice(&lsn.get().to_le_bytes());
    }
    bytes[4..8].fill(0);
    let crc = crc32c::crc32c(&bytes[RECORD_HEADER_BYTES..]);
    let crc = crc32c::crc32c_append(crc, &bytes[..RECORD_HEADER_BYTES]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// A record: described, checked, redone on a page.
pub fn record(input: &[u8]) {
    let (seal, rest) = sealed(input);
    let mut bytes = rest.to_vec();
    if seal && bytes.len() >= RECORD_HEADER_BYTES {
        let length = (bytes.len() as u32).to_le_bytes();
        bytes[..4].copy_from_slice(&length);
        seal_record(&mut bytes, None);
    }
    let Ok(view) = RecordView::parse(&bytes) else {
        return;
    };
    let text = describe(&view);
    assert_eq!(view.verify().is_err(), text.contains("DAMAGED"), "{text}");
    let mut stats = Stats::new(true);
    stats.count(&view);
    let _ = stats.table(Lsn::ZERO, view.end_lsn());
    for block in view.blocks().flatten() {
        let mut bytes = [0; PAGE_BYTES];
        NodeMut::init_leaf(&mut bytes);
        let _ = redo_block(&mut bytes, &block, view.end_lsn());
    }
}

/// Pages of the log, as `rd_waldump` reads them: the input is what lies between their headers. Its
/// first bytes choose the page where it begins, and what the headers say.
pub fn wal(input: &[u8]) {
    let (seal, rest) = sealed(input);
    let Some(([first, odd, remaining, behind], rest)) = rest
        .split_first_chunk::<4>()
        .map(|(head, rest)| (*head, rest))
    else {
        return;
    };
    let mut usable = vec![0; 3 * WAL_PAGE_USABLE];
    let from = usize::from(first) * 8 % 200 + if odd > 200 { WAL_PAGE_USABLE - 100 } else { 0 };
    let length = rest.len().min(usable.len() - from);
    usable[from..from + length].copy_from_slice(&rest[..length]);
    let start_pos = wal_page::lsn_to_pos(Lsn::new(SEGMENT_BYTES));
    let mut at = 0;
    while seal && at + RECORD_HEADER_BYTES <= usable.len() {
        let Ok(header) = RecordHeader::decode(&usable[at..]) else {
            break;
        };
        let end = (at + header.total_len).min(usable.len());
        let lsn = wal_page::pos_to_start_lsn(start_pos + at as u64);
        seal_record(&mut usable[at..end], Some(lsn));
        at += header.padded_len();
    }
    let mut segment = vec![0; SEGMENT_BYTES as usize];
    for (index, bytes) in usable.chunks(WAL_PAGE_USABLE).enumerate() {
        let page = &mut segment[index * WAL_PAGE_BYTES..][..WAL_PAGE_BYTES];
        let header = WalPageHeader {
            timeline: Timeline::new(1),
            address: Lsn::new(SEGMENT_BYTES + (index * WAL_PAGE_BYTES) as u64),
            remaining: if index == 0 {
                0
            } else {
                u32::from(remaining) * 8
            },
            durable_lsn: Lsn::new(u64::from(behind) << (behind % 64)),
            system_identifier: SYSTEM,
        };
        page[..WAL_HEADER_BYTES].copy_from_slice(&header.encode());
        page[WAL_HEADER_BYTES..].copy_from_slice(bytes);
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let name = wal_page::segment_name(Timeline::new(1), 1, SEGMENT_BYTES);
    fs::write(dir.path().join(name), &segment).expect("a file of ours");
    let wanted = Wanted {
        path: Some(dir.path().to_owned()),
        ..Wanted::default()
    };
    let log = Log::find(&wanted).expect("its first page is sound");
    for lsn in [SEGMENT_BYTES, SEGMENT_BYTES + 5000, SEGMENT_BYTES + 9000] {
        let from = rd_store::wal::ReadFrom {
            lsn: Lsn::new(lsn),
            ..log.from
        };
        let storage = Arc::clone(&log.storage);
        let mut reader = WalReader::first_from(storage, from).expect("the file is there");
        let mut reached = Lsn::ZERO;
        while let Some(record) = reader.next().expect("the file is there") {
            assert!(record.start >= reached && record.end > record.start);
            reached = record.end;
            let _ = describe(&record.view);
        }
        let end = reader.finish().expect("the file is there");
        let _ = (end.check(log.durable, "nobody"), end.to_string());
    }
}

fn sound_pages() -> Vec<PageBytes> {
    let mut bytes = [0; PAGE_BYTES];
    let mut pages = vec![bytes];
    let mut node = NodeMut::init_leaf(&mut bytes);
    node.set_high_key(Some(Bound::before_key(b"key:9")))
        .expect("room");
    // Enough to fill the middle of the page, too.
    for number in 0..60 {
        let key = format!("key:{:02}", number / 2);
        let payload = match number % 5 {
            0 => Payload::Tombstone,
            _ => Payload::Inline(&[b'v'; 90]),
        };
        let entry = LeafEntry {
            key: key.as_bytes(),
            stamp: Lsn::new(77 + number),
            expiry_ms: (number % 3 == 1).then_some(5),
            payload,
        };
        node.insert_leaf(&entry).expect("room");
    }
    pages.push(bytes);
    let mut node = NodeMut::init_inner(&mut bytes, 1, BlockNo::new(4));
    for (key, stamp) in [(&b"key:3"[..], Lsn::MAX), (b"key:5", Lsn::new(9))] {
        node.insert_inner(Bound { key, stamp }, BlockNo::new(6))
            .expect("room");
    }
    pages.push(bytes);
    bitmap::init(&mut bytes, FIRST_BITMAP_BLOCK);
    pages.push(bytes);
    let meta = Meta {
        system_identifier: SYSTEM,
        file: FileNo::new(2),
        created_lsn: Lsn::new(1),
        checkpoint_count: 1,
        checkpoint_scn: Lsn::new(1),
        stop_scn: Lsn::new(1),
        opened_from: Lsn::ZERO,
    };
    meta::init(&mut bytes, &meta);
    pages.push(bytes);
    overflow::init(&mut bytes, 0, None, b"the last piece");
    pages.push(bytes);
    pages
}

pub(super) fn page_seeds() -> Vec<Vec<u8>> {
    let as_they_are = (0..PAGES.len()).map(|kind| vec![0, kind as u8]);
    let mut seeds: Vec<Vec<u8>> = as_they_are.collect();
    // Of zeros, but for the leaf, which is long.
    for page in &PAGES[2..] {
        seeds.push([&[0, 0][..], &patch::between(&PAGES[0], page)].concat());
    }
    // An entry in the middle of the leaf, of the inner node, of the bitmap.
    for kind in [1, 2, 3] {
        seeds.push(vec![0, kind, 0, 0x10, 0, 2, 0xFF, 0x7F, 0x28, 0, 0, 1, 9]);
    }
    seeds
}

/// Records of several kinds, one behind the other as in the log.
fn records() -> Vec<Vec<u8>> {
    let mut builder = RecordBuilder::new();
    let mut records = Vec::new();
    let mut pos = wal_page::lsn_to_pos(Lsn::new(SEGMENT_BYTES));
    let mut finish = |builder: &mut RecordBuilder| {
        builder.seal();
        let lsn = wal_page::pos_to_start_lsn(pos);
        let bytes = builder.finish(lsn, StartCount::new(1)).to_vec();
        pos += bytes.len() as u64;
        records.push(bytes);
    };
    builder.start(RecordKind::Commit, 1_700_000_000_000_000);
    builder.block(tag(2, 2));
    builder.upsert(&Upsert {
        key: b"key",
        expiry_ms: Some(7),
        payload: Payload::Inline(b"value"),
    });
    builder.op(&PageOp::RemoveVersion {
        key: b"key",
        stamp: Lsn::new(5),
    });
    builder.file_delta(FileDelta {
        file: FileNo::new(2),
        key_delta: 1,
    });
    finish(&mut builder);
    builder.start(RecordKind::ParentInsert, 5);
    builder.block(tag(2, 3));
    builder.op(&PageOp::InsertChild {
        bound: Bound::before_key(b"k"),
        child: BlockNo::new(9),
    });
    builder.block(tag(2, 1));
    builder.op(&PageOp::SetBit(77));
    builder.op(&PageOp::ChangeFlags { set: 1, clear: 2 });
    finish(&mut builder);
    let mut bytes = [0; PAGE_BYTES];
    NodeMut::init_leaf(&mut bytes);
    builder.start(RecordKind::Split, 6);
    builder.block(tag(2, 4));
    builder.image(&bytes);
    builder.op(&PageOp::SplitLeft {
        bound: Bound::before_key(b"m"),
        right: BlockNo::new(5),
    });
    finish(&mut builder);
    builder.start(RecordKind::Checkpoint, 7);
    builder.checkpoint(&CheckpointData {
        redo_lsn: Lsn::new(SEGMENT_BYTES),
        checkpoint_count: 3,
        causes: 9,
        timeline: Timeline::new(1),
    });
    finish(&mut builder);
    records
}

pub(super) fn record_seeds() -> Vec<Vec<u8>> {
    records()
        .iter()
        .map(|record| [&[0][..], record].concat())
        .collect()
}

pub(super) fn wal_seeds() -> Vec<Vec<u8>> {
    let all = records().concat();
    vec![
        [&[0, 0, 0, 0, 0][..], &all].concat(),
        [&[1, 0, 0, 0, 0][..], &all].concat(),
        [&[0, 0, 255, 12, 1][..], &all].concat(),
    ]
}
