//! Walks through a range within a transaction: its own writes, merged with what its snapshot shows.

use super::transaction::{Transaction, Write};
use crate::api::{Engine, RangeCursor, Read, View};
use crate::btree::Tree;
use crate::btree::scan::{self, Chunk, Place, Visit};
use crate::error::{EngineError, Result};
use crate::txn::visible::Meta;
use rd_base::Lsn;
use rd_store::Snapshot;
use rd_store::namespaces::NamespaceId;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// Entries of the snapshot that are read ahead at most.
const AHEAD_MAX: u64 = 512;
/// No further one is read ahead once there are so many bytes.
const AHEAD_BYTES_MAX: usize = 256 << 10;

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
    ahead: VecDeque<Ahead>,
    /// The last key that was shown or passed by; none before the first.
    last: Option<Vec<u8>>,
    /// Whether everything was visited.
    pub(crate) done: bool,
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
    Nothing,
}

impl Engine {
    /// [`Engine::range`] in a transaction.
    pub(crate) fn range_in_transaction(
        &self,
        namespace: NamespaceId,
        start: &[u8],
        end: Option<&[u8]>,
        limit: u64,
    ) -> Result<RangeCursor> {
        let snapshot = Arc::clone(self.transaction().snapshot());
        let fixed = self.fix_in_transaction(namespace, &snapshot)?;
        let place = Place {
            key: start.to_vec(),
            stamp: Lsn::MAX,
            end: end.map(<[u8]>::to_vec),
            done: fixed.file.is_none() || end.is_some_and(|end| end <= start),
        };
        if fixed.file.is_none() {
            // There is nothing to be read, and that was read.
            self.transaction().note_range(namespace, start, end);
        }
        let merge = Merge {
            namespace,
            start: start.to_vec(),
            ahead: VecDeque::new(),
            last: None,
            done: false,
            snapshot,
        };
        Ok(self.cursor(fixed, place, limit, Some(Box::new(merge))))
    }

    /// [`Engine::count`] in a transaction: what it sees, one by one.
    pub(crate) fn count_in_transaction(&self, namespace: NamespaceId) -> Result<Read<u64>> {
        let mut cursor = self.range_in_transaction(namespace, &[], None, u64::MAX)?;
        let chunk = Chunk {
            entries: u64::MAX,
            bytes: usize::MAX,
        };
        let mut result = 0;
        while self.range_next_keys(&mut cursor, chunk, &mut |_, _| result += 1)? {}
        let depends_on = cursor.depends_on();
        Ok(Read { result, depends_on })
    }

    /// The file of the namespace as the transaction sees it.
    pub(crate) fn fix_in_transaction(
        &self,
        namespace: NamespaceId,
        snapshot: &Snapshot,
    ) -> Result<crate::api::Fixed> {
        self.fix(namespace, View::At(snapshot))
            .map_err(|error| match error {
                EngineError::Replaced => EngineError::namespace_conflict(snapshot.lsn()),
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
        let (mut entries, mut bytes) = (0, 0);
        let now_ms = self.clock_ms();
        let wants_values = matches!(visit, Visit::Values(_));
        while entries < chunk.entries && bytes < chunk.bytes && cursor.left > 0 {
            if merge.ahead.is_empty() && !cursor.place.done {
                let chunk = Chunk {
                    entries: (chunk.entries - entries).min(cursor.left).min(AHEAD_MAX),
                    bytes: chunk.bytes.min(AHEAD_BYTES_MAX),
                };
                self.read_ahead(cursor, merge, chunk, wants_values)?;
                if merge.ahead.is_empty() && !cursor.place.done {
                    return Ok(());
                }
            }
            let end = cursor.place.end.as_deref();
            let next = merge.next(&self.transaction(), end, now_ms, wants_values);
            let mut shown = match next {
                Next::There(shown) | Next::Own(shown) => shown,
                Next::Gone(key) => {
                    merge.last = Some(key);
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
        let (at, place) = (cursor.at, &mut cursor.place);
        let walked = if wants_values {
            let visit = &mut |key: &[u8], value: &[u8]| {
                take(key, Some(value), meta_of(value, None));
            };
            scan::walk(tree, place, at, chunk, &mut Visit::Values(visit))?
        } else {
            let visit = &mut |key: &[u8], meta: &Meta| take(key, None, *meta);
            scan::walk(tree, place, at, chunk, &mut Visit::Keys(visit))?
        };
        cursor.depends_on = cursor.depends_on.max(self.dependency(walked.told));
        let mut transaction = self.transaction();
        if cursor.place.done {
            let end = cursor.place.end.as_deref();
            transaction.note_range(merge.namespace, &merge.start, end);
        } else {
            // The place is at or behind the last key that was looked at.
            let mut end = cursor.place.key.clone();
            end.push(0);
            transaction.note_range(merge.namespace, &merge.start, Some(&end));
        }
        let limits = super::access::Limits::of(&self.store.config);
        transaction.check_reads(limits.transaction_bytes)
    }
}

impl Merge {
    /// Takes the next entry, which ends before `end`.
    fn next(
        &mut self,
        transaction: &Transaction,
        end: Option<&[u8]>,
        now_ms: u64,
        wants_values: bool,
    ) -> Next {
        let from = match &self.last {
            Some(last) => Bound::Excluded(&last[..]),
            None => Bound::Included(&self.start[..]),
        };
        let own = transaction.writes(self.namespace).and_then(|writes| {
            let (key, write) = writes.range::<[u8], _>((from, Bound::Unbounded)).next()?;
            end.is_none_or(|end| **key < *end).then_some((key, write))
        });
        let there = self.ahead.front();
        let is_next = |key: &[u8]| there.is_none_or(|there| key <= &there.key[..]);
        let Some((key, write)) = own.filter(|(key, _)| is_next(key)) else {
            return self.ahead.pop_front().map_or(Next::Nothing, Next::There);
        };
        if there.is_some_and(|there| there.key[..] == key[..]) {
            self.ahead.pop_front();
        }
        let key = key.to_vec();
        match write {
            Write::Put { value, expiry_ms } if write.is_live(now_ms) => Next::Own(Ahead {
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
