//! What a snapshot sees of a key: the newest version stamped at or before it.

use rd_base::Lsn;
use rd_format::node::LeafEntry;
use rd_format::{NodeRef, OverflowStub, Payload};

/// What a leaf shows of a key at an LSN.
pub(crate) enum Seen<'a> {
    /// No version, or none that old.
    Nothing,
    /// The key was deleted, or its time has come; by the version with this stamp.
    Deleted(Lsn),
    /// A value in the leaf.
    Inline(&'a [u8], Meta),
    /// A value in overflow pages.
    Large(OverflowStub, Meta),
    /// The versions on this page are newer; older ones may lie on the right sibling.
    Beyond,
}

/// What is known of a value beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// End LSN of the record that wrote it.
    pub stamp: Lsn,
    /// Its length.
    pub bytes: usize,
    /// When it ends to be there, in milliseconds since 1970.
    pub expiry_ms: Option<u64>,
}

impl Meta {
    pub(crate) fn of(entry: &LeafEntry<'_>) -> Meta {
        Meta {
            stamp: entry.stamp,
            bytes: entry.payload.value_bytes() as usize,
            expiry_ms: entry.expiry_ms,
        }
    }
}

/// What the version in `entry` says now. The time, in milliseconds since 1970, is asked for only if
/// it matters.
#[inline]
pub(crate) fn seen<'a>(entry: &LeafEntry<'a>, now_ms: impl Fn() -> u64) -> Seen<'a> {
    if entry.expiry_ms.is_some_and(|expiry| expiry <= now_ms()) {
        return Seen::Deleted(entry.stamp);
    }
    match entry.payload {
        Payload::Tombstone => Seen::Deleted(entry.stamp),
        Payload::Inline(bytes) => Seen::Inline(bytes, Meta::of(entry)),
        Payload::Overflow(stub) => Seen::Large(stub, Meta::of(entry)),
    }
}

/// What `node`, a leaf that covers (key, at), shows of `key` to a snapshot at `at`.
#[inline]
pub(crate) fn visible<'a>(
    node: &NodeRef<'a>,
    key: &[u8],
    at: Lsn,
    now_ms: impl Fn() -> u64,
) -> Seen<'a> {
    let slot = node.lower_bound(key, at);
    if slot < node.count() {
        let entry = node.leaf_entry(slot);
        return if entry.key == key {
            seen(&entry, now_ms)
        } else {
            Seen::Nothing
        };
    }
    match node.high_key() {
        Some(high) if high.key == key && high.stamp != Lsn::MAX => Seen::Beyond,
        _ => Seen::Nothing,
    }
}
