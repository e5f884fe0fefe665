//! A simulated disk: forgets what was not synced, tears writes at sectors, loses names that were
//! not synced, runs out of room, and fails on command. The same seed gives the same disk.
//!
//! How a crash test uses it:
//!
//! 1. Run the workload once and read [`SimStorage::io_count`]: so many places to crash.
//! 2. For each of them, run it on a new disk with [`SimStorage::crash_at`]: that I/O, and all after
//!    it, return an error that [`is_simulated_crash`] knows.
//! 3. [`SimStorage::fork`] the disk as often as wanted, let the power fail on each fork with
//!    another seed ([`SimStorage::crash`]), recover, and hold the outcome against the model.
//!
//! Invariants:
//!
//! * Only syncs make anything durable; a power cut keeps all that was durable, and of the rest an
//!   outcome that a real disk could have.
//! * An I/O that meets the crash has begun: its effect is there as something unsynced.
//! * After a crash, handles of before are dead, as their process is; so is all that a process opens,
//!   if it works through a [`SimStorage::mount`].
//! * A logical process ([`crate::simproc`]) pauses in each I/O, after its effect on what programs see
//!   and before any on what is durable, holding no lock of the disk; and before each read.
//! * A write that fails may have written a part of its bytes, from the first on.
//! * A disk does not lie unless it is told to ([`SimStorage::lie`]).

mod image;
mod lies;
mod names;

pub use lies::{Lie, Told};

use crate::simproc::{Pause, pause};
use crate::storage::{OpenMode, Storage, StorageFile, failed, is_aligned, is_inside};
use image::{CACHE_PAGE_BYTES, Contents, Fate, SECTOR_BYTES};
use lies::Lies;
use names::{Inode, Names, Node};
use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// I/Os that [`SimStorage::recent`] remembers.
const RECENT_MAX: usize = 32;

/// Small, fast and good enough: the same numbers from the same seed, everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator of its own for each seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number (SplitMix64, by Steele, Lea and Flood).
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// One time out of two.
    pub fn half(&mut self) -> bool {
        self.next_u64() >> 63 == 0
    }
}

/// The kinds of I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IoKind {
    /// `read_at`; not counted, because a crash there is one at the I/O before.
    Read,
    /// `write_all_at`.
    Write,
    /// `sync_data`, `sync_all`, and the second half of a write to a file opened for that.
    Sync,
    /// `allocate`.
    Allocate,
    /// `truncate`.
    Truncate,
    /// `open` of a new file, `create_dir`.
    Create,
    /// `rename`; the path is the new name.
    Rename,
    /// `remove`.
    Remove,
    /// `sync_dir`.
    SyncDir,
}

/// One I/O, for a report of where a crash was placed.
#[derive(Clone, Debug)]
pub struct IoRecord {
    /// Its number; the first is 1.
    pub number: u64,
    /// What it did.
    pub kind: IoKind,
    /// To which file or directory.
    pub path: Arc<str>,
    /// From which byte.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
}

/// A fault to come.
#[derive(Clone, Debug)]
pub struct Injection {
    /// On this kind of I/O,
    pub kind: IoKind,
    /// on paths that contain this text (all do contain `""`),
    pub path_contains: String,
    /// after so many of them went well,
    pub skip: u64,
    /// so many of them
    pub times: u64,
    /// fail with this error of the system (`EIO`, `ENOSPC`). A failing sync leaves some pages
    /// unwritten that the cache takes for clean from then on; a failing write may be a short one, which ends
    /// between two sectors.
    pub errno: i32,
}

/// What becomes of all that was not synced when the power fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsynced {
    /// All of it is lost.
    Lost,
    /// All of it has come to the disk, but for what a failed sync has given up.
    Kept,
    /// This seed decides it, of each file, page, sector and name.
    Drawn(u64),
}

#[derive(Debug)]
struct SimulatedCrash;

impl fmt::Display for SimulatedCrash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the simulated machine has crashed")
    }
}

impl Error for SimulatedCrash {}

fn crash_error() -> io::Error {
    io::Error::other(SimulatedCrash)
}

/// Whether the error says that the simulated machine has crashed, be it wrapped or not.
pub fn is_simulated_crash(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if inner.is::<SimulatedCrash>() {
            return true;
        }
        cause = match inner
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(wrapped) => Some(wrapped as _),
            None => inner.source(),
        };
    }
    false
}

#[derive(Clone)]
struct Disk {
    /// Shared with forks until they are changed.
    files: BTreeMap<Inode, Arc<Contents>>,
    names: Names,
    next_inode: Inode,
    /// Raised by every crash; handles carry the one they were made in.
    life: u64,
    crashed: bool,
    crash_at: Option<u64>,
    io_count: u64,
    recent: VecDeque<IoRecord>,
    injections: Vec<Injection>,
    /// Syncs that were carried out, or failed.
    syncs: u64,
    /// Files and directories whose syncs have failed by them, until somebody asks.
    failed_syncs: Vec<Arc<str>>,
    lies: Lies,
    capacity_pages: u64,
    /// Pages of a block that is written and cached as one.
    block_pages: usize,
    /// Pages taken, unless it has to be counted anew.
    used_pages: Option<u64>,
    rng: Rng,
}

/// The simulated disk; clones are handles to the same one.
#[derive(Clone)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
    /// The only life of the disk that this handle has a part in; all of them, if none is named.
    life: Option<u64>,
}

impl SimStorage {
    /// An empty disk without end. The seed decides what failing syncs leave behind.
    pub fn new(seed: u64) -> SimStorage {
        let disk = Disk {
            files: BTreeMap::new(),
            names: Names::default(),
            next_inode: 1,
            life: 0,
            crashed: false,
            crash_at: None,
            io_count: 0,
            recent: VecDeque::new(),
            injections: Vec::new(),
            syncs: 0,
            failed_syncs: Vec::new(),
            lies: Lies::default(),
            capacity_pages: u64::MAX,
            block_pages: 1,
            used_pages: None,
            rng: Rng::new(seed),
        };
        SimStorage {
            disk: Arc::new(Mutex::new(disk)),
            life: None,
        }
    }

    /// The disk as the processes of one life of the machine have it: a crash, or a kill, is the end
    /// of it. For servers whose threads may still run when the next one starts.
    pub fn mount(&self) -> SimStorage {
        SimStorage {
            disk: Arc::clone(&self.disk),
            life: Some(self.lock().life),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk with the same state, so that one moment can be continued in many ways. Cheap:
    /// pages are shared until they are written.
    pub fn fork(&self) -> SimStorage {
        SimStorage {
            disk: Arc::new(Mutex::new(self.lock().clone())),
            life: None,
        }
    }

    /// I/Os so far that changed or synced something.
    pub fn io_count(&self) -> u64 {
        self.lock().io_count
    }

    /// Syncs so far, of files and directories: as long as this stays, what is durable does.
    pub fn sync_count(&self) -> u64 {
        self.lock().syncs
    }

    /// Lets the I/O of that number (as [`SimStorage::io_count`] counts), and all after it, fail as
    /// a crash; `None` takes it back.
    pub fn crash_at(&self, number: Option<u64>) {
        self.lock().crash_at = number;
    }

    /// Whether the crash of [`SimStorage::crash_at`] has come.
    pub fn has_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The power fails and comes back: of what was not synced, the seed decides what is left. Old
    /// handles are dead; injections and `crash_at` are gone; the disk works again.
    pub fn crash(&self, seed: u64) {
        self.crash_as(Unsynced::Drawn(seed));
    }

    /// As [`SimStorage::crash`], with an outcome that need not be drawn.
    pub fn crash_as(&self, unsynced: Unsynced) {
        let mut disk = self.lock();
        let (mut rng, fate) = match unsynced {
            Unsynced::Lost => (Rng::new(0), Some(Fate::Lost)),
            Unsynced::Kept => (Rng::new(0), Some(Fate::Kept)),
            Unsynced::Drawn(seed) => (Rng::new(seed), None),
        };
        disk.names.cut_power(fate, &mut rng);
        let reachable = disk.names.inodes();
        disk.files.retain(|inode, _| reachable.contains(inode));
        let block_pages = disk.block_pages;
        for contents in disk.files.values_mut() {
            if !contents.is_settled() {
                Arc::make_mut(contents).cut_power(fate, &mut rng, block_pages);
            }
        }
        disk.new_life();
    }

    /// The processes die (kill -9) and the machine lives: what was written is there, synced or
    /// not, except for pages that an earlier failed sync gave up and the cache has let go of since,
    /// or lets go of later, at some read.
    pub fn kill(&self, seed: u64) {
        let mut disk = self.lock();
        let mut rng = Rng::new(seed);
        let block_pages = disk.block_pages;
        for contents in disk.files.values_mut() {
            if contents.has_lost() {
                Arc::make_mut(contents).forget_lost(&mut rng, block_pages);
            }
        }
        disk.new_life();
    }

    /// Adds a fault to come.
    pub fn inject(&self, injection: Injection) {
        self.lock().injections.push(injection);
    }

    /// Files and directories whose syncs have failed by [`SimStorage::inject`], in this order, since
    /// this was last asked, or since the disk has crashed. Whoever has synced knows of it by now.
    pub fn take_failed_syncs(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.lock().failed_syncs)
    }

    /// Takes back all faults, and lies, that have not come.
    pub fn clear_injections(&self) {
        let mut disk = self.lock();
        disk.injections.clear();
        disk.lies.clear();
    }

    /// Lets the disk lie about one write to a path that contains this text, after `skip` of them
    /// that it does as it says.
    pub fn lie(&self, lie: Lie, path_contains: &str, skip: u64) {
        self.lock().lies.add(lie, path_contains, skip);
    }

    /// How many lies it has told.
    pub fn lies_told(&self) -> usize {
        self.lock().lies.told.len()
    }

    /// The last lie that it has told.
    pub fn last_lie(&self) -> Option<Told> {
        self.lock().lies.told.last().cloned()
    }

    /// Makes it a disk, under a file system to match, that writes and caches aligned blocks of
    /// `bytes` whole or not at all. At first sectors of a page of 4 KiB may come through one by
    /// one.
    pub fn set_block_bytes(&self, bytes: usize) {
        assert!(bytes > 0 && bytes.is_multiple_of(CACHE_PAGE_BYTES));
        self.lock().block_pages = bytes / CACHE_PAGE_BYTES;
    }

    /// Bytes the disk has room for; `None` is without end. What is on it stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity_pages =
            bytes.map_or(u64::MAX, |bytes| bytes / CACHE_PAGE_BYTES as u64);
    }

    /// Bytes of room that files take.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_pages() * CACHE_PAGE_BYTES as u64
    }

    /// The last I/Os, oldest first.
    pub fn recent(&self) -> Vec<IoRecord> {
        self.lock().recent.iter().cloned().collect()
    }

    /// Overwrites bytes behind everybody's back, in the cache and on disk.
    pub fn damage(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.spoil(path, |contents| contents.damage(offset, bytes))
    }

    /// Overwrites bytes on disk, behind everybody's back; the cache keeps what it has, and shows it
    /// to whoever does not read past it.
    pub fn rot(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.spoil(path, |contents| contents.rot(offset, bytes))
    }

    /// Overwrites bytes in the cache alone, behind everybody's back: whoever reads past it finds what
    /// was there.
    pub fn rot_in_cache(&self, path: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.spoil(path, |contents| contents.rot_in_cache(offset, bytes))
    }

    fn spoil(&self, path: &str, action: impl FnOnce(&mut Contents)) -> io::Result<()> {
        let mut disk = self.lock();
        let inode = disk
            .names
            .file(path)
            .map_err(|error| failed("damage file", path, &error))?;
        action(disk.contents(inode)?);
        disk.used_pages = None;
        Ok(())
    }
}

/// How an I/O goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    Done,
    /// Have the effect, without durability, and report the crash.
    Crash,
}

impl Disk {
    fn new_life(&mut self) {
        self.life += 1;
        self.crashed = false;
        self.crash_at = None;
        self.injections.clear();
        self.failed_syncs.clear();
        self.lies.clear();
        self.used_pages = None;
    }

    fn contents(&mut self, inode: Inode) -> io::Result<&mut Contents> {
        self.files
            .get_mut(&inode)
            .map(Arc::make_mut)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn look_at(&self, inode: Inode) -> io::Result<&Contents> {
        self.files
            .get(&inode)
            .map(|contents| &**contents)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: &str) -> io::Result<Inode> {
        let inode = self.next_inode;
        self.names.make(path, Node::File(inode))?;
        self.next_inode += 1;
        self.files.insert(inode, Arc::default());
        Ok(inode)
    }

    fn used_pages(&mut self) -> u64 {
        if let Some(used) = self.used_pages {
            return used;
        }
        let taken = |inode| {
            let contents = self.files.get(&inode);
            contents.map_or(0, |contents| contents.pages_taken())
        };
        let used = self.names.live_inodes().map(taken).sum();
        self.used_pages = Some(used);
        used
    }

    /// Takes room on the disk.
    fn take_pages(&mut self, pages: u64) -> io::Result<()> {
        if pages > 0 {
            let used = self.used_pages() + pages;
            if used > self.capacity_pages {
                return Err(io::Error::from_raw_os_error(libc::ENOSPC));
            }
            self.used_pages = Some(used);
        }
        Ok(())
    }

    /// Counts an I/O and finds out how it ends.
    fn begin(
        &mut self,
        kind: IoKind,
        path: &Arc<str>,
        offset: u64,
        len: u64,
    ) -> io::Result<Course> {
        if self.crashed {
            return Err(crash_error());
        }
        if kind != IoKind::Read {
            self.io_count += 1;
            if self.recent.len() == RECENT_MAX {
                self.recent.pop_front();
            }
            let (number, path) = (self.io_count, Arc::clone(path));
            self.recent.push_back(IoRecord {
                number,
                kind,
                path,
                offset,
                len,
            });
            if self.crash_at.is_some_and(|at| self.io_count >= at) {
                self.crashed = true;
                return Ok(Course::Crash);
            }
        }
        for injection in &mut self.injections {
            if injection.kind == kind && path.contains(&injection.path_contains) {
                if injection.skip > 0 {
                    injection.skip -= 1;
                } else if injection.times > 0 {
                    injection.times -= 1;
                    return Err(io::Error::from_raw_os_error(injection.errno));
                }
            }
        }
        Ok(Course::Done)
    }

    /// The result of an I/O that had its effect: the crash, if it has come, whatever it was.
    fn end<T>(course: Course, result: io::Result<T>) -> io::Result<T> {
        if course == Course::Crash {
            Err(crash_error())
        } else {
            result
        }
    }
}

/// As [`failed`], but a crash stays recognisable.
fn explain(what: &str, path: &str, error: io::Error) -> io::Error {
    if is_simulated_crash(&error) {
        error
    } else {
        failed(what, path, &error)
    }
}

impl SimStorage {
    /// Runs an operation on a path, counted unless `kind` is `Read`.
    fn on<T>(
        &self,
        what: &str,
        kind: IoKind,
        path: &str,
        action: impl FnOnce(&mut Disk, Course) -> io::Result<T>,
    ) -> io::Result<T> {
        if !is_inside(path) {
            let message = format!("\"{path}\" is not a path below the data directory");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        if kind == IoKind::Read {
            pause(Pause::Read);
        }
        let mut disk = self.lock();
        if self.life.is_some_and(|life| life != disk.life) {
            return Err(crash_error());
        }
        let shared_path = Arc::from(path);
        let mut result = disk.begin(kind, &shared_path, 0, 0);
        if kind == IoKind::SyncDir {
            // The names are durable only after the pause.
            drop(disk);
            pause(Pause::Io);
            disk = self.lock();
            if disk.crashed {
                result = result.and(Ok(Course::Crash));
            } else if result.is_err() {
                disk.failed_syncs.push(shared_path);
            }
        }
        let result = result.and_then(|course| action(&mut disk, course));
        drop(disk);
        if !matches!(kind, IoKind::Read | IoKind::SyncDir) {
            pause(Pause::Io);
        }
        result.map_err(|error| explain(what, path, error))
    }
}

impl Storage for SimStorage {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let new = mode == OpenMode::CreateNew;
        let (what, kind) = if new {
            ("create file", IoKind::Create)
        } else {
            ("open file", IoKind::Read)
        };
        let (inode, life) = self.on(what, kind, path, |disk, course| {
            let inode = if new {
                disk.create(path)
            } else {
                disk.names.file(path)
            };
            Ok((Disk::end(course, inode)?, disk.life))
        })?;
        let storage = self.clone();
        Ok(Arc::new(SimFile {
            storage,
            inode,
            life,
            mode,
            path: Arc::from(path),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.on(
            &format!("rename file \"{from}\" to"),
            IoKind::Rename,
            to,
            |disk, course| {
                disk.used_pages = None;
                let renamed = disk.names.rename(from, to);
                Disk::end(course, renamed)
            },
        )
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.on("remove file", IoKind::Remove, path, |disk, course| {
            disk.used_pages = None;
            let removed = disk.names.remove(path);
            Disk::end(course, removed)
        })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.on("list directory", IoKind::Read, dir, |disk, _| {
            disk.names.list(dir)
        })
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.on("create directory", IoKind::Create, dir, |disk, course| {
            let made = disk.names.make(dir, Node::Dir);
            Disk::end(course, made)
        })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.on("sync directory", IoKind::SyncDir, dir, |disk, course| {
            Disk::end(course, Ok(()))?;
            disk.syncs += 1;
            disk.names.sync(dir)
        })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.on("look for", IoKind::Read, path, |disk, _| {
            Ok(disk.names.get(path).is_some())
        })
    }
}

struct SimFile {
    storage: SimStorage,
    inode: Inode,
    life: u64,
    mode: OpenMode,
    path: Arc<str>,
}

impl SimFile {
    fn on<T>(&self, what: &str, action: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.storage.lock();
        let result = if disk.life == self.life {
            action(&mut disk)
        } else {
            Err(crash_error())
        };
        result.map_err(|error| explain(what, &self.path, error))
    }

    /// Begins a sync, and carries it out after a pause.
    fn sync(&self, what: &str, range: Option<(u64, u64)>) -> io::Result<()> {
        let (offset, len) = range.unwrap_or((0, 0));
        let begun = self.on(what, |disk| {
            Ok(disk.begin(IoKind::Sync, &self.path, offset, len))
        })?;
        pause(Pause::Io);
        self.on(what, |disk| self.finish_sync(disk, begun, range))
    }

    fn finish_sync(
        &self,
        disk: &mut Disk,
        begun: io::Result<Course>,
        range: Option<(u64, u64)>,
    ) -> io::Result<()> {
        disk.syncs += 1;
        let course = match begun {
            Err(error) if !disk.crashed => {
                let (mut rng, block_pages) = (disk.rng.clone(), disk.block_pages);
                disk.contents(self.inode)?.fail_sync(&mut rng, block_pages);
                disk.rng = rng;
                disk.failed_syncs.push(Arc::clone(&self.path));
                return Err(error);
            }
            other => other?,
        };
        if disk.crashed {
            return Err(crash_error());
        }
        Disk::end(course, Ok(()))?;
        let contents = disk.contents(self.inode)?;
        match range {
            Some((offset, len)) => contents.sync_range(offset, len),
            None => contents.sync(),
        }
        Ok(())
    }

    /// An operation that changes the file and may need room.
    fn change(
        &self,
        disk: &mut Disk,
        kind: IoKind,
        (offset, len): (u64, u64),
        action: impl FnOnce(&mut Contents),
        part_of: impl FnOnce(&mut Contents, u64),
    ) -> io::Result<()> {
        if !self.mode.writes() {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if offset
            .checked_add(len)
            .is_none_or(|end| end > i64::MAX as u64)
        {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let course = match disk.begin(kind, &self.path, offset, len) {
            Err(error) if kind == IoKind::Write && !disk.crashed => {
                let mut part = disk.rng.below(2 * len + 1).min(len);
                if disk.block_pages > 1 {
                    part -= part % (disk.block_pages * CACHE_PAGE_BYTES) as u64;
                } else if part < len {
                    // The kernel stops between pages of its cache, or sectors of the disk.
                    part = part.saturating_sub((offset + part) % SECTOR_BYTES as u64);
                }
                part_of(disk.contents(self.inode)?, part);
                disk.used_pages = None;
                return Err(error);
            }
            other => other?,
        };
        let room = if kind == IoKind::Truncate {
            disk.used_pages = None;
            Ok(())
        } else {
            let pages = disk.look_at(self.inode)?.pages_missing(offset, len);
            disk.take_pages(pages)
        };
        if room.is_ok() {
            action(disk.contents(self.inode)?);
        } else if kind == IoKind::Allocate {
            let free = disk.capacity_pages.saturating_sub(disk.used_pages());
            part_of(
                disk.contents(self.inode)?,
                len.min(free * CACHE_PAGE_BYTES as u64),
            );
            disk.used_pages = None;
        }
        Disk::end(course, room)
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        pause(Pause::Read);
        self.on("read file", |disk| {
            disk.begin(IoKind::Read, &self.path, offset, buffer.len() as u64)?;
            if disk.look_at(self.inode)?.can_fade() {
                let (mut rng, block_pages) = (disk.rng.clone(), disk.block_pages);
                disk.contents(self.inode)?.fade(&mut rng, block_pages);
                disk.rng = rng;
            }
            let past_cache = self.mode == OpenMode::ReadPastCache && is_aligned(buffer, offset);
            Ok(disk.look_at(self.inode)?.read(buffer, offset, past_cache))
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let range = (offset, bytes.len() as u64);
        self.on("write file", |disk| {
            let lie = disk.lies.next(&self.path);
            let mut spoilt = None;
            let write = |contents: &mut Contents| match lie {
                None => contents.write(bytes, offset),
                Some(lie) => spoilt = Some(lies::write(contents, lie, bytes, offset)),
            };
            let part_of = |contents: &mut Contents, part: u64| {
                if part > 0 {
                    contents.write(&bytes[..part as usize], offset);
                }
            };
            let done = self.change(disk, IoKind::Write, range, write, part_of);
            disk.lies.told.extend(spoilt.map(|spoilt| Told {
                path: Arc::clone(&self.path),
                spoilt,
            }));
            done
        })?;
        pause(Pause::Io);
        match self.mode {
            OpenMode::ReadWriteSyncData | OpenMode::ReadWriteSync => {
                self.sync("write file", Some(range))
            }
            OpenMode::Read | OpenMode::ReadPastCache => Ok(()),
            OpenMode::ReadWrite | OpenMode::CreateNew => Ok(()),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync("sync the data of file", None)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync("sync file", None)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.on("allocate room for file", |disk| {
            let allocate = |contents: &mut Contents| contents.allocate(offset, len);
            // As ext4 does, which gives what it has left, and then refuses.
            let allocate_part = |contents: &mut Contents, part| contents.allocate(offset, part);
            let range = (offset, len);
            self.change(disk, IoKind::Allocate, range, allocate, allocate_part)
        })?;
        pause(Pause::Io);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.on("find the length of", |disk| {
            if disk.crashed {
                return Err(crash_error());
            }
            Ok(disk.look_at(self.inode)?.len())
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.on("change the length of file", |disk| {
            let truncate = |contents: &mut Contents| contents.truncate(len);
            self.change(disk, IoKind::Truncate, (len, 0), truncate, |_, _| {})
        })?;
        pause(Pause::Io);
        Ok(())
    }

    fn start_writeback(&self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
