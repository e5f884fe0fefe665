//! Deleting ranges of keys, key by key; and FLUSHDB and FLUSHALL inside a transaction.
//!
//! By itself a FLUSHDB only writes to the catalog. As part of a transaction, with reads and writes
//! before and behind it, it deletes the range of all keys that the transaction sees: so it takes as
//! long as there are keys, and what it may delete is bounded as for any transaction.

use super::access::Limits;
use super::transaction::{Transaction, Write};
use super::write::Committed;
use crate::api::{Engine, View};
use crate::btree::scan::Chunk;
use crate::error::Result;
use rd_base::Lsn;
use rd_store::namespaces::NamespaceId;

/// Keys looked at in one go.
const PIECE: Chunk = Chunk {
    entries: 512,
    bytes: 256 << 10,
};

/// The keys of a namespace from one to before another; `None`: to the last.
type KeyRange<'k> = (NamespaceId, &'k [u8], Option<&'k [u8]>);

impl Engine {
    /// Deletes every key of `namespaces` that the transaction which is attached sees.
    ///
    /// # Errors
    /// When these are more than a transaction can delete. Then it has deleted none.
    pub(crate) fn clear_in_transaction(&self, namespaces: &[NamespaceId]) -> Result<Committed<()>> {
        let all: Vec<KeyRange<'_>> = namespaces.iter().map(|id| (*id, &[][..], None)).collect();
        let deleted = self.delete_ranges(&all)?;
        Ok(Committed {
            result: (),
            lsn: deleted.lsn,
            depends_on: deleted.depends_on,
        })
    }

    /// Deletes the keys from `start` to before `end` (`None`: to the last) that the transaction
    /// which must be attached sees, and counts them as a walk shows them; beside them those whose
    /// time has come, which go for good and count for nothing.
    ///
    /// # Errors
    /// When these are more than a transaction can delete, or a page cannot be read. Then it has
    /// deleted none.
    pub fn delete_range(
        &self,
        namespace: NamespaceId,
        start: &[u8],
        end: Option<&[u8]>,
    ) -> Result<Committed<u64>> {
        self.delete_ranges(&[(namespace, start, end)])
    }

    fn delete_ranges(&self, ranges: &[KeyRange<'_>]) -> Result<Committed<u64>> {
        let limit = Limits::of(&self.store.config).transaction_bytes;
        let mut there: Vec<(NamespaceId, Vec<u8>)> = Vec::new();
        let (mut bytes, mut depends_on, mut result) = (0, Lsn::ZERO, 0);
        for (namespace, start, end) in ranges {
            let mut cursor = self.range(*namespace, start, *end, u64::MAX, View::Newest)?;
            cursor.visit_ended();
            // As in any walk: what the transaction has written, which has no stamp yet, ends by the clock,
            // what its snapshot shows by the time of that.
            let (own_ms, now_ms) = (self.clock_ms(), self.now_ms());
            loop {
                let more = self.range_next_keys(&mut cursor, PIECE, &mut |key, meta| {
                    let is_own = meta.stamp == Lsn::ZERO;
                    let at_ms = if is_own { own_ms } else { now_ms };
                    result += u64::from(meta.expiry_ms.is_none_or(|expiry| expiry > at_ms));
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
            result,
            lsn: Lsn::ZERO,
            depends_on,
        })
    }
}
