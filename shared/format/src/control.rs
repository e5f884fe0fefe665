//! `global/pg_control`: what start-up must know before it can read anything else.
//!
//! Invariants:
//! - The file holds two slots of [`SLOT_BYTES`], written in turn: the one overwritten is never the
//!   newest valid one, and that one is durable before (whoever opens the file for writing sees to
//!   it). Only the used length of a slot is written.
//! - A slot is valid when its checksum is right and no number in it is one that no server comes to;
//!   of two valid ones the higher sequence is newer.
//! - Magic, format and used length stay where they are in every format to come, so that an older
//!   program can say which one it met.

use crate::access::Access;
use crate::layout::on_disk;
use rd_base::limits::{
    FILES_MAX, GROWING_U32_MAX, GROWING_U64_MAX, LOG_BYTES_MAX, PAGE_BYTES, WAL_PAGE_BYTES,
};
use rd_base::{BatchNo, FileNo, Lsn, StartCount, Timeline};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of one slot. Slot 0 begins at 0, slot 1 at `SLOT_BYTES`.
pub const SLOT_BYTES: usize = 256 << 10;
/// First eight bytes of a slot: "RDCTRL", 0, 0.
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"RDCTRL\x00\x00");
/// The format that this code writes.
pub const CONTROL_FORMAT: u32 = 2;
/// Largest file of the log.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;

on_disk! {
    /// Start of a slot of `pg_control`. File rows follow, then rows of pending drops.
    pub struct ControlBytes: 320 {
        /// "RDCTRL", 0, 0.
        0 magic: U64,
        /// Format of the slot; 2.
        8 format: U32,
        /// Bytes of the slot that mean something, this struct and all rows.
        12 used_bytes: U32,
        /// CRC-32C over the used bytes with this field zero.
        16 crc: U32,
        /// Zero.
        20 reserved0: U32,
        /// Grows by one with each write of either slot.
        24 sequence: U64,
        /// When the slot was written, microseconds since 1970.
        32 written_us: U64,
        /// Random number of the data directory; in every WAL page and meta page.
        40 system_identifier: U64,
        /// State: 0 starting up, 1 shut down, 2 shut down in recovery, 3 shutting down, 4 in crash
        /// recovery, 5 in archive recovery, 6 in production.
        48 state: U32,
        /// The timeline.
        52 timeline: U32,
        /// How many times the server has been started for writing.
        56 start_count: U32,
        /// Start count of the last record before the redo point.
        60 redo_predecessor_count: U32,
        /// Start count of the last record before the durable LSN.
        64 durable_predecessor_count: U32,
        /// Starts in a row that did not get to the end of recovery; for people.
        68 unfinished_starts: U32,
        /// Redo point: where recovery begins to read.
        72 redo_lsn: U64,
        /// The log up to here was synced when the slot was written.
        80 durable_lsn: U64,
        /// Start LSN of the last checkpoint record.
        88 checkpoint_lsn: U64,
        /// Redo point before this one.
        96 previous_redo_lsn: U64,
        /// Start LSN of the checkpoint record before that.
        104 previous_checkpoint_lsn: U64,
        /// Number of the last advance of the redo point, or checkpoint of a single file. A heartbeat
        /// does not count if it leaves the redo point where it is: a file's header may be ahead by
        /// one.
        112 checkpoint_count: U64,
        /// When the last full checkpoint was complete, microseconds since 1970.
        120 checkpoint_us: U64,
        /// When the redo point last advanced without a full checkpoint, microseconds since 1970.
        128 incremental_us: U64,
        /// Kinds and causes of the last full checkpoint, see the list of bits.
        136 checkpoint_flags: U32,
        /// Bits: 1 torn pages are met by the double-write area; 2 pages may have been written
        /// without it since the redo point.
        140 protection: U32,
        /// First double-write batch whose pages' files are not known to be synced.
        144 first_unsynced_batch: U64,
        /// The next relation file's number.
        152 next_file: U32,
        /// Bytes of a page.
        156 page_bytes: U32,
        /// Bytes of a page of the log.
        160 wal_page_bytes: U32,
        /// Bytes of a segment of the log.
        164 wal_segment_bytes: U32,
        /// Redo rate measured here, bytes of log per second; 0 is not known.
        168 redo_bytes_per_s: U64,
        /// Redo rate measured here, pages brought in per second; 0 is not known.
        176 redo_pages_per_s: U64,
        /// Estimate when the slot was written: how long recovery would take, milliseconds.
        184 estimated_recovery_ms: U64,
        /// How long the last recovery took, milliseconds.
        192 last_recovery_ms: U64,
        /// How long it had been expected to take, milliseconds.
        200 last_recovery_estimate_ms: U64,
        /// Start of a backup that was under way; 0 is none.
        208 backup_start_lsn: U64,
        /// End of the backup that this directory was restored from; 0 is none.
        216 backup_end_lsn: U64,
        /// Parameter `max_connections` of the last start for writing.
        224 max_connections: U32,
        /// Parameter `backends` of the last start for writing.
        228 backends: U32,
        /// Number of file rows.
        232 file_rows: U32,
        /// Number of rows of pending drops.
        236 drop_rows: U32,
        /// The key counts of the file rows hold what records say that end at or below this; it is
        /// not below the redo point. 0 stands for the redo point.
        240 keys_lsn: U64,
        /// What a start that recovers takes beside redo, measured here, microseconds; 0 is not known.
        248 recovery_fixed_us: U64,
        /// Bytes of log that the estimate was made for.
        256 estimated_redo_bytes: U64,
        /// Pages to be brought in that the estimate was made for.
        264 estimated_redo_pages: U64,
        /// Zero.
        272 reserved: [u8; 48],
    }
}

on_disk! {
    /// One relation file in `pg_control`.
    pub struct FileRowBytes: 48 {
        /// The file's number.
        0 file: U32,
        /// What may be done with its namespace, as in the catalog, once the file is closed for that; 0
        /// while it is written.
        4 access: U32,
        /// Number of the last checkpoint that covered the file, as in its meta page.
        8 checkpoint_count: U64,
        /// The file is complete up to here: redo point of that checkpoint, or where the log ended
        /// when it began if it was of this file alone; as in its meta page.
        16 scn: U64,
        /// The LSN up to which the file is complete, after a clean stop, or since it is closed; 0 while
        /// in use.
        24 stop_scn: U64,
        /// Number of keys, see `keys_lsn`.
        32 key_count: U64,
        /// Blocks that the file has on disk.
        40 blocks: U32,
        /// Zero.
        44 reserved: U32,
    }
}

on_disk! {
    /// One file in `pg_control` that was dropped and is still to be unlinked.
    pub struct DropRowBytes: 16 {
        /// The file's number.
        0 file: U32,
        /// Zero.
        4 reserved: U32,
        /// End LSN of the last record that touches it.
        8 last_lsn: U64,
    }
}

// Every file can have a row, and be a pending drop besides.
const _: () = assert!(
    ControlBytes::BYTES + FILES_MAX * (FileRowBytes::BYTES + DropRowBytes::BYTES) <= SLOT_BYTES
);

/// What the data directory is doing, in PostgreSQL's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DbState {
    /// A start has begun.
    StartingUp = 0,
    /// Stopped in order; recovery has nothing to read.
    ShutDown = 1,
    /// A standby was stopped in order.
    ShutDownInRecovery = 2,
    /// The shutdown checkpoint is being written.
    ShuttingDown = 3,
    /// Replaying the log after a crash.
    InCrashRecovery = 4,
    /// Replaying archived log.
    InArchiveRecovery = 5,
    /// Serving.
    InProduction = 6,
}

impl DbState {
    /// Every state, by number.
    pub const ALL: [DbState; 7] = [
        DbState::StartingUp,
        DbState::ShutDown,
        DbState::ShutDownInRecovery,
        DbState::ShuttingDown,
        DbState::InCrashRecovery,
        DbState::InArchiveRecovery,
        DbState::InProduction,
    ];

    /// The state with this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }

    /// As `pg_controldata` prints it.
    pub fn name(self) -> &'static str {
        match self {
            DbState::StartingUp => "starting up",
            DbState::ShutDown => "shut down",
            DbState::ShutDownInRecovery => "shut down in recovery",
            DbState::ShuttingDown => "shutting down",
            DbState::InCrashRecovery => "in crash recovery",
            DbState::InArchiveRecovery => "in archive recovery",
            DbState::InProduction => "in production",
        }
    }
}

macro_rules! checkpoint_flags {
    ($( $(#[doc = $doc:literal])+ $name:ident = $bit:literal, $word:literal; )+) => {
        /// Kinds and causes of a checkpoint: bits that requests are merged by.
        pub mod checkpoint_flags {
            $( $(#[doc = $doc])+ pub const $name: u32 = 1 << $bit; )+
            /// Every bit with its word, in the order in which they are printed.
            pub const LIST: &[(u32, &str)] = &[$(($name, $word)),+];

            /// The words of the bits that are set, with blanks between.
            pub fn words(flags: u32) -> String {
                let set = LIST.iter().filter(|(bit, _)| flags & bit != 0);
                set.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
            }
        }
    };
}

checkpoint_flags! {
    /// The last one before a stop.
    SHUTDOWN = 0, "shutdown";
    /// The first one after a recovery.
    END_OF_RECOVERY = 1, "end-of-recovery";
    /// As fast as it goes, not paced.
    FAST = 2, "fast";
    /// Even if nothing has changed.
    FORCE = 3, "force";
    /// Somebody waits for it.
    WAIT = 4, "wait";
    /// Cause: `max_wal_size`.
    CAUSE_WAL = 8, "wal";
    /// Cause: `checkpoint_timeout`.
    CAUSE_TIME = 9, "time";
    /// Cause: `recovery_time_target`.
    CAUSE_RECOVERY_TARGET = 10, "recovery-target";
    /// Cause: a command.
    CAUSE_MANUAL = 11, "manual";
    /// Cause: a backup begins.
    CAUSE_BACKUP = 12, "backup";
    /// Cause: namespaces as a whole: one is to be in its file, or files of dropped ones are to go.
    CAUSE_NAMESPACE = 13, "namespace";
}

/// Bit of `protection`: torn pages are met by the double-write area.
pub const PROTECTION_DOUBLE_WRITE: u32 = 1;
/// Bit of `protection`: since the redo point pages may have been written without the double-write
/// area, before it came into use, or their copies cannot be read.
pub const PROTECTION_BYPASSED: u32 = 2;

/// One relation file in `pg_control`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// The file's number.
    pub file: FileNo,
    /// Number of the last checkpoint that covered the file, as in its meta page.
    pub checkpoint_count: u64,
    /// The file is complete up to here, as in its meta page.
    pub scn: Lsn,
    /// What may be done with its namespace, if the file is closed for that.
    pub access: Access,
    /// The LSN up to which the file is complete, after a clean stop, or since it is closed; zero while
    /// in use.
    pub stop_scn: Lsn,
    /// Number of keys at [`ControlFile::keys_lsn`].
    pub key_count: u64,
    /// Blocks that the file has on disk.
    pub blocks: u32,
}

/// One file that was dropped and is still to be unlinked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingDrop {
    /// The file's number.
    pub file: FileNo,
    /// End LSN of the last record that touches it.
    pub last_lsn: Lsn,
}

/// The content of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Grows by one with each write of either slot.
    pub sequence: u64,
    /// When the slot was written, microseconds since 1970.
    pub written_us: u64,
    /// Random number of the data directory; in every WAL page and meta page.
    pub system_identifier: u64,
    /// What the data directory is doing.
    pub state: DbState,
    /// The timeline.
    pub timeline: Timeline,
    /// How many times the server has been started for writing.
    pub start_count: StartCount,
    /// Start count of the last record before the redo point.
    pub redo_predecessor_count: StartCount,
    /// Start count of the last record before the durable LSN.
    pub durable_predecessor_count: StartCount,
    /// Starts in a row that did not get to the end of recovery.
    pub unfinished_starts: u32,
    /// Redo point: where recovery begins to read.
    pub redo_lsn: Lsn,
    /// The log up to here was synced when the slot was written.
    pub durable_lsn: Lsn,
    /// Start LSN of the last checkpoint record.
    pub checkpoint_lsn: Lsn,
    /// Redo point before this one.
    pub previous_redo_lsn: Lsn,
    /// Start LSN of the checkpoint record before that.
    pub previous_checkpoint_lsn: Lsn,
    /// Number of the last advance of the redo point, or checkpoint of a single file. A heartbeat does
    /// not count if it leaves the redo point where it is: a file's header may be ahead by one.
    pub checkpoint_count: u64,
    /// When the last full checkpoint was complete, microseconds since 1970.
    pub checkpoint_us: u64,
    /// When the redo point last advanced without a full checkpoint, microseconds since 1970.
    pub incremental_us: u64,
    /// Kinds and causes of the last full checkpoint, see [`checkpoint_flags`].
    pub checkpoint_flags: u32,
    /// See [`PROTECTION_DOUBLE_WRITE`] and [`PROTECTION_BYPASSED`].
    pub protection: u32,
    /// First double-write batch whose pages' files are not known to be synced.
    pub first_unsynced_batch: BatchNo,
    /// The next relation file's number.
    pub next_file: FileNo,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Bytes of a page of the log.
    pub wal_page_bytes: u32,
    /// Bytes of a segment of the log.
    pub wal_segment_bytes: u32,
    /// Redo rate measured here, bytes of log per second; 0 is not known.
    pub redo_bytes_per_s: u64,
    /// Redo rate measured here, pages brought in per second; 0 is not known.
    pub redo_pages_per_s: u64,
    /// Estimate when the slot was written: how long recovery would take, milliseconds.
    pub estimated_recovery_ms: u64,
    /// How long the last recovery took, milliseconds.
    pub last_recovery_ms: u64,
    /// How long it had been expected to take, milliseconds.
    pub last_recovery_estimate_ms: u64,
    /// Start of a backup that was under way; zero is none.
    pub backup_start_lsn: Lsn,
    /// End of the backup that this directory was restored from; zero is none.
    pub backup_end_lsn: Lsn,
    /// Parameter `max_connections` of the last start for writing.
    pub max_connections: u32,
    /// Parameter `backends` of the last start for writing.
    pub backends: u32,
    /// The key counts of `files` hold what records say that end at or below this; zero stands for
    /// the redo point.
    pub keys_lsn: Lsn,
    /// What a start that recovers takes beside redo, measured here, microseconds; 0 is not known.
    pub recovery_fixed_us: u64,
    /// Bytes of log that `estimated_recovery_ms` was computed for.
    pub estimated_redo_bytes: u64,
    /// Pages to be brought in that it was computed for.
    pub estimated_redo_pages: u64,
    /// Every relation file, ascending by number.
    pub files: Vec<FileRow>,
    /// Files that were dropped and are still to be unlinked.
    pub pending_drops: Vec<PendingDrop>,
}

/// Why bytes are no valid slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nothing was ever written there.
    #[error("the slot is all zeros")]
    Zero,
    /// Shorter than the least slot, or than it says.
    #[error("only {have} bytes of {need}")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes of the slot.
        need: usize,
    },
    /// Not `pg_control`.
    #[error("magic number {0:016X} in place of {CONTROL_MAGIC:016X}")]
    Magic(u64),
    /// Another format.
    #[error("format {0}, and this program knows {CONTROL_FORMAT}")]
    Format(u32),
    /// The checksum fails.
    #[error("checksum: stored {stored:08X}, computed {computed:08X}")]
    Checksum {
        /// In the slot.
        stored: u32,
        /// Of what was read.
        computed: u32,
    },
    /// The checksum is right but the content contradicts itself.
    #[error("the content contradicts itself although its checksum is right: {0}")]
    Content(&'static str),
    /// The disk does not give its bytes; the system's number of the error.
    #[error("it cannot be read: {}", std::io::Error::from_raw_os_error(*.0))]
    Unreadable(i32),
    /// The data directory was made by a program with other sizes.
    #[error("{what} is {found} in the data directory, and {expected} in this program")]
    Incompatible {
        /// Which size.
        what: &'static str,
        /// What the slot says.
        found: u32,
        /// What this program has.
        expected: u32,
    },
}

/// The outcome of reading both slots.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The newest valid slot's content.
    pub control: ControlFile,
    /// Which slot that is, 0 or 1.
    pub slot: usize,
    /// The other slot: its content, or why it is not valid.
    pub other: Result<ControlFile, ControlError>,
}

/// Takes the newest valid one of the two slots; both errors if neither is valid.
pub fn choose(slots: [Result<ControlFile, ControlError>; 2]) -> Result<Chosen, [ControlError; 2]> {
    match slots.into() {
        (Ok(first), Ok(second)) if second.sequence > first.sequence => Ok(Chosen {
            control: second,
            slot: 1,
            other: Ok(first),
        }),
        (Ok(first), other) => Ok(Chosen {
            control: first,
            slot: 0,
            other,
        }),
        (Err(other), Ok(second)) => Ok(Chosen {
            control: second,
            slot: 1,
            other: Err(other),
        }),
        (Err(first), Err(second)) => Err([first, second]),
    }
}

impl ControlFile {
    /// How many bytes [`ControlFile::encode`] gives.
    pub fn encoded_bytes(&self) -> usize {
        ControlBytes::BYTES
            + self.files.len() * FileRowBytes::BYTES
            + self.pending_drops.len() * DropRowBytes::BYTES
    }

    /// The bytes to write at the start of a slot, checksum included.
    ///
    /// There may be at most `FILES_MAX` rows of each sort.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.files.len() <= FILES_MAX && self.pending_drops.len() <= FILES_MAX);
        let used_bytes = self.encoded_bytes();
        let mut out = Vec::with_capacity(used_bytes);
        out.extend_from_slice(self.fixed(used_bytes).as_bytes());
        for row in &self.files {
            out.extend_from_slice(row.to_bytes().as_bytes());
        }
        for row in &self.pending_drops {
            let bytes = DropRowBytes {
                file: U32::new(row.file.get()),
                reserved: U32::new(0),
                last_lsn: U64::new(row.last_lsn.get()),
            };
            out.extend_from_slice(bytes.as_bytes());
        }
        let crc = crc32c::crc32c(&out);
        let field = std::mem::offset_of!(ControlBytes, crc);
        out[field..field + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn fixed(&self, used_bytes: usize) -> ControlBytes {
        ControlBytes {
            magic: U64::new(CONTROL_MAGIC),
            format: U32::new(CONTROL_FORMAT),
            used_bytes: U32::new(used_bytes as u32),
            crc: U32::new(0),
            reserved0: U32::new(0),
            sequence: U64::new(self.sequence),
            written_us: U64::new(self.written_us),
            system_identifier: U64::new(self.system_identifier),
            state: U32::new(self.state as u32),
            timeline: U32::new(self.timeline.get()),
            start_count: U32::new(self.start_count.get()),
            redo_predecessor_count: U32::new(self.redo_predecessor_count.get()),
            durable_predecessor_count: U32::new(self.durable_predecessor_count.get()),
            unfinished_starts: U32::new(self.unfinished_starts),
            redo_lsn: U64::new(self.redo_lsn.get()),
            durable_lsn: U64::new(self.durable_lsn.get()),
            checkpoint_lsn: U64::new(self.checkpoint_lsn.get()),
            previous_redo_lsn: U64::new(self.previous_redo_lsn.get()),
            previous_checkpoint_lsn: U64::new(self.previous_checkpoint_lsn.get()),
            checkpoint_count: U64::new(self.checkpoint_count),
            checkpoint_us: U64::new(self.checkpoint_us),
            incremental_us: U64::new(self.incremental_us),
            checkpoint_flags: U32::new(self.checkpoint_flags),
            protection: U32::new(self.protection),
            first_unsynced_batch: U64::new(self.first_unsynced_batch.get()),
            next_file: U32::new(self.next_file.get()),
            page_bytes: U32::new(self.page_bytes),
            wal_page_bytes: U32::new(self.wal_page_bytes),
            wal_segment_bytes: U32::new(self.wal_segment_bytes),
            redo_bytes_per_s: U64::new(self.redo_bytes_per_s),
            redo_pages_per_s: U64::new(self.redo_pages_per_s),
            estimated_recovery_ms: U64::new(self.estimated_recovery_ms),
            last_recovery_ms: U64::new(self.last_recovery_ms),
            last_recovery_estimate_ms: U64::new(self.last_recovery_estimate_ms),
            backup_start_lsn: U64::new(self.backup_start_lsn.get()),
            backup_end_lsn: U64::new(self.backup_end_lsn.get()),
            max_connections: U32::new(self.max_connections),
            backends: U32::new(self.backends),
            file_rows: U32::new(self.files.len() as u32),
            drop_rows: U32::new(self.pending_drops.len() as u32),
            keys_lsn: U64::new(self.keys_lsn.get()),
            recovery_fixed_us: U64::new(self.recovery_fixed_us),
            estimated_redo_bytes: U64::new(self.estimated_redo_bytes),
            estimated_redo_pages: U64::new(self.estimated_redo_pages),
            reserved: [0; 48],
        }
    }

    /// Reads and checks a slot; `bytes` may go on behind it.
    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        let (fixed, used) = check_envelope(bytes)?;
        let state = DbState::from_number(fixed.state.get())
            .ok_or(ControlError::Content("the state is none"))?;
        let rows = used.get(ControlBytes::BYTES..).unwrap_or(&[]);
        let file_bytes = (fixed.file_rows.get() as usize).checked_mul(FileRowBytes::BYTES);
        let (file_rows, drop_rows) = file_bytes
            .and_then(|bytes| rows.split_at_checked(bytes))
            .ok_or(ControlError::Content(
                "there are fewer file rows than it says",
            ))?;
        let drop_bytes = (fixed.drop_rows.get() as usize).checked_mul(DropRowBytes::BYTES);
        if drop_bytes != Some(drop_rows.len()) {
            return Err(ControlError::Content("rows and used length do not agree"));
        }
        let files = file_rows
            .as_chunks()
            .0
            .iter()
            .map(FileRow::from_bytes)
            .collect::<Option<_>>()
            .ok_or(ControlError::Content("a file has an access that is none"))?;
        let pending_drops = drop_rows
            .as_chunks()
            .0
            .iter()
            .map(PendingDrop::from_bytes)
            .collect();
        let control = Self::from_fixed(&fixed, state, files, pending_drops);
        control.check_numbers().map_err(ControlError::Content)?;
        Ok(control)
    }

    /// Every LSN in it.
    pub fn lsns(&self) -> impl Iterator<Item = Lsn> + '_ {
        let own = [
            self.redo_lsn,
            self.durable_lsn,
            self.checkpoint_lsn,
            self.previous_redo_lsn,
            self.previous_checkpoint_lsn,
            self.backup_start_lsn,
            self.backup_end_lsn,
            self.keys_lsn,
        ];
        let of_files = self.files.iter().flat_map(|row| [row.scn, row.stop_scn]);
        let of_drops = self.pending_drops.iter().map(|drop| drop.last_lsn);
        own.into_iter().chain(of_files).chain(of_drops)
    }

    /// That every number is one a server can come to, so that whoever reads on can add one to it,
    /// and has room for all files. Says what is not.
    fn check_numbers(&self) -> Result<(), &'static str> {
        let ensure = |holds: bool, what| if holds { Ok(()) } else { Err(what) };
        ensure(
            self.lsns().all(|lsn| lsn.get() <= LOG_BYTES_MAX),
            "an LSN is beyond every log",
        )?;
        let counts = [
            self.start_count.get(),
            self.unfinished_starts,
            self.next_file.get(),
        ];
        ensure(
            counts.iter().all(|count| *count <= GROWING_U32_MAX),
            "a count of starts or files is beyond every server's",
        )?;
        let of_files = |row: &FileRow| row.checkpoint_count.max(row.key_count);
        let of_files = self.files.iter().map(of_files).max().unwrap_or(0);
        let counts = [
            self.sequence,
            self.checkpoint_count,
            self.first_unsynced_batch.get(),
            of_files,
        ];
        ensure(
            counts.iter().all(|count| *count <= GROWING_U64_MAX),
            "a count is beyond every server's",
        )?;
        let drops = &self.pending_drops;
        ensure(
            self.files.len() <= FILES_MAX && drops.len() <= FILES_MAX,
            "there are more files than can be",
        )?;
        let is_number = |file: FileNo| (1..=GROWING_U32_MAX).contains(&file.get());
        ensure(
            self.files.is_sorted_by(|one, next| one.file < next.file)
                && self.files.iter().all(|row| is_number(row.file))
                && drops.iter().all(|drop| is_number(drop.file)),
            "the numbers of files are none, or not in order",
        )
    }

    fn from_fixed(
        fixed: &ControlBytes,
        state: DbState,
        files: Vec<FileRow>,
        pending_drops: Vec<PendingDrop>,
    ) -> Self {
        Self {
            sequence: fixed.sequence.get(),
            written_us: fixed.written_us.get(),
            system_identifier: fixed.system_identifier.get(),
            state,
            timeline: Timeline::new(fixed.timeline.get()),
            start_count: StartCount::new(fixed.start_count.get()),
            redo_predecessor_count: StartCount::new(fixed.redo_predecessor_count.get()),
            durable_predecessor_count: StartCount::new(fixed.durable_predecessor_count.get()),
            unfinished_starts: fixed.unfinished_starts.get(),
            redo_lsn: Lsn::new(fixed.redo_lsn.get()),
            durable_lsn: Lsn::new(fixed.durable_lsn.get()),
            checkpoint_lsn: Lsn::new(fixed.checkpoint_lsn.get()),
            previous_redo_lsn: Lsn::new(fixed.previous_redo_lsn.get()),
            previous_checkpoint_lsn: Lsn::new(fixed.previous_checkpoint_lsn.get()),
            checkpoint_count: fixed.checkpoint_count.get(),
            checkpoint_us: fixed.checkpoint_us.get(),
            incremental_us: fixed.incremental_us.get(),
            checkpoint_flags: fixed.checkpoint_flags.get(),
            protection: fixed.protection.get(),
            first_unsynced_batch: BatchNo::new(fixed.first_unsynced_batch.get()),
            next_file: FileNo::new(fixed.next_file.get()),
            page_bytes: fixed.page_bytes.get(),
            wal_page_bytes: fixed.wal_page_bytes.get(),
            wal_segment_bytes: fixed.wal_segment_bytes.get(),
            redo_bytes_per_s: fixed.redo_bytes_per_s.get(),
            redo_pages_per_s: fixed.redo_pages_per_s.get(),
            estimated_recovery_ms: fixed.estimated_recovery_ms.get(),
            last_recovery_ms: fixed.last_recovery_ms.get(),
            last_recovery_estimate_ms: fixed.last_recovery_estimate_ms.get(),
            backup_start_lsn: Lsn::new(fixed.backup_start_lsn.get()),
            backup_end_lsn: Lsn::new(fixed.backup_end_lsn.get()),
            max_connections: fixed.max_connections.get(),
            backends: fixed.backends.get(),
            keys_lsn: Lsn::new(fixed.keys_lsn.get()),
            recovery_fixed_us: fixed.recovery_fixed_us.get(),
            estimated_redo_bytes: fixed.estimated_redo_bytes.get(),
            estimated_redo_pages: fixed.estimated_redo_pages.get(),
            files,
            pending_drops,
        }
    }

    /// The content for a data directory that is just being made.
    pub fn initial(system_identifier: u64, wal_segment_bytes: u32, first_lsn: Lsn) -> Self {
        let mut fixed = ControlBytes::zeroed();
        fixed.system_identifier.set(system_identifier);
        fixed.timeline.set(1);
        fixed.redo_lsn.set(first_lsn.get());
        fixed.durable_lsn.set(first_lsn.get());
        fixed.next_file.set(1);
        fixed.page_bytes.set(PAGE_BYTES as u32);
        fixed.wal_page_bytes.set(WAL_PAGE_BYTES as u32);
        fixed.wal_segment_bytes.set(wal_segment_bytes);
        Self::from_fixed(&fixed, DbState::StartingUp, Vec::new(), Vec::new())
    }

    /// Whether `file` is closed because its namespace is offline: it may be away.
    pub fn is_offline(&self, file: FileNo) -> bool {
        let row = self.files.iter().find(|row| row.file == file);
        row.is_some_and(|row| row.access.is_offline())
    }

    /// For which access `file` is closed; none if it is open, or not named.
    pub fn closed_for(&self, file: FileNo) -> Option<Access> {
        let mut closed = self.files.iter().filter(|row| row.is_closed());
        closed.find(|row| row.file == file).map(|row| row.access)
    }

    /// Whether pages are written by way of the double-write area, from the first unsynced batch on.
    pub fn is_double_written(&self) -> bool {
        self.protection & PROTECTION_DOUBLE_WRITE != 0
    }

    /// Whether every page that was written since the redo point, and may not be on disk, has its
    /// copy in the double-write area.
    pub fn has_all_copies(&self) -> bool {
        self.protection == PROTECTION_DOUBLE_WRITE
    }

    /// Whether this program can work on the data directory: its fixed sizes are the same.
    pub fn compatible(&self) -> Result<(), ControlError> {
        let sizes = [
            ("the page size", self.page_bytes, PAGE_BYTES as u32),
            (
                "the page size of the log",
                self.wal_page_bytes,
                WAL_PAGE_BYTES as u32,
            ),
        ];
        for (what, found, expected) in sizes {
            if found != expected {
                return Err(ControlError::Incompatible {
                    what,
                    found,
                    expected,
                });
            }
        }
        let segment = u64::from(self.wal_segment_bytes);
        if !segment.is_power_of_two() || segment < 2 * WAL_PAGE_BYTES as u64 {
            return Err(ControlError::Content(
                "the segment size is no power of two pages",
            ));
        }
        if segment > u64::from(SEGMENT_BYTES_MAX) {
            return Err(ControlError::Content("the segment size is above 1 GiB"));
        }
        Ok(())
    }
}

/// The fixed part and the used bytes of a slot whose checksum is right.
/// How many bytes of a slot mean something, as its first ones say, right or wrong; 0 if they are too
/// few to say.
pub fn used_bytes(head: &[u8]) -> usize {
    let fixed = ControlBytes::read_from_prefix(head);
    fixed.map_or(0, |(fixed, _)| fixed.used_bytes.get() as usize)
}

fn check_envelope(bytes: &[u8]) -> Result<(ControlBytes, &[u8]), ControlError> {
    let short = |need| ControlError::Short {
        have: bytes.len(),
        need,
    };
    let (fixed, _) =
        ControlBytes::read_from_prefix(bytes).map_err(|_| short(ControlBytes::BYTES))?;
    if fixed.as_bytes().iter().all(|byte| *byte == 0) {
        return Err(ControlError::Zero);
    }
    if fixed.magic.get() != CONTROL_MAGIC {
        return Err(ControlError::Magic(fixed.magic.get()));
    }
    if fixed.format.get() != CONTROL_FORMAT {
        return Err(ControlError::Format(fixed.format.get()));
    }
    let used_bytes = fixed.used_bytes.get() as usize;
    let used = bytes.get(..used_bytes).ok_or(short(used_bytes))?;
    let behind = used
        .get(ControlBytes::BYTES..)
        .ok_or(short(ControlBytes::BYTES))?;
    let stored = fixed.crc.get();
    let plain = ControlBytes {
        crc: U32::new(0),
        ..fixed
    };
    let computed = crc32c::crc32c_append(crc32c::crc32c(plain.as_bytes()), behind);
    if stored != computed {
        return Err(ControlError::Checksum { stored, computed });
    }
    Ok((fixed, used))
}

impl FileRow {
    /// Whether the file is complete on disk and not changed, whether the server runs or not.
    pub fn is_closed(&self) -> bool {
        !self.access.is_writable()
    }

    /// The stop SCN that the file's header is to have: a clean stop does not write it there.
    pub fn header_stop_scn(&self) -> Lsn {
        if self.is_closed() {
            self.stop_scn
        } else {
            Lsn::ZERO
        }
    }

    fn to_bytes(self) -> FileRowBytes {
        FileRowBytes {
            file: U32::new(self.file.get()),
            access: U32::new(self.access.bits()),
            checkpoint_count: U64::new(self.checkpoint_count),
            scn: U64::new(self.scn.get()),
            stop_scn: U64::new(self.stop_scn.get()),
            key_count: U64::new(self.key_count),
            blocks: U32::new(self.blocks),
            reserved: U32::new(0),
        }
    }

    fn from_bytes(bytes: &[u8; FileRowBytes::BYTES]) -> Option<Self> {
        let row: &FileRowBytes = zerocopy::transmute_ref!(bytes);
        Some(Self {
            file: FileNo::new(row.file.get()),
            access: Access::from_bits(row.access.get())?,
            checkpoint_count: row.checkpoint_count.get(),
            scn: Lsn::new(row.scn.get()),
            stop_scn: Lsn::new(row.stop_scn.get()),
            key_count: row.key_count.get(),
            blocks: row.blocks.get(),
        })
    }
}

impl PendingDrop {
    fn from_bytes(bytes: &[u8; DropRowBytes::BYTES]) -> Self {
        let row: &DropRowBytes = zerocopy::transmute_ref!(bytes);
        Self {
            file: FileNo::new(row.file.get()),
            last_lsn: Lsn::new(row.last_lsn.get()),
        }
    }
}
