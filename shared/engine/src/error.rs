//! What can go wrong in the engine, and what the caller is to do about it.

use rd_base::error::{Class, Classified};
use rd_base::limits::SNAPSHOTS_PER_PROCESS;
use rd_base::{FileNo, Lsn, PageTag};
use rd_store::TooManySnapshots;
use rd_store::buffer::PageReadError;
use rd_store::files::{GrowthError, TooManyFiles};
use rd_store::wal::{NoCredit, SegmentsBlocked};
use rd_sys::Shortage;
use std::io::ErrorKind;

/// What an operation waits for. Nothing of it has happened; it is to be run again when the event of
/// its process fires (the process being marked as parked).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkReason {
    /// Room in the ring of the log.
    WalRing,
    /// A prepared segment of the log.
    WalSegments,
    /// A relation file that is being made longer.
    FileGrowth(FileNo),
    /// A relation file that is being made.
    FileCreation(FileNo),
    /// Pages from the budget that large commits share.
    Pages,
    /// A namespace that operations have alone as long as they run.
    Namespace,
    /// This LSN to be durable: the wait is as for a reply that depends on it.
    Durable(Lsn),
}

/// Why an operation of the engine did not happen.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Not now: run it again when the process's event fires.
    #[error("the operation waits for {0:?}")]
    Park(ParkReason),
    /// A key that no leaf takes.
    #[error(
        "a key of {bytes} bytes is longer than a key can be, {limit} bytes; no parameter changes that"
    )]
    KeyTooLong {
        /// Its length.
        bytes: usize,
        /// The greatest length.
        limit: usize,
    },
    /// A value above the limit.
    #[error("a value of {bytes} bytes is longer than max_value_size, {limit} bytes")]
    ValueTooLarge {
        /// Its length.
        bytes: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A transaction above the limit.
    #[error("a transaction of {bytes} bytes is larger than {parameter}, {limit} bytes")]
    TransactionTooLarge {
        /// What it would write.
        bytes: u64,
        /// The limit in force.
        limit: u64,
        /// The parameter that would help.
        parameter: &'static str,
    },
    /// A transaction that changes more pages than one record of the log can name.
    #[error(
        "a transaction that changes {pages} pages is too large for one record of the log, which \
         names {limit} at most; no parameter changes that"
    )]
    TooManyPages {
        /// Pages that it would change.
        pages: usize,
        /// The greatest number.
        limit: usize,
    },
    /// There is no room for this, and there will be none until somebody makes some.
    #[error("the disk is full: {what}")]
    DiskFull {
        /// What could not grow.
        what: String,
    },
    /// A file of the server could not be made or made longer, and it is not for want of room.
    #[error("{what}")]
    CannotGrow {
        /// Which, and what the system said.
        what: String,
    },
    /// The process, or the system, is short of something for a while. Nothing is damaged.
    #[error("{what}: {shortage}")]
    Shortage {
        /// What could not be done, with which file.
        what: String,
        /// What there is too little of.
        shortage: Shortage,
    },
    /// Checkpoints have failed so often that no more log may be written.
    #[error(
        "the server is read-only: checkpoints fail again and again; the server log says why, and \
         writes go on after the next one that is complete"
    )]
    ReadOnly,
    /// The namespace is read only.
    #[error("namespace \"{0}\" is read only; NAMESPACE READWRITE {0} makes it writable")]
    NamespaceReadOnly(String),
    /// The namespace is offline.
    #[error("namespace \"{0}\" is offline; NAMESPACE ONLINE {0} brings it back")]
    NamespaceOffline(String),
    /// Somebody else is changing whether the namespace can be read and written.
    #[error("namespace \"{0}\" is being made read only, writable, offline or online; try again")]
    NamespaceChanging(String),
    /// No such namespace, or none any more.
    #[error("there is no such namespace")]
    NoNamespace,
    /// There is one of that name already.
    #[error("there is a namespace '{0}' already")]
    NamespaceExists(String),
    /// A name that no namespace can have.
    #[error(
        "'{0}' is no name for a namespace: it takes 1 to 64 letters, digits, '_', '-', '.' and \
         ':', of which the first is a letter or '_'; 'db' with a number is a database of SELECT"
    )]
    BadNamespaceName(String),
    /// A database that SELECT names cannot go, nor have another name.
    #[error(
        "'{0}' is a database that SELECT names: it can be emptied and swapped, but not created, \
         dropped or renamed"
    )]
    DatabaseOfSelect(String),
    /// There are as many namespaces as there may be.
    #[error("there are as many namespaces as max_namespaces allows, {limit}")]
    TooManyNamespaces {
        /// The limit in force.
        limit: u64,
    },
    /// Those that were dropped lately take up all places.
    #[error(
        "{limit} namespaces are there or were dropped, and transactions that began before that \
         may still read them; try again when these have ended"
    )]
    NamespacesStillRead {
        /// Places that there are.
        limit: usize,
    },
    /// There are as many relation files as there can be.
    #[error("{0}")]
    TooManyFiles(#[from] TooManyFiles),
    /// The snapshot is older than the last few changes of the namespace as a whole.
    #[error("the namespace was emptied or replaced since the snapshot was taken")]
    Replaced,
    /// Somebody else has changed what the transaction relies on. It is over, nothing of it has
    /// happened, and it may be run again.
    #[error("{what} was changed since this transaction began; nothing was changed, run it again")]
    Conflict {
        /// The key, or the namespace.
        what: String,
        /// The stamp of the change.
        stamp: Lsn,
    },
    /// A write in a transaction that was begun READ ONLY.
    #[error("this transaction is READ ONLY")]
    ReadOnlyTransaction,
    /// Something that cannot be part of a transaction.
    #[error("{0} cannot be done within a transaction")]
    NotInTransaction(&'static str),
    /// The process holds as many snapshots as it can.
    #[error(
        "the backend holds {limit} snapshots for open transactions and watched keys, as many as it \
         can; end some of them, or raise backends"
    )]
    TooManySnapshots {
        /// How many that is.
        limit: usize,
    },
    /// A page could not be brought into memory.
    #[error("{0}")]
    Page(PageReadError),
    /// Pages that are whole contradict each other.
    #[error("{tag} does not go with the rest of its tree: {what}")]
    Tree {
        /// The page.
        tag: PageTag,
        /// What is wrong.
        what: String,
    },
}

/// The parameter that limits the bytes of a transaction.
pub const MAX_TRANSACTION_SIZE: &str = "max_transaction_size";
/// What limits them beside it; it is no parameter.
pub(crate) const GREATEST_RECORD: &str = "the greatest record of the log";
/// A key in a message is shown up to so many bytes.
const KEY_SHOWN_BYTES: usize = 100;

impl EngineError {
    /// For want of memory for `bytes` of something.
    pub fn no_memory(bytes: usize, of: &str) -> EngineError {
        EngineError::Shortage {
            what: format!("could not make room for {bytes} bytes of {of}"),
            shortage: Shortage::Memory,
        }
    }

    /// Whether it says that what one command asked for cannot be, as its own argument is too long. All
    /// else says that the server cannot do it, or not now.
    pub fn is_of_command(&self) -> bool {
        matches!(
            self,
            EngineError::KeyTooLong { .. } | EngineError::ValueTooLarge { .. }
        )
    }

    /// Whether it shows what was found: which namespaces there are, what may be done with one, that a key
    /// is there, or how long its value is. That may be from a commit which a crash can take back yet.
    pub fn shows_what_was_found(&self) -> bool {
        matches!(
            self,
            EngineError::KeyTooLong { .. }
                | EngineError::ValueTooLarge { .. }
                | EngineError::TransactionTooLarge { .. }
                | EngineError::TooManyPages { .. }
                | EngineError::NamespaceReadOnly(_)
                | EngineError::NamespaceOffline(_)
                | EngineError::NoNamespace
                | EngineError::NamespaceExists(_)
                | EngineError::TooManyNamespaces { .. }
        )
    }

    /// The conflict over a key, which has a version stamped `stamp` now.
    pub(crate) fn conflict(key: &[u8], stamp: Lsn) -> EngineError {
        let shown = &key[..key.len().min(KEY_SHOWN_BYTES)];
        let more = if shown.len() < key.len() { "..." } else { "" };
        let what = format!("key \"{}{more}\"", shown.escape_ascii());
        EngineError::Conflict { what, stamp }
    }

    /// The conflict over a namespace as a whole, which is another one since `stamp`.
    pub(crate) fn namespace_conflict(stamp: Lsn) -> EngineError {
        let what = "the database as a whole".to_owned();
        EngineError::Conflict { what, stamp }
    }
}

impl From<PageReadError> for EngineError {
    fn from(error: PageReadError) -> Self {
        match error.shortage() {
            Some(shortage) => EngineError::Shortage {
                what: error.to_string(),
                shortage,
            },
            None => EngineError::Page(error),
        }
    }
}

impl From<GrowthError> for EngineError {
    fn from(error: GrowthError) -> Self {
        let what = error.to_string();
        if let Some(shortage) = Shortage::of(&error.error) {
            return EngineError::Shortage { what, shortage };
        }
        match error.error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => EngineError::DiskFull { what },
            _ => EngineError::CannotGrow { what },
        }
    }
}

impl From<SegmentsBlocked> for EngineError {
    fn from(blocked: SegmentsBlocked) -> Self {
        let what = blocked.to_string();
        match blocked {
            SegmentsBlocked::DiskFull | SegmentsBlocked::Quota => EngineError::DiskFull { what },
            SegmentsBlocked::Other => EngineError::CannotGrow { what },
            SegmentsBlocked::Short(shortage) => EngineError::Shortage { what, shortage },
        }
    }
}

impl Classified for EngineError {
    fn class(&self) -> Class {
        // What a tree says about itself on one path says nothing of what is in memory elsewhere.
        Class::Reply
    }
}

impl From<NoCredit> for EngineError {
    fn from(reason: NoCredit) -> Self {
        EngineError::Park(match reason {
            NoCredit::Ring => ParkReason::WalRing,
            NoCredit::Segments => ParkReason::WalSegments,
        })
    }
}

impl From<TooManySnapshots> for EngineError {
    fn from(_: TooManySnapshots) -> Self {
        EngineError::TooManySnapshots {
            limit: SNAPSHOTS_PER_PROCESS,
        }
    }
}

/// Shorthand for results of the engine.
pub type Result<T> = std::result::Result<T, EngineError>;
