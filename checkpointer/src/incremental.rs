//! The incremental checkpoint: between full ones, and beside them, the pages that have been dirty
//! for longest are written, at the pace that keeps recovery within `recovery_time_target`, and with
//! every heartbeat the redo point advances to the least rec LSN that is left.
//!
//! Writing goes in rounds. Each begins with a survey of all dirty frames by their rec LSNs, from
//! which [`pacing::pages_per_s`] tells how many pages the round has to write so that no moment of
//! the next seconds asks for more than others; these are the oldest ones, and go out in batches
//! spread over the round.
//!
//! An advance of the redo point:
//! 1. What was written so far is synced.
//! 2. The redo point is to be the least of the insert position (read first, B4), the rec LSNs of
//!    dirty frames, and those of pages that were written since 1 (B5).
//! 3. Headers of the files of which pages were written are stamped and synced.
//! 4. The key counts are cut, and the log is flushed up to the cut.
//! 5. `pg_control` is written, both slots; older log is given up.
//!
//! A crash or failure before 5 leaves the old redo point, which is right whatever was written.

use crate::cleaning::ROUND_PAGES;
use crate::control::{Advance, Estimate};
use crate::turn::nanos;
use crate::{Checkpointer, Failure, pacing};
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_base::limits::{PAGE_BYTES, WAL_PAGE_BYTES};
use rd_format::control::FileRow;
use rd_format::doublewrite::DW_BATCH_PAGES_MAX;
use rd_store::buffer::{DirtyFrame, Survey};
use rd_store::checkpoint::RecoveryNow;
use rd_store::recovery_time::{AIM, Measured, RedoWork};
use rd_store::shared::Phase;
use std::sync::Arc;
use std::time::Duration;

/// How long a round takes, unless a survey takes so long that its cost would show.
const ROUND_NS: u64 = 500_000_000;
/// A survey takes at most this part of a round.
const SURVEY_PART: u64 = 20;
/// The redo point moves in steps of at least this much log.
const STEP_BYTES: u64 = WAL_PAGE_BYTES as u64;
/// Shortest time between two advances of the redo point.
const ADVANCE_MIN: Duration = Duration::from_millis(500);
/// How long writing rests after the disk has refused a page.
const RETRY: Duration = Duration::from_secs(1);

/// Incremental writing under way.
#[derive(Default)]
pub struct Incremental {
    /// The round's pages, sorted by file and block, and how many of them are dealt with.
    pages: Vec<DirtyFrame>,
    done: usize,
    /// The round's begin and end, monotonic nanoseconds.
    began_ns: u64,
    until_ns: u64,
    /// Where the log ended when the round began.
    insert: Lsn,
    /// Nothing was logged in the round before, and nothing is to be written.
    is_quiet: bool,
    /// Bytes of log in a second.
    wal_bytes_per_s: f64,
    /// How much log may lie behind the redo point; all, without a target.
    allowed_bytes: u64,
}

impl Incremental {
    /// When the batch that follows is due.
    fn due_ns(&self) -> u64 {
        let batches = self.pages.len().div_ceil(DW_BATCH_PAGES_MAX) as u64;
        let next = (self.done / DW_BATCH_PAGES_MAX) as u64;
        match batches {
            0 => self.until_ns,
            _ => self.began_ns + (self.until_ns - self.began_ns) * next / batches,
        }
    }

    /// Whether a round writes pages.
    pub fn is_writing(&self) -> bool {
        !self.pages.is_empty()
    }

    /// When there is something to do next; nothing, while nobody writes to the log.
    pub fn next_ns(&self) -> Option<u64> {
        if self.done < self.pages.len() {
            Some(self.due_ns())
        } else {
            (!self.is_quiet).then_some(self.until_ns)
        }
    }
}

impl Checkpointer {
    /// Plans a round if it is time, and writes what of the round is due.
    pub(crate) fn incremental(&mut self) {
        if !self.log_is_written() || self.store.shared.phase() != Phase::Running {
            return;
        }
        let now_ns = self.now_ns();
        if now_ns >= self.incremental.until_ns {
            self.plan_round(now_ns);
        }
        while self.incremental.done < self.incremental.pages.len()
            && self.now_ns() >= self.incremental.due_ns()
        {
            let pages = std::mem::take(&mut self.incremental.pages);
            let rest = &pages[self.incremental.done..];
            let began_ns = self.now_ns();
            let written = self.write_frames(rest, Counter::PagesWrittenIncremental);
            let took = Duration::from_nanos(self.now_ns() - began_ns);
            self.incremental.pages = pages;
            match written {
                // Pages whose latch was taken are met again by the next round.
                Ok(outcome) => {
                    self.incremental.done += outcome.taken;
                    self.brake.has_written(outcome.written, took);
                    if self.cleaning.is_asked() {
                        self.supply_beside();
                        self.serve_files();
                        self.absorb();
                        self.look_at_brake();
                    }
                }
                Err(failure) => {
                    let purpose = match self.cleaning.is_asked() {
                        true => "before the stop",
                        false => "for the recovery time",
                    };
                    log::error!("could not write pages {purpose}: {failure}");
                    self.incremental.pages.clear();
                    self.incremental.done = 0;
                    self.incremental.until_ns = self.now_ns() + nanos(RETRY);
                    self.give_up_cleaning();
                }
            }
        }
    }

    fn plan_round(&mut self, now_ns: u64) {
        let shared = Arc::clone(&self.store.shared);
        let insert = shared.wal.insert_lsn();
        let mut pages = std::mem::take(&mut self.incremental.pages);
        let survey = shared
            .pool
            .survey(self.redo_in_control(), insert, &mut pages);
        let planning = &mut self.incremental;
        let elapsed_s = now_ns.saturating_sub(planning.began_ns).max(1) as f64 / 1e9;
        // The first round has nothing to compare with.
        if planning.insert > Lsn::ZERO {
            let bytes = insert.bytes_since(planning.insert) as f64;
            let (before, per_s) = (planning.wal_bytes_per_s, bytes / elapsed_s);
            planning.wal_bytes_per_s = pacing::smoothed(before, per_s, elapsed_s, pacing::SMOOTH_S);
        }
        let moved = planning.insert != insert;
        planning.insert = insert;
        planning.began_ns = now_ns;
        planning.done = 0;
        self.look_at_recovery(self.redo_in_control(), &survey);
        let wal_bytes_per_s = self.incremental.wal_bytes_per_s;
        let lag = self.heartbeat_interval() + Duration::from_nanos(2 * ROUND_NS);
        let keep_bytes = pacing::keep_bytes(self.incremental.allowed_bytes, wal_bytes_per_s, lag);
        let per_s = pacing::pages_per_s(&survey, insert, wal_bytes_per_s, keep_bytes);
        let survey_ns = self.now_ns() - now_ns;
        let round_ns = ROUND_NS.max(SURVEY_PART * survey_ns);
        let wanted = (per_s * round_ns as f64 / 1e9).ceil() as usize;
        let hurries = self.cleaning.is_asked();
        let wanted = if hurries {
            wanted.max(ROUND_PAGES)
        } else {
            wanted
        };
        choose_oldest(&mut pages, wanted, &survey);
        let planned = pages.len();
        let planning = &mut self.incremental;
        planning.is_quiet = !moved && pages.is_empty();
        // All at once, and then the next.
        let is_over_at_once = self.cleaning.is_under_way() && !pages.is_empty();
        planning.pages = pages;
        planning.until_ns = now_ns + if is_over_at_once { 0 } else { round_ns };
        self.note_cleaning(survey.dirty(), planned);
    }

    /// The next round begins at once.
    pub(crate) fn plan_now(&mut self) {
        self.incremental.until_ns = self.incremental.began_ns;
        self.incremental.is_quiet = false;
    }

    /// Looks how long recovery from `redo` would take, and how much log the target allows.
    fn look_at_recovery(&mut self, redo: Lsn, survey: &Survey) {
        let control = self.control.as_ref().expect("the log is written");
        let speeds = control.speeds();
        let bytes = self.incremental.insert.get().saturating_sub(redo.get());
        let unsynced_pages = self.unsynced.bytes() / PAGE_BYTES as u64;
        let work = RedoWork {
            bytes,
            pages: survey.dirty() + unsynced_pages,
        };
        let us = speeds.estimate_us(work);
        let target_us = self.store.config.recovery_time_target().as_micros() as u64;
        self.incremental.allowed_bytes = if target_us == 0 {
            u64::MAX
        } else {
            let pages_per_byte = work.pages as f64 / work.bytes.max(1) as f64;
            speeds.bytes_within(AIM * target_us as f64, pages_per_byte)
        };
        self.estimate = Estimate { work, us };
        self.store.shared.checkpoint.publish_recovery(&RecoveryNow {
            estimate_us: us,
            target_us,
            fixed_us: speeds.fixed_us as u64,
            bytes_per_s: speeds.bytes_per_s as u64,
            pages_per_s: speeds.pages_per_s as u64,
            is_measured: speeds.is_measured,
            redo_bytes: work.bytes,
            redo_bytes_allowed: self.incremental.allowed_bytes,
            dirty_pages: survey.dirty(),
            unsynced_pages,
            wal_bytes_per_s: self.incremental.wal_bytes_per_s as u64,
        });
    }

    /// Takes up what startup says of the recovery that it has finished.
    pub(crate) fn learn_of_recovery(&mut self) {
        let Some(control) = &mut self.control else {
            return;
        };
        if let Some(recovery) = self.store.shared.checkpoint.take_recovery() {
            control.learn(&Measured::of(&recovery), recovery.predicted_us);
            self.remember_recovery(recovery);
        }
    }

    /// As of now, how long recovery from `redo` would take.
    pub(crate) fn estimate_recovery(&mut self, redo: Lsn) {
        let insert = self.store.shared.wal.insert_lsn();
        let mut dirty = Vec::new();
        let survey = self.store.shared.pool.survey(redo, insert, &mut dirty);
        let before = std::mem::replace(&mut self.incremental.insert, insert);
        self.look_at_recovery(redo, &survey);
        self.incremental.insert = before;
    }

    /// How often the redo point advances: as `checkpoint_heartbeat` says, or more often if log
    /// comes so fast that the target would be missed between two.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        let config = self.store.config.checkpoint_heartbeat();
        if self.cleaning.is_asked() {
            return ADVANCE_MIN.min(config);
        }
        let planned = &self.incremental;
        let quarter_s = planned.allowed_bytes as f64 / 4.0 / planned.wal_bytes_per_s.max(1.0);
        if quarter_s >= config.as_secs_f64() {
            return config;
        }
        Duration::from_secs_f64(quarter_s).max(ADVANCE_MIN.min(config))
    }

    /// Up to where the log is in the pages: the insert position, or what redo has applied. None
    /// between the end of redo and the first insertion.
    fn position(&self, is_in_redo: bool) -> Option<Lsn> {
        let shared = &self.store.shared;
        let position = if is_in_redo {
            shared.checkpoint.applied_lsn()
        } else {
            shared.wal.insert_lsn()
        };
        (position > Lsn::ZERO).then_some(position)
    }

    /// Whether the redo point may move to `lsn`: it is known which start wrote the last record
    /// before it. (In redo: that a record follows, see `redo`.)
    fn can_advance_to(&self, lsn: Lsn, is_in_redo: bool) -> bool {
        let log_end = self.store.shared.checkpoint.end_of_log();
        is_in_redo || log_end.is_some_and(|end| lsn >= end.lsn)
    }

    /// Advances the redo point as far as it goes; false if that is not worth while.
    ///
    /// # Errors
    /// When the disk refuses a header; then the redo point is as it was.
    pub(crate) fn advance_redo(&mut self) -> Result<bool, Failure> {
        let shared = Arc::clone(&self.store.shared);
        let is_in_redo = self.is_redoing();
        let previous = self.redo_in_control();
        let goes_far = |redo: Lsn| redo.get() >= previous.get() + STEP_BYTES;
        let Some(position) = self.position(is_in_redo) else {
            return Ok(false);
        };
        let least_dirty = shared.pool.least_rec_lsn().unwrap_or(Lsn::MAX);
        let hoped = position.min(least_dirty);
        if !goes_far(hoped) || !self.can_advance_to(hoped, is_in_redo) {
            return Ok(false);
        }
        // Soon they will, and until then the writing would be in vain.
        if is_in_redo && !shared.files.have_counts_one_place() {
            return Ok(false);
        }
        self.sync_all();
        let position = self.position(is_in_redo);
        let redo = [
            position,
            shared.pool.least_rec_lsn(),
            self.unsynced.least_rec_lsn(),
            self.batch.least_rec_lsn(),
        ];
        let redo = redo.into_iter().flatten().min().expect("the first is some");
        if !goes_far(redo) || !self.can_advance_to(redo, is_in_redo) {
            return Ok(false);
        }
        self.stamp_headers(redo, Counter::PagesWrittenIncremental)?;
        self.sync_all();
        let (files, keys_lsn) = if is_in_redo {
            match self.cut_keys_in_redo(redo) {
                Some(counts) => counts,
                None => return Ok(false),
            }
        } else {
            self.cut_keys(redo)
        };
        self.move_redo(Advance {
            redo_lsn: redo,
            full: None,
            files,
            keys_lsn,
            is_double_written: self.area.is_some(),
            is_in_redo,
        });
        self.redo = self.redo.max(redo);
        shared.checkpoint.passed(&shared.procs, redo);
        self.store.count(Counter::RedoAdvances);
        if !is_in_redo {
            // So long the log was; the next time it may be as long.
            let length_bytes = position.map_or(0, |position| position.bytes_since(previous));
            self.estimate_bytes = pacing::next_estimate(self.estimate_bytes, length_bytes);
            self.retire_log(redo);
        }
        Ok(true)
    }

    /// Step 4 during redo; None while no counts can be given for any one place in the log, and if redo
    /// has ended since and commits may be among them.
    pub(crate) fn cut_keys_in_redo(&mut self, redo: Lsn) -> Option<(Vec<FileRow>, Lsn)> {
        let shared = Arc::clone(&self.store.shared);
        let files = &shared.files;
        let cut = files.begin_cut(|| files.counting_in_redo());
        let inserted = shared.wal.insert_lsn();
        if inserted > Lsn::ZERO {
            // Who inserts from here on sees the boundary; the others are to be done with counting.
            self.flusher
                .flush_until(inserted)
                .expect("it was an insert position");
            files.end_cut(cut, redo, Lsn::ZERO);
            return None;
        }
        // Between its two steps startup waits for nothing.
        while !files.is_counted_in_redo(cut.boundary) {
            std::thread::yield_now();
        }
        let keys_lsn = files.counted_in_redo(cut.boundary);
        let rows = files.end_cut(cut, redo, Lsn::ZERO);
        keys_lsn.map(|lsn| (rows, lsn))
    }

    /// Step 4: the key counts for a redo point at `redo`, and up to where they count.
    pub(crate) fn cut_keys(&mut self, redo: Lsn) -> (Vec<FileRow>, Lsn) {
        let shared = Arc::clone(&self.store.shared);
        let files = &shared.files;
        let cut = files.begin_cut(|| shared.wal.insert_lsn());
        let keys_lsn = cut.boundary;
        self.flusher
            .flush_until(keys_lsn)
            .expect("the boundary was an insert position");
        (files.end_cut(cut, redo, Lsn::ZERO), keys_lsn)
    }
}

/// Leaves the `wanted` pages with the least rec LSNs in `pages`, sorted by file and block.
fn choose_oldest(pages: &mut Vec<DirtyFrame>, wanted: usize, survey: &Survey) {
    if wanted == 0 {
        pages.clear();
        return;
    }
    let limit = survey.limit_for(wanted as u64);
    pages.retain(|page| page.rec_lsn < limit);
    if pages.len() > wanted {
        pages.select_nth_unstable_by_key(wanted - 1, |page| page.rec_lsn);
        pages.truncate(wanted);
    }
    pages.sort_unstable();
}
