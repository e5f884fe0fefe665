//! Many processes insert, some flush, one prepares segments, one pulls the plug of a copy of the
//! disk again and again: and all that was promised is there, once, in order.

use super::*;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

/// Nobody waits this long unless a wake-up was lost.
const HUNG: Duration = Duration::from_secs(20);

struct Run {
    rig: Rig,
    stop: AtomicBool,
    made: Mutex<Vec<Seen>>,
}

/// What an inserting process does after its record.
#[derive(Clone, Copy)]
enum Then {
    Nothing,
    RequestFlush,
    FlushItself,
    FlushAndWait,
    RequestLazily,
}

/// Lets the others end when a thread fails, so that the test ends.
struct Failing<'a>(&'a Run);

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

impl Run {
    fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.rig.procs.notify(Role::Walwriter);
        self.rig.wal.wake_preparer();
    }

    fn guarded(&self, work: impl FnOnce(&Run)) {
        let _failing = Failing(self);
        work(self);
    }

    /// Waits on the event of `slot`; a lost wake-up ends the test.
    fn sleep(&self, slot: SlotNo) {
        assert!(
            self.rig.procs.event(slot).wait(Some(HUNG)),
            "nobody woke slot {}",
            slot.index()
        );
    }

    fn credit(&self, slot: SlotNo, bytes: u64) -> Credit {
        let (wal, procs) = (&self.rig.wal, &self.rig.procs);
        loop {
            procs.event(slot).take();
            if let Ok(credit) = wal.take_credit(bytes) {
                procs.set_parked(slot, false);
                return credit;
            }
            procs.set_parked(slot, true);
            if let Ok(credit) = wal.take_credit(bytes) {
                procs.set_parked(slot, false);
                return credit;
            }
            self.sleep(slot);
        }
    }

    fn insert_many(&self, number: usize, records: u64, bytes_max: u64, method: WalSyncMethod) {
        let slot = backend(number);
        let wal = &self.rig.wal;
        let mut rng = Rng::new(number as u64 + 77);
        let mut flusher = self.rig.flusher(slot, method);
        let mut builder = RecordBuilder::new();
        let mut made = Vec::new();
        for turn in 0..records {
            let id = (number as u64) << 32 | turn;
            // Mostly small ones, now and then one of any size.
            let bound = if rng.below(20) == 0 { bytes_max } else { 300 };
            make_record(
                &mut builder,
                id,
                RECORD_HEADER_BYTES + rng.below(bound) as usize,
            );
            let len = builder.bytes().len();
            let mut credit = self.credit(slot, credit_for(len) + rng.below(5000));
            let mut early = None;
            let inserted = wal.insert(slot, &mut builder, &mut credit, |at| early = Some(at));
            drop(credit);
            assert_eq!(early, Some(inserted));
            assert!(inserted.end <= wal.insert_lsn() && inserted.end <= wal.prepared_lsn());
            let bytes = builder.total_len();
            made.push(Seen {
                start: inserted.start,
                end: inserted.end,
                id,
                bytes,
            });
            match [
                Then::Nothing,
                Then::RequestFlush,
                Then::FlushItself,
                Then::FlushAndWait,
                Then::RequestLazily,
            ][rng.below(5) as usize]
            {
                Then::Nothing => {}
                Then::RequestFlush => self.wait_durable(slot, inserted.end),
                Then::FlushItself => {
                    wal.note_request(inserted.end);
                    flusher.try_flush(1);
                }
                Then::FlushAndWait => {
                    flusher.flush_until(inserted.end).expect("it was inserted");
                    assert!(wal.durable_lsn() >= inserted.end);
                }
                Then::RequestLazily => wal.request_lazy_flush(inserted.end),
            }
        }
        self.made.lock().expect("no panics").extend(made);
    }

    /// As a backend's loop does for a reply.
    fn wait_durable(&self, slot: SlotNo, lsn: Lsn) {
        let (wal, procs) = (&self.rig.wal, &self.rig.procs);
        wal.request_flush(lsn);
        loop {
            procs.event(slot).take();
            procs.set_wait_lsn(slot, lsn);
            if wal.durable_lsn() >= lsn {
                return procs.set_wait_lsn(slot, Lsn::ZERO);
            }
            self.sleep(slot);
        }
    }

    fn write_log(&self, method: WalSyncMethod) {
        let slot = walwriter();
        let mut flusher = self.rig.flusher(slot, method);
        while !self.stop.load(Ordering::SeqCst) {
            self.rig.procs.event(slot).take();
            flusher.try_flush(u32::MAX);
            flusher.heartbeat();
            if !self.stop.load(Ordering::SeqCst) {
                self.sleep(slot);
            }
        }
    }

    /// Credit stays within what it promises.
    fn watch_credit(&self) {
        let control = self.rig.wal.control();
        while !self.stop.load(Ordering::SeqCst) {
            let insert = control.positions.insert_pos.load(Ordering::SeqCst);
            let credit = control.credits.credit_pos.load(Ordering::SeqCst);
            let prepared = control.progress.prepared_pos.load(Ordering::SeqCst);
            assert!(
                insert <= credit,
                "insert position {insert} beyond credit {credit}"
            );
            assert!(credit + credit::SEGMENT_RESERVE_BYTES <= prepared);
            thread::yield_now();
        }
    }

    /// What a pruner is told holds for every later durable LSN.
    fn watch_targets(&self) {
        let wal = &self.rig.wal;
        while !self.stop.load(Ordering::SeqCst) {
            let target = wal.flush_target();
            let before = wal.durable_lsn();
            let mut later = before;
            while later == before && !self.stop.load(Ordering::SeqCst) {
                thread::yield_now();
                later = wal.durable_lsn();
            }
            let told = later == before || target.announced == Some(later);
            assert!(
                told || later >= target.later_from,
                "durable LSN {later} was not told of: {target:?}, durable then {before}"
            );
        }
    }

    /// Pulls the plug of a copy of the disk: all that was durable before is there.
    fn pull_plugs(&self, plugs: u64) {
        for seed in 0..plugs {
            let durable = self.rig.wal.durable_lsn();
            let disk = self.rig.disk.fork();
            disk.crash(seed);
            let (_, end) = read_all(&disk, self.rig.read_from(self.rig.first()));
            assert!(end.lsn >= durable, "durable up to {durable}, but {end}");
            end.check(durable, "the durable LSN")
                .expect("nothing acknowledged is lost");
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
        }
    }
}

/// The processes sync by `methods` in turn, as they may for a moment after a reload.
fn run(ring_pages: u64, segment_pages: u64, records: u64, methods: &[WalSyncMethod]) {
    const INSERTERS: usize = 4;
    let run = Run {
        rig: Rig::new(ring_pages, segment_pages),
        stop: AtomicBool::new(false),
        made: Mutex::new(Vec::new()),
    };
    let bytes_max = 3 * ring_pages * PAGE;
    let mut preparer = run.rig.preparer();
    thread::scope(|scope| {
        let helpers = [
            scope.spawn(|| run.write_log(methods[0])),
            scope.spawn(|| preparer.run(&run.stop)),
            scope.spawn(|| run.guarded(Run::watch_credit)),
            scope.spawn(|| run.guarded(Run::watch_targets)),
            scope.spawn(|| run.guarded(|run| run.pull_plugs(30))),
        ];
        let inserters: Vec<_> = (0..INSERTERS)
            .map(|number| {
                let run = &run;
                let method = methods[number % methods.len()];
                scope.spawn(move || {
                    run.guarded(|run| run.insert_many(number, records, bytes_max, method));
                })
            })
            .collect();
        for inserter in inserters {
            inserter.join().expect("an inserter failed");
        }
        run.end();
        for helper in helpers {
            helper.join().expect("a helper failed");
        }
    });
    run.rig.flusher(backend(0), methods[0]).flush_all();
    assert_eq!(run.rig.wal.durable_lsn(), run.rig.wal.insert_lsn());
    run.rig.disk.crash(99);
    let (seen, end) = read_all(&run.rig.disk, run.rig.read_from(run.rig.first()));
    let mut made = run.made.into_inner().expect("no panics");
    made.sort_by_key(|one| one.start);
    assert_eq!(made.len(), INSERTERS * records as usize);
    assert!(
        seen == made,
        "{} records were made, {} read",
        made.len(),
        seen.len()
    );
    assert_eq!(end.lsn, run.rig.wal.insert_lsn());
    let credit = run
        .rig
        .wal
        .control()
        .credits
        .credit_pos
        .load(Ordering::SeqCst);
    assert_eq!(
        wal_page::pos_to_end_lsn(credit),
        end.lsn,
        "all credit has come back"
    );
}

#[test]
fn a_ring_of_two_pages() {
    run(2, 64, 3000, &[WalSyncMethod::Fdatasync]);
}

#[test]
fn records_three_times_the_ring() {
    run(8, 128, 3000, &[WalSyncMethod::Fsync]);
}

#[test]
fn syncing_by_writing() {
    run(4, 64, 1500, &[WalSyncMethod::OpenDatasync]);
    run(4, 64, 1500, &[WalSyncMethod::OpenSync]);
}

#[test]
fn all_methods_at_a_time() {
    run(4, 64, 3000, WalSyncMethod::ALL);
}
