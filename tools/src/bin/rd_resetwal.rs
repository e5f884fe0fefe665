//! `rd_resetwal`: gives a data directory a new, empty write-ahead log, as `pg_resetwal` does: the last
//! resort when the old one, or `pg_control`, is damaged.

use anyhow::Result;
use clap::{ArgAction, Parser};
use rd_format::control::CONTROL_FORMAT;
use rd_tools::cli::Verdict;
use rd_tools::resetwal::{self, Found, Plan};
use rd_tools::{cli, datadir};
use std::io::Write;
use std::process::ExitCode;

const NAME: &str = "rd_resetwal";
/// Where the values begin in the text, as in `pg_resetwal`.
const LABEL_WIDTH: usize = 38;
/// Behind the options in the help.
const NOTES: &str = "\
The server must be stopped. Without -f a directory whose server was not shut down cleanly, or whose\n\
pg_control cannot be read, is left as it is, and what would be lost is printed. With -f torn pages\n\
are mended from the double-write area first, and keys are counted anew; what the lost log would have\n\
completed may be there in part: run rd_verify, dump what is there, and load it into a new directory.\n\
Exit code: 0, or 1 if the log was not reset.";

/// Resets the write-ahead log of a Redoubt data directory.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    #[command(flatten)]
    data_dir: datadir::DataDir,
    /// Force the reset, even after an unclean shutdown or if pg_control values had to be guessed
    #[arg(short = 'f', long)]
    force: bool,
    /// No update, just show what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    // What is to be done is done, whether or not somebody reads of it.
    let mut out = Verdict::default();
    let outcome = reset(arguments, &mut out);
    out.finish(NAME);
    outcome
}

/// Does it, or says why not; `out` takes what is printed of that.
fn reset(arguments: Arguments, out: &mut Verdict) -> Result<ExitCode> {
    let dir = arguments.data_dir.resolve(NAME)?;
    datadir::check_usable(&dir)?;
    datadir::check_private(&dir)?;
    let _lock = datadir::lock(&dir)?;
    let found = resetwal::look(&dir)?;
    if let Some(why) = &found.guessed {
        let message = format!("pg_control exists but is broken; ignoring it\nDETAIL: {why}.");
        cli::print_warning(NAME, &message);
    }
    let is_guess_unproved = found.guessed.is_some() && !arguments.force;
    if arguments.dry_run || is_guess_unproved {
        let plan = found.plan()?;
        print_values(out, &found, &plan)?;
        print_loss(out, &found)?;
        if arguments.dry_run {
            return Ok(ExitCode::SUCCESS);
        }
        writeln!(
            out,
            "\nIf these values seem acceptable, use -f to force reset."
        )?;
        return Ok(ExitCode::from(cli::FAILURE));
    }
    if !found.is_clean() && !arguments.force {
        let loss = found.loss.as_ref().map(ToString::to_string);
        let details = loss.unwrap_or_default();
        let details = details.lines().map(|line| format!("\nDETAIL: {line}"));
        return Err(cli::with_hint(
            format!(
                "database server was not shut down cleanly{}",
                details.collect::<String>()
            ),
            "Starting the server loses nothing: it recovers. Resetting the write-ahead log might \
             cause data to be lost. If you want to proceed anyway, use -f to force reset.",
        ));
    }
    print_loss(out, &found)?;
    if !found.is_clean() {
        for line in found.mend()? {
            writeln!(out, "{line}")?;
        }
    }
    let plan = found.plan()?;
    for note in &plan.notes {
        cli::print_warning(NAME, note);
    }
    for warning in found.reset(&plan)? {
        cli::print_warning(NAME, &warning);
    }
    writeln!(out, "Write-ahead log reset")?;
    Ok(ExitCode::SUCCESS)
}

fn print_loss(out: &mut impl Write, found: &Found) -> Result<()> {
    match &found.loss {
        Some(loss) => writeln!(out, "{loss}")?,
        None if found.is_clean() => {
            writeln!(out, "The server was shut down cleanly: nothing is lost.")?;
        }
        None => writeln!(out, "There is no write-ahead log that could be read.")?,
    }
    Ok(())
}

fn print_values(out: &mut impl Write, found: &Found, plan: &Plan) -> Result<()> {
    let (control, next) = (&found.control, &plan.control);
    let title = match found.guessed {
        Some(_) => "Guessed pg_control values:",
        None => "Current pg_control values:",
    };
    let mut line = |label: &str, value: &dyn std::fmt::Display| {
        let label = format!("{label}:");
        writeln!(out, "{label:<LABEL_WIDTH$}{value}")
    };
    line(title.trim_end_matches(':'), &"")?;
    line("pg_control version number", &CONTROL_FORMAT)?;
    line("Database system identifier", &control.system_identifier)?;
    line(
        "Database cluster state",
        &match found.guessed {
            Some(_) => "unknown",
            None => control.state.name(),
        },
    )?;
    line("Latest checkpoint's TimeLineID", &found.timeline())?;
    if found.guessed.is_none() {
        line("Latest checkpoint's REDO location", &control.redo_lsn)?;
        line("Log durable up to", &control.durable_lsn)?;
    }
    line("Number of starts", &control.start_count)?;
    line("Next relation file", &next.next_file)?;
    line("Relation files", &next.files.len())?;
    line("Page size", &control.page_bytes)?;
    line("WAL page size", &control.wal_page_bytes)?;
    line("Bytes per WAL segment", &control.wal_segment_bytes)?;
    line("\nValues to be changed", &"")?;
    line("First log segment after reset", &plan.segment)?;
    line("First LSN after reset", &next.redo_lsn)?;
    for file in &next.files {
        let keys = format!("{} keys, {} blocks", file.key_count, file.blocks);
        line(&format!("Relation file {}", file.file), &keys)?;
    }
    for note in &plan.notes {
        cli::print_warning(NAME, note);
    }
    Ok(())
}
