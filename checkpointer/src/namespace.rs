//! Checkpoints of a single relation file: the namespace that lies in it is on disk as of one LSN,
//! its SCN, whatever becomes of the others. The redo point stays where it is, and nothing is logged.
//!
//! 1. The SCN is to be the insert position now, which is read before the descriptors are (B4).
//! 2. Every page of the file that was dirtied before it is written, as fast as it goes, and what was
//!    written of the file is synced.
//! 3. The file's header gets the checkpoint's number and SCN, and is synced.
//! 4. The key counts are cut, and the log is flushed up to the cut.
//! 5. `pg_control` is written, both slots.
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
use rd_format::meta;
use rd_store::buffer::DirtyFrame;
use rd_store::checkpoint::{Begun, FileRequest, Flags};
use rd_store::files::FileState;
use rd_store::history::{CheckpointRow, Word};
use rd_store::relation;
use rd_sys::fault::{self, Fault};
use std::sync::Arc;
use std::time::Duration;

/// What its pages are counted under.
const CAUSE: Counter = Counter::PagesWrittenRequested;
/// How long to wait before pages whose latches were taken are tried again.
const BUSY_NAP: Duration = Duration::from_millis(1);

/// What a checkpoint of one file has come to.
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
    /// Carries out what is asked of single files, in order.
    pub(crate) fn serve_namespaces(&mut self) {
        if !self.log_is_written() || self.must_stop() {
            return;
        }
        let shared = Arc::clone(&self.store.shared);
        while let Some(request) = shared.checkpoint.next_file_request() {
            let done = self.checkpoint_namespace(&request);
            let error = done.err();
            shared
                .checkpoint
                .answer_file(&shared.procs, error.as_deref());
        }
    }

    /// What people call the namespace that lies in `file`.
    fn namespace_in(&self, file: FileNo) -> String {
        let namespaces = &self.store.shared.namespaces;
        let id = namespaces.lying_in(file);
        match id.and_then(|id| id.database_number()) {
            Some(number) => format!("db{number}"),
            None => {
                let name = id.map(|id| namespaces.entry(id).name());
                String::from_utf8_lossy(&name.unwrap_or_default()).into_owned()
            }
        }
    }

    fn checkpoint_namespace(&mut self, request: &FileRequest) -> Result<(), String> {
        let file = request.file;
        let shared = Arc::clone(&self.store.shared);
        if shared.files.state(file) != FileState::Live {
            // It was dropped meanwhile: nobody needs its pages.
            return Ok(());
        }
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
        let covered = self.cover(file);
        let syncs = self.sync_tally;
        self.sync_tally = tally.with(&syncs);
        match covered {
            Ok(covered) => {
                let covered = Covered { syncs, ..covered };
                self.remember_namespace(&beginning, &name, &covered, None);
                self.store.count(Counter::CheckpointsNamespace);
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
                    count: 0,
                    scn: Lsn::ZERO,
                    found: 0,
                    written: 0,
                    write_us: 0,
                    sync_us: 0,
                    syncs,
                };
                self.remember_namespace(&beginning, &name, &none, Some(&failure));
                Err(failure.to_string())
            }
        }
    }

    /// Steps 1 to 5.
    fn cover(&mut self, file: FileNo) -> Result<Covered, Failure> {
        let shared = Arc::clone(&self.store.shared);
        let began_ns = self.now_ns();
        fault::point(Fault::NamespaceBegun)?;
        let scn = shared.wal.insert_lsn();
        let (found, written) = self.write_file(file, scn)?;
        let written_ns = self.now_ns();
        self.sync_file(file);
        self.settle_headers()?;
        let count = self.stamp_file(file, scn)?;
        self.sync_file(file);
        fault::point(Fault::NamespaceStamped)?;
        let redo = self.redo_in_control();
        let (files, keys_lsn) = self.cut_keys(redo, false);
        let files = self.named_rows(files);
        self.write_control(|control, now| control.cover(now, files, keys_lsn));
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

    /// Step 3; gives the number.
    fn stamp_file(&mut self, file: FileNo, scn: Lsn) -> Result<u64, Failure> {
        let count = self.control.as_ref().expect("the log is written");
        let count = count.next_count();
        let tag = PageTag::new(file, META_BLOCK);
        let mut header = [0; PAGE_BYTES];
        self.relations.read_page(tag, &mut header)?;
        let meta = meta::Meta {
            checkpoint_count: count,
            checkpoint_scn: scn,
            ..meta::read(&header)
        };
        meta::write(&mut header, &meta);
        // Whatever becomes of it, the next advance brings header and `pg_control` together again.
        self.touched.insert(file);
        self.headers_are_settled = false;
        self.write_pages(&[(tag, header)], CAUSE)?;
        self.headers_are_settled = true;
        self.store.shared.files.set_covered(file, count, scn);
        self.touched.remove(&file);
        Ok(count)
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
