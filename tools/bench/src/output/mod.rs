//! The figures of a run, for people and for programs.

mod csv;
mod json;
mod report;
mod text;

use crate::plan::Arguments;
use crate::results::Results;
use anyhow::{Context, Result};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Writes what was asked for.
///
/// # Errors
/// When a file cannot be written.
pub fn write(arguments: &Arguments, results: &Results) -> Result<()> {
    let targets = [
        (
            &arguments.csv,
            csv::render as fn(&Arguments, &Results) -> Result<String>,
        ),
        (&arguments.json, json::render),
        (&arguments.report, report::render),
    ];
    let mut is_stdout_taken = false;
    for (path, render) in targets {
        if let Some(path) = path {
            is_stdout_taken |= path == Path::new("-");
            put(path, &render(arguments, results)?)?;
        }
    }
    if !arguments.quiet && !is_stdout_taken {
        put(Path::new("-"), &text::render(arguments, results))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<()> {
    if path == Path::new("-") {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    }
    fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
