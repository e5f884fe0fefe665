//! Ordered access over sockets: ranges of any size in both directions against a map, what they mean
//! within transactions, and that a range is deleted as one.

use rd_tests::support::cluster::Cluster;
use rd_wire::{Client, Reply};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// Numbers that look like chance, the same in every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        // The step and shifts of Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// A key of any bytes, some of them with much in common.
    fn key(&mut self) -> Vec<u8> {
        let common: &[u8] = match self.below(3) {
            0 => b"",
            1 => b"\xff",
            _ => b"common\x00",
        };
        let number = self.below(20_000) as u16;
        [common, &number.to_be_bytes()].concat()
    }
}

fn int(reply: Reply) -> i64 {
    match reply {
        Reply::Int(number) => number,
        other => panic!("a number is expected: {other:?}"),
    }
}

fn bulks(reply: &Reply) -> Vec<Vec<u8>> {
    let items = reply.as_slice().expect("an array");
    let bytes = |item: &Reply| item.as_bytes().expect("a string").to_vec();
    items.iter().map(bytes).collect()
}

fn call(client: &mut Client, words: &[&[u8]]) -> Reply {
    client.cmd(words).expect("a reply")
}

/// Puts and deletes keys, in the server and in the map.
fn change(client: &mut Client, content: &mut Content, rng: &mut Rng) {
    for _ in 0..30 {
        let mut words: Vec<Vec<u8>> = vec![b"MSET".to_vec()];
        for _ in 0..500 {
            let key = rng.key();
            let bytes = match rng.below(400) {
                0 => 30_000,
                _ => rng.below(60),
            };
            let value = vec![rng.below(256) as u8; bytes as usize];
            words.extend([key.clone(), value.clone()]);
            content.insert(key, value);
        }
        let borrowed: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        assert!(call(client, &borrowed).is_ok());
        let mut words: Vec<Vec<u8>> = vec![b"DEL".to_vec()];
        words.extend((0..200).map(|_| rng.key()));
        words[1..].iter().for_each(|key| drop(content.remove(key)));
        let borrowed: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        int(call(client, &borrowed));
    }
}

/// A range and what it is to show.
fn check_range(client: &mut Client, content: &Content, rng: &mut Rng, whole: bool) {
    let mut bound = || match whole {
        true => Vec::new(),
        false => rng.key(),
    };
    let (start, end) = (bound(), bound());
    let is_in = |key: &[u8]| key >= &start[..] && (end.is_empty() || key < &end[..]);
    let mut expected: Vec<_> = content.iter().filter(|(key, _)| is_in(key)).collect();
    let count = int(call(client, &[b"COUNTRANGE", &start, &end]));
    assert_eq!(count, expected.len() as i64);
    let descends = rng.below(2) == 0;
    if descends {
        expected.reverse();
    }
    let limit = match rng.below(3) {
        0 => rng.below(100) as usize,
        _ => usize::MAX >> 1,
    };
    expected.truncate(limit);
    let limit = limit.to_string();
    let name = if descends { &b"REVRANGE"[..] } else { b"RANGE" };
    let mut words: Vec<&[u8]> = vec![name, &start, &end, b"LIMIT", limit.as_bytes()];
    let shape = rng.below(3);
    match shape {
        0 => words.push(b"KEYS"),
        1 => words.push(b"VALUES"),
        _ => {}
    }
    let expected: Vec<Vec<u8>> = expected
        .into_iter()
        .flat_map(|(key, value)| match shape {
            0 => vec![key.clone()],
            1 => vec![value.clone()],
            _ => vec![key.clone(), value.clone()],
        })
        .collect();
    let found = bulks(&call(client, &words));
    assert_eq!(found.len(), expected.len(), "{words:?}");
    assert!(found == expected, "{words:?}");
}

#[test]
fn ranges_are_those_of_a_map() {
    let mut cluster = Cluster::started(&[("backends", "2")]);
    let mut client = cluster.client();
    let (mut content, mut rng) = (Content::new(), Rng(0x9e37_79b9));
    for round in 0..3 {
        change(&mut client, &mut content, &mut rng);
        for number in 0..60 {
            check_range(&mut client, &content, &mut rng, number < 6);
        }
        for prefix in [&b"\xff"[..], b"common\x00", b"common\x00\x10", b"\xff\xff"] {
            let matching = content.keys().filter(|key| key.starts_with(prefix));
            let mut expected: Vec<Vec<u8>> = matching.cloned().collect();
            let found = bulks(&call(&mut client, &[b"RANGE", b"PREFIX", prefix, b"KEYS"]));
            assert!(found == expected, "{prefix:?}");
            expected.reverse();
            let words: [&[u8]; 4] = [b"REVRANGE", b"PREFIX", prefix, b"KEYS"];
            assert!(bulks(&call(&mut client, &words)) == expected, "{prefix:?}");
        }
        // What is deleted is gone, all of it, and stays so.
        let prefix = [b"common\x00", &[round * 16][..]].concat();
        let deleted = int(call(&mut client, &[b"DELRANGE", b"PREFIX", &prefix]));
        let before = content.len();
        content.retain(|key, _| !key.starts_with(&prefix));
        assert_eq!(deleted, (before - content.len()) as i64);
        assert!(deleted > 0);
        cluster.kill_all();
        cluster.start();
        client = cluster.client();
        check_range(&mut client, &content, &mut rng, true);
    }
}

/// A request of words parted by spaces.
fn ask(client: &mut Client, request: &str) -> String {
    let words: Vec<&str> = request.split(' ').collect();
    match client.call(&words).expect("a reply") {
        Reply::Simple(text) => text,
        Reply::Error(text) => format!("-{text}"),
        Reply::Int(number) => number.to_string(),
        reply => {
            let words = bulks(&reply).into_iter();
            let words = words.map(|word| String::from_utf8_lossy(&word).into_owned());
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

#[test]
fn a_serializable_transaction_conflicts_over_the_part_of_a_range_that_it_read() {
    let cluster = Cluster::started(&[("backends", "2")]);
    let (mut one, mut other) = (cluster.client(), cluster.client());
    // What is read, who else writes what, and whether these go together.
    for (read, shown, write, goes) in [
        ("REVRANGE a z KEYS", "m k c", "SET d 1", false),
        ("REVRANGE a z KEYS LIMIT 2", "m k", "SET l 1", false),
        ("REVRANGE a z KEYS LIMIT 2", "m k", "DEL k", false),
        ("REVRANGE a z KEYS LIMIT 2", "m k", "SET zz 1", true),
        ("REVRANGE a z KEYS LIMIT 1", "m", "SET b 1", true),
        ("REVRANGE a k", "c 1", "SET k 2", true),
        ("COUNTRANGE a l", "2", "SET d 1", false),
        ("COUNTRANGE PREFIX k", "1", "SET kk 1", false),
        ("COUNTRANGE PREFIX k", "1", "SET l 1", true),
        ("DELRANGE d l", "1", "SET dd 1", false),
        ("DELRANGE d l", "1", "SET m 2", true),
    ] {
        for isolation in ["SERIALIZABLE", "SNAPSHOT"] {
            ask(&mut one, "FLUSHDB");
            assert_eq!(ask(&mut one, "MSET c 1 k 1 m 1"), "OK");
            assert_eq!(ask(&mut one, &format!("BEGIN {isolation}")), "OK");
            assert_eq!(ask(&mut one, read), shown, "{read}");
            assert!(!ask(&mut other, write).starts_with('-'));
            if !read.starts_with("DEL") {
                assert_eq!(ask(&mut one, read), shown, "one moment");
            }
            assert_eq!(ask(&mut one, "SET own 1"), "OK");
            let done = ask(&mut one, "COMMIT");
            let is_right = match goes || isolation == "SNAPSHOT" {
                true => done == "OK",
                false => done.starts_with("-CONFLICT "),
            };
            assert!(is_right, "{isolation} {read}, {write}: {done}");
        }
    }
}

#[test]
fn a_range_is_deleted_as_one_beside_writers() {
    const KEYS: usize = 600;
    let cluster = Cluster::started(&[("backends", "2")]);
    let names: Vec<String> = (0..KEYS).map(|number| format!("p:{number:05}")).collect();
    let put: Vec<&str> = ["MSET"]
        .into_iter()
        .chain(names.iter().flat_map(|name| [&name[..], "value"]))
        .collect();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut client = cluster.client();
            while !over.load(Ordering::Relaxed) {
                assert!(client.call(&put).expect("a reply").is_ok());
            }
        });
        let reader = scope.spawn(|| {
            let mut client = cluster.client();
            while !over.load(Ordering::Relaxed) {
                let count = ask(&mut client, "COUNTRANGE PREFIX p:");
                assert!(count == "0" || count == KEYS.to_string(), "{count}");
            }
        });
        let mut client = cluster.client();
        let mut deleted = [0; 2];
        while deleted[1] < 40 && !writer.is_finished() && !reader.is_finished() {
            let count: usize = int(call(&mut client, &[b"DELRANGE", b"PREFIX", b"p:"])) as usize;
            assert!(count == 0 || count == KEYS, "{count}");
            deleted[usize::from(count > 0)] += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_range_that_is_too_large_is_not_deleted_at_all() {
    let cluster = Cluster::started(&[("max_transaction_size", "1MB"), ("shared_buffers", "16MB")]);
    let mut client = cluster.client();
    let value = vec![b'v'; 1500];
    for first in (0..9000).step_by(100) {
        let names: Vec<String> = (first..first + 100).map(|n| format!("k{n:05}")).collect();
        let pairs = names.iter().flat_map(|name| [name.as_bytes(), &value]);
        let words: Vec<&[u8]> = [&b"MSET"[..]].into_iter().chain(pairs).collect();
        assert!(call(&mut client, &words).is_ok());
    }
    let refused = ask(&mut client, "DELRANGE k l");
    let names_both = |text: &str, parameter: &str| {
        text.starts_with("-ERR ")
            && text.contains("bytes is larger than")
            && text.contains(parameter)
    };
    assert!(
        names_both(&refused, "max_transaction_size, 1048576"),
        "{refused}"
    );
    // Fewer keys, on more pages than a commit may have.
    let refused = ask(&mut client, "DELRANGE k00000 k05000");
    assert!(
        names_both(&refused, "a quarter of shared_buffers"),
        "{refused}"
    );
    assert_eq!(ask(&mut client, "COUNTRANGE k l"), "9000");
    assert_eq!(ask(&mut client, "DELRANGE k00000 k01000"), "1000");
    assert_eq!(ask(&mut client, "BEGIN"), "OK");
    assert!(names_both(
        &ask(&mut client, "DELRANGE k l"),
        "max_transaction_size"
    ));
    assert_eq!(ask(&mut client, "DELRANGE k08000 l"), "1000");
    assert_eq!(ask(&mut client, "COMMIT"), "OK");
    assert_eq!(ask(&mut client, "COUNTRANGE k l"), "7000");
}
