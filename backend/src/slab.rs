//! Connections by token: an index and a generation, so that an event that was already queued for a
//! connection that has gone never reaches its successor.

/// Values with tokens.
pub struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    count: usize,
}

fn index_of(token: u64) -> usize {
    (token & 0xFFFF_FFFF) as usize
}

impl<T> Slab<T> {
    /// An empty one.
    pub fn new() -> Slab<T> {
        Slab {
            entries: Vec::new(),
            free: Vec::new(),
            count: 0,
        }
    }

    /// Puts `value` in and returns its token.
    pub fn insert(&mut self, value: T) -> u64 {
        self.count += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push((0, None));
            (self.entries.len() - 1) as u32
        });
        let mut generation = 0;
        if let Some(entry) = self.entries.get_mut(index as usize) {
            // Below the tokens that the loop keeps for itself.
            entry.0 = (entry.0 + 1) % (u32::MAX >> 1);
            entry.1 = Some(value);
            generation = entry.0;
        }
        u64::from(generation) << 32 | u64::from(index)
    }

    /// The value of `token`, if it is still there.
    pub fn get(&self, token: u64) -> Option<&T> {
        let (generation, value) = self.entries.get(index_of(token))?;
        if u64::from(*generation) == token >> 32 {
            value.as_ref()
        } else {
            None
        }
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, token: u64) -> Option<&mut T> {
        let (generation, value) = self.entries.get_mut(index_of(token))?;
        if u64::from(*generation) == token >> 32 {
            value.as_mut()
        } else {
            None
        }
    }

    /// Takes the value of `token` out.
    pub fn remove(&mut self, token: u64) -> Option<T> {
        self.get(token)?;
        let value = self.entries.get_mut(index_of(token))?.1.take();
        self.free.push(index_of(token) as u32);
        self.count -= 1;
        value
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The tokens of all values.
    pub fn tokens(&self) -> Vec<u64> {
        self.iter().map(|(token, _)| token).collect()
    }

    /// The token of the value for which `key` is greatest.
    pub fn max_by_key<K: Ord>(&self, key: impl Fn(&T) -> K) -> Option<u64> {
        self.iter()
            .max_by_key(|(_, value)| key(value))
            .map(|(token, _)| token)
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.entries
            .iter()
            .enumerate()
            .filter_map(|(index, (generation, value))| {
                let token = u64::from(*generation) << 32 | index as u64;
                value.as_ref().map(|value| (token, value))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_token_never_reaches_a_new_value() {
        let mut slab = Slab::new();
        let old = slab.insert("old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert("new");
        assert_eq!(index_of(old), index_of(new), "the place is used again");
        assert_eq!((slab.get(old), slab.get(new)), (None, Some(&"new")));
        assert_eq!(slab.remove(old), None);
        assert_eq!(slab.tokens(), [new]);
        assert!(!slab.is_empty());
    }
}
