//! Histories of concurrent transactions over sockets, with kill -9 in between, held against
//! snapshot isolation and serializability; and that the check finds what it should where the
//! clients leave out what protects them.

use rd_tests::history::Transaction;
use rd_tests::history::check::{Level, check};
use rd_tests::history::record::{Recorder, Way};
use rd_tests::support::cluster::Cluster;
use rd_tests::support::wait_for;
use std::collections::BTreeMap;

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(&[("backends", "3"), ("checkpoint_heartbeat", "100ms")]);
    cluster.announce("");
    cluster.start();
    cluster
}

/// Lets clients commit `count` transactions between one kill of the server and the next.
fn record(ways: &[Way], count: u64, kills: usize) -> (Vec<Transaction>, BTreeMap<u64, Vec<u64>>) {
    let mut cluster = cluster();
    let recorder = Recorder::start(&cluster.socket(), ways);
    for round in 0..=kills {
        let enough = recorder.committed() + count;
        wait_for("transactions", || {
            (recorder.committed() >= enough).then_some(())
        });
        if round < kills {
            cluster.kill_all();
            cluster.start();
        }
    }
    recorder.finish()
}

fn assert_right(ways: &[Way], level: Level) {
    let (history, last) = record(ways, 250, 3);
    let wrong = check(&history, &last, level);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with a history of clients of which it is expected; they try until it is.
fn find_wrong(ways: &[Way], level: Level) -> String {
    let mut tries = 0;
    wait_for("clients to get into each other's way", || {
        tries += 1;
        let (history, last) = record(ways, 200 * tries, 0);
        check(&history, &last, level).into_iter().next()
    })
}

#[test]
fn snapshots_are_isolated() {
    assert_right(&[Way::Snapshot; 6], Level::Snapshot);
}

#[test]
fn serializable_transactions_are() {
    let ways = [
        Way::Serializable,
        Way::Serializable,
        Way::Serializable,
        Way::Exec,
        Way::Exec,
        Way::Watch,
        Way::Watch,
    ];
    assert_right(&ways, Level::Serializable);
}

#[test]
fn all_ways_together_are_isolated() {
    let ways = [Way::Snapshot, Way::Serializable, Way::Exec, Way::Watch];
    assert_right(&ways, Level::Snapshot);
}

#[test]
fn snapshots_are_found_to_be_not_serializable() {
    let wrong = find_wrong(&[Way::Snapshot; 6], Level::Serializable);
    assert!(wrong.starts_with("anti-dependency cycle"), "{wrong}");
}

#[test]
fn commands_without_a_transaction_are_found_to_lose_updates() {
    find_wrong(&[Way::Nothing; 6], Level::Snapshot);
}

#[test]
fn exec_without_watch_is_found_to_lose_updates() {
    find_wrong(&[Way::Unwatched; 6], Level::Snapshot);
}
