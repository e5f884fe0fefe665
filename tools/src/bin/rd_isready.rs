//! `rd_isready`: whether a server accepts connections, as `pg_isready` says it.

use anyhow::Result;
use clap::{ArgAction, Parser};
use rd_tools::cli;
use rd_tools::datadir;
use rd_tools::probe::{self, Answer, Target};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const NAME: &str = "rd_isready";
const REJECTING: u8 = 1;
const NO_RESPONSE: u8 = 2;
/// Nothing was asked: a mistake on the command line, or in the data directory that it names.
const NO_ATTEMPT: u8 = 3;
/// A time limit that never comes, for `-t 0` where there must be one.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 86_400);
/// Behind the options in the help.
const NOTES: &str = "\
With -D (or with RDDATA set and neither -h nor -p given) it reads the data directory's\n\
postmaster.pid, and tells a server that recovers and advances from one that is stuck: one whose\n\
progress does not change within the time of -t.\n\n\
Exit code: 0 accepting, 1 rejecting (starting, recovering, shutting down), 2 no response,\n\
3 no attempt: mistakes on the command line, or no data directory that can be read.";

/// Checks whether a Redoubt server accepts connections.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    /// Server's host, or the directory of its unix socket [default: 127.0.0.1]
    #[arg(short = 'h', long, value_name = "HOSTNAME")]
    host: Option<String>,
    /// Server's port [default: 7432]
    #[arg(short = 'p', long, value_name = "PORT")]
    port: Option<u16>,
    /// Data directory of the server
    #[arg(
        short = 'D',
        long = "rddata",
        alias = "pgdata",
        value_name = "DIRECTORY"
    )]
    #[arg(conflicts_with_all = ["host", "port"])]
    data_dir: Option<PathBuf>,
    /// Seconds to wait, 0 disables
    #[arg(short = 't', long, value_name = "SECS", default_value_t = 3)]
    timeout: u32,
    /// Print nothing
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

fn main() -> ExitCode {
    cli::main(NAME, NO_ATTEMPT, |arguments: Arguments| run(&arguments))
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let timeout = match arguments.timeout {
        0 => None,
        seconds => Some(Duration::from_secs(u64::from(seconds))),
    };
    let addressed = arguments.host.is_some() || arguments.port.is_some();
    let dir = match &arguments.data_dir {
        Some(dir) => Some(dir.clone()),
        None if addressed => None,
        None => datadir::from_environment(),
    };
    let print = |place: &str, words: &str| {
        if !arguments.quiet {
            cli::print(&format!("{place} - {words}\n"));
        }
    };
    let (place, answer) = match dir {
        Some(dir) => {
            let place = dir.display().to_string();
            match probe::look(&dir, timeout.unwrap_or(FOR_EVER)) {
                Ok(answer) => (place, answer),
                Err(error) => {
                    cli::print_error(NAME, &error);
                    print(&place, "no attempt");
                    return Ok(ExitCode::from(NO_ATTEMPT));
                }
            }
        }
        None => {
            let host = arguments.host.as_deref().unwrap_or(probe::HOST);
            let port = arguments.port.unwrap_or(probe::PORT);
            let answer = probe::ask(&Target::new(host, port), timeout);
            (format!("{host}:{port}"), answer)
        }
    };
    let (code, words) = match &answer {
        Answer::Accepting => (0, "accepting connections".to_owned()),
        Answer::Rejecting(why) => (REJECTING, format!("rejecting connections: {why}")),
        Answer::NoResponse => (NO_RESPONSE, "no response".to_owned()),
    };
    print(&place, &words);
    Ok(ExitCode::from(code))
}
