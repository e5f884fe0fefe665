//! The supply of clean frames, in a pool that is far too small: nobody waits for ever, no frame is
//! given to two pages, no change is lost.

use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, FileNo, Lsn, PageTag, Role};
use rd_store::buffer::{CopyOutcome, PageReadError, PageSource};
use rd_store::procs::SlotNo;
use rd_store::{Shared, Sizes};
use rd_sys::frame::PageBytes;
use rd_sys::simdisk::Rng;
use rd_sys::simproc::{Pause, pause};
use rd_sys::simsched::Crew;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

const FRAMES: usize = 6;
const PAGES: u64 = 14;
const PROCESSES: u64 = 3;
const TURNS: u64 = 8;

/// A pool and what should be in it. Every word of a page holds the number of its changes.
struct World {
    shared: Arc<Shared>,
    disk: RefCell<HashMap<PageTag, Box<PageBytes>>>,
    /// Changes of each page.
    changes: RefCell<HashMap<PageTag, u64>>,
    insert: Cell<u64>,
}

impl PageSource for World {
    fn read_page(&self, tag: PageTag, page: &mut PageBytes) -> Result<(), PageReadError> {
        pause(Pause::Read);
        match self.disk.borrow().get(&tag) {
            Some(bytes) => page.copy_from_slice(&bytes[..]),
            None => page.fill(0),
        }
        Ok(())
    }

    fn ask_for_supply(&self) {
        self.shared.procs.notify(Role::Checkpointer);
    }
}

fn number(page: &PageBytes) -> u64 {
    let (words, _) = page.as_chunks::<8>();
    assert!(
        words.iter().all(|word| word == &words[0]),
        "a page seen half changed"
    );
    u64::from_le_bytes(words[0])
}

impl World {
    fn changes_of(&self, tag: PageTag) -> u64 {
        self.changes.borrow().get(&tag).copied().unwrap_or(0)
    }

    fn tag_of(block: u64) -> PageTag {
        PageTag::new(FileNo::new(7), BlockNo::new(block as u32))
    }

    fn tag(rng: &mut Rng) -> PageTag {
        World::tag_of(rng.below(PAGES))
    }

    /// Every page is as the last change has left it, in the pool or on disk.
    fn look(&self) {
        for block in 0..PAGES {
            let tag = World::tag_of(block);
            let pin = self.shared.pool.fetch(self, tag).expect("readable");
            assert_eq!(
                number(&pin.read()),
                self.changes_of(tag),
                "a change was lost"
            );
        }
    }

    /// Reads and changes pages; now and then with another one pinned meanwhile.
    fn user(&self, rng: &mut Rng) {
        let pool = &self.shared.pool;
        for _ in 0..TURNS {
            let other = (rng.below(3) == 0).then(|| World::tag(rng));
            let held = other.map(|tag| pool.fetch(self, tag).expect("readable"));
            let tag = World::tag(rng);
            let pin = pool.fetch(self, tag).expect("readable");
            assert_eq!(pin.tag(), tag, "a frame of another page");
            if rng.half() {
                let mut page = pin.into_write();
                assert_eq!(number(&page), self.changes_of(tag), "a change was lost");
                page.mark_dirty(Lsn::new(self.insert.get()));
                let next = self.changes_of(tag) + 1;
                self.insert.set(self.insert.get() + 1);
                page.as_chunks_mut::<8>().0.fill(next.to_le_bytes());
                self.changes.borrow_mut().insert(tag, next);
            } else {
                let page = pin.read();
                assert_eq!(number(&page), self.changes_of(tag), "a change was lost");
            }
            if let (Some(held), Some(tag)) = (held, other) {
                assert_eq!(held.tag(), tag, "a pinned frame has changed its page");
            }
        }
    }

    /// Cleans what it is asked to, as the checkpointer does.
    fn cleaner(&self) {
        let slot = SlotNo::of(Role::Checkpointer).expect("it has a slot");
        let (pool, event) = (&self.shared.pool, self.shared.procs.event(slot));
        let mut found = Vec::new();
        let mut copy = [0; PAGE_BYTES];
        loop {
            event.take();
            while pool.wants_supply() {
                found.clear();
                pool.plan_supply(2, &mut found);
                let mut cleaned = 0;
                for dirty in &found {
                    let outcome = pool.copy_dirty(dirty.frame, dirty.tag, &mut copy);
                    let CopyOutcome::Copied(copied) = outcome else {
                        continue;
                    };
                    let written = number(&copy);
                    assert!(written <= self.changes_of(copied.tag));
                    pause(Pause::Io);
                    self.disk.borrow_mut().insert(copied.tag, Box::new(copy));
                    pool.written(copied.frame);
                    cleaned += 1;
                }
                pool.supplied();
                if cleaned == 0 {
                    break;
                }
            }
            event.wait(None);
        }
    }
}

/// Processes that need more frames than are clean.
pub fn clean_frames(seed: u64) -> Result<u64, String> {
    let sizes = Sizes {
        frames: FRAMES,
        wal_ring_bytes: 16 << 10,
        wal_segment_bytes: 64 << 10,
    };
    let world = Rc::new(World {
        shared: Shared::anonymous(sizes).expect("memory for a test"),
        disk: RefCell::default(),
        changes: RefCell::default(),
        insert: Cell::new(1_000),
    });
    let mut crew = Crew::new(seed);
    for number in 0..PROCESSES {
        let own = Rc::clone(&world);
        let mut rng = Rng::new(seed ^ (number << 40));
        crew.add("user", move || own.user(&mut rng));
    }
    let own = Rc::clone(&world);
    crew.add_server("cleaner", move || own.cleaner());
    crew.run(&mut |_, _| {})?;
    let own = Rc::clone(&world);
    crew.add("last user", move || own.look());
    crew.run(&mut |_, _| {})?;
    Ok(crew.trace())
}
