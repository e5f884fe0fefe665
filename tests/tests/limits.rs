//! Each limit has an error that names the limit and the parameter that sets it, and leaves the
//! connection and what is stored as they were.

use rd_base::limits::{KEY_BYTES_MAX, SNAPSHOTS_OF_A_TURN, SNAPSHOTS_PER_PROCESS};
use rd_tests::support::cluster::Cluster;
use rd_wire::Client;

/// The error that a request is answered with.
fn refused(client: &mut Client, words: &[&[u8]]) -> String {
    let reply = client.cmd(words).expect("a reply");
    let error = reply
        .error()
        .unwrap_or_else(|| panic!("no error: {reply:?}"));
    error.to_owned()
}

#[track_caller]
fn names(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} in {error:?}");
    }
}

#[test]
fn keys_and_values() {
    let cluster = Cluster::started(&[("max_value_size", "2kB")]);
    let mut client = cluster.client();
    let key = vec![b'k'; KEY_BYTES_MAX + 1];
    let longest = &key[..KEY_BYTES_MAX];
    let too_long = ["a key of 2049 bytes", "2048 bytes", "no parameter"];
    names(&refused(&mut client, &[b"SET", &key, b"v"]), &too_long);
    names(&refused(&mut client, &[b"INCR", &key]), &too_long);
    names(
        &refused(&mut client, &[b"MSET", b"a", b"v", &key, b"v"]),
        &too_long,
    );
    let value = vec![b'v'; 2049];
    let too_large = ["a value of 2049 bytes", "max_value_size", "2048 bytes"];
    names(&refused(&mut client, &[b"SET", b"k", &value]), &too_large);
    names(
        &refused(&mut client, &[b"SETRANGE", b"k", b"2048", b"v"]),
        &too_large,
    );
    names(
        &refused(&mut client, &[b"SETBIT", b"k", b"16384", b"1"]),
        &too_large,
    );
    let set = client
        .cmd(&[b"SET", longest, &value[..2048]])
        .expect("a reply");
    assert!(set.is_ok(), "{set:?}");
    names(
        &refused(&mut client, &[b"APPEND", longest, b"v"]),
        &too_large,
    );
    names(
        &refused(&mut client, &[b"RENAME", longest, &key]),
        &too_long,
    );
    // There is no such key: nothing is to be done to it.
    for (words, changed) in [
        (&[&b"DEL"[..], &key, longest][..], 1),
        (&[b"UNLINK", &key], 0),
        (&[b"EXPIRE", &key, b"1"], 0),
        (&[b"PERSIST", &key], 0),
        (&[b"DBSIZE"], 0),
    ] {
        let reply = client.cmd(words).expect("a reply");
        assert_eq!(reply.as_int(), Some(changed), "{reply:?}");
    }
    let taken = client.cmd(&[b"GETDEL", &key]).expect("a reply");
    assert!(taken.is_null(), "{taken:?}");
}

/// In bytes, in one command and in several; and in pages.
#[test]
fn transactions() {
    let settings = [("max_transaction_size", "1MB"), ("shared_buffers", "16MB")];
    let cluster = Cluster::started(&settings);
    let mut client = cluster.client();
    let value = vec![b'v'; 400_000];
    let too_large = ["a transaction of", "max_transaction_size", "1048576 bytes"];
    let several: [&[u8]; 7] = [b"MSET", b"a", &value, b"b", &value, b"c", &value];
    names(&refused(&mut client, &several), &too_large);
    assert!(client.cmd(&[b"BEGIN"]).expect("a reply").is_ok());
    for key in [&b"a"[..], b"b"] {
        assert!(client.cmd(&[b"SET", key, &value]).expect("a reply").is_ok());
    }
    names(&refused(&mut client, &[b"SET", b"c", &value]), &too_large);
    // The transaction goes on without it.
    assert!(client.cmd(&[b"COMMIT"]).expect("a reply").is_ok());
    assert_eq!(client.cmd(&[b"DBSIZE"]).expect("a reply").as_int(), Some(2));
    assert!(client.cmd(&[b"MULTI"]).expect("a reply").is_ok());
    assert!(
        client
            .cmd(&[b"SET", b"d", &value])
            .expect("a reply")
            .as_bytes()
            .is_some()
    );
    let queued = ["queued commands", "max_transaction_size", "1048576 bytes"];
    let more: [&[u8]; 5] = [b"MSET", b"e", &value, b"f", &value];
    names(&refused(&mut client, &more), &queued);
    names(&refused(&mut client, &[b"EXEC"]), &["EXECABORT"]);

    // Too large only when it is carried out: all or none.
    client.call(&["FLUSHALL"]).expect("a reply");
    client.call(&["MULTI"]).expect("a reply");
    for key in ["a", "b", "c"] {
        let queued = client.call(&["SETBIT", key, "3199999", "1"]);
        assert_eq!(queued.expect("a reply").as_str(), Some("QUEUED"));
    }
    names(&refused(&mut client, &[b"EXEC"]), &too_large);
    assert_eq!(client.cmd(&[b"DBSIZE"]).expect("a reply").as_int(), Some(0));

    client
        .call(&["CONFIG", "SET", "max_transaction_size", "64MB"])
        .expect("a reply");
    client.call(&["FLUSHALL"]).expect("a reply");
    for number in 0..8 {
        let key = format!("large{number}");
        let set = client.cmd(&[b"SET", key.as_bytes(), &vec![b'v'; 1_000_000]]);
        assert!(set.expect("a reply").is_ok());
    }
    let too_many = vec![b'v'; 5 << 20];
    let pages = ["a transaction of", "a quarter of shared_buffers"];
    names(&refused(&mut client, &[b"SET", b"k", &too_many]), &pages);
}

#[test]
fn namespaces_and_connections() {
    let cluster = Cluster::started(&[("max_namespaces", "1"), ("max_connections", "5")]);
    let mut client = cluster.client();
    let made = client
        .call(&["NAMESPACE", "CREATE", "one"])
        .expect("a reply");
    assert!(made.is_ok(), "{made:?}");
    let error = refused(&mut client, &[b"NAMESPACE", b"CREATE", b"two"]);
    names(&error, &["max_namespaces", "1"]);
    let mut others: Vec<Client> = Vec::new();
    let error = loop {
        let mut other = cluster.client();
        match other.call(&["PING"]) {
            Ok(reply) if reply.error().is_some() => break format!("{reply:?}"),
            // It was turned away before it could ask.
            Err(_) => continue,
            Ok(_) => others.push(other),
        }
        assert!(others.len() < 5, "that is one too many");
    };
    names(&error, &["max number of clients", "max_connections"]);
}

/// A backend keeps so many snapshots; the limit is told with what holds them.
#[test]
fn snapshots_of_a_backend() {
    let cluster = Cluster::started(&[("backends", "1"), ("long_reads_max", "32")]);
    let mut open: Vec<Client> = Vec::new();
    let error = loop {
        let mut client = cluster.client();
        let reply = client.call(&["BEGIN"]).expect("a reply");
        match reply.error() {
            Some(error) => {
                let refusal = refused(&mut client, &[b"SET", b"a", b"0"]);
                names(&refusal, &["BEGIN was refused", "snapshots"]);
                break error.to_owned();
            }
            None => open.push(client),
        }
        assert!(open.len() <= SNAPSHOTS_PER_PROCESS, "that is one too many");
    };
    let limit = (SNAPSHOTS_PER_PROCESS - SNAPSHOTS_OF_A_TURN - 32).to_string();
    names(&error, &["snapshots", &limit, "backends"]);
    // Whoever keeps none is served as before.
    let mut other = cluster.client();
    names(&refused(&mut other, &[b"WATCH", b"key"]), &["snapshots"]);
    for words in [
        &["UNWATCH"][..],
        &["MSET", "a", "1", "b", "2"],
        &["MGET", "a", "b"],
        &["RANGE", "", ""],
        &["SCAN", "0"],
        &["MULTI"],
        &["GET", "a"],
        &["EXEC"],
    ] {
        let reply = other.call(words).expect("a reply");
        assert_eq!(reply.error(), None, "{words:?}");
    }
    let mut client = open.pop().expect("one of many");
    assert!(client.call(&["ROLLBACK"]).expect("a reply").is_ok());
    assert!(client.call(&["BEGIN"]).expect("a reply").is_ok());
}
