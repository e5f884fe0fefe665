//! Relation files under `base/`: file 17 is `base/17`, `base/17.1`, … in pieces of 1 GiB.
//!
//! Only the checkpointer opens them for writing; before it takes over, start-up does for its
//! repairs, and `rd_initdb` while there is no server. A process keeps a bounded number of
//! descriptors, and gives those up that it has not used for longest when it can have no more; a
//! handle that was given out stays open as long as somebody holds it, so that a file is always
//! synced through the very descriptor that it was written through, which learns of every error.
//!
//! A piece's name is durable before any record uses a block of it: whoever creates one syncs the
//! directory, and start-up syncs it once more, for a name whose creator died before he could.

use crate::buffer::{PageReadError, PageSource};
use crate::ctx::Store;
use rd_base::counters::Counter;
use rd_base::limits::{FILE_PIECE_BYTES, PAGE_BYTES};
use rd_base::{BlockNo, FileNo, Lsn, PageTag, Role};
use rd_format::bitmap::META_BLOCK;
use rd_format::meta::{self, Meta};
use rd_format::page::{self, PageBytes};
use rd_sys::Shortage;
use rd_sys::fault::{self, Fault};
use rd_sys::latch::lock_mutex;
use rd_sys::storage::{OpenMode, Storage, StorageFile};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// The directory of the relation files, below the data directory.
pub const BASE_DIR: &str = "base";
/// Blocks of one piece.
pub const PIECE_BLOCKS: u32 = (FILE_PIECE_BYTES / PAGE_BYTES as u64) as u32;
/// Pieces that a process keeps open.
const OPEN_MAX: usize = 64;

/// The name of piece `piece` of `file`, relative to the data directory.
pub fn path(file: FileNo, piece: u32) -> String {
    match piece {
        0 => format!("{BASE_DIR}/{file}"),
        _ => format!("{BASE_DIR}/{file}.{piece}"),
    }
}

/// The name of the piece that holds `tag`.
pub fn path_of(tag: PageTag) -> String {
    path(tag.file, tag.block.get() / PIECE_BLOCKS)
}

/// The file and piece that a name in `base/` stands for; `None` for a name that is neither.
pub fn parse_name(name: &str) -> Option<(FileNo, u32)> {
    let (file, piece) = match name.split_once('.') {
        Some((file, piece)) => (file, piece.parse().ok().filter(|piece| *piece > 0)?),
        None => (name, 0),
    };
    let number = file.parse().ok().filter(|number| *number > 0)?;
    let (file, spelled) = (FileNo::new(number), path(FileNo::new(number), piece));
    (spelled.strip_prefix(BASE_DIR)?.strip_prefix('/')? == name).then_some((file, piece))
}

/// Where in its piece a block lies, in bytes.
pub fn offset_of(block: BlockNo) -> u64 {
    u64::from(block.get() % PIECE_BLOCKS) * PAGE_BYTES as u64
}

/// One process's open relation files.
pub struct RelationFiles {
    storage: Arc<dyn Storage>,
    mode: OpenMode,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    /// Moves with each use.
    tick: u64,
    pieces: Vec<OpenPiece>,
    /// The counts of files that were unlinked, and that may have been replaced, when descriptors were
    /// last looked through.
    seen: (u64, u64),
}

struct OpenPiece {
    file: FileNo,
    piece: u32,
    used: u64,
    handle: Arc<dyn StorageFile>,
}

impl Open {
    /// Closes the piece that was not used for longest; says whether there was one.
    fn close_oldest(&mut self) -> bool {
        let oldest = (0..self.pieces.len()).min_by_key(|index| self.pieces[*index].used);
        oldest.is_some_and(|oldest| {
            self.pieces.swap_remove(oldest);
            true
        })
    }
}

impl RelationFiles {
    /// Relation files to be read.
    pub fn reader(storage: Arc<dyn Storage>) -> RelationFiles {
        RelationFiles {
            storage,
            mode: OpenMode::Read,
            open: Mutex::default(),
        }
    }

    /// Relation files to be read and written; see the module for who may.
    pub fn writer(storage: Arc<dyn Storage>) -> RelationFiles {
        RelationFiles {
            storage,
            mode: OpenMode::ReadWrite,
            open: Mutex::default(),
        }
    }

    /// Relation files to be read from the disk itself, past the system's cache.
    pub fn past_cache(storage: Arc<dyn Storage>) -> RelationFiles {
        RelationFiles {
            storage,
            mode: OpenMode::ReadPastCache,
            open: Mutex::default(),
        }
    }

    /// The disk that they are on.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        lock_mutex(&self.open)
    }

    /// The open piece `piece` of `file`.
    ///
    /// # Errors
    /// When it cannot be opened; `NotFound` if there is no such piece.
    pub fn piece(&self, file: FileNo, piece: u32) -> io::Result<Arc<dyn StorageFile>> {
        let mut open = self.open();
        open.tick += 1;
        let tick = open.tick;
        let known = open
            .pieces
            .iter_mut()
            .find(|open| (open.file, open.piece) == (file, piece));
        if let Some(known) = known {
            known.used = tick;
            return Ok(Arc::clone(&known.handle));
        }
        let handle = self.open_file(&mut open, &path(file, piece), self.mode)?;
        if open.pieces.len() >= OPEN_MAX {
            open.close_oldest();
        }
        open.pieces.push(OpenPiece {
            file,
            piece,
            used: tick,
            handle: Arc::clone(&handle),
        });
        Ok(handle)
    }

    /// Opens a file. With no descriptor left for it, the pieces that were not used for longest are
    /// closed.
    fn open_file(
        &self,
        open: &mut Open,
        path: &str,
        mode: OpenMode,
    ) -> io::Result<Arc<dyn StorageFile>> {
        loop {
            match self.storage.open(path, mode) {
                Err(error) if Shortage::of(&error).is_some() && open.close_oldest() => {}
                opened => return opened,
            }
        }
    }

    /// The open piece that holds `tag`.
    ///
    /// # Errors
    /// As [`RelationFiles::piece`].
    pub fn piece_of(&self, tag: PageTag) -> io::Result<Arc<dyn StorageFile>> {
        self.piece(tag.file, tag.block.get() / PIECE_BLOCKS)
    }

    /// Closes the descriptors of `file`, so that its room is given back when it is unlinked.
    pub fn forget(&self, file: FileNo) {
        self.open().pieces.retain(|open| open.file != file);
    }

    /// Closes the descriptors of files that `exists` denies, if `now` is other than last time: numbers
    /// that move with each unlinked file, and with each that may be another one now, when all are
    /// closed.
    pub fn forget_gone(&self, now: (u64, u64), exists: impl Fn(FileNo) -> bool) {
        let mut open = self.open();
        if open.seen != now {
            let may_be_others = open.seen.1 != now.1;
            open.seen = now;
            open.pieces
                .retain(|open| !may_be_others && exists(open.file));
        }
    }

    /// The first page of `file` as far as it says whose it is; none if there is no such file. Also the
    /// meta page of another file, which does not belong there.
    ///
    /// # Errors
    /// When it cannot be read, or is no meta page.
    pub fn read_meta(&self, file: FileNo) -> Result<Option<Meta>, PageReadError> {
        let tag = PageTag::new(file, META_BLOCK);
        let mut page = [0; PAGE_BYTES];
        match self.piece(file, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            _ => {}
        }
        if let Err(error) = self.read_page(tag, &mut page) {
            let other = meta::read(&page).file;
            let is_whole = page::verify(&page, PageTag::new(other, META_BLOCK)).is_ok();
            if !is_whole || other == file {
                return Err(error);
            }
        }
        Ok(Some(meta::read(&page)))
    }

    /// Reads a block as it is on disk, unchecked; false if the file ends before its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_block(&self, tag: PageTag, page: &mut PageBytes) -> io::Result<bool> {
        let handle = match self.piece_of(tag) {
            Ok(handle) => handle,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(handle.read_at(page, offset_of(tag.block))? == PAGE_BYTES)
    }

    /// Reads a page and checks it: there, checksum, kind, structure.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was written there; the error names it.
    pub fn read_page(&self, tag: PageTag, page: &mut PageBytes) -> Result<(), PageReadError> {
        match self.read_block(tag, page) {
            Ok(true) => page::verify(page, tag).map_err(|error| PageReadError::Damaged {
                tag,
                path: path_of(tag),
                error,
            }),
            Ok(false) => Err(PageReadError::BeyondEnd {
                tag,
                path: path_of(tag),
            }),
            Err(error) => Err(PageReadError::Io {
                tag,
                path: path_of(tag),
                error,
            }),
        }
    }

    /// Suggests to the system that the page be brought into its cache. Promises nothing.
    pub fn will_need(&self, tag: PageTag) {
        if let Ok(piece) = self.piece_of(tag) {
            piece.will_need(offset_of(tag.block), PAGE_BYTES as u64);
        }
    }

    /// Writes a sealed page in its place; gives the handle through which it must be synced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_page(&self, tag: PageTag, page: &PageBytes) -> io::Result<Arc<dyn StorageFile>> {
        let handle = self.piece_of(tag)?;
        handle.write_all_at(page, offset_of(tag.block))?;
        Ok(handle)
    }

    /// Blocks that `file` has on disk, whole ones; `None` if there is no such file.
    ///
    /// # Errors
    /// When that cannot be found out.
    pub fn blocks_on_disk(&self, file: FileNo) -> io::Result<Option<u32>> {
        let mut blocks = 0;
        for piece in 0.. {
            let handle = match self.piece(file, piece) {
                Ok(handle) => handle,
                Err(error) if error.kind() == io::ErrorKind::NotFound && piece > 0 => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            let here = (handle.len()? / PAGE_BYTES as u64).min(u64::from(PIECE_BLOCKS)) as u32;
            // More pieces than blocks have numbers are not this server's.
            blocks = here.saturating_add(blocks);
            if here < PIECE_BLOCKS || blocks == u32::MAX {
                break;
            }
        }
        Ok(Some(blocks))
    }

    /// Gives `file` room for blocks from `from` to `to`, really allocated and synced. Pieces that
    /// are missing are created.
    ///
    /// # Errors
    /// `StorageFull` when there is no room. Then the pieces are as long as they were: what the file
    /// system had left is for others, and this file may need less than was asked for.
    pub fn grow(&self, file: FileNo, from: u32, to: u32) -> io::Result<()> {
        let mut before = Vec::new();
        self.grow_pieces(file, from, to, &mut before)
            .inspect_err(|_| {
                for (handle, bytes) in &before {
                    // The error is told that there was no room; this one would say no more.
                    if handle.len().is_ok_and(|now| now > *bytes) {
                        let _ = handle.truncate(*bytes);
                    }
                }
            })
    }

    /// As [`RelationFiles::grow`]; tells `before` of each piece that it has begun with, and how long that
    /// was.
    fn grow_pieces(
        &self,
        file: FileNo,
        from: u32,
        to: u32,
        before: &mut Vec<(Arc<dyn StorageFile>, u64)>,
    ) -> io::Result<()> {
        let mut block = from;
        while block < to {
            let piece = block / PIECE_BLOCKS;
            let end = to.min((piece + 1).saturating_mul(PIECE_BLOCKS));
            let handle = match self.piece(file, piece) {
                Ok(handle) => handle,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let path = path(file, piece);
                    self.open_file(&mut self.open(), &path, OpenMode::CreateNew)?
                }
                Err(error) => return Err(error),
            };
            let offset = offset_of(BlockNo::new(block));
            before.push((Arc::clone(&handle), handle.len()?.max(offset)));
            handle.allocate(offset, u64::from(end - block) * PAGE_BYTES as u64)?;
            self.sync(&*handle, &path(file, piece));
            // One that is there without its first block may be what an attempt left behind that found
            // no room: its name is not durable yet.
            if block.is_multiple_of(PIECE_BLOCKS) {
                self.sync_dir();
            }
            block = end;
        }
        Ok(())
    }

    /// Makes the room of the blocks `from` to `to` durable, which are there: whoever made it may have
    /// died before his sync.
    ///
    /// # Errors
    /// When a piece cannot be opened. A sync that fails ends the process.
    pub fn sync_growth(&self, file: FileNo, from: u32, to: u32) -> io::Result<()> {
        for piece in from / PIECE_BLOCKS..to.div_ceil(PIECE_BLOCKS) {
            self.sync(&*self.piece(file, piece)?, &path(file, piece));
        }
        self.sync_dir();
        Ok(())
    }

    /// Removes all pieces of `file`; ones that are not there are no error.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub fn unlink(&self, file: FileNo) -> io::Result<()> {
        self.forget(file);
        let mut pieces = Vec::new();
        for name in self.storage.list(BASE_DIR)? {
            pieces.extend(parse_name(&name).filter(|(number, _)| *number == file));
        }
        // The first piece last: while it is there the file is known to be there.
        pieces.sort_by_key(|(_, piece)| std::cmp::Reverse(*piece));
        for (_, piece) in &pieces {
            self.storage.remove(&path(file, *piece))?;
        }
        if !pieces.is_empty() {
            self.sync_dir();
        }
        Ok(())
    }

    /// Syncs through `handle`. A sync that failed says nothing of what is on disk, so the process
    /// ends, and recovery writes everything again.
    pub fn sync(&self, handle: &dyn StorageFile, path: &str) {
        let synced = fault::point(Fault::FileSync).and_then(|()| handle.sync_data());
        if let Err(error) = synced {
            rd_sys::crash::panic_abort(&format!("could not sync file \"{path}\": {error}"));
        }
    }

    /// Makes the names in `base/` durable.
    pub fn sync_dir(&self) {
        if let Err(error) = self.storage.sync_dir(BASE_DIR) {
            rd_sys::crash::panic_abort(&format!(
                "could not sync directory \"{BASE_DIR}\": {error}"
            ));
        }
    }
}

impl Store {
    /// Closes the descriptors of files that are gone, or that may be others by now.
    pub fn forget_gone(&self) {
        let files = &self.shared.files;
        self.relations
            .forget_gone(files.gone(), |file| files.exists(file));
    }

    /// Tells the system that the page will soon be read.
    pub fn will_need(&self, tag: PageTag) {
        self.count(Counter::PagesReadAhead);
        self.relations.will_need(tag);
    }

    /// Holds a page that was just read against the log: its LSN cannot lie above the insert
    /// position. While the log is redone its end is not known; redo itself then looks at what it has
    /// met, and nothing else is read.
    ///
    /// # Errors
    /// Names the page.
    pub fn check_page_lsn(&self, tag: PageTag, page: &PageBytes) -> Result<(), PageReadError> {
        let page_lsn = page::page_lsn(page);
        // After the page, which may hold what was inserted meanwhile.
        let end = self.shared.wal.insert_lsn();
        if page_lsn <= end || end == Lsn::ZERO {
            return Ok(());
        }
        Err(PageReadError::BeyondLog {
            tag,
            path: path_of(tag),
            page_lsn,
            end,
        })
    }
}

impl PageSource for Store {
    fn read_page(&self, tag: PageTag, page: &mut PageBytes) -> Result<(), PageReadError> {
        self.forget_gone();
        self.count(Counter::PagesRead);
        let began_ns = self.clock.monotonic_ns();
        let read = self.relations.read_page(tag, page);
        let read = read.and_then(|()| self.check_page_lsn(tag, page));
        let took_ns = self.clock.monotonic_ns() - began_ns;
        self.add(Counter::PageReadMicros, took_ns / 1000);
        if let Err(error) = &read {
            if let PageReadError::Damaged { .. } = error {
                self.count(Counter::ChecksumFailures);
            }
            // There may be a good copy of it. This read has failed whatever comes of that.
            if error.shortage().is_none() && self.shared.scrub.report(tag) {
                self.shared.procs.notify(Role::Checkpointer);
            }
        }
        read
    }

    fn ask_for_supply(&self) {
        self.shared.procs.notify(Role::Checkpointer);
    }

    fn note(&self, counter: Counter) {
        self.count(counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_sys::simdisk::{Injection, IoKind, Lie, SimStorage};

    fn files() -> RelationFiles {
        let storage = SimStorage::new(1);
        storage.create_dir(BASE_DIR).expect("a new disk");
        RelationFiles::writer(Arc::new(storage))
    }

    fn tag(file: u32, block: u32) -> PageTag {
        PageTag::new(FileNo::new(file), BlockNo::new(block))
    }

    #[test]
    fn names_of_pieces_round_trip_and_strangers_are_told() {
        for (file, piece) in [(1, 0), (17, 0), (17, 1), (u32::MAX, 32_767)] {
            let path = path(FileNo::new(file), piece);
            let name = path.strip_prefix("base/").expect("below base");
            assert_eq!(parse_name(name), Some((FileNo::new(file), piece)));
        }
        for stranger in [
            "", "0", "x", "17.", "17.0", "017", "17.01", "17.1.2", "-1", "+1",
        ] {
            assert_eq!(parse_name(stranger), None, "{stranger:?}");
        }
        assert_eq!(path_of(tag(3, PIECE_BLOCKS - 1)), "base/3");
        assert_eq!(path_of(tag(3, PIECE_BLOCKS)), "base/3.1");
        assert_eq!(offset_of(BlockNo::new(PIECE_BLOCKS + 1)), PAGE_BYTES as u64);
    }

    #[test]
    fn a_file_that_could_not_grow_at_first_keeps_its_name_when_the_power_fails() {
        for seed in 0..8 {
            let storage = SimStorage::new(seed);
            storage.create_dir(BASE_DIR).expect("a new disk");
            storage.sync_dir("").expect("a good disk");
            storage.inject(Injection {
                kind: IoKind::Allocate,
                path_contains: "base/7".to_owned(),
                skip: 0,
                times: 1,
                errno: 28,
            });
            let files = RelationFiles::writer(Arc::new(storage.clone()));
            let file = FileNo::new(7);
            files.grow(file, 0, 10).expect_err("the disk is full");
            files.grow(file, 0, 10).expect("there is room again");
            storage.crash(seed);
            let files = RelationFiles::writer(Arc::new(storage));
            let blocks = files.blocks_on_disk(file).expect("readable");
            assert_eq!(blocks, Some(10), "seed {seed}");
        }
    }

    /// Relation files on a new disk, and that disk.
    fn on_new_disk(seed: u64) -> (SimStorage, RelationFiles) {
        let storage = SimStorage::new(seed);
        storage.create_dir(BASE_DIR).expect("a new disk");
        storage.sync_dir("").expect("a good disk");
        let files = RelationFiles::writer(Arc::new(storage.clone()));
        (storage, files)
    }

    /// A gigabyte each; a file begins a further one when the last is full.
    #[test]
    fn a_file_of_several_pieces_survives_the_power_and_is_removed_whole() {
        const BLOCKS: u32 = PIECE_BLOCKS + 20;
        let file = FileNo::new(5);
        for seed in 0..8 {
            let (storage, files) = on_new_disk(seed);
            files.grow(file, 0, PIECE_BLOCKS - 10).expect("room");
            files.grow(file, PIECE_BLOCKS - 10, BLOCKS).expect("room");
            let mut page = [0; PAGE_BYTES];
            for block in [PIECE_BLOCKS - 1, PIECE_BLOCKS, BLOCKS - 1] {
                page::init(&mut page, page::PageKind::Free);
                page::seal(&mut page, tag(5, block));
                let piece = files.write_page(tag(5, block), &page).expect("room");
                files.sync(&*piece, &path_of(tag(5, block)));
            }
            storage.crash(seed);
            let files = RelationFiles::writer(Arc::new(storage.clone()));
            let blocks = files.blocks_on_disk(file).expect("readable");
            assert_eq!(blocks, Some(BLOCKS), "seed {seed}");
            for block in [PIECE_BLOCKS - 1, PIECE_BLOCKS, BLOCKS - 1] {
                files
                    .read_page(tag(5, block), &mut page)
                    .expect("as it was written");
            }
            files.unlink(file).expect("removable");
            assert_eq!(storage.list(BASE_DIR).expect("readable"), [""; 0]);
            assert_eq!(storage.used_bytes(), 0);
        }
    }

    /// An attempt that found too little room leaves none of it taken: neither of a piece that is there, nor
    /// of a new one.
    #[test]
    fn what_is_left_of_the_disk_is_given_back_when_it_is_too_little() {
        const FREE: u32 = 50;
        let file = FileNo::new(5);
        for begins_at in [0, 10, PIECE_BLOCKS - 10] {
            let (storage, files) = on_new_disk(1);
            files.grow(file, 0, begins_at).expect("room");
            let used = storage.used_bytes();
            storage.set_capacity(Some(used + u64::from(FREE) * PAGE_BYTES as u64));
            let error = files.grow(file, begins_at, begins_at + FREE + 1);
            let error = error.expect_err("one block too many");
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(storage.used_bytes(), used, "from {begins_at}");
            let blocks = files.blocks_on_disk(file).expect("readable");
            assert_eq!(blocks, Some(begins_at));
            // What was there before is left alone.
            let (here, more) = (begins_at.min(1), begins_at + FREE);
            files
                .grow(file, here, more + 1)
                .expect_err("still too many");
            assert_eq!(storage.used_bytes(), used, "from {here}");
            files.grow(file, begins_at, more).expect("room");
            assert_eq!(files.blocks_on_disk(file).expect("readable"), Some(more));
        }
    }

    /// The next `pg_control` counts on room whose making was cut off, in each of the pieces that have it.
    #[test]
    fn growth_over_pieces_is_synced_in_all_of_them() {
        const BLOCKS: u32 = PIECE_BLOCKS + 20;
        let file = FileNo::new(5);
        for seed in 0..8 {
            let (storage, files) = on_new_disk(seed);
            files.grow(file, 0, 10).expect("room");
            for (piece, from, to) in [(0, 10, PIECE_BLOCKS), (1, 0, BLOCKS - PIECE_BLOCKS)] {
                let mode = if piece == 0 {
                    OpenMode::ReadWrite
                } else {
                    OpenMode::CreateNew
                };
                let bytes = u64::from(to - from) * PAGE_BYTES as u64;
                storage
                    .open(&path(file, piece), mode)
                    .and_then(|piece| piece.allocate(u64::from(from) * PAGE_BYTES as u64, bytes))
                    .expect("room");
            }
            storage.kill(seed);
            let files = RelationFiles::writer(Arc::new(storage.clone()));
            files.sync_growth(file, 10, BLOCKS).expect("there");
            storage.crash(seed);
            let files = RelationFiles::writer(Arc::new(storage));
            let blocks = files.blocks_on_disk(file).expect("readable");
            assert_eq!(blocks, Some(BLOCKS), "seed {seed}");
        }
    }

    #[test]
    fn pages_are_checked_and_named_when_they_are_read() {
        let files = files();
        let mut page = [0; PAGE_BYTES];
        let beyond = files.read_page(tag(5, 3), &mut page);
        assert!(
            matches!(beyond, Err(PageReadError::BeyondEnd { .. })),
            "{beyond:?}"
        );
        files.grow(FileNo::new(5), 0, 10).expect("room");
        assert_eq!(
            files.blocks_on_disk(FileNo::new(5)).expect("readable"),
            Some(10)
        );
        let zero = files
            .read_page(tag(5, 3), &mut page)
            .expect_err("never written");
        assert!(zero.to_string().contains("file 5 block 3"), "{zero}");
        page::init(&mut page, page::PageKind::Free);
        page::seal(&mut page, tag(5, 3));
        files.write_page(tag(5, 3), &page).expect("room");
        files
            .read_page(tag(5, 3), &mut page)
            .expect("as it was written");
        files.write_page(tag(5, 4), &page).expect("room");
        let moved = files.read_page(tag(5, 4), &mut page);
        assert!(
            matches!(moved, Err(PageReadError::Damaged { .. })),
            "{moved:?}"
        );
        files.unlink(FileNo::new(5)).expect("removable");
        assert_eq!(
            files.blocks_on_disk(FileNo::new(5)).expect("readable"),
            None
        );
    }

    /// What a disk does without telling is named; but a write that it has not done at all leaves a
    /// page that is whole, and was right once: that is out of the promise.
    #[test]
    fn a_page_that_rots_or_lands_elsewhere_is_named_and_never_served() {
        let storage = SimStorage::new(1);
        storage.create_dir(BASE_DIR).expect("a new disk");
        let files = RelationFiles::writer(Arc::new(storage.clone()));
        files.grow(FileNo::new(5), 0, 10).expect("room");
        let write = |block: u32, fill: u8| {
            let mut page = [0; PAGE_BYTES];
            page::init(&mut page, page::PageKind::Free);
            page[4000..].fill(fill);
            page::seal(&mut page, tag(5, block));
            files.write_page(tag(5, block), &page).expect("room");
        };
        let read = |block: u32| {
            let mut page = [0; PAGE_BYTES];
            files
                .read_page(tag(5, block), &mut page)
                .map(|()| page[4000])
        };
        (0..10).for_each(|block| write(block, 1));
        for (lie, harmed) in [
            (Lie::Rot(4096), 3),
            (Lie::Misdirected(PAGE_BYTES as u64), 4),
            (Lie::Misdirected(PAGE_BYTES as u64 / 2), 4),
        ] {
            storage.lie(lie, "base/5", 0);
            write(3, 2);
            let error = read(harmed).expect_err("it is not the page of this place");
            let text = error.to_string();
            assert!(text.contains(&format!("file 5 block {harmed}")), "{text}");
            write(3, 1);
            write(4, 1);
            assert_eq!((read(3).ok(), read(4).ok()), (Some(1), Some(1)));
        }
        storage.lie(Lie::Lost, "base/5", 0);
        write(3, 2);
        assert_eq!(read(3).ok(), Some(1), "a stale read");
        assert_eq!(storage.lies_told(), 4);
    }

    #[test]
    fn with_no_descriptor_left_files_that_rest_are_closed_and_no_page_is_blamed() {
        let storage = SimStorage::new(1);
        storage.create_dir(BASE_DIR).expect("a new disk");
        let files = RelationFiles::writer(Arc::new(storage.clone()));
        for file in 1..=4 {
            files.grow(FileNo::new(file), 0, 1).expect("room");
        }
        files.forget(FileNo::new(4));
        let refuse = |times| {
            storage.inject(Injection {
                kind: IoKind::Read,
                path_contains: "base/4".to_owned(),
                skip: 0,
                times,
                errno: 24,
            });
        };
        for file in 1..=3 {
            files.piece(FileNo::new(file), 0).expect("there");
        }
        refuse(2);
        files.piece(FileNo::new(4), 0).expect("the third attempt");
        let open: Vec<u32> = files
            .open()
            .pieces
            .iter()
            .map(|open| open.file.get())
            .collect();
        assert_eq!(open, [3, 4], "those that were used last");
        files.forget(FileNo::new(4));
        refuse(u64::MAX);
        let error = files
            .read_page(tag(4, 0), &mut [0; PAGE_BYTES])
            .expect_err("there is none");
        assert_eq!(error.shortage(), Some(Shortage::ProcessDescriptors));
        let text = error.to_string();
        assert!(text.contains("\"base/4\""), "{text}");
        storage.clear_injections();
        let zeros = files.read_page(tag(4, 0), &mut [0; PAGE_BYTES]);
        assert_eq!(zeros.expect_err("never written").shortage(), None);
    }

    #[test]
    fn descriptors_are_bounded() {
        let files = files();
        for file in 1..=2 * OPEN_MAX as u32 {
            files.grow(FileNo::new(file), 0, 1).expect("room");
            files.piece(FileNo::new(file), 0).expect("there");
        }
        assert_eq!(files.open().pieces.len(), OPEN_MAX);
        files.forget_gone((1, 0), |file| file.get() % 2 == 0);
        assert_eq!(files.open().pieces.len(), OPEN_MAX / 2);
    }
}
