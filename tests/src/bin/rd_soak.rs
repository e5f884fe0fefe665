//! An hour of mixed load with harm done in between, and whether the server stays what it was. See
//! `rd_tests::soak`.

use clap::Parser;
use rd_tests::soak::{Plan, Sample, Trend, run, trends};
use rd_tests::support::arguments::setting;
use std::process::ExitCode;
use std::time::Duration;

/// Mixed load at an even rate; every minute a sample of memory, descriptors, files and response times, and
/// some harm. In the first third of the time every second one is a kill, a stop, a stray signal, or want of
/// memory or descriptors; else, and from then on always, a process stands still, the clock jumps, connections
/// vanish, the postmaster has no descriptor for new ones, or the disk is full. Ends with 1 if an acknowledged
/// write is lost or something grows.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// How long, in minutes; each is a round.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The quiet part of a round, in seconds, in which response times are measured.
    #[arg(long, default_value_t = 55)]
    quiet: u64,
    /// Connections.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Operations of all connections together in a second.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Keys that they work on.
    #[arg(long, default_value_t = 200_000)]
    keys: u64,
    /// Where everything random comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Gives the server a disk of its own of so many mebibytes, which is full at times; needs root.
    #[arg(long, value_name = "MIB")]
    disk: Option<u64>,
    /// A setting of the server, name=value; may come several times.
    #[arg(short = 'c', value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let plan = Plan {
        seed: options.seed,
        rounds: options.minutes,
        quiet: Duration::from_secs(options.quiet),
        clients: options.clients,
        rate: options.rate,
        keys: options.keys,
        disk_mebibytes: options.disk,
        settings: options.settings,
    };
    println!(
        "{:>7} {:>9} {:>5} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9}  then",
        "seconds",
        "memory kB",
        "fds",
        "files kB",
        "log kB",
        "other kB",
        "answers",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "max us"
    );
    let (samples, report) = run(&plan, |sample: &Sample| {
        let [p50, p99, p999, max] = sample.response_us;
        println!(
            "{:>7} {:>9} {:>5} {:>9} {:>8} {:>9} {:>9} {p50:>8} {p99:>8} {p999:>9} {max:>9}  {}",
            sample.second,
            sample.memory_bytes / 1024,
            sample.descriptors,
            sample.base_bytes / 1024,
            sample.wal_bytes / 1024,
            sample.other_bytes / 1024,
            sample.operations,
            sample.harm,
        );
    });
    let trends = trends(&samples);
    match &trends {
        None => {
            println!("\nthe last life of the server was too short to tell whether something grows")
        }
        Some(_) => println!("\nmedian of the first third of the last life, and of its last:"),
    }
    for trend in trends.iter().flatten() {
        println!(
            "{:<22} {:>11} {:>11}  {:.2}, at most {:.2}: {}",
            trend.name,
            trend.first,
            trend.last,
            trend.factor(),
            trend.factor_max,
            if trend.is_flat() { "flat" } else { "GROWN" },
        );
    }
    let is_flat = trends.is_some_and(|trends| trends.iter().all(Trend::is_flat));
    match report.conclude(plan.seed) {
        ExitCode::SUCCESS if !is_flat => ExitCode::FAILURE,
        concluded => concluded,
    }
}
