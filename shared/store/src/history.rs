//! The last checkpoints and recoveries: on disk in `global/history`, and in shared memory for all
//! processes to read.
//!
//! The checkpointer alone writes either; after a start it reads the file beside the first clients.
//! In shared memory a record has the bytes that it has on disk; its checksum tells a reader that it
//! was read whole, so no latch is needed.
//!
//! Invariant: nothing depends on what is remembered. A record that cannot be read is reported and
//! passed over; a file that cannot be written is written no more until the next start.

use crate::control_file::GLOBAL_DIR;
pub use rd_format::history::{
    CHECKPOINTS_KEPT, CheckpointRow, Kind, RECOVERIES_KEPT, RecoveryRow, Row, Value, Word,
};
use rd_format::history::{HISTORY_BYTES, HistoryError, RECORD_BYTES, RecordBytes, read_ring};
use rd_sys::atomic::{AtomicU64, Ordering};
use rd_sys::fault::{self, Fault};
use rd_sys::storage::{OpenMode, Storage, StorageFile};
use rd_sys::{Area, One, Plan, Region, Segment};
use std::io;
use std::sync::Arc;
use zerocopy::{FromBytes, KnownLayout};

/// The file, relative to the data directory.
pub const HISTORY_PATH: &str = "global/history";

/// How often a record that changes while it is read is read again.
const TRIES: usize = 4;

/// Makes the file, with nothing in it.
///
/// # Errors
/// When there is no room, or it cannot be written and synced.
pub fn create(storage: &dyn Storage) -> io::Result<()> {
    let file = storage.open(HISTORY_PATH, OpenMode::CreateNew)?;
    lengthen(&*file, 0)?;
    storage.sync_dir(GLOBAL_DIR)
}

/// Writes zeros from `len` to the end that the file should have, so that no record has to make room.
fn lengthen(file: &dyn StorageFile, len: u64) -> io::Result<()> {
    file.allocate(len, HISTORY_BYTES - len)?;
    file.write_all_at(&vec![0; (HISTORY_BYTES - len) as usize], len)?;
    file.sync_all()
}

/// All that can be read of the file's bytes.
#[derive(Clone, Debug, Default)]
pub struct Remembered {
    /// Oldest first.
    pub checkpoints: Vec<CheckpointRow>,
    /// Oldest first.
    pub recoveries: Vec<RecoveryRow>,
    /// What cannot be read, each in words.
    pub damaged: Vec<String>,
}

impl Remembered {
    /// Reads the bytes of a file of the data directory with this system identifier.
    pub fn of(bytes: &[u8], system_identifier: u64) -> Remembered {
        let (checkpoints, bad) = read_ring(bytes, system_identifier);
        let (recoveries, bad_too) = read_ring(bytes, system_identifier);
        let told = |ring: &'static str| {
            move |(slot, error): (u64, HistoryError)| format!("{ring} in slot {slot}: {error}")
        };
        let damaged = bad.into_iter().map(told("checkpoint"));
        let damaged_too = bad_too.into_iter().map(told("recovery"));
        Remembered {
            checkpoints,
            recoveries,
            damaged: damaged.chain(damaged_too).collect(),
        }
    }
}

/// Reads the file beside a running server or without one; for tools.
///
/// # Errors
/// When it is not there, or cannot be read.
pub fn read(storage: &dyn Storage, system_identifier: u64) -> io::Result<Remembered> {
    let file = storage.open(HISTORY_PATH, OpenMode::Read)?;
    Ok(Remembered::of(&bytes_of(&*file)?, system_identifier))
}

fn bytes_of(file: &dyn StorageFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HISTORY_BYTES as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The open file, for the checkpointer.
pub struct HistoryFile {
    file: Arc<dyn StorageFile>,
    system_identifier: u64,
}

impl HistoryFile {
    /// Opens the file, makes it if it is missing, and reads what is in it, which is durable then.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn open(
        storage: &dyn Storage,
        system_identifier: u64,
    ) -> io::Result<(HistoryFile, Remembered)> {
        if !storage.exists(HISTORY_PATH)? {
            create(storage)?;
        }
        let file = storage.open(HISTORY_PATH, OpenMode::ReadWrite)?;
        let len = file.len()?;
        if len < HISTORY_BYTES {
            lengthen(&*file, len)?;
        } else {
            // A server that was killed may have left a record in the system's cache only. Who has once
            // been shown it is to find it again.
            file.sync_data()?;
        }
        let remembered = Remembered::of(&bytes_of(&*file)?, system_identifier);
        let opened = HistoryFile {
            file,
            system_identifier,
        };
        Ok((opened, remembered))
    }

    /// Writes a record and syncs it.
    ///
    /// # Errors
    /// When the disk refuses. Then nobody knows what is in its slot; the file is not to be written
    /// any more.
    pub fn write<R: Row>(&self, row: &R) -> io::Result<()> {
        fault::point(Fault::HistoryWrite)?;
        let bytes = row.encode(self.system_identifier);
        self.file.write_all_at(&bytes, R::offset(row.number()))?;
        self.file.sync_data()
    }
}

/// One record. atomic: Relaxed, written by the checkpointer; what a reader finds counts only with a
/// good checksum.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Record {
    words: [AtomicU64; RECORD_BYTES / 8],
}

/// Numbers of the newest records; 0 is none. atomic: Release by the checkpointer, after the record;
/// Acquire by all.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Newest {
    checkpoint: AtomicU64,
    recovery: AtomicU64,
}

/// Where the records lie in the segment.
#[derive(Clone, Copy)]
pub struct HistoryRegions {
    newest: Region<Newest>,
    checkpoints: Region<Record>,
    recoveries: Region<Record>,
}

impl HistoryRegions {
    /// Reserves room for as many records as are kept.
    pub fn plan(plan: &mut Plan) -> HistoryRegions {
        HistoryRegions {
            newest: plan.reserve(1),
            checkpoints: plan.reserve(CHECKPOINTS_KEPT as usize),
            recoveries: plan.reserve(RECOVERIES_KEPT as usize),
        }
    }
}

/// What is remembered, in shared memory.
#[derive(Clone)]
pub struct History {
    newest: One<Newest>,
    checkpoints: Area<Record>,
    recoveries: Area<Record>,
}

impl History {
    /// Opens this part of shared memory.
    pub fn open(segment: &Segment, regions: &HistoryRegions) -> History {
        History {
            newest: segment.one(regions.newest),
            checkpoints: segment.area(regions.checkpoints),
            recoveries: segment.area(regions.recoveries),
        }
    }

    fn ring<R: Row>(&self) -> (&AtomicU64, &[Record]) {
        match R::KIND {
            Kind::Checkpoint => (&self.newest.checkpoint, &self.checkpoints),
            Kind::Recovery => (&self.newest.recovery, &self.recoveries),
        }
    }

    /// The number of the newest record; 0 if there is none.
    pub fn newest<R: Row>(&self) -> u64 {
        self.ring::<R>().0.load(Ordering::Acquire)
    }

    /// Takes up a record, whose number is higher than all before.
    pub fn put<R: Row>(&self, row: &R) {
        self.load(std::slice::from_ref(row));
    }

    /// Takes up records, oldest first, whose numbers are higher than all before: readers see all of
    /// them or none.
    pub fn load<R: Row>(&self, rows: &[R]) {
        rows.iter().for_each(|row| self.write(row));
        if let Some(last) = rows.last() {
            let (newest, _) = self.ring::<R>();
            newest.store(last.number(), Ordering::Release);
        }
    }

    fn write<R: Row>(&self, row: &R) {
        let (_, records) = self.ring::<R>();
        let record = &records[(row.number() % R::KEPT) as usize];
        let bytes = row.encode(0);
        for (word, bytes) in record.words.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
        }
    }

    /// At most `count` records, the newest first.
    pub fn last<R: Row>(&self, count: u64) -> Vec<R> {
        let (newest, records) = self.ring::<R>();
        let newest = newest.load(Ordering::Acquire);
        let numbers = newest.saturating_sub(count.min(R::KEPT)) + 1..=newest;
        let read = |number: u64| {
            let slot = number % R::KEPT;
            let row: R = read_record(&records[slot as usize], slot)?;
            // It may have been replaced by a newer one meanwhile.
            (row.number() == number).then_some(row)
        };
        numbers.rev().filter_map(read).collect()
    }
}

fn read_record<R: Row>(record: &Record, slot: u64) -> Option<R> {
    (0..TRIES).find_map(|_| {
        let mut bytes: RecordBytes = [0; RECORD_BYTES];
        for (bytes, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&record.words) {
            *bytes = word.load(Ordering::Relaxed).to_le_bytes();
        }
        R::decode(&bytes, slot, 0).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Requester;
    use rd_base::{Lsn, Role};
    use rd_sys::simdisk::{SimStorage, Unsynced};

    const SYSTEM: u64 = 9;

    fn row(number: u64) -> CheckpointRow {
        CheckpointRow {
            number,
            flags: 1,
            error: None,
            namespace: None,
            requester: Requester::process(Role::Checkpointer, ""),
            requests: 0,
            began_us: number,
            ended_us: number + 1,
            redo_lsn: Lsn::new(number),
            checkpoint_lsn: Lsn::new(number),
            wal_bytes: 0,
            pages_found: 0,
            pages_written: number,
            bytes_written: 0,
            files_synced: 0,
            write_us: 0,
            sync_us: 0,
            longest_sync_us: 0,
            estimate_before_us: 0,
            estimate_after_us: 0,
            segments_retired: 0,
            commits_slowed_us: 0,
        }
    }

    fn numbers(rows: &[CheckpointRow]) -> Vec<u64> {
        rows.iter().map(|row| row.number).collect()
    }

    fn disk(seed: u64) -> SimStorage {
        let storage = SimStorage::new(seed);
        storage.create_dir(GLOBAL_DIR).expect("a new disk");
        storage.sync_dir("").expect("a good disk");
        create(&storage).expect("a good disk");
        storage
    }

    #[test]
    fn the_last_ones_are_read_newest_first() {
        let mut plan = Plan::new();
        let regions = HistoryRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let history = History::open(&segment, &regions);
        assert_eq!(history.last::<CheckpointRow>(5), []);
        // One is missing, as after damage.
        (1..=1003)
            .filter(|number| *number != 1002)
            .for_each(|number| history.put(&row(number)));
        assert_eq!(numbers(&history.last(3)), [1003, 1001]);
        assert_eq!(history.newest::<CheckpointRow>(), 1003);
        let all: Vec<CheckpointRow> = history.last(u64::MAX);
        assert_eq!(all.len(), 999);
        assert_eq!(all.last(), Some(&row(4)));
        assert_eq!(history.last::<RecoveryRow>(5), []);
    }

    #[test]
    fn a_crash_at_any_io_costs_at_most_the_record_under_way() {
        let storage = disk(0);
        let before = storage.io_count();
        let (file, _) = HistoryFile::open(&storage, SYSTEM).expect("a good disk");
        for number in 1..=3 {
            file.write(&row(number)).expect("a good disk");
        }
        let ios = storage.io_count() - before;
        for at in 1..=ios {
            for seed in 0..8 {
                let storage = disk(seed);
                storage.crash_at(Some(before + at));
                let mut written = 0;
                if let Ok((file, _)) = HistoryFile::open(&storage, SYSTEM) {
                    while written < 3 && file.write(&row(written + 1)).is_ok() {
                        written += 1;
                    }
                }
                storage.crash(seed);
                let (_, found) = HistoryFile::open(&storage, SYSTEM).expect("it can be used");
                let found = numbers(&found.checkpoints);
                let all: Vec<u64> = (1..=3).collect();
                assert!(all.starts_with(&found), "{found:?}");
                assert!(found.len() as u64 >= written, "{found:?} of {written}");
            }
        }
    }

    /// Killed between a record's write and its sync, the server leaves it in the system's cache.
    #[test]
    fn what_was_shown_once_is_there_after_a_loss_of_power() {
        for seed in 0..20 {
            let storage = disk(seed);
            let (file, _) = HistoryFile::open(&storage, SYSTEM).expect("a good disk");
            file.write(&row(1)).expect("a good disk");
            // Its write is done, its sync is not.
            storage.crash_at(Some(storage.io_count() + 2));
            file.write(&row(2)).expect_err("it was killed");
            storage.kill(seed);
            let (_, shown) = HistoryFile::open(&storage, SYSTEM).expect("a good disk");
            assert_eq!(numbers(&shown.checkpoints), [1, 2]);
            storage.crash_as(Unsynced::Lost);
            let found = read(&storage, SYSTEM).expect("a good disk");
            assert_eq!(numbers(&found.checkpoints), [1, 2]);
        }
    }

    #[test]
    fn damage_and_a_missing_file_cost_nothing_else() {
        let storage = disk(1);
        let (file, _) = HistoryFile::open(&storage, SYSTEM).expect("a good disk");
        for number in 1..=3 {
            file.write(&row(number)).expect("a good disk");
        }
        let at = CheckpointRow::offset(2) + 100;
        storage.damage(HISTORY_PATH, at, b"x").expect("it is there");
        let (file, found) = HistoryFile::open(&storage, SYSTEM).expect("a good disk");
        assert_eq!(numbers(&found.checkpoints), [1, 3]);
        assert_eq!(found.damaged.len(), 1);
        assert!(found.damaged[0].starts_with("checkpoint in slot 2: checksum"));
        let found = read(&storage, SYSTEM + 1).expect("it can be read");
        assert_eq!((found.checkpoints.len(), found.damaged.len()), (0, 3));
        drop(file);
        storage.remove(HISTORY_PATH).expect("it is there");
        let (_, found) = HistoryFile::open(&storage, SYSTEM).expect("it is made anew");
        assert!(found.checkpoints.is_empty() && found.damaged.is_empty());
    }
}
