//! The end of the log: torn, garbled, stale; and damage told from it.

use super::*;
use crate::wal::read::{EndReason, LogDamage};
use rd_format::wal_record::RecordError;
use rd_sys::simdisk::{Injection, IoKind};
use rd_sys::storage::{OpenMode, Storage};

const SEGMENT_PAGES: u64 = 64;

/// A log of a few pages whose records have all kinds of lengths.
fn written() -> (Rig, Vec<Seen>) {
    let rig = Rig::new(8, SEGMENT_PAGES);
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    let mut builder = RecordBuilder::new();
    let mut seen = Vec::new();
    for (id, bytes) in [3000, 32, 71, 9000, 65, 500, 32, 2900, 333, 800, 81]
        .into_iter()
        .enumerate()
    {
        let id = id as u64;
        make_record(&mut builder, id, bytes);
        let inserted = rig.insert(backend(0), &mut builder);
        let bytes = builder.total_len();
        seen.push(Seen {
            start: inserted.start,
            end: inserted.end,
            id,
            bytes,
        });
        if id == 2 {
            flusher.flush_all();
        }
    }
    flusher.flush_all();
    (rig, seen)
}

/// The end of the last record that ends at or before `lsn`.
fn last_end(rig: &Rig, seen: &[Seen], lsn: Lsn) -> Lsn {
    let whole = seen.iter().map(|one| one.end).filter(|end| *end <= lsn);
    whole.max().unwrap_or(rig.first())
}

fn content(rig: &Rig, lsn: Lsn, bytes: usize) -> Vec<u8> {
    let path = files::path_of(TIMELINE, lsn, rig.wal.segment_bytes());
    let file = rig.disk.open(&path, OpenMode::Read).expect("it is there");
    let mut content = vec![0; bytes];
    file.read_at(&mut content, lsn.get() % rig.wal.segment_bytes())
        .expect("a good disk");
    content
}

fn damage(disk: &SimStorage, rig: &Rig, lsn: Lsn, bytes: &[u8]) {
    let path = files::path_of(TIMELINE, lsn, rig.wal.segment_bytes());
    disk.damage(&path, lsn.get() % rig.wal.segment_bytes(), bytes)
        .expect("the file is there");
}

#[test]
fn a_log_cut_at_any_byte_ends_at_the_last_whole_record() {
    let (rig, seen) = written();
    let (first, end) = (rig.first(), rig.wal.insert_lsn());
    for at in (first.get()..end.get())
        .step_by(3)
        .chain(end.get() - 1500..end.get())
    {
        let cut = Lsn::new(at);
        let disk = rig.disk.fork();
        damage(&disk, &rig, cut, &vec![0; (end.get() + 100 - at) as usize]);
        let (read, log_end) = read_all(&disk, rig.read_from(first));
        // What was zero before (padding, some bytes of values) is not missed.
        let original = content(&rig, cut, (end.get() - at) as usize);
        let missed = original
            .iter()
            .position(|byte| *byte != 0)
            .unwrap_or(original.len());
        let missed = Lsn::new(at + missed as u64);
        // Of a page whose header is cut in two nothing can be read.
        let in_header = missed.get() % PAGE < 40;
        let good = if in_header {
            wal_page::page_start(missed)
        } else {
            missed
        };
        let expected = seen
            .iter()
            .take_while(|one| one.end <= good || padding_only(one, good))
            .map(|one| one.end)
            .last()
            .unwrap_or(first);
        assert_eq!(log_end.lsn, expected, "cut at {cut}: {log_end}");
        assert!(read.iter().eq(seen.iter().take(read.len())));
    }
}

/// Whether all of the record that lies at or above `from` is padding.
fn padding_only(one: &Seen, from: Lsn) -> bool {
    let padding = credit_for(one.bytes) - one.bytes as u64;
    from.get() + padding >= one.end.get()
}

#[test]
fn a_flipped_bit_anywhere_ends_the_log_before_its_record() {
    let (rig, seen) = written();
    let (first, end) = (rig.first(), rig.wal.insert_lsn());
    for at in first.get()..end.get() + 40 {
        let lsn = Lsn::new(at);
        let disk = rig.disk.fork();
        let byte = content(&rig, lsn, 1)[0];
        damage(&disk, &rig, lsn, &[byte ^ (1 << (at % 8))]);
        let (read, log_end) = read_all(&disk, rig.read_from(first));
        assert!(read.iter().eq(seen.iter().take(read.len())), "bit at {lsn}");
        let of = seen.iter().find(|one| one.start <= lsn && lsn < one.end);
        if at % PAGE < 40 {
            assert_eq!(
                log_end.lsn,
                last_end(&rig, &seen, wal_page::page_start(lsn))
            );
        } else if of.is_none_or(|one| padding_only(one, lsn)) {
            assert_eq!(log_end.lsn, end, "nothing was lost at {lsn}");
        } else {
            assert_eq!(
                log_end.lsn,
                last_end(&rig, &seen, lsn),
                "bit at {lsn}: {log_end}"
            );
        }
    }
}

#[test]
fn damage_below_the_durable_mark_is_told_from_a_torn_tail() {
    let (rig, seen) = written();
    // The last flush stamped its pages with the durable LSN of the one before.
    let known = seen[2].end;
    let (first, end) = (rig.first(), rig.wal.insert_lsn());
    for one in &seen {
        let disk = rig.disk.fork();
        damage(&disk, &rig, Lsn::new(one.start.get() + 8), &[0xFF]);
        let (_, log_end) = read_all(&disk, rig.read_from(first));
        assert_eq!(
            log_end.durable_seen, known,
            "seen in a page beyond the failure"
        );
        let verdict = log_end.check(Lsn::ZERO, "");
        if one.end <= known {
            let told = verdict.expect_err("acknowledged log is gone").to_string();
            let file = files::path_of(TIMELINE, one.start, rig.wal.segment_bytes());
            for part in [&file, &one.start.to_string(), &known.to_string()] {
                assert!(told.contains(part.as_str()), "{told}");
            }
            assert!(told.contains("rd_waldump"), "{told}");
        } else {
            assert_eq!(verdict, Ok(()));
            // Somebody else may know better.
            let told = log_end
                .check(end, "a page of file 7")
                .expect_err("lost")
                .to_string();
            assert!(told.contains("a page of file 7"), "{told}");
        }
    }
}

#[test]
fn a_missing_or_short_segment_is_damage() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    let mut builder = RecordBuilder::new();
    for id in 0..3 * SEGMENT_PAGES {
        make_record(&mut builder, id, USABLE as usize - 100);
        rig.insert(backend(0), &mut builder);
        flusher.flush_all();
    }
    let path = files::path(TIMELINE, 2, rig.wal.segment_bytes());
    for missing in [true, false] {
        let disk = rig.disk.fork();
        if missing {
            disk.remove(&path).expect("it is there");
        } else {
            let file = disk.open(&path, OpenMode::ReadWrite).expect("it is there");
            file.truncate(5 * PAGE + 100).expect("a good disk");
        }
        let (_, end) = read_all(&disk, rig.read_from(rig.first()));
        let reason = if missing {
            EndReason::MissingSegment
        } else {
            EndReason::ShortSegment
        };
        assert_eq!((end.reason, end.file.as_str()), (reason, path.as_str()));
        assert!(end.check(Lsn::ZERO, "").is_err());
    }
}

/// A sector that the disk does not give, behind the end of the log, is met by reading ahead. One within
/// the log is an error.
#[test]
fn a_bad_sector_behind_the_end_of_the_log_ends_nothing() {
    let (rig, seen) = written();
    let end = seen.last().expect("some records").end;
    let pages = end.get() % rig.wal.segment_bytes() / PAGE + 1;
    for (good_pages, is_within) in [(pages, false), (pages + 3, false), (pages - 1, true)] {
        let disk = rig.disk.fork();
        let reads = |skip, times| {
            disk.inject(Injection {
                kind: IoKind::Read,
                path_contains: "wal/0".to_owned(),
                skip,
                times,
                errno: 5,
            });
        };
        // It is opened, and a chunk is read; then page by page; then a chunk from the bad one on, and
        // that by itself.
        reads(1, 1);
        reads(1 + good_pages, 3);
        let mut reader = WalReader::new(storage(&disk), rig.read_from(rig.first()));
        let mut records = 0;
        let read = loop {
            match reader.next() {
                Ok(Some(_)) => records += 1,
                Ok(None) => break reader.finish().map(|end| end.lsn),
                Err(error) => break Err(error),
            }
        };
        match is_within {
            false => assert_eq!((records, read.ok()), (seen.len(), Some(end))),
            true => assert!(records < seen.len() && read.is_err(), "{read:?}"),
        }
    }
}

/// Pages of one record each, so that stale ones fit behind new ones exactly.
fn insert_pages(rig: &Rig, ids: std::ops::Range<u64>) {
    let mut builder = RecordBuilder::new();
    for id in ids {
        make_record(&mut builder, id, USABLE as usize);
        rig.insert(backend(0), &mut builder);
    }
    rig.flusher(walwriter(), WalSyncMethod::Fdatasync)
        .flush_all();
}

#[test]
fn records_behind_a_torn_one_never_rise_again() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    insert_pages(&rig, 0..5);
    // A power cut took the second page, which nobody had been promised; those behind it stayed.
    let second = Lsn::new(rig.first().get() + PAGE);
    damage(&rig.disk, &rig, second, &[0; WAL_PAGE_BYTES]);
    let (read, end) = read_all(&rig.disk, rig.read_from(rig.first()));
    assert_eq!(
        (read.len(), end.lsn, end.start_count),
        (1, second, StartCount::new(1))
    );
    // The next life puts a record of its own there, and dies.
    let next = Rig::start(rig.disk.clone(), 8, SEGMENT_PAGES, end.lsn, 2);
    insert_pages(&next, 100..101);
    let (read, end) = read_all(&next.disk, next.read_from(next.first()));
    assert_eq!(read.iter().map(|one| one.id).collect::<Vec<_>>(), [0, 100]);
    let (found, before) = (StartCount::new(1), StartCount::new(2));
    assert_eq!(end.reason, EndReason::StartCount { found, before });
    // Nor when the first record read is the one behind: its predecessor's count is known.
    let from = ReadFrom {
        start_count: before,
        ..next.read_from(end.lsn)
    };
    assert_eq!(read_all(&next.disk, from).0, []);
}

#[test]
fn what_a_recycled_segment_holds_is_never_taken_for_log() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    for id in 0..SEGMENT_PAGES + 3 {
        insert_pages(&rig, id..id + 1);
    }
    let bytes = rig.wal.segment_bytes();
    let before = rig.wal.durable_lsn();
    let retired = rig
        .wal
        .retire_segments(&rig.disk, before, Lsn::new(100 * bytes));
    assert_eq!(retired.expect("a good disk").recycled, 1);
    let from = wal_page::segment_start(2, bytes);
    let to = wal_page::segment_of(rig.wal.prepared_lsn(), bytes);
    for id in 1000.. {
        if wal_page::segment_of(rig.wal.insert_lsn(), bytes) == to - 1 {
            break;
        }
        insert_pages(&rig, id..id + 1);
    }
    insert_pages(&rig, 2000..2003);
    let (read, end) = read_all(&rig.disk, rig.read_from(from));
    assert_eq!(end.lsn, rig.wal.durable_lsn());
    assert_eq!(read.last().map(|one| one.id), Some(2002));
    let stale = matches!(
        end.reason,
        EndReason::Page(wal_page::WalPageError::Address { .. })
    );
    assert!(stale || end.is_clean(), "{end}");
}

#[test]
fn a_page_of_another_system_or_timeline_ends_the_log() {
    let (rig, _) = written();
    let from = ReadFrom {
        system_id: 1,
        ..rig.read_from(rig.first())
    };
    let (_, end) = read_all(&rig.disk, from);
    assert!(matches!(end.reason, EndReason::Page(_)) && end.durable_seen == Lsn::ZERO);
    let header = wal_page::WalPageHeader {
        timeline: Timeline::new(2),
        address: rig.first(),
        remaining: 0,
        durable_lsn: Lsn::MAX,
        system_identifier: SYSTEM_ID,
    };
    damage(&rig.disk, &rig, rig.first(), &header.encode());
    let (_, end) = read_all(&rig.disk, rig.read_from(rig.first()));
    assert_eq!(
        end.reason,
        EndReason::Timeline {
            found: Timeline::new(2)
        }
    );
    assert!(
        end.durable_seen < Lsn::MAX,
        "what another timeline says does not count"
    );
}

#[test]
fn a_page_that_does_not_go_on_with_the_record_before_it_ends_the_log() {
    let (rig, seen) = written();
    let forge = |disk: &SimStorage, page: Lsn, remaining: u32| {
        let header = wal_page::WalPageHeader {
            timeline: TIMELINE,
            address: page,
            remaining,
            durable_lsn: Lsn::ZERO,
            system_identifier: SYSTEM_ID,
        };
        damage(disk, &rig, page, &header.encode());
    };
    // The record of 9000 bytes crosses into the second page.
    let crossing = seen[3];
    let page = Lsn::new(rig.first().get() + PAGE);
    assert!(crossing.start < page && page < crossing.end);
    let left = (wal_page::lsn_to_pos(crossing.end) - wal_page::lsn_to_pos(page)) as u32;
    for found in [0, 8, left - 8, left + 8] {
        let disk = rig.disk.fork();
        forge(&disk, page, found);
        let (_, end) = read_all(&disk, rig.read_from(rig.first()));
        let reason = EndReason::Continuation {
            found,
            expected: left,
        };
        assert_eq!((end.lsn, end.at, end.reason), (seen[2].end, page, reason));
    }
    // Read from the record behind it on, nothing says how long the crossing one was; but it
    // cannot have reached beyond that record's start.
    let behind = rig.read_from(crossing.end);
    assert_eq!(read_all(&rig.disk, behind).0.len(), seen.len() - 4);
    forge(&rig.disk, page, left + 8);
    let (read, end) = read_all(&rig.disk, behind);
    let reason = EndReason::Continuation {
        found: left + 8,
        expected: left,
    };
    assert_eq!((read.len(), end.reason), (0, reason));
}

#[test]
fn a_record_of_an_unknown_kind_is_no_torn_tail() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    let mut builder = RecordBuilder::new();
    builder.start(RecordKind::Noop, 0);
    builder.seal();
    let mut bytes = builder
        .finish(Lsn::new(rig.first().get() + 40), StartCount::new(1))
        .to_vec();
    bytes[20] = 0xEE;
    bytes[4..8].fill(0);
    let crc = crc32(&bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    rig.insert(backend(0), &mut builder);
    rig.flusher(walwriter(), WalSyncMethod::Fdatasync)
        .flush_all();
    damage(&rig.disk, &rig, Lsn::new(rig.first().get() + 40), &bytes);
    let (_, end) = read_all(&rig.disk, rig.read_from(rig.first()));
    assert_eq!(end.reason, EndReason::Record(RecordError::Kind(0xEE)));
    assert!(matches!(
        end.check(Lsn::ZERO, ""),
        Err(LogDamage::Unknown { .. })
    ));
}

/// CRC-32C, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0x82F6_3B78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}
