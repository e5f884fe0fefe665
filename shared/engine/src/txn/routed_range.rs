//! Walks through a range within a transaction: its own writes, merged with what its snapshot shows.

use super::transaction::{Transaction, Write};
use crate::api::{Engine, RangeCursor, View};
use crate::btree::Tree;
use crate::btree::course::Course;
use crate::btree::scan::{Chunk, Visit};
use crate::error::{EngineError, Result};
use crate::txn::visible::Meta;
use rd_base::Lsn;
use rd_store::Snapshot;
use rd_store::namespaces::NamespaceId;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// Entries of the snapshot that are read ahead at most.
const AHEAD_MAX: u64 = 512;
/// No further one is read ahead once there are so many bytes.
const AHEAD_BYTES_MAX: usize = 256 << 10;

/// Keys that the transaction itself has deleted and that are passed in a chunk, at most: there is
/// nothing to show of them, and the process has others to serve.
const GONE_PER_CHUNK_MAX: u32 = 4096;

/// An entry of the snapshot that was read and is not shown yet.
#[derive(Clone)]
struct Ahead {
    key: Vec<u8>,
    /// None if only the key was asked for.
    value: Option<Box<[u8]>>,
    meta: Meta,
}

/// What a walk keeps beside its place in the tree.
#[derive(Clone)]
pub(crate) struct Merge {
    namespace: NamespaceId,
    start: Vec<u8>,
    end: Option<Vec<u8>>,
    /// Whether it leads to smaller keys.
    descends: bool,
    ahead: VecDeque<Ahead>,
    /// The last key that was shown or passed by; none before the first.
    last: Option<Vec<u8>>,
    /// If the last chunk has ended for what it has come by: a key before which everything was visited.
    pub(crate) resume: Option<Vec<u8>>,
    /// Whether everything was visited.
    pub(crate) done: bool,
    /// The time by which the transaction's own writes have ended: the same in all walks of a range.
    pub(crate) now_ms: u64,
    /// Keeps what the walk will see, whatever becomes of the transaction.
    snapshot: Arc<Snapshot>,
}

/// What comes next in a merge.
enum Next {
    /// From the snapshot.
    There(Ahead),
    /// The transaction's own.
    Own(Ahead),
    /// A key that the transaction has deleted.
    Gone(Vec<u8>),
    /// Not known before more of the tree was read.
    Unknown,
    Nothing,
}

impl Engine {
    /// [`Engine::range`] in a transaction.
    pub(crate) fn range_in_transaction(
        &self,
        namespace: NamespaceId,
        (start, end): (&[u8], Option<&[u8]>),
        mut course: Course,
        limit: u64,
    ) -> Result<RangeCursor> {
        let snapshot = Arc::clone(self.transaction().snapshot());
        let fixed = self.fix_in_transaction(namespace, &snapshot)?;
        if fixed.file.is_none() {
            // There is nothing to be read, and that was read.
            self.transaction().note_range(namespace, start, end);
            course.end();
        }
        let merge = Merge {
            namespace,
            start: start.to_vec(),
            end: end.map(<[u8]>::to_vec),
            descends: matches!(course, Course::Down(_)),
            ahead: VecDeque::new(),
            last: None,
            resume: None,
            done: false,
            now_ms: self.clock_ms(),
            snapshot,
        };
        let mut cursor = self.cursor(fixed, course, limit, self.now_ms());
        cursor.merge = Some(Box::new(merge));
        Ok(cursor)
    }

    /// The file of the namespace as the transaction sees it.
    pub(crate) fn fix_in_transaction(
        &self,
        namespace: NamespaceId,
        snapshot: &Snapshot,
    ) -> Result<crate::api::Fixed> {
        self.fix(namespace, View::At(snapshot))
            .map_err(|error| match error {
                EngineError::Replaced => {
                    self.transaction().note_use(namespace);
                    EngineError::namespace_conflict(snapshot.lsn())
                }
                other => other,
            })
    }

    /// [`Engine::range_next`] and [`Engine::range_next_keys`] in a transaction.
    pub(crate) fn walk_in_transaction(
        &self,
        cursor: &mut RangeCursor,
        chunk: Chunk,
        visit: &mut Visit<'_>,
    ) -> Result<bool> {
        let mut merge = cursor.merge.take().expect("a walk in a transaction merges");
        let done = self.merge_next(cursor, &mut merge, chunk, visit);
        cursor.merge = Some(merge);
        done?;
        Ok(!cursor.is_done())
    }

    fn merge_next(
        &self,
        cursor: &mut RangeCursor,
        merge: &mut Merge,
        chunk: Chunk,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let (mut entries, mut bytes, mut gone) = (0, 0, 0);
        merge.resume = None;
        let mut has_read_in_vain = false;
        let wants_values = matches!(visit, Visit::Values(_));
        while entries < chunk.entries && bytes < chunk.bytes && cursor.left > 0 {
            let next = merge.next(&self.transaction(), &cursor.course, wants_values);
            let mut shown = match next {
                Next::There(shown) | Next::Own(shown) => shown,
                Next::Gone(mut key) => {
                    merge.last = Some(key.clone());
                    gone += 1;
                    if gone == GONE_PER_CHUNK_MAX {
                        key.push(0);
                        merge.resume = Some(key);
                        return Ok(());
                    }
                    continue;
                }
                Next::Unknown if has_read_in_vain => {
                    if let Course::Up(place) = &cursor.course {
                        merge.resume = Some(place.key.clone());
                    }
                    return Ok(());
                }
                Next::Unknown => {
                    let chunk = Chunk {
                        entries: (chunk.entries - entries).min(cursor.left).min(AHEAD_MAX),
                        bytes: chunk.bytes.min(AHEAD_BYTES_MAX),
                    };
                    self.read_ahead(cursor, merge, chunk, wants_values)?;
                    has_read_in_vain = merge.ahead.is_empty() && !cursor.course.is_done();
                    continue;
                }
                Next::Nothing => {
                    merge.done = true;
                    return Ok(());
                }
            };
            if wants_values && shown.value.is_none() {
                shown.value = Some(self.value_at(merge, &shown.key)?);
            }
            let value = shown.value.as_deref().unwrap_or(&[]);
            match visit {
                Visit::Values(visit) => visit(&shown.key, value),
                Visit::Keys(visit) => visit(&shown.key, &shown.meta),
            }
            entries += 1;
            bytes += shown.key.len() + value.len();
            cursor.left -= 1;
            merge.last = Some(shown.key);
        }
        Ok(())
    }

    /// The value of a key that the walk has come by when it was asked for keys only.
    fn value_at(&self, merge: &Merge, key: &[u8]) -> Result<Box<[u8]>> {
        let fixed = self.fix_in_transaction(merge.namespace, &merge.snapshot)?;
        let mut bytes = Box::default();
        self.read_at(&fixed, key, true, &mut |value, _| {
            bytes = value.map_or(Box::default(), |value| value.bytes.into());
        })?;
        Ok(bytes)
    }

    /// Reads the snapshot's next entries, and notes that they were read.
    fn read_ahead(
        &self,
        cursor: &mut RangeCursor,
        merge: &mut Merge,
        chunk: Chunk,
        wants_values: bool,
    ) -> Result<()> {
        let file = cursor.file.expect("a walk without a file is done");
        let tree = Tree {
            store: &self.store,
            file,
        };
        let ahead = &mut merge.ahead;
        let mut take = |key: &[u8], value: Option<&[u8]>, meta: Meta| {
            let (key, value) = (key.to_vec(), value.map(Box::from));
            ahead.push_back(Ahead { key, value, meta });
        };
        let (at, course) = (cursor.at, &mut cursor.course);
        let walked = if wants_values {
            let visit = &mut |key: &[u8], value: &[u8]| {
                take(key, Some(value), meta_of(value, None));
            };
            course.walk(tree, at, chunk, &mut Visit::Values(visit))?
        } else {
            let visit = &mut |key: &[u8], meta: &Meta| take(key, None, *meta);
            course.walk(tree, at, chunk, &mut Visit::Keys(visit))?
        };
        cursor.depends_on = cursor.depends_on.max(self.dependency(walked.told));
        let mut transaction = self.transaction();
        let (start, end) = cursor.course.passed(&merge.start, merge.end.as_deref());
        transaction.note_range(merge.namespace, &start, end.as_deref());
        let limits = super::access::Limits::of(&self.store.config);
        transaction.check_reads(limits.transaction_bytes)
    }
}

impl Merge {
    /// The transaction's own write that comes next.
    fn own<'t>(&self, transaction: &'t Transaction) -> Option<(&'t [u8], &'t Write)> {
        let writes = transaction.writes(self.namespace)?;
        let last = self.last.as_deref().map(Bound::Excluded);
        let (key, write) = if self.descends {
            let end = self.end.as_deref().map(Bound::Excluded);
            let until = last.or(end).unwrap_or(Bound::Unbounded);
            let mut below = writes.range::<[u8], _>((Bound::Unbounded, until));
            below
                .next_back()
                .filter(|(key, _)| key[..] >= self.start[..])?
        } else {
            let from = last.unwrap_or(Bound::Included(&self.start[..]));
            let mut above = writes.range::<[u8], _>((from, Bound::Unbounded));
            let is_in = |key: &[u8]| self.end.as_deref().is_none_or(|end| key < end);
            above.next().filter(|(key, _)| is_in(key))?
        };
        Some((key, write))
    }

    /// Takes the next entry. `course` is that of the walk through the tree.
    fn next(&mut self, transaction: &Transaction, course: &Course, wants_values: bool) -> Next {
        let own = self.own(transaction);
        let there = self.ahead.front();
        if there.is_none() && !course.is_done() {
            // Before its place the tree has nothing more; so an own key there is the next, and a later
            // walk from that place leaves none out.
            let is_passed = |(key, _): &(&[u8], &Write)| match course {
                Course::Up(place) => *key < &place.key[..],
                Course::Down(_) => false,
            };
            if !own.as_ref().is_some_and(is_passed) {
                return Next::Unknown;
            }
        }
        let is_next = |key: &[u8]| match there.map(|there| key.cmp(&there.key[..])) {
            None | Some(Ordering::Equal) => true,
            Some(order) => (order == Ordering::Greater) == self.descends,
        };
        let Some((key, write)) = own.filter(|(key, _)| is_next(key)) else {
            return self.ahead.pop_front().map_or(Next::Nothing, Next::There);
        };
        if there.is_some_and(|there| there.key[..] == key[..]) {
            self.ahead.pop_front();
        }
        let key = key.to_vec();
        match write {
            Write::Put { value, expiry_ms } if write.is_live(self.now_ms) => Next::Own(Ahead {
                key,
                meta: meta_of(value, *expiry_ms),
                value: wants_values.then(|| value.clone()),
            }),
            _ => Next::Gone(key),
        }
    }
}

/// What is known of a value whose stamp does not matter.
fn meta_of(value: &[u8], expiry_ms: Option<u64>) -> Meta {
    Meta {
        stamp: Lsn::ZERO,
        bytes: value.len(),
        expiry_ms,
    }
}
