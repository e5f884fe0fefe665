//! `global/pg_control`, read beside a server that may be writing it.

use crate::datadir::CONTROL_FILE;
use crate::reading;
use anyhow::{Context, Result};
use rd_format::control::{self, Chosen, ControlError, ControlFile, SLOT_BYTES};
use std::io;
use std::path::{Path, PathBuf};

/// How often the file is read again when a slot is not valid: the server may be writing that one,
/// and does not write the other before it is done.
const READS_MAX: usize = 10;

/// The file as it was found.
#[derive(Debug)]
pub struct Reading {
    /// Where it is.
    pub path: PathBuf,
    /// The newest valid slot and the other; or what is wrong with both.
    pub outcome: Result<Chosen, [ControlError; 2]>,
}

/// Reads the control file of a data directory.
///
/// # Errors
/// When the file cannot be read. That its content is not valid is told by the outcome.
pub fn read(dir: &Path) -> Result<Reading> {
    let path = dir.join(CONTROL_FILE);
    let mut reading = read_once(&path)?;
    for _ in 1..READS_MAX {
        if matches!(&reading, Ok(Chosen { other: Ok(_), .. })) {
            break;
        }
        reading = read_once(&path)?;
    }
    Ok(Reading {
        path,
        outcome: reading,
    })
}

fn read_once(path: &Path) -> Result<Result<Chosen, [ControlError; 2]>> {
    let file = reading::open(path)
        .with_context(|| format!("could not open file \"{}\" for reading", path.display()))?;
    let slot_bytes = SLOT_BYTES as u64;
    Ok(choose([0, 1].map(|slot| {
        reading::piece(&file, slot * slot_bytes, slot_bytes)
    })))
}

/// A slot that the disk does not give back costs no more than one that is damaged.
fn choose(slots: [io::Result<Vec<u8>>; 2]) -> Result<Chosen, [ControlError; 2]> {
    control::choose(slots.map(|slot| match slot {
        Ok(bytes) => ControlFile::decode(&bytes),
        Err(error) => Err(ControlError::Unreadable(
            error.raw_os_error().unwrap_or(nix::libc::EIO),
        )),
    }))
}

impl Reading {
    /// The newest valid slot and the other.
    ///
    /// # Errors
    /// When no slot is valid; names the file and what is wrong with each.
    pub fn chosen(self) -> Result<Chosen> {
        let path = self.path.display();
        self.outcome.map_err(|[first, second]| {
            anyhow::anyhow!(
                "control file \"{path}\" has no valid slot\n\
                 DETAIL: Slot 0: {first}.\n\
                 DETAIL: Slot 1: {second}.\n\
                 HINT: Restore the data directory from a backup."
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_cannot_be_read_leaves_the_other() {
        let unreadable = || Err(io::Error::from_raw_os_error(nix::libc::EIO));
        let control = ControlFile::initial(1, 16 << 20, rd_base::Lsn::new(16 << 20));
        let chosen = choose([unreadable(), Ok(control.encode())]).expect("one is good");
        assert_eq!(chosen.slot, 1);
        assert!(matches!(chosen.other, Err(ControlError::Unreadable(_))));
        let errors = choose([unreadable(), Ok(Vec::new())]).expect_err("none is good");
        assert!(matches!(errors[0], ControlError::Unreadable(_)));
    }
}
