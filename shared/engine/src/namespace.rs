//! Namespaces: the catalog that names their files, the table that everybody looks at, and FLUSHDB,
//! which gives a namespace a new, empty file.
//!
//! A FLUSHDB is one record (`FileCreate`): the new file's first pages whole, and the catalog's new
//! entry, which names the file before it, too; by the same record that one is dropped. Old
//! snapshots go on reading it; the checkpointer unlinks it when nobody can any more.
//!
//! Steps, in this order:
//! 1. The namespace's entry is held exclusively: no commit is under way in it.
//! 2. The change before must be durable: an entry knows one previous file, and so readers at the
//!    durable LSN find theirs.
//! 3. The new file must be there; else the operation parks until the checkpointer has made it.
//! 4. The catalog's leaf is latched, and kept until step 6 is done: a checkpoint whose redo point
//!    is behind the record cannot be complete before it has copied that leaf, so it knows of the
//!    drop.
//! 5. The change: from before the LSN is reserved, readers of the entry wait.
//! 6. The entry says the new file, and the old one is noted as dropped.

use crate::btree::Tree;
use crate::btree::insert::Room;
use crate::btree::plan::Arrival;
use crate::btree::room::Waiter;
use crate::change::{CriticalChange, credit_of_drop};
use crate::error::{EngineError, ParkReason, Result};
use crate::txn::commit::refuse_if_read_only;
use crate::txn::visible::{Seen, seen};
use crate::work::Work;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn};
use rd_format::bitmap::{self, FIRST_BITMAP_BLOCK, META_BLOCK, ROOT_BLOCK};
use rd_format::catalog::{CATALOG_FILE, CatalogValue};
use rd_format::meta::{self, Meta};
use rd_format::page::{PageBytes, flags};
use rd_format::wal_record::{PageOp, RecordKind, Upsert};
use rd_format::{NodeMut, NodeRef, Payload};
use rd_store::Store;
use rd_store::buffer::PinnedWrite;
use rd_store::files::{FileState, Growth};
use rd_store::namespaces::{NAMESPACE_NAME_BYTES_MAX, NamespaceEntry, NamespaceId};

/// Blocks that a new file is asked to have room for.
const NEW_FILE_BLOCKS: u32 = 16;

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
    };
    meta::init(meta_page, &meta);
    bitmap::init(bitmap_page, FIRST_BITMAP_BLOCK);
    NodeMut::init_leaf(root).change_flags(flags::ROOT, 0);
    pages
}

/// Their blocks.
pub(crate) const FIRST_BLOCKS: [BlockNo; 3] = [META_BLOCK, FIRST_BITMAP_BLOCK, ROOT_BLOCK];

/// Fills the shared table from the catalog; for the startup process, once redo is done. Returns the
/// namespaces' files.
///
/// # Errors
/// When the catalog cannot be read, or says what no server wrote.
pub fn load_namespaces(store: &Store) -> Result<Vec<FileNo>> {
    let tree = Tree {
        store,
        file: CATALOG_FILE,
    };
    let mut files = Vec::new();
    let mut leaf = tree.leaf_for_read(&[], Lsn::MAX)?;
    loop {
        let node = NodeRef::new(&leaf);
        let mut before: Option<&[u8]> = None;
        for slot in 0..node.count() {
            let entry = node.leaf_entry(slot);
            let newest = before != Some(entry.key);
            before = Some(entry.key);
            if !newest {
                continue;
            }
            let Seen::Inline(value, _) = seen(&entry, || 0) else {
                continue;
            };
            let block = leaf.pin().tag().block;
            let wrong = || tree.broken(block, "the catalog has an entry that makes no sense");
            let value = CatalogValue::decode(value).ok_or_else(wrong)?;
            let id = NamespaceId::new(usize::from(value.index)).ok_or_else(wrong)?;
            if entry.key.len() > NAMESPACE_NAME_BYTES_MAX {
                return Err(wrong());
            }
            store
                .shared
                .namespaces
                .load(id, entry.key, value.file, entry.stamp);
            files.push(value.file);
        }
        let Some(right) = node.right_link() else {
            return Ok(files);
        };
        drop(leaf);
        leaf = tree.fetch(right)?.into_read();
    }
}

/// Gives `namespace` a new, empty file. Returns the end of the record.
///
/// # Errors
/// Nothing has happened then.
pub(crate) fn flush(store: &Store, work: &mut Work, namespace: NamespaceId) -> Result<Lsn> {
    let entry = store.shared.namespaces.entry(namespace);
    refuse_if_read_only(store)?;
    let held = entry.hold();
    let place = entry.place().ok_or(EngineError::NoNamespace)?;
    if place.since > store.shared.wal.durable_lsn() {
        store.shared.wal.request_flush(place.since);
        return Err(EngineError::Park(ParkReason::Durable(place.since)));
    }
    let new_file = entry.next_file(&held).unwrap_or_else(|| {
        let file = store.shared.files.allocate_number();
        entry.set_next_file(&held, file);
        file
    });
    wait_for_file(store, work, new_file)?;
    let value = CatalogValue {
        file: new_file,
        previous: Some(place.file),
        index: namespace.index() as u16,
    };
    let (name, value) = (entry.name(), value.encode());
    let upsert = Upsert {
        key: &name,
        expiry_ms: None,
        payload: Payload::Inline(&value),
    };
    let catalog = Tree {
        store,
        file: CATALOG_FILE,
    };
    let mut leaf = catalog_leaf(catalog, work, &upsert)?;

    let tree = Tree {
        store,
        file: new_file,
    };
    let images = first_pages(store.shared.wal.system_id(), new_file);
    let record = &mut work.record;
    record.start(RecordKind::FileCreate, work.now_us);
    for (block, image) in FIRST_BLOCKS.iter().zip(&images) {
        record.block(tree.tag(*block));
        record.image(image);
    }
    record.block(leaf.tag());
    record.op(&PageOp::Upsert(upsert));
    record.file(new_file);
    let credit = credit_of_drop(store, record)?;
    let mut pages = FIRST_BLOCKS.map(|block| tree.fetch_new(block).into_write());

    let mut change = CriticalChange::begin(store);
    pages.iter().for_each(|page| change.mark(page));
    change.mark(&leaf);
    let new_place = entry.begin_change(&held);
    let end = change.insert(record, credit, |_| {});
    for (page, image) in pages.iter_mut().zip(&images) {
        page.copy_from_slice(&image[..]);
        change.stamp(page);
    }
    let added = NodeMut::new(&mut leaf).insert_leaf(&upsert.stamped(end));
    added.expect("room was made under this latch");
    change.stamp(&mut leaf);
    new_place.finish(new_file, end);
    let epoch = store.shared.procs.bump_epoch();
    store.shared.files.drop_file(place.file, end, epoch);
    change.finish();
    Ok(end)
}

/// Sees to it that `file` is there.
fn wait_for_file(store: &Store, work: &mut Work, file: FileNo) -> Result<()> {
    let files = &store.shared.files;
    if let Some(ticket) = work.take_growth(file)
        && let Growth::Failed(error) = files.growth(&ticket)
    {
        return Err(EngineError::DiskFull {
            what: error.to_string(),
        });
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

/// The entry of `namespace` and its file, for an operation that holds the entry shared.
pub(crate) fn file_of(entry: &NamespaceEntry) -> Result<FileNo> {
    entry.file().ok_or(EngineError::NoNamespace)
}
