//! `rd_test_fsync`: every method is measured, and the file goes again.

mod support;

use rd_sys::process::{Pid, Signal, kill};
use rd_sys::signals::is_ignored;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Ran, command, deaf_to_hangups, finish, private_dir, run};

/// Seconds for which nothing runs that is not interrupted.
const LONG: &str = "600";

#[test]
fn every_method_has_a_line_for_each_load() {
    let dir = private_dir();
    let path = dir.path().join("here.out");
    let ran = run(
        "rd_test_fsync",
        &["-f", path.to_str().expect("UTF-8"), "-s", "0.01"],
    );
    assert_eq!(ran.code, 0, "{}", ran.err);
    for method in ["fdatasync", "fsync", "open_datasync", "open_sync"] {
        let lines = ran.out.lines().map(str::trim_start);
        let lines: Vec<&str> = lines
            .filter(|line| line.starts_with(&format!("{method} ")))
            .collect();
        assert_eq!(lines.len(), 3, "{}", ran.out);
        for line in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(words[1].parse::<f64>().expect("a number") > 0.0, "{line}");
            assert_eq!((words[2], words[4]), ("ops/sec", "usecs/op"), "{line}");
        }
    }
    assert!(!path.exists(), "it is removed");
}

#[test]
fn a_file_that_is_there_is_left_alone() {
    let dir = private_dir();
    let path = dir.path().join("mine");
    std::fs::write(&path, "precious").expect("ours");
    let ran = run(
        "rd_test_fsync",
        &["-f", path.to_str().expect("UTF-8"), "-s", "0.01"],
    );
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("mine"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(&path).expect("there"), "precious");
    for secs in ["0", "-1", "x", "nan", "1e9"] {
        assert_eq!(
            run("rd_test_fsync", &[&format!("-s={secs}")]).code,
            1,
            "{secs}"
        );
    }
}

/// What becomes of a run that gets `signal` while it measures.
fn signalled(mut command: Command, path: &Path, secs: &str, signal: Signal) -> Ran {
    command
        .args(["-f", path.to_str().expect("UTF-8"), "-s", secs])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool is there");
    // It begins to measure when the file is there.
    let out = child.stdout.as_mut().expect("piped");
    let mut first = [0; 1];
    out.read_exact(&mut first).expect("it says something");
    // A short run may be over by now.
    assert!(path.exists() || secs != LONG);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::new);
    kill(pid.expect("a child"), signal).expect("ours");
    finish(child.wait_with_output().expect("ours"))
}

#[test]
fn who_is_interrupted_leaves_nothing() {
    let dir = private_dir();
    let path = dir.path().join("here.out");
    // Who runs the tests in the background of a shell may have them ignore SIGINT.
    let heeded = |signal: &Signal| !is_ignored(*signal).expect("it can be asked");
    for signal in [Signal::Int, Signal::Term].into_iter().filter(heeded) {
        let ran = signalled(command("rd_test_fsync"), &path, LONG, signal);
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("interrupted"), "{}", ran.err);
        assert!(!path.exists(), "{signal}");
    }
}

#[test]
fn who_is_to_ignore_hangups_goes_on() {
    let dir = private_dir();
    let path = dir.path().join("here.out");
    let ran = signalled(deaf_to_hangups("rd_test_fsync"), &path, "0.05", Signal::Hup);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(!path.exists());
}
