//! The pieces of `rd_waldump`: where the log is, which part of it, counts of what is in it, and the
//! dump itself.

pub mod dump;
pub mod source;
pub mod stats;
