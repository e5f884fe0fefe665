//! Start-up: from what lies on disk to trees that can be served.
//!
//! [`recover`] is what the startup process does, once, before the first client:
//!
//! 1. Read `pg_control`, the newer slot if it can be read, else the older, and make that slot
//!    durable. Make the names in `base/` and `global/` durable: whoever made them may have died
//!    before he could.
//! 2. After a clean stop: hold every relation file's header against it, take the log up where it
//!    ends, and be done. No log is read.
//! 3. Else raise the start count in both slots: no record of this start may pass for one of the
//!    last.
//! 4. Repair torn pages, and write back what the kernel may have lost, from the double-write area
//!    ([`DoubleWrite::repair`]). Hold the files' headers against `pg_control` (`files.rs`).
//! 5. Hand `pg_control` over to the checkpointer.
//! 6. Read the log to its end, and redo what is proved durable on the way (`redo.rs`). Damage below
//!    the highest LSN that is known to have been durable stops the start; a torn tail ends the log.
//!    Write the tail that is not proved durable again, and redo that too. That redo comes to the end
//!    that was found proves that what was written again is what was found.
//! 7. Take the log up at its end and read the namespaces from the catalog. Drop the files that belong to
//!    none of them, and those that were made and never used (`files.rs`).
//!
//! Invariants:
//! * Nothing is inserted into the log, and no page is changed in memory, before step 6.
//! * Every step can be cut off anywhere and begun again: each writes only what is so already, or
//!   what the log says.
//! * What a crash cannot explain stops the start by name; nothing is skipped in silence.

mod ahead;
mod batch;
mod crew;
mod error;
mod files;
mod redo;
mod worker;

pub use error::RecoveryError;

use crate::namespace;
use files::{Stamp, Torn};
use rd_base::civil::Utc;
use rd_base::counters::Counter;
use rd_base::words::EndOfRecoveryCheckpoint;
use rd_base::{Lsn, Role, StartCount};
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::{ControlFile, DbState, PROTECTION_BYPASSED};
use rd_store::Store;
use rd_store::checkpoint::{EndOfLog, Flags, Request, Ticket, TicketState};
use rd_store::control_file::{ControlStore, GLOBAL_DIR};
use rd_store::doublewrite::{self, DOUBLEWRITE_PATH, DoubleWrite};
use rd_store::history::RecoveryRow;
use rd_store::recovery_time::{RedoWork, Speeds, start_us};
use rd_store::relation::{RelationFiles, path};
use rd_store::shared::Phase;
use rd_store::wal::WalStart;
use rd_store::wal::read::ReadFrom;
use rd_sys::fault::{self, Fault};
use redo::Known;
use std::sync::Arc;
use std::time::Duration;

/// How often whoever waits in a start looks whether the server is to stop.
pub const STOP_LOOK: Duration = Duration::from_millis(100);

/// What the startup process is told while it works.
pub trait Watcher {
    /// The phase or the progress in shared memory has changed.
    fn progress(&mut self);
    /// Whether the server is to stop. A process ends in here if it is: on the way back redo's threads are
    /// waited for, which may wait for frames that the checkpointer cannot clean.
    fn must_stop(&mut self) -> bool;
    /// Who redoes pages.
    fn redo_hands(&mut self) -> RedoHands {
        RedoHands::Threads(0)
    }
}

/// Who redoes what the reader of the log has read.
pub enum RedoHands {
    /// So many threads beside the reader; with none, it does that itself.
    Threads(usize),
    /// Workers that a simulation steps.
    Steps(RedoSteps),
}

impl RedoHands {
    /// How many there are beside the reader.
    fn count(&self) -> usize {
        match self {
            RedoHands::Threads(threads) => *threads,
            RedoHands::Steps(steps) => steps.workers,
        }
    }
}

/// Workers without threads, so that a seed can decide how far each is ahead of the others.
pub struct RedoSteps {
    /// How many, at least 1.
    pub workers: usize,
    /// Bytes of records in a batch, above which it is given to them: small ones, that a small log is several.
    pub batch_bytes: usize,
    /// A number below the one that it is given: whose part is done next. Where the last is chosen it may be
    /// that none is yet.
    pub choose: Box<dyn FnMut(usize) -> usize>,
}

/// What a start came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Where the log goes on.
    pub end: Lsn,
    /// What redo did; none after a clean stop.
    pub redo: Option<RedoSummary>,
}

/// What redo did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedoSummary {
    /// Records read.
    pub records: u64,
    /// Pages changed, each counted once for each record that changed it.
    pub pages_changed: u64,
    /// Pages that held a record's change already.
    pub pages_skipped: u64,
}

/// Brings the server to where it can serve.
///
/// # Errors
/// Says what is damaged, where, and what to look at it with. Nothing has been changed then but by
/// steps that another start repeats.
pub fn recover(store: &Store, watcher: &mut dyn Watcher) -> Result<Recovered, RecoveryError> {
    let slots = ControlStore::open(&*store.storage)?;
    store.relations.sync_dir();
    store.storage.sync_dir(GLOBAL_DIR)?;
    match slots.newest().state {
        DbState::ShutDown => open_clean(store, slots),
        _ => open_crashed(store, slots, watcher),
    }
}

/// Step 2.
fn open_clean(store: &Store, mut slots: ControlStore) -> Result<Recovered, RecoveryError> {
    let mut control = slots.newest().clone();
    let shut_down_at = utc(control.written_us);
    log::info!("the server was shut down at {shut_down_at:#}");
    files::check(store, &control, Torn::IsDamage)?;
    let end = control.durable_lsn;
    if control.is_double_written() {
        let first = control.first_unsynced_batch;
        match DoubleWrite::open(&*store.storage, control.system_identifier, first) {
            Ok(_) => {}
            Err(error) if doublewrite::is_lost(&error) => {
                log::warn!("the double-write area cannot be used, and nothing needs it: {error}");
                // By the same write: a start after this one, should it be cut off, has no copies to look for.
                control.protection = 0;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let control = begin_start(store, &mut slots, control, DbState::InProduction)?;
    files::load(store, &control)?;
    found_end(store, end, control.durable_predecessor_count);
    hand_over(store, &control);
    take_up_log(store, &control, end)?;
    finish(store, end, control.redo_lsn)?;
    Ok(Recovered { end, redo: None })
}

/// Steps 3 to 7 after anything but a clean stop.
fn open_crashed(
    store: &Store,
    mut slots: ControlStore,
    watcher: &mut dyn Watcher,
) -> Result<Recovered, RecoveryError> {
    fault::point(Fault::RecoveryBegun)?;
    let mut control = slots.newest().clone();
    let last_known = utc(control.written_us);
    log::info!(
        "the server was not shut down in order ({}); it was last known up at {last_known:#}",
        control.state.name(),
    );
    if control.unfinished_starts > 0 {
        log::warn!(
            "{} starts before this one did not finish",
            control.unfinished_starts
        );
    }
    store.shared.set_phase(Phase::Repairing);
    watcher.progress();
    control.unfinished_starts += 1;
    let found = control.state;
    let mut control = begin_start(store, &mut slots, control, DbState::InCrashRecovery)?;
    // As it went down, which tells how far headers may be ahead.
    files::check(store, &control, Torn::IsPassedOver)?;
    let repaired = repair(store, &control)?;
    if repaired.bad_reads > 0 {
        // The redo point may advance before this start is cut off: the next one is not to take the
        // pages for proved because no copy is missing behind it.
        control.protection |= PROTECTION_BYPASSED;
        slots.write_both(control, store.clock.wall_us())?;
        control = slots.newest().clone();
    }
    let stamp = files::check(store, &control, Torn::IsDamage)?;
    let log_began_ns = store.clock.monotonic_ns();
    files::load(store, &control)?;
    hand_over(store, &control);
    store.shared.set_phase(Phase::Redo);
    watcher.progress();
    // What is in the kernel's cache may not be on disk. Where the double-write area had no copy to
    // write back, whatever the log names is written again.
    let pages = if control.has_all_copies() {
        redo::Pages::Repaired
    } else {
        redo::Pages::Unproved
    };
    let known = known(&control, repaired.newest_copy, &stamp);
    let hands = watcher.redo_hands();
    let workers = hands.count();
    let from = read_from(store, &control);
    let (end, redo) = redo::redo(store, from, &known, pages, hands, watcher)?;
    found_end(store, end.lsn, end.start_count);
    let redo_us = (store.clock.monotonic_ns() - log_began_ns) / 1000;
    take_up_log(store, &control, end.lsn)?;
    finish(store, end.lsn, end.lsn)?;
    let row = RecoveryRow {
        state: found as u32,
        workers: workers as u32,
        torn_pages: repaired.torn,
        records: redo.records,
        pages_changed: redo.pages_changed,
        pages_skipped: redo.pages_skipped,
        redo_us,
        ..measure(store, &control, end.lsn)
    };
    report(store, &row);
    let flags = Flags::END_OF_RECOVERY | Flags::IMMEDIATE;
    let target = store.shared.wal.insert_lsn();
    let request = Request::of_process(flags, target, Role::Startup, "end of recovery");
    let ticket = store
        .shared
        .checkpoint
        .request(&store.shared.procs, &request);
    if store.config.end_of_recovery_checkpoint() == EndOfRecoveryCheckpoint::BeforeOpen {
        await_checkpoint(store, &ticket, watcher)?;
    }
    fault::point(Fault::RecoveryDone)?;
    Ok(Recovered {
        end: end.lsn,
        redo: Some(redo),
    })
}

/// Waits for the checkpoint at the end of recovery. An attempt that has failed is made again by the
/// checkpointer, as any is, until there were so many that an open server would refuse writes.
fn await_checkpoint(
    store: &Store,
    ticket: &Ticket,
    watcher: &mut dyn Watcher,
) -> Result<(), RecoveryError> {
    let checkpoint = &store.shared.checkpoint;
    loop {
        match checkpoint.wait_for_attempt(ticket, STOP_LOOK) {
            TicketState::Done => return Ok(()),
            TicketState::Failed(reason) if checkpoint.refuses_writes() => {
                let failures = checkpoint.failed();
                return Err(RecoveryError::Checkpoint { failures, reason });
            }
            TicketState::Failed(_) | TicketState::Pending => {}
        }
        if watcher.must_stop() {
            return Err(RecoveryError::Stopped);
        }
    }
}

fn utc(us: u64) -> Utc {
    Utc::since_epoch(Duration::from_micros(us))
}

/// Raises the start count and says what is going on, in both slots.
fn begin_start(
    store: &Store,
    slots: &mut ControlStore,
    mut control: ControlFile,
    state: DbState,
) -> Result<ControlFile, RecoveryError> {
    control.start_count = StartCount::new(control.start_count.get() + 1);
    control.state = state;
    control.max_connections = store.config.max_connections();
    control.backends = store.config.backends();
    slots.write_both(control, store.clock.wall_us())?;
    Ok(slots.newest().clone())
}

/// What the double-write area had to give.
#[derive(Default)]
struct Repaired {
    /// The highest page LSN among the copies.
    newest_copy: Lsn,
    /// Torn pages that were mended.
    torn: u32,
    /// Reads of the area that met a bad sector.
    bad_reads: u64,
}

/// Step 4's first half.
fn repair(store: &Store, control: &ControlFile) -> Result<Repaired, RecoveryError> {
    if !control.is_double_written() {
        return Ok(Repaired::default());
    }
    let first = control.first_unsynced_batch;
    let area = DoubleWrite::open(&*store.storage, control.system_identifier, first)?;
    // For this step alone the startup process writes relation files: nobody else does yet.
    let relations = RelationFiles::writer(Arc::clone(&store.storage));
    let repair = area.repair(&relations, first, |file| control.closed_for(file))?;
    for tag in &repair.torn {
        log::warn!("{tag} was torn or damaged; mended from the double-write area");
    }
    if repair.bad_reads > 0 {
        // Pages whose copies cannot be read may be in the kernel's cache only, and no copy will be left of
        // them for a loss of power.
        for row in control.files.iter().filter(|row| !row.access.is_offline()) {
            if let Some(blocks) = relations.blocks_on_disk(row.file)? {
                relations.sync_growth(row.file, 0, blocks)?;
            }
        }
        log::warn!(
            "{} reads of \"{DOUBLEWRITE_PATH}\" met a bad sector: no copies are taken from there, and \
             a torn page that cannot be redone will be named",
            repair.bad_reads
        );
    }
    log::info!(
        "{} of {} pages in the double-write area written back, {} of them torn",
        repair.written,
        repair.copies,
        repair.torn.len(),
    );
    Ok(Repaired {
        newest_copy: repair.newest_lsn,
        torn: repair.torn.len() as u32,
        bad_reads: repair.bad_reads,
    })
}

fn read_from(store: &Store, control: &ControlFile) -> ReadFrom {
    ReadFrom {
        lsn: control.redo_lsn,
        timeline: control.timeline,
        segment_bytes: store.shared.sizes.wal_segment_bytes,
        system_id: control.system_identifier,
        start_count: control.redo_predecessor_count,
    }
}

/// What is known of the log before it is read. `newest_copy` is the highest page LSN in the
/// double-write area, `stamp` the highest in the headers of the files.
fn known<'k>(control: &ControlFile, newest_copy: Lsn, stamp: &'k Stamp) -> Known<'k> {
    let witnesses = [
        (stamp.scn, stamp.whose.as_str()),
        (newest_copy, "a page in the double-write area"),
        (control.durable_lsn, "\"global/pg_control\""),
    ];
    // Of several that say the same, the last.
    let newest = witnesses.into_iter().max_by_key(|(lsn, _)| *lsn);
    let (promised, witness) = newest.expect("there are three");
    Known {
        durable: control.durable_lsn,
        promised,
        witness,
        // This one counts already.
        is_repeated: control.unfinished_starts > 1,
    }
}

/// From here on the checkpointer alone writes `pg_control`.
fn hand_over(store: &Store, control: &ControlFile) {
    let checkpoint = &store.shared.checkpoint;
    // By startup, because clients may ask for it before the checkpointer has taken over.
    checkpoint.publish(control.redo_lsn, control.checkpoint_us);
    checkpoint.hand_over(&store.shared.procs, control.redo_lsn);
}

/// Tells the checkpointer where the log ends; `last_count` is the start count of its last record.
fn found_end(store: &Store, lsn: Lsn, last_count: StartCount) {
    let end = EndOfLog { lsn, last_count };
    store.shared.checkpoint.set_end_of_log(&end);
}

/// Step 7's first half: from here on records can be inserted.
fn take_up_log(store: &Store, control: &ControlFile, end: Lsn) -> Result<(), RecoveryError> {
    let start = WalStart {
        end,
        timeline: control.timeline,
        start_count: control.start_count,
        system_id: control.system_identifier,
    };
    Ok(store.shared.wal.start_at(&store.storage, &start)?)
}

/// Holds the time that recovery took against what was expected; what redo itself counts is left out.
fn measure(store: &Store, control: &ControlFile, end: Lsn) -> RecoveryRow {
    let redo_bytes = end.bytes_since(control.redo_lsn);
    let expected = RedoWork::expected(control, redo_bytes);
    let (began_us, ended_us) = (store.shared.made_at_us(), store.clock.wall_us());
    let begin = (began_us, store.shared.made_at_ns());
    let end_now = (ended_us, store.clock.monotonic_ns());
    RecoveryRow {
        number: 0,
        state: 0,
        unfinished_starts: control.unfinished_starts - 1,
        began_us,
        ended_us,
        predicted_us: Speeds::of(control).estimate_us(expected),
        actual_us: start_us(begin, end_now),
        redo_us: 0,
        redo_lsn: control.redo_lsn,
        end_lsn: end,
        redo_bytes,
        records: 0,
        pages_changed: 0,
        pages_skipped: 0,
        pages_read: store.shared.stats.get(Counter::PagesRead),
        workers: 0,
        torn_pages: 0,
    }
}

/// Tells people, and the checkpointer for the next estimate, what recovery was.
fn report(store: &Store, row: &RecoveryRow) {
    log::info!(
        "recovery took {:.3} s, {:.3} s of it for {} kB of log; {:.3} s were expected",
        row.actual_us as f64 / 1e6,
        row.redo_us as f64 / 1e6,
        row.redo_bytes / 1024,
        row.predicted_us as f64 / 1e6,
    );
    let shared = &store.shared;
    shared.checkpoint.report_recovery(&shared.procs, row);
}

/// Step 7's second half. What was never used is removed when the redo point has come to `settled`.
fn finish(store: &Store, end: Lsn, settled: Lsn) -> Result<(), RecoveryError> {
    let files = &store.shared.files;
    let unknown = |whose, file| {
        Err(RecoveryError::FileUnknown {
            whose,
            path: path(file, 0),
        })
    };
    if !files.exists(CATALOG_FILE) {
        return unknown("the catalog of namespaces".to_owned(), CATALOG_FILE);
    }
    let named = namespace::load_namespaces(store)?;
    // Before anything is dropped, and before a client writes to it.
    if let Some(file) = named.iter().find(|file| !files.exists(**file)) {
        let name = namespace::name_of(store, *file).unwrap_or_default();
        return unknown(format!("namespace {}", name.escape_ascii()), *file);
    }
    files::drop_unnamed(store, &named, end);
    files::drop_unborn(store, &named, settled)?;
    namespace::access::settle_files(store);
    store.shared.set_phase(Phase::Running);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::redo::tests::{Unwatched, startup};
    use super::*;
    use rd_base::PageTag;
    use rd_base::limits::PAGE_BYTES;
    use rd_format::bitmap::META_BLOCK;
    use rd_format::meta::{self, Meta};
    use rd_format::page;
    use rd_store::control_file;
    use rd_sys::simdisk::{Injection, IoKind, SimStorage};
    use rd_sys::storage::{OpenMode, Storage};

    /// Makes `pg_control` that of a server that fell.
    fn was_running(disk: &SimStorage) -> ControlFile {
        let mut slots = ControlStore::open(disk).expect("valid");
        let running = ControlFile {
            state: DbState::InProduction,
            ..slots.newest().clone()
        };
        slots.write_both(running, 1).expect("a good disk");
        slots.newest().clone()
    }

    /// Whose copy of a page lay on a bad sector is not known, nor whether it was needed: until the redo
    /// point of this start's end, no start takes pages for proved.
    #[test]
    fn a_bad_sector_among_the_copies_is_remembered_over_a_start_that_is_cut_off() {
        for is_bad in [false, true] {
            let (store, disk) = startup();
            was_running(&disk);
            if is_bad {
                disk.inject(Injection {
                    kind: IoKind::Read,
                    path_contains: DOUBLEWRITE_PATH.to_owned(),
                    skip: 1,
                    times: 1,
                    errno: 5,
                });
            }
            recover(&store, &mut Unwatched).expect("nothing was lost");
            let control = control_file::read(&disk).expect("valid").control;
            assert_eq!(control.has_all_copies(), !is_bad);
        }
    }

    /// A checkpoint of one file was cut off when the header was stamped, and the log before that has rotted:
    /// redo would pass over all that is written to the file up to there from now on.
    #[test]
    fn a_header_that_is_ahead_of_the_log_stops_the_start() {
        let (store, disk) = startup();
        let control = was_running(&disk);
        let relations = RelationFiles::writer(Arc::new(disk.clone()));
        let tag = PageTag::new(CATALOG_FILE, META_BLOCK);
        let mut page = [0; PAGE_BYTES];
        relations.read_page(tag, &mut page).expect("a new file");
        let ahead = Meta {
            checkpoint_count: control.checkpoint_count + 1,
            checkpoint_scn: Lsn::new(control.durable_lsn.get() + 80),
            ..meta::read(&page)
        };
        meta::write(&mut page, &ahead);
        page::seal(&mut page, tag);
        relations.write_page(tag, &page).expect("room");
        let error = recover(&store, &mut Unwatched).expect_err("log is missing");
        let text = error.to_string();
        assert!(
            text.contains("the header of \"base/1\" says that it was durable up to"),
            "{text}"
        );
    }

    /// The area was lost, or all but its beginning, while the server was stopped, and the start is cut off
    /// wherever that can be.
    #[test]
    fn an_area_that_is_lost_after_a_clean_stop_is_looked_for_by_no_start() {
        for (crash_at, leaves) in (1..).flat_map(|at| [(at, None), (at, Some(5000))]) {
            let (store, disk) = startup();
            disk.remove(DOUBLEWRITE_PATH)
                .and_then(|()| disk.sync_dir(GLOBAL_DIR))
                .expect("a good disk");
            if let Some(bytes) = leaves {
                let rest = disk.open(DOUBLEWRITE_PATH, OpenMode::CreateNew);
                rest.and_then(|rest| rest.allocate(0, bytes)).expect("room");
            }
            disk.crash_at(Some(disk.io_count() + crash_at));
            let start = || recover(&store, &mut Unwatched).is_ok();
            let is_done = rd_sys::crash::catch_panics(start) == Ok(true);
            disk.crash(crash_at);
            let (again, _) = startup();
            let again = Store {
                storage: Arc::new(disk.mount()),
                ..again
            };
            recover(&again, &mut Unwatched).unwrap_or_else(|error| panic!("{crash_at}: {error}"));
            if is_done {
                assert!(crash_at > 4);
                break;
            }
        }
    }
}
