//! One commit out of several operations in several namespaces, which are known beforehand and can
//! be run again: EXEC, and single commands that do likewise.

use super::routed::is_held;
use super::transaction::Isolation;
use super::write::Committed;
use crate::api::{Engine, View};
use crate::error::{EngineError, GREATEST_RECORD, MAX_TRANSACTION_SIZE, ParkReason, Result};
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_store::Shared;
use rd_store::namespaces::{Alone, NamespaceId};
use std::sync::Arc;

/// Name of the savepoint that several operations go back to, within a transaction, if one fails. They
/// set none themselves, so it hides one of the client's for no longer than it is there.
const BEFORE_THEM: &[u8] = b"";
/// It runs so often beside others before it keeps them out.
const RUNS_BESIDE_OTHERS: u32 = 3;
/// After so many runs it does not run again though it has kept others out: each time a key has ended that it
/// had read and written.
const RUNS_MAX: u32 = 10;

/// How often operations have run, and in which namespaces nobody else can commit meanwhile: first
/// none; after a few runs those that the last one has used, so that operations come to their end.
#[derive(Debug, Default)]
pub struct Runs {
    done: u32,
    alone: Vec<NamespaceId>,
}

impl Runs {
    /// The namespaces that the next run is to hold alone, from before its snapshot to behind its
    /// commit.
    pub fn alone(&self) -> &[NamespaceId] {
        &self.alone
    }

    /// Holds them, for the next run.
    ///
    /// # Errors
    /// [`EngineError::Park`] while others hold one of them so: all is to be done anew then.
    pub fn hold<'a>(&self, shared: &'a Shared) -> Result<Alone<'a>> {
        let held = shared
            .namespaces
            .hold_for_operations(&shared.procs, &self.alone);
        held.ok_or(EngineError::Park(ParkReason::Namespace))
    }

    /// Whether the operations are to run again after `error`, which has ended a run that had used
    /// the namespaces `used`: others came in between, or what it took to keep them from that was
    /// too much.
    pub fn goes_on(&mut self, error: &EngineError, used: &[NamespaceId]) -> bool {
        let is_too_large = match error {
            EngineError::Conflict { .. } => false,
            // Who is alone pins less; what he reads and writes stays as large as it is.
            EngineError::TransactionTooLarge { parameter, .. }
                if ![MAX_TRANSACTION_SIZE, GREATEST_RECORD].contains(parameter) =>
            {
                true
            }
            _ => return false,
        };
        let was_alone = used.iter().all(|id| is_held(&self.alone, *id));
        self.done += 1;
        if was_alone && !self.alone.is_empty() {
            return !is_too_large && self.done < RUNS_MAX;
        }
        if self.done >= RUNS_BESIDE_OTHERS || is_too_large || !self.alone.is_empty() {
            self.alone.extend(used);
        }
        true
    }
}

impl Engine {
    /// Runs `operations` until nobody has changed meanwhile what they have read, and commits what
    /// they write as one record; within a transaction they are part of that. They return, beside
    /// their result, what that depends on if nothing is written.
    ///
    /// # Errors
    /// Theirs, but for conflicts; one only if they have run alone in the end, and each time a key ended
    /// that they had read and written. Nothing has happened then.
    pub fn write_across<R>(
        &mut self,
        operations: &mut dyn FnMut(&mut Engine) -> Result<(R, Lsn)>,
    ) -> Result<Committed<R>> {
        if self.current.is_some() {
            self.transaction().savepoint(BEFORE_THEM, usize::MAX)?;
            let done = operations(self);
            let mut transaction = self.transaction();
            if done.is_err() {
                transaction.rollback_to(BEFORE_THEM);
            }
            transaction.release(BEFORE_THEM);
            let (result, depends_on) = done?;
            return Ok(Committed {
                result,
                lsn: Lsn::ZERO,
                depends_on,
            });
        }
        let shared = Arc::clone(&self.store.shared);
        let mut runs = Runs::default();
        loop {
            let held = runs.hold(&shared)?;
            self.attach(Box::new(self.begin(
                Isolation::Exec,
                false,
                View::Newest,
            )?));
            let done = operations(self);
            let transaction = self.detach().expect("it was attached");
            let committed = done.and_then(|(result, depends_on)| {
                let lsn = self.commit(&transaction, runs.alone())?.lsn;
                Ok(Committed {
                    result,
                    lsn,
                    depends_on: if lsn > Lsn::ZERO {
                        Lsn::ZERO
                    } else {
                        depends_on
                    },
                })
            });
            drop(held);
            match committed {
                Err(error) if runs.goes_on(&error, &transaction.namespaces()) => {
                    self.store.count(Counter::CommitRetries);
                }
                ended => return ended,
            }
        }
    }
}
