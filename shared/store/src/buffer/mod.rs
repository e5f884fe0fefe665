//! Shared buffers: pages of relation files in memory.
//!
//! The rules are numbered B1 to B12 in `README.md` beside this file, and cited by number.
//! [`Pool::fetch`] is the door for whoever reads and changes pages; `clean` is the checkpointer's
//! side.

mod clean;
mod clock;
mod desc;
mod pool;
mod survey;
mod table;
#[cfg(test)]
mod tests;

pub use clean::{Copied, CopyOutcome, DirtyFrame, Resident};
pub use pool::{
    PageRead, PageReadError, PageSource, PageWrite, Pin, PinnedRead, PinnedWrite, Pool, PoolRegions,
};
pub use survey::Survey;
