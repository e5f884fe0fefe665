//! Which backend serves a connection, and that a client cannot tell when that changes.

#![allow(clippy::unwrap_used)]

use rd_tests::support::cluster::Cluster;
use rd_tests::support::wait_for;
use rd_wire::{Client, Reply};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

fn ask(client: &mut Client, words: &[&str]) -> Reply {
    client.call(words).unwrap()
}

fn field<'a>(row: &'a str, name: &str) -> &'a str {
    let rest = row.split_once(&format!(" {name}=")).unwrap().1;
    rest.split([' ', '\n']).next().unwrap()
}

/// The backend of each connection that has a name of its own.
fn backends(admin: &mut Client) -> BTreeMap<String, String> {
    let list = ask(admin, &["CLIENT", "LIST"]);
    let rows = list.as_str().unwrap().lines();
    rows.map(|row| {
        (
            field(row, "name").to_owned(),
            field(row, "backend").to_owned(),
        )
    })
    .filter(|(name, _)| !name.is_empty())
    .collect()
}

fn backend_of(client: &mut Client) -> String {
    let info = ask(client, &["CLIENT", "INFO"]);
    field(info.as_str().unwrap(), "backend").to_owned()
}

#[test]
fn one_backend_is_filled_before_the_next() {
    let cluster = Cluster::started(&[("backends", "2"), ("backend_fill", "100")]);
    let mut clients: Vec<Client> = (0..5).map(|_| cluster.client()).collect();
    let first = backend_of(&mut clients[0]);
    assert!(clients.iter_mut().all(|client| backend_of(client) == first));
    assert!(ask(&mut clients[0], &["CONFIG", "SET", "backend_fill", "5"]).is_ok());
    cluster.wait_log("parameter \"backend_fill\" changed to \"5\"");
    assert_ne!(backend_of(&mut cluster.client()), first);
}

/// What a client does that moves about: its number's own key and database.
fn work(cluster: &Cluster, number: u64, stop: &AtomicBool) -> u64 {
    let mut client = cluster.client();
    let (name, database) = (format!("worker{number}"), number.to_string());
    let protocol = if number.is_multiple_of(2) { "2" } else { "3" };
    ask(&mut client, &["HELLO", protocol]);
    for words in [
        &["CLIENT", "SETNAME", &name][..],
        &["SELECT", &database],
        &["CLIENT", "NO-TOUCH", "on"],
    ] {
        assert!(ask(&mut client, words).is_ok(), "{words:?}");
    }
    let mut count: i64 = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..10 {
            client.send(&["INCR", "count"]);
        }
        client.flush().unwrap();
        for reply in client.receive_many(10).unwrap() {
            count += 1;
            assert_eq!(reply.as_int(), Some(count));
        }
        for begin in ["MULTI", "BEGIN"] {
            assert!(ask(&mut client, &[begin]).is_ok());
            ask(&mut client, &["INCR", "count"]);
            count += 1;
            let end = if begin == "MULTI" { "EXEC" } else { "COMMIT" };
            let ended = ask(&mut client, &[end]);
            assert!(ended.error().is_none(), "{ended:?}");
        }
        let info = ask(&mut client, &["CLIENT", "INFO"]);
        let row = info.as_str().unwrap();
        let shown = ["name", "db", "resp", "flags"].map(|name| field(row, name));
        assert_eq!(shown, [&name, &database, protocol, "T"]);
    }
    count as u64
}

#[test]
fn a_client_cannot_tell_that_its_connection_moves() {
    const WORKERS: u64 = 6;
    let mut cluster = Cluster::started(&[("backends", "3"), ("backend_fill", "100")]);
    cluster.announce("fault point backend_crowded does its action");
    let cluster = &cluster;
    let mut admin = cluster.client();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let works = |number| {
            scope.spawn({
                let stop = &stop;
                move || work(cluster, number, stop)
            })
        };
        let workers: Vec<_> = (1..=WORKERS).map(works).collect();
        let mut moves: BTreeMap<String, u32> = BTreeMap::new();
        let mut before = wait_for("the workers", || {
            Some(backends(&mut admin)).filter(|found| found.len() as u64 == WORKERS)
        });
        for round in 1.. {
            // They go to the first backend, which then has more than the others.
            let crowd: Vec<Client> = (0..12).map(|_| cluster.client()).collect();
            cluster.arm(&format!("backend_crowded=eio@{}", 1 + round % 7));
            // Maybe before the moves of this round: then they are seen in the next.
            let after = backends(&mut admin);
            for (name, backend) in &after {
                if before.get(name) != Some(backend) {
                    *moves.entry(name.clone()).or_default() += 1;
                }
            }
            before = after;
            drop(crowd);
            if moves.values().sum::<u32>() >= 6 && moves.len() >= 2 {
                break;
            }
            assert!(round < 500, "{moves:?}");
        }
        // Whoever has moved can still be found and closed.
        let mut victim = cluster.client();
        let id = ask(&mut victim, &["CLIENT", "ID"])
            .as_int()
            .unwrap()
            .to_string();
        assert_eq!(
            ask(&mut admin, &["CLIENT", "KILL", "ID", &id]).as_int(),
            Some(1)
        );
        wait_for("the victim to be closed", || {
            victim.call(&["PING"]).is_err().then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        let counts: Vec<u64> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect();
        for (number, count) in (1..).zip(counts) {
            let mut reader = cluster.client();
            ask(&mut reader, &["SELECT", &u64::to_string(&number)]);
            let got = ask(&mut reader, &["GET", "count"]);
            assert_eq!(got.as_str(), Some(&*count.to_string()), "worker {number}");
        }
    });
}
