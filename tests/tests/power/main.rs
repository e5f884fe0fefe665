//! `power`: a whole server on a disk that loses at a power cut what was not synced.
//!
//! The disk is a file system over FUSE (`disk`), so the programs are those that users run, with the
//! calls to the kernel that they really make. Clients write, the power fails at some I/O, what was not
//! synced is lost, kept or torn as the seed says, and after the next start every acknowledged write
//! must be there (`cuts`). At times the power fails again in the recovery, in a checkpoint, in a stop,
//! or while the data directory is made.
//!
//! Without arguments, as `cargo test` runs it, it cuts the power a few times. Where no FUSE file system
//! can be mounted, which needs /dev/fuse and root, it says so and does nothing.

mod cuts;
mod disk;

use clap::Parser;
use cuts::{Plan, run};
use rd_tests::support::arguments::{CargoArgs, fresh_seed};
use rd_tests::support::skip;
use rd_tests::torture::Report;
use std::process::ExitCode;
use std::time::Instant;

/// Cuts the power of a server under load, and looks for what it promised.
#[derive(Parser, Debug)]
#[command(name = "power")]
struct Args {
    /// Where everything random comes from; drawn from the clock if not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Power cuts; those in recoveries come on top.
    #[arg(long, default_value_t = 5)]
    cuts: u64,
    /// Connections that write.
    #[arg(long, default_value_t = 4)]
    writers: usize,
    #[command(flatten)]
    cargo: CargoArgs,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if !args.cargo.is_to_run("power") {
        return ExitCode::SUCCESS;
    }
    let plan = Plan {
        seed: args.seed.unwrap_or_else(fresh_seed),
        cuts: args.cuts,
        writers: args.writers,
    };
    println!("power\nseed {}", plan.seed);
    if let Err(error) = disk::own_mounts() {
        skip(&format!("this process may not mount: {error}"));
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let report = match run(&plan, |round, report: &Report| {
        if (round + 1) % 25 == 0 {
            println!("cut {}: {} checks", round + 1, report.checks);
        }
    }) {
        Ok(report) => report,
        Err(reason) => {
            skip(&reason);
            return ExitCode::SUCCESS;
        }
    };
    println!("{:.1} s", began.elapsed().as_secs_f64());
    report.conclude(plan.seed)
}
