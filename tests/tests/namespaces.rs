//! Namespaces over sockets: what each connection sees of them, what Redis's commands on databases
//! answer, what is there after a crash, and that a drop gives the room on disk back.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::{Cluster, run};
use rd_tests::support::conversation::{ask, play};
use rd_tests::support::wait_for;
use rd_wire::{Client, Reply};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn databases_are_as_in_redis() {
    let cluster = Cluster::started(&[("backends", "2"), ("databases", "5")]);
    play(
        &cluster,
        "a SET key zero -> OK
         a SELECT 4 -> OK
         a GET key -> nil
         a DBSIZE -> 0
         a DEL key -> 0
         a SET key four -> OK
         a SELECT 5 -> -ERR DB index is out of range
         a SELECT -1 -> -ERR DB index is out of range
         a SELECT x -> -ERR value is not an integer or out of range
         a GET key -> four
         b GET key -> zero
         b SELECT 4 -> OK
         b GET key -> four
         b DBSIZE -> 1
         b INFO keyspace -> ~db0:keys=1,expires=0,avg_ttl=0~
         b INFO keyspace -> ~db4:keys=1,expires=0,avg_ttl=0~
         b CLIENT INFO -> ~ db=4 ~
         b RESET -> RESET
         b GET key -> zero
         b SWAPDB x 1 -> -ERR invalid first DB index
         b SWAPDB 1 x -> -ERR invalid second DB index
         b SWAPDB 1 5 -> -ERR DB index is out of range
         b MULTI -> OK
         b SWAPDB 0 4 -> -ERR Command not allowed inside a transaction
         b FLUSHDB -> QUEUED
         b EXEC -> -EXECABORT*
         b SWAPDB 0 4 -> OK
         b GET key -> four
         a GET key -> zero
         b SWAPDB 4 3 -> OK
         a GET key -> nil
         a SELECT 3 -> OK
         a GET key -> zero
         b SWAPDB 3 3 -> OK
         b MOVE key 0 -> -ERR source and destination objects are the same
         b MOVE key 9 -> -ERR DB index is out of range
         b MOVE key z -> -ERR value is not an integer or out of range
         b MOVE none 1 -> 0
         b MOVE key 3 -> 0
         b SET timed value PX 4999999 -> OK
         b MOVE timed 2 -> 1
         b EXISTS timed -> 0
         b SELECT 2 -> OK
         b GET timed -> value
         b PTTL timed -> 4*
         b COPY timed other DB 1 -> 1
         b COPY timed other DB 1 -> 0
         b SET timed value2 -> OK
         b COPY timed other DB 1 REPLACE -> 1
         b COPY timed timed DB 7 -> -ERR DB index is out of range
         b COPY timed timed DB 2 -> -ERR source and destination objects are the same
         b COPY timed timed DB 1 -> 1
         b SELECT 1 -> OK
         b GET other -> value2
         b KEYS * -> [other timed]
         b RANDOMKEY -> *
         b SCAN 0 -> [0 [other timed]]
         b FLUSHDB -> OK
         b DBSIZE -> 0
         b SELECT 2 -> OK
         b DBSIZE -> 1
         a DBSIZE -> 1
         a FLUSHALL -> OK
         a DBSIZE -> 0
         b DBSIZE -> 0
         b INFO keyspace -> # Keyspace*",
    );
}

#[test]
fn namespaces_have_names_and_limits() {
    let cluster = Cluster::started(&[
        ("backends", "2"),
        ("databases", "2"),
        ("max_namespaces", "2"),
    ]);
    play(
        &cluster,
        "a NAMESPACE LIST -> [db0 db1]
         a NAMESPACE CREATE users -> OK
         b NAMESPACE LIST -> [db0 db1 users]
         b USE users -> OK
         b SET u 1 -> OK
         b CLIENT INFO -> ~ db=users ~
         a USE nobody -> -ERR there is no namespace 'nobody'
         a USE users -> OK
         a GET u -> 1
         a NAMESPACE INFO -> [name users database nil keys 1 file*
         a NAMESPACE INFO db1 -> [name db1 database 1 keys 0 file nil disk_bytes 0 access read write*
         a NAMESPACE CREATE users -> -ERR there is a namespace 'users' already
         a NAMESPACE CREATE db7 -> -ERR 'db7' is a database that SELECT names*
         a NAMESPACE DROP db0 -> -ERR 'db0' is a database that SELECT names*
         a NAMESPACE CREATE 7up -> -ERR '7up' is no name for a namespace*
         a NAMESPACE CREATE more -> OK
         a NAMESPACE CREATE most -> -ERR there are as many namespaces as max_namespaces allows, 2
         a NAMESPACE RENAME users more -> -ERR there is a namespace 'more' already
         a NAMESPACE RENAME users people -> OK
         b GET u -> 1
         b CLIENT INFO -> ~ db=people ~
         a NAMESPACE DROP users -> -ERR there is no namespace 'users'
         a NAMESPACE DROP people -> OK
         b GET u -> -ERR there is no such namespace
         b SET u 2 -> -ERR there is no such namespace
         b DBSIZE -> -ERR there is no such namespace
         a NAMESPACE CREATE users -> OK
         b GET u -> -ERR there is no such namespace
         b USE users -> OK
         b GET u -> nil
         b SET u 3 -> OK
         a NAMESPACE LIST -> ~db1~
         a USE db1 -> OK
         a SELECT 1 -> OK
         a FLUSHALL -> OK
         b GET u -> nil
         a NAMESPACE LIST -> ~users~
         a MULTI -> OK
         a NAMESPACE DROP users -> -ERR Command not allowed inside a transaction
         a DISCARD -> OK
         a BEGIN -> OK
         a NAMESPACE DROP users -> -ERR dropping a namespace cannot be done within a transaction
         a ROLLBACK -> OK",
    );
}

#[test]
fn a_transaction_may_span_namespaces() {
    let cluster = Cluster::started(&[("backends", "2")]);
    play(
        &cluster,
        "a NAMESPACE CREATE other -> OK
         a BEGIN -> OK
         a SET x 1 -> OK
         a USE other -> OK
         a SET x 2 -> OK
         a SELECT 3 -> OK
         a SET x 3 -> OK
         b GET x -> nil
         a COMMIT -> OK
         b GET x -> 1
         b SELECT 3 -> OK
         b GET x -> 3
         b USE other -> OK
         b GET x -> 2
         a SELECT 0 -> OK
         a MULTI -> OK
         a INCR x -> QUEUED
         a SELECT 3 -> QUEUED
         a INCR x -> QUEUED
         a USE other -> QUEUED
         a INCR x -> QUEUED
         a EXEC -> [2 OK 4 OK 3]
         a GET x -> 3
         a SELECT 0 -> OK
         a WATCH x -> OK
         b SELECT 0 -> OK
         b SWAPDB 0 3 -> OK
         a MULTI -> OK
         a GET x -> QUEUED
         a EXEC -> nil
         a GET x -> 4
         a BEGIN SERIALIZABLE -> OK
         a GET x -> 4
         a SELECT 5 -> OK
         a RANGE a z -> []
         a SET seen 1 -> OK
         b SELECT 5 -> OK
         b SET new 1 -> OK
         a COMMIT -> -CONFLICT*
         a GET seen -> nil
         a BEGIN -> OK
         a GET new -> 1
         b SWAPDB 5 6 -> OK
         b FLUSHALL -> OK
         a GET new -> 1
         a DBSIZE -> 1
         a SET new 2 -> OK
         a COMMIT -> -CONFLICT*
         a GET new -> nil",
    );
}

/// What a namespace has refused told nothing that a commit could depend on; one that has come into the
/// place of another is not that one.
#[test]
fn a_transaction_is_not_bound_by_a_namespace_that_told_it_nothing() {
    let cluster = Cluster::started(&[]);
    play(
        &cluster,
        "a NAMESPACE CREATE old -> OK
         a NAMESPACE CREATE other -> OK
         a USE old -> OK
         b NAMESPACE OFFLINE old -> OK
         a BEGIN SERIALIZABLE -> OK
         a GET k -> -OFFLINE*
         a USE other -> OK
         a SET k 1 -> OK
         a COMMIT -> OK
         a GET k -> 1
         b NAMESPACE ONLINE old -> OK
         a USE old -> OK
         a BEGIN SERIALIZABLE -> OK
         a GET k -> nil
         b NAMESPACE DROP old -> OK
         b NAMESPACE CREATE new -> OK
         a USE new -> OK
         a SET k 2 -> OK
         a COMMIT -> -ERR there is no such namespace*
         a GET k -> nil",
    );
}

/// Bytes of the relation files on disk.
fn disk_bytes(cluster: &Cluster) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(cluster.path("base")).expect("a directory");
    let bytes = |entry: fs::DirEntry| entry.metadata().map_or(0, |meta| meta.blocks() * 512);
    entries.flatten().map(bytes).sum()
}

#[test]
fn a_drop_gives_the_room_on_disk_back() {
    let cluster = Cluster::started(&[("backends", "2")]);
    let mut client = cluster.client();
    assert_eq!(ask(&mut client, "NAMESPACE CREATE large"), "OK");
    assert_eq!(ask(&mut client, "USE large"), "OK");
    let before = disk_bytes(&cluster);
    let value = "v".repeat(100_000);
    for number in 0..300 {
        assert_eq!(ask(&mut client, &format!("SET key{number} {value}")), "OK");
    }
    let full = disk_bytes(&cluster);
    assert!(full > before + 25_000_000, "{before} bytes, then {full}");
    let mut reader = cluster.client();
    assert_eq!(ask(&mut reader, "USE large"), "OK");
    assert_eq!(ask(&mut reader, "BEGIN"), "OK");
    assert_eq!(ask(&mut client, "NAMESPACE DROP large"), "OK");
    assert_eq!(ask(&mut client, "SELECT 0"), "OK");
    // Who began before still reads it, whatever is checkpointed meanwhile.
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "CHECKPOINT"), "OK");
    }
    assert_eq!(ask(&mut reader, "DBSIZE"), "300");
    assert_eq!(ask(&mut reader, "STRLEN key299"), "100000");
    assert!(disk_bytes(&cluster) > before + 25_000_000, "it is read");
    assert_eq!(ask(&mut reader, "ROLLBACK"), "OK");
    assert_eq!(
        ask(&mut reader, "GET key1"),
        "-ERR there is no such namespace"
    );
    wait_for("the room to be given back", || {
        assert_eq!(ask(&mut client, "CHECKPOINT"), "OK");
        (disk_bytes(&cluster) < before + 5_000_000).then_some(())
    });
}

/// Processes that have a file whose path ends so open, and those paths.
fn holders(cluster: &Cluster, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    for child in cluster.children() {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", child.pid)) else {
            continue;
        };
        // A descriptor may be closed between two looks.
        let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let links = links.map(|link| link.to_string_lossy().into_owned());
        let ours = links.filter(|link| link.trim_end_matches(" (deleted)").ends_with(end));
        found.extend(ours.map(|link| format!("{}: {link}", child.role)));
    }
    found
}

/// A file that is dropped takes room on disk for as long as anybody has it open, and one that is offline
/// keeps its file system from being unmounted: those who have nothing to do close it as well.
#[test]
fn nobody_holds_a_file_that_is_dropped_or_offline() {
    let mut cluster = Cluster::started(&[("backends", "2"), ("backend_fill", "1")]);
    let names = ["first", "second"];
    let mut client = cluster.client();
    for name in names {
        assert_eq!(ask(&mut client, &format!("NAMESPACE CREATE {name}")), "OK");
        assert_eq!(ask(&mut client, &format!("USE {name}")), "OK");
        assert_eq!(ask(&mut client, "SET key value"), "OK");
    }
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    cluster.start();
    let mut reader = cluster.client();
    let mut client = cluster.client();
    for (name, change) in names.iter().zip(["DROP", "OFFLINE"]) {
        assert_eq!(ask(&mut reader, &format!("USE {name}")), "OK");
        assert_eq!(ask(&mut reader, "GET key"), "value");
        let info = ask(&mut client, &format!("NAMESPACE INFO {name}"));
        let mut words = info.trim_matches(['[', ']']).split(' ');
        words.find(|word| *word == "file").expect("a field");
        let end = format!("/base/{}", words.next().expect("its value"));
        assert_eq!(ask(&mut reader, "SELECT 0"), "OK");
        assert!(!holders(&cluster, &end).is_empty(), "it was read");
        assert_eq!(
            ask(&mut client, &format!("NAMESPACE {change} {name}")),
            "OK"
        );
        wait_for("everybody to close it", || {
            assert_eq!(ask(&mut client, "CHECKPOINT"), "OK");
            let is_dropped = change == "DROP";
            let is_there = cluster.path(&end[1..]).exists();
            (holders(&cluster, &end).is_empty() && is_there != is_dropped).then_some(())
        });
    }
}

/// Writes the same number to a database and a namespace, one after the other, by one transaction
/// each; now and then swaps two other databases, and makes and drops a namespace. Returns the last
/// number that was acknowledged.
fn work(mut client: Client, stop: &AtomicBool) -> u64 {
    let mut done = 0;
    for number in 1_u64.. {
        let swap = number % 5 == 0;
        let script = [
            "BEGIN".to_owned(),
            "SELECT 1".to_owned(),
            format!("SET number {number}"),
            "USE twin".to_owned(),
            format!("SET number {number}"),
            "COMMIT".to_owned(),
            if swap { "SWAPDB 2 3" } else { "PING" }.to_owned(),
            format!("NAMESPACE CREATE n{number}"),
            format!("USE n{number}"),
            format!("SET number {number}"),
            format!("NAMESPACE DROP n{number}"),
        ];
        for request in &script {
            let words: Vec<&str> = request.split(' ').collect();
            match client.call(&words) {
                Ok(Reply::Error(error)) => panic!("{request}: {error}"),
                Ok(_) => {}
                Err(_) => return done,
            }
            if request == "COMMIT" {
                done = number;
            }
        }
        if stop.load(Ordering::SeqCst) {
            return done;
        }
    }
    done
}

#[test]
fn namespaces_outlive_kill_9() {
    let mut cluster = Cluster::started(&[("backends", "2")]);
    let mut client = cluster.client();
    for request in [
        "NAMESPACE CREATE twin",
        "SELECT 2",
        "SET name two",
        "SELECT 3",
        "SET name three",
    ] {
        assert_eq!(ask(&mut client, request), "OK");
    }
    let mut last = 0;
    for life in 0..4 {
        let stop = AtomicBool::new(false);
        let worker = cluster.client();
        let acknowledged = std::thread::scope(|scope| {
            let work = scope.spawn(|| work(worker, &stop));
            let mut client = cluster.client();
            assert_eq!(ask(&mut client, "SELECT 1"), "OK");
            wait_for("some work", || {
                let number = ask(&mut client, "GET number").parse::<u64>();
                number.is_ok_and(|number| number > 30).then_some(())
            });
            if life == 1 {
                assert_eq!(ask(&mut client, "CHECKPOINT"), "OK");
            }
            cluster.kill_all();
            work.join().expect("it ends with its connection")
        });
        cluster.start();
        let mut client = cluster.client();
        assert_eq!(ask(&mut client, "SELECT 1"), "OK");
        let number = ask(&mut client, "GET number");
        assert_eq!(ask(&mut client, "USE twin"), "OK");
        assert_eq!(ask(&mut client, "GET number"), number, "one record");
        last = number.parse::<u64>().expect("a number");
        assert!(last >= acknowledged, "{last}, and {acknowledged} was told");
        let names = [2, 3].map(|database| {
            assert_eq!(ask(&mut client, &format!("SELECT {database}")), "OK");
            ask(&mut client, "GET name")
        });
        assert!(names == ["two", "three"] || names == ["three", "two"]);
        // At most the one that was under way is left.
        let listed = ask(&mut client, "NAMESPACE LIST");
        let left: Vec<&str> = listed
            .trim_matches(['[', ']'])
            .split(' ')
            .filter(|name| !name.starts_with("db") && *name != "twin")
            .collect();
        assert!(left.len() <= 1, "{left:?}");
        for name in left {
            assert_eq!(ask(&mut client, &format!("NAMESPACE DROP {name}")), "OK");
        }
        assert_eq!(ask(&mut client, "SELECT 1"), "OK");
        assert_eq!(ask(&mut client, "SET number 0"), "OK");
    }
    assert!(last > 0);
    assert!(cluster.stop(Signal::SIGINT).success());
    let directory = cluster.data_dir();
    let (status, out, err) = run("rd_verify", &[&directory.to_string_lossy()]);
    assert!(status.success(), "{out}{err}");
    for name in ["(db1)", "(db2)", "(db3)", "(twin)", "(the catalog)"] {
        assert!(out.contains(name), "{name} in {out}");
    }
}
