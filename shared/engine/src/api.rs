//! The engine's door: what a backend calls.
//!
//! One [`Engine`] per process. Its operations wait for latches, for pages that are read from disk
//! and for clean frames; a record that is larger than what is free in the ring waits, latches held,
//! for the flusher, who needs none; and what changes a namespace as a whole waits for the commits
//! under way in it. What would wait for longer, as for operations that have a namespace alone, says
//! [`EngineError::Park`] and is to be run again later.
//!
//! # Epochs
//!
//! Every operation enters the current epoch (see `rd_store::procs`), and stays in it: a backend
//! calls [`Engine::rest`] before it sleeps.
//!
//! # Transactions of several commands
//!
//! While one is attached ([`Engine::attach`]) all operations are part of it (`txn::routed`).

use crate::btree::Tree;
use crate::btree::course::Course;
use crate::btree::scan::{At, Chunk, Visit};
use crate::chores::finish_splits;
use crate::error::{EngineError, Result};
use crate::namespace;
use crate::namespace::access::{check_file, check_readable, share};
use crate::overflow;
use crate::txn::access::WriteSet;
use crate::txn::routed_range::Merge;
use crate::txn::transaction::{Isolation, Transaction};
use crate::txn::visible::{Meta, Seen, visible};
use crate::txn::write::{self, Committed, Program};
use crate::work::Work;
use rd_base::{FileNo, Lsn};
use rd_format::bitmap::ROOT_BLOCK;
use rd_format::catalog::CATALOG_FILE;
use rd_format::{NodeRef, OverflowStub};
use rd_store::namespaces::{Found, Lies, NamespaceId};
use rd_store::{Snapshot, Store};
use std::cell::{Cell, RefCell, RefMut};
use std::sync::Arc;

/// Chores that a write does after it is done.
const CHORES_PER_WRITE: usize = 2;

/// At what a read looks.
#[derive(Clone, Copy)]
pub enum View<'a> {
    /// What a crash cannot take back.
    Durable,
    /// The newest there is: for sessions whose queued replies wait for an LSN.
    Newest,
    /// A snapshot that was taken before.
    At(&'a Snapshot),
    /// The same, by a clock that shows so many milliseconds since 1970: several reads see one moment only
    /// if no key ends between them.
    AtTime(&'a Snapshot, u64),
}

/// A value, as a read shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// End LSN of the record that wrote it.
    pub stamp: Lsn,
    /// When it ends to be there, in milliseconds since 1970.
    pub expiry_ms: Option<u64>,
}

/// What a read has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read<R> {
    /// What was made of it.
    pub result: R,
    /// The greatest stamp among the versions shown, or that hide a key, which is not durable yet:
    /// the reply must wait for it. Zero if there is none.
    pub depends_on: Lsn,
}

/// A walk through a range of keys, in chunks. It looks at one snapshot, at one time of day. A copy
/// goes on from the same place, and sees the same.
#[derive(Clone)]
pub struct RangeCursor {
    /// The file of the namespace at the snapshot; none if there was no such namespace.
    pub(crate) file: Option<FileNo>,
    pub(crate) at: At,
    pub(crate) course: Course,
    /// Entries still to be visited.
    pub(crate) left: u64,
    pub(crate) depends_on: Lsn,
    /// Keeps what the walk will see, unless the caller's own snapshot does.
    _snapshot: Option<Arc<Snapshot>>,
    /// For a walk within a transaction: its own writes.
    pub(crate) merge: Option<Box<Merge>>,
}

impl RangeCursor {
    /// The greatest stamp among the versions visited, or that hide a key, which was not durable
    /// when it was visited; zero if there is none.
    pub fn depends_on(&self) -> Lsn {
        self.depends_on
    }

    /// A key at or before the next one to be visited, for a later walk to go on from; none for a walk
    /// to smaller keys. Within a transaction, whose own writes lie beside the tree, it is known only
    /// if the last chunk has ended for what it has come by, and not for what it has shown.
    pub fn resume_key(&self) -> Option<&[u8]> {
        match (&self.course, &self.merge) {
            (Course::Up(place), None) => Some(&place.key),
            (Course::Up(_), Some(merge)) => merge.resume.as_deref(),
            (Course::Down(_), _) => None,
        }
    }

    /// Also visits keys whose time has come and that nobody has removed yet.
    pub(crate) fn visit_ended(&mut self) {
        self.at.now_ms = 0;
        if let Some(merge) = &mut self.merge {
            merge.now_ms = 0;
        }
    }

    /// Whether everything was visited.
    pub fn is_done(&self) -> bool {
        let is_at_end = match &self.merge {
            Some(merge) => merge.done,
            None => self.course.is_done(),
        };
        is_at_end || self.left == 0
    }
}

/// The engine of one process.
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) work: Work,
    pub(crate) set: WriteSet,
    /// The transaction that operations are part of.
    pub(crate) current: Option<RefCell<Box<Transaction>>>,
    /// The epoch that was entered; 0 is none.
    epoch: Cell<u64>,
}

/// A snapshot of a namespace.
pub(crate) struct Fixed {
    at: Lsn,
    /// The namespace's file at that LSN; none if there was no such namespace.
    pub(crate) file: Option<FileNo>,
    /// Since when it lies there.
    pub(crate) since: Lsn,
    /// Keeps what is seen, unless the caller's own snapshot does.
    snapshot: Option<Snapshot>,
}

impl Fixed {
    /// The newest in the file that a namespace lay in before it got another; the caller's snapshot
    /// keeps it.
    pub(crate) fn newest(file: FileNo, since: Lsn) -> Fixed {
        Fixed {
            at: Lsn::MAX,
            file: Some(file),
            since,
            snapshot: None,
        }
    }
}

/// What a leaf has shown under its latch, that it takes more to answer.
enum Shown<R> {
    Answer(R),
    /// Large, or on another leaf: to be read at a snapshot.
    NeedsSnapshot,
    /// The namespace has got another file, or gets one.
    Moved,
}

impl Engine {
    /// The engine of the process that owns `store`. Recovery must be done.
    pub fn open(store: Store) -> Engine {
        Engine {
            store,
            work: Work::new(),
            set: WriteSet::default(),
            current: None,
            epoch: Cell::new(0),
        }
    }

    /// What the engine works on.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// To replace the configuration after a reload.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The namespace at `index` of the shared table, if there is one.
    pub fn namespace(&self, index: usize) -> Option<NamespaceId> {
        let namespaces = &self.store.shared.namespaces;
        let id = NamespaceId::new(index).map(|first| namespaces.id_at(first.index()))?;
        namespaces.entry(id).place().map(|_| id)
    }

    /// Says that no descent is under way and none will be until the next operation: to be called
    /// before the process sleeps.
    pub fn rest(&self) {
        if self.epoch.replace(0) != 0 {
            self.work.ahead.forget();
            self.store.shared.procs.leave_epoch(self.store.slot);
        }
    }

    /// Enters the current epoch; what was read before is not looked at any more.
    #[inline]
    pub(crate) fn enter(&self) {
        let procs = &self.store.shared.procs;
        let now = procs.epoch();
        if self.epoch.get() != now {
            self.work.ahead.forget();
            procs.enter_epoch(self.store.slot);
            // It may have moved on in between: then the next operation enters again.
            self.epoch.set(now);
        }
    }

    /// Looks ahead: `keys` are those that the next operations of a client will probably ask for, in
    /// that order. They will find them faster; the answers are the same. Waits for nothing, and
    /// asks for no page that is not in memory.
    pub fn look_ahead<'k>(&mut self, namespace: NamespaceId, keys: impl Iterator<Item = &'k [u8]>) {
        self.enter();
        let store = &self.store;
        let entry = store.shared.namespaces.entry(namespace);
        match entry.lies() {
            Lies::In(_) if entry.access().is_offline() => self.work.ahead.forget(),
            Lies::In(file) => self.work.ahead.look(Tree { store, file }, keys),
            Lies::Absent | Lies::Empty => self.work.ahead.forget(),
        }
    }

    /// The clock by which a command runs, in milliseconds since 1970: what clients give counts from it,
    /// and what a transaction has written itself ends by it. For EXEC it stands still: its commands are
    /// one, and a key that the first of them has found does not end before the last.
    pub fn clock_ms(&self) -> u64 {
        let current = self.current.as_ref().map(RefCell::borrow);
        match current.filter(|current| current.isolation() == Isolation::Exec) {
            Some(current) => current.now_ms,
            None => self.store.clock.wall_us() / 1000,
        }
    }

    /// The time by which versions expire: a transaction sees one moment.
    pub(crate) fn now_ms(&self) -> u64 {
        match &self.current {
            Some(current) => current.borrow().now_ms,
            None => self.clock_ms(),
        }
    }

    /// The transaction that is attached.
    pub(crate) fn transaction(&self) -> RefMut<'_, Box<Transaction>> {
        let current = self.current.as_ref();
        current
            .expect("asked for within a transaction")
            .borrow_mut()
    }

    /// `lsn` if it is not durable yet, else zero.
    #[inline]
    pub(crate) fn dependency(&self, lsn: Lsn) -> Lsn {
        if lsn > self.store.shared.wal.durable_lsn() {
            lsn
        } else {
            Lsn::ZERO
        }
    }

    /// Takes a snapshot of what is durable; it is held until dropped.
    ///
    /// # Errors
    /// When the process holds too many.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let shared = &self.store.shared;
        Ok(shared
            .snapshots
            .publish_durable(&shared.wal, self.store.slot)?)
    }

    /// Takes a snapshot of the newest there is.
    ///
    /// # Errors
    /// When the process holds too many.
    pub fn snapshot_newest(&self) -> Result<Snapshot> {
        let shared = &self.store.shared;
        Ok(shared
            .snapshots
            .publish_insert(&shared.wal, self.store.slot)?)
    }

    fn snapshot_for(&self, view: View<'_>) -> Result<(Lsn, Option<Snapshot>)> {
        let snapshot = match view {
            View::At(snapshot) | View::AtTime(snapshot, _) => return Ok((snapshot.lsn(), None)),
            View::Durable => self.snapshot()?,
            View::Newest => self.snapshot_newest()?,
        };
        Ok((snapshot.lsn(), Some(snapshot)))
    }

    /// Reads a key. `answer` is called once, with its value or `None`; under the latch of its page,
    /// so it should be quick.
    ///
    /// # Errors
    /// When there is no such namespace, or a page cannot be read.
    pub fn get<R>(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        view: View<'_>,
        answer: impl FnOnce(Option<Value<'_>>) -> R,
    ) -> Result<Read<R>> {
        let mut answer = Some(answer);
        let take = |value: Option<Value<'_>>| {
            let answer = answer.take().expect("a read answers once");
            answer(value)
        };
        self.read(namespace, key, view, true, take)
    }

    /// What is known of a key's value, without its bytes: `None` if there is none.
    ///
    /// # Errors
    /// As for [`Engine::get`].
    pub fn meta(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        view: View<'_>,
    ) -> Result<Read<Option<Meta>>> {
        let mut meta = None;
        let read = self.read_with(namespace, key, view, false, &mut |_, found| meta = found)?;
        Ok(Read {
            result: meta,
            depends_on: read,
        })
    }

    /// Reads several keys at one snapshot. `answer` is called once for each, in order, with its
    /// index.
    ///
    /// # Errors
    /// As for [`Engine::get`], and when the process holds too many snapshots.
    pub fn multi_get(
        &self,
        namespace: NamespaceId,
        keys: &[&[u8]],
        view: View<'_>,
        answer: &mut dyn FnMut(usize, Option<Value<'_>>),
    ) -> Result<Lsn> {
        self.enter();
        let now_ms = self.time_of(view);
        if self.current.is_some() {
            let mut depends_on = Lsn::ZERO;
            for (index, key) in keys.iter().enumerate() {
                let answer = &mut |value: Option<Value<'_>>, _| answer(index, value);
                let told = self.read_in_transaction(namespace, key, now_ms, true, answer)?;
                depends_on = depends_on.max(told);
            }
            return Ok(depends_on);
        }
        let fixed = self.fix(namespace, view)?;
        let mut depends_on = fixed.since;
        for (index, key) in keys.iter().enumerate() {
            let answer = &mut |value: Option<Value<'_>>, _| answer(index, value);
            let told = self.read_at_time(&fixed, key, now_ms, true, answer)?;
            depends_on = depends_on.max(told);
        }
        Ok(self.dependency(depends_on))
    }

    /// Publishes a snapshot for `view` and finds the namespace's file of that time.
    pub(crate) fn fix(&self, namespace: NamespaceId, view: View<'_>) -> Result<Fixed> {
        let entry = self.store.shared.namespaces.entry(namespace);
        check_readable(&entry)?;
        loop {
            let (at, snapshot) = self.snapshot_for(view)?;
            let (file, since) = match entry.at(at) {
                Found::At(place) if place.lies == Lies::Absent => {
                    return Err(EngineError::NoNamespace);
                }
                Found::At(place) => (place.lies.file(), place.content_since),
                Found::Nothing => (None, Lsn::ZERO),
                Found::Gone => return Err(EngineError::NoNamespace),
                Found::Replaced if snapshot.is_none() => return Err(EngineError::Replaced),
                // All these changes since the snapshot was taken, a moment ago: take a new one.
                Found::Replaced => continue,
            };
            return Ok(Fixed {
                at,
                file,
                since,
                snapshot,
            });
        }
    }

    /// The time by which keys end at `view`; in a transaction, those that it has written itself.
    fn time_of(&self, view: View<'_>) -> u64 {
        match view {
            View::AtTime(_, now_ms) => now_ms,
            _ => self.clock_ms(),
        }
    }

    fn read<R>(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        view: View<'_>,
        bytes: bool,
        mut answer: impl FnMut(Option<Value<'_>>) -> R,
    ) -> Result<Read<R>> {
        let mut result = None;
        let depends_on = self.read_with(namespace, key, view, bytes, &mut |value, _| {
            result = Some(answer(value));
        })?;
        Ok(Read {
            result: result.expect("a read answers once"),
            depends_on,
        })
    }

    /// Reads a key at `view`, calling `answer` once. Without `bytes` a value counts by its meta,
    /// and is given no bytes if it is large. Returns what the reply depends on.
    fn read_with(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        view: View<'_>,
        bytes: bool,
        answer: &mut dyn FnMut(Option<Value<'_>>, Option<Meta>),
    ) -> Result<Lsn> {
        self.enter();
        if self.current.is_some() {
            return self.read_in_transaction(namespace, key, self.time_of(view), bytes, answer);
        }
        if let View::At(_) | View::AtTime(..) = view {
            let fixed = self.fix(namespace, view)?;
            let told = self.read_at_time(&fixed, key, self.time_of(view), bytes, answer)?;
            return Ok(self.dependency(told.max(fixed.since)));
        }
        let newest = matches!(view, View::Newest);
        loop {
            match self.read_now(namespace, key, newest, bytes, answer)? {
                Shown::Answer(told) => return Ok(self.dependency(told)),
                Shown::Moved => {}
                Shown::NeedsSnapshot => {
                    let fixed = self.fix(namespace, view)?;
                    let told = self.read_at(&fixed, key, bytes, answer)?;
                    return Ok(self.dependency(told.max(fixed.since)));
                }
            }
        }
    }

    /// Reads a key under the latch of its leaf, without a snapshot: at the durable LSN, which is
    /// loaded under the latch, or the newest version.
    #[inline]
    fn read_now(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        newest: bool,
        bytes: bool,
        answer: &mut dyn FnMut(Option<Value<'_>>, Option<Meta>),
    ) -> Result<Shown<Lsn>> {
        let wal = &self.store.shared.wal;
        let entry = self.store.shared.namespaces.entry(namespace);
        let at = if newest { Lsn::MAX } else { wal.durable_lsn() };
        let place = match entry.at(at) {
            Found::At(place) => place,
            Found::Nothing => {
                answer(None, None);
                return Ok(Shown::Answer(Lsn::ZERO));
            }
            Found::Gone => return Err(EngineError::NoNamespace),
            // The LSN was loaded before these changes became durable.
            Found::Replaced => return Ok(Shown::Moved),
        };
        check_readable(&entry)?;
        let since = if newest {
            place.content_since
        } else {
            Lsn::ZERO
        };
        let file = match place.lies {
            Lies::In(file) => file,
            Lies::Empty => {
                answer(None, None);
                return Ok(Shown::Answer(since));
            }
            Lies::Absent => return Err(EngineError::NoNamespace),
        };
        let from = self.work.ahead.leaf_of(file, key).unwrap_or(ROOT_BLOCK);
        let leaf = Tree {
            store: &self.store,
            file,
        }
        .leaf_for_read_from(from, key, Lsn::MAX)?;
        let at = if newest { Lsn::MAX } else { wal.durable_lsn() };
        // Now that the snapshot is fixed: the file must be the namespace's at that LSN. Not waited
        // for: whoever changes the entry may wait for others, and they for this leaf.
        if !matches!(entry.try_at(at), Some(Found::At(now)) if now.lies == place.lies) {
            return Ok(Shown::Moved);
        }
        let told = match visible(&NodeRef::new(&leaf), key, at, || self.now_ms()) {
            Seen::Inline(value, meta) => {
                answer(Some(value_of(value, &meta)), Some(meta));
                meta.stamp
            }
            Seen::Large(_, meta) if !bytes => {
                answer(None, Some(meta));
                meta.stamp
            }
            Seen::Large(..) | Seen::Beyond => return Ok(Shown::NeedsSnapshot),
            Seen::Deleted(stamp) => {
                answer(None, None);
                stamp
            }
            Seen::Nothing => {
                answer(None, None);
                Lsn::ZERO
            }
        };
        Ok(Shown::Answer(told.max(since)))
    }

    /// Reads a key at a published snapshot. Returns the stamp of what it was told.
    pub(crate) fn read_at(
        &self,
        fixed: &Fixed,
        key: &[u8],
        bytes: bool,
        answer: &mut dyn FnMut(Option<Value<'_>>, Option<Meta>),
    ) -> Result<Lsn> {
        self.read_at_time(fixed, key, self.now_ms(), bytes, answer)
    }

    /// [`Engine::read_at`] by a clock that shows `now_ms`.
    pub(crate) fn read_at_time(
        &self,
        fixed: &Fixed,
        key: &[u8],
        now_ms: u64,
        bytes: bool,
        answer: &mut dyn FnMut(Option<Value<'_>>, Option<Meta>),
    ) -> Result<Lsn> {
        let Some(file) = fixed.file else {
            answer(None, None);
            return Ok(Lsn::ZERO);
        };
        check_file(&self.store, file)?;
        let tree = Tree {
            store: &self.store,
            file,
        };
        let mut stamp = fixed.at;
        let told = loop {
            let leaf = tree.leaf_for_read(key, stamp)?;
            let node = NodeRef::new(&leaf);
            match visible(&node, key, stamp, || now_ms) {
                Seen::Inline(value, meta) => {
                    answer(Some(value_of(value, &meta)), Some(meta));
                    break meta.stamp;
                }
                Seen::Large(stub, meta) => {
                    drop(leaf);
                    self.answer_large(tree, &stub, meta, bytes, answer)?;
                    break meta.stamp;
                }
                Seen::Deleted(stamp) => {
                    answer(None, None);
                    break stamp;
                }
                Seen::Nothing => {
                    answer(None, None);
                    break Lsn::ZERO;
                }
                // The high key is the first version on the right sibling: not above the snapshot.
                Seen::Beyond => stamp = node.high_key().map_or(Lsn::ZERO, |high| high.stamp),
            }
        };
        Ok(told)
    }

    fn answer_large(
        &self,
        tree: Tree<'_>,
        stub: &OverflowStub,
        meta: Meta,
        bytes: bool,
        answer: &mut dyn FnMut(Option<Value<'_>>, Option<Meta>),
    ) -> Result<()> {
        if !bytes {
            answer(None, Some(meta));
            return Ok(());
        }
        let mut value = Vec::new();
        overflow::read(tree, stub, &mut value)?;
        answer(Some(value_of(&value, &meta)), Some(meta));
        Ok(())
    }

    /// Begins a walk through the keys from `start` to before `end` (`None`: to the last), at most
    /// `limit` entries.
    ///
    /// # Errors
    /// When there is no such namespace, or the process holds too many snapshots.
    pub fn range(
        &self,
        namespace: NamespaceId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u64,
        view: View<'_>,
    ) -> Result<RangeCursor> {
        self.begin_walk(namespace, (start, end), false, limit, view)
    }

    /// Begins a walk through the same keys as [`Engine::range`] does, in descending order.
    ///
    /// # Errors
    /// As for [`Engine::range`].
    pub fn range_descending(
        &self,
        namespace: NamespaceId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u64,
        view: View<'_>,
    ) -> Result<RangeCursor> {
        self.begin_walk(namespace, (start, end), true, limit, view)
    }

    fn begin_walk(
        &self,
        namespace: NamespaceId,
        range: (&[u8], Option<&[u8]>),
        descending: bool,
        limit: u64,
        view: View<'_>,
    ) -> Result<RangeCursor> {
        let mut course = Course::new(range.0, range.1, descending);
        self.enter();
        if self.current.is_some() {
            return self.range_in_transaction(namespace, range, course, limit);
        }
        let fixed = self.fix(namespace, view)?;
        if fixed.file.is_none() {
            course.end();
        }
        Ok(self.cursor(fixed, course, limit, self.time_of(view)))
    }

    pub(crate) fn cursor(
        &self,
        fixed: Fixed,
        course: Course,
        limit: u64,
        now_ms: u64,
    ) -> RangeCursor {
        RangeCursor {
            file: fixed.file,
            at: At {
                lsn: fixed.at,
                now_ms,
            },
            course,
            left: limit,
            depends_on: self.dependency(fixed.since),
            _snapshot: fixed.snapshot.map(Arc::new),
            merge: None,
        }
    }

    /// Visits the next entries of a walk: key and value. Returns whether there may be more, also if
    /// it has come by none that is there.
    ///
    /// # Errors
    /// When a page cannot be read. The walk stands before the entry that could not be read.
    pub fn range_next(
        &self,
        cursor: &mut RangeCursor,
        chunk: Chunk,
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<bool> {
        self.walk(cursor, chunk, &mut Visit::Values(visit))
    }

    /// Visits the next entries of a walk: key, and what is known of the value, which is not read.
    /// So the bytes of a chunk are those of the keys. Returns whether there may be more.
    ///
    /// # Errors
    /// When a page cannot be read. The walk stands before the entry that could not be read.
    pub fn range_next_keys(
        &self,
        cursor: &mut RangeCursor,
        chunk: Chunk,
        visit: &mut dyn FnMut(&[u8], &Meta),
    ) -> Result<bool> {
        self.walk(cursor, chunk, &mut Visit::Keys(visit))
    }

    fn walk(&self, cursor: &mut RangeCursor, chunk: Chunk, visit: &mut Visit<'_>) -> Result<bool> {
        self.enter();
        if let Some(file) = cursor.file {
            check_file(&self.store, file)?;
        }
        if cursor.merge.is_some() {
            return self.walk_in_transaction(cursor, chunk, visit);
        }
        let Some(file) = cursor.file else {
            return Ok(false);
        };
        let chunk = Chunk {
            entries: chunk.entries.min(cursor.left),
            ..chunk
        };
        let tree = Tree {
            store: &self.store,
            file,
        };
        let walked = cursor.course.walk(tree, cursor.at, chunk, visit)?;
        cursor.left -= walked.entries;
        cursor.depends_on = cursor.depends_on.max(self.dependency(walked.told));
        Ok(!cursor.is_done())
    }

    /// How many keys the namespace has, commits included that are not durable yet: so the reply
    /// depends on all there are. A key whose time has come counts until it is deleted. Not for
    /// transactions: what one of them sees can only be gone through.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn count(&self, namespace: NamespaceId) -> Result<Read<u64>> {
        assert!(self.current.is_none(), "a transaction goes through a range");
        let entry = self.store.shared.namespaces.entry(namespace);
        let place = entry.place().ok_or(EngineError::NoNamespace)?;
        check_readable(&entry)?;
        let files = &self.store.shared.files;
        let result = place.lies.file().map_or(0, |file| files.keys(file));
        // Read afterwards: whatever was counted is below.
        let depends_on = self.dependency(self.store.shared.wal.insert_lsn());
        Ok(Read { result, depends_on })
    }

    /// Runs `program` on `keys`, all of them of one namespace, and commits what it writes as one
    /// record. It sees the newest versions and nobody writes to these keys meanwhile; it may run
    /// more than once, and must depend only on what it is told.
    ///
    /// # Errors
    /// Nothing of it has happened then. [`EngineError::Park`] means: not now.
    pub fn write<R>(
        &mut self,
        namespace: NamespaceId,
        keys: &[&[u8]],
        program: &mut Program<'_, R>,
    ) -> Result<Committed<R>> {
        self.enter();
        if self.current.is_some() {
            return self.write_in_transaction(namespace, keys, program);
        }
        let Engine {
            store, work, set, ..
        } = self;
        let entry = store.shared.namespaces.entry(namespace);
        let committed = loop {
            let held = share(&entry)?;
            check_readable(&entry)?;
            let file = match entry.lies() {
                Lies::In(file) => file,
                Lies::Absent => return Err(EngineError::NoNamespace),
                Lies::Empty => {
                    work.begin(store, namespace, CATALOG_FILE);
                    let done = write::run_on_nothing(store, work, set, keys, program)?;
                    if let Some(result) = done {
                        break Committed {
                            result,
                            lsn: Lsn::ZERO,
                            depends_on: not_found_since(store, namespace),
                        };
                    }
                    drop(held);
                    namespace::give_file(store, work, set, namespace, false)?;
                    continue;
                }
            };
            let tree = Tree { store, file };
            work.turn_to(namespace, file);
            let mut committed = write::run(tree, work, set, keys, program, None)?;
            if committed.lsn == Lsn::ZERO {
                let since = not_found_since(store, namespace);
                committed.depends_on = committed.depends_on.max(since);
            }
            finish_splits(store, work);
            break committed;
        };
        if self.work.chore_count() > 0 {
            self.tidy(CHORES_PER_WRITE);
        }
        Ok(committed)
    }
}

/// What a program that found nothing depends on: what it did not find may have gone with what the
/// namespace held before.
fn not_found_since(store: &Store, namespace: NamespaceId) -> Lsn {
    let place = store.shared.namespaces.entry(namespace).place();
    let since = place.map_or(Lsn::ZERO, |place| place.content_since);
    if since > store.shared.wal.durable_lsn() {
        since
    } else {
        Lsn::ZERO
    }
}

fn value_of<'a>(bytes: &'a [u8], meta: &Meta) -> Value<'a> {
    Value {
        bytes,
        stamp: meta.stamp,
        expiry_ms: meta.expiry_ms,
    }
}
