//! The scrub: every page of every relation file is read from the disk itself and checked, round
//! after round and slowly, so that what has rotted is found while it can still be repaired.
//!
//! A thread (`worker`) reads and checks, chunk by chunk, as fast as `scrub_rate` allows. What it
//! suspects is looked at again by the loop, which writes all pages and so knows that none is being
//! written while it looks. A page that somebody could not read is looked at at once, whatever the
//! rate and whatever the scrub rests for, one before each batch of pages that is written: whoever
//! could not read it has reported it (`ScrubShared::report`), and its last copy may be in the place
//! in the double-write area that comes next.
//!
//! A page is damaged if it cannot be read, fails its checksum or its structure, is newer than the
//! log, or older than the same page in memory that no record has changed since (the disk has lost a
//! write), or if it is all zeros although its file's bitmap on disk says that it is in use and
//! memory does not have it. So is one that the second look finds whole on disk, but not in the
//! system's cache, which is what readers have. It is repaired from shared buffers; or from the
//! double-write area, if its copy there is the last that was ever written; or from the system's
//! cache, or the disk itself. What cannot be repaired stays as it is: reads of it fail by name, and
//! all else works. A repair that the disk refuses is tried again a few times, at longer and longer
//! intervals, and then by each round.
//!
//! Invariants:
//! - Nothing is judged or repaired while a batch of pages is on its way to disk.
//! - A repair goes the way of every page: log, double-write area, its place.
//! - The file of an offline namespace is not looked at: it may be away. Nothing of it is being read
//!   when the command is answered that took it offline.
//! - Nothing is repaired during a sync after which all that was written to a file must be on disk.
//! - A round rests while a checkpoint is hurried, commits are slowed, clean frames are short, or
//!   the server stops. No checkpoint waits for it.
//! - What could not be read for want of descriptors or memory is not judged: it is looked at again
//!   when there may be some.

mod repair;

use crate::Checkpointer;
use crate::turn::nanos;
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BatchNo, BlockNo, FileNo, Lsn, PageTag};
use rd_format::bitmap;
use rd_format::page::{self, PageBytes, PageKind};
use rd_format::{Access, PageError};
use rd_store::buffer::{PageReadError, Resident};
use rd_store::files::{FileState, Files};
use rd_store::relation::{self, PIECE_BLOCKS, RelationFiles, path_of};
use rd_store::scrub::ScrubShared;
use rd_store::shared::Phase;
use rd_sys::clock::Clock;
use rd_sys::storage::DirectBuffer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Most blocks that are read in one go: 1 MiB.
const CHUNK_BLOCKS_MAX: u64 = (1 << 20) / PAGE_BYTES as u64;
/// Chunks in a second at most, unless they are as large as they can be.
const CHUNKS_PER_S: u64 = 16;

/// How long to wait before pages whose latches were taken are looked at again.
const BUSY_NAP: Duration = Duration::from_millis(10);
/// The same for pages that could not be read for want of descriptors or memory.
const SHORTAGE_NAP: Duration = Duration::from_secs(1);

/// Blocks of one file to be read.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    file: FileNo,
    first: u32,
    count: u32,
}

impl Chunk {
    fn tags(&self) -> impl Iterator<Item = PageTag> + use<> {
        let file = self.file;
        (self.first..self.first + self.count).map(move |block| tag(file, block))
    }
}

/// Whether `file` is there to be read: nobody drops it, and its namespace is not offline, nor on its
/// way from there.
fn may_read(files: &Files, file: FileNo) -> bool {
    let closed = files.closed(file).map(|(access, _)| access);
    files.state(file) == FileState::Live
        && !files.access(file).is_offline()
        && !closed.is_some_and(Access::is_offline)
}

/// What the thread has made of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    /// It is whole, and this is its LSN.
    Whole(Lsn),
    /// It was never written, as far as can be seen.
    Empty,
    /// To be looked at again.
    Suspect,
}

/// A chunk that was read.
pub struct ChunkRead {
    chunk: Chunk,
    sights: Vec<Sight>,
    micros: u64,
}

fn tag(file: FileNo, block: u32) -> PageTag {
    PageTag::new(file, BlockNo::new(block))
}

/// The thread's part.
struct Reader {
    relations: Arc<RelationFiles>,
    files: Files,
    memory: DirectBuffer,
    /// The bitmap that was read last, if it was whole, and whose it is.
    bitmap: Box<PageBytes>,
    bitmap_at: Option<PageTag>,
}

/// The work of the scrub's thread. `relations` read past the system's cache.
pub fn work(
    relations: Arc<RelationFiles>,
    files: Files,
    clock: Clock,
) -> impl FnMut(Chunk) -> ChunkRead {
    let mut reader = Reader {
        relations,
        files,
        memory: DirectBuffer::default(),
        bitmap: Box::new([0; PAGE_BYTES]),
        bitmap_at: None,
    };
    move |chunk| {
        let began_ns = clock.monotonic_ns();
        let sights = reader.read(&chunk);
        ChunkRead {
            chunk,
            sights,
            micros: (clock.monotonic_ns() - began_ns) / 1000,
        }
    }
}

impl Reader {
    fn read(&mut self, chunk: &Chunk) -> Vec<Sight> {
        let files = &self.files;
        self.relations
            .forget_gone(files.gone(), |file| files.exists(file));
        let mut memory = std::mem::take(&mut self.memory);
        let buffer = memory.bytes(chunk.count as usize * PAGE_BYTES);
        let read = self
            .relations
            .piece(chunk.file, chunk.first / PIECE_BLOCKS)
            .and_then(|piece| {
                piece.read_at(buffer, relation::offset_of(BlockNo::new(chunk.first)))
            });
        // After an error every block is suspect; the loop finds out which it was.
        let read = read.unwrap_or(0);
        let (pages, _) = buffer.as_chunks::<PAGE_BYTES>();
        let whole = read / PAGE_BYTES;
        let sight = |(index, tag)| {
            if index < whole {
                self.look_at(tag, &pages[index])
            } else {
                Sight::Suspect
            }
        };
        let sights = chunk.tags().enumerate().map(sight).collect();
        self.memory = memory;
        sights
    }

    fn look_at(&mut self, tag: PageTag, page: &PageBytes) -> Sight {
        match page::verify(page, tag) {
            Ok(()) => {
                if page::kind(page) == Some(PageKind::Bitmap) {
                    *self.bitmap = *page;
                    self.bitmap_at = Some(tag);
                }
                Sight::Whole(page::page_lsn(page))
            }
            Err(PageError::ZeroPage { .. }) => {
                let (block, bit) = bitmap::covering(tag.block);
                let is_known = self.bitmap_at == Some(PageTag::new(tag.file, block));
                // Without the bitmap nobody can tell: block 0, and what a bad bitmap speaks of.
                let is_used = is_known && bitmap::is_set(&self.bitmap, bit);
                if is_used {
                    Sight::Suspect
                } else {
                    Sight::Empty
                }
            }
            Err(_) => Sight::Suspect,
        }
    }
}

/// A round under way.
struct Round {
    /// The files that there were when it began.
    files: Vec<FileNo>,
    /// The file at hand, and the next block of it.
    at: usize,
    block: u32,
    checked: u64,
    bad: u64,
    repaired: u64,
}

/// Pages to be looked at again, and when each is due, monotonic nanoseconds; 0 is at once.
#[derive(Default)]
struct Again(BTreeMap<PageTag, u64>);

impl Again {
    fn next_ns(&self) -> Option<u64> {
        self.0.values().min().copied()
    }

    /// Takes out those that are due, so many at most.
    fn take_due(&mut self, now_ns: u64, most: usize) -> Vec<PageTag> {
        let due = self.0.extract_if(.., |_, due_ns| *due_ns <= now_ns);
        due.map(|(tag, _)| tag).take(most).collect()
    }
}

/// A repair that the disk has refused.
#[derive(Clone, Copy)]
struct Refused {
    tries: u32,
    /// When the next one is due, monotonic nanoseconds.
    due_ns: u64,
}

/// What the loop keeps of the scrub.
pub(crate) struct Scrub {
    /// Past the system's cache.
    relations: Arc<RelationFiles>,
    round: Option<Round>,
    /// When the last round began, monotonic nanoseconds; none yet.
    began_ns: Option<u64>,
    /// When the next chunk may be read.
    ready_ns: u64,
    /// The file of which the thread reads a chunk.
    reading: Option<FileNo>,
    /// Pages that the thread suspects.
    suspects: Again,
    /// Pages that somebody could not read.
    reported: Again,
    /// Nothing is to be repaired now.
    pub(crate) is_held: bool,
    /// Pages that are damaged and could not be repaired.
    bad: BTreeSet<PageTag>,
    /// Those of them whose repair is to be tried again.
    refused: BTreeMap<PageTag, Refused>,
    /// The first batch of the double-write area from which on it holds every page that was written;
    /// none before the handover.
    pub(crate) copies_since: Option<BatchNo>,
}

impl Scrub {
    /// Closes the descriptors of a file.
    pub fn forget(&self, file: FileNo) {
        self.relations.forget(file);
    }

    /// Takes pages out of those that are damaged and could not be repaired.
    pub fn forget_bad(&mut self, shared: &ScrubShared, is_meant: impl Fn(&PageTag) -> bool) {
        let before = self.bad.len();
        self.bad.retain(|tag| !is_meant(tag));
        self.refused.retain(|tag, _| !is_meant(tag));
        if self.bad.len() != before {
            self.publish_bad(shared);
        }
    }

    fn publish_bad(&self, shared: &ScrubShared) {
        shared.name_bad(self.bad.len(), self.bad.iter().copied());
    }

    /// Reads a page from the disk itself, and checks it.
    fn read_page<'m>(
        &self,
        tag: PageTag,
        memory: &'m mut DirectBuffer,
    ) -> (&'m PageBytes, Result<(), PageReadError>) {
        let page = memory.bytes(PAGE_BYTES);
        let page = page.first_chunk_mut().expect("as long as a page");
        let read = self.relations.read_page(tag, page);
        (page, read)
    }

    pub fn new(relations: Arc<RelationFiles>) -> Scrub {
        Scrub {
            relations,
            round: None,
            began_ns: None,
            ready_ns: 0,
            reading: None,
            suspects: Again::default(),
            reported: Again::default(),
            is_held: false,
            bad: BTreeSet::new(),
            refused: BTreeMap::new(),
            copies_since: None,
        }
    }
}

/// What a second look has come to.
enum Verdict {
    Good,
    /// Somebody is at it: look again later.
    Later,
    /// There is not what it takes to look: later still.
    Short,
    Bad(String),
}

impl Checkpointer {
    /// Looks at what the thread has read, and gives it more, if it is time.
    pub(crate) fn scrub(&mut self) {
        self.take_up_chunks();
        self.look_at_reports(usize::MAX);
        self.look_at_refused();
        if !self.may_scrub() {
            return;
        }
        self.look_at_suspects();
        let now_ns = self.now_ns();
        if self.scrubs.is_busy() || self.scrub_due_ns().is_none_or(|due_ns| now_ns < due_ns) {
            return;
        }
        if self.scrub.round.is_none() {
            self.begin_round(now_ns);
        }
        match self.next_chunk() {
            Some(chunk) => {
                let bytes = u64::from(chunk.count) * PAGE_BYTES as u64;
                let rate = self.store.config.scrub_rate_bytes().max(1);
                let width = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
                self.scrub.ready_ns = now_ns.saturating_add(width as u64);
                self.scrub.reading = Some(chunk.file);
                self.scrubs.give(chunk);
            }
            None if self.scrub.suspects.0.is_empty() => self.end_round(),
            None => {}
        }
    }

    fn take_up_chunks(&mut self) {
        while let Some(read) = self.scrubs.answer() {
            self.scrub.reading = None;
            self.take_up(&read);
        }
    }

    /// Looks at a page that somebody could not read, before a batch is written, which may be written
    /// over the last copy of it. Without any it costs next to nothing. If there are more they wait: a
    /// dying disk may take seconds for each, and who needs the batch waits, too.
    pub(crate) fn look_at_reported(&mut self) {
        self.look_at_reports(1);
    }

    /// Looks at so many of the pages that somebody could not read, unless that is to wait.
    fn look_at_reports(&mut self, most: usize) {
        let has_reports = self.store.shared.scrub.has_reports();
        let due_ns = self.scrub.reported.next_ns();
        if !has_reports && due_ns.is_none_or(|due_ns| self.now_ns() < due_ns) {
            return;
        }
        if !self.may_repair() {
            return;
        }
        self.take_reports();
        let tags = self.scrub.reported.take_due(self.now_ns(), most);
        let again = self.look_at(tags);
        self.scrub.reported.0.extend(again.0);
    }

    fn refused_next_ns(&self) -> Option<u64> {
        let refused = self.scrub.refused.values();
        refused.map(|refused| refused.due_ns).min()
    }

    /// Tries repairs again that the disk has refused: the reason may be gone, and the copy may be
    /// written over soon.
    fn look_at_refused(&mut self) {
        let now_ns = self.now_ns();
        let is_due = self
            .refused_next_ns()
            .is_some_and(|due_ns| due_ns <= now_ns);
        if !is_due || !self.may_repair() {
            return;
        }
        let refused = self.scrub.refused.iter();
        let due = refused.filter(|(_, refused)| refused.due_ns <= now_ns);
        let tags = due.map(|(tag, _)| *tag).collect();
        for (tag, due_ns) in self.look_at(tags).0 {
            if let Some(refused) = self.scrub.refused.get_mut(&tag) {
                refused.due_ns = due_ns;
            }
        }
    }

    /// Takes note of the pages that somebody could not read. One that is known to be beyond repair is
    /// looked at again by the next round only, unless it was written since.
    fn take_reports(&mut self) {
        for tag in self.store.shared.scrub.take_reports() {
            self.store.count(Counter::ScrubReports);
            let reported = &mut self.scrub.reported.0;
            if !self.scrub.bad.contains(&tag) && !reported.contains_key(&tag) {
                log::info!("scrub: {tag} could not be read; looking for a good copy of it");
                reported.insert(tag, 0);
                self.scrub.suspects.0.remove(&tag);
            }
        }
    }

    /// Reports a page that the loop itself could not read, so that the next attempt finds it mended, if
    /// that can be.
    pub(crate) fn report_unread(&self, tag: PageTag, error: &PageReadError) {
        if error.shortage().is_none() {
            self.store.shared.scrub.report(tag);
        }
    }

    /// Whether the scrub has nothing more to do with `file`, which is offline now.
    pub(crate) fn scrub_lets_go_of(&mut self, file: FileNo) -> bool {
        self.take_up_chunks();
        for again in [&mut self.scrub.suspects, &mut self.scrub.reported] {
            again.0.retain(|tag, _| tag.file != file);
        }
        // Another file may come to lie in its place.
        self.scrub
            .forget_bad(&self.store.shared.scrub, |tag| tag.file == file);
        self.scrub.forget(file);
        self.scrub.reading != Some(file)
    }

    /// Whether what is damaged can be told from what is being written, and repaired.
    fn may_repair(&self) -> bool {
        self.log_is_written()
            && self.store.shared.phase() == Phase::Running
            && self.batch.is_empty()
            && !self.scrub.is_held
    }

    /// Whether nothing more urgent goes on than a round.
    fn may_scrub(&self) -> bool {
        let shared = &self.store.shared;
        self.may_repair()
            && !self.must_stop()
            && !self.cleaning.is_asked()
            && !shared.brake.is_on()
            && !shared.checkpoint.wanted().is_immediate()
            && !shared.pool.wants_supply()
    }

    /// When the next chunk, or the next round, is due; none without a rate.
    fn scrub_due_ns(&self) -> Option<u64> {
        if self.store.config.scrub_rate_bytes() == 0 {
            return None;
        }
        let interval_ns = nanos(self.store.config.scrub_interval());
        Some(match (&self.scrub.round, self.scrub.began_ns) {
            (None, Some(began_ns)) => began_ns.saturating_add(interval_ns),
            (None, None) => 0,
            (Some(_), _) => self.scrub.ready_ns,
        })
    }

    /// When the loop must look at the scrub, if nobody wakes it before.
    pub(crate) fn scrub_next_ns(&self) -> Option<u64> {
        let told = [self.scrub.reported.next_ns(), self.refused_next_ns()];
        let told_ns = told.into_iter().flatten().min();
        let told_ns = told_ns.filter(|_| self.may_repair());
        // Its thread wakes the loop; and what keeps it from going on ends in some other turn.
        if self.scrubs.is_busy() || !self.may_scrub() {
            return told_ns;
        }
        let suspects_ns = self.scrub.suspects.next_ns();
        let nexts = [told_ns, suspects_ns, self.scrub_due_ns()];
        nexts.into_iter().flatten().min()
    }

    fn begin_round(&mut self, now_ns: u64) {
        let table = &self.store.shared.files;
        let mut files = table.live();
        files.retain(|file| may_read(table, *file));
        files.sort_unstable();
        let pages = files.iter().map(|file| u64::from(table.blocks(*file)));
        let now_us = self.store.clock.wall_us();
        self.store.shared.scrub.begin(now_us, pages.sum());
        self.scrub.began_ns = Some(now_ns);
        self.scrub.round = Some(Round {
            files,
            at: 0,
            block: 0,
            checked: 0,
            bad: 0,
            repaired: 0,
        });
    }

    fn end_round(&mut self) {
        let Some(round) = self.scrub.round.take() else {
            return;
        };
        let scrub = &self.store.shared.scrub;
        scrub.end(self.store.clock.wall_us());
        self.store.count(Counter::ScrubRounds);
        let took_ns = self.now_ns() - self.scrub.began_ns.unwrap_or_default();
        let level = if round.bad > 0 {
            log::Level::Info
        } else {
            log::Level::Debug
        };
        log::log!(
            level,
            "scrub complete: {} pages checked in {:.1} s, {} bad, {} of them repaired",
            round.checked,
            took_ns as f64 / 1e9,
            round.bad,
            round.repaired,
        );
    }

    /// The next blocks to be read; none when the round is through.
    fn next_chunk(&mut self) -> Option<Chunk> {
        let rate = self.store.config.scrub_rate_bytes();
        let blocks = rate / CHUNKS_PER_S / PAGE_BYTES as u64;
        let blocks = blocks.clamp(1, CHUNK_BLOCKS_MAX) as u32;
        let files = &self.store.shared.files;
        let round = self.scrub.round.as_mut()?;
        while let Some(file) = round.files.get(round.at).copied() {
            let end = match may_read(files, file) {
                true => files.blocks(file),
                false => 0,
            };
            if round.block >= end {
                round.at += 1;
                round.block = 0;
                continue;
            }
            let left_in_piece = PIECE_BLOCKS - round.block % PIECE_BLOCKS;
            let chunk = Chunk {
                file,
                first: round.block,
                count: blocks.min(end - round.block).min(left_in_piece),
            };
            round.block += chunk.count;
            return Some(chunk);
        }
        None
    }

    /// Takes note of what the thread has seen.
    fn take_up(&mut self, read: &ChunkRead) {
        let pages = read.sights.len() as u64;
        self.store.add(Counter::ScrubPages, pages);
        self.store.add(Counter::ScrubMicros, read.micros);
        self.store.shared.scrub.advance(pages);
        if let Some(round) = &mut self.scrub.round {
            round.checked += pages;
        }
        let mut copy = [0; PAGE_BYTES];
        for (tag, sight) in read.chunk.tags().zip(&read.sights) {
            let is_suspect = match *sight {
                Sight::Suspect => true,
                Sight::Empty => self.scrub.bad.contains(&tag),
                Sight::Whole(lsn) => {
                    let pool = &self.store.shared.pool;
                    let is_old = match pool.copy_resident(tag, &mut copy) {
                        Resident::Settled(_) => page::page_lsn(&copy) > lsn,
                        _ => false,
                    };
                    let is_new = lsn > self.store.shared.wal.insert_lsn();
                    is_old || is_new || self.scrub.bad.contains(&tag)
                }
            };
            let has_its_time =
                self.scrub.reported.0.contains_key(&tag) || self.scrub.refused.contains_key(&tag);
            if is_suspect && !has_its_time {
                self.scrub.suspects.0.insert(tag, 0);
            }
        }
    }

    fn look_at_suspects(&mut self) {
        let tags = self.scrub.suspects.take_due(self.now_ns(), usize::MAX);
        let again = self.look_at(tags);
        // The end of the round waits for them.
        let last_ns = again.0.values().max().copied();
        self.scrub.ready_ns = self.scrub.ready_ns.max(last_ns.unwrap_or_default());
        self.scrub.suspects.0.extend(again.0);
    }

    /// Reads a page from the disk and from the system's cache, and holds it against all that is known
    /// of it.
    fn judge(&self, tag: PageTag) -> Verdict {
        if !may_read(&self.store.shared.files, tag.file) {
            return Verdict::Good;
        }
        let mut memory = DirectBuffer::default();
        let (page, read) = self.scrub.read_page(tag, &mut memory);
        let error = read
            .and_then(|()| self.store.check_page_lsn(tag, page))
            .err();
        let is_empty = matches!(
            &error,
            Some(PageReadError::Damaged {
                error: PageError::ZeroPage { .. },
                ..
            })
        );
        if let Some(error) = error.as_ref().filter(|_| !is_empty) {
            return match error.shortage() {
                Some(_) => Verdict::Short,
                None => Verdict::Bad(error.to_string()),
            };
        }
        let mut copy = [0; PAGE_BYTES];
        let (here, there) = match self.store.shared.pool.copy_resident(tag, &mut copy) {
            Resident::Busy => return Verdict::Later,
            // What is on disk is old, as it should be.
            Resident::Unwritten(_) => return Verdict::Good,
            Resident::Settled(_) => (page::page_lsn(&copy), page::page_lsn(page)),
            Resident::Absent if is_empty => return self.judge_empty(tag),
            Resident::Absent => return self.judge_cached(tag),
        };
        if here <= there {
            return Verdict::Good;
        }
        let path = path_of(tag);
        Verdict::Bad(format!(
            "in file \"{path}\": {tag} has page LSN {there}, but {here} was written: the disk has \
             lost a write"
        ))
    }

    /// Judges a page that is whole on disk by what anybody would get who reads it next.
    fn judge_cached(&self, tag: PageTag) -> Verdict {
        match self.read_cached(tag, &mut [0; PAGE_BYTES]) {
            Ok(()) => Verdict::Good,
            Err(error) if error.shortage().is_some() => Verdict::Short,
            Err(error) => Verdict::Bad(format!(
                "what the system's cache has of a page that is whole on disk is damaged: {error}"
            )),
        }
    }

    fn read_cached(&self, tag: PageTag, page: &mut PageBytes) -> Result<(), PageReadError> {
        self.relations.read_page(tag, page)?;
        self.store.check_page_lsn(tag, page)
    }

    /// Asks the bitmap on disk whether a page may be all zeros.
    fn judge_empty(&self, tag: PageTag) -> Verdict {
        let (block, bit) = bitmap::covering(tag.block);
        let mut memory = DirectBuffer::default();
        let at = PageTag::new(tag.file, block);
        let (page, read) = self.scrub.read_page(at, &mut memory);
        if read.as_ref().is_err_and(|error| error.shortage().is_some()) {
            return Verdict::Short;
        }
        let is_bitmap = read.is_ok() && page::kind(page) == Some(PageKind::Bitmap);
        if !is_bitmap || !bitmap::is_set(page, bit) {
            return Verdict::Good;
        }
        let path = path_of(tag);
        Verdict::Bad(format!(
            "in file \"{path}\": {tag} is all zeros, but the file's bitmap says that it is in use: \
             its content was lost"
        ))
    }
}
