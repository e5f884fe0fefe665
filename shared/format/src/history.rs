//! `global/history`: what the last checkpoints and recoveries were, and what they cost.
//!
//! Two rings of records of one size, each in its slot by its number. A record stands for itself:
//! it carries its kind, its number, the data directory it belongs to and a checksum, so that one
//! that was torn, damaged, or comes from elsewhere is known, and costs no other.

use crate::control::{DbState, checkpoint_flags};
use crate::layout::on_disk;
use rd_base::{Lsn, Role};
use std::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Checkpoints that are remembered.
pub const CHECKPOINTS_KEPT: u64 = 1000;
/// Recoveries that are remembered.
pub const RECOVERIES_KEPT: u64 = 100;
/// Bytes of a record of either kind.
pub const RECORD_BYTES: usize = 256;
/// Bytes of the file: the ring of checkpoints, then that of recoveries.
pub const HISTORY_BYTES: u64 = (CHECKPOINTS_KEPT + RECOVERIES_KEPT) * RECORD_BYTES as u64;

/// First four bytes of a checkpoint's record: "RDK" and the format's number.
const CHECKPOINT_MAGIC: u32 = u32::from_le_bytes(*b"RDK\x01");
/// First four bytes of a recovery's record: "RDR" and the format's number.
const RECOVERY_MAGIC: u32 = u32::from_le_bytes(*b"RDR\x01");
/// Bytes of the text of an error, or of a namespace's name, that are kept.
const TEXT_BYTES: usize = 64;
/// Bytes of a command's name that are kept.
const COMMAND_BYTES: usize = 16;

/// A record, whatever its kind.
pub type RecordBytes = [u8; RECORD_BYTES];

on_disk! {
    /// A checkpoint.
    pub struct CheckpointRowBytes: 256 {
        /// "RDK", 1.
        0 magic: U32,
        /// CRC-32C over the record with this field zero.
        4 crc: U32,
        /// Its number, from 1; it lies in the slot of that number modulo 1000.
        8 number: U64,
        /// The data directory that the record belongs to.
        16 system_identifier: U64,
        /// Its kinds and causes, as `checkpoint_flags` in `pg_control`.
        24 flags: U32,
        /// What came of it: 0 complete, 1 failed.
        28 result: U32,
        /// Who asked for it: 1 postmaster, 2 startup, 3 checkpointer, 4 walwriter, 5 backend.
        32 role: U16,
        /// The number of a backend.
        34 role_number: U16,
        /// Requests that it was to answer; 0 if the checkpointer had reasons of its own only.
        36 requests: U32,
        /// The connection that asked first; 0 if none did.
        40 connection: U64,
        /// The command that asked first, zeros behind its name.
        48 command: [u8; 16],
        /// When it began, microseconds since 1970.
        64 began_us: U64,
        /// When it ended, microseconds since 1970.
        72 ended_us: U64,
        /// The redo point, where recovery begins from then on.
        80 redo_lsn: U64,
        /// Start of its record in the log; 0 if there is none. Of a checkpoint of one namespace: up to
        /// where its file is complete.
        88 checkpoint_lsn: U64,
        /// Bytes of log since the redo point before.
        96 wal_bytes: U64,
        /// Pages that were found to be dirty.
        104 pages_found: U64,
        /// Pages written.
        112 pages_written: U64,
        /// Bytes of pages written to their places.
        120 bytes_written: U64,
        /// Relation files synced, each piece of one counted for itself.
        128 files_synced: U64,
        /// How long writing took, pauses included, microseconds.
        136 write_us: U64,
        /// How long it took until the files were synced, microseconds.
        144 sync_us: U64,
        /// The longest single sync, microseconds.
        152 longest_sync_us: U64,
        /// How long recovery would have taken before, microseconds.
        160 estimate_before_us: U64,
        /// How long it would take afterwards, microseconds.
        168 estimate_after_us: U64,
        /// Segments of the log that were given up: recycled or removed.
        176 segments_retired: U64,
        /// Why it failed, or, if it is complete, of which namespace alone it was; zeros behind the
        /// text, which may be cut.
        184 text: [u8; 64],
        /// For how long commits were slowed meanwhile, all of them together, microseconds.
        248 commits_slowed_us: U64,
    }
}

on_disk! {
    /// A recovery.
    pub struct RecoveryRowBytes: 256 {
        /// "RDR", 1.
        0 magic: U32,
        /// CRC-32C over the record with this field zero.
        4 crc: U32,
        /// Its number, from 1; it lies in the slot of that number modulo 100.
        8 number: U64,
        /// The data directory that the record belongs to.
        16 system_identifier: U64,
        /// What `pg_control` said of the server's state: why there was something to recover.
        24 state: U32,
        /// Starts before this one that did not finish.
        28 unfinished_starts: U32,
        /// When the start began, microseconds since 1970.
        32 began_us: U64,
        /// When clients could be served, microseconds since 1970.
        40 ended_us: U64,
        /// How long it was expected to take, microseconds.
        48 predicted_us: U64,
        /// How long it took, microseconds.
        56 actual_us: U64,
        /// The part of it that reading and applying the log took, microseconds.
        64 redo_us: U64,
        /// Where redo began.
        72 redo_lsn: U64,
        /// The end of the log.
        80 end_lsn: U64,
        /// Bytes of log between the two.
        88 redo_bytes: U64,
        /// Records read.
        96 records: U64,
        /// Pages changed, each counted once for each record that changed it.
        104 pages_changed: U64,
        /// Pages that held a record's change already.
        112 pages_skipped: U64,
        /// Pages read from relation files.
        120 pages_read: U64,
        /// Threads that redid pages beside the one that read the log.
        128 workers: U32,
        /// Torn pages that were mended from the double-write area.
        132 torn_pages: U32,
        /// Zero.
        136 reserved: [u8; 120],
    }
}

/// Who asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requester {
    /// The process.
    pub role: Role,
    /// The connection; 0 if none did.
    pub connection: u64,
    /// The command's name, or what else made the process ask.
    pub command: Word<COMMAND_BYTES>,
}

impl Requester {
    /// A process that asks by itself.
    pub fn process(role: Role, what: &str) -> Requester {
        Requester {
            role,
            connection: 0,
            command: Word::new(what),
        }
    }

    /// A connection of a process, by a command.
    pub fn connection(role: Role, connection: u64, command: &str) -> Requester {
        Requester {
            connection,
            ..Requester::process(role, command)
        }
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connection {
            0 => write!(f, "{}", self.role)?,
            number => write!(f, "connection {number} of {}", self.role)?,
        }
        if self.command.is_empty() {
            return Ok(());
        }
        write!(f, ", {}", self.command)
    }
}

/// A short text in a fixed room, zeros behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<const N: usize>([u8; N]);

impl<const N: usize> Word<N> {
    /// As much of `text` as fits.
    pub fn new(text: &str) -> Self {
        let kept = &text.as_bytes()[..text.floor_char_boundary(N)];
        let mut bytes = [0; N];
        bytes[..kept.len()].copy_from_slice(kept);
        Word(bytes)
    }

    /// The text in these bytes.
    pub fn from_bytes(bytes: [u8; N]) -> Self {
        Word(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; N] {
        &self.0
    }

    /// Whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.first().is_none_or(|byte| *byte == 0)
    }
}

impl<const N: usize> fmt::Display for Word<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(&self.0);
        f.write_str(text.trim_end_matches('\0'))
    }
}

/// A checkpoint, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointRow {
    /// Its number, from 1.
    pub number: u64,
    /// Its kinds and causes, as [`crate::control::checkpoint_flags`] has them.
    pub flags: u32,
    /// Why it failed; none if it is complete.
    pub error: Option<Word<TEXT_BYTES>>,
    /// The namespace, if it is complete and was of one alone.
    pub namespace: Option<Word<TEXT_BYTES>>,
    /// Who asked for it first; the checkpointer itself, if nobody did.
    pub requester: Requester,
    /// Requests that it was to answer.
    pub requests: u32,
    /// Microseconds since 1970.
    pub began_us: u64,
    /// Microseconds since 1970.
    pub ended_us: u64,
    /// The redo point.
    pub redo_lsn: Lsn,
    /// Start of its record; zero if there is none. Of a checkpoint of one namespace: up to where its
    /// file is complete.
    pub checkpoint_lsn: Lsn,
    /// Bytes of log since the redo point before.
    pub wal_bytes: u64,
    /// Pages that were found to be dirty.
    pub pages_found: u64,
    /// Pages written.
    pub pages_written: u64,
    /// Bytes of pages written to their places.
    pub bytes_written: u64,
    /// Relation files synced, each piece of one counted for itself.
    pub files_synced: u64,
    /// How long writing took, pauses included, microseconds.
    pub write_us: u64,
    /// How long it took until the files were synced, microseconds.
    pub sync_us: u64,
    /// The longest single sync, microseconds.
    pub longest_sync_us: u64,
    /// How long recovery would have taken before, microseconds.
    pub estimate_before_us: u64,
    /// How long it would take afterwards, microseconds.
    pub estimate_after_us: u64,
    /// Segments of the log that were given up.
    pub segments_retired: u64,
    /// For how long commits were slowed meanwhile, all of them together, microseconds.
    pub commits_slowed_us: u64,
}

/// A recovery, as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoveryRow {
    /// Its number, from 1.
    pub number: u64,
    /// What `pg_control` said, see [`crate::control::DbState`].
    pub state: u32,
    /// Starts before this one that did not finish.
    pub unfinished_starts: u32,
    /// Microseconds since 1970.
    pub began_us: u64,
    /// Microseconds since 1970.
    pub ended_us: u64,
    /// How long it was expected to take, microseconds.
    pub predicted_us: u64,
    /// How long it took, microseconds.
    pub actual_us: u64,
    /// The part of it that reading and applying the log took, microseconds.
    pub redo_us: u64,
    /// Where redo began.
    pub redo_lsn: Lsn,
    /// The end of the log.
    pub end_lsn: Lsn,
    /// Bytes of log between the two.
    pub redo_bytes: u64,
    /// Records read.
    pub records: u64,
    /// Pages changed, each counted once for each record that changed it.
    pub pages_changed: u64,
    /// Pages that held a record's change already.
    pub pages_skipped: u64,
    /// Pages read from relation files.
    pub pages_read: u64,
    /// Threads that redid pages beside the one that read the log.
    pub workers: u32,
    /// Torn pages that were mended.
    pub torn_pages: u32,
}

/// What a field of a record is, for people and programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number, in the unit that the field's name ends with.
    Number(u64),
    /// A text.
    Text(String),
}

impl CheckpointRow {
    /// Everything it says, by name.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        use Value::{Number, Text};
        let result = match &self.error {
            None => "complete".to_owned(),
            Some(error) => format!("failed: {error}"),
        };
        let namespace = self.namespace.iter();
        let namespace = namespace.map(|name| ("namespace", Text(name.to_string())));
        let mut fields = vec![
            ("number", Number(self.number)),
            ("cause", Text(checkpoint_flags::words(self.flags))),
            ("requester", Text(self.requester.to_string())),
            ("requests", Number(u64::from(self.requests))),
            ("result", Text(result)),
            ("began_us", Number(self.began_us)),
            ("ended_us", Number(self.ended_us)),
            (
                "total_us",
                Number(self.ended_us.saturating_sub(self.began_us)),
            ),
            ("write_us", Number(self.write_us)),
            ("sync_us", Number(self.sync_us)),
            ("longest_sync_us", Number(self.longest_sync_us)),
            ("pages_found", Number(self.pages_found)),
            ("pages_written", Number(self.pages_written)),
            ("bytes_written", Number(self.bytes_written)),
            ("files_synced", Number(self.files_synced)),
            ("redo_lsn", Text(self.redo_lsn.to_string())),
            ("checkpoint_lsn", Text(self.checkpoint_lsn.to_string())),
            ("wal_bytes", Number(self.wal_bytes)),
            ("segments_retired", Number(self.segments_retired)),
            ("commits_slowed_us", Number(self.commits_slowed_us)),
            ("estimate_before_us", Number(self.estimate_before_us)),
            ("estimate_after_us", Number(self.estimate_after_us)),
        ];
        fields.extend(namespace);
        fields
    }
}

impl RecoveryRow {
    /// The server's state that it began with, in words.
    pub fn reason(&self) -> &'static str {
        DbState::from_number(self.state).map_or("unknown", DbState::name)
    }

    /// Everything it says, by name.
    pub fn fields(&self) -> Vec<(&'static str, Value)> {
        use Value::{Number, Text};
        vec![
            ("number", Number(self.number)),
            ("found", Text(self.reason().to_owned())),
            (
                "unfinished_starts",
                Number(u64::from(self.unfinished_starts)),
            ),
            ("began_us", Number(self.began_us)),
            ("ended_us", Number(self.ended_us)),
            ("predicted_us", Number(self.predicted_us)),
            ("actual_us", Number(self.actual_us)),
            ("redo_us", Number(self.redo_us)),
            ("redo_lsn", Text(self.redo_lsn.to_string())),
            ("end_lsn", Text(self.end_lsn.to_string())),
            ("redo_bytes", Number(self.redo_bytes)),
            ("records", Number(self.records)),
            ("pages_changed", Number(self.pages_changed)),
            ("pages_skipped", Number(self.pages_skipped)),
            ("pages_read", Number(self.pages_read)),
            ("workers", Number(u64::from(self.workers))),
            ("torn_pages", Number(u64::from(self.torn_pages))),
        ]
    }
}

/// Why there is no record in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Never used.
    #[error("it was never used")]
    Empty,
    /// Not a record of this ring.
    #[error("magic number {0:08X} is not that of its kind")]
    Magic(u32),
    /// It was torn, or damaged.
    #[error("checksum: stored {stored:08X}, computed {computed:08X}")]
    Checksum {
        /// In the record.
        stored: u32,
        /// Of what was read.
        computed: u32,
    },
    /// A good record that does not belong there.
    #[error("record {0} does not belong into this slot")]
    Misplaced(u64),
    /// A good record of another data directory.
    #[error("it belongs to the data directory with system identifier {0}")]
    Foreign(u64),
    /// A good record that says what no record can say.
    #[error("the process that asked has number {0}, which is none")]
    Role(u16),
}

/// The kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Checkpoints.
    Checkpoint,
    /// Recoveries.
    Recovery,
}

/// A record of either kind: what is the same for both.
pub trait Row: Sized {
    /// Which kind.
    const KIND: Kind;
    /// How many are remembered.
    const KEPT: u64;
    /// Where their ring begins in the file.
    const START: u64;
    /// First four bytes.
    const MAGIC: u32;

    /// Its number, from 1.
    fn number(&self) -> u64;
    /// Its bytes, sealed.
    fn encode(&self, system_identifier: u64) -> RecordBytes;
    /// What checked bytes say.
    ///
    /// # Errors
    /// When they say what no record can say.
    fn decode_checked(bytes: &RecordBytes) -> Result<Self, HistoryError>;

    /// Where the record lies in the file.
    fn offset(number: u64) -> u64 {
        Self::START + number % Self::KEPT * RECORD_BYTES as u64
    }

    /// Checks and reads the record in slot `slot` of its ring.
    ///
    /// # Errors
    /// Why there is none.
    fn decode(bytes: &RecordBytes, slot: u64, system_id: u64) -> Result<Self, HistoryError> {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        if *bytes == [0; RECORD_BYTES] {
            return Err(HistoryError::Empty);
        }
        let (stored, computed) = (word(4), checksum(bytes));
        if stored != computed {
            return Err(HistoryError::Checksum { stored, computed });
        }
        if word(0) != Self::MAGIC {
            return Err(HistoryError::Magic(word(0)));
        }
        let (number, owner) = (long(8), long(16));
        if number == 0 || number % Self::KEPT != slot {
            return Err(HistoryError::Misplaced(number));
        }
        if owner != system_id {
            return Err(HistoryError::Foreign(owner));
        }
        Self::decode_checked(bytes)
    }
}

/// CRC-32C over a record, its field counted as zero.
fn checksum(bytes: &RecordBytes) -> u32 {
    let crc = crc32c::crc32c(&bytes[..4]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[8..])
}

fn seal(row: &[u8]) -> RecordBytes {
    let mut bytes: RecordBytes = row.try_into().expect("every kind has this length");
    let crc = checksum(&bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

impl Row for CheckpointRow {
    const KIND: Kind = Kind::Checkpoint;
    const KEPT: u64 = CHECKPOINTS_KEPT;
    const START: u64 = 0;
    const MAGIC: u32 = CHECKPOINT_MAGIC;

    fn number(&self) -> u64 {
        self.number
    }

    fn encode(&self, system_identifier: u64) -> RecordBytes {
        let (role, role_number) = role_numbers(self.requester.role);
        let row = CheckpointRowBytes {
            magic: CHECKPOINT_MAGIC.into(),
            crc: 0.into(),
            number: self.number.into(),
            system_identifier: system_identifier.into(),
            flags: self.flags.into(),
            result: u32::from(self.error.is_some()).into(),
            role: role.into(),
            role_number: role_number.into(),
            requests: self.requests.into(),
            connection: self.requester.connection.into(),
            command: *self.requester.command.bytes(),
            began_us: self.began_us.into(),
            ended_us: self.ended_us.into(),
            redo_lsn: self.redo_lsn.get().into(),
            checkpoint_lsn: self.checkpoint_lsn.get().into(),
            wal_bytes: self.wal_bytes.into(),
            pages_found: self.pages_found.into(),
            pages_written: self.pages_written.into(),
            bytes_written: self.bytes_written.into(),
            files_synced: self.files_synced.into(),
            write_us: self.write_us.into(),
            sync_us: self.sync_us.into(),
            longest_sync_us: self.longest_sync_us.into(),
            estimate_before_us: self.estimate_before_us.into(),
            estimate_after_us: self.estimate_after_us.into(),
            segments_retired: self.segments_retired.into(),
            text: self
                .error
                .or(self.namespace)
                .map_or([0; TEXT_BYTES], |text| *text.bytes()),
            commits_slowed_us: self.commits_slowed_us.into(),
        };
        seal(row.as_bytes())
    }

    fn decode_checked(bytes: &RecordBytes) -> Result<Self, HistoryError> {
        let row = CheckpointRowBytes::read_from_bytes(bytes).expect("the struct's length");
        let role = role_of(row.role.get(), row.role_number.get())
            .ok_or(HistoryError::Role(row.role.get()))?;
        let (text, has_failed) = (Word::from_bytes(row.text), row.result.get() != 0);
        Ok(CheckpointRow {
            number: row.number.get(),
            flags: row.flags.get(),
            error: Some(text).filter(|_| has_failed),
            namespace: Some(text).filter(|name| !has_failed && !name.is_empty()),
            requester: Requester {
                role,
                connection: row.connection.get(),
                command: Word::from_bytes(row.command),
            },
            requests: row.requests.get(),
            began_us: row.began_us.get(),
            ended_us: row.ended_us.get(),
            redo_lsn: Lsn::new(row.redo_lsn.get()),
            checkpoint_lsn: Lsn::new(row.checkpoint_lsn.get()),
            wal_bytes: row.wal_bytes.get(),
            pages_found: row.pages_found.get(),
            pages_written: row.pages_written.get(),
            bytes_written: row.bytes_written.get(),
            files_synced: row.files_synced.get(),
            write_us: row.write_us.get(),
            sync_us: row.sync_us.get(),
            longest_sync_us: row.longest_sync_us.get(),
            estimate_before_us: row.estimate_before_us.get(),
            estimate_after_us: row.estimate_after_us.get(),
            segments_retired: row.segments_retired.get(),
            commits_slowed_us: row.commits_slowed_us.get(),
        })
    }
}

impl Row for RecoveryRow {
    const KIND: Kind = Kind::Recovery;
    const KEPT: u64 = RECOVERIES_KEPT;
    const START: u64 = CHECKPOINTS_KEPT * RECORD_BYTES as u64;
    const MAGIC: u32 = RECOVERY_MAGIC;

    fn number(&self) -> u64 {
        self.number
    }

    fn encode(&self, system_identifier: u64) -> RecordBytes {
        let row = RecoveryRowBytes {
            magic: RECOVERY_MAGIC.into(),
            crc: 0.into(),
            number: self.number.into(),
            system_identifier: system_identifier.into(),
            state: self.state.into(),
            unfinished_starts: self.unfinished_starts.into(),
            began_us: self.began_us.into(),
            ended_us: self.ended_us.into(),
            predicted_us: self.predicted_us.into(),
            actual_us: self.actual_us.into(),
            redo_us: self.redo_us.into(),
            redo_lsn: self.redo_lsn.get().into(),
            end_lsn: self.end_lsn.get().into(),
            redo_bytes: self.redo_bytes.into(),
            records: self.records.into(),
            pages_changed: self.pages_changed.into(),
            pages_skipped: self.pages_skipped.into(),
            pages_read: self.pages_read.into(),
            workers: self.workers.into(),
            torn_pages: self.torn_pages.into(),
            reserved: [0; 120],
        };
        seal(row.as_bytes())
    }

    fn decode_checked(bytes: &RecordBytes) -> Result<Self, HistoryError> {
        let row = RecoveryRowBytes::read_from_bytes(bytes).expect("the struct's length");
        Ok(RecoveryRow {
            number: row.number.get(),
            state: row.state.get(),
            unfinished_starts: row.unfinished_starts.get(),
            began_us: row.began_us.get(),
            ended_us: row.ended_us.get(),
            predicted_us: row.predicted_us.get(),
            actual_us: row.actual_us.get(),
            redo_us: row.redo_us.get(),
            redo_lsn: Lsn::new(row.redo_lsn.get()),
            end_lsn: Lsn::new(row.end_lsn.get()),
            redo_bytes: row.redo_bytes.get(),
            records: row.records.get(),
            pages_changed: row.pages_changed.get(),
            pages_skipped: row.pages_skipped.get(),
            pages_read: row.pages_read.get(),
            workers: row.workers.get(),
            torn_pages: row.torn_pages.get(),
        })
    }
}

/// A role as two numbers, on disk and in shared memory.
pub fn role_numbers(role: Role) -> (u16, u16) {
    match role {
        Role::Postmaster => (1, 0),
        Role::Startup => (2, 0),
        Role::Checkpointer => (3, 0),
        Role::Walwriter => (4, 0),
        Role::Backend(number) => (5, number),
    }
}

/// The role with these numbers.
pub fn role_of(role: u16, number: u16) -> Option<Role> {
    match role {
        1 => Some(Role::Postmaster),
        2 => Some(Role::Startup),
        3 => Some(Role::Checkpointer),
        4 => Some(Role::Walwriter),
        5 => Some(Role::Backend(number)),
        _ => None,
    }
}

/// All good records of one kind in a file's bytes, oldest first; and the slots that hold none
/// although they were used, each with the reason.
pub fn read_ring<R: Row>(file: &[u8], system_id: u64) -> (Vec<R>, Vec<(u64, HistoryError)>) {
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for slot in 0..R::KEPT {
        let at = (R::START + slot * RECORD_BYTES as u64) as usize;
        let Some(bytes) = file.get(at..at + RECORD_BYTES) else {
            break;
        };
        let bytes: &RecordBytes = bytes.try_into().expect("a record's length");
        match R::decode(bytes, slot, system_id) {
            Ok(row) => rows.push(row),
            Err(HistoryError::Empty) => {}
            Err(error) => bad.push((slot, error)),
        }
    }
    rows.sort_by_key(R::number);
    (rows, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: u64 = 42;

    fn checkpoint(number: u64) -> CheckpointRow {
        CheckpointRow {
            number,
            flags: 0x802,
            error: (number % 2 == 1).then(|| Word::new("no room on the disk")),
            namespace: (number % 4 == 2).then(|| Word::new("orders")),
            requester: Requester::connection(Role::Backend(3), 17, "CHECKPOINT"),
            requests: 2,
            began_us: 5,
            ended_us: 9,
            redo_lsn: Lsn::new(number.wrapping_mul(1000)),
            checkpoint_lsn: Lsn::new(number.wrapping_mul(1000) | 8),
            wal_bytes: 7,
            pages_found: 70,
            pages_written: 69,
            bytes_written: 69 * 8192,
            files_synced: 3,
            write_us: 100,
            sync_us: 50,
            longest_sync_us: 40,
            estimate_before_us: 2_000_000,
            estimate_after_us: 300_000,
            segments_retired: 1,
            commits_slowed_us: 12,
        }
    }

    fn recovery(number: u64) -> RecoveryRow {
        RecoveryRow {
            number,
            state: 6,
            unfinished_starts: 1,
            began_us: 1,
            ended_us: 2,
            predicted_us: 3,
            actual_us: 4,
            redo_us: 5,
            redo_lsn: Lsn::new(6),
            end_lsn: Lsn::new(7),
            redo_bytes: 8,
            records: 9,
            pages_changed: 10,
            pages_skipped: 11,
            pages_read: 12,
            workers: 13,
            torn_pages: 14,
        }
    }

    fn damage_is_named<R: Row + PartialEq + std::fmt::Debug>(row: &R) {
        let bytes = row.encode(SYSTEM);
        let slot = row.number() % R::KEPT;
        assert_eq!(R::decode(&bytes, slot, SYSTEM).as_ref(), Ok(row));
        for bit in 0..RECORD_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(R::decode(&damaged, slot, SYSTEM).is_err(), "bit {bit}");
        }
        assert_eq!(
            R::decode(&bytes, slot + 1, SYSTEM).err(),
            Some(HistoryError::Misplaced(row.number()))
        );
        assert_eq!(
            R::decode(&bytes, slot, SYSTEM + 1).err(),
            Some(HistoryError::Foreign(SYSTEM))
        );
        assert_eq!(
            R::decode(&[0; RECORD_BYTES], 0, SYSTEM).err(),
            Some(HistoryError::Empty)
        );
    }

    #[test]
    fn records_round_trip_and_damage_is_named() {
        for number in [1, 2, 999, 1000, 1001, u64::MAX] {
            damage_is_named(&checkpoint(number));
            damage_is_named(&recovery(number));
        }
        let bytes = recovery(1).encode(SYSTEM);
        let error = CheckpointRow::decode(&bytes, 1, SYSTEM).err();
        assert_eq!(error, Some(HistoryError::Magic(RECOVERY_MAGIC)));
    }

    #[test]
    fn a_ring_is_read_in_order_without_what_is_damaged() {
        let mut file = vec![0; HISTORY_BYTES as usize];
        let mut put = |bytes: RecordBytes, offset: u64| {
            file[offset as usize..offset as usize + RECORD_BYTES].copy_from_slice(&bytes);
        };
        for number in 995..=1005 {
            let row = checkpoint(number);
            put(row.encode(SYSTEM), CheckpointRow::offset(number));
        }
        put(recovery(3).encode(SYSTEM), RecoveryRow::offset(3));
        file[CheckpointRow::offset(1001) as usize + 70] ^= 1;
        let (rows, bad) = read_ring::<CheckpointRow>(&file, SYSTEM);
        let numbers: Vec<u64> = rows.iter().map(|row| row.number).collect();
        assert_eq!(
            numbers,
            [995, 996, 997, 998, 999, 1000, 1002, 1003, 1004, 1005]
        );
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].0, 1);
        let (rows, bad) = read_ring::<RecoveryRow>(&file, SYSTEM);
        assert_eq!((rows, bad), (vec![recovery(3)], Vec::new()));
        // A file that was cut is read as far as it goes.
        let (rows, _) = read_ring::<CheckpointRow>(&file[..2 * RECORD_BYTES + 9], SYSTEM);
        assert_eq!(rows, [checkpoint(1000)]);
    }

    #[test]
    fn a_requester_is_named() {
        let asked = Requester::connection(Role::Backend(3), 17, "CHECKPOINT");
        assert_eq!(asked.to_string(), "connection 17 of backend 3, CHECKPOINT");
        let own = Requester::process(Role::Startup, "");
        assert_eq!(own.to_string(), "startup");
        let cut = Word::<4>::new("abcé");
        assert_eq!(cut.to_string(), "abc");
    }
}
