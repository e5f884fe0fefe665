//! The recipe of a logged change, as a type, so that its steps cannot be misordered.
//!
//! 1. Everything that can fail: pages latched, blocks found, the record built, credit taken.
//! 2. [`CriticalChange::begin`]: reads the insert position. From here on nothing may fail.
//! 3. [`CriticalChange::mark`] on every page that the record names (B3), then the pages may change.
//! 4. [`CriticalChange::insert`] reserves the LSN and copies the record into the log.
//! 5. What depends on the LSN is applied, and [`CriticalChange::stamp`] sets each page's LSN.
//! 6. [`CriticalChange::finish`].
//!
//! A change that is dropped before step 6 leaves pages that no record explains: the process aborts,
//! and the server recovers.

use crate::error::EngineError;
use rd_base::Lsn;
use rd_format::page;
use rd_format::wal_record::RecordBuilder;
use rd_store::Store;
use rd_store::buffer::PageWrite;
use rd_store::wal::{Credit, NoCredit, credit_for};
use rd_sys::crash::panic_abort;
use rd_sys::fault::{self, Fault};

/// Seals `record` and takes the credit that it needs.
///
/// # Errors
/// When there is none; nothing has happened then. Where the log cannot grow for want of disk space
/// there is no use in waiting.
pub(crate) fn credit_of(store: &Store, record: &mut RecordBuilder) -> crate::Result<Credit> {
    let wal = &store.shared.wal;
    let bytes = record.seal();
    wal.take_credit(credit_for(bytes))
        .map_err(|refused| no_credit(store, refused))
}

/// As [`credit_of`], for a record that drops a file: it must be possible when the disk is full.
///
/// # Errors
/// As there.
pub(crate) fn credit_of_drop(store: &Store, record: &mut RecordBuilder) -> crate::Result<Credit> {
    let wal = &store.shared.wal;
    let bytes = record.seal();
    wal.take_credit_for_drop(credit_for(bytes))
        .map_err(|refused| no_credit(store, refused))
}

fn no_credit(store: &Store, refused: NoCredit) -> EngineError {
    match store.shared.wal.segments_blocked() {
        Some(blocked) if refused == NoCredit::Segments => blocked.into(),
        _ => refused.into(),
    }
}

/// Passes a fault point at which nothing may fail any more: an error there is a PANIC.
#[inline]
pub(crate) fn pass(fault: Fault) {
    if let Err(error) = fault::point(fault) {
        panic_abort(&format!("at the fault point {}: {error}", fault.name()));
    }
}

/// A change that has begun and must be finished.
#[must_use = "a change that is dropped unfinished aborts the process"]
pub(crate) struct CriticalChange<'s> {
    store: &'s Store,
    rec_lsn: Lsn,
    /// End of the record, once it is inserted.
    end: Lsn,
}

impl<'s> CriticalChange<'s> {
    /// Begins; everything that can fail is done.
    #[inline]
    pub(crate) fn begin(store: &'s Store) -> CriticalChange<'s> {
        CriticalChange {
            store,
            rec_lsn: store.shared.wal.insert_lsn(),
            end: Lsn::ZERO,
        }
    }

    /// The page is about to change.
    #[inline]
    pub(crate) fn mark(&self, page: &PageWrite<'_>) {
        page.mark_dirty(self.rec_lsn);
    }

    /// Inserts the record. `before_release` runs when its end is known and before it counts as
    /// complete.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        record: &mut RecordBuilder,
        mut credit: Credit,
        before_release: impl FnOnce(Lsn),
    ) -> Lsn {
        let wal = &self.store.shared.wal;
        let inserted = wal.insert(self.store.slot, record, &mut credit, |inserted| {
            before_release(inserted.end);
        });
        self.end = inserted.end;
        self.end
    }

    /// The page is as the record says.
    #[inline]
    pub(crate) fn stamp(&self, page: &mut PageWrite<'_>) {
        debug_assert!(
            self.end > page::page_lsn(page),
            "records reach a page in order"
        );
        page::set_page_lsn(page, self.end);
    }

    /// All pages are as the record says.
    #[inline]
    pub(crate) fn finish(self) -> Lsn {
        let end = self.end;
        assert!(end > Lsn::ZERO, "a change without a record");
        std::mem::forget(self);
        end
    }
}

impl Drop for CriticalChange<'_> {
    fn drop(&mut self) {
        // Nothing is unwound in a server, but a process of a simulated one is that is killed.
        if !std::thread::panicking() {
            panic_abort("a logged change was left unfinished");
        }
    }
}
