//! The set of relation files at start: each held against `pg_control` by its header, then entered
//! in the shared table.
//!
//! What lies in `base/` beside these when redo has come to its end was made for a transaction that never
//! came to commit, or its making was never ended: that is dropped like any other file, so that it is
//! removed when the redo point has passed this start's end, and found again by the next start if this one
//! is cut off. No page of such a file was ever written, because none is before its record is durable. So
//! one that holds anything but zeros is something else, and is left alone: nobody knows whether it is
//! needed. Its number is used up, if it is among the next [`FILES_MAX`]: else a stray one would use up all.

use super::{RecoveryError, STOP_LOOK, Watcher};
use rd_base::limits::FILES_MAX;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::bitmap::META_BLOCK;
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::{ControlFile, FileRow, PendingDrop};
use rd_format::held;
use rd_store::Store;
use rd_store::buffer::PageReadError;
use rd_store::files::{FileState, Growth, GrowthTicket};
use rd_store::relation::{BASE_DIR, RelationFiles, parse_name, path_of};
use rd_sys::storage::is_bad_sector;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Blocks that a new file is made with at least.
const NEW_FILE_BLOCKS: u32 = 8;
/// How much of a file that nothing names is read at a time.
const READ_BYTES: usize = 256 << 10;

fn meta_tag(file: FileNo) -> PageTag {
    PageTag::new(file, META_BLOCK)
}

/// When headers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Torn {
    /// Before torn pages are mended: a header that is torn, or lies on a bad sector, is passed over. One that
    /// is whole must not be mended into what it is not.
    IsPassedOver,
    /// Afterwards.
    IsDamage,
}

/// Says what there is to say of the file of an offline namespace.
fn warn_of_offline(error: &RecoveryError) {
    match error {
        RecoveryError::FileMissing { path } => log::warn!(
            "relation file \"{path}\" is not there: its namespace is offline, and stays so; put the \
             file back before NAMESPACE ONLINE"
        ),
        error => log::warn!("{error}; its namespace is offline, and stays so"),
    }
}

/// A header that tells up to where the log was durable: it was stamped when it was.
#[derive(Clone, Debug, Default)]
pub(super) struct Stamp {
    pub(super) scn: Lsn,
    pub(super) whose: String,
}

/// Holds every file that `control` names against its row: its header and its length, which is only
/// ever written down when the room is on disk. Gives the highest stamp of those that are not offline.
/// After a crash a header may be ahead by the one checkpoint that was under way, and that of a closed
/// file may say that it was to be opened. A file of an offline namespace is its owner's affair until it
/// is brought online; what there is to say of it is said in the log.
///
/// # Errors
/// Names the first file that is missing, foreign, or from another time.
pub(super) fn check(
    store: &Store,
    control: &ControlFile,
    torn: Torn,
) -> Result<Stamp, RecoveryError> {
    let mut newest = Stamp::default();
    let is_dropped = |file| {
        let mut pending = control.pending_drops.iter();
        pending.any(|pending| pending.file == file)
    };
    for row in &control.files {
        match hold(store, control, row) {
            Err(RecoveryError::Page(error))
                if torn == Torn::IsPassedOver && may_be_mended(&error) => {}
            Err(error) if row.access.is_offline() => {
                if torn == Torn::IsDamage {
                    warn_of_offline(&error);
                }
            }
            // It goes when the redo point has passed its drop.
            Err(RecoveryError::Page(error)) if is_dropped(row.file) => {
                if torn == Torn::IsDamage {
                    log::warn!("{error}; the file is dropped and waits to be removed");
                }
            }
            Err(error) => return Err(error),
            // That of an offline one may have been stamped by a server that this one knows nothing of.
            Ok(scn) if scn > newest.scn && !row.access.is_offline() => {
                let whose = format!("the header of \"{}\"", path_of(meta_tag(row.file)));
                newest = Stamp { scn, whose };
            }
            Ok(_) => {}
        }
    }
    Ok(newest)
}

/// Whether a page of which that is said may be mended from a copy.
fn may_be_mended(error: &PageReadError) -> bool {
    match error {
        PageReadError::Damaged { .. } => true,
        PageReadError::Io { error, .. } => is_bad_sector(error),
        _ => false,
    }
}

fn hold(store: &Store, control: &ControlFile, row: &FileRow) -> Result<Lsn, RecoveryError> {
    let Some(meta) = store.relations.read_meta(row.file)? else {
        let path = path_of(meta_tag(row.file));
        return Err(RecoveryError::FileMissing { path });
    };
    let held = held::hold(&meta, row, control);
    if !held.is_good() {
        let complaint = held::complaint(held, &meta, row, control);
        return Err(RecoveryError::NotTheFile(complaint));
    }
    let found = blocks_on_disk(store, row.file)?;
    if found < row.blocks {
        let path = path_of(PageTag::new(row.file, BlockNo::new(found)));
        return Err(RecoveryError::FileShort {
            path,
            found,
            expected: row.blocks,
        });
    }
    Ok(meta.checkpoint_scn)
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
        let blocks = match row.access.is_offline() {
            true => row.blocks,
            false => blocks_on_disk(store, row.file)?,
        };
        if blocks > row.blocks {
            // The next `pg_control` says that they are there.
            let relations = RelationFiles::writer(Arc::clone(&store.storage));
            relations.sync_growth(row.file, row.blocks, blocks)?;
        }
        files.load(row, blocks, control.keys_lsn)?;
    }
    let on_disk = pieces_on_disk(store)?;
    for pending in &control.pending_drops {
        // Both slots have this redo point since this start's first write.
        let is_past_redo = pending.last_lsn <= control.redo_lsn;
        if is_past_redo && !on_disk.contains_key(&pending.file) {
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
/// When it cannot be made, or the start is to stop.
pub(super) fn adopt(
    store: &Store,
    file: FileNo,
    watcher: &mut dyn Watcher,
) -> Result<(), RecoveryError> {
    if !store.shared.files.exists(file) {
        let ticket = store.request_create(file, NEW_FILE_BLOCKS)?;
        await_growth(store, &ticket, watcher)?;
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
/// When there is no room on disk, or the start is to stop.
pub(super) fn make_room(
    store: &Store,
    tag: PageTag,
    watcher: &mut dyn Watcher,
) -> Result<(), RecoveryError> {
    let files = &store.shared.files;
    let blocks = tag.block.get() + 1;
    // A file that waits to be unlinked no longer grows; what the log says of it was there.
    if files.blocks(tag.file) < blocks && files.state(tag.file) == FileState::Live {
        let ticket = store.request_growth(tag.file, blocks);
        await_growth(store, &ticket, watcher)?;
    }
    Ok(())
}

/// The checkpointer does it, and the disk may let it wait.
fn await_growth(
    store: &Store,
    ticket: &GrowthTicket,
    watcher: &mut dyn Watcher,
) -> Result<(), RecoveryError> {
    loop {
        match store.shared.files.wait_for_growth(ticket, STOP_LOOK) {
            Growth::Ready => return Ok(()),
            Growth::Failed(error) => return Err(error.into()),
            Growth::Pending if watcher.must_stop() => return Err(RecoveryError::Stopped),
            Growth::Pending => {}
        }
    }
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
            store.shared.files.drop_file(file, end);
        }
    }
}

/// The files of which there are pieces in `base/`, and which.
fn pieces_on_disk(store: &Store) -> io::Result<BTreeMap<FileNo, Vec<u32>>> {
    let mut on_disk: BTreeMap<FileNo, Vec<u32>> = BTreeMap::new();
    for name in store.storage.list(BASE_DIR)? {
        if let Some((file, piece)) = parse_name(&name) {
            on_disk.entry(file).or_default().push(piece);
        }
    }
    Ok(on_disk)
}

/// Drops every file that has pieces on disk and is known to nobody: see the module. `end` is where the
/// redo point must have come before it is removed. For the time between redo and service, when nobody
/// makes files; and after the namespaces were read, since a start that is refused removes nothing.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn drop_unborn(store: &Store, named: &[FileNo], end: Lsn) -> Result<(), RecoveryError> {
    let files = &store.shared.files;
    // Before the directory is read: the checkpointer may be removing dropped files already.
    let known: BTreeSet<FileNo> = files.existing().into_iter().collect();
    // Numbers that were given out and had not reached `pg_control`; none further off was.
    let limit = files.next_number().get().saturating_add(FILES_MAX as u32);
    // Each takes a row until it is removed. More than half of them are never live; some stay for files to
    // come, and what is left here for a later start costs nobody his.
    let mut rows = (FILES_MAX / 4 * 3).saturating_sub(known.len());
    let on_disk = pieces_on_disk(store)?;
    // Whatever becomes of them: what is left alone is not to be taken for the next database's file.
    let given_out = on_disk.keys().filter(|file| file.get() < limit);
    if let Some(last) = given_out.max() {
        files.raise_next_number(FileNo::new(last.get() + 1));
    }
    for (file, pieces) in on_disk {
        if known.contains(&file) || named.contains(&file) {
            continue;
        }
        let path = path_of(meta_tag(file));
        let is_unwritten = match file.get() < limit {
            true => is_unwritten(store, file, &pieces),
            false => Ok(false),
        };
        match is_unwritten {
            Ok(true) => {}
            Ok(false) => {
                log::info!("relation file \"{path}\", which nothing names, is left alone");
                continue;
            }
            Err(error) => {
                log::warn!(
                    "relation file \"{path}\", which nothing names, is left for the next start: it \
                     cannot be read: {error}"
                );
                continue;
            }
        }
        if rows == 0 {
            log::info!(
                "relation file \"{path}\" and others, which nothing uses, are left for later"
            );
            break;
        }
        rows -= 1;
        log::info!("dropping relation file {file}, which was made and never used");
        let last_lsn = end;
        files.load_pending_drop(&PendingDrop { file, last_lsn })?;
    }
    Ok(())
}

/// Whether these pieces of `file` hold nothing but zeros.
fn is_unwritten(store: &Store, file: FileNo, pieces: &[u32]) -> io::Result<bool> {
    let mut bytes = vec![0; READ_BYTES];
    for piece in pieces {
        let handle = store.relations.piece(file, *piece)?;
        let mut offset = 0;
        loop {
            let read = handle.read_at(&mut bytes, offset)?;
            if bytes[..read].iter().any(|byte| *byte != 0) {
                store.relations.forget(file);
                return Ok(false);
            }
            offset += read as u64;
            if read < bytes.len() {
                break;
            }
        }
    }
    store.relations.forget(file);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::redo::tests::startup;
    use super::*;
    use rd_format::control::PendingDrop;
    use rd_sys::simdisk::{Injection, IoKind};
    use rd_sys::storage::{OpenMode, Storage};

    #[test]
    fn a_header_that_cannot_be_read_stops_the_start_unless_the_file_is_dropped() {
        for is_unreadable in [false, true] {
            let (store, disk) = startup();
            let mut control = rd_store::control_file::read(&disk).expect("valid").control;
            let file = control.files[0].file;
            let path = path_of(meta_tag(file));
            let refuse = |errno| {
                disk.inject(Injection {
                    kind: IoKind::Read,
                    path_contains: path.clone(),
                    skip: 0,
                    times: u64::MAX,
                    errno,
                });
            };
            match is_unreadable {
                false => disk.damage(&path, 700, b"rotten").expect("it is there"),
                true => refuse(5),
            }
            check(&store, &control, Torn::IsPassedOver).expect("it may be mended");
            let error = check(&store, &control, Torn::IsDamage).expect_err("it is needed");
            assert!(error.to_string().contains("file 1 block 0"), "{error}");
            control.pending_drops.push(PendingDrop {
                file,
                last_lsn: Lsn::MAX,
            });
            check(&store, &control, Torn::IsPassedOver).expect("nobody needs it");
            check(&store, &control, Torn::IsDamage).expect("nobody needs it");
            // EMFILE says nothing of the file.
            disk.clear_injections();
            store.relations.forget(file);
            refuse(24);
            for torn in [Torn::IsPassedOver, Torn::IsDamage] {
                let error = check(&store, &control, torn).expect_err("it says nothing");
                assert!(error.shortage().is_some(), "{error}");
            }
        }
    }

    struct MustStop;

    impl Watcher for MustStop {
        fn progress(&mut self) {}
        fn must_stop(&mut self) -> bool {
            true
        }
    }

    /// A disk, or a checkpointer, that stands still keeps nobody from stopping the start.
    #[test]
    fn a_stop_does_not_wait_for_room_in_a_file() {
        let (store, _disk) = startup();
        let control = rd_store::control_file::read(&*store.storage).expect("valid");
        load(&store, &control.control).expect("the files are there");
        let new = store.shared.files.next_number();
        let file = store.shared.files.live()[0];
        let far = PageTag::new(file, BlockNo::new(1 << 20));
        for stopped in [
            adopt(&store, new, &mut MustStop),
            make_room(&store, far, &mut MustStop),
        ] {
            let is_it = matches!(stopped, Err(RecoveryError::Stopped));
            assert!(is_it, "{stopped:?}");
        }
    }

    /// The server died when a file had grown and that was not synced; what the next one finds is in the
    /// kernel's cache only, and then the power fails.
    #[test]
    fn growth_that_nobody_has_synced_is_made_durable() {
        for seed in 0..20 {
            let (store, disk) = startup();
            let control = rd_store::control_file::read(&disk).expect("valid").control;
            let row = &control.files[0];
            let path = path_of(meta_tag(row.file));
            let file = disk.open(&path, OpenMode::ReadWrite).expect("it is there");
            let bytes = file.len().expect("a good disk");
            file.allocate(bytes, bytes).expect("room");
            disk.kill(seed);
            load(&store, &control).expect("the files are there");
            let blocks = store.shared.files.blocks(row.file);
            assert!(blocks > row.blocks);
            disk.crash(seed);
            let found = RelationFiles::reader(store.storage).blocks_on_disk(row.file);
            assert_eq!(found.expect("readable"), Some(blocks), "seed {seed}");
        }
    }

    /// What lies in `base/`: what the server knows, what it has made for nothing, and what is not its own.
    #[test]
    fn only_what_is_known_to_nobody_and_was_never_written_is_dropped() {
        let (store, disk) = startup();
        let control = rd_store::control_file::read(&disk).expect("valid").control;
        load(&store, &control).expect("the files are there");
        let next = control.next_file.get();
        let far = next + 2 * FILES_MAX as u32;
        let zeros = vec![0; 3 * READ_BYTES + 5];
        let mut used = zeros.clone();
        *used.last_mut().expect("not empty") = 1;
        let contents: [(String, &[u8]); 9] = [
            (format!("{next}"), &zeros),
            (format!("{}", next + 7), &[]),
            (format!("{}", next + 1), &used),
            (format!("{}", next + 2), &zeros),
            (format!("{}.1", next + 2), &used),
            // Named by the catalog, whatever else may be wrong.
            (format!("{}", next + 3), &zeros),
            // Left alone, and no file to come may be made in its place.
            (format!("{}", next + 9), &used),
            (format!("{far}"), &zeros),
            ("0".to_owned(), &zeros),
        ];
        for (name, content) in &contents {
            let path = format!("{BASE_DIR}/{name}");
            let file = disk.open(&path, OpenMode::CreateNew).expect("a new name");
            file.write_all_at(content, 0).expect("room");
        }
        let live = store.shared.files.live();
        let end = Lsn::new(control.redo_lsn.get() + 800);
        drop_unborn(&store, &[FileNo::new(next + 3)], end).expect("a good disk");
        let drops = store.shared.files.pending_drops();
        let expected = [next, next + 7].map(|number| PendingDrop {
            file: FileNo::new(number),
            last_lsn: end,
        });
        assert_eq!(drops, expected);
        assert_eq!(store.shared.files.live(), live);
        let given = store.shared.files.allocate_number().get();
        assert!(
            given > next + 9,
            "{given} is another's, or about to be removed"
        );
        assert!(given < far, "{given} is as far off as what nobody gave out");
        // Once more, as by the next start: it is known now.
        drop_unborn(&store, &[], end).expect("a good disk");
    }
}
