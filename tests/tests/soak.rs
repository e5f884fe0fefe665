//! A short run of the soak program: that it works, that nothing is lost, and that it can tell whether something
//! grows. Whether something does shows only in the long one, `target/release/rd_soak`.

use rd_tests::soak::{Plan, run, trends};
use std::time::Duration;

const ROUNDS: u64 = 9;

#[test]
fn nothing_is_lost_and_every_minute_is_told() {
    let plan = Plan {
        seed: 3,
        // One harm of the first third is rough; the life behind it is long enough to be judged.
        rounds: ROUNDS,
        quiet: Duration::from_secs(1),
        clients: 4,
        rate: 800,
        keys: 1000,
        disk_mebibytes: Some(256),
        settings: Vec::new(),
    };
    let (samples, report) = run(&plan, |sample| println!("{sample:?}"));
    assert!(report.losses.is_empty(), "{}", report.losses.join("\n"));
    assert_eq!(samples.len() as u64, ROUNDS);
    for sample in &samples {
        assert!(sample.operations > 0, "{sample:?}");
        assert!(
            sample.memory_bytes > 0 && sample.descriptors > 0,
            "{sample:?}"
        );
        assert!(sample.wal_bytes > 0 && sample.other_bytes > 0, "{sample:?}");
    }
    // Of seconds, response times tell nothing; of what does not change by itself, these do.
    let trends = trends(&samples).expect("a life that is long enough");
    for trend in &trends {
        assert!(trend.first > 0 && trend.last > 0, "{trend:?}");
    }
    let descriptors = trends.iter().find(|trend| trend.name == "descriptors");
    let descriptors = descriptors.expect("they are measured");
    assert!(descriptors.is_flat(), "{descriptors:?}");
}
