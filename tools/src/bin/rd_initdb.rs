//! `rd_initdb`: makes a data directory, as `initdb` does.

use anyhow::{Context, Result};
use clap::{ArgAction, Parser};
use rd_base::Config;
use rd_engine::init::{InitError, InitOptions, init_data_directory_unless};
use rd_sys::process::Signal;
use rd_sys::signals::Signals;
use rd_tools::cli::{print, with_hint};
use rd_tools::{cli, datadir};
use std::path::Path;
use std::process::ExitCode;

const NAME: &str = "rd_initdb";
/// Largest segment, in megabytes.
const SEGMENT_MB_MAX: u32 = 1024;
/// The segment size for which the parameters' defaults are made.
const DEFAULT_SEGMENT_MB: u32 = 16;

/// Makes a data directory for a Redoubt server.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true)]
struct Arguments {
    #[command(flatten)]
    data_dir: datadir::DataDir,
    /// Size of a file of the write-ahead log, in megabytes: a power of two from 1 to 1024
    #[arg(long, value_name = "SIZE", default_value_t = DEFAULT_SEGMENT_MB)]
    #[arg(value_parser = segment_mb)]
    wal_segsize: u32,
    /// Do not print what to do next
    #[arg(long)]
    no_instructions: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

fn segment_mb(text: &str) -> Result<u32, String> {
    let megabytes = text.parse::<u32>().ok();
    let valid = |mb: &u32| mb.is_power_of_two() && *mb <= SEGMENT_MB_MAX;
    megabytes
        .filter(valid)
        .ok_or_else(|| "must be a power of two between 1 and 1024".to_owned())
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let dir = arguments.data_dir.resolve(NAME)?;
    let sizes = log_sizes(arguments.wal_segsize);
    let pairs: Vec<(&str, &str)> = sizes
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let config = Config::from_pairs(&pairs)
        .and_then(|config| config.with_wal_segment_size(u64::from(arguments.wal_segsize) << 20))
        .context("bad configuration")?;
    print(&format!(
        "The files belonging to this data directory will be owned by user \"{}\".\n\
         This user must also own the server process.\n\n\
         Data page checksums are enabled.\n\n",
        user()
    ));
    let options = InitOptions {
        config: &config,
        system_identifier: rd_sys::random::u64(),
        now_us: rd_sys::clock::wall_us(),
        conf_lines: &conf_lines(&sizes),
    };
    // Who is told to end takes away what was made so far.
    let signals = Signals::install_unless_ignored(&[Signal::Int, Signal::Term, Signal::Hup])
        .context("could not catch signals")?;
    let mut line_open = false;
    let mut report = |text: &str| {
        line_open = !text.ends_with('\n');
        print(text);
    };
    let must_stop = || !signals.take().is_empty();
    let made = init_data_directory_unless(&dir, &options, &mut report, &must_stop);
    if line_open {
        print("\n");
    }
    match made {
        Ok(()) => {}
        Err(error @ InitError::NotEmpty(_)) => {
            let hint = format!(
                "Choose another directory with -D, or empty \"{}\".",
                dir.display()
            );
            return Err(with_hint(error, hint));
        }
        Err(error) => return Err(error.into()),
    }
    if !arguments.no_instructions {
        print(&next_steps(&dir));
    }
    Ok(ExitCode::SUCCESS)
}

/// Parameters whose defaults are too small for segments of this size: the log's least and largest
/// size, in as many segments as in PostgreSQL.
fn log_sizes(segment_mb: u32) -> Vec<(&'static str, String)> {
    if segment_mb <= DEFAULT_SEGMENT_MB {
        return Vec::new();
    }
    let megabytes = |segments: u32| format!("{}MB", u64::from(segments) * u64::from(segment_mb));
    vec![
        ("min_wal_size", megabytes(5)),
        ("max_wal_size", megabytes(64)),
    ]
}

/// What `redoubt.conf` says of them.
fn conf_lines(parameters: &[(&str, String)]) -> String {
    if parameters.is_empty() {
        return String::new();
    }
    let lines = parameters
        .iter()
        .map(|(name, value)| format!("{name} = {value}\n"));
    "\n# For the size of a log file, rd_initdb has set:\n".to_owned() + &lines.collect::<String>()
}

fn user() -> String {
    let uid = nix::unistd::geteuid();
    match nix::unistd::User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    }
}

fn next_steps(dir: &Path) -> String {
    let shown = dir.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    let shown = if shown.chars().all(plain) {
        shown
    } else {
        format!("'{}'", shown.replace('\'', r"'\''"))
    };
    format!(
        "\nSuccess. You can now start the server using:\n\n    \
             rd_ctl -D {shown} -l logfile start\n\n\
         and talk to it using:\n\n    \
             rd_cli -D {shown}\n\n"
    )
}
