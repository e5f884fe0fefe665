//! What the trees share beside pages: the table of namespaces, the blocks that rest until the
//! last descent that may still look at them has ended, and the budget of pages that large
//! commits draw on.
//!
//! # Namespaces
//!
//! An entry says in which relation file a namespace lies, since which LSN, and in which file it
//! lay before. Commits hold the entry shared from before their first leaf until their LSN is
//! reserved; what gives the namespace another file holds it exclusively. Readers hold nothing:
//! they look the file up, read, and look again once their snapshot is fixed.
//!
//! The change of an entry, and a reader's look:
//! 1. The changer holds the entry exclusively and makes its version odd, *before* it reserves the
//!    LSN of the change.
//! 2. It reserves, then stores previous file, LSN and file, and makes the version even.
//! 3. A reader loads version, words, version. If the version was odd or has changed he waits for
//!    the latch, shared, and begins anew. So whoever fixed a snapshot at or above the change's LSN
//!    before he looks finds the change.
//!
//! # Resting blocks
//!
//! A leaf that was taken out of its tree is free in its bitmap page at once, so that a crash loses
//! nothing; but it is not handed out while it is in this table. The table is looked up by place
//! (file and block), so a look costs one cache line; a block whose place is taken cannot be put to
//! rest, and its leaf stays in the tree until later.
//!
//! A place belongs to whoever has made its epoch [`AT_REST`] from one that all descents are past,
//! with a compare-exchange:
//! 1. He puts his block's tag there, and takes the leaf out of its tree.
//! 2. He replaces [`AT_REST`] by a new epoch; the place is anybody's when that is past. (If the
//!    leaf stays in its tree after all he takes his tag away, and says 0, which always is past.)
//!
//! So while a tag is to be found its epoch is never one that was there before it. An epoch other
//! than 0 is stored once in a server's life: who finds it unchanged knows that nobody was there in
//! between. Between the claim and step 1 the block that lay there before seems to rest again, which
//! delays its use by one search at most.

use crate::procs::Procs;
use rd_base::{FileNo, Lsn, PageTag};
use rd_sys::latch::{ReadGuard, RwLatch, WriteGuard};
use rd_sys::{Area, One, Plan, Region, Segment};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use zerocopy::{FromBytes, KnownLayout};

/// Lets a test step in between two steps of a protocol.
#[cfg(not(test))]
#[inline]
fn between_steps() {}

#[cfg(test)]
use tests::between_steps;

/// Namespaces that exist at a time.
pub const NAMESPACES_MAX: usize = 64;
/// Longest name of a namespace, in bytes.
pub const NAMESPACE_NAME_BYTES_MAX: usize = 64;
/// Places for resting blocks.
const RESTING_MAX: usize = 4096;

const NAME_WORDS: usize = NAMESPACE_NAME_BYTES_MAX / 8;
const _: () = assert!(NAMESPACE_NAME_BYTES_MAX.is_multiple_of(8));
const _: () = assert!(RESTING_MAX.is_power_of_two());

/// Index of a namespace in the shared table; 0 is the database that clients begin in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId(u16);

impl NamespaceId {
    /// The namespace that clients begin in.
    pub const DB0: NamespaceId = NamespaceId(0);

    /// The namespace at `index` of the table; `None` if the table is not that long.
    pub fn new(index: usize) -> Option<NamespaceId> {
        (index < NAMESPACES_MAX).then_some(NamespaceId(index as u16))
    }

    /// The index.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One namespace, on cache lines of its own.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
pub struct NamespaceEntry {
    /// guard: itself.
    latch: RwLatch,
    /// Odd while the words below change. atomic: SeqCst; written under `latch`, exclusively.
    version: AtomicU32,
    /// The relation file; 0 if there is no such namespace. guard: `latch`, or `version`.
    file: AtomicU32,
    /// The file it lay in before; 0 if none. guard: as `file`.
    previous: AtomicU32,
    /// End LSN of the record that gave it its file. guard: as `file`.
    since: AtomicU64,
    /// End LSN of the record that gave it the file before. guard: as `file`.
    previous_since: AtomicU64,
    /// A file that was asked for, to be its next; 0 if none. guard: `latch`, exclusively.
    next: AtomicU32,
    /// Bytes in `name`. guard: as `file`.
    name_bytes: AtomicU32,
    /// Its name. guard: as `file`.
    name: [AtomicU64; NAME_WORDS],
}

/// Where a namespace lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its relation file.
    pub file: FileNo,
    /// End LSN of the record that gave it this file.
    pub since: Lsn,
    /// The file it lay in before, and since when.
    pub previous: Option<(FileNo, Lsn)>,
}

/// What a snapshot finds under a namespace's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// This file.
    File(FileNo),
    /// Nothing: the namespace is younger.
    Nothing,
    /// The namespace has got another file twice since: the one of that time is not known any more.
    Replaced,
}

impl Place {
    /// Where a snapshot at `lsn` finds the namespace.
    #[inline]
    pub fn at(&self, lsn: Lsn) -> Found {
        if self.since <= lsn {
            return Found::File(self.file);
        }
        match self.previous {
            None => Found::Nothing,
            Some((file, since)) if since <= lsn => Found::File(file),
            Some(_) => Found::Replaced,
        }
    }
}

impl NamespaceEntry {
    /// Shares the entry, as a commit does.
    pub fn share(&self) -> ReadGuard<'_> {
        self.latch.read()
    }

    /// Has the entry alone, to change it.
    pub fn hold(&self) -> WriteGuard<'_> {
        self.latch.write()
    }

    /// The file, for those who hold the entry; `None` if there is no such namespace.
    pub fn file(&self) -> Option<FileNo> {
        match self.file.load(Ordering::Acquire) {
            0 => None,
            file => Some(FileNo::new(file)),
        }
    }

    /// Where the namespace lies, for those who hold nothing; `None` if there is none.
    pub fn place(&self) -> Option<Place> {
        loop {
            let before = self.version.load(Ordering::SeqCst);
            let place = Place {
                file: FileNo::new(self.file.load(Ordering::Acquire)),
                since: Lsn::new(self.since.load(Ordering::Acquire)),
                previous: match self.previous.load(Ordering::Acquire) {
                    0 => None,
                    file => {
                        let since = self.previous_since.load(Ordering::Acquire);
                        Some((FileNo::new(file), Lsn::new(since)))
                    }
                },
            };
            // The loads above are acquires, so this one comes after them.
            if before.is_multiple_of(2) && self.version.load(Ordering::SeqCst) == before {
                return (place.file.get() != 0).then_some(place);
            }
            drop(self.latch.read());
        }
    }

    /// The namespace's name, for those who hold the entry.
    pub fn name(&self) -> Vec<u8> {
        let words = self
            .name
            .iter()
            .map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let mut name: Vec<u8> = words.flatten().collect();
        name.truncate(self.name_bytes.load(Ordering::Relaxed) as usize);
        name
    }

    /// The file that was asked for, to be the next.
    pub fn next_file(&self, _held: &WriteGuard<'_>) -> Option<FileNo> {
        match self.next.load(Ordering::Relaxed) {
            0 => None,
            file => Some(FileNo::new(file)),
        }
    }

    /// Notes that `file` was asked for, to be the next.
    pub fn set_next_file(&self, _held: &WriteGuard<'_>, file: FileNo) {
        self.next.store(file.get(), Ordering::Relaxed);
    }

    /// Begins to give the namespace another file: from now on readers wait. To be called before
    /// the LSN of the change is reserved.
    pub fn begin_change<'a>(&'a self, held: &'a WriteGuard<'_>) -> NamespaceChange<'a> {
        self.version.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        NamespaceChange {
            entry: self,
            _held: held,
        }
    }
}

/// An entry that is being changed; readers wait until [`NamespaceChange::finish`].
#[must_use = "readers of the namespace wait until it is finished"]
pub struct NamespaceChange<'a> {
    entry: &'a NamespaceEntry,
    _held: &'a WriteGuard<'a>,
}

impl NamespaceChange<'_> {
    /// The namespace lies in `file` since `since`.
    pub fn finish(self, file: FileNo, since: Lsn) {
        let entry = self.entry;
        entry
            .previous
            .store(entry.file.load(Ordering::Relaxed), Ordering::Release);
        entry
            .previous_since
            .store(entry.since.load(Ordering::Relaxed), Ordering::Release);
        entry.since.store(since.get(), Ordering::Release);
        entry.file.store(file.get(), Ordering::Release);
        entry.next.store(0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        entry.version.fetch_add(1, Ordering::SeqCst);
    }
}

/// In place of an epoch: the place belongs to somebody, whose block is not out of its tree yet.
const AT_REST: u64 = u64::MAX;

/// A block that may not be handed out yet.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
struct Resting {
    /// [`PageTag`] as a word; 0 if nothing rests here. atomic: SeqCst; stored by whom the place
    /// belongs to, and made 0 by who finds that its epoch is past.
    tag: AtomicU64,
    /// The epoch after which the block may be handed out; [`AT_REST`] while it is not known.
    /// atomic: SeqCst; see the module's steps.
    epoch: AtomicU64,
}

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Totals {
    /// Blocks that rest. atomic: SeqCst.
    resting: AtomicU64,
    /// Pages that large commits have taken from the budget. atomic: SeqCst.
    pages: AtomicU64,
    /// Not 0 once somebody was refused pages, until pages come back. atomic: SeqCst.
    pages_wanted: AtomicU64,
}

/// Where the table lies in the segment.
#[derive(Clone, Copy)]
pub struct NamespacesRegions {
    entries: Region<NamespaceEntry>,
    resting: Region<Resting>,
    totals: Region<Totals>,
}

impl NamespacesRegions {
    /// Reserves room for all of it.
    pub fn plan(plan: &mut Plan) -> NamespacesRegions {
        NamespacesRegions {
            entries: plan.reserve(NAMESPACES_MAX),
            resting: plan.reserve(RESTING_MAX),
            totals: plan.reserve(1),
        }
    }
}

/// The table of namespaces, the resting blocks, and the budget of pages.
#[derive(Clone)]
pub struct Namespaces {
    entries: Area<NamespaceEntry>,
    resting: Area<Resting>,
    totals: One<Totals>,
}

/// Pages taken from the budget; given back when dropped.
#[must_use = "the pages go back at once"]
pub struct PageBudget {
    totals: One<Totals>,
    procs: Procs,
    pages: u64,
}

impl Drop for PageBudget {
    fn drop(&mut self) {
        self.totals.pages.fetch_sub(self.pages, Ordering::SeqCst);
        if self.totals.pages_wanted.swap(0, Ordering::SeqCst) != 0 {
            self.procs.wake_parked();
        }
    }
}

impl Namespaces {
    /// Opens the table.
    pub fn open(segment: &Segment, regions: &NamespacesRegions) -> Namespaces {
        Namespaces {
            entries: segment.area(regions.entries),
            resting: segment.area(regions.resting),
            totals: segment.one(regions.totals),
        }
    }

    /// The entry of `namespace`.
    #[inline]
    pub fn entry(&self, namespace: NamespaceId) -> &NamespaceEntry {
        &self.entries[namespace.index()]
    }

    /// Every namespace that exists, with its file.
    pub fn all(&self) -> impl Iterator<Item = (NamespaceId, FileNo)> + '_ {
        let some = |(index, entry): (usize, &NamespaceEntry)| {
            Some((NamespaceId(index as u16), entry.file()?))
        };
        self.entries.iter().enumerate().filter_map(some)
    }

    /// Fills an entry at start, before anybody else looks.
    pub fn load(&self, namespace: NamespaceId, name: &[u8], file: FileNo, since: Lsn) {
        assert!(
            name.len() <= NAMESPACE_NAME_BYTES_MAX,
            "the catalog's limit for names"
        );
        let entry = self.entry(namespace);
        for (word, bytes) in entry.name.iter().zip(name.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        entry.name_bytes.store(name.len() as u32, Ordering::Relaxed);
        entry.since.store(since.get(), Ordering::Relaxed);
        entry.previous.store(0, Ordering::Relaxed);
        entry.file.store(file.get(), Ordering::Release);
    }

    fn place_of(&self, tag: PageTag) -> &Resting {
        let mixed = tag.to_u64().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.resting[(mixed >> 32) as usize % RESTING_MAX]
    }

    /// Puts the block of `tag` to rest, until [`Namespaces::wake_up`], or until all descents are
    /// past [`Namespaces::count_down`]; false if another block rests at its place. To be called
    /// before the page is marked as gone and before its bit is cleared.
    pub fn put_to_rest(&self, procs: &Procs, tag: PageTag) -> bool {
        let place = self.place_of(tag);
        let epoch = place.epoch.load(Ordering::SeqCst);
        if epoch == AT_REST || !procs.all_past(epoch) {
            return false;
        }
        between_steps();
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        let claimed = place
            .epoch
            .compare_exchange(epoch, AT_REST, order.0, order.1);
        if claimed.is_err() {
            return false;
        }
        between_steps();
        if place.tag.swap(tag.to_u64(), Ordering::SeqCst) == 0 {
            self.totals.resting.fetch_add(1, Ordering::SeqCst);
        }
        between_steps();
        true
    }

    /// The place of a block that was put to rest, and has stayed there since.
    fn place_at_rest(&self, tag: PageTag) -> &Resting {
        let place = self.place_of(tag);
        let words = [&place.tag, &place.epoch].map(|word| word.load(Ordering::SeqCst));
        // Else a page could be handed out that somebody is on his way to.
        assert_eq!(words, [tag.to_u64(), AT_REST], "{tag} was put to rest");
        place
    }

    /// The block put to rest is out of its tree now: it may be handed out when every descent begun
    /// before this call has ended.
    pub fn count_down(&self, procs: &Procs, tag: PageTag) {
        let place = self.place_at_rest(tag);
        place.epoch.store(procs.bump_epoch(), Ordering::SeqCst);
    }

    /// The block was put to rest but stays where it is.
    pub fn wake_up(&self, tag: PageTag) {
        let place = self.place_at_rest(tag);
        place.tag.store(0, Ordering::SeqCst);
        self.totals.resting.fetch_sub(1, Ordering::SeqCst);
        place.epoch.store(0, Ordering::SeqCst);
    }

    /// Whether the free block of `tag` may not be handed out yet. The caller holds its bitmap page
    /// exclusively.
    pub fn rests(&self, procs: &Procs, tag: PageTag) -> bool {
        if self.totals.resting.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let place = self.place_of(tag);
        if place.tag.load(Ordering::SeqCst) != tag.to_u64() {
            return false;
        }
        let epoch = place.epoch.load(Ordering::SeqCst);
        if epoch == AT_REST || !procs.all_past(epoch) {
            return true;
        }
        between_steps();
        let free = place
            .tag
            .compare_exchange(tag.to_u64(), 0, Ordering::SeqCst, Ordering::SeqCst);
        if free.is_ok() {
            self.totals.resting.fetch_sub(1, Ordering::SeqCst);
        }
        false
    }

    /// Takes `pages` from a budget of `limit` for all commits together; `None` if not so many are
    /// left.
    pub fn try_take_pages(&self, procs: &Procs, pages: u64, limit: u64) -> Option<PageBudget> {
        let add = |taken: u64| Some(taken + pages).filter(|sum| *sum <= limit);
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        let taken = self.totals.pages.fetch_update(order.0, order.1, add);
        taken.ok().map(|_| PageBudget {
            totals: self.totals.clone(),
            procs: procs.clone(),
            pages,
        })
    }

    /// As [`Namespaces::try_take_pages`]; if not so many are left, parked processes are woken when
    /// there are more. The caller must hold none then: when he gave them back he would be woken
    /// himself, and not when others do.
    pub fn take_pages(&self, procs: &Procs, pages: u64, limit: u64) -> Option<PageBudget> {
        self.try_take_pages(procs, pages, limit).or_else(|| {
            // Said before the second look, so that whoever gives back in between sees it.
            self.totals.pages_wanted.store(1, Ordering::SeqCst);
            self.try_take_pages(procs, pages, limit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procs::{ProcsRegions, SlotNo};
    use rd_base::BlockNo;

    fn shared() -> (Namespaces, Procs) {
        let mut plan = Plan::new();
        let regions = NamespacesRegions::plan(&mut plan);
        let procs = ProcsRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        let procs = Procs::open(&segment, &procs).expect("descriptors for a test");
        (Namespaces::open(&segment, &regions), procs)
    }

    #[test]
    fn a_snapshot_finds_the_file_of_its_time() {
        let (namespaces, _) = shared();
        assert_eq!(namespaces.entry(NamespaceId::DB0).place(), None);
        namespaces.load(NamespaceId::DB0, b"0", FileNo::new(2), Lsn::new(10));
        let entry = namespaces.entry(NamespaceId::DB0);
        assert_eq!(entry.name(), b"0");
        let held = entry.hold();
        entry.set_next_file(&held, FileNo::new(7));
        assert_eq!(entry.next_file(&held), Some(FileNo::new(7)));
        entry
            .begin_change(&held)
            .finish(FileNo::new(7), Lsn::new(100));
        assert_eq!(entry.next_file(&held), None);
        drop(held);
        let place = entry.place().expect("it exists");
        assert_eq!(place.at(Lsn::new(9)), Found::Replaced);
        assert_eq!(place.at(Lsn::new(10)), Found::File(FileNo::new(2)));
        assert_eq!(place.at(Lsn::new(99)), Found::File(FileNo::new(2)));
        assert_eq!(place.at(Lsn::new(100)), Found::File(FileNo::new(7)));
        let all: Vec<_> = namespaces.all().collect();
        assert_eq!(all, [(NamespaceId::DB0, FileNo::new(7))]);
    }

    #[test]
    fn a_reader_waits_while_the_file_changes() {
        let (namespaces, _) = shared();
        namespaces.load(NamespaceId::DB0, b"0", FileNo::new(2), Lsn::ZERO);
        let entry = namespaces.entry(NamespaceId::DB0);
        std::thread::scope(|scope| {
            let held = entry.hold();
            let change = entry.begin_change(&held);
            let reader = scope.spawn(|| entry.place());
            change.finish(FileNo::new(3), Lsn::new(5));
            drop(held);
            let place = reader.join().expect("it ends").expect("it exists");
            assert_eq!(place.file, FileNo::new(3));
        });
    }

    #[test]
    fn a_block_rests_until_the_last_descent_begun_before_has_ended() {
        let (namespaces, procs) = shared();
        let tag = PageTag::new(FileNo::new(2), BlockNo::new(9));
        let slot = SlotNo::new(4);
        assert!(!namespaces.rests(&procs, tag));
        assert!(namespaces.put_to_rest(&procs, tag));
        assert!(!namespaces.put_to_rest(&procs, tag), "its place is taken");
        assert!(namespaces.rests(&procs, tag));
        procs.enter_epoch(slot);
        namespaces.count_down(&procs, tag);
        assert!(namespaces.rests(&procs, tag));
        procs.leave_epoch(slot);
        assert!(!namespaces.rests(&procs, tag));
        assert!(namespaces.put_to_rest(&procs, tag));
        namespaces.wake_up(tag);
        assert!(!namespaces.rests(&procs, tag));
    }

    type Interruption = Box<dyn FnOnce()>;

    thread_local! {
        /// What is to happen after so many steps.
        static INTERRUPTION: std::cell::RefCell<Option<(u32, Interruption)>> =
            const { std::cell::RefCell::new(None) };
    }

    pub(super) fn between_steps() {
        let mut waiting = INTERRUPTION.take();
        match &mut waiting {
            Some((0, _)) => {
                let (_, interruption) = waiting.expect("just seen");
                interruption();
            }
            Some((steps, _)) => {
                *steps -= 1;
                INTERRUPTION.set(waiting);
            }
            None => {}
        }
    }

    /// Blocks with one place.
    fn at_one_place(namespaces: &Namespaces) -> [PageTag; 3] {
        let tag = |block| PageTag::new(FileNo::new(2), BlockNo::new(block));
        let place = |tag| std::ptr::from_ref(namespaces.place_of(tag));
        let mut same = (3..)
            .map(tag)
            .filter(|other| place(*other) == place(tag(3)));
        [(); 3].map(|()| same.next().expect("blocks outnumber places"))
    }

    /// Process 1 puts a block to rest; after so many of its steps process 2 comes and does the same
    /// with a block that has the same place.
    #[test]
    fn of_two_blocks_with_one_place_only_one_is_put_to_rest_whoever_comes_between() {
        for run in 0..6 {
            let (steps, used_before) = (run / 2, run % 2 == 1);
            let (namespaces, procs) = shared();
            let [first, second, before] = at_one_place(&namespaces);
            if used_before {
                assert!(namespaces.put_to_rest(&procs, before));
                namespaces.count_down(&procs, before);
            }
            let other = std::rc::Rc::new(std::cell::Cell::new(None));
            let interruption = {
                let (namespaces, procs) = (namespaces.clone(), procs.clone());
                let other = std::rc::Rc::clone(&other);
                move || other.set(Some(namespaces.put_to_rest(&procs, second)))
            };
            INTERRUPTION.set(Some((steps, Box::new(interruption))));
            let mine = namespaces.put_to_rest(&procs, first);
            let other = other.get().expect("process 2 came between");
            assert!(mine != other, "after {steps} steps: {mine} and {other}");
            let rests = if mine { first } else { second };
            let slot = SlotNo::new(4);
            procs.enter_epoch(slot);
            assert!(namespaces.rests(&procs, rests));
            namespaces.count_down(&procs, rests);
            assert!(namespaces.rests(&procs, rests), "a descent is under way");
            procs.leave_epoch(slot);
            assert!(!namespaces.rests(&procs, rests));
        }
    }

    /// A search finds that a block has rested long enough; before it says so another block of the
    /// same place is put to rest.
    #[test]
    fn a_search_does_not_wake_up_who_has_come_in_between() {
        let (namespaces, procs) = shared();
        let [first, second, _] = at_one_place(&namespaces);
        assert!(namespaces.put_to_rest(&procs, first));
        namespaces.count_down(&procs, first);
        let interruption = {
            let (namespaces, procs) = (namespaces.clone(), procs.clone());
            move || assert!(namespaces.put_to_rest(&procs, second))
        };
        INTERRUPTION.set(Some((0, Box::new(interruption))));
        assert!(!namespaces.rests(&procs, first));
        assert!(namespaces.rests(&procs, second));
        namespaces.wake_up(second);
        assert!(!namespaces.rests(&procs, second));
        assert!(namespaces.put_to_rest(&procs, first), "the place is free");
        assert!(namespaces.rests(&procs, first));
    }

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let (namespaces, procs) = shared();
        let slot = SlotNo::new(5);
        let first = namespaces
            .take_pages(&procs, 60, 100)
            .expect("within the budget");
        procs.set_parked(slot, true);
        assert!(namespaces.take_pages(&procs, 60, 100).is_none());
        assert!(!procs.event(slot).take());
        drop(first);
        assert!(procs.event(slot).take(), "who was refused is woken");
        assert!(namespaces.take_pages(&procs, 60, 100).is_some());
    }
}
