//! Keys whose time has come: finding them, and removing them for good; and a key at random.

use crate::api::Engine;
use crate::btree::Tree;
use crate::btree::sweep::Swept;
use crate::error::{EngineError, Result};
use crate::namespace::access::check_readable;
use crate::txn::write::Committed;
use rd_store::namespaces::NamespaceId;

impl Engine {
    /// The tree of a namespace, if it has a file.
    fn tree_of(&self, namespace: NamespaceId) -> Result<Option<Tree<'_>>> {
        let entry = self.store.shared.namespaces.entry(namespace);
        let place = entry.place();
        check_readable(&entry)?;
        let file = place.ok_or(EngineError::NoNamespace)?.lies.file();
        let tree = |file| Tree {
            store: &self.store,
            file,
        };
        Ok(file.map(tree))
    }

    /// Looks for keys that have ended at `now_ms`, from `from` on, as long as `goes_on` says so, at
    /// least on one leaf.
    ///
    /// # Errors
    /// When there is no such namespace, or the leaf of `from` cannot be read. One further on ends what is
    /// looked at, and is met by who goes on there.
    pub fn sweep(
        &self,
        namespace: NamespaceId,
        from: &[u8],
        now_ms: u64,
        goes_on: &mut dyn FnMut(&Swept) -> bool,
    ) -> Result<Swept> {
        self.enter();
        let mut swept = Swept::default();
        let Some(tree) = self.tree_of(namespace)? else {
            return Ok(swept);
        };
        let mut from = from.to_vec();
        loop {
            match tree.sweep_leaf(&from, now_ms, &mut swept) {
                Err(error) if swept.next.is_none() => return Err(error),
                Err(_) => return Ok(swept),
                Ok(()) => {}
            }
            match &swept.next {
                Some(next) if goes_on(&swept) => from.clone_from(next),
                _ => return Ok(swept),
            }
        }
    }

    /// Where to go on with a sweep behind the leaf of `from`, which cannot be read; none at the end.
    ///
    /// # Errors
    /// When there is no such namespace, or the page above cannot be read either.
    pub fn sweep_behind(&self, namespace: NamespaceId, from: &[u8]) -> Result<Option<Vec<u8>>> {
        self.enter();
        let tree = self.tree_of(namespace)?;
        tree.map_or(Ok(None), |tree| tree.end_of_leaf(from))
    }

    /// Deletes those of `keys` that have ended, as one commit, and says how many are gone then. One
    /// that was given another value or time since stays.
    ///
    /// # Errors
    /// As for [`Engine::write`].
    pub fn remove_ended(
        &mut self,
        namespace: NamespaceId,
        keys: &[&[u8]],
    ) -> Result<Committed<usize>> {
        self.write(namespace, keys, &mut |access| {
            let mut removed = 0;
            for index in 0..keys.len() {
                // A key that has ended is not there for a program, but can still be deleted.
                if access.meta(index)?.is_none() {
                    access.delete(index)?;
                    removed += 1;
                }
            }
            Ok(removed)
        })
    }

    /// A key near which to look for one at random; `random` is a random number. It need not be
    /// there any more.
    ///
    /// # Errors
    /// When there is no such namespace, or a page cannot be read.
    pub fn random_place(&self, namespace: NamespaceId, random: u64) -> Result<Vec<u8>> {
        self.enter();
        let Some(tree) = self.tree_of(namespace)? else {
            return Ok(Vec::new());
        };
        Ok(tree.random_key(random)?.unwrap_or_default())
    }
}
