//! Counters: one row of words per process, so that counting costs no shared cache line; a reader
//! adds the rows up.

use crate::procs::SlotNo;
use rd_base::counters::Counter;
use rd_base::limits::PROCESSES_MAX;
use rd_sys::atomic::{AtomicU64, Ordering};
use rd_sys::{Area, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
struct Row {
    /// Indexed by [`Counter`]. atomic: Relaxed; written by the slot's owner, and set to 0 by
    /// whoever resets, so that a count made at that moment may be lost.
    counts: [AtomicU64; Counter::COUNT],
}

/// Where the counters lie in the segment.
#[derive(Clone, Copy)]
pub struct StatsRegions {
    rows: Region<Row>,
}

impl StatsRegions {
    /// Reserves room for all counters of all processes.
    pub fn plan(plan: &mut Plan) -> StatsRegions {
        StatsRegions {
            rows: plan.reserve(PROCESSES_MAX),
        }
    }
}

/// Flushes of the log by all processes since the counters were last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushes {
    /// How many.
    pub count: u64,
    /// For how long they wrote and synced, microseconds.
    pub micros: u64,
}

impl Flushes {
    /// Those that came after `before`; none, if the counters were reset meanwhile.
    pub fn since(&self, before: &Flushes) -> Flushes {
        Flushes {
            count: self.count.saturating_sub(before.count),
            micros: self.micros.saturating_sub(before.micros),
        }
    }
}

/// The counters of all processes.
#[derive(Clone)]
pub struct Stats {
    rows: Area<Row>,
}

impl Stats {
    /// Opens the table.
    pub fn open(segment: &Segment, regions: &StatsRegions) -> Stats {
        Stats {
            rows: segment.area(regions.rows),
        }
    }

    /// Adds `count` to `counter` in the row of `slot`.
    #[inline]
    pub fn add(&self, slot: SlotNo, counter: Counter, count: u64) {
        self.rows[slot.index()].counts[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// What the process of `slot` has counted since the counters were last reset.
    #[inline]
    pub fn of(&self, slot: SlotNo, counter: Counter) -> u64 {
        self.rows[slot.index()].counts[counter as usize].load(Ordering::Relaxed)
    }

    /// The sum over all processes since the counters were last reset.
    pub fn get(&self, counter: Counter) -> u64 {
        let of = |row: &Row| row.counts[counter as usize].load(Ordering::Relaxed);
        self.rows.iter().map(of).fold(0, u64::wrapping_add)
    }

    /// How the log was flushed. By some of the `wal_sync_method`s a write syncs, too, so the two times
    /// count as one.
    pub fn flushes(&self) -> Flushes {
        Flushes {
            count: self.get(Counter::WalWrites),
            micros: self.get(Counter::WalWriteMicros) + self.get(Counter::WalSyncMicros),
        }
    }

    /// Sets every counter to 0.
    pub fn reset(&self) {
        for count in self.rows.iter().flat_map(|row| &row.counts) {
            count.store(0, Ordering::Relaxed);
        }
    }
}
