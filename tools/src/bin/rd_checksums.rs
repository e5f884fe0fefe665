//! `rd_checksums`: reads every block of a stopped server's relation files and names the bad ones, as
//! `pg_checksums` does.

use anyhow::{Error, Result, bail};
use clap::{ArgAction, Parser};
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, PageTag};
use rd_format::control::{DbState, FileRow};
use rd_format::page::{self, PAGE_FORMAT, PageBytes, PageError};
use rd_store::relation::{PIECE_BLOCKS, RelationFiles, offset_of, path_of};
use rd_sys::storage::{RealStorage, Storage, StorageFile};
use rd_tools::cli::{Verdict, with_hint};
use rd_tools::{cli, control, datadir, trees};
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

const NAME: &str = "rd_checksums";
/// Blocks that are read at a time.
const CHUNK_BLOCKS: u32 = 128;
/// Behind the options in the help.
const NOTES: &str = "\
The server must be stopped, in order. Checksums are part of each block and cannot be switched off:\n\
-e finds them enabled, -d is refused. Blocks that were never written, of which a file has some in\n\
advance, are counted apart; whether one of them should not be empty is for --verify-trees to say.\n\
Exit code: 0, or 1 if a block is bad, a tree is damaged, or something cannot be read.";

/// Checks the checksums of a Redoubt data directory.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    #[command(flatten)]
    data_dir: datadir::DataDir,
    /// Check the checksums (default)
    #[arg(short = 'c', long, conflicts_with_all = ["disable", "enable"])]
    check: bool,
    /// Disable checksums: refused
    #[arg(short = 'd', long, conflicts_with = "enable")]
    disable: bool,
    /// Enable checksums: they always are
    #[arg(short = 'e', long)]
    enable: bool,
    /// Check this relation file only
    #[arg(short = 'f', long, value_name = "NUMBER")]
    filenode: Option<u32>,
    /// Show progress
    #[arg(short = 'P', long)]
    progress: bool,
    /// Name each file
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Check the trees too: order, links, large values, free blocks, key counts
    #[arg(long)]
    verify_trees: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let dir = arguments.data_dir.resolve(NAME)?;
    datadir::check_usable(&dir)?;
    let _lock = datadir::lock(&dir)?;
    let control = control::read(&dir)?.chosen()?.control;
    control.compatible()?;
    if control.state != DbState::ShutDown {
        return Err(with_hint(
            format!(
                "the server was not stopped in order: its state is \"{}\"",
                control.state.name()
            ),
            "Start it, so that it mends what a crash has torn, and stop it.",
        ));
    }
    if arguments.enable {
        bail!("checksums are already enabled in this data directory");
    }
    if arguments.disable {
        return Err(with_hint(
            "checksums cannot be disabled: they are part of the format of each block",
            "A block whose checksum is wrong is never served; nothing is gained without them.",
        ));
    }
    let rows = trees::rows(&control, arguments.filenode)?;
    let storage: Arc<dyn Storage> = Arc::new(RealStorage::new(dir.clone()));
    let relations = RelationFiles::reader(storage);
    let names = trees::names(&relations, &control);
    let mut scan = Scan {
        relations: &relations,
        bar: progress_bar(arguments.progress, &rows),
        found: Found::default(),
        chunk: vec![0; CHUNK_BLOCKS as usize * PAGE_BYTES],
    };
    let mut away = 0;
    for row in &rows {
        if trees::is_away(&relations, row) {
            away += 1;
            if arguments.verbose {
                let name = trees::shown(&names, row.file);
                scan.say(&format!("{name}: not there: the namespace is offline"));
            }
            continue;
        }
        let bad_before = scan.found.bad;
        scan.file(row);
        if arguments.verbose {
            let (bad, name) = (scan.found.bad - bad_before, trees::shown(&names, row.file));
            scan.say(&format!("{name}: {} blocks, {bad} bad", row.blocks));
        }
    }
    scan.bar.finish_and_clear();
    let Found {
        files,
        blocks,
        unwritten,
        bad,
        failed,
    } = scan.found;
    let mut out = Verdict::default();
    writeln!(out, "Checksum operation completed")?;
    writeln!(out, "Files scanned:   {files}")?;
    if away > 0 {
        writeln!(out, "Files away:      {away}")?;
    }
    writeln!(out, "Blocks scanned:  {blocks}")?;
    writeln!(out, "Never written:   {unwritten}")?;
    writeln!(out, "Bad checksums:   {bad}")?;
    writeln!(out, "Block format version: {PAGE_FORMAT}")?;
    let mut problems = 0;
    if arguments.verify_trees {
        problems = trees::check_files(&mut out, &relations, &control, &rows, false)?;
        writeln!(out, "Problems of trees: {problems}")?;
    }
    out.finish(NAME);
    Ok(match bad + failed + problems {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(cli::FAILURE),
    })
}

/// A bar for the blocks of all files; nothing is drawn if it is not wanted. Not at a terminal there
/// is one line at the end of each file, as nobody watches a bar there.
fn progress_bar(wanted: bool, rows: &[&FileRow]) -> ProgressBar {
    let bytes = rows.iter().map(|row| u64::from(row.blocks)).sum::<u64>() * PAGE_BYTES as u64;
    let target = match wanted {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = "{bar:30} {percent} % {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {msg}";
    let style = ProgressStyle::with_template(style).expect("a good template");
    let bar = ProgressBar::with_draw_target(Some(bytes), target).with_style(style);
    if wanted && !io::stderr().is_terminal() {
        cli::print_note(&format!("{NAME}: {} to be read", HumanBytes(bytes)));
    }
    bar
}

/// What was found so far.
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    files: u64,
    blocks: u64,
    unwritten: u64,
    bad: u64,
    /// Files that cannot be read to their end.
    failed: u64,
}

/// A scan under way.
struct Scan<'a> {
    relations: &'a RelationFiles,
    bar: ProgressBar,
    found: Found,
    chunk: Vec<u8>,
}

impl Scan<'_> {
    /// Prints a line above the bar.
    fn say(&self, line: &str) {
        self.bar.suspend(|| cli::print(&format!("{line}\n")));
    }

    fn error(&self, message: &str) {
        let error = Error::msg(message.to_owned());
        self.bar.suspend(|| cli::print_error(NAME, &error));
    }

    /// Reads the blocks that `pg_control` knows of.
    fn file(&mut self, row: &FileRow) {
        self.found.files += 1;
        let mut block = 0;
        while block < row.blocks {
            let in_piece = PIECE_BLOCKS - block % PIECE_BLOCKS;
            let count = CHUNK_BLOCKS.min(row.blocks - block).min(in_piece);
            let tag = PageTag::new(row.file, BlockNo::new(block));
            match self.relations.piece_of(tag) {
                Ok(piece) => self.blocks(&*piece, tag, count),
                Err(error) => {
                    self.found.failed += 1;
                    return self.error(&error.to_string());
                }
            }
            block += count;
            self.bar.inc(u64::from(count) * PAGE_BYTES as u64);
        }
    }

    /// Reads `count` blocks from `first` on; if they cannot be read together, one by one.
    fn blocks(&mut self, piece: &dyn StorageFile, first: PageTag, count: u32) {
        let mut chunk = std::mem::take(&mut self.chunk);
        let wanted = &mut chunk[..count as usize * PAGE_BYTES];
        match piece.read_at(wanted, offset_of(first.block)) {
            Ok(read) => {
                let (pages, _) = wanted[..read].as_chunks::<PAGE_BYTES>();
                for (index, page) in pages.iter().enumerate() {
                    self.block(nth(first, index as u32), page);
                }
                if pages.len() < count as usize {
                    let at = nth(first, pages.len() as u32);
                    let missing = count as usize - pages.len();
                    self.found.failed += 1;
                    let path = path_of(at);
                    self.error(&format!(
                        "file \"{path}\" ends before block {}: at least {missing} blocks are missing",
                        at.block
                    ));
                }
            }
            Err(error) if count == 1 => {
                self.found.failed += 1;
                self.error(&format!("{first}: {error}"));
            }
            Err(_) => {
                self.chunk = chunk;
                for index in 0..count {
                    self.blocks(piece, nth(first, index), 1);
                }
                return;
            }
        }
        self.chunk = chunk;
    }

    fn block(&mut self, tag: PageTag, page: &PageBytes) {
        self.found.blocks += 1;
        match page::verify(page, tag) {
            Ok(()) => {}
            Err(PageError::ZeroPage { .. }) => self.found.unwritten += 1,
            Err(error) => {
                self.found.bad += 1;
                let (path, block) = (path_of(tag), tag.block);
                self.error(&match error {
                    PageError::Checksum {
                        stored, computed, ..
                    } => format!(
                        "checksum verification failed in file \"{path}\", block {block}: \
                         calculated checksum {computed:08X} but block contains {stored:08X}"
                    ),
                    other => format!("file \"{path}\", block {block}: {other}"),
                });
            }
        }
    }
}

/// The page `index` blocks behind `first`.
fn nth(first: PageTag, index: u32) -> PageTag {
    PageTag::new(first.file, BlockNo::new(first.block.get() + index))
}
