//! `pg_control` and the files that it names, after a start: both slots tell one story, each named file
//! has the blocks that it needs, keys are counted as the ledger has them, and nothing lies in `base/`
//! that nobody knows of.

use crate::content::{ids_of_all, name_of};
use crate::harm::Harm;
use crate::ledger::Ledger;
use crate::machine::{Failure, Machine};
use rd_base::limits::PAGE_BYTES;
use rd_base::{FileNo, Lsn};
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::ControlFile;
use rd_store::control_file;
use rd_store::files::FileState;
use rd_store::namespaces::NAMESPACES_MAX;
use rd_store::relation::{BASE_DIR, parse_name, path};
use rd_sys::simdisk::SimStorage;
use rd_sys::storage::{OpenMode, Storage};
use std::collections::BTreeMap;
use std::io;

fn wrong(text: String) -> Failure {
    Failure(format!("pg_control: {text}"))
}

/// Holds the disk after a start whose log ended at `end`, and which `harm` befell, against itself, and
/// against the ledger.
///
/// # Errors
/// When something does not go with the rest.
pub fn check(machine: &Machine, ledger: &Ledger, end: Lsn, harm: &Harm) -> Result<(), Failure> {
    // A write of one slot may be under way, so the other one may be invalid for a moment.
    let chosen = control_file::read(&machine.disk).map_err(|error| wrong(error.to_string()))?;
    tells_one_story(machine, &chosen.control, end)?;
    chosen
        .other
        .as_ref()
        .map_or(Ok(()), |other| tells_one_story(machine, other, end))?;
    let there = files_in_base(&machine.disk).map_err(|error| wrong(error.to_string()))?;
    has_its_files(machine, &chosen.control, &there)?;
    counts_keys(machine, &chosen.control, ledger, end)?;
    has_those_that_live(machine, &there)?;
    leaks_no_file(machine)?;
    // What cannot be read may hold something: that waits for the next start.
    if harm.hides_pages() {
        return Ok(());
    }
    has_no_others(machine, &there)
}

fn tells_one_story(machine: &Machine, control: &ControlFile, end: Lsn) -> Result<(), Failure> {
    let is_one_story = control.redo_lsn <= control.durable_lsn.max(end)
        && control.previous_redo_lsn <= control.redo_lsn
        && control.checkpoint_lsn <= machine.shared.wal.insert_lsn()
        && control.previous_checkpoint_lsn <= control.checkpoint_lsn;
    if is_one_story {
        Ok(())
    } else {
        Err(wrong(format!("it tells no one story: {control:?}")))
    }
}

/// The relation files on disk, with the bytes of their first pieces, the only ones that so little has.
fn files_in_base(disk: &SimStorage) -> io::Result<BTreeMap<FileNo, u64>> {
    let mut there = BTreeMap::new();
    for name in disk.list(BASE_DIR)? {
        if let Some((file, 0)) = parse_name(&name) {
            let opened = disk.open(&path(file, 0), OpenMode::Read)?;
            there.insert(file, opened.len()?);
        }
    }
    Ok(there)
}

fn has_its_files(
    machine: &Machine,
    control: &ControlFile,
    there: &BTreeMap<FileNo, u64>,
) -> Result<(), Failure> {
    let files = &machine.shared.files;
    for row in &control.files {
        let blocks = there.get(&row.file).map(|bytes| bytes / PAGE_BYTES as u64);
        // It may have been unlinked since, with its row in memory free: that is for the next write.
        let is_gone = !files.exists(row.file);
        if blocks.is_none_or(|blocks| blocks < u64::from(row.blocks)) && !is_gone {
            let text = format!("file {} has {blocks:?} blocks: {row:?}", row.file);
            return Err(wrong(text));
        }
        if row.scn > machine.shared.wal.insert_lsn()
            || row.checkpoint_count > control.checkpoint_count
        {
            return Err(wrong(format!("of another time: {row:?} in {control:?}")));
        }
    }
    let named = control.files.iter().map(|row| row.file);
    let dropped = control.pending_drops.iter().map(|pending| pending.file);
    if let Some(file) = named.chain(dropped).find(|file| *file >= control.next_file) {
        let next = control.next_file;
        return Err(wrong(format!("file {file}, and the next one is {next}")));
    }
    for pending in &control.pending_drops {
        let is_used = machine.shared.namespaces.lying_in(pending.file);
        if is_used.is_some() || pending.last_lsn > machine.shared.wal.insert_lsn() {
            return Err(wrong(format!("{pending:?}, which {is_used:?} lies in")));
        }
    }
    Ok(())
}

/// The keys of each namespace as of the place that the counts are of, as far as the ledger can tell which
/// file that namespace had there: the one that it has, if none was emptied, swapped, made or dropped since.
fn counts_keys(
    machine: &Machine,
    control: &ControlFile,
    ledger: &Ledger,
    end: Lsn,
) -> Result<(), Failure> {
    let place = match control.keys_lsn {
        Lsn::ZERO => control.redo_lsn,
        place => place,
    };
    if place > end || !ledger.can_tell_files_since(place, end) {
        return Ok(());
    }
    let content = ledger.at(place);
    let namespaces = &machine.shared.namespaces;
    let ids = ids_of_all(namespaces);
    for (number, space) in content.iter().enumerate() {
        let keys = space.keys.len() as u64;
        let file = ids[number].and_then(|id| namespaces.entry(id).file());
        let row = control.files.iter().find(|row| Some(row.file) == file);
        if row.is_some_and(|row| row.key_count != keys) {
            return Err(wrong(format!(
                "namespace {} had {keys} keys at {place}: {row:?}",
                name_of(number)
            )));
        }
    }
    Ok(())
}

fn has_those_that_live(machine: &Machine, there: &BTreeMap<FileNo, u64>) -> Result<(), Failure> {
    let mut live = machine.shared.files.live().into_iter();
    match live.find(|file| !there.contains_key(file)) {
        Some(file) => Err(wrong(format!("file {file} is live, and not there"))),
        None => Ok(()),
    }
}

/// Each file that is not to be unlinked is somebody's, or was made ahead for somebody; while no commit is
/// under way.
///
/// # Errors
/// When one is not.
pub fn leaks_no_file(machine: &Machine) -> Result<(), Failure> {
    let namespaces = &machine.shared.namespaces;
    let entries = (0..NAMESPACES_MAX).map(|index| namespaces.entry(namespaces.id_at(index)));
    let ahead: Vec<FileNo> = entries.filter_map(|entry| entry.next_file()).collect();
    let is_of_nobody = |file: &FileNo| {
        *file != CATALOG_FILE && namespaces.lying_in(*file).is_none() && !ahead.contains(file)
    };
    match machine.shared.files.live().into_iter().find(is_of_nobody) {
        Some(file) => Err(wrong(format!("no namespace lies in file {file}"))),
        None => Ok(()),
    }
}

/// The server knows of all that lies in `base/`.
fn has_no_others(machine: &Machine, there: &BTreeMap<FileNo, u64>) -> Result<(), Failure> {
    let files = &machine.shared.files;
    let unknown = there
        .keys()
        .find(|file| files.state(**file) == FileState::Free);
    match unknown {
        Some(file) => Err(wrong(format!("nobody knows of file {file} in base/"))),
        None => Ok(()),
    }
}
