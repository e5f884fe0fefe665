//! What a logical backend does: writes, transactions, changes of whole namespaces, reads that are held
//! against the ledger, checkpoints that are asked for; and how its replies wait for the disk. What it does
//! with the ends of keys is in `times`.

use crate::content::{
    Change, DATABASES, Key, NAMES, SPACES, Space, Value, id_of, key_bytes, key_of, name_of,
};
use crate::harm::Harm;
use crate::ledger::{AccessChanges, Ledger};
use crate::machine::Orders;
use crate::parking::{unpark, wait_until_durable};
use crate::times::{self, Remover};
use rd_base::Lsn;
use rd_engine::{Chunk, Engine, EngineError, Isolation, Meta, NamespaceId, View};
use rd_store::Store;
use rd_store::checkpoint::{Flags, Request};
use rd_store::namespaces::Access;
use rd_store::wal::Flusher;
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Keys that there are in each namespace.
pub const KEYS: u64 = 40;

/// A logical backend.
pub struct Backend {
    pub number: usize,
    pub store: Store,
    pub ledger: Rc<RefCell<Ledger>>,
    pub orders: Rc<Orders>,
    /// What the disk does now and then, so that operations may fail.
    pub harm: Harm,
}

enum Op {
    Put(Vec<(usize, Key, Option<Value>)>),
    Move((usize, Key), (usize, Key), Isolation),
    /// Gives a key another end, or takes it away; within a transaction, if there is an isolation.
    Until(usize, Key, Option<u64>, Option<Isolation>),
    Empty(usize),
    EmptyAll,
    Swap(usize, usize),
    Create(usize),
    Rename(usize, usize),
    Drop(usize),
    /// Of a restriction: whether it is put on.
    Access(usize, Access, bool),
    CheckpointOf(usize),
    /// At this time of day, or by the clock.
    Read(usize, Option<u64>),
    Checkpoint,
    Tidy,
}

/// What a plan is about, for the most part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// Everything.
    All,
    /// The files of namespaces.
    Files,
    /// Keys that end.
    Times,
    /// The names of namespaces.
    Names,
}

fn draw_value(rng: &mut Rng, about: About, now_ms: u64) -> Value {
    let bytes = match rng.below(30) {
        0 => 2500 + rng.below(9_000),
        1..5 => 600 + rng.below(1400),
        _ => rng.below(120),
    };
    Value {
        bytes: bytes as u32,
        // Of no bytes nobody can tell which they are.
        fill: if bytes == 0 { 0 } else { rng.below(256) as u8 },
        end_ms: times::draw_end(rng, about, now_ms),
    }
}

/// One of the databases that SELECT names.
fn draw_database(rng: &mut Rng) -> usize {
    rng.below(DATABASES as u64) as usize
}

/// One of the others.
fn draw_named(rng: &mut Rng) -> usize {
    DATABASES + rng.below(NAMES.len() as u64) as usize
}

fn draw_isolation(rng: &mut Rng) -> Isolation {
    match rng.half() {
        true => Isolation::Snapshot,
        false => Isolation::Serializable,
    }
}

/// At `now_ms` by the clock.
fn draw(rng: &mut Rng, about: About, now_ms: u64) -> Op {
    if about == About::Files && rng.half() {
        return draw_of_file(rng);
    }
    if about == About::Names && rng.half() {
        return draw_of_name(rng);
    }
    let some = |rng: &mut Rng| match rng.below(6) {
        0 => draw_named(rng),
        _ => draw_database(rng),
    };
    if times::is_about_end(rng, about) {
        let number = some(rng);
        let end_ms = times::draw_new_end(rng, now_ms);
        let isolation = (rng.below(4) == 0).then(|| draw_isolation(rng));
        return Op::Until(number, times::draw_key(rng, about), end_ms, isolation);
    }
    match rng.below(100) {
        0..8 => {
            let from = (some(rng), times::draw_key(rng, about));
            let to = (some(rng), times::draw_key(rng, about));
            Op::Move(from, to, draw_isolation(rng))
        }
        8..66 => {
            let (one, other) = (some(rng), some(rng));
            let count = match rng.below(4) {
                0 => 1 + rng.below(10),
                _ => 1,
            };
            let mut puts: Vec<(usize, Key, Option<Value>)> = Vec::new();
            for _ in 0..count {
                let number = if rng.below(3) == 0 { other } else { one };
                let key = times::draw_key(rng, about);
                let value = (rng.below(4) > 0).then(|| draw_value(rng, about, now_ms));
                if !puts.iter().any(|put| (put.0, put.1) == (number, key)) {
                    puts.push((number, key, value));
                }
            }
            Op::Put(puts)
        }
        66..80 => Op::Read(some(rng), rng.half().then_some(0)),
        80..84 => Op::Empty(some(rng)),
        84 => Op::EmptyAll,
        85..87 => Op::Swap(some(rng), some(rng)),
        87 => Op::Create(draw_named(rng)),
        88 => Op::Drop(draw_named(rng)),
        89..92 => Op::Checkpoint,
        92..94 => draw_of_file(rng),
        94 => draw_of_name(rng),
        _ => Op::Tidy,
    }
}

/// What becomes of the name of a namespace, or of its content and its file while it may get another one.
fn draw_of_name(rng: &mut Rng) -> Op {
    let (one, other) = (draw_named(rng), draw_named(rng));
    match rng.below(12) {
        10.. => draw_of_file(rng),
        0 => Op::Drop(one),
        1 | 2 => Op::Create(one),
        3 => Op::Swap(one, other),
        4 => Op::Swap(one, draw_database(rng)),
        _ => Op::Rename(one, other),
    }
}

/// What concerns the file of a namespace, mostly of one that is not a database of SELECT: while one of
/// those is closed they cannot be emptied all together.
fn draw_of_file(rng: &mut Rng) -> Op {
    let number = match rng.below(4) {
        0 => draw_database(rng),
        _ => draw_named(rng),
    };
    let restriction = match rng.half() {
        true => Access::READ_ONLY,
        false => Access::OFFLINE,
    };
    match rng.below(3) {
        0 => Op::CheckpointOf(number),
        kind => Op::Access(number, restriction, kind == 1),
    }
}

impl Backend {
    /// Carries out the operations of these seeds, one after the other.
    pub fn run(self, ops: Vec<u64>, about: About) {
        let mut engine = Engine::open(self.store.clone());
        let mut flusher = Flusher::for_store(&self.store);
        let mut remover = Remover::default();
        for seed in ops {
            let mut rng = Rng::new(seed);
            let op = draw(&mut rng, about, engine.clock_ms());
            let done = self.carry_out(&mut engine, op);
            engine.rest();
            match done {
                Ok(lsn) => self.see_to(&mut flusher, lsn, &mut rng),
                Err(error) => self.note_failure(&error),
            }
            pause(Pause::Step);
            self.remove_some(&mut engine, &mut remover, &mut rng);
        }
        self.finish_sweep(&mut engine, &mut remover);
        let insert = self.store.shared.wal.insert_lsn();
        wait_until_durable(&self.store, insert);
    }

    /// An operation has failed: that may only be for what the disk does.
    pub fn note_failure(&self, error: &EngineError) {
        if !self.harm.excuses(error) {
            self.orders.fail(format!("an operation failed: {error}"));
        }
    }

    /// The reply that shows `lsn`: somebody makes it durable, and this one may wait for that.
    fn see_to(&self, flusher: &mut Flusher, lsn: Lsn, rng: &mut Rng) {
        let wal = &self.store.shared.wal;
        match rng.below(6) {
            0..2 => {
                wal.note_request(lsn);
                flusher.try_flush(2);
            }
            2..4 => wal.request_flush(lsn),
            4 => wal.request_lazy_flush(lsn),
            // Whoever flushes next takes it along.
            _ => {}
        }
        if rng.half() && rng.half() {
            wait_until_durable(&self.store, lsn);
        }
    }

    /// Gives the LSN of what was committed; zero if nothing was.
    fn carry_out(&self, engine: &mut Engine, op: Op) -> Result<Lsn, EngineError> {
        match op {
            // Who finds it missing makes it first.
            Op::Put(puts) if self.is_missing(puts[0].0) => {
                self.carry_out(engine, Op::Create(puts[0].0))
            }
            // Likewise, if it is closed; now and then.
            Op::Put(puts)
                if puts[0].1 % 2 == 0
                    && let Some(restriction) = self.restriction(puts[0].0) =>
            {
                self.carry_out(engine, Op::Access(puts[0].0, restriction, false))
            }
            Op::Put(puts) => {
                let is_one = puts.iter().all(|put| put.0 == puts[0].0);
                self.commit(engine, Change::Put(puts.clone()), |engine| {
                    if is_one {
                        self.put_in_one(engine, &puts)
                    } else {
                        self.put_in_several(engine, &puts)
                    }
                })
            }
            Op::Move(from, to, isolation) => {
                self.commit(engine, Change::Move(from, to), |engine| {
                    self.move_value(engine, from, to, isolation)
                })
            }
            Op::Until(number, key, end_ms, isolation) => {
                self.change_end(engine, (number, key), end_ms, isolation)
            }
            Op::Empty(number) => self.commit(engine, Change::Empty(number), |engine| {
                let id = self.find(number)?;
                Ok(engine.flush_namespace(id)?.lsn)
            }),
            Op::EmptyAll => self.commit(engine, Change::EmptyAll, |engine| {
                Ok(engine.flush_all()?.lsn)
            }),
            Op::Swap(one, other) => self.commit(engine, Change::Swap(one, other), |engine| {
                let (one, other) = (self.find(one)?, self.find(other)?);
                Ok(engine.swap_namespaces(one, other)?.lsn)
            }),
            Op::Create(number) => self.commit(engine, Change::Create(number), |engine| {
                let made = engine.create_namespace(name_of(number).as_bytes())?;
                let mut ledger = self.ledger.borrow_mut();
                ledger.note_found(self.number, number, made.result);
                Ok(made.lsn)
            }),
            Op::Rename(from, to) => self.commit(engine, Change::Rename(from, to), |engine| {
                let (from, to) = (name_of(from), name_of(to));
                let done = engine.rename_namespace(from.as_bytes(), to.as_bytes())?;
                Ok(done.lsn)
            }),
            Op::Drop(number) => self.commit(engine, Change::Drop(number), |engine| {
                Ok(engine.drop_namespace(name_of(number).as_bytes())?.lsn)
            }),
            Op::Access(number, restriction, closes) => {
                self.change_access(engine, number, restriction, closes)
            }
            Op::CheckpointOf(number) => {
                self.checkpoint_of(engine, number);
                Ok(Lsn::ZERO)
            }
            Op::Read(number, at_ms) => {
                let now_ms = at_ms.unwrap_or_else(|| engine.clock_ms());
                self.read(engine, number, now_ms).map(|()| Lsn::ZERO)
            }
            Op::Checkpoint => {
                let flags = Flags::CAUSE_MANUAL | Flags::IMMEDIATE | Flags::FORCE;
                let shared = &self.store.shared;
                let target = shared.wal.insert_lsn();
                let request = Request::of_process(flags, target, self.store.slot.role(), "");
                shared.checkpoint.request(&shared.procs, &request);
                Ok(Lsn::ZERO)
            }
            Op::Tidy => {
                engine.tidy(20);
                Ok(Lsn::ZERO)
            }
        }
    }

    fn is_missing(&self, number: usize) -> bool {
        id_of(&self.store.shared.namespaces, number).is_none()
    }

    /// What keeps the namespace from being written, if something does.
    fn restriction(&self, number: usize) -> Option<Access> {
        let namespaces = &self.store.shared.namespaces;
        let access = namespaces.entry(id_of(namespaces, number)?).access();
        let all = [Access::OFFLINE, Access::READ_ONLY];
        all.into_iter().find(|one| access.without(*one) != access)
    }

    /// Carries out what may make `change`, and notes in the ledger what came of it. Gives the LSN of what
    /// was committed.
    ///
    /// # Errors
    /// Those of the engine, but for those that say that somebody else was faster.
    pub fn commit(
        &self,
        engine: &mut Engine,
        change: Change,
        mut operation: impl FnMut(&mut Engine) -> Result<Lsn, EngineError>,
    ) -> Result<Lsn, EngineError> {
        unpark(engine, |engine| {
            let from = self.store.shared.wal.insert_lsn();
            // What others have logged, and not made known yet, may still be seen to come.
            let since = self
                .ledger
                .borrow()
                .oldest_under_way()
                .map_or(from, |lsn| lsn.min(from));
            self.ledger
                .borrow_mut()
                .begin(self.number, from, change.clone());
            let changes = self.ledger.borrow().access_changes;
            let done = operation(engine);
            let mut ledger = self.ledger.borrow_mut();
            match done {
                Ok(end) => ledger.done(self.number, end),
                Err(ref error) => {
                    // Others were faster; nothing has happened.
                    let is_why = is_beaten(&ledger, error, &change, (since, changes), self.number);
                    ledger.give_up(self.number);
                    if is_why {
                        return Ok(Lsn::ZERO);
                    }
                }
            }
            done
        })
    }

    /// Which namespace the commit under way is about that people call so; once it has looked, that one stays it.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn find(&self, number: usize) -> Result<NamespaceId, EngineError> {
        let found = self.ledger.borrow_mut().found(self.number, number);
        if let Some(id) = found {
            return Ok(id);
        }
        let id = id_of(&self.store.shared.namespaces, number);
        let id = id.ok_or(EngineError::NoNamespace)?;
        self.ledger.borrow_mut().note_found(self.number, number, id);
        Ok(id)
    }

    fn put_in_one(&self, engine: &mut Engine, puts: &Puts) -> Result<Lsn, EngineError> {
        let keys: Vec<Vec<u8>> = puts.iter().map(|put| key_bytes(put.1)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        let id = self.find(puts[0].0)?;
        let done = engine.write(id, &keys, &mut |access| {
            for (index, (_, _, value)) in puts.iter().enumerate() {
                match value {
                    Some(value) => access.put(index, &value.to_vec(), value.end_ms)?,
                    None => drop(access.delete(index)?),
                }
            }
            Ok(())
        })?;
        Ok(done.lsn)
    }

    /// As one transaction.
    fn put_in_several(&self, engine: &mut Engine, puts: &Puts) -> Result<Lsn, EngineError> {
        in_transaction(engine, Isolation::Snapshot, |engine| {
            let mut each = puts.chunks(1);
            each.try_for_each(|put| self.put_in_one(engine, put).map(drop))
        })
    }

    /// As one transaction, which finds out what there is to write.
    fn move_value(
        &self,
        engine: &mut Engine,
        from: (usize, Key),
        to: (usize, Key),
        isolation: Isolation,
    ) -> Result<Lsn, EngineError> {
        if from == to {
            return Ok(Lsn::ZERO);
        }
        let began_ms = engine.clock_ms();
        in_transaction(engine, isolation, |engine| {
            let value = |value: Option<rd_engine::Value<'_>>| {
                value.map(|value| Value::read(value.bytes, value.expiry_ms))
            };
            let (key, id) = (key_bytes(from.1), self.find(from.0)?);
            match engine.get(id, &key, View::Newest, value)?.result {
                None => return Ok(()),
                Some(None) => {
                    let name = name_of(from.0);
                    let text = format!("namespace {name}, key {}: bytes of nobody", from.1);
                    self.orders.fail(text);
                }
                Some(value) => {
                    self.must_be_there(from, value.and_then(|value| value.end_ms), began_ms);
                    self.put_in_one(engine, &[(from.0, from.1, None)])?;
                    self.put_in_one(engine, &[(to.0, to.1, value)])?;
                }
            }
            Ok(())
        })
    }

    /// Reads a namespace at a snapshot, which is what was committed by then, as it is at `now_ms`.
    fn read(&self, engine: &mut Engine, number: usize, now_ms: u64) -> Result<(), EngineError> {
        let snapshot = engine.snapshot()?;
        let Some(id) = id_of(&self.store.shared.namespaces, number) else {
            return Ok(());
        };
        let mut refusal = None;
        let keys = match read_all(engine, id, View::AtTime(&snapshot, now_ms)) {
            Ok(keys) => Some(keys),
            // It was swapped or emptied too often since.
            Err(ReadError::Engine(EngineError::Replaced | EngineError::Conflict { .. })) => {
                return Ok(());
            }
            Err(ReadError::Engine(
                error @ (EngineError::NoNamespace | EngineError::NamespaceOffline(_)),
            )) => {
                refusal = Some(error);
                None
            }
            Err(ReadError::Engine(error)) => return Err(error),
            Err(ReadError::Strange(text)) => {
                self.orders.fail(text);
                return Ok(());
            }
        };
        let (ledger, lsn) = (self.ledger.borrow(), snapshot.lsn());
        // One that was made since is empty there, one that was dropped may be gone, or offline.
        let is_gone = |space: &Space| !space.is_there || space.access.is_offline();
        let may_be_gone = |number| ledger.may_have_been(number, lsn, self.number, &is_gone);
        let is_excused = match &keys {
            Some(keys) => keys.is_empty() && may_be_gone(number),
            // Its content may lie in another one by now.
            None => (0..SPACES).any(may_be_gone),
        };
        if is_excused || !ledger.reaches_back_to(lsn) {
            return Ok(());
        }
        let space = Space {
            id: Some(id),
            ..keys.map_or_else(Space::default, Space::of)
        };
        if !ledger.allows_one(number, &space, lsn, now_ms) {
            let mut all = ledger.at(lsn);
            let at = all.place(number, space.id).unwrap_or(number);
            let keys = &mut all[at].keys;
            keys.retain(|_, value| !value.is_there(now_ms));
            keys.extend(space.keys);
            let text = ledger.explain(&all, lsn);
            let what = match refusal {
                Some(error) => format!("a snapshot of {} is refused ({error})", name_of(number)),
                None => format!("a snapshot shows what was never there, at {now_ms}"),
            };
            self.orders.fail(format!("{what}: {text}"));
        }
        Ok(())
    }
}

/// Whether `error` says that the change which began at `from`, after those `changes` of access, came too late,
/// and somebody was faster indeed.
fn is_beaten(
    ledger: &Ledger,
    error: &EngineError,
    change: &Change,
    (from, changes): (Lsn, AccessChanges),
    backend: usize,
) -> bool {
    let is_it = |space: &Space| match error {
        EngineError::NoNamespace => !space.is_there,
        EngineError::NamespaceExists(_) => space.is_there,
        EngineError::NamespaceReadOnly(_) => space.access.is_read_only(),
        EngineError::NamespaceOffline(_) => space.access.is_offline(),
        _ => false,
    };
    let concerned = change.concerns(error);
    let may_be = |number: &usize| ledger.may_have_been(*number, from, backend, &is_it);
    // Between looking at a namespace and using what was seen more may happen than the ledger can tell.
    let may_change = match error {
        EngineError::NoNamespace => concerned.iter().any(|number| *number >= DATABASES),
        EngineError::NamespaceReadOnly(_) | EngineError::NamespaceOffline(_) => {
            !changes.are_over() || changes != ledger.access_changes
        }
        _ => false,
    };
    matches!(error, EngineError::Conflict { .. }) || may_change || concerned.iter().any(may_be)
}

type Puts = [(usize, Key, Option<Value>)];

/// Carries something out, and commits it.
pub fn in_transaction(
    engine: &mut Engine,
    isolation: Isolation,
    operation: impl FnOnce(&mut Engine) -> Result<(), EngineError>,
) -> Result<Lsn, EngineError> {
    let transaction = engine.begin(isolation, false, View::Newest)?;
    engine.attach(Box::new(transaction));
    let done = operation(engine);
    let transaction = engine.detach().expect("just attached");
    done?;
    Ok(engine.commit(&transaction, &[])?.lsn)
}

/// Why a read came to nothing.
pub enum ReadError {
    Engine(EngineError),
    /// It came to something that nobody has written.
    Strange(String),
}

/// All of a namespace.
pub fn read_all(
    engine: &Engine,
    id: NamespaceId,
    view: View<'_>,
) -> Result<BTreeMap<Key, Value>, ReadError> {
    let mut content = BTreeMap::new();
    let mut strange = None;
    let chunk = Chunk {
        entries: u64::MAX,
        bytes: usize::MAX,
    };
    let mut cursor = engine
        .range(id, b"", None, u64::MAX, view)
        .map_err(ReadError::Engine)?;
    // A walk shows bytes or ends: one goes ahead of the other, through the same.
    let (mut ends, mut ahead) = (Vec::new(), cursor.clone());
    let note = &mut |_: &[u8], meta: &Meta| ends.push(meta.expiry_ms);
    while engine
        .range_next_keys(&mut ahead, chunk, note)
        .map_err(ReadError::Engine)?
    {}
    let mut ends = ends.into_iter();
    let visit = &mut |key: &[u8], bytes: &[u8]| {
        let value = ends.next().and_then(|end_ms| Value::read(bytes, end_ms));
        match (key_of(key), value) {
            (Some(key), Some(value)) => drop(content.insert(key, value)),
            _ => strange = Some(format!("{id:?} has a key or value of nobody: {key:?}")),
        }
    };
    while engine
        .range_next(&mut cursor, chunk, visit)
        .map_err(ReadError::Engine)?
    {}
    match strange {
        Some(text) => Err(ReadError::Strange(text)),
        None => Ok(content),
    }
}
