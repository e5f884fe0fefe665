//! Disks that refuse: what the server says, what it goes on doing, and how it mends.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::Cluster;
use rd_tests::support::load::{Load, fill};
use rd_tests::support::log::assert_order;
use rd_tests::support::{DEADLINE, skip, wait_for};
use rd_tests::torture::disk::SmallDisk;
use rd_wire::{Client, Reply};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const FAULT_POINTS: &str = "fault_points";

fn call(client: &mut Client, words: &[&str]) -> Reply {
    client.call(words).expect("answered")
}

fn ok(client: &mut Client, words: &[&str]) {
    let reply = call(client, words);
    assert!(reply.error().is_none(), "{words:?}: {reply:?}");
}

/// Attempts that fail are told to whoever waits, tried again later and later, and counted; then
/// writes are refused, each with the reason, while reads go on; one that succeeds mends it all.
#[test]
fn checkpoints_that_fail_turn_the_server_read_only_until_one_succeeds() {
    for action in ["eio", "enospc"] {
        let mut cluster = Cluster::started(&[("checkpoint_failures_max", "3")]);
        cluster.announce("does its action");
        cluster.announce("failed: ");
        let mut client = cluster.client();
        ok(&mut client, &["SET", "key", "value"]);
        let fails = |client: &mut Client, points: &str| {
            cluster.arm(points);
            let reply = call(client, &["CHECKPOINT", "WAIT", "FAST"]);
            let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
            assert!(error.contains("checkpoint"), "{error}");
        };
        fails(&mut client, &format!("checkpoint_begun={action}"));
        ok(&mut client, &["SET", "key", "after one failure"]);
        // It counts no more when one has succeeded.
        ok(&mut client, &["CHECKPOINT", "WAIT", "FAST"]);
        ok(&mut client, &["SET", "key", "before three failures"]);
        // Each attempt falls at the point that comes next; the fourth, which finds the disk whole, stands still
        // before it mends anything.
        let points = format!(
            "checkpoint_begun={action},checkpoint_sync={action},checkpoint_synced={action},\
             checkpoint_done=pause"
        );
        fails(&mut client, &points);
        cluster.wait_log_times("trying again in 1 s", 2);
        cluster.wait_log("trying again in 2 s");
        cluster.wait_log("trying again in 4 s; writes are refused until one succeeds");
        // Said before it is done.
        wait_for("a refusal", || {
            let reply = call(&mut client, &["SET", "other", "v"]);
            reply.error().is_some().then_some(())
        });
        for words in [&["SET", "key", "v"][..], &["INCR", "n"], &["DEL", "key"]] {
            let reply = call(&mut client, words);
            let error = reply
                .error()
                .unwrap_or_else(|| panic!("{words:?}: {reply:?}"));
            assert!(error.starts_with("MISCONF "), "{error}");
            assert!(error.contains("read-only: checkpoints fail"), "{error}");
        }
        let reply = call(&mut client, &["GET", "key"]);
        assert_eq!(reply.as_str(), Some("before three failures"));
        assert_eq!(cluster.info("checkpoint", "checkpoints_failed"), "4");
        cluster.arm("");
        wait_for("writes to go on", || {
            call(&mut client, &["SET", "key", "mended"])
                .error()
                .is_none()
                .then_some(())
        });
        assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    }
}

/// The checkpoint that clients wait for after recovery is tried again as any is, so often as an open
/// server goes on to take writes; then the server ends and says why. The next start mends it.
#[test]
fn a_checkpoint_before_the_server_opens_is_tried_again_until_too_many_have_failed() {
    let mut cluster = Cluster::started(&[("end_of_recovery_checkpoint", "before_open")]);
    cluster.announce("does its action");
    cluster.announce("failed");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    cluster.announce("starts before this one did not finish");
    let mut client = cluster.client();
    ok(&mut client, &["SET", "key", "value"]);
    cluster.kill_all();
    cluster.set("checkpoint_failures_max", "2");
    cluster.set(FAULT_POINTS, "checkpoint_begun=eio,checkpoint_sync=eio");
    let (log, code) = cluster.start_refused();
    assert_eq!(code, Some(1));
    assert_order(
        &log,
        &[
            "trying again in 1 s",
            "trying again in 2 s; writes are refused",
            "FATAL",
        ],
    );
    let last = log.lines().find(|line| line.contains("FATAL"));
    let last = last.expect("it is there");
    for part in [
        "failed 2 times in a row",
        "checkpoint_failures_max",
        "error 5",
        "after_open",
    ] {
        assert!(last.contains(part), "{part}: {last}");
    }
    assert!(!log.contains("server is ready"), "{log}");

    cluster.set(FAULT_POINTS, "checkpoint_begun=eio");
    cluster.start();
    assert_order(
        &cluster.log_since_start(),
        &[
            "trying again in 1 s",
            "checkpoint complete: end-of-recovery",
            "server is ready",
        ],
    );
    let mut client = cluster.client();
    assert_eq!(call(&mut client, &["GET", "key"]).as_str(), Some("value"));
    ok(&mut client, &["SET", "key", "other"]);
}

/// A stop does not wait for the checkpoint that clients wait for.
#[test]
fn a_stop_does_not_wait_for_the_checkpoint_before_the_server_opens() {
    let mut cluster = Cluster::started(&[("end_of_recovery_checkpoint", "before_open")]);
    cluster.announce("does its action");
    cluster.announce("starts before this one did not finish");
    ok(&mut cluster.client(), &["SET", "key", "value"]);
    cluster.kill_all();
    cluster.set(FAULT_POINTS, "checkpoint_begun=pause");
    cluster.spawn();
    cluster.wait_log("fault point checkpoint_begun does its action");
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    assert!(cluster.log_since_start().contains("request to stop"));
    cluster.set(FAULT_POINTS, "");
    cluster.start();
    let reply = call(&mut cluster.client(), &["GET", "key"]);
    assert_eq!(reply.as_str(), Some("value"));
}

/// Redo's threads wait for frames for as long as no page can be written; a stop does not.
#[test]
fn a_stop_does_not_wait_for_pages_that_cannot_be_written_in_recovery() {
    let mut cluster = Cluster::started(&[
        ("shared_buffers", "16MB"),
        ("checkpoint_timeout", "1h"),
        ("recovery_time_target", "0"),
        ("log_startup_progress_interval", "100ms"),
    ]);
    // It may be killed while it writes a page.
    cluster.announce("was torn");
    cluster.announce("does its action");
    cluster.announce("starts before this one did not finish");
    let mut client = cluster.client();
    // Twice what the buffers hold.
    let value = "v".repeat(100_000);
    for number in 0..320 {
        ok(&mut client, &["SET", &format!("key:{number}"), &value]);
    }
    drop(client);
    cluster.kill_all();
    cluster.set(FAULT_POINTS, "page_write=pause");
    cluster.spawn();
    cluster.wait_log("fault point page_write does its action");
    // The reader waits for the threads.
    cluster.wait_log_times("redo in progress", 10);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    assert!(cluster.log_since_start().contains("request to stop"));
    cluster.set(FAULT_POINTS, "");
    cluster.start();
    let reply = call(&mut cluster.client(), &["GET", "key:319"]);
    assert_eq!(reply.as_str(), Some(&*value));
}

/// A sync that fails is not tried again: whoever made it ends, the server starts anew, and what was
/// acknowledged is recovered.
#[test]
fn a_sync_that_fails_is_a_panic_and_what_was_acknowledged_is_recovered() {
    for (point, what, file) in [
        ("wal_sync", "could not sync", "\"wal/"),
        (
            "doublewrite_sync",
            "could not sync",
            "\"global/doublewrite\"",
        ),
        ("file_sync", "could not sync", "\"base/"),
        // To write it is to sync it.
        ("control_sync", "could not write", "\"global/pg_control\""),
    ] {
        // Else pages, or pg_control, may be written by themselves before anybody asks.
        let mut cluster = Cluster::started(&[
            ("recovery_time_target", "0"),
            ("checkpoint_heartbeat", "1min"),
        ]);
        cluster.announce("");
        let acknowledged = fill(&cluster.socket(), 4, 100, 200);
        cluster.arm(&format!("{point}=eio"));
        let mut client = cluster.client();
        let mut is_ok = |words: &[&str]| client.call(words).is_ok_and(|reply| reply.is_ok());
        let is_synced = is_ok(&["SET", "key", "value"]) && is_ok(&["CHECKPOINT"]);
        assert!(!is_synced, "{point}: nothing was synced");
        cluster.wait_log_times("server is ready to accept connections", 2);
        let log = cluster.log_since_start();
        let panic = log.lines().find(|line| line.contains("PANIC"));
        let panic = panic.unwrap_or_else(|| panic!("no PANIC in {log}"));
        assert!(panic.contains(what) && panic.contains(file), "{panic}");
        assert!(log.contains("redo starts at"), "{log}");
        acknowledged.assert_there(&mut cluster.client());
    }
}

/// A spread checkpoint that takes too long goes on fast, and the log says why.
#[test]
fn a_checkpoint_that_takes_too_long_turns_fast() {
    let cluster = Cluster::started(&[
        ("shared_buffers", "64MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_timeout_max", "1s"),
    ]);
    fill(&cluster.socket(), 4, 1500, 6_000);
    // At its pace, 5 min times the completion target, it would take minutes.
    let mut client = cluster.client();
    ok(&mut client, &["CHECKPOINT", "NOWAIT", "SPREAD"]);
    cluster.wait_log("has taken longer than checkpoint_timeout_max = 1 s");
    cluster.wait_log("checkpoint complete");
    let timeout = Instant::now();
    ok(&mut client, &["SET", "key", "value"]);
    assert!(timeout.elapsed() < DEADLINE);
}

/// A file system of its own in place of `wal`, while it lives.
struct Mount {
    path: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

impl Mount {
    /// Puts a file system there that has room for what the directory holds, which it then holds, and
    /// for so many bytes more; none, where this is not allowed.
    fn over(path: &Path, spare_bytes: u64) -> Option<Mount> {
        let kept = path.with_extension("kept");
        fs::rename(path, &kept).expect("renamed");
        fs::create_dir(path).expect("a directory");
        // The server makes segments ahead, one more or less as it came to it.
        let held = fs::read_dir(&kept).expect("a directory").map(|entry| {
            let metadata = entry.and_then(|entry| entry.metadata());
            metadata.expect("an entry").len()
        });
        let size = held.sum::<u64>() + spare_bytes;
        let mount = Mount::at(path, &size.to_string());
        for entry in fs::read_dir(&kept).expect("a directory") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), path.join(entry.file_name())).expect("copied");
        }
        fs::remove_dir_all(&kept).expect("removed");
        mount
    }

    /// Puts the data of a server that has yet to start on a small file system of its own, and stops it
    /// when it has set a key; none, where no file system can be mounted.
    fn below(cluster: &mut Cluster, place: &Path) -> Option<Mount> {
        let Some(mount) = Mount::at(place, "48m") else {
            skip("no file system can be mounted here");
            return None;
        };
        cluster.put_data(place.join("data"));
        cluster.start();
        ok(&mut cluster.client(), &["SET", "key", "value"]);
        assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
        Some(mount)
    }

    /// Puts an empty file system of this size there; none, where this is not allowed.
    fn at(path: &Path, size: &str) -> Option<Mount> {
        let option = format!("size={size},mode=0700");
        let text = path.to_string_lossy();
        run("mount", &["-t", "tmpfs", "-o", &option, "tmpfs", &text]).then(|| Mount {
            path: path.to_owned(),
        })
    }

    /// Writes into a file until there is no room left.
    fn fill(&self) {
        let mut junk = fs::File::create(self.path.join("filler")).expect("a file");
        while std::io::Write::write_all(&mut junk, &[1; 4096]).is_ok() {}
    }

    fn grow(&self, size: &str) {
        let option = format!("remount,size={size}");
        let text = self.path.to_string_lossy();
        assert!(run("mount", &["-o", &option, &text]), "remounted");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a server that a failed test has left may still be there.
        run("umount", &["-l", &self.path.to_string_lossy()]);
    }
}

/// The disk of the log is full: writes are refused with a clear error, reads go on, a clean stop
/// and a start work, and when there is room again writes go on by themselves.
#[test]
fn a_full_disk_refuses_writes_serves_reads_and_mends() {
    let mut cluster = Cluster::new(&[
        ("wal_segment_size", "1MB"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "1GB"),
    ]);
    cluster.announce("write-ahead log");
    cluster.announce("segment");
    cluster.start();
    ok(&mut cluster.client(), &["SET", "first", "value"]);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    let Some(mount) = Mount::over(&cluster.path("wal"), 4 << 20) else {
        skip("no file system can be mounted here");
        return;
    };
    cluster.start();
    let mut client = cluster.client();
    // So much at once that there is no room for it, although a checkpoint gives up old log meanwhile.
    let value = "v".repeat(100_000);
    let until_refused = |client: &mut Client| {
        let deadline = Instant::now() + DEADLINE;
        let mut last = None;
        loop {
            let keys: Vec<String> = (0..100).map(|number| format!("key{number}")).collect();
            keys.iter()
                .for_each(|key| client.send(&["SET", key, &value]));
            let replies = client.receive_many(keys.len()).expect("answered");
            let is_written = |(_, reply): &(_, &Reply)| reply.error().is_none();
            let written = keys.iter().zip(&replies).rfind(is_written);
            last = written.map(|(key, _)| key.clone()).or(last);
            if let Some(error) = replies.iter().find_map(Reply::error) {
                return (last, error.to_owned());
            }
            assert!(Instant::now() < deadline, "there is no end");
        }
    };
    let (last, error) = until_refused(&mut client);
    let last = last.expect("there was room for some");
    assert!(error.starts_with("MISCONF the disk is full: "), "{error}");
    assert!(error.contains("writes go on when there is room"), "{error}");
    assert_eq!(call(&mut client, &["GET", &last]).as_str(), Some(&*value));
    ok(&mut client, &["PING"]);

    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    assert_eq!(cluster.control("Database cluster state"), "shut down");
    // The shutdown checkpoint has given log up; what is left of the disk is filled by others.
    cluster.start();
    let mut client = cluster.client();
    assert_eq!(call(&mut client, &["GET", &last]).as_str(), Some(&*value));
    mount.fill();
    let (_, refused) = until_refused(&mut client);
    assert!(
        refused.starts_with("MISCONF the disk is full: "),
        "{refused}"
    );
    assert_eq!(call(&mut client, &["GET", "first"]).as_str(), Some("value"));

    mount.grow("32m");
    wait_for("writes to go on", || {
        let reply = call(&mut client, &["SET", "again", "value"]);
        reply.error().is_none().then_some(())
    });
    drop(client);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    drop(mount);
}

/// The whole disk is full while no server runs: one starts all the same, after a stop in order and
/// after a crash, and is found by its pid file.
#[test]
fn a_server_starts_on_a_disk_that_has_filled_up() {
    let mut cluster = Cluster::new(&[
        ("wal_segment_size", "1MB"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "8MB"),
    ]);
    cluster.announce("");
    let place = tempfile::tempdir().expect("a directory");
    let Some(mount) = Mount::below(&mut cluster, place.path()) else {
        return;
    };
    mount.fill();
    for _ in 0..2 {
        cluster.start();
        let reply = call(&mut cluster.client(), &["GET", "key"]);
        assert_eq!(reply.as_str(), Some("value"));
        cluster.kill_all();
    }
    cluster.start();
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    drop(mount);
}

/// The whole disk is an ext4, which finds room for what is written before it has any, and gives back what was freed
/// when its journal says so. It fills up under load: writes are refused for that reason, reads are not; a server that
/// is killed then starts on it, with everything acknowledged, and takes writes by itself when there is room.
#[test]
fn a_full_ext4_refuses_writes_is_started_on_and_mends() {
    let Some(disk) = SmallDisk::ext4(96) else {
        skip("no ext4 can be made and mounted here");
        return;
    };
    let mut cluster = Cluster::new(&[
        ("wal_segment_size", "1MB"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "16MB"),
    ]);
    cluster.announce("");
    cluster.put_data(disk.path().join("data"));
    cluster.start();
    let load = Load::start(&cluster.socket(), 4, 2000);
    load.wait_for(200);
    disk.fill();
    // Each writes until it is refused.
    let acknowledged = load.join();
    let mut client = cluster.client();
    let value = "v".repeat(2000);
    let mut more = 0;
    let refused = wait_for("a refusal", || {
        more += 1;
        let reply = call(&mut client, &["SET", &format!("more{more}"), &value]);
        reply.error().map(str::to_owned)
    });
    assert!(
        refused.starts_with("MISCONF the disk is full: "),
        "{refused}"
    );
    acknowledged.assert_there(&mut client);
    drop(client);
    cluster.kill_all();
    cluster.start();
    let mut client = cluster.client();
    acknowledged.assert_there(&mut client);
    disk.empty();
    wait_for("writes to go on", || {
        let reply = call(&mut client, &["SET", "again", &value]);
        reply.error().is_none().then_some(())
    });
    acknowledged.assert_there(&mut client);
    drop(client);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

/// A snapshot that can only be read is read: what tools lock in it need not be written.
#[test]
fn a_read_only_snapshot_can_be_verified() {
    // As little log is made ahead as has room on a file system so small.
    let mut cluster = Cluster::new(&[
        ("wal_segment_size", "1MB"),
        ("min_wal_size", "2MB"),
        ("max_wal_size", "8MB"),
    ]);
    let place = tempfile::tempdir().expect("a directory");
    let Some(mount) = Mount::below(&mut cluster, place.path()) else {
        return;
    };
    let text = mount.path.to_string_lossy();
    assert!(run("mount", &["-o", "remount,ro", &text]), "remounted");
    let data_dir = cluster.data_dir();
    for tool in ["rd_verify", "rd_checksums"] {
        let arguments = ["-D", &data_dir.to_string_lossy()];
        let (status, _, errors) = rd_tests::support::cluster::run(tool, &arguments);
        assert!(status.success(), "{tool}: {errors}");
    }
    drop(mount);
}
