//! Checkpoints of a single namespace: its file is complete on disk as of its SCN, and says so, while
//! the others and the redo point stay as they are.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::{Cluster, run};
use rd_tests::support::conversation::{ask, play, show};
use rd_tests::support::wait_for;
use rd_wire::Client;
use serde_json::Value;

/// Settings under which nothing is written unless somebody asks.
const QUIET: &[(&str, &str)] = &[
    ("backends", "2"),
    ("checkpoint_timeout", "1h"),
    ("recovery_time_target", "0"),
    ("checkpoint_heartbeat", "60s"),
    ("crash_restart_max", "100"),
];
/// Keys in each namespace: some tens of pages.
const KEYS: usize = 400;

/// What `pg_control` says of each relation file.
fn rows(cluster: &Cluster) -> Vec<Value> {
    let directory = cluster.data_dir();
    let (status, out, complaints) =
        run("rd_controldata", &["--json", &directory.to_string_lossy()]);
    assert!(status.success(), "{complaints}");
    let control: Value = serde_json::from_str(&out).expect("JSON");
    control["files"].as_array().expect("an array").clone()
}

fn row(cluster: &Cluster, file: u64) -> Value {
    let row = rows(cluster).into_iter().find(|row| row["file"] == file);
    row.unwrap_or_else(|| panic!("pg_control names no file {file}"))
}

fn fill(client: &mut Client, tag: &str) {
    for number in 0..KEYS {
        let (key, value) = (format!("key{number}"), format!("{tag}{}", "x".repeat(500)));
        assert!(
            client
                .call(&["SET", &key, &value])
                .expect("answered")
                .is_ok()
        );
    }
}

fn assert_filled(client: &mut Client, tag: &str) {
    for number in 0..KEYS {
        let reply = client.call(&["GET", &format!("key{number}")]);
        let value = reply.expect("answered");
        let value = value.as_str().unwrap_or("none").to_owned();
        assert!(value.starts_with(tag), "key{number} is {value}");
    }
}

/// The file of a namespace.
fn file_of(client: &mut Client, name: &str) -> u64 {
    let reply = client.call(&["NAMESPACE", "INFO", name]).expect("answered");
    let shown = show(&reply);
    let mut words = shown.trim_matches(['[', ']']).split(' ');
    words.find(|word| *word == "file").expect("a file");
    words
        .next()
        .and_then(|file| file.parse().ok())
        .expect("a number")
}

#[test]
fn a_namespace_is_put_into_its_file_and_the_others_are_left_alone() {
    let mut cluster = Cluster::started(QUIET);
    let mut client = cluster.client();
    let mut other = cluster.client();
    assert_eq!(ask(&mut client, "NAMESPACE CREATE orders"), "OK");
    assert_eq!(ask(&mut client, "USE orders"), "OK");
    fill(&mut client, "first");
    fill(&mut other, "other");
    let id = ask(&mut client, "CLIENT ID");
    let (orders, db0) = (file_of(&mut client, "orders"), file_of(&mut client, "db0"));
    let redo = cluster.info("wal", "redo_lsn");
    let end = cluster.info("wal", "insert_lsn");
    let before = row(&cluster, db0);

    assert_eq!(ask(&mut client, "CHECKPOINT NAMESPACE orders"), "OK");
    // The file is whole: no other page of it is dirty, and it says what pg_control says.
    let after = row(&cluster, orders);
    for field in ["scn", "checkpoint_count"] {
        assert_eq!(row(&cluster, db0)[field], before[field], "{field} of db0");
    }
    assert_eq!(cluster.info("wal", "redo_lsn"), redo);
    assert_eq!(after["scn"].as_str(), Some(&*end), "where the log ended");
    let remembered = cluster.stat(&["CHECKPOINTS", "1"]).remove(0);
    assert_eq!(remembered["namespace"], "orders");
    assert!(
        remembered["cause"].ends_with(" namespace"),
        "{remembered:?}"
    );
    let requester = &remembered["requester"];
    assert!(
        requester.starts_with(&format!("connection {id} of ")),
        "{requester}"
    );
    assert_eq!(remembered["checkpoint_lsn"], end);
    assert_eq!(remembered["redo_lsn"], redo);
    let pages: u64 = remembered["pages_written"].parse().expect("a number");
    assert!((20..80).contains(&pages), "{pages} pages of one namespace");
    assert_eq!(cluster.info("checkpoint", "checkpoints_namespace"), "1");
    cluster.wait_log("checkpoint of namespace \"orders\" complete");

    // Again, with nothing to write: the numbers go on.
    assert_eq!(ask(&mut client, "CHECKPOINT NAMESPACE orders"), "OK");
    let again = row(&cluster, orders);
    assert_eq!(again["scn"], after["scn"]);
    assert!(again["checkpoint_count"].as_u64() > after["checkpoint_count"].as_u64());
    let remembered = cluster.stat(&["CHECKPOINTS", "1"]).remove(0);
    assert_eq!(remembered["pages_written"], "0");

    cluster.kill_all();
    cluster.start();
    let mut client = cluster.client();
    assert_filled(&mut client, "other");
    assert_eq!(ask(&mut client, "USE orders"), "OK");
    assert_filled(&mut client, "first");
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

#[test]
fn what_cannot_be_checkpointed_is_said() {
    let mut cluster = Cluster::started(QUIET);
    cluster.announce("fault point namespace_");
    cluster.announce("checkpoint of namespace");
    play(
        &cluster,
        "a CHECKPOINT NAMESPACE none -> -ERR there is no namespace 'none'
         a CHECKPOINT NAMESPACE 0bad -> -ERR '0bad' is no name*
         a CHECKPOINT NAMESPACE db3 -> OK
         a CHECKPOINT NAMESPACE -> -ERR syntax error
         a SET key value -> OK",
    );
    cluster.arm("namespace_begun=eio");
    play(
        &cluster,
        "a CHECKPOINT NAMESPACE db0 -> -ERR the checkpoint of the namespace failed: *
         a CHECKPOINT NAMESPACE db0 -> OK",
    );
    // The header is stamped, pg_control is old: the next one brings them together.
    cluster.arm("namespace_stamped=eio");
    play(
        &cluster,
        "a CHECKPOINT NAMESPACE db0 -> -ERR the checkpoint of the namespace failed*
         a SELECT 1 -> OK
         a SET key value -> OK
         a CHECKPOINT NAMESPACE db1 -> OK",
    );
    cluster.kill_all();
    cluster.start();
    play(&cluster, "a GET key -> value");
}

#[test]
fn a_crash_around_any_step_leaves_a_file_that_is_taken() {
    let mut cluster = Cluster::started(QUIET);
    cluster.announce("");
    let points = [
        "namespace_begun",
        "doublewrite_synced",
        "page_write",
        "namespace_stamped",
        "control_write",
        "control_first_slot",
    ];
    for (round, point) in points.iter().enumerate() {
        let mut client = cluster.client();
        let value = format!("value{round}");
        assert!(
            client
                .call(&["SET", "key", &value])
                .expect("answered")
                .is_ok()
        );
        // The next attempt meets it again if the first did not come to it.
        cluster.arm(&format!("{point}=kill"));
        let broken = client.call(&["CHECKPOINT", "NAMESPACE", "db0"]);
        assert!(broken.is_err(), "{point}: {broken:?}");
        wait_for("the server to be back", || {
            let mut client = Client::connect_unix(cluster.socket()).ok()?;
            let reply = client.call(&["GET", "key"]).ok()?;
            (reply.as_str() == Some(&*value)).then_some(())
        });
        assert_eq!(ask(&mut cluster.client(), "CHECKPOINT NAMESPACE db0"), "OK");
    }
    // And without a restart by itself in between.
    cluster.kill_all();
    cluster.start();
    assert_eq!(ask(&mut cluster.client(), "GET key"), "value5");
}
