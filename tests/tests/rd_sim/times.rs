//! Keys that end: the ends that they are given, and that are changed or taken away, and the one among the
//! backends that removes those that have ended. It goes the way of the server's remover
//! (`backend/src/expirer.rs`): what it has found may be anything by the time at which it removes it.

use crate::content::{Change, Key, SPACES, key_bytes, key_of, name_of};
use crate::ledger::Ledger;
use crate::machine::Failure;
use crate::work::{About, Backend, KEYS, in_transaction};
use rd_base::Lsn;
use rd_engine::{Engine, EngineError, Isolation, NamespaceId};
use rd_store::Shared;
use rd_store::expiry::NEVER_MS;
use rd_store::namespaces::NAMESPACES_MAX;
use rd_sys::clock::Clock;
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};

/// One value out of so many has an end; where a plan is about them, one out of two.
const END_ODDS: u64 = 8;
/// One operation out of so many changes an end.
const CHANGE_ODDS: u64 = 40;
/// Likewise, where a plan is about them.
const CHANGE_ODDS_THERE: u64 = 5;
/// After one operation out of so many the remover has a turn.
const TURN_ODDS: u64 = 3;
const FEW_KEYS: u64 = 6;
/// Looks and commits of a turn, at most.
const STEPS_MAX: u64 = 8;
/// Keys that one look finds, or that one commit removes, at most.
const KEYS_MAX: u64 = 6;

/// A key; where a plan is about those that end it is one of few for the most part, so that it is written again
/// between the remover's look and its commit.
pub fn draw_key(rng: &mut Rng, about: About) -> Key {
    let is_one_of_few = about == About::Times && rng.below(4) > 0;
    rng.below(if is_one_of_few { FEW_KEYS } else { KEYS }) as Key
}

/// A clock that stands still.
pub fn clock_at(ms: u64) -> Clock {
    Clock::manual(ms * 1_000_000).0
}

/// When a new value ends, if it does.
pub fn draw_end(rng: &mut Rng, about: About, now_ms: u64) -> Option<u64> {
    let odds = if about == About::Times { 2 } else { END_ODDS };
    (rng.below(odds) == 0).then(|| draw_time(rng, now_ms))
}

/// Whether the next operation changes an end.
pub fn is_about_end(rng: &mut Rng, about: About) -> bool {
    let odds = match about {
        About::Times => CHANGE_ODDS_THERE,
        _ => CHANGE_ODDS,
    };
    rng.below(odds) == 0
}

/// What a key's end becomes.
pub fn draw_new_end(rng: &mut Rng, now_ms: u64) -> Option<u64> {
    (rng.below(3) > 0).then(|| draw_time(rng, now_ms))
}

/// Over already, in this life, or in a later one whose clock is ahead.
fn draw_time(rng: &mut Rng, now_ms: u64) -> u64 {
    match rng.below(6) {
        0 | 1 => now_ms - rng.below(1_000),
        2 | 3 => now_ms + rng.below(50),
        4 => now_ms + rng.below(3_000),
        _ => now_ms + 3_600_000 + rng.below(1_000),
    }
}

/// A way through all keys of all namespaces.
struct Sweep {
    namespace: usize,
    from: Vec<u8>,
    /// Of the namespace, to be removed.
    ended: Vec<Vec<u8>>,
    /// The soonest end of a key that has not ended yet.
    soonest_ms: u64,
}

/// Of use in the backend that is the remover.
#[derive(Default)]
pub struct Remover {
    sweep: Option<Sweep>,
}

impl Backend {
    /// Changes the end of a key that is there; like EXPIRE, or PERSIST without one.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn change_end(
        &self,
        engine: &mut Engine,
        (number, key): (usize, Key),
        end_ms: Option<u64>,
        isolation: Option<Isolation>,
    ) -> Result<Lsn, EngineError> {
        self.commit(engine, Change::Until(number, key, end_ms), |engine| {
            let began_ms = engine.clock_ms();
            let bytes = key_bytes(key);
            let put_end = |engine: &mut Engine| {
                let id = self.find(number)?;
                engine.write(id, &[&bytes], &mut |access| {
                    let Some(meta) = access.meta(0)? else {
                        self.ledger.borrow_mut().give_up(self.number);
                        return Ok(());
                    };
                    self.must_be_there((number, key), meta.expiry_ms, began_ms);
                    let value = access.newest(0)?.map(<[u8]>::to_vec);
                    access.put_again(0, &value.expect("it is there"), end_ms)
                })
            };
            match isolation {
                None => Ok(put_end(engine)?.lsn),
                Some(isolation) => {
                    in_transaction(engine, isolation, |engine| put_end(engine).map(|_| ()))
                }
            }
        })
    }

    /// A key with this end was shown by what began at `began_ms`.
    pub fn must_be_there(&self, (number, key): (usize, Key), end_ms: Option<u64>, began_ms: u64) {
        if end_ms.is_some_and(|end_ms| end_ms <= began_ms) {
            let name = name_of(number);
            self.orders.fail(format!(
                "namespace {name}, key {key}: it ended at {end_ms:?}, and is shown at {began_ms}"
            ));
        }
    }

    /// Now and then, a turn of the remover, if this backend is it.
    pub fn remove_some(&self, engine: &mut Engine, remover: &mut Remover, rng: &mut Rng) {
        if rng.below(TURN_ODDS) > 0 || !self.store.shared.expiry.is_remover(self.store.slot) {
            return;
        }
        if remover.sweep.is_none() {
            self.begin_sweep(engine, remover);
        }
        for _ in 0..1 + rng.below(STEPS_MAX) {
            if remover.sweep.is_none() {
                break;
            }
            let most = 1 + rng.below(KEYS_MAX) as usize;
            self.go_on(engine, remover, most);
            engine.rest();
            pause(Pause::Step);
        }
    }

    /// What was begun comes to its end: until then nobody knows of the ends that it has passed.
    pub fn finish_sweep(&self, engine: &mut Engine, remover: &mut Remover) {
        while remover.sweep.is_some() {
            self.go_on(engine, remover, KEYS_MAX as usize);
        }
        engine.rest();
    }

    fn begin_sweep(&self, engine: &Engine, remover: &mut Remover) {
        let expiry = &self.store.shared.expiry;
        if expiry.next_ms() <= engine.clock_ms() {
            expiry.begin();
            remover.sweep = Some(Sweep {
                namespace: 0,
                from: Vec::new(),
                ended: Vec::new(),
                soonest_ms: NEVER_MS,
            });
        }
    }

    /// One look, or one commit. What goes wrong lets everything be looked through anew.
    fn go_on(&self, engine: &mut Engine, remover: &mut Remover, most: usize) {
        let Some(sweep) = &mut remover.sweep else {
            return;
        };
        let is_over = self.advance(engine, sweep, most);
        let expiry = &self.store.shared.expiry;
        match is_over {
            Ok(false) => return,
            Ok(true) => expiry.found(sweep.soonest_ms),
            Err(error) => {
                expiry.found(0);
                self.note_failure(&error);
            }
        }
        remover.sweep = None;
    }

    /// True at the end.
    fn advance(
        &self,
        engine: &mut Engine,
        sweep: &mut Sweep,
        most: usize,
    ) -> Result<bool, EngineError> {
        let Some(id) = next_writable(engine, sweep) else {
            return Ok(true);
        };
        let is_done = match sweep.ended.is_empty() {
            true => look(engine, id, sweep, most),
            false => self.remove(engine, id, sweep, most),
        };
        match done_or_gone(is_done)? {
            Some(false) => {}
            // At its end, or dropped or closed meanwhile, with all that was to be removed.
            Some(true) | None => sweep.go_to_next(),
        }
        Ok(false)
    }

    /// Removes the last of what was found. True if there is nothing more in the namespace.
    fn remove(
        &self,
        engine: &mut Engine,
        id: NamespaceId,
        sweep: &mut Sweep,
        most: usize,
    ) -> Result<bool, EngineError> {
        let name = engine.namespace_name(id).ok_or(EngineError::NoNamespace)?;
        let is_it = |number: &usize| name_of(*number).as_bytes() == name;
        let number = (0..SPACES).find(is_it).ok_or(EngineError::NoNamespace)?;
        let first = sweep.ended.len().saturating_sub(most);
        let keys: Vec<&[u8]> = sweep.ended[first..].iter().map(Vec::as_slice).collect();
        let numbers: Option<Vec<Key>> = keys.iter().map(|key| key_of(key)).collect();
        let Some(numbers) = numbers else {
            let text = format!("{} has a key of nobody: {keys:?}", name_of(number));
            self.orders.fail(text);
            return Ok(true);
        };
        // It stands still, so that the ledger knows what has ended for the commit.
        let now_ms = engine.clock_ms();
        let goes_on = std::mem::replace(&mut engine.store_mut().clock, clock_at(now_ms));
        let mut is_gone = false;
        let removed = self.commit(engine, Change::Remove(number, numbers, now_ms), |engine| {
            self.ledger.borrow_mut().note_found(self.number, number, id);
            let removed = engine.remove_ended(id, &keys);
            is_gone = matches!(&removed, Err(error) if is_of_gone(error));
            let removed = removed?;
            self.ledger.borrow_mut().counts.removed += removed.result as u64;
            Ok(removed.lsn)
        });
        engine.store_mut().clock = goes_on;
        self.store.shared.wal.request_lazy_flush(removed?);
        sweep.ended.truncate(first);
        Ok(is_gone)
    }
}

impl Sweep {
    fn go_to_next(&mut self) {
        self.namespace += 1;
        self.from.clear();
        self.ended.clear();
    }
}

/// The namespace that the sweep has come to, or the next one that can be written.
fn next_writable(engine: &Engine, sweep: &mut Sweep) -> Option<NamespaceId> {
    while sweep.namespace < NAMESPACES_MAX {
        let is_writable = |id: &NamespaceId| {
            let access = engine.access(*id);
            access.is_ok_and(|(access, _)| access.is_writable())
        };
        if let Some(id) = engine.namespace(sweep.namespace).filter(is_writable) {
            return Some(id);
        }
        sweep.go_to_next();
    }
    None
}

/// Looks for more. True if there is nothing more in the namespace.
fn look(
    engine: &mut Engine,
    id: NamespaceId,
    sweep: &mut Sweep,
    most: usize,
) -> Result<bool, EngineError> {
    let now_ms = engine.clock_ms();
    let swept = engine.sweep(id, &sweep.from, now_ms, &mut |swept| {
        swept.ended.len() < most
    })?;
    sweep.ended = swept.ended;
    sweep.soonest_ms = sweep.soonest_ms.min(swept.soonest_ms.unwrap_or(NEVER_MS));
    match swept.next {
        Some(next) => sweep.from = next,
        None => match sweep.ended.last() {
            // What follows its place is nothing.
            Some(last) => sweep.from.clone_from(last),
            None => return Ok(true),
        },
    }
    Ok(false)
}

fn is_of_gone(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::NoNamespace
            | EngineError::NamespaceReadOnly(_)
            | EngineError::NamespaceOffline(_)
    )
}

/// None if the namespace is not there any more, or closed.
fn done_or_gone(done: Result<bool, EngineError>) -> Result<Option<bool>, EngineError> {
    match done {
        Err(error) if is_of_gone(&error) => Ok(None),
        done => done.map(Some),
    }
}

/// While nothing is under way the server knows when the next key ends, of those that it can remove: else
/// nobody would ever look for it.
///
/// # Errors
/// When it does not.
pub fn knows_of_all_ends(shared: &Shared, ledger: &Ledger) -> Result<(), Failure> {
    let next_ms = shared.expiry.next_ms();
    let content = ledger.at(Lsn::MAX);
    let spaces = content.iter().enumerate();
    let looked_for = spaces.filter(|(_, space)| space.is_there && space.access.is_writable());
    for (number, space) in looked_for {
        let ends = space.keys.iter().map(|(key, value)| (value.end_ms, key));
        let soonest = ends.filter(|(end_ms, _)| end_ms.is_some()).min();
        if let Some((Some(end_ms), key)) = soonest
            && end_ms < next_ms
        {
            return Err(Failure(format!(
                "namespace {}, key {key}, ends at {end_ms}, and nobody looks before {next_ms}",
                name_of(number)
            )));
        }
    }
    Ok(())
}
