//! What is asked of single relation files as a whole: checkpoints of one namespace, and that its file
//! is closed or opened.
//!
//! They do not wait for the redo point, so they stand in a queue of their own, and are done one
//! after the other in the order in which they came:
//! - F1 who asks puts his request behind the others, under the latch of the checkpoints, wakes the
//!   checkpointer, and looks at [`CheckpointShared::file_state`] whenever he is woken;
//! - F2 the checkpointer looks at the oldest, carries it out, stores what came of it in its entry,
//!   and only then the number of the next one as the first that is not answered; and wakes all.
//!
//! Requests are numbered from 0, without gaps; request n lies in entry n modulo their number. What
//! became of one is known until its entry is used again. One that failed is not made again: who
//! asked is told, and may ask again.

use super::queue::RequesterWords;
use super::text::TextWords;
use super::{CheckpointShared, TicketState};
use crate::procs::Procs;
use rd_base::{FileNo, Role};
use rd_format::Access;
use rd_format::history::Requester;
use rd_sys::atomic::AtomicU64;
use rd_sys::atomic::Ordering::{Acquire, Relaxed, Release};
use zerocopy::{FromBytes, KnownLayout};

const _: () = assert!(ENTRIES as usize >= crate::namespaces::NAMESPACES_MAX);

/// Requests outstanding at once: startup can ask for each namespace that there may be.
const ENTRIES: u64 = 512;
/// Longest text of an error that is kept, in bytes.
const ERROR_BYTES_MAX: usize = 512;
/// In place of an error's length: it is done.
const DONE: u64 = u64::MAX;

/// One request. guard: the latch of the checkpoints.
#[repr(C)]
#[derive(FromBytes, KnownLayout)]
pub(super) struct Entry {
    number: AtomicU64,
    file: AtomicU64,
    /// 1 + [`Access`]; 0 leaves it as it is.
    access: AtomicU64,
    requester: RequesterWords,
    error: TextWords<{ ERROR_BYTES_MAX / 8 }>,
}

/// The queue.
#[repr(C, align(128))]
#[derive(FromBytes, KnownLayout)]
pub(super) struct FileQueue {
    /// Number of the oldest request that is not answered. atomic: Release by the checkpointer, under
    /// the latch; Acquire by all.
    first: AtomicU64,
    /// Number of the next request. guard: latch to change; atomic: read by the checkpointer.
    next: AtomicU64,
    entries: [Entry; ENTRIES as usize],
}

/// What is asked of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRequest {
    /// Which.
    pub file: FileNo,
    /// What it is to be closed for, or opened; none leaves it as it is.
    pub access: Option<Access>,
    /// Who asks.
    pub requester: Requester,
}

/// A request, to be held against what has been done since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileTicket {
    number: u64,
}

/// So many requests are outstanding that no further one is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ENTRIES} checkpoints of namespaces are outstanding, and no more can be: try again")]
pub struct TooManyFileRequests;

impl FileQueue {
    fn entry(&self, number: u64) -> &Entry {
        &self.entries[(number % ENTRIES) as usize]
    }
}

impl CheckpointShared {
    /// Asks for a checkpoint of one file and wakes the checkpointer (F1).
    ///
    /// # Errors
    /// When too many are outstanding.
    pub fn request_file(
        &self,
        procs: &Procs,
        request: &FileRequest,
    ) -> Result<FileTicket, TooManyFileRequests> {
        let queue = &self.files;
        let number = {
            let _latch = self.words.latch.lock();
            let number = queue.next.load(Relaxed);
            if number - queue.first.load(Relaxed) >= ENTRIES {
                return Err(TooManyFileRequests);
            }
            let entry = queue.entry(number);
            entry.number.store(number, Relaxed);
            entry.file.store(u64::from(request.file.get()), Relaxed);
            let access = request.access.map_or(0, |access| 1 + access.bits());
            entry.access.store(u64::from(access), Relaxed);
            entry.requester.write(&request.requester);
            queue.next.store(number + 1, Release);
            number
        };
        procs.notify(Role::Checkpointer);
        Ok(FileTicket { number })
    }

    /// What became of a request.
    pub fn file_state(&self, ticket: &FileTicket) -> TicketState {
        if self.files.first.load(Acquire) <= ticket.number {
            return TicketState::Pending;
        }
        let _latch = self.words.latch.lock();
        let entry = self.files.entry(ticket.number);
        if entry.number.load(Relaxed) != ticket.number {
            return TicketState::Failed("what became of it is not known any more".to_owned());
        }
        match entry.error.bytes.load(Relaxed) {
            DONE => TicketState::Done,
            _ => TicketState::Failed(entry.error.read()),
        }
    }

    /// How many requests are not answered.
    pub fn file_requests(&self) -> u64 {
        // In this order, so that there are never fewer than none.
        let first = self.files.first.load(Acquire);
        self.files.next.load(Acquire) - first
    }

    /// The oldest request that is not answered; for the checkpointer.
    pub fn next_file_request(&self) -> Option<FileRequest> {
        if self.file_requests() == 0 {
            return None;
        }
        let _latch = self.words.latch.lock();
        let entry = self.files.entry(self.files.first.load(Relaxed));
        let access = entry.access.load(Relaxed) as u32;
        Some(FileRequest {
            access: access.checked_sub(1).and_then(Access::from_bits),
            file: FileNo::new(entry.file.load(Relaxed) as u32),
            requester: entry.requester.read(),
        })
    }

    /// Says that the oldest request is done, or why it failed (F2); for the checkpointer.
    pub fn answer_file(&self, procs: &Procs, failure: Option<&str>) {
        {
            let _latch = self.words.latch.lock();
            let first = self.files.first.load(Relaxed);
            let error = &self.files.entry(first).error;
            match failure {
                None => error.bytes.store(DONE, Relaxed),
                Some(text) => error.write(text),
            }
            self.files.first.store(first + 1, Release);
        }
        procs.wake_parked();
    }
}
