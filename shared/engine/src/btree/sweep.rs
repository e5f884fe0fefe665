//! Looking through a tree for keys whose time has come. Only the newest version of a key counts,
//! and values are not looked at.

use super::Tree;
use crate::error::Result;
use rd_base::Lsn;
use rd_format::NodeRef;

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
        swept.next = node.high_key().map(|high| {
            let mut next = high.key.to_vec();
            // If only older versions of that key lie to the right, it has been seen.
            if high.stamp != Lsn::MAX {
                next.push(0);
            }
            next
        });
        Ok(())
    }
}
