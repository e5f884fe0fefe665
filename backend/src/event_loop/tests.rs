//! A loop whose turns a test takes one by one, beside another backend at work.

use super::EventLoop;
use crate::rig::{Client, Rig};
use rd_store::wal::Leader;
use rd_store::wal::lead::FLUSHES_PER_TURN;
use rd_sys::fdpass::Channel;
use rd_sys::signals::Signals;
use std::sync::atomic::{AtomicBool, Ordering};

/// So many flushes are looked at.
const FLUSHES: u64 = 3_000;
/// What the other backend writes at most: as much as there is log for.
const WRITES_MAX: usize = 100_000;

#[test]
fn a_leader_without_events_of_its_own_ends_its_turns() {
    let rig = Rig::new(&[]);
    let (_postmaster, ours) = Channel::pair().expect("descriptors");
    let signals = Signals::install(&[]).expect("descriptors");
    let server = rig.server(1);
    let mut leader = EventLoop::new(rig.context(1), server, signals, ours).expect("descriptors");
    let is_over = AtomicBool::new(false);
    let wal = leader.server.store.shared.wal.clone();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut server = rig.server(0);
            let mut client = Client::new(&mut server);
            for _ in 0..WRITES_MAX {
                client.send(&rig, &mut server, &[b"SET", b"key", b"value"]);
                wal.note_request(wal.insert_lsn());
                client.received(&server);
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let stats = leader.server.store.shared.stats.clone();
        let (mut most, mut sum) = (0, 0);
        while sum < FLUSHES && !other.is_finished() {
            leader.server.begin_turn();
            leader.leader = Leader::default();
            leader.leader.nominate(true);
            let before = stats.flushes().count;
            leader.settle();
            let flushes = stats.flushes().count - before;
            (most, sum) = (most.max(flushes), sum + flushes);
        }
        is_over.store(true, Ordering::Relaxed);
        // Where the ring ends, a flush writes twice.
        assert!(
            most <= 2 * FLUSHES_PER_TURN as u64,
            "{most} flushes in a turn"
        );
        assert!(most > 0, "it flushes for the other");
    });
}
