//! The full checkpoint.
//!
//! 1. The redo point is to be the insert position now; nothing is logged for it. If the incremental
//!    checkpoint gets further meanwhile, it is that one's.
//! 2. Every page that was dirtied before it is written, in the order of files and blocks, paced.
//!    A page whose latch is taken is passed over and tried again. Then all descriptors are looked
//!    at once more, until none is left.
//! 3. All files that were written and not synced are synced.
//! 4. The log is flushed up to the redo point, since a start takes a header's word for that. Each
//!    file of which a page was written gets the checkpoint's number and redo point into its header;
//!    these are synced.
//! 5. The checkpoint's record is inserted and flushed. The key counts are cut just before it, so
//!    that everything below the cut is complete.
//! 6. `pg_control` is written, both slots, one after the other.
//! 7. The log below the older slot's redo point is given up.
//!
//! Until 6 a failure costs nothing but the time: the redo point is the old one. A crash anywhere
//! leaves files that recovery from the old redo point mends.

use crate::brake::Progress;
use crate::control::Advance;
use crate::pacing::Mood;
use crate::report::Outcome;
use crate::turn::nanos;
use crate::{Checkpointer, Failure, pacing};
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::{FileNo, Lsn, PageTag};
use rd_format::bitmap::META_BLOCK;
use rd_format::control::FileRow;
use rd_format::doublewrite::DW_BATCH_PAGES_MAX;
use rd_format::meta::{self, Meta};
use rd_format::page::{self, PageBytes};
use rd_format::wal_page;
use rd_format::wal_record::{CheckpointData, RecordBuilder, RecordKind};
use rd_store::buffer::{DirtyFrame, PageReadError};
use rd_store::checkpoint::{Begun, CheckpointPhase, Flags};
use rd_store::files::{FileState, KeyCut};
use rd_store::wal::{Inserted, credit_for, segments};
use rd_sys::fault::{self, Fault};
use std::sync::Arc;
use std::time::Duration;

/// How long a paced checkpoint rests at a time, unless something wakes it.
const NAP: Duration = Duration::from_millis(100);
/// How long to wait before pages whose latches were taken are tried again, if nothing else is
/// left.
const BUSY_NAP: Duration = Duration::from_millis(1);
/// How long a header that could not be read is left alone: a bad disk takes seconds to say so.
const UNREADABLE_REST: Duration = Duration::from_secs(60);

/// A full checkpoint under way.
pub(crate) struct Full {
    pub(crate) flags: Flags,
    pub(crate) redo: Lsn,
    began_ns: u64,
    /// How long it has rested, nanoseconds.
    rested_ns: u64,
    /// It has taken longer than `checkpoint_timeout_max`, and the log has said so.
    is_late: bool,
    /// Pages found to be dirty, and dealt with.
    pub(crate) total: u64,
    done: u64,
    /// Pages written.
    pub(crate) written: u64,
    cause: Counter,
}

impl Full {
    pub(crate) fn new(flags: Flags, redo: Lsn, began_ns: u64) -> Full {
        Full {
            flags,
            redo,
            began_ns,
            rested_ns: 0,
            is_late: false,
            total: 0,
            done: 0,
            written: 0,
            cause: pages_cause(flags),
        }
    }

    /// Whether its record, which is `inserted`, is the first behind its redo point.
    fn is_followed_by(&self, inserted: Inserted) -> bool {
        inserted.start == wal_page::pos_to_start_lsn(wal_page::lsn_to_pos(self.redo))
    }
}

impl Checkpointer {
    /// Makes a full checkpoint, which [`rd_store::checkpoint::CheckpointShared::begin`] has begun.
    ///
    /// # Errors
    /// When the disk refuses, or the log has no room; `pg_control` is as it was then.
    pub(crate) fn full_checkpoint(&mut self, begun: &Begun) -> Result<(), Failure> {
        let flags = begun.flags;
        let shared = Arc::clone(&self.store.shared);
        self.began_ns = self.now_ns();
        self.report_start(begun);
        let beginning = self.beginning(*begun);
        shared.checkpoint.set_began(beginning.at_us);
        let segments_before = shared.stats.get(Counter::WalSegmentsCreated);
        let previous_redo = self.redo_in_control();
        // B4: the position is read before the descriptors are.
        self.redo = shared.wal.insert_lsn();
        let mut full = Full::new(flags, self.redo, self.began_ns);
        self.progress = Some(Progress::default());
        let finished = self.write_and_log(&mut full);
        self.progress = None;
        let (cut, inserted, write_us, sync_us) = match finished {
            Ok(finished) => finished,
            Err(failure) => {
                self.redo = self.redo_in_control();
                self.remember_failed(&beginning, &full, &failure);
                return Err(failure);
            }
        };
        self.finish(&full, cut, inserted);
        let redo = full.redo;
        let distance_bytes = redo.bytes_since(previous_redo);
        self.estimate_bytes = pacing::next_estimate(self.estimate_bytes, distance_bytes);
        let retired = self.retire_log(redo);
        self.count_done(flags, write_us, sync_us);
        // Somebody may have set the counters to 0 meanwhile.
        let created = shared.stats.get(Counter::WalSegmentsCreated);
        let outcome = Outcome {
            begun: *begun,
            redo,
            checkpoint: inserted.start,
            written: full.written,
            write_us,
            sync_us,
            total_us: (self.now_ns() - full.began_ns) / 1000,
            syncs: self.sync_tally,
            segments_added: created.saturating_sub(segments_before),
            retired,
            distance_bytes,
            estimate_bytes: self.estimate_bytes,
        };
        self.report_done(&outcome);
        self.remember_done(&beginning, &full, &outcome);
        shared
            .checkpoint
            .succeed(&shared.procs, redo, self.store.clock.wall_us());
        Ok(())
    }

    /// The redo point that `pg_control` has.
    pub(crate) fn redo_in_control(&self) -> Lsn {
        let control = self.control.as_ref().expect("after the handover");
        control.newest().redo_lsn
    }

    /// Steps 2 to 5; gives the cut of the key counts, the record's place, and what writing and
    /// syncing took in microseconds.
    pub(crate) fn write_and_log(
        &mut self,
        full: &mut Full,
    ) -> Result<(KeyCut, Inserted, u64, u64), Failure> {
        let shared = Arc::clone(&self.store.shared);
        self.sync_tally = crate::sync::SyncTally::default();
        fault::point(Fault::CheckpointBegun)?;
        shared.checkpoint.set_phase(CheckpointPhase::Writing);
        self.write_dirty(full)?;
        assert!(
            self.batch.is_empty(),
            "pages are on their way to a file that is about to be synced"
        );
        let written_ns = self.now_ns();
        shared.checkpoint.set_phase(CheckpointPhase::Syncing);
        fault::point(Fault::CheckpointSync)?;
        if let Some(progress) = &mut self.progress {
            progress.syncing_since_ns = Some(written_ns);
        }
        self.show_sync_left();
        self.sync_all();
        full.redo = full.redo.max(self.redo_in_control());
        self.redo = full.redo;
        self.stamp_headers(full.redo, full.cause)?;
        self.show_sync_left();
        match full.flags.has(Flags::SHUTDOWN) {
            // A start after it looks for nothing that is in the system's cache alone.
            true => self.sync_undisturbed(None),
            false => self.sync_all(),
        }
        let synced_ns = self.now_ns();
        self.brake
            .has_synced(Duration::from_nanos(synced_ns - written_ns));
        fault::point(Fault::CheckpointSynced)?;
        shared.checkpoint.set_phase(CheckpointPhase::Finishing);
        let (cut, inserted) = self.log_checkpoint(full)?;
        let micros = |from, to| (to - from) / 1000;
        Ok((
            cut,
            inserted,
            micros(full.began_ns, written_ns),
            micros(written_ns, synced_ns),
        ))
    }

    /// Step 2.
    fn write_dirty(&mut self, full: &mut Full) -> Result<(), Failure> {
        let shared = Arc::clone(&self.store.shared);
        let mut dirty: Vec<DirtyFrame> = Vec::new();
        // One that a failure has left: its frames are no longer dirty.
        self.finish_batch(full.cause)?;
        loop {
            dirty.clear();
            if full.redo > self.redo_in_control() {
                shared.pool.dirty_before(full.redo, &mut dirty);
            }
            if dirty.is_empty() {
                return Ok(());
            }
            full.total = full.done + dirty.len() as u64;
            self.note_progress(full);
            dirty.sort_unstable();
            self.write_list(full, &mut dirty)?;
        }
    }

    /// Writes the frames of `dirty`, sorted, those whose latch is taken after the others.
    fn write_list(&mut self, full: &mut Full, dirty: &mut Vec<DirtyFrame>) -> Result<(), Failure> {
        while !dirty.is_empty() {
            let mut busy = Vec::new();
            let mut rest = &dirty[..];
            while !rest.is_empty() {
                self.supply_beside();
                self.serve_files();
                self.absorb();
                self.incremental();
                self.heartbeat();
                self.serve_namespaces();
                self.rest_if_ahead(full);
                let mut outcome = self.write_frames(rest, full.cause)?;
                full.written += outcome.written as u64;
                full.done += (outcome.taken - outcome.busy.len()) as u64;
                busy.append(&mut outcome.busy);
                self.store
                    .shared
                    .checkpoint
                    .set_pages(full.done, full.total);
                self.note_progress(full);
                rest = &rest[outcome.taken..];
            }
            if busy.len() == dirty.len() {
                self.sleep(Some(BUSY_NAP));
            }
            *dirty = busy;
        }
        Ok(())
    }

    /// Lets the brake know how far the checkpoint has come.
    fn note_progress(&mut self, full: &Full) {
        let taken_ns = self.now_ns() - full.began_ns;
        self.progress = Some(Progress {
            done: full.done,
            total: full.total,
            busy_ns: taken_ns - full.rested_ns,
            syncing_since_ns: None,
        });
        self.show_sync_left();
        self.look_at_brake();
    }

    /// Rests while the checkpoint is ahead of its schedule; everything else is served meanwhile.
    fn rest_if_ahead(&mut self, full: &mut Full) {
        loop {
            let now_ns = self.now_ns();
            let elapsed = Duration::from_nanos(now_ns - full.began_ns);
            if self.hurries(full, elapsed) || full.redo <= self.redo_in_control() {
                return;
            }
            let wal_bytes = self.store.shared.wal.insert_lsn().bytes_since(full.redo);
            let old_bytes = full.redo.get().saturating_sub(self.redo_in_control().get());
            let room_bytes = self
                .brake
                .paced_room_bytes(&self.pace)
                .saturating_sub(old_bytes);
            let is_ahead = |mood| {
                let (done, total) = (full.done, full.total);
                self.pace
                    .is_ahead(done, total, elapsed, wal_bytes, room_bytes, mood)
            };
            if !is_ahead(Mood::Brisk) {
                if !self.latency.suffers() || !is_ahead(Mood::Gentle) {
                    return;
                }
                self.store.count(Counter::CheckpointRests);
            }
            self.sleep(Some(NAP));
            full.rested_ns += self.now_ns() - now_ns;
            self.look_at_brake();
            self.absorb();
            self.serve_files();
            self.supply();
            self.incremental();
            self.heartbeat();
            self.serve_namespaces();
            self.scrub();
        }
    }

    /// Whether the checkpoint, which has taken so long, goes on as fast as it can.
    fn hurries(&self, full: &mut Full, elapsed: Duration) -> bool {
        let shared = &self.store.shared;
        let timeout_max = self.store.config.checkpoint_timeout_max();
        let is_late = !timeout_max.is_zero() && elapsed > timeout_max;
        if is_late && !std::mem::replace(&mut full.is_late, true) {
            log::info!(
                "checkpoint ({}) has taken longer than checkpoint_timeout_max = {} s: it goes on \
                 as fast as it can, with {} of {} pages left",
                full.flags,
                timeout_max.as_secs(),
                full.total - full.done,
                full.total,
            );
        }
        is_late
            || full.flags.is_immediate()
            || shared.checkpoint.wanted().is_immediate()
            || shared.brake.is_on()
            || shared.wal.segments_blocked().is_some()
            || self.cleaning.is_asked()
            || self.must_stop()
    }

    /// Step 4. A file whose creation is not below the redo point, and that `pg_control` does not
    /// name, has no header yet that would last: redo would make it anew. Its meta page's LSN says so.
    /// A file that a checkpoint of its own has brought further than the redo point keeps that SCN.
    /// One that is closed is left alone.
    ///
    /// A header that is damaged, or that the disk does not give, stops nothing: what is behind it is
    /// written and synced, and its row goes on saying what it said. Else one bad sector would end all
    /// checkpoints of all files. It stays among those that are to be stamped, for when it is
    /// mended. Only a live file that `pg_control` is to name for the first time needs its header.
    pub(crate) fn stamp_headers(&mut self, redo: Lsn, cause: Counter) -> Result<(), Failure> {
        let shared = Arc::clone(&self.store.shared);
        // A header on its way goes to the file that it was meant for, before that may be another one.
        self.finish_batch(cause)?;
        // A header says nothing that a crash takes from the log: a start takes its word for it.
        if self.log_is_written() {
            let flushed = self.flusher.flush_until(redo);
            flushed.expect("it was an insert position");
        }
        let control = self.control.as_ref().expect("after the handover");
        let count = control.next_count();
        // Redo may have found all pages of a new file in their places.
        let unnamed = |file: &FileNo| !control.has_row(*file);
        self.touched
            .extend(shared.files.live().into_iter().filter(unnamed));
        self.headers_are_settled = false;
        let mut stamped: Vec<(PageTag, PageBytes)> = Vec::new();
        let now_ns = self.now_ns();
        let touched: Vec<FileNo> = self.touched.iter().copied().collect();
        for file in touched {
            // What is closed says its own, and may be away.
            if !shared.files.exists(file) || shared.files.closed(file).is_some() {
                self.touched.remove(&file);
                self.unreadable.remove(&file);
                self.may_be_ahead.remove(&file);
                continue;
            }
            let is_dropped = shared.files.state(file) == FileState::Dropped;
            let is_needed = !is_dropped && (unnamed(&file) || self.may_be_ahead.contains(&file));
            let tried_ns = self.unreadable.get(&file);
            let rests = tried_ns.is_some_and(|at_ns| now_ns < at_ns + nanos(UNREADABLE_REST));
            if rests && !is_needed && !self.must_stop() {
                continue;
            }
            let tag = PageTag::new(file, META_BLOCK);
            let mut header = [0; PAGE_BYTES];
            match self.relations.read_page(tag, &mut header) {
                Ok(()) => {}
                // It has not been written yet.
                Err(PageReadError::BeyondEnd { .. } | PageReadError::Damaged { .. })
                    if unnamed(&file) && page::is_zero(&header) =>
                {
                    continue;
                }
                Err(error) if error.shortage().is_none() && !is_needed => {
                    let is_news = self.unreadable.insert(file, now_ns).is_none();
                    if is_news && !is_dropped {
                        // A copy may be left, and mend it before the next start needs it.
                        shared.scrub.report(tag);
                        log::error!(
                            "the header of relation file {file} cannot be brought up to date: {error}; \
                             all else works, but the next start needs it: restore the data directory \
                             from a backup, or give up what is in the file (FLUSHDB, NAMESPACE DROP)"
                        );
                    }
                    continue;
                }
                Err(error) => {
                    self.report_unread(tag, &error);
                    return Err(error.into());
                }
            }
            self.unreadable.remove(&file);
            if page::page_lsn(&header) > redo && unnamed(&file) {
                continue;
            }
            let meta = meta::read(&header);
            let meta = Meta {
                checkpoint_count: count,
                checkpoint_scn: meta.checkpoint_scn.max(redo),
                stop_scn: Lsn::ZERO,
                opened_from: Lsn::ZERO,
                ..meta
            };
            meta::write(&mut header, &meta);
            stamped.push((tag, header));
        }
        for batch in stamped.chunks(DW_BATCH_PAGES_MAX) {
            self.may_be_ahead
                .extend(batch.iter().map(|(tag, _)| tag.file));
            // As in `write_frames`.
            self.look_at_reported();
            self.write_pages(batch, cause)?;
            for (tag, header) in batch {
                let meta = meta::read(header);
                let (count, scn) = (meta.checkpoint_count, meta.checkpoint_scn);
                shared.files.set_covered(tag.file, count, scn);
                self.touched.remove(&tag.file);
                self.may_be_ahead.remove(&tag.file);
            }
        }
        self.headers_are_settled = self.unreadable.is_empty();
        Ok(())
    }

    /// Step 5.
    fn log_checkpoint(&mut self, full: &Full) -> Result<(KeyCut, Inserted), Failure> {
        let shared = Arc::clone(&self.store.shared);
        let mut record = RecordBuilder::new();
        record.start(RecordKind::Checkpoint, self.store.clock.wall_us());
        record.checkpoint(&CheckpointData {
            redo_lsn: full.redo,
            checkpoint_count: self
                .control
                .as_ref()
                .expect("after the handover")
                .next_count(),
            causes: full.flags.bits(),
            timeline: shared.wal.timeline(),
        });
        let bytes = record.seal();
        let mut credit = shared.wal.take_reserved_credit(credit_for(bytes))?;
        // Nothing fails from here on, so the cut is ended.
        let cut = shared.files.begin_cut(|| shared.wal.insert_lsn());
        let inserted = shared
            .wal
            .insert(self.store.slot, &mut record, &mut credit, |_| ());
        self.flusher
            .flush_until(inserted.end)
            .expect("the record was just inserted");
        assert!(
            !full.flags.has(Flags::SHUTDOWN) || full.is_followed_by(inserted),
            "something was logged during the shutdown"
        );
        Ok((cut, inserted))
    }

    /// Step 6.
    pub(crate) fn finish(&mut self, full: &Full, cut: KeyCut, inserted: Inserted) {
        let shared = Arc::clone(&self.store.shared);
        let is_shutdown = full.flags.has(Flags::SHUTDOWN);
        let stop_scn = if is_shutdown { inserted.end } else { Lsn::ZERO };
        let keys_lsn = cut.boundary;
        let files = shared.files.end_cut(cut, full.redo, stop_scn);
        self.move_redo(Advance {
            redo_lsn: full.redo,
            full: Some((inserted.start, full.flags)),
            files,
            keys_lsn,
            is_double_written: self.area.is_some(),
            is_in_redo: false,
        });
        shared.checkpoint.publish_done(self.store.clock.wall_us());
        // What was logged meanwhile is not behind the redo point: pages and dropped files wait for the
        // next checkpoint, even if nothing comes any more.
        self.idle_lsn = if full.is_followed_by(inserted) {
            inserted.end
        } else {
            Lsn::ZERO
        };
    }

    /// Moves the redo point in `pg_control`, and lets everybody know.
    pub(crate) fn move_redo(&mut self, mut advance: Advance) {
        let redo = advance.redo_lsn;
        advance.files = self.named_rows(advance.files);
        if !advance.is_in_redo {
            self.estimate_recovery(redo);
        }
        self.write_control(|control, now| control.advance(now, advance));
        self.store.shared.checkpoint.publish_redo(redo);
        self.heartbeat_ns = self.now_ns() + nanos(self.heartbeat_interval());
    }

    /// Those of `rows` that `pg_control` is to have: a file whose header was never written is made
    /// anew by redo.
    pub(crate) fn named_rows(&self, mut rows: Vec<FileRow>) -> Vec<FileRow> {
        let control = self.control.as_ref().expect("after the handover");
        rows.retain(|row| row.checkpoint_count > 0 || control.has_row(row.file));
        rows
    }

    /// Step 7. What cannot be given up now is given up by the next checkpoint.
    pub(crate) fn retire_log(&mut self, redo: Lsn) -> segments::Retired {
        let config = &self.store.config;
        let limit = segments::recycle_limit(
            redo,
            self.estimate_bytes,
            self.pace.completion_target,
            config.min_wal_size_bytes(),
            config.max_wal_size_bytes(),
        );
        let oldest = self
            .control
            .as_ref()
            .expect("after the handover")
            .oldest_redo();
        let done = fault::point(Fault::CheckpointDone).and_then(|()| {
            self.store
                .shared
                .wal
                .retire_segments(&*self.store.storage, oldest, limit)
        });
        let retired = done.unwrap_or_else(|error| {
            log::warn!("could not give up old segments of the write-ahead log: {error}");
            segments::Retired::default()
        });
        self.store
            .add(Counter::WalSegmentsRecycled, retired.recycled);
        self.store.add(Counter::WalSegmentsRemoved, retired.removed);
        retired
    }

    fn count_done(&self, flags: Flags, write_us: u64, sync_us: u64) {
        self.store.count(checkpoints_cause(flags));
        self.store.add(Counter::CheckpointWriteMicros, write_us);
        self.store.add(Counter::CheckpointSyncMicros, sync_us);
    }
}

/// Under which cause a checkpoint's pages are counted: the most pressing one.
fn pages_cause(flags: Flags) -> Counter {
    match checkpoints_cause(flags) {
        Counter::CheckpointsShutdown => Counter::PagesWrittenShutdown,
        Counter::CheckpointsRecovery => Counter::PagesWrittenRecovery,
        Counter::CheckpointsRequested | Counter::CheckpointsBackup => {
            Counter::PagesWrittenRequested
        }
        Counter::CheckpointsWal => Counter::PagesWrittenWal,
        _ => Counter::PagesWrittenTimed,
    }
}

/// Under which cause a checkpoint is counted: the most pressing one.
fn checkpoints_cause(flags: Flags) -> Counter {
    let requested = [Flags::CAUSE_MANUAL, Flags::CAUSE_NAMESPACE];
    if flags.has(Flags::SHUTDOWN) {
        Counter::CheckpointsShutdown
    } else if flags.has(Flags::END_OF_RECOVERY) {
        Counter::CheckpointsRecovery
    } else if flags.has(Flags::CAUSE_BACKUP) {
        Counter::CheckpointsBackup
    } else if requested.iter().any(|cause| flags.has(*cause)) {
        Counter::CheckpointsRequested
    } else if flags.has(Flags::CAUSE_WAL) {
        Counter::CheckpointsWal
    } else {
        Counter::CheckpointsTimed
    }
}
