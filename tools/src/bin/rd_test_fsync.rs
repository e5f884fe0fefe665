//! `rd_test_fsync`: how many times a second each `wal_sync_method` forces a write to disk here, as
//! `pg_test_fsync` finds out.

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser};
use rd_base::words::WalSyncMethod;
use rd_sys::process::Signal;
use rd_sys::signals::Signals;
use rd_sys::storage::{DIRECT_BYTES, OpenMode, RealStorage, Storage, StorageFile};
use rd_tools::cli;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: &str = "rd_test_fsync";
/// Bytes of the file that is written to, over and over.
const FILE_BYTES: usize = 16 << 20;
/// Bytes of the largest single write.
const WRITE_BYTES_MAX: usize = 8192;
/// Behind the options in the help.
const NOTES: &str = "\
The file is made, and removed at the end; what counts is the file system that it is on, so name\n\
one beside the log. More operations in a second are better, if the disk really keeps what it says\n\
it has: a number far above what a disk of its kind can do means that it does not.\n\
Exit code: 0, or 1 if the file cannot be written.";

/// Compares the ways of forcing the write-ahead log to disk.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    /// File to write to
    #[arg(
        short = 'f',
        long,
        value_name = "FILENAME",
        default_value = "rd_test_fsync.out"
    )]
    filename: PathBuf,
    /// Seconds for each test, such as 5 or 0.5
    #[arg(short = 's', long, value_name = "SECS", default_value = "5")]
    secs_per_test: String,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

/// Writes of one operation.
struct Load {
    title: &'static str,
    bytes: usize,
    writes: usize,
}

const LOADS: [Load; 3] = [
    Load {
        title: "one 4 kB write (a small commit)",
        bytes: 4096,
        writes: 1,
    },
    Load {
        title: "one 8 kB write",
        bytes: 8192,
        writes: 1,
    },
    Load {
        title: "two 8 kB writes",
        bytes: 8192,
        writes: 2,
    },
];

fn run(arguments: Arguments) -> Result<ExitCode> {
    let secs: f64 = arguments.secs_per_test.parse().unwrap_or(0.0);
    if !(0.01..=86_400.0).contains(&secs) {
        let given = &arguments.secs_per_test;
        bail!("invalid number of seconds \"{given}\": must be between 0.01 and 86400");
    }
    // Who is told to end takes the file away.
    let signals = Signals::install_unless_ignored(&[Signal::Int, Signal::Term, Signal::Hup])
        .context("could not catch signals")?;
    let target = Target::make(&arguments.filename, signals)?;
    let time = Duration::from_secs_f64(secs);
    let mut out = io::stdout().lock();
    writeln!(out, "{secs} seconds per test")?;
    writeln!(
        out,
        "Direct writes (O_DIRECT) where the file system can do them."
    )?;
    for load in &LOADS {
        writeln!(out, "\nCompare wal_sync_method with {}:", load.title)?;
        for method in WalSyncMethod::ALL {
            let speed = target.measure(Some(*method), load, time)?;
            print(&mut out, method.word(), speed)?;
        }
    }
    writeln!(out, "\nWrites that nothing forces to disk, for comparison:")?;
    let speed = target.measure(None, &LOADS[1], time)?;
    print(&mut out, "write", speed)?;
    Ok(ExitCode::SUCCESS)
}

fn print(out: &mut impl Write, what: &str, ops_per_s: f64) -> io::Result<()> {
    let us = 1e6 / ops_per_s;
    writeln!(
        out,
        "        {what:<20}{ops_per_s:>12.3} ops/sec {us:>9.0} usecs/op"
    )?;
    out.flush()
}

/// The file, which goes when this does.
struct Target {
    path: PathBuf,
    storage: RealStorage,
    name: String,
    signals: Signals,
    /// Memory of which the part that direct writes can take is used.
    memory: Vec<u8>,
}

impl Drop for Target {
    fn drop(&mut self) {
        // It was ours; if it is gone already that is what is wanted.
        let _ = fs::remove_file(&self.path);
    }
}

impl Target {
    /// Makes the file, with its whole length written out: no write has to find room.
    fn make(path: &Path, signals: Signals) -> Result<Target> {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.with_context(|| format!("\"{}\" names no file", path.display()))?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let storage = RealStorage::new(parent.unwrap_or(Path::new(".")).to_owned());
        let file = storage.open(name, OpenMode::CreateNew)?;
        let target = Target {
            path: path.to_owned(),
            name: name.to_owned(),
            storage,
            signals,
            memory: vec![0x5A; WRITE_BYTES_MAX + DIRECT_BYTES],
        };
        file.write_all_at(&vec![0x5A; FILE_BYTES], 0)?;
        file.sync_all()?;
        Ok(target)
    }

    fn open(&self, method: Option<WalSyncMethod>) -> io::Result<Arc<dyn StorageFile>> {
        let mode = match method {
            Some(WalSyncMethod::OpenDatasync) => OpenMode::ReadWriteSyncData,
            Some(WalSyncMethod::OpenSync) => OpenMode::ReadWriteSync,
            Some(WalSyncMethod::Fdatasync | WalSyncMethod::Fsync) | None => OpenMode::ReadWrite,
        };
        self.storage.open(&self.name, mode)
    }

    /// Operations in a second.
    fn measure(&self, method: Option<WalSyncMethod>, load: &Load, time: Duration) -> Result<f64> {
        let file = self.open(method)?;
        let aligned = self.memory.as_ptr().align_offset(DIRECT_BYTES);
        let bytes = &self.memory[aligned..][..load.bytes];
        let begun = Instant::now();
        let (mut operations, mut offset) = (0u32, 0);
        loop {
            for _ in 0..load.writes {
                file.write_all_at(bytes, offset as u64)?;
                offset = (offset + load.bytes) % FILE_BYTES;
            }
            match method {
                Some(WalSyncMethod::Fdatasync) => file.sync_data()?,
                Some(WalSyncMethod::Fsync) => file.sync_all()?,
                Some(WalSyncMethod::OpenDatasync | WalSyncMethod::OpenSync) | None => {}
            }
            operations += 1;
            // Without one this is no system call.
            if !self.signals.take().is_empty() {
                bail!("interrupted");
            }
            let elapsed = begun.elapsed();
            if elapsed >= time || operations == u32::MAX {
                return Ok(f64::from(operations) / elapsed.as_secs_f64());
            }
        }
    }
}
