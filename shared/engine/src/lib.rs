//! The engine: trees of keys with versions, and transactions that are one log record each.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`api`] | the only door for a backend: reads, ranges, writes, FLUSHDB |
//! | `txn` | what a snapshot sees, programs under latches, the commit |
//! | `btree` | B-link trees: descents, splits, taking out leaves, free blocks; rules T1 to T7 |
//! | `expiry` | finding and removing keys whose time has come; a key at random |
//! | `overflow` | values that are too large for a leaf |
//! | [`namespace`] | the catalog, and what changes a namespace as a whole |
//! | [`init`] | making a data directory |
//! | [`apply`] | what a record does to a page, in redo as when it was made |
//! | [`verify`] | checking a whole relation file |
//! | `change` | the recipe of a logged change, as a type |
//! | `chores` | giving back room behind commits |
//!
//! Invariants of the crate:
//! - Nothing of a transaction touches a page before its commit; there is no undo.
//! - A page changes under its exclusive latch, by a record, or by pruning, which redo can repeat.
//! - The stamp of a version is the end LSN of its record.

pub mod api;
pub mod apply;
mod btree;
mod change;
mod chores;
pub mod error;
mod expiry;
pub mod init;
pub mod namespace;
mod overflow;
pub mod recovery;
mod txn;
pub mod verify;
mod work;

pub use api::{Engine, RangeCursor, Read, Value, View};
pub use btree::scan::Chunk;
pub use btree::sweep::Swept;
pub use error::{EngineError, ParkReason, Result};
pub use namespace::NamespaceInfo;
pub use rd_store::namespaces::NamespaceId;
pub use rd_store::snapshot::Snapshot;
pub use txn::access::{Access, ProgramError};
pub use txn::across::Runs;
pub use txn::transaction::{Isolation, Transaction};
pub use txn::visible::Meta;
pub use txn::watch::Watched;
pub use txn::write::{Committed, Program};
