//! `rd_ctl` and `rd_isready -D` with a stand-in for the server: a script that writes the pid file,
//! holds the lock file open and obeys signals as the server does. What they do with the server
//! itself is tested with the server.

mod support;

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};
use support::{Ran, command, control, finish, private_dir, run, write_control};
use tempfile::TempDir;

/// The stand-in. Its third argument says how it behaves.
const SERVER: &str = r#"#!/bin/sh
dir=$2
how=$3
exec 9>"$dir/postmaster.lock"
status() {
    started=${2:-$(date +%s)}
    printf '%s\n%s\n%s\n0\n\n\n/none\n%-64s\n' $$ "$dir" "$started" "$1" > "$dir/pid.new"
    mv "$dir/pid.new" "$dir/postmaster.pid"
}
leave() { echo "$1" >> "$dir/signals"; rm -f "$dir/postmaster.pid"; exit 0; }
trap 'leave TERM' TERM
trap 'echo INT >> "$dir/signals"; [ "$how" = stubborn ] || leave' INT
trap 'leave QUIT' QUIT
trap 'echo HUP >> "$dir/signals"' HUP
echo "started with $*"
printf 'redoubt "-D" "%s" "%s"\n' "$dir" "$how" > "$dir/postmaster.opts"
case "$how" in
fail)
    echo "x LOG:  hello"
    echo "x FATAL:  the disk is on fire"; echo "x HINT:  Fetch water."
    echo "x LOG:  startup exited with 1"
    echo "x FATAL:  server does not start: startup says above what is wrong"
    exit 1;;
left-over) status ready 1000000000;;
stuck) status 'recovering redo 43% eta 3s';;
advancing)
    # Until who looks has seen it.
    percent=10
    until [ -e "$dir/seen" ]; do
        status "recovering redo $percent% eta 1s"; sleep 0.1
        percent=$((percent % 95 + 5))
    done
    status ready;;
*) status starting; status ready;;
esac
while :; do sleep 0.02; done
"#;

struct Server {
    dir: TempDir,
}

impl Server {
    fn new() -> Server {
        let dir = private_dir();
        write_control(dir.path(), &control(1).encode(), &[]);
        let program = dir.path().join("server");
        fs::write(&program, SERVER).expect("written");
        fs::set_permissions(&program, Permissions::from_mode(0o700)).expect("ours");
        Server { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `rd_ctl` on it, as from a script: the answer comes through a pipe.
    fn ctl(&self, args: &[&str]) -> Ran {
        self.ctl_seen(args, "")
    }

    /// As [`Server::ctl`]; an `advancing` server has recovered when `rd_ctl` has said this.
    fn ctl_seen(&self, args: &[&str], said: &str) -> Ran {
        let mut command = command("rd_ctl");
        command
            .env("RDDATA", self.path())
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("rd_ctl is there");
        let (mut out, mut chunk) = (Vec::new(), [0; 4096]);
        while !String::from_utf8_lossy(&out).contains(said) {
            let pipe = child.stdout.as_mut().expect("piped");
            match pipe.read(&mut chunk).expect("ours") {
                0 => break,
                count => out.extend_from_slice(&chunk[..count]),
            }
        }
        if !said.is_empty() {
            fs::write(self.path().join("seen"), "").expect("ours");
        }
        let mut output = child.wait_with_output().expect("ours");
        out.append(&mut output.stdout);
        finish(Output {
            stdout: out,
            ..output
        })
    }

    fn start(&self, how: &str, args: &[&str]) -> Ran {
        self.start_seen(how, args, "")
    }

    fn start_seen(&self, how: &str, args: &[&str], said: &str) -> Ran {
        let program = self.path().join("server");
        let program = program.to_str().expect("UTF-8");
        self.ctl_seen(&[&["start", "-p", program, "-o", how], args].concat(), said)
    }

    fn signals(&self) -> String {
        fs::read_to_string(self.path().join("signals")).unwrap_or_default()
    }

    /// Waits until the stand-in can be seen, and so be stopped.
    fn wait_for_pid_file(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.ctl(&["status"]).code != 0 {
            assert!(Instant::now() < deadline, "no pid file came");
            std::thread::yield_now();
        }
    }

    /// Waits for the stand-in to have obeyed a signal: of two that it has not, a shell takes either
    /// first.
    fn wait_for_signal(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.signals().trim() != name {
            assert!(Instant::now() < deadline, "no {name} came");
            std::thread::yield_now();
        }
    }
}

/// What is said, without the dots of further seconds that it took.
fn at_once(said: &str) -> String {
    let mut text = said.to_owned();
    while text.contains(".....") {
        text = text.replace(".....", "....");
    }
    text
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ctl(&["stop", "-m", "immediate", "-s"]);
    }
}

#[test]
fn starts_stops_and_says_so_in_postgresqls_words() {
    let server = Server::new();
    assert_eq!(server.ctl(&["status"]).code, 3);
    let started = server.start("normal", &[]);
    assert_eq!((started.code, started.err.as_str()), (0, ""));
    assert_eq!(
        at_once(&started.out),
        "waiting for server to start.... done\nserver started\n"
    );
    let log = fs::read_to_string(server.path().join("server.log")).expect("the default log");
    assert!(log.contains("normal"), "{log}");

    let status = server.ctl(&["status"]);
    assert_eq!(status.code, 0);
    assert!(
        status.out.starts_with("rd_ctl: server is running (PID: "),
        "{}",
        status.out
    );
    let twice = server.start("normal", &[]);
    assert_eq!(twice.code, 1);
    assert!(
        twice
            .err
            .contains("rd_ctl: error: a server is already running (PID: ")
    );
    assert_eq!(server.ctl(&["reload"]).out, "server signaled\n");
    server.wait_for_signal("HUP");

    let stopped = server.ctl(&["stop"]);
    assert_eq!((stopped.code, stopped.err.as_str()), (0, ""));
    assert_eq!(
        at_once(&stopped.out),
        "waiting for server to shut down.... done\nserver stopped\n"
    );
    assert_eq!(
        server.signals().trim().lines().collect::<Vec<_>>(),
        ["HUP", "INT"]
    );
    assert_eq!(server.ctl(&["status"]).out, "rd_ctl: no server running\n");
    let again = server.ctl(&["stop"]);
    assert_eq!(again.code, 1);
    assert!(
        again.err.contains("postmaster.pid\" does not exist"),
        "{}",
        again.err
    );
    assert!(again.err.contains("Is server running?"), "{}", again.err);
}

#[test]
fn modes_silence_logs_and_not_waiting() {
    let server = Server::new();
    let log = server.path().join("my.log");
    let started = server.start("normal", &["-s", "-l", log.to_str().expect("UTF-8")]);
    assert_eq!((started.code, started.out.as_str()), (0, ""));
    assert!(log.is_file());
    assert_eq!(server.ctl(&["-m", "s", "stop"]).code, 0);
    assert_eq!(server.start("normal", &[]).code, 0);
    assert_eq!(server.ctl(&["stop", "-m", "IMMEDIATE"]).code, 0);
    assert_eq!(
        server.signals().trim().lines().collect::<Vec<_>>(),
        ["TERM", "QUIT"]
    );
    assert_eq!(server.start("normal", &["-W"]).out, "server starting\n");
    server.wait_for_pid_file();
}

#[test]
fn a_server_that_ends_is_quoted() {
    let server = Server::new();
    fs::write(server.path().join("server.log"), "x FATAL:  of last week\n").expect("written");
    let failed = server.start("fail", &[]);
    assert_eq!(failed.code, 1);
    assert_eq!(
        at_once(&failed.out),
        "waiting for server to start.... stopped waiting\n"
    );
    assert!(
        failed
            .err
            .starts_with("rd_ctl: error: could not start server\n"),
        "{}",
        failed.err
    );
    assert!(
        failed.err.contains("detail: x FATAL:  the disk is on fire"),
        "{}",
        failed.err
    );
    assert!(
        failed.err.contains("hint: Examine the log output in"),
        "{}",
        failed.err
    );
    assert!(
        failed.err.contains("x HINT:  Fetch water."),
        "{}",
        failed.err
    );
    assert!(!failed.err.contains("of last week"), "{}", failed.err);
}

/// In a container the new server may have the very number that the file of the last one names.
#[test]
fn a_pid_file_older_than_the_start_says_nothing_of_it() {
    let server = Server::new();
    let started = server.start("left-over", &["-t", "1"]);
    assert_eq!(started.code, 1, "{}", started.out);
    assert!(
        started.err.contains("server did not start in time"),
        "{}",
        started.err
    );
}

#[test]
fn recovery_is_shown_and_told_from_a_standstill() {
    let server = Server::new();
    let path = server.path().to_str().expect("UTF-8").to_owned();
    let shown = "(recovering: redo ";
    let started = server.start_seen("advancing", &[], shown);
    assert_eq!(started.code, 0);
    assert!(started.out.contains(shown), "{}", started.out);
    assert!(
        started.out.ends_with(" done\nserver started\n"),
        "{}",
        started.out
    );
    assert_eq!(server.ctl(&["stop", "-s"]).code, 0);

    let advancing = Server::new();
    assert_eq!(advancing.start("advancing", &["-W"]).code, 0);
    let path_of = |server: &Server| server.path().to_str().expect("UTF-8").to_owned();
    let mut seen = run("rd_isready", &["-D", &path_of(&advancing), "-t", "60"]);
    while seen.code == 2 || seen.out.contains("starting") {
        seen = run("rd_isready", &["-D", &path_of(&advancing), "-t", "60"]);
    }
    assert_eq!(seen.code, 1, "{}", seen.out);
    assert!(
        seen.out.contains("recovering and advancing: redo "),
        "{}",
        seen.out
    );
    assert!(seen.out.contains(" %, about 1 s left"), "{}", seen.out);

    let stuck = Server::new();
    let mut late = stuck.start("stuck", &["-t", "3"]);
    if !late.err.contains("It is recovering") {
        // On a busy machine it had not begun to.
        stuck.wait_for_pid_file();
        assert_eq!(stuck.ctl(&["stop", "-s"]).code, 0);
        late = stuck.start("stuck", &["-t", "30"]);
    }
    assert_eq!(late.code, 1);
    assert!(
        late.err.contains("server did not start in time"),
        "{}",
        late.err
    );
    assert!(
        late.err
            .contains("It is recovering (redo 43 %, about 3 s left)"),
        "{}",
        late.err
    );
    let seen = run("rd_isready", &["-D", &path_of(&stuck), "-t", "1"]);
    assert_eq!(seen.code, 1);
    assert!(
        seen.out.contains("recovering, stuck for 1 s at: redo 43 %"),
        "{}",
        seen.out
    );
    let status = stuck.ctl(&["status"]);
    assert!(
        status.out.contains("it is recovering: redo 43 %"),
        "{}",
        status.out
    );

    let none = run("rd_isready", &["-D", &path]);
    assert_eq!(
        (none.code, none.out),
        (2, format!("{path} - no response\n"))
    );
}

#[test]
fn a_server_that_stays_is_reported() {
    let server = Server::new();
    assert_eq!(server.start("stubborn", &[]).code, 0);
    let stopped = server.ctl(&["stop", "-t", "1"]);
    assert_eq!(stopped.code, 1);
    assert!(stopped.out.ends_with(" failed\n"), "{}", stopped.out);
    assert!(
        stopped
            .err
            .contains("rd_ctl: error: server does not shut down"),
        "{}",
        stopped.err
    );
}

#[test]
fn restart_keeps_the_options() {
    let server = Server::new();
    let program = server.path().join("server");
    let program = program.to_str().expect("UTF-8");
    let starts = |how: &str| {
        let log = fs::read_to_string(server.path().join("server.log")).expect("the log");
        let ending = format!(" {how}");
        log.lines().filter(|line| line.ends_with(&ending)).count()
    };
    assert_eq!(server.start("normal", &[]).code, 0);
    let restarted = server.ctl(&["restart", "-p", program]);
    assert_eq!(restarted.code, 0, "{}", restarted.err);
    assert_eq!(starts("normal"), 2);
    assert_eq!(server.ctl(&["stop", "-s"]).code, 0);
    // The options are not the running server's: they are those of the last start.
    let cold = server.ctl(&["restart", "-p", program]);
    assert_eq!(cold.code, 0, "{}", cold.err);
    assert!(cold.err.contains("warning: PID file"), "{}", cold.err);
    assert!(
        cold.out.starts_with("trying to start server anyway\n"),
        "{}",
        cold.out
    );
    assert_eq!(starts("normal"), 3);
    let other = server.ctl(&["restart", "-p", program, "-o", "other"]);
    assert_eq!(other.code, 0, "{}", other.err);
    assert_eq!((starts("normal"), starts("other")), (3, 1));
}

#[test]
fn restart_stops_no_server_whose_options_it_cannot_read() {
    let server = Server::new();
    let program = server.path().join("server");
    let program = program.to_str().expect("UTF-8");
    let options = server.path().join("postmaster.opts");
    assert_eq!(server.start("normal", &[]).code, 0);
    // Cut short, as on a full disk; and gone.
    for cut in [Some(""), Some("\"redoubt\" \"-D\" \"x\" \"nor"), None] {
        match cut {
            Some(text) => fs::write(&options, text).expect("written"),
            None => fs::remove_file(&options).expect("there"),
        }
        let restarted = server.ctl(&["restart", "-p", program]);
        assert_eq!(restarted.code, 1, "{cut:?}: {}", restarted.out);
        assert!(
            restarted.err.contains("postmaster.opts") && restarted.err.contains("hint: Name them"),
            "{cut:?}: {}",
            restarted.err
        );
        assert_eq!(server.signals(), "");
    }
    let restarted = server.ctl(&["restart", "-p", program, "-o", ""]);
    assert_eq!(restarted.code, 0, "{}", restarted.err);
    assert_eq!(server.signals().trim(), "INT");
    // A directory that was never started has none.
    let new = Server::new();
    let cold = new.ctl(&["restart", "-p", program]);
    assert_eq!(cold.code, 0, "{}", cold.err);
}

#[test]
fn restart_stops_no_server_that_it_could_not_start_again() {
    let server = Server::new();
    let program = server.path().join("server");
    let program = program.to_str().expect("UTF-8");
    let nowhere = server.path().join("no/such");
    let nowhere = nowhere.to_str().expect("UTF-8");
    assert_eq!(server.start("normal", &[]).code, 0);
    let refused = |args: &[&str], words: &str| {
        let ran = server.ctl(&[&["restart"], args].concat());
        assert_eq!(ran.code, 1, "{args:?}: {}", ran.out);
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
        assert_eq!(server.signals(), "", "{args:?}");
        assert_eq!(server.ctl(&["status"]).code, 0, "{args:?}");
    };
    refused(&["-p", program, "-l", nowhere], "could not open log file");
    refused(&["-p", nowhere], "could not run");
    refused(&["-p", "no-such-program-anywhere"], "could not run");
    let no_program = server.path().join("postmaster.opts");
    refused(
        &["-p", no_program.to_str().expect("UTF-8")],
        "could not run",
    );
    let chmod = |mode| fs::set_permissions(server.path(), Permissions::from_mode(mode));
    chmod(0o750).expect("ours");
    refused(&["-p", program], "invalid permissions");
    chmod(0o700).expect("ours");
    assert_eq!(server.ctl(&["restart", "-p", program]).code, 0);
}

#[test]
fn a_pid_file_left_over_is_no_server() {
    let server = Server::new();
    // This test's own process lives but holds no lock of that directory.
    let stale = format!("{}\n", std::process::id());
    fs::write(server.path().join("postmaster.pid"), stale).expect("written");
    assert_eq!(server.ctl(&["status"]).code, 3);
    let stop = server.ctl(&["stop"]);
    assert_eq!(stop.code, 1);
    assert!(
        stop.err.contains("no server running: PID file"),
        "{}",
        stop.err
    );
    fs::remove_file(server.path().join("postmaster.pid")).expect("there");
}

#[test]
fn directories_that_will_not_do() {
    let server = Server::new();
    let missing = run("rd_ctl", &["status", "-D", "/nowhere"]);
    assert_eq!(missing.code, 4);
    assert!(
        missing
            .err
            .contains("directory \"/nowhere\" does not exist"),
        "{}",
        missing.err
    );
    let other = private_dir();
    let other = other.path().to_str().expect("UTF-8");
    assert_eq!(run("rd_ctl", &["status", "-D", other]).code, 4);
    assert_eq!(run("rd_ctl", &["start", "-D", other]).code, 1);
    fs::set_permissions(server.path(), Permissions::from_mode(0o750)).expect("ours");
    let open = server.start("normal", &[]);
    assert_eq!(open.code, 1);
    assert!(open.err.contains("has invalid permissions"), "{}", open.err);
    assert!(
        open.err
            .contains("hint: Others can read it. Run: chmod 0700"),
        "{}",
        open.err
    );
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    for (args, words) in [
        (&[][..], "OPERATION"),
        (&["restrat", "-D", "x"], "restrat"),
        (&["stop", "-D", "x", "-m", "gently"], "gently"),
        (&["start", "-D", "x", "-t", "soon"], "soon"),
        (
            &["stop", "-D", "x", "y"],
            "too many command-line arguments (first is \"y\")",
        ),
        (
            &["start"],
            "no data directory specified and environment variable RDDATA unset",
        ),
        (&["start", "-D", "x", "-o", "'"], "a quote is not closed"),
        (&["kill", "TERM"], "missing arguments for kill mode"),
        (
            &["kill", "WINCH", "1"],
            "unrecognized signal name \"WINCH\"",
        ),
        (&["kill", "TERM", "0"], "bad process number"),
        (&["kill", "TERM", "99999999"], "No such process"),
    ] {
        let ran = run("rd_ctl", args);
        assert_eq!(ran.code, 1, "{args:?}");
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    }
    for tool in ["rd_ctl", "rd_isready"] {
        assert_eq!(run(tool, &["--help"]).code, 0);
        assert_eq!(run(tool, &["-?"]).code, 0);
        assert!(
            run(tool, &["-V"])
                .out
                .starts_with(&format!("{tool} (Redoubt) "))
        );
    }
    for args in [
        &["--what"][..],
        &["-p", "port"],
        &["-D", "x", "-p", "1"],
        &["word"],
    ] {
        assert_eq!(run("rd_isready", args).code, 3, "{args:?}");
    }
}

#[test]
fn kill_sends_what_it_is_told() {
    let mut child = std::process::Command::new("cat")
        .stdin(Stdio::piped())
        .spawn()
        .expect("cat");
    assert_eq!(
        run("rd_ctl", &["kill", "KILL", &child.id().to_string()]).code,
        0
    );
    assert!(!child.wait().expect("ours").success());
}
