//! `rd_initdb`, and what the other tools say of what it made.

mod support;

use rd_sys::process::{Pid, Signal, kill};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Ran, command, deaf_to_hangups, finish, private_dir, run};

#[test]
fn makes_what_the_other_tools_accept() {
    let dir = private_dir();
    let data = dir.path().join("my data");
    let path = data.to_str().expect("UTF-8");
    let made = run("rd_initdb", &["-D", path, "--wal-segsize=1"]);
    assert_eq!((made.code, made.err.as_str()), (0, ""));
    for words in [
        "The files belonging to this data directory will be owned by user \"",
        "syncing data to disk ... ok\n",
        "Success. You can now start the server using:\n\n    rd_ctl -D '",
    ] {
        assert!(made.out.contains(words), "{words} in {}", made.out);
    }
    assert_eq!(fs::metadata(&data).expect("made").mode() & 0o777, 0o700);

    let control = run("rd_controldata", &[path]);
    assert_eq!((control.code, control.err.as_str()), (0, ""));
    assert!(
        control
            .out
            .contains("Database cluster state:               shut down\n")
    );
    assert!(
        control
            .out
            .contains("Bytes per WAL segment:                1048576\n")
    );
    assert_eq!(run("rd_ctl", &["status", "-D", path]).code, 3);
    let verified = run("rd_verify", &[path]);
    assert_eq!(
        (verified.code, verified.err.as_str()),
        (0, ""),
        "{}",
        verified.out
    );
    assert_eq!(
        verified.out.matches(": ok\n").count(),
        2,
        "{}",
        verified.out
    );

    let again = run("rd_initdb", &[path]);
    assert_eq!(again.code, 1);
    assert!(
        again.err.contains("exists but is not empty"),
        "{}",
        again.err
    );
}

#[test]
fn through_rd_ctl_silently() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let made = run(
        "rd_ctl",
        &["init", "-s", "-D", path, "-o", "--wal-segsize=2"],
    );
    assert_eq!(
        (made.code, made.out.as_str(), made.err.as_str()),
        (0, "", "")
    );
    let json = run("rd_controldata", &["--json", path]).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["wal_segment_bytes"], 2 << 20);
    let again = run("rd_ctl", &["init", "-D", path]);
    assert_eq!(again.code, 1);
    assert!(
        again
            .err
            .contains("rd_ctl: error: data directory initialization failed")
    );
}

#[test]
fn a_large_segment_size_brings_the_parameters_that_it_needs() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let made = run(
        "rd_initdb",
        &["-D", path, "--wal-segsize=64", "--no-instructions"],
    );
    assert_eq!((made.code, made.err.as_str()), (0, ""));
    assert!(made.out.ends_with(" ok\n"), "{}", made.out);
    let config = rd_base::Config::load(dir.path(), &[]).expect("valid");
    config
        .with_wal_segment_size(64 << 20)
        .expect("the sizes fit");
}

#[test]
fn mistakes_are_explained() {
    for size in ["0", "3", "2048", "x", "-1"] {
        let ran = run(
            "rd_initdb",
            &["-D", "/nowhere", &format!("--wal-segsize={size}")],
        );
        assert_eq!(ran.code, 1);
        assert!(
            ran.err
                .contains("must be a power of two between 1 and 1024"),
            "{}",
            ran.err
        );
    }
    assert_eq!(run("rd_initdb", &[]).code, 1);
    let file = private_dir();
    let name = file.path().join("file");
    fs::write(&name, "x").expect("written");
    let ran = run("rd_initdb", &["-D", name.to_str().expect("UTF-8")]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("exists but is not a directory"),
        "{}",
        ran.err
    );
}

#[test]
fn verify_names_what_is_damaged() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    assert_eq!(run("rd_initdb", &["-D", path, "--wal-segsize=1"]).code, 0);
    let base = dir.path().join("base");
    let mut names: Vec<_> = fs::read_dir(&base).expect("made").flatten().collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let file = fs::File::options()
        .write(true)
        .open(names[1].path())
        .expect("ours");
    // The root is the third page.
    file.write_all_at(b"?", 2 * 8192 + 100).expect("written");
    let damaged = run("rd_verify", &["-D", path]);
    assert_eq!(damaged.code, 1);
    assert!(damaged.out.contains("PROBLEM: "), "{}", damaged.out);
    assert!(damaged.err.contains("problems found"), "{}", damaged.err);
    let other = run("rd_verify", &["-D", path, "-f", "1", "-q"]);
    assert_eq!((other.code, other.out.as_str()), (0, ""));
    assert_eq!(run("rd_verify", &["-D", path, "-f", "77"]).code, 1);

    fs::remove_file(names[1].path()).expect("there");
    let missing = run("rd_verify", &["-D", path]);
    assert_eq!(missing.code, 1);
    assert!(missing.out.contains("there is no file"), "{}", missing.out);
}

/// Makes a directory with a tool that gets a signal early.
fn make_and_signal(mut command: Command, data: &Path, signal: Signal) -> Ran {
    command
        .args(["-D", data.to_str().expect("UTF-8"), "--wal-segsize=64"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool is there");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let begun = lines.find(|line| {
        line.as_ref()
            .is_ok_and(|line| line.contains("subdirectories"))
    });
    assert!(begun.is_some(), "it is told");
    let pid = i32::try_from(child.id()).ok().and_then(Pid::new);
    kill(pid.expect("a child"), signal).expect("ours");
    lines.for_each(drop);
    finish(child.wait_with_output().expect("ours"))
}

/// It may be done before the signal comes; then it is tried again.
#[test]
fn who_is_interrupted_leaves_nothing() {
    let dir = private_dir();
    let data = dir.path().join("data");
    for _ in 0..100 {
        let ran = make_and_signal(command("rd_initdb"), &data, Signal::Term);
        if ran.code == 0 {
            fs::remove_dir_all(&data).expect("it was made");
            continue;
        }
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains("interrupted"), "{}", ran.err);
        assert!(!data.exists());
        return;
    }
    panic!("it is always done before it can be interrupted");
}

#[test]
fn who_is_to_ignore_hangups_goes_on() {
    let dir = private_dir();
    let data = dir.path().join("data");
    let ran = make_and_signal(deaf_to_hangups("rd_initdb"), &data, Signal::Hup);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(data.join("global/pg_control").exists());
}
