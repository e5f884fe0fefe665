//! Programs that people use: redis-py, redis-rs, redis-cli, redis-benchmark. Each test but that of
//! redis-rs is skipped, with a message, where the program is not installed.

use rd_tests::support::cluster::Cluster;
use rd_tests::support::skip;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Whether a program can be run.
fn is_there(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let is_there = status.is_ok_and(|status| status.success());
    if !is_there {
        skip(&format!("there is no {program} {}", arguments.join(" ")));
    }
    is_there
}

/// Runs redis-cli with these arguments and this input; gives what it prints.
fn redis_cli(cluster: &Cluster, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("redis-cli")
        .arg("-s")
        .arg(cluster.socket())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn redis_py() {
    if !is_there("python3", &["-c", "import redis"]) {
        return;
    }
    run_script("redis_py.py");
}

/// Runs a script of `tests/clients` against a server; it says `all right` in the end.
fn run_script(name: &str) {
    let cluster = Cluster::started(&[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let output = Command::new("python3")
        .arg(script.join(name))
        .arg(cluster.socket())
        .stdin(Stdio::null())
        .output()
        .expect("it is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert_eq!(said.trim(), "all right");
}

#[test]
fn redis_cli_at_a_terminal() {
    if is_there("python3", &["-c", "import pty"]) && is_there("redis-cli", &["--version"]) {
        run_script("interactive.py");
    }
}

/// The client of another author, in Rust: a connection's commands, pipelines, transactions with
/// their helper, iterators.
#[test]
fn redis_rs() -> redis::RedisResult<()> {
    use redis::Commands;
    let cluster = Cluster::started(&[]);
    let address = format!("redis+unix://{}", cluster.socket().display());
    let mut one = redis::Client::open(address.as_str())?.get_connection()?;
    let mut other = redis::Client::open(address.as_str())?.get_connection()?;
    let _: () = one.set("key", &b"value\0\xff"[..])?;
    assert_eq!(one.get::<_, Vec<u8>>("key")?, b"value\0\xff");
    assert_eq!(one.get::<_, Option<String>>("nothing")?, None);
    let _: () = one.mset(&[("a", 1), ("b", 2)])?;
    let several: (i64, Option<i64>, i64) = one.mget(&["a", "nothing", "b"])?;
    assert_eq!(several, (1, None, 2));
    let refused: redis::RedisResult<i64> = one.incr("key", 1);
    let refused = refused.expect_err("it is a text");
    assert!(refused.to_string().contains("not an integer"), "{refused}");
    let _: () = one.set_ex("ends", "x", 100)?;
    assert!((1..=100).contains(&one.ttl::<_, i64>("ends")?));

    let mut pipe = redis::pipe();
    for number in 0..1000 {
        pipe.set(format!("many:{number:04}"), number).ignore();
    }
    let done: (i64,) = pipe.incr("a", 41).query(&mut one)?;
    assert_eq!(done, (42,));
    let mut found: Vec<String> = one.scan_match("many:*")?.collect::<Result<_, _>>()?;
    found.sort();
    assert_eq!(found.len(), 1000);
    assert_eq!(found[999], "many:0999");
    let range = redis::cmd("RANGE")
        .arg("many:0007")
        .arg("many:0009")
        .clone();
    let range: Vec<(String, i64)> = range.query(&mut one)?;
    assert_eq!(range, [("many:0007".into(), 7), ("many:0008".into(), 8)]);

    // The helper runs again if somebody else changes what it watches.
    let mut runs = 0;
    let (new,): (i64,) = redis::transaction(&mut one, &["a"], |one, pipe| {
        let old: i64 = one.get("a")?;
        runs += 1;
        if runs == 1 {
            let _: () = other.set("a", 100)?;
        }
        pipe.set("a", old + 1).ignore().get("a").query(one)
    })?;
    assert_eq!((runs, new), (2, 101));
    Ok(())
}

#[test]
fn redis_cli_with_arguments_and_from_a_pipe() {
    if !is_there("redis-cli", &["--version"]) {
        return;
    }
    let cluster = Cluster::started(&[]);
    for (words, answer) in [
        (&["PING"][..], "PONG"),
        (&["SET", "key", "a value"], "OK"),
        (&["GET", "key"], "a value"),
        (&["INCR", "n"], "1"),
        (&["-3", "RANGE", "k", "l"], "key a value"),
        (&["DBSIZE"], "2"),
        (&["CHECKPOINT"], "OK"),
    ] {
        assert_eq!(redis_cli(&cluster, words, "").trim(), answer, "{words:?}");
    }
    let answers = redis_cli(
        &cluster,
        &[],
        "MSET a 1 b 2\nMGET a b c\nNOSUCH\nPING \"x y\"\n",
    );
    let lines: Vec<&str> = answers.lines().map(str::trim_end).collect();
    assert_eq!(lines[..4], ["OK", "1", "2", ""], "{answers}");
    assert!(
        lines[4].starts_with("ERR unknown command 'NOSUCH'"),
        "{answers}"
    );
    assert_eq!(lines.last(), Some(&"x y"), "{answers}");
    // Bulk load as redis-cli does it.
    let requests: String = (0..10_000)
        .map(|number| format!("*3\r\n$3\r\nSET\r\n$8\r\npipe{number:04}\r\n$1\r\nv\r\n"))
        .collect();
    let said = redis_cli(&cluster, &["--pipe"], &requests);
    assert!(said.contains("errors: 0, replies: 10000"), "{said}");
    let info = redis_cli(&cluster, &["INFO"], "");
    for section in [
        "# Server",
        "# Clients",
        "# Memory",
        "# Persistence",
        "# Stats",
        "# Keyspace",
    ] {
        assert!(info.contains(section), "{section} in:\n{info}");
    }
    assert!(info.contains("db0:keys=10004,"), "{info}");
}

#[test]
fn redis_benchmark() {
    if !is_there("redis-benchmark", &["--version"]) {
        return;
    }
    let cluster = Cluster::started(&[]);
    let output = Command::new("redis-benchmark")
        .arg("-s")
        .arg(cluster.socket())
        .args([
            "-t",
            "ping,set,get,incr,mset",
            "-n",
            "2000",
            "-c",
            "20",
            "-P",
            "4",
        ])
        .args(["-r", "1000", "-d", "100", "--csv"])
        .stdin(Stdio::null())
        .output()
        .expect("it is installed");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(
        !errors.contains("WARNING"),
        "CONFIG GET serves it: {errors}"
    );
    for test in [
        "PING_INLINE",
        "PING_MBULK",
        "SET",
        "GET",
        "INCR",
        "MSET (10 keys)",
    ] {
        assert!(said.contains(&format!("\"{test}\"")), "{test} in {said}");
    }
}
