//! `global/pg_control` on the disk: written by startup until it hands over, and by the checkpointer
//! alone from then on.
//!
//! Invariants:
//! - The slot that is overwritten is never the newest valid one, so a write that is torn costs
//!   nothing.
//! - The newest one is on disk before the other is touched, whatever became of its writer: what a
//!   start reads may be in the kernel's cache only (a process died, or a sync failed, before it was
//!   synced), and then a power cut could tear both. So [`ControlStore::open`] writes it once more.

use crate::files::EIO;
use rd_base::Lsn;
use rd_format::control::{self, Chosen, ControlError, ControlFile, SLOT_BYTES};
use rd_sys::fault::{self, Fault};
use rd_sys::storage::{self, OpenMode, Storage, StorageFile};
use std::io;
use std::sync::Arc;

/// The directory of the files of the whole server.
pub const GLOBAL_DIR: &str = "global";
/// The file, relative to the data directory.
pub const CONTROL_PATH: &str = "global/pg_control";
/// Where a new one is made before it takes the other's place.
const TEMPORARY_PATH: &str = "global/pg_control.new";

/// `pg_control` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlFileError {
    /// The storage said so; its message names file and operation.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Neither slot is valid.
    #[error(
        "both slots of \"{CONTROL_PATH}\" are damaged (slot 0: {}; slot 1: {}); look at it with \
         rd_controldata, and restore it from a backup", .0[0], .0[1]
    )]
    BothDamaged([ControlError; 2]),
    /// The data directory was made by a program with other sizes.
    #[error("\"{CONTROL_PATH}\": {0}")]
    Incompatible(ControlError),
}

/// Reads both slots and takes the newest valid one. Takes no lock: for tools too.
///
/// # Errors
/// When the file cannot be read, or neither slot is valid.
pub fn read(storage: &dyn Storage) -> Result<Chosen, ControlFileError> {
    let (chosen, _) = read_from(&*storage.open(CONTROL_PATH, OpenMode::Read)?)?;
    Ok(chosen)
}

/// Bytes of a slot that are read at first: as much as most servers' have.
const HEAD_BYTES: usize = 8 << 10;

/// The bytes of a slot, at least as far as it says that they mean something.
fn read_slot(file: &dyn StorageFile, slot: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut wanted = HEAD_BYTES;
    while bytes.len() < wanted {
        // From its beginning, so that all of it was there at one time.
        bytes.resize(wanted, 0);
        let read = file.read_at(&mut bytes, (slot * SLOT_BYTES) as u64)?;
        bytes.truncate(read);
        if read < wanted {
            break;
        }
        wanted = control::used_bytes(&bytes).min(SLOT_BYTES);
    }
    Ok(bytes)
}

/// What was chosen, and the bytes of its slot that mean something. A slot that the disk does not give
/// is as bad as one that it gives wrongly: bad sectors are what there are two for.
fn read_from(file: &dyn StorageFile) -> Result<(Chosen, Vec<u8>), ControlFileError> {
    let slots = match [read_slot(file, 0), read_slot(file, 1)] {
        [Err(error), Err(_)] => return Err(error.into()),
        slots => slots.map(|slot| {
            slot.map_err(|error| ControlError::Unreadable(storage::errno(&error).unwrap_or(EIO)))
        }),
    };
    let decoded = slots.each_ref().map(|slot| match slot {
        Ok(bytes) => ControlFile::decode(bytes),
        Err(error) => Err(*error),
    });
    let chosen = control::choose(decoded).map_err(ControlFileError::BothDamaged)?;
    chosen
        .control
        .compatible()
        .map_err(ControlFileError::Incompatible)?;
    let mut bytes = slots[chosen.slot].clone().unwrap_or_default();
    bytes.truncate(chosen.control.encode().len());
    Ok((chosen, bytes))
}

/// Makes the file, with `control` in both slots; for `rd_initdb`.
///
/// # Errors
/// When it exists, or cannot be written and synced.
pub fn create(storage: &dyn Storage, control: &ControlFile) -> io::Result<()> {
    create_as(storage, CONTROL_PATH, control)?;
    storage.sync_dir(GLOBAL_DIR)
}

/// Puts a new file with `control` in both slots in the place of the one that is there, whatever is
/// in that: the old one is as it was until the new one is durable. For `rd_resetwal`.
///
/// # Errors
/// When it cannot be written and synced.
pub fn replace(storage: &dyn Storage, control: &ControlFile) -> io::Result<()> {
    if storage.exists(TEMPORARY_PATH)? {
        storage.remove(TEMPORARY_PATH)?;
    }
    create_as(storage, TEMPORARY_PATH, control)?;
    storage.rename(TEMPORARY_PATH, CONTROL_PATH)?;
    storage.sync_dir(GLOBAL_DIR)
}

fn create_as(storage: &dyn Storage, path: &str, control: &ControlFile) -> io::Result<()> {
    let file = storage.open(path, OpenMode::CreateNew)?;
    file.allocate(0, 2 * SLOT_BYTES as u64)?;
    let mut control = control.clone();
    for slot in 0..2 {
        control.sequence += 1;
        file.write_all_at(&control.encode(), (slot * SLOT_BYTES) as u64)?;
    }
    file.sync_all()
}

/// The open control file, and what is in it.
pub struct ControlStore {
    file: Arc<dyn StorageFile>,
    newest: ControlFile,
    newest_slot: usize,
    /// The other slot's content, if it is valid.
    other: Option<ControlFile>,
}

impl ControlStore {
    /// Opens the file to be written, and makes its newest slot durable, by writing the bytes that
    /// are in it. If they are on disk, no tear can change them; if they are not, the other slot is,
    /// because it was synced before the newest was written. A slot that is not valid is reported
    /// in the log.
    ///
    /// # Errors
    /// When it cannot be opened, or neither slot is valid; or when the newest cannot be written or
    /// synced: then the caller ends the process.
    pub fn open(storage: &dyn Storage) -> Result<ControlStore, ControlFileError> {
        let file = storage.open(CONTROL_PATH, OpenMode::ReadWrite)?;
        let (chosen, bytes) = read_from(&*file)?;
        file.write_all_at(&bytes, (chosen.slot * SLOT_BYTES) as u64)?;
        file.sync_data()?;
        let other = chosen.other.map_err(|error| {
            let slot = 1 - chosen.slot;
            log::warn!(
                "slot {slot} of \"{CONTROL_PATH}\" is not valid: {error}; the other one is used"
            );
        });
        let (newest, newest_slot) = (chosen.control, chosen.slot);
        Ok(ControlStore {
            file,
            newest,
            newest_slot,
            other: other.ok(),
        })
    }

    /// The newest content.
    pub fn newest(&self) -> &ControlFile {
        &self.newest
    }

    /// The other slot's content, if it is valid.
    pub fn other(&self) -> Option<&ControlFile> {
        self.other.as_ref()
    }

    /// Whether a start from either slot comes to the same.
    pub fn slots_agree(&self) -> bool {
        let same = |other: &ControlFile| {
            let as_newest = ControlFile {
                sequence: self.newest.sequence,
                written_us: self.newest.written_us,
                ..other.clone()
            };
            as_newest == self.newest
        };
        self.other.as_ref().is_some_and(same)
    }

    /// The least redo point of the valid slots: log from here on must be kept.
    pub fn oldest_redo(&self) -> Lsn {
        let newest = self.newest.redo_lsn;
        self.other
            .as_ref()
            .map_or(newest, |other| other.redo_lsn.min(newest))
    }

    /// Writes `next` into the slot that is not the newest valid one, and syncs it. Sequence and
    /// time are filled in here.
    ///
    /// # Errors
    /// When it cannot be written or synced. Then nobody knows what is in that slot: the caller
    /// ends the process.
    pub fn write(&mut self, mut next: ControlFile, now_us: u64) -> io::Result<()> {
        fault::point(Fault::ControlWrite)?;
        next.sequence = self.newest.sequence + 1;
        next.written_us = now_us;
        let slot = 1 - self.newest_slot;
        // From here on the slot's old content counts for nothing.
        let old = std::mem::replace(&mut self.newest, next);
        self.newest_slot = slot;
        self.other = Some(old);
        self.file
            .write_all_at(&self.newest.encode(), (slot * SLOT_BYTES) as u64)?;
        fault::point(Fault::ControlSync).and_then(|()| self.file.sync_data())
    }

    /// Writes `next` into both slots, one after the other.
    ///
    /// # Errors
    /// As [`ControlStore::write`].
    pub fn write_both(&mut self, next: ControlFile, now_us: u64) -> io::Result<()> {
        self.write(next.clone(), now_us)?;
        fault::point(Fault::ControlFirstSlot)?;
        self.write(next, now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::FileNo;
    use rd_format::control::FileRow;
    use rd_sys::simdisk::{Injection, IoKind, SimStorage};

    fn disk(seed: u64) -> SimStorage {
        let storage = SimStorage::new(seed);
        storage.create_dir(GLOBAL_DIR).expect("a new disk");
        storage.sync_dir("").expect("a good disk");
        let control = ControlFile::initial(7, 16 << 20, Lsn::new(1 << 24));
        create(&storage, &control).expect("a good disk");
        storage
    }

    /// The number that test writes carry; and so many rows that a slot takes several sectors, which
    /// tear.
    fn numbered(store: &ControlStore, number: u64) -> ControlFile {
        let row = |file| FileRow {
            file: FileNo::new(file),
            access: rd_format::Access::READ_WRITE,
            checkpoint_count: number,
            scn: Lsn::new(1 << 24),
            stop_scn: Lsn::ZERO,
            key_count: 7,
            blocks: 128,
        };
        ControlFile {
            checkpoint_count: number,
            files: (1..=20).map(row).collect(),
            ..store.newest().clone()
        }
    }

    fn write_some(storage: &SimStorage, acknowledged: &mut u64) -> io::Result<()> {
        let mut store = match ControlStore::open(storage) {
            Ok(store) => store,
            Err(ControlFileError::Io(error)) => return Err(error),
            Err(other) => panic!("{other}"),
        };
        for number in 1..=4 {
            let next = numbered(&store, number);
            if number == 3 {
                store.write_both(next, number)?;
            } else {
                store.write(next, number)?;
            }
            *acknowledged = number;
        }
        Ok(())
    }

    #[test]
    fn a_crash_at_any_io_leaves_what_was_acknowledged_or_the_write_under_way() {
        let whole = disk(0);
        let before = whole.io_count();
        let mut all = 0;
        write_some(&whole, &mut all).expect("a good disk");
        let ios = whole.io_count() - before;
        assert!(ios >= 10, "five writes and five syncs");
        for at in 1..=ios {
            for seed in 0..8 {
                let storage = disk(seed);
                storage.crash_at(Some(before + at));
                let mut acknowledged = 0;
                write_some(&storage, &mut acknowledged).expect_err("it crashes");
                storage.crash(seed);
                let chosen = read(&storage).expect("one slot is always valid");
                let found = chosen.control.checkpoint_count;
                let allowed = acknowledged..=acknowledged + 1;
                assert!(
                    allowed.contains(&found),
                    "{found} after {acknowledged}, I/O {at}"
                );
                // The next start overwrites the damaged slot, whichever it is.
                let mut store = ControlStore::open(&storage).expect("one slot is valid");
                let next = numbered(&store, 99);
                store.write_both(next, 0).expect("a good disk");
                assert!(store.slots_agree());
            }
        }
    }

    /// The server is killed between the write of a slot and its sync, and the power fails while the
    /// next start writes.
    #[test]
    fn a_slot_that_was_never_synced_is_not_built_on() {
        let mut cut_off = 0;
        for seed in 0..300 {
            let storage = disk(seed);
            let mut store = ControlStore::open(&storage).expect("valid");
            let next = numbered(&store, 1);
            store.write_both(next, 1).expect("a good disk");
            storage.crash_at(Some(storage.io_count() + 2));
            let next = numbered(&store, 2);
            store
                .write(next, 2)
                .expect_err("the sync does not come through");
            storage.kill(seed);

            storage.crash_at(Some(storage.io_count() + 1 + seed % 6));
            let start = || -> Result<(), ControlFileError> {
                let mut store = ControlStore::open(&storage)?;
                let next = numbered(&store, 3);
                Ok(store.write_both(next, 3)?)
            };
            cut_off += u32::from(start().is_err());
            storage.crash(seed);
            let chosen = read(&storage).expect("one slot is always valid");
            assert!(chosen.control.checkpoint_count >= 1);
        }
        assert_eq!(cut_off, 300, "starts that were cut off");
    }

    #[test]
    fn a_slot_that_cannot_be_read_costs_nothing() {
        for slot in 0..2 {
            let storage = disk(4);
            let mut store = ControlStore::open(&storage).expect("valid");
            let next = numbered(&store, 1);
            store.write_both(next, 1).expect("a good disk");
            let unreadable = |times| {
                storage.inject(Injection {
                    kind: IoKind::Read,
                    path_contains: CONTROL_PATH.to_owned(),
                    // To open it is the first.
                    skip: 1 + slot,
                    times,
                    errno: EIO,
                });
            };
            unreadable(1);
            let mut store = ControlStore::open(&storage).expect("the other is good");
            assert_eq!(store.newest().checkpoint_count, 1);
            assert!(store.other().is_none(), "slot {slot}");
            let next = numbered(&store, 2);
            store
                .write(next, 2)
                .expect("what is written can be read again");
            let chosen = read(&storage).expect("both are good");
            assert_eq!(chosen.control.checkpoint_count, 2);
            assert!(chosen.other.is_ok());

            let other = (1 - slot) * SLOT_BYTES as u64;
            storage
                .damage(CONTROL_PATH, other, &[0x55])
                .expect("it is there");
            unreadable(1);
            match read(&storage) {
                Err(ControlFileError::BothDamaged(errors)) => {
                    assert!(matches!(errors[slot as usize], ControlError::Unreadable(_)));
                }
                other => panic!("{other:?}"),
            }
        }
        let storage = disk(4);
        storage.inject(Injection {
            kind: IoKind::Read,
            path_contains: CONTROL_PATH.to_owned(),
            skip: 1,
            times: 2,
            errno: EIO,
        });
        assert!(matches!(read(&storage), Err(ControlFileError::Io(_))));
    }

    #[test]
    fn one_bad_slot_costs_nothing_and_two_are_named() {
        let storage = disk(3);
        let mut store = ControlStore::open(&storage).expect("valid");
        assert!(store.slots_agree());
        let redo = Lsn::new(5 << 24);
        store
            .write(
                ControlFile {
                    redo_lsn: redo,
                    ..numbered(&store, 1)
                },
                1,
            )
            .expect("good");
        assert!(!store.slots_agree());
        assert_eq!(
            store.oldest_redo(),
            Lsn::new(1 << 24),
            "the older slot counts too"
        );
        let newest = store.newest_slot;
        storage
            .damage(CONTROL_PATH, (newest * SLOT_BYTES + 80) as u64, b"x")
            .expect("there");
        let chosen = read(&storage).expect("the other slot is valid");
        assert_eq!(
            (chosen.slot, chosen.control.checkpoint_count),
            (1 - newest, 0)
        );
        let other = 1 - newest;
        storage
            .damage(CONTROL_PATH, (other * SLOT_BYTES + 80) as u64, b"x")
            .expect("there");
        let error = read(&storage).expect_err("neither is valid").to_string();
        assert!(
            error.contains("pg_control") && error.contains("rd_controldata"),
            "{error}"
        );
    }
}
