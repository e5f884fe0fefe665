//! Replies that are made in several turns, and requests whose turn comes when their replies are
//! sent: all of it goes on by itself, at once, whoever else is served.

use rd_tests::support::cluster::Cluster;
use rd_tests::support::raw::request;
use rd_tests::support::wait_for;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A backend that forgets something about a connection thinks of it once a second.
const TICK: Duration = Duration::from_secs(1);

fn fill(cluster: &Cluster, keys: usize, value: &[u8]) {
    let mut client = cluster.client();
    for first in (0..keys).step_by(1000) {
        let names: Vec<String> = (first..keys.min(first + 1000))
            .map(|number| format!("key:{number:08}"))
            .collect();
        let mut words: Vec<&[u8]> = vec![b"MSET"];
        for name in &names {
            words.extend([name.as_bytes(), value]);
        }
        assert!(client.cmd(&words).expect("answered").is_ok());
    }
}

/// Reads exactly these bytes.
fn expect(stream: &mut UnixStream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).expect("as many bytes");
    assert!(received == expected, "other bytes");
}

#[test]
fn a_long_range_does_not_wait_for_others() {
    const KEYS: usize = 50_000;
    let cluster = Cluster::started(&[("backends", "1")]);
    fill(&cluster, KEYS, b"value");
    let mut client = cluster.client();
    let began = Instant::now();
    let reply = client.call(&["RANGE", "", ""]).expect("answered");
    let took = began.elapsed();
    assert_eq!(reply.as_slice().map(<[_]>::len), Some(2 * KEYS));
    println!("{KEYS} keys in {took:?}");
    // 112 pieces: with a tick for each, two minutes.
    assert!(took < 60 * TICK, "{took:?}");
}

#[test]
fn requests_that_came_at_once_are_carried_out_as_their_replies_are_sent() {
    const REQUESTS: usize = 200;
    let value = vec![b'v'; 4000];
    let reply = [b"$4000\r\n", &value[..], b"\r\n"].concat();
    let cluster = Cluster::started(&[("client_output_max", "16kB"), ("backends", "1")]);
    fill(&cluster, 1, &value);
    let requests = request(&[b"GET", b"key:00000000"]).repeat(REQUESTS);
    let mut stream = UnixStream::connect(cluster.socket()).expect("it listens");
    let began = Instant::now();
    stream.write_all(&requests).expect("they fit the socket");
    expect(&mut stream, &reply.repeat(REQUESTS));
    assert!(began.elapsed() < 30 * TICK, "{:?}", began.elapsed());
    // The same when it says at once that no more will come.
    stream.write_all(&requests).expect("they fit the socket");
    stream.shutdown(Shutdown::Write).expect("connected");
    expect(&mut stream, &reply.repeat(REQUESTS));
    assert_eq!(stream.read(&mut [0]).expect("an orderly end"), 0);
}

#[test]
fn what_a_client_sent_before_it_left_is_carried_out() {
    let cluster = Cluster::started(&[]);
    let mut other = cluster.client();
    for turn in 0..20 {
        let key = format!("left:{turn}");
        let mut stream = UnixStream::connect(cluster.socket()).expect("it listens");
        stream
            .write_all(&request(&[b"SET", key.as_bytes(), b"here"]))
            .expect("connected");
        drop(stream);
        wait_for("the write of a client that has left", || {
            let reply = other.call(&["GET", &key]).expect("answered");
            reply.as_str().map(|_| ())
        });
    }
}

#[test]
fn commits_that_wait_for_room_in_the_log_go_on_when_there_is_some() {
    const COMMITS: usize = 200;
    const LATE: Duration = TICK.checked_div(2).expect("not by zero");
    let settings = [("wal_buffers", "256kB"), ("backends", "1")];
    let cluster = Cluster::started(&settings);
    let value = vec![b'v'; 100_000];
    let mut stream = UnixStream::connect(cluster.socket()).expect("it listens");
    let mut writer = stream.try_clone().expect("a descriptor");
    let thread = std::thread::spawn(move || {
        for number in 0..COMMITS {
            let key = format!("key:{number}");
            let set = request(&[b"SET", key.as_bytes(), &value]);
            writer.write_all(&set).expect("the server takes bytes");
        }
    });
    let (mut stalls, mut before) = (0_usize, Instant::now());
    for _ in 0..COMMITS {
        expect(&mut stream, b"+OK\r\n");
        stalls += usize::from(before.elapsed() > LATE);
        before = Instant::now();
    }
    thread.join().expect("all was sent");
    // The ring is full some 80 times. A disk may take that long, too, and then it has taken all that time; a machine
    // that does other things may now and then.
    let disk_us = ["wal_write_us", "wal_sync_us"].map(|field| {
        let text = cluster.info("wal", field);
        text.parse::<u64>().expect("a number")
    });
    let disk = Duration::from_micros(disk_us.iter().sum());
    let late_by_disk = disk.div_duration_f64(LATE) as usize;
    assert!(
        stalls < COMMITS / 8 + late_by_disk,
        "{stalls} commits waited for the next tick, {late_by_disk} for the disk"
    );
}

/// However steadily they read: each holds a snapshot.
#[test]
fn replies_that_are_read_too_slowly_are_ended() {
    let settings = [("backends", "1"), ("max_snapshot_age", "1s")];
    let mut cluster = Cluster::started(&settings);
    cluster.announce("longer than max_snapshot_age");
    let value = vec![b'v'; 100_000];
    fill(&cluster, 50, &value);
    let mut slow = Vec::new();
    for begin in [&b""[..], b"*1\r\n$5\r\nBEGIN\r\n"] {
        let mut stream = UnixStream::connect(cluster.socket()).expect("it listens");
        let range = request(&[b"RANGE", b"", b""]);
        stream.write_all(&[begin, &range].concat()).expect("sent");
        slow.push(stream);
    }
    let mut received = vec![0; 1000];
    wait_for("both to be closed", || {
        for stream in &mut slow {
            // It may be closed by now.
            let _ = stream.read(&mut received);
        }
        let said = "range reply has been under way for longer";
        (cluster.log().matches(said).count() == 2).then_some(())
    });
    let counted = cluster.client().cmd(&[b"INFO", b"storage"]);
    let counted = counted.expect("served").as_str().expect("text").to_owned();
    assert!(counted.contains("transactions_timed_out:1"), "{counted}");
}

#[test]
fn clients_that_do_not_read_what_they_asked_for() {
    const STALLED: usize = 100;
    let settings = [("backends", "1"), ("long_read_stall_timeout", "1s")];
    let mut cluster = Cluster::started(&settings);
    cluster.announce("longer than long_read_stall_timeout");
    let value = vec![b'v'; 100_000];
    fill(&cluster, 50, &value);
    let range = request(&[b"RANGE", b"", b""]);
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        let mut stream = UnixStream::connect(cluster.socket()).expect("it listens");
        stream.write_all(&range).expect("connected");
        stalled.push(stream);
    }
    // Others are served all the while, also what takes a snapshot.
    let mut client = cluster.client();
    wait_for("all that do not read to be closed", || {
        let reply = client.call(&["GET", "key:00000007"]).expect("served");
        assert_eq!(reply.as_bytes(), Some(&value[..]));
        let reply = client.call(&["APPEND", "tail", "x"]).expect("served");
        assert!(reply.as_int().is_some(), "{reply:?}");
        let said = cluster
            .log()
            .matches("of its range reply for longer")
            .count();
        (said == STALLED).then_some(())
    });
    // This one reads, and may take its time.
    let patience = ["CONFIG", "SET", "long_read_stall_timeout", "1h"];
    assert!(client.call(&patience).expect("served").is_ok());
    let reply = client.call(&["RANGE", "", ""]).expect("served");
    assert_eq!(reply.as_slice().map(<[_]>::len), Some(2 * 51));
}
