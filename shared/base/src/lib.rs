//! Words and numbers that everything else is built from: identifiers with types of their own,
//! limits and the relations between them, process roles, and (in their modules) parameters,
//! configuration and log lines. No I/O beside reading configuration files, no shared memory.

pub mod civil;
pub mod conf_file;
pub mod config;
pub mod counters;
pub mod documents;
pub mod error;
pub mod glob;
pub mod handover;
pub mod ids;
pub mod limits;
pub mod logline;
pub mod overrides;
pub mod params;
pub mod role;
pub mod room;
pub mod units;
pub mod value;
pub mod waits;
pub mod words;

pub use config::Config;
pub use counters::Counter;
pub use ids::{BatchNo, BlockNo, FileNo, FrameNo, Lsn, PageTag, StartCount, Timeline};
/// For the macros of this crate.
pub use log;
pub use overrides::Overrides;
pub use params::Param;
pub use role::Role;
pub use waits::Wait;

/// The server's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of Redis whose commands and replies are the model; `redis_version` in `INFO`.
pub const REDIS_COMPAT: &str = "7.2.0";
