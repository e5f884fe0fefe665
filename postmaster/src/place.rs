//! Where the data directory is: at a path, by which people and tools know it, and under the feet of
//! all processes, whose working directory it is.
//!
//! A directory can be moved while its server runs, and another one (a copy from a backup, say) be put
//! in its place. Whatever goes by the working directory stays in the one whose lock is held; the path
//! is for messages alone, and for the unix socket. When the path leads elsewhere the server ends: who
//! has moved it takes it for stopped, and the one that is there now may get a server of its own.
//!
//! Invariant: after [`Place::enter`] nothing in the data directory is opened by its absolute path.

use anyhow::{Context, Result, bail};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The data directory, for whoever works in it.
pub const HERE: &str = ".";

/// The data directory, entered.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes the directory at this absolute path the working directory of this process and of all its
    /// children.
    ///
    /// # Errors
    /// When it cannot be entered.
    pub fn enter(path: PathBuf) -> Result<Place> {
        std::env::set_current_dir(&path)
            .with_context(|| format!("could not enter data directory \"{}\"", path.display()))?;
        Ok(Place { path })
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks whether the path still leads here. Both are looked at each time: on some file systems
    /// the numbers of a directory change while it stays.
    ///
    /// # Errors
    /// When there is nothing at the path, or another directory. If one cannot look, there is no telling.
    pub fn check(&self) -> Result<()> {
        let path = self.path.display();
        let there = match fs::metadata(&self.path) {
            Ok(there) => there,
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    bail!("data directory \"{path}\" is no longer where this server was started")
                }
                _ => return Ok(()),
            },
        };
        let Ok(here) = fs::metadata(HERE) else {
            return Ok(());
        };
        if (there.dev(), there.ino()) != (here.dev(), here.ino()) {
            bail!(
                "data directory \"{path}\" is no longer where this server was started: another \
                 directory is there"
            );
        }
        Ok(())
    }
}
