//! Too few descriptors, and files that may not grow: what the server says, that it blames no page
//! and ends nobody else's connection, and that it goes on when there are more.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::{Cluster, send};
use rd_tests::support::log::assert_order;
use rd_tests::support::process::{address_bytes, limit};
use rd_tests::support::raw::{escape, request};
use rd_tests::support::{skip, wait_for};
use rd_wire::{Client, Reply};

const PING: &[u8] = b"PING\r\n";
const PONG: &str = "+PONG\\r\\n";

fn call(client: &mut Client, words: &[&str]) -> Reply {
    client.call(words).expect("answered")
}

/// Sets how many descriptors a process may have; those that it has stay. False, where there is no
/// program that can.
fn allow_descriptors(pid: u32, count: u32) -> bool {
    limit(pid, &format!("--nofile={count}:"))
}

/// A backend that can open nothing says so, for what it must read; a checkpointer that cannot,
/// for a file that is to be made. Neither is damage, nor a full disk, and both pass.
#[test]
fn a_want_of_descriptors_is_told_as_such_and_passes() {
    let mut cluster = Cluster::started(&[("backends", "1")]);
    cluster.announce("a command was refused");
    cluster.announce("could not make room in relation file");
    assert!(call(&mut cluster.client(), &["SET", "key", "value"]).is_ok());
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    // No page of it is in memory now, and the file is open nowhere.
    cluster.start();
    let mut client = cluster.client();
    // Answered: so the backend has its descriptor.
    assert!(call(&mut client, &["PING"]).error().is_none());
    let (backend, checkpointer) = (cluster.child("backend 0"), cluster.child("checkpointer"));
    if !allow_descriptors(backend, 3) {
        skip("there is no prlimit");
        return;
    }
    for words in [
        &["GET", "key"][..],
        &["SET", "key", "other"],
        &["RANGE", "", ""],
    ] {
        let reply = call(&mut client, words);
        let error = reply
            .error()
            .unwrap_or_else(|| panic!("{words:?}: {reply:?}"));
        assert!(error.starts_with("ERR could not read file "), "{error}");
        for part in ["\"base/", "Too many open files", "no damage", "ulimit -n"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    assert!(allow_descriptors(backend, 1000));
    assert_eq!(call(&mut client, &["GET", "key"]).as_str(), Some("value"));

    assert!(allow_descriptors(checkpointer, 3));
    assert!(call(&mut client, &["SELECT", "1"]).is_ok());
    let reply = call(&mut client, &["SET", "key", "value"]);
    let error = reply.error().unwrap_or_else(|| panic!("{reply:?}"));
    assert!(
        error.starts_with("ERR could not extend relation file "),
        "{error}"
    );
    for part in ["Too many open files", "no damage", "ulimit -n"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(allow_descriptors(checkpointer, 1000));
    assert!(call(&mut client, &["SET", "key", "value"]).is_ok());
    drop(client);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

/// A file that may not be longer (`ulimit -f`) refuses what needs it to be; nobody is killed for it.
#[test]
fn a_file_that_may_not_grow_refuses_writes_and_passes() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("could not make room in relation file");
    let mut client = cluster.client();
    assert!(call(&mut client, &["SET", "first", "value"]).is_ok());
    let checkpointer = cluster.child("checkpointer");
    // More than any file has that is there already.
    if !limit(checkpointer, "--fsize=25165824:") {
        skip("there is no prlimit");
        return;
    }
    let value = "v".repeat(60_000);
    let mut written = 0;
    let error = wait_for("a refusal", || {
        written += 1;
        let reply = call(&mut client, &["SET", &format!("key{written}"), &value]);
        reply.error().map(str::to_owned)
    });
    for part in ["MISCONF could not extend relation file ", "File too large"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert_eq!(call(&mut client, &["GET", "first"]).as_str(), Some("value"));
    assert!(limit(checkpointer, "--fsize=unlimited:"));
    assert!(call(&mut client, &["SET", "more", &value]).is_ok());
    assert_eq!(cluster.child("checkpointer"), checkpointer, "it lives");
    drop(client);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

/// A server that has served tries again if there is no descriptor for its restart after a crash, a second
/// later. One that is started says so and ends.
#[test]
fn a_restart_for_which_descriptors_are_short_is_tried_again_and_a_first_start_refused() {
    const SHORT: &str = "Too many open files in system";
    let mut cluster = Cluster::started(&[]);
    cluster.announce("");
    assert!(call(&mut cluster.client(), &["SET", "key", "value"]).is_ok());
    cluster.arm("recovery_begun=enfile");
    send(cluster.child("walwriter"), Signal::SIGKILL);
    cluster.wait_log_times("server is ready to accept connections", 2);
    assert_order(
        &cluster.log_since_start(),
        &[
            "walwriter",
            SHORT,
            "for want of something: terminating all other server processes",
            "redo starts at",
            "server is ready",
        ],
    );
    let reply = call(&mut cluster.client(), &["GET", "key"]);
    assert_eq!(reply.as_str(), Some("value"));
    cluster.kill_all();
    cluster.set("fault_points", "recovery_begun=enfile");
    let (log, code) = cluster.start_refused();
    assert_eq!(code, Some(1));
    assert_order(&log, &[SHORT, "the server cannot start"]);
}

/// No more descriptors may be polled than a process may have, those that it has included.
#[test]
fn a_postmaster_that_may_have_fewer_descriptors_than_it_has_goes_on() {
    let mut cluster = Cluster::started(&[("backends", "4")]);
    // That the configuration cannot be read.
    cluster.announce("");
    let postmaster = cluster.pid().expect("it runs");
    if !allow_descriptors(postmaster, 3) {
        skip("there is no prlimit");
        return;
    }
    for times in 1..3 {
        send(postmaster, Signal::SIGHUP);
        cluster.wait_log_times("received SIGHUP", times);
    }
    assert!(allow_descriptors(postmaster, 1000));
    assert!(call(&mut cluster.client(), &["SET", "key", "value"]).is_ok());
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

/// The postmaster makes the segment anew before any child is there that could lack something.
#[test]
fn a_restart_for_which_there_is_no_segment_is_tried_again() {
    // One attempt a second, for as long as this test takes to see the first.
    let settings = [("backends", "2"), ("crash_restart_max", "1000")];
    let mut cluster = Cluster::started(&settings);
    cluster.announce("");
    assert!(call(&mut cluster.client(), &["SET", "key", "value"]).is_ok());
    let postmaster = cluster.pid().expect("it runs");
    // Enough to poll what is open, and too few for the events of all processes.
    if !allow_descriptors(postmaster, 40) {
        skip("there is no prlimit");
        return;
    }
    send(cluster.child("walwriter"), Signal::SIGKILL);
    cluster.wait_log("there is no shared memory: starting again in a moment");
    assert!(allow_descriptors(postmaster, 1000));
    cluster.wait_log_times("server is ready to accept connections", 2);
    let reply = call(&mut cluster.client(), &["GET", "key"]);
    assert_eq!(reply.as_str(), Some("value"));
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

/// Connections beyond what a backend has descriptors for are refused with the reason. Those that
/// are there stay, with all that their commands need; and there is room again when some have gone.
#[test]
fn a_backend_full_of_connections_refuses_further_ones_and_serves_on() {
    let mut cluster = Cluster::new(&[
        ("backends", "1"),
        ("wal_segment_size", "1MB"),
        ("min_wal_size", "2MB"),
    ]);
    cluster.limit("-n 160");
    cluster.announce("may need");
    cluster.announce("no file descriptor is left");
    cluster.start();
    let backend = cluster.child("backend 0");
    let mut first = cluster.client();
    assert!(call(&mut first, &["SET", "key", "0"]).is_ok());
    let mut served = Vec::new();
    let mut refused = Vec::new();
    for _ in 0..150 {
        let mut client = cluster.raw();
        match escape(&client.exchange(PING)).as_str() {
            PONG => served.push(client),
            reply => refused.push(reply.to_owned()),
        }
    }
    assert!(served.len() > 10, "{} are served", served.len());
    assert!(refused.len() > 30, "{} are refused", refused.len());
    for reply in &refused {
        assert!(
            reply.starts_with("-ERR max number of clients reached"),
            "{reply:?}"
        );
        assert!(reply.contains("ulimit -n"), "{reply:?}");
    }
    // Through several segments of the log.
    let value = "v".repeat(100_000);
    for number in 0..50 {
        let key = format!("key{number}");
        assert!(call(&mut first, &["SET", &key, &value]).is_ok());
    }
    served.clear();
    wait_for("a connection that is served", || {
        (escape(&cluster.raw().exchange(PING)) == PONG).then_some(())
    });
    assert_eq!(call(&mut first, &["GET", "key"]).as_str(), Some("0"));
    assert_eq!(cluster.child("backend 0"), backend, "it has not fallen");
    drop(first);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

/// A connection that a backend has no descriptor for is closed, and that is all: nobody else's is,
/// and the backend lives.
#[test]
fn a_connection_without_a_descriptor_is_closed_and_nobody_else_s() {
    let mut cluster = Cluster::started(&[("backends", "1"), ("max_connections", "20")]);
    cluster.announce("no file descriptor is left");
    let mut client = cluster.client();
    assert!(call(&mut client, &["SET", "key", "value"]).is_ok());
    let backend = cluster.child("backend 0");
    if !allow_descriptors(backend, 3) {
        skip("there is no prlimit");
        return;
    }
    // More than may be connected at once: the postmaster is told, if a little later, that they are
    // gone.
    for _ in 0..30 {
        wait_for("a connection that is closed", || {
            cluster.raw().exchange(PING).is_empty().then_some(())
        });
    }
    assert_eq!(call(&mut client, &["GET", "key"]).as_str(), Some("value"));
    assert!(allow_descriptors(backend, 1000));
    assert_eq!(escape(&cluster.raw().exchange(PING)), PONG);
    assert_eq!(cluster.child("backend 0"), backend, "it has not fallen");
    drop(client);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}

/// A backend that has no memory for a large request, for what its commit needs, or for a large reply
/// refuses that one alone, and lives.
#[test]
fn a_want_of_memory_for_a_request_or_its_reply_ends_nobody() {
    const MB: usize = 1 << 20;
    let mut cluster = Cluster::started(&[
        ("backends", "1"),
        ("shared_buffers", "128MB"),
        ("client_query_max", "512MB"),
        ("proto_max_bulk_len", "256MB"),
        ("backend_memory_max", "1GB"),
    ]);
    cluster.announce("a command was refused");
    let large = vec![b'v'; 15 * MB];
    let reply = cluster.client().call(&[&b"SET"[..], b"large", &large]);
    assert_eq!(reply.expect("answered"), Reply::Simple("OK".into()));
    // What was freed would be of use.
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
    cluster.start();
    let mut client = cluster.client();
    assert!(call(&mut client, &["SET", "small", "value"]).is_ok());
    let backend = cluster.child("backend 0");
    let allow_more = |bytes: usize| {
        let taken = address_bytes(backend).expect("it lives");
        limit(backend, &format!("--as={}:", taken + bytes as u64))
    };
    if !allow_more(64 * MB) {
        skip("there is no prlimit");
        return;
    }
    const SHORT: &str = "the system has no memory left";

    let mut raw = cluster.raw();
    // It is cut off while it still sends.
    let _ = raw.try_send(&request(&[b"SET", b"small", &vec![b'v'; 200 * MB]]));
    let reply = escape(&raw.read_to_end());
    assert!(
        reply.starts_with("-ERR could not make room for a request of "),
        "{reply}"
    );
    assert!(reply.contains(SHORT), "{reply}");

    // By and by there is room for the value, and then for the reply.
    let mut refusals = Vec::new();
    for megabytes in (8..64).step_by(4) {
        assert!(allow_more(megabytes * MB));
        let reply = call(&mut client, &["GET", "large"]);
        match reply.error() {
            Some(error) => refusals.push(error.to_owned()),
            None => assert_eq!(reply.as_bytes(), Some(&large[..])),
        }
        assert_eq!(call(&mut client, &["GET", "small"]).as_str(), Some("value"));
    }
    for part in [SHORT, "no memory left for this part of the reply"] {
        assert!(
            refusals.iter().any(|refusal| refusal.contains(part)),
            "{refusals:?}"
        );
    }

    // By and by there is room for the value among those that are written, and for the record.
    let mut refusals = Vec::new();
    for megabytes in (8..80).step_by(12) {
        for words in [
            &["SET"][..],
            &["BEGIN", "SET", "COMMIT"],
            &["MULTI", "SET", "EXEC"],
        ] {
            assert!(allow_more(megabytes * MB));
            let mut requests = Vec::new();
            for word in words {
                requests.extend(match *word {
                    "SET" => request(&[b"SET", b"other", &large]),
                    word => request(&[word.as_bytes()]),
                });
            }
            let reply = escape(&cluster.raw().exchange(&requests));
            if reply.contains(SHORT) {
                refusals.push(reply);
            }
        }
        assert_eq!(call(&mut client, &["GET", "small"]).as_str(), Some("value"));
    }
    for part in [
        "bytes of a value that is written",
        "bytes of the record of a commit",
    ] {
        assert!(
            refusals.iter().any(|refusal| refusal.contains(part)),
            "{part}: {refusals:?}"
        );
    }
    // And for what a command makes of a value.
    for (key, byte) in [("first", "1"), ("second", "2")] {
        assert!(call(&mut client, &["SET", key, &byte.repeat(7000)]).is_ok());
    }
    let mut refusals = Vec::new();
    for megabytes in (8..68).step_by(6) {
        for request in [
            "GETRANGE large 0 -1",
            "DUMP large",
            "GETEX large PERSIST",
            "BITFIELD_RO large GET u8 0",
            "BITOP NOT other large",
            "COPY large other REPLACE",
            "APPEND other more",
            "SETRANGE other 15000000 more",
            "SETBIT other 120000000 1",
            "BITFIELD other SET u8 120000000 1",
            "LCS first second",
        ] {
            let words: Vec<&str> = request.split(' ').collect();
            for is_in_transaction in [false, true] {
                if is_in_transaction {
                    assert!(call(&mut client, &["BEGIN"]).is_ok());
                }
                assert!(allow_more(megabytes * MB));
                if let Some(error) = call(&mut client, &words).error() {
                    refusals.push(format!("{request}: {error}"));
                }
                if is_in_transaction {
                    assert!(call(&mut client, &["ROLLBACK"]).is_ok());
                }
            }
        }
        assert_eq!(call(&mut client, &["GET", "small"]).as_str(), Some("value"));
    }
    // Where in a command it is met depends on what was freed before; but this takes more than that.
    let lengths = |refusal: &String| refusal.contains("the values of LCS");
    assert!(refusals.iter().any(lengths), "{refusals:#?}");
    assert!(limit(backend, "--as=unlimited:"));
    assert_eq!(
        call(&mut client, &["GET", "large"]).as_bytes(),
        Some(&large[..])
    );
    assert_eq!(cluster.child("backend 0"), backend, "it lives");
    drop(client);
    assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0));
}
