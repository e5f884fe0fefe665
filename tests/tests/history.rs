//! What is remembered of checkpoints and recoveries: who asked, why, what it cost; across crashes and
//! damage.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::{Cluster, run};
use rd_tests::support::load::{Load, fill};
use rd_tests::support::wait_for;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

type Row = BTreeMap<String, String>;

/// All checkpoints, the newest first.
fn checkpoints(cluster: &Cluster) -> Vec<Row> {
    cluster.stat(&["CHECKPOINTS", "1000"])
}

fn number(row: &Row, field: &str) -> u64 {
    row[field].parse().expect("a number")
}

fn has(row: &Row, cause: &str) -> bool {
    row["cause"].split(' ').any(|word| word == cause)
}

/// What `rd_controldata --history` says, and complains of.
fn on_disk(cluster: &Cluster) -> (Value, String) {
    let directory = cluster.data_dir();
    let arguments = ["--history", "--json", &directory.to_string_lossy()];
    let (status, out, complaints) = run("rd_controldata", &arguments);
    assert!(status.success(), "{complaints}");
    (serde_json::from_str(&out).expect("JSON"), complaints)
}

/// The numbers of the checkpoints on disk, the newest first.
fn numbers(history: &Value) -> Vec<u64> {
    let rows = history["checkpoints"].as_array().expect("an array");
    let number = |row: &Value| row["number"].as_u64().expect("a number");
    rows.iter().map(number).collect()
}

#[test]
fn every_checkpoint_is_remembered_with_its_cause_and_who_asked() {
    let mut cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    let id = client.call(&["CLIENT", "ID"]).expect("answered");
    let id = id.as_int().expect("a number");
    assert_eq!(checkpoints(&cluster), []);
    for word in ["CHECKPOINT", "SAVE"] {
        assert!(
            client
                .call(&["SET", "key", word])
                .expect("answered")
                .is_ok()
        );
        assert!(client.call(&[word]).expect("answered").is_ok());
        let row = checkpoints(&cluster).remove(0);
        assert!(has(&row, "manual") && has(&row, "wait"), "{row:?}");
        let asked = format!("connection {id} of backend ");
        let requester = &row["requester"];
        assert!(requester.starts_with(&asked), "{requester}");
        assert!(requester.ends_with(&format!(", {word}")), "{requester}");
        cluster.wait_log(&format!("(asked for by {requester})"));
        assert_eq!(row["result"], "complete");
        assert_eq!(row["redo_lsn"], cluster.info("wal", "redo_lsn"));
        assert!(number(&row, "pages_written") >= 1, "{row:?}");
        assert!(number(&row, "files_synced") >= 1, "{row:?}");
        assert!(number(&row, "wal_bytes") > 0, "{row:?}");
        assert!(number(&row, "ended_us") > number(&row, "began_us"));
        assert!(number(&row, "estimate_after_us") > 0, "{row:?}");
    }
    // A crash loses nothing of it, and adds what follows.
    let before = checkpoints(&cluster);
    let load = Load::start(&cluster.socket(), 4, 100);
    load.wait_for(500);
    cluster.kill_all();
    load.join();
    cluster.start();
    let after_recovery = wait_for("the checkpoint after recovery", || {
        // The checkpointer reads the file beside the first clients.
        let mut now = checkpoints(&cluster);
        let new = now.len().checked_sub(before.len())?;
        assert_eq!(now[new..], before);
        let newest = now.remove(0);
        has(&newest, "end-of-recovery").then_some(newest)
    });
    assert_eq!(after_recovery["requester"], "startup, end of recovery");
    let recovery = cluster.stat(&["RECOVERIES"]).remove(0);
    assert_eq!(recovery["number"], "1");
    assert_eq!(recovery["found"], "in production");
    assert!(number(&recovery, "records") > 0, "{recovery:?}");
    assert!(number(&recovery, "redo_bytes") > 0, "{recovery:?}");
    assert!(number(&recovery, "actual_us") >= number(&recovery, "redo_us"));
    assert!(number(&recovery, "predicted_us") > 0, "{recovery:?}");
    // The last one is there although nobody is left to ask.
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    let (history, complaints) = on_disk(&cluster);
    assert_eq!(complaints, "");
    let last = &history["checkpoints"][0];
    assert!(last["cause"].as_str().expect("words").contains("shutdown"));
    assert_eq!(last["requester"], "checkpointer");
    assert_eq!(history["recoveries"][0]["number"], 1);
    let (_, text, _) = run(
        "rd_controldata",
        &["--history", &cluster.data_dir().to_string_lossy()],
    );
    assert!(text.contains("manual; connection"), "{text}");
    cluster.start();
    // The checkpointer reads the file beside the first clients.
    let newest = wait_for("what is remembered", || {
        checkpoints(&cluster).into_iter().next()
    });
    assert_eq!(number(&newest, "number"), numbers(&history)[0]);
}

#[test]
fn a_failure_is_remembered_with_its_reason() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("checkpoint (");
    cluster.announce("fault point checkpoint_begun");
    let mut client = cluster.client();
    let mut call = |words: &[&str]| client.call(words).expect("answered");
    call(&["SET", "key", "value"]);
    cluster.arm("checkpoint_begun=eio");
    let reply = call(&["CHECKPOINT"]);
    assert!(reply.error().is_some(), "{reply:?}");
    let failed = checkpoints(&cluster).pop().expect("one");
    assert!(failed["result"].starts_with("failed: "), "{failed:?}");
    // The checkpointer tries again by itself, for the one who had asked.
    let again = wait_for("the next attempt", || {
        let newest = checkpoints(&cluster).remove(0);
        (newest["number"] == "2").then_some(newest)
    });
    assert_eq!(again["result"], "complete");
    assert_eq!(again["requester"], failed["requester"]);
}

#[test]
fn damage_of_the_history_is_noticed_and_hurts_nobody() {
    let mut cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    for _ in 0..4 {
        client.call(&["CHECKPOINT"]).expect("answered");
    }
    drop(client);
    cluster.stop(Signal::SIGINT);
    let history = File::options()
        .write(true)
        .open(cluster.path("global/history"))
        .expect("it is there");
    let (before, _) = on_disk(&cluster);
    assert_eq!(numbers(&before), [5, 4, 3, 2, 1]);
    history.write_all_at(b"x", 2 * 256 + 99).expect("written");
    let (after, complaints) = on_disk(&cluster);
    assert_eq!(numbers(&after), [5, 4, 3, 1]);
    assert!(complaints.contains("checkpoint in slot 2"), "{complaints}");
    cluster.announce("1 records cannot be read and are passed over (checkpoint in slot 2");
    cluster.start();
    cluster.wait_log("records cannot be read");
    let numbers_now = || -> Vec<u64> {
        let rows = checkpoints(&cluster);
        rows.iter().map(|row| number(row, "number")).collect()
    };
    assert_eq!(numbers_now(), [5, 4, 3, 1]);
    cluster.client().call(&["CHECKPOINT"]).expect("answered");
    assert_eq!(numbers_now(), [6, 5, 4, 3, 1]);
    cluster.stop(Signal::SIGINT);
    // Without the file, or with half of it, a server starts as well.
    history.set_len(300).expect("cut");
    cluster.announce("records cannot be read and are passed over (checkpoint in slot 1");
    cluster.start();
    cluster.stop(Signal::SIGINT);
    std::fs::remove_file(cluster.path("global/history")).expect("removed");
    cluster.start();
    cluster.client().call(&["CHECKPOINT"]).expect("answered");
    cluster.kill_all();
    assert_eq!(numbers(&on_disk(&cluster).0), [1]);
}

#[test]
fn a_history_that_cannot_be_written_stops_nothing() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("what happens until the next start will not be remembered");
    cluster.announce("fault point history_write");
    let mut client = cluster.client();
    let mut call = |words: &[&str]| client.call(words).expect("answered");
    cluster.arm("history_write=eio");
    assert!(call(&["CHECKPOINT"]).is_ok());
    assert!(call(&["CHECKPOINT"]).is_ok());
    assert_eq!(checkpoints(&cluster).len(), 2, "in memory they are");
    assert_eq!(numbers(&on_disk(&cluster).0), [] as [u64; 0]);
    cluster.kill_all();
    cluster.start();
    cluster.client().call(&["CHECKPOINT"]).expect("answered");
    assert!(!numbers(&on_disk(&cluster).0).is_empty());
}

/// A server with some thousand dirty pages that nothing writes by itself.
fn dirty_server() -> Cluster {
    let cluster = Cluster::started(&[
        ("shared_buffers", "64MB"),
        ("recovery_time_target", "0"),
        ("checkpoint_timeout", "1h"),
    ]);
    fill(&cluster.socket(), 4, 1500, 10_000);
    cluster
}

#[test]
fn the_one_under_way_and_what_waits_for_it_can_be_seen() {
    let cluster = dirty_server();
    let idle = cluster.stat(&["CHECKPOINT"]).remove(0);
    assert_eq!((&*idle["in_progress"], &*idle["phase"]), ("0", "idle"));
    let mut client = cluster.client();
    let asked = client.call(&["CHECKPOINT", "NOWAIT", "SPREAD"]);
    assert!(asked.expect("answered").is_ok());
    // The first batch goes out at once, the rest over most of an hour.
    let seen = wait_for("a batch to be written", || {
        let now = cluster.stat(&["CHECKPOINT"]).remove(0);
        let done = now.get("pages_done").is_some_and(|done| done != "0");
        done.then_some(now)
    });
    assert_eq!(seen["phase"], "writing");
    assert_eq!(seen["outstanding_requests"], "1");
    assert!(has(&seen, "manual") && !has(&seen, "fast"), "{seen:?}");
    assert!(seen["requester"].ends_with(", CHECKPOINT"), "{seen:?}");
    assert!(number(&seen, "pages_done") < number(&seen, "pages_total"));
    assert!(number(&seen, "eta_us") > 0, "{seen:?}");
    assert_eq!(cluster.info("checkpoint", "checkpoint_phase"), "writing");
    assert_eq!(cluster.info("persistence", "rdb_bgsave_in_progress"), "1");
    // Others ask meanwhile, behind a write: each is seen, and all are served.
    assert!(
        client
            .call(&["SET", "more", "1"])
            .expect("answered")
            .is_ok()
    );
    let mut others: Vec<_> = (0..3).map(|_| cluster.client()).collect();
    for other in &mut others {
        other.send(&["CHECKPOINT", "WAIT", "SPREAD"]);
        other.flush().expect("sent");
    }
    wait_for("their requests", || {
        let now = cluster.stat(&["CHECKPOINT"]).remove(0);
        (now["outstanding_requests"] == "4").then_some(())
    });
    assert!(
        client
            .call(&["CHECKPOINT", "FAST"])
            .expect("answered")
            .is_ok()
    );
    for other in &mut others {
        assert!(other.receive().expect("answered").is_ok());
    }
    let idle = cluster.stat(&["CHECKPOINT"]).remove(0);
    assert_eq!(idle["outstanding_requests"], "0");
    assert_eq!(cluster.info("persistence", "rdb_bgsave_in_progress"), "0");
    // The first one's redo point is before the write, so one more was made for all of them.
    let rows = checkpoints(&cluster);
    let requests = rows.iter().map(|row| number(row, "requests"));
    assert_eq!(requests.collect::<Vec<_>>(), [4, 1]);
}

/// A checkpoint of a namespace beside it is not taken for the one under way.
#[test]
fn the_one_under_way_is_not_mistaken_for_that_of_a_namespace() {
    let cluster = dirty_server();
    let mut client = cluster.client();
    let asked = client.call(&["CHECKPOINT", "NOWAIT", "SPREAD"]);
    assert!(asked.expect("answered").is_ok());
    let under_way = || cluster.stat(&["CHECKPOINT"]).remove(0);
    let before = wait_for("a batch to be written", || {
        let now = under_way();
        let done = now.get("pages_done").is_some_and(|done| done != "0");
        done.then_some(now)
    });
    for words in [
        &["NAMESPACE", "CREATE", "orders"][..],
        &["USE", "orders"],
        &["SET", "key", "value"],
        &["CHECKPOINT", "NAMESPACE", "orders"],
    ] {
        assert!(client.call(words).expect("answered").is_ok(), "{words:?}");
    }
    let row = checkpoints(&cluster).remove(0);
    assert_eq!(row["namespace"], "orders", "{row:?}");
    let now = under_way();
    assert_eq!(now["in_progress"], "1");
    assert_eq!(now["began_us"], before["began_us"]);
    assert!(number(&now, "elapsed_us") > number(&before, "elapsed_us"));
}

#[test]
fn what_a_checkpoint_would_do_is_told_without_doing_it() {
    let cluster = dirty_server();
    let mut client = cluster.client();
    let mut explain = || -> Row {
        let reply = client.call(&["CHECKPOINT", "EXPLAIN"]).expect("answered");
        let (pairs, _) = reply.as_slice().expect("a map").as_chunks::<2>();
        let shown = |reply: &rd_wire::Reply| match reply.as_int() {
            Some(number) => number.to_string(),
            None => reply.as_str().unwrap_or_default().to_owned(),
        };
        let pairs = pairs
            .iter()
            .map(|[name, value]| (shown(name), shown(value)));
        pairs.collect()
    };
    let before = explain();
    assert!(number(&before, "pages") > 1000, "{before:?}");
    assert!(number(&before, "files") >= 1, "{before:?}");
    assert_eq!(number(&before, "bytes"), 8192 * number(&before, "pages"));
    assert!(number(&before, "redo_advance_bytes") > 10_000_000);
    assert_eq!(before["seconds_fast"], "not measured yet");
    assert_eq!(checkpoints(&cluster), []);
    assert_eq!(cluster.info("wal", "redo_lsn"), before["redo_lsn"]);
    cluster.client().call(&["CHECKPOINT"]).expect("answered");
    let row = checkpoints(&cluster).remove(0);
    // Nobody writes: what was told is what was done, but for the headers of files.
    assert_eq!(row["pages_written"], before["pages"]);
    assert_eq!(row["redo_lsn"], before["redo_lsn_after"]);
    let after = explain();
    assert_eq!(after["pages"], "0");
    assert!(after["seconds_fast"].parse::<f64>().is_ok(), "{after:?}");
}

#[test]
fn reads_writes_and_syncs_are_told_by_process_object_and_cause() {
    let cluster = dirty_server();
    cluster.client().call(&["CHECKPOINT"]).expect("answered");
    let rows = cluster.stat(&["IO"]);
    let row = |process: &str, object: &str, cause: &str| -> &Row {
        let is_it = |row: &&Row| {
            row["process"] == process && row["object"] == object && row["cause"] == cause
        };
        let found = rows.iter().find(is_it);
        found.unwrap_or_else(|| panic!("no {process}, {object}, {cause} in {rows:?}"))
    };
    let pages = row("checkpointer", "relation files", "requested");
    let written = number(&checkpoints(&cluster)[0], "pages_written");
    assert!(number(pages, "writes") >= written);
    assert_eq!(number(pages, "write_bytes"), 8192 * number(pages, "writes"));
    assert!(number(pages, "write_us") > 0);
    let syncs = row("checkpointer", "relation files", "sync");
    assert!(number(syncs, "syncs") >= 1 && number(syncs, "sync_us") > 0);
    let copies = row("checkpointer", "double-write area", "pages");
    assert!(number(copies, "write_bytes") > number(pages, "write_bytes"));
    let control = row("checkpointer", "pg_control", "redo point");
    assert!(number(control, "writes") >= 2);
    assert!(number(control, "write_bytes") >= 320 * number(control, "writes"));
    let flushed: u64 = rows
        .iter()
        .filter(|row| row["object"] == "log")
        .map(|row| number(row, "write_bytes"))
        .sum();
    assert!(flushed > 10_000_000, "{rows:?}");
    assert!(cluster.info("io", "io0").starts_with("process="));

    let wal = cluster.stat(&["WAL"]).remove(0);
    assert_eq!(wal["redo_lsn"], cluster.info("wal", "redo_lsn"));
    assert!(number(&wal, "wal_records") >= 10_000);
    let buffers = cluster.stat(&["BUFFERS"]).remove(0);
    assert_eq!(buffers["buffers_total"], "8192");
    assert_eq!(buffers["buffers_dirty"], "0");
    assert!(number(&buffers, "buffers_used") > 1000);
    let processes = wait_for("all processes", || {
        let processes = cluster.stat(&["PROCESSES"]);
        let names: Vec<&str> = processes.iter().map(|row| &*row["process"]).collect();
        let is_whole = names.starts_with(&["checkpointer", "walwriter", "backend 0"]);
        is_whole.then_some(processes)
    });
    for row in &processes {
        assert_eq!(
            number(row, "pid"),
            u64::from(cluster.child(&row["process"]))
        );
    }
    let commands: u64 = processes.iter().map(|row| number(row, "commands")).sum();
    assert!(commands >= 10_000);
}

#[test]
fn what_limits_recovery_and_which_setting_to_change_are_told() {
    let cluster = Cluster::started(&[
        ("shared_buffers", "64MB"),
        ("recovery_time_target", "1s"),
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "8MB"),
        ("min_wal_size", "4MB"),
        ("checkpoint_warning", "0"),
    ]);
    let mut client = cluster.client();
    let value = "x".repeat(1000);
    // The same keys again and again, until the checkpointer has seen the load for a while.
    let advice = wait_for("advice on a load", || {
        for key in 0..500 {
            client.send(&["SET", &format!("key {key}"), &value]);
        }
        client.flush().expect("sent");
        client.receive_many(500).expect("answered");
        let reply = client.call(&["STAT", "ADVICE"]).expect("answered");
        assert!(reply.error().is_none(), "{reply:?}");
        let lines = reply.as_slice()?.last()?.as_slice()?;
        let line = |line: &rd_wire::Reply| line.as_str().unwrap_or_default().to_owned();
        let lines: Vec<String> = lines.iter().map(line).collect();
        let is_seen = lines
            .iter()
            .any(|line| line.contains("set max_wal_size to"));
        is_seen.then_some(lines)
    });
    println!("{advice:?}");
    let recovery = cluster.stat(&["RECOVERY"]).remove(0);
    assert_eq!(number(&recovery, "recovery_target_us"), 1_000_000);
    assert!(number(&recovery, "recovery_estimate_us") > 0);
    assert!(number(&recovery, "recovery_redo_bytes_allowed") > 0);
    let limits = ["the fixed part", "log to be", "pages to be"];
    let limit = &recovery["recovery_limited_by"];
    assert!(
        limits.iter().any(|words| limit.starts_with(words)),
        "{limit}"
    );
    let shown = cluster.info("recovery", "recovery_target_us");
    assert_eq!(shown, "1000000");
}

/// A target that a start alone nearly reaches leaves no log to be kept: that is told, and not shown as
/// a disk that does not keep up.
#[test]
fn a_target_that_leaves_nothing_for_redo_is_told() {
    let cluster = Cluster::started(&[("recovery_time_target", "350ms")]);
    let mut client = cluster.client();
    let value = "x".repeat(1000);
    wait_for("advice on a load", || {
        for key in 0..500 {
            client.send(&["SET", &format!("key {key}"), &value]);
        }
        client.flush().expect("sent");
        client.receive_many(500).expect("answered");
        let reply = client.call(&["STAT", "ADVICE"]).expect("answered");
        let first = reply.as_slice()?.last()?.as_slice()?.first()?.as_str()?;
        first.contains("before it redoes anything").then_some(())
    });
    let recovery = cluster.stat(&["RECOVERY"]).remove(0);
    assert_eq!(recovery["recovery_redo_bytes_allowed"], "0");
    let fixed_us = number(&recovery, "recovery_fixed_us");
    assert!(fixed_us < number(&recovery, "recovery_target_us"));
}
