//! The tools beside the server: pieces that several of them share, and those that are worth a
//! test of their own. Each tool is one file in `src/bin`, which reads its command line, calls
//! these, and prints.
//!
//! Invariants:
//! - T1. A tool that looks (`rd_controldata`, `rd_waldump`, `rd_isready`, `rd_ctl status`) opens
//!   files for reading only and takes no lock: it never disturbs a server.
//! - T2. What a file or a server says is hostile until checked: no byte of either makes a tool
//!   panic.
//! - T3. Errors go to standard error as `tool: error: …`, with `tool: hint: …` where there is
//!   something to do; option letters, words and exit codes are PostgreSQL's and `redis-cli`'s.

pub mod cli;
pub mod control;
pub mod controldata;
pub mod ctl;
pub mod datadir;
pub mod deadline;
pub mod history;
pub mod pidfile;
pub mod probe;
pub mod reading;
pub mod resetwal;
pub mod shell;
pub mod trees;
pub mod wait;
pub mod waldump;
pub mod words;
