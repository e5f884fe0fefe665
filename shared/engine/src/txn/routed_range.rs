//! Walks through a range within a transaction: its own writes, merged with what its snapshot shows.

use super::transaction::{Transaction, Write};
use crate::api::{Engine, RangeCursor, Read, View};
use crate::btree::Tree;
use crate::btree::scan::{self, Chunk, Place, Visit};
use crate::error::{EngineError, Result};
use rd_store::Snapshot;
use rd_store::namespaces::NamespaceId;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

/// Entries of the snapshot that are read ahead at most.
const AHEAD_MAX: u64 = 512;
/// No further one is read ahead once there are so many bytes.
const AHEAD_BYTES_MAX: usize = 256 << 10;

/// What a walk keeps beside its place in the tree.
#[derive(Clone)]
pub(crate) struct Merge {
    namespace: NamespaceId,
    start: Vec<u8>,
    /// Entries of the snapshot that were read and are not shown yet.
    ahead: VecDeque<(Vec<u8>, Vec<u8>)>,
    /// The last key that was shown or passed by; none before the first.
    last: Option<Vec<u8>>,
    /// Whether everything was visited.
    pub(crate) done: bool,
    /// Keeps what the walk will see, whatever becomes of the transaction.
    _snapshot: Arc<Snapshot>,
}

/// What comes next in a merge.
enum Next {
    /// From the snapshot: key and value.
    There(Vec<u8>, Vec<u8>),
    /// The transaction's own: the key, and the value if it has one.
    Own(Vec<u8>, Option<Box<[u8]>>),
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
            stamp: rd_base::Lsn::MAX,
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
            _snapshot: snapshot,
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
        while self.range_next_in_transaction(&mut cursor, chunk, &mut |_, _| result += 1)? {}
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

    /// [`Engine::range_next`] in a transaction.
    pub(crate) fn range_next_in_transaction(
        &self,
        cursor: &mut RangeCursor,
        chunk: Chunk,
        visit: &mut dyn FnMut(&[u8], &[u8]),
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
        visit: &mut dyn FnMut(&[u8], &[u8]),
    ) -> Result<()> {
        let (mut entries, mut bytes) = (0, 0);
        let now_ms = self.clock_ms();
        while entries < chunk.entries && bytes < chunk.bytes && cursor.left > 0 {
            if merge.ahead.is_empty() && !cursor.place.done {
                let wanted = (chunk.entries - entries).min(cursor.left).min(AHEAD_MAX);
                let chunk = Chunk {
                    entries: wanted,
                    bytes: chunk.bytes.min(AHEAD_BYTES_MAX),
                };
                self.read_ahead(cursor, merge, chunk)?;
                if merge.ahead.is_empty() && !cursor.place.done {
                    return Ok(());
                }
            }
            let transaction = self.transaction();
            let end = cursor.place.end.as_deref();
            let (key, value) = match merge.next(&transaction, end, now_ms) {
                Next::There(key, value) => (key, Some(value.into_boxed_slice())),
                Next::Own(key, value) => (key, value),
                Next::Nothing => {
                    merge.done = true;
                    return Ok(());
                }
            };
            drop(transaction);
            if let Some(value) = value {
                visit(&key, &value);
                entries += 1;
                bytes += key.len() + value.len();
                cursor.left -= 1;
            }
            merge.last = Some(key);
        }
        Ok(())
    }

    /// Reads the snapshot's next entries, and notes that they were read.
    fn read_ahead(&self, cursor: &mut RangeCursor, merge: &mut Merge, chunk: Chunk) -> Result<()> {
        let file = cursor.file.expect("a walk without a file is done");
        let tree = Tree {
            store: &self.store,
            file,
        };
        let ahead = &mut merge.ahead;
        let mut visit = |key: &[u8], value: &[u8]| ahead.push_back((key.to_vec(), value.to_vec()));
        let visit = &mut Visit::Values(&mut visit);
        let walked = scan::walk(tree, &mut cursor.place, cursor.at, chunk, visit)?;
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
    fn next(&mut self, transaction: &Transaction, end: Option<&[u8]>, now_ms: u64) -> Next {
        let from = match &self.last {
            Some(last) => Bound::Excluded(&last[..]),
            None => Bound::Included(&self.start[..]),
        };
        let own = transaction.writes(self.namespace).and_then(|writes| {
            let (key, write) = writes.range::<[u8], _>((from, Bound::Unbounded)).next()?;
            end.is_none_or(|end| **key < *end).then_some((key, write))
        });
        let there = self.ahead.front();
        let Some((key, write)) =
            own.filter(|(key, _)| there.is_none_or(|(there, _)| key[..] <= there[..]))
        else {
            return match self.ahead.pop_front() {
                Some((key, value)) => Next::There(key, value),
                None => Next::Nothing,
            };
        };
        if there.is_some_and(|(there, _)| there[..] == key[..]) {
            self.ahead.pop_front();
        }
        let value = match write {
            Write::Put { value, .. } if write.is_live(now_ms) => Some(value.clone()),
            _ => None,
        };
        Next::Own(key.to_vec(), value)
    }
}
