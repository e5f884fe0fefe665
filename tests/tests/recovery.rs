//! Recovery goes on where it was cut off, however often; with several workers.

use nix::sys::signal::Signal;
use rd_base::Lsn;
use rd_tests::support::cluster::{Cluster, send};
use rd_tests::support::load::{Acknowledged, fill};
use rd_tests::support::process::{is_asleep, is_stopped};
use rd_tests::support::wait_for;
use rd_wire::{Client, Reply};
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

/// Where the last start began to redo.
fn redo_start(cluster: &Cluster) -> Lsn {
    let log = cluster.log_since_start();
    let line = log.lines().find(|line| line.contains("redo starts at"));
    let text = line.and_then(|line| line.split_whitespace().last());
    text.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no start of redo in:\n{log}"))
}

fn redo_point(cluster: &Cluster) -> Lsn {
    let text = cluster.control("Latest checkpoint's REDO location");
    text.parse().expect("an LSN")
}

fn keys(cluster: &Cluster) -> Reply {
    cluster.client().call(&["DBSIZE"]).expect("answered")
}

/// A server of which only a full checkpoint writes pages and advances the redo point.
fn lazy() -> Cluster {
    let mut cluster = Cluster::started(&[
        ("shared_buffers", "32MB"),
        ("max_wal_size", "1GB"),
        ("wal_segment_size", "1MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_heartbeat", "1min"),
        ("recovery_workers", "3"),
    ]);
    cluster.announce("");
    cluster
}

/// A server that was killed over a log of some ten megabytes, what it has promised, and how many
/// keys it had.
fn killed() -> (Cluster, Acknowledged, Reply) {
    let mut cluster = lazy();
    let acknowledged = fill(&cluster.socket(), 4, 700, 20_000);
    let keys = keys(&cluster);
    cluster.kill_all();
    (cluster, acknowledged, keys)
}

#[test]
fn each_attempt_begins_where_the_one_before_has_come() {
    let (mut cluster, acknowledged, before) = killed();
    let mut last = redo_point(&cluster);
    // The first attempt is left alone for a while; those after it are not.
    cluster.set("fault_points", "recovery_record=kill@1");
    cluster.set("restart_after_crash", "off");
    cluster.spawn();
    cluster.wait_exit();
    for _ in 0..3 {
        // Far enough for some batches to be redone behind the redo point.
        cluster.set("fault_points", "recovery_record=pause@6000");
        cluster.spawn();
        wait_for("the redo point to advance", || {
            (redo_point(&cluster) > last).then_some(())
        });
        assert_eq!(redo_start(&cluster), last, "it begins at the redo point");
        cluster.kill_all();
        last = redo_point(&cluster);
    }
    cluster.set("fault_points", "");
    cluster.start();
    assert_eq!(redo_start(&cluster), last);
    acknowledged.assert_there(&mut cluster.client());
    assert_eq!(keys(&cluster), before, "keys are counted exactly");
    // And whatever was written meanwhile is whole.
    cluster.kill_all();
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
    assert_eq!(keys(&cluster), before);
}

#[test]
fn killed_again_and_again_it_comes_to_its_end() {
    let (mut cluster, acknowledged, before) = killed();
    let records = ["3000", "1", "500", "9000", "2", "14000", "12000"];
    let mut deaths = 0;
    for record in records {
        let text = format!("recovery_record=kill@{record}");
        cluster.set("fault_points", &text);
        cluster.set("restart_after_crash", "off");
        cluster.spawn();
        if cluster.wait_ready().is_ok() {
            // The redo point has moved on so far that fewer records are left.
            cluster.kill_all();
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 4, "{deaths}");
    cluster.set("fault_points", "");
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
    assert_eq!(keys(&cluster), before, "keys are counted exactly");
}

#[test]
fn pages_that_are_on_disk_are_read_ahead() {
    let mut cluster = Cluster::started(&[
        ("shared_buffers", "32MB"),
        ("recovery_time_target", "0"),
        ("recovery_workers", "2"),
        ("recovery_prefetch", "on"),
    ]);
    let read_ahead = |cluster: &Cluster| {
        let count = cluster.info("storage", "pages_read_ahead");
        count.parse::<u64>().expect("a number")
    };
    assert_eq!(read_ahead(&cluster), 0, "there was nothing to redo");
    fill(&cluster.socket(), 4, 700, 10_000);
    let mut client = cluster.client();
    assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
    // Keys of many leaves, all of which are on disk.
    for _ in 0..500 {
        let Ok(Reply::Bulk(key)) = client.call(&["RANDOMKEY"]) else {
            panic!("there are keys");
        };
        let key = String::from_utf8_lossy(&key);
        assert!(
            client
                .call(&["SET", &key, "changed"])
                .expect("answered")
                .is_ok()
        );
    }
    cluster.kill_all();
    cluster.start();
    let ahead = read_ahead(&cluster);
    let read: u64 = cluster
        .info("storage", "pages_read")
        .parse()
        .expect("a number");
    assert!(ahead > 0 && ahead <= read, "{ahead} of {read} pages");
}

/// How far redo is, percent; none while that is not shown.
fn percent(cluster: &Cluster) -> Option<u64> {
    let status = cluster.status();
    let (_, rest) = status.split_once("recovering redo ")?;
    rest.split_once('%')?.0.parse().ok()
}

#[test]
fn redo_waits_for_pages_to_be_written_only_where_a_start_did_not_finish() {
    const HELD: &str = "fault point page_write does its action";
    let (mut cluster, acknowledged, before) = killed();
    // Whoever writes a page stands still. The first attempt does not need any to be written.
    cluster.set("fault_points", "page_write=pause");
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
    cluster.kill_all();
    cluster.set("restart_after_crash", "off");
    cluster.set("fault_points", "recovery_record=kill@1");
    cluster.spawn();
    cluster.wait_exit();
    cluster.set("fault_points", "page_write=pause");
    cluster.spawn();
    cluster.wait_log(HELD);
    // The redo point is where it was, so redo comes as far as its least lead. To let it go on for a
    // while can only find more.
    let some = || percent(&cluster).filter(|percent| *percent > 0);
    let mut furthest = wait_for("redo to get somewhere", some);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        furthest = furthest.max(percent(&cluster).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(
        cluster.status().starts_with("recovering"),
        "{}",
        cluster.status()
    );
    assert!(furthest < 60, "{furthest} %");
    cluster.kill_all();
    cluster.set("fault_points", "");
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
    assert_eq!(keys(&cluster), before, "keys are counted exactly");
}

/// The checkpointer leaves the first attempt alone for 10 s, however long it takes. More time than that may
/// pass, and not less.
#[test]
fn the_first_attempt_is_left_alone_for_ten_seconds() {
    let (mut cluster, acknowledged, _) = killed();
    let before = redo_point(&cluster);
    cluster.set("fault_points", "recovery_record=pause@6000");
    let began = Instant::now();
    cluster.spawn();
    wait_for("the redo point to advance", || {
        std::thread::sleep(Duration::from_millis(100));
        (redo_point(&cluster) > before).then_some(())
    });
    let passed = began.elapsed();
    assert!(passed >= Duration::from_secs(10), "{passed:?}");
    cluster.kill_all();
    cluster.set("fault_points", "");
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

/// Arms fault points by the configuration file, where the last line counts.
fn arm_in_file(cluster: &Cluster, points: &str) {
    let path = cluster.path("redoubt.conf");
    let file = File::options().append(true).open(path);
    let mut file = file.expect("rd_initdb writes it");
    writeln!(file, "fault_points = '{points}'").expect("written");
}

/// How far the start under way has redone the log, as its last report says.
fn redone(cluster: &Cluster) -> Option<Lsn> {
    let log = cluster.log_since_start();
    let (_, rest) = log.rsplit_once("current LSN: ")?;
    rest.split_once(',')?.0.parse().ok()
}

/// After a start that did not finish redo gets ahead of the redo point by a third of what it has put behind,
/// and by no more than that and a batch.
#[test]
fn the_lead_of_a_repeated_start_is_a_third_of_what_it_has_put_behind() {
    const BATCH_BYTES: u64 = 256 << 10;
    const MB: u64 = 1 << 20;
    let (mut cluster, acknowledged, before) = killed();
    cluster.set("restart_after_crash", "off");
    cluster.set("log_startup_progress_interval", "100ms");
    arm_in_file(&cluster, "recovery_record=kill@1");
    cluster.spawn();
    cluster.wait_exit();
    // The log is read so far first, and the redo point follows as far as it can.
    arm_in_file(&cluster, "recovery_record=pause@10000");
    cluster.spawn();
    cluster.wait_log("fault point recovery_record does its action");
    let from = redo_start(&cluster);
    let (mut redo, mut looks) = (from, 0);
    let checkpointer = cluster.child("checkpointer");
    wait_for("the redo point to come to a stand", || {
        std::thread::sleep(Duration::from_millis(50));
        let now = redo_point(&cluster);
        // One that only waits for a processor, or for the disk, is not where it can come to.
        let is_there = now == redo && is_asleep(checkpointer);
        looks = if is_there { looks + 1 } else { 0 };
        redo = now;
        (looks == 20 && redo.bytes_since(from) > 4 * MB).then_some(())
    });
    send(checkpointer, Signal::SIGSTOP);
    wait_for("the checkpointer to stop", || {
        is_stopped(checkpointer).then_some(())
    });
    redo = redo_point(&cluster);
    let third = redo.bytes_since(from) / 3;
    arm_in_file(&cluster, "");
    cluster.signal(Signal::SIGHUP);
    let ahead = || Some(redone(&cluster)?.get().saturating_sub(redo.get()));
    let mut furthest = wait_for("redo to come as far as it may", || {
        ahead().filter(|ahead| *ahead >= third)
    });
    // To let it go on for a while can only find more.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        furthest = furthest.max(ahead().unwrap_or(0));
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(third > MB, "{third}");
    assert!(
        furthest <= third + 2 * BATCH_BYTES,
        "{furthest} bytes, {third}"
    );
    let status = cluster.status();
    assert!(status.starts_with("recovering"), "{status}");
    send(checkpointer, Signal::SIGCONT);
    cluster.wait_ready().expect("it goes on");
    acknowledged.assert_there(&mut cluster.client());
    assert_eq!(keys(&cluster), before, "keys are counted exactly");
}

/// The key counts in `pg_control` are those of the end of a checkpoint, while redo begins where it began.
/// The count of a database that was made in between begins with nothing, so no one place in the log is
/// true of all counts before redo has come to that end: no start waits for a redo point until then.
#[test]
fn a_database_made_during_a_checkpoint_holds_up_no_repeated_start() {
    let mut cluster = lazy();
    let first = fill(&cluster.socket(), 4, 700, 6_000);
    let mut client = cluster.client();
    let ok = |client: &mut Client, words: &[&str]| {
        let reply = client.call(words).expect("answered");
        assert!(reply.error().is_none(), "{words:?}: {reply:?}");
    };
    // It would take minutes.
    ok(&mut client, &["CHECKPOINT", "NOWAIT", "SPREAD"]);
    cluster.wait_log("checkpoint starting");
    ok(&mut client, &["SELECT", "5"]);
    ok(&mut client, &["SET", "made", "meanwhile"]);
    let second = fill(&cluster.socket(), 4, 700, 20_000);
    let before = keys(&cluster);
    // Now it ends at once, and no other one does.
    cluster.arm("checkpoint_begun=pause");
    ok(
        &mut client,
        &["CONFIG", "SET", "checkpoint_timeout_max", "1s"],
    );
    cluster.wait_log("checkpoint complete");
    cluster.kill_all();

    cluster.set("restart_after_crash", "off");
    cluster.set("fault_points", "recovery_record=kill@1");
    cluster.spawn();
    cluster.wait_exit();
    cluster.set("fault_points", "");
    cluster.start();
    for acknowledged in [first, second] {
        acknowledged.assert_there(&mut cluster.client());
    }
    assert_eq!(keys(&cluster), before, "keys are counted exactly");
    let mut client = cluster.client();
    ok(&mut client, &["SELECT", "5"]);
    let reply = client.call(&["DBSIZE"]).expect("answered");
    assert_eq!(reply, Reply::Int(1));
}
