//! Which replies wait for the log: those that acknowledge something, and those that show what a crash could
//! take back.

use super::Pair;
use rd_wire::command::Flags;
use std::collections::BTreeSet;

#[test]
fn numbers_of_keys_wait_for_what_is_counted() {
    let mut pair = Pair::new(&[]);
    pair.write(&["SET", "first", "value"]);
    pair.rig.flush();
    for (command, shown) in [
        (&["DBSIZE"][..], ":"),
        (&["INFO", "keyspace"], "keys="),
        (&["NAMESPACE", "INFO"], "keys\r\n:"),
    ] {
        pair.write(&["SET", command[0], "value"]);
        assert_eq!(pair.ask(command), "", "{command:?}");
        pair.rig.flush();
        let received = pair.received();
        assert!(received.contains(shown), "{command:?}: {received}");
    }
    // Who asks for everything wants to know of a disk that stands still, too.
    pair.write(&["SET", "last", "value"]);
    assert!(pair.ask(&["INFO"]).contains("keys=5"));
}

/// A crash may bring back what was dropped, and take back what a refusal is for.
#[test]
fn refusals_wait_for_what_they_show() {
    let mut pair = Pair::new(&[("max_value_size", "1MB")]);
    pair.write(&["NAMESPACE", "CREATE", "old"]);
    pair.rig.flush();
    for (change, command, shown) in [
        (
            ["NAMESPACE", "CREATE", "new"],
            &["NAMESPACE", "CREATE", "new"][..],
            "there is a namespace",
        ),
        (
            ["NAMESPACE", "DROP", "new"],
            &["NAMESPACE", "DROP", "new"],
            "there is no namespace",
        ),
    ] {
        pair.write(&change);
        assert_eq!(pair.ask(command), "", "{command:?}");
        pair.rig.flush();
        let received = pair.received();
        assert!(received.contains(shown), "{command:?}: {received}");
    }
    let (value, long) = ("v".repeat(1 << 20), "k".repeat(4096));
    // Each of these is refused because of what is there, and would be done, or refused otherwise, if it
    // were not.
    for (refused, shown) in [
        (
            &["APPEND", "key", "more"][..],
            "-ERR a value of 1048580 bytes",
        ),
        (&["RENAME", "key", &long], "-ERR a key of 4096 bytes"),
        (&["COPY", "key", &long], "-ERR a key of 4096 bytes"),
    ] {
        for is_queued in [false, true] {
            pair.write(&["SET", "key", &value]);
            if is_queued {
                assert_eq!(pair.ask(&["MULTI"]), "+OK\r\n");
                assert_eq!(pair.ask(refused), "+QUEUED\r\n");
            }
            let command = if is_queued { &["EXEC"][..] } else { refused };
            assert_eq!(pair.ask(command), "", "{refused:?}, queued: {is_queued}");
            pair.rig.flush();
            let received = pair.received();
            let received = received.strip_prefix("*1\r\n").unwrap_or(&received);
            assert!(received.starts_with(shown), "{refused:?}: {received}");
        }
    }
    pair.write(&["NAMESPACE", "READONLY", "db0"]);
    assert_eq!(pair.ask(&["SET", "key", "value"]), "");
    assert_eq!(pair.ask(&["NAMESPACE", "LIST", "ACCESS"]), "");
    pair.rig.flush();
    let received = pair.received();
    assert!(received.starts_with("-READONLY"), "{received}");
    assert!(received.contains("read only"), "{received}");
}

/// Nothing is acknowledged that a crash could take back: of every command that writes, with something to do.
#[test]
fn replies_to_whatever_writes_wait_for_the_log() {
    const WRITES: &[&str] = &[
        "append key 1",
        "bitfield key SET u8 0 1",
        "bitop NOT other key",
        "copy key other",
        "copy key other DB 1",
        "decr key",
        "decrby key 2",
        "del key",
        "delrange key l",
        "expire key 100",
        "expireat key 33177117420",
        "flushall",
        "flushdb",
        "getdel key",
        "getex key EX 100",
        "getset key 1",
        "incr key",
        "incrby key 2",
        "incrbyfloat key 2",
        "move key 1",
        "mset key 1 other 2",
        "msetnx other 1 another 2",
        "namespace|create new",
        "namespace|drop named",
        "namespace|rename named new",
        "persist lasting",
        "pexpire key 100000",
        "pexpireat key 33177117420000",
        "psetex key 100000 1",
        "rename key other",
        "renamenx key other",
        "set key 1",
        "setbit key 0 1",
        "setex key 100 1",
        "setnx other 1",
        "setrange key 0 1",
        "swapdb 0 1",
        "unlink key",
    ];
    let mut pair = Pair::new(&[]);
    let mut written: BTreeSet<&str> = BTreeSet::new();
    let mut check = |command: &[&str], begin: &[&[&str]]| {
        for setting_up in [
            &["FLUSHALL"][..],
            &["NAMESPACE", "CREATE", "named"],
            &["NAMESPACE", "DROP", "new"],
            &["SET", "key", "12"],
            &["SET", "lasting", "12", "EX", "100"],
        ] {
            pair.ask(setting_up);
        }
        pair.rig.flush();
        pair.received();
        for words in begin {
            pair.ask(words);
        }
        assert_eq!(pair.ask(command), "", "{command:?}");
        pair.rig.flush();
        let reply = pair.received();
        assert!(
            !reply.is_empty() && !reply.starts_with('-'),
            "{command:?}: {reply}"
        );
    };
    for line in WRITES {
        let name = line.split(' ').next().expect("a name");
        written.insert(name);
        let words: Vec<&str> = line.split([' ', '|']).collect();
        check(&words, &[]);
    }
    let set = ["SET", "key", "1"];
    check(&["EXEC"], &[&["MULTI"], &set]);
    check(&["COMMIT"], &[&["BEGIN"], &set]);
    // One needs bytes that are no words; the others are answered when the checkpointer is done.
    let elsewhere = [
        "restore",
        "namespace|readonly",
        "namespace|readwrite",
        "namespace|offline",
        "namespace|online",
    ];
    for command in rd_wire::command::all().filter(|row| row.flags.contains(Flags::WRITE)) {
        let name = command.name;
        assert!(
            written.contains(name) || elsewhere.contains(&name),
            "{name} is not among them"
        );
    }
}
