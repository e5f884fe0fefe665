//! Single commands on a few hot keys, over sockets, with kill -9 in between: what each client was
//! answered must be what one after the other would have answered. And the check must find clients
//! that ask for less than that.

use nix::sys::signal::Signal;
use rd_tests::linear::History;
use rd_tests::linear::check::check;
use rd_tests::linear::record::{Recorder, Way};
use rd_tests::support::arguments::fresh_seed;
use rd_tests::support::cluster::{Cluster, send};
use rd_tests::support::wait_for;

/// The seed of the run that is always the same.
const SEED: u64 = 11;

/// Lets clients be answered `count` times between one kill and the next, of the whole server or of
/// one backend.
fn record(ways: &[Way], seed: u64, count: u64, kills: usize, settings: &[(&str, &str)]) -> History {
    let mut cluster = Cluster::new(&[
        ("backends", "3"),
        ("crash_restart_max", "1000"),
        ("checkpoint_heartbeat", "100ms"),
    ]);
    for (name, value) in settings {
        cluster.set(name, value);
    }
    cluster.announce("");
    cluster.start();
    let recorder = Recorder::start(&cluster.socket(), ways, seed);
    for round in 0..=kills {
        let enough = recorder.answered() + count;
        wait_for("answers", || (recorder.answered() >= enough).then_some(()));
        if round == kills {
            break;
        }
        if round % 2 == 0 {
            cluster.kill_all();
            cluster.start();
        } else {
            let victim = cluster.child("backend 1");
            send(victim, Signal::SIGKILL);
            // Its successor is born when all the others are gone, too.
            wait_for("another backend", || {
                (cluster.child("backend 1") != victim).then_some(())
            });
        }
        recorder.crash_is_over();
    }
    cluster.wait_ready().expect("the server serves");
    recorder.finish()
}

fn assert_right(seed: u64) {
    let history = record(&[Way::Right; 6], seed, 3_000, 5, &[]);
    let wrong = check(&history);
    assert!(wrong.is_empty(), "seed {seed}\n{}", wrong.join("\n"));
}

/// What is wrong with a history of clients of which it is expected; they try until it is.
fn assert_found(ways: &[Way], kills: usize, settings: &[(&str, &str)]) {
    let mut seed = SEED;
    wait_for("a history that is not linearizable", || {
        seed += 1;
        check(&record(ways, seed, 1_000, kills, settings))
            .into_iter()
            .next()
    });
}

#[test]
fn single_commands_are_linearizable() {
    assert_right(SEED);
}

#[test]
fn single_commands_are_linearizable_with_any_seed() {
    assert_right(fresh_seed());
}

#[test]
fn replies_that_do_not_wait_for_the_disk_are_found_to_be_lost() {
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    assert_found(&[Way::Right; 6], 2, &settings);
}

#[test]
fn reads_of_an_old_snapshot_are_found() {
    assert_found(&[Way::Stale; 4], 0, &[]);
}

#[test]
fn updates_that_do_not_watch_are_found_to_lose_others() {
    assert_found(&[Way::Unwatched; 4], 0, &[]);
}
