//! `rd_controldata` over good, half bad and bad control files.

mod support;

use rd_base::{FileNo, Lsn};
use rd_format::control::{FileRow, PendingDrop, SLOT_BYTES, checkpoint_flags};
use support::{control, private_dir, run, write_control};

#[test]
fn text_and_json_say_the_same() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let mut newest = control(8);
    newest.checkpoint_flags = checkpoint_flags::FAST | checkpoint_flags::CAUSE_TIME;
    newest.files.push(FileRow {
        file: FileNo::new(2),
        access: rd_format::Access::READ_WRITE,
        checkpoint_count: 5,
        scn: Lsn::new(0x20_1028),
        stop_scn: Lsn::ZERO,
        key_count: 1000,
        blocks: 64,
    });
    newest.pending_drops.push(PendingDrop {
        file: FileNo::new(9),
        last_lsn: Lsn::new(77),
    });
    write_control(dir.path(), &newest.encode(), &control(7).encode());

    let text = run("rd_controldata", &["-D", path]);
    assert_eq!((text.code, text.err.as_str()), (0, ""));
    for line in [
        "Database system identifier:           18369338455114121217",
        "Database cluster state:               starting up",
        "Latest checkpoint's REDO location:    1/201028",
        "Latest checkpoint's REDO WAL file:    000000010000000100000002",
        "Latest checkpoint's kind and cause:   fast time",
        "Time of latest checkpoint:            2023-11-14 22:13:20 UTC",
        "Bytes per WAL segment:                1048576",
        "pg_control slot 1:                    valid, sequence 7",
        "Relation file 2:                      blocks 64, keys 1000, checkpoint count 5, \
         SCN 0/201028, stop SCN 0/0",
        "Dropped relation file 9:              no record touches it after 0/4D",
    ] {
        assert!(
            text.out.lines().any(|found| found == line),
            "{line} in\n{}",
            text.out
        );
    }

    let json = run("rd_controldata", &["--json", path]);
    assert_eq!((json.code, json.err.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["redo_lsn"], "1/201028");
    assert_eq!(json["checkpoint_us"], 1_700_000_000_123_456_u64);
    assert_eq!(json["checkpoint_cause"], "fast time");
    assert_eq!(json["slot_in_use"], 0);
    assert_eq!(json["slots"]["1"]["sequence"], 7);
    assert_eq!(json["files"][0]["key_count"], 1000);
    assert_eq!(json["pending_drops"][0]["last_lsn"], "0/4D");
}

#[test]
fn a_bad_slot_is_named_and_the_other_shown() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let mut bad = control(8).encode();
    bad[60] ^= 1;
    write_control(dir.path(), &bad, &control(7).encode());
    let ran = run("rd_controldata", &[path]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.err
            .contains("rd_controldata: warning: slot 0 of control file"),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("checksum"), "{}", ran.err);
    assert!(
        ran.out.contains("pg_control sequence number:           7"),
        "{}",
        ran.out
    );
    assert!(
        ran.out
            .contains("pg_control slot 0:                    INVALID: "),
        "{}",
        ran.out
    );
    let json = run("rd_controldata", &["--json", path]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["slots"]["0"]["valid"], false);
}

#[test]
fn two_bad_slots_name_the_file_and_fail() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let mut bad = control(8).encode();
    bad[60] ^= 1;
    write_control(dir.path(), &bad, &[]);
    let ran = run("rd_controldata", &[path]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert!(
        ran.err.contains("global/pg_control\" has no valid slot"),
        "{}",
        ran.err
    );
    assert!(
        ran.err
            .contains("rd_controldata: detail: Slot 1: the slot is all zeros")
    );
    assert!(ran.err.contains("rd_controldata: hint: "));
}

#[test]
fn any_bytes_are_survived() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    let good = control(8).encode();
    // Cut files, sizes that no program has (with their checksum right), and noise.
    let mut odd = control(9);
    for segment_bytes in [0, 3, 1 << 31, u32::MAX] {
        odd.wal_segment_bytes = segment_bytes;
        (odd.written_us, odd.checkpoint_us, odd.redo_lsn) = (u64::MAX, u64::MAX, Lsn::MAX);
        write_control(dir.path(), &odd.encode(), &good);
        for options in [&[path][..], &["--json", path]] {
            assert!(run("rd_controldata", options).code <= 1);
        }
        assert_eq!(run("rd_verify", &[path]).code, 1);
        assert_eq!(run("rd_waldump", &["-p", path]).code, 1);
    }
    for bytes in [
        &[][..],
        &good[..100],
        &[0xFF; 4096][..],
        &vec![0x5A; 3 * SLOT_BYTES][..],
    ] {
        std::fs::write(dir.path().join("global/pg_control"), bytes).expect("written");
        assert_eq!(run("rd_controldata", &[path]).code, 1);
    }
}

/// Of a file of any size no more is read than a control file has, and a pipe is not waited for.
#[test]
fn what_is_no_control_file_is_neither_read_whole_nor_waited_for() {
    let dir = private_dir();
    let path = dir.path().to_str().expect("UTF-8");
    write_control(dir.path(), &control(8).encode(), &control(9).encode());
    let file = dir.path().join("global/pg_control");
    let open = std::fs::File::options()
        .write(true)
        .open(&file)
        .expect("ours");
    open.set_len(1 << 40).expect("a file with a hole");
    let ran = run("rd_controldata", &[path]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    std::fs::remove_file(&file).expect("ours");
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.expect("coreutils").success());
    let ran = run("rd_controldata", &[path]);
    assert!(ran.err.contains("it is no regular file"), "{}", ran.err);
    assert_eq!(ran.code, 1);
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    let none = run("rd_controldata", &[]);
    assert_eq!(none.code, 1);
    assert!(
        none.err
            .contains("no data directory specified and environment variable RDDATA unset")
    );
    let missing = run("rd_controldata", &["-D", "/nowhere"]);
    assert_eq!(missing.code, 1);
    assert!(
        missing
            .err
            .contains("could not open file \"/nowhere/global/pg_control\"")
    );
    assert_eq!(run("rd_controldata", &["--what"]).code, 1);
    assert_eq!(run("rd_controldata", &["-?"]).code, 0);
    let version = run("rd_controldata", &["-V"]);
    assert_eq!(version.code, 0);
    assert!(
        version.out.starts_with("rd_controldata (Redoubt) "),
        "{}",
        version.out
    );
}
