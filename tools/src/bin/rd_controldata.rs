//! `rd_controldata`: what `global/pg_control` says, in the layout and words of `pg_controldata`; and
//! what `global/history` remembers.

use anyhow::{Context, Result};
use clap::{ArgAction, Parser};
use rd_store::history::{HISTORY_PATH, Remembered, read};
use rd_sys::storage::RealStorage;
use rd_tools::{cli, control, controldata, datadir, history, reading};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

const NAME: &str = "rd_controldata";
/// Behind the options in the help.
const NOTES: &str = "\
The server may be running. If one of the two slots of the control file is damaged, a warning\n\
names it and the other is shown. Damaged records of the history are named and passed over.\n\
Exit code: 0, or 1 if no slot is valid, or the history cannot be read.";

/// Displays control information of a Redoubt data directory.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    #[command(flatten)]
    data_dir: datadir::DataDir,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print the last checkpoints and recoveries instead
    #[arg(long)]
    history: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let dir = arguments.data_dir.resolve(NAME)?;
    let reading = control::read(&dir)?;
    let path = reading.path.clone();
    let chosen = reading.chosen()?;
    if let Err(error) = &chosen.other {
        cli::print_warning(
            NAME,
            &format!(
                "slot {} of control file \"{}\" is not valid: {error}\n\
                 HINT: The server uses the other slot, shown here, and writes this one anew.",
                1 - chosen.slot,
                path.display()
            ),
        );
    }
    if let Err(error) = chosen.control.compatible() {
        cli::print_warning(
            NAME,
            &format!("this program cannot serve the directory: {error}"),
        );
    }
    let text = if arguments.history {
        let remembered = remembered(&dir, chosen.control.system_identifier)?;
        if arguments.json {
            format!("{:#}\n", history::json(&remembered))
        } else {
            history::text(&remembered)
        }
    } else if arguments.json {
        format!("{:#}\n", controldata::json(&chosen))
    } else {
        controldata::text(&chosen)
    };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Reads the history; names what of it is damaged.
fn remembered(dir: &Path, system_identifier: u64) -> Result<Remembered> {
    let path = dir.join(HISTORY_PATH);
    reading::check_regular(&path)
        .with_context(|| format!("could not open file \"{}\" for reading", path.display()))?;
    let storage = RealStorage::new(dir.to_owned());
    let remembered = read(&storage, system_identifier)?;
    for record in &remembered.damaged {
        cli::print_warning(
            NAME,
            &format!("a record of \"{HISTORY_PATH}\" is passed over: {record}"),
        );
    }
    Ok(remembered)
}
