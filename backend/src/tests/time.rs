//! What goes by the clock: how long a command waits, and how many keys are removed in a second.

use super::{Alone, SECOND_NS};
use crate::rig::{Client, Rig};
use rd_base::counters::Counter;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MS_NS: u64 = SECOND_NS / 1000;

impl Alone {
    /// The clock goes on, and with it the server's next turn.
    fn after(&mut self, ns: u64) {
        self.time.fetch_add(ns, Ordering::SeqCst);
        self.server.now_ns = self.server.store.clock.monotonic_ns();
    }
}

#[test]
fn waitaof_waits_no_longer_than_it_is_told_to() {
    let mut alone = Alone::under(&[("expire_rate", "0")]);
    alone.ask(&[b"CLIENT", b"SYNCHRONOUS-COMMIT", b"OFF"]);
    let not_yet = b"*2\r\n:0\r\n:0\r\n";
    let Alone {
        rig,
        server,
        client,
        ..
    } = &mut alone;
    client.send(rig, server, &[b"SET", b"key", b"value"]);
    assert_eq!(client.received(server), b"+OK\r\n");
    // The disk stands still.
    client.send(rig, server, &[b"WAITAOF", b"1", b"0", b"100"]);
    assert!(client.go_on(server), "it waits");
    let at_ns = server.wakes_at_ns(true);
    assert_eq!(at_ns, Some(server.now_ns + 100 * MS_NS));
    alone.after(99 * MS_NS);
    assert!(alone.client.go_on(&mut alone.server), "it waits");
    assert!(!alone.server.has_held_due());
    alone.after(MS_NS);
    assert!(alone.server.has_held_due());
    assert!(!alone.client.go_on(&mut alone.server), "its time is over");
    assert_eq!(alone.client.received(&alone.server), not_yet);
    // Without a limit it waits for as long as it takes.
    let Alone {
        rig,
        server,
        client,
        ..
    } = &mut alone;
    client.send(rig, server, &[b"WAITAOF", b"1", b"0", b"0"]);
    alone.after(3600 * SECOND_NS);
    assert!(alone.client.go_on(&mut alone.server), "it waits");
    alone.rig.flush();
    assert!(!alone.client.go_on(&mut alone.server));
    let received = alone.client.received(&alone.server);
    assert_eq!(received, b"*2\r\n:1\r\n:0\r\n");
}

/// Also where that is not a whole number of keys for each turn of the remover.
#[test]
fn keys_are_removed_at_the_rate_that_is_set() {
    const SECONDS: u64 = 10;
    for rate in [1, 7, 60, 1000] {
        let rate_text = rate.to_string();
        let settings = [
            ("expire_rate", &rate_text[..]),
            ("expire_clock_settle", "0"),
        ];
        let mut alone = Alone::under(&settings);
        for number in 0..rate * (SECONDS + 2) {
            let key = format!("key:{number:06}");
            alone.ask(&[b"SET", key.as_bytes(), b"value", b"PX", b"1"]);
        }
        alone.after(SECOND_NS);
        alone.server.remove_ended();
        let removed = |alone: &Alone| {
            let stats = &alone.server.store.shared.stats;
            stats.get(Counter::ExpiredKeys)
        };
        let before = removed(&alone);
        for _ in 0..SECONDS * 50 {
            alone.after(20 * MS_NS);
            alone.server.remove_ended();
            alone.rig.flush();
        }
        let count = removed(&alone) - before;
        let expected = rate * SECONDS;
        assert!(
            count <= expected + 1 && count + rate.div_ceil(50) >= expected,
            "{count} keys in {SECONDS} s at a rate of {rate}"
        );
    }
}

#[test]
fn a_clock_that_may_be_wrong_deletes_no_watched_key() {
    let (rig, time) = Rig::by_hand(&[], 1_700_000_000 * SECOND_NS);
    let mut server = rig.server(0);
    let mut client = Client::new(&mut server);
    let mut ask = |words: &[&[u8]]| {
        client.send(&rig, &mut server, words);
        rig.flush();
        String::from_utf8_lossy(&client.received(&server)).into_owned()
    };
    assert_eq!(ask(&[b"SET", b"k", b"v", b"EX", b"1"]), "+OK\r\n");
    let written = rig.insert_lsn();
    time.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"WATCH", b"k"]), "+OK\r\n");
    assert_eq!(ask(&[b"MULTI"]), "+OK\r\n");
    assert_eq!(ask(&[b"EXEC"]), "*0\r\n", "nothing has come of it since");
    assert_eq!(ask(&[b"WATCH", b"k"]), "+OK\r\n");
    assert_eq!(rig.insert_lsn(), written);

    time.fetch_sub(2 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(
        ask(&[b"GET", b"k"]),
        "$1\r\nv\r\n",
        "the clock is right again"
    );
    assert_eq!(ask(&[b"MULTI"]), "+OK\r\n");
    assert_eq!(ask(&[b"EXEC"]), "*-1\r\n", "it was not there, and is");

    // After expire_clock_settle it goes for good.
    time.fetch_add(62 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"WATCH", b"k"]), "+OK\r\n");
    assert!(rig.insert_lsn() > written);
    assert_eq!(ask(&[b"MULTI"]), "+OK\r\n");
    assert_eq!(ask(&[b"EXEC"]), "*0\r\n");
}

/// A time of the wall clock that has passed, by a clock that may be wrong, only hides the key.
#[test]
fn a_clock_that_may_be_wrong_deletes_no_key_that_is_to_end_at_a_time() {
    const DAY: u64 = 86_400;
    let mut alone = Alone::new();
    let time = Arc::clone(&alone.time);
    let seconds = (alone.server.wall_us() / 1_000_000 + DAY).to_string();
    let (at, at_ms) = (seconds.as_bytes(), format!("{seconds}000"));
    let at_ms = at_ms.as_bytes();
    let mut ask = |words: &[&[u8]]| alone.ask(words);
    for key in [b"a", b"b", b"c", b"d", b"1"] {
        assert_eq!(ask(&[b"SET", key, b"old"]), b"+OK\r\n");
    }
    let dump = ask(&[b"DUMP", b"a"]);
    let start = dump.iter().position(|byte| *byte == b'\n').expect("a bulk") + 1;
    let payload = &dump[start..dump.len() - 2];
    // Two days ahead; and this server has not looked at its clock for long enough to trust it.
    time.fetch_add(2 * DAY * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"SET", b"a", b"old", b"EXAT", at]), b"+OK\r\n");
    assert_eq!(ask(&[b"PEXPIREAT", b"b", at_ms]), b":1\r\n");
    let got = ask(&[b"GETEX", b"c", b"PXAT", at_ms]);
    assert_eq!(got, b"$3\r\nold\r\n");
    let restored = ask(&[b"RESTORE", b"d", at_ms, payload, b"REPLACE", b"ABSTTL"]);
    assert_eq!(restored, b"+OK\r\n");
    // That is past by any clock.
    assert_eq!(ask(&[b"EXPIREAT", b"1", b"-1"]), b":1\r\n");
    for key in [b"a", b"b", b"c", b"d", b"1"] {
        assert_eq!(ask(&[b"GET", key]), b"$-1\r\n");
    }
    time.fetch_sub(2 * DAY * SECOND_NS, Ordering::SeqCst);
    for key in [b"a", b"b", b"c", b"d"] {
        assert_eq!(ask(&[b"GET", key]), b"$3\r\nold\r\n", "{key:?}");
        assert_eq!(ask(&[b"TTL", key]), b":86400\r\n");
    }
    assert_eq!(ask(&[b"GET", b"1"]), b"$-1\r\n");
}

/// Time that a command waits ends no key that was to be there for a while: the clock may have been set.
#[test]
fn a_key_that_ends_while_it_is_written_is_hidden_and_not_deleted() {
    let (rig, time) = Rig::in_haste(&[], 1_700_000_000 * SECOND_NS);
    let mut server = rig.server(0);
    let mut client = Client::new(&mut server);
    let mut ask = |line: &[u8]| {
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        client.send(&rig, &mut server, &words);
        rig.flush();
        client.received(&server)
    };
    for write in [
        "SET k v PX 1",
        "SET k v GET PX 1",
        "PSETEX k 1 v",
        "PEXPIRE k 1",
        "GETEX k PX 1",
    ] {
        assert_eq!(ask(b"SET k v"), b"+OK\r\n");
        let began_ns = time.load(Ordering::SeqCst);
        assert!(!ask(write.as_bytes()).starts_with(b"-"), "{write}");
        assert_eq!(ask(b"GET k"), b"$-1\r\n", "{write}: it has ended");
        assert_eq!(ask(b"DBSIZE"), b":1\r\n", "{write}: nobody has removed it");
        time.store(began_ns - 20 * MS_NS, Ordering::SeqCst);
        let got = ask(b"GET k");
        assert_eq!(got, b"$1\r\nv\r\n", "{write}: the clock is set back");
    }
}

/// A reply about several keys is of one moment, also if it takes several turns.
#[test]
fn no_key_ends_between_the_pieces_of_a_reply() {
    const KEYS: usize = 3000;
    let mut alone = Alone::new();
    let keys: Vec<String> = (0..KEYS).map(|number| format!("key{number}")).collect();
    let mut words: Vec<&[u8]> = vec![b"MULTI"];
    assert_eq!(alone.ask(&words), b"+OK\r\n");
    let end = (alone.server.wall_us() / 1000 + 500).to_string();
    for key in &keys {
        let queued = alone.ask(&[b"SET", key.as_bytes(), b"v", b"PXAT", end.as_bytes()]);
        assert_eq!(queued, b"+QUEUED\r\n");
    }
    assert!(alone.ask(&[b"EXEC"]).starts_with(b"*3000"));
    words = keys.iter().map(|key| key.as_bytes()).collect();
    for (command, reply) in [
        (
            &b"MGET"[..],
            format!("*{KEYS}\r\n{}", "$1\r\nv\r\n".repeat(KEYS)),
        ),
        (b"EXISTS", format!(":{KEYS}\r\n")),
    ] {
        let asked = [&[command], &words[..]].concat();
        alone.client.send(&alone.rig, &mut alone.server, &asked);
        alone.after(SECOND_NS);
        assert!(
            alone.client.go_on(&mut alone.server),
            "{command:?} takes several turns"
        );
        while alone.client.go_on(&mut alone.server) {}
        let received = alone.client.received(&alone.server);
        assert_eq!(String::from_utf8_lossy(&received), reply);
        alone.time.fetch_sub(SECOND_NS, Ordering::SeqCst);
    }
}

/// A transaction sees the keys that were there when it began. What others have seen end since does not come
/// back by it, whether or not it was removed meanwhile.
#[test]
fn a_key_that_ends_while_a_transaction_is_open_is_not_brought_back() {
    let mut alone = Alone::new();
    let mut other = Client::new(&mut alone.server);
    let conflict = "-CONFLICT key \"k\" was changed";
    for (writes, begin) in [
        ("PERSIST k", "BEGIN"),
        ("EXPIRE k 100", "BEGIN"),
        ("GETEX k EX 100", "BEGIN"),
        ("SET k new XX", "BEGIN"),
        ("SET other v", "BEGIN SERIALIZABLE"),
    ] {
        for ends in [false, true] {
            let mut ask = |line: &str| {
                let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
                String::from_utf8_lossy(&alone.ask(&words)).into_owned()
            };
            assert_eq!(ask("SET k v PX 1000"), "+OK\r\n");
            assert_eq!(ask(begin), "+OK\r\n");
            assert_eq!(ask("GET k"), "$1\r\nv\r\n");
            alone.after(if ends { 2 * SECOND_NS } else { SECOND_NS / 2 });
            let Alone { rig, server, .. } = &mut alone;
            let seen = other.call(rig, server, &[b"GET", b"k"]);
            assert_eq!(seen, if ends { "$-1\r\n" } else { "$1\r\nv\r\n" });
            let mut ask = |line: &str| {
                let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
                String::from_utf8_lossy(&alone.ask(&words)).into_owned()
            };
            assert!(!ask(writes).starts_with('-'), "{writes}");
            let committed = ask("COMMIT");
            let expected = if ends { conflict } else { "+OK\r\n" };
            assert!(committed.starts_with(expected), "{writes}: {committed}");
            let Alone { rig, server, .. } = &mut alone;
            let seen = other.call(rig, server, &[b"EXISTS", b"k"]);
            assert_eq!(seen, if ends { ":0\r\n" } else { ":1\r\n" }, "{writes}");
        }
    }
}

/// The commands of an EXEC are of one moment. Else a counter that ends between two of them would begin
/// anew, and never end.
#[test]
fn time_stands_still_within_exec() {
    let (rig, time) = Rig::in_haste(&[], 1_700_000_000 * SECOND_NS);
    let mut server = rig.server(0);
    let mut client = Client::new(&mut server);
    let mut ask = |line: &str| {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        client.send(&rig, &mut server, &words);
        rig.flush();
        String::from_utf8_lossy(&client.received(&server)).into_owned()
    };
    let mut exec = |lines: &[&str], end_ms: &mut dyn FnMut() -> Option<u64>| {
        assert_eq!(ask("FLUSHDB"), "+OK\r\n");
        let end_ms = end_ms();
        if let Some(end_ms) = end_ms {
            assert_eq!(ask(&format!("SET k 5 PXAT {end_ms}")), "+OK\r\n");
        }
        assert_eq!(ask("MULTI"), "+OK\r\n");
        for line in lines {
            assert_eq!(ask(line), "+QUEUED\r\n");
        }
        ask("EXEC")
    };
    // For each moment at which the key could end while EXEC looks at the clock.
    let mut replies = std::collections::BTreeSet::new();
    for after_ms in 0..80 {
        let mut end_ms = 0;
        let reply = exec(&["INCR k", "INCR k", "PEXPIRETIME k"], &mut || {
            end_ms = time.load(Ordering::SeqCst) / MS_NS + after_ms;
            Some(end_ms)
        });
        let reply = reply.replace(&end_ms.to_string(), "end");
        replies.insert(reply);
    }
    let ended = "*3\r\n:1\r\n:2\r\n:-1\r\n".to_owned();
    let there = "*3\r\n:6\r\n:7\r\n:end\r\n".to_owned();
    assert_eq!(replies, [ended, there].into());
    let none = &mut || None;
    let own = exec(&["SET k v PX 1", "GET k", "MGET k", "KEYS *"], none);
    assert_eq!(
        own,
        "*4\r\n+OK\r\n$1\r\nv\r\n*1\r\n$1\r\nv\r\n*1\r\n$1\r\nk\r\n"
    );
    // What is to end now has ended.
    let gone = exec(&["SET k v", "PEXPIRE k 0", "GET k"], none);
    assert_eq!(gone, "*3\r\n+OK\r\n:1\r\n$-1\r\n");
}
