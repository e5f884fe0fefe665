//! What the processes share and what lies on disk: the write-ahead log, buffers, relation files,
//! `pg_control`, checkpoints asked for and done, snapshots. Below the trees, above the bytes.
//!
//! [`shared::Shared`] is the one list of what is in shared memory; [`ctx::Store`] is what one
//! process holds of it, and the door for everything above.

pub mod advice;
pub mod brake;
pub mod buffer;
pub mod checkpoint;
pub mod clients;
pub mod control_file;
pub mod ctx;
pub mod cursors;
pub mod doublewrite;
mod epochs;
pub mod expiry;
pub mod files;
pub mod history;
pub mod namespaces;
pub mod procs;
pub mod recovery_time;
pub mod relation;
#[cfg(all(test, feature = "loom"))]
mod reorderings;
pub mod scrub;
pub mod shared;
pub mod snapshot;
pub mod stats;
pub mod wal;

pub use ctx::{ChildContext, STRAY_STOP, Store};
pub use procs::{Procs, SlotNo};
pub use shared::{Shared, Sizes};
pub use snapshot::{Obstacle, Points, Published, Snapshot, Snapshots, TooManySnapshots};
pub use stats::Stats;
