//! Reading the log from its files, and finding out why it ends where it ends.
//!
//! The log ends at the first record that fails a check: its length, its checksum, its own LSN, a
//! start count not below its predecessor's, the headers of all pages it lies on. That is either
//! the torn end of what was being written in a crash, which nobody was promised; or damage to what
//! was acknowledged. The second is known by a durable LSN above the end: every page header carries
//! the one known when it was written, and pages beyond the failure are looked at too, because
//! sectors reach the disk in any order. (What `pg_control` and the pages of relation files know is
//! for the caller to add; see [`LogEnd::check`].)
//!
//! Memory is bounded: one chunk of a file, and the longest record that crosses pages, which is
//! gathered page by page, each checked before it is taken.

use super::{USABLE, WalError, segments};
use rd_base::limits::{LOG_BYTES_MAX, WAL_PAGE_BYTES};
use rd_base::{Lsn, StartCount, Timeline};
use rd_format::wal_page::{self, WAL_HEADER_BYTES, WalPageError, WalPageHeader};
use rd_format::wal_record::{RECORD_HEADER_BYTES, RecordError, RecordHeader, RecordView};
use rd_sys::storage::{OpenMode, Storage, StorageFile, is_bad_sector};
use std::fmt;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::Arc;

/// Bytes read from a file at a time.
const CHUNK_BYTES: usize = 1 << 20;
const PAGE: u64 = WAL_PAGE_BYTES as u64;

const _: () = assert!(CHUNK_BYTES.is_multiple_of(WAL_PAGE_BYTES));

/// Where to read from, and whose log.
#[derive(Clone, Copy, Debug)]
pub struct ReadFrom {
    /// The end of the record before (or the start of the log): the redo point, for recovery.
    pub lsn: Lsn,
    /// The timeline in names and page headers.
    pub timeline: Timeline,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// The system identifier in page headers.
    pub system_id: u64,
    /// The start count of the record before `lsn`; 0 if it is not known.
    pub start_count: StartCount,
}

/// A record and its place.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its own LSN.
    pub start: Lsn,
    /// The LSN of its end.
    pub end: Lsn,
    /// Its content, whose checksum is right.
    pub view: RecordView<'a>,
}

/// Why there is no further record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// The segment's file is not there.
    #[error("the file is not there")]
    MissingSegment,
    /// The segment's file is too short.
    #[error("the file ends there")]
    ShortSegment,
    /// What is there is no page of this place in this log.
    #[error("{0}")]
    Page(WalPageError),
    /// The page was written on another timeline.
    #[error("the page was written on timeline {found}")]
    Timeline {
        /// The one in its header.
        found: Timeline,
    },
    /// The page does not go on with the record before it.
    #[error("the page begins with {found} bytes of an earlier record in place of {expected}")]
    Continuation {
        /// What its header says.
        found: u32,
        /// What must be left of the record.
        expected: u32,
    },
    /// The bytes are no record of this place.
    #[error("{0}")]
    Record(RecordError),
    /// The record is from before a start that the record before it knows of.
    #[error("the record has start count {found}, below {before} of the record before it")]
    StartCount {
        /// In the record.
        found: StartCount,
        /// In its predecessor.
        before: StartCount,
    },
}

/// Where the log ends and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEnd {
    /// End of the last good record; the start if there was none.
    pub lsn: Lsn,
    /// Why no record follows.
    pub reason: EndReason,
    /// Where that was found: the start of the record that fails, or of the page.
    pub at: Lsn,
    /// The file that `at` lies in.
    pub file: String,
    /// The start count of the last good record.
    pub start_count: StartCount,
    /// The highest durable LSN in any page header, those beyond the end included.
    pub durable_seen: Lsn,
    /// The page that says so.
    pub durable_seen_at: Lsn,
}

impl fmt::Display for LogEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the write-ahead log ends at {}: at {} in \"{}\": {}",
            self.lsn, self.at, self.file, self.reason
        )
    }
}

/// Log that was promised to be there cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogDamage {
    /// Acknowledged records are gone.
    #[error(
        "write-ahead log is damaged at {} in \"{}\": {}; it can be read up to {} only, but {witness} \
         says that it was durable up to {durable}; look at the file with rd_waldump, and restore it \
         from a copy if there is one",
        .end.at, .end.file, .end.reason, .end.lsn
    )]
    Acknowledged {
        /// Where the log can no longer be read.
        end: Box<LogEnd>,
        /// Up to where it must be readable.
        durable: Lsn,
        /// Who says so.
        witness: String,
    },
    /// A record that this program cannot apply.
    #[error(
        "write-ahead log record at {} in \"{}\" cannot be used: {}; was it written by a newer version \
         of the server?", .end.at, .end.file, .end.reason
    )]
    Unknown {
        /// The record.
        end: Box<LogEnd>,
    },
}

impl LogEnd {
    /// Whether the log ended where nothing was ever written, rather than inside a torn record.
    pub fn is_clean(&self) -> bool {
        matches!(
            self.reason,
            EndReason::Record(RecordError::Zero) | EndReason::Page(WalPageError::Zero)
        )
    }

    /// Tells the torn tail that nobody was promised from damage. `known_durable` is the highest
    /// durable LSN known from elsewhere and `witness` says from where.
    ///
    /// # Errors
    /// When the log must have gone on.
    pub fn check(&self, known_durable: Lsn, witness: &str) -> Result<(), LogDamage> {
        if matches!(self.reason, EndReason::Record(RecordError::Kind(_))) {
            return Err(LogDamage::Unknown {
                end: Box::new(self.clone()),
            });
        }
        let damaged = |durable, witness: String| {
            Err(LogDamage::Acknowledged {
                end: Box::new(self.clone()),
                durable,
                witness,
            })
        };
        if known_durable > self.lsn && known_durable >= self.durable_seen {
            return damaged(known_durable, witness.to_owned());
        }
        if self.durable_seen > self.lsn {
            let witness = format!("the log's page at {}", self.durable_seen_at);
            return damaged(self.durable_seen, witness);
        }
        Ok(())
    }
}

/// Checks that `page` is the one at `address` of this log.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_page(
    page: &[u8],
    address: Lsn,
    timeline: Timeline,
    system_id: u64,
) -> Result<WalPageHeader, EndReason> {
    let header = WalPageHeader::decode_at(page, address, system_id).map_err(EndReason::Page)?;
    if header.timeline != timeline {
        return Err(EndReason::Timeline {
            found: header.timeline,
        });
    }
    Ok(header)
}

/// Reads the log, record by record.
pub struct WalReader {
    pages: Pages,
    /// The bytes of a record that crosses pages.
    gathered: Vec<u8>,
    cursor: Cursor,
}

/// Where the reader is.
struct Cursor {
    /// The next record's usable position.
    pos: u64,
    start_count: StartCount,
    /// The page whose continuation was checked last.
    checked_page: Option<u64>,
    /// Why it stopped, and where.
    problem: Option<(EndReason, Lsn)>,
}

/// Where the bytes of a record lie.
enum Found {
    InChunk(Range<usize>),
    Gathered,
}

impl WalReader {
    /// A reader whose first record is the one that starts at (or right behind) `from.lsn`.
    /// Nothing is read yet.
    pub fn new(storage: Arc<dyn Storage>, from: ReadFrom) -> WalReader {
        let cursor = Cursor {
            pos: wal_page::lsn_to_pos(from.lsn),
            start_count: from.start_count,
            checked_page: None,
            problem: None,
        };
        WalReader {
            pages: Pages::new(storage, from),
            gathered: Vec::new(),
            cursor,
        }
    }

    /// A reader whose first record is the first that starts at or above `from.lsn`, which may lie
    /// anywhere in a segment that is there.
    ///
    /// # Errors
    /// When a file cannot be read. That no record is found is told by [`WalReader::finish`].
    pub fn first_from(storage: Arc<dyn Storage>, from: ReadFrom) -> io::Result<WalReader> {
        let wanted = from.lsn;
        let page_lsn = wal_page::page_start(wanted);
        let mut reader = WalReader::new(
            storage,
            ReadFrom {
                lsn: page_lsn,
                ..from
            },
        );
        // To the end of the record that the page begins inside of.
        loop {
            let page = reader.cursor.pos / USABLE;
            match reader.pages.load(page)? {
                Err(reason) => {
                    reader.cursor.problem = Some((reason, Lsn::new(page * PAGE)));
                    return Ok(reader);
                }
                Ok(header) if u64::from(header.remaining) >= USABLE => {
                    reader.cursor.pos = (page + 1) * USABLE;
                }
                Ok(header) => {
                    reader.cursor.pos = page * USABLE + u64::from(header.remaining);
                    reader.cursor.checked_page = Some(page);
                    break;
                }
            }
        }
        while wal_page::pos_to_start_lsn(reader.cursor.pos) < wanted {
            if reader.next()?.is_none() {
                break;
            }
        }
        Ok(reader)
    }

    /// The next record; none at the end of the log, see [`WalReader::finish`].
    ///
    /// # Errors
    /// When a file that is there cannot be read: then nothing is known of the log's end.
    #[allow(clippy::should_implement_trait)] // It lends from its buffer.
    pub fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        if self.cursor.problem.is_some() {
            return Ok(None);
        }
        let start = wal_page::pos_to_start_lsn(self.cursor.pos);
        let found = match self.find()? {
            Ok(found) => found,
            Err(problem) => {
                self.cursor.problem = Some(problem);
                return Ok(None);
            }
        };
        let bytes = match found {
            Found::InChunk(range) => &self.pages.chunk[range],
            Found::Gathered => &self.gathered,
        };
        let view = match RecordView::parse_at(bytes, start) {
            Ok(view) => view,
            Err(error) => {
                self.cursor.problem = Some((EndReason::Record(error), start));
                return Ok(None);
            }
        };
        let (found, before) = (view.header().start_count, self.cursor.start_count);
        if found < before {
            self.cursor.problem = Some((EndReason::StartCount { found, before }, start));
            return Ok(None);
        }
        self.cursor.start_count = found;
        self.cursor.pos += view.header().padded_len() as u64;
        let end = wal_page::pos_to_end_lsn(self.cursor.pos);
        Ok(Some(Record { start, end, view }))
    }

    /// End of the last record read.
    pub fn lsn(&self) -> Lsn {
        wal_page::pos_to_end_lsn(self.cursor.pos)
    }

    /// The highest durable LSN in the headers of the pages read so far.
    pub fn durable_seen(&self) -> Lsn {
        self.pages.durable_seen
    }

    /// The end of the log, with everything that its files know of it: the pages beyond the end are
    /// looked at too. To be called when [`WalReader::next`] has given none.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn finish(mut self) -> io::Result<LogEnd> {
        let lsn = self.lsn();
        let (reason, at) = self
            .cursor
            .problem
            .unwrap_or((EndReason::Record(RecordError::Zero), lsn));
        self.pages.scan_beyond(wal_page::lsn_to_pos(lsn) / USABLE)?;
        let from = &self.pages.from;
        Ok(LogEnd {
            lsn,
            reason,
            at,
            file: segments::path_of(from.timeline, at, from.segment_bytes),
            start_count: self.cursor.start_count,
            durable_seen: self.pages.durable_seen,
            durable_seen_at: self.pages.durable_seen_at,
        })
    }

    /// Finds the bytes of the next record, whose checksum is not checked yet.
    fn find(&mut self) -> io::Result<Result<Found, (EndReason, Lsn)>> {
        let pos = self.cursor.pos;
        let (page, in_page) = (pos / USABLE, (pos % USABLE) as usize);
        let start = wal_page::pos_to_start_lsn(pos);
        if let Err(reason) = self.enter_first_page(page, in_page)? {
            return Ok(Err((reason, Lsn::new(page * PAGE))));
        }
        let usable = self.pages.usable(page);
        let rest = usable.start + in_page..usable.end;
        if rest.len() >= RECORD_HEADER_BYTES {
            let header = match decode_header(&self.pages.chunk[rest.clone()], start) {
                Ok(header) => header,
                Err(error) => return Ok(Err((EndReason::Record(error), start))),
            };
            if header.padded_len() <= rest.len() {
                return Ok(Ok(Found::InChunk(
                    rest.start..rest.start + header.padded_len(),
                )));
            }
        }
        self.gather(page, rest, start)
    }

    /// Loads the page that a record starts in, and checks that it goes on where it should.
    fn enter_first_page(&mut self, page: u64, in_page: usize) -> io::Result<Result<(), EndReason>> {
        if self.cursor.checked_page == Some(page) && self.pages.is_loaded(page) {
            return Ok(Ok(()));
        }
        let header = match self.pages.load(page)? {
            Ok(header) => header,
            Err(reason) => return Ok(Err(reason)),
        };
        if header.remaining as usize > in_page {
            let (found, expected) = (header.remaining, in_page as u32);
            return Ok(Err(EndReason::Continuation { found, expected }));
        }
        self.cursor.checked_page = Some(page);
        Ok(Ok(()))
    }

    /// Puts a record together that begins with `rest` of `page` and goes on in the next pages.
    fn gather(
        &mut self,
        mut page: u64,
        rest: Range<usize>,
        start: Lsn,
    ) -> io::Result<Result<Found, (EndReason, Lsn)>> {
        self.gathered.clear();
        self.gathered.extend_from_slice(&self.pages.chunk[rest]);
        loop {
            // The length is in the first 8 bytes, which one page holds; the rest of the header may
            // be in the next, whose `remaining` is held against the length before it is taken.
            let need = match self.gathered_len(start) {
                Ok(need) => need,
                Err(error) => return Ok(Err((EndReason::Record(error), start))),
            };
            if self.gathered.len() >= need {
                return Ok(Ok(Found::Gathered));
            }
            page += 1;
            let at = Lsn::new(page * PAGE);
            let header = match self.pages.load(page)? {
                Ok(header) => header,
                Err(reason) => return Ok(Err((reason, at))),
            };
            let expected = (need - self.gathered.len()) as u32;
            if header.remaining != expected {
                let found = header.remaining;
                return Ok(Err((EndReason::Continuation { found, expected }, at)));
            }
            self.cursor.checked_page = Some(page);
            let usable = self.pages.usable(page);
            let take = usable.len().min(expected as usize);
            self.gathered
                .extend_from_slice(&self.pages.chunk[usable.start..usable.start + take]);
        }
    }

    /// Length with padding of the record whose beginning is gathered.
    fn gathered_len(&self, start: Lsn) -> Result<usize, RecordError> {
        let mut head = [0; RECORD_HEADER_BYTES];
        let have = self.gathered.len().min(RECORD_HEADER_BYTES);
        head[..have].copy_from_slice(&self.gathered[..have]);
        let header = if have == RECORD_HEADER_BYTES {
            decode_header(&head, start)?
        } else {
            RecordHeader::decode(&head)?
        };
        Ok(header.padded_len())
    }
}

fn decode_header(bytes: &[u8], start: Lsn) -> Result<RecordHeader, RecordError> {
    let header = RecordHeader::decode(bytes)?;
    if header.lsn != start {
        return Err(RecordError::Elsewhere { found: header.lsn });
    }
    Ok(header)
}

/// The pages of the log, a chunk of a file at a time.
struct Pages {
    storage: Arc<dyn Storage>,
    from: ReadFrom,
    file: Option<(u64, Arc<dyn StorageFile>)>,
    chunk: Vec<u8>,
    /// Pages of the log in the chunk.
    chunk_pages: Range<u64>,
    durable_seen: Lsn,
    durable_seen_at: Lsn,
}

impl Pages {
    fn new(storage: Arc<dyn Storage>, from: ReadFrom) -> Pages {
        Pages {
            storage,
            from,
            file: None,
            chunk: Vec::new(),
            chunk_pages: 0..0,
            durable_seen: Lsn::ZERO,
            durable_seen_at: Lsn::ZERO,
        }
    }

    fn is_loaded(&self, page: u64) -> bool {
        self.chunk_pages.contains(&page)
    }

    /// Where the page, which is loaded, lies in the chunk.
    fn range(&self, page: u64) -> Range<usize> {
        let start = (page - self.chunk_pages.start) as usize * WAL_PAGE_BYTES;
        start..start + WAL_PAGE_BYTES
    }

    /// Where the usable bytes of the page, which is loaded, lie in the chunk.
    fn usable(&self, page: u64) -> Range<usize> {
        let range = self.range(page);
        range.start + WAL_HEADER_BYTES..range.end
    }

    /// Brings a page into the chunk and checks its header. Beyond the end of every log there is none:
    /// so positions that are counted on from a page that is there do not overflow.
    fn load(&mut self, page: u64) -> io::Result<Result<WalPageHeader, EndReason>> {
        if page >= LOG_BYTES_MAX / PAGE {
            return Ok(Err(EndReason::MissingSegment));
        }
        if !self.is_loaded(page)
            && let Err(reason) = self.read_chunk(page)?
        {
            return Ok(Err(reason));
        }
        Ok(self.check(page))
    }

    /// Checks a page in the chunk, and takes up what it knows of durable LSNs.
    fn check(&mut self, page: u64) -> Result<WalPageHeader, EndReason> {
        let address = Lsn::new(page * PAGE);
        let bytes = &self.chunk[self.range(page)];
        let header = check_page(bytes, address, self.from.timeline, self.from.system_id)?;
        if header.durable_lsn > self.durable_seen {
            self.durable_seen = header.durable_lsn;
            self.durable_seen_at = address;
        }
        Ok(header)
    }

    fn read_chunk(&mut self, page: u64) -> io::Result<Result<(), EndReason>> {
        self.chunk_pages = 0..0;
        let segment_bytes = self.from.segment_bytes;
        let (number, offset) = (page * PAGE / segment_bytes, page * PAGE % segment_bytes);
        let file = match &self.file {
            Some((open, file)) if *open == number => Arc::clone(file),
            _ => {
                let path = segments::path(self.from.timeline, number, segment_bytes);
                match self.storage.open(&path, OpenMode::Read) {
                    Ok(file) => file,
                    Err(error) if error.kind() == ErrorKind::NotFound => {
                        return Ok(Err(EndReason::MissingSegment));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        self.file = Some((number, Arc::clone(&file)));
        let want = (segment_bytes - offset).min(CHUNK_BYTES as u64) as usize;
        self.chunk.resize(want, 0);
        let have = match file.read_at(&mut self.chunk, offset) {
            // Reading ahead has met a bad sector, which the page that is asked for need not lie on.
            Err(error) if is_bad_sector(&error) => self.read_prefix(&*file, offset)?,
            read => read?,
        };
        let pages = (have / WAL_PAGE_BYTES) as u64;
        if pages == 0 {
            return Ok(Err(EndReason::ShortSegment));
        }
        self.chunk_pages = page..page + pages;
        Ok(Ok(()))
    }

    /// Reads the pages of the chunk up to the first that cannot be read; says how many bytes these are.
    ///
    /// # Errors
    /// When the first cannot be read.
    fn read_prefix(&mut self, file: &dyn StorageFile, offset: u64) -> io::Result<usize> {
        let mut have = 0;
        for page in self.chunk.chunks_exact_mut(WAL_PAGE_BYTES) {
            match file.read_at(page, offset + have as u64) {
                Ok(read) if read == page.len() => have += read,
                Ok(_) => break,
                Err(error) if have == 0 || !is_bad_sector(&error) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(have)
    }

    /// Looks at the headers of all pages from `page` on that may have been written, for durable
    /// LSNs. One that cannot be read says nothing: the log has ended before. Segments are written in
    /// order, so the first one behind `page`'s in which no page is of this log ends the search.
    fn scan_beyond(&mut self, page: u64) -> io::Result<()> {
        let segment_pages = self.from.segment_bytes / PAGE;
        let first = page / segment_pages;
        let numbers = segments::list(&*self.storage, self.from.timeline, self.from.segment_bytes)?;
        for number in numbers.into_iter().filter(|number| *number >= first) {
            let segment = number * segment_pages..(number + 1) * segment_pages;
            let any = self.scan_pages(segment.start.max(page)..segment.end)?;
            if !any && number > first {
                break;
            }
        }
        Ok(())
    }

    /// Whether any of these pages, which are of one segment, is of this log.
    fn scan_pages(&mut self, pages: Range<u64>) -> io::Result<bool> {
        let mut any = false;
        let mut next = pages.start;
        while next < pages.end {
            if !self.is_loaded(next) {
                match self.read_chunk(next) {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => break,
                    Err(error) if is_bad_sector(&error) => {
                        let page = Lsn::new(next * PAGE);
                        log::warn!("page {page} behind the end of the log is passed over: {error}");
                        next += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            let loaded = self.chunk_pages.end.min(pages.end);
            for page in next..loaded {
                any |= self.check(page).is_ok();
            }
            next = loaded;
        }
        Ok(any)
    }
}

/// About where the log that begins at `from` ends, by a look at a few page headers: for whoever
/// wants to know how much there is to do before it is done. A hole in the log may deceive it.
///
/// # Errors
/// When the segments cannot be listed.
pub fn estimate_end(storage: &dyn Storage, from: &ReadFrom) -> io::Result<Lsn> {
    let mut bytes = [0; WAL_PAGE_BYTES];
    let mut is_written = |page: u64| {
        let address = Lsn::new(page * PAGE);
        let read = read_page(
            storage,
            from.timeline,
            from.segment_bytes,
            address,
            &mut bytes,
        );
        read.is_ok() && check_page(&bytes, address, from.timeline, from.system_id).is_ok()
    };
    let segment_pages = from.segment_bytes / PAGE;
    let first = from.lsn.get() / from.segment_bytes;
    let mut numbers = segments::list(storage, from.timeline, from.segment_bytes)?;
    numbers.retain(|number| *number > first);
    let written = numbers.partition_point(|number| is_written(number * segment_pages));
    let last = written.checked_sub(1).map_or(first, |last| numbers[last]);
    let (mut low, mut high) = (last * segment_pages, (last + 1) * segment_pages);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if is_written(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(from.lsn.max(Lsn::new(high * PAGE)))
}

/// Reads one page of the log.
///
/// # Errors
/// When its file is missing, too short, or cannot be read.
pub(super) fn read_page(
    storage: &dyn Storage,
    timeline: Timeline,
    segment_bytes: u64,
    page: Lsn,
    out: &mut [u8; WAL_PAGE_BYTES],
) -> Result<(), WalError> {
    let path = segments::path_of(timeline, page, segment_bytes);
    let file = storage.open(&path, OpenMode::Read)?;
    let have = file.read_at(out, page.get() % segment_bytes)?;
    if have < out.len() {
        let message = format!("\"{path}\" ends inside the page at {page}");
        return Err(io::Error::new(ErrorKind::UnexpectedEof, message).into());
    }
    Ok(())
}

/// Writes the log from the page of `from` to `end` again, as it stands in the files, and syncs it.
///
/// What the kernel gives back after a failed sync may be nowhere on disk. So whoever recovers does
/// this for all that is not proved durable, before anything builds on it.
///
/// A sync that fails ends the process at once: workers may still be at what is proved, and an error would
/// have to wait for them.
///
/// # Errors
/// When a file cannot be read or written; then the server must not start.
pub fn secure_tail(storage: &dyn Storage, from: &ReadFrom, end: Lsn) -> Result<(), WalError> {
    let path = |segment| segments::path(from.timeline, segment, from.segment_bytes);
    let sync = |segment, file: &dyn StorageFile| {
        if let Err(error) = file.sync_all() {
            let path = path(segment);
            rd_sys::crash::panic_abort(&format!("could not sync file \"{path}\": {error}"));
        }
    };
    let mut page = [0; WAL_PAGE_BYTES];
    let mut open: Option<(u64, Arc<dyn StorageFile>)> = None;
    let first = wal_page::page_start(from.lsn).get() / PAGE;
    for number in first..end.get().div_ceil(PAGE) {
        let address = Lsn::new(number * PAGE);
        read_page(
            storage,
            from.timeline,
            from.segment_bytes,
            address,
            &mut page,
        )?;
        let segment = wal_page::segment_of(address, from.segment_bytes);
        let file = match open.take() {
            Some((of, file)) if of == segment => file,
            other => {
                if let Some((of, done)) = other {
                    sync(of, &*done);
                }
                storage.open(&path(segment), OpenMode::ReadWrite)?
            }
        };
        file.write_all_at(&page, address.get() % from.segment_bytes)?;
        open = Some((segment, file));
    }
    if let Some((segment, last)) = open {
        sync(segment, &*last);
    }
    Ok(())
}
