//! Looking through a tree for keys whose time has come. Only the newest version of a key counts,
//! and values are not looked at.

use super::Tree;
use crate::error::Result;
use rd_base::Lsn;
use rd_format::{Bound, NodeRef};

/// What a sweep has found on some leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Keys that have ended, in order.
    pub ended: Vec<Vec<u8>>,
    /// When the soonest of the others ends, in milliseconds since 1970.
    pub soonest_ms: Option<u64>,
    /// Where it goes on; none at the end of the tree.
    pub next: Option<Vec<u8>>,
}

impl Tree<'_> {
    /// Looks through one leaf, from key `from` on.
    pub(crate) fn sweep_leaf(&self, from: &[u8], now_ms: u64, swept: &mut Swept) -> Result<()> {
        // The newest version of a key lies on the leaf that covers (key, MAX) (T5).
        let leaf = self.leaf_for_read(from, Lsn::MAX)?;
        let node = NodeRef::new(&leaf);
        let mut newest: Option<&[u8]> = None;
        for slot in node.lower_bound(from, Lsn::MAX)..node.count() {
            let entry = node.leaf_entry(slot);
            if newest == Some(entry.key) {
                continue;
            }
            newest = Some(entry.key);
            match entry.expiry_ms {
                Some(at) if !entry.is_tombstone() && at <= now_ms => {
                    swept.ended.push(entry.key.to_vec());
                }
                Some(at) if !entry.is_tombstone() => {
                    swept.soonest_ms = Some(swept.soonest_ms.map_or(at, |least| least.min(at)));
                }
                _ => {}
            }
        }
        swept.next = node.high_key().map(first_behind);
        Ok(())
    }

    /// Where a leaf ends on which `from` lies, as its parent says: for one that cannot be read. None at the end
    /// of the tree.
    pub(crate) fn end_of_leaf(&self, from: &[u8]) -> Result<Option<Vec<u8>>> {
        let Some(parent) = self.inner_for_read(from, Lsn::MAX, 1)? else {
            return Ok(None);
        };
        let node = NodeRef::new(&parent);
        let next = node.child_for(from, Lsn::MAX).0 + 1;
        let end = if next < node.count() {
            Some(node.inner_entry(next).0)
        } else {
            node.high_key()
        };
        Ok(end.map(first_behind))
    }
}

/// The first key of which the newest version lies behind `end`: if only older versions of that key do, it
/// was seen.
fn first_behind(end: Bound<'_>) -> Vec<u8> {
    let mut next = end.key.to_vec();
    if end.stamp != Lsn::MAX {
        next.push(0);
    }
    next
}
