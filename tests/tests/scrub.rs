//! The scrub of a running server: what rots on disk is found, repaired where there is a copy, and
//! named where there is none.

use nix::sys::signal::Signal;
use rd_base::{BlockNo, FileNo, PageTag};
use rd_format::page::{self, PageBytes};
use rd_tests::support::cluster::Cluster;
use rd_tests::support::wait_for;
use std::fs::File;
use std::os::unix::fs::FileExt;

const PAGE: usize = 8192;
/// The file of the first namespace's keys.
const KEYS_FILE: &str = "base/2";
const KEYS: usize = 2_000;
const BLOCK: u32 = 20;

fn key(number: usize) -> String {
    format!("key:{number:06}")
}

/// A server that does not scrub yet, with leaves on disk.
fn with_keys() -> Cluster {
    let cluster = Cluster::started(&[("scrub_rate", "0"), ("scrub_interval", "1s")]);
    write(&cluster, KEYS, "v");
    cluster
}

/// Sets so many keys, and writes all pages.
fn write(cluster: &Cluster, keys: usize, value: &str) {
    let mut client = cluster.client();
    let numbers: Vec<usize> = (0..keys).collect();
    for some in numbers.chunks(KEYS) {
        for number in some {
            client.send(&["SET", &key(*number), &value.repeat(500)]);
        }
        for _ in some {
            assert!(client.receive().expect("answered").is_ok());
        }
    }
    assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
}

fn scrubs(cluster: &Cluster) {
    let mut client = cluster.client();
    let reply = client.call(&["CONFIG", "SET", "scrub_rate", "1GB"]);
    assert!(reply.expect("answered").is_ok());
}

/// Flips one byte of a page. Twice is as never.
fn flip(cluster: &Cluster) {
    let file = File::options()
        .read(true)
        .write(true)
        .open(cluster.path(KEYS_FILE))
        .expect("it is there");
    let (mut byte, at) = ([0], u64::from(BLOCK) * PAGE as u64 + 5000);
    file.read_exact_at(&mut byte, at).expect("a page");
    file.write_all_at(&[byte[0] ^ 0xFF], at).expect("written");
}

fn is_whole(cluster: &Cluster) -> bool {
    let mut page: PageBytes = [0; PAGE];
    let file = File::open(cluster.path(KEYS_FILE)).expect("it is there");
    file.read_exact_at(&mut page, u64::from(BLOCK) * PAGE as u64)
        .expect("a page");
    let tag = PageTag::new(FileNo::new(2), BlockNo::new(BLOCK));
    page::verify(&page, tag).is_ok()
}

fn count(cluster: &Cluster, field: &str) -> u64 {
    let number = cluster.info("storage", field).parse();
    number.expect("a number")
}

/// How many keys can be read; what else is said must name the page.
fn readable(cluster: &Cluster) -> usize {
    let mut client = cluster.client();
    let mut readable = 0;
    for number in 0..KEYS {
        let reply = client.call(&["GET", &key(number)]).expect("answered");
        match reply.error() {
            None => readable += 1,
            Some(error) => assert!(error.contains("file 2 block 20"), "{error}"),
        }
    }
    readable
}

#[test]
fn a_page_that_rots_under_a_running_server_is_written_anew() {
    let mut cluster = with_keys();
    cluster.announce("scrub: in file \"base/2\": file 2 block 20 fails its checksum");
    flip(&cluster);
    assert!(!is_whole(&cluster));
    scrubs(&cluster);
    wait_for("the repair", || {
        (count(&cluster, "scrub_pages_repaired") == 1).then_some(())
    });
    assert!(is_whole(&cluster));
    cluster.wait_log("repaired from shared buffers");
    // Later rounds find nothing wrong.
    let rounds = count(&cluster, "scrub_rounds");
    wait_for("another round", || {
        (count(&cluster, "scrub_rounds") >= rounds + 2).then_some(())
    });
    let seen = &cluster.stat(&["SCRUB"])[0];
    assert_eq!(seen["scrub_pages_bad"], "1");
    assert_eq!(seen["scrub_unrepaired"], "0");
    let checked: u64 = seen["scrub_pages_checked"].parse().expect("a number");
    let total: u64 = seen["scrub_pages_total"].parse().expect("a number");
    assert!(total > 200 && checked >= 2 * total, "{seen:?}");
    assert_eq!(readable(&cluster), KEYS);
    cluster.stop(Signal::SIGINT);
    cluster.start();
    assert_eq!(readable(&cluster), KEYS);
}

#[test]
fn a_page_of_which_there_is_no_copy_is_named_and_all_else_works() {
    let mut cluster = with_keys();
    cluster.announce("file 2 block 20 fails its checksum");
    cluster.stop(Signal::SIGINT);
    flip(&cluster);
    cluster.start();
    scrubs(&cluster);
    cluster.wait_log_times("it cannot be repaired", 2);
    let seen = &cluster.stat(&["SCRUB"])[0];
    assert_eq!(seen["scrub_unrepaired"], "1");
    assert_eq!(seen["scrub_unrepaired_pages"], "file 2 block 20");
    assert_eq!(seen["scrub_pages_repaired"], "0");
    let readable_keys = readable(&cluster);
    assert!(
        (KEYS - 30..KEYS).contains(&readable_keys),
        "{readable_keys} of {KEYS}"
    );
    let mut client = cluster.client();
    let reply = client.call(&["SET", "zzz", "after all others"]);
    assert!(reply.expect("answered").is_ok());
    // The disk gives the right bytes again.
    flip(&cluster);
    wait_for("it to be found whole", || {
        (count(&cluster, "scrub_unrepaired") == 0).then_some(())
    });
    assert_eq!(readable(&cluster), KEYS);
}

/// Nothing comes by on its own here.
#[test]
fn a_page_that_a_read_finds_damaged_is_repaired_at_once() {
    // More than fit into memory, so that pages are read from disk again.
    const MANY: usize = 50_000;
    let settings = [("scrub_rate", "0"), ("shared_buffers", "16MB")];
    let mut cluster = Cluster::started(&settings);
    cluster.announce("file 2 block 20 fails its checksum");
    write(&cluster, MANY, "v");
    // Now the pages of the first are the last that went by way of the double-write area.
    write(&cluster, KEYS, "w");
    flip(&cluster);
    assert!(!is_whole(&cluster));
    // Until the page has left memory, it is read from there.
    let mut client = cluster.client();
    let (unreadable, error) = wait_for("a read to find it", || {
        // Some of each page.
        (0..MANY).step_by(5).find_map(|number| {
            let reply = client.call(&["GET", &key(number)]).expect("answered");
            let error = reply.error().map(str::to_owned);
            error.map(|error| (key(number), error))
        })
    });
    assert!(error.contains("file 2 block 20"), "{error}");
    wait_for("it to be readable", || {
        let reply = client.call(&["GET", &unreadable]).expect("answered");
        reply.error().is_none().then_some(())
    });
    assert!(is_whole(&cluster));
    cluster.wait_log("scrub: file 2 block 20 could not be read");
    cluster.wait_log("repaired from the double-write area");
    // It is counted when it has been told.
    wait_for("it to be counted", || {
        (count(&cluster, "scrub_pages_repaired") == 1).then_some(())
    });
    let seen = &cluster.stat(&["SCRUB"])[0];
    assert_eq!(seen["scrub_pages_bad"], "1");
    assert_eq!(seen["scrub_unrepaired"], "0");
    assert_eq!(seen["scrub_rounds"], "0");
    // A read that came before the repair may have reported it once more.
    assert!(count(&cluster, "scrub_pages_reported") >= 1);
}
