//! What a seed makes: a few lives of a server on one disk, each with several backends, a fault now
//! and then, and an end; and the crashes at every I/O of each.

use crate::check::{Checks, Tally, crash};
use crate::control;
use crate::harm::{Harm, Subject, When};
use crate::ledger::Ledger;
use crate::machine::{End, Failure, Machine, Manner, SEGMENT_BYTES};
use crate::times;
use crate::work::{About, Backend};
use rd_base::limits::PAGE_BYTES;
use rd_base::{Config, Role};
use rd_engine::init::{InitOptions, init_storage};
use rd_sys::simdisk::{Rng, SimStorage, Unsynced};
use rd_sys::simproc::Pause;
use rd_sys::simsched::Policy;
use rd_sys::storage::Storage;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// How much is done for a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Lives of the server.
    pub lives: u64,
    /// Operations of each backend, at most.
    pub ops: u64,
    /// Crashes at each I/O, each with another outcome of what was not synced, beside the two that are
    /// always looked at: all of it is kept, or lost.
    pub variants: u64,
    /// Processes are interleaved at their atomics, and not at I/Os and waits alone. Then not every
    /// I/O is crashed at, but one out of [`CRASH_ODDS`].
    pub interleaves: bool,
    /// Each plan ends with a life whose disk lies, and not one out of [`LIAR_ODDS`] alone.
    pub lies: bool,
}

/// What the server's files say whose they are.
pub const SYSTEM_IDENTIFIER: u64 = 99;

/// Of a life that is interleaved at its atomics, one I/O out of so many is crashed at.
const CRASH_ODDS: u64 = 12;
/// Likewise, one recovery out of so many is interleaved so.
const INTERLEAVED_RECOVERY_ODDS: u64 = 16;

/// Of plans, one out of so many ends with a life whose disk lies.
const LIAR_ODDS: u64 = 6;
/// One plan of so many is for the most part about the files of namespaces: closing, opening, checkpoints.
const FILES_ODDS: u64 = 5;
/// Likewise, of the others, about keys that end; and, of the others again, about the names of namespaces.
const TIMES_ODDS: u64 = 4;
const NAMES_ODDS: u64 = 6;

/// One life of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Life {
    /// No other life of the plan has this one.
    pub seed: u64,
    /// The seeds of each backend's operations.
    pub backends: Vec<Vec<u64>>,
    pub harm: Harm,
    /// The server is stopped in order, if nothing ends it before.
    pub stops: bool,
    /// The pause at which it ends, unless it is stopped; when all is done, if it has fewer.
    end_after: u64,
}

/// All that a seed decides.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub lives: Vec<Life>,
    manners: Vec<Manner>,
    /// Whether the disk writes whole pages or none, which needs no double writes.
    is_atomic: bool,
    pub size: Size,
}

fn config(protection: &str, method: &str, size: &str, scrubs: bool) -> Arc<Config> {
    let pairs = [
        ("double_write_size", size),
        ("checkpoint_timeout", "30s"),
        ("checkpoint_heartbeat", "1s"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "1GB"),
        ("recovery_time_target", "1s"),
        ("torn_page_protection", protection),
        ("wal_sync_method", method),
        ("scrub_rate", if scrubs { "1GB" } else { "0" }),
        ("scrub_interval", "20s"),
    ];
    let config = Config::from_pairs(&pairs).expect("valid");
    Arc::new(config.with_wal_segment_size(SEGMENT_BYTES).expect("valid"))
}

impl Plan {
    /// What `seed` decides.
    pub fn new(seed: u64, size: Size) -> Plan {
        let mut rng = Rng::new(seed);
        let is_atomic = rng.below(4) == 0;
        let protections: &[&str] = match (is_atomic, rng.half()) {
            (false, _) => &["double_write"],
            (true, true) => &["off"],
            (true, false) => &["off", "double_write"],
        };
        let methods = ["fdatasync", "open_datasync", "fsync", "open_sync"];
        let manner = |rng: &mut Rng| {
            let protection = protections[rng.below(protections.len() as u64) as usize];
            let method = methods[rng.below(4) as usize];
            // Making the area anew takes longer than all else of a start.
            let size = if rng.below(24) == 0 { "9MB" } else { "8MB" };
            Manner {
                config: config(protection, method, size, seed % 3 == 1),
                tick_ns: [0, 2_000_000, 50_000_000, 400_000_000][rng.below(4) as usize],
                switch_odds: [1, 2, 4, 12][rng.below(4) as usize],
            }
        };
        let manners = (0..3).map(|_| manner(&mut rng)).collect();
        // Now and then so much work that the redo point follows it, and old log is given up.
        let ops = if rng.below(4) == 0 {
            4 * size.ops
        } else {
            size.ops
        };
        let mut lives: Vec<Life> = (0..size.lives)
            .map(|_| {
                let backends = (0..1 + rng.below(4))
                    .map(|_| {
                        let count = 1 + rng.below(ops);
                        (0..count).map(|_| rng.next_u64()).collect()
                    })
                    .collect();
                let harm = Harm::of_a_life(&mut rng);
                Life {
                    seed: rng.next_u64(),
                    backends,
                    stops: harm.when == When::Stop || rng.below(3) == 0,
                    harm,
                    end_after: 1 + rng.below(2_000),
                }
            })
            .collect();
        let lies = rng.below(LIAR_ODDS) == 0 || size.lies;
        if lies && let Some(last) = lives.last_mut() {
            last.harm = Harm::of_a_liar(&mut rng);
        }
        Plan {
            seed,
            lives,
            manners,
            is_atomic,
            size,
        }
    }

    fn about(&self) -> About {
        match self.seed {
            seed if seed.is_multiple_of(FILES_ODDS) => About::Files,
            seed if seed % TIMES_ODDS == 1 => About::Times,
            seed if seed % NAMES_ODDS == 2 => About::Names,
            _ => About::All,
        }
    }

    /// Operations of all lives.
    pub fn ops(&self) -> usize {
        let lives = self.lives.iter();
        lives.flat_map(|life| &life.backends).map(Vec::len).sum()
    }

    /// Carries it out.
    ///
    /// # Errors
    /// When something is so that must not be.
    pub fn run(&self, tally: &mut Tally) -> Result<(), Failure> {
        let disk = self.new_disk();
        let mut rng = Rng::new(self.seed ^ 0x5EED);
        let mut ledger = Ledger::default();
        for (number, life) in self.lives.iter().enumerate() {
            let mut checks = Checks {
                manners: &self.manners,
                tally,
                whole_odds: 64,
                interleaves: self.size.interleaves.then_some(INTERLEAVED_RECOVERY_ODDS),
            };
            let done = self.live(&disk, life, &mut ledger, &mut checks, &mut rng);
            let after = done.map_err(|Failure(text)| {
                let place = format!("life {} of {}", number + 1, self.lives.len());
                Failure(format!("{text}\n  {place}, with {:?}", life.harm))
            })?;
            tally.note(disk.io_count());
            tally.counts = tally.counts.and(std::mem::take(&mut ledger.counts));
            if after == After::Damaged {
                break;
            }
        }
        Ok(())
    }

    fn new_disk(&self) -> SimStorage {
        let disk = SimStorage::new(self.seed);
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let options = InitOptions {
            config: &self.manners[0].config,
            system_identifier: SYSTEM_IDENTIFIER,
            now_us: 1,
            conf_lines: "",
        };
        init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
        if self.is_atomic {
            disk.set_block_bytes(PAGE_BYTES);
        }
        disk
    }

    /// One life: start, work, end; crashed at each of its I/Os. Then the next start is held against
    /// the ledger, which goes on from there.
    fn live(
        &self,
        disk: &SimStorage,
        life: &Life,
        ledger: &mut Ledger,
        checks: &mut Checks<'_>,
        rng: &mut Rng,
    ) -> Result<After, Failure> {
        let mut seeds = Rng::new(life.seed);
        let shared_ledger = Rc::new(RefCell::new(std::mem::take(ledger)));
        let started = {
            let before = shared_ledger.borrow().clone();
            checks.recover(disk, &before, 0, rng)?
        };
        let mut machine = started.machine;
        // What was under way when the start was done may still fail.
        let harm = life.harm.and(&started.harm);
        {
            let mut ledger = shared_ledger.borrow_mut();
            ledger.cut(started.end, started.content);
            ledger.memory = started.memory;
            if harm.reaches_history() {
                ledger.memory.may_have_gaps();
            }
            ledger.settles_nothing = life.harm.lies_about() == Some(Subject::Log);
        }
        if self.size.interleaves {
            machine.interleave(Policy::draw(&mut seeds));
        }
        if !started.has_walwriter {
            machine.add_walwriter();
        }
        for (number, ops) in life.backends.iter().enumerate() {
            let backend = Backend {
                number,
                store: machine.store(Role::Backend(number as u16)),
                ledger: Rc::clone(&shared_ledger),
                orders: Rc::clone(&machine.orders),
                harm: harm.clone(),
            };
            let (ops, about) = (ops.clone(), self.about());
            machine.add("backend", false, move || backend.run(ops, about));
        }
        if !life.harm.is_none() {
            machine.harm(harm.hides_pages());
        }
        if life.harm.lies_about() == Some(Subject::Pages) {
            machine.expect_damage();
        }
        if life.harm.when == When::Work {
            life.harm.inject(disk, &mut seeds);
        }
        let (variants, interleaves) = (self.size.variants, self.size.interleaves);
        let true_until = disk.lies_told();
        let mut lost_at = None;
        let mut at_io = |machine: &mut Machine| {
            {
                let mut ledger = shared_ledger.borrow_mut();
                ledger.promise(machine.shared.wal.durable_lsn());
                if !harm.reaches_history() {
                    ledger.memory.promise(&machine.shared);
                }
            }
            checks.tally.ios += 1;
            if interleaves && rng.below(CRASH_ODDS) > 0 {
                return Ok(());
            }
            let ledger = shared_ledger.borrow().clone();
            // What is left if all is lost is the same as long as nothing is synced.
            let durable = (machine.disk.sync_count(), ledger.promised());
            let is_new = lost_at.replace(durable) != Some(durable);
            let always = [
                Some(Unsynced::Kept),
                Some(Unsynced::Lost).filter(|_| is_new),
            ];
            let drawn = (0..variants).map(|_| None);
            for cut in always.into_iter().flatten().map(Some).chain(drawn) {
                let fork = machine.disk.fork();
                match cut {
                    Some(unsynced) => {
                        fork.crash_as(unsynced);
                        fork.set_capacity(None);
                    }
                    None => crash(&fork, rng),
                }
                let checked = match fork.last_lie().filter(|_| fork.lies_told() > true_until) {
                    Some(told) => checks.recover_lied(&fork, &ledger, (&life.harm, told), rng),
                    None => checks.recover(&fork, &ledger, 0, rng).map(drop),
                };
                checked.map_err(|failure| at(machine, failure))?;
            }
            Ok(())
        };
        let ended = work(&mut machine, life, &shared_ledger, &mut seeds, &mut at_io)?;
        if let Some(end) = ended {
            check_end(&harm, &end)?;
        }
        {
            let mut ledger = shared_ledger.borrow_mut();
            ledger.promise(machine.shared.wal.durable_lsn());
            if !harm.reaches_history() {
                ledger.memory.promise(&machine.shared);
            }
        }
        *ledger = shared_ledger.borrow().clone();
        // What was under way goes with its processes, and their claims on the ledger.
        drop(machine);
        disk.clear_injections();
        crash(disk, rng);
        if let Some(told) = disk.last_lie().filter(|_| disk.lies_told() > true_until) {
            checks.recover_lied(disk, ledger, (&life.harm, told), rng)?;
            return Ok(After::Damaged);
        }
        Ok(After::Sound)
    }
}

/// What a life leaves behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    /// A disk that goes on.
    Sound,
    /// One that has lied.
    Damaged,
}

/// Lets the machine work until its life is over; gives how, if it was not as planned.
fn work(
    machine: &mut Machine,
    life: &Life,
    ledger: &RefCell<Ledger>,
    seeds: &mut Rng,
    at_io: &mut dyn FnMut(&mut Machine) -> Result<(), Failure>,
) -> Result<Option<End>, Failure> {
    let mut pauses = 0;
    while !machine.is_quiet() {
        pauses += 1;
        if pauses > life.end_after && !life.stops {
            return Ok(None);
        }
        let step = machine.step()?;
        match life.harm.full {
            Some(full) if pauses == full.from => life.harm.fill(&machine.disk),
            Some(full) if pauses == full.until => machine.disk.set_capacity(None),
            _ => {}
        }
        match step {
            Ok((_, Pause::Io)) => at_io(machine)?,
            Ok((_, Pause::Atomic)) => pauses -= 1,
            Ok(_) => {}
            Err(end) => return Ok(Some(end)),
        }
    }
    control::leaks_no_file(machine)?;
    times::knows_of_all_ends(&machine.shared, &ledger.borrow())?;
    if !life.stops {
        return Ok(None);
    }
    if life.harm.when == When::Stop {
        life.harm.inject(&machine.disk, seeds);
    }
    Ok(machine.shut_down(at_io)?.err())
}

/// The server may end itself, or stop without its last checkpoint, only when the disk has refused
/// something, and for that reason.
fn check_end(harm: &Harm, end: &End) -> Result<(), Failure> {
    match end {
        End::Panic(text) | End::NotShutDown(text) if harm.explains(text) => Ok(()),
        _ => Err(Failure(format!("the server has ended itself: {end:?}"))),
    }
}

/// Says where the machine was crashed.
fn at(machine: &Machine, Failure(text): Failure) -> Failure {
    let recent = machine.disk.recent();
    let io = recent.last().map_or_else(String::new, |io| {
        format!(
            "\n  after a crash at I/O {}: {:?} of \"{}\" at {}, {} bytes",
            io.number, io.kind, io.path, io.offset, io.len
        )
    });
    Failure(text + &io)
}
