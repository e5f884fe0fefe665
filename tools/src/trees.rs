//! The trees of a stopped server's data directory, checked file by file, as `rd_verify` and
//! `rd_checksums --verify-trees` do.

use crate::cli::with_hint;
use anyhow::{Context, Result};
use rd_base::error::with_causes;
use rd_base::{FileNo, PageTag};
use rd_engine::namespace::names_of_files;
use rd_engine::verify::{FilePages, Report, verify};
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::{ControlFile, DbState, FileRow};
use rd_format::held::{self, Held};
use rd_format::meta;
use rd_format::page::PageBytes;
use rd_store::relation::RelationFiles;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// The namespaces, by their files; or why the catalog cannot be read.
pub type Names = Result<BTreeMap<FileNo, Vec<u8>>, String>;

/// The namespaces of all files, from the catalog.
pub fn names(relations: &RelationFiles, control: &ControlFile) -> Names {
    let row = control.files.iter().find(|row| row.file == CATALOG_FILE);
    let row = row.ok_or("pg_control does not name its file")?;
    let names = names_of_files(&FilePages {
        relations,
        file: CATALOG_FILE,
        blocks: row.blocks,
    })?;
    let names = names.into_iter().map(|(file, named)| (file, named.name));
    Ok(names.collect())
}

/// The relation files to look at: all, or the one that is asked for.
///
/// # Errors
/// When `pg_control` does not name it.
pub fn rows(control: &ControlFile, file: Option<u32>) -> Result<Vec<&FileRow>> {
    let wanted = |row: &&FileRow| file.is_none_or(|file| row.file.get() == file);
    let rows: Vec<&FileRow> = control.files.iter().filter(wanted).collect();
    match (file, rows.as_slice()) {
        (Some(file), []) => Err(with_hint(
            format!("pg_control names no relation file {file}"),
            "rd_controldata prints the relation files.",
        )),
        _ => Ok(rows),
    }
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

/// Whether the file is not there because its namespace is offline: its owner has it elsewhere.
pub fn is_away(relations: &RelationFiles, row: &FileRow) -> bool {
    row.access.is_offline() && matches!(relations.blocks_on_disk(row.file), Ok(None))
}

/// Checks one file.
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
        report.problems.push(with_causes(&*problem));
    }
    report
}

/// Holds the file's first page against `pg_control`.
fn check_meta(relations: &RelationFiles, control: &ControlFile, row: &FileRow) -> Result<()> {
    let mut page: PageBytes = [0; _];
    let tag = PageTag::new(row.file, rd_format::bitmap::META_BLOCK);
    relations.read_page(tag, &mut page).context("meta page")?;
    let meta = meta::read(&page);
    let wrong = match held::hold(&meta, row, control) {
        Held::Same | Held::HalfOpened => return Ok(()),
        Held::Foreign(found) => format!("the meta page is of the data directory {found}"),
        Held::OtherFile(found) => format!("the meta page is of file {found}"),
        Held::Ahead | Held::TooOld | Held::TooNew => format!(
            "the meta page has checkpoint count {}, SCN {}, stop SCN {}, and pg_control says {}, {}, \
             {}: the file is from another time",
            meta.checkpoint_count,
            meta.checkpoint_scn,
            meta.stop_scn,
            row.checkpoint_count,
            row.scn,
            row.header_stop_scn(),
        ),
    };
    anyhow::bail!(wrong)
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

/// Checks the trees of these files, and prints what was found; gives the number of problems.
///
/// # Errors
/// When that cannot be printed.
pub fn check_files(
    out: &mut impl Write,
    relations: &RelationFiles,
    control: &ControlFile,
    rows: &[&FileRow],
    quiet: bool,
) -> Result<u64> {
    let mut problems = 0;
    let names = names(relations, control);
    if !control.files.iter().any(|row| row.file == CATALOG_FILE) {
        problems += 1;
        let name = shown(&names, CATALOG_FILE);
        writeln!(
            out,
            "{name}: PROBLEM: pg_control does not name the catalog's file"
        )?;
    }
    for row in rows {
        if is_away(relations, row) {
            if !quiet {
                let name = shown(&names, row.file);
                writeln!(out, "{name}: not there: the namespace is offline")?;
            }
            continue;
        }
        let mut report = check(relations, control, row);
        if row.file == CATALOG_FILE {
            report.problems.extend(check_names(&names, control));
        }
        problems += report.problems.len() as u64 + report.problems_more;
        print(out, &shown(&names, row.file), row, &report, quiet)?;
    }
    Ok(problems)
}

/// A file's name, and whose it is.
pub fn shown(names: &Names, file: FileNo) -> String {
    match names.as_ref().ok().and_then(|names| names.get(&file)) {
        _ if file == CATALOG_FILE => format!("{} (the catalog)", name(file)),
        Some(namespace) => format!("{} ({})", name(file), String::from_utf8_lossy(namespace)),
        None => format!("{} (of no namespace)", name(file)),
    }
}
