//! What a command of the model sees, and what it leaves behind.

use std::collections::{BTreeMap, BTreeSet};

/// A key.
pub type Key = Vec<u8>;
/// A namespace and a key of it.
pub type Place = (usize, Key);

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: Vec<u8>,
    /// When it ends, in milliseconds since 1970.
    pub expiry_ms: Option<u64>,
}

impl Entry {
    /// Whether it is there at `now_ms`.
    pub fn is_live(&self, now_ms: u64) -> bool {
        self.expiry_ms.is_none_or(|expiry| expiry > now_ms)
    }
}

/// When something was changed last: for sure, and at the latest. A command that leaves a key as it
/// was may or may not count as a change of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// It was changed then.
    pub surely: u64,
    /// It was not changed after this.
    pub maybe: u64,
}

/// A namespace.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// What is there, with keys whose time has come.
    pub entries: BTreeMap<Key, Entry>,
    /// Changes of each key.
    pub changes: BTreeMap<Key, Changed>,
    /// When it was emptied or exchanged last.
    pub since: Changed,
}

/// All namespaces, by their numbers.
pub type Spaces = BTreeMap<usize, Space>;

/// What was written, by place: an entry, or that there is none.
pub type Writes = BTreeMap<Place, Option<Entry>>;

/// What was read.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// Keys.
    pub keys: BTreeSet<Place>,
    /// Namespaces of which more may have been read.
    pub spaces: BTreeSet<usize>,
}

/// Namespaces at some moment under what was written since.
pub struct View<'a> {
    /// The namespaces.
    pub spaces: &'a Spaces,
    /// The one that the command is sent to.
    pub space: usize,
    /// What was written to them.
    pub writes: Writes,
    /// Keys that were written and are what they were.
    pub touched: BTreeSet<Place>,
    /// What was read.
    pub reads: Reads,
    /// The clock by which entries of `spaces` end.
    pub now_ms: u64,
    /// The clock by which those of `writes` do.
    pub clock_ms: u64,
}

impl View<'_> {
    /// What is seen outside of transactions, of which nothing was written yet.
    pub fn of(spaces: &Spaces, space: usize, clock_ms: u64) -> View<'_> {
        View {
            spaces,
            space,
            writes: Writes::new(),
            touched: BTreeSet::new(),
            reads: Reads::default(),
            now_ms: clock_ms,
            clock_ms,
        }
    }

    /// What a key of another namespace holds.
    pub fn get_in(&mut self, space: usize, key: &[u8]) -> Option<Entry> {
        let place = (space, key.to_vec());
        if let Some(written) = self.writes.get(&place) {
            return written.clone().filter(|entry| entry.is_live(self.clock_ms));
        }
        let found = self
            .spaces
            .get(&space)
            .and_then(|space| space.entries.get(key));
        let found = found.filter(|entry| entry.is_live(self.now_ms)).cloned();
        self.reads.keys.insert(place);
        found
    }

    /// What a key holds.
    pub fn get(&mut self, key: &[u8]) -> Option<Entry> {
        self.get_in(self.space, key)
    }

    /// A key's value.
    pub fn value(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.get(key).map(|entry| entry.value)
    }

    /// Lets a key of another namespace hold `entry`.
    pub fn put_in(&mut self, space: usize, key: &[u8], entry: Option<Entry>) {
        let place = (space, key.to_vec());
        let is_read = self.reads.keys.contains(&place);
        if self.get_in(space, key) == entry {
            self.touched.insert(place.clone());
        }
        if !is_read {
            self.reads.keys.remove(&place);
        }
        self.writes.insert(place, entry);
    }

    /// Sets a key, without an end.
    pub fn set(&mut self, key: &[u8], value: Vec<u8>) {
        let expiry_ms = None;
        self.put_in(self.space, key, Some(Entry { value, expiry_ms }));
    }

    /// Sets a key, and keeps its end.
    pub fn change(&mut self, key: &[u8], value: Vec<u8>) {
        let expiry_ms = self.get(key).and_then(|entry| entry.expiry_ms);
        self.put_in(self.space, key, Some(Entry { value, expiry_ms }));
    }

    /// Removes a key; whether it was there.
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let is_there = self.get(key).is_some();
        match is_there {
            true => self.put_in(self.space, key, None),
            false => drop(self.touched.insert((self.space, key.to_vec()))),
        }
        is_there
    }

    /// All keys that are there and pass, in order.
    pub fn keys(&mut self, passes: impl Fn(&[u8]) -> bool) -> Vec<Key> {
        let space = self.space;
        self.reads.spaces.insert(space);
        let below = self.spaces.get(&space).into_iter();
        let below = below.flat_map(|space| space.entries.keys().cloned());
        let own = self.writes.keys().filter(|(of, _)| *of == space);
        let all: BTreeSet<Key> = below.chain(own.map(|(_, key)| key.clone())).collect();
        let reads = self.reads.keys.clone();
        let found = all
            .into_iter()
            .filter(|key| passes(key) && self.get(key).is_some())
            .collect();
        // A key that is not there is known by the range alone.
        self.reads.keys = reads;
        found
    }
}
