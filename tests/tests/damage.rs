//! Damage is named: which file, which place, which tool; and what costs nothing says nothing.
//!
//! Each damage is done to a server at rest, and undone afterwards, so that it is also shown that
//! a refused start has changed nothing that matters.

use nix::sys::signal::Signal;
use rd_base::{BlockNo, FileNo, Lsn, PageTag, Timeline};
use rd_format::control::SLOT_BYTES;
use rd_format::page::{self, PageBytes};
use rd_format::wal_page::segment_name;
use rd_tests::support::cluster::Cluster;
use rd_tests::support::load::{Acknowledged, fill};
use rd_tests::support::wait_for;
use rd_wire::Reply;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const SEGMENT_BYTES: u64 = 1 << 20;
const PAGE: u64 = 8192;
/// The file of the first namespace's keys.
const KEYS_FILE: &str = "base/2";

/// Changes the bytes at a place, and gives back what was there.
fn put(path: &Path, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let file = File::options().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut before = vec![0; bytes.len()];
    file.read_exact_at(&mut before, offset)
        .expect("within the file");
    file.write_all_at(bytes, offset).expect("written");
    before
}

/// Flips one bit. Twice is as never.
fn flip(path: &Path, offset: u64) {
    let before = put(path, offset, &[0]);
    put(path, offset, &[before[0] ^ 0x10]);
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').expect("an LSN");
    let part = |digits| u64::from_str_radix(digits, 16).expect("hexadecimal");
    (part(high) << 32) | part(low)
}

/// The segment that an LSN lies in, and where in it.
fn place_of(cluster: &Cluster, at: u64) -> (String, PathBuf, u64) {
    let name = segment_name(Timeline::new(1), at / SEGMENT_BYTES, SEGMENT_BYTES);
    let path = cluster.path("wal").join(&name);
    (name, path, at % SEGMENT_BYTES)
}

/// A start must be refused, and what is said must have these words.
fn assert_refused(cluster: &mut Cluster, what: &str, words: &[&str]) {
    // That it is refused is one of the things a start may say of the one before it.
    cluster.announce("starts before this one did not finish");
    let (log, code) = cluster.start_refused();
    assert_eq!(code, Some(1), "{what}:\n{log}");
    let complaint: String = log
        .lines()
        .filter(|line| !line.contains(" LOG:  "))
        .collect::<Vec<_>>()
        .join("\n");
    for word in words {
        assert!(complaint.contains(word), "{what}: no {word:?} in:\n{log}");
    }
}

/// A server that was killed over a log of several segments, none of them behind its redo point.
fn killed_with_log() -> (Cluster, Acknowledged, u64, u64) {
    let cluster_settings = [
        ("wal_segment_size", "1MB"),
        ("max_wal_size", "1GB"),
        ("min_wal_size", "4MB"),
        ("shared_buffers", "64MB"),
        ("recovery_workers", "3"),
    ];
    let mut cluster = Cluster::started(&cluster_settings);
    cluster.client().call(&["CHECKPOINT"]).expect("answered");
    let acknowledged = fill(&cluster.socket(), 4, 1000, 5_000);
    let durable = lsn(&cluster.info("wal", "durable_lsn"));
    cluster.kill_all();
    let redo = lsn(&cluster.control("Latest checkpoint's REDO location"));
    assert!(
        durable - redo > 4 * SEGMENT_BYTES,
        "{redo:X} .. {durable:X}"
    );
    (cluster, acknowledged, redo, durable)
}

#[test]
fn log_below_the_durable_mark() {
    let (mut cluster, acknowledged, redo, durable) = killed_with_log();
    cluster.announce("write-ahead log is damaged at");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    let length = durable - redo;
    for at in [
        redo + 60,
        redo + length / 3,
        redo + length / 2,
        redo + length * 3 / 4,
    ] {
        // The first byte of a word is never one of those that fill up a record's last word, which mean
        // nothing and which no checksum covers.
        let at = at / 8 * 8;
        let (name, path, offset) = place_of(&cluster, at);
        flip(&path, offset);
        let what = format!("a bit at {}", Lsn::new(at));
        let words = [
            "write-ahead log is damaged at",
            &name,
            "rd_waldump",
            "durable up to",
        ];
        assert_refused(&mut cluster, &what, &words);
        // The place that is named is that of the record, or of the page, that holds the bit.
        let log = cluster.log_since_start();
        let named = log.split("damaged at ").nth(1).expect("it is there");
        let named = lsn(named.split(' ').next().expect("a word"));
        assert!(
            (at - 2 * PAGE..=at).contains(&named),
            "{named:X} for {at:X}"
        );
        flip(&path, offset);
    }
    // A page of zeros, and a page of another place. Behind the damage so far: what lies before it may
    // be below the redo point by now, and is not read any more.
    let (name, path, offset) = place_of(&cluster, redo + length * 7 / 8);
    let offset = offset / PAGE * PAGE;
    let page = put(&path, offset, &[0; PAGE as usize]);
    assert_refused(&mut cluster, "a page of zeros", &[&name, "rd_waldump"]);
    let (_, other, _) = place_of(&cluster, redo + length * 3 / 4);
    let mut wrong = vec![0; PAGE as usize];
    let other = File::open(other).expect("a segment");
    other.read_exact_at(&mut wrong, 5 * PAGE).expect("a page");
    put(&path, offset, &wrong);
    assert_refused(
        &mut cluster,
        "a page of another place",
        &[&name, "rd_waldump"],
    );
    put(&path, offset, &page);
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

#[test]
fn a_missing_segment() {
    let (mut cluster, acknowledged, redo, durable) = killed_with_log();
    cluster.announce("write-ahead log is damaged at");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    for at in [redo, redo + (durable - redo) / 2] {
        let (name, path, _) = place_of(&cluster, at);
        let aside = path.with_extension("aside");
        fs::rename(&path, &aside).expect("it is there");
        assert_refused(
            &mut cluster,
            "a missing segment",
            &[&name, "not there", "rd_waldump"],
        );
        fs::rename(&aside, &path).expect("it is there");
        // One that is too short.
        let bytes = fs::read(&path).expect("it is there");
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| file.set_len(PAGE))
            .expect("cut");
        assert_refused(&mut cluster, "half a segment", &[&name, "rd_waldump"]);
        fs::write(&path, bytes).expect("put back");
    }
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

#[test]
fn a_torn_tail_ends_the_log_without_complaint() {
    let (mut cluster, acknowledged, redo, _) = killed_with_log();
    // Each server is killed as soon as it serves; pages that it was writing may be torn.
    cluster.announce("starts before this one did not finish");
    cluster.announce("was torn or damaged; mended from the double-write area");
    // Its record comes before the service, so that nothing is logged behind our backs.
    cluster.set("end_of_recovery_checkpoint", "before_open");
    let mut end = redo;
    let (_, first, _) = place_of(&cluster, redo);
    let earlier = fs::read(first).expect("a segment");
    let garbage: Vec<u8> = (0..200u32).map(|at| (at * 37 % 251) as u8).collect();
    let tails: [&[u8]; 5] = [
        &garbage,
        // The bytes of an earlier record, as a recycled segment may hold them.
        &earlier[8 * PAGE as usize + 100..][..300],
        &[0xff; 64],
        &[40, 0, 0, 0],
        &[1],
    ];
    for tail in tails {
        cluster.start();
        acknowledged.assert_there(&mut cluster.client());
        // One more record, so that the tail lies elsewhere each time.
        let reply = cluster
            .client()
            .call(&["SET", "tail", "x"])
            .expect("answered");
        assert!(reply.is_ok());
        let now = lsn(&cluster.info("wal", "durable_lsn"));
        assert!(now > end);
        end = now;
        cluster.kill_all();
        let (_, path, offset) = place_of(&cluster, end);
        let room = (PAGE - offset % PAGE) as usize;
        put(&path, offset, &tail[..tail.len().min(room)]);
    }
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
    let reply = cluster.client().call(&["GET", "tail"]).expect("answered");
    assert_eq!(reply.as_str(), Some("x"));
}

#[test]
fn one_slot_of_pg_control_costs_nothing_and_both_are_named() {
    let (mut cluster, acknowledged, ..) = killed_with_log();
    // That one slot is bad may be said, as long as the server starts.
    cluster.announce("slot");
    cluster.announce("pg_control");
    cluster.announce("does not start");
    let path = cluster.path("global/pg_control");
    for (turn, slot) in [0, 1, 0, 1].into_iter().enumerate() {
        flip(&path, slot * SLOT_BYTES as u64 + 100);
        cluster.start();
        acknowledged.assert_there(&mut cluster.client());
        if turn < 2 {
            cluster.stop(Signal::SIGINT);
        } else {
            cluster.kill_all();
        }
        let slots = cluster.control(&format!("pg_control slot {}", other_slot(&cluster)));
        assert!(
            slots.starts_with("valid"),
            "both slots are good again: {slots}"
        );
    }
    let before = fs::read(&path).expect("it is there");
    for slot in [0, 1] {
        flip(&path, slot * SLOT_BYTES as u64 + 100);
    }
    let words = ["global/pg_control", "slot 0", "slot 1", "rd_controldata"];
    assert_refused(&mut cluster, "both slots", &words);
    fs::write(&path, &before).expect("put back");
    // No file at all.
    fs::remove_file(&path).expect("it is there");
    let (log, _) = cluster.start_refused();
    assert!(log.contains("pg_control"), "{log}");
    fs::write(&path, &before).expect("put back");
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

fn other_slot(cluster: &Cluster) -> u32 {
    let used = cluster.control("pg_control slot in use");
    1 - used
        .chars()
        .next()
        .and_then(|digit| digit.to_digit(10))
        .expect("a slot")
}

/// A server at rest with so many keys that their file has hundreds of blocks.
fn stopped_with_keys() -> (Cluster, Acknowledged) {
    // What is said here is said by those who read, not by the scrub.
    let settings = [("shared_buffers", "64MB"), ("scrub_rate", "0")];
    let mut cluster = Cluster::started(&settings);
    let acknowledged = fill(&cluster.socket(), 4, 1000, 4_000);
    cluster.stop(Signal::SIGINT);
    assert!(
        cluster
            .path(KEYS_FILE)
            .metadata()
            .expect("it is there")
            .len()
            > 200 * PAGE
    );
    (cluster, acknowledged)
}

#[test]
fn a_data_page_is_never_served_when_it_is_not_right() {
    let (mut cluster, acknowledged) = stopped_with_keys();
    cluster.announce("checksum");
    cluster.announce("zeros");
    let path = cluster.path(KEYS_FILE);
    let block = 100;
    let page = put(&path, block * PAGE, &[0; PAGE as usize]);
    let mut neighbour = vec![0; PAGE as usize];
    let file = File::open(&path).expect("it is there");
    file.read_exact_at(&mut neighbour, (block + 1) * PAGE)
        .expect("a page");
    let mut flipped = page.clone();
    flipped[5000] ^= 1;
    for (what, bytes) in [
        ("a bit", &flipped),
        ("zeros", &vec![0; PAGE as usize]),
        ("the page of another place", &neighbour),
    ] {
        put(&path, block * PAGE, bytes);
        cluster.start();
        let mut client = cluster.client();
        let reply = client.call(&["RANGE", "", ""]).expect("answered");
        let named = format!("file 2 block {block}");
        let error = match reply.error() {
            Some(error) => error.to_owned(),
            // The reply had begun; then its end says it.
            None => panic!(
                "{what}: a range over a damaged page gives {} values",
                reply.as_slice().map_or(0, <[_]>::len)
            ),
        };
        assert!(error.contains(&named), "{what}: {error}");
        assert!(error.contains("rd_"), "{what}: the tool is named: {error}");
        assert!(
            cluster.log_since_start().contains(&named),
            "{what}: the log names it"
        );
        // All else is served, for reading and writing.
        let mut client = cluster.client();
        assert!(
            client
                .call(&["SET", "zzz", "after all others"])
                .expect("answered")
                .is_ok()
        );
        let reply = client.call(&["GET", "zzz"]).expect("answered");
        assert_eq!(reply.as_str(), Some("after all others"));
        cluster.stop(Signal::SIGINT);
        put(&path, block * PAGE, &page);
    }
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

/// Makes a page whole, and right for any server whose log has come to 7/28; gives what was there.
fn put_beyond_log(path: &Path, block: u32) -> Vec<u8> {
    let tag = PageTag::new(FileNo::new(2), BlockNo::new(block));
    let at = u64::from(block) * PAGE;
    let mut page: PageBytes = [0; PAGE as usize];
    let file = File::open(path).expect("it is there");
    file.read_exact_at(&mut page, at).expect("a page");
    page::set_page_lsn(&mut page, Lsn::new(0x7_0000_0028));
    page::seal(&mut page, tag);
    put(path, at, &page)
}

#[test]
fn a_data_page_that_is_newer_than_the_log() {
    let (mut cluster, acknowledged) = stopped_with_keys();
    cluster.announce("the write-ahead log has come to");
    let path = cluster.path(KEYS_FILE);
    let before = put_beyond_log(&path, 100);
    cluster.start();
    let mut client = cluster.client();
    let reply = client.call(&["RANGE", "", ""]).expect("answered");
    let error = reply.error().expect("an error").to_owned();
    for word in ["file 2 block 100", "7/28", "rd_"] {
        assert!(error.contains(word), "no {word:?} in: {error}");
    }
    let mut client = cluster.client();
    let reply = client.call(&["SET", "zzz", "z"]).expect("answered");
    assert!(reply.is_ok());
    cluster.stop(Signal::SIGINT);
    put(&path, 100 * PAGE, &before);
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

#[test]
fn a_data_page_that_recovery_needs() {
    let (mut cluster, acknowledged) = stopped_with_keys();
    cluster.announce("checksum");
    cluster.announce("but the write-ahead log ends at");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    cluster.start();
    // The same keys again, so that redo has to do with every page.
    let acknowledged = fill(&cluster.socket(), 4, 1000, acknowledged.total());
    cluster.kill_all();
    let path = cluster.path(KEYS_FILE);
    flip(&path, 100 * PAGE + 5000);
    let words = ["file 2 block 100", "checksum", "rd_verify"];
    assert_refused(&mut cluster, "a bit of a page that redo changes", &words);
    flip(&path, 100 * PAGE + 5000);
    // And one that is whole, and newer than all that the log can say of it.
    let before = put_beyond_log(&path, 100);
    let words = ["file 2 block 100", "7/28", "write-ahead log"];
    assert_refused(&mut cluster, "a page from the future", &words);
    put(&path, 100 * PAGE, &before);
    cluster.start();
    acknowledged.assert_there(&mut cluster.client());
}

fn page_at(file: &File, block: u32) -> PageBytes {
    let mut page: PageBytes = [0; PAGE as usize];
    let read = file.read_exact_at(&mut page, u64::from(block) * PAGE);
    read.expect("within the file");
    page
}

/// The log carries whole what was new since the redo point, so nobody asks what lies there on disk.
#[test]
fn a_data_page_that_the_log_has_whole() {
    const ROTTEN: u32 = 30;
    const NEW_KEYS: usize = 2_000;
    for protection in ["double_write", "off"] {
        // Nobody writes pages but a checkpoint.
        let settings = [
            ("shared_buffers", "64MB"),
            ("recovery_time_target", "0"),
            ("checkpoint_heartbeat", "1min"),
            ("max_wal_size", "1GB"),
            ("scrub_rate", "0"),
            ("torn_page_protection", protection),
        ];
        let mut cluster = Cluster::started(&settings);
        let acknowledged = fill(&cluster.socket(), 4, 1000, 2_000);
        let mut client = cluster.client();
        assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
        let path = cluster.path(KEYS_FILE);
        let file = File::open(&path).expect("it is there");
        let blocks = (file.metadata().expect("it is there").len() / PAGE) as u32;
        let is_used = |block: &u32| !page::is_zero(&page_at(&file, *block));
        let new = 1 + (0..blocks).rev().find(is_used).expect("there are pages");

        let key = |number: usize| format!("new:{number:06}");
        let value = |number: usize| format!("{number:01000}");
        for number in 0..NEW_KEYS {
            client.send(&["SET", &key(number), &value(number)]);
        }
        for _ in 0..NEW_KEYS {
            assert!(client.receive().expect("answered").is_ok());
        }
        cluster.kill_all();
        // Nonsense, and pages that are whole and belong elsewhere.
        for block in new..new + ROTTEN {
            assert!(!is_used(&block), "block {block} was written already");
            let other = page_at(&file, block - ROTTEN);
            let rot = if block % 2 == 0 {
                [0xA5; PAGE as usize]
            } else {
                other
            };
            put(&path, u64::from(block) * PAGE, &rot);
        }
        cluster.start();
        let is_there = |cluster: &Cluster| {
            let mut client = cluster.client();
            for number in 0..NEW_KEYS {
                let reply = client.call(&["GET", &key(number)]).expect("answered");
                assert_eq!(reply.as_str(), Some(&*value(number)), "{number}");
            }
            acknowledged.assert_there(&mut client);
        };
        is_there(&cluster);
        let reply = cluster.client().call(&["CHECKPOINT"]);
        assert!(reply.expect("answered").is_ok());
        for block in new..new + ROTTEN {
            let tag = PageTag::new(FileNo::new(2), BlockNo::new(block));
            let verified = page::verify(&page_at(&file, block), tag);
            assert!(verified.is_ok(), "{protection}: {verified:?}");
        }
        cluster.kill_all();
        cluster.start();
        is_there(&cluster);
    }
}

#[test]
fn a_data_file_that_has_lost_its_end() {
    let (mut cluster, acknowledged) = stopped_with_keys();
    cluster.announce("ends too soon");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    let path = cluster.path(KEYS_FILE);
    let words = [KEYS_FILE, "ends too soon", "pg_control"];
    for end in ["a clean stop", "a crash"] {
        let whole = fs::read(&path).expect("it is there");
        fs::write(&path, &whole[..whole.len() - PAGE as usize]).expect("put in place");
        assert_refused(&mut cluster, &format!("a cut file after {end}"), &words);
        fs::write(&path, &whole).expect("put back");
        cluster.start();
        acknowledged.assert_there(&mut cluster.client());
        cluster.kill_all();
    }
}

#[test]
fn a_data_file_from_another_day() {
    let (mut cluster, acknowledged) = stopped_with_keys();
    cluster.announce("from another time");
    cluster.announce("is not there");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    let path = cluster.path(KEYS_FILE);
    let old = fs::read(&path).expect("it is there");
    cluster.start();
    let reply = cluster
        .client()
        .call(&["SET", "day", "two"])
        .expect("answered");
    assert!(reply.is_ok());
    cluster.stop(Signal::SIGINT);
    let new = fs::read(&path).expect("it is there");

    let words = [KEYS_FILE, "from another time", "pg_control"];
    fs::write(&path, &old).expect("put in place");
    assert_refused(&mut cluster, "an old file after a clean stop", &words);
    fs::write(&path, &new).expect("put back");
    cluster.start();
    let reply = cluster.client().call(&["GET", "day"]).expect("answered");
    assert_eq!(reply.as_str(), Some("two"));

    // The same after a crash that had a checkpoint before it.
    for day in ["three", "four"] {
        let mut client = cluster.client();
        assert!(client.call(&["SET", "day", day]).expect("answered").is_ok());
        assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
    }
    cluster.kill_all();
    let new = fs::read(&path).expect("it is there");
    fs::write(&path, &old).expect("put in place");
    assert_refused(&mut cluster, "an old file after a crash", &words);
    // And one that is gone.
    fs::remove_file(&path).expect("it is there");
    assert_refused(&mut cluster, "a missing file", &[KEYS_FILE, "is not there"]);
    fs::write(&path, &new).expect("put back");
    cluster.start();
    let reply = cluster.client().call(&["GET", "day"]).expect("answered");
    assert_eq!(reply.as_str(), Some("four"));
    acknowledged.assert_there(&mut cluster.client());
}

/// What lies on a damaged page is not removed when its time comes; everything else is.
#[test]
fn a_damaged_page_keeps_no_other_keys_from_being_removed() {
    const KEYS: usize = 5_000;
    let mut cluster = Cluster::started(&[("expire_clock_settle", "0"), ("expire_rate", "0")]);
    cluster.announce("checksum");
    let mut client = cluster.client();
    for database in ["1", "0"] {
        assert!(
            client
                .call(&["SELECT", database])
                .expect("answered")
                .is_ok()
        );
        for number in 0..KEYS {
            client.send(&["SET", &format!("key:{number:06}"), "value", "PX", "1"]);
        }
        client.flush().expect("a live server");
        let replies = client.receive_many(KEYS).expect("answered");
        assert!(replies.iter().all(Reply::is_ok));
    }
    drop(client);
    cluster.stop(Signal::SIGINT);
    let path = cluster.path(KEYS_FILE);
    let blocks = path.metadata().expect("it is there").len() / PAGE;
    assert!(blocks > 40, "{blocks} blocks");
    flip(&path, 30 * PAGE + 5000);
    cluster.set("expire_rate", "100000");
    cluster.start();
    // A leaf holds fewer than 300 such keys.
    wait_for("the others to be removed", || {
        let expired: usize = cluster.info("stats", "expired_keys").parse().ok()?;
        (expired > 2 * KEYS - 300).then_some(())
    });
    assert!(cluster.log_since_start().contains("file 2 block 30"));
    let mut client = cluster.client();
    assert!(client.call(&["SELECT", "1"]).expect("answered").is_ok());
    wait_for("the other database to be empty", || {
        let left = client.call(&["DBSIZE"]).expect("answered").as_int();
        (left == Some(0)).then_some(())
    });
}
