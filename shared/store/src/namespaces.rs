//! What the trees share beside pages: the table of namespaces, the blocks that rest until the
//! last descent that may still look at them has ended, and the budget of pages that large
//! commits draw on.
//!
//! # Namespaces
//!
//! The names of all namespaces change under one latch, [`Namespaces::hold_names`], which comes
//! before the entries. An entry is described in `namespaces/entry.rs`.
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

mod entry;

pub use entry::{Found, Lies, NamespaceChange, NamespaceEntry, PAST, Place};

use crate::procs::Procs;
use entry::Row;
use rd_base::{FileNo, Lsn, PageTag};
pub use rd_format::Access;
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering};
use rd_sys::latch::{RwLatch, WriteGuard};
use rd_sys::{Area, One, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

/// Lets a test step in between two steps of a protocol.
#[cfg(not(test))]
#[inline]
fn between_steps() {}

#[cfg(test)]
use tests::between_steps;

/// Databases that `SELECT` can name, at most; their indices are their numbers.
pub const DATABASES_MAX: usize = rd_base::limits::DATABASES_MAX;
/// Namespaces that exist at a time, the databases of `SELECT` included. Those that were created by
/// name have the indices from [`DATABASES_MAX`] on.
pub const NAMESPACES_MAX: usize = DATABASES_MAX + rd_base::limits::NAMED_NAMESPACES_MAX;
/// Longest name of a namespace, in bytes.
pub const NAMESPACE_NAME_BYTES_MAX: usize = 64;
/// Places for resting blocks.
const RESTING_MAX: usize = 4096;

const _: () = assert!(RESTING_MAX.is_power_of_two());
const _: () = assert!(NAMESPACES_MAX < u16::MAX as usize);

/// A namespace, by its place in the shared table. That of one that was dropped never means another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceId {
    index: u16,
    generation: u32,
}

impl NamespaceId {
    /// The database that clients begin in.
    pub const DB0: NamespaceId = NamespaceId {
        index: 0,
        generation: 0,
    };

    /// The first namespace at `index` of the table; `None` if the table is not that long.
    pub fn new(index: usize) -> Option<NamespaceId> {
        (index < NAMESPACES_MAX).then_some(NamespaceId {
            index: index as u16,
            generation: 0,
        })
    }

    /// The database that `SELECT number` names; `None` if there are not so many.
    pub fn database(number: usize) -> Option<NamespaceId> {
        Self::new(number).filter(|_| number < DATABASES_MAX)
    }

    /// The number by which `SELECT` names it, if it can.
    pub fn database_number(self) -> Option<usize> {
        Some(self.index()).filter(|index| *index < DATABASES_MAX)
    }

    /// A number that never means another namespace.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 16 | u64::from(self.index)
    }

    /// The inverse of [`NamespaceId::number`]; `None` if no namespace has that number.
    pub fn from_number(number: u64) -> Option<NamespaceId> {
        let index = number as u16;
        let generation = u32::try_from(number >> 16).ok()?;
        let first = NamespaceId::new(usize::from(index))?;
        Some(NamespaceId {
            generation,
            ..first
        })
    }

    /// The index.
    pub fn index(self) -> usize {
        usize::from(self.index)
    }
}

/// A namespace that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its id.
    pub id: NamespaceId,
    /// Its name in the catalog.
    pub name: Vec<u8>,
    /// Where it lies.
    pub place: Place,
}

/// The indices of `ids`, ascending, each once.
fn indices_of(ids: &[NamespaceId]) -> Vec<usize> {
    let mut indices: Vec<usize> = ids.iter().map(|id| id.index()).collect();
    indices.sort_unstable();
    indices.dedup();
    indices
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
struct NamesWords {
    /// guard: itself; held while a namespace gets a name, or another, or goes.
    latch: RwLatch,
    reserved: AtomicU32,
    /// End LSN of the last change of names. atomic: Release under `latch`.
    changed: AtomicU64,
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
    entries: Region<Row>,
    names: Region<NamesWords>,
    resting: Region<Resting>,
    totals: Region<Totals>,
}

impl NamespacesRegions {
    /// Reserves room for all of it.
    pub fn plan(plan: &mut Plan) -> NamespacesRegions {
        NamespacesRegions {
            entries: plan.reserve(NAMESPACES_MAX),
            names: plan.reserve(1),
            resting: plan.reserve(RESTING_MAX),
            totals: plan.reserve(1),
        }
    }
}

/// The table of namespaces, the resting blocks, and the budget of pages.
#[derive(Clone)]
pub struct Namespaces {
    entries: Area<Row>,
    names: One<NamesWords>,
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

/// Entries that somebody has alone as long as operations of his run, which may take long: others do not
/// wait for their latches meanwhile, but park, and are woken when it is dropped.
///
/// 1. He says so in each entry, and then takes its latch, for which he waits for commits that are under
///    way and for changes of the entry.
/// 2. Who comes meanwhile sees it, and parks.
/// 3. He lets the latches go, takes it back, and wakes whoever is parked. Who says that he is parked
///    looks once more afterwards (`Procs::set_parked`), so none of them sleeps on.
#[must_use = "the entries are let go of at once"]
pub struct Alone<'a> {
    procs: &'a Procs,
    rows: Vec<&'a Row>,
    held: Vec<WriteGuard<'a>>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.held.clear();
        for row in &self.rows {
            row.end_operations();
        }
        if !self.rows.is_empty() {
            self.procs.wake_parked();
        }
    }
}

/// A change of a namespace's access, which takes several steps: no other one is begun before this is
/// dropped.
#[must_use = "others may change the access when it is dropped"]
pub struct AccessChange {
    namespaces: Namespaces,
    index: usize,
}

impl Drop for AccessChange {
    fn drop(&mut self) {
        self.namespaces.entries[self.index].end_changing();
    }
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
            names: segment.one(regions.names),
            resting: segment.area(regions.resting),
            totals: segment.one(regions.totals),
        }
    }

    /// The entry of `namespace`.
    #[inline]
    pub fn entry(&self, namespace: NamespaceId) -> NamespaceEntry<'_> {
        NamespaceEntry {
            row: &self.entries[namespace.index()],
            generation: namespace.generation,
        }
    }

    fn indexed(&self) -> impl Iterator<Item = (u16, &Row)> {
        self.entries
            .iter()
            .enumerate()
            .map(|(index, row)| (index as u16, row))
    }

    /// Every namespace that has a file, with it.
    pub fn all(&self) -> impl Iterator<Item = (NamespaceId, FileNo)> + '_ {
        let list = self
            .indexed()
            .filter_map(|(index, row)| row.describe(index));
        list.filter_map(|(id, _, place)| Some((id, place.lies.file()?)))
    }

    /// Every namespace that exists, in the order of their indices.
    pub fn list(&self) -> Vec<Named> {
        let named = |(id, name, place)| Named { id, name, place };
        let rows = self.indexed();
        rows.filter_map(|(index, row)| row.describe(index).map(named))
            .collect()
    }

    /// The namespace with this name in the catalog.
    pub fn find(&self, name: &[u8]) -> Option<NamespaceId> {
        let rows = self.indexed();
        let mut there = rows.filter_map(|(index, row)| row.describe(index));
        there.find(|(_, other, _)| other == name).map(|(id, ..)| id)
    }

    /// The namespace that lies in `file`.
    pub fn lying_in(&self, file: FileNo) -> Option<NamespaceId> {
        let is_it = |(_, lies): &(_, FileNo)| *lies == file;
        self.all().find(is_it).map(|(id, _)| id)
    }

    /// What id the namespace at `index` has now, or had last.
    pub fn id_at(&self, index: usize) -> NamespaceId {
        self.entries[index].id(index as u16)
    }

    /// Has the entries of `ids` alone; the same one may be named twice.
    pub fn hold_all(&self, ids: &[NamespaceId]) -> Vec<WriteGuard<'_>> {
        let hold = |index| self.entry(self.id_at(index)).hold();
        indices_of(ids).into_iter().map(hold).collect()
    }

    /// [`Namespaces::hold_all`] for as long as operations run; none while others have one of them so.
    pub fn hold_for_operations<'a>(
        &'a self,
        procs: &'a Procs,
        ids: &[NamespaceId],
    ) -> Option<Alone<'a>> {
        let rows = indices_of(ids)
            .into_iter()
            .map(|index| &self.entries[index]);
        let rows: Vec<&Row> = rows.collect();
        let mut alone = Alone {
            procs,
            rows: Vec::with_capacity(rows.len()),
            held: Vec::new(),
        };
        // First a look at all: who takes some and gives them back wakes himself.
        if rows.iter().any(|row| row.has_operations()) {
            return None;
        }
        for row in rows {
            if !row.begin_operations() {
                return None;
            }
            alone.rows.push(row);
        }
        alone.held = self.hold_all(ids);
        Some(alone)
    }

    /// Keeps others from changing the access of `namespace` until the change is dropped; none while
    /// somebody does.
    pub fn change_access(&self, namespace: NamespaceId) -> Option<AccessChange> {
        let row = &self.entries[namespace.index()];
        row.begin_changing().then(|| AccessChange {
            namespaces: self.clone(),
            index: namespace.index(),
        })
    }

    /// Keeps all names as they are, to change them.
    pub fn hold_names(&self) -> WriteGuard<'_> {
        self.names.latch.write()
    }

    /// Notes that names have changed by the record that ends at `end`; for who holds them.
    pub fn note_names_changed(&self, end: Lsn) {
        self.names.changed.store(end.get(), Ordering::Release);
    }

    /// End LSN of the last change of names: what shows them depends on it.
    pub fn names_changed(&self) -> Lsn {
        Lsn::new(self.names.changed.load(Ordering::Acquire))
    }

    /// Fills an entry from the catalog at start, before anybody else looks.
    pub fn load(
        &self,
        namespace: NamespaceId,
        name: &[u8],
        lies: Lies,
        since: Lsn,
        access: Access,
    ) {
        self.entries[namespace.index()].load(name, lies, since, access, true);
    }

    /// Enters a database that the catalog does not name yet, at start: it is empty.
    pub fn load_unnamed(&self, namespace: NamespaceId, name: &[u8]) {
        let access = Access::READ_WRITE;
        self.entries[namespace.index()].load(name, Lies::Empty, Lsn::ZERO, access, false);
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

    fn found(entry: &NamespaceEntry<'_>, at: u64) -> Option<Lies> {
        match entry.at(Lsn::new(at)) {
            Found::At(place) => Some(place.lies),
            Found::Nothing => None,
            other => panic!("{other:?} at {at}"),
        }
    }

    #[test]
    fn a_snapshot_finds_the_place_of_its_time() {
        let (namespaces, _) = shared();
        let file = |number| Lies::In(FileNo::new(number));
        let entry = namespaces.entry(NamespaceId::DB0);
        assert_eq!(entry.place(), None);
        namespaces.load(
            NamespaceId::DB0,
            b"0",
            file(2),
            Lsn::new(10),
            Access::READ_WRITE,
        );
        assert_eq!((entry.name(), entry.in_catalog()), (b"0".to_vec(), true));
        assert_eq!(namespaces.find(b"0"), Some(NamespaceId::DB0));
        let held = entry.hold();
        entry.begin_change().replace(Lies::Empty, Lsn::new(100));
        entry.set_next_file(FileNo::new(7));
        assert_eq!(entry.next_file(), Some(FileNo::new(7)));
        entry
            .begin_change()
            .give_file(FileNo::new(7), Lsn::new(110));
        assert_eq!(entry.next_file(), None);
        drop(held);
        for (at, lies) in [
            (9, None),
            (10, Some(file(2))),
            (99, Some(file(2))),
            (100, Some(Lies::Empty)),
            (110, Some(file(7))),
        ] {
            assert_eq!(found(&entry, at), lies, "at {at}");
        }
        let place = entry.place().expect("it exists");
        assert_eq!(place.since, Lsn::new(110));
        assert_eq!(place.content_since, Lsn::new(100), "a file is no content");
        let all: Vec<_> = namespaces.all().collect();
        assert_eq!(all, [(NamespaceId::DB0, FileNo::new(7))]);
        assert_eq!(namespaces.lying_in(FileNo::new(7)), Some(NamespaceId::DB0));
    }

    #[test]
    fn what_is_durable_is_found_however_often_the_place_changes() {
        let (namespaces, _) = shared();
        namespaces.load(
            NamespaceId::DB0,
            b"0",
            Lies::Empty,
            Lsn::new(10),
            Access::READ_WRITE,
        );
        let entry = namespaces.entry(NamespaceId::DB0);
        let durable = Lsn::new(15);
        let mut changes = 0;
        while entry.can_change(durable).is_ok() {
            changes += 1;
            let since = Lsn::new(20 + changes);
            entry.begin_change().replace(Lies::Empty, since);
            assert!(matches!(entry.at(durable), Found::At(_)));
        }
        assert_eq!(changes, PAST as u64);
        let wait = entry.can_change(durable).expect_err("the last one");
        assert!(entry.can_change(wait).is_ok());
        entry.begin_change().replace(Lies::Empty, Lsn::new(50));
        assert_eq!(entry.at(durable), Found::Replaced);
        assert!(matches!(entry.at(wait), Found::At(_)));
    }

    #[test]
    fn an_index_that_is_used_again_is_another_namespace() {
        let (namespaces, _) = shared();
        let id = namespaces.id_at(DATABASES_MAX);
        let entry = namespaces.entry(id);
        entry.begin_change().create(b"first", Lsn::new(10));
        assert_eq!(entry.place(), None, "the index has a namespace now");
        let first = namespaces.find(b"first").expect("created");
        let entry = namespaces.entry(first);
        assert_eq!(found(&entry, 9), None);
        assert_eq!(found(&entry, 10), Some(Lies::Empty));
        entry.begin_change().rename(b"a longer name of it");
        assert_eq!(namespaces.find(b"first"), None);
        assert_eq!(namespaces.find(b"a longer name of it"), Some(first));
        entry.begin_change().replace(Lies::Absent, Lsn::new(20));
        assert_eq!(entry.place(), None);
        assert_eq!(found(&entry, 19), Some(Lies::Empty), "before the drop");
        assert_eq!(found(&entry, 20), Some(Lies::Absent));
        assert_eq!(namespaces.list(), []);
        entry.begin_change().create(b"second", Lsn::new(30));
        assert_eq!(entry.at(Lsn::new(40)), Found::Gone);
        assert_eq!(entry.lies(), Lies::Absent);
        let second = namespaces.find(b"second").expect("created");
        assert!(second != first && second.index() == first.index());
        assert_eq!(namespaces.entry(second).name(), b"second");
    }

    #[test]
    fn a_reader_waits_while_the_place_changes() {
        let (namespaces, _) = shared();
        namespaces.load(
            NamespaceId::DB0,
            b"0",
            Lies::Empty,
            Lsn::ZERO,
            Access::READ_WRITE,
        );
        let entry = namespaces.entry(NamespaceId::DB0);
        std::thread::scope(|scope| {
            let held = entry.hold();
            let change = entry.begin_change();
            let reader = scope.spawn(|| entry.place());
            change.replace(Lies::In(FileNo::new(3)), Lsn::new(5));
            drop(change);
            drop(held);
            let place = reader.join().expect("it ends").expect("it exists");
            assert_eq!(place.lies.file(), Some(FileNo::new(3)));
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
