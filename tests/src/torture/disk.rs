//! A small disk that can be filled: a file system in memory, mounted for the time of a test.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// Bytes that it is filled by at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// The disk; unmounted when this goes.
pub struct SmallDisk {
    place: TempDir,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

impl SmallDisk {
    /// A disk of so many mebibytes, if this process may mount one.
    pub fn mounted(mebibytes: u64) -> Option<SmallDisk> {
        let place = tempfile::Builder::new().prefix("rdsmall").tempdir().ok()?;
        let option = format!("size={mebibytes}m,mode=0700");
        let text = place.path().to_string_lossy().into_owned();
        run("mount", &["-t", "tmpfs", "-o", &option, "tmpfs", &text]).then_some(SmallDisk { place })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Leaves no room on it.
    pub fn fill(&self) {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .expect("a file");
        let piece = vec![1; PIECE_BYTES];
        while filler.write_all(&piece).is_ok() {}
    }

    /// Leaves so many bytes of room.
    pub fn leave(&self, bytes: u64) {
        self.fill();
        let filler = File::options().write(true).open(self.filler());
        let filler = filler.expect("it was made");
        let len = filler.metadata().expect("its length").len();
        filler.set_len(len.saturating_sub(bytes)).expect("cut");
    }

    /// Gives the room back.
    pub fn empty(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that a failed test has left may still be there.
        run("umount", &["-l", &self.path().to_string_lossy()]);
    }
}
