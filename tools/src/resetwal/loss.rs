//! What of the log is lost with it.

use crate::waldump::source::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use anyhow::Result;
use rd_base::civil::Utc;
use rd_base::{Lsn, StartCount, Timeline};
use rd_format::wal_page::{self, WAL_HEADER_BYTES, WalPageHeader};
use rd_format::wal_record::RecordKind;
use rd_store::wal::{ReadFrom, WAL_DIR, WalReader, segments};
use rd_sys::storage::{OpenMode, Storage, StorageFile, is_bad_sector};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The part of the log that may not be in the relation files.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The redo point; or, if that is not known, where the log begins.
    pub from: Lsn,
    /// The end of the last record that can be read.
    pub end: Lsn,
    /// Records.
    pub records: u64,
    /// Of those, commits.
    pub commits: u64,
    /// When the last of them was made, microseconds since 1970; 0 without one.
    pub last_commit_us: u64,
    /// The start count of the last record.
    pub start_count: StartCount,
    /// The highest LSN that is known to have been durable.
    pub durable: Lsn,
    /// Where and why it cannot be read further, in words.
    pub reason: String,
    /// Whether `from` is the redo point.
    pub is_from_redo: bool,
    /// Whether the disk does not give what follows, so that nobody knows how much that is.
    pub is_cut_off: bool,
    /// How often the log goes on behind an end of it, if `from` is not the redo point: segments that are
    /// left over may have a gap behind them, or another log.
    pub gaps: u64,
}

fn segment_names(storage: &dyn Storage) -> io::Result<Vec<String>> {
    if !storage.exists(WAL_DIR)? {
        return Ok(Vec::new());
    }
    let mut names = storage.list(WAL_DIR)?;
    names.retain(|name| super::is_segment_name(name));
    Ok(names)
}

fn open(storage: &dyn Storage, name: &str) -> io::Result<Arc<dyn StorageFile>> {
    storage.open(&format!("{WAL_DIR}/{name}"), OpenMode::Read)
}

/// The size of the log's files, whatever they hold; none if there is no file that could be one.
///
/// # Errors
/// When a file that is there cannot be read, but for bad sectors.
pub fn segment_bytes(storage: &dyn Storage) -> io::Result<Option<u64>> {
    for name in segment_names(storage)? {
        let bytes = readable(open(storage, &name).and_then(|file| file.len()))?;
        let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        if let Some(bytes) = bytes.filter(|bytes| bytes.is_power_of_two() && sizes.contains(bytes))
        {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The log that is there, from its oldest segment on, as far as its files tell: where no
/// `pg_control` does. None if there is no log that can be read.
///
/// # Errors
/// When a file that is there cannot be read, but for bad sectors.
pub fn oldest_log(storage: &dyn Storage, segment_bytes: u64) -> Result<Option<ReadFrom>> {
    let names = segment_names(storage)?;
    let timeline = Timeline::new(1);
    let oldest = segments::list(storage, timeline, segment_bytes)?;
    let Some(oldest) = oldest.first() else {
        return Ok(None);
    };
    // Its own first page says whose it is; if that is damaged or cannot be read, any other's does.
    let own = wal_page::segment_name(timeline, *oldest, segment_bytes);
    for name in std::iter::once(&own).chain(&names) {
        let mut bytes = [0; WAL_HEADER_BYTES];
        let read = readable(open(storage, name).and_then(|file| file.read_at(&mut bytes, 0)))?;
        if read.is_some()
            && let Ok(header) = WalPageHeader::decode(&bytes)
        {
            return Ok(Some(ReadFrom {
                lsn: wal_page::segment_start(*oldest, segment_bytes),
                timeline,
                segment_bytes,
                system_id: header.system_identifier,
                start_count: StartCount::new(0),
            }));
        }
    }
    Ok(None)
}

/// Where the log that `from` is of goes on behind its end: the first segment there whose first page is what
/// it should be.
fn behind(storage: &dyn Storage, from: ReadFrom, end: Lsn) -> io::Result<Option<Lsn>> {
    // Of the last segment that was begun some pages were looked at.
    let looked_at = wal_page::segment_of(end.max(from.lsn), from.segment_bytes);
    let numbers = segments::list(storage, from.timeline, from.segment_bytes)?;
    for number in numbers.into_iter().filter(|number| *number > looked_at) {
        let name = wal_page::segment_name(from.timeline, number, from.segment_bytes);
        let start = wal_page::segment_start(number, from.segment_bytes);
        let mut bytes = [0; WAL_HEADER_BYTES];
        let read = readable(open(storage, &name).and_then(|file| file.read_at(&mut bytes, 0)))?;
        if read.is_some() && WalPageHeader::decode_at(&bytes, start, from.system_id).is_ok() {
            return Ok(Some(start));
        }
    }
    Ok(None)
}

/// What was read; none if it lies on a bad sector, which refuses nothing here.
fn readable<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if is_bad_sector(&error) => Ok(None),
        read => read.map(Some),
    }
}

impl Loss {
    /// Reads the log from `from` to its end, or to a bad sector: what lies behind that is as good as
    /// gone. `durable` is what `pg_control` says of the end; none if it cannot be read, and then `from`
    /// is just a place in the log.
    ///
    /// # Errors
    /// When a file that is there cannot be read for another reason.
    pub fn read(storage: &Arc<dyn Storage>, from: ReadFrom, durable: Option<Lsn>) -> Result<Loss> {
        let mut loss = Loss {
            from: from.lsn,
            end: from.lsn,
            records: 0,
            commits: 0,
            last_commit_us: 0,
            start_count: from.start_count,
            durable: durable.unwrap_or_default(),
            reason: String::new(),
            is_from_redo: durable.is_some(),
            is_cut_off: false,
            gaps: 0,
        };
        match loss.read_on(storage, from) {
            Err(error) if is_bad_sector(&error) => {
                loss.is_cut_off = true;
                loss.reason = error.to_string();
            }
            read => read?,
        }
        Ok(loss)
    }

    fn read_on(&mut self, storage: &Arc<dyn Storage>, from: ReadFrom) -> io::Result<()> {
        if self.is_from_redo {
            return self.sum_up(WalReader::new(Arc::clone(storage), from));
        }
        let mut next = Some(from);
        while let Some(from) = next {
            self.gaps += u64::from(from.lsn > self.from);
            self.sum_up(WalReader::first_from(Arc::clone(storage), from)?)?;
            next = behind(&**storage, from, self.end)?.map(|lsn| ReadFrom {
                lsn,
                start_count: self.start_count,
                ..from
            });
        }
        Ok(())
    }

    fn sum_up(&mut self, mut reader: WalReader) -> io::Result<()> {
        while let Some(record) = reader.next()? {
            let header = record.view.header();
            self.records += 1;
            if record.view.kind() == RecordKind::Commit {
                self.commits += 1;
                self.last_commit_us = header.time_us;
            }
            self.end = record.end;
            self.start_count = header.start_count;
            self.durable = self.durable.max(reader.durable_seen());
        }
        let end = reader.finish()?;
        self.end = end.lsn;
        self.start_count = end.start_count;
        self.durable = self.durable.max(end.durable_seen);
        self.reason = end.to_string();
        Ok(())
    }

    /// Whether there is nothing to be lost.
    pub fn is_nothing(&self) -> bool {
        self.records == 0 && self.durable <= self.end && !self.is_cut_off
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_nothing() && self.is_from_redo {
            return write!(f, "No record follows the redo point, {}.", self.from);
        }
        let (from, end) = (self.from, self.end);
        let what = if self.is_from_redo {
            "The write-ahead log from the redo point,"
        } else {
            "The write-ahead log that is there, from"
        };
        write!(
            f,
            "{what} {from}, to {end} ({} bytes) holds {} records, {} of them commits",
            end.bytes_since(from),
            self.records,
            self.commits,
        )?;
        if self.commits > 0 {
            let last = Utc::since_epoch(Duration::from_micros(self.last_commit_us));
            write!(f, ", the last made at {last:#}")?;
        }
        writeln!(f, ".")?;
        if self.gaps > 0 {
            writeln!(
                f,
                "Gaps in it: {}; segments are missing or damaged there, or the log was begun anew.",
                self.gaps
            )?;
        }
        if self.durable > self.end {
            writeln!(
                f,
                "It was durable up to {}; what lies behind cannot be read: {}.",
                self.durable, self.reason
            )?;
        } else if self.is_cut_off {
            writeln!(
                f,
                "What lies behind, however much that is, cannot be read: {}.",
                self.reason
            )?;
        }
        write!(
            f,
            "What of it is not in the relation files is lost; transactions may be there in part, \
             and trees may be damaged."
        )
    }
}
