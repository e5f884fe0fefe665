//! Namespaces: the catalog that names them and their files, and all that changes them as a whole.
//!
//! # Files
//!
//! A namespace that holds no key need not have a file: it is *empty*. The first write gives it one
//! ([`give_file`]), by a record (`FileCreate`) that holds the file's first pages whole and the
//! catalog's new entry. What takes content away (FLUSHDB, FLUSHALL, DROP), or gives a namespace
//! that of another (SWAPDB), or a name, only writes to the catalog: a commit like any other, one
//! record for all namespaces that it concerns. By the same record the files that no namespace has
//! any more are dropped; old snapshots go on reading them, and the checkpointer unlinks them when
//! nobody can any more.
//!
//! # Names
//!
//! The database that SELECT calls N is `N` in the catalog, and `dbN` to people; it is there without
//! an entry of the catalog too, and has the index N. Other names begin with a letter or `_`.
//!
//! # A change, in this order
//!
//! 1. If names change: all names are held. The entries concerned are held alone, in the order of
//!    their indices: no commit is under way in them.
//! 2. A snapshot at the durable LSN must find its place afterwards: else the operation parks until
//!    the log is durable further.
//! 3. For [`give_file`], the new file must be there; else the operation parks until the
//!    checkpointer has made it.
//! 4. The catalog's leaves are latched, and kept until step 6 is done: a checkpoint whose redo
//!    point is behind the record cannot be complete before it has copied them, so it knows of the
//!    drops.
//! 5. From before the LSN is reserved, readers of the entries wait.
//! 6. The entries say what is so now, and files are noted as dropped.
//!
//! Whether a namespace can be read and written: `access.rs`.

pub(crate) mod access;
mod changes;

pub use changes::NamespaceInfo;

use crate::btree::Tree;
use crate::btree::insert::Room;
use crate::btree::plan::Arrival;
use crate::btree::room::Waiter;
use crate::change::{CriticalChange, credit_of};
use crate::chores::finish_splits;
use crate::error::{EngineError, ParkReason, Result};
use crate::txn::access::WriteSet;
use crate::txn::commit::refuse_if_read_only;
use crate::txn::visible::{Seen, seen};
use crate::verify::Pages;
use crate::work::Work;
use changes::{CatalogChange, Edit, Step};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::bitmap::{self, FIRST_BITMAP_BLOCK, META_BLOCK, ROOT_BLOCK};
use rd_format::catalog::{CATALOG_FILE, CatalogValue};
use rd_format::meta::{self, Meta};
use rd_format::page::{self, PageBytes, PageKind, flags};
use rd_format::wal_record::{PageOp, RecordKind, Upsert};
use rd_format::{NodeMut, NodeRef, Payload};
use rd_store::Store;
use rd_store::buffer::PinnedWrite;
use rd_store::files::{FileState, Growth};
use rd_store::namespaces::{
    DATABASES_MAX, Lies, NAMESPACE_NAME_BYTES_MAX, NAMESPACES_MAX, NamespaceEntry, NamespaceId,
};
use std::collections::BTreeMap;

/// Blocks that a new file is asked to have room for.
const NEW_FILE_BLOCKS: u32 = 16;
/// What the name of a database of SELECT begins with, for people.
const DATABASE_PREFIX: &[u8] = b"db";

/// The first pages of a relation file, in the order of their blocks: meta, bitmap, root.
pub(crate) fn first_pages(system_identifier: u64, file: FileNo) -> [Box<PageBytes>; 3] {
    let mut pages = [(); 3].map(|()| Box::new([0; PAGE_BYTES]));
    let [meta_page, bitmap_page, root] = &mut pages;
    let meta = Meta {
        system_identifier,
        file,
        // Not known before the record has its place: the page LSN says it.
        created_lsn: Lsn::ZERO,
        checkpoint_count: 0,
        checkpoint_scn: Lsn::ZERO,
        stop_scn: Lsn::ZERO,
        opened_from: Lsn::ZERO,
    };
    meta::init(meta_page, &meta);
    bitmap::init(bitmap_page, FIRST_BITMAP_BLOCK);
    NodeMut::init_leaf(root).change_flags(flags::ROOT, 0);
    pages
}

/// Their blocks.
pub(crate) const FIRST_BLOCKS: [BlockNo; 3] = [META_BLOCK, FIRST_BITMAP_BLOCK, ROOT_BLOCK];

// ---- names ------------------------------------------------------------------------------------

/// The number that `digits` are, if they are written without leading zeros.
fn number_of(digits: &[u8]) -> Option<usize> {
    let is_plain = digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits.first() != Some(&b'0'));
    let text = std::str::from_utf8(digits).ok()?;
    text.parse().ok().filter(|_| is_plain)
}

/// What people call the namespace that is `name` in the catalog.
pub fn shown_name(name: &[u8]) -> Vec<u8> {
    match number_of(name) {
        Some(_) => [DATABASE_PREFIX, name].concat(),
        None => name.to_vec(),
    }
}

/// The name in the catalog of what people call `shown`.
///
/// # Errors
/// When no namespace can have that name.
fn catalog_name(shown: &[u8]) -> Result<Vec<u8>> {
    let digits = shown.strip_prefix(DATABASE_PREFIX);
    if let Some(digits) = digits.filter(|digits| number_of(digits).is_some()) {
        return Ok(digits.to_vec());
    }
    let is_first = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
    let is_further = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
    let is_good = shown.len() <= NAMESPACE_NAME_BYTES_MAX
        && shown.first().is_some_and(is_first)
        && shown.iter().all(is_further);
    match is_good {
        true => Ok(shown.to_vec()),
        false => Err(EngineError::BadNamespaceName(text_of(shown))),
    }
}

/// A name for a message.
fn text_of(name: &[u8]) -> String {
    let shown = &name[..name.len().min(NAMESPACE_NAME_BYTES_MAX)];
    shown.escape_ascii().to_string()
}

/// The name in the catalog of a namespace that can be created and dropped.
fn free_name(shown: &[u8]) -> Result<Vec<u8>> {
    let name = catalog_name(shown)?;
    match number_of(&name) {
        Some(_) => Err(EngineError::DatabaseOfSelect(text_of(shown))),
        None => Ok(name),
    }
}

// ---- start-up ---------------------------------------------------------------------------------

/// Fills the shared table from the catalog, and with the databases that it does not name; for the
/// startup process, once redo is done. Returns the namespaces' files.
///
/// # Errors
/// When the catalog cannot be read, or says what no server wrote.
pub fn load_namespaces(store: &Store) -> Result<Vec<FileNo>> {
    let namespaces = &store.shared.namespaces;
    let mut files = Vec::new();
    read_catalog(store, &mut |name, value, since| {
        let index = usize::from(value.index);
        let belongs = match number_of(name) {
            Some(number) => number == index && index < DATABASES_MAX,
            None => (DATABASES_MAX..NAMESPACES_MAX).contains(&index),
        };
        // Each has an index and a file of its own.
        let is_taken = |id: &NamespaceId| namespaces.entry(*id).lies() != Lies::Absent;
        let shares = value.file.is_some_and(|file| files.contains(&file));
        let id = NamespaceId::new(index)
            .filter(|id| belongs && is_name(name) && !shares && !is_taken(id));
        let lies = value.file.map_or(Lies::Empty, Lies::In);
        files.extend(value.file);
        if let Some(id) = id {
            namespaces.load(id, name, lies, since, value.access);
            if let Some(file) = value.file.filter(|file| store.shared.files.exists(*file)) {
                store.shared.files.set_access(file, value.access);
            }
        }
        id.is_some()
    })?;
    for number in 0..store.config.databases() as usize {
        let id = NamespaceId::database(number).expect("the parameter's bound");
        if namespaces.entry(id).lies() == Lies::Absent {
            namespaces.load_unnamed(id, number.to_string().as_bytes());
        }
    }
    Ok(files)
}

/// What people call the namespace that lies in `file`; for after [`load_namespaces`].
pub(crate) fn name_of(store: &Store, file: FileNo) -> Option<Vec<u8>> {
    let ids = (0..NAMESPACES_MAX).filter_map(NamespaceId::new);
    let mut entries = ids.map(|id| store.shared.namespaces.entry(id));
    let entry = entries.find(|entry| entry.lies() == Lies::In(file))?;
    Some(shown_name(&entry.name()))
}

fn is_name(name: &[u8]) -> bool {
    (1..=NAMESPACE_NAME_BYTES_MAX).contains(&name.len())
}

/// Visits the newest entries of the catalog: name, value, stamp. `visit` says whether an entry
/// makes sense.
fn read_catalog(
    store: &Store,
    visit: &mut dyn FnMut(&[u8], &CatalogValue, Lsn) -> bool,
) -> Result<()> {
    let tree = catalog(store);
    let mut leaf = tree.leaf_for_read(&[], Lsn::MAX)?;
    let mut before: Option<Vec<u8>> = None;
    // Each page is looked at once: links that go in a circle end here, too.
    for _ in 0..store.shared.files.blocks(CATALOG_FILE) {
        let node = NodeRef::new(&leaf);
        for slot in 0..node.count() {
            let entry = node.leaf_entry(slot);
            if before.as_deref() == Some(entry.key) {
                continue;
            }
            before = Some(entry.key.to_vec());
            let Seen::Inline(value, _) = seen(&entry, || 0) else {
                continue;
            };
            let value = CatalogValue::decode(value);
            if !value.is_some_and(|value| visit(entry.key, &value, entry.stamp)) {
                let block = leaf.pin().tag().block;
                return Err(tree.broken(block, "the catalog has an entry that makes no sense"));
            }
        }
        let Some(right) = node.right_link() else {
            return Ok(());
        };
        drop(leaf);
        leaf = tree.fetch(right)?.into_read();
    }
    Err(tree.broken(ROOT_BLOCK, "the leaves link to each other in a circle"))
}

/// What the catalog says of the namespace that lies in a file.
pub struct NamedFile {
    /// Its name, as people know it.
    pub name: Vec<u8>,
    /// What may be done with it.
    pub access: rd_format::Access,
}

/// The files of all namespaces and what people call these, from the pages of the catalog's file;
/// for programs that look at a data directory whose server is stopped.
///
/// # Errors
/// Why the catalog cannot be read, in words.
pub fn names_of_files(
    pages: &dyn Pages,
) -> std::result::Result<BTreeMap<FileNo, NamedFile>, String> {
    if pages.blocks() == 0 {
        return Err("it has no pages".to_owned());
    }
    let mut names = BTreeMap::new();
    let mut block = ROOT_BLOCK;
    let mut before: Option<Vec<u8>> = None;
    // Each page is looked at once: links that go in a circle end here, too.
    for _ in 0..pages.blocks() {
        let bytes = pages.page(block)?;
        page::verify(&bytes, PageTag::new(CATALOG_FILE, block))
            .map_err(|error| error.to_string())?;
        if !matches!(page::kind(&bytes), Some(PageKind::Leaf | PageKind::Inner)) {
            return Err(format!("block {block} is no page of a tree"));
        }
        let node = NodeRef::new(&bytes);
        if !node.is_leaf() {
            block = node.inner_entry(0).1;
            continue;
        }
        for slot in 0..node.count() {
            let entry = node.leaf_entry(slot);
            if before.as_deref() == Some(entry.key) {
                continue;
            }
            before = Some(entry.key.to_vec());
            if let Payload::Inline(value) = entry.payload
                && let Some(value) = CatalogValue::decode(value)
                && let Some(file) = value.file
            {
                let named = NamedFile {
                    name: shown_name(entry.key),
                    access: value.access,
                };
                names.insert(file, named);
            }
        }
        match node.right_link() {
            Some(right) => block = right,
            None => return Ok(names),
        }
    }
    Err("its pages link to each other in a circle".to_owned())
}

fn catalog(store: &Store) -> Tree<'_> {
    Tree {
        store,
        file: CATALOG_FILE,
    }
}

// ---- files ------------------------------------------------------------------------------------

/// Gives `namespace`, which is empty, a file. `is_held`: by the caller, alone. That another has
/// been faster is no error.
///
/// # Errors
/// Nothing has happened then, or nothing that could be seen.
pub(crate) fn give_file(
    store: &Store,
    work: &mut Work,
    set: &mut WriteSet,
    namespace: NamespaceId,
    is_held: bool,
) -> Result<()> {
    let entry = store.shared.namespaces.entry(namespace);
    refuse_if_read_only(store)?;
    let _held = match is_held {
        true => None,
        false => Some(access::hold(&entry)?),
    };
    access::check_writable(&entry)?;
    match entry.lies() {
        Lies::Empty => {}
        Lies::In(_) => return Ok(()),
        Lies::Absent => return Err(EngineError::NoNamespace),
    }
    check_change(store, &entry)?;
    let file = entry.next_file().unwrap_or_else(|| {
        let file = store.shared.files.allocate_number();
        entry.set_next_file(file);
        file
    });
    wait_for_file(store, work, file)?;
    if !entry.in_catalog() {
        let mut change = CatalogChange::new(store);
        change.edits.push(Edit {
            name: entry.name(),
            value: Some(value_of(namespace, &entry, Lies::Empty, None)),
        });
        change.steps.push((entry, Step::Enter));
        change.log(work, set)?;
    }
    let done = log_file(store, work, namespace, &entry, file);
    finish_splits(store, work);
    done
}

/// What the catalog is to say of a namespace that can be written as its `entry` says.
fn value_of(
    namespace: NamespaceId,
    entry: &NamespaceEntry<'_>,
    lies: Lies,
    previous: Option<FileNo>,
) -> CatalogValue {
    CatalogValue {
        file: lies.file(),
        previous,
        index: namespace.index() as u16,
        access: entry.access(),
    }
}

/// Steps 4 to 6 of [`give_file`].
fn log_file(
    store: &Store,
    work: &mut Work,
    namespace: NamespaceId,
    entry: &NamespaceEntry<'_>,
    file: FileNo,
) -> Result<()> {
    work.begin(store, namespace, CATALOG_FILE);
    let value = value_of(namespace, entry, Lies::In(file), None).encode();
    let name = entry.name();
    let upsert = Upsert {
        key: &name,
        expiry_ms: None,
        payload: Payload::Inline(&value),
    };
    let mut leaf = catalog_leaf(catalog(store), work, &upsert)?;
    let tree = Tree { store, file };
    let images = first_pages(store.shared.wal.system_id(), file);
    let record = &mut work.record;
    record.start(RecordKind::FileCreate, work.now_us);
    for (block, image) in FIRST_BLOCKS.iter().zip(&images) {
        record.block(tree.tag(*block));
        record.image(image);
    }
    record.block(leaf.tag());
    record.op(&PageOp::Upsert(upsert));
    record.file(file);
    let credit = credit_of(store, record)?;
    let mut pages = FIRST_BLOCKS.map(|block| tree.fetch_new(block).into_write());

    let mut change = CriticalChange::begin(store);
    pages.iter().for_each(|page| change.mark(page));
    change.mark(&leaf);
    let place = entry.begin_change();
    let end = change.insert(record, credit, |_| {});
    for (page, image) in pages.iter_mut().zip(&images) {
        page.copy_from_slice(&image[..]);
        change.stamp(page);
    }
    let added = NodeMut::new(&mut leaf).insert_leaf(&upsert.stamped(end));
    added.expect("room was made under this latch");
    change.stamp(&mut leaf);
    place.give_file(file, end);
    drop(place);
    change.finish();
    Ok(())
}

/// Step 2 of a change.
fn check_change(store: &Store, entry: &NamespaceEntry<'_>) -> Result<()> {
    entry
        .can_change(store.shared.wal.durable_lsn())
        .map_err(|lsn| {
            store.shared.wal.request_flush(lsn);
            EngineError::Park(ParkReason::Durable(lsn))
        })
}

/// Sees to it that `file` is there.
fn wait_for_file(store: &Store, work: &mut Work, file: FileNo) -> Result<()> {
    let files = &store.shared.files;
    if let Some(ticket) = work.take_growth(file)
        && let Growth::Failed(error) = files.growth(&ticket)
    {
        return Err(error.into());
    }
    if files.state(file) == FileState::Live && files.blocks(file) >= NEW_FILE_BLOCKS {
        return Ok(());
    }
    work.keep_growth(file, store.request_create(file, NEW_FILE_BLOCKS)?);
    Err(EngineError::Park(ParkReason::FileCreation(file)))
}

/// The catalog's leaf for `upsert`, latched, with room.
fn catalog_leaf<'s>(
    catalog: Tree<'s>,
    work: &mut Work,
    upsert: &Upsert<'_>,
) -> Result<PinnedWrite<'s>> {
    let cell_bytes = upsert.stamped(Lsn::ZERO).cell_bytes();
    loop {
        let mut leaf = catalog.page_for_write(upsert.key, Lsn::MAX, 0, &mut work.marks)?;
        if NodeRef::new(&leaf).fits(cell_bytes) {
            return Ok(leaf);
        }
        let arrivals = std::iter::once(Arrival {
            key: upsert.key,
            cell_bytes,
        });
        let waiter = Waiter::new(upsert.key, 1);
        if let Room::Enough = catalog.make_room(work, &mut leaf, arrivals, waiter)? {
            return Ok(leaf);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_databases_and_others_do_not_meet() {
        for (shown, name) in [
            ("db0", "0"),
            ("db10", "10"),
            ("users", "users"),
            ("_x", "_x"),
        ] {
            let found = catalog_name(shown.as_bytes()).expect("a good name");
            assert_eq!(found, name.as_bytes());
            assert_eq!(shown_name(&found), shown.as_bytes());
        }
        for odd in ["db01", "db", "dbx1"] {
            let found = catalog_name(odd.as_bytes()).expect("a name like any other");
            assert_eq!(found, odd.as_bytes());
        }
        let long = "x".repeat(NAMESPACE_NAME_BYTES_MAX + 1);
        for bad in ["", "0", "7x", "a b", "-a", "a/b", "\u{e9}t\u{e9}", &long] {
            let error = catalog_name(bad.as_bytes()).expect_err(bad);
            assert!(matches!(error, EngineError::BadNamespaceName(_)), "{error}");
        }
        let error = free_name(b"db3").expect_err("of SELECT");
        assert!(error.to_string().contains("SELECT"), "{error}");
    }
}
