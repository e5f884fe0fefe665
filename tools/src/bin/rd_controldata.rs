//! `rd_controldata`: what `global/pg_control` says, in the layout and words of `pg_controldata`; and
//! what `global/history` remembers.

use anyhow::Result;
use clap::{ArgAction, Parser};
use rd_tools::controldata::{Wanted, shown};
use rd_tools::{cli, datadir};
use std::io::{self, Write};
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
    let wanted = Wanted {
        json: arguments.json,
        history: arguments.history,
    };
    let text = shown(&dir, wanted, &mut |warning| {
        cli::print_warning(NAME, warning);
    })?;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
