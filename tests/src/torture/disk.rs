//! A small disk that can be filled, mounted for the time of a test: a file system in memory, or an ext4 in a
//! file. The latter allocates late and keeps a journal, so that it says later than the former that it is full, and
//! gives back later what was freed.
//!
//! However a test ends, also by a panic, the disk is unmounted when it goes. The loop device of an ext4 is one that
//! lets go of its file by itself when nothing is mounted from it any more.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::{NamedTempFile, TempDir};

/// Bytes that it is filled by at a time, and then, to the last.
const PIECES_BYTES: [usize; 2] = [64 * 1024, 512];

/// The disk; unmounted when this goes.
pub struct SmallDisk {
    place: TempDir,
    /// What an ext4 lies in, which takes no more room than is written to.
    image: Option<NamedTempFile>,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

impl SmallDisk {
    /// A disk of so many mebibytes in memory, if this process may mount one.
    pub fn mounted(mebibytes: u64) -> Option<SmallDisk> {
        let place = tempfile::Builder::new().prefix("rdsmall").tempdir().ok()?;
        let option = format!("size={mebibytes}m,mode=0700");
        let text = place.path().to_string_lossy().into_owned();
        let is_mounted = run("mount", &["-t", "tmpfs", "-o", &option, "tmpfs", &text]);
        is_mounted.then_some(SmallDisk { place, image: None })
    }

    /// An ext4 of so many mebibytes, if this process may mount one, and there is a loop device.
    pub fn ext4(mebibytes: u64) -> Option<SmallDisk> {
        let place = tempfile::Builder::new().prefix("rdsmall").tempdir().ok()?;
        let image = tempfile::Builder::new().prefix("rdimage").tempfile().ok()?;
        image.as_file().set_len(mebibytes << 20).ok()?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (device, place_text) = (text(image.path()), text(place.path()));
        // Nothing is kept for root, who runs the test.
        let is_made = run("mkfs.ext4", &["-q", "-F", "-m", "0", &device]);
        if !is_made || !run("mount", &["-o", "loop", &device, &place_text]) {
            return None;
        }
        let image = Some(image);
        Some(SmallDisk { place, image })
    }

    /// What sort of disk it is, for reports.
    pub fn kind(&self) -> &'static str {
        match self.image {
            Some(_) => "ext4",
            None => "in memory",
        }
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
        for bytes in PIECES_BYTES {
            let piece = vec![1; bytes];
            while filler.write_all(&piece).is_ok() {}
        }
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
