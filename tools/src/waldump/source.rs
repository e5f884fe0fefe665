//! Where the log is: its directory, the size of its segments, whose it is.
//!
//! Beside a `pg_control` that says so; else from the files themselves, so that segments copied
//! elsewhere can be read too.

use crate::cli::with_hint;
use crate::control;
use crate::datadir;
use crate::reading;
use anyhow::{Context, Result, bail};
use rd_base::limits::WAL_PAGE_BYTES;
use rd_base::{Lsn, StartCount, Timeline};
use rd_format::wal_page::{self, WAL_HEADER_BYTES, WalPageHeader};
use rd_store::wal::{ReadFrom, WAL_DIR, segments};
use rd_sys::storage::{OpenMode, RealStorage, Storage, StorageFile};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Segments are no smaller: two pages.
pub const SEGMENT_BYTES_MIN: u64 = 2 * WAL_PAGE_BYTES as u64;
/// Segments are no larger.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Letters of a segment's name.
const NAME_LETTERS: usize = 24;

/// A directory of segments as the storage that the log's reader wants. Nothing can be changed
/// through it.
struct LogDirectory {
    dir: PathBuf,
    storage: RealStorage,
}

impl LogDirectory {
    fn name(path: &str) -> io::Result<&str> {
        path.strip_prefix(WAL_DIR)
            .map(|name| name.trim_start_matches('/'))
            .ok_or_else(|| {
                io::Error::new(
                    ErrorKind::InvalidInput,
                    format!("\"{path}\" is not of the log"),
                )
            })
    }
}

fn read_only() -> io::Error {
    io::Error::new(
        ErrorKind::PermissionDenied,
        "the log is opened for reading only",
    )
}

impl Storage for LogDirectory {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        if mode != OpenMode::Read {
            return Err(read_only());
        }
        let name = LogDirectory::name(path)?;
        // To open a pipe would wait for who writes to it.
        reading::check_regular(&self.dir.join(name))?;
        self.storage.open(name, mode)
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(read_only())
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.storage.list(LogDirectory::name(dir)?)
    }
    fn create_dir(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }
    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Err(read_only())
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.storage.exists(LogDirectory::name(path)?)
    }
}

/// What the command line says of place and range.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `-p`.
    pub path: Option<PathBuf>,
    /// `-t`.
    pub timeline: Option<Timeline>,
    /// `-s`.
    pub start: Option<Lsn>,
    /// `-e`.
    pub end: Option<Lsn>,
    /// The first segment's file, with or without its directory.
    pub first_segment: Option<PathBuf>,
    /// The last segment's file.
    pub last_segment: Option<PathBuf>,
}

/// A log, and the part of it that is wanted.
pub struct Log {
    /// Where its segments are.
    pub dir: PathBuf,
    /// The same, for the reader.
    pub storage: Arc<dyn Storage>,
    /// Whose log, and where to begin.
    pub from: ReadFrom,
    /// Whether the start was asked for, rather than being the oldest segment.
    pub start_is_wanted: bool,
    /// Where to end: before the first record that starts there or behind.
    pub end: Option<Lsn>,
    /// Up to where the log was durable, as `pg_control` says, if there is one.
    pub durable: Lsn,
    /// The redo point there, and the start count of the record before it: what lies before is not needed.
    /// The lower one of both slots, as both may count.
    pub redo: Option<(Lsn, StartCount)>,
}

/// What a data directory's `pg_control` says of its log.
struct Known {
    segment_bytes: u64,
    system_id: u64,
    timeline: Timeline,
    durable: Lsn,
    redo: Option<(Lsn, StartCount)>,
}

impl Log {
    /// Finds the log.
    ///
    /// # Errors
    /// When there is none, or not the wanted part of it.
    pub fn find(wanted: &Wanted) -> Result<Log> {
        let dir = directory(wanted)?;
        let known = known(&dir);
        let first_name = wanted.first_segment.as_deref().map(file_name).transpose()?;
        let last_name = wanted.last_segment.as_deref().map(file_name).transpose()?;
        let segment_bytes = match &known {
            Some(known) => known.segment_bytes,
            None => segment_bytes(&dir, first_name.as_deref())?,
        };
        let parse = |name: &str| {
            wal_page::parse_segment_name(name, segment_bytes)
                .with_context(|| format!("\"{name}\" is no name of a WAL file"))
        };
        let first = first_name.as_deref().map(parse).transpose()?;
        let last = last_name.as_deref().map(parse).transpose()?;
        let timeline = wanted
            .timeline
            .or(first.map(|(timeline, _)| timeline))
            .or(known.as_ref().map(|known| known.timeline))
            .unwrap_or(Timeline::new(1));
        let storage: Arc<dyn Storage> = Arc::new(LogDirectory {
            dir: dir.clone(),
            storage: RealStorage::new(dir.clone()),
        });
        let start_is_wanted = wanted.start.is_some() || first.is_some();
        let start = match (wanted.start, first) {
            (Some(start), _) => start,
            (None, Some((_, number))) => wal_page::segment_start(number, segment_bytes),
            (None, None) => oldest(&*storage, &dir, timeline, segment_bytes)?,
        };
        let system_id = match &known {
            Some(known) => known.system_id,
            None => system_id(&dir, timeline, start, segment_bytes)?,
        };
        let behind_last = |(_, number): (Timeline, u64)| {
            wal_page::segment_start(number.saturating_add(1), segment_bytes)
        };
        let end = wanted.end.or(last.map(behind_last));
        if end.is_some_and(|end| end <= start) {
            bail!("the start, {start}, is not before the end");
        }
        let start_count = StartCount::new(0);
        let from = ReadFrom {
            lsn: start,
            timeline,
            segment_bytes,
            system_id,
            start_count,
        };
        let known = known.filter(|known| known.timeline == timeline);
        let durable = known.as_ref().map_or(Lsn::ZERO, |known| known.durable);
        let redo = known.and_then(|known| known.redo);
        Ok(Log {
            dir,
            storage,
            from,
            start_is_wanted,
            end,
            durable,
            redo,
        })
    }

    /// The file that holds a byte of the log, and the byte's offset in it.
    pub fn place(&self, lsn: Lsn) -> (PathBuf, u64) {
        let segment_bytes = self.from.segment_bytes;
        let segment = wal_page::segment_of(lsn, segment_bytes);
        let name = wal_page::segment_name(self.from.timeline, segment, segment_bytes);
        (self.dir.join(name), lsn.get() % segment_bytes)
    }
}

/// The directory of segments: the one that is named, or its `wal`; else where one usually is.
fn directory(wanted: &Wanted) -> Result<PathBuf> {
    let of_segment = wanted.first_segment.as_deref().and_then(Path::parent);
    let of_segment = of_segment.filter(|dir| !dir.as_os_str().is_empty());
    if let Some(path) = wanted.path.as_deref().or(of_segment) {
        return match holding(path) {
            Some(dir) => Ok(dir),
            None => bail!("could not find a WAL file in \"{}\"", path.display()),
        };
    }
    let usual = [Some(PathBuf::from(".")), datadir::from_environment()];
    match usual.iter().flatten().find_map(|path| holding(path)) {
        Some(dir) => Ok(dir),
        None => Err(with_hint(
            "could not find any WAL file",
            "Name the data directory, or its wal directory, with -p.",
        )),
    }
}

/// `path` or its `wal`, whichever holds segments.
fn holding(path: &Path) -> Option<PathBuf> {
    let candidates = [path.to_owned(), path.join(WAL_DIR)];
    candidates
        .into_iter()
        .find(|dir| segment_names(dir).next().is_some())
}

/// Names of files in a directory that look like those of segments.
fn segment_names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.len() == NAME_LETTERS
                && name
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
        })
}

/// What `pg_control` says, if the directory is of a data directory whose control file is valid.
fn known(dir: &Path) -> Option<Known> {
    // By its name, as the directory may be a link to elsewhere; "." and ".." have none.
    let data_dir = match (dir.file_name(), dir.parent()) {
        (Some(_), Some(parent)) => parent.to_owned(),
        _ => dir.join(".."),
    };
    let reading = control::read(&data_dir).ok()?;
    let chosen = reading.outcome.ok()?;
    let control = chosen.control;
    control.compatible().ok()?;
    let slots = [Some(&control), chosen.other.as_ref().ok()];
    let redo = slots.into_iter().flatten();
    let redo = redo.map(|slot| (slot.redo_lsn, slot.redo_predecessor_count));
    // One behind the log that was durable is none that a server has written.
    let redo = redo.min().filter(|(lsn, _)| *lsn <= control.durable_lsn);
    let segment_bytes = u64::from(control.wal_segment_bytes);
    (segment_bytes <= SEGMENT_BYTES_MAX).then_some(Known {
        segment_bytes,
        system_id: control.system_identifier,
        timeline: control.timeline,
        durable: control.durable_lsn,
        redo,
    })
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.with_context(|| format!("\"{}\" names no WAL file", path.display()))?;
    Ok(name.to_owned())
}

/// The size of segments, from the length of a file.
fn segment_bytes(dir: &Path, name: Option<&str>) -> Result<u64> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => segment_names(dir)
            .min()
            .context("could not find any WAL file")?,
    };
    let path = dir.join(name);
    let bytes = fs::metadata(&path)
        .with_context(|| format!("could not open file \"{}\"", path.display()))?
        .len();
    if !bytes.is_power_of_two() || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&bytes) {
        return Err(with_hint(
            format!(
                "the size of \"{}\", {bytes} bytes, is none of a WAL file",
                path.display()
            ),
            "A WAL file is a power of two, and no more than 1 GiB. Was it cut in copying?",
        ));
    }
    Ok(bytes)
}

/// Where the oldest segment of the timeline begins.
fn oldest(
    storage: &dyn Storage,
    dir: &Path,
    timeline: Timeline,
    segment_bytes: u64,
) -> Result<Lsn> {
    let numbers = segments::list(storage, timeline, segment_bytes)?;
    match numbers.first() {
        Some(number) => Ok(wal_page::segment_start(*number, segment_bytes)),
        None => {
            bail!(
                "could not find a WAL file of timeline {timeline} in \"{}\"",
                dir.display()
            )
        }
    }
}

/// The system identifier in the first page of the segment at `start`, or of any other.
fn system_id(dir: &Path, timeline: Timeline, start: Lsn, segment_bytes: u64) -> Result<u64> {
    let wanted = wal_page::segment_of(start, segment_bytes);
    let wanted = wal_page::segment_name(timeline, wanted, segment_bytes);
    let mut others: Vec<String> = segment_names(dir).collect();
    others.sort_unstable();
    let names = std::iter::once(wanted.clone()).chain(others);
    let found = names.filter_map(|name| first_header(&dir.join(name)));
    match found.map(|header| header.system_identifier).next() {
        Some(system_id) => Ok(system_id),
        None => bail!(
            "no WAL file in \"{}\" begins with a valid page",
            dir.display()
        ),
    }
}

fn first_header(path: &Path) -> Option<WalPageHeader> {
    let bytes = reading::beginning(path, WAL_HEADER_BYTES as u64).ok()?;
    WalPageHeader::decode(&bytes).ok()
}
