//! What is done behind commits: splits are made known to parents, and room is given back.
//!
//! A chore is a key around which there is something to be tidied up ([`crate::btree::merge`]), once
//! the log is durable up to an LSN, and no snapshot is in the way. It is looked at again when what
//! was in the way is gone, not before: a process with chores that cannot be done sleeps.

use crate::api::Engine;
use crate::btree::{Tree, merge, parent};
use crate::error::{EngineError, ParkReason};
use crate::namespace::access::share;
use crate::work::{Chore, Work};
use rd_store::Store;

impl Engine {
    /// Tidies up behind earlier commits, `chores_max` keys at most: gives back the pages of large
    /// values that nobody can ask for any more, and empty leaves. For when there is nothing else to
    /// do; every write does a little of it. Returns whether there is more to be done now.
    pub fn tidy(&mut self, chores_max: usize) -> bool {
        self.enter();
        let shared = &self.store.shared;
        self.work.resume_chores(&shared.snapshots);
        if self.work.stopped_by_full_disk && shared.wal.segments_blocked().is_some() {
            return false;
        }
        self.work.stopped_by_full_disk = false;
        let durable = shared.wal.durable_lsn();
        for _ in 0..chores_max.min(self.work.chore_count()) {
            if !self.work.is_due(durable) {
                return false;
            }
            if let Some(chore) = self.work.take_chore()
                && !self.do_chore(chore)
            {
                return false;
            }
        }
        self.work.is_due(durable)
    }

    /// Does one chore; false if no further one should be begun now.
    fn do_chore(&mut self, chore: Chore) -> bool {
        let Engine { store, work, .. } = self;
        let namespaces = &store.shared.namespaces;
        let mut namespace = chore.namespace;
        if namespaces.entry(namespace).file() != Some(chore.file) {
            // It may lie in another one now.
            match namespaces.lying_in(chore.file) {
                Some(other) => namespace = other,
                None => return true,
            }
        }
        let entry = namespaces.entry(namespace);
        let Ok(_held) = share(&entry) else {
            work.put_back(chore);
            return false;
        };
        // One whose file is closed is forgotten, as by a crash.
        if entry.file() != Some(chore.file) || !entry.access().is_writable() {
            return true;
        }
        let tree = Tree {
            store,
            file: chore.file,
        };
        work.begin(store, namespace, chore.file);
        let done = merge::tidy(tree, work, &chore.key);
        finish_splits(store, work);
        match done {
            Ok(obstacles) => {
                work.put_aside(chore, obstacles);
                true
            }
            Err(EngineError::Park(_)) => {
                work.put_back(chore);
                false
            }
            // Commands meet it too, and say so.
            Err(EngineError::Shortage { .. }) => {
                work.put_back(chore);
                false
            }
            Err(error @ (EngineError::DiskFull { .. } | EngineError::CannotGrow { .. })) => {
                log::warn!("giving back space in relation files waits: {error}");
                work.put_back(chore);
                work.stopped_by_full_disk = true;
                false
            }
            Err(error) => {
                log::error!("could not give back space in file {}: {error}", chore.file);
                true
            }
        }
    }
}

/// Tells parents of the splits that the operation made or met. What cannot be told now is left to
/// whoever meets the mark.
pub(crate) fn finish_splits(store: &Store, work: &mut Work) {
    while let Some(tag) = work.marks.take() {
        if !store.shared.files.access(tag.file).is_writable() {
            continue;
        }
        let tree = Tree {
            store,
            file: tag.file,
        };
        work.marks.turn_to(tag.file);
        match parent::finish_split(tree, work, tag.block) {
            Ok(()) => {}
            Err(
                EngineError::Park(ParkReason::FileGrowth(_))
                | EngineError::DiskFull { .. }
                | EngineError::CannotGrow { .. }
                | EngineError::Shortage { .. },
            ) => {}
            Err(EngineError::Park(_)) => return,
            Err(error) => log::error!("could not finish a split of {tag}: {error}"),
        }
    }
}
