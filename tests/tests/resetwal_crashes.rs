//! `rd_resetwal`, cut off at one after another of its I/Os by a loss of power, on the directories of
//! real servers: afterwards each is as it was, or can be reset again with the same outcome. And on disks
//! that do not give back what is on them.

use nix::sys::signal::Signal;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, PageTag, StartCount, Timeline};
use rd_engine::init;
use rd_engine::verify::{FilePages, verify};
use rd_format::control::{ControlFile, DbState};
use rd_format::wal_page;
use rd_store::control_file::{self, CONTROL_PATH, ControlStore};
use rd_store::doublewrite::DOUBLEWRITE_PATH;
use rd_store::relation::RelationFiles;
use rd_sys::crash::catch_panics;
use rd_sys::simdisk::{Injection, IoKind, SimStorage};
use rd_sys::storage::{OpenMode, RealStorage, Storage};
use rd_tests::support::cluster::Cluster;
use rd_tools::resetwal::{self, Found};
use std::fs;
use std::sync::Arc;

const DIRECTORIES: [&str; 3] = ["base", "global", "wal"];
const KEYS: usize = 400;
/// Of the I/Os that mend pages so many are tried; of the others, all.
const MENDING_MAX: u64 = 40;
/// What the paths of the log's files begin with.
const SEGMENTS: &str = "wal/0000";
/// Servers that are started on what was cut off.
const STARTS: u64 = 3;

/// A server that was stopped, or killed behind a checkpoint, and its files on a simulated disk.
struct Before {
    cluster: Cluster,
    disk: SimStorage,
    control: ControlFile,
}

impl Before {
    fn new(stop: impl FnOnce(&mut Cluster)) -> Before {
        Before::with(&[], stop)
    }

    /// As [`Before::new`], with these settings too.
    fn with(settings: &[(&str, &str)], stop: impl FnOnce(&mut Cluster)) -> Before {
        let mut all = vec![
            ("wal_segment_size", "1MB"),
            ("min_wal_size", "2MB"),
            ("double_write_size", "8MB"),
            ("checkpoint_heartbeat", "1min"),
            ("checkpoint_timeout", "1h"),
            ("recovery_time_target", "0"),
        ];
        all.extend_from_slice(settings);
        let mut cluster = Cluster::started(&all);
        let mut client = cluster.client();
        for words in [
            &["SELECT", "3"][..],
            &["SET", "other", "there"],
            &["SELECT", "0"],
        ] {
            assert!(client.call(words).expect("answered").is_ok());
        }
        for number in 0..KEYS {
            if number == KEYS / 2 {
                assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
            }
            let reply = client.call(&["SET", &key(number), &"v".repeat(200)]);
            assert!(reply.expect("answered").is_ok());
        }
        stop(&mut cluster);
        let disk = SimStorage::new(7);
        for directory in DIRECTORIES {
            disk.create_dir(directory).expect("a good disk");
            for entry in fs::read_dir(cluster.path(directory)).expect("a directory") {
                let entry = entry.expect("an entry");
                let name = entry.file_name().into_string().expect("a name");
                let bytes = fs::read(entry.path()).expect("a file");
                let file = disk.open(&format!("{directory}/{name}"), OpenMode::CreateNew);
                let file = file.expect("a good disk");
                file.write_all_at(&bytes, 0).expect("room");
                file.sync_all().expect("a good disk");
            }
            disk.sync_dir(directory).expect("a good disk");
        }
        disk.sync_dir("").expect("a good disk");
        let control = control_file::read(&disk).expect("valid").control;
        Before {
            cluster,
            disk,
            control,
        }
    }

    /// What a reset leaves that the power cuts off at its I/O number `at`; none if it is done before.
    fn cut_off(&self, at: u64) -> Option<SimStorage> {
        let disk = self.disk.fork();
        disk.crash_at(Some(disk.io_count() + at));
        let is_done = catch_panics(|| reset(&disk).is_ok()) == Ok(true);
        disk.crash(at);
        (!is_done).then_some(disk)
    }

    /// Has a real server start on what `disk` holds, and gives the keys that it finds.
    fn keys_of_server_on(&mut self, disk: &SimStorage) -> usize {
        let data_dir = self.cluster.data_dir();
        for directory in DIRECTORIES {
            fs::remove_dir_all(data_dir.join(directory)).expect("removed");
            fs::create_dir(data_dir.join(directory)).expect("made");
            for name in disk.list(directory).expect("a good disk") {
                let path = format!("{directory}/{name}");
                let file = disk.open(&path, OpenMode::Read).expect("a good disk");
                let mut bytes = vec![0; file.len().expect("a good disk") as usize];
                file.read_at(&mut bytes, 0).expect("a good disk");
                fs::write(data_dir.join(path), bytes).expect("written");
            }
        }
        self.cluster.start();
        let mut client = self.cluster.client();
        let read = (0..KEYS).filter(|number| {
            let reply = client.call(&["GET", &key(*number)]).expect("answered");
            assert!(reply.error().is_none(), "{reply:?}");
            reply.as_str().is_some()
        });
        let read = read.count();
        let counted = client.call(&["DBSIZE"]).expect("answered").as_int();
        assert_eq!(counted, Some(read as i64));
        assert_eq!(self.cluster.stop(Signal::SIGINT).code(), Some(0));
        read
    }
}

fn key(number: usize) -> String {
    format!("key:{number:06}")
}

fn look(disk: &SimStorage) -> anyhow::Result<Found> {
    resetwal::look_in(Arc::new(disk.mount()))
}

/// What `rd_resetwal -f` does.
fn reset(disk: &SimStorage) -> anyhow::Result<()> {
    let found = look(disk)?;
    if !found.is_clean() {
        found.mend()?;
    }
    let left = found.reset(&found.plan()?)?;
    anyhow::ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// The files that `pg_control` names and the keys that it counts there; every tree must be whole and
/// have as many.
fn files(disk: &SimStorage) -> Vec<(FileNo, u64)> {
    let control = control_file::read(disk).expect("valid").control;
    let relations = RelationFiles::reader(Arc::new(disk.clone()));
    let count = |row: &rd_format::control::FileRow| {
        let report = verify(&FilePages {
            relations: &relations,
            file: row.file,
            blocks: row.blocks,
        });
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        assert_eq!(report.keys, row.key_count, "in file {}", row.file);
        (row.file, row.key_count)
    };
    control.files.iter().map(count).collect()
}

/// Cuts a reset off wherever that can be. `keys` are those that a start finds as long as nothing
/// was reset.
fn cut_off_everywhere(mut before: Before, keys: usize) {
    let whole = before.disk.fork();
    let from = whole.io_count();
    if !look(&whole).expect("readable").is_clean() {
        look(&whole)
            .and_then(|found| found.mend())
            .expect("a good disk");
    }
    let mending = whole.io_count() - from;
    reset(&whole).expect("a good disk");
    let outcome = files(&whole);
    let after_reset = before.keys_of_server_on(&whole);
    let loss = look(&before.disk).expect("readable").loss;
    let loss = loss.map(|loss| loss.to_string());

    let mended = (1..=mending).step_by((mending / MENDING_MAX + 1) as usize);
    let (mut cut, mut as_before, mut starts) = (0, 0, 0);
    for at in mended.chain(mending + 1..) {
        let Some(disk) = before.cut_off(at) else {
            break;
        };
        cut += 1;
        let found = look(&disk).unwrap_or_else(|error| panic!("cut off at {at}: {error:#}"));
        let is_as_before = found.control == before.control;
        if is_as_before {
            as_before += 1;
            let still = found.loss.as_ref().map(ToString::to_string);
            assert_eq!(still, loss, "cut off at {at}");
        } else {
            assert!(found.is_clean(), "cut off at {at}");
        }
        if at % 7 == 0 && starts < STARTS || !is_as_before && starts == STARTS {
            starts += 1;
            let expected = if is_as_before { keys } else { after_reset };
            assert_eq!(before.keys_of_server_on(&disk), expected, "cut off at {at}");
        }
        reset(&disk).unwrap_or_else(|error| panic!("cut off at {at}: {error:#}"));
        assert_eq!(files(&disk), outcome, "cut off at {at}");
    }
    assert!(
        cut > 12 && as_before > 6 && as_before < cut,
        "{cut}, {as_before}"
    );
    assert!(starts > STARTS, "{starts} servers were started");
}

#[test]
fn after_a_clean_stop() {
    let before = Before::new(|cluster| assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0)));
    cut_off_everywhere(before, KEYS);
}

#[test]
fn after_a_crash() {
    let before = Before::new(Cluster::kill_all);
    cut_off_everywhere(before, KEYS);
}

/// A file has lost all its pages: it gets first ones again, whole, however often that is cut off.
#[test]
fn with_a_file_that_has_no_page_left() {
    let before = Before::new(Cluster::kill_all);
    let file = before.control.files.last().expect("there are three").file;
    let name = format!("base/{file}");
    let lost = before.disk.open(&name, OpenMode::ReadWrite).expect("there");
    lost.truncate(0)
        .and_then(|()| lost.sync_all())
        .expect("cut");
    let whole = before.disk.fork();
    reset(&whole).expect("a good disk");
    let outcome = files(&whole);
    assert!(outcome.contains(&(file, 0)), "{outcome:?}");
    for at in 1.. {
        let Some(disk) = before.cut_off(at) else {
            break;
        };
        reset(&disk).unwrap_or_else(|error| panic!("cut off at {at}: {error:#}"));
        assert_eq!(files(&disk), outcome, "cut off at {at}");
    }
}

/// Reads of a path fail as those of bad sectors do: `times` of them, after `skip` that do not.
fn bad_sectors(disk: &SimStorage, path: &str, skip: u64, times: u64) {
    disk.inject(Injection {
        kind: IoKind::Read,
        path_contains: path.to_owned(),
        skip,
        times,
        errno: 5,
    });
}

/// What cannot be read of the log is lost, and that is what the tool is for.
#[test]
fn a_bad_sector_in_the_log_ends_it() {
    let before = Before::new(Cluster::kill_all);
    let whole = before.disk.fork();
    let all = look(&whole).expect("readable").loss.expect("not clean");
    assert!(!all.to_string().contains("cannot be read"), "{all}");
    reset(&whole).expect("a good disk");
    let outcome = files(&whole);
    // The whole file; all but its first pages, of which a chunk is made when it cannot be read at once.
    for pages in [0, 3] {
        let disk = before.disk.fork();
        if pages > 0 {
            bad_sectors(&disk, SEGMENTS, 1, 1);
        }
        bad_sectors(&disk, SEGMENTS, pages, u64::MAX);
        let ios = disk.io_count();
        let found = look(&disk).expect("it is for this");
        let loss = found.loss.as_ref().expect("not clean");
        assert_eq!(loss.records > 0, pages > 0);
        assert!(loss.records < all.records && !loss.is_nothing(), "{loss}");
        let text = loss.to_string();
        assert!(text.contains("cannot be read"), "{text}");
        assert!(text.contains("os error 5"), "{text}");
        found.plan().expect("it is for this");
        assert!(!found.is_clean());
        assert_eq!(disk.io_count(), ios, "nothing was asked for yet");
        reset(&disk).expect("it is for this");
        disk.clear_injections();
        assert_eq!(files(&disk), outcome);
    }
}

/// Of a log whose old segments could not all be removed, or were before a reset that was cut off: without
/// `pg_control` nobody knows where what counts begins, and what follows a gap is summed up, too.
#[test]
fn a_log_with_a_gap_is_read_to_its_end() {
    let before = Before::with(&[("min_wal_size", "16MB")], |cluster| {
        let mut client = cluster.client();
        for number in 0..400 {
            let reply = client.call(&["SET", &key(number), &"w".repeat(8_000)]);
            assert!(reply.expect("answered").is_ok());
        }
        cluster.kill_all();
    });
    let loss_of = |gap: Option<u64>| {
        let disk = before.disk.fork();
        bad_sectors(&disk, CONTROL_PATH, 1, 2);
        if let Some(number) = gap {
            let name = wal_page::segment_name(Timeline::new(1), number, 1 << 20);
            disk.remove(&format!("wal/{name}")).expect("it is there");
        }
        let found = look(&disk).expect("it is for this");
        assert!(found.guessed.is_some());
        let plan = found.plan().expect("it is for this");
        (found.loss.expect("there is log"), plan)
    };
    let (whole, plan) = loss_of(None);
    assert_eq!(whole.gaps, 0, "{whole}");
    assert!(wal_page::segment_of(whole.end, 1 << 20) > 3, "{whole}");
    let (parted, plan_of_parted) = loss_of(Some(2));
    assert_eq!((parted.gaps, parted.end), (1, whole.end), "{parted}");
    assert!(parted.records < whole.records && parted.commits > 100);
    assert!(parted.to_string().contains("Gaps in it: 1;"), "{parted}");
    assert_eq!(plan_of_parted.control.start_count, plan.control.start_count);
}

#[test]
fn a_control_file_that_the_disk_does_not_give_is_guessed() {
    let before = Before::new(Cluster::kill_all);
    let whole = before.disk.fork();
    reset(&whole).expect("a good disk");
    // With the log, and without.
    for is_log_bad in [false, true] {
        let disk = before.disk.fork();
        bad_sectors(&disk, CONTROL_PATH, 1, 2);
        if is_log_bad {
            bad_sectors(&disk, SEGMENTS, 1, u64::MAX);
        }
        let ios = disk.io_count();
        let found = look(&disk).expect("it is for this");
        let why = found.guessed.clone().expect("nothing can be read");
        assert!(why.contains("os error 5"), "{why}");
        assert_eq!(found.loss.is_none(), is_log_bad);
        assert_eq!(disk.io_count(), ios, "nothing was asked for yet");
        found.mend().expect("it is for this");
        let plan = found.plan().expect("it is for this");
        let system = before.control.system_identifier;
        assert_eq!(plan.control.system_identifier, system);
        found.reset(&plan).expect("it is for this");
        disk.clear_injections();
        assert_eq!(files(&disk), files(&whole));
    }
}

/// Leaves the beginning of the double-write area.
fn cut_off_area(disk: &SimStorage) {
    let area = disk.open(DOUBLEWRITE_PATH, OpenMode::ReadWrite);
    let area = area.expect("it is there");
    area.truncate(5000)
        .and_then(|()| area.sync_all())
        .expect("cut");
}

/// A double-write area that cannot be used mends nothing; nor may it keep the next start from making one.
#[test]
fn a_double_write_area_that_was_cut_off_is_made_anew() {
    for is_clean in [false, true] {
        let mut before = Before::new(|cluster| match is_clean {
            true => assert_eq!(cluster.stop(Signal::SIGINT).code(), Some(0)),
            false => cluster.kill_all(),
        });
        let disk = before.disk.fork();
        cut_off_area(&disk);
        let found = look(&disk).expect("readable");
        let plan = found.plan().expect("it is not needed");
        let is_told = plan
            .notes
            .iter()
            .any(|note| note.contains(DOUBLEWRITE_PATH));
        assert!(is_told, "{:?}", plan.notes);
        assert!(disk.exists(DOUBLEWRITE_PATH).expect("a good disk"));
        reset(&disk).expect("it is not needed");
        let (whole, at_least) = (before.disk.fork(), if is_clean { KEYS } else { KEYS / 2 });
        reset(&whole).expect("a good disk");
        assert_eq!(files(&disk), files(&whole));
        // A start that is killed when it has said that it has begun: the checkpointer, which makes the
        // area, has not come to that.
        let begun = disk.fork();
        let mut slots = ControlStore::open(&begun).expect("valid");
        let newest = slots.newest().clone();
        let started = ControlFile {
            state: DbState::InProduction,
            start_count: StartCount::new(newest.start_count.get() + 1),
            ..newest
        };
        slots.write_both(started, 1).expect("a good disk");
        assert!(before.keys_of_server_on(&begun) >= at_least);
        assert!(before.keys_of_server_on(&disk) >= at_least);
        let control = control_file::read(&RealStorage::new(before.cluster.data_dir()));
        assert!(control.expect("valid").control.has_all_copies());
    }
}

/// A server that writes pages without the double-write area was killed: they may be in the kernel's cache
/// only. A start would redo them; after the reset it takes them as they are.
#[test]
fn what_was_counted_is_there_after_a_loss_of_power() {
    let before = Before::with(&[("torn_page_protection", "off")], Cluster::kill_all);
    for seed in 0..5 {
        let disk = before.disk.fork();
        for name in disk.list("base").expect("a good disk") {
            let file = disk.open(&format!("base/{name}"), OpenMode::ReadWrite);
            let file = file.expect("it is there");
            let mut bytes = vec![0; file.len().expect("a good disk") as usize];
            let zeros = bytes.clone();
            file.read_at(&mut bytes, 0).expect("a good disk");
            file.write_all_at(&zeros, 0).expect("room");
            file.sync_all().expect("a good disk");
            file.write_all_at(&bytes, 0).expect("room");
        }
        disk.kill(seed);
        reset(&disk).expect("a good disk");
        let counted = files(&disk);
        disk.crash(seed);
        assert_eq!(files(&disk), counted, "seed {seed}");
    }
}

/// What is to be removed is needed by nobody once the new `pg_control` is there: that it stays is worth a
/// warning, and nothing more.
#[test]
fn what_cannot_be_removed_stops_no_reset() {
    let mut before = Before::new(Cluster::kill_all);
    let listed = |disk: &SimStorage| disk.list("wal").expect("a good disk");
    let old = listed(&before.disk);
    assert!(old.len() > 2, "{old:?}");
    for (kind, path, times) in [
        (IoKind::Remove, format!("wal/{}", old[1]), 1),
        (IoKind::Remove, DOUBLEWRITE_PATH.to_owned(), 1),
        (IoKind::SyncDir, "wal".to_owned(), 1),
    ] {
        let disk = before.disk.fork();
        cut_off_area(&disk);
        let found = look(&disk).expect("readable");
        let plan = found.plan().expect("readable");
        disk.inject(Injection {
            kind,
            path_contains: path.clone(),
            // The new segment's name is made durable before.
            skip: u64::from(kind == IoKind::SyncDir),
            times,
            errno: 1,
        });
        let warnings = found.reset(&plan).expect("the log is reset");
        let [warning] = &warnings[..] else {
            panic!("{path}: {warnings:?}");
        };
        assert!(warning.contains(&format!("\"{path}\"")), "{warning}");
        assert!(warning.contains("os error 1"), "{warning}");
        let mut expected = vec![plan.segment.clone()];
        expected.extend(old.iter().filter(|name| path.ends_with(*name)).cloned());
        expected.sort_unstable();
        let mut left = listed(&disk);
        left.sort_unstable();
        assert_eq!(left, expected);
        assert!(look(&disk).expect("readable").is_clean());
        assert!(before.keys_of_server_on(&disk) >= KEYS / 2);
    }
}

/// A bad sector in a file's first pages is damage like any other: it refuses nothing, and where only the
/// disk does not give a root, no empty one is put in its place.
#[test]
fn a_bad_sector_in_a_files_first_pages_refuses_nothing() {
    let before = Before::new(Cluster::kill_all);
    let file = before.control.files.last().expect("there are three").file;
    let system = before.control.system_identifier;
    let pages = |disk: &SimStorage| {
        let relations = RelationFiles::reader(Arc::new(disk.clone()));
        [0, 1, 2].map(|block| {
            let mut page = [0; PAGE_BYTES];
            let tag = PageTag::new(file, BlockNo::new(block));
            assert!(relations.read_block(tag, &mut page).expect("a good disk"));
            page
        })
    };
    let [header, rest @ ..] = pages(&before.disk);
    for (skip, times) in [(0, 1), (0, 3), (1, 2), (2, 1)] {
        let disk = before.disk.fork();
        let relations = RelationFiles::writer(Arc::new(disk.clone()));
        // It is opened by that.
        relations.blocks_on_disk(file).expect("a good disk");
        bad_sectors(&disk, &format!("base/{file}"), skip, times);
        let lsn = before.control.durable_lsn;
        let is_restored = init::restore_first_pages(&relations, system, file, lsn);
        assert_eq!(is_restored.expect("it is damage"), skip == 0);
        disk.clear_injections();
        let [now, others @ ..] = pages(&disk);
        assert_eq!(now == header, skip > 0);
        assert!(others == rest, "the tree is another");
    }
}
