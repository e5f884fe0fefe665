//! `rd_cli`: talks to a server, as `redis-cli` does; with history, completion and help from the
//! server's own table of commands.

use anyhow::{Context, Result, bail};
use clap::{ArgAction, Parser};
use rd_tools::cli::with_hint;
use rd_tools::probe::{self, Target};
use rd_tools::shell::session::{Protocol, Session};
use rd_tools::shell::{interactive, line, pipe, reply};
use rd_tools::{cli, datadir, pidfile};
use rd_wire::Reply;
use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

const NAME: &str = "rd_cli";
/// Behind the options in the help.
const NOTES: &str = "\
With a command, runs it; without, reads commands from the terminal or from standard input.\n\
Exit code: 0, or 1 if the server cannot be reached, and with -e if a command fails.";

/// Talks to a Redoubt server.
#[derive(Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
struct Arguments {
    /// Server's host, or the directory of its unix socket [default: 127.0.0.1]
    #[arg(short = 'h', long, value_name = "HOSTNAME")]
    host: Option<String>,
    /// Server's port [default: 7432]
    #[arg(short = 'p', long, value_name = "PORT")]
    port: Option<u16>,
    /// Server's unix socket, in place of host and port
    #[arg(short = 's', long, value_name = "SOCKET", conflicts_with_all = ["host", "port"])]
    socket: Option<PathBuf>,
    /// Data directory of a running server, in place of host and port [default: RDDATA, if a server
    /// runs there]
    #[arg(
        short = 'D',
        long = "rddata",
        alias = "pgdata",
        value_name = "DIRECTORY"
    )]
    #[arg(conflicts_with_all = ["host", "port", "socket"])]
    data_dir: Option<PathBuf>,
    /// Database number
    #[arg(short = 'n', value_name = "DB", default_value_t = 0)]
    db: u64,
    /// Speak RESP2
    #[arg(short = '2', conflicts_with = "resp3")]
    resp2: bool,
    /// Speak RESP3
    #[arg(short = '3')]
    resp3: bool,
    /// Read the last argument from standard input
    #[arg(short = 'x')]
    last_from_stdin: bool,
    /// Exit with 1 when a command fails
    #[arg(short = 'e')]
    exit_on_error: bool,
    /// Run the command so many times
    #[arg(short = 'r', value_name = "REPEAT", default_value_t = 1)]
    repeat: u64,
    /// With -r: seconds between two, such as 0.1
    #[arg(short = 'i', value_name = "INTERVAL", default_value_t = 0.0)]
    interval: f64,
    /// Print replies as they are (default when the output is no terminal)
    #[arg(long, overrides_with = "no_raw")]
    raw: bool,
    /// Print replies for people, even when the output is no terminal
    #[arg(long, overrides_with = "raw")]
    no_raw: bool,
    /// Load requests, in the protocol's own form, from standard input
    #[arg(long, conflicts_with_all = ["command", "last_from_stdin"])]
    pipe: bool,
    /// With --pipe: seconds to wait for a reply once all is sent, 0 for ever
    #[arg(long, value_name = "SECS", default_value_t = 30)]
    pipe_timeout: u64,
    /// Show this help, then exit
    #[arg(long, action = ArgAction::HelpShort)]
    help: Option<bool>,
    /// A command and its arguments
    #[arg(value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    cli::main(NAME, cli::FAILURE, run)
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let target = target(&arguments)?;
    let protocol = if arguments.resp3 {
        Protocol::Resp3
    } else {
        Protocol::Resp2
    };
    let mut session = Session::new(target, protocol, arguments.db);
    let printer = Printer {
        raw: arguments.raw || (!arguments.no_raw && !io::stdout().is_terminal()),
        exit_on_error: arguments.exit_on_error,
    };
    if arguments.pipe {
        return load(session, arguments.pipe_timeout);
    }
    if arguments.command.is_empty() && !arguments.last_from_stdin {
        if io::stdin().is_terminal() {
            interactive::run(&mut session, printer.raw)?;
            return Ok(ExitCode::SUCCESS);
        }
        return from_lines(&mut session, &printer);
    }
    let mut words: Vec<Vec<u8>> = arguments
        .command
        .into_iter()
        .map(OsStringExt::into_vec)
        .collect();
    if arguments.last_from_stdin {
        let mut last = Vec::new();
        io::stdin()
            .read_to_end(&mut last)
            .context("could not read standard input")?;
        words.push(last);
    }
    let mut success = true;
    for round in 0..arguments.repeat {
        if round > 0 && arguments.interval > 0.0 {
            let interval = Duration::try_from_secs_f64(arguments.interval);
            std::thread::sleep(interval.context("bad interval")?);
        }
        success &= printer.run(&mut session, &words)?;
    }
    Ok(if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(cli::FAILURE)
    })
}

/// Where the server is.
fn target(arguments: &Arguments) -> Result<Target> {
    if let Some(path) = &arguments.socket {
        return Ok(Target::Unix(path.clone()));
    }
    if let Some(dir) = &arguments.data_dir {
        return target_of(dir)?.ok_or_else(|| {
            with_hint(
                format!("no server running in \"{}\"", dir.display()),
                format!("Start it: rd_ctl start -D \"{}\"", dir.display()),
            )
        });
    }
    if arguments.host.is_none()
        && arguments.port.is_none()
        && let Some(dir) = datadir::from_environment()
        && let Ok(Some(target)) = target_of(&dir)
    {
        return Ok(target);
    }
    let host = arguments.host.as_deref().unwrap_or(probe::HOST);
    Ok(Target::new(host, arguments.port.unwrap_or(probe::PORT)))
}

/// The most private way to the server that runs on a data directory; none if none runs.
fn target_of(dir: &Path) -> Result<Option<Target>> {
    datadir::check_usable(dir)?;
    let server = pidfile::running(dir).context("could not read the server's pid file")?;
    Ok(server.and_then(|server| Target::of_server(&server).into_iter().next()))
}

/// How replies go to standard output.
struct Printer {
    raw: bool,
    exit_on_error: bool,
}

impl Printer {
    /// Runs a command and prints its reply; false if it is an error that matters.
    fn run(&self, session: &mut Session, words: &[Vec<u8>]) -> Result<bool> {
        let Some(answer) = session.run(words)? else {
            return Ok(true);
        };
        self.print(words, &answer)?;
        Ok(!self.exit_on_error || answer.error().is_none())
    }

    fn print(&self, words: &[Vec<u8>], answer: &Reply) -> Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(&reply::shown(words, answer, self.raw))?;
        Ok(out.flush()?)
    }
}

/// Runs each line of standard input.
fn from_lines(session: &mut Session, printer: &Printer) -> Result<ExitCode> {
    for (number, typed) in io::stdin().lock().split(b'\n').enumerate() {
        let typed = typed.context("could not read standard input")?;
        let typed = typed.strip_suffix(b"\r").unwrap_or(&typed);
        let words = match line::words(typed) {
            Ok(words) if words.is_empty() => continue,
            Ok(words) => words,
            Err(problem) => {
                let line = number + 1;
                if printer.exit_on_error {
                    bail!("line {line} of standard input: {problem}");
                }
                writeln!(io::stdout(), "{problem}")?;
                continue;
            }
        };
        if matches!(words.as_slice(), [word] if is_farewell(word)) {
            break;
        }
        if !printer.run(session, &words)? {
            return Ok(ExitCode::from(cli::FAILURE));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_farewell(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"quit") || word.eq_ignore_ascii_case(b"exit")
}

/// Bulk load from standard input.
fn load(session: Session, timeout: u64) -> Result<ExitCode> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(with_hint(
            "--pipe reads requests from standard input, which is a terminal",
            "rd_cli --pipe < requests.txt",
        ));
    }
    let client = session.into_client()?;
    let timeout = (timeout > 0).then(|| Duration::from_secs(timeout));
    let counts = pipe::run(client, stdin, input_bytes(), timeout)?;
    cli::print(&format!(
        "All data transferred. Waiting for the last reply...\n\
         Last reply received from server.\n\
         errors: {}, replies: {}\n",
        counts.errors, counts.replies
    ));
    Ok(ExitCode::from(if counts.errors == 0 {
        0
    } else {
        cli::FAILURE
    }))
}

/// Length of standard input, if it is a file.
fn input_bytes() -> Option<u64> {
    let metadata = std::fs::metadata("/dev/stdin").ok()?;
    metadata.is_file().then_some(metadata.len())
}
