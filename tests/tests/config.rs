//! Configuration end to end: files, reload, and CONFIG over the wire.

use nix::sys::signal::Signal;
use rd_tests::support::cluster::Cluster;
use rd_tests::support::raw::request;
use rd_tests::support::wait_for;
use rd_wire::Client;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

fn config_get(client: &mut Client, name: &str) -> Option<String> {
    let reply = client.call(&["CONFIG", "GET", name]).expect("answered");
    let words = reply.as_slice().expect("an array").to_vec();
    let value = words.get(1)?;
    value.as_str().map(str::to_owned)
}

fn config_set(client: &mut Client, pairs: &[&str]) -> Result<(), String> {
    let words = [&["CONFIG", "SET"], pairs].concat();
    let reply = client.call(&words).expect("answered");
    match reply.error() {
        Some(error) => Err(error.to_owned()),
        None => Ok(()),
    }
}

/// Adds lines to `redoubt.conf`; gives the number of the first.
fn append(cluster: &Cluster, lines: &str) -> usize {
    let path = cluster.path("redoubt.conf");
    let mut text = fs::read_to_string(&path).expect("rd_initdb writes it");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let first = text.lines().count() + 1;
    text.push_str(lines);
    text.push('\n');
    fs::write(&path, text).expect("written");
    first
}

#[test]
fn a_mistake_names_file_line_parameter_and_range_and_prevents_the_start() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("redoubt.conf");
    cluster.stop(Signal::SIGINT);
    let original = fs::read_to_string(cluster.path("redoubt.conf")).expect("a sample");
    let cases: &[(&str, &[&str])] = &[
        (
            "checkpoint_timeout = 1s",
            &["checkpoint_timeout", "30s .. 1d"],
        ),
        ("max_connections = 0", &["max_connections", "1 .. 1000000"]),
        ("shared_buffers = 128 MB", &["shared_buffers", "quote"]),
        (
            "wal_sync_method = sometimes",
            &["wal_sync_method", "fdatasync, fsync, open_datasync"],
        ),
        (
            "synchronous_commit = perhaps",
            &["synchronous_commit", "on or off"],
        ),
        ("max_wal_size = 1GiB", &["max_wal_size", "GB"]),
        ("no_such_parameter = 1", &["no_such_parameter"]),
        (
            "checkpoint_timeouts = 1min",
            &["checkpoint_timeouts", "\"checkpoint_timeout\""],
        ),
        ("min_wal_size = 2GB", &["min_wal_size", "max_wal_size"]),
        ("log_connections = 'on", &["log_connections", "quote"]),
        ("include = nowhere.conf", &["nowhere.conf"]),
        ("= 5", &["syntax error"]),
    ];
    for (line, words) in cases {
        fs::write(cluster.path("redoubt.conf"), &original).expect("written");
        let number = append(&cluster, line);
        let (log, code) = cluster.start_refused();
        assert_eq!(code, Some(1), "{line}");
        let place = format!("redoubt.conf:{number}");
        let said = log.lines().find(|said| said.contains(&place));
        let said = said.unwrap_or_else(|| panic!("{line}: no {place} in:\n{log}"));
        for word in *words {
            assert!(said.contains(word), "{line}: no {word:?} in {said}");
        }
    }
    // All mistakes at once, not one by one.
    fs::write(cluster.path("redoubt.conf"), &original).expect("written");
    append(&cluster, "max_connections = x\nbackends = 100\n");
    let (log, _) = cluster.start_refused();
    assert!(
        log.contains("max_connections") && log.contains("backends"),
        "{log}"
    );
    // The command line is named as such.
    fs::write(cluster.path("redoubt.conf"), &original).expect("written");
    cluster.announce("command line");
    cluster.set("backends", "100");
    let (log, _) = cluster.start_refused();
    assert!(log.contains("backends") && log.contains("0 .. 64"), "{log}");
    cluster.set("backends", "4");
    cluster.start();
}

#[test]
fn a_reload_takes_what_is_good_and_keeps_the_old_where_it_is_not() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("redoubt.conf");
    let mut client = cluster.client();
    assert_eq!(
        config_get(&mut client, "checkpoint_warning").as_deref(),
        Some("30s")
    );
    let number = append(
        &cluster,
        "checkpoint_warning = 45s\ncheckpoint_timeout = 1s\nshared_buffers = 64MB\n\
         log_connections = on",
    );
    cluster.signal(Signal::SIGHUP);
    cluster.wait_log("parameter \"checkpoint_warning\" changed to \"45s\"");
    let log = cluster.log_since_start();
    let bad = format!(
        "redoubt.conf:{}: parameter \"checkpoint_timeout\"",
        number + 1
    );
    assert!(log.contains(&bad), "{log}");
    // Every backend has it.
    let mut clients: Vec<Client> = (0..16).map(|_| cluster.client()).collect();
    for client in &mut clients {
        wait_for("the backend to take it up", || {
            let value = config_get(client, "checkpoint_warning");
            (value.as_deref() == Some("45s")).then_some(())
        });
        assert_eq!(
            config_get(client, "checkpoint_timeout").as_deref(),
            Some("5min")
        );
    }
    // What cannot be changed while the server runs is said, and stays.
    assert_eq!(
        config_get(&mut client, "shared_buffers").as_deref(),
        Some("32MB")
    );
    let text = fs::read_to_string(cluster.path("redoubt.conf")).expect("it is there");
    let mended = text.replace("checkpoint_timeout = 1s", "checkpoint_timeout = 2min");
    fs::write(cluster.path("redoubt.conf"), mended).expect("written");
    append(&cluster, "double_write_size = 32MB");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_log("parameter \"checkpoint_timeout\" changed to \"2min\"");
    let log = cluster.log_since_start();
    let said = log.lines().any(|line| line.contains("double_write_size"));
    assert!(said, "a change that needs a restart is said:\n{log}");
    cluster.stop(Signal::SIGINT);
    cluster.start();
    let mut client = cluster.client();
    assert_eq!(
        config_get(&mut client, "double_write_size").as_deref(),
        Some("32MB")
    );
}

#[test]
fn config_set_reaches_all_backends_and_ends_with_the_server() {
    let mut cluster = Cluster::started(&[]);
    let mut clients: Vec<Client> = (0..16).map(|_| cluster.client()).collect();
    config_set(
        &mut clients[0],
        &["checkpoint_timeout", "10min", "timeout", "1h"],
    )
    .expect("set");
    for client in &mut clients {
        wait_for("the backend to take it up", || {
            let value = config_get(client, "checkpoint_timeout");
            (value.as_deref() == Some("10min")).then_some(())
        });
        assert_eq!(config_get(client, "timeout").as_deref(), Some("3600"));
    }
    // All or none.
    let error = config_set(
        &mut clients[1],
        &["log_connections", "on", "max_connections", "0"],
    );
    let error = error.expect_err("0 connections");
    assert!(error.starts_with("ERR CONFIG SET failed"), "{error}");
    assert!(
        error.contains("max_connections") && error.contains("1 .. 1000000"),
        "{error}"
    );
    assert_eq!(
        config_get(&mut clients[1], "log_connections").as_deref(),
        Some("off")
    );
    for (pairs, word) in [
        (["shared_buffers", "64MB"], "immutable"),
        (["wal_segment_size", "1MB"], "immutable"),
        (["nosuch", "1"], "nosuch"),
        (["checkpoint_timeout", "soon"], "soon"),
    ] {
        let error = config_set(&mut clients[2], &pairs).expect_err("wrong");
        assert!(error.contains(word), "{pairs:?}: {error}");
    }
    // A crash keeps it, since the postmaster goes on; a restart does not.
    drop(clients);
    cluster.stop(Signal::SIGINT);
    cluster.start();
    let mut client = cluster.client();
    assert_eq!(
        config_get(&mut client, "checkpoint_timeout").as_deref(),
        Some("5min")
    );
}

/// Whoever edits the file says when it counts: until then others may set what they like.
#[test]
fn config_set_reads_no_file() {
    let cluster = Cluster::started(&[]);
    let mut clients: Vec<Client> = (0..16).map(|_| cluster.client()).collect();
    append(&cluster, "checkpoint_timeout = 20min\n");
    config_set(&mut clients[0], &["timeout", "1h"]).expect("set");
    for client in &mut clients {
        wait_for("the backend to take it up", || {
            let value = config_get(client, "timeout");
            (value.as_deref() == Some("3600")).then_some(())
        });
        let value = config_get(client, "checkpoint_timeout");
        assert_eq!(value.as_deref(), Some("5min"));
    }
    cluster.signal(Signal::SIGHUP);
    for client in &mut clients {
        wait_for("the backend to take it up", || {
            let value = config_get(client, "checkpoint_timeout");
            (value.as_deref() == Some("20min")).then_some(())
        });
        assert_eq!(config_get(client, "timeout").as_deref(), Some("3600"));
    }
    let log = cluster.log();
    assert_eq!(log.matches("received SIGHUP").count(), 1, "{log}");
}

/// Of two sessions that set the same at once the later one counts, on the earlier one's backend, too; also
/// where what it sets is what was there before, so that nothing has changed for who looks in between.
#[test]
fn who_sets_what_was_there_before_is_heard() {
    let cluster = Cluster::started(&[]);
    let mut clients: Vec<Client> = (0..16).map(|_| cluster.client()).collect();
    let everywhere = |clients: &mut [Client], seconds: &str| {
        for client in clients {
            wait_for("the backend to take it up", || {
                let value = config_get(client, "timeout");
                (value.as_deref() == Some(seconds)).then_some(())
            });
        }
    };
    for _ in 0..200 {
        config_set(&mut clients[0], &["timeout", "100s"]).expect("set");
        everywhere(&mut clients, "100");
        config_set(&mut clients[0], &["timeout", "200s"]).expect("set");
        config_set(&mut clients[15], &["timeout", "100s"]).expect("set");
        everywhere(&mut clients, "100");
    }
}

#[test]
fn limits_of_requests_reach_those_who_are_connected() {
    let cluster = Cluster::started(&[]);
    let mut connected = cluster.raw();
    assert_eq!(connected.ask(&request(&[b"PING"])), b"+PONG\r\n");
    let less = ["max_value_size", "1MB", "proto-max-bulk-len", "1MB"];
    config_set(&mut cluster.client(), &less).expect("set");
    wait_for("the backend to take it up", || {
        let value = connected.ask(&request(&[b"CONFIG", b"GET", b"proto-max-bulk-len"]));
        value.ends_with(b"\r\n1048576\r\n").then_some(())
    });
    connected.send(b"*2\r\n$4\r\nPING\r\n$1048577\r\n");
    assert_eq!(
        connected.read_to_end(),
        b"-ERR Protocol error: invalid bulk length\r\n"
    );
}

#[test]
fn config_set_outlives_a_crash() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("terminating all other server processes");
    config_set(&mut cluster.client(), &["checkpoint_timeout", "10min"]).expect("set");
    rd_tests::support::cluster::send(cluster.child("walwriter"), Signal::SIGKILL);
    cluster.wait_log_times("server is ready to accept connections", 2);
    cluster.wait_ready().expect("it recovers");
    let value = config_get(&mut cluster.client(), "checkpoint_timeout");
    assert_eq!(value.as_deref(), Some("10min"));
}

#[test]
fn config_rewrite_makes_it_last() {
    let mut cluster = Cluster::started(&[]);
    append(
        &cluster,
        "# a comment of mine\ntimeout = 10s # and one behind a value",
    );
    let mut client = cluster.client();
    config_set(
        &mut client,
        &["timeout", "20", "checkpoint_timeout", "7min"],
    )
    .expect("set");
    let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
    assert!(reply.is_ok(), "{reply:?}");
    let text = fs::read_to_string(cluster.path("redoubt.conf")).expect("it is there");
    assert!(text.contains("# a comment of mine"), "{text}");
    assert!(text.contains("# and one behind a value"), "{text}");
    drop(client);
    cluster.stop(Signal::SIGINT);
    cluster.start();
    let mut client = cluster.client();
    assert_eq!(
        config_get(&mut client, "checkpoint_timeout").as_deref(),
        Some("7min")
    );
    assert_eq!(config_get(&mut client, "timeout").as_deref(), Some("20"));
}

/// Not by the postmaster alone, whose children log most.
#[test]
fn what_is_logged_changes_in_every_process() {
    let cluster = Cluster::started(&[("log_min_messages", "warning"), ("backends", "2")]);
    let mut clients = [cluster.client(), cluster.client()];
    config_set(&mut clients[0], &["log_min_messages", "log"]).expect("set");
    // At once in the backend that has set it, and in the others when they have heard of it.
    assert!(
        cluster
            .log_since_start()
            .contains("CONFIG SET log_min_messages")
    );
    for (number, client) in clients.iter_mut().enumerate() {
        wait_for(&format!("client {number}'s backend to log"), || {
            config_set(
                client,
                &["checkpoint_timeout", &format!("{}min", number + 7)],
            )
            .ok()?;
            let line = format!("CONFIG SET checkpoint_timeout = {}min", number + 7);
            cluster.log_since_start().contains(&line).then_some(())
        });
    }
    wait_for("the checkpointer to log", || {
        let reply = clients[0].call(&["CHECKPOINT"]).expect("answered");
        assert!(reply.is_ok(), "{reply:?}");
        cluster
            .log_since_start()
            .contains("checkpoint complete")
            .then_some(())
    });
}

#[test]
fn fault_points_that_prevent_a_start_cannot_be_set() {
    let mut cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    for wrong in ["nonsense", "wal_sync=never", "wal_sync=eio@0"] {
        let error = config_set(&mut client, &["timeout", "17", "fault_points", wrong]);
        let error = error.expect_err("no such point or action");
        assert!(error.contains("'fault_points'"), "{error}");
        assert!(error.contains(wrong), "{error}");
    }
    assert_eq!(config_get(&mut client, "fault_points").as_deref(), Some(""));
    assert_eq!(config_get(&mut client, "timeout").as_deref(), Some("0"));
    let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
    assert!(reply.is_ok(), "{reply:?}");
    drop(client);
    cluster.stop(Signal::SIGINT);
    cluster.start();
}

#[test]
fn config_rewrite_leaves_a_link_where_it_is() {
    let cluster = Cluster::started(&[]);
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (link, file) = (
        cluster.path("redoubt.conf"),
        elsewhere.path().join("mine.conf"),
    );
    fs::rename(&link, &file).expect("moved");
    std::os::unix::fs::symlink(&file, &link).expect("made");
    let mode = || fs::metadata(&file).expect("there").permissions().mode() & 0o777;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("ours");
    // Of another server, which has its file there too.
    let foreign = elsewhere.path().join("redoubt.conf.new");
    fs::write(&foreign, "of another").expect("written");
    let mut client = cluster.client();
    config_set(&mut client, &["checkpoint_timeout", "7min"]).expect("set");
    let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(fs::read_link(&link).expect("still a link"), file);
    let text = fs::read_to_string(&file).expect("it is there");
    assert!(text.contains("\ncheckpoint_timeout = 7min\n"), "{text}");
    assert_eq!(mode(), 0o640);
    assert_eq!(fs::read(&foreign).expect("there"), b"of another");
    assert_eq!(fs::read_dir(elsewhere.path()).expect("ours").count(), 2);
    // Whoever is refused learns of which file.
    fs::remove_file(&file).expect("ours");
    let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
    let error = reply.error().expect("it leads nowhere");
    assert!(error.contains(&*link.to_string_lossy()), "{error}");
}

/// Whoever locks the directory does not hold up the clients of a backend for long.
#[test]
fn config_rewrite_does_not_wait_for_ever() {
    let cluster = Cluster::started(&[]);
    let directory = fs::File::open(cluster.data_dir()).expect("a directory");
    let lock = nix::fcntl::Flock::lock(directory, nix::fcntl::FlockArg::LockExclusive);
    let lock = lock.map_err(|(_, error)| error).expect("nobody has it");
    let mut client = cluster.client();
    let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
    let error = reply.error().expect("it is locked");
    assert!(error.contains("try again"), "{error}");
    drop(lock);
    let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
    assert!(reply.is_ok(), "{reply:?}");
}

#[test]
fn config_rewrite_leaves_a_file_alone_with_which_no_server_would_start() {
    let mut cluster = Cluster::started(&[]);
    cluster.announce("CONFIG SET: parameter \"min_wal_size\"");
    let mut client = cluster.client();
    config_set(&mut client, &["min_wal_size", "900MB"]).expect("less than max_wal_size");
    append(&cluster, "max_wal_size = 512MB");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_log("CONFIG SET: parameter \"min_wal_size\"");
    let before = fs::read_to_string(cluster.path("redoubt.conf")).expect("it is there");
    let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
    let error = reply.error().expect("it would prevent the next start");
    assert!(error.contains("no server would start with it"), "{error}");
    assert!(error.contains("\"max_wal_size\" (512MB)"), "{error}");
    let behind = fs::read_to_string(cluster.path("redoubt.conf")).expect("it is there");
    assert_eq!(before, behind);
}

#[test]
fn backends_that_rewrite_the_file_at_once_leave_it_whole() {
    const ROUNDS: usize = 60;
    let cluster = Cluster::started(&[("backends", "2"), ("backend_fill", "1")]);
    append(&cluster, "# the last line");
    let rewrite = |name: &str| {
        let mut client = cluster.client();
        for round in 1..=ROUNDS {
            let value = (100 + round).to_string();
            config_set(&mut client, &[name, &value]).expect("set");
            // One waits for the other, but not for long on a slow disk.
            wait_for("one's turn", || {
                let reply = client.call(&["CONFIG", "REWRITE"]).expect("answered");
                let must_wait = reply
                    .error()
                    .is_some_and(|error| error.ends_with("try again"));
                assert!(reply.is_ok() || must_wait, "{reply:?}");
                reply.is_ok().then_some(())
            });
            let text = fs::read_to_string(cluster.path("redoubt.conf")).expect("always there");
            assert!(text.contains("# the last line"), "{name} {round}: {text}");
            let line = format!("\n{name} = {value}\n");
            assert!(text.contains(&line), "{name} {round}: {text}");
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| rewrite("max_connections"));
        scope.spawn(|| rewrite("checkpoint_failures_max"));
    });
}

#[test]
fn over_tcp_nothing_that_names_places_can_be_set() {
    // A port that is free now, and most likely still is in a moment.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let text = port.to_string();
    let cluster = Cluster::started(&[("listen_addresses", "127.0.0.1"), ("port", &text)]);
    let mut tcp = Client::connect(("127.0.0.1", port)).expect("it listens");
    let error = config_set(&mut tcp, &["fault_points", "wal_sync=kill"]).expect_err("restricted");
    assert!(error.contains("only over the unix socket"), "{error}");
    config_set(&mut tcp, &["checkpoint_timeout", "10min"]).expect("harmless");
    let reply = tcp.call(&["CONFIG", "REWRITE"]).expect("answered");
    assert!(reply.is_ok(), "{reply:?}");
    let mut local = cluster.client();
    config_set(&mut local, &["fault_points", ""]).expect("its own user may");
    assert_eq!(
        config_get(&mut local, "checkpoint_timeout").as_deref(),
        Some("10min")
    );
}

#[test]
fn config_get_knows_both_spellings_and_patterns() {
    let cluster = Cluster::started(&[]);
    let mut client = cluster.client();
    for (name, value) in [
        ("max_connections", "10000"),
        ("maxclients", "10000"),
        ("max_wal_size", "1GB"),
        ("wal_sync_method", "open_datasync"),
    ] {
        assert_eq!(
            config_get(&mut client, name).as_deref(),
            Some(value),
            "{name}"
        );
    }
    let reply = client
        .call(&["CONFIG", "GET", "checkpoint_*"])
        .expect("answered");
    assert!(reply.as_slice().expect("an array").len() >= 12, "{reply:?}");
    let reply = client.call(&["CONFIG", "GET", "*"]).expect("answered");
    let names: Vec<&str> = reply
        .as_slice()
        .expect("an array")
        .iter()
        .step_by(2)
        .filter_map(|name| name.as_str())
        .collect();
    // What redis-benchmark asks for, so that it does not complain.
    for name in ["save", "appendonly", "shared_buffers", "synchronous_commit"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}
