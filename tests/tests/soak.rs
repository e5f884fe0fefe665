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
        settings: vec![("backends".to_owned(), "2".to_owned())],
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
    // A server that a machine under load takes down once more has no life that is long enough.
    let Some(trends) = trends(&samples) else {
        println!("SKIPPED the trends: no life was long enough");
        return;
    };
    for trend in &trends {
        assert!(trend.first > 0 && trend.last > 0, "{trend:?}");
    }
    let descriptors = trends.iter().find(|trend| trend.name == "descriptors");
    let descriptors = descriptors.expect("they are measured");
    // Of seconds, response times tell nothing, and two samples of a third little: so much is a leak.
    assert!(descriptors.factor() < 2.0, "{descriptors:?}");
}
