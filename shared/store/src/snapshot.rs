//! Snapshots: the numbers at which somebody may still read, and so what pruning must keep.
//!
//! A snapshot is one LSN; it sees, of each key, the newest version stamped at or before it. The
//! numbers that may be read at are the published snapshots, the durable LSN (autocommit reads load
//! it under the leaf's latch) and the target that a flush has announced (the next durable LSN).
//! Together they are the *points*. A version is needed if a point lies between its stamp and that
//! of the next newer version.
//!
//! # Publishing and pruning must not miss each other
//!
//! The reader, who wants the durable LSN as his snapshot:
//! 1. loads the durable LSN `d` and stores it in a free entry of his slot;
//! 2. fences, and loads the durable LSN again; if it is no longer `d`, begins anew.
//!
//! The reader, who wants the insert position:
//! 1. stores "choosing, at least `low`" with the insert position `low` read beforehand; fences;
//! 2. reads the insert position and stores it.
//!
//! The flusher announces its target (see [`Wal::flush_target`]), and later makes it the durable
//! LSN.
//!
//! The pruner:
//! 1. fences, and loads the flush target, 2. then the durable LSN, 3. then the entries.
//!
//! He may latch the leaf before or afterwards, for a version that nobody needs is never needed
//! again, and what is added to the leaf after he has looked is superseded, if at all, by stamps
//! above what he then knew to be complete: all that is needed from there on counts as needed.
//!
//! Why nothing is missed: an insert position read after the pruner looked is not below what was
//! complete then; a target chosen after he looked is not below what he then knew to be complete, and all
//! from there on counts as needed; so does all from the lower bound of a chooser under way; a
//! durable LSN that rises after 2 was the announced target at 1, or was chosen later; and a reader
//! whose entry was not yet stored at 3 checks the durable LSN after storing it.
//!
//! `reorderings.rs` runs this in every order of memory, but for the sequential consistency of single loads
//! and stores, which it does not need: what two must not both miss has a fence on either side.

use crate::procs::SlotNo;
use crate::wal::{FlushTarget, Wal};
use rd_base::Lsn;
use rd_base::limits::{PROCESSES_MAX, SNAPSHOTS_PER_PROCESS};
use rd_sys::atomic::{AtomicU64, Number, Ordering};
use rd_sys::{Area, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

/// Set in an entry whose owner is choosing; the other bits are the least it may choose.
const CHOOSING: u64 = 1 << 63;

/// The numbers of the log that snapshots come from and pruning depends on.
pub(crate) trait LogNumbers {
    /// As [`Wal::flush_target`], like the next two.
    fn flush_target(&self) -> FlushTarget;
    fn durable_lsn(&self) -> Lsn;
    fn insert_lsn(&self) -> Lsn;
}

impl LogNumbers for Wal {
    fn flush_target(&self) -> FlushTarget {
        Wal::flush_target(self)
    }
    fn durable_lsn(&self) -> Lsn {
        Wal::durable_lsn(self)
    }
    fn insert_lsn(&self) -> Lsn {
        Wal::insert_lsn(self)
    }
}

/// The entries of one process.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
pub(crate) struct Entries<A = AtomicU64, const COUNT: usize = SNAPSHOTS_PER_PROCESS> {
    /// Entries at or beyond this index have never been used by this owner.
    /// atomic: raised by the owner (SeqCst) before an entry is stored, loaded SeqCst.
    pub(crate) used: A,
    /// 0: free; [`CHOOSING`] and a lower bound; or a snapshot.
    /// atomic: stored SeqCst by the owner, loaded SeqCst by pruners.
    pub(crate) lsns: [A; COUNT],
}

impl<A: Number, const COUNT: usize> Entries<A, COUNT> {
    /// A free entry, of which pruners know from now on.
    pub(crate) fn take(&self) -> Result<usize, TooManySnapshots> {
        let mut lsns = self.lsns.iter();
        let free = lsns.position(|lsn| lsn.load(Ordering::Relaxed) == 0);
        let index = free.ok_or(TooManySnapshots)?;
        self.used.fetch_max(index as u64 + 1, Ordering::SeqCst);
        Ok(index)
    }

    /// The steps of a reader who wants the durable LSN.
    pub(crate) fn publish_durable(&self, index: usize, log: &impl LogNumbers) -> Lsn {
        loop {
            let lsn = log.durable_lsn();
            self.lsns[index].store(lsn.get(), Ordering::SeqCst);
            A::full_fence();
            if log.durable_lsn() == lsn {
                return lsn;
            }
        }
    }

    /// The steps of a reader who wants the insert position.
    pub(crate) fn publish_insert(&self, index: usize, log: &impl LogNumbers) -> Lsn {
        let low = log.insert_lsn().get();
        self.lsns[index].store(CHOOSING | low, Ordering::SeqCst);
        A::full_fence();
        let lsn = log.insert_lsn();
        self.lsns[index].store(lsn.get(), Ordering::SeqCst);
        lsn
    }

    /// Gives the entry back: what was read at it was read before.
    pub(crate) fn withdraw(&self, index: usize) {
        self.lsns[index].store(0, Ordering::Release);
    }
}

/// Where the entries lie in the segment.
#[derive(Clone, Copy)]
pub struct SnapshotRegions {
    entries: Region<Entries>,
}

impl SnapshotRegions {
    /// Reserves room for the entries of all processes.
    pub fn plan(plan: &mut Plan) -> SnapshotRegions {
        SnapshotRegions {
            entries: plan.reserve(PROCESSES_MAX),
        }
    }
}

/// All published snapshots.
#[derive(Clone)]
pub struct Snapshots {
    entries: Area<Entries>,
}

/// All [`SNAPSHOTS_PER_PROCESS`] entries of this process are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManySnapshots;

/// A published snapshot; withdrawn when dropped. It owns what it needs, so that a session may keep
/// it from one turn of its backend's loop to another.
pub struct Snapshot {
    entries: Area<Entries>,
    slot: SlotNo,
    index: usize,
    lsn: Lsn,
}

impl Snapshot {
    /// The number that it is.
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.entries[self.slot.index()].withdraw(self.index);
    }
}

impl Snapshots {
    /// Opens the table.
    pub fn open(segment: &Segment, regions: &SnapshotRegions) -> Snapshots {
        Snapshots {
            entries: segment.area(regions.entries),
        }
    }

    /// How many the process in `slot` has published.
    pub fn count(&self, slot: SlotNo) -> usize {
        let mine = &self.entries[slot.index()];
        let used = mine.used.load(Ordering::Relaxed) as usize;
        let lsns = mine.lsns.iter().take(used);
        lsns.filter(|lsn| lsn.load(Ordering::Relaxed) != 0).count()
    }

    fn snapshot(&self, slot: SlotNo, index: usize, lsn: Lsn) -> Snapshot {
        Snapshot {
            entries: self.entries.clone(),
            slot,
            index,
            lsn,
        }
    }

    /// Publishes the durable LSN as a snapshot of the process in `slot`.
    ///
    /// # Errors
    /// When the process has none left.
    pub fn publish_durable(&self, wal: &Wal, slot: SlotNo) -> Result<Snapshot, TooManySnapshots> {
        let mine = &self.entries[slot.index()];
        let index = mine.take()?;
        let lsn = mine.publish_durable(index, wal);
        Ok(self.snapshot(slot, index, lsn))
    }

    /// Publishes the insert position as a snapshot of the process in `slot`.
    ///
    /// # Errors
    /// When the process has none left.
    pub fn publish_insert(&self, wal: &Wal, slot: SlotNo) -> Result<Snapshot, TooManySnapshots> {
        let mine = &self.entries[slot.index()];
        let index = mine.take()?;
        let lsn = mine.publish_insert(index, wal);
        Ok(self.snapshot(slot, index, lsn))
    }

    /// Collects all numbers that may be read at into `points`, as the pruner's steps say.
    pub fn collect(&self, wal: &Wal, points: &mut Points) {
        points.collect(wal, self.entries.iter());
    }

    /// Whether a snapshot that was met among the points is still published, or one at the same LSN
    /// in its place.
    pub fn is_published(&self, met: &Published) -> bool {
        let (process, index) = met.place;
        let entry = &self.entries[usize::from(process)].lsns[usize::from(index)];
        entry.load(Ordering::SeqCst) == met.lsn
    }
}

/// A published snapshot, as one of the points. In the order of their LSNs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Published {
    lsn: u64,
    /// Whose it is, and which of his entries.
    place: (u8, u8),
}

const _: () = assert!(PROCESSES_MAX <= 256 && SNAPSHOTS_PER_PROCESS <= 256);

/// Why somebody may read a version, and so what to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The next newer version is not durable: until this LSN is.
    Log(Lsn),
    /// A snapshot sees it: until that is withdrawn.
    Snapshot(Published),
}

/// The numbers that may be read at, as they were at one moment.
#[derive(Clone, Debug)]
pub struct Points {
    lsns: Vec<u64>,
    /// So many of them, the first, are not snapshots but of the log.
    of_log: usize,
    /// Where the others were met, in their order.
    places: Vec<(u8, u8)>,
    /// Somebody is choosing a number at or above this one.
    open_from: u64,
}

impl Default for Points {
    fn default() -> Self {
        Points {
            lsns: Vec::new(),
            of_log: 0,
            places: Vec::new(),
            open_from: u64::MAX,
        }
    }
}

impl Points {
    /// The pruner's steps.
    pub(crate) fn collect<'e, A: Number + 'e, const COUNT: usize>(
        &mut self,
        log: &impl LogNumbers,
        entries: impl Iterator<Item = &'e Entries<A, COUNT>>,
    ) {
        self.lsns.clear();
        A::full_fence();
        let target = log.flush_target();
        self.open_from = target.later_from.get();
        self.lsns.extend(target.announced.map(Lsn::get));
        self.lsns.push(log.durable_lsn().get());
        self.of_log = self.lsns.len();
        self.places.clear();
        A::full_fence();
        for (process, entries) in entries.enumerate() {
            let used = entries.used.load(Ordering::SeqCst) as usize;
            for (index, entry) in entries.lsns.iter().take(used).enumerate() {
                match entry.load(Ordering::SeqCst) {
                    0 => {}
                    word if word & CHOOSING != 0 => {
                        self.open_from = self.open_from.min(word & !CHOOSING);
                    }
                    lsn => {
                        self.lsns.push(lsn);
                        self.places.push((process as u8, index as u8));
                    }
                }
            }
        }
    }

    /// Whether somebody may read the version stamped `stamp`, whose next newer version is stamped
    /// `newer`.
    pub fn needs(&self, stamp: Lsn, newer: Lsn) -> bool {
        debug_assert!(stamp < newer);
        self.open_from < newer.get()
            || self
                .lsns
                .iter()
                .any(|&point| stamp.get() <= point && point < newer.get())
    }

    /// Whether a published snapshot sees the version stamped `stamp`, whose next newer version is
    /// stamped `newer`; what else may need it passes with the log.
    pub fn in_snapshot(&self, stamp: Lsn, newer: Lsn) -> bool {
        let sees = |point: &u64| stamp.get() <= *point && *point < newer.get();
        self.lsns[self.of_log..].iter().any(sees)
    }

    /// Why somebody may read the version stamped `stamp`, whose next newer version is stamped
    /// `newer`; `None` if nobody may. Of several snapshots the youngest is told; all of them must go.
    pub fn obstacle(&self, stamp: Lsn, newer: Lsn) -> Option<Obstacle> {
        debug_assert!(stamp < newer);
        let sees = |point: &u64| stamp.get() <= *point && *point < newer.get();
        if self.open_from < newer.get() || self.lsns[..self.of_log].iter().any(sees) {
            return Some(Obstacle::Log(newer));
        }
        let snapshots = self.lsns[self.of_log..].iter().zip(&self.places);
        let seeing = snapshots.filter(|(lsn, _)| sees(lsn));
        let youngest = seeing.max_by_key(|(lsn, _)| **lsn);
        youngest.map(|(lsn, place)| {
            Obstacle::Snapshot(Published {
                lsn: *lsn,
                place: *place,
            })
        })
    }

    /// The horizon: the least number that may be read at.
    pub fn horizon(&self) -> Lsn {
        Lsn::new(
            self.lsns
                .iter()
                .copied()
                .min()
                .unwrap_or(u64::MAX)
                .min(self.open_from),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(lsns: &[u64], open_from: u64) -> Points {
        Points {
            lsns: lsns.to_vec(),
            of_log: 1,
            places: (1..lsns.len() as u8).map(|index| (7, index)).collect(),
            open_from,
        }
    }

    #[test]
    fn what_stands_in_the_way_of_a_version_is_told() {
        let points = points(&[50, 20, 30, 90], 100);
        let at = |stamp, newer| points.obstacle(Lsn::new(stamp), Lsn::new(newer));
        let snapshot = |lsn, index| {
            let place = (7, index);
            Some(Obstacle::Snapshot(Published { lsn, place }))
        };
        assert_eq!(at(40, 51), Some(Obstacle::Log(Lsn::new(51))));
        assert_eq!(at(95, 101), Some(Obstacle::Log(Lsn::new(101))));
        assert_eq!(at(51, 90), None);
        assert_eq!(at(10, 31), snapshot(30, 2), "the younger of two");
        assert_eq!(at(10, 30), snapshot(20, 1));
        assert_eq!(at(0, 20), None);
        let snapshots = |stamp, newer| points.in_snapshot(Lsn::new(stamp), Lsn::new(newer));
        assert!(snapshots(10, 31) && snapshots(85, 101));
        assert!(!snapshots(40, 90) && !snapshots(91, 101));
        for (stamp, newer) in (0..99).flat_map(|a| (a + 1..105).map(move |b| (a, b))) {
            let needed = points.needs(Lsn::new(stamp), Lsn::new(newer));
            assert_eq!(at(stamp, newer).is_some(), needed, "{stamp}..{newer}");
        }
    }

    #[test]
    fn a_version_is_needed_from_its_stamp_to_just_before_the_next() {
        let at = |stamp, newer, p: &Points| p.needs(Lsn::new(stamp), Lsn::new(newer));
        let one = points(&[50], u64::MAX);
        assert!(at(50, 51, &one) && at(10, 51, &one));
        assert!(!at(51, 60, &one) && !at(10, 50, &one));
        let chooser = points(&[50], 70);
        assert!(at(60, 71, &chooser), "somebody may choose 70");
        assert!(!at(60, 70, &chooser));
    }

    #[test]
    fn the_horizon_is_the_least_of_all() {
        assert_eq!(points(&[50, 40], 45).horizon(), Lsn::new(40));
        assert_eq!(points(&[50, 40], 30).horizon(), Lsn::new(30));
    }
}
