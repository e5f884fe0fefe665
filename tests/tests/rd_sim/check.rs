//! A crash, and what the next start finds, held against the ledger: the log ends at or behind what was
//! promised, the databases are what the commits up to that end make, all trees and lists of free
//! blocks are whole, the keys are counted right, and both slots of `pg_control` tell one story.
//!
//! Recoveries are cut off, too, to a depth: at each of their I/Os the machine may crash once more, and
//! the start after that is held against the same ledger.

use crate::ledger::{Content, Ledger, database};
use crate::machine::{End, Failure, Machine, Manner, Orders, RefusedBecause};
use crate::work::{ReadError, read_all};
use rd_base::{Lsn, Role};
use rd_engine::verify::{LivePages, verify};
use rd_engine::{Engine, View};
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::ControlFile;
use rd_store::{Store, control_file};
use rd_sys::simdisk::{Rng, SimStorage};
use rd_sys::simproc::Pause;
use rd_sys::simsched::Policy;
use std::cell::RefCell;
use std::rc::Rc;

/// How deep recoveries are cut off: a crash, one in its recovery, and one in that.
pub const DEPTH_MAX: u32 = 3;
/// Starts in a row that may say that the log receded.
const STARTS_MAX: u32 = 100;

/// What was done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Crashes that were recovered from and held against the ledger.
    pub crashes: u64,
    /// Of them, in a recovery, and in the recovery of such a one.
    pub in_recovery: u64,
    pub deepest: u64,
    /// I/Os of the work at which it was crashed.
    pub ios: u64,
    /// A number that tells one run from another: of all that was done on all disks.
    pub trace: u64,
}

impl Tally {
    /// Takes this number up in the trace.
    pub fn note(&mut self, number: u64) {
        self.trace = Rng::new(self.trace ^ number).next_u64();
    }
}

/// The power fails on `disk`, or its processes are killed.
pub fn crash(disk: &SimStorage, rng: &mut Rng) {
    let seed = rng.next_u64();
    if rng.below(4) == 0 {
        disk.kill(seed);
    } else {
        disk.crash(seed);
    }
}

/// Checks that are under way, with all that they share.
pub struct Checks<'t> {
    pub manners: &'t [Manner],
    pub tally: &'t mut Tally,
    /// Of recoveries, one in so many is crashed at all its I/Os.
    pub whole_odds: u64,
    /// One of so many is interleaved at its atomics, if any is.
    pub interleaves: Option<u64>,
}

impl Checks<'_> {
    /// Starts the server on `disk`, which has crashed, and holds what it finds against the ledger.
    /// Gives the machine that runs, where its log ended, and what is in the databases.
    ///
    /// # Errors
    /// When something is so that must not be.
    pub fn recover(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        depth: u32,
        rng: &mut Rng,
    ) -> Result<(Machine, Lsn, Content), Failure> {
        crate::beat();
        self.tally.crashes += 1;
        self.tally.in_recovery += u64::from(depth > 1);
        self.tally.deepest += u64::from(depth >= DEPTH_MAX);
        for _ in 0..STARTS_MAX {
            if let Some(started) = self.try_start(disk, ledger, depth, rng)? {
                return Ok(started);
            }
        }
        Err(Failure("the log recedes for ever".to_owned()))
    }

    /// One start; none if the log receded.
    fn try_start(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        depth: u32,
        rng: &mut Rng,
    ) -> Result<Option<(Machine, Lsn, Content)>, Failure> {
        let manner = &self.manners[rng.below(self.manners.len() as u64) as usize];
        let before = control_file::read(disk)
            .map_err(|error| Failure(format!("pg_control after a crash: {error}")))?;
        let mut machine = Machine::boot(disk, manner, rng.next_u64());
        if self.interleaves.is_some_and(|odds| rng.below(odds) == 0) {
            machine.interleave(Policy::draw(rng));
        }
        let mut cuts = Cuts::new(depth, self.whole_odds, rng);
        let recovered = loop {
            if let Some(recovered) = machine.recovered() {
                break recovered;
            }
            match machine.step()? {
                Ok((_, Pause::Io)) => self.cut(&mut cuts, &machine, ledger, depth, rng)?,
                Ok(_) => {}
                Err(End::Refused(RefusedBecause::LogReceded)) => return Ok(None),
                Err(End::Refused(RefusedBecause::Other(text))) => {
                    return Err(Failure(format!("the server does not start: {text}")));
                }
                Err(end) => {
                    return Err(Failure(format!("the server falls in recovery: {end:?}")));
                }
            }
        };
        let end = match recovered {
            Ok(recovered) => recovered.end,
            Err(_) => return Ok(None),
        };
        if end < ledger.promised() {
            let promised = ledger.promised();
            return Err(Failure(format!(
                "the log ends at {end}, and was promised to last to {promised}"
            )));
        }
        let mut found = ledger.clone();
        found.truncate(end);
        let content = self.look(&mut machine, &mut cuts, &found, depth, rng)?;
        if !ledger.allows(&content, end) {
            return Err(Failure(format!(
                "recovery has lost or made something: {}",
                ledger.explain(&content, end)
            )));
        }
        // Records that a crash has cut off must not pass for those of this start.
        let (count, last) = (machine.shared.wal.start_count(), before.control.start_count);
        if count <= last {
            return Err(Failure(format!(
                "start {count} follows start {last}: old records could rise again"
            )));
        }
        check_control(&machine, end)?;
        self.tally.note(end.get());
        Ok(Some((machine, end, content)))
    }

    /// Reads everything, while the checkpointer does what it does after a recovery.
    fn look(
        &mut self,
        machine: &mut Machine,
        cuts: &mut Cuts,
        ledger: &Ledger,
        depth: u32,
        rng: &mut Rng,
    ) -> Result<Content, Failure> {
        let seen = Rc::new(RefCell::new(None));
        let (found, orders) = (Rc::clone(&seen), Rc::clone(&machine.orders));
        let store = machine.store(Role::Backend(0));
        machine.add("checker", false, move || {
            *found.borrow_mut() = look_at_all(store, &orders);
        });
        // Now and then the end-of-recovery checkpoint comes to its end, too.
        let mut more = if rng.below(4) == 0 { 400 } else { 0 };
        while !machine.is_quiet() || more > 0 {
            if machine.is_quiet() {
                more -= 1;
            }
            match machine.step()? {
                Ok((_, Pause::Io)) => self.cut(cuts, machine, ledger, depth, rng)?,
                Ok(_) => {}
                Err(end) => return Err(Failure(format!("after recovery: {end:?}"))),
            }
        }
        let content = seen.borrow_mut().take();
        content.ok_or_else(|| Failure("the check came to nothing".to_owned()))
    }

    /// Crashes a copy of the machine that is recovering, if it is to be at this I/O.
    fn cut(
        &mut self,
        cuts: &mut Cuts,
        machine: &Machine,
        ledger: &Ledger,
        depth: u32,
        rng: &mut Rng,
    ) -> Result<(), Failure> {
        if !cuts.is_due(rng) {
            return Ok(());
        }
        let fork = machine.disk.fork();
        let io = fork.io_count();
        crash(&fork, rng);
        let checked = self.recover(&fork, ledger, depth + 1, rng);
        checked.map(drop).map_err(|Failure(text)| {
            Failure(format!("{text}\n  after a crash in recovery, at I/O {io}"))
        })
    }
}

/// At which I/Os of a recovery it is crashed.
struct Cuts {
    /// One I/O out of so many; 0 is none.
    odds: u64,
    /// So many at most.
    left: u32,
}

impl Cuts {
    fn new(depth: u32, whole_odds: u64, rng: &mut Rng) -> Cuts {
        if depth >= DEPTH_MAX {
            return Cuts { odds: 0, left: 0 };
        }
        if depth == 1 && rng.below(whole_odds) == 0 {
            return Cuts {
                odds: 1,
                left: u32::MAX,
            };
        }
        // About half of all recoveries are cut off once.
        Cuts {
            odds: 8 << rng.below(4),
            left: u32::from(rng.half()),
        }
    }

    fn is_due(&mut self, rng: &mut Rng) -> bool {
        let is_due = self.left > 0 && self.odds > 0 && rng.below(self.odds) == 0;
        self.left -= u32::from(is_due);
        is_due
    }
}

/// All databases; none, and a failure told, if a tree is not whole.
fn look_at_all(store: Store, orders: &Orders) -> Option<Content> {
    let engine = Engine::open(store);
    let mut all = Content::default();
    let store = engine.store();
    let mut files = vec![CATALOG_FILE];
    for (number, content) in all.iter_mut().enumerate() {
        match read_all(&engine, number, View::Newest) {
            Ok(read) => *content = read,
            Err(ReadError::Strange(text)) => {
                orders.fail(text);
                return None;
            }
            Err(ReadError::Engine(error)) => {
                orders.fail(format!("database {number} cannot be read: {error}"));
                return None;
            }
        }
        let counted = engine.count(database(number)).map(|count| count.result);
        let there = content.len() as u64;
        if !matches!(counted, Ok(count) if count == there) {
            orders.fail(format!(
                "database {number} has {there} keys, and {counted:?} are counted"
            ));
            return None;
        }
        files.extend(store.shared.namespaces.entry(database(number)).file());
    }
    for file in files {
        let report = verify(&LivePages { store, file });
        if !report.is_clean() {
            orders.fail(format!("file {file}: {:#?}", report.problems));
            return None;
        }
    }
    Some(all)
}

/// Both slots of `pg_control`, as they are on disk after a start whose log ended at `end`.
fn check_control(machine: &Machine, end: Lsn) -> Result<(), Failure> {
    let wrong = |text: String| Failure(format!("pg_control: {text}"));
    // A write of one slot may be under way, so the other one may be invalid for a moment.
    let chosen = control_file::read(&machine.disk).map_err(|error| wrong(error.to_string()))?;
    let check = |control: &ControlFile| {
        let is_one_story = control.redo_lsn <= control.durable_lsn.max(end)
            && control.previous_redo_lsn <= control.redo_lsn
            && control.checkpoint_lsn <= machine.shared.wal.insert_lsn();
        if is_one_story {
            Ok(())
        } else {
            Err(wrong(format!("it tells no one story: {control:?}")))
        }
    };
    check(&chosen.control)?;
    chosen.other.as_ref().map_or(Ok(()), check)
}
