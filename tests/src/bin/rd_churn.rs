//! Updates and deletes a set of constant size, and shows what becomes of the files. See
//! `rd_tests::churn`.

use clap::Parser;
use rd_tests::churn::{Plan, Sample, Workload, run};
use rd_tests::support::arguments::setting;

/// Churn on a set of keys of constant size; over time, size of the files, fill of the leaves and
/// versions of each key.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// What is done to the keys.
    #[arg(value_enum, default_value_t = Workload::Update)]
    workload: Workload,
    /// Commands in all.
    #[arg(long, default_value_t = 20_000_000)]
    operations: u64,
    /// Keys of the set.
    #[arg(long, default_value_t = 200_000)]
    keys: u64,
    /// Longest value, in bytes; lengths are spread evenly from 0.
    #[arg(long, default_value_t = 200)]
    value_bytes_max: u64,
    /// Hold a snapshot open from the beginning to the end.
    #[arg(long)]
    snapshot: bool,
    /// Samples that are shown.
    #[arg(long, default_value_t = 10)]
    samples: u64,
    /// Where everything random comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A setting of the server, name=value; may come several times.
    #[arg(short = 'c', value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

fn main() {
    let options = Options::parse();
    let plan = Plan {
        workload: options.workload,
        operations: options.operations,
        keys: options.keys,
        value_bytes_max: options.value_bytes_max,
        holds_snapshot: options.snapshot,
        samples: options.samples,
        seed: options.seed,
        settings: options.settings,
    };
    println!(
        "{:>12} {:>8} {:>9} {:>9} {:>9} {:>9} {:>6} {:>13}",
        "commands", "seconds", "files MB", "used MB", "keys", "leaves", "fill", "versions/key"
    );
    run(&plan, |sample: &Sample| {
        println!(
            "{:>12} {:>8.1} {:>9.1} {:>9.1} {:>9} {:>9} {:>5.0}% {:>13.2}",
            sample.operations,
            sample.seconds,
            sample.file_bytes as f64 / 1e6,
            sample.used_blocks as f64 * 8192.0 / 1e6,
            sample.keys,
            sample.leaves,
            sample.leaf_fill_percent,
            sample.versions_per_key
        );
    });
}
