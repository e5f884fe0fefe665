//! How long the operations on a leaf take, in a page that is in the cache and over many that are
//! not, and how long it takes to make a record and to sum a page. `cargo bench -p rd-format`.

use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag, StartCount};
use rd_format::node::{LeafEntry, NodeMut, NodeRef, Payload, entry_order};
use rd_format::page::{self, PageBytes};
use rd_format::wal_record::{RecordBuilder, RecordKind, Upsert};
use std::cmp::Ordering;
use std::hint::black_box;
use std::time::Instant;

const VALUE: [u8; 100] = [7; 100];

fn scrambled(number: usize) -> u64 {
    (number as u64)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .rotate_left(29)
}

fn entry(key: &[u8], stamp: u64) -> LeafEntry<'_> {
    LeafEntry {
        key,
        stamp: Lsn::new(stamp),
        expiry_ms: None,
        payload: Payload::Inline(&VALUE),
    }
}

/// Leaf pages filled about as random inserts leave them, with `make_key(page, index)`.
fn pages(count: usize, make_key: impl Fn(usize, usize) -> Vec<u8>) -> (Vec<PageBytes>, usize) {
    let mut pages = vec![[0; PAGE_BYTES]; count];
    let mut entries = 0;
    for (number, page) in pages.iter_mut().enumerate() {
        let mut node = NodeMut::init_leaf(page);
        entries = 0;
        while node.as_ref().free_bytes() > PAGE_BYTES / 8 {
            // Not in order, so that neighbouring slots have cells far from each other.
            let index = entries * 37 % 53;
            if node
                .insert_leaf(&entry(&make_key(number, index), 8))
                .is_err()
            {
                break;
            }
            entries += 1;
            if entries == 53 {
                break;
            }
        }
    }
    (pages, entries)
}

/// The search without heads, to compare with: one cell per step.
fn lower_bound_by_cells(node: &NodeRef<'_>, key: &[u8], stamp: Lsn) -> usize {
    let (mut low, mut high) = (0, node.count());
    while low < high {
        let middle = low + (high - low) / 2;
        let (middle_key, middle_stamp) = node.key_and_stamp(middle);
        if entry_order(middle_key, middle_stamp, key, stamp) == Ordering::Less {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn time(name: &str, rounds: usize, mut work: impl FnMut(usize)) {
    let mut best = f64::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        for round in 0..rounds {
            work(round);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / rounds as f64);
    }
    println!("{name:<60} {best:8.1} ns");
}

fn searches(name: &str, page_count: usize, make_key: impl Fn(usize, usize) -> Vec<u8> + Copy) {
    let (pages, entries) = pages(page_count, make_key);
    let rounds = 2_000_000;
    let keys: Vec<(usize, Vec<u8>)> = (0..100_000)
        .map(|number| {
            let random = scrambled(number) as usize;
            let page = random % page_count;
            (page, make_key(page, (random >> 32) % entries * 37 % 53))
        })
        .collect();
    time(
        &format!("{name}, {page_count} pages of {entries}: by heads"),
        rounds,
        |round| {
            let (page, key) = &keys[round % keys.len()];
            let node = NodeRef::new(&pages[*page]);
            let slot = node.lower_bound(key, Lsn::MAX);
            assert_eq!(black_box(node.leaf_entry(slot)).key.len(), key.len());
        },
    );
    time(
        &format!("{name}, {page_count} pages of {entries}: by cells"),
        rounds,
        |round| {
            let (page, key) = &keys[round % keys.len()];
            let node = NodeRef::new(&pages[*page]);
            let slot = lower_bound_by_cells(&node, key, Lsn::MAX);
            assert_eq!(black_box(node.leaf_entry(slot)).key.len(), key.len());
        },
    );
}

fn main() {
    let decimal = |page: usize, index: usize| format!("key:{:012}", page * 53 + index).into_bytes();
    let binary = |page: usize, index: usize| {
        let mut key = (page as u64).to_be_bytes().to_vec();
        key.extend_from_slice(&scrambled(index).to_be_bytes());
        key
    };
    for page_count in [1, 20_000] {
        searches("decimal keys", page_count, decimal);
        searches("binary keys", page_count, binary);
    }
    let (pages, _) = pages(1, decimal);
    let mut page = pages[0];
    let key = decimal(0, 20);
    let mut node = NodeMut::new(&mut page);
    time(
        "insert a version and remove the older one",
        1_000_000,
        |round| {
            let slot = node
                .insert_leaf(&entry(&key, 9 + round as u64 % 1_000_000))
                .expect("room");
            node.remove(slot + 1);
        },
    );
    let mut page = pages[0];
    let mut node = NodeMut::new(&mut page);
    time("replace a version in place", 1_000_000, |round| {
        let slot = node.as_ref().lower_bound(&key, Lsn::MAX);
        node.replace_leaf(slot, &entry(&key, 9 + round as u64))
            .expect("room");
    });
    let page = pages[0];
    time("verify", 100_000, |_| {
        NodeRef::new(black_box(&page)).verify().expect("sound")
    });
    let mut page = pages[0];
    time("compact", 100_000, |_| {
        NodeMut::new(black_box(&mut page)).compact()
    });
    let mut builder = RecordBuilder::new();
    time(
        "make the record of a commit of one key",
        1_000_000,
        |round| {
            builder.start(RecordKind::Commit, round as u64);
            builder.block(PageTag::new(FileNo::new(5), BlockNo::new(3)));
            builder.upsert(&Upsert {
                key: &key,
                expiry_ms: None,
                payload: Payload::Inline(&VALUE),
            });
            builder.seal();
            black_box(builder.finish(Lsn::new(40), StartCount::new(1)));
        },
    );
    let tag = PageTag::new(FileNo::new(5), BlockNo::new(3));
    time("checksum of a page", 100_000, |_| {
        black_box(page::checksum(black_box(&page), tag));
    });
}
