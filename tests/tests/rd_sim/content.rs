//! What is in which namespace, and what one commit makes of it: databases that SELECT names, which are
//! always there, and namespaces that are created, renamed and dropped.
//!
//! A namespace is found by its name, and goes on to be the same one when it is renamed before the commit:
//! so a commit knows its namespaces by what they were found as ([`Commit`]).

use rd_engine::{EngineError, NamespaceId};
use rd_store::namespaces::{Access, Namespaces};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// Databases that are used. They come first where namespaces have numbers.
pub const DATABASES: usize = 3;
/// The names of the namespaces behind them.
pub const NAMES: [&str; 3] = ["blue", "grey", "red"];
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

/// The ids of all, found in one look.
pub fn ids_of_all(namespaces: &Namespaces) -> [Option<NamespaceId>; SPACES] {
    let list = namespaces.list();
    std::array::from_fn(|number| match number.checked_sub(DATABASES) {
        Some(named) => {
            let mut all = list.iter();
            let found = all.find(|one| one.name == NAMES[named].as_bytes());
            found.map(|one| one.id)
        }
        None => NamespaceId::database(number),
    })
}

/// What one commit does, to namespaces by the numbers of the names by which they were looked for.
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
    Rename(usize, usize),
    Drop(usize),
    Access(usize, Access),
}

impl Change {
    /// Whether the namespace is there, or can be read and written, only before it, or only afterwards.
    pub fn makes_or_ends(&self, number: usize) -> bool {
        match self {
            Change::Create(it) | Change::Drop(it) | Change::Access(it, _) => *it == number,
            Change::Rename(from, to) => [*from, *to].contains(&number),
            _ => false,
        }
    }

    /// Whether each namespace has the file afterwards that it had before, if it had one.
    pub fn keeps_files(&self) -> bool {
        match self {
            Change::Put(_) | Change::Move(..) | Change::Until(..) => true,
            Change::Remove(..) | Change::Access(..) => true,
            Change::Empty(_) | Change::EmptyAll | Change::Swap(..) => false,
            Change::Create(..) | Change::Rename(..) | Change::Drop(_) => false,
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

    /// The namespaces whose being there, or not, may be why it is refused as `error` says.
    pub fn concerns(&self, error: &EngineError) -> Vec<usize> {
        match (self, error) {
            (Change::Create(number), _) => vec![*number],
            (Change::Rename(_, to), EngineError::NamespaceExists(_)) => vec![*to],
            (Change::EmptyAll, _) => (0..SPACES).collect(),
            _ => self.needs(),
        }
    }

    /// The namespaces that must be there for it.
    pub fn needs(&self) -> Vec<usize> {
        match self {
            Change::Put(puts) => puts.iter().map(|put| put.0).collect(),
            Change::Move(from, to) => vec![from.0, to.0],
            Change::Empty(number)
            | Change::Drop(number)
            | Change::Rename(number, _)
            | Change::Access(number, _)
            | Change::Until(number, ..)
            | Change::Remove(number, ..) => vec![*number],
            Change::Swap(one, other) => vec![*one, *other],
            Change::EmptyAll | Change::Create(..) => Vec::new(),
        }
    }

    /// Whether those that it concerns must be writable.
    fn writes(&self) -> bool {
        !matches!(
            self,
            Change::Create(..) | Change::Rename(..) | Change::Drop(_) | Change::Access(..)
        )
    }
}

/// A change, and which namespaces it was found to be about.
#[derive(Clone, Debug)]
pub struct Commit {
    pub change: Change,
    /// What those with these numbers were when they were looked for, or made.
    pub found: Vec<(usize, NamespaceId)>,
}

impl Commit {
    /// What the one with this number was found to be.
    pub fn found(&self, number: usize) -> Option<NamespaceId> {
        let mut found = self.found.iter();
        found.find(|(it, _)| *it == number).map(|(_, id)| *id)
    }

    /// Where the one with this number is in `content`, if it is there.
    fn place(&self, content: &Content, number: usize) -> Option<usize> {
        content.place(number, self.found(number))
    }

    /// Whether it can be done there.
    fn is_possible(&self, content: &Content) -> bool {
        let change = &self.change;
        let is_good = |space: &Space| space.access.is_writable() || !change.writes();
        let mut needs = change.needs().into_iter();
        let has_all = needs.all(|number| {
            let place = self.place(content, number);
            place.is_some_and(|at| is_good(&content[at]))
        });
        has_all
            && match change {
                Change::EmptyAll => content.iter().all(is_good),
                Change::Create(number) | Change::Rename(_, number) => !content[*number].is_there,
                _ => true,
            }
    }
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub is_there: bool,
    /// Which one it is, as the server that runs says; none if nobody has said that yet.
    pub id: Option<NamespaceId>,
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
            id: NamespaceId::database(number).filter(|_| number < DATABASES),
            ..Space::default()
        };
        Content(std::array::from_fn(space))
    }
}

impl Content {
    /// The number of the namespace that was found to be `id` when the one with `number` was looked for: it may
    /// have got another name before, or since. None if it is not there.
    pub fn place(&self, number: usize, id: Option<NamespaceId>) -> Option<usize> {
        if id.is_none() {
            return Some(number).filter(|number| self[*number].is_there);
        }
        let known = self.iter().position(|space| space.id == id);
        // Who has made it has not said yet what it is.
        let is_new = |number: &usize| self[*number].is_there && self[*number].id.is_none();
        known.or_else(|| std::iter::once(number).chain(0..SPACES).find(is_new))
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

/// Carries a commit out, unless it cannot have been done here: then somebody else was faster.
pub fn apply(content: &mut Content, commit: &Commit) {
    if !commit.is_possible(content) {
        return;
    }
    let change = &commit.change;
    let of = |content: &Content, number: usize| {
        let place = commit.place(content, number);
        place.expect("it can be done where all that it needs is there")
    };
    match change {
        Change::EmptyAll => content.iter_mut().for_each(|space| space.keys.clear()),
        Change::Swap(one, other) => {
            let (one, other) = (of(content, *one), of(content, *other));
            let keys = std::mem::take(&mut content[one].keys);
            let keys = std::mem::replace(&mut content[other].keys, keys);
            content[one].keys = keys;
        }
        Change::Create(number) => {
            content[*number] = Space {
                id: commit.found(*number),
                ..Space::of(BTreeMap::new())
            };
        }
        // By names, which nobody else changes meanwhile.
        Change::Rename(from, to) => content.swap(*from, *to),
        Change::Drop(number) => content[*number] = Space::default(),
        Change::Empty(number) => {
            let at = of(content, *number);
            content[at].keys.clear();
        }
        Change::Access(number, access) => {
            let at = of(content, *number);
            content[at].access = *access;
        }
        Change::Move(from, to) => {
            let (source, target) = (of(content, from.0), of(content, to.0));
            if let Some(value) = content[source].keys.remove(&from.1) {
                content[target].keys.insert(to.1, value);
            }
        }
        Change::Until(number, key, end_ms) => {
            let at = of(content, *number);
            if let Some(value) = content[at].keys.get_mut(key) {
                value.end_ms = *end_ms;
            }
        }
        Change::Remove(number, keys, now_ms) => {
            let at = of(content, *number);
            let all = &mut content[at].keys;
            all.retain(|key, value| value.is_there(*now_ms) || !keys.contains(key));
        }
        Change::Put(puts) => {
            for (number, key, value) in puts {
                let at = of(content, *number);
                let keys = &mut content[at].keys;
                match value {
                    Some(value) => keys.insert(*key, *value),
                    None => keys.remove(key),
                };
            }
        }
    }
}
