//! What `rd_resetwal` finds out of a data directory, plans and does.
//!
//! Invariants:
//! - The new log begins in a segment behind every LSN that anything in the directory names: both
//!   slots of `pg_control`, the segments that are there, the double-write area, the relation files.
//!   So no page is newer than the log, and no old record passes for one of the new log.
//! - After anything but a clean stop, torn pages are mended from the double-write area first, as a
//!   start would do it; keys are counted anew, since nobody knows which commits the files hold. What the
//!   files hold is durable before `pg_control` says that there is nothing to be redone.
//! - A file of another data directory in the place of one of this is left as it is, and so is all
//!   else; likewise where a file with keys is not there. Either would lose a namespace for good that
//!   may yet be put back.
//! - What the disk does not give back ends the log, or has to be guessed, as what is damaged does: this is
//!   the tool for such disks.
//! - A file that is closed, as its namespace is read only or offline, keeps its stop SCN; that of an
//!   offline namespace is not touched, and its row stays as it is: it may be away.
//! - A file that the catalog does not name gets no row, unless it waits to be removed: the catalog on disk
//!   may be older than the file, and the next start drops what has a row and no name. What has no row
//!   stays where it is.
//! - The new `pg_control` takes the place of the old one whole, and only then old log is removed.
//!   Cut off anywhere, the tool can be run again.

mod loss;

pub use loss::Loss;

use crate::datadir::CONTROL_FILE;
use crate::reading;
use anyhow::{Context, Result, anyhow, bail};
use rd_base::limits::{FILES_MAX, LOG_BYTES_MAX, PAGE_BYTES};
use rd_base::{BatchNo, BlockNo, FileNo, Lsn, PageTag, Timeline};
use rd_engine::init::{self, FIRST_FILE_BLOCKS, VERSION, VERSION_FILE};
use rd_engine::namespace::names_of_files;
use rd_engine::verify::{FilePages, verify};
use rd_format::bitmap::META_BLOCK;
use rd_format::catalog::CATALOG_FILE;
use rd_format::control::{
    ControlFile, DbState, FileRow, PROTECTION_DOUBLE_WRITE, checkpoint_flags,
};
use rd_format::page::{self, PageBytes};
use rd_format::{Access, meta, wal_page};
use rd_store::control_file::{self, ControlFileError, GLOBAL_DIR};
use rd_store::doublewrite::{DOUBLEWRITE_PATH, DoubleWrite};
use rd_store::relation::{BASE_DIR, RelationFiles, parse_name, path};
use rd_store::wal::{ReadFrom, WAL_DIR, segments};
use rd_sys::clock::wall_us;
use rd_sys::storage::{OpenMode, RealStorage, Storage, is_bad_sector};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

/// Size of the log's files where nothing tells it.
const SEGMENT_BYTES_USUAL: u64 = 16 << 20;

/// No server comes to higher numbers of files. What lies there under one was put there, and numbers that
/// began behind it would soon be at their end.
const FILE_NO_BELIEVED_MAX: u32 = u32::MAX / 2;

/// A data directory, as it was found.
pub struct Found {
    storage: Arc<dyn Storage>,
    /// What `pg_control` says, or what was guessed.
    pub control: ControlFile,
    /// The other slot, if it is valid.
    other: Option<ControlFile>,
    /// `pg_control` cannot be read: why.
    pub guessed: Option<String>,
    /// What of the log is lost; none after a clean stop.
    pub loss: Option<Loss>,
}

/// What is to be written.
pub struct Plan {
    /// The new `pg_control`.
    pub control: ControlFile,
    /// The name of the first file of the new log.
    pub segment: String,
    number: u64,
    /// The double-write area cannot be used: the next start makes another.
    is_area_unusable: bool,
    /// Files that stay where they are, without a row.
    unused: BTreeSet<FileNo>,
    /// What people should know of the files.
    pub notes: Vec<String>,
}

/// Reads `pg_control`, and what of the log it does not need any more.
///
/// # Errors
/// When the directory is of another version, or something cannot be read, but for bad sectors.
pub fn look(dir: &Path) -> Result<Found> {
    let version = std::fs::read_to_string(dir.join(VERSION_FILE));
    let version = version.with_context(|| format!("could not read \"{VERSION_FILE}\""))?;
    if version.trim() != VERSION {
        bail!(
            "data directory is of wrong version\nDETAIL: File \"{VERSION_FILE}\" contains \
             \"{}\", which is not compatible with this program's version \"{VERSION}\".",
            version.trim()
        );
    }
    // To open a pipe would wait for who writes to it.
    let path = dir.join(CONTROL_FILE);
    let unusable = || format!("could not open file \"{}\" for reading", path.display());
    reading::check_regular(&path).with_context(unusable)?;
    look_in(Arc::new(RealStorage::new(dir.to_owned())))
}

/// As [`look`], in a storage that holds a data directory of this version.
///
/// # Errors
/// When something cannot be read, but for bad sectors.
pub fn look_in(storage: Arc<dyn Storage>) -> Result<Found> {
    let chosen = match control_file::read(&*storage) {
        Ok(chosen) => chosen,
        Err(ControlFileError::BothDamaged([first, second])) => {
            let why = format!("slot 0: {first}; slot 1: {second}");
            return guess(storage, why);
        }
        Err(ControlFileError::Io(error)) if is_bad_sector(&error) => {
            return guess(storage, error.to_string());
        }
        Err(error) => return Err(error.into()),
    };
    let control = chosen.control;
    let is_clean = control.state == DbState::ShutDown;
    let from = ReadFrom {
        lsn: control.redo_lsn,
        timeline: control.timeline,
        segment_bytes: u64::from(control.wal_segment_bytes),
        system_id: control.system_identifier,
        start_count: control.redo_predecessor_count,
    };
    let loss = (!is_clean).then(|| Loss::read(&storage, from, Some(control.durable_lsn)));
    Ok(Found {
        loss: loss.transpose()?,
        storage,
        control,
        other: chosen.other.ok(),
        guessed: None,
    })
}

/// Makes values up from what else there is, as `pg_control` cannot be read.
fn guess(storage: Arc<dyn Storage>, why: String) -> Result<Found> {
    // Seen where no segment has a page yet, too.
    let found_bytes = loss::segment_bytes(&*storage)?;
    let log = match found_bytes {
        Some(bytes) => loss::oldest_log(&*storage, bytes)?,
        None => None,
    };
    let segment_bytes = found_bytes.unwrap_or(SEGMENT_BYTES_USUAL);
    let relations = RelationFiles::reader(Arc::clone(&storage));
    let mut systems: BTreeMap<u64, usize> = BTreeMap::new();
    for file in files_on_disk(&*storage)? {
        if let Some((_, header)) = header(&relations, file) {
            *systems.entry(header.system_identifier).or_default() += 1;
        }
    }
    let most = systems.into_iter().max_by_key(|(_, files)| *files);
    let of_log = log.as_ref().map(|from| from.system_id);
    let system_identifier = most
        .map(|(system, _)| system)
        .or(of_log)
        .unwrap_or_else(rd_sys::random::u64);
    let first = segments::first_lsn(segment_bytes);
    let mut control = ControlFile::initial(system_identifier, segment_bytes as u32, first);
    if storage.exists(DOUBLEWRITE_PATH)? {
        control.protection = PROTECTION_DOUBLE_WRITE;
    }
    let loss = match log {
        Some(from) => {
            control.timeline = from.timeline;
            Some(Loss::read(&storage, from, None)?)
        }
        None => None,
    };
    if let Some(loss) = &loss {
        control.start_count = loss.start_count;
    }
    Ok(Found {
        storage,
        control,
        other: None,
        guessed: Some(why),
        loss,
    })
}

fn files_on_disk(storage: &dyn Storage) -> Result<BTreeSet<FileNo>> {
    let names = storage.list(BASE_DIR)?;
    let parsed = names.iter().filter_map(|name| parse_name(name));
    Ok(parsed.map(|(file, _)| file).collect())
}

/// The page LSN and the content of a file's header, if that can be used.
fn header(relations: &RelationFiles, file: FileNo) -> Option<(Lsn, meta::Meta)> {
    let mut page: PageBytes = [0; PAGE_BYTES];
    let tag = PageTag::new(file, META_BLOCK);
    relations.read_page(tag, &mut page).ok()?;
    Some((page::page_lsn(&page), meta::read(&page)))
}

fn segment_bytes(control: &ControlFile) -> u64 {
    u64::from(control.wal_segment_bytes)
}

impl Found {
    /// Whether the server was stopped in order, and says so.
    pub fn is_clean(&self) -> bool {
        self.guessed.is_none() && self.control.state == DbState::ShutDown
    }

    /// Whether a file waits to be removed.
    fn is_dropped(&self, file: FileNo) -> bool {
        let mut pending = self.control.pending_drops.iter();
        pending.any(|pending| pending.file == file)
    }

    /// The double-write area; none if there is none. The other error is why the one that is there cannot be
    /// used, which is no reason to do nothing.
    fn area(&self) -> Result<Result<Option<DoubleWrite>, io::Error>> {
        if !self.storage.exists(DOUBLEWRITE_PATH)? {
            return Ok(Ok(None));
        }
        let (system, first) = (
            self.control.system_identifier,
            self.control.first_unsynced_batch,
        );
        match DoubleWrite::open(&*self.storage, system, first) {
            Err(error) if error.kind() == ErrorKind::InvalidData || is_bad_sector(&error) => {
                Ok(Err(error))
            }
            area => Ok(Ok(Some(area?))),
        }
    }

    /// Refuses files that are not this directory's, or not there, in the places of those that the
    /// catalog or `pg_control` name and that are not offline.
    fn check_files(&self, named: &BTreeMap<FileNo, Access>) -> Result<()> {
        let relations = RelationFiles::reader(Arc::clone(&self.storage));
        let rows = self.control.files.iter().map(|row| (row.file, row.access));
        let files: BTreeMap<FileNo, Access> = rows.chain(named.clone()).collect();
        for (file, access) in files {
            if access.is_offline() || self.control.is_offline(file) {
                continue;
            }
            let system = self.control.system_identifier;
            let header = header(&relations, file);
            let foreign = header.filter(|(_, header)| header.system_identifier != system);
            if let Some((_, header)) = foreign {
                bail!(
                    "\"{}\" is of another data directory, with system identifier {} where this one \
                     has {system}\nHINT: Put the right file there first, or take this one away.",
                    path(file, 0),
                    header.system_identifier
                );
            }
            let row = self.control.files.iter().find(|row| row.file == file);
            // Each was made before anything named it. After a clean stop no row is lost with its file: the
            // start says that this is not there. That of the catalog cannot be made anew.
            let is_needed = (named.contains_key(&file) || row.is_some_and(has_data))
                && !self.is_clean()
                && !self.is_dropped(file)
                && file != CATALOG_FILE;
            if is_needed && !self.storage.exists(&path(file, 0))? {
                let what = match row {
                    Some(row) => format!(
                        "and has {} keys in {} blocks by pg_control",
                        row.key_count, row.blocks
                    ),
                    None => "and the catalog names it".to_owned(),
                };
                bail!(
                    "\"{}\" is not there, {what}\nHINT: Put it back first; or, if it is lost for good, \
                     make an empty file there: its namespace is then empty.",
                    path(file, 0)
                );
            }
        }
        Ok(())
    }

    /// Files that had keys and are empty: made in the place of lost ones, whose last pages are not to come
    /// into them without the others.
    fn replaced(&self, relations: &RelationFiles) -> Result<BTreeSet<FileNo>> {
        let mut replaced = BTreeSet::new();
        let rows = self.control.files.iter();
        for row in rows.filter(|row| has_data(row) && row.file != CATALOG_FILE) {
            if relations.blocks_on_disk(row.file)? == Some(0) {
                replaced.insert(row.file);
            }
        }
        Ok(replaced)
    }

    /// Puts back what the double-write area holds of pages that may be torn, and gives files that the
    /// catalog names a header, if they have none. Says what was done.
    ///
    /// # Errors
    /// When something cannot be read or written, the catalog above all, or a file is another's or not
    /// there.
    pub fn mend(&self) -> Result<Vec<String>> {
        let reader = RelationFiles::reader(Arc::clone(&self.storage));
        // Before anything is written into one of another directory.
        self.check_files(&named(&reader).unwrap_or_default())?;
        let mut done = Vec::new();
        let relations = RelationFiles::writer(Arc::clone(&self.storage));
        // Why there is none that can be used is for the plan to say.
        let area = self.area()?.ok().flatten();
        let area = area.filter(|_| self.control.is_double_written());
        if let Some(area) = area {
            let first = self.control.first_unsynced_batch;
            let replaced = self.replaced(&relations)?;
            let closed = |file| match replaced.contains(&file) {
                true => Some(Access::OFFLINE),
                false => self.control.closed_for(file),
            };
            let repair = area.repair(&relations, first, closed)?;
            if repair.bad_reads > 0 {
                done.push(format!(
                    "{} reads of the double-write area met a bad sector: pages whose copies lay there \
                     are as they are, and may be old or torn (see rd_verify)",
                    repair.bad_reads
                ));
            }
            let (written, copies) = (repair.written, repair.copies);
            done.push(format!(
                "{written} of {copies} pages in the double-write area written back"
            ));
            let torn = repair.torn.iter();
            done.extend(torn.map(|tag| {
                format!("{tag} was torn or damaged; mended from the double-write area")
            }));
        }
        let lsn = segments::first_lsn(segment_bytes(&self.control));
        // It may have been torn.
        let named = named(&relations).map_err(unreadable_catalog)?;
        self.check_files(&named)?;
        for (file, access) in named {
            if access.is_offline() || self.control.is_offline(file) {
                continue;
            }
            let system = self.control.system_identifier;
            if init::restore_first_pages(&relations, system, file, lsn)? {
                let path = path(file, 0);
                done.push(format!(
                    "\"{path}\" had no header that could be used, and has got a new one"
                ));
            }
        }
        Ok(done)
    }

    /// What is to be written.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn plan(&self) -> Result<Plan> {
        let relations = RelationFiles::reader(Arc::clone(&self.storage));
        let mut notes = Vec::new();
        let mut highest = Highest::default();
        for control in std::iter::once(&self.control).chain(&self.other) {
            control.lsns().for_each(|lsn| highest.take(lsn));
        }
        if let Some(loss) = &self.loss {
            highest.take(loss.end);
            highest.take(loss.durable);
        }
        let area = self.area()?;
        let is_area_unusable = area.is_err();
        // Until the checkpointer has made the next one: a start that is cut off before that has no copies,
        // and needs none.
        let protection = match &area {
            Ok(Some(_)) => self.control.protection,
            Ok(None) | Err(_) => 0,
        };
        let area = area.unwrap_or_else(|error| {
            let torn = match self.is_clean() {
                true => "",
                false => "; pages that are torn stay so (see rd_verify)",
            };
            notes.push(format!(
                "the double-write area cannot be used, and the next start makes another: {error}{torn}"
            ));
            None
        });
        if let Some(area) = &area {
            highest.take(area.newest_lsn()?);
        }
        let on_disk = files_on_disk(&*self.storage)?;
        let mut checkpoint_count = self.control.checkpoint_count;
        let mut headers = BTreeMap::new();
        for file in &on_disk {
            let Some((lsn, header)) = header(&relations, *file) else {
                continue;
            };
            if header.system_identifier != self.control.system_identifier {
                let path = path(*file, 0);
                notes.push(format!("\"{path}\" is of another data directory"));
                continue;
            }
            highest.take(lsn);
            highest.take(header.checkpoint_scn);
            highest.take(header.stop_scn);
            checkpoint_count = checkpoint_count.max(header.checkpoint_count);
            headers.insert(*file, header);
        }
        let mut unused = BTreeSet::new();
        let mut files = if self.is_clean() {
            self.check_files(&BTreeMap::new())?;
            self.control.files.clone()
        } else {
            let catalog = named(&relations);
            let is_catalog_read = catalog.is_ok();
            let may_be_mended = area.is_some()
                && self.control.is_double_written()
                && self.storage.exists(&path(CATALOG_FILE, 0))?;
            self.check_files(catalog.as_ref().unwrap_or(&BTreeMap::new()))?;
            let named = match catalog {
                // Before the mending: what is torn may be whole then.
                Err(error) if may_be_mended => {
                    notes.push(format!(
                        "the catalog of namespaces cannot be read: {error}; with -f it is mended from \
                         the double-write area, or nothing is reset"
                    ));
                    BTreeMap::new()
                }
                catalog => catalog.map_err(unreadable_catalog)?,
            };
            let kept = self.kept(&mut headers, &named)?;
            let mut files = count_files(&relations, &headers, &named, &mut highest, &mut notes)?;
            files.extend(kept);
            files.sort_unstable_by_key(|row| row.file);
            let is_used = |row: &FileRow| {
                !is_catalog_read || named.contains_key(&row.file) || self.is_dropped(row.file)
            };
            for row in files.extract_if(.., |row| !is_used(row)) {
                unused.insert(row.file);
                notes.push(format!(
                    "\"{}\" holds {} keys, and the catalog names no namespace for it: it is kept, and \
                     not used",
                    path(row.file, 0),
                    row.key_count
                ));
            }
            files
        };
        files.truncate(FILES_MAX);
        let bytes = segment_bytes(&self.control);
        let timeline = self.control.timeline;
        let number = self.first_segment(highest.lsn, &mut notes)?;
        let start = wal_page::segment_start(number, bytes);
        let written = files.iter_mut().filter(|row| !row.is_closed());
        written.for_each(|row| row.stop_scn = start);
        let mut believed = on_disk
            .iter()
            .filter(|file| file.get() <= FILE_NO_BELIEVED_MAX);
        let after_files = believed.next_back().map_or(0, |file| file.get() + 1);
        let now_us = wall_us();
        let control = ControlFile {
            written_us: now_us,
            state: DbState::ShutDown,
            redo_predecessor_count: self.control.start_count,
            durable_predecessor_count: self.control.start_count,
            unfinished_starts: 0,
            redo_lsn: start,
            durable_lsn: start,
            checkpoint_lsn: start,
            previous_redo_lsn: start,
            previous_checkpoint_lsn: start,
            checkpoint_count: checkpoint_count.max(1),
            checkpoint_us: now_us,
            checkpoint_flags: checkpoint_flags::SHUTDOWN,
            first_unsynced_batch: area.map_or(BatchNo::new(1), |area| area.next()),
            next_file: self.control.next_file.max(FileNo::new(after_files)),
            backup_start_lsn: Lsn::ZERO,
            backup_end_lsn: Lsn::ZERO,
            protection,
            keys_lsn: start,
            pending_drops: match self.is_clean() {
                true => self.control.pending_drops.clone(),
                // Whether they were dropped is for the catalog to say now.
                false => Vec::new(),
            },
            files,
            ..self.control.clone()
        };
        Ok(Plan {
            control,
            segment: wal_page::segment_name(timeline, number, bytes),
            number,
            is_area_unusable,
            unused,
            notes,
        })
    }

    /// The rows of files that are closed because their namespaces are offline, which stay as they are
    /// whatever lies in the files' places; these are taken out of `headers`.
    ///
    /// # Errors
    /// When there is neither such a row nor the file.
    fn kept(
        &self,
        headers: &mut BTreeMap<FileNo, meta::Meta>,
        named: &BTreeMap<FileNo, Access>,
    ) -> Result<Vec<FileRow>> {
        let rows = self.control.files.iter();
        let kept: Vec<FileRow> = rows
            .filter(|row| row.access.is_offline())
            .copied()
            .collect();
        for row in &kept {
            headers.remove(&row.file);
        }
        for (file, access) in named {
            let is_known = headers.contains_key(file) || kept.iter().any(|row| row.file == *file);
            if access.is_offline() && !is_known {
                bail!(
                    "\"{}\" is not there or has no header that can be used: it belongs to a \
                     namespace that is offline, and pg_control does not say more of it\nHINT: Put \
                     the file back first.",
                    path(*file, 0)
                );
            }
        }
        Ok(kept)
    }

    /// The number of the first segment of the new log.
    fn first_segment(&self, highest: Lsn, notes: &mut Vec<String>) -> Result<u64> {
        let bytes = segment_bytes(&self.control);
        let mut last = wal_page::segment_of(highest, bytes);
        if self.storage.exists(WAL_DIR)? {
            let names = self.storage.list(WAL_DIR)?;
            let parse = |name: &String| wal_page::parse_segment_name(name, bytes);
            let numbers = names.iter().filter_map(parse).map(|(_, number)| number);
            last = numbers.fold(last, u64::max);
        } else {
            notes.push(format!("there is no directory \"{WAL_DIR}\": it is made"));
        }
        Ok(last + 1)
    }

    /// Writes the new log and the new `pg_control`, and removes the old log. Gives what could not be
    /// removed, in words: once the new `pg_control` is there, that is in nobody's way.
    ///
    /// # Errors
    /// When the disk refuses before that.
    pub fn reset(&self, plan: &Plan) -> Result<Vec<String>> {
        let storage = &*self.storage;
        let bytes = segment_bytes(&plan.control);
        if !storage.exists(WAL_DIR)? {
            storage.create_dir(WAL_DIR)?;
            storage.sync_dir("")?;
        }
        if !self.is_clean() {
            self.sync_files(plan)?;
        }
        segments::make(storage, plan.control.timeline, plan.number, bytes)?;
        control_file::replace(storage, &plan.control)?;
        let mut done = Vec::new();
        if plan.is_area_unusable {
            done.push(storage.remove(DOUBLEWRITE_PATH));
            done.push(storage.sync_dir(GLOBAL_DIR));
        }
        let names = storage.list(WAL_DIR).unwrap_or_else(|error| {
            done.push(Err(error));
            Vec::new()
        });
        let old = names
            .iter()
            .filter(|name| is_segment_name(name) && **name != plan.segment);
        done.extend(old.map(|name| storage.remove(&format!("{WAL_DIR}/{name}"))));
        done.push(storage.sync_dir(WAL_DIR));
        let failed = done.into_iter().filter_map(Result::err);
        Ok(failed.map(|error| error.to_string()).collect())
    }

    /// Makes durable what is in the relation files that were read: pages that the last server wrote
    /// without the double-write area may be in the kernel's cache only, and no start will redo them. What
    /// the kernel has given up after a sync that failed is not there any more, whatever it says now.
    fn sync_files(&self, plan: &Plan) -> Result<()> {
        let with_rows = plan
            .control
            .files
            .iter()
            .filter(|row| !row.access.is_offline());
        let mut read: BTreeSet<FileNo> = with_rows.map(|row| row.file).collect();
        read.extend(&plan.unused);
        for name in self.storage.list(BASE_DIR)? {
            if parse_name(&name).is_some_and(|(file, _)| read.contains(&file)) {
                let file = self
                    .storage
                    .open(&format!("{BASE_DIR}/{name}"), OpenMode::Read)?;
                file.sync_all()?;
            }
        }
        Ok(self.storage.sync_dir(BASE_DIR)?)
    }

    /// The timeline, for people.
    pub fn timeline(&self) -> Timeline {
        self.control.timeline
    }
}

/// Whether a file in `wal/` looks like one of the log, whatever the size of those is.
fn is_segment_name(name: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    name.len() == 24 && name.bytes().all(is_digit)
}

/// Whether a file has more than it was made with.
fn has_data(row: &FileRow) -> bool {
    row.key_count > 0 || row.blocks > FIRST_FILE_BLOCKS
}

/// The files that the catalog names, and its own, with what may be done with the namespaces in them.
fn named(relations: &RelationFiles) -> Result<BTreeMap<FileNo, Access>, String> {
    let blocks = relations.blocks_on_disk(CATALOG_FILE);
    let blocks = blocks.map_err(|error| error.to_string())?;
    let names = names_of_files(&FilePages {
        relations,
        file: CATALOG_FILE,
        blocks: blocks.ok_or("it is not there")?,
    })?;
    let named = names.into_iter().map(|(file, named)| (file, named.access));
    Ok(named.chain([(CATALOG_FILE, Access::READ_WRITE)]).collect())
}

/// Why nothing is reset where the catalog cannot be read: nobody knows then which files are used, and to
/// throw the log away would only take what may be mended yet.
fn unreadable_catalog(error: String) -> anyhow::Error {
    anyhow!(
        "the catalog of namespaces, \"{}\", cannot be read: {error}\nDETAIL: No server starts without \
         it, whatever becomes of the log.\nHINT: Put the file back, if it is elsewhere, or restore the \
         data directory from a backup.",
        path(CATALOG_FILE, 0)
    )
}

/// Reads every page of every file with a header, and counts its keys.
fn count_files(
    relations: &RelationFiles,
    headers: &BTreeMap<FileNo, meta::Meta>,
    named: &BTreeMap<FileNo, Access>,
    highest: &mut Highest,
    notes: &mut Vec<String>,
) -> Result<Vec<FileRow>> {
    let has_none =
        |(file, access): &(&FileNo, &Access)| !access.is_offline() && !headers.contains_key(*file);
    for (file, _) in named.iter().filter(has_none) {
        let path = path(*file, 0);
        notes.push(format!("\"{path}\" has no header that can be used"));
    }
    let mut rows = Vec::new();
    for (file, header) in headers {
        let blocks = relations.blocks_on_disk(*file)?.unwrap_or(0);
        let mut page: PageBytes = [0; PAGE_BYTES];
        for block in 0..blocks {
            let tag = PageTag::new(*file, BlockNo::new(block));
            if relations.read_page(tag, &mut page).is_ok() {
                highest.take(page::page_lsn(&page));
            }
        }
        let report = verify(&FilePages {
            relations,
            file: *file,
            blocks,
        });
        let problems = report.problems.len() as u64 + report.problems_more;
        if problems > 0 {
            let path = path(*file, 0);
            notes.push(format!(
                "\"{path}\" has {problems} problems, the first: {}",
                report.problems[0]
            ));
        }
        rows.push(FileRow {
            file: *file,
            checkpoint_count: header.checkpoint_count,
            scn: header.checkpoint_scn,
            // For which access it is closed is for the catalog to say.
            access: match header.stop_scn {
                Lsn::ZERO => Access::READ_WRITE,
                _ => Access::READ_ONLY,
            },
            stop_scn: header.stop_scn,
            key_count: report.keys,
            blocks,
        });
    }
    Ok(rows)
}

/// The highest LSN that was met.
#[derive(Default)]
struct Highest {
    lsn: Lsn,
}

impl Highest {
    fn take(&mut self, lsn: Lsn) {
        // What no log comes to is damage, however good its checksum.
        if lsn.get() <= LOG_BYTES_MAX / 2 {
            self.lsn = self.lsn.max(lsn);
        }
    }
}
