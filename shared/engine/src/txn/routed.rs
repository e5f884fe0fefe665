//! The engine's operations within a transaction of several commands.
//!
//! While a transaction is attached to an [`Engine`], every read and write of it goes here: reads
//! see the transaction's own writes over its snapshot, whatever view they ask for, and writes go
//! into the transaction. So commands need not know whether they run within one.
//!
//! Each command stands for itself: one that fails has written nothing, and the transaction goes on.

use super::access::{Access, Base, Limits, Lookup, ProgramError, Staged, WriteSet, copy_of};
use super::commit::{self, TreePart};
use super::transaction::{Isolation, Space, Transaction, Write};
use super::validate::{self, Checks, Latched};
use super::visible::Meta;
use super::write::{Committed, PageClaim, Program};
use crate::api::{Engine, Value, View};
use crate::btree::Tree;
use crate::error::{EngineError, Result};
use crate::namespace;
use crate::namespace::access::{check_readable, check_writable, share};
use crate::work::Work;
use rd_base::Lsn;
use rd_base::room::make_room;
use rd_format::catalog::CATALOG_FILE;
use rd_store::Store;
use rd_store::namespaces::{Lies, NamespaceId};

impl Engine {
    /// Begins a transaction that sees what `view` shows now. It holds its snapshot until it is
    /// dropped, which is also how it is rolled back.
    ///
    /// # Errors
    /// When the process holds too many snapshots.
    pub fn begin(
        &self,
        isolation: Isolation,
        is_read_only: bool,
        view: View<'_>,
    ) -> Result<Transaction> {
        let snapshot = match view {
            View::Newest => self.snapshot_newest()?,
            _ => self.snapshot()?,
        };
        let now_ms = self.store.clock.wall_us() / 1000;
        Ok(Transaction::new(isolation, is_read_only, snapshot, now_ms))
    }

    /// From now on operations are part of `transaction`, until [`Engine::detach`].
    pub fn attach(&mut self, transaction: Box<Transaction>) {
        assert!(self.current.is_none(), "one transaction at a time");
        self.current = Some(transaction.into());
    }

    /// Whether operations are part of a transaction.
    pub fn is_in_transaction(&self) -> bool {
        self.current.is_some()
    }

    /// The transaction that was attached; operations stand for themselves again.
    pub fn detach(&mut self) -> Option<Box<Transaction>> {
        self.current.take().map(|current| current.into_inner())
    }

    /// Commits `transaction`, which must not be attached. It is not to be used afterwards, unless
    /// the commit was parked. `alone`: the caller holds the entries of these namespaces alone.
    ///
    /// # Errors
    /// Nothing of it has happened then. [`EngineError::Conflict`] if others were first, or if it has
    /// used a namespace that comes before one that is held alone, and is not; [`EngineError::Park`]
    /// means: not now.
    pub fn commit(
        &mut self,
        transaction: &Transaction,
        alone: &[NamespaceId],
    ) -> Result<Committed<()>> {
        self.enter();
        let lsn = if transaction.has_written() {
            self.commit_writes(transaction, alone)?
        } else {
            // A snapshot is a prefix of all commits: what was read there is of one moment, and
            // nothing is written that could depend on it.
            Lsn::ZERO
        };
        Ok(Committed {
            result: (),
            lsn,
            depends_on: Lsn::ZERO,
        })
    }

    /// One record, whatever the number of namespaces. The entries are shared in the order of their
    /// indices, then the leaves of one tree after the other are latched in the same order.
    fn commit_writes(&mut self, transaction: &Transaction, alone: &[NamespaceId]) -> Result<Lsn> {
        let Engine {
            store, work, set, ..
        } = self;
        let isolation = transaction.isolation();
        let is_part = |space: &Space| {
            !space.writes.is_empty() || isolation.checks_reads() && !space.reads.is_empty()
        };
        let spaces = transaction.spaces().iter();
        let spaces: Vec<(NamespaceId, &Space)> = spaces
            .filter(|(_, space)| is_part(space))
            .map(|(id, space)| (*id, space))
            .collect();
        // Who holds some alone waits for none that comes before: whoever has that one may wait for him.
        let last_alone = alone.iter().map(|id| id.index()).max();
        let comes_too_late = |id: &NamespaceId| {
            !is_held(alone, *id) && last_alone.is_some_and(|last| id.index() < last)
        };
        if spaces.iter().any(|(id, _)| comes_too_late(id)) {
            return Err(EngineError::namespace_conflict(transaction.lsn()));
        }
        let namespaces = &store.shared.namespaces;
        let _held = loop {
            // Two that have come into one entry one after the other stand side by side. To share it twice
            // would be to wait for who waits for the first time to end; one of them is gone, as is said
            // below.
            let is_other =
                |nth: usize, id: NamespaceId| nth == 0 || spaces[nth - 1].0.index() != id.index();
            let mut held = Vec::with_capacity(spaces.len());
            for (nth, (id, _)) in spaces.iter().enumerate() {
                if is_held(alone, *id) || !is_other(nth, *id) {
                    continue;
                }
                let entry = namespaces.entry(*id);
                held.push(match alone.is_empty() {
                    true => share(&entry)?,
                    // Others wait for him: he goes on as soon as he can.
                    false => entry.share(),
                });
            }
            let needs_file = |(id, space): &&(NamespaceId, &Space)| {
                let puts = |write: &Write| matches!(write, Write::Put { .. });
                namespaces.entry(*id).lies() == Lies::Empty && space.writes.values().any(puts)
            };
            let Some(&(id, _)) = spaces.iter().find(needs_file) else {
                break held;
            };
            drop(held);
            namespace::give_file(store, work, set, id, is_held(alone, id))?;
        };
        let mut steps: Vec<Step<'_, '_>> = Vec::new();
        for (namespace, space) in &spaces {
            let entry = namespaces.entry(*namespace);
            let place = entry.place().ok_or(EngineError::NoNamespace)?;
            match space.writes.is_empty() {
                true => check_readable(&entry)?,
                false => check_writable(&entry)?,
            }
            if place.content_since > transaction.lsn() {
                return Err(EngineError::namespace_conflict(place.content_since));
            }
            if let Lies::In(file) = place.lies {
                let tree = Tree { store, file };
                let is_alone = is_held(alone, *namespace);
                steps.push(Step::new(*namespace, tree, space, transaction, is_alone));
            }
        }
        let (first, _) = spaces.first().expect("something was written");
        work.begin(store, *first, CATALOG_FILE);
        let done = commit_steps(store, work, set, &steps);
        work.shrink();
        set.shrink();
        crate::chores::finish_splits(store, work);
        done
    }

    /// The value of a key in the transaction, as [`Engine::get`] gives it. Its own writes have ended, or
    /// not, by a clock that shows `now_ms`.
    pub(crate) fn read_in_transaction(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        now_ms: u64,
        bytes: bool,
        answer: &mut dyn FnMut(Option<Value<'_>>, Option<Meta>),
    ) -> Result<Lsn> {
        let transaction = self.transaction();
        if let Some(write) = transaction.written(namespace, key) {
            match own(write, now_ms) {
                Some(value) => answer(bytes.then_some(value), Some(meta_of(&value))),
                None => answer(None, None),
            }
            return Ok(Lsn::ZERO);
        }
        let snapshot = transaction.snapshot().clone();
        drop(transaction);
        let fixed = self.fix_in_transaction(namespace, &snapshot)?;
        // Only now: a namespace that refused this read told nothing that the commit depends on.
        let mut transaction = self.transaction();
        transaction.note_key(namespace, key);
        transaction.check_reads(Limits::of(&self.store.config).transaction_bytes)?;
        // The answer may look up something else.
        drop(transaction);
        let told = self.read_at(&fixed, key, bytes, answer)?;
        Ok(self.dependency(told.max(fixed.since)))
    }

    /// Runs a program in the transaction: what it writes goes there if it does not fail.
    pub(crate) fn write_in_transaction<R>(
        &mut self,
        namespace: NamespaceId,
        keys: &[&[u8]],
        program: &mut Program<'_, R>,
    ) -> Result<Committed<R>> {
        let mut set = std::mem::take(&mut self.set);
        set.sort(keys);
        set.clear_staged();
        let done = self.stage_in_transaction(namespace, keys, &mut set, program);
        set.shrink();
        self.set = set;
        done
    }

    fn stage_in_transaction<R>(
        &self,
        namespace: NamespaceId,
        keys: &[&[u8]],
        set: &mut WriteSet,
        program: &mut Program<'_, R>,
    ) -> Result<Committed<R>> {
        let limits = Limits::of(&self.store.config);
        // One for all that the program looks at: a key does not end while it is read.
        let now_ms = self.clock_ms();
        let mut lookup = InTransaction {
            engine: self,
            namespace,
            now_ms,
        };
        let mut access = Access {
            base: Base::Transaction(&mut lookup),
            keys,
            set: &mut *set,
            limits,
            now_ms,
            told: Lsn::ZERO,
            large: Vec::new(),
        };
        let result = program(&mut access).map_err(ProgramError::without_latches)?;
        let depends_on = self.dependency(access.told);
        let mut transaction = self.transaction();
        let staged = |index: &usize| set.keys[*index].staged != Staged::Nothing;
        let written: Vec<usize> = (0..keys.len()).filter(staged).collect();
        if !written.is_empty() {
            let cost = |index: &usize| match set.keys[*index].staged {
                Staged::Put { bytes, .. } => Transaction::cost_of(keys[*index], bytes),
                _ => Transaction::cost_of(keys[*index], 0),
            };
            let more = written.iter().map(cost).sum();
            transaction.check_writes(more, limits.transaction_bytes)?;
        }
        let mut writes = Vec::with_capacity(written.len());
        for index in &written {
            writes.push(match set.keys[*index].staged {
                Staged::Put {
                    at,
                    bytes,
                    expiry_ms,
                } => Write::Put {
                    value: copy_of(&set.arena[at..at + bytes], 0)?.into_boxed_slice(),
                    expiry_ms,
                },
                _ => Write::Delete,
            });
        }
        for (index, write) in written.into_iter().zip(writes) {
            transaction.write(namespace, keys[index], write);
        }
        Ok(Committed {
            result,
            lsn: Lsn::ZERO,
            depends_on,
        })
    }
}

/// Whether `id` is among those that are held alone: these are entries of the table, whatever namespace
/// has come into them since.
pub(super) fn is_held(alone: &[NamespaceId], id: NamespaceId) -> bool {
    alone.iter().any(|held| held.index() == id.index())
}

/// A transaction's part in one namespace, on its way to the commit.
struct Step<'t, 's> {
    namespace: NamespaceId,
    tree: Tree<'s>,
    space: &'t Space,
    keys: Vec<&'t [u8]>,
    isolation: Isolation,
    at: Lsn,
    at_ms: u64,
    /// Nobody else could commit in the namespace since the transaction began: nothing that it has
    /// read can have changed.
    is_alone: bool,
}

impl<'t, 's> Step<'t, 's> {
    fn new(
        namespace: NamespaceId,
        tree: Tree<'s>,
        space: &'t Space,
        transaction: &Transaction,
        is_alone: bool,
    ) -> Step<'t, 's> {
        Step {
            namespace,
            tree,
            space,
            keys: space.writes.keys().map(|key| &**key).collect(),
            isolation: transaction.isolation(),
            at: transaction.lsn(),
            at_ms: transaction.now_ms,
            is_alone,
        }
    }

    fn checks(&self) -> Checks<'_> {
        let checks_reads = self.isolation.checks_reads() && !self.is_alone;
        Checks {
            keys: &self.keys,
            writes: &self.space.writes,
            checks_writes: self.isolation.checks_writes(),
            reads: checks_reads.then_some(&self.space.reads),
            at: self.at,
            at_ms: self.at_ms,
            read_alone: self.is_alone.then_some(&self.space.reads),
        }
    }
}

/// Latches all leaves of all steps, checks and commits them. `set` serves for the first.
fn commit_steps(
    store: &Store,
    work: &mut Work,
    set: &mut WriteSet,
    steps: &[Step<'_, '_>],
) -> Result<Lsn> {
    let Some(first) = steps.first() else {
        // Deletes in namespaces that are empty.
        return Ok(Lsn::ZERO);
    };
    let mut claim = PageClaim::new(first.tree);
    let mut pins = Vec::new();
    for step in steps.iter() {
        validate::bring_in(step.tree, &step.checks(), &mut claim, &mut pins)?;
    }
    let mut more: Vec<WriteSet> = steps.iter().skip(1).map(|_| WriteSet::default()).collect();
    let mut latched = Vec::new();
    let sets = std::iter::once(&mut *set).chain(&mut more);
    for (step, set) in steps.iter().zip(sets) {
        set.sort(&step.keys);
        set.clear_staged();
        work.marks.turn_to(step.tree.file);
        latched.push(validate::latch(step.tree, work, set, &step.checks())?);
        for (index, write) in step.space.writes.values().enumerate() {
            set.stage(index, write)?;
        }
    }
    claim.reach(latched.iter().map(Latched::len).sum::<usize>() as u64)?;
    let sets = std::iter::once(&mut *set).chain(&mut more);
    let parts = steps.iter().zip(sets).zip(&mut latched);
    let mut parts: Vec<TreePart<'_, '_>> = parts
        .map(|((step, set), latched)| {
            let leaves = &mut latched.leaves;
            TreePart::new(step.tree, step.namespace, set, &step.keys, leaves)
        })
        .collect();
    commit::commit(store, work, &mut parts, &mut claim, None)
}

/// A program's view of its keys in a transaction.
struct InTransaction<'e> {
    engine: &'e Engine,
    namespace: NamespaceId,
    now_ms: u64,
}

impl Lookup for InTransaction<'_> {
    fn look_up(&mut self, key: &[u8], value: Option<&mut Vec<u8>>) -> Result<(Option<Meta>, Lsn)> {
        let mut found = None;
        let wants_bytes = value.is_some();
        let mut value = value;
        let mut has_room = Ok(());
        let engine = self.engine;
        let mut read = |shown: Option<Value<'_>>, meta| {
            found = meta;
            if let (Some(shown), Some(value)) = (shown, value.as_deref_mut()) {
                value.clear();
                has_room = make_room(value, shown.bytes.len());
                if has_room.is_ok() {
                    value.extend_from_slice(shown.bytes);
                }
            }
        };
        let (namespace, now_ms) = (self.namespace, self.now_ms);
        let told = engine.read_in_transaction(namespace, key, now_ms, wants_bytes, &mut read)?;
        let bytes = found.map_or(0, |meta: Meta| meta.bytes);
        has_room.map_err(|_| EngineError::no_memory(bytes, "a value that is read"))?;
        Ok((found, told))
    }
}

/// What the transaction's own write shows.
fn own(write: &Write, now_ms: u64) -> Option<Value<'_>> {
    match write {
        Write::Put { value, expiry_ms } if write.is_live(now_ms) => Some(Value {
            bytes: value,
            stamp: Lsn::ZERO,
            expiry_ms: *expiry_ms,
        }),
        _ => None,
    }
}

fn meta_of(value: &Value<'_>) -> Meta {
    Meta {
        stamp: value.stamp,
        bytes: value.bytes.len(),
        expiry_ms: value.expiry_ms,
    }
}
