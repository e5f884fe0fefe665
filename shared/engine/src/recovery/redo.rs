//! Redo: the log read once, from the redo point to its end, and applied to each page that does not
//! hold it yet.
//!
//! A page's first record in any role carries the whole page, so that what is on disk (zeros, a
//! short file, a torn page) does not matter; every other record needs the page as it was. There is
//! no undo: what is in the log was committed.
//!
//! One reader decodes the log into batches (`batch.rs`), checksums and all; workers redo them page
//! by page (`crew.rs`, `worker.rs`).
//!
//! What has been read may be nowhere on disk: pages that a failed sync left in the kernel's cache
//! only, and that the kernel may let go of. So a batch is redone only when some durable LSN that
//! was promised before the crash lies at or behind its end: in `pg_control`, or in the header of a
//! page of the log, those read since included. Such a header is a flush or two further on, so the
//! batches that wait are few; if they are more than [`HELD_BYTES_MAX`] they are given up and read
//! again later.
//!
//! When the end is found, damage is told from a torn tail ([`LogEnd::check`]); the tail that
//! nothing proves is written again and synced ([`secure_tail`]), and only then read again and
//! redone. Redo counts as done only when it has come to the very end that was found.

use super::batch::{Batch, Need};
use super::crew::{Crew, UNDER_WAY_MAX};
use super::{RecoveryError, RedoHands, RedoSummary, Watcher, files};
use rd_base::limits::PAGE_BYTES;
use rd_base::{FileNo, Lsn, StartCount};
use rd_store::Store;
use rd_store::shared::RedoProgress;
use rd_store::wal::read::{LogEnd, ReadFrom, WalReader, estimate_end, secure_tail};
use rd_sys::fault::{self, Fault};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

pub(super) use super::worker::Pages;

/// Records between two looks at the clock and at signals.
const RECORDS_PER_LOOK: u64 = 1 << 12;
/// How often those who wait are told.
const TELL_EVERY_NS: u64 = 100_000_000;
/// How long the reader sleeps at most before it looks at signals.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Bytes of records that may wait for a proof that they are durable. More than the ring of any
/// usual server, so that only very large records and odd logs come to it.
const HELD_BYTES_MAX: usize = 64 << 20;

/// Bytes of records in a batch at least and at most, see [`batch_bytes`].
const BATCH_BYTES_MIN: usize = 256 << 10;
const BATCH_BYTES_MAX: usize = 16 << 20;

/// How far redo may be ahead of the redo point if the last start did not finish, bytes of log; or
/// a third of the log that this start has put behind the redo point, if that is more. So whenever it is
/// cut off, it has read in vain, with what it had begun to read, less than half of what it has
/// achieved, unless the redo point cannot advance; and undisturbed it is soon as fast as ever. The
/// least is as small as an advance is worth while: where each record changes another page, a start gets
/// on by a few megabytes a second.
const LEAD_BYTES_MIN: u64 = 1 << 20;
/// Bytes of a batch at most, if the last start did not finish. What is read ahead of the redo point
/// is some batches, and read again by the next start if this one does not finish either.
const REPEATED_BATCH_BYTES_MAX: usize = 256 << 10;

/// What is known of the log before it is read.
pub(super) struct Known<'k> {
    /// It was synced at least to here, as `pg_control` says.
    pub durable: Lsn,
    /// It was durable at least to here, as somebody says.
    pub promised: Lsn,
    /// Who says so.
    pub witness: &'k str,
    /// The last start did not finish. Then redo does not get far ahead of the redo point, so that
    /// even a start that is cut off again and again gets to the end; but see
    /// [`rd_store::files::Files::have_counts_one_place`].
    pub is_repeated: bool,
}

/// Replays the log from `from` to its end, and gives the end.
///
/// # Errors
/// When the log is damaged below what is known to have been durable, or goes with its pages not.
pub(super) fn redo(
    store: &Store,
    from: ReadFrom,
    known: &Known<'_>,
    pages: Pages,
    hands: RedoHands,
    watcher: &mut dyn Watcher,
) -> Result<(LogEnd, RedoSummary), RecoveryError> {
    let batch_bytes = batch_bytes(store.shared.pool.frame_count(), known, &hands);
    thread::scope(|scope| {
        let crew = Crew::new(scope, store, pages, hands);
        let mut redo = Redo::new(store, from, known, crew, batch_bytes, watcher)?;
        let done = redo.run(known);
        if let Err(error) = &done {
            redo.await_crew(error);
        }
        done
    })
}

/// A place between two records.
#[derive(Clone, Copy)]
struct Position {
    lsn: Lsn,
    /// The start count of the record before it.
    start_count: StartCount,
}

/// How far redo is ahead of the redo point.
#[derive(Clone, Copy)]
struct Ahead {
    /// The redo point.
    redo: Lsn,
    /// Batches given since it was seen to be there.
    batches: u32,
}

struct Redo<'s, 'w> {
    store: &'s Store,
    watcher: &'w mut dyn Watcher,
    from: ReadFrom,
    crew: Crew,
    /// Files that need nothing of what the log says of them up to there.
    complete: Vec<(FileNo, Lsn)>,
    /// Batches that are not proved to be durable, in the order of the log.
    held: VecDeque<Batch>,
    held_bytes: usize,
    /// Those were too many: what follows `given` is read a second time.
    is_overfull: bool,
    /// Everything before was given to the crew.
    given: Position,
    /// Everything before is done.
    applied: Position,
    /// The log was read to here.
    read: Lsn,
    records: u64,
    batch_bytes: usize,
    /// How far redo is ahead of the redo point, if that is bounded.
    ahead: Option<Ahead>,
    progress: RedoProgress,
    started_ns: u64,
    told_ns: u64,
    logged_ns: u64,
}

impl<'s, 'w> Redo<'s, 'w> {
    fn new(
        store: &'s Store,
        from: ReadFrom,
        known: &Known<'_>,
        crew: Crew,
        batch_bytes: usize,
        watcher: &'w mut dyn Watcher,
    ) -> Result<Redo<'s, 'w>, RecoveryError> {
        let now_ns = store.clock.monotonic_ns();
        let start = Position {
            lsn: from.lsn,
            start_count: from.start_count,
        };
        let progress = RedoProgress {
            from: from.lsn.get(),
            at: from.lsn.get(),
            until: estimate_end(&*store.storage, &from)?.get(),
        };
        log::info!("redo starts at {}", from.lsn);
        store.shared.set_redo_progress(progress);
        watcher.progress();
        Ok(Redo {
            batch_bytes,
            ahead: known.is_repeated.then_some(Ahead {
                redo: from.lsn,
                batches: 0,
            }),
            store,
            watcher,
            from,
            crew,
            complete: complete_files(store),
            held: VecDeque::new(),
            held_bytes: 0,
            is_overfull: false,
            given: start,
            applied: start,
            read: start.lsn,
            records: 0,
            progress,
            started_ns: now_ns,
            told_ns: now_ns,
            logged_ns: now_ns,
        })
    }

    fn run(&mut self, known: &Known<'_>) -> Result<(LogEnd, RedoSummary), RecoveryError> {
        let end = self.first_reading(known)?;
        self.tail(known, &end)?;
        self.finish(&end)?;
        Ok((end, self.summary()))
    }

    /// Before a start is refused its threads have to be joined, and these may wait for as long as no page
    /// can be written: it is said why, and a stop ends that.
    fn await_crew(&mut self, error: &RecoveryError) {
        self.crew.look();
        if self.crew.is_at_work() {
            log::error!("{error}; waiting for what is being redone");
        }
        while self.crew.is_at_work() && !self.watcher.must_stop() {
            self.crew.wait(LOOK_EVERY);
        }
    }

    /// Reads the log to its end, and redoes what is proved to be durable.
    fn first_reading(&mut self, known: &Known<'_>) -> Result<LogEnd, RecoveryError> {
        let mut reader = WalReader::new(Arc::clone(&self.store.storage), self.from);
        let mut batch = self.crew.batch();
        let mut read = 0_u64;
        while let Some(record) = reader.next()? {
            fault::point(Fault::RecoveryRecord)?;
            read += 1;
            self.read = record.end;
            if !self.is_overfull {
                batch.add(&record, &self.complete)?;
                if batch.bytes() >= self.batch_bytes {
                    let next = self.crew.batch();
                    self.hold(std::mem::replace(&mut batch, next));
                    self.give_proved(known.durable.max(reader.durable_seen()))?;
                }
            }
            if read.is_multiple_of(RECORDS_PER_LOOK) {
                self.look()?;
            }
        }
        self.hold(batch);
        let end = reader.finish()?;
        end.check(known.promised, known.witness)?;
        self.give_proved(known.durable.max(end.durable_seen))?;
        self.held.clear();
        log::info!("{end}");
        self.progress.until = end.lsn.get();
        Ok(end)
    }

    fn hold(&mut self, batch: Batch) {
        if self.is_overfull || batch.is_empty() {
            self.crew.take_back(batch);
            return;
        }
        self.held_bytes += batch.bytes();
        self.held.push_back(batch);
    }

    /// Gives the crew the held batches up to `durable`.
    fn give_proved(&mut self, durable: Lsn) -> Result<(), RecoveryError> {
        while let Some(batch) = self.held.pop_front_if(|batch| batch.end <= durable) {
            self.held_bytes -= batch.bytes();
            self.give(batch)?;
        }
        if self.held_bytes > HELD_BYTES_MAX {
            self.is_overfull = true;
            self.held.clear();
        }
        Ok(())
    }

    /// Gives `batch` to the crew, when it has few enough.
    fn give(&mut self, batch: Batch) -> Result<(), RecoveryError> {
        for need in &batch.needs {
            match *need {
                Need::File(file) => files::adopt(self.store, file, self.watcher)?,
                Need::Room(tag) => files::make_room(self.store, tag, self.watcher)?,
            }
        }
        self.given = Position {
            lsn: batch.end,
            start_count: batch.start_count,
        };
        self.records += batch.records();
        self.crew.give(batch);
        self.wait_until_under_way(UNDER_WAY_MAX)?;
        self.wait_for_redo_point()
    }

    /// Waits while redo is further ahead of the redo point than it may be, unless that cannot move: a
    /// disk that refuses a page is no reason not to serve what can be read.
    fn wait_for_redo_point(&mut self) -> Result<(), RecoveryError> {
        let Some(mut ahead) = self.ahead.take() else {
            return Ok(());
        };
        let checkpoint = &self.store.shared.checkpoint;
        ahead.batches += 1;
        loop {
            if checkpoint.redo_lsn() != ahead.redo {
                ahead = Ahead {
                    redo: checkpoint.redo_lsn(),
                    batches: 0,
                };
            }
            let achieved = ahead.redo.bytes_since(self.from.lsn);
            let lead = self.given.lsn.bytes_since(ahead.redo);
            // With two batches more than at the last advance there is something to advance to, unless
            // the key counts have first to come together.
            let is_near = lead < LEAD_BYTES_MIN.max(achieved / 3);
            let files = &self.store.shared.files;
            let is_in_vain = !files.have_counts_one_place() || checkpoint.is_redo_stuck();
            if ahead.batches < 2 || is_near || is_in_vain {
                self.ahead = Some(ahead);
                return Ok(());
            }
            checkpoint.wait_for_redo_point(ahead.redo, LOOK_EVERY);
            self.settle()?;
            self.look()?;
        }
    }

    /// Waits until at most `batches` are under way.
    fn wait_until_under_way(&mut self, batches: usize) -> Result<(), RecoveryError> {
        self.settle()?;
        while self.crew.under_way() > batches {
            self.crew.wait(LOOK_EVERY);
            self.settle()?;
            self.look()?;
        }
        Ok(())
    }

    /// Takes note of the batches that are done.
    fn settle(&mut self) -> Result<(), RecoveryError> {
        self.crew.look();
        while self.crew.is_failing() {
            self.crew.wait(LOOK_EVERY);
            self.look()?;
        }
        self.crew.check()?;
        while let Some(batch) = self.crew.next_done() {
            let files = &self.store.shared.files;
            for counts in batch.keys.chunk_by(|one, next| one.0 == next.0) {
                files.count_in_redo(counts[0].0, counts.iter().map(|(_, count)| *count));
            }
            files.count_in_redo(batch.end, std::iter::empty());
            // One batch back, so that a record is known to follow.
            self.store.shared.checkpoint.set_applied(self.applied.lsn);
            self.applied = Position {
                lsn: batch.end,
                start_count: batch.start_count,
            };
            self.crew.take_back(batch);
        }
        Ok(())
    }

    /// Makes the unproved tail of the log durable, and redoes it as it can be read then.
    fn tail(&mut self, known: &Known<'_>, end: &LogEnd) -> Result<(), RecoveryError> {
        let proved = known.durable.max(end.durable_seen).min(end.lsn);
        let tail = ReadFrom {
            lsn: proved,
            ..self.from
        };
        secure_tail(&*self.store.storage, &tail, end.lsn)?;
        let rest = ReadFrom {
            lsn: self.given.lsn,
            start_count: self.given.start_count,
            ..self.from
        };
        let mut reader = WalReader::new(Arc::clone(&self.store.storage), rest);
        let mut batch = self.crew.batch();
        while self.given.lsn.max(batch.end) < end.lsn {
            let Some(record) = reader.next()?.filter(|record| record.end <= end.lsn) else {
                break;
            };
            batch.add(&record, &self.complete)?;
            if batch.bytes() >= self.batch_bytes {
                let next = self.crew.batch();
                self.give(std::mem::replace(&mut batch, next))?;
                self.look()?;
            }
        }
        if !batch.is_empty() {
            self.give(batch)?;
        }
        self.wait_until_under_way(0)?;
        if self.applied.lsn != end.lsn {
            return Err(RecoveryError::LogReceded {
                end: end.lsn,
                reached: self.applied.lsn,
            });
        }
        Ok(())
    }

    /// Looks at signals and the clock.
    fn look(&mut self) -> Result<(), RecoveryError> {
        if self.watcher.must_stop() {
            return Err(RecoveryError::Stopped);
        }
        let now_ns = self.store.clock.monotonic_ns();
        self.progress.at = self.applied.lsn.get();
        if now_ns - self.told_ns >= TELL_EVERY_NS {
            self.told_ns = now_ns;
            self.store.shared.set_redo_progress(self.progress);
            self.watcher.progress();
        }
        let log_every = self.store.config.log_startup_progress_interval();
        let log_every_ns = log_every.as_nanos() as u64;
        if log_every_ns > 0 && now_ns - self.logged_ns >= log_every_ns {
            self.logged_ns = now_ns;
            log_progress(&self.progress, self.read, now_ns - self.started_ns);
        }
        Ok(())
    }

    fn summary(&self) -> RedoSummary {
        RedoSummary {
            records: self.records,
            ..self.crew.tally().summary
        }
    }

    /// Says what was done; all of it is.
    fn finish(&mut self, end: &LogEnd) -> Result<(), RecoveryError> {
        if let Some((page_lsn, tag)) = self.crew.tally().newest
            && page_lsn > end.lsn
        {
            let end = end.lsn;
            return Err(RecoveryError::PageBeyondLog { tag, page_lsn, end });
        }
        self.progress.at = end.lsn.get();
        self.store.shared.set_redo_progress(self.progress);
        self.watcher.progress();
        let elapsed_ns = self.store.clock.monotonic_ns() - self.started_ns;
        let RedoSummary {
            records,
            pages_changed,
            pages_skipped,
        } = self.summary();
        log::info!(
            "redo done at {}: {records} records, {} kB of log, {pages_changed} page changes \
             applied, {pages_skipped} found done; elapsed {:.3} s",
            end.lsn,
            end.lsn.bytes_since(self.from.lsn) / 1024,
            elapsed_ns as f64 / 1e9,
        );
        Ok(())
    }
}

/// The files that need nothing of what the log says of them up to the LSNs beside them: those that are
/// closed hold it, and of those that `pg_control` knows to be dropped nobody reads a page again, so that one
/// which is damaged is in nobody's way.
fn complete_files(store: &Store) -> Vec<(FileNo, Lsn)> {
    let files = &store.shared.files;
    let dropped = files.pending_drops().into_iter();
    let dropped = dropped.map(|pending| (pending.file, pending.last_lsn));
    files.all_closed().into_iter().chain(dropped).collect()
}

/// Bytes of records in a batch: the more, the more records of one page meet in it; but what waits
/// in memory must be little beside the shared buffers.
fn batch_bytes(frames: usize, known: &Known<'_>, hands: &RedoHands) -> usize {
    let bytes = (frames * PAGE_BYTES / 64).clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX);
    match hands {
        RedoHands::Steps(steps) => bytes.min(steps.batch_bytes),
        RedoHands::Threads(_) if known.is_repeated => bytes.min(REPEATED_BATCH_BYTES_MAX),
        RedoHands::Threads(_) => bytes,
    }
}

fn log_progress(progress: &RedoProgress, read: Lsn, elapsed_ns: u64) {
    let done = progress.at.saturating_sub(progress.from);
    // The end is an estimate until it is found, and the log may go on behind it.
    let total = progress
        .until
        .saturating_sub(progress.from)
        .max(done)
        .max(1);
    let left_s = elapsed_ns as f64 / 1e9 * (total - done) as f64 / done.max(1) as f64;
    log::info!(
        "redo in progress, elapsed time: {:.2} s, current LSN: {}, read up to {read}, {} of {} kB \
         ({} %), about {left_s:.0} s left",
        elapsed_ns as f64 / 1e9,
        Lsn::new(progress.at),
        done / 1024,
        total / 1024,
        done * 100 / total,
    );
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::worker::Worker;
    use super::*;
    use crate::init::{InitOptions, init_storage};
    use rd_base::{Config, PageTag, Role, Timeline};
    use rd_format::Payload;
    use rd_format::bitmap::ROOT_BLOCK;
    use rd_format::catalog::CATALOG_FILE;
    use rd_format::node::Bound;
    use rd_format::wal_record::{
        PageOp, RecordBuilder, RecordError, RecordKind, RecordView, Upsert,
    };
    use rd_store::buffer::CopyOutcome;
    use rd_store::wal::read::{EndReason, Record};
    use rd_store::wal::segments;
    use rd_store::{Shared, Sizes, SlotNo};
    use rd_sys::clock::Clock;
    use rd_sys::simdisk::SimStorage;
    use rd_sys::storage::Storage;

    const SEGMENT_BYTES: u64 = 1 << 20;

    pub(in crate::recovery) struct Unwatched;

    impl Watcher for Unwatched {
        fn progress(&mut self) {}
        fn must_stop(&mut self) -> bool {
            false
        }
    }

    /// The startup process of a server that was just made, and its disk.
    pub(in crate::recovery) fn startup() -> (Store, SimStorage) {
        let disk = SimStorage::new(1);
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let config = Config::from_pairs(&[("double_write_size", "8MB")]).expect("valid");
        let config = config.with_wal_segment_size(SEGMENT_BYTES).expect("valid");
        let options = InitOptions {
            config: &config,
            system_identifier: 99,
            now_us: 1,
            conf_lines: "",
        };
        init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
        let sizes = Sizes {
            frames: 16,
            wal_ring_bytes: 64 << 10,
            wal_segment_bytes: SEGMENT_BYTES,
        };
        let shared = Shared::anonymous(sizes).expect("memory");
        let slot = SlotNo::of(Role::Startup).expect("a slot");
        let clock = Clock::manual(1).0;
        let store = Store::new(shared, storage, clock, slot, Arc::new(config));
        (store, disk)
    }

    fn redo_to(store: &Store, end: Lsn) -> Result<RedoSummary, RecoveryError> {
        let first = segments::first_lsn(SEGMENT_BYTES);
        let from = ReadFrom {
            lsn: first,
            timeline: Timeline::new(1),
            segment_bytes: SEGMENT_BYTES,
            system_id: 99,
            start_count: StartCount::new(0),
        };
        let end = LogEnd {
            lsn: end,
            reason: EndReason::Record(RecordError::Zero),
            at: end,
            file: String::new(),
            start_count: StartCount::new(1),
            durable_seen: first,
            durable_seen_at: first,
        };
        let known = Known {
            durable: first,
            promised: first,
            witness: "nobody",
            is_repeated: false,
        };
        thread::scope(|scope| {
            let crew = Crew::new(scope, store, Pages::Repaired, RedoHands::Threads(0));
            let mut watcher = Unwatched;
            let mut redo = Redo::new(store, from, &known, crew, BATCH_BYTES_MIN, &mut watcher)?;
            redo.tail(&known, &end)?;
            Ok(redo.summary())
        })
    }

    #[test]
    fn a_log_that_is_shorter_than_it_was_found_stops_the_start() {
        let ((store, _), first) = (startup(), segments::first_lsn(SEGMENT_BYTES));
        assert_eq!(redo_to(&store, first).expect("done").records, 0);
        let found = Lsn::new(first.get() + 400);
        let error = redo_to(&store, found).expect_err("nothing is there");
        let text = error.to_string();
        assert!(text.contains(&found.to_string()), "{text}");
        assert!(text.contains(&first.to_string()), "{text}");
    }

    /// The checkpointer, which goes on until the start has ended, finds the page latched.
    #[test]
    fn a_page_that_is_redone_by_half_is_not_written() {
        let (store, _) = startup();
        let tag = PageTag::new(CATALOG_FILE, ROOT_BLOCK);
        let mut record = RecordBuilder::new();
        record.start(RecordKind::Commit, 0);
        record.block(tag);
        record.upsert(&Upsert {
            key: b"key",
            expiry_ms: None,
            payload: Payload::Inline(b"value"),
        });
        // The root is a leaf.
        let bound = Bound::before_key(b"key");
        record.op(&PageOp::RemoveChild { bound });
        record.seal();
        let start = Lsn::new(1 << 30);
        let view = RecordView::parse(record.finish(start, StartCount::new(1))).expect("sealed");
        let end = view.end_lsn();
        let mut batch = Batch::default();
        batch.parts.push(Vec::new());
        let record = Record { start, end, view };
        batch.add(&record, &[]).expect("it makes sense");
        let mut part = batch.parts.remove(0);
        let mut worker = Worker::new(&store, Pages::Repaired);
        let failed = worker.redo(&batch, &mut part).expect_err("no such child");
        assert_eq!(failed.at, start);

        let pool = &store.shared.pool;
        let mut dirty = Vec::new();
        pool.dirty_before(Lsn::MAX, &mut dirty);
        let frames: Vec<_> = dirty.iter().filter(|frame| frame.tag == tag).collect();
        assert_eq!(frames.len(), 1, "it is dirty: {dirty:?}");
        let outcome = pool.copy_dirty(frames[0].frame, tag, &mut [0; PAGE_BYTES]);
        assert_eq!(outcome, CopyOutcome::Busy);
    }
}
