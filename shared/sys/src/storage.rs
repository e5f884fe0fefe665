//! The narrow door to files: one trait, one real disk here and one simulated (`simdisk`).
//!
//! Invariants:
//!
//! * Paths are relative to the data directory, with `/` between names, and never leave it.
//! * Reads and writes name their offset; no file has a position that processes could share.
//! * An error says which operation failed on which file, and keeps its kind (`StorageFull`, …) and
//!   the system's number for it ([`errno`]). Whether a failed sync means PANIC is decided by the
//!   caller; nothing here is tried again.
//! * Files are made readable and writable by their owner alone, and closed at exec.

use crate::Shortage;
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise, posix_fallocate};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// To what reads and writes past the system's cache are aligned: no disk has larger blocks.
pub const DIRECT_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// To read one that exists.
    Read,
    /// As `Read`, from the disk itself: what is aligned as in `ReadWriteSyncData` is read past the
    /// system's cache, whatever lies in it, and leaves that as it is, where the file system can do
    /// that.
    ReadPastCache,
    /// To read and write one that exists.
    ReadWrite,
    /// To read and write one that must not exist yet.
    CreateNew,
    /// As `ReadWrite`; each write returns when its data is durable (`O_DSYNC`). One whose bytes,
    /// length and offset are multiples of [`DIRECT_BYTES`] goes past the system's cache where the
    /// file system can do that (`O_DIRECT`): one request to the disk, and nothing is copied.
    ReadWriteSyncData,
    /// As `ReadWriteSyncData`; the metadata are durable too (`O_SYNC`).
    ReadWriteSync,
}

impl OpenMode {
    /// Whether a file that is opened so can be written.
    pub fn writes(self) -> bool {
        !matches!(self, OpenMode::Read | OpenMode::ReadPastCache)
    }
}

/// A directory of files on a disk that may fail.
pub trait Storage: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;
    /// Gives a file another name, replacing what had it. Durable after `sync_dir`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file's name. Durable after `sync_dir`.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// The names in a directory, sorted; of files and directories alike. One that is not UTF-8 is not
    /// this server's, and comes with U+FFFD for what cannot be read in it.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a directory in one that exists. Durable after `sync_dir` of that one.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes the names in a directory (`""` is the data directory itself) durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Whether there is a file or directory of that name.
    fn exists(&self, path: &str) -> io::Result<bool>;
}

/// An open file.
pub trait StorageFile: Send + Sync {
    /// Fills the buffer from `offset`; fewer bytes only where the file ends.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at `offset`, making the file longer if need be.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes what was written durable, with the length if that is needed to read it. After an
    /// error nothing is known of what was written since the last success.
    fn sync_data(&self) -> io::Result<()>;
    /// As `sync_data`, with all metadata.
    fn sync_all(&self) -> io::Result<()>;
    /// Makes sure that the range has its room on disk, reading as zeros where nothing was written;
    /// `StorageFull` otherwise.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Bytes of the file.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Cuts the file, or lengthens it by zeros without taking room.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Suggests that the range be written now, so that a later sync has less to do. Promises
    /// nothing.
    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Suggests that the range be brought into the system's cache, since it will soon be read. Does
    /// not wait, and promises nothing.
    fn will_need(&self, _offset: u64, _len: u64) {}
}

/// What the system said, and of what.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct FileError {
    message: String,
    errno: Option<i32>,
}

/// Puts the operation and the file's name before what the system said; kind and number stay.
pub(crate) fn failed(what: &str, path: &str, error: &io::Error) -> io::Error {
    let message = format!("could not {what} \"{path}\": {error}");
    let errno = errno(error);
    io::Error::new(error.kind(), FileError { message, errno })
}

/// The system's number for an error, be it the system's own or one of a [`Storage`]; none if it
/// never was one of the system's.
pub fn errno(error: &io::Error) -> Option<i32> {
    let of_file = || error.get_ref()?.downcast_ref::<FileError>()?.errno;
    error.raw_os_error().or_else(of_file)
}

/// Whether the disk does not give these bytes, and may well give others.
pub fn is_bad_sector(error: &io::Error) -> bool {
    errno(error) == Some(libc::EIO)
}

/// Whether a path is relative and stays below its start.
pub(crate) fn is_inside(path: &str) -> bool {
    path.is_empty() || path.split('/').all(|name| !matches!(name, "" | "." | ".."))
}

/// Whether these bytes of memory and of a file can go past the system's cache.
pub(crate) fn is_aligned(bytes: &[u8], offset: u64) -> bool {
    let numbers = [bytes.len() as u64, offset, bytes.as_ptr() as u64];
    numbers
        .iter()
        .all(|number| number.is_multiple_of(DIRECT_BYTES as u64))
}

/// Memory for what is read past the system's cache: what is read into any other comes from there
/// without a word.
#[derive(Default)]
pub struct DirectBuffer {
    /// What was asked for so far, and alignment.
    memory: Vec<u8>,
}

impl DirectBuffer {
    /// So many bytes of it, aligned; what they hold is left from before.
    pub fn bytes(&mut self, count: usize) -> &mut [u8] {
        let room = self.memory.len().max(count + DIRECT_BYTES);
        self.memory.resize(room, 0);
        let aligned = self.memory.as_ptr().align_offset(DIRECT_BYTES);
        &mut self.memory[aligned..][..count]
    }
}

/// The files of a data directory on a real disk.
pub struct RealStorage {
    data_dir: PathBuf,
    /// Directories that stay open, and their names.
    held: Vec<(&'static str, File)>,
}

impl RealStorage {
    /// The storage below `data_dir`, which exists.
    pub fn new(data_dir: PathBuf) -> Self {
        let held = Vec::new();
        Self { data_dir, held }
    }

    /// The same; these directories stay open. To sync one then takes no descriptor, of which there
    /// may be none left when a name in it must be made durable.
    pub fn holding(data_dir: PathBuf, directories: &[&'static str]) -> Self {
        let open = |dir: &&'static str| Some((*dir, File::open(data_dir.join(dir)).ok()?));
        // One that cannot be opened now is opened when it is synced.
        let held = directories.iter().filter_map(open).collect();
        Self { data_dir, held }
    }

    /// Where it is.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn full(&self, path: &str) -> io::Result<PathBuf> {
        if is_inside(path) {
            Ok(self.data_dir.join(path))
        } else {
            let message = format!("\"{path}\" is not a path below the data directory");
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }

    fn on<T>(
        &self,
        what: &str,
        path: &str,
        action: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        action(&self.full(path)?).map_err(|error| failed(what, path, &error))
    }
}

impl Storage for RealStorage {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode.writes()).mode(0o600);
        match mode {
            OpenMode::Read | OpenMode::ReadPastCache | OpenMode::ReadWrite => {}
            OpenMode::CreateNew => {
                options.create_new(true);
            }
            OpenMode::ReadWriteSyncData | OpenMode::ReadWriteSync => {
                options.custom_flags(sync_flag(mode));
            }
        }
        let what = if mode == OpenMode::CreateNew {
            "create file"
        } else {
            "open file"
        };
        let file = self.on(what, path, |full| options.open(full))?;
        let sync = sync_flag(mode);
        let reads_direct = mode == OpenMode::ReadPastCache;
        let wants_direct = sync != 0 || reads_direct;
        let open_direct = |full: &Path| options.custom_flags(sync | libc::O_DIRECT).open(full);
        let direct = match wants_direct.then(|| self.on(what, path, open_direct)) {
            Some(Ok(direct)) => Some(direct),
            // It passes, and whoever reads from the cache until then believes that it is the disk.
            // Writes are as durable by the cache, and the log's cannot wait.
            Some(Err(error)) if reads_direct && Shortage::of(&error).is_some() => {
                return Err(error);
            }
            // A file system that cannot do it says so here; the other descriptor does it all then.
            Some(Err(_)) | None => None,
        };
        Ok(Arc::new(RealFile {
            file,
            direct,
            reads_direct,
            path: path.to_owned(),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let target = self.full(to)?;
        self.on(&format!("rename to \"{to}\" file"), from, |full| {
            fs::rename(full, target)
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.on("remove file", path, |full| fs::remove_file(full))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.on("list directory", dir, |full| {
            let mut names = Vec::new();
            for entry in fs::read_dir(full)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            names.sort_unstable();
            Ok(names)
        })
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.on("create directory", dir, |full| {
            DirBuilder::new().mode(0o700).create(full)
        })
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let held = self.held.iter().find(|(name, _)| *name == dir);
        self.on("sync directory", dir, |full| match held {
            Some((_, open)) => open.sync_all(),
            None => File::open(full)?.sync_all(),
        })
    }

    fn exists(&self, path: &str) -> io::Result<bool> {
        self.on("look for", path, |full| full.try_exists())
    }
}

/// By which writes through a descriptor of this mode are durable when they return.
fn sync_flag(mode: OpenMode) -> libc::c_int {
    match mode {
        OpenMode::Read | OpenMode::ReadPastCache => 0,
        OpenMode::ReadWrite | OpenMode::CreateNew => 0,
        OpenMode::ReadWriteSyncData => libc::O_DSYNC,
        OpenMode::ReadWriteSync => libc::O_SYNC,
    }
}

struct RealFile {
    file: File,
    /// The same file, past the system's cache.
    direct: Option<File>,
    /// Reads go there too.
    reads_direct: bool,
    path: String,
}

impl RealFile {
    fn failed(&self, what: &str, error: &io::Error) -> io::Error {
        failed(what, &self.path, error)
    }

    /// The descriptor past the system's cache, for what is aligned.
    fn direct_for(&self, bytes: &[u8], offset: u64) -> Option<&File> {
        self.direct.as_ref().filter(|_| is_aligned(bytes, offset))
    }

    fn range(&self, offset: u64, len: u64) -> io::Result<(libc::off_t, libc::off_t)> {
        match (offset.try_into(), len.try_into()) {
            (Ok(offset), Ok(len)) => Ok((offset, len)),
            _ => Err(self.failed("reach so far in file", &Errno::EFBIG.into())),
        }
    }
}

impl StorageFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        let mut is_direct = self.reads_direct;
        while done < buffer.len() {
            let (rest, at) = (&mut buffer[done..], offset + done as u64);
            let direct = self.direct_for(rest, at).filter(|_| is_direct);
            let read = direct.unwrap_or(&self.file).read_at(rest, at);
            match read {
                // As in `write_all_at`.
                Err(error) if direct.is_some() && error.kind() == io::ErrorKind::InvalidInput => {
                    is_direct = false;
                }
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let at = offset + done as u64;
                    return Err(self.failed(&format!("read at offset {at} of file"), &error));
                }
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let direct = self.direct_for(bytes, offset);
        let written = match direct.map(|direct| direct.write_all_at(bytes, offset)) {
            // The file system asks for more alignment, or takes the flag and cannot do it.
            Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => {
                self.file.write_all_at(bytes, offset)
            }
            Some(written) => written,
            None => self.file.write_all_at(bytes, offset),
        };
        written.map_err(|error| {
            let what = format!("write {} bytes at offset {offset} of file", bytes.len());
            self.failed(&what, &error)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file
            .sync_data()
            .map_err(|error| self.failed("sync the data of file", &error))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.file
            .sync_all()
            .map_err(|error| self.failed("sync file", &error))
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        let (start, count) = self.range(offset, len)?;
        loop {
            match posix_fallocate(&self.file, start, count) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    let what = format!("allocate {len} bytes at offset {offset} of file");
                    return Err(self.failed(&what, &error.into()));
                }
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        let metadata = self.file.metadata();
        metadata
            .map(|data| data.len())
            .map_err(|error| self.failed("find the length of", &error))
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file
            .set_len(len)
            .map_err(|error| self.failed("change the length of file", &error))
    }

    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        let (start, count) = self.range(offset, len)?;
        // SAFETY: the descriptor is open as long as `self.file` lives; nothing else is passed but
        // numbers.
        let result = unsafe {
            libc::sync_file_range(
                self.file.as_raw_fd(),
                start,
                count,
                libc::SYNC_FILE_RANGE_WRITE,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // A file system or sandbox that cannot: it was a suggestion.
            Some(libc::ENOSYS | libc::ESPIPE | libc::EINVAL | libc::EOPNOTSUPP) => Ok(()),
            _ => Err(self.failed("start writing back file", &error)),
        }
    }

    fn will_need(&self, offset: u64, len: u64) {
        if let Ok((start, count)) = self.range(offset, len) {
            // A file system that cannot do it loses nothing.
            let _ = posix_fadvise(
                &self.file,
                start,
                count,
                PosixFadviseAdvice::POSIX_FADV_WILLNEED,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_strange_name_hides_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealStorage::new(dir.path().to_owned());
        let strange = OsStr::from_bytes(b"b\xff");
        for name in [OsStr::new("a"), strange, OsStr::new("c")] {
            fs::write(dir.path().join(name), "").expect("made");
        }
        assert_eq!(disk.list("").expect("read"), ["a", "b\u{fffd}", "c"]);
    }

    #[test]
    fn files_are_their_owners_alone_and_errors_name_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealStorage::new(dir.path().to_owned());
        disk.create_dir("wal").expect("made");
        let file = disk.open("wal/1", OpenMode::CreateNew).expect("made");
        file.write_all_at(b"abc", 1).expect("written");
        file.start_writeback(0, 4).expect("a hint");
        file.sync_all()
            .and_then(|()| disk.sync_dir("wal"))
            .expect("synced");
        let mode = |path| {
            let data = fs::metadata(dir.path().join(path)).expect("it is there");
            data.permissions().mode() & 0o7777
        };
        assert_eq!((mode("wal"), mode("wal/1")), (0o700, 0o600));
        let mut buffer = [9; 8];
        assert_eq!(file.read_at(&mut buffer, 0).expect("read"), 4);
        assert_eq!(&buffer, b"\0abc\x09\x09\x09\x09");
        let again = disk
            .open("wal/1", OpenMode::CreateNew)
            .err()
            .expect("it exists");
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(
            again
                .to_string()
                .starts_with("could not create file \"wal/1\": "),
            "{again}"
        );
        let absent = disk
            .open("wal/2", OpenMode::Read)
            .err()
            .expect("it does not exist");
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        let reader = disk.open("wal/1", OpenMode::Read).expect("opened");
        let refused = reader.write_all_at(b"x", 7).expect_err("opened to read");
        assert!(
            refused
                .to_string()
                .contains("1 bytes at offset 7 of file \"wal/1\""),
            "{refused}"
        );
    }

    #[test]
    fn an_error_keeps_the_systems_number_and_what_is_short_is_told() {
        for (number, short) in [
            (libc::EMFILE, Some(Shortage::ProcessDescriptors)),
            (libc::ENFILE, Some(Shortage::SystemDescriptors)),
            (libc::ENOMEM, Some(Shortage::Memory)),
            (libc::EIO, None),
            (libc::ENOENT, None),
        ] {
            let bare = io::Error::from_raw_os_error(number);
            let told = failed("open file", "base/1", &bare);
            let twice = failed("list directory", "base", &told);
            for error in [&bare, &told, &twice] {
                assert_eq!(errno(error), Some(number), "{error}");
                assert_eq!(error.kind(), bare.kind());
                assert_eq!(Shortage::of(error), short, "{error}");
            }
            let text = told.to_string();
            assert_eq!(text, format!("could not open file \"base/1\": {bare}"));
        }
        assert_eq!(errno(&io::Error::other("not of the system")), None);
    }

    #[test]
    fn directories_that_are_held_are_synced_by_what_was_opened_first() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("wal")).expect("made");
        let disk = RealStorage::holding(dir.path().to_owned(), &["wal", "absent"]);
        // Whoever opened it now would find nothing.
        fs::remove_dir(dir.path().join("wal")).expect("removed");
        disk.sync_dir("wal").expect("it is open");
        disk.sync_dir("").expect("there");
        let absent = disk.sync_dir("absent").expect_err("never there");
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn writes_that_are_durable_at_once_go_by_either_way_and_are_seen_by_all() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealStorage::new(dir.path().to_owned());
        let plain = disk.open("a", OpenMode::CreateNew).expect("made");
        plain.write_all_at(&[1; 20_000], 0).expect("written");
        let memory = [7; 4 * DIRECT_BYTES];
        let aligned = memory.as_ptr().align_offset(DIRECT_BYTES);
        let block = &memory[aligned..][..2 * DIRECT_BYTES];
        for mode in [OpenMode::ReadWriteSyncData, OpenMode::ReadWriteSync] {
            let file = disk.open("a", mode).expect("opened");
            file.write_all_at(block, DIRECT_BYTES as u64)
                .expect("aligned");
            file.write_all_at(&block[..100], 50).expect("not aligned");
            file.write_all_at(&memory[aligned + 1..][..DIRECT_BYTES], 0)
                .expect("in memory neither");
            file.write_all_at(&[2; 10], 5000).expect("short");
            let mut seen = vec![0; 20_000];
            for reader in [&plain, &file] {
                assert_eq!(reader.read_at(&mut seen, 0).expect("read"), seen.len());
                assert!(seen[..5000].iter().all(|byte| *byte == 7));
                assert!(seen[5000..5010].iter().all(|byte| *byte == 2));
                assert!(seen[5010..12288].iter().all(|byte| *byte == 7));
                assert!(seen[12288..].iter().all(|byte| *byte == 1));
            }
        }
    }

    #[test]
    fn what_is_read_past_the_cache_is_what_was_written_last() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealStorage::new(dir.path().to_owned());
        let plain = disk.open("a", OpenMode::CreateNew).expect("made");
        let past = disk.open("a", OpenMode::ReadPastCache).expect("opened");
        let mut memory = [0; 5 * DIRECT_BYTES];
        let aligned = memory.as_ptr().align_offset(DIRECT_BYTES);
        for fill in 1..5 {
            // The file ends within a block.
            plain.write_all_at(&[fill; 10_000], 0).expect("written");
            for from in [aligned, aligned + 1] {
                let buffer = &mut memory[from..][..3 * DIRECT_BYTES];
                assert_eq!(past.read_at(buffer, 0).expect("read"), 10_000);
                assert!(buffer[..10_000].iter().all(|byte| *byte == fill));
                assert_eq!(past.read_at(&mut buffer[..9], 9995).expect("read"), 5);
            }
        }
        past.write_all_at(b"x", 0).expect_err("opened to read");
    }

    #[test]
    fn what_is_allocated_reads_as_zeros_and_keeps_what_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = RealStorage::new(dir.path().to_owned());
        let file = disk.open("a", OpenMode::CreateNew).expect("made");
        assert!(file.is_empty().expect("a length"));
        file.write_all_at(&[5; 10], 0).expect("written");
        file.allocate(0, 100_000)
            .and_then(|()| file.allocate(0, 0))
            .expect("room");
        let mut buffer = vec![7; 100_000];
        assert_eq!(file.read_at(&mut buffer, 0).expect("read"), 100_000);
        assert!(buffer[..10].iter().all(|byte| *byte == 5));
        assert!(buffer[10..].iter().all(|byte| *byte == 0));
        file.truncate(3).expect("cut");
        assert_eq!(file.len().expect("a length"), 3);
        let error = file.allocate(0, u64::MAX).expect_err("no file is so long");
        assert!(error.to_string().contains("\"a\""), "{error}");
    }
}
