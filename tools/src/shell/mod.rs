//! The pieces of `rd_cli`: words of a line, replies as text, help from the command table, the
//! connection, the interactive loop, and bulk load.

pub mod help;
pub mod interactive;
pub mod line;
pub mod pipe;
pub mod reply;
pub mod session;
pub mod transaction;
