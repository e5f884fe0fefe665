//! What a record says beside its blocks, by kind.

use super::view::is_file;
use super::{RecordError, RecordKind};
use crate::layout::on_disk;
use rd_base::{FileNo, Lsn, Timeline};
use zerocopy::little_endian::{I32, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

on_disk! {
    /// Record data of a commit: one for each file it wrote to whose number of keys changed.
    pub struct FileDeltaBytes: 8 {
        /// The relation file.
        0 file: U32,
        /// By how many keys it grew; negative if it shrank.
        4 key_delta: I32,
    }
}

on_disk! {
    /// Record data of file_create and file_drop.
    pub struct FileNumberBytes: 8 {
        /// The relation file.
        0 file: U32,
        /// Zero.
        4 reserved: U32,
    }
}

on_disk! {
    /// Record data of a checkpoint.
    pub struct CheckpointDataBytes: 32 {
        /// The new redo point.
        0 redo_lsn: U64,
        /// Number of the checkpoint, heartbeats counted.
        8 checkpoint_count: U64,
        /// Kinds and causes, as in `pg_control`.
        16 causes: U32,
        /// The timeline.
        20 timeline: U32,
        /// Zero.
        24 reserved: U64,
    }
}

on_disk! {
    /// Record data of end_of_recovery.
    pub struct EndOfRecoveryDataBytes: 24 {
        /// The timeline from here on.
        0 timeline: U32,
        /// The timeline up to here.
        4 previous_timeline: U32,
        /// The redo point that recovery began from.
        8 redo_lsn: U64,
        /// Zero.
        16 reserved: U64,
    }
}

/// By how many keys a commit made a file grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDelta {
    /// The relation file.
    pub file: FileNo,
    /// By how many keys it grew; negative if it shrank.
    pub key_delta: i32,
}

/// The file section of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDeltas<'a>(&'a [[u8; FileDeltaBytes::BYTES]]);

impl<'a> FileDeltas<'a> {
    /// One after another.
    pub fn iter(&self) -> impl Iterator<Item = FileDelta> + use<'a> {
        self.0.iter().map(|row| {
            let row: &FileDeltaBytes = zerocopy::transmute_ref!(row);
            FileDelta {
                file: FileNo::new(row.file.get()),
                key_delta: row.key_delta.get(),
            }
        })
    }
}

/// What a checkpoint record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointData {
    /// The new redo point.
    pub redo_lsn: Lsn,
    /// Number of the checkpoint, heartbeats counted.
    pub checkpoint_count: u64,
    /// Kinds and causes, as in `pg_control`.
    pub causes: u32,
    /// The timeline.
    pub timeline: Timeline,
}

/// What an end-of-recovery record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfRecoveryData {
    /// The timeline from here on.
    pub timeline: Timeline,
    /// The timeline up to here.
    pub previous_timeline: Timeline,
    /// The redo point that recovery began from.
    pub redo_lsn: Lsn,
}

/// What a record says beside its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordData<'a> {
    /// Of a commit.
    Commit(FileDeltas<'a>),
    /// Of a checkpoint.
    Checkpoint(CheckpointData),
    /// Of file_create and file_drop.
    File(FileNo),
    /// Of end_of_recovery.
    EndOfRecovery(EndOfRecoveryData),
    /// Of the other kinds.
    Nothing,
}

impl<'a> RecordData<'a> {
    /// Decodes the record data of a record of `kind`, which begin at byte `at` of the record.
    pub(super) fn decode(
        kind: RecordKind,
        bytes: &'a [u8],
        at: usize,
    ) -> Result<Self, RecordError> {
        let wrong = |_| RecordError::Body {
            what: "the record data have the wrong length",
            at,
        };
        Ok(match kind {
            RecordKind::Commit => {
                let (rows, rest) = bytes.as_chunks();
                if !rest.is_empty() {
                    return Err(wrong(()));
                }
                RecordData::Commit(FileDeltas(rows))
            }
            RecordKind::Checkpoint => {
                let data = CheckpointDataBytes::read_from_bytes(bytes).map_err(|_| wrong(()))?;
                RecordData::Checkpoint(CheckpointData {
                    redo_lsn: Lsn::new(data.redo_lsn.get()),
                    checkpoint_count: data.checkpoint_count.get(),
                    causes: data.causes.get(),
                    timeline: Timeline::new(data.timeline.get()),
                })
            }
            RecordKind::FileCreate | RecordKind::FileDrop => {
                let data = FileNumberBytes::read_from_bytes(bytes).map_err(|_| wrong(()))?;
                if !is_file(data.file.get()) {
                    let what = "the record data name no file";
                    return Err(RecordError::Body { what, at });
                }
                RecordData::File(FileNo::new(data.file.get()))
            }
            RecordKind::EndOfRecovery => {
                let data = EndOfRecoveryDataBytes::read_from_bytes(bytes).map_err(|_| wrong(()))?;
                RecordData::EndOfRecovery(EndOfRecoveryData {
                    timeline: Timeline::new(data.timeline.get()),
                    previous_timeline: Timeline::new(data.previous_timeline.get()),
                    redo_lsn: Lsn::new(data.redo_lsn.get()),
                })
            }
            RecordKind::Split
            | RecordKind::ParentInsert
            | RecordKind::RootSplit
            | RecordKind::FreeVersions
            | RecordKind::NewBitmap
            | RecordKind::LeafGone
            | RecordKind::Noop => RecordData::Nothing,
        })
    }
}

impl FileDelta {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let row = FileDeltaBytes {
            file: U32::new(self.file.get()),
            key_delta: I32::new(self.key_delta),
        };
        out.extend_from_slice(row.as_bytes());
    }
}

impl CheckpointData {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let data = CheckpointDataBytes {
            redo_lsn: U64::new(self.redo_lsn.get()),
            checkpoint_count: U64::new(self.checkpoint_count),
            causes: U32::new(self.causes),
            timeline: U32::new(self.timeline.get()),
            reserved: U64::new(0),
        };
        out.extend_from_slice(data.as_bytes());
    }
}

impl EndOfRecoveryData {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let data = EndOfRecoveryDataBytes {
            timeline: U32::new(self.timeline.get()),
            previous_timeline: U32::new(self.previous_timeline.get()),
            redo_lsn: U64::new(self.redo_lsn.get()),
            reserved: U64::new(0),
        };
        out.extend_from_slice(data.as_bytes());
    }
}

pub(super) fn encode_file(file: FileNo, out: &mut Vec<u8>) {
    let data = FileNumberBytes {
        file: U32::new(file.get()),
        reserved: U32::new(0),
    };
    out.extend_from_slice(data.as_bytes());
}
