//! How many keys each file holds, cut exactly at a place in the log.
//!
//! `pg_control` holds each file's number of keys as of one LSN, which is at or above its redo
//! point, and redo adds what the records behind that LSN say ([`Files::load`], `counted_to`). So
//! the redo point can move to any LSN without a sum for just that place; but the checkpointer
//! needs sums over exactly the records below *some* boundary, while others are being inserted.
//! Each file has two words; a record's change goes to one of them by the record's place relative
//! to the boundary:
//!
//! 1. The checkpointer notes the word that is not current (nobody adds to it now), marks the cut as
//!    *choosing*, reads the insert position and proposes it as boundary by compare-and-swap.
//! 2. An inserter, whose record has its place but does not count as complete yet, looks at the cut.
//!    None: it adds to the current word (it reserved before the choosing was marked, so it is below
//!    any boundary). Choosing: it reads the insert position and proposes that itself, so that it
//!    need not wait; whoever is first has chosen, and if the cut is over meanwhile it looks anew.
//!    Boundary: its record's end is at or below it: current word, else the other one.
//! 3. When every record below the boundary is complete, the sum is the noted word plus the current
//!    one. The checkpointer makes the other word the current one and takes the boundary away.
//!
//! Every proposed boundary was read after the choosing was marked, so none is below a record that
//! found no cut.
//!
//! In redo the one reader of the log counts, by the same steps: the record that it announces as
//! counting stands for the insert position, and a record is complete when it is counted. What a file
//! began with may count to a place ahead of the boundary ([`Files::counted_in_redo`]).

use super::{FileState, Files, Row};
use rd_base::{FileNo, Lsn};
use rd_format::Access;
use rd_format::control::FileRow as ControlRow;
use rd_sys::atomic::{Ordering, fence};

/// In the word of the cut: the current word is the second.
const SECOND: u64 = 1 << 63;
/// In the word of the cut: no boundary.
const NO_CUT: u64 = 0;
/// In the word of the cut: a boundary is being chosen. No LSN is 1.
const CHOOSING: u64 = 1;

/// A cut of the key counts that has begun; see the module.
#[must_use = "the next cut waits for the end of this one"]
#[derive(Debug)]
pub struct KeyCut {
    /// Counts hold records that end at or below this.
    pub boundary: Lsn,
    /// Of each row: its file, and the word that was not current.
    noted: Vec<(FileNo, i64)>,
}

impl Files {
    /// Adds `delta` to the number of keys in `file`, for a record that ends at `end`. To be called
    /// between the record's reservation and its completion, with the insert position at hand.
    #[inline]
    pub fn add_keys(&self, file: FileNo, end: Lsn, delta: i64, insert_lsn: impl Fn() -> Lsn) {
        if delta == 0 {
            return;
        }
        // Orders the reservation before the look at the cut; pairs with `begin_cut`.
        fence(Ordering::SeqCst);
        let index = self.word_for(end, insert_lsn);
        self.known(file).keys[index].fetch_add(delta, Ordering::Relaxed);
    }

    /// Which word takes the change of a record that ends at `end` (step 2).
    fn word_for(&self, end: Lsn, insert_lsn: impl Fn() -> Lsn) -> usize {
        let mut word = self.words.cut.load(Ordering::SeqCst);
        loop {
            let current = usize::from(word & SECOND != 0);
            match word & !SECOND {
                NO_CUT => return current,
                // Of another cut, perhaps, when it is chosen: this one may be over by then.
                CHOOSING => word = self.choose(word, insert_lsn()),
                boundary if end.get() <= boundary => return current,
                _ => return 1 - current,
            }
        }
    }

    /// Proposes `insert` as boundary of the cut `word`; gives what the word of the cut is then.
    fn choose(&self, word: u64, insert: Lsn) -> u64 {
        assert!(
            insert.get() > CHOOSING && insert.get() < SECOND,
            "{insert} is no insert position"
        );
        let chosen = (word & SECOND) | insert.get();
        let swap =
            self.words
                .cut
                .compare_exchange(word, chosen, Ordering::SeqCst, Ordering::SeqCst);
        swap.map_or_else(|by_another| by_another, |_| chosen)
    }

    /// Counts the record that ends at `end`, in redo: adds to each file what it says, unless the
    /// count that the file began with holds it already. For the one process, and thread, that reads
    /// the log; records come in their order.
    pub fn count_in_redo(&self, end: Lsn, deltas: impl Iterator<Item = (FileNo, i64)>) {
        // A SeqCst store is the reservation and the fence of `add_keys` in one.
        self.words.counting.store(end.get(), Ordering::SeqCst);
        let index = self.word_for(end, || end);
        for (file, delta) in deltas {
            let row = self.known(file);
            if end.get() > row.counted_to.load(Ordering::Relaxed) {
                // Nobody else adds meanwhile.
                let keys = row.keys[index].load(Ordering::Relaxed);
                row.keys[index].store(keys.wrapping_add(delta), Ordering::Relaxed);
            }
        }
        self.words.counted.store(end.get(), Ordering::Release);
    }

    /// End of the record that redo is counting, or counted last: what stands for the insert
    /// position in a cut during redo. Zero before the first one.
    pub fn counting_in_redo(&self) -> Lsn {
        Lsn::new(self.words.counting.load(Ordering::SeqCst))
    }

    /// Whether redo has counted all records that end at or below `boundary`, which was read from
    /// [`Files::counting_in_redo`].
    pub fn is_counted_in_redo(&self, boundary: Lsn) -> bool {
        self.words.counted.load(Ordering::Acquire) >= boundary.get()
    }

    /// Up to where in the log the counts of a cut at `boundary` count, during redo: a count that a file
    /// began with holds records that redo has yet to come to, and then it stands for their end, not
    /// for the boundary. None while some files have such a count and others, which redo has made,
    /// have not: no one LSN is true of them all before redo has come as far.
    pub fn counted_in_redo(&self, boundary: Lsn) -> Option<Lsn> {
        let live = self
            .rows_used()
            .iter()
            .filter(|row| row.file().get() != 0 && row.state() == FileState::Live);
        let began = live.map(|row| row.counted_to.load(Ordering::Relaxed));
        let (least, most) = began.fold((u64::MAX, 0), |(least, most), lsn| {
            (least.min(lsn), most.max(lsn))
        });
        if most <= boundary.get() {
            Some(boundary)
        } else {
            (least == most).then_some(Lsn::new(most))
        }
    }

    /// Whether the redo point could advance during redo, as far as key counts are concerned. If redo has
    /// made a file, it cannot before redo has come to where the other files' counts began; if redo waited
    /// for it until then, it would wait for itself.
    pub fn have_counts_one_place(&self) -> bool {
        self.counted_in_redo(self.counting_in_redo()).is_some()
    }

    /// The number of keys in `file`, commits under way included that have their place in the log.
    pub fn keys(&self, file: FileNo) -> u64 {
        let sum = |row: &Row| {
            row.keys
                .iter()
                .map(|word| word.load(Ordering::Relaxed))
                .sum()
        };
        self.row(file).map_or(0, sum).max(0i64) as u64
    }

    /// Begins a cut of the key counts at a boundary read by `insert_lsn`; for the checkpointer,
    /// one at a time.
    pub fn begin_cut(&self, insert_lsn: impl Fn() -> Lsn) -> KeyCut {
        let word = self.words.cut.load(Ordering::SeqCst);
        assert_eq!(
            word & !SECOND,
            NO_CUT,
            "a cut begins while another one is under way"
        );
        let other = usize::from(word & SECOND == 0);
        let note = |row: &Row| (row.file(), row.keys[other].load(Ordering::Relaxed));
        let noted = self.rows.iter().map(note).collect();
        let choosing = word | CHOOSING;
        self.words.cut.store(choosing, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let boundary = Lsn::new(self.choose(choosing, insert_lsn()) & !SECOND);
        KeyCut { boundary, noted }
    }

    /// Ends a cut when all records below its boundary are complete (it is durable, say); gives
    /// `pg_control` a row, with its exact count, for each file that redo from `redo` can meet.
    /// `stop_scn` is the end of the log at a clean stop, and zero else; a file that is closed keeps its
    /// own.
    pub fn end_cut(&self, cut: KeyCut, redo: Lsn, stop_scn: Lsn) -> Vec<ControlRow> {
        let word = self.words.cut.load(Ordering::SeqCst);
        debug_assert_eq!(word & !SECOND, cut.boundary.get());
        let current = usize::from(word & SECOND != 0);
        let mut rows = Vec::new();
        for (row, (file, noted)) in self.rows.iter().zip(cut.noted) {
            let (number, state) = (row.file(), row.state());
            // A dropped file stays until redo can no longer meet it.
            let named = matches!(state, FileState::Live | FileState::Dropped);
            if number.get() == 0 || !named || self.is_past(row, redo) {
                continue;
            }
            let noted = if number == file { noted } else { 0 };
            let closed = self.closed(number);
            let keys = noted + row.keys[current].load(Ordering::Relaxed);
            rows.push(ControlRow {
                file: number,
                checkpoint_count: row.checkpoint_count.load(Ordering::Relaxed),
                scn: Lsn::new(row.checkpoint_scn.load(Ordering::Relaxed)),
                access: closed.map_or(Access::READ_WRITE, |(access, _)| access),
                stop_scn: closed.map_or(stop_scn, |(_, stop_scn)| stop_scn),
                key_count: keys.max(0) as u64,
                blocks: row.allocated.load(Ordering::Relaxed),
            });
        }
        let flipped = (word & SECOND) ^ SECOND;
        self.words.cut.store(flipped | NO_CUT, Ordering::SeqCst);
        rows.sort_by_key(|row| row.file);
        rows
    }
}
