//! `rd_resetwal` on the directories of real servers: what it refuses, what it says, and that the
//! server starts afterwards, with what is left.

use nix::sys::signal::Signal;
use rd_base::FileNo;
use rd_store::control_file;
use rd_sys::storage::RealStorage;
use rd_tests::support::cluster::{Cluster, run};
use std::fs;
use std::os::unix::fs::PermissionsExt;

const KEYS: usize = 3_000;

fn key(number: usize) -> String {
    format!("key:{number:06}")
}

fn with_keys(settings: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::started(settings);
    set(&cluster, 0..KEYS, "one");
    cluster
}

fn set(cluster: &Cluster, numbers: std::ops::Range<usize>, value: &str) {
    let mut client = cluster.client();
    let value = value.repeat(100);
    for number in numbers.clone() {
        client.send(&["SET", &key(number), &value]);
    }
    for _ in numbers {
        assert!(client.receive().expect("answered").is_ok());
    }
}

/// How many keys there are, as counted and as read.
fn keys(cluster: &Cluster) -> (usize, usize) {
    let mut client = cluster.client();
    let counted = client.call(&["DBSIZE"]).expect("answered");
    let counted = counted.as_int().expect("a number") as usize;
    let read = (0..KEYS).filter(|number| {
        let reply = client.call(&["GET", &key(*number)]).expect("answered");
        assert!(reply.error().is_none(), "{reply:?}");
        reply.as_str().is_some()
    });
    (counted, read.count())
}

fn resetwal(cluster: &Cluster, options: &[&str]) -> (i32, String) {
    let directory = cluster.data_dir();
    let directory = directory.to_string_lossy().into_owned();
    let mut arguments = options.to_vec();
    arguments.extend(["-D", &directory]);
    let (status, out, errors) = run("rd_resetwal", &arguments);
    (status.code().expect("an exit"), out + &errors)
}

/// `rd_verify` must find nothing.
fn assert_sound(cluster: &Cluster) {
    let directory = cluster.data_dir();
    let (status, out, errors) = run("rd_verify", &[&directory.to_string_lossy()]);
    assert!(status.success(), "{out}{errors}");
}

fn segments(cluster: &Cluster) -> Vec<String> {
    let entries = fs::read_dir(cluster.path("wal")).expect("a directory");
    let name = |entry: std::io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = entries
        .map(|entry| name(entry).to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn after_a_clean_stop_everything_is_there() {
    let mut cluster = with_keys(&[("wal_segment_size", "1MB")]);
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("Stop it first"), "{said}");
    cluster.stop(Signal::SIGINT);
    let before = (
        segments(&cluster),
        cluster.control("Latest checkpoint's REDO"),
    );

    let (code, said) = resetwal(&cluster, &["-n"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Current pg_control values"), "{said}");
    assert!(said.contains("First log segment after reset"), "{said}");
    assert!(said.contains("nothing is lost"), "{said}");
    let after = (
        segments(&cluster),
        cluster.control("Latest checkpoint's REDO"),
    );
    assert_eq!(before, after, "a dry run changes nothing");

    for _ in 0..2 {
        let (code, said) = resetwal(&cluster, &[]);
        assert_eq!(code, 0, "{said}");
        assert!(said.contains("Write-ahead log reset"), "{said}");
        let [segment] = &segments(&cluster)[..] else {
            panic!("one segment is left: {:?}", segments(&cluster));
        };
        assert!(segment > before.0.last().expect("it was there"));
        assert_sound(&cluster);
    }
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
    // The new log recovers as the old one did.
    set(&cluster, 0..KEYS / 2, "two");
    cluster.kill_all();
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
    cluster.stop(Signal::SIGINT);
    assert_sound(&cluster);
}

#[test]
fn after_a_crash_it_wants_to_be_forced_and_says_what_is_lost() {
    // Nothing is written that a checkpoint has not asked for, and none advances behind our backs.
    let mut cluster = with_keys(&[
        ("recovery_time_target", "0"),
        ("checkpoint_heartbeat", "1min"),
        ("checkpoint_timeout", "1h"),
    ]);
    let reply = cluster.client().call(&["CHECKPOINT"]).expect("answered");
    assert!(reply.is_ok());
    let mut client = cluster.client();
    for number in 0..50 {
        let reply = client.call(&["SET", &format!("late:{number}"), "lost"]);
        assert!(reply.expect("answered").is_ok());
    }
    cluster.kill_all();
    let (code, said) = resetwal(&cluster, &[]);
    assert_eq!(code, 1, "{said}");
    for words in ["not shut down cleanly", "50 of them commits", "-f to force"] {
        assert!(said.contains(words), "no {words:?} in: {said}");
    }
    let (code, said) = resetwal(&cluster, &["--dry-run"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("50 of them commits"), "{said}");
    // It was really left as it was.
    let copy = tempfile::tempdir().expect("a directory");
    cluster.copy_data(&copy.path().join("data"));

    let (code, said) = resetwal(&cluster, &["--force"]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("50 of them commits, the last made at"),
        "{said}"
    );
    assert!(said.contains("Write-ahead log reset"), "{said}");
    assert_sound(&cluster);
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
    let reply = cluster.client().call(&["GET", "late:7"]).expect("answered");
    assert_eq!(reply.as_str(), None, "what was lost is lost");
    set(&cluster, 0..KEYS, "two");
    cluster.stop(Signal::SIGINT);
    assert_sound(&cluster);

    fs::remove_dir_all(cluster.data_dir()).expect("removed");
    fs::rename(copy.path().join("data"), cluster.data_dir()).expect("put back");
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(cluster.data_dir(), private).expect("ours");
    cluster.start();
    let reply = cluster.client().call(&["GET", "late:7"]).expect("answered");
    assert_eq!(reply.as_str(), Some("lost"), "a start loses nothing");
}

#[test]
fn without_pg_control_values_are_guessed() {
    let mut cluster = with_keys(&[("wal_segment_size", "1MB")]);
    // In a file that no pg_control of the first day names.
    let mut client = cluster.client();
    for words in [&["SELECT", "3"][..], &["SET", "other", "there"]] {
        assert!(client.call(words).expect("answered").is_ok());
    }
    cluster.stop(Signal::SIGINT);
    let path = cluster.path("global/pg_control");
    let system = cluster.control("Database system identifier");
    let bytes = fs::read(&path).expect("it is there");
    fs::write(&path, vec![0; bytes.len()]).expect("written");
    let (log, code) = cluster.start_refused();
    assert_eq!(code, Some(1), "{log}");
    cluster.announce("pg_control");
    cluster.announce("does not start");
    for (options, expected) in [(&[][..], 1), (&["-n"], 0)] {
        let (code, said) = resetwal(&cluster, options);
        assert_eq!(code, expected, "{said}");
        for words in ["Guessed pg_control values", &system, "all zeros"] {
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
        let says_how = said.contains("use -f to force reset");
        assert_eq!(says_how, expected == 1, "{said}");
    }
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    assert_sound(&cluster);
    assert_eq!(cluster.control("Database system identifier"), system);
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
    let mut client = cluster.client();
    client.call(&["SELECT", "3"]).expect("answered");
    let reply = client.call(&["GET", "other"]).expect("answered");
    assert_eq!(reply.as_str(), Some("there"));
    set(&cluster, 0..KEYS, "two");
    cluster.kill_all();
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
}

#[test]
fn a_server_killed_in_the_middle_of_much_starts_with_what_is_left() {
    // Pages are written all the time, so that the crash finds files of many moments.
    let mut cluster = with_keys(&[("recovery_time_target", "1ms")]);
    for value in ["two", "three", "four"] {
        set(&cluster, 0..KEYS, value);
    }
    cluster.kill_all();
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    // Trees may name pages that never got to the disk: what is read is right, missing, or an error
    // that names the page; and the server lives.
    cluster.announce("rd_verify");
    cluster.announce("scrub: in file \"base/2\"");
    cluster.start();
    let mut client = cluster.client();
    for number in 0..KEYS {
        let reply = client.call(&["GET", &key(number)]).expect("answered");
        let whole = ["one", "two", "three", "four"].map(|word| word.repeat(100));
        let is_value = |text: &str| whole.iter().any(|value| value == text);
        match reply.error() {
            Some(error) => assert!(error.contains("file 2 block"), "{error}"),
            None => assert!(reply.as_str().is_none_or(is_value), "{reply:?}"),
        }
    }
    let mut client = cluster.client();
    for words in [&["SELECT", "1"][..], &["SET", "after", "all"]] {
        assert!(client.call(words).expect("answered").is_ok());
    }
}

/// The way on that is shown where a file is lost for good.
#[test]
fn an_empty_file_in_the_place_of_a_lost_one_is_an_empty_namespace() {
    let mut cluster = with_keys(&[("shared_buffers", "16MB")]);
    let client = &mut cluster.client();
    assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
    // Pages are written between checkpoints, so the double-write area has some of the lost file.
    for round in 0..10 {
        set(&cluster, round * KEYS..(round + 1) * KEYS, "more of it");
    }
    cluster.kill_all();
    let path = cluster.path("base/2");
    fs::remove_file(&path).expect("it is there");
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("make an empty file there"), "{said}");
    fs::write(&path, "").expect("made");
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("\"base/2\" had no header"), "{said}");
    assert_sound(&cluster);
    cluster.start();
    assert_eq!(keys(&cluster), (0, 0));
    set(&cluster, 0..KEYS, "anew");
    assert_eq!(keys(&cluster), (KEYS, KEYS));
}

/// A namespace whose file is not there, or is another's, may be put back yet: nothing is made in its
/// place.
#[test]
fn files_that_are_lost_or_of_another_directory_are_named_and_left_alone() {
    let mut cluster = with_keys(&[]);
    let mut other = Cluster::started(&[]);
    assert!(
        other
            .client()
            .call(&["SET", "other", "one"])
            .expect("answered")
            .is_ok()
    );
    other.stop(Signal::SIGINT);
    assert!(
        cluster
            .client()
            .call(&["CHECKPOINT"])
            .expect("answered")
            .is_ok()
    );
    cluster.kill_all();
    let path = cluster.path("base/2");
    let kept = cluster.path("kept");
    fs::rename(&path, &kept).expect("moved");
    let listed = || {
        (
            segments(&cluster),
            fs::read(cluster.path("global/pg_control")).expect("there"),
        )
    };
    let before = listed();
    for options in [&["-f"][..], &["-f", "-n"]] {
        let (code, said) = resetwal(&cluster, options);
        assert_eq!(code, 1, "{said}");
        for words in [
            "\"base/2\" is not there",
            "3000 keys",
            "Put it back first",
            "make an empty file",
        ] {
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
    }
    assert!(!path.exists());
    let foreign = fs::read(other.path("base/2")).expect("it is there");
    fs::write(&path, &foreign).expect("written");
    for options in [&["-f"][..], &["-f", "-n"]] {
        let (code, said) = resetwal(&cluster, options);
        assert_eq!(code, 1, "{said}");
        let system = other.control("Database system identifier");
        for words in ["\"base/2\" is of another data directory", &system] {
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
    }
    assert!(
        fs::read(&path).expect("there") == foreign,
        "it was written to"
    );
    assert!(listed() == before, "log or pg_control were changed");
    fs::rename(&kept, &path).expect("put back");
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
}

#[test]
fn a_file_with_a_number_that_no_server_comes_to_is_in_nobodys_way() {
    let mut cluster = with_keys(&[]);
    cluster.kill_all();
    fs::write(cluster.path("base/4294967295"), "").expect("written");
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    cluster.start();
    let mut client = cluster.client();
    for number in ["1", "2", "3"] {
        assert!(client.call(&["SELECT", number]).expect("answered").is_ok());
        let reply = client.call(&["SET", "key", number]).expect("answered");
        assert!(reply.is_ok(), "{reply:?}");
    }
}

/// A server whose databases 1 to 3 got their files, numbers 3 to 5, after the last checkpoint, and which
/// was killed: those of the first two are on disk whole, and the catalog's page there knows of none.
fn with_files_younger_than_the_catalog() -> Cluster {
    let mut cluster = Cluster::started(&[
        ("torn_page_protection", "off"),
        ("recovery_time_target", "0"),
        ("checkpoint_heartbeat", "1min"),
        ("checkpoint_timeout", "1h"),
    ]);
    let mut client = cluster.client();
    for number in 1..4 {
        let number = number.to_string();
        assert!(client.call(&["SELECT", &number]).expect("answered").is_ok());
        for key in 0..500 {
            let reply = client.call(&["SET", &format!("key:{key}"), "durable"]);
            assert!(reply.expect("answered").is_ok());
        }
    }
    for name in ["db1", "db2"] {
        let reply = client.call(&["CHECKPOINT", "NAMESPACE", name]);
        assert!(reply.expect("answered").is_ok());
    }
    cluster.kill_all();
    cluster
}

/// Nobody knows whose they are; but their keys were acknowledged, and a hand may get them out yet.
#[test]
fn a_file_that_the_catalog_does_not_name_is_kept_and_not_used() {
    let mut cluster = with_files_younger_than_the_catalog();
    let paths = [cluster.path("base/3"), cluster.path("base/4")];
    let content = paths.each_ref().map(|path| fs::read(path).expect("there"));
    for _ in 0..2 {
        let (code, said) = resetwal(&cluster, &["-f"]);
        assert_eq!(code, 0, "{said}");
        for file in ["base/3", "base/4"] {
            let words = format!("\"{file}\" holds 500 keys, and the catalog names no namespace");
            assert!(said.contains(&words), "no {words:?} in: {said}");
        }
        assert_sound(&cluster);
        for _ in 0..2 {
            cluster.start();
            let mut client = cluster.client();
            for round in 1..4 {
                // Whatever gets a file now gets another one.
                let number = round.to_string();
                assert!(client.call(&["SELECT", &number]).expect("answered").is_ok());
                assert!(
                    client
                        .call(&["SET", "key", "new"])
                        .expect("answered")
                        .is_ok()
                );
                assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
            }
            cluster.stop(Signal::SIGINT);
            assert_sound(&cluster);
            for (path, content) in paths.iter().zip(&content) {
                let found = fs::read(path).expect("it is kept");
                assert!(found == *content, "{} was written to", path.display());
            }
        }
        // The second time the catalog names other files for these databases.
        cluster.start();
        cluster.kill_all();
    }
}

/// No server starts without the catalog, and nobody knows then which files are used: what there is stays as
/// it is, so that all can be put back.
#[test]
fn without_the_catalog_nothing_is_reset() {
    let mut cluster = with_keys(&[("torn_page_protection", "off")]);
    let client = &mut cluster.client();
    assert!(client.call(&["CHECKPOINT"]).expect("answered").is_ok());
    set(&cluster, 0..KEYS, "two");
    cluster.kill_all();
    let catalog = cluster.path("base/1");
    let (relation, away) = (cluster.path("base/2"), cluster.path("away"));
    let control = cluster.path("global/pg_control");
    let (whole, known) = (
        fs::read(&catalog).expect("it is there"),
        fs::read(&control).expect("it is there"),
    );
    let before = segments(&cluster);
    let damaged = vec![0x77; whole.len()];
    let states = [None, Some(&[][..]), Some(&damaged)];
    for (content, is_away, is_guessed) in states.iter().flat_map(|content| {
        [(false, false), (true, false), (false, true), (true, true)]
            .map(|(is_away, is_guessed)| (content, is_away, is_guessed))
    }) {
        match content {
            Some(content) => fs::write(&catalog, content).expect("written"),
            None => fs::remove_file(&catalog).expect("it is there"),
        }
        if is_away {
            fs::rename(&relation, &away).expect("moved");
        }
        let now = match is_guessed {
            true => vec![0; known.len()],
            false => known.clone(),
        };
        fs::write(&control, &now).expect("written");
        for options in [&["-f"][..], &["-f", "-n"]] {
            let (code, said) = resetwal(&cluster, options);
            // Nobody knows then that the double-write area has no copy of it.
            let may_be_mended = is_guessed && content.is_some() && options.contains(&"-n");
            assert_eq!(code, i32::from(!may_be_mended), "{said}");
            let words = match is_away && !is_guessed {
                true => "\"base/2\" is not there",
                false if may_be_mended => "or nothing is reset",
                false => "the catalog of namespaces, \"base/1\", cannot be read",
            };
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
        assert_eq!(segments(&cluster), before);
        assert!(fs::read(&control).expect("it is there") == now);
        if is_away {
            fs::rename(&away, &relation).expect("put back");
        }
        fs::write(&catalog, &whole).expect("put back");
    }
    fs::write(&control, &known).expect("put back");
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    assert_sound(&cluster);
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
}

/// A catalog and a pg_control of different moments, however they came together.
#[test]
fn a_file_that_pg_control_does_not_name_is_named_by_the_start_and_by_rd_verify() {
    let mut cluster = with_keys(&[]);
    cluster.stop(Signal::SIGINT);
    let path = cluster.path("global/pg_control");
    let whole = fs::read(&path).expect("it is there");
    cluster.announce("global/pg_control");
    cluster.announce("cannot start");
    cluster.announce("does not start");
    let cases = [
        (
            1,
            "pg_control does not name the catalog's file",
            "the catalog of namespaces",
        ),
        (2, "which pg_control does not name", "namespace db0"),
    ];
    for (file, by_verify, by_start) in cases {
        fs::write(&path, &whole).expect("written");
        let storage = RealStorage::new(cluster.data_dir());
        let mut control = control_file::read(&storage).expect("valid").control;
        control.files.retain(|row| row.file != FileNo::new(file));
        control_file::replace(&storage, &control).expect("written");
        let directory = cluster.data_dir();
        for (tool, options) in [
            ("rd_verify", &[][..]),
            ("rd_checksums", &["--verify-trees"]),
        ] {
            let directory = directory.to_string_lossy();
            let arguments = [options, &["-D", &directory]].concat();
            let (status, out, errors) = run(tool, &arguments);
            assert_eq!(status.code(), Some(1), "{tool}: {out}{errors}");
            assert!(
                out.contains(by_verify),
                "{tool}: no {by_verify:?} in: {out}"
            );
        }
        let (log, code) = cluster.start_refused();
        assert_eq!(code, Some(1), "{log}");
        let words = format!("{by_start} lies in relation file \"base/{file}\"");
        assert!(log.contains(&words), "no {words:?} in: {log}");
    }
    // The files have it all.
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
}

/// No segment has a page yet that says whose it is; how long they are is seen.
#[test]
fn the_length_of_segments_is_guessed_where_none_has_a_page() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let text = data.to_string_lossy();
    let (status, _, errors) = run("rd_initdb", &["-D", &text, "--wal-segsize", "1"]);
    assert!(status.success(), "{errors}");
    let control = data.join("global/pg_control");
    let bytes = fs::read(&control).expect("it is there");
    fs::write(&control, vec![0; bytes.len()]).expect("written");
    for expected in [" 1048576", " 16777216"] {
        let (status, out, errors) = run("rd_resetwal", &["-f", "-n", "-D", &text]);
        assert!(status.success(), "{out}{errors}");
        let of_segments = out
            .lines()
            .find(|line| line.starts_with("Bytes per WAL segment:"));
        let of_segments = of_segments.unwrap_or_else(|| panic!("it is not said: {out}"));
        assert!(of_segments.ends_with(expected), "{of_segments}");
        // Without any, those of old.
        let _ = fs::remove_dir_all(data.join("wal"));
    }
}

/// Nobody knows then what was in it, and each file that the catalog names was made before that.
#[test]
fn without_pg_control_a_file_that_is_not_there_is_named_and_left_alone() {
    let mut cluster = with_keys(&[]);
    cluster.stop(Signal::SIGINT);
    let control = cluster.path("global/pg_control");
    let zeros = vec![0; fs::read(&control).expect("it is there").len()];
    fs::write(&control, zeros).expect("written");
    let (path, away) = (cluster.path("base/2"), cluster.path("away"));
    fs::rename(&path, &away).expect("moved");
    for options in [&["-f"][..], &["-f", "-n"]] {
        let (code, said) = resetwal(&cluster, options);
        assert_eq!(code, 1, "{said}");
        for words in ["\"base/2\" is not there", "Put it back first"] {
            assert!(said.contains(words), "no {words:?} in: {said}");
        }
        assert!(!path.exists());
    }
    fs::rename(&away, &path).expect("put back");
    let (code, said) = resetwal(&cluster, &["-f"]);
    assert_eq!(code, 0, "{said}");
    cluster.start();
    assert_eq!(keys(&cluster), (KEYS, KEYS));
}
