//! Operations on one page, as records carry them.

use super::RecordError;
use crate::layout::on_disk;
use crate::node::{Bound, LeafEntry, OverflowStub, OverflowStubCell, Payload, cell_flags};
use rd_base::limits::{INLINE_BYTES_MAX, KEY_BYTES_MAX};
use rd_base::{BlockNo, Lsn};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, IntoBytes};

on_disk! {
    /// Start of an operation on a page. Then: a stamp (u64) if flag 8; an expiry (u64) if flag 4;
    /// the key; for an upsert the value, or an `OverflowStubCell` if flag 2.
    pub struct OpHeader: 8 {
        /// Which operation, see the list.
        0 op: u8,
        /// Bits: 1, 2, 4 as in a leaf cell; 8 a stamp follows.
        1 flags: u8,
        /// Length of the key.
        2 key_len: U16,
        /// The one number that the operation needs: length of the value, block, bit or flags.
        4 number: U32,
    }
}

const STAMPED: u8 = 8;

const UPSERT: u8 = 1;
const REMOVE_VERSION: u8 = 2;
const SPLIT_LEFT: u8 = 3;
const INSERT_CHILD: u8 = 4;
const REMOVE_CHILD: u8 = 5;
const SET_CHILD: u8 = 6;
const SET_RIGHT_LINK: u8 = 7;
const CHANGE_FLAGS: u8 = 8;
const SET_BIT: u8 = 9;
const CLEAR_BIT: u8 = 10;

/// A version to be added to a leaf, before its stamp is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upsert<'a> {
    /// The key.
    pub key: &'a [u8],
    /// When the value ends to be there, in milliseconds since 1970.
    pub expiry_ms: Option<u64>,
    /// The value, or that the key is deleted.
    pub payload: Payload<'a>,
}

impl<'a> Upsert<'a> {
    /// The version, stamped with the end LSN of the record that brings it.
    #[inline]
    pub fn stamped(&self, stamp: Lsn) -> LeafEntry<'a> {
        LeafEntry {
            key: self.key,
            stamp,
            expiry_ms: self.expiry_ms,
            payload: self.payload,
        }
    }
}

/// One operation on one page. Numbers are append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOp<'a> {
    /// 1, leaf: add a version, stamped with the record's end LSN.
    Upsert(Upsert<'a>),
    /// 2, leaf: drop the version of `key` stamped `stamp`, if it is there, and older ones of `key`
    /// that own no overflow pages: the page may have lost them before without a record.
    RemoveVersion {
        /// The key.
        key: &'a [u8],
        /// The stamp.
        stamp: Lsn,
    },
    /// 3, leaf or inner: the page is the left half of a split at `bound`: drop what is not below,
    /// set high key and right link, and the mark. Not for a leaf that is cut between two versions of
    /// a key: it is logged whole.
    SplitLeft {
        /// The new high key.
        bound: Bound<'a>,
        /// The new right sibling.
        right: BlockNo,
    },
    /// 4, inner: add a child.
    InsertChild {
        /// The child's lower bound.
        bound: Bound<'a>,
        /// The child.
        child: BlockNo,
    },
    /// 5, inner: drop the child with this lower bound, if it is there.
    RemoveChild {
        /// The child's lower bound.
        bound: Bound<'a>,
    },
    /// 6, inner: make the entry with this lower bound lead to another child. The bound before all
    /// keys (the empty key, without a stamp) is the page's first entry.
    SetChild {
        /// The entry's lower bound.
        bound: Bound<'a>,
        /// The child it leads to from now on.
        child: BlockNo,
    },
    /// 7: replace the right link.
    SetRightLink {
        /// The right sibling, if any.
        right: Option<BlockNo>,
    },
    /// 8: set and clear flag bits of the page header.
    ChangeFlags {
        /// Bits to set.
        set: u16,
        /// Bits to clear.
        clear: u16,
    },
    /// 9, bitmap: the block behind this bit is in use.
    SetBit(u32),
    /// 10, bitmap: the block behind this bit is free.
    ClearBit(u32),
}

impl<'a> PageOp<'a> {
    /// Bytes that the operation takes in a record.
    pub fn bytes(&self) -> usize {
        let rest = match self {
            PageOp::Upsert(upsert) => {
                let expiry = if upsert.expiry_ms.is_some() { 8 } else { 0 };
                expiry + upsert.key.len() + upsert.payload.cell_bytes()
            }
            PageOp::RemoveVersion { key, .. } => 8 + key.len(),
            PageOp::SplitLeft { bound, .. }
            | PageOp::InsertChild { bound, .. }
            | PageOp::RemoveChild { bound }
            | PageOp::SetChild { bound, .. } => bound.stamp_bytes() + bound.key.len(),
            PageOp::SetRightLink { .. }
            | PageOp::ChangeFlags { .. }
            | PageOp::SetBit(_)
            | PageOp::ClearBit(_) => 0,
        };
        OpHeader::BYTES + rest
    }

    /// Appends the operation to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            PageOp::Upsert(upsert) => encode_upsert(&upsert, out),
            PageOp::RemoveVersion { key, stamp } => {
                put_header(out, REMOVE_VERSION, STAMPED, key.len(), 0);
                out.extend_from_slice(&stamp.get().to_le_bytes());
                out.extend_from_slice(key);
            }
            PageOp::SplitLeft { bound, right } => put_bound(out, SPLIT_LEFT, bound, right.get()),
            PageOp::InsertChild { bound, child } => {
                put_bound(out, INSERT_CHILD, bound, child.get());
            }
            PageOp::RemoveChild { bound } => put_bound(out, REMOVE_CHILD, bound, 0),
            PageOp::SetChild { bound, child } => put_bound(out, SET_CHILD, bound, child.get()),
            PageOp::SetRightLink { right } => {
                put_header(out, SET_RIGHT_LINK, 0, 0, right.map_or(0, BlockNo::get));
            }
            PageOp::ChangeFlags { set, clear } => {
                let number = u32::from(set) | u32::from(clear) << 16;
                put_header(out, CHANGE_FLAGS, 0, 0, number);
            }
            PageOp::SetBit(bit) => put_header(out, SET_BIT, 0, 0, bit),
            PageOp::ClearBit(bit) => put_header(out, CLEAR_BIT, 0, 0, bit),
        }
    }

    /// The operation at the start of `bytes`, which begin at byte `at` of the record, and its
    /// length.
    pub(super) fn decode(bytes: &'a [u8], at: usize) -> Result<(Self, usize), RecordError> {
        let wrong = |what| RecordError::Body { what, at };
        let (header, mut rest) =
            OpHeader::read_from_prefix(bytes).map_err(|_| wrong("an operation is cut short"))?;
        let mut take = |count: usize| {
            let (taken, left) = rest
                .split_at_checked(count)
                .ok_or(wrong("an operation is cut short"))?;
            rest = left;
            Ok::<&'a [u8], RecordError>(taken)
        };
        let stamp = match header.flags & STAMPED {
            0 => None,
            _ => Some(Lsn::new(number(take(8)?))),
        };
        let expiry_ms = match header.flags & cell_flags::EXPIRES {
            0 => None,
            _ => Some(number(take(8)?)),
        };
        let key_len = usize::from(header.key_len.get());
        if key_len > KEY_BYTES_MAX {
            return Err(wrong("a key is too long"));
        }
        let key = take(key_len)?;
        let block = BlockNo::new(header.number.get());
        let bound = Bound {
            key,
            stamp: stamp.unwrap_or(Lsn::MAX),
        };
        let op = match header.op {
            UPSERT => {
                let value_bytes = header.number.get();
                let overflow_or_tombstone = cell_flags::TOMBSTONE | cell_flags::OVERFLOW;
                let payload = match header.flags & overflow_or_tombstone {
                    0 if key_len + value_bytes as usize > INLINE_BYTES_MAX => {
                        return Err(wrong("a version is too large for its leaf"));
                    }
                    0 => Payload::Inline(take(value_bytes as usize)?),
                    cell_flags::TOMBSTONE => Payload::Tombstone,
                    cell_flags::OVERFLOW => {
                        let stub = decode_stub(take(OverflowStubCell::BYTES)?, value_bytes);
                        if !stub.is_plausible() {
                            return Err(wrong("a large value has a length that no value has"));
                        }
                        Payload::Overflow(stub)
                    }
                    _ => return Err(wrong("a version is both deleted and large")),
                };
                PageOp::Upsert(Upsert {
                    key,
                    expiry_ms,
                    payload,
                })
            }
            REMOVE_VERSION => {
                let stamp = stamp.ok_or(wrong("a version to drop has no stamp"))?;
                PageOp::RemoveVersion { key, stamp }
            }
            SPLIT_LEFT => PageOp::SplitLeft {
                bound,
                right: block,
            },
            INSERT_CHILD => PageOp::InsertChild {
                bound,
                child: block,
            },
            REMOVE_CHILD => PageOp::RemoveChild { bound },
            SET_CHILD => PageOp::SetChild {
                bound,
                child: block,
            },
            SET_RIGHT_LINK => PageOp::SetRightLink {
                right: (block.get() != 0).then_some(block),
            },
            CHANGE_FLAGS => PageOp::ChangeFlags {
                set: header.number.get() as u16,
                clear: (header.number.get() >> 16) as u16,
            },
            SET_BIT => PageOp::SetBit(header.number.get()),
            CLEAR_BIT => PageOp::ClearBit(header.number.get()),
            _ => return Err(wrong("an operation is of no known kind")),
        };
        Ok((op, bytes.len() - rest.len()))
    }

    /// Number and meaning of every operation, for the documents.
    pub const LIST: &'static [(u8, &'static str)] = &[
        (
            UPSERT,
            "add a version; `number` is its value's length, the record's end LSN its stamp",
        ),
        (
            REMOVE_VERSION,
            "drop the version with this key and stamp, and older ones in the leaf",
        ),
        (
            SPLIT_LEFT,
            "left half of a split: the bound is the high key, block `number` to the right",
        ),
        (
            INSERT_CHILD,
            "add block `number` as the child from the bound on",
        ),
        (REMOVE_CHILD, "drop the entry with this bound"),
        (
            SET_CHILD,
            "make the entry with this bound lead to block `number`",
        ),
        (
            SET_RIGHT_LINK,
            "set the right link to block `number`, 0 is none",
        ),
        (
            CHANGE_FLAGS,
            "set the low 16 bits of `number` in the page's flags, clear the high ones",
        ),
        (SET_BIT, "bitmap: block of bit `number` is in use"),
        (CLEAR_BIT, "bitmap: block of bit `number` is free"),
    ];
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn decode_stub(bytes: &[u8], value_bytes: u32) -> OverflowStub {
    let cell = OverflowStubCell::read_from_bytes(bytes).unwrap_or(OverflowStubCell::zeroed());
    OverflowStub {
        first: BlockNo::new(cell.first.get()),
        pages: cell.pages.get(),
        value_bytes,
        crc: cell.crc.get(),
    }
}

fn put_header(out: &mut Vec<u8>, op: u8, flags: u8, key_len: usize, number: u32) {
    let header = OpHeader {
        op,
        flags,
        key_len: U16::new(key_len as u16),
        number: U32::new(number),
    };
    out.extend_from_slice(header.as_bytes());
}

fn put_bound(out: &mut Vec<u8>, op: u8, bound: Bound<'_>, number: u32) {
    let flags = if bound.stamp == Lsn::MAX { 0 } else { STAMPED };
    put_header(out, op, flags, bound.key.len(), number);
    if flags == STAMPED {
        out.extend_from_slice(&bound.stamp.get().to_le_bytes());
    }
    out.extend_from_slice(bound.key);
}

/// The hot one: reserves once, then copies.
#[inline]
pub(super) fn encode_upsert(upsert: &Upsert<'_>, out: &mut Vec<u8>) {
    let expires = if upsert.expiry_ms.is_some() {
        cell_flags::EXPIRES
    } else {
        0
    };
    out.reserve(OpHeader::BYTES + 8 + upsert.key.len() + upsert.payload.cell_bytes());
    let flags = upsert.payload.flags() | expires;
    put_header(
        out,
        UPSERT,
        flags,
        upsert.key.len(),
        upsert.payload.value_bytes(),
    );
    if let Some(expiry_ms) = upsert.expiry_ms {
        out.extend_from_slice(&expiry_ms.to_le_bytes());
    }
    out.extend_from_slice(upsert.key);
    match upsert.payload {
        Payload::Tombstone => {}
        Payload::Inline(value) => out.extend_from_slice(value),
        Payload::Overflow(stub) => {
            let cell = OverflowStubCell {
                first: U32::new(stub.first.get()),
                pages: U32::new(stub.pages),
                crc: U32::new(stub.crc),
            };
            out.extend_from_slice(cell.as_bytes());
        }
    }
}
