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

/// Sets so many keys; gives how many were acknowledged before the server went.
fn write(client: &mut Client, prefix: &str, count: usize) -> usize {
    let value = "v".repeat(VALUE_BYTES);
    let mut is_taken = |number: &usize| {
        let reply = client.call(&["SET", &format!("{prefix}{number}"), &value]);
        reply.is_ok_and(|reply| reply.is_ok())
    };
    (0..count).take_while(|number| is_taken(number)).count()
}

/// Moves the data directory away, and the copy into its place; gives what the copy holds.
fn replace(place: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::rename(place.join("data"), place.join("bad")).expect("moved");
    fs::rename(place.join("copy"), place.join("data")).expect("moved");
    files_of(&place.join("data"))
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
    let after = files_of(&place.join("data"));
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
    cluster.announce(MOVED);
    let mut client = cluster.client();
    let before = replace(place.path());
    let acknowledged = write(&mut client, "after", WRITES);
    // It may have gone by then.
    for words in [
        &["CHECKPOINT"][..],
        &["CONFIG", "SET", "checkpoint_timeout", "7min"],
        &["CONFIG", "REWRITE"],
    ] {
        drop(client.call(words));
    }
    cluster.wait_exit();
    assert_untouched(place.path(), &before);
    assert!(cluster.log_since_start().contains(MOVED));
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
    for text in [
        MOVED,
        "terminating all other server processes",
        "a child crashed",
    ] {
        cluster.announce(text);
    }
    let backend = cluster.child("backend 0");
    let before = replace(place.path());
    send(backend, Signal::SIGKILL);
    let status = cluster.wait_exit();
    assert_eq!((status.code(), status.signal()), (Some(1), None));
    assert_untouched(place.path(), &before);
    let log = cluster.log_since_start();
    assert!(log.contains(MOVED), "{log}");
}

#[test]
fn a_server_whose_directory_was_taken_away_ends() {
    let (mut cluster, place) = cluster_and_copy();
    cluster.announce(MOVED);
    fs::rename(place.path().join("data"), place.path().join("bad")).expect("moved");
    cluster.wait_exit();
    assert!(!place.path().join("data").exists());
    assert!(cluster.log_since_start().contains(MOVED));
}
