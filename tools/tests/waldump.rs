//! `rd_waldump` over good, torn, damaged and growing logs.

mod support;

use rd_base::limits::WAL_PAGE_BYTES;
use rd_base::{Lsn, StartCount, Timeline};
use rd_format::wal_page::{self, WAL_HEADER_BYTES, WalPageHeader};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use support::{LogMaker, SEGMENT, command, control, private_dir, run, write_control};
use tempfile::TempDir;

const FIRST: &str = "000000010000000000000001";
const SECOND: &str = "000000010000000000000002";

/// A log of more than a segment, with a record that crosses from the first to the second.
fn log() -> (TempDir, PathBuf, Vec<Lsn>, Lsn) {
    let dir = private_dir();
    let mut maker = LogMaker::new();
    let starts = (0..800)
        .map(|number| maker.set(format!("key{number}").as_bytes(), &[b'v'; 1900]))
        .collect();
    let wal = dir.path().join("wal");
    maker.write(&wal);
    let end = maker.end_lsn();
    (dir, wal, starts, end)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Flips a bit of the log.
fn damage(wal: &Path, lsn: Lsn) {
    let name = if lsn.get() < 2 * SEGMENT {
        FIRST
    } else {
        SECOND
    };
    let file = File::options()
        .read(true)
        .write(true)
        .open(wal.join(name))
        .expect("there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, lsn.get() % SEGMENT)
        .expect("there");
    file.write_all_at(&[byte[0] ^ 4], lsn.get() % SEGMENT)
        .expect("ours");
}

#[test]
fn every_record_is_a_line_wherever_the_log_is_named() {
    let (dir, wal, starts, end) = log();
    let all = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!(all.code, 0, "{}", all.err);
    assert_eq!(all.out.lines().count(), starts.len());
    let first = all.out.lines().next().expect("a line");
    assert!(first.starts_with("commit "), "{first}");
    assert!(first.contains(&format!("lsn {}", starts[0])), "{first}");
    assert!(first.contains("set \"key0\" = \"vvv"), "{first}");
    assert!(
        all.err
            .contains(&format!("rd_waldump: the log ends at {end}: ")),
        "{}",
        all.err
    );

    assert_eq!(run("rd_waldump", &["-p", text(dir.path())]).out, all.out);
    assert_eq!(run("rd_waldump", &[text(&wal.join(FIRST))]).out, all.out);
    let mut in_environment = command("rd_waldump");
    in_environment
        .env("RDDATA", dir.path())
        .current_dir("/")
        .stdin(Stdio::null());
    assert_eq!(
        support::finish(in_environment.output().expect("there")).out,
        all.out
    );
    // Beside a control file, and through names of segments.
    write_control(dir.path(), &control(1).encode(), &[]);
    assert_eq!(run("rd_waldump", &["-p", text(&wal), FIRST]).out, all.out);
    let quiet = run("rd_waldump", &["-q", "-p", text(&wal)]);
    assert_eq!(
        (quiet.code, quiet.out.as_str(), quiet.err.as_str()),
        (0, "", "")
    );
}

#[test]
fn ranges_limits_and_kinds() {
    let (_dir, wal, starts, end) = log();
    let dump = |args: &[&str]| run("rd_waldump", &[&["-p", text(&wal)], args].concat());
    let lsn = |index: usize| starts[index].to_string();
    let some = dump(&["-s", &lsn(10), "-e", &lsn(13)]);
    assert_eq!((some.code, some.err.as_str()), (0, ""));
    assert_eq!(some.out.lines().count(), 3);
    assert!(
        some.out.contains("\"key10\"") && some.out.contains("\"key12\""),
        "{}",
        some.out
    );
    let two = dump(&["-s", &lsn(10), "-n", "2"]);
    assert_eq!((two.code, two.out.lines().count()), (0, 2));
    assert_eq!(dump(&["-n", "0"]).out, "");

    // From the middle of a record: the next one, and it says so.
    let inside = Lsn::new(starts[10].get() + 8);
    let next = dump(&["-s", &inside.to_string(), "-n", "1"]);
    let skipped = starts[11].get() - inside.get();
    let words = format!("first record is after {inside}, at {}", starts[11]);
    assert!(next.out.starts_with(&words), "{}", next.out);
    assert!(
        next.out.contains(&format!("skipping over {skipped} bytes")),
        "{}",
        next.out
    );

    // The first segment alone ends within a record, which is still printed.
    let one = dump(&[FIRST, FIRST]);
    assert_eq!(one.code, 0, "{}", one.err);
    let in_first = starts
        .iter()
        .filter(|start| start.get() < 2 * SEGMENT)
        .count();
    assert_eq!(one.out.lines().count(), in_first);

    assert_eq!(dump(&["-r", "checkpoint"]).out, "");
    assert_eq!(dump(&["-r", "commit", "-n", "5"]).out.lines().count(), 5);
    assert!(dump(&["-r", "list"]).out.contains("commit\n"));
    assert!(
        dump(&["-r", "nonsense"])
            .err
            .contains("unknown kind of record \"nonsense\"")
    );
    let late = dump(&["-e", "1/0"]);
    assert_eq!(late.code, 1);
    assert!(
        late.err
            .contains(&format!("the log ends at {end}, before 1/0")),
        "{}",
        late.err
    );
    assert_eq!(dump(&["-s", "0/200000", "-e", "0/100000"]).code, 1);
}

#[test]
fn statistics_add_up() {
    let (_dir, wal, starts, end) = log();
    let table = run("rd_waldump", &["-z", "-p", text(&wal)]);
    assert_eq!(table.code, 0);
    let head = format!("WAL statistics between {} and {end}:\n", starts[0]);
    assert!(table.out.starts_with(&head), "{}", table.out);
    let line = table
        .out
        .lines()
        .find(|line| line.starts_with("commit "))
        .expect("a line");
    let numbers: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(numbers[1..3], ["800", "100.00"]);
    let detail = run("rd_waldump", &["--stats=record", "-p", text(&wal)]);
    let upserts = detail
        .out
        .lines()
        .find(|line| line.starts_with("commit/upsert "))
        .expect("one");
    assert_eq!(upserts.split_whitespace().nth(1), Some("800"));
    let total = |out: &str| {
        let line = out
            .lines()
            .find(|line| line.starts_with("Total "))
            .expect("a line");
        line.split_whitespace()
            .rev()
            .nth(1)
            .expect("a number")
            .to_owned()
    };
    assert_eq!(total(&table.out), total(&detail.out));
}

#[test]
fn damage_is_located_and_a_torn_tail_is_an_end() {
    let (_dir, wal, starts, end) = log();
    damage(&wal, Lsn::new(starts[20].get() + 2000));
    let damaged = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!(damaged.code, 1);
    assert_eq!(damaged.out.lines().count(), 20);
    let place = starts[20].get() % SEGMENT;
    for words in [
        format!(
            "rd_waldump: error: invalid record at {}: record checksum: ",
            starts[20]
        ),
        format!(
            "detail: In \"{}\", at offset {place} (",
            wal.join(FIRST).display()
        ),
        format!("it can be read up to {}", starts[20]),
    ] {
        assert!(damaged.err.contains(&words), "{words} in {}", damaged.err);
    }
    // Up to there nothing is wrong.
    let before = run(
        "rd_waldump",
        &["-p", text(&wal), "-e", &starts[20].to_string()],
    );
    assert_eq!((before.code, before.err.as_str()), (0, ""));

    let (_dir, wal, starts, _) = log();
    damage(&wal, Lsn::new(end.get() - 20));
    let torn = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!(
        (torn.code, torn.out.lines().count()),
        (0, starts.len() - 1),
        "{}",
        torn.err
    );
    assert!(torn.err.contains("the log ends at"), "{}", torn.err);
    // Unless pg_control knows that it was durable.
    let mut known = control(1);
    known.durable_lsn = end;
    write_control(wal.parent().expect("of a directory"), &known.encode(), &[]);
    let lost = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!(lost.code, 1);
    assert!(
        lost.err
            .contains("pg_control says that it was durable up to"),
        "{}",
        lost.err
    );
}

/// Lines of commits; not the one that says what of a record was skipped.
fn commits(out: &str) -> usize {
    out.lines()
        .filter(|line| line.starts_with("commit "))
        .count()
}

fn segment(number: u64) -> String {
    wal_page::segment_name(Timeline::new(1), number, SEGMENT)
}

/// Of a log from which old segments were removed, and one could not be.
#[test]
fn a_segment_that_is_left_over_is_no_damage() {
    let dir = private_dir();
    let wal = dir.path().join("wal");
    let mut maker = LogMaker::new();
    let mut starts = Vec::new();
    while maker.end_lsn().get() < 12 * SEGMENT + SEGMENT / 2 {
        starts.push(maker.set(b"key", &[b'v'; 7000]));
    }
    maker.write(&wal);
    let is_there = |number: u64| number == 3 || (9..=12).contains(&number);
    for number in (1..13).filter(|number| !is_there(*number)) {
        fs::remove_file(wal.join(segment(number))).expect("it is there");
    }
    let redo = |number: u64| {
        let behind = starts.iter().find(|start| start.get() > number * SEGMENT);
        *behind.expect("there are more")
    };
    let mut known = control(2);
    (known.durable_lsn, known.redo_lsn) = (maker.end_lsn(), redo(10));
    known.redo_predecessor_count = StartCount::new(1);
    let newer = known.encode();
    (known.sequence, known.redo_lsn) = (1, redo(9));
    write_control(dir.path(), &newer, &known.encode());
    let all = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!(all.code, 0, "{}", all.err);
    let last_whole = starts
        .iter()
        .rev()
        .filter(|start| start.get() < 4 * SEGMENT);
    let cut = *last_whole.clone().next().expect("there is one");
    let shown = starts
        .iter()
        .filter(|start| **start >= redo(9) || start.get() > 3 * SEGMENT && **start < cut);
    assert_eq!(commits(&all.out), shown.count());
    let words = format!(
        "is left over and not needed; going on there, at {}",
        redo(9)
    );
    assert!(all.err.contains(&words), "no {words:?} in: {}", all.err);
    assert!(all.err.contains("the file is not there"), "{}", all.err);
    let end = format!("the log ends at {}", maker.end_lsn());
    assert!(all.err.contains(&end), "{}", all.err);
    // Who asks for a place gets what is there.
    let there = run("rd_waldump", &["-p", text(&wal), &segment(3)]);
    assert_eq!(there.code, 1, "{}", there.err);
    // And what is needed must be there.
    fs::remove_file(wal.join(segment(11))).expect("it is there");
    let lost = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!(lost.code, 1, "{}", lost.err);
    assert!(lost.err.contains("was durable up to"), "{}", lost.err);
}

/// Of a log that was reset, by a reset that was cut off before it had removed the old one.
#[test]
fn a_log_that_was_reset_is_no_damage_to_the_old_one() {
    let dir = private_dir();
    let wal = dir.path().join("wal");
    let mut maker = LogMaker::new();
    let mut old = 0;
    while maker.end_lsn().get() < 5 * SEGMENT + SEGMENT / 2 {
        old += usize::from(maker.set(b"key", &[b'v'; 7000]).get() > 3 * SEGMENT);
    }
    maker.write(&wal);
    fs::write(wal.join(segment(6)), vec![0; SEGMENT as usize]).expect("written");
    for number in 1..3 {
        fs::remove_file(wal.join(segment(number))).expect("it is there");
    }
    let mut maker = LogMaker::in_segment(7);
    for _ in 0..10 {
        maker.set_in_start(2, b"key", b"value");
    }
    maker.write(&wal);
    let mut known = control(1);
    (known.durable_lsn, known.redo_lsn) = (maker.end_lsn(), Lsn::new(7 * SEGMENT));
    known.redo_predecessor_count = StartCount::new(1);
    write_control(dir.path(), &known.encode(), &known.encode());
    let all = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!(all.code, 0, "{}", all.err);
    assert_eq!(commits(&all.out), old + 10);
    let words = "is left over and not needed; going on there, at 0/700000";
    assert!(all.err.contains(words), "no {words:?} in: {}", all.err);
}

#[test]
fn missing_and_hostile_files_are_survived() {
    let (_dir, wal, starts, _) = log();
    let second = fs::read(wal.join(SECOND)).expect("there");
    fs::remove_file(wal.join(SECOND)).expect("there");
    let short = run("rd_waldump", &["-p", text(&wal)]);
    let in_first = starts
        .iter()
        .filter(|start| start.get() < 2 * SEGMENT)
        .count();
    // The record that crosses into the missing file is not whole.
    assert_eq!(
        (short.code, short.out.lines().count()),
        (0, in_first - 1),
        "{}",
        short.err
    );
    assert!(short.err.contains("the file is not there"), "{}", short.err);

    let first = fs::read(wal.join(FIRST)).expect("there");
    fs::write(wal.join(SECOND), second).expect("ours");
    for (bytes, code) in [
        (&first[..100], 1),
        (&[0; 1 << 20][..], 1),
        (&[0xA5; 1 << 20][..], 1),
    ] {
        fs::write(wal.join(FIRST), bytes).expect("ours");
        let ran = run("rd_waldump", &["-p", text(&wal)]);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{}", ran.err);
    }
    // Every eighth byte of the first pages in turn: never a panic, never a hang.
    for at in (0..600).step_by(8) {
        let mut bytes = first.clone();
        bytes[at] ^= 0xFF;
        fs::write(wal.join(FIRST), &bytes).expect("ours");
        let ran = run("rd_waldump", &["-q", "-p", text(&wal)]);
        assert!(ran.code <= 1);
    }
    let none = run("rd_waldump", &["-p", "/nowhere"]);
    assert_eq!(none.code, 1);
    assert!(
        none.err
            .contains("could not find a WAL file in \"/nowhere\""),
        "{}",
        none.err
    );
    for args in [
        &["-s", "12"][..],
        &["-n", "-1"],
        &["--what"],
        &["-z=nonsense"],
    ] {
        assert_eq!(run("rd_waldump", args).code, 1, "{args:?}");
    }
    assert_eq!(run("rd_waldump", &["-?"]).code, 0);
}

/// Records of an earlier start behind those of a later one are no log, and reading again from there
/// does not make them any.
#[test]
fn a_record_of_an_earlier_start_ends_the_log() {
    let dir = private_dir();
    let wal = dir.path().join("wal");
    let mut maker = LogMaker::new();
    maker.set_in_start(2, b"good", &[b'v'; 1000]);
    let end = maker.end_lsn();
    for _ in 0..20 {
        maker.set_in_start(1, b"stale", &[b'v'; 1000]);
    }
    maker.write(&wal);
    let ran = run("rd_waldump", &["-p", text(&wal)]);
    assert_eq!((ran.code, ran.out.lines().count()), (1, 1), "{}", ran.err);
    let start = rd_format::wal_page::start_after(end);
    assert!(
        ran.err.contains(&format!("invalid record at {start}")),
        "{}",
        ran.err
    );
    assert!(ran.err.contains("start count 1, below 2"), "{}", ran.err);
}

/// The last file that could have a name, positions behind it, pipes in the place of files.
#[test]
fn no_name_of_a_file_and_no_position_is_too_much() {
    let dir = private_dir();
    let wal = dir.path().join("wal");
    let mut maker = LogMaker::new();
    maker.set(b"key", b"value");
    maker.write(&wal);
    let whole = fs::read(wal.join(FIRST)).expect("there");
    let last = ["00000001FFFFFFFF00000FFF", "000000013FFFFFFF00000FFF"];
    for name in last {
        // Each page says that it belongs where it is, and the last record goes on behind it.
        let segment = u64::from_str_radix(&name[8..16], 16).expect("digits") * 4096 + 0xFFF;
        let mut bytes = whole.clone();
        for (index, page) in bytes.chunks_mut(WAL_PAGE_BYTES).enumerate() {
            let address = segment.wrapping_mul(SEGMENT) + (index * WAL_PAGE_BYTES) as u64;
            let header = WalPageHeader {
                timeline: Timeline::new(1),
                address: Lsn::new(address),
                remaining: u32::MAX - 7,
                durable_lsn: Lsn::new(u64::MAX),
                system_identifier: 0xFEED_0000_0000_0001,
            };
            page[..WAL_HEADER_BYTES].copy_from_slice(&header.encode());
        }
        fs::write(wal.join(name), bytes).expect("ours");
        for args in [
            &[][..],
            &[name],
            &[name, name],
            &["-z", name],
            &["-q", FIRST, name],
        ] {
            let mut all = vec!["-p", text(&wal)];
            all.extend(args);
            assert!(run("rd_waldump", &all).code <= 1, "{args:?}");
        }
        fs::remove_file(wal.join(name)).expect("ours");
    }
    for lsn in [
        "FFFFFFFF/FFFFFFFF",
        "FFFFFFFF/FFFFE000",
        "3FFFFFFF/FFFFFFFF",
        "0/0",
    ] {
        for args in [["-s", lsn], ["-e", lsn]] {
            let ran = run("rd_waldump", &["-p", text(&wal), args[0], args[1]]);
            assert!(ran.code <= 1, "{args:?}: {}", ran.err);
        }
    }
    for name in ["000000010000000000000000", SECOND] {
        let _ = fs::remove_file(wal.join(name));
        let made = std::process::Command::new("mkfifo")
            .arg(wal.join(name))
            .status();
        assert!(made.expect("coreutils").success());
        let ran = run("rd_waldump", &["-p", text(&wal), "-s", "0/100028"]);
        assert!(ran.code <= 1, "{}", ran.err);
        let ran = run("rd_waldump", &["-p", text(&wal)]);
        assert!(ran.code <= 1, "{}", ran.err);
    }
}

#[test]
fn follow_prints_what_comes() {
    let dir = private_dir();
    let wal = dir.path().join("wal");
    let mut maker = LogMaker::new();
    maker.set(b"early", b"1");
    maker.write(&wal);
    let mut child = command("rd_waldump")
        .args(["-f", "-p", text(&wal)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert!(next().contains("\"early\""));
    maker.set(b"late", b"2");
    maker.write(&wal);
    assert!(next().contains("\"late\""));
    child.kill().expect("ours");
    child.wait().expect("ours");
}
