//! A crash, and what the next start finds, held against the ledger: the log ends at or behind what was
//! promised, the namespaces are those, and hold that, which the commits up to that end make, all trees and lists of free
//! blocks are whole, the keys are counted right, `pg_control` and the files that it names tell one story
//! (`control`), and what is remembered of checkpoints is there (`history`).
//!
//! Recoveries are cut off, too, to a depth: at each of their I/Os the machine may crash once more, and
//! the start after that is held against the same ledger. And now and then the disk harms a start: that
//! one may come to nothing, for the reason that the disk gave; the next one is held against the ledger.

use crate::content::{Content, NAMES, Space, ids_of_all, name_of};
use crate::control;
use crate::doubt;
use crate::harm::{Harm, Subject};
use crate::history::{self, Memory};
use crate::ledger::{Counts, Ledger};
use crate::machine::{End, Failure, Machine, Manner, Orders, RefusedBecause};
use crate::times;
use crate::work::{Backend, ReadError, read_all};
use rd_base::{Lsn, Role};
use rd_engine::verify::{LivePages, verify};
use rd_engine::{Engine, NamespaceId, View};
use rd_format::catalog::CATALOG_FILE;
use rd_store::Store;
use rd_store::control_file::{self, ControlFileError};
use rd_sys::simdisk::{Rng, SimStorage, Unsynced};
use rd_sys::simproc::Pause;
use rd_sys::simsched::Policy;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How deep recoveries are cut off: so many crashes in recoveries, each in the one after the crash
/// before.
pub const DEPTH_MAX: usize = 3;
/// Starts in a row that may say that the log receded.
const STARTS_MAX: u32 = 100;
/// What is remembered is read before one start out of so many: that takes as long as a start does.
const HISTORY_ODDS: u64 = 6;
/// One start out of so many is harmed by the disk.
const HARM_ODDS: u64 = 24;

/// What was done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Crashes that were recovered from and held against the ledger.
    pub crashes: u64,
    /// Of them, those in so many recoveries, one within the other; the first is none.
    pub at_depth: [u64; DEPTH_MAX + 1],
    /// Starts that were harmed by the disk, and those of them that came to nothing.
    pub harmed: u64,
    pub refused: u64,
    /// Crashes after a lie of the disk, by what it was about, and starts after them that named what is
    /// damaged.
    pub lied: [u64; Subject::ALL.len()],
    pub named: [u64; Subject::ALL.len()],
    /// Of them, those that lost the log's last batch.
    pub shortened: u64,
    /// I/Os of the work at which it was crashed.
    pub ios: u64,
    /// What was done of some kinds.
    pub counts: Counts,
    /// A number that tells one run from another: of all that was done on all disks.
    pub trace: u64,
}

impl Tally {
    /// Takes this number up in the trace.
    pub fn note(&mut self, number: u64) {
        self.trace = Rng::new(self.trace ^ number).next_u64();
    }
}

/// The power fails on `disk`, or its processes are killed. It has all its room again.
pub fn crash(disk: &SimStorage, rng: &mut Rng) {
    let seed = rng.next_u64();
    match rng.below(8) {
        0 | 1 => disk.kill(seed),
        2 => disk.crash_as(Unsynced::Lost),
        3 => disk.crash_as(Unsynced::Kept),
        _ => disk.crash(seed),
    }
    disk.set_capacity(None);
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

/// A server that has started.
pub struct Started {
    pub machine: Machine,
    /// Its walwriter was needed already.
    pub has_walwriter: bool,
    /// Where its log ended, or ends since something was written.
    pub end: Lsn,
    /// What is in which namespace.
    pub content: Content,
    /// What must be remembered from then on.
    pub memory: Memory,
    /// What the disk did to it, and may still be on its way.
    pub harm: Harm,
}

/// What a start came to.
enum Start {
    Done(Box<Started>),
    /// The log receded: the next one is to try again.
    Receded,
    /// The disk was in the way; where the log ended, if it came so far.
    Refused(Option<Lsn>),
    /// What the disk has lied about was named, and nothing else can be looked at.
    Damaged,
}

impl Checks<'_> {
    /// Starts the server on `disk`, which has crashed, and holds what it finds against the ledger.
    /// `depth` is the number of recoveries that were crashed in, one within the other.
    ///
    /// # Errors
    /// When something is so that must not be.
    pub fn recover(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        depth: usize,
        rng: &mut Rng,
    ) -> Result<Started, Failure> {
        let started = self.recover_doubted(disk, ledger, depth, rng)?;
        started.ok_or_else(|| Failure("damage is named where no lie was told".to_owned()))
    }

    /// As [`Checks::recover`]; none if what the disk has lied about is named.
    ///
    /// # Errors
    /// When something is so that must not be.
    pub fn recover_doubted(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        depth: usize,
        rng: &mut Rng,
    ) -> Result<Option<Started>, Failure> {
        crate::beat();
        self.tally.crashes += 1;
        self.tally.at_depth[depth] += 1;
        let mut ledger = Cow::Borrowed(ledger);
        let mut harm = Harm::none();
        if rng.below(HARM_ODDS) == 0 && ledger.doubt.is_none() {
            harm = Harm::of_a_start(rng);
            self.tally.harmed += 1;
            if harm.reaches_history() {
                ledger.to_mut().memory.may_have_gaps();
            }
        }
        let was_harmed = !harm.is_none();
        for _ in 0..STARTS_MAX {
            let start = self
                .try_start(disk, &ledger, depth, (&harm, was_harmed), rng)
                .map_err(|Failure(text)| match harm.is_none() {
                    true => Failure(text),
                    false => Failure(format!("{text}\n  in a start with {harm:?}")),
                })?;
            match start {
                Start::Done(started) => return Ok(Some(*started)),
                Start::Damaged => return Ok(None),
                Start::Receded => {}
                Start::Refused(end) => {
                    self.tally.refused += 1;
                    if let Some(end) = end {
                        ledger.to_mut().cut_off(end);
                    }
                    crash(disk, rng);
                }
            }
            disk.clear_injections();
            disk.set_capacity(None);
            harm = Harm::none();
        }
        Err(Failure("the log recedes for ever".to_owned()))
    }

    fn try_start(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        depth: usize,
        (harm, was_harmed): (&Harm, bool),
        rng: &mut Rng,
    ) -> Result<Start, Failure> {
        let manner = &self.manners[rng.below(self.manners.len() as u64) as usize];
        let doubt = ledger.doubt.as_ref();
        let doubts_control = doubt.is_some_and(|doubt| doubt.is_about(Subject::Control));
        let slots = match control_file::read(disk) {
            Ok(slots) => slots,
            Err(ControlFileError::BothDamaged(_)) if doubts_control => {
                let machine = Machine::boot(disk, manner, rng.next_u64());
                return refuses_both_slots(machine).map(|()| Start::Damaged);
            }
            Err(error) => {
                let text = format!("pg_control after a crash: {error}");
                return Err(Failure(text));
            }
        };
        let before = slots.control;
        let stale = ledger.find_stale_file(&before);
        if let Some(text) = stale.filter(|_| !doubts_control) {
            let text = format!("after a checkpoint of one namespace: {text}");
            return Err(Failure(text));
        }
        let remembered = match rng.below(HISTORY_ODDS) {
            0 => Some(ledger.memory.check(disk, &before)?),
            _ => None,
        };
        let doubted = doubt.map(|doubt| (doubt, disk.fork()));
        let is_named = |text: &str| match &doubted {
            Some((doubt, disk)) => doubt.explains(text, disk),
            None => Ok(false),
        };
        let mut machine = Machine::boot(disk, manner, rng.next_u64());
        if doubt.is_some_and(|doubt| doubt.is_about(Subject::Copies)) {
            machine.expect_damage();
        }
        if self.interleaves.is_some_and(|odds| rng.below(odds) == 0) {
            machine.interleave(Policy::draw(rng));
        }
        if !harm.is_none() {
            machine.harm(harm.hides_pages());
            harm.inject(disk, rng);
            harm.fill(disk);
        }
        let mut cuts = Cuts::new(depth, self.whole_odds, rng);
        let recovered = loop {
            if let Some(recovered) = machine.recovered() {
                break recovered;
            }
            let end = match machine.step()? {
                Ok((_, Pause::Io)) => {
                    self.cut(&mut cuts, &machine, ledger, depth, rng)?;
                    continue;
                }
                Ok(_) => continue,
                Err(end) => end,
            };
            match end {
                End::Refused(RefusedBecause::LogReceded) => return Ok(Start::Receded),
                End::Refused(RefusedBecause::Other(text)) | End::Panic(text)
                    if harm.explains(&text) =>
                {
                    let end = machine.shared.checkpoint.end_of_log();
                    return Ok(Start::Refused(end.map(|end| end.lsn)));
                }
                End::Refused(RefusedBecause::Other(text)) => {
                    if is_named(&text)? {
                        return Ok(Start::Damaged);
                    }
                    return Err(Failure(format!("the server does not start: {text}")));
                }
                end => {
                    return Err(Failure(format!("the server falls in recovery: {end:?}")));
                }
            }
        };
        let Ok(recovered) = recovered else {
            return Ok(Start::Receded);
        };
        disk.clear_injections();
        disk.set_capacity(None);
        let end = recovered.end;
        let mut found = ledger.clone();
        if end < ledger.promised() {
            let Some((doubt, disk)) = &doubted else {
                return Err(doubt::recedes(end, ledger));
            };
            let pages_are_ahead = doubt.may_end_at(end, ledger, disk)?;
            self.tally.shortened += 1;
            if pages_are_ahead {
                return Ok(Start::Damaged);
            }
            found.take_back(end);
        }
        found.truncate(end);
        let looked = match self.look(&mut machine, &mut cuts, &found, depth, rng) {
            Err(Failure(text)) if is_named(&text)? => return Ok(Start::Damaged),
            looked => looked?,
        };
        let content = match looked {
            Ok(content) => content,
            // What was under way when the start was done has met the disk as it was.
            Err(End::Panic(text)) if harm.explains(&text) => {
                return Ok(Start::Refused(Some(end)));
            }
            Err(end) => return Err(Failure(format!("after recovery: {end:?}"))),
        };
        if !ledger.allows(&content, end) {
            return Err(Failure(format!(
                "recovery has lost or made something: {}",
                ledger.explain(&content, end)
            )));
        }
        // An attempt that was cut off before its second slot has written nothing else. The first one cannot
        // be read now; or a sync of it failed, and the cache has let go of it since.
        let mut began_with = vec![&before];
        began_with.extend(slots.other.as_ref().ok().filter(|_| was_harmed));
        // Records that a crash has cut off must not pass for those of this start.
        let count = machine.shared.wal.start_count();
        let last = began_with.iter().map(|control| control.start_count).min();
        let last = last.expect("there is one");
        if count <= last {
            return Err(Failure(format!(
                "start {count} follows start {last}: old records could rise again"
            )));
        }
        control::check(&machine, &found, end, harm)?;
        if let Some(remembered) = &remembered {
            history::check_shown(&machine, &found.memory, remembered, &began_with, end)?;
        }
        self.tally.note(end.get());
        let mut has_walwriter = false;
        let (mut end, mut content) = (end, content);
        if content.iter().any(|space| space.is_unread) {
            (end, content) = match bring_online(&mut machine, ledger, end, harm)? {
                Ok(brought) => brought,
                Err(End::Panic(text)) if harm.explains(&text) => {
                    return Ok(Start::Refused(Some(end)));
                }
                Err(end) => return Err(Failure(format!("while coming online: {end:?}"))),
            };
            has_walwriter = true;
        }
        Ok(Start::Done(Box::new(Started {
            machine,
            has_walwriter,
            end,
            content,
            memory: found.memory,
            harm: harm.clone(),
        })))
    }

    /// Reads everything, while the checkpointer does what it does after a recovery.
    fn look(
        &mut self,
        machine: &mut Machine,
        cuts: &mut Cuts,
        ledger: &Ledger,
        depth: usize,
        rng: &mut Rng,
    ) -> Result<Result<Content, End>, Failure> {
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
                Err(end) => return Ok(Err(end)),
            }
        }
        let content = seen.borrow_mut().take();
        let nothing = || Failure("the check came to nothing".to_owned());
        content.map(Ok).ok_or_else(nothing)
    }

    /// Crashes a copy of the machine that is recovering, if it is to be at this I/O.
    fn cut(
        &mut self,
        cuts: &mut Cuts,
        machine: &Machine,
        ledger: &Ledger,
        depth: usize,
        rng: &mut Rng,
    ) -> Result<(), Failure> {
        if !cuts.is_due(rng) {
            return Ok(());
        }
        let fork = machine.disk.fork();
        let io = fork.io_count();
        crash(&fork, rng);
        let mut ledger = ledger.clone();
        ledger.memory.promise(&machine.shared);
        let checked = self.recover_doubted(&fork, &ledger, depth + 1, rng);
        checked.map(drop).map_err(|Failure(text)| {
            Failure(format!("{text}\n  after a crash in recovery, at I/O {io}"))
        })
    }
}

/// Neither slot can be read, and a start says so.
fn refuses_both_slots(mut machine: Machine) -> Result<(), Failure> {
    loop {
        match machine.step()? {
            Ok(_) => {}
            Err(End::Refused(RefusedBecause::Other(text))) if text.contains("both slots of") => {
                return Ok(());
            }
            Err(end) => {
                let text = format!("with both slots of pg_control damaged: {end:?}");
                return Err(Failure(text));
            }
        }
        if machine.is_quiet() {
            let text = "with both slots of pg_control damaged the server starts";
            return Err(Failure(text.to_owned()));
        }
    }
}

/// Brings what is offline online, by which its file is held against `pg_control`, and looks whether it
/// holds what it did when it was left. Gives where the log ends then, and what there is.
fn bring_online(
    machine: &mut Machine,
    ledger: &Ledger,
    end: Lsn,
    harm: &Harm,
) -> Result<Result<(Lsn, Content), End>, Failure> {
    machine.add_walwriter();
    let seen = Rc::new(RefCell::new(None));
    let found = Rc::clone(&seen);
    let mut own = ledger.clone();
    own.truncate(end);
    let backend = Backend {
        number: 0,
        store: machine.store(Role::Backend(0)),
        ledger: Rc::new(RefCell::new(own)),
        orders: Rc::clone(&machine.orders),
        harm: harm.clone(),
    };
    machine.add("opener", false, move || {
        let (store, orders) = (backend.store.clone(), Rc::clone(&backend.orders));
        let end = backend.bring_online();
        *found.borrow_mut() = end.zip(look_at_all(store, &orders));
    });
    while !machine.is_quiet() {
        if let Err(end) = machine.step()? {
            return Ok(Err(end));
        }
    }
    let nothing = || Failure("coming online came to nothing".to_owned());
    let (durable, (before, content)) = match seen.borrow_mut().take() {
        Some(((durable, before), content)) => (durable, (before, content)),
        None => return Err(nothing()),
    };
    let mut was = content.clone();
    for (space, access) in was.iter_mut().zip(before) {
        space.access = access;
    }
    match ledger.allows(&was, end) {
        true => Ok(Ok((durable, content))),
        false => Err(Failure(format!(
            "what comes online is not what was there: {}",
            ledger.explain(&was, end)
        ))),
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
    fn new(depth: usize, whole_odds: u64, rng: &mut Rng) -> Cuts {
        if depth >= DEPTH_MAX {
            return Cuts { odds: 0, left: 0 };
        }
        if depth == 0 && rng.below(whole_odds) == 0 {
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

/// All namespaces, but for what is in those that are offline, and keys that have ended and were not removed
/// with the rest; none, and a failure told, if a tree is not whole.
fn look_at_all(store: Store, orders: &Orders) -> Option<Content> {
    match try_look_at_all(store) {
        Ok(content) => Some(content),
        Err(text) => {
            orders.fail(text);
            None
        }
    }
}

fn try_look_at_all(mut store: Store) -> Result<Content, String> {
    store.clock = times::clock_at(0);
    let engine = Engine::open(store);
    let mut all = Content::default();
    let store = engine.store();
    let namespaces = &store.shared.namespaces;
    let mut files = vec![CATALOG_FILE];
    let ids = ids_of_all(namespaces);
    for (number, space) in all.iter_mut().enumerate() {
        let name = name_of(number);
        let Some(id) = ids[number] else {
            continue;
        };
        let access = namespaces.entry(id).access();
        if access.is_offline() {
            *space = Space {
                access,
                id: Some(id),
                is_unread: true,
                ..Space::of(BTreeMap::new())
            };
            continue;
        }
        let keys = read_all(&engine, id, View::Newest).map_err(|error| match error {
            ReadError::Strange(text) => text,
            ReadError::Engine(error) => format!("namespace {name} cannot be read: {error}"),
        })?;
        let counted = engine.count(id).map(|count| count.result);
        let there = keys.len() as u64;
        if !matches!(counted, Ok(count) if count == there) {
            return Err(format!(
                "namespace {name} has {there} keys, and {counted:?} are counted"
            ));
        }
        files.extend(namespaces.entry(id).file());
        *space = Space {
            access,
            id: Some(id),
            ..Space::of(keys)
        };
    }
    let is_named = |id: &NamespaceId| id.database_number().is_none();
    let named = namespaces
        .list()
        .into_iter()
        .filter(|one| is_named(&one.id));
    let mut others = named.filter(|one| !NAMES.iter().any(|name| name.as_bytes() == one.name));
    if let Some(other) = others.next() {
        return Err(format!("a namespace of nobody: {other:?}"));
    }
    for file in files {
        let report = verify(&LivePages { store, file });
        if !report.is_clean() {
            return Err(format!("file {file}: {:#?}", report.problems));
        }
    }
    // As the end of a process does; the slot is another's then.
    engine.rest();
    Ok(all)
}
