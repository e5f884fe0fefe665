//! A file system over FUSE that forgets at a power cut what was not synced: the simulated disk
//! (`rd_sys::simdisk`) as a directory that real processes work in.
//!
//! The simulated disk decides what a cut leaves: pages torn at sectors of 512 bytes, lengths of
//! before, names that were not synced in any subset that a disk allows. This file only carries
//! requests to it.
//!
//! Invariants:
//!
//! * The kernel caches nothing: files are open for direct I/O, names and attributes are good for no
//!   time, and each life of the disk has a mount of its own. So the disk sees every write and every
//!   sync in the order in which they are made, and programs see the disk.
//! * From the cut on nothing is answered until the power is off, as nobody hears anything of a
//!   machine that has none; only the test's own process gets an error, since it goes on.
//! * What is a write to the kernel may be several requests here, and a cut may come between them.

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use nix::errno::Errno as System;
use nix::libc;
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use rd_sys::simdisk::{IoRecord, SimStorage, is_simulated_crash};
use rd_sys::storage::{OpenMode, Storage, StorageFile};
use rd_tests::support::wait_for;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// For how long the kernel may take an answer for true.
const NO_TIME: Duration = Duration::ZERO;
/// Bytes of a block of the disk, as `stat` tells them.
const BLOCK_BYTES: u32 = 4096;

/// Lets this process, which has one thread, and all that it starts have mounts of their own: they
/// are gone with the last of these processes, however it ends.
///
/// # Errors
/// What the system said: only root may.
pub fn own_mounts() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}

/// A disk, mounted, whose power can be cut.
pub struct Disk {
    storage: SimStorage,
    at: PathBuf,
    power: Arc<Power>,
    session: Option<BackgroundSession>,
}

impl Disk {
    /// An empty disk, mounted on a directory.
    ///
    /// # Errors
    /// When there is no FUSE here, or this process may not mount.
    pub fn mounted(at: &Path, seed: u64) -> io::Result<Disk> {
        let mut disk = Disk {
            storage: SimStorage::new(seed),
            at: at.to_owned(),
            power: Arc::default(),
            session: None,
        };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&mut self) -> io::Result<()> {
        self.power = Arc::default();
        let files = Files {
            storage: self.storage.mount(),
            nodes: Mutex::new(Nodes::new()),
            power: Arc::clone(&self.power),
        };
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("rd_power".to_owned()),
            MountOption::DefaultPermissions,
        ];
        self.session = Some(fuser::spawn_mount(files, &self.at, &config)?);
        Ok(())
    }

    /// Lets the power fail at the I/O that comes after so many others which change or sync
    /// something.
    pub fn cut_after(&self, ios: u64) {
        self.storage
            .crash_at(Some(self.storage.io_count() + 1 + ios));
    }

    /// Leaves only so much room; none, as much as anybody wants.
    pub fn leave(&self, bytes: Option<u64>) {
        let used = self.storage.used_bytes();
        self.storage.set_capacity(bytes.map(|bytes| used + bytes));
    }

    /// Whether the power has failed.
    pub fn is_cut(&self) -> bool {
        self.storage.has_crashed()
    }

    /// The last I/Os.
    pub fn recent(&self) -> Vec<IoRecord> {
        self.storage.recent()
    }

    /// Answers what has waited since the cut, with errors, so that the processes which were killed
    /// can end.
    pub fn let_go(&self) {
        let waiting = match &mut *self.power.lock() {
            State::Dead => Vec::new(),
            state => match std::mem::replace(state, State::Dead) {
                State::Waiting(waiting) => waiting,
                State::Dead => Vec::new(),
            },
        };
        for answer in waiting {
            answer();
        }
    }

    /// Loses what was not synced, as the seed says, and is there again for the next life. All
    /// processes that used the disk have ended.
    pub fn power_cycle(&mut self, seed: u64) {
        self.unmount();
        self.storage.crash(seed);
        self.mount().expect("what was mounted can be again");
    }

    /// Puts an empty disk in its place.
    pub fn replace(&mut self, seed: u64) {
        self.unmount();
        self.storage = SimStorage::new(seed);
        self.mount().expect("what was mounted can be again");
    }

    fn unmount(&mut self) {
        self.let_go();
        let Some(session) = self.session.take() else {
            return;
        };
        // The kernel may still be closing files of processes that have ended.
        wait_for("the disk to be unmounted", || umount(&self.at).ok());
        // Its result is that of the last request, which the unmount cut off.
        let _ = session.join();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// What happens to requests that the disk, being without power, does not answer.
enum State {
    Waiting(Vec<Box<dyn FnOnce() + Send>>),
    Dead,
}

impl Default for State {
    fn default() -> State {
        State::Waiting(Vec::new())
    }
}

#[derive(Default)]
struct Power(Mutex<State>);

impl Power {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers with an error; if it is the cut, then later.
    fn refuse(&self, request: &Request, reply: impl Refuse, error: &io::Error) {
        if is_simulated_crash(error) {
            let is_own = Path::new(&format!("/proc/self/task/{}", request.pid())).exists();
            if let (State::Waiting(waiting), false) = (&mut *self.lock(), is_own) {
                waiting.push(Box::new(|| reply.refuse(Errno::EIO)));
                return;
            }
        }
        reply.refuse(errno(error));
    }
}

/// The system's number for an error: its own, or that of its kind.
fn errno(error: &io::Error) -> Errno {
    if let Some(number) = rd_sys::storage::errno(error) {
        return Errno::from_i32(number);
    }
    let system = match error.kind() {
        io::ErrorKind::NotFound => System::ENOENT,
        io::ErrorKind::AlreadyExists => System::EEXIST,
        io::ErrorKind::IsADirectory => System::EISDIR,
        io::ErrorKind::NotADirectory => System::ENOTDIR,
        io::ErrorKind::InvalidInput => System::EINVAL,
        io::ErrorKind::StorageFull => System::ENOSPC,
        io::ErrorKind::FileTooLarge => System::EFBIG,
        io::ErrorKind::Unsupported => System::EOPNOTSUPP,
        _ => System::EIO,
    };
    Errno::from_i32(system as i32)
}

/// An answer that can be an error.
trait Refuse: Send + 'static {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty)*) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(errno);
            }
        })*
    };
}

refuse!(ReplyAttr ReplyCreate ReplyData ReplyDirectory ReplyEmpty ReplyEntry ReplyOpen ReplyWrite);

/// What the kernel knows by a number: a file, or a directory if it has none of the handles.
#[derive(Clone)]
struct Node {
    /// Below the mount; `None` when the name is gone and the file still open.
    path: Option<String>,
    file: Option<Handles>,
}

/// A file, for both kinds of writes.
#[derive(Clone)]
struct Handles {
    plain: Arc<dyn StorageFile>,
    /// Writes are durable when they return.
    synced: Arc<dyn StorageFile>,
}

/// All that the kernel was told of; nothing is forgotten before the mount ends.
struct Nodes {
    nodes: Vec<Node>,
    numbers: BTreeMap<String, u64>,
}

impl Nodes {
    fn new() -> Nodes {
        let root = Node {
            path: Some(String::new()),
            file: None,
        };
        Nodes {
            nodes: vec![root],
            numbers: BTreeMap::from([(String::new(), 1)]),
        }
    }

    fn get(&self, number: INodeNo) -> io::Result<&Node> {
        let index = number.0.checked_sub(1).and_then(|at| at.try_into().ok());
        let node = index.and_then(|index: usize| self.nodes.get(index));
        node.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn path(&self, number: INodeNo) -> io::Result<String> {
        let path = self.get(number)?.path.clone();
        path.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The path of a name in a directory.
    fn child(&self, parent: INodeNo, name: &OsStr) -> io::Result<String> {
        let parent = self.path(parent)?;
        let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(if parent.is_empty() {
            name.to_owned()
        } else {
            format!("{parent}/{name}")
        })
    }

    fn add(&mut self, path: String, file: Option<Handles>) -> u64 {
        let node = Node {
            path: Some(path.clone()),
            file,
        };
        self.nodes.push(node);
        let number = self.nodes.len() as u64;
        self.numbers.insert(path, number);
        number
    }

    /// Takes a name from what has it.
    fn unname(&mut self, path: &str) -> Option<u64> {
        let number = self.numbers.remove(path)?;
        self.nodes[number as usize - 1].path = None;
        Some(number)
    }

    fn rename(&mut self, from: &str, to: &str) {
        if from == to {
            return;
        }
        self.unname(to);
        if let Some(number) = self.unname(from) {
            self.nodes[number as usize - 1].path = Some(to.to_owned());
            self.numbers.insert(to.to_owned(), number);
        }
    }
}

struct Files {
    storage: SimStorage,
    nodes: Mutex<Nodes>,
    power: Arc<Power>,
}

impl Files {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(&self, request: &Request, number: u64) -> io::Result<FileAttr> {
        let node = self.nodes().get(INodeNo(number))?.clone();
        let (kind, perm, size) = match (&node.file, &node.path) {
            (Some(file), _) => (FileType::RegularFile, 0o600, file.plain.len()?),
            (None, path) => {
                // Only to notice that the power is gone.
                self.storage.exists(path.as_deref().unwrap_or_default())?;
                (FileType::Directory, 0o700, 0)
            }
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: request.uid(),
            gid: request.gid(),
            rdev: 0,
            blksize: BLOCK_BYTES,
            flags: 0,
        })
    }

    fn handles(&self, path: &str) -> io::Result<Handles> {
        Ok(Handles {
            plain: self.storage.open(path, OpenMode::ReadWrite)?,
            synced: self.storage.open(path, OpenMode::ReadWriteSyncData)?,
        })
    }

    /// The number of what has this path.
    fn number(&self, path: String) -> io::Result<u64> {
        if !self.storage.exists(&path)? {
            return Err(io::ErrorKind::NotFound.into());
        }
        if let Some(number) = self.nodes().numbers.get(&path) {
            return Ok(*number);
        }
        let file = match self.handles(&path) {
            Ok(handles) => Some(handles),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => None,
            Err(error) => return Err(error),
        };
        Ok(self.nodes().add(path, file))
    }

    fn file(&self, number: INodeNo) -> io::Result<Handles> {
        let file = self.nodes().get(number)?.file.clone();
        file.ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }

    fn look_up(&self, request: &Request, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let path = self.nodes().child(parent, name)?;
        let number = self.number(path)?;
        self.attributes(request, number)
    }

    fn create_file(
        &self,
        request: &Request,
        (parent, name): (INodeNo, &OsStr),
        flags: i32,
    ) -> io::Result<FileAttr> {
        let path = self.nodes().child(parent, name)?;
        match self.storage.open(&path, OpenMode::CreateNew) {
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && flags & libc::O_EXCL == 0 => {}
            made => {
                made?;
            }
        }
        let number = self.number(path)?;
        self.attributes(request, number)
    }

    fn make_dir(&self, request: &Request, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let path = self.nodes().child(parent, name)?;
        self.storage.create_dir(&path)?;
        let number = self.nodes().add(path, None);
        self.attributes(request, number)
    }

    fn remove(&self, parent: INodeNo, name: &OsStr) -> io::Result<()> {
        let path = self.nodes().child(parent, name)?;
        self.storage.remove(&path)?;
        self.nodes().unname(&path);
        Ok(())
    }

    fn move_file(
        &self,
        (parent, name): (INodeNo, &OsStr),
        (to_parent, to_name): (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> io::Result<()> {
        if !flags.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (from, to) = {
            let nodes = self.nodes();
            (nodes.child(parent, name)?, nodes.child(to_parent, to_name)?)
        };
        self.storage.rename(&from, &to)?;
        self.nodes().rename(&from, &to);
        Ok(())
    }

    fn write_file(
        &self,
        number: INodeNo,
        flags: OpenFlags,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        let file = self.file(number)?;
        if flags.0 & libc::O_DSYNC != 0 {
            file.synced.write_all_at(bytes, offset)
        } else {
            file.plain.write_all_at(bytes, offset)
        }
    }

    fn entries(&self, number: INodeNo) -> io::Result<Vec<(u64, FileType, String)>> {
        let dir = self.nodes().path(number)?;
        let mut entries = vec![
            (number.0, FileType::Directory, ".".to_owned()),
            (number.0, FileType::Directory, "..".to_owned()),
        ];
        for name in self.storage.list(&dir)? {
            let path = self.nodes().child(number, OsStr::new(&name))?;
            let number = self.number(path)?;
            let kind = match self.nodes().get(INodeNo(number))?.file {
                Some(_) => FileType::RegularFile,
                None => FileType::Directory,
            };
            entries.push((number, kind, name));
        }
        Ok(entries)
    }
}

impl Filesystem for Files {
    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(request, parent, name) {
            Ok(found) => reply.entry(&NO_TIME, &found, Generation(0)),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(request, ino.0) {
            Ok(found) => reply.attr(&NO_TIME, &found),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Everything is its owner's alone anyway, and no time is kept.
        let done = match size {
            Some(size) => self.file(ino).and_then(|file| file.plain.truncate(size)),
            None => Ok(()),
        };
        match done.and_then(|()| self.attributes(request, ino.0)) {
            Ok(found) => reply.attr(&NO_TIME, &found),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        match self.make_dir(request, parent, name) {
            Ok(made) => reply.entry(&NO_TIME, &made, Generation(0)),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.remove(parent, name) {
            Ok(()) => reply.ok(),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        match self.move_file((parent, name), (newparent, newname), flags) {
            Ok(()) => reply.ok(),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.create_file(request, (parent, name), flags) {
            Ok(made) => {
                let direct = FopenFlags::FOPEN_DIRECT_IO;
                reply.created(&NO_TIME, &made, Generation(0), FileHandle(0), direct);
            }
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.file(ino) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = vec![0; size as usize];
        let read = self.file(ino);
        match read.and_then(|file| file.plain.read_at(&mut buffer, offset)) {
            Ok(count) => reply.data(&buffer[..count]),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.write_file(ino, flags, offset, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn fsync(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let synced = self.file(ino).and_then(|file| match datasync {
            true => file.plain.sync_data(),
            false => file.plain.sync_all(),
        });
        match synced {
            Ok(()) => reply.ok(),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let entries = match self.entries(ino) {
            Ok(entries) => entries,
            Err(error) => return self.power.refuse(request, reply, &error),
        };
        for (index, (number, kind, name)) in entries.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(*number), index as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn fsyncdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let path = self.nodes().path(ino);
        match path.and_then(|path| self.storage.sync_dir(&path)) {
            Ok(()) => reply.ok(),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (blocks, names) = (1 << 20, 1 << 20);
        reply.statfs(
            blocks,
            blocks,
            blocks,
            names,
            names,
            BLOCK_BYTES,
            255,
            BLOCK_BYTES,
        );
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done = match mode {
            0 => self
                .file(ino)
                .and_then(|file| file.plain.allocate(offset, length)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        };
        match done {
            Ok(()) => reply.ok(),
            Err(error) => self.power.refuse(request, reply, &error),
        }
    }
}
