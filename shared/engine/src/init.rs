//! Making a data directory, offline: what `rd_initdb` does.
//!
//! The directory is made as a clean stop would leave it: `pg_control` says "shut down", both of its
//! slots agree, and the first start reads no log. Everything is synced before the function returns,
//! `pg_control` last.
//!
//! Invariants: the first file of a directory is [`UNFINISHED_FILE`], durable before anything else is
//! made, and it goes when all else is durable. No server starts, and no tool works, on a directory
//! that has it; so one that has it has never held data. A directory belongs to whoever made that file
//! and found nothing beside it; nobody else makes or removes anything in it.
//!
//! ```text
//! RD_VERSION  redoubt.conf  base/1.. (catalog)  base/2.. (database 0)
//! global/pg_control  global/doublewrite  global/history  wal/<first segment>
//! ```

use crate::namespace::{FIRST_BLOCKS, first_pages};
use rd_base::conf_file::FILE_NAME;
use rd_base::documents::sample_conf;
use rd_base::limits::{PAGE_BYTES, WAL_PAGE_BYTES};
use rd_base::words::TornPageProtection;
use rd_base::{BatchNo, Config, FileNo, Lsn, PageTag, StartCount, Timeline};
use rd_format::catalog::{CATALOG_FILE, CatalogValue, FIRST_FILE};
use rd_format::control::{
    ControlFile, DbState, FileRow, PROTECTION_DOUBLE_WRITE, checkpoint_flags,
};
use rd_format::node::LeafEntry;
use rd_format::page::{self, PageBytes};
use rd_format::{NodeMut, Payload, meta};
use rd_store::control_file::{self, GLOBAL_DIR};
use rd_store::doublewrite;
use rd_store::history;
use rd_store::relation::{BASE_DIR, RelationFiles};
use rd_store::wal::{WAL_DIR, segments};
use rd_sys::storage::{OpenMode, RealStorage, Storage, is_bad_sector};
use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

/// The file that says which version of data directories this is.
pub const VERSION_FILE: &str = "RD_VERSION";
/// What it says.
pub const VERSION: &str = "1";
/// The file that is there until all others are.
pub const UNFINISHED_FILE: &str = "RD_UNFINISHED";
/// What it says, to people.
const UNFINISHED: &str = "The initialisation of this data directory has not been finished.\n";
/// The name of the database that clients begin in, in the catalog.
pub const DB0_NAME: &[u8] = b"0";
/// Blocks that each first file has room for.
pub const FIRST_FILE_BLOCKS: u32 = 128;
/// What a disk writes whole.
const SECTOR_BYTES: usize = 512;
/// Number of the advance of the redo point that a new directory counts as its first.
const FIRST_CHECKPOINT: u64 = 1;

/// What a new data directory is made with.
pub struct InitOptions<'a> {
    /// The configuration: sizes of segments and double-write area.
    pub config: &'a Config,
    /// A random number, never the same for two directories.
    pub system_identifier: u64,
    /// Microseconds since 1970.
    pub now_us: u64,
    /// Lines that `redoubt.conf` is to have behind the sample.
    pub conf_lines: &'a str,
}

/// A data directory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is something in it.
    #[error(
        "directory \"{0}\" exists but is not empty; if you want to create a new data directory, \
         either remove or empty it, or choose another one"
    )]
    NotEmpty(String),
    /// There is a beginning in it.
    #[error("{}", unfinished(.0))]
    Unfinished(String),
    /// Something else has its name.
    #[error("\"{0}\" exists but is not a directory")]
    NotADirectory(String),
    /// It was told to stop.
    #[error("interrupted: what was made of data directory \"{0}\" is removed")]
    Interrupted(String),
    /// The system said so; the message names operation and file.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What there is to say of a directory that [`is_unfinished`].
pub fn unfinished(dir: &str) -> String {
    format!(
        "the initialisation of data directory \"{dir}\" was never finished: rd_initdb, or the first \
         start of a server, was cut off\n\
         HINT: It has never held data. If nobody is initialising it at this moment, remove it \
         (rm -r), and make it again."
    )
}

/// Whether the initialisation of a directory has begun and not ended.
pub fn is_unfinished(dir: &Path) -> bool {
    dir.join(UNFINISHED_FILE).exists()
}

/// Makes a data directory at `path`, which must not exist or be empty. `report` is told what is
/// being done: a line without its end, then " ok" and the line's end. What was made is removed
/// again on an error.
///
/// # Errors
/// When the directory is not empty, or the system refuses.
pub fn init_data_directory(
    path: &Path,
    options: &InitOptions<'_>,
    report: &mut dyn FnMut(&str),
) -> Result<(), InitError> {
    init_data_directory_unless(path, options, report, &|| false)
}

/// The same, as long as `must_stop` is false, which is asked before each step.
///
/// # Errors
/// As [`init_data_directory`]; and [`InitError::Interrupted`].
pub fn init_data_directory_unless(
    path: &Path,
    options: &InitOptions<'_>,
    report: &mut dyn FnMut(&str),
    must_stop: &dyn Fn() -> bool,
) -> Result<(), InitError> {
    let shown = path.display().to_string();
    let on_path = |what: &'static str| {
        let shown = shown.clone();
        move |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("could not {what} \"{shown}\": {error}"),
            )
        }
    };
    let made = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            step(report, &format!("creating directory {shown}"), || {
                make_missing_parents(path)?;
                DirBuilder::new().mode(0o700).create(path)
            })
            .map_err(on_path("create directory"))?;
            true
        }
        Err(error) => return Err(on_path("look at")(error).into()),
        Ok(_) => {
            if !path.is_dir() {
                return Err(InitError::NotADirectory(shown));
            }
            if is_unfinished(path) {
                return Err(InitError::Unfinished(shown));
            }
            if fs::read_dir(path)
                .map_err(on_path("read directory"))?
                .next()
                .is_some()
            {
                return Err(InitError::NotEmpty(shown));
            }
            step(
                report,
                &format!("fixing permissions on existing directory {shown}"),
                || {
                    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
                    fs::set_permissions(path, permissions)
                },
            )
            .map_err(on_path("change the permissions of"))?;
            false
        }
    };
    sync_parent(path).map_err(on_path("sync the parent directory of"))?;
    let storage: Arc<dyn Storage> = Arc::new(RealStorage::new(path.to_owned()));
    let was_stopped = Cell::new(false);
    let must_stop = || {
        was_stopped.set(was_stopped.get() || must_stop());
        was_stopped.get()
    };
    let done = match begin(&*storage) {
        Ok(true) => {
            let mut steps = Steps {
                report,
                must_stop: &must_stop,
            };
            fill(&storage, options, &mut steps).inspect_err(|_| remove_content(path))
        }
        Ok(false) => return Err(InitError::NotEmpty(shown)),
        // Another has begun since then.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(InitError::Unfinished(shown));
        }
        Err(error) => Err(error),
    };
    if done.is_err() && made {
        // Only if there is nothing in it.
        let _ = fs::remove_dir(path);
    }
    match done {
        // Unless there is no removing it: then that is to be told.
        Err(_) if was_stopped.get() && !is_unfinished(path) => Err(InitError::Interrupted(shown)),
        done => Ok(done?),
    }
}

/// Makes [`UNFINISHED_FILE`]: from then on the directory is this process's own. False, and the file
/// is gone again, if something is there already: since the directory was seen to be empty, another
/// may have made it whole, and a server may serve it.
fn begin(storage: &dyn Storage) -> io::Result<bool> {
    let file = storage.open(UNFINISHED_FILE, OpenMode::CreateNew)?;
    let begun = storage.list("").and_then(|names| {
        if names.iter().any(|name| name != UNFINISHED_FILE) {
            return Ok(false);
        }
        file.write_all_at(UNFINISHED.as_bytes(), 0)?;
        file.sync_all()?;
        storage.sync_dir("")?;
        Ok(true)
    });
    if !matches!(begun, Ok(true)) {
        let _ = storage.remove(UNFINISHED_FILE);
    }
    begun
}

/// Makes the directories above `path` that are not there, and their names durable.
fn make_missing_parents(path: &Path) -> io::Result<()> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        DirBuilder::new().mode(0o700).create(dir)?;
        sync_parent(dir)?;
    }
    Ok(())
}

/// Makes the name of the new directory durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::File::open(parent)?.sync_all()
}

/// Removes what was made so far in the directory, which is this process's own; what cannot be
/// removed stays, and its presence tells of itself.
fn remove_content(path: &Path) {
    for dir in [BASE_DIR, GLOBAL_DIR, WAL_DIR] {
        let _ = fs::remove_dir_all(path.join(dir));
    }
    // The last is what says that the rest is no data directory.
    for file in [VERSION_FILE, FILE_NAME, UNFINISHED_FILE] {
        let _ = fs::remove_file(path.join(file));
    }
}

/// Makes the content of a data directory in `storage`, which is empty.
///
/// # Errors
/// When the storage is not empty, or refuses.
pub fn init_storage(
    storage: &Arc<dyn Storage>,
    options: &InitOptions<'_>,
    report: &mut dyn FnMut(&str),
) -> io::Result<()> {
    if !begin(&**storage)? {
        let text = "there is something where a data directory is to be made";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    let mut steps = Steps {
        report,
        must_stop: &|| false,
    };
    fill(storage, options, &mut steps)
}

fn fill(
    storage: &Arc<dyn Storage>,
    options: &InitOptions<'_>,
    steps: &mut Steps<'_>,
) -> io::Result<()> {
    let config = options.config;
    let segment_bytes = config.wal_segment_size_bytes();
    let start = segments::first_lsn(segment_bytes);
    steps.take("creating subdirectories", || {
        storage.create_dir(BASE_DIR)?;
        storage.create_dir(GLOBAL_DIR)
    })?;
    steps.take("creating configuration files", || {
        write_file(&**storage, VERSION_FILE, format!("{VERSION}\n").as_bytes())?;
        let conf = sample_conf() + options.conf_lines;
        write_file(&**storage, FILE_NAME, conf.as_bytes())
    })?;
    steps.take("creating the write-ahead log", || {
        segments::create(&**storage, Timeline::new(1), segment_bytes)
    })?;
    steps.take("creating the double-write area", || {
        doublewrite::create(&**storage, config.double_write_size_bytes())
    })?;
    steps.take("creating the history of checkpoints", || {
        history::create(&**storage)
    })?;
    steps.take("creating catalog and first database", || {
        let relations = RelationFiles::writer(Arc::clone(storage));
        write_relation(&relations, options, CATALOG_FILE, start, Some(FIRST_FILE))?;
        write_relation(&relations, options, FIRST_FILE, start, None)
    })?;
    steps.take("syncing data to disk", || {
        storage.sync_dir(BASE_DIR)?;
        storage.sync_dir("")
    })?;
    steps.take("creating control file", || {
        control_file::create(&**storage, &first_control(options, start))?;
        storage.sync_dir("")?;
        storage.remove(UNFINISHED_FILE)?;
        storage.sync_dir("")
    })
}

/// The steps of an initialisation: each is told, and none is begun once it is to stop.
struct Steps<'s> {
    report: &'s mut dyn FnMut(&str),
    must_stop: &'s dyn Fn() -> bool,
}

impl Steps<'_> {
    fn take(&mut self, what: &str, action: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if (self.must_stop)() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted"));
        }
        step(self.report, what, action)
    }
}

fn step(
    report: &mut dyn FnMut(&str),
    what: &str,
    action: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    report(&format!("{what} ..."));
    action()?;
    report(" ok\n");
    Ok(())
}

fn write_file(storage: &dyn Storage, path: &str, bytes: &[u8]) -> io::Result<()> {
    let file = storage.open(path, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

/// Writes a relation file with its first pages; the catalog's root names the first database.
fn write_relation(
    relations: &RelationFiles,
    options: &InitOptions<'_>,
    file: FileNo,
    start: Lsn,
    named: Option<FileNo>,
) -> io::Result<()> {
    relations.grow(file, 0, FIRST_FILE_BLOCKS)?;
    let mut pages = first_pages(options.system_identifier, file);
    let covered = meta::Meta {
        checkpoint_count: FIRST_CHECKPOINT,
        checkpoint_scn: start,
        created_lsn: start,
        ..meta::read(&pages[0])
    };
    meta::write(&mut pages[0], &covered);
    if let Some(named) = named {
        add_database(&mut pages[2], named, start);
    }
    for (block, page) in FIRST_BLOCKS.iter().zip(&mut pages) {
        let tag = PageTag::new(file, *block);
        page::set_page_lsn(page, start);
        page::seal(page, tag);
        relations.write_page(tag, page)?.sync_data()?;
    }
    Ok(())
}

/// Gives `file`, which the catalog names, a header again if it has none that can be used, and an
/// empty tree if it has no page at all; for `rd_resetwal`. Says whether anything was missing. The
/// header is written last: as long as there is none, this can be done again.
///
/// # Errors
/// When the file cannot be read or written.
pub fn restore_first_pages(
    relations: &RelationFiles,
    system_identifier: u64,
    file: FileNo,
    lsn: Lsn,
) -> io::Result<bool> {
    let tags = FIRST_BLOCKS.map(|block| PageTag::new(file, block));
    let mut found = [(); 3].map(|()| Box::new([0; PAGE_BYTES]));
    let mut is_all_read = true;
    for (tag, page) in tags.iter().zip(&mut found) {
        let is_there = match relations.read_block(*tag, page) {
            Err(error) if is_bad_sector(&error) => {
                is_all_read = false;
                false
            }
            read => read?,
        };
        if !is_there {
            page.fill(0);
        }
    }
    let is_mine = page::verify(&found[0], tags[0]).is_ok()
        && meta::read(&found[0]).system_identifier == system_identifier;
    if is_mine {
        return Ok(false);
    }
    let blocks = relations.blocks_on_disk(file)?.unwrap_or(0);
    if blocks < FIRST_FILE_BLOCKS {
        relations.grow(file, blocks, FIRST_FILE_BLOCKS)?;
    }
    let mut pages = first_pages(system_identifier, file);
    let covered = meta::Meta {
        checkpoint_scn: lsn,
        created_lsn: lsn,
        ..meta::read(&pages[0])
    };
    meta::write(&mut pages[0], &covered);
    for (tag, page) in tags.iter().zip(&mut pages) {
        page::set_page_lsn(page, lsn);
        page::seal(page, *tag);
    }
    // What it holds may come from an earlier attempt that was cut off, sector by sector; what the disk does
    // not give may be the root of all there is.
    let is_new = is_all_read
        && (1..3).all(|place| {
            let sectors = found[place].chunks(SECTOR_BYTES);
            let mut pairs = sectors.zip(pages[place].chunks(SECTOR_BYTES));
            pairs.all(|(found, own)| found == own || found.iter().all(|byte| *byte == 0))
        });
    for place in (0..if is_new { 3 } else { 1 }).rev() {
        relations
            .write_page(tags[place], &pages[place])?
            .sync_data()?;
    }
    Ok(true)
}

/// Adds the catalog's entry of the first database to its root.
fn add_database(root: &mut PageBytes, file: FileNo, start: Lsn) {
    let value = CatalogValue {
        file: Some(file),
        previous: None,
        index: 0,
        access: rd_format::Access::READ_WRITE,
    }
    .encode();
    let entry = LeafEntry {
        key: DB0_NAME,
        stamp: start,
        expiry_ms: None,
        payload: Payload::Inline(&value),
    };
    NodeMut::new(root)
        .insert_leaf(&entry)
        .expect("the page is empty");
}

fn first_control(options: &InitOptions<'_>, start: Lsn) -> ControlFile {
    let config = options.config;
    let double_write = config.torn_page_protection() == TornPageProtection::DoubleWrite;
    let row = |file| FileRow {
        file,
        access: rd_format::Access::READ_WRITE,
        checkpoint_count: FIRST_CHECKPOINT,
        scn: start,
        stop_scn: start,
        key_count: if file == CATALOG_FILE { 1 } else { 0 },
        blocks: FIRST_FILE_BLOCKS,
    };
    ControlFile {
        sequence: 0,
        written_us: options.now_us,
        system_identifier: options.system_identifier,
        state: DbState::ShutDown,
        timeline: Timeline::new(1),
        start_count: StartCount::new(0),
        redo_predecessor_count: StartCount::new(0),
        durable_predecessor_count: StartCount::new(0),
        unfinished_starts: 0,
        redo_lsn: start,
        durable_lsn: start,
        checkpoint_lsn: start,
        previous_redo_lsn: start,
        previous_checkpoint_lsn: start,
        checkpoint_count: FIRST_CHECKPOINT,
        checkpoint_us: options.now_us,
        incremental_us: 0,
        checkpoint_flags: checkpoint_flags::SHUTDOWN,
        protection: if double_write {
            PROTECTION_DOUBLE_WRITE
        } else {
            0
        },
        first_unsynced_batch: BatchNo::new(1),
        next_file: FileNo::new(FIRST_FILE.get() + 1),
        page_bytes: PAGE_BYTES as u32,
        wal_page_bytes: WAL_PAGE_BYTES as u32,
        wal_segment_bytes: config.wal_segment_size_bytes() as u32,
        redo_bytes_per_s: 0,
        redo_pages_per_s: 0,
        estimated_recovery_ms: 0,
        last_recovery_ms: 0,
        last_recovery_estimate_ms: 0,
        backup_start_lsn: Lsn::ZERO,
        backup_end_lsn: Lsn::ZERO,
        max_connections: config.max_connections(),
        backends: config.backends(),
        keys_lsn: start,
        recovery_fixed_us: 0,
        estimated_redo_bytes: 0,
        estimated_redo_pages: 0,
        files: vec![row(CATALOG_FILE), row(FIRST_FILE)],
        pending_drops: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_sys::simdisk::SimStorage;
    use std::os::unix::fs::PermissionsExt;

    fn config() -> Config {
        let config = Config::from_pairs(&[("double_write_size", "8MB")]).expect("valid");
        config.with_wal_segment_size(1 << 20).expect("valid")
    }

    #[test]
    fn a_directory_is_made_whole_private_and_only_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("data");
        let config = config();
        let options = InitOptions {
            config: &config,
            system_identifier: 77,
            now_us: 5,
            conf_lines: "",
        };
        let mut said = String::new();
        init_data_directory(&path, &options, &mut |text| said.push_str(text)).expect("made");
        assert!(said.contains("creating control file ... ok\n"), "{said}");
        let mode = |path: &Path| {
            fs::metadata(path)
                .expect("it is there")
                .permissions()
                .mode()
        };
        assert_eq!(mode(&path) & 0o777, 0o700);
        let storage = RealStorage::new(path.clone());
        let chosen = control_file::read(&storage).expect("valid");
        assert_eq!(chosen.control.state, DbState::ShutDown);
        assert_eq!(chosen.control.system_identifier, 77);
        assert!(chosen.other.is_ok(), "both slots are written");
        let again = init_data_directory(&path, &options, &mut |_| {});
        assert!(matches!(again, Err(InitError::NotEmpty(_))), "{again:?}");
    }

    /// Whatever is left of an initialisation that was cut off says so of itself, and is no data
    /// directory yet; what does not say so is nothing, or whole.
    #[test]
    fn one_that_is_cut_off_anywhere_is_told_from_one_that_held_data() {
        let config = config();
        let options = InitOptions {
            config: &config,
            system_identifier: 77,
            now_us: 5,
            conf_lines: "",
        };
        let (mut unfinished, mut finished) = (0, 0);
        for crash_at in 1.. {
            let disk = SimStorage::new(crash_at);
            disk.crash_at(Some(crash_at));
            let storage: Arc<dyn Storage> = Arc::new(disk.clone());
            let making = || init_storage(&storage, &options, &mut |_| {}).is_ok();
            let is_made = rd_sys::crash::catch_panics(making) == Ok(true);
            disk.crash(crash_at);
            if disk.exists(UNFINISHED_FILE).expect("a good disk") {
                assert!(!is_made, "cut off at {crash_at}");
                unfinished += 1;
                continue;
            }
            if disk.list("").expect("a good disk").is_empty() {
                continue;
            }
            finished += 1;
            let chosen = control_file::read(&disk).expect("it is valid");
            assert_eq!(chosen.control.state, DbState::ShutDown);
            let relations = RelationFiles::reader(Arc::new(disk.clone()));
            for file in [CATALOG_FILE, FIRST_FILE] {
                for block in FIRST_BLOCKS {
                    let tag = PageTag::new(file, block);
                    let read = relations.read_page(tag, &mut [0; PAGE_BYTES]);
                    read.expect("it was synced");
                }
            }
            if is_made {
                break;
            }
        }
        assert!(unfinished > 20 && finished > 0, "{unfinished}, {finished}");
    }

    #[test]
    fn what_was_made_goes_when_it_cannot_be_finished() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file");
        fs::write(&path, b"in the way").expect("written");
        let config = config();
        let options = InitOptions {
            config: &config,
            system_identifier: 1,
            now_us: 0,
            conf_lines: "",
        };
        let error = init_data_directory(&path, &options, &mut |_| {});
        assert!(
            matches!(error, Err(InitError::NotADirectory(_))),
            "{error:?}"
        );
        let below = path.join("data");
        assert!(init_data_directory(&below, &options, &mut |_| {}).is_err());
        assert_eq!(fs::read(&path).expect("untouched"), b"in the way");
    }

    fn options(config: &Config) -> InitOptions<'_> {
        InitOptions {
            config,
            system_identifier: 77,
            now_us: 5,
            conf_lines: "",
        }
    }

    /// Whoever found the directory empty and then stood still for a while finds it made, and served
    /// perhaps, by another: nothing in it is his to remove.
    #[test]
    fn what_another_has_made_meanwhile_stays() {
        let config = config();
        let directory = tempfile::tempdir().expect("a directory");
        let mut inner = None;
        let outer = init_data_directory(directory.path(), &options(&config), &mut |text| {
            if text.starts_with("fixing permissions") {
                let options = options(&config);
                inner = Some(init_data_directory(directory.path(), &options, &mut |_| {}));
            }
        });
        assert!(matches!(inner, Some(Ok(()))), "{inner:?}");
        assert!(matches!(outer, Err(InitError::NotEmpty(_))), "{outer:?}");
        assert!(!is_unfinished(directory.path()));
        let storage = RealStorage::new(directory.path().to_owned());
        control_file::read(&storage).expect("it is there");
        assert!(!storage.list(WAL_DIR).expect("it is there").is_empty());
    }

    /// The first of two that begin at the same time goes on undisturbed, and a failure takes away
    /// what was made, and nothing else.
    #[test]
    fn one_that_comes_second_leaves_the_first_alone_and_a_failure_only_its_own() {
        let config = config();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("data");
        let mut second = None;
        let first = init_data_directory(&path, &options(&config), &mut |text| {
            if text.starts_with("creating the write-ahead log") {
                second = Some(init_data_directory(&path, &options(&config), &mut |_| {}));
                // In the way of the first.
                fs::create_dir(path.join("wal")).expect("made");
                fs::write(path.join("foreign"), b"").expect("written");
            }
        });
        let second = second.expect("it was tried");
        assert!(
            matches!(second, Err(InitError::Unfinished(_))),
            "{second:?}"
        );
        assert!(matches!(first, Err(InitError::Io(_))), "{first:?}");
        let left = RealStorage::new(path.clone())
            .list("")
            .expect("it is there");
        assert_eq!(left, ["foreign"]);
        fs::remove_file(path.join("foreign")).expect("removed");
        init_data_directory(&path, &options(&config), &mut |_| {}).expect("made");
    }
}
