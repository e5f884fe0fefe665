//! Transactions of several commands over sockets: what each connection sees, who conflicts with
//! whom, what is there after a crash, and who is ended for having been forgotten.

use rd_tests::support::cluster::Cluster;
use rd_tests::support::conversation::{ask, play};
use rd_tests::support::wait_for;
use rd_wire::Client;

#[test]
fn a_transaction_sees_one_moment_and_its_own_writes() {
    let cluster = Cluster::started(&[("backends", "2")]);
    play(
        &cluster,
        "a MSET x 1 y 2 z 3 -> OK
         a BEGIN -> OK
         b SET x 10 -> OK
         b DEL z -> 1
         b SET w 4 -> OK
         a GET x -> 1
         a MGET w x y z -> [nil 1 2 3]
         a RANGE w { -> [x 1 y 2 z 3]
         a DBSIZE -> 3
         a SET y 20 -> OK
         a DEL z -> 1
         a SET v 5 -> OK
         a INCR y -> 21
         a APPEND v 6 -> 2
         a EXISTS v w x y z -> 3
         a RANGE a { LIMIT 2 -> [v 56 x 1]
         a DBSIZE -> 3
         a LPUSH x 1 -> -*
         a INCRBY v x -> -ERR value is not an integer or out of range
         b GET v -> nil
         b GET y -> 2
         a ROLLBACK -> OK
         a GET v -> nil
         a GET x -> 10",
    );
}

#[test]
fn the_first_committer_wins() {
    let cluster = Cluster::started(&[("backends", "2")]);
    play(
        &cluster,
        "a MSET x 1 y 1 -> OK
         a BEGIN -> OK
         b BEGIN SNAPSHOT -> OK
         a INCR x -> 2
         b INCR x -> 2
         b SET other 1 -> OK
         a COMMIT -> OK
         b COMMIT -> -CONFLICT key \"x\" was changed since this transaction began; nothing was \
         changed, run it again
         b GET other -> nil
         b COMMIT -> -ERR COMMIT without BEGIN
         b BEGIN -> OK
         b INCR x -> 3
         b COMMIT -> OK
         a GET x -> 3
         a BEGIN -> OK
         b BEGIN -> OK
         a GET x -> 3
         b GET y -> 1
         a SET y 2 -> OK
         b SET x 4 -> OK
         a COMMIT -> OK
         b COMMIT -> OK
         a BEGIN SERIALIZABLE -> OK
         b BEGIN SERIALIZABLE -> OK
         a GET x -> 4
         b GET y -> 2
         a SET y 3 -> OK
         b SET x 5 -> OK
         a COMMIT -> OK
         b COMMIT -> -CONFLICT key \"y\"*
         a BEGIN SERIALIZABLE -> OK
         a RANGE p q -> []
         a SET sum 0 -> OK
         b SET p1 1 -> OK
         a COMMIT -> -CONFLICT key \"p1\"*
         a BEGIN SERIALIZABLE READ ONLY -> OK
         a RANGE p q -> [p1 1]
         a SET x 9 -> -ERR this transaction is READ ONLY
         b SET p1 2 -> OK
         a COMMIT RETURNING LSN -> 0/*
         a BEGIN -> OK
         b FLUSHDB -> OK
         a GET p1 -> 2
         a SET x 1 -> OK
         a COMMIT -> -CONFLICT *",
    );
}

#[test]
fn flushing_in_a_transaction_deletes_what_it_sees() {
    let cluster = Cluster::started(&[]);
    play(
        &cluster,
        "a MSET x 1 y 1 -> OK
         a BEGIN -> OK
         a SET z 1 -> OK
         b SET later 1 -> OK
         a SAVEPOINT s -> OK
         a FLUSHDB -> OK
         a DBSIZE -> 0
         a MGET x y z -> [nil nil nil]
         a ROLLBACK TO s -> OK
         a MGET x y z -> [1 1 1]
         a FLUSHDB -> OK
         a SET new 1 -> OK
         b MGET x y z -> [1 1 nil]
         a COMMIT -> OK
         b MGET x y z later new -> [nil nil nil 1 1]
         a BEGIN SERIALIZABLE -> OK
         a FLUSHALL -> OK
         b SET more 1 -> OK
         a COMMIT -> -CONFLICT key \"more\"*
         a BEGIN -> OK
         a FLUSHDB -> OK
         b SET later 2 -> OK
         a COMMIT -> -CONFLICT key \"later\"*
         a BEGIN READ ONLY -> OK
         a FLUSHDB -> -ERR this transaction is READ ONLY
         a ROLLBACK -> OK
         a DBSIZE -> 3",
    );
}

#[test]
fn client_list_tells_of_queued_commands_and_watched_keys() {
    let cluster = Cluster::started(&[]);
    play(
        &cluster,
        "a CLIENT INFO -> ~ multi=-1 watch=0 ~
         a WATCH x y -> OK
         a CLIENT INFO -> ~ multi=-1 watch=2 ~
         a MULTI -> OK
         b CLIENT LIST -> ~ flags=x db=0 sub=0 psub=0 multi=0 watch=2 ~
         a SET x 1 -> QUEUED
         a SET y 1 -> QUEUED
         b CLIENT LIST -> ~ multi=2 watch=2 ~
         a EXEC -> [OK OK]
         b CLIENT LIST TYPE normal -> ~ multi=-1 watch=0 cmd=exec ~",
    );
}

#[test]
fn savepoints_go_back_and_forth() {
    let cluster = Cluster::started(&[]);
    play(
        &cluster,
        "a SAVEPOINT s -> -ERR SAVEPOINT without BEGIN
         a BEGIN -> OK
         a BEGIN -> -ERR BEGIN inside a transaction: COMMIT or ROLLBACK it first
         a SET x 1 -> OK
         a SAVEPOINT s -> OK
         a SET x 2 -> OK
         a SAVEPOINT t -> OK
         a DEL x -> 1
         a SET y 1 -> OK
         a ROLLBACK TO t -> OK
         a MGET x y -> [2 nil]
         a SET x 3 -> OK
         a RELEASE t -> OK
         a ROLLBACK TO t -> -ERR there is no savepoint 't'
         a GET x -> 3
         a SAVEPOINT s -> OK
         a SET x 4 -> OK
         a ROLLBACK TO s -> OK
         a GET x -> 3
         a RELEASE s -> OK
         a ROLLBACK TO s -> OK
         a GET x -> 1
         a COMMIT -> OK
         a GET x -> 1
         a ROLLBACK -> -ERR ROLLBACK without BEGIN
         a MULTI -> OK
         a BEGIN -> -ERR Command not allowed inside a transaction
         a EXEC -> -EXECABORT Transaction discarded because of previous errors.
         a BEGIN SNAPSHOT SERIALIZABLE -> -ERR syntax error
         a ROLLBACK -> OK
         a BEGIN READ WRITE -> -ERR syntax error
         a SET x 5 -> -ERR BEGIN was refused: syntax error*
         a COMMIT -> -ERR BEGIN was refused: syntax error*
         a GET x -> 1
         a BEGIN -> OK
         a MULTI -> -ERR MULTI inside a transaction*
         a WATCH x -> -ERR WATCH inside a transaction*
         a RESET -> RESET
         a COMMIT -> -ERR COMMIT without BEGIN",
    );
}

#[test]
fn watch_tells_what_others_have_done() {
    let cluster = Cluster::started(&[("backends", "2")]);
    let change = |change: &str, expected: &str| {
        play(
            &cluster,
            &format!(
                "a MSET x 1 y 1 -> OK
                 a DEL gone -> *
                 a WATCH x gone -> OK
                 {change}
                 a MULTI -> OK
                 a SET seen 1 -> QUEUED
                 a EXEC -> {expected}"
            ),
        );
    };
    let (kept, broken) = ("[OK]", "nil");
    change("b SET y 2 -> OK", kept);
    change("b GET x -> 1", kept);
    change("b SET x 1 -> OK", broken);
    change("b APPEND x 0 -> 2", broken);
    change("b EXPIRE x 100 -> 1", broken);
    change("b DEL gone -> 0", kept);
    change("b SET gone 1 -> OK", broken);
    change("b SET gone 1 -> OK\n b DEL gone -> 1", broken);
    change("b DEL x -> 1\n b SET x 1 -> OK", broken);
    change("b SET x 2 XX -> OK", broken);
    change("b SET x 2 NX -> nil", kept);
    change("b FLUSHDB -> OK", broken);
    change("b FLUSHDB -> OK\n b SET x 1 -> OK", broken);
    change("b BEGIN -> OK\n b SET x 2 -> OK", kept);
    change("b BEGIN -> OK\n b SET x 2 -> OK\n b COMMIT -> OK", broken);
    change("b MULTI -> OK\n b INCR x -> QUEUED\n b EXEC -> [2]", broken);
    play(
        &cluster,
        "a WATCH nothing -> OK
         b FLUSHDB -> OK
         a MULTI -> OK
         a PING -> QUEUED
         a EXEC -> [PONG]
         a WATCH nothing -> OK
         b SET nothing 1 -> OK
         b FLUSHDB -> OK
         a MULTI -> OK
         a PING -> QUEUED
         a EXEC -> nil
         a SET x 1 PX 20 -> OK
         a WATCH x -> OK",
    );
    // A key that was there when it was watched, and whose time has come since.
    let mut client = cluster.client();
    for time_to_live_ms in (0..).map(|times| 30 << times) {
        ask(&mut client, &format!("SET short 1 PX {time_to_live_ms}"));
        assert_eq!(ask(&mut client, "WATCH short"), "OK");
        if ask(&mut client, "GET short") == "1" {
            break;
        }
        // The reply to SET took longer than that: it was watched as one that has ended.
        assert_eq!(ask(&mut client, "UNWATCH"), "OK");
    }
    let mut other = cluster.client();
    wait_for("the key's end", || {
        (ask(&mut other, "GET short") == "nil").then_some(())
    });
    ask(&mut client, "MULTI");
    assert_eq!(ask(&mut client, "EXEC"), "nil");
    // One that had ended before, and is not touched.
    assert_eq!(ask(&mut client, "WATCH short"), "OK");
    ask(&mut client, "MULTI");
    assert_eq!(ask(&mut client, "EXEC"), "[]");
}

#[test]
fn commits_are_there_after_a_crash_and_open_transactions_are_not() {
    let mut cluster = Cluster::started(&[]);
    play(
        &cluster,
        "a BEGIN -> OK
         a SET x 1 -> OK
         a SET y 1 -> OK
         a COMMIT -> OK
         a MULTI -> OK
         a SET z 1 -> QUEUED
         a INCR z -> QUEUED
         a EXEC -> [OK 2]",
    );
    let mut open = cluster.client();
    ask(&mut open, "BEGIN");
    ask(&mut open, "SET x 2");
    cluster.kill_all();
    cluster.start();
    play(&cluster, "a MGET x y z -> [1 1 2]");
}

#[test]
fn a_forgotten_transaction_is_ended_and_its_owner_told() {
    let cluster = Cluster::started(&[("idle_in_transaction_timeout", "1s"), ("backends", "1")]);
    let mut client = cluster.client();
    ask(&mut client, "BEGIN");
    ask(&mut client, "SET x 1");
    // Another connection's commands are no sign of life of this one.
    let mut other = cluster.client();
    let ended = wait_for("the end of the transaction", || {
        ask(&mut other, "PING");
        let info = ask(&mut other, "INFO storage");
        let field = "transactions_timed_out:";
        let count = info.lines().find_map(|line| line.strip_prefix(field))?;
        (count.trim() != "0").then(|| ask(&mut client, "SET y 1"))
    });
    assert!(ended.starts_with("-TIMEOUT "), "{ended}");
    assert!(ended.contains("idle_in_transaction_timeout"), "{ended}");
    assert_eq!(ask(&mut client, "PING"), "PONG");
    assert_eq!(ask(&mut client, "BEGIN"), ended, "until it is acknowledged");
    assert_eq!(ask(&mut client, "COMMIT"), ended);
    assert_eq!(ask(&mut client, "MGET x y"), "[nil nil]");
}

#[test]
fn a_snapshot_that_is_too_old_is_given_up() {
    let cluster = Cluster::started(&[("max_snapshot_age", "1s"), ("backends", "1")]);
    let (mut client, mut watcher) = (cluster.client(), cluster.client());
    ask(&mut client, "SET x 1");
    assert_eq!(ask(&mut watcher, "WATCH x"), "OK");
    ask(&mut client, "BEGIN");
    // However busy it is.
    let ended = wait_for("the end of the transaction", || {
        let reply = ask(&mut client, "INCR x");
        reply.starts_with('-').then_some(reply)
    });
    assert!(ended.starts_with("-TIMEOUT "), "{ended}");
    assert!(ended.contains("max_snapshot_age"), "{ended}");
    assert_eq!(ask(&mut client, "ROLLBACK"), "OK");
    assert_eq!(ask(&mut client, "GET x"), "1");
    // Whether the key has changed is not known any more: EXEC does not guess.
    ask(&mut watcher, "MULTI");
    assert_eq!(ask(&mut watcher, "EXEC"), "nil");
    // That one is forgotten; the next may take its time.
    assert_eq!(ask(&mut watcher, "CONFIG SET max_snapshot_age 1h"), "OK");
    assert_eq!(ask(&mut watcher, "WATCH x"), "OK");
    ask(&mut watcher, "MULTI");
    assert_eq!(ask(&mut watcher, "EXEC"), "[]");
}

#[test]
fn a_transaction_that_is_too_large_is_told_the_limit() {
    let cluster = Cluster::started(&[("max_transaction_size", "1MB")]);
    let mut client = cluster.client();
    let value = "v".repeat(300_000);
    ask(&mut client, "BEGIN");
    for number in 0..3 {
        assert_eq!(ask(&mut client, &format!("SET key{number} {value}")), "OK");
    }
    let refused = ask(&mut client, &format!("SET key3 {value}"));
    assert!(refused.contains("max_transaction_size"), "{refused}");
    assert_eq!(ask(&mut client, "COMMIT"), "OK", "what fitted goes on");
    assert_eq!(ask(&mut client, "DBSIZE"), "3");
}

#[test]
fn exec_may_read_more_than_a_commit_can_latch() {
    // A quarter of these buffers are 512 pages.
    let cluster = Cluster::started(&[("shared_buffers", "16MB")]);
    let mut client = cluster.client();
    let value = "v".repeat(200);
    for first in (0..40_000).step_by(1000) {
        let pair = |number: i32| format!(" key{number} {value}");
        let pairs: String = (first..first + 1000).map(pair).collect();
        assert_eq!(ask(&mut client, &format!("MSET{pairs}")), "OK");
    }
    for request in [
        "MULTI",
        "DBSIZE",
        "SET more 1",
        "DBSIZE",
        "DEL key7",
        "DBSIZE",
    ] {
        ask(&mut client, request);
    }
    assert_eq!(ask(&mut client, "EXEC"), "[40000 OK 40001 1 40000]");
    ask(&mut client, "BEGIN SERIALIZABLE");
    assert_eq!(ask(&mut client, "DBSIZE"), "40000");
    ask(&mut client, "SET more 2");
    let refused = ask(&mut client, "COMMIT");
    assert!(refused.contains("a quarter of shared_buffers"), "{refused}");
    assert_eq!(ask(&mut client, "GET more"), "1");
}

#[test]
fn exec_never_fails_on_a_hot_key() {
    let cluster = Cluster::started(&[("backends", "3")]);
    let socket = cluster.socket();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let mut client = Client::connect_unix(&socket).expect("a connection");
                for _ in 0..100 {
                    for request in ["MULTI", "INCR hot", "GET hot", "INCR hot"] {
                        ask(&mut client, request);
                    }
                    let reply = ask(&mut client, "EXEC");
                    let numbers: Vec<i64> = reply
                        .trim_matches(['[', ']'])
                        .split(' ')
                        .map(|number| number.parse().expect("a number"))
                        .collect();
                    assert_eq!(numbers[0], numbers[1]);
                    assert_eq!(numbers[2], numbers[0] + 1);
                }
            });
        }
    });
    assert_eq!(ask(&mut cluster.client(), "GET hot"), "1200");
}
