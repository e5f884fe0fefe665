//! What the command lines of test programs have in common: of those that run by themselves what `cargo
//! test` asks of them and more when they are told to, and of those that start servers.

use clap::Args;
use std::time::{SystemTime, UNIX_EPOCH};

/// A setting of the server, `name=value`.
///
/// # Errors
/// When it is none.
pub fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("expected NAME=VALUE, as in max_wal_size=64MB")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A seed from the clock, so short that it can be typed.
pub fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| {
        since.as_nanos() as u64 / 1_000 % 1_000_000_000_000
    })
}

/// What `cargo test` may say to it.
#[derive(Args, Debug)]
pub struct CargoArgs {
    /// Names of tests to be run.
    #[arg(hide = true)]
    names: Vec<String>,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    test_threads: Option<u64>,
}

impl CargoArgs {
    /// Whether the program's one test, which is called `name`, is to be run; lists it if that is what is
    /// asked for.
    pub fn is_to_run(&self, name: &str) -> bool {
        if self.list {
            println!("{name}: test");
            return false;
        }
        self.names.is_empty() || self.names.iter().any(|part| name.contains(part.as_str()))
    }
}
