//! What a program sees and does: the newest versions of its keys, and its own writes over them.

use super::transaction::Write;
use super::visible::{Meta, Seen, seen};
use crate::btree::Tree;
use crate::error::{EngineError, MAX_TRANSACTION_SIZE};
use crate::overflow;
use rd_base::limits::KEY_BYTES_MAX;
use rd_base::room::make_room;
use rd_base::{Config, Lsn};
use rd_format::NodeRef;
use rd_format::node::LeafEntry;
use rd_format::page::PageBytes;
use rd_store::buffer::PinnedWrite;

/// Why a program was broken off; it is to be handed on with `?`.
#[derive(Debug)]
pub struct ProgramError(pub(crate) Broken);

/// The engine's part of it.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The commit fails.
    Failed(EngineError),
    /// The large value of this key must be brought into memory first.
    NeedsValue(usize),
}

impl ProgramError {
    /// Why a program failed that ran where no value is to be brought in first.
    pub(crate) fn without_latches(self) -> EngineError {
        match self.0 {
            Broken::Failed(error) => error,
            Broken::NeedsValue(_) => unreachable!("only asked for under latches"),
        }
    }
}

impl From<EngineError> for ProgramError {
    fn from(error: EngineError) -> Self {
        ProgramError(Broken::Failed(error))
    }
}

/// The leaves of a commit, latched exclusively, left to right. The first is kept apart so that a
/// commit on one leaf does not allocate.
#[derive(Default)]
pub(crate) struct Leaves<'s> {
    first: Option<PinnedWrite<'s>>,
    more: Vec<PinnedWrite<'s>>,
}

impl<'s> Leaves<'s> {
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    pub(crate) fn push(&mut self, leaf: PinnedWrite<'s>) {
        if self.first.is_none() {
            self.first = Some(leaf);
        } else {
            self.more.push(leaf);
        }
    }

    pub(crate) fn last(&self) -> Option<&PinnedWrite<'s>> {
        self.more.last().or(self.first.as_ref())
    }

    /// Puts `leaf` behind the one at `index`.
    pub(crate) fn insert_behind(&mut self, index: usize, leaf: PinnedWrite<'s>) {
        self.more.insert(index, leaf);
    }

    pub(crate) fn get(&self, index: usize) -> &PinnedWrite<'s> {
        match index {
            0 => self
                .first
                .as_ref()
                .expect("a commit holds at least one leaf"),
            _ => &self.more[index - 1],
        }
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> &mut PinnedWrite<'s> {
        match index {
            0 => self
                .first
                .as_mut()
                .expect("a commit holds at least one leaf"),
            _ => &mut self.more[index - 1],
        }
    }
}

/// What a program has said about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Staged {
    /// Nothing.
    Nothing,
    /// A value, at this place of the arena.
    Put {
        at: usize,
        bytes: usize,
        expiry_ms: Option<u64>,
    },
    /// That it is deleted.
    Delete,
}

/// One of the keys of a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyState {
    /// The first key that is the same, in the order of the keys: it holds what was staged.
    pub(crate) same_as: u32,
    /// Which of the leaves covers it.
    pub(crate) leaf: u32,
    pub(crate) staged: Staged,
}

/// A large value that was brought into memory before the leaves were latched.
pub(crate) struct Loaded {
    pub(crate) key: u32,
    pub(crate) stamp: Lsn,
    pub(crate) bytes: Vec<u8>,
}

/// Buffers of the commit under way, used again for the next.
#[derive(Default)]
pub(crate) struct WriteSet {
    pub(crate) keys: Vec<KeyState>,
    /// The keys' indices in key order; of those that are the same, the one given first comes first.
    pub(crate) order: Vec<u32>,
    /// Values that were put.
    pub(crate) arena: Vec<u8>,
    pub(crate) loaded: Vec<Loaded>,
    pub(crate) pending: Vec<super::commit::Pending>,
    pub(crate) parts: Vec<super::commit::Part>,
    /// How many keys the commit has that was refused pages last, and how many pages.
    pub(crate) pages_refused: (usize, u64),
}

/// A copy of `value`, followed by zeros if it has less than `bytes_min` bytes.
pub(crate) fn copy_of(value: &[u8], bytes_min: usize) -> Result<Vec<u8>, EngineError> {
    let bytes = value.len().max(bytes_min);
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes)
        .map_err(|_| no_memory(bytes))?;
    copy.extend_from_slice(value);
    copy.resize(bytes, 0);
    Ok(copy)
}

/// For want of memory for a value that is written.
fn no_memory(bytes: usize) -> EngineError {
    EngineError::no_memory(bytes, "a value that is written")
}

impl WriteSet {
    fn stage_put(
        &mut self,
        index: usize,
        value: &[u8],
        expiry_ms: Option<u64>,
    ) -> Result<(), EngineError> {
        let at = self.arena.len();
        make_room(&mut self.arena, value.len()).map_err(|_| no_memory(value.len()))?;
        self.arena.extend_from_slice(value);
        let same_as = self.keys[index].same_as as usize;
        self.keys[same_as].staged = Staged::Put {
            at,
            bytes: value.len(),
            expiry_ms,
        };
        Ok(())
    }

    /// Takes up what a transaction has written to a key.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub(crate) fn stage(&mut self, index: usize, write: &Write) -> Result<(), EngineError> {
        match write {
            Write::Put { value, expiry_ms } => self.stage_put(index, value, *expiry_ms),
            Write::Delete => {
                let same_as = self.keys[index].same_as as usize;
                self.keys[same_as].staged = Staged::Delete;
                Ok(())
            }
        }
    }
}

/// Limits that a program runs under, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) value_bytes: usize,
    pub(crate) transaction_bytes: usize,
}

impl Limits {
    pub(crate) fn of(config: &Config) -> Limits {
        Limits {
            value_bytes: config.max_value_size_bytes() as usize,
            transaction_bytes: config.max_transaction_size_bytes() as usize,
        }
    }
}

/// What a program's writes lie over.
pub(crate) enum Base<'a> {
    /// The newest versions, on leaves that are latched.
    Leaves {
        tree: Tree<'a>,
        leaves: &'a Leaves<'a>,
        /// Whether large values are to be read although latches are held.
        read_now: bool,
    },
    /// What an open transaction sees.
    Transaction(&'a mut dyn Lookup),
    /// No key at all.
    Nothing,
}

/// How an open transaction sees a key.
pub(crate) trait Lookup {
    /// What is known of the key's value, with its bytes in `value` if that is wanted; and the
    /// stamp of what was seen, zero for what the transaction wrote itself.
    fn look_up(
        &mut self,
        key: &[u8],
        value: Option<&mut Vec<u8>>,
    ) -> Result<(Option<Meta>, Lsn), EngineError>;
}

/// A program's door to its keys, while all their leaves are latched, or within a transaction.
pub struct Access<'a> {
    pub(crate) base: Base<'a>,
    pub(crate) keys: &'a [&'a [u8]],
    pub(crate) set: &'a mut WriteSet,
    pub(crate) limits: Limits,
    pub(crate) now_ms: u64,
    /// The greatest stamp of what the program was told.
    pub(crate) told: Lsn,
    /// A large value that was read under the latches, or a value that a transaction sees.
    pub(crate) large: Vec<u8>,
}

/// The newest version of `key` on `leaf`, which covers it (T5).
#[inline]
pub(crate) fn newest_on<'l>(leaf: &'l PageBytes, key: &[u8]) -> Option<LeafEntry<'l>> {
    let node = NodeRef::new(leaf);
    let slot = node.lower_bound(key, Lsn::MAX);
    if slot == node.count() {
        return None;
    }
    Some(node.leaf_entry(slot)).filter(|entry| entry.key == key)
}

impl Access<'_> {
    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key with this index.
    pub fn key(&self, index: usize) -> &[u8] {
        self.keys[index]
    }

    /// The time at which the program runs, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    fn state(&self, index: usize) -> KeyState {
        let same_as = self.set.keys[index].same_as as usize;
        self.set.keys[same_as]
    }

    /// What the key's newest version is; own writes have no stamp yet.
    ///
    /// # Errors
    /// None that the program should handle: hand them on.
    pub fn meta(&mut self, index: usize) -> Result<Option<Meta>, ProgramError> {
        let state = self.state(index);
        match state.staged {
            Staged::Put {
                bytes, expiry_ms, ..
            } => {
                return Ok(Some(Meta {
                    stamp: Lsn::ZERO,
                    bytes,
                    expiry_ms,
                }));
            }
            Staged::Delete => return Ok(None),
            Staged::Nothing => {}
        }
        let leaves = match &mut self.base {
            Base::Leaves { leaves, .. } => leaves,
            Base::Transaction(transaction) => {
                let (meta, stamp) = transaction.look_up(self.keys[index], None)?;
                self.told = self.told.max(stamp);
                return Ok(meta);
            }
            Base::Nothing => return Ok(None),
        };
        let leaf = leaves.get(state.leaf as usize);
        let Some(entry) = newest_on(leaf, self.keys[index]) else {
            return Ok(None);
        };
        self.told = self.told.max(entry.stamp);
        Ok(match seen(&entry, || self.now_ms) {
            Seen::Inline(_, meta) | Seen::Large(_, meta) => Some(meta),
            _ => None,
        })
    }

    /// The newest value of a key; `None` if it has none.
    ///
    /// # Errors
    /// None that the program should handle: hand them on.
    pub fn newest(&mut self, index: usize) -> Result<Option<&[u8]>, ProgramError> {
        let state = self.state(index);
        match state.staged {
            Staged::Put { at, bytes, .. } => return Ok(Some(&self.set.arena[at..at + bytes])),
            Staged::Delete => return Ok(None),
            Staged::Nothing => {}
        }
        let (tree, leaves, read_now) = match &mut self.base {
            Base::Leaves {
                tree,
                leaves,
                read_now,
            } => (*tree, *leaves, *read_now),
            Base::Transaction(transaction) => {
                let (meta, stamp) = transaction.look_up(self.keys[index], Some(&mut self.large))?;
                self.told = self.told.max(stamp);
                return Ok(meta.map(|_| &self.large[..]));
            }
            Base::Nothing => return Ok(None),
        };
        let leaf = leaves.get(state.leaf as usize);
        let Some(entry) = newest_on(leaf, self.keys[index]) else {
            return Ok(None);
        };
        self.told = self.told.max(entry.stamp);
        let (stub, meta) = match seen(&entry, || self.now_ms) {
            Seen::Inline(bytes, _) => return Ok(Some(bytes)),
            Seen::Large(stub, meta) => (stub, meta),
            _ => return Ok(None),
        };
        let same_as = self.set.keys[index].same_as;
        let is_it = |loaded: &&Loaded| loaded.key == same_as && loaded.stamp == meta.stamp;
        if let Some(loaded) = self.set.loaded.iter().find(is_it) {
            return Ok(Some(&loaded.bytes));
        }
        if !read_now {
            return Err(ProgramError(Broken::NeedsValue(index)));
        }
        self.large.clear();
        overflow::read(tree, &stub, &mut self.large)?;
        Ok(Some(&self.large))
    }

    /// A copy of the newest value of a key; `None` if it has none.
    ///
    /// # Errors
    /// None that the program should handle: hand them on.
    pub fn newest_copy(&mut self, index: usize) -> Result<Option<Vec<u8>>, ProgramError> {
        let copy = self.newest(index)?.map(|value| copy_of(value, 0));
        Ok(copy.transpose()?)
    }

    /// A copy of the newest value of a key, none being one without bytes, followed by zeros if it has less than
    /// `bytes_min` bytes: what is to be changed in part, and put.
    ///
    /// # Errors
    /// When [`Access::put`] would not take what is made longer; to be handed on.
    pub fn lengthened(&mut self, index: usize, bytes_min: usize) -> Result<Vec<u8>, ProgramError> {
        let is_longer = self.meta(index)?.map_or(0, |meta| meta.bytes) < bytes_min;
        if is_longer {
            self.check_length(bytes_min)?;
        }
        Ok(copy_of(self.newest(index)?.unwrap_or(&[]), bytes_min)?)
    }

    /// Gives the key a value, which ends to be there at `expiry_ms` (milliseconds since 1970).
    ///
    /// # Errors
    /// When key, value or transaction are too large; to be handed on.
    pub fn put(
        &mut self,
        index: usize,
        value: &[u8],
        expiry_ms: Option<u64>,
    ) -> Result<(), ProgramError> {
        self.check_length(value.len())?;
        self.put_again(index, value, expiry_ms)
    }

    /// Whether [`Access::put`] takes a value of so many bytes: to be asked before one is made.
    ///
    /// # Errors
    /// When they are too many; to be handed on.
    pub fn check_length(&self, bytes: usize) -> Result<(), ProgramError> {
        let limit = self.limits.value_bytes;
        match bytes > limit {
            true => Err(EngineError::ValueTooLarge { bytes, limit }.into()),
            false => Ok(()),
        }
    }

    /// [`Access::put`] for a value that a key has already: it may be longer than one that comes.
    ///
    /// # Errors
    /// When the key is too long, or the transaction too large; to be handed on.
    pub fn put_again(
        &mut self,
        index: usize,
        value: &[u8],
        expiry_ms: Option<u64>,
    ) -> Result<(), ProgramError> {
        // Looked for and deleted it may be: it is not there.
        let key = self.keys[index];
        if key.len() > KEY_BYTES_MAX {
            return Err(EngineError::KeyTooLong {
                bytes: key.len(),
                limit: KEY_BYTES_MAX,
            }
            .into());
        }
        let at = self.set.arena.len();
        if at + value.len() > self.limits.transaction_bytes {
            return Err(EngineError::TransactionTooLarge {
                bytes: (at + value.len()) as u64,
                limit: self.limits.transaction_bytes as u64,
                parameter: MAX_TRANSACTION_SIZE,
            }
            .into());
        }
        Ok(self.set.stage_put(index, value, expiry_ms)?)
    }

    /// Deletes the key; true if it was there.
    ///
    /// # Errors
    /// None that the program should handle: hand them on.
    pub fn delete(&mut self, index: usize) -> Result<bool, ProgramError> {
        let there = self.meta(index)?.is_some();
        let same_as = self.set.keys[index].same_as as usize;
        // A key that is too long is nowhere, and nothing of it is to be in the log or in a transaction.
        if self.keys[same_as].len() > KEY_BYTES_MAX {
            return Ok(there);
        }
        // A key whose time has come is there still, and goes for good.
        self.set.keys[same_as].staged = Staged::Delete;
        Ok(there)
    }
}
