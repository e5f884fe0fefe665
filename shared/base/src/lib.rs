//! Words and numbers that everything else is built from: identifiers with types of their own,
//! limits and the relations between them, process roles, and (in their modules) parameters,
//! configuration and log lines. No I/O beside reading configuration files, no shared memory.

pub mod ids;
pub mod limits;
pub mod role;

pub use ids::{BatchNo, BlockNo, FileNo, FrameNo, Lsn, PageTag, StartCount, Timeline};
pub use role::Role;
