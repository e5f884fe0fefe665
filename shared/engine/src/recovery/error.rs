//! Why a start cannot go on.

use crate::apply::ApplyError;
use crate::error::EngineError;
use rd_base::{Lsn, PageTag};
use rd_format::wal_record::RecordError;
use rd_store::buffer::PageReadError;
use rd_store::control_file::ControlFileError;
use rd_store::files::{GrowthError, TooManyFiles};
use rd_store::wal::WalError;
use rd_store::wal::read::LogDamage;
use rd_sys::Shortage;
use std::io;

/// What stops a start. Each names the file and the place, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Neither slot can be read, or nothing can.
    #[error("{0}")]
    Control(#[from] ControlFileError),
    /// The log cannot be read where it must be.
    #[error("{0}")]
    Log(#[from] LogDamage),
    /// A file of the log cannot be read, written or continued.
    #[error("{0}")]
    Wal(#[from] WalError),
    /// A file that `pg_control` names is not there.
    #[error(
        "relation file \"{path}\" is not there, but \"global/pg_control\" names it; restore the \
         data directory as a whole from one backup"
    )]
    FileMissing {
        /// Where it should be.
        path: String,
    },
    /// A file that is used is not in `pg_control`, and the log does not make it.
    #[error(
        "{whose} lies in relation file \"{path}\", which neither \"global/pg_control\" nor the \
         write-ahead log names: they are from another time; restore the data directory as a whole from \
         one backup"
    )]
    FileUnknown {
        /// What lies in it.
        whose: String,
        /// The file.
        path: String,
    },
    /// A file has lost its end, or a piece.
    #[error(
        "relation file \"{path}\" ends too soon: from its first piece on there are {found} blocks on \
         disk, and \"global/pg_control\" says {expected}; no crash does that: put the whole file \
         back, or restore the data directory as a whole from one backup"
    )]
    FileShort {
        /// Where the next block should be.
        path: String,
        /// Blocks that are there in a row.
        found: u32,
        /// Blocks that were synced before `pg_control` was written.
        expected: u32,
    },
    /// A file is foreign, or from another time: see [`rd_format::held`].
    #[error("{0}")]
    NotTheFile(String),
    /// A page cannot be read.
    #[error("{0}; look at it with rd_verify, or restore the data directory from a backup")]
    Page(PageReadError),
    /// The process, or the system, is short of something: no file is to blame.
    #[error("{what}: {shortage}")]
    Shortage {
        /// What could not be done, with which file.
        what: String,
        /// What there is too little of.
        shortage: Shortage,
    },
    /// A page is newer than the log.
    #[error(
        "{tag} has page LSN {page_lsn}, but the write-ahead log ends at {end}: log that was \
         acknowledged is missing; look at the log's end with rd_waldump"
    )]
    PageBeyondLog {
        /// The page.
        tag: PageTag,
        /// Its LSN.
        page_lsn: Lsn,
        /// The end of the log.
        end: Lsn,
    },
    /// A record cannot be applied.
    #[error("write-ahead log record at {lsn}: {error}; look at it with rd_waldump -s {lsn} -n 1")]
    Apply {
        /// Where the record starts.
        lsn: Lsn,
        /// What is wrong.
        error: ApplyError,
    },
    /// A record's bytes make no sense although its checksum is right.
    #[error("write-ahead log record at {lsn}: {error}; look at it with rd_waldump -s {lsn} -n 1")]
    Record {
        /// Where the record starts.
        lsn: Lsn,
        /// What is wrong.
        error: RecordError,
    },
    /// Redo did not come to the end of the log that was found before it.
    #[error(
        "the write-ahead log was found to end at {end}, and now it can be read up to {reached} only: \
         the rest was in the system's cache and never on disk, as a failed sync leaves it; the next \
         start takes the log as it is now, or says that the rest was acknowledged, and stops"
    )]
    LogReceded {
        /// Where the log was found to end.
        end: Lsn,
        /// The end of the last record that could be read again.
        reached: Lsn,
    },
    /// There is no room on disk to bring a file to the length that the log asks for.
    #[error("{0}; make room and start again")]
    Growth(GrowthError),
    /// The table of relation files is full.
    #[error("{0}")]
    TooManyFiles(#[from] TooManyFiles),
    /// The checkpoint at the end of recovery, which was to be awaited, failed too often.
    #[error(
        "the checkpoint at the end of recovery failed {failures} times in a row, as many as \
         checkpoint_failures_max allows: {reason}; mend that and start again, or have clients served \
         meanwhile by end_of_recovery_checkpoint = after_open"
    )]
    Checkpoint {
        /// How often.
        failures: u64,
        /// Why it failed last.
        reason: String,
    },
    /// The catalog cannot be read.
    #[error("the catalog of namespaces cannot be read: {0}")]
    Catalog(#[from] EngineError),
    /// The storage said so; its message names the file.
    #[error("{0}")]
    Storage(#[from] io::Error),
    /// The server was told to stop meanwhile.
    #[error("recovery was ended by a request to stop; the next start goes on with it")]
    Stopped,
}

impl RecoveryError {
    /// What there was too little of, if nothing else is wrong: another start may find more of it.
    pub fn shortage(&self) -> Option<Shortage> {
        match self {
            RecoveryError::Shortage { shortage, .. }
            | RecoveryError::Catalog(EngineError::Shortage { shortage, .. }) => Some(*shortage),
            RecoveryError::Storage(error)
            | RecoveryError::Wal(WalError::Io(error))
            | RecoveryError::Control(ControlFileError::Io(error)) => Shortage::of(error),
            _ => None,
        }
    }
}

impl From<PageReadError> for RecoveryError {
    fn from(error: PageReadError) -> Self {
        match error.shortage() {
            Some(shortage) => RecoveryError::Shortage {
                what: error.to_string(),
                shortage,
            },
            None => RecoveryError::Page(error),
        }
    }
}

impl From<GrowthError> for RecoveryError {
    fn from(error: GrowthError) -> Self {
        match Shortage::of(&error.error) {
            Some(shortage) => RecoveryError::Shortage {
                what: error.to_string(),
                shortage,
            },
            None => RecoveryError::Growth(error),
        }
    }
}
