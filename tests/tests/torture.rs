//! A short run of the torture program: one seed that is always the same, and a fresh one that is
//! printed. The long run is `cargo run --release -p rd-tests --bin rd_torture`.

use rd_tests::support::arguments::fresh_seed;
use rd_tests::torture::victim::Harm;
use rd_tests::torture::{Plan, run};
use std::time::Duration;

fn torture(seed: u64, rounds: usize) {
    println!("seed {seed}");
    let plan = Plan {
        seed,
        rounds: rounds as u64,
        harms: Vec::new(),
        writers: 4,
        load_max: Duration::from_millis(300),
        settings: Vec::new(),
    };
    let report = run(&plan, |_, _| {});
    assert!(
        report.losses.is_empty(),
        "seed {seed}: {}",
        report.losses.join("\n")
    );
    assert!(report.acknowledged > 0, "seed {seed}: nothing was written");
    assert!(report.verified > 0, "seed {seed}: no tree was verified");
    for (kind, count) in &report.kills {
        println!("{count} x {kind}");
    }
    println!("{} writes, {} checks", report.acknowledged, report.checks);
}

#[test]
fn nothing_is_lost_from_a_known_seed() {
    // Each harm once.
    torture(2026, Harm::ALL.len());
}

#[test]
fn nothing_is_lost_from_a_fresh_seed() {
    torture(fresh_seed(), 10);
}
