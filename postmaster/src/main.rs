//! `redoubt`: the server. This file is the order of the boot and nothing else; what follows is
//! `server`.
//!
//! Invariants: one thread, from here to the end; nothing in the data directory is touched before
//! its lock is held, nor by its absolute path once it is entered; no child is forked before signals
//! are caught.

mod admission;
mod children;
mod datadir;
mod in_place;
mod listen;
mod options_file;
mod pidfile;
mod place;
mod progress;
mod reap;
mod restart;
mod server;
mod state;
mod welcome;

use anyhow::{Context, Result};
use children::Children;
use clap::Parser;
use listen::Listeners;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use pidfile::{Identity, PidFile};
use place::{HERE, Place};
use rd_base::error::with_causes;
use rd_base::words::LogMinMessages;
use rd_base::{Config, Role, logline};
use rd_engine::init::{InitError, InitOptions, init_data_directory_unless};
use rd_store::control_file;
use rd_sys::fault;
use rd_sys::process::Signal;
use rd_sys::signals::Signals;
use rd_sys::storage::RealStorage;
use server::{Boot, Server};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Descriptors that a backend may need beside those of its connections: files, events, sockets.
const DESCRIPTORS_BESIDE: u64 = 256;

/// Each of these ends the making of a data directory.
const STOPPING: [Signal; 3] = [Signal::Term, Signal::Int, Signal::Quit];

/// Durable transactional ordered key-value server, spoken to over the Redis protocol.
///
/// Serves the data directory in the foreground until SIGTERM (waits for clients to leave), SIGINT
/// or Ctrl-C (ends them and stops in order) or SIGQUIT (stops at once; the next start recovers).
/// A data directory that does not exist is initialised; in the place of an empty one, or inside it,
/// only rd_initdb makes one: it may be the mount point of a volume that is not there.
#[derive(Parser)]
#[command(name = "redoubt", version, disable_help_flag = true)]
struct Arguments {
    /// Data directory [default: $RDDATA, or ./data]
    #[arg(short = 'D', value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
    /// Set a parameter, as in redoubt.conf; may be repeated
    #[arg(short = 'c', value_name = "NAME=VALUE", value_parser = assignment)]
    settings: Vec<(String, String)>,
    /// TCP port (parameter port)
    #[arg(short = 'p', value_name = "PORT")]
    port: Option<String>,
    /// Addresses to listen on (parameter listen_addresses)
    #[arg(short = 'h', value_name = "HOST")]
    host: Option<String>,
    /// Directory of the unix socket (parameter unix_socket_directory)
    #[arg(short = 'k', value_name = "DIRECTORY")]
    socket_dir: Option<PathBuf>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err("expected NAME=VALUE".to_owned()),
    }
}

impl Arguments {
    fn data_dir(&self) -> PathBuf {
        let from_environment = || std::env::var_os("RDDATA").filter(|dir| !dir.is_empty());
        let given = self
            .data_dir
            .clone()
            .or_else(|| from_environment().map(PathBuf::from));
        given.unwrap_or_else(|| PathBuf::from("data"))
    }

    /// The parameters in the order in which they take effect: the short options last.
    fn settings(&self) -> Result<Vec<(String, String)>> {
        let mut settings = self.settings.clone();
        let mut push = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
        if let Some(port) = &self.port {
            push("port", port);
        }
        if let Some(host) = &self.host {
            push("listen_addresses", host);
        }
        if let Some(dir) = &self.socket_dir {
            let dir = absolute(dir)?;
            push(
                "unix_socket_directory",
                dir.to_str().context("-k is not UTF-8")?,
            );
        }
        Ok(settings)
    }

    /// The same again, for the next start.
    fn command_line(&self) -> Result<String> {
        let mut words: Vec<OsString> = std::env::args_os().take(1).collect();
        let mut push =
            |option: &str, value: &OsStr| words.extend([option.into(), value.to_owned()]);
        if let Some(dir) = &self.data_dir {
            push("-D", dir.as_os_str());
        }
        for (name, value) in &self.settings {
            push("-c", format!("{name}={value}").as_ref());
        }
        if let Some(port) = &self.port {
            push("-p", port.as_ref());
        }
        if let Some(host) = &self.host {
            push("-h", host.as_ref());
        }
        if let Some(dir) = &self.socket_dir {
            push("-k", absolute(dir)?.as_os_str());
        }
        Ok(options_file::render(words.into_iter()))
    }
}

/// What -k names, from wherever the next start is.
fn absolute(socket_dir: &Path) -> Result<PathBuf> {
    std::path::absolute(socket_dir).context("bad directory for -k")
}

fn main() {
    logline::set_role(Role::Postmaster);
    logline::init(LogMinMessages::Log);
    rd_sys::crash::install();
    let arguments = Arguments::parse();
    let command_line = arguments.command_line();
    if let Err(error) = rd_sys::title::init() {
        log::debug!("processes will not show their roles in ps: {error}");
    }
    let booted = command_line.and_then(|line| boot(&arguments, line));
    let code = match booted {
        Ok(server) => server.run(),
        // It has ended as it was told to.
        Err(error) if matches!(error.downcast_ref(), Some(InitError::Interrupted(_))) => {
            log::info!("{error}");
            0
        }
        Err(error) => {
            rd_base::fatal!("{}", with_causes(&*error));
            1
        }
    };
    rd_sys::fork::exit_process(code)
}

/// Everything up to the first fork. The pid file is the last that can fail: it promises a server.
fn boot(arguments: &Arguments, command_line: String) -> Result<Server> {
    umask(Mode::from_bits_truncate(0o077));
    let settings = arguments.settings()?;
    let (data_dir, signals) = prepare(&arguments.data_dir(), &settings)?;
    let place = Place::enter(data_dir.clone())?;
    let config = Config::load_inside(&data_dir, &settings)?;
    logline::set_level(config.log_min_messages());
    let lock = datadir::lock(&data_dir)?;
    // So it is this one's.
    place.check()?;
    let signals = signals.map_or_else(catch_signals, Ok)?;
    let config = config.with_wal_segment_size(wal_segment_bytes()?)?;
    raise_descriptor_limit(&config);
    // Before the first fork, so that points that are armed later are armed in every process.
    fault::prepare()?;
    fault::arm(config.fault_points()).context("parameter \"fault_points\"")?;
    rd_sys::title::set_role(Role::Postmaster, "");
    let children = Children::new().context("could not make the pipe that the children watch")?;
    let listeners = Listeners::open(&config, &data_dir)?;
    let shm_name = shm_name()?;
    let pid_file = PidFile::create(
        Path::new(HERE),
        identity(&data_dir, &listeners, &config, &shm_name),
    )?;
    log::info!(
        "starting Redoubt {}, data directory {}",
        rd_base::VERSION,
        data_dir.display()
    );
    for address in listeners.tcp_addresses() {
        log::info!("listening on {address}");
    }
    if let Some(path) = listeners.unix_path() {
        log::info!("listening on unix socket {}", path.display());
    }
    Ok(Server::new(Boot {
        place,
        config,
        lock,
        listeners,
        pid_file,
        signals,
        shm_name,
        children,
        command_line,
    }))
}

fn catch_signals() -> Result<Signals> {
    Signals::install(&[
        Signal::Term,
        Signal::Int,
        Signal::Quit,
        Signal::Hup,
        Signal::Chld,
        Signal::Usr1,
    ])
    .context("could not catch signals")
}

/// Makes sure of a data directory that is private; gives its absolute path, and the signals if they
/// are caught already.
fn prepare(dir: &Path, settings: &[(String, String)]) -> Result<(PathBuf, Option<Signals>)> {
    let mut signals = None;
    if datadir::inspect(dir)? == datadir::Found::Nothing {
        log::info!(
            "there is no data directory \"{}\" yet: initialising it",
            dir.display()
        );
        initialise(dir, settings, signals.insert(catch_signals()?))?;
    }
    let data_dir = fs::canonicalize(dir)
        .with_context(|| format!("could not find data directory \"{}\"", dir.display()))?;
    datadir::check_private(&data_dir)?;
    Ok((data_dir, signals))
}

/// Initialises the data directory, with the sizes that the command line asks for. Who is told to stop
/// meanwhile takes away what was made so far: what is half made would be refused by the next start.
fn initialise(dir: &Path, settings: &[(String, String)], signals: &Signals) -> Result<()> {
    let pairs: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let config = Config::from_pairs(&pairs)?;
    let options = InitOptions {
        config: &config,
        system_identifier: rd_sys::random::u64(),
        now_us: rd_sys::clock::wall_us(),
        conf_lines: "",
    };
    // If nobody reads it, nobody misses it.
    let mut report = |text: &str| drop(io::stdout().write_all(text.as_bytes()));
    let must_stop = || {
        let came = signals.take();
        STOPPING.iter().any(|signal| came.contains(*signal))
    };
    match init_data_directory_unless(dir, &options, &mut report, &must_stop) {
        Err(error @ InitError::Interrupted(_)) => Err(error.into()),
        made => made
            .with_context(|| format!("could not initialise data directory \"{}\"", dir.display())),
    }
}

/// The size of a log file, as `pg_control` says it.
fn wal_segment_bytes() -> Result<u64> {
    let chosen = control_file::read(&RealStorage::new(HERE.into()))?;
    Ok(u64::from(chosen.control.wal_segment_bytes))
}

/// A name that the same directory gets at every start, and no other directory of this machine.
fn shm_name() -> Result<String> {
    let metadata = fs::metadata(HERE).context("could not look at the data directory")?;
    Ok(format!(
        "/redoubt.{:x}.{:x}",
        metadata.dev(),
        metadata.ino()
    ))
}

fn identity(data_dir: &Path, listeners: &Listeners, config: &Config, shm_name: &str) -> Identity {
    let socket_dir = listeners.unix_path().and_then(Path::parent);
    let first = listeners.tcp_addresses().first();
    Identity {
        pid: std::process::id(),
        data_dir: data_dir.to_path_buf(),
        started_s: rd_sys::clock::wall_us() / 1_000_000,
        port: config.port() as u16,
        socket_dir: socket_dir
            .map(|dir| dir.display().to_string())
            .unwrap_or_default(),
        listen_address: first
            .map(|address| address.ip().to_string())
            .unwrap_or_default(),
        shm_name: shm_name.to_owned(),
    }
}

/// Takes as many descriptors as the system allows: each connection is one, in some backend.
fn raise_descriptor_limit(config: &Config) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
        }
        Ok(hard)
    });
    match raised {
        Ok(limit) => {
            let backends = u64::from(config.backends()).max(1);
            let each = u64::from(config.max_connections()).div_ceil(backends);
            if each.saturating_add(DESCRIPTORS_BESIDE) > limit {
                log::warn!(
                    "max_connections = {} may need {each} descriptors in each backend, and the \
                     system allows {limit} (ulimit -Hn): further clients will be refused",
                    config.max_connections()
                );
            }
        }
        Err(error) => log::warn!("could not raise the limit of descriptors: {error}"),
    }
}
