//! Where a leaf is cut that several new versions are about to enter.
//!
//! For one new version `rd_format::node::split_point` decides. A commit of many keys may bring more
//! to one leaf than a page holds; then the leaf is cut again and again, each time in the middle of
//! what both parts will hold, new versions included.

use rd_base::Lsn;
use rd_format::node::{Bound, Incoming, NODE_BYTES, NodeRef, Slot, SplitPlan, split_point};

/// A version that a commit is about to add.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'a> {
    /// Its key; no two arrivals have the same.
    pub(crate) key: &'a [u8],
    /// Bytes of its cell.
    pub(crate) cell_bytes: usize,
}

/// Bytes that `arrivals` will take on a page.
pub(crate) fn bytes_of<'a>(arrivals: impl Iterator<Item = Arrival<'a>>) -> usize {
    arrivals
        .map(|arrival| arrival.cell_bytes + Slot::BYTES)
        .sum()
}

/// What both parts will hold, in order: entries of the page, and arrivals among them.
enum Item<'a> {
    There(usize),
    New(Arrival<'a>),
}

/// Where to cut `node`, a leaf that has no room for `arrivals`, which ascend and belong on it.
///
/// A new version stays with the older ones of its key that are there, so that the newest one is
/// always where the next will go (T5). `None` if there is nothing to part.
pub(crate) fn plan<'a>(
    node: &NodeRef<'_>,
    arrivals: impl Iterator<Item = Arrival<'a>> + Clone,
) -> Option<SplitPlan> {
    let mut few = arrivals.clone();
    if let (Some(only), None) = (few.next(), few.next()) {
        let incoming = Incoming {
            key: only.key,
            stamp: Lsn::MAX,
            cell_bytes: only.cell_bytes,
        };
        let plan = split_point(node, Some(incoming));
        if plan
            .as_ref()
            .is_none_or(|plan| keeps_newest_together(node, &only, plan))
        {
            return plan;
        }
    }
    plan_many(node, arrivals)
}

/// Whether `plan` leaves the arrival with the newest version of its key that is there.
fn keeps_newest_together(node: &NodeRef<'_>, arrival: &Arrival<'_>, plan: &SplitPlan) -> bool {
    let newest = node.lower_bound(arrival.key, Lsn::MAX);
    let bound = plan.separator.as_bound();
    newest == node.count()
        || node.key_and_stamp(newest).0 != arrival.key
        || bound.is_above(arrival.key, Lsn::MAX) == (newest < plan.first_right)
}

fn plan_many<'a>(
    node: &NodeRef<'_>,
    arrivals: impl Iterator<Item = Arrival<'a>> + Clone,
) -> Option<SplitPlan> {
    let there = (0..node.count())
        .map(|slot| node.cell_bytes(slot) + Slot::BYTES)
        .sum::<usize>();
    let target = (there + bytes_of(arrivals.clone())) / 2;
    let mut best: Option<(usize, SplitPlan)> = None;
    let mut left_there = 0;
    let mut left: usize = 0;
    let mut before: Option<&[u8]> = None;
    for item in merged(node, arrivals) {
        let (key, stamp, slot) = match &item {
            Item::There(slot) => {
                let (key, stamp) = node.key_and_stamp(*slot);
                (key, stamp, Some(*slot))
            }
            Item::New(arrival) => (arrival.key, Lsn::MAX, None),
        };
        let separator = match before {
            None => None,
            // A new version and an older one of its key may not part; two old ones may.
            Some(last) if last == key => slot
                .filter(|slot| *slot > 0 && node.key_and_stamp(slot - 1).0 == key)
                .map(|_| Bound { key, stamp }),
            Some(last) => Some(shortest_between(last, key)),
        };
        if let Some(separator) = separator
            && left_there + separator.cell_bytes() <= NODE_BYTES
        {
            let apart = if separator.stamp == Lsn::MAX {
                0
            } else {
                NODE_BYTES / 4
            };
            let cost = left.abs_diff(target) + apart;
            if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                let first_right = slot.unwrap_or_else(|| node.lower_bound(key, Lsn::MAX));
                best = Some((
                    cost,
                    SplitPlan {
                        first_right,
                        separator: separator.to_owned(),
                    },
                ));
            }
        }
        let bytes = match &item {
            Item::There(slot) => node.cell_bytes(*slot),
            Item::New(arrival) => arrival.cell_bytes,
        };
        left += bytes + Slot::BYTES;
        left_there += if slot.is_some() {
            bytes + Slot::BYTES
        } else {
            0
        };
        before = Some(key);
    }
    best.map(|(_, plan)| plan)
}

/// Entries and arrivals in order; a new version comes before the older ones of its key.
fn merged<'a>(
    node: &NodeRef<'_>,
    arrivals: impl Iterator<Item = Arrival<'a>>,
) -> impl Iterator<Item = Item<'a>> {
    let node = *node;
    let mut arrivals = arrivals.peekable();
    let mut slot = 0;
    std::iter::from_fn(move || {
        let there = (slot < node.count()).then(|| node.key_and_stamp(slot).0);
        let new_first = match (arrivals.peek(), there) {
            (Some(new), Some(there)) => new.key <= there,
            (new, _) => new.is_some(),
        };
        if new_first {
            return arrivals.next().map(Item::New);
        }
        slot += 1;
        there.map(|_| Item::There(slot - 1))
    })
}

/// The bound with the shortest key that is above `left` and at or below `right`.
fn shortest_between<'r>(left: &[u8], right: &'r [u8]) -> Bound<'r> {
    let shared = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    Bound::before_key(right.get(..=shared).unwrap_or(right))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rd_base::limits::PAGE_BYTES;
    use rd_format::node::LeafEntry;
    use rd_format::{NodeMut, Payload};

    fn leaf(entries: &[(&[u8], u64, usize)]) -> [u8; PAGE_BYTES] {
        let mut page = [0; PAGE_BYTES];
        let mut node = NodeMut::init_leaf(&mut page);
        for (key, stamp, bytes) in entries {
            let value = vec![b'v'; *bytes];
            let entry = LeafEntry {
                key,
                stamp: Lsn::new(*stamp),
                expiry_ms: None,
                payload: Payload::Inline(&value),
            };
            node.insert_leaf(&entry).expect("there is room");
        }
        page
    }

    #[test]
    fn an_empty_leaf_is_cut_between_arrivals() {
        let page = leaf(&[]);
        let keys: Vec<Vec<u8>> = (0..1000)
            .map(|n| format!("key{n:04}").into_bytes())
            .collect();
        let arrivals = keys.iter().map(|key| Arrival {
            key,
            cell_bytes: 100,
        });
        let plan = plan(&NodeRef::new(&page), arrivals).expect("it can be cut");
        assert_eq!(plan.first_right, 0);
        assert_eq!(plan.separator.as_bound(), Bound::before_key(b"key05"));
    }

    #[test]
    fn a_new_version_never_parts_from_the_older_ones_of_its_key() {
        let page = leaf(&[
            (b"a", 9, 100),
            (b"k", 8, 1900),
            (b"k", 7, 1900),
            (b"k", 6, 1900),
        ]);
        let arrivals = [(&b"k"[..], 1900), (&b"l"[..], 1900)];
        let arrivals = arrivals.iter().map(|(key, bytes)| Arrival {
            key,
            cell_bytes: *bytes,
        });
        let plan = plan(&NodeRef::new(&page), arrivals).expect("it can be cut");
        let bound = plan.separator.as_bound();
        assert!(
            bound
                != Bound {
                    key: b"k",
                    stamp: Lsn::new(8)
                },
            "{bound:?}"
        );
        assert!(bound.is_above(b"k", Lsn::MAX) == bound.is_above(b"k", Lsn::new(8)));
    }
}
