//! SCAN beside changes, from several connections and over restarts; KEYS and RANDOMKEY on many
//! keys.

#![allow(clippy::unwrap_used)]

use rd_tests::support::cluster::Cluster;
use rd_wire::Client;
use std::collections::{BTreeMap, BTreeSet};

/// One step of a SCAN: the next cursor, and the keys.
fn step(client: &mut Client, cursor: &str, words: &[&str]) -> (String, Vec<String>) {
    let mut request = vec!["SCAN", cursor];
    request.extend_from_slice(words);
    let reply = client.call(&request).unwrap();
    let parts = reply.as_slice();
    let [next, keys] = parts.unwrap_or_else(|| panic!("{reply:?}")) else {
        panic!("{reply:?}")
    };
    let text = |reply: &rd_wire::Reply| reply.as_str().unwrap().to_owned();
    (
        text(next),
        keys.as_slice().unwrap().iter().map(text).collect(),
    )
}

fn set_many(client: &mut Client, keys: impl Iterator<Item = String>) {
    let mut count = 0;
    for key in keys {
        client.send(&["SET", &key, "value"]);
        count += 1;
    }
    client.flush().unwrap();
    assert!(
        client
            .receive_many(count)
            .unwrap()
            .iter()
            .all(|r| r.is_ok())
    );
}

#[test]
fn what_stays_is_returned_once_whatever_comes_and_goes() {
    let cluster = Cluster::started(&[]);
    // On different backends, as connections are dealt out in turn.
    let mut clients: Vec<Client> = (0..4).map(|_| cluster.client()).collect();
    set_many(
        &mut clients[0],
        (0..3000).map(|index| format!("stays:{index:05}")),
    );
    set_many(
        &mut clients[0],
        (0..3000).map(|index| format!("goes:{index:05}")),
    );
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut cursor, mut turn) = ("0".to_owned(), 0usize);
    loop {
        let count = ["COUNT", ["1", "10", "100", "7"][turn % 4]];
        let (next, keys) = step(&mut clients[turn % 4], &cursor, &count);
        for key in keys {
            *seen.entry(key).or_default() += 1;
        }
        // Between the steps others are removed, added on both sides, and the same written again.
        let client = &mut clients[(turn + 1) % 4];
        let words = [
            format!("goes:{:05}", turn * 7 % 3000),
            format!("new:{turn:05}"),
        ];
        client.call(&["DEL", &words[0]]).unwrap();
        client.call(&["SET", &words[1], "value"]).unwrap();
        let again = format!("stays:{:05}", turn * 31 % 3000);
        client.call(&["SET", &again, "another"]).unwrap();
        cursor = next;
        turn += 1;
        if cursor == "0" {
            break;
        }
    }
    for index in 0..3000 {
        let key = format!("stays:{index:05}");
        assert_eq!(seen.get(&key), Some(&1), "{key}");
    }
    assert!(seen.values().all(|times| *times == 1));
}

#[test]
fn a_pattern_with_a_prefix_bounds_the_walk() {
    let cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    for group in ["a", "b", "c"] {
        set_many(
            &mut client,
            (0..500).map(|index| format!("{group}:{index:03}")),
        );
    }
    let (mut cursor, mut steps, mut found) = ("0".to_owned(), 0, BTreeSet::new());
    loop {
        let words = ["MATCH", "b:*", "COUNT", "100"];
        let (next, keys) = step(&mut client, &cursor, &words);
        found.extend(keys);
        steps += 1;
        cursor = next;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(found.len(), 500);
    assert!(steps <= 6, "{steps} steps");
    let keys = client.call(&["KEYS", "?:00[0-4]"]).unwrap();
    assert_eq!(keys.as_slice().unwrap().len(), 15);
    let random: BTreeSet<String> = (0..200)
        .map(|_| {
            client
                .call(&["RANDOMKEY"])
                .unwrap()
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    assert!(random.len() > 50, "{} different keys of 1500", random.len());
}

#[test]
fn a_cursor_that_is_not_known_is_refused() {
    let mut cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    set_many(&mut client, (0..100).map(|index| format!("key:{index}")));
    let (first, keys) = step(&mut client, "0", &[]);
    assert_eq!(keys.len(), 10);
    // The reply to the second step was lost: it is asked for again.
    let (_, lost) = step(&mut client, &first, &[]);
    let (third, again) = step(&mut client, &first, &[]);
    assert_eq!(lost, again);
    assert!(third.parse::<u64>().unwrap() < 1 << 53);
    // Too many scans that are never ended drop the oldest, and say so.
    let mut newest = String::new();
    for _ in 0..600 {
        newest = step(&mut client, "0", &[]).0;
    }
    let is_refused = |client: &mut Client, cursor: &str| {
        let reply = client.call(&["SCAN", cursor]).unwrap();
        reply
            .error()
            .is_some_and(|text| text.contains("is not known"))
    };
    assert!(is_refused(&mut client, &third));
    assert!(is_refused(&mut client, "12345"));
    assert!(!is_refused(&mut client, &newest));
    let (kept, _) = step(&mut client, "0", &[]);
    cluster.kill_all();
    cluster.start();
    let mut client = cluster.client();
    assert!(is_refused(&mut client, &kept));
    assert_eq!(step(&mut client, "0", &["COUNT", "1000"]).1.len(), 100);
}

#[test]
fn keys_of_any_number_are_one_reply() {
    let cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    // More than is kept while they are counted.
    let name = |index: u32| format!("{}:{index:06}", "k".repeat(60));
    set_many(&mut client, (0..40_000).map(name));
    let keys = client.call(&["KEYS", "*"]).unwrap();
    let keys = keys.as_slice().unwrap();
    assert_eq!(keys.len(), 40_000);
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(key.as_str(), Some(&name(index as u32)[..]));
    }
    assert_eq!(
        client
            .call(&["KEYS", "*:00001?"])
            .unwrap()
            .as_slice()
            .unwrap()
            .len(),
        10
    );
}
