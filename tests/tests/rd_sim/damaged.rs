//! A crash of a disk that has lied about a page: what the next start serves is right, or named as damaged. A start may
//! be refused for it, by name. Nothing is expected to be repaired.

use crate::check::Checks;
use crate::content::{Content, Key, SPACES, Space, Value, id_of, key_bytes, name_of};
use crate::harm::Harm;
use crate::ledger::Ledger;
use crate::machine::{End, Failure, Machine, RefusedBecause};
use crate::times;
use crate::work::KEYS;
use rd_base::{Lsn, Role};
use rd_engine::{Engine, EngineError, View};
use rd_store::Store;
use rd_sys::simdisk::{Rng, SimStorage};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// What each key of a namespace was found to be, unless that cannot be read; none if the namespace is not
/// there.
type Seen = [Option<BTreeMap<Key, Option<Value>>>; SPACES];

impl Checks<'_> {
    /// Starts the server on `disk`, which has lied as `harm` says and crashed. Gives whether it has named
    /// what is damaged.
    ///
    /// # Errors
    /// When something is served that is not right, or refused without its name.
    pub fn recover_damaged(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        harm: &Harm,
        rng: &mut Rng,
    ) -> Result<bool, Failure> {
        crate::beat();
        let manner = &self.manners[rng.below(self.manners.len() as u64) as usize];
        let mut machine = Machine::boot(disk, manner, rng.next_u64());
        machine.harm(harm.hides_pages());
        machine.expect_damage();
        let recovered = loop {
            if let Some(recovered) = machine.recovered() {
                break recovered;
            }
            match machine.step()? {
                Ok(_) => {}
                Err(End::Refused(RefusedBecause::LogReceded)) => return Ok(false),
                Err(End::Refused(RefusedBecause::Other(text)) | End::Panic(text))
                    if harm.explains(&text) =>
                {
                    return Ok(true);
                }
                Err(end) => {
                    let text = format!("a start on a disk that has lied: {end:?}");
                    return Err(Failure(text));
                }
            }
        };
        let Ok(recovered) = recovered else {
            return Ok(false);
        };
        if recovered.end < ledger.promised() {
            let text = format!("after a lie about pages the log ends at {}", recovered.end);
            return Err(Failure(text));
        }
        let Some(seen) = look(&mut machine, harm)? else {
            return Ok(true);
        };
        self.tally.note(recovered.end.get());
        hold(&seen, ledger, recovered.end)?;
        let is_short = |one: &BTreeMap<_, _>| one.len() < KEYS as usize;
        Ok(seen.iter().flatten().any(is_short))
    }
}

fn hold(seen: &Seen, ledger: &Ledger, end: Lsn) -> Result<(), Failure> {
    let is_it = |made: &Content| {
        let mut both = seen.iter().zip(made.iter());
        both.all(|(seen, made)| match seen {
            None => !made.is_there,
            Some(seen) => {
                let mut all = seen.iter();
                made.is_there && all.all(|(key, value)| made.keys.get(key) == value.as_ref())
            }
        })
    };
    if ledger.may_be(end, &is_it) {
        return Ok(());
    }
    let mut all = ledger.at(end);
    for (space, seen) in all.iter_mut().zip(seen) {
        let Some(seen) = seen else {
            *space = Space::default();
            continue;
        };
        space.is_there = true;
        for (key, value) in seen {
            match value {
                Some(value) => space.keys.insert(*key, *value),
                None => space.keys.remove(key),
            };
        }
    }
    let text = ledger.explain(&all, end);
    Err(Failure(format!(
        "what is served after a lie is wrong: {text}"
    )))
}

/// Reads each key by itself; none if the server has ended itself for the damage.
fn look(machine: &mut Machine, harm: &Harm) -> Result<Option<Seen>, Failure> {
    let seen = Rc::new(RefCell::new(Seen::default()));
    let (found, orders) = (Rc::clone(&seen), Rc::clone(&machine.orders));
    let (store, may_be) = (machine.store(Role::Backend(0)), harm.clone());
    machine.add("checker", false, move || {
        match look_at_keys(store, &may_be) {
            Ok(all) => *found.borrow_mut() = all,
            Err(text) => orders.fail(text),
        };
    });
    while !machine.is_quiet() {
        match machine.step()? {
            Ok(_) => {}
            Err(End::Panic(text)) if harm.explains(&text) => return Ok(None),
            Err(end) => return Err(Failure(format!("after recovery: {end:?}"))),
        }
    }
    Ok(Some(seen.take()))
}

fn look_at_keys(mut store: Store, harm: &Harm) -> Result<Seen, String> {
    store.clock = times::clock_at(0);
    let engine = Engine::open(store);
    let mut all = Seen::default();
    for (number, seen) in all.iter_mut().enumerate() {
        let name = name_of(number);
        let Some(id) = id_of(&engine.store().shared.namespaces, number) else {
            continue;
        };
        let seen = seen.insert(BTreeMap::new());
        for key in 0..KEYS as Key {
            let bytes = key_bytes(key);
            let read = |value: Option<rd_engine::Value<'_>>| {
                value
                    .map(|value| Value::read(value.bytes, value.expiry_ms).ok_or(value.bytes.len()))
            };
            let got = engine.get(id, &bytes, View::Newest, read);
            match got.map(|got| got.result.transpose()) {
                Ok(Ok(value)) => drop(seen.insert(key, value)),
                Ok(Err(len)) => {
                    return Err(format!(
                        "namespace {name}, key {key}: {len} bytes of nobody"
                    ));
                }
                // It was left so; its file is nobody's affair then.
                Err(EngineError::NamespaceOffline(_)) => {}
                Err(EngineError::Page(error)) if harm.explains(&error.to_string()) => {}
                Err(error) => return Err(format!("namespace {name}, key {key}: {error}")),
            }
        }
    }
    Ok(all)
}
