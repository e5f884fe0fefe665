//! Watched keys: what a key was, and whether that has changed since.
//!
//! Versions carry stamps, so a change is told by the newest one. What would be missed are a key
//! that was created and deleted again, once its tombstone is gone; so whoever watches holds a
//! snapshot, which keeps later tombstones, from before he looked.

use crate::api::{Engine, Fixed, View};
use crate::error::Result;
use rd_base::Lsn;
use rd_store::Snapshot;
use rd_store::namespaces::{Found, Lies, NamespaceId};

/// What a watched key was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Since when its namespace had the content that it had.
    since: Lsn,
    /// The stamp of its newest version, also of one that deleted it; zero if there was none.
    stamp: Lsn,
    /// Whether it had a value.
    is_live: bool,
    /// Whether it had a value whose time had come.
    has_expired: bool,
}

impl Watched {
    /// The stamp of what it shows.
    pub fn stamp(&self) -> Lsn {
        self.stamp.max(self.since)
    }

    /// Whether the key's time had come, and it was not removed yet.
    pub fn has_expired(&self) -> bool {
        self.has_expired
    }
}

impl Engine {
    /// What a key is at a snapshot, outside of a transaction.
    ///
    /// # Errors
    /// When there is no such namespace, or a page cannot be read. [`crate::EngineError::Replaced`]
    /// if the namespace has changed too often since the snapshot was taken: a newer one will do.
    pub fn watch(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        snapshot: &Snapshot,
    ) -> Result<Watched> {
        self.enter();
        let fixed = self.fix(namespace, View::At(snapshot))?;
        self.watch_at(&fixed, key)
    }

    fn watch_at(&self, fixed: &Fixed, key: &[u8]) -> Result<Watched> {
        let mut value = None;
        // By the clock of the year 1970 nothing has expired.
        let stamp = self.read_at_time(fixed, key, 0, false, &mut |_, meta| value = meta)?;
        let ends = value.and_then(|value| value.expiry_ms);
        let has_expired = ends.is_some_and(|expiry| expiry <= self.now_ms());
        Ok(Watched {
            since: fixed.since,
            stamp,
            is_live: value.is_some() && !has_expired,
            has_expired,
        })
    }

    /// Whether a key has changed since it was `seen`, as the transaction that is attached sees it,
    /// whose commit will check that this stays so. Returns the stamp of what tells the change.
    ///
    /// # Errors
    /// When there is no such namespace any more, or a page cannot be read.
    pub fn changed_since(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        seen: &Watched,
    ) -> Result<Option<Lsn>> {
        self.enter();
        let snapshot = {
            let mut transaction = self.transaction();
            transaction.note_key(namespace, key);
            transaction.snapshot().clone()
        };
        let fixed = self.fix_in_transaction(namespace, &snapshot)?;
        let now = self.watch_at(&fixed, key)?;
        let is_same = if now.since == seen.since {
            match seen.is_live {
                true => now.is_live && now.stamp == seen.stamp,
                false => !now.is_live && now.stamp <= seen.stamp,
            }
        } else {
            // The namespace was emptied or swapped: no change to a key that was not there, and still is not.
            let never_was = !seen.is_live && now.stamp == Lsn::ZERO;
            never_was && self.was_same_before(namespace, key, now.since, seen)?
        };
        Ok((!is_same).then(|| now.stamp()))
    }

    /// Whether the key, which was not there, had surely not come and gone before its namespace was
    /// emptied at `emptied`.
    fn was_same_before(
        &self,
        namespace: NamespaceId,
        key: &[u8],
        emptied: Lsn,
        seen: &Watched,
    ) -> Result<bool> {
        let at = Lsn::new(emptied.get() - 1);
        let entry = self.store.shared.namespaces.entry(namespace);
        let Found::At(place) = entry.at(at) else {
            return Ok(false);
        };
        if place.content_since != seen.since {
            // Emptied more than once: what was in between is not known.
            return Ok(false);
        }
        let Some(file) = place.lies.file() else {
            return Ok(place.lies == Lies::Empty);
        };
        // The newest there is: if the file was not dropped but is another namespace's since, what
        // came there later may have taken the place of what had come before.
        let before = self.watch_at(&Fixed::newest(file, seen.since), key)?;
        Ok(!before.is_live && before.stamp <= seen.stamp)
    }
}
