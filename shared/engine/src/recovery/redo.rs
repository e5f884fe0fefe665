//! Redo: every record from the redo point on, applied to each page that does not hold it yet.
//!
//! A page's first record in any role carries the whole page, so that what is on disk (zeros, a
//! short file, a torn page) does not matter; every other record needs the page as it was. There is
//! no undo: what is in the log was committed.
//!
//! Redo reads the log a second time, and by then what the first reading found may be gone: pages
//! that a failed sync left in the kernel's cache only, and that the kernel let go of before they
//! were written again. So it counts as done only when it has come to the very end that was found.

use super::{RecoveryError, RedoSummary, Watcher};
use crate::apply;
use rd_base::Lsn;
use rd_format::page;
use rd_format::wal_record::{BlockView, RecordData};
use rd_store::Store;
use rd_store::shared::RedoProgress;
use rd_store::wal::read::{LogEnd, ReadFrom, Record, WalReader};
use rd_sys::fault::{self, Fault};
use std::sync::Arc;

/// Records between two looks at the clock and at signals.
const RECORDS_PER_LOOK: u64 = 1 << 12;
/// How often those who wait are told.
const TELL_EVERY_NS: u64 = 100_000_000;

/// What is known of pages that need no redo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pages {
    /// All that may not be on disk were written back and synced.
    Repaired,
    /// They may be in the kernel's cache only: killed with their writes not synced, or after a sync
    /// that failed. So every page that a record names is written again before the redo point moves.
    Unproved,
}

/// Replays the log from `from` to `end`.
pub(super) fn redo(
    store: &Store,
    from: ReadFrom,
    end: &LogEnd,
    pages: Pages,
    watcher: &mut dyn Watcher,
) -> Result<RedoSummary, RecoveryError> {
    let started_ns = store.clock.monotonic_ns();
    log::info!("redo starts at {}", from.lsn);
    let mut redo = Redo {
        store,
        end: end.lsn,
        pages,
        summary: RedoSummary::default(),
    };
    let mut reader = WalReader::new(Arc::clone(&store.storage), from);
    let mut progress = RedoProgress {
        from: from.lsn.get(),
        at: from.lsn.get(),
        until: end.lsn.get(),
    };
    store.shared.set_redo_progress(progress);
    let (mut told_ns, mut logged_ns) = (started_ns, started_ns);
    let log_every_ns = store.config.log_startup_progress_interval().as_nanos() as u64;
    let mut reached = reader.lsn();
    while let Some(record) = reader.next()? {
        if record.end > end.lsn {
            break;
        }
        fault::point(Fault::RecoveryRecord)?;
        redo.record(&record)?;
        reached = record.end;
        if redo.summary.records.is_multiple_of(RECORDS_PER_LOOK) {
            if watcher.must_stop() {
                return Err(RecoveryError::Stopped);
            }
            let now_ns = store.clock.monotonic_ns();
            progress.at = record.end.get();
            if now_ns - told_ns >= TELL_EVERY_NS {
                told_ns = now_ns;
                store.shared.set_redo_progress(progress);
                watcher.progress();
            }
            if log_every_ns > 0 && now_ns - logged_ns >= log_every_ns {
                logged_ns = now_ns;
                log_progress(&progress, now_ns - started_ns);
            }
        }
    }
    if reached != end.lsn {
        return Err(RecoveryError::LogReceded {
            end: end.lsn,
            reached,
        });
    }
    progress.at = end.lsn.get();
    store.shared.set_redo_progress(progress);
    watcher.progress();
    let elapsed_ns = store.clock.monotonic_ns() - started_ns;
    let RedoSummary {
        records,
        pages_changed,
        pages_skipped,
    } = redo.summary;
    log::info!(
        "redo done at {}: {records} records, {} kB of log, {pages_changed} page changes applied, \
         {pages_skipped} found done; elapsed {:.3} s",
        end.lsn,
        end.lsn.bytes_since(from.lsn) / 1024,
        elapsed_ns as f64 / 1e9,
    );
    Ok(redo.summary)
}

fn log_progress(progress: &RedoProgress, elapsed_ns: u64) {
    let done = progress.at - progress.from;
    let total = (progress.until - progress.from).max(1);
    let left_s = elapsed_ns as f64 / 1e9 * (total - done) as f64 / done.max(1) as f64;
    log::info!(
        "redo in progress, elapsed time: {:.2} s, current LSN: {}, {} of {} kB ({} %), about \
         {left_s:.0} s left",
        elapsed_ns as f64 / 1e9,
        Lsn::new(progress.at),
        done / 1024,
        total / 1024,
        done * 100 / total,
    );
}

struct Redo<'s> {
    store: &'s Store,
    end: Lsn,
    pages: Pages,
    summary: RedoSummary,
}

impl Redo<'_> {
    fn record(&mut self, record: &Record<'_>) -> Result<(), RecoveryError> {
        self.summary.records += 1;
        let wrong = |error| RecoveryError::Record {
            lsn: record.start,
            error,
        };
        let data = record.view.data().map_err(wrong)?;
        if let RecordData::File(file) = data
            && record.view.kind() == rd_format::wal_record::RecordKind::FileCreate
        {
            super::files::adopt(self.store, file)?;
        }
        for block in record.view.blocks() {
            self.block(record, &block.map_err(wrong)?)?;
        }
        if let RecordData::Commit(deltas) = data {
            let deltas = deltas.iter();
            let deltas = deltas.map(|delta| (delta.file, i64::from(delta.key_delta)));
            self.store.shared.files.count_in_redo(record.end, deltas);
        }
        Ok(())
    }

    fn block(&mut self, record: &Record<'_>, block: &BlockView<'_>) -> Result<(), RecoveryError> {
        let whole_page = block.image.is_some();
        if whole_page {
            super::files::make_room(self.store, block.tag)?;
        }
        let pool = &self.store.shared.pool;
        let pin = pool.fetch_for_redo(self.store, block.tag, whole_page)?;
        let mut bytes = pin.write();
        let page_lsn = page::page_lsn(&bytes);
        if page_lsn > self.end {
            return Err(RecoveryError::PageBeyondLog {
                tag: block.tag,
                page_lsn,
                end: self.end,
            });
        }
        if page_lsn >= record.end {
            if self.pages == Pages::Unproved {
                bytes.mark_dirty(record.start);
            }
            self.summary.pages_skipped += 1;
            return Ok(());
        }
        bytes.mark_dirty(record.start);
        apply::redo_block(&mut bytes, block, record.end).map_err(|error| RecoveryError::Apply {
            lsn: record.start,
            error,
        })?;
        self.summary.pages_changed += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::{InitOptions, init_storage};
    use rd_base::{Config, Role, StartCount, Timeline};
    use rd_format::wal_record::RecordError;
    use rd_store::wal::read::EndReason;
    use rd_store::wal::segments;
    use rd_store::{Shared, Sizes, SlotNo};
    use rd_sys::clock::Clock;
    use rd_sys::simdisk::SimStorage;
    use rd_sys::storage::Storage;

    const SEGMENT_BYTES: u64 = 1 << 20;

    struct Unwatched;

    impl Watcher for Unwatched {
        fn progress(&mut self) {}
        fn must_stop(&mut self) -> bool {
            false
        }
    }

    /// The startup process of a server that was just made.
    fn startup() -> Store {
        let storage: Arc<dyn Storage> = Arc::new(SimStorage::new(1));
        let config = Config::from_pairs(&[("double_write_size", "8MB")]).expect("valid");
        let config = config.with_wal_segment_size(SEGMENT_BYTES).expect("valid");
        let options = InitOptions {
            config: &config,
            system_identifier: 99,
            now_us: 1,
        };
        init_storage(&storage, &options, &mut |_| {}).expect("an empty disk");
        let sizes = Sizes {
            frames: 16,
            wal_ring_bytes: 64 << 10,
            wal_segment_bytes: SEGMENT_BYTES,
        };
        let shared = Shared::anonymous(sizes).expect("memory");
        let slot = SlotNo::of(Role::Startup).expect("a slot");
        Store::new(shared, storage, Clock::manual(1).0, slot, Arc::new(config))
    }

    fn redo_to(store: &Store, end: Lsn) -> Result<RedoSummary, RecoveryError> {
        let first = segments::first_lsn(SEGMENT_BYTES);
        let from = ReadFrom {
            lsn: first,
            timeline: Timeline::new(1),
            segment_bytes: SEGMENT_BYTES,
            system_id: 99,
            start_count: StartCount::new(0),
        };
        let end = LogEnd {
            lsn: end,
            reason: EndReason::Record(RecordError::Zero),
            at: end,
            file: String::new(),
            start_count: StartCount::new(1),
            durable_seen: first,
            durable_seen_at: first,
        };
        redo(store, from, &end, Pages::Repaired, &mut Unwatched)
    }

    #[test]
    fn a_log_that_is_shorter_than_it_was_found_stops_the_start() {
        let (store, first) = (startup(), segments::first_lsn(SEGMENT_BYTES));
        assert_eq!(redo_to(&store, first).expect("done").records, 0);
        let found = Lsn::new(first.get() + 400);
        let error = redo_to(&store, found).expect_err("nothing is there");
        let text = error.to_string();
        assert!(text.contains(&found.to_string()), "{text}");
        assert!(text.contains(&first.to_string()), "{text}");
    }
}
