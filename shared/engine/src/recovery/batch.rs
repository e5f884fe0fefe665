//! A stretch of the log, decoded: its records' bytes, and for each worker what it is to do.
//!
//! A block of a record says by itself what becomes of its page (rule R4 of the records), so a stretch
//! of the log is a set of such blocks, to be redone page by page in the order of their records. Each
//! worker has pages of its own; it sorts its blocks, and then goes through each page once for all
//! records of the stretch that name it.

use super::RecoveryError;
use rd_base::{FileNo, Lsn, PageTag, StartCount};
use rd_format::wal_record::{BlockView, FileDelta, RecordData, RecordError, RecordKind};
use rd_store::wal::read::Record;
use rd_sys::prefetch::{LINE_BYTES, prefetch_byte};

/// One block of a record, in one number that sorts as redo must go: by page, then by the order of
/// the log. From the highest bits down: page, place of the record in the batch, place in the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Task(u128);

impl Task {
    fn new(tag: PageTag, record: u32, at: u32) -> Task {
        let place = u64::from(record) << 32 | u64::from(at);
        Task(u128::from(tag.to_u64()) << 64 | u128::from(place))
    }

    /// The page.
    #[inline]
    pub fn tag(self) -> PageTag {
        PageTag::from_u64((self.0 >> 64) as u64)
    }

    #[inline]
    fn record(self) -> usize {
        (self.0 as u64 >> 32) as usize
    }

    #[inline]
    fn at(self) -> usize {
        self.0 as u32 as usize
    }
}

/// What stands before a record's bytes in the batch: little-endian its own LSN, the LSN of its end,
/// and its length. So whoever redoes it finds all in one place.
const HEAD_BYTES: usize = 24;

/// Bytes of a record that are asked for ahead: those of a small commit.
const ASKED_BYTES: usize = 256;

/// A record of the batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'b> {
    /// Its own LSN.
    pub start: Lsn,
    /// The LSN of its end.
    pub end: Lsn,
    bytes: &'b [u8],
}

/// What must be there before a batch is redone; the reader sees to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// A file whose creation the log tells of.
    File(FileNo),
    /// A page that comes whole, and need not be within its file.
    Room(PageTag),
}

/// Some records that follow each other.
#[derive(Default)]
pub(super) struct Batch {
    /// The records, each behind its head.
    bytes: Vec<u8>,
    records: u64,
    /// Of each worker, in no order.
    pub parts: Vec<Vec<Task>>,
    /// In the order of the log.
    pub needs: Vec<Need>,
    /// By how many keys files grew, and the ends of the records that say so, in their order.
    pub keys: Vec<(Lsn, (FileNo, i64))>,
    /// End of the last record.
    pub end: Lsn,
    /// Its start count.
    pub start_count: StartCount,
}

impl Batch {
    /// Empties it.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records = 0;
        self.parts.iter_mut().for_each(Vec::clear);
        self.needs.clear();
        self.keys.clear();
    }

    /// Whether there is no record in it.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many records there are.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Adds a record. What it says of the pages of `complete` files, which need nothing of the log up to
    /// the LSNs beside them, is left out: they may be away.
    ///
    /// # Errors
    /// When its bytes make no sense.
    pub fn add(
        &mut self,
        record: &Record<'_>,
        complete: &[(FileNo, Lsn)],
    ) -> Result<(), RecoveryError> {
        let is_there = |file: FileNo| {
            let mut complete = complete.iter();
            complete.any(|(complete, until)| *complete == file && record.end <= *until)
        };
        let wrong = |error| RecoveryError::Record {
            lsn: record.start,
            error,
        };
        let place = self.bytes.len() as u32;
        let needs_before = self.needs.len();
        let mut blocks = record.view.blocks();
        let mut at = blocks.at();
        while let Some(block) = blocks.next() {
            let block = block.map_err(wrong)?;
            if is_there(block.tag.file) {
                at = blocks.at();
                continue;
            }
            if block.image.is_some() {
                self.needs.push(Need::Room(block.tag));
            }
            let worker = worker_of(block.tag, self.parts.len());
            self.parts[worker].push(Task::new(block.tag, place, at as u32));
            at = blocks.at();
        }
        match record.view.data_behind(&blocks).map_err(wrong)? {
            // Its first pages are blocks of the same record.
            RecordData::File(file) if record.view.kind() == RecordKind::FileCreate => {
                self.needs.insert(needs_before, Need::File(file));
            }
            RecordData::Commit(deltas) => {
                let deltas = deltas.iter();
                let count = |delta: FileDelta| (delta.file, i64::from(delta.key_delta));
                let counts = deltas.map(|delta| (record.end, count(delta)));
                self.keys.extend(counts);
            }
            _ => {}
        }
        let bytes = record.view.bytes();
        for word in [record.start.get(), record.end.get(), bytes.len() as u64] {
            self.bytes.extend_from_slice(&word.to_le_bytes());
        }
        self.bytes.extend_from_slice(bytes);
        self.records += 1;
        self.end = record.end;
        self.start_count = record.view.header().start_count;
        Ok(())
    }

    /// The record that `task` belongs to.
    #[inline]
    pub fn place(&self, task: Task) -> Place<'_> {
        let (head, rest) = self.bytes[task.record()..].split_at(HEAD_BYTES);
        let word = |number: usize| {
            head.as_chunks()
                .0
                .get(number)
                .copied()
                .map(u64::from_le_bytes)
        };
        let [start, end, bytes] = [0, 1, 2].map(|number| word(number).unwrap_or(0));
        Place {
            start: Lsn::new(start),
            end: Lsn::new(end),
            bytes: &rest[..bytes as usize],
        }
    }

    /// Asks for the bytes of `task`, to be used a moment later.
    #[inline]
    pub fn ask_for(&self, task: Task) {
        for line in 0..ASKED_BYTES / LINE_BYTES {
            prefetch_byte(&self.bytes, task.record() + line * LINE_BYTES);
        }
    }
}

impl<'b> Place<'b> {
    /// What `task`, which is of this record, does.
    ///
    /// # Errors
    /// Never for a task of the batch: its blocks were decoded when it was filled.
    #[inline]
    pub fn block(&self, task: Task) -> Result<BlockView<'b>, RecordError> {
        BlockView::decode(self.bytes, task.at()).map(|(block, _)| block)
    }
}

/// The worker whose page this is.
fn worker_of(tag: PageTag, workers: usize) -> usize {
    let hash = tag.to_u64().wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 32;
    ((hash * workers as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::BlockNo;

    #[test]
    fn tasks_sort_by_page_and_then_as_the_log_goes() {
        let tag = |file, block| PageTag::new(FileNo::new(file), BlockNo::new(block));
        let sorted = [
            Task::new(tag(1, 9), 5, 0),
            Task::new(tag(2, 3), 0, 32),
            Task::new(tag(2, 3), 0, 640),
            Task::new(tag(2, 3), 7, 32),
            Task::new(tag(2, u32::MAX), 0, 0),
        ];
        assert!(sorted.is_sorted());
        let task = sorted[3];
        assert_eq!((task.tag(), task.record(), task.at()), (tag(2, 3), 7, 32));
    }

    #[test]
    fn workers_get_about_as_many_pages_each() {
        for workers in 1..=8 {
            let mut pages = vec![0; workers];
            for block in 0..8000 {
                let tag = PageTag::new(FileNo::new(2), BlockNo::new(block));
                pages[worker_of(tag, workers)] += 1;
            }
            let fair = 8000 / workers;
            let is_fair = |count: &usize| (fair * 9 / 10..=fair * 11 / 10).contains(count);
            assert!(pages.iter().all(is_fair), "{pages:?}");
        }
    }
}
