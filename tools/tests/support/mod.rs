//! Running the tools as a user does, over files made by hand.

#![allow(dead_code)] // Each suite uses its part.

use rd_base::limits::WAL_PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag, StartCount, Timeline};
use rd_format::Payload;
use rd_format::control::{ControlFile, SLOT_BYTES};
use rd_format::wal_page::{self, WAL_HEADER_BYTES, WalPageHeader};
use rd_format::wal_record::{FileDelta, RecordBuilder, RecordKind, Upsert};
use std::fs::{self, Permissions};
use std::io;
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

/// Runs a tool whose standard output nobody reads any more; gives its exit code and what it
/// printed to standard error.
pub fn run_unread(name: &str, args: &[&str]) -> Ran {
    let mut command = command(name);
    command.args(args).stdin(Stdio::null());
    command.stdout(broken_pipe()).stderr(Stdio::piped());
    let child = command.spawn().expect("the tool is there");
    finish(child.wait_with_output().expect("ours"))
}

/// Runs a tool none of whose outputs anybody reads; gives its exit code.
pub fn run_unheard(name: &str, args: &[&str]) -> i32 {
    let mut command = command(name);
    command.args(args).stdin(Stdio::null());
    command.stdout(broken_pipe()).stderr(broken_pipe());
    let status = command.status().expect("the tool is there");
    status.code().unwrap_or_else(|| panic!("{name}: {status}"))
}

/// The writing end of a pipe whose reader has gone.
fn broken_pipe() -> io::PipeWriter {
    let (_, writer) = io::pipe().expect("a pipe");
    writer
}

/// A tool, to be run with more than arguments.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(tool(name));
    command.env_remove("RDDATA").env_remove("RDCTLTIMEOUT");
    command
}

/// A tool that is run as nohup(1) does it.
pub fn deaf_to_hangups(name: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$0\" \"$@\""])
        .arg(tool(name))
        .env_remove("RDDATA");
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

/// A log made by hand: records one after another, in segments of one size.
pub struct LogMaker {
    /// Usable bytes from the start of the log on; those before `first` are not kept.
    bytes: Vec<u8>,
    first: u64,
    /// Usable positions at which records begin, and the last end.
    bounds: Vec<u64>,
    segment_bytes: u64,
}

/// Bytes of a segment of the logs of tests.
pub const SEGMENT: u64 = 1 << 20;
/// Whose log it is.
pub const SYSTEM: u64 = 0xFEED_0000_0000_0001;

impl LogMaker {
    /// An empty log that begins with segment 1.
    pub fn new() -> LogMaker {
        LogMaker::in_segment(1)
    }

    /// An empty log that begins with this segment.
    pub fn in_segment(number: u64) -> LogMaker {
        let first = wal_page::lsn_to_pos(Lsn::new(number * SEGMENT));
        LogMaker {
            bytes: Vec::new(),
            first,
            bounds: vec![first],
            segment_bytes: SEGMENT,
        }
    }

    /// Appends a commit that sets a key; gives its start.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Lsn {
        self.set_in_start(1, key, value)
    }

    /// As [`LogMaker::set`], by a server in its start number `count`.
    pub fn set_in_start(&mut self, count: u32, key: &[u8], value: &[u8]) -> Lsn {
        let mut builder = RecordBuilder::new();
        builder.start(RecordKind::Commit, 1_700_000_000_000_000);
        builder.block(PageTag::new(FileNo::new(2), BlockNo::new(2)));
        builder.upsert(&Upsert {
            key,
            expiry_ms: None,
            payload: Payload::Inline(value),
        });
        builder.file_delta(FileDelta {
            file: FileNo::new(2),
            key_delta: 1,
        });
        builder.seal();
        let start = wal_page::pos_to_start_lsn(self.end());
        self.bytes
            .extend_from_slice(builder.finish(start, StartCount::new(count)));
        self.bounds.push(self.first + self.bytes.len() as u64);
        start
    }

    fn end(&self) -> u64 {
        *self.bounds.last().expect("never empty")
    }

    /// The end of the last record.
    pub fn end_lsn(&self) -> Lsn {
        wal_page::pos_to_end_lsn(self.end())
    }

    /// Writes the segments, and one more of zeros; each page says that all before it is durable.
    pub fn write(&self, dir: &Path) {
        fs::create_dir_all(dir).expect("made");
        let page_bytes = WAL_PAGE_BYTES as u64;
        let end = self.end_lsn().get();
        let last = end.div_ceil(self.segment_bytes);
        let first = wal_page::pos_to_start_lsn(self.first).get() / self.segment_bytes;
        for segment in first..=last {
            let mut file = vec![0; self.segment_bytes as usize];
            for (index, page) in file.chunks_mut(WAL_PAGE_BYTES).enumerate() {
                let address = segment * self.segment_bytes + index as u64 * page_bytes;
                if address < end {
                    self.fill_page(page, address);
                }
            }
            let name = wal_page::segment_name(Timeline::new(1), segment, self.segment_bytes);
            fs::write(dir.join(name), file).expect("written");
        }
    }

    fn fill_page(&self, page: &mut [u8], address: u64) {
        let from = wal_page::lsn_to_pos(Lsn::new(address));
        // Of the record that began before this page, if any.
        let after = self.bounds.partition_point(|bound| *bound < from);
        let remaining = self.bounds.get(after).map_or(0, |bound| bound - from);
        let header = WalPageHeader {
            timeline: Timeline::new(1),
            address: Lsn::new(address),
            remaining: remaining as u32,
            durable_lsn: Lsn::new(address),
            system_identifier: SYSTEM,
        };
        page[..WAL_HEADER_BYTES].copy_from_slice(&header.encode());
        let rest = &self.bytes[(from - self.first) as usize..];
        let count = rest.len().min(WAL_PAGE_BYTES - WAL_HEADER_BYTES);
        page[WAL_HEADER_BYTES..][..count].copy_from_slice(&rest[..count]);
    }
}
