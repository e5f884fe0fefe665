//! Stops that are short for clients: what is dirty is written while they are still served, and a
//! deadline is kept.

use nix::sys::signal::Signal;
use rd_store::STRAY_STOP;
use rd_tests::support::cluster::{Cluster, run, send};
use rd_tests::support::load::{Acknowledged, Load, fill};
use rd_tests::support::log::assert_order;
use rd_tests::support::wait_for;
use rd_wire::Client;
use std::time::Duration;

/// Servers that are stopped by a deadline until one stop was in time.
const ATTEMPTS: usize = 3;
const REQUESTED: &str = "received fast shutdown request";
const CLEANED: &str = "pages in";
const RECOVERED: &str = "redo starts";
const PAUSED: &str = "fault point page_write does its action";

fn ok(client: &mut Client, words: &[&str]) {
    let reply = client.call(words).expect("answered");
    assert!(reply.error().is_none(), "{words:?}: {reply:?}");
}

/// Pages that the last checkpoint of the log has written.
fn written_last(log: &str) -> u64 {
    let line = log
        .lines()
        .rfind(|line| line.contains("checkpoint complete"));
    let line = line.expect("a checkpoint");
    let (_, rest) = line.split_once("wrote ").expect("its pages");
    let (count, _) = rest.split_once(' ').expect("a number");
    count.parse().expect("a number")
}

/// A server with some thousand dirty pages.
fn dirty_server() -> (Cluster, Acknowledged) {
    let mut cluster = Cluster::started(&[
        ("shared_buffers", "64MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_heartbeat", "1min"),
    ]);
    cluster.announce(PAUSED);
    // Pages that were on their way when the server was stopped for good.
    cluster.announce("was torn or damaged; mended from the double-write area");
    let acknowledged = fill(&cluster.socket(), 4, 1500, 8_000);
    (cluster, acknowledged)
}

/// As [`dirty_server`], and nothing of it can be written; with a client that can change that.
fn held_server() -> (Cluster, Acknowledged, Client) {
    let (cluster, acknowledged) = dirty_server();
    cluster.arm("page_write=pause");
    let client = cluster.client();
    (cluster, acknowledged, client)
}

/// What `rd_ctl` says of a stop that is to be over so soon. None if a machine that does other things has taken the
/// time that there is for a plan, or for the last process to be gone.
fn stop_by(cluster: &Cluster, deadline: &str) -> Option<String> {
    let directory = cluster.data_dir();
    let directory = directory.to_string_lossy();
    let (status, out, errors) = run(
        "rd_ctl",
        &["stop", "-D", &directory, "--deadline", deadline],
    );
    if out.contains("no plan: ") || errors.contains("is not gone after") {
        println!("too late: {out}{errors}");
        return None;
    }
    assert_eq!(status.code(), Some(0), "{out}{errors}");
    Some(out)
}

/// What the first of some attempts gives that was not too late.
fn in_time(attempt: impl Fn() -> Option<String>) -> String {
    let mut attempts = (0..ATTEMPTS).filter_map(|_| attempt());
    attempts.next().expect("a stop that keeps to its deadline")
}

/// Held up at its first page, the server goes on serving, old clients and new; and when it goes on
/// little is left for the shutdown checkpoint.
#[test]
fn pages_are_written_while_clients_are_served() {
    let (mut cluster, acknowledged, mut client) = held_server();
    cluster.signal(Signal::SIGINT);
    cluster.wait_log(PAUSED);
    ok(&mut client, &["SET", "during", "the stop"]);
    ok(&mut cluster.client(), &["PING"]);
    assert_eq!(cluster.status(), "stopping");
    ok(&mut client, &["CONFIG", "SET", "fault_points", ""]);
    assert!(client.receive().is_err(), "the connection ends");
    assert_eq!(cluster.wait_exit().code(), Some(0));
    let log = cluster.log_since_start();
    // Pages are written from the moment when nothing holds them up; the postmaster tells of that a little later.
    assert_order(&log, &[REQUESTED, "parameter \"fault_points\""]);
    assert_order(
        &log,
        &[
            REQUESTED,
            CLEANED,
            "backends and walwriter are gone",
            "checkpoint starting: shutdown",
            "server is shut down",
        ],
    );
    let left = written_last(&log);
    assert!(left < 500, "{left} pages in the shutdown checkpoint");
    cluster.start();
    let mut client = cluster.client();
    acknowledged.assert_there(&mut client);
    let reply = client.call(&["GET", "during"]).expect("answered");
    assert_eq!(reply.as_str(), Some("the stop"));
}

/// Writers without end: the stop comes all the same, with little left, and with everything that
/// was acknowledged.
#[test]
fn writers_do_not_keep_a_server_from_stopping() {
    let mut cluster = Cluster::started(&[("shared_buffers", "32MB")]);
    let load = Load::start(&cluster.socket(), 4, 700);
    load.wait_for(5_000);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    let acknowledged = load.join();
    let log = cluster.log_since_start();
    assert_order(&log, &[REQUESTED, CLEANED, "server is shut down"]);
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

/// A stop for which writing pages takes long slows commits meanwhile, and comes to its end.
#[test]
fn commits_are_slowed_while_a_stop_takes_long() {
    const HELD_AGAIN: &str = "fault point doublewrite_synced does its action";
    /// When the checkpointer calls it long, and a little more.
    const LONG: Duration = Duration::from_millis(3_100);
    let (mut cluster, acknowledged, mut client) = held_server();
    cluster.announce(HELD_AGAIN);
    let value = "v".repeat(1500);
    ok(&mut client, &["SET", "key", &value]);
    cluster.signal(Signal::SIGINT);
    cluster.wait_log(PAUSED);
    std::thread::sleep(LONG);
    assert_eq!(cluster.info("checkpoint", "commits_slowed_stop"), "0");
    // It goes on for some batches, and looks at commits, before it stands still again.
    let points = "doublewrite_synced=pause@10";
    ok(&mut client, &["CONFIG", "SET", "fault_points", points]);
    cluster.wait_log(HELD_AGAIN);
    assert_eq!(cluster.info("checkpoint", "commit_brake"), "stop");
    wait_for("a commit to be slowed", || {
        // More at once than may come in so short a time.
        for _ in 0..30 {
            client.send(&["SET", "key", &value]);
        }
        client.flush().expect("sent");
        client.receive_many(30).expect("answered");
        (cluster.info("checkpoint", "commits_slowed_stop") != "0").then_some(())
    });
    ok(&mut client, &["CONFIG", "SET", "fault_points", ""]);
    assert_eq!(cluster.wait_exit().code(), Some(0));
    assert_eq!(cluster.control("Database cluster state"), "shut down");
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

/// A second request does not wait for the pages.
#[test]
fn a_second_request_ends_clients_at_once() {
    let (mut cluster, acknowledged, mut client) = held_server();
    cluster.signal(Signal::SIGINT);
    cluster.wait_log(PAUSED);
    cluster.signal(Signal::SIGINT);
    assert!(client.receive().is_err(), "the connection ends");
    cluster.wait_log("received another fast shutdown request");
    // The checkpointer still stands at its page; only an immediate stop ends that.
    assert_eq!(cluster.stop(Signal::SIGQUIT).code(), Some(0));
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

#[test]
fn a_deadline_that_is_far_brings_a_whole_stop() {
    let out = in_time(|| {
        let (mut cluster, acknowledged) = dirty_server();
        let out = stop_by(&cluster, "60s");
        assert_eq!(cluster.wait_exit().code(), Some(0));
        assert_eq!(cluster.control("Database cluster state"), "shut down");
        cluster.start();
        acknowledged.assert_there(&mut cluster.client());
        out
    });
    assert!(out.contains("plan for 60 s: "), "{out}");
    assert!(
        out.contains("in order; the next start has nothing to redo"),
        "{out}"
    );
}

/// The disk stands still: the deadline is kept, and the next start is forecast.
#[test]
fn a_deadline_is_kept_by_a_server_that_cannot_write() {
    let out = in_time(|| {
        let (mut cluster, acknowledged, _client) = held_server();
        let out = stop_by(&cluster, "4s");
        assert_eq!(cluster.wait_exit().code(), Some(0));
        assert_eq!(cluster.control("Database cluster state"), "in production");
        cluster.start();
        assert!(cluster.log_since_start().contains(RECOVERED));
        acknowledged.assert_there(&mut cluster.client());
        out
    });
    assert!(out.contains("plan for 4 s: "), "{out}");
    assert!(out.contains("without a shutdown checkpoint"), "{out}");
    assert!(out.contains("the next start redoes about"), "{out}");
}

/// A supervisor that stops a service may send SIGTERM to each of its processes at once.
#[test]
fn a_server_of_which_every_process_is_told_to_stop_does_so_in_order() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce(STRAY_STOP);
    let acknowledged = fill(&cluster.socket(), 2, 100, 100);
    let children = cluster.children();
    assert!(children.len() > 3, "{children:?}");
    for child in children {
        send(child.pid, Signal::SIGTERM);
    }
    cluster.wait_log(STRAY_STOP);
    assert_eq!(cluster.stop(Signal::SIGTERM).code(), Some(0));
    assert_eq!(cluster.control("Database cluster state"), "shut down");
    cluster.start();
    assert!(!cluster.log_since_start().contains(RECOVERED));
    acknowledged.assert_there(&mut cluster.client());
}

/// Signals that only the postmaster may send, from somebody else: no cleaning that leaves nothing to
/// tell a later stop, and no shutdown checkpoint beside backends that go on writing.
#[test]
fn orders_to_stop_that_the_postmaster_did_not_give_are_ignored() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce(STRAY_STOP);
    let load = Load::start(&cluster.socket(), 2, 100);
    load.wait_for(100);
    let checkpointer = cluster.child("checkpointer");
    for (signal, times) in [(Signal::SIGUSR1, 1), (Signal::SIGUSR2, 2)] {
        send(checkpointer, signal);
        cluster.wait_log_times(STRAY_STOP, times);
    }
    load.wait_for(500);
    let acknowledged = load.stop();
    ok(&mut cluster.client(), &["CHECKPOINT", "FAST"]);
    assert_eq!(cluster.child("checkpointer"), checkpointer);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    assert_eq!(cluster.control("Database cluster state"), "shut down");
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}
