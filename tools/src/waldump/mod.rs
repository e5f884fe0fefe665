//! The pieces of `rd_waldump`: where the log is, which part of it, and counts of what is in it.

pub mod source;
pub mod stats;
