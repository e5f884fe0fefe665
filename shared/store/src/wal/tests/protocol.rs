//! The protocols, one step at a time: an insertion that is held up, requests, credit.

use super::*;
use crate::wal::credit::SEGMENT_RESERVE_BYTES;
use rd_sys::crash;

fn record(id: u64, bytes: usize) -> RecordBuilder {
    let mut builder = RecordBuilder::new();
    make_record(&mut builder, id, bytes);
    builder
}

#[test]
fn nothing_beyond_a_held_up_insertion_becomes_durable() {
    let rig = Rig::new(8, 64);
    let mut flusher = rig.flusher(backend(5), WalSyncMethod::Fdatasync);
    let before = rig.insert(backend(0), &mut record(1, 100));
    let woken = || rig.procs.event(walwriter()).take();
    let mut held = record(2, 100);
    let mut credit = rig.wal.take_credit(1000).expect("room");
    let mut after = None;
    rig.wal
        .insert(backend(1), &mut held, &mut credit, |inserted| {
            let later = rig.insert(backend(2), &mut record(3, 100));
            after = Some(later);
            assert!(rig.wal.flush_target().later_from <= inserted.start);
            rig.wal.request_flush(later.end);
            assert_eq!(
                flusher.try_flush(10),
                FlushOutcome::Stalled,
                "and flushed what it could"
            );
            assert_eq!(rig.wal.durable_lsn(), before.end);
            assert_eq!(rig.wal.flush_target().announced, Some(before.end));
            woken();
        });
    assert!(woken(), "whoever was waited for wakes the walwriter");
    let after = after.expect("it ran");
    assert_eq!(flusher.try_flush(10), FlushOutcome::Flushed(after.end));
    assert_eq!(rig.wal.flush_target().later_from, after.end);
    assert_eq!(flusher.try_flush(10), FlushOutcome::Nothing);
}

#[test]
fn what_was_complete_stays_so_though_an_inserter_shows_an_outdated_bound() {
    let rig = Rig::new(8, 64);
    let early = wal_page::lsn_to_pos(rig.insert(backend(0), &mut record(1, 100)).end);
    let late = rig.insert(backend(0), &mut record(2, 100)).end;
    let told = rig.wal.flush_target().later_from;
    assert_eq!(told, late);
    // I1 of a process that had read the insert position long ago.
    let slot = &rig.wal.inner.slots[backend(0).index()];
    slot.start.store(early, Ordering::SeqCst);
    rig.wal.note_request(late);
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    assert_eq!(
        flusher.try_flush(1),
        FlushOutcome::Flushed(late),
        "not below what was told"
    );
    slot.start.store(0, Ordering::SeqCst);
}

#[test]
fn one_sync_serves_all_who_wait_and_wakes_them() {
    let rig = Rig::new(8, 64);
    let ends: Vec<Lsn> = (0..5)
        .map(|number| rig.insert(backend(number), &mut record(1, 100)).end)
        .collect();
    for (number, end) in ends.iter().enumerate() {
        rig.procs.set_wait_lsn(backend(number), *end);
        rig.wal.request_flush(*end);
    }
    assert!(
        rig.procs.event(walwriter()).take(),
        "a request wakes the walwriter"
    );
    let syncs = || rig.stats.get(rd_base::counters::Counter::WalSyncs);
    let before = syncs();
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    assert_eq!(flusher.try_flush(1), FlushOutcome::Flushed(ends[4]));
    assert_eq!(syncs() - before, 1);
    for number in 0..5 {
        assert!(rig.procs.event(backend(number)).take());
    }
    assert!(!rig.procs.event(backend(6)).take());
}

#[test]
fn a_flush_beyond_the_end_is_refused() {
    let rig = Rig::new(8, 64);
    let end = rig.insert(backend(0), &mut record(1, 100)).end;
    let mut flusher = rig.flusher(backend(0), WalSyncMethod::Fdatasync);
    let beyond = Lsn::new(end.get() + 8);
    assert!(flusher.flush_until(beyond).is_err());
    assert_eq!(flusher.flush_until(end), Ok(()));
    assert_eq!(rig.wal.durable_lsn(), end);
}

#[test]
fn a_failed_sync_is_the_end() {
    let rig = Rig::new(8, 64);
    rig.insert(backend(0), &mut record(1, 100));
    rig.disk.inject(rd_sys::simdisk::Injection {
        kind: rd_sys::simdisk::IoKind::Sync,
        path_contains: "wal/".to_owned(),
        skip: 0,
        times: 1,
        errno: 5,
    });
    let mut flusher = rig.flusher(backend(0), WalSyncMethod::Fdatasync);
    let died = crash::catch_panics(|| flusher.flush_all()).expect_err("it must not go on");
    assert!(
        died.contains("could not sync") && died.contains("wal/0000"),
        "{died}"
    );
    assert_eq!(rig.wal.durable_lsn(), rig.first());
}

#[test]
fn a_flush_waits_for_descriptors_if_it_is_the_system_that_has_none() {
    let rig = Rig::new(8, 64);
    let refuse = |times, errno| {
        rig.disk.inject(rd_sys::simdisk::Injection {
            kind: rd_sys::simdisk::IoKind::Read,
            path_contains: "wal/0000".to_owned(),
            skip: 0,
            times,
            errno,
        });
    };
    let end = rig.insert(backend(0), &mut record(1, 100)).end;
    // ENFILE
    refuse(3, 23);
    let flusher = || rig.flusher(backend(0), WalSyncMethod::Fdatasync);
    flusher().flush_all();
    assert_eq!(rig.wal.durable_lsn(), end);
    // EMFILE: nobody but this process could mend that.
    rig.insert(backend(0), &mut record(2, 100));
    refuse(1, 24);
    let died = crash::catch_panics(|| flusher().flush_all()).expect_err("it cannot go on");
    assert!(died.contains("Too many open files"), "{died}");
    assert_eq!(rig.wal.durable_lsn(), end);
}

#[test]
fn credit_ends_with_the_ring_and_comes_back() {
    let rig = Rig::new(4, 64);
    while rig.preparer().step() == files::Step::Prepared {}
    let mut taken = Vec::new();
    let refused = loop {
        match rig.wal.take_credit(1000) {
            Ok(credit) => taken.push(credit),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, NoCredit::Ring);
    assert_eq!(taken.len() as u64, 4 * USABLE / 1000);
    rig.procs.set_parked(backend(0), true);
    taken.pop();
    assert!(
        rig.procs.event(backend(0)).take(),
        "who was refused is woken"
    );
    taken.extend(rig.wal.take_credit(1000));
    assert_eq!(taken.len() as u64, 4 * USABLE / 1000);
    // Reserved credit asks for no room in the ring.
    drop(rig.wal.take_reserved_credit(1000).expect("reserved"));
    // All who hold credit find their room without anybody flushing.
    for (number, mut credit) in taken.into_iter().enumerate() {
        rig.wal.insert(
            backend(0),
            &mut record(number as u64, 1000),
            &mut credit,
            |_| {},
        );
    }
    assert_eq!(rig.wal.take_credit(1000).map(|_| ()), Err(NoCredit::Ring));
    rig.procs.event(backend(0)).take();
    rig.flusher(walwriter(), WalSyncMethod::Fdatasync)
        .flush_all();
    assert!(rig.procs.event(backend(0)).take(), "a flush gives room");
    assert!(rig.wal.take_credit(1000).is_ok());
}

/// Somebody was refused for want of room, and there is nothing to write that would give some.
#[test]
fn a_walwriter_that_can_do_nothing_does_not_keep_itself_awake() {
    let rig = Rig::new(4, 64);
    while rig.preparer().step() == files::Step::Prepared {}
    let all = rig.wal.take_credit(4 * USABLE - 1000).expect("room");
    assert_eq!(rig.wal.take_credit(2000).map(|_| ()), Err(NoCredit::Ring));
    assert!(rig.procs.event(walwriter()).take(), "it is to look");
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    assert_eq!(flusher.try_flush(4), FlushOutcome::Stalled);
    assert!(!rig.procs.event(walwriter()).take());
    drop(all);
}

#[test]
fn credit_ends_with_the_segments_and_a_reserve_is_kept() {
    let rig = Rig::new(4, 64);
    let left = || {
        let end = wal_page::lsn_to_pos(rig.wal.prepared_lsn());
        end - wal_page::lsn_to_pos(rig.wal.insert_lsn())
    };
    let most = left() - SEGMENT_RESERVE_BYTES;
    assert_eq!(
        rig.wal.take_credit(most + 8).map(|_| ()),
        Err(NoCredit::Segments)
    );
    drop(rig.wal.take_credit(most).expect("all but the reserve"));
    drop(
        rig.wal
            .take_reserved_credit(left())
            .expect("the reserve too"),
    );
    assert_eq!(
        rig.wal.take_reserved_credit(left() + 8).map(|_| ()),
        Err(NoCredit::Segments)
    );
    // What was refused was asked for.
    while rig.preparer().step() == files::Step::Prepared {}
    assert!(rig.wal.take_credit(most + 8).is_ok());
}

#[test]
#[should_panic(expected = "a record of")]
fn a_record_larger_than_its_credit_is_an_error_of_the_caller() {
    let rig = Rig::new(8, 64);
    let mut credit = rig.wal.take_credit(96).expect("room");
    rig.wal
        .insert(backend(0), &mut record(1, 200), &mut credit, |_| {});
}

#[test]
fn lazy_requests_and_flushes_wake_a_walwriter_without_timer() {
    let rig = Rig::new(8, 64);
    let woken = || rig.procs.event(walwriter()).take();
    let end = rig.insert(backend(0), &mut record(1, 100)).end;
    rig.wal.request_lazy_flush(end);
    assert!(woken());
    rig.wal.set_timer(true);
    rig.wal.request_lazy_flush(end);
    assert!(!woken(), "its timer will see to it");
    rig.wal.set_timer(false);
    rig.flusher(backend(0), WalSyncMethod::Fdatasync)
        .flush_all();
    assert!(woken(), "a heartbeat will be due");
}

#[test]
fn a_heartbeat_stamps_the_last_page_with_the_durable_lsn() {
    for bytes in [100, USABLE as usize, USABLE as usize + 200] {
        let rig = Rig::new(8, 64);
        rig.insert(backend(0), &mut record(1, bytes));
        let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
        assert!(!flusher.heartbeat_due());
        flusher.flush_all();
        let durable = rig.wal.durable_lsn();
        let seen = || {
            read_all(&rig.disk, rig.read_from(rig.first()))
                .1
                .durable_seen
        };
        assert!(seen() < durable && flusher.heartbeat_due());
        flusher.heartbeat();
        rig.disk.crash(1);
        assert_eq!(seen(), durable);
        assert!(!flusher.heartbeat_due());
        // The log goes on, and the page with it.
        let next = Rig::start(rig.disk.clone(), 8, 64, durable, 2);
        next.insert(backend(0), &mut record(2, 300));
        next.flusher(walwriter(), WalSyncMethod::Fdatasync)
            .flush_all();
        assert_eq!(
            read_all(&next.disk, next.read_from(next.first())).0.len(),
            2
        );
    }
}
