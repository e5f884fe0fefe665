//! One commit out of several operations in several namespaces, which are known beforehand and can
//! be run again: what EXEC does, for a single command.

use super::transaction::Isolation;
use super::write::Committed;
use crate::api::{Engine, View};
use crate::error::{EngineError, Result};
use rd_base::Lsn;
use rd_base::counters::Counter;
use rd_store::namespaces::NamespaceId;
use std::sync::Arc;

/// It runs so often beside others before it keeps them out.
const RUNS_BESIDE_OTHERS: u32 = 3;

impl Engine {
    /// Runs `operations` until nobody has changed meanwhile what they have read, and commits what
    /// they write as one record; within a transaction they are part of that. They return, beside
    /// their result, what that depends on if nothing is written.
    ///
    /// # Errors
    /// Theirs, but for conflicts; nothing has happened then.
    pub fn write_across<R>(
        &mut self,
        operations: &mut dyn FnMut(&mut Engine) -> Result<(R, Lsn)>,
    ) -> Result<Committed<R>> {
        if self.current.is_some() {
            let (result, depends_on) = operations(self)?;
            return Ok(Committed {
                result,
                lsn: Lsn::ZERO,
                depends_on,
            });
        }
        let shared = Arc::clone(&self.store.shared);
        let mut alone: Vec<NamespaceId> = Vec::new();
        let mut runs = 0;
        loop {
            let held = shared.namespaces.hold_all(&alone);
            self.attach(Box::new(self.begin(
                Isolation::Exec,
                false,
                View::Newest,
            )?));
            let done = operations(self);
            let transaction = self.detach().expect("it was attached");
            let (result, depends_on) = done?;
            let committed = self.commit(&transaction, &alone);
            drop(held);
            let used = transaction.namespaces();
            match committed {
                Ok(committed) => {
                    let has_written = committed.lsn > Lsn::ZERO;
                    return Ok(Committed {
                        result,
                        lsn: committed.lsn,
                        depends_on: if has_written { Lsn::ZERO } else { depends_on },
                    });
                }
                Err(EngineError::Conflict { .. }) if used.iter().any(|id| !alone.contains(id)) => {
                    self.store.count(Counter::CommitRetries);
                    runs += 1;
                    if runs >= RUNS_BESIDE_OTHERS {
                        alone = used;
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }
}
