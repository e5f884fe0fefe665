//! Commands that take more than one turn of the loop: the client's later commands wait behind
//! them, everybody else's go on.
//!
//! Those whose reply is made piece by piece, in a turn each, are *streams*. Each holds a snapshot.

use crate::commands::ranges::RangeStream;
use crate::commands::scan::{KeysWalk, RandomWalk};
use crate::commands::several::SeveralStream;
use rd_base::Lsn;
use rd_engine::NamespaceId;
use rd_store::checkpoint::{FileRequest, FileTicket, Ticket};
use rd_store::namespaces::{Access, AccessChange};
use rd_store::shared::Shared;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// How many streams a backend has under way.
#[derive(Clone, Default)]
pub struct Streams(Rc<Cell<usize>>);

/// Counts for one stream until it is dropped.
pub struct StreamCount {
    streams: Streams,
    /// Since when it holds its snapshot, by the monotonic clock.
    pub began_ns: u64,
}

impl Streams {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.get()
    }

    /// One more, at `now_ns`.
    pub fn begin(&self, now_ns: u64) -> StreamCount {
        self.0.set(self.0.get() + 1);
        StreamCount {
            streams: self.clone(),
            began_ns: now_ns,
        }
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        let streams = &self.streams.0;
        streams.set(streams.get() - 1);
    }
}

/// A command under way.
pub enum Waiting {
    /// For a checkpoint to be done.
    Checkpoint {
        /// Which.
        ticket: Ticket,
        /// What is replied when it is.
        reply: &'static str,
    },
    /// For the checkpoint of a single namespace, or its file to be closed or opened.
    Namespace(FileTicket, Option<Box<NewAccess>>),
    /// For the log to be durable up to an LSN, for WAITAOF; until this time by the monotonic clock,
    /// if there is one.
    Durable(Lsn, Option<u64>),
    /// For room in the output, to go on with a range.
    Range(Box<RangeStream>),
    /// For its turn, or for room in the output, to go on with KEYS.
    Keys(Box<KeysWalk>),
    /// For its turn, to go on with RANDOMKEY.
    Random(Box<RandomWalk>),
    /// For room in the output, to go on with a reply about several keys.
    Several(Box<SeveralStream>),
}

/// A change of a namespace's access under way.
pub struct NewAccess {
    /// Keeps others from changing it.
    pub _change: AccessChange,
    /// What is still to be said when the file is open; nothing if it was said before the file was
    /// closed.
    pub to_be_set: Option<(NamespaceId, Access)>,
    /// Has the file as it was.
    pub back: FileRequest,
    /// Shared memory.
    pub shared: Arc<Shared>,
}

impl Drop for NewAccess {
    fn drop(&mut self) {
        // It failed, or its client is gone: the namespace is closed still, so its file must be.
        if self.to_be_set.is_some() {
            let (checkpoint, procs) = (&self.shared.checkpoint, &self.shared.procs);
            if let Err(error) = checkpoint.request_file(procs, &self.back) {
                let file = self.back.file;
                log::warn!("relation file {file} stays open until the next start: {error}");
            }
        }
    }
}

impl Waiting {
    /// Whether it is a stream.
    pub fn is_stream(&self) -> bool {
        match self {
            Waiting::Checkpoint { .. } | Waiting::Namespace(..) | Waiting::Durable(..) => false,
            Waiting::Range(_) | Waiting::Keys(_) | Waiting::Random(_) | Waiting::Several(_) => true,
        }
    }

    /// Whether it goes on by itself, when `unsent` bytes of replies are unsent of at most
    /// `output_max`; else somebody's notice or the client's reading brings it on.
    pub fn is_ready(&self, unsent: usize, output_max: usize) -> bool {
        match self {
            Waiting::Checkpoint { .. } | Waiting::Namespace(..) | Waiting::Durable(..) => false,
            Waiting::Range(stream) if stream.is_counting() => true,
            Waiting::Keys(walk) if walk.is_counting() => true,
            Waiting::Random(_) => true,
            Waiting::Range(_) | Waiting::Keys(_) | Waiting::Several(_) => unsent <= output_max,
        }
    }

    /// Whether a part of its reply has been written.
    pub fn has_begun(&self) -> bool {
        match self {
            Waiting::Checkpoint { .. } | Waiting::Namespace(..) | Waiting::Durable(..) => false,
            Waiting::Random(_) => false,
            Waiting::Range(stream) => !stream.is_counting(),
            Waiting::Keys(walk) => !walk.is_counting(),
            Waiting::Several(stream) => stream.has_begun(),
        }
    }

    /// Heap bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        match self {
            Waiting::Checkpoint { .. } | Waiting::Namespace(..) | Waiting::Durable(..) => 0,
            Waiting::Random(_) => 0,
            Waiting::Range(stream) => stream.heap_bytes(),
            Waiting::Keys(walk) => walk.heap_bytes(),
            Waiting::Several(stream) => stream.heap_bytes(),
        }
    }
}
