//! Kills servers under load and looks for what they promised. See `rd_tests::torture`.

use clap::Parser;
use rd_tests::support::arguments::{fresh_seed, setting};
use rd_tests::torture::victim::Harm;
use rd_tests::torture::workload::WRITERS_MAX;
use rd_tests::torture::{Plan, Report, run};
use std::process::ExitCode;
use std::time::Duration;

/// Writers over real sockets; kill -9 of the server or of its processes, stray signals, standstill,
/// crash loops, a full disk, too little memory and more at random moments; after each restart every
/// acknowledged write must be there.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Rounds of load, kill, recovery and check.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Where everything random comes from; drawn from the clock if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Connections that write, at most 100.
    #[arg(long, default_value_t = 8, value_parser = writers)]
    writers: usize,
    /// Longest load of a round, in milliseconds.
    #[arg(long, default_value_t = 700)]
    load_ms: u64,
    /// Does only this to the server (`DiskFull`); may come several times.
    #[arg(long = "harm", value_name = "NAME", value_parser = Harm::named)]
    harms: Vec<Harm>,
    /// A setting of the server, name=value; may come several times.
    #[arg(short = 'c', value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

/// Each has databases of its own, of which there is an end.
fn writers(text: &str) -> Result<usize, String> {
    let count = text.parse().map_err(|_| "no number".to_owned())?;
    match (1..=WRITERS_MAX).contains(&count) {
        true => Ok(count),
        false => Err(format!("there may be 1 to {WRITERS_MAX}")),
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = Plan {
        seed: options.seed.unwrap_or_else(fresh_seed),
        rounds: options.rounds,
        writers: options.writers,
        harms: options.harms,
        load_max: Duration::from_millis(options.load_ms),
        settings: options.settings,
    };
    println!(
        "seed {}, {} rounds, {} writers",
        plan.seed, plan.rounds, plan.writers
    );
    let report = run(&plan, |round, report: &Report| {
        if (round + 1) % 10 == 0 {
            println!("round {}: {} checks", round + 1, report.checks);
        }
    });
    report.conclude(plan.seed)
}
