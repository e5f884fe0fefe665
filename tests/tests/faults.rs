//! Every fault point with every action that can be: a server under load whose processes fail on
//! purpose at that place, and after which nothing acknowledged may be missing.
//!
//! What the server says of it is not looked at here, only what it keeps.

use rd_sys::fault::Fault;
use rd_tests::support::cluster::Cluster;
use rd_tests::support::load::{Acknowledged, Load, fill};
use rd_tests::support::{DEADLINE, wait_for};
use rd_wire::Client;

/// Points that only a start passes.
const OF_RECOVERY: [Fault; 3] = [
    Fault::RecoveryBegun,
    Fault::RecoveryRecord,
    Fault::RecoveryDone,
];

/// Points that a checkpoint of a single namespace passes.
const OF_NAMESPACES: [Fault; 3] = [
    Fault::NamespaceBegun,
    Fault::NamespaceStamped,
    Fault::NamespaceCovered,
];

/// A server whose log and files are so small that everything happens all the time.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(&[
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "8MB"),
        ("min_wal_size", "2MB"),
        ("shared_buffers", "16MB"),
        ("checkpoint_heartbeat", "100ms"),
        ("checkpoint_warning", "0"),
        ("crash_restart_max", "1000"),
    ]);
    cluster.announce("");
    cluster
}

/// How often the point has done what it was armed with.
fn actions(cluster: &Cluster, fault: Fault) -> usize {
    let text = format!("fault point {} does its action", fault.name());
    cluster.log_since_start().matches(&text).count()
}

/// Asks for a checkpoint, if there is somebody to ask.
fn checkpoint(cluster: &Cluster, words: &[&str]) -> bool {
    let reply = connect(cluster).and_then(|mut client| client.call(words).ok());
    reply.is_some_and(|reply| reply.error().is_none())
}

/// A connection, if there is one to be had.
fn connect(cluster: &Cluster) -> Option<Client> {
    let mut client = Client::connect_unix(cluster.socket()).ok()?;
    client.set_timeout(Some(DEADLINE)).ok()?;
    Some(client)
}

/// Writes, arms the point in the midst of it, and goes on until the action is done.
fn pass(cluster: &Cluster, fault: Fault, action: &str) -> Acknowledged {
    let before = actions(cluster, fault);
    let load = Load::start(&cluster.socket(), 3, 700);
    load.wait_for(300);
    let text = format!("{}={action}", fault.name());
    let mut client = cluster.client();
    // The point may be passed, and end the server, before the answer is out.
    if let Ok(reply) = client.call(&["CONFIG", "SET", "fault_points", &text]) {
        assert!(reply.is_ok(), "{text}");
    }
    drop(client);
    wait_for(&text, || {
        checkpoint(cluster, &["CHECKPOINT", "NOWAIT", "FAST"]);
        if OF_NAMESPACES.contains(&fault) {
            checkpoint(cluster, &["CHECKPOINT", "NAMESPACE", "db0"]);
        }
        (actions(cluster, fault) > before).then_some(())
    });
    let acknowledged = load.stop();
    assert!(acknowledged.total() >= 300);
    acknowledged
}

/// All points that a running server passes, one after the other.
fn all_points(action: &str) {
    let mut cluster = cluster();
    cluster.start();
    for fault in Fault::ALL
        .iter()
        .filter(|fault| !OF_RECOVERY.contains(fault))
    {
        let reply = cluster.client().call(&["FLUSHALL"]).expect("answered");
        assert!(reply.is_ok(), "before {}: {reply:?}", fault.name());
        let acknowledged = pass(&cluster, *fault, action);
        // Who ends by it says so before that, and may serve for a while.
        if action != "eio" {
            cluster.wait_log_times("server is ready to accept connections", 2);
            cluster.wait_ready().expect("service goes on");
        }
        // Whatever it took: the server serves again, checkpoints again, and has everything.
        wait_for(&format!("service after {}", fault.name()), || {
            checkpoint(&cluster, &["CHECKPOINT", "WAIT", "FAST"]).then_some(())
        });
        // Of an error some end as well, later.
        wait_for("a server that tells what it has", || {
            acknowledged.look(&mut connect(&cluster)?).ok()
        });
        // And once more from what is on disk.
        cluster.kill_all();
        cluster.start();
        acknowledged.assert_there(&mut cluster.client());
    }
}

#[test]
fn killed_at_every_point() {
    all_points("kill");
}

#[test]
fn aborted_at_every_point() {
    all_points("abort");
}

#[test]
fn bad_disk_at_every_point() {
    all_points("eio");
}

#[test]
fn killed_in_recovery() {
    let mut cluster = cluster();
    // Else the redo point follows the load, and leaves nothing to be redone.
    cluster.set("recovery_time_target", "0");
    cluster.set("max_wal_size", "1GB");
    cluster.start();
    let cases = [
        (Fault::RecoveryBegun, 1),
        (Fault::RecoveryRecord, 1),
        (Fault::RecoveryRecord, 2),
        (Fault::RecoveryRecord, 100),
        (Fault::RecoveryDone, 1),
    ];
    for fault in OF_RECOVERY {
        assert!(cases.iter().any(|case| case.0 == fault), "{}", fault.name());
    }
    for (fault, nth) in cases {
        // Records and keys of its own: the last start has put all others behind.
        let reply = cluster.client().call(&["FLUSHALL"]).expect("answered");
        assert!(reply.is_ok(), "before {}: {reply:?}", fault.name());
        let acknowledged = fill(&cluster.socket(), 3, 700, 1_000);
        cluster.kill_all();
        let text = format!("{}=kill@{nth}", fault.name());
        cluster.set("fault_points", &text);
        cluster.start();
        assert_eq!(actions(&cluster, fault), 1, "{text}");
        acknowledged.assert_there(&mut cluster.client());
        // Else it may put the next load behind it.
        cluster.wait_log("checkpoint complete: end-of-recovery");
    }
}
