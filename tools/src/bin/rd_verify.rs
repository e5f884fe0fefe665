//! `rd_verify`: checks every page, link and bit of a data directory's relation files.

use anyhow::{Result, anyhow};
use clap::{ArgAction, Parser};
use rd_format::control::DbState;
use rd_store::relation::RelationFiles;
use rd_sys::storage::{RealStorage, Storage};
use rd_tools::cli::{Verdict, with_hint};
use rd_tools::{cli, control, datadir, trees};
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
    #[command(flatten)]
    data_dir: datadir::DataDir,
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
    let dir = arguments.data_dir.resolve(NAME)?;
    datadir::check_usable(&dir)?;
    let _lock = datadir::lock(&dir)?;
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
    let rows = trees::rows(&control, arguments.file)?;
    let mut out = Verdict::default();
    let problems = trees::check_files(&mut out, &relations, &control, &rows, arguments.quiet)?;
    out.finish(NAME);
    if problems > 0 {
        cli::print_error(NAME, &anyhow!("{problems} problems found"));
        return Ok(ExitCode::from(cli::FAILURE));
    }
    Ok(ExitCode::SUCCESS)
}
