//! The scrub on a disk that rots, loses writes and forgets.

use super::world::{FIRST_FILE, History, World, new_disk};
use super::{EIO, ENOSPC, manual, refuse, tag};
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag};
use rd_format::Access;
use rd_format::bitmap::META_BLOCK;
use rd_format::doublewrite::DW_SLOT_BYTES;
use rd_format::page;
use rd_store::checkpoint::TicketState;
use rd_store::doublewrite::DOUBLEWRITE_PATH;
use rd_store::relation::{offset_of, path_of};
use rd_sys::simdisk::{Injection, IoKind, IoRecord, Lie, Rng, SimStorage, Unsynced};
use rd_sys::storage::{OpenMode, Storage};
use std::time::Duration;

const SCRUBS: [(&str, &str); 2] = [("scrub_rate", "1TB"), ("scrub_interval", "10s")];

/// A server with pages in memory and on disk, before its first round.
fn world(disk: &SimStorage, history: &mut History) -> World {
    let (mut world, _) = World::start_with(disk, history, &SCRUBS);
    round(&mut world);
    for block in 2..=9 {
        world.write_page(history, tag(block), 1, 100);
    }
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    world
}

/// Has a whole round made, after the end of one that is under way.
fn round(world: &mut World) {
    let shared = world.backend.shared.clone();
    for step in 0..200 {
        if step == 100 || step == 0 && !shared.scrub.seen().is_under_way {
            world.pass(Duration::from_secs(10));
        }
        world.pass(Duration::from_millis(1));
        world.checkpointer.turn();
    }
    assert!(!shared.scrub.seen().is_under_way);
}

/// Pages found bad so far, those that were repaired, and those that are bad now.
fn found(world: &World) -> (u64, u64, Vec<PageTag>) {
    let shared = &world.backend.shared;
    let count = |counter| shared.stats.get(counter);
    (
        count(Counter::ScrubBad),
        count(Counter::ScrubRepaired),
        shared.scrub.seen().bad,
    )
}

/// So many batches of another page that the double-write area has a copy of that one alone.
fn wear_out_area(world: &mut World, history: &mut History) {
    for _ in 0..20 {
        world.write_page(history, tag(7), 1, 100);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
    }
}

/// Changes bytes of a page as this does.
type Spoil = fn(&SimStorage, &str, u64, &[u8]) -> std::io::Result<()>;

fn spoil(disk: &SimStorage, tag: PageTag, how: Spoil) {
    let at = offset_of(tag.block) + 700;
    how(disk, &path_of(tag), at, b"rotten").expect("within the file");
}

fn damage(disk: &SimStorage, tag: PageTag) {
    spoil(disk, tag, SimStorage::damage);
}

/// As [`damage`], and the system's cache goes on showing what was there.
fn rot(disk: &SimStorage, tag: PageTag) {
    spoil(disk, tag, SimStorage::rot);
}

/// As [`damage`], and the disk itself has what was there.
fn rot_in_cache(disk: &SimStorage, tag: PageTag) {
    spoil(disk, tag, SimStorage::rot_in_cache);
}

/// Somebody reads a page, and cannot.
fn fail_to_read(world: &World, tag: PageTag) {
    let fetched = world.backend.shared.pool.fetch(&world.backend, tag);
    let error = fetched.err().expect("it is damaged").to_string();
    assert!(error.contains(&tag.to_string()), "{error}");
}

fn is_whole(world: &World, tag: PageTag) -> bool {
    let read = world.backend.relations.read_page(tag, &mut [0; PAGE_BYTES]);
    read.is_ok()
}

/// Takes all pages out of memory.
fn forget(world: &World) {
    assert!(world.backend.shared.pool.discard(FIRST_FILE));
}

/// As [`forget`], when all is written.
fn forget_all(world: &mut World) {
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    forget(world);
}

/// A page of another file, on disk and not in memory.
fn other_page(world: &mut World, history: &mut History) -> PageTag {
    world.make_dirty_file(history, 2);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    let page = PageTag::new(FileNo::new(2), BlockNo::new(3));
    assert!(world.backend.shared.pool.discard(page.file));
    page
}

#[test]
fn a_healthy_server_is_found_healthy_whatever_it_does() {
    for seed in 0..40 {
        let disk = new_disk(seed);
        let mut history = History::default();
        let (mut world, _) = World::start_with(&disk, &mut history, &SCRUBS);
        let mut rng = Rng::new(seed);
        for _ in 0..150 {
            world.step(&mut history, &mut rng);
            if rng.below(4) == 0 {
                round(&mut world);
            }
        }
        round(&mut world);
        assert_eq!(found(&world), (0, 0, Vec::new()), "seed {seed}");
        let checked = world.backend.shared.stats.get(Counter::ScrubPages);
        assert!(checked > 500, "{checked} pages, seed {seed}");
    }
}

#[test]
fn what_cannot_be_read_for_want_of_descriptors_is_not_called_bad() {
    let disk = new_disk(1);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    forget(&world);
    let shared = world.backend.shared.clone();
    disk.inject(Injection {
        kind: IoKind::Read,
        path_contains: path_of(tag(3)),
        skip: 0,
        times: u64::MAX,
        // EMFILE
        errno: 24,
    });
    world.pass(Duration::from_secs(10));
    for _ in 0..100 {
        world.pass(Duration::from_millis(1));
        world.checkpointer.turn();
    }
    assert_eq!(found(&world), (0, 0, Vec::new()));
    assert!(shared.scrub.seen().is_under_way, "it waits for them");
    disk.clear_injections();
    damage(&disk, tag(5));
    for _ in 0..300 {
        world.pass(Duration::from_millis(10));
        world.checkpointer.turn();
    }
    assert!(!shared.scrub.seen().is_under_way);
    // What was suspect all the time has been looked at.
    assert_eq!(found(&world), (1, 1, Vec::new()));
    history.promised = shared.wal.durable_lsn();
}

#[test]
fn what_is_in_memory_is_written_anew() {
    let disk = new_disk(1);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    // One that is as on disk, one that is dirty, and the first block, of which checkpoints write a
    // part past shared buffers.
    world.write_page(&mut history, tag(4), 1, 100);
    for block in [3, 4] {
        damage(&disk, tag(block));
    }
    round(&mut world);
    assert_eq!(found(&world), (2, 2, Vec::new()));
    assert!(is_whole(&world, tag(3)) && is_whole(&world, tag(4)));
    round(&mut world);
    assert_eq!(found(&world), (2, 2, Vec::new()), "once is enough");
    let shared = world.backend.shared.clone();
    assert_eq!(shared.stats.get(Counter::PagesWrittenScrub), 2);
    // The repair lasts, and is as good as any other version of the page.
    history.promised = shared.wal.durable_lsn();
    drop((world, shared));
    disk.crash(1);
    World::start(&disk, &mut history);
}

#[test]
fn a_header_is_repaired_with_what_the_last_checkpoint_wrote_into_it() {
    let disk = new_disk(2);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    // In memory it is as it was when the file was made.
    world.make_dirty_file(&mut history, 2);
    let header = PageTag::new(FileNo::new(2), META_BLOCK);
    for _ in 0..2 {
        let data = PageTag::new(FileNo::new(2), BlockNo::new(5));
        world.write_page(&mut history, data, 1, 100);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
    }
    let at = offset_of(header.block) + page::PageHeader::BYTES as u64 + 26;
    disk.damage(&path_of(header), at, &[0xEE]).expect("there");
    round(&mut world);
    assert_eq!(found(&world), (1, 1, Vec::new()));
    history.promised = world.backend.shared.wal.durable_lsn();
    drop(world);
    disk.crash(2);
    // Which holds headers against `pg_control`.
    World::start(&disk, &mut history);
}

#[test]
fn what_is_not_in_memory_is_repaired_from_the_double_write_area_while_its_copy_is_the_last() {
    let disk = new_disk(3);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    forget(&world);
    damage(&disk, tag(5));
    round(&mut world);
    assert_eq!(found(&world), (1, 1, Vec::new()));
    assert!(is_whole(&world, tag(5)));
    wear_out_area(&mut world, &mut history);
    forget(&world);
    damage(&disk, tag(5));
    damage(&disk, tag(7));
    round(&mut world);
    let (bad, repaired, named) = found(&world);
    assert!(bad > 2);
    assert_eq!((repaired, named), (2, vec![tag(5)]));
    round(&mut world);
    assert!(found(&world).0 > bad, "each round names it");
    assert!(!is_whole(&world, tag(5)) && is_whole(&world, tag(7)));
    let fetched = world.backend.shared.pool.fetch(&world.backend, tag(5));
    let error = fetched.err().expect("it is damaged").to_string();
    assert!(error.contains("file 1 block 5"), "{error}");
    // Somebody puts a good one in its place.
    damage_undone(&disk);
    round(&mut world);
    assert_eq!(found(&world).2, []);
}

#[test]
fn what_has_rotted_under_the_systems_cache_is_found_and_written_anew() {
    let disk = new_disk(9);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    rot(&disk, tag(3));
    round(&mut world);
    assert_eq!(found(&world), (1, 1, Vec::new()), "from shared buffers");
    forget(&world);
    rot(&disk, tag(4));
    round(&mut world);
    assert_eq!(found(&world), (2, 2, Vec::new()), "from the area");
    wear_out_area(&mut world, &mut history);
    forget(&world);
    rot(&disk, tag(5));
    assert!(is_whole(&world, tag(5)));
    round(&mut world);
    assert_eq!(found(&world), (3, 3, Vec::new()), "from the cache");
    history.promised = world.backend.shared.wal.durable_lsn();
    drop(world);
    // What was repaired was written, and is mended if that was cut off.
    disk.crash(9);
    World::start(&disk, &mut history);
}

/// A bad bit of memory, or a bad transfer: readers find it, and the scrub must not take the disk's
/// word against theirs.
#[test]
fn what_is_damaged_in_the_systems_cache_alone_is_written_anew() {
    let disk = new_disk(16);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    forget(&world);
    for found_so_far in [1, 2] {
        rot_in_cache(&disk, tag(5));
        fail_to_read(&world, tag(5));
        world.checkpointer.turn();
        // From the area; and when it has no copy any more, from the disk.
        let all_mended = (found_so_far, found_so_far, Vec::new());
        assert_eq!(found(&world), all_mended);
        assert!(is_whole(&world, tag(5)));
        let shared = &world.backend.shared;
        assert!(shared.pool.fetch(&world.backend, tag(5)).is_ok());
        wear_out_area(&mut world, &mut history);
        forget(&world);
    }
    world.flush(&mut history);
    drop(world);
    disk.crash(16);
    World::start(&disk, &mut history);
}

/// Long before the next round: whoever could not read it has said so.
#[test]
fn a_page_that_could_not_be_read_is_looked_at_at_once() {
    let disk = new_disk(8);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    // Of one there is a copy.
    wear_out_area(&mut world, &mut history);
    forget(&world);
    damage(&disk, tag(5));
    damage(&disk, tag(7));
    let rounds = world.backend.shared.stats.get(Counter::ScrubRounds);
    for _ in 0..3 {
        for block in [5, 7] {
            let fetched = world.backend.shared.pool.fetch(&world.backend, tag(block));
            let error = fetched.err().expect("it is damaged").to_string();
            assert!(error.contains(&tag(block).to_string()), "{error}");
        }
    }
    world.checkpointer.turn();
    assert_eq!(found(&world), (2, 1, vec![tag(5)]));
    assert!(is_whole(&world, tag(7)) && !is_whole(&world, tag(5)));
    let shared = world.backend.shared.clone();
    assert!(shared.pool.fetch(&world.backend, tag(7)).is_ok());
    // What cannot be repaired is looked at once.
    assert!(shared.pool.fetch(&world.backend, tag(5)).is_err());
    world.checkpointer.turn();
    assert_eq!(found(&world), (2, 1, vec![tag(5)]));
    assert_eq!(shared.stats.get(Counter::ScrubReports), 2);
    assert_eq!(shared.stats.get(Counter::ScrubRounds), rounds);
    // Reads that fail for want of descriptors say nothing of the page.
    disk.inject(Injection {
        kind: IoKind::Read,
        path_contains: path_of(tag(3)),
        skip: 0,
        times: 1,
        // EMFILE
        errno: 24,
    });
    assert!(shared.pool.fetch(&world.backend, tag(3)).is_err());
    assert_eq!(shared.scrub.take_reports().count(), 0);
}

/// What the scrub rests for is what overwrites the last copy.
#[test]
fn a_page_that_could_not_be_read_waits_for_nothing_that_the_scrub_rests_for() {
    let disk = new_disk(10);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    forget(&world);
    damage(&disk, tag(5));
    fail_to_read(&world, tag(5));
    // As the supply of clean frames does, more often than the area has room.
    for _ in 0..40 {
        world.write_page(&mut history, tag(7), 1, 100);
        world.clean(|_| true);
    }
    assert_eq!(found(&world), (1, 1, Vec::new()));
    assert!(is_whole(&world, tag(5)));
    // Before a stop.
    world.write_page(&mut history, tag(6), 1, 100);
    forget_all(&mut world);
    damage(&disk, tag(6));
    fail_to_read(&world, tag(6));
    world.checkpointer.begin_cleaning();
    world.checkpointer.turn();
    assert_eq!(found(&world), (2, 2, Vec::new()));
}

#[test]
fn a_page_that_could_not_be_read_is_repaired_before_a_checkpoint_goes_on() {
    let disk = new_disk(11);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    forget(&world);
    damage(&disk, tag(5));
    fail_to_read(&world, tag(5));
    world.write_page(&mut history, tag(7), 1, 100);
    let before = disk.io_count();
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    assert_eq!(found(&world), (1, 1, Vec::new()));
    let mut ios = disk.recent();
    ios.retain(|io| io.number > before);
    let written = |block| {
        let at = offset_of(tag(block).block);
        let is_it =
            |io: &IoRecord| (io.kind, &*io.path, io.offset) == (IoKind::Write, "base/1", at);
        ios.iter().position(is_it).expect("it was written")
    };
    assert!(written(5) < written(7), "{ios:?}");
}

/// Pages that were written past the area are newer than its copies of them, and nothing in it says so.
#[test]
fn copies_from_before_the_area_was_given_up_for_a_while_repair_nothing() {
    let disk = new_disk(6);
    let mut history = History::default();
    drop(world(&disk, &mut history));
    let off = [("torn_page_protection", "off"), ("scrub_rate", "0")];
    let (mut world, _) = World::start_with(&disk, &mut history, &off);
    for block in 2..=9 {
        world.write_page(&mut history, tag(block), 1, 100);
    }
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    drop(world);
    let (mut world, _) = World::start_with(&disk, &mut history, &SCRUBS);
    forget(&world);
    damage(&disk, tag(5));
    round(&mut world);
    assert_eq!(found(&world).1, 0, "nothing is known to be the last copy");
    assert_eq!(found(&world).2, [tag(5)]);
    // With a copy that is, it is repaired, and by that one.
    world.write_page(&mut history, tag(6), 1, 100);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    forget(&world);
    damage(&disk, tag(6));
    round(&mut world);
    assert_eq!((found(&world).1, found(&world).2), (1, vec![tag(5)]));
    assert!(is_whole(&world, tag(6)) && !is_whole(&world, tag(5)));
}

/// Nobody can tell that there was a batch if it is the highest, and its header has rotted.
#[test]
fn copies_from_before_a_crash_repair_nothing() {
    let disk = new_disk(15);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    let mut batches = Vec::new();
    for _ in 0..2 {
        world.write_page(&mut history, tag(5), 1, 100);
        world.clean(|dirty| dirty == tag(5));
        let area = world.checkpointer.area.as_ref().expect("it is used");
        batches.push(area.next().get() - 1);
    }
    assert!(batches[0] < batches[1], "{batches:?}");
    drop(world);
    let slots = disk.open(DOUBLEWRITE_PATH, OpenMode::Read).expect("there");
    let slots = slots.len().expect("a good disk") / DW_SLOT_BYTES;
    disk.damage(
        DOUBLEWRITE_PATH,
        batches[1] % slots * DW_SLOT_BYTES,
        &[0; 64],
    )
    .expect("within the area");
    let (mut world, _) = World::start_with(&disk, &mut history, &SCRUBS);
    forget(&world);
    damage(&disk, tag(5));
    round(&mut world);
    assert_eq!((found(&world).1, found(&world).2), (0, vec![tag(5)]));
}

#[test]
fn what_was_beyond_repair_is_forgotten_when_it_is_written_anew_or_dropped() {
    let disk = new_disk(12);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    world.make_dirty_file(&mut history, 2);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    wear_out_area(&mut world, &mut history);
    let other = PageTag::new(FileNo::new(2), BlockNo::new(3));
    let pool = &world.backend.shared.pool;
    assert!(pool.discard(FIRST_FILE) && pool.discard(other.file));
    for tag in [tag(5), other] {
        damage(&disk, tag);
        fail_to_read(&world, tag);
    }
    world.checkpointer.turn();
    assert_eq!(found(&world), (2, 0, vec![tag(5), other]));
    // The disk gives the right bytes again, and the page is changed.
    damage_undone(&disk);
    world.write_page(&mut history, tag(5), 1, 100);
    world.clean(|dirty| dirty == tag(5));
    assert_eq!(found(&world).2, [other]);
    forget_all(&mut world);
    damage(&disk, tag(5));
    fail_to_read(&world, tag(5));
    world.checkpointer.turn();
    assert_eq!(found(&world), (3, 1, vec![other]), "it is looked at again");
    // The other's file is dropped; the first checkpoint makes its end last.
    world.drop_file(&mut history, other.file);
    for _ in 0..4 {
        world.write_page(&mut history, tag(7), 1, 100);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
        world.pass(Duration::from_secs(3));
        world.checkpointer.turn();
    }
    assert!(!world.backend.shared.files.exists(other.file));
    assert_eq!(found(&world).2, []);
}

/// No room behind the end of a file that was cut off, or whatever else is said at the write.
#[test]
fn a_repair_that_fails_holds_up_no_other_page() {
    for errno in [EIO, ENOSPC] {
        let disk = new_disk(13);
        let mut history = History::default();
        let mut world = world(&disk, &mut history);
        let other = other_page(&mut world, &mut history);
        damage(&disk, other);
        fail_to_read(&world, other);
        refuse(&disk, "base/2", u64::MAX, errno);
        world.checkpointer.turn();
        assert_eq!(found(&world), (1, 0, vec![other]));
        world.write_page(&mut history, tag(5), 1, 100);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
        // It is tried again, unless all of it was written in spite of the error.
        disk.clear_injections();
        round(&mut world);
        assert_eq!(found(&world).2, []);
        assert!(is_whole(&world, other));
        world.flush(&mut history);
        drop(world);
        disk.crash(13);
        World::start(&disk, &mut history);
    }
}

/// Of room there may be more a moment later, and the last copy lasts for no longer than the area.
#[test]
fn a_repair_that_failed_is_tried_again_but_not_for_ever() {
    for is_mended in [true, false] {
        let disk = new_disk(17);
        let mut history = History::default();
        let off = [("scrub_rate", "0")];
        let (mut world, _) = World::start_with(&disk, &mut history, &off);
        let page = other_page(&mut world, &mut history);
        damage(&disk, page);
        fail_to_read(&world, page);
        refuse(&disk, "base/2", u64::MAX, ENOSPC);
        world.checkpointer.turn();
        assert_eq!(found(&world), (1, 0, vec![page]));
        if is_mended {
            disk.clear_injections();
            world.pass(Duration::from_secs(2));
            world.checkpointer.turn();
            assert_eq!(found(&world).2, []);
            assert!(is_whole(&world, page));
            continue;
        }
        let stats = world.backend.shared.stats.clone();
        let batches = || stats.get(Counter::DoubleWriteBatches);
        let mut tries = Vec::new();
        for minutes in [1, 10, 10] {
            let before = batches();
            for _ in 0..minutes * 60 {
                // Nobody has the disk write by half what is to be damaged.
                damage(&disk, page);
                world.pass(Duration::from_secs(1));
                world.checkpointer.turn();
            }
            tries.push(batches() - before);
        }
        assert!(tries[0] < 20 && tries[1] < 20, "{tries:?}");
        assert_eq!(tries[2], 0, "it is given up");
        assert_eq!(found(&world), (1, 0, vec![page]), "and told of once");
    }
}

/// The disk may be one that takes long for what it cannot read, and writers wait for the batch.
#[test]
fn a_batch_waits_for_one_page_that_could_not_be_read() {
    let disk = new_disk(18);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    forget(&world);
    for block in [4, 5, 6] {
        damage(&disk, tag(block));
        fail_to_read(&world, tag(block));
    }
    world.write_page(&mut history, tag(7), 1, 100);
    world.clean(|dirty| dirty == tag(7));
    assert_eq!(found(&world), (1, 1, Vec::new()));
    world.checkpointer.turn();
    assert_eq!(found(&world), (3, 3, Vec::new()));
    assert!([4, 5, 6].iter().all(|block| is_whole(&world, tag(*block))));
}

#[test]
fn a_header_that_is_needed_and_cannot_be_read_is_mended_for_the_next_attempt() {
    let file = FileNo::new(2);
    let header = PageTag::new(file, META_BLOCK);
    // By a checkpoint of the file alone, and by the first of all that is to name it.
    for is_named in [true, false] {
        let disk = new_disk(19);
        let mut history = History::default();
        let mut world = world(&disk, &mut history);
        world.make_dirty_file(&mut history, 2);
        if is_named {
            assert_eq!(world.checkpoint(manual()), TicketState::Done);
        } else {
            world.clean(|_| true);
        }
        damage(&disk, header);
        let attempt = |world: &mut World| match is_named {
            true => world.checkpoint_file(file, None),
            false => world.checkpoint(manual()),
        };
        let failed = attempt(&mut world);
        assert!(matches!(failed, TicketState::Failed(_)), "{failed:?}");
        assert_eq!(found(&world), (1, 1, Vec::new()), "named: {is_named}");
        assert_eq!(attempt(&mut world), TicketState::Done);
    }
}

/// Another file may come to lie in its place.
#[test]
fn what_is_beyond_repair_is_forgotten_when_its_file_is_taken_away() {
    let disk = new_disk(20);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    world.make_dirty_file(&mut history, 2);
    assert_eq!(world.checkpoint(manual()), TicketState::Done);
    wear_out_area(&mut world, &mut history);
    let page = PageTag::new(FileNo::new(2), BlockNo::new(3));
    assert!(world.backend.shared.pool.discard(page.file));
    damage(&disk, page);
    fail_to_read(&world, page);
    world.checkpointer.turn();
    assert_eq!(found(&world), (1, 0, vec![page]));
    let closed = world.checkpoint_file(page.file, Some(Access::OFFLINE));
    assert_eq!(closed, TicketState::Done);
    assert_eq!(found(&world).2, []);
}

#[test]
fn what_could_not_be_looked_at_is_left_alone_for_a_while() {
    let disk = new_disk(21);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    forget(&world);
    damage(&disk, tag(5));
    disk.inject(Injection {
        kind: IoKind::Read,
        path_contains: path_of(tag(5)),
        skip: 0,
        times: 100,
        // EMFILE
        errno: 24,
    });
    world.pass(Duration::from_secs(10));
    for _ in 0..50 {
        world.checkpointer.turn();
    }
    assert_eq!(
        found(&world),
        (0, 0, Vec::new()),
        "looked at again and again"
    );
}

/// The first repair's batch is written over the copies that the others need.
#[test]
fn pages_whose_copies_are_overwritten_next_are_all_repaired() {
    for is_refused in [false, true] {
        let disk = new_disk(22);
        let mut history = History::default();
        let mut world = world(&disk, &mut history);
        let next = |world: &World| {
            let area = world.checkpointer.area.as_ref().expect("it is used");
            (area.next().get(), area.held().1)
        };
        for block in 2..=6 {
            world.write_page(&mut history, tag(block), 1, 100);
        }
        let (batch, slots) = next(&world);
        world.clean(|_| true);
        assert_eq!(next(&world).0, batch + 1);
        while next(&world).0 < batch + slots {
            world.write_page(&mut history, tag(7), 1, 100);
            world.clean(|_| true);
        }
        assert_eq!(next(&world).0, batch + slots);
        forget(&world);
        for block in 2..=6 {
            damage(&disk, tag(block));
            fail_to_read(&world, tag(block));
        }
        if is_refused {
            // Once: the batch, which is then given up for one page after the other.
            refuse(&disk, &path_of(tag(2)), 1, ENOSPC);
        }
        world.checkpointer.turn();
        assert_eq!(found(&world), (5, 5, Vec::new()), "refused: {is_refused}");
        assert!((2..=6).all(|block| is_whole(&world, tag(block))));
    }
}

/// From then on no start looks at the file, nor writes what is in the system's cache alone.
#[test]
fn what_was_repaired_is_on_disk_before_its_file_is_offline() {
    let disk = new_disk(14);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    world.make_dirty_file(&mut history, 2);
    let page = PageTag::new(FileNo::new(2), BlockNo::new(3));
    let closed = world.checkpoint_file(page.file, Some(Access::READ_ONLY));
    assert_eq!(closed, TicketState::Done);
    damage(&disk, page);
    round(&mut world);
    assert_eq!(found(&world), (1, 1, Vec::new()));
    let closed = world.checkpoint_file(page.file, Some(Access::OFFLINE));
    assert_eq!(closed, TicketState::Done);
    world.flush(&mut history);
    drop(world);
    disk.crash_as(Unsynced::Lost);
    let (world, _) = World::start(&disk, &mut history);
    assert!(is_whole(&world, page));
}

#[test]
fn a_page_that_is_newer_than_the_log_is_named_and_not_served() {
    let disk = new_disk(7);
    let mut history = History::default();
    let mut world = world(&disk, &mut history);
    let mut page = [0; PAGE_BYTES];
    let read = world.backend.relations.read_page(tag(5), &mut page);
    read.expect("it is whole");
    // Whole, and right for a server whose log has come so far; the area has no copy of it.
    for _ in 0..40 {
        world.write_page(&mut history, tag(7), 1, 100);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
    }
    forget(&world);
    let end = world.backend.shared.wal.insert_lsn();
    page::set_page_lsn(&mut page, Lsn::new(end.get() + 8));
    page::seal(&mut page, tag(5));
    let damaged = disk.damage(&path_of(tag(5)), offset_of(tag(5).block), &page);
    damaged.expect("within the file");
    let fetched = world.backend.shared.pool.fetch(&world.backend, tag(5));
    let error = fetched.err().expect("it is of another day").to_string();
    assert!(error.contains("file 1 block 5 has page LSN"), "{error}");
    round(&mut world);
    let (bad, repaired, named) = found(&world);
    assert!(bad > 0 && repaired == 0, "{bad} found, {repaired} repaired");
    assert_eq!(named, [tag(5)]);
}

/// Six bytes of a value, as `write_page` has filled it.
fn damage_undone(disk: &SimStorage) {
    let at = offset_of(tag(5).block) + 700;
    disk.damage(&path_of(tag(5)), at, &[0; 6])
        .expect("within the file");
}

#[test]
fn a_write_that_the_disk_has_lost_or_spoilt_is_done_again() {
    for (lie, block) in [(Lie::Lost, 6), (Lie::Rot(4096), 6)] {
        let disk = new_disk(4);
        let mut history = History::default();
        let mut world = world(&disk, &mut history);
        world.write_page(&mut history, tag(block), 1, 100);
        disk.lie(lie, "base/1", 0);
        assert_eq!(world.checkpoint(manual()), TicketState::Done);
        assert_eq!(disk.lies_told(), 1);
        round(&mut world);
        assert_eq!(found(&world), (1, 1, Vec::new()), "{lie:?}");
        history.promised = world.backend.shared.wal.durable_lsn();
        drop(world);
        disk.crash(4);
        World::start(&disk, &mut history);
    }
}

#[test]
fn the_rate_is_kept_and_nothing_is_read_without_one() {
    let disk = new_disk(5);
    let mut history = History::default();
    // A block of 8 kB every half second.
    let parameters = [("scrub_rate", "16kB"), ("scrub_interval", "1s")];
    let (mut world, _) = World::start_with(&disk, &mut history, &parameters);
    let stats = world.backend.shared.stats.clone();
    let checked = || stats.get(Counter::ScrubPages);
    let before = checked();
    for _ in 0..100 {
        world.pass(Duration::from_millis(100));
        world.checkpointer.turn();
        world.checkpointer.turn();
    }
    let pages = checked() - before;
    assert!((18..=21).contains(&pages), "{pages} pages in 10 s");
    let (mut world, _) = World::start(&disk, &mut history);
    world.pass(Duration::from_secs(1000));
    world.checkpointer.turn();
    assert_eq!(world.backend.shared.stats.get(Counter::ScrubPages), 0);
}
