//! What is asked for on the command line, and whether it can be done.

use crate::address::Address;
use crate::dialect::postgres::{Login, PostgresServer};
use crate::dialect::resp::{Brand, RespServer};
use crate::dialect::{Data, Server};
use crate::keys::Distribution;
use anyhow::{Result, anyhow};
use clap::{ArgAction, Parser, ValueEnum};
use rd_tools::cli;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The program's name.
pub const NAME: &str = "rd_bench";

/// Behind the options in the help.
const NOTES: &str = "\
Works:\n\
  get, set   one key\n\
  mixed      get and set, as --reads says\n\
  range      --limit keys in order from one on (not on Redis)\n\
  transfer   BEGIN, read two accounts, write both, COMMIT; on Redis WATCH to EXEC. Conflicts are\n\
             tried again\n\
  exec       the same as one MULTI to EXEC, on PostgreSQL as one batch from BEGIN to COMMIT\n\
\n\
Without --rate each connection sends the next operation when one is answered (closed loop). With\n\
it operations fall due at even intervals whatever the server does, and their times are counted\n\
from then on (open loop).\n\
\n\
Passwords come from REDISCLI_AUTH, or PGPASSWORD for PostgreSQL. PostgreSQL does transactions at\n\
REPEATABLE READ. Exit code: 0, or 1 if anything fails, accounts that do not add up included.";

/// Loads a Redoubt, Redis or PostgreSQL server, and tells how it did.
#[derive(Clone, Debug, Parser)]
#[command(name = NAME, version = cli::VERSION, disable_help_flag = true, after_help = NOTES)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// What kind of server it is
    #[arg(short = 'S', long, value_enum, default_value = "redoubt")]
    pub server: Product,
    /// Server's host, or the directory of its unix socket [default: 127.0.0.1]
    #[arg(short = 'h', long, value_name = "HOSTNAME")]
    pub host: Option<String>,
    /// Server's port [default: 7432, of Redis 6379, of PostgreSQL 5432]
    #[arg(short = 'p', long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Server's unix socket, in place of host and port
    #[arg(short = 's', long, conflicts_with_all = ["host", "port"])]
    pub socket: Option<PathBuf>,
    /// Role in PostgreSQL
    #[arg(short = 'U', long, default_value = "postgres")]
    pub user: String,
    /// Database in PostgreSQL
    #[arg(short = 'd', long, default_value = "postgres")]
    pub database: String,

    /// What to do
    #[arg(short = 'w', long, value_enum, default_value = "mixed")]
    pub work: WorkName,
    /// With mixed: how many of a hundred operations read
    #[arg(long, value_name = "PERCENT", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u8).range(0..=100))]
    pub reads: u8,
    /// With range: keys of a range
    #[arg(long, value_name = "KEYS", default_value_t = 100)]
    pub limit: u32,
    /// How many keys or accounts there are
    #[arg(short = 'k', long, value_name = "COUNT", default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of a value
    #[arg(short = 'b', long, value_name = "BYTES", default_value_t = 100)]
    pub value_bytes: usize,
    /// Which keys are used
    #[arg(long, value_enum, default_value = "uniform")]
    pub distribution: Distribution,
    /// With zipfian: how unequal they are
    #[arg(long, default_value_t = 0.99)]
    pub theta: f64,
    /// Make the keys or accounts first, in place of those there
    #[arg(long)]
    pub load: bool,

    /// Connections
    #[arg(short = 'c', long, value_name = "COUNT", default_value_t = 32)]
    pub connections: usize,
    /// Operations that each connection has under way at once
    #[arg(short = 'P', long, value_name = "DEPTH", default_value_t = 1)]
    pub pipeline: usize,
    /// Threads that drive the connections
    #[arg(short = 'j', long, value_name = "THREADS", default_value_t = 1)]
    pub jobs: usize,
    /// Operations a second, in all [default: as many as are answered]
    #[arg(short = 'r', long, value_name = "PER-SECOND")]
    pub rate: Option<f64>,
    /// More connections that set keys in a closed loop beside the work
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub writers: usize,
    /// Seconds to measure; 0 only loads
    #[arg(short = 't', long, value_name = "SECS", default_value_t = 10.0)]
    pub time: f64,
    /// Seconds of load before that
    #[arg(long, value_name = "SECS", default_value_t = 2.0)]
    pub warm_up: f64,
    /// Do not wait for the disk (synchronous_commit = off for each connection)
    #[arg(long)]
    pub asynchronous: bool,
    /// Transactions are serializable
    #[arg(long)]
    pub serializable: bool,
    /// Transfers send what does not depend on a reply together: two trips in place of six
    #[arg(long)]
    pub batch: bool,
    /// Count errors of the server, and go on
    #[arg(long)]
    pub keep_going: bool,
    /// Seconds that an answer may take
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    pub timeout: u32,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Write a line for each second; - is standard output
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write everything as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a picture of the run, as .svg or .html
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Print no summary and show no progress
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Show this help, then exit
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Product {
    /// Redoubt.
    Redoubt,
    /// Redis, or what speaks as it does.
    Redis,
    /// PostgreSQL.
    Postgres,
}

/// A work as it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkName {
    /// Reads single keys.
    Get,
    /// Writes single keys.
    Set,
    /// Both.
    Mixed,
    /// Reads keys in order.
    Range,
    /// Interactive transactions.
    Transfer,
    /// Transactions sent at once.
    Exec,
}

/// A work with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads single keys.
    Get,
    /// Writes single keys.
    Set,
    /// Both.
    Mixed {
        /// How many of a hundred operations read.
        reads_percent: u8,
    },
    /// Reads keys in order.
    Range {
        /// How many.
        limit: u32,
    },
    /// Interactive transactions.
    Transfer,
    /// Transactions sent at once.
    Exec,
}

impl WorkName {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            WorkName::Get => "get",
            WorkName::Set => "set",
            WorkName::Mixed => "mixed",
            WorkName::Range => "range",
            WorkName::Transfer => "transfer",
            WorkName::Exec => "exec",
        }
    }

    /// What it is about.
    pub fn data(self) -> Data {
        match self {
            WorkName::Transfer | WorkName::Exec => Data::Accounts,
            _ => Data::Values,
        }
    }
}

impl Product {
    fn port(self) -> u16 {
        match self {
            Product::Redoubt => rd_tools::probe::PORT,
            Product::Redis => 6379,
            Product::Postgres => 5432,
        }
    }

    /// The name of the socket in a directory.
    fn socket(self, directory: &str, port: u16) -> PathBuf {
        match self {
            Product::Postgres => Path::new(directory).join(format!(".s.PGSQL.{port}")),
            _ => rd_tools::pidfile::socket_path(Path::new(directory), port),
        }
    }
}

impl Arguments {
    /// Refuses what cannot be done.
    ///
    /// # Errors
    /// Which option stands against which.
    pub fn check(&self) -> Result<()> {
        let is_on = |work: &[WorkName]| work.contains(&self.work);
        let is_too_long = |seconds: f64| !(0.0..=1e6).contains(&seconds);
        let complaint = if self.connections == 0 || self.pipeline == 0 || self.jobs == 0 {
            "--connections, --pipeline and --jobs must be at least 1"
        } else if self.jobs > self.connections {
            "there are more --jobs than --connections"
        } else if is_too_long(self.time) || is_too_long(self.warm_up) {
            "--time and --warm-up are seconds from 0 to 1000000"
        } else if self.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
            "--rate must be from 0.001 to 1000000000"
        } else if self.keys < 2 && is_on(&[WorkName::Transfer, WorkName::Exec]) {
            "a transfer takes two --keys"
        } else if self.keys == 0 || self.keys >= 1_000_000_000_000 {
            "--keys must be from 1 to 999999999999"
        } else if self.value_bytes > 16 << 20 {
            "--value-bytes must be at most 16777216"
        } else if self.pipeline > 1 && is_on(&[WorkName::Transfer]) {
            "a transfer waits for each reply: --pipeline must be 1"
        } else if self.pipeline > 1 && self.server == Product::Postgres && is_on(&[WorkName::Exec])
        {
            "after a conflict PostgreSQL refuses what was sent behind it: --pipeline must be 1"
        } else if self.server == Product::Redis && is_on(&[WorkName::Range]) {
            "Redis has no ranges of keys: --work range is for redoubt and postgres"
        } else if self.writers > 0 && self.work.data() == Data::Accounts {
            "--writers set keys: they go with get, set, mixed and range"
        } else if self.report.as_deref().is_some_and(|path| !is_picture(path)) {
            "the name of a --report ends with .svg or .html"
        } else {
            return Ok(());
        };
        Err(anyhow!(complaint))
    }

    /// The work with what belongs to it.
    pub fn full_work(&self) -> Work {
        match self.work {
            WorkName::Get => Work::Get,
            WorkName::Set => Work::Set,
            WorkName::Mixed => Work::Mixed {
                reads_percent: self.reads,
            },
            WorkName::Range => Work::Range { limit: self.limit },
            WorkName::Transfer => Work::Transfer,
            WorkName::Exec => Work::Exec,
        }
    }

    /// Where the server listens.
    pub fn address(&self) -> Address {
        let port = self.port.unwrap_or(self.server.port());
        let host = self.host.as_deref().unwrap_or(rd_tools::probe::HOST);
        match &self.socket {
            Some(path) => Address::Unix(path.clone()),
            None if host.starts_with('/') => Address::Unix(self.server.socket(host, port)),
            None => Address::Tcp(host.to_owned(), port),
        }
    }

    /// The server, not yet spoken to.
    pub fn to_server(&self) -> Box<dyn Server> {
        let timeout = Duration::from_secs(u64::from(self.timeout.max(1)));
        let password = |variable: &str| std::env::var(variable).ok().filter(|it| !it.is_empty());
        let resp = |brand| -> Box<dyn Server> {
            Box::new(RespServer::new(
                brand,
                self.address(),
                password("REDISCLI_AUTH"),
                self.serializable,
                timeout,
            ))
        };
        match self.server {
            Product::Redoubt => resp(Brand::Redoubt),
            Product::Redis => resp(Brand::Redis),
            Product::Postgres => Box::new(PostgresServer::new(
                self.address(),
                Login {
                    user: self.user.clone(),
                    database: self.database.clone(),
                    password: password("PGPASSWORD"),
                },
                self.work.data(),
                self.limit,
                self.serializable,
                timeout,
            )),
        }
    }
}

/// Whether a report can be written under this name.
fn is_picture(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    matches!(ending, Some("svg" | "html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Arguments {
        let words = [NAME].into_iter().chain(words.split_whitespace());
        Arguments::try_parse_from(words).expect("parsed")
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_its_reason() {
        for (words, reason) in [
            ("-c 0", "at least 1"),
            ("-c 2 -j 3", "more --jobs"),
            ("-t 1e9", "seconds from 0"),
            ("-r 0", "--rate must be"),
            ("-w exec -k 1", "two --keys"),
            ("-k 0", "--keys must be"),
            ("-w transfer -P 2", "waits for each reply"),
            ("-S postgres -w exec -P 2", "PostgreSQL refuses"),
            ("-S redis -w range", "no ranges"),
            ("-w exec --writers 1", "--writers set keys"),
            ("--report run.pdf", ".svg or .html"),
        ] {
            let error = parse(words).check().expect_err(words).to_string();
            assert!(error.contains(reason), "{words}: {error}");
        }
        parse("-w exec -P 2 -c 4 -j 4 --report a.html")
            .check()
            .expect("fine");
    }

    #[test]
    fn addresses_follow_the_product() {
        for (words, address) in [
            ("", "127.0.0.1:7432"),
            ("-S redis -h there", "there:6379"),
            ("-S postgres -h /run -p 5433", "/run/.s.PGSQL.5433"),
            ("-s /tmp/x", "/tmp/x"),
        ] {
            assert_eq!(parse(words).address().to_string(), address, "{words}");
        }
    }
}
