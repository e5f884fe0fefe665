//! Files that are read whole: regular ones only, and no more of them than they ever hold.
//!
//! A pipe in a file's place would be waited for without end, and a device or a file that has grown by
//! mistake would fill the memory.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// The first `bytes_max` bytes of a file, or all of them.
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn beginning(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    piece(&open(path)?, 0, bytes_max)
}

/// Opens a file, if it is a regular one.
///
/// # Errors
/// When it is none, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    check_regular(path)?;
    File::open(path)
}

/// `bytes_max` bytes from byte `from` of a file on, or as many as it has.
///
/// # Errors
/// When they cannot be read.
pub fn piece(mut file: &File, from: u64, bytes_max: u64) -> io::Result<Vec<u8>> {
    // So much and no more is taken of memory, without being copied from less to more.
    let rest = file.metadata()?.len().saturating_sub(from);
    let mut bytes = Vec::with_capacity(rest.min(bytes_max) as usize);
    file.seek(SeekFrom::Start(from))?;
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses what is no regular file; links are followed.
///
/// # Errors
/// When it is none, or is not there.
pub fn check_regular(path: &Path) -> io::Result<()> {
    if fs::metadata(path)?.is_file() {
        return Ok(());
    }
    let message = "it is no regular file";
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}
