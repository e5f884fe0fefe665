//! Shared buffers across real processes, on real files: what threads cannot show.
//!
//! Children change pages in a pool far too small for them, one more cleans it, as the checkpointer
//! does; the parent then looks at every page, in memory and on disk. A program of its own, because
//! only a process of one thread may fork.

use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, Config, FileNo, Lsn, PageTag, Role};
use rd_format::page::{self, PageBytes, PageKind};
use rd_store::buffer::{CopyOutcome, DirtyFrame};
use rd_store::relation::{BASE_DIR, RelationFiles};
use rd_store::{Shared, Sizes, SlotNo, Store};
use rd_sys::clock::Clock;
use rd_sys::fork::{exit_process, spawn};
use rd_sys::process::{self, Signal};
use rd_sys::shm::{Area, Plan, Segment};
use rd_sys::signals::Signals;
use rd_sys::storage::{RealStorage, Storage};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BLOCKS: u32 = 64;
const WRITERS: u16 = 3;
const TURNS: u32 = 3_000;
/// Where the number of a page stands; the rest of the page repeats it.
const NUMBER_AT: usize = 4096;

/// Words shared by parent and children: [`LSN`], [`LEFT`], and per block the number of changes.
const LSN: usize = 0;
const LEFT: usize = 1;
const CHANGES: usize = 2;

fn tag(block: u32) -> PageTag {
    PageTag::new(FileNo::new(9), BlockNo::new(block))
}

fn number(page: &PageBytes) -> u64 {
    let (words, _) = page[NUMBER_AT..].as_chunks::<8>();
    assert!(
        words.iter().all(|word| word == &words[0]),
        "a page seen half changed"
    );
    u64::from_le_bytes(words[0])
}

fn set_number(page: &mut PageBytes, number: u64) {
    page[NUMBER_AT..]
        .as_chunks_mut::<8>()
        .0
        .fill(number.to_le_bytes());
}

fn change_pages(store: &Store, words: &Area<AtomicU64>, mut seed: u64) {
    let pool = &store.shared.pool;
    for _ in 0..TURNS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let block = (seed >> 33) as u32 % BLOCKS;
        let mut page = pool
            .fetch(store, tag(block))
            .expect("readable")
            .into_write();
        page.mark_dirty(Lsn::new(words[LSN].load(Ordering::Acquire)));
        let lsn = words[LSN].fetch_add(1, Ordering::AcqRel);
        let before = words[CHANGES + block as usize].fetch_add(1, Ordering::Relaxed);
        assert_eq!(number(&page), before, "a change of block {block} was lost");
        set_number(&mut page, before + 1);
        page::set_page_lsn(&mut page, Lsn::new(lsn));
    }
    words[LEFT].fetch_sub(1, Ordering::AcqRel);
    store.shared.procs.notify(Role::Checkpointer);
}

fn clean(store: &Store, files: &RelationFiles, frames: &[DirtyFrame]) {
    let pool = &store.shared.pool;
    let mut copy = [0; PAGE_BYTES];
    for dirty in frames {
        if let CopyOutcome::Copied(copied) = pool.copy_dirty(dirty.frame, dirty.tag, &mut copy) {
            number(&copy);
            page::seal(&mut copy, copied.tag);
            files.write_page(copied.tag, &copy).expect("room");
            pool.written(copied.frame);
        }
    }
    pool.supplied();
}

fn clean_until_done(store: &Store, words: &Area<AtomicU64>) {
    let files = RelationFiles::writer(Arc::clone(&store.storage));
    let event = store.shared.procs.event(store.slot);
    let mut found = Vec::new();
    while words[LEFT].load(Ordering::Acquire) > 0 {
        event.wait(Some(Duration::from_secs(1)));
        while store.shared.pool.wants_supply() {
            found.clear();
            store.shared.pool.plan_supply(8, &mut found);
            if found.is_empty() {
                break;
            }
            clean(store, &files, &found);
        }
    }
}

fn store_of(shared: &Arc<Shared>, storage: &Arc<dyn Storage>, role: Role) -> Store {
    let config = Arc::new(Config::from_pairs(&[]).expect("defaults are valid"));
    let slot = SlotNo::of(role).expect("a child");
    Store::new(
        Arc::clone(shared),
        Arc::clone(storage),
        Clock::Real,
        slot,
        config,
    )
}

fn main() {
    let signals = Signals::install(&[Signal::Chld]).expect("installed");
    let directory = tempfile::tempdir().expect("a directory");
    let storage: Arc<dyn Storage> = Arc::new(RealStorage::new(directory.path().to_path_buf()));
    storage.create_dir(BASE_DIR).expect("a new directory");
    let files = RelationFiles::writer(Arc::clone(&storage));
    files.grow(FileNo::new(9), 0, BLOCKS).expect("room");
    let mut page = [0; PAGE_BYTES];
    for block in 0..BLOCKS {
        page::init(&mut page, PageKind::Free);
        page::seal(&mut page, tag(block));
        files.write_page(tag(block), &page).expect("room");
    }
    let sizes = Sizes {
        frames: 24,
        wal_ring_bytes: 1 << 20,
        wal_segment_bytes: 16 << 20,
    };
    let shared = Shared::anonymous(sizes).expect("memory");
    let mut plan = Plan::new();
    let region = plan.reserve::<AtomicU64>(CHANGES + BLOCKS as usize);
    let words = Segment::anonymous(&plan).expect("memory").area(region);
    words[LSN].store(1, Ordering::Relaxed);
    words[LEFT].store(u64::from(WRITERS), Ordering::Relaxed);

    let child = |role: Role, body: &dyn Fn(&Store)| {
        let body = || {
            body(&store_of(&shared, &storage, role));
            exit_process(0)
        };
        spawn(role, body).expect("forked");
    };
    child(Role::Checkpointer, &|store| clean_until_done(store, &words));
    for writer in 0..WRITERS {
        let seed = u64::from(writer) + 1;
        child(Role::Backend(writer), &|store| {
            change_pages(store, &words, seed)
        });
    }
    let store = store_of(&shared, &storage, Role::Startup);
    let mut running = 1 + usize::from(WRITERS);
    while running > 0 {
        match process::reap() {
            Some((_, exit)) => {
                assert!(exit.is_success(), "a child ended with {exit:?}");
                running -= 1;
            }
            None => {
                signals.take();
                let event = store.shared.procs.event(store.slot);
                event.wait_with(signals.fd(), Some(Duration::from_secs(1)));
            }
        }
    }

    let pool = &store.shared.pool;
    let mut found = Vec::new();
    pool.dirty_before(Lsn::MAX, &mut found);
    clean(&store, &files, &found);
    assert_eq!(pool.dirty_frames(), 0);
    let mut sum = 0;
    for block in 0..BLOCKS {
        files.read_page(tag(block), &mut page).expect("whole");
        let changes = words[CHANGES + block as usize].load(Ordering::Relaxed);
        assert_eq!(number(&page), changes, "block {block} on disk");
        if let Some(pin) = pool.get_resident(tag(block)) {
            assert_eq!(number(&pin.read()), changes, "block {block} in memory");
            assert_eq!(pool.pins(pin.frame()), 1, "a pin is left on block {block}");
        }
        sum += changes;
    }
    assert_eq!(sum, u64::from(WRITERS) * u64::from(TURNS));
    println!("{sum} changes of {BLOCKS} pages by {WRITERS} processes: none lost, none torn");
}
