//! A data directory that is moved away under its server, and another one in its place.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::{Cluster, send};
use rd_wire::Client;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const MOVED: &str = "is no longer where this server was started";
/// What a server says at its end.
const OUTCOME: &str = "its data directory was moved";
/// More than two segments of the log.
const WRITES: usize = 80;
const VALUE_BYTES: usize = 32 << 10;

/// A server whose data directory is in `place`, with a copy of it beside it that was made while it
/// was stopped. Its sockets are elsewhere.
fn cluster_and_copy() -> (Cluster, TempDir) {
    let place = tempfile::tempdir().expect("a directory");
    let mut cluster = Cluster::new(&[("wal_segment_size", "1MB"), ("backends", "2")]);
    cluster.put_data(place.path().join("data"));
    cluster.start();
    write(&mut cluster.client(), "before", 1);
    cluster.stop(Signal::SIGINT);
    cluster.copy_data(&place.path().join("copy"));
    cluster.start();
    (cluster, place)
}

fn announce(cluster: &mut Cluster) {
    for text in [MOVED, OUTCOME] {
        cluster.announce(text);
    }
}

/// Sets so many keys; gives how many were acknowledged before the server went.
fn write(client: &mut Client, prefix: &str, count: usize) -> usize {
    let value = "v".repeat(VALUE_BYTES);
    let mut is_taken = |number: &usize| {
        let reply = client.call(&["SET", &format!("{prefix}{number}"), &value]);
        reply.is_ok_and(|reply| reply.is_ok())
    };
    (0..count).take_while(|number| is_taken(number)).count()
}

/// Moves the data directory away, and the copy into its place.
fn replace(place: &Path) {
    fs::rename(place.join("data"), place.join("bad")).expect("moved");
    fs::rename(place.join("copy"), place.join("data")).expect("moved");
}

/// Waits for the end of a server whose directory was moved; it says so.
fn wait_end(cluster: &mut Cluster) {
    let status = cluster.wait_exit();
    assert_eq!((status.code(), status.signal()), (Some(1), None));
    let log = cluster.log_since_start();
    for text in [MOVED, OUTCOME] {
        assert!(log.contains(text), "{text}: {log}");
    }
    assert!(!log.contains("shutdown request"), "{log}");
}

/// All files below a directory, and their bytes.
fn files_of(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_of(&path));
        } else {
            let bytes = fs::read(&path).expect("readable");
            files.insert(path, bytes);
        }
    }
    files
}

/// Nothing in the directory that stands in the place is another than `before`.
fn assert_untouched(place: &Path, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let data = place.join("data");
    let moved = |(path, bytes): (&PathBuf, &Vec<u8>)| {
        let inner = path.strip_prefix(place.join("copy")).expect("of the copy");
        (data.join(inner), bytes.clone())
    };
    let before: BTreeMap<PathBuf, Vec<u8>> = before.iter().map(moved).collect();
    let after = files_of(&data);
    let is_changed = |path: &&PathBuf| before.get(*path) != after.get(*path);
    let changed: Vec<_> = before
        .keys()
        .chain(after.keys())
        .filter(is_changed)
        .collect();
    assert!(changed.is_empty(), "written to: {changed:?}");
}

#[test]
fn a_server_goes_on_in_its_own_directory_and_ends_when_it_sees_another_in_its_place() {
    let (mut cluster, place) = cluster_and_copy();
    announce(&mut cluster);
    let mut client = cluster.client();
    let before = files_of(&place.path().join("copy"));
    replace(place.path());
    let acknowledged = write(&mut client, "after", WRITES);
    // It may have gone by then.
    for words in [
        &["CHECKPOINT"][..],
        &["CONFIG", "SET", "checkpoint_timeout", "7min"],
        &["CONFIG", "REWRITE"],
    ] {
        drop(client.call(words));
    }
    wait_end(&mut cluster);
    assert_untouched(place.path(), &before);
    // Back in its place, it has what it acknowledged.
    fs::rename(place.path().join("data"), place.path().join("copy")).expect("moved");
    fs::rename(place.path().join("bad"), place.path().join("data")).expect("moved");
    cluster.start();
    let mut client = cluster.client();
    for number in 0..acknowledged {
        let reply = client.call(&["EXISTS", &format!("after{number}")]);
        assert_eq!(reply.expect("answered").as_int(), Some(1), "{number}");
    }
    drop(client);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

#[test]
fn a_restart_after_a_crash_does_not_take_another_directory_for_its_own() {
    let (mut cluster, place) = cluster_and_copy();
    announce(&mut cluster);
    // If it has not looked by itself in between, which is all the same here.
    cluster.announce("terminating all other server processes");
    let backend = cluster.child("backend 0");
    let before = files_of(&place.path().join("copy"));
    replace(place.path());
    send(backend, Signal::SIGKILL);
    wait_end(&mut cluster);
    assert_untouched(place.path(), &before);
}

#[test]
fn a_server_whose_directory_was_taken_away_ends() {
    let (mut cluster, place) = cluster_and_copy();
    announce(&mut cluster);
    fs::rename(place.path().join("data"), place.path().join("bad")).expect("moved");
    wait_end(&mut cluster);
    assert!(!place.path().join("data").exists());
}
