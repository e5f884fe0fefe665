//! Clients that mean harm, or know no better: they change nothing, hurt no other connection, and
//! take no absurd memory.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rd_tests::support::cluster::Cluster;
use rd_tests::support::process::private_bytes;
use rd_tests::support::raw::{escape, request};
use rd_tests::support::{skip, wait_for};
use rd_wire::Client;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// Idle connections, and what each may cost.
const IDLE: usize = 5_000;
const IDLE_BYTES_MAX: u64 = 32 << 10;
/// What a client may make all backends together take, beside what is shared.
const GREED_BYTES_MAX: u64 = 128 << 20;
/// A served client is answered within this time, whatever the others do.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Memory of all backends beside what is shared.
fn backend_bytes(cluster: &Cluster) -> u64 {
    let children = cluster.children();
    let backends = children.iter().filter(|c| c.role.starts_with("backend"));
    backends.filter_map(|child| private_bytes(child.pid)).sum()
}

/// Clients on every backend, which must be served all the time.
struct Bystanders {
    clients: Vec<Client>,
    turn: u64,
}

impl Bystanders {
    fn of(cluster: &Cluster) -> Bystanders {
        let mut clients: Vec<Client> = (0..8).map(|_| cluster.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let key = format!("bystander:{number}");
            let reply = client.call(&["SET", &key, "here"]).expect("answered");
            assert!(reply.is_ok(), "{reply:?}");
        }
        Bystanders { clients, turn: 0 }
    }

    fn assert_unhurt(&mut self) {
        self.turn += 1;
        let keys = self.clients.len() as i64;
        for (number, client) in self.clients.iter_mut().enumerate() {
            let asked = Instant::now();
            let key = format!("bystander:{number}");
            let reply = client.call(&["GET", &key]).expect("still connected");
            assert_eq!(reply.as_str(), Some("here"), "turn {}", self.turn);
            let reply = client
                .call(&["SET", &key, "here"])
                .expect("still connected");
            assert!(reply.is_ok(), "turn {}: {reply:?}", self.turn);
            let reply = client
                .call(&["EXISTS", &key, "key"])
                .expect("still connected");
            assert_eq!(
                reply.as_int(),
                Some(1),
                "turn {}: nothing is written",
                self.turn
            );
            assert!(asked.elapsed() < ANSWER_MAX, "turn {}: slow", self.turn);
        }
        let reply = self.clients[0].call(&["DBSIZE"]).expect("still connected");
        assert!(reply.as_int().expect("a number") >= keys);
    }
}

/// Bytes that are no request, and how the answer begins. The connection is closed behind it.
const MALFORMED: &[(&[u8], &str)] = &[
    (
        b"*1\r\n$-5\r\nPING\r\n",
        "-ERR Protocol error: invalid bulk length",
    ),
    (
        b"*1\r\n$4294967296\r\n",
        "-ERR Protocol error: invalid bulk length",
    ),
    (
        b"*1\r\n$9223372036854775807\r\n",
        "-ERR Protocol error: invalid bulk length",
    ),
    (
        b"*1\r\n$-9223372036854775809\r\n",
        "-ERR Protocol error: invalid bulk length",
    ),
    (
        b"*1\r\n$four\r\nPING\r\n",
        "-ERR Protocol error: invalid bulk length",
    ),
    (
        b"*1\r\n$\r\n\r\n",
        "-ERR Protocol error: invalid bulk length",
    ),
    (
        b"*9223372036854775807\r\n",
        "-ERR Protocol error: invalid multibulk length",
    ),
    (
        b"*4294967296\r\n",
        "-ERR Protocol error: invalid multibulk length",
    ),
    (b"*two\r\n", "-ERR Protocol error: invalid multibulk length"),
    (
        b"*1\r\nPING\r\n",
        "-ERR Protocol error: expected '$', got 'P'",
    ),
    (
        b"*1\r\n*1\r\n$4\r\nPING\r\n",
        "-ERR Protocol error: expected '$', got '*'",
    ),
    (
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$2\r\nvalue\r\n",
        "-ERR Protocol error: ",
    ),
    (
        b"*3\r\n$3\r\nSET\r\n$3\r\nkeyxx$1\r\nv\r\n",
        "-ERR Protocol error: ",
    ),
    (
        b"SET key \"value\r\n",
        "-ERR Protocol error: unbalanced quotes in request",
    ),
    (
        b"SET key 'value'x\r\n",
        "-ERR Protocol error: unbalanced quotes in request",
    ),
];

#[test]
fn what_is_no_request_ends_its_own_connection_alone() {
    let cluster = Cluster::started(&[]);
    let mut bystanders = Bystanders::of(&cluster);
    for (bytes, answer) in MALFORMED {
        let mut client = cluster.raw();
        client.send(bytes);
        let received = escape(&client.read_to_end());
        assert!(
            received.starts_with(answer),
            "{}: {received}",
            escape(bytes)
        );
        bystanders.assert_unhurt();
    }
    // An inline request without an end, a header line without an end.
    for first in [b'x', b'*', b'$'] {
        let mut client = cluster.raw();
        let long = vec![if first == b'x' { b'x' } else { b'1' }; 1 << 20];
        let mut bytes = vec![first];
        bytes.extend_from_slice(&long);
        // It is cut off while it still sends.
        let _ = client.try_send(&bytes);
        let received = escape(&client.read_to_end());
        // A reset may have taken the answer back, which is no matter.
        let is_answer = received.is_empty() || received.starts_with("-ERR Protocol error: ");
        assert!(is_answer, "{received}");
        bystanders.assert_unhurt();
    }
    // Whatever byte comes first, in any number: nothing falls.
    for first in 0..=255u8 {
        let mut client = cluster.raw();
        let _ = client.try_send(&[
            first, 0, 255, b'\r', b'\n', first, b'\n', b'*', b'\r', b'\n',
        ]);
    }
    bystanders.assert_unhurt();
}

#[test]
fn half_sent_frames_held_open_take_what_they_sent_and_no_more() {
    let cluster = Cluster::started(&[]);
    let mut bystanders = Bystanders::of(&cluster);
    let before = backend_bytes(&cluster);
    let halves: [&[u8]; 6] = [
        b"*1000000\r\n",
        b"*1000000\r\n$4\r\nMSET\r\n$3\r\nkey\r\n",
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$16777216\r\nvalue",
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue",
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r",
        b"SET key value",
    ];
    let mut held = Vec::new();
    for _ in 0..100 {
        for half in halves {
            let mut client = cluster.raw();
            client.send(half);
            held.push(client);
        }
        bystanders.assert_unhurt();
    }
    let taken = backend_bytes(&cluster).saturating_sub(before);
    let each = taken / held.len() as u64;
    println!(
        "{} half-sent frames take {taken} bytes, {each} each",
        held.len()
    );
    assert!(
        each < 2 * IDLE_BYTES_MAX,
        "{each} bytes for each half frame"
    );
    drop(held);
    bystanders.assert_unhurt();
}

#[test]
fn a_web_page_cannot_speak_to_the_server() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("possible SECURITY ATTACK");
    let mut bystanders = Bystanders::of(&cluster);
    let posts = [
        "POST / HTTP/1.1\r\nHost: 127.0.0.1:7432\r\nContent-Length: 10\r\n\r\nFLUSHALL\r\n",
        "POST / HTTP/1.1\r\n\r\nFLUSHALL\r\n",
        "post / HTTP/1.1\r\nFLUSHALL\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:7432\r\n\r\nFLUSHALL\r\n",
        "PUT /x HTTP/1.1\r\nhost: 127.0.0.1:7432\r\n\r\nSET key value\r\n",
    ];
    for post in posts {
        let mut client = cluster.raw();
        client.send(post.as_bytes());
        let received = escape(&client.read_to_end());
        assert!(!received.contains("+OK"), "{received}");
        bystanders.assert_unhurt();
    }
    let said = cluster.log().matches("possible SECURITY ATTACK").count();
    assert_eq!(
        said,
        posts.len(),
        "each has a line in the log:\n{}",
        cluster.log()
    );
}

#[test]
fn thousands_of_idle_connections() {
    // Two descriptors for each: this process holds one end of each, and some for itself.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    let needed = IDLE as u64 + 200;
    if hard < needed {
        skip(&format!(
            "the system allows {hard} descriptors, {needed} are needed"
        ));
        return;
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(needed), hard).expect("within the hard limit");
    let cluster = Cluster::started(&[]);
    let mut bystanders = Bystanders::of(&cluster);
    bystanders.assert_unhurt();
    let before = backend_bytes(&cluster);
    let ping = request(&[b"PING"]);
    let mut idle: Vec<UnixStream> = Vec::with_capacity(IDLE);
    for number in 0..IDLE {
        let mut stream = UnixStream::connect(cluster.socket()).expect("it listens");
        // Each was served once, so that its buffers have been in use.
        stream.write_all(&ping).expect("connected");
        let mut answer = [0; 7];
        stream.read_exact(&mut answer).expect("answered");
        assert_eq!(&answer, b"+PONG\r\n", "connection {number}");
        idle.push(stream);
    }
    bystanders.assert_unhurt();
    assert_eq!(
        cluster.info("clients", "connected_clients"),
        (IDLE + 8 + 1).to_string()
    );
    let each = backend_bytes(&cluster).saturating_sub(before) / IDLE as u64;
    println!("{each} bytes for each idle connection");
    assert!(
        each < IDLE_BYTES_MAX,
        "{each} bytes for each idle connection"
    );
    drop(idle);
    wait_for("the connections to be gone", || {
        (cluster.info("clients", "connected_clients") == "9").then_some(())
    });
    bystanders.assert_unhurt();
}

#[test]
fn a_client_that_asks_for_more_than_it_reads() {
    const VALUE_BYTES: usize = 16 << 20;
    const REQUESTS: usize = 1_000;
    let cluster = Cluster::started(&[("shared_buffers", "128MB")]);
    let mut bystanders = Bystanders::of(&cluster);
    let value: Vec<u8> = (0..VALUE_BYTES).map(|at| (at / 7) as u8).collect();
    let reply = cluster
        .client()
        .cmd(&[b"SET", b"large", &value])
        .expect("answered");
    assert!(reply.is_ok(), "{reply:?}");
    let before = backend_bytes(&cluster);
    let mut greedy = UnixStream::connect(cluster.socket()).expect("it listens");
    let get = request(&[b"GET", b"large"]);
    let requests = get.repeat(REQUESTS);
    greedy
        .write_all(&requests)
        .expect("the requests fit the sockets");
    let mut most = 0;
    for _ in 0..100 {
        most = most.max(backend_bytes(&cluster).saturating_sub(before));
        bystanders.assert_unhurt();
    }
    println!("{most} bytes for {REQUESTS} unread values of {VALUE_BYTES}");
    assert!(most < GREED_BYTES_MAX, "{most} bytes");
    // It is served as it reads.
    let head = format!("${VALUE_BYTES}\r\n").into_bytes();
    for _ in 0..3 {
        let mut reply = vec![0; head.len() + VALUE_BYTES + 2];
        greedy.read_exact(&mut reply).expect("the value comes");
        assert!(reply.starts_with(&head) && reply.ends_with(b"\r\n"));
        assert!(
            reply[head.len()..][..VALUE_BYTES] == value[..],
            "the value is whole"
        );
    }
    drop(greedy);
    bystanders.assert_unhurt();
    wait_for("the memory to be given back", || {
        let left = backend_bytes(&cluster).saturating_sub(before);
        (left < GREED_BYTES_MAX / 2).then_some(())
    });
}

/// A value that is longer than any may be is refused before anybody makes room for it.
#[test]
fn a_value_that_would_be_too_long_takes_no_memory() {
    let cluster = Cluster::started(&[
        ("backends", "1"),
        ("proto_max_bulk_len", "512MB"),
        ("client_query_max", "1GB"),
    ]);
    let peak_kb = || -> u64 {
        let path = format!("/proc/{}/status", cluster.child("backend 0"));
        let status = std::fs::read_to_string(path).expect("it lives");
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let words = line.expect("what it took at most").split_whitespace();
        words
            .filter_map(|word| word.parse().ok())
            .next()
            .expect("a number")
    };
    let mut client = cluster.client();
    assert!(client.call(&["SET", "key", "v"]).expect("answered").is_ok());
    let before = peak_kb();
    for words in [
        &["SETRANGE", "key", "536870900", "x"][..],
        &["SETBIT", "key", "4294967295", "1"],
        &["BITFIELD", "key", "SET", "u8", "4294967280", "1"],
    ] {
        let reply = client.call(words).expect("answered");
        let error = reply
            .error()
            .unwrap_or_else(|| panic!("{words:?}: {reply:?}"));
        assert!(error.contains("max_value_size"), "{error}");
    }
    let more = peak_kb() - before;
    assert!(more < 100 << 10, "{more} kB more than {before} kB");
}

#[test]
fn more_clients_than_allowed_are_turned_away() {
    let cluster = Cluster::started(&[("max_connections", "10")]);
    // Some may find the one that looked whether the server is ready still there.
    let served = || {
        wait_for("room", || {
            let mut client = cluster.client();
            let reply = client.call(&["PING"]).ok()?;
            reply.error().is_none().then_some(client)
        })
    };
    let mut inside: Vec<Client> = (0..10).map(|_| served()).collect();
    let mut late = cluster.client();
    let reply = late.receive().expect("a refusal");
    assert_eq!(
        reply.error(),
        Some("ERR max number of clients reached (max_connections)")
    );
    assert!(late.receive().is_err(), "and the end of the connection");
    inside.pop();
    served();
}

#[test]
fn what_a_client_has_sent_is_carried_out_though_it_hangs_up() {
    let cluster = Cluster::started(&[("backends", "1")]);
    let mut other = cluster.client();
    let value = "v".repeat(1 << 20);
    assert!(
        other
            .call(&["SET", "key", &value])
            .expect("a reply")
            .is_ok()
    );
    // They take much longer than a turn.
    let mut requests = b"BITCOUNT key\n".repeat(600);
    requests.extend_from_slice(b"SET done 1\n");
    let mut client = cluster.raw();
    client.send(&requests);
    drop(client);
    wait_for("the last request", || {
        let reply = other.call(&["GET", "done"]).expect("a reply");
        (reply.as_str() == Some("1")).then_some(())
    });
}

#[test]
fn who_owes_half_a_request_or_reads_nothing_is_idle_as_well() {
    let cluster = Cluster::started(&[("backends", "1")]);
    let (mut half, mut deaf) = (cluster.raw(), cluster.raw());
    for client in [&mut half, &mut deaf] {
        assert_eq!(client.ask(&request(&[b"PING"])), b"+PONG\r\n");
    }
    half.send(b"*1\r\n");
    // More than a socket holds, and less than what keeps QUIT from being carried out.
    let value = "v".repeat(900_000);
    let set = cluster.client().call(&["SET", "key", &value]);
    assert!(set.expect("a reply").is_ok());
    deaf.send(b"GET key\nQUIT\n");
    // Only now: on a slow machine they would be closed too soon.
    let set = cluster.client().call(&["CONFIG", "SET", "timeout", "1s"]);
    assert!(set.expect("a reply").is_ok());
    wait_for("the two to be closed", || {
        // Whoever looks is not to be idle for so long either.
        let list = cluster.client().call(&["CLIENT", "LIST"]).ok()?;
        (list.as_str().expect("text").lines().count() == 1).then_some(())
    });
    assert_eq!(half.read_to_end(), b"");
}
