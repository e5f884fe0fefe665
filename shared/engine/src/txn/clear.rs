//! FLUSHDB and FLUSHALL between MULTI and EXEC.
//!
//! By itself a FLUSHDB only writes to the catalog. As part of a transaction, with reads and writes
//! before and behind it, it deletes key by key what the transaction sees: so it takes as long as
//! there are keys, and what it may delete is bounded as for any transaction.

use super::access::Limits;
use super::transaction::{Isolation, Transaction, Write};
use super::write::Committed;
use crate::api::{Engine, View};
use crate::btree::scan::Chunk;
use crate::error::{EngineError, Result};
use rd_base::Lsn;
use rd_store::namespaces::NamespaceId;

/// Keys looked at in one go.
const PIECE: Chunk = Chunk {
    entries: 512,
    bytes: 256 << 10,
};

impl Engine {
    /// Deletes every key of `namespaces` that the transaction which is attached sees.
    ///
    /// # Errors
    /// When these are more than a transaction can delete, or it is none of EXEC. Then it has
    /// deleted none.
    pub(crate) fn clear_in_transaction(&self, namespaces: &[NamespaceId]) -> Result<Committed<()>> {
        if self.transaction().isolation() != Isolation::Exec {
            return Err(EngineError::NotInTransaction("emptying a database"));
        }
        let limit = Limits::of(&self.store.config).transaction_bytes;
        let mut there: Vec<(NamespaceId, Vec<u8>)> = Vec::new();
        let (mut bytes, mut depends_on) = (0, Lsn::ZERO);
        for namespace in namespaces {
            let mut cursor = self.range(*namespace, &[], None, u64::MAX, View::Newest)?;
            loop {
                let more = self.range_next_keys(&mut cursor, PIECE, &mut |key, _| {
                    bytes += Transaction::cost_of(key, 0);
                    there.push((*namespace, key.to_vec()));
                })?;
                // At once, before there are too many of them to hold.
                self.transaction().check_writes(bytes, limit)?;
                if !more {
                    break;
                }
            }
            depends_on = depends_on.max(cursor.depends_on());
        }
        let mut transaction = self.transaction();
        for (namespace, key) in there {
            transaction.write(namespace, &key, Write::Delete);
        }
        Ok(Committed {
            result: (),
            lsn: Lsn::ZERO,
            depends_on,
        })
    }
}
