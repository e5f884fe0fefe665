//! `rd_isready` against servers of one answer.

mod support;

use nix::sys::socket::Backlog;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use support::{control, private_dir, run, write_control};

/// Answers one client with this, whatever it says.
fn answer(listener: TcpListener, reply: &'static [u8]) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client comes");
        let mut request = [0; 64];
        let _ = client.read(&mut request);
        let _ = client.write_all(reply);
    })
}

#[test]
fn each_answer_has_its_exit_code() {
    for (reply, code, words) in [
        (&b"+PONG\r\n"[..], 0, "accepting connections"),
        (
            b"-ERR max number of clients reached\r\n",
            0,
            "accepting connections",
        ),
        (
            b"-LOADING Redoubt is starting up (redo 42%, about 2 s left)\r\n",
            1,
            "rejecting connections: Redoubt is starting up (redo 42%, about 2 s left)",
        ),
        (
            b"-ERR Redoubt is shutting down\r\n",
            1,
            "rejecting connections: Redoubt is shutting down",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 2, "no response"),
        (b"", 2, "no response"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port().to_string();
        let server = answer(listener, reply);
        let ran = run("rd_isready", &["-p", &port, "-t", "60"]);
        server.join().expect("it answered");
        assert_eq!(
            (ran.code, ran.out),
            (code, format!("127.0.0.1:{port} - {words}\n"))
        );
    }
}

#[test]
fn nobody_there_and_nobody_answering_are_no_response() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port().to_string();
    let mute = run("rd_isready", &["-h", "127.0.0.1", "-p", &port, "-t", "1"]);
    assert_eq!(mute.code, 2);
    drop(listener);
    let quiet = run("rd_isready", &["-q", "-p", &port]);
    assert_eq!(
        (quiet.code, quiet.out.as_str(), quiet.err.as_str()),
        (2, "", "")
    );
}

#[test]
fn a_host_with_a_slash_is_a_directory_of_sockets() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let listener = UnixListener::bind(dir.path().join(".s.REDOUBT.7432")).expect("bound");
    let server = thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client comes");
        // As a server that is starting does: it does not wait to be asked.
        client
            .write_all(b"-LOADING not yet\r\n")
            .expect("it is there");
    });
    let ran = run("rd_isready", &["-h", path, "-t", "60"]);
    server.join().expect("it answered");
    assert_eq!(
        (ran.code, ran.out),
        (1, format!("{path}:7432 - rejecting connections: not yet\n"))
    );
}

#[test]
fn a_server_that_accepts_nothing_is_not_waited_for() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let socket = dir.path().join(".s.REDOUBT.7432");
    let listener = UnixListener::bind(&socket).expect("bound");
    nix::sys::socket::listen(&listener, Backlog::new(0).expect("small")).expect("it listens");
    // There is room for one. The next waits for its place already when it connects.
    let _first = UnixStream::connect(&socket).expect("the first");
    let ran = run("rd_isready", &["-h", path, "-t", "1"]);
    assert_eq!(
        (ran.code, ran.out),
        (2, format!("{path}:7432 - no response\n"))
    );
}

#[test]
fn a_directory_that_cannot_be_looked_at_is_not_a_server_that_is_down() {
    let dir = private_dir();
    let path = |name: &str| {
        let path = dir.path().join(name);
        path.to_str().expect("UTF-8").to_owned()
    };
    fs::write(path("file"), "").expect("written");
    fs::create_dir(path("empty")).expect("made");
    // Unreadable, whoever asks.
    write_control(&dir.path().join("odd"), &control(1).encode(), &[]);
    fs::create_dir(path("odd/postmaster.pid")).expect("made");
    for (name, words) in [
        ("none", "does not exist"),
        ("file", "is not a directory"),
        ("empty", "is not a Redoubt data directory"),
        ("odd", "postmaster.pid"),
    ] {
        let path = path(name);
        let ran = run("rd_isready", &["-D", &path]);
        assert_eq!(
            (ran.code, ran.out),
            (3, format!("{path} - no attempt\n")),
            "{}",
            ran.err
        );
        assert!(ran.err.contains(words), "{}", ran.err);
        let quiet = run("rd_isready", &["-q", "-D", &path]);
        assert_eq!((quiet.code, quiet.out.as_str()), (3, ""));
    }
    // One that is still being made, or was never made to its end, has no server.
    fs::write(path("empty/RD_UNFINISHED"), "").expect("written");
    let made = run("rd_isready", &["-D", &path("empty")]);
    assert_eq!(made.code, 2, "{}", made.err);
    // One without a server, too.
    fs::remove_dir(path("odd/postmaster.pid")).expect("there");
    let down = run("rd_isready", &["-D", &path("odd")]);
    assert_eq!((down.code, down.err.as_str()), (2, ""));
}
