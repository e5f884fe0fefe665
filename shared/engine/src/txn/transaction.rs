//! A transaction of several commands, as long as it is open: its snapshot, what it has written, and
//! what it has read.
//!
//! Invariants:
//! - Nothing of it is on a page before its commit: dropping it is the whole rollback.
//! - An open transaction holds a published snapshot and memory, no latch and no pin.
//! - What is read is noted only if the commit will check it.

use super::reads::Reads;
use crate::error::{EngineError, MAX_TRANSACTION_SIZE, Result};
use rd_base::Lsn;
use rd_store::Snapshot;
use rd_store::namespaces::NamespaceId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes that an entry of the maps takes beside key and value.
pub(crate) const ENTRY_BYTES: usize = 64;

/// What a transaction is kept apart from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Reads see one moment; who writes a key that was changed since then fails.
    Snapshot,
    /// Besides, fails if anything was changed that was read.
    Serializable,
    /// For commands that are known beforehand and can be run again: fails only if anything was
    /// changed that was read. A key that is written without being read may have changed.
    Exec,
}

impl Isolation {
    /// Whether the commit checks what was read.
    pub(crate) fn checks_reads(self) -> bool {
        self != Isolation::Snapshot
    }

    /// Whether the commit checks what was written.
    pub(crate) fn checks_writes(self) -> bool {
        self != Isolation::Exec
    }
}

/// What was written to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// A value, and when it ends to be there (milliseconds since 1970).
    Put {
        value: Box<[u8]>,
        expiry_ms: Option<u64>,
    },
    /// That it is deleted.
    Delete,
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Write::Put { value, .. } => value.len(),
            Write::Delete => 0,
        }
    }

    /// Whether the key has a value at `now_ms`.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        match self {
            Write::Put { expiry_ms, .. } => expiry_ms.is_none_or(|expiry| expiry > now_ms),
            Write::Delete => false,
        }
    }
}

/// What a transaction has written to one namespace, by key.
pub(crate) type Writes = BTreeMap<Box<[u8]>, Write>;

/// What a transaction has done in one namespace.
#[derive(Default)]
pub(crate) struct Space {
    pub(crate) writes: Writes,
    pub(crate) reads: Reads,
}

/// How to take a write back: what was there before.
struct Undo {
    namespace: NamespaceId,
    key: Box<[u8]>,
    before: Option<Write>,
}

struct Savepoint {
    name: Box<[u8]>,
    /// Writes that were made when it was set, as an index of the undo list.
    undo_len: usize,
}

/// A transaction of several commands.
pub struct Transaction {
    isolation: Isolation,
    is_read_only: bool,
    snapshot: Arc<Snapshot>,
    /// The clock that says whether a version of the snapshot has expired, in milliseconds since
    /// 1970: one moment, as the snapshot.
    pub(crate) now_ms: u64,
    spaces: BTreeMap<NamespaceId, Space>,
    /// What was there before each write since the first savepoint.
    undo: Vec<Undo>,
    savepoints: Vec<Savepoint>,
    /// Bytes of writes, of what they replaced, and of savepoints.
    bytes: usize,
}

impl Transaction {
    pub(crate) fn new(
        isolation: Isolation,
        is_read_only: bool,
        snapshot: Snapshot,
        now_ms: u64,
    ) -> Transaction {
        Transaction {
            isolation,
            is_read_only,
            snapshot: Arc::new(snapshot),
            now_ms,
            spaces: BTreeMap::new(),
            undo: Vec::new(),
            savepoints: Vec::new(),
            bytes: 0,
        }
    }

    /// What it is kept apart from.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// The moment that it sees.
    pub fn lsn(&self) -> Lsn {
        self.snapshot.lsn()
    }

    /// Heap bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        let reads = self.spaces.values().map(|space| space.reads.bytes());
        self.bytes + reads.sum::<usize>()
    }

    /// Whether it has written anything.
    pub fn has_written(&self) -> bool {
        self.spaces.values().any(|space| !space.writes.is_empty())
    }

    /// The namespaces in which it has written, or read what its commit checks, or in which it could
    /// not because they are other ones by now; ascending.
    pub fn namespaces(&self) -> Vec<NamespaceId> {
        self.spaces.keys().copied().collect()
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn spaces(&self) -> &BTreeMap<NamespaceId, Space> {
        &self.spaces
    }

    pub(crate) fn written(&self, namespace: NamespaceId, key: &[u8]) -> Option<&Write> {
        self.spaces.get(&namespace)?.writes.get(key)
    }

    pub(crate) fn writes(&self, namespace: NamespaceId) -> Option<&Writes> {
        self.spaces.get(&namespace).map(|space| &space.writes)
    }

    /// Notes that the namespace is used, whatever comes of it.
    pub(crate) fn note_use(&mut self, namespace: NamespaceId) {
        self.spaces.entry(namespace).or_default();
    }

    /// Notes that `key` was read.
    pub(crate) fn note_key(&mut self, namespace: NamespaceId, key: &[u8]) {
        if self.isolation.checks_reads() {
            self.spaces.entry(namespace).or_default().reads.add_key(key);
        }
    }

    /// Notes that the keys from `start` to before `end` were read; `None`: to the last.
    pub(crate) fn note_range(&mut self, namespace: NamespaceId, start: &[u8], end: Option<&[u8]>) {
        if self.isolation.checks_reads() {
            let reads = &mut self.spaces.entry(namespace).or_default().reads;
            reads.add_range(start, end);
        }
    }

    /// Whether the transaction may hold `more` bytes of writes beside what it has.
    ///
    /// # Errors
    /// When it may not, or is not to write at all.
    pub(crate) fn check_writes(&self, more: usize, limit: usize) -> Result<()> {
        if self.is_read_only {
            return Err(EngineError::ReadOnlyTransaction);
        }
        check_size(self.bytes + more, limit)
    }

    /// Whether the transaction holds no more than it may.
    ///
    /// # Errors
    /// When it holds more.
    pub(crate) fn check_reads(&self, limit: usize) -> Result<()> {
        match self.isolation.checks_reads() {
            true => check_size(self.heap_bytes(), limit),
            false => Ok(()),
        }
    }

    /// Notes a write; room for it was checked.
    pub(crate) fn write(&mut self, namespace: NamespaceId, key: &[u8], write: Write) {
        let writes = &mut self.spaces.entry(namespace).or_default().writes;
        self.bytes += write.bytes();
        let before = match writes.get_mut(key) {
            Some(there) => Some(std::mem::replace(there, write)),
            None => {
                writes.insert(key.into(), write);
                self.bytes += ENTRY_BYTES + key.len();
                None
            }
        };
        if self.savepoints.is_empty() {
            self.bytes -= before.map_or(0, |before| before.bytes());
            return;
        }
        self.bytes += ENTRY_BYTES + key.len();
        self.undo.push(Undo {
            namespace,
            key: key.into(),
            before,
        });
    }

    /// Bytes that [`Transaction::write`] adds at most.
    pub(crate) fn cost_of(key: &[u8], value_bytes: usize) -> usize {
        2 * (ENTRY_BYTES + key.len()) + value_bytes
    }

    /// Sets a savepoint. One of the same name that is there already is hidden until this one goes.
    ///
    /// # Errors
    /// When the transaction holds as much as it may.
    pub fn savepoint(&mut self, name: &[u8], limit: usize) -> Result<()> {
        let bytes = ENTRY_BYTES + name.len();
        check_size(self.heap_bytes() + bytes, limit)?;
        self.bytes += bytes;
        self.savepoints.push(Savepoint {
            name: name.into(),
            undo_len: self.undo.len(),
        });
        Ok(())
    }

    fn find_savepoint(&self, name: &[u8]) -> Option<usize> {
        let mut savepoints = self.savepoints.iter();
        savepoints.rposition(|savepoint| *savepoint.name == *name)
    }

    /// Takes everything back that was written since the savepoint, which stays; those set after it
    /// go. False if there is none of that name.
    ///
    /// What was read since stays noted: the client has seen it.
    pub fn rollback_to(&mut self, name: &[u8]) -> bool {
        let Some(index) = self.find_savepoint(name) else {
            return false;
        };
        let undo_len = self.savepoints[index].undo_len;
        for undo in self.undo.split_off(undo_len).into_iter().rev() {
            self.take_back(undo);
        }
        self.drop_savepoints(index + 1);
        true
    }

    fn take_back(&mut self, undo: Undo) {
        let writes = &mut self.spaces.entry(undo.namespace).or_default().writes;
        self.bytes -= ENTRY_BYTES + undo.key.len();
        let now = match undo.before {
            Some(before) => writes.insert(undo.key, before),
            None => {
                self.bytes -= ENTRY_BYTES + undo.key.len();
                writes.remove(&undo.key)
            }
        };
        self.bytes -= now.map_or(0, |write| write.bytes());
    }

    /// Forgets the savepoint and those set after it; what was written stays. False if there is none
    /// of that name.
    pub fn release(&mut self, name: &[u8]) -> bool {
        let Some(index) = self.find_savepoint(name) else {
            return false;
        };
        self.drop_savepoints(index);
        if self.savepoints.is_empty() {
            for undo in std::mem::take(&mut self.undo) {
                let before = undo.before.map_or(0, |before| before.bytes());
                self.bytes -= ENTRY_BYTES + undo.key.len() + before;
            }
        }
        true
    }

    fn drop_savepoints(&mut self, from: usize) {
        for savepoint in self.savepoints.drain(from..) {
            self.bytes -= ENTRY_BYTES + savepoint.name.len();
        }
    }
}

fn check_size(bytes: usize, limit: usize) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    Err(EngineError::TransactionTooLarge {
        bytes: bytes as u64,
        limit: limit as u64,
        parameter: MAX_TRANSACTION_SIZE,
    })
}
