//! Records at every place where a page's or a segment's end can fall.

use super::*;

/// Inserts records until the next one starts `offset` usable bytes into a page.
fn fill_to(rig: &Rig, builder: &mut RecordBuilder, offset: u64, seen: &mut Vec<Seen>) {
    let at = wal_page::lsn_to_pos(rig.wal.insert_lsn()) % USABLE;
    let mut gap = (offset + USABLE - at) % USABLE;
    if gap == 0 {
        return;
    }
    if gap < TALKING_BYTES as u64 && gap != RECORD_HEADER_BYTES as u64 {
        gap += USABLE;
    }
    insert_one(rig, builder, gap as usize, seen);
}

fn insert_one(rig: &Rig, builder: &mut RecordBuilder, bytes: usize, seen: &mut Vec<Seen>) {
    let id = seen.len() as u64;
    make_record(builder, id, bytes);
    let inserted = rig.insert(backend(0), builder);
    let bytes = builder.total_len();
    seen.push(Seen {
        start: inserted.start,
        end: inserted.end,
        id,
        bytes,
    });
}

#[test]
fn records_of_all_lengths_at_all_places_around_a_page_end() {
    let rig = Rig::new(8, 128);
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    let mut builder = RecordBuilder::new();
    let mut seen = Vec::new();
    let usable = USABLE as usize;
    let offsets = (0..64).chain(USABLE - 128..USABLE).step_by(8);
    for (turn, offset) in offsets.enumerate() {
        let lengths = [RECORD_HEADER_BYTES]
            .into_iter()
            .chain(TALKING_BYTES..TALKING_BYTES + 2 * RECORD_HEADER_BYTES)
            .chain((usable - 48..=usable + 48).step_by(8))
            .chain((2 * usable - 16..=2 * usable + 16).step_by(8));
        for length in lengths {
            fill_to(&rig, &mut builder, offset, &mut seen);
            if length % 3 == 0 {
                flusher.flush_all();
            }
            insert_one(&rig, &mut builder, length, &mut seen);
            let start = seen.last().expect("one was inserted").start;
            assert_eq!(wal_page::lsn_to_pos(start) % USABLE, offset);
            flusher.flush_all();
        }
        if turn % 4 == 0 {
            rig.disk.crash(turn as u64);
            flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
        }
    }
    let from = rig.read_from(rig.first());
    let (read, end) = read_all(&rig.disk, from);
    assert!(
        read == seen,
        "{} records made, {} read",
        seen.len(),
        read.len()
    );
    assert!(end.is_clean(), "{end}");
    assert_eq!(end.check(rig.wal.durable_lsn(), "the test"), Ok(()));
    find_first_records(&rig, &seen);
}

/// Reading can begin anywhere: the first record at or above a place is found.
fn find_first_records(rig: &Rig, seen: &[Seen]) {
    let (first, last) = (rig.first().get(), rig.wal.insert_lsn().get());
    let mut rng = Rng::new(5);
    for _ in 0..200 {
        let wanted = Lsn::new(first + rng.below(last - first));
        let from = rig.read_from(wanted);
        let mut reader = WalReader::first_from(storage(&rig.disk), from).expect("a good disk");
        let found = reader
            .next()
            .expect("a good disk")
            .map(|record| record.start);
        let expected = seen
            .iter()
            .map(|one| one.start)
            .find(|start| *start >= wanted);
        assert_eq!(found, expected, "from {wanted}");
    }
}

#[test]
fn an_end_at_a_page_boundary_needs_nothing_of_the_next_page() {
    let rig = Rig::new(4, 64);
    let mut builder = RecordBuilder::new();
    let mut seen = Vec::new();
    insert_one(&rig, &mut builder, USABLE as usize, &mut seen);
    let end = rig.wal.insert_lsn();
    assert_eq!(end.get() % PAGE, 0);
    rig.flusher(walwriter(), WalSyncMethod::Fdatasync)
        .flush_all();
    assert_eq!(rig.wal.durable_lsn(), end);
    // The next life begins at the boundary, where no page was ever written.
    let next = Rig::start(rig.disk.clone(), 4, 64, end, 2);
    insert_one(&next, &mut builder, 100, &mut seen);
    next.flusher(walwriter(), WalSyncMethod::Fdatasync)
        .flush_all();
    let (read, _) = read_all(&next.disk, next.read_from(next.first()));
    assert_eq!(read, seen);
}

#[test]
fn a_log_goes_on_inside_a_page_that_begins_inside_a_record() {
    let mut builder = RecordBuilder::new();
    for overhang in (8..200).step_by(8) {
        let rig = Rig::new(4, 64);
        let mut seen = Vec::new();
        insert_one(&rig, &mut builder, USABLE as usize + overhang, &mut seen);
        rig.flusher(walwriter(), WalSyncMethod::Fdatasync)
            .flush_all();
        rig.disk.kill(1);
        let next = Rig::start(rig.disk.clone(), 4, 64, rig.wal.insert_lsn(), 2);
        insert_one(&next, &mut builder, 100, &mut seen);
        next.flusher(walwriter(), WalSyncMethod::Fdatasync)
            .flush_all();
        let (read, _) = read_all(&next.disk, next.read_from(next.first()));
        assert_eq!(read, seen);
    }
}
