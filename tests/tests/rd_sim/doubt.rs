//! A crash of a disk that has lied about the log, a slot of `pg_control`, the copies in the double-write
//! area, or what is remembered of checkpoints. All that is held against a disk that has told the truth
//! must hold, but for what that lie explains:
//!
//! * Log that recovery needs may refuse the start, by name. The log may end before it only where nothing
//!   on the disk tells that it was durable any further.
//! * With one slot lost, the other may be older; both may be lost where the power has cut the write of
//!   the other one off.
//! * A page that was torn, and of which no copy is whole, is named.
//! * What is remembered has gaps ([`Memory::may_have_gaps`](crate::history::Memory::may_have_gaps)).

use crate::check::Checks;
use crate::harm::{Harm, Subject};
use crate::ledger::Ledger;
use crate::machine::{Failure, SEGMENT_BYTES};
use crate::run::SYSTEM_IDENTIFIER;
use rd_base::limits::{PAGE_BYTES, WAL_PAGE_BYTES};
use rd_base::{BlockNo, Lsn, PageTag, Timeline};
use rd_format::bitmap::META_BLOCK;
use rd_format::doublewrite::{DW_SLOT_BYTES, DwBatch, decode_header, page_offset};
use rd_format::meta;
use rd_format::page::{self, PageBytes};
use rd_format::wal_page::{self, WalPageHeader, page_start, parse_segment_name};
use rd_store::doublewrite::DOUBLEWRITE_PATH;
use rd_store::relation::{BASE_DIR, parse_name};
use rd_store::{control_file, wal::segments};
use rd_sys::simdisk::{Rng, SimStorage, Told};
use rd_sys::storage::{OpenMode, Storage};
use std::io;
use std::ops::Range;

/// A lie, and the start that comes after it.
#[derive(Clone, Debug)]
pub struct Doubt {
    subject: Subject,
    told: Told,
}

/// The log ends before what was promised.
pub fn recedes(end: Lsn, ledger: &Ledger) -> Failure {
    let promised = ledger.promised();
    Failure(format!(
        "the log ends at {end}, and was promised to last to {promised}"
    ))
}

impl Checks<'_> {
    /// Starts the server on `disk`, which has told this lie, as `harm` says, and crashed.
    ///
    /// # Errors
    /// When something is so that must not be.
    pub fn recover_lied(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        (harm, told): (&Harm, Told),
        rng: &mut Rng,
    ) -> Result<(), Failure> {
        let subject = harm.lies_about().expect("it has told one");
        self.tally.lied[subject as usize] += 1;
        let is_named = match subject {
            Subject::Pages => self.recover_damaged(disk, ledger, harm, rng)?,
            _ => self.recover_doubting(disk, ledger, (subject, told), rng)?,
        };
        self.tally.named[subject as usize] += u64::from(is_named);
        Ok(())
    }

    /// The same, if that is about no pages. Gives whether the start has named what is damaged.
    fn recover_doubting(
        &mut self,
        disk: &SimStorage,
        ledger: &Ledger,
        (subject, told): (Subject, Told),
        rng: &mut Rng,
    ) -> Result<bool, Failure> {
        let mut ledger = ledger.clone();
        if subject == Subject::Control {
            ledger.memory.may_be_ahead();
        }
        let text = format!("{told:?}");
        ledger.doubt = Some(Doubt { subject, told });
        let started = self
            .recover_doubted(disk, &ledger, 0, rng)
            .map_err(|Failure(failure)| Failure(format!("{failure}\n  after a lie: {text}")))?;
        Ok(started.is_none())
    }
}

impl Doubt {
    pub fn is_about(&self, subject: Subject) -> bool {
        self.subject == subject
    }

    /// Whether a start on `disk` may be refused, or a page not be read, with these words.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn explains(&self, text: &str, disk: &SimStorage) -> Result<bool, Failure> {
        let explains = match self.subject {
            Subject::Log => {
                // The second is of a page that redo has met, the third of the log's last page, which is
                // not read before.
                let complaints = [
                    "write-ahead log is damaged at",
                    "log that was acknowledged is missing",
                    "cannot be continued at",
                ];
                let is_named = complaints.iter().any(|one| text.contains(one));
                let control =
                    control_file::read(disk).map_err(|error| Failure(error.to_string()))?;
                let needed_from = page_start(control.control.redo_lsn);
                Ok(is_named && self.spoilt_log().end > needed_from)
            }
            Subject::Copies => names_a_page_without_a_copy(text, disk),
            Subject::Pages | Subject::Control | Subject::History => Ok(false),
        };
        explains.map_err(|error| Failure(error.to_string()))
    }

    /// Where in the log the bytes lie that are not as they were written.
    fn spoilt_log(&self) -> Range<Lsn> {
        let name = self.told.path.rsplit('/').next().unwrap_or("");
        let named = parse_segment_name(name, SEGMENT_BYTES);
        let start = named.map_or(0, |(_, number)| number * SEGMENT_BYTES);
        Lsn::new(start + self.told.spoilt.start)..Lsn::new(start + self.told.spoilt.end)
    }

    /// The log, as a start has found it on `disk`, ends at `end`, before what was promised. Gives whether
    /// pages are ahead of it that no start can know of: without double writes nothing but they tell of
    /// them, and redo does not meet all.
    ///
    /// # Errors
    /// When it could have been known that it went on, or the lie is not why it ends there.
    pub fn may_end_at(
        &self,
        end: Lsn,
        ledger: &Ledger,
        disk: &SimStorage,
    ) -> Result<bool, Failure> {
        let Failure(recedes) = recedes(end, ledger);
        let wrong = |why: String| Err(Failure(format!("{recedes}; {why}")));
        let spoilt = self.spoilt_log();
        if self.subject != Subject::Log || spoilt.end <= end {
            return wrong("no lie was told about what follows".to_owned());
        }
        if ledger.has_commits(end, spoilt.start) {
            return wrong(format!("what lies before {} could be read", spoilt.start));
        }
        let text = |error: io::Error| Failure(error.to_string());
        let is_above = |(lsn, _): &(Lsn, String)| *lsn > end;
        let known = marks(disk).map_err(text)?.into_iter().find(is_above);
        let ahead = page_marks(disk).map_err(text)?.into_iter().find(is_above);
        let has_copies = control_file::read(disk).is_ok_and(|slots| slots.control.has_all_copies());
        match known.or(ahead.clone().filter(|_| has_copies)) {
            Some((lsn, whose)) => wrong(format!("{whose} tells that it was durable up to {lsn}")),
            None => Ok(ahead.is_some()),
        }
    }
}

/// From where on the disk a start can know up to where the log was durable.
fn marks(disk: &SimStorage) -> io::Result<Vec<(Lsn, String)>> {
    let mut marks = Vec::new();
    let mut offline = Vec::new();
    if let Ok(slots) = control_file::read(disk) {
        let rows = slots.control.files.iter();
        let rows = rows.filter(|row| row.access.is_offline());
        offline.extend(rows.map(|row| row.file));
        let valid = slots.other.into_iter().chain([slots.control]);
        marks.extend(valid.map(|slot| (slot.durable_lsn, "pg_control".to_owned())));
    }
    let timeline = Timeline::new(1);
    for number in segments::list(disk, timeline, SEGMENT_BYTES)? {
        let path = segments::path(timeline, number, SEGMENT_BYTES);
        let bytes = read_all(disk, &path)?;
        for (page, bytes) in bytes.chunks_exact(WAL_PAGE_BYTES).enumerate() {
            let start = wal_page::segment_start(number, SEGMENT_BYTES).get();
            let address = Lsn::new(start + (page * WAL_PAGE_BYTES) as u64);
            if let Ok(header) = WalPageHeader::decode_at(bytes, address, SYSTEM_IDENTIFIER) {
                marks.push((header.durable_lsn, format!("the log's page at {address}")));
            }
        }
    }
    for (slot, batch) in batches(disk)? {
        let copies = batch.entries.iter();
        marks.extend(copies.map(|copy| (copy.page_lsn, format!("a copy in slot {slot}"))));
    }
    for (tag, page) in pages(disk)? {
        let is_header = tag.block == META_BLOCK && !offline.contains(&tag.file);
        if is_header && page::verify(&page, tag).is_ok() {
            let scn = meta::read(&page).checkpoint_scn;
            marks.push((scn, format!("the header of file {}", tag.file)));
        }
    }
    Ok(marks)
}

/// What each page tells.
fn page_marks(disk: &SimStorage) -> io::Result<Vec<(Lsn, String)>> {
    let good = pages(disk)?
        .into_iter()
        .filter(|(tag, page)| page::verify(page, *tag).is_ok());
    Ok(good
        .map(|(tag, page)| (page::page_lsn(&page), tag.to_string()))
        .collect())
}

/// Whether `text` names a page that is damaged in its place, and of which no copy is whole.
fn names_a_page_without_a_copy(text: &str, disk: &SimStorage) -> io::Result<bool> {
    let is_named = |tag: &PageTag| {
        let tag = tag.to_string();
        let mut behind = text.split(&tag).skip(1);
        behind.any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
    };
    let named = pages(disk)?
        .into_iter()
        .filter(|(tag, page)| page::check(page, *tag).is_err() && is_named(tag))
        .map(|(tag, _)| tag);
    let area = read_all(disk, DOUBLEWRITE_PATH)?;
    let first =
        control_file::read(disk).map_or(0, |slots| slots.control.first_unsynced_batch.get());
    let batches = batches(disk)?;
    let has_copy = |tag: PageTag| {
        let later = batches
            .iter()
            .filter(|(_, batch)| batch.batch.get() >= first);
        let mut copies = later.flat_map(|(slot, batch)| {
            let entries = batch.entries.iter().enumerate();
            entries.map(|(index, entry)| (page_offset(*slot * DW_SLOT_BYTES, index), entry))
        });
        copies.any(|(at, entry)| {
            let copy = area.get(at as usize..at as usize + PAGE_BYTES);
            let copy = copy.and_then(|copy| <&PageBytes>::try_from(copy).ok());
            entry.tag == tag && copy.is_some_and(|copy| entry.matches(copy))
        })
    };
    Ok(named.into_iter().any(|tag| !has_copy(tag)))
}

/// The batches in the double-write area whose headers are whole, each with its slot.
fn batches(disk: &SimStorage) -> io::Result<Vec<(u64, DwBatch)>> {
    let area = read_all(disk, DOUBLEWRITE_PATH)?;
    let slots = area.chunks_exact(DW_SLOT_BYTES as usize);
    let count = slots.len() as u64;
    let decode = |(slot, bytes): (usize, &[u8])| {
        let header = bytes.first_chunk::<PAGE_BYTES>()?;
        let batch = decode_header(header).ok()?;
        let slot = slot as u64;
        (batch.batch.get() % count == slot).then_some((slot, batch))
    };
    Ok(slots.enumerate().filter_map(decode).collect())
}

/// The pages of relation files, whatever is in them.
fn pages(disk: &SimStorage) -> io::Result<Vec<(PageTag, PageBytes)>> {
    let mut pages = Vec::new();
    for name in disk.list(BASE_DIR)? {
        let Some((file, 0)) = parse_name(&name) else {
            continue;
        };
        let bytes = read_all(disk, &format!("{BASE_DIR}/{name}"))?;
        let (whole, _) = bytes.as_chunks::<PAGE_BYTES>();
        let tagged = whole.iter().enumerate();
        pages.extend(tagged.map(|(block, page)| {
            let tag = PageTag::new(file, BlockNo::new(block as u32));
            (tag, *page)
        }));
    }
    Ok(pages)
}

fn read_all(disk: &SimStorage, path: &str) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; file.len()? as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
