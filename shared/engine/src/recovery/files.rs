//! The set of relation files at start: each held against `pg_control` by its header, then entered
//! in the shared table.
//!
//! What lies in `base/` beside these is left alone: nobody knows whether it is needed. So a file that
//! was made ahead of a FLUSHDB that never came stays, with the room of a new file (1 MiB), unless its
//! number had not reached `pg_control` yet: then that is given out again, and the file found.

use super::RecoveryError;
use rd_base::limits::PAGE_BYTES;
use rd_base::{FileNo, Lsn, PageTag};
use rd_format::bitmap::META_BLOCK;
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::{ControlFile, DbState, FileRow};
use rd_format::meta;
use rd_store::Store;
use rd_store::files::FileState;
use rd_store::relation::{BASE_DIR, parse_name, path_of};
use std::collections::BTreeSet;

/// Blocks that a new file is made with at least.
const NEW_FILE_BLOCKS: u32 = 8;

fn meta_tag(file: FileNo) -> PageTag {
    PageTag::new(file, META_BLOCK)
}

/// Holds the header of every file that `control` names against its row. After a crash a header may
/// be ahead by the one checkpoint that was under way.
///
/// # Errors
/// Names the first file that is missing, foreign, or from another time.
pub(super) fn check(store: &Store, control: &ControlFile) -> Result<(), RecoveryError> {
    for row in &control.files {
        check_file(store, control, row)?;
    }
    Ok(())
}

fn check_file(store: &Store, control: &ControlFile, row: &FileRow) -> Result<(), RecoveryError> {
    let tag = meta_tag(row.file);
    let path = path_of(tag);
    if !store.storage.exists(&path)? {
        return Err(RecoveryError::FileMissing { path });
    }
    let mut page = [0; PAGE_BYTES];
    store.relations.read_page(tag, &mut page)?;
    let header = meta::read(&page);
    if header.system_identifier != control.system_identifier {
        return Err(RecoveryError::FileForeign {
            path,
            found: header.system_identifier,
            expected: control.system_identifier,
        });
    }
    let is_same =
        header.checkpoint_count == row.checkpoint_count && header.checkpoint_scn == row.scn;
    // The header is written first, and carries the number of the checkpoint under way.
    let is_one_ahead = control.state != DbState::ShutDown
        && header.checkpoint_count == control.checkpoint_count + 1
        && header.checkpoint_scn >= control.redo_lsn;
    if is_same || is_one_ahead {
        return Ok(());
    }
    Err(RecoveryError::FileOfOtherTime {
        path,
        found_count: header.checkpoint_count,
        found_scn: header.checkpoint_scn,
        expected_count: row.checkpoint_count,
        expected_scn: row.scn,
    })
}

/// Enters the files that `control` names in the shared table.
///
/// Not a dropped file that is unlinked already: `pg_control` goes on naming it until the next
/// write, and its row may have been given to another file meanwhile. So there are never more files
/// to enter, those included that redo will meet, than the server had rows for: each has its pieces
/// on disk, and gives up its row only when it has none.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn load(store: &Store, control: &ControlFile) -> Result<(), RecoveryError> {
    let files = &store.shared.files;
    files.raise_next_number(control.next_file);
    for row in &control.files {
        files.load(row, blocks_on_disk(store, row.file)?, control.keys_lsn)?;
    }
    let names = store.storage.list(BASE_DIR)?;
    let on_disk: BTreeSet<FileNo> = names
        .iter()
        .filter_map(|name| parse_name(name))
        .map(|(file, _)| file)
        .collect();
    for pending in &control.pending_drops {
        // Both slots have this redo point since this start's first write.
        let is_past_redo = pending.last_lsn <= control.redo_lsn;
        if is_past_redo && !on_disk.contains(&pending.file) {
            files.raise_next_number(FileNo::new(pending.file.get() + 1));
        } else {
            files.load_pending_drop(pending)?;
        }
    }
    Ok(())
}

/// Sees to it that a file whose creation redo has read is there. It was made and synced before
/// its record, so the checkpointer only has to look; a file that was unlinked since is made again,
/// and filled by the records that follow.
///
/// # Errors
/// When it cannot be made.
pub(super) fn adopt(store: &Store, file: FileNo) -> Result<(), RecoveryError> {
    if !store.shared.files.exists(file) {
        let ticket = store.request_create(file, NEW_FILE_BLOCKS)?;
        store.shared.files.wait_for_growth(&ticket)?;
        store
            .shared
            .files
            .raise_next_number(FileNo::new(file.get() + 1));
    }
    Ok(())
}

/// Sees to it that `tag` lies within its file.
///
/// # Errors
/// When there is no room on disk.
pub(super) fn make_room(store: &Store, tag: PageTag) -> Result<(), RecoveryError> {
    let files = &store.shared.files;
    let blocks = tag.block.get() + 1;
    // A file that waits to be unlinked no longer grows; what the log says of it was there.
    if files.blocks(tag.file) < blocks && files.state(tag.file) == FileState::Live {
        let ticket = store.request_growth(tag.file, blocks);
        files.wait_for_growth(&ticket)?;
    }
    Ok(())
}

fn blocks_on_disk(store: &Store, file: FileNo) -> Result<u32, RecoveryError> {
    let path = || path_of(meta_tag(file));
    store
        .relations
        .blocks_on_disk(file)?
        .ok_or_else(|| RecoveryError::FileMissing { path: path() })
}

/// Drops every file that no namespace has: its namespace got another one in the log that was
/// redone, or was to get it when the server crashed.
pub(super) fn drop_unnamed(store: &Store, named: &[FileNo], end: Lsn) {
    for file in store.shared.files.live() {
        if !named.contains(&file) && file != CATALOG_FILE {
            log::info!("dropping relation file {file}, which belongs to no namespace");
            store
                .shared
                .files
                .drop_file(file, end, store.shared.procs.bump_epoch());
        }
    }
}
