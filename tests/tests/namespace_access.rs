//! Namespaces that are read only or offline: who is refused, what their files say, crashes around each
//! change, and files that were taken away, put back, or are not the ones that were left there.

use nix::sys::signal::Signal;
use rd_base::Lsn;
use rd_format::meta;
use rd_format::page::PageBytes;
use rd_tests::support::cluster::{Cluster, run};
use rd_tests::support::conversation::{ask, play};
use rd_tests::support::wait_for;
use rd_wire::{Client, Reply};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const TWO: &[(&str, &str)] = &[("backends", "2"), ("crash_restart_max", "100")];
/// Nothing is written that nobody has asked for.
const QUIET: &[(&str, &str)] = &[
    ("backends", "2"),
    ("checkpoint_timeout", "1h"),
    ("recovery_time_target", "0"),
    ("checkpoint_heartbeat", "60s"),
    ("crash_restart_max", "100"),
    ("scrub_rate", "0"),
];

/// Waits for the checkpoint that a start after a fall makes beside its clients.
fn wait_recovered(cluster: &Cluster) {
    wait_for("the checkpoint after recovery", || {
        let done = cluster.info("checkpoint", "checkpoints_end_of_recovery");
        (done == "1").then_some(())
    });
}

/// One field of NAMESPACE INFO.
fn info(client: &mut Client, name: &str, field: &str) -> String {
    let shown = ask(client, &format!("NAMESPACE INFO {name}"));
    let mut words = shown.trim_matches(['[', ']']).split(' ');
    words.find(|word| *word == field).expect("a field");
    words.next().expect("its value").to_owned()
}

/// What may be done with `orders`.
fn access(client: &mut Client) -> String {
    let reply = client
        .call(&["NAMESPACE", "LIST", "ACCESS"])
        .expect("answered");
    let Reply::Array(items) = reply else {
        panic!("{reply:?} is no list")
    };
    let at = items
        .iter()
        .position(|item| item.as_str() == Some("orders"));
    let access = items.get(at.expect("it is listed") + 1);
    access.and_then(Reply::as_str).expect("a word").to_owned()
}

/// Where a namespace's file lies.
fn path(cluster: &Cluster, name: &str) -> PathBuf {
    let file = info(&mut cluster.client(), name, "file");
    cluster.path(&format!("base/{file}"))
}

/// What `pg_control` says of the file.
fn row(cluster: &Cluster, name: &str) -> Value {
    found_row(cluster, name).expect("a row")
}

fn found_row(cluster: &Cluster, name: &str) -> Option<Value> {
    let file: u64 = info(&mut cluster.client(), name, "file")
        .parse()
        .expect("a number");
    let directory = cluster.data_dir();
    let (_, out, _) = run("rd_controldata", &["--json", &directory.to_string_lossy()]);
    let control: Value = serde_json::from_str(&out).expect("JSON");
    let rows = control["files"].as_array().expect("an array");
    let is_it = |row: &&Value| row["file"] == file;
    rows.iter().find(is_it).cloned()
}

/// A server with keys in the namespace `orders`.
fn with_orders(settings: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::started(settings);
    let mut client = cluster.client();
    assert_eq!(ask(&mut client, "NAMESPACE CREATE orders"), "OK");
    assert_eq!(ask(&mut client, "USE orders"), "OK");
    for number in 0..200 {
        let value = "x".repeat(300);
        let reply = client.call(&["SET", &format!("key{number}"), &value]);
        assert!(reply.expect("answered").is_ok());
    }
    cluster
}

fn in_orders(cluster: &Cluster) -> Client {
    let mut client = cluster.client();
    assert_eq!(ask(&mut client, "USE orders"), "OK");
    client
}

const READ_ONLY: &str =
    "-READONLY namespace \"orders\" is read only; NAMESPACE READWRITE orders makes it writable";
const OFFLINE: &str =
    "-OFFLINE namespace \"orders\" is offline; NAMESPACE ONLINE orders brings it back";

fn assert_read_only(cluster: &Cluster) {
    let mut client = in_orders(cluster);
    assert_eq!(ask(&mut client, "SET key1 new"), READ_ONLY);
    assert_eq!(ask(&mut client, "STRLEN key1"), "300");
    assert_eq!(
        ask(&mut client, "DBSIZE"),
        "201",
        "what has ended is not removed"
    );
    assert_eq!(access(&mut client), "read only");
}

fn assert_offline(cluster: &Cluster) {
    let mut client = in_orders(cluster);
    for request in [
        "SET key1 new",
        "GET key1",
        "DBSIZE",
        "SCAN 0",
        "RANDOMKEY",
        "KEYS *",
    ] {
        assert_eq!(ask(&mut client, request), OFFLINE, "{request}");
    }
    assert_eq!(access(&mut client), "offline");
}

#[test]
fn a_namespace_that_is_read_only_is_read_and_not_written() {
    let mut cluster = with_orders(TWO);
    let mut open = in_orders(&cluster);
    assert_eq!(ask(&mut open, "BEGIN"), "OK");
    assert_eq!(ask(&mut open, "SET key1 late"), "OK");
    let mut queued = in_orders(&cluster);
    assert_eq!(ask(&mut queued, "MULTI"), "OK");
    assert_eq!(ask(&mut queued, "DEL key2"), "QUEUED");
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "SET ends now PX 60000"), "OK");
    assert_eq!(ask(&mut client, "PEXPIRE ends 1"), "1");
    wait_for("the key to end", || {
        (ask(&mut client, "GET ends") == "nil").then_some(())
    });
    assert_eq!(ask(&mut client, "SET ends now PX 40"), "OK");
    assert_eq!(ask(&mut client, "NAMESPACE READONLY orders"), "OK");
    wait_for("the key to end", || {
        (ask(&mut client, "GET ends") == "nil").then_some(())
    });
    assert_eq!(ask(&mut open, "COMMIT"), READ_ONLY);
    assert_eq!(ask(&mut queued, "EXEC"), READ_ONLY);
    for request in [
        "SET new value",
        "DEL key3",
        "FLUSHDB",
        "FLUSHALL",
        "EXPIRE key1 100",
        "MSET key1 1 new 2",
        "DELRANGE key1 key2",
        "RENAME key1 key0",
    ] {
        assert_eq!(ask(&mut client, request), READ_ONLY, "{request}");
    }
    let row_then = row(&cluster, "orders");
    assert_eq!(row_then["access"], "read only");
    assert_eq!(
        row_then["stop_scn"], row_then["scn"],
        "complete up to there"
    );
    play(
        &cluster,
        "a SET key1 zero -> OK
         a NAMESPACE LIST ACCESS -> ~orders read only~
         a NAMESPACE LIST MORE -> -ERR syntax error
         a NAMESPACE READONLY orders -> OK
         a NAMESPACE RENAME orders sales -> OK
         a NAMESPACE RENAME sales orders -> OK
         a NAMESPACE READONLY none -> -ERR there is no namespace 'none'
         a NAMESPACE READONLY db5 -> OK
         a SELECT 5 -> OK
         a GET key -> nil
         a DEL key -> 0
         a SET key value -> -READONLY namespace \"db5\"*
         a SWAPDB 5 0 -> -READONLY namespace \"db5\"*
         a NAMESPACE READWRITE db5 -> OK
         a SET key value -> OK",
    );
    let file = fs::read(path(&cluster, "orders")).expect("it is there");
    assert_read_only(&cluster);
    // Neither a crash nor a stop changes it, or the file.
    cluster.kill_all();
    cluster.start();
    wait_recovered(&cluster);
    assert_read_only(&cluster);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    cluster.start();
    assert_read_only(&cluster);
    assert_eq!(row(&cluster, "orders"), row_then);
    assert!(file == fs::read(path(&cluster, "orders")).expect("it is there"));
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE READWRITE orders"), "OK");
    assert_eq!(ask(&mut client, "SET key1 new"), "OK");
    assert_eq!(row(&cluster, "orders")["access"], "read write");
    cluster.kill_all();
    cluster.start();
    assert_eq!(ask(&mut in_orders(&cluster), "GET key1"), "new");
}

#[test]
fn a_namespace_that_is_offline_can_be_taken_away_and_put_back() {
    let mut cluster = with_orders(TWO);
    cluster.announce("is not there");
    let mut reader = in_orders(&cluster);
    assert_eq!(ask(&mut reader, "BEGIN READ ONLY"), "OK");
    assert_eq!(ask(&mut reader, "STRLEN key1"), "300");
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "SET later value"), "OK");
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    assert_eq!(ask(&mut reader, "STRLEN key1"), OFFLINE);
    assert_eq!(ask(&mut reader, "COMMIT"), "OK");
    assert_offline(&cluster);
    for request in [
        "FLUSHDB",
        "FLUSHALL",
        "NAMESPACE READONLY orders",
        "NAMESPACE READWRITE orders",
    ] {
        assert_eq!(ask(&mut client, request), OFFLINE, "{request}");
    }
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    assert_eq!(ask(&mut client, "CHECKPOINT NAMESPACE orders"), "OK");
    assert_eq!(row(&cluster, "orders")["access"], "offline");
    let there = path(&cluster, "orders");
    let away = cluster.path("away");
    fs::rename(&there, &away).expect("nobody needs it");
    // Everybody else goes on, through checkpoints, crash and stop.
    let mut other = cluster.client();
    assert_eq!(ask(&mut other, "SET other value"), "OK");
    assert_eq!(ask(&mut other, "CHECKPOINT"), "OK");
    let missing = ask(&mut client, "NAMESPACE ONLINE orders");
    assert!(missing.contains("is not there; put it back"), "{missing}");
    assert_offline(&cluster);
    cluster.kill_all();
    cluster.start();
    cluster.wait_log("its namespace is offline, and stays so; put the file back");
    assert_offline(&cluster);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    let directory = cluster.data_dir();
    let (verified, out, err) = run("rd_verify", &["-D", &directory.to_string_lossy()]);
    assert!(verified.success(), "{out}{err}");
    cluster.start();
    assert_offline(&cluster);
    // Put back as another file of the same content, as a backup is.
    fs::copy(&away, &there).expect("put back");
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "GET later"), "value");
    assert_eq!(ask(&mut client, "DBSIZE"), "201");
    assert_eq!(ask(&mut client, "SET later again"), "OK");
    assert_eq!(ask(&mut client, "CHECKPOINT NAMESPACE orders"), "OK");
    assert_eq!(ask(&mut cluster.client(), "GET other"), "value");
    // And without a restart in between: nobody holds on to the file that is gone.
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    fs::copy(&there, &away).expect("a backup");
    fs::remove_file(&there).expect("it is there");
    fs::copy(&away, &there).expect("put back");
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "GET later"), "again");
    assert_eq!(ask(&mut client, "SET later third"), "OK");
    assert_eq!(ask(&mut client, "CHECKPOINT NAMESPACE orders"), "OK");
    cluster.kill_all();
    cluster.start();
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "GET later"), "third");
    // One that was read only comes back read only.
    assert_eq!(ask(&mut client, "NAMESPACE READONLY orders"), "OK");
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    assert_eq!(ask(&mut client, "GET later"), OFFLINE);
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "GET later"), "third");
    assert_eq!(ask(&mut client, "SET later fourth"), READ_ONLY);
    // And one that is offline can be dropped, file or no file.
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    fs::remove_file(&there).expect("it is there");
    assert_eq!(ask(&mut client, "NAMESPACE DROP orders"), "OK");
    cluster.kill_all();
    cluster.start();
    let found = ask(&mut cluster.client(), "NAMESPACE INFO orders");
    assert_eq!(found, "-ERR there is no namespace 'orders'");
}

#[test]
fn a_file_that_is_not_the_one_that_was_left_there_is_named() {
    let mut cluster = with_orders(TWO);
    cluster.announce("relation file");
    cluster.announce("lies beyond the end");
    cluster.announce("is not there");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    let mut client = in_orders(&cluster);
    let there = path(&cluster, "orders");
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    let first = fs::read(&there).expect("it is there");
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "SET key1 second"), "OK");
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    let second = fs::read(&there).expect("it is there");
    let refused = |client: &mut Client, words: &[&str]| {
        let reply = ask(client, "NAMESPACE ONLINE orders");
        for word in [&["-ERR the namespace stays as it is", "base/"], words].concat() {
            assert!(reply.contains(word), "{word} in {reply}");
        }
        assert_eq!(ask(client, "GET key1"), OFFLINE);
    };
    fs::write(&there, &first).expect("an old copy");
    refused(&mut client, &["too old"]);
    fs::write(&there, &second[..second.len() / 2]).expect("a part");
    refused(&mut client, &["blocks"]);
    // One of another namespace, and one of another server.
    let mut zero = cluster.client();
    assert_eq!(ask(&mut zero, "SET key zero"), "OK");
    assert_eq!(ask(&mut zero, "CHECKPOINT"), "OK");
    let other = fs::read(path(&cluster, "db0")).expect("it is there");
    fs::write(&there, &other).expect("another one");
    refused(&mut client, &["its header says relation file 2"]);
    let foreign = with_orders(TWO);
    let mut there_too = in_orders(&foreign);
    assert_eq!(path(&foreign, "orders").file_name(), there.file_name());
    assert_eq!(ask(&mut there_too, "CHECKPOINT NAMESPACE orders"), "OK");
    let stranger = fs::read(path(&foreign, "orders")).expect("it is there");
    fs::write(&there, &stranger).expect("a foreign one");
    refused(
        &mut client,
        &["another data directory", "system identifier"],
    );
    fs::write(&there, &second).expect("the right one");
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "GET key1"), "second");
    assert_eq!(ask(&mut client, "CHECKPOINT"), "OK");
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    // The same at a start, where nothing but the whole is taken.
    let newest = fs::read(&there).expect("it is there");
    let cases: [(&[u8], &[&str]); 4] = [
        (&second, &["too old", "pg_control", "closed at"]),
        (&other, &["its header says relation file 2"]),
        (&stranger, &["another data directory"]),
        (&[], &["beyond the end of file"]),
    ];
    for (bytes, words) in cases {
        fs::write(&there, bytes).expect("put in place");
        let (log, _) = cluster.start_refused();
        for word in words {
            assert!(log.contains(word), "{word} in {log}");
        }
        assert!(
            log.contains(
                there
                    .file_name()
                    .and_then(|name| name.to_str())
                    .expect("a name")
            )
        );
    }
    // A file that is newer than pg_control: that one is from before.
    fs::write(&there, &newest).expect("put in place");
    let control = fs::read(cluster.path("global/pg_control")).expect("it is there");
    cluster.start();
    assert_eq!(ask(&mut in_orders(&cluster), "SET key1 third"), "OK");
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    let control_now = fs::read(cluster.path("global/pg_control")).expect("it is there");
    fs::write(cluster.path("global/pg_control"), &control).expect("put in place");
    let (log, _) = cluster.start_refused();
    assert!(log.contains("too new"), "{log}");
    fs::write(cluster.path("global/pg_control"), &control_now).expect("put in place");
    cluster.start();
    assert_eq!(ask(&mut in_orders(&cluster), "GET key1"), "third");
}

#[test]
fn a_crash_around_each_step_leaves_one_state_or_the_other() {
    let mut cluster = with_orders(TWO);
    cluster.announce("");
    let points = [
        "wal_publish",
        "namespace_begun",
        "namespace_stamped",
        "control_first_slot",
        "namespace_covered",
    ];
    let mut starts = 1;
    for (close, open) in [("READONLY", "READWRITE"), ("OFFLINE", "ONLINE")] {
        for point in points {
            for (change, back) in [(close, open), (open, close)] {
                let mut client = in_orders(&cluster);
                assert_eq!(ask(&mut client, &format!("NAMESPACE {back} orders")), "OK");
                let mut zero = cluster.client();
                assert_eq!(ask(&mut zero, &format!("SET point {point}")), "OK");
                // Never the same text as before: nothing would be armed by that.
                let passing = if change == close { "" } else { "@1" };
                cluster.arm(&format!("{point}=kill{passing}"));
                let reply = client.call(&["NAMESPACE", change, "orders"]);
                let was_acknowledged = reply.is_ok_and(|reply| reply.is_ok());
                // A point that the change has not come by is met now.
                let _ = zero.call(&["SET", "point", "met"]);
                let _ = zero.call(&["CHECKPOINT", "NAMESPACE", "db0"]);
                starts += 1;
                cluster.wait_log_times("server is ready to accept connections", starts);
                let mut client = in_orders(&cluster);
                let is_closed = access(&mut client) != "read write";
                if was_acknowledged {
                    assert_eq!(is_closed, change == close, "{change} at {point}");
                }
                let answer = ask(&mut client, "SET key1 value");
                assert_eq!(answer == "OK", !is_closed, "{change} at {point}: {answer}");
                // The file becomes what the namespace is.
                wait_for("file and namespace to agree", || {
                    // One that no checkpoint has covered yet is not named.
                    let row = found_row(&cluster, "orders");
                    let file_is_closed = row.is_some_and(|row| row["access"] != "read write");
                    (file_is_closed == is_closed).then_some(())
                });
                assert_eq!(
                    ask(&mut client, &format!("NAMESPACE {change} orders")),
                    "OK"
                );
            }
        }
        let reply = ask(
            &mut in_orders(&cluster),
            &format!("NAMESPACE {open} orders"),
        );
        assert_eq!(reply, "OK");
    }
    cluster.kill_all();
    cluster.start();
    assert_eq!(ask(&mut in_orders(&cluster), "DBSIZE"), "200");
}

/// The stop SCN in the first page of `orders`' file.
fn stop_scn_on_disk(cluster: &Cluster) -> Lsn {
    let bytes = fs::read(path(cluster, "orders")).expect("it is there");
    let page: &PageBytes = bytes.first_chunk().expect("a page");
    meta::read(page).stop_scn
}

#[test]
fn a_change_that_fails_leaves_file_and_control_file_in_agreement() {
    let mut cluster = with_orders(QUIET);
    cluster.announce("checkpoint of namespace \"orders\"");
    cluster.announce("fault point");
    let mut round = 0;
    for (close, open) in [("READONLY", "READWRITE"), ("OFFLINE", "ONLINE")] {
        for point in [
            "namespace_begun",
            "page_write",
            "namespace_stamped",
            "namespace_covered",
        ] {
            let mut client = in_orders(&cluster);
            assert_eq!(ask(&mut client, "SET key1 value"), "OK", "{point}");
            for (change, words) in [
                (close, "-ERR the namespace is as it was asked for, but"),
                (open, "-ERR the namespace stays as it is: "),
            ] {
                round += 1;
                // Another text each time, or nothing would be armed by it.
                let nothing = format!("page_write=eio@{}", 1_000_000 + round);
                cluster.arm(&format!("{point}=eio"));
                let reply = ask(&mut client, &format!("NAMESPACE {change} orders"));
                assert!(reply.starts_with(words), "{change} at {point}: {reply}");
                cluster.arm(&nothing);
                if change == "ONLINE" {
                    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
                    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
                }
                assert_ne!(ask(&mut client, "SET key1 other"), "OK", "{change} {point}");
                // Whatever takes the next number must not leave the header behind, or ahead.
                assert_eq!(ask(&mut client, "NAMESPACE READONLY db3"), "OK");
                assert_eq!(ask(&mut client, "NAMESPACE READWRITE db3"), "OK");
                assert_eq!(ask(&mut client, "CHECKPOINT NAMESPACE db0"), "OK");
                assert_eq!(ask(&mut client, "CHECKPOINT"), "OK");
                let is_started_anew = round % 3 < 2;
                match round % 3 {
                    0 => {
                        cluster.kill_all();
                        cluster.start();
                        // It would meet the point that the next round arms.
                        wait_recovered(&cluster);
                    }
                    1 => {
                        assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
                        cluster.start();
                    }
                    _ => {}
                }
                client = in_orders(&cluster);
                assert_ne!(ask(&mut client, "SET key1 other"), "OK", "{change} {point}");
                // What could not be closed waits for the command, or for a start.
                if change == open || is_started_anew {
                    wait_for("file and namespace to agree", || {
                        let row = row(&cluster, "orders");
                        (row["access"] == access(&mut client).as_str()).then_some(())
                    });
                    if change == close {
                        assert_ne!(stop_scn_on_disk(&cluster), Lsn::ZERO);
                    }
                }
                assert_eq!(
                    ask(&mut client, &format!("NAMESPACE {change} orders")),
                    "OK"
                );
            }
            assert_eq!(ask(&mut client, "GET key1"), "value");
            assert_eq!(stop_scn_on_disk(&cluster), Lsn::ZERO);
        }
    }
}

/// The disk refuses while a namespace is brought online: the file may be taken away as before, everybody else
/// goes on, and it comes back.
#[test]
fn a_file_that_could_not_be_opened_may_be_taken_away() {
    let mut cluster = with_orders(QUIET);
    for text in ["checkpoint of namespace \"orders\"", "fault point"] {
        cluster.announce(text);
    }
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    let (there, away) = (path(&cluster, "orders"), cluster.path("away"));
    cluster.arm("page_write=eio");
    let reply = ask(&mut client, "NAMESPACE ONLINE orders");
    let words = "-ERR the namespace stays as it is: ";
    assert!(reply.starts_with(words), "{reply}");
    fs::rename(&there, &away).expect("nobody needs it");
    for request in ["NAMESPACE ONLINE orders", "NAMESPACE ONLINE orders"] {
        let missing = ask(&mut client, request);
        assert!(missing.contains("is not there; put it back"), "{missing}");
    }
    let mut other = cluster.client();
    assert_eq!(ask(&mut other, "SET other value"), "OK");
    assert_eq!(ask(&mut other, "CHECKPOINT NAMESPACE db0"), "OK");
    assert_eq!(ask(&mut other, "CHECKPOINT"), "OK");
    fs::rename(&away, &there).expect("put back");
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "STRLEN key1"), "300");
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    cluster.start();
    assert_offline(&cluster);
}

#[test]
fn a_file_whose_coming_back_was_cut_off_is_known_however_long_it_was_away() {
    let mut cluster = with_orders(QUIET);
    cluster.announce("");
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    cluster.arm("namespace_stamped=kill");
    let _ = client.call(&["NAMESPACE", "ONLINE", "orders"]);
    cluster.wait_log_times("server is ready to accept connections", 2);
    assert_offline(&cluster);
    let mut other = cluster.client();
    for _ in 0..2 {
        assert_eq!(ask(&mut other, "SET other value"), "OK");
        assert_eq!(ask(&mut other, "CHECKPOINT"), "OK");
    }
    assert_eq!(stop_scn_on_disk(&cluster), Lsn::ZERO, "it was to be opened");
    let (there, away) = (path(&cluster, "orders"), cluster.path("away"));
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    fs::rename(&there, &away).expect("nobody needs it");
    cluster.start();
    assert_offline(&cluster);
    assert_eq!(ask(&mut cluster.client(), "CHECKPOINT"), "OK");
    fs::rename(&away, &there).expect("put back");
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "SET new value"), "OK");
    cluster.kill_all();
    cluster.start();
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "STRLEN key1"), "300");
    assert_eq!(ask(&mut client, "GET new"), "value");
}

#[test]
fn one_who_goes_away_meanwhile_leaves_no_file_open_under_a_closed_namespace() {
    let mut cluster = with_orders(QUIET);
    cluster.announce("fault point");
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    cluster.arm("namespace_stamped=pause");
    let mut leaves = cluster.client();
    leaves.send(&["NAMESPACE", "ONLINE", "orders"]);
    leaves.flush().expect("sent");
    wait_for("the file to be open", || {
        (stop_scn_on_disk(&cluster) == Lsn::ZERO).then_some(())
    });
    let refused = ask(&mut client, "NAMESPACE ONLINE orders");
    assert!(
        refused.contains("is being made") && refused.ends_with("try again"),
        "{refused}"
    );
    drop(leaves);
    wait_for("the backend to have noticed", || {
        let list = ask(&mut client, "CLIENT LIST");
        (list.lines().count() == 1).then_some(())
    });
    cluster.arm("");
    wait_for("file and namespace to agree", || {
        let (row, access) = (row(&cluster, "orders"), access(&mut client));
        (row["access"] == access.as_str() && stop_scn_on_disk(&cluster) != Lsn::ZERO).then_some(())
    });
    assert_eq!(ask(&mut client, "GET key1"), OFFLINE);
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "STRLEN key1"), "300");
}

#[test]
fn commands_of_all_kinds_are_refused_and_nothing_of_a_transaction_stays() {
    let cluster = with_orders(TWO);
    let mut watcher = in_orders(&cluster);
    assert_eq!(ask(&mut watcher, "WATCH key1"), "OK");
    let mut reader = in_orders(&cluster);
    assert_eq!(ask(&mut reader, "BEGIN SERIALIZABLE"), "OK");
    assert_eq!(ask(&mut reader, "STRLEN key1"), "300");
    assert_eq!(ask(&mut reader, "USE db0"), "OK");
    assert_eq!(ask(&mut reader, "SET of_reader value"), "OK");
    play(
        &cluster,
        "a SELECT 5 -> OK
         a SET here five -> OK
         a SET ends now PX 1 -> OK
         a NAMESPACE READONLY db5 -> OK
         a GET here -> five
         a MOVE here 0 -> -READONLY namespace \"db5\" is read only*
         a COPY here copy DB 0 -> 1
         a GETDEL here -> -READONLY*
         a GETEX here PERSIST -> five
         a PERSIST here -> 0
         a INCR count -> -READONLY*
         a DELRANGE a z -> -READONLY*
         a MULTI -> OK
         a NAMESPACE READWRITE db5 -> -ERR*
         a EXEC -> -EXECABORT*
         a BEGIN -> OK
         a NAMESPACE READWRITE db5 -> -ERR*
         a ROLLBACK -> OK
         a SET here other -> -READONLY*
         a SELECT 0 -> OK
         a GET copy -> five
         a COPY copy other DB 5 -> -READONLY*
         a MOVE copy 5 -> -READONLY*
         a SWAPDB 0 5 -> -READONLY*
         a BEGIN -> OK
         a SET both one -> OK
         a SELECT 5 -> OK
         a SET both one -> OK
         a COMMIT -> -READONLY*
         a SELECT 0 -> OK
         a GET both -> nil
         a MULTI -> OK
         a SET both two -> QUEUED
         a SELECT 5 -> QUEUED
         a SET both two -> QUEUED
         a EXEC -> -READONLY*
         a SELECT 0 -> OK
         a GET both -> nil
         a NAMESPACE OFFLINE orders -> OK
         a USE orders -> OK
         a DELRANGE key1 key9 -> -OFFLINE*
         a EXISTS key1 key2 -> -OFFLINE*
         a MGET key1 -> -OFFLINE*
         a RANGE key1 key2 -> -OFFLINE*
         a REVRANGE key1 key2 -> -OFFLINE*
         a TTL key1 -> -OFFLINE*
         a TYPE key1 -> -OFFLINE*
         a WATCH key1 -> -OFFLINE*
         a MULTI -> OK
         a GET key1 -> QUEUED
         a EXEC -> nil
         a COPY key1 key2 DB 0 -> -OFFLINE*
         a MOVE key1 0 -> -OFFLINE*
         a RENAME key1 key2 -> -OFFLINE*
         a SET new value -> -OFFLINE*
         a MULTI -> OK
         a GET key1 -> QUEUED
         a EXEC -> ~OFFLINE namespace~
         a BEGIN -> OK
         a GET key1 -> -OFFLINE*
         a ROLLBACK -> OK
         a NAMESPACE CREATE orders -> -ERR*",
    );
    assert_eq!(ask(&mut reader, "COMMIT"), OFFLINE);
    assert_eq!(ask(&mut watcher, "USE db0"), "OK");
    assert_eq!(ask(&mut watcher, "MULTI"), "OK");
    assert_eq!(ask(&mut watcher, "SET watched done"), "QUEUED");
    assert_eq!(ask(&mut watcher, "EXEC"), OFFLINE);
    play(
        &cluster,
        "a GET of_reader -> nil
         a GET watched -> nil",
    );
}

/// Runs a tool on the directory of the stopped server.
fn tool(cluster: &Cluster, name: &str, options: &[&str]) -> String {
    let directory = cluster.data_dir();
    let directory = directory.to_string_lossy().into_owned();
    let arguments = [options, &["-D", &directory]].concat();
    wait_for("the last child's lock", || {
        let (status, out, errors) = run(name, &arguments);
        let is_locked = errors.contains("is held");
        assert!(is_locked || status.success(), "{name}: {out}{errors}");
        (!is_locked).then_some(out + &errors)
    })
}

#[test]
fn tools_know_of_files_that_are_away_and_a_new_log_leaves_closed_files_as_they_are() {
    let mut cluster = with_orders(TWO);
    cluster.announce("is not there");
    let mut client = cluster.client();
    for request in ["SELECT 5", "SET here five", "NAMESPACE READONLY db5"] {
        assert_eq!(ask(&mut client, request), "OK");
    }
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    let (there, away) = (path(&cluster, "orders"), cluster.path("away"));
    fs::rename(&there, &away).expect("nobody needs it");
    for is_clean in [true, false] {
        match is_clean {
            true => assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0)),
            false => cluster.kill_all(),
        }
        if is_clean {
            let said = tool(&cluster, "rd_verify", &[]);
            assert!(
                said.contains("not there: the namespace is offline"),
                "{said}"
            );
            let said = tool(&cluster, "rd_checksums", &["--verify-trees"]);
            assert!(said.contains("Files away:      1"), "{said}");
        }
        let said = tool(&cluster, "rd_controldata", &[]);
        assert!(
            said.contains(", offline") && said.contains(", read only"),
            "{said}"
        );
        tool(&cluster, "rd_resetwal", &["-f"]);
        assert!(!there.exists(), "no empty file is made in its place");
        tool(&cluster, "rd_verify", &[]);
        cluster.start();
        cluster.wait_log("its namespace is offline, and stays so; put the file back");
        play(
            &cluster,
            "a SELECT 5 -> OK
             a GET here -> five
             a SET here six -> -READONLY*",
        );
        assert_offline(&cluster);
    }
    fs::rename(&away, &there).expect("put back");
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "DBSIZE"), "200");
    assert_eq!(ask(&mut client, "NAMESPACE READWRITE db5"), "OK");
    assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
    fs::rename(&there, &away).expect("nobody needs it");
    // Without pg_control nobody knows what the file should be like.
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    fs::write(cluster.path("global/pg_control"), [0; 100]).expect("broken");
    let directory = cluster.data_dir();
    let directory = directory.to_string_lossy().into_owned();
    let (status, out, errors) = run("rd_resetwal", &["-f", "-D", &directory]);
    assert!(
        !status.success() && errors.contains("Put the file back first"),
        "{out}{errors}"
    );
    fs::rename(&away, &there).expect("put back");
    tool(&cluster, "rd_resetwal", &["-f"]);
    cluster.start();
    assert_offline(&cluster);
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
    assert_eq!(ask(&mut client, "DBSIZE"), "200");
    assert_eq!(ask(&mut client, "SET key1 value"), "OK");
}

#[test]
fn the_scrub_mends_a_closed_file_as_it_is_and_does_not_look_at_one_that_is_away() {
    let mut cluster = with_orders(&[("backends", "2"), ("scrub_interval", "1s")]);
    cluster.announce("scrub: in file");
    let rounds = |cluster: &Cluster, count: u64| {
        let now = || {
            cluster
                .info("storage", "scrub_rounds")
                .parse()
                .unwrap_or(0u64)
        };
        let from = now();
        wait_for("rounds of the scrub", || {
            (now() >= from + count).then_some(())
        });
    };
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "CONFIG SET scrub_rate 1GB"), "OK");
    assert_eq!(ask(&mut client, "NAMESPACE READONLY orders"), "OK");
    let there = path(&cluster, "orders");
    let whole = fs::read(&there).expect("it is there");
    let file = fs::File::options()
        .write(true)
        .open(&there)
        .expect("it is there");
    file.write_all_at(&[0xAA; 64], 100).expect("written");
    wait_for("the repair", || {
        (cluster.info("storage", "scrub_pages_repaired") == "1").then_some(())
    });
    assert!(whole == fs::read(&there).expect("it is there"), "as it was");
    cluster.kill_all();
    cluster.start();
    let mut client = in_orders(&cluster);
    assert_eq!(ask(&mut client, "CONFIG SET scrub_rate 1GB"), "OK");
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "NAMESPACE OFFLINE orders"), "OK");
        fs::remove_file(&there).expect("nobody needs it");
        rounds(&cluster, 1);
        fs::write(&there, &whole).expect("put back");
        assert_eq!(ask(&mut client, "NAMESPACE ONLINE orders"), "OK");
        rounds(&cluster, 1);
    }
    assert_eq!(cluster.info("storage", "scrub_pages_bad"), "0");
    assert_eq!(ask(&mut client, "STRLEN key1"), "300");
}
