//! What is asked of relation files as such: to be created, to grow, to be unlinked.
//!
//! Room is made on a thread of its own, because the sync that makes it last can take as long as
//! any; it is published, and whoever waits is woken, by the checkpointer's loop. A file is
//! unlinked when neither redo from either slot of `pg_control`, nor a snapshot, nor a descent
//! under way can need it, and neither slot names it as a live file.

use crate::Checkpointer;
use rd_base::FileNo;
use rd_base::counters::Counter;
use rd_store::files::FileWork;
use rd_store::relation::RelationFiles;
use rd_store::snapshot::Points;
use rd_sys::fault::{self, Fault};
use std::io;
use std::sync::Arc;

/// Room that was made, or was not.
pub struct Grown {
    file: FileNo,
    /// Blocks that have room now, or why it could not be made.
    blocks: io::Result<u32>,
}

/// The work of the growth thread.
pub fn work(relations: Arc<RelationFiles>) -> impl FnMut(FileWork) -> Grown {
    move |job| Grown {
        file: job.file,
        blocks: grow(&relations, &job),
    }
}

fn grow(relations: &RelationFiles, job: &FileWork) -> io::Result<u32> {
    fault::point(Fault::FileExtend)?;
    match relations.grow(job.file, job.from, job.to) {
        Ok(()) => Ok(job.to),
        // Room ahead of need is given up before anybody is refused.
        Err(error) if has_no_room(&error) && job.needed < job.to => {
            relations.grow(job.file, job.from, job.needed)?;
            Ok(job.needed)
        }
        Err(error) => Err(error),
    }
}

/// Whether less may still find room: the disk or the owner's part of it is full, or the system lets
/// files become no longer.
fn has_no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

impl Checkpointer {
    /// Passes on what is asked for and not under way.
    pub(crate) fn serve_files(&mut self) {
        if !self.store.shared.files.has_work() {
            return;
        }
        for work in self.store.shared.files.take_work() {
            if self.growing.insert(work.file) {
                self.growth.give(work);
            }
        }
    }

    /// Publishes the room that was made.
    pub(crate) fn absorb_growth(&mut self) {
        let mut any = false;
        while let Some(grown) = self.growth.answer() {
            any = true;
            self.growing.remove(&grown.file);
            let files = &self.store.shared.files;
            match grown.blocks {
                Ok(blocks) => {
                    files.grown(grown.file, blocks);
                    self.store.count(Counter::FileExtensions);
                }
                Err(error) => {
                    log::warn!(
                        "could not make room in relation file {}: {error}",
                        grown.file
                    );
                    files.growth_failed(grown.file, &error);
                }
            }
        }
        if any {
            // Somebody may have asked for more of a file while it grew.
            self.store.shared.files.look_again();
            self.store.shared.procs.wake_parked();
            self.serve_files();
        }
    }

    /// Unlinks the dropped files that nobody can need any more. What cannot be done yet is tried
    /// again with the next heartbeat.
    pub(crate) fn unlink_dropped(&mut self) {
        let Some(control) = &self.control else { return };
        if !self.log_is_written() {
            return;
        }
        let shared = Arc::clone(&self.store.shared);
        let mut points = Points::default();
        shared.snapshots.collect(&shared.wal, &mut points);
        let leaving = shared.files.leave(
            control.oldest_redo(),
            points.horizon(),
            || shared.procs.bump_epoch(),
            |epoch| shared.procs.all_past(epoch),
        );
        let nameless: Vec<FileNo> = leaving
            .into_iter()
            .filter(|file| !control.names(*file))
            .collect();
        let mut any = false;
        for file in nameless {
            if self.growing.contains(&file) || !shared.pool.discard(file) {
                continue;
            }
            match self.relations.unlink(file) {
                Ok(()) => {
                    any = true;
                    self.scrub.forget(file);
                    self.scrub.forget_bad(&shared.scrub, |tag| tag.file == file);
                    self.unsynced.forget(file);
                    self.touched.remove(&file);
                    self.unreadable.remove(&file);
                    shared.files.unlinked(file);
                    log::debug!("relation file {file} was dropped and is removed");
                }
                Err(error) => {
                    log::warn!("could not remove dropped relation file {file}: {error}");
                }
            }
        }
        if any {
            // The room is free only when nobody has the files open, those who sleep included.
            shared.procs.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::limits::PAGE_BYTES;
    use rd_store::relation::BASE_DIR;
    use rd_sys::simdisk::SimStorage;
    use rd_sys::storage::Storage;

    #[test]
    fn room_that_was_not_enough_ahead_of_need_is_left_to_others() {
        let disk = SimStorage::new(1);
        disk.create_dir(BASE_DIR).expect("a new disk");
        let relations = RelationFiles::writer(Arc::new(disk.clone()));
        disk.set_capacity(Some(100 * PAGE_BYTES as u64));
        for (from, create) in [(0, true), (1, false)] {
            let job = FileWork {
                file: FileNo::new(2),
                create,
                from,
                needed: from + 1,
                to: 128,
            };
            assert_eq!(grow(&relations, &job).expect("room"), from + 1);
            assert_eq!(disk.used_bytes(), u64::from(from + 1) * PAGE_BYTES as u64);
        }
    }
}
