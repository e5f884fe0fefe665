//! What changes namespaces by the catalog alone: one record, whatever the number of namespaces and
//! their size.

use super::access::{check_free, check_writable, hold};
use super::{catalog, catalog_name, check_change, free_name, shown_name, text_of, value_of};
use crate::api::{Engine, Read};
use crate::chores::finish_splits;
use crate::error::{EngineError, Result};
use crate::txn::access::{Access as KeyAccess, WriteSet};
use crate::txn::commit::Around;
use crate::txn::write::{self, Committed};
use crate::work::Work;
use rd_base::limits::PAGE_BYTES;
use rd_base::{FileNo, Lsn};
use rd_format::Access;
use rd_format::catalog::{CATALOG_FILE, CatalogValue};
use rd_store::Store;
use rd_store::namespaces::{
    DATABASES_MAX, Found, Lies, NAMESPACES_MAX, Named, NamespaceChange, NamespaceEntry, NamespaceId,
};

/// What is written under one name of the catalog; `None` takes the name away.
pub(super) struct Edit {
    pub(super) name: Vec<u8>,
    pub(super) value: Option<CatalogValue>,
}

/// What becomes of an entry of the shared table.
pub(super) enum Step {
    /// It is in the catalog now, and as it was.
    Enter,
    /// Its namespace has other content.
    Replace(Lies),
    /// It is of a new namespace.
    Create(Vec<u8>),
    /// Its namespace has another name.
    Rename(Vec<u8>),
    /// Its namespace is dropped.
    Drop,
    /// Its namespace can be read and written as this says.
    SetAccess(Access),
}

/// A change of the catalog by one record, with what goes with it in shared memory. The entries are
/// held by the caller.
pub(super) struct CatalogChange<'s> {
    store: &'s Store,
    pub(super) edits: Vec<Edit>,
    pub(super) steps: Vec<(NamespaceEntry<'s>, Step)>,
    /// Files that no namespace has afterwards.
    dropped: Vec<FileNo>,
    /// The names are held by the caller, too, and change.
    changes_names: bool,
    begun: Vec<NamespaceChange<'s>>,
}

impl<'s> CatalogChange<'s> {
    pub(super) fn new(store: &'s Store) -> CatalogChange<'s> {
        CatalogChange {
            store,
            edits: Vec::new(),
            steps: Vec::new(),
            dropped: Vec::new(),
            changes_names: false,
            begun: Vec::new(),
        }
    }

    /// Makes a namespace empty.
    fn empty(&mut self, namespace: NamespaceId, entry: NamespaceEntry<'s>, file: FileNo) {
        self.edits.push(Edit {
            name: entry.name(),
            value: Some(value_of(namespace, &entry, Lies::Empty, Some(file))),
        });
        self.steps.push((entry, Step::Replace(Lies::Empty)));
        self.dropped.push(file);
    }

    /// Logs it. Returns the record's end.
    pub(super) fn log(mut self, work: &mut Work, set: &mut WriteSet) -> Result<Lsn> {
        let store = self.store;
        let edits = std::mem::take(&mut self.edits);
        let keys: Vec<&[u8]> = edits.iter().map(|edit| &edit.name[..]).collect();
        let mut program = |access: &mut KeyAccess<'_>| {
            for (index, edit) in edits.iter().enumerate() {
                match &edit.value {
                    Some(value) => access.put(index, &value.encode(), None)?,
                    None => drop(access.delete(index)?),
                }
            }
            Ok(())
        };
        work.begin(store, NamespaceId::DB0, CATALOG_FILE);
        let around = Some(&mut self as &mut dyn Around);
        let done = write::run(catalog(store), work, set, &keys, &mut program, around);
        finish_splits(store, work);
        Ok(done?.lsn)
    }
}

impl Around for CatalogChange<'_> {
    fn before(&mut self) {
        let begun = self.steps.iter().map(|(entry, _)| entry.begin_change());
        self.begun = begun.collect();
    }

    fn after(&mut self, end: Lsn) {
        for ((entry, step), change) in self.steps.iter().zip(&self.begun) {
            match step {
                Step::Enter => {}
                Step::Replace(lies) => change.replace(*lies, end),
                Step::Create(name) => change.create(name, end),
                Step::Rename(name) => change.rename(name),
                Step::Drop => change.replace(Lies::Absent, end),
                Step::SetAccess(access) => {
                    change.set_access(*access);
                    if let Some(file) = entry.file() {
                        self.store.shared.files.set_access(file, *access);
                    }
                }
            }
            entry.set_in_catalog(!matches!(step, Step::Drop));
        }
        if self.changes_names {
            self.store.shared.namespaces.note_names_changed(end);
        }
        self.begun.clear();
        let shared = &self.store.shared;
        let is_to_be_swept = |(_, step): &(_, Step)| {
            matches!(step, Step::Replace(Lies::In(_)))
                || matches!(step, Step::SetAccess(access) if access.is_writable())
        };
        if self.steps.iter().any(is_to_be_swept) {
            // A sweep under way may have passed the namespace that it lies in now, or passed it over.
            shared.expiry.note(&shared.procs, 0);
        }
        for file in &self.dropped {
            shared.files.drop_file(*file, end);
        }
    }

    fn is_drop(&self) -> bool {
        !self.dropped.is_empty()
    }
}

/// An index for a new namespace. The names are held.
fn free_index(store: &Store, work: &mut Work) -> Result<usize> {
    let namespaces = &store.shared.namespaces;
    let limit = store.config.max_namespaces() as u64;
    let is_named = |id: NamespaceId| id.database_number().is_none();
    let named = namespaces
        .list()
        .iter()
        .filter(|one| is_named(one.id))
        .count();
    if named as u64 >= limit {
        return Err(EngineError::TooManyNamespaces { limit });
    }
    work.collect_points(store);
    let horizon = work.points.horizon();
    let is_free = |index: &usize| match namespaces.entry(namespaces.id_at(*index)).at(Lsn::MAX) {
        Found::At(place) => place.lies == Lies::Absent && place.since <= horizon,
        _ => false,
    };
    let mut free = (DATABASES_MAX..NAMESPACES_MAX).filter(is_free);
    free.next().ok_or(EngineError::NamespacesStillRead {
        limit: NAMESPACES_MAX - DATABASES_MAX,
    })
}

/// What is known of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its id.
    pub id: NamespaceId,
    /// Its name, as people write it.
    pub name: Vec<u8>,
    /// Its relation file; none while it is empty.
    pub file: Option<FileNo>,
    /// Keys in it, commits included that are not durable yet.
    pub keys: u64,
    /// Bytes that its file has on disk.
    pub disk_bytes: u64,
    /// What may be done with it.
    pub access: Access,
    /// Its file's checkpoint number and SCN, and its stop SCN, zero while it is written; none while
    /// the namespace is empty.
    pub covered: Option<(u64, Lsn, Lsn)>,
}

impl Engine {
    /// The namespace that people call `name`.
    ///
    /// # Errors
    /// When no namespace can have that name.
    pub fn find_namespace(&self, name: &[u8]) -> Result<Read<Option<NamespaceId>>> {
        let name = catalog_name(name)?;
        let namespaces = &self.store.shared.namespaces;
        let result = namespaces.find(&name);
        Ok(Read {
            result,
            // Looked at afterwards: whoever changed a name that was seen has noted it before.
            depends_on: self.dependency(namespaces.names_changed()),
        })
    }

    /// All namespaces, in the order of their indices.
    pub fn namespaces(&self) -> Read<Vec<NamespaceInfo>> {
        let shared = &self.store.shared;
        let info = |named: Named| {
            let file = named.place.lies.file();
            let blocks = file.map_or(0, |file| shared.files.blocks(file));
            NamespaceInfo {
                id: named.id,
                name: shown_name(&named.name),
                file,
                keys: file.map_or(0, |file| shared.files.keys(file)),
                disk_bytes: u64::from(blocks) * PAGE_BYTES as u64,
                access: shared.namespaces.entry(named.id).access(),
                covered: file.and_then(|file| shared.files.covered(file)),
            }
        };
        let list = shared.namespaces.list();
        let since = list.iter().map(|named| named.place.content_since).max();
        let since = since.max(Some(shared.namespaces.names_changed()));
        Read {
            result: list.into_iter().map(info).collect(),
            depends_on: self.dependency(since.unwrap_or(Lsn::ZERO)),
        }
    }

    /// What people call `namespace`; none if it is not there any more.
    pub fn namespace_name(&self, namespace: NamespaceId) -> Option<Vec<u8>> {
        let entry = self.store.shared.namespaces.entry(namespace);
        entry.place().map(|_| shown_name(&entry.name()))
    }

    fn refuse_in_transaction(&self, what: &'static str) -> Result<()> {
        match self.current {
            Some(_) => Err(EngineError::NotInTransaction(what)),
            None => Ok(()),
        }
    }

    /// Creates an empty namespace.
    ///
    /// # Errors
    /// Nothing of it has happened then. [`EngineError::Park`] means: not now.
    pub fn create_namespace(&mut self, name: &[u8]) -> Result<Committed<NamespaceId>> {
        self.refuse_in_transaction("creating a namespace")?;
        self.enter();
        let shown = name;
        let name = free_name(shown)?;
        let Engine {
            store, work, set, ..
        } = self;
        let namespaces = &store.shared.namespaces;
        let _names = namespaces.hold_names();
        if namespaces.find(&name).is_some() {
            return Err(EngineError::NamespaceExists(text_of(shown)));
        }
        let index = free_index(store, work)?;
        let last = namespaces.id_at(index);
        let entry = namespaces.entry(last);
        let _held = entry.hold();
        let mut change = CatalogChange::new(store);
        change.changes_names = true;
        change.edits.push(Edit {
            name: name.clone(),
            value: Some(CatalogValue {
                access: Access::READ_WRITE,
                ..value_of(last, &entry, Lies::Empty, None)
            }),
        });
        change.steps.push((entry, Step::Create(name)));
        let lsn = change.log(work, set)?;
        Ok(committed(namespaces.id_at(index), lsn))
    }

    /// Drops a namespace with all its keys. Takes no longer for a large one.
    ///
    /// # Errors
    /// As for [`Engine::create_namespace`].
    pub fn drop_namespace(&mut self, name: &[u8]) -> Result<Committed<()>> {
        self.refuse_in_transaction("dropping a namespace")?;
        self.enter();
        let name = free_name(name)?;
        let Engine {
            store, work, set, ..
        } = self;
        let namespaces = &store.shared.namespaces;
        let _names = namespaces.hold_names();
        let id = namespaces.find(&name).ok_or(EngineError::NoNamespace)?;
        let entry = namespaces.entry(id);
        let _held = hold(&entry)?;
        check_change(store, &entry)?;
        let mut change = CatalogChange::new(store);
        change.changes_names = true;
        change.dropped.extend(entry.file());
        change.edits.push(Edit { name, value: None });
        change.steps.push((entry, Step::Drop));
        Ok(committed((), change.log(work, set)?))
    }

    /// Gives a namespace another name. Who uses it goes on to.
    ///
    /// # Errors
    /// As for [`Engine::create_namespace`].
    pub fn rename_namespace(&mut self, old: &[u8], new: &[u8]) -> Result<Committed<()>> {
        self.refuse_in_transaction("renaming a namespace")?;
        self.enter();
        let (old, shown) = (free_name(old)?, new);
        let new = free_name(shown)?;
        let Engine {
            store, work, set, ..
        } = self;
        let namespaces = &store.shared.namespaces;
        let _names = namespaces.hold_names();
        let id = namespaces.find(&old).ok_or(EngineError::NoNamespace)?;
        if namespaces.find(&new).is_some() {
            return Err(EngineError::NamespaceExists(text_of(shown)));
        }
        let entry = namespaces.entry(id);
        let _held = hold(&entry)?;
        let value = value_of(id, &entry, entry.lies(), None);
        let mut change = CatalogChange::new(store);
        change.changes_names = true;
        change.edits = vec![
            Edit {
                name: old,
                value: None,
            },
            Edit {
                name: new.clone(),
                value: Some(value),
            },
        ];
        change.steps.push((entry, Step::Rename(new)));
        Ok(committed((), change.log(work, set)?))
    }

    /// Gives each of two namespaces the content of the other.
    ///
    /// # Errors
    /// As for [`Engine::create_namespace`].
    pub fn swap_namespaces(
        &mut self,
        one: NamespaceId,
        other: NamespaceId,
    ) -> Result<Committed<()>> {
        self.refuse_in_transaction("swapping databases")?;
        self.enter();
        let Engine {
            store, work, set, ..
        } = self;
        let namespaces = &store.shared.namespaces;
        let entries = [one, other].map(|id| namespaces.entry(id));
        entries.iter().try_for_each(check_free)?;
        let _held = namespaces.hold_all(&[one, other]);
        for entry in &entries {
            check_writable(entry)?;
        }
        let lies = entries.map(|entry| entry.lies());
        if lies.contains(&Lies::Absent) {
            return Err(EngineError::NoNamespace);
        }
        let since =
            entries.map(|entry| entry.place().map_or(Lsn::ZERO, |place| place.content_since));
        if one == other || lies == [Lies::Empty; 2] {
            return Ok(unchanged((), store, since[0].max(since[1])));
        }
        let mut change = CatalogChange::new(store);
        for (index, id) in [one, other].into_iter().enumerate() {
            check_change(store, &entries[index])?;
            let given = lies[1 - index];
            change.edits.push(Edit {
                name: entries[index].name(),
                value: Some(value_of(id, &entries[index], given, None)),
            });
            change.steps.push((entries[index], Step::Replace(given)));
        }
        let lsn = change.log(work, set)?;
        Ok(committed((), lsn))
    }

    /// Makes the namespace empty. Takes no longer for a large one.
    ///
    /// # Errors
    /// Nothing of it has happened then. [`EngineError::Park`] means: not now.
    pub fn flush_namespace(&mut self, namespace: NamespaceId) -> Result<Committed<()>> {
        if self.current.is_some() {
            return self.clear_in_transaction(&[namespace]);
        }
        self.enter();
        let Engine {
            store, work, set, ..
        } = self;
        let entry = store.shared.namespaces.entry(namespace);
        let _held = hold(&entry)?;
        let place = entry.place().ok_or(EngineError::NoNamespace)?;
        check_writable(&entry)?;
        let Lies::In(file) = place.lies else {
            return Ok(unchanged((), store, place.content_since));
        };
        check_change(store, &entry)?;
        let mut change = CatalogChange::new(store);
        change.empty(namespace, entry, file);
        Ok(committed((), change.log(work, set)?))
    }

    /// Makes all namespaces empty, by one record.
    ///
    /// # Errors
    /// As for [`Engine::flush_namespace`].
    pub fn flush_all(&mut self) -> Result<Committed<()>> {
        if self.current.is_some() {
            let all = self.store.shared.namespaces.list();
            let all: Vec<NamespaceId> = all.iter().map(|named| named.id).collect();
            return self.clear_in_transaction(&all);
        }
        self.enter();
        let Engine {
            store, work, set, ..
        } = self;
        let namespaces = &store.shared.namespaces;
        let _names = namespaces.hold_names();
        let ids: Vec<NamespaceId> = namespaces.list().iter().map(|named| named.id).collect();
        let mut entries = ids.iter().map(|id| namespaces.entry(*id));
        entries.try_for_each(|entry| check_free(&entry))?;
        let _held = namespaces.hold_all(&ids);
        let mut change = CatalogChange::new(store);
        let mut since = Lsn::ZERO;
        for id in ids {
            let entry = namespaces.entry(id);
            check_writable(&entry)?;
            since = since.max(entry.place().map_or(Lsn::ZERO, |place| place.content_since));
            if let Some(file) = entry.file() {
                check_change(store, &entry)?;
                change.empty(id, entry, file);
            }
        }
        if change.edits.is_empty() {
            return Ok(unchanged((), store, since));
        }
        Ok(committed((), change.log(work, set)?))
    }
}

/// Nothing was to be changed; the reply shows what was written at `lsn`.
pub(super) fn unchanged<R>(result: R, store: &Store, lsn: Lsn) -> Committed<R> {
    let is_durable = lsn <= store.shared.wal.durable_lsn();
    Committed {
        result,
        lsn: Lsn::ZERO,
        depends_on: if is_durable { Lsn::ZERO } else { lsn },
    }
}

pub(super) fn committed<R>(result: R, lsn: Lsn) -> Committed<R> {
    Committed {
        result,
        lsn,
        depends_on: Lsn::ZERO,
    }
}
