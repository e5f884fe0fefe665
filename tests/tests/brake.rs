//! Commits are slowed before the log outgrows its limit, or clean frames run out: seen from outside,
//! by clients that write as fast as they are answered.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::{Cluster, send};
use rd_tests::support::load::Load;
use rd_tests::support::{DEADLINE, wait_for};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

const MB: u64 = 1 << 20;
/// What the brake is set by is looked at by the checkpointer alone: while a busy machine holds it up, log comes
/// without a bound. Of so many servers one must have been left alone.
const TRIES: usize = 5;

fn number(cluster: &Cluster, field: &str) -> u64 {
    cluster.info("checkpoint", field).parse().expect("a number")
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

/// Writers that are faster than the checkpoint: the log stays within its limit all the same, nobody
/// is refused, and the log says why.
#[test]
fn a_checkpoint_that_is_too_slow_slows_commits_and_stops_nobody() {
    const WAL_MAX_MB: u64 = 24;
    let is_within = |_| most_log_of_writers_that_are_slowed(WAL_MAX_MB) <= WAL_MAX_MB * MB * 3 / 2;
    assert!(
        (0..TRIES).any(is_within),
        "more log than that each time with max_wal_size = {WAL_MAX_MB}MB"
    );
}

/// How many bytes of log there were at most.
fn most_log_of_writers_that_are_slowed(wal_max_mb: u64) -> u64 {
    const VALUE_BYTES: usize = 1500;
    let wal_max = format!("{wal_max_mb}MB");
    let cluster = Cluster::started(&[
        ("wal_segment_size", "1MB"),
        ("max_wal_size", &wal_max),
        ("min_wal_size", "2MB"),
        ("shared_buffers", "64MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_warning", "0"),
    ]);
    let wal = cluster.path("wal");
    let load = Load::start(&cluster.socket(), 8, VALUE_BYTES);
    let (mut most, mut longest_gap) = (0, Duration::ZERO);
    let (mut last, mut last_at) = (0, Instant::now());
    let deadline = Instant::now() + 3 * DEADLINE;
    // Until the brake was seen at work, and five times the limit was written.
    while number(&cluster, "commits_slowed_wal") == 0
        || load.acknowledged() * (VALUE_BYTES as u64) < 5 * wal_max_mb * MB
    {
        most = most.max(bytes_in(&wal));
        let now = load.acknowledged();
        if now != last {
            longest_gap = longest_gap.max(last_at.elapsed());
            (last, last_at) = (now, Instant::now());
        }
        assert!(Instant::now() < deadline, "{} writes in vain", now);
        // Between two looks.
        std::thread::sleep(Duration::from_millis(5));
    }
    cluster.wait_log(&format!(
        "log comes faster than the checkpoint gets done within max_wal_size = {wal_max}"
    ));
    let acknowledged = load.stop();
    println!(
        "most {} MB of {wal_max_mb}, {} slowed, {} ms in all, longest gap {longest_gap:?}",
        most >> 20,
        number(&cluster, "commits_slowed_wal"),
        number(&cluster, "commits_slowed_wal_us") / 1000,
    );
    assert!(
        longest_gap < DEADLINE / 2,
        "service goes on: {longest_gap:?}"
    );
    assert!(number(&cluster, "commits_slowed_wal_us") > 0);
    let log = cluster.log_since_start();
    let mut reports = log
        .lines()
        .filter(|line| line.contains("commits were slowed"));
    let advises = |line: &str| line.contains("would be enough for this load");
    assert!(reports.any(advises), "{log}");
    acknowledged.assert_there(&mut cluster.client());
    // Without load nobody is slowed.
    wait_for("the brake to be lifted", || {
        (cluster.info("checkpoint", "commit_brake") == "off").then_some(())
    });
    most
}

/// Pages are changed faster than they are written: commits are slowed before anybody finds no frame at
/// all, and the log says why.
#[test]
fn a_shortage_of_clean_frames_slows_commits_and_stops_nobody() {
    let cluster = Cluster::started(&[
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "256MB"),
        ("min_wal_size", "2MB"),
        ("shared_buffers", "16MB"),
        ("checkpoint_warning", "0"),
    ]);
    let checkpointer = cluster.child("checkpointer");
    let load = Load::start(&cluster.socket(), 8, 1500);
    let deadline = Instant::now() + DEADLINE;
    let is_told = || {
        let log = cluster.log_since_start();
        log.contains("clean frames run short") && log.contains("try shared_buffers = 32MB")
    };
    // As on a slow disk, the checkpointer comes to little.
    while number(&cluster, "commits_slowed_frames") == 0 || !is_told() {
        send(checkpointer, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(40));
        send(checkpointer, Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(10));
        assert!(Instant::now() < deadline, "{} writes", load.acknowledged());
    }
    assert!(number(&cluster, "commits_slowed_frames_us") > 0);
    let acknowledged = load.stop();
    acknowledged.assert_there(&mut cluster.client());
}

/// Few writes, slowly: no commit is slowed.
#[test]
fn without_pressure_no_commit_is_slowed() {
    let cluster = Cluster::started(&[
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "16MB"),
        ("min_wal_size", "2MB"),
    ]);
    let mut client = cluster.client();
    for number in 0..500 {
        let key = format!("key{number}");
        let reply = client.call(&["SET", &key, "value"]).expect("answered");
        assert!(reply.is_ok(), "{reply:?}");
    }
    let reply = client.call(&["CHECKPOINT"]).expect("answered");
    assert!(reply.error().is_none(), "{reply:?}");
    assert_eq!(cluster.info("checkpoint", "commit_brake"), "off");
    for counter in ["commits_slowed_wal", "commits_slowed_frames"] {
        assert_eq!(number(&cluster, counter), 0, "{counter}");
    }
}
