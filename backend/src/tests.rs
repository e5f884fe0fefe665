//! What clients of two backends see of each other before the log is flushed, and of commands that
//! take several turns.

mod latches;
mod time;
mod waits;

use crate::connection::Hold;
use crate::rig::{Client, Rig};
use crate::server::Server;
use crate::transaction::AgeLimits;
use crate::turn;
use rd_base::Config;
use rd_engine::{EngineError, NamespaceId};
use rd_store::namespaces::PAST;
use rd_sys::watchdog::Watchdog;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Two backends with a client each.
struct Pair {
    rig: Rig,
    writer: (Server, Client),
    other: (Server, Client),
}

impl Pair {
    fn new(settings: &[(&str, &str)]) -> Pair {
        let rig = Rig::new(settings);
        let connected = |number| {
            let mut server = rig.server(number);
            let client = Client::new(&mut server);
            (server, client)
        };
        let (writer, other) = (connected(0), connected(1));
        Pair { rig, writer, other }
    }

    /// A command of the one whose writes the other sees; its reply is left unread.
    fn write(&mut self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let (server, client) = &mut self.writer;
        client.send(&self.rig, server, &words);
    }

    /// A command of the other, and what may be read then.
    fn ask(&mut self, words: &[&str]) -> String {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let (server, client) = &mut self.other;
        client.call(&self.rig, server, &words)
    }

    /// What the other may read now.
    fn received(&mut self) -> String {
        let (server, client) = &mut self.other;
        String::from_utf8_lossy(&client.received(server)).into_owned()
    }
}

const SECOND_NS: u64 = 1_000_000_000;

/// A client by itself, whose writes are durable at once, by a clock that stands.
struct Alone {
    rig: Rig,
    server: Server,
    client: Client,
    /// What the clock shows.
    time: Arc<AtomicU64>,
}

impl Alone {
    fn new() -> Alone {
        Alone::under(&[])
    }

    /// Under these settings.
    fn under(settings: &[(&str, &str)]) -> Alone {
        let (rig, time) = Rig::by_hand(settings, 1_700_000_000 * SECOND_NS);
        let mut server = rig.server(0);
        let client = Client::new(&mut server);
        Alone {
            rig,
            server,
            client,
            time,
        }
    }

    fn ask(&mut self, words: &[&[u8]]) -> Vec<u8> {
        self.client.send(&self.rig, &mut self.server, words);
        self.rig.flush();
        self.client.received(&self.server)
    }
}

#[test]
fn a_long_reply_is_made_as_it_is_read() {
    const VALUE_BYTES: usize = 1 << 20;
    const VALUES: usize = 200;
    let mut pair = Pair::new(&[]);
    let value = "v".repeat(VALUE_BYTES);
    pair.write(&["SET", "key", &value]);
    pair.rig.flush();
    let mut words = vec!["MGET", "nothing"];
    words.extend(vec!["key"; VALUES]);
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let (server, client) = &mut pair.other;
    client.send(&pair.rig, server, &words);
    let mut most = 0;
    for _ in 0..50 {
        most = most.max(client.connection.heap_bytes());
        assert!(client.go_on(server), "nobody has read");
    }
    assert!(
        most < 8 * VALUE_BYTES,
        "{most} bytes for a reply that is not read"
    );
    let head = format!("*{}\r\n$-1\r\n", VALUES + 1);
    let mut received = client.received(server);
    assert!(received.starts_with(head.as_bytes()));
    let mut bytes = 0;
    while client.go_on(server) {
        bytes += received.len();
        received = client.received(server);
    }
    bytes += received.len() + client.received(server).len();
    let each = format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + 2;
    assert_eq!(bytes, head.len() + VALUES * each);
}

#[test]
fn the_length_of_a_range_waits_for_what_hides_keys() {
    let mut pair = Pair::new(&[]);
    let keys: Vec<String> = (0..600).map(|number| format!("key:{number:03}")).collect();
    let with = |command, keys: &[String]| {
        let words = keys.iter().map(String::as_str);
        [command]
            .into_iter()
            .chain(words)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    for key in &keys {
        pair.write(&["SET", key, "value"]);
    }
    pair.rig.flush();
    // It has written, so it sees what is not durable.
    assert_eq!(pair.ask(&["SET", "own", "value"]), "");
    let delete = with("DEL", &keys[520..]);
    pair.write(&delete.iter().map(String::as_str).collect::<Vec<_>>());
    let deleted = pair.rig.insert_lsn();
    assert_eq!(pair.ask(&["RANGE", "key:", ""]), "");
    let (_, client) = &pair.other;
    assert_eq!(client.connection.output.waits_until(), Some(deleted));
    pair.rig.flush();
    assert!(
        pair.received()
            .starts_with("+OK\r\n*1042\r\n$7\r\nkey:000\r\n")
    );
}

#[test]
fn keys_that_are_counted_are_of_one_moment() {
    let mut pair = Pair::new(&[]);
    pair.write(&["SET", "first", "value"]);
    pair.rig.flush();
    // More than a turn's worth, so that there is time in between.
    let mut words = vec!["EXISTS", "first"];
    words.extend(vec!["second"; 3000]);
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let (server, client) = &mut pair.other;
    client.send(&pair.rig, server, &words);
    pair.write(&["MSET", "second", "value", "third", "value"]);
    pair.rig.flush();
    let (server, client) = &mut pair.other;
    while client.go_on(server) {}
    assert_eq!(pair.received(), ":1\r\n");
    assert_eq!(
        pair.ask(&["EXISTS", "first", "second", "second", "none"]),
        ":3\r\n"
    );
}

#[test]
fn an_error_behind_the_first_part_of_a_reply_ends_the_connection() {
    let mut pair = Pair::new(&[]);
    pair.write(&["SET", "key", "value"]);
    pair.rig.flush();
    let mut words = vec!["MGET"];
    words.extend(vec!["key"; 3000]);
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let (server, client) = &mut pair.other;
    client.send(&pair.rig, server, &words);
    // After some of these nobody knows any more what it reads.
    let (server, client) = &mut pair.writer;
    client.received(server);
    for _ in 0..20 {
        pair.write(&["SET", "other", "value"]);
        pair.write(&["FLUSHDB"]);
        pair.rig.flush();
        let (server, client) = &mut pair.writer;
        assert_eq!(client.received(server), b"+OK\r\n+OK\r\n");
    }
    let (server, client) = &mut pair.other;
    while client.go_on(server) {}
    assert!(
        matches!(client.connection.hold, Hold::Closing),
        "no further reply can be told apart"
    );
    let received = pair.received();
    let error = "-ERR the namespace was emptied or replaced since the snapshot was taken\r\n";
    assert!(received.starts_with("*3000\r\n$5\r\nvalue\r\n") && received.ends_with(error));
}

#[test]
fn a_connection_says_for_itself_whether_its_replies_wait_for_the_disk() {
    let mut pair = Pair::new(&[]);
    let set = |pair: &mut Pair, setting| pair.ask(&["CLIENT", "SYNCHRONOUS-COMMIT", setting]);
    assert_eq!(pair.ask(&["SET", "key", "1"]), "", "nothing is durable");
    pair.rig.flush();
    assert_eq!(pair.received(), "+OK\r\n");
    assert_eq!(set(&mut pair, "off"), "+OK\r\n");
    assert_eq!(pair.ask(&["SET", "key", "2"]), "+OK\r\n");
    assert_eq!(pair.ask(&["GET", "key"]), "$1\r\n2\r\n", "its own writes");
    pair.rig.flush();
    for setting in ["ON", "Default"] {
        assert_eq!(set(&mut pair, setting), "+OK\r\n");
        assert_eq!(pair.ask(&["SET", "key", "3"]), "");
        pair.rig.flush();
        assert_eq!(pair.received(), "+OK\r\n");
        assert_eq!(set(&mut pair, "OFF"), "+OK\r\n");
    }
    assert_eq!(pair.ask(&["RESET"]), "+RESET\r\n");
    assert_eq!(pair.ask(&["SET", "key", "4"]), "");
    pair.rig.flush();
    assert_eq!(pair.received(), "+OK\r\n");
    assert_eq!(set(&mut pair, "perhaps"), "-ERR syntax error\r\n");
    // For everybody it is the owner's to say, over the unix socket.
    let refusal = pair.ask(&["CONFIG", "SET", "synchronous_commit", "off"]);
    assert!(refusal.starts_with("-ERR CONFIG SET failed"), "{refusal}");
}

#[test]
fn names_and_patterns_have_limits() {
    let mut pair = Pair::new(&[]);
    let (most, more) = ("n".repeat(1024), "n".repeat(1025));
    let refused = "-ERR a name of 1025 bytes is longer than the greatest, 1024 bytes\r\n";
    for command in [
        &["CLIENT", "SETNAME"][..],
        &["CLIENT", "SETINFO", "lib-name"],
        &["CLIENT", "SETINFO", "LIB-VER"],
    ] {
        let with = |name| [command, &[name]].concat();
        assert_eq!(pair.ask(&with(&more)), refused);
        assert_eq!(pair.ask(&with(&most)), "+OK\r\n");
    }
    assert_eq!(pair.ask(&["HELLO", "2", "SETNAME", &more]), refused);
    let (_, client) = &pair.other;
    assert!(
        client.connection.heap_bytes() >= 3 * most.len(),
        "names are counted"
    );
    assert_eq!(
        pair.ask(&["CLIENT", "SETINFO", "Lib-Name", "a b"]),
        "-ERR Lib-Name cannot contain spaces, newlines or special characters.\r\n"
    );
    let mut words = vec!["CONFIG", "GET"];
    words.extend(vec!["*"; 1024]);
    assert!(pair.ask(&words).starts_with('*'));
    words.push("*");
    assert_eq!(
        pair.ask(&words),
        "-ERR CONFIG GET takes 1024 patterns at most\r\n"
    );
    let (most, more) = (format!("[{}", "a".repeat(8191)), "a".repeat(8193));
    let refused = "-ERR a pattern of 8193 bytes is longer than the greatest, 8192 bytes\r\n";
    for command in [
        &["KEYS"][..],
        &["SCAN", "0", "MATCH"],
        &["CONFIG", "GET"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN"],
    ] {
        let with = |pattern| [command, &[pattern]].concat();
        assert_eq!(pair.ask(&with(&more)), refused);
        assert!(pair.ask(&with(&most)).starts_with('*'));
    }
    let halves = ["CONFIG", "GET", &more[..4096], &more[..4097]];
    assert_eq!(pair.ask(&halves), refused);
}

#[test]
fn a_request_about_commands_names_no_more_than_there_are() {
    let mut pair = Pair::new(&[]);
    for word in ["INFO", "DOCS"] {
        let mut words = vec!["COMMAND", word];
        words.extend(vec!["command"; 1_000]);
        let reply = pair.ask(&words);
        assert!(reply.starts_with("-ERR more than "), "{}", &reply[..80]);
    }
}

#[test]
fn an_error_that_shows_a_write_waits_for_it() {
    let refusals: [(&[&str], &str); 3] = [
        (
            &["INCR", "word"],
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            &["INCR", "most"],
            "-ERR increment or decrement would overflow\r\n",
        ),
        (
            &["APPEND", "word", "x"],
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n",
        ),
    ];
    for (command, refusal) in refusals {
        let mut pair = Pair::new(&[("proto_max_bulk_len", "1MB"), ("max_value_size", "2MB")]);
        let word = "w".repeat(1 << 20);
        pair.write(&["MSET", "word", &word, "most", "9223372036854775807"]);
        assert_eq!(pair.ask(command), "", "{command:?}: nothing is durable");
        assert_eq!(pair.ask(&["STRLEN", "word"]), "", "not back in time");
        pair.rig.flush();
        assert_eq!(pair.received(), format!("{refusal}:1048576\r\n"));
    }
}

#[test]
fn a_time_to_live_counts_from_the_command_not_from_begin() {
    let mut alone = Alone::new();
    let time = Arc::clone(&alone.time);
    let mut ask = |words: &[&[u8]]| alone.ask(words);
    assert_eq!(ask(&[b"MSET", b"set", b"old", b"kept", b"old"]), b"+OK\r\n");
    let dump = ask(&[b"DUMP", b"kept"]);
    let start = dump.iter().position(|byte| *byte == b'\n').expect("a bulk") + 1;
    let payload = &dump[start..dump.len() - 2];
    assert_eq!(ask(&[b"BEGIN"]), b"+OK\r\n");
    time.fetch_add(11 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"SET", b"set", b"new", b"EX", b"10"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SETEX", b"setex", b"10", b"new"]), b"+OK\r\n");
    assert_eq!(ask(&[b"PSETEX", b"psetex", b"10000", b"new"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SET", b"getex", b"new"]), b"+OK\r\n");
    let got = ask(&[b"GETEX", b"getex", b"EX", b"10"]);
    assert_eq!(got, b"$3\r\nnew\r\n");
    assert_eq!(
        ask(&[b"RESTORE", b"restored", b"10000", payload]),
        b"+OK\r\n"
    );
    assert_eq!(ask(&[b"EXPIRE", b"kept", b"10"]), b":1\r\n");
    let keys: [&[u8]; 6] = [b"set", b"setex", b"psetex", b"getex", b"restored", b"kept"];
    for key in keys {
        assert_eq!(
            ask(&[b"PTTL", key]),
            b":10000\r\n",
            "{}",
            key.escape_ascii()
        );
    }
    assert_eq!(ask(&[b"COMMIT"]), b"+OK\r\n");
    time.fetch_add(9 * SECOND_NS, Ordering::SeqCst);
    for key in keys {
        assert_eq!(ask(&[b"PTTL", key]), b":1000\r\n", "{}", key.escape_ascii());
    }
    time.fetch_add(SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[&[&b"EXISTS"[..]], &keys[..]].concat()), b":0\r\n");
}

/// Emptied is emptied: also of keys whose time has come and that nobody has removed.
#[test]
fn a_flush_in_a_transaction_leaves_nothing() {
    let mut alone = Alone::new();
    let time = Arc::clone(&alone.time);
    let mut ask = |words: &[&[u8]]| alone.ask(words);
    assert_eq!(ask(&[b"SET", b"ended", b"v", b"EX", b"1"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SET", b"there", b"v"]), b"+OK\r\n");
    time.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"DBSIZE"]), b":2\r\n");
    assert_eq!(ask(&[b"BEGIN"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SET", b"own", b"v", b"EX", b"1"]), b"+OK\r\n");
    time.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"DELRANGE", b"", b""]), b":1\r\n");
    assert_eq!(ask(&[b"COMMIT"]), b"+OK\r\n");
    assert_eq!(ask(&[b"DBSIZE"]), b":0\r\n");
}

#[test]
fn waitaof_waits_for_nothing_within_exec() {
    let mut pair = Pair::new(&[]);
    pair.rig.flush();
    assert_eq!(pair.ask(&["SET", "key", "1"]), "", "nothing is durable");
    assert_eq!(pair.ask(&["MULTI"]), "");
    assert_eq!(pair.ask(&["WAITAOF", "1", "0", "0"]), "");
    assert_eq!(pair.ask(&["EXEC"]), "");
    pair.rig.flush();
    assert_eq!(
        pair.received(),
        "+OK\r\n+OK\r\n+QUEUED\r\n*1\r\n*2\r\n:0\r\n:0\r\n"
    );
}

#[test]
fn bitop_takes_no_more_memory_for_many_sources() {
    const VALUE_BYTES: usize = 1 << 20;
    let mut pair = Pair::new(&[("backend_memory_max", "256MB")]);
    let value = "v".repeat(VALUE_BYTES);
    pair.write(&["MSET", "key", &value, "short", "\u{7f}"]);
    pair.rig.flush();
    let done = format!(":{VALUE_BYTES}\r\n");
    let mut bitop = |operation, times, more: &[&str]| {
        let mut words = vec!["BITOP", operation, "result"];
        words.extend(vec!["key"; times]);
        words.extend(more);
        assert_eq!(pair.ask(&words), "");
        assert_eq!(pair.ask(&["GETRANGE", "result", "0", "1"]), "");
        assert_eq!(pair.ask(&["STRLEN", "result"]), "");
        pair.rig.flush();
        let received = pair.received();
        let (length, rest) = received.split_once("\r\n").expect("a number");
        assert_eq!(format!("{length}\r\n"), done, "{operation}");
        assert!(rest.ends_with(&done), "{operation}: {rest}");
        rest.strip_suffix(&done).expect("as above").to_owned()
    };
    let most = 100_000;
    assert_eq!(bitop("OR", most, &[]), "$2\r\nvv\r\n");
    assert_eq!(bitop("AND", most, &[]), "$2\r\nvv\r\n");
    assert_eq!(bitop("XOR", most, &[]), "$2\r\n\0\0\r\n");
    assert_eq!(bitop("XOR", most + 1, &[]), "$2\r\nvv\r\n");
    assert_eq!(bitop("XOR", most, &["short"]), "$2\r\n\u{7f}\0\r\n");
    assert_eq!(bitop("OR", most, &["short"]), "$2\r\n\u{7f}v\r\n");
    assert_eq!(bitop("AND", most, &["short", "none"]), "$2\r\n\0\0\r\n");
}

#[test]
fn a_pipeline_of_long_requests_takes_several_turns() {
    const REQUESTS: usize = 600;
    let mut pair = Pair::new(&[]);
    pair.write(&["SET", "key", &"v".repeat(1 << 20)]);
    pair.rig.flush();
    let (server, client) = &mut pair.other;
    let connection = &mut client.connection;
    connection.input = b"BITCOUNT key\n".repeat(REQUESTS);
    let mut turns = 0;
    loop {
        let before = connection.input.len();
        turn::run_buffered(server, connection);
        turns += 1;
        assert!(
            connection.input.len() < before,
            "each turn carries some out"
        );
        if connection.input.is_empty() {
            break;
        }
        assert!(connection.yields && matches!(connection.hold, Hold::Free));
    }
    assert!(!connection.yields);
    assert!(turns > 1, "more than a turn's time is needed for so many");
    let ones = 5 << 20;
    let all = format!(":{ones}\r\n").repeat(REQUESTS);
    assert!(pair.received() == all, "each is answered");
}

#[test]
fn a_transaction_that_fails_sets_nothing_for_its_connection() {
    let mut pair = Pair::new(&[("backend_memory_max", "32MB")]);
    pair.write(&["SET", "key", &"v".repeat(1 << 20)]);
    pair.rig.flush();
    assert_eq!(pair.ask(&["CLIENT", "SETNAME", "before"]), "+OK\r\n");
    assert_eq!(pair.ask(&["MULTI"]), "+OK\r\n");
    for command in [
        &["USE", "db1"][..],
        &["HELLO", "3", "SETNAME", "after"],
        &["CLIENT", "SETINFO", "LIB-NAME", "after"],
        &["CLIENT", "SYNCHRONOUS-COMMIT", "OFF"],
        &["SELECT", "0"],
    ] {
        assert_eq!(pair.ask(command), "+QUEUED\r\n", "{command:?}");
    }
    for _ in 0..40 {
        assert_eq!(pair.ask(&["GET", "key"]), "+QUEUED\r\n");
    }
    assert_eq!(pair.ask(&["SELECT", "1"]), "+QUEUED\r\n");
    assert_eq!(pair.ask(&["CLIENT", "REPLY", "OFF"]), "+QUEUED\r\n");
    let refusal = pair.ask(&["EXEC"]);
    assert!(
        refusal.starts_with("-ERR the replies of these commands"),
        "{refusal}"
    );
    let name = pair.ask(&["CLIENT", "GETNAME"]);
    assert_eq!(name, "$6\r\nbefore\r\n");
    assert_eq!(
        pair.ask(&["GET", "none"]),
        "$-1\r\n",
        "by the protocol of before"
    );
    assert_eq!(pair.ask(&["STRLEN", "key"]), ":1048576\r\n");
    let info = pair.ask(&["CLIENT", "INFO"]);
    assert!(!info.contains("lib-name=after"), "{info}");
    assert_eq!(pair.ask(&["SET", "key", "1"]), "", "it waits for the disk");
    pair.rig.flush();
    assert_eq!(pair.received(), "+OK\r\n");
}

#[test]
fn databases_may_be_swapped_while_many_keys_are_watched() {
    let pair = Pair::new(&[]);
    let (rig, (mut server, mut client)) = (pair.rig, pair.other);
    let _watchdog = Watchdog::start(Duration::from_secs(300));
    let keys: Vec<String> = (0..30_000).map(|number| format!("key{number}")).collect();
    let mut watch: Vec<&[u8]> = vec![b"WATCH"];
    watch.extend(keys.iter().map(String::as_bytes));
    let (stop, swaps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rounds = std::thread::scope(|scope| {
        scope.spawn(|| {
            let [db0, db1] = [0, 1].map(|number| NamespaceId::database(number).expect("one"));
            let mut engine = rig.server(0).engine;
            while !stop.load(Ordering::SeqCst) {
                match engine.swap_namespaces(db0, db1) {
                    Ok(_) => _ = swaps.fetch_add(1, Ordering::SeqCst),
                    Err(EngineError::Park(_)) => rig.flush(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        // So many that more were surely made between the first look and the last.
        let (mut most, mut rounds) = (0, 0);
        while most < 4 * PAST {
            let before = swaps.load(Ordering::SeqCst);
            client.send(&rig, &mut server, &watch);
            most = most.max(swaps.load(Ordering::SeqCst) - before);
            client.send(&rig, &mut server, &[b"UNWATCH"]);
            rounds += 1;
        }
        stop.store(true, Ordering::SeqCst);
        rounds
    });
    rig.flush();
    let replies = client.call(&rig, &mut server, &[b"PING"]);
    assert_eq!(replies, "+OK\r\n".repeat(2 * rounds) + "+PONG\r\n");
}

/// What a client has sent behind it is meant for the transaction, or for what it watches.
#[test]
fn what_follows_a_begin_or_a_watch_that_was_refused_is_not_carried_out() {
    let mut pair = Pair::new(&[]);
    pair.rig.flush();
    let refused = "-ERR BEGIN was refused";
    for begin in [
        &["BEGIN", "READ", "WRITE"][..],
        &["BEGIN", "SNAPSHOT", "SNAPSHOT"],
    ] {
        assert_eq!(pair.ask(begin), "-ERR syntax error\r\n");
        for command in [
            &["SET", "a", "1"][..],
            &["GET", "a"],
            &["MULTI"],
            &["BEGIN"],
            &["SAVEPOINT", "s"],
            &["COMMIT"],
        ] {
            let reply = pair.ask(command);
            assert!(reply.starts_with(refused), "{command:?}: {reply}");
        }
        assert_eq!(pair.ask(&["COMMIT"]), "-ERR COMMIT without BEGIN\r\n");
    }
    assert_eq!(pair.ask(&["BEGIN", "NOW"]), "-ERR syntax error\r\n");
    assert_eq!(pair.ask(&["PING"]), "+PONG\r\n");
    assert_eq!(pair.ask(&["ROLLBACK"]), "+OK\r\n");
    assert_eq!(pair.ask(&["GET", "a"]), "$-1\r\n");
    // One within a transaction is refused and changes nothing.
    assert_eq!(pair.ask(&["BEGIN"]), "+OK\r\n");
    let nested = pair.ask(&["BEGIN", "NOW"]);
    assert!(
        nested.starts_with("-ERR BEGIN inside a transaction"),
        "{nested}"
    );
    assert_eq!(pair.ask(&["GET", "a"]), "$-1\r\n");
    assert_eq!(pair.ask(&["COMMIT"]), "+OK\r\n");

    let too_many = [&["WATCH"][..], &["key"; 1 << 16]].concat();
    let guarded = |pair: &mut Pair| {
        assert_eq!(pair.ask(&["MULTI"]), "+OK\r\n");
        assert_eq!(pair.ask(&["GET", "a"]), "+QUEUED\r\n");
        pair.ask(&["EXEC"])
    };
    let refused = pair.ask(&too_many);
    assert!(
        refused.starts_with("-ERR a connection can watch"),
        "{refused}"
    );
    assert_eq!(guarded(&mut pair), "*-1\r\n");
    assert_eq!(guarded(&mut pair), "*1\r\n$-1\r\n", "it was told");
    pair.ask(&too_many);
    assert_eq!(pair.ask(&["WATCH", "key"]), "+OK\r\n");
    assert_eq!(guarded(&mut pair), "*-1\r\n");
    pair.ask(&too_many);
    assert_eq!(pair.ask(&["UNWATCH"]), "+OK\r\n");
    assert_eq!(guarded(&mut pair), "*1\r\n$-1\r\n");
}

/// MOVE writes in two steps.
#[test]
fn a_move_that_fails_half_way_has_done_nothing() {
    let mut pair = Pair::new(&[("max_transaction_size", "1MB")]);
    pair.write(&["SET", "k", "x"]);
    pair.rig.flush();
    let exists_there = |pair: &mut Pair| {
        assert_eq!(pair.ask(&["SELECT", "1"]), "+OK\r\n");
        let exists = pair.ask(&["EXISTS", "k"]);
        assert_eq!(pair.ask(&["SELECT", "0"]), "+OK\r\n");
        exists
    };
    // The first that is refused has room for the key in the other database, and none for its deletion
    // in this one.
    let is_refused = |pair: &mut Pair, bytes: usize| {
        assert_eq!(pair.ask(&["BEGIN"]), "+OK\r\n");
        assert_eq!(pair.ask(&["SET", "a", &"v".repeat(bytes)]), "+OK\r\n");
        let moved = pair.ask(&["MOVE", "k", "1"]);
        if moved == ":1\r\n" {
            assert_eq!(exists_there(pair), ":1\r\n");
            assert_eq!(pair.ask(&["ROLLBACK"]), "+OK\r\n");
            return false;
        }
        assert!(moved.contains("max_transaction_size"), "{moved}");
        true
    };
    let mut sizes = (1_048_000..1 << 20).step_by(30);
    assert!(sizes.any(|bytes| is_refused(&mut pair, bytes)));
    assert_eq!(exists_there(&mut pair), ":0\r\n");
    assert_eq!(pair.ask(&["COMMIT"]), "");
    pair.rig.flush();
    assert_eq!(pair.received(), "+OK\r\n");
    assert_eq!(exists_there(&mut pair), ":0\r\n");
    assert_eq!(pair.ask(&["GET", "k"]), "$1\r\nx\r\n");
}

/// While a command is under way its client need not do anything.
#[test]
fn a_client_is_idle_from_the_end_of_its_command_on() {
    const MINUTE_NS: u64 = 60_000_000_000;
    let limits = AgeLimits {
        idle_ns: 10 * MINUTE_NS,
        snapshot_ns: 0,
    };
    let (rig, time) = Rig::by_hand(&[], 100 * MINUTE_NS);
    let mut server = rig.server(0);
    let mut client = Client::new(&mut server);
    let value = "v".repeat(100_000);
    for number in 0..40 {
        let key = format!("key{number:02}");
        client.send(
            &rig,
            &mut server,
            &[b"SET", key.as_bytes(), value.as_bytes()],
        );
    }
    rig.flush();
    client.received(&server);
    assert_eq!(client.call(&rig, &mut server, &[b"BEGIN"]), "+OK\r\n");
    client.send(&rig, &mut server, &[b"RANGE", b"", b""]);
    assert!(matches!(client.connection.hold, Hold::Waiting(_)));
    loop {
        time.fetch_add(MINUTE_NS, Ordering::SeqCst);
        server.begin_turn();
        client.received(&server);
        if !client.go_on(&mut server) {
            break;
        }
    }
    let mut is_ended = |client: &mut Client| {
        let session = &mut client.connection.session;
        let idle_ns = server.now_ns.saturating_sub(session.active_at_ns);
        let ended = session
            .transactions
            .end_forgotten(server.now_ns, idle_ns, &limits);
        time.fetch_add(9 * MINUTE_NS, Ordering::SeqCst);
        server.begin_turn();
        ended
    };
    assert!(!is_ended(&mut client), "it has just got its reply");
    assert!(!is_ended(&mut client));
    assert!(is_ended(&mut client));
}

/// Where nobody removes keys whose time has come, many may lie between two that are there.
#[test]
fn randomkey_lets_others_have_their_turn() {
    let (rig, time) = Rig::by_hand(&[], 1_000_000 * SECOND_NS);
    let mut server = rig.server(0);
    let mut client = Client::new(&mut server);
    let long = "k".repeat(1000);
    for number in 0..3000 {
        let key = format!("{number:04}{long}");
        client.send(&rig, &mut server, &[b"SETEX", key.as_bytes(), b"1", b"v"]);
        if number % 500 == 0 {
            rig.flush();
        }
    }
    rig.flush();
    client.received(&server);
    let ask = |client: &mut Client, server: &mut Server| {
        client.send(&rig, server, &[b"RANDOMKEY"]);
        let mut turns = 1;
        while client.go_on(server) {
            turns += 1;
        }
        let received = client.received(server);
        (String::from_utf8_lossy(&received).into_owned(), turns)
    };
    let (found, turns) = ask(&mut client, &mut server);
    assert!(found.starts_with("$1004\r\n"), "{found}");
    assert_eq!(turns, 1);
    time.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
    server.begin_turn();
    let (found, turns) = ask(&mut client, &mut server);
    assert_eq!(found, "$-1\r\n");
    assert!(turns > 1, "so many are not passed by in one turn");
    let all = client.call(&rig, &mut server, &[b"DBSIZE"]);
    assert_eq!(all, ":3000\r\n");
    // Whatever the place, the first that is there is found, also in a transaction.
    client.send(&rig, &mut server, &[b"SET", b"0000", b"v"]);
    rig.flush();
    client.received(&server);
    assert_eq!(ask(&mut client, &mut server).0, "$4\r\n0000\r\n");
    assert_eq!(client.call(&rig, &mut server, &[b"BEGIN"]), "+OK\r\n");
    assert_eq!(ask(&mut client, &mut server).0, "$4\r\n0000\r\n");
    assert_eq!(client.call(&rig, &mut server, &[b"COMMIT"]), "+OK\r\n");
    for (command, reply) in [
        (&b"MULTI"[..], "+OK\r\n"),
        (b"RANDOMKEY", "+QUEUED\r\n"),
        (b"EXEC", "*1\r\n$4\r\n0000\r\n"),
    ] {
        assert_eq!(client.call(&rig, &mut server, &[command]), reply);
    }
}

#[test]
fn dbsize_in_a_transaction_lets_others_have_their_turn() {
    const KEYS: usize = 30_000;
    let mut pair = Pair::new(&[]);
    for thousand in 0..KEYS / 1000 {
        let keys: Vec<String> = (0..1000).map(|key| format!("{thousand}:{key}")).collect();
        let mut words = vec!["MSET"];
        words.extend(keys.iter().flat_map(|key| [&key[..], "v"]));
        pair.write(&words);
        pair.rig.flush();
    }
    assert_eq!(pair.ask(&["BEGIN"]), "+OK\r\n");
    pair.ask(&["SET", "own", "v"]);
    pair.ask(&["DEL", "0:0", "0:1"]);
    let (server, client) = &mut pair.other;
    client.send(&pair.rig, server, &[b"DBSIZE"]);
    assert!(client.go_on(server), "it takes several turns");
    while client.go_on(server) {}
    assert_eq!(pair.received(), format!(":{}\r\n", KEYS - 1));
    assert_eq!(pair.ask(&["COMMIT"]), "");
}

#[test]
fn a_scan_goes_on_whoever_begins_others() {
    let mut pair = Pair::new(&[]);
    pair.ask(&["MSET", "a", "1", "b", "2", "c", "3"]);
    pair.rig.flush();
    assert_eq!(pair.received(), "+OK\r\n");
    let first = pair.ask(&["SCAN", "0", "COUNT", "1"]);
    pair.writer.0.begin_turn();
    for _ in 0..600 {
        pair.write(&["SCAN", "0", "COUNT", "1"]);
    }
    let cursor = first.split("\r\n").nth(2).expect("a cursor");
    let next = pair.ask(&["SCAN", cursor, "COUNT", "2"]);
    assert_eq!(next, "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nb\r\n$1\r\nc\r\n");
}

/// What its snapshot shows is there to the transaction, whatever the time is by now.
#[test]
fn delrange_counts_what_range_shows() {
    let mut alone = Alone::new();
    let time = Arc::clone(&alone.time);
    let mut ask = |words: &[&[u8]]| alone.ask(words);
    assert_eq!(ask(&[b"SET", b"before", b"v", b"EX", b"1"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SET", b"shown", b"v", b"EX", b"5"]), b"+OK\r\n");
    time.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"BEGIN"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SET", b"own", b"v", b"EX", b"5"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SET", b"passed", b"v", b"EX", b"1"]), b"+OK\r\n");
    assert_eq!(ask(&[b"SAVEPOINT", b"s"]), b"+OK\r\n");
    time.fetch_add(2 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"COUNTRANGE", b"", b""]), b":2\r\n");
    assert_eq!(ask(&[b"DELRANGE", b"", b""]), b":2\r\n");
    assert_eq!(ask(&[b"ROLLBACK", b"TO", b"s"]), b"+OK\r\n");
    time.fetch_add(4 * SECOND_NS, Ordering::SeqCst);
    assert_eq!(ask(&[b"COUNTRANGE", b"", b""]), b":1\r\n");
    assert_eq!(ask(&[b"DELRANGE", b"", b""]), b":1\r\n");
    assert_eq!(ask(&[b"COUNTRANGE", b"", b""]), b":0\r\n");
    assert_eq!(ask(&[b"COMMIT"]), b"+OK\r\n");
    assert_eq!(ask(&[b"DBSIZE"]), b":0\r\n");
}

/// The limit is of values that come, not of those that are there.
#[test]
fn a_value_above_a_lowered_limit_is_carried_over() {
    let rig = Rig::new(&[]);
    let mut server = rig.server(0);
    let mut client = Client::new(&mut server);
    let value = "v".repeat(100_000);
    let shown = format!("${}\r\n{value}\r\n", value.len());
    client.send(&rig, &mut server, &[b"SET", b"a", value.as_bytes()]);
    rig.flush();
    client.received(&server);
    let lowered = Config::from_pairs(&[("max_value_size", "1kB")]).expect("valid");
    server.reconfigure(Arc::new(lowered));
    for is_in_transaction in [false, true] {
        let mut ask = |words: &str| {
            let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            client.send(&rig, &mut server, &words);
            rig.flush();
            String::from_utf8_lossy(&client.received(&server)).into_owned()
        };
        if is_in_transaction {
            assert_eq!(ask("BEGIN"), "+OK\r\n");
        }
        for (command, reply) in [
            ("EXPIRE a 100", ":1\r\n"),
            ("PERSIST a", ":1\r\n"),
            ("GETEX a EX 100", &shown),
            ("COPY a b", ":1\r\n"),
            ("COPY a b DB 1", ":1\r\n"),
            ("MOVE a 1", ":1\r\n"),
            ("RENAME b a", "+OK\r\n"),
            ("RENAMENX a b", ":1\r\n"),
            ("GET b", &shown),
            ("RENAME b a", "+OK\r\n"),
            ("SELECT 1", "+OK\r\n"),
            ("GET a", &shown),
            ("GET b", &shown),
            ("DEL a b", ":2\r\n"),
            ("SELECT 0", "+OK\r\n"),
        ] {
            assert!(ask(command) == reply, "{command}");
        }
        let refused = ask(&format!("SET c {}", "v".repeat(2000)));
        assert!(refused.contains("max_value_size"), "{refused}");
        let refused = ask("APPEND a more");
        assert!(refused.contains("max_value_size"), "{refused}");
    }
}

#[test]
fn an_exec_with_words_too_many_discards_what_multi_has_queued_only() {
    let mut pair = Pair::new(&[]);
    pair.rig.flush();
    let arity = "-ERR wrong number of arguments for 'exec' command\r\n";
    let aborted = "-EXECABORT Transaction discarded because of: wrong number of arguments for \
                   'exec' command\r\n";
    assert_eq!(pair.ask(&["BEGIN"]), "+OK\r\n");
    assert_eq!(pair.ask(&["EXEC", "x"]), arity);
    assert_eq!(pair.ask(&["COMMIT"]), "+OK\r\n");
    assert_eq!(pair.ask(&["MULTI"]), "+OK\r\n");
    assert_eq!(pair.ask(&["EXEC", "x"]), aborted);
    assert_eq!(pair.ask(&["EXEC"]), "-ERR EXEC without MULTI\r\n");
    // As Redis has it, which knows no BEGIN.
    assert_eq!(pair.ask(&["EXEC", "x"]), aborted);
}
