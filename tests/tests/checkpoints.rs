//! What makes checkpoints, what they are called, and what they keep small.

use nix::sys::signal::Signal;
use rd_base::Lsn;
use rd_tests::support::cluster::{Cluster, send};
use rd_tests::support::load::{Load, fill};
use rd_tests::support::{DEADLINE, wait_for};
use rd_wire::Client;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many servers are tried where a machine that is busy elsewhere may spoil what is looked at.
const TRIES: usize = 5;

/// Of `checkpoints_by_cause`: how many had this cause.
fn done_by(cluster: &Cluster, cause: &str) -> u64 {
    let causes = cluster.info("checkpoint", "checkpoints_by_cause");
    let count = causes.split(',').find_map(|part| {
        let (name, count) = part.split_once('=')?;
        (name == cause).then(|| count.parse().expect("a number"))
    });
    count.unwrap_or_else(|| panic!("no {cause} in {causes}"))
}

fn number(cluster: &Cluster, field: &str) -> u64 {
    cluster.info("checkpoint", field).parse().expect("a number")
}

fn ok(client: &mut Client, words: &[&str]) {
    let reply = client.call(words).expect("answered");
    assert!(reply.error().is_none(), "{words:?}: {reply:?}");
}

fn lsn(text: &str) -> Lsn {
    text.parse().unwrap_or_else(|_| panic!("no LSN: {text}"))
}

/// Bytes of all files of a directory.
fn bytes_in(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    // A file may go between two looks.
    let bytes = entries.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.len()));
    bytes.sum()
}

/// The lines of the log that say so.
fn starts(cluster: &Cluster) -> Vec<String> {
    let log = cluster.log_since_start();
    let starts = log
        .lines()
        .filter_map(|line| line.split_once("checkpoint starting: "));
    starts.map(|(_, words)| words.trim().to_owned()).collect()
}

/// Where the last start began to redo.
fn redo_start(cluster: &Cluster) -> Lsn {
    let log = cluster.log_since_start();
    let line = log.lines().find(|line| line.contains("redo starts at"));
    let from = line.and_then(|line| line.split_whitespace().last());
    lsn(from.unwrap_or_else(|| panic!("no redo in:\n{log}")))
}

#[test]
fn time_makes_checkpoints_when_there_is_something_to_write() {
    let started = Instant::now();
    let cluster = Cluster::started(&[("checkpoint_timeout", "30s")]);
    let mut client = cluster.client();
    ok(&mut client, &["SET", "key", "value"]);
    cluster.wait_log("checkpoint starting: time");
    assert!(
        started.elapsed() > Duration::from_secs(20),
        "not before its time"
    );
    wait_for("its end", || (done_by(&cluster, "time") == 1).then_some(()));
    assert_eq!(starts(&cluster), ["time"]);
    // It is counted first.
    let remembered = wait_for("what is remembered", || {
        cluster.stat(&["CHECKPOINTS"]).into_iter().next()
    });
    assert_eq!(remembered["cause"], "time");
    assert_eq!(remembered["requester"], "checkpointer");
    assert_eq!(done_by(&cluster, "wal"), 0);
    assert_eq!(done_by(&cluster, "manual"), 0);
}

#[test]
fn wal_size_makes_checkpoints_and_stays_within_bounds() {
    // Not on a machine that holds the checkpointer up: nothing else bounds what comes meanwhile.
    let is_within = |_| most_log_with_checkpoints_by_size() <= WAL_MAX * 2;
    assert!(
        (0..TRIES).any(is_within),
        "more log than that each time with a limit of {WAL_MAX}"
    );
}

/// The limit of [`most_log_with_checkpoints_by_size`].
const WAL_MAX: u64 = 16 << 20;

/// How many bytes of log there were at most.
fn most_log_with_checkpoints_by_size() -> u64 {
    const WRITTEN: u64 = 10 * WAL_MAX;
    const VALUE_BYTES: usize = 1500;
    let cluster = Cluster::started(&[
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "16MB"),
        ("min_wal_size", "4MB"),
        ("checkpoint_warning", "0"),
    ]);
    let wal = cluster.path("wal");
    let load = Load::start(&cluster.socket(), 4, VALUE_BYTES);
    let mut most = 0;
    let deadline = Instant::now() + 3 * rd_tests::support::DEADLINE;
    while load.acknowledged() * (VALUE_BYTES as u64) < WRITTEN {
        most = most.max(bytes_in(&wal));
        assert!(
            Instant::now() < deadline,
            "{} writes in vain",
            load.acknowledged()
        );
        // Between two looks at the directory.
        std::thread::sleep(Duration::from_millis(5));
    }
    let acknowledged = load.stop();
    let causes = starts(&cluster);
    println!(
        "most {most} bytes of {WAL_MAX}, {} checkpoints",
        causes.len()
    );
    assert!(causes.len() >= 5, "{causes:?}");
    assert!(causes.iter().all(|words| words == "wal"), "{causes:?}");
    let done = done_by(&cluster, "wal");
    assert!(done >= causes.len() as u64 - 1, "{done} of {causes:?}");
    assert_eq!(done_by(&cluster, "time"), 0);
    let remembered = cluster.stat(&["CHECKPOINTS"]);
    assert!(remembered.iter().all(|row| row["cause"] == "wal"));
    acknowledged.assert_there(&mut cluster.client());
    most
}

#[test]
fn a_command_makes_one_and_waits_for_it_or_not() {
    let mut cluster = Cluster::started(&[("shared_buffers", "64MB")]);
    let mut client = cluster.client();
    let redo = |cluster: &Cluster| cluster.info("wal", "redo_lsn");
    let mut before = (redo(&cluster), number(&cluster, "checkpoints_done"));
    for words in [
        &["CHECKPOINT"][..],
        &["CHECKPOINT", "WAIT"],
        &["CHECKPOINT", "WAIT", "FAST"],
        &["CHECKPOINT", "FAST"],
        &["SAVE"],
    ] {
        ok(&mut client, &["SET", "key", &before.0]);
        ok(&mut client, words);
        let after = (redo(&cluster), number(&cluster, "checkpoints_done"));
        assert_eq!(after.1, before.1 + 1, "{words:?} returns when it is done");
        assert_ne!(after.0, before.0, "{words:?} moves the redo point");
        before = after;
    }
    for words in starts(&cluster) {
        let words: Vec<&str> = words.split(' ').collect();
        assert!(
            words.contains(&"manual") && words.contains(&"fast"),
            "{words:?}"
        );
    }
    assert_eq!(done_by(&cluster, "manual"), 5);

    // One that is spread takes its time over thousands of pages; nobody waits for it ...
    fill(&cluster.socket(), 4, 1500, 10_000);
    for words in [&["CHECKPOINT", "NOWAIT", "SPREAD"][..], &["BGSAVE"]] {
        let asked = Instant::now();
        ok(&mut client, words);
        assert!(asked.elapsed() < DEADLINE, "{words:?} does not wait");
    }
    wait_for("its begin", || {
        let last = starts(&cluster).pop().expect("one");
        (last.contains("manual") && !last.contains("fast")).then_some(())
    });
    assert_eq!(number(&cluster, "checkpoint_in_progress"), 1);
    // ... and somebody in a hurry hurries it.
    let started = number(&cluster, "checkpoints_done");
    ok(&mut client, &["CHECKPOINT", "WAIT", "FAST"]);
    assert!(number(&cluster, "checkpoints_done") > started);
    assert_eq!(number(&cluster, "checkpoint_in_progress"), 0);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    let last = starts(&cluster).pop().expect("one");
    assert!(last.starts_with("shutdown"), "{last}");
}

/// What the copy of a data directory is that was made of all files at one moment behind a checkpoint for
/// a backup, as a snapshot of the volume is: what a crash leaves, with little to redo.
#[test]
fn a_snapshot_behind_a_checkpoint_for_a_backup_has_everything_and_little_to_redo() {
    let settings = [
        ("recovery_time_target", "0"),
        ("checkpoint_heartbeat", "1min"),
    ];
    let cluster = Cluster::started(&settings);
    let load = Load::start(&cluster.socket(), 4, 700);
    load.wait_for(2_000);
    let mut client = cluster.client();
    let id = client.call(&["CLIENT", "ID"]).expect("answered");
    let id = id.as_int().expect("a number");
    let before = lsn(&cluster.info("wal", "insert_lsn"));
    ok(&mut client, &["CHECKPOINT", "BACKUP"]);
    let row = cluster.stat(&["CHECKPOINTS"]).remove(0);
    assert_eq!(row["cause"], "fast force wait backup");
    let asked = format!("connection {id} of backend ");
    let requester = &row["requester"];
    assert!(requester.starts_with(&asked), "{requester}");
    assert!(requester.ends_with(", CHECKPOINT"), "{requester}");
    let told = format!("fast force wait backup (asked for by {requester})");
    assert_eq!(starts(&cluster), [told]);
    assert_eq!(done_by(&cluster, "backup"), 1);
    assert_eq!(done_by(&cluster, "manual"), 0);
    let redo = lsn(&row["redo_lsn"]);
    assert!(redo >= before, "{redo} < {before}");

    load.wait_for(load.acknowledged() + 2_000);
    cluster.freeze();
    let acknowledged = load.so_far();
    let mut copy = Cluster::new(&settings);
    cluster.copy_data(&copy.data_dir());
    cluster.thaw();
    // Both serve, side by side.
    copy.start();
    load.wait_for(acknowledged.total() + 1_000);
    acknowledged.assert_there(&mut copy.client());
    let from = redo_start(&copy);
    assert!(from >= redo, "redo starts at {from}, before {redo}");
    load.stop().assert_there(&mut cluster.client());
}

#[test]
fn lastsave_tells_when() {
    let mut cluster = Cluster::started(&[]);
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        i64::try_from(since.expect("after 1970").as_secs()).expect("a time")
    };
    let before = now();
    let mut client = cluster.client();
    ok(&mut client, &["SAVE"]);
    let reply = client.call(&["LASTSAVE"]).expect("answered");
    let at = reply.as_int().expect("a number");
    assert!((before..=now()).contains(&at), "{at}");
    let persistence = cluster.info("persistence", "rdb_last_save_time");
    assert_eq!(persistence, at.to_string());
    drop(client);
    cluster.stop(Signal::SIGINT);
    cluster.start();
    let reply = cluster.client().call(&["LASTSAVE"]).expect("answered");
    let later = reply.as_int().expect("a number");
    assert!(
        (at..=now()).contains(&later),
        "{later} after a restart, {at} before"
    );
}

#[test]
fn an_idle_server_writes_nothing() {
    let cluster = Cluster::started(&[("checkpoint_heartbeat", "100ms")]);
    let mut client = cluster.client();
    ok(&mut client, &["SET", "key", "value"]);
    ok(&mut client, &["CHECKPOINT"]);
    let sequence = || cluster.control("pg_control sequence number");
    let insert = || cluster.info("wal", "insert_lsn");
    // Until both slots of pg_control agree, and then no more for ten heartbeats.
    wait_for("the heartbeats to rest", || {
        let before = (sequence(), insert());
        std::thread::sleep(Duration::from_secs(1));
        ((sequence(), insert()) == before).then_some(())
    });
}

#[test]
fn the_end_of_recovery_makes_one() {
    let mut cluster = Cluster::started(&[]);
    let load = Load::start(&cluster.socket(), 4, 100);
    load.wait_for(500);
    cluster.kill_all();
    let acknowledged = load.join();
    for when in ["after_open", "before_open"] {
        cluster.set("end_of_recovery_checkpoint", when);
        cluster.start();
        cluster.wait_log("checkpoint starting: end-of-recovery");
        wait_for("its end", || {
            (done_by(&cluster, "end-of-recovery") == 1).then_some(())
        });
        if when == "before_open" {
            rd_tests::support::log::assert_order(
                &cluster.log_since_start(),
                &["checkpoint complete", "server is ready"],
            );
        }
        acknowledged.assert_there(&mut cluster.client());
        cluster.kill_all();
    }
}

/// Log size that makes checkpoints too often is warned of, with the value that would help; an attempt
/// that is made again because it failed is no sign of that.
#[test]
fn too_many_by_log_size_are_warned_of_with_the_size_that_would_be_enough() {
    const WARNING: &str = "checkpoints by log size are only";
    let mut cluster = Cluster::started(&[
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "16MB"),
        ("min_wal_size", "2MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_warning", "1h"),
    ]);
    cluster.announce(WARNING);
    cluster.announce("checkpoint (wal) failed");
    cluster.announce("fault point checkpoint_begun");
    let mut client = cluster.client();
    ok(&mut client, &["SET", "key", "value"]);
    ok(&mut client, &["CHECKPOINT"]);
    cluster.arm("checkpoint_begun=eio");
    let value = "x".repeat(5_000);
    let log = wait_for("the failure", || {
        for key in 0..100 {
            client.send(&["SET", &format!("key {key}"), &value]);
        }
        client.flush().expect("sent");
        client.receive_many(100).expect("answered");
        let log = cluster.log_since_start();
        log.contains("checkpoint (wal) failed").then_some(log)
    });
    let line = log.lines().find(|line| line.contains(WARNING));
    let line = line.expect("a warning before the attempt");
    let (_, advice) = line.split_once("max_wal_size = ").expect("advice");
    let (megabytes, rest) = advice.split_once("MB").expect("a size");
    assert!(rest.contains("would be enough for this load"), "{line}");
    let megabytes: u64 = megabytes.parse().expect("a number");
    assert!(megabytes > 16 && megabytes.is_power_of_two(), "{line}");
    cluster.wait_log_times("checkpoint starting: wal", 2);
    let log = cluster.log_since_start();
    assert_eq!(log.matches(WARNING).count(), 1, "{log}");
}

/// One that is not urgent keeps its distance from the last; one that is does not, and serves both.
#[test]
fn a_pause_is_kept_between_those_that_are_not_urgent() {
    let cluster = Cluster::started(&[("checkpoint_min_pause", "1h")]);
    let mut client = cluster.client();
    ok(&mut client, &["SET", "key", "value"]);
    ok(&mut client, &["CHECKPOINT", "FAST"]);
    let done = number(&cluster, "checkpoints_done");
    ok(&mut client, &["SET", "key", "other"]);
    let mut waits = cluster.client();
    waits.send(&["CHECKPOINT", "WAIT", "SPREAD"]);
    waits.flush().expect("sent");
    wait_for("the request", || {
        let now = cluster.stat(&["CHECKPOINT"]).remove(0);
        (now["outstanding_requests"] == "1").then_some(())
    });
    // The checkpointer has seen it when it has done something that was asked for later.
    ok(&mut client, &["CHECKPOINT", "NAMESPACE", "db0"]);
    let now = cluster.stat(&["CHECKPOINT"]).remove(0);
    assert_eq!(
        (&*now["in_progress"], &*now["outstanding_requests"]),
        ("0", "1"),
        "{now:?}"
    );
    assert_eq!(number(&cluster, "checkpoints_done"), done);
    ok(&mut client, &["CHECKPOINT", "FAST"]);
    assert!(waits.receive().expect("answered").is_ok());
    assert_eq!(number(&cluster, "checkpoints_done"), done + 1);
}

/// The part of its pages that the checkpoint under way has dealt with: all, if it is over.
fn done_part(now: &BTreeMap<String, String>) -> f64 {
    let number = |field: &str| -> Option<f64> { now.get(field)?.parse().ok() };
    let part = number("pages_done").zip(number("pages_total"));
    part.map_or(1.0, |(done, total)| done / total)
}

/// A spread checkpoint has written its part of the pages when that part of the log that may come until the
/// next one has come, and little more; without a completion target it waits for nothing.
#[test]
fn a_spread_checkpoint_goes_as_the_log_goes() {
    assert!(
        (0..TRIES).any(|_| goes_as_the_log_goes()),
        "it hurried each time"
    );
}

/// Whether that can be seen: not where a disk that stood still for a while has taught the brake that pages are
/// written slowly, for then the checkpoint hurries.
fn goes_as_the_log_goes() -> bool {
    // Segments from one checkpoint to the next, with max_wal_size and checkpoint_completion_target.
    const DISTANCE_BYTES: f64 = (33 << 20) as f64;
    /// The parts of that over which it writes: while commits do not suffer, and while they do.
    const BRISK: f64 = 0.9 * 0.85;
    const GENTLE: f64 = 0.99;
    let cluster = Cluster::started(&[
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "64MB"),
        ("min_wal_size", "4MB"),
        ("shared_buffers", "64MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_timeout", "1h"),
        ("checkpoint_heartbeat", "1min"),
    ]);
    fill(&cluster.socket(), 4, 1500, 6_000);
    let mut client = cluster.client();
    ok(&mut client, &["CHECKPOINT", "NOWAIT", "SPREAD"]);
    let under_way = || cluster.stat(&["CHECKPOINT"]).remove(0);
    let is_over = || number(&cluster, "checkpoints_done") > 0;
    let begun = wait_for("a batch to be written", || {
        let now = under_way();
        let done = now.get("pages_done").is_some_and(|done| done != "0");
        (done || is_over()).then_some(now)
    });
    if is_over() {
        return false;
    }
    let redo = lsn(&begun["target_lsn"]);
    let pages: f64 = begun["pages_total"].parse().expect("a number");
    assert!(pages > 1_000.0, "{begun:?}");
    let part_of_log = || {
        let insert = lsn(&cluster.info("wal", "insert_lsn"));
        insert.bytes_since(redo) as f64 / DISTANCE_BYTES
    };
    let is_braked = || {
        let brake = cluster.info("checkpoint", "commit_brake");
        brake != "off" || number(&cluster, "commits_slowed_wal") > 0
    };
    let value = "x".repeat(1500);
    for round in 0..50 {
        for key in 0..100 {
            client.send(&["SET", &format!("more {round} {key}"), &value]);
        }
        client.flush().expect("sent");
        client.receive_many(100).expect("answered");
        // Not so fast that a slow disk is behind it, which the checkpoint would hurry for.
        std::thread::sleep(Duration::from_millis(100));
        // Looked at in this order: what it has written followed from less log. It may be a batch
        // ahead; and time alone would bring it to so little in the minute that this may take.
        let done = done_part(&under_way());
        let allowed = (part_of_log() / BRISK).max(0.05) + 64.0 / pages;
        if is_braked() {
            return false;
        }
        assert!(done <= allowed, "{done} of the pages, {allowed} allowed");
    }
    let part = part_of_log();
    assert!((0.2..0.7).contains(&part), "{part} of the log");
    wait_for("the checkpoint to keep up", || {
        (done_part(&under_way()) >= part / GENTLE).then_some(())
    });
    if is_braked() {
        return false;
    }
    assert_eq!(number(&cluster, "checkpoint_in_progress"), 1);
    ok(
        &mut client,
        &["CONFIG", "SET", "checkpoint_completion_target", "0"],
    );
    wait_for("its end", || {
        (number(&cluster, "checkpoint_in_progress") == 0).then_some(())
    });
    assert_eq!(number(&cluster, "checkpoints_done"), 1);
    true
}

/// A spread checkpoint rests while flushes take longer than they took before it wrote pages.
#[test]
fn a_spread_checkpoint_rests_while_commits_suffer() {
    let cluster = Cluster::started(&[
        ("shared_buffers", "64MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_timeout", "30s"),
    ]);
    fill(&cluster.socket(), 4, 1500, 8_000);
    // Which shows for some time what a flush takes otherwise.
    let load = Load::start(&cluster.socket(), 1, 100);
    load.wait_for(5_000);
    let flushes = |role: &str| role == "walwriter" || role.starts_with("backend");
    let children = cluster.children().into_iter();
    let flushers: Vec<u32> = children
        .filter(|child| flushes(&child.role))
        .map(|child| child.pid)
        .collect();
    // One that time has made meanwhile may have rested.
    let rests = || number(&cluster, "checkpoint_rests_for_commits");
    let before = rests();
    let mut client = cluster.client();
    let deadline = Instant::now() + DEADLINE;
    let mut still = Duration::from_millis(50);
    while rests() == before {
        if number(&cluster, "checkpoint_in_progress") == 0 {
            ok(&mut client, &["CHECKPOINT", "NOWAIT", "SPREAD"]);
        }
        // As on a disk that does not get on with both: flushes under way stand still, for longer and
        // longer, and there are few between.
        for _ in 0..5 {
            flushers.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
            std::thread::sleep(still);
            flushers.iter().for_each(|pid| send(*pid, Signal::SIGCONT));
            std::thread::sleep(Duration::from_millis(2));
        }
        still = (2 * still).min(Duration::from_millis(500));
        assert!(Instant::now() < deadline, "{} writes", load.acknowledged());
    }
    load.stop().assert_there(&mut client);
}

/// The redo point follows what is written all the time, without a checkpoint.
#[test]
fn the_redo_point_advances_between_checkpoints() {
    // In steps of at least so much log.
    const STEP_BYTES: u64 = 8 << 10;
    // A target that leaves nothing to be redone: every page is due at once.
    let mut cluster = Cluster::started(&[
        ("recovery_time_target", "350ms"),
        ("checkpoint_heartbeat", "100ms"),
        ("checkpoint_timeout", "1h"),
    ]);
    let mut client = cluster.client();
    let redo = |cluster: &Cluster| lsn(&cluster.control("Latest checkpoint's REDO location"));
    let value = "x".repeat(500);
    let mut last = redo(&cluster);
    for round in 0..3 {
        for key in 0..100 {
            client.send(&["SET", &format!("key {round} {key}"), &value]);
        }
        client.flush().expect("sent");
        client.receive_many(100).expect("answered");
        let written = lsn(&cluster.info("wal", "insert_lsn"));
        last = wait_for("the redo point to pass what was written", || {
            std::thread::sleep(Duration::from_millis(20));
            let now = redo(&cluster);
            (now > last && now.get() + STEP_BYTES >= written.get()).then_some(now)
        });
    }
    assert_eq!(number(&cluster, "checkpoints_started"), 0);
    assert!(cluster.stat(&["CHECKPOINTS"]).is_empty());
    assert!(number(&cluster, "redo_point_advances") >= 3);
    cluster.kill_all();
    cluster.start();
    assert!(redo_start(&cluster) >= last);
    let reply = cluster.client().call(&["GET", "key 0 0"]);
    assert_eq!(reply.expect("answered").as_str(), Some(&*value));
}

/// After so much as `checkpoint_flush_after` says the system is asked to begin writing; with 0 it is not.
#[test]
fn the_system_is_asked_to_begin_writing_unless_that_is_left_to_the_sync() {
    for (after, asks) in [("256kB", true), ("0", false)] {
        let cluster = Cluster::started(&[
            ("recovery_time_target", "0"),
            ("checkpoint_flush_after", after),
        ]);
        fill(&cluster.socket(), 4, 1500, 2_000);
        assert_eq!(number(&cluster, "relation_file_writebacks"), 0);
        ok(&mut cluster.client(), &["CHECKPOINT"]);
        let row = cluster.stat(&["CHECKPOINTS"]).remove(0);
        let bytes: u64 = row["bytes_written"].parse().expect("a number");
        assert!(bytes > 2 << 20, "{row:?}");
        let asked = number(&cluster, "relation_file_writebacks");
        if asks {
            // Whole batches are noted, which may be longer.
            assert!(asked >= bytes >> 20, "{asked} times for {bytes} bytes");
        } else {
            assert_eq!(asked, 0);
        }
    }
}
