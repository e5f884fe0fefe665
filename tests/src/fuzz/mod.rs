//! What hostile bytes are fed to: one entry function for each sort of input, shared by the fuzzing
//! programs in `fuzz/` and by the test `fuzz`, which runs the corpora and some mutations of them.
//!
//! Invariants:
//! - Whatever the bytes, an entry function returns; it panics only if the code that it calls is wrong.
//! - Where a checksum would keep a mutation from what lies behind it, the checksum is made right
//!   first, unless the input's first byte is odd.
//! - Inputs are small; where a format is large (pages, slots), they are patches of a sound one.

mod disk;
mod text;

pub use disk::{control, doublewrite, page, record, wal};
pub use text::{config, numbers, reply, request};

/// One sort of input.
pub struct Target {
    /// The name of its fuzzing program, and of its corpus.
    pub name: &'static str,
    /// Takes the bytes.
    pub run: fn(&[u8]),
    /// Sound inputs, from which the corpus was made.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "request",
        run: request,
        seeds: text::request_seeds,
    },
    Target {
        name: "reply",
        run: reply,
        seeds: text::reply_seeds,
    },
    Target {
        name: "numbers",
        run: numbers,
        seeds: text::numbers_seeds,
    },
    Target {
        name: "config",
        run: config,
        seeds: text::config_seeds,
    },
    Target {
        name: "page",
        run: page,
        seeds: disk::page_seeds,
    },
    Target {
        name: "record",
        run: record,
        seeds: disk::record_seeds,
    },
    Target {
        name: "wal",
        run: wal,
        seeds: disk::wal_seeds,
    },
    Target {
        name: "control",
        run: control,
        seeds: disk::control_seeds,
    },
    Target {
        name: "doublewrite",
        run: doublewrite,
        seeds: disk::doublewrite_seeds,
    },
];
