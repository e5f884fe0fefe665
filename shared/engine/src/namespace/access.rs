//! Whether a namespace can be read and written: read only, offline, and back.
//!
//! It is a change of the catalog like others: the entry is held alone, so no commit is under way in
//! the namespace, and whoever comes later finds what is so now. Reads hold no entry. One that has
//! begun before goes on; the file of an offline namespace is given up only when every process has
//! passed an epoch that was begun after the change (the checkpointer waits for that), so whoever
//! looks at the entry, or at the file's row, after he has entered his epoch may read on.
//!
//! What is not on disk yet is brought there by a checkpoint of the file, by whoever changed the
//! access to something else than read and write: after the change. One that is to be written again
//! is opened by the checkpointer *before* the change. So the file is never closed in `pg_control`
//! while commits are let in; if a crash comes between the two steps startup asks for what is missing
//! ([`settle_files`]).

use super::changes::{CatalogChange, Edit, Step, committed, unchanged};
use super::{shown_name, value_of};
use crate::api::Engine;
use crate::error::{EngineError, ParkReason, Result};
use crate::txn::write::Committed;
use rd_base::{FileNo, Role};
use rd_format::Access;
use rd_store::Store;
use rd_store::checkpoint::{FileRequest, Requester};
use rd_store::namespaces::{AccessChange, Lies, NamespaceEntry, NamespaceId};
use rd_sys::latch::{ReadGuard, WriteGuard};

/// A namespace's name for a message.
fn name_of(entry: &NamespaceEntry<'_>) -> String {
    String::from_utf8_lossy(&shown_name(&entry.name())).into_owned()
}

/// Whether an entry can be had without waiting for operations that have it alone. One that says so right
/// behind this look is waited for.
///
/// # Errors
/// That whoever wants it is to park.
#[inline]
pub(crate) fn check_free(entry: &NamespaceEntry<'_>) -> Result<()> {
    match entry.has_operations() {
        true => Err(EngineError::Park(ParkReason::Namespace)),
        false => Ok(()),
    }
}

/// Shares an entry.
///
/// # Errors
/// As for [`check_free`].
#[inline]
pub(crate) fn share<'a>(entry: &NamespaceEntry<'a>) -> Result<ReadGuard<'a>> {
    check_free(entry)?;
    Ok(entry.share())
}

/// Has an entry alone, to change it.
///
/// # Errors
/// As for [`check_free`].
pub(crate) fn hold<'a>(entry: &NamespaceEntry<'a>) -> Result<WriteGuard<'a>> {
    check_free(entry)?;
    Ok(entry.hold())
}

/// Whether the namespace can be read.
///
/// # Errors
/// That it is offline, or not there.
pub(crate) fn check_readable(entry: &NamespaceEntry<'_>) -> Result<()> {
    match entry.access().is_offline() {
        true => Err(refusal(entry, EngineError::NamespaceOffline)),
        false => Ok(()),
    }
}

/// The error for the namespace, unless another one is in its place: then it is that one's access.
#[cold]
fn refusal(entry: &NamespaceEntry<'_>, error: fn(String) -> EngineError) -> EngineError {
    match entry.place() {
        Some(_) => error(name_of(entry)),
        None => EngineError::NoNamespace,
    }
}

/// Whether the namespace can be written; for those who hold the entry.
///
/// # Errors
/// That it cannot.
pub(crate) fn check_writable(entry: &NamespaceEntry<'_>) -> Result<()> {
    check_readable(entry)?;
    match entry.access().is_writable() {
        true => Ok(()),
        false => Err(refusal(entry, EngineError::NamespaceReadOnly)),
    }
}

/// Whether what a snapshot has found in `file` can be read: the namespace may lie elsewhere by now.
///
/// # Errors
/// That the namespace that lies there now is offline.
#[inline]
pub(crate) fn check_file(store: &Store, file: FileNo) -> Result<()> {
    match store.shared.files.access(file).is_offline() {
        true => Err(offline_file(store, file)),
        false => Ok(()),
    }
}

#[cold]
fn offline_file(store: &Store, file: FileNo) -> EngineError {
    let namespaces = &store.shared.namespaces;
    match namespaces.lying_in(file) {
        Some(id) => EngineError::NamespaceOffline(name_of(&namespaces.entry(id))),
        // It was dropped since.
        None => EngineError::NoNamespace,
    }
}

/// Asks the checkpointer to close or open the files that a crash has left otherwise than their
/// namespaces are; for startup, when the namespaces are loaded.
pub(crate) fn settle_files(store: &Store) {
    let shared = &store.shared;
    for (id, file) in shared.namespaces.all() {
        let access = shared.namespaces.entry(id).access();
        let closed = shared.files.closed(file).map(|(access, _)| access);
        if closed.unwrap_or_default() == access {
            continue;
        }
        let request = FileRequest {
            file,
            access: Some(access),
            requester: Requester::process(Role::Startup, "end of recovery"),
        };
        let asked = shared.checkpoint.request_file(&shared.procs, &request);
        asked.expect("there is room for one of each namespace");
    }
}

impl Engine {
    /// Keeps others from changing the access of the namespace until the change is dropped.
    ///
    /// # Errors
    /// When somebody does already, or in a transaction.
    pub fn begin_access_change(&self, namespace: NamespaceId) -> Result<AccessChange> {
        if self.current.is_some() {
            return Err(EngineError::NotInTransaction(
                "making a namespace read only, writable, offline or online",
            ));
        }
        let namespaces = &self.store.shared.namespaces;
        let changing = || EngineError::NamespaceChanging(name_of(&namespaces.entry(namespace)));
        namespaces.change_access(namespace).ok_or_else(changing)
    }

    /// What may be done with the namespace, and its file.
    ///
    /// # Errors
    /// When there is no such namespace.
    pub fn access(&self, namespace: NamespaceId) -> Result<(Access, Option<FileNo>)> {
        let entry = self.store.shared.namespaces.entry(namespace);
        let place = entry.place().ok_or(EngineError::NoNamespace)?;
        Ok((entry.access(), place.lies.file()))
    }

    /// Says what may be done with the namespace from now on; gives its file.
    ///
    /// # Errors
    /// Nothing of it has happened then. [`EngineError::Park`] means: not now.
    pub fn set_access(
        &mut self,
        namespace: NamespaceId,
        access: Access,
    ) -> Result<Committed<Option<FileNo>>> {
        self.enter();
        let Engine {
            store, work, set, ..
        } = self;
        let entry = store.shared.namespaces.entry(namespace);
        let _held = hold(&entry)?;
        let lies = entry.lies();
        if lies == Lies::Absent {
            return Err(EngineError::NoNamespace);
        }
        if entry.access() == access {
            return Ok(unchanged(lies.file(), store, store.shared.wal.insert_lsn()));
        }
        let mut change = CatalogChange::new(store);
        let mut value = value_of(namespace, &entry, lies, None);
        value.access = access;
        change.edits.push(Edit {
            name: entry.name(),
            value: Some(value),
        });
        change.steps.push((entry, Step::SetAccess(access)));
        Ok(committed(lies.file(), change.log(work, set)?))
    }
}
