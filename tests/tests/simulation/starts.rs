//! Starts on a disk on which something is broken that they can do without.

use super::{History, World, check, config, new_disk};
use rd_store::control_file::ControlStore;
use rd_store::relation::BASE_DIR;
use rd_sys::simdisk::{Injection, IoKind, Rng};

/// The disk reads everything and writes no page. After a start that did not finish, redo keeps near the redo
/// point as long as that can follow, and does without when it cannot.
#[test]
fn a_repeated_start_does_not_wait_for_a_redo_point_that_cannot_move() {
    const LOG_BYTES: u64 = 3 << 20;
    let config = config("double_write");
    let disk = new_disk(1, &config);
    let (mut history, mut rng) = (History::default(), Rng::new(1));
    let (mut world, recovered) = World::start(&disk, &config);
    while world.shared.wal.insert_lsn().bytes_since(recovered.end) < LOG_BYTES {
        world.write(&mut history, &mut rng, 0).expect("a good disk");
    }
    world.promise(&mut history);
    drop(world);
    for is_bad in [true, false] {
        disk.kill(1);
        let mut slots = ControlStore::open(&disk).expect("valid");
        let mut control = slots.newest().clone();
        let behind = history.promised.bytes_since(control.redo_lsn);
        assert!(behind > 2 << 20, "{behind} bytes of log to be redone");
        control.unfinished_starts = 2;
        slots.write_both(control, 1).expect("a good disk");
        drop(slots);
        disk.clear_injections();
        if is_bad {
            disk.inject(Injection {
                kind: IoKind::Write,
                path_contains: format!("{BASE_DIR}/"),
                skip: 0,
                times: u64::MAX,
                errno: 5,
            });
        }
        check(&disk, &config, &mut history, true);
    }
}
