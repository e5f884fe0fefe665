//! What is in which namespace, and what one commit makes of it: databases that SELECT names, which are
//! always there, and namespaces that are created and dropped.

use rd_engine::NamespaceId;
use rd_store::namespaces::{Access, Namespaces};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// Databases that are used. They come first where namespaces have numbers.
pub const DATABASES: usize = 3;
/// The names of the namespaces behind them.
pub const NAMES: [&str; 2] = ["blue", "red"];
/// Namespaces of both kinds.
pub const SPACES: usize = DATABASES + NAMES.len();

/// The number of a key.
pub type Key = u16;

/// A value: so many bytes, all of them this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub bytes: u32,
    pub fill: u8,
    /// When it ends to be there, in milliseconds since 1970. Until it is removed it lies where it lay.
    pub end_ms: Option<u64>,
}

impl Value {
    pub fn to_vec(self) -> Vec<u8> {
        vec![self.fill; self.bytes as usize]
    }

    /// Whether a clock that shows `now_ms` lets it be there.
    pub fn is_there(&self, now_ms: u64) -> bool {
        self.end_ms.is_none_or(|end_ms| end_ms > now_ms)
    }

    /// What a read has found; none if these are no bytes that were ever written.
    pub fn read(bytes: &[u8], end_ms: Option<u64>) -> Option<Value> {
        let fill = bytes.first().copied().unwrap_or(0);
        let all = bytes.iter().all(|byte| *byte == fill);
        all.then_some(Value {
            bytes: bytes.len() as u32,
            fill,
            end_ms,
        })
    }
}

/// The bytes of a key: some are long, with a long part in common, so that trees get deep; and one is
/// empty.
pub fn key_bytes(key: Key) -> Vec<u8> {
    let mut bytes = match key {
        0 => return Vec::new(),
        _ if key.is_multiple_of(3) => vec![b'k'; 700],
        _ => vec![b'k'; 2],
    };
    bytes.extend_from_slice(format!("{key:04}").as_bytes());
    bytes
}

/// The key of these bytes.
pub fn key_of(bytes: &[u8]) -> Option<Key> {
    let Some(digits) = bytes.len().checked_sub(4) else {
        return bytes.is_empty().then_some(0);
    };
    let text = std::str::from_utf8(&bytes[digits..]).ok()?;
    let key = text.parse().ok()?;
    (key_bytes(key) == bytes).then_some(key)
}

/// What people call the namespace with this number.
pub fn name_of(number: usize) -> String {
    match number.checked_sub(DATABASES) {
        Some(named) => NAMES[named].to_owned(),
        None => format!("db{number}"),
    }
}

/// The id of the namespace with this number; none if it is not there.
pub fn id_of(namespaces: &Namespaces, number: usize) -> Option<NamespaceId> {
    match number.checked_sub(DATABASES) {
        Some(named) => namespaces.find(NAMES[named].as_bytes()),
        None => NamespaceId::database(number),
    }
}

/// What one commit does.
#[derive(Clone, Debug)]
pub enum Change {
    /// To keys of some namespaces.
    Put(Vec<(usize, Key, Option<Value>)>),
    /// A key's value to another key, of the same namespace or another one; nothing, if it has none.
    Move((usize, Key), (usize, Key)),
    /// A key's end, or that it has none; whoever finds that it is not there gives the change up.
    Until(usize, Key, Option<u64>),
    /// Of these keys those are removed that have ended by this time.
    Remove(usize, Vec<Key>, u64),
    Empty(usize),
    EmptyAll,
    Swap(usize, usize),
    Create(usize),
    Drop(usize),
    Access(usize, Access),
}

impl Change {
    /// Whether the namespace is there, or can be read and written, only before it, or only afterwards.
    pub fn makes_or_ends(&self, number: usize) -> bool {
        matches!(self, Change::Create(it) | Change::Drop(it) | Change::Access(it, _) if *it == number)
    }

    /// Whether each namespace has the file afterwards that it had before, if it had one.
    pub fn keeps_files(&self) -> bool {
        match self {
            Change::Put(_) | Change::Move(..) | Change::Until(..) => true,
            Change::Remove(..) | Change::Access(..) => true,
            Change::Empty(_) | Change::EmptyAll | Change::Swap(..) => false,
            Change::Create(_) | Change::Drop(_) => false,
        }
    }

    /// How many keys it gives an end, or takes it away from.
    pub fn ends_given(&self) -> u64 {
        let has_end =
            |put: &&(usize, Key, Option<Value>)| put.2.is_some_and(|value| value.end_ms.is_some());
        match self {
            Change::Put(puts) => puts.iter().filter(has_end).count() as u64,
            Change::Until(..) => 1,
            _ => 0,
        }
    }

    /// The namespaces that must be there for it.
    pub fn needs(&self) -> Vec<usize> {
        match self {
            Change::Put(puts) => puts.iter().map(|put| put.0).collect(),
            Change::Move(from, to) => vec![from.0, to.0],
            Change::Empty(number)
            | Change::Drop(number)
            | Change::Access(number, _)
            | Change::Until(number, ..)
            | Change::Remove(number, ..) => vec![*number],
            Change::Swap(one, other) => vec![*one, *other],
            Change::EmptyAll | Change::Create(_) => Vec::new(),
        }
    }

    /// Whether those that it concerns must be writable.
    fn writes(&self) -> bool {
        !matches!(
            self,
            Change::Create(_) | Change::Drop(_) | Change::Access(..)
        )
    }

    /// Whether it can be done there.
    fn is_possible(&self, content: &Content) -> bool {
        let is_good = |space: &Space| space.access.is_writable() || !self.writes();
        let mut needs = self.needs().into_iter().map(|number| &content[number]);
        needs.all(|space| space.is_there && is_good(space))
            && (!matches!(self, Change::EmptyAll) || content.iter().all(is_good))
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub is_there: bool,
    pub access: Access,
    pub keys: BTreeMap<Key, Value>,
    /// It could not be read, being offline: its keys are not known.
    pub is_unread: bool,
}

impl Space {
    /// One that is there, with these keys.
    pub fn of(keys: BTreeMap<Key, Value>) -> Space {
        Space {
            is_there: true,
            keys,
            ..Space::default()
        }
    }

    /// Whether who sees `made` sees this.
    pub fn shows(&self, made: &Space) -> bool {
        self.is_there == made.is_there
            && self.access == made.access
            && (self.is_unread || self.keys == made.keys)
    }
}

/// All namespaces, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content([Space; SPACES]);

impl Default for Content {
    fn default() -> Content {
        let space = |number| Space {
            is_there: number < DATABASES,
            ..Space::default()
        };
        Content(std::array::from_fn(space))
    }
}

impl Deref for Content {
    type Target = [Space; SPACES];
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Content {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// Carries a change out, unless it cannot have been done here: then somebody else was faster.
pub fn apply(content: &mut Content, change: &Change) {
    if !change.is_possible(content) {
        return;
    }
    match change {
        Change::Empty(number) => content[*number].keys.clear(),
        Change::EmptyAll => content.iter_mut().for_each(|space| space.keys.clear()),
        Change::Swap(one, other) => content.swap(*one, *other),
        Change::Create(number) => content[*number].is_there = true,
        Change::Drop(number) => content[*number] = Space::default(),
        Change::Access(number, access) => content[*number].access = *access,
        Change::Move(from, to) => {
            if let Some(value) = content[from.0].keys.remove(&from.1) {
                content[to.0].keys.insert(to.1, value);
            }
        }
        Change::Until(number, key, end_ms) => {
            if let Some(value) = content[*number].keys.get_mut(key) {
                value.end_ms = *end_ms;
            }
        }
        Change::Remove(number, keys, now_ms) => {
            let all = &mut content[*number].keys;
            all.retain(|key, value| value.is_there(*now_ms) || !keys.contains(key));
        }
        Change::Put(puts) => {
            for (number, key, value) in puts {
                let keys = &mut content[*number].keys;
                match value {
                    Some(value) => keys.insert(*key, *value),
                    None => keys.remove(key),
                };
            }
        }
    }
}
