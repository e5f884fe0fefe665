//! Keys that end: invisible at once, removed in the background at a bounded rate, and as they were
//! after a crash.

#![allow(clippy::unwrap_used)]

use rd_tests::support::cluster::Cluster;
use rd_tests::support::wait_for;
use rd_wire::Client;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn int(client: &mut Client, words: &[&str]) -> i64 {
    let reply = client.call(words).unwrap();
    reply
        .as_int()
        .unwrap_or_else(|| panic!("{words:?}: {reply:?}"))
}

/// Sets `count` keys, with these words behind the value, by pipeline.
fn set_many(client: &mut Client, name: &str, count: usize, words: &[&str]) {
    for index in 0..count {
        let key = format!("{name}:{index:06}");
        let mut request = vec!["SET", &key, "value"];
        request.extend_from_slice(words);
        client.send(&request);
    }
    client.flush().unwrap();
    let replies = client.receive_many(count).unwrap();
    assert!(replies.iter().all(|reply| reply.is_ok()));
}

fn expired(cluster: &Cluster) -> u64 {
    cluster.info("stats", "expired_keys").parse().unwrap()
}

/// Waits until it is later than what PEXPIRETIME has said of a key: milliseconds since 1970, or that
/// the key has ended by now.
fn wait_until_wall_ms(end: i64) {
    assert_ne!(end, -1, "the key was to end");
    wait_for("the time to come", || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        (i64::try_from(since.as_millis()).ok()? > end).then_some(())
    });
}

#[test]
fn what_has_ended_is_invisible_at_once_and_removed_soon() {
    let mut cluster = Cluster::started(&[("expire_clock_settle", "0"), ("backends", "2")]);
    let mut client = cluster.client();
    set_many(&mut client, "stays", 300, &[]);
    set_many(&mut client, "later", 300, &["PXAT", "33177117420623"]);
    // Given more time before it ends.
    set_many(&mut client, "saved", 10, &["EX", "60"]);
    for index in 0..10 {
        let key = format!("saved:{index:06}");
        assert_eq!(int(&mut client, &["PERSIST", &key]), 1);
    }
    set_many(&mut client, "goes", 3000, &["PX", "700"]);
    let large = "x".repeat(50_000);
    let set = client.call(&["SET", "large", &large, "PX", "700"]);
    assert!(set.unwrap().is_ok());
    let end = int(&mut client, &["PEXPIRETIME", "large"]);
    wait_until_wall_ms(end);
    // Not one is seen, removed or not.
    let keys = client.call(&["KEYS", "goes:*"]).unwrap();
    assert_eq!(keys.as_slice().unwrap().len(), 0);
    assert!(client.call(&["GET", "large"]).unwrap().is_null());
    assert_eq!(int(&mut client, &["EXISTS", "goes:000000", "large"]), 0);
    wait_for("the keys to be removed", || {
        (int(&mut client, &["DBSIZE"]) == 610).then_some(())
    });
    wait_for("the count", || (expired(&cluster) == 3001).then_some(()));
    // It is in the log: the same after a crash and after an orderly stop.
    cluster.kill_all();
    cluster.start();
    let mut client = cluster.client();
    assert_eq!(int(&mut client, &["DBSIZE"]), 610);
    assert_eq!(
        int(&mut client, &["PEXPIRETIME", "later:000007"]),
        33_177_117_420_623
    );
    assert_eq!(int(&mut client, &["TTL", "stays:000007"]), -1);
    // What ends after a restart is found as well.
    assert_eq!(int(&mut client, &["PEXPIRE", "stays:000007", "1"]), 1);
    wait_for("one more", || {
        (int(&mut client, &["DBSIZE"]) == 609).then_some(())
    });
}

#[test]
fn what_ended_while_the_server_was_down_is_removed() {
    let mut cluster = Cluster::started(&[("expire_clock_settle", "0")]);
    let mut client = cluster.client();
    set_many(&mut client, "goes", 500, &["PX", "300"]);
    let end = int(&mut client, &["PEXPIRETIME", "goes:000499"]);
    set_many(&mut client, "stays", 5, &[]);
    cluster.kill_all();
    wait_until_wall_ms(end);
    cluster.start();
    let mut client = cluster.client();
    assert!(client.call(&["GET", "goes:000001"]).unwrap().is_null());
    wait_for("the keys to be removed", || {
        (int(&mut client, &["DBSIZE"]) == 5).then_some(())
    });
}

#[test]
fn removing_keeps_to_its_rate_and_waits_for_the_clock() {
    let cluster = Cluster::started(&[("expire_clock_settle", "1h"), ("expire_rate", "100")]);
    let mut client = cluster.client();
    set_many(&mut client, "goes", 300, &["PX", "1"]);
    assert!(client.call(&["GET", "goes:000001"]).unwrap().is_null());
    // The clock has not been seen for an hour. Long enough for a remover that would not care.
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        assert_eq!(int(&mut client, &["DBSIZE"]), 300);
    }
    let begin = Instant::now();
    let change = ["CONFIG", "SET", "expire_clock_settle", "0"];
    assert!(client.call(&change).unwrap().is_ok());
    wait_for("the last", || (expired(&cluster) == 300).then_some(()));
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(2), "300 keys in {took:?}");
}

#[test]
fn keys_of_every_database_go_wherever_it_is_swapped_to() {
    let cluster = Cluster::started(&[("expire_clock_settle", "0")]);
    let mut client = cluster.client();
    assert!(client.call(&["SELECT", "3"]).unwrap().is_ok());
    set_many(&mut client, "goes", 200, &["PX", "200"]);
    set_many(&mut client, "stays", 7, &[]);
    assert!(client.call(&["SWAPDB", "3", "5"]).unwrap().is_ok());
    assert_eq!(int(&mut client, &["DBSIZE"]), 0);
    assert!(client.call(&["SELECT", "5"]).unwrap().is_ok());
    wait_for("the keys to be removed", || {
        (int(&mut client, &["DBSIZE"]) == 7).then_some(())
    });
    wait_for("the count", || (expired(&cluster) == 200).then_some(()));
}
