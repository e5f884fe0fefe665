//! When commits are slowed, and how much: pure functions of numbers; and what the checkpointer does
//! about it. What backends do is in `rd_store::brake`.
//!
//! **Log.** While a full checkpoint is under way, the log behind the redo point must not outgrow
//! `max_wal_size` before it is done. From the pages left, the speed at which they are written and
//! what syncing took last follows the time left; the room left, divided by it, is the rate at which
//! log may come. As long as less comes nobody is slowed, and when more comes the limit begins at
//! what comes and sinks by and by: never a cliff. Past the end of the room a little still may.
//!
//! **Frames.** While clean frames run short the limit sinks, and while there are enough it rises, so
//! that about half of what the low-water mark asks for stays there: nobody then sleeps for want of
//! one.
//!
//! **Stop.** While the server is stopping and it takes long to write what is dirty, the limit sinks.

use crate::pacing::{Pace, smoothed};
use crate::{Checkpointer, turn};
use rd_base::Lsn;
use rd_store::brake::{BrakeCause, BrakeState};
use std::sync::Arc;
use std::time::Duration;

/// How often is looked.
pub const TICK: Duration = Duration::from_millis(100);
/// Over how long the speed of the log, and that of writing pages, is smoothed, seconds.
const SMOOTH_S: f64 = 0.5;
/// A limit sinks by so many powers of e in a second at most, and rises accordingly; faster only
/// where the room left would be filled too soon: by so many until then.
const SINK_PER_S: f64 = 3.0;
const SINK_PER_ROOM: f64 = 2.0;
/// The longest step, in seconds: whoever stood still for longer has seen no more than that.
const STEP_MAX_S: f64 = 10.0;
/// How the limit for frames follows the shortage: by so many powers of e for a change from none to
/// all, and for each second in which it is beside the aim.
const FRAMES_STEP: f64 = 3.0;
const FRAMES_DRIFT: f64 = 1.0;
/// The speed of log before commits were slowed is forgotten within so many seconds.
const DEMAND_S: f64 = 60.0;
/// The shortage that is aimed at while frames are short.
const SHORTAGE_AIM: f64 = 0.5;
/// A checkpoint that is nearly done is taken to need so long, seconds: nobody knows the end of a sync.
const LEFT_MIN_S: f64 = 0.5;
/// A batch of so many pages says something of the speed.
const FULL_BATCH: usize = 32;
/// A limit is lifted when it is so many times what comes.
const LIFT_AT: f64 = 2.0;
/// Least rate, bytes a second.
const RATE_MIN: f64 = (64 << 10) as f64;
/// Segments of log on disk beside those between the redo point and the end: what is prepared ahead,
/// and the begun one at either end.
const SEGMENTS_BESIDE: u64 = 3;
/// The log reports at most so often.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// The first report of several comes after so long, so that it has something to tell.
const REPORT_FIRST: Duration = Duration::from_secs(1);

/// How far the full checkpoint under way has come.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Pages dealt with, and pages in all.
    pub done: u64,
    pub total: u64,
    /// How long it has been at it, rests not counted, nanoseconds.
    pub busy_ns: u64,
    /// When all was written and syncing began, monotonic nanoseconds.
    pub syncing_since_ns: Option<u64>,
}

/// What there is to see at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// Monotonic nanoseconds.
    pub now_ns: u64,
    /// The redo point, and the end of the log.
    pub redo: Lsn,
    pub insert: Lsn,
    /// The full checkpoint under way.
    pub progress: Option<Progress>,
    /// Pages that one would have to write if none is under way.
    pub dirty_pages: u64,
    /// How short clean frames are, 0 to 1.
    pub shortage: f64,
    /// Whether pages are written for a stop, and that takes long.
    pub is_stopping: bool,
}

/// The end of the log behind the redo point, in bytes, that is not to be passed.
pub fn room_bytes(pace: &Pace) -> u64 {
    let trigger = pace.wal_segments() * pace.segment_bytes;
    let beside = SEGMENTS_BESIDE * pace.segment_bytes;
    let middle = trigger + pace.max_wal_bytes.saturating_sub(trigger) / 2;
    pace.max_wal_bytes.saturating_sub(beside).max(middle)
}

/// Follows what comes and what is done.
#[derive(Debug, Default)]
pub struct Controller {
    looked_ns: u64,
    insert: Lsn,
    /// Bytes of log in a second, as last seen; smoothed; and the most of it before commits were
    /// slowed.
    last_per_s: f64,
    wal_per_s: f64,
    demand_per_s: f64,
    /// Pages that a checkpoint writes in a second when it does not rest; 0 before that is known.
    pages_per_s: f64,
    /// What was last seen of the checkpoint under way.
    seen: Progress,
    /// What syncing took last, seconds.
    sync_s: f64,
    /// Smoothed; and as it was a moment before.
    shortage: f64,
    shortage_before: f64,
    wal_limit: Option<f64>,
    frames_limit: Option<f64>,
    stop_limit: Option<f64>,
}

impl Controller {
    /// Whether it is time to look again.
    pub fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.looked_ns + turn::nanos(TICK)
    }

    /// Seconds since the last look.
    fn since_s(&self, now_ns: u64) -> f64 {
        now_ns.saturating_sub(self.looked_ns) as f64 / 1e9
    }

    /// When to look again by all means; nothing, while commits are not slowed.
    pub fn next_ns(&self) -> Option<u64> {
        let limits = [self.wal_limit, self.frames_limit, self.stop_limit];
        let is_on = limits.iter().any(Option::is_some);
        is_on.then_some(self.looked_ns + turn::nanos(TICK))
    }

    /// A checkpoint's syncing has taken so long.
    pub fn has_synced(&mut self, took: Duration) {
        let took_s = took.as_secs_f64();
        // A rise is taken up at once.
        self.sync_s = took_s.max((self.sync_s + took_s) / 2.0);
    }

    /// Where the log behind the redo point should end when a paced checkpoint has written its pages:
    /// what comes while it syncs must fit behind.
    pub fn paced_room_bytes(&self, pace: &Pace) -> u64 {
        let room = room_bytes(pace);
        let trigger = pace.wal_segments() * pace.segment_bytes;
        let between = room.saturating_sub(trigger);
        let syncing = (2.0 * self.wal_per_s * self.sync_s) as u64;
        room - syncing.clamp(between / 8, between / 2)
    }

    /// Takes note of pages that were written in one go: before a checkpoint has shown how fast that
    /// goes, it is all that is known.
    pub fn has_written(&mut self, pages: usize, took: Duration) {
        if self.pages_per_s == 0.0 && pages >= FULL_BATCH {
            self.pages_per_s = pages as f64 / took.as_secs_f64().max(1e-6);
        }
    }

    /// Looks, and says how fast commits may be.
    pub fn look(&mut self, sight: &Sight, pace: &Pace) -> Option<BrakeState> {
        let elapsed_s = self.since_s(sight.now_ns);
        let is_first = self.looked_ns == 0;
        self.looked_ns = sight.now_ns;
        let bytes = sight.insert.get().saturating_sub(self.insert.get());
        self.insert = sight.insert;
        if is_first || elapsed_s <= 0.0 {
            return None;
        }
        self.last_per_s = bytes as f64 / elapsed_s;
        self.wal_per_s = smoothed(self.wal_per_s, self.last_per_s, elapsed_s, SMOOTH_S);
        self.shortage_before = self.shortage;
        self.shortage = smoothed(self.shortage, sight.shortage, elapsed_s, SMOOTH_S);
        self.learn_speed(sight.progress, elapsed_s);
        let kept = (-elapsed_s / DEMAND_S).exp();
        if self.next_ns().is_none() {
            self.demand_per_s = self.wal_per_s.max(kept * self.demand_per_s);
        }
        let least = RATE_MIN.max(pace.max_wal_bytes as f64 / 1000.0);
        // After a standstill a step as long as that would be one without bounds.
        let step_s = elapsed_s.min(STEP_MAX_S);
        self.wal_limit = self.next_wal_limit(sight, pace, step_s, least);
        self.frames_limit = self.next_frames_limit(step_s, least);
        let wal = self.wal_limit.map(|limit| (limit, BrakeCause::Wal));
        let frames = self.frames_limit.map(|limit| (limit, BrakeCause::Frames));
        self.stop_limit = sight.is_stopping.then(|| {
            let before = self.stop_limit.unwrap_or(self.wal_per_s);
            (before * (-elapsed_s).exp()).max(least)
        });
        let stop = self.stop_limit.map(|limit| (limit, BrakeCause::Stop));
        let narrower = [wal, frames, stop].into_iter().flatten();
        let (limit, cause) = narrower.min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some(BrakeState {
            cause,
            bytes_per_s: limit as u64,
        })
    }

    /// Bytes of log that come in a second; a rise is taken up at once.
    fn comes_per_s(&self) -> f64 {
        self.wal_per_s.max(self.last_per_s)
    }

    fn learn_speed(&mut self, progress: Option<Progress>, elapsed_s: f64) {
        let now = progress.unwrap_or_default();
        let busy_s = now.busy_ns.saturating_sub(self.seen.busy_ns) as f64 / 1e9;
        let pages = now.done.saturating_sub(self.seen.done) as f64;
        let goes_on = now.busy_ns > self.seen.busy_ns && now.done >= self.seen.done;
        // Where most of the time went into rests the rest says little.
        if goes_on && pages > 0.0 && busy_s > elapsed_s / 4.0 {
            let per_s = pages / busy_s;
            self.pages_per_s = if self.pages_per_s > 0.0 {
                smoothed(self.pages_per_s, per_s, busy_s, SMOOTH_S)
            } else {
                per_s
            };
        }
        self.seen = now;
    }

    /// Bytes of log that may come in a second until the redo point moves.
    fn allowed_per_s(&self, sight: &Sight, pace: &Pace) -> f64 {
        let behind = sight.insert.get().saturating_sub(sight.redo.get());
        let pages_left = match sight.progress {
            Some(progress) => progress.total.saturating_sub(progress.done),
            // It is due, and cannot be made.
            None if pace.is_wal_due(sight.redo, sight.insert) => sight.dirty_pages,
            None => return f64::INFINITY,
        };
        if self.pages_per_s <= 0.0 {
            return f64::INFINITY;
        }
        let syncing = sight
            .progress
            .and_then(|progress| progress.syncing_since_ns);
        let synced_s = syncing.map_or(0.0, |since_ns| {
            sight.now_ns.saturating_sub(since_ns) as f64 / 1e9
        });
        let left_s = pages_left as f64 / self.pages_per_s + (self.sync_s - synced_s).max(0.0);
        let room = room_bytes(pace).saturating_sub(behind);
        room as f64 / left_s.max(LEFT_MIN_S)
    }

    fn next_wal_limit(
        &self,
        sight: &Sight,
        pace: &Pace,
        elapsed_s: f64,
        least: f64,
    ) -> Option<f64> {
        let allowed = self.allowed_per_s(sight, pace);
        let before = match self.wal_limit {
            Some(limit) => limit,
            None if allowed < self.wal_per_s => self.comes_per_s(),
            None => return None,
        };
        let behind = sight.insert.get().saturating_sub(sight.redo.get());
        let room = room_bytes(pace).saturating_sub(behind).max(1) as f64;
        let sink_per_s = SINK_PER_S.max(SINK_PER_ROOM * before / room);
        let lowest = before * (-sink_per_s * elapsed_s).exp();
        let highest = before * (SINK_PER_S * elapsed_s).exp();
        let limit = allowed.clamp(lowest, highest).max(least);
        let is_unused = limit > LIFT_AT * self.comes_per_s() && allowed > limit;
        (!is_unused).then_some(limit)
    }

    fn next_frames_limit(&self, elapsed_s: f64, least: f64) -> Option<f64> {
        let before = match self.frames_limit {
            Some(limit) => limit,
            None if self.shortage > SHORTAGE_AIM && self.wal_per_s > least => self.comes_per_s(),
            None => return None,
        };
        let change = self.shortage - self.shortage_before;
        let beside = self.shortage - SHORTAGE_AIM;
        let exponent = -FRAMES_STEP * change - FRAMES_DRIFT * beside * elapsed_s;
        let limit = (before * exponent.exp()).max(least);
        let is_unused = limit > LIFT_AT * self.comes_per_s() && self.shortage < SHORTAGE_AIM;
        (!is_unused).then_some(limit)
    }

    /// What commits are slowed for while the log nears its limit, and what helps; `failure` is why the
    /// last attempt at a checkpoint failed, if it did.
    fn wal_advice(&self, frames: usize, pace: &Pace, failure: Option<&str>) -> String {
        let max_mb = pace.max_wal_bytes >> 20;
        if let Some(failure) = failure {
            return format!(
                "checkpoints fail, so that no log can be given up within max_wal_size = {max_mb}MB: \
                 {failure}"
            );
        }
        format!(
            "log comes faster than the checkpoint gets done within max_wal_size = {max_mb}MB ({:.0} \
             kB/s, and {:.0} pages/s are written); max_wal_size = {}MB would be enough for this load",
            self.demand_per_s / 1024.0,
            self.pages_per_s,
            self.max_wal_bytes_for(frames, pace) >> 20,
        )
    }

    /// The value of `max_wal_size`, bytes, with which nobody would have been slowed, with `frames`
    /// frames: room for what comes while all of them are written, twice, because a checkpoint begins
    /// when half of the room is taken.
    pub fn max_wal_bytes_for(&self, frames: usize, pace: &Pace) -> u64 {
        let whole_s = frames as f64 / self.pages_per_s.max(1.0) + self.sync_s;
        let bytes = 2.0 * self.demand_per_s * whole_s;
        let least = 2 * pace.max_wal_bytes;
        (bytes as u64)
            .max(least)
            .checked_next_power_of_two()
            .unwrap_or(least)
    }
}

/// How many commits were slowed, and for how many microseconds, by cause in the order of
/// [`BrakeCause::ALL`].
pub type Slowed = [(u64, u64); BrakeCause::ALL.len()];

/// What was last told of it.
#[derive(Debug, Default)]
pub struct Reports {
    /// Since when commits are slowed; nothing, while they are not.
    since_ns: Option<u64>,
    next_ns: u64,
    /// Counts at the last report.
    told: Slowed,
}

/// What is to be told of one cause.
#[derive(Debug, PartialEq)]
pub struct Report {
    cause: BrakeCause,
    /// Commits slowed, in so many seconds, and for how many microseconds.
    count: u64,
    seconds: f64,
    micros: u64,
}

impl Reports {
    /// What is to be told at `now_ns`, when commits are slowed or not, and these were so far.
    fn due(&mut self, now_ns: u64, is_on: bool, slowed: &Slowed) -> Vec<Report> {
        if is_on && self.since_ns.is_none() {
            self.since_ns = Some(now_ns);
            self.next_ns = self.next_ns.max(now_ns + turn::nanos(REPORT_FIRST));
        }
        // The end of it is reported with what came after the last report.
        let Some(since_ns) = self.since_ns.filter(|_| now_ns >= self.next_ns) else {
            return Vec::new();
        };
        self.since_ns = is_on.then_some(now_ns);
        self.next_ns = now_ns + turn::nanos(REPORT_EVERY);
        let told = std::mem::replace(&mut self.told, *slowed);
        let causes = BrakeCause::ALL.into_iter().zip(told.iter().zip(slowed));
        let reports = causes.map(|(cause, (told, now))| Report {
            cause,
            // Somebody may have set the counters to 0 meanwhile.
            count: now.0.saturating_sub(told.0),
            seconds: (now_ns - since_ns) as f64 / 1e9,
            micros: now.1.saturating_sub(told.1),
        });
        reports.filter(|report| report.count > 0).collect()
    }
}

impl Checkpointer {
    /// Looks whether commits are to be slowed, if it is time.
    pub(crate) fn look_at_brake(&mut self) {
        let now_ns = self.now_ns();
        if !self.log_is_written() || !self.brake.is_due(now_ns) {
            return;
        }
        let shared = Arc::clone(&self.store.shared);
        self.look_at_commits(self.brake.since_s(now_ns));
        let sight = Sight {
            now_ns,
            redo: self.redo_in_control(),
            insert: shared.wal.insert_lsn(),
            progress: self.progress,
            dirty_pages: self.estimate.work.pages,
            shortage: shared.pool.supply_shortage(),
            is_stopping: self.cleaning.is_long(now_ns),
        };
        let state = self.brake.look(&sight, &self.pace);
        shared
            .brake
            .publish_speed(self.brake.pages_per_s.round() as u64);
        match state {
            Some(state) => shared.brake.publish(state),
            None if shared.brake.is_on() => shared.brake.release(),
            None => {}
        }
        self.report_brake(now_ns, state.is_some());
    }

    /// Looks how commits fare.
    fn look_at_commits(&mut self, elapsed_s: f64) {
        let flushes = self.store.shared.stats.flushes();
        let is_writing = self.progress.is_some() || self.incremental.is_writing();
        self.latency.look(flushes, elapsed_s, is_writing);
    }

    /// How many commits were slowed since the counters were set to 0.
    fn slowed(&self) -> Slowed {
        let stats = &self.store.shared.stats;
        BrakeCause::ALL.map(|cause| {
            let (count, micros) = cause.counters();
            (stats.get(count), stats.get(micros))
        })
    }

    /// For how many microseconds, whatever the cause.
    pub(crate) fn slowed_us(&self) -> u64 {
        self.slowed().iter().map(|(_, micros)| micros).sum()
    }

    fn report_brake(&mut self, now_ns: u64, is_on: bool) {
        let slowed = self.slowed();
        for report in self.brake_reports.due(now_ns, is_on, &slowed) {
            log::info!(
                "commits were slowed {} times in {:.1} s, by {:.1} ms each: {}",
                report.count,
                report.seconds,
                report.micros as f64 / 1000.0 / report.count as f64,
                self.brake_advice(report.cause)
            );
        }
    }

    /// What commits are slowed for, and what helps.
    fn brake_advice(&self, cause: BrakeCause) -> String {
        let frames = self.store.shared.pool.frame_count();
        match cause {
            BrakeCause::Wal => {
                let checkpoint = &self.store.shared.checkpoint;
                let failure = (self.failures > 0).then(|| checkpoint.last_error());
                self.brake
                    .wal_advice(frames, &self.pace, failure.as_deref())
            }
            BrakeCause::Stop => {
                "the server is stopping, and writes its pages while clients are served".to_owned()
            }
            BrakeCause::Frames => {
                let buffers = self.store.config.shared_buffers_bytes() >> 20;
                format!(
                    "clean frames run short, because pages are changed faster than they can be \
                     written; try shared_buffers = {}MB (now {buffers}MB), or a faster disk",
                    2 * buffers,
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// A server in numbers: log that comes as fast as is asked for and allowed, pages that become
    /// dirty with it, a checkpoint that begins when it is due and writes at an even speed.
    struct Simulation {
        pace: Pace,
        controller: Controller,
        now_ns: u64,
        insert: u64,
        redo: u64,
        next_redo: u64,
        progress: Option<Progress>,
        dirty: f64,
        /// What is wanted: bytes of log a second, bytes of it that make one page dirty.
        demand_per_s: f64,
        bytes_per_page: f64,
        frames: f64,
        pages_per_s: f64,
        sync_s: f64,
        limit: Option<f64>,
        most_behind: u64,
        written: f64,
        steepest: f64,
    }

    const STEP_NS: u64 = 10_000_000;

    impl Simulation {
        fn new(max_wal_mb: u64, demand_mb_per_s: f64) -> Simulation {
            Simulation {
                pace: Pace {
                    timeout: Duration::from_secs(300),
                    completion_target: 0.9,
                    max_wal_bytes: max_wal_mb * MB,
                    segment_bytes: MB,
                },
                controller: Controller::default(),
                now_ns: 1_000_000_000,
                insert: 100 * MB,
                redo: 100 * MB,
                next_redo: 0,
                progress: None,
                dirty: 0.0,
                demand_per_s: demand_mb_per_s * MB as f64,
                bytes_per_page: 1024.0,
                frames: 50_000.0,
                pages_per_s: 10_000.0,
                sync_s: 0.3,
                limit: None,
                most_behind: 0,
                written: 0.0,
                steepest: 1.0,
            }
        }

        fn step(&mut self) {
            let seconds = STEP_NS as f64 / 1e9;
            self.now_ns += STEP_NS;
            let per_s = self.limit.unwrap_or(f64::MAX).min(self.demand_per_s);
            let bytes = per_s * seconds;
            self.insert += bytes as u64;
            self.written += bytes;
            self.dirty = (self.dirty + bytes / self.bytes_per_page).min(self.frames);
            self.most_behind = self.most_behind.max(self.insert - self.redo);
            self.checkpoint(seconds);
            if !self.controller.is_due(self.now_ns) {
                return;
            }
            let sight = Sight {
                now_ns: self.now_ns,
                redo: Lsn::new(self.redo),
                insert: Lsn::new(self.insert),
                progress: self.progress,
                dirty_pages: self.dirty as u64,
                shortage: 0.0,
                is_stopping: false,
            };
            let state = self.controller.look(&sight, &self.pace);
            let limit = state.map(|state| state.bytes_per_s as f64);
            let (before, after) = (self.limit.unwrap_or(per_s), limit.unwrap_or(f64::MAX));
            self.steepest = self.steepest.min(after / before);
            self.limit = limit;
        }

        fn checkpoint(&mut self, seconds: f64) {
            let (redo, insert) = (Lsn::new(self.redo), Lsn::new(self.insert));
            let Some(progress) = &mut self.progress else {
                if self.pace.is_wal_due(redo, insert) {
                    self.next_redo = self.insert;
                    self.progress = Some(Progress {
                        total: self.dirty as u64,
                        ..Progress::default()
                    });
                    self.dirty = 0.0;
                }
                return;
            };
            if progress.done < progress.total {
                progress.busy_ns += STEP_NS;
                let pages = (self.pages_per_s * seconds) as u64;
                progress.done = progress.total.min(progress.done + pages);
                return;
            }
            let since_ns = *progress.syncing_since_ns.get_or_insert(self.now_ns);
            let took_s = (self.now_ns - since_ns) as f64 / 1e9;
            if took_s >= self.sync_s {
                self.controller.has_synced(Duration::from_secs_f64(took_s));
                self.redo = self.next_redo;
                self.progress = None;
            }
        }

        fn run(&mut self, seconds: u64) {
            (0..seconds * 1_000_000_000 / STEP_NS).for_each(|_| self.step());
        }
    }

    #[test]
    fn whoever_can_be_kept_up_with_is_not_slowed() {
        // 5 MB/s make 5000 pages a second, of which 10,000 can be written.
        let mut light = Simulation::new(64, 5.0);
        for _ in 0..60 {
            light.run(1);
            assert_eq!(light.limit, None);
        }
    }

    #[test]
    fn log_that_comes_too_fast_is_held_within_its_room_and_goes_on() {
        for (max_wal_mb, demand_mb_per_s, steepest) in
            [(64, 30.0, 0.6), (64, 300.0, 0.0), (256, 100.0, 0.6)]
        {
            let mut heavy = Simulation::new(max_wal_mb, demand_mb_per_s);
            // The first checkpoint shows how fast pages are written.
            heavy.run(20);
            heavy.most_behind = 0;
            heavy.written = 0.0;
            heavy.steepest = 1.0;
            heavy.run(60);
            let behind_mb = heavy.most_behind as f64 / MB as f64;
            assert!(
                behind_mb <= max_wal_mb as f64,
                "{behind_mb} MB of {max_wal_mb} behind at {demand_mb_per_s} MB/s"
            );
            // As much as can be kept up with: each MB makes 1024 pages dirty, at most all frames.
            let per_s = heavy.written / 60.0 / MB as f64;
            assert!(
                per_s > 5.0,
                "{per_s} MB/s of {demand_mb_per_s} within {max_wal_mb} MB"
            );
            assert!(heavy.steepest > steepest, "a step to {}", heavy.steepest);
        }
    }

    /// Of the checkpointer, or of the machine, while commits are slowed.
    #[test]
    fn a_standstill_of_minutes_is_no_step_of_minutes() {
        let mut heavy = Simulation::new(64, 300.0);
        heavy.run(20);
        assert!(heavy.limit.is_some());
        heavy.progress = None;
        heavy.redo = heavy.insert;
        heavy.demand_per_s = 0.0;
        heavy.now_ns += 600 * 1_000_000_000;
        heavy.run(1);
        assert_eq!(heavy.limit, None);
    }

    #[test]
    fn the_brake_is_lifted_when_the_load_ends() {
        let mut heavy = Simulation::new(64, 100.0);
        heavy.run(20);
        assert!(heavy.limit.is_some());
        heavy.demand_per_s = MB as f64;
        heavy.run(20);
        assert_eq!((heavy.limit, heavy.controller.next_ns()), (None, None));
    }

    #[test]
    fn each_cause_is_reported_with_its_own_counts() {
        let second = 1_000_000_000;
        let mut reports = Reports::default();
        assert_eq!(reports.due(second, false, &[(0, 0); 3]), []);
        assert_eq!(reports.due(2 * second, true, &[(1, 10); 3]), []);
        let report = |cause, count, seconds, micros| Report {
            cause,
            count,
            seconds,
            micros,
        };
        // Two were at work in the first second, and the one that is now did the less.
        assert_eq!(
            reports.due(3 * second, true, &[(500, 7000), (2, 20), (0, 0)]),
            [
                report(BrakeCause::Wal, 500, 1.0, 7000),
                report(BrakeCause::Frames, 2, 1.0, 20)
            ]
        );
        assert_eq!(
            reports.due(4 * second, true, &[(900, 9000), (2, 20), (0, 0)]),
            []
        );
        assert_eq!(
            reports.due(5 * second, false, &[(900, 9000), (2, 20), (0, 0)]),
            []
        );
        assert_eq!(
            reports.due(14 * second, false, &[(900, 9000), (2, 20), (0, 0)]),
            [report(BrakeCause::Wal, 400, 11.0, 2000)]
        );
        assert_eq!(
            reports.due(90 * second, false, &[(900, 9000), (2, 20), (0, 0)]),
            []
        );
    }

    #[test]
    fn a_disk_that_refuses_is_not_taken_for_a_log_that_is_too_small() {
        let mut heavy = Simulation::new(64, 30.0);
        heavy.run(30);
        let advice = |failure| heavy.controller.wal_advice(50_000, &heavy.pace, failure);
        assert!(advice(None).contains("would be enough for this load"));
        let failing = advice(Some("no room"));
        assert!(failing.starts_with("checkpoints fail"), "{failing}");
        assert!(failing.ends_with("no room") && !failing.contains("would be enough"));
    }

    #[test]
    fn the_advice_would_be_enough() {
        let mut heavy = Simulation::new(64, 30.0);
        heavy.run(30);
        let advised = heavy.controller.max_wal_bytes_for(50_000, &heavy.pace);
        let mut advised = Simulation::new(advised / MB, 30.0);
        advised.run(20);
        for _ in 0..120 {
            advised.run(1);
            assert_eq!(advised.limit, None, "with {:?}", advised.pace);
        }
    }

    #[test]
    fn clean_frames_that_run_short_slow_commits_until_there_are_some() {
        let pace = Simulation::new(1024, 0.0).pace;
        let mut controller = Controller::default();
        let (mut limit, mut ahead, mut insert) = (None, 0.0_f64, 0.0);
        let (demand, cleaned, low) = (20.0 * MB as f64, 2000.0, 1000.0);
        let mut causes = Vec::new();
        for tick in 1..600_u64 {
            let per_s = limit.map_or(demand, |state: BrakeState| state.bytes_per_s as f64);
            let per_s = per_s.min(demand);
            insert += per_s / 10.0;
            // A page for each 4 kB of log is wanted; what is not there is waited for.
            ahead = (ahead + (cleaned - per_s / 4096.0) / 10.0).clamp(0.0, 2.0 * low);
            let sight = Sight {
                now_ns: tick * 100_000_000,
                redo: Lsn::new(insert as u64),
                insert: Lsn::new(insert as u64),
                progress: None,
                dirty_pages: 0,
                shortage: 1.0 - (ahead / low).min(1.0),
                is_stopping: false,
            };
            limit = controller.look(&sight, &pace);
            if tick > 300 {
                assert!(ahead > 0.0, "somebody sleeps for want of a frame");
                causes.extend(limit.map(|state| state.cause));
            }
        }
        assert!(causes.len() > 100 && causes.iter().all(|cause| *cause == BrakeCause::Frames));
    }
}
