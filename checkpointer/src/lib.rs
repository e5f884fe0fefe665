//! The checkpointer process.
//!
//! * **Job**: writes all pages and `pg_control`: keeps clean frames in supply, writes checkpoints,
//!   creates, grows and unlinks relation files, gives up old log.
//! * **Who wakes it**: its event (requests, supply, growth, a segment of log that is full, its own
//!   threads), signals, the clock.
//! * **Signals**: SIGHUP: read the configuration again. SIGUSR1: the server is about to stop: write
//!   what is dirty, and tell the postmaster by SIGUSR1 when that is done. SIGUSR2: write the shutdown
//!   checkpoint and exit 0. The postmaster sends it only when startup has finished and backends and walwriter are
//!   gone; from anybody else before startup has finished it just ends the process, which the
//!   postmaster takes for a crash. Later both are ignored unless the postmaster has ordered them
//!   (`StopOrder`). SIGQUIT: exit at once. SIGTERM and SIGINT are ignored.
//! * **What it may write**: `base/`, `global/`; names in `wal/` (old segments), and the log itself
//!   when a page is to be written before its log is durable.
//! * **What its death means**: it alone knows what was written and not synced, so the server goes
//!   through recovery.
//!
//! One loop serves everything by turns; what waits for the disk for long runs on three threads of
//! its own (`worker`). The supply of clean frames goes before everything else.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `full` | the full checkpoint, step by step |
//! | `incremental` | the oldest pages, all the time, and the redo point behind them |
//! | `redo` | the same while the log is redone |
//! | `brake` | when commits are slowed, and how much |
//! | `cleaning` | what is written before a stop, while clients are served |
//! | `latency` | whether commits suffer |
//! | `pacing` | when one is due, how fast it goes; pure |
//! | `supply` | clean frames ahead of need |
//! | `writer` | batches of pages: double-write area, then their places |
//! | `sync`, `unsynced`, `worker` | forcing files to disk, beside the rest |
//! | `sync_time` | how long that will take |
//! | `requests` | files created, grown, unlinked |
//! | `control` | `pg_control` |
//! | `namespace` | checkpoints of a single namespace's file |
//! | `scrub` | pages read back and checked, and repaired |
//! | `history` | what is remembered of each checkpoint and recovery |
//! | `turn` | the loop, and how it sleeps |
//! | `report` | what the log says of a checkpoint |

mod brake;
mod cleaning;
mod control;
mod full;
mod history;
mod incremental;
mod latency;
mod namespace;
mod pacing;
mod redo;
mod report;
mod requests;
mod scrub;
mod supply;
mod sync;
mod sync_time;
mod turn;
mod unsynced;
mod worker;
mod writer;

#[cfg(test)]
mod tests;

use control::{Control, Estimate};
use incremental::Incremental;
use pacing::Pace;
use rd_base::words::TornPageProtection;
use rd_base::{FileNo, Lsn};
use rd_format::control::DbState;
use rd_store::checkpoint::Flags;
use rd_store::control_file::{ControlFileError, GLOBAL_DIR};
use rd_store::doublewrite::{self, DoubleWrite};
use rd_store::files::FileWork;
use rd_store::history::HistoryFile;
use rd_store::relation::RelationFiles;
use rd_store::wal::{Flusher, NoCredit};
use rd_store::{ChildContext, Store};
use rd_sys::Shortage;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use sync::{SyncTally, Synced};
use unsynced::{SyncJob, Unsynced};
use worker::Worker;
use writer::{Batch, Writeback};

/// The process: never returns.
pub fn main(context: ChildContext) -> ! {
    turn::run(context)
}

/// Why something could not be done now; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The disk refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is no room for the checkpoint's record.
    #[error("the checkpoint's record has no room in the log: {0}")]
    NoCredit(#[from] NoCredit),
    /// A page that was written before cannot be read back.
    #[error("{0}")]
    Page(#[from] rd_store::buffer::PageReadError),
    /// `pg_control` or the double-write area cannot be used.
    #[error("{0}")]
    Control(#[from] ControlFileError),
}

impl Failure {
    /// What there was too little of, if nothing else is wrong.
    fn shortage(&self) -> Option<Shortage> {
        match self {
            Failure::Io(error) => Shortage::of(error),
            Failure::Page(error) => error.shortage(),
            Failure::NoCredit(_) | Failure::Control(_) => None,
        }
    }
}

/// Does one job of a worker; says whether there was one.
pub type WorkerStep = Box<dyn FnMut() -> bool>;

/// What does the waiting for disks.
pub struct Workers {
    syncs: Worker<SyncJob, Synced>,
    growth: Worker<FileWork, requests::Grown>,
    scrubs: Worker<scrub::Chunk, scrub::ChunkRead>,
    /// What the scrub reads: the disk itself.
    past_cache: Arc<RelationFiles>,
}

impl Workers {
    /// On threads: for the process.
    ///
    /// # Errors
    /// When a thread cannot be made.
    pub fn on_threads(store: &Store, relations: &Arc<RelationFiles>) -> io::Result<Workers> {
        let wake = || store.shared.procs.event(store.slot).clone();
        let sync = sync::work(Arc::clone(relations), store.clock.clone());
        let growth = requests::work(Arc::clone(relations));
        let (past_cache, scrub) = scrubbing(store);
        Ok(Workers {
            syncs: Worker::on_thread("sync", wake(), sync)?,
            growth: Worker::on_thread("growth", wake(), growth)?,
            scrubs: Worker::on_thread("scrub", wake(), scrub)?,
            past_cache,
        })
    }

    /// By whoever calls the functions that come with them, one job at a time, each of which says
    /// whether there was one; the scrub reads in place. For simulations.
    pub fn by_steps(store: &Store, relations: &Arc<RelationFiles>) -> (Workers, [WorkerStep; 2]) {
        let wake = || store.shared.procs.event(store.slot).clone();
        let sync = sync::work(Arc::clone(relations), store.clock.clone());
        let (syncs, sync_step) = Worker::by_steps(wake(), sync);
        let growth = requests::work(Arc::clone(relations));
        let (growth, growth_step) = Worker::by_steps(wake(), growth);
        let steps: [WorkerStep; 2] = [Box::new(sync_step), Box::new(growth_step)];
        let (past_cache, scrub) = scrubbing(store);
        let workers = Workers {
            syncs,
            growth,
            scrubs: Worker::in_place(scrub),
            past_cache,
        };
        (workers, steps)
    }

    /// By whoever calls the checkpointer's steps: for simulations.
    pub fn in_place(store: &Store, relations: &Arc<RelationFiles>) -> Workers {
        let sync = sync::work(Arc::clone(relations), store.clock.clone());
        let growth = requests::work(Arc::clone(relations));
        let (past_cache, scrub) = scrubbing(store);
        Workers {
            syncs: Worker::in_place(sync),
            growth: Worker::in_place(growth),
            scrubs: Worker::in_place(scrub),
            past_cache,
        }
    }
}

/// What the scrub reads, and the work of its thread.
fn scrubbing(
    store: &Store,
) -> (
    Arc<RelationFiles>,
    impl FnMut(scrub::Chunk) -> scrub::ChunkRead + use<>,
) {
    let past_cache = Arc::new(RelationFiles::past_cache(Arc::clone(&store.storage)));
    let files = store.shared.files.clone();
    let work = scrub::work(Arc::clone(&past_cache), files, store.clock.clone());
    (past_cache, work)
}

/// All that the checkpointer knows. Its steps can be called one by one, without a process.
pub struct Checkpointer {
    store: Store,
    relations: Arc<RelationFiles>,
    flusher: Flusher,
    syncs: Worker<SyncJob, Synced>,
    growth: Worker<FileWork, requests::Grown>,
    scrubs: Worker<scrub::Chunk, scrub::ChunkRead>,
    scrub: scrub::Scrub,
    /// Files whose creation or growth is under way.
    growing: BTreeSet<FileNo>,
    /// `pg_control`, from the handover on.
    control: Option<Control>,
    /// The double-write area, from the handover on; none if pages are written without.
    area: Option<DoubleWrite>,
    /// What is remembered goes here, from the handover on, unless the disk refuses.
    history: Option<HistoryFile>,
    batch: Batch,
    unsynced: Unsynced,
    writeback: Writeback,
    /// Files of which a page was written since their header was.
    touched: BTreeSet<FileNo>,
    /// Files whose headers cannot be read, and when that was last tried, monotonic nanoseconds.
    unreadable: BTreeMap<FileNo, u64>,
    /// Files whose headers may say a number that `pg_control` is yet to have, by an attempt that failed or
    /// that a crash has cut off: only another attempt brings the two together.
    may_be_ahead: BTreeSet<FileNo>,
    /// No file's header says another number than its row in `pg_control` is about to.
    headers_are_settled: bool,
    sync_tally: SyncTally,
    sync_time: sync_time::SyncTime,
    pace: Pace,
    incremental: Incremental,
    cleaning: cleaning::Cleaning,
    latency: latency::Latency,
    brake: brake::Controller,
    brake_reports: brake::Reports,
    /// The full checkpoint under way, as the brake sees it.
    progress: Option<brake::Progress>,
    /// How long recovery would take, as last looked at.
    estimate: Estimate,
    /// Where log-size checkpoints count from: the redo point chosen last.
    redo: Lsn,
    /// The end of the log after the last checkpoint's own record: nothing has happened if it
    /// still ends here. Zero if something was logged while that checkpoint ran.
    idle_lsn: Lsn,
    /// Bytes of log from one redo point to the next, as expected.
    estimate_bytes: u64,
    /// When the last checkpoint began and ended, monotonic nanoseconds.
    began_ns: u64,
    ended_ns: u64,
    /// Attempts that failed since the last that succeeded.
    failures: u32,
    /// Flags of the attempt that failed last, and when it is tried again.
    retry: Option<(Flags, u64)>,
    /// The supply rests until then, after a failure; else 0.
    supply_retry_ns: u64,
    /// The supply was broken off to let other work go on.
    wants_more_supply: bool,
    /// When the next heartbeat is due.
    heartbeat_ns: u64,
    /// When the redo point is to advance during redo; 0 before that is known.
    redo_due_ns: u64,
    /// Sleeps so far: what was looked at before one must be looked at again.
    sleeps: u64,
    outside: Option<turn::Outside>,
}

impl Checkpointer {
    /// A checkpointer that knows nothing yet; `control` comes with the handover.
    pub fn new(store: Store, relations: Arc<RelationFiles>, workers: Workers) -> Checkpointer {
        let flusher = Flusher::new(
            store.shared.wal.clone(),
            Arc::clone(&store.storage),
            store.shared.stats.clone(),
            store.slot,
            store.config.wal_sync_method(),
        );
        let now_ns = store.clock.monotonic_ns();
        let mut new = Checkpointer {
            relations,
            flusher,
            syncs: workers.syncs,
            growth: workers.growth,
            scrubs: workers.scrubs,
            scrub: scrub::Scrub::new(workers.past_cache),
            growing: BTreeSet::new(),
            control: None,
            area: None,
            history: None,
            batch: Batch::default(),
            unsynced: Unsynced::default(),
            writeback: Writeback::default(),
            touched: BTreeSet::new(),
            unreadable: BTreeMap::new(),
            may_be_ahead: BTreeSet::new(),
            headers_are_settled: false,
            sync_tally: SyncTally::default(),
            sync_time: sync_time::SyncTime::default(),
            pace: Pace {
                timeout: Duration::ZERO,
                completion_target: 0.0,
                max_wal_bytes: 0,
                segment_bytes: store.shared.wal.segment_bytes(),
            },
            incremental: Incremental::default(),
            cleaning: cleaning::Cleaning::default(),
            latency: latency::Latency::default(),
            brake: brake::Controller::default(),
            brake_reports: brake::Reports::default(),
            progress: None,
            estimate: Estimate::default(),
            redo: Lsn::ZERO,
            idle_lsn: Lsn::ZERO,
            estimate_bytes: 0,
            began_ns: now_ns,
            ended_ns: now_ns,
            failures: 0,
            retry: None,
            supply_retry_ns: 0,
            wants_more_supply: false,
            heartbeat_ns: 0,
            redo_due_ns: 0,
            sleeps: 0,
            outside: None,
            store,
        };
        new.take_parameters();
        new
    }

    /// Takes up what the configuration says.
    fn take_parameters(&mut self) {
        let config = &self.store.config;
        self.pace.timeout = config.checkpoint_timeout();
        self.pace.completion_target = config.checkpoint_completion_target();
        self.pace.max_wal_bytes = config.max_wal_size_bytes();
        self.writeback.after_bytes = config.checkpoint_flush_after_bytes();
        self.flusher.set_method(config.wal_sync_method());
    }

    fn now_ns(&self) -> u64 {
        self.store.clock.monotonic_ns()
    }

    /// Whether redo is done with the log and records can be inserted.
    fn log_is_written(&self) -> bool {
        self.control.is_some() && self.store.shared.wal.insert_lsn() > Lsn::ZERO
    }

    /// Takes `pg_control` over if startup has handed it over.
    ///
    /// # Errors
    /// When it, or the double-write area, cannot be used.
    fn take_handover(&mut self) -> Result<(), Failure> {
        let handover = self.store.shared.checkpoint.handover();
        let (None, Some(redo_lsn)) = (&self.control, handover) else {
            return Ok(());
        };
        let storage = Arc::clone(&self.store.storage);
        let control = Control::take_over(&*storage)?;
        let newest = control.newest();
        self.area = match self.store.config.torn_page_protection() {
            TornPageProtection::DoubleWrite => Some(self.open_area(&control)?),
            TornPageProtection::Off => None,
        };
        // Startup has said so in its first write.
        let was_clean = newest.state == DbState::InProduction;
        if !was_clean {
            // A checkpoint that the crash cut off may have written headers, also of files that were
            // dropped and are still named; whether redo changes these files or not, the next one brings
            // header and `pg_control` together again.
            self.touched.extend(self.store.shared.files.existing());
            self.may_be_ahead.clone_from(&self.touched);
        }
        self.headers_are_settled = was_clean;
        self.redo = newest.redo_lsn;
        // Not known before redo, which ends by a checkpoint whether anything has happened or not.
        let log_end = self.store.shared.checkpoint.end_of_log();
        self.idle_lsn = log_end.map_or(redo_lsn, |end| end.lsn);
        let (has_area, had_area) = (self.area.is_some(), newest.is_double_written());
        // What it held before counts for nothing: pages may have been written without the area since, and the
        // highest batch have rotted, so that nobody knows of it. Startup has put all in its place that mattered.
        self.scrub.copies_since = self.area.as_ref().map(DoubleWrite::next);
        self.open_history(newest.system_identifier);
        self.control = Some(control);
        let now = self.now();
        let control = self.control.as_mut().expect("just set");
        match (had_area, has_area) {
            (true, false) => control.give_up_double_write(&now),
            (false, true) => control.take_up_double_write(&now, was_clean),
            _ => {}
        }
        Ok(())
    }

    /// Opens the double-write area; one of another size than is asked for, or that cannot be used, is made anew.
    ///
    /// None of its batches is needed any more: before the handover startup has put all that
    /// `pg_control` counts as unsynced back in their places and synced those files. If pages were
    /// written without the area until now, its batches are old ones that `pg_control` does not
    /// count; those to come are behind them all.
    fn open_area(&self, control: &Control) -> Result<DoubleWrite, Failure> {
        let storage = &*self.store.storage;
        let newest = control.newest();
        let bytes = self.store.config.double_write_size_bytes();
        let open = |first| DoubleWrite::open(storage, newest.system_identifier, first);
        doublewrite::remove_unfinished(storage)?;
        let mut first = newest.first_unsynced_batch;
        match open(first) {
            Ok(mut area) => {
                first = area.next();
                area.release_before(first);
                if area.is_sized_for(bytes) {
                    return Ok(area);
                }
                if let Err(error) = doublewrite::replace(storage, bytes) {
                    log::warn!("the double-write area keeps its size: {error}");
                    return Ok(area);
                }
            }
            Err(error) if doublewrite::is_lost(&error) => doublewrite::replace(storage, bytes)?,
            Err(error) => return Err(error.into()),
        }
        // From here on the old one has no name, and nobody would find what it holds.
        storage.sync_dir(GLOBAL_DIR)?;
        Ok(open(first)?)
    }
}
