//! What the command lines of test programs have in common: of those that run by themselves what `cargo
//! test` asks of them and more when they are told to, and of those that start servers.

use clap::Args;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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

/// A seed from the clock, so short that it can be typed; or the one in `RD_SEED`, for tests that are to do the
/// same whenever they are run.
///
/// # Panics
/// When that is no number.
pub fn fresh_seed() -> u64 {
    if let Ok(text) = std::env::var("RD_SEED") {
        return text.parse().expect("RD_SEED is a number");
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| {
        since.as_nanos() as u64 / 1_000 % 1_000_000_000_000
    })
}

/// Seeds one after the other, until there were enough of them, or the time is over.
pub struct Seeds {
    next: u64,
    left: u64,
    began: Instant,
    time: Option<Duration>,
}

impl Seeds {
    /// So many, from the first one on, for as long as there is time, if that is limited.
    pub fn new(first: u64, count: u64, time: Option<Duration>) -> Seeds {
        Seeds {
            next: first,
            left: count,
            began: Instant::now(),
            time,
        }
    }

    /// Ones that were not run before, for some time.
    pub fn fresh_for(time: Duration) -> Seeds {
        Seeds::new(fresh_seed(), u64::MAX, Some(time))
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let is_over = self.time.is_some_and(|time| self.began.elapsed() >= time);
        if is_over || self.left == 0 {
            return None;
        }
        let seed = self.next;
        self.next = seed.wrapping_add(1);
        self.left -= 1;
        Some(seed)
    }
}

/// Which seeds it is told to run.
#[derive(Args, Debug)]
pub struct SeedArgs {
    /// The first seed; a random one if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, one after the other; of each scenario, if there are several.
    #[arg(long)]
    seeds: Option<u64>,
    /// For how many minutes; for each scenario, if there are several.
    #[arg(long)]
    minutes: Option<f64>,
}

impl SeedArgs {
    /// The seeds; none if nothing was said about them.
    pub fn seeds(&self) -> Option<Seeds> {
        if self.seed.is_none() && self.seeds.is_none() && self.minutes.is_none() {
            return None;
        }
        let seconds = self.minutes.map(|minutes| minutes * 60.0);
        let time = seconds.map(Duration::from_secs_f64);
        let count = if time.is_some() { u64::MAX } else { 1 };
        let first = self.seed.unwrap_or_else(fresh_seed);
        Some(Seeds::new(first, self.seeds.unwrap_or(count), time))
    }
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
