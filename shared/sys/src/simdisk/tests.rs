//! The simulated disk against the real one, and crashes that lose nothing from a correct program.

use super::*;
use crate::storage::{DIRECT_BYTES, DirectBuffer, RealStorage};
use std::collections::BTreeSet;

fn file(disk: &SimStorage, path: &str) -> Arc<dyn StorageFile> {
    disk.open(path, OpenMode::ReadWrite)
        .expect("the file is there")
}

fn new_file(disk: &SimStorage, path: &str) -> Arc<dyn StorageFile> {
    disk.open(path, OpenMode::CreateNew).expect("a new file")
}

fn contents(disk: &dyn Storage, path: &str) -> Vec<u8> {
    let file = disk.open(path, OpenMode::Read).expect("the file is there");
    let mut bytes = vec![0; file.len().expect("a length") as usize];
    assert_eq!(file.read_at(&mut bytes, 0).expect("read"), bytes.len());
    bytes
}

/// A disk with the file `a` of 4096 bytes 1, all durable.
fn disk_with_a() -> SimStorage {
    let disk = SimStorage::new(1);
    let a = new_file(&disk, "a");
    a.write_all_at(&[1; 4096], 0).expect("written");
    a.sync_data().expect("synced");
    disk.sync_dir("").expect("synced");
    disk
}

#[test]
fn synced_bytes_stay_and_others_tear_at_sectors() {
    let disk = disk_with_a();
    file(&disk, "a")
        .write_all_at(&[2; 4096], 0)
        .expect("written");
    file(&disk, "a")
        .write_all_at(&[3; 4096], 0)
        .expect("written");
    let (mut whole, mut torn) = (BTreeSet::new(), 0);
    for seed in 0..200 {
        let after = disk.fork();
        after.crash(seed);
        let bytes = contents(&after, "a");
        assert_eq!(bytes.len(), 4096);
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        for (sector, first) in bytes.chunks(512).zip(&sectors) {
            assert!(sector.iter().all(|byte| byte == first), "a sector is whole");
        }
        match sectors.iter().all(|first| first == &sectors[0]) {
            true => drop(whole.insert(sectors[0])),
            false => torn += 1,
        }
    }
    assert!(
        whole.contains(&1) && whole.contains(&3) && torn > 50,
        "{whole:?} {torn}"
    );
    file(&disk, "a").sync_data().expect("synced");
    for seed in 0..50 {
        let after = disk.fork();
        after.crash(seed);
        assert_eq!(contents(&after, "a"), [3; 4096]);
    }
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let outcome = |seed| {
        let disk = disk_with_a();
        for page in 0..20u8 {
            let bytes = [page; 4096];
            file(&disk, "a")
                .write_all_at(&bytes, u64::from(page) * 1000)
                .expect("written");
        }
        disk.crash(seed);
        contents(&disk, "a")
    };
    let outcomes: BTreeSet<Vec<u8>> = (0..20).map(outcome).collect();
    assert!(outcomes.len() > 5);
    assert!((0..20).all(|seed| outcomes.contains(&outcome(seed))));
}

#[test]
fn a_lengthening_may_be_lost_and_reads_zeros_where_nothing_came() {
    let disk = disk_with_a();
    file(&disk, "a")
        .write_all_at(&[2; 8192], 4096)
        .expect("written");
    let mut lens = BTreeSet::new();
    for seed in 0..100 {
        let after = disk.fork();
        after.crash(seed);
        let bytes = contents(&after, "a");
        assert_eq!(&bytes[..4096], [1; 4096]);
        assert!(bytes[4096..].iter().all(|byte| *byte == 0 || *byte == 2));
        lens.insert(bytes.len());
    }
    assert_eq!(lens, BTreeSet::from([4096, 12288]));
}

#[test]
fn a_rename_that_was_not_synced_shows_the_old_or_the_new_and_never_neither() {
    let disk = disk_with_a();
    let b = new_file(&disk, "b");
    b.write_all_at(&[9; 512], 0).expect("written");
    b.sync_all().expect("synced");
    disk.rename("b", "a").expect("renamed");
    let mut seen = BTreeSet::new();
    for seed in 0..100 {
        let after = disk.fork();
        after.crash(seed);
        let a = contents(&after, "a");
        assert!(a == [1; 4096] || a == [9; 512], "the old or the new");
        seen.insert((a.len(), after.exists("b").expect("looked")));
    }
    // Nothing; the creation of b alone; both. Never the rename without the creation.
    assert_eq!(
        seen,
        BTreeSet::from([(4096, false), (4096, true), (512, false)])
    );
    disk.sync_dir("").expect("synced");
    disk.crash(0);
    assert_eq!(
        (contents(&disk, "a"), disk.exists("b").expect("looked")),
        (vec![9; 512], false)
    );
}

#[test]
fn what_lies_in_a_lost_directory_is_lost() {
    for seed in 0..20 {
        let disk = SimStorage::new(seed);
        disk.create_dir("base").expect("made");
        new_file(&disk, "base/1")
            .write_all_at(b"x", 0)
            .expect("written");
        disk.sync_dir("base").expect("synced");
        disk.crash(seed);
        assert_eq!(
            disk.exists("base").expect("looked"),
            disk.exists("base/1").expect("looked")
        );
        disk.list("").expect("the data directory itself stays");
    }
}

#[test]
fn a_full_disk_is_told_and_room_comes_back() {
    let disk = SimStorage::new(1);
    disk.set_capacity(Some(10 * 4096));
    let a = new_file(&disk, "a");
    a.allocate(0, 8 * 4096).expect("there is room");
    let b = new_file(&disk, "b");
    b.write_all_at(&[1; 8192], 0).expect("there is room");
    let error = b.write_all_at(&[1; 1], 8192).expect_err("the disk is full");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(error.to_string().contains("\"b\""), "{error}");
    assert_eq!(b.len().expect("a length"), 8192);
    a.write_all_at(&[2; 8 * 4096], 0)
        .expect("room taken before is there");
    assert_eq!(disk.used_bytes(), 10 * 4096);
    disk.remove("a").expect("removed");
    b.write_all_at(&[1; 4096], 8192)
        .expect("there is room again");
    assert_eq!(disk.used_bytes(), 3 * 4096);
}

#[test]
fn after_a_failed_sync_the_cache_lies() {
    let disk = disk_with_a();
    let a = file(&disk, "a");
    a.write_all_at(&[2; 16 * 4096], 0).expect("written");
    let injection = Injection {
        kind: IoKind::Sync,
        path_contains: "a".to_owned(),
        skip: 0,
        times: 1,
        errno: libc::EIO,
    };
    disk.inject(injection);
    let error = a.sync_data().expect_err("injected");
    assert!(
        error.to_string().contains("sync the data of file \"a\""),
        "{error}"
    );
    assert_eq!(disk.take_failed_syncs(), ["a".into()]);
    a.sync_data().expect("the kernel says that all is well");
    assert_eq!(disk.take_failed_syncs(), []);
    assert_eq!(
        contents(&disk, "a"),
        [2; 16 * 4096],
        "the cache shows what was written"
    );
    let killed = disk.fork();
    killed.kill(3);
    assert!(contents(&killed, "a").contains(&2));
    assert_ne!(
        contents(&killed, "a"),
        [2; 16 * 4096],
        "pages that were let go of are old"
    );
    let read = contents(&killed, "a");
    let lets_go = (0..1000).any(|_| contents(&killed, "a") != read);
    assert!(
        lets_go,
        "a page read once may be an older one at the next read"
    );
    disk.crash(3);
    let lost = contents(&disk, "a")
        .chunks(4096)
        .filter(|page| page[0] != 2)
        .count();
    assert!((1..16).contains(&lost), "{lost} pages of 16");
}

#[test]
fn a_write_that_fails_may_be_a_short_one() {
    const BYTES: usize = 40 * SECTOR_BYTES;
    let mut lens = BTreeSet::new();
    for seed in 0..60 {
        let disk = SimStorage::new(seed);
        let a = new_file(&disk, "a");
        a.write_all_at(&[1; BYTES], 0).expect("written");
        disk.inject(Injection {
            kind: IoKind::Write,
            path_contains: String::new(),
            skip: 0,
            times: 1,
            errno: libc::EIO,
        });
        a.write_all_at(&[2; BYTES], 0).expect_err("a bad disk");
        let bytes = contents(&disk, "a");
        let new = bytes.iter().take_while(|byte| **byte == 2).count();
        assert!(bytes.len() == BYTES && bytes[new..].iter().all(|byte| *byte == 1));
        assert!(
            new.is_multiple_of(SECTOR_BYTES),
            "{new} bytes: a torn sector"
        );
        lens.insert(new);
    }
    assert!(lens.contains(&BYTES) && lens.len() > 10, "{lens:?}");
}

#[test]
fn blocks_are_written_and_lost_whole_if_the_disk_is_made_so() {
    let mut outcomes = [0; 2];
    for seed in 0..40 {
        let disk = disk_with_a();
        disk.set_block_bytes(8192);
        let a = file(&disk, "a");
        a.write_all_at(&[1; 16 * 4096], 0).expect("written");
        a.sync_data().expect("synced");
        a.write_all_at(&[2; 16 * 4096], 0).expect("written");
        if seed % 2 == 0 {
            disk.inject(Injection {
                kind: IoKind::Sync,
                path_contains: "a".to_owned(),
                skip: 0,
                times: 1,
                errno: libc::EIO,
            });
            a.sync_data().expect_err("injected");
            disk.kill(seed);
        } else {
            disk.crash(seed);
        }
        for block in contents(&disk, "a").chunks(8192) {
            assert!(block.iter().all(|byte| *byte == block[0]), "torn");
            outcomes[usize::from(block[0] == 2)] += 1;
        }
    }
    assert!(outcomes.iter().all(|count| *count > 50), "{outcomes:?}");
}

#[test]
fn a_write_to_a_file_opened_for_it_is_durable_at_once() {
    let disk = disk_with_a();
    let a = disk.open("a", OpenMode::ReadWriteSyncData).expect("opened");
    a.write_all_at(&[5; 6000], 100).expect("written");
    disk.crash(0);
    assert_eq!(&contents(&disk, "a")[100..6100], [5; 6000]);
    assert!(is_simulated_crash(
        &a.len().expect_err("the process is gone")
    ));
}

#[test]
fn a_kill_loses_nothing_that_was_written() {
    let disk = disk_with_a();
    new_file(&disk, "b")
        .write_all_at(&[7; 100], 50)
        .expect("written");
    disk.kill(1);
    assert_eq!(&contents(&disk, "b")[50..], [7; 100]);
    disk.damage("b", 60, &[8]).expect("damaged");
    assert_eq!(contents(&disk, "b")[60], 8);
}

#[test]
fn a_power_cut_may_be_told_to_lose_or_to_keep_all() {
    let disk = disk_with_a();
    let syncs = disk.sync_count();
    file(&disk, "a")
        .write_all_at(&[2; 20_000], 0)
        .expect("written");
    new_file(&disk, "b")
        .write_all_at(&[3; 100], 0)
        .expect("written");
    disk.rename("b", "c").expect("renamed");
    assert_eq!(disk.sync_count(), syncs);
    let lost = disk.fork();
    lost.crash_as(Unsynced::Lost);
    assert_eq!(contents(&lost, "a"), [1; 4096]);
    assert_eq!(lost.list("").expect("listed"), ["a"]);
    let kept = disk.fork();
    kept.crash_as(Unsynced::Kept);
    assert_eq!(contents(&kept, "a"), [2; 20_000]);
    assert_eq!(contents(&kept, "c"), [3; 100]);
    assert_eq!(kept.list("").expect("listed"), ["a", "c"]);
    file(&disk, "a").sync_data().expect("synced");
    disk.sync_dir("").expect("synced");
    assert_eq!(disk.sync_count(), syncs + 2);
}

/// Which bytes of `a`, three pages of 1, are others after a write of 2 to the first one and a lie.
fn after_a_lie(lie: Lie) -> Vec<(usize, u8)> {
    let disk = disk_with_a();
    let a = file(&disk, "a");
    a.write_all_at(&[1; 3 * 4096], 0).expect("written");
    disk.lie(lie, "a", 1);
    a.write_all_at(&[1; 10], 0).expect("skipped");
    assert_eq!(disk.lies_told(), 0);
    a.write_all_at(&[2; 4096], 0)
        .expect("that it went well is said");
    assert_eq!(disk.lies_told(), 1);
    a.sync_data().expect("synced");
    let told = contents(&disk, "a");
    disk.crash_as(Unsynced::Lost);
    assert_eq!(
        contents(&disk, "a"),
        told,
        "a lie is durable as the truth is"
    );
    // It is told once.
    let a = file(&disk, "a");
    a.write_all_at(&[3; 4096], 0).expect("written");
    assert_eq!(contents(&disk, "a")[..4096], [3; 4096]);
    let all = told.into_iter().enumerate();
    all.filter(|(_, byte)| *byte != 1).collect()
}

#[test]
fn a_write_may_be_lost_without_a_word() {
    assert_eq!(after_a_lie(Lie::Lost), []);
}

#[test]
fn a_write_may_land_elsewhere() {
    let elsewhere: Vec<_> = (8192..12_288).map(|at| (at, 2)).collect();
    assert_eq!(after_a_lie(Lie::Misdirected(8192)), elsewhere);
}

#[test]
fn a_write_may_land_in_its_place_and_elsewhere() {
    let both = (0..4096).chain(8192..12_288);
    let both: Vec<_> = both.map(|at| (at, 2)).collect();
    assert_eq!(after_a_lie(Lie::Doubled(8192)), both);
    let within = (0..4096).map(|at| (at, 2)).collect::<Vec<_>>();
    for nowhere in [-4096, 3 * 4096] {
        assert_eq!(after_a_lie(Lie::Doubled(nowhere)), within);
    }
}

#[test]
fn a_bit_may_rot() {
    let mut rotten: Vec<_> = (0..4096).map(|at| (at, 2)).collect();
    rotten[2048].1 = 2 ^ 0x10;
    assert_eq!(after_a_lie(Lie::Rot(4096 + 2048)), rotten);
}

/// Counts up in a file by two slots in turn, each with a check sum; returns the last count that
/// was acknowledged.
fn count_up(disk: &SimStorage, sync: bool) -> Result<u64, (u64, io::Error)> {
    let mut acknowledged = 0;
    let mut run = || -> io::Result<()> {
        disk.create_dir("d")?;
        let file = disk.open("d/count.new", OpenMode::CreateNew)?;
        file.write_all_at(&[0; 8192], 0)?;
        file.sync_all()?;
        disk.rename("d/count.new", "d/count")?;
        disk.sync_dir("d")?;
        disk.sync_dir("")?;
        for count in 1..=10u64 {
            let words = [count, !count].map(u64::to_le_bytes).concat();
            // Far enough apart to be in different sectors, so that it could tear.
            let slot = (count % 2) * 4096;
            file.write_all_at(&words[..8], slot)?;
            file.write_all_at(&words[8..], slot + 2048)?;
            if sync {
                file.sync_data()?;
            }
            acknowledged = count;
        }
        Ok(())
    };
    run().map_err(|error| (acknowledged, error)).map(|()| 10)
}

/// The count that a restart finds.
fn recover(disk: &SimStorage) -> u64 {
    if !disk.exists("d/count").expect("looked") {
        return 0;
    }
    let bytes = contents(disk, "d/count");
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let slots = [0, 4096].map(|slot| (word(slot), word(slot + 2048)));
    slots
        .into_iter()
        .filter(|(count, check)| *count == !check)
        .map(|pair| pair.0)
        .max()
        .unwrap_or(0)
}

/// Crashes everywhere, and returns how often an acknowledged count was lost.
fn losses(sync: bool) -> usize {
    let whole = SimStorage::new(0);
    assert!(matches!(count_up(&whole, sync), Ok(10)));
    let mut lost = 0;
    for at in 1..=whole.io_count() {
        let disk = SimStorage::new(0);
        disk.crash_at(Some(at));
        let (acknowledged, error) = count_up(&disk, sync).expect_err("it crashes");
        assert!(is_simulated_crash(&error), "{error}");
        assert_eq!(disk.io_count(), at);
        assert_eq!(disk.recent().last().map(|record| record.number), Some(at));
        assert!(disk.has_crashed());
        for seed in 0..30 {
            let after = disk.fork();
            after.crash(seed);
            let found = recover(&after);
            assert!(found <= acknowledged + 1, "nothing comes from nowhere");
            lost += usize::from(found < acknowledged);
        }
    }
    lost
}

#[test]
fn a_correct_program_survives_a_crash_at_every_io_and_a_wrong_one_is_caught() {
    assert_eq!(losses(true), 0);
    assert!(losses(false) > 100);
}

/// One random operation on both disks; the results must be the same.
fn same_step(rng: &mut Rng, disks: [&dyn Storage; 2]) {
    let names = ["a", "b", "d/a", "d/b", "d", "x/y"];
    let name = |rng: &mut Rng| names[rng.below(names.len() as u64) as usize];
    let (path, other, mode) = (name(rng), name(rng), rng.below(3));
    let (offset, len, choice) = (rng.below(20_000), rng.below(9_000), rng.below(12));
    let bytes = vec![rng.below(3) as u8; len as usize];
    let mode = [
        OpenMode::Read,
        OpenMode::ReadWrite,
        OpenMode::ReadWriteSyncData,
    ][mode as usize];
    let results = disks.map(|disk| -> io::Result<String> {
        let on = |action: &dyn Fn(&dyn StorageFile) -> io::Result<String>| match path {
            // Opening a directory is an error of another kind on each; nobody does it.
            "d" => Ok(String::new()),
            _ => disk.open(path, mode).and_then(|file| action(&*file)),
        };
        match choice {
            0 => disk.open(path, OpenMode::CreateNew).map(|_| String::new()),
            1 if path != "d" && other != "d" => disk.rename(path, other).map(|()| String::new()),
            2 if path != "d" => disk.remove(path).map(|()| String::new()),
            3 => disk
                .list(["", "d", "x"][other.len() % 3])
                .map(|names| names.join(",")),
            4 => disk.exists(path).map(|there| there.to_string()),
            5 => on(&|file| file.truncate(offset).map(|()| String::new())),
            6 if len > 0 => on(&|file| file.allocate(offset, len).map(|()| String::new())),
            7 => on(&|file| file.sync_data().map(|()| String::new())),
            8..=9 => on(&|file| file.write_all_at(&bytes, offset).map(|()| String::new())),
            _ => on(&|file| {
                let mut buffer = vec![7; bytes.len()];
                let count = file.read_at(&mut buffer, offset)?;
                Ok(format!("{} {count} {buffer:?}", file.len()?))
            }),
        }
    });
    let [real, simulated] = results.map(|result| result.map_err(|error| error.kind()));
    // A file opened for reading only: the real one says EBADF or EINVAL.
    match (&real, &simulated) {
        (Err(_), Err(_)) if mode == OpenMode::Read => {}
        _ => assert_eq!(
            real, simulated,
            "{choice} {path} {other} {mode:?} {offset} {len}"
        ),
    }
}

#[test]
fn the_simulated_disk_behaves_as_the_real_one() {
    for seed in 0..20 {
        let dir = tempfile::tempdir().expect("a directory");
        let real = RealStorage::new(dir.path().to_owned());
        let simulated = SimStorage::new(seed);
        let disks: [&dyn Storage; 2] = [&real, &simulated];
        disks
            .iter()
            .for_each(|disk| disk.create_dir("d").expect("made"));
        let mut rng = Rng::new(seed);
        for _ in 0..300 {
            same_step(&mut rng, disks);
        }
        for path in ["../a", "/a", "d/../a", "d//a", "."] {
            let kind = io::ErrorKind::InvalidInput;
            assert!(
                disks
                    .iter()
                    .all(|disk| disk.exists(path).is_err_and(|e| e.kind() == kind))
            );
        }
    }
}

/// A thread of a server that was killed may run on for a while.
#[test]
fn a_mount_ends_with_its_life() {
    let disk = disk_with_a();
    type End = fn(&SimStorage);
    let ends: [End; 2] = [|disk| disk.kill(1), |disk| disk.crash(1)];
    for end in ends {
        let mount = disk.mount();
        mount.open("a", OpenMode::ReadWrite).expect("alive");
        end(&disk);
        let dead = [
            mount.open("a", OpenMode::ReadWrite).map(drop),
            mount.open("b", OpenMode::CreateNew).map(drop),
            mount.remove("a"),
            mount.sync_dir(""),
        ];
        for result in dead {
            assert!(is_simulated_crash(&result.expect_err("a dead process")));
        }
        assert_eq!(contents(&disk.mount(), "a"), [1; 4096]);
    }
}

#[test]
fn what_has_rotted_is_seen_past_the_cache_alone_until_that_is_gone() {
    let disk = disk_with_a();
    disk.rot("a", 100, &[9; 2]).expect("rotten");
    let cached = |disk: &SimStorage| contents(disk, "a")[99..103].to_vec();
    assert_eq!(cached(&disk), [1; 4]);
    let past = disk.open("a", OpenMode::ReadPastCache).expect("there");
    let mut memory = DirectBuffer::default();
    let page = memory.bytes(DIRECT_BYTES);
    assert_eq!(past.read_at(page, 0).expect("read"), DIRECT_BYTES);
    assert_eq!(page[99..103], [1, 9, 9, 1]);
    let page = &mut memory.bytes(2 * DIRECT_BYTES)[1..=DIRECT_BYTES];
    assert_eq!(past.read_at(page, 0).expect("read"), DIRECT_BYTES);
    assert_eq!(page[99..103], [1; 4], "it goes by the cache");
    let cut = disk.fork();
    cut.crash(1);
    assert_eq!(cached(&cut), [1, 9, 9, 1]);
    // What is written is there again, as soon as anybody asks the disk.
    file(&disk, "a")
        .write_all_at(&[2; 4096], 0)
        .expect("written");
    let page = memory.bytes(DIRECT_BYTES);
    assert_eq!(past.read_at(page, 0).expect("read"), DIRECT_BYTES);
    assert_eq!(page[99..103], [2; 4]);
}

#[test]
fn what_has_rotted_in_the_cache_alone_is_not_seen_past_it_nor_after_it() {
    let disk = disk_with_a();
    disk.rot_in_cache("a", 100, &[9; 2]).expect("rotten");
    assert_eq!(contents(&disk, "a")[99..103], [1, 9, 9, 1]);
    let past = disk.open("a", OpenMode::ReadPastCache).expect("there");
    let mut memory = DirectBuffer::default();
    let page = memory.bytes(DIRECT_BYTES);
    assert_eq!(past.read_at(page, 0).expect("read"), DIRECT_BYTES);
    assert_eq!(page[99..103], [1; 4]);
    let cut = disk.fork();
    cut.crash(1);
    assert_eq!(contents(&cut, "a")[99..103], [1; 4]);
    // A sync takes it to the disk only if something is written there.
    let file = file(&disk, "a");
    file.sync_data().expect("synced");
    assert_eq!(past.read_at(page, 0).expect("read"), DIRECT_BYTES);
    assert_eq!(page[99..103], [1; 4]);
    file.write_all_at(&[2], 0).expect("written");
    file.sync_data().expect("synced");
    assert_eq!(past.read_at(page, 0).expect("read"), DIRECT_BYTES);
    assert_eq!(page[99..103], [1, 9, 9, 1]);
}
