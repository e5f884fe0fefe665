//! Running the tools as a user does, over files made by hand.

#![allow(dead_code)] // Each suite uses its part.

use rd_base::Lsn;
use rd_format::control::{ControlFile, SLOT_BYTES};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The path of a tool.
pub fn tool(name: &str) -> PathBuf {
    let any = Path::new(env!("CARGO_BIN_EXE_rd_controldata"));
    any.parent().expect("a file is in a directory").join(name)
}

/// What a tool did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it printed to standard error.
    pub err: String,
}

/// Runs a tool to its end, with nothing on standard input and no data directory in its
/// environment.
pub fn run(name: &str, args: &[&str]) -> Ran {
    let mut command = command(name);
    command.args(args).stdin(Stdio::null());
    finish(command.output().expect("the tool is there"))
}

/// A tool, to be run with more than arguments.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(tool(name));
    command.env_remove("RDDATA").env_remove("RDCTLTIMEOUT");
    command
}

/// The outcome as text; a tool that a signal ended (as a panic does) fails the test.
pub fn finish(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (out, err) = (text(output.stdout), text(output.stderr));
    let code = output
        .status
        .code()
        .unwrap_or_else(|| panic!("killed: {out}{err}"));
    Ran { code, out, err }
}

/// A directory that is private to its owner.
pub fn private_dir() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("ours");
    dir
}

/// The content of a control file with some life in it.
pub fn control(sequence: u64) -> ControlFile {
    let mut control = ControlFile::initial(0xFEED_0000_0000_0001, 1 << 20, Lsn::new(1 << 20));
    control.sequence = sequence;
    control.redo_lsn = Lsn::new((1 << 32) + 0x20_1028);
    control.checkpoint_us = 1_700_000_000_123_456;
    control
}

/// Makes a data directory that has nothing but a control file with these two slots.
pub fn write_control(dir: &Path, slot0: &[u8], slot1: &[u8]) {
    let mut bytes = vec![0; 2 * SLOT_BYTES];
    bytes[..slot0.len()].copy_from_slice(slot0);
    bytes[SLOT_BYTES..][..slot1.len()].copy_from_slice(slot1);
    fs::create_dir_all(dir.join("global")).expect("made");
    fs::write(dir.join("global/pg_control"), bytes).expect("written");
}
