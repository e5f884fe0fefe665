//! A crash at every single I/O of a workload, followed by another life of the log, and a crash
//! there; by power (unsynced sectors are lost or torn) and by kill (nothing written is lost).

use super::*;
use rd_sys::crash::catch_panics;
use rd_sys::simdisk::{Injection, IoKind};

const RING_PAGES: u64 = 4;
const SEGMENT_PAGES: u64 = 64;
/// Larger ones would wait for a flusher, and here is one thread for everything.
const RECORD_MAX: u64 = 12_000;

/// What a life of the log knows of itself.
struct Life {
    rig: Rig,
    made: Vec<Seen>,
    /// The durable LSN when it was last looked at.
    promised: Lsn,
    /// Records may be gone below this.
    keep_from: Lsn,
}

impl Life {
    /// Inserts, flushes, makes and retires segments, until the disk fails.
    fn live(&mut self, turns: u64, seed: u64) {
        let ended = catch_panics(|| {
            let mut rng = Rng::new(seed);
            let mut builder = RecordBuilder::new();
            let slot = backend(0);
            let mut flusher = self.rig.flusher(slot, WalSyncMethod::Fdatasync);
            for turn in 0..turns {
                let bytes = RECORD_HEADER_BYTES + rng.below(RECORD_MAX) as usize;
                let id = seed << 32 | turn;
                make_record(&mut builder, id, bytes);
                let need = credit_for(builder.bytes().len());
                if self.rig.preparer().step() == files::Step::Blocked(SegmentsBlocked::Other) {
                    return;
                }
                let Ok(mut credit) = self.rig.wal.take_credit(need) else {
                    flusher.flush_all();
                    self.promised = self.rig.wal.durable_lsn();
                    continue;
                };
                let inserted = self.rig.wal.insert(slot, &mut builder, &mut credit, |_| {});
                let bytes = builder.total_len();
                self.made.push(Seen {
                    start: inserted.start,
                    end: inserted.end,
                    id,
                    bytes,
                });
                match rng.below(8) {
                    0..3 => flusher.flush_all(),
                    3 => flusher.heartbeat(),
                    4 if turn % 16 == 15 => {
                        let upto = Lsn::new(self.promised.get() + 3 * SEGMENT_PAGES * PAGE);
                        // What may be gone is noted first.
                        self.keep_from = self.promised;
                        let wal = &self.rig.wal;
                        if wal
                            .retire_segments(&self.rig.disk, self.keep_from, upto)
                            .is_err()
                        {
                            return;
                        }
                    }
                    _ => {}
                }
                self.promised = self.rig.wal.durable_lsn();
            }
        });
        // Whatever was published, if only for a moment, was promised.
        self.promised = self.rig.wal.durable_lsn();
        if let Err(message) = ended {
            assert!(self.rig.disk.has_crashed(), "{message}");
        }
    }

    /// What recovery does: reads what is left, holds it against what was made, and goes on.
    fn recover(self, count: u32) -> Life {
        let from = ReadFrom {
            start_count: StartCount::new(0),
            ..self.rig.read_from(self.keep_from)
        };
        let (read, end) = read_all(&self.rig.disk, from);
        assert!(
            end.lsn >= self.promised,
            "promised up to {}, but {end}",
            self.promised
        );
        assert_eq!(end.check(self.promised, "the test"), Ok(()));
        let mut made = self.made;
        made.retain(|one| one.end <= end.lsn);
        let kept: Vec<Seen> = made
            .iter()
            .copied()
            .filter(|one| one.start >= self.keep_from)
            .collect();
        assert!(
            read == kept,
            "{} records kept, {} read",
            kept.len(),
            read.len()
        );
        let secured = read::secure_tail(
            &self.rig.disk,
            &ReadFrom {
                lsn: self.promised,
                ..from
            },
            end.lsn,
        );
        secured.expect("the disk works again");
        let rig = Rig::start(self.rig.disk, RING_PAGES, SEGMENT_PAGES, end.lsn, count);
        Life {
            rig,
            made,
            promised: end.lsn,
            keep_from: self.keep_from,
        }
    }
}

fn first_life() -> Life {
    let rig = Rig::new(RING_PAGES, SEGMENT_PAGES);
    let first = rig.first();
    Life {
        rig,
        made: Vec::new(),
        promised: first,
        keep_from: first,
    }
}

/// Lives, each with a crash at its I/O number `at`; false if they have fewer. The power fails at
/// the end of those that `power` says; at the end of the others the processes are killed.
fn crash_at(at: u64, power: &[bool]) -> bool {
    let mut life = first_life();
    let mut crashed = false;
    for (count, power) in (2..).zip(power) {
        let disk = life.rig.disk.clone();
        disk.crash_at(Some(disk.io_count() + at));
        life.live(150, u64::from(count));
        crashed |= disk.has_crashed();
        if *power {
            disk.crash(at * 7 + u64::from(count));
        } else {
            disk.kill(at);
        }
        life = life.recover(count);
    }
    crashed
}

#[test]
fn a_power_cut_at_every_io_loses_nothing_that_was_promised() {
    let mut at = 1;
    while crash_at(at, &[true; 3]) {
        at += 1;
    }
    assert!(at > 100, "the workload had only {at} I/Os");
}

#[test]
fn a_kill_at_every_io_loses_nothing_that_was_promised() {
    let mut at = 1;
    while crash_at(at, &[false; 3]) {
        at += 3;
    }
}

/// Workers may still be at what is proved when the tail cannot be made durable: nobody waits for them.
#[test]
fn who_cannot_make_the_tail_durable_ends_at_once() {
    let mut life = first_life();
    life.live(50, 1);
    let from = ReadFrom {
        start_count: StartCount::new(0),
        ..life.rig.read_from(life.keep_from)
    };
    life.rig.disk.inject(Injection {
        kind: IoKind::Sync,
        path_contains: "wal/".to_owned(),
        skip: 0,
        times: 1,
        errno: 5,
    });
    let end = life.promised;
    let ended = catch_panics(|| read::secure_tail(&life.rig.disk, &from, end).is_ok());
    let why = ended.expect_err("the process has ended");
    assert!(why.contains("could not sync file \"wal/"), "{why}");
}

/// What a killed life wrote and did not sync is read by the next, which builds on it.
#[test]
fn a_kill_and_then_a_power_cut_lose_nothing_that_was_promised() {
    let mut at = 1;
    while crash_at(at, &[false, true, false, true]) {
        at += 1;
    }
}

/// After a failed sync the cache holds what is nowhere on disk, and takes it for clean.
#[test]
fn what_a_failed_sync_left_in_the_cache_is_secured_before_it_is_built_on() {
    let mut beyond_the_promised = 0;
    for seed in 0..40 {
        let mut life = first_life();
        life.live(10, seed);
        let disk = life.rig.disk.clone();
        life.rig
            .flusher(backend(0), WalSyncMethod::Fdatasync)
            .flush_all();
        disk.inject(Injection {
            kind: IoKind::Sync,
            path_contains: "wal/0".to_owned(),
            skip: 0,
            times: 1,
            errno: 5,
        });
        let panicked = catch_panics(|| {
            let mut builder = RecordBuilder::new();
            for id in 100..106 {
                make_record(&mut builder, id, 3000);
                let inserted = life.rig.insert(backend(0), &mut builder);
                let bytes = builder.total_len();
                life.made.push(Seen {
                    start: inserted.start,
                    end: inserted.end,
                    id,
                    bytes,
                });
            }
            life.rig
                .flusher(backend(0), WalSyncMethod::Fdatasync)
                .flush_all();
        });
        assert!(panicked.is_err(), "a failed sync is the end");
        life.promised = life.rig.wal.durable_lsn();
        let promised = life.promised;
        disk.kill(seed);
        // Recovery takes what it reads for durable from now on.
        let next = life.recover(2);
        beyond_the_promised += u64::from(next.promised > promised);
        disk.crash(seed);
        next.recover(3);
    }
    assert!(
        beyond_the_promised > 5,
        "hardly ever was there anything to secure"
    );
}
