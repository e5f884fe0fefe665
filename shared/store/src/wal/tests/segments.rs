//! Segment files: made ahead, recycled, removed, and a disk without room.

use super::*;
use crate::wal::credit::SEGMENT_RESERVE_BYTES;
use crate::wal::segments::{Retired, Step, recycle_limit};
use rd_sys::Shortage;
use rd_sys::simdisk::{Injection, IoKind};
use rd_sys::storage::{OpenMode, Storage, StorageFile};
use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

const SEGMENT_PAGES: u64 = 64;

fn numbers(rig: &Rig) -> Vec<u64> {
    files::list(&rig.disk, TIMELINE, rig.wal.segment_bytes()).expect("a good disk")
}

fn insert_bytes(rig: &Rig, mut bytes: u64) {
    let mut builder = RecordBuilder::new();
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    while bytes > 0 {
        let one = bytes.min(8000);
        make_record(&mut builder, bytes, one as usize);
        rig.insert(backend(0), &mut builder);
        flusher.flush_all();
        bytes -= one;
    }
}

#[test]
fn segments_are_made_ahead_whole_and_durable() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    assert_eq!(numbers(&rig), [1, 2], "a start makes two");
    let bytes = rig.wal.segment_bytes();
    let mut preparer = Preparer::new(rig.wal.clone(), storage(&rig.disk), 3 * bytes + 1);
    let steps: Vec<Step> = (0..4).map(|_| preparer.step()).collect();
    assert_eq!(
        steps,
        [Step::Prepared, Step::Prepared, Step::Enough, Step::Enough]
    );
    rig.disk.crash(7);
    assert_eq!(numbers(&rig), [1, 2, 3, 4], "their names survive");
    for number in numbers(&rig) {
        let path = files::path(TIMELINE, number, bytes);
        let file = rig.disk.open(&path, OpenMode::Read).expect("it is there");
        assert_eq!(file.len().expect("a good disk"), bytes);
    }
}

/// For `rd_resetwal`: on a full disk the room that it has taken is not missing afterwards.
#[test]
fn a_segment_for_which_there_is_no_room_leaves_nothing() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    let (disk, bytes) = (&rig.disk, rig.wal.segment_bytes());
    let names = || disk.list("wal").expect("a good disk");
    let (before, used) = (names(), disk.used_bytes());
    disk.set_capacity(Some(used + bytes / 2));
    let error = files::make(disk, TIMELINE, 9, bytes).expect_err("there is no room");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    assert_eq!((names(), disk.used_bytes()), (before, used));
}

#[test]
fn a_start_clears_away_and_takes_stock() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    insert_bytes(&rig, 100);
    let (disk, bytes) = (&rig.disk, rig.wal.segment_bytes());
    let make = |path: &str, len: u64| {
        let file = disk
            .open(path, rd_sys::storage::OpenMode::CreateNew)
            .expect("a good disk");
        file.truncate(len).expect("a good disk");
    };
    make("wal/new_segment.tmp", 10);
    // 3 is of a wrong length, 4 lies behind it: neither can be counted on.
    make(&files::path(TIMELINE, 3, bytes), bytes - 1);
    make(&files::path(TIMELINE, 4, bytes), bytes);
    make("wal/archive_status", 0);
    let next = Rig::start(disk.clone(), 8, SEGMENT_PAGES, rig.wal.durable_lsn(), 2);
    assert!(!disk.exists("wal/new_segment.tmp").expect("a good disk"));
    assert_eq!(next.wal.prepared_lsn(), wal_page::segment_start(3, bytes));
    // They are replaced when their turn comes.
    insert_bytes(&next, 3 * bytes);
    assert!(next.wal.prepared_lsn() > wal_page::segment_start(5, bytes));
    let (_, end) = read_all(disk, next.read_from(next.first()));
    assert_eq!(end.lsn, next.wal.durable_lsn());
}

/// A copy that was cut off may lack the zeros behind the end of the log; one that was made by other means
/// may have more of them.
#[test]
fn the_segment_in_which_the_log_ends_is_given_its_length_and_not_replaced() {
    for is_short in [true, false] {
        let rig = Rig::new(8, SEGMENT_PAGES);
        insert_bytes(&rig, 100_000);
        let (disk, bytes) = (&rig.disk, rig.wal.segment_bytes());
        let path = files::path(TIMELINE, 1, bytes);
        let open = || disk.open(&path, OpenMode::ReadWrite).expect("it is there");
        let end = rig.wal.durable_lsn();
        let used = (end.get() % bytes).next_multiple_of(PAGE);
        let length = if is_short { used + 10 } else { bytes + PAGE };
        open().truncate(length).expect("a good disk");
        let (before, _) = read_all(disk, rig.read_from(rig.first()));
        let next = Rig::start(disk.clone(), 8, SEGMENT_PAGES, end, 2);
        assert_eq!(open().len().expect("a good disk"), bytes);
        insert_bytes(&next, 100);
        let (after, found) = read_all(disk, next.read_from(next.first()));
        assert_eq!(after.len(), before.len() + 1);
        assert_eq!(found.lsn, next.wal.durable_lsn());
    }
}

#[test]
fn a_segment_is_used_only_when_its_name_is_durable() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    insert_bytes(&rig, 100);
    let (disk, bytes) = (&rig.disk, rig.wal.segment_bytes());
    // A life that was killed before it synced the directory; and no room to make another.
    let path = files::path(TIMELINE, 3, bytes);
    let file = disk
        .open(&path, rd_sys::storage::OpenMode::CreateNew)
        .expect("a good disk");
    file.write_all_at(&vec![0; bytes as usize], 0)
        .expect("a good disk");
    file.sync_all().expect("a good disk");
    disk.kill(1);
    disk.set_capacity(Some(disk.used_bytes()));
    let next = Rig::start(disk.clone(), 8, SEGMENT_PAGES, rig.wal.durable_lsn(), 2);
    let mut flusher = next.flusher(walwriter(), WalSyncMethod::Fdatasync);
    let mut builder = RecordBuilder::new();
    make_record(&mut builder, 1, 8000);
    while let Ok(mut credit) = next.wal.take_credit(8000) {
        next.wal
            .insert(backend(0), &mut builder, &mut credit, |_| {});
        flusher.flush_all();
    }
    let durable = next.wal.durable_lsn();
    assert!(durable > wal_page::segment_start(3, bytes));
    disk.crash(1);
    let (_, end) = read_all(disk, next.read_from(next.first()));
    assert_eq!(end.lsn, durable, "{end}");
}

#[test]
fn old_segments_are_recycled_up_to_the_limit_and_else_removed() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    let bytes = rig.wal.segment_bytes();
    insert_bytes(&rig, 5 * bytes);
    let (current, prepared) = (rig.wal.durable_lsn().get() / bytes, rig.wal.prepared_lsn());
    let prepared = wal_page::segment_of(prepared, bytes);
    // Nothing below the limit that others still need.
    let retire = |before: u64, upto: u64| {
        let (before, upto) = (Lsn::new(before), Lsn::new(upto * bytes));
        rig.wal
            .retire_segments(&rig.disk, before, upto)
            .expect("a good disk")
    };
    assert_eq!(retire(2 * bytes - 1, 100), Retired::default());
    let retired = retire(4 * bytes + 5, prepared + 2);
    assert_eq!(
        retired,
        Retired {
            recycled: 2,
            removed: 1
        }
    );
    let there: Vec<u64> = (4..prepared + 2).collect();
    assert_eq!(numbers(&rig), there);
    assert_eq!(
        rig.wal.prepared_lsn(),
        wal_page::segment_start(prepared + 2, bytes)
    );
    // Whatever the caller says, the segment of the durable LSN stays.
    retire(u64::MAX, 0);
    assert_eq!(numbers(&rig).first(), Some(&current));
    let from = rig.read_from(wal_page::segment_start(current, bytes));
    let mut reader = WalReader::first_from(storage(&rig.disk), from).expect("a good disk");
    while reader.next().expect("a good disk").is_some() {}
    assert_eq!(reader.lsn(), rig.wal.durable_lsn());
    insert_bytes(&rig, 4 * bytes);
}

/// What lies behind one that cannot be given up would else be kept for ever, and fill the disk.
#[test]
fn an_old_segment_that_cannot_be_given_up_keeps_no_other() {
    for kind in [IoKind::Remove, IoKind::Rename] {
        let rig = Rig::new(8, SEGMENT_PAGES);
        let bytes = rig.wal.segment_bytes();
        insert_bytes(&rig, 5 * bytes);
        let current = wal_page::segment_of(rig.wal.durable_lsn(), bytes);
        let prepared = wal_page::segment_of(rig.wal.prepared_lsn(), bytes);
        let (path_contains, upto) = match kind {
            IoKind::Remove => (files::path(TIMELINE, 1, bytes), 0),
            _ => (String::new(), prepared + 2),
        };
        rig.disk.inject(Injection {
            kind,
            path_contains,
            skip: 0,
            times: 1,
            errno: 5,
        });
        let upto = Lsn::new(upto * bytes);
        let error = rig
            .wal
            .retire_segments(&rig.disk, rig.wal.durable_lsn(), upto)
            .expect_err("the lowest one fails");
        assert!(error.to_string().contains("os error 5"), "{error}");
        let next = if kind == IoKind::Rename {
            prepared + 2
        } else {
            prepared
        };
        let there: Vec<u64> = [1].into_iter().chain(current..next).collect();
        assert_eq!(numbers(&rig), there, "{kind:?}");
        let ready = wal_page::segment_start(next, bytes);
        assert_eq!(rig.wal.prepared_lsn(), ready, "{kind:?}");
        let again = rig
            .wal
            .retire_segments(&rig.disk, rig.wal.durable_lsn(), upto);
        assert_eq!(again.expect("a good disk").removed, 1, "{kind:?}");
    }
}

#[test]
fn the_segment_of_the_last_byte_stays_for_the_heartbeat() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    let mut flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    let mut builder = RecordBuilder::new();
    for id in 0..SEGMENT_PAGES {
        make_record(&mut builder, id, USABLE as usize);
        rig.insert(backend(0), &mut builder);
        flusher.flush_all();
    }
    let end = rig.wal.durable_lsn();
    assert_eq!(end.get() % rig.wal.segment_bytes(), 0);
    let retired = rig.wal.retire_segments(&rig.disk, end, Lsn::MAX);
    assert_eq!(retired.expect("a good disk"), Retired::default());
    flusher = rig.flusher(walwriter(), WalSyncMethod::Fdatasync);
    flusher.heartbeat();
    let (_, log_end) = read_all(&rig.disk, rig.read_from(rig.first()));
    assert_eq!((log_end.lsn, log_end.durable_seen), (end, end));
}

#[test]
fn a_full_disk_refuses_writes_and_mends_by_itself() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    insert_bytes(&rig, 100);
    let mut preparer = rig.preparer();
    while preparer.step() == Step::Prepared {}
    rig.disk.set_capacity(Some(rig.disk.used_bytes() + 100));
    let left = || {
        let end = wal_page::lsn_to_pos(rig.wal.prepared_lsn());
        end - wal_page::lsn_to_pos(rig.wal.insert_lsn())
    };
    let parked = backend(3);
    rig.procs.set_parked(parked, true);
    assert_eq!(
        rig.wal.take_credit(left()).map(|_| ()),
        Err(NoCredit::Segments)
    );
    assert_eq!(rig.wal.segments_blocked(), None, "nobody knows yet");
    assert_eq!(preparer.step(), Step::Blocked(SegmentsBlocked::DiskFull));
    assert!(rig.procs.event(parked).take(), "he is told");
    assert_eq!(rig.wal.segments_blocked(), Some(SegmentsBlocked::DiskFull));
    assert!(!rig.disk.exists("wal/new_segment.tmp").expect("a good disk"));
    // What is there can be used, and the reserve by those who must.
    drop(
        rig.wal
            .take_credit(left() - SEGMENT_RESERVE_BYTES)
            .expect("room"),
    );
    drop(rig.wal.take_reserved_credit(left()).expect("the reserve"));
    assert_eq!(
        rig.wal.take_credit(left()).map(|_| ()),
        Err(NoCredit::Segments)
    );
    rig.disk.set_capacity(None);
    assert_eq!(preparer.step(), Step::Prepared);
    assert!(rig.procs.event(parked).take());
    assert_eq!(rig.wal.segments_blocked(), None);
    assert!(rig.wal.take_credit(left() - SEGMENT_RESERVE_BYTES).is_ok());
}

#[test]
fn a_want_of_descriptors_is_no_full_disk_and_passes() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    insert_bytes(&rig, 100);
    let mut preparer = rig.preparer();
    while preparer.step() == Step::Prepared {}
    for (errno, shortage) in [
        (23, Shortage::SystemDescriptors),
        (24, Shortage::ProcessDescriptors),
        (12, Shortage::Memory),
    ] {
        rig.disk.inject(Injection {
            kind: IoKind::Create,
            path_contains: "new_segment".to_owned(),
            skip: 0,
            times: 1,
            errno,
        });
        let end = wal_page::lsn_to_pos(rig.wal.prepared_lsn());
        let left = end - wal_page::lsn_to_pos(rig.wal.insert_lsn());
        let refused = rig.wal.take_credit(left).map(|_| ());
        assert_eq!(refused, Err(NoCredit::Segments));
        let blocked = SegmentsBlocked::Short(shortage);
        assert_eq!(preparer.step(), Step::Blocked(blocked));
        assert_eq!(rig.wal.segments_blocked(), Some(blocked));
        assert_eq!(preparer.step(), Step::Prepared);
        assert_eq!(rig.wal.segments_blocked(), None);
    }
}

#[test]
fn a_start_on_a_full_disk_goes_on_with_what_is_there() {
    let rig = Rig::new(8, SEGMENT_PAGES);
    insert_bytes(&rig, rig.wal.segment_bytes() / 2);
    let end = rig.wal.durable_lsn();
    for number in numbers(&rig).into_iter().skip(1) {
        rig.disk
            .remove(&files::path(TIMELINE, number, rig.wal.segment_bytes()))
            .expect("there");
    }
    rig.disk.set_capacity(Some(rig.disk.used_bytes()));
    let next = Rig::start(rig.disk.clone(), 8, SEGMENT_PAGES, end, 2);
    assert_eq!(next.wal.segments_blocked(), Some(SegmentsBlocked::DiskFull));
    let mut credit = next.wal.take_reserved_credit(1000).expect("the reserve");
    let mut builder = RecordBuilder::new();
    make_record(&mut builder, 1, 500);
    next.wal
        .insert(backend(0), &mut builder, &mut credit, |_| {});
    next.flusher(backend(0), WalSyncMethod::Fdatasync)
        .flush_all();
}

#[test]
fn segments_are_kept_for_the_log_that_is_to_come() {
    let (redo, mb) = (Lsn::new(1 << 30), 1 << 20);
    let ahead =
        |distance| recycle_limit(redo, distance, 0.9, 80 * mb, 1024 * mb).get() - redo.get();
    assert_eq!(ahead(0), 80 * mb);
    assert_eq!(ahead(10_000 * mb), 1024 * mb);
    assert_eq!(ahead(100 * mb) / mb, 209);
}

#[test]
fn the_first_log_is_durable_when_made() {
    let disk = SimStorage::new(3);
    files::create(&disk, TIMELINE, 64 * PAGE).expect("an empty disk");
    disk.crash(1);
    assert_eq!(
        files::list(&disk, TIMELINE, 64 * PAGE).expect("a good disk"),
        [1]
    );
    assert!(
        files::create(&disk, TIMELINE, 64 * PAGE).is_err(),
        "there is one"
    );
}

/// A disk of which a file's last descriptor takes along what was not synced: the system writes it
/// later, may fail, and forgets that it did.
struct Forgetful {
    disk: Arc<dyn Storage>,
    /// Paths of files that were closed before they were synced.
    forgotten: Arc<Mutex<Vec<String>>>,
    /// It was asked to begin writing.
    is_asked: Arc<AtomicBool>,
}

struct ForgetfulFile {
    file: Arc<dyn StorageFile>,
    path: String,
    is_unsynced: AtomicBool,
    forgotten: Arc<Mutex<Vec<String>>>,
    is_asked: Arc<AtomicBool>,
}

impl Drop for ForgetfulFile {
    fn drop(&mut self) {
        if self.is_unsynced.load(Ordering::SeqCst) {
            let mut forgotten = self.forgotten.lock().expect("nobody panics with it");
            forgotten.push(self.path.clone());
        }
    }
}

impl Storage for Forgetful {
    fn open(&self, path: &str, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(ForgetfulFile {
            file: self.disk.open(path, mode)?,
            path: path.to_owned(),
            is_unsynced: AtomicBool::new(false),
            forgotten: Arc::clone(&self.forgotten),
            is_asked: Arc::clone(&self.is_asked),
        }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn exists(&self, path: &str) -> io::Result<bool> {
        self.disk.exists(path)
    }
}

impl StorageFile for ForgetfulFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.is_unsynced.store(true, Ordering::SeqCst);
        self.file.write_all_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.is_unsynced.store(false, Ordering::SeqCst);
        self.file.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn start_writeback(&self, offset: u64, len: u64) -> io::Result<()> {
        self.is_asked.store(true, Ordering::SeqCst);
        self.file.start_writeback(offset, len)
    }
}

#[test]
fn a_segment_is_synced_before_its_writer_closes_it() {
    let rig = Rig::new(32, 2);
    let forgotten = Arc::new(Mutex::new(Vec::new()));
    let disk = Forgetful {
        disk: storage(&rig.disk),
        forgotten: Arc::clone(&forgotten),
        is_asked: Arc::default(),
    };
    let mut flusher = Flusher::new(
        rig.wal.clone(),
        Arc::new(disk),
        rig.stats.clone(),
        walwriter(),
        WalSyncMethod::Fdatasync,
    );
    let ahead = SEGMENT_RESERVE_BYTES + 40 * PAGE;
    let mut preparer = Preparer::new(rig.wal.clone(), storage(&rig.disk), ahead);
    while preparer.step() == Step::Prepared {}
    // One round writes more segments than the flusher keeps open.
    let mut builder = RecordBuilder::new();
    for id in 0..10 {
        make_record(&mut builder, id, 8000);
        rig.insert(backend(0), &mut builder);
    }
    flusher.flush_all();
    assert_eq!(rig.wal.durable_lsn(), rig.wal.insert_lsn());
    let forgotten = forgotten.lock().expect("nobody panics with it");
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

/// A stop waits for the preparer, which may have a gigabyte of zeros to write for nobody.
#[test]
fn who_is_told_to_stop_finishes_no_segment_that_is_not_needed_soon() {
    // Of several writes of zeros.
    let segment_pages = 128;
    let rig = Rig::new(32, segment_pages);
    let is_told = Arc::new(AtomicBool::new(false));
    let disk = Forgetful {
        disk: storage(&rig.disk),
        forgotten: Arc::default(),
        is_asked: Arc::clone(&is_told),
    };
    let bytes = segment_pages * PAGE;
    let mut preparer = Preparer::new(rig.wal.clone(), Arc::new(disk), 8 * bytes);
    // It begins writing when it has time, and that is when it is told.
    preparer.run(&is_told);
    assert!(is_told.load(Ordering::SeqCst));
    let segments = files::list(&rig.disk, TIMELINE, bytes).expect("a good disk");
    // Half of what is kept ahead; the next one is made when there is time.
    assert_eq!(segments, [1, 2, 3, 4]);
    assert_eq!(rig.disk.list("wal").expect("there").len(), segments.len());
    assert_eq!(rig.wal.segments_blocked(), None);
}
