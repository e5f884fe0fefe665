//! The handlers, by topic. Each is given the call, writes its reply, and says what becomes of the
//! connection; `dispatch.rs` hangs them on the command table.
//!
//! Invariant: a handler that fails has changed nothing. What it wrote of its reply is taken back.

pub mod admin;
pub mod advice;
pub mod bitfield;
pub mod bits;
pub mod clients;
pub mod config;
pub mod connection;
pub mod dump;
pub mod exchange;
pub mod expiry;
pub mod info;
pub mod keys;
pub mod namespaces;
pub mod object;
pub mod ranges;
pub mod replication;
pub mod scan;
pub mod several;
pub mod stat;
pub mod strings;
pub mod substrings;
pub mod transactions;

use crate::output::Output;
use crate::server::Server;
use crate::session::Session;
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_engine::{Committed, EngineError, Meta, NamespaceId, Program, Snapshot, Value, View};
use rd_wire::{Args, ReplyWriter};

/// One request on its way through a handler.
pub struct Call<'a> {
    /// What all connections share.
    pub server: &'a mut Server,
    /// The connection's settings.
    pub session: &'a mut Session,
    /// Where the reply goes.
    pub output: &'a mut Output,
    /// The command's name and arguments.
    pub args: Args<'a>,
    /// What the reply shows was written there; it is not sent before that is durable.
    pub wait: Lsn,
    /// No further piece of a reply is made while more than so many bytes are unsent.
    pub output_max: usize,
}

impl<'a> Call<'a> {
    /// The reply's writer.
    pub fn reply(&mut self) -> ReplyWriter<'_> {
        ReplyWriter::new(self.output.bytes(), self.session.proto)
    }

    /// The argument `index`; 0 is the command's name.
    pub fn arg(&self, index: usize) -> &'a [u8] {
        self.args.arg(index)
    }

    /// The namespace that the session uses.
    pub fn namespace(&self) -> NamespaceId {
        self.session.namespace
    }

    /// Takes a snapshot of what the session may see.
    ///
    /// # Errors
    /// When the process holds too many.
    pub fn snapshot(&self) -> Result<Snapshot, EngineError> {
        match self.server.view(self.session) {
            View::Newest => self.server.engine.snapshot_newest(),
            _ => self.server.engine.snapshot(),
        }
    }

    /// The reply shows what was written at `lsn`.
    pub fn depends_on(&mut self, lsn: Lsn) {
        self.wait = self.wait.max(lsn);
    }

    /// The reply shows what whatever is written by now may have made so: a number of keys, what there
    /// is of namespaces.
    pub fn depends_on_all(&mut self) {
        let written = self.server.store.shared.wal.insert_lsn();
        self.depends_on(written);
    }

    /// Counts whether a key that was looked for was there.
    pub fn count_lookup(&self, is_there: bool) {
        let counter = if is_there {
            Counter::KeyspaceHits
        } else {
            Counter::KeyspaceMisses
        };
        self.server.count(counter);
    }

    /// Shows what the session has set to `CLIENT LIST`.
    pub fn publish(&self) {
        if let Some(row) = self.session.row {
            self.server.publish(row, self.session);
        }
    }

    /// The reply shows what came of a commit.
    pub fn after<R>(&mut self, committed: Committed<R>) -> R {
        self.depends_on(committed.lsn.max(committed.depends_on));
        committed.result
    }

    /// Wall clock, in milliseconds since 1970, also within a transaction: from now on count the times
    /// that clients give. It stands still while EXEC runs.
    pub fn now_ms(&self) -> u64 {
        self.server.engine.clock_ms()
    }

    /// Runs `program` on `keys` of the session's namespace, as one commit; the reply shows what
    /// came of it.
    ///
    /// # Errors
    /// Nothing of it has happened then.
    pub fn write<R>(
        &mut self,
        keys: &[&[u8]],
        program: &mut Program<'_, R>,
    ) -> Result<R, EngineError> {
        let namespace = self.namespace();
        let committed = self.server.engine.write(namespace, keys, program)?;
        Ok(self.after(committed))
    }

    /// Reads a key; `answer` is called once, with its value or none. The reply shows it.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn read<R>(
        &mut self,
        key: &[u8],
        answer: impl FnOnce(Option<Value<'_>>) -> R,
    ) -> Result<R, EngineError> {
        let view = self.server.view(self.session);
        let namespace = self.namespace();
        let mut is_there = false;
        let read = self.server.engine.get(namespace, key, view, |value| {
            is_there = value.is_some();
            answer(value)
        })?;
        self.count_lookup(is_there);
        self.depends_on(read.depends_on);
        Ok(read.result)
    }

    /// What is known of a key beside its bytes; none if it is not there. The reply shows it.
    ///
    /// # Errors
    /// When a page cannot be read.
    pub fn meta(&mut self, key: &[u8]) -> Result<Option<Meta>, EngineError> {
        let view = self.server.view(self.session);
        let namespace = self.namespace();
        let read = self.server.engine.meta(namespace, key, view)?;
        self.count_lookup(read.result.is_some());
        self.depends_on(read.depends_on);
        Ok(read.result)
    }
}
