//! `rd_checksums`: bad blocks are named, each once, whatever is asked beside.

mod support;

use rd_sys::lockfile::LockFile;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::{private_dir, run};
use tempfile::TempDir;

/// A new data directory, and its path.
fn directory() -> (TempDir, String) {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8").to_owned();
    assert_eq!(run("rd_initdb", &["-D", &path, "--wal-segsize=1"]).code, 0);
    (dir, path)
}

fn write_at(dir: &Path, file: &str, bytes: &[u8], offset: u64) {
    let file = File::options()
        .write(true)
        .open(dir.join("base").join(file))
        .expect("there");
    file.write_all_at(bytes, offset).expect("ours");
}

#[test]
fn a_sound_directory_has_no_bad_checksum() {
    let (_dir, path) = directory();
    let ran = run("rd_checksums", &["-D", &path]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    assert!(ran.out.contains("Files scanned:   2\n"), "{}", ran.out);
    assert!(ran.out.contains("Bad checksums:   0\n"), "{}", ran.out);
    let trees = run("rd_checksums", &["-c", "-v", "-P", "--verify-trees", &path]);
    assert_eq!(trees.code, 0, "{}", trees.err);
    for words in [
        "base/1 (the catalog): ok",
        "base/2 (db0): ok",
        "Problems of trees: 0",
    ] {
        assert!(trees.out.contains(words), "{words}: {}", trees.out);
    }
    assert!(trees.err.contains("to be read"), "{}", trees.err);
}

#[test]
fn each_bad_block_is_named() {
    let (dir, path) = directory();
    write_at(dir.path(), "2", b"?", 2 * 8192 + 100);
    write_at(dir.path(), "1", b"?", 8192 + 8000);
    let ran = run("rd_checksums", &["-D", &path]);
    assert_eq!(ran.code, 1);
    for block in ["\"base/1\", block 1:", "\"base/2\", block 2:"] {
        let words = format!("checksum verification failed in file {block} calculated checksum");
        assert!(ran.err.contains(&words), "{}", ran.err);
    }
    assert_eq!(ran.err.lines().count(), 2, "{}", ran.err);
    assert!(ran.out.contains("Bad checksums:   2\n"), "{}", ran.out);
    let one = run("rd_checksums", &["-D", &path, "-f", "1", "-v"]);
    assert!(one.out.contains("Bad checksums:   1\n"), "{}", one.out);
    assert_eq!(run("rd_checksums", &["-D", &path, "-f", "99"]).code, 1);
    // A block in another's place has a checksum that is right elsewhere.
    let (dir, path) = directory();
    let file = fs::read(dir.path().join("base/2")).expect("there");
    write_at(dir.path(), "2", &file[8192..2 * 8192], 2 * 8192);
    let ran = run("rd_checksums", &["-D", &path]);
    assert!(
        ran.err.contains("\"base/2\", block 2: calculated"),
        "{}",
        ran.err
    );
    // One that is lost is for the trees to say.
    write_at(dir.path(), "2", &[0; 8192], 2 * 8192);
    assert_eq!(run("rd_checksums", &["-D", &path]).code, 0);
    assert_eq!(run("rd_checksums", &["--verify-trees", &path]).code, 1);
    // So is a file that is too short, or gone.
    let file = File::options()
        .write(true)
        .open(dir.path().join("base/2"))
        .expect("there");
    file.set_len(8192).expect("ours");
    let ran = run("rd_checksums", &["-D", &path]);
    assert!(
        ran.code == 1 && ran.err.contains("\"base/2\" ends before block 1"),
        "{}",
        ran.err
    );
    fs::remove_file(dir.path().join("base/2")).expect("ours");
    assert_eq!(run("rd_checksums", &["-D", &path]).code, 1);
}

#[test]
fn what_cannot_be_done_is_refused() {
    let (dir, path) = directory();
    let on = run("rd_checksums", &["-e", &path]);
    assert!(
        on.code == 1 && on.err.contains("already enabled"),
        "{}",
        on.err
    );
    let off = run("rd_checksums", &["-d", &path]);
    assert!(
        off.code == 1 && off.err.contains("cannot be disabled"),
        "{}",
        off.err
    );
    assert_eq!(run("rd_checksums", &["-c", "-d", &path]).code, 1);
    let held = LockFile::acquire(&dir.path().join("postmaster.lock")).expect("nobody's");
    let running = run("rd_checksums", &[&path]);
    assert!(
        running.code == 1 && running.err.contains("is held") && running.err.contains("rd_ctl stop"),
        "{}",
        running.err
    );
    drop(held);
    // A process that another test is making has its descriptor until it becomes another program.
    let deadline = Instant::now() + Duration::from_secs(60);
    let free = loop {
        let ran = run("rd_checksums", &[&path]);
        if !ran.err.contains("is held") || Instant::now() >= deadline {
            break ran;
        }
    };
    assert_eq!(free.code, 0, "{}", free.err);
    let crashed = private_dir();
    let control = support::control(7).encode();
    support::write_control(crashed.path(), &control, &control);
    let ran = run("rd_checksums", &[crashed.path().to_str().expect("UTF-8")]);
    assert!(
        ran.code == 1 && ran.err.contains("not stopped in order"),
        "{}",
        ran.err
    );
}
