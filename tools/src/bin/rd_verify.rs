//! `rd_verify`: checks every page, link and bit of a data directory's relation files.

use anyhow::{Context, Result};
use clap::{ArgAction, Parser};
use rd_base::{FileNo, PageTag};
use rd_engine::namespace::names_of_files;
use rd_engine::verify::{FilePages, Report, verify};
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::{ControlFile, DbState, FileRow};
use rd_format::meta;
use rd_format::page::PageBytes;
use rd_store::relation::RelationFiles;
use rd_sys::lockfile::{LockError, LockFile};
use rd_sys::storage::{RealStorage, Storage};
use rd_tools::cli::with_hint;
use rd_tools::{cli, control, datadir, pidfile};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

const NAME: &str = "rd_verify";
/// Behind the options in the help.
const NOTES: &str = "\
Each page by itself, the order of keys within and across pages, links between pages and levels,\n\
chains of large values, the lists of free blocks, and key counts against pg_control.\n\
Exit code: 0, or 1 if anything is wrong.";

/// Checks the relation files of a data directory whose server is stopped.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    /// Data directory [default: the environment variable RDDATA]
    #[arg(
        short = 'D',
        long = "rddata",
        alias = "pgdata",
        value_name = "DIRECTORY"
    )]
    data_dir: Option<PathBuf>,
    /// Data directory, in place of -D
    #[arg(value_name = "DIRECTORY", conflicts_with = "data_dir")]
    positional: Option<PathBuf>,
    /// Check this relation file only
    #[arg(short = 'f', long, value_name = "NUMBER")]
    file: Option<u32>,
    /// Check even if the server was not stopped in order: what the log would mend is then
    /// reported as well
    #[arg(long)]
    force: bool,
    /// Print problems only
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let dir = datadir::resolve(NAME, arguments.data_dir.or(arguments.positional))?;
    datadir::check_usable(&dir)?;
    let _lock = lock(&dir)?;
    let control = control::read(&dir)?.chosen()?.control;
    control.compatible()?;
    if control.state != DbState::ShutDown && !arguments.force {
        return Err(with_hint(
            format!(
                "the server was not stopped in order: its state is \"{}\"",
                control.state.name()
            ),
            "Start it, so that it recovers, and stop it; or use --force.",
        ));
    }
    let storage: Arc<dyn Storage> = Arc::new(RealStorage::new(dir));
    let relations = RelationFiles::reader(storage);
    let wanted = |row: &&FileRow| arguments.file.is_none_or(|file| row.file.get() == file);
    let rows: Vec<&FileRow> = control.files.iter().filter(wanted).collect();
    if let (Some(file), []) = (arguments.file, rows.as_slice()) {
        return Err(with_hint(
            format!("pg_control names no relation file {file}"),
            "rd_controldata prints the relation files.",
        ));
    }
    let mut out = io::stdout().lock();
    let mut problems = 0;
    let names = names(&relations, &control);
    for row in rows {
        let mut report = check(&relations, &control, row);
        if row.file == CATALOG_FILE {
            report.problems.extend(check_names(&names, &control));
        }
        problems += report.problems.len() as u64 + report.problems_more;
        let name = match names.as_ref().ok().and_then(|names| names.get(&row.file)) {
            _ if row.file == CATALOG_FILE => format!("{} (the catalog)", name(row.file)),
            Some(namespace) => {
                format!(
                    "{} ({})",
                    name(row.file),
                    String::from_utf8_lossy(namespace)
                )
            }
            None => format!("{} (of no namespace)", name(row.file)),
        };
        print(&mut out, &name, row, &report, arguments.quiet)?;
    }
    out.flush()?;
    if problems > 0 {
        eprintln!("{NAME}: error: {problems} problems found");
        return Ok(ExitCode::from(cli::FAILURE));
    }
    Ok(ExitCode::SUCCESS)
}

/// The namespaces, by their files; or why the catalog cannot be read.
type Names = Result<BTreeMap<FileNo, Vec<u8>>, String>;

fn names(relations: &RelationFiles, control: &ControlFile) -> Names {
    let row = control.files.iter().find(|row| row.file == CATALOG_FILE);
    let row = row.ok_or("pg_control does not name its file")?;
    names_of_files(&FilePages {
        relations,
        file: CATALOG_FILE,
        blocks: row.blocks,
    })
}

/// What is wrong between the catalog and `pg_control`.
fn check_names(names: &Names, control: &ControlFile) -> Vec<String> {
    let names = match names {
        Ok(names) => names,
        Err(error) => return vec![format!("the catalog cannot be read: {error}")],
    };
    let is_known = |file: FileNo| control.files.iter().any(|row| row.file == file);
    // After a crash the log may hold the creation.
    let is_clean = control.state == DbState::ShutDown;
    let lost = names
        .iter()
        .filter(|(file, _)| is_clean && !is_known(**file));
    lost.map(|(file, namespace)| {
        let namespace = String::from_utf8_lossy(namespace);
        format!("namespace {namespace} lies in file {file}, which pg_control does not name")
    })
    .collect()
}

/// Keeps servers out while the files are read.
fn lock(dir: &Path) -> Result<LockFile> {
    match LockFile::acquire(&dir.join(pidfile::LOCK_FILE)) {
        Ok(lock) => Ok(lock),
        Err(error @ LockError::Held(_)) => Err(with_hint(
            error,
            format!("Stop it first: rd_ctl stop -D {}", dir.display()),
        )),
        Err(error) => Err(error.into()),
    }
}

fn check(relations: &RelationFiles, control: &ControlFile, row: &FileRow) -> Report {
    let there = match relations.blocks_on_disk(row.file) {
        Ok(Some(blocks)) => blocks,
        Ok(None) => return failed(format!("there is no file {}", name(row.file))),
        Err(error) => return failed(error.to_string()),
    };
    if there < row.blocks {
        return failed(format!(
            "the file has {there} blocks, and pg_control says {}",
            row.blocks
        ));
    }
    let pages = FilePages {
        relations,
        file: row.file,
        blocks: row.blocks,
    };
    let mut report = verify(&pages);
    if control.state == DbState::ShutDown && report.keys != row.key_count {
        let (found, said) = (report.keys, row.key_count);
        report
            .problems
            .push(format!("{found} keys, and pg_control says {said}"));
    }
    if let Err(problem) = check_meta(relations, control, row) {
        report.problems.push(format!("{problem:#}"));
    }
    report
}

/// Holds the file's first page against `pg_control`.
fn check_meta(relations: &RelationFiles, control: &ControlFile, row: &FileRow) -> Result<()> {
    let mut page: PageBytes = [0; _];
    let tag = PageTag::new(row.file, rd_format::bitmap::META_BLOCK);
    relations.read_page(tag, &mut page).context("meta page")?;
    let meta = meta::read(&page);
    let mine = (meta.system_identifier, meta.file) == (control.system_identifier, row.file);
    anyhow::ensure!(
        mine,
        "the meta page is of file {} of system {}",
        meta.file,
        meta.system_identifier
    );
    anyhow::ensure!(
        (meta.checkpoint_count, meta.checkpoint_scn) == (row.checkpoint_count, row.scn),
        "the meta page has checkpoint count {}, SCN {}, and pg_control says {}, {}: the file is \
         from another time",
        meta.checkpoint_count,
        meta.checkpoint_scn,
        row.checkpoint_count,
        row.scn
    );
    Ok(())
}

fn failed(problem: String) -> Report {
    Report {
        problems: vec![problem],
        ..Report::default()
    }
}

fn print(
    out: &mut impl Write,
    name: &str,
    row: &FileRow,
    report: &Report,
    quiet: bool,
) -> io::Result<()> {
    if report.is_clean() && quiet {
        return Ok(());
    }
    if report.levels > 0 {
        writeln!(
            out,
            "{name}: {} blocks: {} keys, {} versions ({:.2} a key), {} levels, {} leaves ({:.0}% \
             full, {} empty), {} inner pages, {} overflow pages, {} free blocks, {} unfinished \
             splits",
            row.blocks,
            report.keys,
            report.versions,
            report.versions_per_key(),
            report.levels,
            report.leaves,
            report.leaf_fill_percent(),
            report.empty_leaves,
            report.inner_pages,
            report.overflow_pages,
            report.free_blocks,
            report.unfinished_splits,
        )?;
    }
    for problem in &report.problems {
        writeln!(out, "{name}: PROBLEM: {problem}")?;
    }
    if report.problems_more > 0 {
        writeln!(out, "{name}: PROBLEM: {} more", report.problems_more)?;
    }
    if report.is_clean() {
        writeln!(out, "{name}: ok")?;
    }
    Ok(())
}

fn name(file: FileNo) -> String {
    rd_store::relation::path(file, 0)
}
