//! `pg_control`: round trips, the choice between slots, and damage.

mod support;

use rd_base::limits::FILES_MAX;
use rd_base::{BatchNo, FileNo, Lsn, StartCount};
use rd_format::Access;
use rd_format::control::{
    ControlBytes, ControlError, ControlFile, DbState, FileRow, PendingDrop, SLOT_BYTES,
    checkpoint_flags, choose,
};
use support::Random;

fn sample(random: &mut Random, files: usize, drops: usize) -> ControlFile {
    // Up to where numbers that grow may have grown.
    let small = |random: &mut Random| random.word() >> 2;
    let mut control = ControlFile::initial(random.word(), 16 << 20, Lsn::new(16 << 20));
    control.sequence = small(random);
    control.state = DbState::ALL[random.below(7)];
    control.redo_lsn = Lsn::new(small(random));
    control.durable_lsn = Lsn::new(small(random));
    control.start_count = StartCount::new(small(random) as u32 >> 1);
    control.first_unsynced_batch = BatchNo::new(small(random));
    control.redo_bytes_per_s = random.word();
    control.backends = random.word() as u32;
    control.files = (0..files)
        .map(|number| FileRow {
            file: FileNo::new(number as u32 + 1),
            access: Access::from_bits(random.below(4) as u32).expect("one of four"),
            checkpoint_count: small(random),
            scn: Lsn::new(small(random)),
            stop_scn: Lsn::new(small(random)),
            key_count: small(random),
            blocks: random.word() as u32,
        })
        .collect();
    control.pending_drops = (0..drops)
        .map(|number| PendingDrop {
            file: FileNo::new(number as u32 + 9000),
            last_lsn: Lsn::new(small(random)),
        })
        .collect();
    control
}

#[test]
fn a_slot_is_read_back_as_it_was_written() {
    let mut random = Random::new(1);
    for (files, drops) in [(0, 0), (1, 0), (0, 1), (7, 3), (FILES_MAX, FILES_MAX)] {
        let control = sample(&mut random, files, drops);
        let mut bytes = control.encode();
        assert!(bytes.len() <= SLOT_BYTES);
        assert_eq!(ControlFile::decode(&bytes), Ok(control.clone()));
        // What an earlier, longer write left behind the used bytes does not matter.
        bytes.resize(SLOT_BYTES, 0x5A);
        assert_eq!(ControlFile::decode(&bytes), Ok(control));
    }
}

/// Every field is written: a change of any byte of the fixed part that decodes at all gives
/// another control file, once the checksum is made right.
#[test]
fn no_field_is_forgotten() {
    let control = sample(&mut Random::new(2), 2, 2);
    let bytes = control.encode();
    let reserved = 20..24;
    for at in 24..240 {
        if reserved.contains(&at) {
            continue;
        }
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        reseal(&mut changed);
        if let Ok(read) = ControlFile::decode(&changed) {
            assert_ne!(read, control, "byte {at}");
            assert_eq!(read.encode(), changed, "byte {at}");
        }
    }
}

fn reseal(bytes: &mut [u8]) {
    let at = std::mem::offset_of!(ControlBytes, crc);
    bytes[at..at + 4].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn damage_is_named_and_costs_nothing_while_one_slot_is_good() {
    let mut random = Random::new(3);
    let older = ControlFile {
        sequence: 41,
        ..sample(&mut random, 3, 1)
    };
    let newer = ControlFile {
        sequence: 42,
        ..sample(&mut random, 4, 0)
    };
    let (old_bytes, new_bytes) = (older.encode(), newer.encode());
    let choose = |slots: [&[u8]; 2]| choose(slots.map(ControlFile::decode));
    for (first, second, slot) in [(&old_bytes, &new_bytes, 1), (&new_bytes, &old_bytes, 0)] {
        let chosen = choose([first, second]).expect("both are good");
        assert_eq!((&chosen.control, chosen.slot), (&newer, slot));
        assert_eq!(chosen.other, Ok(older.clone()));
    }
    for bit in 0..new_bytes.len() * 8 {
        let mut damaged = new_bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let chosen = choose([&damaged, &old_bytes]).expect("one is good");
        assert_eq!((chosen.control.sequence, chosen.slot), (41, 1), "bit {bit}");
        assert!(chosen.other.is_err());
    }
    for len in 0..new_bytes.len() {
        let torn = ControlFile::decode(&new_bytes[..len]);
        assert!(matches!(torn, Err(ControlError::Short { .. })), "{len}");
    }
    let both = choose([&[0; 1000], &new_bytes[..7]]).expect_err("neither is good");
    assert_eq!(both[0], ControlError::Zero);
    assert_eq!(
        both[1],
        ControlError::Short {
            have: 7,
            need: ControlBytes::BYTES
        }
    );
}

#[test]
fn hostile_slots_with_right_checksums_do_no_harm() {
    let mut random = Random::new(4);
    let sound = sample(&mut random, 3, 3).encode();
    for _ in 0..20_000 {
        let mut bytes = sound.clone();
        for _ in 0..1 + random.below(4) {
            let at = [
                8 + random.below(8),
                224 + random.below(16),
                random.below(bytes.len()),
            ][random.below(3)];
            bytes[at] = [0, 0xFF, random.word() as u8][random.below(3)];
        }
        reseal(&mut bytes);
        if let Ok(control) = ControlFile::decode(&bytes) {
            assert!(control.files.len() + control.pending_drops.len() <= 12);
            let _ = control.compatible();
            // What has been read can be written again, with one added to whatever grows.
            let next = ControlFile {
                sequence: control.sequence + 1,
                start_count: StartCount::new(control.start_count.get() + 1),
                unfinished_starts: control.unfinished_starts + 1,
                checkpoint_count: control.checkpoint_count + 1,
                next_file: FileNo::new(control.next_file.get() + 1),
                ..control
            };
            assert!(next.encode().len() <= SLOT_BYTES);
        }
    }
}

#[test]
fn numbers_that_no_server_comes_to_are_named() {
    let sound = sample(&mut Random::new(5), 3, 3);
    let refused = |change: &dyn Fn(&mut ControlFile)| {
        let mut control = sound.clone();
        change(&mut control);
        match ControlFile::decode(&control.encode()) {
            Err(ControlError::Content(what)) => what,
            other => panic!("{other:?}"),
        }
    };
    let lsn = Lsn::new(u64::MAX);
    for what in [
        refused(&|control| control.redo_lsn = lsn),
        refused(&|control| control.durable_lsn = lsn),
        refused(&|control| control.keys_lsn = lsn),
        refused(&|control| control.files[1].scn = lsn),
        refused(&|control| control.pending_drops[2].last_lsn = lsn),
    ] {
        assert_eq!(what, "an LSN is beyond every log");
    }
    for what in [
        refused(&|control| control.start_count = StartCount::new(u32::MAX)),
        refused(&|control| control.unfinished_starts = u32::MAX),
        refused(&|control| control.next_file = FileNo::new(u32::MAX)),
    ] {
        assert_eq!(what, "a count of starts or files is beyond every server's");
    }
    for what in [
        refused(&|control| control.sequence = u64::MAX),
        refused(&|control| control.first_unsynced_batch = BatchNo::new(u64::MAX)),
        refused(&|control| control.files[0].key_count = u64::MAX),
    ] {
        assert_eq!(what, "a count is beyond every server's");
    }
    for what in [
        refused(&|control| control.files[0].file = FileNo::new(0)),
        refused(&|control| control.files[2].file = FileNo::new(u32::MAX)),
        refused(&|control| control.files[1] = control.files[0]),
        refused(&|control| control.files.swap(0, 1)),
        refused(&|control| control.pending_drops[0].file = FileNo::new(u32::MAX)),
    ] {
        assert_eq!(what, "the numbers of files are none, or not in order");
    }
    // More rows than a server has room for, in a slot of the right length.
    let row = sound.files[0];
    let mut bytes = ControlFile {
        files: Vec::new(),
        pending_drops: Vec::new(),
        ..sound.clone()
    }
    .encode();
    let rows = FILES_MAX + 1;
    for number in 1..=rows as u32 {
        let file = FileNo::new(number);
        let one = ControlFile {
            files: vec![FileRow { file, ..row }],
            pending_drops: Vec::new(),
            ..sound.clone()
        };
        bytes.extend_from_slice(&one.encode()[ControlBytes::BYTES..]);
    }
    let used = (bytes.len() as u32).to_le_bytes();
    bytes[12..16].copy_from_slice(&used);
    bytes[232..236].copy_from_slice(&(rows as u32).to_le_bytes());
    reseal(&mut bytes);
    let refused = ControlFile::decode(&bytes);
    assert_eq!(
        refused,
        Err(ControlError::Content("there are more files than can be"))
    );
}

#[test]
fn other_sizes_are_refused_by_name() {
    let control = ControlFile::initial(1, 16 << 20, Lsn::new(16 << 20));
    assert_eq!(control.compatible(), Ok(()));
    let segments = ControlFile {
        wal_segment_bytes: 1 << 31,
        ..control.clone()
    };
    assert!(segments.compatible().is_err(), "above 1 GiB");
    let other = ControlFile {
        page_bytes: 4096,
        ..control.clone()
    };
    let error = other.compatible().expect_err("refused").to_string();
    assert_eq!(
        error,
        "the page size is 4096 in the data directory, and 8192 in this program"
    );
    let other = ControlFile {
        wal_segment_bytes: 5 << 20,
        ..control
    };
    assert!(matches!(other.compatible(), Err(ControlError::Content(_))));
}

#[test]
fn words_and_numbers_stay() {
    let words: Vec<_> = DbState::ALL
        .iter()
        .map(|state| (*state as u32, state.name()))
        .collect();
    assert_eq!(words[1], (1, "shut down"));
    assert_eq!(words[4], (4, "in crash recovery"));
    assert_eq!(words[6], (6, "in production"));
    for (number, _) in words {
        assert_eq!(
            DbState::from_number(number).map(|state| state as u32),
            Some(number)
        );
    }
    assert_eq!(DbState::from_number(7), None);
    let flags = checkpoint_flags::SHUTDOWN | checkpoint_flags::FAST;
    assert_eq!(checkpoint_flags::words(flags), "shutdown fast");
    assert_eq!(checkpoint_flags::CAUSE_WAL, 256);
}
