//! CLIENT, where it is about other connections and about replies.

#![allow(clippy::unwrap_used)]

use rd_tests::support::cluster::Cluster;
use rd_tests::support::wait_for;
use rd_wire::{Client, Reply};
use std::time::{Duration, Instant};

fn ask(client: &mut Client, words: &[&str]) -> Reply {
    client.call(words).unwrap()
}

fn id(client: &mut Client) -> String {
    ask(client, &["CLIENT", "ID"]).as_int().unwrap().to_string()
}

#[test]
fn connections_of_every_backend_are_killed() {
    let cluster = Cluster::started(&[("backends", "3")]);
    let mut killer = cluster.client();
    let mut others: Vec<Client> = (0..6).map(|_| cluster.client()).collect();
    let own = id(&mut killer);
    let first = id(&mut others[0]);
    assert_eq!(
        ask(&mut killer, &["CLIENT", "KILL", "ID", &first]).as_int(),
        Some(1)
    );
    wait_for("the first to be closed", || {
        others[0].call(&["PING"]).is_err().then_some(())
    });
    assert!(
        others[1..]
            .iter_mut()
            .all(|other| other.call(&["PING"]).is_ok())
    );
    let address = "CLIENT KILL ID of one that is gone";
    assert_eq!(
        ask(&mut killer, &["CLIENT", "KILL", "ID", &first]).as_int(),
        Some(0),
        "{address}"
    );
    // All but the own one.
    let killed = ask(&mut killer, &["CLIENT", "KILL", "TYPE", "normal"]).as_int();
    assert!(killed >= Some(5), "{killed:?}");
    wait_for("all others to be closed", || {
        let closed = others[1..]
            .iter_mut()
            .all(|other| other.call(&["PING"]).is_err());
        closed.then_some(())
    });
    // All came by the one address: those of another are spared, the own one too.
    let mut late = cluster.client();
    let info = ask(&mut late, &["CLIENT", "INFO"]);
    let info = info.as_str().unwrap().to_owned();
    let came_by = |text: &str| {
        let rest = text.split_once(" laddr=").unwrap().1;
        rest.split(' ').next().unwrap().to_owned()
    };
    let elsewhere = ask(&mut killer, &["CLIENT", "KILL", "LADDR", "192.0.2.1:1"]);
    assert_eq!(elsewhere.as_int(), Some(0));
    assert!(late.call(&["PING"]).is_ok());
    let killed = ask(&mut killer, &["CLIENT", "KILL", "LADDR", &came_by(&info)]);
    assert_eq!(killed.as_int(), Some(1));
    wait_for("the late one to be closed", || {
        late.call(&["PING"]).is_err().then_some(())
    });
    // The own one is closed behind the reply.
    let last = ask(&mut killer, &["CLIENT", "KILL", "ID", &own, "SKIPME", "no"]);
    assert_eq!(last.as_int(), Some(1));
    assert!(killer.call(&["PING"]).is_err());
}

#[test]
fn a_pause_holds_back_what_it_says() {
    let cluster = Cluster::started(&[("backends", "2")]);
    let mut admin = cluster.client();
    let mut other = cluster.client();
    assert!(ask(&mut other, &["SET", "key", "1"]).is_ok());
    assert!(ask(&mut admin, &["CLIENT", "PAUSE", "60000", "WRITE"]).is_ok());
    // Reads go on; writes begin when it is over.
    assert_eq!(ask(&mut other, &["GET", "key"]).as_str(), Some("1"));
    other.send(&["INCR", "key"]);
    other.flush().unwrap();
    let mut reader = cluster.client();
    for _ in 0..20 {
        assert_eq!(ask(&mut reader, &["GET", "key"]).as_str(), Some("1"));
    }
    assert!(ask(&mut admin, &["CLIENT", "UNPAUSE"]).is_ok());
    assert_eq!(other.receive().unwrap().as_int(), Some(2));
    // A pause ends by itself.
    let begin = Instant::now();
    assert!(ask(&mut admin, &["CLIENT", "PAUSE", "300"]).is_ok());
    assert_eq!(ask(&mut other, &["GET", "key"]).as_str(), Some("2"));
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(290) && took < Duration::from_secs(20),
        "{took:?}"
    );
    assert_eq!(ask(&mut other, &["INCR", "key"]).as_int(), Some(3));
}

#[test]
fn replies_are_left_out_as_asked() {
    let cluster = Cluster::started(&[]);
    let mut raw = cluster.raw();
    let mut exchange = |text: &str| String::from_utf8(raw.exchange(text.as_bytes())).unwrap();
    assert_eq!(
        exchange("CLIENT REPLY SKIP\r\nSET a 1\r\nGET a\r\n"),
        "$1\r\n1\r\n"
    );
    assert_eq!(
        exchange("CLIENT REPLY SKIP\r\nNOSUCH\r\nGET a\r\n"),
        "$1\r\n1\r\n"
    );
    let text = "CLIENT REPLY OFF\r\nINCR a\r\nGET a\r\nNOSUCH\r\nKEYS *\r\nCLIENT REPLY ON\r\n";
    assert_eq!(exchange(&format!("{text}GET a\r\n")), "+OK\r\n$1\r\n2\r\n");
    // What was not answered was done all the same, and for good.
    let mut client = cluster.client();
    assert_eq!(ask(&mut client, &["GET", "a"]).as_str(), Some("2"));
}

#[test]
fn waitaof_tells_when_what_was_written_is_durable() {
    let mut cluster =
        Cluster::started(&[("synchronous_commit", "off"), ("wal_writer_delay", "10s")]);
    let mut client = cluster.client();
    assert!(ask(&mut client, &["SET", "key", "value"]).is_ok());
    let copies = ask(&mut client, &["WAITAOF", "1", "0", "0"]);
    let copies: Vec<_> = copies
        .as_slice()
        .unwrap()
        .iter()
        .map(Reply::as_int)
        .collect();
    assert_eq!(copies, [Some(1), Some(0)]);
    cluster.kill_all();
    cluster.start();
    let mut client = cluster.client();
    assert_eq!(ask(&mut client, &["GET", "key"]).as_str(), Some("value"));
    assert_eq!(ask(&mut client, &["WAIT", "1", "1000"]).as_int(), Some(0));
}

/// Nobody asks for the disk, no further commit comes, and yet it is durable soon; who sees it sees what no
/// kill takes back.
#[test]
fn an_asynchronous_commit_is_durable_by_itself() {
    let mut cluster = Cluster::started(&[]);
    let (mut client, mut other) = (cluster.client(), cluster.client());
    let off = ["CLIENT", "SYNCHRONOUS-COMMIT", "OFF"];
    assert!(ask(&mut client, &off).is_ok());
    for round in 0..5 {
        let value = round.to_string();
        assert!(ask(&mut client, &["SET", "key", &value]).is_ok());
        wait_for("it to be seen by others", || {
            (ask(&mut other, &["GET", "key"]).as_str() == Some(&value)).then_some(())
        });
    }
    drop((client, other));
    cluster.kill_all();
    cluster.start();
    let mut client = cluster.client();
    assert_eq!(ask(&mut client, &["GET", "key"]).as_str(), Some("4"));
}

#[test]
fn a_command_of_another_type_says_so() {
    let cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    for (words, text) in [
        (
            &["lpush", "a", "b"][..],
            "ERR command 'LPUSH' works on a list; Redoubt stores strings only",
        ),
        (
            &["HSET", "a", "b", "c"],
            "ERR command 'HSET' works on a hash; Redoubt stores strings only",
        ),
        (
            &["publish", "a", "b"],
            "ERR command 'PUBLISH' is about messages between clients; Redoubt has none",
        ),
    ] {
        assert_eq!(ask(&mut client, words).error(), Some(text));
    }
}
