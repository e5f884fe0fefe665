//! One namespace in shared memory: in which relation file it lies and lay before, and its name.
//!
//! Commits hold the entry shared from before their first leaf until their LSN is reserved; whoever
//! changes it holds it alone. Who needs several holds them in the order of their indices. Readers
//! hold nothing: they look where the namespace lay at their snapshot, read, and look again once the
//! snapshot is fixed.
//!
//! The change of an entry, and a reader's look:
//! 1. The changer holds the entry alone and makes its version odd, *before* it reserves the LSN of
//!    the change.
//! 2. It reserves, then stores what has changed, and makes the version even.
//! 3. A reader loads version, words, version. If the version was odd he waits until it is even, and
//!    begins anew. So whoever fixed a snapshot at or above the change's LSN before he looks finds
//!    the change.
//!
//! A change under way waits for the log at most. So a reader who waits for its end, and not for the
//! latch, waits for none of those who hold an entry and wait for others: he may hold entries
//! himself. Under the latch of a page he does not even do that ([`NamespaceEntry::try_at`]).
//!
//! Invariants:
//! - Nobody waits for an entry while he holds the latch of a page: those who hold entries wait for
//!   pages.
//! - An entry tells of its last [`PAST`] changes where the namespace lay; older snapshots are told
//!   that it is not known any more. One that is durable always is
//!   ([`NamespaceEntry::can_change`]).
//! - An index whose namespace was dropped is used again under another generation, so an id never
//!   means another namespace than the one it was given for.

use super::{NAMESPACE_NAME_BYTES_MAX, NamespaceId};
use crate::files::access_of;
use rd_base::{FileNo, Lsn};
use rd_format::Access;
use rd_sys::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use rd_sys::frame;
use rd_sys::futex::Condition;
use rd_sys::latch::{ReadGuard, RwLatch, WriteGuard};
use zerocopy::{FromBytes, KnownLayout};

/// So many earlier places of a namespace are known.
pub const PAST: usize = 8;

const NAME_WORDS: usize = NAMESPACE_NAME_BYTES_MAX / 8;
const _: () = assert!(NAMESPACE_NAME_BYTES_MAX.is_multiple_of(8));

/// In place of a file: there is no such namespace.
const ABSENT: u32 = 0;
/// In place of a file: the namespace has none.
const EMPTY: u32 = u32::MAX;

/// Where a namespace lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    /// Nowhere: there is no such namespace.
    Absent,
    /// It has no key, and no file.
    Empty,
    /// In this relation file.
    In(FileNo),
}

impl Lies {
    fn from_word(word: u32) -> Lies {
        match word {
            ABSENT => Lies::Absent,
            EMPTY => Lies::Empty,
            file => Lies::In(FileNo::new(file)),
        }
    }

    fn word(self) -> u32 {
        match self {
            Lies::Absent => ABSENT,
            Lies::Empty => EMPTY,
            Lies::In(file) => file.get(),
        }
    }

    /// The file, if there is one.
    pub fn file(self) -> Option<FileNo> {
        match self {
            Lies::In(file) => Some(file),
            Lies::Absent | Lies::Empty => None,
        }
    }
}

/// Where a namespace lay from one change to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub lies: Lies,
    /// End LSN of the record that put it there.
    pub since: Lsn,
    /// End LSN of the record that gave it other content than it had before, as a whole. To give an
    /// empty namespace a file does not.
    pub content_since: Lsn,
}

/// Where a snapshot finds a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// There.
    At(Place),
    /// Nowhere: the namespace is younger.
    Nothing,
    /// It has changed its place so often since that it is not known.
    Replaced,
    /// The id is of a namespace that was dropped, and its index used again.
    Gone,
}

/// An earlier place.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
pub(super) struct Past {
    since: AtomicU64,
    content_since: AtomicU64,
    lies: AtomicU32,
    reserved: AtomicU32,
}

/// One namespace, on cache lines of its own.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
pub(super) struct Row {
    /// guard: itself.
    latch: RwLatch,
    /// Not 0 while somebody has the entry alone, or is about to, as long as operations of his run
    /// ([`super::Alone`]). atomic: SeqCst; changed by whom it belongs to.
    operations: AtomicU32,
    /// Odd while the words below change. atomic: SeqCst; written under `latch`, exclusively.
    version: AtomicU32,
    /// How often the index was given to another namespace. guard: `latch`, or `version`.
    generation: AtomicU32,
    /// [`Lies`]. guard: as `generation`.
    lies: AtomicU32,
    /// See [`Place`]. guard: as `generation`.
    since: AtomicU64,
    /// See [`Place`]. guard: as `generation`.
    content_since: AtomicU64,
    /// Changes of place of this generation. guard: as `generation`.
    changes: AtomicU32,
    /// A file that was asked for, to be its next; 0 if none. guard: `latch`, exclusively.
    next: AtomicU32,
    /// 1 if the catalog has an entry of it. guard: `latch`.
    in_catalog: AtomicU32,
    /// Bytes in `name`. guard: as `generation`.
    name_bytes: AtomicU32,
    /// [`Access`]. guard: as `generation`.
    access: AtomicU32,
    /// Not 0 while somebody changes the access, which takes several steps. atomic: AcqRel.
    changing: AtomicU32,
    /// For the end of a change.
    changed: Condition,
    /// Its name in the catalog. guard: as `generation`.
    name: [AtomicU64; NAME_WORDS],
    /// Where it lay before, the newest first. guard: as `generation`.
    past: [Past; PAST],
}

impl Row {
    /// Runs `look` on words that belong together; none if they change meanwhile.
    #[inline]
    fn try_read<R>(&self, look: impl Fn(&Row) -> R) -> Option<R> {
        let before = self.version.load(Ordering::SeqCst);
        let seen = look(self);
        // The loads of `look` are acquires, so this one comes after them.
        let is_one = before.is_multiple_of(2) && self.version.load(Ordering::SeqCst) == before;
        is_one.then_some(seen)
    }

    /// Runs `look` on words that belong together.
    #[inline]
    fn read<R>(&self, look: impl Fn(&Row) -> R) -> R {
        loop {
            if let Some(seen) = self.try_read(&look) {
                return seen;
            }
            self.wait_for_change();
        }
    }

    /// Waits for the end of the change under way, if there is one.
    #[cold]
    fn wait_for_change(&self) {
        frame::assert_none_held("a namespace's entry");
        loop {
            let ticket = self.changed.ticket();
            if self.version.load(Ordering::SeqCst).is_multiple_of(2) {
                return;
            }
            self.changed.wait(ticket, None);
        }
    }

    #[inline]
    fn place(&self) -> Place {
        Place {
            lies: Lies::from_word(self.lies.load(Ordering::Acquire)),
            since: Lsn::new(self.since.load(Ordering::Acquire)),
            content_since: Lsn::new(self.content_since.load(Ordering::Acquire)),
        }
    }

    fn past(&self, at: Lsn) -> Found {
        let changes = self.changes.load(Ordering::Acquire) as usize;
        for past in &self.past[..changes.min(PAST)] {
            let since = Lsn::new(past.since.load(Ordering::Acquire));
            if since <= at {
                return Found::At(Place {
                    lies: Lies::from_word(past.lies.load(Ordering::Acquire)),
                    since,
                    content_since: Lsn::new(past.content_since.load(Ordering::Acquire)),
                });
            }
        }
        if changes > PAST {
            Found::Replaced
        } else {
            Found::Nothing
        }
    }

    fn name(&self) -> Vec<u8> {
        let words = self
            .name
            .iter()
            .map(|word| word.load(Ordering::Acquire).to_le_bytes());
        let mut name: Vec<u8> = words.flatten().collect();
        name.truncate(self.name_bytes.load(Ordering::Acquire) as usize);
        name
    }

    fn set_name(&self, name: &[u8]) {
        assert!(name.len() <= NAMESPACE_NAME_BYTES_MAX, "names are checked");
        for (index, word) in self.name.iter().enumerate() {
            let from = (index * 8).min(name.len());
            let part = &name[from..(from + 8).min(name.len())];
            let mut padded = [0; 8];
            padded[..part.len()].copy_from_slice(part);
            word.store(u64::from_le_bytes(padded), Ordering::Release);
        }
        self.name_bytes.store(name.len() as u32, Ordering::Release);
    }

    fn set_place(&self, place: Place) {
        self.lies.store(place.lies.word(), Ordering::Release);
        self.since.store(place.since.get(), Ordering::Release);
        self.content_since
            .store(place.content_since.get(), Ordering::Release);
    }

    fn push_place(&self, place: Place) {
        for index in (1..PAST).rev() {
            let (from, to) = (&self.past[index - 1], &self.past[index]);
            to.lies
                .store(from.lies.load(Ordering::Relaxed), Ordering::Release);
            for (from, to) in [
                (&from.since, &to.since),
                (&from.content_since, &to.content_since),
            ] {
                to.store(from.load(Ordering::Relaxed), Ordering::Release);
            }
        }
        let (now, past) = (self.place(), &self.past[0]);
        past.lies.store(now.lies.word(), Ordering::Release);
        past.since.store(now.since.get(), Ordering::Release);
        past.content_since
            .store(now.content_since.get(), Ordering::Release);
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.set_place(place);
    }

    /// What [`NamespaceId`] the index has now.
    pub(super) fn id(&self, index: u16) -> NamespaceId {
        let generation = self.generation.load(Ordering::Acquire);
        NamespaceId { index, generation }
    }

    /// Its id, name and place, if there is such a namespace.
    pub(super) fn describe(&self, index: u16) -> Option<(NamespaceId, Vec<u8>, Place)> {
        self.read(|row| {
            let place = row.place();
            (place.lies != Lies::Absent).then(|| (row.id(index), row.name(), place))
        })
    }

    /// Fills the entry at start, before anybody else looks.
    pub(super) fn load(
        &self,
        name: &[u8],
        lies: Lies,
        since: Lsn,
        access: Access,
        in_catalog: bool,
    ) {
        self.set_name(name);
        self.access.store(access.bits(), Ordering::Release);
        self.set_place(Place {
            lies,
            since,
            content_since: since,
        });
        self.changes.store(0, Ordering::Release);
        self.in_catalog
            .store(u32::from(in_catalog), Ordering::Release);
    }

    /// Says that operations are to have the entry alone; false if others do.
    pub(super) fn begin_operations(&self) -> bool {
        self.operations.swap(1, Ordering::SeqCst) == 0
    }

    /// They are over, and the entry was let go of.
    pub(super) fn end_operations(&self) {
        self.operations.store(0, Ordering::SeqCst);
    }

    pub(super) fn has_operations(&self) -> bool {
        self.operations.load(Ordering::SeqCst) != 0
    }

    /// Begins a change of the access that takes several steps; false if one is under way.
    pub(super) fn begin_changing(&self) -> bool {
        self.changing.swap(1, Ordering::AcqRel) == 0
    }

    /// Ends it.
    pub(super) fn end_changing(&self) {
        self.changing.store(0, Ordering::Release);
    }
}

/// The entry of a namespace.
#[derive(Clone, Copy)]
pub struct NamespaceEntry<'a> {
    pub(super) row: &'a Row,
    pub(super) generation: u32,
}

impl<'a> NamespaceEntry<'a> {
    /// Shares the entry, as a commit does.
    #[inline]
    pub fn share(&self) -> ReadGuard<'a> {
        frame::assert_none_held("a namespace's entry");
        self.row.latch.read()
    }

    /// Whether operations have the entry alone, or are about to: to share or to hold it takes long.
    #[inline]
    pub fn has_operations(&self) -> bool {
        self.row.has_operations()
    }

    /// Has the entry alone, to change it.
    pub fn hold(&self) -> WriteGuard<'a> {
        frame::assert_none_held("a namespace's entry");
        self.row.latch.write()
    }

    #[inline]
    fn is_meant(&self) -> bool {
        self.row.generation.load(Ordering::Acquire) == self.generation
    }

    /// Where the namespace lies, for those who hold the entry.
    #[inline]
    pub fn lies(&self) -> Lies {
        match self.is_meant() {
            true => Lies::from_word(self.row.lies.load(Ordering::Acquire)),
            false => Lies::Absent,
        }
    }

    /// The file, for those who hold the entry; `None` if there is none.
    #[inline]
    pub fn file(&self) -> Option<FileNo> {
        self.lies().file()
    }

    /// Where the namespace lies, for those who hold nothing; `None` if there is none.
    pub fn place(&self) -> Option<Place> {
        let place = |row: &Row| self.is_meant().then(|| row.place());
        let there = |place: &Place| place.lies != Lies::Absent;
        self.row.read(place).filter(there)
    }

    /// Where a snapshot at `lsn` finds the namespace, for those who hold nothing.
    #[inline]
    pub fn at(&self, lsn: Lsn) -> Found {
        frame::assert_none_held("a namespace's entry");
        self.row.read(|row| self.find(row, lsn))
    }

    /// [`NamespaceEntry::at`] for those who hold latches of pages, and so may not wait; none if it
    /// changes at this moment.
    #[inline]
    pub fn try_at(&self, lsn: Lsn) -> Option<Found> {
        self.row.try_read(|row| self.find(row, lsn))
    }

    #[inline]
    fn find(&self, row: &Row, lsn: Lsn) -> Found {
        if !self.is_meant() {
            return Found::Gone;
        }
        let place = row.place();
        if place.since <= lsn {
            Found::At(place)
        } else {
            row.past(lsn)
        }
    }

    /// What may be done with the namespace.
    #[inline]
    pub fn access(&self) -> Access {
        access_of(self.row.access.load(Ordering::Acquire))
    }

    /// The namespace's name in the catalog.
    pub fn name(&self) -> Vec<u8> {
        self.row.read(Row::name)
    }

    /// Whether the catalog has an entry of it; for those who hold it.
    pub fn in_catalog(&self) -> bool {
        self.row.in_catalog.load(Ordering::Acquire) != 0
    }

    /// Notes whether the catalog has an entry of it; for those who hold it alone.
    pub fn set_in_catalog(&self, is_there: bool) {
        self.row
            .in_catalog
            .store(u32::from(is_there), Ordering::Release);
    }

    /// The file that was asked for, to be the next; for those who hold it alone.
    pub fn next_file(&self) -> Option<FileNo> {
        match self.row.next.load(Ordering::Relaxed) {
            0 => None,
            file => Some(FileNo::new(file)),
        }
    }

    /// Notes that `file` was asked for, to be the next; for those who hold it alone.
    pub fn set_next_file(&self, file: FileNo) {
        self.row.next.store(file.get(), Ordering::Relaxed);
    }

    /// Whether the entry may change its place now: a snapshot at `durable` must find its own
    /// afterwards. Else the LSN that must be durable before.
    ///
    /// # Errors
    /// That LSN.
    pub fn can_change(&self, durable: Lsn) -> Result<(), Lsn> {
        let changes = self.row.changes.load(Ordering::Acquire) as usize;
        if changes < PAST {
            return Ok(());
        }
        let oldest_kept = &self.row.past[PAST - 2];
        let since = Lsn::new(oldest_kept.since.load(Ordering::Acquire));
        if since <= durable { Ok(()) } else { Err(since) }
    }

    /// Begins a change: from now on readers wait. To be called by who holds the entry alone, before
    /// the LSN of the change is reserved.
    pub fn begin_change(&self) -> NamespaceChange<'a> {
        self.row.version.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        NamespaceChange { row: self.row }
    }
}

/// An entry that is being changed; readers wait until it is dropped.
#[must_use = "readers of the namespace wait until it is dropped"]
pub struct NamespaceChange<'a> {
    row: &'a Row,
}

impl NamespaceChange<'_> {
    /// The namespace, which was empty, has a file since `since`.
    pub fn give_file(&self, file: FileNo, since: Lsn) {
        self.row.push_place(Place {
            lies: Lies::In(file),
            since,
            content_since: self.row.place().content_since,
        });
        self.row.next.store(0, Ordering::Relaxed);
    }

    /// The namespace has other content since `since`, or is gone.
    pub fn replace(&self, lies: Lies, since: Lsn) {
        self.row.push_place(Place {
            lies,
            since,
            content_since: since,
        });
    }

    /// The index is that of a new namespace, which is empty.
    pub fn create(&self, name: &[u8], since: Lsn) {
        self.row.generation.fetch_add(1, Ordering::AcqRel);
        self.row
            .load(name, Lies::Empty, since, Access::READ_WRITE, true);
    }

    /// The namespace, and its file, have another access.
    pub fn set_access(&self, access: Access) {
        self.row.access.store(access.bits(), Ordering::Release);
    }

    /// The namespace has another name.
    pub fn rename(&self, name: &[u8]) {
        self.row.set_name(name);
    }
}

impl Drop for NamespaceChange<'_> {
    fn drop(&mut self) {
        fence(Ordering::SeqCst);
        self.row.version.fetch_add(1, Ordering::SeqCst);
        self.row.changed.wake_all();
    }
}
