//! A tool whose exit code is its verdict gives the same one when nobody reads what it prints:
//! `rd_verify | head -1` under `pipefail`.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use support::{private_dir, run, run_unheard, run_unread};
use tempfile::TempDir;

/// A new data directory, and its path.
fn directory() -> (TempDir, String) {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    assert_eq!(run("rd_initdb", &["-D", &path, "--wal-segsize=1"]).code, 0);
    (dir, path)
}

/// Damages a block of the second relation file, behind what is printed of the first.
fn damage(dir: &Path) {
    let file = File::options()
        .write(true)
        .open(dir.join("base/2"))
        .expect("there");
    file.write_all_at(b"?", 2 * 8192 + 100).expect("ours");
}

const CHECKS: [&[&str]; 6] = [
    &["rd_verify"],
    &["rd_verify", "-q"],
    &["rd_checksums"],
    &["rd_checksums", "-v"],
    &["rd_checksums", "-P"],
    &["rd_checksums", "--verify-trees"],
];

#[test]
fn damage_is_damage_unread() {
    let (dir, path) = directory();
    for verdict in [0, 1] {
        for check in CHECKS {
            let args = [&check[1..], &[path.as_str()]].concat();
            let ran = run_unread(check[0], &args);
            assert_eq!(ran.code, verdict, "{check:?}: {}", ran.err);
            assert_eq!(run_unheard(check[0], &args), verdict, "{check:?}");
        }
        damage(dir.path());
    }
}

#[test]
fn the_log_is_reset_unread() {
    let (dir, path) = directory();
    let control = dir.path().join("global/pg_control");
    let before = fs::read(&control).expect("there");
    assert_eq!(run_unread("rd_resetwal", &["-n", &path]).code, 0);
    assert!(fs::read(&control).expect("there") == before);
    assert_eq!(run_unread("rd_resetwal", &["-f", &path]).code, 0);
    assert!(fs::read(&control).expect("there") != before);
    // One whose values would have to be guessed is left as it is, which is no success.
    fs::write(&control, "damaged").expect("ours");
    assert_eq!(run_unread("rd_resetwal", &[&path]).code, 1);
    assert_eq!(run_unheard("rd_resetwal", &[&path]), 1);
    assert_eq!(fs::read(&control).expect("there"), b"damaged");
}

#[test]
fn whether_a_server_runs_is_told_unread() {
    let (_dir, path) = directory();
    assert_eq!(run_unread("rd_ctl", &["status", "-D", &path]).code, 3);
    assert_eq!(run_unheard("rd_ctl", &["status", "-D", &path]), 3);
    assert_eq!(run_unread("rd_isready", &["-D", &path]).code, 2);
    assert_eq!(run_unheard("rd_isready", &["-D", &path]), 2);
}
