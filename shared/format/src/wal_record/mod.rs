//! Records of the write-ahead log.
//!
//! ```text
//! | header | block reference, data | block reference, data | … | record data | padding |
//! 0        32
//! ```
//!
//! Invariants:
//! - **R1** A record starts at a usable position that 8 divides, and is padded with zeros to the
//!   next such position; `total_len` does not count the padding.
//! - **R2** The checksum is CRC-32C over everything behind the header, then the header with the
//!   checksum zero: the body's part is known before the record has a place in the log.
//! - **R3** A record says where it starts. The stale bytes of a recycled segment say otherwise.
//! - **R4** What a record does to a page is complete in that page's block: either an image of the
//!   whole page, or operations, or an image and operations on it. Blocks can be redone apart from
//!   each other. A page that occurs twice in a record is changed in that order.
//! - **R5** Versions carry no stamp in a commit: the stamp is the record's end LSN.

mod builder;
mod data;
mod op;
mod view;

pub use builder::RecordBuilder;
pub use data::{
    CheckpointData, CheckpointDataBytes, EndOfRecoveryData, EndOfRecoveryDataBytes, FileDelta,
    FileDeltaBytes, FileDeltas, FileNumberBytes, RecordData,
};
pub use op::{OpHeader, PageOp, Upsert};
pub use view::{BlockView, Blocks, Ops, PageImage, RecordHeader, RecordView};

use crate::layout::on_disk;
use crate::wal_page::RECORD_ALIGN;
use rd_base::Lsn;
use rd_base::limits::WAL_PAGE_BYTES;
use zerocopy::little_endian::{U16, U32, U64};

on_disk! {
    /// Header of every record of the write-ahead log.
    pub struct RecordHeaderBytes: 32 {
        /// Length of the record, header included, padding not.
        0 total_len: U32,
        /// CRC-32C over the body, then this header with this field zero.
        4 crc: U32,
        /// The LSN where the record starts.
        8 lsn: U64,
        /// How many times the server had been started for writing.
        16 start_count: U32,
        /// What the record is, see the list of kinds.
        20 kind: u8,
        /// Zero.
        21 flags: u8,
        /// Number of block references.
        22 block_count: U16,
        /// Wall clock when the record was made, microseconds since 1970.
        24 time_us: U64,
    }
}

on_disk! {
    /// Block reference: what one record does to one page. `data_len` bytes follow: the image of
    /// the page if flag 1, then operations.
    pub struct BlockRef: 16 {
        /// The relation file.
        0 file: U32,
        /// The block.
        4 block: U32,
        /// Bytes of image and operations that follow.
        8 data_len: U32,
        /// Bits: 1 an image of the whole page comes first; what is there is not looked at.
        12 flags: u8,
        /// Zero.
        13 reserved: [u8; 3],
    }
}

on_disk! {
    /// Start of a page image: the page's bytes up to the hole, then those from its end on. The
    /// hole is zeros.
    pub struct ImageHeader: 4 {
        /// Where the hole begins, from the start of the page.
        0 hole_start: U16,
        /// Where the hole ends.
        2 hole_end: U16,
    }
}

/// Flag of a block reference: an image of the whole page comes first.
pub const WHOLE_PAGE: u8 = 1;
/// Bytes of a record header.
pub const RECORD_HEADER_BYTES: usize = RecordHeaderBytes::BYTES;
/// No record is longer; a length above it is damage.
pub const RECORD_BYTES_MAX: usize = 256 << 20;
/// Most block references in a record.
pub const RECORD_BLOCKS_MAX: usize = u16::MAX as usize;

const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(RECORD_ALIGN));
const _: () = assert!(RECORD_HEADER_BYTES < WAL_PAGE_BYTES);

/// The length of a record with its padding.
#[inline]
pub const fn padded(total_len: usize) -> usize {
    total_len.next_multiple_of(RECORD_ALIGN)
}

macro_rules! record_kinds {
    ($( $(#[doc = $doc:literal])+ $name:ident = $number:literal, $word:literal; )+) => {
        /// What a record is. Numbers are append-only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum RecordKind {
            $( $(#[doc = $doc])+ $name = $number, )+
        }

        impl RecordKind {
            /// Every kind, by number.
            pub const ALL: &'static [RecordKind] = &[$(RecordKind::$name),+];

            /// The kind with this number, if there is one.
            pub fn from_number(number: u8) -> Option<Self> {
                match number {
                    $( $number => Some(Self::$name), )+
                    _ => None,
                }
            }
            /// The word for it, as `rd_waldump` prints it.
            pub fn name(self) -> &'static str {
                match self { $( Self::$name => $word, )+ }
            }
            /// What it means, one line per element.
            pub fn doc(self) -> &'static [&'static str] {
                match self { $( Self::$name => &[$($doc),+], )+ }
            }
        }
    };
}

record_kinds! {
    /// A transaction: new versions in leaves, overflow pages, bits; and by how many keys each file
    /// grew.
    Commit = 1, "commit";
    /// A page was cut in two: the right half whole, what to drop from the left; or, where a leaf is
    /// cut between two versions of a key, both halves whole.
    Split = 2, "split";
    /// A parent got the child that a split made; the split's mark goes from the left page.
    ParentInsert = 3, "parent_insert";
    /// The root was cut: its content went to two new children, whole, and it got a level more.
    RootSplit = 4, "root_split";
    /// Versions were dropped that do not go without a record: they own overflow pages, whose blocks
    /// were given back, or what they stand and fall with lies on another leaf.
    FreeVersions = 5, "free_versions";
    /// A checkpoint is complete. For people: start-up reads `pg_control` instead.
    Checkpoint = 7, "checkpoint";
    /// A relation file was made: its first pages, whole.
    FileCreate = 8, "file_create";
    /// A bitmap page was made for a further region of a relation file.
    NewBitmap = 9, "new_bitmap";
    /// An empty leaf was taken out of its tree, or its block given back.
    LeafGone = 10, "leaf_gone";
    /// Recovery is done; from here on records have a higher start count. No server writes it yet:
    /// the count says as much.
    EndOfRecovery = 11, "end_of_recovery";
    /// Nothing: takes place in the log. No server writes it.
    Noop = 12, "noop";
    /// A relation file is not needed any more. No server writes it yet: a file that the catalog does
    /// not name when redo is done was dropped by whatever took its name away.
    FileDrop = 13, "file_drop";
}

/// Why bytes are no record, or not one that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Nothing was ever written there.
    #[error("no record: the length is zero")]
    Zero,
    /// A length that no record has.
    #[error("record length {0} is not between {RECORD_HEADER_BYTES} and {RECORD_BYTES_MAX}")]
    Length(u32),
    /// Fewer bytes than the record has.
    #[error("only {have} bytes of a record of {need}")]
    Short {
        /// Bytes at hand.
        have: usize,
        /// Bytes of the record.
        need: usize,
    },
    /// The checksum fails.
    #[error("record checksum: stored {stored:08X}, computed {computed:08X}")]
    Checksum {
        /// In the header.
        stored: u32,
        /// Of what was read.
        computed: u32,
    },
    /// The record says that it starts elsewhere: old content of a recycled segment.
    #[error("the record says that it starts at {found}, not here")]
    Elsewhere {
        /// Where it says it starts.
        found: Lsn,
    },
    /// The checksum is right but the kind is none.
    #[error("record kind {0} is not known to this program")]
    Kind(u8),
    /// The checksum is right but the body contradicts itself.
    #[error("the record is damaged inside, although its checksum is right: {what} at byte {at}")]
    Body {
        /// What is wrong.
        what: &'static str,
        /// Where, from the start of the record.
        at: usize,
    },
}
