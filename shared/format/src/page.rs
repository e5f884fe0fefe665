//! The header that every page of a relation file begins with, its checksum, and what is checked
//! when a page comes from the disk.
//!
//! Invariants:
//! - The checksum is CRC-32C over the page with the checksum field zero, then the file number,
//!   then the block number: a page written to the wrong place fails it.
//! - A page of zeros is a page that was never written. It is told apart, never passed as valid.
//! - The checksum is right only on disk: pages in memory change without it, and
//!   [`seal`] is called on the copy that is written.

use crate::layout::on_disk;
use crate::node::NodeError;
use rd_base::limits::PAGE_BYTES;
use rd_base::{BlockNo, Lsn, PageTag};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{transmute_mut, transmute_ref};

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_BYTES];

/// The format of relation pages that this code writes.
pub const PAGE_FORMAT: u16 = 1;

on_disk! {
    /// Header of every page of a relation file.
    pub struct PageHeader: 40 {
        /// End LSN of the last record that changed the page.
        0 page_lsn: U64,
        /// CRC-32C over the page with this field zero, then file number and block number (u32).
        8 checksum: U32,
        /// What the page is: 0 never written, 1 meta, 2 bitmap, 3 leaf, 4 inner, 5 overflow,
        /// 6 free.
        12 kind: u8,
        /// Height above the leaves; 0 for a leaf and for pages outside the tree.
        13 level: u8,
        /// Bits: 1 the parent does not know the right sibling yet, 2 gone (taken out of the
        /// tree), 4 root.
        14 flags: U16,
        /// Block of the right sibling; 0 is none.
        16 right_link: U32,
        /// Number of slots.
        20 slot_count: U16,
        /// End of the slots, from the start of the page.
        22 lower: U16,
        /// Start of the cells, from the start of the page.
        24 upper: U16,
        /// Bytes of dead cells between `upper` and the end of the page.
        26 garbage: U16,
        /// Offset of the high-key cell; 0 is no upper bound.
        28 high_key: U16,
        /// Length of a prefix that all keys on the page share; slot heads begin after it.
        30 head_skip: U16,
        /// Format of this page; 1.
        32 format: U16,
        /// Zero.
        34 reserved: [u8; 6],
    }
}

/// The flag bits of a page header.
pub mod flags {
    /// The page was split and its parent has no entry for the right sibling yet.
    pub const SPLIT_INCOMPLETE: u16 = 1;
    /// The leaf was taken out of the tree; its right link is still good.
    pub const GONE: u16 = 2;
    /// The page is its tree's root.
    pub const ROOT: u16 = 4;
}

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageKind {
    /// Never written: all zeros.
    Zero = 0,
    /// Block 0 of a relation file.
    Meta = 1,
    /// Which blocks are in use.
    Bitmap = 2,
    /// A leaf of the tree.
    Leaf = 3,
    /// An inner page of the tree.
    Inner = 4,
    /// A piece of a large value.
    Overflow = 5,
    /// Given back; its content means nothing.
    Free = 6,
}

impl PageKind {
    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Zero,
            1 => Self::Meta,
            2 => Self::Bitmap,
            3 => Self::Leaf,
            4 => Self::Inner,
            5 => Self::Overflow,
            6 => Self::Free,
            _ => return None,
        })
    }

    /// The word for it in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Meta => "meta",
            Self::Bitmap => "bitmap",
            Self::Leaf => "leaf",
            Self::Inner => "inner",
            Self::Overflow => "overflow",
            Self::Free => "free",
        }
    }
}

/// Why a page cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// All zeros: the page was never written, or was lost.
    #[error("{tag} is all zeros: it was never written, or its content was lost")]
    ZeroPage {
        /// Which page.
        tag: PageTag,
    },
    /// The content is not what was written there.
    #[error(
        "{tag} fails its checksum: stored {stored:08X}, computed {computed:08X} \
         (page LSN field says {lsn})"
    )]
    Checksum {
        /// Which page was asked for.
        tag: PageTag,
        /// What the page says its LSN is.
        lsn: Lsn,
        /// The checksum in the header.
        stored: u32,
        /// The checksum of what was read.
        computed: u32,
    },
    /// The checksum is right but the format is not one that this program knows.
    #[error("{tag} has page format {format}, and this program knows {PAGE_FORMAT} (LSN {lsn})")]
    Format {
        /// Which page.
        tag: PageTag,
        /// Its LSN.
        lsn: Lsn,
        /// The format number found.
        format: u16,
    },
    /// The checksum is right but the kind is none, or not the one that belongs there.
    #[error("{tag} is of kind {found}, expected {expected} (LSN {lsn})")]
    Kind {
        /// Which page.
        tag: PageTag,
        /// Its LSN.
        lsn: Lsn,
        /// The kind number found.
        found: u8,
        /// What belongs there.
        expected: &'static str,
    },
    /// The checksum is right but the content contradicts itself.
    #[error("{tag} is damaged inside, although its checksum is right: {what} (LSN {lsn})")]
    Structure {
        /// Which page.
        tag: PageTag,
        /// Its LSN.
        lsn: Lsn,
        /// What contradicts what.
        what: NodeError,
    },
}

/// The header of a page.
#[inline]
pub fn header(page: &PageBytes) -> &PageHeader {
    let (first, _) = page
        .split_first_chunk::<{ PageHeader::BYTES }>()
        .expect("8192 > 40");
    transmute_ref!(first)
}

/// The header of a page, to be changed.
#[inline]
pub fn header_mut(page: &mut PageBytes) -> &mut PageHeader {
    let (first, _) = page
        .split_first_chunk_mut::<{ PageHeader::BYTES }>()
        .expect("8192 > 40");
    transmute_mut!(first)
}

/// Makes `page` an empty page of `kind` with everything else zero.
pub fn init(page: &mut PageBytes, kind: PageKind) {
    page.fill(0);
    let header = header_mut(page);
    header.kind = kind as u8;
    header.format.set(PAGE_FORMAT);
}

/// End LSN of the last record that changed the page.
#[inline]
pub fn page_lsn(page: &PageBytes) -> Lsn {
    Lsn::new(header(page).page_lsn.get())
}

/// Notes the end LSN of the record that changed the page.
#[inline]
pub fn set_page_lsn(page: &mut PageBytes, lsn: Lsn) {
    header_mut(page).page_lsn.set(lsn.get());
}

/// What the page is, `None` for a number that stands for nothing.
#[inline]
pub fn kind(page: &PageBytes) -> Option<PageKind> {
    PageKind::from_number(header(page).kind)
}

/// The flag bits, see [`flags`].
#[inline]
pub fn page_flags(page: &PageBytes) -> u16 {
    header(page).flags.get()
}

/// Whether every byte is zero.
pub fn is_zero(page: &PageBytes) -> bool {
    page.as_chunks::<64>()
        .0
        .iter()
        .all(|chunk| *chunk == [0; 64])
}

/// The right sibling; `None` if there is none.
#[inline]
pub fn right_link(page: &PageBytes) -> Option<BlockNo> {
    match header(page).right_link.get() {
        0 => None,
        block => Some(BlockNo::new(block)),
    }
}

/// The checksum that belongs on this page when it stands at `tag`.
pub fn checksum(page: &PageBytes, tag: PageTag) -> u32 {
    let mut place = [0; 8];
    place[..4].copy_from_slice(&tag.file.get().to_le_bytes());
    place[4..].copy_from_slice(&tag.block.get().to_le_bytes());
    let crc = crc32c::crc32c(&page[..8]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    let crc = crc32c::crc32c_append(crc, &page[12..]);
    crc32c::crc32c_append(crc, &place)
}

/// Writes the checksum into the page that is about to be written at `tag`.
pub fn seal(page: &mut PageBytes, tag: PageTag) {
    let sum = checksum(page, tag);
    header_mut(page).checksum.set(sum);
}

/// Checks what was read at `tag`: not zeros, checksum, format, known kind.
///
/// The inside is not looked at: see [`verify`].
pub fn check(page: &PageBytes, tag: PageTag) -> Result<(), PageError> {
    let header = header(page);
    let lsn = page_lsn(page);
    let stored = header.checksum.get();
    let computed = checksum(page, tag);
    if stored != computed {
        if is_zero(page) {
            return Err(PageError::ZeroPage { tag });
        }
        return Err(PageError::Checksum {
            tag,
            lsn,
            stored,
            computed,
        });
    }
    check_header(page, tag)
}

/// Checks format and kind.
fn check_header(page: &PageBytes, tag: PageTag) -> Result<(), PageError> {
    let header = header(page);
    let lsn = page_lsn(page);
    if header.format.get() != PAGE_FORMAT {
        return Err(PageError::Format {
            tag,
            lsn,
            format: header.format.get(),
        });
    }
    match kind(page) {
        Some(PageKind::Zero) | None => Err(PageError::Kind {
            tag,
            lsn,
            found: header.kind,
            expected: "one of 1 to 6",
        }),
        Some(_) => Ok(()),
    }
}

/// [`check`], then the structure of the inside by kind. After it, the accessors of the kind's
/// module can be relied on.
pub fn verify(page: &PageBytes, tag: PageTag) -> Result<(), PageError> {
    check(page, tag)?;
    verify_inside(page, tag)
}

/// [`verify`] for a page that comes without a checksum, out of a record of the log.
pub fn verify_image(page: &PageBytes, tag: PageTag) -> Result<(), PageError> {
    check_header(page, tag)?;
    verify_inside(page, tag)
}

fn verify_inside(page: &PageBytes, tag: PageTag) -> Result<(), PageError> {
    let inside = match kind(page) {
        Some(PageKind::Leaf | PageKind::Inner) => crate::node::NodeRef::new(page).verify(),
        Some(PageKind::Overflow) => crate::overflow::verify(page),
        Some(PageKind::Meta) => crate::meta::verify(page, tag),
        Some(PageKind::Bitmap) => crate::bitmap::verify(tag),
        Some(PageKind::Free | PageKind::Zero) | None => Ok(()),
    };
    inside.map_err(|what| PageError::Structure {
        tag,
        lsn: page_lsn(page),
        what,
    })
}
