//! What hostile bytes are fed to: one entry function for each sort of input, shared by the fuzzing
//! programs in `fuzz/` and by the test `fuzz`, which runs the corpora and some mutations of them.
//!
//! Invariants:
//! - Whatever the bytes, an entry function returns; it panics only if the code that it calls is wrong.
//! - Where a checksum would keep a mutation from what lies behind it, the checksum is made right
//!   first, unless the input's first byte is odd.
//! - Inputs are small; where a format is large (pages, files), they are patches of a sound one, anywhere
//!   in it.
//! - What an entry function takes of memory for an input is no more than [`Target::fixed_bytes`] and
//!   [`BYTES_PER_BYTE`] for each byte of the input.

mod disk;
#[cfg(feature = "sim")]
mod doublewrite;
mod files;
mod patch;
mod text;

pub use disk::{page, record, wal};
#[cfg(feature = "sim")]
pub use doublewrite::doublewrite;
pub use files::{control, history, waldump};
pub use text::{config, numbers, reply, request};

/// One sort of input.
pub struct Target {
    /// The name of its fuzzing program, and of its corpus.
    pub name: &'static str,
    /// Takes the bytes.
    pub run: fn(&[u8]),
    /// Sound inputs, from which the corpus was made.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes of memory that it may take for any input: for files and pages that it makes, and for
    /// buffers of the code that it calls.
    pub fixed_bytes: usize,
}

/// Bytes of memory that may be taken for each byte of an input, beyond those that are for any.
pub const BYTES_PER_BYTE: usize = 200;

/// Whether checksums are to be made right: the first byte says so, and the rest is the input.
fn sealed(input: &[u8]) -> (bool, &[u8]) {
    match input.split_first() {
        Some((first, rest)) => (first % 2 == 0, rest),
        None => (true, input),
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "request",
        run: request,
        seeds: text::request_seeds,
        fixed_bytes: 16 << 10,
    },
    Target {
        name: "reply",
        run: reply,
        seeds: text::reply_seeds,
        fixed_bytes: 16 << 10,
    },
    Target {
        name: "numbers",
        run: numbers,
        seeds: text::numbers_seeds,
        fixed_bytes: 64 << 10,
    },
    Target {
        name: "config",
        run: config,
        seeds: text::config_seeds,
        fixed_bytes: 256 << 10,
    },
    Target {
        name: "page",
        run: page,
        seeds: disk::page_seeds,
        fixed_bytes: 64 << 10,
    },
    Target {
        name: "record",
        run: record,
        seeds: disk::record_seeds,
        fixed_bytes: 64 << 10,
    },
    Target {
        name: "wal",
        run: wal,
        seeds: disk::wal_seeds,
        fixed_bytes: 256 << 10,
    },
    Target {
        name: "waldump",
        run: waldump,
        seeds: files::waldump_seeds,
        fixed_bytes: 2 << 20,
    },
    Target {
        name: "control",
        run: control,
        seeds: files::control_seeds,
        fixed_bytes: 2 << 20,
    },
    Target {
        name: "history",
        run: history,
        seeds: files::history_seeds,
        fixed_bytes: 2 << 20,
    },
    #[cfg(feature = "sim")]
    Target {
        name: "doublewrite",
        run: doublewrite,
        seeds: doublewrite::doublewrite_seeds,
        // The simulated disk has a place in memory for each page of a file, those of holes included; a
        // copy for the last block of a file's piece makes a hole of 1 GiB.
        fixed_bytes: 32 << 20,
    },
];
