//! Writing beside redo: when it begins, by the clock.

use super::world::{History, World, new_disk};
use super::{control, tag};
use rd_base::counters::Counter;
use std::time::Duration;

#[test]
fn a_first_attempt_is_left_alone_for_ten_seconds_and_later_ones_are_not() {
    for (attempt, left_alone_ms) in [(1, 10_000), (2, 200), (3, 200)] {
        let disk = new_disk(u64::from(attempt));
        let mut history = History::default();
        let (mut world, _) = World::start(&disk, &mut history);
        for block in 1..=20 {
            world.write_page(&mut history, tag(block), 1, 1000);
        }
        world.flush(&mut history);
        drop(world);
        disk.kill(u64::from(attempt));
        let mut world = World::in_redo(&disk, attempt);
        let before = control(&disk).redo_lsn;
        let stats = world.backend.shared.stats.clone();
        let mut written_after = |ms| {
            world.pass(Duration::from_millis(ms));
            world.checkpointer.turn();
            stats.get(Counter::PagesWrittenRecovery)
        };
        assert_eq!(written_after(left_alone_ms - 1), 0, "attempt {attempt}");
        assert_eq!(control(&disk).redo_lsn, before);
        // All but the page of the record that follows the new redo point.
        assert!(written_after(1) >= 19, "attempt {attempt}");
        assert!(control(&disk).redo_lsn > before, "attempt {attempt}");
    }
}
