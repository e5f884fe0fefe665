//! What Miri lacks for a segment, under the names that the system's crates give it: a mapping of shared
//! memory is zeroed memory from the heap, seen by one process alone. Everything above it (areas,
//! frames, latches) is what a real segment has, so that Miri judges it.
//!
//! Invariant: the bytes stay where they are for as long as their [`MmapRaw`] lives, and are reached
//! through [`MmapRaw::as_mut_ptr`] only.

use nix::Result;
use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const PAGE: usize = 4096;

/// Of atomics, since what is shared may change under a shared reference.
#[repr(align(4096))]
struct Page {
    #[expect(dead_code, reason = "reached by address")]
    bytes: [AtomicU8; PAGE],
}

pub struct MmapRaw {
    pages: Box<[Page]>,
}

impl MmapRaw {
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.pages.as_ptr().cast::<u8>().cast_mut()
    }

    #[cfg(feature = "sim")]
    pub fn len(&self) -> usize {
        self.pages.len() * PAGE
    }
}

#[derive(Default)]
pub struct MmapOptions {
    bytes: usize,
}

impl MmapOptions {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&mut self, bytes: usize) -> &mut Self {
        self.bytes = bytes;
        self
    }

    /// Memory that has nothing to do with the file.
    pub fn map_raw(&self, _: &OwnedFd) -> io::Result<MmapRaw> {
        let pages = (0..self.bytes.div_ceil(PAGE)).map(|_| Page {
            bytes: [const { AtomicU8::new(0) }; PAGE],
        });
        Ok(MmapRaw {
            pages: pages.collect(),
        })
    }
}

/// A file without a name.
pub fn memfd_create(name: &str, _: MFdFlags) -> Result<OwnedFd> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("{name}.{}.{number}", std::process::id()));
    File::create_new(&path)
        .and_then(|file| fs::remove_file(&path).map(|()| file.into()))
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}
