//! Checkpoints of a single relation file: the namespace that lies in it is on disk as of one LSN,
//! its SCN, whatever becomes of the others. The redo point stays where it is, and nothing is logged.
//!
//! 1. The SCN is to be the insert position now, which is read before the descriptors are (B4).
//! 2. Every page of the file that was dirtied before it is written, as fast as it goes, and what was
//!    written of the file is synced.
//! 3. The log is flushed up to the SCN, since a crash must not leave less of it than a header says.
//!    The file's header gets the checkpoint's number and SCN, and is synced.
//! 4. The key counts are cut, and the log is flushed up to the cut.
//! 5. `pg_control` is written, both slots.
//!
//! A namespace that is made read only or taken offline has its file *closed* by such a checkpoint: the
//! SCN is its stop SCN, too. Nobody changes the file after that, since all commits in the namespace
//! that had their LSN before are complete, and no other is let in. While it is offline nobody reads
//! it either, when every process has passed the epoch and no page of it is left in memory; then it
//! may be taken away. It is *opened*, or comes online, when its header is what was left there: what the
//! closing has written, or an opening that came to nothing. Such a header says from which stop SCN the file
//! was to be opened, and by that it is known for as long as the file is closed ([`rd_format::held`]). No
//! start touches it, which might find in the kernel's cache alone what is not on disk. When the file is open,
//! and before anybody writes to it, that is taken out of the header again.
//!
//! Such checkpoints are made between two batches of a full one under way as well, so nobody waits
//! for that. A crash or failure before 5 leaves a header that is ahead by one, as any advance of the
//! redo point does. Since 5 takes that number, every other header that may be ahead by it is
//! stamped anew before ([`Checkpointer::settle_headers`]).

use crate::history::Beginning;
use crate::report::Seconds;
use crate::sync::SyncTally;
use crate::{Checkpointer, Failure};
use rd_base::counters::Counter;
use rd_base::limits::PAGE_BYTES;
use rd_base::{FileNo, Lsn, PageTag};
use rd_format::bitmap::META_BLOCK;
use rd_format::control::FileRow;
use rd_format::page::PageBytes;
use rd_format::{Access, held, meta};
use rd_store::buffer::{DirtyFrame, PageReadError};
use rd_store::checkpoint::{Begun, FileRequest, Flags};
use rd_store::files::FileState;
use rd_store::history::{CheckpointRow, Word};
use rd_store::relation::{self, PIECE_BLOCKS};
use rd_sys::fault::{self, Fault};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// What its pages are counted under.
const CAUSE: Counter = Counter::PagesWrittenRequested;
/// How long to wait before pages whose latches were taken are tried again.
const BUSY_NAP: Duration = Duration::from_millis(1);

/// Why what was asked of a file was not done.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// It could not be done now.
    #[error("{0}")]
    Failure(#[from] Failure),
    /// The file cannot be read.
    #[error("{0}")]
    Page(#[from] PageReadError),
    /// It is not there.
    #[error("\"{0}\" is not there; put it back, and bring the namespace online again")]
    Missing(String),
    /// It has lost its end.
    #[error(
        "\"{path}\" has {found} blocks, and {expected} when it was closed; put the whole file in \
         its place"
    )]
    Short {
        path: String,
        found: u32,
        expected: u32,
    },
    /// It is not the file that was left there.
    #[error("{0}")]
    NotTheFile(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Failure(error.into())
    }
}

/// What a checkpoint of one file has come to.
#[derive(Default)]
struct Covered {
    count: u64,
    scn: Lsn,
    found: u64,
    written: u64,
    write_us: u64,
    sync_us: u64,
    syncs: SyncTally,
}

impl Checkpointer {
    /// Carries out what is asked of single files, in order; what comes meanwhile is the next turn's,
    /// or those who ask again at each answer would keep the checkpointer from all else.
    pub(crate) fn serve_namespaces(&mut self) {
        if !self.log_is_written() || self.must_stop() {
            return;
        }
        let shared = Arc::clone(&self.store.shared);
        for _ in 0..shared.checkpoint.file_requests() {
            let Some(request) = shared.checkpoint.next_file_request() else {
                return;
            };
            let done = self.serve_namespace(&request);
            let error = done.err();
            shared
                .checkpoint
                .answer_file(&shared.procs, error.as_deref());
        }
    }

    /// What people call the namespace that lies in `file`; if none does any more, the file: what has no name
    /// is remembered as a checkpoint of the whole server.
    fn namespace_in(&self, file: FileNo) -> String {
        let namespaces = &self.store.shared.namespaces;
        let id = namespaces.lying_in(file);
        match id.and_then(|id| id.database_number()) {
            Some(number) => format!("db{number}"),
            None => match id.map(|id| namespaces.entry(id).name()) {
                Some(name) if !name.is_empty() => String::from_utf8_lossy(&name).into_owned(),
                _ => format!("file {file}"),
            },
        }
    }

    /// Closes or opens a file, or makes a checkpoint of it, as is asked.
    fn serve_namespace(&mut self, request: &FileRequest) -> Result<(), String> {
        let file = request.file;
        let files = self.store.shared.files.clone();
        if files.state(file) != FileState::Live {
            // It was dropped meanwhile: nobody needs its pages.
            return Ok(());
        }
        let closed = files.closed(file).map(|(access, _)| access);
        let text = |refusal: Refusal| refusal.to_string();
        match (request.access, closed) {
            (None, None) => self.checkpoint_namespace(request, Access::READ_WRITE)?,
            (None, Some(_)) => {}
            (Some(access), None) if access.is_writable() => {}
            (Some(access), None) => {
                self.wait_for_growth(file);
                self.checkpoint_namespace(request, access)?;
            }
            (Some(access), Some(now)) if access == now => {}
            (Some(access), Some(now)) => {
                if !access.is_offline() {
                    self.check_closed(file, now).map_err(text)?;
                }
                if now.is_offline() {
                    self.forget_descriptors(file);
                }
                if now.is_offline() && !access.is_offline() {
                    self.sync_returned(file)
                        .map_err(|failure| text(failure.into()))?;
                }
                match access.is_writable() {
                    true => self.checkpoint_namespace(request, access)?,
                    false => self.note_access(file, access)?,
                }
            }
        }
        if request.access.is_some_and(Access::is_offline) {
            self.let_go_of(file);
        }
        Ok(())
    }

    /// Holds what lies in the place of a closed file against what was left there: what `pg_control`
    /// says, or is about to say.
    fn check_closed(&self, file: FileNo, access: Access) -> Result<(), Refusal> {
        let control = self.control.as_ref().expect("the log is written").newest();
        let files = &self.store.shared.files;
        let path = relation::path(file, 0);
        self.relations.forget(file);
        let Some(meta) = self.relations.read_meta(file)? else {
            return Err(Refusal::Missing(path));
        };
        let (checkpoint_count, scn, stop_scn) = files.covered(file).expect("it is closed");
        let row = &FileRow {
            file,
            access,
            checkpoint_count,
            scn,
            stop_scn,
            key_count: files.keys(file),
            blocks: files.blocks(file),
        };
        let found = held::hold(&meta, row, control);
        if !found.is_good() {
            return Err(Refusal::NotTheFile(held::complaint(
                found, &meta, row, control,
            )));
        }
        let blocks = self.relations.blocks_on_disk(file)?.unwrap_or(0);
        if blocks < row.blocks {
            return Err(Refusal::Short {
                path,
                found: blocks,
                expected: row.blocks,
            });
        }
        Ok(())
    }

    /// Has every process close the file, at once where it sleeps and in any case before it next reads a
    /// page, and open it anew: it may be another one than it was.
    fn forget_descriptors(&self, file: FileNo) {
        self.relations.forget(file);
        self.store.shared.files.replaced();
        self.store.shared.procs.wake_all();
    }

    /// Syncs what was put back: nobody knows whether whoever has copied it has done so.
    fn sync_returned(&mut self, file: FileNo) -> Result<(), Failure> {
        let batch = self.first_unsynced_batch();
        let blocks = self.store.shared.files.blocks(file);
        for piece in 0..blocks.div_ceil(PIECE_BLOCKS) {
            let descriptor = self.relations.piece(file, piece)?;
            // Nothing in it is of the log.
            self.unsynced
                .note((file, piece), &descriptor, batch, 0, Lsn::MAX);
        }
        self.sync_file(file);
        self.relations.sync_dir();
        Ok(())
    }

    /// Waits until the file does not grow any more; what asked for that is refused by now.
    fn wait_for_growth(&mut self, file: FileNo) {
        self.serve_files();
        while self.growing.contains(&file) && !self.must_stop() {
            self.wait_for_workers();
        }
    }

    /// Writes for which access a closed file is closed now; its header stays as it is.
    ///
    /// A page of it that was repaired is synced before: of a file that is offline no start brings to
    /// disk what is in the system's cache alone.
    fn note_access(&mut self, file: FileNo, access: Access) -> Result<(), String> {
        self.settle_headers()
            .and_then(|()| self.finish_batch(CAUSE))
            .map_err(|failure| failure.to_string())?;
        self.sync_undisturbed(Some(file));
        let files = self.store.shared.files.clone();
        let (_, stop_scn) = files.closed(file).expect("it is closed");
        files.set_closed(file, access, stop_scn);
        self.write_rows();
        Ok(())
    }

    /// Waits until nobody can come by a page of the file, none is left in memory, and the scrub does
    /// not read it.
    fn let_go_of(&mut self, file: FileNo) {
        let shared = Arc::clone(&self.store.shared);
        let epoch = shared.procs.bump_epoch();
        let is_unread = || shared.procs.all_past(epoch) && shared.pool.discard(file);
        let is_let_go_of = |my: &mut Self| my.scrub_lets_go_of(file) && is_unread();
        while !self.must_stop() && !is_let_go_of(self) {
            self.supply_beside();
            self.serve_files();
            self.absorb();
            self.look_at_brake();
            self.incremental();
            self.heartbeat();
            self.sleep(Some(BUSY_NAP));
        }
        self.forget_descriptors(file);
    }

    /// Makes a checkpoint of a file, which is closed for `access` by it if that is not to write.
    fn checkpoint_namespace(
        &mut self,
        request: &FileRequest,
        access: Access,
    ) -> Result<(), String> {
        let file = request.file;
        let name = self.namespace_in(file);
        let path = relation::path(file, 0);
        let begun = Begun {
            flags: Flags::IMMEDIATE | Flags::FORCE | Flags::WAIT | Flags::CAUSE_NAMESPACE,
            requester: Some(request.requester),
            requests: 1,
        };
        if self.store.config.log_checkpoints() {
            log::info!("checkpoint of namespace \"{name}\" starting: {begun}");
        }
        let beginning = self.beginning(begun);
        let tally = std::mem::take(&mut self.sync_tally);
        let covered = self.cover(file, access);
        let syncs = self.sync_tally;
        self.sync_tally = tally.with(&syncs);
        match covered {
            Ok(covered) => {
                let covered = Covered { syncs, ..covered };
                self.remember_namespace(&beginning, &name, &covered, None);
                self.store.count(Counter::CheckpointsNamespace);
                if !access.is_writable() {
                    log::info!("namespace \"{name}\" is {access}: \"{path}\" is closed");
                }
                if self.store.config.log_checkpoints() {
                    log::info!(
                        "checkpoint of namespace \"{name}\" complete: {begun}: wrote {} buffers; \
                         write={}, sync={}; sync files={}; file=\"{path}\", count={}, scn={}",
                        covered.written,
                        Seconds(covered.write_us),
                        Seconds(covered.sync_us),
                        syncs.pieces,
                        covered.count,
                        covered.scn,
                    );
                }
                Ok(())
            }
            Err(failure) => {
                self.store.count(Counter::CheckpointsFailed);
                log::error!(
                    "checkpoint of namespace \"{name}\" (\"{path}\"; {begun}) failed: {failure}"
                );
                let none = Covered {
                    syncs,
                    ..Covered::default()
                };
                self.remember_namespace(&beginning, &name, &none, Some(&failure));
                // A header on its way is not to meet somebody who takes the file away.
                if let Err(failure) = self.finish_batch(CAUSE) {
                    log::error!("pages wait for the disk: {failure}");
                }
                Err(failure.to_string())
            }
        }
    }

    /// Steps 1 to 5.
    fn cover(&mut self, file: FileNo, access: Access) -> Result<Covered, Failure> {
        let shared = Arc::clone(&self.store.shared);
        let began_ns = self.now_ns();
        fault::point(Fault::NamespaceBegun)?;
        let scn = shared.wal.insert_lsn();
        let (found, written) = self.write_file(file, scn)?;
        let written_ns = self.now_ns();
        self.sync_file(file);
        self.settle_headers()?;
        // Others have gone on meanwhile, and the redo point with them, which no header may be behind
        // that is ahead of `pg_control`; below it everything is on disk, of this file, too.
        let scn = scn.max(self.redo_in_control());
        // A header must not say more than a crash leaves of the log: other records would lie there then,
        // and be taken for what the file has.
        self.flusher
            .flush_until(scn)
            .expect("it was an insert position");
        let stop_scn = if access.is_writable() { Lsn::ZERO } else { scn };
        let count = self.stamp_file(file, scn, stop_scn)?;
        // A repair of the header would take back what was just stamped.
        self.sync_undisturbed(Some(file));
        fault::point(Fault::NamespaceStamped)?;
        self.unreadable.remove(&file);
        self.may_be_ahead.remove(&file);
        self.headers_are_settled = self.unreadable.is_empty();
        self.touched.remove(&file);
        let is_opened = access.is_writable() && shared.files.closed(file).is_some();
        shared.files.set_covered(file, count, scn);
        shared.files.set_closed(file, access, stop_scn);
        self.write_rows();
        fault::point(Fault::NamespaceCovered)?;
        // Before anybody writes to it: it is not to pass for what was closed any more, wherever it comes to
        // lie. It is open now, whatever the disk makes of this.
        if is_opened && let Err(failure) = self.forget_closing(file) {
            log::warn!("the header of relation file {file} is brought up to date later: {failure}");
            self.touched.insert(file);
        }
        let micros = |from, to| (to - from) / 1000;
        Ok(Covered {
            count,
            scn,
            found,
            written,
            write_us: micros(began_ns, written_ns),
            sync_us: micros(written_ns, self.now_ns()),
            syncs: SyncTally::default(),
        })
    }

    /// Steps 4 and 5.
    fn write_rows(&mut self) {
        let redo = self.redo_in_control();
        let (files, keys_lsn) = self.cut_keys(redo);
        let files = self.named_rows(files);
        self.write_control(|control, now| control.cover(now, files, keys_lsn));
    }

    /// Step 2: writes the pages of `file` that are dirty since before `limit`; everything else is
    /// served meanwhile. Gives how many were found and written.
    fn write_file(&mut self, file: FileNo, limit: Lsn) -> Result<(u64, u64), Failure> {
        let (mut found, mut written) = (0, 0);
        let mut dirty: Vec<DirtyFrame> = Vec::new();
        // One that a failure has left: its frames are no longer dirty.
        self.finish_batch(CAUSE)?;
        loop {
            dirty.clear();
            self.store.shared.pool.dirty_before(limit, &mut dirty);
            dirty.retain(|dirty| dirty.tag.file == file);
            if dirty.is_empty() {
                return Ok((found, written));
            }
            found = found.max(written + dirty.len() as u64);
            dirty.sort_unstable();
            let before = written;
            let mut rest = &dirty[..];
            while !rest.is_empty() {
                self.supply_beside();
                self.serve_files();
                self.absorb();
                self.incremental();
                self.heartbeat();
                let outcome = self.write_frames(rest, CAUSE)?;
                written += outcome.written as u64;
                rest = &rest[outcome.taken..];
            }
            if written == before {
                self.sleep(Some(BUSY_NAP));
            }
        }
    }

    /// Sees to it that no header is ahead of `pg_control`: after a crash, or an attempt that failed
    /// while headers were stamped, some may be.
    fn settle_headers(&mut self) -> Result<(), Failure> {
        if self.headers_are_settled {
            return Ok(());
        }
        self.sync_all();
        self.stamp_headers(self.redo_in_control(), CAUSE)?;
        self.sync_all();
        Ok(())
    }

    /// Step 3; gives the number. Until the table has it, too, the header counts as one that is ahead:
    /// if anything fails before that, the next advance brings header and `pg_control` together again.
    fn stamp_file(&mut self, file: FileNo, scn: Lsn, stop_scn: Lsn) -> Result<u64, Failure> {
        let count = self.control.as_ref().expect("the log is written");
        let count = count.next_count();
        let header = self.read_header(file)?;
        let closed = self.store.shared.files.closed(file);
        let meta = meta::Meta {
            checkpoint_count: count,
            checkpoint_scn: scn,
            stop_scn,
            // So that, whatever becomes of this, it is known for the file that was closed.
            opened_from: closed.map_or(Lsn::ZERO, |(_, since)| since),
            ..meta::read(&header)
        };
        self.touched.insert(file);
        self.may_be_ahead.insert(file);
        self.headers_are_settled = false;
        self.write_header(header, &meta)?;
        Ok(count)
    }

    /// Takes it out of the header of an open file that it was closed.
    fn forget_closing(&mut self, file: FileNo) -> Result<(), Failure> {
        let header = self.read_header(file)?;
        let meta = meta::Meta {
            opened_from: Lsn::ZERO,
            ..meta::read(&header)
        };
        self.write_header(header, &meta)?;
        self.sync_file(file);
        Ok(())
    }

    fn read_header(&self, file: FileNo) -> Result<PageBytes, Failure> {
        let mut header = [0; PAGE_BYTES];
        let tag = PageTag::new(file, META_BLOCK);
        self.relations
            .read_page(tag, &mut header)
            .inspect_err(|error| self.report_unread(tag, error))?;
        Ok(header)
    }

    fn write_header(&mut self, mut header: PageBytes, meta: &meta::Meta) -> Result<(), Failure> {
        meta::write(&mut header, meta);
        let tag = PageTag::new(meta.file, META_BLOCK);
        self.write_pages(&[(tag, header)], CAUSE)
    }

    fn remember_namespace(
        &mut self,
        beginning: &Beginning,
        name: &str,
        covered: &Covered,
        failure: Option<&Failure>,
    ) {
        let row = CheckpointRow {
            error: failure.map(|failure| Word::new(&format!("{name}: {failure}"))),
            namespace: failure.is_none().then(|| Word::new(name)),
            checkpoint_lsn: covered.scn,
            pages_found: covered.found,
            pages_written: covered.written,
            bytes_written: covered.written * PAGE_BYTES as u64,
            files_synced: covered.syncs.pieces,
            write_us: covered.write_us,
            sync_us: covered.sync_us,
            longest_sync_us: covered.syncs.longest_us,
            ..self.row(beginning)
        };
        self.remember(&row);
    }
}
