//! No workload makes files grow without end: short runs of the churn program. The long ones are
//! `target/release/rd_churn --help`.

use rd_tests::churn::{Plan, Sample, Workload, run};

/// Runs a plan, and gives what was in use at its half and at its end.
fn churn(
    workload: Workload,
    operations: u64,
    keys: u64,
    value_bytes_max: u64,
    holds_snapshot: bool,
) -> Vec<Sample> {
    let plan = Plan {
        workload,
        operations,
        keys,
        value_bytes_max,
        holds_snapshot,
        samples: 4,
        seed: 7,
        settings: vec![("shared_buffers".to_owned(), "64MB".to_owned())],
    };
    run(&plan, |sample| println!("{sample:?}"))
}

/// Blocks by which an almost empty tree may differ from one look at it to the next.
const BLOCKS_SLACK: f64 = 16.0;

/// From the half to the end files, and what is in use of them, may grow by this factor at most.
fn assert_level(samples: &[Sample], factor: f64) {
    let (half, end) = (&samples[2], &samples[4]);
    let grown = end.file_bytes as f64 / half.file_bytes as f64;
    assert!(grown <= factor, "the files have grown: {samples:#?}");
    let most = half.used_blocks as f64 * factor + BLOCKS_SLACK;
    assert!(
        end.used_blocks as f64 <= most,
        "more blocks are in use: {samples:#?}"
    );
}

#[test]
fn updates_and_deletes_of_a_constant_set() {
    let samples = churn(Workload::Update, 200_000, 4_000, 200, false);
    assert_level(&samples, 1.1);
    // What nobody sees stays until its leaf needs the room.
    assert!(samples[4].versions_per_key < 2.5, "{samples:#?}");
}

#[test]
fn updates_and_deletes_beside_a_snapshot() {
    let samples = churn(Workload::Update, 200_000, 4_000, 200, true);
    assert_level(&samples, 1.1);
    // That of the snapshot besides.
    assert!(samples[4].versions_per_key < 4.0, "{samples:#?}");
}

#[test]
fn keys_that_never_come_back_under_their_names() {
    let samples = churn(Workload::Fresh, 200_000, 4_000, 200, false);
    assert_level(&samples, 1.25);
}

#[test]
fn keys_that_are_set_and_deleted_in_order() {
    let samples = churn(Workload::Drain, 160_000, 10_000, 200, false);
    assert_level(&samples, 1.1);
    let last = &samples[4];
    assert!(last.keys == 0 && last.leaves < 20, "{samples:#?}");
}

#[test]
fn keys_that_are_overwritten_in_order() {
    let samples = churn(Workload::Order, 160_000, 10_000, 200, false);
    assert_level(&samples, 1.1);
}

#[test]
fn values_of_all_sizes() {
    // A few hundred values of up to a MiB come and go; their sum is not constant.
    let samples = churn(Workload::Update, 1_200, 40, 1 << 20, false);
    assert_level(&samples, 1.5);
}
