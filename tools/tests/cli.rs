//! `rd_cli` from scripts and pipes, against a small server of this test's own.

mod support;

use rd_tools::probe::Target;
use rd_tools::shell::session::{Protocol, Session};
use rd_wire::request::{Limits, Parsed, RequestParser};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use support::{Ran, command, finish, run};

/// A map behind the protocol: SET, GET, ECHO, LIST; HELLO changes nothing. It serves until the
/// test ends.
fn server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("a client");
            thread::spawn(move || serve(client));
        }
    });
    port.to_string()
}

fn serve(mut client: TcpStream) {
    let mut map = HashMap::<Vec<u8>, Vec<u8>>::new();
    let mut input = Vec::new();
    let mut parser = RequestParser::new(Limits::default());
    let mut chunk = [0; 4096];
    loop {
        let words: Vec<Vec<u8>> = match parser.parse(&input) {
            Parsed::Request { args, consumed } => {
                let words = args.iter().map(<[u8]>::to_vec).collect();
                input.drain(..consumed);
                words
            }
            Parsed::Empty { consumed } => {
                input.drain(..consumed);
                continue;
            }
            Parsed::Incomplete { .. } => {
                match client.read(&mut chunk) {
                    Ok(0) | Err(_) => return,
                    Ok(count) => input.extend_from_slice(&chunk[..count]),
                }
                continue;
            }
            Parsed::Error(_) | Parsed::HttpAttack => return,
        };
        let text: Vec<String> = words
            .iter()
            .map(|word| String::from_utf8_lossy(word).to_lowercase())
            .collect();
        let text: Vec<&str> = text.iter().map(String::as_str).collect();
        let reply = match text.as_slice() {
            ["set", ..] if words.len() == 3 => {
                map.insert(words[1].clone(), words[2].clone());
                b"+OK\r\n".to_vec()
            }
            ["get", _] => map
                .get(&words[1])
                .map_or(b"$-1\r\n".to_vec(), |value| bulk(value)),
            ["echo", _] => bulk(&words[1]),
            ["hello", "3"] => b"%1\r\n+proto\r\n:3\r\n".to_vec(),
            ["list"] => b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n".to_vec(),
            ["info"] => bulk(b"# Server\r\na:1\r\n"),
            ["pause", seconds] => {
                let seconds = seconds.parse().expect("a number");
                thread::sleep(Duration::from_secs(seconds));
                b"+OK\r\n".to_vec()
            }
            ["shutdown"] => return,
            _ => b"-ERR unknown command\r\n".to_vec(),
        };
        if client.write_all(&reply).is_err() {
            return;
        }
    }
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    let mut out = format!("${}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}

/// Runs `rd_cli` with this on standard input.
fn with_input(args: &[&str], input: &[u8]) -> Ran {
    let mut command = command("rd_cli");
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("rd_cli is there");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    // It may leave before it has read all.
    let writer = thread::spawn(move || drop(stdin.write_all(&input)));
    let ran = finish(child.wait_with_output().expect("ours"));
    writer.join().expect("no panic");
    ran
}

#[test]
fn commands_as_arguments() {
    let port = server();
    let ask = |args: &[&str]| run("rd_cli", &[&["-p", &port], args].concat());
    for (args, code, out) in [
        (&["ECHO", "a b"][..], 0, "a b\n"),
        (&["--no-raw", "ECHO", "a\"b"], 0, "\"a\\\"b\"\n"),
        (&["--no-raw", "LIST"], 0, "1) (integer) 1\n2) 1) \"x\"\n"),
        (&["LIST"], 0, "1\nx\n"),
        (&["--no-raw", "INFO"], 0, "# Server\r\na:1\r\n"),
        (&["-3", "ECHO", "-x"], 0, "-x\n"),
        (&["GET", "none"], 0, "\n"),
        (&["NONSENSE"], 0, "ERR unknown command\n\n"),
        (&["-e", "NONSENSE"], 1, "ERR unknown command\n\n"),
        (&["-r", "2", "ECHO", "again"], 0, "again\nagain\n"),
        (&["SHUTDOWN"], 0, ""),
    ] {
        let ran = ask(args);
        assert_eq!(
            (ran.code, ran.out.as_str(), ran.err.as_str()),
            (code, out, ""),
            "{args:?}"
        );
    }
    let refused = ask(&["-n", "5", "ECHO", "x"]);
    assert_eq!(refused.code, 1);
    assert_eq!(
        refused.err,
        "rd_cli: error: SELECT 5 failed: ERR unknown command\n"
    );
    let last = with_input(&["-p", &port, "-x", "ECHO"], b"from\0stdin");
    assert_eq!((last.code, last.out.as_str()), (0, "from\0stdin\n"));
}

#[test]
fn commands_from_a_pipe() {
    let port = server();
    let lines = b"set k \"a\\x41\"\n\nget k\r\nget \"\nnonsense\nget k\nquit\nget k\n";
    let ran = with_input(&["-p", &port], lines);
    assert_eq!(ran.code, 0);
    assert_eq!(
        ran.out,
        "OK\naA\nInvalid argument(s)\nERR unknown command\n\naA\n"
    );
    let strict = with_input(&["-p", &port, "-e"], b"nonsense\nget k\n");
    assert_eq!(
        (strict.code, strict.out.as_str()),
        (1, "ERR unknown command\n\n")
    );
    let strict = with_input(&["-p", &port, "-e"], b"set a b\nget '\n");
    assert_eq!(strict.code, 1);
    assert!(
        strict
            .err
            .contains("line 2 of standard input: Invalid argument(s)")
    );
}

#[test]
fn bulk_load_counts_replies_and_errors() {
    let port = server();
    let mut load = Vec::new();
    for number in 0..20_000 {
        let key = format!("key:{number}");
        rd_wire::client::encode(&mut load, &["SET", key.as_str(), "value"]);
    }
    let ran = with_input(&["-p", &port, "--pipe"], &load);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(
        ran.out,
        "All data transferred. Waiting for the last reply...\n\
         Last reply received from server.\nerrors: 0, replies: 20000\n"
    );
    rd_wire::client::encode(&mut load, &["NONSENSE"]);
    let ran = with_input(&["-p", &port, "--pipe"], &load);
    assert_eq!((ran.code, ran.err.as_str()), (1, "ERR unknown command\n"));
    assert!(
        ran.out.ends_with("errors: 1, replies: 20001\n"),
        "{}",
        ran.out
    );
    let ran = with_input(&["-p", &port, "--pipe"], b"ECHO inline\r\n");
    assert!(ran.out.ends_with("errors: 0, replies: 1\n"), "{}", ran.out);
}

#[test]
fn bulk_load_of_half_a_request_or_of_nonsense_ends() {
    let port = server();
    let half = with_input(
        &["-p", &port, "--pipe", "--pipe-timeout", "3"],
        b"ECHO x\r\n*2\r\n$4\r\nECHO\r\n$100\r\nabc",
    );
    assert_eq!(half.code, 1);
    // A server on a busy machine may not have answered in time what it could.
    assert!(
        ["0", "1"].iter().any(|replies| {
            let broke_off = format!("broke off after {replies} replies, 0 errors");
            half.err.contains(&broke_off)
        }),
        "{}",
        half.err
    );
    assert!(
        half.err
            .contains("hint: Does the input end within a request?"),
        "{}",
        half.err
    );
    let nonsense = with_input(&["-p", &port, "--pipe"], b"ECHO x\r\n*1\r\n%3\r\nabc\r\n");
    assert_eq!(nonsense.code, 1);
    assert!(nonsense.err.contains("broke off after"), "{}", nonsense.err);
}

/// The sender cannot go on: nobody waits for what it has not sent.
#[test]
fn bulk_load_of_what_cannot_be_read_ends() {
    let port = server();
    let mut command = command("rd_cli");
    command
        .args(["-p", &port, "--pipe"])
        .stdin(File::open(std::env::temp_dir()).expect("a directory"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("rd_cli is there");
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().expect("ours").is_none() {
        if Instant::now() >= deadline {
            child.kill().expect("ours");
            panic!("it waits for ever");
        }
        // Between two looks.
        thread::sleep(Duration::from_millis(2));
    }
    let ran = finish(child.wait_with_output().expect("ours"));
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("could not read the input"), "{}", ran.err);
}

/// The time limit is one for replies, once all is sent.
#[test]
fn bulk_load_waits_for_a_server_that_takes_nothing_for_a_while() {
    let port = server();
    // More than the sockets on the way take in.
    let value = "v".repeat(1 << 20);
    // More than twice the limit: a write that is held up may have got a part through.
    let load = |limit: &str, pause: &str| {
        let mut load = Vec::new();
        rd_wire::client::encode(&mut load, &["PAUSE", pause]);
        for _ in 0..32 {
            rd_wire::client::encode(&mut load, &["SET", "key", &value]);
        }
        with_input(&["-p", &port, "--pipe", "--pipe-timeout", limit], &load)
    };
    let mut ran = load("3", "7");
    if ran.code != 0 {
        // On a busy machine the last replies may take as long as the short limit.
        ran = load("10", "22");
    }
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.ends_with("errors: 0, replies: 33\n"), "{}", ran.out);
}

/// A server whose first connections end with no answer, each with the first command that begins with
/// the word in its place here; it notes all that it is sent.
fn dropping_server(ends: &'static [&'static str]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&noted);
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let mut client = client.expect("a client");
            let mut parser = RequestParser::new(Limits::default());
            let (mut input, mut chunk) = (Vec::new(), [0; 4096]);
            loop {
                if let Parsed::Request { args, consumed } = parser.parse(&input) {
                    let words: Vec<_> = args.iter().map(String::from_utf8_lossy).collect();
                    let line = words.join(" ");
                    input.drain(..consumed);
                    let end = ends.get(number);
                    let is_last = end.is_some_and(|end| line.starts_with(end));
                    notes.lock().expect("no panic").push(line);
                    if is_last {
                        break;
                    }
                    client.write_all(b"+OK\r\n").expect("it reads");
                    continue;
                }
                match client.read(&mut chunk) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => input.extend_from_slice(&chunk[..count]),
                }
            }
        }
    });
    (port.to_string(), noted)
}

#[test]
fn a_read_is_sent_again_where_the_old_connection_was() {
    let (port, noted) = dropping_server(&["get"]);
    let ran = with_input(&["-p", &port], b"use orders\nget k\n");
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let noted = noted.lock().expect("no panic");
    assert_eq!(*noted, ["use orders", "get k", "USE orders", "get k"]);
}

#[test]
fn nothing_of_a_transaction_that_is_lost_is_carried_out_by_itself() {
    for lines in [
        "begin\nset a 1\nget k\nset b 2\ncommit\n",
        "multi\nget k\nset b 2\nexec\n",
        "watch k\nget k\nmulti\nset b 2\nexec\n",
    ] {
        let (port, noted) = dropping_server(&["get"]);
        let ran = with_input(&["-p", &port], lines.as_bytes());
        assert_eq!(ran.code, 1, "{lines}");
        let lost = "the transaction is lost with its connection";
        assert!(ran.err.contains(lost), "{lines}: {}", ran.err);
        let noted = noted.lock().expect("no panic");
        assert_eq!(noted.last().map(String::as_str), Some("get k"), "{noted:?}");
        let sent = lines.lines().position(|line| line == "get k");
        assert_eq!(
            Some(noted.len()),
            sent.map(|before| before + 1),
            "{noted:?}"
        );
    }
}

/// Commands, the one that begins a transaction, and what it is ended with when it is lost.
const TRANSACTIONS: [(&str, &[&str], &str); 3] = [
    ("begin\nset b 2\ncommit\n", &["begin"; 2], "ROLLBACK"),
    ("multi\nset b 2\nexec\n", &["multi"; 2], "DISCARD"),
    ("watch k\nmulti\nset b 2\nexec\n", &["watch"; 2], "UNWATCH"),
];

#[test]
fn a_transaction_begins_over_a_new_connection_where_the_old_one_is_lost() {
    for (lines, ends, _) in TRANSACTIONS {
        let (port, noted) = dropping_server(&ends[..1]);
        let ran = with_input(&["-p", &port], format!("set a 1\n{lines}").as_bytes());
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{lines}");
        let first = lines.lines().take(1);
        let expected: Vec<&str> = ["set a 1"]
            .into_iter()
            .chain(first)
            .chain(lines.lines())
            .collect();
        assert_eq!(*noted.lock().expect("no panic"), expected);
    }
}

/// Line by line, as typed by somebody: whether it is the first command on its connection or is lost
/// twice, nothing behind it is sent up to the end of the transaction.
#[test]
fn nothing_is_carried_out_by_itself_where_no_transaction_could_be_begun() {
    for (lines, ends, way_out) in TRANSACTIONS {
        let first = lines.lines().next().expect("a command");
        for (before, mut sent) in [
            ("", vec![first]),
            ("set a 1\n", vec!["set a 1", first, first]),
        ] {
            let (port, noted) = dropping_server(ends);
            let target = Target::new("127.0.0.1", port.parse().expect("a port"));
            let mut session = Session::new(target, Protocol::Resp2, 0);
            let input = format!("{before}{lines}get k\n");
            let mut errors = Vec::new();
            for line in input.lines() {
                let words = line.split(' ').map(|word| word.as_bytes().to_vec());
                let words: Vec<Vec<u8>> = words.collect();
                errors.extend(session.run(&words).err().map(|error| error.to_string()));
            }
            assert_eq!(errors.len(), lines.lines().count(), "{input}: {errors:?}");
            let lost = "not sent: the transaction was lost with its connection";
            let hint = format!("{lost}; end it with {way_out} or RESET");
            assert_eq!(errors[1], hint, "{input}");
            assert_eq!(errors.last().map(String::as_str), Some(lost), "{input}");
            sent.push("get k");
            assert_eq!(*noted.lock().expect("no panic"), sent, "{input}");
        }
    }
}

#[test]
fn who_cannot_be_reached_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    drop(listener);
    let ran = run("rd_cli", &["-p", &port, "PING"]);
    assert_eq!(ran.code, 1);
    let start = format!("rd_cli: error: Could not connect to Redoubt at 127.0.0.1:{port}: ");
    assert!(ran.err.starts_with(&start), "{}", ran.err);
    let socket = run("rd_cli", &["-s", "/nowhere/socket", "PING"]);
    assert!(
        socket
            .err
            .contains("Could not connect to Redoubt at /nowhere/socket")
    );
    let dir = run("rd_cli", &["-D", "/nowhere", "PING"]);
    assert!(
        dir.err.contains("directory \"/nowhere\" does not exist"),
        "{}",
        dir.err
    );
    for args in [
        &["--what"][..],
        &["-p", "x"],
        &["-2", "-3"],
        &["-s", "a", "-p", "1"],
    ] {
        assert_eq!(run("rd_cli", args).code, 1, "{args:?}");
    }
    assert_eq!(run("rd_cli", &["--help"]).code, 0);
}
