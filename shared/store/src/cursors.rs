//! The table of cursors: where each SCAN under way goes on, so that any connection, on any backend,
//! can go on with it.
//!
//! A cursor is a number: the low bits name a row, the others are the row's nonce. A row keeps the
//! last two steps of one scan, the last so that it goes on, and the one before so that a client
//! whose reply was lost may ask again. When all rows are taken the scan that was not heard of for
//! the longest is dropped: of a connection that has many, if there is one, so that nobody ends the
//! scans of all others by beginning more and more. A nonce begins at the clock's milliseconds, times
//! eight, so that a cursor of before a restart names no row; and it stays below 2^44, so that a cursor
//! stays below 2^53, which a client may keep in a double.
//!
//! Invariant: a row's keys belong to its nonces; a cursor whose nonce is in no row is refused, never
//! taken for another scan's.

use rd_base::limits::KEY_BYTES_MAX;
use rd_sys::atomic::{AtomicU64, Ordering};
use rd_sys::{Area, Latch, One, Plan, Region, Segment};
use zerocopy::{FromBytes, KnownLayout};

/// Bits of a cursor that name its row.
const ROW_BITS: u32 = 9;
/// Scans that can be under way.
const ROWS: usize = 1 << ROW_BITS;
/// A connection with so many scans under way loses the first when there are too many.
const ROWS_OF_ONE_MAX: usize = 16;
/// Words of a key: one byte more than a key has, for what lies right behind one.
const KEY_WORDS: usize = KEY_BYTES_MAX / 8 + 1;

/// A step of a scan: where the next one begins.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
struct Step {
    /// 0: none. guard: `Head::latch`, as all below.
    nonce: AtomicU64,
    key_bytes: AtomicU64,
    key: [AtomicU64; KEY_WORDS],
}

#[repr(C)]
#[derive(FromBytes, KnownLayout)]
struct Row {
    /// The namespace that is scanned. guard: `Head::latch`, as all below.
    namespace: AtomicU64,
    /// Monotonic clock of the last step; 0: the row is free, or its scan has ended.
    used_at_ns: AtomicU64,
    /// Number of the connection that has asked for the last step.
    connection: AtomicU64,
    last: Step,
    before: Step,
}

#[repr(C, align(64))]
#[derive(FromBytes, KnownLayout)]
struct Head {
    /// guard: itself; held while a row is copied, and for nothing else.
    latch: Latch,
}

/// Where the table lies in the segment.
#[derive(Clone, Copy)]
pub struct CursorsRegions {
    head: Region<Head>,
    rows: Region<Row>,
}

impl CursorsRegions {
    /// Reserves room for the table.
    pub fn plan(plan: &mut Plan) -> CursorsRegions {
        CursorsRegions {
            head: plan.reserve(1),
            rows: plan.reserve(ROWS),
        }
    }
}

/// The table of cursors.
#[derive(Clone)]
pub struct Cursors {
    head: One<Head>,
    rows: Area<Row>,
}

/// Where a cursor goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Number of the namespace that is scanned (`NamespaceId::number`).
    pub namespace: u64,
    /// The next key is this one or behind it.
    pub key: Vec<u8>,
}

impl Step {
    fn nonce(&self) -> u64 {
        self.nonce.load(Ordering::Relaxed)
    }

    fn key(&self) -> Vec<u8> {
        let words = self.key.iter();
        let bytes = words.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let length = self.key_bytes.load(Ordering::Relaxed) as usize;
        bytes.take(length).collect()
    }

    fn set(&self, nonce: u64, key: &[u8]) {
        assert!(key.len() < KEY_WORDS * 8, "a key is limited to less");
        for (word, bytes) in self.key.iter().zip(key.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.key_bytes.store(key.len() as u64, Ordering::Relaxed);
        self.nonce.store(nonce, Ordering::Relaxed);
    }
}

impl Row {
    /// The step with this nonce, if the row has it.
    fn step(&self, nonce: u64) -> Option<&Step> {
        [&self.last, &self.before]
            .into_iter()
            .find(|step| step.nonce() == nonce)
    }
}

/// Row and nonce of a cursor; none if it is no cursor.
fn parts(cursor: u64) -> Option<(usize, u64)> {
    let nonce = cursor >> ROW_BITS;
    (nonce != 0).then_some(((cursor as usize) % ROWS, nonce))
}

impl Cursors {
    /// Opens the table.
    pub fn open(segment: &Segment, regions: &CursorsRegions) -> Cursors {
        Cursors {
            head: segment.one(regions.head),
            rows: segment.area(regions.rows),
        }
    }

    /// Where `cursor` goes on; none if it was dropped, or never was.
    pub fn resume(&self, cursor: u64) -> Option<Resume> {
        let (row, nonce) = parts(cursor)?;
        let _guard = self.head.latch.lock();
        let row = &self.rows[row];
        let step = row.step(nonce)?;
        Some(Resume {
            namespace: row.namespace.load(Ordering::Relaxed),
            key: step.key(),
        })
    }

    /// Keeps where a scan of a connection goes on, and returns its next cursor. `cursor` is the one it
    /// came with, 0 for a new scan; `now_ns` and `wall_us` are the clocks.
    pub fn advance(
        &self,
        cursor: u64,
        resume: &Resume,
        connection: u64,
        now_ns: u64,
        wall_us: u64,
    ) -> u64 {
        let _guard = self.head.latch.lock();
        let known = parts(cursor).filter(|(row, nonce)| self.rows[*row].step(*nonce).is_some());
        let index = known.map_or_else(|| self.next_free(), |(row, _)| row);
        let row = &self.rows[index];
        let newest = row.last.nonce();
        let next = if newest == 0 {
            (wall_us / 1000) * 8
        } else {
            newest + 1
        };
        match known {
            Some((_, nonce)) if nonce == newest => row.before.set(newest, &row.last.key()),
            // Asked again: the step before stays.
            Some(_) => {}
            None => row.before.set(0, &[]),
        }
        row.last.set(next, &resume.key);
        row.namespace.store(resume.namespace, Ordering::Relaxed);
        row.used_at_ns.store(now_ns, Ordering::Relaxed);
        row.connection.store(connection, Ordering::Relaxed);
        next << ROW_BITS | index as u64
    }

    /// The scan has come to its end: its row is the next to be taken, but its last step can be asked
    /// for again until then.
    pub fn end(&self, cursor: u64) {
        if let Some((row, nonce)) = parts(cursor) {
            let _guard = self.head.latch.lock();
            if self.rows[row].step(nonce).is_some() {
                self.rows[row].used_at_ns.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The row that the next scan takes. The latch is held.
    fn next_free(&self) -> usize {
        let used = |index: &usize| self.rows[*index].used_at_ns.load(Ordering::Relaxed);
        let oldest = (0..ROWS).min_by_key(used).unwrap_or(0);
        if used(&oldest) == 0 {
            return oldest;
        }
        let of = |index: usize| self.rows[index].connection.load(Ordering::Relaxed);
        let mut sorted: [u64; ROWS] = std::array::from_fn(of);
        sorted.sort_unstable();
        let has_many = |index: &usize| {
            let first = sorted.partition_point(|each| *each < of(*index));
            sorted.get(first + ROWS_OF_ONE_MAX - 1) == Some(&of(*index))
        };
        let of_many = (0..ROWS).filter(has_many).min_by_key(used);
        of_many.unwrap_or(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursors() -> Cursors {
        let mut plan = Plan::new();
        let regions = CursorsRegions::plan(&mut plan);
        let segment = Segment::anonymous(&plan).expect("memory for a test");
        Cursors::open(&segment, &regions)
    }

    fn at(key: &[u8]) -> Resume {
        Resume {
            namespace: 3,
            key: key.to_vec(),
        }
    }

    #[test]
    fn a_scan_goes_on_where_it_was_and_one_step_before() {
        let cursors = cursors();
        let first = cursors.advance(0, &at(b"a"), 1, 1, 1_700_000_000_000_000);
        let second = cursors.advance(first, &at(&[b'k'; KEY_BYTES_MAX + 1]), 1, 2, 0);
        assert_eq!(cursors.resume(first), Some(at(b"a")));
        assert_eq!(cursors.resume(second), Some(at(&[b'k'; KEY_BYTES_MAX + 1])));
        // The reply was lost: asked again, the second step is another one.
        let again = cursors.advance(first, &at(b"kk"), 1, 3, 0);
        assert_eq!(cursors.resume(second), None);
        assert_eq!(cursors.resume(again), Some(at(b"kk")));
        assert_eq!(cursors.resume(first), Some(at(b"a")));
        cursors.end(again);
        assert_eq!(cursors.resume(again), Some(at(b"kk")));
        // Another scan takes the row of the one that has ended only when no other is free.
        assert!(
            [first, second, again]
                .iter()
                .all(|cursor| *cursor < 1 << 53)
        );
    }

    #[test]
    fn what_is_no_cursor_is_none() {
        let cursors = cursors();
        for cursor in [0, 1, 511, 512, u64::MAX, 1 << 52] {
            assert_eq!(cursors.resume(cursor), None, "{cursor}");
        }
        let before = cursors.advance(0, &at(b"a"), 1, 1, 1_700_000_000_000_000);
        let restarted = self::cursors();
        let after = restarted.advance(0, &at(b"b"), 1, 1, 1_700_000_001_000_000);
        assert_eq!(before % 512, after % 512);
        assert_eq!(restarted.resume(before), None);
    }

    #[test]
    fn the_scan_not_heard_of_for_the_longest_is_dropped() {
        let cursors = cursors();
        let wall_us = 1_700_000_000_000_000;
        // Each by a connection of its own.
        let open = |index: u64| cursors.advance(0, &at(b"a"), index, index + 1, wall_us);
        let mut all: Vec<u64> = (0..ROWS as u64).map(open).collect();
        assert!(all.iter().all(|cursor| cursors.resume(*cursor).is_some()));
        all[0] = cursors.advance(all[0], &at(b"b"), 0, 10_000, wall_us);
        let new = cursors.advance(0, &at(b"c"), 1000, 10_001, wall_us);
        assert_eq!(cursors.resume(all[1]), None);
        assert!(cursors.resume(all[0]).is_some() && cursors.resume(new).is_some());
        // What was dropped does not come back as a step of the one that took its row.
        let other = cursors.advance(all[1], &at(b"d"), 1000, 10_002, wall_us);
        assert_ne!(other % 512, new % 512);
        cursors.end(new);
        let next = cursors.advance(0, &at(b"e"), 1000, 10_003, wall_us);
        assert_eq!(next % 512, new % 512);
    }

    #[test]
    fn who_begins_many_scans_ends_no_others() {
        let cursors = cursors();
        let wall_us = 1_700_000_000_000_000;
        let open = |connection, at_ns| cursors.advance(0, &at(b"a"), connection, at_ns, wall_us);
        let slow = open(1, 1);
        let few: Vec<u64> = (2..2 + ROWS_OF_ONE_MAX as u64 - 1)
            .map(|at_ns| open(2, at_ns))
            .collect();
        // As many as there are, while nobody else needs one.
        let many: Vec<u64> = (100..100 + (ROWS - ROWS_OF_ONE_MAX) as u64)
            .map(|at_ns| open(3, at_ns))
            .collect();
        let is_there = |cursor: &u64| cursors.resume(*cursor).is_some();
        assert!(is_there(&slow) && few.iter().all(is_there) && many.iter().all(is_there));
        let more: Vec<u64> = (1000..1600).map(|at_ns| open(3, at_ns)).collect();
        assert!(is_there(&slow) && few.iter().all(is_there));
        assert!(is_there(&more[599]) && !is_there(&more[0]));
        // Nor is it others who pay for another one.
        let other = open(4, 2000);
        assert!(is_there(&other) && is_there(&slow) && few.iter().all(is_there));
    }
}
