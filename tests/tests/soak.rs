//! A short run of the soak program: that it works, and that nothing is lost. Whether something grows shows
//! only in the long one, `target/release/rd_soak`.

use rd_tests::soak::{Plan, run};
use std::time::Duration;

#[test]
fn nothing_is_lost_and_every_minute_is_told() {
    let plan = Plan {
        seed: 3,
        rounds: 6,
        quiet: Duration::from_secs(1),
        clients: 4,
        rate: 800,
        keys: 1000,
        settings: Vec::new(),
    };
    let (samples, report) = run(&plan, |sample| println!("{sample:?}"));
    assert!(report.losses.is_empty(), "{}", report.losses.join("\n"));
    assert_eq!(samples.len(), 6);
    for sample in &samples {
        assert!(sample.operations > 0, "{sample:?}");
        assert!(
            sample.memory_bytes > 0 && sample.descriptors > 0,
            "{sample:?}"
        );
        assert!(sample.wal_bytes > 0 && sample.other_bytes > 0, "{sample:?}");
    }
}
