//! The bytes on disk: pages, the write-ahead log, `pg_control`, the double-write area, the history.
//!
//! Nothing here reads a file, asks a clock or keeps state: every function takes bytes and gives
//! bytes, so that server, recovery, tools and tests share one understanding of each format.
//!
//! Rules of the room:
//! - **F1** Integers are little-endian. Fixed structs are made of byte arrays with accessors
//!   (`zerocopy::little_endian`), so they have alignment 1 and the same shape on every machine.
//! - **F2** The size of each fixed struct and the offset of each field are written down beside it
//!   and asserted at compile time; the tables in `docs/formats.md` are printed from them.
//! - **F3** Bytes that were read are hostile until checked: decoding never panics, and never takes
//!   more memory than a small multiple of its input.
//! - **F4** Reserved bytes are zero when written and ignored when read.
//! - **F5** Numbers of kinds and flags are append-only: one that was ever written is never reused.

mod layout;

pub mod access;
pub mod bitmap;
pub mod catalog;
pub mod control;
pub mod describe;
pub mod doublewrite;
pub mod held;
pub mod history;
pub mod meta;
pub mod node;
pub mod overflow;
pub mod page;
pub mod table;
pub mod wal_page;
pub mod wal_record;

pub use access::Access;
pub use layout::{Field, Table};
pub use node::{Bound, LeafEntry, NodeMut, NodeRef, OverflowStub, OwnedBound, Payload};
pub use page::{PageBytes, PageError, PageKind};
