//! The pool against a model: threads that read and change pages, in a pool far too small for them,
//! beside a cleaner that writes and evicts.

use super::desc::{DIRTY, WRITING};
use super::*;
use crate::shared::Sizes;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, FrameNo, Lsn, PageTag};
use rd_format::PageError;
use rd_sys::frame::PageBytes;
use rd_sys::shm::{Plan, Segment};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

fn pool(frames: usize) -> Pool {
    let sizes = Sizes {
        frames,
        wal_ring_bytes: 1 << 20,
        wal_segment_bytes: 1 << 20,
    };
    let mut plan = Plan::new();
    let regions = PoolRegions::plan(&mut plan, &sizes);
    Pool::open(
        &Segment::anonymous(&plan).expect("memory for a test"),
        &regions,
        &sizes,
    )
}

fn tag(block: u32) -> PageTag {
    PageTag::new(FileNo::new(7), BlockNo::new(block))
}

/// A disk in memory. Each word of a page holds the same number: how often the page was changed.
#[derive(Default)]
struct Disk {
    pages: Mutex<HashMap<PageTag, Box<PageBytes>>>,
    reads: AtomicUsize,
    asked: AtomicUsize,
    broken: AtomicBool,
}

impl Disk {
    fn write(&self, tag: PageTag, page: &PageBytes) {
        self.pages
            .lock()
            .expect("no panic")
            .insert(tag, Box::new(*page));
    }
}

impl PageSource for Disk {
    fn read_page(&self, tag: PageTag, page: &mut PageBytes) -> Result<(), PageReadError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            let error = PageError::ZeroPage { tag };
            return Err(PageReadError::Damaged {
                tag,
                path: "base/7".into(),
                error,
            });
        }
        match self.pages.lock().expect("no panic").get(&tag) {
            Some(bytes) => page.copy_from_slice(&bytes[..]),
            None => page.fill(0),
        }
        Ok(())
    }

    fn ask_for_supply(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

/// The number on the page, which must be whole.
fn number(page: &PageBytes) -> u64 {
    let (words, _) = page.as_chunks::<8>();
    assert!(
        words.iter().all(|word| word == &words[0]),
        "B2: a page seen half changed"
    );
    u64::from_le_bytes(words[0])
}

fn set_number(page: &mut PageBytes, number: u64) {
    page.as_chunks_mut::<8>().0.fill(number.to_le_bytes());
}

/// Writes what is planned, as the checkpointer does; gives how many pages that were.
fn clean(pool: &Pool, disk: &Disk, frames: &[DirtyFrame], check: impl Fn(&Copied, u64)) -> usize {
    let mut written = 0;
    let mut copy = [0; PAGE_BYTES];
    for dirty in frames {
        if let CopyOutcome::Copied(copied) = pool.copy_dirty(dirty.frame, dirty.tag, &mut copy) {
            check(&copied, number(&copy));
            disk.write(copied.tag, &copy);
            pool.written(copied.frame);
            written += 1;
        }
    }
    pool.supplied();
    written
}

const PAGES: u32 = 48;

/// What the threads of the model share.
struct World {
    pool: Pool,
    disk: Disk,
    /// The insert position.
    lsn: AtomicU64,
    /// LSNs of the changes of each page, in order: change n made the page's number n.
    changes: Vec<Mutex<Vec<u64>>>,
    writers_left: AtomicUsize,
    readers_left: AtomicUsize,
}

impl World {
    fn write_at_random(&self, mut seed: u64, turns: u32) {
        for _ in 0..turns {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let block = (seed >> 33) as u32 % PAGES;
            let pin = self.pool.fetch(&self.disk, tag(block)).expect("readable");
            assert_eq!(pin.tag(), tag(block));
            let mut page = pin.into_write();
            let before = number(&page);
            page.mark_dirty(Lsn::new(self.lsn.load(Ordering::Acquire)));
            let lsn = self.lsn.fetch_add(1, Ordering::AcqRel);
            let mut changes = self.changes[block as usize].lock().expect("no panic");
            assert_eq!(
                before,
                changes.len() as u64,
                "a change of page {block} was lost"
            );
            changes.push(lsn);
            set_number(&mut page, before + 1);
        }
        self.writers_left.fetch_sub(1, Ordering::Release);
    }

    fn read_at_random(&self) {
        let mut seen = vec![0; PAGES as usize];
        let mut block = 0;
        while self.writers_left.load(Ordering::Acquire) > 0 {
            block = (block + 7) % PAGES;
            let pin = self.pool.fetch(&self.disk, tag(block)).expect("readable");
            let now = number(&pin.read());
            assert_eq!(pin.tag(), tag(block), "B1: a pinned frame keeps its page");
            assert!(
                now >= seen[block as usize],
                "page {block} went back in time"
            );
            seen[block as usize] = now;
        }
        self.readers_left.fetch_sub(1, Ordering::Release);
    }

    /// B3, B5: the rec LSN is not beyond the first change that the disk lacks.
    fn check_copy(&self, copied: &Copied, number: u64) {
        let block = copied.tag.block.get() as usize;
        let on_disk = match self.disk.pages.lock().expect("no panic").get(&copied.tag) {
            Some(page) => u64::from_le_bytes(*page.first_chunk().expect("8 bytes")),
            None => 0,
        };
        let changes = self.changes[block].lock().expect("no panic");
        assert!(number as usize <= changes.len());
        let first = changes
            .get(on_disk as usize)
            .copied()
            .expect("a dirty page has a change");
        assert!(
            copied.rec_lsn.get() <= first,
            "rec LSN {} above {first}",
            copied.rec_lsn
        );
    }

    fn clean_until_done(&self) {
        let mut found = Vec::new();
        // Readers too may sleep for want of a clean frame.
        while self.readers_left.load(Ordering::Acquire) > 0 {
            found.clear();
            if self.pool.wants_supply() {
                self.pool.plan_supply(4, &mut found);
            } else {
                // B4: everything dirty since before the position is found.
                let limit = Lsn::new(self.lsn.load(Ordering::Acquire));
                self.pool.dirty_before(limit, &mut found);
            }
            clean(&self.pool, &self.disk, &found, |copied, number| {
                self.check_copy(copied, number);
            });
        }
    }
}

#[test]
fn no_change_is_lost_and_no_page_is_torn() {
    let world = World {
        pool: pool(16),
        disk: Disk::default(),
        lsn: AtomicU64::new(1),
        changes: (0..PAGES).map(|_| Mutex::new(Vec::new())).collect(),
        writers_left: AtomicUsize::new(3),
        readers_left: AtomicUsize::new(1),
    };
    thread::scope(|scope| {
        let world = &world;
        for seed in 0..3 {
            scope.spawn(move || world.write_at_random(seed, 4_000));
        }
        scope.spawn(|| world.read_at_random());
        scope.spawn(|| world.clean_until_done());
    });
    let limit = Lsn::new(world.lsn.load(Ordering::Acquire));
    let mut found = Vec::new();
    world.pool.dirty_before(limit, &mut found);
    assert_eq!(found.len(), world.pool.dirty_frames());
    clean(&world.pool, &world.disk, &found, |copied, number| {
        world.check_copy(copied, number)
    });
    assert_eq!(world.pool.dirty_frames(), 0);
    assert_eq!(world.pool.least_rec_lsn(), None);
    let on_disk = world.disk.pages.lock().expect("no panic");
    for block in 0..PAGES {
        let changes = world.changes[block as usize]
            .lock()
            .expect("no panic")
            .len() as u64;
        assert_eq!(
            number(&on_disk[&tag(block)]),
            changes,
            "page {block} on disk"
        );
    }
    for frame in 0..16 {
        assert_eq!(
            world.pool.pins(FrameNo::new(frame)),
            0,
            "B1: a pin of frame {frame} is left"
        );
    }
}

#[test]
fn a_miss_is_read_once_and_then_found() {
    let (pool, disk) = (pool(8), Disk::default());
    assert!(pool.get_resident(tag(1)).is_none());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let pin = pool.fetch(&disk, tag(1)).expect("readable");
                assert_eq!(number(&pin.read()), 0);
            });
        }
    });
    assert_eq!(disk.reads.load(Ordering::Relaxed), 1, "B9");
    assert_eq!(pool.get_resident(tag(1)).map(|pin| pin.tag()), Some(tag(1)));
    assert_eq!(pool.used_frames(), 1);
}

#[test]
fn a_page_that_cannot_be_read_leaves_no_trace() {
    let (pool, disk) = (pool(4), Disk::default());
    disk.broken.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for block in 0..50 {
                    let error = pool.fetch(&disk, tag(block % 3)).err().expect("broken");
                    assert!(
                        error.to_string().contains(&tag(block % 3).to_string()),
                        "{error}"
                    );
                }
            });
        }
    });
    assert_eq!(pool.used_frames(), 0);
    disk.broken.store(false, Ordering::Relaxed);
    let all: Vec<_> = (0..4)
        .map(|block| pool.fetch(&disk, tag(block)).expect("mended"))
        .collect();
    assert_eq!(pool.used_frames(), all.len());
}

#[test]
fn neither_pinned_nor_dirty_nor_writing_frames_are_reused() {
    let (pool, disk) = (pool(4), Disk::default());
    let pinned = pool.fetch(&disk, tag(0)).expect("readable");
    for block in 1..3 {
        let mut page = pool
            .fetch(&disk, tag(block))
            .expect("readable")
            .into_write();
        page.mark_dirty(Lsn::new(u64::from(block) * 10));
        page.mark_dirty(Lsn::new(1_000));
        set_number(&mut page, u64::from(block));
    }
    assert_eq!(
        pool.least_rec_lsn(),
        Some(Lsn::new(10)),
        "the older rec LSN stays"
    );
    let mut copy = [0; PAGE_BYTES];
    let dirty = pool.get_resident(tag(2)).expect("resident").frame();
    let CopyOutcome::Copied(copied) = pool.copy_dirty(dirty, tag(2), &mut copy) else {
        panic!("dirty and not latched");
    };
    assert_eq!((copied.rec_lsn, number(&copy)), (Lsn::new(20), 2));
    assert_eq!(
        pool.copy_dirty(dirty, tag(2), &mut copy),
        CopyOutcome::Clean
    );
    // One frame is left for all the others.
    for block in 10..40 {
        drop(pool.fetch(&disk, tag(block)).expect("one frame is clean"));
    }
    for block in 0..3 {
        assert!(pool.get_resident(tag(block)).is_some(), "B7: page {block}");
    }
    assert!(pool.restore_dirty(&copied));
    assert_eq!(
        pool.table.descriptor(dirty).load().0 & (DIRTY | WRITING),
        DIRTY
    );
    let mut found = Vec::new();
    pool.dirty_before(Lsn::MAX, &mut found);
    found.sort();
    let rec_lsns: Vec<_> = found.iter().map(|dirty| dirty.rec_lsn.get()).collect();
    assert_eq!(rec_lsns, [10, 20]);
    drop(pinned);
}

#[test]
fn the_cleaner_passes_latched_pages_by() {
    let (pool, disk) = (pool(4), Disk::default());
    let mut page = pool.fetch(&disk, tag(3)).expect("readable").into_write();
    page.mark_dirty(Lsn::new(5));
    set_number(&mut page, 1);
    let frame = page.pin().frame();
    let mut copy = [0; PAGE_BYTES];
    assert_eq!(
        pool.copy_dirty(frame, tag(3), &mut copy),
        CopyOutcome::Busy,
        "B8"
    );
    assert!(!pool.discard(FileNo::new(7)), "a pinned page stays");
    drop(page);
    assert_eq!(
        pool.copy_dirty(frame, tag(4), &mut copy),
        CopyOutcome::Clean
    );
    assert!(pool.discard(FileNo::new(8)));
    assert!(pool.get_resident(tag(3)).is_some());
    assert!(pool.discard(FileNo::new(7)));
    assert_eq!((pool.used_frames(), pool.dirty_frames()), (0, 0));
}

#[test]
fn a_new_page_is_not_read() {
    let (pool, disk) = (pool(4), Disk::default());
    disk.write(tag(9), &[0xEE; PAGE_BYTES]);
    let mut page = pool.fetch_new(&disk, tag(9)).into_write();
    assert_eq!(number(&page), 0);
    page.mark_dirty(Lsn::new(1));
    set_number(&mut page, 4);
    drop(page);
    let again = pool.fetch_for_redo(&disk, tag(9), true).expect("in memory");
    assert_eq!(number(&again.read()), 4);
    assert_eq!(disk.reads.load(Ordering::Relaxed), 0);
}

/// Not a test of correctness: prints what the hot path costs. Run by hand with `--ignored`.
#[test]
#[ignore = "prints a measurement"]
fn cost_of_fetch_and_latch() {
    let (pool, disk) = (pool(4096), Disk::default());
    for block in 0..2048 {
        drop(pool.fetch(&disk, tag(block)).expect("readable"));
    }
    let turns = 10_000_000u32;
    let start = std::time::Instant::now();
    let mut sum = 0;
    for turn in 0..turns {
        let pin = pool.fetch(&disk, tag(turn % 8)).expect("readable");
        sum += u64::from(pin.read()[100]);
    }
    println!(
        "{:?} per fetch and shared latch ({sum})",
        start.elapsed() / turns
    );
    let start = std::time::Instant::now();
    for turn in 0..turns {
        let page = pool
            .fetch(&disk, tag(turn % 8))
            .expect("readable")
            .into_write();
        page.mark_dirty(Lsn::new(1));
    }
    println!(
        "{:?} per fetch and exclusive latch, marked dirty",
        start.elapsed() / turns
    );
}
