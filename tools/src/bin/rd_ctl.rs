//! `rd_ctl`: initialises, starts, stops and signals a server, as `pg_ctl` does.

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser, ValueEnum};
use rd_base::error::with_causes;
use rd_base::units::{self, Measure};
use rd_tools::cli::with_hint;
use rd_tools::ctl::{self, Mode, OPTIONS_FILE, Prepared, Start, Waiting};
use rd_tools::pidfile::{self, Status};
use rd_tools::{cli, datadir, deadline, words};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

const NAME: &str = "rd_ctl";
/// `status`: no server is running.
const NOT_RUNNING: u8 = 3;
/// `status`: there is no usable data directory.
const NO_DATA_DIR: u8 = 4;
/// Behind the options in the help.
const NOTES: &str = "\
Operations:\n  \
init     make a data directory\n  \
start    start the server in the background\n  \
stop     stop the server\n  \
restart  stop it and start it again, with the options it was started with\n  \
reload   make it read its configuration again\n  \
status   say whether it is running\n  \
kill     send a signal to a process: ABRT HUP INT KILL QUIT TERM USR1 USR2\n\n\
Shutdown modes:\n  \
smart      quit after all clients have disconnected\n  \
fast       quit directly, with proper shutdown\n  \
immediate  quit without complete shutdown; will lead to recovery on restart\n\n\
Exit code: 0, or 1 for any failure and for waiting in vain. `status` gives 0 if a server is\n\
running, 3 if not, and 4 if there is no usable data directory.";

/// Initializes, starts, stops or controls a Redoubt server.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    /// What to do
    #[arg(value_enum)]
    operation: Operation,
    /// For kill: the signal's name and the process
    #[arg(value_names = ["SIGNALNAME", "PID"], num_args = 0..=2)]
    kill: Vec<String>,
    /// Data directory [default: the environment variable RDDATA]
    #[arg(
        short = 'D',
        long = "rddata",
        alias = "pgdata",
        value_name = "DIRECTORY"
    )]
    data_dir: Option<PathBuf>,
    /// Append the server's log to this file [default: server.log in the data directory]
    #[arg(short = 'l', long, value_name = "FILENAME")]
    log: Option<PathBuf>,
    /// How to stop
    #[arg(
        short = 'm',
        long,
        value_enum,
        default_value = "fast",
        ignore_case = true
    )]
    mode: Mode,
    /// Wait until the operation is complete (default)
    #[arg(short = 'w', long, overrides_with = "no_wait")]
    wait: bool,
    /// Do not wait until the operation is complete
    #[arg(short = 'W', long, overrides_with = "wait")]
    no_wait: bool,
    /// Seconds to wait
    #[arg(
        short = 't',
        long,
        value_name = "SECS",
        env = "RDCTLTIMEOUT",
        hide_env_values = true,
        default_value_t = 60
    )]
    timeout: u64,
    /// For stop: be gone after this time, with as much written as can be until then
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["mode", "no_wait"])]
    deadline: Option<Duration>,
    /// Only print errors, no informational messages
    #[arg(short = 's', long)]
    silent: bool,
    /// Command-line options for redoubt, or for rd_initdb
    #[arg(short = 'o', long, value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,
    /// The server's program, normally not necessary
    #[arg(short = 'p', value_name = "PATH-TO-REDOUBT")]
    server: Option<PathBuf>,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Operation {
    /// Make a data directory
    #[value(alias = "initdb")]
    Init,
    /// Start the server in the background
    Start,
    /// Stop the server
    Stop,
    /// Stop the server and start it again, with the options it was started with
    Restart,
    /// Make the server read its configuration again
    Reload,
    /// Say whether a server is running
    Status,
    /// Send a signal to a process
    Kill,
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let waiting = Waiting {
        wait: !arguments.no_wait,
        timeout: Duration::from_secs(arguments.timeout),
        silent: arguments.silent,
    };
    if arguments.operation == Operation::Kill {
        let [name, pid] = arguments.kill.as_slice() else {
            return Err(with_hint(
                "missing arguments for kill mode",
                "rd_ctl kill SIGNALNAME PID",
            ));
        };
        ctl::kill(name, pid)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(extra) = arguments.kill.first() {
        bail!("too many command-line arguments (first is \"{extra}\")");
    }
    if arguments.deadline.is_some() && arguments.operation != Operation::Stop {
        bail!("only stop has a deadline");
    }
    let dir = datadir::resolve(NAME, arguments.data_dir.clone())?;
    match arguments.operation {
        Operation::Init => return init(&dir, &arguments),
        Operation::Status => return status(&dir),
        Operation::Start => {
            let options = options(&arguments)?;
            let prepared = Prepared::new(to_start(dir, &arguments, options))?;
            ctl::start(prepared, waiting)?;
        }
        Operation::Stop => stop(&dir, &arguments, waiting)?,
        Operation::Restart => restart(dir, &arguments, waiting)?,
        Operation::Reload => ctl::reload(&ctl::server(&dir)?, waiting)?,
        Operation::Kill => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn stop(dir: &Path, arguments: &Arguments, waiting: Waiting) -> Result<()> {
    let server = ctl::server(dir)?;
    match arguments.deadline {
        Some(deadline) => deadline::stop(dir, &server, deadline, waiting),
        None => ctl::stop(dir, &server, arguments.mode, waiting),
    }
}

/// A time with its unit; seconds without one.
fn duration(text: &str) -> Result<Duration, String> {
    let has_unit = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let base = if has_unit { 1 } else { units::SECOND };
    let us = units::parse(text, Measure::Duration, base);
    match us.map_err(|error| error.to_string())? {
        0 => Err("must be more than nothing".to_owned()),
        us => Ok(Duration::from_micros(us)),
    }
}

/// The options of `-o`, which may be repeated, as words.
fn options(arguments: &Arguments) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for line in &arguments.options {
        let split = words::split(line);
        all.extend(split.with_context(|| format!("a quote is not closed in -o {line}"))?);
    }
    Ok(all)
}

/// What is to be started, with these options.
fn to_start(dir: PathBuf, arguments: &Arguments, options: Vec<String>) -> Start {
    Start {
        data_dir: dir,
        server: arguments.server.clone(),
        log: arguments.log.clone(),
        options,
    }
}

fn restart(dir: PathBuf, arguments: &Arguments, waiting: Waiting) -> Result<()> {
    let server = ctl::server(&dir);
    if server.is_err() {
        datadir::check_usable(&dir)?;
    }
    // Before anything is stopped: a server that came back elsewhere, or not at all, would be worse than
    // the old one.
    let options = restart_options(&dir, arguments, server.is_ok())?;
    let prepared = Prepared::new(to_start(dir.clone(), arguments, options))?;
    match server {
        Ok(server) => {
            // A start needs the old server gone, whatever was said of waiting.
            let waiting = Waiting {
                wait: true,
                ..waiting
            };
            ctl::stop(&dir, &server, arguments.mode, waiting)?;
        }
        Err(error) => {
            cli::print_warning(NAME, &with_causes(&*error));
            ctl::say(waiting, "trying to start server anyway");
        }
    }
    ctl::start(prepared, waiting)
}

/// The options of the command line, or else those of the last start. A directory whose server does
/// not run may never have been started.
fn restart_options(dir: &Path, arguments: &Arguments, is_running: bool) -> Result<Vec<String>> {
    if !arguments.options.is_empty() {
        return options(arguments);
    }
    let why = match ctl::last_options(dir) {
        Ok(Some(options)) => return Ok(options),
        Ok(None) if !is_running => return Ok(Vec::new()),
        Ok(None) => format!("there is no \"{}\"", dir.join(OPTIONS_FILE).display()),
        Err(error) => with_causes(&*error),
    };
    Err(with_hint(
        format!("the options that the server was started with are not known: {why}"),
        "Name them with -o; without any: -o ''.",
    ))
}

fn init(dir: &Path, arguments: &Arguments) -> Result<ExitCode> {
    let program = ctl::sibling("rd_initdb")?;
    let mut command = Command::new(&program);
    command.arg("-D").arg(dir).args(options(arguments)?);
    if arguments.silent {
        command.stdout(Stdio::null());
    }
    let status = command
        .status()
        .with_context(|| format!("could not run \"{}\"", program.display()))?;
    if !status.success() {
        bail!("data directory initialization failed");
    }
    Ok(ExitCode::SUCCESS)
}

fn status(dir: &Path) -> Result<ExitCode> {
    if let Err(error) = datadir::check_usable(dir) {
        cli::print_error(NAME, &error);
        return Ok(ExitCode::from(NO_DATA_DIR));
    }
    let Some(server) = pidfile::running(dir).context("could not read the server's pid file")?
    else {
        cli::print(&format!("{NAME}: no server running\n"));
        return Ok(ExitCode::from(NOT_RUNNING));
    };
    let mut text = format!("{NAME}: server is running (PID: {})\n", server.pid);
    match &server.status {
        Status::Ready => {}
        Status::Starting => text.push_str("it is starting\n"),
        Status::Recovering(progress) => {
            text.push_str(&format!("it is recovering: {}\n", progress.in_words()));
        }
        Status::Stopping => text.push_str("it is shutting down\n"),
    }
    // To show it is a courtesy.
    if let Ok(Some(line)) = ctl::options_line(dir) {
        text.push_str(&line);
    }
    cli::print(&text);
    Ok(ExitCode::SUCCESS)
}
