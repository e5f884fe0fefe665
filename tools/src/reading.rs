//! Files that are read whole: regular ones only, and no more of them than they ever hold.
//!
//! A pipe in a file's place would be waited for without end, and a device or a file that has grown by
//! mistake would fill the memory.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// The first `bytes_max` bytes of a file, or all of them.
///
/// # Errors
/// When it cannot be read, or is no regular file.
pub fn beginning(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    check_regular(path)?;
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
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
